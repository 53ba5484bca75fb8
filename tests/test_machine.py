"""The memory machine: against pytorch-ntm, with truncated gradients, with bad input."""

import os
import sys
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from memnets import fast
from memnets.batches import Batch
from memnets.cells import GRU, LSTM, Chain, FeedForward, Loop, LoopState, Mixer
from memnets.core import map_state
from memnets.memories import DNC, LRUA, NTM, SAM, NTMState, Tape
from memnets.models import MemoryMachine, SequenceState
from tasks import Copying


def machine(access=None, controller=LSTM, **settings) -> MemoryMachine:
    torch.manual_seed(0)
    access = NTM(slots=7, width=4, read_heads=2, write_heads=2) if access is None else access
    return MemoryMachine(
        4, 3, partial(controller, hidden_size=6), access=access, **settings
    ).double()


def mixed_batch(index: int = 0) -> Batch:
    batch = Copying(3, 1, 5, mixed_lengths=True, batch_size=6).batch("train", index)
    return map_state(lambda part: part.double() if part.is_floating_point() else part, batch)


def test_parity_with_pytorch_ntm() -> None:
    """The same numbers as pytorch-ntm with its weights, to 1e-12."""
    checkout = os.environ.get("PYTORCH_NTM")
    if not checkout:
        pytest.skip("needs PYTORCH_NTM=<a checkout of loudinthecloud/pytorch-ntm>")
    sys.path.insert(0, checkout)
    from ntm.aio import EncapsulatedNTM

    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(3)
        theirs = EncapsulatedNTM(9, 8, 20, 1, 1, 16, 6)
        access = NTM(slots=16, width=6)
        access.addressing.score.epsilon = 1e-32  # type: ignore[assignment]
        ours = MemoryMachine(9, 8, partial(LSTM, hidden_size=20), access)
        _copy_weights(theirs, ours)
        inputs = torch.randn(5, 12, 9)
        theirs.init_sequence(5)
        reads, (hidden, cell), _ = theirs.previous_state
        state = LoopState(
            type(ours.controller.initial_state(1))((hidden[0],), (cell[0],)),
            NTMState(theirs.memory.memory, torch.zeros(5, 2, 16)),
            reads[0],
        )
        steps = torch.zeros(5, dtype=torch.long)
        logits, state = ours(inputs, SequenceState(state, steps))
        warnings.simplefilter("ignore")  # its sigmoid is deprecated
        outputs = torch.stack([theirs(step)[0] for step in inputs.unbind(1)], 1)
    finally:
        torch.set_default_dtype(torch.float32)
    assert (logits.sigmoid() - outputs).abs().max() < 1e-12
    assert (state.body.access.memory - theirs.memory.memory).abs().max() < 1e-12


def _copy_weights(theirs, ours: MemoryMachine) -> None:
    """Their read and write heads are a layer each; ours lie side by side in the interface."""
    read, write = theirs.ntm.heads[0].fc_read, theirs.ntm.heads[1].fc_write
    width = 6

    def interleave(ours_rows, read_rows, write_rows) -> None:
        # theirs: key, strength, gate, shift (forward, stay, back), sharpness[, erase, add]
        key, rest, write_rest = slice(0, width), read_rows[width:], write_rows[width:]
        parts = [read_rows[key], write_rows[key]]
        parts += [rest[0:1], write_rest[0:1], rest[5:6], write_rest[5:6]]
        parts += [rest[1:2], write_rest[1:2], write_rest[6 : 6 + width]]
        parts += [rest[2:5].flip(0), write_rest[2:5].flip(0), write_rest[6 + width :]]
        ours_rows.copy_(torch.cat(parts))

    with torch.no_grad():
        interleave(ours.interface.weight, read.weight, write.weight)
        interleave(ours.interface.bias, read.bias, write.bias)
        ours.output.load_state_dict(theirs.ntm.fc.state_dict())
        ours.controller.lstm.load_state_dict(theirs.ntm.controller.lstm.state_dict())


def answers_and_gradients(model, inputs, state):
    """What a machine makes of a sequence in two halves, and every gradient of it."""
    sources = [inputs, *model.parameters()]
    map_state(lambda part: sources.append(part) if part.requires_grad else None, state)
    first, between = model(inputs[:, :2], state)
    second, last = model(inputs[:, 2:], between)
    results = [first, second]
    map_state(lambda part: results.append(part) if part.requires_grad else None, last)
    torch.manual_seed(1)
    total = sum((torch.randn_like(result) * result).sum() for result in results)
    return results, torch.autograd.grad(total, sources)


