"""Trainings on each executor: finished ones are kept, kills lose nothing, no two are at once."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path

import pytest
import yaml

from memnets import extras
from memnets.app import executors, scoreboard, seeds
from memnets.app.cli import main
from memnets.app.executors import Outcome, Trainings, trainings
from memnets.files import FolderInUse
from tests.images import save_blank_pictures
from tests.test_cli import fails

pytestmark = pytest.mark.usefixtures("elsewhere")
ROOT = Path(__file__).parent.parent

#: Stands for ``memnets fit``: the steps are short, after each is a checkpoint, and one at the end.
FIT = """
import fcntl, json, os, sys, time
from pathlib import Path

flags = dict(flag.lstrip("-").split("=", 1) for flag in sys.argv[2:])
root = Path(flags["runs"], flags["name"])
# While this block runs, and no longer: the lock of the folder is given back right after it.
with (root / "alone").open("w") as alone:
    fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
    resumed = flags.get("ckpt_path") == "last"
    run = root / f"version_{len(list(root.glob('version_*'))) - resumed}"
    last = run / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True, exist_ok=True)
    step = first = int(last.read_text()) if resumed else 0
    (root / "processes").write_text(f"{os.getpid()} {os.getppid()}")
    try:
        while step < int(flags["trainer.max_steps"]):
            time.sleep(0.02)
            step += 1
            last.with_name('part').write_text(str(step))
            last.with_name('part').replace(last)
        (run / "config.yaml").write_text("name: copying/ntm")
        scores = {"train/steps": step, "train/first": first, "test/length_4/bits": 1.0}
        (run / "metrics.json").write_text(json.dumps(scores))
    finally:
        # What it leaves: a signal may come between a step and its checkpoint.
        print("left at", last.read_text() if last.exists() else step, flush=True)
"""

#: A scoreboard without a table, in a process of its own.
BOARD = """
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from memnets.app.executors import *

if __name__ == "__main__":
    with trainings(Path("runs"), {executor}, program="fake_fit") as board:
        board.outcome(board.submit({command}, Path("runs/a/b")))
"""

RUN = Path("runs/a/b")
STOPPED = (128 + signal.SIGTERM, "stopped")
LAST = RUN / "version_0" / "checkpoints" / "last.ckpt"


@pytest.fixture
def _fit(elsewhere) -> None:
    """In the current folder, what stands for ``memnets fit``."""
    Path("fake_fit.py").write_text(FIT)


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """Address of a scheduler of dask, with two workers on this machine."""
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(params=["processes", "submitit", "dask", "own"])
def executor(request, monkeypatch) -> str:
    """Text that makes an executor: each that comes with the library, and one that does not."""
    if request.param == "dask":
        return f"dask({request.getfixturevalue('scheduler')!r})"
    if request.param == "submitit":
        core = pytest.importorskip("submitit.core.core", reason="submitit is not installed")
        monkeypatch.setattr(core.Job, "_results_timeout_s", 1)
        return "submitit(cluster='local')"
    return {"processes": "processes(2)", "own": "ProcessPoolExecutor(2)"}[request.param]


def made(executor: str) -> Executor:
    found = eval(executor, {**vars(executors), "ProcessPoolExecutor": ProcessPoolExecutor})
    assert isinstance(found, Executor)
    return found


def board(executor: str) -> AbstractContextManager[Trainings]:
    return trainings(Path("runs"), made(executor), program="fake_fit")


def fit(steps: int, name: str = "a/b") -> tuple[str, ...]:
    return ("fit", f"--trainer.max_steps={steps}", f"--name={name}", "--runs=runs")


def processes(run: Path = RUN, before: Sequence[int] = ()) -> list[int]:
    """The processes of a training that has saved a checkpoint, and of its worker."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            found = [int(number) for number in (run / "processes").read_text().split()]
            if found[:1] != before[:1] and (run / "version_0/checkpoints/last.ckpt").exists():
                return found
        time.sleep(0.02)
    raise TimeoutError("no training has begun")


