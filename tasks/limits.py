"""Bounds on what a task takes into memory: of files, and of the batches that settings ask for.

One number is the bound of all of them, :data:`USUAL` if the environment does not name another::

    MEMNETS_LIMIT=8000000000 memnets fit --config ...

A file has at most so many bytes, unpacked. An image has at most one pixel for eight of them, and
the images of a data set have at most so many pixels together. A batch has at most so many numbers.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import IO

__all__ = ["USUAL", "check_room", "limit", "read_at_most", "read_file"]

#: The bound if the environment names none, 2^30.
USUAL = 1 << 30
VARIABLE = "MEMNETS_LIMIT"
#: Bytes that are read at once. Small, since of some kinds of zip files all that comes of a piece
#: is unpacked at once, up to a million times as much.
PIECE = 1 << 12


def limit() -> int:
    """The bound, that of ``MEMNETS_LIMIT`` if it is set.

    Raises:
        ValueError: it is set to no whole number of at least 1.
    """
    text = os.environ.get(VARIABLE) or str(USUAL)
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) < 1:
        raise ValueError(f"{VARIABLE} must be a whole number of at least 1; got {text[:40]!r}")
    return int(text)


def advice(needed: int | None = None) -> str:
    """How to raise the bound, for the end of a message."""
    return f"to allow more, set {VARIABLE}={'<number>' if needed is None else needed}"


def check_room(what: str, *sizes: int) -> None:
    """Check that an array of such sizes is not too large.

    Args:
        what: it is, for the message, such as ``a training batch``.
        sizes: of each of its dimensions, at least 0.

    Raises:
        ValueError: it has more numbers than :func:`limit`.
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
    """All that comes from an open file, at most :func:`limit` bytes.

    Raises:
        ValueError: there is more.
    """
    most, pieces, size = limit(), [], 0
    while piece := file.read(PIECE):
        size += len(piece)
        if size > most:
            raise ValueError(f"{where}: expected at most {most:,} bytes; got more; {advice()}")
        pieces.append(piece)
    return b"".join(pieces)


def read_file(path: str) -> bytes:
    """What is in a file, unpacked if its name ends in ``.gz``.

    Raises:
        ValueError: it is missing, damaged, or larger than :func:`limit`.
    """
    if not Path(path).is_file():
        raise ValueError(f"expected a file at {path}; there is none")
    if not path.endswith(".gz"):
        with open(path, "rb") as file:
            return read_at_most(file, path)
    try:
        with gzip.open(path) as packed:
            return read_at_most(packed, path)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"expected {path} to be a gzip file; it is damaged ({error})") from error
