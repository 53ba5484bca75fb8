"""Permutations of any size that take no memory: a Feistel network over the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Permutation"]

Array = np.ndarray[Any, Any]

#: Rounds of the network. Four make a permutation that looks random (Luby & Rackoff 1988); two more
#: make up for halves of few bits.
ROUNDS = 6


class Permutation:
    """A permutation of ``0 ... size - 1`` in an order at random, computed place by place.

    A permutation in an array takes eight bytes a place, and the time of all places before the first
    is known. This one takes a few numbers, and the time of the places that are asked for: a
    balanced Feistel network (Luby & Rackoff 1988) permutes the numbers of an even number of bits,
    and a number that falls outside of the range walks on along its cycle until it is within (Black
    & Rogaway 2002). The same size and key give the same permutation on every machine.

    Args:
        size: number of places, at least 1.
        key: numbers of at least 0 that choose the permutation.

    Raises:
        ValueError: the size is out of its range.
    """

    def __init__(self, size: int, key: int | Sequence[int]) -> None:
        if not 1 <= size < 2**62:
            raise ValueError(f"the size of a permutation must be from 1 to 2^62; got {size}")
        self.size = size
        #: Bits of each half. The network's numbers are at most four times as many as the places.
        self.bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
        self.keys = np.random.default_rng(key).integers(0, 2**64, (ROUNDS, 1), np.uint64)

    def __call__(self, places: Array) -> Array:
        """The numbers at some places, int64, in the shape of ``places``.

        Args:
            places: whole numbers in ``[0, size)``.
        """
        flat = np.asarray(places, np.uint64).ravel()
        numbers = self._network(flat)
        outside = np.flatnonzero(numbers >= self.size)
        while outside.size:
            numbers[outside] = self._network(numbers[outside])
            outside = outside[numbers[outside] >= self.size]
        return numbers.astype(np.int64).reshape(np.shape(places))

    def _network(self, numbers: Array) -> Array:
        most = np.uint64((1 << int(self.bits)) - 1)
        left, right = numbers >> self.bits, numbers & most
        for key in self.keys:
            left, right = right, left ^ (_mixed(right + key) & most)
        joined: Array = left << self.bits | right
        return joined


def _mixed(numbers: Array) -> Array:
    """Numbers of 64 bits whose bits depend on all bits (SplitMix64, Steele et al. 2014)."""
    numbers = (numbers ^ numbers >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ numbers >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    mixed: Array = numbers ^ numbers >> np.uint64(31)
    return mixed
