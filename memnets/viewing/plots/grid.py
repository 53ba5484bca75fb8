"""The pictures of a grid: scores of tasks by models, and scores by length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.patches import Rectangle

from memnets.viewing.colours import look_of
from memnets.viewing.plots.canvas import SHADED, Words, bar, figure_of, grid_of, save, styled

__all__ = ["Grid", "GridCell", "Line", "grid", "lengths"]

#: Width and height of a cell, in inches.
_WIDE, _HIGH = 0.86, 0.62
#: From this place on the scale, words on the colour are white.
_DARK = 0.55


class GridCell(NamedTuple):
    """A cell of a grid.

    Attributes:
        scores: the score of each seed, in ``[0, 1]``; empty = not run.
        published: what others reached; ``None`` = not known.
        confirmed: whether that number was read in its source.
        left_out: whether the cell is not to be run.
    """

    scores: Sequence[float]
    published: float | None = None
    confirmed: bool = True
    left_out: bool = False


class Grid(NamedTuple):
    """Scores of tasks by models.

    Attributes:
        rows: name of each task, and the score of an answer by chance; ``None`` = it is not known.
        columns: name of each model.
        cells: a list for each row.
        score: name of the score.
    """

    rows: Sequence[tuple[str, float | None]]
    columns: Sequence[str]
    cells: Sequence[Sequence[GridCell]]
    score: str


class Line(NamedTuple):
    """The scores of a model by length.

    Attributes:
        title: name of the model.
        scores: the scores of the seeds at each length.
    """

    title: str
    scores: Mapping[int, Sequence[float]]


def _percent(share: float) -> str:
    """In percent, without a mark; only what has no mistake is 100."""
    if 0.9995 <= share < 1:
        return "99.9"
    return f"{100 * share:.3g}" if share >= 0.1 else f"{100 * share:.1f}"


@styled
def grid(board: Grid, path: str | Path, title: str = "") -> Path:
    """Draw a heat map of scores: tasks from top to bottom, models from left to right.

    A cell holds the mean of the seeds and the worst seed in percent. Its colour is the place of the
    mean between chance and no mistake. What was published stands in the upper right corner.

    Args:
        board: the scores, at least one row and one column.
        path: file to write; its ending decides the format.
        title: title of the picture.

    Returns:
        The path.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not board.rows or not board.columns:
        raise ValueError("expected tasks and models to draw; got none")
    names = [name for name, _ in board.rows]
    words = Words([title, board.score, *names, *board.columns], path)
    beside = words.width(names, 9) + 0.2
    figure = figure_of(_WIDE * len(board.columns) + beside + 0.9, _HIGH * len(board.rows) + 1.9)
    (panel,) = grid_of(figure, 1, 1, 1)
    places = np.full((len(board.rows), len(board.columns)), np.nan)
    for down, ((_, chance), cells) in enumerate(zip(board.rows, board.cells, strict=True)):
        for across, cell in enumerate(cells):
            if cell.scores:
                mean, least = float(np.mean(cell.scores)), chance or 0.0
                places[down, across] = max(0.0, (mean - least) / (1 - least))
            _fill(panel, down, across, cell, places[down, across])
    drawn = panel.imshow(places, cmap=SHADED, vmin=0, vmax=1, aspect="auto", zorder=0)
    panel.set_xticks(
        range(len(board.columns)), [words.lines(name, _WIDE - 0.08, 9) for name in board.columns],
        fontsize=9, **words.settings,
    )  # fmt: skip
    panel.xaxis.tick_top()
    panel.set_xlim(-0.5, len(board.columns) - 0.5)
    panel.set_yticks(range(len(board.rows)), words.all(names), fontsize=9, **words.settings)
    panel.tick_params(length=0)
    panel.set_xticks(np.arange(len(board.columns) + 1) - 0.5, minor=True)
    panel.set_yticks(np.arange(len(board.rows) + 1) - 0.5, minor=True)
    panel.grid(which="minor", color="white", linewidth=1.5)
    panel.grid(which="major", visible=False)
    panel.tick_params(which="minor", length=0)
    for spine in panel.spines.values():
        spine.set_visible(False)
    shown = bar(figure, drawn, panel, "mean, from chance to no mistake")
    shown.set_ticks([0, 0.5, 1], labels=["chance", "half way", "all right"])
    figure.supxlabel(
        words.lines(
            f"{board.score}, in percent. Large: mean of the seeds; below it: the worst seed. Upper "
            "right, slanted: published by others; ? = not read in its source.",
            figure.get_size_inches()[0] - 0.4,
            9,
        ),
        fontsize=9,
    )
    return save(figure, path, title, words)


