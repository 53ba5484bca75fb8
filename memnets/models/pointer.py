"""Pointer networks: the weights over the source are the answer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memnets import functional
from memnets.addressing import Content
from memnets.batches import END, Batch
from memnets.cells import Bridge
from memnets.checks import check_numbers, check_positive, check_source
from memnets.core import Addressing, Cell, Encoder, Memory, map_state
from memnets.factories import check_made, make
from memnets.features import Features, made_features
from memnets.training.model import Model
from memnets.training.objectives import Tokens

__all__ = ["PointerNetwork", "PointerState"]


class PointerState(NamedTuple):
    """State of a :class:`PointerNetwork`.

    Attributes:
        memory: a slot for each of the S steps of the source, then one for the end mark; its mask
            closes the padding. Without glimpses, which alone read values, the values are the keys.
        inputs: input of the decoder after it pointed at each slot, ``[B, S + 1, width]``; in place
            of the end mark, its first input.
        slots: bool ``[B, S]``, False = padding.
        visited: bool ``[B, S]``, True = the answer has pointed at this step; all False in a model
            that may point at a step again.
        controller: state of the decoder.
    """

    memory: Memory
    inputs: Tensor
    slots: Tensor
    visited: Tensor
    controller: Any


class PointerNetwork(Model[PointerState]):
    """Answer by pointing at steps of the source (Vinyals et al. 2015).

    An answer is a sequence of tokens: ``END + 1 + i`` points at step i of the source, ``END`` ends
    the answer. The input of the decoder is the step that it pointed at last. Its hidden vector s_t,
    after G glimpses at the source (Bello et al. 2016, appendix A.1; with a sum, so that s_t is not
    lost), is the query::

        q_0 = s_t,   q_l = q_{l-1} + W_l read(memory, U_l q_{l-1}),   logits = scores(U q_G, memory)

    A slot is a step's embedding joined with the encoder's vector for it: the step itself, and the
    step among the others. One projection of the slot is the key, which the glimpses share; another
    is the decoder's next input. The end mark is a slot of its own. If the encoder ignores the order
    of the source, so does the model: a permutation of the source permutes the answer.

    Args:
        input_size: width of the vectors of the source, at least 1.
        encoder: makes the encoder from the width of its input: a class, its other arguments given.
        decoder: makes the controller of the decoder from the width of its input, in the same way.
        attention: scores the slots.
        output_size: number of tokens of the task, at least 1. The model does not use it; it takes
            it because all models are made from an input size and an output size.
        width: width of the embeddings, at least 1.
        key_size: K, width of queries and keys, at least 1; ``width`` by default.
        glimpses: G, the number of glimpses, at least 0.
        revisit: whether an answer may point at a step again.
        complete: whether an answer may end only after it has pointed at every step.
        features: makes the features of a step from the width of its vector; the vector itself by
            default.
        settings: see :class:`~memnets.models.Model`.

    Raises:
        ValueError: a size is out of its range; ``complete`` and ``revisit`` are both True; or the
            objective smooths labels, which needs a probability above 0 for every token.
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
        self.features = made_features(features, input_size)
        self.embedding = nn.Linear(self.features.output_size, width)
        check_made("attention", attention, "Content(ScaledDot())")
        self.encoder = make("encoder", encoder, Encoder, width)
        slot_size = width + self.encoder.output_size
        # Learned vectors start with a length of about 1, like the other slots.
        end = torch.randn(slot_size) / slot_size**0.5
        # With ``complete`` the end comes when no step is left: its slot has nothing to learn.
        self.register_parameter("end", None if complete else nn.Parameter(end))
        self.begin = nn.Parameter(torch.randn(width) / width**0.5)
        self.fed = nn.Linear(slot_size, width)
        self.key = nn.Linear(slot_size, key_size, bias=False)
        self.decoder: Cell = make("decoder", decoder, Cell, width)
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
        self.check_source(source, mask)
        slots = source.new_ones(source.shape[:2], dtype=torch.bool) if mask is None else mask
        embedded = self.embedding(self.features(source))
        vectors, summary = self.encoder(embedded, mask)
        _, controller = self.bridge.first_state(summary, self.decoder)
        values = torch.cat([embedded, vectors], -1)
        inputs = torch.cat([self.fed(values), self.begin.expand(len(source), 1, -1)], 1)
        end = torch.zeros_like(values[0, 0]) if self.end is None else self.end
        keys = torch.cat([self.key(values), self.key(end).expand(len(source), 1, -1)], 1)
        opened = None
        if mask is not None:
            # The end mark is never padding.
            opened = torch.cat([mask, torch.ones_like(mask[:, :1])], 1).unsqueeze(1)
        # Only glimpses read values: without them, none are put together.
        if self.glimpses:
            values = torch.cat([values, end.expand(len(source), 1, -1)], 1)
        memory = Memory(keys, values if self.glimpses else keys, opened)
        return PointerState(memory, inputs, slots, torch.zeros_like(slots), controller)

    def decode(self, inputs: Tensor, state: PointerState) -> tuple[Tensor, PointerState]:
        """Continue an answer: logits ``[B, T, END + 1 + S]`` for tokens ``[B, T]``.

        Steps that the answer may not point at, and the tokens below ``END``, have the logit
        ``-inf``.

        Raises:
            ValueError: a token points beyond the source.
        """
        steps = state.slots.shape[1]
        check_numbers(
            (inputs <= END + steps).all(),
            f"tokens must be at most END + S = {END + steps}",
            lambda: f"{inputs.max().item()}",
        )
        # Marks are not steps of the source. They stand for the last slot, whose input is that of
        # the first step.
        place = torch.where(inputs > END, inputs - (END + 1), steps)
        index = place.unsqueeze(-1).expand(-1, -1, state.inputs.shape[-1])
        hidden, controller = self.decoder.unroll(state.inputs.gather(1, index), state.controller)
        memory, visited = state.memory, state.visited
        if not self.revisit:
            # All steps at once: the sum over time tells for each step of the answer which steps of
            # the source came before it.
            pointed = torch.zeros(*place.shape, steps + 1, dtype=torch.bool, device=place.device)
            pointed.scatter_(2, place.unsqueeze(-1), True)
            all_visited = pointed[..., :steps].cumsum(1).bool() | visited.unsqueeze(1)
            memory = memory._replace(mask=self._open(state.slots, all_visited))
            visited = all_visited[:, -1]
        for glimpse in self.glimpses:
            hidden = hidden + glimpse(hidden, memory)
        scores = self.attention.scores(self.query(hidden), memory)
        # Logits are in the order of the tokens: the marks, END, then the steps of the source.
        marks = scores.new_full((*scores.shape[:2], END), -torch.inf)
        logits = torch.cat([marks, scores[..., steps:], scores[..., :steps]], -1)
        return logits, state._replace(visited=visited, controller=controller)

    def _open(self, slots: Tensor, visited: Tensor) -> Tensor:
        """Slots that each step of an answer may point at once, bool ``[B, T, S + 1]``."""
        left = slots.unsqueeze(1) & ~visited
        end = ~left.any(-1, keepdim=True) if self.complete else torch.ones_like(left[..., :1])
        return torch.cat([left, end], -1)

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss over all steps but padding, a scalar.

        Raises:
            ValueError: a target points at a closed step.
        """
        loss = super().loss(batch)
        # A closed target has probability 0, and so an infinite loss. The search for its place runs
        # only in this case. On a GPU, a failed check leaves a device that cannot go on: there, the
        # training finds the infinite loss.
        if loss.device.type == "cpu":
            check_numbers(
                loss != torch.inf,
                "targets must point at steps that may be pointed at, not at padding nor, without "
                "revisit, at a step that was pointed at before",
                lambda: self._closed(batch),
            )
        return loss

    def _closed(self, batch: Batch) -> str:
        """Describe the first target that points at a closed step."""
        losses = self.objective.losses(self.logits(batch), batch.targets)
        losses = functional.inside(losses, batch.target_mask)
        row, step = losses.isinf().nonzero()[0].tolist()
        return f"token {batch.targets[row, step].item()} at [{row}, {step}]"

    def reorder(
        self, state: PointerState, index: Tensor, same_source: bool = False
    ) -> PointerState:
        """See :meth:`~memnets.core.EncoderDecoder.reorder`; beams of a source share its memory."""
        if not same_source:
            return super().reorder(state, index)
        # Memory, inputs and slots depend on the source alone.
        visited, controller = map_state(
            lambda part: part.index_select(0, index), (state.visited, state.controller)
        )
        return state._replace(visited=visited, controller=controller)

    def check_source(self, source: Tensor, mask: Tensor | None) -> None:
        """See :meth:`~memnets.training.Model.check_source`; the source is finite vectors."""
        check_source(source, mask)
        if source.dim() != 3 or source.shape[-1] != self.input_size:
            raise ValueError(
                f"source must be vectors [B, S, {self.input_size}]; got {list(source.shape)}"
            )
        # One infinite point would make NaN of the whole sequence, far from its cause.
        check_numbers(source.isfinite().all(), "source must be finite", lambda: _infinite(source))

    def longest_answer(self, source_steps: int) -> int | None:
        """See :meth:`~memnets.core.EncoderDecoder.longest_answer`; the encoder may limit it."""
        longest = self.encoder.max_length
        return None if longest is None or source_steps <= longest else 0

    def alignments(self) -> dict[str, Addressing]:
        """See :meth:`~memnets.core.EncoderDecoder.alignments`: where each step points."""
        return {"pointer": self.attention}

    def slot_names(self, source: list[str], inputs: list[str]) -> list[str]:
        """See :meth:`~memnets.core.EncoderDecoder.slot_names`."""
        return [*source, "end"]


def _infinite(source: Tensor) -> str:
    """Describe the first step of a source with a number that is not finite."""
    row, step, _ = (~source.isfinite()).nonzero()[0].tolist()
    return f"{source[row, step].tolist()} at [{row}, {step}]"


class _Glimpse(nn.Module):
    """A read of the slots that refines the query (Bello et al. 2016, appendix A.1)."""

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
