"""The model with one causal cell for source and answer."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memnets import fast
from memnets.batches import Batch
from memnets.cells.embeddings import Inputs
from memnets.core import Cell, check_positive, map_state
from memnets.training.model import Model

__all__ = ["SequenceModel", "SequenceState"]


class SequenceState(NamedTuple):
    """State of a :class:`SequenceModel`.

    Attributes:
        body: state of the cell.
        steps: steps that each sequence has taken, without padding, int64 ``[B]``.
    """

    body: Any
    steps: Tensor


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
        tbptt_steps: number of steps after which the gradient is cut, at least 1; ``None`` = never.
            The gradient of each stretch is computed as soon as its loss is known, so memory does
            not grow with the length. The weights still change once for each batch.
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

    def encode(self, source: Tensor, mask: Tensor | None = None) -> SequenceState:
        """State after the source, ``[B, S]`` or ``[B, S, I]``.

        Raises:
            ValueError: a shape does not fit, or the source is longer than ``max_length``.
            TypeError: the mask is not boolean.
        """
        return self._run(source, None, mask, source=True)[1]

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
        source: bool = False,
    ) -> tuple[Tensor, SequenceState]:
        """Outputs of the body, ``[B, T, H]``, and the last state."""
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

    def longest_answer(self, source_steps: int) -> int | None:
        """See :meth:`~memnets.core.EncoderDecoder.longest_answer`; the source counts as well."""
        limits = [self.max_length, self.inputs.max_length]
        known = [limit for limit in limits if limit is not None]
        return max(0, min(known) - source_steps) if known else None

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss over all steps but padding, a scalar; cut gradients with ``tbptt_steps``."""
        if self.tbptt_steps is None or not torch.is_grad_enabled():
            return super().loss(batch)
        # Functional transforms see only the returned loss, not the gradients taken on the way.
        if fast.transformed():
            raise RuntimeError(
                "a loss with tbptt_steps takes gradients as it goes, which torch.func cannot see; "
                "set tbptt_steps=None"
            )
        # Source and answer are one sequence: cuts fall at the same distances in both.
        source_steps, answer_steps = batch.source.shape[1], batch.inputs.shape[1]
        mask = batch.source_mask
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(mask), answer_steps)], 1)
        # Stretches have different numbers of scored steps: each divides by the number of all, so
        # that the sum is the mean over the whole batch.
        scored = batch.targets.shape[:2].numel()
        count = scored if batch.target_mask is None else batch.target_mask.sum()
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        gradients = [torch.zeros_like(parameter) for parameter in parameters]
        total = parameters[0].new_zeros(())
        state = self.initial_state(len(batch.source))
        # The gradient of a stretch is added at once and its graph freed, so that memory holds one
        # stretch at a time.
        for start in range(0, source_steps + answer_steps, self.tbptt_steps):
            stretch = slice(start, start + self.tbptt_steps)
            part = None if mask is None else mask[:, stretch]
            vectors = self._stretch(batch, stretch, state.steps, part)
            hidden, state = self._advance(vectors, state, part)
            state = map_state(torch.detach, state)
            # A stretch within the source has no targets, and so no gradient.
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
        """Vectors of a stretch of the sequence of source and answer."""
        # A stretch may lie in the source, in the answer, or across both. Source and answer have
        # different embeddings, so each part is embedded by itself.
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
    """A loss whose gradient is known: ``backward`` hands it out, times the incoming gradient."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.count = count
        ctx.save_for_backward(*tensors)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        parameters, known = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        # The incoming gradient is a loss scaler's factor, or 1 over the accumulated batches.
        gradients = [gradient * part for part in known]
        # With ``create_graph=True``: these gradients carry no graph, so a second derivative would
        # silently be 0. It raises an error instead.
        if torch.is_grad_enabled():
            pairs = zip(gradients, parameters, strict=True)
            gradients = [_OnlyOnce.apply(*pair) for pair in pairs]  # type: ignore[no-untyped-call]
        return None, None, *gradients, *[None] * ctx.count


class _OnlyOnce(torch.autograd.Function):
    """The identity, with an error in place of a derivative."""

    @staticmethod
    def forward(ctx: Any, known: Tensor, parameter: Tensor) -> Tensor:
        return known.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        raise RuntimeError(
            "the gradient of a loss with tbptt_steps was taken a stretch at a time and cannot be "
            "differentiated again; set tbptt_steps=None"
        )


def _with_gradients(
    loss: Tensor, parameters: list[nn.Parameter], gradients: list[Tensor]
) -> Tensor:
    """Join a loss with its known gradients, so that Lightning can call ``backward`` as usual."""
    result: Tensor = _WithGradients.apply(  # type: ignore[no-untyped-call]
        loss, len(parameters), *parameters, *gradients
    )
    return result
