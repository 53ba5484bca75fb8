"""Encoder-decoders: with a context of fixed length, and with attention in its many forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from memnets.addressing import Content, HardState
from memnets.core import (
    Addressing,
    Batch,
    Controller,
    Encoder,
    Memory,
    check_made,
    check_positive,
    make,
)
from memnets.layers import Bridge, Embedding
from memnets.models.base import Model, masked_mean

__all__ = ["Seq2Seq", "Seq2SeqState"]


class Seq2SeqState(NamedTuple):
    """State of a :class:`Seq2Seq`.

    Attributes:
        memory: what the encoder left; ``None`` without attention.
        controller: state of the decoder.
        hidden: s, what the decoder gave last, ``[B, hidden_size]``.
        addressing: state of the attention.
        fed: the features of the last step, ``[B, width]``; ``None`` without input feeding.
    """

    memory: Memory | None
    controller: Any
    hidden: Tensor
    addressing: Any = None
    fed: Tensor | None = None


class Seq2Seq(Model[Seq2SeqState]):
    """Read the source with one recurrent network, answer with another.

    Without attention all that the decoder knows of the source is its first state (Sutskever et al.
    2014, Cho et al. 2014). With attention it looks at the source again at every step::

        before (Bahdanau et al. 2015):             after (Luong et al. 2015):
        c_t = read(memory, s_{t-1})                s_t = decoder([y_{t-1}, f_{t-1}], s_{t-1})
        s_t = decoder([y_{t-1}, c_t], s_{t-1})     c_t = read(memory, s_t)
        f_t = tanh(W [s_t, c_t, y_{t-1}])          f_t = tanh(W [s_t, c_t])

    and the logits are ``V f_t + b``; f_{t-1} is there with input feeding alone. The decoder's first
    state, and s_0, is ``tanh(W summary + b)`` of the encoder's summary, every part of it.

    Args:
        input_size: tokens of the source, or the width of its vectors, at least 1.
        output_size: tokens of the answer, or the width of its vectors, at least 1.
        encoder: makes the encoder from the width of its input: a class, its other arguments given.
        decoder: makes the controller of the decoder, likewise.
        attention: how the memory is addressed; ``None`` = no attention.
        width: of the embeddings and of the features f, at least 1.
        key_size: K, to which the encoder's vectors are projected as keys, at least 1; ``None``:
            they are the keys themselves. Where the decoder is not as wide as the keys, its state is
            projected too.
        attend: ``before`` or ``after`` the decoder's step.
        input_feeding: feed f_{t-1} to the decoder's step (Luong et al. 2015, section 3.3).
        tied: one embedding for tokens of the answer as input and output, and of the source too if
            there are as many.
        dropout: on embeddings and features, in ``[0, 1)``.
        reinforce_weight: lambda_r: how much draws of hard attention learn from their worth.
        entropy_weight: lambda_e: how much hard attention gains from staying undecided.
        discount: how much less a draw is worth to each later step, in ``[0, 1]``; 1 as in Xu et al.
        baseline_decay: of the moving average that a draw's worth is compared with, in ``[0, 1)``.
        settings: see :class:`~memnets.models.Model`.
    """

    baseline: Tensor

    def __init__(
        self,
        input_size: int,
        output_size: int,
        encoder: Callable[[int], Encoder],
        decoder: Callable[[int], Controller],
        attention: Addressing | None = None,
        width: int = 256,
        key_size: int | None = None,
        attend: Literal["before", "after"] = "before",
        input_feeding: bool = False,
        tied: bool = True,
        dropout: float = 0.0,
        reinforce_weight: float = 1.0,
        entropy_weight: float = 0.01,
        discount: float = 0.5,
        baseline_decay: float = 0.9,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_positive(input_size=input_size, output_size=output_size, width=width)
        if attend not in ("before", "after"):
            raise ValueError(f"attend must be 'before' or 'after'; got {attend!r}")
        if not 0 <= discount <= 1:
            raise ValueError(f"discount must be in [0, 1]; got {discount}")
        if not 0 <= baseline_decay < 1:
            raise ValueError(f"baseline_decay must be in [0, 1); got {baseline_decay}")
        self.input_size = input_size
        self.before = attend == "before"
        self.input_feeding = input_feeding
        self.reinforce_weight = reinforce_weight
        self.entropy_weight = entropy_weight
        self.discount = discount
        self.baseline_decay = baseline_decay

        self.target_embedding = Embedding(output_size, width)
        shared = tied and input_size == output_size
        self.source_embedding = self.target_embedding if shared else Embedding(input_size, width)
        self.dropout = nn.Dropout(dropout)
        check_made("attention", attention, "Content(Additive(64))")
        self.encoder = make("encoder", encoder, Encoder, width)
        value_size = 0 if attention is None else self.encoder.output_size
        fed_size = width if input_feeding else 0
        context_size = value_size if self.before else 0
        size = width + fed_size + context_size
        self.decoder = make("decoder", decoder, Controller, size)
        hidden_size = self.decoder.hidden_size
        self.attention = attention
        self.key: nn.Module = nn.Identity()
        self.query: nn.Module = nn.Identity()
        if attention is not None:
            if key_size is not None:
                check_positive(key_size=key_size)
                self.key = nn.Linear(value_size, key_size, bias=False)
            if hidden_size != (key_size or value_size):
                self.query = nn.Linear(hidden_size, key_size or value_size, bias=False)
        self.bridge = Bridge(self.encoder.summary_size, self.decoder, extra_size=hidden_size)
        seen_size = width if self.before else 0
        self.features = nn.Linear(hidden_size + value_size + seen_size, width)
        self.bias = nn.Parameter(torch.zeros(output_size))
        self.output = None if tied else nn.Linear(width, output_size, bias=False)
        self.register_buffer("baseline", torch.zeros(()))

    def encode(self, source: Tensor, mask: Tensor | None = None) -> Seq2SeqState:
        """Read the source ``[B, S]`` or ``[B, S, I]``.

        Raises:
            ValueError: a shape does not fit, or a source is empty.
            TypeError: the mask is not boolean.
        """
        check_source(source, mask)
        embedded = self.dropout(self.source_embedding(source))
        vectors, summary = self.encoder(embedded, mask)
        hidden, controller = self.bridge.first_state(summary, self.decoder)
        fed = hidden.new_zeros(len(source), self.features.out_features)
        state = Seq2SeqState(None, controller, hidden, None, fed if self.input_feeding else None)
        if self.attention is None:
            return state
        memory = Memory(self.key(vectors), vectors, None if mask is None else mask.unsqueeze(1))
        return state._replace(memory=memory, addressing=self.attention.initial_state(memory))

    def decode(self, inputs: Tensor, state: Seq2SeqState) -> tuple[Tensor, Seq2SeqState]:
        """Answer: logits ``[B, T, O]`` for the answer so far, ``[B, T]`` or ``[B, T, O]``."""
        embedded = self.dropout(self.target_embedding(inputs))
        if self.input_feeding:
            features, state = self._with_feeding(embedded, state)
        else:
            seen, state = self._without_feeding(embedded, state)
            features = self._features(seen)
        weight = self.target_embedding.weight if self.output is None else self.output.weight
        return nn.functional.linear(features, weight, self.bias), state

    def _with_feeding(self, embedded: Tensor, state: Seq2SeqState) -> tuple[Tensor, Seq2SeqState]:
        """Features ``[B, T, width]``, each of which goes into the next step."""
        features = []
        for step in embedded.unbind(1):
            assert state.fed is not None
            seen, state = self._step(torch.cat([step, state.fed], -1), state)
            seen = torch.cat([seen, step], -1) if self.before else seen
            features.append(self._features(seen))
            state = state._replace(fed=features[-1].to(state.hidden.dtype))
        return torch.stack(features, 1), state

    def _without_feeding(
        self, embedded: Tensor, state: Seq2SeqState
    ) -> tuple[Tensor, Seq2SeqState]:
        """What the features are made of ``[B, T, ...]``."""
        if self.attention is None or (isinstance(self.attention, Content) and not self.before):
            # Nothing of the context comes back to the decoder: all steps at once.
            hidden, controller = self.decoder.unroll(embedded, state.controller)
            seen = [hidden]
            if self.attention is not None:
                assert state.memory is not None
                seen.append(self.attention.read(self.query(hidden), state.memory, None)[0])
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
        addressing = state.addressing
        context: list[Tensor] = []
        if self.before:
            context, addressing = self._look(state.hidden, state)
        hidden, controller = self.decoder(torch.cat([inputs, *context], -1), state.controller)
        if not self.before:
            context, addressing = self._look(hidden, state)
        last = hidden.to(state.hidden.dtype)
        state = Seq2SeqState(state.memory, controller, last, addressing, state.fed)
        return torch.cat([hidden, *context], -1), state

    def _look(self, hidden: Tensor, state: Seq2SeqState) -> tuple[list[Tensor], Any]:
        """The context ``[B, V]``, in a list that is empty without attention."""
        if self.attention is None or state.memory is None:
            return [], state.addressing
        query = self.query(hidden).unsqueeze(1)
        context, addressing = self.attention.read(query, state.memory, state.addressing)
        return [context.squeeze(1)], addressing

    def _features(self, seen: Tensor) -> Tensor:
        features: Tensor = self.dropout(self.features(seen).tanh())
        return features

    def reorder(
        self, state: Seq2SeqState, index: Tensor, same_source: bool = False
    ) -> Seq2SeqState:
        """See :meth:`~memnets.models.Model.reorder`; beams of a source share its memory."""
        if not same_source:
            return super().reorder(state, index)
        rest = super().reorder(state._replace(memory=None), index)
        return rest._replace(memory=state.memory)

    def longest_answer(self, source_steps: int) -> int | None:
        """See :meth:`~memnets.models.Model.longest_answer`: only the encoder may have a limit."""
        longest = self.encoder.max_length
        return None if longest is None or source_steps <= longest else 0

    def alignments(self) -> dict[str, str]:
        """See :meth:`~memnets.models.Model.alignments`."""
        return {} if self.attention is None else {"attention": "attention"}

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss over all steps but padding; hard attention learns from it by REINFORCE.

        To ``-log p(y_t | a)`` a step of training adds ``-lambda_r w_t log p(a_t) - lambda_e H_t``
        (Xu et al. 2015, section 4.1), where the draw's worth w_t is the discounted sum of
        ``log p(y | a) - b`` from step t on, and b a moving average of ``log p(y | a)``.
        """
        state = self.encode(batch.source, batch.source_mask)
        logits, state = self.decode(batch.inputs, state)
        losses = self.objective.losses(logits, batch.targets)
        loss = masked_mean(losses, batch.target_mask)
        if not isinstance(state.addressing, HardState) or not self.training:
            return loss
        worth = -losses.detach() - self.baseline
        if batch.target_mask is not None:
            worth = worth.masked_fill(~batch.target_mask, 0.0)
        steps = list(worth.unbind(1))
        for step in range(len(steps) - 2, -1, -1):
            steps[step] = steps[step] + self.discount * steps[step + 1]
        draws, entropy = (part.squeeze(1) for part in state.addressing)
        gain = self.reinforce_weight * torch.stack(steps, 1) * draws + self.entropy_weight * entropy
        with torch.no_grad():
            average = -masked_mean(losses, batch.target_mask)
            self.baseline.lerp_(average, 1 - self.baseline_decay)
        return loss - masked_mean(gain, batch.target_mask)


def check_source(source: Tensor, mask: Tensor | None) -> None:
    """Check the source of a model, ``[B, S]`` or ``[B, S, I]``, and its mask.

    Raises:
        ValueError: a shape does not fit, or a source is empty.
        TypeError: the mask is not boolean.
    """
    if source.dim() not in (2, 3) or source.shape[1] == 0:
        raise ValueError(
            f"source must be tokens [B, S] or vectors [B, S, I], S >= 1; got {list(source.shape)}"
        )
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise TypeError(f"the mask must be boolean, False = padding; got {mask.dtype}")
    if mask.shape != source.shape[:2]:
        raise ValueError(
            f"the mask must be [B, S] = {list(source.shape[:2])}; got {list(mask.shape)}"
        )
    if not (mask[:, 0].all() and (mask[:, 1:] <= mask[:, :-1]).all()):
        raise ValueError("each source must have a step, and padding only after its last step")
