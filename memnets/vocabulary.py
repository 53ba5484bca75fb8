"""Vocabularies: text to tokens and back, by whole words, or by sub-words with sentencepiece."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from memnets.batches import BEGIN, END, MARKS, PAD, UNKNOWN
from memnets.extras import check_extra

__all__ = ["Vocabulary", "Words"]

#: The sign for a space within a piece, and a sign that sentencepiece reserves for itself.
_SPACE, _RESERVED = "▁", "▅"
_MARKS = {PAD: "<pad>", UNKNOWN: "<unk>", BEGIN: "<s>", END: "</s>"}
#: Text that sentencepiece would take for a mark: it would not learn its "<" and ">".
_LIKE_MARKS = re.compile("<(?=(?:pad|unk|s|/s)>)")
#: Most words whose tokens are remembered, and most letters of one.
_REMEMBERED, _LONGEST = 1 << 16, 40


def _sentencepiece() -> Any:
    check_extra("translation", "a vocabulary of sub-words", "sentencepiece")
    import sentencepiece

    return sentencepiece


class Vocabulary:
    """Tokens for text: :data:`~memnets.core.PAD`, ``UNKNOWN``, ``BEGIN``, ``END``, then sub-words.

    Text is not changed, except for spaces: spaces at its ends are dropped, and several in a row
    become one. ``decode(encode(text))`` is the text if all its characters were in the training
    text. Three characters cannot be in a sub-word and are ``UNKNOWN``: the null character, ``▁``
    and ``▅``.

    Args:
        model: a serialized sentencepiece model. Its marks may have any numbers, and all but the
            unknown mark may be missing: in this vocabulary the four marks come first, then the
            other pieces in their order.

    Raises:
        ValueError: the model is damaged or of another kind.
    """

    def __init__(self, model: bytes) -> None:
        sentencepiece = _sentencepiece()
        try:
            if not model:  # sentencepiece would make an empty processor, and complain later
                raise ValueError("it is empty")
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except Exception as error:  # what sentencepiece raises depends on where the damage is
            raise ValueError(
                f"expected a sentencepiece model; got {len(model)} bytes that are not one"
            ) from error
        marks = {
            PAD: self._processor.pad_id(),
            UNKNOWN: self._processor.unk_id(),
            BEGIN: self._processor.bos_id(),
            END: self._processor.eos_id(),
        }
        rest = [i for i in range(self._processor.get_piece_size()) if i not in marks.values()]
        #: The number in the model of each token, and the token of each number there.
        self._numbers = [*(marks[mark] for mark in sorted(marks)), *rest]
        self._tokens = {number: token for token, number in enumerate(self._numbers)}
        self.model = model
        #: Tokens of words that came lately; ``None`` where words do not have tokens of their own.
        self._known: dict[str, list[int]] | None = {} if self._by_words() else None

    @classmethod
    def load(cls, content: bytes, name: str) -> Vocabulary:
        """Make a vocabulary from the content of a file that sentencepiece wrote.

        Args:
            content: content of the file.
            name: name of the file, for an error.

        Raises:
            ValueError: the content is damaged or of another kind.
        """
        try:
            return cls(content)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def __reduce__(self) -> tuple[type[Vocabulary], tuple[bytes]]:
        return Vocabulary, (self.model,)

    @classmethod
    def train(
        cls,
        sentences: Iterable[str],
        size: int,
        kind: Literal["bpe", "unigram", "char"] = "bpe",
    ) -> Vocabulary:
        """Learn sub-words from text; the same text gives the same sub-words.

        Args:
            sentences: the text; all its characters but the three above will be known.
            size: number of tokens, with the four marks.
            kind: ``bpe`` for byte-pair encoding (Sennrich et al. 2016), ``unigram`` for a unigram
                language model (Kudo 2018), ``char`` for single characters; with ``char``, ``size``
                must be the number of characters and marks.

        Returns:
            A vocabulary of exactly that size.

        Raises:
            ValueError: the text is empty, or too small or too large for the size.
        """
        if kind not in ("bpe", "unigram", "char"):
            raise ValueError(f"kind must be 'bpe', 'unigram' or 'char'; got {kind!r}")
        if not isinstance(size, int) or size <= END + 1:
            raise ValueError(
                f"the size of a vocabulary must be a whole number above {END + 1}, the number of "
                f"its marks; got {size}"
            )
        model = io.BytesIO()
        lines = [text for text in map(_trainable, sentences) if text.strip(" ")]
        if not lines:
            raise ValueError("a vocabulary needs text to be trained on; got none")
        try:
            _sentencepiece().SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=model,
                model_type=kind,
                # The number of characters is fixed by the text. sentencepiece gets this number,
                # and ``size`` is compared with the result below.
                vocab_size=len(set().union(*lines)) + END + 3 if kind == "char" else size,
                pad_id=PAD,
                unk_id=UNKNOWN,
                bos_id=BEGIN,
                eos_id=END,
                pad_piece="<pad>",
                character_coverage=1.0,
                normalization_rule_name="identity",
                # sentencepiece silently leaves out longer lines.
                max_sentence_length=max(len(line.encode()) for line in lines) + 1,
                # The sub-words must not depend on the number of threads of the machine.
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise ValueError(_reason(str(error), size)) from error
        vocabulary = cls(model.getvalue())
        if len(vocabulary) != size:
            raise ValueError(
                f"a vocabulary of characters must have the size {len(vocabulary)} for this text: "
                f"its characters and the {END + 1} marks; got {size}"
            )
        return vocabulary

    def __len__(self) -> int:
        return len(self._numbers)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without marks at its begin and end."""
        known = self._known
        if known is None:
            return self._encode(text)
        words = text.split(" ")
        try:
            return list(chain.from_iterable(map(known.__getitem__, words)))
        except KeyError:
            return [token for word in words for token in self._learned(known, word)]

    def _learned(self, known: dict[str, list[int]], word: str) -> list[int]:
        """Tokens of a word, remembered for the next time."""
        tokens = known.get(word)
        if tokens is None:
            tokens = self._encode(word)
            if len(known) >= _REMEMBERED:
                known.clear()
            if len(word) <= _LONGEST:
                known[word] = tokens
        return tokens

    def _encode(self, text: str) -> list[int]:
        # In a piece, this sign stands for a space: the text's own would come back as one.
        numbers = self._processor.encode(text.replace(_SPACE, _RESERVED))
        return [self._tokens[number] for number in numbers]

    def _by_words(self) -> bool:
        """Whether the tokens of a text are those of its words, one word after the other.

        Then words that come often are cut once, which is many times as fast. It is so for byte-pair
        encoding as :meth:`train` makes it. Of other models the sums of scores are rounded, so that
        two ways to cut a word may be as good within one text and not within another. Models from
        elsewhere may have pieces of several words, or treat the first word or spaces differently.
        """
        model = self._processor
        pieces = [number for number in self._numbers if number >= 0]
        whole = all(float(model.get_score(number)).is_integer() for number in pieces)
        first = not any(_SPACE in model.id_to_piece(number)[1:] for number in pieces)
        # Without a piece for it, a space would be one unknown token with an unknown letter by it.
        space = model.piece_to_id(_SPACE) != model.unk_id()
        alike = model.encode("a  a ") == 2 * model.encode("a")
        return bool(whole and first and space and alike)

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of tokens, up to the first ``END``; ``UNKNOWN`` shows as ``⁇``.

        Raises:
            ValueError: a token is out of range.
        """
        return str(self._processor.decode([self._numbers[token] for token in self._words(tokens)]))

    def pieces(self, tokens: Iterable[int]) -> list[str]:
        """The written form of each token; ``▁`` stands for the space before a word.

        Raises:
            ValueError: a token is out of range.
        """
        numbers = [(token, self._numbers[token]) for token in self._checked(tokens)]
        return [
            # A model that was trained elsewhere may lack some marks.
            str(self._processor.id_to_piece(number)) if number >= 0 else _MARKS[token]
            for token, number in numbers
        ]

    def unknown(self, text: str) -> int:
        """Number of ``UNKNOWN`` tokens in a text."""
        return self.encode(text).count(UNKNOWN)

    def to_tensor(self) -> Tensor:
        """The whole vocabulary as bytes, uint8 ``[n]``, for a checkpoint."""
        return torch.from_numpy(np.frombuffer(self.model, np.uint8).copy())

    @classmethod
    def from_tensor(cls, tensor: Tensor) -> Vocabulary:
        """Make a vocabulary from the result of :meth:`to_tensor`.

        Raises:
            TypeError: the tensor is not uint8.
            ValueError: the bytes are damaged.
        """
        if tensor.dtype != torch.uint8:
            raise TypeError(f"a vocabulary is kept as uint8; got {tensor.dtype}")
        return cls(tensor.cpu().numpy().tobytes())

    def _words(self, tokens: Iterable[int]) -> Iterator[int]:
        for token in self._checked(tokens):
            if token == END:
                return
            if token not in (PAD, BEGIN):
                yield token

    def _checked(self, tokens: Iterable[int]) -> Iterator[int]:
        for token in map(int, tokens):
            if not 0 <= token < len(self):
                raise ValueError(f"a token must be in [0, {len(self)}); got {token}")
            yield token


class Words:
    """Tokens for whole words, or for other symbols such as letters: the four marks, then the words.

    Args:
        words: the words in the order of their tokens, each once, none of them empty.

    Raises:
        ValueError: a word comes twice, is empty, or has a null character.
    """

    def __init__(self, words: Iterable[str]) -> None:
        #: The words in the order of their tokens; the first has the token ``END + 1``.
        self.words = list(words)
        self._tokens = {word: token for token, word in enumerate(self.words, END + 1)}
        if len(self._tokens) != len(self.words):
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            raise ValueError(f"each word of a vocabulary must come once; got {twice!r} twice")
        for word in self.words:
            if not word or "\0" in word:
                raise ValueError(
                    f"a word of a vocabulary must not be empty or hold a null character; "
                    f"got {word!r}"
                )

    @classmethod
    def of(
        cls, sequences: Iterable[Sequence[str]], least: int = 1, size: int | None = None
    ) -> Words:
        """Collect the words of some sequences: the most frequent first, equal ones by alphabet.

        Args:
            sequences: sequences of words.
            least: fewest times that a word must come, at least 1; others are ``UNKNOWN``.
            size: most tokens of the vocabulary, with the four marks; ``None`` = no limit.

        Raises:
            ValueError: a number is out of its range.
        """
        if least < 1:
            raise ValueError(f"least must be at least 1; got {least}")
        if size is not None and size <= END + 1:
            raise ValueError(
                f"the size of a vocabulary must be above {END + 1}, the number of its marks; "
                f"got {size}"
            )
        counts = Counter(word for sequence in sequences for word in sequence)
        known = [word for word, count in counts.items() if count >= least]
        known.sort(key=lambda word: (-counts[word], word))
        return cls(known if size is None else known[: size - END - 1])

    def __len__(self) -> int:
        return END + 1 + len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._tokens

    def encode(self, words: Iterable[str]) -> list[int]:
        """Tokens of words, ``UNKNOWN`` for words that the vocabulary does not have."""
        return [self._tokens.get(word, UNKNOWN) for word in words]

    def decode(self, tokens: Iterable[int]) -> list[str]:
        """Words of tokens up to the first ``END``, without other marks; ``UNKNOWN`` is ``⁇``.

        Raises:
            ValueError: a token is out of range.
        """
        words = []
        for token in map(int, tokens):
            if token == END:
                break
            if token not in (PAD, BEGIN):
                words.append("⁇" if token == UNKNOWN else self.name(token))
        return words

    def name(self, token: int) -> str:
        """The word of a token, or the name of its mark.

        Raises:
            ValueError: the token is out of range.
        """
        if not 0 <= token < len(self):
            raise ValueError(f"a token must be in [0, {len(self)}); got {token}")
        return MARKS[token] if token in MARKS else self.words[token - END - 1]

    def unknown(self, words: Iterable[str]) -> list[str]:
        """The words that the vocabulary does not have, in their order."""
        return [word for word in words if word not in self._tokens]

    def to_tensor(self) -> Tensor:
        """The whole vocabulary as bytes, uint8 ``[n]``, for a checkpoint."""
        text = "\0".join(self.words).encode()
        return torch.from_numpy(np.frombuffer(text, np.uint8).copy())

    @classmethod
    def from_tensor(cls, tensor: Tensor) -> Words:
        """Make a vocabulary from the result of :meth:`to_tensor`.

        Raises:
            TypeError: the tensor is not uint8.
            ValueError: the bytes are damaged.
        """
        if tensor.dtype != torch.uint8:
            raise TypeError(f"a vocabulary is kept as uint8; got {tensor.dtype}")
        content = tensor.cpu().numpy().tobytes()
        try:
            return cls(content.decode().split("\0") if content else [])
        except UnicodeDecodeError as error:
            raise ValueError(f"a vocabulary is kept as UTF-8; got other bytes ({error})") from error


def _trainable(text: str) -> str:
    """Replace signs for which sentencepiece drops a line, and text that looks like a mark."""
    if _RESERVED in text or _SPACE in text or "\0" in text:
        text = re.sub(f"[{_RESERVED}{_SPACE}\0]", " ", text)
    return _LIKE_MARKS.sub("< ", text)


def _reason(message: str, size: int) -> str:
    """An error message of sentencepiece about the size, in plain words."""
    # sentencepiece has no error codes: its English messages tell the cases apart.
    few = re.search(r"required_chars\. \d+ vs (\d+)", message)
    if few:
        return (
            f"the size of a vocabulary of this text must be at least {few[1]}, its characters and "
            f"the {END + 1} marks; got {size}"
        )
    many = re.search(r"value <= (\d+)", message)
    if many:
        return (
            f"the size of a vocabulary of this text can be at most {many[1]}; got {size}: "
            "ask for fewer tokens, or give more text"
        )
    return f"sentencepiece cannot make {size} tokens from this text: {message}"
