"""Few-shot classification of images (Vinyals et al. 2016; Lake et al. 2015)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from memnets.batches import Batch
from memnets.checks import check_positive
from memnets.extras import check_extra
from tasks.base import Array, Task, by_name
from tasks.fewshot.files import ClassImages, read_classes, read_digits, read_runs
from tasks.limits import check_room

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["FewShot", "Pool"]

#: One class in this many is held out if none is named.
HELD_OUT = 5
#: An upper bound that no useful test reaches; it catches slips of the keyboard.
MOST_EPISODES = 10**7


class FewShot(Task):
    """Few-shot classification of images: K examples of each of N classes, then queries.

    The source is the examples of an episode in random order, ``[B, N K, side * side + labels]``:
    the ink of each pixel in ``[0, 1]``, row by row, then the label, one-hot. The inputs are the
    queries, with zeros for the label, ``[B, N queries, ...]``; the targets are their labels. Each
    episode draws its classes, and a label for each of them.

    Images are read once, from folders or zip files; the images of a folder are a class. An image
    with the content of an earlier one is left out. Without paths, the images are handwritten
    digits.

    Args:
        paths: folders or zip files; ``None`` = the digits of scikit-learn, 8 x 8 pixels.
        folder: folder of all paths that are not absolute.
        held_out: names of folders whose classes are for the tests: folders of a class, or folders
            of classes, such as alphabets. By default the last fifth of the classes, at least N.
        validation: names of folders whose classes are for validation, and not for training. By
            default validation has new episodes of the training classes.
        lake: folder or zip file of the runs of Lake et al. 2015, for a test set named ``lake``.
        ways: N, the number of classes of an episode of validation and tests, at least 2.
        shots: numbers of examples K; validation uses them in turn, and each has a test set,
            ``shot_<k>``.
        training: pairs (N, K); each training batch draws one. By default those of validation.
        queries: number of queries of each class in an episode, at least 1.
        side: number of pixels of a side. Images of any size are resized to it and keep their
            proportions, in the middle of a square of paper. ``None`` = all images are squares of
            one size and are not resized.
        dark_ink: whether images are dark on white.
        rotations: whether training classes turned by 90, 180 and 270 degrees are more training
            classes (Santoro et al. 2016).
        variants: number of copies of each training image, slightly turned, scaled, sheared and
            moved, at least 0.
        test_episodes: number of episodes of each test set but ``lake``, at least 1.
        settings: see :class:`~tasks.Task`; a sequence is an episode.

    Attributes:
        duplicates: number of images left out because their content came before.

    Raises:
        ValueError: a number is out of its range, a file cannot be used, or there are too few
            classes, or too few images of a class.
        MissingExtra: Pillow, or for the digits scikit-learn, is not installed.
    """

    def __init__(
        self,
        paths: Sequence[str] | None = None,
        folder: str = "",
        held_out: Sequence[str] | None = None,
        validation: Sequence[str] = (),
        lake: str | None = None,
        ways: int = 5,
        shots: Sequence[int] = (1, 5),
        training: Sequence[tuple[int, int]] | None = None,
        queries: int = 1,
        side: int | None = None,
        dark_ink: bool = False,
        rotations: bool = False,
        variants: int = 0,
        test_episodes: int = 1000,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.test_sets = by_name((f"shot_{k}", (ways, k)) for k in shots)
        self.tested = list(self.test_sets.values())
        self.training = self.tested if training is None else list(training)
        for name, entries in (("paths", paths), ("shots", shots), ("training", training)):
            if entries is not None and not entries:
                raise ValueError(f"{name} must have at least one entry; got none")
        for n, k in [*self.tested, *self.training]:
            check_positive(shots=k)
            if n < 2:
                raise ValueError(f"ways must be at least 2; got {n}")
        check_positive(queries=queries, test_episodes=test_episodes)
        if test_episodes > MOST_EPISODES:
            raise ValueError(
                f"test_episodes must be at most {MOST_EPISODES:,}; got {test_episodes:,}"
            )
        self.queries = queries
        self.test_episodes = test_episodes
        if side is not None:
            check_positive(side=side)
            self._check_room(side)
        if variants < 0:
            raise ValueError(f"variants must be at least 0; got {variants}")

        digits = ["sklearn"] if paths is None else []
        check_extra("images", "tasks.FewShot", "PIL", *digits)
        self.duplicates = 0
        if paths is None:
            classes, where = read_digits(), "the digits"
        else:
            files = [str(Path(folder, path)) for path in paths]
            classes, self.duplicates = read_classes(files, one_size=side is None)
            where = " and ".join(files)
        self.side = _side(classes[0]) if side is None else side
        self._check_room(self.side)
        random = self.random("variants", 0)
        self._pools = {}
        for split, members in _split(classes, held_out, validation, ways, where).items():
            # Only training is enlarged: validation and tests are on the images as they were drawn.
            copies, turns = (variants, 4 if rotations else 1) if split == "train" else (0, 1)
            for n, k in self.training if split == "train" else self.tested:
                _check_enough(members, turns, n, k + queries, f"{split} in {where}")
            pictures = sum(len(one.images) for one in members)
            check_room(
                f"the images of {split} with their variants",
                pictures, turns, 1 + copies, self.side, self.side,
            )  # fmt: skip
            images = [_prepared(one.images, self.side, dark_ink, copies, random) for one in members]
            self._pools[split] = Pool(
                [np.rot90(stack, turn, (-2, -1)) for stack in images for turn in range(turns)]
            )
        self.output_size = max(n for n, _ in [*self.tested, *self.training])
        self._lake: tuple[Array, Array, Array] | None = None
        if lake is not None:
            examples, items, answers = read_runs(str(Path(folder, lake)))
            examples, items = (
                np.stack([_prepared(run, self.side, dark_ink, 0, random)[:, 0] for run in images])
                for images in (examples, items)
            )
            self._lake = examples, items, answers
            self.output_size = max(self.output_size, examples.shape[1])
        self.input_size = self.side**2 + self.output_size

    def _check_room(self, side: int) -> None:
        """Check that no batch of images with this side is too large."""
        tested, most = (
            max(n * (k + self.queries) for n, k in pairs) for pairs in (self.tested, self.training)
        )
        check_room("a training batch", self.batch_size, most, side, side)
        check_room("a validation batch", self.validation_batch_size, tested, side, side)

    def test_names(self) -> list[str]:
        """``shot_<k>`` for each number of examples, and ``lake`` if its runs are there."""
        return [*self.test_sets, *([] if self._lake is None else ["lake"])]

    def score_prefix(self, name: str) -> str:
        """See :meth:`~tasks.Task.score_prefix`; the prefix of ``lake`` is ``test/lake_``."""
        return "test/lake_" if name == "lake" else super().score_prefix(name)

    def batches(self, split: str) -> int:
        """See :meth:`~tasks.Task.batches`; a test set has as many as its episodes need."""
        if split in self.test_sets:
            return -(-self.test_episodes // self.validation_batch_size)
        return super().batches(split)

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or a test set.

        The only batch of ``lake`` is its runs; labels follow the order of the examples' names.
        """
        if split == "lake" and self._lake is not None:
            examples, items, answers = self._lake
            labels = np.broadcast_to(np.arange(examples.shape[1]), examples.shape[:2])
            return self._episodes(examples, labels, items, answers)
        random = self.random(split, index)
        size = self.validation_batch_size
        if split == "train":
            size = self.batch_size
            ways, shots = self.training[random.integers(len(self.training))]
        elif split == "val":
            ways, shots = self.tested[index % len(self.tested)]
        else:
            ways, shots = self.test_sets[split]
            # The last batch of a test set may be smaller.
            size = min(size, self.test_episodes - index * size)
        images = self.pool(split).draw(random, size, ways, shots + self.queries)
        # Labels are drawn from all that the model has: with fewer classes than labels, each label
        # is trained as often as the others.
        order = random.random((size, self.output_size)).argsort(-1)[:, :ways]
        labels = np.broadcast_to(order[..., np.newaxis], images.shape[:3])
        # Queries of the classes alternate. Their order does not matter to a model, which answers
        # each on its own, and no shuffle is needed.
        asked, answers = (
            part[:, :, shots:].swapaxes(1, 2).reshape(size, -1, *part.shape[3:])
            for part in (images, labels)
        )
        shown, shown_labels = (
            part[:, :, :shots].reshape(size, -1, *part.shape[3:]) for part in (images, labels)
        )
        rows, mixed = np.arange(size)[:, np.newaxis], random.random(shown_labels.shape).argsort(-1)
        return self._episodes(shown[rows, mixed], shown_labels[rows, mixed], asked, answers)

    def pool(self, split: str) -> Pool:
        """The classes of ``train``, ``val`` or a test set; all test sets have the same classes."""
        return self._pools[split if split in self._pools else "test"]

    def labels(self, batch: Batch, row: int) -> tuple[list[str], list[str]]:
        """Labels of examples and queries, as numbers."""
        shown = batch.source[row, :, -self.output_size :].argmax(-1)
        return [str(label) for label in shown.tolist()], list(map(str, batch.targets[row].tolist()))

    def images(self, batch: Batch, row: int) -> tuple[Tensor, Tensor]:
        """See :meth:`~tasks.Task.images`."""
        shape = (-1, self.side, self.side)
        shown, asked = (
            part[row, :, : self.side**2].reshape(shape) for part in (batch.source, batch.inputs)
        )
        return shown, asked

    def _episodes(self, shown: Array, labels: Array, asked: Array, answers: Array) -> Batch:
        """Make a batch from images ``[B, S, side, side]`` and labels ``[B, S]`` of both kinds."""
        one_hot = np.eye(self.output_size, dtype=np.float32)[labels]
        empty = np.zeros((*answers.shape, self.output_size), np.float32)
        source, inputs = (
            np.concatenate([images.reshape(*side.shape[:2], -1).astype(np.float32) / 255, side], -1)
            for images, side in ((shown, one_hot), (asked, empty))
        )
        return Batch(
            torch.from_numpy(source),
            torch.from_numpy(inputs),
            torch.from_numpy(answers.astype(np.int64)),
        )


