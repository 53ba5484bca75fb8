"""Sentences with labels: what is read, how it is divided, what batches hold, and errors."""

import io
import itertools
import math
import random
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
import torch

from memnets import testing
from memnets.app.predictor import Predictor
from memnets.batches import BEGIN, END, UNKNOWN, Batch
from memnets.cells import LSTM
from memnets.models import StackModel
from memnets.training import NextToken
from tasks import Sentiment
from tasks.language import words_of
from tasks.sentiment import INNER, SNIPPETS, Sentence, read_archive

KINDS = ["classification", "language_model", "autoencoder"]
GOOD, BAD = ["fine", "great", "funny"], ["dull", "empty", "slow"]


def sentences(count: int = 300) -> list[tuple[str, float]]:
    """Sentences of 2 to 7 words, with a rating that follows from a word in them."""
    drawn = random.Random(0)
    found = []
    for number in range(count):
        word = drawn.choice(GOOD + BAD)
        rest = drawn.choices(["A", "the", "film", "with", "you", "me"], k=drawn.randint(0, 5))
        found.append((" ".join([*rest, word, str(number % 40)]), 1.5 if word in GOOD else -0.5))
    return found


ROWS = sentences()


def snippets(rows=ROWS) -> bytes:
    lines = [f"{number}\t{rating}\t{text} " for number, (text, rating) in enumerate(rows, 1)]
    return ("\r\n".join(lines) + "\r\n").encode()


def tar(name: str, content: bytes, mode: str = "w:gz") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def written(path: Path, content: bytes = b"") -> str:
    """A path with a file of the form that its name says."""
    content = content or snippets()
    inner = tar(f"hutto/{SNIPPETS}", content)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"vaderSentiment-0.5/additional/{INNER}", inner)
    elif path.name.endswith(".tar.gz"):
        path.write_bytes(tar(f"vaderSentiment-0.5/additional/{INNER}", inner))
    elif path.suffix == ".txt":
        path.write_bytes(content)
    else:
        (path / "additional").mkdir(parents=True)
        (path / "additional" / INNER).write_bytes(inner)
    return str(path)


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> str:
    return written(tmp_path_factory.mktemp("archive") / "vader.zip")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "folder", SNIPPETS])
def test_the_archive_is_read_in_each_form(name, tmp_path):
    assert read_archive(written(tmp_path / name)) == ROWS


