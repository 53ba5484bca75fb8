"""Trainings of a sweep that are none: they write the files of a run, by a formula, at once."""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import yaml

from memnets.app.executors import Outcome
from memnets.app.stopping import QUEUE_AGAIN, Stopped

#: The values of a validation, by step, of a command's flags.
Formula = Callable[[dict[str, Any]], Sequence[float]]


def flags_in(command: Sequence[str]) -> dict[str, Any]:
    """The values of the flags of a command, by name."""
    pairs = (flag.removeprefix("--").partition("=") for flag in command[1:])
    return {name: yaml.safe_load(value) for name, _, value in pairs}


def train(command: Sequence[str], folder: Path, formula: Formula) -> Outcome:
    """Leave what a training leaves in the folder of its versions."""
    flags = flags_in(command)
    try:
        scores = formula(flags)
    except ValueError as error:
        return Outcome(1, str(error))
    except Stopped as stopped:
        if stopped.code != QUEUE_AGAIN:  # the sweep itself is stopped
            raise
        return Outcome(stopped.code, str(stopped))
    run = folder / "version_0"
    run.mkdir(parents=True, exist_ok=True)
    settings = {key: flags[key] for key in ("name", "seed_everything", "runs", "threads")}
    (run / "config.yaml").write_text(yaml.safe_dump({**settings, "trainer": {"max_steps": 30}}))
    write_curve(run, scores)
    metrics = {"train/steps": 30, "train/seconds": 2, "val/bits": scores[-1], "test/bits": 1}
    (run / "metrics.json").write_text(json.dumps(metrics))
    return Outcome(0)


def write_curve(run: Path, scores: Sequence[float]) -> None:
    """Write ``metrics.csv`` as a training does, with a validation each ten steps."""
    rows = ["step,train/loss,val/bits", "3,0.5,"]
    rows += [f"{10 * number + 9},,{score}" for number, score in enumerate(scores)]
    (run / "metrics.csv").write_text("\n".join(rows) + "\n")


class Fake(Executor):
    """An executor whose trainings are over when they begin.

    Args:
        formula: the scores of their validations.
    """

    def __init__(self, formula: Formula) -> None:
        self.formula = formula
        self.commands: list[tuple[str, ...]] = []

    def submit(self, _: Any, command: Any, folder: Any, *paths: Any) -> Future[Any]:  # type: ignore[override]
        """Train."""
        self.commands.append(command)
        future: Future[Any] = Future()
        future.set_result(train(command, Path(folder), self.formula))
        return future


def wait_for(path: Path, seconds: float = 60) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.01)
