"""Pointer networks: the weights over the source are the answer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memnets.addressing import Content
from memnets.batches import END, Batch
from memnets.cells import Bridge
from memnets.core import Cell, Encoder, Memory, check_positive, check_source, map_state
from memnets.features import Features, VectorFeatures
from memnets.training.model import Model
from memnets.training.objectives import Tokens

__all__ = ["PointerNetwork", "PointerState"]


class PointerState(NamedTuple):
    """State of a :class:`PointerNetwork`.

    Attributes:
        memory: the S steps of the source, then the end mark.
        inputs: what the decoder is given when each of them was pointed at, ``[B, S + 1, width]``;
            in place of the end mark, what it is given first.
        slots: bool ``[B, S]``, False = padding.
        visited: bool ``[B, S]``, what was pointed at so far.
        controller: state of the decoder.
    """

    memory: Memory
    inputs: Tensor
    slots: Tensor
    visited: Tensor
    controller: Any


class PointerNetwork(Model[PointerState]):
    """Answer by pointing at steps of the source (Vinyals et al. 2015).

    An answer is made of tokens: ``END + 1 + i`` points at step i of the source, ``END`` ends it.
    The decoder is given what the last step pointed at; its hidden vector s_t, after G glimpses at
    the source (Bello et al. 2016, appendix A.1; with a sum, so that s_t is not lost), is the
    query::

        q_0 = s_t,   q_l = q_{l-1} + W_l read(memory, U_l q_{l-1}),   logits = scores(U q_G, memory)

    A slot is a step's embedding and the encoder's vector for it, side by side: one says what it is,
    the other what it is among the rest. A projection of it is the key, which the glimpses share,
    and another is what the decoder is given. The end mark is a slot of its own. Where the encoder
    does not care for order, neither does the model: a permutation of the source permutes what is
    pointed at.

    Args:
        input_size: width of the vectors of the source, at least 1.
        encoder: makes the encoder from the width of its input: a class, its other arguments given.
        decoder: makes the controller of the decoder, likewise.
        attention: scores the slots.
        output_size: tokens of the task, at least 1. A model that points has no such number; it is
            taken so that all models are made alike.
        width: of the embeddings, at least 1.
        key_size: K, at least 1; ``width`` if not given.
        glimpses: G, at least 0.
        revisit: whether a step may be pointed at again.
        complete: whether the answer may end only after every step was pointed at.
        features: makes what is seen of a step from the width of its vector; the vector as it is if
            not given.
        settings: see :class:`~memnets.models.Model`.

    Raises:
        ValueError: a size is out of its range, ``complete`` is asked for where steps may be pointed
            at again, or the objective gives a share of the probability to every token: some have
            none here.
    """

    end: Tensor | None

    def __init__(
        self,
        input_size: int,
        encoder: Callable[[int], Encoder],
        decoder: Callable[[int], Cell],
        attention: Content,
        output_size: int | None = None,
        width: int = 128,
        key_size: int | None = None,
        glimpses: int = 0,
        revisit: bool = False,
        complete: bool = False,
        features: Callable[[int], Features] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        key_size = width if key_size is None else key_size
        check_positive(input_size=input_size, width=width, key_size=key_size)
        if output_size is not None:
            check_positive(output_size=output_size)
        if glimpses < 0:
            raise ValueError(f"glimpses must be at least 0; got {glimpses}")
        if complete and revisit:
            raise ValueError("complete needs revisit=False: else an answer may never end")
        if isinstance(self.objective, Tokens) and self.objective.label_smoothing:
            raise ValueError(
                "a pointer network needs label_smoothing 0, since some tokens have no probability; "
                f"got {self.objective.label_smoothing}"
            )
        self.input_size = input_size
        self.revisit = revisit
        self.complete = complete
        self.features = (VectorFeatures if features is None else features)(input_size)
        self.embedding = nn.Linear(self.features.output_size, width)
        self.encoder = encoder(width)
        slot_size = width + self.encoder.output_size
        end = torch.randn(slot_size) / slot_size**0.5
        # Where the answer ends by itself, when nothing else is left, there is nothing to learn.
        self.register_parameter("end", None if complete else nn.Parameter(end))
        self.begin = nn.Parameter(torch.randn(width) / width**0.5)
        self.fed = nn.Linear(slot_size, width)
        self.key = nn.Linear(slot_size, key_size, bias=False)
        self.decoder = decoder(width)
        hidden_size = self.decoder.output_size
        self.bridge = Bridge(self.encoder.summary_size, self.decoder)
        self.glimpses = nn.ModuleList(
            _Glimpse(hidden_size, key_size, slot_size, copy.deepcopy(attention))
            for _ in range(glimpses)
        )
        self.query = nn.Linear(hidden_size, key_size)
        self.attention = attention

    def encode(self, source: Tensor, mask: Tensor | None = None) -> PointerState:
        """Read the source ``[B, S, I]``.

        Raises:
            ValueError: a shape does not fit, a source is empty, or a number is not finite.
            TypeError: the mask is not boolean.
        """
        check_source(source, mask)
        if source.dim() != 3 or source.shape[-1] != self.input_size:
            raise ValueError(
                f"source must be vectors [B, S, {self.input_size}]; got {list(source.shape)}"
            )
        slots = source.new_ones(source.shape[:2], dtype=torch.bool) if mask is None else mask
        if not source.isfinite().all():
            row, step, _ = (~source.isfinite()).nonzero()[0].tolist()
            raise ValueError(
                f"source must be finite; got {source[row, step].tolist()} at [{row}, {step}]"
            )
        embedded = self.embedding(self.features(source))
        vectors, summary = self.encoder(embedded, mask)
        _, controller = self.bridge.first_state(summary, self.decoder)
        values = torch.cat([embedded, vectors], -1)
        inputs = torch.cat([self.fed(values), self.begin.expand(len(source), 1, -1)], 1)
        end = torch.zeros_like(values[0, 0]) if self.end is None else self.end
        values = torch.cat([values, end.expand(len(source), 1, -1)], 1)
        memory = Memory(self.key(values), values)
        return PointerState(memory, inputs, slots, torch.zeros_like(slots), controller)

    def decode(self, inputs: Tensor, state: PointerState) -> tuple[Tensor, PointerState]:
        """Answer: logits ``[B, T, END + 1 + S]`` for the answer so far, tokens ``[B, T]``.

        What may not be pointed at has a logit of ``-inf``, as have the tokens below ``END``.

        Raises:
            ValueError: a token points beyond the source.
        """
        steps = state.slots.shape[1]
        if (inputs > END + steps).any():
            raise ValueError(
                f"tokens must be at most END + S = {END + steps}; got {inputs.max().item()}"
            )
        # Marks are no step of the source: they stand for the last slot, which begins and ends.
        place = torch.where(inputs > END, inputs - (END + 1), steps)
        index = place.unsqueeze(-1).expand(-1, -1, state.inputs.shape[-1])
        hidden, controller = self.decoder.unroll(state.inputs.gather(1, index), state.controller)
        pointed = torch.zeros(*place.shape, steps + 1, dtype=torch.bool, device=place.device)
        pointed.scatter_(2, place.unsqueeze(-1), True)
        visited = pointed[..., :steps].cumsum(1).bool() | state.visited.unsqueeze(1)
        memory = state.memory._replace(mask=self._open(state.slots, visited))
        for glimpse in self.glimpses:
            hidden = hidden + glimpse(hidden, memory)
        scores = self.attention.scores(self.query(hidden), memory)
        marks = scores.new_full((*scores.shape[:2], END), -torch.inf)
        logits = torch.cat([marks, scores[..., steps:], scores[..., :steps]], -1)
        return logits, state._replace(visited=visited[:, -1], controller=controller)

    def _open(self, slots: Tensor, visited: Tensor) -> Tensor:
        """What may be pointed at, ``[B, T, S + 1]``."""
        left = slots.unsqueeze(1) & ~visited
        steps = slots.unsqueeze(1).expand_as(left) if self.revisit else left
        end = ~left.any(-1, keepdim=True) if self.complete else torch.ones_like(left[..., :1])
        return torch.cat([steps, end], -1)

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss over all steps but padding.

        Raises:
            ValueError: a target may not be pointed at.
        """
        loss = super().loss(batch)
        if loss == torch.inf:
            losses = self.objective.losses(self.logits(batch), batch.targets)
            if batch.target_mask is not None:
                losses = losses.masked_fill(~batch.target_mask, 0.0)
            row, step = losses.isinf().nonzero()[0].tolist()
            raise ValueError(
                "targets must point at steps that may be pointed at, not at padding nor, without "
                "revisit, at a step that was pointed at before; "
                f"got token {batch.targets[row, step].item()} at [{row}, {step}]"
            )
        return loss

    def reorder(
        self, state: PointerState, index: Tensor, same_source: bool = False
    ) -> PointerState:
        """See :meth:`~memnets.core.EncoderDecoder.reorder`; beams of a source share its memory."""
        if not same_source:
            return super().reorder(state, index)
        visited, controller = map_state(
            lambda part: part.index_select(0, index), (state.visited, state.controller)
        )
        return state._replace(visited=visited, controller=controller)

    def alignments(self) -> dict[str, str]:
        """See :meth:`~memnets.core.EncoderDecoder.alignments`: where each step points."""
        return {"pointer": "attention"}

    def slot_names(self, source: list[str], inputs: list[str]) -> list[str]:
        """See :meth:`~memnets.core.EncoderDecoder.slot_names`."""
        return [*source, "end"]


class _Glimpse(nn.Module):
    """A look at the slots (Bello et al. 2016, appendix A.1)."""

    def __init__(
        self, hidden_size: int, key_size: int, value_size: int, attention: Content
    ) -> None:
        super().__init__()
        self.query = nn.Linear(hidden_size, key_size)
        self.attention = attention
        self.output = nn.Linear(value_size, hidden_size)

    def forward(self, hidden: Tensor, memory: Memory) -> Tensor:
        """``[B, T, hidden_size] -> [B, T, hidden_size]``."""
        vectors, _ = self.attention.read(self.query(hidden), memory, None)
        output: Tensor = self.output(vectors)
        return output
