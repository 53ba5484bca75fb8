"""What a part of one's own returns: a mistake is one line that names the part, not what follows."""

from contextlib import nullcontext
from functools import partial
from inspect import isabstract
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from memnets import addressing, events, scores
from memnets.addressing import (
    Allocating,
    AllocatingQuery,
    Content,
    Hard,
    LeastRecent,
    LeastRecentQuery,
    LeastUsed,
    Linked,
    LinkedQuery,
    Local,
    NTMAddressing,
    NTMQuery,
    Sharp,
    SharpQuery,
)
from memnets.cells import LSTM, Direct, Mixer
from memnets.core import Addressing, Controller, Memory, MemoryAccess, Normalizer, Score
from memnets.memories import NTM
from memnets.models import MemoryMachine


class Leaky(Controller[Tensor]):
    def __init__(self, input_size, hidden_size=4):
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.layer = torch.nn.Linear(input_size, hidden_size)

    def initial_state(self, batch_size):
        return self.layer.weight.new_zeros(batch_size, self.hidden_size)

    def forward(self, inputs, state):
        state = (state + self.layer(inputs).tanh()) / 2
        return self.given(state), self.kept(state)

    def given(self, state):
        return state

    def kept(self, state):
        return state


def controller(**methods):
    """A class of controllers with other methods."""
    return type("Mine", (Leaky,), methods)


def answered(part, access=None):
    """A machine with a part of one's own answers."""
    access = NTM(slots=5, width=3) if access is None else access
    return MemoryMachine(2, 2, part, access)(torch.zeros(3, 4, 2))


def test_a_part_that_returns_what_it_should():
    outputs, _ = answered(Leaky)
    assert outputs.shape == (3, 4, 2)


@pytest.mark.parametrize(
    ("forward", "got"),
    [
        (lambda self, inputs, state: state, r"a tensor \[3, 4\] of torch.float32$"),
        (lambda self, inputs, state: (state, state, 1), "a tuple of 3$"),
        (lambda self, inputs, state: [state, state], "a list of 2$"),
        (lambda self, inputs, state: None, "None$"),
        (lambda self, inputs, state: ((state, state), state), "a tuple of 2 as outputs$"),
        (lambda self, inputs, state: (state[:, 1:], state), r"a tensor \[3, 3\] .* as outputs$"),
        (lambda self, inputs, state: (state[1:], state), r"a tensor \[2, 4\] .* as outputs$"),
        (lambda self, inputs, state: (state[:, None], state), r"a tensor \[3, 1, 4\] .* outputs$"),
        (
            lambda self, inputs, state: (state.double(), state),
            r"a tensor .*float64 as outputs$",
        ),
        (lambda self, inputs, state: (state > 0, state), r"a tensor .* of torch.bool as outputs$"),
        (
            lambda self, inputs, state: (state + 1j, state),
            r"a tensor .*complex64 as outputs$",
        ),
    ],
)
@pytest.mark.parametrize("autocast", [False, True])
def test_a_step_that_returns_something_else(forward, got, autocast):
    message = (
        r"^Mine.forward must return outputs \[batch, hidden_size\] = \[3, 4\] of the type of its "
        r"inputs, torch.float32, and the next state; got "
    )
    with (
        pytest.raises(TypeError, match=message + got),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        answered(controller(forward=forward))


@pytest.mark.parametrize(
    ("unroll", "got"),
    [
        # Of two sequences, it would pass for outputs and a state.
        (lambda outputs, state: outputs, r"a tensor \[2, 5, 4\] of torch.float32$"),
        (lambda outputs, state: (outputs, state, 1), "a tuple of 3$"),
        (lambda outputs, state: None, "None$"),
    ],
)
@pytest.mark.parametrize("autocast", [False, True])
def test_all_steps_that_return_something_else(unroll, got, autocast):
    class Mine(Leaky):
        def unroll(self, inputs, state, mask=None):
            return unroll(*super().unroll(inputs, state, mask))

    cell = Mine(3)
    message = (
        r"^Mine.unroll must return outputs \[batch, time, hidden_size\] = \[2, 5, 4\] of the type "
        "of its inputs, torch.float32, and the next state; got "
    )
    with (
        pytest.raises(TypeError, match=message + got),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        cell.unroll(torch.zeros(2, 5, 3), cell.initial_state(2))


def test_a_step_takes_a_call_of_ones_own():
    class Mine(Leaky):
        def __call__(self, inputs, state=None):
            outputs, state = super().__call__(inputs, state)
            return outputs + 1, state

    cell, other = Mine(3), Leaky(3)
    other.load_state_dict(cell.state_dict())
    inputs, state = torch.rand(2, 5, 3), cell.initial_state(2)
    for take, given in (("step", inputs[:, 0]), ("unroll", inputs)):
        outputs, expected = (getattr(each, take)(given, state)[0] for each in (cell, other))
        assert torch.equal(outputs, expected + 1)


def test_a_memory_that_returns_its_state_alone():
    """A named tuple of two could be taken for a vector and a state."""

    class State(NamedTuple):
        memory: Tensor
        usage: Tensor

    class Mine(MemoryAccess[State]):
        interface_size, read_size = 3, 3

        def initial_state(self, batch_size):
            return State(torch.zeros(batch_size, 5, 3), torch.zeros(batch_size, 5))

        def forward(self, interface, state):
            return State(state.memory + interface.unsqueeze(1), state.usage)

    with pytest.raises(TypeError, match=r"read_size\] = \[3, 3\].*got a tensor \[3, 5, 3\]"):
        answered(Direct, Mine())


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (
            {"initial_state": lambda self, batch_size: torch.zeros(1, 4)},
            r"initial_state\(3\) must return a state of 3 sequences, \[3, ...\]; got a part \[1, 4",
        ),
        (
            {"kept": lambda self, state: state[0]},
            r"forward must return a state of 3 sequences, \[3, ...\]; got a part \[4\]; what all",
        ),
        (
            {"kept": lambda self, state: None},
            "forward must return a state Tensor, as the brackets of its base say; got None",
        ),
    ],
)
def test_a_state_of_another_batch_or_kind(methods, message):
    if "initial_state" in methods:  # with a state of its own, a class says anew what it is

        class Mine(Leaky, Controller[Tensor]):
            initial_state = methods["initial_state"]
    else:
        Mine = controller(**methods)
    with pytest.raises(TypeError, match=f"^Mine.{message}"):
        answered(Mine)


