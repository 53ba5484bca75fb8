"""One step of a Transformer's decoder layer, and its encoder layers, in few calls, for a search.

Twins without gradients of :meth:`memnets.cells.TransformerLayer.unroll` for a single step. The one
in Python does the operations of the definition; what it spares are the calls of modules within
modules. The one in C++, and that of :meth:`memnets.cells.EncoderLayer.forward`, are an operator for
each attention and each feed-forward network (``native/layers.cpp``): beside the products of
matrices, which are a library's, few passes over the numbers are left.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from memnets import fast
from memnets.addressing import Content
from memnets.cells.attention import (
    CrossAttention,
    EncoderLayer,
    MultiHead,
    SelfAttention,
    Slots,
    TransformerLayer,
)
from memnets.cells.composed import Connection, Pointwise, Residual
from memnets.core import Memory
from memnets.kernels.append import lengthened
from memnets.kernels.attention import fits, read
from memnets.kernels.native import build
from memnets.normalizers import Softmax
from memnets.scores import ScaledDot

__all__ = ["forward_in_operators", "unroll", "unroll_in_operators"]

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


def _known(inputs: Tensor, attention: MultiHead) -> bool:
    """Whether the operators know an attention, and the types and sizes of its inputs."""
    addressing = attention.addressing
    return (
        inputs.device.type == "cpu"
        and inputs.dtype in (torch.float32, torch.float64)
        and inputs.dtype == attention.weight.dtype
        and inputs.dim() == 3
        and inputs.shape[2] == attention.width
        and inputs.numel() > 0
        and type(addressing) is Content
        and type(addressing.score) is ScaledDot
        and type(addressing.normalizer) is Softmax
    )


def _fits_decoder(
    layer: TransformerLayer, inputs: Tensor, state: tuple[Any, ...], mask: Tensor | None
) -> bool:
    if not _fits(layer, inputs, state, mask):
        return False
    for part, past in zip(layer.cells, state, strict=True):
        cell: Any = part.cell
        if type(cell) is Pointwise:
            continue
        attention = cell.attention
        if not _known(inputs, attention):
            return False
        # Errors of shape are the definition's to tell.
        keys, values, seen = past
        batch, heads, slots = len(inputs), attention.heads, keys.shape[2]
        shape = batch, heads, slots, attention.width // heads
        if not (keys.dtype == values.dtype == inputs.dtype and keys.shape == values.shape == shape):
            return False
        if seen is not None and (len(seen) != batch or seen.numel() != batch * slots):
            return False
    return build.loaded()


@fast.twin(
    TransformerLayer,
    "unroll",
    fits=_fits_decoder,
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
        if type(cell) is Pointwise:
            hidden = _think(hidden, cell.network, connection)
        else:
            own = type(cell) is SelfAttention
            # The operator writes the new slots itself.
            past = _lengthened(past) if own else past
            keys, values, seen = past
            hidden = torch.ops.memnets.look(
                hidden,
                _in_rows(keys),
                _in_rows(values),
                None if seen is None else seen.contiguous(),
                *_weights(cell.attention, connection),
                own,
                connection.pre,
            )
        states.append(past)
    return hidden.unsqueeze(1), tuple(states)


def _fits_encoder(layer: EncoderLayer, inputs: Tensor, mask: Tensor | None) -> bool:
    return (
        not layer.training
        and _known(inputs, layer.attention)
        and (mask is None or (mask.dtype == torch.bool and mask.shape == inputs.shape[:2]))
        and build.loaded()
    )


@fast.twin(
    EncoderLayer,
    "forward",
    fits=_fits_encoder,
    only_values=True,
    name="C++",
    why_not=build.why_not,
)
def forward_in_operators(layer: EncoderLayer, inputs: Tensor, mask: Tensor | None) -> Tensor:
    """``[B, S, width] -> [B, S, width]``: see :meth:`memnets.cells.EncoderLayer.forward`."""
    connection = layer.attention_connection
    hidden = torch.ops.memnets.look_around(
        inputs.flatten(0, 1).contiguous(),
        inputs.shape[1],
        layer.attention.heads,
        None if mask is None else mask.contiguous(),
        *_weights(layer.attention, connection),
        connection.pre,
    )
    thought = _think(hidden, layer.thinking, layer.thinking_connection)
    return thought.view(inputs.shape)


def _weights(attention: MultiHead, connection: Connection) -> tuple[Any, ...]:
    """Weights of an attention, and of what stands around it, in the order of the operators."""
    output, norm = attention.output, connection.norm
    return (
        *(attention.weight, attention.bias, output.weight, output.bias),
        *(norm.weight, norm.bias, norm.eps),
    )


def _think(hidden: Tensor, network: Any, connection: Connection) -> Tensor:
    first, _, _, last = network
    norm = connection.norm
    thought: Tensor = torch.ops.memnets.think(
        hidden,
        *(first.weight, first.bias, last.weight, last.bias),
        *(norm.weight, norm.bias, norm.eps),
        connection.pre,
    )
    return thought


def _lengthened(past: Slots) -> Slots:
    """Slots with room for those of a step that no sequence skips."""
    keys, values, seen = past
    if seen is not None:
        seen = torch.cat([seen, seen.new_ones(len(seen), 1)], 1)
    return Slots(lengthened(keys, 1), lengthened(values, 1), seen)


def _in_rows(slots: Tensor) -> Tensor:
    """Slots whose numbers follow each other."""
    return slots if slots.stride(3) == 1 else slots.contiguous()
