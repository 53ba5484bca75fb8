"""ConvS2S: an encoder and a decoder of gated convolutions with attention in every layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memnets import functional
from memnets.batches import Places
from memnets.cells import (
    Chain,
    ConvolutionalLayer,
    Dropout,
    Embedding,
    Inputs,
    LearnedPositions,
    NormedLinear,
    Positions,
)
from memnets.cells.composed import kept
from memnets.cells.positions import Start
from memnets.checks import check_positive, check_source
from memnets.core import Addressing, Encoder
from memnets.encoders import Convolutional
from memnets.factories import make_encoder
from memnets.training.model import Model

__all__ = ["ConvS2S", "ConvS2SState"]

#: Deviation of all embeddings at the start (Gehring et al. 2017, section 3.5).
DEVIATION = 0.1


class ConvS2SState(NamedTuple):
    """State of a :class:`ConvS2S` after t steps.

    Attributes:
        decoder: state of the decoder: for each layer the last inputs of its convolution, and its
            memory of the source.
        steps: t, int64 ``[B]``.
        start: what the positions must know of the start of the sequences; ``None`` = nothing.
    """

    decoder: Any
    steps: Tensor
    start: Start | None = None


class ConvS2S(Model[ConvS2SState]):
    """Convolutional sequence to sequence learning (Gehring et al. 2017).

    Words and their places are embedded, ``e`` in the source and ``g`` in the answer. Layers of
    gated convolutions make the vectors ``z`` of the source. Each layer of the decoder is a causal
    gated convolution with attention of its own: it looks for keys ``z`` and reads values ``z + e``
    (:class:`~memnets.cells.ConvolutionalLayer`). All layers have weight normalisation and start as
    in section 3.5.

    Args:
        input_size: tokens of the source, or the width of its vectors, at least 1.
        output_size: tokens of the answer, or the width of its vectors, at least 1.
        width: width of embeddings and layers, at least 1.
        encoder_layers: number of layers of the encoder, at least 1.
        layers: number of layers of the decoder, each with attention, at least 1.
        kernel_size: k, number of steps that a convolution sees, odd, at least 1.
        dropout: dropout on embeddings, on the input of each convolution and before the logits, in
            ``[0, 1)``.
        positions: vectors to add for the places of tokens; learned for 512 places by default.
        encoder_gradient: factor on the gradient that comes from all attentions to ``z``, but not to
            ``e``, more than 0; ``None`` = 1 / (2 ``layers``), as section 3.4 says, with the 2 of
            the authors' program.
        encoder: makes another encoder from the width of its input, such as one of images. The
            values of one that owns its embedding are ``z`` alone.
        settings: see :class:`~memnets.models.Model`.

    Raises:
        ValueError: a size is out of its range.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        width: int = 256,
        encoder_layers: int = 4,
        layers: int = 3,
        kernel_size: int = 3,
        dropout: float = 0.1,
        positions: Positions | None = None,
        encoder_gradient: float | None = None,
        encoder: Callable[[int], Encoder] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_positive(width=width, layers=layers)
        if encoder_gradient is not None and encoder_gradient <= 0:
            raise ValueError(f"encoder_gradient must be more than 0; got {encoder_gradient}")
        self.encoder_gradient = 1 / (2 * layers) if encoder_gradient is None else encoder_gradient
        self.input_size = input_size
        positions = LearnedPositions(width) if positions is None else positions
        source, answer = Embedding(input_size, width), Embedding(output_size, width)
        self.inputs = Inputs(source, answer, positions, dropout)
        # The embeddings of tokens are used sqrt(width) times as large as they are kept.
        for embedding in (source, answer):
            nn.init.normal_(embedding.weight, std=DEVIATION / math.sqrt(width))
        if isinstance(positions, LearnedPositions):
            nn.init.normal_(positions.weight, std=DEVIATION)
        if encoder is None:
            encoder = partial(
                Convolutional, layers=encoder_layers, kernel_size=kernel_size, dropout=dropout
            )
        self.encoder = make_encoder(encoder, input_size, width)
        self.bridge: nn.Module = nn.Identity()
        if self.encoder.output_size != width:
            self.bridge = NormedLinear(self.encoder.output_size, width)
        if self.encoder.embeds:
            self.inputs.source = None
        cells = [ConvolutionalLayer(width, kernel_size, dropout) for _ in range(layers)]
        self.decoder = Chain(2 * width, [kept(cell) for cell in cells])
        self.dropout = Dropout(dropout)
        self.output = NormedLinear(width, output_size, 1 - dropout)

    @property
    def coupled(self) -> bool:
        """See :attr:`~memnets.core.EncoderDecoder.coupled`; its positions say so."""
        return self.inputs.coupled

    def encode(
        self, source: Tensor, mask: Tensor | None = None, places: Places | None = None
    ) -> ConvS2SState:
        """Read the source ``[B, S]`` or ``[B, S, I]``, or what else the encoder reads.

        A coupled model needs ``places``, those of the task (:class:`~memnets.batches.Places`).

        Raises:
            ValueError: a shape does not fit, a source is empty, or the positions need places.
            TypeError: the mask is not boolean.
        """
        self.check_source(source, mask)
        # Positions of the source count its padding too, which no step ever sees; those of the
        # answer start at 0 again.
        steps = torch.zeros(len(source), dtype=torch.long, device=source.device)
        start = self.inputs.start(source, places)
        if not self.encoder.embeds:
            source = self.inputs(source, steps, source=True, start=start)
        encoded, _, mask = self.encoder.read(source, mask)
        # The gradients of all attentions meet here; those of the embeddings stay whole.
        keys = functional.with_gradient(self.bridge(encoded), self.encoder_gradient)
        values = keys if self.encoder.embeds else keys + source
        decoder = self.decoder.start(torch.cat([keys, values], -1), mask)
        return ConvS2SState(decoder, steps, start)

    def decode(self, inputs: Tensor, state: ConvS2SState) -> tuple[Tensor, ConvS2SState]:
        """Continue an answer: logits ``[B, T, O]`` for inputs ``[B, T]`` or ``[B, T, O]``."""
        embedded = self.inputs(inputs, state.steps, start=state.start)
        hidden, decoder = self.decoder.unroll(torch.cat([embedded, embedded], -1), state.decoder)
        logits: Tensor = self.output(self.dropout(hidden.chunk(2, -1)[0]))
        return logits, ConvS2SState(decoder, state.steps + inputs.shape[1], state.start)

    def check_source(self, source: Tensor, mask: Tensor | None) -> None:
        """See :meth:`~memnets.training.Model.check_source`; the encoder says what it reads."""
        check_source(source, mask, self.encoder.source_dims)

    def longest_answer(self, source_steps: int) -> int | None:
        """See :meth:`~memnets.core.EncoderDecoder.longest_answer`; the positions limit it."""
        longest = self.inputs.max_length
        limits = [self.encoder.max_length, *([] if self.encoder.embeds else [longest])]
        too_long = any(limit is not None and source_steps > limit for limit in limits)
        return 0 if too_long else longest

    def alignments(self) -> dict[str, Addressing]:
        """See :meth:`~memnets.core.EncoderDecoder.alignments`: a label for each decoder layer."""
        cells = [cell for cell in self.decoder.modules() if isinstance(cell, ConvolutionalLayer)]
        return {f"layer {number}": cell.addressing for number, cell in enumerate(cells, 1)}
