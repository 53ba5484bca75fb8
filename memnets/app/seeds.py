"""One config trained with several seeds: where each run lies, and what their scores come to."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from memnets.app.decisive import decides_result
from memnets.files import write_atomically
from memnets.records import final_metrics, read_metrics, update_metrics, versions
from memnets.training.runs import check_name, load_checkpoint

__all__ = [
    "DamagedRun",
    "Run",
    "Summary",
    "check_seeds",
    "checked_name",
    "folder_of",
    "number_of",
    "scores_file",
    "summary",
]


class DamagedRun(ValueError):
    """Error: a run cannot be read, and so neither be left as it is nor go on."""


#: Name of the number, among the scores of a run, of the settings that it was trained with.
SETTINGS = "train/settings"


def number_of(config: Mapping[str, Any], flags: Sequence[str], as_written: bool = False) -> float:
    """A number for the settings of a training, so that a change of them is noticed.

    It has six digits, which records keep; of a million changes one is missed. The seed, the name
    and folders are no part of it: of a path the last part counts. Nor is the order of keys, and of
    flags of which none says again what another one does.

    Nor are the defaults of classes: a default that changes in the code leaves the number as it is.
    With them, each new argument of any class would call all runs changed, though with its default
    they are the same. Who changes what a default does moves the runs away, or names it in a config.

    Args:
        config: settings of the config.
        flags: further flags of ``memnets fit``.
        as_written: whether the order of the flags counts, as in older records.
    """
    parts = {name: config.get(name) for name in ("model", "data", "trainer", "test_weights")}
    joined = re.sub(r"(?m)^(--[^=\n]+)\n(?!--)", r"\1=", "\n".join(flags)).splitlines()
    asked = [re.sub(r"=[\w./~-]*/", "=", flag) for flag in joined if decides_result(flag)]
    if not as_written:
        asked = _ordered([_sorted_keys(flag) for flag in asked])
    # Keys of all kinds become texts first, so that they have an order.
    plain = json.loads(json.dumps([parts, asked], default=str))
    text = json.dumps(plain, sort_keys=True)
    return 100_000.0 + zlib.crc32(text.encode()) % 900_000


def _ordered(flags: Sequence[str]) -> list[str]:
    """Flags by name, but for one that may say again what an earlier one did: it stays behind it.

    So two orders that mean the same become one.
    """
    left, ordered = list(flags), []
    while left:
        free = [
            flag
            for place, flag in enumerate(left)
            if not any(_meet(flag, before) for before in left[:place])
        ]
        ordered.append(min(free))
        left.remove(ordered[-1])
    return ordered


def _meet(one: str, other: str) -> bool:
    """Whether two flags may set the same: one name begins the other, or one is a whole config."""
    names = [
        flag.partition("=")[0].rstrip("+").replace(".init_args", "") + "." for flag in (one, other)
    ]
    return "--config." in names or names[0].startswith(names[1]) or names[1].startswith(names[0])


def _sorted_keys(flag: str) -> str:
    """A flag with the keys of its value in order, if that is JSON, as of settings of a grid."""
    name, equals, value = flag.partition("=")
    if not value.startswith(("{", "[")):
        return flag
    with suppress(ValueError):
        return f"{name}{equals}{json.dumps(json.loads(value), sort_keys=True)}"
    return flag


class Run(NamedTuple):
    """A training with one seed.

    Attributes:
        name: ``<task>/<model>``.
        seed: of weights and data.
        runs: what ``--runs`` is given.
        command: what a user would type, from ``memnets`` on.
        record: file that keeps its scores without its folder; ``None`` = none.
        told: the command as a page tells it, for other machines.
        settings: the :func:`number_of` its settings; ``None`` = not known.
        as_written: the same for their order as it is written, which older records have.
    """

    name: str
    seed: int
    runs: Path
    command: tuple[str, ...]
    record: Path | None = None
    told: str = ""
    settings: float | None = None
    as_written: float | None = None

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"

    @property
    def root(self) -> Path:
        """The folder of its versions."""
        return self.runs / self.name

    def finished(self) -> tuple[Path, dict[str, float]] | None:
        """Place and scores of its newest version that is finished; ``None`` if there is none.

        The place is the folder of the version; or the record, if there is no such folder.

        Raises:
            DamagedRun: a ``metrics.json`` or the record cannot be read.
        """
        for folder in reversed(versions(self.root)):
            try:
                metrics = final_metrics(folder)
            except (ValueError, OSError) as error:
                raise _damaged(folder, str(error)) from error
            if metrics is not None:
                return folder, metrics
        if self.record is None or not self.record.exists():
            return None
        try:
            return self.record, read_metrics(self.record)
        except (ValueError, OSError) as error:
            raise _damaged(self.record, str(error)) from error

    def kept(self) -> tuple[Path, dict[str, float]] | None:
        """The result of :meth:`finished`, with the scores as the record has them, which is written.

        So a table is the same from the folders of runs and from records alone.

        Raises:
            DamagedRun: see :meth:`finished`.
        """
        ended = self.finished()
        if self.record is None or ended is None or ended[0] == self.record:
            return ended
        rounded = {name: float(f"{value:.6g}") for name, value in sorted(ended[1].items())}
        text = json.dumps(rounded, indent=1) + "\n"
        if not self.record.exists() or self.record.read_bytes() != text.encode():
            write_atomically(self.record, lambda file: file.write(text.encode()))
        return ended[0], rounded

    def mark(self) -> None:
        """Note with its scores, once it is finished, the settings that it was trained with."""
        ended = self.finished()
        if ended is not None and ended[0].is_dir() and self.settings is not None:
            update_metrics(ended[0], {SETTINGS: self.settings})

    def changed(self, scores: Mapping[str, float]) -> bool:
        """Whether scores are of other settings than those of now; False if they do not say."""
        known = (self.settings, self.as_written)
        return self.settings is not None and scores.get(SETTINGS, self.settings) not in known

    def resumable(self) -> bool:
        """Whether its newest version, which is not finished, has a checkpoint to go on from.

        A version that was stopped before it saved ``last.ckpt`` has not; it is left as it is, and
        another one is begun.

        Raises:
            DamagedRun: it had one, and now that or the config is missing or damaged.
        """
        folder = next(reversed(versions(self.root)), None)
        signs = ("checkpoints/last.ckpt", "metrics.json")
        if folder is None or not any((folder / sign).exists() for sign in signs):
            return False
        if not (folder / "config.yaml").is_file():
            raise _damaged(folder, "it has no config.yaml")
        try:
            load_checkpoint(folder / "checkpoints" / "last.ckpt")
        except ValueError as error:
            raise _damaged(folder, str(error)) from error
        return True


def folder_of(name: str, path: str | Path) -> Path:
    """The folder that an argument names, which need not be there yet.

    Raises:
        ValueError: it is a file.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{name} must be a folder; {folder} is a file")
    return folder


