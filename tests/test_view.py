"""Pages of any model at work: what they show is what the trace holds."""

import re
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from memnets import events
from memnets.addressing import NTMAddressing, NTMQuery
from memnets.app.cli import main
from memnets.app.view import interventions_of, view
from memnets.batches import END
from memnets.cells import FeedForward, Loop
from memnets.core import Cell, Memory, MemoryAccess
from memnets.embedders import Patches
from memnets.encoders import Embedded, Recurrent
from memnets.memories import DNC, LRUA, NTM, SAM, Stack, Tape
from memnets.models import (
    CausalTransformer,
    MemoryMachine,
    MetaLearner,
    PointerNetwork,
    Seq2Seq,
)
from memnets.training.objectives import Numbers, Symbols, Tokens
from memnets.viewing import page, panels, trace, watch
from memnets.viewing.interventions import Overwrite
from tasks import Captions, ConvexHull, Copying, Sinusoids, symbols
from tests.test_precision import ATTENTIONS, CONTROLLERS, COPYING, FEW, MODELS, TASKS

MEMORIES = {
    "NTM": partial(NTM, 5, 3, read_heads=2),
    "DNC": partial(DNC, 5, 3, read_heads=2),
    "LRUA": partial(LRUA, 5, 3, 2),
    "SAM": partial(SAM, 7, 3, 2, 3),
    "tape": partial(Tape, 3),
    "stack": partial(Stack, 5, 3, stacks=2),
}


def watched(name: str) -> watch._Watched:
    torch.manual_seed(0)
    model, task = MODELS[name]().eval(), TASKS.get(name, COPYING)()
    batch = watch.alone(task.batch("train", 0), 0)
    with torch.no_grad():
        return watch._Watched(model, task, batch, None)


def told(tape: trace.Tape, part: nn.Module) -> Tensor:
    """Weights of an addressing in a run of one sequence, ``[H, T, N]``, row by row of each call."""
    single = trace.Tape(tape.model)
    for event in tape.events:
        if event.part is part and event.kind == "weights":
            for row in event.value:
                single.keep(event._replace(value=row.unsqueeze(0)))
    return single.over_time(part).float()


def images(run: page.Run) -> list[Tensor]:
    """Weights of each head of a run's panels."""
    return [one for each in run.panels if isinstance(each, page.Heads) for one in each.weights]


@pytest.mark.parametrize("name", [name for name in MODELS if name != "GAN"])
def test_what_is_shown_is_what_the_trace_holds(name) -> None:
    seen = watched(name)
    with torch.no_grad():
        shown = seen.example("")
    (run,) = shown.runs
    there = images(run)
    for part in seen.tape.weights:
        weights = told(seen.tape, part)
        if part in seen.hops:  # the hops are the steps of one panel
            hops = next(each for each in run.panels if each.name == "hops")
            assert torch.equal(hops.weights[0, seen.hops.index(part)], weights[0, 0])
            continue
        for head in weights:
            assert any(torch.equal(head, one) for one in there), seen.tape.names[part]
    for part in {event.part for event in seen.tape.events if event.kind == "memory"}:
        slots = [value[0] for value in seen.tape.calls(part, "memory")]
        before = seen.tape.calls(part, "before")[0][0]
        # A linear memory has a matrix for each head, and a panel for each.
        heads = range(len(before)) if before.dim() == 3 else [...]
        cells = [each for each in run.panels if isinstance(each, page.Cells)]
        for each, head in zip(cells, heads, strict=True):
            for step, value in enumerate(slots):
                shown_then = each.memory[step, : value[head].shape[0]]
                assert torch.equal(shown_then, value[head].float())
            first = before[head]
            assert each.before is None if not first.numel() else torch.equal(each.before, first)
    words = next(each for each in run.panels if each.name in ("answer", "likeliest word"))
    assert words.start + words.steps <= len(shown.steps)


def test_symbols_are_shown_by_name_and_only_where_they_are_asked() -> None:
    torch.manual_seed(0)
    task = symbols.FlipFlop(max_length=6, test_sets=[], test_ignored=[])
    sizes = (task.input_size, task.output_size)
    model = CausalTransformer(
        *sizes, width=8, heads=2, layers=1, hidden_size=8, labels=True, objective=Symbols()
    )
    batch = task.asked(["w1i0r1"])
    shown = watch.example(model.eval(), task, batch, answer=torch.tensor([0, 1, 0, 1, 0, 1]))
    (run,) = shown.runs
    strips = {each.name: each for each in run.panels if isinstance(each, page.Strip)}
    assert list(strips["input"].values) == ["begin", *"w1i0r"]
    assert list(strips["target"].values) == [*"····", "1"]
    assert list(strips["answer"].values) == [*"····", "0"]
    assert strips["answer"].wrong.tolist() == [False] * 4 + [True]
    assert (run.verdict, run.right) == ("0 of 1 right", False)
    (layer,) = (each for each in run.panels if each.name == "layer 1")
    assert list(layer.slots) == ["begin", *"w1i0r"]
    (chances,) = (each for each in run.panels if each.name == "probability of each answer")
    assert list(chances.labels) == ["0", "1"]


