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
from memnets.cells.attention import CrossAttention, SelfAttention, Slots, TransformerLayer
from memnets.cells.composed import Pointwise, Residual
from memnets.core import Memory
from memnets.kernels.append import lengthened
from memnets.kernels.attention import fits, read
from memnets.kernels.native import build
from memnets.normalizers import Softmax
from memnets.scores import ScaledDot

__all__ = ["unroll", "unroll_in_operators"]

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


def _fits_operators(
    layer: TransformerLayer, inputs: Tensor, state: tuple[Any, ...], mask: Tensor | None
) -> bool:
    kind = inputs.dtype
    if not (
        _fits(layer, inputs, state, mask)
        and kind in (torch.float32, torch.float64)
        and inputs.device.type == "cpu"
        and inputs.numel() > 0
    ):
        return False
    batch = len(inputs)
    for part, past in zip(layer.cells, state, strict=True):
        cell: Any = part.cell
        # Weights have one type, unless someone changes a part of them.
        if cell.input_size != inputs.shape[2] or part.connection.norm.weight.dtype != kind:
            return False
        if type(cell) is Pointwise:
            continue
        attention = cell.attention
        addressing = attention.addressing
        if type(addressing.score) is not ScaledDot or type(addressing.normalizer) is not Softmax:
            return False
        keys, values, seen = past
        rows = batch, attention.heads
        if not (
            keys.dtype == values.dtype == kind
            and keys.shape == values.shape
            and keys.dim() == 4
            and keys.shape[:2] == rows
            and keys.shape[3] * attention.heads == attention.width
            and (seen is None or (seen.shape[0] == batch and seen.numel() == batch * keys.shape[2]))
        ):
            return False
    return build.loaded()


@fast.twin(
    TransformerLayer,
    "unroll",
    fits=_fits_operators,
    only_values=True,
    name="C++",
    why_not=build.why_not,
)
def unroll_in_operators(
    layer: TransformerLayer, inputs: Tensor, state: tuple[Any, ...], mask: Tensor | None
) -> tuple[Tensor, tuple[Any, ...]]:
    """``[B, 1, width] -> [B, 1, width]``: see :meth:`memnets.core.Cell.unroll`."""
    hidden = inputs.squeeze(1).contiguous()
    states = []
    for part, past in zip(layer.cells, state, strict=True):
        cell: Any = part.cell
        connection: Any = part.connection
        norm, pre = connection.norm, connection.pre
        ends = norm.weight, norm.bias, norm.eps
        if type(cell) is Pointwise:
            first, _, _, last = cell.network
            hidden = torch.ops.memnets.think(
                hidden, first.weight, first.bias, last.weight, last.bias, *ends, pre
            )
        else:
            own = type(cell) is SelfAttention
            # The operator writes the new slots itself.
            past = _lengthened(past) if own else past
            keys, values, seen = past
            attention, output = cell.attention, cell.attention.output
            hidden = torch.ops.memnets.look(
                hidden, _in_rows(keys), _in_rows(values), None if seen is None else seen.contiguous(),
                attention.weight, attention.bias, output.weight, output.bias, *ends, own, pre
            )  # fmt: skip
        states.append(past)
    return hidden.unsqueeze(1), tuple(states)


def _lengthened(past: Slots) -> Slots:
    """Slots with room for those of a step that no sequence skips."""
    keys, values, seen = past
    if seen is not None:
        seen = torch.cat([seen, seen.new_ones(len(seen), 1)], 1)
    return Slots(lengthened(keys, 1), lengthened(values, 1), seen)


def _in_rows(slots: Tensor) -> Tensor:
    """Slots whose numbers follow each other."""
    return slots if slots.stride(3) == 1 else slots.contiguous()
