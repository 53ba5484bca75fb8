"""Sentences from the command line and from Python: pre-training, labels, vectors and back."""

import json
import random
from pathlib import Path

import pytest
import torch

from memnets import SentenceVectors
from memnets.app.checkpoints import load_run
from memnets.app.cli import main
from memnets.app.predictor import Predictor
from memnets.app.vectors import _FromVector
from memnets.batches import Batch
from memnets.decoding import beam_search, generate
from memnets.models import CausalTransformer
from memnets.training.runs import load_checkpoint
from memnets.viewing.pictures import Pictures
from tests.images import save_blank_pictures

SMALL = [
    *("--trainer.max_steps=2", "--data.epoch_batches=2", "--data.train=[good.txt, bad.txt]"),
    *("--model.width=8", "--data.vocabulary_size=30"),
]
SENTENCES = ["A fine film", "dull", "not so dull , and 7 times as fine"]


def written() -> None:
    drawn = random.Random(1)
    for name, word in (("good", "fine"), ("bad", "dull")):
        lines = [
            f"{' '.join(drawn.choices(['a', 'film', 'so', 'not'], k=n % 5))} {word} {n}"
            for n in range(120)
        ]
        Path(f"{name}.txt").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An autoencoder, and a classifier that starts from it, each trained for two steps."""
    folder = tmp_path_factory.mktemp("sentences")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        save_blank_pictures(patch)
        written()
        sizes = [
            *("--model.encoder.controller.hidden_size=4", "--model.decoder.hidden_size=6"),
        ]
        first = folder / "runs/sentiment/autoencoder/version_0"
        main(["fit", "--config=sentiment/autoencoder", *SMALL, *sizes])
        best = str(first / "checkpoints" / "best.ckpt")
        main(["fit", "--config=sentiment/vector_classifier", *SMALL, *sizes, f"--init_from={best}"])
        patch.chdir("/")
    return {
        "autoencoder": first,
        "classifier": folder / "runs/sentiment/vector_classifier/version_0",
    }


def test_a_classifier_starts_from_the_weights_and_the_words_of_an_autoencoder(
    runs, tmp_path, monkeypatch, capsys
):
    save_blank_pictures(monkeypatch)
    monkeypatch.chdir(runs["autoencoder"].parents[3])
    best = runs["autoencoder"] / "checkpoints" / "best.ckpt"
    sizes = ["--model.encoder.controller.hidden_size=4", "--model.decoder.hidden_size=6"]
    still = ["--model.optimizer=SGD", "--model.optimizer.lr=0.0", f"--runs={tmp_path}"]
    start = [f"--init_from={best}", "--data.least=40"]
    main(["fit", "--config=sentiment/vector_classifier", *SMALL, *sizes, *still, *start])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "weights are from" in line]
    taken, _, rest = line.partition("; new: ")
    # An embedding that source, inputs and output share counts once.
    assert taken.startswith("18 of 20 weights are from ")
    assert "target_embedding.weight" in taken
    assert "encoder.forwards.0.lstm.weight_hh_l0" in taken
    assert rest == "output.bias [2] (there [30]), output.own.weight [2, 8]"
    theirs = load_checkpoint(best)
    ours = load_checkpoint(tmp_path / "sentiment/vector_classifier/version_0/checkpoints/last.ckpt")
    for name, weight in ours["state_dict"].items():
        if name not in ("output.bias", "output.own.weight"):
            assert torch.equal(weight, theirs["state_dict"][name]), name
    # The words of the checkpoint, although the new run would know fewer.
    kept = [content["Sentiment"]["vocabulary"] for content in (ours, theirs)]
    assert torch.equal(*kept)
    assert "classes" in ours["Sentiment"]
    with pytest.raises(SystemExit):
        main(
            ["fit", "--config=sentiment/vector_classifier", *SMALL, *sizes, *start, "--data.fold=4"]
        )
    assert "the checkpoint is of fold 0 of 10" in capsys.readouterr().err


def test_labels_with_their_probabilities(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(runs["classifier"].parents[3])
    predictor = Predictor.load(runs["classifier"])
    labels = predictor(SENTENCES)
    assert set(labels) <= {"good", "bad"}
    model, task = load_run(runs["classifier"])
    for sentence, label, (same, chance) in zip(
        SENTENCES, labels, predictor.chances(SENTENCES, batch_size=2), strict=True
    ):
        shares = model.logits(task.asked([sentence]))[0, 0].softmax(-1)
        assert same == label == task.classes[shares.argmax()]
        assert chance == pytest.approx(shares.max().item(), abs=1e-6)
    (tmp_path / "mine.txt").write_text("\n".join(SENTENCES))
    best = str(runs["classifier"] / "checkpoints" / "best.ckpt")
    asked = ["--ckpt_path", best, "--input", str(tmp_path / "mine.txt"), "--chances=true"]
    main(["predict", *asked])
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [label for label, _ in rows] == labels
    assert all(0.5 <= float(chance) <= 1 for _, chance in rows)
    # The training's files are not needed any more.
    monkeypatch.chdir(tmp_path)
    assert Predictor.load(runs["classifier"])(SENTENCES) == labels
    main(["predict", *asked])
    assert [line.split("\t") for line in capsys.readouterr().out.splitlines()] == rows
    with pytest.raises(TypeError, match=r"answers with labels, whose probabilities .* is Tokens"):
        Predictor.load(runs["autoencoder"]).chances(SENTENCES)
    scores = json.loads((runs["classifier"] / "metrics.json").read_text())
    assert scores["test/error"] == pytest.approx(1 - scores["test/accuracy"])


def test_an_error_of_the_files_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.tsv").write_text("good\tA film\nA film\n")
    with pytest.raises(SystemExit):
        main(["fit", "--config=sentiment/classifier", "--data.train=mine.tsv"])
    error = capsys.readouterr().err
    message = "mine.tsv, line 2: expected a label, a tab and a sentence; got 'A film'"
    assert error.startswith(f"memnets: error: {message}")
    assert error.count("\n") == 1
    assert not Path("runs").exists()


def test_a_sentence_to_a_vector_and_back(runs, monkeypatch):
    monkeypatch.chdir(runs["autoencoder"].parents[3])
    vectors = SentenceVectors.load(runs["autoencoder"])
    whole = vectors.encode(SENTENCES)
    assert whole.shape == (3, 8)
    # A vector does not depend on its neighbours, and says all that an answer depends on.
    assert torch.allclose(vectors.encode(SENTENCES, batch_size=1), whole, atol=1e-6)
    batch = vectors.task.asked(SENTENCES)
    tokens = generate(vectors.model, batch.source, batch.source_mask, max_length=7)
    assert vectors.decode(whole, max_length=7) == vectors.task.says(batch, tokens)
    found = beam_search(vectors.model, batch.source, batch.source_mask, 3, max_length=7)
    expected = vectors.task.says(batch, found.tokens[:, 0])
    assert vectors.decode(whole, beam=3, max_length=7) == expected
    state = _FromVector(vectors.model).encode(whole.unsqueeze(1))
    assert torch.allclose(
        state.hidden, vectors.model.encode(*batch[::3][:1], batch.source_mask).hidden
    )


def test_errors_of_vectors(runs, monkeypatch):
    monkeypatch.chdir(runs["autoencoder"].parents[3])
    vectors = SentenceVectors.load(runs["autoencoder"])
    with pytest.raises(TypeError, match="expected a list of sentences; got a single text"):
        vectors.encode("A film")
    with pytest.raises(ValueError, match="expected a list of sentences; got none"):
        vectors.encode([])
    with pytest.raises(ValueError, match="item 2: expected a sentence; got one without words"):
        vectors.encode(["A film", ""])
    with pytest.raises(ValueError, match=r"expected vectors \[n, 8\], n >= 1; got \[3\]"):
        vectors.decode(torch.zeros(3))
    with pytest.raises(TypeError, match=r"a Seq2Seq without attention.*; got CausalTransformer"):
        SentenceVectors(CausalTransformer(9, 9), vectors.task)


def test_a_reading_is_the_answer_to_each_beginning(runs, monkeypatch):
    monkeypatch.chdir(runs["classifier"].parents[3])
    model, task = load_run(runs["classifier"])
    batch = task.asked(SENTENCES[2:])
    reading = Pictures(Path("nowhere")).read(model, task, batch, torch.tensor([[1]]))
    words = task.labels(batch, 0)[0]
    assert list(reading.words) == words
    assert (list(reading.labels), reading.right, reading.answer) == (["bad", "good"], "bad", "good")
    for place in range(len(words)):
        part = Batch(batch.source[:, : place + 1], batch.inputs, batch.targets)
        expected = model.logits(part)[0, 0].softmax(-1)
        assert torch.allclose(reading.chances[place], expected, atol=1e-6)
