"""One step of a Transformer's decoder layer in few calls, for a search.

The twin of :meth:`memnets.cells.TransformerLayer.unroll` for a single step without gradients. The
operations are those of the definition; what it spares are the calls of modules within modules,
which take a third of the time of a step of a small model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from memnets import fast
from memnets.cells.attention import CrossAttention, SelfAttention, TransformerLayer
from memnets.cells.composed import Pointwise, Residual
from memnets.core import Memory
from memnets.kernels.attention import fits, read

__all__ = ["unroll"]

_KINDS = (SelfAttention, CrossAttention, Pointwise)


def _fits(
    layer: TransformerLayer, inputs: Tensor, state: tuple[Any, ...], mask: Tensor | None
) -> bool:
    return (
        mask is None
        and inputs.shape[1] == 1
        and not layer.training
        and all(type(part) is Residual and type(part.cell) in _KINDS for part in layer.cells)
    )


@fast.twin(TransformerLayer, "unroll", fits=_fits, only_values=True)
def unroll(
    layer: TransformerLayer, inputs: Tensor, state: tuple[Any, ...], mask: Tensor | None
) -> tuple[Tensor, tuple[Any, ...]]:
    """``[B, 1, width] -> [B, 1, width]``: see :meth:`memnets.core.Cell.unroll`."""
    hidden = inputs.squeeze(1)
    states = []
    # Each attribute of a module is a search of several dictionaries: they are asked for once.
    for part, past in zip(layer.cells, state, strict=True):
        cell: Any = part.cell
        connection: Any = part.connection
        norm, pre = connection.norm, connection.pre
        given = _normed(norm, hidden) if pre else hidden
        if type(cell) is Pointwise:
            made = _thought(cell.network, given)
        else:
            made, past = _looked(cell, given, past)
        hidden = hidden + made
        if not pre:
            hidden = _normed(norm, hidden)
        states.append(past)
    return hidden.unsqueeze(1), tuple(states)


def _normed(norm: nn.LayerNorm, inputs: Tensor) -> Tensor:
    return torch.layer_norm(inputs, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _thought(network: Any, inputs: Tensor) -> Tensor:
    first, _, _, last = network
    hidden = nn.functional.linear(inputs, first.weight, first.bias).relu_()
    return nn.functional.linear(hidden, last.weight, last.bias)


def _looked(cell: Any, inputs: Tensor, past: Any) -> tuple[Tensor, Any]:
    """The result of an attention, ``[B, width]``, and its next state."""
    attention = cell.attention
    heads, width = attention.heads, attention.width
    weight, bias, size = attention.weight, attention.bias, width // heads
    batch = len(inputs)
    if type(cell) is SelfAttention:
        projected = nn.functional.linear(inputs, weight, bias)
        query, key, value = projected.view(batch, 3, heads, 1, size).unbind(1)
        past = past.appended(key, value, None)
        seen = past.seen(1)
        memory = Memory(past.keys, past.values, None if seen is None else seen.unsqueeze(-3))
    else:
        query = nn.functional.linear(inputs, weight[:width], bias[:width])
        query, memory = query.view(batch, heads, 1, size), past
    # Where a twin runs, so may its own twins: to ask for them again would take longer than they do.
    addressing = attention.addressing
    look = read if fits(addressing, query, memory, None) else type(addressing).read
    vectors, _ = look(addressing, query, memory, None)
    output = attention.output
    joined = vectors.transpose(1, 2).reshape(batch, width)
    return nn.functional.linear(joined, output.weight, output.bias), past
