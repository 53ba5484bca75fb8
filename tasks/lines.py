"""Text files of any size: lines that are read from the disk when they are asked for.

A text file of at most :func:`small` bytes is held in memory, as a list of its lines. A larger one
is :class:`Lines`: once, a pass over the file notes where each line begins, and checks that it is
UTF-8 and that no line is far too long. The notes are kept in the cache (:mod:`tasks.stored`), for
this path, size and date of the file. Then any line is found at once, and no process holds more of
the file than it asks for.
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import math
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import IO, Any, Generic, TypeVar, overload

import numpy as np

from memnets.files import only_writer, write_atomically
from tasks.limits import PIECE, advice, limit, opened
from tasks.permutation import Permutation
from tasks.stored import Numbers, slot_of
from tasks.text import (
    LONGEST_LINE,
    UTF16,
    check_ends,
    check_letters,
    lines_of,
    read_bytes,
    too_long,
    utf16,
)

__all__ = ["Chain", "Chosen", "Lines", "Mapped", "Rows", "key_of", "open_lines", "sampled", "taken"]

Array = np.ndarray[Any, Any]
T = TypeVar("T")
U = TypeVar("U")

#: Version of the notes about lines; raise it with any change to them.
VERSION = 1
#: Bytes of a file that are looked at at once.
BLOCK = 1 << 20
#: Items that are read at once where all are gone through by number.
MANY = 1 << 12


def small() -> int:
    """Most bytes of a text file, unpacked, that is held in memory: 1/16 of the limit, 64 MiB."""
    return limit() // 16


class Rows(Sequence[T], Generic[T]):
    """A sequence of items that lie on the disk and are read when they are asked for.

    Attributes:
        name: name of the files, for an error.
        place: name of the items: the same as long as the paths are.
        key: everything that the items depend on: also the sizes and dates of the files.
    """

    name: str
    place: str
    key: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[T]:
        """All items in their order, in one pass over the files."""

    @abstractmethod
    def take(self, rows: Sequence[int] | Array) -> list[T]:
        """Items by their numbers, in the order of the numbers; one may come more than once.

        Raises:
            ValueError: an item is damaged, or a file is not as it was.
        """

    @overload
    def __getitem__(self, row: int) -> T: ...

    @overload
    def __getitem__(self, row: slice) -> list[T]: ...

    def __getitem__(self, row: int | slice) -> T | list[T]:
        places = range(len(self))[row]
        return self.take([places])[0] if isinstance(places, int) else self.take(places)


class Lines(Rows[str]):
    r"""The lines of a text file in UTF-8, as :func:`tasks.text.lines_of` splits them.

    Args:
        path: path of the file, plain or gzip; a packed file is unpacked into the cache once.

    Raises:
        ValueError: the file is missing or damaged, is not UTF-8, or has a line of more than
            :data:`~tasks.text.LONGEST_LINE` bytes.
    """

    def __init__(self, path: str) -> None:
        self.name = path
        self.file = _unpacked(path) if path.endswith(".gz") else os.path.realpath(path)
        #: Size and date, by which a changed file is known.
        self.state = self._state(os.stat(self.file))
        self.place = f"lines of {os.path.realpath(path)!r}"
        self.key = f"{self.place} {VERSION} {self.state}"
        self.starts = Numbers(slot_of(self.place, "lines"), self.key, self._find)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[str]:
        with self._open() as file:
            file.seek(int(self.starts.view()[0]))
            for line in itertools.islice(file, len(self)):
                yield self._text(line)

    def take(self, rows: Sequence[int] | Array) -> list[str]:
        """See :meth:`Rows.take`."""
        numbers = np.asarray(rows, np.int64)
        starts = self.starts.view()
        begins, ends = starts[numbers], starts[numbers + 1]
        del starts
        lines = [""] * len(numbers)
        # A file opened anew: the place within an open one would be shared with forked processes.
        with self._open() as file:
            for place in np.argsort(begins, kind="stable").tolist():
                file.seek(int(begins[place]))
                lines[place] = self._text(file.read(int(ends[place] - begins[place])))
        return lines

    def _open(self) -> IO[bytes]:
        file = open(self.file, "rb")  # noqa: SIM115 (the caller closes it)
        if self._state(os.fstat(file.fileno())) == self.state:
            return file
        file.close()
        raise ValueError(f"expected {self.name} as it was at the start; it has changed since")

    def _text(self, line: bytes) -> str:
        try:
            return line.removesuffix(b"\n").removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"expected {self.name} as it was at the start; it has changed since"
            ) from error

    @staticmethod
    def _state(found: os.stat_result) -> tuple[int, int]:
        return found.st_size, found.st_mtime_ns

    def _find(self) -> Iterator[Array]:
        """The first byte of each line, and of the one that would come behind the last."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        with self._open() as file:
            begin = file.read(3)
            if begin.startswith(UTF16):
                raise utf16(self.name, begin)
            last = 3 if begin == codecs.BOM_UTF8 else 0
            file.seek(0)
            yield np.array([last])
            place = number = 0
            block = ending = b""
            while block := file.read(BLOCK):
                check_letters(decoder.decode, block, self.name, number + 1)
                ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + place + 1
                place += len(block)
                # All that begin in this block or before it, and the one that goes on behind it.
                begins = np.concatenate([[last], ends])
                self._check_long(np.diff(begins, append=place), number)
                number += len(ends)
                last = int(begins[-1])
                ending = block[-1:]
                yield ends
            check_letters(partial(decoder.decode, final=True), b"", self.name, number + 1)
            if not number:  # a single line, of which there is not much
                file.seek(0)
                check_ends(file.read(), self.name)
            # An end of line at the end of the text begins no other line; nor does a sole "\r".
            rest = place - last
            if rest > 1 or (rest == 1 and ending != b"\r"):
                yield np.array([place + 1])

    def _check_long(self, lengths: Array, before: int) -> None:
        # With the end of the line.
        long = np.flatnonzero(lengths > LONGEST_LINE + 2)
        if long.size:
            raise too_long(self.name, before + int(long[0]) + 1)


