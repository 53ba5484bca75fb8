"""Addressing by content and its read as one operation of PyTorch.

The twin of :meth:`memnets.addressing.Content.read` for dot-product scores under softmax. With a
fused kernel of PyTorch, the weights of all pairs are never stored, and a memory that grows is not
copied at each step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from memnets import fast
from memnets.addressing import Content
from memnets.core import Memory, check_memory
from memnets.normalizers import ScalableSoftmax, Softmax
from memnets.scores import Dot, ScaledDot

__all__ = ["read"]


def _fits(part: Content, query: Tensor, memory: Memory, state: None) -> bool:
    # Exact types: a subclass may compute another score.
    return type(part.score) in (Dot, ScaledDot) and (
        type(part.normalizer) in (Softmax, ScalableSoftmax)
    )


@fast.twin(Content, "read", fits=_fits, any_precision=True)
def read(part: Content, query: Tensor, memory: Memory, state: None) -> tuple[Tensor, None]:
    """Vectors ``[*B, Q, V]``: see :meth:`memnets.core.Addressing.read`."""
    check_memory(query, memory)
    scale = 1.0 if isinstance(part.score, Dot) else 1 / math.sqrt(query.shape[-1])
    keys, values, mask = memory
    # Its scores are c log n times the usual ones; the factor can go into the query.
    if isinstance(part.normalizer, ScalableSoftmax):
        count = torch.tensor(keys.shape[-2]) if mask is None else mask.sum(-1, keepdim=True)
        query = query * part.normalizer.sharpness(count)
    empty = None
    if mask is not None:
        # PyTorch's kernels disagree on rows without an open slot. Such a row addresses all slots
        # here; its result is set to zero afterwards, as in functional.masked.
        empty = ~mask.any(-1, keepdim=True)
        mask = mask | empty
    vectors = _attended(query, keys, values, mask, scale)
    return (vectors if empty is None else vectors.masked_fill(empty, 0.0)), None


def _attended(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """Read ``[*B, Q, V]`` by the kernel of PyTorch that keeps least for the backward pass."""
    if query.device.type == "cpu" and keys.shape[-1] != values.shape[-1]:
        # PyTorch has no fused kernel for these, and its plain one keeps a scaled copy of the keys.
        scores = (query * scale) @ keys.mT
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(-1) @ values
    # The fused kernels take memories with a dimension of heads alone.
    heads = query.dim() == 3
    if heads:
        query, keys, values = query.unsqueeze(1), keys.unsqueeze(1), values.unsqueeze(1)
        mask = mask if mask is None or mask.dim() < 3 else mask.unsqueeze(1)
    vectors = nn.functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, scale=scale
    )
    return vectors.squeeze(1) if heads else vectors
