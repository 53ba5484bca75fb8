"""Many runs, side by side, and what came of them beside what others published."""

from __future__ import annotations

import math
import os
import shlex
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter
from rich.console import Console
from rich.progress import Progress

from memnets.app import executors
from memnets.app.commands import COMMANDS, UsageError
from memnets.app.configs import find_config, name_of
from memnets.app.executors import Outcome, Trainings, trainings
from memnets.app.listing import keep_index
from memnets.app.messages import one_line
from memnets.app.trust import strict_parsing
from memnets.core import check_positive, check_threads
from memnets.files import FolderInUse, read_settings, target_of, write_atomically
from memnets.records import final_metrics, versions
from memnets.training.runs import changes, check_name, load_checkpoint
from memnets.viewing import names, plots

__all__ = [
    "Entry",
    "Run",
    "Score",
    "ScoreboardError",
    "Summary",
    "parser",
    "run_scoreboard",
    "scoreboard",
    "summary",
]

#: Seconds between two looks at the trainings.
_GLANCE = 0.5


class ScoreboardError(ValueError):
    """A scoreboard cannot go on: a run is damaged or failed, or another one is at work."""


@dataclass(frozen=True)
class Score:
    """A score to show.

    Attributes:
        metric: its name in ``metrics.json``.
        higher_is_better: which seed is best.
        published: what others reached.
        source: who, where, and after how much training.
        label: its name and unit in the picture; by default in the words of
            :mod:`memnets.viewing.names`.
    """

    metric: str
    higher_is_better: bool = False
    published: float | None = None
    source: str = ""
    label: str = ""


