"""What the tasks of binary vectors share."""

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
    """Sequences that have sizes, such as a length: drawn from a range, or those of a test set.

    Args:
        test_sets: name -> the sizes that its sequences have, and last how many they are.
        mixed_lengths: draw sizes for every sequence of training; otherwise once for the batch.
            Validation always mixes.
        settings: see :class:`~tasks.Task`.
    """

    def __init__(
        self, test_sets: Mapping[str, tuple[int, ...]], mixed_lengths: bool, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.test_sets = test_sets
        self.mixed_lengths = mixed_lengths

    def test_names(self) -> list[str]:
        """The names of the test sets, in their order."""
        return list(self.test_sets)

    def sizes(
        self, random: np.random.Generator, split: str, *ranges: tuple[int, int]
    ) -> list[Array]:
        """Sizes of the sequences of a batch, ``[B]`` for each of the ranges.

        Args:
            random: draws those of training and validation.
            split: ``train``, ``val`` or a test set, whose own sizes it is then.
            ranges: the least and the greatest of each size.
        """
        if split in self.test_sets:
            *own, count = self.test_sets[split]
            return [np.full(count, size) for size in own]
        count = self.batch_size if split == "train" else self.validation_batch_size
        drawn = count if self.mixed_lengths or split == "val" else 1
        return [
            np.broadcast_to(random.integers(low, high + 1, drawn), (count,)) for low, high in ranges
        ]


def random_bits(random: np.random.Generator, lengths: Array, width: int) -> Array:
    """Random bits ``[B, max n, width]``, 0 beyond the length of a sequence."""
    bits = random.integers(0, 2, (len(lengths), lengths.max(), width)).astype(np.float32)
    return bits * (np.arange(lengths.max()) < lengths[:, None])[..., None]


def zeros_while_answering(
    source: Array, targets: Array, source_lengths: Array, target_lengths: Array
) -> Batch:
    """A batch that is given zeros while it answers, with masks where lengths differ."""
    inputs = torch.zeros(*targets.shape[:2], source.shape[-1])
    return Batch(
        source=torch.from_numpy(source),
        inputs=inputs,
        targets=torch.from_numpy(targets),
        source_mask=_mask(source_lengths, source.shape[1]),
        target_mask=_mask(target_lengths, targets.shape[1]),
    )


def _mask(lengths: Array, longest: int) -> Tensor | None:
    """True within each length, ``[B, longest]``; ``None`` if nothing is padding."""
    if (lengths == longest).all():
        return None
    return torch.from_numpy(np.arange(longest) < lengths[:, None])
