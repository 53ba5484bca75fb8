"""Scenes of digits with captions, folders of images, and where the attention lies."""

import itertools
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from memnets.batches import BEGIN, END, PAD, UNKNOWN
from tasks import Captions
from tasks.captions import Named, caption_words, share_within
from tests.images import png, written

pytest.importorskip("sklearn")

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
PLACES = [
    ["at the top left", "at the top", "at the top right"],
    ["at the left", "in the middle", "at the right"],
    ["at the bottom left", "at the bottom", "at the bottom right"],
]


@pytest.fixture(scope="module")
def task() -> Captions:
    return Captions(batch_size=40, validation_batch_size=30, test_scenes=70)


@pytest.fixture(scope="module")
def drawings() -> list[tuple[int, np.ndarray]]:
    """Number of a drawing among those of its digit, and its pixels, for all of the package."""
    from sklearn.datasets import load_digits

    digits, seen, found = load_digits(), [0] * 10, []
    for image, digit in zip(digits.images, digits.target, strict=True):
        found.append((int(digit), seen[digit], np.round(image * 255 / 16)))
        seen[digit] += 1
    return found


def squares(image: np.ndarray) -> list[list[np.ndarray]]:
    """The nine parts of a scene."""
    side = len(image)
    edges = [0, side // 3, 2 * side // 3, side]
    return [
        [image[a:b, c:d] for c, d in itertools.pairwise(edges)]
        for a, b in itertools.pairwise(edges)
    ]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_caption_says_what_a_scene_shows(task, drawings, split) -> None:
    numbers = {"train": range(7), "val": [7], "test": [8, 9]}[split]
    there = {
        digit: [pixels for each, n, pixels in drawings if each == digit and n % 10 in numbers]
        for digit in range(10)
    }
    batch = task.batch(split, 1)
    counts = set()
    for row, scene in enumerate(task.named(split, 1)):
        image = batch.source[row, :, :, 0].numpy() * 255
        # The digit of each part, from its pixels alone.
        said, boxes = [], iter(scene)
        for line, parts in enumerate(squares(image)):
            for column, part in enumerate(parts):
                if part.any():
                    named = next(boxes)
                    box = image[named.top : named.top + 8, named.left : named.left + 8]
                    assert box.sum() == part.sum()  # nothing of the part is outside of the box
                    matching = [
                        digit
                        for digit, images in there.items()
                        if any(np.abs(box - each).max() < 0.01 for each in images)
                    ]
                    assert named.digit in matching
                    said.append(f"{DIGITS[named.digit]} {PLACES[line][column]}")
        assert next(boxes, None) is None
        counts.add(len(said))
        words = " , ".join(said).split()
        assert task.says(batch, batch.targets)[row] == " ".join(words)
        targets, inputs = batch.targets[row].tolist(), batch.inputs[row].tolist()
        tokens = [*task.words.encode(words), END]
        assert targets == tokens + [PAD] * (len(targets) - len(tokens))
        assert inputs[: len(tokens)] == [BEGIN, *tokens[:-1]]
        assert [words[each.step] for each in scene] == [DIGITS[each.digit] for each in scene]
    assert counts == {1, 2, 3, 4}


def test_the_training_may_leave_out_the_places(task) -> None:
    first = Captions(batch_size=40, validation_batch_size=30, training_places=False)
    batch, whole = first.batch("train", 1), task.batch("train", 1)
    assert torch.equal(batch.source, whole.source)
    said = first.says(batch, batch.targets)
    for text, other, scene in zip(
        said, task.says(whole, whole.targets), first.named("train", 1), strict=True
    ):
        assert text.split() == [word for word in other.split() if word in [*DIGITS, ","]]
        assert [text.split()[each.step] for each in scene] == [DIGITS[one.digit] for one in scene]
    # Validation stays comparable, and a curriculum may bring the places in.
    assert torch.equal(first.batch("val", 1).targets, task.batch("val", 1).targets)
    assert first.named("val", 1) == task.named("val", 1)
    first.training_digits = 1
    assert {len(scene) for scene in first.named("train", 1)} == {1}
    assert first.named("val", 1) == task.named("val", 1)
    first.training_places, first.training_digits = True, None
    assert torch.equal(first.batch("train", 1).targets, whole.targets)


def test_a_test_has_as_many_scenes_as_asked(task) -> None:
    sizes = [len(task.batch("test", index).source) for index in range(task.batches("test"))]
    assert sizes == [30, 30, 10]


def test_the_share_of_attention_within_the_named_digits() -> None:
    # Patches of 4 x 4 pixels. The first box overlaps rows 1 to 3 and columns 0 and 1.
    named = [[Named(0, 3, 5, 0), Named(2, 7, 16, 24)], [Named(1, 1, 0, 0)]]
    weights = torch.rand(2, 4, 64, generator=torch.Generator().manual_seed(0))
    weights = weights / weights.sum(-1, keepdim=True)
    shares = []
    for row, digits in enumerate(named):
        for digit in digits:
            share = 0.0
            for patch in range(64):
                top, left = patch // 8 * 4, patch % 8 * 4
                apart = (
                    top + 4 <= digit.top
                    or top >= digit.top + 8
                    or left + 4 <= digit.left
                    or left >= digit.left + 8
                )
                share += 0.0 if apart else float(weights[row, digit.step, patch])
            shares.append(share)
    assert share_within(weights, named, (8, 8), 32) == pytest.approx(np.mean(shares), rel=1e-6)
    with pytest.raises(ValueError, match="for 8 x 8 patches; got "):
        share_within(weights[..., 1:], named, (8, 8), 32)


def folder(path: Path, lines: list[str] | None, **images: bytes) -> Path:
    files = {f"{name}.png": content for name, content in images.items()}
    if lines is not None:
        files["captions.txt"] = "\n".join(lines).encode()
    return written(path, files)


def photos(path: Path, count: int = 20, ending: str = "") -> Path:
    """Images of one grey each, 4 x 2 pixels, each with two captions."""
    lines = [f"{n}.png\tA grey of {n}." for n in range(count)]
    lines += [f"{n}.png\tthe grey number {n}" for n in range(count)]
    return folder(
        path / ("photos" + ending), lines, **{str(n): png(10 * n, (4, 2)) for n in range(count)}
    )


@pytest.mark.parametrize("ending", ["", ".zip"])
def test_a_folder_is_read_and_split_by_its_names(tmp_path, caplog, ending) -> None:
    with caplog.at_level(logging.WARNING):
        task = Captions(
            str(photos(tmp_path, ending=ending)), side=4, batch_size=8, validation_batch_size=3
        )
        batches = {
            "val": [task.batch("val", 0)],
            "test": [task.batch("test", 0)],
            "train": [task.batch("train", index) for index in range(4)],
        }
    assert "images resized to 4 x 4 pixels: 20 of 20" in caplog.text
    seen: dict[str, list[str]] = {}
    for split, made in batches.items():
        for batch in made:
            assert batch.source.shape[1:] == (4, 4, 3)
            for image, text in zip(batch.source, task.says(batch, batch.targets), strict=True):
                grey = round(float(image[1, 0, 0]) * 25.5)
                assert torch.equal(image, torch.full((4, 4, 3), 10 * grey / 255))
                number = str(grey) if split == "train" else "\N{DOUBLE QUESTION MARK}"
                assert text in (f"a grey of {number} .", f"the grey number {number}")
                seen.setdefault(split, []).append(f"{grey} {text}")
    assert len(seen["val"]) == len(seen["test"]) == 2
    # A pass has each of the two captions of each of 16 images once.
    assert len(set(seen["train"])) == len(seen["train"]) == 32
    greys = [{text.split()[0] for text in texts} for texts in seen.values()]
    assert sum(map(len, greys)) == len(set.union(*greys)) == 20


def test_rare_words_are_unknown(tmp_path) -> None:
    words = Captions(str(photos(tmp_path)), side=4, least=16).words.words
    # Each is once in one of the two captions of each of 16 images; "grey" is in both.
    assert words == ["grey", ".", "a", "number", "of", "the"]


def test_an_answer_is_exact_if_it_is_any_caption_of_the_image(tmp_path) -> None:
    task = Captions(str(photos(tmp_path)), side=4, validation_batch_size=3)
    words = task.words
    (name, other), rows = (
        [row[0] for row in task.texts("test", [task.batch("test", 0).targets])],
        [],
    )
    assert name != other
    for text in ("the grey number unheard", "the grey of unheard"):
        rows.append([*words.encode(text.split()), END])
    assert task.measure("test", [torch.tensor(rows)]) == {"exact": 0.5}


def test_a_checkpoint_has_the_words_so_that_no_folder_is_needed(tmp_path) -> None:
    task = Captions(str(photos(tmp_path)), side=4)
    other = Captions(str(tmp_path / "gone"), side=4)
    other.load_state_dict(task.state_dict())
    assert other.output_size == task.output_size
    assert other.words.words == task.words.words
    path = tmp_path / "one.png"
    path.write_bytes(png(200, (9, 9)))
    picture = Image.open(path)
    asked = other.asked([str(path), path, picture, np.asarray(picture), np.zeros((3, 5, 3), "u1")])
    assert asked.source.shape == (5, 4, 4, 3)
    assert torch.equal(asked.source[:4], torch.full((4, 4, 4, 3), 200 / 255))
    assert not asked.source[4].any()


def test_a_folder_to_caption_is_all_its_images(tmp_path, task) -> None:
    path = written(
        tmp_path / "a",
        {"2.png": png(0), "1.PNG": png(1), ".3.png": png(2), "x.txt": b"", "10/4.png": png(3)},
    )
    items = task.items(str(path))
    assert items == items.places == [str(path / name) for name in ("1.PNG", "10/4.png", "2.png")]
    assert task.asked(task.items(str(path / "2.png"))).source.shape == (1, 32, 32, 1)
    with pytest.raises(ValueError, match=r"expected images in the folder .*; got none"):
        task.items(str(written(tmp_path / "b", {"x.txt": b""})))


@pytest.mark.parametrize("name", ["BMP", "JPEG", "PNG", "TIFF", "WEBP"])
def test_an_image_of_pillow_of_any_mode_is_read_as_its_file_is(tmp_path, task, name) -> None:
    whole = Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3))
    tried = 0
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16", "I", "F"):
        grey = mode in ("I;16", "I", "F")
        if (mode, name) == ("I", "PNG"):  # which Pillow is about to give up
            continue
        image = whole.convert("L" if grey else "RGB").convert(mode)
        path = tmp_path / f"{mode}.{name}".replace(";", "")
        try:
            image.save(path, name)
            with Image.open(path) as opened:
                opened.load()
                by_file, by_image = task.asked([str(path), opened]).source
        except (OSError, KeyError):  # not a mode of this format
            continue
        assert torch.allclose(by_file, by_image, atol=2 / 255), mode
        assert by_file.std() > 0
        tried += 1
    assert tried


