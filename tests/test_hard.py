"""Hard addressing: one-hot weights, and runs by the places of heads."""

from functools import partial
from unittest import mock

import pytest
import torch

import memnets as mn
from memnets import addressing, fast, functional
from memnets.cells import LSTM, Loop
from memnets.core import Memory
from memnets.kernels import hard, native
from memnets.memories import DNC, NTM, DeltaNet, Tape
from memnets.training import MemorySchedule
from tasks import Copying


def loop(seed, **settings):
    torch.manual_seed(seed)
    machine = Loop(3, partial(LSTM, hidden_size=4), NTM(hard=True, **settings)).double()
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.mul_(1 + 3 * (seed % 4))  # some gates open and some close
    return machine


def test_of_equal_weights_the_first_is_chosen_whatever_their_last_digits():
    even = torch.full((5,), 0.2)
    rounded = even * (1 + 1e-6 * torch.tensor([0.0, 1.0, -1.0, 3.0, 2.0]))
    rows = torch.stack([even, rounded, torch.tensor([0.1, 0.1, 0.2, 0.3, 0.3])])
    assert functional.harden(rows).argmax(-1).tolist() == [0, 0, 3]
    assert functional.harden(rows).sum(-1).tolist() == [1, 1, 1]


def test_a_row_that_sums_to_less_than_a_half_is_no_slot():
    rows = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.3, 0.05], [0.0, 0.6, 0.0]])
    assert functional.harden(rows).tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("masked", [False, True])
def test_a_hard_head_of_an_ntm_is_on_the_greatest_weight_of_the_soft_one(masked):
    torch.manual_seed(0)
    keys = torch.randn(20, 7, 4, dtype=torch.double)
    mask = (torch.rand(20, 1, 7) < 0.7) | (torch.arange(7) == 3) if masked else None
    memory = Memory(keys, keys, mask)
    query = addressing.NTMQuery(
        key=torch.randn(20, 2, 4, dtype=torch.double),
        strength=3 * torch.rand(20, 2, 1, dtype=torch.double),
        gate=torch.rand(20, 2, 1, dtype=torch.double),
        shift=torch.rand(20, 2, 3, dtype=torch.double).softmax(-1),
        sharpness=1 + 5 * torch.rand(20, 2, 1, dtype=torch.double),
    )
    head = addressing.NTMAddressing()
    state = torch.nn.functional.one_hot(torch.randint(7, (20, 2)), 7).double()
    if mask is not None:
        state[:] = torch.eye(7, dtype=torch.double)[3]
    soft, _ = head(query, memory, state)
    head.hard = True
    found, kept = head(query, memory, state)
    assert found.argmax(-1).equal(soft.argmax(-1))
    assert kept is found


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"slots": 9, "width": 3},
        {"slots": 19, "width": 2, "read_heads": 2, "write_heads": 2, "shift_range": 5},
    ],
    ids=["one", "several"],
)
def test_a_run_by_places_is_the_definition_bit_for_bit(settings, masked):
    looks = walks = 0
    for seed in range(8):
        machine = loop(seed, **settings, gate_bias=-3.0 * (seed % 3))
        inputs = torch.randn(3, 12, 3, dtype=torch.double)
        mask = torch.rand(3, 12) < 0.8 if masked else None
        state = machine.initial_state(3)
        with torch.no_grad():
            with fast.naive():
                expected, last = machine.unroll(inputs, state, mask)
            with mock.patch.object(
                NTM, "queries", side_effect=NTM.queries, autospec=True
            ) as asked, mock.patch.object(
                addressing.NTMAddressing, "forward", autospec=True,
                side_effect=addressing.NTMAddressing.forward,
            ) as looked:  # fmt: skip
                found, end = hard.unroll(machine, inputs, state, mask)
        seen = torch.ones(3, 12, dtype=torch.bool) if mask is None else mask
        assert found[seen].equal(expected[seen])
        assert end.read.equal(last.read)
        assert all(one.equal(other) for one, other in zip(end.access, last.access, strict=True))
        looks += looked.call_count
        walks += asked.call_count - looked.call_count
    assert walks > 0, "no step went without a look"
    assert looks > 0, "no step looked"


