"""Files of text: a sentence, a word or another item in each line, in UTF-8."""

from __future__ import annotations

import bisect
import zlib
from collections.abc import Iterable, Sequence

from tasks.limits import read_file

__all__ = [
    "LONGEST_LINE",
    "held_out",
    "lines_of",
    "no_utf8",
    "read_bytes",
    "read_lines",
    "too_long",
]

#: Most bytes of a line; no sentence is longer.
LONGEST_LINE = 1 << 20
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
        ValueError: the text is not UTF-8, or a line is longer than :data:`LONGEST_LINE`.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise no_utf8(error, name, first) from error
    # Not ``splitlines``: it also splits at signs that stand within sentences, and two files would
    # no longer match.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if not lines[-1]:  # an end of line at the end of the text begins no other line
        lines.pop()
    if len(content) > LONGEST_LINE:
        for number, line in enumerate(lines, first):
            # No letter takes more than four bytes.
            if 4 * len(line) > LONGEST_LINE and len(line.encode()) > LONGEST_LINE:
                raise too_long(name, number)
    return lines


def no_utf8(error: UnicodeDecodeError, name: str, first: int) -> ValueError:
    """The error for text that is not UTF-8.

    Args:
        error: the error of the decoder.
        name: name of the text.
        first: number of the line at which the decoder's bytes begin.
    """
    line = error.object.count(b"\n", 0, error.start) + first
    byte = error.object[error.start]
    return ValueError(f"{name}, line {line}: expected UTF-8; got the byte {byte:#04x}")


def too_long(name: str, line: int) -> ValueError:
    """The error for a line that is longer than :data:`LONGEST_LINE`."""
    return ValueError(
        f"{name}, line {line}: expected at most {LONGEST_LINE:,} bytes in a line; got more"
    )


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
    if not names:
        return {}
    # More different texts than these change nothing, so they are counted up to there alone.
    enough, seen = HELD_OUT * MOST_HELD_OUT, set[str]()
    # The texts of the lowest checksums, in order: those that are held out are among them.
    most = MOST_HELD_OUT * len(names)
    lowest: list[tuple[int, str]] = []
    for text in texts:
        if len(seen) < enough:
            seen.add(text)
        checksum = zlib.crc32(text.encode())
        if len(lowest) == most and checksum > lowest[-1][0]:
            continue
        place = bisect.bisect_left(lowest, (checksum, text))
        if lowest[place : place + 1] != [(checksum, text)]:
            lowest.insert(place, (checksum, text))
            del lowest[most:]
    different = len(seen)
    held = min(MOST_HELD_OUT, max(1, different // HELD_OUT))
    if different <= held * len(names):
        raise ValueError(
            f"expected more than {held * len(names)} sentences in {where}, to hold out some for "
            f"{' and '.join(names)}; got {different}"
        )
    return {
        text: name
        for number, name in enumerate(names)
        for _, text in lowest[number * held : (number + 1) * held]
    }
