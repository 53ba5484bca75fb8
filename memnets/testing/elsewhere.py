"""A second process, started once, in which texts have other hashes; it makes a part again."""

from __future__ import annotations

import atexit
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

__all__ = ["elsewhere", "serve"]


def elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in another process; ``None`` if it cannot be had.

    That process is started at the first call, which takes seconds, and ends with this one. It can
    import what this one can, but not what is defined within a function or in a script; and it
    knows nothing that a test has put in place of something else.

    Args:
        function: function of a module.
        arguments: its arguments, which are pickled, as is the result.
    """
    try:
        asked = pickle.dumps((function, arguments))
        process = _process()
        assert process.stdin is not None
        assert process.stdout is not None
        pickle.dump((sys.path, os.getcwd(), asked), process.stdin)
        process.stdin.flush()
        return pickle.load(process.stdout)
    except (pickle.PicklingError, AttributeError, TypeError):  # of what cannot be sent
        return None
    except (OSError, EOFError):  # it has ended, or could not begin
        _process.cache_clear()
        return None


@cache
def _process() -> subprocess.Popen[bytes]:
    salt = "1" if os.environ.get("PYTHONHASHSEED") == "0" else "0"
    process = subprocess.Popen(
        [sys.executable, "-c", "from memnets.testing.elsewhere import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={
            **os.environ,
            "PYTHONHASHSEED": salt,
            "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
        },
    )
    atexit.register(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    with process:  # which waits for it, and closes the pipes
        process.kill()


def serve() -> None:
    """Answer the calls of another process until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed is no answer
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            sys.path[:], folder, asked = pickle.load(sys.stdin.buffer)
            try:
                os.chdir(folder)
                function, arguments = pickle.loads(asked)
                answer = pickle.dumps(function(*arguments))
            except Exception:  # of a part that is not found there, or cannot be made
                answer = pickle.dumps(None)
            answers.write(answer)
            answers.flush()
