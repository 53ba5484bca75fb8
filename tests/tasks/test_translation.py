"""Translation: what is read, what is held out, how batches are cut, how answers are scored."""

import gzip
import io
import itertools
import json
import logging
import pickle
import random
import struct
from functools import cache
from pathlib import Path

import pytest
import pytorch_lightning as lightning
import sentencepiece
import torch
import yaml
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import write_po
from hypothesis import given
from hypothesis import strategies as st

from memnets.app.translator import Translator
from memnets.batches import BEGIN, END, PAD, UNKNOWN, Batch
from tasks import Translation
from tasks.translation.cldr import phrases
from tests.test_translate import CONFIG, train

MULTI30K = Path(__file__).parents[3] / "shared" / "data" / "multi30k"
SIZES = (600, 40, 60)
SMALL = {"sizes": SIZES, "vocabulary_size": 400, "max_tokens": 100, "batch_tokens": 300}

WORDS = ["the", "a", "cat", "dog", "house", "tree", "sees", "likes", "under", "near", "big", "old"]
PAIRS = [
    (" ".join(words), " ".join(reversed(words)).upper())
    for words in (random.Random(i).choices(WORDS, k=1 + i % 9) for i in range(120))
]


@cache
def small(seed: int = 0, **settings) -> Translation:
    """Phrases of CLDR, read once for all tests."""
    return Translation(**{**SMALL, **settings}, seed=seed)


def write(path: Path, text: str | bytes) -> str:
    content = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def two_files(folder: Path, pairs=PAIRS, name: str = "train", suffix: str = "") -> list[str]:
    return [
        write(folder / f"{name}.{side}{suffix}", "".join(pair[i] + "\n" for pair in pairs))
        for i, side in enumerate(("en", "fr"))
    ]


def files(train, **settings) -> Translation:
    return Translation(source="files", train=train, **{"vocabulary_size": 60, **settings})


# Batches


@pytest.mark.parametrize("budget", [200, 300, 5000])
def test_every_training_pair_comes_once_in_each_pass(budget: int) -> None:
    task = small(batch_tokens=budget)
    number = task.batches("train")
    passes = [
        [task.rows("train", index) for index in range(epoch * number, (epoch + 1) * number)]
        for epoch in (0, 1, 5)
    ]
    for batches in passes:
        assert sorted(itertools.chain.from_iterable(batches)) == list(range(SIZES[0]))
    assert len({str(batches) for batches in passes}) == 3
    # The lengths, and so the cut, are the same in each pass.
    assert len({str(sorted(map(len, batches))) for batches in passes}) == 1


@given(st.integers(0, 1000), st.sampled_from(["train", "val", "test"]))
def test_a_batch_holds_the_tokens_of_its_pairs_within_the_budget(index: int, split: str) -> None:
    task = small()
    index = index if split == "train" else index % task.batches(split)
    batch, rows = task.batch(split, index), task.rows(split, index)
    assert batch.source.numel() + batch.targets.numel() <= 300
    for row, number in enumerate(rows):
        source, target = task.pairs(split)[number]
        assert real(batch.source, batch.source_mask, row) == [*task.vocabulary.encode(source), END]
        targets = real(batch.targets, batch.target_mask, row)
        assert targets == [*task.vocabulary.encode(target), END]
        assert real(batch.inputs, batch.target_mask, row) == [BEGIN, *targets[:-1]]
    for tokens, mask in (
        (batch.source, batch.source_mask),
        (batch.inputs, batch.target_mask),
        (batch.targets, batch.target_mask),
    ):
        assert tokens.dtype == torch.int64
        if mask is None:
            assert not (tokens == PAD).any()
        else:
            assert not mask.all()
            assert torch.equal(tokens == PAD, ~mask)
            assert torch.equal(mask, mask.sort(dim=1, descending=True)[0])


def real(tokens, mask, row: int) -> list[int]:
    return (tokens[row] if mask is None else tokens[row][mask[row]]).tolist()


def content(batch: Batch) -> list[list[int]]:
    return [*batch.source.tolist(), *batch.targets.tolist()]


@given(st.integers(0, 1), st.lists(st.integers(0, 500), min_size=1, max_size=5))
def test_a_batch_is_a_pure_function_of_seed_split_and_index(seed: int, indices) -> None:
    task = Translation(**SMALL, seed=seed)
    task.load_state_dict(small(seed).state_dict())
    for index in indices:
        assert content(task.batch("train", index)) == content(small(seed).batch("train", index))


def test_another_seed_is_other_phrases() -> None:
    assert set(small(0).pairs("train")) != set(small(1).pairs("train"))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core
@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_give_the_batches_by_index(workers: int) -> None:
    task = Translation(**SMALL, epoch_batches=3, validation_batches=2, workers=workers)
    assert [len(task.train_dataloader()), len(task.val_dataloader())] == [3, 2]
    assert len(task.test_dataloader()[0]) == task.batches("test") > 2
    for index, batch in zip(range(5), task.train_dataloader(), strict=False):
        assert content(batch) == content(task.batch("train", index))
    with pytest.raises(IndexError, match=r"test has .* batches"):
        task.batch("test", task.batches("test"))