def test_a_gan_shows_where_places_looked() -> None:
    torch.manual_seed(0)
    model, task = MODELS["GAN"]().eval(), TASKS["GAN"]()
    shown = watch.example(model, task, task.batch("train", 0))
    assert shown.steps[0] == "place in row 1, column 1"
    with torch.no_grad(), trace.record(model) as tape:
        model.examine(watch.moved(watch.alone(task.batch("train", 0), 0), model))
    for image, part in zip(images(shown.runs[0]), model.alignments().values(), strict=True):
        assert torch.equal(image, tape.calls(part)[-1][0])


@pytest.mark.parametrize("name", MEMORIES)
def test_erased_and_added_make_the_memory_of_the_next_step(name) -> None:
    torch.manual_seed(0)
    access = MEMORIES[name]()
    state = access.initial_state(2)
    with trace.record(access, kinds=None) as tape:
        for _ in range(4):
            _, state = access.step(torch.randn(2, access.interface_size), state)
    found = {each.name: each for each in panels.panels(tape, 1)}
    cells = found["memory"]
    assert cells.stack == (name == "stack")
    if name == "stack":
        assert cells.write is None
        assert list(found["actions of head 2"].labels) == ["push", "pop", "keep"]
        return
    if name == "tape":
        assert cells.write is None
        assert cells.memory[0, 1:].isnan().all()
        return
    last = torch.cat([cells.before[None], cells.memory[:-1]])
    kept = (1 - cells.write[..., None] * cells.erase[..., None, :]).prod(0)
    added = (cells.write[..., None] * cells.add[..., None, :]).sum(0)
    torch.testing.assert_close(last * kept + added, cells.memory)
    assert found["read weights"].role == "read"
    assert found["write weights"].role == "write"
    assert set(found["read weights"].heads) <= {"read 1", "read 2"}


def test_fields_of_a_query_are_told_step_by_step() -> None:
    torch.manual_seed(0)
    access = NTM(5, 3)
    with trace.record(access, kinds=None) as tape:
        interface = torch.randn(1, access.interface_size)
        access.step(interface, access.initial_state(1))
    query, *_ = access.queries(interface)
    for field, value in query._asdict().items():
        (reported,) = tape.calls(access.addressing, f"query.{field}")
        assert torch.equal(reported, value)
    shown = {each.name: each for each in panels.panels(tape)}
    assert list(shown["gate"].labels) == ["read 1", "write 1"]
    assert torch.equal(shown["gate"].values, query.gate[..., 0])
    assert list(shown["shift of read 1"].labels) == ["-1", "0", "+1"]
    assert (shown["gate"].low, shown["gate"].high) == (0.0, 1.0)


@pytest.mark.parametrize("name", MEMORIES)
def test_what_a_memory_shows_has_its_equation(name) -> None:
    access = MEMORIES[name]()
    with trace.record(access, kinds=None) as tape:
        access.step(torch.randn(1, access.interface_size), access.initial_state(1))
    for each in panels.panels(tape):
        if each.name.startswith("key"):
            continue
        assert re.search(r"[A-Z]\w+ (et al\.|& \w+) \d{4}", each.note), each.name


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_has_the_equations_of_its_score_and_its_normalizer(name) -> None:
    attention = ATTENTIONS[name]()
    if attention is None:
        return
    tape = trace.Tape(attention)
    note = panels.equation(tape, attention, "weights")
    for part in (attention, *attention.children()):
        if "weights" in getattr(part, "equations", {}):
            assert part.equations["weights"] in note
    assert panels.equation(tape, attention, "nothing") == ""


class Counting(Cell[Tensor]):
    """A cell of one's own, which reports kinds that nobody else knows."""

    equations: ClassVar[dict[str, str]] = {"doubts": "d = sigmoid(h)"}
    input_size = output_size = 3

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, 3)

    def forward(self, inputs, state):
        state = state + inputs
        share = state.sigmoid()
        events.report(
            self, doubts=share, total=state.sum(-1), pairs=share[:, None] * share[:, :, None],
            heights=torch.randn(len(state), 20), several=torch.stack([state, share], 1),
        )  # fmt: skip
        return state, state


