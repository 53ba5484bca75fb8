"""The additive score, a block at a time: ``v . tanh(q + k)`` for every query and key.

The twin of :func:`memnets.functional.additive_scores`. The sums of all pairs, ``[*B, Q, N, K]``,
are far larger than every other tensor there, and writing them to main memory takes most of the
time. Here they are made a block at a time, in the processor's cache, in the forward pass and again
in the backward pass. ``tanh(x)`` is computed as ``2 sigmoid(2 x) - 1``: PyTorch's sigmoid is
faster than its tanh, and the result differs by rounding alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from memnets import fast, functional
from memnets.kernels.parts import differentiable

__all__ = ["additive"]

#: Numbers in a block. Two blocks of float32 fit into a cache of 4 MiB, and a block is large enough
#: that the time of the Python loop around it is small.
_BLOCK = 1 << 19


def _fits(query: Tensor, keys: Tensor, direction: Tensor) -> bool:
    # With one query there are no more pairs than keys, so blocks save nothing.
    pairs = query.shape[:-2] == keys.shape[:-2] and query.shape[-2] > 1 and keys.numel() > 0
    return pairs and query.device.type == "cpu"


@fast.twin(functional.additive_scores, fits=_fits)
def additive(query: Tensor, keys: Tensor, direction: Tensor) -> Tensor:
    """Scores of all pairs.

    Args:
        query: projected, ``[*B, Q, K]``, none of its sizes 0.
        keys: ``[*B, N, K]``, with no size 0.
        direction: v, ``[K]``.

    Returns:
        ``[*B, Q, N]``.
    """
    shape = (*query.shape[:-1], keys.shape[-2])
    scores: Tensor = _Additive.apply(  # type: ignore[no-untyped-call]
        query.reshape(-1, *query.shape[-2:]),
        keys.reshape(-1, *keys.shape[-2:]),
        direction,
    )
    return scores.view(shape)


def _blocks(rows: int, queries: int, pairs: int) -> Iterator[tuple[slice, slice]]:
    """Rows and queries of each block; a query has ``pairs`` numbers."""
    per_block = max(1, _BLOCK // pairs)
    # Blocks hold whole rows while they can: then a batch of short rows takes few calls.
    if per_block >= queries:
        step = max(1, per_block // queries)
        for start in range(0, rows, step):
            yield slice(start, min(start + step, rows)), slice(0, queries)
        return
    for row in range(rows):
        for start in range(0, queries, per_block):
            yield slice(row, row + 1), slice(start, min(start + per_block, queries))


def _sigmoids(query: Tensor, keys: Tensor, room: Tensor) -> Tensor:
    """``sigmoid(q + k)``: ``[b, t, K], [b, N, K] -> [b, t, N, K]``, stored in ``room``."""
    shape = (*query.shape[:2], *keys.shape[1:])
    block = room[: query.numel() * keys.shape[1]].view(shape)
    torch.add(query.unsqueeze(-2), keys.unsqueeze(-3), out=block)
    return block.sigmoid_()


class _Additive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, direction: Tensor) -> Tensor:
        ctx.save_for_backward(query, keys, direction)
        ctx.given, ctx.plain = 3, lambda *given: (functional.additive_scores(*given),)
        # Doubled once here, for sigmoid(2 x), and not in each block.
        query, keys = 2 * query, 2 * keys
        (rows, queries, width), slots = query.shape, keys.shape[1]
        scores = query.new_empty(rows, queries, slots)
        # One buffer serves all blocks, so that it stays in the cache.
        room = query.new_empty(_size(rows, queries, slots, width))
        for row, column in _blocks(rows, queries, slots * width):
            block = _sigmoids(query[row, column], keys[row], room)
            torch.mv(block.view(-1, width), direction, out=scores[row, column].view(-1))
        # v . (2 s - 1) = 2 v . s - sum v.
        return scores.mul_(2).sub_(direction.sum())

    @staticmethod
    @differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, keys, direction = ctx.saved_tensors
        query, keys = 2 * query, 2 * keys
        (rows, queries, width), slots = query.shape, keys.shape[1]
        grad = grad.contiguous()
        grad_query, grad_keys = torch.empty_like(query), torch.zeros_like(keys)
        # d/dv of 2 v . s - sum v: the second term is the same for all pairs.
        grad_direction = -grad.sum().expand(width).clone()
        room, other = query.new_empty(2, _size(rows, queries, slots, width)).unbind(0)
        for row, column in _blocks(rows, queries, slots * width):
            block = _sigmoids(query[row, column], keys[row], room)
            part = grad[row, column]
            grad_direction.addmv_(block.view(-1, width).T, part.reshape(-1), alpha=2)
            # The slope of s is s (1 - s) = s - s^2.
            slope = other[: block.numel()].view(block.shape)
            torch.addcmul(block, block, block, value=-1, out=slope)
            slope.mul_(part.unsqueeze(-1))
            torch.sum(slope, -2, out=grad_query[row, column])
            grad_keys[row] += slope.sum(-3)
        # d tanh(x) / dx = 4 s (1 - s): the factor 4 and v wait until all blocks are summed.
        slope_scale = 4 * direction
        return grad_query.mul_(slope_scale), grad_keys.mul_(slope_scale), grad_direction


def _size(rows: int, queries: int, slots: int, width: int) -> int:
    """Numbers in the largest block."""
    # The first block is the largest; only the last of a row or of the batch may be smaller.
    row, column = next(_blocks(rows, queries, slots * width))
    size: int = row.stop * column.stop * slots * width
    return size
