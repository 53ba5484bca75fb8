"""Pairs of token sequences, cut into batches of similar length by a budget of tokens."""

from __future__ import annotations

import itertools
import logging
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from memnets.batches import BEGIN, PAD, Batch
from tasks.base import Array, Task
from tasks.lines import Rows, taken
from tasks.permutation import Permutation
from tasks.sets import FixedSets
from tasks.stored import Numbers, slot_of

__all__ = ["HeldPairs", "PairsTask", "StoredPairs", "TokenPairs"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
#: Tokens of a source and of its target, both with their end mark.
Tokens = tuple[Sequence[int], Sequence[int]]

#: Version of the kept orders; raise it with any change to them.
VERSION = 1
#: Items that are cut into tokens at once.
MANY = 1 << 12
#: Pairs that are sorted at once, where not all of them are in memory.
SORTED = 1 << 20
#: From this number of pairs on, a line says that all are read once: it takes a while.
LONG = 500_000
#: Lengths of a pair are one number: that of the target times this, and that of the source. More
#: tokens than this in a sequence count as so many.
LENGTHS = 1 << 31


class TokenPairs(ABC):
    """Sources and targets in tokens, sorted by length and cut into batches.

    A pass over training data is a permutation of all pairs, with an order of the batches of its
    own: pairs of the same lengths change places. Other splits have one order, at random, so that
    the first batches represent all of them. Any batch is known without those before it.

    Args:
        lengths: number for the lengths of a pair, the target's in front; each that there is, in
            order.
        counts: number of pairs of each.
        budget: most tokens of a batch, source and targets with padding; a longer pair is a batch of
            its own.

    Attributes:
        skipped: number of pairs left out as longer than the limit.
        cuts: place of the first pair of each batch among the sorted pairs, then their number.
    """

    skipped: int

    def __init__(self, lengths: Array, counts: Array, budget: int) -> None:
        self.cuts = np.array(_cuts(lengths.tolist(), counts.tolist(), budget))

    @property
    def batches(self) -> int:
        """Number of batches."""
        return len(self.cuts) - 1

    def rows(self, task: Task, split: str, index: int) -> Array:
        """Numbers of a batch's pairs, among all that were given.

        Args:
            task: gives the random numbers.
            split: the split of these pairs; ``train`` has any number of batches, pass after pass.
            index: number of the batch, at least 0.

        Raises:
            IndexError: the split has no such batch.
        """
        epoch, index = divmod(index, self.batches)
        if split != "train":
            if epoch:
                raise IndexError(f"{split} has {self.batches} batches, numbered from 0")
            order = task.random(split, 0).permutation(self.batches)
            return self._unshuffled(*self.cuts[order[index] : order[index] + 2])
        return self._shuffled(task, epoch, index)

    @abstractmethod
    def _unshuffled(self, begin: int, end: int) -> Array:
        """Numbers of the pairs at some places, where those of the same lengths keep their order."""

    @abstractmethod
    def _shuffled(self, task: Task, epoch: int, index: int) -> Array:
        """Numbers of the pairs of a batch of a pass over the training data."""

    @abstractmethod
    def batch(self, rows: Array) -> Batch:
        """Some of the pairs; inputs are ``BEGIN``, then the targets one step late."""

    @abstractmethod
    def count(self, token: int) -> tuple[int, int]:
        """Number of all tokens of the targets, and of those that are a certain one."""


class HeldPairs(TokenPairs):
    """Pairs in memory.

    Args:
        pairs: the tokens of each pair.
        budget: see :class:`TokenPairs`.
        limit: most tokens of the longer side of a pair; longer pairs are left out. ``None`` = no
            limit.
    """

    def __init__(self, pairs: Iterable[Tokens], budget: int, limit: int | None = None) -> None:
        sides = _Side(), _Side()
        for pair in pairs:
            for side, tokens in zip(sides, pair, strict=True):
                side.add(tokens)
        self.sources, self.targets = (side.closed() for side in sides)
        lengths = np.maximum(self.sources.lengths, self.targets.lengths)
        self._kept = np.arange(len(lengths))[lengths <= (limit or LENGTHS)]
        self.skipped = len(lengths) - len(self._kept)
        self._keys = _key(self.sources.lengths, self.targets.lengths)[self._kept]
        self._pass: tuple[int, Array, Array] | None = None
        kinds, counts = np.unique(self._keys, return_counts=True)
        super().__init__(kinds, counts, budget)

    def _unshuffled(self, begin: int, end: int) -> Array:
        return self._sorted()[begin:end]

    def _shuffled(self, task: Task, epoch: int, index: int) -> Array:
        # The order of a pass depends on its number alone, so only the present one is kept.
        if self._pass is None or self._pass[0] != epoch:
            random = task.random("train", epoch)
            rows = self._sorted(random.permutation(len(self._kept)))
            self._pass = epoch, rows, random.permutation(self.batches)
        _, rows, order = self._pass
        begin, end = self.cuts[order[index] : order[index] + 2]
        chosen: Array = rows[begin:end]
        return chosen

    def _sorted(self, ties: Array | None = None) -> Array:
        """Numbers of the pairs by the length of the target, then of the source.

        Args:
            ties: a number for each pair, for the order of pairs with the same lengths; ``None`` =
                they keep their order.
        """
        order = np.lexsort((self._keys,) if ties is None else (ties, self._keys))
        rows: Array = self._kept[order]
        return rows

    def batch(self, rows: Array) -> Batch:
        """See :meth:`TokenPairs.batch`."""
        return _batch(*self.sources.some(rows), *self.targets.some(rows))

    def count(self, token: int) -> tuple[int, int]:
        """See :meth:`TokenPairs.count`."""
        tokens = self.targets.tokens
        return len(tokens), int((tokens == token).sum())


class StoredPairs(TokenPairs, Generic[T]):
    """Pairs on the disk, of any number.

    Their text is read and cut into tokens when a batch asks for it. What is known of all pairs is
    their order by length, in the cache. A process holds the number of pairs of each length and the
    cuts of the batches. Within a pass, pairs of the same lengths change places by a
    :class:`~tasks.permutation.Permutation` of their own.

    Args:
        items: the pairs before they are cut into tokens.
        encode: cuts some items into tokens.
        key: everything that ``encode`` depends on.
        budget: see :class:`TokenPairs`.
        limit: as for :class:`HeldPairs`.
    """

    def __init__(
        self,
        items: Rows[T],
        encode: Callable[[Sequence[T]], Iterable[Tokens]],
        key: str,
        budget: int,
        limit: int | None = None,
    ) -> None:
        self.items = items
        self.encode = encode
        whole = f"order {VERSION} {limit} {key} of {items.key}"
        slot = slot_of(f"order {limit} {key} of {items.place}", "order")
        self.order = Numbers(slot, whole, lambda: self._find(slot, whole, limit))
        # Behind the order stand the lengths that there are, the number of pairs of each, how many
        # lengths there are, and how many pairs were left out.
        view = self.order.view()
        kinds, self.skipped = view[-2:].tolist()
        lengths, counts = view[-2 - 2 * kinds : -2].reshape(2, kinds).copy()
        del view
        #: The first place of the pairs of each kind of lengths, and the place behind the last.
        self._begins = np.concatenate([[0], np.cumsum(counts)])
        self._pass: tuple[int, int, Array] | None = None
        super().__init__(lengths, counts, budget)

    def _find(self, slot: Any, key: str, limit: int | None) -> Iterator[Array]:
        """The numbers of the pairs in their order, in pieces; then what is known of all."""
        if len(self.items) >= LONG:
            logger.warning(
                "reading %s pairs once, to sort them by length; their order is kept for later",
                f"{len(self.items):,}",
            )
        keys = Numbers(slot.with_suffix(".lengths"), key, self._lengths)
        found: dict[int, int] = {}
        skipped = 0
        for piece in keys.pieces(size=SORTED):
            if limit is not None:
                long = np.maximum(piece % LENGTHS, piece // LENGTHS) > limit
                skipped += int(long.sum())
                piece = piece[~long]
            for kind, count in zip(*np.unique(piece, return_counts=True), strict=True):
                found[int(kind)] = found.get(int(kind), 0) + int(count)
        kinds = sorted(found)
        for some in _groups(kinds, found):
            yield from self._of(keys, some)
        yield np.array([*kinds, *(found[kind] for kind in kinds), len(kinds), skipped])
        # Not before: they took the longest, and serve if the rest breaks off.
        keys.path.unlink()

    def _of(self, keys: Numbers, kinds: list[int]) -> Iterator[Array]:
        """Numbers of the pairs of some kinds of lengths, which follow one another."""
        rows, lengths = [], []
        for number, piece in enumerate(keys.pieces(size=SORTED)):
            among = np.flatnonzero((piece >= kinds[0]) & (piece <= kinds[-1]))
            if len(kinds) == 1:  # they are in order, and may be very many
                yield among + number * SORTED
            else:
                among = among[np.isin(piece[among], kinds)]
                rows.append(among + number * SORTED)
                lengths.append(piece[among])
        if rows:
            yield np.concatenate(rows)[np.argsort(np.concatenate(lengths), kind="stable")]

    def _lengths(self) -> Iterator[Array]:
        for tokens in _chunks(self._all(), MANY):
            yield _key(*(np.array([len(each[side]) for each in tokens]) for side in (0, 1)))

    def _all(self) -> Iterator[Tokens]:
        for some in _chunks(self.items, MANY):
            yield from self.encode(some)

    def _unshuffled(self, begin: int, end: int) -> Array:
        return np.array(self.order.view()[begin:end])

    def _shuffled(self, task: Task, epoch: int, index: int) -> Array:
        if self._pass is None or self._pass[0] != epoch:
            random = task.random("train", epoch)
            self._pass = epoch, int(random.integers(2**63)), random.permutation(self.batches)
        _, key, order = self._pass
        begin, end = self.cuts[order[index] : order[index] + 2]
        places = np.arange(begin, end)
        kinds = np.searchsorted(self._begins, places, "right") - 1
        for kind in np.unique(kinds).tolist():
            first, last = self._begins[kind : kind + 2].tolist()
            shuffled = Permutation(last - first, [key, kind])
            inside = kinds == kind
            places[inside] = first + shuffled(places[inside] - first)
        return np.array(self.order.view()[places])

    def batch(self, rows: Array) -> Batch:
        """See :meth:`TokenPairs.batch`."""
        sides = _Side(), _Side()
        for pair in self.encode(taken(self.items, rows)):
            for side, tokens in zip(sides, pair, strict=True):
                side.add(tokens)
        every = np.arange(len(rows))
        source, target = (side.closed().some(every) for side in sides)
        return _batch(*source, *target)

    def count(self, token: int) -> tuple[int, int]:
        """See :meth:`TokenPairs.count`."""
        number = same = 0
        for _, target in self._all():
            number += len(target)
            same += list(target).count(token)
        return number, same


class PairsTask(FixedSets):
    """Base class for tasks of pairs of token sequences: batches by a budget of tokens.

    Args:
        batch_tokens: most tokens of a batch, source and targets with padding.
        settings: others of :class:`~tasks.sets.FixedSets`.
    """

    def __init__(self, batch_tokens: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.batch_tokens = batch_tokens
        self._encoded: dict[str, TokenPairs] = {}

    @abstractmethod
    def encoded(self, split: str) -> TokenPairs:
        """Cut the pairs of a split into tokens."""

    def token_pairs(self, split: str) -> TokenPairs:
        """Tokens of a split, made at the first call."""
        if split not in self._encoded:
            self._encoded[split] = self.encoded(split)
        return self._encoded[split]

    def cut(
        self,
        items: Sequence[T],
        encode: Callable[[Sequence[T]], Iterable[Tokens]],
        key: str,
        limit: int | None = None,
    ) -> TokenPairs:
        """Cut items into tokens: those in memory at once, those on the disk batch by batch.

        Args:
            items: the pairs before they are cut.
            encode: cuts some of them.
            key: everything that ``encode`` depends on.
            limit: most tokens of the longer side of a pair.
        """
        if isinstance(items, Rows):
            return StoredPairs(items, encode, key, self.batch_tokens, limit)
        pairs = itertools.chain.from_iterable(map(encode, _chunks(items, MANY)))
        return HeldPairs(pairs, self.batch_tokens, limit)

    def all_batches(self, split: str) -> int:
        """See :meth:`~tasks.sets.FixedSets.all_batches`."""
        return self.token_pairs(split).batches

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or ``test``.

        Raises:
            IndexError: validation or test has no such batch.
        """
        pairs = self.token_pairs(split)
        return pairs.batch(pairs.rows(self, split, index))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Loader of the training data: new batches in each epoch."""
        # Here, since each worker would otherwise make the tokens again for itself.
        self.token_pairs("train")
        return super().train_dataloader()


class _Side:
    """Sequences of tokens, stored in one array.

    A list of lists would take many times the memory.
    """

    def __init__(self) -> None:
        self._tokens, self._lengths = array("i"), array("q")

    def add(self, tokens: Sequence[int]) -> None:
        self._tokens.extend(tokens)
        self._lengths.append(len(tokens))

    def closed(self) -> _Side:
        """The same, once all sequences are in."""
        self.lengths = np.array(self._lengths, np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.tokens = np.array(self._tokens, np.int32)
        del self._tokens, self._lengths
        return self

    def some(self, rows: Array) -> tuple[Array, Array]:
        """Some sequences, int64 ``[B, longest]``, and a mask, False = padding."""
        lengths = self.lengths[rows]
        steps = np.arange(lengths.max())
        real = steps < lengths[:, None]
        padded = np.full(real.shape, PAD, np.int64)
        padded[real] = self.tokens[(self.starts[rows][:, None] + steps)[real]]
        return padded, real


def _batch(source: Array, source_mask: Array, targets: Array, target_mask: Array) -> Batch:
    inputs = np.full_like(targets, BEGIN)
    inputs[:, 1:] = targets[:, :-1]
    # The shift has moved END into the padding of shorter rows.
    inputs[~target_mask] = PAD
    return Batch(
        source=torch.from_numpy(source),
        inputs=torch.from_numpy(inputs),
        targets=torch.from_numpy(targets),
        source_mask=_mask(source_mask),
        target_mask=_mask(target_mask),
    )


def _mask(real: Array) -> Tensor | None:
    """Mask, False = padding, ``[B, longest]``; ``None`` without padding."""
    return None if real.all() else torch.from_numpy(real)


def _key(sources: Array, targets: Array) -> Array:
    """A number for the lengths of each pair; it sorts by the target, then by the source."""
    most = LENGTHS - 1
    key: Array = np.minimum(targets, most) * LENGTHS + np.minimum(sources, most)
    return key


def _cuts(lengths: list[int], counts: list[int], budget: int) -> list[int]:
    """Cut sorted pairs into batches.

    A batch grows until one more pair would exceed the budget, padding included. Sorted pairs have
    similar lengths, so there is little padding.
    """
    cuts = [0]
    place = longest_source = longest_target = 0
    for key, count in zip(lengths, counts, strict=True):
        target, source = divmod(key, LENGTHS)
        while count:
            size = place - cuts[-1]
            longest_source = max(longest_source, source)
            longest_target = max(longest_target, target)
            more = budget // (longest_source + longest_target) - size
            if more < 1 and size:
                cuts.append(place)
                longest_source = longest_target = 0
                continue
            more = min(count, max(more, 1))
            place += more
            count -= more
    return [*cuts, place]


def _groups(kinds: list[int], counts: dict[int, int]) -> Iterator[list[int]]:
    """Kinds that follow one another, of at most :data:`SORTED` pairs together, or one alone."""
    group: list[int] = []
    size = 0
    for kind in kinds:
        if group and size + counts[kind] > SORTED:
            yield group
            group, size = [], 0
        group.append(kind)
        size += counts[kind]
    if group:
        yield group


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of some items, one after the other; the last may be shorter."""
    each = iter(items)
    while some := list(itertools.islice(each, size)):
        yield some
