"""Sparse access: against an oracle, the dense machine, and itself step by step."""

from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch

from memnets import fast, functional, testing
from memnets.cells import GRU, LSTM, LSTMN, Chain, Direct, FeedForward, Loop
from memnets.core import map_state
from memnets.functional import Sparse
from memnets.kernels import sparse
from memnets.memories import LRUA, NTM, SAM, LRUAState, SAMState
from memnets.normalizers import Softmax
from memnets.testing.laws import (
    assert_close,
    assert_equal,
    copied,
    differentiable,
    differentiated,
    gradients,
)
from memnets.viewing import trace
from tests.test_memories import SURE, lookup, sigmoid, softmax, softplus


def oracle(interface, state, access):
    """Rae et al. 2016, section 3, for one sequence, one head and one slot at a time."""
    memory, accessed, used, (index, weight) = state
    heads, width = access.layout
    memory, accessed, touched = memory.copy(), list(accessed), {used - 1}
    queries, adds, strengths, gates = np.split(interface, np.cumsum(access.layout.sizes)[:-1])
    queries, adds = queries.reshape(heads, width), adds.reshape(heads, width)
    gates = sigmoid(gates).reshape(2, heads)
    oldest = sorted(range(len(memory)), key=lambda slot: (accessed[slot], slot))
    emptied = np.array(oldest[: heads * access.write_slots]).reshape(heads, access.write_slots)
    memory[emptied] = 0
    found = set()
    for head, (share, alpha) in enumerate(gates.T):
        before = zip(index[head], weight[head], strict=True)
        written = [(slot, alpha * share * w) for slot, w in before]
        written += [(slot, alpha * (1 - share) / access.write_slots) for slot in emptied[head]]
        for slot, w in written:
            memory[slot] += w * adds[head]
            found |= {slot} if w > access.writing.threshold else set()
            touched |= {slot} if w > 0 else set()
    new, weights, reads = [], [], []
    for head in range(heads):
        # All that a slot's likeness to the query depends on; not its softmax over all slots.
        scores = np.log(lookup(queries[head], softplus(strengths[head]), memory))
        order = sorted(range(len(memory)), key=lambda slot: (-scores[slot], slot))
        new.append(order[: access.read_slots])
        weights.append(softmax(scores[new[-1]]))
        reads.append(weights[-1] @ memory[new[-1]])
        read = zip(new[-1], weights[-1], strict=True)
        found |= {slot for slot, w in read if w > access.writing.threshold}
        touched |= set(new[-1])
    now = max(accessed) + 1
    accessed = [now if slot in found else time for slot, time in enumerate(accessed)]
    used = 1 + max(touched | set(emptied.flat))
    return np.concatenate(reads), SAMState(memory, accessed, used, Sparse(new, weights))


ACCESSES = {
    "few slots of many": partial(SAM, slots=9, width=3, heads=2, read_slots=3),
    "several new slots": partial(SAM, slots=9, width=2, heads=2, read_slots=2, write_slots=3),
    "all slots": partial(SAM, slots=6, width=4, heads=2, read_slots=6),
    "one head": partial(SAM, slots=40, width=3, heads=1, read_slots=2, threshold=0.3),
}


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("name", ACCESSES)
def test_a_sparse_access_is_that_of_the_paper(name, quick):
    torch.manual_seed(1)
    access = ACCESSES[name]().double()
    state = access.initial_state(2)
    expected = [map_state(lambda part, row=row: part[row].numpy(), state) for row in range(2)]
    interfaces = 2 * torch.randn(2, 12, access.interface_size, dtype=torch.float64)
    if quick:
        outputs, state = access.unroll(interfaces, state)
    else:
        with fast.naive():
            outputs, state = access.unroll(interfaces, state)
    for row in range(2):
        for time in range(12):
            read, expected[row] = oracle(interfaces[row, time].numpy(), expected[row], access)
            np.testing.assert_allclose(outputs[row, time], read, rtol=0, atol=1e-9)
        # Slots of nearly the same weight may stand in another order here.
        for one, other in zip(state[:3], expected[row][:3], strict=True):
            np.testing.assert_allclose(one[row], other, rtol=0, atol=1e-9)


