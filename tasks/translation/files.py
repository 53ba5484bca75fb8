"""Pairs of sentences from two text files, or from two columns of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from tasks.limits import read_file

__all__ = ["Pairs", "lines_of", "read_bytes", "read_columns", "read_lines", "read_two_files"]


class Pairs(NamedTuple):
    """Sentences and their translations, and what was left out.

    Attributes:
        pairs: (source, target), neither empty.
        skipped: reason and file -> how many were left out.
    """

    pairs: list[tuple[str, str]]
    skipped: Counter[str]


def read_bytes(path: str) -> bytes:
    """What is in a file, unpacked if its name ends in ``.gz``.

    Raises:
        ValueError: it is missing, empty, damaged, or larger than :func:`tasks.limits.limit`.
    """
    content = read_file(path)
    if not content.strip():
        raise ValueError(f"expected sentences in {path}; the file is empty")
    return content


def read_lines(path: str) -> list[str]:
    """Lines of a text file, plain or gzip, see :func:`lines_of`.

    Raises:
        ValueError: the file is missing, empty or damaged, or not UTF-8.
    """
    return lines_of(read_bytes(path), path)


def lines_of(content: bytes, name: str, first: int = 1) -> list[str]:
    r"""Lines of a text in UTF-8, with or without a byte order mark.

    A line ends at ``\n`` or ``\r\n`` and nowhere else.

    Args:
        content: the text.
        name: what an error calls it.
        first: number of the first line.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + first
        byte = error.object[error.start]
        raise ValueError(
            f"{name}, line {line}: expected UTF-8; got the byte {byte:#04x}"
        ) from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if not lines[-1]:  # what follows the end of the last line is no line
        lines.pop()
    return lines


def read_two_files(source: str, target: str) -> Pairs:
    """Pair the lines of two files.

    Pairs of which a side is empty, or both are, are left out and counted.

    Args:
        source: path of the sentences, one a line, plain or gzip.
        target: path of their translations.

    Raises:
        ValueError: see :func:`read_lines`; or the files have different numbers of lines.
    """
    sources, targets = read_lines(source), read_lines(target)
    if len(sources) != len(targets):
        raise ValueError(
            "a file and its translation must have the same number of lines; "
            f"got {len(sources)} in {source} and {len(targets)} in {target}"
        )
    return _without_empty(list(zip(sources, targets, strict=True)), f"{source} and {target}")


def read_columns(path: str, columns: Sequence[int] = (0, 1)) -> Pairs:
    """Pair two columns of a file with tabs between its columns.

    Empty lines, and pairs of which a side is empty, are left out and counted.

    Args:
        path: plain or gzip.
        columns: which column is the source and which the target, from 0.

    Raises:
        ValueError: see :func:`read_lines`; or a line has too few columns.
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
