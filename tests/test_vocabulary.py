"""Words and sub-words: nothing is lost on the way to tokens and back, and bad text is named."""

import io
import itertools
import pickle
import re
from collections import Counter

import pytest
import sentencepiece
import torch
from hypothesis import given
from hypothesis import strategies as st

from memnets.batches import BEGIN, END, PAD, UNKNOWN
from memnets.vocabulary import Vocabulary, Words

TEXT = [
    "the cat sat on the mat",
    "the dog ate a bone",
    "où est le château\u202f? à l'île",
    "1\u00a0234,50 € für die Straße",
    "ein Vogel flog vorbei",
]
CHARACTERS = sorted(set("".join(TEXT)))
VOCABULARIES = {
    kind: Vocabulary.train(TEXT, size, kind)
    for kind, size in [("bpe", 80), ("unigram", 50), ("char", len(CHARACTERS) + 4)]
}
every_kind = pytest.mark.parametrize("vocabulary", VOCABULARIES.values(), ids=VOCABULARIES)


@every_kind
@given(text=st.text(CHARACTERS))
def test_decoding_gives_the_text_back_but_for_extra_spaces(vocabulary, text: str) -> None:
    tokens = vocabulary.encode(text)
    assert all(END < token < len(vocabulary) for token in tokens)
    assert vocabulary.decode(tokens) == " ".join(word for word in text.split(" ") if word)
    assert vocabulary.unknown(text) == 0
    pieces = "".join(vocabulary.pieces(tokens))
    assert pieces.replace("▁", " ").strip(" ") == vocabulary.decode(tokens)


@every_kind
@given(text=st.text(CHARACTERS), rest=st.lists(st.integers(0, 40)))
def test_marks_are_dropped_and_nothing_is_read_after_the_end(vocabulary, text, rest) -> None:
    tokens = vocabulary.encode(text)
    marked = [PAD, BEGIN, *tokens, PAD, END, *rest]
    assert vocabulary.decode(marked) == vocabulary.decode(tokens)


@every_kind
def test_sizes_and_marks(vocabulary) -> None:
    assert vocabulary.pieces([PAD, UNKNOWN, BEGIN, END]) == ["<pad>", "<unk>", "<s>", "</s>"]
    assert len(set(vocabulary.pieces(range(len(vocabulary))))) == len(vocabulary)


def test_characters_never_seen_are_counted_and_stay_visible() -> None:
    vocabulary = VOCABULARIES["bpe"]
    assert vocabulary.unknown("the 猫 sat") == 1
    assert "⁇" in vocabulary.decode(vocabulary.encode("the 猫 sat"))
    assert vocabulary.encode("") == []
    assert vocabulary.decode([]) == ""


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char"])
@pytest.mark.parametrize(
    "odd", ["<s>", "</s>", "<unk>", "<pad>", "\t", "⁇", "\u200b", "😀", "\x01"]
)
def test_text_with_odd_characters_is_kept(kind: str, odd: str) -> None:
    vocabulary = trained([*TEXT, f"q{odd}z qz{odd} and x{odd}"], kind)
    assert vocabulary.unknown(f"q{odd}z q") == 0
    assert vocabulary.decode(vocabulary.encode(f"q{odd}z q")) == f"q{odd}z q"


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char"])
@pytest.mark.parametrize("odd", ["\0", "▁", "▅"])
def test_what_can_be_in_no_sub_word_is_unknown_and_the_rest_of_its_line_is_not(kind, odd) -> None:
    vocabulary = trained([*TEXT, f"q{odd}z qz{odd} and x{odd}"], kind)
    assert vocabulary.unknown("qz x") == 0
    assert vocabulary.unknown(f"q{odd}z q") == 1
    assert "⁇" in vocabulary.decode(vocabulary.encode(f"q{odd}z q"))


def trained(text: list[str], kind: str) -> Vocabulary:
    """A small vocabulary of any kind."""
    if kind != "char":
        return Vocabulary.train(text, 80 if kind == "bpe" else 54, kind)
    with pytest.raises(ValueError, match="must have the size") as caught:
        Vocabulary.train(text, 5, kind)
    size = re.search(r"must have the size (\d+)", str(caught.value))
    assert size
    return Vocabulary.train(text, int(size[1]), kind)


@pytest.mark.parametrize(
    "settings",
    [
        {},  # unknown 0, begin 1, end 2, no padding
        {"pad_id": 3},
        {"bos_id": -1, "eos_id": -1},
        {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3},
        {"pad_id": PAD, "unk_id": UNKNOWN, "bos_id": BEGIN, "eos_id": END},
        {"user_defined_symbols": "[sep]"},
    ],
)
def test_a_model_of_ones_own_may_have_its_marks_anywhere(settings) -> None:
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=content, vocab_size=60, minloglevel=2,
        hard_vocab_limit=False, character_coverage=1.0, normalization_rule_name="identity",
        **settings,
    )  # fmt: skip
    vocabulary = Vocabulary(content.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=content.getvalue())
    marks = {processor.unk_id(), processor.pad_id(), processor.bos_id(), processor.eos_id()}
    assert len(vocabulary) == END + 1 + processor.get_piece_size() - len(marks - {-1})
    for text in TEXT:
        tokens = vocabulary.encode(text)
        assert all(END < token < len(vocabulary) for token in tokens)
        assert vocabulary.pieces(tokens) == processor.encode(text, out_type=str)
        assert vocabulary.decode([BEGIN, *tokens, END, 9, PAD]) == text
    assert vocabulary.unknown("the 猫") == 1
    assert len(vocabulary.pieces(range(END + 1))) == END + 1
    again = Vocabulary.from_tensor(vocabulary.to_tensor())
    assert again.encode(TEXT[0]) == vocabulary.encode(TEXT[0])


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_the_same_text_gives_the_same_vocabulary(kind) -> None:
    again = Vocabulary.train(iter(TEXT), len(VOCABULARIES[kind]), kind)
    assert again.model == VOCABULARIES[kind].model


