"""The small files of a run: its scores, its learning curve, and where runs lie.

``metrics.json`` holds the scores of a run by name. ``run.json`` holds its :class:`Record`: when it
began, its seed, and its learning curve. Nothing here imports PyTorch, so a list of runs comes at
once.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from memnets.files import read_text, write_atomically

__all__ = [
    "Point",
    "Record",
    "final_metrics",
    "read_curve",
    "read_metrics",
    "read_record",
    "read_table",
    "run_folders",
    "thinned",
    "update_metrics",
    "versions",
    "write_record",
]

#: Most bytes of ``metrics.json`` and of ``run.json``.
_MOST_METRICS, _MOST_RECORD = 2**24, 2**20
#: Most bytes of ``metrics.csv``.
_MOST_TABLE = 2**28
#: Most points of a curve in ``run.json``.
_MOST_POINTS = 200
#: Most folders between the folder of all runs and that of a run.
_MOST_LEVELS = 12

#: A training step, and the score of the validation after it.
Point = tuple[int, float]


@dataclass(frozen=True)
class Record:
    """Content of ``run.json``.

    Attributes:
        began: time at which the run began, with its time zone; ``None`` = not known.
        seed: seed of weights and data; ``None`` = not known.
        score: name of the score that chooses the best checkpoint, such as ``bits``; the lowest is
            the best.
        curve: the score at the validations so far, by step; of many, some hundred.
        best: the lowest of all scores; ``None`` before the first validation.
    """

    began: datetime | None = None
    seed: int | None = None
    score: str = ""
    curve: tuple[Point, ...] = ()
    best: Point | None = None


def thinned(curve: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """At most so many points of a curve, evenly chosen; the first and the last are among them.

    Args:
        curve: the points in their order.
        most: most points, at least 2.
    """
    if len(curve) <= most:
        return list(curve)
    return [curve[round(number * (len(curve) - 1) / (most - 1))] for number in range(most)]


def write_record(folder: Path, record: Record) -> None:
    """Write ``run.json``.

    Args:
        folder: folder of the run.
        record: what to write; scores of the curve that are not finite are left out, and of many
            points some.
    """
    finite = [(step, score) for step, score in record.curve if math.isfinite(score)]
    content = {
        "began": None if record.began is None else record.began.isoformat(timespec="seconds"),
        "seed": record.seed,
        "score": record.score,
        "best": record.best,
        "curve": thinned(finite),
    }
    text = json.dumps(content, allow_nan=False) + "\n"
    write_atomically(folder / "run.json", lambda file: file.write(text.encode()))


def read_record(folder: Path) -> Record:
    """Read ``run.json``; an empty record if there is no such file, as of an older version.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / "run.json"
    if not path.exists():
        return Record()
    try:
        content = _object(json.loads(read_text(path, _MOST_RECORD)))
        began, seed, best = (content.get(name) for name in ("began", "seed", "best"))
        return Record(
            None if began is None else _time(began),
            None if seed is None else int(seed),
            str(content.get("score", "")),
            tuple(map(_point, content.get("curve", ()))),
            None if best is None else _point(best),
        )
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {_reason(error)}") from error


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)


def _point(value: Any) -> Point:
    step, score = value
    if not math.isfinite(score):
        raise ValueError(f"a score must be finite; got {score}")
    return int(step), float(score)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("expected one JSON object")
    return value


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return "a number is too large" if isinstance(error, OverflowError) else str(error)


def read_metrics(folder: Path) -> dict[str, float]:
    """Read the numbers of ``metrics.json`` by name; empty if there is no such file.

    Args:
        folder: folder of the run; or a ``.json`` file, which is read itself.

    Raises:
        ValueError: the file is not a flat JSON object with numbers as values.
    """
    path = folder if folder.suffix == ".json" else folder / "metrics.json"
    if not path.exists():
        return {}
    try:
        metrics = json.loads(read_text(path, _MOST_METRICS))
        if not isinstance(metrics, dict) or any(
            type(v) not in (int, float) for v in metrics.values()
        ):
            raise ValueError("expected one JSON object, name -> number")
        return {name: float(value) for name, value in metrics.items()}
    except (ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {_reason(error)}") from error


def final_metrics(folder: Path) -> dict[str, float] | None:
    """The numbers of ``metrics.json`` of a run that is finished; ``None`` = it is not.

    A run is finished when it has the numbers of the whole training (``train/...``) and scores of a
    test (``test/...``).

    Raises:
        ValueError: see :func:`read_metrics`.
    """
    metrics = read_metrics(folder)
    return metrics if {"train", "test"} <= {name.partition("/")[0] for name in metrics} else None


def update_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    """Add numbers by name to ``metrics.json``; its other names stay."""
    path = folder / "metrics.json"
    known = read_metrics(folder)
    known.update({name: float(value) for name, value in metrics.items()})
    text = json.dumps(dict(sorted(known.items())), indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def read_curve(folder: Path, metric: str) -> list[Point]:
    """Read one score of ``metrics.csv`` at each validation so far; also while a training runs.

    Args:
        folder: folder of the run.
        metric: name of the score, such as ``val/loss``.

    Returns:
        Number of training steps before each validation, and the score, which may be no number;
        empty if there is no such file, or no such score in it.

    Raises:
        ValueError: the file is no table of numbers.
    """
    try:
        rows = read_table(folder)
        return [(int(row["step"]) + 1, float(row[metric])) for row in rows if row.get(metric)]
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{folder / 'metrics.csv'} is damaged: {error}") from error


def read_table(folder: Path, most: int = _MOST_TABLE) -> list[dict[str, str]]:
    """Read ``metrics.csv`` of a run; also while its training goes on.

    Args:
        folder: folder of the run.
        most: most bytes of the file.

    Returns:
        The texts of each row, by the name of the column; empty if there is no such file.

    Raises:
        ValueError: the file is no table.
    """
    path = folder / "metrics.csv"
    if not path.exists():
        return []
    try:
        return list(csv.DictReader(read_text(path, most).splitlines()))
    except csv.Error as error:
        raise ValueError(f"{path} is damaged: {error}") from error


_VERSION = re.compile(r"version_(\d+)")


def versions(root: Path) -> list[Path]:
    """Folders ``version_<n>`` under ``root``, the newest last."""
    matches = [_VERSION.fullmatch(path.name) for path in root.glob("version_*")]
    return [root / f"version_{n}" for n in sorted(int(match[1]) for match in matches if match)]


def run_folders(runs: Path) -> list[Path]:
    """Folders of all runs below a folder, by name and version.

    Links to folders are not followed, and nothing in the folder of a run is looked at.

    Args:
        runs: the folder of all runs.

    Raises:
        OSError: the folder cannot be read; one below it that cannot is left out.
    """
    found = _runs_among(list(runs.iterdir()), _MOST_LEVELS)
    return sorted(found, key=lambda path: (path.parent, int(path.name.removeprefix("version_"))))


def _runs_among(folders: Sequence[Path], levels: int) -> Iterator[Path]:
    for folder in folders:
        if folder.name.startswith(".") or folder.is_symlink() or not folder.is_dir():
            continue
        if _VERSION.fullmatch(folder.name):
            yield folder
        elif levels:
            with suppress(OSError):
                yield from _runs_among(list(folder.iterdir()), levels - 1)
