"""Checks of cells and controllers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, ClassVar

import torch
from hypothesis import strategies as st
from torch import Tensor

from memnets import fast
from memnets.core import Cell, Controller, map_state
from memnets.testing import strategies
from memnets.testing.laws import (
    LOW_PRECISION,
    Draw,
    assert_close,
    assert_finite,
    assert_shape,
    differentiable,
    differentiated,
    gradients,
    law,
    tensors_of,
)
from memnets.testing.steps import _assert_same_run, _Chunked, _Sequences, _Started, steps_taken
from memnets.viewing import trace
from memnets.viewing.interventions import Swap

__all__ = ["check_cell", "check_controller"]


class _CellSubject(_Started, _Chunked):
    """Any cell that is made from the width of its input."""

    check = "check_cell"
    kind: ClassVar[type | None] = Cell
    sourced = False
    input_size = 4

    def make(self, arguments: dict[str, Any]) -> Any:
        return self.factory(self.input_size, **arguments)

    def width(self) -> int:
        """Width of the input of a step."""
        return self.input_size

    def sequence(self, draw: Draw, batch: int, time: int) -> Tensor:
        tensor: Tensor = draw(strategies.tensors((batch, time, self.width()), special=False))
        return tensor

    def start(self, part: Any, source: Tensor) -> Any:
        return part.start(source) if self.sourced else part.initial_state(len(source))

    def advance(
        self, part: Any, steps: Tensor, state: Any, mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        result: tuple[Tensor, Any] = part.unroll(steps, state, mask)
        return result

    def step(self, part: Any, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        result: tuple[Tensor, Any] = part(inputs, state)
        return result

    def in_graph_arguments(self, draw: Draw, part: Any) -> tuple[Any, ...]:
        # Few steps: a graph holds each of them, and takes long to make.
        return *self.inputs(draw, batch=2, time=2), torch.tensor([[True], [False]])

    def in_graph(self, part: Any, *arguments: Any) -> Any:
        # A first state, a step, then one that a sequence skips.
        source, steps, mask = arguments
        output, state = part.step(steps[:, 0], self.start(part, source))
        outputs, state = self.advance(part, steps[:, 1:], state, mask)
        # Where a step is skipped, the output may be anything.
        return output, outputs.where(mask.unsqueeze(-1), 0.0), state

    def train(
        self, part: Any, given: _Sequences, source_mask: Tensor | None, mask: Tensor | None
    ) -> None:
        source, steps = map_state(differentiable, given)
        first = part.start(source, source_mask) if self.sourced else self.start(part, source)
        found = [
            each for each in tensors_of(self.advance(part, steps, first, mask)) if each.grad_fn
        ]
        torch.autograd.backward([each.sum() for each in found])

    @law("a step gives [B, output_size]")
    def shape(self, draw: Draw) -> None:
        self._shape(draw, "output_size")

    def _shape(self, draw: Draw, size: str) -> None:
        part = self.build(training=draw(st.booleans()))
        assert part.input_size == self.width(), f"input_size is {part.input_size}"
        source, steps = self.inputs(draw)
        state = self.start(part, source)
        for one, _ in (part(steps[:, 0], state), part.step(steps[:, 0], state)):
            assert_shape(one, (len(steps), getattr(part, size)), steps)
        many, _ = self.advance(part, steps, state)
        assert_shape(many, (*steps.shape[:2], getattr(part, size)), steps)

    @law("a batch may have no sequence", examples=1)
    def no_sequence(self, draw: Draw) -> None:
        part = self.build()
        drawn = map_state(lambda tensor: differentiable(tensor[:0]), self.inputs(draw))
        source, steps = drawn
        for way in (self.advance, lambda part, steps, state: part.step(steps[:, 0], state)):
            outputs, state = way(part, steps, self.start(part, source))
            assert outputs.numel() == 0, f"outputs {list(outputs.shape)}, expected none"
            gradients((outputs, state), [*differentiated(drawn), *part.parameters()])

    @law("steps that a sequence skips leave no trace")
    def skipped(self, draw: Draw) -> None:
        part = self.build()
        source, steps = map_state(differentiable, self.inputs(draw, batch=3, time=4))
        rest = differentiable(self.following(draw, source, 2))
        mask = steps_taken(draw, *steps.shape[:2])
        sizes = draw(st.sampled_from([[1, 3], [2, 2], [3, 1], [1, 2, 1]]))
        sources = [*differentiated((source, steps, rest)), *part.parameters()]

        def one_by_one(state: Any) -> tuple[Tensor, Any]:
            outputs = []
            for inputs, taken in zip(steps.unbind(1), mask.unbind(1), strict=True):
                output, after = self.step(part, inputs, state)
                state = part.choose(taken, after, state)
                outputs.append(output)
            return torch.stack(outputs, 1), state

        def in_chunks(state: Any) -> tuple[Tensor, Any]:
            outputs = []
            for inputs, taken in zip(steps.split(sizes, 1), mask.split(sizes, 1), strict=True):
                output, state = self.advance(part, inputs, state, taken)
                outputs.append(output)
            return torch.cat(outputs, 1), state

        ways = {
            "all at once": lambda state: self.advance(part, steps, state, mask),
            "one by one": one_by_one,
            f"in chunks of {sizes}": in_chunks,
        }
        expected = self._each_alone(part, source, steps, mask, rest)
        expected_gradients = gradients(expected, sources)
        for name, way in ways.items():
            outputs, state = way(self.start(part, source))
            # Where a step is skipped, the output may be anything.
            outputs = outputs.where(mask.unsqueeze(-1), 0.0)
            result = outputs, self.advance(part, rest, state)[0]
            what = f"with the mask {mask.int().tolist()}, {name}, and without the skipped steps"
            assert_close(result, expected, f"outputs {what}")
            assert_close(gradients(result, sources), expected_gradients, f"gradient {what}")

    def _each_alone(
        self, part: Any, source: Tensor, steps: Tensor, mask: Tensor, rest: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Outputs of each sequence at the steps that it takes, 0 at others; and those after."""
        outputs, later = [], []
        for row, taken in enumerate(mask):
            one = slice(row, row + 1)
            state = self.start(part, source[one])
            places = torch.zeros(len(taken), int(taken.sum()), dtype=steps.dtype)
            places[taken] = torch.eye(places.shape[1], dtype=steps.dtype)
            after = None
            if places.shape[1]:
                after, state = self.advance(part, steps[one][:, taken], state)
            later.append(self.advance(part, rest[one], state)[0])
            empty = later[-1].new_zeros(1, len(taken), later[-1].shape[-1])
            outputs.append(empty if after is None else places @ after)
        return torch.cat(outputs), torch.cat(later)

    @law("the fast path and the plain one agree")
    def fast_path(self, draw: Draw) -> None:
        part = self.build()
        source, steps = map_state(differentiable, self.inputs(draw))
        state = map_state(differentiable, self.start(part, source))
        sources = [*differentiated((steps, state)), *part.parameters()]

        def by_steps() -> tuple[Tensor, Any]:
            after, outputs = state, []
            for inputs in steps.unbind(1):
                output, after = part.step(inputs, after)
                outputs.append(output)
            return torch.stack(outputs, 1), after

        for way in (by_steps, lambda: self.advance(part, steps, state)):
            quick = way()
            with fast.naive():
                plain = way()
            assert_close(quick, plain, "outputs and state")
            assert_close(gradients(quick, sources), gradients(plain, sources), "gradient")

    @law("a mask that changes after the steps does not change their gradient unnoticed", examples=2)
    def mask_afterwards(self, draw: Draw) -> None:
        part = self.build()
        source, steps = map_state(differentiable, self.inputs(draw, batch=3, time=4))
        mask = steps_taken(draw, *steps.shape[:2])
        taken = mask.clone().unsqueeze(-1)
        sources = [*differentiated((source, steps)), *part.parameters()]

        def run() -> tuple[Tensor, Any]:
            outputs, state = self.advance(part, steps, self.start(part, source), mask)
            return outputs.where(taken, 0.0), state

        expected = gradients(run(), sources)
        outputs = run()
        mask.logical_not_()
        # PyTorch may say that a tensor was modified: that is as good.
        with suppress(RuntimeError):
            assert_close(gradients(outputs, sources), expected, "gradient")

    @law("free parts of a first state may hold any numbers from -1 to 1")
    def free(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw, batch=2, time=4)

        def drawn(part: Tensor) -> Tensor:
            numbers: Tensor = draw(strategies.tensors(tuple(part.shape), part.dtype, -1.0, 1.0))
            return numbers

        state = part.map_free(drawn, self.start(part, source))
        quick = self.advance(part, steps, state)
        with fast.naive():
            plain = self.advance(part, steps, state)
        assert_finite(plain, "outputs and state")
        assert_close(quick, plain, "outputs and state")

    @law("an intervention reaches its step and none before it", examples=2)
    def interventions(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw, batch=2, time=4)
        time = draw(st.integers(1, 3))
        state = self.start(part, source)
        with trace.record(part, kinds=None) as tape:
            self.advance(part, steps, state)
        _assert_same_run(tape.intervene(), tape)
        swapped = tape.intervene(Swap(part, first=0, second=1, start=time))
        assert swapped.original is not None
        _assert_same_run(swapped, swapped.original, time)
        # The same by hand: the two sequences go on from the state of each other.
        _, before = self.advance(part, steps[:, :time], state)
        before = map_state(lambda tensor: tensor.flip(0), before)
        expected, _ = self.advance(part, steps[:, time:], before)
        result = swapped.outputs[0][0][:, time:]
        assert_close(result, expected, f"outputs after a swap of states before step {time}")

    @law("padding of the source never changes a result")
    def source_padding(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw, batch=3)
        lengths = [draw(st.integers(1, source.shape[1])) for _ in range(len(source))]
        mask = torch.arange(source.shape[1]) < torch.tensor(lengths).unsqueeze(1)
        padded, _ = self.advance(part, steps, part.start(source, mask))
        for row, length in enumerate(lengths):
            one = slice(row, row + 1)
            alone, _ = self.advance(part, steps[one], part.start(source[one, :length]))
            what = f"outputs with {length} steps of {source.shape[1]} of the source"
            assert_close(padded[one], alone, what)


