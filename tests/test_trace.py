"""Recording what the parts of any model report, and drawing it."""

import warnings
from functools import partial
from typing import NamedTuple

import matplotlib.image
import matplotlib.text
import numpy as np
import pytest
import pytorch_lightning as lightning
import torch
from matplotlib.figure import Figure
from torch import nn

from memnets import decoding, events, fast, functional
from memnets.addressing import Content, Local
from memnets.batches import BEGIN, END, Curves
from memnets.cells import GRU, LSTMN, FeedForward
from memnets.cells.embeddings import LearnedPositions
from memnets.core import Memory, map_state
from memnets.embedders import Patches
from memnets.encoders import Embedded, Recurrent
from memnets.memories import DNC, LRUA, NTM, DeltaNet, Stack, Tape
from memnets.models import (
    SNAIL,
    CausalTransformer,
    MemoryMachine,
    MetaLearner,
    Model,
    Prototypical,
    Seq2Seq,
    Transformer,
)
from memnets.scores import Additive, Dot, General
from memnets.training import objectives
from memnets.training.objectives import Actions, Labels, Numbers, Tokens
from memnets.viewing import plots, trace
from memnets.viewing.interventions import Weights
from memnets.viewing.pictures import Pictures
from memnets.viewing.plots import heads
from memnets.viewing.plots import images as images_of
from tasks import (
    Bandits,
    ConvexHull,
    CopyingTokens,
    Delaunay,
    FewShot,
    Sinusoids,
    Task,
    TravellingSalesman,
    symbols,
)

SIZE = 6
PLAIN = {
    "encoder": partial(Recurrent, controller=partial(GRU, hidden_size=4)),
    "decoder": partial(GRU, hidden_size=8),
    "width": 6,
}
LSTMNS = {
    "encoder": partial(Recurrent, controller=partial(LSTMN, hidden_size=4), bidirectional=False),
    "decoder": partial(LSTMN, hidden_size=4),
    "width": 4,
}
SMALL = {"width": 4, "heads": 2, "layers": 2, "hidden_size": 8}
ALIGNED = {
    "Bahdanau": lambda: Seq2Seq(SIZE, SIZE, **PLAIN, attention=Content(Additive(8))),
    "Luong": lambda: Seq2Seq(SIZE, SIZE, **PLAIN, attention=Content(Dot()), attend="after"),
    "local-p": lambda: Seq2Seq(SIZE, SIZE, **PLAIN, attention=Local(Dot(), size=8, reach=1)),
    "LSTMN": lambda: Seq2Seq(SIZE, SIZE, **LSTMNS, attention=Content(Additive(4))),
    "Transformer": lambda: Transformer(SIZE, SIZE, **SMALL),
    "causal": lambda: CausalTransformer(SIZE, SIZE, **SMALL),
}
TOKENS = {"input_size": SIZE, "output_size": SIZE, "controller": partial(GRU, hidden_size=4)}
MODELS = {
    **ALIGNED,
    "no attention": lambda: Seq2Seq(SIZE, SIZE, **PLAIN),
    "LSTMN, no attention": lambda: Seq2Seq(SIZE, SIZE, **LSTMNS),
    "NTM": lambda: MemoryMachine(**TOKENS, access=NTM(slots=5, width=3)),
    "tape": lambda: MemoryMachine(**TOKENS, access=Tape(width=3, read_heads=2)),
}


def machine(access) -> MemoryMachine:
    torch.manual_seed(0)
    return MemoryMachine(3, 2, partial(FeedForward, hidden_size=4), access)


def test_what_is_recorded_is_what_the_machine_used() -> None:
    model = machine(NTM(slots=5, width=3, read_heads=2))
    inputs = torch.randn(2, 4, 3)
    plain, state = model(inputs)
    with trace.record(model) as tape:
        outputs, _ = model(inputs)
    assert torch.allclose(outputs, plain, atol=1e-6)
    addressing = model.access.addressing
    weights = tape.stacked(addressing)
    assert weights.shape == (2, 4, 3, 5)
    assert torch.allclose(weights[:, -1], state.body.access.weights, atol=1e-6)
    assert torch.equal(tape.stacked("body.access.addressing"), weights)
    assert tape.heads[addressing] == ["read 1", "read 2", "write 1"]
    assert list(tape.weights) == [addressing]


MEMORIES = {
    "NTM": lambda: NTM(slots=5, width=3, read_heads=2, write_heads=2),
    "DNC": lambda: DNC(slots=5, width=3, read_heads=2),
    "LRUA": lambda: LRUA(slots=5, width=3, heads=2),
    "tape": lambda: Tape(width=3, read_heads=2),
}


