"""Build the C++ operators of this package once, keep them in a cache, and load them.

They are built when they are first needed, with the compiler of the machine and for its processor.
The library lies in the folder of PyTorch's own extensions, under a name that changes with the
sources, the compiler's options, PyTorch, Python and the processor. Whatever goes wrong, parts run
without it, by their other twins; :func:`why_not` says why.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import torch
from filelock import FileLock

__all__ = ["SWITCH", "Unavailable", "at_hand", "compiler", "folder", "load", "loaded", "why_not"]

#: Set to 0 in the environment, it switches the operators off.
SWITCH = "MEMNETS_NATIVE"

SOURCES = Path(__file__).parent

#: Options of the compiler. Those that change the arithmetic of infinities and NaN are not among
#: them: -ffast-math would.
OPTIONS = (
    *("-std=c++20", "-O3", "-fPIC", "-fopenmp", "-march=native"),
    *("-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-w"),
)

#: About how long a build takes, in seconds, for the note.
EXPECTED = 25


class Unavailable(RuntimeError):
    """Error: the operators cannot be used here; the message says why."""


class _Later(Unavailable):
    """Error: another process will build the operators."""


_lock = threading.Lock()


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()


# A thread that held the lock does not exist in a process that was forked meanwhile.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)

#: Why a first try failed; a failed build is not tried twice in a process.
_failed: str | None = None
_loaded = False


def loaded() -> bool:
    """Whether the operators can run; loads them, and builds them if they are not built yet."""
    global _failed
    if _loaded:
        return True
    if _failed is not None:
        return False
    with _lock:
        if not _loaded and _failed is None:
            try:
                load()
            except _Later:
                return False
            except Exception as error:  # none of them may end a training
                _failed = _in_a_line(str(error) or type(error).__name__)
    return _loaded


def at_hand() -> bool:
    """Whether the operators are loaded already; builds and loads nothing."""
    return _loaded


def why_not() -> str | None:
    """Why the operators cannot run in this process; ``None`` if they can."""
    return None if loaded() else _failed


def folder() -> Path:
    """Folder that holds the library, in that of PyTorch's extensions."""
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    if root is None:
        # PyTorch's name for the same is in torch.utils.cpp_extension, which takes long to import.
        from torch import _appdirs

        root = _appdirs.user_cache_dir(appname="torch_extensions")
    # Unlike the method of a path, this takes a user without a home.
    return Path(os.path.expanduser(root)) / "memnets"


def library() -> Path:
    """File of the library that is right for this process, built or not."""
    parts = [*OPTIONS, torch.__version__, sys.implementation.cache_tag, _processor()]
    parts += [os.environ.get("CXX", "")]
    key = hashlib.sha256("\0".join(parts).encode())
    for path in sorted(SOURCES.glob("*.[ch]*")):
        key.update(path.name.encode() + b"\0" + path.read_bytes())
    return folder() / f"operators_{key.hexdigest()[:16]}.so"