def _unpacked(path: str) -> str:
    """Unpack a file into the cache; gives the path there."""
    packed = os.path.realpath(path)
    found = os.stat(packed)
    target = slot_of(f"{VERSION} {packed!r} {found.st_size} {found.st_mtime_ns}", "txt")

    def write(file: IO[bytes]) -> None:
        size, most = 0, limit()
        with opened(path) as content:
            while block := content.read(PIECE):
                size += len(block)
                if size > most:
                    raise ValueError(
                        f"{path}: expected at most {most:,} bytes; got more; {advice()}"
                    )
                file.write(block)

    try:
        if not target.is_file():
            with only_writer(target.parent, f".{target.name}.lock", patience=math.inf):
                if not target.is_file():
                    write_atomically(target, write)
    except OSError as error:
        raise ValueError(
            f"expected a folder in which {path} can be unpacked, in $XDG_CACHE_HOME or ~/.cache; "
            f"got {target.parent} ({error})"
        ) from error
    return str(target)


def _is_small(path: str) -> bool:
    """Whether a file is to be held in memory.

    Raises:
        ValueError: it is missing or damaged.
    """
    most = small()
    if path.endswith(".gz"):
        with opened(path) as content:
            size = 0
            while size <= most and (block := content.read(PIECE)):
                size += len(block)
            return size <= most
    with opened(path):
        return os.path.getsize(path) <= most


def open_lines(*paths: str) -> list[Sequence[str]]:
    """The lines of some text files that belong together, plain or gzip.

    Returns:
        For each file a list of its lines, if all files are :func:`small`; else :class:`Lines`.

    Raises:
        ValueError: a file is missing, empty, damaged, not in UTF-8, or has a line that is far too
            long.
    """
    if all(map(_is_small, paths)):
        return [lines_of(read_bytes(path), path) for path in paths]
    return [Lines(path) for path in paths]


