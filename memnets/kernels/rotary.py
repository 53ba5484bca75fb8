"""Rotary positions as products of complex numbers.

The twin of :meth:`memnets.cells.RotaryPositions.rotate`. The definition takes the pairs of numbers
apart, makes four products and two sums of numbers that do not lie side by side, and puts them
together again; its backward pass does as much. Here each way is one product of complex numbers, of
which the factors alone are kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from memnets import fast
from memnets.cells.positions import RotaryPositions, angles_of

__all__ = ["rotate"]


def _fits(part: RotaryPositions, vectors: Tensor, places: Tensor) -> bool:
    # Of an odd width the definition tells the error.
    return vectors.numel() > 0 and vectors.shape[-1] % 2 == 0 and not places.is_floating_point()


@fast.twin(RotaryPositions, "rotate", fits=_fits)
def rotate(part: RotaryPositions, vectors: Tensor, places: Tensor) -> Tensor:
    """``[*B, T, K] -> [*B, T, K]``: see :meth:`memnets.cells.RotaryPositions.rotate`."""
    angles = angles_of(places, vectors.shape[-1], part.base, vectors.dtype)
    turned: Tensor = _Turn.apply(vectors, torch.complex(angles.cos(), angles.sin()))  # type: ignore[no-untyped-call]
    return turned


class _Turn(torch.autograd.Function):
    """Pairs of numbers times complex numbers, ``[*B, T, K]`` and ``[*B, T, K / 2]``."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, factors: Tensor) -> Tensor:
        ctx.save_for_backward(factors)
        return torch.view_as_real(_pairs(vectors) * factors).flatten(-2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (factors,) = ctx.saved_tensors
        # Turned back, by the same node, so that it has a gradient of its own.
        turned: Tensor = _Turn.apply(gradient, factors.conj().resolve_conj())  # type: ignore[no-untyped-call]
        return turned, None


def _pairs(vectors: Tensor) -> Tensor:
    """Each pair as a complex number, ``[*B, T, K] -> [*B, T, K / 2]``; a copy only if need be."""
    *strides, last = vectors.stride()
    if last != 1 or vectors.storage_offset() % 2 or any(stride % 2 for stride in strides):
        # Not contiguous(), which leaves what is contiguous at an odd place, or with odd strides of
        # dimensions of size 1.
        vectors = vectors.clone(memory_format=torch.contiguous_format)
    return torch.view_as_complex(vectors.unflatten(-1, (-1, 2)))
