"""Language models: words, batches, and perplexity over a whole set against plain Python."""

import gzip
import itertools
import math
import random
import warnings
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as lightning
import torch

from memnets.app.cli import main
from memnets.app.predictor import Predictor
from memnets.batches import BEGIN, END, PAD, UNKNOWN
from memnets.cells import LSTM, LSTMN
from memnets.decoding import sample
from memnets.models import SNAIL, CausalTransformer, StackModel
from memnets.training.objectives import NextToken
from memnets.viewing import plots, trace
from memnets.viewing.pictures import Pictures
from tasks import Language, docstrings
from tasks.language import words_of

WORDS = ["the", "a", "cat", "dog", "sees", "likes", "big", "old", "near", "tree"]
LINES = [" ".join(random.Random(i).choices(WORDS, k=1 + i % 9)) + "." for i in range(90)]
MODELS = {
    "LSTM": partial(StackModel, mixer=partial(LSTM, hidden_size=6), width=4, hidden_size=4),
    "LSTMN": partial(StackModel, mixer=partial(LSTMN, hidden_size=4), width=4, hidden_size=4),
    "Transformer": partial(CausalTransformer, width=4, heads=2, layers=2, hidden_size=4),
    "SNAIL": partial(SNAIL, width=4, max_length=40, attentions=[(3, 3), (3, 3)], filters=2),
}


def write(path: Path, text: str | bytes) -> str:
    content = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def task_of(folder: Path, lines=LINES, **settings) -> Language:
    path = write(folder / "train.txt", "".join(line + "\n" for line in lines))
    return Language(train=path, **{"batch_tokens": 60, "max_words": 30, **settings})


def model_for(task: Language, name: str = "LSTMN"):
    torch.manual_seed(0)
    model = MODELS[name](task.input_size, task.output_size, objective=NextToken()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def real(tokens, mask, row: int) -> list[int]:
    return (tokens[row] if mask is None else tokens[row][mask[row]]).tolist()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man, in a t-shirt.", ["a", "man", ",", "in", "a", "t-shirt", "."]),
        ("  Don't -- stop!\t", ["don't", "-", "-", "stop", "!"]),
        ("l\u2019\u00e9t\u00e9 2016", ["l\u2019\u00e9t\u00e9", "2016"]),
        ("rock 'n' roll", ["rock", "'", "n", "'", "roll"]),
        (" \u3000", []),
    ],
)
def test_words(text, words) -> None:
    assert words_of(text) == words


def test_capitals_stay_where_they_are_asked_for() -> None:
    assert words_of("A Man", lower=False) == ["A", "Man"]


# Batches


def test_every_sentence_comes_once_in_a_pass_within_the_budget(tmp_path) -> None:
    task = task_of(tmp_path, [*LINES, "", "  ", "once"])
    words = Language.sentences(task, "train")
    number = task.batches("train")
    for epoch in (0, 3):
        seen = []
        for index in range(epoch * number, (epoch + 1) * number):
            batch = task.batch("train", index)
            assert torch.equal(batch.source, torch.full((len(batch.source), 1), BEGIN))
            assert batch.source.numel() + batch.targets.numel() <= 60
            for row in range(len(batch.targets)):
                targets = real(batch.targets, batch.target_mask, row)
                assert real(batch.inputs, batch.target_mask, row) == [BEGIN, *targets[:-1]]
                assert targets[-1] == END
                assert PAD not in targets
                seen.append(targets[:-1])
        assert sorted(seen) == sorted(map(task.vocabulary.encode, words))
    assert task.skipped == {f"without words in {tmp_path / 'train.txt'}": 2}
    # It comes once in the text, and so has no token of its own.
    assert "once" not in task.vocabulary
    assert task.vocabulary.encode(["once"]) == [UNKNOWN]


def test_long_sentences_are_left_out_of_training_alone(tmp_path) -> None:
    longest = max(len(words_of(line)) for line in LINES) + 1
    own = write(tmp_path / "test.txt", "the cat " * 40)
    task = task_of(tmp_path, test=own, max_words=longest)
    assert not task.token_pairs("train").skipped
    short = task_of(tmp_path, max_words=longest - 1, val=str(tmp_path / "train.txt"))
    assert not short.token_pairs("val").skipped
    assert (
        short.token_pairs("train").skipped
        == short.skipped[f"more than {longest - 1} words in train"]
    )
    assert task.batch("test", 0).targets.shape == (1, 81)
    with pytest.raises(IndexError, match="test has 1 batches"):
        task.batch("test", 1)


