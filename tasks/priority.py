"""Priority sort (Graves et al. 2014, section 4.5)."""

from __future__ import annotations

from typing import Any

import numpy as np

from memnets.batches import Batch
from memnets.checks import check_positive
from tasks.base import Task
from tasks.vectors import zeros_while_answering

__all__ = ["PrioritySort"]


class PrioritySort(Task):
    """Priority sort: answer with the vectors of the highest priorities, highest first.

    Graves et al. 2014, section 4.5. The source is ``[B, n + 1, width + 2]``: n random binary
    vectors with their priorities in the last channel but one, then a flag, 1 in the last channel
    alone. Priorities are uniform in ``[-1, 1)``. Equal ones in single precision, the model's,
    keep their order. The inputs during the answer are zeros. Targets are ``[B, answers, width]``.

    The test set is named ``test``.

    Args:
        width: number of bits of a vector, at least 1.
        length: n, the number of vectors of a sequence, at least 1.
        answers: number of vectors of an answer, at least 1 and at most ``length``.
        training_length: number of vectors of a training sequence at present, as a curriculum sets
            it, at least 1 and at most ``length``, the default. The answer has the same share of
            the vectors, rounded up.
        test_sequences: number of sequences of the test set, at least 1.
        settings: see :class:`~tasks.Task`.
    """

    def __init__(
        self,
        width: int = 8,
        length: int = 20,
        answers: int = 16,
        training_length: int | None = None,
        test_sequences: int = 500,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_positive(width=width, length=length, answers=answers, test_sequences=test_sequences)
        self.check_room(length + 1, width + 2, tested=[(test_sequences, length + 1, width + 2)])
        if answers > length:
            raise ValueError(f"answers must be at most length = {length}; got {answers}")
        self.width = width
        self.length = length
        self.answers = answers
        self.training_length = training_length
        self.test_sequences = test_sequences
        self.input_size = width + 2
        self.output_size = width

    @property
    def training_length(self) -> int | None:
        """Number of vectors of a training sequence at present; ``None`` = ``length``."""
        return self._training_length

    @training_length.setter
    def training_length(self, length: int | None) -> None:
        if length is not None:
            check_positive(training_length=length)
            if length > self.length:
                raise ValueError(
                    f"training_length must be at most length = {self.length}; got {length}"
                )
        self._training_length = length

    def test_names(self) -> list[str]:
        """``test``."""
        return ["test"]

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or ``test``."""
        random = self.random(split, index)
        size = self.sequences(split, self.test_sequences)
        length = (self.training_length if split == "train" else None) or self.length
        answers = -(-self.answers * length // self.length)  # rounded up
        source = np.zeros((size, length + 1, self.input_size), np.float32)
        bits = random.integers(0, 2, (size, length, self.width)).astype(np.float32)
        # Rounded before the sort: the order must follow from the numbers that the model sees.
        priorities = random.uniform(-1, 1, (size, length)).astype(np.float32)
        source[:, :-1, : self.width] = bits
        source[:, :-1, -2] = priorities
        source[:, -1, -1] = 1
        # Stable, for equal priorities; negated, since a reversed order would turn ties round.
        order = np.argsort(-priorities, axis=1, kind="stable")[:, :answers]
        targets = np.take_along_axis(bits, order[..., None], 1)
        steps, said = (np.full(size, number) for number in (length + 1, answers))
        return zeros_while_answering(source, targets, steps, said)
