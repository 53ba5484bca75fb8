"""The additive score without a store of all pairs: ``v . tanh(q + k)`` for every query and key.

The twin of :func:`memnets.functional.additive_scores`. The sums of all pairs, ``[*B, Q, N, K]``,
are far larger than every other tensor there. Writing them to main memory takes most of the time,
and a model that attends at each of T steps would keep T of them for the backward pass. Here the
backward pass makes them again, from the queries and the keys.

With one query for each memory, as in a decoder that attends step by step, the pairs are made all at
once. With more queries they are made a block at a time, in the processor's cache, as
``tanh(q + k) = 2 s - 1`` with ``s = 1 / (1 + exp(-2 q) exp(-2 k))``. The exponentials are few, one
for each entry of the queries and of the keys: a pair costs a product and a division, and no
exponential of its own. The results differ from those of the definition by rounding alone.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from memnets import fast, functional
from memnets.kernels.parts import constant, differentiable, unrecorded

__all__ = ["additive"]

#: Numbers in a block. Two blocks of float32 fit into a cache of 2 MiB, and a block is large enough
#: that the time of the Python loop around it is small.
_BLOCK = 1 << 18

#: Largest size of an entry of a query or a key for the product of exponentials: ``exp(2 x)`` and
#: ``exp(-2 x)`` are then finite and not 0, and so is every product that matters.
_LARGEST = {torch.float32: 40.0, torch.float64: 350.0}


def _fits(query: Tensor, keys: Tensor, direction: Tensor) -> bool:
    given, kind, width = (query, keys, direction), query.dtype, query.shape[-1:]
    # What is broadcast or promoted, and errors of shape and type, are the definition's.
    pairs = (
        query.dim() >= 2
        and query.shape[:-2] == keys.shape[:-2]
        and keys.shape[-1:] == direction.shape == width
        and query.numel() > 0
        and keys.numel() > 0
    )
    if not pairs or not all(one.dtype == kind and one.device.type == "cpu" for one in given):
        return False
    if kind not in _LARGEST:
        return False
    # One query saves memory for the backward pass alone.
    return query.shape[-2] > 1 or (
        torch.is_grad_enabled()
        and (query.requires_grad or keys.requires_grad or direction.requires_grad)
    )


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
    kind = _OneQuery if query.shape[-2] == 1 else _Additive
    scores: Tensor = kind.apply(  # type: ignore[no-untyped-call]
        query.reshape(-1, *query.shape[-2:]),
        keys.reshape(-1, *keys.shape[-2:]),
        direction,
    )
    return scores.view(shape)


def _definition(query: Tensor, keys: Tensor, direction: Tensor) -> tuple[Tensor]:
    return (functional.additive_scores(query, keys, direction),)


class _Room(threading.local):
    """Room for the pairs of one step, which the steps of a run share, for each thread.

    The nodes of the graph hold the room, and here is a weak reference alone: it lasts as long as
    the run. A tensor of its own for each step of a memory that grows would be larger each time, and
    leave a hole in main memory that no later one fits into: T^2 in all.
    """

    def __init__(self) -> None:
        self.last: Callable[[], Tensor | None] = lambda: None

    def take(self, keys: Tensor) -> Tensor:
        """A tensor of at least as many numbers as the keys, with any content."""
        room = self.last()
        fits = room is not None and room.dtype == keys.dtype and len(room) >= keys.numel()
        if room is None or not fits:
            room = keys.new_empty(1 << (keys.numel() - 1).bit_length())
            self.last = weakref.ref(room)
        return room


_room = _Room()


def _pairs(query: Tensor, keys: Tensor, room: Tensor) -> Tensor:
    """``tanh(q + k)``, ``[B, 1, K], [B, N, K] -> [B, N, K]``, in a room that is large enough."""
    return torch.add(keys, query, out=room[: keys.numel()].view(keys.shape)).tanh_()


class _OneQuery(torch.autograd.Function):
    """Scores ``[B, 1, N]`` of one query for each memory."""

    @staticmethod
    @unrecorded
    def forward(ctx: Any, query: Tensor, keys: Tensor, direction: Tensor) -> Tensor:
        ctx.save_for_backward(query, keys, direction)
        ctx.given, ctx.plain, ctx.room = 3, _definition, _room.take(keys)
        pairs = _pairs(query, keys, ctx.room)
        return torch.mv(pairs.view(-1, len(direction)), direction).view(len(keys), 1, -1)

    @staticmethod
    @differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, keys, direction = ctx.saved_tensors
        pairs = _pairs(query, keys, _room.take(keys))
        direction_gradient = torch.mv(pairs.view(-1, len(direction)).t(), gradient.reshape(-1))
        # The slope of tanh x is 1 - tanh^2 x; PyTorch's own kernel multiplies it by v too.
        slope = torch.ops.aten.tanh_backward(direction.expand_as(pairs), pairs)
        query_gradient = torch.bmm(gradient, slope)
        return query_gradient, slope.mul_(gradient.mT), direction_gradient


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


#: Makes ``[b, t, 1, K]`` and ``[b, 1, N, K]`` to ``sigmoid(2 q + 2 k)``, ``[b, t, N, K]``, in the
#: room that it is given.
_Sigmoids = Callable[[Tensor, Tensor, Tensor], Tensor]


def _of_exponentials(query: Tensor, keys: Tensor, room: Tensor) -> Tensor:
    one = constant(1.0, room.dtype, room.device)
    return torch.addcmul(one, query, keys, out=room).reciprocal_()


def _of_sums(query: Tensor, keys: Tensor, room: Tensor) -> Tensor:
    return torch.add(query, keys, out=room).sigmoid_()


def _small(query: Tensor, keys: Tensor) -> bool:
    """Whether the exponentials of all entries are finite and not 0."""
    largest = _LARGEST[query.dtype]
    # NaN is not between the two.
    return all(
        bool((-largest <= least) & (most <= largest))
        for least, most in (query.aminmax(), keys.aminmax())
    )


def _made(
    query: Tensor, keys: Tensor, small: bool, rooms: int
) -> Iterator[tuple[slice, slice, Tensor, list[Tensor]]]:
    """Make all sigmoids, block by block.

    Args:
        query: ``[B, Q, K]``.
        keys: ``[B, N, K]``.
        small: the result of :func:`_small`.
        rooms: number of further tensors that the caller needs for a block.

    Yields:
        Rows and queries of a block; its sigmoids, ``[b, t, N, K]``; and tensors of the same shape.
    """
    (rows, queries, width), slots = query.shape, keys.shape[1]
    if small:
        query, keys, sigmoids = query.mul(-2).exp_(), keys.mul(-2).exp_(), _of_exponentials
    else:
        query, keys, sigmoids = 2 * query, 2 * keys, _of_sums
    # The same buffers serve all blocks, so that they stay in the cache. The first block is the
    # largest; only the last of a row or of the batch may be smaller.
    first, columns = next(_blocks(rows, queries, slots * width))
    buffers = query.new_empty(1 + rooms, first.stop * columns.stop * slots * width)
    for row, column in _blocks(rows, queries, slots * width):
        shape = (row.stop - row.start, column.stop - column.start, slots, width)
        size = shape[0] * shape[1] * slots * width
        room, *others = (buffer[:size].view(shape) for buffer in buffers.unbind(0))
        yield row, column, sigmoids(query[row, column, None], keys[row, None], room), others


class _Additive(torch.autograd.Function):
    """Scores ``[B, Q, N]``."""

    @staticmethod
    @unrecorded
    def forward(ctx: Any, query: Tensor, keys: Tensor, direction: Tensor) -> Tensor:
        ctx.save_for_backward(query, keys, direction)
        ctx.given, ctx.plain, ctx.small = 3, _definition, _small(query, keys)
        scores = query.new_empty(*query.shape[:2], keys.shape[1])
        for row, column, block, _ in _made(query, keys, ctx.small, 0):
            torch.mv(block.view(-1, len(direction)), direction, out=scores[row, column].view(-1))
        # v . (2 s - 1) = 2 v . s - sum v.
        return scores.mul_(2).sub_(direction.sum())

    @staticmethod
    @differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, keys, direction = ctx.saved_tensors
        width = len(direction)
        grad = grad.contiguous()
        grad_query, grad_keys = torch.empty_like(query), torch.zeros_like(keys)
        # d/dv of 2 v . s - sum v: the second term is the same for all pairs.
        grad_direction = -grad.sum().expand(width).clone()
        for row, column, block, (slope,) in _made(query, keys, ctx.small, 1):
            part = grad[row, column]
            grad_direction.addmv_(block.view(-1, width).T, part.reshape(-1), alpha=2)
            # The slope of s is s (1 - s) = s - s^2.
            torch.addcmul(block, block, block, value=-1, out=slope)
            slope.mul_(part.unsqueeze(-1))
            torch.sum(slope, -2, out=grad_query[row, column])
            grad_keys[row] += slope.sum(-3)
        # d tanh(x) / dx = 4 s (1 - s): the factor 4 and v wait until all blocks are summed.
        slope_scale = 4 * direction
        return grad_query.mul_(slope_scale), grad_keys.mul_(slope_scale), grad_direction
