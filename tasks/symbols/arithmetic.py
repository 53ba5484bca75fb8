"""Expressions modulo a small number, with and without brackets (Deletang et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tasks.base import Array
from tasks.symbols.base import SymbolTask

__all__ = ["BracketArithmetic", "ModularArithmetic", "SolvingEquations", "evaluate"]

#: How strongly an operator binds; ``~`` is the minus of one operand.
_BINDS = {"+": 1, "-": 1, "*": 2, "~": 3}


def evaluate(expression: Iterable[str], modulus: int) -> int:
    """Value of an expression of digits, ``+``, ``-``, ``*`` and brackets, modulo a number.

    Products bind more strongly than sums, and a minus before an operand more strongly than both.
    Brackets may be as deep as memory allows.

    Raises:
        ValueError: it is no expression.
    """
    values: list[int] = []
    waiting: list[str] = []

    def carry_out(least: int) -> None:
        """Carry out the operators, back to the last bracket, that bind at least so strongly."""
        while waiting and waiting[-1] != "(" and _BINDS[waiting[-1]] >= least:
            operator, right = waiting.pop(), values.pop()
            left = 0 if operator == "~" else values.pop()
            results = {"+": left + right, "-": left - right, "*": left * right, "~": -right}
            values.append(results[operator] % modulus)

    operand_next = True
    for symbol in expression:
        if operand_next and symbol in ("-", "("):
            waiting.append("~" if symbol == "-" else symbol)
        elif operand_next and symbol.isdecimal():
            values.append(int(symbol) % modulus)
            operand_next = False
        elif not operand_next and symbol in ("+", "-", "*"):
            carry_out(_BINDS[symbol])
            waiting.append(symbol)
            operand_next = True
        elif not operand_next and symbol == ")":
            carry_out(0)
            if not waiting:
                raise ValueError("expected a bracket that opens before each that closes; got none")
            waiting.pop()
        else:
            wanted = "an operand" if operand_next else "an operator"
            raise ValueError(f"expected {wanted} of the expression; got {symbol!r}")
    if operand_next:
        raise ValueError("expected an operand at the end of the expression; got none")
    carry_out(0)
    if waiting:
        raise ValueError("expected a bracket that closes for each that opens; got none")
    return values.pop()


class _Arithmetic(SymbolTask):
    """Base class for tasks on expressions modulo a number.

    Args:
        modulus: the number, from 2 to 10.
        settings: see :class:`~tasks.symbols.SymbolTask`.
    """

    #: Names of the symbols that are no digits.
    signs = "+-*"

    def __init__(self, modulus: int = 5, **settings: Any) -> None:
        if not 2 <= modulus <= 10:
            raise ValueError(f"modulus must be from 2 to 10, a symbol each number; got {modulus}")
        self.modulus = modulus
        self.answers = "0123456789"[:modulus]
        self.alphabet = self.answers + self.signs
        super().__init__(**settings)

    def answer(self, question: Array) -> Array:
        """The value of the expression, one symbol."""
        return np.array([evaluate((self.alphabet[symbol] for symbol in question), self.modulus)])


class ModularArithmetic(_Arithmetic):
    """Modular arithmetic: the value of an expression such as ``1+2*3-4``, modulo 5.

    Digits and operators take turns, each as likely; products come before sums. A length that is
    even is taken one less. Deletang et al. 2023, table 1, "modular arithmetic (simple)".
    """

    def question(self, random: np.random.Generator, length: int) -> Array:
        """An expression of an odd number of symbols."""
        question = np.empty(length - 1 + length % 2, np.int64)
        question[::2] = random.integers(self.modulus, size=len(question[::2]))
        question[1::2] = self.modulus + random.integers(3, size=len(question[1::2]))
        return question


class BracketArithmetic(_Arithmetic):
    """Modular arithmetic with brackets: the value of an expression such as ``((1-3)+(-2))``.

    Each operation of two parts stands in brackets; the lengths of its parts are drawn so that all
    are as likely. Parts of fewer than five symbols are a digit, its negative, or one of these in
    brackets. Deletang et al. 2023, table 1, "modular arithmetic (brackets)".

    Args:
        times: whether products come too, and not sums and differences alone.
        settings: ``modulus``, from 2 to 10, and those of :class:`~tasks.symbols.SymbolTask`.
    """

    signs = "+-*()"

    def __init__(self, times: bool = False, **settings: Any) -> None:
        self.times = times
        super().__init__(**settings)

    def question(self, random: np.random.Generator, length: int) -> Array:
        """An expression of this length."""
        written = _nested(random, length, self.modulus, "+-*" if self.times else "+-")
        numbers = {name: number for number, name in enumerate(self.alphabet)}
        return np.array([numbers[symbol] for symbol in written])


class SolvingEquations(_Arithmetic):
    """Solving equations: the ``x`` of an equation such as ``((1-x)+(-2))=4``, modulo 5.

    The left side is an expression of :class:`BracketArithmetic` without products, with ``x`` in the
    place of one digit; the right side is its value. Deletang et al. 2023, table 1. One or two
    symbols have no room for an equation: they are zeros, and so is the answer, as in their code.
    """

    signs = "+-()x="

    def question(self, random: np.random.Generator, length: int) -> Array:
        """An equation of this length."""
        if length < 3:
            return np.zeros(length, np.int64)
        left = _nested(random, length - 2, self.modulus, "+-")
        value = evaluate(left, self.modulus)
        digits = [place for place, symbol in enumerate(left) if symbol.isdecimal()]
        left[digits[random.integers(len(digits))]] = "x"
        numbers = {name: number for number, name in enumerate(self.alphabet)}
        return np.array([numbers[symbol] for symbol in [*left, "=", str(value)]])

    def answer(self, question: Array) -> Array:
        """The ``x``, one symbol.

        Raises:
            ValueError: the question is no equation, or not one number alone solves it.
        """
        if len(question) < 3 and not question.any():
            return np.zeros(1, np.int64)
        left, equal, right = "".join(self.alphabet[symbol] for symbol in question).partition("=")
        if not equal or left.count("x") != 1 or "x" in right:
            raise ValueError("expected an equation with one x on its left side; got another string")
        value = evaluate(right, self.modulus)
        found = [
            number
            for number in range(self.modulus)
            if evaluate(left.replace("x", str(number)), self.modulus) == value
        ]
        if len(found) != 1:
            raise ValueError(f"expected an equation with one solution; got {len(found)} solutions")
        return np.array(found)


def _nested(random: np.random.Generator, length: int, modulus: int, operators: str) -> list[str]:
    """Symbols of a random expression with brackets."""
    written: list[str] = []
    # What is still to be written: symbols, and lengths of expressions; the next one comes last.
    todo: list[str | int] = [length]
    while todo:
        part = todo.pop()
        if isinstance(part, str):
            written.append(part)
        elif part <= 4:
            digit = str(random.integers(modulus))
            written += {1: [digit], 2: ["-", digit], 3: ["(", digit, ")"]}.get(
                part, ["(", "-", digit, ")"]
            )
        else:
            left = int(random.integers(1, part - 3))
            operator = operators[random.integers(len(operators))]
            todo += [")", part - 3 - left, operator, left, "("]
    return written