def test_an_image_of_pillow_that_no_file_holds_is_read(task) -> None:
    whole = Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3))
    expected = task.asked([whole]).source[0]
    for mode in ("CMYK", "HSV", "LAB", "RGBX", "RGBa", "YCbCr"):
        (found,) = task.asked([_converted(whole, mode)]).source
        assert torch.allclose(found, expected, atol=0.05), mode
    with pytest.raises(ValueError, match=r"item 2: expected an image in a mode such as .* I;16N"):
        task.asked([whole, Image.new("I;16N", (3, 3))])
    for mode in ("PA", "La"):
        (found,) = task.asked([_converted(whole, mode)]).source
        assert found.std() > 0.1, mode


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """An image in another mode, by way of that with which Pillow makes it."""
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    between = {"RGBa": "RGBA", "La": "LA", "PA": "P"}.get(mode)
    return (image.convert(between) if between else image).convert(mode)


def test_words_of_a_caption() -> None:
    assert caption_words("It's a well-known Dog,  no?") == [
        "it's",
        "a",
        "well-known",
        "dog",
        ",",
        "no",
        "?",
    ]


GOOD = [f"{n}.png\ta cat" for n in range(3)]


@pytest.mark.parametrize(
    ("lines", "images", "message"),
    [
        (["0.png a cat"], "0", r"captions.txt, line 1: expected the name of an image, a tab and a "
         r"caption; got '0.png a cat'"),
        ([*GOOD, "0.png\t "], "012", "line 4: expected a caption of '0.png'; it is empty"),
        (GOOD, "01", "line 3: expected an image '2.png' in .*photos; there is none"),
        (GOOD, "01234", "expected a caption for '3.png' in .*captions.txt; there is none, nor for "
         "1 more"),
        (None, "0", "expected captions in a file .*photos/captions.txt; there is none"),
        ([*GOOD, "0.png\t" + "on " * 74], "012", "line 4: expected a caption of at most 73 words, "
         "as max_words says; got 74"),
        (GOOD[:2], "01", "at least 3 images with captions in .*photos, .*; got 2"),
    ],
)  # fmt: skip
def test_a_folder_that_is_wrong_is_told_in_one_line(tmp_path, lines, images, message) -> None:
    path = folder(tmp_path / "photos", lines, **{name: png(0) for name in images})
    with pytest.raises(ValueError, match=message) as error:
        _ = Captions(str(path)).output_size
    assert "\n" not in str(error.value)


