"""Commands in processes of their own that need not import everything again."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest


class Forked:
    """A copy of this process that runs a function, and then ends with its exit code.

    A new process imports for seconds before it does anything; a copy has all that this one has,
    patches too. It is in a session of its own, which it leads.

    Args:
        run: the function; a ``SystemExit`` gives the code.
        *arguments: for the function.
        folder: where ``out`` and ``err`` go, what it prints; ``None`` = nowhere.
        **environment: variables of its environment.
    """

    def __init__(
        self,
        run: Callable[..., Any],
        *arguments: Any,
        folder: Path | None = None,
        **environment: str,
    ) -> None:
        def begin() -> None:
            os.setsid()
            # A shell's background jobs, which these tests may be, ignore interrupts.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.environ.update(environment)
            for descriptor, name in ((1, "out"), (2, "err")):
                file = (folder / name if folder else Path(os.devnull)).open("w")
                os.dup2(file.fileno(), descriptor)
                setattr(sys, f"std{name}", file)
            run(*arguments)

        self.folder = folder
        self.process = multiprocessing.get_context("fork").Process(target=begin)
        self.process.start()
        self.pid: int = self.process.pid  # type: ignore[assignment]

    def said(self) -> tuple[str, str]:
        """The text that it has printed, as output and as errors."""
        assert self.folder
        return (self.folder / "out").read_text(), (self.folder / "err").read_text()

    def poll(self) -> int | None:
        """The exit code, ``None`` while it runs."""
        return self.process.exitcode

    def wait(self, seconds: float | None = None) -> int:
        """Wait for the exit code."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, "it has not ended"
        return self.process.exitcode

    def kill(self) -> None:
        """Kill it, with no chance to clean up."""
        self.process.kill()
        self.process.join()

    def kill_all(self) -> None:
        """Kill it and all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.kill()  # it may have no group of its own yet
        self.process.join()


#: Python warns of copies of processes with threads; those of the test runner wait for messages.
MAY_FORK = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
