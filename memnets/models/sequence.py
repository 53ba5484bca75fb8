"""The model with one causal cell for source and answer."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memnets.batches import Batch, Places
from memnets.cells.embeddings import Inputs
from memnets.cells.positions import Start
from memnets.checks import check_numbers
from memnets.core import Cell
from memnets.training.model import Model

__all__ = ["SequenceModel", "SequenceState"]


class SequenceState(NamedTuple):
    """State of a :class:`SequenceModel`.

    Attributes:
        body: state of the cell.
        steps: steps that each sequence has taken, without padding, int64 ``[B]``.
        start: what the positions must know of the start of the sequences; ``None`` = nothing.
    """

    body: Any
    steps: Tensor
    start: Start | None = None


class SequenceModel(Model[SequenceState]):
    """A model with one causal cell, which reads the source, then continues with the answer.

    ``h = body(inputs(x)), y = output(h)``. With a :class:`~memnets.cells.Loop` as body it is a
    memory machine, with layers of self-attention a causal Transformer, with attention and
    convolutions a SNAIL. Any :class:`~memnets.core.Cell` can be the body.

    Args:
        inputs: turns source and answer into vectors of the width of the body's input.
        body: the cell.
        output: maps the body's outputs ``[B, T, H]`` to logits ``[B, T, O]``.
        max_length: most steps of source and answer together; ``None`` = no limit.
        settings: see :class:`~memnets.models.Model`.
    """

    def __init__(
        self,
        inputs: Inputs,
        body: Cell,
        output: nn.Module,
        max_length: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.inputs = inputs
        self.body = body
        self.output = output
        self.max_length = max_length

    @property
    def coupled(self) -> bool:
        """See :attr:`~memnets.core.EncoderDecoder.coupled`; its positions say so."""
        return self.inputs.coupled

    def initial_state(self, batch_size: int) -> SequenceState:
        """State before the first step of a sequence without a source."""
        body = self.body.initial_state(batch_size)
        nothing = torch.zeros(batch_size, 0, dtype=torch.long, device=self.device)
        return SequenceState(body, self._no_steps(nothing), self.inputs.start(nothing))

    def forward(
        self, inputs: Tensor, state: SequenceState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, SequenceState]:
        """Take some steps of a sequence, with logits for each.

        Args:
            inputs: ``[B, T]`` or ``[B, T, I]``.
            state: the result of the last call; the initial state by default.
            mask: bool ``[B, T]``, False = the sequence skips the step and its state stays; ``None``
                = no sequence skips a step.

        Returns:
            Logits ``[B, T, O]``, and the state after the last step.

        Raises:
            ValueError: a shape does not fit.
            TypeError: the mask is not boolean.
        """
        hidden, state = self._run(inputs, state, mask)
        return self.output(hidden), state

    def encode(
        self, source: Tensor, mask: Tensor | None = None, places: Places | None = None
    ) -> SequenceState:
        """State after the source, ``[B, S]`` or ``[B, S, I]``.

        A coupled model needs ``places``, those of the task (:class:`~memnets.batches.Places`).

        Raises:
            ValueError: a shape does not fit, the source is longer than ``max_length``, or the
                positions need places.
            TypeError: the mask is not boolean.
        """
        vectors, state = self._begun(source, mask, places)
        return _after_source(self._advance(vectors, state, mask)[1])

    def decode(self, inputs: Tensor, state: SequenceState) -> tuple[Tensor, SequenceState]:
        """Continue: logits ``[B, T, O]`` for inputs ``[B, T]`` or ``[B, T, I]``.

        Raises:
            ValueError: the sequence becomes longer than ``max_length``.
        """
        hidden, state = self._run(inputs, state, None)
        return self.output(hidden), state

    def _run(
        self,
        inputs: Tensor,
        state: SequenceState | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, SequenceState]:
        """Outputs of the body, ``[B, T, H]``, and the last state."""
        if state is None:
            state = self.initial_state(len(inputs))
        vectors = self.inputs(inputs, state.steps, mask, False, state.start)
        return self._advance(vectors, state, mask)

    def _begun(
        self, source: Tensor, mask: Tensor | None, places: Places | None
    ) -> tuple[Tensor, SequenceState]:
        """Vectors of a source, ``[B, S, V]``, and the state before its first step."""
        self.check_source(source, mask)
        steps, start = self._no_steps(source), self.inputs.start(source, places)
        vectors: Tensor = self.inputs(source, steps, mask, True, start)
        return vectors, SequenceState(self.body.start(vectors, mask), steps, start)

    def _no_steps(self, source: Tensor) -> Tensor:
        return torch.zeros(len(source), dtype=torch.long, device=source.device)

    def _advance(
        self, vectors: Tensor, state: SequenceState, mask: Tensor | None
    ) -> tuple[Tensor, SequenceState]:
        batch, steps, _ = vectors.shape
        if steps == 0:
            return vectors.new_zeros(batch, 0, self.body.output_size), state
        taken = state.steps + (steps if mask is None else mask.sum(1))
        if self.max_length is not None:
            check_numbers(
                (taken <= self.max_length).all(),
                f"the model is made for at most max_length = {self.max_length} steps of source and "
                "answer",
                lambda: f"a sequence of length {int(taken.max())}",
            )
        hidden, body = self.body.unroll(vectors, state.body, mask)
        return hidden, SequenceState(body, taken, state.start)

    def longest_answer(self, source_steps: int) -> int | None:
        """See :meth:`~memnets.core.EncoderDecoder.longest_answer`; the source counts as well."""
        limits = [self.max_length, self.inputs.max_length]
        known = [limit for limit in limits if limit is not None]
        return max(0, min(known) - source_steps) if known else None

    def first_stretch(self, batch: Batch, steps: int) -> tuple[SequenceState, int]:
        """See :meth:`~memnets.training.Model.first_stretch`.

        Source and answer are one sequence with cuts at equal distances. No gradient flows from the
        answer to the part of the source before the last cut in it.
        """
        source, mask = batch.source, batch.source_mask
        cut = source.shape[1] - source.shape[1] % steps
        vectors, state = self._begun(source, mask, self.places_of(batch))
        with torch.no_grad():
            before = None if mask is None else mask[:, :cut]
            _, state = self._advance(vectors[:, :cut], state, before)
        after = None if mask is None else mask[:, cut:]
        _, state = self._advance(vectors[:, cut:], state, after)
        return _after_source(state), steps - source.shape[1] % steps


def _after_source(state: SequenceState) -> SequenceState:
    """The state after a source, with the number of its steps for the positions of the answer."""
    if state.start is None:
        return state
    return state._replace(start=state.start._replace(source=state.steps))