def test_long_pairs_are_left_out_of_training_alone_and_counted(tmp_path, caplog) -> None:
    long = ("the cat " * 40, "THE CAT " * 40)
    train, test = [*PAIRS, long, long], [*PAIRS[:5], long]
    task = files(
        two_files(tmp_path, train),
        val=two_files(tmp_path, test, "val"),
        test=two_files(tmp_path, test, "test"),
        max_tokens=40,
        batch_tokens=100,
    )
    kept = {row for index in range(task.batches("train")) for row in task.rows("train", index)}
    assert kept == set(range(len(PAIRS)))
    assert task.skipped == {"more than 40 tokens in train": 2}
    assert caplog.messages == ["pairs left out: 2, more than 40 tokens in train"]
    widths = [task.batch("test", index).source.shape[1] for index in range(task.batches("test"))]
    assert max(widths) > 40
    assert len(task.sources("test")) == 6
    with pytest.raises(ValueError, match=r"at most max_tokens=1 tokens a side .* all 112 have"):
        files(two_files(tmp_path, train), max_tokens=1).batches("train")


# Scores


def shown(task: Translation, split: str = "test") -> list[torch.Tensor]:
    return [task.batch(split, index).targets for index in range(task.batches(split))]


def known(task: Translation, split: str = "test") -> float:
    """The share of references that the vocabulary can spell."""
    vocabulary = task.target_vocabulary
    unknown = [vocabulary.unknown(reference) for reference in task.references(split)]
    return unknown.count(0) / len(unknown)


def test_the_references_themselves_score_full_marks(tmp_path) -> None:
    paths = two_files(tmp_path)
    task = files(paths, val=paths, test=paths)
    scores = task.measure("test", shown(task))
    assert scores["exact"] == 1
    assert scores["bleu"] == pytest.approx(100)
    assert scores["chrf"] == pytest.approx(100)
    assert "tok:13a" in task.signatures["bleu"]
    assert "case:mixed" in task.signatures["chrf"]


@pytest.mark.parametrize("split", ["val", "test"])
def test_exact_is_the_share_of_sentences_that_are_the_reference(split: str) -> None:
    task = small()
    assert task.measure(split, shown(task, split))["exact"] == pytest.approx(known(task, split))


def test_scores_are_those_of_sacrebleu_in_the_order_of_the_sentences(caplog) -> None:
    from sacrebleu import corpus_bleu, corpus_chrf

    task = small()
    answers = shown(task)
    for answer in answers[::2]:  # every second batch is answered with one word less
        answer[:, 1] = END
    texts = [task.text(row) for answer in answers for row in answer]
    references = task.references("test")
    pairs = list(zip(task.sources("test"), references, strict=True))
    assert sorted(pairs) == sorted(task.pairs("test"))
    with caplog.at_level(logging.INFO, "tasks.translation.task"):
        scores = task.measure("test", answers)
    assert any("bleu of test is nrefs:1" in message for message in caplog.messages)
    assert scores["bleu"] == pytest.approx(corpus_bleu(texts, [references]).score)
    assert scores["chrf"] == pytest.approx(corpus_chrf(texts, [references]).score)
    equal = [text == reference for text, reference in zip(texts, references, strict=True)]
    assert scores["exact"] == pytest.approx(sum(equal) / len(equal))
    assert 0 < scores["exact"] < 1
    short = [row for row, (source, _) in enumerate(pairs) if len(source.split()) <= 5]
    expected = corpus_bleu([texts[row] for row in short], [[references[row] for row in short]])
    assert scores["bleu_words_1-5"] == pytest.approx(expected.score)


def test_what_follows_the_end_is_not_read() -> None:
    task = small()
    answers = [torch.cat([answer, torch.full_like(answer, 9)], 1) for answer in shown(task)]
    assert task.measure("test", answers)["exact"] == pytest.approx(known(task))


def test_missing_answers_are_named() -> None:
    task = small()
    for answers in (shown(task)[1:], [shown(task)[0][1:]], []):
        with pytest.raises(ValueError, match="expected an answer to each sentence of test, "):
            task.measure("test", answers)
    # But a quick look may have the first batches alone.
    assert task.measure("test", shown(task)[:2])["exact"] <= 1


def test_labels_are_the_sub_words_and_the_end() -> None:
    task = small()
    batch = task.batch("test", 0)
    source, target = task.labels(batch, 0)
    assert source[-1] == target[-1] == "</s>"
    assert "".join(source[:-1]).replace("▁", " ").strip() == task.sources("test")[0]
    assert "".join(target[:-1]).replace("▁", " ").strip() == task.references("test")[0]


# The vocabulary


