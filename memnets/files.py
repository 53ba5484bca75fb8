"""Files that are never half-written, a cache of results in files, and YAML within bounds."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from signal import SIGINT, pthread_kill
from tempfile import TemporaryDirectory
from threading import main_thread
from typing import IO, Any

import yaml
from filelock import (
    LeaseCompromise,
    LeaseSettingsMismatch,
    MarkerSoftFileLock,
    SoftFileLease,
    Timeout,
)

__all__ = [
    "HEARTBEAT",
    "LEASE",
    "FolderInUse",
    "NoPlainFile",
    "NotWritten",
    "cached",
    "check_yaml",
    "load_yaml",
    "only_writer",
    "read_settings",
    "read_text",
    "target_of",
    "write_atomically",
]

#: Seconds without a sign of life after which a lock of another machine is free, and seconds between
#: two signs of life: see :func:`only_writer`.
LEASE, HEARTBEAT = 60.0, 5.0

#: Bytes of a checksum, with which a file begins.
_CHECKSUM = hashlib.sha256().digest_size

#: Bounds of a config: bytes, levels of nesting, and values once every alias is written out.
_MOST_BYTES, _MOST_LEVELS, _MOST_VALUES = 2**20, 50, 100_000

#: The safe loader, in C where PyYAML has it.
_YAMLLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class NoPlainFile(OSError, ValueError):
    """Error: a path leads to a folder, a device, a pipe or a socket instead of a file."""


class NotWritten(OSError):
    """Error: a file cannot be written, because the disk is full, read-only or gone."""

    @classmethod
    def of(cls, what: str | Path, error: Exception) -> NotWritten:
        """The error that says what could not be written, and why.

        Args:
            what: path of the file, or what it is.
            error: of the system.
        """
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return cls(f"cannot write {what}: {reason}")


class FolderInUse(ValueError):
    """Error: another process writes to a folder.

    Args:
        message: message for the user.
        holder: the process and its machine, in words; empty if not known.
    """

    def __init__(self, message: str, holder: str = "") -> None:
        super().__init__(message)
        self.holder = holder


@contextmanager
def only_writer(folder: Path, name: str = ".lock", patience: float = 0) -> Iterator[Path]:
    """Keep other processes, on this machine or on another, from writing to a folder.

    The lock is a lease: a file with the name of its holder, which the holder touches every
    :data:`HEARTBEAT` seconds. It needs nothing of a file system but that a file is created once,
    and so it works on network file systems, where locks of the operating system are often those of
    one machine alone. A lease ends with its process, however that ends: on the same machine another
    process sees at once that its holder is gone, on another machine after :data:`LEASE` seconds
    without a touch. Forked processes, such as workers that make batches, do not hold it.

    A holder that loses the lock, since it was suspended for long, or the file system is gone, is
    interrupted.

    Args:
        folder: folder that is written to.
        name: name of the file, for a folder in which several things may be done at once.
        patience: seconds to wait for another process that has the lock; ``math.inf`` = as long as
            that takes.

    Yields:
        The file, which is there as long as the lock is held.

    Raises:
        FolderInUse: another process has the lock, or has taken it in the meantime.
        NoPlainFile: there is something that is no file in the place of the lock.
    """
    lock = SoftFileLease(
        target_of(folder / name),
        lease_duration=LEASE,
        heartbeat_interval=HEARTBEAT,
        on_compromise=lambda _: pthread_kill(main_thread().ident or 0, SIGINT),
    )
    in_vain = _Waiting(lock, patience)
    try:
        lock.acquire(patience + 2 * LEASE, cancel_check=in_vain)
    except (Timeout, LeaseSettingsMismatch) as error:
        who = (
            f"another training writes to {folder}{f': {in_vain.holder}' if in_vain.holder else ''}"
        )
        raise FolderInUse(f"{who}; wait for it, or stop it", in_vain.holder) from error
    try:
        yield Path(lock.lock_file)
    except BaseException:
        if lock.compromise is None:
            raise
        raise FolderInUse(_lost(lock.compromise, folder)) from None
    finally:
        lock.release()


class _Waiting:
    """Whether to wait for a lock no longer: its holder is alive, and patience is over."""

    def __init__(self, lock: SoftFileLease, patience: float) -> None:
        self.lock, self.until = lock, time.monotonic() + patience
        self.first_touch: float | None = None
        self.holder = ""

    def __call__(self) -> bool:
        return self._is_alive() and time.monotonic() >= self.until

    def _is_alive(self) -> bool:
        owner = self.lock.owner
        try:
            touch = os.stat(self.lock.lock_file).st_mtime
        except OSError:
            return False
        if owner is None:
            return False
        self.holder = f"process {owner.pid} on {owner.hostname.partition('?')[0]}"
        if owner.hostname == _machine():
            return True  # or the lock would be broken by now
        self.first_touch = touch if self.first_touch is None else self.first_touch
        return touch != self.first_touch


@cache
def _machine() -> str:
    """Name of this machine as it stands in a lock."""
    with TemporaryDirectory() as folder, MarkerSoftFileLock(Path(folder) / "lock") as lock:
        assert lock.owner is not None
        return lock.owner.hostname


def _lost(loss: LeaseCompromise, folder: Path) -> str:
    reasons = {
        "owner-changed": "another process has taken it, for this one was suspended for long",
        "marker-missing": f"its file {loss.lock_file} was removed",
    }
    unreachable = f"it could not be written for {LEASE} seconds ({loss.error})"
    return f"the lock on {folder} is lost: {reasons.get(loss.reason, unreachable)}"


def target_of(path: str | Path) -> Path:
    """Follow symbolic links to the file that a write to a path changes; it need not exist.

    Every write of this project goes through this function, so that links stay links.

    Raises:
        NoPlainFile: the path leads to a folder, a device or the like.
    """
    target = Path(os.path.realpath(path))
    _check_plain(path, target, "to write")
    return target


def _check_plain(path: str | Path, target: Path, purpose: str) -> None:
    try:
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISREG(mode):
        return
    kinds = {
        "a folder": stat.S_ISDIR,
        "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
        "a pipe": stat.S_ISFIFO,
        "a socket": stat.S_ISSOCK,
        "a link that leads back to itself": stat.S_ISLNK,
    }
    kind = next((name for name, is_kind in kinds.items() if is_kind(mode)), "something else")
    raise NoPlainFile(f"expected a file {purpose} at {path}; it is not a plain file but {kind}")


def read_text(path: str | Path, most: int = _MOST_BYTES, what: str = "a file") -> str:
    """Read a file of UTF-8 text.

    Args:
        path: path of the file.
        most: most bytes of the file.
        what: name of the expected content, for an error.

    Raises:
        ValueError: there is no such file, it is not a plain file, is too large, or is not text.
    """
    if not os.path.lexists(path):
        raise ValueError(f"expected {what} at {path}; there is no such file")
    target = Path(os.path.realpath(path))
    _check_plain(path, target, "to read")
    # One byte more than allowed tells whether the file is too large, without reading all of it.
    with target.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"expected {what} of at most {most} bytes at {path}; it is larger")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"expected {what} at {path}; it is not text in UTF-8") from error


def check_yaml(text: str) -> None:
    """Check that YAML is within bounds before any value is built from it.

    With aliases, a few letters can stand for more values than fit into memory, or for a value that
    contains itself.

    Raises:
        yaml.YAMLError: the text is not YAML, is nested too deeply, has too many values, or refers
            to a value from within itself.
    """
    if len(text) > _MOST_BYTES:
        raise yaml.YAMLError(f"expected at most {_MOST_BYTES} letters; got {len(text)}")
    # The number of values behind each anchor; None while it is still open. The events of the parser
    # are counted, since the loader would build the values first.
    sizes: dict[str, int | None] = {}
    open_nodes: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, Loader=_YAMLLoader):
        anchor: str | None = getattr(event, "anchor", None)
        if isinstance(event, yaml.CollectionStartEvent):
            if len(open_nodes) == _MOST_LEVELS:
                raise yaml.YAMLError(f"expected at most {_MOST_LEVELS} levels of nesting; got more")
            open_nodes.append((anchor, 1))
            if anchor is not None:
                sizes[anchor] = None
            continue
        if isinstance(event, yaml.AliasEvent):
            known = sizes.get(anchor or "")
            if known is None:
                raise yaml.YAMLError(f"expected a value that was whole before *{anchor}; got none")
            size = known
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            if anchor is not None:
                sizes[anchor] = size
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = size
        else:
            continue
        if open_nodes:
            outer, count = open_nodes[-1]
            if count + size > _MOST_VALUES:
                raise yaml.YAMLError(f"expected at most {_MOST_VALUES} values; got more")
            open_nodes[-1] = outer, count + size


def load_yaml(text: str) -> Any:
    """Read plain values from YAML, within the bounds of :func:`check_yaml`.

    Raises:
        yaml.YAMLError: the text is out of bounds, or a value cannot be read.
    """
    check_yaml(text)
    try:
        return yaml.load(text, Loader=_YAMLLoader)
    except (ValueError, TypeError, AttributeError) as error:  # a number of too many digits, a key
        raise yaml.YAMLError(str(error)) from error


def read_settings(path: str | Path) -> dict[str, Any]:
    """Read the settings of a config, by name.

    Raises:
        ValueError: the file cannot be read or is not a config.
    """
    text = read_text(path, what="a config")
    try:
        settings = load_yaml(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"expected a config at {path}; it is not YAML ({reason})") from error
    if settings is None:
        raise ValueError(f"expected a config at {path}; it is empty")
    if not isinstance(settings, dict):
        raise ValueError(f"expected a config at {path}; it has no settings of the form name: value")
    return settings


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file so that its path holds either the whole old or the whole new content.

    A symbolic link stays; the file that it leads to is written.

    Args:
        path: path of the file; its folder is made if missing.
        write: writes the content to the open file that it takes.

    Raises:
        NoPlainFile: the path leads to a folder, a device or the like.
        NotWritten: the system does not write the file; an old one is as it was.
    """
    path = target_of(path)
    try:
        _replace(path, write)
    except OSError as error:
        raise NotWritten.of(path, error) from error
    except RuntimeError as error:
        # PyTorch's writer of archives tells a full disk by a place in its own source.
        if not any(word in str(error) for word in ("PytorchStreamWriter", "inline_container")):
            raise
        raise NotWritten.of(path, OSError("the disk may be full")) from error


def _replace(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write the new content beside the old file, then put it in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, since a rename is atomic within one file system alone; with the number of
    # the process, so that two writers do not meet.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            # The content must reach the disk before the name does, or a power cut may leave an
            # empty file.
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with suppress(OSError):  # where nothing can be written, nothing can be removed
            part.unlink(missing_ok=True)


def cached(folder: Path, key: bytes, compute: Callable[[], bytes]) -> bytes:
    """Result of ``compute`` for ``key``, computed once and kept in a file.

    Several processes may call it at once: each writes a whole file, all with the same content.

    Args:
        folder: folder of the files; made if missing.
        key: everything that the result depends on, with the version of the code.
        compute: makes the result. It is called if there is no file for this key, or a damaged one,
            which is then replaced.

    Raises:
        OSError: the file can be neither read nor written.
    """
    # A hash as name: keys of any length, and no character that a file system forbids.
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
    """Checksum of a result and of its file's name, which stands for the key."""
    # With the name: a file that was renamed or copied to another key counts as damaged.
    return hashlib.sha256(path.name.encode() + result).digest()
