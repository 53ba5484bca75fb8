"""Hypothesis strategies for memories, queries and other tensors.

Hypothesis draws sizes, a kind of content and a seed; torch fills the tensors from the seed, which
is much faster than drawing each number. Special cases come often: 0, the smallest normal number,
numbers so large that their products nearly overflow, masks without an open slot, and weights that
are exactly one-hot.

All tensors are new, on the CPU, and require no gradient. Letters as in :mod:`memnets.core`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

from memnets import functional
from memnets.addressing import AllocatingQuery, LinkedQuery, NTMQuery, SharpQuery
from memnets.core import Memory

__all__ = [
    "allocating_queries",
    "linked_queries",
    "magnitude",
    "masks",
    "memories",
    "ntm_queries",
    "queries",
    "seeds",
    "shapes",
    "sharp_queries",
    "shift_kernels",
    "sizes",
    "tensors",
    "tokens",
    "weights",
]


# Hypothesis checks a strategy when it is first drawn from; laws draw from these again and again.
_SEEDS = st.integers(0, 2**32 - 1)
_SHAPES = st.sampled_from([(2,), (), (2, 3), (1,), (3,), (3, 1)])
_KINDS = st.sampled_from(["ordinary", "mixed", "constant", "equal"])


@cache
def _sizes(likely: int, greatest: int) -> SearchStrategy[int]:
    others = [size for size in range(1, greatest + 1) if size != likely]
    return st.sampled_from([likely, *others])


def magnitude(dtype: torch.dtype, degree: int = 3) -> float:
    """A large number for which the sum of a few products of ``degree`` factors is finite.

    Args:
        dtype: a floating-point type.
        degree: number of factors, at least 1; 3 for a gradient's product of query, key and value.
    """
    return float(torch.finfo(dtype).max ** (1 / degree)) / 4


def seeds() -> SearchStrategy[int]:
    """Seeds for ``torch.manual_seed``."""
    return _SEEDS


def sizes(likely: int, greatest: int) -> SearchStrategy[int]:
    """Sizes from 1 to ``greatest``; ``likely`` comes first, and often.

    A batch of 1 or a memory of 1 slot hides many faults, so the simplest size is not the best.
    """
    return _sizes(likely, greatest)


def shapes() -> SearchStrategy[tuple[int, ...]]:
    """Leading dims ``*B``: none, one or two of them."""
    return _SHAPES


@st.composite
def tensors(
    draw: DrawFn,
    shape: Sequence[int],
    dtype: torch.dtype = torch.float64,
    low: float | None = None,
    high: float | None = None,
    special: bool = True,
) -> Tensor:
    """Finite tensors.

    Args:
        draw: an argument from Hypothesis.
        shape: shape of the tensor.
        dtype: a floating-point type.
        low: least number; ``None`` = numbers from a normal distribution.
        high: greatest number; ``None`` if ``low`` is.
        special: whether special numbers may come: 0, also in whole rows; the smallest normal
            number; the ends of the range, or plus and minus :func:`magnitude` without one; and
            equal entries. Without special numbers all entries differ, almost surely.

    Raises:
        ValueError: only one of ``low`` and ``high`` is ``None``.
    """
    if (low is None) != (high is None):
        raise ValueError(f"give both low and high, or neither; got {low} and {high}")
    generator = _generator(draw)
    # Drawn in double precision, so that all types get the same numbers, rounded.
    if low is None or high is None:
        ordinary = torch.randn(*shape, generator=generator, dtype=torch.float64)
        ends = [-magnitude(dtype), magnitude(dtype)]
    else:
        ordinary = torch.rand(*shape, generator=generator, dtype=torch.float64)
        ordinary = low + (high - low) * ordinary
        ends = [low, high]
    kind = draw(_KINDS) if special else None
    if kind in ("mixed", "constant"):
        tiny = torch.finfo(dtype).tiny
        inside = [number for number in (0.0, tiny, -tiny) if ends[0] <= number <= ends[1]]
        numbers = torch.tensor([*ends, *inside], dtype=torch.float64)
        if kind == "constant":
            ordinary = numbers[draw(st.integers(0, len(numbers) - 1))].expand(*shape).clone()
        else:
            # Half of the entries are special, and a quarter of the rows all zeros.
            chosen = numbers[torch.randint(len(numbers), tuple(shape), generator=generator)]
            swap = torch.rand(*shape, generator=generator) < 0.5
            ordinary = torch.where(swap, chosen, ordinary)
            if shape and ends[0] <= 0 <= ends[1]:
                zero_rows = torch.rand(*shape[:-1], 1, generator=generator) < 0.25
                ordinary = ordinary.masked_fill(zero_rows, 0.0)
    elif kind == "equal" and ordinary.numel():
        ordinary = ordinary.flatten()[0].expand(*shape).clone()
    tensor = ordinary.to(dtype)
    return tensor if low is None else tensor.clamp(low, high)


@st.composite
def masks(draw: DrawFn, shape: Sequence[int], empty_rows: bool = True) -> Tensor:
    """Boolean masks ``[*B, 1 or Q, N]``, True = may be addressed.

    Args:
        draw: an argument from Hypothesis.
        shape: shape of the mask, at least one dimension.
        empty_rows: whether rows without an open slot may come.
    """
    generator = _generator(draw)
    kind = draw(st.sampled_from(["rows", "full", "empty"] if empty_rows else ["rows", "full"]))
    if kind != "rows":
        return torch.full(tuple(shape), kind == "full")
    # Each row is one of: all slots open, some of them, one, or none.
    # "Some" includes one slot for sure, so that only the last choice is an empty row.
    one = torch.randint(shape[-1], tuple(shape)[:-1], generator=generator)
    single = torch.nn.functional.one_hot(one, shape[-1]).bool()
    some = single | (torch.rand(*shape, generator=generator) < 0.5)
    choices = torch.stack([torch.ones_like(single), some, single, torch.zeros_like(single)])
    choice = torch.randint(4 if empty_rows else 3, (1, *shape[:-1], 1), generator=generator)
    return choices.gather(0, choice.expand(1, *shape)).squeeze(0)


def tokens(size: int, least: int = 0) -> Callable[[int, int], SearchStrategy[Tensor]]:
    """Strategies for token sequences, for :func:`~memnets.testing.check_model`.

    Args:
        size: tokens are in ``[least, size)``.
        least: the lowest token.

    Returns:
        A function from B and T to a strategy for tokens, int64 ``[B, T]``.
    """

    def steps(batch: int, time: int) -> SearchStrategy[Tensor]:
        def draw(seed: int) -> Tensor:
            generator = torch.Generator().manual_seed(seed)
            return torch.randint(least, size, (batch, time), generator=generator)

        return seeds().map(draw)

    return steps


@st.composite
def weights(draw: DrawFn, shape: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
    """Weights ``[*B, Q, N]``, rows on the simplex: smooth, sparse, equal or exactly one-hot."""
    generator = _generator(draw)
    # One-hot first: Hypothesis shrinks to it, and a failure is then easy to read.
    kind = draw(st.sampled_from(["one-hot", "smooth", "sparse", "equal"]))
    if kind == "one-hot":
        one = torch.randint(shape[-1], tuple(shape)[:-1], generator=generator)
        return torch.nn.functional.one_hot(one, shape[-1]).to(dtype)
    scores = 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    if kind == "equal":
        scores = torch.zeros_like(scores)
    normalize = functional.sparsemax if kind == "sparse" else functional.softmax
    return normalize(scores).to(dtype)


def shift_kernels(
    shape: Sequence[int], dtype: torch.dtype = torch.float64
) -> SearchStrategy[Tensor]:
    """Kernels of a shift, ``[*B, Q, S]`` with S odd, rows on the simplex."""
    return weights(shape, dtype)


@st.composite
def memories(
    draw: DrawFn,
    batch: Sequence[int] | None = None,
    slots: int | None = None,
    width: int = 4,
    value_width: int = 3,
    queries: int = 1,
    masked: bool | None = None,
    dtype: torch.dtype = torch.float64,
    special: bool = True,
) -> Memory:
    """Memories.

    Args:
        draw: an argument from Hypothesis.
        batch: ``*B``; drawn by default.
        slots: N, the number of slots; drawn by default.
        width: K, width of the keys.
        value_width: V, width of the values.
        queries: Q, the number of queries; the mask is ``[*B, 1, N]`` or ``[*B, Q, N]``.
        masked: whether there is a mask; drawn by default.
        dtype: type of keys and values.
        special: as for :func:`tensors`.
    """
    batch = draw(shapes()) if batch is None else tuple(batch)
    slots = draw(sizes(3, 6)) if slots is None else slots
    masked = draw(st.booleans()) if masked is None else masked
    keys = draw(tensors((*batch, slots, width), dtype, special=special))
    values = draw(tensors((*batch, slots, value_width), dtype, special=special))
    rows = draw(st.sampled_from(sorted({1, queries}))) if masked else 0
    return Memory(keys, values, draw(masks((*batch, rows, slots))) if masked else None)


def queries(memory: Memory, count: int = 1, special: bool = True) -> SearchStrategy[Tensor]:
    """Queries ``[*B, Q, K]`` that fit a memory.

    Args:
        memory: the memory that the queries fit.
        count: Q, the number of queries.
        special: as for :func:`tensors`.
    """
    keys = memory.keys
    return tensors((*keys.shape[:-2], count, keys.shape[-1]), keys.dtype, special=special)


@st.composite
def sharp_queries(draw: DrawFn, memory: Memory, count: int = 1, special: bool = True) -> SharpQuery:
    """Keys that fit a memory, with strengths.

    Args:
        draw: an argument from Hypothesis.
        memory: the memory that the queries fit.
        count: Q, the number of queries.
        special: as for :func:`tensors`.
    """
    dtype = memory.keys.dtype
    shape = (*memory.keys.shape[:-2], count, 1)
    # A gradient multiplies the strength as well.
    great = magnitude(dtype) ** 0.5 if special else 4.0
    strength = draw(tensors(shape, dtype, torch.finfo(dtype).tiny, great, special))
    return SharpQuery(draw(queries(memory, count, special)), strength)


@st.composite
def allocating_queries(
    draw: DrawFn, memory: Memory, count: int = 1, special: bool = True
) -> AllocatingQuery:
    """Queries of write heads of a DNC; arguments as for :func:`sharp_queries`."""
    key, strength = draw(sharp_queries(memory, count, special))
    gates = tensors((*memory.keys.shape[:-2], count, 1), key.dtype, 0.0, 1.0, special)
    return AllocatingQuery(key, 1 + strength, draw(gates), draw(gates))


@st.composite
def linked_queries(
    draw: DrawFn, memory: Memory, count: int = 1, special: bool = True
) -> LinkedQuery:
    """Queries of read heads of a DNC; arguments as for :func:`sharp_queries`."""
    key, strength = draw(sharp_queries(memory, count, special))
    modes = draw(weights((*memory.keys.shape[:-2], count, 3), key.dtype))
    return LinkedQuery(key, 1 + strength, modes)


@st.composite
def ntm_queries(
    draw: DrawFn, memory: Memory, count: int = 1, special: bool = True, kernel: int | None = None
) -> NTMQuery:
    """Queries of heads of a Neural Turing Machine; the shift kernel has a size of at most N.

    Args:
        draw: an argument from Hypothesis.
        memory: the memory that the queries fit.
        count: Q, the number of queries.
        special: whether special numbers may come, in each part the ends of its range.
        kernel: size of the shift kernel, odd and at most N, for an addressing with a fixed size:
            ``check_addressing(..., query=partial(ntm_queries, kernel=3), least_slots=3)``; drawn by
            default.

    Raises:
        ValueError: the kernel is even or greater than N.
    """
    *batch, slots, _ = memory.keys.shape
    dtype = memory.keys.dtype
    if kernel is None:
        kernel = draw(st.sampled_from([size for size in (3, 1, 5) if size <= slots]))
    elif not (0 < kernel <= slots and kernel % 2):
        raise ValueError(
            f"kernel must be odd and at most the number of slots, {slots}; got {kernel} "
            f"(check_addressing takes least_slots={kernel})"
        )

    def part(low: float, high: float) -> Any:
        return draw(tensors((*batch, count, 1), dtype, low, high, special))

    key, strength = draw(sharp_queries(memory, count, special))
    # A gradient multiplies strength and sharpness as well: together they count as one factor.
    great = magnitude(dtype) ** 0.5 if special else 4.0
    return NTMQuery(
        key=key,
        strength=strength,
        gate=part(0.0, 1.0),
        shift=draw(shift_kernels((*batch, count, kernel), dtype)),
        sharpness=part(1.0, 1.0 + great),
    )


def _generator(draw: DrawFn) -> torch.Generator:
    return torch.Generator().manual_seed(draw(seeds()))
