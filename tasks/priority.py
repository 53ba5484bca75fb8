"""Priority sort (Graves et al. 2014, section 4.5)."""

from __future__ import annotations

from typing import Any

import numpy as np

from memnets.batches import Batch
from memnets.core import check_positive
from tasks.base import Task
from tasks.vectors import zeros_while_answering

__all__ = ["PrioritySort"]


class PrioritySort(Task):
    """See random binary vectors, each with a priority; say the first of them, highest first.

    Graves et al. 2014, section 4.5. The source is ``[B, n + 1, width + 2]``: n vectors, with the
    priority on the last channel but one, then a flag, 1 on the last channel alone. Priorities are
    uniform in ``[-1, 1)``; of those that tie in single precision, which is what the model is given,
    the one that was seen first comes first. While it answers, the model is given zeros. Targets are
    ``[B, answers, width]``.

    The test set is named ``test``.

    Args:
        width: bits of a vector, at least 1.
        length: n, vectors of a sequence, at least 1.
        answers: how many to say, at least 1 and at most ``length``.
        training_length: vectors of a sequence of training for now, as a curriculum sets it, at
            least 1 and at most ``length``, which it is if not given; of fewer vectors, the same
            share is to be said, rounded up.
        test_sequences: sequences of the test set, at least 1.
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
        """Vectors of a sequence of training for now."""
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
        priorities = random.uniform(-1, 1, (size, length)).astype(np.float32)
        source[:, :-1, : self.width] = bits
        source[:, :-1, -2] = priorities
        source[:, -1, -1] = 1
        order = np.argsort(-priorities, axis=1, kind="stable")[:, :answers]
        targets = np.take_along_axis(bits, order[..., None], 1)
        steps, said = (np.full(size, number) for number in (length + 1, answers))
        return zeros_while_answering(source, targets, steps, said)