def test_what_is_held_out_depends_on_the_text_alone(tmp_path) -> None:
    lines = [*LINES, *LINES[:10]]
    splits = [
        {name: task.sentences(name) for name in ("train", "val", "test")}
        for task in (task_of(tmp_path, lines), task_of(tmp_path, lines[::-1], seed=5))
    ]
    first, second = ({n: sorted(map(tuple, s)) for n, s in each.items()} for each in splits)
    assert first == second
    for one, other in itertools.combinations(first.values(), 2):
        assert not set(one) & set(other)
    assert sum(map(len, first.values())) == len(lines)
    assert 1 <= len(set(first["val"])) <= 4
    batches = [task_of(tmp_path, lines, seed=seed).batch("train", 3) for seed in (0, 0, 1)]
    assert torch.equal(batches[0].targets, batches[1].targets)
    assert not torch.equal(batches[0].targets, batches[2].targets)


def test_files_of_all_splits_plain_and_packed(tmp_path) -> None:
    for name, lines in (("a.txt", LINES[:50]), ("b.gz", LINES[50:]), ("c.txt", ["The Cat"])):
        write(tmp_path / name, "\n".join(lines))
    task = Language(str(tmp_path), ["a.txt", "b.gz"], "c.txt", ["c.txt", "c.txt"], least=1)
    assert task.sentences("train") == [words_of(line) for line in LINES]
    assert task.sentences("val") == [["the", "cat"]]
    assert task.sentences("test") == [["the", "cat"]] * 2
    few = Language(str(tmp_path), "a.txt", vocabulary_size=6, least=1)
    assert (few.input_size, len(few.vocabulary)) == (6, 6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n \n", r"expected text in .*; the file is empty"),
        (b"one\ntwo \xff\n", r"line 2: expected UTF-8; got the byte 0xff"),
        ("\u200b\n".encode(), None),
        (None, r"expected a file at .*; there is none"),
        (b"one line", r"expected more than 2 sentences in .*, to hold out some for val and test"),
    ],
)
def test_files_that_are_no_text_are_refused(tmp_path, content, message) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message or "expected .* sentences in"):
        _ = Language(train=str(path)).input_size


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"least": 0}, "least must be a whole number of at least 1; got 0"),
        ({"vocabulary_size": 4}, "vocabulary_size must be above 4, the number of its marks; got 4"),
        ({"batch_tokens": 20, "max_words": 20}, "batch_tokens must be above max_words"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        Language(**settings)


PROGRAM = b'''
"""A module of examples that are read.  It has two sentences.

    an indented paragraph that is no text.

This line has a sign of code: x = 3.
Short one here. Is this a question of many words?
"""

class One:
    """Do the thing that it
    is made for."""

    def method(self):
        "Stop here, or go on (as you like)!"

async def function():
    """lower case begins this sentence."""
    text = """No docstring is this text here."""
'''


def test_sentences_of_docstrings() -> None:
    assert list(docstrings.sentences_of(PROGRAM)) == [
        "A module of examples that are read.",
        "It has two sentences.",
        "Is this a question of many words?",
        "Do the thing that it is made for.",
        "Stop here, or go on (as you like)!",
    ]


def test_docstrings_are_the_text_without_files(monkeypatch, tmp_path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "of it").mkdir()
    files = ["b.py", "a.py", "test/c.py", "of it/d.py", "e.txt", "damaged.py"]
    for number, name in enumerate(files):
        text = f'"""This is sentence number {number}. This one is in all of them."""'
        (tmp_path / name).write_text(text if name != "damaged.py" else "def")
    monkeypatch.setattr(docstrings.sysconfig, "get_path", lambda name: str(tmp_path))
    read = docstrings.sentences.__wrapped__()
    assert read == tuple(
        f"This {words}." for words in ("is sentence number 1", "one is in all of them",
                                       "is sentence number 0")
    )  # fmt: skip
    monkeypatch.setattr("tasks.language.sentences", lambda: read)
    task = Language(least=1)
    assert sum(len(task.sentences(name)) for name in ("train", "val", "test")) == 3
    monkeypatch.setattr(docstrings.sysconfig, "get_path", lambda name: str(tmp_path / "none"))
    with pytest.raises(ValueError, match="expected the sources of Python's standard library in"):
        docstrings.sentences.__wrapped__()


# Perplexity


def nats_of(model, task: Language, words: list[str]) -> list[float]:
    """Negative log probability of each word and of the end mark, by plain Python."""
    tokens = [*task.vocabulary.encode(words), END]
    with torch.no_grad():
        state = model.encode(torch.tensor([[BEGIN]]))
        logits, _ = model.decode(torch.tensor([[BEGIN, *tokens[:-1]]]), state)
    costs = []
    for row, token in zip(logits[0].tolist(), tokens, strict=True):
        costs.append(math.log(sum(map(math.exp, row))) - row[token])
    return costs


def trainer(**settings) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **settings,
    )  # fmt: skip