def check_cell(
    cell: Callable[..., Cell],
    *,
    size: int = 4,
    sourced: bool = False,
    dtypes: Iterable[torch.dtype] = LOW_PRECISION,
    leave_out: Iterable[str] = (),
    max_examples: int | None = None,
    **arguments: Any,
) -> None:
    """Check that a cell keeps every law of cells.

    Shapes; all steps at once, one by one and in any chunks give the same numbers, gradients too,
    and so they do with a mask: a step that a sequence skips leaves no trace; the fast path and the
    plain one agree; batch neighbours never change a result; the batch comes first in the state,
    and a first one has the precision and the device of the cell; the gradient reaches every
    parameter; nothing is kept on self or modified in place; the host never waits for a device.
    ``torch.compile`` makes one graph of it, with the same values and gradients.

    Args:
        cell: a class, or a function that makes the cell, from the width of its input.
        size: width of the input.
        sourced: whether the cell looks at a source: its first state is then ``start(source)``, of
            vectors as wide as its input.
        dtypes: the types of less than double precision that the cell is to know.
        leave_out: names of laws to leave out; a name that there is not gets a list of those.
        max_examples: how many examples each law is tested on; the Hypothesis profile says if not
            given.
        **arguments: for ``cell``, besides the width of the input.

    Raises:
        AssertionError: laws broke; the message says of each what was found.
        TypeError: what should make the part is a part.
        ValueError: ``leave_out`` names a law that there is not.

    Example:
        ``check_cell(SelfAttention, heads=2)``
    """
    subject = _CellSubject(cell, arguments, dtypes)
    subject.input_size, subject.sourced = size, sourced
    subject.hold(max_examples, leave_out, [] if sourced else ["source_padding"])


