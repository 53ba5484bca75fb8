"""Tasks on strings that need a stack, a tape or a queue; many of Deletang et al. 2023."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from memnets.checks import check_positive
from tasks.base import Array, by_name
from tasks.symbols.base import Example, SymbolTask

__all__ = [
    "BucketSorting",
    "Duplicating",
    "MissingDuplicate",
    "OddsFirst",
    "PrioritySorting",
    "RepeatCopying",
    "Repeating",
    "Reversal",
    "StackManipulation",
]

_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"


def _letters(symbols: int) -> str:
    """Names of some symbols.

    Raises:
        ValueError: there are not so many.
    """
    if not 2 <= symbols <= len(_LETTERS):
        raise ValueError(f"symbols must be from 2 to {len(_LETTERS)}; got {symbols}")
    return _LETTERS[:symbols]


class _StringTask(SymbolTask):
    """Base class for tasks on strings of any symbols.

    Args:
        symbols: number of symbols, from 2 to 36.
        settings: see :class:`~tasks.symbols.SymbolTask`.
    """

    def __init__(self, symbols: int = 2, **settings: Any) -> None:
        self.alphabet = _letters(symbols)
        super().__init__(**settings)


class _Moving(_StringTask):
    """Base class for tasks whose answer is made of the symbols of the question, moved."""

    def coupling(self, question: Array) -> tuple[Array, Array]:
        """A symbol of the answer has the place of the symbol that it was; see ``SymbolTask``."""
        own = np.arange(1, len(question) + 1)
        return own, self.answer(own)


class Repeating(_Moving):
    """Copying: the answer is the string."""

    def answer(self, question: Array) -> Array:
        """The same symbols."""
        return question


class Reversal(_Moving):
    """Reversal: the answer is the string from its end to its start."""

    def answer(self, question: Array) -> Array:
        """The symbols in reverse."""
        return np.flip(question)


class Duplicating(_Moving):
    """Duplication: the answer is the string twice."""

    def answer(self, question: Array) -> Array:
        """The symbols twice."""
        return np.concatenate([question, question])


class OddsFirst(_Moving):
    """Odds first: the symbols at odd places, then those at even places.

    Places are counted from 0, as in the code of Deletang et al.: ``00110101`` gives ``0111 0100``.
    """

    def answer(self, question: Array) -> Array:
        """The symbols in another order."""
        return np.concatenate([question[1::2], question[::2]])


class BucketSorting(_StringTask):
    """Bucket sorting: the symbols in rising order.

    Args:
        symbols: number of symbols, from 2 to 36.
        settings: see :class:`~tasks.symbols.SymbolTask`.
    """

    def __init__(self, symbols: int = 5, **settings: Any) -> None:
        super().__init__(symbols, **settings)

    def answer(self, question: Array) -> Array:
        """The symbols in rising order."""
        ordered: Array = np.sort(question)
        return ordered


class RepeatCopying(SymbolTask):
    """Repeat copy: a string and a number of marks ``*``; the string as often, then an end mark.

    ``011**`` gives ``011011.``. Numbers are written one mark for each, so that a model can be asked
    for more repetitions than it has ever seen. After Graves et al. 2014, section 4.2, where the
    number is an input of its own.

    Args:
        symbols: number of symbols, from 2 to 36.
        max_repeats: most repetitions, at least 1; each number is as likely, as far as there is room
            for a symbol beside the marks.
        test_repeats: further test sets, pairs (repetitions, number of questions), named
            ``repeats_<n>``: strings of ``max_length - max_repeats`` symbols.
        settings: see :class:`~tasks.symbols.SymbolTask`; a length counts the marks too.

    Raises:
        ValueError: a setting is out of its range.
    """

    shortest = 2

    def __init__(
        self,
        symbols: int = 2,
        max_repeats: int = 5,
        test_repeats: Sequence[tuple[int, int]] = (),
        **settings: Any,
    ) -> None:
        letters = _letters(symbols)
        check_positive(max_repeats=max_repeats)
        for repeats, questions in test_repeats:
            check_positive(test_repeats=repeats, test_questions=questions)
        self.alphabet, self.answers = letters + "*", letters + "."
        self.max_repeats = max_repeats
        super().__init__(**settings)
        self.repeats_by_name = by_name((f"repeats_{n}", n) for n, _ in test_repeats)
        if test_repeats and self.max_length <= max_repeats:
            raise ValueError(
                "max_length must be above max_repeats, for strings of the sets of test_repeats; "
                f"got {self.max_length} and {max_repeats}"
            )
        size = self.max_length - max_repeats
        self.check_room(
            self.longest_answer(self.max_length),
            tested=[(questions, repeats * size + 1) for repeats, questions in test_repeats],
        )
        self.test_sets.update(
            {f"repeats_{n}": (size + n, questions) for n, questions in test_repeats}
        )

    def longest_answer(self, length: int) -> int:
        """Most symbols of an answer, with its end mark."""
        repeats = min(self.max_repeats, max(1, length // 2))
        return repeats * max(1, length - repeats) + 1

    def question(self, random: np.random.Generator, length: int) -> Array:
        """A string, then the marks."""
        most = min(self.max_repeats, length - 1)
        return self._asked(random, length, int(random.integers(1, most + 1)))

    def _asked(self, random: np.random.Generator, length: int, repeats: int) -> Array:
        mark = len(self.alphabet) - 1
        string = random.integers(mark, size=length - repeats)
        return np.concatenate([string, np.full(repeats, mark)])

    def example(self, random: np.random.Generator, length: int, split: str) -> Example:
        """A question with its answer; in a set of its own, with another number of repetitions."""
        repeats = self.repeats_by_name.get(split)
        if repeats is None:
            return super().example(random, length, split)
        question = self._asked(random, length, repeats)
        return Example(question, self.answer(question))

    def answer(self, question: Array) -> Array:
        """The string as often as there are marks, then the end mark.

        Raises:
            ValueError: the question is not a string and one mark or more behind it.
        """
        mark = len(self.alphabet) - 1
        repeats = np.count_nonzero(question == mark)
        string = question[: len(question) - repeats]
        if not repeats or not len(string) or (string == mark).any():
            raise ValueError("expected a string, then one * or more; got another")
        return np.append(np.tile(string, repeats), mark)


class PrioritySorting(SymbolTask):
    """Priority sort: pairs of a priority and a symbol; the symbols, the highest priority first.

    ``3b 1a 7b`` gives ``b b a``, the symbols of 7, 3 and 1; of equal priorities the first comes
    first. A length that is odd is taken one less. After Graves et al. 2014, section 4.5, where
    priorities are numbers in ``[-1, 1]``.

    Args:
        symbols: number of symbols, from 2 to 26, named by letters.
        priorities: number of priorities, from 2 to 10, named by digits.
        settings: see :class:`~tasks.symbols.SymbolTask`; a pair counts as two steps.

    Raises:
        ValueError: a setting is out of its range.
    """

    shortest = 2

    def __init__(self, symbols: int = 4, priorities: int = 10, **settings: Any) -> None:
        if not 2 <= symbols <= len(_LETTERS) - 10:
            raise ValueError(f"symbols must be from 2 to {len(_LETTERS) - 10}; got {symbols}")
        if not 2 <= priorities <= 10:
            raise ValueError(f"priorities must be from 2 to 10; got {priorities}")
        self.priorities = priorities
        self.answers = _LETTERS[10 : 10 + symbols]
        self.alphabet = _LETTERS[:priorities] + self.answers
        super().__init__(**settings)

    def question(self, random: np.random.Generator, length: int) -> Array:
        """Pairs of a priority and a symbol."""
        pairs = length // 2
        priorities = random.integers(self.priorities, size=pairs)
        symbols = random.integers(self.priorities, len(self.alphabet), size=pairs)
        return np.stack([priorities, symbols], 1).reshape(-1)

    def answer(self, question: Array) -> Array:
        """The symbols, the highest priority first.

        Raises:
            ValueError: the question is not pairs of a priority and a symbol.
        """
        pairs = question.reshape(-1, 2) if len(question) % 2 == 0 else np.empty((0, 2), np.int64)
        is_priority = pairs < self.priorities
        if not len(pairs) or not is_priority[:, 0].all() or is_priority[:, 1].any():
            raise ValueError("expected pairs of a priority, a digit, and a symbol, a letter")
        symbols: Array = pairs[np.argsort(-pairs[:, 0], kind="stable"), 1]
        return symbols - self.priorities


class MissingDuplicate(SymbolTask):
    """Missing duplicate: a string twice, with one symbol missing; the answer is that symbol.

    ``_`` stands for the missing symbol; a question of odd length ends with ``.``, which means
    nothing. ``0110_110.`` gives 0. The one question of length 1 is ``1``, and 1 its answer, as in
    the code of Deletang et al.
    """

    alphabet = "01_."
    answers = "01"

    def question(self, random: np.random.Generator, length: int) -> Array:
        """A string twice, with one symbol missing."""
        if length == 1:
            return np.ones(1, np.int64)
        string = random.integers(2, size=length // 2)
        question: Array = np.concatenate([string, string, np.full(length % 2, 3)])
        question[random.integers(2 * len(string))] = 2
        return question

    def answer(self, question: Array) -> Array:
        """The missing symbol.

        Raises:
            ValueError: the question is no string twice with one symbol missing.
        """
        if question.tolist() == [1]:
            return np.ones(1, np.int64)
        string = question[:-1] if question[-1] == 3 else question
        half = len(string) // 2
        twice = string.reshape(2, half) if len(string) == 2 * half else np.empty((2, 0), int)
        missing = (twice == 2).sum() == 1 and (twice != 3).all()
        if not missing or ((twice[0] != twice[1]) & (twice != 2).all(0)).any():
            raise ValueError("expected a string twice, with _ for one of its symbols; got another")
        # The symbol is the lesser of the two, since the mark has a greater number.
        answer: Array = twice.min(0)[(twice == 2).any(0)]
        return answer


class StackManipulation(SymbolTask):
    """Stack manipulation: a stack from bottom to top, then ``p`` to pop, ``a`` and ``b`` to push.

    The answer is the stack from top to bottom, then an end mark, ``.``. To pop an empty stack does
    nothing. ``a`` pushes 0 and ``b`` pushes 1: ``0110bpp`` gives ``110.``.
    """

    alphabet = "01pab"
    answers = "01."

    def question(self, random: np.random.Generator, length: int) -> Array:
        """A stack of at least one symbol, and at least one action if there is room for it."""
        size = int(random.integers(1, length)) if length > 1 else 1
        return np.concatenate(
            [random.integers(2, size=size), random.integers(2, 5, size=length - size)]
        )

    def answer(self, question: Array) -> Array:
        """The stack from top to bottom, and the end mark."""
        stack: list[int] = []
        for symbol in question.tolist():
            if symbol == 2:
                del stack[-1:]
            else:
                stack.append(symbol % 3)
        return np.array([*stack[::-1], 2])
