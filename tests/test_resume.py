"""A run that is killed and resumed ends bit for bit as one that was never killed."""

import csv
import json
import time
from pathlib import Path

import pytest
import torch

from memnets.app.cli import main
from memnets.training.runs import load_checkpoint
from tests.forked import MAY_FORK, Forked

STEPS = 160

#: A loss that is low at once, so that there is a new value every 30 steps.
CALLBACKS = [
    {
        "class_path": "memnets.training.Curriculum",
        "init_args": {
            "setting": "training_repeats",
            "values": [1, 2, 3, 4],
            "loss": 5.0,
            "steps": 30,
        },
    }
]

SETTINGS = [
    "--config", str(Path(__file__).parent.parent / "configs" / "repeat_copying" / "ntm.yaml"),
    "--model.controller.hidden_size", "8",
    "--model.access.slots", "10",
    "--model.access.noise", "0.3",
    "--data.max_length", "4",
    "--data.max_repeats", "4",
    "--data.batch_size", "4",
    "--data.validation_batches", "1",
    "--data.validation_batch_size", "4",
    "--data.epoch_batches", "20",
    "--data.test_sets", "[[4, 2, 3]]",
    "--trainer.callbacks", json.dumps(CALLBACKS),
    "--trainer.log_every_n_steps", "7",
]  # fmt: skip


def command(folder: Path, *arguments: str) -> list[str]:
    settings = [*SETTINGS, "--trainer.max_steps", str(STEPS), "--runs", str(folder)]
    return ["fit", *settings, *arguments]


def run(folder: Path, *arguments: str) -> None:
    main(command(folder, *arguments))


def run_and_kill(folder: Path, *arguments: str, after_checkpoints: int) -> None:
    """Kill the run, with no chance to clean up, once it has saved that many checkpoints."""
    process = Forked(run, folder, *arguments)
    last = folder / "repeat_copying" / "ntm" / "version_0" / "checkpoints" / "last.ckpt"
    seen: set[int] = {last.stat().st_mtime_ns} if last.exists() else set()
    fresh = 0
    deadline = time.monotonic() + 120
    while fresh < after_checkpoints:
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline, "the run saved no checkpoints"
        time.sleep(0.002)
        if last.exists() and last.stat().st_mtime_ns not in seen:
            seen.add(last.stat().st_mtime_ns)
            fresh += 1
    process.kill()


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@MAY_FORK
@pytest.mark.usefixtures("elsewhere", "blanks")
def test_killed_twice_and_resumed_is_bit_identical(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    run_and_kill(tmp_path / "killed", after_checkpoints=2)
    run_and_kill(tmp_path / "killed", "--ckpt_path", "last", after_checkpoints=3)
    run(tmp_path / "killed", "--ckpt_path", "last")

    whole = tmp_path / "whole" / "repeat_copying" / "ntm" / "version_0"
    killed = tmp_path / "killed" / "repeat_copying" / "ntm" / "version_0"
    assert [path.name for path in killed.parent.iterdir()] == ["version_0"]
    for name in ("last.ckpt", "best.ckpt"):
        ours = load_checkpoint(whole / "checkpoints" / name)
        theirs = load_checkpoint(killed / "checkpoints" / name)
        assert ours["global_step"] == theirs["global_step"]
        for key, value in ours["state_dict"].items():
            assert torch.equal(value, theirs["state_dict"][key]), f"{name}: {key}"
        for index, state in ours["optimizer_states"][0]["state"].items():
            for key, value in state.items():
                assert torch.equal(value, theirs["optimizer_states"][0]["state"][index][key])
    assert load_checkpoint(whole / "checkpoints" / "last.ckpt")["global_step"] == STEPS
    assert table(whole) == table(killed)
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (whole, killed)]
    for numbers in metrics:
        assert numbers.pop("train/seconds") > 0
    assert metrics[0] == metrics[1]
    assert metrics[0]["train/sequences"] == STEPS * 4
    assert not list(tmp_path.rglob("*.part")), "something half-written was left behind"
