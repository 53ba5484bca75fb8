"""Stacks, queues and tapes that move against plain Python, and what they report."""

from collections import deque
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memnets import functional, testing
from memnets.batches import Batch
from memnets.cells import FeedForward
from memnets.memories import MovingTape, NeuralDeque, NeuralQueue, NeuralStack, Stack
from memnets.memories.moving import MOVES
from memnets.memories.stack import ACTIONS
from memnets.models import MemoryMachine
from memnets.testing import CERTAIN
from memnets.viewing import trace
from memnets.viewing.interventions import Freeze

BITS = st.integers(0, 1)


def one_hot(action, actions):
    return [CERTAIN if each == action else 0.0 for each in actions]


def sign(true):
    return CERTAIN if true else -CERTAIN


def number(value):
    """The logit of a number of a stack: what is pushed passes a sigmoid."""
    return torch.tensor(value, dtype=torch.float64).logit(1e-6).item()


# -- stacks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slots", "visible", "empty"), [(1, 1, 0.0), (3, 2, -1.0), (12, 1, 0.0)])
def test_a_stack_is_a_list(slots, visible, empty) -> None:
    """Two stacks of room for a few numbers, each with actions of its own."""
    action = st.sampled_from(ACTIONS)

    def interface(stack, instruction):
        first, second, value = instruction
        pushed = [number(value / 4), number(1 - value / 4)]
        return [*one_hot(first, ACTIONS), *one_hot(second, ACTIONS), *pushed]

    def machine(program):
        stacks, read = [[], []], []
        for *actions, value in program:
            for stack, action, pushed in zip(
                stacks, actions, (value / 4, 1 - value / 4), strict=True
            ):
                if action == "push":
                    stack.insert(0, pushed)
                    del stack[slots:]
                elif action == "pop":
                    del stack[:1]
            tops = [(stack + [empty] * visible)[:visible] for stack in stacks]
            read.append([top[depth] for depth in range(visible) for top in tops])
        return read

    testing.check_program(
        Stack,
        instructions=st.tuples(action, action, st.integers(1, 3)),
        interface=interface,
        machine=machine,
        slots=slots,
        width=1,
        stacks=2,
        visible=visible,
        initial_value=empty,
    )


def test_a_neural_stack_is_a_list() -> None:
    """Pops come before pushes, so that one step may replace the top."""

    def machine(program):
        stack, read = [], []
        for push, pop, bit in program:
            if pop:
                del stack[-1:]
            if push:
                stack.append([2 * bit - 1, 1])
            read.append(stack[-1] if stack else [0, 0])
        return read

    testing.check_program(
        NeuralStack,
        instructions=st.tuples(st.booleans(), st.booleans(), BITS),
        interface=lambda _, one: [sign(one[0]), sign(one[1]), sign(one[2]), CERTAIN],
        machine=machine,
        width=2,
    )


def test_neural_queues_are_deques() -> None:
    """Two queues, each with degrees of its own."""
    instruction = st.tuples(st.booleans(), st.booleans(), BITS)

    def interface(queue, instructions):
        degrees = [sign(number) for push, pop, _ in instructions for number in (push, pop)]
        return [*degrees, *(sign(bit) for *_, bit in instructions)]

    def machine(program):
        queues, read = (deque(), deque()), []
        for step in program:
            for queue, (push, pop, bit) in zip(queues, step, strict=True):
                if pop and queue:
                    queue.popleft()
                if push:
                    queue.append(2 * bit - 1)
            read.append([queue[0] if queue else 0 for queue in queues])
        return read

    testing.check_program(
        NeuralQueue,
        instructions=st.tuples(instruction, instruction),
        interface=interface,
        machine=machine,
        width=1,
        count=2,
    )


def test_a_neural_deque_is_a_deque() -> None:
    switch = st.booleans()

    def machine(program):
        line, read = deque(), []
        for push_bottom, push_top, pop_bottom, pop_top, bottom, top in program:
            if pop_top and line:
                line.pop()
            if pop_bottom and line:
                line.popleft()
            if push_bottom:
                line.appendleft(2 * bottom - 1)
            if push_top:
                line.append(2 * top - 1)
            read.append([line[0], line[-1]] if line else [0, 0])
        return read

    testing.check_program(
        NeuralDeque,
        instructions=st.tuples(switch, switch, switch, switch, BITS, BITS),
        interface=lambda _, instruction: [sign(part) for part in instruction],
        machine=machine,
        width=1,
    )


