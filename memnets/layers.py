"""Layers on top of addressing: embeddings, positions, Transformer blocks, SNAIL's attention."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from memnets import functional
from memnets.addressing import Content
from memnets.core import Controller, Memory, Normalizer, State, check_positive, map_state
from memnets.precision import full_precision
from memnets.scores import ScaledDot

__all__ = [
    "AttentionBlock",
    "Bridge",
    "Embedding",
    "LearnedPositions",
    "MultiHead",
    "Positions",
    "SinusoidalPositions",
    "Slots",
    "Stack",
    "TransformerLayer",
]


class Embedding(nn.Module):
    """A vector for each token, or a linear map of vectors: a token is a one-hot vector.

    Args:
        size: how many tokens there are, or the width of the vectors, at least 1.
        width: of the result, at least 1.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        check_positive(size=size, width=width)
        self.weight = nn.Parameter(torch.randn(size, width) / math.sqrt(width))

    def forward(self, inputs: Tensor) -> Tensor:
        """Tokens ``[*B]`` or vectors ``[*B, size]`` ``-> [*B, width]``.

        Raises:
            ValueError: a token is out of range, or the vectors have another width.
        """
        size = len(self.weight)
        if not inputs.is_floating_point():
            try:
                return nn.functional.embedding(inputs, self.weight)
            except IndexError as error:
                raise ValueError(
                    f"tokens must be in [0, {size}); "
                    f"got {inputs.min().item()} to {inputs.max().item()}"
                ) from error
        if inputs.shape[-1] != size:
            raise ValueError(f"vectors must have width {size}; got {list(inputs.shape)}")
        return inputs @ self.weight


class Positions(nn.Module, ABC):
    """What tells a model without recurrence where it is.

    Attributes:
        max_length: how many positions there are; ``None`` = there is no last.
    """

    max_length: int | None = None

    @abstractmethod
    def forward(self, positions: Tensor) -> Tensor:
        """Vectors ``[*B, T, width]`` for positions ``[*B, T]``, whole numbers from 0.

        Raises:
            ValueError: a position is beyond the last that there is.
        """


