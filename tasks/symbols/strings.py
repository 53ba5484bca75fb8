"""Tasks on strings that need a stack or a tape (Deletang et al. 2023, table 1)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.base import Array
from tasks.symbols.base import SymbolTask

__all__ = [
    "BucketSorting",
    "Duplicating",
    "MissingDuplicate",
    "OddsFirst",
    "Repeating",
    "Reversal",
    "StackManipulation",
]

_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"


class _StringTask(SymbolTask):
    """Base class for tasks on strings of any symbols.

    Args:
        symbols: number of symbols, from 2 to 36.
        settings: see :class:`~tasks.symbols.SymbolTask`.
    """

    def __init__(self, symbols: int = 2, **settings: Any) -> None:
        if not 2 <= symbols <= len(_LETTERS):
            raise ValueError(f"symbols must be from 2 to {len(_LETTERS)}; got {symbols}")
        self.alphabet = _LETTERS[:symbols]
        super().__init__(**settings)


class Repeating(_StringTask):
    """Copying: the answer is the string."""

    def answer(self, question: Array) -> Array:
        """The same symbols."""
        return question


class Reversal(_StringTask):
    """Reversal: the answer is the string from its end to its start."""

    def answer(self, question: Array) -> Array:
        """The symbols in reverse."""
        return np.flip(question)


class Duplicating(_StringTask):
    """Duplication: the answer is the string twice."""

    def answer(self, question: Array) -> Array:
        """The symbols twice."""
        return np.concatenate([question, question])


class OddsFirst(_StringTask):
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


class MissingDuplicate(SymbolTask):
    """Missing duplicate: a string twice, with one symbol missing; the answer is that symbol.

    ``_`` stands for the missing symbol; a question of odd length ends with ``.``, which means
    nothing. ``0110_110.`` gives 0.
    """

    alphabet = "01_."
    answers = "01"
    shortest = 2

    def question(self, random: np.random.Generator, length: int) -> Array:
        """A string twice, with one symbol missing."""
        string = random.integers(2, size=length // 2)
        question: Array = np.concatenate([string, string, np.full(length % 2, 3)])
        question[random.integers(2 * len(string))] = 2
        return question

    def answer(self, question: Array) -> Array:
        """The missing symbol.

        Raises:
            ValueError: the question is no string twice with one symbol missing.
        """
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
