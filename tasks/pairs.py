"""Pairs of token sequences, cut into batches of similar length by a budget of tokens."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from memnets.batches import BEGIN, PAD, Batch
from tasks.base import Array, Task

__all__ = ["TokenPairs"]


class TokenPairs:
    """Sources and targets in tokens, sorted by length and cut into batches.

    A pass over training data is a permutation of all pairs, with an order of the batches of its
    own. Other splits have one order, at random, so that the first batches represent all of them.

    Args:
        pairs: tokens of each source and of its target, both with their end mark; at least one pair.
        budget: most tokens of a batch, source and targets with padding; a longer pair is a batch of
            its own.
        limit: most tokens of the longer side of a pair; longer pairs are left out. ``None`` = no
            limit.

    Attributes:
        kept: numbers of the pairs within the limit.
        skipped: number of the other pairs.
        cuts: place of the first pair of each batch among the sorted pairs, then their number.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
        budget: int,
        limit: int | None = None,
    ) -> None:
        longest = np.array([max(map(len, sides)) for sides in pairs])
        self.kept = np.arange(len(pairs)) if limit is None else np.flatnonzero(longest <= limit)
        self.skipped = len(pairs) - len(self.kept)
        self.sources, self.targets = (
            _Side([pairs[row][side] for row in self.kept.tolist()]) for side in (0, 1)
        )
        self._pass: tuple[int, Array, Array] | None = None
        rows = self._sorted()
        # A batch grows until one more pair would exceed the budget, padding included. Sorted pairs
        # have similar lengths, so there is little padding.
        lengths = np.stack([self.sources.lengths, self.targets.lengths], 1)[rows].tolist()
        self.cuts = [0]
        longest_source = longest_target = 0
        for row, (source, target) in enumerate(lengths):
            longest_source = max(longest_source, source)
            longest_target = max(longest_target, target)
            size = row - self.cuts[-1]
            if size and (size + 1) * (longest_source + longest_target) > budget:
                self.cuts.append(row)
                longest_source, longest_target = source, target
        self.cuts.append(len(rows))

    @property
    def batches(self) -> int:
        """Number of batches."""
        return len(self.cuts) - 1

    def rows(self, task: Task, split: str, index: int) -> Array:
        """Numbers of a batch's pairs among the kept ones.

        Args:
            task: gives the random numbers.
            split: the split of these pairs; ``train`` has any number of batches, pass after pass.
            index: number of the batch, at least 0.

        Raises:
            IndexError: the split has no such batch.
        """
        epoch, index = divmod(index, self.batches)
        if split != "train":
            if epoch:
                raise IndexError(f"{split} has {self.batches} batches, numbered from 0")
            rows, order = self._sorted(), task.random(split, 0).permutation(self.batches)
        else:
            # The order of a pass depends on its number alone, so only the present one is kept.
            if self._pass is None or self._pass[0] != epoch:
                random = task.random(split, epoch)
                rows = self._sorted(random.permutation(len(self.kept)))
                self._pass = epoch, rows, random.permutation(self.batches)
            _, rows, order = self._pass
        begin, end = self.cuts[order[index] : order[index] + 2]
        chosen: Array = rows[begin:end]
        return chosen

    def batch(self, rows: Array) -> Batch:
        """Some of the kept pairs; inputs are ``BEGIN``, then the targets one step late."""
        source, source_mask = self.sources.pad(rows)
        targets, target_mask = self.targets.pad(rows)
        inputs = np.full_like(targets, BEGIN)
        inputs[:, 1:] = targets[:, :-1]
        # The shift has moved END into the padding of shorter rows.
        inputs[~target_mask] = PAD
        return Batch(
            source=torch.from_numpy(source),
            inputs=torch.from_numpy(inputs),
            targets=torch.from_numpy(targets),
            source_mask=_mask(source_mask),
            target_mask=_mask(target_mask),
        )

    def _sorted(self, ties: Array | None = None) -> Array:
        """Order of the pairs by the length of the target, then of the source.

        Args:
            ties: a number for each pair, for the order of pairs with the same lengths; ``None`` =
                they keep their order.
        """
        lengths = (self.sources.lengths, self.targets.lengths)
        rows: Array = np.lexsort(lengths if ties is None else (ties, *lengths))
        return rows


class _Side:
    """Sequences of tokens, stored in one array.

    A list of lists would take many times the memory.
    """

    def __init__(self, sequences: Sequence[Sequence[int]]) -> None:
        self.lengths = np.array([len(tokens) for tokens in sequences], np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.tokens = np.fromiter(itertools.chain.from_iterable(sequences), np.int32)

    def pad(self, rows: Array) -> tuple[Array, Array]:
        """Some sequences, int64 ``[B, longest]``, and a mask, False = padding."""
        lengths = self.lengths[rows]
        steps = np.arange(lengths.max())
        real = steps < lengths[:, None]
        padded = np.full(real.shape, PAD, np.int64)
        padded[real] = self.tokens[(self.starts[rows][:, None] + steps)[real]]
        return padded, real


def _mask(real: Array) -> Tensor | None:
    """Mask, False = padding, ``[B, longest]``; ``None`` without padding."""
    return None if real.all() else torch.from_numpy(real)