def _processor() -> str:
    """Name and instruction sets: processors with the same ones can run the same library."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        named = ("model name", "flags", "Features", "CPU part")
        found = {line.partition(":")[0].strip(): line for line in lines if line.startswith(named)}
        return "\n".join([platform.machine(), *sorted(found.values())])
    return f"{platform.machine()} {platform.processor()}"


def compiler() -> list[str]:
    """The command of the compiler: that of the variable ``CXX``, or ``c++``, as in PyTorch.

    Raises:
        Unavailable: there is no such program.
    """
    named = os.environ.get("CXX", "").strip() or "c++"
    try:
        command = shlex.split(named)
    except ValueError as error:
        raise Unavailable(f"no C++ compiler: CXX={named} is not a command ({error})") from error
    if not command[0] or shutil.which(command[0]) is None:
        raise Unavailable(f"no C++ compiler: {command[0]} is not found")
    return command


def load() -> None:
    """Load the operators into PyTorch, and build them before if they are not built yet.

    Raises:
        Unavailable: they are switched off, or cannot be built or loaded.
    """
    global _loaded
    if os.environ.get(SWITCH, "").lower() in ("0", "off", "no", "false"):
        raise Unavailable(f"switched off by {SWITCH}={os.environ[SWITCH]}")
    path = library()
    try:
        kept = path.exists()
    except OSError as error:
        raise Unavailable(f"{path.parent} cannot be read: {error.strerror}") from error
    if not kept:
        # A worker that makes batches should not compile; the process that trains will.
        if torch.utils.data.get_worker_info() is not None:
            raise _Later("a worker that makes batches builds nothing")
        _build_once(path)
    try:
        torch.ops.load_library(str(path))
    except (OSError, RuntimeError) as error:
        # A library that lay there may be damaged; one that was just built is as good as it gets.
        if not kept:
            reason = _in_a_line(str(error.__cause__ or error))
            raise Unavailable(f"the library cannot be loaded: {reason}") from error
        with suppress(OSError):
            path.unlink()
        if path.exists():
            raise Unavailable(f"{path} is damaged and cannot be removed") from error
        load()
    _loaded = True


def _build_once(path: Path) -> None:
    """Build the library under a lock, so that of several processes one builds and all load."""
    command = compiler()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The lock is free when its process ends, however that is.
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                _build(command, path)
    except (OSError, NotImplementedError) as error:  # the latter where files cannot be locked
        reason = getattr(error, "strerror", None) or error
        raise Unavailable(f"{path.parent} cannot be written: {reason}") from error


def _build(command: list[str], path: Path) -> None:
    for left in path.parent.glob(f"{path.stem}.*.building"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    place = Path(tempfile.mkdtemp(prefix=f"{path.stem}.", suffix=".building", dir=path.parent))
    _say(f"building its CPU operators once, about {EXPECTED} s; later runs use {path}")
    start = time.monotonic()
    try:
        to_compile, to_link = _arguments()
        sources = sorted(SOURCES.glob("*.cpp"))
        sources.sort(key=lambda one: one.stem not in ("run", "scan"))  # they take longest
        made = {str(one): str(place / f"{one.stem}.o") for one in sources}
        _run([[*command, *to_compile, "-c", one, "-o", to] for one, to in made.items()], place)
        _run([[*command, *made.values(), "-o", str(place / path.name), *to_link]], place)
        if not (place / path.name).exists():
            raise Unavailable(f"{command[0]} ended well, but made no library")
        # The library is there as a whole or not at all.
        os.replace(place / path.name, path)
    except Exception as error:
        _say(f"not built, so steps run without them, slower ({SWITCH}=0 tries no more): {error}")
        raise
    finally:
        shutil.rmtree(place, ignore_errors=True)
    _say(f"CPU operators built in {time.monotonic() - start:.0f} s")


def _arguments() -> tuple[list[str], list[str]]:
    """Arguments of the compiler to compile a file, and to make a library of what it compiled."""
    # torch.utils.cpp_extension knows these places too, but needs setuptools, and warns.
    root = Path(torch.__file__).parent
    abi = int(torch.compiled_with_cxx11_abi())
    headers = [f"-I{root / 'include' / part}" for part in ("", "torch/csrc/api/include")]
    # PyTorch's libraries are in the process already, under these names.
    return (
        [*OPTIONS, f"-D_GLIBCXX_USE_CXX11_ABI={abi}", *headers],
        ["-shared", "-fopenmp", f"-L{root / 'lib'}", "-lc10", "-ltorch_cpu"],
    )


def _run(commands: list[list[str]], place: Path) -> None:
    """Run commands of a compiler side by side, and say now and then that they still run.

    Args:
        commands: words of each command.
        place: folder for the files that they need meanwhile.

    Raises:
        Unavailable: one of them failed.
    """
    waiting, start = commands[::-1], time.monotonic()
    said, surroundings = start, {**os.environ, "TMPDIR": str(place)}
    running: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryFile("w+", errors="replace", dir=place) as output:
        try:
            while waiting or running:
                while waiting and len(running) < (os.cpu_count() or 1):
                    running.append(_started(waiting.pop(), output, surroundings))
                for one in running:
                    if one.poll():
                        raise Unavailable(_failure(one, output))
                running = [one for one in running if one.returncode is None]
                time.sleep(0.02)
                if time.monotonic() - said > EXPECTED:
                    said = time.monotonic()
                    _say(f"still building its CPU operators, {said - start:.0f} s")
        finally:
            for one in running:
                _end(one)


def _started(
    command: list[str], output: IO[str], surroundings: dict[str, str]
) -> subprocess.Popen[bytes]:
    # In a session of its own: a compiler runs others, which must end with it.
    try:
        return subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=surroundings,
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise Unavailable(f"{command[0]} cannot be run: {error.strerror}") from error


def _end(one: subprocess.Popen[bytes]) -> None:
    """End a command and what it runs."""
    with suppress(ProcessLookupError):
        if one.poll() is not None:
            return
        if hasattr(os, "killpg"):
            os.killpg(one.pid, signal.SIGKILL)
        else:
            one.kill()
    one.wait()


def _failure(ended: subprocess.Popen[bytes], output: IO[str]) -> str:
    """The first error that the compiler wrote, in a line."""
    output.seek(0)
    lines = output.read().splitlines()
    first = next((line for line in lines if "error" in line), lines[0] if lines else "")
    assert isinstance(ended.args, list)
    reason = _in_a_line(first) or "it said nothing"
    return f"{ended.args[0]} failed with {ended.returncode}: {reason}"


def _in_a_line(message: str) -> str:
    return " ".join(message.split())[:300]


def _say(message: str) -> None:
    print(f"memnets: {message}", file=sys.stderr, flush=True)