def test_the_words_of_a_caption_have_a_limit(tmp_path) -> None:
    lines = [*GOOD, "0.png\t" + "on " * 73]
    path = folder(tmp_path / "photos", lines, **{name: png(0) for name in "012"})
    task = Captions(str(path))
    assert task.output_size > 4
    # As many as a model says by default, where each word of the answer is the likeliest.
    assert task.max_words == 2 * task.side + 9
    assert Captions(str(path), max_words=73).output_size == task.output_size
    with pytest.raises(ValueError, match="line 4: expected a caption of at most 72 words"):
        _ = Captions(str(path), max_words=72).output_size


def test_an_image_that_is_none_is_named(tmp_path, task) -> None:
    path = folder(tmp_path / "photos", GOOD, **{"0": png(0), "1": b"no image", "2": png(0)})
    with pytest.raises(ValueError, match=r"photos/1.png: expected an image; it cannot be read"):
        _ = Captions(str(path)).output_size
    with pytest.raises(ValueError, match=r"item 8: .*1.png: expected an image; it cannot be read"):
        task.asked([str(path / "0.png"), str(path / "1.png")], first=7)
    (path / "3.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"3.png: expected an image; the file is empty"):
        task.asked([str(path / "3.png")])
    with pytest.raises(
        ValueError, match=r"item 1: gone.png: expected an image; there is no such file"
    ):
        task.asked(["gone.png"])
    with pytest.raises(
        ValueError, match=r"item 1: expected the path .* got an array \[2\] of int64"
    ):
        task.asked([np.arange(2)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_digits": 10}, "max_digits must be at most 9, the places of a scene; got 10"),
        ({"min_digits": 3, "max_digits": 2}, "1 <= min_digits <= max_digits; got 3 and 2"),
        ({"training_digits": 5}, "from min_digits = 1 to max_digits = 4; got 5"),
        ({"side": 23}, "side must be at least 24, three digits of 8 pixels; got 23"),
        ({"folder": "gone"}, "expected a folder or a zip file at gone; there is none"),
        ({"max_words": 0}, "max_words must be a whole number of at least 1; got 0"),
        ({"test_scenes": 10**8}, "test_scenes must be at most 10,000,000; got 100,000,000"),
    ],
)
def test_settings_out_of_range_are_named(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        _ = Captions(**settings).output_size


def test_each_token_of_an_answer_has_a_word() -> None:
    """A picture has a panel for each: marks that a model answers with are none too few."""
    task = Captions()
    batch = task.batch("test", 0)
    word = task.words.encode(["three"])[0]
    for tokens, names in (
        ([BEGIN, PAD, word, END, word], ["begin", "pad", "three", "end"]),
        ([PAD, PAD], ["pad", "pad"]),
        ([UNKNOWN, word], ["unknown", "three"]),
    ):
        answer = torch.tensor([tokens] * len(batch.targets))
        assert task.labels(batch._replace(targets=answer, target_mask=None), 0) == ([], names)