class Mapped(Rows[U]):
    """Items made of others, such as the columns of lines.

    Args:
        items: the others.
        make: makes an item of the number of another, from 0, and the other.
        key: everything that ``make`` depends on.
    """

    def __init__(self, items: Rows[T], make: Callable[[int, T], U], key: str) -> None:
        self.items: Rows[Any] = items
        self.make: Callable[[int, Any], U] = make
        self.name = items.name
        self.place, self.key = f"{key} of {items.place}", f"{key} of {items.key}"

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[U]:
        return itertools.starmap(self.make, enumerate(self.items))

    def take(self, rows: Sequence[int] | Array) -> list[U]:
        """See :meth:`Rows.take`."""
        return [
            self.make(int(row), item) for row, item in zip(rows, self.items.take(rows), strict=True)
        ]


class Chain(Rows[T]):
    """The items of several sequences, one sequence after the other.

    Args:
        parts: sequences in memory or on the disk.
    """

    def __init__(self, parts: Sequence[Sequence[T]]) -> None:
        self.parts = list(parts)
        self.ends = np.cumsum([len(part) for part in parts])
        self.name = ", ".join(part.name for part in parts if isinstance(part, Rows))
        self.place = " and ".join(
            part.place if isinstance(part, Rows) else key_of(part) for part in parts
        )
        self.key = " and ".join(map(key_of, parts))

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __iter__(self) -> Iterator[T]:
        return itertools.chain.from_iterable(self.parts)

    def take(self, rows: Sequence[int] | Array) -> list[T]:
        """See :meth:`Rows.take`."""
        numbers = np.asarray(rows, np.int64)
        found: dict[int, T] = {}
        owners = np.searchsorted(self.ends, numbers, "right")
        for owner in np.unique(owners).tolist():
            places = np.flatnonzero(owners == owner)
            before = self.ends[owner - 1] if owner else 0
            items = taken(self.parts[owner], numbers[places] - before)
            found.update(zip(places.tolist(), items, strict=True))
        return [found[place] for place in range(len(numbers))]


class Chosen(Rows[T]):
    """Some items of others, in their order.

    Args:
        items: the others.
        numbers: the numbers of those that are chosen, from a place to before another one.
        begin: the first place.
        end: the place behind the last.
    """

    def __init__(self, items: Rows[T], numbers: Numbers, begin: int, end: int) -> None:
        self.items, self.numbers = items, numbers
        self.begin, self.end = begin, end
        self.name = items.name
        self.place = f"{numbers.path.name} of {items.place}"
        self.key = f"{begin} to {end} of {numbers.key.hex()}"

    def __len__(self) -> int:
        return self.end - self.begin

    def __iter__(self) -> Iterator[T]:
        others = enumerate(self.items)
        for piece in self.numbers.pieces(self.begin, self.end, MANY):
            for row in piece.tolist():
                yield next(item for number, item in others if number == row)

    def take(self, rows: Sequence[int] | Array) -> list[T]:
        """See :meth:`Rows.take`."""
        return self.items.take(self.numbers.view()[self.begin + np.asarray(rows, np.int64)])


def taken(items: Sequence[T], rows: Sequence[int] | Array) -> list[T]:
    """Items by their numbers, of a sequence in memory or on the disk."""
    if isinstance(items, Rows):
        return items.take(rows)
    return [items[row] for row in np.asarray(rows, np.int64).tolist()]


def key_of(items: Sequence[Any]) -> str:
    """Everything that some items depend on: of items in memory, a checksum of them."""
    if isinstance(items, Rows):
        return items.key
    told = hashlib.sha256()
    for item in items:
        told.update(f"{item!r}\0".encode("utf-8", "surrogatepass"))
    return told.hexdigest()


def sampled(items: Sequence[T], most: int) -> Iterable[T]:
    """All items, or as many as ``most`` of them, chosen at random but always the same, in order."""
    if len(items) <= most:
        yield from items
        return
    rows = np.sort(Permutation(len(items), most)(np.arange(most)))
    for place in range(0, most, MANY):
        yield from taken(items, rows[place : place + MANY])
