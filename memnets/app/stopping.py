"""An orderly end of a command by a signal or its time limit, with a message and an exit code.

This module imports nothing slow, so that it can come before the slow imports.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = [
    "QUEUE_AGAIN",
    "SIGNALS",
    "Stopped",
    "asked_to_stop",
    "name_of_signal",
    "patient",
    "restore_handlers",
    "stoppable",
]

#: Exit code of a training that is not finished and goes on when it is started again: the
#: ``EX_TEMPFAIL`` of ``sysexits.h``.
QUEUE_AGAIN = 75

#: The signals that end a command: Ctrl-C, and two that schedulers send. Windows lacks the last one.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)


def name_of_signal(number: int) -> str:
    """Name of a signal, such as ``SIGKILL``; a number for those of real time, which have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Stopped(KeyboardInterrupt):
    """Error: a signal, or a limit of time, ends the command.

    Args:
        signum: number of the signal; ``None`` for a limit of time.
        message: message for the user.
        code: exit code of the command; by default that of a shell, 128 and the number.
    """

    def __init__(
        self, signum: int | None, message: str = "stopped", code: int | None = None
    ) -> None:
        super().__init__(message)
        self.signum = signum
        self.code = 128 + (signum or 0) if code is None else code

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

#: Seconds in which the same signal of a scheduler counts once: ``torchrun`` and ``timeout`` send it
#: on to a process that may have it already.
_TWICE = 2.0
#: Time at which the first signal came.
_came: float | None = None

#: Whether signals wait for :func:`asked_to_stop`; and the one that waits.
_patient = False
_waiting: int | None = None
#: What is said after Ctrl-C while it waits.
_says = ""


def _stop(signum: int, frame: FrameType | None) -> None:
    global _came, _waiting
    if os.getpid() != _listener:
        raise KeyboardInterrupt
    if _came is not None:
        if time.monotonic() - _came > _TWICE:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        return
    _came = time.monotonic()
    # A second signal ends the process at once.
    for number in SIGNALS:
        if number != signum or number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
    if _patient:
        _waiting = signum
        if signum == signal.SIGINT and _says:
            with suppress(OSError):  # not by print, which the signal may have interrupted
                os.write(2, f"memnets: {_says}\n".encode())
        return
    raise Stopped(signum)


def patient(waits: bool, says: str = "") -> None:
    """Let signals wait until they are asked for, or end the command at once.

    Args:
        waits: whether they wait, as during a training that first saves a checkpoint.
        says: a line for whoever presses Ctrl-C meanwhile.

    Raises:
        Stopped: a signal has waited, and no longer may.
    """
    global _patient, _says
    _patient, _says = waits, says
    signum = asked_to_stop()
    if signum is not None and not waits:
        raise Stopped(signum)


def asked_to_stop() -> int | None:
    """Number of the signal that waits; ``None`` if there is none."""
    return _waiting


def restore_handlers() -> None:
    """Set our handlers again, after a library has set its own."""
    ours = os.getpid() == _listener and threading.current_thread() is threading.main_thread()
    if ours and _came is None:
        for number in SIGNALS:
            signal.signal(number, _stop)


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn signals into a message and an exit code, 130 after Ctrl-C and 143 after SIGTERM.

    Raises:
        SystemExit: a signal came.
    """
    global _came, _listener, _patient, _says, _waiting
    # Only the main thread can handle signals.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = _listener, {number: signal.getsignal(number) for number in SIGNALS}
    _listener = os.getpid()
    restore_handlers()
    try:
        yield
    except BaseException as error:
        stopped = Stopped.behind(error)
        if stopped is None:
            raise
        if isinstance(error, SystemExit) and error.code == stopped.code:
            raise  # the message is already printed
        if str(stopped):
            print(f"memnets: {stopped}", file=sys.stderr)
        sys.exit(stopped.code)
    finally:
        _came, _patient, _says, _waiting = None, False, "", None
        _listener, handlers = before
        for number, handler in handlers.items():
            signal.signal(number, handler)
