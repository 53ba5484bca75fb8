"""Many runs, side by side, and what came of them beside what others published."""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import suppress
from functools import cache
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.progress import Progress

from memnets.app import executors
from memnets.app.configs import find_config, portable
from memnets.app.entries import Entry, Grid, GridModel, GridTask, Pair, Published, Score
from memnets.app.executors import Outcome, Trainings, trainings
from memnets.app.grid import report as report_grid
from memnets.app.listing import keep_index
from memnets.app.markdown import table
from memnets.app.options import call, parser_of
from memnets.app.seeds import (
    DamagedRun,
    Run,
    check_seeds,
    checked_name,
    folder_of,
    number_of,
    scores_file,
    summary,
)
from memnets.checks import check_positive, check_threads
from memnets.files import read_settings, target_of, write_atomically
from memnets.training.runs import changes
from memnets.viewing import names, plots

__all__ = [
    "Entry",
    "Grid",
    "GridModel",
    "GridTask",
    "Pair",
    "Published",
    "Score",
    "ScoreboardError",
    "parser",
    "run_scoreboard",
    "scoreboard",
]

#: Seconds between two looks at the trainings.
_GLANCE = 0.5

_NO_GRID = Grid()


class ScoreboardError(ValueError):
    """Error: not all runs of a scoreboard are finished, or have the scores to show."""


def scoreboard(
    entries: tuple[Entry, ...] = (),
    runs: str = "runs",
    results: str = "RESULTS.md",
    processes: int | None = None,
    threads: int = 1,
    executor: Executor | None = None,
    grid: Grid = _NO_GRID,
    records: str | None = None,
    report_only: bool = False,
    command: str = "memnets scoreboard",
) -> None:
    """Train what is not yet trained, then write a table and a picture of all finished runs.

    Each seed is a ``memnets fit`` in a process of its own, in ``<runs>/seed_<n>/<task>/<model>/``;
    what it prints goes to ``fit.log`` there. A finished run is never repeated or changed. If the
    settings of its entry have changed since, the table says so; to train with the new ones, give
    the entry another name. A run that was stopped goes on from its last checkpoint. The pages of a
    grid, made of scores alone, say which cells have runs of other settings than those of now, if
    a board has trained them: move their records and runs away to train them again.

    Args:
        entries: the board, entry by entry.
        runs: the folder of all runs.
        results: the table; the picture lies beside it, with the ending ``.png``, and the page of
            each task of a grid in a folder of the same name.
        processes: how many runs are trained at once; if not given, on this machine as many as there
            are cores for their threads, and at least one; elsewhere as many as the executor takes.
        threads: number of PyTorch's threads of each training.
        executor: runs the trainings: ``submitit``, on Slurm; ``dask``; or the class path of an
            executor with the interface of ``concurrent.futures``. If not given, ``processes`` of
            this machine.
        grid: the board, as all pairs of some tasks and some models; in place of entries.
        records: a folder to which the scores of each finished run are copied, as
            ``<task>/<model>/seed_<n>.json``. A run that is there counts as finished, so the table
            can be made of such a folder alone.
        report_only: train nothing.
        command: command that the table names.

    Raises:
        ValueError: a setting is out of its range, or a config is missing or damaged.
        FolderInUse: another scoreboard is at work in this folder.
        ScoreboardError: runs are damaged, failed, were stopped or lack a score; all others were
            trained, and the table was written.
    """
    if processes is not None:
        check_positive(processes=processes)
    check_threads(threads)
    most = processes
    if executor is None:
        most = processes or executors.most_here(threads)
        executor = executors.processes(most)
    folder, path = folder_of("runs", runs), Path(results)
    kept = None if records is None else folder_of("records", records)
    if path.is_dir() or path.suffix == ".png":
        raise ValueError(
            f"results must be a file that is no .png, which is the picture; got {results}"
        )
    for written in (path, path.with_suffix(".png")):
        target_of(written)
    if grid and not path.suffix:
        raise ValueError(
            "results of a grid must have an ending, such as .md, since the pages of its tasks lie "
            f"in a folder without it; got {results}"
        )
    if grid and entries:
        raise ValueError("a scoreboard is made of entries or of a grid; got both")
    every = tuple(grid.entries()) if grid else entries
    board = _board(every, folder, threads, kept, trained=not report_only)
    problems: list[str] = []

    def report() -> list[str]:
        if not grid:
            return _report(board, path, command)
        return report_grid(grid, {group[0].name: group for _, group in board}, path, command)

    if report_only:
        problems += report()
    else:
        with trainings(folder, executor) as working:
            todo, problems = _unfinished(_in_order(board))
            print(f"Runs to train: {len(todo)} of {sum(len(group) for _, group in board)}")
            try:
                problems += _train(todo, working, most or len(todo))
            finally:
                problems += report()
                keep_index(folder)
    if problems:
        raise ScoreboardError("; ".join(dict.fromkeys(problems)))


