"""A training that its scheduler stops, or that cannot write: what is left, and how it goes on."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback

from memnets import files
from memnets.app import stopping
from memnets.app.cli import main
from memnets.files import NotWritten, write_atomically
from memnets.training.runs import load_checkpoint
from tasks import Copying
from tests.test_cli import RUN, SMALL, fails

pytestmark = pytest.mark.usefixtures("elsewhere", "blanks")
LAST = RUN / "checkpoints" / "last.ckpt"
AGAIN = f"memnets fit --ckpt_path {LAST}"
AUTO = "--ckpt_path=auto"
#: Epochs of 5 steps, with a validation after the steps 3, 8 and 13.
FLAGS = [
    *SMALL,
    *("--data.epoch_batches=5", "--trainer.val_check_interval=3", "--trainer.max_steps=13"),
    *("--trainer.log_every_n_steps=1", "--model.access.noise=0.3", "--data.test_sets=[[4, 3]]"),
]


class At(Callback):
    """Do something within the batch that follows some steps, or at another hook there.

    Args:
        what: name of a signal; or ``full``, ``gone``: a disk that is full, a folder that is gone;
            ``long gone`` before something is written.
        step: number of steps.
        hook: of the callback.
    """

    def __init__(self, what: str, step: int, hook: str = "on_train_batch_start") -> None:
        self.what, self.step = what, step
        setattr(self, hook, self.do)

    def do(self, trainer, *args, **kwargs) -> None:
        if trainer.global_step != self.step:
            return
        if self.what in ("gone", "long gone"):
            shutil.rmtree(trainer.default_root_dir)
            time.sleep(30 * (self.what == "long gone"))
        elif self.what == "full":
            fill(Path("disk/rest"))
        else:
            signal.raise_signal(signal.Signals[self.what])


class InAll(At):
    """Interrupt all processes of a training."""

    def __init__(self, step: int) -> None:
        super().__init__("SIGINT", step)

    def do(self, trainer, *args, **kwargs) -> None:
        if trainer.global_step == self.step:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGINT)
            super().do(trainer)


def fill(path: Path) -> None:
    with suppress(OSError), path.open("wb", 0) as file:
        while True:
            file.write(bytes(4096))


def at(what: str, step: int, hook: str = "on_train_batch_start") -> str:
    settings = {"what": what, "step": step, "hook": hook}
    callback = {"class_path": "tests.test_stopping.At", "init_args": settings}
    return f"--trainer.callbacks={json.dumps([callback])}"


def stopped(*arguments: str, code: int = 75) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *arguments])
    assert stop.value.code == code


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, states of all parts, the table and the numbers are equal; only time may differ."""
    for name in ("last.ckpt", "best.ckpt"):
        ours, theirs = (load_checkpoint(run / "checkpoints" / name) for run in (one, other))
        for part in ("global_step", "state_dict", "optimizer_states", "loops", "generators"):
            assert json.dumps(ours[part], default=torch.Tensor.tolist) == json.dumps(
                theirs[part], default=torch.Tensor.tolist
            ), f"{name}: {part}"
    # The row of the test is at the end, in one of them together with the row of the last step.
    tables = [(run / "metrics.csv").read_text().splitlines()[:13] for run in (one, other)]
    assert tables[0] == tables[1]
    numbers = [json.loads((run / "metrics.json").read_text()) for run in (one, other)]
    for each in numbers:
        del each["train/seconds"]
    assert numbers[0] == numbers[1]


def test_a_run_that_its_scheduler_stops_goes_on_as_if_it_never_was(capsys) -> None:
    main(["fit", *FLAGS, "--runs=whole"])
    # Within step 2, before a validation, within the last step of an epoch, which it ends, within a
    # validation, where the time is over from the start, and within the last step of all.
    for step, place in (
        (2, at("SIGTERM", 1)),
        (3, at("SIGUSR1", 2)),
        (6, at("SIGUSR1", 4)),
        (8, at("SIGTERM", 8, "on_validation_batch_start")),
        (9, "--trainer.max_time=00:00:00:00"),
        (13, at("SIGTERM", 12)),
    ):
        capsys.readouterr()
        stopped(*FLAGS, AUTO, place)
        assert load_checkpoint(LAST)["global_step"] == step
        where = RUN if step == 2 else RUN.resolve()
        why = ", for trainer.max_time is over" if "max_time" in place else ""
        assert capsys.readouterr().err == (
            f"memnets: stopped at step {step}{why}; the run is in {where}; to go on: "
            f"memnets fit --ckpt_path {where / 'checkpoints' / 'last.ckpt'}\n"
        )
    main(["fit", *FLAGS, AUTO])
    assert "Nothing was left to train: it is at step 13" in capsys.readouterr().out
    assert_same_run(Path("whole") / RUN.relative_to("runs"), RUN)
    main(["fit", *FLAGS, AUTO])
    said = capsys.readouterr().out
    assert "is finished: it is at step 13" in said
    assert said.endswith("nothing was changed; to train longer, give a greater limit\n")