def test_a_first_state_of_another_kind():
    class Mine(Leaky, Controller[Tensor]):
        def initial_state(self, batch_size):
            return (super().initial_state(batch_size),)

    with pytest.raises(TypeError, match=r"^Mine.initial_state\(3\) must .*; got a tuple of 1$"):
        answered(Mine)


def test_a_base_may_start_with_a_state_of_another_kind():
    class Pair(NamedTuple):
        first: Tensor
        second: Tensor

    class Mine(Leaky, Controller[Pair]):
        def initial_state(self, batch_size):
            return Pair(*2 * [super().initial_state(batch_size)])

        def forward(self, inputs, state):
            hidden, first = super().forward(inputs, state.first)
            return hidden, Pair(first, state.second)

    assert answered(Mine)[0].shape == (3, 4, 2)


class Dot(Score):
    def forward(self, query, keys):
        return self.scored(query @ keys.mT)

    def scored(self, scores):
        return scores


@pytest.mark.parametrize(
    ("scored", "got"),
    [
        (lambda self, scores: scores.mT, r"a tensor \[3, 5, 2\] of torch.float32$"),
        (lambda self, scores: scores[..., 1:], r"a tensor \[3, 2, 4\] of torch.float32$"),
        (lambda self, scores: scores.unsqueeze(-1), r"a tensor \[3, 2, 5, 1\] of torch.float32$"),
        (lambda self, scores: (scores, None), "a tuple of 2$"),
        (lambda self, scores: None, "None$"),
        (lambda self, scores: scores > 0, r"a tensor \[3, 2, 5\] of torch.bool$"),
        (lambda self, scores: scores.long(), r"a tensor \[3, 2, 5\] of torch.int64$"),
        (lambda self, scores: scores.double(), r"a tensor \[3, 2, 5\] of torch.float64$"),
    ],
)
def test_a_score_that_returns_something_else(scored, got):
    score = type("Mine", (Dot,), {"scored": scored})()
    message = (
        r"^Mine.forward must return scores \[\*B, Q, N\] = \[\*B, 2, 5\] of the type of the query, "
        "torch.float32; got "
    )
    with pytest.raises(TypeError, match=message + got):
        answered(partial(LSTM, hidden_size=4), NTM(slots=5, width=3, score=score))


