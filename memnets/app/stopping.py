"""An orderly end of a command by Ctrl-C or SIGTERM, with a message and an exit code.

This module imports nothing slow, so that it can come before the slow imports.
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
    """Error: a signal asks the command to end.

    Args:
        signum: number of the signal.
        message: message for the user.
    """

    def __init__(self, signum: int, message: str = "stopped") -> None:
        super().__init__(message)
        self.signum = signum

    @staticmethod
    def behind(error: BaseException) -> Stopped | None:
        """The signal behind an error; a trainer, for example, turns it into an exit."""
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, Stopped):
            suppressed = cause.__suppress_context__
            cause = cause.__cause__ or (None if suppressed else cause.__context__)
        return cause


#: Number of the process that listens. Forked processes inherit the handlers, but end in Python's
#: usual way.
_listener: int | None = None


def _stop(signum: int, frame: FrameType | None) -> None:
    if os.getpid() != _listener:
        raise KeyboardInterrupt
    # A second signal ends the process at once.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    raise Stopped(signum)


def restore_handlers() -> None:
    """Set our handlers again, after a library has set its own."""
    if os.getpid() == _listener and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into a message and the exit codes 130 and 143 of shells.

    Raises:
        SystemExit: a signal came.
    """
    global _listener
    # Only the main thread can handle signals.
    if threading.current_thread() is not threading.main_thread():
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
            raise  # the message is already printed
        if str(stopped):
            print(f"memnets: {stopped}", file=sys.stderr)
        sys.exit(code)
    finally:
        _listener, handlers = before
        for number, handler in handlers.items():
            signal.signal(number, handler)