class Mine(Counting):
    """Inherits the equations, and adds one."""

    equations: ClassVar[dict[str, str]] = {"total": "s = sum_i h_i"}


def test_a_cell_of_ones_own_shows_what_it_reports() -> None:
    torch.manual_seed(0)
    cell = Mine()
    inputs = torch.randn(2, 5, 3)
    with trace.record(cell, kinds=None) as tape:
        cell.unroll(inputs, cell.initial_state(2))
    shown = {each.name: each for each in tape.view(sequence=1).examples[0].runs[0].panels}
    assert torch.allclose(shown["doubts"].values, inputs.cumsum(1)[1].sigmoid())
    assert shown["doubts"].note == "d = sigmoid(h)"
    assert shown["total"].note == "s = sum_i h_i"
    assert torch.allclose(shown["total"].values[:, 0], inputs.cumsum(1)[1].sum(-1))
    assert isinstance(shown["pairs"], page.Square)
    assert isinstance(shown["heights"], page.Strip)
    assert {"several of head 1", "several of head 2"} <= set(shown)
    with pytest.raises(ValueError, match="sequence must be less than the 2 sequences"):
        tape.view(sequence=2)


class Notes(MemoryAccess[Tensor]):
    """A memory of one's own that tells of its slots alone."""

    interface_size, read_size = 4, 4

    def __init__(self):
        super().__init__()
        self.address = NTMAddressing()
        self.register_buffer("zero", torch.zeros(()))

    def head_names(self):
        return {self.address: ["read", "write"]}

    def initial_state(self, batch_size):
        return self.zero.expand(batch_size, 3, 4)

    def forward(self, interface, state):
        rows = torch.ones(len(state), 2, 1)
        keys, shift = interface[:, None].expand(-1, 2, -1), rows.expand(-1, -1, 3) / 3
        memory = Memory(state, state)
        first = self.address.initial_state(memory).expand(-1, 2, -1)
        weights, _ = self.address(NTMQuery(keys, rows, rows, shift, rows), memory, first)
        state = state + weights[:, 1, :, None] * interface[:, None]
        events.report(self, memory=state)
        return (weights[:, 0, :, None] * state).sum(1), state


def test_a_memory_of_ones_own_shows_its_heads_by_their_names() -> None:
    torch.manual_seed(0)
    loop = Loop(2, partial(FeedForward, hidden_size=3), Notes())
    with trace.record(loop, kinds=None) as tape:
        loop.unroll(torch.randn(1, 4, 2), loop.initial_state(1))
    shown = {each.name: each for each in panels.panels(tape)}
    weights = tape.over_time(loop.access.address)
    assert torch.equal(shown["read weights"].weights, weights[:1])
    assert torch.equal(shown["write weights"].weights, weights[1:])
    assert shown["write weights"].role == "write"
    assert shown["memory"].write is None


def test_a_tape_of_nothing_says_so() -> None:
    with trace.record(nn.Linear(2, 2), kinds=None) as tape:
        pass
    with pytest.raises(ValueError, match="nothing was recorded: the run has no part that"):
        tape.view()


def copying(slots=6) -> tuple[MemoryMachine, Copying]:
    torch.manual_seed(0)
    task = Copying(width=2, max_length=3, test_sets=[(3, 4)], batch_size=2)
    machine = MemoryMachine(
        task.input_size, task.output_size, CONTROLLERS["FeedForward"], NTM(slots, 3)
    ).eval()
    return machine, task


def test_an_intervention_stands_beside_the_run_that_it_changes() -> None:
    model, task = copying()
    shown = view(model, task, examples=2, what_if="first").examples
    assert [len(each.runs) for each in shown] == [3, 1]
    plain, *others = shown[0].runs
    for other in others:
        assert other.changed_from is not None
        assert other.changed_from >= shown[0].split > 0
        for before, after in zip(plain.panels, other.panels, strict=True):
            if isinstance(before, page.Heads):
                steps = slice(0, other.changed_from - before.start)
                assert torch.equal(before.weights[:, steps], after.weights[:, steps])
    assert "is wiped" in others[0].name or "overwritten" in others[0].name
    assert "NTM addressing" in others[1].name
    own = view(model, task, examples=1, what_if="none",
               changes=[[Overwrite("body.access", 0, start=1)]])  # fmt: skip
    assert [run.changed_from for run in own.examples[0].runs] == [None, 1]