def test_sizes_are_known_before_anything_is_read() -> None:
    task = Translation(source="files", train="nowhere.tsv", vocabulary_size=321)
    assert task.input_size == task.output_size == 321
    assert task.test_names() == ["test"]


def test_the_vocabulary_is_that_of_training_alone(tmp_path) -> None:
    odd = [("qqq", "猫")]
    task = files(two_files(tmp_path), test=two_files(tmp_path, odd, "test"))
    assert task.vocabulary.unknown("猫") == 1
    assert UNKNOWN in task.batch("test", 0).targets


def test_a_checkpoint_is_all_that_is_needed_to_read_a_sentence(tmp_path) -> None:
    torch.save(small().state_dict(), tmp_path / "a.ckpt")
    task = files("nowhere.tsv", vocabulary_size=400)
    task.load_state_dict(torch.load(tmp_path / "a.ckpt", weights_only=True))
    source, mask = task.source_batch(["in 2 years", "", "Greece"])
    expected = small().vocabulary.encode("in 2 years")
    assert real(source, mask, 0) == [*expected, END]
    assert real(source, mask, 1) == [END]
    assert task.source_batch(["Greece"])[1] is None
    with pytest.raises(ValueError, match="expected sentences to translate; got none"):
        task.source_batch([])


class Nothing(lightning.LightningModule):
    """Learns nothing, and notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[list[int]]] = []

    def training_step(self, batch, index):
        self.seen.append(content(batch))
        return self.weight * 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_resumed_run_takes_the_vocabulary_from_the_checkpoint(tmp_path, monkeypatch) -> None:
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "accelerator": "cpu",
        "default_root_dir": tmp_path,
    }
    trainer = lightning.Trainer(max_steps=3, **quiet)
    trainer.fit(Nothing(), datamodule=Translation(**SMALL))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    monkeypatch.setattr("tasks.translation.task.Vocabulary.train", None)
    model = Nothing()
    again = lightning.Trainer(max_steps=5, **quiet)
    again.fit(model, datamodule=Translation(**SMALL), ckpt_path=tmp_path / "a.ckpt")
    assert model.seen == [content(small().batch("train", index)) for index in (3, 4)]


def test_a_checkpoint_without_a_vocabulary_is_named() -> None:
    state = small().state_dict()
    with pytest.raises(ValueError, match=r"expected a checkpoint with the vocabulary .* got none"):
        small(9).load_state_dict({})
    with pytest.raises(ValueError, match=r"vocabulary_size=500 tokens; got 400"):
        Translation(vocabulary_size=500).load_state_dict(state)
    with pytest.raises(ValueError, match="expected a sentencepiece model"):
        small(9).load_state_dict({"vocabulary": state["vocabulary"][:99]})


def test_a_task_goes_to_another_process() -> None:
    task = pickle.loads(pickle.dumps(small()))
    assert content(task.batch("train", 7)) == content(small().batch("train", 7))


def model(size: int, text: list[str], **settings) -> bytes:
    """A vocabulary of one's own, with its marks wherever they are by default."""
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=content, vocab_size=size,
        character_coverage=1.0, minloglevel=2, model_type="bpe", **settings,
    )  # fmt: skip
    return content.getvalue()


def sides() -> tuple[list[str], list[str]]:
    pairs = small().pairs("train")
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def assert_reads(task: Translation) -> None:
    """Batches are of tokens of the vocabularies, and come back as text."""
    batch = task.batch("test", 0)
    source, target = task.labels(batch, 0)
    assert "".join(source[:-1]).replace("▁", " ").strip() == task.sources("test")[0]
    assert "".join(target[:-1]).replace("▁", " ").strip() == task.references("test")[0]
    assert batch.source.max() < task.input_size
    assert batch.targets.max() < task.output_size
    assert task.measure("test", shown(task))["exact"] == pytest.approx(known(task))
    again = Translation(**{**SMALL, "vocabulary_size": tuple(task.vocabulary_sizes)})
    if len(task.vocabulary_sizes) == 1:
        again = Translation(**{**SMALL, "vocabulary_size": task.input_size})
    again.load_state_dict(task.state_dict())
    assert content(again.batch("test", 0)) == content(batch)


def test_each_language_may_have_a_vocabulary_of_its_own() -> None:
    task = small(vocabulary_size=(300, 350))
    assert (task.input_size, task.output_size) == (300, 350)
    assert (len(task.vocabulary), len(task.target_vocabulary)) == (300, 350)
    assert task.vocabulary.model != task.target_vocabulary.model
    assert_reads(task)
    assert set(task.state_dict()) == {"vocabulary", "target_vocabulary"}
    turned = small(vocabulary_size=(350, 300), reverse=True)
    assert turned.vocabulary.model == task.target_vocabulary.model