def step() -> int:
    return int(LAST.read_text())


def first_step() -> float:
    """The step at which a finished training has begun for the last time."""
    (run,) = RUN.glob("version_*")
    return float(json.loads((run / "metrics.json").read_text())["train/first"])


def assert_gone(process: int) -> None:
    """Assert that a process has ended; who has inherited it may take a moment to note that."""
    with suppress(ProcessLookupError):
        for _ in range(300):
            os.kill(process, 0)
            time.sleep(0.1)
        raise AssertionError(f"process {process} is there")


@pytest.mark.usefixtures("_fit")
def test_what_is_killed_goes_on_where_it_was(executor) -> None:
    with board(executor) as trains:
        future = trains.submit(fit(10**6), RUN)
        training = processes()
        os.kill(training[0], signal.SIGKILL)
        assert trains.outcome(future) == (-signal.SIGKILL, "killed by SIGKILL")
        reached = step()
        future = trains.submit(fit(reached + 40), RUN)
        _, worker = processes(before=training)
        # A worker that is this process itself would be the end of this test.
        if worker != os.getpid():
            os.kill(worker, signal.SIGKILL)
        code, line = trains.outcome(future)
        again = {"submitit": "ended without a result", "Pool": "BrokenProcessPool"}
        lost = next((text for name, text in again.items() if name in executor), None)
        assert (code == 0) == (lost is None), line
        assert lost is None or lost in line
    with board(executor) as trains:
        assert trains.outcome(trains.submit(fit(reached + 40), RUN)).code == 0
        finished = first_step()
        assert finished >= reached > 0
        # What is finished is left as it is, also when it is asked for again.
        assert trains.outcome(trains.submit(fit(10**6), RUN)).code == 0
    assert first_step() == finished


