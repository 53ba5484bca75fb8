"""Checks of what takes steps over explicit state: controllers, memory accesses, models."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from memnets import fast
from memnets.batches import BEGIN, END, Batch
from memnets.core import Controller, MemoryAccess, map_state
from memnets.testing import strategies
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
    copied,
    differentiable,
    differentiated,
    gradients,
    law,
    single,
    tensors_of,
)

if TYPE_CHECKING:
    from memnets.models import Model

__all__ = ["check_access", "check_controller", "check_model", "check_pointer"]


class _Sequences(NamedTuple):
    """What comes before the first step, ``[B, S, ...]``, and the steps, ``[B, T, ...]``."""

    source: Tensor
    steps: Tensor


class _Recurrent(Subject):
    """A kind of part that takes steps over explicit state."""

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
        """What comes before the first step, ``[B, S, ...]``."""
        return self.sequence(draw, batch, time)

    def following(self, draw: Draw, source: Tensor, time: int) -> Tensor:
        """Inputs of ``time`` steps after a source, ``[B, T, ...]``."""
        return self.sequence(draw, len(source), time)

    def run(self, part: Any, inputs: _Sequences) -> Tensor:
        """Outputs alone: what holds for states has laws of its own."""
        return self.advance(part, inputs.steps, self.start(part, inputs.source))[0]

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
        assert_reached(part, self.run(part, self.inputs(draw, batch=3, time=4)))


class _Chunked(_Recurrent):
    """A kind of part that takes many steps at once."""

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
    """A kind of part whose first state comes of nothing."""

    def start(self, part: Any, source: Tensor) -> Any:
        return part.initial_state(len(source))

    @law("a first state has the precision and the device of its part")
    def placement(self, draw: Draw) -> None:
        batch, dtype = draw(strategies.sizes(1, 3)), draw(st.sampled_from(LOW_PRECISION))
        for device in ("cpu", "meta"):
            # A copy, since a part of the part may be that of the caller, and nothing comes back.
            part = copy.deepcopy(self.build(dtype)).to(device)
            for tensor in tensors_of(part.initial_state(batch)):
                assert tensor.device.type == device, f"{tensor.device}, expected {device}"
                expected = dtype if tensor.is_floating_point() else tensor.dtype
                assert tensor.dtype == expected, f"{tensor.dtype}, expected {expected}"


class _ControllerSubject(_Started, _Chunked):
    input_size = 3

    def build(self, dtype: torch.dtype = torch.float64, training: bool = False) -> Any:
        part = self.factory(self.input_size, **copy.deepcopy(self.arguments))
        return part.to(dtype).train(training)

    def sequence(self, draw: Draw, batch: int, time: int) -> Tensor:
        tensor: Tensor = draw(strategies.tensors((batch, time, self.input_size), special=False))
        return tensor

    def advance(self, part: Controller, steps: Tensor, state: Any) -> tuple[Tensor, Any]:
        return part.unroll(steps, state)

    def step(self, part: Controller, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        result: tuple[Tensor, Any] = part(inputs, state)
        return result

    @law("a step gives [B, hidden_size]")
    def shape(self, draw: Draw) -> None:
        part = self.build(training=draw(st.booleans()))
        assert isinstance(part, Controller), f"got a {type(part).__name__}, which is no Controller"
        assert part.input_size == self.input_size, f"input_size is {part.input_size}"
        source, steps = self.inputs(draw)
        hidden, _ = part(steps[:, 0], self.start(part, source))
        assert_shape(hidden, (len(steps), part.hidden_size), steps)
        hiddens = self.run(part, _Sequences(source, steps))
        assert_shape(hiddens, (*steps.shape[:2], part.hidden_size), steps)


def check_controller(
    controller: Callable[..., Controller], *, max_examples: int | None = None, **arguments: Any
) -> None:
    """Check that a controller keeps every law of controllers.

    Shapes; all steps at once, one by one and in any chunks give the same numbers, gradients too;
    batch neighbours never change a result; the batch comes first in the state, and a first one has
    the precision and the device of the controller; the gradient reaches every parameter; nothing is
    kept on self or modified in place.

    Args:
        controller: a class, or a function that makes the controller, from the width of its input.
        max_examples: how many examples each law is tested on; the Hypothesis profile says if not
            given.
        **arguments: for ``controller``, besides the width of the input.

    Raises:
        AssertionError: a law broke; the message names every law that did.

    Example:
        ``check_controller(LSTM, hidden_size=8)``
    """
    _ControllerSubject(controller, arguments).hold(max_examples)


class _AccessSubject(_Started):
    """The width of the interface is known when the part is built: a part is built to ask for it."""

    def __init__(self, factory: Callable[..., MemoryAccess], arguments: dict[str, Any]) -> None:
        super().__init__(factory, arguments)
        with torch.random.fork_rng(devices=[]):
            self.interface_size = self.build().interface_size

    def sequence(
        self,
        draw: Draw,
        batch: int,
        time: int,
        dtype: torch.dtype = torch.float64,
        special: bool = False,
    ) -> Tensor:
        # No gradient beyond the reach of the type: a strength multiplies a sharpness, a key and a
        # value, and each of them may be extreme.
        end = strategies.magnitude(dtype, 4)
        low, high = (-end, end) if special else (None, None)
        shape = (batch, time, self.interface_size)
        interfaces: Tensor = draw(strategies.tensors(shape, dtype, low, high, special))
        return interfaces

    def advance(self, part: MemoryAccess, steps: Tensor, state: Any) -> tuple[Tensor, Any]:
        outputs = []
        for interface in steps.unbind(1):
            vectors, state = part(interface, state)
            outputs.append(vectors)
        return torch.stack(outputs, 1), state

    @law("a step gives [B, read_size]")
    def shape(self, draw: Draw) -> None:
        part = self.build(training=draw(st.booleans()))
        assert isinstance(part, MemoryAccess), (
            f"got a {type(part).__name__}, which is no MemoryAccess"
        )
        source, steps = self.inputs(draw)
        vectors, _ = part(steps[:, 0], self.start(part, source))
        assert_shape(vectors, (len(steps), part.read_size), steps)

    @law("extreme inputs give finite numbers")
    def extremes(self, draw: Draw) -> None:
        dtype = draw(st.sampled_from(LOW_PRECISION))
        part = self.build(dtype, training=draw(st.booleans()))
        batch = draw(strategies.sizes(2, 2))
        steps = self.sequence(draw, batch, draw(strategies.sizes(2, 3)), dtype, special=True)
        state = part.initial_state(batch)
        for interface in steps.unbind(1):
            # A step at a time: over many steps even the true gradient may be too great.
            interface, state = map_state(differentiable, (interface, state))
            vectors, next_state = part(interface, state)
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

    @law("the fast path and the plain one agree")
    def fast_path(self, draw: Draw) -> None:
        part = self.build()
        source, steps = map_state(differentiable, self.inputs(draw))
        state = map_state(differentiable, self.start(part, source))
        sources = [*differentiated((steps, state)), *part.parameters()]
        quick = self.advance(part, steps, state)
        with fast.naive():
            plain = self.advance(part, steps, state)
        assert_close(quick, plain, "outputs and state")
        assert_close(gradients(quick, sources), gradients(plain, sources), "gradient")

    @law("no parameter depends on the number of slots")
    def slots(self, draw: Draw) -> None:
        part = self.build()
        if not isinstance(getattr(part, "slots", None), int):
            return
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


def check_access(
    access: Callable[..., MemoryAccess], *, max_examples: int | None = None, **arguments: Any
) -> None:
    """Check that a memory access keeps every law of accesses.

    Shapes; batch neighbours never change a result; the batch comes first in the state, and a first
    one has the precision and the device of the access; finite numbers and gradients for extreme
    interfaces in float32, bfloat16 and float16; the gradient reaches every parameter and every part
    of the interface; the fast path and the plain one agree, gradients too; no parameter depends on
    the number of slots (for an access with an attribute ``slots``); nothing is kept on self or
    modified in place.

    Args:
        access: a class, or a function that makes the access.
        max_examples: how many examples each law is tested on; the Hypothesis profile says if not
            given.
        **arguments: for ``access``.

    Raises:
        AssertionError: a law broke; the message names every law that did.

    Example:
        ``check_access(NTM, slots=8, width=4)``
    """
    _AccessSubject(access, arguments).hold(max_examples)


class _ModelSubject(_Chunked):
    def __init__(
        self,
        factory: Callable[..., Model],
        arguments: dict[str, Any],
        steps: Callable[[int, int], SearchStrategy[Tensor]] | None,
        overfit_steps: int,
    ) -> None:
        super().__init__(factory, arguments)
        self.overfit_steps = overfit_steps
        if steps is None:
            with torch.random.fork_rng(devices=[]):
                size = self.build().input_size

            def steps(batch: int, time: int) -> SearchStrategy[Tensor]:
                return strategies.tensors((batch, time, size), special=False)

        self.steps = steps

    def sequence(self, draw: Draw, batch: int, time: int) -> Tensor:
        tensor: Tensor = draw(self.steps(batch, time))
        return tensor

    def start(self, part: Model, source: Tensor) -> Any:
        return part.encode(source)

    def advance(self, part: Model, steps: Tensor, state: Any) -> tuple[Tensor, Any]:
        return part.decode(steps, state)

    @law("the future is never seen")
    def causal(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw, time=draw(st.integers(2, 4)))
        time = draw(st.integers(1, steps.shape[1] - 1))
        changed = self.following(draw, source, steps.shape[1])
        changed = torch.cat([steps[:, :time], changed[:, time:]], 1)
        state = self.start(part, source)
        before, after = (self.advance(part, inputs, state)[0] for inputs in (steps, changed))
        assert_equal(after[:, :time], before[:, :time], f"outputs before the change at {time}")

    @law("padding never changes a result")
    def padding(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw)
        lengths = [draw(st.integers(1, source.shape[1])) for _ in range(len(source))]
        steps = self.following(draw, source[:, : min(lengths)], steps.shape[1])
        mask = torch.arange(source.shape[1]) < torch.tensor(lengths).unsqueeze(1)
        padded, _ = self.advance(part, steps, part.encode(source, mask))
        for row, length in enumerate(lengths):
            one = slice(row, row + 1)
            alone, _ = self.advance(part, steps[one], part.encode(source[one, :length]))
            self.same_answers(padded[one], alone, length, source.shape[1])

    def same_answers(self, padded: Tensor, alone: Tensor, length: int, whole: int) -> None:
        """Assert that logits with padding are those without, ``[1, T, O]``."""
        assert_close(padded, alone, f"outputs with {length} steps of {whole}")

    @law("the gradient of the loss reaches every parameter")
    def parameters(self, draw: Draw) -> None:
        part = self.build(training=True)
        source = self.reading(draw, 3, 3)
        steps = self.following(draw, source, 4)
        targets = self._targets(part, _Sequences(source, steps))
        assert_reached(part, part.loss(Batch(source, steps, targets)))

    def _targets(self, part: Model, sequences: _Sequences) -> Tensor:
        """Random targets, of the form of the model's answers; nothing that it can't answer."""
        with torch.no_grad():
            logits = self.run(part, sequences)
        return part.objective.answer(torch.randn_like(logits).where(logits > -torch.inf, logits))

    @law("the same seed gives the same numbers")
    def seed(self, draw: Draw) -> None:
        inputs = self.inputs(draw)
        results = []
        for _ in range(2):
            torch.manual_seed(0)
            part = self.build(training=True)
            results.append((dict(part.state_dict()), self.run(part, inputs)))
        assert_equal(results[1], results[0], "parameters, outputs and state")

    @law("one batch can be learnt by heart", examples=1)
    def overfit(self, draw: Draw) -> None:
        part = self.build(torch.float32, training=True)
        sequences = map_state(single, self.inputs(draw, batch=2, time=3))
        targets = self._targets(part, sequences)
        batch = Batch(sequences.source, sequences.steps, targets)
        optimizer = torch.optim.Adam(part.parameters(), lr=0.01)
        costs = [self._cost(part, batch)]
        for step in range(1, self.overfit_steps + 1):
            optimizer.zero_grad()
            part.loss(batch).backward()
            optimizer.step()
            if step % 10 == 0 or step == self.overfit_steps:
                costs.append(self._cost(part, batch))
                if costs[-1] < costs[0] / 5:
                    return
        raise AssertionError(f"loss {costs[0]} at first, {costs[-1]} after {step} steps")

    @torch.no_grad()
    def _cost(self, part: Model, batch: Batch) -> float:
        """Of the answers alone: what is trained may have terms whose value says nothing."""
        return part.objective.losses(part.logits(batch), batch.targets).mean().item()


def check_model(
    model: Callable[..., Model],
    *,
    steps: Callable[[int, int], SearchStrategy[Tensor]] | None = None,
    overfit_steps: int = 300,
    max_examples: int | None = None,
    **arguments: Any,
) -> None:
    """Check that a model keeps every law of models.

    Decoding all steps at once, one by one and in any chunks gives the same numbers, gradients too;
    the future is never seen; padding of the source and batch neighbours never change a result; the
    same seed gives the same numbers; the batch comes first in the state; the gradient reaches every
    parameter; nothing is kept on self or modified in place; one batch can be learnt by heart.

    Args:
        model: a class, or a function that makes the model.
        steps: from B and T to a strategy for what the model reads, ``[B, T, ...]``; tensors
            ``[B, T, input_size]`` if not given, for a model with an attribute ``input_size``.
        overfit_steps: steps of Adam, at the rate 0.01, in which the cost of the answers to one
            small batch must fall to a fifth; 0 leaves the law out.
        max_examples: how many examples each law is tested on; the Hypothesis profile says if not
            given.
        **arguments: for ``model``.

    Raises:
        AssertionError: a law broke; the message names every law that did.

    Example:
        ``check_model(MemoryMachine, input_size=3, output_size=2, controller=LSTM)``
    """
    leave_out = () if overfit_steps else ("overfit",)
    _ModelSubject(model, arguments, steps, overfit_steps).hold(max_examples, leave_out)


class _PointerSubject(_ModelSubject):
    """A model that answers with steps of its source: the tokens from ``END + 1`` on."""

    def __init__(
        self,
        factory: Callable[..., Model],
        arguments: dict[str, Any],
        steps: Callable[[int, int], SearchStrategy[Tensor]] | None,
        overfit_steps: int,
        revisit: bool,
    ) -> None:
        super().__init__(factory, arguments, steps, overfit_steps)
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
        # Where each token of the permuted source was before.
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
    max_examples: int | None = None,
    **arguments: Any,
) -> None:
    """Check that a model which points at its source keeps the laws of models and of pointers.

    Those of :func:`check_model`; padding and, without ``revisit``, what was pointed at before have
    no probability, everything else has some; with ``symmetry``, a permutation of the source
    permutes the answer.

    Args:
        model: a class, or a function that makes the model.
        symmetry: ``permutation`` for a model that does not care for the order of its source.
        revisit: whether a step may be pointed at again; goes to ``model`` too.
        steps: from B and S to a strategy for what the model reads, as in :func:`check_model`.
        overfit_steps: see :func:`check_model`.
        max_examples: how many examples each law is tested on; the Hypothesis profile says if not
            given.
        **arguments: for ``model``.

    Raises:
        AssertionError: a law broke; the message names every law that did.

    Example:
        ``check_pointer(PointerNetwork, input_size=2, encoder=..., decoder=LSTM, attention=...)``
    """
    kind = _PointerSubject if symmetry is None else _SetPointerSubject
    subject = kind(model, {**arguments, "revisit": revisit}, steps, overfit_steps, revisit)
    subject.hold(max_examples, () if overfit_steps else ("overfit",))
