"""The memories against oracles in NumPy, and what their heads can be told to do."""

import inspect
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from memnets import fast, memories
from memnets.addressing import Content
from memnets.core import MemoryAccess
from memnets.memories import (
    DNC,
    LRUA,
    NTM,
    SAM,
    TTT,
    DeltaNet,
    DNCState,
    LRUAState,
    MovingTape,
    NeuralDeque,
    NTMState,
    Stack,
    Tape,
    slotted,
)
from memnets.scores import Dot
from memnets.testing import no_synchronisation
from memnets.viewing import trace

EPSILON = 1e-6


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def softplus(x):
    return np.log1p(np.exp(x))


def lookup(key, strength, memory):
    """Weights by content, with an epsilon inside the roots."""
    lengths = [np.sqrt((key @ key + EPSILON) * (row @ row + EPSILON)) for row in memory]
    return softmax(strength * (memory @ key) / lengths)


def ntm_oracle(interface, state: NTMState, access: NTM):
    """Graves et al. 2014, section 3, for one sequence, one head and one slot at a time."""
    memory, weights = state
    (heads, slots), reads = weights.shape, access.read_heads
    keys, positive, unit, shifts, adds = np.split(interface, np.cumsum(access.layout.sizes)[:-1])
    strengths, sharpnesses = softplus(positive).reshape(2, -1)
    gates, erases = np.split(sigmoid(unit), [heads])
    keys, shifts = keys.reshape(heads, -1), shifts.reshape(heads, -1)
    new = np.zeros_like(weights)
    for head in range(heads):
        content = lookup(keys[head], strengths[head], memory)
        gated = gates[head] * content + (1 - gates[head]) * weights[head]
        shift = softmax(shifts[head])
        for i in range(slots):
            for j in range(len(shift)):
                new[head, (i + j - len(shift) // 2) % slots] += gated[i] * shift[j]
        new[head] = new[head] ** (access.least_sharpness + sharpnesses[head])
        new[head] /= new[head].sum()
    read = (new[:reads] @ memory).flatten()
    memory = memory.copy()
    for weight, erase in zip(new[reads:], erases.reshape(-1, access.width), strict=True):
        memory *= 1 - np.outer(weight, erase)
    for weight, add in zip(new[reads:], adds.reshape(-1, access.width), strict=True):
        memory += np.outer(weight, add)
    return read, NTMState(memory, new)


def dnc_oracle(interface, state: DNCState, access: DNC):
    """Graves et al. 2016, Methods, for one sequence, one head and one slot at a time."""
    memory, usage, precedence, link, written, weights = state
    slots, width = memory.shape
    heads = range(access.read_heads)
    keys, strengths, unit, modes, add = np.split(interface, np.cumsum(access.layout.sizes)[:-1])
    keys = keys.reshape(-1, width)
    strengths = 1 + softplus(strengths)
    unit = sigmoid(unit)
    free_gates, (allocation_gate, write_gate), erase = np.split(unit, [len(heads), len(heads) + 2])
    modes = [softmax(row) for row in modes.reshape(-1, 3)]

    retention = np.prod([1 - free_gates[i] * weights[i] for i in heads], 0)
    usage = (usage + written - usage * written) * retention
    used = EPSILON + (1 - EPSILON) * usage
    allocation, product = np.zeros(slots), 1.0
    for slot in np.argsort(usage, kind="stable"):
        allocation[slot] = (1 - used[slot]) * product
        product *= used[slot]
    content = lookup(keys[-1], strengths[-1], memory)
    written = write_gate * (allocation_gate * allocation + (1 - allocation_gate) * content)
    memory = memory * (1 - np.outer(written, erase)) + np.outer(written, add)

    new_link = np.zeros((slots, slots))
    for i in range(slots):
        for j in range(slots):
            if i != j:
                kept = (1 - written[i] - written[j]) * link[i, j]
                new_link[i, j] = kept + written[i] * precedence[j]
    precedence = (1 - written.sum()) * precedence + written
    new_weights = np.zeros_like(weights)
    for i in heads:
        back, by_content, on = modes[i]
        content = lookup(keys[i], strengths[i], memory)
        new_weights[i] = back * new_link.T @ weights[i] + by_content * content
        new_weights[i] += on * new_link @ weights[i]
    reads = (new_weights @ memory).flatten()
    return reads, DNCState(memory, usage, precedence, new_link, written, new_weights)


def lrua_oracle(interface, state: LRUAState, access: LRUA):
    """Santoro et al. 2016, equations 2 to 8, for one sequence, one head and one slot at a time."""
    memory, usage, weights = state
    width = memory.shape[-1]
    heads = range(access.heads)
    keys, strengths, gates = np.split(interface, [width * len(heads), (width + 1) * len(heads)])
    keys = keys.reshape(-1, width)
    order = np.argsort(usage, kind="stable")
    memory = memory.copy()
    written = np.zeros_like(weights)
    for head in heads:
        memory[order[head]] = 0
        gate = sigmoid(gates[head])
        written[head] = gate * weights[head]
        written[head, order[head]] += 1 - gate
    for head in heads:
        memory += np.outer(written[head], keys[head])
    weights = np.array([lookup(keys[i], softplus(strengths[i]), memory) for i in heads])
    usage = access.writing.decay * usage + weights.sum(0) + written.sum(0)
    return (weights @ memory).flatten(), LRUAState(memory, usage, weights)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(
    ("access", "oracle"),
    [
        (NTM(9, 4), ntm_oracle),
        (NTM(9, 4, read_heads=2, write_heads=3, shift_range=5, least_sharpness=1.5), ntm_oracle),
        (NTM(9, 4, read_heads=3, shift_range=1, least_sharpness=2.0), ntm_oracle),
        (NTM(9, 4, initial_spread=0.5), ntm_oracle),
        (DNC(slots=7, width=4), dnc_oracle),
        (DNC(slots=5, width=3, read_heads=3), dnc_oracle),
        (LRUA(slots=7, width=4, heads=1), lrua_oracle),
        (LRUA(slots=6, width=3, heads=3, decay=0.9), lrua_oracle),
    ],
)
def test_memories_agree_with_the_papers_equations(quick, access, oracle) -> None:
    torch.manual_seed(1)
    access = access.double()
    state = access.initial_state(2)
    expected = [type(state)(*(part[row].numpy() for part in state)) for row in range(2)]
    for _ in range(8):
        interface = 2 * torch.randn(2, access.interface_size, dtype=torch.float64)
        if quick:
            vectors, state = access.step(interface, state)
        else:
            with fast.naive():
                vectors, state = access.step(interface, state)
        for row in range(2):
            read, expected[row] = oracle(interface[row].numpy(), expected[row], access)
            np.testing.assert_allclose(vectors[row], read, rtol=0, atol=1e-12)
            for part, other in zip(state, expected[row], strict=True):
                np.testing.assert_allclose(part[row], other, rtol=0, atol=1e-12)


SURE = 50.0


def told(access: DNC, add, mode: int, free: float = -SURE, write: float = SURE) -> torch.Tensor:
    """An interface of a DNC with one read head: write to a free slot, then read in one mode."""
    interface = torch.zeros(1, access.interface_size, dtype=torch.float64)
    _, _, unit, modes, add_part = interface.split(access.layout.sizes, -1)
    unit[:, :3] = torch.tensor([free, SURE, write])
    modes[:, mode] = SURE
    add_part.copy_(torch.as_tensor(add))
    return interface


def test_a_dnc_reads_on_and_back_in_the_order_of_writing() -> None:
    access = DNC(slots=6, width=4).double()
    rows = torch.eye(4, dtype=torch.float64) + 1
    state = access.initial_state(1)
    for row in rows:
        _, state = access(told(access, row, mode=1), state)
    # It goes to the slot that was written first, and on from there.
    first = torch.nn.functional.one_hot(torch.tensor([[0]]), 6).double()
    state = state._replace(weights=first)
    for row in rows[1:]:
        vector, state = access(told(access, row, mode=2, write=-SURE), state)
        torch.testing.assert_close(vector[0], row, rtol=0, atol=1e-4)
    for row in rows[:-1].flip(0):
        vector, state = access(told(access, row, mode=0, write=-SURE), state)
        torch.testing.assert_close(vector[0], row, rtol=0, atol=1e-4)


def test_a_dnc_fills_every_slot_before_it_takes_one_again_and_what_is_freed_first() -> None:
    access = DNC(slots=4, width=2).double()
    state = access.initial_state(1)
    places = []
    for _ in range(4):
        _, state = access(told(access, torch.ones(2), mode=1), state)
        places.append(int(state.written.argmax()))
    assert sorted(places) == [0, 1, 2, 3]
    state = state._replace(weights=torch.nn.functional.one_hot(torch.tensor([[2]]), 4).double())
    _, state = access(told(access, torch.ones(2), mode=1, free=SURE), state)
    assert int(state.written.argmax()) == 2


def test_an_lrua_writes_where_it_read_or_to_the_slot_used_least() -> None:
    access = LRUA(slots=5, width=2, heads=2).double()
    state = access.initial_state(1)
    state = state._replace(
        usage=torch.tensor([[5.0, 1.0, 3.0, 0.5, 4.0]]).double(),
        weights=torch.nn.functional.one_hot(torch.tensor([[0, 4]]), 5).double(),
        memory=torch.full((1, 5, 2), 7.0).double(),
    )
    keys, strengths = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.zeros(1, 2)
    gates = torch.tensor([[SURE, -SURE]])
    _, after = access(torch.cat([keys, strengths, gates], -1).double(), state)
    # The first head writes to where it read, the second to the second in usage; both are emptied.
    expected = [[8, 9], [3, 4], [7, 7], [0, 0], [7, 7]]
    torch.testing.assert_close(after.memory[0], torch.tensor(expected).double())


@pytest.mark.parametrize(
    ("make", "value"),
    [(partial(NTM, initial_value=0.3), 0.3), (partial(LRUA, initial_value=0.3), 0.3), (DNC, 0)],
)
def test_first_rows_that_differ_are_the_same_for_every_size(make, value) -> None:
    access = make(slots=40, width=20, initial_spread=0.5).double()
    rows = access.initial_state(2).memory
    assert rows.mean().item() == pytest.approx(value, abs=0.05)
    assert rows.std().item() == pytest.approx(0.5, abs=0.05)
    assert torch.equal(rows[0], rows[1])
    for slots in (7, 100, 40):
        access.slots = slots
        other = access.initial_state(1).memory[0]
        assert other.shape == (slots, 20)
        torch.testing.assert_close(other[:40], rows[0, :slots])
    fresh = make(slots=4, width=20, initial_spread=0.5)
    torch.testing.assert_close(fresh.initial_state(1).memory[0], rows[0, :4].float())
    # No checkpoint holds them, they follow from the settings; and an average of weights can be
    # taken over any N, since no buffer has it in its shape.
    assert not access.state_dict()
    assert [buffer.shape for buffer in access.buffers()] == [(20,)]
    with torch.inference_mode():
        access.slots = 200
        access.initial_state(1)
    interface = torch.randn(1, access.interface_size, dtype=torch.float64, requires_grad=True)
    read, _ = access(interface, access.initial_state(1))
    read.sum().backward()
    assert interface.grad.any()


@pytest.mark.parametrize(
    "access",
    [
        NTM(slots=5, width=3, read_heads=2),
        DNC(slots=5, width=3, read_heads=2),
        LRUA(slots=5, width=3, heads=2),
        SAM(slots=9, width=3, heads=2),
        Stack(width=3, stacks=2, visible=3),
        MovingTape(width=3, tapes=2),
        NeuralDeque(width=3, count=2),
        Tape(width=3, read_heads=2),
        DeltaNet(value_size=3, heads=2),
        TTT(value_size=3, heads=2),
    ],
    ids=lambda access: type(access).__name__,
)
def test_a_memory_says_how_many_vectors_it_reads(access):
    """Whoever stands behind it, such as an ``OutputGate``, takes each by itself."""
    assert access.read_size == access.read_heads * 3


def test_first_rows_that_were_made_as_fake_tensors_are_not_kept() -> None:
    slotted._made_rows.cache_clear()
    make = partial(NTM, slots=7, width=5, initial_spread=0.5)
    with FakeTensorMode(allow_non_fake_inputs=True):
        make().initial_state(2)
    assert type(make().initial_state(2).memory) is torch.Tensor


def test_first_rows_are_constants_that_are_on_the_device_from_the_second_step_on() -> None:
    slotted._made_rows.cache_clear()
    access = NTM(slots=7, width=5, initial_spread=0.5).to("meta")
    with no_synchronisation(copies=True):
        access.initial_state(2)
    with no_synchronisation():
        access.initial_state(2)


def test_a_head_finds_a_first_row_by_content() -> None:
    access = NTM(slots=30, width=20, shift_range=1, initial_spread=0.5)
    state = access.initial_state(1)
    interface = torch.zeros(1, access.interface_size)
    keys, positive, unit, *_ = interface.split(access.layout.sizes, -1)
    keys[:, :20] = state.memory[0, 17]
    positive[:, 0], unit[:, 0] = SURE, SURE
    _, after = access(interface, state)
    weights = after.weights[0, 0]
    assert int(weights.argmax()) == 17
    plain = NTM(slots=30, width=20, shift_range=1)
    _, after = plain(interface, plain.initial_state(1))
    assert after.weights[0, 0].max() < 0.05


@pytest.mark.parametrize(
    ("access", "names"),
    [
        (DNC(slots=4, width=2, read_heads=2), {"writing": 1, "reading": 2}),
        (LRUA(slots=4, width=2, heads=2), {"writing": 2, "reading": 2}),
    ],
)
def test_both_addressings_are_recorded_by_name(access, names, tmp_path) -> None:
    interface = torch.randn(3, access.interface_size)
    with trace.record(access) as tape:
        _, state = access(interface, access.initial_state(3))
    assert {tape.names[part]: len(heads) for part, heads in tape.heads.items()} == names
    assert torch.equal(tape.weights[access.reading][0], state.weights)
    assert torch.equal(tape.calls("reading")[0], state.weights)
    assert tape.plot(tmp_path / "weights.png").exists()


def test_the_biases_of_an_ntm_are_those_of_its_heads_alone() -> None:
    biases = {"strength_bias": 2.0, "gate_bias": 3.0, "stay_bias": 4.0}
    access = NTM(5, 3, read_heads=2, write_heads=1, shift_range=5, least_sharpness=1.5, **biases)
    query, erase, add = access.queries(access.interface_bias()[None])
    ones = torch.ones(1, 3, 1)
    torch.testing.assert_close(query.key, torch.zeros(1, 3, 3))
    torch.testing.assert_close(query.strength, nn.functional.softplus(2 * ones))
    torch.testing.assert_close(query.sharpness, 1.5 + nn.functional.softplus(0 * ones))
    torch.testing.assert_close(query.gate, torch.sigmoid(3 * ones))
    stays = torch.tensor([0, 0, 4.0, 0, 0]).softmax(-1)
    torch.testing.assert_close(query.shift, stays.expand(1, 3, 5))
    torch.testing.assert_close(erase, torch.full((1, 1, 3), 0.5))
    torch.testing.assert_close(add, torch.zeros(1, 1, 3))


def test_each_head_of_an_ntm_may_have_biases_of_its_own() -> None:
    access = NTM(5, 3, 1, 1, strength_bias=[2.0, 1.0], gate_bias=[3.0, -3.0], move_bias=[0.0, 4.0])
    query, _, _ = access.queries(access.interface_bias()[None])
    softplus = nn.functional.softplus(torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(query.strength.flatten(), softplus)
    torch.testing.assert_close(query.gate.flatten(), torch.tensor([3.0, -3.0]).sigmoid())
    moves = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 4.0]]).softmax(-1)
    torch.testing.assert_close(query.shift[0], moves)


