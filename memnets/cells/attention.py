"""Cells of attention: self-attention, attention to a source, the layers of a Transformer."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from memnets import fast, functional
from memnets.cells.composed import Chain, Connection, Pointwise, Residual, kept, position_wise
from memnets.cells.positions import Positions, placed_content
from memnets.checks import check_positive
from memnets.core import Addressing, Cell, Memory, Normalizer, new_zeros
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
        keys: ``[B, H, N, width / H]``, or ``[B, N, K]`` for a cell without heads.
        values: ``[B, H, N, width / H]``, or ``[B, N, V]`` for a cell without heads.
        mask: bool ``[B, N]``, False = the slot of a skipped step; ``None`` = no sequence has
            skipped a step.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None = None

    def appended(self, keys: Tensor, values: Tensor, mask: Tensor | None) -> Slots:
        """These slots, followed by the slots of T more steps.

        Args:
            keys: ``[B, ..., T, K]``.
            values: ``[B, ..., T, V]``.
            mask: bool ``[B, T]``, False = the sequence skips the step; ``None`` = none does.
        """
        # Without any skipped step there is no mask, so that the fused kernels need none either.
        steps, past = keys.shape[-2], self.keys.shape[-2]
        seen = self.mask
        if mask is not None or seen is not None:
            if seen is None:
                seen = keys.new_ones(len(keys), past, dtype=torch.bool)
            if mask is None:
                mask = keys.new_ones(len(keys), steps, dtype=torch.bool)
            seen = torch.cat([seen, mask], 1)
        # At the first step there is nothing to append to, and no copy to make.
        if past:
            keys = functional.append(self.keys, keys)
            values = functional.append(self.values, values)
        return Slots(keys, values, seen)

    def seen(self, steps: int) -> Tensor | None:
        """Slots that each of the last T steps may see: the open ones up to its own.

        Args:
            steps: T.

        Returns:
            A mask, bool, that broadcasts to ``[B, T, N]``; ``None`` = each step may see all slots.
        """
        causal = causal_mask(steps, self.keys.shape[-2], self.keys.device)
        if self.mask is None:
            return causal
        opened = self.mask.unsqueeze(1)
        return opened if causal is None else opened & causal

    def chosen(self, mask: Tensor) -> Slots:
        """These slots, with the last one open only where ``mask``, bool ``[B]``, is True."""
        seen = self.mask
        if seen is None:
            seen = self.keys.new_ones(len(self.keys), self.keys.shape[-2], dtype=torch.bool)
        # Only the last slot is new: a step has appended exactly one.
        last = seen[:, -1:] & mask.unsqueeze(1)
        return self._replace(mask=torch.cat([seen[:, :-1], last], 1))


class MultiHead(nn.Module):
    """Attention with many heads, each with projections of its own (Vaswani et al. 2017, 3.2.2).

    The addressing treats the heads as a dimension of the batch: queries are
    ``[B, H, T, width / H]``.

    Args:
        width: width of inputs and outputs, at least 1.
        heads: H, the number of heads, a divisor of ``width``.
        normalizer: turns scores into weights; softmax by default.
        positions: for attention of steps to the steps of their own sequence, what it does by their
            places; ``None`` = nothing.
        causal: whether a step sees no later ones, which some schemes of positions need.

    Raises:
        ValueError: a size is out of its range, or the positions do not fit.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "each head has projections of its own (Vaswani et al. 2017, section 3.2.2)"
    }

    def __init__(
        self,
        width: int,
        heads: int,
        normalizer: Normalizer | None = None,
        positions: Positions | None = None,
        causal: bool = True,
    ) -> None:
        super().__init__()
        check_positive(width=width, heads=heads)
        if width % heads:
            raise ValueError(f"heads must divide the width {width}; got {heads}")
        self.width = width
        self.heads = heads
        self.addressing = placed_content(
            ScaledDot(), positions, normalizer, width // heads, heads, causal
        )
        # One matrix for queries, keys and values: self-attention needs one product for all three.
        self.weight = nn.Parameter(torch.empty(3 * width, width))
        self.bias = nn.Parameter(torch.zeros(3 * width))
        self.output = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.weight)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def head_names(self) -> dict[Addressing, list[str]]:
        """Names of the heads, for pictures."""
        return {self.addressing: [f"head {head + 1}" for head in range(self.heads)]}

    def project(self, inputs: Tensor, first: int, count: int) -> tuple[Tensor, ...]:
        """Project inputs to ``count`` of queries (0), keys (1), values (2), from ``first`` on.

        Each result is ``[B, H, T, width / H]`` for inputs ``[B, T, width]``.
        """
        # Neighbouring rows of the matrix: any run of the three is one product, without a copy.
        rows = slice(first * self.width, (first + count) * self.width)
        projected = nn.functional.linear(inputs, self.weight[rows], self.bias[rows])
        heads = projected.unflatten(-1, (count, self.heads, self.width // self.heads))
        return tuple(heads.permute(2, 0, 3, 1, 4))

    def memory(self, inputs: Tensor, mask: Tensor | None = None) -> Memory:
        """Memory of inputs ``[B, N, width]`` for the heads; mask bool ``[B, N]`` or ``None``."""
        keys, values = self.project(inputs, 1, 2)
        if not torch.is_grad_enabled():
            # A search reads the memory at each step, which is faster if the heads are not spread
            # among each other; a training step reads it once.
            keys, values = keys.contiguous(), values.contiguous()
        return Memory(keys, values, None if mask is None else mask[:, None, None])

    def forward(self, inputs: Tensor, memory: Memory) -> Tensor:
        """Read a :meth:`memory`: inputs ``[B, T, width] -> [B, T, width]``."""
        (queries,) = self.project(inputs, 0, 1)
        return self.read(queries, memory)

    def read(self, queries: Tensor, memory: Memory) -> Tensor:
        """Read with projected queries: ``[B, H, T, D] -> [B, T, width]``."""
        vectors, _ = self.addressing.read(queries, memory, None)
        outputs: Tensor = self.output(vectors.transpose(1, 2).flatten(2))
        return outputs


class SelfAttention(Cell[Slots]):
    """Causal self-attention: each step appends a slot, then attends to all slots so far.

    The masked self-attention of a decoder (Vaswani et al. 2017, section 3.2.3). All steps at once
    are one product of matrices.

    Args:
        width: width of inputs and outputs, at least 1.
        heads: H, the number of heads, a divisor of ``width``.
        normalizer: turns scores into weights; softmax by default.
        positions: what the attention does by the places of steps; ``None`` = nothing. Vectors to
            add to the embeddings are given to the model.

    Raises:
        ValueError: a size is out of its range, or the positions do not fit.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        normalizer: Normalizer | None = None,
        positions: Positions | None = None,
    ) -> None:
        super().__init__()
        self.attention = MultiHead(width, heads, normalizer, positions)
        self.input_size = self.output_size = width

    def initial_state(self, batch_size: int) -> Slots:
        """No slots."""
        attention = self.attention
        shape = (batch_size, attention.heads, 0, attention.width // attention.heads)
        empty = attention.weight.new_empty(shape)
        return Slots(empty, empty)

    def forward(self, inputs: Tensor, state: Slots) -> tuple[Tensor, Slots]:
        """One step: ``[B, width] -> [B, width]``."""
        # The parallel form is the natural one here: a step is a sequence of one.
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
            seen = seen.unsqueeze(-3)  # a dimension for the heads, which share the mask
        return self.attention.read(queries, Memory(state.keys, state.values, seen)), state

    def looks_back(self) -> Addressing:
        """See :meth:`~memnets.core.Cell.looks_back`; a step sees itself too."""
        return self.attention.addressing

    def choose(self, mask: Tensor, new: Slots, old: Slots) -> Slots:
        """The slots grow for all; the new one is closed to a sequence that skips the step."""
        return new.chosen(mask)


class CrossAttention(Cell[Memory]):
    """Attention of each step to a source (Vaswani et al. 2017, section 3.2.3).

    The state is the memory of the source, which :meth:`start` makes; no step changes it.

    Args:
        width: width of inputs and outputs, at least 1.
        heads: H, the number of heads, a divisor of ``width``.
        normalizer: turns scores into weights; softmax by default.

    Raises:
        ValueError: a size is out of its range.
    """

    def __init__(self, width: int, heads: int, normalizer: Normalizer | None = None) -> None:
        super().__init__()
        self.attention = MultiHead(width, heads, normalizer)
        self.input_size = self.output_size = width

    def initial_state(self, batch_size: int) -> Memory:
        """Memory of a source without steps."""
        return self.attention.memory(
            self.attention.weight.new_empty(batch_size, 0, self.input_size)
        )

    def start(self, source: Tensor, mask: Tensor | None = None) -> Memory:
        """Memory of a source ``[B, S, width]`` with its mask, bool ``[B, S]``, False = padding."""
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
        """The memory of the source, which no step changes."""
        return new


class TransformerLayer(Chain):
    """Decoder layer of a Transformer (Vaswani et al. 2017, figure 1).

    Self-attention, attention to the source if ``cross``, then a feed-forward network, each within a
    skip connection.

    Args:
        width: width of inputs and outputs, at least 1.
        heads: number of heads, a divisor of ``width``.
        hidden_size: width of the feed-forward network's hidden layer, at least 1.
        dropout: dropout on the result of each part, in ``[0, 1)``.
        norm: ``post`` normalises each sum, as in the paper; ``pre`` normalises the input of each
            part, which makes training more stable (Xiong et al. 2020).
        cross: whether the layer attends to a source.
        normalizer: turns scores into weights; each attention gets a copy; softmax by default.
        positions: what self-attention does by the places of steps; each gets a copy.

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
        positions: Positions | None = None,
    ) -> None:
        # Copies, since a normalizer may have parameters, which the attentions must not share.
        parts: list[Cell] = [SelfAttention(width, heads, copy.deepcopy(normalizer), positions)]
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
    positions: Positions | None = None,
) -> Chain:
    """Stack Transformer layers to a causal cell.

    Args:
        layers: number of layers, at least 1.
        width: width of inputs and outputs, at least 1.
        heads: number of heads, a divisor of ``width``.
        hidden_size: width of the feed-forward networks, at least 1.
        dropout: dropout on the result of each part, in ``[0, 1)``.
        norm: ``pre`` or ``post``, see :class:`TransformerLayer`.
        cross: whether the layers attend to a source.
        normalizer: turns scores into weights; each attention gets a copy; softmax by default.
        positions: what self-attention does by the places of steps; each gets a copy.
    """
    check_positive(layers=layers)
    cells: list[Cell] = [
        TransformerLayer(width, heads, hidden_size, dropout, norm, cross, normalizer, positions)
        for _ in range(layers)
    ]
    if norm == "pre":
        # Each part normalises its own input, so the last output is not normalised yet.
        cells.append(Pointwise(nn.LayerNorm(width), width, width))
    return Chain(width, [kept(cell) for cell in cells])


