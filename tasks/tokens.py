"""Copy and sort of token sequences: the answer is said token by token, and then ended."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from memnets.core import BEGIN, END, PAD, UNKNOWN, Batch, check_positive, pad_tokens
from tasks.base import Task, check_range

__all__ = ["CopyingTokens", "SortingTokens", "token_batch"]

Array = np.ndarray[Any, Any]

#: Exactness is also given for sequences of so many lengths at a time.
LENGTHS = 5
MARKS = {PAD: "pad", UNKNOWN: "unknown", BEGIN: "begin", END: "end"}


def token_batch(sources: Sequence[Array], answers: Sequence[Array]) -> Batch:
    """A batch of token sequences.

    Args:
        sources: B arrays of tokens, without marks.
        answers: B arrays of tokens, without marks.

    Returns:
        The sources with an end mark, ``[B, S]``; as inputs the answers after a begin mark and as
        targets the answers before an end mark, ``[B, T]``; padding at the end, with masks where
        there is any.
    """
    source, source_mask = pad_tokens([[*tokens, END] for tokens in sources])
    inputs, _ = pad_tokens([[BEGIN, *tokens] for tokens in answers])
    targets, target_mask = pad_tokens([[*tokens, END] for tokens in answers])
    return Batch(source, inputs, targets, source_mask, target_mask)


class _TokenTask(Task):
    """Random symbols; what is to be answered, a subclass says.

    Args:
        symbols: how many symbols there are, at least 2; their tokens come after the four marks.
        min_length: shortest sequence, at least 1.
        max_length: longest sequence of training, validation and the test set ``test``.
        test_lengths: pairs (length, sequences): further test sets, named ``length_<n>``.
        test_sequences: in ``test``, as long as those of training, at least 1.
        settings: see :class:`~tasks.Task`.
    """

    def __init__(
        self,
        symbols: int = 26,
        min_length: int = 1,
        max_length: int = 20,
        test_lengths: Sequence[tuple[int, int]] = ((30, 200), (40, 200)),
        test_sequences: int = 1000,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_positive(test_sequences=test_sequences)
        if symbols < 2:
            raise ValueError(f"symbols must be at least 2; got {symbols}")
        check_range("length", min_length, max_length, least=1)
        for length, sequences in test_lengths:
            check_positive(test_length=length, test_sequences=sequences)
        self.symbols = symbols
        self.min_length = min_length
        self.max_length = max_length
        self.test_sequences = test_sequences
        self.test_sets = {f"length_{n}": (n, sequences) for n, sequences in test_lengths}
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
            sizes = {"train": self.batch_size, "test": self.test_sequences}
            size = sizes.get(split, self.validation_batch_size)
            lengths = random.integers(self.min_length, self.max_length + 1, (size,))
        sources = [random.integers(END + 1, self.input_size, length) for length in lengths]
        return token_batch(sources, [self.answer(tokens) for tokens in sources])

    @abstractmethod
    def answer(self, tokens: Array) -> Array:
        """What is to be answered to ``tokens`` ``[n]``."""

    def measure(self, split: str, answers: list[Tensor]) -> dict[str, float]:
        """Of the set ``test``, how many answers are exact, by the length of the sequence.

        Args:
            split: one of :meth:`test_names`.
            answers: tokens ``[B, T]`` for each batch of the set; what follows an end mark is not
                read.

        Returns:
            ``exact_length_1-5``, ``exact_length_6-10`` and so on up to ``max_length``: the share of
            right answers to sequences of such lengths, where there are any. Nothing for a set whose
            sequences have one length.

        Raises:
            ValueError: there is not an answer for each sequence.
        """
        if split in self.test_sets:
            return {}
        targets = [
            _said(row)
            for index in range(self.batches(split))
            for row in self.batch(split, index).targets
        ]
        given = [_said(row) for answer in answers for row in answer]
        if len(given) != len(targets):
            raise ValueError(
                f"expected an answer to each of the {len(targets)} sequences of {split}; "
                f"got {len(given)}"
            )
        exact = np.array([ours == theirs for ours, theirs in zip(given, targets, strict=True)])
        lengths = np.array([len(target) - 1 for target in targets])
        scores = {}
        for low in range(0, self.max_length, LENGTHS):
            high = min(low + LENGTHS, self.max_length)
            within = (low < lengths) & (lengths <= high)
            if within.any():
                scores[f"exact_length_{low + 1}-{high}"] = float(exact[within].mean())
        return scores

    def labels(self, batch: Batch, row: int) -> tuple[list[str], list[str]]:
        """Symbols by their number, from 0; the marks by their names."""
        sides = (batch.source, batch.source_mask), (batch.targets, batch.target_mask)
        source, targets = (
            [
                MARKS.get(token, str(token - END - 1))
                for token in (side[row] if mask is None else side[row][mask[row]]).tolist()
            ]
            for side, mask in sides
        )
        return source, targets


def _said(row: Tensor) -> list[int]:
    """The tokens up to the first end mark, the mark included."""
    tokens: list[int] = row.tolist()
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


class CopyingTokens(_TokenTask):
    """See symbols, say them again.

    Args:
        symbols: how many symbols there are, at least 2; their tokens come after the four marks.
        min_length: shortest sequence, at least 1.
        max_length: longest sequence of training, validation and the test set ``test``.
        test_lengths: pairs (length, sequences): further test sets, named ``length_<n>``.
        test_sequences: in ``test``, as long as those of training, at least 1.
        settings: see :class:`~tasks.Task`.
    """

    def answer(self, tokens: Array) -> Array:
        """The same."""
        return tokens


class SortingTokens(_TokenTask):
    """See symbols, say them in order, each as often as it came.

    Args:
        symbols: how many symbols there are, at least 2; their tokens come after the four marks.
        min_length: shortest sequence, at least 1.
        max_length: longest sequence of training, validation and the test set ``test``.
        test_lengths: pairs (length, sequences): further test sets, named ``length_<n>``.
        test_sequences: in ``test``, as long as those of training, at least 1.
        settings: see :class:`~tasks.Task`.
    """

    def answer(self, tokens: Array) -> Array:
        """In rising order."""
        return np.sort(tokens)
