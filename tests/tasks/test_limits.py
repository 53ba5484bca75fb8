"""Bounds: what is too large for memory is refused in one line, and so is what never ends."""

import gzip
import zipfile
from pathlib import Path

import pytest

from tasks import (
    AssociativeRecall,
    Bandits,
    ConvexHull,
    Copying,
    CopyingTokens,
    Delaunay,
    DynamicNGrams,
    FewShot,
    PrioritySort,
    RepeatCopying,
    Sinusoids,
    SortingNumbers,
    SortingTokens,
    Translation,
    TravellingSalesman,
)
from tasks.limits import USUAL, check_room, limit, read_file
from tests.images import png

HUGE = 10**12

ABSURD = [
    *((Copying, {name: HUGE}) for name in ("width", "max_length", "batch_size")),
    *((Copying, {name: HUGE}) for name in ("validation_batch_size", "validation_batches")),
    (Copying, {"test_sets": [(HUGE, 1)]}),
    (Copying, {"test_sets": [(1, HUGE)]}),
    (Copying, {"epoch_batches": HUGE}),
    (Copying, {"workers": HUGE}),
    (Copying, {"seed": 2**64}),
    *((RepeatCopying, {name: HUGE}) for name in ("width", "max_length", "max_repeats")),
    (RepeatCopying, {"test_sets": [(1, HUGE, 1)]}),
    *((AssociativeRecall, {name: HUGE}) for name in ("width", "item_length", "max_items")),
    (AssociativeRecall, {"test_sets": [(2, HUGE)]}),
    *((PrioritySort, {name: HUGE}) for name in ("width", "length", "test_sequences")),
    *((DynamicNGrams, {name: HUGE}) for name in ("length", "test_sequences")),
    *((CopyingTokens, {name: HUGE}) for name in ("symbols", "max_length", "test_sequences")),
    (SortingTokens, {"test_sets": [(HUGE, 1)]}),
    *((Sinusoids, {name: HUGE}) for name in ("queries", "test_queries", "test_episodes")),
    (Sinusoids, {"shots": [HUGE]}),
    *((Bandits, {name: HUGE}) for name in ("arms", "test_episodes")),
    *((FewShot, {name: HUGE}) for name in ("ways", "queries", "side", "variants", "batch_size")),
    *((FewShot, {name: HUGE}) for name in ("validation_batch_size", "test_episodes")),
    (FewShot, {"shots": [HUGE]}),
    (FewShot, {"training": [(HUGE, 1)]}),
    *((SortingNumbers, {name: HUGE}) for name in ("max_points", "test_sequences")),
    *((ConvexHull, {name: HUGE}) for name in ("max_points", "batch_points")),
    (Delaunay, {"test_sets": [(HUGE, 1)]}),
    (TravellingSalesman, {"test_sets": [(20_000, 1)]}),
    (Translation, {"sizes": (HUGE, 1, 1)}),
    (Translation, {"vocabulary_size": HUGE}),
    (Translation, {"vocabulary_size": (100, HUGE)}),
]


@pytest.mark.parametrize(("make", "settings"), ABSURD)
def test_absurd_settings_are_refused_before_anything_is_made(make, settings) -> None:
    with pytest.raises(ValueError, match=r"at most|must be .* below") as caught:
        make(**settings)
    assert "\n" not in str(caught.value)


def test_the_message_says_the_bound_and_what_raises_it(monkeypatch) -> None:
    with pytest.raises(
        ValueError, match=rf"at most {USUAL:,} .* set MEMNETS_LIMIT=18014398643699712"
    ):
        check_room("a thing", 2**27 + 1, 2**27)
    monkeypatch.setenv("MEMNETS_LIMIT", "100")
    check_room("a thing", 10, 10)
    with pytest.raises(ValueError, match=r"a thing would have 101 numbers \(101\), .*at most 100"):
        check_room("a thing", 101)
    with pytest.raises(ValueError, match="a training batch would have"):
        Copying()
    monkeypatch.setenv("MEMNETS_LIMIT", "18014398643699712")
    check_room("a thing", 2**27 + 1, 2**27)


