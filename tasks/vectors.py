"""Base class and helpers for tasks of binary vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memnets.batches import Batch
from tasks.base import Array, Task

__all__ = ["SizedTask", "random_bits", "zeros_while_answering"]


class SizedTask(Task):
    """Base class for tasks whose sequences have sizes, such as a length.

    Sizes are drawn from a range in training and validation, and fixed in a test set.

    Args:
        test_sets: by name, the sizes of a test set's sequences, then their number.
        mixed_lengths: whether each sequence of a training batch has sizes of its own. Validation
            always mixes sizes.
        settings: see :class:`~tasks.Task`.
    """

    def __init__(
        self, test_sets: Mapping[str, tuple[int, ...]], mixed_lengths: bool, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.test_sets = test_sets
        self.mixed_lengths = mixed_lengths

    def test_names(self) -> list[str]:
        """Names of the test sets, in their order."""
        return list(self.test_sets)

    def sizes(
        self, random: np.random.Generator, split: str, *ranges: tuple[int, int]
    ) -> list[Array]:
        """Sizes of the sequences of a batch, ``[B]`` for each of the ranges.

        Args:
            random: draws the sizes of training and validation.
            split: ``train``, ``val`` or a test set; a test set has fixed sizes.
            ranges: the least and the greatest value of each size.
        """
        if split in self.test_sets:
            *own, count = self.test_sets[split]
            return [np.full(count, size) for size in own]
        count = self.batch_size if split == "train" else self.validation_batch_size
        # One draw for the batch is broadcast to all of its sequences.
        drawn = count if self.mixed_lengths or split == "val" else 1
        return [
            np.broadcast_to(random.integers(low, high + 1, drawn), (count,)) for low, high in ranges
        ]


def random_bits(random: np.random.Generator, lengths: Array, width: int) -> Array:
    """Random bits ``[B, max n, width]``, 0 behind the end of a sequence."""
    bits = random.integers(0, 2, (len(lengths), lengths.max(), width)).astype(np.float32)
    return bits * (np.arange(lengths.max()) < lengths[:, None])[..., None]


def zeros_while_answering(
    source: Array, targets: Array, source_lengths: Array, target_lengths: Array
) -> Batch:
    """Make a batch with zeros as inputs of the answer, and masks if lengths differ.

    Args:
        source: ``[B, S, I]``.
        targets: ``[B, T, O]``.
        source_lengths: ``[B]``.
        target_lengths: ``[B]``.
    """
    inputs = torch.zeros(*targets.shape[:2], source.shape[-1])
    return Batch(
        source=torch.from_numpy(source),
        inputs=inputs,
        targets=torch.from_numpy(targets),
        source_mask=_mask(source_lengths, source.shape[1]),
        target_mask=_mask(target_lengths, targets.shape[1]),
    )


def _mask(lengths: Array, longest: int) -> Tensor | None:
    """Mask that is True within each length, ``[B, longest]``; ``None`` without padding."""
    if (lengths == longest).all():
        return None
    return torch.from_numpy(np.arange(longest) < lengths[:, None])