def test_a_margin_that_is_wrong_is_found(monkeypatch):
    monkeypatch.setattr(hard, "MARGIN", -0.9)  # heads that should look do not
    with pytest.raises(AssertionError):
        test_a_run_by_places_is_the_definition_bit_for_bit({"slots": 9, "width": 3}, False)


def test_which_twin_runs():
    machine = loop(0, slots=5, width=3)
    inputs, state = torch.randn(1, 4, 3, dtype=torch.double), machine.initial_state(1)

    def found():
        return fast.find(machine, "unroll", inputs, state, None)

    by_places = native.unroll_places if native.build.why_not() is None else hard.unroll
    with torch.no_grad():
        assert found() is by_places
        soft = state._replace(access=state.access._replace(weights=state.access.weights / 2))
        assert fast.find(machine, "unroll", inputs, soft, None) not in (by_places, hard.unroll)
        machine.access.hard = False
        assert found() not in (by_places, hard.unroll)
        machine.access.hard = True
    assert found() not in (by_places, hard.unroll), "it would lose the gradient"


@pytest.mark.parametrize("true", [True, 1])
def test_a_twin_that_does_not_know_hard_weights_does_not_run(true):
    for access in (DNC(slots=5, width=3), Tape(width=3)):
        access.hard = true
        machine = Loop(3, partial(LSTM, hidden_size=4), access)
        inputs = torch.randn(2, 6, 3)
        found, _ = machine.unroll(inputs, machine.initial_state(2))
        with fast.naive():
            expected, _ = machine.unroll(inputs, machine.initial_state(2))
        assert torch.allclose(found, expected, atol=1e-5)
    content = addressing.Content(mn.scores.Dot())
    content.hard = true
    vectors, _ = content.read(torch.randn(2, 1, 3), Memory(torch.randn(2, 4, 3), torch.eye(4)))
    assert ((vectors == 0) | (vectors == 1)).all()


def test_a_memory_sets_all_its_heads():
    access = DNC(slots=5, width=3)
    assert not access.hard
    access.writing.hard = True
    assert not access.hard
    access.hard = True
    assert access.reading.hard
    assert NTM(hard=True).hard
    with pytest.raises(ValueError, match="DeltaNet has no addressing that could be hard"):
        DeltaNet(4, 4).hard = True


def test_pieces_of_a_sequence_are_the_sequence():
    machine = mn.MemoryMachine(
        3, 2, partial(LSTM, hidden_size=4), NTM(slots=9, width=3, hard=True)
    ).double()
    inputs, state = torch.randn(2, 12, 3, dtype=torch.double), machine.initial_state(2)
    with torch.no_grad():
        whole, _ = machine(inputs)
        parts = []
        for piece in inputs.split(5, 1):
            logits, state = machine(piece, state)
            parts.append(logits)
    assert torch.allclose(torch.cat(parts, 1), whole)


def test_a_schedule_hardens_the_last_part_and_leaves_tests_as_the_model_says():
    schedule = MemorySchedule({0.0: {"hard": False}, 0.5: {"noise": 1.0}})
    machine = mn.MemoryMachine(9, 8, partial(LSTM, hidden_size=4), NTM(slots=5, hard=True))
    trainer = mock.Mock(estimated_stepping_batches=10, datamodule=Copying(), is_global_zero=True)
    schedule.setup(trainer, machine, "fit")
    seen = []
    for trainer.global_step in (0, 4, 5):
        schedule.on_train_batch_start(trainer, machine, None, 0)
        seen.append(machine.access.hard)
    trainer.global_step = 0
    schedule.on_train_batch_start(trainer, machine, None, 0)
    schedule.on_validation_start(trainer, machine)
    assert [*seen, machine.access.hard] == [False, False, True, True]


def test_gradients_of_hard_heads_do_not_grow_over_many_steps():
    machine = loop(0, slots=12, width=3, initial_value=0.1)
    inputs = torch.randn(1, 200, 3, dtype=torch.double)
    outputs, _ = machine.unroll(inputs, machine.initial_state(1))
    gradients = torch.autograd.grad(outputs.sum(), list(machine.parameters()))
    assert max(gradient.abs().max() for gradient in gradients) < 1e6