def test_a_changed_tape_shows_both_runs() -> None:
    model, task = copying()
    with trace.record(model, kinds=None) as tape:
        model.logits(task.batch("train", 0))
    other = tape.intervene(Overwrite("body.access", 0, 1.0, start=2))
    runs = other.view().examples[0].runs
    assert [run.changed_from for run in runs] == [None, 2]


def test_queries_of_an_episode_leave_the_memory_as_the_examples_left_it() -> None:
    torch.manual_seed(0)
    task = Sinusoids(queries=3, **FEW)
    learner = partial(MemoryMachine, controller=CONTROLLERS["FeedForward"], access=NTM(5, 3))
    model = MetaLearner(2, 1, learner, objective=Numbers()).eval()
    shown = watch.example(model, task, task.batch("train", 0), what_if=True)
    found = {each.name: each for each in shown.runs[0].panels}
    examples = shown.split
    assert found["memory"].steps == examples
    assert found["read weights"].steps == examples + 3 == len(shown.steps)
    assert [run.changed_from >= examples for run in shown.runs[1:]] == [True, True]


@pytest.mark.parametrize(
    "name", ["DNC machine", "seq2seq hard", "transformer", "pointer network", "memory network"]
)
def test_standard_changes_fit_any_model(name) -> None:
    seen = watched(name)
    with torch.no_grad():
        plain, *others = seen.example("", what_if=True).runs
    assert others
    if name == "transformer":  # its attention begins with the answer
        assert others[0].name.startswith(f"from step {seen.split} on: layer 1 cannot see slot")
    for other in others:
        assert other.changed_from is not None
        assert [each.name for each in other.panels] == [each.name for each in plain.panels]


def test_words_places_and_points_are_those_of_the_task() -> None:
    torch.manual_seed(0)
    captions = Captions(**FEW, max_digits=1)
    encoder = partial(Embedded, embedding=partial(Patches, filters=(4, 4)))
    model = Seq2Seq(
        captions.input_size, captions.output_size, encoder,
        CONTROLLERS["GRU"], ATTENTIONS["additive"](), key_size=12, width=8,
        objective=Tokens(max_length=4),
    ).eval()  # fmt: skip
    shown = watch.example(model, captions, captions.batch("train", 0))
    heads = next(each for each in shown.runs[0].panels if isinstance(each, page.Heads))
    assert isinstance(heads.places, page.Grid)
    assert heads.places.rows * heads.places.columns == heads.weights.shape[-1]
    assert heads.slots == []


def test_a_hull_is_drawn_line_by_line() -> None:
    pytest.importorskip("scipy", reason="the hull needs scipy")
    torch.manual_seed(0)
    task = ConvexHull(min_points=5, max_points=5, batch_points=10, batch_size=1)
    model = PointerNetwork(
        2, partial(Recurrent, controller=CONTROLLERS["LSTM"]), CONTROLLERS["LSTM"],
        ATTENTIONS["dot"](), width=8, objective=Tokens(),
    ).eval()  # fmt: skip
    batch = task.batch("train", 0)
    right = batch.targets[0]
    shown = watch.example(model, task, batch, 0, right)
    run = shown.runs[0]
    drawing = next(each for each in run.panels if isinstance(each, page.Drawing))
    corners = [int(token) - END - 1 for token in right.tolist() if token > END]
    closed = {frozenset(pair) for pair in zip(corners, np.roll(corners, -1).tolist(), strict=True)}
    assert {frozenset(pair) for pairs in drawing.answer for pair in pairs} == closed
    assert len(drawing.answer[1]) == 1  # the second corner adds the first line
    assert (run.verdict, run.right) == ("right", True)
    heads = next(each for each in run.panels if each.name == "pointer")
    assert isinstance(heads.places, page.Plane)
    assert list(heads.slots) == ["1", "2", "3", "4", "5", "end"]


def test_a_pair_of_sentences_shows_both_directions() -> None:
    seen = watched("decomposable")
    shown = seen.example("")
    found = {each.name: each for each in shown.runs[0].panels}
    premise, hypothesis = seen.words, seen.asked[0]
    assert list(found["attention"].slots) == premise
    assert found["attention"].start == len(premise)
    assert list(found["read back"].slots) == hypothesis
    assert found["read back"].start == 0
    assert shown.steps[len(premise)] == f"hypothesis 1: {hypothesis[0]}"


def test_a_sequence_that_is_too_long_is_refused(monkeypatch) -> None:
    model, task = copying()
    monkeypatch.setattr(watch, "LONGEST", 5)
    with pytest.raises(ValueError, match="an example may have at most 5 steps; got 7"):
        watch.example(model, task, task.batch("length_3", 0))
    with pytest.raises(ValueError, match=r"nothing to show: .* 4 sequences are longer than 5"):
        watch.page(model, task)


