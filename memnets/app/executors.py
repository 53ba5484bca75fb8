"""Many trainings on an executor: processes of this machine, Slurm, dask, or one of your own.

An executor has the interface of :class:`concurrent.futures.Executor`. It needs to know nothing of
trainings: it calls :func:`train`, a function that can be pickled, which runs one command of
``memnets`` in a process of its own. :class:`Trainings` hands trainings to an executor. An executor
does not promise the following; files alone see to it:

* **Nothing is trained twice.** A training holds a lock on its folder from its first moment to its
  end, see :func:`memnets.files.only_writer`. If an executor calls a training again, since it lost a
  machine, it goes on from its last checkpoint, and one that is finished is left as it is.
* **A training ends when nobody wants it any more.** It needs a *permit*, a file; its owner, a
  scoreboard or a sweep, removes the file to stop it. The owner holds a lock too, and counts as gone
  when it no longer touches it. A training whose worker was killed sees that its input ends.
* **Stopped trainings leave their checkpoints**: they are asked to end, and killed only later.

All machines need ``memnets``, and the folder of runs at the same path.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    CancelledError,
    Executor,
    Future,
    InvalidStateError,
    ThreadPoolExecutor,
    wait,
)
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

from memnets.app.stopping import QUEUE_AGAIN, name_of_signal
from memnets.extras import check_extra
from memnets.files import LEASE, FolderInUse, only_writer, target_of, write_atomically

__all__ = [
    "ExecutorError",
    "Outcome",
    "Trainings",
    "dask",
    "processes",
    "submitit",
    "train",
    "trainings",
]

#: Seconds a training has to stop before it is killed; its checkpoints are whole either way.
PATIENCE = 20.0

#: Seconds between two looks at the permit of a training.
_GLANCE = 1.0

#: Trainings at work in this process.
_working: list[subprocess.Popen[bytes]] = []


class ExecutorError(ValueError):
    """Error: an executor cannot be started, or takes no trainings."""


class Outcome(NamedTuple):
    """The end of a training.

    Attributes:
        code: its exit code; 0 = finished, and minus the number of the signal that killed it.
        line: the last line that it printed, such as its error; or the signal, in words.
    """

    code: int
    line: str = ""

    @property
    def stopped(self) -> bool:
        """Whether it was stopped, by its time limit or by a scheduler, and goes on another time."""
        return self.code in (QUEUE_AGAIN, _STOPPED.code)


#: The end of a training that was not wanted any more, as a shell would say it.
_STOPPED = Outcome(128 + signal.SIGTERM, "stopped")


def train(
    command: Sequence[str],
    folder: str,
    permit: str,
    owner: str,
    here: str,
    program: str = "memnets",
) -> Outcome:
    """Run a command of ``memnets`` in a process of its own, on whatever machine this is.

    It is the only one in its folder: see :mod:`memnets.app.held`. If there is a checkpoint it goes
    on from that, and if it is finished already nothing is done. What it prints is added to
    ``fit.log`` in the folder.

    Args:
        command: the command, from ``fit`` on, without ``--ckpt_path``.
        folder: absolute path of the folder of its versions.
        permit: absolute path of a file; the training is stopped when it is removed.
        owner: absolute path of the owner's lock; the training is stopped when the lock is gone, or
            has not been touched for a minute.
        here: absolute path of the folder to run in.
        program: module that is run.
    """
    if not Path(here).is_dir() or not Path(folder).is_dir():
        missing = folder if Path(here).is_dir() else here
        return Outcome(
            1, f"{socket.gethostname()} has no folder {missing}, which it needs to share"
        )
    wanted = _Wanted(Path(permit), Path(owner))
    if not wanted():
        return _STOPPED
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
    _working.append(process)
    try:
        while process.poll() is None and wanted():
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GLANCE)
    finally:
        _stop(process)
        _working.remove(process)
    if process.returncode and not wanted():
        return _STOPPED
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
        # With the further processes that it has begun: its session is one of its own.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.stdin is not None
    process.stdin.close()


def _last_line(log: Path, began: int, code: int) -> str:
    if code < 0:
        return f"killed by {name_of_signal(-code)}"
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
        gone = (missing and self.missing) or time.monotonic() - self.since > LEASE
        self.missing = missing
        return not gone


def most_here(threads: int) -> int:
    """Number of trainings, of so many threads each, that the cores here take; at least 1."""
    return max(1, (os.cpu_count() or 1) // threads)


class Trainings:
    """Trainings of one owner on an executor; made by :func:`trainings`."""

    def __init__(self, executor: Executor, owner: Path, permits: Path, program: str) -> None:
        self._executor, self._owner, self._program = executor, owner, program
        self._folder = permits
        self._submitted: dict[Future[Outcome], tuple[Path, Path]] = {}
        self._cancelled: set[Future[Outcome]] = set()

    def submit(self, command: Sequence[str], folder: Path) -> Future[Outcome]:
        """Have a training run: see :func:`train`.

        Args:
            command: the command, from ``fit`` on, without ``--ckpt_path``.
            folder: folder of its versions, which is made.

        Raises:
            ExecutorError: the executor takes no more.
        """
        folder.mkdir(parents=True, exist_ok=True)
        permit = self._folder / secrets.token_hex(8)
        write_atomically(permit, lambda file: file.write(f"{folder}\n".encode()))
        at, needs, owner, here = (
            str(path.absolute()) for path in (folder, permit, self._owner, Path())
        )
        try:
            future = self._executor.submit(
                train, tuple(command), at, needs, owner, here, self._program
            )
        except Exception as error:
            permit.unlink()
            name = type(self._executor).__name__
            raise ExecutorError(f"executor {name} takes no training: {_reason(error)}") from error
        self._submitted[future] = folder, permit
        future.add_done_callback(lambda _: permit.unlink(missing_ok=True))
        return future

    def began(self, future: Future[Outcome]) -> bool:
        """Whether a training is at work on some machine, or was."""
        folder, _ = self._submitted[future]
        return future.done() or (folder / ".lock").exists()

    def cancel(self, future: Future[Outcome]) -> None:
        """Stop a training, which leaves its checkpoint, or take it from the queue."""
        _, permit = self._submitted[future]
        permit.unlink(missing_ok=True)
        self._cancelled.add(future)
        if not self.began(future):
            future.cancel()

    def outcome(self, future: Future[Outcome]) -> Outcome:
        """The end of a training, also of one whose worker has ended before it; waits for it."""
        try:
            return future.result()
        except CancelledError:
            if future in self._cancelled:
                return _STOPPED
            return Outcome(1, f"executor {type(self._executor).__name__} cancelled this training")
        except Exception as error:
            return Outcome(1, _reason(error))

    def stop(self) -> None:
        """Stop all trainings, and wait until they have left their checkpoints."""
        working = [future for future in self._submitted if not future.done()]
        for future in working:
            self.cancel(future)
        for future in wait(working, PATIENCE + 10).not_done:  # on a machine that is lost
            future.cancel()


def _reason(error: Exception) -> str:
    """An error of an executor in one line."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
    return text if len(text) <= 400 else f"{text[:397]}..."


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
        ExecutorError: the executor cannot be started.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as opened:
        try:
            owner = opened.enter_context(only_writer(folder, f".{name}.lock"))
        except FolderInUse as error:
            who = f"another {name}{f', {error.holder},' if error.holder else ''}"
            raise FolderInUse(
                f"{who} is at work in {folder}; wait for it, or give another folder of runs",
                error.holder,
            ) from error
        permits = folder / f".{name}"
        permits.mkdir(exist_ok=True)
        opened.callback(_remove, permits)
        for left in permits.iterdir():  # of an owner that was killed; its trainings stop
            left.unlink()
        try:
            opened.enter_context(executor)
        except Exception as error:
            kind = type(executor).__name__
            raise ExecutorError(f"executor {kind} cannot start: {_reason(error)}") from error
        made = Trainings(executor, owner, permits, program)
        opened.callback(made.stop)
        yield made


