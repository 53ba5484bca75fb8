"""Recording the weights of any model, and drawing them."""

from functools import partial
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest
import torch

from memnets import fast
from memnets.addressing import Content, Local
from memnets.batches import BEGIN, END
from memnets.cells import GRU, LSTMN, FeedForward
from memnets.encoders import Recurrent
from memnets.memories import NTM, Tape
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
from memnets.scores import Additive, Dot
from memnets.training import callbacks
from memnets.training.objectives import Actions, Labels, Numbers, Tokens
from memnets.viewing import plots, trace
from tasks import (
    Bandits,
    ConvexHull,
    CopyingTokens,
    Delaunay,
    FewShot,
    Sinusoids,
    Task,
    TravellingSalesman,
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
    weights = tape.stacked("body.access.addressing")
    assert weights.shape == (2, 4, 3, 5)
    assert torch.allclose(weights[:, -1], state.body.access.weights, atol=1e-6)
    assert tape.heads["body.access.addressing"] == ["read 1", "read 2", "write 1"]


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
    with pytest.raises(KeyError, match="nothing was recorded for 'access'"):
        tape.stacked("access")
    with pytest.raises(ValueError, match="no weights to draw"):
        plots.weights({}, "nowhere.png")


WEIGHTS = torch.rand(2, 3, 4, 5)  # [B, H, T, N]


def recorded(*calls: torch.Tensor, heads: list[str] | None = None) -> trace.Tape:
    tape = trace.Tape()
    tape.weights["part"] = list(calls)
    if heads:
        tape.heads["part"] = heads
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
    with pytest.raises(KeyError, match="nothing was recorded for 'other'"):
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
    names = model.alignments()
    assert names
    for part in names.values():
        weights = at_once.over_time(part)
        torch.testing.assert_close(stepwise.over_time(part), weights)
        assert weights.shape[-1] == (7 if name == "causal" else 3)
        if name != "local-p":
            sums = weights.sum(-1)
            torch.testing.assert_close(sums, torch.ones_like(sums))
    slots = ["source"] * 3 + ["answer"] * 4 * (name == "causal")
    path = tmp_path / "alignment.png"
    at_once.plot_alignment(path, names, slots, ["word"] * 4, heads=name == "causal")
    assert path.stat().st_size > 0


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


def in_tokens(name):
    model = MODELS[name]()
    model.objective = Tokens()
    return model


def draw(model, task, folder, **settings) -> None:
    """As at the end of a test."""
    torch.manual_seed(0)
    pictures = callbacks.Pictures(folder, **settings)
    trainer = SimpleNamespace(is_global_zero=True, datamodule=task, callbacks=[pictures])
    pictures.on_test_end(trainer, model.eval())


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

    draw(in_tokens("no attention"), Watched(2, 1, 3, [(2, 9)], 9), tmp_path, sequences=4)
    assert made == [("test", 0), ("test", 1), ("test", 2), ("length_2", 0)]
    made.clear()
    draw(in_tokens("no attention"), Watched(2, 1, 3, [], 9), tmp_path, sequences=2)
    assert made == [("test", 0), ("test", 1)]


def test_pictures_of_a_task_without_words(tmp_path) -> None:
    draw(in_tokens("causal"), Answers(), tmp_path, sequences=1)
    assert len(list(tmp_path.iterdir())) == 1


def test_sequences_that_are_too_long_are_not_drawn(tmp_path) -> None:
    draw(in_tokens("Bahdanau"), CopyingTokens(2, 3, 3, [], 2), tmp_path, longest=3)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"sequences must be .* got 0"):
        callbacks.Pictures(tmp_path, sequences=0)


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
    monkeypatch.setattr(plots, "drawing", lambda drawings, path, title: drawn.extend(drawings))
    # A point too many, so that the answer never ends: 40 tokens, where search alone stops at 20.
    task = Delaunay(5, 5, test_sequences=1)
    draw(Endless(Tokens(max_length=40)), task, tmp_path)
    assert [len(drawing.answer) for drawing in drawn] == [14]
    # And if nothing is said, that of the longest of its batch, padding included.
    drawn.clear()
    task = ConvexHull(4, 12, test_sequences=2)
    draw(Endless(Tokens()), task, tmp_path, sequences=2)
    sources = task.batch("test", 0).source
    limit = 2 * sources.shape[1] + 10
    assert [len(drawing.answer[0]) for drawing in drawn] == [limit + 1] * 2
    assert len(drawn[0].points) != len(drawn[1].points)


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
    weights, examples, queries, labels, answers, _ = drawn[4]
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
