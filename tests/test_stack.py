"""A stack against a list of Python, and pictures of it."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memnets import functional, testing
from memnets.cells import FeedForward
from memnets.memories import Stack
from memnets.memories.stack import ACTIONS
from memnets.models import MemoryMachine
from memnets.viewing import trace
from memnets.viewing.interventions import Freeze

CERTAIN = 1e3  # the softmax of such a number beside zeros is exactly one-hot


def listed(program, slots, empty):
    """Oracle: the stack after each step, the top first."""
    stack, after = [], []
    for action, value in program:
        if action == "push":
            stack = [value, *stack][:slots]
        elif action == "pop":
            stack = stack[1:]
        after.append(stack + [empty] * (slots - len(stack)))
    return after


actions = st.sampled_from(ACTIONS)
programs = st.lists(st.tuples(actions, actions, st.integers(0, 9)), min_size=1, max_size=12)


@given(programs, st.integers(1, 4), st.integers(1, 2), st.sampled_from((0.0, -1.0)))
def test_a_program_of_certain_actions_gives_what_lists_give(program, slots, visible, empty) -> None:
    slots = max(slots, visible)
    stack = Stack(slots, 1, 2, visible, initial_value=empty).double()
    interface = torch.zeros(1, len(program), stack.interface_size, dtype=torch.float64)
    for step, (first, second, value) in enumerate(program):
        interface[0, step, ACTIONS.index(first)] = CERTAIN
        interface[0, step, 3 + ACTIONS.index(second)] = CERTAIN
        interface[0, step, 6:] = torch.tensor([value / 9, 1 - value / 9]).logit(1e-6)
    values = [torch.sigmoid(interface[0, step, 6:]).tolist() for step in range(len(program))]
    expected = [
        listed(
            [(each[number], value[number]) for each, value in zip(program, values, strict=True)],
            slots,
            empty,
        )
        for number in range(2)
    ]
    with trace.record(stack, kinds=None) as tape:
        outputs, _ = stack.unroll(interface, stack.initial_state(1))
    for step, memory in enumerate(tape.calls(stack, "memory")):
        assert memory[0].mT.tolist() == [stacks[step] for stacks in expected]
        top = torch.tensor([stacks[step][:visible] for stacks in expected]).mT.flatten()
        assert outputs[0, step].tolist() == pytest.approx(top.tolist(), abs=1e-6)


@given(testing.seeds(), st.integers(1, 4), st.integers(1, 3))
def test_a_step_is_the_mean_of_what_the_actions_give(seed, slots, width) -> None:
    generator = torch.Generator().manual_seed(seed)
    stack, pushed, empty = (
        torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        for shape in ((slots, width), (width,), (width,))
    )
    degrees = torch.rand(2, 3, 1, generator=generator, dtype=torch.float64).softmax(-2)
    result = functional.push_pop(stack, degrees.expand(-1, -1, width), pushed, empty[0])
    for row in range(2):
        rows = stack[row].tolist()
        alone = [
            [pushed[row].tolist(), *rows][:slots],
            [*rows[1:], empty[0].tolist()],
            rows,
        ]
        mean = sum(
            degree * torch.tensor(one, dtype=torch.float64)
            for degree, one in zip(degrees[row, :, 0], alone, strict=True)
        )
        torch.testing.assert_close(result[row], mean)


def test_what_a_stack_reports() -> None:
    stack = Stack(slots=4, width=3, stacks=2, visible=2)
    assert (stack.interface_size, stack.read_size) == (12, 12)
    with trace.record(stack, kinds=None) as tape:
        stack.unroll(torch.randn(5, 3, 12), stack.initial_state(5))
    shapes = {event.kind: list(event.value.shape) for event in tape.events}
    assert shapes == {
        "actions": [5, 2, 3],
        "pushed": [5, 2, 3],
        "before": [5, 4, 6],
        "memory": [5, 4, 6],
    }
    assert torch.equal(tape.calls(stack, "before")[2], tape.calls(stack, "memory")[1])
    torch.testing.assert_close(tape.calls(stack, "actions")[0].sum(-1), torch.ones(5, 2))


def test_a_stack_that_is_told_what_to_do() -> None:
    stack = Stack(slots=4, width=2, stacks=2)
    with trace.record(stack, kinds=None) as tape:
        stack.unroll(torch.randn(3, 4, stack.interface_size), stack.initial_state(3))
    push, pop = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
    other = tape.intervene(
        Freeze(stack, "actions", push, stop=3),
        Freeze(stack, "pushed", 0.5, stop=3),
        Freeze(stack, "actions", pop, head=1, sequence=2, start=2),
    )
    halves = other.calls(stack, "memory")[3] == 0.5
    # Pushed three times, but for the stack that was pushed twice and popped twice.
    assert other.calls(stack, "memory")[2][0].tolist() == [[0.5] * 4] * 3 + [[0.0] * 4]
    assert not halves[2, :, 2:].any()
    assert other.interventions[2].describe() == (
        "from step 2 on: the actions of head 1 of the model, in sequence 2, are (0, 1, 0)"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stacks": 0}, "stacks must be .* at least 1; got 0"),
        ({"width": 0}, "width must be .* at least 1; got 0"),
        ({"visible": 0}, "visible must be .* at least 1; got 0"),
        ({"slots": 2, "visible": 3}, "slots must be at least visible = 3; got 2"),
    ],
)
def test_sizes_of_a_stack(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        Stack(**settings)


def test_a_stack_may_have_more_room_after_training() -> None:
    model = MemoryMachine(3, 2, partial(FeedForward, hidden_size=4), Stack(slots=3, width=2))
    inputs = torch.randn(2, 3, 3)
    before, _ = model(inputs)
    model.access.slots = 9  # three steps cannot fill either
    torch.testing.assert_close(model(inputs)[0], before)