@dataclass(frozen=True)
class Entry:
    """A task and a model, to be trained with several seeds.

    Attributes:
        config: what ``memnets fit --config`` is given, a name or a path.
        scores: what to show of its runs.
        seeds: one run each.
        flags: further flags of ``memnets fit``, such as ``--trainer.max_steps=1000``.
        name: ``<task>/<model>``, of which each entry needs its own; that of the config if not
            given.
    """

    config: str
    scores: tuple[Score, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    flags: tuple[str, ...] = ()
    name: str | None = None


class Run(NamedTuple):
    """One seed of an entry.

    Attributes:
        name: ``<task>/<model>``.
        seed: of weights and data.
        runs: what ``--runs`` is given.
        command: what a user would type, from ``memnets`` on.
    """

    name: str
    seed: int
    runs: Path
    command: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"

    @property
    def root(self) -> Path:
        """The folder of its versions."""
        return self.runs / self.name

    def finished(self) -> tuple[Path, dict[str, float]] | None:
        """The folder and the metrics of its newest version that is finished, if there is one.

        Raises:
            ScoreboardError: a ``metrics.json`` cannot be read.
        """
        for folder in reversed(versions(self.root)):
            try:
                metrics = final_metrics(folder)
            except (ValueError, OSError) as error:
                raise _damaged(folder, str(error)) from error
            if metrics is not None:
                return folder, metrics
        return None

    def resumable(self) -> bool:
        """Whether its newest version, which is not finished, has a checkpoint to go on from.

        A version that was stopped before it saved ``last.ckpt`` has not; it is left as it is, and
        another one is begun.

        Raises:
            ScoreboardError: it had one, and now that or the config is missing or damaged.
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


def _damaged(folder: Path, reason: str) -> ScoreboardError:
    return ScoreboardError(
        f"the run in {folder} is damaged: {reason}; "
        "mend the folder, or move it away to have the run begun anew"
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


def scoreboard(
    entries: tuple[Entry, ...],
    runs: str = "runs",
    results: str = "RESULTS.md",
    processes: int | None = None,
    threads: int = 1,
    executor: Executor | None = None,
    report_only: bool = False,
    command: str = "memnets scoreboard",
) -> None:
    """Train what is not yet trained, then write a table and a picture of all finished runs.

    Each seed is a ``memnets fit`` in a process of its own, in ``<runs>/seed_<n>/<task>/<model>/``;
    what it prints goes to ``fit.log`` there. A finished run is never repeated or changed. If the
    settings of its entry have changed since, the table says so; to train with the new ones, give
    the entry another name. A run that was stopped goes on from its last checkpoint.

    Args:
        entries: the board.
        runs: the folder of all runs.
        results: the table; the picture lies beside it, with the ending ``.png``.
        processes: how many runs are trained at once; if not given, on this machine as many as there
            are cores for their threads, and at least one; elsewhere as many as the executor takes.
        threads: number of PyTorch's threads of each training.
        executor: runs the trainings: ``submitit``, on Slurm; ``dask``; or the class path of an
            executor with the interface of ``concurrent.futures``. If not given, ``processes`` of
            this machine.
        report_only: train nothing.
        command: command that the table names.

    Raises:
        ValueError: a setting is out of its range, or a config is missing or damaged.
        ScoreboardError: another scoreboard trains in this folder; or runs are damaged, failed, were
            stopped or lack a score: all others were trained, and the table was written.
    """
    if processes is not None:
        check_positive(processes=processes)
    check_threads(threads)
    most = processes
    if executor is None:
        most = processes or max(1, (os.cpu_count() or 1) // threads)
        executor = executors.processes(most)
    folder, table = Path(runs), Path(results)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"runs must be a folder; {runs} is a file")
    if table.is_dir() or table.suffix == ".png":
        raise ValueError(
            f"results must be a file that is no .png, which is the picture; got {results}"
        )
    for path in (table, table.with_suffix(".png")):
        target_of(path)
    board = _board(entries, folder, threads)
    problems: list[str] = []
    if report_only:
        problems += _report(board, table, command)
    else:
        with _trainings(folder, executor) as working:
            todo, problems = _unfinished([run for _, group in board for run in group])
            print(f"Runs to train: {len(todo)} of {sum(len(group) for _, group in board)}")
            try:
                problems += _train(todo, working, most or len(todo))
            finally:
                problems += _report(board, table, command)
                keep_index(folder)
    if problems:
        raise ScoreboardError("; ".join(dict.fromkeys(problems)))


def _board(entries: Sequence[Entry], folder: Path, threads: int) -> list[tuple[Entry, list[Run]]]:
    """The runs of each entry, in order of the tasks.

    Raises:
        ValueError: a config is missing, or a setting of an entry cannot be used.
    """
    board: dict[str, tuple[Entry, list[Run]]] = {}
    for entry in entries:
        path = find_config(entry.config)
        name = entry.name or read_settings(path).get("name")
        if not isinstance(name, str) or name.count("/") != 1:
            raise ValueError(f"{entry.config} needs a name, <task>/<model>; got {name!r}")
        try:
            check_name(name)
        except ValueError as error:
            raise ValueError(f"{entry.config} needs another name: {error}") from error
        if name in board:
            raise ValueError(f"each entry needs a name of its own; {name} is there twice")
        if not entry.scores:
            raise ValueError(f"{name} needs at least one score to show; got none")
        if not entry.seeds or len(set(entry.seeds)) < len(entry.seeds) or min(entry.seeds) < 0:
            raise ValueError(
                f"seeds of {name} must be different whole numbers of at least 0, one or more; "
                f"got {list(entry.seeds)}"
            )
        group = []
        for seed in entry.seeds:
            runs = folder / f"seed_{seed}"
            own = (f"--name={name}", f"--seed_everything={seed}", f"--runs={runs}")
            command = ("fit", f"--config={entry.config}", f"--threads={threads}", *entry.flags)
            group.append(Run(name, seed, runs, (*command, *own)))
        board[name] = entry, group
    if not board:
        raise ValueError("a scoreboard needs at least one entry; got none")
    return sorted(board.values(), key=lambda pair: _task(pair[1]))


def _unfinished(runs: Sequence[Run]) -> tuple[list[tuple[Run, bool]], list[str]]:
    """The runs to train, with whether each goes on from a checkpoint; what is wrong with others."""
    todo: list[tuple[Run, bool]] = []
    problems: list[str] = []
    for run in runs:
        try:
            if run.finished() is None:
                todo.append((run, run.resumable()))
        except ScoreboardError as error:
            problems.append(str(error))
    return todo, problems


def _task(group: Sequence[Run]) -> str:
    return Path(group[0].name).parts[0]


@contextmanager
def _trainings(folder: Path, executor: Executor) -> Iterator[Trainings]:
    """An executor for the trainings of the only scoreboard in a folder.

    Raises:
        ScoreboardError: another one trains there.
    """
    try:
        with trainings(folder, executor) as board:
            yield board
    except FolderInUse as error:
        who = f"another scoreboard{f', {error.holder},' if error.holder else ''}"
        raise ScoreboardError(
            f"{who} trains in {folder}; wait for it, or give another folder of runs"
        ) from error


def _train(todo: Sequence[tuple[Run, bool]], board: Trainings, most: int) -> list[str]:
    """Train runs, so many at once, of which some go on from a checkpoint.

    Returns:
        Which failed, and which were stopped before their end.
    """
    failed: list[str] = []
    stopped: list[str] = []
    waiting, silent = deque(todo), dict(todo)
    working: dict[Future[Outcome], Run] = {}
    console = Console(soft_wrap=True, highlight=False)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        everything = bar.add_task("", total=len(todo))
        try:
            while waiting or working:
                while waiting and len(working) < most:
                    run, _ = waiting.popleft()
                    working[board.submit(run.command, run.root)] = run
                ended = wait(working, _GLANCE, FIRST_COMPLETED).done
                began = [run for future, run in working.items() if board.began(future)]
                for run in [run for run in began if run in silent]:
                    console.print(f"{run}: {'goes on' if silent.pop(run) else 'begins'}")
                bar.update(everything, description="; ".join(map(str, began)))
                for future in ended:
                    run, outcome = working.pop(future), board.outcome(future)
                    good = outcome.code == 0 and _is_whole(run)
                    end = "finished" if good else "stopped" if outcome.stopped else "failed"
                    console.print(f"{run}: {end}")
                    bar.advance(everything)
                    if not good:
                        unfinished = stopped if outcome.stopped else failed
                        unfinished.append(f"{run.root / 'fit.log'} ({outcome.line})")
        finally:
            board.stop()
    problems = [f"runs failed: {len(failed)}; see {', '.join(failed)}"] if failed else []
    if stopped:
        problems.append(
            f"runs stopped before their end: {len(stopped)}; the same command goes on with them; "
            f"see {', '.join(stopped)}"
        )
    return problems


def _is_whole(run: Run) -> bool:
    """Whether a run is finished; one that is damaged is not, and :func:`_report` says so."""
    try:
        return run.finished() is not None
    except ScoreboardError:
        return False


def _report(board: Sequence[tuple[Entry, list[Run]]], path: Path, command: str) -> list[str]:
    """Write the table and the picture, from the ``metrics.json`` of finished runs alone.

    Returns:
        Which runs are damaged, or lack a score that their entry shows; they are left out.
    """
    problems: list[str] = []
    changed: dict[str, list[str]] = {}
    picture = path.with_suffix(".png")
    lines: dict[str, list[str]] = {}
    commands: dict[str, list[str]] = {}
    panels: dict[tuple[str, str], tuple[Score, dict[str, tuple[list[float], float | None]]]] = {}
    for entry, group in board:
        task, model = Path(group[0].name).parts
        runs: dict[int, tuple[Path, dict[str, float]]] = {}
        for run in group:
            try:
                ended = run.finished()
                if ended is not None:
                    notes = [f"{model}, seed {run.seed}: {c}" for c in _changes(entry, ended[0])]
                    changed.setdefault(task, []).extend(notes)
                    runs[run.seed] = ended
            except ValueError as error:
                problems.append(str(error))
        for score in entry.scores:
            values = {}
            for seed, (folder, metrics) in runs.items():
                if score.metric in metrics:
                    values[seed] = metrics[score.metric]
                else:
                    problems.append(
                        f"expected {score.metric} in {folder / 'metrics.json'}; "
                        f"got {', '.join(metrics)}"
                    )
            cells = [model, f"`{score.metric}`", f"{len(values)} of {len(group)}"]
            cells += _scores(values, score)
            for name in ("train/sequences", "train/sequences_to_solve", "train/seconds"):
                cells.append(_mean([m[name] for _, m in runs.values() if name in m], len(runs)))
            lines.setdefault(task, []).append(_row(cells))
            if values or score.published is not None:
                _, models = panels.setdefault((task, score.metric), (score, {}))
                models[model] = list(values.values()), score.published
        commands.setdefault(task, []).append(shlex.join(["memnets", *group[0].command]))
    text = ["# Results", "", f"From the `metrics.json` of each finished run, by `{command}`, which"]
    text += ["trains what is missing. `val/...` is of the last validation, `test/...` of the best"]
    text += ["checkpoint; sequences and seconds are means of the finished seeds."]
    drawn = [
        _panel(task, score, models)
        for (task, _), (score, models) in panels.items()
        if any(seen for seen, _ in models.values())
    ]
    if drawn:
        plots.scoreboard(drawn, picture, "Scores of the trained models, a panel a task and score")
        text += ["", f"![A point a seed, a dashed line what was published]({picture.name})"]
    for task, rows in lines.items():
        text += ["", f"## {task}", "", _row(_COLUMNS), "|---" * len(_COLUMNS) + "|", *rows]
        if changed.get(task):
            text += ["", "Settings that have changed since these were trained:", ""]
            text += [f"- {change}" for change in changed[task]]
        text += ["", "The first seed of each:", "", "```sh", *commands[task], "```"]
    write_atomically(path, lambda file: file.write(("\n".join(text) + "\n").encode()))
    print(f"The table is in {path}")
    return problems


def _panel(
    task: str, score: Score, models: Mapping[str, tuple[list[float], float | None]]
) -> plots.Board:
    """A panel of the picture, in words."""
    name, unit, where = names.in_words(score.metric)
    label = score.label or (f"{name} ({unit})" if unit else name)
    title = ", ".join(filter(None, [task.replace("_", " "), where]))
    return plots.Board(title, label, score.higher_is_better, models)


def _changes(entry: Entry, folder: Path) -> list[str]:
    """Settings of the config of an entry that a run of it did not have; flags are left out.

    Raises:
        ValueError: the config of the run is damaged.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        return []
    before_all, now_all = (read_settings(config) for config in (path, find_config(entry.config)))
    flags = [flag.lstrip("-").partition("=")[0] for flag in entry.flags]
    return [
        f"{name} was {before}, now {now}"
        for name, before, now in changes(before_all, now_all)
        if name != "name"
        and not any(f"{name}.".replace(".init_args.", ".").startswith(f"{flag}.") for flag in flags)
    ]


_COLUMNS = [
    "model",
    "score",
    "seeds",
    "mean",
    "best (seed)",
    "worst (seed)",
    "published",
    "source",
    "sequences",
    "to solve",
    "seconds",
]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _scores(values: Mapping[int, float], score: Score) -> list[str]:
    """Cells: mean, best and worst seed, and what was published."""
    published = "-" if score.published is None else f"{score.published:.4g}"
    if not values:
        return ["-", "-", "-", published, score.source]
    mean, *extremes = summary(values, score.higher_is_better)
    cells = [f"{value:.4g} ({seed})" for value, seed in extremes]
    return [f"{mean:.4g}", *cells, published, score.source]


def _mean(values: Sequence[float], wanted: int) -> str:
    """A cell with a mean, and of how many runs, if not of all."""
    if not values:
        return "-"
    missing = f" ({len(values)} of {wanted})" if len(values) < wanted else ""
    return f"{sum(values) / len(values):.0f}{missing}"


def parser() -> ArgumentParser:
    """The parser of the command."""
    made = ArgumentParser(
        prog="memnets scoreboard",
        usage="memnets scoreboard --config NAME [options]",
        description=COMMANDS["scoreboard"],
        exit_on_error=False,
        formatter_class=DefaultHelpFormatter,
    )
    made.add_argument("--config", action="config", help="Such as scoreboards/ntm; or a file.")
    made.add_function_arguments(scoreboard, skip={"report_only", "command"})
    made.add_argument(
        "--report_only", action="store_true", help="Train nothing; write the table as it stands."
    )
    return made


def run_scoreboard(arguments: list[str]) -> None:
    """Train and report: see ``memnets scoreboard --help``."""
    strict_parsing()
    asked_of = parser()
    try:
        asked = asked_of.instantiate(asked_of.parse_args(arguments))
    except ArgumentError as error:
        reason = one_line(str(error))
        shown = "memnets scoreboard --config scoreboards/ntm --print_config"
        raise UsageError(f"{reason}; {shown} shows what a board holds") from error
    asked.pop("config")
    again = [name_of(argument) for argument in arguments if argument != "--report_only"]
    scoreboard(**asked.as_dict(), command=shlex.join(["memnets", "scoreboard", *again]))
