"""Files of a user's own: what holds for all tasks that read text; the places that errors name."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from memnets.app.cli import main
from memnets.app.predict import placed
from memnets.app.predictor import Predictor
from memnets.batches import END
from memnets.cells import LearnedPositions
from memnets.models import ConvS2S
from memnets.training import Tokens
from tasks import Babi, Captions, Countries, Entailment, Language, Pronunciation, Sentiment
from tasks.base import Items

NUMBERS = range(60)
STORIES = "".join(f"Ann is in {'ABC'[n % 3]}.\nWhere is Ann?\t{'ABC'[n % 3]}\n\n" for n in NUMBERS)
FACTS = "".join(f"Film {n}\tdirector\té {n % 7}\n" for n in NUMBERS)
LEXICON = "".join(f"{'ab'[n % 2]}{chr(97 + n // 3)}{chr(97 + n % 3)}  A B\n" for n in NUMBERS)
LABELLED = "".join(f"{'good' if n % 2 else 'bad'}\tA film {n}.\n" for n in NUMBERS)
PAIRS = "".join(
    json.dumps({"gold_label": label, "sentence1": f"Man {n} sleeps.", "sentence2": "It is so!"})
    + "\n"
    for n in NUMBERS
    for label in ("neutral", "entailment")
)
TEXT = "".join(f"Line {n} of a text.\n" for n in NUMBERS)

#: By the name of a task: a text that it trains on, and the task for the path of its file.
READERS = {
    "stories": (STORIES, lambda path: Babi(train=path)),
    "facts": (FACTS, lambda path: Countries(facts=path)),
    "lexicon": (LEXICON, lambda path: Pronunciation(lexicon=path)),
    "labels": (LABELLED, lambda path: Sentiment(train=path)),
    "pairs": (PAIRS, lambda path: Entailment(train=path)),
    "text": (TEXT, lambda path: Language(train=path)),
}
READER = pytest.mark.parametrize("name", READERS)


def train_batch(name: str, path: Path):
    return READERS[name][1](str(path)).batch("train", 0)


def error_of(call, *arguments) -> str:
    with pytest.raises(ValueError) as caught:
        call(*arguments)
    return str(caught.value)


#: Damages to a text, and what the error says behind the name of the file.
DAMAGES = {
    "empty": (lambda text: b"", "expected text in {}; the file is empty"),
    "blank": (lambda text: b"\n \r\n\t\n", "expected text in {}; the file is empty"),
    "UTF-16": (
        lambda text: text.encode("utf-16"),
        "{}, line 1: expected UTF-8; got the byte 0xff, with which UTF-16 begins: save the text "
        "as UTF-8",
    ),
    "Macintosh": (
        lambda text: text.replace("\n", "\r").encode(),
        "{}, line 1: expected a line feed at the end of each line; got carriage returns alone, as "
        "of an old Macintosh",
    ),
}


@READER
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_no_text_is_one_line(name, damage, tmp_path):
    change, message = DAMAGES[damage]
    path = tmp_path / "mine.txt"
    path.write_bytes(change(READERS[name][0]))
    assert error_of(train_batch, name, path) == message.format(path)


@READER
def test_a_letter_that_is_none_is_named_by_its_line(name, tmp_path):
    text = READERS[name][0]
    numbers = iter(range(10**6))

    @given(st.data())
    def check(data) -> None:
        path = tmp_path / f"{next(numbers)}.txt"
        lines = text.encode().split(b"\n")[:-1]
        row = data.draw(st.integers(0, len(lines) - 1))
        letter, got = data.draw(
            st.sampled_from([(b"\xe9", "got the byte 0xe9"), (b"\0", "got a null character")])
        )
        # Between two letters: none of a letter's bytes is below it.
        line = lines[row].decode()
        place = data.draw(st.integers(0, len(line)))
        lines[row] = line[:place].encode() + letter + b" " + line[place:].encode()
        path.write_bytes(b"\n".join(lines) + b"\n")
        said = error_of(train_batch, name, path)
        assert said.startswith(f"{path}, line {row + 1}: expected")
        assert got in said

    check()


@READER
def test_a_folder_and_a_missing_file_are_told_apart(name, tmp_path):
    assert error_of(train_batch, name, tmp_path) == (
        f"expected a file at {tmp_path}; it is a folder"
    )
    path = tmp_path / "gone"
    assert error_of(train_batch, name, path) == f"expected a file at {path}; there is none"


@READER
@pytest.mark.parametrize("change", ["byte order mark", "CRLF", "gzip", "empty lines at the end"])
def test_the_same_text_in_another_form_is_the_same_data(name, change, tmp_path):
    text = READERS[name][0]
    plain, path = tmp_path / "plain.txt", tmp_path / ("a.gz" if change == "gzip" else "a.txt")
    plain.write_bytes(text.encode())
    content = {
        "byte order mark": ("\ufeff" + text).encode(),
        "CRLF": text.replace("\n", "\r\n").encode(),
        "gzip": gzip.compress(text.encode()),
        "empty lines at the end": (text + "\n\n").encode(),
    }[change]
    path.write_bytes(content)
    for one, other in zip(train_batch(name, plain), train_batch(name, path), strict=True):
        assert (one is None and other is None) or one.equal(other)


# Labels

#: A text whose first item comes twice with one label and a third time with another, and what is
#: said of it.
TWICE = {
    "labels": (
        LABELLED + "bad\tA  Film 0 .\ngood\tA film 0.\ngood\ta film 2.\n",
        "sentences with more than one label: 2, the first 'a film 0 .' as bad and good",
    ),
    "pairs": (
        PAIRS.replace('"entailment", "sentence1": "Man 7 ', '"entailment", "sentence1": "Man 8 '),
        "pairs with more than one label: 59, the first 'man 0 sleeps . / it is so !' as neutral "
        "and entailment",
    ),
}


@pytest.mark.parametrize("name", TWICE)
def test_an_item_with_two_labels_is_named(name, tmp_path, caplog):
    text, expected = TWICE[name]
    path = tmp_path / "mine.txt"
    path.write_text(text)
    train_batch(name, path)
    assert [record.getMessage() for record in caplog.records] == [expected]


def test_a_sentence_with_one_label_in_one_file_and_another_in_the_next_is_named(tmp_path, caplog):
    lines = "".join(f"A film {n}.\n" for n in NUMBERS)
    for name, more in (("good", "Fine.\nFine.\n"), ("bad", "Dull.\n")):
        (tmp_path / f"{name}.txt").write_text(more + lines.replace("film", name))
    files = [str(tmp_path / f"{name}.txt") for name in ("good", "bad")]
    Sentiment(train=files).sentences("train")
    assert not caplog.records
    (tmp_path / "test.txt").write_text("bad\tFine.\ngood\tA good 3.\n")
    Sentiment(train=files, test=str(tmp_path / "test.txt")).sentences("test")
    assert [record.getMessage() for record in caplog.records] == [
        "sentences with more than one label: 1, the first 'fine .' as good and bad"
    ]
    caplog.clear()
    Sentiment(train=files, test=str(tmp_path / "test.txt"), kind="language_model").sentences("test")
    assert not caplog.records  # where no label is learned


def test_too_few_different_sentences_are_counted(tmp_path):
    (tmp_path / "mine.tsv").write_text("".join(f"A film {n}.\t{n % 2}0\n" for n in NUMBERS))
    with pytest.raises(ValueError, match=r"enough different sentences .*; got 2 in 60 lines, and"):
        Sentiment(train=str(tmp_path / "mine.tsv")).sentences("train")


# Places of inputs


def test_errors_name_the_line_of_an_input(tmp_path):
    path = tmp_path / "asked.txt"
    (tmp_path / "facts.tsv").write_text(FACTS)
    path.write_text("\nWhat is the director of Film 3?\n\nWho is Nobody?\n")
    task = Countries(facts=str(tmp_path / "facts.tsv"))
    items = task.items(str(path))
    said = str(placed(ValueError(error_of(task.asked, items)), str(path), items))
    assert said.startswith(f"{path}, line 4: expected a question about a name that the facts have")


def test_errors_name_an_image_once(tmp_path):
    Image.new("RGB", (30, 30)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    task = Captions()
    for path in (tmp_path, tmp_path / "b.png"):
        items = task.items(str(path))
        said = str(placed(ValueError(error_of(task.asked, items)), str(path), items))
        assert said.startswith(f"{tmp_path / 'b.png'}: expected an image; it cannot be read")


def test_an_input_without_a_place_has_its_number():
    error = ValueError("item 2, premise: expected more")
    assert str(placed(error, "a.txt", ["x", "y"])) == "a.txt, item 2, premise: expected more"
    assert str(placed(error, "a.txt", Items("xy", ["1", "here"]))) == "here, premise: expected more"
    assert str(placed(ValueError("too many"), "a.txt", Items("x", ["1"]))) == "a.txt, too many"


@pytest.mark.parametrize(
    ("given", "kind"),
    [("a", "text"), (b"a", "bytes"), (Path("a"), "P"), (iter(["a"]), "list_it"), (3, "int")],
)
def test_a_single_input_is_refused(given, kind):
    predictor = Predictor.__new__(Predictor)
    with pytest.raises(TypeError, match=f"expected a list of inputs; got a single {kind}"):
        predictor(given)


@READER
@pytest.mark.parametrize("item", [None, 3, b"word"])
def test_an_input_that_is_no_text_is_named_by_its_number(name, item, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(READERS[name][0])
    task = READERS[name][1](str(path))
    task.batch("train", 0)
    said = error_of(lambda: task.asked([item], first=7))
    assert said.startswith("item 7: expected ")
    assert said.endswith(f"; got {type(item).__name__ if name != 'pairs' else repr(item)}")


def test_an_input_that_is_too_long_for_the_model_is_named(tmp_path):
    path = tmp_path / "words.dict"
    path.write_text(LEXICON)
    task = Pronunciation(lexicon=str(path))
    positions = LearnedPositions(8, max_length=12)
    model = ConvS2S(
        task.input_size,
        task.output_size,
        width=8,
        layers=1,
        positions=positions,
        objective=Tokens(),
    )
    predictor = Predictor(model, task)
    assert len(predictor(["aaa", "a" * 11])) == 2  # and an end mark
    with pytest.raises(ValueError, match=r"^item 2: expected an input .*; got one of 13 steps"):
        predictor(["aaa", "a" * 12], batch_size=1)


def test_answers_that_are_cut_are_counted(tmp_path, caplog):
    path = tmp_path / "words.dict"
    path.write_text(LEXICON)
    task = Pronunciation(lexicon=str(path))
    model = ConvS2S(
        task.input_size, task.output_size, width=8, layers=1, objective=Tokens(max_length=3)
    )
    model.output.bias.data[END] = -100.0  # it never ends
    assert len(Predictor(model, task)(["aaa", "a", "b"], batch_size=2)) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "3 of 3 answers cut at their greatest length"
    ]
    caplog.clear()
    model.output.bias.data[END] = 100.0
    assert Predictor(model, task)(["aaa", "a", "b"]) == ["", "", ""]
    assert not caplog.records


# Before a training


@pytest.mark.parametrize("test", ["gone.txt", "damaged.txt"])
def test_the_files_of_the_test_are_read_before_the_training(test, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("stories.txt").write_text(STORIES)
    Path("damaged.txt").write_text("Ann is in A.\n")
    config = ["--config", "babi/memory_network", "--data.train=stories.txt", f"--data.test={test}"]
    with pytest.raises(SystemExit):
        main(["fit", *config, "--trainer.max_epochs=1", "--trainer.callbacks=[]"])
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert test in said
    assert not Path("runs").exists()
