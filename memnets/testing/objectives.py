"""Checks of objectives, and of fast twins against their definitions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from memnets.core import map_state
from memnets.testing import strategies
from memnets.testing.encoders import lengths_mask
from memnets.testing.laws import (
    Draw,
    Laws,
    assert_close,
    assert_equal,
    copied,
    differentiable,
    differentiated,
    gradients,
    law,
    projection,
    tensors_of,
)
from memnets.training.objectives import Objective

__all__ = ["check_kernel", "check_objective"]


class _Answered(NamedTuple):
    logits: Tensor
    targets: Tensor
    mask: Tensor


class _ObjectiveSubject(Laws):
    check = "check_objective"

    def __init__(
        self, factory: Callable[..., Objective], arguments: dict[str, Any], width: int
    ) -> None:
        super().__init__(factory, arguments)
        self.width = width

    def inputs(self, draw: Draw, objective: Objective) -> _Answered:
        """Logits ``[B, T, O]``, targets made from other logits, and a mask."""
        batch, steps = draw(strategies.sizes(3, 4)), draw(strategies.sizes(4, 5))
        shape = (batch, steps, self.width)
        logits = draw(strategies.tensors(shape, special=False))
        # The seed plus 1, since Hypothesis may draw the same seed twice.
        generator = torch.Generator().manual_seed(draw(strategies.seeds()) + 1)
        others = torch.randn(shape, generator=generator, dtype=logits.dtype)
        return _Answered(logits, objective.answer(others), lengths_mask(draw, batch, steps))

    @law("it can be made, and judges once", examples=1)
    def smoke(self, draw: Draw) -> None:
        objective = self.build()
        assert isinstance(objective, Objective), (
            f"expected an Objective; got a {type(objective).__name__}"
        )
        logits, targets, mask = self.inputs(draw, objective)
        objective.losses(logits, targets)
        objective.scores(logits, targets, mask)

    @law("a loss is a number a step, with a gradient to the logits of that step alone")
    def losses(self, draw: Draw) -> None:
        objective = self.build()
        logits, targets, _ = self.inputs(draw, objective)
        logits = differentiable(logits)
        losses = objective.losses(logits, targets)
        assert losses.shape == logits.shape[:2], (
            f"losses {list(losses.shape)}, expected {list(logits.shape[:2])}"
        )
        assert torch.isfinite(losses).all(), f"losses {losses}"
        # One step's loss must not depend on other steps: truncated back-propagation and masks rely
        # on it.
        row, step = (draw(st.integers(0, size - 1)) for size in losses.shape)
        (gradient,) = gradients(losses[row, step], [logits])
        reached = gradient.any(-1)
        assert reached[row, step], "no gradient to the logits of the step"
        assert reached.sum() == 1, f"the loss of one step depends on the logits of {reached.sum()}"

    @law("a step down the gradient makes the loss less")
    def downhill(self, draw: Draw) -> None:
        objective = self.build()
        logits, targets, _ = self.inputs(draw, objective)
        logits = differentiable(logits)
        losses = objective.losses(logits, targets)
        (gradient,) = torch.autograd.grad(losses.sum(), [logits])
        below = objective.losses(logits.detach() - 1e-3 * gradient, targets)
        assert (below < losses).all(), f"losses {losses} became {below}"

    @law("an answer has the form of the targets", examples=4)
    def form(self, draw: Draw) -> None:
        objective = self.build()
        logits, targets, _ = self.inputs(draw, objective)
        answer = objective.answer(logits)
        assert answer.shape[:2] == logits.shape[:2], f"answers {list(answer.shape)}"
        assert (answer.shape, answer.dtype) == (targets.shape, targets.dtype)
        objective.losses(logits, answer)

    @law("scores are a finite number a sequence, the monitored one among them", examples=4)
    def scores(self, draw: Draw) -> None:
        objective = self.build()
        logits, targets, mask = self.inputs(draw, objective)
        scores = objective.scores(logits, targets, mask)
        for name, values in scores.items():
            assert values.shape == logits.shape[:1], f"{name} {list(values.shape)}, expected [B]"
            assert values.is_floating_point(), f"{name} is {values.dtype}"
            assert torch.isfinite(values).all(), f"{name}: {values}"
        summary = objective.summarize({name: values.mean() for name, values in scores.items()})
        for name, value in summary.items():
            assert value.shape == (), f"{name} of a set {list(value.shape)}, expected a scalar"
            assert torch.isfinite(value), f"{name} of a set: {value}"
        there = objective.monitor in summary
        assert there, f"monitor {objective.monitor!r} is none of {[*summary]}"
        plain = {name: value.item() for name, value in summary.items()}
        assert isinstance(objective.solved(plain), bool), "solved gives no bool"

    @law("padding is never scored")
    def padding(self, draw: Draw) -> None:
        objective = self.build()
        logits, targets, mask = self.inputs(draw, objective)
        # Other logits and other targets in the padding, so that any use of them shows.
        others, other_targets = -3 * logits, objective.answer(-logits)
        scores = objective.scores(logits, targets, mask)
        changed = objective.scores(
            torch.where(mask.unsqueeze(-1), logits, others),
            torch.where(mask.view(*mask.shape, *[1] * (targets.dim() - 2)), targets, other_targets),
            mask,
        )
        assert_close(changed, scores, "scores with other padding")
        for row, length in enumerate(mask.sum(1).tolist()):
            one = logits[row : row + 1, :length], targets[row : row + 1, :length]
            alone = {name: values[0] for name, values in objective.scores(*one, None).items()}
            of_row = {name: values[row] for name, values in scores.items()}
            for name, value in alone.items():
                assert torch.isclose(of_row[name], value, rtol=1e-5, atol=1e-6), (
                    f"{name} of {length} steps is {value}, with padding {of_row[name]}"
                )

    @law("the monitored score is the lower the better", examples=4)
    def monitored(self, draw: Draw) -> None:
        objective = self.build()
        logits, targets, mask = self.inputs(draw, objective)
        # Better logits, by descent on the objective's own loss.
        better = logits.clone()
        for _ in range(50):
            better.requires_grad_()
            loss = objective.losses(better, targets).sum()
            (gradient,) = torch.autograd.grad(loss, [better])
            better = better.detach() - 0.5 * gradient
        worse, best = (
            objective.summarize(
                {
                    name: values.mean()
                    for name, values in objective.scores(each, targets, mask).items()
                }
            )[objective.monitor]
            for each in (logits, better)
        )
        assert best <= worse, f"{objective.monitor} rose from {worse} to {best}"

    @law("inputs are never modified in place", examples=2)
    def inputs_unmodified(self, draw: Draw) -> None:
        objective = self.build()
        inputs = self.inputs(draw, objective)
        before = map_state(copied, inputs)
        objective.losses(inputs.logits, inputs.targets)
        objective.scores(*inputs)
        objective.answer(inputs.logits)
        assert_equal(inputs, before, "inputs after the calls")


def check_objective(
    objective: Callable[..., Objective],
    *,
    width: int = 4,
    leave_out: Iterable[str] = (),
    max_examples: int | None = None,
    **arguments: Any,
) -> None:
    """Check that an objective keeps every law of objectives.

    The loss of a step depends on the logits of that step alone, and falls along its gradient.
    Answers have the form of the targets. Each score is one finite number for a sequence, and
    padding does not count; the scores of a set, which follow from their means, are finite too. The
    monitored score improves as it falls. Nothing is modified in place.

    Args:
        objective: class of the objective, or a function that makes it.
        width: O, width of the logits ``[B, T, O]``; targets are the answers to other logits.
        leave_out: names of laws to leave out; the error for an unknown name lists them all.
        max_examples: number of examples for each law; that of the Hypothesis profile by default.
        **arguments: arguments for ``objective``.

    Raises:
        AssertionError: a law does not hold; the message describes each failure.
        TypeError: the first argument is not a class or function that makes the objective.
        ValueError: ``leave_out`` names an unknown law.

    Example:
        ``check_objective(Tokens, label_smoothing=0.1)``
    """
    _ObjectiveSubject(objective, arguments, width).hold(max_examples, leave_out)


# -- a fast path and its plain twin ----------------------------------------------------------------


class _KernelSubject(Laws):
    check = "check_kernel"

    def __init__(
        self,
        fast: Callable[..., Any],
        naive: Callable[..., Any],
        inputs: SearchStrategy[Any],
        tolerance: float,
    ) -> None:
        # A pair of functions, which may be modules: there is nothing to make.
        super().__init__(lambda: (fast, naive), {})
        self.strategy = inputs
        self.tolerance = tolerance

    def build(self) -> Any:
        return self.factory()

    def inputs(self, draw: Draw, prepare: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
        drawn = draw(self.strategy)
        drawn = (drawn,) if isinstance(drawn, Tensor) else tuple(drawn)
        return map_state(prepare, drawn)

    def close(self, result: Any, expected: Any, what: str) -> None:
        assert_close(result, expected, what, rtol=self.tolerance, atol=self.tolerance / 1000)

    @law("both can be called", examples=1)
    def smoke(self, draw: Draw) -> None:
        inputs = self.inputs(draw, copied)
        for function in self.build():
            tensors_of(function(*map_state(copied, inputs)))

    @law("the fast path and the plain one agree")
    def values(self, draw: Draw) -> None:
        fast, naive = self.build()
        inputs = self.inputs(draw, copied)
        self.close(fast(*map_state(copied, inputs)), naive(*map_state(copied, inputs)), "results")

    @law("their gradients agree")
    def derivatives(self, draw: Draw) -> None:
        fast, naive = self.build()
        inputs = self.inputs(draw, differentiable)
        sources = differentiated(inputs)
        result, expected = (gradients(each(*inputs), sources) for each in (fast, naive))
        self.close(result, expected, "gradient")

    @law("without gradients the numbers are the same", examples=4)
    def without_gradients(self, draw: Draw) -> None:
        fast, naive = self.build()
        inputs = self.inputs(draw, copied)
        with torch.no_grad():
            result = fast(*map_state(copied, inputs))
        expected = naive(*map_state(differentiable, inputs))
        self.close(result, expected, "results without gradients")

    @law("second derivatives agree, or are refused", examples=4)
    def second_derivatives(self, draw: Draw) -> None:
        fast, naive = self.build()
        inputs = self.inputs(draw, differentiable)
        sources = differentiated(inputs)

        # The gradient of a projection of the first gradients.
        def twice(function: Callable[..., Any]) -> list[Tensor]:
            total = projection(function(*inputs))
            first = torch.autograd.grad(total, sources, create_graph=True, allow_unused=True)
            return gradients([each for each in first if each is not None], sources)

        # A fast path may refuse second derivatives, but must not give wrong ones.
        expected = twice(naive)
        try:
            result = twice(fast)
        except RuntimeError:
            return
        self.close(result, expected, "second derivatives")

    @law("a second call gives the same numbers, and the first keeps its own", examples=4)
    def second_call(self, draw: Draw) -> None:
        fast, _ = self.build()
        # A kernel with buffers of its own may overwrite the first result in a second call.
        inputs, others = (self.inputs(draw, differentiable) for _ in range(2))
        before = map_state(copied, inputs)
        first = fast(*inputs)
        kept = map_state(copied, first)
        fast(*others)
        assert_equal(fast(*inputs), kept, "a second call")
        assert_equal(first, kept, "results of the first call after a second one")
        assert_equal(inputs, before, "inputs after the calls")
        gradients(first, differentiated(inputs))

    @law("results have the types of the plain path", examples=2)
    def types(self, draw: Draw) -> None:
        results, expected = (tensors_of(each(*self.inputs(draw, copied))) for each in self.build())
        kinds = [[tensor.dtype for tensor in each] for each in (results, expected)]
        assert kinds[0] == kinds[1], f"{kinds[0]}, expected {kinds[1]}"


def check_kernel(
    fast: Callable[..., Any],
    naive: Callable[..., Any],
    inputs: SearchStrategy[Any],
    *,
    tolerance: float = 1e-6,
    leave_out: Iterable[str] = (),
    max_examples: int | None = None,
) -> None:
    """Check that a fast path agrees with its plain definition.

    Both have the same values, with and without gradients, the same gradients, the same types and
    the same second derivatives (an error in their place is allowed). A second call gives the same
    result. Nothing is modified in place.

    Args:
        fast: a function of tensors, or a module.
        naive: the plain definition, with the same arguments.
        inputs: a strategy for the arguments: a tensor, or a tuple of (tuples of) tensors,
            preferably in double precision.
        tolerance: relative difference that counts as rounding.
        leave_out: names of laws to leave out; the error for an unknown name lists them all.
        max_examples: number of examples for each law; that of the Hypothesis profile by default.

    Raises:
        AssertionError: a law does not hold; the message describes each failure.
        ValueError: ``leave_out`` names an unknown law.

    Example:
        ``check_kernel(fast, naive, st.tuples(tensors((2, 3)), tensors((3, 4))))``
    """
    _KernelSubject(fast, naive, inputs, tolerance).hold(max_examples, leave_out)
