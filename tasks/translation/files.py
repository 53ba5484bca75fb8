"""Pairs of sentences from two text files, or from two columns of one file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from tasks.limits import read_file

__all__ = ["Pairs", "lines_of", "read_bytes", "read_columns", "read_lines", "read_two_files"]


class Pairs(NamedTuple):
    """Sentences and their translations.

    Attributes:
        pairs: (source, target), neither empty.
        skipped: number of pairs left out, by reason and file.
    """

    pairs: list[tuple[str, str]]
    skipped: Counter[str]


def read_bytes(path: str) -> bytes:
    """Read the content of a file, unpacked if its name ends in ``.gz``.

    Raises:
        ValueError: the file is missing, empty, damaged, or larger than :func:`tasks.limits.limit`.
    """
    content = read_file(path)
    if not content.strip():
        raise ValueError(f"expected sentences in {path}; the file is empty")
    return content


def read_lines(path: str) -> list[str]:
    """Read the lines of a text file, plain or gzip, see :func:`lines_of`.

    Raises:
        ValueError: the file is missing, empty, damaged, or not in UTF-8.
    """
    return lines_of(read_bytes(path), path)


def lines_of(content: bytes, name: str, first: int = 1) -> list[str]:
    r"""Split a text in UTF-8, with or without a byte order mark, into lines.

    A line ends only at ``\n`` or ``\r\n``.

    Args:
        content: the text.
        name: name of the text, for an error.
        first: number of the first line, for an error.

    Raises:
        ValueError: the text is not UTF-8.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + first
        byte = error.object[error.start]
        raise ValueError(
            f"{name}, line {line}: expected UTF-8; got the byte {byte:#04x}"
        ) from error
    # Not ``splitlines``: it also splits at signs that stand within sentences, and two files would
    # no longer match.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if not lines[-1]:  # an end of line at the end of the text begins no other line
        lines.pop()
    return lines


def read_two_files(source: str, target: str) -> Pairs:
    """Pair the lines of two files.

    Pairs with an empty side are left out and counted.

    Args:
        source: path of the sentences, one in each line, plain or gzip.
        target: path of their translations.

    Raises:
        ValueError: a file cannot be read (see :func:`read_lines`), or the files have different
            numbers of lines.
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
        ValueError: the file cannot be read (see :func:`read_lines`), or a line has too few columns.
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
