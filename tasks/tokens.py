"""Copying and sorting of token sequences; an answer ends with an end mark."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from memnets.batches import BEGIN, END, MARKS, Batch, padded, unpadded, with_places
from memnets.checks import check_positive
from tasks.base import Array, Task, by_name, check_range, renamed
from tasks.limits import check_room

__all__ = ["MARKS", "CopyingTokens", "SortingTokens", "answer_batch", "answered_rows", "said"]

#: Number of lengths in a group, for the share of exact answers by length.
LENGTHS = 5
TEST_SETS = ((30, 200), (40, 200))


def answer_batch(
    source: Tensor, source_mask: Tensor | None, answers: Sequence[Sequence[int] | Array]
) -> Batch:
    """Make a batch whose answers are tokens.

    Args:
        source: ``[B, S]`` or ``[B, S, I]``.
        source_mask: bool ``[B, S]``, False = padding; ``None`` = no padding.
        answers: B sequences of tokens, without marks.

    Returns:
        The batch. Inputs are a begin mark, then the answer; targets are the answer, then an end
        mark, ``[B, T]``. Padding comes last.
    """
    inputs, _ = padded(answers, first=BEGIN)
    targets, target_mask = padded(answers, last=END)
    return Batch(source, inputs, targets, source_mask, target_mask)


def said(tokens: Tensor) -> list[int]:
    """Tokens of a row ``[T]`` up to its first end mark, with the mark."""
    row: list[int] = tokens.tolist()
    return row[: row.index(END) + 1] if END in row else row


def answered_rows(
    task: Task, split: str, answers: list[Tensor]
) -> list[tuple[Batch, int, list[int]]]:
    """Sequences of a test set with a model's answers.

    Args:
        task: a task whose answers are tokens.
        split: one of its test sets.
        answers: tokens ``[B, T]`` for each batch of the set, or for its first batches; tokens
            behind an end mark do not count.

    Returns:
        For each sequence its batch, its row in the batch, and the answer up to its end mark.

    Raises:
        ValueError: the number of answers is not the number of sequences.
    """
    batches = [task.batch(split, index) for index in range(min(len(answers), task.batches(split)))]
    rows = [(batch, row) for batch in batches for row in range(len(batch.targets))]
    given = [said(row) for answer in answers for row in answer]
    if len(given) != len(rows):
        raise ValueError(
            f"expected an answer to each of the {len(rows)} sequences of {split}; got {len(given)}"
        )
    return [(batch, row, tokens) for (batch, row), tokens in zip(rows, given, strict=True)]


class _TokenTask(Task):
    """Base class for tasks on sequences of random symbols.

    Args:
        symbols: number of symbols, at least 2; their tokens come after the four marks.
        min_length: length of the shortest sequence, at least 1.
        max_length: length of the longest sequence of training, validation and the test set
            ``test``.
        test_sets: further test sets, pairs (length, number of sequences), named ``length_<n>``.
        test_sequences: number of sequences in ``test``, with the lengths of training, at least 1.
        test_lengths: the old name of ``test_sets``.
        fewest_symbols: with a number, each sequence of training is drawn from a random run of
            neighbouring symbols, at least as many as this; short runs are as likely as long ones,
            by their logarithm. Then short sequences repeat symbols as long ones do. ``None`` = from
            all symbols, as those of validation and tests.
        settings: see :class:`~tasks.Task`.
    """

    def __init__(
        self,
        symbols: int = 26,
        min_length: int = 1,
        max_length: int = 20,
        test_sets: Sequence[tuple[int, int]] = TEST_SETS,
        test_sequences: int = 1000,
        test_lengths: Sequence[tuple[int, int]] | None = None,
        fewest_symbols: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        test_sets = renamed("test_lengths", test_lengths, "test_sets", test_sets, TEST_SETS)
        check_positive(test_sequences=test_sequences)
        if symbols < 2:
            raise ValueError(f"symbols must be at least 2; got {symbols}")
        if fewest_symbols is not None and not 1 <= fewest_symbols <= symbols:
            raise ValueError(
                f"fewest_symbols must be from 1 to symbols = {symbols}; got {fewest_symbols}"
            )
        check_range("length", min_length, max_length, least=1)
        for length, sequences in test_sets:
            check_positive(test_length=length, test_sequences=sequences)
        # Models have a row for each token, so the number of symbols is memory too.
        check_room("an embedding", symbols)
        self.check_room(
            max_length + 1,
            tested=[(test_sequences, max_length + 1), *((size, n + 1) for n, size in test_sets)],
        )
        self.symbols = symbols
        self.fewest_symbols = fewest_symbols
        self.min_length = min_length
        self.max_length = max_length
        self.test_sequences = test_sequences
        self.test_sets = by_name((f"length_{n}", (n, sequences)) for n, sequences in test_sets)
        self.input_size = self.output_size = symbols + END + 1

    def test_names(self) -> list[str]:
        """``test``, and ``length_<n>`` for each further length."""
        return ["test", *self.test_sets]

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or a test set."""
        random = self.random(split, index)
        if split in self.test_sets:
            length, size = self.test_sets[split]
            lengths: Array = np.full(size, length)
        else:
            size = self.sequences(split, self.test_sequences)
            lengths = random.integers(self.min_length, self.max_length + 1, (size,))
        # A source ends with the end mark, so that a model can tell its length.
        fewest = self.fewest_symbols if split == "train" else None
        sources = [self._sequence(random, length, fewest) for length in lengths]
        source, mask = padded(sources, last=END)
        batch = answer_batch(source, mask, [self.answer(tokens) for tokens in sources])
        coupled = [self.coupling(tokens) for tokens in sources]
        return with_places(batch, coupled, f"{type(self).__name__}.coupling")

    def _sequence(self, random: np.random.Generator, length: int, fewest: int | None) -> Array:
        """A random sequence of tokens, ``[length]``."""
        if fewest is None:
            return random.integers(END + 1, self.input_size, length)
        count = int(fewest * (self.symbols / fewest) ** random.random() + 0.5)
        first = END + 1 + int(random.integers(self.symbols - count + 1))
        return random.integers(first, first + count, length)

    @abstractmethod
    def answer(self, tokens: Array) -> Array:
        """The right answer to ``tokens`` ``[n]``, without marks."""

    def coupling(self, tokens: Array) -> tuple[Array, Array] | None:
        """Places of the tokens of the source and of the answer, with their end marks.

        A step of the answer has the place of the token that it is to say. ``None``, the default =
        the task gives no places.
        """
        return None

    def measure(self, split: str, answers: list[Tensor]) -> dict[str, float]:
        """Share of exact answers by the length of the sequence, for the set ``test``.

        Args:
            split: one of :meth:`test_names`.
            answers: tokens ``[B, T]`` for each batch of the set; tokens behind an end mark do not
                count.

        Returns:
            ``exact_length_1-5``, ``exact_length_6-10`` and so on up to ``max_length``, for groups
            with sequences. Empty for a set whose sequences have one length.

        Raises:
            ValueError: the number of answers is not the number of sequences.
        """
        if split in self.test_sets:
            return {}
        rows = answered_rows(self, split, answers)
        targets = [said(batch.targets[row]) for batch, row, _ in rows]
        exact = np.array(
            [tokens == target for (*_, tokens), target in zip(rows, targets, strict=True)]
        )
        # A target is as long as its source, and one longer with the end mark.
        lengths = np.array([len(target) - 1 for target in targets])
        scores = {}
        for low in range(0, self.max_length, LENGTHS):
            high = min(low + LENGTHS, self.max_length)
            within = (low < lengths) & (lengths <= high)
            if within.any():
                scores[f"exact_length_{low + 1}-{high}"] = float(exact[within].mean())
        return scores

    def labels(self, batch: Batch, row: int) -> tuple[list[str], list[str]]:
        """Numbers of the symbols, from 0, and names of the marks."""
        sides = (batch.source, batch.source_mask), (batch.targets, batch.target_mask)
        source, targets = (
            [MARKS.get(token, str(token - END - 1)) for token in unpadded(side, mask, row).tolist()]
            for side, mask in sides
        )
        return source, targets


class CopyingTokens(_TokenTask):
    """Copying: the answer is the sequence itself.

    A sequence has ``min_length`` to ``max_length`` of ``symbols`` symbols.
    """

    def answer(self, tokens: Array) -> Array:
        """The same tokens."""
        return tokens

    def coupling(self, tokens: Array) -> tuple[Array, Array]:
        """A token of the answer has the place of the token that it repeats; from 1 on."""
        places = np.arange(1, len(tokens) + 2)
        return places, places


class SortingTokens(_TokenTask):
    """Sorting: the answer is the sequence in rising order, repeated symbols included.

    A sequence has ``min_length`` to ``max_length`` of ``symbols`` symbols.
    """

    def answer(self, tokens: Array) -> Array:
        """The tokens in rising order."""
        return np.sort(tokens)