def test_the_snippets_may_lie_beside_the_archive_within(tmp_path):
    written(tmp_path / "folder")
    written(tmp_path / "folder" / SNIPPETS, snippets(ROWS[:7]))
    assert read_archive(str(tmp_path / "folder")) == ROWS[:7]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.zip",
            b"1\t1.0\tgood\n2\tgreat\tfilm\n",
            r"line 2: expected a rating, a number",
        ),
        ("a.tar.gz", b"1\tnan\tgood\n", r"a.tar.gz/.*, line 1: expected a rating, a number; got"),
        (SNIPPETS, b"1\t1.0\tgood\n2\t1.0\t \n", r"line 2: expected a number, a rating and"),
        (SNIPPETS, b"1\t1.0\n", r"line 1: expected a number, a rating and a sentence, with tabs"),
    ],
)
def test_a_line_of_another_form_is_named(name, content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_archive(written(tmp_path / name, content))


def test_an_archive_without_the_snippets_says_what_is_expected(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "no snippets")
    (tmp_path / "other.tar.gz").write_bytes(tar("readme.txt", b"no snippets"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no snippets")
    for name in ("other.zip", "other.tar.gz", "empty", "notes.txt"):
        with pytest.raises(ValueError, match=f"expected the source archive .*{name}.*{SNIPPETS}"):
            read_archive(str(tmp_path / name))
    whole = Path(written(tmp_path / "whole.tar.gz")).read_bytes()
    (tmp_path / "half.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="it is damaged"):
        read_archive(str(tmp_path / "half.tar.gz"))


def test_the_label_is_the_sign_of_the_rating_and_zeros_are_left_out(tmp_path):
    rows = [*ROWS, ("neither film", 0.0)]
    task = Sentiment(archive=written(tmp_path / "a.zip", snippets(rows)))
    every = [each for split in ("train", "val", "test") for each in task.sentences(split)]
    signs = {text: "positive" if rating > 0 else "negative" for text, rating in ROWS}
    assert sorted(every) == sorted(Sentence(text, signs[text]) for text, _ in ROWS)
    assert task.classes == ["negative", "positive"]


def test_folds(archive, tmp_path):
    tasks = [Sentiment(archive=archive, folds=4, fold=fold) for fold in range(4)]
    parts = [
        [{each.text for each in t.sentences(split)} for split in ("train", "val", "test")]
        for t in tasks
    ]
    whole = {text for text, _ in ROWS}
    for train, val, test in parts:
        assert train | val | test == whole
        assert len(train) + len(val) + len(test) == len(whole)
    assert set.union(*(test for *_, test in parts)) == whole
    assert sum(len(test) for *_, test in parts) == len(whole)
    # By plain Python: the checksum of the words alone.
    for fold, (_, val, test) in enumerate(parts):
        for text in whole:
            turn, number = divmod(zlib.crc32(" ".join(words_of(text)).encode()), 4)
            assert (text in test) == (number == fold)
            assert (text in val) == (number != fold and turn % 10 == 0)
    # Neither the seed nor the order of the file changes them.
    other = Sentiment(archive=written(tmp_path / "b.zip", snippets(ROWS[::-1])), folds=4, seed=7)
    assert {each.text for each in other.sentences("test")} == parts[0][2]
    assert other.vocabulary.words == tasks[0].vocabulary.words


def test_the_vocabulary_is_that_of_the_training_part(archive):
    task = Sentiment(archive=archive, least=2)
    words = [word for each in task.sentences("train") for word in words_of(each.text)]
    assert set(task.vocabulary.words) == {word for word in words if words.count(word) >= 2}
    small = Sentiment(archive=archive, vocabulary_size=9)
    assert len(small.vocabulary) == 9
    assert (small.batch("test", 0).source == UNKNOWN).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_has_each_sentence_once_and_a_batch_what_its_kind_says(kind, archive):
    task = Sentiment(kind=kind, archive=archive, batch_size=8)
    number = task.batches("train")
    labels = {each.text: each.label for each in task.sentences("train")}
    assert task.output_size == (2 if kind == "classification" else task.input_size)
    orders = []
    for epoch in (0, 1):
        seen = []
        for index in range(epoch * number, (epoch + 1) * number):
            _, rows = task._rows("train", index)
            batch = task.batch("train", index)
            assert batch.source_mask is None
            assert batch.target_mask is None
            assert len(rows) <= 8
            for place, row in enumerate(rows):
                sentence = task.sentences("train")[row]
                tokens = task.vocabulary.encode(words_of(sentence.text))
                source, inputs, targets = (part[place].tolist() for part in batch[:3])
                label = ["negative", "positive"].index(labels[sentence.text])
                assert (source, inputs, targets) == {
                    "classification": (tokens, [BEGIN], [label]),
                    "language_model": ([BEGIN], [BEGIN, *tokens], [*tokens, END]),
                    "autoencoder": (tokens, [BEGIN, *tokens], [*tokens, END]),
                }[kind]
            seen += rows.tolist()
        assert sorted(seen) == list(range(len(task.sentences("train"))))
        orders.append(seen)
    assert orders[0] != orders[1]
    with pytest.raises(IndexError, match="test has"):
        task.batch("test", task.batches("test"))


@pytest.mark.parametrize("kind", KINDS)
def test_laws(kind, archive):
    # A batch has sentences of one length, and so may be smaller than the setting says: the law of
    # shapes is left out, and the test above takes its place.
    testing.check_task(
        Sentiment,
        kind=kind,
        archive=archive,
        batch_size=4,
        epoch_batches=5,
        word_dropout=0.2,
        leave_out=["shapes"],
    )


def test_dropped_words_are_unknown_in_training_alone(archive):
    plain, dropped = (
        Sentiment(kind="autoencoder", archive=archive, word_dropout=share) for share in (0.0, 0.3)
    )
    count = changed = 0
    for index in range(plain.batches("train")):
        before, after = plain.batch("train", index), dropped.batch("train", index)
        assert torch.equal(after.targets, before.targets)
        for tokens, others in ((after.source, before.source), (after.inputs, before.inputs)):
            differ = tokens != others
            assert (tokens[differ] == UNKNOWN).all()
            assert (others[differ] > END).all()
            count += int((others > END).sum())
            changed += int(differ.sum())
    assert 0.25 < changed / count < 0.35
    assert torch.equal(plain.batch("test", 0).source, dropped.batch("test", 0).source)


def files(folder: Path, **texts: str) -> list[str]:
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return [str(folder / f"{name}.txt") for name in texts]


def test_files_of_a_users_own(tmp_path):
    for name, label in (("great", GOOD), ("poor", BAD)):
        rows = [text for text, _ in ROWS if any(word in text.split() for word in label)]
        (tmp_path / f"{name}.txt").write_text("\n".join([*rows, " ", ""]))
    pair = [str(tmp_path / "poor.txt"), str(tmp_path / "great.txt")]
    task = Sentiment(train=pair)
    assert task.classes == ["great", "poor"]
    label = {each.text: each.label for each in task.sentences("train")}
    assert all(
        (name == "great") == any(word in text.split() for word in GOOD)
        for text, name in label.items()
    )
    # One file with labels holds the same sentences; test files take the place of the folds.
    lines = [f"{'great' if rating > 0 else 'poor'}\t{text}\n" for text, rating in ROWS]
    one, test = files(
        tmp_path, one="".join(lines), test="poor\tA slow one\ngreat\tthe film funny\n"
    )
    assert sorted(Sentiment(train=one).sentences("test")) == sorted(task.sentences("test"))
    tested = Sentiment(train=[one], test=test)
    assert [each.text for each in tested.sentences("test")] == ["A slow one", "the film funny"]
    strange, *_ = files(tmp_path, strange="odd\tA slow one\n")
    with pytest.raises(ValueError, match="expected the labels great, poor in test; got odd"):
        Sentiment(train=one, test=strange).batch("test", 0)


def test_sentences_without_labels_train_the_others(archive, tmp_path):
    (more,) = files(tmp_path, more="".join(f"new words {number}\n" for number in range(30)))
    task = Sentiment(archive=archive, unlabelled=more)
    known = [each for each in task.sentences("train") if each.label is not None]
    assert len(known) < len(task.sentences("train"))
    assert "words" in task.vocabulary
    assert sum(len(task.batch("train", i).source) for i in range(task.batches("train"))) == len(
        known
    )
    model = Sentiment(kind="language_model", unlabelled=more)
    assert all(each.label is None for each in model.sentences("train"))
    assert model.batch("train", 0).source.tolist()[0] == [BEGIN]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("good\tA film\nA film\n", "line 2: expected a label, a tab and a sentence; got 'A film'"),
        ("good\tA film\nbad\t \n", "line 2: expected a label, a tab and a sentence; got 'bad"),
        (
            "good\tA film\n" * 3,
            "expected sentences of at least two labels in .*; all 3 have the la",
        ),
        ("good\tA film\nbad\tB\n", "hold out some for validation and test; got 2"),
        ("", "the file is empty"),
    ],
)
def test_errors_of_files(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Sentiment(train=files(tmp_path, mine=text)).batch("train", 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "Sentiment needs archive, .* or train, files of your own; got neither"),
        ({"archive": "a.zip", "train": "b.txt"}, "it goes without train, val and test"),
        ({"archive": "missing.zip"}, "expected the source archive .* at missing.zip"),
        ({"train": "missing.txt"}, "expected a file at missing.txt; there is none"),
        ({"archive": ".", "kind": "copy"}, "kind must be 'classification', 'language_model' or"),
        ({"archive": ".", "fold": 10}, "fold from 0 to folds - 1; got 10 and 10"),
        ({"archive": ".", "vocabulary_size": 4}, "vocabulary_size must be above 4"),
        ({"archive": ".", "word_dropout": 1.0}, r"word_dropout must be in \[0, 1\); got 1.0"),
    ],
)
def test_errors_of_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Sentiment(**settings).sentences("train")


def test_two_files_of_one_name(tmp_path):
    (tmp_path / "b").mkdir()
    paths = files(tmp_path, a="x\n") + files(tmp_path / "b", a="y\n")
    with pytest.raises(ValueError, match="each label has one file, and its name: expected diff"):
        Sentiment(train=paths).sentences("train")


def test_a_classification_takes_the_vocabulary_of_a_pretraining(archive):
    first = Sentiment(kind="language_model", archive=archive, least=5)
    second = Sentiment(archive=archive)
    assert len(second.vocabulary) > len(first.vocabulary)
    second.load_state_dict(first.state_dict())
    assert second.vocabulary.words == first.vocabulary.words
    assert torch.equal(
        second.batch("test", 0).source[0, :1] >= len(first.vocabulary), torch.tensor([False])
    )
    # A state is whole: a task that is made from it needs none of the files to ask and to answer.
    third = Sentiment(archive=archive)
    third.load_state_dict(second.state_dict())
    third.archive = "gone"
    batch = third.asked(["A funny film", "slow"])
    assert batch.source_mask is not None
    assert third.says(batch, torch.tensor([[1], [0]])) == ["positive", "negative"]
    assert third.state_dict().keys() == {"vocabulary", "classes", "fold"}


def test_weights_that_have_seen_the_test_are_refused(archive, tmp_path):
    state = Sentiment(kind="autoencoder", archive=archive, fold=3).state_dict()
    task = Sentiment(archive=archive, fold=1)
    task.load_state_dict(state)
    with pytest.raises(
        ValueError, match="the checkpoint is of fold 3 of 10: its training has seen"
    ):
        task.batch("test", 0)
    # Neither are they with more sentences to learn from.
    (more,) = files(tmp_path, more="new words\n" * 30)
    wider = Sentiment(kind="language_model", archive=archive, unlabelled=more, fold=3)
    with pytest.raises(ValueError, match="of fold 3 of 10"):
        task.load_state_dict(wider.state_dict())
    # Other sentences are no part of those folds.
    other = Sentiment(archive=written(tmp_path / "a.zip", snippets(ROWS[:250])), fold=1)
    other.load_state_dict(state)
    other.batch("test", 0)
    with pytest.raises(ValueError, match="vocabulary of at most vocabulary_size=8 tokens; got"):
        Sentiment(archive=archive, vocabulary_size=8).load_state_dict(state)
    with pytest.raises(ValueError, match="expected a checkpoint with a vocabulary of words"):
        task.load_state_dict({})


def test_labels_of_another_checkpoint_are_refused(archive, tmp_path):
    lines = "".join(f"{'a' if rating > 0 else 'b'}\t{text}\n" for text, rating in ROWS)
    other = Sentiment(train=files(tmp_path, mine=lines))
    task = Sentiment(archive=archive)
    assert task.classes
    with pytest.raises(ValueError, match="the labels negative, positive; got those of a, b"):
        task.load_state_dict(other.state_dict())


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["A film", "  "], "item 3: expected a sentence; got one without words"),
        ([3], "item 2: expected a sentence; got int"),
    ],
)
def test_items_of_another_form(items, message, archive):
    with pytest.raises(ValueError, match=message):
        Sentiment(archive=archive).asked(items, first=2)