@pytest.mark.parametrize("name", MEMORIES)
def test_a_memory_reports_what_it_did_to_its_slots(name) -> None:
    torch.manual_seed(0)
    access = MEMORIES[name]()
    state = access.initial_state(2)
    with trace.record(access, kinds=None) as tape:
        for step in range(3):
            before, now = state, {}
            read, state = access.step(torch.randn(2, access.interface_size), state)
            for event in tape.events:
                if event.step == step and event.part is access:
                    now[event.kind] = event.value
            memory = now["memory"]
            if name == "tape":
                assert torch.equal(memory[:, -1:], now["add"])
                assert torch.equal(memory, state.values)
                continue
            if name == "LRUA":
                written = functional.empty_add(
                    before.memory, now["emptied"], now["write"], now["add"]
                )
            else:
                written = functional.erase_add(
                    before.memory, now["write"], now["erase"], now["add"]
                )
            torch.testing.assert_close(memory, written)
            # The NTM reads before it writes.
            slots = before.memory if name == "NTM" else memory
            torch.testing.assert_close(functional.read(now["read"], slots).flatten(1), read)
            for kind in {"memory", "usage", "link"} & set(state._fields):
                assert torch.equal(now[kind], getattr(state, kind))
    assert {event.part for event in tape.events} > {access}


def test_parts_tell_nobody_where_nobody_listens() -> None:
    heard: list[events.Event] = []
    addressing = Content(Dot())
    memory = Memory(torch.randn(2, 4, 3), torch.randn(2, 4, 3))
    queries = torch.randn(2, 1, 3)
    assert not events.listening()
    with events.listen(heard.append):
        assert events.listening()
        with events.listen(heard.append):
            addressing(queries, memory)
        addressing.read(queries, memory)
        addressing.scores(queries, memory)
    addressing.read(queries, memory)
    assert not events.listening()
    assert [event.step for event in heard] == [0, 0, 1, 2]
    assert all(event.part is addressing and event.kind == "weights" for event in heard)
    for event in heard:
        torch.testing.assert_close(event.value, addressing(queries, memory)[0])


def test_parts_of_other_models_are_not_recorded() -> None:
    model, other = (machine(NTM(slots=5, width=3)) for _ in range(2))
    with trace.record(model) as tape:
        other(torch.zeros(1, 2, 3))
        model(torch.zeros(1, 2, 3))
    assert list(tape.weights) == [model.access.addressing]


def test_a_subclass_reports_its_weights_once() -> None:
    class Halved(Content):
        def forward(self, query, memory, state=None):
            weights, state = super().forward(query, memory, state)
            return weights / 2, state

    halved = Halved(Dot())
    memory = Memory(torch.randn(2, 4, 3), torch.randn(2, 4, 3))
    with trace.record(halved) as tape:
        weights, _ = halved(torch.randn(2, 1, 3), memory)
    (recorded,) = tape.weights[halved]
    assert torch.equal(recorded, weights)


def test_what_was_compiled_is_recorded_too() -> None:
    memory = Memory(torch.randn(2, 4, 3), torch.randn(2, 4, 3))
    query = torch.randn(2, 1, 3)
    addressing = Content(Dot())
    compiled = torch.compile(addressing, backend="eager", fullgraph=True)
    expected, _ = addressing(query, memory)
    assert torch.equal(compiled(query, memory)[0], expected)
    with trace.record(addressing) as tape:
        compiled(query, memory)
    (weights,) = tape.weights[addressing]
    assert torch.equal(weights, expected)


def test_after_recording_nothing_is_left_on_the_model() -> None:
    model = machine(NTM(slots=5, width=3))
    with trace.record(model) as tape:
        assert not fast.applies(torch.zeros(1))
    assert fast.applies(torch.zeros(1))
    model(torch.zeros(1, 2, 3))
    assert tape.weights == {}


def test_a_memory_that_grows_is_padded_with_no_weight(tmp_path) -> None:
    model = machine(Tape(width=3, read_heads=2))
    with trace.record(model) as tape:
        model(torch.randn(1, 4, 3))
    weights = tape.stacked("body.access.addressing")
    assert weights.shape == (1, 4, 2, 4)
    assert not weights[0, :, 0].triu(1).any()
    assert torch.allclose(weights.sum(-1), torch.ones(1, 4, 2))
    assert tape.plot(tmp_path / "new" / "tape.png", split=2).stat().st_size > 0


def test_what_is_not_there_is_named() -> None:
    with trace.record(machine(None)) as tape:
        pass
    with pytest.raises(KeyError, match="nothing was recorded for weights of 'access'"):
        tape.stacked("access")
    model = machine(NTM(slots=5, width=3))
    with trace.record(model) as tape:
        model(torch.zeros(1, 1, 3))
    there = "for usage of 'body.access'; there is weights of 'body.access.addressing'"
    with pytest.raises(KeyError, match=there):
        tape.calls(model.access, "usage")
    with pytest.raises(ValueError, match="no weights to draw"):
        plots.weights({}, "nowhere.png")


WEIGHTS = torch.rand(2, 3, 4, 5)  # [B, H, T, N]


def recorded(*calls: torch.Tensor, heads: list[str] | None = None) -> trace.Tape:
    part = nn.Identity()
    tape = trace.Tape(nn.ModuleDict({"part": part}))
    for step, weights in enumerate(calls):
        tape.keep(events.Event(step, part, "weights", weights))
    if heads:
        tape.heads[part] = heads
    return tape