@pytest.mark.usefixtures("_fit")
def test_a_board_that_is_killed_leaves_nothing_that_is_trained_beside_the_next(executor) -> None:
    text = BOARD.format(executor=executor, command=fit(10**6))
    Path("killed.py").write_text(text)
    killed = subprocess.Popen(
        [sys.executable, "killed.py"], stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        training, _ = processes()
        with pytest.raises(FolderInUse, match=rf"process {killed.pid} on "), board(executor):
            pass
        killed.kill()
        killed.wait()
        with board(executor) as trains:
            # That is an error if two are at once: see FIT.
            assert trains.outcome(trains.submit(fit(step() + 40), RUN)).code == 0
        assert_gone(training)
        assert first_step() > 0
        assert not Path("runs/.scoreboard").exists()
    finally:
        with suppress(ProcessLookupError):  # workers of a pool wait for their board for ever
            os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()


@pytest.mark.usefixtures("_fit")
def test_stopped_trainings_leave_checkpoints_and_others_do_not_begin(executor) -> None:
    runs = [Path(f"runs/a/{number}") for number in range(4)]
    with suppress(KeyboardInterrupt), board(executor) as trains:
        submitted = [trains.submit(fit(10**6, f"a/{run.name}"), run) for run in runs]
        pruned, _ = processes(runs[0]), processes(runs[1])
        trains.cancel(submitted[0])
        assert trains.outcome(submitted[0]) == STOPPED
        with pytest.raises(ProcessLookupError):
            os.kill(pruned[0], 0)
        assert not submitted[1].done()
        raise KeyboardInterrupt
    assert all(trains.outcome(future) == STOPPED for future in submitted)
    for run in runs:
        last = run / "version_0" / "checkpoints" / "last.ckpt"
        if run in runs[:2] or last.exists():
            assert f"left at {last.read_text()}\n" in (run / "fit.log").read_text()


@pytest.mark.usefixtures("_fit")
def test_a_job_of_submitit_whose_time_is_over_is_queued_again(monkeypatch) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    with board("submitit(cluster='local')") as trains:
        future = trains.submit(fit(60), RUN)
        training, worker = processes()
        os.kill(training, signal.SIGUSR2)  # which Slurm sends to all processes
        os.kill(worker, signal.SIGUSR2)
        assert trains.outcome(future).code == 0
    assert first_step() > 0


def train(**changed: str) -> Outcome:
    """A training of which the owner, the permit and the folders are there."""
    for name in ("permit", "owner"):
        Path(name).touch()
    RUN.mkdir(parents=True)
    paths = {"folder": RUN, "permit": Path("permit"), "owner": Path("owner"), "here": Path()}
    given = {name: str(path.absolute()) for name, path in paths.items()}
    return executors.train(fit(10**6), program="fake_fit", **{**given, **changed})


@pytest.mark.usefixtures("_fit")
def test_a_training_whose_owner_gives_no_sign_of_life_stops(monkeypatch) -> None:
    monkeypatch.setattr(executors, "LEASE", 3.0)
    assert train() == STOPPED
    assert step() > 0


@pytest.mark.usefixtures("_fit")
def test_a_training_that_nobody_wants_does_not_begin() -> None:
    assert train(permit="/nowhere") == STOPPED
    assert not (RUN / "fit.log").exists()


@pytest.mark.parametrize("name", ["folder", "here"])
def test_a_machine_without_the_folders_says_so(name) -> None:
    code, line = train(**{name: "/nowhere"})
    assert code == 1
    assert "has no folder /nowhere, which it needs to share" in line


def table(*flags: str, seeds: Sequence[int] = (0, 1, 2), **settings: object) -> list[str]:
    """Write a scoreboard of one entry; the arguments that use it."""
    entry = {
        "config": str(ROOT / "configs" / "copying" / "ntm.yaml"),
        "scores": [{"metric": "test/length_4/bits"}],
        "seeds": list(seeds),
        "flags": ["--trainer.max_steps=30"],
    }
    Path("board.yaml").write_text(yaml.safe_dump({"entries": [entry], **settings}))
    return ["scoreboard", "--config", "board.yaml", *flags]


@pytest.fixture
def faked(_fit, monkeypatch) -> None:
    """Scoreboards whose trainings are short, and that draw no pictures."""
    monkeypatch.setattr(scoreboard, "trainings", partial(trainings, program="fake_fit"))
    monkeypatch.setattr(seeds, "load_checkpoint", lambda path: path.read_text())
    save_blank_pictures(monkeypatch)


@pytest.mark.usefixtures("faked")
@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        (["--processes=2"], {}),
        (["--executor=processes", "--executor.max_workers=2"], {"processes": 1}),
        (["--executor=concurrent.futures.ThreadPoolExecutor", "--executor.max_workers=2"], {}),
        ([], {"executor": {"class_path": "submitit", "init_args": {"cluster": "local"}}}),
        (["--executor=dask"], {}),
    ],
    ids=["default", "word", "class", "submitit", "dask"],
)
def test_a_scoreboard_on_each_executor(capfd, request, flags, settings) -> None:
    if "--executor=dask" in flags:
        flags = [*flags, f"--executor.address={request.getfixturevalue('scheduler')}"]
    elif settings.get("executor"):
        pytest.importorskip("submitit", reason="submitit is not installed")
    arguments = table(*flags, **settings)
    resumed = Path("runs/seed_1/copying/ntm/version_0")
    (resumed / "checkpoints").mkdir(parents=True)
    (resumed / "checkpoints" / "last.ckpt").write_text("20")
    (resumed / "config.yaml").write_text("name: copying/ntm")
    broken = Path("runs/seed_2/copying/ntm/alone")  # a folder in the place of a file
    broken.mkdir(parents=True)
    error = fails(capfd, *arguments)
    assert "runs failed: 1; see runs/seed_2/copying/ntm/fit.log (" in error
    assert "IsADirectoryError" in error
    metrics = json.loads((resumed / "metrics.json").read_text())
    assert (metrics["train/first"], metrics["train/steps"]) == (20, 30)
    assert "| 2 of 3 |" in Path("RESULTS.md").read_text()

    kept = {path: path.stat().st_mtime_ns for path in Path("runs").glob("seed_[01]/**/version_*/*")}
    broken.rmdir()
    capfd.readouterr()
    main(arguments)
    lines = capfd.readouterr().out.splitlines()
    assert lines[:1] == ["Runs to train: 1 of 3"]
    assert "copying/ntm, seed 2: begins" in lines
    assert "copying/ntm, seed 2: finished" in lines
    assert "| 3 of 3 |" in Path("RESULTS.md").read_text()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.usefixtures("faked")
