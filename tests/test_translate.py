"""Translation of text with nothing but a checkpoint, from Python and from the command line."""

import io
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from memnets.app.cli import main
from memnets.app.predictor import Predictor
from memnets.app.translator import Answer, Counts, Translator
from memnets.batches import END, PAD, UNKNOWN
from memnets.cells import GRU as Gated
from memnets.cells import LearnedPositions
from memnets.encoders import SelfAttention
from memnets.models import SNAIL, CausalTransformer, Seq2Seq, Transformer
from memnets.training.objectives import Tokens
from memnets.training.runs import CheckpointError, load_checkpoint
from memnets.vocabulary import Vocabulary
from tasks import CopyingTokens, Translation
from tests.images import leave_pictures_blank

pytestmark = pytest.mark.usefixtures("elsewhere", "blanks")
GRU = {"class_path": "memnets.cells.GRU", "init_args": {"hidden_size": 8}}
CONFIG = {
    "name": "translation/tiny",
    "model": {
        "class_path": "memnets.models.Seq2Seq",
        "init_args": {
            "encoder": {
                "class_path": "memnets.encoders.Recurrent",
                "init_args": {"controller": GRU},
            },
            "decoder": GRU,
            "attention": {
                "class_path": "memnets.addressing.Content",
                "init_args": {
                    "score": {"class_path": "memnets.scores.Additive", "init_args": {"size": 8}}
                },
            },
            "key_size": 8,
            "width": 8,
            "objective": "memnets.training.Tokens",
        },
    },
    "data": {
        "class_path": "tasks.Translation",
        "init_args": {
            "sizes": [60, 20, 30],
            "vocabulary_size": 120,
            "max_tokens": 100,
            "batch_tokens": 400,
            "epoch_batches": 1,
        },
    },
    "trainer": {"max_steps": 2},
}
COPYING = {
    **CONFIG,
    "name": "copying/tiny",
    "data": {
        "class_path": "tasks.CopyingTokens",
        "init_args": {"test_sets": [[3, 2]], "test_sequences": 2, "epoch_batches": 1},
    },
}
#: Of which the last digits depend on what else is in a batch.
SCORE = r"\t-?\d+\.\d+\t"
LINES = ["497 %", "", "in 2 years", "January 5, 2031", "5", " \t", "Ω 7", "a " * 40 + "b", "5"]


def train(folder: Path, config: dict) -> Path:
    """The checkpoint of a short run."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["memnets"])
        leave_pictures_blank(patch)
        main(["fit", "--config", str(path), "--runs", str(folder / "runs")])
    return folder / "runs" / config["name"] / "version_0" / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("translation"), CONFIG)


@pytest.fixture(scope="module")
def translator(checkpoint: Path) -> Translator:
    """Made to answer at random, so that some answers end and others are cut."""
    translator = Translator.load(checkpoint.parent.parent)  # the folder of the run
    torch.manual_seed(1)
    for parameter in translator.model.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    with torch.no_grad():
        translator.model.output.bias[END] += 2.5  # type: ignore[union-attr, operator]
    return translator


def run(monkeypatch, capfdbinary, content: bytes, *arguments: str) -> tuple[str, str]:
    """What ``memnets translate`` writes, and what it says, given this as standard input."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    main(["translate", *arguments])
    sys.stderr.flush()
    out, err = capfdbinary.readouterr()
    return out.decode(), err.decode()