def _fill(panel: Any, down: int, across: int, cell: GridCell, place: float) -> None:
    """Write the numbers of a cell."""
    colour = "white" if place >= _DARK else "black"
    if cell.scores:
        small = f"worst {_percent(min(cell.scores))}" if len(cell.scores) > 1 else "1 seed"
        panel.text(
            across, down + 0.02, _percent(float(np.mean(cell.scores))), ha="center", va="center",
            fontsize=11, color=colour,
        )  # fmt: skip
        panel.text(across, down + 0.33, small, ha="center", va="center", fontsize=6.5, color=colour)
    else:
        panel.add_patch(
            Rectangle(
                (across - 0.5, down - 0.5),
                1,
                1,
                facecolor="#f2f2f2",
                edgecolor="#d0d0d0",
                hatch="////",
                linewidth=0,
            )
        )
        panel.text(
            across, down + 0.2, "left out" if cell.left_out else "not run", ha="center",
            va="center", fontsize=7, color="#555555",
        )  # fmt: skip
    if cell.published is not None:
        panel.text(
            across + 0.46, down - 0.34, _percent(cell.published) + "?" * (not cell.confirmed),
            ha="right", va="center", fontsize=6.5, style="italic", color=colour,
        )  # fmt: skip


@styled
def lengths(
    lines: Mapping[str, Line],
    path: str | Path,
    score: str,
    trained_to: int = 0,
    title: str = "",
    chance: float | None = None,
) -> Path:
    """Draw scores against the length of a string, a line for each model.

    A line is the mean of the seeds; a band goes from the worst to the best. A model has the look
    that it has in all pictures.

    Args:
        lines: scores of each model, by its name.
        path: file to write; its ending decides the format.
        score: name of the score.
        trained_to: greatest length of the training, up to which the ground is shaded; 0 = none.
        title: title of the picture.
        chance: score of an answer by chance, a dotted line; ``None`` = it is not known.

    Returns:
        The path.

    Raises:
        ValueError: there is no line.
    """
    if not lines:
        raise ValueError("expected scores by length to draw; got none")
    words = Words([title, score, *(line.title for line in lines.values())], path)
    figure = figure_of(8.0, 4.2)
    (panel,) = grid_of(figure, 1, 1, 1)
    if trained_to:
        panel.axvspan(0, trained_to, color="#e8e8e8", label=f"trained: up to {trained_to}")
    if chance:
        panel.axhline(100 * chance, color="black", linestyle=":", linewidth=1, label="chance")
    for name, line in lines.items():
        look = look_of(name)
        places = list(line.scores)
        seeds = [100 * np.asarray(line.scores[place]) for place in places]
        panel.plot(
            places, [each.mean() for each in seeds], color=look.colour, marker=look.marker,
            markersize=4, linewidth=1.4, label=words(line.title),
        )  # fmt: skip
        if any(len(each) > 1 for each in seeds):
            low, high = [each.min() for each in seeds], [each.max() for each in seeds]
            panel.fill_between(places, low, high, color=look.colour, alpha=0.12, linewidth=0)
    panel.set_xlim(0, None)
    panel.set_ylim(-2, 102)
    panel.set_xlabel("length of the question (symbols)")
    panel.set_ylabel(words.lines(f"{score} (%)", 3.0, 9))
    figure.legend(loc="outside right center", prop=words.font(8))
    return save(figure, path, title, words)
