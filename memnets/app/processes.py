"""Several processes of one run: which of them speaks, and what ends when one of them does.

Lightning starts them (``--trainer.devices=2``), or torchrun or Slurm does. This module imports
nothing slow, so that it can come before the slow imports.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from memnets.app.stopping import name_of_signal

__all__ = ["Children", "ProcessLost", "lost", "rank", "says_errors"]

#: Variables with the number of a process, as Lightning reads them.
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
#: The same on its machine.
_LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID", "JSM_NAMESPACE_LOCAL_RANK")
#: Seconds that a process has to notice by itself that another one has ended, and to end too.
PATIENCE = 10.0


class ProcessLost(RuntimeError):
    """Error: another process of this run has ended."""


def rank() -> int:
    """The number of this process among several of a run, also before there is a trainer."""
    lightning: Any = sys.modules.get("pytorch_lightning.utilities")
    if lightning is not None and hasattr(lightning, "rank_zero_only"):
        known = int(getattr(lightning.rank_zero_only, "rank", None) or 0)
    else:
        known = _number(_RANKS)
    # The first process of another machine, where Lightning starts the processes of each.
    return known or int(os.environ.get("NODE_RANK", 0))


def _number(names: Sequence[str]) -> int:
    return int(next((os.environ[name] for name in names if name in os.environ), 0))


def lost(error: BaseException) -> bool:
    """Whether an error says no more than that another process has gone."""
    if isinstance(error, ProcessLost):
        return True
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return "DistError" in kinds or "gloo/transport" in str(error)


#: What was answered first, by which this process stays.
_says: bool | None = None


def says_errors() -> bool:
    """Whether this process is the one of a run that says why the run ends.

    The first that asks is the one: its error is the cause, and that of the others the effect, or
    the same error once more. Before the processes have met, it is the first one on its machine.
    """
    global _says
    distributed: Any = sys.modules.get("torch.distributed")
    if not (distributed and distributed.is_available() and distributed.is_initialized()):
        # Those that Lightning starts come after the first has found no error of its own.
        return not rank() or not _number(_LOCAL_RANKS) or "NODE_RANK" in os.environ
    if distributed.get_world_size() == 1:
        return True
    if _says is None:
        try:
            store = distributed.distributed_c10d._get_default_store()
            _says = store.add("memnets/errors", 1) == 1
        except Exception:  # it has ended together with the process that had it
            _says = rank() == 1 or not _number(_LOCAL_RANKS)
    return _says


class Children:
    """The processes that Lightning has started for a run, from the view of the first.

    A process may wait for one that has ended, for as long as half an hour. So a thread looks after
    the others, in the place of Lightning's, which would end all without a word.
    """

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[Any]] = []
        self._left = threading.Event()

    def observe(self, processes: Sequence[subprocess.Popen[Any]]) -> None:
        """Begin to look after processes."""
        self.processes = list(processes)
        threading.Thread(target=self._look, daemon=True, name="children").start()

    def _look(self) -> None:
        while not self._left.wait(1.0):
            codes = [process.poll() for process in self.processes]
            if all(code == 0 for code in codes):
                return
            if any(codes) and not self._left.wait(PATIENCE):
                self._end_all()

    def _end_all(self) -> None:
        """End the run from within the thread: the main one waits for a process that has ended."""
        if said := self.killed():  # another one has said its error
            print(f"memnets: error: {said}", file=sys.stderr)
        self._kill()
        sys.stdout.flush()
        os._exit(1)

    def killed(self) -> str:
        """Processes that a signal has ended, in words; empty if there are none."""
        names = [
            f"process {number} of this run was killed ({name_of_signal(-process.returncode)})"
            for number, process in enumerate(self.processes, start=1)
            if process.returncode is not None and process.returncode < 0
        ]
        return ", ".join(names)

    def end(self, patience: float) -> None:
        """End the processes; they have so many seconds to print their errors."""
        self._left.set()
        for process in self.processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)
        self._kill()

    def _kill(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
