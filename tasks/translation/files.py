"""Pairs of sentences from two text files, or from two columns of one file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from tasks.text import read_lines

__all__ = ["Pairs", "read_columns", "read_two_files"]


class Pairs(NamedTuple):
    """Sentences and their translations.

    Attributes:
        pairs: (source, target), neither empty.
        skipped: number of pairs left out, by reason and file.
    """

    pairs: list[tuple[str, str]]
    skipped: Counter[str]


def read_two_files(source: str, target: str) -> Pairs:
    """Pair the lines of two files.

    Pairs with an empty side are left out and counted.

    Args:
        source: path of the sentences, one in each line, plain or gzip.
        target: path of their translations.

    Raises:
        ValueError: a file cannot be read (see :func:`tasks.text.read_lines`), or the files have
            different numbers of lines.
    """
    sources, targets = read_lines(source), read_lines(target)
    if len(sources) != len(targets):
        raise ValueError(
            "a file and its translation must have the same number of lines; "
            f"got {len(sources)} in {source} and {len(targets)} in {target}"
        )
    return _without_empty(list(zip(sources, targets, strict=True)), f"{source} and {target}")


def read_columns(path: str, columns: Sequence[int] = (0, 1)) -> Pairs:
    """Pair two columns of a file whose columns are separated by tabs.

    Empty lines, and pairs with an empty side, are left out and counted.

    Args:
        path: path of the file, plain or gzip.
        columns: numbers of the columns of source and target, from 0.

    Raises:
        ValueError: the file cannot be read (see :func:`tasks.text.read_lines`), or a line has too
            few columns.
    """
    pairs = []
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.split("\t")
        if not line.strip():
            pairs.append(("", ""))
        elif len(fields) <= max(columns):
            raise ValueError(
                f"{path}, line {number}: expected at least {max(columns) + 1} columns with tabs "
                f"between them; got {len(fields)}"
            )
        else:
            pairs.append((fields[columns[0]], fields[columns[1]]))
    return _without_empty(pairs, path)


def _without_empty(pairs: list[tuple[str, str]], where: str) -> Pairs:
    full, skipped = [], Counter[str]()
    for pair in pairs:
        sides = sum(bool(side.strip()) for side in pair)
        if sides == 2:
            full.append(pair)
        else:
            reason = "one side empty" if sides else "empty line"
            skipped[f"{reason} in {where}"] += 1
    if not full:
        raise ValueError(f"expected sentences in {where}; every pair has an empty side")
    return Pairs(full, skipped)
