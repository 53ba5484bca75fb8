"""Whole numbers in files of a cache, looked at piece by piece: as many as a disk holds."""

from __future__ import annotations

import hashlib
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from memnets.files import only_writer, write_atomically

__all__ = ["Numbers", "cache_folder", "slot_of"]

Array = np.ndarray[Any, Any]

#: Numbers that are looked at, or written, at once: 8 MiB.
PIECE = 1 << 20
#: Bytes of the checksum of the key at the beginning of a file, and of that of the numbers at its
#: end. Both are multiples of eight, so that the numbers between them lie as the processor wants.
HEAD, TAIL = 32, 8


def cache_folder() -> Path:
    """Folder for what can be made again: ``memnets`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    usual = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(usual, "memnets")


def slot_of(what: str, kind: str) -> Path:
    """Path of the file in the cache for something.

    Args:
        what: name of the thing, of any length.
        kind: the ending of the file's name.
    """
    name = hashlib.sha256(what.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return cache_folder() / f"{name}.{kind}"


class Numbers:
    """Whole numbers, int64 ``[n]``, in a file of the cache.

    They are mapped into memory for each look alone. So a process never holds more of them than it
    looks at, and another process gets the path of the file and nothing else.

    Args:
        path: path of the file; see :func:`slot_of`.
        key: everything that the numbers depend on, with the version of the code.
        make: makes the numbers, in pieces. It is called if the file is missing, damaged or of
            another key, by one process alone; others wait for it.

    Raises:
        ValueError: the file can be neither read nor written.
    """

    def __init__(self, path: Path, key: str, make: Callable[[], Iterable[Array]]) -> None:
        self.path = path
        self.key = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        try:
            if not self._whole():
                # However long it takes: that may be minutes.
                with only_writer(path.parent, f".{path.name}.lock", patience=math.inf):
                    if not self._whole():
                        write_atomically(path, lambda file: self._write(file, make()))
        except OSError as error:
            raise ValueError(
                "expected a folder in which indexes of large files can be kept, in "
                f"$XDG_CACHE_HOME or ~/.cache; got {path.parent} ({error})"
            ) from error
        self._size = len(self.view())

    def __len__(self) -> int:
        return self._size

    def view(self) -> Array:
        """All numbers, mapped from the file; they leave the memory with the result.

        Raises:
            ValueError: the file is gone, or holds the numbers of another key by now.
        """
        try:
            content = np.memmap(self.path, np.uint8, "r")
        except (OSError, ValueError) as error:
            raise ValueError(
                f"expected an index at {self.path}; it is gone: start again"
            ) from error
        if content[:HEAD].tobytes() != self.key:
            raise ValueError(
                f"expected the index at {self.path} as it was; another program has made it anew "
                "for a changed file: start again"
            )
        numbers: Array = content[HEAD:-TAIL].view(np.int64)
        return numbers

    def pieces(self, begin: int = 0, end: int | None = None, size: int = PIECE) -> Iterator[Array]:
        """Copies of the numbers from ``begin`` to before ``end``, at most ``size`` at once."""
        end = len(self) if end is None else end
        for place in range(begin, end, size):
            yield np.array(self.view()[place : min(place + size, end)])

    def _write(self, file: IO[bytes], pieces: Iterable[Array]) -> None:
        file.write(self.key)
        checksum = zlib.crc32(self.key)
        for piece in pieces:
            content = np.ascontiguousarray(piece, np.int64).tobytes()
            checksum = zlib.crc32(content, checksum)
            file.write(content)
        file.write(checksum.to_bytes(TAIL, "little"))

    def _whole(self) -> bool:
        """Whether the file is there, whole, and of this key."""
        if not self.path.is_file():
            return False
        rest = self.path.stat().st_size - HEAD - TAIL
        if rest < 0 or rest % 8:
            return False
        with self.path.open("rb") as file:
            if file.read(HEAD) != self.key:
                return False
            checksum = zlib.crc32(self.key)
            while rest and (content := file.read(min(rest, 8 * PIECE))):
                checksum = zlib.crc32(content, checksum)
                rest -= len(content)
            return not rest and file.read(TAIL) == checksum.to_bytes(TAIL, "little")