def random_state(model):
    """A state of the machine after a few steps, of which gradients may be asked."""
    torch.manual_seed(2)
    with torch.no_grad():
        _, state = model(torch.randn(3, 4, 4, dtype=torch.float64))
    return map_state(
        lambda part: part.clone().requires_grad_() if part.is_floating_point() else part, state
    )


@pytest.mark.parametrize(
    "access",
    [
        DNC(slots=6, width=3),
        DNC(slots=5, width=3, read_heads=2),
        NTM(slots=6, width=3),
        NTM(slots=7, width=3, read_heads=2, write_heads=3, shift_range=5),
    ],
)
def test_a_run_as_one_node_is_its_steps(access) -> None:
    model = machine(access)
    inputs = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    state = random_state(model)
    quick = answers_and_gradients(model, inputs, state)
    with fast.naive():
        plain = answers_and_gradients(model, inputs, state)
    torch.testing.assert_close(quick, plain, rtol=1e-9, atol=1e-11)
    _, last = model(inputs)
    assert last.body.access.memory.grad_fn.name() == "_RunBackward"
    with torch.no_grad():
        logits, _ = model(inputs[:, :2], state)
    assert logits.grad_fn is None
    assert torch.equal(logits, quick[0][0])


class Louder(DNC):
    """Not the steps of a DNC, though it inherits them."""

    def forward(self, interface, state):
        vectors, state = super().forward(interface, state)
        return 2 * vectors, state


@pytest.mark.parametrize(
    ("access", "controller"),
    [
        (Louder(slots=5, width=3), LSTM),
        (DNC(slots=5, width=3), partial(LSTM, layers=2)),
        (DNC(slots=5, width=3), GRU),
        (LRUA(slots=5, width=3, heads=1), LSTM),
    ],
)
def test_machines_of_other_parts_take_the_steps_of_these(access, controller) -> None:
    model = machine(access, controller)
    inputs = torch.randn(2, 3, 4, dtype=torch.float64)
    outputs, _ = model(inputs)
    state = model.body.initial_state(2)
    for step, expected in zip(inputs.unbind(1), outputs.unbind(1), strict=True):
        hidden, controlled = model.controller(torch.cat([step, state.read], -1), state.controller)
        read, accessed = model.access(model.interface(hidden), state.access)
        state = LoopState(controlled, accessed, read)
        torch.testing.assert_close(model.output(torch.cat([hidden, read], -1)), expected)


@pytest.mark.parametrize("make", [LSTM, GRU])
def test_all_steps_at_once_see_the_weights_of_a_parametrization(make) -> None:
    """Weight normalisation gives a recurrent network other tensors than it was made with."""
    torch.manual_seed(0)
    cell = make(3, hidden_size=4)
    network = weight_norm(getattr(cell, make.__name__.lower()), "weight_hh_l0")
    with torch.no_grad():
        network.parametrizations.weight_hh_l0.original0.mul_(3)
    inputs, mask = torch.randn(2, 5, 3), torch.ones(2, 5, dtype=torch.bool)
    fused, _ = cell.unroll(inputs, cell.initial_state(2))
    # With a mask, the steps are taken one by one.
    stepped, _ = cell.unroll(inputs, cell.initial_state(2), mask)
    torch.testing.assert_close(fused, stepped)
    fused.sum().backward()
    assert all(parameter.grad.any() for parameter in cell.parameters())


def test_noise_of_an_ntm_is_the_same_in_a_run_and_in_its_steps() -> None:
    model = machine(NTM(slots=5, width=3, noise=0.3))
    inputs = torch.randn(2, 4, 4, dtype=torch.float64)
    torch.manual_seed(3)
    noisy, _ = model(inputs)
    torch.manual_seed(3)
    with fast.naive():
        plain, _ = model(inputs)
    torch.testing.assert_close(noisy, plain)
    assert not torch.allclose(noisy, model.eval()(inputs)[0])