def _board(
    entries: Sequence[Entry], folder: Path, threads: int, records: Path | None, trained: bool
) -> list[tuple[Entry, list[Run]]]:
    """The runs of each entry, in order of the tasks.

    Their pages tell other machines where to put runs: as here, if this board trains in a folder
    below this one, else as usual.

    Raises:
        ValueError: a config is missing, or a setting of an entry cannot be used.
    """
    board: dict[str, tuple[Entry, list[Run]]] = {}
    usual = Path(portable(str(folder)) if trained else "runs")
    settings_of = cache(lambda config: read_settings(find_config(config)))
    for entry in entries:
        # A report needs no config of an entry that has a name.
        path = find_config(entry.config) if trained or not entry.name else ""
        name = entry.name or read_settings(path).get("name")
        name = checked_name(name, entry.config)
        if name in board:
            raise ValueError(f"each entry needs a name of its own; {name} is there twice")
        if not entry.scores:
            raise ValueError(f"{name} needs at least one score to show; got none")
        check_seeds(f"seeds of {name}", entry.seeds)
        numbers: tuple[float, ...] = ()
        with suppress(ValueError):  # a report needs no config
            config = settings_of(entry.config)
            numbers = tuple(number_of(config, entry.flags, each) for each in (False, True))
        group = []
        for seed in entry.seeds:
            runs = folder / f"seed_{seed}"
            first, own = (
                f"--config={entry.config}",
                [f"--name={name}", f"--seed_everything={seed}"],
            )
            settings = (f"--threads={threads}", *entry.flags, *own)
            told = ["memnets", "fit", portable(first), *settings, f"--runs={usual / runs.name}"]
            command = ("fit", first, *settings, f"--runs={runs}")
            record = None if records is None else records / name / f"seed_{seed}.json"
            group.append(Run(name, seed, runs, command, record, shlex.join(told), *numbers))
        board[name] = entry, group
    if not board:
        raise ValueError("a scoreboard needs at least one entry; got none")
    return sorted(board.values(), key=lambda pair: _task(pair[1]))


def _in_order(board: Sequence[tuple[Entry, list[Run]]]) -> list[Run]:
    """The runs in the order of training: by importance, then first seeds before second ones."""
    ranked = [
        (-entry.importance, rank, run) for entry, group in board for rank, run in enumerate(group)
    ]
    return [run for *_, run in sorted(ranked, key=lambda each: each[:2])]


def _unfinished(runs: Sequence[Run]) -> tuple[list[tuple[Run, bool]], list[str]]:
    """The runs to train, with whether each goes on from a checkpoint; what is wrong with others."""
    todo: list[tuple[Run, bool]] = []
    problems: list[str] = []
    for run in runs:
        try:
            if run.finished() is None:
                todo.append((run, run.resumable()))
        except DamagedRun as error:
            problems.append(str(error))
    return todo, problems


def _task(group: Sequence[Run]) -> str:
    return Path(group[0].name).parts[0]


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
                    if good:
                        run.mark()
                    else:
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
    except DamagedRun:
        return False


def _report(board: Sequence[tuple[Entry, list[Run]]], path: Path, command: str) -> list[str]:
    """Write the table and the picture, from the ``metrics.json`` of finished runs alone.

    Returns:
        Which runs are damaged, or lack a score that their entry shows; they are left out.
    """
    problems: list[str] = []
    changed: dict[str, list[str]] = {}
    picture = path.with_suffix(".png")
    cells_of: dict[str, list[list[str]]] = {}
    commands: dict[str, list[str]] = {}
    panels: dict[tuple[str, str], tuple[Score, dict[str, tuple[list[float], float | None]]]] = {}
    for entry, group in board:
        task, model = Path(group[0].name).parts
        runs: dict[int, tuple[Path, dict[str, float]]] = {}
        for run in group:
            try:
                ended = run.kept()
                if ended is not None:
                    found = _changes(entry, ended[0])
                    found = found or ["other settings"] * run.changed(ended[1])
                    notes = [f"{model}, seed {run.seed}: {change}" for change in found]
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
                        f"expected {score.metric} in {scores_file(folder)}; "
                        f"got {', '.join(metrics)}"
                    )
            cells = [model, f"`{score.metric}`", f"{len(values)} of {len(group)}"]
            cells += _scores(values, score)
            for name in ("train/sequences", "train/sequences_to_solve", "train/seconds"):
                cells.append(_mean([m[name] for _, m in runs.values() if name in m], len(runs)))
            cells_of.setdefault(task, []).append(cells)
            if values or score.published is not None:
                _, models = panels.setdefault((task, score.metric), (score, {}))
                models[model] = list(values.values()), score.published
        commands.setdefault(task, []).append(group[0].told)
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
    for task, rows in cells_of.items():
        text += ["", f"## {task}", "", *table(_COLUMNS, rows)]
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
    return parser_of(scoreboard, "scoreboards/ntm", report="the table")


def run_scoreboard(arguments: list[str]) -> None:
    """Train and report: see ``memnets scoreboard --help``."""
    call(scoreboard, parser(), arguments, "scoreboards/ntm")
