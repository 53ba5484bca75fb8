"""The cross-entropy of tokens, a few rows at a time.

The twin of :func:`memnets.functional.cross_entropy`. For a vocabulary, the logits are the largest
tensor of a training step, and PyTorch passes over them about ten times in main memory. Here a few
rows at a time stay in the processor's cache: two passes over the logits, one in each direction,
and no tensor of their size is kept but the logits themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from memnets import fast, functional
from memnets.kernels.parts import differentiable

__all__ = ["cross_entropy", "log_sum_exp"]

#: Numbers in a block of rows: a quarter of a cache of 2 MiB in float32.
_BLOCK = 1 << 17

#: Least number of classes. With fewer, the time of the Python loop is more than is saved.
_LEAST = 2048


def _fits(logits: Tensor, targets: Tensor, smoothing: float) -> bool:
    large = logits.dim() == 2 and len(logits) > 0 and logits.shape[1] >= _LEAST
    return large and logits.device.type == "cpu"


@fast.twin(functional.cross_entropy, fits=_fits)
def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Losses ``[N]`` of logits ``[N, O]``, none of its sizes 0, and targets ``[N]``."""
    return _CrossEntropy.apply(smoothing, targets, logits)  # type: ignore[no-any-return, no-untyped-call]


def _blocks(logits: Tensor) -> Iterator[slice]:
    rows, size = logits.shape
    step = max(1, _BLOCK // size)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def log_sum_exp(logits: Tensor) -> Tensor:
    """``log sum_j exp(x_j)`` of each row, without a graph: ``[N, O] -> [N]``."""
    rows, size = logits.shape
    whole = logits.new_empty(rows)
    room = logits.new_empty(min(rows, max(1, _BLOCK // size)), size)
    for block in _blocks(logits):
        part = logits[block]
        greatest = part.amax(-1, keepdim=True)
        sums = torch.sub(part, greatest, out=room[: len(part)]).exp_().sum(-1)
        torch.add(sums.log_(), greatest.squeeze(-1), out=whole[block])
    return whole


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, smoothing: float, targets: Tensor, logits: Tensor) -> Tensor:
        whole = log_sum_exp(logits)
        ctx.save_for_backward(logits, targets, whole)
        ctx.smoothing, ctx.given = smoothing, 1
        ctx.plain = lambda logits: (functional.cross_entropy(logits, targets, smoothing),)
        losses = whole - logits.gather(1, targets.unsqueeze(1)).squeeze(1).mul_(1 - smoothing)
        return losses.sub_(logits.mean(-1), alpha=smoothing) if smoothing else losses

    @staticmethod
    @differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        logits, targets, whole = ctx.saved_tensors
        column, whole = gradient.unsqueeze(1), whole.unsqueeze(1)
        result = torch.empty_like(logits)
        share = ctx.smoothing / logits.shape[1]
        for block in _blocks(logits):
            part = torch.sub(logits[block], whole[block], out=result[block]).exp_()
            if share:
                part.sub_(share)
            part.mul_(column[block])
        result.scatter_add_(1, targets.unsqueeze(1), column * (ctx.smoothing - 1))
        return None, None, result
