"""Laws of all parts that take steps over explicit state: cells, memory accesses and models."""

from __future__ import annotations

import copy
import functools
import itertools
from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from memnets.core import map_state
from memnets.testing import strategies
from memnets.testing.compiled import compiles, in_one_graph
from memnets.testing.laws import (
    Draw,
    Subject,
    assert_close,
    assert_equal,
    assert_reached,
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

__all__ = ["steps_taken"]


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