@pytest.mark.parametrize("kind", ["language_model", "autoencoder"])
def test_a_language_model_says_how_likely_sentences_are(kind, archive):
    task = Sentiment(kind=kind, archive=archive, vocabulary_size=500)
    model = StackModel(
        task.input_size, task.output_size, LSTM, width=8, layers=1, objective=NextToken()
    )
    items = ["A film", "A very good film!"]
    batch = task.asked(items)
    sources = [[BEGIN]] * 2 if kind == "language_model" else None
    for row, said in enumerate(Predictor(model, task)(items)):
        words = task.vocabulary.encode(words_of(items[row]))
        source = torch.tensor([sources[row] if sources else words])
        inputs, targets = torch.tensor([[BEGIN, *words]]), torch.tensor([*words, END])
        logits = model.logits(Batch(source, inputs, targets[None]))[0].log_softmax(-1)
        nats = -float(logits[torch.arange(len(targets)), targets].detach().mean())
        assert float(said) == pytest.approx(math.exp(nats), rel=1e-4)
        assert task.labels(batch, row)[1] == [*map(task.vocabulary.name, words), "end"]


def test_tokens_beyond_the_vocabulary_are_unknown_words(archive):
    """A model has as many outputs as ``vocabulary_size``, and may answer with each of them."""
    task = Sentiment(kind="autoencoder", archive=archive, vocabulary_size=5000)
    answer = torch.tensor([[len(task.vocabulary) - 1, len(task.vocabulary), 4999, END]])
    batch = task.asked(["A film"])
    last = task.vocabulary.words[-1]
    assert task.says(batch, answer) == [f"{last} ⁇ ⁇"]
    assert task.labels(batch._replace(targets=answer, target_mask=None), 0)[1] == [
        last, "unknown", "unknown", "end"
    ]  # fmt: skip