# -- the dense machine ----------------------------------------------------------------------------


def as_dense(make, draw_seed):
    """A step of a SAM that reads all slots, and of an LRUA: what they read, and their memories.

    Both have the same memory, the same order of use, the same weights of the read before; the SAM's
    write gates are open, and what it writes are its queries.
    """
    slots, width, heads = 6, 3, 2
    sam, lrua = make(slots, width, heads, read_slots=slots).double(), LRUA(slots, width, heads)
    generator = torch.Generator().manual_seed(draw_seed)
    random = partial(torch.randn, dtype=torch.float64, generator=generator)
    memory, usage = random(2, slots, width), random(2, slots).abs()
    weights = random(2, heads, slots).softmax(-1)
    keys, strengths, gates = random(2, heads * width), random(2, heads), random(2, heads)
    accessed = usage.argsort(-1).argsort(-1) + 1
    first = SAMState(memory, accessed, torch.full((2,), slots), functional.sparse(weights, slots))
    open_gates = torch.full((2, heads), SURE, dtype=torch.float64)
    with fast.naive():
        sparse_read, after = sam.step(
            torch.cat([keys, keys, strengths, gates, open_gates], -1), first
        )
        dense_read, expected = lrua.double().step(
            torch.cat([keys, strengths, gates], -1), LRUAState(memory, usage, weights)
        )
    return (
        (sparse_read, after.memory, functional.dense(after.read, slots)),
        (dense_read, expected.memory, expected.weights),
    )


def test_with_all_slots_read_it_is_the_dense_machine():
    for seed in range(5):
        assert_close(*as_dense(SAM, seed), "a SAM that reads all slots, and an LRUA")


def test_with_all_slots_read_no_choice_is_made():
    access = SAM(slots=6, width=3, heads=2, read_slots=6).double()
    interfaces = torch.randn(2, 5, access.interface_size, dtype=torch.float64)
    expected = access.unroll(interfaces, access.initial_state(2))
    access.reading.normalizer = Softmax()
    assert fast.find(access, "unroll", interfaces, access.initial_state(2), None) is None
    dense = access.unroll(interfaces, access.initial_state(2))
    assert_close(dense, expected, "a softmax over all slots, and over the 6 best of 6")


class Uneven(SAM):
    """Reads the best slots with the weights that they have among all."""

    def forward(self, interface, state):
        vectors, state = super().forward(interface, state)
        weight = state.read.weight * state.read.weight.amax(-1, keepdim=True)
        return vectors, state._replace(read=state.read._replace(weight=weight))


class Forgetless(SAM):
    """Empties no slot."""

    def forward(self, interface, state):
        with mock.patch.object(
            functional, "empty_add", lambda memory, _, weights, add: memory + weights.mT @ add
        ):
            return super().forward(interface, state)


class Newest(SAM):
    """Writes to the slots that were accessed last."""

    def forward(self, interface, state):
        with mock.patch.object(
            functional,
            "least_recent",
            lambda accessed, count: accessed.argsort(-1, descending=True)[..., :count],
        ):
            return super().forward(interface, state)


@pytest.mark.parametrize("fault", [Uneven, Forgetless, Newest])
def test_a_fault_is_no_dense_machine(fault):
    with pytest.raises(AssertionError, match="a SAM that reads all slots"):
        assert_close(*as_dense(fault, 0), "a SAM that reads all slots, and an LRUA")


# -- all steps in one copy of the memory ----------------------------------------------------------

LOOPS = {
    "LSTM": partial(LSTM, hidden_size=4),
    "chain": partial(
        Chain, controllers=[partial(FeedForward, hidden_size=3), partial(GRU, hidden_size=4)]
    ),
}


