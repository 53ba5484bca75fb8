"""Cells that attend: self-attention, attention to a source, the layers of a Transformer."""

from __future__ import annotations

import copy
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from memnets import functional
from memnets.addressing import Content
from memnets.cells.composed import Chain, Connection, Pointwise, Residual, kept, position_wise
from memnets.core import Cell, Memory, Normalizer, check_positive
from memnets.scores import ScaledDot

__all__ = [
    "AttentionBlock",
    "CrossAttention",
    "EncoderLayer",
    "EncoderStack",
    "MultiHead",
    "Norm",
    "SelfAttention",
    "Slots",
    "TransformerLayer",
    "causal_mask",
    "transformer_stack",
]

Norm = Literal["pre", "post"]


class Slots(NamedTuple):
    """State of a cell that attends to its own past: a slot for each step so far.

    Attributes:
        keys: ``[B, H, N, width / H]``; of a cell without heads, ``[B, N, K]``.
        values: ``[B, H, N, width / H]``; of a cell without heads, ``[B, N, V]``.
        mask: bool ``[B, N]``, False = the slot of a step that the sequence has skipped; ``None`` =
            no sequence has skipped a step.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None = None

    def appended(self, keys: Tensor, values: Tensor, mask: Tensor | None) -> Slots:
        """These slots, then those of T more steps.

        Args:
            keys: ``[B, ..., T, K]``.
            values: ``[B, ..., T, V]``.
            mask: bool ``[B, T]``, False = the sequence skips the step; ``None`` = none does.
        """
        steps, past = keys.shape[-2], self.keys.shape[-2]
        seen = self.mask
        if mask is not None or seen is not None:
            if seen is None:
                seen = keys.new_ones(len(keys), past, dtype=torch.bool)
            if mask is None:
                mask = keys.new_ones(len(keys), steps, dtype=torch.bool)
            seen = torch.cat([seen, mask], 1)
        if past:
            keys = functional.append(self.keys, keys)
            values = functional.append(self.values, values)
        return Slots(keys, values, seen)

    def seen(self, steps: int) -> Tensor | None:
        """Mask of the last T steps over all slots: those before and their own, that are open.

        Returns:
            bool, broadcasts to ``[B, T, N]``; ``None`` where every slot may be seen.
        """
        causal = causal_mask(steps, self.keys.shape[-2], self.keys.device)
        if self.mask is None:
            return causal
        opened = self.mask.unsqueeze(1)
        return opened if causal is None else opened & causal

    def chosen(self, mask: Tensor) -> Slots:
        """These slots, the last one open only where ``mask``, bool ``[B]``, is True."""
        seen = self.mask
        if seen is None:
            seen = self.keys.new_ones(len(self.keys), self.keys.shape[-2], dtype=torch.bool)
        last = seen[:, -1:] & mask.unsqueeze(1)
        return self._replace(mask=torch.cat([seen[:, :-1], last], 1))


class MultiHead(nn.Module):
    """Attention with many heads, each in a projection of its own (Vaswani et al. 2017, 3.2.2).

    Such heads are batch for the addressing: ``[B, H, T, width / H]`` queries.

    Args:
        width: of inputs and outputs, at least 1.
        heads: H, a divisor of ``width``.
        normalizer: from scores to weights; softmax if not given.

    Raises:
        ValueError: a size is out of its range.
    """

    def __init__(self, width: int, heads: int, normalizer: Normalizer | None = None) -> None:
        super().__init__()
        check_positive(width=width, heads=heads)
        if width % heads:
            raise ValueError(f"heads must divide the width {width}; got {heads}")
        self.width = width
        self.heads = heads
        self.addressing = Content(ScaledDot(), normalizer)
        # One matrix for queries, keys and values: where all come from one input, it is one product.
        self.weight = nn.Parameter(torch.empty(3 * width, width))
        self.bias = nn.Parameter(torch.zeros(3 * width))
        self.output = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.weight)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def head_names(self) -> dict[str, list[str]]:
        """A name for each of the heads."""
        return {"addressing": [f"head {head + 1}" for head in range(self.heads)]}

    def project(self, inputs: Tensor, first: int, count: int) -> tuple[Tensor, ...]:
        """Some of queries (0), keys (1) and values (2): each ``[B, T, width] -> [B, H, T, D]``."""
        rows = slice(first * self.width, (first + count) * self.width)
        projected = nn.functional.linear(inputs, self.weight[rows], self.bias[rows])
        heads = projected.unflatten(-1, (count, self.heads, self.width // self.heads))
        return tuple(heads.permute(2, 0, 3, 1, 4))

    def memory(self, inputs: Tensor, mask: Tensor | None = None) -> Memory:
        """Inputs ``[B, N, width]``, with a mask bool ``[B, N]``, as the heads will find them."""
        keys, values = self.project(inputs, 1, 2)
        return Memory(keys, values, None if mask is None else mask[:, None, None])

    def forward(self, inputs: Tensor, memory: Memory) -> Tensor:
        """Read a :meth:`memory` with queries ``[B, T, width] -> [B, T, width]``."""
        (queries,) = self.project(inputs, 0, 1)
        return self.read(queries, memory)

    def read(self, queries: Tensor, memory: Memory) -> Tensor:
        """Read with projected queries: ``[B, H, T, D] -> [B, T, width]``."""
        vectors, _ = self.addressing.read(queries, memory, None)
        outputs: Tensor = self.output(vectors.transpose(1, 2).flatten(2))
        return outputs


class SelfAttention(Cell[Slots]):
    """Each step appends a slot, then attends to all slots so far with many heads.

    Vaswani et al. 2017, section 3.2.3: the masked self-attention of a decoder. All steps at once
    are one product.

    Args:
        width: of inputs and outputs, at least 1.
        heads: H, a divisor of ``width``.
        normalizer: from scores to weights; softmax if not given.

    Raises:
        ValueError: a size is out of its range.
    """

    def __init__(self, width: int, heads: int, normalizer: Normalizer | None = None) -> None:
        super().__init__()
        self.attention = MultiHead(width, heads, normalizer)
        self.input_size = self.output_size = width

    def initial_state(self, batch_size: int) -> Slots:
        """No slots."""
        attention = self.attention
        shape = (batch_size, attention.heads, 0, attention.width // attention.heads)
        empty = attention.weight.new_empty(shape)
        return Slots(empty, empty)

    def forward(self, inputs: Tensor, state: Slots) -> tuple[Tensor, Slots]:
        """One step: ``[B, width] -> [B, width]``."""
        outputs, state = self.unroll(inputs.unsqueeze(1), state)
        return outputs.squeeze(1), state

    def unroll(
        self, inputs: Tensor, state: Slots, mask: Tensor | None = None
    ) -> tuple[Tensor, Slots]:
        """``[B, T, width] -> [B, T, width]``, all steps at once."""
        queries, keys, values = self.attention.project(inputs, 0, 3)
        state = state.appended(keys, values, mask)
        seen = state.seen(inputs.shape[1])
        if seen is not None:
            seen = seen.unsqueeze(-3)  # the same for all heads
        return self.attention.read(queries, Memory(state.keys, state.values, seen)), state

    def choose(self, mask: Tensor, new: Slots, old: Slots) -> Slots:
        """The slots grow for all; the new one is closed to a sequence that skips the step."""
        return new.chosen(mask)


class CrossAttention(Cell[Memory]):
    """Each step attends to a source with many heads (Vaswani et al. 2017, section 3.2.3).

    The state is the source as the heads find it, which :meth:`start` makes; no step changes it.

    Args:
        width: of inputs and outputs, at least 1.
        heads: H, a divisor of ``width``.
        normalizer: from scores to weights; softmax if not given.

    Raises:
        ValueError: a size is out of its range.
    """

    def __init__(self, width: int, heads: int, normalizer: Normalizer | None = None) -> None:
        super().__init__()
        self.attention = MultiHead(width, heads, normalizer)
        self.input_size = self.output_size = width

    def initial_state(self, batch_size: int) -> Memory:
        """A source without a step."""
        return self.attention.memory(
            self.attention.weight.new_empty(batch_size, 0, self.input_size)
        )

    def start(self, source: Tensor, mask: Tensor | None = None) -> Memory:
        """The source ``[B, S, width]``, with its mask bool ``[B, S]``, as the heads find it."""
        return self.attention.memory(source, mask)

    def forward(self, inputs: Tensor, state: Memory) -> tuple[Tensor, Memory]:
        """One step: ``[B, width] -> [B, width]``."""
        outputs, state = self.unroll(inputs.unsqueeze(1), state)
        return outputs.squeeze(1), state

    def unroll(
        self, inputs: Tensor, state: Memory, mask: Tensor | None = None
    ) -> tuple[Tensor, Memory]:
        """``[B, T, width] -> [B, T, width]``, all steps at once."""
        outputs: Tensor = self.attention(inputs, state)
        return outputs, state

    def choose(self, mask: Tensor, new: Memory, old: Memory) -> Memory:
        """The source, which no step changes."""
        return new


class TransformerLayer(Chain):
    """Attend to the sequence, attend to the source, then think (Vaswani et al. 2017, figure 1).

    Args:
        width: at least 1.
        heads: a divisor of ``width``.
        hidden_size: width of the feed-forward network in the middle, at least 1.
        dropout: on the result of each part, in ``[0, 1)``.
        norm: ``post`` normalises after each sum, as in the paper; ``pre`` the input of each part,
            which trains with less care (Xiong et al. 2020).
        cross: whether there is a source to attend to.
        normalizer: from scores to weights, a copy for each attention; softmax if not given.

    Raises:
        ValueError: a size is out of its range.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden_size: int,
        dropout: float = 0.1,
        norm: Norm = "pre",
        cross: bool = False,
        normalizer: Normalizer | None = None,
    ) -> None:
        parts: list[Cell] = [SelfAttention(width, heads, copy.deepcopy(normalizer))]
        if cross:
            parts.append(CrossAttention(width, heads, copy.deepcopy(normalizer)))
        parts.append(Pointwise(position_wise(width, hidden_size, dropout), width, width))
        super().__init__(width, [kept(Residual(part, dropout, norm)) for part in parts])