@pytest.mark.parametrize(
    ("step", "got"),
    [
        (lambda outputs, state: outputs, r"a tensor \[2, 4\] of torch.float32$"),
        (lambda outputs, state: None, "None$"),
        (lambda outputs, state: (outputs[1:], state), r"a tensor \[1, 4\] .* as outputs$"),
        (lambda outputs, state: (outputs.long(), state), "a tensor .*int64 as outputs$"),
    ],
)
def test_a_step_of_ones_own_that_returns_something_else(step, got):
    class Mine(Leaky):
        def step(self, inputs, state):
            return step(*super().step(inputs, state))

    cell = Mine(3)
    message = (
        r"^Mine.step must return outputs \[batch, hidden_size\] = \[2, 4\] of the type of its "
    )
    for take, given in ((cell.step, torch.zeros(2, 3)), (cell.unroll, torch.zeros(2, 5, 3))):
        with pytest.raises(TypeError, match=message + "inputs, torch.float32.*; got " + got):
            take(given, cell.initial_state(2))


def test_a_step_of_ones_own_that_is_given_something_else():
    class Mine(Leaky):
        def step(self, inputs, state):
            return inputs @ self.layer.weight.mT + state, state

    cell = Mine(3)
    state = cell.initial_state(2)
    assert cell.step(torch.zeros(2, 3), state)[0].shape == (2, 4)
    with pytest.raises(ValueError, match=r"one step of Mine takes inputs \[batch, 3\]; got \[2, 5"):
        cell.step(torch.zeros(2, 5), state)
    with pytest.raises(ValueError, match="a step of Mine takes the state that the last step"):
        cell.step(torch.zeros(2, 3), None)
    with pytest.raises(ValueError, match="Mine takes inputs and a state of one batch"):
        cell.step(torch.zeros(3, 3), state)


def test_a_step_of_ones_own_may_start_itself_and_be_told_more():
    class Mine(Leaky):
        def step(self, inputs, state=None, scale=1.0):
            state = self.initial_state(len(inputs)) if state is None else state
            return super().step(scale * inputs, state)

    cell, inputs = Mine(3), torch.randn(2, 3)
    expected, _ = cell(inputs, cell.initial_state(2))
    assert torch.equal(cell.step(inputs)[0], expected)
    assert torch.equal(cell.step(inputs, None)[0], expected)
    doubled, _ = cell(2 * inputs, cell.initial_state(2))
    assert torch.equal(cell.step(inputs, scale=2.0)[0], doubled)
    assert torch.equal(cell.step(inputs=inputs, state=cell.initial_state(2))[0], expected)
    with pytest.raises(ValueError, match=r"one step of Mine takes inputs \[batch, 3\]; got \[2, 5"):
        cell.step(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="Mine takes inputs and a state of one batch"):
        cell.step(inputs, state=cell.initial_state(3))


NO_WEIGHTS = [
    (lambda weights: weights.mT, r"a tensor \[2, 5, 3\] of torch.float32"),
    (lambda weights: weights[..., 1:], r"a tensor \[2, 3, 4\] of torch.float32"),
    (lambda weights: weights[:, :1], r"a tensor \[2, 1, 5\] of torch.float32"),
    (lambda weights: weights[0], r"a tensor \[3, 5\] of torch.float32"),
    (lambda weights: None, "None"),
    (lambda weights: weights > 0, r"a tensor \[2, 3, 5\] of torch.bool"),
    (lambda weights: weights.double(), r"a tensor \[2, 3, 5\] of torch.float64"),
    (lambda weights: weights.argmax(-1), r"a tensor \[2, 3\] of torch.int64"),
]


def asked(part, state=None, **named):
    """Weights of three queries over five slots, by a call and by a read."""
    keys = torch.zeros(2, 5, 4)
    memory = Memory(keys, keys, named.get("mask"))
    query = named.get("query", torch.zeros(2, 3, 4))
    return part(query, memory, state), part.read(query, memory, state)


@pytest.mark.parametrize(("made", "got"), NO_WEIGHTS)
@pytest.mark.parametrize("masked", [False, True])
def test_a_normalizer_that_returns_something_else(made, got, masked):
    class Mine(Normalizer):
        def normalize(self, scores):
            return made(scores.softmax(-1))

    mask = torch.ones(2, 1, 5, dtype=torch.bool) if masked else None
    message = (
        r"^Mine.normalize must return weights of the shape of its scores, \[2, 3, 5\], and of "
        f"their type, torch.float32; got {got}$"
    )
    with pytest.raises(TypeError, match=message):
        asked(Content(scores.Dot(), Mine()), mask=mask)


@pytest.mark.parametrize(("made", "got"), NO_WEIGHTS)
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("seen", [False, True])
def test_an_addressing_that_returns_other_weights(made, got, hard, seen):
    class Mine(Content):
        def forward(self, query, memory, state=None):
            weights, _ = super().forward(query, memory)
            return made(weights), None

    part = Mine(scores.Dot())
    part.hard = hard
    message = (
        r"^Mine.forward must return weights \[\*B, Q, N\] = \[\*B, 3, 5\] of the type of the keys, "
        f"torch.float32, and the next state; got {got} as weights$"
    )
    with (
        pytest.raises(TypeError, match=message),
        events.listen(lambda event: None) if seen else nullcontext(),
    ):
        asked(part)