@pytest.mark.parametrize("tbptt_steps", [1, 3, 4, 100])
def test_truncation_detaches_every_so_many_steps_and_no_more(tbptt_steps: int) -> None:
    batch = mixed_batch()
    model = machine(tbptt_steps=tbptt_steps)
    loss = model.loss(batch)
    (2 * loss).backward()
    ours = [parameter.grad.clone() for parameter in model.parameters()]

    # Naive: the graph of all steps, detached.
    inputs = torch.cat([batch.source, batch.inputs], 1)
    mask = torch.cat([batch.source_mask, torch.ones_like(batch.target_mask)], 1)
    state, logits = model.initial_state(6), []
    for step in range(inputs.shape[1]):
        if step % tbptt_steps == 0:
            state = map_state(torch.detach, state)
        out, state = model(inputs[:, step : step + 1], state, mask[:, step : step + 1])
        logits.append(out)
    answered = torch.cat(logits, 1)[:, batch.source.shape[1] :]
    losses = model.objective.losses(answered, batch.targets)
    expected = losses.masked_fill(~batch.target_mask, 0).sum() / batch.target_mask.sum()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    theirs = torch.autograd.grad(2 * expected, list(model.parameters()))
    for mine, naive in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, naive, atol=1e-12)


def test_truncation_longer_than_the_sequence_changes_nothing() -> None:
    batch = mixed_batch()
    one, two = machine(), machine(tbptt_steps=1000)
    for ours, theirs in zip(
        torch.autograd.grad(one.loss(batch), list(one.parameters())),
        torch.autograd.grad(two.loss(batch), list(two.parameters())),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_the_number_of_slots_may_change_after_training() -> None:
    model = machine(NTM(slots=5, width=3))
    before = model.state_dict()
    model.access.slots = 50
    model.load_state_dict(before)
    _, state = model(torch.zeros(2, 3, 4, dtype=torch.float64))
    assert state.body.access.memory.shape == (2, 50, 3)


def test_a_batch_of_mixed_lengths_is_each_sequence_alone() -> None:
    batch, model = mixed_batch(), machine()
    together = model.logits(batch)
    for sequence in range(6):
        steps = int(batch.source_mask[sequence].sum())
        answer = int(batch.target_mask[sequence].sum())
        state = model.encode(batch.source[sequence : sequence + 1, :steps])
        alone, _ = model.decode(batch.inputs[sequence : sequence + 1, :answer], state)
        assert torch.allclose(alone[0], together[sequence, :answer], atol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m(torch.zeros(2, 3, 5)), ValueError, r"\[batch, time, 4\]; got \[2, 3, 5\]"),
        (lambda m: m(torch.zeros(3, 4)), ValueError, r"\[batch, time, 4\]; got \[3, 4\]"),
        (
            lambda m: m.encode(torch.zeros(2, 3, 4), torch.ones(2, 3)),
            TypeError,
            "mask must be boolean.*got torch.float32",
        ),
        (
            lambda m: m.encode(torch.zeros(2, 3, 4), torch.ones(3, 2, dtype=torch.bool)),
            ValueError,
            r"\[batch, time\] = \[2, 3\]; got \[3, 2\]",
        ),
        (lambda m: NTM(slots=2), ValueError, "slots must be at least shift_range = 3; got 2"),
        (lambda m: NTM(shift_range=4), ValueError, "shift_range must be odd.*got 4"),
        (
            lambda m: NTM(shift_range=1, move_bias=1.0),
            ValueError,
            "move_bias needs a shift_range of at least 3, for a shift by 1; got 1",
        ),
        (lambda m: NTM(read_heads=0), ValueError, "read_heads must be .* at least 1; got 0"),
        (lambda m: NTM(write_heads=-1), ValueError, "write_heads must be .* at least 1; got -1"),
        (
            lambda m: NTM(initial_spread=-0.5),
            ValueError,
            "initial_spread must be at least 0 and finite; got -0.5",
        ),
        (lambda m: NTM(noise=-1.0), ValueError, "noise must be at least 0 and finite; got -1.0"),
        (lambda m: NTM(least_sharpness=0.5), ValueError, "at least 1 and finite; got 0.5"),
        (lambda m: setattr(m.access, "slots", 1), ValueError, "slots must be at least"),
        (lambda m: Tape(width=0), ValueError, "width must be .* got 0"),
        (lambda m: machine(tbptt_steps=0), ValueError, "tbptt_steps must be .* got 0"),
        (lambda m: LSTM(3, 0), ValueError, "hidden_size must be .* got 0"),
        (lambda m: GRU(3, layers=True), ValueError, "layers must be .* got True"),
        (lambda m: FeedForward(0), ValueError, "input_size must be .* got 0"),
        (lambda m: Chain(3, []), ValueError, "at least one controller; got none"),
        (lambda m: DNC(slots=0), ValueError, "slots must be .* at least 1; got 0"),
        (lambda m: DNC(read_heads=0), ValueError, "read_heads must be .* at least 1; got 0"),
        (lambda m: LRUA(slots=3), ValueError, "slots must be at least heads = 4; got 3"),
        (lambda m: LRUA(heads=0), ValueError, "heads must be .* at least 1; got 0"),
        (lambda m: LRUA(decay=1.5), ValueError, r"decay must be in \[0, 1\]; got 1.5"),
        (lambda m: machine(schedule="linear"), ValueError, "or 'stable_decay'; got 'linear'"),
        (lambda m: machine(warmup_steps=-1), ValueError, "warmup_steps must be at least 0; got -1"),
    ],
)
def test_bad_input_is_named(call, error, message: str) -> None:
    with pytest.raises(error, match=message):
        call(machine().float())


