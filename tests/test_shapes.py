"""Inputs of wrong shapes: each cell says what it expected and what came."""

from __future__ import annotations

import types
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from memnets import checks, core
from memnets.cells import (
    GRU,
    LSTM,
    LSTMN,
    Chain,
    Direct,
    FeedForward,
    Loop,
    Mixer,
    Residual,
    SelfAttention,
    ShortConvolution,
)
from memnets.core import Controller, map_state
from memnets.encoders import Convolutional, IntraAttention, Process, Recurrent
from memnets.encoders import SelfAttention as SelfAttentionEncoder
from memnets.memories import (
    DNC,
    LRUA,
    NTM,
    SAM,
    TTT,
    DeltaNet,
    MovingTape,
    NeuralStack,
    Stack,
    Tape,
)

CELLS = {
    "LSTM": lambda: LSTM(5, 8),
    "GRU": lambda: GRU(5, 8),
    "LSTMN": lambda: LSTMN(5, 8),
    "FeedForward": lambda: FeedForward(5, 8),
    "SelfAttention": lambda: SelfAttention(6, heads=2),
    "ShortConvolution": lambda: ShortConvolution(6, 2),
    "NTM": lambda: NTM(slots=8, width=4),
    "DNC": lambda: DNC(slots=8, width=4),
    "LRUA": lambda: LRUA(slots=8, width=4),
    "SAM": lambda: SAM(slots=8, width=4),
    "TTT": lambda: TTT(4, 4),
    "MovingTape": lambda: MovingTape(slots=8, width=4),
    "Direct": lambda: Direct(5),
    "Stack": lambda: Stack(slots=8, width=4),
    "NeuralStack": lambda: NeuralStack(width=4),
    "Tape": lambda: Tape(width=4),
    "DeltaNet": lambda: DeltaNet(4, 4),
    "Mixer": lambda: Mixer(6, DeltaNet(4, 4)),
    "Chain": lambda: Chain(5, [lambda size: LSTM(size, 8), lambda size: GRU(size, 8)]),
    "Residual": lambda: Residual(LSTM(8, 8)),
    "Loop": lambda: Loop(5, lambda size: LSTM(size, 8), NTM(slots=8, width=4)),
}


@pytest.fixture(params=CELLS)
def cell(request):
    return CELLS[request.param]().eval()


def test_a_sequence_of_another_width(cell):
    # PyTorch's operator of an LSTM does not check this on a CPU, and gives numbers.
    size = cell.input_size
    with pytest.raises(ValueError, match=rf"\[batch, time, {size}\]; got \[2, 3, {size + 1}\]$"):
        cell.unroll(torch.zeros(2, 3, size + 1), cell.initial_state(2))


def test_a_step_of_another_width(cell):
    size = cell.input_size
    with pytest.raises(ValueError, match=rf"inputs \[batch, {size}\]; got \[2, {size + 1}\]$"):
        cell.step(torch.zeros(2, size + 1), cell.initial_state(2))


def test_a_sequence_in_place_of_a_step(cell):
    with pytest.raises(ValueError, match="for all steps of a sequence call unroll"):
        cell(torch.zeros(2, 3, cell.input_size))


def test_a_step_in_place_of_a_sequence(cell):
    with pytest.raises(ValueError, match="for one step call step"):
        cell.unroll(torch.zeros(2, cell.input_size), cell.initial_state(2))


@pytest.mark.parametrize("size", [2.0, True, "2", None])
def test_a_batch_that_is_no_whole_number(cell, size):
    with pytest.raises(TypeError, match=f"batch_size must be a whole number; got {size!r}"):
        cell.initial_state(size)


def test_a_sequence_without_steps(cell):
    size, state = cell.input_size, cell.initial_state(2)
    for mask in (None, torch.ones(2, 0, dtype=torch.bool)):
        with pytest.raises(ValueError, match=rf"time, {size}\], time >= 1; got \[2, 0, {size}\]$"):
            cell.unroll(torch.zeros(2, 0, size), state, mask)