@pytest.mark.parametrize(("name", "version"), [("last", 0), ("best", 1)])
def test_a_run_goes_on_from_its_last_checkpoint_or_is_begun_anew(capfd, name, version) -> None:
    arguments = table(seeds=[1])
    run = Path("runs/seed_1/copying/ntm")
    left = run / "version_0" / "checkpoints" / f"{name}.ckpt"
    left.parent.mkdir(parents=True)
    left.write_text("20")
    (run / "version_0" / "config.yaml").write_text("name: copying/ntm")
    main(arguments)
    began = "begins" if version else "goes on"
    assert f"copying/ntm, seed 1: {began}" in capfd.readouterr().out
    metrics = json.loads((run / f"version_{version}" / "metrics.json").read_text())
    assert metrics["train/first"] == (0 if version else 20)
    assert left.read_text() == ("20" if version else "30")


DEAD = ["--executor=dask", "--executor.address=tcp://127.0.0.1:1", "--executor.timeout=0.5"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--executor=slurm"], "executor: expected processes, submitit, dask, or the path of a c"),
        (["--executor=os.system"], "executor: expected a subclass of Executor; got os.system"),
        (["--executor=my.Own"], "executor: No module named 'my'; modules are looked for in this"),
        (["--executor=submitit", "--executor.partion=x"], "'partion' is not accepted; submitit ta"),
        (["--executor=submitit"], "executor submitit cannot start: RuntimeError: Could not detect"),
        (
            ["--executor=submitit", "--executor.parameters={slurm_acount: x}"],
            "executor submitit cannot start: ",
        ),
        (["--executor=dask", "--executor.workers=0"], "workers must be at least 1; got 0"),
        (DEAD, "executor dask cannot start: OSError: Timed out trying to connect to tcp://127."),
        (
            ["--executor=concurrent.futures.ThreadPoolExecutor", "--executor.max_workers=0"],
            "max_workers must be greater than 0",
        ),
        (
            ["--executor=concurrent.futures.Executor"],
            "executor Executor takes no training: NotImplementedError",
        ),
    ],
)
def test_an_executor_that_cannot_be_used_is_one_line(capfd, monkeypatch, flags, expected) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))  # where there is no Slurm
    if {"--executor=dask", "--executor=submitit"} & set(flags):
        pytest.importorskip("distributed", reason="distributed is not installed")
        pytest.importorskip("submitit", reason="submitit is not installed")
    save_blank_pictures(monkeypatch)
    assert expected in fails(capfd, *table(*flags))
    assert not list(Path("runs").glob("seed_*/copying/ntm/*"))
    assert not Path("runs/.scoreboard").exists()
    assert not Path("runs/.scoreboard.lock").exists()


@pytest.mark.parametrize("word", ["submitit", "dask"])
def test_an_executor_whose_package_is_missing_says_which(capfd, monkeypatch, word) -> None:
    missing = {"submitit": "submitit", "dask": "distributed"}[word]
    installed = extras._installed
    monkeypatch.setattr(extras, "_installed", lambda name: name != missing and installed(name))
    line = fails(capfd, *table(f"--executor={word}"))
    assert (
        f"executor={word} needs {missing}; to install: python -m pip install 'memnets[clu" in line
    )
    assert not Path("runs").exists()