def test_an_addressing_that_returns_its_weights_alone():
    class Mine(Content):
        def forward(self, query, memory, state=None):
            return super().forward(query, memory)[0]

    # Of two sequences, it would pass for weights and a state.
    with pytest.raises(TypeError, match=r"^Mine.forward must return .*got a tensor \[2, 3, 5\] of"):
        asked(Mine(scores.Dot()))


def test_an_addressing_by_fields_that_returns_other_weights():
    class Mine(Sharp):
        def forward(self, query, memory, state=None):
            return super().forward(query, memory)[0].mT, None

    query = SharpQuery(torch.zeros(2, 3, 4), torch.ones(2, 3, 1))
    with pytest.raises(
        TypeError, match=r"^Mine.forward .* = \[\*B, Q, 5\] of .*got a tensor \[2, 5, 3"
    ):
        asked(Mine(), query=query)


class Remembers(Content):
    """Without brackets: its first state tells that it has a past."""

    def __init__(self):
        super().__init__(scores.Dot())

    def initial_state(self, memory):
        return memory.keys.new_zeros(memory.keys.shape[:-1])

    def forward(self, query, memory, state):
        weights, _ = super().forward(query, memory)
        return weights, state + weights.sum(-2)


GATE = torch.ones(2, 3, 1)
KEY = torch.zeros(2, 3, 4)
WITH_A_PAST = {
    "Local": (partial(Local, scores.Dot()), KEY),
    "Hard": (partial(Hard, scores.Dot()), KEY),
    "NTMAddressing": (NTMAddressing, NTMQuery(KEY, GATE, GATE, GATE, GATE)),
    "Allocating": (Allocating, AllocatingQuery(KEY, GATE, GATE, GATE)),
    "Linked": (Linked, LinkedQuery(KEY, GATE, torch.ones(2, 3, 3) / 3)),
    "LeastUsed": (LeastUsed, GATE),
    "LeastRecent": (LeastRecent, LeastRecentQuery(GATE, GATE)),
    "Remembers": (Remembers, KEY),
}


def test_every_addressing_with_a_past_is_known():
    known = (getattr(addressing, name) for name in addressing.__all__)
    known = [kind for kind in known if issubclass(kind, Addressing) and not isabstract(kind)]
    past = {kind.__name__ for kind in known if kind._state_class is not type(None)}
    assert all(kind._state_class for kind in known)
    assert past == WITH_A_PAST.keys() - {"Remembers"}


@pytest.mark.parametrize("name", WITH_A_PAST)
@pytest.mark.parametrize("read", [False, True])
def test_an_addressing_with_a_past_and_without_a_state(name, read):
    made, query = WITH_A_PAST[name]
    part = made()
    memory = Memory(torch.zeros(2, 5, 4), torch.zeros(2, 5, 4))
    message = rf"^{name} takes the state that its last call .* initial_state\(memory\); got None$"
    with pytest.raises(ValueError, match=message):
        (part.read if read else part)(query, memory)


def test_an_addressing_that_starts_itself_needs_no_state():
    class Mine(Remembers):
        def forward(self, query, memory, state=None):
            return super().forward(query, memory, self.initial_state(memory))

    assert asked(Mine())[0][1].shape == (2, 5)
    assert asked(Content(scores.Dot()))[0][1] is None


@pytest.mark.parametrize("left_out", ["input_size", "hidden_size"])
def test_a_controller_without_its_sizes(left_out):
    class Mine(Leaky):
        def __init__(self, input_size):
            super().__init__(input_size)
            delattr(self, left_out)

    message = f"^Mine must set input_size and hidden_size in its __init__.* got {left_out} = None$"
    with pytest.raises(TypeError, match=message):
        answered(Mine)


@pytest.mark.parametrize("size", ["3", 0, True, 3.0])
def test_a_memory_without_its_sizes(size):
    class Mine(MemoryAccess[Tensor]):
        interface_size, read_size = 3, size

        def initial_state(self, batch_size):
            return torch.zeros(batch_size, 3)

        def forward(self, interface, state):
            return state, interface

    message = f"^Mine must set interface_size and read_size .* got read_size = {size!r}$"
    with pytest.raises(TypeError, match=message):
        answered(Leaky, Mine())
    with pytest.raises(TypeError, match=message):
        Mixer(2, Mine())