def test_weights_over_time_are_the_same_however_they_were_asked_for() -> None:
    expected = WEIGHTS[1, :1]
    at_once = recorded(WEIGHTS[:, 0])
    one_by_one = recorded(*WEIGHTS[:, 0].split(1, 1))
    in_chunks = recorded(*WEIGHTS[:, 0].split([3, 1], 1))
    for tape in (at_once, one_by_one, in_chunks):
        assert torch.equal(tape.over_time("part", 1), expected)


def test_heads_over_time_are_the_same_as_batch_and_as_queries() -> None:
    names = ["a", "b", "c"]
    as_batch = recorded(*WEIGHTS.split([1, 3], 2), heads=names)
    as_queries = recorded(*WEIGHTS.transpose(1, 2).unbind(1), heads=names)
    assert torch.equal(as_batch.over_time("part"), WEIGHTS[0])
    assert torch.equal(as_queries.over_time("part"), WEIGHTS[0])


def test_slots_that_were_not_there_yet_weigh_nothing() -> None:
    over_time = recorded(torch.ones(1, 1, 1), torch.ones(1, 1, 2)).over_time("part")
    assert over_time.tolist() == [[[1, 0], [1, 1]]]
    with pytest.raises(KeyError, match="nothing was recorded for weights of 'other'"):
        recorded().over_time("other")


@pytest.mark.parametrize("name", ALIGNED)
def test_what_a_model_looks_at_is_the_same_at_once_and_step_by_step(name, tmp_path) -> None:
    torch.manual_seed(0)
    model = ALIGNED[name]().eval()
    source, inputs = torch.tensor([[4, 5, 3]]), torch.tensor([[2, 5, 4, 4]])
    with trace.record(model) as at_once:
        model.decode(inputs, model.encode(source))
    with trace.record(model) as stepwise:
        state = model.encode(source)
        for step in inputs.split(1, 1):
            _, state = model.decode(step, state)
    parts = model.alignments()
    assert parts
    for part in parts.values():
        weights = at_once.over_time(part)
        torch.testing.assert_close(stepwise.over_time(part), weights)
        assert weights.shape[-1] == (7 if name == "causal" else 3)
        if name != "local-p":
            sums = weights.sum(-1)
            torch.testing.assert_close(sums, torch.ones_like(sums))
    slots = ["source"] * 3 + ["answer"] * 4 * (name == "causal")
    path = tmp_path / "alignment.png"
    at_once.plot_alignment(path, parts, slots, ["word"] * 4, heads=name == "causal")
    assert path.stat().st_size > 0


def texts(monkeypatch) -> list[str]:
    """All words of the pictures that are saved from now on."""
    found: list[str] = []
    save = Figure.savefig

    def saving(figure, *arguments, **named):
        found.extend(text.get_text() for text in figure.findobj(matplotlib.text.Text))
        return save(figure, *arguments, **named)

    monkeypatch.setattr(Figure, "savefig", saving)
    return found


def test_pictures_say_what_is_on_their_axes(tmp_path, monkeypatch) -> None:
    words = texts(monkeypatch)

    def said(*expected: str) -> None:
        assert set(expected) <= set(words), set(expected) - set(words)
        words.clear()

    plots.answer(torch.zeros(2, 3), torch.zeros(2, 3), tmp_path / "1.png", "of a test")
    said("of a test", "target", "output", "error", "bit of the\nvector", "step of the answer",
         "value", "probability of 1", "output \u2212 target")  # fmt: skip
    plots.weights({"read 1": torch.rand(4, 3)}, tmp_path / "2.png", split=2)
    said("read 1", "slot", "step", "weight", "\u2190 source ", " answer \u2192")
    plots.alignment({"layer 1": torch.rand(1, 2)}, ["a", "b"], ["c"], tmp_path / "3.png")
    said("layer 1", "source", "answer", "weight", "a", "b", "c")
    images = torch.rand(3, 4, 4)
    plots.episode({"look": torch.rand(1, 3)}, images, images[:1], ["0", "1", "2"], [("1", "2")],
                  tmp_path / "4.png")  # fmt: skip
    said("examples, by their labels (look)", "queries", "answers", "1, not 2")
    line = np.zeros((2, 2))
    plots.curves([Curves({"ours": line}, "n", "x", "y", line, "seen")], tmp_path / "5.png")
    said("ours", "n", "x", "y", "seen")
    chances = torch.tensor([[0.7, 0.3], [0.2, 0.8]])
    reading = plots.Reading(["not", "bad"], chances, ["poor", "fine"], "poor", "fine")
    plots.readings([reading], tmp_path / "7.png", "of a test")
    said("of a test", "not", "bad", "probability of\nfine", "answer: fine, wrong: right is poor")
    three = plots.Reading(["bad"], torch.rand(1, 3), ["x", "y", "z"], "x", "x")
    plots.readings([reading, three], tmp_path / "8.png")
    said("probability", "x", "y", "z", "answer: x, right")
    plots.drawing([plots.Drawing(line, [line], [line], "wrong")], tmp_path / "6.png")
    said("right answer", "model's answer", "wrong", "2 points", "point")
    panel = plots.Board("copying, test", "wrong bits (per sequence)", False, {"ntm": ([1.0], 2.0)})
    plots.scoreboard([panel], tmp_path / "7.png", "all scores")
    said("all scores", "copying, test\n\u2193 lower is better", "wrong bits (per sequence)", "ntm",
         "a run, of one seed", "published by others")  # fmt: skip
    plots.overlay(torch.rand(4, 6, 3), {"attention": torch.rand(2, 2, 3)}, ["a", "dog"],
                  tmp_path / "8.png", "of an image")  # fmt: skip
    said("image", "a", "dog", "weight of a patch", "of an image")


