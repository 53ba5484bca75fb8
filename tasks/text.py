"""Files of text: a sentence, a word or another item in each line, in UTF-8."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

from tasks.limits import read_file

__all__ = ["held_out", "lines_of", "read_bytes", "read_lines"]

#: Of the texts of a training, one in this many is held out for each other set, at most the second
#: number.
HELD_OUT = 20
MOST_HELD_OUT = 1000


def read_bytes(path: str) -> bytes:
    """Read the content of a file, unpacked if its name ends in ``.gz``.

    Raises:
        ValueError: the file is missing, empty, damaged, or larger than :func:`tasks.limits.limit`.
    """
    content = read_file(path)
    if not content.strip():
        raise ValueError(f"expected text in {path}; the file is empty")
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


def held_out(texts: Iterable[str], names: Sequence[str], where: str) -> dict[str, str]:
    """Choose texts of the training to hold out for sets that have no file of their own.

    Of the different texts, one in 20 is held out for each set, at least one and at most 1000,
    chosen by a checksum of the text: the same ones for every order of the texts and every seed.

    Args:
        texts: the texts of the training; one may come more than once.
        names: names of the sets.
        where: name of the texts, for an error.

    Returns:
        The name of its set, by text held out.

    Raises:
        ValueError: there are too few texts.
    """
    different = sorted(set(texts), key=lambda text: (zlib.crc32(text.encode()), text))
    held = min(MOST_HELD_OUT, max(1, len(different) // HELD_OUT))
    if len(different) <= held * len(names):
        raise ValueError(
            f"expected more than {held * len(names)} sentences in {where}, to hold out some for "
            f"{' and '.join(names)}; got {len(different)}"
        )
    return {
        text: name
        for number, name in enumerate(names)
        for text in different[number * held : (number + 1) * held]
    }
