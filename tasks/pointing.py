"""Tasks whose answers point at the source (Vinyals et al. 2015, "Pointer Networks"); sorting.

An answer is a sequence of indices into the source, then the end mark. The token ``END + 1 + i``
means "slot i of the source", i from 0. So an answer consists of tokens, as in any other task.
"""

from __future__ import annotations

import itertools
import logging
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from memnets.batches import END, Batch, padded, unpadded
from memnets.checks import check_positive
from tasks.base import Array, Task, by_name, check_range, renamed
from tasks.limits import check_room
from tasks.points import read_points
from tasks.tokens import MARKS, answer_batch, answered_rows, said

__all__ = ["Pointed", "PointingTask", "SortingNumbers", "as_batch", "in_unit_square"]

logger = logging.getLogger(__name__)

#: Above this, float64 cannot hold every whole number.
EXACT = 2**53
#: Least extent of points in the unit square that a model sees unchanged.
LEAST_EXTENT = 1e-6


class Pointed(NamedTuple):
    """An answer, read as indices.

    Attributes:
        points: float64 ``[n, width]``.
        target: the right answer, k indices.
        answer: indices before the end mark; an index outside ``[0, n)`` is not a point.
        whole: whether the answer has an end mark, and only points before it.
    """

    points: Array
    target: list[int]
    answer: list[int]
    whole: bool