def run(part, begun, steps, masked, batch=2):
    """A part, inputs, a state after some steps, and a mask."""
    part = part.double()
    inputs = torch.randn(batch, begun + steps, part.input_size, dtype=torch.float64)
    state = part.initial_state(batch)
    if begun:
        with fast.naive(), torch.no_grad():
            _, state = part.unroll(inputs[:, :begun], state)
    inputs, state = map_state(differentiable, (inputs[:, begun:], state))
    return inputs, state, torch.rand(batch, steps) < 0.6 if masked else None


def both(part, inputs, state, mask):
    """Results and gradients of the twin, and of the definition."""
    sources = [*differentiated((inputs, state)), *part.parameters()]
    assert fast.find(part, "unroll", inputs, state, mask) is not None
    found = []
    for context in (torch.enable_grad, fast.naive):
        with context():
            outputs, last = part.unroll(inputs, state, mask)
        if mask is not None:
            outputs = outputs.where(mask.unsqueeze(-1), 0.0)
        found.append(((outputs, last), gradients((outputs, last), sources)))
    return found


@pytest.mark.parametrize(("begun", "masked"), [(0, False), (9, True)])
@pytest.mark.parametrize("controller", LOOPS)
def test_all_steps_of_a_machine_are_its_steps_one_by_one(controller, begun, masked):
    torch.manual_seed(begun)
    part = Loop(2, LOOPS[controller], SAM(slots=12, width=3, heads=2, read_slots=3))
    (result, gradient), (expected, expected_gradient) = both(part, *run(part, begun, 5, masked))
    assert_close(result, expected, "outputs and state")
    assert_close(gradient, expected_gradient, "gradient")


@pytest.mark.parametrize(
    "controller",
    [
        partial(LSTMN, hidden_size=4),  # its state has a mask
        partial(Loop, controller=partial(LSTM, hidden_size=3), access=NTM(9, 2, noise=1.0)),
    ],
)
def test_a_controller_that_cannot_take_its_steps_again_has_no_fast_run(controller):
    part = Loop(2, controller, SAM(slots=12, width=3, heads=2, read_slots=3))
    assert fast.find(part, "unroll", *run(part, 0, 3, False)) is None


def test_a_write_to_a_slot_that_is_read_and_new_is_one_access():
    # With all slots read, each new slot is one that was read too.
    torch.manual_seed(0)
    part = SAM(slots=3, width=2, heads=1, read_slots=3, threshold=0.5)
    inputs, state, _ = run(part, 0, 40, False)
    with torch.no_grad(), fast.naive():
        _, expected = part.unroll(inputs, state)
    with torch.no_grad():
        assert_close(part.unroll(inputs, state)[1], expected, "the state")


def test_a_long_run_in_a_large_memory_is_its_definition():
    torch.manual_seed(0)
    part = SAM(slots=700, width=3, heads=2, read_slots=3, threshold=0.1)
    inputs, state, mask = run(part, 0, 5, False)
    full = torch.randn(2, 700, 3, dtype=torch.float64)
    times = torch.randint(1, 50, (2, 700))
    state = state._replace(memory=full, accessed=times, used=torch.tensor([700, 700]))
    with torch.no_grad(), fast.naive():
        expected = part.unroll(inputs, state, mask)
    with torch.no_grad():
        assert_close(part.unroll(inputs, state, mask), expected, "of a memory without room")