def test_the_style_of_pictures_is_theirs_alone(tmp_path) -> None:
    before = dict(matplotlib.rcParams)
    plots.weights({"read 1": torch.rand(4, 3)}, tmp_path / "weights.png")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("access", "heads"),
    [
        (DNC(slots=4, width=2), ["write", "read 1"]),
        (NTM(slots=4, width=2), ["read 1", "write 1"]),
    ],
)
def test_heads_go_by_their_own_names_where_these_tell_them_apart(
    access, heads, tmp_path, monkeypatch
) -> None:
    words = texts(monkeypatch)
    with trace.record(access) as tape:
        access.step(torch.zeros(1, access.interface_size), access.initial_state(1))
    tape.plot(tmp_path / "one.png")
    assert set(heads) <= set(words)
    both = nn.ModuleList([access, NTM(slots=4, width=2)])
    with trace.record(both) as tape:
        for part in both:
            part.step(torch.zeros(1, part.interface_size), part.initial_state(1))
    tape.plot(tmp_path / "two.png")
    assert "1.addressing: read 1" in words


def test_weights_of_heads_that_are_batch_can_be_drawn(tmp_path) -> None:
    tape = recorded(WEIGHTS, heads=["a", "b", "c"])
    assert tape.plot(tmp_path / "weights.png", sequence=1).stat().st_size > 0


def test_labels_of_any_script_can_be_drawn(tmp_path) -> None:
    # A warning about a character that no font has would be an error here.
    source = ["▁the", "$a_1$", "\\$", "日本語", "हिन्दी", "עברית", "Ελ", "🙂", "\n", ""]
    for count in (1, 2, 10):
        path = tmp_path / f"{count}.png"
        plots.alignment(torch.rand(2, count), source[:count], ["$x$", "_"], path, "$ 日")
        assert path.stat().st_size > 0
    # Too many to be read: some labels are left out.
    plots.alignment(torch.rand(1, 90), ["a"] * 90, ["b"], tmp_path / "long.png")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.rand(2, 3), r"weights must be \[T, S\] = \[3, 2\], as the labels are; got \[2, 3\]"),
        ({"a": torch.rand(3, 3)}, r"got \[3, 3\] for 'a'"),
        ({}, "no alignment to draw"),
    ],
)
def test_weights_without_their_labels_are_refused(weights, message) -> None:
    with pytest.raises(ValueError, match=message):
        plots.alignment(weights, ["a", "b"], ["c", "d", "e"], "nowhere.png")


class Answers(Task):
    """Tokens with no words to them."""

    labels = Task.labels

    def batch(self, split, index):
        return CopyingTokens(2, 1, 3, validation_batch_size=3).batch(split, index)

    def test_names(self):
        return ["test"]


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        *[(name, "alignment") for name in ALIGNED],
        ("no attention", None),
        ("LSTMN, no attention", None),
        ("NTM", "weights"),
        ("tape", "weights"),
    ],
)
def test_pictures_of_answers_in_tokens(name, drawn, tmp_path) -> None:
    draw(in_tokens(name), CopyingTokens(2, 1, 3, [], 2), tmp_path, sequences=1)
    expected = [f"test_{drawn}_1.png"] if drawn else []
    assert [path.name for path in tmp_path.iterdir()] == expected


