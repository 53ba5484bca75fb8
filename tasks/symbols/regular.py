"""Tasks that a finite automaton can do (Deletang et al. 2023, table 1)."""

from __future__ import annotations

from typing import Any

import numpy as np

from memnets.checks import check_positive
from tasks.base import Array
from tasks.symbols.base import SymbolTask

__all__ = ["CycleNavigation", "EvenPairs", "Parity"]


class EvenPairs(SymbolTask):
    """Even pairs: whether ``01`` and ``10`` come an even number of times together in a string.

    The answer is 0 for even and 1 for odd, as in ``0101001``, where they come five times. It is 0
    if the first symbol and the last one are the same.
    """

    def answer(self, question: Array) -> Array:
        """0 for even, 1 for odd."""
        return np.array([np.count_nonzero(question[1:] != question[:-1]) % 2])


class Parity(SymbolTask):
    """Parity: whether a string has an even (0) or odd (1) number of ones."""

    def answer(self, question: Array) -> Array:
        """0 for even, 1 for odd."""
        return np.array([question.sum() % 2])


class CycleNavigation(SymbolTask):
    """Cycle navigation: the place on a cycle after steps to the left, to the right, or none.

    Args:
        places: number of places of the cycle, from 2 to 10; the walk starts at place 0.
        settings: see :class:`~tasks.symbols.SymbolTask`.
    """

    alphabet = "<.>"

    def __init__(self, places: int = 5, **settings: Any) -> None:
        check_positive(places=places)
        if not 2 <= places <= 10:
            raise ValueError(f"places must be from 2 to 10, a symbol each; got {places}")
        self.places = places
        self.answers = "0123456789"[:places]
        super().__init__(**settings)

    def answer(self, question: Array) -> Array:
        """The last place."""
        return np.array([(question - 1).sum() % self.places])
