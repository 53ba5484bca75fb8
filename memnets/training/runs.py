"""The folder of a run, ``runs/<task>/<model>/version_<n>/``, and what is in it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.loggers.logger import Logger
from torch import nn

from memnets.files import write_atomically

__all__ = [
    "AtomicCheckpointIO",
    "CSVTable",
    "CheckpointError",
    "changes",
    "check_same_model",
    "last_version",
    "load_checkpoint",
    "next_version",
    "read_metrics",
    "update_metrics",
    "versions",
]


class CheckpointError(ValueError):
    """A checkpoint cannot be used: it is missing, damaged, or that of another model."""


def load_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Load a checkpoint, tensors and plain values alone (``weights_only=True``).

    Raises:
        CheckpointError: there is no such file, or it is damaged.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"expected a checkpoint at {path}; there is no such file")
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # what torch raises depends on where the damage is
        reason = str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise CheckpointError(
            f"expected a checkpoint at {path}; the file is damaged or of another kind ({reason})"
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(f"expected a checkpoint at {path}; the file holds no state_dict")
    return checkpoint


def check_same_model(model: nn.Module, checkpoint: dict[str, Any], path: str) -> None:
    """Check that a checkpoint holds the parameters of this very model.

    Raises:
        CheckpointError: it does not.
    """
    ours = {name: list(value.shape) for name, value in model.state_dict().items()}
    theirs = {name: list(value.shape) for name, value in checkpoint["state_dict"].items()}
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            raise CheckpointError(
                f"{path} is a checkpoint of another model: expected {name} of shape "
                f"{ours.get(name, 'none')}; got {theirs.get(name, 'none')}"
            )


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that a kill in the middle of writing leaves as they were."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write beside the old file, then take its place."""
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load tensors and plain values alone.

        Raises:
            CheckpointError: there is no such file, or it is damaged.
        """
        return load_checkpoint(path, map_location)


def changes(before: Any, now: Any) -> list[tuple[str, Any, Any]]:
    """The whole name, the old and the new value of each setting that two configs differ in.

    What only one of them has is left out, so that either may leave settings at their defaults.
    """
    old, new = dict(_leaves(before)), dict(_leaves(now))
    common = [name for name in old if name in new]
    return [(name, old[name], new[name]) for name in common if not _same(old[name], new[name])]


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(config, (dict, list)):
        yield prefix, config
        return
    for name, value in config.items() if isinstance(config, dict) else enumerate(config):
        yield from _leaves(value, f"{prefix}.{name}" if prefix else str(name))


def _same(one: Any, other: Any) -> bool:
    """Whether two values are one; a class may be named with its module and without."""
    if isinstance(one, str) and isinstance(other, str):
        return f".{one}".endswith(f".{other}") or f".{other}".endswith(f".{one}")
    return bool(one == other)


def versions(root: Path) -> list[Path]:
    """The folders ``version_<n>`` under ``root``, the newest last."""
    matches = [re.fullmatch(r"version_(\d+)", path.name) for path in root.glob("version_*")]
    return [root / f"version_{n}" for n in sorted(int(match[1]) for match in matches if match)]


def next_version(root: Path) -> Path:
    """Make the next folder ``version_<n>`` under ``root``; two runs at once get one each."""
    while True:
        known = versions(root)
        number = int(known[-1].name.removeprefix("version_")) + 1 if known else 0
        folder = root / f"version_{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder


def last_version(root: Path) -> Path:
    """The newest folder under ``root`` that holds a checkpoint to go on from.

    Raises:
        CheckpointError: there is none.
    """
    for folder in reversed(versions(root)):
        if (folder / "checkpoints" / "last.ckpt").is_file():
            return folder
    raise CheckpointError(
        f"expected a run to go on with, {root}/version_<n>/checkpoints/last.ckpt; there is none"
    )


def read_metrics(folder: Path) -> dict[str, float]:
    """What ``metrics.json`` holds; nothing if there is no such file.

    Raises:
        ValueError: the file is no flat JSON object, name -> number.
    """
    path = folder / "metrics.json"
    if not path.exists():
        return {}
    try:
        metrics = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(metrics, dict) or not all(type(v) in (int, float) for v in metrics.values()):
        raise ValueError(f"{path} is damaged: expected one JSON object, name -> number")
    return metrics


def update_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    """Add to ``metrics.json``, flat, name -> number; what it holds under other names stays."""
    path = folder / "metrics.json"
    known = read_metrics(folder)
    known.update({name: float(value) for name, value in metrics.items()})
    text = json.dumps(dict(sorted(known.items())), indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


class CSVTable(Logger):
    """Logs to ``metrics.csv``, a row a step, and goes on with the table of a run that is resumed.

    Args:
        folder: of the run.
        resumed_step: rows of this step and later are dropped, the run will write them again;
            ``None`` = a new table.
    """

    def __init__(self, folder: Path, resumed_step: int | None = None) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self.rows: dict[int, dict[str, Any]] = {}
        if resumed_step is not None and self.path.is_file():
            with self.path.open(newline="") as file:
                for row in csv.DictReader(file):
                    if int(row["step"]) < resumed_step:
                        self.rows[int(row["step"])] = {k: v for k, v in row.items() if v != ""}

    @property
    def name(self) -> str:
        """Of the task and model."""
        return self.path.parent.parent.name

    @property
    def version(self) -> str:
        """Of the run."""
        return self.path.parent.name

    @property
    def log_dir(self) -> str:
        """Folder of the run."""
        return str(self.path.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing; the settings are in ``config.yaml``."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add to the row of the step."""
        self.rows.setdefault(step or 0, {"step": step or 0}).update(metrics)

    def save(self) -> None:
        """Write the table."""
        columns = sorted({name for row in self.rows.values() for name in row} - {"step"})

        def write(file: IO[bytes]) -> None:
            lines = [["step", *columns]]
            lines += [
                [str(row.get(name, "")) for name in ["step", *columns]]
                for _, row in sorted(self.rows.items())
            ]
            file.write("".join(",".join(line) + "\n" for line in lines).encode())

        if self.rows:
            write_atomically(self.path, write)

    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()