def code_of(command: Callable[[], None]) -> int:
    """Exit code of a command that is stopped."""
    with pytest.raises(SystemExit) as stop, stopping.stoppable():
        command()
    return int(stop.value.code or 0)


def test_the_first_signal_waits_where_it_may_and_the_second_ends_at_once(
    monkeypatch, capfd
) -> None:
    def waits() -> None:
        stopping.patient(True)
        signal.raise_signal(signal.SIGUSR1)
        assert stopping.asked_to_stop() == signal.SIGUSR1
        stopping.restore_handlers()  # as after a library has set its own
        signal.raise_signal(signal.SIGUSR1)  # the same once more, as torchrun sends it
        others = set(stopping.SIGNALS) - {signal.SIGUSR1}
        assert all(signal.getsignal(each) == signal.SIG_DFL for each in others)
        with monkeypatch.context() as later:
            later.setattr(stopping, "_TWICE", -1.0)
            later.setattr(signal, "raise_signal", ended.append)
            os.kill(os.getpid(), signal.SIGUSR1)
            assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
        stopping.patient(False)
        raise AssertionError("the signal was lost")

    def waits_once() -> None:
        stopping.patient(True, "Ctrl-C waits")
        signal.raise_signal(signal.SIGINT)
        assert stopping.asked_to_stop() == signal.SIGINT
        # The second one ends the process.
        assert all(signal.getsignal(each) == signal.SIG_DFL for each in stopping.SIGNALS)
        stopping.patient(False)
        raise AssertionError("Ctrl-C was lost")

    def ends_at_once() -> None:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("Ctrl-C has waited")

    ended: list[int] = []
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    assert code_of(waits) == 128 + signal.SIGUSR1
    assert ended == [signal.SIGUSR1]
    assert stopping.asked_to_stop() is None
    assert "waits" not in capfd.readouterr().err
    assert code_of(waits_once) == 130
    assert capfd.readouterr().err.startswith("memnets: Ctrl-C waits\n")
    assert code_of(ends_at_once) == 130
    assert "waits" not in capfd.readouterr().err
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before


@pytest.mark.parametrize("what", ["SIGTERM", "SIGINT"])
def test_a_signal_within_the_writing_of_a_checkpoint_leaves_a_whole_one(monkeypatch, what) -> None:
    written = os.fsync

    def interrupted(file: int) -> None:
        written(file)
        part = os.readlink(f"/proc/self/fd/{file}")
        if ".last.ckpt." in part and LAST.exists():
            monkeypatch.setattr(os, "fsync", written)
            signal.raise_signal(signal.Signals[what])

    monkeypatch.setattr(os, "fsync", interrupted)
    stopped(*SMALL, "--trainer.max_steps=8", code=75 if what == "SIGTERM" else 130)
    assert load_checkpoint(LAST)["global_step"] == 4
    assert not list(RUN.rglob("*.part"))


def test_ctrl_c_loses_no_step_and_workers_outlive_it(capfd) -> None:
    main(["fit", *FLAGS, "--runs=whole"])
    # As a terminal sends it: to the process that makes the batches too, and here first.
    callback = {"class_path": "tests.test_stopping.InAll", "init_args": {"step": 6}}
    capfd.readouterr()
    stopped(*FLAGS, "--data.workers=1", f"--trainer.callbacks={json.dumps([callback])}", code=130)
    assert load_checkpoint(LAST)["global_step"] == 7
    assert capfd.readouterr().err.endswith(
        "memnets: the training ends after this step, and the validation if one is due, with a "
        "checkpoint; Ctrl-C again ends it at once\n"
        f"memnets: stopped at step 7; the run is in {RUN}; to go on: {AGAIN}\n"
    )
    main(["fit", *FLAGS, AUTO])
    assert_same_run(Path("whole") / RUN.relative_to("runs"), RUN)


