"""Answers in the plane: hulls, triangulations, tours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.lines import Line2D

from memnets.viewing.colours import PALETTE
from memnets.viewing.plots.canvas import Array, figure_of, rows_columns, save, styled

__all__ = ["Drawing", "drawing"]

_RIGHT, _ANSWER = PALETTE[1], PALETTE[0]


class Drawing(NamedTuple):
    """An answer in the plane, beside the right one.

    Attributes:
        points: ``[n, 2]``.
        target: lines ``[k, 2]`` of the right answer.
        answer: lines ``[k, 2]`` of the model's answer.
        caption: a verdict on the answer.
    """

    points: Array
    target: Sequence[Array]
    answer: Sequence[Array]
    caption: str


@styled
def drawing(drawings: Sequence[Drawing], path: str | Path, title: str = "") -> Path:
    """Draw right answers above the model's answers, with the sequences side by side.

    The right answer is drawn once more below the model's, broad and pale, so that differences are
    seen.

    Args:
        drawings: the drawings, at least one.
        path: file to write; its ending decides the format.
        title: title of the picture.

    Returns:
        The path.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not drawings:
        raise ValueError("expected answers to draw; got none")
    bands, columns = rows_columns(len(drawings))
    figure = figure_of(max(2.6 * columns + 0.4, 3.4), 5.6 * bands + 0.7)
    grid = figure.subplots(2 * bands, columns, squeeze=False)
    for empty in grid[-2:, len(drawings) - (bands - 1) * columns :].flat:
        empty.set_axis_off()
    for number, (points, target, answer, caption) in enumerate(drawings):
        row, column = divmod(number, columns)
        above, below = grid[2 * row : 2 * row + 2, column]
        for panel, words in ((above, f"{len(points)} points"), (below, caption)):
            pale = panel is below
            for line in target:
                _draw(panel, line, _RIGHT, 4.5 if pale else 1.6, 0.35 if pale else 1.0)
            for line in answer if pale else ():
                _draw(panel, line, _ANSWER, 1.3, 1.0)
            panel.plot(*points.T, ".", color="black", markersize=5)
            panel.set_title(words)
            panel.set_aspect("equal", "datalim")
            panel.set_xticks([])
            panel.set_yticks([])
            panel.spines[:].set_visible(True)
        if not column:
            above.set_ylabel("right answer", fontsize=10)
            below.set_ylabel("model's answer", fontsize=10)
    lines: list[Any] = [
        Line2D([], [], color="black", marker=".", linestyle="none", label="point"),
        Line2D([], [], color=_RIGHT, linestyle="-", label="right answer"),
        Line2D([], [], color=_ANSWER, linestyle="-", label="model's answer"),
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=3, handlelength=1.2)
    return save(figure, path, title)


def _draw(panel: Any, line: Array, colour: str, width: float, alpha: float) -> None:
    panel.plot(*line.T, color=colour, linewidth=width, linestyle="-", alpha=alpha)
