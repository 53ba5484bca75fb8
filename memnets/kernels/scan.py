"""Many steps of a linear memory in C++, on the CPU, one after the other.

The twin of :func:`memnets.memories.scan.scan`. There, the steps of a chunk are products of large
matrices, most of whose time goes into reading and writing main memory. Here the matrix of a head
stays in the processor's cache while all steps pass over it (``native/scan.cpp``). The operators are
built when they are first needed (:mod:`memnets.kernels.native.build`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from memnets import fast
from memnets.kernels.native import build
from memnets.kernels.parts import differentiable, unrecorded
from memnets.memories.scan import scan

__all__ = ["run"]


def _fits(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    memory: Tensor,
    erase: Tensor | None,
    log_decay: Tensor | None,
    chunk: int,
) -> bool:
    given = [queries, keys, values, memory, erase, log_decay]
    kind = queries.dtype
    # Errors of shape, and shapes that are broadcast, are the definition's.
    if keys.dim() != 5 or values.dim() != 5 or 0 in keys.shape or 0 in values.shape:
        return False
    *every, writes, width = keys.shape
    columns = values.shape[-1]
    return (
        kind in (torch.float32, torch.float64)
        and all(
            each is None or (each.dtype == kind and each.device.type == "cpu") for each in given
        )
        and queries.shape == (*every, width)
        and values.shape == (*every, writes, columns)
        and memory.shape == (*every[:2], width, columns)
        and (erase is None or erase.shape == keys.shape)
        and (log_decay is None or log_decay.shape in ((*every, 1), (*every, width)))
        and build.loaded()
    )


@fast.twin(scan, fits=_fits, name="C++", why_not=build.why_not)
def run(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    memory: Tensor,
    erase: Tensor | None,
    log_decay: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """T steps of write and read: see :func:`memnets.memories.scan.scan`; chunks play no part."""
    has = erase is not None, log_decay is not None
    given = [each for each in (erase, log_decay) if each is not None]
    read, last = _Scan.apply(  # type: ignore[no-untyped-call]
        has, torch.is_grad_enabled(), queries, keys, values, memory, *given
    )
    return read, last


def _all(has: tuple[bool, ...], given: Any) -> list[Any]:
    """All arguments of the operator: the given ones, ``None`` where the last two have nothing."""
    rest = iter(given[4:])
    return [*given[:4], *(next(rest) if one else None for one in has)]


def _plain(has: tuple[bool, ...], *given: Tensor) -> tuple[Tensor, Tensor]:
    return scan(*_all(has, given))


class _Scan(torch.autograd.Function):
    """All steps as one node of the graph."""

    @staticmethod
    @unrecorded
    def forward(
        ctx: Any, has: tuple[bool, ...], recorded: bool, *given: Tensor
    ) -> tuple[Tensor, Tensor]:
        recorded = recorded and any(tensor.requires_grad for tensor in given)
        read, last, *kept = torch.ops.memnets.scan(*_all(has, given), recorded)
        ctx.has, ctx.given, ctx.plain = has, len(given), partial(_plain, has)
        ctx.save_for_backward(*given, *kept)
        ctx.set_materialize_grads(False)  # mostly nobody uses the last state
        return read, last

    @staticmethod
    @differentiable
    def backward(ctx: Any, of_read: Tensor | None, of_last: Tensor | None) -> Any:
        saved = ctx.saved_tensors  # asked for once: a checkpoint computes them anew
        given, (kept, *added) = saved[: ctx.given], saved[ctx.given :]
        queries, keys, values, _, erase, log_decay = _all(ctx.has, given)
        wanted = _all(ctx.has, ctx.needs_input_grad[-ctx.given :])
        found = torch.ops.memnets.scan_backward(
            queries, keys, added[0] if added else values, erase, log_decay, kept, of_read, of_last,
            [bool(want) for want in wanted],
        )  # fmt: skip
        pairs = zip(found, wanted, strict=True)
        return None, None, *(one if want else None for one, want in pairs if want is not None)