@pytest.mark.parametrize("settings", [{}, {"pad_id": 3}, {"bos_id": -1, "eos_id": -1}])
def test_vocabularies_may_come_from_files(tmp_path, settings) -> None:
    english, french = sides()
    one = write(tmp_path / "both.model", model(320, [*english, *french], **settings))
    task = Translation(**SMALL, vocabulary_files=one)
    assert task.input_size == task.output_size == len(task.vocabulary)
    assert task.vocabulary is task.target_vocabulary
    assert_reads(task)
    write(tmp_path / "en.model", model(280, english, **settings))
    write(tmp_path / "fr.model", model(300, french, **settings))
    two = Translation(**SMALL, folder=str(tmp_path), vocabulary_files=["en.model", "fr.model"])
    assert two.input_size < two.output_size
    assert_reads(two)


def test_vocabularies_that_cannot_be_used_are_named(tmp_path) -> None:
    with pytest.raises(ValueError, match="expected a file at nowhere; there is none"):
        Translation(vocabulary_files="nowhere")
    bad = write(tmp_path / "a.model", "a word list\n")
    with pytest.raises(ValueError, match=r"a\.model: expected a sentencepiece model; got 12 bytes"):
        Translation(vocabulary_files=[bad])
    with pytest.raises(ValueError, match=r"vocabulary_files must be one file, or two: .* got 3"):
        Translation(vocabulary_files=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"vocabulary_size must be a number, or two: .* got 3"):
        Translation(vocabulary_size=(9, 9, 9))
    separate = small(vocabulary_size=(300, 350))
    with pytest.raises(ValueError, match="vocabulary_size=300 and 350 tokens; got 400"):
        separate.load_state_dict(small().state_dict())
    with pytest.raises(ValueError, match="vocabulary_size=400 tokens; got 300 and 350"):
        small().load_state_dict(separate.state_dict())


@pytest.mark.usefixtures("elsewhere", "blanks")
def test_a_checkpoint_translates_with_vocabularies_of_any_kind(tmp_path) -> None:
    english, french = sides()
    write(tmp_path / "en.model", model(280, english))
    write(tmp_path / "fr.model", model(300, french, pad_id=3))
    settings = {**CONFIG["data"]["init_args"], "sizes": SIZES, "folder": str(tmp_path)}
    del settings["vocabulary_size"]
    for own in ({"vocabulary_size": (300, 350)}, {"vocabulary_files": ["en.model", "fr.model"]}):
        folder = tmp_path / next(iter(own))
        folder.mkdir()
        data = yaml.safe_load(json.dumps({**settings, **own}))
        config = {**CONFIG, "data": {"class_path": "tasks.Translation", "init_args": data}}
        checkpoint = train(folder, config)
        task = Translation(**settings, **own)
        if "vocabulary_files" in own:  # which a checkpoint does not need
            (tmp_path / "en.model").unlink()
        translator = Translator.load(checkpoint)
        assert translator.vocabulary.model == task.vocabulary.model
        assert translator.target_vocabulary.model == task.target_vocabulary.model
        sentences = task.sources("test")[:3]
        answers = [
            translator.model.generate(*task.source_batch([sentence]), 1, 1.0, 20)
            for sentence in sentences
        ]
        expected = [task.text(answer[0]) for answer in answers]
        assert translator(sentences, beam=1, max_length=20) == expected


# BLEU


def chinese(tmp_path: Path, **settings) -> Translation:
    pairs = [(f"sentence {i}", f"我们第{i}次去北京的图书馆看书。") for i in range(40)]
    test = two_files(tmp_path, pairs, "test")
    return files(two_files(tmp_path, pairs), val=test, test=test, vocabulary_size=70, **settings)


@pytest.mark.parametrize("tokenizer", ["13a", "zh", "char", "intl", "none"])
def test_bleu_is_computed_with_the_tokenizer_that_is_asked_for(tmp_path, tokenizer: str) -> None:
    from sacrebleu import corpus_bleu

    task = chinese(tmp_path, bleu_tokenizer=tokenizer)
    # The first word is missing: of a sentence that is one word, nothing is right.
    answers = [batch[:, 2:] for batch in shown(task)]
    texts = [task.text(row) for answer in answers for row in answer]
    references = task.references("test")
    expected = corpus_bleu(texts, [references], tokenize=tokenizer).score
    scores = task.measure("test", answers)
    assert scores["bleu"] == pytest.approx(expected)
    assert (scores["bleu"] > 20) == (tokenizer in ("zh", "char"))
    assert f"tok:{tokenizer}" in task.notes()[0]
    hint = [note for note in task.notes() if "see --data.bleu_tokenizer" in note]
    assert bool(hint) == (tokenizer == "13a")


