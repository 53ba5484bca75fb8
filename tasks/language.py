"""Language modelling: each word of a sentence, after those before it."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memnets.batches import BEGIN, END, UNKNOWN, Batch, unpadded
from memnets.core import check_positive
from memnets.vocabulary import Words
from tasks.base import Task
from tasks.docstrings import sentences
from tasks.pairs import TokenPairs
from tasks.text import held_out, read_lines

__all__ = ["Language", "words_of"]

#: A word: letters and digits, with apostrophes and hyphens within; or any other sign but a space.
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*|[^\w\s]")

logger = logging.getLogger(__name__)


def words_of(text: str, lower: bool = True) -> list[str]:
    """Split a text into words.

    A word is a run of letters, digits and underscores, with single apostrophes and hyphens within.
    Every other sign but spaces, such as a full stop, is a word of its own.

    Args:
        text: the text.
        lower: whether capitals become small letters.
    """
    return _WORD.findall(text.lower() if lower else text)


class Language(Task):
    """Language modelling: the probability of each word of a sentence, after those before it.

    Sentences come from text files, one in each line, plain or ``.gz``, in UTF-8; or, without files,
    from the docstrings of Python's standard library (:mod:`tasks.docstrings`). A line is cut into
    words (:func:`words_of`); lines without words are left out and counted.

    The source is :data:`~memnets.batches.BEGIN` alone, ``[B, 1]``. Targets are the words of a
    sentence, then :data:`~memnets.batches.END`, ``[B, T]``. Inputs are ``BEGIN``, then the targets
    one step late. A word that the vocabulary does not have is ``UNKNOWN``; it counts in the
    perplexity as any other word, and so does the end mark. The vocabulary holds words of the
    training text. It is kept in checkpoints: a task restored from one needs no training text to
    read other text.

    Asked about lines of a user's own (:meth:`asked`), it gives the perplexity of each by words,
    ``exp(-log p / T)`` with the T words of the line and its end mark; with ``log_probabilities``
    the log probability of the line, ``log p``, in nats.

    Args:
        folder: folder of all files that are not absolute paths.
        train: files of the training; none = the docstrings.
        val: files of the validation. By default one in 20 of the different training sentences is
            held out, at least one and at most 1000, chosen by its text.
        test: files of the test; the default is as for ``val``.
        lower: whether capitals become small letters.
        least: fewest times that a word must come in the training text to have a token, at least 1.
            With 1 a model never sees an unknown word in training, and cannot know how likely one
            is.
        vocabulary_size: most tokens of the vocabulary, with the four marks; the most frequent words
            stay. The size of the model follows from those that there are.
        batch_tokens: most tokens of a batch, with padding and a mark for each sentence. A longer
            sentence of validation or test is a batch of its own.
        max_words: most words of a training sentence, with the end mark; longer ones are left out
            and counted.
        log_probabilities: whether :meth:`says` gives log probabilities in place of perplexities.
        epoch_batches: number of training batches between two validations; by default those of a
            pass over the data.
        validation_batches: number of batches of a validation; all by default.
        workers: number of processes that make batches ahead of time, see :class:`~tasks.Task`.
        seed: seed of the order of the training data; on the command line it follows
            ``seed_everything``.

    Attributes:
        skipped: number of sentences left out so far, by reason.

    Raises:
        ValueError: a setting is out of its range.
    """

    def __init__(
        self,
        folder: str = ".",
        train: list[str] | str | None = None,
        val: list[str] | str | None = None,
        test: list[str] | str | None = None,
        lower: bool = True,
        least: int = 2,
        vocabulary_size: int = 20_000,
        batch_tokens: int = 1500,
        max_words: int = 100,
        log_probabilities: bool = False,
        epoch_batches: int | None = None,
        validation_batches: int | None = None,
        workers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            epoch_batches=1 if epoch_batches is None else epoch_batches,
            validation_batches=1 if validation_batches is None else validation_batches,
            workers=workers,
            seed=seed,
        )
        check_positive(
            least=least,
            vocabulary_size=vocabulary_size,
            batch_tokens=batch_tokens,
            max_words=max_words,
        )
        if vocabulary_size <= END + 1:
            raise ValueError(
                f"vocabulary_size must be above {END + 1}, the number of its marks; "
                f"got {vocabulary_size}"
            )
        if batch_tokens <= max_words:
            raise ValueError(
                "batch_tokens must be above max_words, so that a batch holds the longest "
                f"sentence; got {batch_tokens} and {max_words}"
            )
        self.paths = {
            split: [
                str(Path(folder, path))
                for path in ([paths] if isinstance(paths, str) else paths or ())
            ]
            for split, paths in (("train", train), ("val", val), ("test", test))
        }
        self.lower = lower
        self.least = least
        self.vocabulary_size = vocabulary_size
        self.batch_tokens = batch_tokens
        self.max_words = max_words
        self.log_probabilities = log_probabilities
        self.whole_pass = epoch_batches is None
        self.whole_validation = validation_batches is None
        self.skipped: dict[str, int] = {}
        self._vocabulary: Words | None = None
        self._sentences: dict[str, list[list[str]]] = {}
        self._encoded: dict[str, TokenPairs] = {}

    @property
    def input_size(self) -> int:  # type: ignore[override]
        """Number of tokens of the vocabulary."""
        return len(self.vocabulary)

    @property
    def output_size(self) -> int:  # type: ignore[override]
        """Number of tokens of the vocabulary."""
        return len(self.vocabulary)

    @property
    def vocabulary(self) -> Words:
        """The vocabulary: that of a checkpoint, or words of the training text.

        Raises:
            ValueError: the training text cannot be read.
        """
        if self._vocabulary is None:
            train = self.sentences("train")
            self._vocabulary = Words.of(train, self.least, self.vocabulary_size)
        return self._vocabulary

    def test_names(self) -> list[str]:
        """``test``."""
        return ["test"]

    def sentences(self, split: str) -> list[list[str]]:
        """Words of each sentence of ``train``, ``val`` or ``test``, in their order.

        Raises:
            ValueError: a file is missing, empty, damaged or not in UTF-8, or has no words.
        """
        if split not in self._sentences:
            if split != "train" and self.paths[split]:
                self._sentences[split] = self._read(split)[1]
            else:
                self._share_out()
        return self._sentences[split]

    def _share_out(self) -> None:
        """Read the training text, and hold out sentences for the sets without files."""
        lines, words = self._read("train")
        missing = [name for name in ("val", "test") if not self.paths[name]]
        where = ", ".join(self.paths["train"]) or "the docstrings"
        place = held_out(lines, missing, where) if missing else {}
        for name in ("train", *missing):
            self._sentences[name] = []
        for line, each in zip(lines, words, strict=True):
            self._sentences[place.get(line, "train")].append(each)

    def _read(self, split: str) -> tuple[list[str], list[list[str]]]:
        """The lines of a split that have words, and their words."""
        read: list[tuple[str, Sequence[str]]]
        read = [(path, read_lines(path)) for path in self.paths[split]]
        lines: list[str] = []
        words: list[list[str]] = []
        for path, there in read or [("the docstrings", sentences())]:
            before = len(words)
            for line in there:
                if found := words_of(line, self.lower):
                    lines.append(line)
                    words.append(found)
            count = len(words) - before
            if not count:
                raise ValueError(f"expected text in {path}; no line has words")
            self._skip(f"without words in {path}", len(there) - count)
        return lines, words

    def _skip(self, reason: str, count: int) -> None:
        if count:
            self.skipped[reason] = count
            logger.warning("sentences left out: %d, %s", count, reason)

    def _pairs(self, split: str) -> TokenPairs:
        """Tokens of a split, made at the first call."""
        if split not in self._encoded:
            limit = self.max_words if split == "train" else None
            pairs = TokenPairs(
                [([BEGIN], self._tokens(words)) for words in self.sentences(split)],
                self.batch_tokens,
                limit,
            )
            self._skip(f"more than {limit} words in {split}", pairs.skipped)
            if not len(pairs.kept):
                raise ValueError(
                    f"expected sentences of at most max_words={limit} words to train on; "
                    f"all {pairs.skipped} have more"
                )
            self._encoded[split] = pairs
        return self._encoded[split]

    def _tokens(self, words: Sequence[str]) -> list[int]:
        return [*self.vocabulary.encode(words), END]

    def batches(self, split: str) -> int:
        """See :meth:`~tasks.Task.batches`; by default those of a pass over the data."""
        if split == "train" and not self.whole_pass:
            return self.epoch_batches
        number = self._pairs(split).batches
        if split == "val" and not self.whole_validation:
            return min(number, self.validation_batches)
        return number

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or ``test``.

        Raises:
            IndexError: validation or test has no such batch.
        """
        pairs = self._pairs(split)
        return pairs.batch(pairs.rows(self, split, index))

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint: the vocabulary."""
        return {"vocabulary": self.vocabulary.to_tensor()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the vocabulary of a checkpoint.

        Raises:
            ValueError: it is missing or damaged.
        """
        if "vocabulary" not in state_dict:
            raise ValueError("expected a checkpoint with the vocabulary of a text; got none")
        self._vocabulary = Words.from_tensor(state_dict["vocabulary"])
        # Tokens of another vocabulary would not be those of the checkpoint's model.
        self._encoded.clear()

    def labels(self, batch: Batch, row: int) -> tuple[list[str], list[str]]:
        """Words and names of marks of the source and of the targets."""
        sides = (batch.source, batch.source_mask), (batch.targets, batch.target_mask)
        source, targets = (
            [self.vocabulary.name(token) for token in unpadded(side, mask, row).tolist()]
            for side, mask in sides
        )
        return source, targets

    def notes(self) -> list[str]:
        """The share of unknown words among the words of the test, with the end marks."""
        tokens = self._pairs("test").targets.tokens
        unknown = int((tokens == UNKNOWN).sum())
        return [
            f"{len(tokens)} words with end marks, {unknown} of them unknown; "
            f"a vocabulary of {len(self.vocabulary)} words and marks"
        ]

    def asked(self, items: Sequence[str], first: int = 1) -> Batch:
        """A batch of a user's own sentences, whose words are its targets; see :class:`Language`.

        Raises:
            ValueError: a sentence has no words.
        """
        words = [words_of(line, self.lower) for line in items]
        for number, each in enumerate(words, first):
            if not each:
                raise ValueError(f"item {number}: expected a sentence; got one without words")
        pairs = TokenPairs([([BEGIN], self._tokens(each)) for each in words], self.batch_tokens)
        return pairs.batch(pairs.kept)

    def says(self, batch: Batch, answers: Tensor) -> list[str]:
        """The perplexity of each sentence by words, or its log probability in nats.

        Args:
            batch: the result of :meth:`asked`.
            answers: the log probability of each word and of the end mark, ``[B, T]``.
        """
        mask = batch.target_mask
        logs = answers.double() if mask is None else answers.double().masked_fill(~mask, 0)
        counts = [answers.shape[1]] * len(answers) if mask is None else mask.sum(1).tolist()
        return [
            f"{total if self.log_probabilities else math.exp(-total / count):.6g}"
            for total, count in zip(logs.sum(1).tolist(), counts, strict=True)
        ]

    def beginning(self, text: str) -> Tensor:
        """Tokens of the beginning of a sentence, ``[1, P]``, to go on from.

        :func:`memnets.decoding.sample` takes them as ``begun``, with a source of ``BEGIN`` alone.
        """
        return torch.tensor([self.vocabulary.encode(words_of(text, self.lower))]).long()

    def text(self, tokens: Tensor | Iterable[int]) -> str:
        """Words of tokens up to the first end mark, with spaces between them."""
        return " ".join(self.vocabulary.decode(map(int, tokens)))
