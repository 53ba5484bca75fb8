"""Checks of parts that take steps over explicit state: cells, memory accesses, models."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple
from unittest import mock

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn

from memnets import fast, functional
from memnets.batches import BEGIN, END, Batch, Places
from memnets.core import Addressing, Cell, Controller, MemoryAccess, Normalizer, map_state
from memnets.testing import strategies
from memnets.testing.compiled import compiles, in_one_graph
from memnets.testing.laws import (
    LOW_PRECISION,
    Draw,
    Subject,
    assert_close,
    assert_equal,
    assert_finite,
    assert_reached,
    assert_shape,
    assert_unchanged,
    assert_weights,
    copied,
    differentiable,
    differentiated,
    gradients,
    law,
    single,
    tensors_of,
)
from memnets.testing.waiting import no_synchronisation
from memnets.viewing import trace
from memnets.viewing.interventions import Overwrite, Swap, Weights

if TYPE_CHECKING:
    from memnets.models import Model

__all__ = ["check_access", "check_cell", "check_controller", "check_model", "check_pointer"]


class _Sequences(NamedTuple):
    """A source, ``[B, S, ...]``, and the steps after it, ``[B, T, ...]``."""

    source: Tensor
    steps: Tensor


class _Recurrent(Subject):
    """Base class for the laws of parts that take steps over explicit state."""

    @abstractmethod
    def sequence(self, draw: Draw, batch: int, time: int) -> Tensor:
        """Inputs of ``time`` steps, ``[B, T, ...]``."""

    @abstractmethod
    def start(self, part: Any, source: Tensor) -> Any:
        """State before the first step."""

    @abstractmethod
    def advance(self, part: Any, steps: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Outputs of some steps, ``[B, T, O]``, and the next state."""

    def inputs(
        self, draw: Draw, special: bool = False, batch: int | None = None, time: int | None = None
    ) -> _Sequences:
        batch = draw(strategies.sizes(2, 3)) if batch is None else batch
        time = draw(strategies.sizes(3, 4)) if time is None else time
        source = self.reading(draw, batch, draw(strategies.sizes(2, 3)))
        return _Sequences(source, self.following(draw, source, time))

    def reading(self, draw: Draw, batch: int, time: int) -> Tensor:
        """A source, ``[B, S, ...]``."""
        return self.sequence(draw, batch, time)

    def following(self, draw: Draw, source: Tensor, time: int) -> Tensor:
        """Inputs of ``time`` steps after a source, ``[B, T, ...]``."""
        return self.sequence(draw, len(source), time)

    def run(self, part: Any, inputs: _Sequences) -> Tensor:
        """Outputs alone; states have laws of their own."""
        return self.advance(part, inputs.steps, self.start(part, inputs.source))[0]

    def results(self, part: Any, inputs: _Sequences) -> Any:
        return self.advance(part, inputs.steps, self.start(part, inputs.source))

    def interrupted(self, part: Any, inputs: _Sequences, interlude: Callable[[], None]) -> Any:
        # The interlude comes between two halves: a part must not keep anything but its state.
        half = inputs.steps.shape[1] // 2
        state, outputs = self.start(part, inputs.source), None
        if half:
            outputs, state = self.advance(part, inputs.steps[:, :half], state)
        interlude()
        return outputs, self.advance(part, inputs.steps[:, half:], state)[0]

    @law("a late output has a gradient to the state before it", examples=3)
    def through_time(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw, batch=2, time=4)
        _, state = self.advance(part, steps[:, :2], self.start(part, source))
        state = map_state(differentiable, state)
        sources = differentiated(state)
        if not sources:  # a part without a past
            return
        late = self.advance(part, steps[:, 2:], state)[0][:, -1]
        reached = [gradient.flatten(1).any(1) for gradient in gradients(late, sources)]
        assert torch.stack(reached).any(0).all(), "no gradient from the last step to the second"

    def states(self, part: Any, inputs: _Sequences) -> list[Any]:
        states = [self.start(part, inputs.source)]
        for steps in inputs.steps.split(1, 1):
            states.append(self.advance(part, steps, states[-1])[1])
        return states

    @law("a state is never modified in place")
    def state_unmodified(self, draw: Draw) -> None:
        part = self.build()
        source, steps = map_state(differentiable, self.inputs(draw))
        state = map_state(differentiable, self.start(part, source))
        before = map_state(copied, state)
        outputs, next_state = self.advance(part, steps, state)
        assert_equal(state, before, "state after a step from it")
        kept = map_state(copied, (outputs, next_state))
        # Twice from the same state, as beams do.
        branches = [self.advance(part, steps, next_state) for _ in range(2)]
        assert_equal((outputs, next_state), kept, "outputs and state after a step from it")
        gradients(branches, differentiated((steps, state)))

    @law("the batch comes first in a state")
    def batch_first(self, draw: Draw) -> None:
        part = self.build()
        batch = draw(strategies.sizes(3, 4))
        inputs = self.inputs(draw, batch=batch)
        # Rows may be left out, repeated and reordered, as a search does.
        rows = st.lists(st.integers(0, batch - 1), min_size=1, max_size=batch + 1)
        index = torch.tensor(draw(rows))
        _, state = self.advance(part, inputs.steps, self.start(part, inputs.source))
        steps = self.following(draw, inputs.source, draw(st.integers(1, 2)))
        expected = self.advance(part, steps, state)
        chosen_state = map_state(lambda tensor: tensor.index_select(0, index), state)
        result = self.advance(part, steps[index], chosen_state)
        expected = map_state(lambda tensor: tensor.index_select(0, index), expected)
        assert_close(result, expected, "outputs and state of chosen rows")

    @law("the gradient reaches every parameter")
    def parameters(self, draw: Draw) -> None:
        part = self.build()
        # More than one step: attention to a single one needs no query.
        source = self.reading(draw, batch=3, time=3)
        assert_reached(part, self.run(part, _Sequences(source, self.following(draw, source, 4))))

    @law("torch.compile makes one graph of it, with the numbers and gradients of eager", examples=1)
    def compiled(self, draw: Draw) -> None:
        if not compiles():
            self.skip("compiled", "torch.compile does not support this version of Python")
            return
        # A copy, since a submodule may be the caller's.
        part = copy.deepcopy(self.build(training=True))
        for module in part.modules():
            # A graph may draw other numbers than eager code does.
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        # Leaves of the graph: of other tensors the compiler asks for what warns.
        arguments = map_state(
            lambda tensor: tensor.detach().clone().requires_grad_(tensor.is_floating_point()),
            self.in_graph_arguments(draw, part),
        )
        # Training may change buffers.
        plain = copy.deepcopy(part)
        torch.manual_seed(0)
        expected = self.in_graph(plain, *arguments)
        torch.manual_seed(0)
        result = in_one_graph(functools.partial(self.in_graph, part), *arguments)
        assert_close(result, expected, "compiled and eager")
        given = differentiated(list(arguments))
        assert_close(
            gradients(result, [*given, *part.parameters()]),
            gradients(expected, [*given, *plain.parameters()]),
            "gradient, compiled and eager",
        )

    @abstractmethod
    def in_graph_arguments(self, draw: Draw, part: Any) -> tuple[Any, ...]:
        """Draw the arguments of :meth:`in_graph` besides the part, structures of tensors."""

    @abstractmethod
    def in_graph(self, part: Any, *arguments: Any) -> Any:
        """All that a user may want to compile of a part, its results as structures of tensors."""

    @law("the host never waits for a device", examples=1)
    def waiting(self, draw: Draw) -> None:
        # A copy: the move to "meta" loses all numbers, and a submodule may be the caller's.
        part = copy.deepcopy(self.build(torch.float32, training=True)).to("meta")
        # Few steps: an operation on "meta" takes many times what it takes elsewhere.
        inputs = map_state(single, self.inputs(draw, batch=2, time=2))
        source, steps = (each.to("meta") for each in inputs)
        masks = (_all_taken(source), _all_taken(steps))
        given = _without_waiting(lambda: self.training_inputs(part, source, steps))
        _without_waiting(lambda: self.train(part, given, *masks))
        _without_waiting(lambda: self.learn(part, given))

    def training_inputs(self, part: Any, source: Tensor, steps: Tensor) -> Any:
        """Inputs of a training: a source and steps, or more that a part makes of them itself."""
        return _Sequences(source, steps)

    @abstractmethod
    def train(self, part: Any, given: Any, source_mask: Tensor | None, mask: Tensor | None) -> None:
        """Run a part forward and backward, with masks of source and steps or without."""

    def learn(self, part: Any, given: Any) -> None:
        """Run a part forward and backward without masks, with what follows in a training."""
        self.train(part, given, None, None)


