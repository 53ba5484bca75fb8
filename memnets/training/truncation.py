"""Truncated back-propagation through time, for every model."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from memnets import fast
from memnets.batches import Batch
from memnets.core import map_state
from memnets.training.objectives import Objective

__all__ = ["Truncatable", "truncated_loss"]


class Truncatable(Protocol):
    """Protocol of models whose loss can be computed one stretch of the answer at a time."""

    objective: Objective

    def first_stretch(self, batch: Batch, steps: int) -> tuple[Any, int]:
        """State from which to answer, and the number of steps to the first cut."""

    def decode(self, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits of some steps, and the next state."""


def truncated_loss(
    model: Truncatable, parameters: list[nn.Parameter], batch: Batch, steps: int
) -> Tensor:
    """Mean loss over all steps but padding, with truncated back-propagation through time.

    The gradient of each stretch is computed as soon as its loss is known, so that memory does not
    grow with the length of the answer. Tensors that the answer reads at every step, such as the
    memory of an encoder, collect the gradients of all stretches; then the source is passed once.

    Args:
        model: the model.
        parameters: all parameters that require a gradient.
        batch: a batch of a task.
        steps: number of steps of a stretch, at least 1.

    Returns:
        A scalar whose gradient is already computed; ``backward`` only hands it out.

    Raises:
        RuntimeError: under a transform of ``torch.func``, which cannot see such a gradient; or when
            the gradient is differentiated again.
    """
    # Functional transforms see only the returned loss, not the gradients taken on the way.
    if fast.transformed():
        raise RuntimeError(
            "a loss with tbptt_steps takes gradients as it goes, which torch.func cannot see; "
            "set tbptt_steps=None"
        )
    # Stretches have different numbers of scored steps: each divides by the number of all, so that
    # the sum is the mean over the whole batch.
    # Of a batch without a scored step the loss is 0, as without cuts.
    scored = max(1, batch.targets.shape[:2].numel())
    count = scored if batch.target_mask is None else batch.target_mask.sum().clamp_min(1)
    first, room = model.first_stretch(batch, steps)
    encoded: list[Tensor] = []  # tensors of the first state that have a gradient
    leaves: list[Tensor] = []  # the same for the stretches, where that gradient is collected

    def leaf(part: Tensor) -> Tensor:
        if not part.requires_grad:
            return part
        encoded.append(part)
        leaves.append(part.detach().requires_grad_())
        return leaves[-1]

    # A tensor that a step has not changed, such as the encoder's memory, stays the leaf that
    # collects gradients; all others are cut from their past.
    def cut(part: Tensor) -> Tensor:
        return part if any(part is leaf for leaf in leaves) else part.detach()

    state = map_state(leaf, first)
    sums = [torch.zeros_like(source) for source in (*parameters, *leaves)]
    total = torch.zeros((), device=batch.inputs.device)
    start = 0
    while start < batch.inputs.shape[1]:
        stretch = slice(start, start + room)
        logits, state = model.decode(batch.inputs[:, stretch], state)
        losses = model.objective.losses(logits, batch.targets[:, stretch])
        if batch.target_mask is not None:
            losses = losses.masked_fill(~batch.target_mask[:, stretch], 0)
        loss = losses.sum() / count
        total = total + loss.detach()
        _collect(loss, [*parameters, *leaves], sums)
        state = map_state(cut, state)
        start, room = start + room, steps
    gradients = sums[: len(parameters)]
    # Through the source, once, with the sums of all stretches.
    if encoded:
        _collect(encoded, parameters, gradients, sums[len(parameters) :])
    result: Tensor = _WithGradients.apply(  # type: ignore[no-untyped-call]
        total, len(parameters), *parameters, *gradients
    )
    return result


def _collect(
    outputs: Any, sources: Any, sums: list[Tensor], directions: list[Tensor] | None = None
) -> None:
    """Add the gradients of outputs to the sums of their sources."""
    if not sources:  # a model whose parameters are all frozen
        return
    shares = torch.autograd.grad(outputs, sources, directions, allow_unused=True)
    for collected, share in zip(sums, shares, strict=True):
        if share is not None:
            collected += share


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
