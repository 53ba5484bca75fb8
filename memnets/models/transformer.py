"""Transformers: an encoder and a decoder, or one causal stack, and that stack of any cells."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from memnets.cells.attention import EncoderStack, Norm, SelfAttention, transformer_stack
from memnets.cells.composed import residual_stack
from memnets.cells.embeddings import Inputs, Output, Positions, SinusoidalPositions, tied_embeddings
from memnets.core import Cell, check_positive, check_source
from memnets.models.sequence import SequenceModel, SequenceState
from memnets.training.model import Model

__all__ = ["CausalTransformer", "StackModel", "Transformer", "TransformerState"]


class TransformerState(NamedTuple):
    """State of a :class:`Transformer` after t steps.

    Attributes:
        decoder: state of the decoder: of each layer the slots of its self-attention, and the source
            as it attends to it.
        steps: t, int64 ``[B]``.
    """

    decoder: Any
    steps: Tensor


class Transformer(Model[TransformerState]):
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
        positions: vectors for the places of tokens; sinusoidal if not given.
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
        norm: Norm = "pre",
        positions: Positions | None = None,
        tied: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_positive(width=width)
        self.input_size = input_size
        positions = SinusoidalPositions(width) if positions is None else positions
        self.inputs, self.output = _ends(input_size, output_size, width, dropout, positions, tied)
        self.encoder = EncoderStack(layers, width, heads, hidden_size, dropout, norm)
        self.decoder = transformer_stack(
            layers, width, heads, hidden_size, dropout, norm, cross=True
        )

    def encode(self, source: Tensor, mask: Tensor | None = None) -> TransformerState:
        """Read the source ``[B, S]`` or ``[B, S, I]``.

        Raises:
            ValueError: a shape does not fit, or a source is empty.
            TypeError: the mask is not boolean.
        """
        check_source(source, mask)
        steps = torch.zeros(len(source), dtype=torch.long, device=source.device)
        hidden = self.inputs(source, steps, source=True)
        hidden = self.encoder(hidden, mask)
        return TransformerState(self.decoder.start(hidden, mask), steps)

    def decode(self, inputs: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """Answer: logits ``[B, T, O]`` for the answer so far, ``[B, T]`` or ``[B, T, O]``."""
        hidden = self.inputs(inputs, state.steps)
        hidden, decoder = self.decoder.unroll(hidden, state.decoder)
        return self.output(hidden), TransformerState(decoder, state.steps + inputs.shape[1])

    def alignments(self) -> dict[str, str]:
        """See :meth:`~memnets.core.EncoderDecoder.alignments`: a label for each decoder layer."""
        return {
            f"layer {layer + 1}": f"decoder.cells.{layer}.cells.1.cell.attention.addressing"
            for layer in range(len(self.encoder.layers))
        }


class StackModel(SequenceModel):
    """The model whose body is a residual stack of any cells.

    Layers of a cell that mixes the steps and a feed-forward network, each within a skip connection
    (:func:`~memnets.cells.residual_stack`): one backbone on which cells can be compared.

    Args:
        input_size: tokens of the source, or the width of its vectors, at least 1.
        output_size: tokens of the answer, or the width of its vectors, at least 1.
        mixer: makes the cell of a layer from the width of its input: a class, its other arguments
            given.
        width: of the stack, at least 1.
        layers: how many, at least 1.
        hidden_size: width of the feed-forward networks in the middle, at least 1.
        dropout: in ``[0, 1)``.
        norm: ``pre`` or ``post``, see :class:`~memnets.cells.Connection`.
        positions: vectors for the places of steps, from the start of the source on; ``None`` =
            none, for cells that know the order by themselves.
        tied: one embedding for tokens of the answer as input and output, and of the source too if
            there are as many.
        settings: see :class:`~memnets.models.Model`.

    Example:
        ``StackModel(30, 30, partial(LSTM, hidden_size=64), width=64, layers=2)``
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        mixer: Callable[[int], Cell],
        width: int = 128,
        layers: int = 2,
        hidden_size: int = 256,
        dropout: float = 0.0,
        norm: Norm = "pre",
        positions: Positions | None = None,
        tied: bool = True,
        **settings: Any,
    ) -> None:
        inputs, output = _ends(input_size, output_size, width, dropout, positions, tied)
        body = residual_stack(mixer, layers, width, hidden_size, dropout, norm)
        super().__init__(inputs, body, output, **settings)
        self.input_size = input_size
        self.layers = layers

    def encode(self, source: Tensor, mask: Tensor | None = None) -> SequenceState:
        """Read the source ``[B, S]`` or ``[B, S, I]``.

        Raises:
            ValueError: a shape does not fit, or a source is empty.
            TypeError: the mask is not boolean.
        """
        check_source(source, mask)
        return super().encode(source, mask)


class CausalTransformer(StackModel):
    """The model whose body is layers of causal self-attention: plain self-attention.

    Args:
        input_size: tokens of the source, or the width of its vectors, at least 1.
        output_size: tokens of the answer, or the width of its vectors, at least 1.
        width: d_model, at least 1.
        heads: a divisor of ``width``.
        layers: at least 1.
        hidden_size: d_ff, at least 1.
        dropout: in ``[0, 1)``.
        positions: vectors for the places of tokens, from the start of the source on; sinusoidal if
            not given.
        settings: see :class:`StackModel` and :class:`~memnets.models.Model`.
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
        positions: Positions | None = None,
        **settings: Any,
    ) -> None:
        check_positive(width=width)
        super().__init__(
            input_size,
            output_size,
            partial(SelfAttention, heads=heads),
            width,
            layers,
            hidden_size,
            dropout,
            positions=SinusoidalPositions(width) if positions is None else positions,
            **settings,
        )

    def alignments(self) -> dict[str, str]:
        """See :meth:`~memnets.core.EncoderDecoder.alignments`: a label for each layer."""
        return {
            f"layer {layer + 1}": f"body.cells.{layer}.cells.0.cell.attention.addressing"
            for layer in range(self.layers)
        }


def _ends(
    input_size: int,
    output_size: int,
    width: int,
    dropout: float,
    positions: Positions | None,
    tied: bool,
) -> tuple[Inputs, Output]:
    """Both ends of a stack: inputs, and logits."""
    source, answer = tied_embeddings(input_size, output_size, width, tied)
    output = Output(width, output_size, answer if tied else None)
    return Inputs(source, answer, positions, dropout), output
