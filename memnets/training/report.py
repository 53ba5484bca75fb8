"""The report of a run: its numbers in a file and on the console."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from rich.console import Console
from rich.table import Table

from memnets.batches import Batch
from memnets.records import Point, Record, read_record, update_metrics, write_record
from memnets.training.processes import summed

__all__ = ["Report", "learning_curve"]

#: Least width of a terminal for a plot of the learning curve, and the size of the plot.
_LEAST_WIDTH, _WIDTH, _HEIGHT = 50, 60, 10


class Report(lightning.Callback):
    """Write ``metrics.json``, ``run.json`` and a summary; print validations if there is no bar.

    ``val/...`` are scores of the last validation, ``test/...`` those of the best checkpoint, or of
    the last weights (``--test_weights=last``).
    ``train/parameters`` is the number of weights.
    ``train/sequences_to_solve`` is the number of training sequences up to the first validation
    whose scores count as solved; it is missing if there was none.
    ``train/tokens_per_second`` is the number of answer tokens per second of training, without
    validation, for tasks whose answers are tokens.

    After a training it draws the learning curve: the score that chooses the best checkpoint, by
    step. Where the output is no terminal, or a narrow one, a line says the same in short.

    Args:
        folder: folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parameters = 0
        self.sequences = 0
        self.tokens = 0
        # Sequences and tokens of this process that do not yet count above.
        self._new = [0, 0]
        self.seconds = 0.0
        self.validating = 0.0
        self.solved: int | None = None
        self.validation: dict[str, float] = {}
        self.curve: list[Point] = []
        self.trained = False
        self._console = Console(soft_wrap=True)

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint: the counts so far."""
        self._count()
        return {
            "sequences": self.sequences,
            "tokens": self.tokens,
            "validating": self.validating,
            "seconds": self.seconds + self._since_start(),
            "solved": self.solved,
            "validation": self.validation,
            "curve": self.curve,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts of a checkpoint."""
        self.sequences = state_dict["sequences"]
        self.tokens = state_dict["tokens"]
        self.validating = state_dict["validating"]
        self.seconds = state_dict["seconds"]
        self.solved = state_dict["solved"]
        self.validation = state_dict["validation"]
        # Checkpoints of version 0.1 have no curve.
        self.curve = [(int(step), float(score)) for step, score in state_dict.get("curve", ())]

    def _since_start(self) -> float:
        return time.monotonic() - self._start if hasattr(self, "_start") else 0.0

    def setup(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        """Count the weights."""
        self.parameters = sum(part.numel() for part in pl_module.parameters())

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Start the clock, and write the beginning of a run's record."""
        self._trainer = trainer
        self._start = time.monotonic()
        if trainer.is_global_zero:
            self._record = self._begun(trainer)
            self._write_record(pl_module)

    def _begun(self, trainer: lightning.Trainer) -> Record:
        """The record of a run at its beginning; a resumed run keeps the time of its first one."""
        try:
            began = read_record(self.folder).began
        except ValueError:  # it is written anew
            began = None
        task: Any = trainer.datamodule  # type: ignore[attr-defined]
        return Record(began or datetime.now(timezone.utc), getattr(task, "seed", None))

    def _write_record(self, pl_module: Any) -> None:
        finite = [point for point in self.curve if math.isfinite(point[1])]
        best = min(finite, key=lambda point: point[1], default=None)
        curve = tuple(self.curve)
        record = replace(self._record, score=pl_module.monitor, curve=curve, best=best)
        write_record(self.folder, record)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count sequences and tokens."""
        self.trained = True
        self._new[0] += len(batch.targets)
        if not batch.targets.is_floating_point():
            mask = batch.target_mask
            self._new[1] += batch.targets.numel() if mask is None else int(mask.sum())

    def _count(self) -> None:
        """Count the new sequences and tokens of all processes."""
        if hasattr(self, "_trainer"):
            device = self._trainer.strategy.root_device
            new = summed(self._trainer, torch.tensor(self._new, device=device)).tolist()
            self.sequences, self.tokens = self.sequences + new[0], self.tokens + new[1]
            self._new = [0, 0]

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Stop the clock of training."""
        self._validation_start = time.monotonic()
        self._count()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Count what came after the last validation."""
        self._count()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Note when the task is solved; print a line where no progress bar shows it."""
        metrics = dict(_starting_with(trainer.callback_metrics, "val/"))
        if trainer.state.fn == "validate" and trainer.is_global_zero:
            self._print_table("Validation", {"val/": "validation"}, metrics)
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.validating += time.monotonic() - self._validation_start
        self.validation = metrics
        plain = {name.removeprefix("val/"): value for name, value in metrics.items()}
        if self.solved is None and pl_module.solved(plain):
            self.solved = self.sequences
        if pl_module.monitor in plain:
            self.curve.append((trainer.global_step, plain[pl_module.monitor]))
        if trainer.is_global_zero:
            self._write_record(pl_module)
        if trainer.progress_bar_callback is None and trainer.is_global_zero:
            scores = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            print(f"{self.sequences} sequences: {scores}", flush=True)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Write the numbers of training, also after a kill behind the last step."""
        # In all processes, or some would wait for the counts of the others at the next checkpoint.
        self.__dict__.pop("_trainer", None)
        if not trainer.is_global_zero:
            return
        self.seconds += self._since_start()
        self.__dict__.pop("_start", None)
        metrics = {
            "train/sequences": float(self.sequences),
            "train/steps": float(trainer.global_step),
            "train/seconds": self.seconds,
            "train/parameters": float(self.parameters),
        }
        if self.tokens:
            metrics["train/tokens_per_second"] = self.tokens / (self.seconds - self.validating)
        if self.solved is not None:
            metrics["train/sequences_to_solve"] = float(self.solved)
        metrics.update(self.validation)
        update_metrics(self.folder, metrics)
        if not self.trained:
            self._console.print(f"Nothing was left to train: it is at step {trainer.global_step}.")
            return
        solved = "" if self.solved is None else f"; solved after {self.solved} sequences"
        self._console.print(
            f"Trained on {self.sequences} sequences in {self.seconds:.0f} s{solved}."
        )
        drawn = learning_curve(self.curve, f"val/{pl_module.monitor}", self._console)
        if drawn:
            self._console.print(drawn, markup=False, highlight=False)

    def on_test_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Write the scores of the test sets, and print them as a table."""
        if not trainer.is_global_zero:
            return
        metrics = dict(_starting_with(trainer.callback_metrics, "test/"))
        update_metrics(self.folder, metrics)
        task: Any = trainer.datamodule  # type: ignore[attr-defined]
        rows = {task.score_prefix(name): name for name in task.test_names()}
        self._print_table("Test", rows, metrics)
        for note in [*task.notes(), *pl_module.test_notes]:
            self._console.print(note, markup=False, highlight=False)
        self._console.print(f"Everything is in {self.folder}")

    def _print_table(self, title: str, sets: dict[str, str], metrics: dict[str, float]) -> None:
        """Print a table of scores and sets; ``sets`` maps the prefix of a set to its label."""
        # A name may begin with several prefixes, such as test/ and test/lake_: the longest counts.
        prefixes = sorted(sets, key=len, reverse=True)
        own = {name: next(filter(name.startswith, prefixes)) for name in metrics}
        scores = list(dict.fromkeys(name.removeprefix(own[name]) for name in metrics))

        def cells(prefixes: list[str], names: list[str]) -> list[str]:
            values = (metrics.get(f"{prefix}{name}") for prefix in prefixes for name in names)
            return ["" if value is None else f"{value:.4g}" for value in values]

        # The longer side goes downwards: a terminal has any number of lines, but not of columns.
        if len(scores) > max(len(sets), 6):
            table = Table("score", title=title)
            columns, lines = (
                list(sets.values()),
                [(name, cells(list(sets), [name])) for name in scores],
            )
        else:
            table = Table("set", title=title)
            columns, lines = (
                scores,
                [(label, cells([prefix], scores)) for prefix, label in sets.items()],
            )
        for column in columns:
            table.add_column(column, justify="right")
        for label, line in lines:
            table.add_row(label, *line)
        self._console.print(table)


def learning_curve(curve: Sequence[Point], name: str, console: Console) -> str:
    """A learning curve as a plot of text, or as a line where there is no room for a plot.

    There is room on a terminal with at least 50 columns and Unicode.

    Args:
        curve: scores by step; those that are not finite are left out.
        name: name of the score.
        console: where the text is to be printed.

    Returns:
        The text, without colours; empty for fewer than two points.
    """
    points = [(step, score) for step, score in curve if math.isfinite(score)]
    if len(points) < 2:
        return ""
    unicode = console.encoding.lower().replace("-", "") in ("utf8", "utf16")
    if console.is_terminal and unicode and console.width >= _LEAST_WIDTH:
        with suppress(ImportError):  # a training ends well without the plot
            return _plot(points, name, console.width)
    (_, first), (_, last) = points[0], points[-1]
    step, best = min(points, key=lambda point: point[1])
    return f"{name} went from {first:.4g} to {last:.4g}; lowest {best:.4g} at step {step}"


def _plot(points: Sequence[Point], name: str, width: int) -> str:
    """A plot of text: steps to the right, the score upwards; a wide range of scores in powers."""
    # Imported here: it is needed once, at the end of a training on a terminal.
    import uniplot

    steps, scores = zip(*points, strict=True)
    wide = min(scores) > 0 and max(scores) > 100 * min(scores)
    plot: str = uniplot.plot_to_string(
        xs=steps,
        ys=scores,
        lines=True,
        title=f"{name} by step",
        width=_WIDTH,
        height=_HEIGHT,
        line_length_hard_cap=width,
        y_as_log=wide,
    )
    return plot


def _starting_with(metrics: Mapping[str, Any], prefix: str) -> list[tuple[str, float]]:
    return [(name, float(metrics[name])) for name in metrics if name.startswith(prefix)]
