"""Associative recall (Graves et al. 2014, section 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from memnets.batches import Batch
from memnets.checks import check_positive
from tasks.base import by_name, check_range
from tasks.vectors import SizedTask, zeros_while_answering

__all__ = ["AssociativeRecall"]


class AssociativeRecall(SizedTask):
    """Associative recall: after a list of items and one of them again, answer with the next item.

    Graves et al. 2014, section 4.3. An item is ``item_length`` random binary vectors. The source is
    ``[B, (n + 1) (item_length + 1) + 1, width + 2]``: a step with 1 in the last channel but one
    before each of the n items; then a step with 1 in the last channel, any item but the last, and
    such a step again. The inputs during the answer are zeros. Targets are
    ``[B, item_length, width]``.

    Args:
        width: number of bits of a vector, at least 1.
        item_length: number of vectors of an item, at least 1.
        min_items: fewest items, at least 2.
        max_items: most items of training and validation.
        mixed_lengths: whether each sequence of a training batch has a number of items of its own.
            One number for the batch needs no padding and is faster. Validation always mixes
            numbers; test sets never do.
        test_sets: test sets, pairs (items, number of sequences), named ``items_<n>``.
        settings: see :class:`~tasks.Task`.
    """

    def __init__(
        self,
        width: int = 6,
        item_length: int = 3,
        min_items: int = 2,
        max_items: int = 6,
        mixed_lengths: bool = False,
        test_sets: Sequence[tuple[int, int]] = ((6, 100), (12, 100), (20, 100)),
        **settings: Any,
    ) -> None:
        named = by_name((f"items_{n}", (n, sequences)) for n, sequences in test_sets)
        super().__init__(named, mixed_lengths, **settings)
        check_positive(width=width, item_length=item_length)
        check_range("items", min_items, max_items, least=2)
        for items, sequences in test_sets:
            check_positive(test_sequences=sequences)
            if items < 2:
                raise ValueError(f"a test set must have at least 2 items; got {items}")
        step = (item_length + 1) * (width + 2)
        self.check_room(
            max_items + 2, step, tested=[(size, items + 2, step) for items, size in test_sets]
        )
        self.width = width
        self.item_length = item_length
        self.min_items = min_items
        self.max_items = max_items
        self.input_size = width + 2
        self.output_size = width

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or a test set."""
        random = self.random(split, index)
        (items,) = self.sizes(random, split, (self.min_items, self.max_items))
        size, most, step = len(items), int(items.max()), self.item_length + 1
        rows = np.arange(size)
        bits = random.integers(0, 2, (size, most, self.item_length, self.width)).astype(np.float32)
        # Any item but the last, which no item follows.
        asked = random.integers(0, items - 1)
        # A block is a delimiter and an item. The last block asks, and a delimiter comes after it.
        blocks = np.zeros((size, most + 2, step, self.input_size), np.float32)
        listed = (np.arange(most) < items[:, None])[..., None]
        blocks[:, :most, 0, -2] = listed[..., 0]
        blocks[:, :most, 1:, : self.width] = bits * listed[..., None]
        blocks[rows, items, 0, -1] = 1
        blocks[rows, items, 1:, : self.width] = bits[rows, asked]
        blocks[rows, items + 1, 0, -1] = 1
        lengths = (items + 1) * step + 1
        # Of the last block only its delimiter is part of a sequence.
        source = blocks.reshape(size, -1, self.input_size)[:, : lengths.max()].copy()
        answers = np.full(size, self.item_length)
        return zeros_while_answering(source, bits[rows, asked + 1], lengths, answers)
