"""Language modelling: each word of a sentence, after those before it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from memnets.batches import BEGIN, END, UNKNOWN, Batch, unpadded
from memnets.checks import check_positive
from memnets.vocabulary import Words
from tasks.base import check_texts
from tasks.docstrings import sentences
from tasks.lines import Mapped, Rows, open_lines, sampled
from tasks.pairs import HeldPairs, PairsTask, TokenPairs
from tasks.sets import Rule, divided, paths_of

__all__ = ["Language", "words_of"]

#: A word: letters and digits, with apostrophes and hyphens within; or any other sign but a space.
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*|[^\w\s]")


def words_of(text: str, lower: bool = True) -> list[str]:
    """Split a text into words.

    A word is a run of letters, digits and underscores, with single apostrophes and hyphens within.
    Every other sign but spaces, such as a full stop, is a word of its own.

    Args:
        text: the text.
        lower: whether capitals become small letters.
    """
    return _WORD.findall(text.lower() if lower else text)


class Language(PairsTask):
    """Language modelling: the probability of each word of a sentence, after those before it.

    Sentences come from text files, one in each line, plain or ``.gz``, in UTF-8, of any size; or,
    without files, from the docstrings of Python's standard library (:mod:`tasks.docstrings`). A
    line is cut into words (:func:`words_of`); lines without words are left out and counted.

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
        vocabulary_sample: most training sentences whose words are counted for the vocabulary; of
            more, so many are drawn, always the same ones.
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

    about = "a text"

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
        vocabulary_sample: int = 1_000_000,
    ) -> None:
        super().__init__(
            batch_tokens=batch_tokens,
            epoch_batches=epoch_batches,
            validation_batches=validation_batches,
            workers=workers,
            seed=seed,
        )
        check_positive(
            least=least,
            vocabulary_size=vocabulary_size,
            batch_tokens=batch_tokens,
            max_words=max_words,
            vocabulary_sample=vocabulary_sample,
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
        self.paths = paths_of(folder, train=train, val=val, test=test)
        self.lower = lower
        self.least = least
        self.vocabulary_size = vocabulary_size
        self.vocabulary_sample = vocabulary_sample
        self.max_words = max_words
        self.log_probabilities = log_probabilities
        self._vocabulary: Words | None = None
        self._lines: dict[str, Sequence[str]] = {}

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
            lines = sampled(self.lines("train"), self.vocabulary_sample)
            words = (words_of(line, self.lower) for line in lines)
            self._vocabulary = Words.of(words, self.least, self.vocabulary_size)
        return self._vocabulary

    def vocabularies(self) -> list[Words]:
        """The :attr:`vocabulary`."""
        return [self.vocabulary]

    def restore(self, tensors: list[Tensor]) -> None:
        """See :meth:`~tasks.sets.FixedSets.restore`."""
        self._vocabulary = Words.from_tensor(tensors[0])
        self._encoded.clear()

    def lines(self, split: str) -> Sequence[str]:
        """Sentences of ``train``, ``val`` or ``test`` as they are written, in their order.

        Raises:
            ValueError: a file is missing, empty, damaged or not in UTF-8, or has no words.
        """
        if split not in self._lines:
            if split != "train" and self.paths[split]:
                self._lines[split] = self._read(split, [])["train"]
            else:
                missing = [name for name in ("val", "test") if not self.paths[name]]
                self._lines.update(self._read("train", missing))
        return self._lines[split]

    def sentences(self, split: str) -> Sequence[list[str]]:
        """Words of each of the :meth:`lines`; see there."""
        lines, cut = self.lines(split), partial(_words_at, self.lower)
        if isinstance(lines, Rows):
            return Mapped(lines, cut, f"words {self.lower}")
        return [cut(number, line) for number, line in enumerate(lines)]

    def _read(self, split: str, missing: list[str]) -> dict[str, Sequence[str]]:
        """The lines of files that have words; some are held out for sets without files."""
        paths = self.paths[split]
        if paths:
            parts = list(zip(paths, open_lines(*paths), strict=True))
        else:
            parts = [("the docstrings", sentences())]
        sets, skipped = divided(parts, missing, str, WITHOUT_WORDS)
        for reason, count in skipped.items():
            self.skip(reason, count)
        return sets

    def encoded(self, split: str) -> TokenPairs:
        """See :meth:`~tasks.pairs.PairsTask.encoded`."""
        limit = self.max_words if split == "train" else None
        # The lengths are those of the words, whatever the vocabulary.
        pairs = self.cut(
            self.lines(split),
            partial(_tokens, self.vocabulary, self.lower),
            f"words {self.lower}",
            limit,
        )
        self.skip(f"more than {limit} words in {split}", pairs.skipped)
        if not pairs.cuts[-1]:
            raise ValueError(
                f"expected sentences of at most max_words={limit} words to train on; "
                f"all {pairs.skipped} have more"
            )
        return pairs

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
        words, unknown = self.token_pairs("test").count(UNKNOWN)
        return [
            f"{words} words with end marks, {unknown} of them unknown; "
            f"a vocabulary of {len(self.vocabulary)} words and marks"
        ]

    def asked(self, items: Sequence[str], first: int = 1) -> Batch:
        """A batch of a user's own sentences, whose words are its targets; see :class:`Language`.

        Raises:
            ValueError: a sentence has no words.
        """
        check_texts(items, first, "a sentence")
        for number, line in enumerate(items, first):
            if not words_of(line):
                raise ValueError(f"item {number}: expected a sentence; got one without words")
        pairs = HeldPairs(_tokens(self.vocabulary, self.lower, items), self.batch_tokens)
        return pairs.batch(np.arange(len(items)))

    def says(self, batch: Batch, answers: Tensor) -> list[str]:
        """The perplexity of each sentence by words, or its log probability in nats.

        Args:
            batch: the result of :meth:`asked`.
            answers: the log probability of each word and of the end mark, ``[B, T]``.
        """
        return likelihoods(batch, answers, self.log_probabilities)

    def beginning(self, text: str) -> Tensor:
        """Tokens of the beginning of a sentence, ``[1, P]``, to go on from.

        :func:`memnets.decoding.sample` takes them as ``begun``, with a source of ``BEGIN`` alone.
        """
        return torch.tensor([self.vocabulary.encode(words_of(text, self.lower))]).long()

    def text(self, tokens: Tensor | Iterable[int]) -> str:
        """Words of tokens up to the first end mark, with spaces between them."""
        return " ".join(self.vocabulary.decode(map(int, tokens)))


def likelihoods(batch: Batch, answers: Tensor, logs: bool = False) -> list[str]:
    """Say how likely sentences are.

    Args:
        batch: a batch of sentences, its targets.
        answers: the log probability of each target, ``[B, T]``.
        logs: whether to give the log probability of a sentence in nats, not its perplexity.

    Returns:
        For each sentence its perplexity by words, with the end mark.
    """
    mask = batch.target_mask
    found = answers.double() if mask is None else answers.double().masked_fill(~mask, 0)
    counts = [answers.shape[1]] * len(answers) if mask is None else mask.sum(1).tolist()
    return [
        f"{total if logs else math.exp(-total / count):.6g}"
        for total, count in zip(found.sum(1).tolist(), counts, strict=True)
    ]


def _words_at(lower: bool, number: int, line: str) -> list[str]:
    return words_of(line, lower)


def _judged(line: str) -> int:
    """0 for a line without words, -1 for others."""
    return -1 if _WORD.search(line) else 0


#: The rule by which lines are left out.
WITHOUT_WORDS = Rule(_judged, ("without words",), "expected text in {}; no line has words")


def _tokens(
    vocabulary: Words, lower: bool, lines: Sequence[str]
) -> Iterator[tuple[list[int], list[int]]]:
    """Tokens of each line, behind those of its source."""
    for line in lines:
        yield [BEGIN], [*vocabulary.encode(words_of(line, lower)), END]
