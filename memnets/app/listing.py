"""``memnets runs``: the list of all runs, in the terminal and as a page, ``runs/index.html``.

The list is made from the small files of the runs alone: names of folders, ``run.json``,
``metrics.json`` and the names of pictures and pages. So it comes at once, and it also shows runs
that are not finished, damaged, or of another version: with what is known of them.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from jsonargparse import ArgumentParser, DefaultHelpFormatter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from memnets.app.commands import COMMANDS
from memnets.files import FolderInUse, only_writer, write_atomically
from memnets.records import (
    Point,
    Record,
    read_metrics,
    read_record,
    read_table,
    run_folders,
    thinned,
)

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["Listed", "keep_index", "list_runs", "listed", "parser", "write_index"]

#: The page, and the lock of those who write it, in the folder of all runs.
_PAGE, _LOCK = "index.html", ".index.lock"
#: Seconds to wait for another process that writes the page.
_PATIENCE = 10
#: Size of the drawing of a curve, in its own units, its margin, and most of its points.
_WIDTH, _HEIGHT, _MARGIN, _MOST_POINTS = 180, 48, 3, 80
#: Most bytes of the table of a run of an older version.
_MOST_TABLE = 2**22
#: Pictures of a run that the page shows; a link leads to the others.
_SHOWN = 3


@dataclass(frozen=True)
class Listed:
    """A run in the list.

    Attributes:
        folder: folder of the run, below the folder of all runs.
        metrics: numbers of ``metrics.json``.
        record: content of ``run.json``.
        pictures: pictures of its tests, below the folder of all runs.
        pages: pages of its own, such as ``view.html``, below the folder of all runs.
        problems: what cannot be read, a line each.
    """

    folder: Path
    metrics: Mapping[str, float] = field(default_factory=dict)
    record: Record = field(default_factory=Record)
    pictures: Sequence[Path] = ()
    pages: Sequence[Path] = ()
    problems: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Name of the run, ``<task>/<model>``."""
        return self.folder.parent.as_posix()

    @property
    def version(self) -> int:
        """Number of the run among those of its name."""
        return int(self.folder.name.removeprefix("version_"))

    @property
    def state(self) -> str:
        """State of the run, one of ``tested``, ``trained``, ``not finished`` or ``empty``."""
        if any(name.startswith("test/") for name in self.metrics):
            return "tested"
        if "train/steps" in self.metrics:
            return "trained"
        return "not finished" if self.record != Record() or self.metrics else "empty"

    @property
    def steps(self) -> int | None:
        """Training steps up to the last number that is known; ``None`` = none is."""
        curve = self.record.curve
        known = [step for step, _ in curve[-1:]]
        taken = self.metrics.get("train/steps", math.nan)
        return max([*known, *([int(taken)] if math.isfinite(taken) else [])], default=None)

    @property
    def tests(self) -> dict[str, float]:
        """The score that chooses checkpoints, on each test set, by the name of the set."""
        ending = f"/{self.record.score}"
        found = {
            name.removeprefix("test/").removesuffix(ending[1:]).strip("/") or "test": value
            for name, value in self.metrics.items()
            if self.record.score and name.startswith("test/") and name.endswith(ending)
        }
        # By the numbers in the names: length_6 before length_20.
        ordered = sorted(found, key=lambda name: re.sub(r"\d+", lambda n: n[0].zfill(20), name))
        return {name: found[name] for name in ordered}


def listed(runs: Path) -> list[Listed]:
    """All runs below a folder, by name and version.

    Args:
        runs: the folder of all runs.

    Raises:
        ValueError: there is no such folder.
    """
    if not runs.is_dir():
        raise ValueError(f"expected a folder of runs at {runs}; memnets fit makes one")
    return [_listed(folder, runs) for folder in run_folders(runs)]


def _listed(folder: Path, runs: Path) -> Listed:
    problems: list[str] = []
    metrics: Mapping[str, float] = {}
    record = Record()
    try:
        metrics = read_metrics(folder)
    except (ValueError, OSError) as error:
        problems.append(_reason(error, folder))
    try:
        record = read_record(folder)
        if record == Record():
            record = _of_table(folder)
    except (ValueError, OSError) as error:
        problems.append(_reason(error, folder))
    try:
        pictures = _files(folder / "pictures", ".png", ".svg")
        pages = _files(folder, ".html")
    except OSError as error:
        pictures, pages = [], []
        problems.append(_reason(error, folder))
    return Listed(
        folder.relative_to(runs),
        metrics,
        record,
        [path.relative_to(runs) for path in pictures],
        [path.relative_to(runs) for path in pages],
        problems,
    )