def test_a_bias_that_does_not_fit_the_heads_of_an_ntm() -> None:
    message = r"gate_bias must be a finite number, or one for each of the 3 heads; got \[1\.0, 2"
    with pytest.raises(ValueError, match=message):
        NTM(5, 3, read_heads=2, gate_bias=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"stay_bias must be a finite number.* got nan"):
        NTM(5, 3, stay_bias=float("nan"))
    biases = torch.tensor([1.0, 2.0])
    assert NTM(5, 3, gate_bias=biases).gate_bias == (1.0, 2.0)
    assert NTM(5, 3, shift_range=1, move_bias=[0.0, 0.0]).move_bias == (0.0, 0.0)


def test_keys_of_an_ntm_begin_as_copies_of_what_its_write_heads_add() -> None:
    access = NTM(5, 2, read_heads=1, write_heads=2, alike=True)
    keys, *_, adds = access.interface_copies().split(access.layout.sizes)
    first, second = adds.tolist()[:2], adds.tolist()[2:]
    assert keys.tolist() == [*first, *second, *first]
    assert NTM(5, 2).interface_copies() is None


def test_the_biases_of_an_lrua_are_those_of_its_strengths_and_gates() -> None:
    access = LRUA(5, 3, heads=2, strength_bias=2.0, gate_bias=-3.0)
    assert access.interface_bias().tolist() == [0.0] * 6 + [2.0] * 2 + [-3.0] * 2