class EncoderLayer(nn.Module):
    """Encoder layer of a Transformer (Vaswani et al. 2017, section 3.1).

    Every step sees all others, later ones too; so the layer is not a cell.

    Args:
        width: width of inputs and outputs, at least 1.
        heads: number of heads, a divisor of ``width``.
        hidden_size: width of the feed-forward network's hidden layer, at least 1.
        dropout: dropout on the result of each part, in ``[0, 1)``.
        norm: ``pre`` or ``post``, see :class:`TransformerLayer`.
        normalizer: turns scores into weights; the layer uses a copy; softmax by default.
        positions: what the attention does by the places of steps; the layer uses a copy.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden_size: int,
        dropout: float = 0.1,
        norm: Norm = "pre",
        normalizer: Normalizer | None = None,
        positions: Positions | None = None,
    ) -> None:
        super().__init__()
        self.attention = MultiHead(width, heads, copy.deepcopy(normalizer), positions, causal=False)
        self.attention_connection = Connection(width, dropout, norm)
        self.thinking = position_wise(width, hidden_size, dropout)
        self.thinking_connection = Connection(width, dropout, norm)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """``[B, S, width] -> [B, S, width]``; mask bool ``[B, S]``, False = padding.

        A fast twin runs where one fits.
        """
        twin = fast.find(self, "forward", inputs, mask)
        if twin is not None:
            found: Tensor = twin(self, inputs, mask)
            return found
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
    """Stack of encoder layers.

    Args:
        layers: number of layers, at least 1.
        width: width of inputs and outputs, at least 1.
        heads: number of heads, a divisor of ``width``.
        hidden_size: width of the feed-forward networks, at least 1.
        dropout: dropout on the result of each part, in ``[0, 1)``.
        norm: ``pre`` or ``post``, see :class:`TransformerLayer`.
        normalizer: turns scores into weights; each layer gets a copy; softmax by default.
        positions: what the attention does by the places of steps; each layer gets a copy.
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
        positions: Positions | None = None,
    ) -> None:
        super().__init__()
        check_positive(layers=layers)
        self.layers = nn.ModuleList(
            EncoderLayer(width, heads, hidden_size, dropout, norm, normalizer, positions)
            for _ in range(layers)
        )
        # With ``pre`` each part normalises its own input, so the last output is not normalised yet.
        self.norm = nn.LayerNorm(width) if norm == "pre" else nn.Identity()

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """``[B, S, width] -> [B, S, width]``; mask bool ``[B, S]``, False = padding."""
        for layer in self.layers:
            inputs = layer(inputs, mask)
        outputs: Tensor = self.norm(inputs)
        return outputs


