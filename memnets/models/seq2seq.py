"""Recurrent encoder-decoders, with a context of fixed length or with attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from memnets import fast, functional
from memnets.addressing import Content, Hard, HardState
from memnets.batches import Batch
from memnets.cells import Bridge, Dropout, Output, tied_embeddings
from memnets.checks import check_positive, check_source
from memnets.core import Addressing, Cell, Encoded, Encoder, Memory
from memnets.factories import check_made, make, make_encoder
from memnets.models.reinforce import Reinforce
from memnets.training.model import Model, masked_mean

__all__ = ["Seq2Seq", "Seq2SeqState"]


class Seq2SeqState(NamedTuple):
    """State of a :class:`Seq2Seq`.

    Attributes:
        memory: the encoder's vectors; ``None`` without attention.
        controller: state of the decoder.
        hidden: s, the decoder's last output, ``[B, hidden_size]``.
        addressing: state of the attention.
        fed: the features of the last step, ``[B, width]``; ``None`` without input feeding.
        weights: of the t steps so far over the S vectors, ``[B, t, S]``; ``None`` without the
            doubly stochastic penalty.
    """

    memory: Memory | None
    controller: Any
    hidden: Tensor
    addressing: Any = None
    fed: Tensor | None = None
    weights: Tensor | None = None


class Seq2Seq(Model[Seq2SeqState]):
    """One network reads the source, another one answers.

    Without attention the decoder sees the source only through its first state (Sutskever et al.
    2014, Cho et al. 2014). With attention it reads the source at every step::

        before (Bahdanau et al. 2015):             after (Luong et al. 2015):
        c_t = read(memory, s_{t-1})                s_t = decoder([y_{t-1}, f_{t-1}], s_{t-1})
        s_t = decoder([y_{t-1}, c_t], s_{t-1})     c_t = read(memory, s_t)
        f_t = tanh(W [s_t, c_t, y_{t-1}])          f_t = tanh(W [s_t, c_t])

    The logits are ``V f_t + b``; f_{t-1} is an input only with input feeding. Every part of the
    decoder's first state, and s_0, is ``tanh(W summary + b)`` of the encoder's summary.

    Show, attend and tell (Xu et al. 2015) is attention ``before``, ``gated``, over the patches of
    an image, with the doubly stochastic penalty or with hard attention.

    Args:
        input_size: tokens of the source, or the width of its vectors, at least 1.
        output_size: tokens of the answer, or the width of its vectors, at least 1.
        encoder: makes the encoder from the width of its input: a class, its other arguments given.
            An encoder that owns its embedding reads images or sentences too.
        decoder: makes the controller of the decoder from the width of its input, in the same way.
        attention: addressing of the encoder's vectors; ``None`` = no attention.
        width: width of the embeddings and of the features f, at least 1.
        key_size: K, width of the keys, to which the encoder's vectors are projected, at least 1;
            ``None`` = the vectors themselves are the keys. The decoder's output is projected too if
            its width is not that of the keys.
        attend: ``before`` or ``after`` the decoder's step.
        input_feeding: whether f_{t-1} is an input of the decoder (Luong et al. 2015, section 3.3).
        gated: whether the context is multiplied by a gate, ``sigmoid(w . s + b)`` of the state s
            that it is read with, one number a step (Xu et al. 2015, section 4.2.1).
        doubly_stochastic: lambda >= 0, weight of the penalty on attention that is not spread over
            the source (Xu et al. 2015, equation 14): to the loss of an answer, the sum over its
            steps, it adds ``lambda sum_i (1 - sum_t w_t(i))^2``; 0 = no penalty.
        tied: whether the answer's tokens have one embedding as inputs and outputs; the source
            shares it if it has as many tokens.
        dropout: dropout on embeddings and features, in ``[0, 1)``.
        reinforce: loss of the draws of hard attention; other attention does not use it.
        labels: whether an answer is a label, and not a sequence of tokens. The inputs of an answer
            then are tokens of the source, with the same embedding, and the output has a matrix of
            its own. All other weights have the shapes of a model that answers in tokens of the
            source, and so can be taken over from one (Dai & Le 2015).
        settings: see :class:`~memnets.models.Model`.

    Raises:
        ValueError: a number is out of its range, or settings do not go together.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        encoder: Callable[[int], Encoder],
        decoder: Callable[[int], Cell],
        attention: Addressing | None = None,
        width: int = 256,
        key_size: int | None = None,
        attend: Literal["before", "after"] = "before",
        input_feeding: bool = False,
        tied: bool = True,
        dropout: float = 0.0,
        reinforce: Reinforce | None = None,
        gated: bool = False,
        doubly_stochastic: float = 0.0,
        labels: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_positive(input_size=input_size, output_size=output_size, width=width)
        if attend not in ("before", "after"):
            raise ValueError(f"attend must be 'before' or 'after'; got {attend!r}")
        if isinstance(attention, Hard) and self.tbptt_steps is not None:
            raise ValueError(
                "hard attention learns from what its draws are worth to all later steps: "
                f"tbptt_steps must be None; got {self.tbptt_steps}"
            )
        if not 0 <= doubly_stochastic < math.inf:
            raise ValueError(f"doubly_stochastic must be at least 0; got {doubly_stochastic}")
        if attention is None and (gated or doubly_stochastic):
            raise ValueError("gated and doubly_stochastic need attention; got attention=None")
        if doubly_stochastic and isinstance(attention, Hard):
            raise ValueError(
                "the doubly stochastic penalty needs weights with a gradient, and those of hard "
                f"attention have none: doubly_stochastic must be 0; got {doubly_stochastic}"
            )
        if doubly_stochastic and self.tbptt_steps is not None:
            raise ValueError(
                "the doubly stochastic penalty is on the weights of all steps together: "
                f"tbptt_steps must be None; got {self.tbptt_steps}"
            )
        self.input_size = input_size
        self.before = attend == "before"
        self.input_feeding = input_feeding
        embedding, self.target_embedding = tied_embeddings(
            input_size, output_size, width, tied, labels
        )
        self.dropout = Dropout(dropout)
        check_made("attention", attention, "Content(Additive(64))")
        self.encoder = make_encoder(encoder, input_size, width)
        self.source_embedding = None if self.encoder.embeds else embedding
        value_size = 0 if attention is None else self.encoder.output_size
        fed_size = width if input_feeding else 0
        # Attention after the step reads with the step's own output: its context comes too late to
        # be an input.
        context_size = value_size if self.before else 0
        size = width + fed_size + context_size
        self.decoder: Cell = make("decoder", decoder, Cell, size)
        hidden_size = self.decoder.output_size
        self.attention = attention
        self.key: nn.Module = nn.Identity()
        self.query: nn.Module = nn.Identity()
        if attention is not None:
            if key_size is not None:
                check_positive(key_size=key_size)
                self.key = nn.Linear(value_size, key_size, bias=False)
            if hidden_size != (key_size or value_size):
                self.query = nn.Linear(hidden_size, key_size or value_size, bias=False)
        # The extra vector is s_0: a decoder's state need not contain its output.
        self.bridge = Bridge(self.encoder.summary_size, self.decoder, extra_size=hidden_size)
        seen_size = width if self.before else 0
        self.features = nn.Linear(hidden_size + value_size + seen_size, width)
        shared = tied and not labels
        self.output = Output(width, output_size, self.target_embedding if shared else None)
        self.reinforce = Reinforce() if reinforce is None else reinforce
        self.gate = nn.Linear(hidden_size, 1) if gated else None
        self.doubly_stochastic = doubly_stochastic

    def encode(self, source: Tensor, mask: Tensor | None = None) -> Seq2SeqState:
        """Read the source ``[B, S]`` or ``[B, S, I]``, or what else the encoder reads.

        Raises:
            ValueError: a shape does not fit, or a source is empty.
            TypeError: the mask is not boolean.
        """
        vectors, summary, mask = self._read(source, mask)
        state = self.from_summary(summary)
        if self.attention is None:
            return state
        memory = Memory(self.key(vectors), vectors, None if mask is None else mask.unsqueeze(1))
        state = state._replace(memory=memory, addressing=self.attention.initial_state(memory))
        if not self.doubly_stochastic:
            return state
        return state._replace(weights=state.hidden.new_zeros(len(source), 0, vectors.shape[1]))

    def summary(self, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """The encoder's summary of the source, ``[B, summary_size]``.

        Without attention, it is all that an answer depends on.

        Raises:
            ValueError: as in :meth:`encode`.
            TypeError: as in :meth:`encode`.
        """
        return self._read(source, mask).summary

    def from_summary(self, summary: Tensor) -> Seq2SeqState:
        """The state from which to decode what a :meth:`summary` stands for, without attention.

        Args:
            summary: ``[B, summary_size]``.
        """
        hidden, controller = self.bridge.first_state(summary, self.decoder)
        fed = hidden.new_zeros(len(summary), self.features.out_features)
        return Seq2SeqState(None, controller, hidden, None, fed if self.input_feeding else None)

    def _read(self, source: Tensor, mask: Tensor | None) -> Encoded:
        self.check_source(source, mask)
        if self.source_embedding is not None:
            source = self.dropout(self.source_embedding(source))
        return self.encoder.read(source, mask)

    def decode(self, inputs: Tensor, state: Seq2SeqState) -> tuple[Tensor, Seq2SeqState]:
        """Continue an answer: logits ``[B, T, O]`` for inputs ``[B, T]`` or ``[B, T, O]``."""
        features, state = self.unroll(self.dropout(self.target_embedding(inputs)), state)
        logits: Tensor = self.output(features)
        return logits, state

    def unroll(self, embedded: Tensor, state: Seq2SeqState) -> tuple[Tensor, Seq2SeqState]:
        """Take the steps of an answer, by a fast twin where one fits.

        Args:
            embedded: y, ``[B, T, width]``, T >= 1.
            state: the result of :meth:`encode` or of the last call.

        Returns:
            Features f, ``[B, T, width]``, and the next state.
        """
        twin = fast.find(self, "unroll", embedded, state)
        if twin is not None:
            result: tuple[Tensor, Seq2SeqState] = twin(self, embedded, state)
            return result
        if self.input_feeding:
            return self._with_feeding(embedded, state)
        seen, state = self._without_feeding(embedded, state)
        return self._features(seen), state

    def _with_feeding(self, embedded: Tensor, state: Seq2SeqState) -> tuple[Tensor, Seq2SeqState]:
        """Features ``[B, T, width]`` with input feeding: each is an input of the next step."""
        features = []
        for step in embedded.unbind(1):
            assert state.fed is not None
            seen, state = self._step(torch.cat([step, state.fed], -1), state)
            seen = torch.cat([seen, step], -1) if self.before else seen
            features.append(self._features(seen))
            # The state keeps its precision under autocast, where features have 16 bits.
            state = state._replace(fed=features[-1].to(state.hidden.dtype))
        return torch.stack(features, 1), state

    def _without_feeding(
        self, embedded: Tensor, state: Seq2SeqState
    ) -> tuple[Tensor, Seq2SeqState]:
        """Inputs of the features' layer, ``[B, T, ...]``, without input feeding."""
        if self.attention is None or (isinstance(self.attention, Content) and not self.before):
            # No context goes back into the decoder, and addressing by content has no past: all
            # steps can be taken at once.
            hidden, controller = self.decoder.unroll(embedded, state.controller)
            context, state = self._look(hidden, state)
            seen = [hidden, *context]
            last = hidden[:, -1].to(state.hidden.dtype)
            state = state._replace(controller=controller, hidden=last)
        else:
            steps = []
            for step in embedded.unbind(1):
                result, state = self._step(step, state)
                steps.append(result)
            seen = [torch.stack(steps, 1)]
        return torch.cat([*seen, embedded] if self.before else seen, -1), state

    def _step(self, inputs: Tensor, state: Seq2SeqState) -> tuple[Tensor, Seq2SeqState]:
        """One step: ``[B, ...] -> [B, hidden_size + V]``, the decoder's output and the context."""
        context: list[Tensor] = []
        if self.before:
            context, state = self._look(state.hidden.unsqueeze(1), state)
        given = [inputs, *(part.squeeze(1) for part in context)]
        hidden, controller = self.decoder.step(torch.cat(given, -1), state.controller)
        if not self.before:
            context, state = self._look(hidden.unsqueeze(1), state)
        last = hidden.to(state.hidden.dtype)
        state = state._replace(controller=controller, hidden=last)
        return torch.cat([hidden, *(part.squeeze(1) for part in context)], -1), state

    def _look(self, hidden: Tensor, state: Seq2SeqState) -> tuple[list[Tensor], Seq2SeqState]:
        """Contexts ``[B, T, V]`` for outputs ``[B, T, H]``, in a list; empty without attention."""
        if self.attention is None or state.memory is None:
            return [], state
        query, memory = self.query(hidden), state.memory
        if state.weights is None:
            context, addressing = self.attention.read(query, memory, state.addressing)
            state = state._replace(addressing=addressing)
        else:
            weights, addressing = self.attention(query, memory, state.addressing)
            context = functional.read(weights, memory.values)
            so_far = torch.cat([state.weights, weights.to(state.weights.dtype)], 1)
            state = state._replace(addressing=addressing, weights=so_far)
        if self.gate is not None:
            context = self.gate(hidden).sigmoid() * context
        return [context], state

    def _features(self, seen: Tensor) -> Tensor:
        features: Tensor = self.dropout(self.features(seen).tanh())
        return features

    def check_source(self, source: Tensor, mask: Tensor | None) -> None:
        """See :meth:`~memnets.training.Model.check_source`; the encoder says what it reads."""
        check_source(source, mask, self.encoder.source_dims)

    def longest_answer(self, source_steps: int) -> int | None:
        """See :meth:`~memnets.core.EncoderDecoder.longest_answer`; the encoder may limit it."""
        longest = self.encoder.max_length
        return None if longest is None or source_steps <= longest else 0

    def alignments(self) -> dict[str, Addressing]:
        """See :meth:`~memnets.core.EncoderDecoder.alignments`."""
        return {} if self.attention is None else {"attention": self.attention}

    def grid(self, height: int, width: int) -> tuple[int, int] | None:
        """See :meth:`~memnets.core.EncoderDecoder.grid`; the encoder knows its patches."""
        return self.encoder.grid(height, width)

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss over all steps but padding, with the penalty of the attention, if any.

        Hard attention learns from it by REINFORCE.
        """
        if not isinstance(self.attention, Hard) and not self.doubly_stochastic:
            return super().loss(batch)
        state = self.encode_batch(batch)
        logits, state = self.decode(batch.inputs, state)
        losses = self.objective.losses(logits, batch.targets)
        loss = masked_mean(losses, batch.target_mask)
        if state.weights is not None:
            assert state.memory is not None
            penalty = functional.doubly_stochastic_penalty(
                state.weights, batch.target_mask, state.memory.mask
            )
            # The loss is a mean over steps, the penalty belongs to a whole answer: the same number
            # of steps divides both.
            mask = batch.target_mask
            steps = losses.numel() if mask is None else mask.sum()
            loss = loss + self.doubly_stochastic * penalty.sum() / steps
        # Only hard attention has draws, and in evaluation it draws nothing.
        if not isinstance(state.addressing, HardState) or not self.training:
            return loss
        gain: Tensor = self.reinforce(losses, state.addressing, batch.target_mask)
        return loss + gain