@pytest.mark.parametrize("text", ["0", "-1", "1e9", "many", "²", "9" * 30])
def test_a_bound_that_is_none_is_named(monkeypatch, text: str) -> None:
    monkeypatch.setenv("MEMNETS_LIMIT", text)
    with pytest.raises(ValueError, match="MEMNETS_LIMIT must be a whole number of at least 1"):
        limit()


# Bombs: what is small on disk, and large unpacked.


@pytest.fixture
def bound(monkeypatch) -> int:
    monkeypatch.setenv("MEMNETS_LIMIT", "100000")
    return 100_000


@pytest.mark.parametrize("name", ["a.txt", "a.gz"])
def test_a_file_is_read_up_to_the_bound(tmp_path, bound, name: str) -> None:
    path = tmp_path / name
    for size, fits in ((bound, True), (bound + 1, False)):
        content = bytes(size)
        path.write_bytes(gzip.compress(content) if name == "a.gz" else content)
        if fits:
            assert read_file(str(path)) == content
            continue
        with pytest.raises(ValueError, match=r"a\.\w+: expected at most 100,000 bytes.*MEMNETS_L"):
            read_file(str(path))


@pytest.mark.parametrize("settings", [{"source": "files"}, {"source": "gettext"}])
def test_a_packed_text_is_no_bomb(tmp_path, bound, settings) -> None:
    path = tmp_path / "a.po.gz"
    path.write_bytes(gzip.compress(b"a\tb\n" * 10**6))
    with pytest.raises(ValueError, match="expected at most 100,000 bytes"):
        Translation(train=[str(path)], **settings).pairs("train")


def packed(path: Path, files: dict[str, bytes], method: int) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


METHODS = [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


@pytest.mark.parametrize("method", METHODS)
def test_an_image_in_a_zip_file_is_no_bomb(tmp_path, bound, method: int) -> None:
    path = packed(tmp_path / "a.zip", {"a/0.png": bytes(10**7)}, method)
    with pytest.raises(
        ValueError, match=r"a/0\.png: expected at most 100,000 bytes; got 10,000,000"
    ):
        FewShot([str(path)])


@pytest.mark.parametrize("method", METHODS)
def test_a_member_that_lies_about_its_size_is_no_bomb(tmp_path, bound, method: int) -> None:
    path = packed(tmp_path / "a.zip", {"a/0.png": bytes(10**7)}, method)
    content = path.read_bytes().replace((10**7).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected"):
        FewShot([str(path)])


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_lies_beside_the_images_is_not_read(tmp_path, bound, kind: str) -> None:
    files = {f"{c}/{i}.png": png(10 * c + i) for c in range(4) for i in range(3)}
    files |= {"readme.txt": bytes(10**7), "0/notes": bytes(10**7)}
    path = tmp_path / "a.zip" if kind == "zip" else tmp_path / "a"
    if kind == "zip":
        packed(path, files, zipfile.ZIP_DEFLATED)
    else:
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    settings = {"ways": 2, "shots": [1], "batch_size": 2, "validation_batch_size": 2}
    assert FewShot([str(path)], **settings).side == 4


def test_images_of_many_pixels_are_refused_one_by_one_and_together(tmp_path, monkeypatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(png(1, (200, 200)))
    monkeypatch.setenv("MEMNETS_LIMIT", "100000")
    with pytest.raises(ValueError, match=r"0\.png: expected an image of at most 12,500 pixels"):
        FewShot([str(tmp_path)])
    for number in range(9):
        (tmp_path / "a" / f"{number}.png").write_bytes(png(number, (110, 110)))
    with pytest.raises(ValueError, match=r"8\.png: expected images of at most 100,000 pixels"):
        FewShot([str(tmp_path)])


def test_variants_are_counted_with_the_images(monkeypatch) -> None:
    with pytest.raises(
        ValueError, match=r"the images of train with their variants .* \(901 x 4 x "
    ):
        FewShot(variants=10_000, rotations=True)
