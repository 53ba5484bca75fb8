"""A training that its scheduler stops: at which step, with which checkpoint, and how it goes on."""

import json
import os
import signal
import stat
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback

from memnets.app import stopping
from memnets.app.cli import main
from memnets.training.runs import load_checkpoint
from tests.test_cli import RUN, SMALL, failing

pytestmark = pytest.mark.usefixtures("elsewhere", "blanks")
LAST = RUN / "checkpoints" / "last.ckpt"
#: Epochs of 5 steps, with a validation after the steps 3, 8 and 13.
FLAGS = [
    *SMALL,
    *("--data.epoch_batches=5", "--trainer.val_check_interval=3", "--trainer.max_steps=13"),
    *("--trainer.log_every_n_steps=1", "--model.access.noise=0.3", "--data.test_sets=[[4, 3]]"),
]


class SignalAt(Callback):
    """Send a signal within the batch that follows some steps, or within the validation there.

    Args:
        what: name of the signal.
        step: number of steps.
        hook: of the callback.
    """

    def __init__(self, what: str, step: int, hook: str = "on_train_batch_start") -> None:
        self.what, self.step = signal.Signals[what], step
        setattr(self, hook, self.send)

    def send(self, trainer, *args, **kwargs) -> None:
        if trainer.global_step == self.step:
            signal.raise_signal(self.what)


def signal_at(what: str, step: int, hook: str = "on_train_batch_start") -> str:
    settings = {"what": what, "step": step, "hook": hook}
    callback = {"class_path": "tests.test_stopping.SignalAt", "init_args": settings}
    return f"--trainer.callbacks={json.dumps([callback])}"


def stopped(*arguments: str, code: int = 75) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *arguments])
    assert stop.value.code == code


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, states of the optimizer, table and numbers are equal; only time may differ."""
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
    # Within the step 2, before a validation, in the last step of an epoch, which it ends, within a
    # validation, where the time is over from the start, and in the last step of all.
    auto = "--ckpt_path=auto"
    stopped(*FLAGS, auto, signal_at("SIGTERM", 1))
    assert load_checkpoint(LAST)["global_step"] == 2
    said = capsys.readouterr().err
    assert said == (
        f"memnets: stopped at step 2; the run is in {RUN}; to go on: "
        f"memnets fit --ckpt_path {LAST}\n"
    )
    for step, place in (
        (3, signal_at("SIGUSR1", 2)),
        (6, signal_at("SIGUSR1", 4)),
        (8, signal_at("SIGTERM", 8, "on_validation_batch_start")),
        (9, "--trainer.max_time=00:00:00:00"),
        (13, signal_at("SIGTERM", 12)),
    ):
        stopped(*FLAGS, auto, place)
        assert load_checkpoint(LAST)["global_step"] == step
        said = capsys.readouterr().err
        assert said.startswith(f"memnets: stopped at step {step}")
        assert ("max_time is over" in said) == ("max_time" in place)
    main(["fit", *FLAGS, auto])
    assert "Nothing was left to train: it is at step 13" in capsys.readouterr().out
    assert_same_run(Path("whole") / RUN.relative_to("runs"), RUN)
    main(["fit", *FLAGS, auto])
    assert "is finished: it is at step 13" in capsys.readouterr().out
