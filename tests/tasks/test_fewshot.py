"""Learning from few examples: episodes against an oracle, files as they come, bad input."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from memnets.batches import Batch
from tasks import FewShot, OnlineFewShot, Sinusoids
from tasks.fewshot.files import read_classes, read_digits, read_runs
from tasks.fewshot.images import _moved
from tests.images import png, runs, written

OMNIGLOT = Path(__file__).parents[3] / "shared" / "data" / "omniglot"
seeds = st.integers(0, 2**31)
indices = st.integers(0, 10_000)


def alphabets(classes: int = 3, images: int = 4) -> dict[str, bytes]:
    """Two alphabets; each image is of one grey, ten times its class and its own number on top."""
    return {
        f"{alphabet}/character{c}/{i}.png": png(10 * (first + c) + i)
        for alphabet, first in (("Greek", 0), ("Latin", classes))
        for c in range(classes)
        for i in range(images)
    }


def small(path: Path, **settings: Any) -> FewShot:
    defaults = {"paths": [str(path)], "ways": 3, "shots": [1, 2], "held_out": ["Latin"]}
    return FewShot(**{**defaults, **settings})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("classes") / "classes", alphabets())


def grey(vector: torch.Tensor, labels: int) -> int:
    """The one grey of an image."""
    pixels = vector[:-labels] * 255
    assert (pixels == pixels[0]).all()
    return round(pixels[0].item())


def assert_an_episode(batch: Batch, row: int, task: FewShot, ways: int, shots: int) -> set[int]:
    """Every class has its label and its images, each once; gives the classes."""
    labels, queries = task.output_size, task.queries
    shown: dict[int, set[int]] = {}
    named: dict[int, int] = {}
    for vector in batch.source[row]:
        number, one_hot = grey(vector, labels), vector[-labels:]
        assert sorted(one_hot.tolist()) == [0.0] * (labels - 1) + [1.0]
        assert named.setdefault(number // 10, int(one_hot.argmax())) == int(one_hot.argmax())
        shown.setdefault(number // 10, set()).add(number)
    assert len(set(named.values())) == len(named) == ways
    assert {len(numbers) for numbers in shown.values()} == {shots}
    asked: dict[int, set[int]] = {}
    for vector, target in zip(batch.inputs[row], batch.targets[row].tolist(), strict=True):
        number = grey(vector, labels)
        assert not vector[-labels:].any()
        assert named[number // 10] == target
        assert number not in shown[number // 10]
        asked.setdefault(number // 10, set()).add(number)
    assert {len(numbers) for numbers in asked.values()} == {queries}
    return set(named)


@given(
    seed=seeds,
    index=indices,
    split=st.sampled_from(["train", "val", "shot_1", "shot_2"]),
    queries=st.integers(1, 2),
)
def test_an_episode_is_as_it_should_be(folder, seed, index, split, queries) -> None:
    task = small(
        folder, training=[(2, 1)], queries=queries, batch_size=3, validation_batch_size=4,
        test_episodes=4, seed=seed,
    )  # fmt: skip
    index = 0 if split.startswith("shot") else index
    batch = task.batch(split, index)
    assert len(batch.source) == (3 if split == "train" else 4)
    assert batch.source.shape[-1] == batch.inputs.shape[-1] == task.input_size == 16 + 3
    ways, shots = {
        "train": (2, 1), "val": (3, 1 + index % 2), "shot_1": (3, 1), "shot_2": (3, 2)
    }[split]  # fmt: skip
    for row in range(len(batch.source)):
        classes = assert_an_episode(batch, row, task, ways, shots)
        assert classes <= ({3, 4, 5} if split.startswith("shot") else {0, 1, 2})


def test_every_class_image_and_label_comes(folder) -> None:
    task = small(folder, shots=[2], batch_size=200)
    batch = task.batch("train", 0)
    greys = {grey(vector, 3) for row in batch.source for vector in row}
    assert greys == {10 * c + i for c in range(3) for i in range(4)}
    assert set(batch.targets.flatten().tolist()) == {0, 1, 2}
    first = {tuple(row[:, -3:].argmax(-1).tolist()) for row in batch.source}
    assert len(first) > 10, "the examples come in one order"


def test_a_batch_is_a_pure_function_of_seed_split_and_index(folder) -> None:
    def content(seed: int, split: str, index: int) -> bytes:
        return small(folder, seed=seed).batch(split, index).source.numpy().tobytes()

    assert content(1, "train", 6) == content(1, "train", 6)
    different = {
        content(*a) for a in [(1, "train", 6), (2, "train", 6), (1, "val", 6), (1, "train", 7)]
    }
    assert len(different) == 4


def test_test_sets_are_cut_into_batches(folder) -> None:
    task = small(folder, test_episodes=10, validation_batch_size=4)
    assert task.test_names() == ["shot_1", "shot_2"]
    assert [len(loader) for loader in task.test_dataloader()] == [3, 3]
    assert [len(task.batch("shot_1", index).source) for index in range(3)] == [4, 4, 2]


def test_a_zip_file_is_a_folder(tmp_path, folder) -> None:
    hidden = {"__MACOSX/Greek/._0.png": b"", "Greek/.DS_Store": b"", "Greek/notes.txt": b""}
    packed = written(tmp_path / "classes.zip", {**alphabets(), **hidden})
    ours, theirs = (read_classes([str(path)])[0] for path in (folder, packed))
    for one, other in zip(ours, theirs, strict=True):
        assert one.folders[1:] == other.folders[1:]
        assert np.array_equal(one.images, other.images)
    task = small(Path("classes.zip"), folder=str(tmp_path))
    assert torch.equal(task.batch("train", 0).source, small(folder).batch("train", 0).source)


def test_images_that_came_before_are_left_out(tmp_path) -> None:
    files = alphabets()
    one = written(tmp_path / "one.zip", files)
    again = {name.replace("Greek", "Ελληνικά"): file for name, file in files.items()}
    two = written(tmp_path / "two.zip", {**again, "new/class/0.png": png(200)})
    classes, duplicates = read_classes([str(one), str(two)])
    assert duplicates == len(files)
    assert [(len(each.images), each.folders[-1]) for each in classes] == [
        *[(4, f"character{c}") for c in range(3)] * 2,
        (1, "class"),
    ]
    assert small(one, paths=[str(one), str(one)]).duplicates == len(files)


def test_validation_has_classes_of_its_own_if_they_are_named(folder) -> None:
    task = small(folder, ways=2, held_out=["character0"], validation=["Greek"], batch_size=40)
    for split, expected in (("train", {4, 5}), ("val", {1, 2}), ("shot_1", {0, 3})):
        batch = task.batch(split, 0)
        classes = [assert_an_episode(batch, row, task, 2, batch.source.shape[1] // 2)
                   for row in range(len(batch.source))]  # fmt: skip
        assert set().union(*classes) == expected


def test_the_last_classes_are_held_out_if_none_is_named(folder) -> None:
    task = small(folder, ways=2, held_out=None)
    assert assert_an_episode(task.batch("shot_1", 0), 0, task, 2, 1) == {4, 5}


def test_rotations_are_classes_of_training(tmp_path) -> None:
    pixels = np.zeros((4, 4), np.uint8)
    pixels[0, 1] = 255
    files = alphabets()
    for i in range(4):
        pixels[3, 3] = i
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        files[f"Greek/character0/{i}.png"] = file.getvalue()
    path = written(tmp_path / "classes", files)
    task = small(path, rotations=True, training=[(12, 1)], batch_size=1)
    source = task.batch("train", 0).source[0]
    assert source.shape == (12, 16 + 12)
    turned = {tuple(image.flatten().tolist()) for image in source[:, :16] if image.max() == 1}
    tops = [np.rot90(pixels == 255, turn).astype(np.float32) for turn in range(4)]
    assert {tuple((np.array(image) == 1).astype(np.float32)) for image in turned} == {
        tuple(top.flatten().tolist()) for top in tops
    }


def test_variants_are_of_training_and_near_their_image(tmp_path) -> None:
    files = {}
    for c in range(6):
        for i in range(3):
            pixels = np.full((40, 40), 255, np.uint8)
            pixels[15:25, 15:25] = 10 * c + i
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            files[f"{'Greek' if c < 3 else 'Latin'}/{c}/{i}.png"] = file.getvalue()
    path = written(tmp_path / "classes", files)
    plain, varied = (
        small(path, shots=[2], dark_ink=True, variants=v, side=20, batch_size=50) for v in (0, 5)
    )
    for split, many in (("train", True), ("shot_2", False)):
        images = varied.batch(split, 0).source[..., :400].reshape(-1, 400)
        assert (len({tuple(image.tolist()) for image in images}) > 18) == many
        ink = plain.batch(split, 0).source[..., :400].sum(-1).mean()
        assert images.sum(-1).mean().item() == pytest.approx(ink.item(), rel=0.1)
    again = small(path, shots=[2], dark_ink=True, variants=5, side=20, batch_size=50)
    assert torch.equal(again.batch("train", 0).source, varied.batch("train", 0).source)


def test_dark_ink_is_ink(folder) -> None:
    task, inverse = small(folder), small(folder, dark_ink=True)
    ours, theirs = (each.batch("train", 0).source[..., :16] for each in (task, inverse))
    torch.testing.assert_close(ours, 1 - theirs)


def test_images_are_resized(folder) -> None:
    task = small(folder, side=7)
    assert task.input_size == 49 + 3
    assert_an_episode(task.batch("shot_1", 0), 0, task, 3, 1)


def test_the_digits_need_no_files() -> None:
    task = FewShot(ways=5)
    digits = read_digits()
    assert [each.folders for each in digits] == [(str(digit),) for digit in range(10)]
    assert sum(len(each.images) for each in digits) == 1797
    batch = task.batch("shot_5", 0)
    assert batch.source.shape == (100, 25, 64 + 5)
    held_out = {tuple((image / 255).flatten()) for each in digits[5:] for image in each.images}
    shown = {tuple(image.tolist()) for image in batch.source[:2, :, :64].flatten(0, 1).double()}
    assert all(any(np.allclose(one, image, atol=1e-6) for image in held_out) for one in shown)


@pytest.mark.parametrize("name", ["runs", "runs.zip"])
def test_the_runs_are_a_test_set_of_their_own(tmp_path, folder, name) -> None:
    path = written(tmp_path / name, runs(count=2, ways=4))
    task = small(folder, lake=str(path))
    assert task.test_names() == ["shot_1", "shot_2", "lake"]
    assert task.score_prefix("lake") + "accuracy" == "test/lake_accuracy"
    assert task.score_prefix("shot_1") + "accuracy" == "test/shot_1/accuracy"
    assert (task.output_size, task.batches("lake")) == (4, 1)
    batch = task.batch("lake", 0)
    assert batch.source.shape == batch.inputs.shape == (2, 4, 16 + 4)
    for run in range(2):
        numbers = [grey(vector, 4) for vector in batch.source[run]]
        assert numbers == [10 * (run + 1) + c for c in range(1, 5)]
        assert torch.equal(batch.source[run, :, 16:], torch.eye(4))
        asked = [grey(vector, 4) for vector in batch.inputs[run]]
        assert [numbers[target] for target in batch.targets[run].tolist()] == asked
    # Labels of training are drawn among all.
    labels = task.batch("train", 0).targets
    assert set(labels.flatten().tolist()) == {0, 1, 2, 3}


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ways": 1}, "ways must be at least 2; got 1"),
        ({"shots": [0]}, "shots must be a whole number of at least 1; got 0"),
        ({"shots": []}, "shots must have at least one entry; got none"),
        ({"training": [(1, 1)]}, "ways must be at least 2; got 1"),
        ({"training": [(2, 0)]}, "shots must be .* got 0"),
        ({"training": []}, "training must have at least one entry; got none"),
        ({"queries": 0}, "queries must be .* got 0"),
        ({"test_episodes": 0}, "test_episodes must be .* got 0"),
        ({"side": 0}, "side must be .* got 0"),
        ({"variants": -1}, "variants must be at least 0; got -1"),
        ({"batch_size": 0}, "batch_size must be .* got 0"),
        ({"paths": []}, "paths must have at least one entry; got none"),
        ({"ways": 4}, r"expected at least 4 classes for train in .*classes; got 3"),
        ({"training": [(4, 1)]}, "expected at least 4 classes for train in .*classes; got 3"),
        ({"held_out": ["character1"]}, "expected at least 3 classes for test in .*; got 2"),
        ({"validation": ["character1"]}, "for train in .*; got 2"),
        ({"held_out": ["Runic"]}, "expected a folder 'Runic' in .*classes; there is none"),
        ({"shots": [4]}, r"at least 5 images in .*Greek/character0, .*; got 4"),
        ({"queries": 3}, r"at least 5 images in .*Greek/character0, .*; got 4"),
        ({"paths": ["nowhere"]}, "expected a folder or a zip file at nowhere; there is none"),
    ],
)
def test_what_cannot_be_is_named(folder, settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(folder, **settings)


def test_rotations_make_enough_classes(folder) -> None:
    assert small(folder, rotations=True, training=[(12, 1)]).output_size == 12
    with pytest.raises(ValueError, match=r"expected at least 13 classes .*; got 12"):
        small(folder, rotations=True, training=[(13, 1)])


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("empty.zip", {}, r"expected images in folders, .* in .*empty\.zip; got none"),
        ("empty", {"a/notes.txt": b"x"}, "expected images in folders, .* in .*empty; got none"),
        (
            "bad.zip",
            {**alphabets(), "Latin/character0/2.png": b"no image"},
            r"bad\.zip/Latin/character0/2\.png: expected an image; it cannot be read",
        ),
        (
            "cut",
            {"a/0.png": png(3)[:40]},
            r"cut/a/0\.png: expected an image; it cannot be read",
        ),
        (
            "sizes",
            {**alphabets(), "Latin/character1/3.png": png(9, (5, 6))},
            r"sizes/Latin/character1/3\.png: expected an image of 4 x 4 pixels, as that of "
            r".*/Greek/character0/0\.png; got 5 x 6 pixels",
        ),
        (
            "oblong",
            {name: png(i, (4, 5)) for i, name in enumerate(alphabets())},
            "not square must be resized to a side; got 4 x 5 pixels in .*oblong/Greek/character0",
        ),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path, name, files, message: str) -> None:
    (tmp_path / "empty").mkdir()
    path = written(tmp_path / name, files)
    with pytest.raises(ValueError, match=message):
        small(path)


@pytest.mark.parametrize("cut", [0, 10, -30])
def test_a_damaged_zip_file_is_named(tmp_path, cut: int) -> None:
    path = written(tmp_path / "classes.zip", alphabets())
    path.write_bytes(path.read_bytes()[: cut or None][: None if cut else 0])
    with pytest.raises(ValueError, match=r"expected .*classes\.zip to be a zip file"):
        small(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files.clear(), r"expected runs, .*class_labels\.txt, in .*; got none"),
        (
            lambda files: files.pop("run02/test/item2.png"),
            r"run02/class_labels\.txt, line 2: .* run02/test/item2\.png is not there",
        ),
        (
            lambda files: files.update({"run01/class_labels.txt": b"run01/test/item1.png"}),
            r"run01/class_labels\.txt, line 1: expected the names of two images; got 'run01",
        ),
        (
            lambda files: files.update({"run01/test/item1.png": png(1, (2, 2))}),
            r"run01: expected images of one size; got 2 x 2 pixels and 4 x 4 pixels",
        ),
        (
            lambda files: files.update({"run01/test/item1.png": b""}),
            r"run01/test/item1\.png: expected an image; the file is empty",
        ),
        (
            lambda files: files.update({"run01/class_labels.txt":
                b"run01/test/item1.png run01/training/class1.png"}),
            r"of one size, in .*runs\.zip; got 1 examples and 1 items of 4 x 4 pixels, and 3 exam",
        ),
        (
            lambda files: files.update({"run01/class_labels.txt": b""}),
            r"run01/class_labels\.txt: expected the names of two images in each line; it is empty",
        ),
    ],
)  # fmt: skip
def test_runs_that_cannot_be_used_are_named(tmp_path, change, message: str) -> None:
    files = runs()
    change(files)
    with pytest.raises(ValueError, match=message):
        read_runs(str(written(tmp_path / "runs.zip", files)))


# Sines


@given(seeds, indices, st.integers(1, 6), st.integers(1, 4), st.sampled_from(["train", "val"]))
def test_sines_agree_with_their_definition(seed, index, shots, queries, split) -> None:
    task = Sinusoids([shots], queries, batch_size=3, validation_batch_size=4, seed=seed)
    batch = task.batch(split, index)
    assert batch.source.shape == (3 if split == "train" else 4, shots, 2)
    assert batch.inputs.shape[1] == queries
    assert not batch.inputs[..., 1].any()
    for row in range(len(batch.source)):
        x = torch.cat([batch.source[row, :, 0], batch.inputs[row, :, 0]]).double().numpy()
        y = torch.cat([batch.source[row, :, 1], batch.targets[row, :, 0]]).double().numpy()
        assert (abs(x) <= 5).all()
        # y = p sin x + q cos x: least squares give the amplitude and the phase.
        terms = np.stack([np.sin(x), np.cos(x)], -1)
        (p, q), *_ = np.linalg.lstsq(terms, y, rcond=None)
        assert terms @ [p, q] == pytest.approx(y, abs=1e-4)
        if shots + queries > 2:
            assert 0.1 - 1e-3 <= math.hypot(p, q) <= 5 + 1e-3
            assert -1e-2 <= math.atan2(-q, p) <= math.pi + 1e-2 or math.hypot(p, q) < 0.2


def test_sines_of_each_number_of_points() -> None:
    task = Sinusoids([5, 10], test_queries=11, test_episodes=7)
    assert task.test_names() == ["shot_5", "shot_10"]
    batch = task.batch("shot_10", 0)
    assert batch.source.shape == (7, 10, 2)
    assert (batch.inputs[..., 0] == torch.arange(-5.0, 6.0)).all()
    assert not batch.inputs[..., 1].any()
    sizes = {task.batch("train", index).source.shape[1] for index in range(20)}
    assert sizes == {5, 10}


def test_curves_of_sines_are_what_was_asked_for_and_what_came() -> None:
    task = Sinusoids([5], test_queries=9, test_episodes=3)
    batch = task.batch("shot_5", 0)
    first, second = task.curves("shot_5", batch.targets + 0.5, 2)
    assert [panel.caption for panel in (first, second)] == ["mean squared error 0.25"] * 2
    assert second.points.tolist() == batch.source[1].tolist()
    for name, shift in (("sine", 0), ("answer", 0.5)):
        assert second.lines[name][:, 0] == pytest.approx(batch.inputs[1, :, 0])
        assert second.lines[name][:, 1] == pytest.approx(batch.targets[1, :, 0] + shift)
    assert len(task.curves("shot_5", batch.targets, 9)) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shots": []}, "got none"),
        ({"shots": [5, 0]}, "shots must be .* got 0"),
        ({"test_queries": 0}, "test_queries must be .* got 0"),
        ({"queries": 0}, "queries must be .* got 0"),
        ({"test_episodes": 0}, "test_episodes must be .* got 0"),
    ],
)
def test_bad_settings_of_sines_are_named(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sinusoids(**settings)


# Real images


@pytest.mark.skipif(not OMNIGLOT.is_dir(), reason=f"needs Omniglot in {OMNIGLOT}")
def test_omniglot_as_it_comes() -> None:
    task = FewShot(
        paths=["images_background_small1.zip", "images_background_small2.zip"],
        folder=str(OMNIGLOT),
        held_out=["Balinese", "Tagalog"],
        lake="all_runs.zip",
        side=28,
        dark_ink=True,
        rotations=True,
        training=[(60, 1)],
    )
    # Greek and Latin stand in both archives: 50 characters of 20 images.
    assert task.duplicates == 1000
    episode = task.batch("train", 0)
    assert episode.source.shape == (16, 60, 784 + 60)
    test = task.batch("shot_5", 0)
    assert test.source.shape == (100, 25, 784 + 60)
    lake = task.batch("lake", 0)
    assert lake.source.shape == lake.inputs.shape == (20, 20, 784 + 60)
    assert all(sorted(row) == list(range(20)) for row in lake.targets.tolist())
    for batch in (episode, test, lake):
        assert 0.02 < batch.source[..., :784].mean() < 0.2
    # The first line of run 1 says that item 1 is of class 8.
    assert lake.targets[0, 0] == 7


class Fraction:
    """Draws the same fraction of each range, or one for each number."""

    def __init__(self, *fractions: Any) -> None:
        self.fractions = iter(fractions)

    def uniform(self, low: float, high: float, shape: Any) -> np.ndarray:
        return low + np.broadcast_to(next(self.fractions), shape) * (high - low)


def varied(image: np.ndarray, *fractions: Any) -> np.ndarray:
    random: Any = Fraction(*fractions)
    return np.asarray(_moved(Image.fromarray(image), random))


@pytest.mark.parametrize(("fractions", "right", "down"), [((1, 0.5), 14, 0), ((0.5, 0), 0, -7)])
def test_a_variant_is_moved_by_up_to_7_percent_of_its_sides(fractions, right, down) -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 200), np.uint8)
    moved = varied(image, 0.5, 0.5, fractions)
    height, width = image.shape
    ours = moved[max(0, -down) : height - max(0, down), : width - right].astype(int)
    # The filter may round a whole number to the next one.
    assert np.abs(ours - image[max(0, down) : height - max(0, -down), right:]).max() <= 1


def test_a_variant_is_turned_sheared_and_scaled_about_its_middle() -> None:
    image = np.zeros((101, 101), np.uint8)
    places = {(50, 50), (20, 60), (70, 30)}
    for row, column in places:
        image[row - 2 : row + 3, column - 2 : column + 3] = 255
    assert np.array_equal(varied(image, 0.5, 0.5, 0.5), image)
    turn, shear, scale = math.radians(10), 0.1, np.array([1.1, 0.9])
    moved = varied(image, 1.0, [[1.0], [0.0]], 0.5)
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    matrix = matrix @ np.array([[1, shear], [0, 1]]) * scale[:, None]
    for row, column in places:
        # Where the variant shows what the image has there.
        x, y = np.linalg.solve(matrix, np.array([column, row]) - 50) + 50
        assert moved[round(y), round(x)] > 200, (row, column)


def online(path: Path, **settings: Any) -> OnlineFewShot:
    defaults = {"paths": [str(path)], "ways": 3, "instances": 3, "held_out": ["Latin"]}
    return OnlineFewShot(**{**defaults, **settings})  # type: ignore[arg-type]


@given(seed=seeds, index=indices, split=st.sampled_from(["train", "val", "test"]))
def test_images_come_one_after_the_other_with_late_labels(folder, seed, index, split) -> None:
    task = online(folder, batch_size=3, validation_batch_size=4, test_episodes=4, seed=seed)
    batch = task.batch(split, 0 if split == "test" else index)
    assert batch.inputs.shape == (3 if split == "train" else 4, 9, 16 + 3)
    assert batch.source.shape == (len(batch.inputs), 1, 16 + 3)
    assert not batch.source.any()
    for row, targets in zip(batch.inputs, batch.targets, strict=True):
        greys = [grey(vector, 3) for vector in row]
        assert len(set(greys)) == 9, "an image comes twice"
        named = dict(zip([number // 10 for number in greys], targets.tolist(), strict=True))
        assert [named[number // 10] for number in greys] == targets.tolist()
        assert sorted(named.values()) == [0, 1, 2]
        assert sorted(targets.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert set(named) <= ({3, 4, 5} if split == "test" else {0, 1, 2})
        assert not row[0, -3:].any()
        assert row[1:, -3:].argmax(-1).tolist() == targets[:-1].tolist()
        assert (row[1:, -3:].sum(-1) == 1).all()


def test_the_order_and_the_labels_of_images_differ_by_episode(folder) -> None:
    batch = online(folder, batch_size=50).batch("train", 0)
    assert len({tuple(row.tolist()) for row in batch.targets}) > 10
    first = {(grey(row[0], 3) // 10, int(label[0])) for row, label in zip(*batch[1:3], strict=True)}
    assert first == {(c, label) for c in range(3) for label in range(3)}


def test_answers_are_scored_by_how_often_their_class_has_come(folder) -> None:
    task = online(folder, test_episodes=5, validation_batch_size=3)
    targets = [task.batch("test", index).targets for index in range(task.batches("test"))]
    assert [len(each) for each in targets] == [3, 2]
    # An answer is right from the second image of a class on, and for the last class always.
    answers, right = [], {1: [], 2: [], 3: []}
    for each in targets:
        given = each.clone()
        for row, episode in enumerate(each.tolist()):
            for step, label in enumerate(episode):
                place = episode[: step + 1].count(label)
                if place == 1 and label != 2:
                    given[row, step] = (label + 1) % 3
                right[place].append(given[row, step] == label)
        answers.append(given)
    scores = task.measure("test", answers)
    assert scores == {f"instance_{k}": pytest.approx(np.mean(right[k])) for k in right}
    assert (scores["instance_1"], scores["instance_2"]) == (pytest.approx(1 / 3), 1.0)
    assert task.measure("test", []) == {}


def test_an_episode_of_images_one_after_the_other_needs_two_of_a_class(folder) -> None:
    with pytest.raises(ValueError, match=r"instances must be at least 2, .* got 1"):
        online(folder, instances=1)
    with pytest.raises(ValueError, match=r"expected at least 5 images in .*; got 4"):
        online(folder, instances=5)