def transformer_stack(
    layers: int,
    width: int,
    heads: int,
    hidden_size: int,
    dropout: float = 0.1,
    norm: Norm = "pre",
    cross: bool = False,
    normalizer: Normalizer | None = None,
) -> Chain:
    """Transformer layers, one on another: a causal cell.

    Args:
        layers: how many, at least 1.
        width: see :class:`TransformerLayer`, as for the rest.
        heads: a divisor of ``width``.
        hidden_size: at least 1.
        dropout: in ``[0, 1)``.
        norm: ``pre`` or ``post``.
        cross: whether there is a source to attend to.
        normalizer: from scores to weights, a copy for each attention.
    """
    check_positive(layers=layers)
    cells: list[Cell] = [
        TransformerLayer(width, heads, hidden_size, dropout, norm, cross, normalizer)
        for _ in range(layers)
    ]
    if norm == "pre":
        # Each part normalises its input alone: nothing has normalised the last output.
        cells.append(Pointwise(nn.LayerNorm(width), width, width))
    return Chain(width, [kept(cell) for cell in cells])


class EncoderLayer(nn.Module):
    """Attend to the whole sequence, then think (Vaswani et al. 2017, section 3.1).

    Every step sees every other, those that come later too: a layer of an encoder, and no cell.

    Args:
        width: see :class:`TransformerLayer`, as for the rest.
        heads: a divisor of ``width``.
        hidden_size: at least 1.
        dropout: in ``[0, 1)``.
        norm: ``pre`` or ``post``.
        normalizer: from scores to weights, a copy; softmax if not given.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden_size: int,
        dropout: float = 0.1,
        norm: Norm = "pre",
        normalizer: Normalizer | None = None,
    ) -> None:
        super().__init__()
        self.attention = MultiHead(width, heads, copy.deepcopy(normalizer))
        self.attention_connection = Connection(width, dropout, norm)
        self.thinking = position_wise(width, hidden_size, dropout)
        self.thinking_connection = Connection(width, dropout, norm)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """``[B, S, width] -> [B, S, width]``; mask bool ``[B, S]``, False = padding."""
        seen = None if mask is None else mask[:, None, None]
        queries, keys, values = self.attention.project(
            self.attention_connection.before(inputs), 0, 3
        )
        read = self.attention.read(queries, Memory(keys, values, seen))
        hidden = self.attention_connection.after(inputs, read)
        thought = self.thinking(self.thinking_connection.before(hidden))
        result: Tensor = self.thinking_connection.after(hidden, thought)
        return result


class EncoderStack(nn.Module):
    """Encoder layers, one on another.

    Args:
        layers: how many, at least 1.
        width: see :class:`TransformerLayer`, as for the rest.
        heads: a divisor of ``width``.
        hidden_size: at least 1.
        dropout: in ``[0, 1)``.
        norm: ``pre`` or ``post``.
        normalizer: from scores to weights, a copy for each layer; softmax if not given.
    """

    def __init__(
        self,
        layers: int,
        width: int,
        heads: int,
        hidden_size: int,
        dropout: float = 0.1,
        norm: Norm = "pre",
        normalizer: Normalizer | None = None,
    ) -> None:
        super().__init__()
        check_positive(layers=layers)
        self.layers = nn.ModuleList(
            EncoderLayer(width, heads, hidden_size, dropout, norm, normalizer)
            for _ in range(layers)
        )
        # Where each part normalises its input alone, nothing has normalised the last output.
        self.norm = nn.LayerNorm(width) if norm == "pre" else nn.Identity()

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """``[B, S, width] -> [B, S, width]``; mask bool ``[B, S]``, False = padding."""
        for layer in self.layers:
            inputs = layer(inputs, mask)
        outputs: Tensor = self.norm(inputs)
        return outputs


class AttentionBlock(Cell[Slots]):
    """The input, and beside it a read of all steps so far, its own included.

    ``y_t = [x_t, read_t]``, by scaled dot products over a memory that each step appends a slot to
    (Mishra et al. 2018, section 3).

    Args:
        input_size: width of the input, at least 1.
        key_size: K, at least 1.
        value_size: V, at least 1.
        likeness: if given, above 0: the weights of queries and keys start as one and the same
            orthogonal matrix, times this. A step first looks at itself and at those that are like
            it, the more sharply the greater this is.

    Attributes:
        output_size: width of the output.

    Raises:
        ValueError: a size or a number is out of its range.
    """

    def __init__(
        self, input_size: int, key_size: int, value_size: int, likeness: float | None = None
    ) -> None:
        super().__init__()
        check_positive(input_size=input_size, key_size=key_size, value_size=value_size)
        self.sizes = [key_size, key_size, value_size]
        self.input_size = input_size
        self.output_size = input_size + value_size
        self.layer = nn.Linear(input_size, sum(self.sizes))
        if likeness is not None:
            if likeness <= 0:  # at 0 there would be no gradient either
                raise ValueError(f"likeness must be more than 0; got {likeness}")
            with torch.no_grad():
                queries, keys, _ = self.layer.weight.split(self.sizes)
                queries.copy_(nn.init.orthogonal_(keys, likeness))
        self.addressing = Content(ScaledDot())

    def initial_state(self, batch_size: int) -> Slots:
        """No slots."""
        key, _, value = self.sizes
        weight = self.layer.weight
        return Slots(weight.new_empty(batch_size, 0, key), weight.new_empty(batch_size, 0, value))

    def forward(self, inputs: Tensor, state: Slots) -> tuple[Tensor, Slots]:
        """One step: ``[B, input_size] -> [B, output_size]``."""
        outputs, state = self.unroll(inputs.unsqueeze(1), state)
        return outputs.squeeze(1), state

    def unroll(
        self, inputs: Tensor, state: Slots, mask: Tensor | None = None
    ) -> tuple[Tensor, Slots]:
        """``[B, T, input_size] -> [B, T, output_size]``, all steps at once."""
        queries, keys, values = self.layer(inputs).split(self.sizes, -1)
        state = state.appended(keys, values, mask)
        memory = Memory(state.keys, state.values, state.seen(inputs.shape[1]))
        vectors, _ = self.addressing.read(queries, memory, None)
        return torch.cat([inputs, vectors], -1), state

    def choose(self, mask: Tensor, new: Slots, old: Slots) -> Slots:
        """The slots grow for all; the new one is closed to a sequence that skips the step."""
        return new.chosen(mask)


def causal_mask(steps: int, slots: int, device: torch.device) -> Tensor | None:
    """Mask of causal attention: each of the last ``steps`` steps sees itself and those before.

    Returns:
        bool ``[steps, slots]``, aligned to the end; ``None`` where every slot may be seen.
    """
    if steps == 1:
        return None
    order = torch.arange(slots, device=device)
    return order <= order[slots - steps :].unsqueeze(1)