def test_wrong_answers_come_first() -> None:
    model, task = copying()
    batch = task.batch("length_3", 0)
    with torch.no_grad():
        wrong = model.score(batch)["wrong_bits"].tolist()
    first, *_ = watch.page(model, task, count=2).examples
    assert first.title == f"test set length 3, sequence {wrong.index(max(wrong)) + 1}"
    assert watch.page(model, task, count=2, worst=False).examples[0].title.endswith("sequence 1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wipe slot 3", "expected an intervention, such as Overwrite"),
        ("Erase(body.access)", "expected an intervention"),
        ("print('x')", "expected an intervention"),
        ("Overwrite(body.access, slot=-1)", "slot"),
        ("Overwrite(__import__('os').getcwd(), slot=1)", "malformed node"),
        ("Freeze(body.access)", "missing"),
    ],
)
def test_an_intervention_in_words_that_is_none_is_refused(text, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        interventions_of(text)


def test_interventions_in_words() -> None:
    first, second = interventions_of(
        "Overwrite(body.access, slot=3, start=12); Freeze('body.access.addressing', gate, start=2)"
    )
    assert (first.part, first.slot, first.start) == ("body.access", 3, 12)
    assert (second.part, second.field, second.start) == ("body.access.addressing", "gate", 2)


@pytest.mark.usefixtures("elsewhere", "blanks")
def test_the_command_writes_a_page_and_says_where(capsys, tmp_path) -> None:
    main([
        "fit", "--config", "copying/ntm", "--trainer.max_steps=1", "--data.epoch_batches=1",
        "--data.validation_batches=1", "--data.test_sets=[[3, 2], [4, 2]]", "--data.batch_size=2",
        "--data.validation_batch_size=2", "--model.access.slots=8", "--trainer.callbacks=[]",
        "--view=1",
    ])  # fmt: skip
    capsys.readouterr()
    file = tmp_path / "runs/copying/ntm/version_0/view.html"
    assert "test set length 3, sequence" in file.read_text()
    assert "test set length 4, sequence" not in file.read_text()
    file.unlink()
    main(["view", "runs/copying/ntm/version_0", "--examples", "3"])
    out = capsys.readouterr().out
    assert f"The page is {file.relative_to(tmp_path)}" in out
    assert "3 examples" in out
    assert file.read_text().lower().startswith("<!doctype html>")
    main(["view", "--ckpt_path", "runs/copying/ntm/version_0/checkpoints/last.ckpt", "--first",
          "--test_set=length_4", "--examples=1", "--output=own.html", "--what_if=none",
          "--intervene", "Overwrite(body.access, slot=3, start=2)"])  # fmt: skip
    assert "slot 3" in (tmp_path / "own.html").read_text()
    for flags, message in {
        ("--test_set=length_9",): "length_3, length_4; got length_9; others are in the page of "
        "memnets test --ckpt_path <run> --view 6 --data.test_sets=<sets>",
        ("--input=none.txt",): "none.txt",
        ("--examples=0",): "examples must be a whole number of at least 1; got 0",
        ("--limit_mb=0",): "limit_mb must be more than 0",
        ("--what_if=never",): "never",
        ("--intervene=Overwrite(body.acess, slot=3)",): "did you mean 'body.access'",
        ("--intervene=Overwrite(body.access, slot=99)",): "has no slot 99",
    }.items():
        with pytest.raises(SystemExit):
            main(["view", "runs/copying/ntm/version_0", *flags])
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    for arguments, message in {
        ("view",): "memnets view needs a checkpoint, or the folder of a run",
        ("view", "--examples", "3"): "memnets view needs a checkpoint",
        ("view", "nowhere"): "nowhere",
    }.items():
        with pytest.raises(SystemExit):
            main(list(arguments))
        assert message in capsys.readouterr().err


def test_an_encoder_that_reads_both_sentences_is_shown_where_they_are_as_long() -> None:
    torch.manual_seed(0)
    model, task = MODELS["decomposable"]().eval(), TASKS["decomposable"]()
    shown = watch.of_batch(model, task, task.asked([("a", "( not b )"), ("c", "d")]), known=False)
    for one, steps in zip(shown.examples, ([2, 5, 1], [2, 2, 1]), strict=True):
        assert len(one.steps) == sum(steps)
        found = {each.name: each for each in one.runs[0].panels}
        assert "target" not in found
        assert (found["intra attention"].start, found["intra attention"].steps) == (
            0,
            sum(steps) - 1,
        )
        assert list(found["hypothesis"].values) == list(found["read back"].slots)