class ByTheBook(Content):
    """As an addressing of one's own may be: its state is no option."""

    def forward(self, query, memory, state):
        return super().forward(query, memory, state)

    def read(self, query, memory, state):
        assert state is self.initial_state(memory)
        return super().read(query, memory, state)


def test_a_tape_hands_its_addressing_a_state():
    tape = Tape(3, 2)
    interface = torch.randn(2, tape.interface_size)
    expected, _ = tape(interface, tape.initial_state(2))
    tape.addressing = ByTheBook(tape.addressing.score)
    vectors, _ = tape(interface, tape.initial_state(2))
    assert (vectors == expected).all()
    assert ByTheBook(Dot()).initial_state(None) is None


#: All numbers with a point that a memory takes, by the class and the name.
NUMBERS = [
    (kind, name)
    for kind in map(vars(memories).get, memories.__all__)
    if inspect.isclass(kind) and issubclass(kind, MemoryAccess) and not inspect.isabstract(kind)
    for name, parameter in inspect.signature(kind).parameters.items()
    if "float" in parameter.annotation
]


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_of_a_memory_is_finite(kind, name, number):
    with pytest.raises(ValueError, match=f"{name} must be .*; got {number}"):
        kind(**{name: number})


@pytest.mark.parametrize("kind", [NTM, Stack, MovingTape, NeuralDeque])
@pytest.mark.parametrize("noise", [-1.0, math.nan, math.inf, None, "much"])
def test_noise_that_is_changed_is_checked_too(kind, noise):
    memory = kind(noise=0.5)
    with pytest.raises(ValueError, match=f"noise must be at least 0 and finite; got {noise!r}"):
        memory.noise = noise
    assert memory.noise == 0.5