class Pool:
    """Classes to draw episodes from.

    Args:
        classes: the images of each, uint8 ``[n, variants, side, side]``.
    """

    def __init__(self, classes: Sequence[Array]) -> None:
        self.images = np.concatenate(classes)
        self.counts = np.array([len(images) for images in classes])
        self.starts = self.counts.cumsum() - self.counts

    def draw(self, random: np.random.Generator, size: int, ways: int, count: int) -> Array:
        """Some images of some classes, a variant of each: uint8 ``[B, N, n, side, side]``."""
        # The order of random numbers is a draw without replacement, for all episodes at once.
        classes = random.random((size, len(self.counts))).argsort(-1)[:, :ways]
        numbers = random.random((size, ways, self.counts.max()))
        # Classes have different numbers of images: places beyond sort last.
        there = np.arange(self.counts.max()) < self.counts[classes][..., np.newaxis]
        chosen = np.where(there, numbers, np.inf).argsort(-1)[..., :count]
        variants = random.integers(self.images.shape[1], size=chosen.shape)
        drawn: Array = self.images[self.starts[classes][..., np.newaxis] + chosen, variants]
        return drawn


def _side(first: ClassImages) -> int:
    """Side of images that are not resized.

    Raises:
        ValueError: the images are not square.
    """
    height, width = first.images[0].shape
    if height != width:
        raise ValueError(
            f"images that are not square must be resized to a side; "
            f"got {width} x {height} pixels in {first.name}"
        )
    return int(height)