class AttentionBlock(Cell[Slots]):
    """The input joined with a read of all steps so far (Mishra et al. 2018, section 3).

    ``y_t = [x_t, read_t]``: each step appends a slot, then reads by scaled dot products.

    Args:
        input_size: width of the input, at least 1.
        key_size: K, width of queries and keys, at least 1.
        value_size: V, width of the values, at least 1.
        likeness: a factor above 0; queries and keys then start with the same orthogonal matrix,
            times this factor. At the start of training a step reads itself and similar steps; a
            larger factor makes the weights sharper. ``None`` = independent matrices.
        positions: what the attention does by the places of steps; ``None`` = nothing.

    Attributes:
        output_size: width of the output.

    Raises:
        ValueError: a size or a number is out of its range, or the positions do not fit.
    """

    def __init__(
        self,
        input_size: int,
        key_size: int,
        value_size: int,
        likeness: float | None = None,
        positions: Positions | None = None,
    ) -> None:
        super().__init__()
        check_positive(input_size=input_size, key_size=key_size, value_size=value_size)
        self.sizes = [key_size, key_size, value_size]
        self.input_size = input_size
        self.output_size = input_size + value_size
        self.layer = nn.Linear(input_size, sum(self.sizes))
        if likeness is not None:
            # With the factor 0, queries and keys would be 0 and get no gradient.
            if likeness <= 0:
                raise ValueError(f"likeness must be more than 0; got {likeness}")
            # Both are views of the layer's weight: they are filled in place.
            with torch.no_grad():
                queries, keys, _ = self.layer.weight.split(self.sizes)
                queries.copy_(nn.init.orthogonal_(keys, likeness))
        self.addressing = placed_content(ScaledDot(), positions, None, key_size)

    def initial_state(self, batch_size: int) -> Slots:
        """No slots."""
        key, _, value = self.sizes
        return Slots(new_zeros((batch_size, 0, key), self), new_zeros((batch_size, 0, value), self))

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

    def looks_back(self) -> Addressing:
        """See :meth:`~memnets.core.Cell.looks_back`; a step sees itself too."""
        return self.addressing

    def choose(self, mask: Tensor, new: Slots, old: Slots) -> Slots:
        """The slots grow for all; the new one is closed to a sequence that skips the step."""
        return new.chosen(mask)


def causal_mask(steps: int, slots: int, device: torch.device) -> Tensor | None:
    """Mask of causal attention: each of the last steps sees itself and all before it.

    Args:
        steps: number of steps; they own the last slots.
        slots: number of slots, at least ``steps``.
        device: device of the mask.

    Returns:
        bool ``[steps, slots]``; ``None`` for a single step, which sees all slots.
    """
    if steps == 1:
        return None
    # The steps own the last slots; slots before them are the past, open to all.
    order = torch.arange(slots, device=device)
    return order <= order[slots - steps :].unsqueeze(1)