def test_a_mask_of_another_kind(cell):
    inputs, state = torch.zeros(2, 3, cell.input_size), cell.initial_state(2)
    with pytest.raises(ValueError, match=r"the mask must be \[batch, time\] = \[2, 3\]; got"):
        cell.unroll(inputs, state, torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(TypeError, match="the mask must be boolean"):
        cell.unroll(inputs, state, torch.ones(2, 3))


def steps_of(cell, batch):
    """All ways to take steps of a batch, as functions of a state."""
    inputs = torch.zeros(batch, 5, cell.input_size)
    return {
        "a call": lambda state: cell(inputs[:, 0], state),
        "a step": lambda state: cell.step(inputs[:, 0], state),
        "all steps": lambda state: cell.unroll(inputs, state),
        "a sequence of one step": lambda state: cell.unroll(inputs[:, :1], state),
        "a mask": lambda state: cell.unroll(inputs, state, torch.ones(batch, 5, dtype=torch.bool)),
    }


@pytest.mark.parametrize(("states", "batch"), [(3, 2), (1, 2), (2, 1)])
def test_a_state_of_another_batch(cell, states, batch):
    """An error, and no memory that is read or written where it is not a tensor's own."""
    first = cell.initial_state(states)
    if first is None:
        pytest.skip("it has no state")
    _, state = cell.step(torch.zeros(states, cell.input_size), first)
    for step in steps_of(cell, batch).values():
        with pytest.raises(
            ValueError, match=rf"of one batch.*got inputs \[{batch}, .*\[{states}, "
        ):
            step(state)


def test_no_state(cell):
    for step in steps_of(cell, 2).values():
        if cell.initial_state(2) is None:
            step(None)
        else:
            with pytest.raises(ValueError, match=r"initial_state\(batch_size\); got None"):
                step(None)


def test_a_state_of_another_kind_of_cell(cell):
    own = cell.initial_state(2)
    others = [make().initial_state(2) for make in CELLS.values()]
    others = [state for state in others if state is not None and type(state) is not type(own)]
    assert len(others) > 10
    for state in others:
        for step in steps_of(cell, 2).values():
            with pytest.raises(TypeError, match=f"another cell, {type(state).__name__}"):
                step(state)


class OfList(Controller[list[torch.Tensor]]):
    """A cell whose state is a list."""

    input_size = hidden_size = output_size = 3

    def initial_state(self, batch_size):
        return [torch.zeros(batch_size, 3)]

    def forward(self, inputs, state):
        mean = (inputs + state[0]) / 2
        return mean, [mean]


class OfTuple(OfList, Controller[tuple[torch.Tensor]]):
    """A cell whose state is a tuple without names."""

    def initial_state(self, batch_size):
        return tuple(super().initial_state(batch_size))

    def forward(self, inputs, state):
        mean, state = super().forward(inputs, state)
        return mean, tuple(state)


class Kept(OfTuple):
    """A cell that gives a state of the structure of the one that it got."""

    def forward(self, inputs, state):
        mean, _ = super().forward(inputs, state)
        return mean, map_state(lambda _: mean, state)


@pytest.mark.parametrize(
    "cell", [OfList(), OfTuple(), Kept()], ids=["list", "tuple", "that it got"]
)
def test_a_list_and_a_tuple_are_the_same_state(cell):
    inputs, first = torch.ones(2, 4, 3), cell.initial_state(2)
    expected, _ = cell.unroll(inputs, first)
    for kind in (list, tuple):
        outputs, _ = cell.unroll(inputs, kind(first))
        assert torch.equal(outputs, expected)
        torch.testing.assert_close(cell(inputs[:, 0], kind(first))[0], expected[:, 0])
    for other in (LSTM(3, 3).initial_state(2), first[0], {"mean": first[0]}):
        with pytest.raises(TypeError, match="got one of another cell"):
            cell.step(inputs[:, 0], other)


def test_a_residual_cell_has_the_state_of_its_cell():
    for inner in (LSTM(8, 8), Direct(8), SelfAttention(8, heads=2)):
        cell = Residual(inner)
        other = NTM(slots=8, width=4).initial_state(2)
        with pytest.raises(TypeError, match=r"^Residual has .*; got one of another cell, NTMState"):
            cell.step(torch.zeros(2, 8), other)


def test_what_is_right_is_seen_at_a_look(cell, monkeypatch):
    """So that steps do not pay for the messages of errors."""

    def never(*_):
        raise AssertionError("more than a look")

    state = cell.initial_state(2)
    for name in ("check_step", "check_steps", "check_state"):
        monkeypatch.setattr(checks, name, never)
    for _ in range(2):
        _, state = cell.step(torch.zeros(2, cell.input_size), state)
        _, state = cell(torch.zeros(2, cell.input_size), state)
        _, state = cell.unroll(torch.zeros(2, 3, cell.input_size), state)


@pytest.mark.parametrize("take", ["step", "__call__", "unroll"])
def test_a_cell_looks_at_its_state_once_in_a_step(take, monkeypatch):
    class Plain(LSTM):
        def unroll(self, inputs, state, mask=None):
            return inputs, state

    cell, looks = Plain(5, 5), []
    monkeypatch.setattr(core, "check_given", lambda cell, *_: looks.append(cell))
    shape = (2, 3, 5) if take == "unroll" else (2, 5)
    getattr(cell, take)(torch.zeros(shape), cell.initial_state(2))
    assert looks == [cell]


@st.composite
def states(draw):
    """States of tensors of 2 sequences, or of some other kind."""
    leaves = st.one_of(
        st.none(),
        st.sampled_from([(2, 3), (2,), (2, 0), (3, 3), (1, 3), (), (0,)]).map(torch.zeros),
        st.sampled_from([1, "a"]),
    )

    def nested(inner):
        several = st.lists(inner, max_size=3)
        pair = st.tuples(inner, inner).map(lambda both: Counted(*both))
        return st.one_of(several, several.map(tuple), pair, st.dictionaries(st.just("a"), inner))

    return draw(st.recursive(leaves, nested, max_leaves=5))


KINDS = [None, type(None), tuple, dict, torch.Tensor, "Counted"]


@pytest.fixture
def looked(monkeypatch):
    """Checks that the look lets pass no more than the checks with the messages."""

    def check(kind, dims, shape, state):
        cell = Unsaid()
        monkeypatch.setattr(Unsaid, "_state_class", Counted if kind == "Counted" else kind)
        inputs = torch.zeros(shape)
        if checks._fits(cell, inputs, state, dims):
            if dims == 2:
                checks.check_step(cell, inputs)
            else:
                checks.check_steps(cell, inputs, None)
            checks.check_state(cell, inputs, state)

    return check


SHAPES = [(2, 3), (2, 4), (0, 3), (2, 5, 3), (2, 0, 3), (2,), ()]


def check_looks(looked):
    @given(st.sampled_from(KINDS), st.sampled_from([2, 3]), st.sampled_from(SHAPES), states())
    def check(kind, dims, shape, state):
        looked(kind, dims, shape, state)

    check()


def test_the_look_lets_pass_no_more_than_the_checks(looked):
    check_looks(looked)


@pytest.mark.parametrize(
    "fault",
    [
        lambda cell, inputs, state, dims: state is not None,
        lambda cell, inputs, state, dims: inputs.dim() == dims and state is None,
        lambda cell, inputs, state, dims: checks._of_batch(state, 2),
    ],
)
def test_a_look_that_lets_pass_more_is_found(fault, looked, monkeypatch):
    monkeypatch.setattr(checks, "_fits", fault)
    with pytest.raises((ValueError, TypeError)):
        check_looks(looked)


class Unsaid(Controller):
    """A cell that does not say what its state is."""

    input_size = hidden_size = 3

    def initial_state(self, batch_size):
        return {"mean": torch.zeros(batch_size, 3)}

    def forward(self, inputs, state):
        mean = (inputs + state["mean"]) / 2
        return mean, {"mean": mean}


def test_a_cell_that_does_not_say_what_its_state_is():
    cell = Unsaid()
    cell.step(torch.zeros(2, 3), cell.initial_state(2))
    with pytest.raises(ValueError, match="got None"):
        cell(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"a part of a state \[3, 3\]"):
        cell.unroll(torch.zeros(2, 4, 3), cell.initial_state(3))


class Counted(NamedTuple):
    """A state with a number that all sequences share."""

    mean: torch.Tensor
    steps: torch.Tensor


class Counting(Unsaid):
    def initial_state(self, batch_size):
        return Counted(torch.zeros(batch_size, 3), torch.tensor(0))

    def forward(self, inputs, state):
        mean = (inputs + state.mean) / 2
        return mean, Counted(mean, state.steps + 1)


def saying(kind):
    """The same cell, with another class in the brackets of its base."""
    bases = (Counting, Controller[kind])
    return types.new_class("Saying", bases, exec_body=lambda body: None)


class Shared(Protocol):
    steps: torch.Tensor


@pytest.mark.parametrize(
    "kind", [Counted, tuple, tuple[torch.Tensor, ...], Any, object, Counted | None, Shared]
)
def test_what_a_cell_says_of_its_state_may_be_wide(kind):
    cell = saying(kind)()
    state = cell.initial_state(2)
    for _ in range(2):
        _, state = cell.step(torch.zeros(2, 3), state)
    outputs, state = cell.unroll(torch.zeros(2, 4, 3), state)
    assert outputs.shape == (2, 4, 3)
    assert state.steps == 6


def test_a_cell_made_of_another_may_have_another_state():
    class Counts(LSTM):
        """An LSTM that counts its steps, and says nothing of its state."""

        def initial_state(self, batch_size):
            return {"inner": super().initial_state(batch_size), "steps": torch.tensor(0)}

        def forward(self, inputs, state):
            hidden, inner = super().forward(inputs, state["inner"])
            return hidden, {"inner": inner, "steps": state["steps"] + 1}

        def unroll(self, inputs, state, mask=None):
            return Controller.unroll(self, inputs, state, mask)

    cell = Counts(3, 4)
    _, state = cell.unroll(torch.zeros(2, 5, 3), cell.initial_state(2))
    assert state["steps"] == 5


C = TypeVar("C")


class Family(Counting, Controller[Counted], Generic[C]):
    """A family of cells, of which the brackets do not name the state."""


class Member(Family[int]):
    pass


class StartsItself(Unsaid):
    def forward(self, inputs, state=None):
        return super().forward(inputs, self.initial_state(len(inputs)) if state is None else state)


def test_what_the_brackets_of_a_family_hold_is_no_state():
    cell = Member()
    assert cell.step(torch.zeros(2, 3), cell.initial_state(2))[1].steps == 1


def test_a_step_with_a_default_for_its_state_starts_itself():
    assert StartsItself()(torch.zeros(2, 3))[0].shape == (2, 3)


@pytest.mark.parametrize("strict", [False, True])
def test_the_batch_of_an_exported_cell_may_be_any(strict):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = Loop(3, partial(LSTM, hidden_size=4), NTM(5, 3))

        def forward(self, inputs):
            return self.cell.unroll(inputs, self.cell.initial_state(inputs.shape[0]))[0]

    whole = Whole()
    shapes = {"inputs": {0: torch.export.Dim("batch", min=2)}}
    program = torch.export.export(
        whole, (torch.randn(3, 5, 3),), dynamic_shapes=shapes, strict=strict
    )
    inputs = torch.randn(7, 5, 3)
    torch.testing.assert_close(program.module()(inputs), whole(inputs))


@pytest.mark.parametrize("make", [LSTM, GRU])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_recurrent_state_that_does_not_fit_is_named(make, layers):
    inputs = torch.zeros(2, 3, 5)
    expected = rf"{layers} tensors \[batch, width\] = \[2, 8\]; got {layers} of \[2, 7\]$"
    with pytest.raises(ValueError, match=expected):
        make(5, 8, layers).unroll(inputs, make(5, 7, layers).initial_state(2))


def test_inputs_that_are_no_tensor(cell):
    with pytest.raises(
        TypeError, match=f"inputs of {type(cell).__name__} must be a tensor; got list"
    ):
        cell([[0.0] * cell.input_size])


@pytest.mark.parametrize(
    "encoder",
    [
        Convolutional(4),
        IntraAttention(4),
        Process(4),
        Recurrent(4, lambda size: LSTM(size, 8)),
        SelfAttentionEncoder(4),
    ],
    ids=lambda encoder: type(encoder).__name__,
)
def test_a_source_that_an_encoder_does_not_read(encoder):
    message = rf"{type(encoder).__name__} take inputs \[batch, time, 4\]; got \[2, 3, 7\]"
    with pytest.raises(ValueError, match=message):
        encoder.read(torch.zeros(2, 3, 7))
    with pytest.raises(ValueError, match=r"the mask must be \[batch, time\] = \[2, 3\]; got"):
        encoder.read(torch.zeros(2, 3, 4), torch.ones(2, 4, dtype=torch.bool))
    assert encoder.read(torch.zeros(2, 3, 4)).vectors.shape[:2] == (2, 3)
