"""Interventions: a recorded run again, with changes from some step on."""

from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import nn

from memnets import decoding, events, fast
from memnets.addressing import Content, Local
from memnets.batches import END, Batch
from memnets.cells import GRU, LSTM, SelfAttention
from memnets.core import Cell, Memory, map_state
from memnets.encoders import Recurrent
from memnets.memories import DNC, LRUA, NTM, Tape
from memnets.models import (
    KeyValueNetwork,
    MemoryMachine,
    PointerNetwork,
    Seq2Seq,
    Transformer,
)
from memnets.scores import Dot
from memnets.training.objectives import Tokens
from memnets.viewing import trace
from memnets.viewing.interventions import Freeze, Hide, Overwrite, Swap, Weights

ACCESS, ADDRESSING = "body.access", "body.access.addressing"
SLOTS, WIDTH = 6, 3


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def machine(access=None) -> MemoryMachine:
    access = NTM(SLOTS, WIDTH, read_heads=2) if access is None else access
    return MemoryMachine(2, 2, partial(LSTM, hidden_size=5), access).eval()


def batch(rows: int = 3, steps: int = 4) -> Batch:
    source, inputs = torch.randn(2, rows, steps, 2)
    return Batch(source, inputs, torch.zeros(rows, steps, 2))


def recorded(model, *arguments):
    """A tape of everything while the model gives logits."""
    with torch.no_grad(), trace.record(model, kinds=None) as tape:
        model.logits(*(arguments or (batch(),)))
    return tape


def differing(tape, other) -> list[int]:
    """Steps of the answer at which two runs differ."""
    changed = (tape.outputs[0] != other.outputs[0]).any(2).any(0)
    return changed.nonzero().flatten().tolist()


def language(**settings) -> Seq2Seq:
    encoder = partial(Recurrent, controller=partial(GRU, hidden_size=4))
    attention = settings.pop("attention", Content(Dot()))
    # Sharp, so that what is read decides the answer.
    model = Seq2Seq(9, 9, encoder, partial(GRU, hidden_size=6), attention, 6, **settings).eval()
    model.objective = Tokens()
    return model


def words(rows: int = 2) -> Batch:
    source, inputs = torch.randint(3, 9, (2, rows, 5))
    return Batch(source, inputs, inputs)


class Shelf(NamedTuple):
    """State of a :class:`Notes`."""

    memory: torch.Tensor