def test_labels_in_two_spellings_are_named(tmp_path):
    lines = "".join(f"{'ab'[n % 2]}\tword {n}\n" for n in range(60))
    train = files(tmp_path, mine=f"{lines}A\tone more\n")
    with pytest.raises(ValueError, match=r"one spelling of each label in .*; got 'a' and 'A'"):
        Sentiment(train=train).sentences("train")


def test_answers_are_written_down(archive):
    task = Sentiment(archive=archive, validation_batch_size=10)
    answers = [torch.ones_like(task.batch("test", i).targets) for i in range(task.batches("test"))]
    texts = task.texts("test", answers)
    wrong = sum(right != answer for _, right, answer in texts)
    assert {answer for *_, answer in texts} == {"positive"}
    assert sorted(text for text, *_ in texts) == sorted(
        each.text for each in task.sentences("test")
    )
    assert 0 < wrong < len(texts)
    again = Sentiment(kind="autoencoder", archive=archive, validation_batch_size=10)
    batch = again.batch("test", 0)
    ((text, right, said), *_) = again.texts("test", [batch.targets])
    assert (
        right
        == said
        == " ".join(word if word in again.vocabulary else "⁇" for word in words_of(text))
    )
    assert again.labels(batch, 0)[1][-1] == "end"
    assert task.labels(task.batch("test", 0), 0)[1][0] in task.classes


def test_long_sentences_are_cut_and_counted(tmp_path, caplog):
    lines = "".join(f"{'ab'[n % 2]}\t{'word ' * (n % 9 + 1)}{n}\n" for n in range(60))
    task = Sentiment(train=files(tmp_path, mine=lines), max_words=5, folds=3)
    widths = {task.batch("train", index).source.shape[1] for index in range(task.batches("train"))}
    assert max(widths) == 5
    assert "sentences of train cut at 5 words: " in caplog.text
    assert len(list(itertools.chain(*(task.asked([f"{'x ' * 9}"]).source.tolist())))) == 5
