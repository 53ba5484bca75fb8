"""Two processes give the scores of one, and leave one run."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: A set of one batch, and one whose last is not full: neither can be shared out evenly.
SETTINGS = [
    "--config", str(ROOT / "configs" / "copying" / "lstm.yaml"),
    "--model.controller.hidden_size=4",
    "--model.controller.layers=1",
    "--data.batch_size=2",
    "--data.max_length=2",
    "--data.epoch_batches=3",
    "--data.validation_batches=3",
    "--data.validation_batch_size=2",
    "--data.test_sets=[[2, 3]]",
    "--trainer.max_steps=4",
    "--trainer.accelerator=cpu",
]  # fmt: skip


def started_as_by_torchrun(command: list[str], folder: Path) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "a",
        "TORCHELASTIC_RESTART_COUNT": "0", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, "-m", "memnets", *command],
            env={**os.environ, **common, "RANK": rank, "LOCAL_RANK": rank},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in "01"
    ]


def test_two_processes_score_as_one_and_leave_one_run(tmp_path: Path) -> None:
    several = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    processes = started_as_by_torchrun(["fit", *SETTINGS, *several], tmp_path)
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "Everything is in" in said[0]
    assert said[1] == ""
    (run,) = (tmp_path / "runs" / "copying" / "lstm").iterdir()
    found = json.loads((run / "metrics.json").read_text())
    assert found["train/sequences"] == 2 * 2 * 4

    alone = ["--trainer.devices=1", "--trainer.strategy=auto"]
    for command, prefix, name in (("validate", "val/", "last"), ("test", "test/", "best")):
        path = run / "checkpoints" / f"{name}.ckpt"
        scores = scores_of_one([command, "--ckpt_path", str(path), *alone])
        expected = {score: value for score, value in found.items() if score.startswith(prefix)}
        assert {score: scores[score] for score in expected} == pytest.approx(expected, rel=1e-6)


def scores_of_one(command: list[str]) -> dict[str, float]:
    from memnets.app import cli
    from memnets.training import report

    seen: dict[str, float] = {}

    def note(self, trainer, *args) -> None:
        seen.update({name: float(value) for name, value in trainer.callback_metrics.items()})

    with pytest.MonkeyPatch.context() as patch:
        for hook in ("on_validation_end", "on_test_end"):
            patch.setattr(report.Report, hook, note)
        cli.main(command)
    return seen
