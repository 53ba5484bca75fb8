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
    return mask is None and inputs.dim() == 3 and inputs.shape[1] == 1


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


def _parts(
    layer: TransformerLayer, inputs: Tensor, state: tuple[Any, ...], mask: Tensor | None
) -> list[_Part] | None:
    """The parts of a layer, for inputs that :func:`_fits`; ``None`` if the twins know one not."""
    cells = known.layers(known.layers(layer)["cells"]).values()
    if len(state) != len(cells):
        return None
    found = []
    for cell in cells:
        part = _read(cell, inputs.shape[2], inputs.dtype)
        if part is None:
            return None
        found.append(part)
    return found


@fast.twin(TransformerLayer, "unroll", fits=_fits, reads=_parts, only_values=True)
def unroll(
    layer: TransformerLayer,
    inputs: Tensor,
    state: tuple[Any, ...],
    mask: Tensor | None,
    read: list[_Part],
) -> tuple[Tensor, tuple[Any, ...]]:
    """``[B, 1, width] -> [B, 1, width]``: see :meth:`memnets.core.Cell.unroll`."""
    hidden = inputs.squeeze(1)
    states = []
    for (cell, weights, norm, pre), past in zip(read, state, strict=True):
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


def _parts_of_operators(
    layer: TransformerLayer, inputs: Tensor, state: tuple[Any, ...], mask: Tensor | None
) -> list[_Part] | None:
    """:func:`_parts`; ``None`` also if the operators do not compute them, with this state."""
    parts = _parts(layer, inputs, state, mask)
    if parts is None:
        return None
    for (cell, *_), past in zip(parts, state, strict=True):
        if type(cell) is Pointwise:
            continue
        attention = known.layers(cell)["attention"]
        if not _known(inputs, attention):
            return None
        # Errors of shape are the definition's to tell.
        keys, values, seen = past
        batch, heads, slots = len(inputs), attention.heads, keys.shape[2]
        shape = batch, heads, slots, attention.width // heads
        if not (keys.dtype == values.dtype == inputs.dtype and keys.shape == values.shape == shape):
            return None
        if seen is not None and (
            seen.dtype != torch.bool or len(seen) != batch or seen.numel() != batch * slots
        ):
            return None
    return parts if build.loaded() else None


@fast.twin(
    TransformerLayer,
    "unroll",
    fits=_fits,
    reads=_parts_of_operators,
    only_values=True,
    name="C++",
    why_not=build.why_not,
)
def unroll_in_operators(
    layer: TransformerLayer,
    inputs: Tensor,
    state: tuple[Any, ...],
    mask: Tensor | None,
    read: list[_Part],
) -> tuple[Tensor, tuple[Any, ...]]:
    """``[B, 1, width] -> [B, 1, width]``: see :meth:`memnets.core.Cell.unroll`."""
    hidden = inputs.squeeze(1).contiguous()
    states = []
    for (cell, weights, norm, pre), past in zip(read, state, strict=True):
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
    return inputs.dim() == 3 and (
        mask is None or (mask.dtype == torch.bool and mask.shape == inputs.shape[:2])
    )


class _Encoder(NamedTuple):
    """Weights of an encoder's layer: of its attention and its network, a norm behind each."""

    attention: tuple[Tensor, ...]
    norm: tuple[Tensor, Tensor, float]
    thinking: tuple[Tensor, ...]
    other_norm: tuple[Tensor, Tensor, float]


def _of_encoder(layer: EncoderLayer, inputs: Tensor, mask: Tensor | None) -> _Encoder | None:
    """The weights, for inputs of this width and type; ``None`` if the operators know them not."""
    width, dtype, inner = inputs.shape[-1], inputs.dtype, known.layers(layer)
    attention = known.attention(inner["attention"], width, dtype)
    if attention is None or not _known(inputs, inner["attention"]):
        return None
    norm = known.connection(inner["attention_connection"], width, dtype)
    thinking = known.position_wise(inner["thinking"], width, dtype)
    other_norm = known.connection(inner["thinking_connection"], width, dtype)
    if norm is None or thinking is None or other_norm is None or not build.loaded():
        return None
    return _Encoder(attention, norm, thinking, other_norm)


@fast.twin(
    EncoderLayer,
    "forward",
    fits=_fits_encoder,
    reads=_of_encoder,
    only_values=True,
    name="C++",
    why_not=build.why_not,
)
def forward_in_operators(
    layer: EncoderLayer, inputs: Tensor, mask: Tensor | None, read: _Encoder
) -> Tensor:
    """``[B, S, width] -> [B, S, width]``: see :meth:`memnets.cells.EncoderLayer.forward`."""
    attention, norm, thinking, other_norm = read
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
