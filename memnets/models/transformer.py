"""Transformers: encoder and decoder, a causal stack, and the same stack with any cell."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memnets.batches import Places
from memnets.cells.attention import (
    CrossAttention,
    EncoderStack,
    Norm,
    SelfAttention,
    transformer_stack,
)
from memnets.cells.composed import residual_stack
from memnets.cells.embeddings import Inputs, Output, tied_embeddings
from memnets.cells.positions import (
    Positions,
    SinusoidalPositions,
    Start,
    added_only,
    split_positions,
)
from memnets.checks import check_positive, check_source
from memnets.core import Addressing, Cell, Encoder, Normalizer
from memnets.factories import check_made, make_encoder
from memnets.models.sequence import SequenceModel
from memnets.training.model import Model

__all__ = ["CausalTransformer", "StackModel", "Transformer", "TransformerState"]


class TransformerState(NamedTuple):
    """State of a :class:`Transformer` after t steps.

    Attributes:
        decoder: state of the decoder: for each layer the slots of its self-attention, and its
            memory of the source.
        steps: t, int64 ``[B]``.
        start: what the positions must know of the start of the sequences; ``None`` = nothing.
    """

    decoder: Any
    steps: Tensor
    start: Start | None = None


class Transformer(Model[TransformerState]):
    """Transformer with an encoder and a decoder (Vaswani et al. 2017).

    Args:
        input_size: tokens of the source, or the width of its vectors, at least 1.
        output_size: tokens of the answer, or the width of its vectors, at least 1.
        width: d_model, width of the layers, at least 1.
        heads: number of heads, a divisor of ``width``.
        layers: number of layers of the encoder, and of the decoder, at least 1.
        hidden_size: d_ff, width of the feed-forward networks, at least 1.
        dropout: dropout on embeddings and on the result of each part, in ``[0, 1)``.
        norm: ``post`` as in the paper, or ``pre``; see :class:`~memnets.cells.TransformerLayer`.
        positions: how the attention learns the places of steps; sinusoidal by default.
        tied: whether the answer's tokens have one embedding as inputs and outputs; the source
            shares it if it has as many tokens.
        encoder: makes another encoder from the width of its input, such as one of images; by
            default the encoder's layers are those of a Transformer.
        labels: whether an answer is a label, and not a sequence of tokens. The inputs of an answer
            then are tokens of the source, with the same embedding, and the output has a matrix of
            its own. All other weights have the shapes of a model that answers in tokens of the
            source, and so can be taken over from one (Dai & Le 2015).
        normalizer: turns scores into weights; each attention gets a copy; softmax by default.
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
        encoder: Callable[[int], Encoder] | None = None,
        labels: bool = False,
        normalizer: Normalizer | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_positive(width=width)
        check_made("normalizer", normalizer, "ScalableSoftmax()")
        self.input_size = input_size
        positions = SinusoidalPositions(width) if positions is None else positions
        added, within = split_positions(positions)
        self.inputs, self.output = _ends(
            input_size, output_size, width, dropout, added, tied, labels
        )
        self.encoder: EncoderStack | Encoder
        self.bridge: nn.Module = nn.Identity()
        if encoder is None:
            self.encoder = EncoderStack(
                layers, width, heads, hidden_size, dropout, norm, normalizer, within
            )
        else:
            self.encoder = make_encoder(encoder, input_size, width)
            if self.encoder.output_size != width:
                self.bridge = nn.Linear(self.encoder.output_size, width)
            if self.encoder.embeds:
                self.inputs.source = None
        self.decoder = transformer_stack(
            layers, width, heads, hidden_size, dropout, norm, True, normalizer, within
        )

    @property
    def coupled(self) -> bool:
        """See :attr:`~memnets.core.EncoderDecoder.coupled`; its positions say so."""
        return self.inputs.coupled

    def encode(
        self, source: Tensor, mask: Tensor | None = None, places: Places | None = None
    ) -> TransformerState:
        """Read the source ``[B, S]`` or ``[B, S, I]``, or what else the encoder reads.

        A coupled model needs ``places``, those of the task (:class:`~memnets.batches.Places`).

        Raises:
            ValueError: a shape does not fit, a source is empty, or the positions need places.
            TypeError: the mask is not boolean.
        """
        self.check_source(source, mask)
        # Positions of the source count its padding too, which the encoder never sees; those of the
        # answer start at 0 again.
        steps = torch.zeros(len(source), dtype=torch.long, device=source.device)
        start = self.inputs.start(source, places)
        if isinstance(self.encoder, EncoderStack):
            hidden = self.encoder(self.inputs(source, steps, source=True, start=start), mask)
        else:
            if not self.encoder.embeds:
                source = self.inputs(source, steps, source=True, start=start)
            vectors, _, mask = self.encoder.read(source, mask)
            hidden = self.bridge(vectors)
        return TransformerState(self.decoder.start(hidden, mask), steps, start)

    def decode(self, inputs: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """Continue an answer: logits ``[B, T, O]`` for inputs ``[B, T]`` or ``[B, T, O]``."""
        hidden = self.inputs(inputs, state.steps, start=state.start)
        hidden, decoder = self.decoder.unroll(hidden, state.decoder)
        taken = state.steps + inputs.shape[1]
        return self.output(hidden), TransformerState(decoder, taken, state.start)

    def check_source(self, source: Tensor, mask: Tensor | None) -> None:
        """See :meth:`~memnets.training.Model.check_source`; an encoder says what it reads."""
        read = self.encoder.source_dims if isinstance(self.encoder, Encoder) else (2, 3)
        check_source(source, mask, read)

    def longest_answer(self, source_steps: int) -> int | None:
        """See :meth:`~memnets.core.EncoderDecoder.longest_answer`; the positions limit it."""
        longest = self.inputs.max_length
        limits = [] if self.inputs.source is None else [longest]
        limits += [self.encoder.max_length] if isinstance(self.encoder, Encoder) else []
        too_long = any(limit is not None and source_steps > limit for limit in limits)
        return 0 if too_long else longest

    def alignments(self) -> dict[str, Addressing]:
        """See :meth:`~memnets.core.EncoderDecoder.alignments`: a label for each decoder layer."""
        cells = [cell for cell in self.decoder.modules() if isinstance(cell, CrossAttention)]
        return {
            f"layer {number}": cell.attention.addressing for number, cell in enumerate(cells, 1)
        }

    def grid(self, height: int, width: int) -> tuple[int, int] | None:
        """See :meth:`~memnets.core.EncoderDecoder.grid`; an encoder of images knows its patches."""
        return self.encoder.grid(height, width) if isinstance(self.encoder, Encoder) else None


class StackModel(SequenceModel):
    """A residual stack of any cell: one backbone on which cells can be compared.

    Each layer is a cell that mixes the steps, then a feed-forward network, each within a skip
    connection (:func:`~memnets.cells.residual_stack`).

    Args:
        input_size: tokens of the source, or the width of its vectors, at least 1.
        output_size: tokens of the answer, or the width of its vectors, at least 1.
        mixer: makes the cell of a layer from the width of its input: a class, its other arguments
            given.
        width: width of the stack, at least 1.
        layers: number of layers, at least 1.
        hidden_size: width of the feed-forward networks' hidden layer, at least 1.
        dropout: dropout on embeddings and on the result of each part, in ``[0, 1)``.
        norm: ``pre`` or ``post``, see :class:`~memnets.cells.Connection`.
        positions: vectors for the places of steps, counted from the start of the source; ``None`` =
            none, for cells that see the order of the steps. What is done within an attention is
            given to the mixer.
        tied: whether the answer's tokens have one embedding as inputs and outputs; the source
            shares it if it has as many tokens.
        labels: whether an answer is a label, and not a sequence of tokens. The inputs of an answer
            then are tokens of the source, with the same embedding, and the output has a matrix of
            its own. All other weights have the shapes of a model that answers in tokens of the
            source, and so can be taken over from one (Dai & Le 2015).
        settings: see :class:`~memnets.models.Model`.

    Example:
        ``StackModel(30, 30, partial(LSTM, hidden_size=64), width=64, layers=2)``

    Raises:
        ValueError: a size is out of its range, or the positions are for an attention.
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
        labels: bool = False,
        **settings: Any,
    ) -> None:
        added = added_only(positions, "others are given to the mixer, as those of SelfAttention")
        inputs, output = _ends(input_size, output_size, width, dropout, added, tied, labels)
        body = residual_stack(mixer, layers, width, hidden_size, dropout, norm)
        super().__init__(inputs, body, output, **settings)
        self.input_size = input_size
        self.layers = layers

    def check_source(self, source: Tensor, mask: Tensor | None) -> None:
        """See :meth:`~memnets.training.Model.check_source`."""
        check_source(source, mask)

    def alignments(self) -> dict[str, Addressing]:
        """See :meth:`~memnets.core.EncoderDecoder.alignments`: layers that look at their past."""
        found = [part for cell in self._cells() if (part := cell.looks_back()) is not None]
        return {f"layer {number}": part for number, part in enumerate(found, 1)}

    def slot_names(self, source: list[str], inputs: list[str]) -> list[str]:
        """See :meth:`~memnets.core.EncoderDecoder.slot_names`; the state before may be a slot."""
        first = max((cell.first_slots for cell in self._cells()), default=0)
        return ["start"] * first + source + inputs

    def _cells(self) -> list[Cell]:
        return [part for part in self.body.modules() if isinstance(part, Cell)]


class CausalTransformer(StackModel):
    """Transformer of one stack: causal self-attention over source and answer.

    Args:
        input_size: tokens of the source, or the width of its vectors, at least 1.
        output_size: tokens of the answer, or the width of its vectors, at least 1.
        width: d_model, width of the layers, at least 1.
        heads: number of heads, a divisor of ``width``.
        layers: number of layers, at least 1.
        hidden_size: d_ff, width of the feed-forward networks, at least 1.
        dropout: dropout on embeddings and on the result of each part, in ``[0, 1)``.
        positions: how the attention learns the places of steps, counted from the start of the
            source; sinusoidal by default.
        normalizer: turns scores into weights; each layer gets a copy; softmax by default.
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
        normalizer: Normalizer | None = None,
        **settings: Any,
    ) -> None:
        check_positive(width=width)
        check_made("normalizer", normalizer, "ScalableSoftmax()")
        positions = SinusoidalPositions(width) if positions is None else positions
        added, within = split_positions(positions)

        def attention(width: int) -> SelfAttention:
            # Copies, since a normalizer may have parameters, which the layers must not share.
            return SelfAttention(width, heads, copy.deepcopy(normalizer), within)

        super().__init__(
            input_size,
            output_size,
            attention,
            width,
            layers,
            hidden_size,
            dropout,
            positions=added,
            **settings,
        )


def _ends(
    input_size: int,
    output_size: int,
    width: int,
    dropout: float,
    positions: Positions | None,
    tied: bool,
    labels: bool,
) -> tuple[Inputs, Output]:
    """The parts before and behind a stack: its inputs and its logits."""
    # The output shares the answer's matrix even if the source has its own.
    source, answer = tied_embeddings(input_size, output_size, width, tied, labels)
    output = Output(width, output_size, answer if tied and not labels else None)
    return Inputs(source, answer, positions, dropout), output
