"""Tasks on binary numbers (Deletang et al. 2023, table 1)."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np

from tasks.base import Array
from tasks.symbols.base import SymbolTask

__all__ = ["BinaryAddition", "BinaryMultiplication", "SquareRoots"]


class _TwoNumbers(SymbolTask):
    """Base class for tasks on two binary numbers, of at least one bit each.

    Numbers are written from the lowest bit on, with an operator between them. The answer has no
    zeros behind its highest bit; an end mark, ``.``, comes last. How the bits are shared out to the
    two numbers is drawn, each share as likely; a number is at least 1. One or two symbols have no
    room for an operator: they are a number, not all ones, which is its own result. So it is in the
    code of Deletang et al.
    """

    answers = "01."

    def question(self, random: np.random.Generator, length: int) -> Array:
        """Two numbers with the operator between them, or a number of one or two bits."""
        if length < 3:
            number = int(random.integers(2**length - 1))
            return np.array([number >> bit & 1 for bit in range(length)])
        first = int(random.integers(1, length - 1))
        numbers = [_positive(random, first), _positive(random, length - 1 - first)]
        return np.concatenate([numbers[0], [2], numbers[1]])

    def answer(self, question: Array) -> Array:
        """The result, from its lowest bit on, and the end mark.

        Raises:
            ValueError: the question is not two numbers.
        """
        places = np.flatnonzero(question == 2)
        if len(question) < 3 and not len(places):
            return self._written(_number(question))
        if len(places) != 1 or not 0 < places[0] < len(question) - 1:
            raise ValueError(f"expected two numbers with one {self.alphabet[2]} between them")
        left, right = (_number(bits) for bits in np.split(question[question != 2], places))
        return self._written(self.result(left, right))

    @staticmethod
    def _written(number: int) -> Array:
        return np.array([*map(int, reversed(f"{number:b}")), 2])

    @abstractmethod
    def result(self, left: int, right: int) -> int:
        """The result of the operation."""


class BinaryAddition(_TwoNumbers):
    """Binary addition: ``001+01101`` gives ``01011.``, 4 + 22 = 26 from the lowest bit on."""

    alphabet = "01+"

    def result(self, left: int, right: int) -> int:
        """The sum."""
        return left + right

    def coupling(self, question: Array) -> tuple[Array, Array]:
        """Bits that stand for the same power of 2 share a place, from 1 on; the ``+`` has 0."""
        first, *rest = np.split(question, np.flatnonzero(question == 2))
        places = np.concatenate([np.arange(1, len(first) + 1), *(np.arange(len(n)) for n in rest)])
        # The sum may have a bit more than the longer number, and its end mark comes last.
        return places, np.arange(1, places.max(initial=0) + 3)


class BinaryMultiplication(_TwoNumbers):
    """Binary multiplication: ``001*01101`` gives ``0001101.``, 4 x 22 = 88, lowest bit first."""

    alphabet = "01*"

    def result(self, left: int, right: int) -> int:
        """The product."""
        return left * right


class SquareRoots(SymbolTask):
    """Square roots: the whole part of the root of a binary number, from the highest bit on.

    The number is at least 1; its root has half as many bits, rounded up, zeros before its highest
    bit included: ``100101`` gives ``110``, the root of 37.
    """

    def question(self, random: np.random.Generator, length: int) -> Array:
        """A number of so many bits."""
        return _positive(random, length)

    def answer(self, question: Array) -> Array:
        """The bits of the root."""
        root = math.isqrt(_number(question[::-1]))
        return np.array([*map(int, f"{root:0{(len(question) + 1) // 2}b}")])


def _positive(random: np.random.Generator, length: int) -> Array:
    """Random bits, not all of them 0; each such string is as likely."""
    while True:
        bits = random.integers(2, size=length)
        if bits.any():
            return bits


def _number(bits: Array) -> int:
    """A number of any size from its bits, the lowest first."""
    return int("".join(map(str, bits[::-1].tolist())), 2)