class Notes(Cell[Shelf]):
    """A user's own: writes each input to the next of four slots, and gives their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size = self.output_size = 3
        self.scale = nn.Parameter(torch.ones(3))

    def initial_state(self, batch_size):
        return Shelf(self.scale.new_zeros(batch_size, 4, 3))

    def forward(self, inputs, state):
        memory = torch.cat([state.memory[:, 1:], self.scale * inputs.unsqueeze(1)], 1)
        events.report(self, memory=memory)
        return memory.sum(1), Shelf(memory)


# -- what is changed -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("access", "name"),
    [
        (NTM(SLOTS, WIDTH), "addressing"),
        (DNC(SLOTS, WIDTH), "writing"),
        (LRUA(SLOTS, WIDTH, 1), "writing"),
    ],
    ids=["NTM", "DNC", "LRUA"],
)
def test_a_slot_that_is_wiped_is_zero_in_the_memory_of_that_step(access, name):
    tape = recorded(machine(access))
    # Written until then, and no more from then on.
    fill = Weights(f"{ACCESS}.{name}", slot=1, stop=5)
    stop = Weights(f"{ACCESS}.{name}", weights=[0.0] * SLOTS, start=5)
    full = tape.intervene(fill, stop)
    wiped = full.intervene(Overwrite(ACCESS, slot=1, start=6))
    assert (wiped.calls(ACCESS, "memory")[5][:, 1] != 0).all()
    assert (wiped.calls(ACCESS, "memory")[6][:, 1] == 0).all()
    others = [slot for slot in range(SLOTS) if slot != 1]
    for step in (5, 6, 7):
        now, before = (each.calls(ACCESS, "memory")[step] for each in (wiped, full))
        assert torch.equal(now[:, others], before[:, others])
    assert wiped.original is full
    assert [each.describe() for each in wiped.interventions] == [
        "in steps 0 to 4: body.access." + name + " looks at slot 1 alone",
        "from step 5 on: the weights of body.access." + name + " are replaced",
        "at step 6: slot 1 of body.access is wiped",
    ]


def test_a_slot_may_be_held():
    tape = recorded(machine())
    value = [1.0, 2.0, 3.0]
    held = tape.intervene(
        Overwrite(ACCESS, 2, value, sequence=1, start=3, hold=True),
        Weights(ADDRESSING, weights=[0.0] * SLOTS, head="write 1", start=3),
    )
    for step, memory in enumerate(held.calls(ACCESS, "memory")):
        same = (memory[:, 2] == torch.tensor(value)).all(1)
        assert same.tolist() == [False, step >= 3, False]
    described = held.interventions[0].describe()
    assert described == (
        "from step 3 on: slot 2 of body.access, in sequence 1, is kept overwritten with (1, 2, 3)"
    )


def test_forced_weights_are_those_of_the_next_state():
    still = [
        Freeze(ADDRESSING, "gate", 0.0, start=6),
        Freeze(ADDRESSING, "shift", (0.0, 1.0, 0.0), start=6),
    ]
    tape = recorded(machine())
    other = tape.intervene(Weights(ADDRESSING, 4, head="read 2", start=5, stop=6), *still)
    for step in (5, 6, 7):  # the head stays where it was put
        assert other.calls(ADDRESSING)[step][:, 1].argmax(-1).tolist() == [4, 4, 4]
    assert torch.equal(other.calls(ACCESS, "read")[5], other.calls(ADDRESSING)[5][:, :2])
    # Of the DNC, both addressings keep their weights.
    memory = Memory(*[torch.randn(1, SLOTS, WIDTH)] * 2)
    access = DNC(SLOTS, WIDTH)
    query = access.queries(torch.randn(1, access.interface_size))
    for addressing, asked in ((access.writing, query.writing), (access.reading, query.reading)):
        wanted = torch.full((1, 1, SLOTS), 1 / SLOTS)

        def even(part, kind, value, wanted=wanted):
            return wanted if kind == "weights" else value

        with events.edit(even, [addressing]):
            used, state = addressing(asked, memory, addressing.initial_state(memory))
        assert used is wanted
        assert state[-1] is wanted


def test_a_field_stays_as_it_was_or_has_a_value():
    tape = recorded(machine())
    queries = []

    def look(part, kind, value):
        if kind == "query":
            queries.append(value)
        return value

    part = tape.model.get_submodule(ADDRESSING)
    with events.edit(look, [part]):
        tape.intervene(
            Freeze(ADDRESSING, "gate", start=3),
            Freeze(ADDRESSING, "strength", 9.0, head=2, sequence=1, start=2, stop=4),
        )
    # The editor around it sees what the part would have used.
    assert not torch.equal(queries[3].gate, queries[2].gate)
    kept = Freeze(ADDRESSING, "gate", start=3)
    assert kept.describe() == (
        "from step 3 on: the gate of body.access.addressing stays as before step 3"
    )
    assert differing(tape, tape.intervene(kept)) == [0, 1, 2, 3]  # the source has 4 steps
    memory = tape.intervene(Freeze(ACCESS, "memory", start=5))
    assert differing(tape, memory) == [2, 3]  # what step 5 writes is read at step 6


def test_what_else_a_memory_offers_stays():
    tape = recorded(machine(DNC(SLOTS, WIDTH, read_heads=2)))
    other = tape.intervene(
        Freeze(ACCESS, "free_gates", 1.0, head=1, start=2),
        Freeze(ACCESS, "erase", start=4),
        Freeze(ACCESS, "add", (1.0, 2.0, 3.0), sequence=2, stop=1),
    )
    for step in range(8):
        free, erase, add = (
            other.calls(ACCESS, kind)[step] for kind in ("free_gates", "erase", "add")
        )
        assert bool((free[:, 1] == 1).all()) == (step >= 2)
        assert not (free[:, 0] == 1).any()
        assert torch.equal(erase, other.calls(ACCESS, "erase")[3]) == (step >= 3)
        assert (add == torch.tensor([1.0, 2.0, 3.0])).all(-1).any() == (step == 0)


def test_two_memories_are_swapped():
    tape = recorded(machine())
    other = tape.intervene(Swap("body", 0, 2, start=4))
    # All that the machine knows of the source has changed places, and the inputs differ.
    assert torch.equal(tape.outputs[0][1], other.outputs[0][1])
    given = batch()
    same = given._replace(inputs=given.inputs[:1].expand(3, -1, -1))
    tape = recorded(machine(), same)
    other = tape.intervene(Swap("body", 0, 2, start=4))
    assert torch.equal(tape.outputs[0][[2, 1, 0]], other.outputs[0])
    only = tape.intervene(Swap(ACCESS, 0, 2, start=4, field="memory"))
    assert not torch.equal(only.outputs[0], other.outputs[0])
    assert only.interventions[0].describe() == (
        "at step 4: sequences 0 and 2 swap the memory of body.access"
    )


def test_the_memory_of_an_own_cell():
    cell = Notes()
    inputs = torch.randn(2, 5, 3)
    with trace.record(cell, kinds=None) as tape:
        cell.unroll(inputs, cell.initial_state(2))
    other = tape.intervene(Overwrite(cell, slot=3, start=3))
    # Before step 3, slot 3 holds the input of step 2.
    expected = inputs.cumsum(1)
    expected[:, 4] -= inputs[:, 0]
    expected[:, 3:] -= inputs[:, 2:3]
    torch.testing.assert_close(other.outputs[0][0], expected)
    assert other.interventions[0].describe() == "at step 3: slot 3 of the model is wiped"


# -- all steps at once -----------------------------------------------------------------------------


def test_queries_of_one_call_are_steps():
    model = language(attend="after")
    given = words()
    tape = recorded(model, given)
    assert tape.calls("attention")[0].shape == (2, 5, 5)
    change = [
        Weights("attention", 1, start=3, sequence=0),
        Freeze("attention", "query", start=2, stop=3),
    ]
    other = tape.intervene(*change)
    weights, before = other.over_time("attention")[0], tape.over_time("attention")[0]
    assert torch.equal(weights[:2], before[:2])
    assert torch.equal(weights[2], weights[1])
    assert not torch.equal(before[2], before[1])
    assert weights[3:, 1].tolist() == [1.0, 1.0]
    assert differing(tape, other) == [2, 3, 4]
    # One call for each step gives the same.
    with torch.no_grad(), trace.record(model) as steps:
        state = model.encode(given.source)
        for step in given.inputs.split(1, 1):
            _, state = model.decode(step, state)
    singly = steps.intervene(*change)
    logits = torch.cat([logits for logits, _ in singly.outputs[1:]], 1)
    torch.testing.assert_close(logits, other.outputs[0])


def test_self_attention_takes_single_steps_where_its_slots_change():
    model = Transformer(9, 9, width=8, heads=2, layers=1, hidden_size=8).eval()
    name = "decoder.cells.0.cells.0.cell"
    assert isinstance(model.get_submodule(name), SelfAttention)
    tape = recorded(model, words())
    other = tape.intervene(Overwrite(name, slot=1, start=3))
    assert other.original is not tape
    assert other.original.interventions == []
    torch.testing.assert_close(other.original.outputs, tape.outputs)
    assert differing(other.original, other) == [3, 4]
    # More changes of the same part need no new recording of the run before.
    assert other.intervene(Overwrite(name, slot=0, start=4)).original is other
    heads = tape.intervene(Weights(f"{name}.attention.addressing", 0, head="head 2", start=4))
    assert heads.original is tape
    weights = heads.over_time(f"{name}.attention.addressing")
    assert weights[0, 4, 0] < 1.0
    assert weights[1, 4, 0] == 1.0


def test_a_hidden_slot_gets_no_weight():
    model = language(attention=Local(Dot(), reach=9))
    tape = recorded(model, words())
    other = tape.intervene(Hide("attention", 2, start=1, stop=4))
    weights = other.over_time("attention", 1)[0]
    assert (weights[:, 2] == 0).tolist() == [False, True, True, True, False]
    assert other.interventions[0].describe() == "in steps 1 to 3: attention cannot see slot 2"


# -- answers ---------------------------------------------------------------------------------------


def test_a_pointer_points_where_it_is_told():
    encoder = partial(Recurrent, controller=partial(GRU, hidden_size=4))
    model = PointerNetwork(2, encoder, partial(GRU, hidden_size=4), Content(Dot()), 4).eval()
    source = torch.rand(2, 5, 2)
    with torch.no_grad(), trace.record(model) as tape:
        tape.run(decoding.greedy, model, source[:1], max_length=4)
    before = tape.outputs[0][0].tolist()
    choice = next(slot for slot in range(5) if END + 1 + slot != before[0])
    other = tape.intervene(Weights("attention", choice, stop=1))
    assert other.outputs[0][0, 0] == END + 1 + choice
    assert tape.outputs[0][0].tolist() == before


def test_a_search_answers_anew():
    model = language(attend="after")
    given = words(rows=1)
    with torch.no_grad(), trace.record(model) as tape:
        answer = tape.run(model.objective.respond, model, given)
    assert torch.equal(answer, tape.outputs[0])
    answers = set()
    for slot in range(5):
        other = tape.intervene(Weights("attention", slot))
        assert other.over_time("attention").shape[1] == other.outputs[0].shape[1]
        answers.add(tuple(other.outputs[0][0].tolist()))
    # Without ``run``, the model gets the words of the first answer.
    with torch.no_grad(), trace.record(model) as tape:
        decoding.greedy(model, given.source)
    again = tape.intervene(Weights("attention", 0))
    assert len(again.outputs) == len(tape.outputs) > 2


def test_a_hop_reads_another_fact():
    model = KeyValueNetwork(9, 9, width=8, hops=2).eval()
    facts = torch.randint(1, 9, (1, 4, 2, 2))
    given = Batch(facts, torch.randint(1, 9, (1, 1, 2)), torch.tensor([[1]]))
    tape = recorded(model, given)
    first, second = tape.weights
    other = tape.intervene(Weights(second, 3))
    assert torch.equal(other.over_time(first), tape.over_time(first))
    assert other.over_time(second).tolist() == [[[0, 0, 0, 1]]]
    assert not torch.equal(other.outputs[0], tape.outputs[0])


def test_both_runs_draw_the_same_numbers():
    model = machine(NTM(SLOTS, WIDTH, noise=0.5)).train()
    tape = recorded(model)
    model.eval()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    same = tape.intervene()
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert torch.equal(same.outputs[0], tape.outputs[0])
    other = tape.intervene(Overwrite(ACCESS, 0, 1.0, start=6))
    assert differing(tape, other) == [2, 3]


def test_a_state_comes_from_the_run_that_is_made_again():
    model = machine()
    given = batch()
    with torch.no_grad(), trace.record(model, kinds=None) as tape:
        state = model.encode(given.source)
        model.decode(given.inputs, state)
    other = tape.intervene(Overwrite(ACCESS, 0, 1.0, start=2))
    torch.testing.assert_close(
        other.outputs[1][0], recorded(model, given).intervene(*other.interventions).outputs[0]
    )
    assert not torch.equal(other.outputs[1][0], tape.outputs[1][0])


def test_a_recording_leaves_the_model_as_it_was():
    model = machine()
    before = dict(vars(model))
    given = batch()
    with trace.record(model) as outer, trace.record(model) as tape:
        model(given.source)
        with pytest.raises(ValueError, match="the tape is still recording"):
            tape.intervene()
    assert vars(model) == before
    for each in (outer, tape):
        (result,) = each.outputs
        assert not result[0].requires_grad
        again = each.intervene(Overwrite(ACCESS, 1, 3.0, start=2))
        assert not torch.equal(again.outputs[0][0], result[0])


def test_editors_nest_and_turn_off_twins():
    cell, inputs = Notes(), torch.ones(1, 1, 3)
    seen = []

    def add(number):
        def change(part, kind, state):
            seen.append((number, kind))
            return map_state(lambda tensor: 10 * tensor + number, state)

        return change

    assert not events.listening()
    with events.edit(add(1), [cell]), events.edit(add(2), [cell]), events.edit(add(3), []):
        assert events.edited(cell)
        assert not fast.enabled()
        outputs, _ = cell.unroll(inputs, cell.initial_state(1))
    assert seen == [(1, "state"), (2, "state")]
    assert outputs.flatten().tolist() == [37.0] * 3  # three slots of 12, and the input
    assert not events.edited(cell)


# -- what cannot be --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("intervention", "message"),
    [
        (Weights("body.acess.addressing", 0), "no part 'body.acess.addressing'; did you mean"),
        (Weights(Content(Dot()), 0), "no such part, Content; its addressings are 'body.access.ad"),
        (Weights(ACCESS, 0), "'body.access', NTM, is not an addressing; its addressings are"),
        (Overwrite(ADDRESSING, 0), "NTMAddressing, is not a cell; its cells are 'body', 'body.ac"),
        (Weights(ADDRESSING, 6), "no slot 6 at step 0: there are 6, 0 to 5"),
        (Weights(ADDRESSING, 0, head=3), r"no head 3: there are 3, 0 to 2 \(read 1, read 2, wri"),
        (Weights(ADDRESSING, 0, head="erase"), "no head 'erase': its heads are 'read 1', 'read"),
        (Weights(ADDRESSING, 0, sequence=3), "no sequence 3 at step 0: there are 3, 0 to 2"),
        (Weights(ADDRESSING, weights=[0.5, 0.5]), "must be 6 numbers at step 0 .* got 2"),
        (Weights(ADDRESSING, 0, start=8), "nothing would change 'from step 8 on.* took 8 steps"),
        (Hide(ADDRESSING, 6), "no slot 6 at step 0"),
        (
            Freeze(ADDRESSING, "gates", 1.0),
            "nothing of the name 'gates' to freeze; there is 'key', 'strength'",
        ),
        (Freeze(ADDRESSING, "gate"), "nothing comes before step 0 .* give the value"),
        (Freeze(ADDRESSING, "gate", (1.0, 2.0)), "the value of gate must be a number; got"),
        (
            Freeze(ACCESS, "usage", 1.0),
            "'usage' to freeze; there is 'memory', 'weights', 'erase', 'add'",
        ),
        (Freeze(ACCESS, "memory", 1.0, head=1), "'memory' is of the state of .* leave head out"),
        (Overwrite(ACCESS, 6), "'body.access' has no slot 6 at step 0"),
        (Overwrite(ACCESS, 0, (1.0, 2.0)), "must be a number or 3 numbers; got"),
        (Overwrite("body.controller", 0), "has no slots; its fields with slots are none"),
        (Overwrite(ACCESS, 0, field="usage"), "no slots in a field 'usage'; .* 'memory', 'weig"),
        (Swap(ACCESS, 0, 3), "no sequence 3 at step 0"),
        (Overwrite(ACCESS, 0, sequence=-1), "no sequence -1 at step 0"),
        (Swap(ACCESS, 0, 1, field="link"), "no field 'link' to swap; its fields are 'memory'"),
    ],
    ids=lambda value: value.describe() if not isinstance(value, str) else "",
)
def test_what_the_run_does_not_have(intervention, message):
    with pytest.raises(ValueError, match=message):
        recorded(machine()).intervene(intervention)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Weights("x"), "either a slot or weights"),
        (lambda: Weights("x", 1, [1.0]), "either a slot or weights"),
        (lambda: Weights("x", weights=[[1.0]]), r"a shape of \[1, 1\]"),
        (lambda: Weights("x", weights=[1.5, -0.5]), "a least of -0.5 and a sum of 1"),
        (lambda: Weights("x", weights=[0.75, 0.75]), "a sum of 1.5"),
        (lambda: Weights("x", -1), "slot must be a whole number of at least 0; got -1"),
        (lambda: Hide("x", 1.5), "slot must be a whole number"),
        (lambda: Hide("x", 1, start=-1), "start must be at least 0; got -1"),
        (lambda: Freeze("x", "gate", start=2, stop=2), "stop must be more than start = 2; got 2"),
        (lambda: Freeze("x", "gate", start="2"), "start must be a whole number; got '2'"),
        (lambda: Overwrite("x", 1, stop=3), "stop needs hold=True"),
        (lambda: Overwrite("x", 1, hold="false"), "hold must be True or False; got 'false'"),
        (lambda: Swap("x", 1, 1), "must be two sequences; got 1 twice"),
    ],
)
def test_what_no_run_can_have(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_a_tape_does_not_know():
    model = machine()
    with trace.record(model) as tape:
        pass
    with pytest.raises(ValueError, match="the tape does not know what was run: call a method"):
        tape.intervene()
    with pytest.raises(TypeError, match="takes interventions, such as Overwrite"):
        recorded(model).intervene(ACCESS)
    # A part that the run never called, and closed slots.
    model = language(attend="after")
    with trace.record(model) as tape:
        model.encode(words().source)
    with pytest.raises(ValueError, match="'attention' has no such step, the run never called it"):
        tape.intervene(Weights("attention", 0))
    given = words()
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    tape = recorded(model, given._replace(source_mask=mask))
    with pytest.raises(ValueError, match="is closed to sequence 1 there: it is padding"):
        tape.intervene(Weights("attention", 3))
    assert tape.intervene(Weights("attention", 3, sequence=0)).original is tape


def test_a_row_of_a_search_is_no_sequence():
    model = language(attend="after")
    with trace.record(model) as tape:
        tape.run(dropping, model, words().source)
    with pytest.raises(ValueError, match="has 1 sequences now and had 2 before, as a search"):
        tape.intervene(Weights("attention", 0, sequence=0))
    with pytest.raises(ValueError, match="has 1 sequences now and had 2 before"):
        tape.intervene(Freeze("attention", "query", start=1))


def dropping(model, source):
    """Two steps, before the second of which an answer is finished."""
    token = torch.full((len(source), 1), 1)
    _, state = model.decode(token, model.encode(source))
    return model.decode(token[:1], model.reorder(state, torch.tensor([1])))


def test_a_growing_memory_has_no_slot_that_is_not_written_yet():
    tape = recorded(machine(Tape(WIDTH)))
    with pytest.raises(ValueError, match="no slot 5 at step 2: there are 2, 0 to 1"):
        tape.intervene(Overwrite(ACCESS, 5, start=2))
    other = tape.intervene(Overwrite(ACCESS, 1, start=4), Weights(ADDRESSING, 1, start=4, stop=5))
    assert (other.calls(ACCESS, "memory")[4][:, 1] == 0).all()