@pytest.mark.parametrize(
    ("access", "drawn"),
    [(NTM(slots=4, width=2), "weights"), (Stack(4, 2), None), (DeltaNet(2, 2), None)],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("task", [symbols.Reversal, symbols.Induction])
def test_pictures_of_answers_in_symbols(access, drawn, task, tmp_path) -> None:
    """A memory without weights, such as a stack, has nothing to draw, which is no error."""
    made = task(max_length=5, test_sets=[(5, 2)], longest=0)
    controller = partial(FeedForward, hidden_size=3)
    sizes = made.input_size, made.output_size
    model = MemoryMachine(*sizes, controller, access, objective=objectives.Symbols())
    draw(model, made, tmp_path, sequences=1)
    expected = [f"length_5_{drawn}_1.png"] if drawn else []
    assert [path.name for path in tmp_path.iterdir()] == expected


def test_pictures_of_symbols_show_all_steps_of_a_question(tmp_path, monkeypatch) -> None:
    """Also those at which nothing is asked; but none of a string that is too long to read."""
    seen = []
    alignment = plots.alignment
    monkeypatch.setattr(
        plots, "alignment", lambda *given, **named: seen.append(given) or alignment(*given, **named)
    )
    for longest in (100, 2):
        monkeypatch.setattr("memnets.viewing.pictures.MOST_SYMBOLS", longest)
        task = symbols.FlipFlop(max_length=4, test_sets=[(4, 1)], test_ignored=[])
        sizes = task.input_size, task.output_size
        model = CausalTransformer(*sizes, 8, 2, 1, 8, labels=True, objective=objectives.Symbols())
        draw(model, task, tmp_path, sequences=1)
    ((_, slots, answered, *_),) = seen
    # After the last question, the step of the r, nothing else is asked.
    assert slots[:2] == ["begin", "w"]
    assert slots[3:] == ["r"]
    assert answered[:2] == ["", ""]
    assert len(answered) == 3


def in_tokens(name):
    model = MODELS[name]()
    model.objective = Tokens()
    return model


def draw(model, task, folder, **settings) -> None:
    """Test a model, and draw what it answered."""
    torch.manual_seed(0)
    trainer = lightning.Trainer(
        accelerator="cpu", callbacks=[Pictures(folder, **settings)], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        for lightnings in (
            "`isinstance.treespec",
            ".* does not have many workers",
            "You have overridden",
        ):
            warnings.filterwarnings("ignore", lightnings)
        trainer.test(model, datamodule=task, verbose=False)


def test_pictures_of_each_test_set_as_many_as_it_has(tmp_path) -> None:
    draw(in_tokens("Bahdanau"), CopyingTokens(2, 1, 3, [(2, 1)], 3), tmp_path, sequences=2)
    assert {path.name for path in tmp_path.iterdir()} == {
        "test_alignment_1.png",
        "test_alignment_2.png",
        "length_2_alignment_1.png",
    }


def test_pictures_make_each_batch_that_they_are_of_once(tmp_path) -> None:
    made = []

    class Watched(CopyingTokens):
        def batch(self, split, index):
            made.append((split, index))
            return super().batch(split, index)

        def batches(self, split):
            return 3 if split == "test" else 1

    def drawn(task, sequences):
        """Batches that were made for pictures, after those of the test and of its measures."""
        sizes = {name: task.batches(name) for name in task.test_names()}
        tested = [(name, number) for name, size in sizes.items() for number in range(size)]
        draw(in_tokens("no attention"), task, tmp_path, sequences=sequences)
        assert made[: len(tested)] == tested
        measured = [batch for batch in tested if batch[0] == "test"]
        assert made[len(tested) :][: len(measured)] == measured
        return made[len(tested) + len(measured) :]

    first = drawn(Watched(2, 1, 3, [(2, 9)], 9), 4)
    assert first == [("test", 0), ("test", 1), ("test", 2), ("length_2", 0)]
    made.clear()
    assert drawn(Watched(2, 1, 3, [], 9), 2) == [("test", 0), ("test", 1)]


def test_a_model_answers_a_test_once_and_pictures_are_of_that_answer(tmp_path, monkeypatch) -> None:
    # A model that would say something else each time it is asked.
    class Fickle(Tokens):
        asked = 0

        def examine(self, model, batch):
            self.asked += 1
            answers = torch.full((len(batch.targets), 2), END + self.asked)
            _, scores = super().examine(model, batch)[""]
            return {"": (answers, scores), "_other": (answers + 1, scores)}

    drawn = []
    monkeypatch.setattr(plots, "alignment", lambda *arguments: drawn.append(arguments[2]))
    model = ALIGNED["causal"]()
    model.objective = Fickle()
    task = CopyingTokens(2, 1, 3, [(2, 2)], 2, validation_batch_size=2)
    draw(model, task, tmp_path, sequences=2)
    assert model.objective.asked == 2
    assert drawn == [["0", "0"], ["0", "0"], ["1", "1"], ["1", "1"]]
    assert {
        name: [part.tolist() for part in parts] for name, parts in model.test_answers.items()
    } == {
        "test": [[[4, 4], [4, 4]]],
        "length_2": [[[5, 5], [5, 5]]],
    }


def test_bandits_are_played_once_for_scores_and_curves(tmp_path, monkeypatch) -> None:
    played = []

    class Watched(Bandits):
        def policies(self):
            played.append("policies")
            return super().policies()

    play = decoding.play

    def watched(*arguments):
        played.append("model")
        return play(*arguments)

    monkeypatch.setattr(objectives, "play", watched)
    model = SNAIL(4, 3, 4, attentions=[(3, 2)], objective=Actions())
    draw(model, Watched(3, 7, test_episodes=5), tmp_path)
    assert sorted(played) == ["model", "policies"]
    assert (tmp_path / "test_curves.png").stat().st_size > 0


class Short(CausalTransformer):
    """Says one symbol for ever, but for no more than nine steps with the source."""

    def __init__(self):
        super().__init__(SIZE, SIZE, **SMALL, positions=LearnedPositions(4, 9), objective=Tokens())

    def decode(self, inputs, state):
        logits, state = super().decode(inputs, state)
        return torch.nn.functional.one_hot(torch.full_like(inputs, END + 1), SIZE).to(logits), state


def test_an_answer_that_was_cut_is_drawn_as_far_as_it_came(tmp_path, monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr(plots, "alignment", lambda *arguments: drawn.append(arguments))
    task = CopyingTokens(2, 1, 3, [], 8)
    draw(Short(), task, tmp_path, sequences=8)
    lengths = task.batch("test", 0).source_mask.sum(1).tolist()
    assert len(set(lengths)) > 1
    assert [(len(slots), len(words)) for _, slots, words, *_ in drawn] == [
        (9, 9 - length) for length in lengths
    ]


def test_pictures_of_a_task_without_words(tmp_path) -> None:
    draw(in_tokens("causal"), Answers(), tmp_path, sequences=1)
    assert len(list(tmp_path.iterdir())) == 1


def test_sequences_that_are_too_long_are_not_drawn(tmp_path) -> None:
    draw(in_tokens("Bahdanau"), CopyingTokens(2, 3, 3, [], 2), tmp_path, longest=3)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"sequences must be .* got 0"):
        Pictures(tmp_path, sequences=0)


class InOrder(Model):
    """Points at one point after the other, as they were given."""

    def encode(self, source, mask=None):
        return torch.full((len(source),), END + 1 + source.shape[1])

    def decode(self, inputs, state):
        following = torch.where(inputs == BEGIN, END + 1, inputs + 1)
        tokens = following.where(following < state[:, None], END)
        return torch.nn.functional.one_hot(tokens, 40).float(), state


class Endless(InOrder):
    """Points at the first point for ever."""

    def decode(self, inputs, state):
        return torch.nn.functional.one_hot(torch.full_like(inputs, END + 1), 40).float(), state


def test_answers_in_the_plane_are_drawn_together_for_each_test_set(tmp_path) -> None:
    task = ConvexHull(4, 6, [(5, 1)], 3)
    draw(InOrder(Tokens()), task, tmp_path, sequences=2)
    assert {path.name for path in tmp_path.iterdir()} == {"test_drawing.png", "n_5_drawing.png"}
    two, one = (matplotlib.image.imread(tmp_path / f"{n}_drawing.png") for n in ("test", "n_5"))
    assert two.shape[0] == one.shape[0]
    assert two.shape[1] > 1.5 * one.shape[1]


def test_an_answer_is_drawn_to_the_greatest_length_of_the_test(tmp_path, monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr(plots, "drawing", lambda drawings, *_: drawn.extend(drawings))
    # A point too many, so that the answer never ends: 40 tokens, where search alone stops at 20.
    task = Delaunay(5, 5, test_sequences=1)
    draw(Endless(Tokens(max_length=40)), task, tmp_path)
    assert [len(drawing.answer) for drawing in drawn] == [14]
    # And if nothing is said, that of its own source, whatever the batch.
    drawn.clear()
    task = ConvexHull(4, 12, test_sequences=2)
    draw(Endless(Tokens()), task, tmp_path, sequences=2)
    counts = [len(drawing.points) for drawing in drawn]
    assert [len(drawing.answer[0]) for drawing in drawn] == [2 * n + 10 + 1 for n in counts]
    assert counts[0] != counts[1]


def test_a_drawing_shows_what_was_asked_for_and_what_came(tmp_path) -> None:
    task = TravellingSalesman(5, 5, test_sequences=1)
    batch = task.batch("test", 0)

    def picture(answer, name) -> np.ndarray:
        points, lines, _ = task.drawing(batch, 0, answer)
        _, right, _ = task.drawing(batch, 0, batch.targets[0])
        path = plots.drawing([plots.Drawing(points, right, lines, "")], tmp_path / name)
        return matplotlib.image.imread(path)

    right, wrong = (
        picture(answer, f"{number}.png")
        for number, answer in enumerate((batch.targets[0], batch.targets[0, [0, 2, 1, 3, 4, 5]]))
    )
    # Above is the target, in both; below is the answer.
    changed = np.flatnonzero((right != wrong).any((1, 2)))
    assert len(changed)
    assert changed.min() > len(right) / 2
    with pytest.raises(ValueError, match="expected answers to draw; got none"):
        plots.drawing([], tmp_path / "none.png")


SNAIL_LEARNER = partial(SNAIL, attentions=[(3, 2), (3, 2)], filters=2)


def test_pictures_of_episodes(tmp_path, monkeypatch) -> None:
    task = FewShot(ways=2, shots=[1, 3], test_episodes=3, validation_batch_size=2)
    model = MetaLearner(66, 2, SNAIL_LEARNER, objective=Labels())
    drawn = []
    monkeypatch.setattr(plots, "episode", lambda *arguments, **_: drawn.append(arguments))
    draw(model, task, tmp_path, sequences=3)
    assert [arguments[5].name for arguments in drawn] == [
        f"shot_{shots}_episode_{number}.png" for shots in (1, 3) for number in (1, 2, 3)
    ]
    # The first of the second batch comes before the second of the first.
    weights, examples, queries, labels, answers, *_ = drawn[4]
    batch = task.batch("shot_3", 1)
    assert torch.equal(examples.flatten(1), batch.source[0, :, :64])
    assert torch.equal(queries.flatten(1), batch.inputs[0, :, :64])
    assert labels == [str(int(row[64:].argmax())) for row in batch.source[0]]
    assert [said for said, _ in answers] == [
        str(int(logits.argmax())) for logits in model.logits(batch)[0]
    ]
    assert [right for _, right in answers] == [str(int(target)) for target in batch.targets[0]]
    assert list(weights) == ["attention 1", "attention 2"]
    for image in weights.values():
        assert image.shape == (2, 7)
        torch.testing.assert_close(image.sum(-1), torch.ones(2))


def test_pictures_of_episodes_are_files(tmp_path) -> None:
    task = FewShot(ways=2, shots=[1], test_episodes=1)
    draw(MetaLearner(66, 2, SNAIL_LEARNER, objective=Labels()), task, tmp_path, sequences=1)
    assert (tmp_path / "shot_1_episode_1.png").stat().st_size > 0


def test_no_pictures_where_nothing_is_looked_at_or_shown(tmp_path) -> None:
    task = FewShot(ways=2, shots=[1], test_episodes=1)
    draw(Prototypical(66, 2, objective=Labels()), task, tmp_path, sequences=1)
    assert not list(tmp_path.iterdir())


def test_pictures_of_curves(tmp_path, monkeypatch) -> None:
    drawn = []
    curves = plots.curves

    def draw_and_keep(panels, path, title):
        drawn.extend(panels)
        return curves(panels, path, title)

    monkeypatch.setattr(plots, "curves", draw_and_keep)
    sines = Sinusoids([2, 3], test_queries=6, test_episodes=5)
    learner = MetaLearner(2, 1, SNAIL_LEARNER, objective=Numbers())
    draw(learner, sines, tmp_path, sequences=2)
    answers = learner.logits(sines.batch("shot_3", 0))
    assert drawn[3].lines["answer"][:, 1] == pytest.approx(answers[1, :, 0].detach().numpy())
    arms = Bandits(3, 7, test_episodes=5)
    draw(SNAIL(4, 3, 4, attentions=[(3, 2)], objective=Actions()), arms, tmp_path)
    assert drawn[4].lines["model"].shape == (7, 2)
    assert {path.name for path in tmp_path.iterdir()} == {
        "shot_2_curves.png", "shot_3_curves.png", "test_curves.png"
    }  # fmt: skip
    assert all(path.stat().st_size > 0 for path in tmp_path.iterdir())


def test_readings_of_another_form_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="expected sentences to draw; got none"):
        plots.readings([], tmp_path / "none.png")
    reading = plots.Reading(["a"], torch.rand(2, 2), ["x", "y"], "x", "y")
    with pytest.raises(ValueError, match=r"chances must be \[S, O\] = \[1, 2\].*got \[2, 2\]"):
        plots.readings([reading], tmp_path / "none.png")
    assert not list(tmp_path.iterdir())


def test_curves_without_panels_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="expected curves to draw; got none"):
        plots.curves([], tmp_path / "none.png")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "no weights were given"),
        ({"a": torch.rand(2, 5)}, r"T = 2 queries and S = 3 examples; got \[2, 5\] for 'a'"),
        ({"a": torch.rand(1, 3)}, r"got \[1, 3\] for 'a'"),
    ],
)
def test_an_episode_without_weights_that_fit_is_refused(weights, message) -> None:
    images = torch.rand(3, 4, 4)
    with pytest.raises(ValueError, match=message):
        plots.episode(weights, images, images[:2], ["a"] * 3, [("a", "a")] * 2, "nowhere.png")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "no weights or no words were given"),
        ({"a": torch.rand(1, 2, 2)}, r"with T = 2 words; got \[1, 2, 2\] for 'a'"),
        ({"a": torch.rand(2, 4)}, r"\[T, rows, columns\] with T = 2 words; got \[2, 4\] for 'a'"),
    ],
)
def test_an_overlay_without_weights_that_fit_is_refused(weights, message) -> None:
    with pytest.raises(ValueError, match=message):
        plots.overlay(torch.rand(4, 4, 1), weights, ["a", "b"], "nowhere.png")


