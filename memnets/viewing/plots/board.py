"""The picture of a scoreboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.lines import Line2D

from memnets.viewing.colours import look_of
from memnets.viewing.plots.canvas import Words, figure_of, grid_of, rows_columns, save, styled

__all__ = ["Board", "scoreboard"]

#: Room for the names of the models below a panel, in inches.
_ROOM = 2.6


class Board(NamedTuple):
    """A panel of a scoreboard: a score of several models on a task.

    Attributes:
        title: name of the panel, such as the task and the test set.
        score: name of the score, with its unit.
        higher_is_better: its direction.
        models: by the name of a model, the score of each seed, and the published score if any.
    """

    title: str
    score: str
    higher_is_better: bool
    models: Mapping[str, tuple[Sequence[float], float | None]]


@styled
def scoreboard(panels: Sequence[Board], path: str | Path, title: str = "") -> Path:
    """Draw scores of models on tasks: a point for each seed, a line for a published score.

    A model has the same colour and the same mark in all panels. Where scores differ by far more
    than they could on a plain axis, the axis is logarithmic, but for what is about 0.

    Args:
        panels: the panels, in their order.
        path: file to write; its ending decides the format.
        title: title of the picture.

    Returns:
        The path.

    Raises:
        ValueError: there is no panel.
    """
    if not panels:
        raise ValueError("expected scores to draw; got none")
    rows, columns = rows_columns(len(panels))
    words = Words([title, *(model for panel in panels for model in panel.models)], path)
    figure = figure_of(max(3.5 * columns, 5.0), 0.8 + 3.2 * rows)
    grid = grid_of(figure, rows, columns, len(panels))
    for panel, (name, score, higher, models) in zip(grid, panels, strict=True):
        for place, (model, (values, published)) in enumerate(models.items()):
            spread = place + 0.14 * (np.arange(len(values)) - (len(values) - 1) / 2)
            look = look_of(model)
            panel.plot(
                spread, values, look.marker, color=look.colour, markersize=6, linestyle="none",
                markeredgecolor="white", markeredgewidth=0.5, gid=model,
            )  # fmt: skip
            if published is not None:
                panel.hlines(
                    published,
                    place - 0.4,
                    place + 0.4,
                    color="black",
                    linestyle="--",
                    linewidth=1.1,
                )
        drawn = np.abs([v for values, other in models.values() for v in (*values, other or 0)])
        scale = ""
        if drawn.max() > 100 * drawn[drawn > 0].min(initial=np.inf):
            panel.set_yscale("symlog", linthresh=drawn.max() / 1e4)
            scale = ", log scale"
            panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        else:
            # The axis is wide enough that nearly equal scores look equal.
            low, high = panel.get_ylim()
            greatest = float(drawn[np.isfinite(drawn)].max(initial=0))
            margin = max(0.0, 0.02 * greatest - (high - low)) / 2
            panel.set_ylim(low - margin, high + margin)
            panel.ticklabel_format(axis="y", useOffset=False)
        panel.set_xlim(-0.6, len(models) - 0.4)
        # Names that would meet are broken into lines, or else stand upright.
        room = _ROOM / len(models)
        labels = words.all(models)
        if words.width(labels, 8) > room:
            labels = [label.replace("_", "\n") for label in labels]
        widest = words.width([part for label in labels for part in label.split("\n")], 8)
        upright: dict[str, Any] = {"rotation": 90} if widest > room else {}
        panel.set_xticks(range(len(models)), labels, **upright, **words.settings)
        arrow = "\N{UPWARDS ARROW} higher" if higher else "\N{DOWNWARDS ARROW} lower"
        panel.set_title(f"{name}\n{arrow} is better")
        panel.set_ylabel(f"{score}{scale}")
    legend = [
        Line2D([], [], color="grey", marker="o", linestyle="none", label="a run, of one seed"),
        Line2D([], [], color="black", linestyle="--", linewidth=1.1, label="published by others"),
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=2)
    return save(figure, path, title, words)