def scores_file(place: Path) -> Path:
    """The file of the scores of a run, by the place that :meth:`Run.finished` gives."""
    return place / "metrics.json" if place.is_dir() else place


def _damaged(folder: Path, reason: str) -> DamagedRun:
    what = "folder" if folder.is_dir() else "file"
    return DamagedRun(
        f"the run in {folder} is damaged: {reason}; "
        f"mend the {what}, or move it away to have the run begun anew"
    )


def checked_name(name: Any, config: str) -> str:
    """The name of runs, if it is one, ``<task>/<model>``.

    Args:
        name: the name, of any type.
        config: what the runs are trained from, for an error.

    Raises:
        ValueError: it is no such name, or no name for a folder.
    """
    if not isinstance(name, str) or name.count("/") != 1:
        raise ValueError(f"{config} needs a name, <task>/<model>; got {name!r}")
    try:
        check_name(name)
    except ValueError as error:
        raise ValueError(f"{config} needs another name: {error}") from error
    return name


def check_seeds(what: str, seeds: Sequence[int]) -> None:
    """Check that seeds are different whole numbers of at least 0, one or more.

    Args:
        what: their name, for an error.
        seeds: the seeds.

    Raises:
        ValueError: they are not.
    """
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(
            f"{what} must be different whole numbers of at least 0, one or more; got {list(seeds)}"
        )


class Summary(NamedTuple):
    """The scores of several seeds: their mean, and the best and the worst with its seed."""

    mean: float
    best: tuple[float, int]
    worst: tuple[float, int]


def summary(values: Mapping[int, float], higher_is_better: bool = False) -> Summary:
    """Sum up the scores of several seeds; one that is no number is the worst, and so is the mean.

    Args:
        values: seed -> score.
        higher_is_better: which one is best.

    Raises:
        ValueError: there is none.
    """
    if not values:
        raise ValueError("expected the score of at least one seed; got none")

    def badness(pair: tuple[float, int]) -> float:
        return math.inf if math.isnan(pair[0]) else -pair[0] if higher_is_better else pair[0]

    pairs = sorted(((value, seed) for seed, value in values.items()), key=badness)
    return Summary(sum(values.values()) / len(values), pairs[0], pairs[-1])