class Greys(CopyingTokens):
    """Images of 4 x 6 pixels, in place of the sources."""

    def batch(self, split, index):
        batch = super().batch(split, index)
        source = torch.rand(len(batch.source), 4, 6, 1)
        return batch._replace(source=source, source_mask=None)

    def labels(self, batch, row):
        return [], super().labels(batch._replace(source=batch.targets), row)[1]


@pytest.mark.parametrize("kind", ["Seq2Seq", "Transformer"])
def test_the_attention_on_an_image_is_drawn_word_by_word(kind, tmp_path, monkeypatch) -> None:
    task = Greys(symbols=3, min_length=2, max_length=2)
    settings = {
        "encoder": partial(Embedded, embedding=partial(Patches, filters=(4,), halvings=1)),
        "width": 4,
        "objective": Tokens(),
    }
    model = (
        Seq2Seq(
            1, 7, decoder=partial(GRU, hidden_size=4), attention=Content(General(4)), **settings
        )
        if kind == "Seq2Seq"
        else Transformer(1, 7, layers=2, heads=2, hidden_size=4, **settings)
    )
    drawn = {}

    def overlay(image, weights, words, path, title):
        drawn.update(image=image, weights=weights, words=words, path=path, title=title)

    monkeypatch.setattr(plots, "overlay", overlay)
    batch = map_state(lambda part: part[:1], task.batch("test", 0))
    answer = torch.tensor([[5, END, 0, 0]])
    Pictures(tmp_path).draw_tokens(model.eval(), task, batch, answer, "t_{}_1.png", "a test")
    assert torch.equal(drawn["image"], batch.source[0])
    assert drawn["words"] == ["1", "end"]
    assert drawn["path"].name == "t_attention_1.png"
    right = " ".join(task.labels(batch, 0)[1])
    assert drawn["title"] == (
        f"a test: where each word of the answer looked\nthe right answer: {right}"
    )
    # Weights of both inputs that led to the answer, each over 2 x 3 patches.
    with torch.no_grad(), trace.record(model) as tape:
        model.decode(torch.tensor([[BEGIN, 5]]), model.encode(batch.source))
    assert set(drawn["weights"]) == set(model.alignments())
    for label, part in model.alignments().items():
        weights = torch.cat(tape.calls(part), -2)[0]
        expected = (weights.mean(0) if kind == "Transformer" else weights).view(2, 2, 3)
        torch.testing.assert_close(drawn["weights"][label], expected)