def _split(
    classes: Sequence[ClassImages],
    held_out: Sequence[str] | None,
    validation: Sequence[str],
    ways: int,
    where: str,
) -> dict[str, list[ClassImages]]:
    """Split classes into those of training, validation and tests.

    Raises:
        ValueError: a named folder does not exist.
    """
    for name in [*(held_out or []), *validation]:
        if not any(name in one.folders for one in classes):
            raise ValueError(f"expected a folder {name!r} in {where}; there is none")

    def within(names: Sequence[str]) -> set[str]:
        return {one.name for one in classes if not set(names).isdisjoint(one.folders)}

    if held_out is None:
        test = {one.name for one in classes[-max(ways, len(classes) // HELD_OUT) :]}
    else:
        test = within(held_out)
    checked = within(validation) - test
    train = {one.name for one in classes} - test - checked
    names = {"train": train, "val": checked or train, "test": test}
    return {split: [one for one in classes if one.name in names[split]] for split in names}


def _check_enough(
    classes: Sequence[ClassImages], turns: int, ways: int, count: int, where: str
) -> None:
    """Check that there are ``ways`` classes with ``count`` images each.

    Raises:
        ValueError: there are too few classes, or too few images of a class.
    """
    if len(classes) * turns < ways:
        raise ValueError(
            f"expected at least {ways} classes for {where}; got {len(classes) * turns}"
        )
    for one in classes:
        if len(one.images) < count:
            raise ValueError(
                f"expected at least {count} images in {one.name}, examples and queries; "
                f"got {len(one.images)}"
            )


def _prepared(
    images: Array | list[Array], side: int, dark_ink: bool, copies: int, random: np.random.Generator
) -> Array:
    """Resize images to ink on an empty square, and add moved copies.

    Args:
        images: n images, uint8 ``[h, w]``.
        side: number of pixels of a side.
        dark_ink: whether the images are dark on white.
        copies: number of copies of each image.
        random: draws the copies.

    Returns:
        uint8 ``[n, 1 + copies, side, side]``.
    """
    from PIL.Image import Resampling, fromarray

    prepared = []
    for pixels in images:
        # Copies are made before the resize, from all the pixels that there are.
        image = fromarray(_squared(255 - pixels if dark_ink else pixels))
        variants = [image, *(_moved(image, random) for _ in range(copies))]
        resized = [one.resize((side, side), Resampling.BILINEAR) for one in variants]
        prepared.append([np.asarray(one) for one in resized])
    return np.array(prepared)


def _squared(ink: Array) -> Array:
    """Pad an image ``[h, w]`` to a square, with no ink around it."""
    missing = [max(ink.shape) - length for length in ink.shape]
    return np.pad(ink, [(space // 2, space - space // 2) for space in missing])


def _moved(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """A copy turned by up to 10 degrees, scaled and sheared by 10 %, moved by 7 % of a side."""
    from PIL.Image import Resampling, Transform

    angle, shear = random.uniform(-1, 1, 2) * (math.radians(10), 0.1)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = turn @ np.array([[1, shear], [0, 1]]) * random.uniform(0.9, 1.1, (2, 1))
    # Pillow's matrix is about a corner: this move makes it one about the middle, then shifts it.
    middle = np.array(image.size) / 2
    move = middle - matrix @ middle + random.uniform(-0.07, 0.07, 2) * image.size
    (a, b), (d, e) = matrix
    affine = (a, b, move[0], d, e, move[1])
    return image.transform(image.size, Transform.AFFINE, affine, Resampling.BILINEAR)