def test_languages_with_spaces_get_no_hint() -> None:
    task = small()
    task.measure("test", shown(task))
    assert len(task.notes()) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonsense", "bleu_tokenizer must be one of .*13a.*; got 'nonsense'"),
        ("", "bleu_tokenizer must be one of .*; got ''"),
    ],
)
def test_a_tokenizer_that_is_none_is_named(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Translation(bleu_tokenizer=name)


def test_a_tokenizer_that_needs_a_package_is_named(monkeypatch) -> None:
    def missing(*_, **__):
        raise RuntimeError("needs extra\ndependencies")

    monkeypatch.setattr("sacrebleu.metrics.bleu.BLEU.__init__", missing)
    with pytest.raises(ValueError, match="bleu_tokenizer=ja-mecab cannot be used: needs extra dep"):
        Translation(bleu_tokenizer="ja-mecab")


# CLDR


@pytest.mark.parametrize(
    "languages", [("en", "fr"), ("de", "en"), ("ja", "ar"), ("ru", "pt_BR"), ("en", "en-GB")]
)
def test_no_phrase_of_the_test_is_in_training(languages: tuple[str, str]) -> None:
    found = phrases(*languages, {"train": 1500, "val": 50, "test": 70}, seed=3)
    assert {split: len(pairs) for split, pairs in found.items()} == {
        "train": 1500,
        "val": 50,
        "test": 70,
    }
    for side in (0, 1):
        texts = [pair[side] for pairs in found.values() for pair in pairs]
        assert len(texts) == len(set(texts))
        assert all(text == " ".join(text.split()) != "" for text in texts)
    assert all(source != target for pairs in found.values() for source, target in pairs)


def test_what_is_held_out_is_held_out_with_every_seed() -> None:
    sizes = {"train": 2000, "val": 60, "test": 60}
    first, second = (phrases("en", "fr", sizes, seed) for seed in (0, 1))
    assert not {pair[0] for pair in first["test"]} & {pair[0] for pair in second["train"]}


def test_phrases_do_not_depend_on_what_was_read_before() -> None:
    sizes = {"train": 800, "val": 10, "test": 10}
    first = phrases("en", "yue", sizes, 0)
    for language in ("he", "ja"):
        phrases("en", language, sizes, 0)
    assert phrases("en", "yue", sizes, 0) == first


def test_phrases_are_of_many_kinds() -> None:
    pairs = dict(small(sizes=(3000, 40, 60)).pairs("train"))
    sources, targets = " | ".join(pairs), " | ".join(pairs.values())
    for source, target in [("ago", "il y a"), ("kilometers", "kilomètres"), ("%", " %")]:
        assert source in sources
        assert target in targets
    reverse = small(sizes=(3000, 40, 60), reverse=True)
    assert [pair[::-1] for pair in reverse.pairs("train")] == list(pairs.items())


# Files


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_two_files_are_paired_line_by_line(tmp_path, suffix: str) -> None:
    paths = two_files(tmp_path, suffix=suffix)
    task = files(paths, val=paths, test=paths)
    assert task.pairs("train") == PAIRS
    assert task.skipped == {}
    backwards = files(paths, val=paths, test=paths, reverse=True)
    assert backwards.pairs("train") == [pair[::-1] for pair in PAIRS]


def test_columns_of_a_file_are_paired(tmp_path) -> None:
    lines = [f"{i}\t{source}\t{target}\tby nobody" for i, (source, target) in enumerate(PAIRS)]
    path = write(tmp_path / "a.tsv", "\n".join(lines))
    assert files(path, val=path, test=[path], columns=(1, 2)).pairs("test") == PAIRS


def test_byte_order_marks_carriage_returns_and_odd_line_breaks(tmp_path) -> None:
    text = "\ufeffa\u2028b\tc\x0cd\r\ne\tf\u0085\r\n"
    path = write(tmp_path / "a.tsv", text)
    task = files(path, val=path, test=path)
    assert task.pairs("train") == [("a\u2028b", "c\x0cd"), ("e", "f\u0085")]


def test_empty_sides_and_lines_are_left_out_and_counted(tmp_path, caplog) -> None:
    path = write(tmp_path / "a.tsv", "a\tb\n\n\tc\n \nd\t \ne\tf\n")
    task = files(path, val=path, test=path)
    assert task.pairs("train") == [("a", "b"), ("e", "f")]
    assert task.skipped == {f"empty line in {path}": 2, f"one side empty in {path}": 2}
    assert sorted(caplog.messages) == [
        f"pairs left out: 2, empty line in {path}",
        f"pairs left out: 2, one side empty in {path}",
    ]
    task.pairs("train")
    assert len(caplog.messages) == 2
    sides = write(tmp_path / "a.en", "a\n\nb\n\n"), write(tmp_path / "a.fr", "c\nd\n\n\n")
    task = files(list(sides), val=path, test=path)
    assert task.pairs("train") == [("a", "c")]
    where = f"{sides[0]} and {sides[1]}"
    assert task.skipped == {f"empty line in {where}": 1, f"one side empty in {where}": 2}


def test_what_is_held_out_is_not_in_training(tmp_path) -> None:
    pairs = [*PAIRS, *((source, target + "!") for source, target in PAIRS)]  # two translations
    task = files(two_files(tmp_path, pairs))
    sources = {split: {pair[0] for pair in task.pairs(split)} for split in ("train", "val", "test")}
    assert sum(len(task.pairs(split)) for split in sources) == len(pairs)
    assert len(sources["val"]) == len(sources["test"]) == len({pair[0] for pair in PAIRS}) // 20
    for one, other in itertools.combinations(sources, 2):
        assert not sources[one] & sources[other]
    other_way = files(two_files(tmp_path, pairs[::-1], "other"), seed=5)
    assert set(other_way.pairs("test")) == set(task.pairs("test"))
    with pytest.raises(ValueError, match=r"more than 2 sentences in .*, to hold out .*; got 2"):
        files(two_files(tmp_path, PAIRS[:2])).pairs("train")


BAD = {
    "a.tsv": (b"a\tb\nc\xff\td\n", r"a\.tsv, line 2: expected UTF-8; got the byte 0xff"),
    "b.tsv": ("a\tb\nc d\n", r"b\.tsv, line 2: expected at least 2 columns with tabs .*; got 1"),
    "c.tsv": ("", r"expected text in .*c\.tsv; the file is empty"),
    "d.tsv": (" \n\n", r"expected text in .*d\.tsv; the file is empty"),
    "e.tsv": ("a\t\n\tb\n", r"expected sentences in .*e\.tsv; every pair has an empty side"),
    "f.tsv": ("a\tb\n".encode("utf-16"), r"f\.tsv, line 1: expected UTF-8; got the byte 0xff"),
    "g.tsv.gz": ("", r"expected text in .*g\.tsv\.gz; the file is empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named(tmp_path, name: str) -> None:
    text, message = BAD[name]
    with pytest.raises(ValueError, match=message) as caught:
        files(write(tmp_path / name, text)).pairs("train")
    assert "\n" not in str(caught.value)


def test_a_missing_a_damaged_and_a_shorter_file_are_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"expected a file at .*nowhere\.tsv; there is none"):
        files(str(tmp_path / "nowhere.tsv")).pairs("train")
    whole = gzip.compress(b"a\tb\n" * 100)
    for damaged in (whole[:-9], b"a\tb\n", whole[:12] + b"\xff\xff" + whole[14:]):
        (tmp_path / "a.tsv.gz").write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"expected .*a\.tsv\.gz to be a gzip file; it is damaged"
        ):
            files(str(tmp_path / "a.tsv.gz")).pairs("train")
    one, other = two_files(tmp_path)
    with Path(other).open("a") as file:
        file.write("more\n")
    with pytest.raises(ValueError, match=r"got 120 in .*train\.en and 121 in .*train\.fr"):
        files([one, other]).pairs("train")


# Catalogues


def catalogue() -> Catalog:
    made = Catalog(locale="fr")
    made.add("Open the file", "Ouvrir le fichier")
    made.add(("%(n)d day", "%(n)d days"), ("%(n)d jour", "%(n)d jours"))
    made.add("two\nlines ", "deux\nlignes")
    made.add("May", "Mai", context="month")
    made.add("May", "Peut", context="verb")
    made.add("nothing", "")
    made.add("guess", "devinette", flags=["fuzzy"])
    return made


EXPECTED = [
    ("Open the file", "Ouvrir le fichier"),
    ("%(n)d day", "%(n)d jour"),
    ("%(n)d days", "%(n)d jours"),
    ("two lines", "deux lignes"),
    ("May", "Mai"),
    ("May", "Peut"),
]


def gettext(path: str, **settings) -> Translation:
    return Translation(source="gettext", train=path, val=path, test=path, **settings)


def test_catalogues_are_paired(tmp_path) -> None:
    text, compiled = io.BytesIO(), io.BytesIO()
    write_po(text, catalogue())
    write_mo(compiled, catalogue())
    po = write(tmp_path / "a.po", text.getvalue() + b'\n#~ msgid "old"\n#~ msgstr "vieux"\n')
    mo = write(tmp_path / "a.mo", compiled.getvalue())
    task = gettext(po)
    assert task.pairs("train") == EXPECTED
    assert task.skipped == {f"fuzzy in {po}": 1, f"not translated in {po}": 1}
    assert sorted(gettext(mo).pairs("train")) == sorted(EXPECTED)
    both = Translation(source="gettext", train=[po, mo], reverse=True)
    counts = [len(both.pairs(split)) for split in ("train", "val", "test")]
    assert sum(counts) == 2 * len(EXPECTED)
    assert all(counts)


HEADER = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('msgid "a\nmsgstr "b"\n', "line 4: expected a keyword and a string in quotes; got msgid"),
        ('msgid "a"\nmsgstr "b" c\n', "line 5: expected a keyword and a string in quotes"),
        ('msgid "a"\ngarbage\nmsgstr "b"\n', "line 5: expected a keyword .*; got garbage"),
        ('msgid "a"\nmsgid "b"\nmsgstr "c"\n', "line 5: expected msgid and then msgstr; got msgid"),
        ('msgid "a"\nmsgstr "b"\n\nmsgid "c"\n', "line 7: .* got the end of the file after msgid"),
        ('msgid "a"\nmsgstr "b"\nmsgstr "c"\n', 'line 6: .* got msgstr "c" after msgstr'),
        ('msgid "a"\nmsgstr "b"\n' * 2, "line 6: expected each message once; got that of line 4"),
        (
            'msgid "a"\nmsgid_plural "b"\n' + "".join(f'msgstr[{i}] "c"\n' for i in range(4)),
            "line 4: msg has more translations than num_plurals",
        ),
        ('msgid "a"\nmsgstr "b\xff"\n'.encode("latin-1"), "line 5: expected utf-8; got another"),
        ('msgid "a"\nmsgstr ""\n', "expected translated messages in .*; there are none"),
    ],
)
def test_errors_in_a_catalogue_are_named(tmp_path, text: str | bytes, message: str) -> None:
    content = text if isinstance(text, bytes) else text.encode()
    path = write(tmp_path / "a.po", HEADER.encode() + content)
    with pytest.raises(ValueError, match=message) as caught:
        gettext(path).pairs("train")
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_header_that_says_nonsense_is_named(tmp_path) -> None:
    path = write(tmp_path / "a.po", HEADER.replace("UTF-8", "nonsense") + 'msgid "a"\nmsgstr "b"\n')
    with pytest.raises(ValueError, match="expected a charset that Python knows; got nonsense"):
        gettext(path).pairs("train")
    rule = HEADER.replace("UTF-8\\n", "UTF-8\\nPlural-Forms: nplurals=x; plural=0;\\n")
    with pytest.raises(ValueError, match="expected a gettext catalogue; invalid literal"):
        gettext(write(tmp_path / "a.po", rule + 'msgid "a"\nmsgstr "b"\n')).pairs("train")