def test_training_is_silent_and_leaves_out_no_long_sentence(capfd) -> None:
    vocabulary = Vocabulary.train([*TEXT, "z" + "word " * 2000 + "猫"], 60)
    assert vocabulary.unknown("z猫") == 0
    assert capfd.readouterr() == ("", "")


def test_through_a_checkpoint_and_a_pickle(tmp_path) -> None:
    vocabulary = VOCABULARIES["bpe"]
    torch.save({"vocabulary": vocabulary.to_tensor()}, tmp_path / "a.ckpt")
    kept = torch.load(tmp_path / "a.ckpt", weights_only=True)["vocabulary"]
    for copy in (Vocabulary.from_tensor(kept), pickle.loads(pickle.dumps(vocabulary))):
        assert copy.encode(TEXT[2]) == vocabulary.encode(TEXT[2])
        assert len(copy) == len(vocabulary)


@pytest.mark.parametrize(
    ("text", "size", "kind", "message"),
    [
        ([], 50, "bpe", "needs text to be trained on; got none"),
        (["", "  "], 50, "bpe", "needs text to be trained on; got none"),
        (TEXT, 4, "bpe", "must be a whole number above 4, the number of its marks; got 4"),
        (TEXT, 30, "bpe", rf"at least {len(CHARACTERS) + 4}, its characters .*; got 30"),
        (TEXT, 5000, "bpe", r"at most \d+; got 5000: ask for fewer tokens, or give more text"),
        (TEXT, 5000, "unigram", r"at most \d+; got 5000"),
        (TEXT, 99, "char", rf"must have the size {len(CHARACTERS) + 4} for this text: .* got 99"),
        (TEXT, 50, "words", "kind must be 'bpe', 'unigram' or 'char'; got 'words'"),
    ],
)
def test_bad_training_is_named(text, size, kind, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Vocabulary.train(text, size, kind)
    assert "\n" not in str(caught.value)


def test_what_the_largest_size_is_said_to_be_works() -> None:
    with pytest.raises(ValueError, match="at most") as caught:
        Vocabulary.train(TEXT, 5000)
    largest = int(str(caught.value).split("at most ")[1].split(";")[0])
    assert len(Vocabulary.train(TEXT, largest)) == largest


def test_damage_is_named() -> None:
    tensor = VOCABULARIES["bpe"].to_tensor()
    for damaged in (tensor[:0], tensor[: len(tensor) // 2 + 1], torch.zeros(9, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"expected a sentencepiece model; got .* bytes"):
            Vocabulary.from_tensor(damaged)
    with pytest.raises(TypeError, match=r"kept as uint8; got torch\.float32"):
        Vocabulary.from_tensor(tensor.float())


@pytest.mark.parametrize("token", [-1, 80])
def test_a_token_out_of_range_is_named(token: int) -> None:
    with pytest.raises(ValueError, match=rf"a token must be in \[0, 80\); got {token}"):
        VOCABULARIES["bpe"].decode([token])


WORDS = st.text(st.characters(blacklist_characters="\0", codec="utf-8"), min_size=1, max_size=4)


@given(st.lists(st.lists(WORDS, max_size=6), max_size=6), st.integers(1, 3))
def test_words_come_back(sequences, least):
    vocabulary = Words.of(sequences, least)
    counts = Counter(itertools.chain.from_iterable(sequences))
    assert set(vocabulary.words) == {word for word, count in counts.items() if count >= least}
    frequencies = [counts[word] for word in vocabulary.words]
    assert frequencies == sorted(frequencies, reverse=True)
    kept = Words.from_tensor(vocabulary.to_tensor())
    assert kept.words == vocabulary.words
    for sequence in sequences:
        tokens = vocabulary.encode(sequence)
        assert tokens.count(UNKNOWN) == len(vocabulary.unknown(sequence))
        expected = [word if word in vocabulary else "⁇" for word in sequence]
        assert kept.decode([BEGIN, *tokens, END, PAD, BEGIN]) == expected


def test_words_have_a_greatest_number():
    sequences = ["abc", "ab", "a"]
    assert Words.of(sequences, size=END + 3).words == ["a", "b"]
    with pytest.raises(ValueError, match=r"vocabulary must be above 4.*got 4"):
        Words.of(sequences, size=END + 1)
    with pytest.raises(ValueError, match="least must be at least 1; got 0"):
        Words.of(sequences, least=0)


def test_errors_of_words():
    with pytest.raises(ValueError, match="each word of a vocabulary must come once; got 'a' twice"):
        Words(["a", "b", "a"])
    with pytest.raises(ValueError, match="must not be empty or hold a null character; got ''"):
        Words([""])
    with pytest.raises(ValueError, match=r"a token must be in \[0, 5\); got 5"):
        Words(["a"]).decode([5])
    with pytest.raises(TypeError, match="a vocabulary is kept as uint8; got"):
        Words.from_tensor(torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="kept as UTF-8; got other bytes"):
        Words.from_tensor(torch.tensor([255, 254], dtype=torch.uint8))