@pytest.mark.parametrize("fault", ["order", "emptied", "search"])
def test_a_fault_of_the_fast_run_is_found(fault):
    torch.manual_seed(0)
    part = SAM(slots=12, width=3, heads=2, read_slots=3)
    given = run(part, 14, 9, False)
    faults = {
        # The slots accessed last, not first.
        "order": ("_Times.take", lambda self, count: [self.past.pop()[1] for _ in range(count)]),
        # The gradient passes through what was emptied.
        "emptied": ("_Backward.step", without_index_fill(sparse._Backward.step)),
        # It looks for content in the first slots alone.
        "search": ("_greatest", lambda scores, count: functional.greatest(scores[..., :6], count)),
    }
    name, wrong = faults[fault]
    owner, _, method = name.rpartition(".")
    with mock.patch.object(getattr(sparse, owner) if owner else sparse, method, wrong):
        (result, gradient), (expected, expected_gradient) = both(part, *given)
    with pytest.raises(AssertionError, match="a run with a fault"):
        assert_close((result, gradient), (expected, expected_gradient), "a run with a fault")


def without_index_fill(step):
    def wrong(self, gradient):
        with mock.patch.object(torch.Tensor, "index_fill_", lambda tensor, *_: tensor):
            return step(self, gradient)

    return wrong


def test_a_state_serves_twice_and_a_graph_is_gone_through_twice():
    torch.manual_seed(0)
    part = Loop(2, LSTM, SAM(slots=12, width=3, heads=2, read_slots=3))
    inputs, state, _ = run(part, 5, 6, False)
    before = map_state(copied, state)
    first, second = (part.unroll(inputs, state) for _ in range(2))
    assert_equal(first, second, "two runs from one state")
    assert_equal(state, before, "the state that they began with")
    kept = map_state(copied, first)
    part.unroll(inputs, first[1])
    assert_equal(first, kept, "a run that another one has gone on from")
    sources = [inputs, *part.parameters()]
    backward = [gradients(first, sources) for _ in range(2)]
    assert_equal(backward[0], backward[1], "two backward passes")
    with torch.no_grad():
        assert_equal(part.unroll(inputs, state), kept, "a run without gradients")


