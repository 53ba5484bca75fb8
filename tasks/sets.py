"""Tasks whose data is fixed sets: a training goes through one pass over its set after the other."""

from __future__ import annotations

import itertools
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from memnets.vocabulary import Vocabulary, Words
from tasks.base import Array, Task
from tasks.lines import Chain, Chosen, Rows, key_of
from tasks.stored import Numbers, slot_of
from tasks.text import held_out

__all__ = ["FixedSets", "Passes", "Rule", "divided", "paths_of"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Version of the kept divisions; raise it with any change to them.
VERSION = 1
#: Most items of a set held out of others on the disk that are taken into memory.
MOST_HELD = 1 << 16
#: Numbers that are written at once.
MANY = 1 << 16


class Passes(Task):
    """Base class for tasks with fixed sets of training, validation and test.

    Args:
        epoch_batches: number of training batches between two validations; ``None`` = those of a
            pass over the set.
        validation_batches: number of batches of a validation; ``None`` = all.
        settings: others of :class:`~tasks.Task`.

    Attributes:
        skipped: number of items left out so far, by reason.

    Raises:
        ValueError: a setting is out of its range.
    """

    #: A word for the items, for messages.
    items_are: ClassVar[str] = "sentences"

    def __init__(
        self,
        epoch_batches: int | None = None,
        validation_batches: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(
            epoch_batches=1 if epoch_batches is None else epoch_batches,
            validation_batches=1 if validation_batches is None else validation_batches,
            **settings,
        )
        self.whole_pass = epoch_batches is None
        self.whole_validation = validation_batches is None
        self.skipped: dict[str, int] = {}

    @abstractmethod
    def all_batches(self, split: str) -> int:
        """Number of batches of a pass over a set."""

    def test_names(self) -> list[str]:
        """``test``."""
        return ["test"]

    def batches(self, split: str) -> int:
        """See :meth:`~tasks.Task.batches`; by default those of a pass over the data."""
        if split == "train" and not self.whole_pass:
            return self.epoch_batches
        number = self.all_batches(split)
        if split == "val" and not self.whole_validation:
            return min(number, self.validation_batches)
        return number

    def skip(self, reason: str, count: int) -> None:
        """Note that some items are left out, and say it if there are any."""
        if count:
            self.skipped[reason] = count
            logger.warning("%s left out: %d, %s", self.items_are, count, reason)


class FixedSets(Passes):
    """Base class for tasks with fixed sets, and with vocabularies that checkpoints keep."""

    #: Names of the vocabularies in a checkpoint, and of those among them that may be missing there.
    kept: ClassVar[tuple[str, ...]] = ("vocabulary",)
    optional: ClassVar[tuple[str, ...]] = ()
    #: The thing whose vocabularies they are, for messages.
    about: ClassVar[str]

    @abstractmethod
    def vocabularies(self) -> Sequence[Words | Vocabulary]:
        """The vocabularies in the order of :attr:`kept`: of a checkpoint, or of the training."""

    @abstractmethod
    def restore(self, tensors: list[Tensor]) -> None:
        """Take the vocabularies of a checkpoint, and forget the tokens of others.

        Args:
            tensors: the vocabularies as bytes, in the order of :attr:`kept`.

        Raises:
            ValueError: one is damaged, or does not go with the settings.
        """

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint: the vocabularies."""
        return {
            name: vocabulary.to_tensor()
            for name, vocabulary in zip(self.kept, self.vocabularies(), strict=False)
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the vocabularies of a checkpoint.

        Raises:
            ValueError: a vocabulary is missing or damaged, or does not go with the settings.
        """
        missing = [
            name for name in self.kept if name not in state_dict and name not in self.optional
        ]
        if missing:
            raise ValueError(
                f"expected a checkpoint with the {' and '.join(missing)} of {self.about}; got none"
            )
        self.restore([state_dict[name] for name in self.kept if name in state_dict])


def paths_of(folder: str, **files: list[str] | str | None) -> dict[str, list[str]]:
    """Paths of the files of each split.

    Args:
        folder: folder of all files that are not absolute paths.
        files: a file, or any number of files, by split; ``None`` = none.
    """
    return {
        split: [
            str(Path(folder, path)) for path in ([paths] if isinstance(paths, str) else paths or ())
        ]
        for split, paths in files.items()
    }


class Rule(NamedTuple):
    """A rule by which items are left out.

    Attributes:
        judge: gives the number of the reason to leave an item out, or -1 for one that stays.
        reasons: the reasons.
        nothing: an error if all items of a file are left out, with ``{}`` for its name.
    """

    judge: Callable[[Any], int]
    reasons: tuple[str, ...]
    nothing: str


def divided(
    parts: Sequence[tuple[str, Sequence[T]]],
    names: Sequence[str],
    text: Callable[[T], str],
    rule: Rule,
) -> tuple[dict[str, Sequence[T]], dict[str, int]]:
    """Leave out items that are of no use, and hold out others for sets without files of their own.

    Of items on the disk, the numbers of those that stay are kept in the cache.

    Args:
        parts: the name of each file, and its items, in memory or on the disk.
        names: the sets to hold out items for, by :func:`tasks.text.held_out`.
        text: the text of an item by which it is held out.
        rule: tells the items that are of no use.

    Returns:
        The items of ``train`` and of each of the names, in their order; and the number of items
        left out, by reason and name of the part.

    Raises:
        ValueError: a part has no item of use, or there are too few items to hold some out.
    """
    place = held_out(_texts(parts, text, rule), names, ", ".join(where for where, _ in parts))
    sets: dict[str, list[Sequence[T]]] = {name: [] for name in ("train", *names)}
    skipped: dict[str, int] = {}
    for where, part in parts:
        sets_of = partial(_sets_of, place, text, rule)
        if isinstance(part, Rows):
            found, counts = _on_disk(part, sets_of, place, list(sets), rule)
        else:
            found, counts = _in_memory(part, sets_of, list(sets), rule)
        if sum(counts) == len(part):
            raise ValueError(rule.nothing.format(where))
        for name, items in found.items():
            sets[name].append(items)
        skipped |= {
            f"{reason} in {where}": count
            for reason, count in zip(rule.reasons, counts, strict=True)
            if count
        }
    return {name: _joined(each) for name, each in sets.items()}, skipped


def _texts(
    parts: Sequence[tuple[str, Sequence[T]]], text: Callable[[T], str], rule: Rule
) -> Iterator[str]:
    """Texts of all items that stay."""
    for where, part in parts:
        there = False
        for item in part:
            if rule.judge(item) < 0:
                there = True
                yield text(item)
        if not there:
            raise ValueError(rule.nothing.format(where))


def _sets_of(
    place: dict[str, str],
    text: Callable[[T], str],
    rule: Rule,
    items: Iterable[T],
) -> Iterator[tuple[str | int, T]]:
    """For each item its set, or the number of the reason to leave it out."""
    for item in items:
        reason = rule.judge(item)
        yield (place.get(text(item), "train") if reason < 0 else reason), item


def _in_memory(
    part: Sequence[T],
    sets_of: Callable[[Iterable[T]], Iterator[tuple[str | int, T]]],
    names: list[str],
    rule: Rule,
) -> tuple[dict[str, Sequence[T]], list[int]]:
    sets: dict[str, list[T]] = {name: [] for name in names}
    counts = [0] * len(rule.reasons)
    for chosen, item in sets_of(part):
        if isinstance(chosen, str):
            sets[chosen].append(item)
        else:
            counts[chosen] += 1
    return dict(sets), counts


def _on_disk(
    part: Rows[T],
    sets_of: Callable[[Iterable[T]], Iterator[tuple[str | int, T]]],
    place: dict[str, str],
    names: list[str],
    rule: Rule,
) -> tuple[dict[str, Sequence[T]], list[int]]:
    """The same for items on the disk, whose numbers are kept in the cache.

    They stand there by their sets, those of the training first; then come the sizes of the sets,
    and how many items were left out for each reason.
    """

    def find() -> Iterator[Array]:
        train: list[int] = []
        rest: dict[str, list[int]] = {name: [] for name in names[1:]}
        counts, trained = [0] * len(rule.reasons), 0
        for row, (chosen, _) in enumerate(sets_of(part)):
            if chosen == "train":
                train.append(row)
                if len(train) == MANY:
                    yield np.array(train)
                    trained += len(train)
                    train = []
            elif isinstance(chosen, str):
                rest[chosen].append(row)
            else:
                counts[chosen] += 1
        trained += len(train)
        sizes = [trained, *map(len, rest.values())]
        yield np.array([*train, *itertools.chain(*rest.values()), *sizes, *counts], np.int64)

    key = f"sets {VERSION} {names} {rule.reasons} {key_of(sorted(place.items()))} of {part.key}"
    numbers = Numbers(slot_of(f"sets {names} of {part.place}", "sets"), key, find)
    tail = numbers.view()[-(len(names) + len(rule.reasons)) :].tolist()
    ends = list(itertools.accumulate(tail[: len(names)], initial=0))
    sets: dict[str, Sequence[T]] = {}
    for name, begin, end in zip(names, ends, ends[1:], strict=False):
        chosen = Chosen(part, numbers, begin, end)
        few = name != "train" and len(chosen) <= MOST_HELD
        sets[name] = list(chosen[:]) if few else chosen
    return sets, tail[len(names) :]


def _joined(parts: list[Sequence[T]]) -> Sequence[T]:
    if len(parts) == 1:
        return parts[0]
    if any(isinstance(part, Rows) for part in parts):
        return Chain(parts)
    return list(itertools.chain.from_iterable(parts))
