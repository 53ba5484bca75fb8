"""One step of a Transformer's decoder layer, and its encoder layers, in few calls, for a search.

Twins without gradients of :meth:`memnets.cells.TransformerLayer.unroll` for a single step. The one
in Python does the operations of the definition; what it spares are the calls of modules within
modules. The one in C++, and that of :meth:`memnets.cells.EncoderLayer.forward`, are an operator for
each attention and each feed-forward network (``native/layers.cpp``): beside the products of
matrices, which are a library's, few passes over the numbers are left.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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
from memnets.cells.composed import Pointwise, Residual
from memnets.core import Memory
from memnets.kernels import known
from memnets.kernels.append import lengthened
from memnets.kernels.attention import fits, read
from memnets.kernels.native import build
from memnets.normalizers import Softmax
from memnets.scores import ScaledDot

__all__ = ["forward_in_operators", "unroll", "unroll_in_operators"]


def _fits(
    layer: TransformerLayer, inputs: Tensor, state: tuple[Any, ...], mask: Tensor | None
) -> bool:
    if mask is not None or inputs.dim() != 3 or inputs.shape[1] != 1:
        return False
    width, dtype = inputs.shape[2], inputs.dtype
    parts = known.layers(known.layers(layer)["cells"])
    return len(state) == len(parts) and all(
        _read(part, width, dtype) is not None for part in parts.values()
    )


class _Part(NamedTuple):
    """A part of a layer.

    Attributes:
        cell: an attention or a network.
        weights: of its first and its last layer, a matrix and a bias each.
        norm: scale, offset and epsilon of the normalisation.
        pre: whether it normalises the input of the part, not the sum.
    """

    cell: Any
    weights: tuple[Tensor, ...]
    norm: tuple[Tensor, Tensor, float]
    pre: bool


def _read(part: Any, width: int, dtype: torch.dtype) -> _Part | None:
    """A part of a layer, for inputs of this width and type; ``None`` if the twins know it not."""
    if type(part) is not Residual:
        return None
    inner = known.layers(part)
    connection, cell = inner["connection"], inner["cell"]
    norm = known.connection(connection, width, dtype)
    if norm is None:
        return None
    weights = None
    if type(cell) is Pointwise:
        weights = known.position_wise(known.layers(cell)["network"], width, dtype)
    elif type(cell) in (SelfAttention, CrossAttention):
        weights = known.attention(known.layers(cell)["attention"], width, dtype)
    return None if weights is None else _Part(cell, weights, norm, connection.pre)


def _parts(layer: TransformerLayer, inputs: Tensor) -> list[_Part]:
    """The parts of a layer that :func:`_fits` the inputs."""
    found = [_read(part, inputs.shape[2], inputs.dtype) for part in layer.cells]
    return [part for part in found if part is not None]


@fast.twin(TransformerLayer, "unroll", fits=_fits, only_values=True)
def unroll(
    layer: TransformerLayer, inputs: Tensor, state: tuple[Any, ...], mask: Tensor | None
) -> tuple[Tensor, tuple[Any, ...]]:
    """``[B, 1, width] -> [B, 1, width]``: see :meth:`memnets.core.Cell.unroll`."""
    hidden = inputs.squeeze(1)
    states = []
    for (cell, weights, norm, pre), past in zip(_parts(layer, inputs), state, strict=True):
        given = _normed(norm, hidden) if pre else hidden
        if type(cell) is Pointwise:
            made = _thought(weights, given)
        else:
            made, past = _looked(cell, weights, given, past)
        hidden = hidden + made
        if not pre:
            hidden = _normed(norm, hidden)
        states.append(past)
    return hidden.unsqueeze(1), tuple(states)


def _normed(norm: tuple[Tensor, Tensor, float], inputs: Tensor) -> Tensor:
    return torch.layer_norm(inputs, inputs.shape[-1:], *norm)


def _thought(weights: tuple[Tensor, ...], inputs: Tensor) -> Tensor:
    weight, bias, to_output, output_bias = weights
    hidden = nn.functional.linear(inputs, weight, bias).relu_()
    return nn.functional.linear(hidden, to_output, output_bias)


def _looked(
    cell: Any, weights: tuple[Tensor, ...], inputs: Tensor, past: Any
) -> tuple[Tensor, Any]:
    """The result of an attention, ``[B, width]``, and its next state."""
    attention = cell.attention
    heads, width = attention.heads, attention.width
    weight, bias, to_output, output_bias = weights
    size, batch = width // heads, len(inputs)
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
    joined = vectors.transpose(1, 2).reshape(batch, width)
    return nn.functional.linear(joined, to_output, output_bias), past


def _known(inputs: Tensor, attention: MultiHead) -> bool:
    """Whether the operators compute the weights of an attention, and run on these inputs."""
    addressing = attention.addressing
    return (
        inputs.device.type == "cpu"
        and inputs.dtype in (torch.float32, torch.float64)
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
    parts = known.layers(known.layers(layer)["cells"]).values()
    for part, past in zip(parts, state, strict=True):
        cell: Any = known.layers(part)["cell"]
        if type(cell) is Pointwise:
            continue
        attention = known.layers(cell)["attention"]
        if not _known(inputs, attention):
            return False
        # Errors of shape are the definition's to tell.
        keys, values, seen = past
        batch, heads, slots = len(inputs), attention.heads, keys.shape[2]
        shape = batch, heads, slots, attention.width // heads
        if not (keys.dtype == values.dtype == inputs.dtype and keys.shape == values.shape == shape):
            return False
        if seen is not None and (
            seen.dtype != torch.bool or len(seen) != batch or seen.numel() != batch * slots
        ):
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
    for (cell, weights, norm, pre), past in zip(_parts(layer, inputs), state, strict=True):
        if type(cell) is Pointwise:
            hidden = torch.ops.memnets.think(hidden, *weights, *norm, pre)
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
                *weights,
                *norm,
                own,
                pre,
            )
        states.append(past)
    return hidden.unsqueeze(1), tuple(states)


def _fits_encoder(layer: EncoderLayer, inputs: Tensor, mask: Tensor | None) -> bool:
    return (
        inputs.dim() == 3
        and None not in _of_encoder(layer, inputs)
        and _known(inputs, layer.attention)
        and (mask is None or (mask.dtype == torch.bool and mask.shape == inputs.shape[:2]))
        and build.loaded()
    )


def _of_encoder(layer: EncoderLayer, inputs: Tensor) -> tuple[Any, Any, Any, Any]:
    """Weights of an encoder's layer: of its attention and network, a norm behind each."""
    width, dtype, inner = inputs.shape[-1], inputs.dtype, known.layers(layer)
    return (
        known.attention(inner["attention"], width, dtype),
        known.connection(inner["attention_connection"], width, dtype),
        known.position_wise(inner["thinking"], width, dtype),
        known.connection(inner["thinking_connection"], width, dtype),
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
    attention, norm, thinking, other_norm = _of_encoder(layer, inputs)
    hidden = torch.ops.memnets.look_around(
        inputs.flatten(0, 1).contiguous(),
        inputs.shape[1],
        layer.attention.heads,
        None if mask is None else mask.contiguous(),
        *attention,
        *norm,
        layer.attention_connection.pre,
    )
    thought: Tensor = torch.ops.memnets.think(
        hidden, *thinking, *other_norm, layer.thinking_connection.pre
    )
    return thought.view(inputs.shape)


def _lengthened(past: Slots) -> Slots:
    """Slots with room for those of a step that no sequence skips."""
    keys, values, seen = past
    if seen is not None:
        seen = torch.cat([seen, seen.new_ones(len(seen), 1)], 1)
    return Slots(lengthened(keys, 1), lengthened(values, 1), seen)


def _in_rows(slots: Tensor) -> Tensor:
    """Slots whose numbers follow each other."""
    return slots if slots.stride(3) == 1 else slots.contiguous()
