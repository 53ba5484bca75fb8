"""Word problems of groups: state to be tracked, step by step."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np

from tasks.base import Array
from tasks.symbols.base import SymbolTask

__all__ = ["GroupWords", "elements"]

_NAME = re.compile(r"([ACS])([1-9]\d?)")


def elements(group: str) -> Array:
    """The elements of a group, permutations ``[G, n]`` in lexicographic order.

    Args:
        group: ``S<n>``, all permutations of n places, or ``A<n>``, the even ones, n from 2 to 6; or
            ``C<n>``, the rotations of n places, n from 2 to 60.

    Raises:
        ValueError: there is no group of this name.
    """
    match = _NAME.fullmatch(group)
    kind, places = (match[1], int(match[2])) if match else ("", 0)
    if not 2 <= places <= (60 if kind == "C" else 6):
        raise ValueError(
            f"group must be S2 to S6, A3 to A6, or C2 to C60, such as S5; got {group!r}"
        )
    if kind == "C":
        return (np.arange(places) + np.arange(places)[:, None]) % places
    every = np.array([*itertools.permutations(range(places))])
    if kind == "S":
        return every
    # An even permutation has an even number of pairs in falling order.
    pairs = np.triu(every[:, :, None] > every[:, None, :], 1).sum((1, 2))
    even: Array = every[pairs % 2 == 0]
    return even


class GroupWords(SymbolTask):
    """Word problem of a group: the product of all elements so far, after each element.

    Each symbol is an element. A product is read from the left: ``ab`` takes a first, then b. The
    product of S5 or A5 is thought to be beyond circuits of constant depth with threshold gates,
    unlike that of C60 (Liu et al. 2023, section 2; Merrill et al. 2024, section 3).

    Args:
        group: such as ``S3``, ``S5``, ``A5`` or ``C60``; see :func:`elements`.
        settings: see :class:`~tasks.symbols.SymbolTask`.
    """

    along = True

    def __init__(self, group: str = "S5", **settings: Any) -> None:
        self.group = group
        permutations = elements(group)
        self.alphabet = ["".join(map(_letter, element)) for element in permutations.tolist()]
        # Taking a and then b moves place i to b[a[i]]. Each element by its number in base n.
        base = permutations.shape[1] ** np.arange(min(permutations.shape[1], 10))[::-1]
        codes = permutations[:, : len(base)] @ base
        after = permutations[:, permutations].transpose(1, 0, 2)  # [a, b, n] = b[a]
        order = np.argsort(codes)
        self._products = order[np.searchsorted(codes[order], after[..., : len(base)] @ base)]
        super().__init__(**settings)

    def answer(self, question: Array) -> Array:
        """The product so far at each step, number of an element."""
        products = np.empty(len(question), np.int64)
        so_far = 0  # the identity, which is first in order
        for step, element in enumerate(question.tolist()):
            products[step] = so_far = self._products[so_far, element]
        return products


def _letter(place: int) -> str:
    """A letter for a place, 60 of them at most."""
    return "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"[place]
