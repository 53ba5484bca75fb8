"""Files of text: a sentence, a word or another item in each line, in UTF-8."""

from __future__ import annotations

import bisect
import codecs
import itertools
import logging
import zlib
from collections.abc import Callable, Iterable, Sequence

from tasks.limits import read_file

__all__ = [
    "LONGEST_LINE",
    "check_ends",
    "check_labels",
    "check_letters",
    "held_out",
    "lines_of",
    "no_utf8",
    "read_bytes",
    "read_lines",
    "too_long",
    "utf16",
    "warn_of_labels",
]

#: Most bytes of a line; no sentence is longer.
LONGEST_LINE = 1 << 20
#: Of the texts of a training, one in this many is held out for each other set, at most the second
#: number.
HELD_OUT = 20
MOST_HELD_OUT = 1000
#: The first bytes of a text in UTF-16, in either order of bytes.
UTF16 = codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE

logger = logging.getLogger(__name__)


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

    A line ends only at ``\n`` or ``\r\n``. A text without them, whose lines end at ``\r``, is
    refused.

    Args:
        content: the text.
        name: name of the text, for an error.
        first: number of the first line, for an error.

    Raises:
        ValueError: the text is not UTF-8, has a null character, or a line is longer than
            :data:`LONGEST_LINE`.
    """
    if first == 1 and content.startswith(UTF16):
        raise utf16(name, content)
    check_letters(bytes.decode, content, name, first)
    if first == 1:
        check_ends(content, name)
    text = content.decode("utf-8-sig")
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


def check_letters(decode: Callable[[bytes], object], content: bytes, name: str, first: int) -> None:
    """Check that bytes are letters in UTF-8, none of them the null character.

    Args:
        decode: decodes the bytes; it may hold the beginning of a letter back from a call before.
        content: the bytes.
        name: name of the text, for an error.
        first: number of the line at which the bytes begin, for an error.

    Raises:
        ValueError: they are not; the message names the first mistake.
    """
    null = content.find(b"\0")
    try:
        decode(content)
    except UnicodeDecodeError as error:
        # Counted from the first of the bytes, not from a letter that was held back.
        wrong = error.start - (len(error.object) - len(content))
        if null < 0 or wrong < null:
            raise no_utf8(error, name, first) from error
    if null >= 0:
        # Also what every other byte is where a text is in UTF-16 without a mark.
        line = content.count(b"\n", 0, null) + first
        raise ValueError(
            f"{name}, line {line}: expected text in UTF-8; got a null character, as files that "
            "are no text have it, and text in UTF-16"
        )


def check_ends(content: bytes, name: str) -> None:
    """Check that the lines of a whole text do not end as those of an old Macintosh.

    Raises:
        ValueError: there are carriage returns within the text, and no line feed.
    """
    if b"\n" not in content and b"\r" in content.strip():
        raise ValueError(
            f"{name}, line 1: expected a line feed at the end of each line; got carriage returns "
            "alone, as of an old Macintosh"
        )


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


def utf16(name: str, content: bytes) -> ValueError:
    """The error for text that begins as UTF-16 does."""
    return ValueError(
        f"{name}, line 1: expected UTF-8; got the byte {content[0]:#04x}, with which UTF-16 "
        "begins: save the text as UTF-8"
    )


def too_long(name: str, line: int) -> ValueError:
    """The error for a line that is longer than :data:`LONGEST_LINE`."""
    return ValueError(
        f"{name}, line {line}: expected at most {LONGEST_LINE:,} bytes in a line; got more"
    )


def check_labels(labels: Sequence[str], items: str, where: str, kind: str = "label") -> None:
    """Check that there are at least two labels, and that no two are one label in two spellings.

    Args:
        labels: the label of each item, at least one.
        items: a word for the items, for an error.
        where: name of their files, for an error.
        kind: a word for the labels, for an error.

    Raises:
        ValueError: all labels are the same, or two differ in capitals or spaces alone.
    """
    spellings: dict[str, str] = {}
    for label in dict.fromkeys(labels):
        plain = " ".join(label.casefold().split())
        if plain in spellings:
            raise ValueError(
                f"expected one spelling of each {kind} in {where}; got {spellings[plain]!r} and "
                f"{label!r}"
            )
        spellings[plain] = label
    if len(spellings) < 2:
        raise ValueError(
            f"expected {items} of at least two {kind}s in {where}; all {len(labels)} have the "
            f"{kind} {labels[0]!r}"
        )


def warn_of_labels(labelled: Iterable[tuple[str, str]], items: str) -> None:
    """Say how many different texts have more than one label, and name the first of them.

    People may differ about a text, so it is no error; most often it is a slip.

    Args:
        labelled: each text, and its label.
        items: a word for the texts, for the message.
    """
    first: dict[str, str] = {}
    several: dict[str, dict[str, None]] = {}
    for text, label in labelled:
        if first.setdefault(text, label) != label:
            several.setdefault(text, {first[text]: None})[label] = None
    for text, labels in itertools.islice(several.items(), 1):
        logger.warning(
            "%s with more than one label: %d, the first %r as %s",
            items, len(several), text[:80], " and ".join(labels),
        )  # fmt: skip


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