@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("gated", [True, False])
def test_a_tape_that_moves_is_a_circle(slots, gated) -> None:
    """A head that goes round a list."""

    def interface(tape, instruction):
        move, write, bit = instruction
        return [*one_hot(move, MOVES), *([sign(write)] if gated else []), sign(bit)]

    def machine(program):
        tape, head, read = [0] * slots, 0, []
        for move, write, bit in program:
            if write or not gated:
                tape[head] = 2 * bit - 1
            head = (head + {"left": -1, "right": 1, "stay": 0}[move]) % slots
            read.append([tape[head]])
        return read

    testing.check_program(
        MovingTape,
        instructions=st.tuples(st.sampled_from(MOVES), st.booleans(), BITS),
        interface=interface,
        machine=machine,
        slots=slots,
        width=1,
        gated=gated,
    )


@given(st.data())
def test_a_head_jumps_by_the_length_of_the_source(data) -> None:
    """Two sequences, whose sources have lengths of their own."""
    tape = MovingTape(slots=5, width=1, jumps=True)
    lengths = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    program = data.draw(st.lists(st.tuples(st.sampled_from(tape.moves), BITS), min_size=1))
    mask = torch.arange(7) < torch.tensor(lengths).unsqueeze(1)
    rows = [[*one_hot(move, tape.moves), CERTAIN, sign(bit)] for move, bit in program]
    steps = torch.tensor([rows, rows])
    told = tape.start(torch.zeros(2, 7, 3), mask)
    outputs, _ = tape.unroll(steps, told)
    for row, length in enumerate(lengths):
        written, head = [0] * 5, 0
        far = dict(zip(tape.moves, (-1, 1, 0, -length, length), strict=True))
        for step, (move, bit) in enumerate(program):
            written[head] = 2 * bit - 1
            head = (head + far[move]) % 5
            assert outputs[row, step].item() == written[head]
    assert tape.start(torch.zeros(2, 4, 3)).jump.tolist() == [4, 4]


def test_a_machine_tells_its_tape_the_length_of_the_source() -> None:
    tape = MovingTape(slots=5, width=2, jumps=True)
    model = MemoryMachine(3, 2, partial(FeedForward, hidden_size=4), tape, tbptt_steps=2)
    source, inputs = torch.randn(2, 4, 3), torch.randn(2, 3, 3)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    state = model.encode(source, mask)
    assert state.body.access.jump.tolist() == [4, 2]
    assert model.decode(inputs, state)[1].body.access.jump.tolist() == [4, 2]
    first, _ = model.first_stretch(Batch(source, inputs, torch.zeros(2, 3, 2), mask), 2)
    assert first.body.access.jump.tolist() == [4, 2]


@pytest.mark.parametrize("memory", [NeuralStack, NeuralQueue, NeuralDeque])
def test_a_late_read_has_a_gradient_to_the_first_push(memory) -> None:
    """While nothing is popped, and as far as it is pushed by degrees."""
    part = memory(width=2)
    steps = torch.randn(2, 4, part.interface_size)
    steps[..., len(part.pushes) : len(part.degrees)] = -CERTAIN
    steps[..., : len(part.pushes)] = -2.0
    steps.requires_grad_()
    outputs, _ = part.unroll(steps, part.initial_state(2))
    (gradient,) = torch.autograd.grad(outputs[:, -1].sum(), steps)
    pushed = [*range(len(part.pushes)), *range(len(part.degrees), part.interface_size)]
    assert gradient[..., pushed].ne(0).all()


# -- what they report, and their settings ---------------------------------------------------------


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