def test_an_empty_sequence_changes_no_state() -> None:
    model = machine()
    state = model.initial_state(2)
    logits, after = model(torch.zeros(2, 0, 4, dtype=torch.float64), state)
    assert logits.shape == (2, 0, 3)
    assert after is state


def test_a_machine_without_memory_is_its_controller() -> None:
    torch.manual_seed(0)
    model = MemoryMachine(4, 3, partial(LSTM, hidden_size=6, layers=2))
    assert isinstance(model.controller, nn.Module)
    inputs = torch.randn(2, 5, 4)
    hidden, _ = model.controller.lstm(inputs)
    assert torch.allclose(model(inputs)[0], model.output(hidden))


@pytest.mark.parametrize("cell", [partial(Loop, 3, LSTM), partial(Mixer, 3)])
def test_copies_that_a_memory_names_are_the_first_weights_of_its_interface(cell) -> None:
    access = SAM(slots=6, width=2, heads=2, alike=True)
    layer = cell(access).interface
    for rows in (layer.weight, layer.bias):
        queries, adds, _, _ = rows.split(access.layout.sizes)
        assert torch.equal(queries, adds)
    layer = cell(SAM(slots=6, width=2, heads=2)).interface
    queries, adds, _, _ = layer.weight.split(access.layout.sizes)
    assert not torch.isclose(queries, adds).any()


def test_first_biases_of_the_heads_reach_their_part_of_the_interface() -> None:
    torch.manual_seed(0)
    plain = MemoryMachine(3, 2, partial(LSTM, hidden_size=5), NTM(6, 4, 2, 1))
    torch.manual_seed(0)
    access = NTM(6, 4, 2, 1, strength_bias=1.0, gate_bias=-3.0, stay_bias=2.0)
    biased = MemoryMachine(3, 2, partial(LSTM, hidden_size=5), access)
    for one, other in zip(plain.state_dict().items(), biased.state_dict().items(), strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1]) == (one[0] != "body.interface.bias"), one[0]
    nothing = torch.zeros(1, access.interface_size)
    query, _, _ = access.queries(nothing + biased.interface.bias - plain.interface.bias)
    assert torch.allclose(query.gate, torch.tensor(-3.0).sigmoid())
    stay = torch.tensor([0.0, 2.0, 0.0]).softmax(-1)
    assert torch.allclose(query.shift, stay.expand(1, 3, 3))
    assert torch.allclose(query.strength, (1 + torch.tensor(1.0).exp()).log())


def test_a_clock_ticks_from_the_source_on_through_the_answer() -> None:
    """A machine hears the number of a step, its padding left out, modulo the period."""
    ticking = machine(clock=3)
    assert ticking.inputs.positions is not None
    weight = ticking.inputs.positions.weight
    source, inputs = torch.tensor([[1, 2, 3, 1], [2, 2, 0, 0]]), torch.tensor([[1, 1], [1, 1]])
    mask = torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    logits, _ = ticking.decode(inputs, ticking.encode(source, mask))
    for row, length in enumerate((4, 2)):
        tokens = torch.cat([source[row, :length], inputs[row]])
        heard = 2 * nn.functional.one_hot(tokens, 4) + weight[torch.arange(length + 2) % 3]
        features, _ = ticking.body.unroll(heard.unsqueeze(0), ticking.body.initial_state(1))
        torch.testing.assert_close(logits[row], ticking.output(features)[0, length:])
