"""Transformers: an encoder and a decoder, or one causal stack for source and answer."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from memnets.core import Memory, check_made, check_positive
from memnets.layers import Embedding, Positions, SinusoidalPositions, Slots, Stack, causal_mask
from memnets.models.base import Model
from memnets.models.seq2seq import check_source

__all__ = ["CausalState", "CausalTransformer", "Transformer", "TransformerState"]


class TransformerState(NamedTuple):
    """State of a :class:`Transformer` after t steps.

    Attributes:
        source: what each layer of the decoder sees of the source.
        slots: what each remembers of the answer, t slots.
    """

    source: tuple[Memory, ...]
    slots: tuple[Slots, ...]


class CausalState(NamedTuple):
    """State of a :class:`CausalTransformer` after t steps.

    Attributes:
        slots: what each layer remembers, t slots.
        mask: bool ``[B, t]``, False = padding.
    """

    slots: tuple[Slots, ...]
    mask: Tensor


class _Base(Model[Any]):
    """Embeddings, positions and output."""

    def __init__(
        self,
        input_size: int,
        output_size: int,
        width: int,
        dropout: float,
        positions: Positions | None,
        tied: bool,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_positive(input_size=input_size, output_size=output_size, width=width)
        self.input_size = input_size
        self.width = width
        self.target_embedding = Embedding(output_size, width)
        shared = tied and input_size == output_size
        self.source_embedding = self.target_embedding if shared else Embedding(input_size, width)
        check_made("positions", positions, "LearnedPositions(width)")
        self.positions = SinusoidalPositions(width) if positions is None else positions
        self.dropout = nn.Dropout(dropout)
        self.bias = nn.Parameter(torch.zeros(output_size))
        self.output = None if tied else nn.Linear(width, output_size, bias=False)

    def embed(self, embedding: nn.Module, inputs: Tensor, positions: Tensor) -> Tensor:
        """Tokens or vectors, and where they stand: ``[B, T, width]``."""
        # Embeddings have length 1: so they weigh as much as the positions (section 3.4).
        vectors = embedding(inputs) * math.sqrt(self.width)
        embedded: Tensor = self.dropout(vectors + self.positions(positions))
        return embedded

    def answer(self, hidden: Tensor) -> Tensor:
        """Logits ``[B, T, O]``."""
        weight = self.target_embedding.weight if self.output is None else self.output.weight
        return nn.functional.linear(hidden, weight, self.bias)


class Transformer(_Base):
    """Encoder and decoder of self-attention (Vaswani et al. 2017).

    Args:
        input_size: tokens of the source, or the width of its vectors, at least 1.
        output_size: tokens of the answer, or the width of its vectors, at least 1.
        width: d_model, at least 1.
        heads: a divisor of ``width``.
        layers: of encoder and decoder each, at least 1.
        hidden_size: d_ff, at least 1.
        dropout: in ``[0, 1)``.
        norm: ``post`` as in the paper, or ``pre``.
        positions: what says where a token stands; sinusoidal if not given.
        tied: one embedding for tokens of the answer as input and output, and of the source too if
            there are as many.
        settings: see :class:`~memnets.models.Model`.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        width: int = 256,
        heads: int = 4,
        layers: int = 3,
        hidden_size: int = 1024,
        dropout: float = 0.1,
        norm: Literal["pre", "post"] = "pre",
        positions: Positions | None = None,
        tied: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(input_size, output_size, width, dropout, positions, tied, **settings)
        self.encoder = Stack(layers, width, heads, hidden_size, dropout, norm)
        self.decoder = Stack(layers, width, heads, hidden_size, dropout, norm, cross=True)

    def encode(self, source: Tensor, mask: Tensor | None = None) -> TransformerState:
        """Read the source ``[B, S]`` or ``[B, S, I]``.

        Raises:
            ValueError: a shape does not fit, or a source is empty.
            TypeError: the mask is not boolean.
        """
        check_source(source, mask)
        positions = torch.arange(source.shape[1], device=source.device).unsqueeze(0)
        hidden = self.embed(self.source_embedding, source, positions)
        hidden, slots = self.encoder(hidden, None, None if mask is None else mask[:, None, None])
        memories = self.decoder.source_memories(hidden, mask)
        nothing = tuple(Slots(*(part[:, :, :0] for part in layer)) for layer in slots)
        return TransformerState(memories, nothing)

    def decode(self, inputs: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """Answer: logits ``[B, T, O]`` for the answer so far, ``[B, T]`` or ``[B, T, O]``."""
        steps, past = inputs.shape[1], state.slots[0].keys.shape[2]
        positions = torch.arange(past, past + steps, device=inputs.device).unsqueeze(0)
        hidden = self.embed(self.target_embedding, inputs, positions)
        mask = causal_mask(steps, past + steps, inputs.device)
        hidden, slots = self.decoder(hidden, state.slots if past else None, mask, state.source)
        return self.answer(hidden), TransformerState(state.source, slots)

    def reorder(
        self, state: TransformerState, index: Tensor, same_source: bool = False
    ) -> TransformerState:
        """See :meth:`~memnets.models.Model.reorder`; beams of a source share its memory."""
        if not same_source:
            return super().reorder(state, index)  # type: ignore[no-any-return]
        return TransformerState(state.source, super().reorder(state.slots, index))

    def longest_answer(self, source_steps: int) -> int | None:
        """See :meth:`~memnets.models.Model.longest_answer`: both sides have the same positions."""
        positions = self.positions.max_length
        return 0 if positions is not None and source_steps > positions else positions

    def alignments(self) -> dict[str, str]:
        """See :meth:`~memnets.models.Model.alignments`: a label for each layer of the decoder."""
        return _layers(self.decoder, "decoder", "source_attention")


class CausalTransformer(_Base):
    """One causal stack that reads the source and goes on with the answer: plain self-attention.

    Args:
        input_size: tokens of the source, or the width of its vectors, at least 1.
        output_size: tokens of the answer, or the width of its vectors, at least 1.
        width: d_model, at least 1.
        heads: a divisor of ``width``.
        layers: at least 1.
        hidden_size: d_ff, at least 1.
        dropout: in ``[0, 1)``.
        norm: ``post`` as in Vaswani et al. 2017, or ``pre``.
        positions: what says where a token stands, from the start of the source on; sinusoidal if
            not given.
        tied: one embedding for tokens of the answer as input and output, and of the source too if
            there are as many.
        settings: see :class:`~memnets.models.Model`.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        width: int = 256,
        heads: int = 4,
        layers: int = 4,
        hidden_size: int = 1024,
        dropout: float = 0.1,
        norm: Literal["pre", "post"] = "pre",
        positions: Positions | None = None,
        tied: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(input_size, output_size, width, dropout, positions, tied, **settings)
        self.stack = Stack(layers, width, heads, hidden_size, dropout, norm)

    def encode(self, source: Tensor, mask: Tensor | None = None) -> CausalState:
        """Read the source ``[B, S]`` or ``[B, S, I]``.

        Raises:
            ValueError: a shape does not fit, or a source is empty.
            TypeError: the mask is not boolean.
        """
        check_source(source, mask)
        if mask is None:
            mask = source.new_ones(source.shape[:2], dtype=torch.bool)
        return self._run(self.source_embedding, source, mask, None)[1]

    def decode(self, inputs: Tensor, state: CausalState) -> tuple[Tensor, CausalState]:
        """Answer: logits ``[B, T, O]`` for the answer so far, ``[B, T]`` or ``[B, T, O]``."""
        mask = torch.cat([state.mask, state.mask.new_ones(inputs.shape[:2])], 1)
        hidden, state = self._run(self.target_embedding, inputs, mask, state.slots)
        return self.answer(hidden), state

    def longest_answer(self, source_steps: int) -> int | None:
        """See :meth:`~memnets.models.Model.longest_answer`: what the source leaves."""
        positions = self.positions.max_length
        return None if positions is None else max(0, positions - source_steps)

    def alignments(self) -> dict[str, str]:
        """See :meth:`~memnets.models.Model.alignments`: a label for each layer."""
        return _layers(self.stack, "stack", "attention")

    def _run(
        self, embedding: nn.Module, inputs: Tensor, mask: Tensor, past: tuple[Slots, ...] | None
    ) -> tuple[Tensor, CausalState]:
        """Some steps; ``mask`` is that of the steps before and these, ``[B, N]``."""
        steps = inputs.shape[1]
        # Padding takes no place.
        positions = (mask.cumsum(1) - 1).clamp_min(0)[:, -steps:]
        seen = mask[:, None, None]
        causal = causal_mask(steps, mask.shape[1], inputs.device)
        seen = seen if causal is None else seen & causal
        hidden = self.embed(embedding, inputs, positions)
        hidden, slots = self.stack(hidden, past, seen)
        return hidden, CausalState(slots, mask)


def _layers(stack: Stack, name: str, part: str) -> dict[str, str]:
    return {
        f"layer {layer + 1}": f"{name}.layers.{layer}.{part}.addressing"
        for layer in range(len(stack.layers))
    }
