"""Bounds on the memory that a task's files and batches take.

One number N bounds them all: :data:`USUAL`, or the value of an environment variable::

    MEMNETS_LIMIT=8000000000 memnets fit --config ...

A file that is read as a whole has at most N bytes, and a packed file at most N bytes unpacked. Text
files with a sentence in each line may have any size: beyond N / 16 bytes they stay on the disk
(:mod:`tasks.lines`). An image has at most N / 8 pixels, and the images of a data set have at most N
pixels together. A batch has at most N numbers.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["USUAL", "check_room", "limit", "opened", "read_at_most", "read_file"]

#: The default bound, 2^30.
USUAL = 1 << 30
VARIABLE = "MEMNETS_LIMIT"
#: Bytes that are read at once. Few, since some kinds of zip files unpack a whole piece at once, to
#: up to a million times its size.
PIECE = 1 << 12


def limit() -> int:
    """The bound: the value of ``MEMNETS_LIMIT``, or :data:`USUAL`.

    Raises:
        ValueError: the value is not a whole number of at least 1.
    """
    text = os.environ.get(VARIABLE) or str(USUAL)
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) < 1:
        raise ValueError(f"{VARIABLE} must be a whole number of at least 1; got {text[:40]!r}")
    return int(text)


def advice(needed: int | None = None) -> str:
    """The end of an error message: the way to raise the bound."""
    return f"to allow more, set {VARIABLE}={'<number>' if needed is None else needed}"


def check_room(what: str, *sizes: int) -> None:
    """Check that an array is not too large.

    Args:
        what: name of the array for the message, such as ``a training batch``.
        sizes: its dimensions, at least 0.

    Raises:
        ValueError: the array would have more numbers than :func:`limit`.
    """
    numbers, most = math.prod(sizes), limit()
    if numbers > most:
        written = f"{numbers:,}" if numbers < 10**18 else "more than 10^18"
        product = " x ".join(map(str, sizes))
        raise ValueError(
            f"{what} would have {written} numbers ({product[:80]}), where at most {most:,} are "
            f"allowed; {advice(numbers if numbers < 10**18 else None)}"
        )


def read_at_most(file: IO[bytes] | gzip.GzipFile, where: str) -> bytes:
    """Read an open file to its end, at most :func:`limit` bytes.

    Raises:
        ValueError: the file has more bytes.
    """
    most, pieces, size = limit(), [], 0
    while piece := file.read(PIECE):
        size += len(piece)
        if size > most:
            raise ValueError(f"{where}: expected at most {most:,} bytes; got more; {advice()}")
        pieces.append(piece)
    return b"".join(pieces)


@contextmanager
def opened(path: str) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """Open a file to read its bytes, unpacked if its name ends in ``.gz``.

    Raises:
        ValueError: the file is missing, or damaged where it is read.
    """
    if not Path(path).is_file():
        found = "it is a folder" if Path(path).is_dir() else "there is none"
        raise ValueError(f"expected a file at {path}; {found}")
    if not path.endswith(".gz"):
        with open(path, "rb") as file:
            yield file
        return
    try:
        with gzip.open(path) as packed:
            yield packed
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"expected {path} to be a gzip file; it is damaged ({error})") from error


def read_file(path: str) -> bytes:
    """Read the content of a file, unpacked if its name ends in ``.gz``.

    Raises:
        ValueError: the file is missing, damaged, or larger than :func:`limit`.
    """
    with opened(path) as file:
        return read_at_most(file, path)