def _of_table(folder: Path) -> Record:
    """Record of a run of an older version, without ``run.json``, from its ``metrics.csv``.

    Raises:
        ValueError: the file is no table of numbers.
    """
    rows = read_table(folder, _MOST_TABLE)
    names = [name for name in (rows[0] if rows else ()) if name and name.startswith("val/")]
    if not names:
        return Record()
    name = "val/loss" if "val/loss" in names else names[0]
    try:
        points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'metrics.csv'} is damaged: {error}") from error
    curve = tuple(point for point in points if math.isfinite(point[1]))
    return Record(score=name.removeprefix("val/"), curve=curve)


def _reason(error: Exception, folder: Path) -> str:
    return " ".join(str(error).split()).replace(f"{folder}/", "")[:200]


def _files(folder: Path, *endings: str) -> list[Path]:
    """Files of a folder with one of these endings, by name; empty if there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in endings)


# The page.


@cache
def _template() -> Template:
    # Imported here: a list in the terminal needs no page.
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=_number, link=_link, time=_time, duration=_duration, drawn=_drawn
    )
    return environment.get_template("runs.html")


def write_index(runs: Path) -> Path:
    """Write the page of all runs.

    Processes that write it wait for each other, so that the last page knows all runs.

    Args:
        runs: the folder of all runs.

    Returns:
        The path of the page.

    Raises:
        ValueError: there is no such folder, or another process does not end writing.
        OSError: the page cannot be written.
    """
    page = runs / _PAGE
    if not runs.is_dir():
        raise ValueError(f"expected a folder of runs at {runs}; memnets fit makes one")
    with only_writer(runs, _LOCK, _PATIENCE):
        text = _template().render(runs=listed(runs), shown=_SHOWN)
        write_atomically(page, lambda file: file.write(text.encode()))
    return page


def keep_index(runs: Path) -> None:
    """Write the page of all runs, if that is possible; a line says what went wrong.

    A training never fails because of its list.

    Args:
        runs: the folder of all runs.
    """
    try:
        write_index(runs)
    except FolderInUse:  # who holds the lock will write the page, or has been stopped while at it
        pass
    except Exception as error:
        print(f"memnets: {runs / _PAGE} was not written ({_reason(error, runs)})", file=sys.stderr)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _link(path: Path) -> str:
    return quote(path.as_posix())


def _time(time: datetime | None) -> str:
    return "" if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M")


def _duration(seconds: float | None) -> str:
    """A time in two units, such as ``1 h 05 min``."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _drawn(curve: Sequence[Point]) -> str:
    """Points of a curve for an SVG of the page; a wide range of scores in powers."""
    points = thinned(curve, _MOST_POINTS)
    lowest = min(score for _, score in points)
    wide = lowest > 0 and max(score for _, score in points) > 100 * lowest
    across = _scaled([float(step) for step, _ in points], _WIDTH)
    up = _scaled([math.log(score) if wide else score for _, score in points], _HEIGHT)
    return " ".join(f"{x:.1f},{_HEIGHT - y:.1f}" for x, y in zip(across, up, strict=True))


def _scaled(values: Sequence[float], size: float) -> list[float]:
    """Values between the margins of a drawing, the least at 0."""
    low, high = min(values), max(values)
    room = size - 2 * _MARGIN
    # Divided first: the difference of two large numbers may be infinite.
    share = [0.5 if high == low else (v / 2 - low / 2) / (high / 2 - low / 2) for v in values]
    return [_MARGIN + room * each for each in share]


# The command.


def parser() -> ArgumentParser:
    """The parser of the command."""
    made = ArgumentParser(
        prog="memnets runs",
        usage="memnets runs [options]",
        description=COMMANDS["runs"],
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=DefaultHelpFormatter,
    )
    made.add_argument("--runs", type=str, default="runs", help="The folder of all runs.")
    return made


def list_runs(arguments: list[str]) -> None:
    """Print the list, and write the page: see ``memnets runs --help``."""
    runs = Path(parser().parse_args(arguments).runs)
    found = listed(runs)
    if not found:
        print(f"There are no runs in {runs}")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("run", "score", "best", "test", "steps", "time", "began", "state"):
        table.add_column(name, justify="right" if name in ("best", "test", "steps") else "left")
    for run in found:
        record = run.record
        table.add_row(
            escape(run.folder.as_posix()),
            escape(record.score),
            _number(record.best[1] if record.best else None),
            _number(next(iter(run.tests.values()), None)),
            "" if run.steps is None else str(run.steps),
            _duration(run.metrics.get("train/seconds")),
            _time(record.began),
            escape("; ".join([run.state, *run.problems])),
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        # Whole lines for other programs, however long a name is.
        console.width = 10_000
    console.print(table)
    try:
        print(f"The page is in {write_index(runs)}")
    except (OSError, ValueError) as error:  # such as a folder that may only be read
        print(f"memnets: the page was not written ({_reason(error, runs)})", file=sys.stderr)