class PointingTask(Task):
    """Base class for tasks whose answer is a sequence of the given points.

    The source is float32 ``[B, S, width]``; shorter sequences are padded. Targets are tokens
    ``[B, T]``.

    A user's own points come from files, each a further test set, or from Python
    (:meth:`batch_of`). Their answers are computed in float64 from the given numbers. A model sees
    the result of :meth:`seen`, in float32. Scores and predictions use the given coordinates.

    Args:
        min_points: fewest points of a sequence, at least 3; at least 1 for numbers to sort.
        max_points: most points of a sequence of training, validation and the test set ``test``.
        test_sets: further test sets, pairs (n, number of sequences), named ``n_<n>``.
        test_sequences: number of sequences in ``test``, with as many points as in training, at
            least 1.
        test_files: further test sets from files, named after the file without its ending: ``.tsp``
            files of TSPLIB, or tables with a point in each line
            (:func:`tasks.points.read_points`).
        test_points: the old name of ``test_sets``.
        batch_points: number of points in a training batch, at least ``max_points``. All sequences
            of a batch then have one n, and the batch holds as many as fit; ``batch_size`` is not
            used. ``None`` = each sequence has an n of its own.
        settings: see :class:`~tasks.Task`.
    """

    #: Number of coordinates of a point.
    width: ClassVar[int] = 2
    #: Fewest points that have an answer.
    fewest: ClassVar[int] = 3

    def __init__(
        self,
        min_points: int = 5,
        max_points: int = 20,
        test_sets: Sequence[tuple[int, int]] = (),
        test_sequences: int = 1000,
        batch_points: int | None = None,
        test_files: Sequence[str] = (),
        test_points: Sequence[tuple[int, int]] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        test_sets = renamed("test_points", test_points, "test_sets", test_sets, ())
        check_positive(test_sequences=test_sequences)
        check_range("points", min_points, max_points, least=self.fewest)
        for n, sequences in test_sets:
            check_positive(test_sequences=sequences)
            if n < self.fewest:
                raise ValueError(f"test_sets must be of at least {self.fewest} points; got {n}")
        if batch_points is not None and batch_points < max_points:
            raise ValueError(
                "batch_points must be at least max_points, so that a batch holds a sequence; "
                f"got {batch_points} and {max_points}"
            )
        self.min_points = min_points
        self.max_points = max_points
        self.test_sequences = test_sequences
        self.batch_points = batch_points
        self.check_room(
            max_points,
            self.width,
            tested=[
                (size, n, self.width) for n, size in [(max_points, test_sequences), *test_sets]
            ],
        )
        check_room("a training batch", batch_points or 0, self.width)
        self.test_sets = by_name((f"n_{n}", (n, sequences)) for n, sequences in test_sets)
        read = [(_set_name(path), self._read_file(path)) for path in test_files]
        # For its error alone: a file may have the name of another test set.
        by_name([("test", None), *self.test_sets.items(), *read])
        #: Sequences of points from files, by the names of their test sets.
        self.own = dict(read)
        self._own_batches: dict[str, Batch] = {}
        own = [len(points) for several in self.own.values() for points in several]
        #: The largest n of any split.
        self.most_points = max([max_points, *(n for n, _ in test_sets), *own])
        self.input_size = self.width
        self.output_size = END + 1 + self.most_points

    @abstractmethod
    def points(self, random: np.random.Generator, n: int) -> Array:
        """Random points, float32 ``[n, width]``."""

    def several(self, random: np.random.Generator, numbers: Sequence[int]) -> list[Array]:
        """Points of several sequences; override it where they can be drawn at once.

        Args:
            random: the generator of the batch.
            numbers: number of points of each sequence.
        """
        return [self.points(random, n) for n in numbers]

    @abstractmethod
    def answer(self, points: Array) -> Sequence[int] | Array:
        """The right answer: indices into ``points``, float32 ``[n, width]``."""

    def answers(self, points: Sequence[Array]) -> Sequence[Sequence[int] | Array]:
        """Answers to several sequences; override it where several at once are faster."""
        return [self.answer(rows) for rows in points]

    def seen(self, points: Array) -> Array:
        """A user's points in the form for a model, before they are rounded to float32.

        The default implementation returns them unchanged. Override it if moving and scaling the
        points does not change the answer: the model should see points in the range of its training.

        Args:
            points: ``[n, width]``, finite.
        """
        return points

    def solve(self, points: Sequence[Array]) -> Sequence[Sequence[int] | Array]:
        """Answers to a user's sequences of points, each ``[n, width]``, finite."""
        return self.answers(points)

    def check(self, points: Array) -> None:
        """Check that points, ``[n, width]`` and finite, have an answer.

        Raises:
            ValueError: they have none.
        """

    def judge(self, pointed: Pointed) -> dict[str, float]:
        """Scores of an answer, by name; empty by default.

        A task with :meth:`lines` must give at least ``exact`` and ``invalid``, 0 or 1.
        """
        return {}

    def lines(self, points: Array, answer: list[int]) -> list[Array] | None:
        """Lines ``[k, 2]`` that draw an answer; ``None``, the default, for no drawing.

        Args:
            points: ``[n, width]``.
            answer: k indices into the points, in any order.
        """
        return None

    def test_names(self) -> list[str]:
        """``test``, ``n_<n>`` for each of ``test_sets``, and the names of the files."""
        return ["test", *self.test_sets, *self.own]

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or a test set."""
        if split in self.own:
            if split not in self._own_batches:
                self._own_batches[split] = self.batch_of(self.own[split])
            return self._own_batches[split]
        points = self.drawn(split, index)
        return as_batch(points, self.answers(points))

    def drawn(self, split: str, index: int) -> list[Array]:
        """Points of a batch, float32 ``[n, width]`` for each sequence."""
        random = self.random(split, index)
        if split in self.test_sets:
            n, size = self.test_sets[split]
            numbers = [n] * size
        # Sequences of one length need no padding, and a budget of points keeps batches of long
        # sequences as small in memory as those of short ones.
        elif split == "train" and self.batch_points is not None:
            n = int(random.integers(self.min_points, self.max_points + 1))
            numbers = [n] * (self.batch_points // n)
        else:
            size = self.sequences(split, self.test_sequences)
            numbers = random.integers(self.min_points, self.max_points + 1, size).tolist()
        return self.several(random, numbers)

    def batch_of(self, points: Sequence[ArrayLike]) -> Batch:
        """Make a batch of a user's points, with their answers.

        Answers are computed in float64 from the given numbers; from whole numbers beyond 2^53 the
        least is subtracted first. A model sees the result of :meth:`seen`, in float32. A warning
        tells if different points become equal by this.

        Args:
            points: B sequences ``[n, width]``, at least one; n may differ.

        Raises:
            ValueError: a sequence has too few points, points of another width, points that are not
                finite, or no answer. The message names the sequence and the points, counted from 0.
        """
        if not len(points):
            raise ValueError("expected sequences of points; got none")
        checked = []
        for number, rows in enumerate(points):
            try:
                checked.append(self._checked(rows))
            except ValueError as error:
                raise ValueError(f"sequence {number}: {error}") from None
        answers, seen = self.solve(checked), [self.seen(rows) for rows in checked]
        with np.errstate(over="ignore", under="ignore"):
            batch = as_batch(seen, answers)
        if not batch.source.isfinite().all():
            raise ValueError("expected points that are finite in float32; got greater ones")
        for number, rows in enumerate(checked):
            # Points that differ in float64 may be the same in float32.
            given = unpadded(batch.source, batch.source_mask, number).numpy()
            distinct, left = (len(np.unique(each, axis=0)) for each in (rows, given))
            if left < distinct:
                logger.warning(
                    "sequence %d: of %d different points a model sees %d, in float32",
                    number,
                    distinct,
                    left,
                )
        return batch

    def _read_file(self, path: str) -> list[Array]:
        sequences = read_points(path, self.width)
        for number, points in enumerate(sequences, start=1):
            try:
                self._checked(points)
            except ValueError as error:
                raise ValueError(f"{path}, sequence {number}: {error}") from None
        return sequences

    def _checked(self, rows: ArrayLike) -> Array:
        """Points in float64, or in float32 if it holds them exactly.

        The task's own points are in float32: equal points must have equal answers.
        """
        points = _wide(rows)
        if points.ndim != 2 or points.shape[1] != self.width:
            raise ValueError(f"expected points [n, {self.width}]; got {list(points.shape)}")
        if len(points) < self.fewest:
            raise ValueError(f"expected at least {self.fewest} points; got {len(points)}")
        for index in np.flatnonzero(~np.isfinite(points).all(1))[:1]:
            raise ValueError(
                f"expected numbers that are finite; got {points[index].tolist()} as point {index}"
            )
        with np.errstate(over="ignore", under="ignore"):
            narrow = points.astype(np.float32)
        points = narrow if (narrow == points).all() else points
        self.check(points)
        return points

    def measure(self, split: str, answers: list[Tensor]) -> dict[str, float]:
        """Mean scores of the answers to a test set, each over the answers that have the score.

        Args:
            split: one of :meth:`test_names`.
            answers: tokens ``[B, T]`` for each batch of the set; tokens behind an end mark do not
                count, and an answer need not be valid.

        Returns:
            The scores in the description of the class, by name.

        Raises:
            ValueError: the number of answers is not the number of sequences.
        """
        judged = [
            self.judge(pointed)
            for pointed in self._pointed(split, answered_rows(self, split, answers))
        ]
        names = dict.fromkeys(name for scores in judged for name in scores)
        return {
            name: float(np.mean([scores[name] for scores in judged if name in scores]))
            for name in names
        }

    def _pointed(
        self, split: str, answered: list[tuple[Batch, int, list[int]]]
    ) -> Iterator[Pointed]:
        """Answers to a test set, with the points in their given coordinates."""
        for number, (batch, row, tokens) in enumerate(answered):
            pointed = _read(batch, row, tokens)
            yield pointed._replace(points=self.own[split][number]) if split in self.own else pointed

    def texts(self, split: str, answers: list[Tensor]) -> list[tuple[str, str, str]]:
        """Points, right answers and answers as text, for a test set from a file.

        Points are written in the file's coordinates, ``x,y x,y ...``, in the order of the answer;
        ``?`` stands for an index that is not a point.
        """
        if split not in self.own:
            return []

        def written(points: Array, indices: list[int]) -> str:
            return " ".join(
                ",".join(map(repr, points[index].tolist())) if 0 <= index < len(points) else "?"
                for index in indices
            )

        return [
            (
                written(each.points, list(range(len(each.points)))),
                written(each.points, each.target),
                written(each.points, each.answer),
            )
            for each in self._pointed(split, answered_rows(self, split, answers))
        ]

    def labels(self, batch: Batch, row: int) -> tuple[list[str], list[str]]:
        """Numbers of the points, from 1, and names of the marks."""
        source = unpadded(batch.source, batch.source_mask, row)
        targets = unpadded(batch.targets, batch.target_mask, row)
        return (
            [str(number + 1) for number in range(len(source))],
            [MARKS.get(token, str(token - END)) for token in targets.tolist()],
        )

    def drawing(
        self, batch: Batch, row: int, tokens: Tensor
    ) -> tuple[Array, list[Array], str] | None:
        """The points, the lines of an answer, and a verdict."""
        pointed = _read(batch, row, said(tokens))
        inside = [index for index in pointed.answer if 0 <= index < len(pointed.points)]
        lines = self.lines(pointed.points, inside)
        if lines is None:
            return None
        scores = self.judge(pointed)
        if scores["exact"]:
            return pointed.points, lines, "right"
        told = ["invalid" if scores["invalid"] else "wrong"]
        told += [
            f"{name.replace('_', ' ')} {score:.4g}"
            for name, score in scores.items()
            if name not in ("exact", "invalid")
        ]
        return pointed.points, lines, ", ".join(told)


def uniform(random: np.random.Generator, numbers: Sequence[int], width: int) -> list[Array]:
    """Points, uniform in the unit cube: the same as those drawn sequence by sequence.

    Args:
        random: the generator to draw from.
        numbers: number of points of each sequence.
        width: number of coordinates of a point.

    Returns:
        Float32 ``[n, width]`` for each sequence.
    """
    return _cut(random.random((sum(numbers), width), np.float32), numbers)


def _cut(rows: Array, numbers: Sequence[int]) -> list[Array]:
    """Cut an array into pieces of some numbers of rows; faster than NumPy's own for many."""
    ends = itertools.accumulate(numbers)
    return [rows[end - n : end] for n, end in zip(numbers, ends, strict=True)]


def by_length(points: Sequence[Array]) -> Iterator[tuple[list[int], Array]]:
    """Group sequences by their n: their numbers in the list, and their points ``[B, n, width]``."""
    groups: dict[int, list[int]] = {}
    for row, several in enumerate(points):
        groups.setdefault(len(several), []).append(row)
    for rows in groups.values():
        yield rows, np.stack([points[row] for row in rows])


def as_batch(points: Sequence[Array], answers: Sequence[Sequence[int] | Array]) -> Batch:
    """Make a batch of points ``[n, width]`` and the indices of their answers."""
    tokens = np.concatenate(answers).astype(np.int64) + END + 1
    return answer_batch(*padded(points, np.float32), _cut(tokens, [*map(len, answers)]))


def in_unit_square(points: Array) -> Array:
    """Move and scale points into the unit square (or line, or cube) if they lie outside of it.

    The least value of each axis becomes 0, and the longest extent 1. Points within a millionth of
    the square are moved and scaled too: float32 has too few digits to tell them apart.

    Args:
        points: ``[n, width]``, finite.

    Returns:
        The same points, or float64 ``[n, width]``.
    """
    if points.min() >= 0 and points.max() <= 1:
        extent = np.ptp(points, axis=0).max()
        if extent >= LEAST_EXTENT or extent == 0:
            return points
    wide = points.astype(np.float64)
    # Halved first: the difference of two finite numbers may be infinite.
    if abs(wide).max() > 1:
        wide /= 2
    moved: Array = wide - wide.min(0)
    return moved / (moved.max() or 1.0)


def _wide(rows: ArrayLike) -> Array:
    """Convert numbers to float64; from whole numbers beyond :data:`EXACT`, subtract the least.

    Raises:
        ValueError: the values are not real numbers.
    """
    try:
        given = np.asarray(rows)
        if given.dtype.kind == "c":
            raise ValueError("expected real numbers; got complex ones")
        whole = given.dtype.kind in "iu" or (
            given.dtype.kind == "O" and all(isinstance(each, int) for each in given.flat)
        )
        if whole and given.ndim == 2 and given.size:
            # Python's own whole numbers are exact at any size.
            exact = given.astype(object)
            if max(abs(exact.min()), abs(exact.max())) > EXACT:
                given = exact - exact.min(0)
        return given.astype(np.float64)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"expected numbers; got others ({error})") from error


