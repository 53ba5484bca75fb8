"""Decomposable attention: align two sentences, compare what is aligned, add up."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from memnets.addressing import Content
from memnets.batches import PAD, Batch
from memnets.cells import Dropout, Embedding, Perceptron
from memnets.checks import check_positive, check_source
from memnets.core import Addressing, Encoder, Memory, map_state
from memnets.factories import check_made, make_encoder
from memnets.scores import Dot
from memnets.training.model import Model

__all__ = ["DecomposableAttention"]


class DecomposableAttention(Model[Memory]):
    """The relation between a premise and a hypothesis (Parikh et al. 2016, section 3).

    With a_i the vectors of the premise's words and b_j those of the hypothesis, and small networks
    F, G and H::

        e_ij = F(a_i) . F(b_j)                                                  attend
        beta_i = sum_j softmax_j(e_ij) b_j,   alpha_j = sum_i softmax_i(e_ij) a_i
        v_1 = sum_i G([a_i, beta_i]),         v_2 = sum_j G([b_j, alpha_j])     compare, aggregate
        logits = H([v_1, v_2])

    The vectors are those of the words alone, as in the paper, or of an encoder, which reads both
    sentences: with :class:`~memnets.encoders.IntraAttention` it is the paper's model of section
    3.4. Of several hypotheses about a premise none sees another.

    The state is the premise: F(a_i) as keys, a_i as values.

    Args:
        input_size: number of tokens, at least 1.
        output_size: number of relations, at least 1.
        encoder: makes the encoder of both sentences from the width of its input: a class, its other
            arguments given; ``None`` = no encoder.
        width: width of the embeddings, at least 1.
        hidden_size: width of F, G and H, each of two layers with ReLU, at least 1.
        dropout: dropout on the embeddings and on the inputs of all layers, in ``[0, 1)``.
        attention: scores and normalises e_ij; each direction gets a copy; the dot product with a
            softmax by default.
        products: whether G also sees the difference and the product of the two vectors, number by
            number (Chen et al. 2017, equations 14 and 15).
        settings: see :class:`~memnets.models.Model`.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        encoder: Callable[[int], Encoder] | None = None,
        width: int = 100,
        hidden_size: int = 200,
        dropout: float = 0.2,
        attention: Content | None = None,
        products: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_positive(input_size=input_size, output_size=output_size, width=width)
        check_positive(hidden_size=hidden_size)
        check_made("attention", attention, "Content(Dot())")
        self.input_size = input_size
        self.dropout = Dropout(dropout)
        self.encoder = None if encoder is None else make_encoder(encoder, input_size, width)
        embeds = self.encoder is not None and self.encoder.embeds
        self.embedding = None if embeds else Embedding(input_size, width)
        size = width if self.encoder is None else self.encoder.output_size
        #: The hypothesis reads the premise, and the premise the hypothesis.
        self.reading = Content(Dot()) if attention is None else attention
        self.read_back = copy.deepcopy(self.reading)
        self.attend = Perceptron(size, hidden_size, dropout)
        self.products = products
        self.compare = Perceptron((4 if products else 2) * size, hidden_size, dropout)
        self.aggregate = Perceptron(2 * hidden_size, hidden_size, dropout)
        self.output = nn.Linear(hidden_size, output_size)

    def encode(self, source: Tensor, mask: Tensor | None = None) -> Memory:
        """Read the premise, tokens ``[B, S]``.

        Raises:
            ValueError: a shape does not fit, a source is empty, or a token is out of range.
            TypeError: the mask is not boolean.
        """
        self.check_source(source, mask)
        return self._sentence(source, mask)

    def decode(self, inputs: Tensor, state: Memory) -> tuple[Tensor, Memory]:
        """Logits ``[B, T, O]`` of T hypotheses, tokens ``[B, T, L]`` with ``PAD`` behind the last.

        Raises:
            ValueError: a shape does not fit, or a token is out of range.
        """
        if inputs.dim() != 3 or inputs.shape[2] == 0:
            raise ValueError(
                f"inputs must be sentences of tokens [B, T, L], L >= 1; got {list(inputs.shape)}"
            )
        words = inputs.flatten(0, 1)
        return self._answers(state, self._sentence(words, words != PAD), inputs.shape[1]), state

    def logits(self, batch: Batch) -> Tensor:
        """See :meth:`~memnets.core.EncoderDecoder.logits`; all sentences are read at once."""
        source, inputs, mask = batch.source, batch.inputs, batch.source_mask
        if inputs.dim() != 3 or source.shape[:1] != inputs.shape[:1]:
            return super().logits(batch)
        self.check_source(source, mask)
        words = inputs.flatten(0, 1)
        sides = (
            (source, torch.ones_like(source, dtype=torch.bool) if mask is None else mask),
            (words, words != PAD),
        )
        longest = max(source.shape[1], words.shape[1])
        together, there = (
            torch.cat([nn.functional.pad(each, (0, longest - each.shape[1])) for each in pair])
            for pair in zip(*sides, strict=True)
        )
        both = self._sentence(together, there)
        premise, asked = (
            map_state(partial(_rows, rows), both)
            for rows in (slice(len(source)), slice(len(source), None))
        )
        return self._answers(premise, asked, inputs.shape[1])

    def _answers(self, state: Memory, asked: Memory, count: int) -> Tensor:
        """Logits ``[B, T, O]`` of ``count`` hypotheses to each premise."""
        # Each hypothesis is a row of its own, with its premise.
        premise = map_state(lambda part: part.repeat_interleave(count, 0), state)
        aligned, _ = self.reading.read(asked.keys, premise)
        aligned_back, _ = self.read_back.read(premise.keys, asked)
        sums = [self._compared(premise, aligned_back), self._compared(asked, aligned)]
        logits: Tensor = self.output(self.aggregate(torch.cat(sums, -1)))
        answers: Tensor = logits.unflatten(0, (-1, count))
        return answers

    def _sentence(self, words: Tensor, mask: Tensor | None) -> Memory:
        """Tokens ``[B, S]`` as slots."""
        vectors = words
        if self.embedding is not None:
            vectors = self.dropout(self.embedding(words))
        if self.encoder is not None:
            vectors, _, mask = self.encoder.read(vectors, mask)
        return Memory(self.attend(vectors), vectors, None if mask is None else mask.unsqueeze(-2))

    def _compared(self, sentence: Memory, aligned: Tensor) -> Tensor:
        """Sum over the words of G of each and what it is aligned with, ``[B, hidden_size]``."""
        words = sentence.values
        sides = [words, aligned]
        if self.products:
            sides += [words - aligned, words * aligned]
        compared: Tensor = self.compare(torch.cat(sides, -1))
        if sentence.mask is not None:
            # Padding may hold any value, NaN too: fill it, rather than multiply it by 0.
            compared = compared.masked_fill(~sentence.mask.mT, 0.0)
        return compared.sum(-2)

    def check_source(self, source: Tensor, mask: Tensor | None) -> None:
        """See :meth:`~memnets.training.Model.check_source`; the premise is tokens."""
        check_source(source, mask, (2,))

    def longest_answer(self, source_steps: int) -> int | None:
        """See :meth:`~memnets.core.EncoderDecoder.longest_answer`; the encoder may limit it."""
        longest = None if self.encoder is None else self.encoder.max_length
        return None if longest is None or source_steps <= longest else 0

    def alignments(self) -> dict[str, Addressing]:
        """See :meth:`~memnets.core.EncoderDecoder.alignments`: the hypothesis on the premise."""
        return {"attention": self.reading}


def _rows(rows: slice, part: Tensor) -> Tensor:
    return part[rows]
