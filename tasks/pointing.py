"""Tasks whose answer points at the source (Vinyals et al. 2015, "Pointer Networks"); sorting.

An answer is a sequence of indices into the source, then the end mark. The token ``END + 1 + i``
says "slot i of the source", i from 0, so that an answer in tokens is searched, trained and scored
as any other.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from memnets.batches import END, Batch, padded, unpadded
from memnets.core import check_positive
from tasks.base import Array, Task, by_name, check_range
from tasks.tokens import MARKS, answer_batch, answered_rows, said

__all__ = ["Pointed", "PointingTask", "SortingNumbers", "as_batch"]


class Pointed(NamedTuple):
    """An answer, read as indices.

    Attributes:
        points: float64 ``[n, width]``.
        target: the right answer, k indices.
        answer: what was said before the end mark, as indices; one that is not in ``[0, n)`` is no
            point.
        whole: the answer has an end mark, and before it nothing but points.
    """

    points: Array
    target: list[int]
    answer: list[int]
    whole: bool


class PointingTask(Task):
    """Points are given, and the answer is some of them in order; which, a subclass says.

    The source is float32 ``[B, S, width]``, padded with zeros behind a mask where sequences differ
    in n. Targets are tokens ``[B, T]``.

    Args:
        min_points: fewest points of a sequence.
        max_points: most points of training, validation and the test set ``test``.
        test_points: pairs (n, sequences): further test sets, named ``n_<n>``.
        test_sequences: in ``test``, with as many points as in training, at least 1.
        batch_points: points in a training batch, at least ``max_points``. All its sequences then
            have one n, drawn for the batch, and there are as many as fit; ``batch_size`` is not
            used. If not given, n is drawn for each sequence.
        settings: see :class:`~tasks.Task`.
    """

    #: Numbers that a point is made of.
    width: ClassVar[int] = 2
    #: Fewer points have no answer.
    fewest: ClassVar[int] = 3

    def __init__(
        self,
        min_points: int = 5,
        max_points: int = 20,
        test_points: Sequence[tuple[int, int]] = (),
        test_sequences: int = 1000,
        batch_points: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_positive(test_sequences=test_sequences)
        check_range("points", min_points, max_points, least=self.fewest)
        for n, sequences in test_points:
            check_positive(test_sequences=sequences)
            if n < self.fewest:
                raise ValueError(f"test_points must be of at least {self.fewest} points; got {n}")
        if batch_points is not None and batch_points < max_points:
            raise ValueError(
                "batch_points must be at least max_points, so that a batch holds a sequence; "
                f"got {batch_points} and {max_points}"
            )
        self.min_points = min_points
        self.max_points = max_points
        self.test_sequences = test_sequences
        self.batch_points = batch_points
        self.test_sets = by_name((f"n_{n}", (n, sequences)) for n, sequences in test_points)
        #: The largest n of any split.
        self.most_points = max([max_points, *(n for n, _ in test_points)])
        self.input_size = self.width
        self.output_size = END + 1 + self.most_points

    @abstractmethod
    def points(self, random: np.random.Generator, n: int) -> Array:
        """Random points, float32 ``[n, width]``."""

    @abstractmethod
    def answer(self, points: Array) -> Sequence[int] | Array:
        """Indices that answer ``points``, float32 ``[n, width]``."""

    def answers(self, points: Sequence[Array]) -> Sequence[Sequence[int] | Array]:
        """An answer to each of many; override it where many at once are faster."""
        return [self.answer(rows) for rows in points]

    def check(self, points: Array) -> None:
        """Check that points, float32 ``[n, width]`` and finite, have an answer.

        Raises:
            ValueError: they have none.
        """

    def judge(self, pointed: Pointed) -> dict[str, float]:
        """Scores of an answer that its targets alone do not tell; none if not overridden.

        With lines to draw there are at least ``exact`` and ``invalid``, 0 or 1.
        """
        return {}

    def lines(self, points: Array, answer: list[int]) -> list[Array] | None:
        """Lines ``[k, 2]`` that draw an answer; ``None``, if not overridden: it is no drawing.

        Args:
            points: ``[n, width]``.
            answer: k indices into the points, any.
        """
        return None

    def test_names(self) -> list[str]:
        """``test``, and ``n_<n>`` for each further number of points."""
        return ["test", *self.test_sets]

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or a test set."""
        points = self.drawn(split, index)
        return as_batch(points, self.answers(points))

    def drawn(self, split: str, index: int) -> list[Array]:
        """The points of a batch, float32 ``[n, width]`` a sequence."""
        random = self.random(split, index)
        if split in self.test_sets:
            n, size = self.test_sets[split]
            numbers = [n] * size
        elif split == "train" and self.batch_points is not None:
            n = int(random.integers(self.min_points, self.max_points + 1))
            numbers = [n] * (self.batch_points // n)
        else:
            size = self.sequences(split, self.test_sequences)
            numbers = random.integers(self.min_points, self.max_points + 1, size).tolist()
        return [self.points(random, n) for n in numbers]

    def batch_of(self, points: Sequence[ArrayLike]) -> Batch:
        """A batch of anybody's points, with their answers.

        Args:
            points: B sequences ``[n, width]``, at least one, each of an n of its own.

        Raises:
            ValueError: a sequence has too few points, of another width, that are not finite in
                float32, or that have no answer; the message names the sequence and the points, both
                counted from 0.
        """
        if not len(points):
            raise ValueError("expected sequences of points; got none")
        checked = []
        for number, rows in enumerate(points):
            try:
                checked.append(self._checked(rows))
            except ValueError as error:
                raise ValueError(f"sequence {number}: {error}") from None
        return as_batch(checked, self.answers(checked))

    def _checked(self, rows: ArrayLike) -> Array:
        with np.errstate(over="ignore"):
            points: Array = np.asarray(rows, np.float32)
        if points.ndim != 2 or points.shape[1] != self.width:
            raise ValueError(f"expected points [n, {self.width}]; got {list(points.shape)}")
        if len(points) < self.fewest:
            raise ValueError(f"expected at least {self.fewest} points; got {len(points)}")
        for index in np.flatnonzero(~np.isfinite(points).all(1))[:1]:
            raise ValueError(
                f"expected numbers that are finite in float32; "
                f"got {points[index].tolist()} as point {index}"
            )
        self.check(points)
        return points

    def measure(self, split: str, answers: list[Tensor]) -> dict[str, float]:
        """Mean scores of the answers to a test set, each over the answers that have it.

        Args:
            split: one of :meth:`test_names`.
            answers: tokens ``[B, T]`` for each batch of the set; what follows an end mark is not
                read, and they may say anything.

        Returns:
            What the class says of its scores.

        Raises:
            ValueError: there is not an answer for each sequence.
        """
        judged = [
            self.judge(_read(batch, row, tokens))
            for batch, row, tokens in answered_rows(self, split, answers)
        ]
        names = dict.fromkeys(name for scores in judged for name in scores)
        return {
            name: float(np.mean([scores[name] for scores in judged if name in scores]))
            for name in names
        }

    def labels(self, batch: Batch, row: int) -> tuple[list[str], list[str]]:
        """Points by their number, from 1; marks by their names."""
        source = unpadded(batch.source, batch.source_mask, row)
        targets = unpadded(batch.targets, batch.target_mask, row)
        return (
            [str(number + 1) for number in range(len(source))],
            [MARKS.get(token, str(token - END)) for token in targets.tolist()],
        )

    def drawing(
        self, batch: Batch, row: int, tokens: Tensor
    ) -> tuple[Array, list[Array], str] | None:
        """The points, the lines of an answer, and how good it is."""
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


def as_batch(points: Sequence[Array], answers: Sequence[Sequence[int] | Array]) -> Batch:
    """A batch of points ``[n, width]`` and the indices that answer them."""
    return answer_batch(
        *padded(points, np.float32), [np.asarray(answer) + END + 1 for answer in answers]
    )


def _read(batch: Batch, row: int, tokens: list[int]) -> Pointed:
    """An answer, up to its end mark, to one sequence of a batch."""
    points = unpadded(batch.source, batch.source_mask, row).double().numpy()
    target, answer = (
        [token - END - 1 for token in side if token != END]
        for side in (said(batch.targets[row]), tokens)
    )
    whole = tokens[-1:] == [END] and all(0 <= index < len(points) for index in answer)
    return Pointed(points, target, answer, whole)


class SortingNumbers(PointingTask):
    """See numbers, point at them in rising order.

    Vinyals et al. 2016, "Order Matters: Sequence to sequence for sets". Numbers are uniform in
    ``[0, 1)``; of equal ones, the first comes first.

    Args:
        min_points: fewest numbers of a sequence, at least 1.
        max_points: most numbers of training, validation and the test set ``test``.
        test_points: pairs (n, sequences): further test sets, named ``n_<n>``.
        test_sequences: in ``test``, with as many numbers as in training, at least 1.
        batch_points: numbers in a training batch, at least ``max_points``; see
            :class:`~tasks.pointing.PointingTask`.
        settings: see :class:`~tasks.Task`.
    """

    width = 1
    fewest = 1

    def points(self, random: np.random.Generator, n: int) -> Array:
        """Uniform in ``[0, 1)``, ``[n, 1]``."""
        return random.random((n, 1), np.float32)

    def answer(self, points: Array) -> Array:
        """Where the numbers are, from the least to the greatest."""
        return np.argsort(points[:, 0], kind="stable")