def test_the_step_from_which_a_run_goes_on_is_said(capsys, monkeypatch) -> None:
    # As where Ctrl-C comes while the trainer does not listen: nothing is saved.
    monkeypatch.setattr("memnets.app.keeping.patient", lambda *_: None)
    stopped(*FLAGS, at("SIGINT", 5), code=130)
    assert load_checkpoint(LAST)["global_step"] == 3
    assert f"stopped at step 5; the run is in {RUN}; to go on from step 3: " in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("begins", [AUTO, "--trainer.max_epochs=-1"])
def test_slurm_queues_a_job_again_that_finds_its_run_by_itself(monkeypatch, capsys, begins) -> None:
    script = Path("bin/scontrol")
    script.parent.mkdir()
    script.write_text('#!/bin/sh\necho "$@" >>asked\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent.resolve()}:{os.environ['PATH']}")
    for name, value in {
        **{"NTASKS": "1", "JOB_NAME": "train", "JOB_ID": "9", "PROCID": "0", "LOCALID": "0"},
        **{"ARRAY_JOB_ID": "7", "ARRAY_TASK_ID": "3", "NODELIST": "a", "NODEID": "0"},
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    stopped(*SMALL, begins, at("SIGUSR1", 0))
    queued = "; Slurm has the job in its queue again\n"
    if begins == AUTO:
        assert Path("asked").read_text() == "requeue 7_3\n"
        assert capsys.readouterr().err.endswith(f"{AGAIN}{queued}")
    else:
        assert not Path("asked").exists()
        assert capsys.readouterr().err.endswith(f"{AGAIN}\n")


def test_processes_that_make_batches_outlive_the_first_signal() -> None:
    loader = Copying(width=2, max_length=3, batch_size=2, workers=1).train_dataloader()
    batches = iter(loader)
    next(batches)
    (worker,) = batches._workers  # type: ignore[attr-defined]
    os.kill(worker.pid, signal.SIGTERM)
    for _ in range(4):  # more than are made ahead of time
        next(batches)
    os.kill(worker.pid, signal.SIGTERM)

    def wait_for_its_end() -> None:
        worker.join(10)  # within which PyTorch may say so already
        list(zip(range(9), batches, strict=False))

    with pytest.raises(RuntimeError, match=r"is killed by signal: Terminated|exited unexpected"):
        wait_for_its_end()


def mounted(folder: Path) -> bool:
    """Mount a disk of half a megabyte, where this process may."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def test_a_full_disk_is_one_line_and_the_last_checkpoint_is_whole(capsys) -> None:
    if not mounted(Path("disk")):
        pytest.skip("no disk can be mounted")
    try:
        message = fails(capsys, "fit", *SMALL, "--runs=disk/runs", at("full", 3))
        last = Path("disk") / LAST
        assert "cannot write " in message
        assert "No space left on device; the last checkpoint is whole; once files" in message
        assert f"go on: memnets fit --ckpt_path {last}" in message
        assert load_checkpoint(last)["global_step"] == 2
        Path("disk/rest").unlink()
        main(["fit", *SMALL, "--runs=disk/runs", "--ckpt_path=last"])
        assert load_checkpoint(last)["global_step"] == 4
    finally:
        subprocess.run(["umount", "-l", "disk"], check=True)


def test_a_folder_that_is_gone_is_one_line_and_is_not_made_anew(capsys, monkeypatch) -> None:
    for what, *more in (("gone",), ("gone", "--trainer.logger=false"), ("long gone",)):
        monkeypatch.setattr(files, "HEARTBEAT", 0.05 if what == "long gone" else 5.0)
        message = fails(capsys, "fit", *SMALL, at(what, 3), *more)
        assert f"the folder of the run is gone; once it is back, go on: {AGAIN}" in message
        assert not RUN.exists()


@pytest.mark.parametrize("number", [errno.EROFS, errno.ESTALE, errno.EIO, errno.EDQUOT])
def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch, number) -> None:
    path = tmp_path / "last.ckpt"
    path.write_text("old")

    def refuse(*arguments: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(NotWritten, match=f"^cannot write {path}: {os.strerror(number)}$"):
        write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_text() == "old"


def test_pytorchs_own_error_of_a_full_disk_is_put_into_words(tmp_path) -> None:
    def full(file: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    def other(file: object) -> None:
        raise RuntimeError("something else")

    with pytest.raises(NotWritten, match="the disk may be full"):
        write_atomically(tmp_path / "a", full)
    with pytest.raises(RuntimeError, match="something else"):
        write_atomically(tmp_path / "a", other)
    assert not list(tmp_path.glob("*.part"))
