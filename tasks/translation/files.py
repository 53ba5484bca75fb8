"""Pairs of sentences from two text files, or from two columns of one file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tasks.lines import Lines, Mapped, Rows, open_lines
from tasks.sets import Rule

__all__ = ["EMPTY_SIDES", "Pairs", "read_columns", "read_two_files"]

Array = np.ndarray[Any, Any]


class Pairs(NamedTuple):
    """Sentences and their translations.

    Attributes:
        pairs: (source, target), neither empty.
        skipped: number of pairs left out, by reason and file.
    """

    pairs: list[tuple[str, str]]
    skipped: Counter[str]


def _judged(pair: tuple[str, str]) -> int:
    """The number of sides with text; -1 for both."""
    full = bool(pair[0].strip()) + bool(pair[1].strip())
    return full if full < 2 else -1


#: The rule by which pairs are left out.
EMPTY_SIDES = Rule(
    _judged,
    ("empty line", "one side empty"),
    "expected sentences in {}; every pair has an empty side",
)


def read_two_files(source: str, target: str) -> Sequence[tuple[str, str]]:
    """Pair the lines of two files.

    Args:
        source: path of the sentences, one in each line, plain or gzip.
        target: path of their translations.

    Returns:
        A list, or, of large files, pairs that are read when they are asked for.

    Raises:
        ValueError: a file cannot be read (see :func:`tasks.lines.open_lines`), or the files have
            different numbers of lines.
    """
    sources, targets = open_lines(source, target)
    if len(sources) != len(targets):
        raise ValueError(
            "a file and its translation must have the same number of lines; "
            f"got {len(sources)} in {source} and {len(targets)} in {target}"
        )
    if isinstance(sources, Lines) and isinstance(targets, Lines):
        return _Zipped(sources, targets)
    return list(zip(sources, targets, strict=True))


def read_columns(path: str, columns: Sequence[int] = (0, 1)) -> Sequence[tuple[str, str]]:
    """Pair two columns of a file whose columns are separated by tabs.

    An empty line is a pair of empty sides.

    Args:
        path: path of the file, plain or gzip.
        columns: numbers of the columns of source and target, from 0.

    Returns:
        A list, or, of a large file, pairs that are read when they are asked for.

    Raises:
        ValueError: the file cannot be read (see :func:`tasks.lines.open_lines`), or a line has too
            few columns; of a large file, when the line is read.
    """
    (lines,) = open_lines(path)
    first, second = columns
    split = partial(_split, path, (first, second))
    if isinstance(lines, Lines):
        return Mapped(lines, split, f"columns {first} and {second}")
    return [split(number, line) for number, line in enumerate(lines)]


def _split(path: str, columns: tuple[int, int], number: int, line: str) -> tuple[str, str]:
    if not line.strip():
        return "", ""
    fields = line.split("\t")
    if len(fields) <= max(columns):
        raise ValueError(
            f"{path}, line {number + 1}: expected at least {max(columns) + 1} columns with tabs "
            f"between them; got {len(fields)}"
        )
    return fields[columns[0]], fields[columns[1]]


class _Zipped(Rows[tuple[str, str]]):
    """Lines of two files with the same number of lines."""

    def __init__(self, sources: Lines, targets: Lines) -> None:
        self.sides = sources, targets
        self.name = f"{sources.name} and {targets.name}"
        self.place = f"{sources.place} and {targets.place}"
        self.key = f"{sources.key} and {targets.key}"

    def __len__(self) -> int:
        return len(self.sides[0])

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return zip(*self.sides, strict=True)

    def take(self, rows: Sequence[int] | Array) -> list[tuple[str, str]]:
        sources, targets = (side.take(rows) for side in self.sides)
        return list(zip(sources, targets, strict=True))