def test_what_neural_memories_report() -> None:
    part = NeuralDeque(width=3, count=2)
    steps = torch.randn(5, 3, part.interface_size)
    with trace.record(part, kinds=None) as tape:
        part.unroll(steps, part.initial_state(5))
    shapes = {event.kind: list(event.value.shape) for event in tape.events}
    assert shapes == {
        "degrees": [5, 2, 4],
        "pushed": [5, 2, 6],
        "read": [5, 4, 6],
        "before": [5, 4, 6],
        "memory": [5, 6, 6],
        "strengths": [5, 2, 6],
    }
    names = "push bottom", "push top", "pop bottom", "pop top"
    assert part.field_names("degrees", 4) == names
    assert NeuralQueue().field_names("degrees", 2) == ("push", "pop")
    assert part.field_names("pushed", 2) == ["1", "2"]
    other = tape.intervene(Freeze(part, "degrees", 0.0, head=1, stop=2))
    assert other.calls(part, "strengths")[1][:, 1].any() == 0
    assert other.calls(part, "strengths")[2][:, 1].any()


@pytest.mark.parametrize("gated", [True, False])
def test_what_a_tape_that_moves_reports(gated) -> None:
    part = MovingTape(slots=4, width=3, tapes=2, gated=gated)
    steps = torch.randn(5, 3, part.interface_size)
    with trace.record(part, kinds=None) as tape:
        part.unroll(steps, part.initial_state(5))
    shapes = {event.kind: list(event.value.shape) for event in tape.events}
    assert shapes == {
        **({"gates": [5, 2, 1]} if gated else {}),
        "moves": [5, 2, 3],
        "written": [5, 2, 3],
        "before": [5, 4, 6],
        "memory": [5, 4, 6],
    }
    assert part.field_names("moves", 3) == MOVES
    still = Freeze(part, "moves", (0.0, 0.0, 1.0))
    ones = Freeze(part, "written", 1.0)
    other = tape.intervene(still, ones)
    assert not other.calls(part, "memory")[2][:, 1:].any()
    assert (other.calls(part, "memory")[2][:, 0] > 0).all()


def test_biases_of_neural_memories() -> None:
    part = NeuralDeque(width=2, count=2, push_bias=1.0, pop_bias=-1.0)
    assert part.interface_bias().tolist() == [1.0, 1.0, -1.0, -1.0] * 2 + [0.0] * 8


@pytest.mark.parametrize("memory", [Stack, MovingTape, NeuralQueue])
def test_noise_on_what_a_memory_does_is_of_training_alone(memory) -> None:
    part = memory(width=2, noise=1.0)
    steps = torch.zeros(4, 1, part.interface_size)
    plain, _ = part.eval().unroll(steps, part.initial_state(4))
    assert torch.equal(plain, plain[:1].expand_as(plain))
    kind = {Stack: "actions", MovingTape: "moves", NeuralQueue: "degrees"}[memory]
    with trace.record(part.train(), kinds=None) as tape:
        part.unroll(steps, part.initial_state(4))
    (degrees,) = tape.calls(part, kind)
    assert len(degrees[:, 0, 0].unique()) == 4
    # What is written has no noise.
    (value,) = tape.calls(part, "written" if memory is MovingTape else "pushed")
    assert len(value.unique()) == 1


@pytest.mark.parametrize(
    ("memory", "settings", "message"),
    [
        (Stack, {"noise": -1.0}, "noise must be at least 0 and finite; got -1.0"),
        (MovingTape, {"tapes": 0}, "tapes must be .* at least 1; got 0"),
        (MovingTape, {"slots": 0}, "slots must be .* at least 1; got 0"),
        (NeuralStack, {"count": 0}, "count must be .* at least 1; got 0"),
        (NeuralDeque, {"width": 0}, "width must be .* at least 1; got 0"),
        (NeuralQueue, {"noise": -1.0}, "noise must be at least 0 and finite; got -1.0"),
    ],
)
def test_settings_of_other_memories(memory, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        memory(**settings)


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


@pytest.mark.parametrize(("degrees", "jump"), [(3, torch.ones(1, dtype=torch.long)), (5, None)])
def test_jumps_need_a_length(degrees, jump):
    with pytest.raises(ValueError, match=f"moves must have . degrees; got {degrees}"):
        functional.move(torch.zeros(1, 4, 2), torch.zeros(1, degrees, 2), jump)


@pytest.mark.parametrize("noise", [-1.0, float("nan"), float("inf")])
def test_noise_is_a_finite_number(noise):
    with pytest.raises(ValueError, match=f"noise must be at least 0 and finite; got {noise}"):
        Stack(4, 2, noise=noise)