def fails(capsys, *arguments: str) -> str:
    """The one line that a command ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 1
    out, err = capsys.readouterr()
    lines = err.strip().splitlines()
    assert not out
    assert len(lines) == 1, lines
    assert lines[0].startswith("memnets: error: ")
    return lines[0]


def altered(checkpoint: Path, change) -> str:
    """The path of a checkpoint that ``change`` made another."""
    content = load_checkpoint(checkpoint)
    change(content)
    torch.save(content, "altered.ckpt")
    return "altered.ckpt"


# From the command line


def test_each_line_has_a_translation_and_python_gives_the_same(
    checkpoint: Path, monkeypatch, capfdbinary
) -> None:
    text = "\n".join(LINES).encode()
    translator = Translator.load(checkpoint)
    expected = translator(LINES)
    out, err = run(monkeypatch, capfdbinary, text, "--checkpoint", str(checkpoint))
    assert out == "".join(line + "\n" for line in expected)
    assert [expected[i] for i, line in enumerate(LINES) if not line.strip()] == ["", ""]
    counts = translator.counts
    assert counts.empty_sentences == 2
    assert counts.unknown_tokens == 1
    assert err.splitlines() == [
        f"memnets: {name.replace('_', ' ')}: {count}"
        for name, count in counts._asdict().items()
        if count
    ]
    # With the line ends of Windows, from and to files.
    Path("input.txt").write_bytes(text.replace(b"\n", b"\r\n") + b"\r\n")
    files = ["--input=input.txt", "--output=deep/output.txt"]
    out, _ = run(monkeypatch, capfdbinary, b"", "--checkpoint", str(checkpoint), *files)
    assert out == ""
    assert Path("deep/output.txt").read_text() == "".join(line + "\n" for line in expected)
    assert [path.name for path in Path("deep").iterdir()] == ["output.txt"]
    # No line, no translation.
    assert run(monkeypatch, capfdbinary, b"", "--checkpoint", str(checkpoint)) == ("", "")


def test_the_best_few_are_numbered_and_scored(checkpoint: Path, monkeypatch, capfdbinary) -> None:
    text = "\n".join(LINES).encode()
    flags = ["--checkpoint", str(checkpoint), "--beam=4", "--n_best=3", "--max_length=6"]
    out, _ = run(monkeypatch, capfdbinary, text, *flags)
    translator = Translator.load(checkpoint)
    found = translator.alternatives(LINES, count=3, beam=4, max_length=6)
    assert [line.split("\t") for line in out.splitlines()] == [
        [str(number), f"{answer.score:.4f}", answer.text]
        for number, answers in enumerate(found, start=1)
        for answer in answers
    ]
    best = translator(LINES, beam=4, max_length=6)
    assert [answers[0].text for answers in found] == best
    assert found[1] == [Answer("", 0.0)]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--beam=0"], "beam must be a whole number of at least 1; got 0"),
        (["--n_best=0"], "n_best must be a whole number of at least 1; got 0"),
        (["--n_best=6"], "n_best must be at most beam = 5; got 6"),
        (["--length_penalty=-1"], "length_penalty must be at least 0; got -1.0"),
        (["--max_length=0"], "max_length must be a whole number of at least 1; got 0"),
        (["--batch_tokens=0"], "batch_tokens must be a whole number of at least 1; got 0"),
        (["--threads=0"], "threads must be a whole number of at least 1; got 0"),
        (["--beam=wide"], "wide"),
        (["--beem=3"], "--beem=3"),
        (["--input=missing.txt"], "expected a file at missing.txt; there is none"),
        (["--device=abacus"], "device must be one that is there, cpu"),
        (["--device=cuda:77"], "; got cuda:77"),
        (["--stream", "--output=x"], "a stream goes to standard output; leave --output out"),
        (["--output=."], "expected a file to write at .; it is not a plain file"),
        ([], "expected a checkpoint at missing.ckpt; there is no such file"),
    ],
)
def test_bad_arguments_are_one_line_and_nothing_is_loaded(capsys, flags, expected) -> None:
    assert expected in fails(capsys, "translate", "--checkpoint=missing.ckpt", *flags)
    assert not list(Path().iterdir())


def test_a_line_too_long_for_the_model_is_counted_and_named(
    checkpoint: Path, monkeypatch, capfdbinary
) -> None:
    monkeypatch.setattr(Seq2Seq, "longest_answer", lambda self, steps: None if steps < 20 else 0)
    lines = ["in 2 years", "in 2 years " * 20, "5", *["a " * 40] * 12]
    text = "\n".join(lines).encode()
    for stream in ([], ["--stream"]):
        flags = ["--checkpoint", str(checkpoint), "--beam=2", *stream]
        out, err = run(monkeypatch, capfdbinary, text, *flags)
        expected = [*Translator.load(checkpoint)(lines[:1], beam=2), ""]
        assert out.split("\n")[:2] == expected
        assert out.count("\n") == len(lines)
        numbers = "2, 4, 5, 6, 7, 8, 9, 10, 11, 12, ..."
        assert f"memnets: long sentences: 13 (line {numbers})" in err


@pytest.mark.parametrize("best", [1, 2])
def test_a_stream_says_the_same_line_by_line(
    checkpoint: Path, monkeypatch, capfdbinary, best: int
) -> None:
    flags = ["--checkpoint", str(checkpoint), "--beam=2", f"--n_best={best}", "--device=cpu"]
    content = "\r\n".join(LINES).encode()
    whole = run(monkeypatch, capfdbinary, content, *flags)
    written: list[bytes] = []

    class Asking(io.BytesIO):
        """Gives a line only after what was read before is answered."""

        def __next__(self) -> bytes:
            written.append(capfdbinary.readouterr().out)
            return super().__next__()

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(Asking(content)))
    main(["translate", *flags, "--stream"])
    out, err = capfdbinary.readouterr()
    answered = (b"".join(written) + out).decode()
    assert re.sub(SCORE, "", answered) == re.sub(SCORE, "", whole[0])
    assert err.decode() == whole[1]
    assert all(written[1:]), "a line was not answered before the next was read"
    Path("input.txt").write_bytes(content)
    assert run(monkeypatch, capfdbinary, b"", *flags, "--stream", "--input=input.txt") == (
        answered,
        whole[1],
    )


def test_a_stream_answers_what_came_before_an_error(
    checkpoint: Path, monkeypatch, capfdbinary
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"5\n5\n\xff\n5\n")))
    with pytest.raises(SystemExit):
        main(["translate", "--checkpoint", str(checkpoint), "--stream", "--beam=1"])
    out, err = capfdbinary.readouterr()
    assert out.count(b"\n") == 2
    assert b"standard input, line 3: expected UTF-8" in err


def test_a_checkpoint_is_asked_for(capsys) -> None:
    assert "checkpoint" in fails(capsys, "translate")


def test_text_that_is_not_utf_8_is_named_by_its_line(checkpoint: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n\xff\n")))
    flags = ["--checkpoint", str(checkpoint), "--output=output.txt"]
    expected = "standard input, line 3: expected UTF-8; got the byte 0xff"
    assert expected in fails(capsys, "translate", *flags)
    Path("input.txt").write_bytes(b"\xe9t\xe9\n")
    message = fails(capsys, "translate", *flags, "--input=input.txt")
    assert "input.txt, line 1: expected UTF-8" in message
    assert not Path("output.txt").exists()


def test_checkpoints_that_cannot_translate_are_named(checkpoint: Path, capsys, tmp_path) -> None:
    copying = train(tmp_path, COPYING)
    assert "of tasks.CopyingTokens, holds none" in fails(
        capsys, "translate", "--checkpoint", str(copying)
    )

    def without_vocabulary(content) -> None:
        del content["Translation"]

    def damaged_vocabulary(content) -> None:
        content["Translation"]["vocabulary"] = content["Translation"]["vocabulary"][:99]

    def another_model(content) -> None:
        content["state_dict"].pop("output.bias")

    def no_config(content) -> None:
        content["config"] = "what is this"

    def missing_class(content) -> None:
        content["config"] = re.sub(r"memnets[.\w]*\.Seq2Seq", missing, content["config"])

    missing = "memnets.models.Missing"
    for change, expected in (
        (without_vocabulary, "expected a checkpoint with the vocabulary of a translation"),
        (damaged_vocabulary, "expected a sentencepiece model; got 99 bytes"),
        (another_model, "is a checkpoint of another model: expected output.bias of shape [120]"),
        (no_config, "holds no config: memnets fit did not write it"),
        (missing_class, f"altered.ckpt names {missing!r} for model"),
    ):
        path = altered(checkpoint, change)
        assert expected in fails(capsys, "translate", "--checkpoint", path)
        with pytest.raises(CheckpointError):
            Translator.load(path)
    Path("cut.ckpt").write_bytes(checkpoint.read_bytes()[:5000])
    assert "the file is damaged" in fails(capsys, "translate", "--checkpoint=cut.ckpt")
    # The other commands need the vocabulary too.
    path = altered(checkpoint, without_vocabulary)
    for command in ("validate", "test", "predict"):
        message = fails(capsys, command, "--ckpt_path", path)
        assert "expected a checkpoint with the vocabulary of a translation; got none" in message


def test_help_names_the_command(capsys) -> None:
    for arguments, expected in (
        (["--help"], r"\n  translate +Translate text"),
        (["translate", "--help"], "--length_penalty"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code in (0, None)
        assert re.search(expected, capsys.readouterr().out)


# A test and the predictions use the vocabulary of the checkpoint


def test_a_test_prints_signatures_and_answers_are_written_in_words(
    checkpoint: Path, capsys, monkeypatch
) -> None:
    def train_one(*arguments: object) -> None:
        raise AssertionError("a vocabulary was trained")

    monkeypatch.setattr(Vocabulary, "train", train_one)
    main(["test", "--ckpt_path", str(checkpoint)])
    out = capsys.readouterr().out
    assert out.count("bleu: nrefs:1|case:mixed|") == 1
    assert out.count("chrf: nrefs:1|case:mixed|") == 1
    main(["predict", "--ckpt_path", str(checkpoint)])
    folder = checkpoint.parent.parent
    assert "predictions.tsv" in capsys.readouterr().out
    header, *rows = (folder / "predictions.tsv").read_text().split("\n")[:-1]
    assert header == "source\treference\tanswer"
    task = Translation(**CONFIG["data"]["init_args"])  # type: ignore[arg-type]
    task.load_state_dict(load_checkpoint(checkpoint)["Translation"])
    with np.load(folder / "predictions.npz") as arrays:
        answers = [task.text(row) for row in torch.from_numpy(arrays["test/answers"])]
        source = arrays["test/source"]
    assert [tuple(row.split("\t")) for row in rows] == list(
        zip(task.sources("test"), task.references("test"), answers, strict=True)
    )
    assert task.batches("test") > 1
    assert (source[:, -1] == PAD).any()


# The translator


def test_a_sentence_is_translated_as_if_it_were_alone(translator: Translator) -> None:
    task = Translation(**CONFIG["data"]["init_args"])  # type: ignore[arg-type]
    sentences = [text[:12] for text in task.sources("val")[:12]]
    for beam in (1, 2):
        alone = [translator([sentence], beam=beam)[0] for sentence in sentences]
        assert len(set(map(len, alone))) > 5, "the answers are too much alike to tell"
        translator(sentences, beam=beam)
        assert 0 < translator.counts.cut_answers < len(sentences)
        for batch_tokens in (60, 10_000):
            assert translator(sentences, beam=beam, batch_tokens=batch_tokens) == alone
        assert translator(sentences[::-1], beam=beam) == alone[::-1]


def test_progress_counts_every_sentence_with_words(translator: Translator) -> None:
    done: list[int] = []
    translator(LINES, beam=1, batch_tokens=20, progress=done.append)
    assert len(done) > 1
    assert sum(done) == len(LINES) - 2


def test_nothing_to_translate_asks_no_model(translator: Translator, monkeypatch) -> None:
    def encode(*arguments: object) -> None:
        raise AssertionError("the model was asked")

    monkeypatch.setattr(translator.model, "encode", encode)
    assert translator(["", "  ", "\t"]) == ["", "", ""]
    assert translator.counts == Counts(empty_sentences=3)
    assert translator([]) == []
    assert translator.counts == Counts()


def test_cut_answers_are_counted(translator: Translator) -> None:
    translator(["in 2 years", "497 %"], beam=1, max_length=1)
    assert translator.counts.cut_answers == 2
    assert all(len(answers) == 3 for answers in translator.alternatives(LINES[2:4], 3, beam=3))


def test_bad_calls_are_refused(translator: Translator) -> None:
    for settings, expected in (
        ({"beam": 0}, "beam must be a whole number of at least 1; got 0"),
        ({"length_penalty": -0.5}, "length_penalty must be at least 0; got -0.5"),
        ({"max_length": 0}, "max_length must be a whole number of at least 1; got 0"),
        ({"batch_tokens": 0}, "batch_tokens must be a whole number of at least 1; got 0"),
    ):
        with pytest.raises(ValueError, match=expected):
            translator(["in 2 years"], **settings)
    with pytest.raises(ValueError, match="count must be at most beam = 2; got 3"):
        translator.alternatives(["in 2 years"], 3, beam=2)
    with pytest.raises(TypeError, match="expected a list of sentences; got a single string"):
        translator("in 2 years")


SHORT = {
    "Transformer": lambda size: Transformer(
        size, size, 8, 2, 1, 8, positions=LearnedPositions(8, 12), objective=Tokens()
    ),
    "causal Transformer": lambda size: CausalTransformer(
        size, size, 8, 2, 1, 8, positions=LearnedPositions(8, 16), objective=Tokens()
    ),
    "SNAIL": lambda size: SNAIL(size, size, 8, 16, ((4, 4), (4, 4)), 4, objective=Tokens()),
    "positions in the encoder": lambda size: Seq2Seq(
        size,
        size,
        lambda width: SelfAttention(width, 1, 2, 8, positions=LearnedPositions(width, 12)),
        partial(Gated, hidden_size=8),
        width=8,
        objective=Tokens(),
    ),
}


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("beam", [1, 3])
def test_a_sentence_too_long_for_the_model_is_left_empty_and_the_others_are_translated(
    translator: Translator, name: str, beam: int
) -> None:
    torch.manual_seed(0)
    short = Translator(SHORT[name](len(translator.vocabulary)), translator.vocabulary)
    sentences = ["5", "in 2 years " * 20, "", "497 %", "in 2 years " * 30]
    together = short(sentences, beam=beam)
    assert short.counts.long_sentences == 2
    assert short.counts.empty_sentences == 1
    assert short.too_long == [1, 4]
    assert [together[i] for i in (1, 2, 4)] == ["", "", ""]
    found = short.alternatives(sentences, beam=beam, count=beam)
    assert [found[i] for i in (1, 2, 4)] == [[Answer("", 0.0)]] * 3
    assert [answers[0].text for answers in found] == together
    for row in (0, 3):
        assert short([sentences[row]], beam=beam) == [together[row]]
        assert short.too_long == []


def test_tokens_of_characters_never_seen_are_counted(translator: Translator) -> None:
    assert translator.vocabulary.encode("Ω").count(UNKNOWN) == 1
    translator(["Ω 5 Ω", "5"], beam=1, max_length=2)
    assert translator.counts.unknown_tokens == 2


def test_predict_answers_inputs_of_a_users_own(checkpoint, capsys):
    lines = ["497 %", "in 2 years", "January 5, 2031"]
    Path("mine.txt").write_text("\n".join(lines))
    main(["predict", "--ckpt_path", str(checkpoint), "--input", "mine.txt"])
    printed = capsys.readouterr().out.splitlines()
    main(["predict", "--ckpt_path", str(checkpoint), "--input", "mine.txt", "--output", "out.txt"])
    assert Path("out.txt").read_text().splitlines() == printed
    predictor = Predictor.load(checkpoint)
    done = []
    assert predictor(lines, batch_size=2, progress=done.append) == printed
    assert done == [2, 1]
    assert predictor([]) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a file at mine.txt; there is none"),
        ("", "expected text in mine.txt; the file is empty"),
        ("5\n \n", "mine.txt, line 2: expected a sentence; got one without words"),
    ],
)
def test_errors_of_predict(checkpoint, content, message, capsys):
    if content is not None:
        Path("mine.txt").write_text(content)
    with pytest.raises(SystemExit):
        main(["predict", "--ckpt_path", str(checkpoint), "--input=mine.txt", "--output=out.txt"])
    assert message in capsys.readouterr().err
    assert not Path("out.txt").exists()


def test_a_task_without_inputs_of_a_users_own_says_so():
    with pytest.raises(TypeError, match="CopyingTokens cannot read inputs of your own"):
        CopyingTokens().asked(["a"])
    with pytest.raises(TypeError, match="expected a list of inputs; got a single text"):
        Predictor(CausalTransformer(9, 9), CopyingTokens())("abc")
