"""Ctrl-C and SIGTERM end a command in order: it says what is left, and its exit code which it was.

This module imports nothing that takes long, so that it can come before what does.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stopped", "restore_handlers", "stoppable"]


class Stopped(KeyboardInterrupt):
    """A signal asks the command to end.

    Args:
        signum: which one.
        message: for the user.
    """

    def __init__(self, signum: int, message: str = "stopped") -> None:
        super().__init__(message)
        self.signum = signum

    @staticmethod
    def behind(error: BaseException) -> Stopped | None:
        """The signal that an error goes back to, such as the exit that a trainer makes of it."""
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, Stopped):
            cause = cause.__context__
        return cause


#: Only the process that was told to listen does; those that it forks end as Python ends them.
_listener: int | None = None


def _stop(signum: int, frame: FrameType | None) -> None:
    if os.getpid() != _listener:
        raise KeyboardInterrupt
    # Who asks twice does not want to wait.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    raise Stopped(signum)


def restore_handlers() -> None:
    """Listen to the signals again, after a library has put handlers of its own in place of ours."""
    if os.getpid() == _listener and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)


@contextmanager
def stoppable() -> Iterator[None]:
    """Make of Ctrl-C and SIGTERM a line and the exit codes 130 and 143, as shells have them.

    Raises:
        SystemExit: a signal came.
    """
    global _listener
    if threading.current_thread() is not threading.main_thread():  # signals are not for this one
        yield
        return
    before = _listener, {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    _listener = os.getpid()
    restore_handlers()
    try:
        yield
    except BaseException as error:
        stopped = Stopped.behind(error)
        if stopped is None:
            raise
        code = 128 + stopped.signum
        if isinstance(error, SystemExit) and error.code == code:
            raise  # it was said
        if str(stopped):
            print(f"memnets: {stopped}", file=sys.stderr)
        sys.exit(code)
    finally:
        _listener, handlers = before
        for number, handler in handlers.items():
            signal.signal(number, handler)
