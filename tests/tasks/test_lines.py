"""Text files of any size: lines from the disk against lists, and tasks that read them."""

import gzip
import itertools
import pickle
import random
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memnets.batches import Batch
from memnets.vocabulary import Vocabulary
from tasks import Language, Translation
from tasks import lines as lines_module
from tasks import pairs as pairs_module
from tasks.lines import Chain, Chosen, Lines, Mapped, open_lines, sampled, taken
from tasks.pairs import HeldPairs, StoredPairs
from tasks.permutation import Permutation
from tasks.stored import Numbers
from tasks.text import held_out, lines_of

WORDS = ["the", "a", "cat", "dog", "house", "tree", "sees", "likes", "under", "near", "big", "old"]
PAIRS = [
    (" ".join(words), " ".join(reversed(words)).upper())
    for words in (random.Random(i).choices(WORDS, k=1 + i % 9) for i in range(200))
]
#: Of files, more than a 16th of this limit is on the disk.
LIMIT = 16_000


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "memnets"


@pytest.fixture
def disk(monkeypatch, cache) -> Path:
    """An empty cache, and a bound so low that all files stay on the disk."""
    monkeypatch.setenv("MEMNETS_LIMIT", str(LIMIT))
    return cache


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
    settings = {"vocabulary_size": 60, "batch_tokens": 120, "max_tokens": 40, **settings}
    return Translation(source="files", train=train, **settings)


def numbers_of(batch: Batch) -> list[list[int]]:
    return [*batch.source.tolist(), *batch.inputs.tolist(), *batch.targets.tolist()]


def every(task, split: str, epoch: int = 0) -> list[int]:
    number = task.batches(split)
    return [
        row
        for index in range(epoch * number, (epoch + 1) * number)
        for row in task.token_pairs(split).rows(task, split, index).tolist()
    ]


# Lines


SIGNS = ["\n", "\r", "\r\n", "\ufeff", "\u2028", "\x85", "\x0c", "\x00", "\t", " ", "a", "é", "猫"]
TEXTS = st.lists(st.sampled_from(SIGNS), max_size=30).map("".join).map(str.encode)


def error_of(call, *arguments) -> str:
    """The error of a call, "" for none."""
    try:
        call(*arguments)
    except ValueError as error:
        return str(error)
    return ""


DAMAGED = st.lists(
    st.sampled_from(
        [b"\n", b"\r\n", b"\r", b"a", "é".encode(), b"\xef\xbb\xbf", b"\xff\xfe", b"\xc3", b"\0"]
    ),
    max_size=12,
).map(b"".join)