ODD_HEADERS = {
    "an empty date": "PO-Revision-Date: \\n",
    "empty dates": "POT-Creation-Date: \\nPO-Revision-Date:\\n",
    "no date": "PO-Revision-Date: yesterday\\n",
    "a date of no calendar": "POT-Creation-Date: 2024-13-45 99:99+9999\\n",
    "the date of a template": "PO-Revision-Date: YEAR-MO-DA HO:MI+ZONE\\n",
    "no language": "Language: \\n",
    "a language by its name": "Language: German (Austria)\\n",
    "a language nobody knows": "Language: xx-YY-zz\\n",
    "the plurals of a template": "Plural-Forms: nplurals=INTEGER; plural=EXPRESSION;\\n",
    "empty plurals": "Plural-Forms: \\n",
    "no version": "Project-Id-Version:\\nX-Generator\\n",
}
MESSAGES = """
msgid "Open"
msgstr "Öffnen"

#, fuzzy
msgid "guess"
msgstr "raten"

msgid "day"
msgid_plural "days"
msgstr[0] "Tag"
msgstr[1] "Tage"

#~ msgid "old"
#~ msgstr "alt"
"""
TRANSLATED = [("Open", "Öffnen"), ("day", "Tag"), ("days", "Tage")]


def header(lines: str) -> str:
    return f'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n"{lines}"\n'


