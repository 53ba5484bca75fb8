"""The model of one causal cell, which reads the source and goes on with the answer."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memnets.batches import Batch
from memnets.cells.embeddings import Inputs
from memnets.core import Cell, check_positive, map_state
from memnets.training.model import Model

__all__ = ["SequenceModel", "SequenceState"]


class SequenceState(NamedTuple):
    """State of a :class:`SequenceModel`.

    Attributes:
        body: state of the cell.
        steps: how many steps each sequence has taken, padding left out, int64 ``[B]``.
    """

    body: Any
    steps: Tensor


class SequenceModel(Model[SequenceState]):
    """One causal cell reads the source, then goes on with the answer.

    ``h = body(inputs(x)), y = output(h)``: with a :class:`~memnets.cells.Loop` for a body it is
    a memory machine, with layers of self-attention a causal Transformer, with attention and
    convolutions a SNAIL. Any :class:`~memnets.core.Cell` can be the body.

    Args:
        inputs: makes vectors, as wide as the input of the body, of source and answer.
        body: the cell.
        output: its outputs ``[B, T, H]`` to logits ``[B, T, O]``.
        max_length: most steps of source and answer together; ``None`` = no limit.
        tbptt_steps: cut the gradient every so many steps, at least 1; ``None`` = never. The
            gradient of each stretch is taken as soon as its loss is known, so memory does not grow
            with the length; the weights still change once a batch.
        settings: see :class:`~memnets.models.Model`.
    """

    def __init__(
        self,
        inputs: Inputs,
        body: Cell,
        output: nn.Module,
        max_length: int | None = None,
        tbptt_steps: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if tbptt_steps is not None:
            check_positive(tbptt_steps=tbptt_steps)
        self.inputs = inputs
        self.body = body
        self.output = output
        self.max_length = max_length
        self.tbptt_steps = tbptt_steps

    def initial_state(self, batch_size: int) -> SequenceState:
        """State before the first step."""
        body = self.body.initial_state(batch_size)
        return SequenceState(body, torch.zeros(batch_size, dtype=torch.long, device=self.device))

    def forward(
        self, inputs: Tensor, state: SequenceState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, SequenceState]:
        """Some steps of a sequence whose logits are all asked for.

        Args:
            inputs: ``[B, T]`` or ``[B, T, I]``.
            state: the result of the last call; the initial state if not given.
            mask: bool ``[B, T]``, False = the sequence skips the step and its state stays.

        Returns:
            Logits ``[B, T, O]``, and the state after the last step.

        Raises:
            ValueError: a shape does not fit.
            TypeError: the mask is not boolean.
        """
        hidden, state = self._run(inputs, state, mask)
        return self.output(hidden), state

    def encode(self, source: Tensor, mask: Tensor | None = None) -> SequenceState:
        """Read the source ``[B, S]`` or ``[B, S, I]``; its outputs are not asked for.

        Raises:
            ValueError: a shape does not fit, or the source is longer than ``max_length``.
            TypeError: the mask is not boolean.
        """
        return self._run(source, None, mask, source=True)[1]

    def decode(self, inputs: Tensor, state: SequenceState) -> tuple[Tensor, SequenceState]:
        """Go on: logits ``[B, T, O]`` for inputs ``[B, T]`` or ``[B, T, I]``.

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
        source: bool = False,
    ) -> tuple[Tensor, SequenceState]:
        """Outputs of the body ``[B, T, H]``, and the last state."""
        if state is None:
            state = self.initial_state(len(inputs))
        return self._advance(self.inputs(inputs, state.steps, mask, source), state, mask)

    def _advance(
        self, vectors: Tensor, state: SequenceState, mask: Tensor | None
    ) -> tuple[Tensor, SequenceState]:
        batch, steps, _ = vectors.shape
        if steps == 0:
            return vectors.new_zeros(batch, 0, self.body.output_size), state
        taken = state.steps + (steps if mask is None else mask.sum(1))
        if self.max_length is not None and (longest := int(taken.max())) > self.max_length:
            raise ValueError(
                f"the model is made for at most max_length = {self.max_length} steps of source and "
                f"answer; got a sequence of length {longest}"
            )
        hidden, body = self.body.unroll(vectors, state.body, mask)
        return hidden, SequenceState(body, taken)

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss over all steps but padding; its gradient is cut every ``tbptt_steps``."""
        if self.tbptt_steps is None or not torch.is_grad_enabled():
            return super().loss(batch)
        # Source and answer are one sequence: a cut falls every so many steps, wherever it is.
        source_steps, answer_steps = batch.source.shape[1], batch.inputs.shape[1]
        mask = batch.source_mask
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(mask), answer_steps)], 1)
        scored = batch.targets.shape[:2].numel()
        count = scored if batch.target_mask is None else batch.target_mask.sum()
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        gradients = [torch.zeros_like(parameter) for parameter in parameters]
        total = parameters[0].new_zeros(())
        state = self.initial_state(len(batch.source))
        for start in range(0, source_steps + answer_steps, self.tbptt_steps):
            stretch = slice(start, start + self.tbptt_steps)
            part = None if mask is None else mask[:, stretch]
            vectors = self._stretch(batch, stretch, state.steps, part)
            hidden, state = self._advance(vectors, state, part)
            state = map_state(torch.detach, state)
            answered = hidden[:, max(source_steps - start, 0) :]
            if answered.shape[1] == 0:
                continue
            first = max(start - source_steps, 0)
            steps = slice(first, first + answered.shape[1])
            losses = self.objective.losses(self.output(answered), batch.targets[:, steps])
            if batch.target_mask is not None:
                losses = losses.masked_fill(~batch.target_mask[:, steps], 0)
            loss = losses.sum() / count
            total += loss.detach()
            shares = torch.autograd.grad(loss, parameters, allow_unused=True)
            for gradient, share in zip(gradients, shares, strict=True):
                if share is not None:
                    gradient += share
        return _with_gradients(total, parameters, gradients)

    def _stretch(self, batch: Batch, stretch: slice, taken: Tensor, mask: Tensor | None) -> Tensor:
        """Vectors of some steps of the source and the answer as one sequence."""
        end = batch.source.shape[1]
        source = batch.source[:, stretch]
        inputs = batch.inputs[:, max(stretch.start - end, 0) : max(stretch.stop - end, 0)]
        parts = []
        for steps, is_source in ((source, True), (inputs, False)):
            if steps.shape[1]:
                own = None if mask is None else mask[:, : steps.shape[1]]
                mask = None if mask is None else mask[:, steps.shape[1] :]
                parts.append(self.inputs(steps, taken, own, is_source))
                taken = taken + (steps.shape[1] if own is None else own.sum(1))
        return torch.cat(parts, 1)


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.count = count
        ctx.save_for_backward(*tensors[count:])
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        gradients = (gradient * known for known in ctx.saved_tensors)
        return None, None, *gradients, *[None] * ctx.count


def _with_gradients(
    loss: Tensor, parameters: list[nn.Parameter], gradients: list[Tensor]
) -> Tensor:
    """The loss as a scalar whose gradient is known already, for whoever calls ``backward``."""
    result: Tensor = _WithGradients.apply(  # type: ignore[no-untyped-call]
        loss, len(parameters), *parameters, *gradients
    )
    return result