def test_a_gallery_has_every_image_and_looks_mark_places(tmp_path, monkeypatch) -> None:
    shown = []
    show = images_of._show
    monkeypatch.setattr(
        images_of, "_show", lambda panel, image, **named: shown.append(image) or show(panel, image)
    )
    images = torch.arange(1.0, 6.0).view(5, 1, 1, 1).expand(5, 2, 3, 1) / 10
    plots.gallery({"five": images}, tmp_path / "gallery.png", "of a test")
    (sheet,) = shown
    # Three columns and two rows, with a line between; the last place is empty.
    assert sheet.shape == (5, 11, 1)
    assert sheet[::3, ::4, 0].tolist() == [
        pytest.approx(row) for row in ([0.1, 0.2, 0.3], [0.4, 0.5, 1.0])
    ]
    assert (sheet[2] == 1).all()
    path = plots.looks(images[:2], torch.rand(2, 16, 4), tmp_path / "looks.png", "of a test")
    assert path.stat().st_size > 1000
    spots = torch.zeros(1, 8, 8, 1)
    spots[0, [0, 3, 6, 7], [2, 7, 1, 5]] = 1.0
    assert images_of._quarters(spots, 8) == [[2, 31, 49, 61]]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.gallery({}, "nowhere.png"), "expected images to draw; got none"),
        (lambda: plots.gallery({"none": torch.zeros(0, 2, 2, 1)}, "nowhere.png"), "got none"),
        (
            lambda: plots.looks(torch.zeros(1, 2, 2, 1), torch.zeros(1, 5, 4), "nowhere.png"),
            r"squares of places and of slots; got \[1, 5, 4\] for 1 images",
        ),
    ],
)
def test_images_that_cannot_be_drawn_are_refused(draw, message) -> None:
    with pytest.raises(ValueError, match=message):
        draw()