def _remove(folder: Path) -> None:
    with suppress(OSError):  # it is not empty, or out of reach
        folder.rmdir()


# The names of these classes are words of the command line: --executor=submitit.


class processes(ThreadPoolExecutor):
    """Processes of this machine: each thread waits for one.

    Args:
        max_workers: how many trainings run at once; if not given, as many as there are cores.
    """

    def __init__(self, max_workers: int | None = None) -> None:
        super().__init__(max_workers or os.cpu_count(), "training")


class submitit(Executor):
    """Jobs of Slurm, by the library submitit; each training is one.

    A job whose time is over is queued again, and its training goes on from its last checkpoint.

    Args:
        folder: folder of submitit's files: its scripts and logs. All machines need to see it.
        cluster: ``slurm``; or ``local``, processes of this machine, to try it.
        timeout_min: minutes of a job, after which it is queued again.
        partition: partition of Slurm.
        cpus_per_task: cores of a job.
        gpus_per_node: GPUs of a job.
        mem_gb: memory of a job in GB.
        parameters: other parameters of ``submitit.AutoExecutor``, by name, such as
            ``slurm_account``, or ``slurm_setup``, a list of commands that come before the training.
    """

    def __init__(
        self,
        folder: str = "runs/.submitit",
        cluster: str = "slurm",
        timeout_min: int = 240,
        partition: str | None = None,
        cpus_per_task: int | None = None,
        gpus_per_node: int | None = None,
        mem_gb: float | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> None:
        check_extra("cluster", "executor=submitit", "submitit")
        self.folder, self.cluster = folder, cluster
        self.parameters = {
            "name": "memnets",
            "timeout_min": timeout_min,
            "slurm_partition": partition,
            "cpus_per_task": cpus_per_task,
            "gpus_per_node": gpus_per_node,
            "mem_gb": mem_gb,
            **(parameters or {}),
        }
        self._jobs: list[_Job] = []
        self._closed, self._watching = Event(), Thread(target=self._watch, daemon=True)
        self._engine: Any = None

    def __enter__(self) -> submitit:
        library = import_module("submitit")
        # The end of a job's time ends no training: there may be as many jobs as it needs.
        self._engine = library.AutoExecutor(self.folder, self.cluster, slurm_max_num_timeout=10**6)
        self._engine.update_parameters(**self.parameters)
        self._watching.start()
        return self

    def submit(self, fn: Callable[..., Any], /, *args: Any, **settings: Any) -> Future[Any]:
        """Submit a job."""
        self._jobs.append(_Job(self._engine.submit(_Requeued(fn), *args, **settings)))
        return self._jobs[-1]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End when all jobs have ended, or at once."""
        if cancel_futures:
            for future in self._jobs:
                future.cancel()
        self._closed.set()
        if wait and self._watching.is_alive():
            self._watching.join()

    def _watch(self) -> None:
        """Pass the ends of jobs on to their futures, until the last one after a shutdown."""
        while not self._closed.is_set() or not all(job.done() for job in self._jobs):
            time.sleep(_GLANCE)
            for future in list(self._jobs):
                with suppress(InvalidStateError):  # it was cancelled meanwhile
                    future.look()


class _Requeued:
    """A function that submitit calls again in another job, when the time of its own is over."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **settings: Any) -> Any:
        return self.function(*args, **settings)

    def checkpoint(self, *args: Any, **settings: Any) -> Any:
        library = import_module("submitit.helpers")
        for process in _working:
            _stop(process)
        return library.DelayedSubmission(self, *args, **settings)


class _Job(Future[Any]):
    """The future of a job of submitit."""

    def __init__(self, job: Any) -> None:
        super().__init__()
        self.job = job

    def look(self) -> None:
        """See whether the job has ended."""
        if self.done() or not self.job.done():
            return
        try:
            self.set_result(self.job.result())
        except InvalidStateError:
            raise
        except import_module("submitit").core.utils.UncompletedJobError:
            state, log = self.job.state, self.job.paths.stderr
            self.set_exception(
                ExecutorError(f"job {self.job.job_id} ended without a result ({state}); see {log}")
            )
        except Exception as error:
            self.set_exception(error)

    def cancel(self) -> bool:
        """Take the job from the queue, or end it."""
        if self.done():
            return self.cancelled()
        self.job.cancel(check=False)
        return super().cancel() and not self.set_running_or_notify_cancel()


class dask(Executor):
    """Workers of dask, by the library distributed; each thread of a worker runs a training.

    Without an address, workers of this machine.

    Args:
        address: address of a scheduler, such as ``tcp://10.0.0.1:8786``.
        scheduler_file: file in which a scheduler has left its address.
        workers: number of workers to start on this machine; by default as many as there are cores.
        timeout: seconds in which the scheduler must answer.
    """

    def __init__(
        self,
        address: str | None = None,
        scheduler_file: str | None = None,
        workers: int | None = None,
        timeout: float = 30.0,
    ) -> None:
        check_extra("cluster", "executor=dask", "distributed")
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1; got {workers}")
        self.address, self.scheduler_file = address, scheduler_file
        self.workers, self.timeout = workers, timeout
        self._open = ExitStack()
        self._engine: Any = None

    def __enter__(self) -> dask:
        library = import_module("distributed")
        for name in logging.root.manager.loggerDict:  # errors become errors of trainings
            if name.startswith("distributed"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
        place: Any = self.address
        with ExitStack() as opened:
            if self.address is None and self.scheduler_file is None:
                place = opened.enter_context(
                    library.LocalCluster(
                        n_workers=self.workers or os.cpu_count() or 1,
                        threads_per_worker=1,
                        dashboard_address=":0",
                        silence_logs=logging.CRITICAL,
                    )
                )
            client = library.Client(place, scheduler_file=self.scheduler_file, timeout=self.timeout)
            self._engine = opened.enter_context(client).get_executor(pure=False)
            self._open = opened.pop_all()
        return self

    def submit(self, fn: Callable[..., Any], /, *args: Any, **settings: Any) -> Future[Any]:
        """Submit a task."""
        future: Future[Any] = self._engine.submit(fn, *args, **settings)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End when all tasks have ended, or at once."""
        self._engine.shutdown(wait and not cancel_futures)
        self._open.close()
