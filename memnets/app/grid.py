"""The report of a grid: a page with a picture, and a page with curves for each task."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from memnets.app.entries import Grid, GridTask
from memnets.app.markdown import table
from memnets.app.seeds import Run, scores_file, summary
from memnets.files import write_atomically
from memnets.viewing import names, plots

__all__ = ["report"]

_COLUMNS = (
    *("model", "seeds", "mean", "best (seed)", "worst (seed)", "published", "parameters"),
    *("floats of state", "steps", "sequences", "seconds"),
)


class _Cell(NamedTuple):
    """The runs of a pair.

    Attributes:
        wanted: number of its seeds; 0 = the pair is left out.
        runs: the scores of each finished run, by its seed.
        changed: number of runs of other settings than those of now.
    """

    wanted: int
    runs: dict[int, dict[str, float]]
    changed: int = 0

    def values(self, metric: str) -> dict[int, float]:
        """A score by seed."""
        return {seed: scores[metric] for seed, scores in self.runs.items() if metric in scores}

    def mean(self, metric: str) -> float | None:
        """Mean of a score over the seeds that have it."""
        values = self.values(metric).values()
        return sum(values) / len(values) if values else None


def report(grid: Grid, groups: Mapping[str, Sequence[Run]], path: Path, command: str) -> list[str]:
    """Write the pages and pictures of a grid, from the scores of finished runs alone.

    Args:
        grid: the grid.
        groups: the runs of each pair that is not left out, by ``<task>/<model>``.
        path: the page of the grid. The picture lies beside it; the page of each task, with a
            picture of its own, in a folder of the same name.
        command: command that the pages name.

    Returns:
        Which runs are damaged, or lack the score of the grid; they are left out.
    """
    problems: list[str] = []
    cells: dict[tuple[str, str], _Cell] = {}
    for task in grid.tasks:
        for model in grid.models:
            group = groups.get(f"{task}/{model}", ())
            runs: dict[int, dict[str, float]] = {}
            for run in group:
                try:
                    ended = run.kept()
                except ValueError as error:
                    problems.append(str(error))
                    continue
                if ended is None:
                    continue
                if grid.metric in ended[1]:
                    runs[run.seed] = ended[1]
                else:
                    problems.append(
                        f"expected {grid.metric} in {scores_file(ended[0])}; "
                        f"got {', '.join(ended[1])}"
                    )
            changed = sum(run.seed in runs and run.changed(runs[run.seed]) for run in group)
            cells[task, model] = _Cell(len(group), runs, changed)
    picture = path.with_suffix(".png")
    plots.grid(_panel(grid, cells), picture, grid.title)
    _write(path, _page(grid, cells, path, command))
    for name in grid.tasks:
        row = {model: cells[name, model] for model in grid.models}
        drawn = _lines(grid, row)
        if drawn:
            score = names.in_words(grid.metric)[0]
            plots.lengths(
                drawn, path.with_suffix("") / f"{name}.png", score, grid.trained_to,
                f"{grid.title_of(name)}: {score} by length", grid.tasks[name].chance,
            )  # fmt: skip
        first = next((groups[pair] for m in grid.models if (pair := f"{name}/{m}") in groups), None)
        page = _task_page(grid, name, row, path, bool(drawn), first[0] if first else None)
        _write(path.with_suffix("") / f"{name}.md", page)
    print(f"The table is in {path}, the page of each task in {path.with_suffix('')}")
    return problems


def _write(path: Path, lines: Iterable[str]) -> None:
    text = "\n".join(lines).rstrip("\n") + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def _label(grid: Grid) -> str:
    return grid.label or names.in_words(grid.metric)[0]


def _sentence(grid: Grid) -> str:
    """The name of the score as the start of a sentence."""
    label = _label(grid)
    return label[:1].upper() + label[1:]


def _panel(grid: Grid, cells: Mapping[tuple[str, str], _Cell]) -> plots.Grid:
    """The picture of the whole, in words and numbers."""
    drawn = [
        [
            plots.GridCell(
                list(cell.values(grid.metric).values()),
                None if (other := task.published.get(model)) is None else other.score,
                other is None or other.confirmed,
                not cell.wanted,
            )
            for model in grid.models
            for cell in [cells[name, model]]
        ]
        for name, task in grid.tasks.items()
    ]
    rows = [(grid.title_of(name), task.chance) for name, task in grid.tasks.items()]
    return plots.Grid(rows, [grid.title_of(model) for model in grid.models], drawn, _label(grid))


def _page(
    grid: Grid, cells: Mapping[tuple[str, str], _Cell], path: Path, command: str
) -> list[str]:
    """The page of the grid."""
    folder, picture = path.with_suffix("").name, path.with_suffix(".png").name
    runs = sum(len(cell.runs) for cell in cells.values())
    wanted = sum(cell.wanted for cell in cells.values())
    text = [f"# {grid.title}", "", *([grid.about.strip(), ""] if grid.about.strip() else [])]
    text += [
        f"![{_label(grid)}, tasks by models; numbers are in the table below]({picture})",
        "",
        f"Made by `{command}`, which trains what is missing; {runs} of {wanted} runs are finished.",
        "",
        "## Scores",
        "",
        f"{_sentence(grid)}, in percent: mean of the seeds, and the worst seed in brackets. In "
        "square brackets what was published; `?` = the number was not read in its source.",
        "",
    ]
    heads = ["task", "chance", *map(grid.title_of, grid.models)]
    rows = []
    for name, task in grid.tasks.items():
        chance = "-" if task.chance is None else _percent(task.chance)
        row = [f"[{grid.title_of(name)}]({folder}/{name}.md)", chance]
        for model in grid.models:
            row.append(_cell(grid, task, model, cells[name, model]))
        rows.append(row)
    text += [*table(heads, rows), "", "## Models", "", "Sizes depend on the task; they are given "]
    text[-1] += "from the smallest to the greatest."
    heads = ["model", "config", "parameters", "floats of state", "steps", "seconds a run", ""]
    rows = []
    for each, column in grid.models.items():
        every = [cells[name, each] for name in grid.tasks]
        row = [grid.title_of(each), f"`{column.config}`", _span(every, "train/parameters")]
        row += [_states(every), _span(every, "train/steps"), _span(every, "train/seconds")]
        rows.append([*row, column.about])
    return [*text, "", *table(heads, rows)]


def _task_page(
    grid: Grid, name: str, row: Mapping[str, _Cell], path: Path, drawn: bool, first: Run | None
) -> list[str]:
    """The page of a task."""
    task = grid.tasks[name]
    settings = "".join(f", `{key}: {value}`" for key, value in task.settings.items())
    text = [f"# {grid.title_of(name)}", ""]
    text += [task.about.strip(), ""] if task.about.strip() else []
    text += [f"`{task.data}`{settings}."]
    if task.chance is not None:
        text[-1] += f" By chance {_percent(task.chance)} percent are right."
    text += [""]
    if drawn:
        text += [f"![Right answers by length, a line for each model]({name}.png)", ""]
    heads = list(_COLUMNS)
    rows = []
    for model, cell in row.items():
        values = cell.values(grid.metric)
        seeds = f"{len(values)} of {cell.wanted}" if cell.wanted else "left out"
        seeds += f"; {cell.changed} of other settings" if cell.changed else ""
        line = [grid.title_of(model), seeds]
        if values:
            mean, *ends = summary(values, higher_is_better=True)
            line += [_percent(mean), *(f"{_percent(value)} ({seed})" for value, seed in ends)]
        else:
            line += ["-", "-", "-"]
        line += [_published(task, model) or "-", _span([cell], "train/parameters"), _states([cell])]
        for each in ("train/steps", "train/sequences", "train/seconds"):
            line.append(_span([cell], each))
        rows.append(line)
    text += [f"{_sentence(grid)}, in percent.", "", *table(heads, rows)]
    sources = dict.fromkeys(each.source for each in task.published.values() if each.source)
    text += ["", *(f"- Published: {source}" for source in sources)] if sources else []
    notes = [
        f"- {grid.title_of(model)}: {note}"
        for model in grid.models
        if (note := grid.pair(name, model).note)
    ]
    if task.tried.strip() or notes:
        text += ["", "## What was tried", ""]
        text += [task.tried.strip(), ""] if task.tried.strip() else []
        text += notes
    if first is not None:
        text += ["", f"To train one of its runs, {first.name} with seed {first.seed}:", "", "```sh"]
        text += [first.told, "```"]
    return [*text, "", f"[All tasks](../{path.name})"]


def _cell(grid: Grid, task: GridTask, model: str, cell: _Cell) -> str:
    """Mean, worst seed and what was published, for the table of the whole."""
    values = cell.values(grid.metric)
    shown = "not run" if cell.wanted else "left out"
    if values:
        mean, _, worst = summary(values, higher_is_better=True)
        shown = f"{_percent(mean)} ({_percent(worst[0])})"
        if len(values) < cell.wanted:
            shown += f", {len(values)} of {cell.wanted} seeds"
        shown += ", other settings" if cell.changed else ""
    published = _published(task, model)
    return f"{shown} [{published}]" if published else shown


def _published(task: GridTask, model: str) -> str:
    other = task.published.get(model)
    return "" if other is None else _percent(other.score) + "?" * (not other.confirmed)


def _percent(share: float) -> str:
    """A share in percent; only one without any mistake is 100."""
    shown = f"{100 * share:.1f}"
    return "99.9" if shown == "100.0" and share < 1 else shown.removesuffix(".0")


def _span(cells: Sequence[_Cell], metric: str) -> str:
    """The numbers of some cells, from the smallest to the greatest, each a mean over seeds."""
    means = [mean for cell in cells if (mean := cell.mean(metric)) is not None]
    if not means:
        return "-"
    return " to ".join(dict.fromkeys(f"{end:,.0f}" for end in (min(means), max(means))))


_STATE = re.compile(r"test/length_(\d+)/state")


def _states(cells: Sequence[_Cell]) -> str:
    """Floats of state after strings of each length that has a test set."""
    every = {name for cell in cells for scores in cell.runs.values() for name in scores}
    lengths = sorted({int(match[1]) for name in every if (match := _STATE.fullmatch(name))})
    shown = {n: _span(cells, f"test/length_{n}/state") for n in lengths}
    if len(set(shown.values())) < 2:
        return next(iter(shown.values()), "-")
    return "; ".join(f"{span} at {n}" for n, span in shown.items())


def _lines(grid: Grid, row: Mapping[str, _Cell]) -> dict[str, plots.Line]:
    """The score by length of each model of a row, by its name in the grid."""
    place, _, last = grid.metric.rpartition("/")
    top = place.rpartition("/")[0]
    pattern = re.compile(rf"{re.escape(grid.metric)}_(\d+)|{re.escape(top)}/length_(\d+)/{last}")
    found: dict[str, plots.Line] = {}
    for model, cell in row.items():
        points: dict[int, list[float]] = {}
        for scores in cell.runs.values():
            for name, value in scores.items():
                match = pattern.fullmatch(name)
                if match:
                    points.setdefault(int(match[1] or match[2]), []).append(value)
        if points:
            found[model] = plots.Line(grid.title_of(model), dict(sorted(points.items())))
    return found