def wrong(content: bytes) -> str | None:
    """What is wrong with a text, told letter by letter; ``None`` = nothing."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return f"line 1: expected UTF-8; got the byte {content[0]:#04x}, with which UTF-16 begins"
    place, line = 0, 1
    while place < len(content):
        letter = next(
            (
                content[place:end]
                for end in range(place + 1, place + 5)
                if is_utf8(content[place:end])
            ),
            None,
        )
        if letter is None:
            return f"line {line}: expected UTF-8; got the byte {content[place]:#04x}"
        if letter == b"\0":
            return f"line {line}: expected text in UTF-8; got a null character"
        line += letter == b"\n"
        place += len(letter)
    if b"\n" not in content and b"\r" in content.strip():
        return "line 1: expected a line feed at the end of each line; got carriage returns alone"
    return None


def is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("suffix", ["txt", "gz"])
def test_lines_from_the_disk_are_those_of_a_list(disk, tmp_path, suffix: str, monkeypatch) -> None:
    # A block ends within letters, line ends and byte order marks.
    monkeypatch.setattr(lines_module, "BLOCK", 3)
    numbers = itertools.count()

    @given(st.one_of(TEXTS, DAMAGED), st.data())
    def check(content: bytes, data) -> None:
        path = write(tmp_path / f"{next(numbers)}.{suffix}", content)
        error = error_of(lines_of, content, path)
        assert error_of(Lines, path) == error
        assert bool(error) == (wrong(content) is not None)
        if error:
            assert wrong(content) in error
            return
        expected = lines_of(content, path)
        lines = Lines(path)
        assert len(lines) == len(expected)
        assert list(lines) == expected
        assert list(lines[::-2]) == expected[::-2]
        if expected:
            rows = data.draw(st.lists(st.integers(0, len(expected) - 1), max_size=5))
            assert lines.take(rows) == taken(expected, rows) == [expected[row] for row in rows]
            assert lines[-1] == expected[-1]
        with pytest.raises(IndexError):
            lines[len(expected)]

    check()


@pytest.mark.parametrize("line", [1, 2, 3])
def test_a_line_that_is_far_too_long_is_named(disk, tmp_path, line: int, monkeypatch) -> None:
    for module in ("lines", "text"):
        monkeypatch.setattr(f"tasks.{module}.LONGEST_LINE", 20)
    content = [b"a" * 20, b"b" * 20, b"c" * 20]
    for ending in (b"\n", b"\r\n", b""):
        fits = write(tmp_path / f"fits{len(ending)}", (ending or b"\n").join(content) + ending)
        assert list(Lines(fits)) == read(fits) == [each.decode() for each in content]
        content[line - 1] += b"dddd"
        path = write(tmp_path / f"long{len(ending)}", (ending or b"\n").join(content) + ending)
        for reader in (Lines, read):
            with pytest.raises(ValueError, match=rf"long\d, line {line}: .* at most 20 bytes in a"):
                reader(path)
        content[line - 1] = content[line - 1][:20]


def read(path: str) -> list[str]:
    return lines_of(Path(path).read_bytes(), path)


def test_small_files_are_held_and_large_ones_are_not(cache, tmp_path, monkeypatch) -> None:
    text = "a line\n" * 100
    paths = [write(tmp_path / name, text) for name in ("a.txt", "a.gz")]
    monkeypatch.setenv("MEMNETS_LIMIT", str(16 * len(text)))
    assert open_lines(*paths) == [["a line"] * 100] * 2
    assert not cache.exists()
    for path in paths:
        monkeypatch.setenv("MEMNETS_LIMIT", str(16 * len(text) - 16))
        (lines,) = open_lines(path)
        assert isinstance(lines, Lines)
        assert list(lines) == ["a line"] * 100
    # Files that belong together are held together.
    assert all(isinstance(each, Lines) for each in open_lines(path, write(tmp_path / "b", "b")))


def test_what_was_found_is_kept_for_the_same_file_alone(disk, tmp_path, monkeypatch) -> None:
    path = write(tmp_path / "a.txt", "one\ntwo\n")
    assert len(Lines(path)) == 2
    found = sorted(disk.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr(Lines, "_find", None)
        lines = Lines(path)
        assert lines[1] == "two"
    write(tmp_path / "a.txt", "one\ntwo\nthree\n")
    with pytest.raises(ValueError, match=r"expected .*a\.txt as it was at the start; it has chang"):
        lines.take([0])
    with pytest.raises(ValueError, match=r"expected .*a\.txt as it was at the start; it has chang"):
        list(lines)
    # The notes of the changed file take the place of the old ones.
    assert list(Lines(path)) == ["one", "two", "three"]
    assert sorted(disk.iterdir()) == found
    with pytest.raises(ValueError, match=r"as it was; another program has made it anew for a chan"):
        lines.starts.view()
    for each in found:
        each.unlink()
    with pytest.raises(ValueError, match=r"expected an index at .*; it is gone: start again"):
        lines.starts.view()


# Numbers in the cache


def test_numbers_are_made_once_and_anew_where_they_are_damaged(tmp_path) -> None:
    path, made = tmp_path / "a.numbers", []

    def numbers(key: str = "key", count: int = 5) -> list[int]:
        def make():
            made.append(key)
            yield np.arange(count)
            yield np.arange(count) + 10**12

        kept = Numbers(path, key, make)
        assert len(kept) == 2 * count
        assert np.concatenate(list(kept.pieces(size=3))).tolist() == kept.view().tolist()
        assert np.concatenate(list(kept.pieces(1, 4))).tolist() == kept.view()[1:4].tolist()
        return kept.view().tolist()

    expected = [*range(5), *(10**12 + place for place in range(5))]
    assert numbers() == numbers() == expected
    assert made == ["key"]
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole[:-8], whole[:40], whole[:50] + b"\1" + whole[51:]):
        made.clear()
        path.write_bytes(damaged)
        assert numbers() == expected
        assert made == ["key"]
    assert numbers("other", 2) == [0, 1, 10**12, 10**12 + 1]
    assert numbers() == expected


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", write(tmp_path / "file", "no folder"))
    for name in ("a.txt", "a.gz"):
        path = write(tmp_path / name, "a\n")
        with pytest.raises(
            ValueError, match=r"expected a folder in which .* got .*file/m"
        ) as caught:
            Lines(path)
        assert "\n" not in str(caught.value)


# Order


@given(st.integers(1, 300), st.integers(0, 2**63))
def test_a_permutation_has_every_number_once(size: int, key: int) -> None:
    permutation = Permutation(size, key)
    numbers = permutation(np.arange(size))
    assert sorted(numbers.tolist()) == list(range(size))
    some = np.array([[size - 1, 0]])
    assert permutation(some).tolist() == [[numbers[-1], numbers[0]]]
    assert Permutation(size, key)(np.arange(size)).tolist() == numbers.tolist()


def test_a_permutation_looks_random() -> None:
    # Each of 12 numbers comes at each of 12 places about equally often, whatever the key.
    found = np.array([Permutation(12, [7, key])(np.arange(12)) for key in range(1200)])
    counts = np.array([np.bincount(found[:, place], minlength=12) for place in range(12)])
    chi = ((counts - 100) ** 2 / 100).sum()
    assert 70 < chi < 190  # 121 on average, for 121 degrees of freedom
    pairs = {tuple(row[:2]) for row in found.tolist()}
    assert len(pairs) > 0.99 * 12 * 11
    # Neighbours of a large one are no neighbours any more.
    large = Permutation(10**9, 0)(np.arange(2000))
    assert len(set(large.tolist())) == 2000
    assert abs(np.corrcoef(large[:-1], large[1:])[0, 1]) < 0.1
    with pytest.raises(ValueError, match=r"from 1 to 2\^62; got 0"):
        Permutation(0, 0)


@given(st.lists(st.sampled_from([f"t{i}" for i in range(60)])), st.sampled_from([[], ["val"],
       ["val", "test"]]))  # fmt: skip
def test_held_out_texts_are_those_of_a_sorted_list(texts: list[str], names: list[str]) -> None:
    different = sorted(set(texts), key=lambda text: (zlib.crc32(text.encode()), text))
    held = max(1, len(different) // 20)
    if names and len(different) <= held * len(names):
        with pytest.raises(ValueError, match=f"more than {held * len(names)} sentences in here"):
            held_out(iter(texts), names, "here")
        return
    expected = {
        text: name
        for number, name in enumerate(names)
        for text in different[number * held : (number + 1) * held]
    }
    assert held_out(iter(texts), names, "here") == expected


def test_at_most_a_thousand_texts_are_held_out(monkeypatch) -> None:
    monkeypatch.setattr("tasks.text.MOST_HELD_OUT", 3)
    texts = [str(number) for number in range(500)]
    expected = sorted(texts, key=lambda text: (zlib.crc32(text.encode()), text))
    found = held_out(texts * 2, ["val", "test"], "here")
    assert list(found) == expected[:6]
    assert list(found.values()) == ["val"] * 3 + ["test"] * 3


def test_a_sample_is_always_the_same_and_in_order(disk, tmp_path) -> None:
    texts = [str(number) for number in range(1000)]
    assert list(sampled(texts, 1000)) == texts
    some = list(sampled(texts, 50))
    assert list(sampled(Lines(write(tmp_path / "a", "\n".join(texts))), 50)) == some
    numbers = list(map(int, some))
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 50
    assert 350 < sum(numbers) / 50 < 650


def test_parts_of_lines_are_what_lists_are(disk, tmp_path) -> None:
    texts = [str(number) for number in range(40)]
    lines = Lines(write(tmp_path / "a", "\n".join(texts)))
    numbers = Numbers(tmp_path / "some", "some", lambda: [np.arange(1, 40, 3)])
    chosen = Chosen(lines, numbers, 2, 10)
    chain = Chain([lines, ["x", "y"], chosen])
    doubled = Mapped(chain, lambda number, text: f"{number}{text}", "double")
    some = texts[1::3][2:10]
    whole = [*texts, "x", "y", *some]
    for found, expected in (
        (chosen, some),
        (chain, whole),
        (doubled, [f"{number}{text}" for number, text in enumerate(whole)]),
    ):
        assert list(found) == found[:] == expected
        assert found[3] == expected[3]
        rows = list(range(len(expected)))[::-3] * 2
        assert found.take(rows) == [expected[row] for row in rows]


# Tasks


def agree(held, stored, splits=("val", "test")) -> None:
    """All that does not depend on the order of a pass is the same in memory and on the disk."""
    assert [list(stored.pairs(split)) for split in ("train", *splits)] == [
        held.pairs(split) for split in ("train", *splits)
    ]
    assert stored.skipped == held.skipped
    for name, tensor in held.state_dict().items():
        assert torch.equal(stored.state_dict()[name], tensor)
    for split in splits:
        assert stored.batches(split) == held.batches(split)
        for index in range(held.batches(split)):
            one, other = (task.batch(split, index) for task in (held, stored))
            assert numbers_of(one) == numbers_of(other)
    assert stored.skipped == held.skipped
    one, other = (task.token_pairs("train") for task in (held, stored))
    assert isinstance(one, HeldPairs)
    assert isinstance(other, StoredPairs)
    assert other.cuts.tolist() == one.cuts.tolist()
    whole = 0, int(one.cuts[-1])
    assert other._unshuffled(*whole).tolist() == one._unshuffled(*whole).tolist()
    assert other.count(7) == one.count(7)


KINDS = ["two files", "packed", "columns", "reversed", "own files"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_on_the_disk_is_read_as_one_in_memory(disk, tmp_path, kind, monkeypatch) -> None:
    monkeypatch.setattr(pairs_module, "SORTED", 9)
    monkeypatch.setattr(pairs_module, "MANY", 4)
    monkeypatch.setattr("tasks.sets.MANY", 6)
    long = ("the cat " * 40, "THE CAT " * 40)
    pairs = [*PAIRS, ("", ""), long, ("a", ""), PAIRS[3], (" ", "b")]
    settings = {"vocabulary_sample": 150}
    if kind == "columns":
        paths = write(tmp_path / "a.tsv", "".join(f"{a}\t-\t{b}\n" for a, b in pairs))
        settings["columns"] = (0, 2)
    else:
        paths = two_files(tmp_path, pairs, suffix=".gz" if kind == "packed" else "")
    if kind == "reversed":
        settings |= {"reverse": True, "vocabulary_size": (55, 60)}
    if kind == "own files":  # which are also on the disk
        settings |= {"val": paths, "test": two_files(tmp_path, PAIRS[:150], "test")}
    stored = files(paths, **settings)
    assert not isinstance(stored.pairs("train"), list)
    assert isinstance(stored.pairs("val"), list) == (kind != "own files")
    stored.batches("train")
    with monkeypatch.context() as patched:
        patched.setenv("MEMNETS_LIMIT", str(2**30))
        held = files(paths, **settings)
        assert [type(held.pairs(split)) for split in ("train", "val", "test")] == [list] * 3
        held.batches("train")
    agree(held, stored)
    assert held.skipped["more than 40 tokens in train"] == 1


def test_a_pass_over_the_disk_has_every_pair_once_and_any_batch_at_once(disk, tmp_path) -> None:
    paths = two_files(tmp_path)
    task = files(paths)
    number = len(task.pairs("train"))
    passes = [every(task, "train", epoch) for epoch in (0, 1, 5)]
    for rows in passes:
        assert sorted(rows) == list(range(number))
    assert len(set(map(tuple, passes))) == 3
    other = files(paths, seed=1)
    assert every(other, "train") != passes[0]
    index = 5 * task.batches("train") + 3
    batch = task.batch("train", index)
    assert batch.source.numel() + batch.targets.numel() <= 120
    # In the middle of a pass, without those before; in another process; after another pass.
    again = files(paths)
    again.load_state_dict(task.state_dict())
    shipped = pickle.loads(pickle.dumps(task))
    for each in (again, shipped):
        assert numbers_of(each.batch("train", index)) == numbers_of(batch)
        assert numbers_of(each.batch("train", 2)) == numbers_of(task.batch("train", 2))
    for row, place in enumerate(task.rows("train", index)):
        source, target = task.pairs("train")[place]
        assert task.text(batch.targets[row]) == target
        assert task.vocabulary.decode(batch.source[row].tolist()) == source


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core
def test_a_worker_reads_for_itself_and_is_sent_no_data(disk, tmp_path, monkeypatch) -> None:
    pairs = [(f"{a} {i}", f"{b} {i}") for i, (a, b) in enumerate(PAIRS * 40)]
    paths, few = two_files(tmp_path, pairs), two_files(tmp_path, PAIRS[:9], "few")
    task = files(paths, val=few, test=few, workers=1, vocabulary_sample=100, batch_tokens=1000)
    batches = list(itertools.islice(task.train_dataloader(), 3))
    assert [numbers_of(batch) for batch in batches] == [
        numbers_of(task.batch("train", index)) for index in range(3)
    ]
    sent = len(pickle.dumps(task)) - len(task.vocabulary.model)
    assert sent < Path(paths[0]).stat().st_size / 10


def test_memory_does_not_grow_with_the_file(disk, tmp_path, monkeypatch) -> None:
    for name in ("lines.BLOCK", "lines.MANY", "pairs.SORTED", "pairs.MANY", "sets.MANY"):
        monkeypatch.setattr(f"tasks.{name}", 100)
    text = write(tmp_path / "few", "a few words here\n" * 100)
    vocabulary = files([text, text], vocabulary_size=16, val=text, test=text).state_dict()
    peaks = []
    for times in (1, 5):
        pairs = [("a few words here " * 4, "here are words " * 4)] * 500 * times
        paths = two_files(tmp_path, pairs, str(times))
        task = files(paths, val=text, test=text, vocabulary_size=16, max_tokens=200,
                     batch_tokens=2000)  # fmt: skip
        task.load_state_dict(vocabulary)
        tracemalloc.start()
        for index in range(0, 2 * task.batches("train"), 7):
            task.batch("train", index)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


BAD = {
    "a": (b"a\tb\n" * 300 + b"c\xff\td\n", r"a, line 301: expected UTF-8; got the byte 0xff"),
    "b": (
        "a\tb\n" * 300 + "c d\n",
        r"b, line 301: expected at least 2 columns with tabs .*; got 1",
    ),
    "c": ("a\t\n" * 600, r"expected sentences in .*c; every pair has an empty side"),
    "d": ("a\tb\n" * 300, r"expected more than 2 sentences in .*d, to hold out some for val and t"),
    "e.gz": ("a\tb\n" * LIMIT, r"e\.gz: expected at most 16,000 bytes; got more; to allow more, s"),
}


@pytest.mark.parametrize("name", BAD)
def test_damaged_files_on_the_disk_are_named(disk, tmp_path, name: str) -> None:
    content, message = BAD[name]
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message) as caught:
        files(path).pairs("train")
    assert "\n" not in str(caught.value)
    # Nothing is left half-written.
    assert not [path for path in disk.iterdir() if "part" in path.name]


def test_files_of_different_lengths_are_named(disk, tmp_path) -> None:
    one, other = two_files(tmp_path)
    with Path(other).open("a") as file:
        file.write("more\n")
    with pytest.raises(ValueError, match=r"got 200 in .*train\.en and 201 in .*train\.fr"):
        files([one, other]).pairs("train")
    whole = gzip.compress(b"a\tb\n" * 2000)
    (tmp_path / "a.gz").write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"expected .*a\.gz to be a gzip file; it is damaged"):
        files(str(tmp_path / "a.gz")).pairs("train")


def test_a_language_model_reads_from_the_disk_as_from_memory(disk, tmp_path, monkeypatch) -> None:
    texts = [source for source, _ in PAIRS]
    paths = [
        write(tmp_path / "a.txt", "\n".join([*texts[:150], "", " ", "the cat " * 30])),
        write(tmp_path / "b.gz", "\n".join([*texts[150:], ""]) + "\n"),
    ]
    settings = {"train": paths, "batch_tokens": 60, "max_words": 30, "vocabulary_sample": 90}
    stored = Language(**settings)
    assert not isinstance(stored.lines("train"), list)
    stored.batches("train")
    with monkeypatch.context() as patched:
        patched.setenv("MEMNETS_LIMIT", str(2**30))
        held = Language(**settings)
        held.batches("train")
    for task in (held, stored):
        task.pairs = task.sentences
    agree(held, stored)
    assert stored.notes() == held.notes()
    assert sorted(every(stored, "train")) == sorted(every(held, "train"))
    empty = write(tmp_path / "c.txt", " \n" * 1000)
    with pytest.raises(ValueError, match=r"expected text in .*c\.txt; no line has words"):
        Language(train=[*paths, empty]).sentences("train")


@pytest.mark.parametrize("kind", ["bpe", "char", "unigram"])
def test_tokens_of_words_are_tokens_of_the_text(kind: str, monkeypatch) -> None:
    monkeypatch.setattr("memnets.vocabulary._REMEMBERED", 5)
    monkeypatch.setattr("memnets.vocabulary._LONGEST", 6)
    text = [source for source, _ in PAIRS]
    size = {"bpe": 60, "unigram": 32, "char": len(set("".join(text))) + 4}[kind]
    vocabulary = Vocabulary.train(text, size, kind)
    # Others cut whole texts.
    assert (vocabulary._known is None) == (kind != "bpe")
    signs = [
        "the",
        "cat",
        "x",
        " ",
        "  ",
        "\t",
        "\u3000",
        "▁",
        "▅",
        "\n",
        "tree",
        "big",
        "éé",
        "<s>",
    ]

    @given(st.lists(st.sampled_from(signs)).map("".join))
    def check(text: str) -> None:
        assert vocabulary.encode(text) == vocabulary._encode(text)

    check()
