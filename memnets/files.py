"""Files that are never half-written, and results that are kept in them."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

__all__ = ["FolderInUse", "cached", "only_writer", "write_atomically"]

#: Bytes of a checksum, with which a file begins.
_CHECKSUM = hashlib.sha256().digest_size


class FolderInUse(ValueError):
    """Another process writes to a folder."""


#: Descriptors of the folders that this process has locked.
_locked: set[int] = set()


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a folder, where the system has such locks.

    The system frees the lock when the process ends, however that is; a process that it forked, such
    as a worker that makes batches, does not hold the lock any longer.

    Raises:
        FolderInUse: another one has the lock.
    """
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"another training writes to {folder}; wait for it, or stop it"
            raise FolderInUse(message) from error
    except BaseException:
        os.close(descriptor)
        raise
    _locked.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _locked:  # not so in a forked process
            _locked.remove(descriptor)
            os.close(descriptor)


def _leave_locks_to_parent() -> None:
    """Close what a forked process has inherited; its parent's lock lives as long as the parent."""
    while _locked:
        os.close(_locked.pop())


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_leave_locks_to_parent)


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file such that at every moment the old or the new content is there, whole.

    Args:
        path: its folder is made if need be.
        write: is given the open file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def cached(folder: Path, key: bytes, compute: Callable[[], bytes]) -> bytes:
    """What ``compute`` returns for ``key``, computed once and kept in a file.

    Several processes may ask at once: each file is whole, and all of them hold the same.

    Args:
        folder: where the files are; made if need be.
        key: all that the result depends on, the version of the code included.
        compute: makes the result; called if there is no file for this key, or a damaged one, which
            is then written anew.

    Raises:
        OSError: the file can be neither read nor written.
    """
    path = folder / hashlib.sha256(key).hexdigest()
    if path.is_file():
        content = path.read_bytes()
        checksum, result = content[:_CHECKSUM], content[_CHECKSUM:]
        if checksum == _checksum(path, result):
            return result
    result = compute()
    write_atomically(path, lambda file: file.write(_checksum(path, result) + result))
    return result


def _checksum(path: Path, result: bytes) -> bytes:
    """Of a result and of the key that gave the file its name."""
    return hashlib.sha256(path.name.encode() + result).digest()