class SinusoidalPositions(Positions):
    """Sines and cosines of many wavelengths (Vaswani et al. 2017, section 3.5).

    ``p(t, 2i) = sin(t / 10000^(2i / width))``, and ``p(t, 2i + 1)`` its cosine. There is no last
    position.

    Args:
        width: even, at least 2.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"width must be even and at least 2; got {width}")
        self.frequencies: Tensor
        exponents = torch.arange(0, width, 2) / width
        self.register_buffer("frequencies", 10000.0**-exponents, persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        """``[*B, T] -> [*B, T, width]``, in ``[-1, 1]``."""
        angles = positions.unsqueeze(-1) * self.frequencies
        return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)


class LearnedPositions(Positions):
    """A learned vector for each position (Gehring et al. 2017).

    Args:
        width: at least 1.
        max_length: how many positions there are, at least 1.
    """

    def __init__(self, width: int, max_length: int = 512) -> None:
        super().__init__()
        check_positive(width=width, max_length=max_length)
        self.max_length = max_length
        self.weight = nn.Parameter(torch.randn(max_length, width) / math.sqrt(width))

    def forward(self, positions: Tensor) -> Tensor:
        """``[*B, T] -> [*B, T, width]``.

        Raises:
            ValueError: a position is beyond ``max_length``.
        """
        if positions.numel() and positions.max() >= len(self.weight):
            raise ValueError(
                f"the model's positions end at max_length = {len(self.weight)}; "
                f"got a sequence of length {int(positions.max()) + 1}"
            )
        return nn.functional.embedding(positions, self.weight)


class Bridge(nn.Linear):
    """From the summary of a source to the first state of a decoder: ``tanh(W summary + b)``.

    Every part of the state that is made of real numbers is set (Bahdanau et al. 2015, A.2.2);
    state of no size, such as a tape before the first step, stays as it is.

    Args:
        summary_size: width of the summary, at least 1.
        controller: whose state it is to be.
        extra_size: width of one more vector that is made likewise, at least 0.
    """

    def __init__(self, summary_size: int, controller: Controller, extra_size: int = 0) -> None:
        sizes = [extra_size]
        _replace_numbers(controller.initial_state(1), lambda part: sizes.append(part.numel()))
        super().__init__(summary_size, sum(sizes))
        self.sizes = sizes

    @full_precision
    def first_state(self, summary: Tensor, controller: Controller[State]) -> tuple[Tensor, State]:
        """``[B, summary_size] ->`` the extra vector ``[B, extra_size]``, and the state.

        Under autocast both are float32, as a controller's states are.
        """
        extra, *parts = self(summary).tanh().split(self.sizes, -1)
        rest = iter(parts)
        zeros = controller.initial_state(len(summary))
        return extra, _replace_numbers(zeros, lambda part: next(rest).reshape(part.shape))


def _replace_numbers(state: State, function: Callable[[Tensor], Tensor | None]) -> State:
    """Apply ``function`` to what is made of real numbers; where it gives ``None``, that stays."""

    def replace(part: Tensor) -> Tensor:
        if not part.is_floating_point() or not part.numel():
            return part
        result = function(part)
        return part if result is None else result

    return map_state(replace, state)


class Slots(NamedTuple):
    """What a layer that attends remembers of the sequence so far.

    Attributes:
        keys: ``[B, H, N, width / H]``; of a layer without heads, ``[B, N, K]``.
        values: ``[B, H, N, width / H]``; of a layer without heads, ``[B, N, V]``.
    """

    keys: Tensor
    values: Tensor


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

    def slots(self, inputs: Tensor) -> Slots:
        """What the heads will find of the inputs ``[B, N, width]``."""
        return Slots(*self.project(inputs, 1, 2))

    def forward(self, inputs: Tensor, memory: Memory) -> Tensor:
        """Read a memory, that of :meth:`slots`, with queries ``[B, T, width] -> [B, T, width]``."""
        (queries,) = self.project(inputs, 0, 1)
        return self.read(queries, memory)

    def read(self, queries: Tensor, memory: Memory) -> Tensor:
        """Read with queries that are projected already: ``[B, H, T, D] -> [B, T, width]``."""
        vectors, _ = self.addressing.read(queries, memory, None)
        outputs: Tensor = self.output(vectors.transpose(1, 2).flatten(2))
        return outputs


class TransformerLayer(nn.Module):
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
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden_size: int,
        dropout: float = 0.1,
        norm: Literal["pre", "post"] = "pre",
        cross: bool = False,
        normalizer: Normalizer | None = None,
    ) -> None:
        super().__init__()
        check_positive(hidden_size=hidden_size)
        if norm not in ("pre", "post"):
            raise ValueError(f"norm must be 'pre' or 'post'; got {norm!r}")
        self.pre = norm == "pre"
        self.attention = MultiHead(width, heads, copy.deepcopy(normalizer))
        self.attention_norm = nn.LayerNorm(width)
        if cross:
            self.source_attention = MultiHead(width, heads, copy.deepcopy(normalizer))
            self.source_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, width),
        )
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        inputs: Tensor,
        past: Slots | None = None,
        mask: Tensor | None = None,
        source: Memory | None = None,
    ) -> tuple[Tensor, Slots]:
        """One layer, over T steps.

        Args:
            inputs: ``[B, T, width]``.
            past: what the layer remembers of the steps before; ``None`` at the beginning.
            mask: bool, broadcasts to ``[B, H, T, N]`` with ``N`` the steps so far, these included;
                True = may be seen.
            source: what :meth:`MultiHead.slots` of the source attention gave, as a memory.

        Returns:
            ``[B, T, width]``, and what is remembered now.
        """

        def part(hidden: Tensor, norm: nn.Module, function: object) -> Tensor:
            assert callable(function)
            if self.pre:
                return hidden + self.dropout(function(norm(hidden)))  # type: ignore[no-any-return]
            return norm(hidden + self.dropout(function(hidden)))  # type: ignore[no-any-return]

        slots: Slots | None = None

        def attend(hidden: Tensor) -> Tensor:
            nonlocal slots
            queries, keys, values = self.attention.project(hidden, 0, 3)
            if past is not None:
                keys = functional.append(past.keys, keys)
                values = functional.append(past.values, values)
            slots = Slots(keys, values)
            return self.attention.read(queries, Memory(keys, values, mask))

        hidden = part(inputs, self.attention_norm, attend)
        if source is not None:
            hidden = part(hidden, self.source_norm, lambda x: self.source_attention(x, source))
        hidden = part(hidden, self.feed_forward_norm, self.feed_forward)
        assert slots is not None
        return hidden, slots


class Stack(nn.Module):
    """Transformer layers, one on another.

    Args:
        layers: how many, at least 1.
        width: see :class:`TransformerLayer`, as are the rest.
        heads: a divisor of ``width``.
        hidden_size: at least 1.
        dropout: in ``[0, 1)``.
        norm: ``pre`` or ``post``.
        cross: whether there is a source to attend to.
        normalizer: see :class:`TransformerLayer`.
    """

    def __init__(
        self,
        layers: int,
        width: int,
        heads: int,
        hidden_size: int,
        dropout: float = 0.1,
        norm: Literal["pre", "post"] = "pre",
        cross: bool = False,
        normalizer: Normalizer | None = None,
    ) -> None:
        super().__init__()
        check_positive(layers=layers)
        self.layers = nn.ModuleList(
            TransformerLayer(width, heads, hidden_size, dropout, norm, cross, normalizer)
            for _ in range(layers)
        )
        # Where each part normalises its input alone, nothing has normalised the last output.
        self.norm = nn.LayerNorm(width) if norm == "pre" else nn.Identity()

    def forward(
        self,
        inputs: Tensor,
        past: tuple[Slots, ...] | None = None,
        mask: Tensor | None = None,
        source: tuple[Memory, ...] | None = None,
    ) -> tuple[Tensor, tuple[Slots, ...]]:
        """All layers: ``[B, T, width] -> [B, T, width]``, and what each remembers.

        Args:
            inputs: ``[B, T, width]``.
            past: what each layer remembers of the steps before; ``None`` at the beginning.
            mask: see :meth:`TransformerLayer.forward`.
            source: a memory for each layer.
        """
        slots = []
        for index, layer in enumerate(self.layers):
            inputs, layer_slots = layer(
                inputs,
                None if past is None else past[index],
                mask,
                None if source is None else source[index],
            )
            slots.append(layer_slots)
        return self.norm(inputs), tuple(slots)

    def source_memories(self, source: Tensor, mask: Tensor | None) -> tuple[Memory, ...]:
        """The source ``[B, S, width]`` as each layer will attend to it; mask bool ``[B, S]``."""
        opened = None if mask is None else mask[:, None, None]
        memories = []
        for layer in self.layers:
            assert isinstance(layer, TransformerLayer)
            keys, values = layer.source_attention.slots(source)
            memories.append(Memory(keys, values, opened))
        return tuple(memories)


class AttentionBlock(nn.Module):
    """What came in, and beside it what is read of all steps so far, its own included.

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
        self.output_size = input_size + value_size
        self.layer = nn.Linear(input_size, sum(self.sizes))
        if likeness is not None:
            if likeness <= 0:  # at 0 there would be no gradient either
                raise ValueError(f"likeness must be more than 0; got {likeness}")
            with torch.no_grad():
                queries, keys, _ = self.layer.weight.split(self.sizes)
                queries.copy_(nn.init.orthogonal_(keys, likeness))
        self.addressing = Content(ScaledDot())

    def forward(
        self, inputs: Tensor, past: Slots | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Slots]:
        """T steps.

        Args:
            inputs: ``[B, T, input_size]``.
            past: what the last call returned; ``None`` at the beginning.
            mask: bool ``[B, N]``, of the steps so far, these included; False = padding; ``None`` =
                no padding.

        Returns:
            ``[B, T, output_size]``, and what is remembered now.
        """
        queries, keys, values = self.layer(inputs).split(self.sizes, -1)
        if past is not None:
            keys = functional.append(past.keys, keys)
            values = functional.append(past.values, values)
        seen = causal_mask(inputs.shape[1], keys.shape[1], inputs.device)
        if mask is not None:
            seen = mask.unsqueeze(1) if seen is None else mask.unsqueeze(1) & seen
        vectors, _ = self.addressing.read(queries, Memory(keys, values, seen), None)
        return torch.cat([inputs, vectors], -1), Slots(keys, values)


def causal_mask(steps: int, slots: int, device: torch.device) -> Tensor | None:
    """Which slots each of the last ``steps`` steps may see: itself and those before.

    Returns:
        bool ``[steps, slots]``, aligned to the end; ``None`` where every slot may be seen.
    """
    if steps == 1:
        return None
    order = torch.arange(slots, device=device)
    return order <= order[slots - steps :].unsqueeze(1)
