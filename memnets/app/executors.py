"""Many trainings on an executor: processes of this machine, Slurm, dask, or one of your own.

An executor has the interface of :class:`concurrent.futures.Executor`. Of what it runs it needs to
know nothing: :func:`train`, a function that can be pickled, runs one command of ``memnets`` in a
process of its own, on whatever machine it is called. :class:`Trainings` hands trainings to an
executor, and holds, with files alone, what an executor does not promise:

* **Nothing is trained twice.** A training holds a lock on its folder from its first moment to its
  end, see :func:`memnets.files.only_writer`. If an executor calls a training again, since it lost a
  machine, it goes on from its last checkpoint, and one that is finished is left as it is.
* **A training goes on no longer than it is wanted.** It needs a *permit*, a file that its owner, a
  scoreboard or a sweep, removes to stop it. The owner holds a lock, too, and is gone when it gives
  no sign of life. A training whose worker was killed sees that its input ends.
* **Stopped trainings leave their checkpoints**: they are asked to end, and killed only later.

All machines need to see the same folder of runs at the same path, and need to have ``memnets``.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from memnets.files import LEASE, only_writer, target_of, write_atomically
from memnets.records import final_metrics, versions

__all__ = ["Outcome", "Processes", "Trainings", "train", "trainings"]

#: Seconds a training has to stop before it is killed; its checkpoints are whole either way.
PATIENCE = 20.0

#: Seconds between two looks at the permit of a training.
_GLANCE = 1.0

#: Exit code of a training that was not wanted any more before it began.
_UNWANTED = 128 + signal.SIGTERM


class Outcome(NamedTuple):
    """The end of a training.

    Attributes:
        code: its exit code; 0 = finished, and minus the number of the signal that killed it.
        line: the last line that it printed, such as its error; or the signal, in words.
    """

    code: int
    line: str = ""


def train(
    command: Sequence[str],
    folder: str,
    permit: str,
    owner: str,
    here: str,
    program: str = "memnets",
) -> Outcome:
    """Run a command of ``memnets`` in a process of its own, on whatever machine this is.

    It is the only one in its folder. If there is a checkpoint it goes on from that, and if it is
    finished already nothing is done. What it prints is added to ``fit.log`` in the folder.

    Args:
        command: the command, from ``fit`` on, without ``--ckpt_path``.
        folder: absolute path of the folder of its versions.
        permit: absolute path of a file; the training is stopped when it is removed.
        owner: absolute path of the lock of who wants the training; it is stopped when the lock is
            gone, or gives no sign of life.
        here: absolute path of the folder to run in.
        program: module that is run.
    """
    if not Path(here).is_dir() or not Path(folder).is_dir():
        missing = folder if Path(here).is_dir() else here
        return Outcome(1, f"{socket.gethostname()} has no folder {missing}, which it needs to share")
    try:
        if any(final_metrics(version) for version in versions(Path(folder))):
            return Outcome(0)
    except (ValueError, OSError) as error:
        return Outcome(1, str(error))
    wanted = _Wanted(Path(permit), Path(owner))
    if not wanted():
        return Outcome(_UNWANTED, "stopped before it began")
    log = target_of(Path(folder) / "fit.log")
    with log.open("ab") as file:
        began = file.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "memnets.app.held", folder, permit, program, *command],
            cwd=here,
            env=_environment(),
            stdin=subprocess.PIPE,  # which ends when this process does, however that is
            stdout=file,
            stderr=subprocess.STDOUT,
            # Signals of a terminal, or of a worker, are for this process, which passes them on.
            start_new_session=True,
        )
    try:
        while process.poll() is None and wanted():
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GLANCE)
    finally:
        _stop(process)
    return Outcome(process.returncode, _last_line(log, began, process.returncode))


def _environment() -> dict[str, str]:
    """The variables of a training: those of this process, but that it is a task of Slurm.

    Lightning would take it for one of several that ``srun`` has begun; but a training begins others
    on its own.
    """
    tasks = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
    return {name: value for name, value in os.environ.items() if name not in tasks}


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a training, if it has not ended; it goes on from its last checkpoint another time."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdin is not None
    process.stdin.close()


def _last_line(log: Path, began: int, code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    with log.open("rb") as file:
        file.seek(began)
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {code}, and no line"


class _Wanted:
    """Whether a training is still wanted: it has its permit, and its owner is alive."""

    def __init__(self, permit: Path, owner: Path) -> None:
        self.permit, self.owner = permit, owner
        self.touch, self.since = 0.0, time.monotonic()
        self.missing = False

    def __call__(self) -> bool:
        try:
            # A file that is opened is looked for on the server; that it exists may be remembered.
            with self.permit.open("rb"):
                pass
        except FileNotFoundError:
            return False
        except OSError:
            pass  # a network file system that is out of reach for a moment
        missing = False
        try:
            with self.owner.open("rb") as file:
                touch = os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            # Who finds a lock without a holder moves it away, looks again, and puts it back.
            missing, touch = True, self.touch
        except OSError:
            touch = self.touch
        if touch != self.touch:
            self.touch, self.since = touch, time.monotonic()
        gone = missing and self.missing or time.monotonic() - self.since > LEASE
        self.missing = missing
        return not gone


class Trainings:
    """Trainings of one owner on an executor; made by :func:`trainings`.

    Attributes:
        executor: runs them.
        owner: the lock of the owner.
        permits: folder of the permits.
        program: module that is run.
    """

    def __init__(
        self, executor: Executor, owner: Path, permits: Path, program: str = "memnets"
    ) -> None:
        self.executor, self.owner, self.permits, self.program = executor, owner, permits, program
        self._permits: dict[Future[Outcome], tuple[Path, Path]] = {}

    def submit(self, command: Sequence[str], folder: Path) -> Future[Outcome]:
        """Have a training run: see :func:`train`.

        Args:
            command: the command, from ``fit`` on, without ``--ckpt_path``.
            folder: folder of its versions, which is made.
        """
        folder.mkdir(parents=True, exist_ok=True)
        permit = self.permits / secrets.token_hex(8)
        write_atomically(permit, lambda file: file.write(f"{folder}\n".encode()))
        paths = (str(path.absolute()) for path in (folder, permit, self.owner, Path()))
        future = self.executor.submit(train, tuple(command), *paths, self.program)
        self._permits[future] = folder, permit
        future.add_done_callback(lambda _: permit.unlink(missing_ok=True))
        return future

    def cancel(self, future: Future[Outcome]) -> None:
        """Stop a training, which leaves its checkpoint, or take it from the queue."""
        folder, permit = self._permits[future]
        permit.unlink(missing_ok=True)
        if not self.began(future):
            future.cancel()

    def began(self, future: Future[Outcome]) -> bool:
        """Whether a training is at work on some machine, or was."""
        return future.done() or (self._permits[future][0] / ".lock").exists()


@contextmanager
def trainings(
    folder: Path, executor: Executor, name: str = "scoreboard", program: str = "memnets"
) -> Iterator[Trainings]:
    """An executor for the trainings in a folder of runs, which are stopped at the end.

    Args:
        folder: folder of the runs, which is made.
        executor: runs them; it is shut down at the end.
        name: name of the owner. In a folder there is one of a name at a time.
        program: module that is run.

    Raises:
        FolderInUse: there is another owner of this name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder, f".{name}.lock") as owner, executor:
        permits = folder / f".{name}"
        permits.mkdir(exist_ok=True)
        for left in permits.iterdir():  # of an owner that was killed; its trainings stop
            left.unlink()
        made = Trainings(executor, owner, permits, program)
        try:
            yield made
        finally:
            working = [future for future in made._permits if not future.done()]
            for future in working:
                made.cancel(future)
            wait(working, PATIENCE + 10)
            with suppress(OSError):
                permits.rmdir()


class Processes(ThreadPoolExecutor):
    """Processes of this machine: each thread waits for one.

    Args:
        processes: how many trainings run at once; if not given, as many as there are cores.
    """

    def __init__(self, processes: int | None = None) -> None:
        super().__init__(processes or os.cpu_count() or 1, "training")
