"""What the tasks of binary vectors share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from memnets.core import Batch

__all__ = ["Array", "draw_sizes", "mask_of", "random_bits", "zeros_while_answering"]

Array = np.ndarray[Any, Any]


def draw_sizes(random: np.random.Generator, low: int, high: int, size: int, mixed: bool) -> Array:
    """Whole numbers from low to high, ``[size]``; all the same unless mixed."""
    return np.broadcast_to(random.integers(low, high + 1, size if mixed else 1), (size,))


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
        source_mask=mask_of(source_lengths, source.shape[1]),
        target_mask=mask_of(target_lengths, targets.shape[1]),
    )


def mask_of(lengths: Array, longest: int) -> Tensor | None:
    """True within each length, ``[B, longest]``; ``None`` if nothing is padding."""
    if (lengths == longest).all():
        return None
    return torch.from_numpy(np.arange(longest) < lengths[:, None])