@pytest.mark.parametrize("name", ODD_HEADERS)
def test_what_a_header_says_of_other_things_does_not_matter(tmp_path, name: str) -> None:
    text = header(ODD_HEADERS[name]) + MESSAGES
    assert gettext(write(tmp_path / "a.po", text)).pairs("train") == TRANSLATED
    # Compiled by hand: programs that write such files correct some of this.
    told = f"Content-Type: text/plain; charset=UTF-8\\n{ODD_HEADERS[name]}".replace("\\n", "\n")
    path = write(tmp_path / "a.mo", compiled([("", told), ("Open", "Öffnen")]))
    assert gettext(path).pairs("train") == TRANSLATED[:1]


def compiled(messages: list[tuple[str, str]], order: str = "<") -> bytes:
    """A .mo file, as the manual of gettext describes it."""
    texts = [text.encode() for side in (0, 1) for text in [pair[side] for pair in messages]]
    starts = 28 + 8 * len(texts)
    table, data = b"", b""
    for text in texts:
        table += struct.pack(order + "2I", len(text), starts + len(data))
        data += text + b"\0"
    number = len(messages)
    head = struct.pack(order + "7I", 0x950412DE, 0, number, 28, 28 + 8 * number, 0, 0)
    return head + table + data + b"\0"


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_compiled_catalogue_may_have_either_order_and_no_header(tmp_path, order: str) -> None:
    path = write(tmp_path / "a.mo", compiled([("Open", "Öffnen")], order))
    assert gettext(path).pairs("train") == TRANSLATED[:1]
    told = "PO-Revision-Date: \nContent-Type: text/plain; charset=latin-1\n"
    content = compiled([("", told), ("Open", "Öffnen")], order)
    # Whatever the header says: the bytes are those of UTF-8, which latin-1 reads as two letters.
    assert gettext(write(tmp_path / "b.mo", content)).pairs("train") == [
        ("Open", "Öffnen".encode().decode("latin-1"))
    ]