class _ControllerSubject(_CellSubject):
    check = "check_controller"
    kind = Controller
    input_size = 3

    @law("a step gives [B, hidden_size]")
    def shape(self, draw: Draw) -> None:
        self._shape(draw, "hidden_size")


def check_controller(
    controller: Callable[..., Controller],
    *,
    dtypes: Iterable[torch.dtype] = LOW_PRECISION,
    leave_out: Iterable[str] = (),
    max_examples: int | None = None,
    **arguments: Any,
) -> None:
    """Check that a controller keeps every law of controllers.

    The laws of :func:`check_cell` hold, and the output has the width ``hidden_size``.

    Args:
        controller: class of the controller, or a function that makes it from its input's width.
        dtypes: floating-point types besides float64 that the controller must support.
        leave_out: names of laws to leave out; the error for an unknown name lists them all.
        max_examples: number of examples for each law; that of the Hypothesis profile by default.
        **arguments: arguments for ``controller``, besides the width of the input.

    Raises:
        AssertionError: a law does not hold; the message describes each failure.
        TypeError: the first argument is a finished part, not a class or function that makes one.
        ValueError: ``leave_out`` names an unknown law.

    Example:
        ``check_controller(LSTM, hidden_size=8)``
    """
    subject = _ControllerSubject(controller, arguments, dtypes)
    subject.hold(max_examples, leave_out, ["source_padding"])