def _without_waiting(run: Callable[[], Any]) -> Any:
    """Run a function in which the host must not wait; a first run may copy constants."""
    with suppress(AssertionError), no_synchronisation():
        return run()
    with no_synchronisation(copies=True):
        run()
    with no_synchronisation():  # a second run finds its constants on the device
        return run()


def _all_taken(steps: Tensor) -> Tensor:
    return steps.new_ones(steps.shape[:2], dtype=torch.bool)


class _Chunked(_Recurrent):
    """Base class for the laws of parts that can take many steps at once."""

    def step(self, part: Any, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One step, ``[B, ...] -> [B, O]``."""
        outputs, state = self.advance(part, inputs.unsqueeze(1), state)
        return outputs.squeeze(1), state

    @law("all steps at once, one by one and in chunks give the same numbers")
    def chunks(self, draw: Draw) -> None:
        part = self.build()
        source, steps = map_state(differentiable, self.inputs(draw))
        sizes: list[int] = []
        while sum(sizes) < steps.shape[1]:
            sizes.append(draw(st.integers(1, steps.shape[1] - sum(sizes))))
        # Single steps are the definition of a cell; the rest must agree with them.
        state = self.start(part, source)
        at_once = self.advance(part, steps, state)
        outputs = []
        for inputs in steps.unbind(1):
            output, state = self.step(part, inputs, state)
            outputs.append(output)
        one_by_one = torch.stack(outputs, 1), state
        outputs, state = [], self.start(part, source)
        for chunk in steps.split(sizes, 1):
            output, state = self.advance(part, chunk, state)
            outputs.append(output)
        in_chunks = torch.cat(outputs, 1), state
        sources = [*differentiated((source, steps)), *part.parameters()]
        expected = gradients(at_once, sources)
        for name, result in (("one by one", one_by_one), (f"in chunks of {sizes}", in_chunks)):
            assert_close(result, at_once, f"outputs and state {name}")
            assert_close(gradients(result, sources), expected, f"gradient {name}")


class _Started(_Recurrent):
    """Base class for the laws of parts with an ``initial_state``."""

    def start(self, part: Any, source: Tensor) -> Any:
        return part.initial_state(len(source))

    @law("a late output has a gradient to what an early step was given", examples=3)
    def early_steps(self, draw: Draw) -> None:
        part = self.build()
        source, steps = map_state(differentiable, self.inputs(draw, batch=2, time=4))
        outputs, state = self.advance(part, steps, self.start(part, source))
        if not tensors_of(state):  # a part without a past
            return
        (gradient,) = gradients(outputs[:, -1], [steps])
        reached = gradient.flatten(2).any(2)
        missed = (~reached.all(0)).nonzero().flatten().tolist()
        assert not missed, f"no gradient from step 3 to steps {missed}"

    @law("a sequence that skips a step goes on from the state before it")
    def choose(self, draw: Draw) -> None:
        part = self.build()
        batch = draw(strategies.sizes(3, 4))
        source, steps = self.inputs(draw, batch=batch, time=4)
        taken = torch.tensor(draw(st.lists(st.booleans(), min_size=batch, max_size=batch)))
        # A choice is right if what follows is right: states may differ in parts that nobody reads,
        # such as closed slots.
        _, before = self.advance(part, steps[:, :1], self.start(part, source))
        _, after = self.advance(part, steps[:, 1:2], before)
        chosen = part.choose(taken, after, before)
        result, stayed, went = (
            self.advance(part, steps[:, 2:], state)[0] for state in (chosen, before, after)
        )
        expected = torch.where(taken.view(-1, 1, 1), went, stayed)
        assert_close(result, expected, f"outputs after a step that {taken.tolist()} took")

    @law("a first state has the precision and the device of its part", examples=1)
    def placement(self, draw: Draw) -> None:
        batch = draw(strategies.sizes(1, 3))
        for dtype, device in itertools.product(self.dtypes, ("cpu", "meta")):
            # A copy: the move to "meta" loses all numbers, and a submodule may be the caller's.
            part = copy.deepcopy(self.build(dtype)).to(device)
            for tensor in tensors_of(part.initial_state(batch)):
                assert tensor.device.type == device, f"{tensor.device}, expected {device}"
                expected = dtype if tensor.is_floating_point() else tensor.dtype
                assert tensor.dtype == expected, f"{tensor.dtype}, expected {expected}"


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


def _assert_same_run(run: trace.Tape, other: trace.Tape, time: int | None = None) -> None:
    """Assert that two runs are the same, bit for bit; only before a step if ``time`` is given."""
    pairs = zip(run.events, other.events, strict=True)
    early = [(one, another) for one, another in pairs if time is None or one.step < time]
    for one, another in early:
        what = f"{one.kind} of {type(one.part).__name__} at step {one.step}"
        assert_equal(one.value, another.value, f"{what}, as without the intervention")
    if time is None:
        assert_equal(run.outputs, other.outputs, "results without an intervention")
    else:
        result, expected = (each.outputs[0][0][:, :time] for each in (run, other))
        assert_equal(result, expected, f"outputs before an intervention at step {time}")


def steps_taken(draw: Draw, batch: int, time: int) -> Tensor:
    """A mask with holes: one step that nobody takes, and at times a sequence that takes none."""
    rows = st.lists(st.booleans(), min_size=time, max_size=time)
    mask = torch.tensor([draw(rows) for _ in range(batch)])
    # The simplest mask of all is of one kind; two rows of another make it tell something.
    mask[0] ^= torch.arange(time) % 2 == 0
    mask[1] = True
    mask[:, draw(st.integers(0, time - 1))] = False
    return mask


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


class _AccessSubject(_CellSubject):
    """Laws of memory accesses; a part is built to ask for the width of its interface."""

    check = "check_access"
    kind = MemoryAccess

    @functools.cached_property
    def interface_size(self) -> int:
        # Only a finished part knows it. The extra part must not move the random generator.
        with torch.random.fork_rng(devices=[]):
            size: int = self.build().interface_size
        return size

    def make(self, arguments: dict[str, Any]) -> Any:
        return self.factory(**arguments)

    def width(self) -> int:
        return self.interface_size

    def sequence(
        self,
        draw: Draw,
        batch: int,
        time: int,
        dtype: torch.dtype = torch.float64,
        special: bool = False,
    ) -> Tensor:
        # The true gradient must fit the type: a strength multiplies a sharpness, a key and a value,
        # and each of the four may be extreme.
        end = strategies.magnitude(dtype, 4)
        low, high = (-end, end) if special else (None, None)
        shape = (batch, time, self.interface_size)
        interfaces: Tensor = draw(strategies.tensors(shape, dtype, low, high, special))
        return interfaces

    @law("a step gives [B, read_size]")
    def shape(self, draw: Draw) -> None:
        self._shape(draw, "read_size")

    @law("extreme inputs give finite numbers")
    def extremes(self, draw: Draw) -> None:
        dtype = draw(st.sampled_from(self.dtypes))
        part = self.build(dtype, training=draw(st.booleans()))
        batch = draw(strategies.sizes(2, 2))
        steps = self.sequence(draw, batch, draw(strategies.sizes(2, 3)), dtype, special=True)
        state = part.initial_state(batch)
        for interface in steps.unbind(1):
            # The gradient of one step at a time: over several, even the true one may overflow.
            interface, state = map_state(differentiable, (interface, state))
            vectors, next_state = part.step(interface, state)
            assert_finite((vectors, next_state), "what is read and the state")
            sources = [*differentiated((interface, state)), *part.parameters()]
            assert_finite(gradients((vectors, next_state), sources), "gradient")
            state = next_state

    @law("the gradient reaches every part of the interface")
    def interface(self, draw: Draw) -> None:
        part = self.build()
        source, steps = map_state(differentiable, self.inputs(draw, batch=3, time=4))
        (gradient,) = gradients(self.run(part, _Sequences(source, steps)), [steps])
        reached = (gradient != 0).flatten(0, 1).any(0)
        missed = (~reached).nonzero().flatten().tolist()
        assert reached.all(), f"no gradient for entries {missed} of the interface"

    @law("an interface begins with the copies and biases that the memory names", examples=1)
    def begins(self, draw: Draw) -> None:
        part, size = self.build(), self.interface_size
        layer = part.make_interface(3)
        assert_shape(layer.weight, (size, 3), layer.weight)
        bias, copies = part.interface_bias(), part.interface_copies()
        own = layer.bias.detach()
        if bias is not None:
            assert_shape(bias, (size,), bias)
            own = own - bias
        if copies is not None:
            assert_shape(copies, (size,), copies)
            # Of a copy there are no copies, so that the originals are where they were.
            assert_equal(copies[copies], copies, "what a copy is a copy of")
            assert_equal(layer.weight[copies], layer.weight, "weights and those they copy")
            assert_close(own[copies], own, "biases and those they copy")

    @law("steps change every part of the state", examples=3)
    def writes(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw, batch=2, time=3)
        before = self.start(part, source)
        _, after = self.advance(part, steps, before)
        for number, (old, new) in enumerate(
            zip(tensors_of(before), tensors_of(after), strict=True)
        ):
            # A tensor of the state that no step changes is a slip: it belongs on the module.
            same = old.shape == new.shape and bool((old == new).all())
            assert not same, f"tensor {number} of the state, {list(old.shape)}, is as at the start"

    @law("a slot that is overwritten is what the step finds", examples=2)
    def overwritten(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw, batch=2, time=3)
        state = self.start(part, source)
        _, before = self.advance(part, steps[:, :2], state)
        names = [name for name in ("memory", "keys", "values") if hasattr(before, name)]
        if not names or not hasattr(before, "_replace"):
            self.skip("overwritten", "its state has no field `memory`, nor `keys` and `values`")
            return
        with trace.record(part, kinds=None) as tape:
            self.advance(part, steps, state)
        slot, value = draw(st.integers(0, 1)), draw(st.sampled_from((0.0, 0.5)))
        other = tape.intervene(Overwrite(part, slot, value, start=2))
        # The same by hand.
        changed = {name: getattr(before, name).clone() for name in names}
        for tensor in changed.values():
            tensor[..., slot, :] = value
        with trace.record(part, kinds=None) as by_hand:
            expected = part(steps[:, 2], before._replace(**changed))[0]
        assert_close(other.outputs[0][0][:, 2], expected, "output after a slot is overwritten")
        late = [event for event in other.events if event.step == 2]
        for event, same in zip(late, by_hand.events, strict=True):
            assert_close(event.value, same.value, f"{event.kind} after a slot is overwritten")

    @law("weights inside are rows >= 0 that sum to at most 1", examples=4)
    def weights_inside(self, draw: Draw) -> None:
        part = self.build(training=draw(st.booleans()))
        source, steps = self.inputs(draw)
        state = self.start(part, source)
        # A fast twin runs no addressing, so there would be nothing to watch.
        with fast.naive(), _weights_inside(part) as found:
            for step in range(steps.shape[1]):
                _, state = self.advance(part, steps[:, step : step + 1], state)
                fields = state._asdict() if hasattr(state, "_asdict") else {}
                found += [
                    (f"{name} of the state", tensor)
                    for name, value in fields.items()
                    if name.endswith("weights")
                    for tensor in tensors_of(value)
                ]
        for name, weights in found:
            try:
                assert_weights(weights, None, whole=False)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from None

    @law("no parameter depends on the number of slots")
    def slots(self, draw: Draw) -> None:
        part = self.build()
        settable = isinstance(getattr(part, "slots", None), int)
        if settable:
            self._more_slots(draw, part)
        # Without the attribute ``slots``, look for an argument that makes the state larger.
        function, named = _by_name(self.factory, self.arguments)
        numbers = [name for name, value in named.items() if type(value) is int]
        growing = [name for name in numbers if _grows_with(part, function, named, name)]
        if not settable and not growing:
            self.skip(
                "slots",
                "it has no number `slots`, and no argument was found of which the state alone "
                f"grows; looked at: {', '.join(numbers) or 'none'}",
            )

    def _more_slots(self, draw: Draw, part: Any) -> None:
        before = {name: value.clone() for name, value in part.state_dict().items()}
        shapes = [tensor.shape for tensor in tensors_of(part.initial_state(1))]
        part.slots = part.slots + draw(st.integers(1, 3))
        assert_unchanged(part.state_dict(), before)
        source, steps = self.inputs(draw)
        outputs, state = self.advance(part, steps, self.start(part, source))
        assert_shape(outputs, (*steps.shape[:2], part.read_size), steps)
        assert_finite((outputs, state), "what is read and the state")
        more = [tensor.shape for tensor in tensors_of(part.initial_state(1))]
        assert more != shapes, f"the state has the same shapes {shapes} with more slots"


def _by_name(
    factory: Callable[..., Any], arguments: dict[str, Any]
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function behind a factory, and its arguments by name; none if some have no name."""
    given: tuple[Any, ...] = ()
    if isinstance(factory, functools.partial):
        given, arguments = factory.args, {**factory.keywords, **arguments}
        factory = factory.func
    try:
        bound = inspect.signature(factory).bind(*given, **arguments)
    except (TypeError, ValueError):
        return factory, {}
    bound.apply_defaults()
    named: dict[str, Any] = {}
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            named.update(bound.arguments[name])
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            if bound.arguments[name] != ():
                return factory, {}
        else:
            named[name] = bound.arguments[name]
    return factory, named


def _grows_with(
    part: MemoryAccess, function: Callable[..., Any], named: dict[str, Any], name: str
) -> bool:
    """Whether an argument is a number of slots: the state grows with it, and no width does.

    Raises:
        AssertionError: a parameter grows too.
    """
    try:
        other = function(**copy.deepcopy({**named, name: named[name] + 1}))
        widths = (other.interface_size, other.read_size)
        state = [tensor.shape for tensor in tensors_of(other.initial_state(1))]
    except Exception:  # such a part may not exist
        return False
    first = [tensor.shape for tensor in tensors_of(part.initial_state(1))]
    if widths != (part.interface_size, part.read_size) or state == first:
        return False
    shapes, more = (
        {key: value.shape for key, value in each.state_dict().items()} for each in (part, other)
    )
    grown = sorted(key for key in {*shapes, *more} if shapes.get(key) != more.get(key))
    assert not grown, f"{', '.join(grown)} grows with {name}, as the slots of the state do"
    return True


@contextmanager
def _weights_inside(part: nn.Module) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect all weights that a part makes within the context, with their places."""
    found: list[tuple[str, Tensor]] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, outputs: Any) -> None:
            weights = outputs[0] if isinstance(module, Addressing) else outputs
            found.append((f"weights of {name}", weights.detach()))

        return hook

    def watched(name: str, place: int) -> Callable[..., Tensor]:
        function = getattr(functional, name)

        def call(*arguments: Any, **named: Any) -> Any:
            weights = named["weights"] if "weights" in named else arguments[place]
            found.append((f"weights of functional.{name}", weights.detach()))
            return function(*arguments, **named)

        return call

    # Addressings and normalizers are seen by hooks; other weights where they read or write.
    with ExitStack() as stack:
        for name, module in part.named_modules():
            if isinstance(module, (Addressing, Normalizer)):
                stack.callback(module.register_forward_hook(watch(name)).remove)
        for name, place in (("read", 0), ("erase_add", 1)):
            stack.enter_context(mock.patch.object(functional, name, watched(name, place)))
        yield found


def check_access(
    access: Callable[..., MemoryAccess],
    *,
    dtypes: Iterable[torch.dtype] = LOW_PRECISION,
    leave_out: Iterable[str] = (),
    max_examples: int | None = None,
    **arguments: Any,
) -> None:
    """Check that a memory access keeps every law of accesses.

    The laws of :func:`check_cell` hold, and the output has the width ``read_size``. Results and
    gradients are finite for extreme interfaces in float32, bfloat16 and float16. The gradient
    reaches every entry of the interface. Steps change every part of the state. No parameter depends
    on the number of slots (the attribute ``slots``, or an argument with which the state grows). The
    layer that makes the interface begins with the biases and copies that the access names.

    Args:
        access: class of the access, or a function that makes it.
        dtypes: floating-point types besides float64 that the access must support.
        leave_out: names of laws to leave out; the error for an unknown name lists them all.
        max_examples: number of examples for each law; that of the Hypothesis profile by default.
        **arguments: arguments for ``access``.

    Raises:
        AssertionError: a law does not hold; the message describes each failure.
        TypeError: the first argument is a finished part, not a class or function that makes one.
        ValueError: ``leave_out`` names an unknown law.

    Example:
        ``check_access(NTM, slots=8, width=4)``
    """
    _AccessSubject(access, arguments, dtypes).hold(max_examples, leave_out, ["source_padding"])


class _ModelSubject(_Chunked):
    check = "check_model"

    def __init__(
        self,
        factory: Callable[..., Model],
        arguments: dict[str, Any],
        steps: Callable[[int, int], SearchStrategy[Tensor]] | None,
        overfit_steps: int,
        dtypes: Iterable[torch.dtype],
        source: Callable[[int, int], SearchStrategy[Tensor]] | None = None,
    ) -> None:
        super().__init__(factory, arguments, dtypes)
        self.overfit_steps = overfit_steps
        self.given_steps = steps
        self.given_source = source
        self.masked = True

    @functools.cached_property
    def steps(self) -> Callable[[int, int], SearchStrategy[Tensor]]:
        if self.given_steps is not None:
            return self.given_steps
        with torch.random.fork_rng(devices=[]):
            size = self.build().input_size
        return lambda batch, time: strategies.tensors((batch, time, size), special=False)

    def sequence(self, draw: Draw, batch: int, time: int) -> Tensor:
        tensor: Tensor = draw(self.steps(batch, time))
        return tensor

    def reading(self, draw: Draw, batch: int, time: int) -> Tensor:
        given = self.steps if self.given_source is None else self.given_source
        source: Tensor = draw(given(batch, time))
        return source

    def start(self, part: Model, source: Tensor, mask: Tensor | None = None) -> Any:
        if mask is None and not part.coupled:
            return part.encode(source)
        return part.encode(source, mask, *self._places(part, source))

    def _places(self, part: Model, source: Tensor) -> tuple[Places, ...]:
        """Places for a model that is coupled: those of the answer come again and again."""
        if not part.coupled:
            return ()
        steps, device = source.shape[1], source.device
        sides = torch.arange(steps, device=device), torch.arange(12, device=device) % 3
        return (Places(*(side.expand(len(source), -1) for side in sides)),)

    def _given(self, part: Model, batch: Batch) -> Batch:
        """A batch with places, if the model is coupled."""
        for source, answer in self._places(part, batch.source):
            batch = batch._replace(source_places=source, target_places=answer)
        return batch

    def advance(self, part: Model, steps: Tensor, state: Any) -> tuple[Tensor, Any]:
        return part.decode(steps, state)

    def in_graph_arguments(self, draw: Draw, part: Model) -> tuple[Any, ...]:
        source = self.reading(draw, 2, 2)
        sequences = _Sequences(source, self.following(draw, source, 1))
        mask = torch.tensor([[True], [False]])
        batch = Batch(*sequences, self._targets(part, sequences), None, mask)
        with torch.no_grad():
            return self._given(part, batch), self.start(part, batch.source)

    def in_graph(self, part: Model, *arguments: Any) -> Any:
        # The loss of a batch, and a step of an answer.
        batch, state = arguments
        return part.loss(batch), part.decode(batch.inputs, state)

    def training_inputs(self, part: Model, source: Tensor, steps: Tensor) -> Batch:
        # The targets are answers: the host may not wait for one either.
        with torch.no_grad():
            logits, _ = part.decode(steps, self.start(part, source))
        return self._given(part, Batch(source, steps, part.objective.answer(logits)))

    def train(
        self, part: Model, given: Batch, source_mask: Tensor | None, mask: Tensor | None
    ) -> None:
        source_mask = source_mask if self.masked else None
        part.loss(given._replace(source_mask=source_mask, target_mask=mask)).backward()

    def learn(self, part: Model, given: Batch) -> None:
        part.whole_step(given, torch.optim.SGD(part.parameters()), greatest_norm=1.0)

    @law("the future is never seen")
    def causal(self, draw: Draw) -> None:
        part = self.build()
        # Both runs have the same shapes, so even the bits must be equal.
        source, steps = self.inputs(draw, time=draw(st.integers(2, 4)))
        time = draw(st.integers(1, steps.shape[1] - 1))
        changed = self.following(draw, source, steps.shape[1])
        changed = torch.cat([steps[:, :time], changed[:, time:]], 1)
        state = self.start(part, source)
        before, after = (self.advance(part, inputs, state)[0] for inputs in (steps, changed))
        assert_equal(after[:, :time], before[:, :time], f"outputs before the change at {time}")

    @law("an intervention reaches its step and none before it", examples=2)
    def interventions(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw, batch=2, time=3)
        with torch.no_grad(), trace.record(part, kinds=None) as tape:
            part.decode(steps, self.start(part, source))
        _assert_same_run(tape.intervene(), tape)
        # One of them, as each costs a run; and a slot with some weight, as others may be closed.
        rows = {part: tape.over_time(part)[0] for part in tape.weights}
        places = [
            (part, time) for part, row in rows.items() for time in row.any(-1).nonzero().flatten()
        ]
        if not places:
            return
        addressing, place = draw(st.sampled_from(places))
        before, time = rows[addressing], int(place)
        slot = draw(st.sampled_from(before[time].nonzero().flatten().tolist()))
        forced = Weights(addressing, slot, head=0, sequence=0, start=time, stop=time + 1)
        after = tape.intervene(forced).over_time(addressing)[0]
        what = f"weights of {type(addressing).__name__}"
        assert_equal(after[:time], before[:time], f"{what} before an intervention")
        expected = (torch.arange(after.shape[-1]) == slot).to(after)
        assert_equal(after[time], expected, f"{what} that are forced to slot {slot}")

    @law("padding never changes a result")
    def padding(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw)
        lengths = [draw(st.integers(1, source.shape[1])) for _ in range(len(source))]
        # Steps that fit the shortest source: a pointer may not point at padding.
        steps = self.following(draw, source[:, : min(lengths)], steps.shape[1])
        mask = torch.arange(source.shape[1]) < torch.tensor(lengths).unsqueeze(1)
        padded, _ = self.advance(part, steps, self.start(part, source, mask))
        for row, length in enumerate(lengths):
            one = slice(row, row + 1)
            alone, _ = self.advance(part, steps[one], self.start(part, source[one, :length]))
            self.same_answers(padded[one], alone, length, source.shape[1])

    def same_answers(self, padded: Tensor, alone: Tensor, length: int, whole: int) -> None:
        """Assert that logits with and without padding are the same, ``[1, T, O]``."""
        assert_close(padded, alone, f"outputs with {length} steps of {whole}")

    @law("the gradient of the loss reaches every parameter")
    def parameters(self, draw: Draw) -> None:
        part = self.build(training=True)
        source = self.reading(draw, 3, 3)
        steps = self.following(draw, source, 4)
        targets = self._targets(part, _Sequences(source, steps))
        assert_reached(part, part.loss(self._given(part, Batch(source, steps, targets))))

    def _targets(
        self, part: Model, sequences: _Sequences, source_mask: Tensor | None = None
    ) -> Tensor:
        """Random targets in the form of the model's answers, of probability above 0."""
        source, steps = sequences
        with torch.no_grad():
            state = self.start(part, source, source_mask if self.masked else None)
            logits, _ = part.decode(steps, state)
        return part.objective.answer(torch.randn_like(logits).where(logits > -torch.inf, logits))

    @law("under autocast a loss is of single precision, and its gradient is finite", examples=2)
    def autocast_loss(self, draw: Draw) -> None:
        part = self.build(torch.float32, training=True)
        source = single(self.reading(draw, 2, 3))
        # The first sequence is shorter: what it points at must be there.
        steps = single(self.following(draw, source[:, :2], 2))
        source_mask = torch.tensor([[True, True, False], [True] * 3]) if self.masked else None
        mask = torch.tensor([[True, False], [True, True]])
        targets = self._targets(part, _Sequences(source, steps), source_mask)
        half = draw(st.sampled_from((torch.bfloat16, torch.float16)))
        with torch.autocast("cpu", half):
            given = self._given(part, Batch(source, steps, targets, source_mask, mask))
            loss = part.loss(given)
        assert loss.dtype == torch.float32, f"under {half} the loss is of {loss.dtype}"
        assert_finite((loss, gradients(loss, list(part.parameters()))), f"loss under {half}")

    @law("padding of the answer is never scored", examples=4)
    def scored(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw, batch=2, time=4)
        targets = self._targets(part, _Sequences(source, steps))
        length = draw(st.integers(1, 3))
        mask = (torch.arange(4) < length).expand(2, -1)
        other_steps = self.following(draw, source, 4)
        other_targets = self._targets(part, _Sequences(source, other_steps))

        def mixed(inside: Tensor, outside: Tensor) -> Tensor:
            return torch.cat([inside[:, :length], outside[:, length:]], 1)

        def loss(steps: Tensor, targets: Tensor, mask: Tensor | None) -> Tensor:
            torch.manual_seed(0)
            given = self._given(part, Batch(source, steps, targets, None, mask))
            value: Tensor = part.loss(given)
            return value

        expected = loss(steps[:, :length], targets[:, :length], None)
        assert_close(loss(steps, targets, mask), expected, "loss with padding and without")
        changed = loss(mixed(steps, other_steps), mixed(targets, other_targets), mask)
        assert_close(changed, expected, "loss with other padding and without")

    @law("padding may hold any numbers, NaN too", examples=2)
    def any_padding(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw, batch=2, time=4)
        # Of both sequences one is padded at its end; steps fit the shorter source.
        read = draw(st.integers(1, source.shape[1]))
        steps = self.following(draw, source[:, :read], 4)
        lengths = torch.tensor([[read], [source.shape[1]]])
        source_mask = torch.arange(source.shape[1]) < lengths if self.masked else None
        targets = self._targets(part, _Sequences(source, steps), source_mask)
        mask = torch.arange(4) < torch.tensor([[4], [draw(st.integers(1, 3))]])
        plain = self._given(part, Batch(source, steps, targets, source_mask, mask))
        number = draw(st.sampled_from((torch.nan, torch.inf, -torch.inf, 1e300)))

        def filled(values: Tensor, mask: Tensor | None) -> Tensor:
            if mask is None or not values.is_floating_point():
                return values
            padding = ~mask.view(*mask.shape, *[1] * (values.dim() - 2))
            return values.masked_fill(padding, number)

        other = plain._replace(
            source=filled(source, source_mask),
            inputs=filled(steps, mask),
            targets=filled(targets, mask),
        )
        found = []
        for batch in (plain, other):
            torch.manual_seed(0)  # of draws that a loss may make
            loss = part.loss(batch)
            given = gradients(loss, list(part.parameters()))
            state = self.start(part, batch.source, source_mask)
            alone, _ = self.advance(part, steps, state)
            scored = [part.logits(batch).detach()[mask], part.score(batch)]
            found.append((loss, given, alone, scored))
        what = ("loss", "gradient of the loss", "outputs", "outputs and scores of a batch")
        for name, with_other, expected in zip(what, found[1], found[0], strict=True):
            assert_close(with_other, expected, f"{name} with padding of {number}")

    @law("by their weights, losses of batches make the loss of all together", examples=2)
    def weighted(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw, batch=2, time=4)
        targets = self._targets(part, _Sequences(source, steps))
        mask = torch.arange(4) < torch.tensor([[draw(st.integers(1, 3))], [4]])
        both = self._given(part, Batch(source, steps, targets, None, mask))
        rows = [slice(0, 1), slice(1, 2)]
        each = [map_state(lambda tensor, row=row: tensor[row], both) for row in rows]
        terms = [part.loss(batch) * part.weight(batch) for batch in each]
        mean = sum(terms) / sum(part.weight(batch) for batch in each)
        assert_close(mean, part.loss(both), "mean of the losses of two batches, by weight")

    @law("a state is reordered as a search wants it", examples=4)
    def reorder(self, draw: Draw) -> None:
        part = self.build()
        rows = 4
        source, steps = self.inputs(draw, batch=rows)
        rest = self.following(draw, source, 2)
        for same_source in (False, True):
            # The rows of a source's beam stand side by side.
            read = source[torch.arange(rows) // 2] if same_source else source
            least = [row // 2 * 2 if same_source else 0 for row in range(rows)]
            most = [first + 1 if same_source else rows - 1 for first in least]
            chosen = [draw(st.integers(*ends)) for ends in zip(least, most, strict=True)]
            index = torch.tensor(chosen)
            _, state = self.advance(part, steps, self.start(part, read))
            expected = self.advance(part, rest, state)[0][index]
            moved = part.reorder(state, index, same_source=same_source)
            result, _ = self.advance(part, rest[index], moved)
            assert_close(result, expected, f"outputs of rows {chosen}, same_source={same_source}")

    @law("the same seed gives the same numbers")
    def seed(self, draw: Draw) -> None:
        inputs = self.inputs(draw)
        results = []
        for _ in range(2):
            torch.manual_seed(0)
            part = self.build(training=True)
            results.append((dict(part.state_dict()), self.run(part, inputs)))
        assert_equal(results[1], results[0], "parameters, outputs and state")

    @law("the model can overfit one batch", examples=1)
    def overfit(self, draw: Draw) -> None:
        part = self.build(torch.float32, training=True)
        sequences = map_state(single, self.inputs(draw, batch=2, time=3))
        targets = self._targets(part, sequences)
        batch = self._given(part, Batch(sequences.source, sequences.steps, targets))
        # A model that cannot overfit two sequences has a fault that no other law may show.
        optimizer = torch.optim.Adam(part.parameters(), lr=0.01)
        costs = [self._cost(part, batch)]
        for step in range(1, self.overfit_steps + 1):
            optimizer.zero_grad()
            part.loss(batch).backward()
            optimizer.step()
            # Asked often, so that a model that learns quickly ends the law early.
            if step % 10 == 0 or step == self.overfit_steps:
                costs.append(self._cost(part, batch))
                if costs[-1] < costs[0] / 5:
                    return
        raise AssertionError(f"loss {costs[0]} at first, {costs[-1]} after {step} steps")

    @torch.no_grad()
    def _cost(self, part: Model, batch: Batch) -> float:
        """Mean loss of the answers."""
        # Not ``part.loss``: it may have terms, as REINFORCE has, whose value does not measure it.
        return part.objective.losses(part.logits(batch), batch.targets).mean().item()


def check_model(
    model: Callable[..., Model],
    *,
    steps: Callable[[int, int], SearchStrategy[Tensor]] | None = None,
    source: Callable[[int, int], SearchStrategy[Tensor]] | None = None,
    overfit_steps: int = 300,
    masked: bool = True,
    dtypes: Iterable[torch.dtype] = LOW_PRECISION,
    leave_out: Iterable[str] = (),
    max_examples: int | None = None,
    **arguments: Any,
) -> None:
    """Check that a model keeps every law of models.

    Decoding all steps at once, one by one and in any chunks gives the same results and gradients.
    The future is never seen. Padding, which may hold NaN, and batch neighbours never change a
    result. The same seed gives the same results. The batch comes first in the state. The gradient
    reaches every parameter. Nothing is kept on self or modified in place. The host never waits for
    a device in a training step. ``torch.compile`` makes one graph of the loss, and of a step of an
    answer. The model can overfit one batch.

    Args:
        model: class of the model, or a function that makes it.
        steps: a function from B and T to a strategy for inputs of the model, ``[B, T, ...]``; by
            default tensors ``[B, T, input_size]``, for a model with an attribute ``input_size``.
        source: the same for its sources, ``[B, S, ...]``; by default they are as the inputs.
        overfit_steps: number of steps of Adam, at the rate 0.01, within which the loss of one small
            batch must fall to a fifth; 0 leaves the law out.
        masked: whether the model supports padding of its source; ``False`` leaves the law out.
        dtypes: floating-point types besides float64 that the model must support.
        leave_out: names of laws to leave out; the error for an unknown name lists them all.
        max_examples: number of examples for each law; that of the Hypothesis profile by default.
        **arguments: arguments for ``model``.

    Raises:
        AssertionError: a law does not hold; the message describes each failure.
        TypeError: the first argument is a finished part, not a class or function that makes one.
        ValueError: ``leave_out`` names an unknown law.

    Example:
        ``check_model(MemoryMachine, input_size=3, output_size=2, controller=LSTM)``
    """
    subject = _ModelSubject(model, arguments, steps, overfit_steps, dtypes, source)
    subject.masked = masked
    subject.hold(max_examples, leave_out, _not_meant(overfit_steps, masked))


def _not_meant(overfit_steps: int, masked: bool) -> list[str]:
    """Laws that the settings of the check leave out."""
    return ["overfit"] * (not overfit_steps) + ["padding"] * (not masked)


class _PointerSubject(_ModelSubject):
    """Laws of models that answer with steps of the source: the tokens from ``END + 1`` on."""

    check = "check_pointer"

    def __init__(
        self,
        factory: Callable[..., Model],
        arguments: dict[str, Any],
        steps: Callable[[int, int], SearchStrategy[Tensor]] | None,
        overfit_steps: int,
        revisit: bool,
        dtypes: Iterable[torch.dtype],
    ) -> None:
        super().__init__(factory, arguments, steps, overfit_steps, dtypes)
        self.revisit = revisit

    def following(self, draw: Draw, source: Tensor, time: int) -> Tensor:
        size = END + 1 + source.shape[1]
        tokens: Tensor = draw(strategies.tokens(size, least=END)(len(source), time))
        return torch.cat([torch.full_like(tokens[:, :1], BEGIN), tokens[:, 1:]], 1)

    def same_answers(self, padded: Tensor, alone: Tensor, length: int, whole: int) -> None:
        outside = padded[..., alone.shape[-1] :]
        assert (outside == -torch.inf).all(), f"logits of padding: {outside}"
        super().same_answers(padded[..., : alone.shape[-1]], alone, length, whole)

    @law("what may not be pointed at has no probability, and what may has some")
    def may_be_pointed_at(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw)
        logits = self.run(part, _Sequences(source, steps))
        assert (logits[..., :END] == -torch.inf).all(), "a mark other than END can be answered"
        for row, tokens in enumerate(steps.tolist()):
            for step in range(len(tokens)):
                visited = [] if self.revisit else tokens[: step + 1]
                probabilities = logits[row, step].softmax(-1)
                for token in range(END + 1, logits.shape[-1]):
                    name = f"step {token - END - 1} of the source after {tokens[: step + 1]}"
                    probability = probabilities[token].item()
                    assert (probability == 0) == (token in visited), f"{name}: {probability}"


class _SetPointerSubject(_PointerSubject):
    @law("a permutation of the source permutes the answer")
    def permutation(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw)
        order = torch.tensor(draw(st.permutations(range(source.shape[1]))))
        marks = torch.arange(END + 1)
        # For each token of the permuted source, its token before.
        before = torch.cat([marks, order + END + 1])
        now = before.argsort()
        logits = self.run(part, _Sequences(source, steps))
        permuted = self.run(part, _Sequences(source[:, order], now[steps]))
        assert_close(permuted, logits[..., before], f"logits after permutation {order.tolist()}")


def check_pointer(
    model: Callable[..., Model],
    *,
    symmetry: Literal["permutation"] | None = None,
    revisit: bool = False,
    steps: Callable[[int, int], SearchStrategy[Tensor]] | None = None,
    overfit_steps: int = 300,
    masked: bool = True,
    dtypes: Iterable[torch.dtype] = LOW_PRECISION,
    leave_out: Iterable[str] = (),
    max_examples: int | None = None,
    **arguments: Any,
) -> None:
    """Check that a model which points at its source keeps the laws of models and of pointers.

    These are the laws of :func:`check_model` and two more. Padding and, without ``revisit``,
    earlier steps of the answer have probability 0; all other steps have a higher one. With
    ``symmetry``, a permutation of the source permutes the answer.

    Args:
        model: class of the model, or a function that makes it.
        symmetry: ``permutation`` for a model that ignores the order of its source.
        revisit: whether an answer may point at a step again; it is an argument of ``model`` too.
        steps: a function from B and S to a strategy for sources, see :func:`check_model`.
        overfit_steps: see :func:`check_model`.
        masked: whether the model supports padding of its source; ``False`` leaves the law out.
        dtypes: floating-point types besides float64 that the model must support.
        leave_out: names of laws to leave out; the error for an unknown name lists them all.
        max_examples: number of examples for each law; that of the Hypothesis profile by default.
        **arguments: arguments for ``model``.

    Raises:
        AssertionError: a law does not hold; the message describes each failure.
        TypeError: the first argument is a finished part, not a class or function that makes one.
        ValueError: ``leave_out`` names an unknown law.

    Example:
        ``check_pointer(PointerNetwork, input_size=2, encoder=..., decoder=LSTM, attention=...)``
    """
    kind = _PointerSubject if symmetry is None else _SetPointerSubject
    subject = kind(model, {**arguments, "revisit": revisit}, steps, overfit_steps, revisit, dtypes)
    subject.masked = masked
    subject.hold(max_examples, leave_out, _not_meant(overfit_steps, masked))