def quietly(call, *arguments, **named):
    with warnings.catch_warnings():
        for lightnings in ("`isinstance.treespec", ".* does not have many", "You have overridden"):
            warnings.filterwarnings("ignore", lightnings)
        return call(*arguments, **named)


def test_perplexity_of_a_set_is_of_all_its_words(tmp_path) -> None:
    task = task_of(tmp_path, batch_tokens=31)
    model = model_for(task)
    runner = trainer()
    quietly(runner.validate, model, datamodule=task, verbose=False)
    found = {name: float(value) for name, value in runner.callback_metrics.items()}
    quietly(runner.test, model, datamodule=task, verbose=False)
    found |= {name: float(value) for name, value in runner.callback_metrics.items()}
    for split in ("val", "test"):
        assert task.batches(split) > 1
        costs = [cost for words in task.sentences(split) for cost in nats_of(model, task, words)]
        loss = sum(costs) / len(costs)
        assert found[f"{split}/loss"] == pytest.approx(loss, rel=1e-5)
        assert found[f"{split}/perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
        # A mean over sentences would be another number.
        means = [sum(c) / len(c) for c in map(partial(nats_of, model, task), task.sentences(split))]
        assert abs(loss - sum(means) / len(means)) > 1e-3
    tokens = sum(len(words) + 1 for words in task.sentences("test"))
    assert task.notes() == [
        f"{tokens} words with end marks, 0 of them unknown; a vocabulary of {len(WORDS) + 5} "
        "words and marks"
    ]


def test_perplexity_and_log_probability_of_own_lines(tmp_path) -> None:
    task = task_of(tmp_path)
    model = model_for(task)
    lines = ["The old cat.", "a", "the zebra likes a big old dog near the tree"]
    costs = [nats_of(model, task, words_of(line)) for line in lines]
    assert [len(each) for each in costs] == [5, 2, 11]
    texts = Predictor(model, task)(lines, batch_size=2)
    assert [float(text) for text in texts] == pytest.approx(
        [math.exp(sum(each) / len(each)) for each in costs], rel=1e-4
    )
    task.log_probabilities = True
    texts = Predictor(model, task)(lines)
    assert [float(text) for text in texts] == pytest.approx([-sum(c) for c in costs], rel=1e-4)
    with pytest.raises(ValueError, match="item 2: expected a sentence; got one without words"):
        Predictor(model, task)(["a", " "])


def test_a_sentence_goes_on_from_its_beginning(tmp_path) -> None:
    task = task_of(tmp_path)
    model = model_for(task)
    begun = task.beginning("The big")
    answers = sample(model, torch.full((1, 1), BEGIN), max_length=9, begun=begun, never=[UNKNOWN])
    assert task.text(answers[0]).startswith("the big")
    assert answers.shape[1] <= 9


@pytest.mark.usefixtures("elsewhere", "sketches")
def test_a_checkpoint_needs_no_training_text(capsys, tmp_path) -> None:
    task, text = task_of(tmp_path), tmp_path / "train.txt"
    words = task.vocabulary.words
    config = Path(__file__).parents[2] / "configs" / "language" / "lstmn.yaml"
    settings = ["--model.width=4", "--model.mixer.hidden_size=4", "--model.hidden_size=4"]
    main(
        ["fit", "--config", str(config), *settings, f"--data.train={text}", "--trainer.max_steps=1",
         "--data.epoch_batches=1", "--data.validation_batches=1"]
    )  # fmt: skip
    run = Path("runs/language/lstmn/version_0")
    assert sorted(path.name for path in (run / "pictures").iterdir())[0] == "test_words_1.png"
    own = write(tmp_path / "own.txt", "The old cat.\na\n")
    text.unlink()
    capsys.readouterr()
    main(["predict", f"--ckpt_path={run}/checkpoints/last.ckpt", f"--input={own}"])
    lines = capsys.readouterr().out.splitlines()
    predictor = Predictor.load(run / "checkpoints" / "last.ckpt")
    assert lines == predictor(["The old cat.", "a"])
    assert predictor.task.vocabulary.words == words
    with pytest.raises(ValueError, match="expected a checkpoint with the vocabulary of a text"):
        task.load_state_dict({})


# Pictures


@pytest.mark.parametrize("name", MODELS)
def test_words_are_shaded_by_the_weights_of_their_own_step(name, tmp_path, monkeypatch) -> None:
    task = task_of(tmp_path)
    model = model_for(task, name)
    drawn = []
    monkeypatch.setattr(plots, "shaded", lambda *given: drawn.append(given))
    quietly(
        trainer(callbacks=[Pictures(tmp_path, sequences=2)]).test, model, datamodule=task,
        verbose=False,
    )  # fmt: skip
    if name == "LSTM":
        assert not drawn
        return
    batch = task.batch("test", 0)
    panels, words, path, title = drawn[0]
    targets = real(batch.targets, batch.target_mask, 0)[:-1]
    assert words == ["(before)", *map(task.vocabulary.name, targets)]
    assert path == tmp_path / "test_words_1.png"
    assert title == "test set, sequence 1: how much each word looked back at those before it"
    assert list(panels) == list(model.alignments())
    tokens = torch.tensor([[BEGIN, *targets]])
    with torch.no_grad(), trace.record(model) as tape:
        model.decode(tokens, model.encode(torch.tensor([[BEGIN]])))
    for label, part in model.alignments().items():
        # Each step as the model took it, last words first: its own word, if it sees that, is last.
        steps = tape.over_time(part).mean(0)[2:]
        for step, (row, expected) in enumerate(zip(panels[label], steps.tolist(), strict=True)):
            assert len(row) == len(words)
            assert row.sum().item() == pytest.approx(1, abs=1e-5)
            # The empty slot of an LSTMN, the source, the mark that begins the answer.
            first = 3 if name == "LSTMN" else 2
            assert row[0].item() == pytest.approx(sum(expected[:first]), abs=1e-6)
            seen = step + (name != "LSTMN")
            assert row[1 : 1 + seen].tolist() == pytest.approx(expected[first : first + seen])
            assert not row[1 + seen :].any()


def test_a_shaded_sentence(tmp_path) -> None:
    weights = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.5, 0.5]])
    path = plots.shaded(weights, ["a", "\u72ac", "runs"], tmp_path / "words.png", "title")
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert plots.shaded({"one": weights[1:], "two": weights[:1]}, ["a", "b", "c"], path, steps=[1])


@pytest.mark.parametrize(
    ("weights", "steps", "message"),
    [
        ({}, None, "no weights to draw"),
        (torch.rand(2, 2), None, r"weights must be \[T, N\] = \[2, 3\].*; got \[2, 2\]"),
        ({"a": torch.rand(2, 3)}, [1], r"= \[1, 3\], .* got \[2, 3\] for 'a'"),
        (torch.rand(1, 3), [3], r"steps must be places of the 3 words; got \[3\]"),
    ],
)
def test_shades_that_fit_no_words_are_refused(weights, steps, message) -> None:
    with pytest.raises(ValueError, match=message):
        plots.shaded(weights, ["a", "b", "c"], "nowhere.png", steps=steps)