@pytest.mark.parametrize("controller", [None, LSTM])
def test_a_second_derivative_is_of_the_settings_with_which_the_steps_were_taken(controller):
    def second(change):
        torch.manual_seed(0)
        access = SAM(slots=12, width=3, heads=2, read_slots=3, threshold=0.1)
        part = Loop(2, controller, access) if controller else access
        inputs, state, _ = run(part, 0, 9, False)
        outputs, _ = part.unroll(inputs, state)
        change(access)
        (first,) = torch.autograd.grad(outputs.square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(first.square().sum(), inputs)

    def others(access):
        access.writing.threshold, access.reading.score.epsilon = 0.9, 0.5

    assert_equal(second(others), second(lambda access: None), "after a change, and without")


def test_biases_and_copies_of_a_sparse_access():
    access = SAM(slots=9, width=2, heads=2, alike=True, strength_bias=2.0, gate_bias=-3.0)
    assert access.interface_bias().tolist() == [0.0] * 8 + [2.0] * 2 + [-3.0] * 2 + [0.0] * 2
    assert access.interface_copies().tolist() == [*range(4), *range(4), *range(8, 14)]
    assert SAM(slots=9, width=2, heads=2).interface_copies() is None


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize(
    "memory",
    [
        partial(SAM, slots=40, width=50, heads=1, strength_bias=10.0, gate_bias=-5.0),
        # Read heads look for content; the write head goes on to the next slot.
        partial(
            NTM, slots=40, width=50, strength_bias=10.0, gate_bias=[5.0, -5.0],
            stay_bias=[9.0, 0.0], move_bias=[0.0, 9.0],
        ),
    ],
)  # fmt: skip
def test_with_a_memory_alike_an_input_finds_what_it_wrote_before_anything_is_learnt(memory, alike):
    torch.manual_seed(0)
    loop = Loop(20, Direct, memory(alike=alike))
    inputs = torch.randn(8, 10, 20)
    inputs[:, -1] = inputs[:, 3]
    with trace.record(loop.access, kinds=None) as tape, torch.no_grad():
        loop.unroll(inputs, loop.initial_state(8))
    # Where the fourth step wrote most of what it read nothing of, and where the last one looks.
    written = tape.calls(loop.access, "write")[3][:, 0].argmax(-1)
    looked = tape.calls(loop.access, "read")[9][:, 0].gather(-1, written.unsqueeze(-1))
    assert (looked.mean() > 0.3) == alike


def test_numbers_at_a_skipped_step_may_be_anything():
    access = SAM(slots=9, width=3, heads=1).double()
    interfaces = torch.full((1, 2, access.interface_size), torch.inf).double()
    interfaces[:, 0] = torch.arange(access.interface_size)
    state = access.initial_state(1)
    _, expected = access.unroll(interfaces[:, :1], state)
    _, after = access.unroll(interfaces, state, torch.tensor([[True, False]]))
    assert_equal(after, expected, "the state after a step that was skipped")


def test_what_a_run_keeps_does_not_depend_on_the_number_of_slots():
    kept = []
    for slots in (1000, 1_000_000):
        torch.manual_seed(0)
        loop = Loop(3, LSTM, SAM(slots, width=8, heads=2))
        inputs = torch.randn(1, 20, 3)
        # A first memory is a view of one row.
        state = loop.initial_state(1)
        count, (outputs, last) = testing.kept_for_backward(partial(loop.unroll, inputs, state))
        kept.append(count)
        outputs.sum().backward()
        assert last.access.memory.shape == (1, slots, 8)
        assert int(last.access.used) < 50
    assert kept[0] == kept[1]


def test_a_memory_that_is_written_by_hand_is_read_whole():
    access = SAM(slots=50, width=4, heads=1, read_slots=2).double()
    state = access.initial_state(1)
    memory = torch.zeros(1, 50, 4, dtype=torch.float64)
    memory[0, 33] = torch.tensor([1.0, -1.0, 2.0, 0.0])
    state = state._replace(memory=memory, used=torch.tensor([50]))
    interface = torch.zeros(1, access.interface_size, dtype=torch.float64)
    interface[:, :4], interface[:, 8], interface[:, 10] = memory[0, 33], SURE, -SURE
    vectors, after = access.step(interface, state)
    assert after.read.index[0, 0, 0] == 33
    torch.testing.assert_close(vectors[0], memory[0, 33])


def test_watchers_of_a_large_memory_see_the_slots_in_use():
    torch.manual_seed(0)
    access = SAM(slots=3000, width=4, heads=2).double()
    interfaces = torch.randn(1, 3, access.interface_size, dtype=torch.float64)
    state = access.initial_state(1)
    with trace.record(access, kinds=None) as tape:
        found = access.unroll(interfaces, state)
    assert {event.value.shape[-1] for event in tape.events if event.kind == "read"} == {64}
    with fast.naive():
        assert_equal(found, access.unroll(interfaces, state), "watched, and not")
    # A row that was put there by hand is in use too.
    memory = torch.zeros(1, 3000, 4, dtype=torch.float64)
    memory[0, 2500] = 1.0
    with trace.record(access, kinds=None) as tape:
        found = access(interfaces[:, 0], state._replace(memory=memory))
    assert tape.calls(access, "memory")[0].shape == (1, 2560, 4)
    assert_equal(found, access(interfaces[:, 0], state._replace(memory=memory)), "by hand")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slots": 4, "read_slots": 5}, "slots must be at least read_slots = 5; got 4"),
        ({"slots": 4, "heads": 3, "write_slots": 2}, r"at least heads \* write_slots = 6; got 4"),
        ({"read_slots": 0}, "read_slots must be a whole number of at least 1; got 0"),
        ({"write_slots": 0}, "write_slots must be a whole number of at least 1; got 0"),
        ({"heads": 0}, "heads must be a whole number of at least 1; got 0"),
        ({"threshold": 1.0}, r"threshold must be in \[0, 1\); got 1.0"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        SAM(**settings)


def test_fewer_slots_than_are_read():
    access = SAM(slots=8)
    with pytest.raises(ValueError, match="slots must be at least read_slots = 4; got 3"):
        access.slots = 3