def test_a_catalogue_without_a_header_is_utf_8(tmp_path) -> None:
    assert gettext(write(tmp_path / "a.po", MESSAGES)).pairs("train") == TRANSLATED
    path = write(tmp_path / "b.po", MESSAGES.encode("latin-1"))
    with pytest.raises(ValueError, match="line 3: expected utf-8; got another"):
        gettext(path).pairs("train")


@pytest.mark.parametrize(
    "charset", ["ISO-8859-1", "cp1252", "windows-1252", "UTF-8", "utf8", "latin1", "mac-roman"]
)
def test_a_catalogue_is_read_in_its_charset(tmp_path, charset: str) -> None:
    text = header("").replace("UTF-8", charset) + MESSAGES
    path = write(tmp_path / "a.po", text.encode(charset))
    assert gettext(path).pairs("train") == TRANSLATED


@pytest.mark.parametrize("charset", ["nonsense", "rot13", "hex", "undefined", "CP99999"])
def test_a_charset_that_is_none_is_named(tmp_path, charset: str) -> None:
    path = write(tmp_path / "a.po", header("").replace("UTF-8", charset) + MESSAGES)
    with pytest.raises(ValueError, match=f"a charset that Python knows; got {charset}"):
        gettext(path).pairs("train")


def test_a_message_about_charsets_is_no_header(tmp_path) -> None:
    text = 'msgid "charset=latin-1"\nmsgstr "Zeichensatz=ö"\n'
    for before in ("", header("")):
        path = write(tmp_path / "a.po", before + text)
        assert gettext(path).pairs("train") == [("charset=latin-1", "Zeichensatz=ö")]


@given(st.integers(0, 10**6))
def test_a_cut_off_compiled_catalogue_is_named(tmp_path_factory, cut: int) -> None:
    compiled = io.BytesIO()
    write_mo(compiled, catalogue())
    whole = compiled.getvalue()
    path = tmp_path_factory.mktemp("mo") / "a.mo"
    with pytest.raises(ValueError, match=r"expected .*a\.mo") as caught:
        gettext(write(path, whole[: cut % (len(whole) - 1)])).pairs("train")
    assert "\n" not in str(caught.value)


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"languages": ("en", "xx")}, "a language must be one that CLDR knows, .*; got 'xx'"),
        ({"languages": ("", "fr")}, "a language must be one that CLDR knows, .*; got ''"),
        ({"languages": ("fr", "fr")}, "languages must be two different ones"),
        ({"sizes": (0, 1, 1)}, "sizes_train must be a whole number of at least 1; got 0"),
        ({"train": "a.tsv"}, "source=cldr reads no files"),
        ({"source": "files"}, "source=files needs train, the files to train on; got none"),
        ({"source": "web"}, "source must be 'cldr', 'files' or 'gettext'; got 'web'"),
        ({"source": "files", "train": ["a", "b", "c"]}, "two files or one with .*; got a, b, c"),
        ({"source": "files", "train": "a", "columns": (1, 1)}, "columns must be two different"),
        ({"vocabulary_size": 0}, "vocabulary_size must be .* got 0"),
        ({"batch_tokens": 100, "max_tokens": 60}, "at least twice max_tokens, .*; got 100 and 60"),
        ({"epoch_batches": 0}, "epoch_batches must be .* got 0"),
        ({"validation_batches": 0}, "validation_batches must be .* got 0"),
    ],
)
def test_bad_settings_are_named(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Translation(**settings)


def test_a_vocabulary_too_large_for_the_text_is_named() -> None:
    task = small(vocabulary_size=30_000)
    with pytest.raises(ValueError, match=r"at most .*; got 30000: ask for fewer tokens"):
        task.batches("train")


# Real text


@pytest.mark.skipif(not MULTI30K.is_dir(), reason=f"needs Multi30k in {MULTI30K}")
def test_multi30k_as_it_comes() -> None:
    def paths(name: str) -> list[str]:
        return [str(MULTI30K / f"{name}.{language}.gz") for language in ("de", "en")]

    task = Translation(
        source="files",
        train=paths("train"),
        val=paths("val"),
        test=paths("test_2016_flickr"),
        vocabulary_size=4000,
    )
    assert [len(task.pairs(split)) for split in ("train", "val", "test")] == [29000, 1014, 1000]
    assert task.skipped == {}
    scores = task.measure("test", shown(task))
    assert scores["bleu"] == pytest.approx(100)
    assert scores["exact"] == 1
    assert {"bleu_words_6-10", "bleu_words_11-15", "bleu_words_16-20"} <= scores.keys()
    number = task.batches("train")
    rows = [row for index in range(number) for row in task.rows("train", index)]
    assert sorted(rows) == list(range(29000))
    sizes = [task.batch("train", index) for index in range(number)]
    assert all(batch.source.numel() + batch.targets.numel() <= 4096 for batch in sizes)