def test_pictures_of_long_sequences_keep_every_sharp_weight() -> None:
    steps, slots = 2003, 1100
    weights = torch.zeros(steps, slots)
    weights[torch.arange(steps), torch.arange(steps) % slots] = 1.0
    blocks, (left, right, bottom, top), size = heads._coarse(weights.T, (200, 800))
    assert blocks.shape[0] <= 200
    assert blocks.shape[1] <= 800
    assert (left, bottom) == (-0.5, -0.5)
    assert right >= steps - 0.5
    assert top >= slots - 0.5
    assert (blocks.amax(0) == 1).all()  # a head is somewhere at each step
    assert size == [6, 3]
    short = torch.rand(5, 7)
    blocks, extent, size = heads._coarse(short, (200, 800))
    assert torch.equal(blocks, short)
    assert (extent, size) == ((-0.5, 6.5, -0.5, 4.5), [1, 1])


class Hint(NamedTuple):
    """A query with a field that may be left out."""

    bias: torch.Tensor | None
    key: torch.Tensor


class Hinted(Content):
    """Content addressing that takes a hint."""

    def forward(self, query, memory, state):
        return super().forward(query.key, memory, state)


def test_a_field_of_a_query_may_be_left_out():
    part = Hinted(Dot())
    memory = Memory(torch.randn(2, 4, 3), torch.randn(2, 4, 3))
    with trace.record(part, kinds=None) as tape:
        part(Hint(None, torch.randn(2, 1, 3)), memory)
    assert [event.kind for event in tape.events] == ["query.key", "weights"]
    changed = tape.intervene(Weights("", 2))
    assert changed.calls(part)[0].argmax(-1).tolist() == [[2], [2]]