def _set_name(path: str) -> str:
    """Name of a test set from its file: without the ending, and with safe characters."""
    stem = Path(path.removesuffix(".gz")).stem
    return re.sub(r"[^\w.-]", "_", stem)


def _read(batch: Batch, row: int, tokens: list[int]) -> Pointed:
    """Read an answer, up to its end mark, to one sequence of a batch."""
    points = unpadded(batch.source, batch.source_mask, row).double().numpy()
    target, answer = (
        [token - END - 1 for token in side if token != END]
        for side in (said(batch.targets[row]), tokens)
    )
    whole = tokens[-1:] == [END] and all(0 <= index < len(points) for index in answer)
    return Pointed(points, target, answer, whole)


class SortingNumbers(PointingTask):
    """Sorting numbers: point at them in rising order.

    Vinyals et al. 2016, "Order Matters: Sequence to sequence for sets". Numbers are uniform in
    ``[0, 1)``; equal ones keep their order. Settings are those of :class:`~tasks.PointingTask`; a
    point is a number.
    """

    width = 1
    fewest = 1

    def points(self, random: np.random.Generator, n: int) -> Array:
        """Uniform in ``[0, 1)``, ``[n, 1]``."""
        return random.random((n, 1), np.float32)

    def several(self, random: np.random.Generator, numbers: Sequence[int]) -> list[Array]:
        """Uniform in ``[0, 1)``, ``[n, 1]`` for each sequence."""
        return uniform(random, numbers, self.width)

    def seen(self, points: Array) -> Array:
        """Numbers, moved and scaled into ``[0, 1]`` if some lie outside of it."""
        return in_unit_square(points)

    def answer(self, points: Array) -> Array:
        """Indices of the numbers, from the least to the greatest."""
        return np.argsort(points[:, 0], kind="stable")

    def answers(self, points: Sequence[Array]) -> list[Array]:
        """Answers to several sequences; all of one length at once."""
        found: dict[int, Array] = {}
        for rows, same in by_length(points):
            found.update(zip(rows, np.argsort(same[..., 0], kind="stable"), strict=True))
        return [found[row] for row in range(len(points))]
