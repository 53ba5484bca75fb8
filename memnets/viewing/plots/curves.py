"""Lines over steps: curves of a task, and the probabilities of labels after each word."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from memnets.batches import Curves
from memnets.viewing.colours import MARKERS, PALETTE
from memnets.viewing.plots.canvas import (
    MOST_LABELS,
    PITCH,
    Words,
    array,
    figure_of,
    grid_of,
    rows_columns,
    save,
    styled,
)

__all__ = ["Curves", "Reading", "curves", "readings"]

#: Words of a reading, in points.
_SIZE = 8


@styled
def curves(panels: Sequence[Curves], path: str | Path, title: str = "") -> Path:
    """Draw panels of lines side by side, all on the same scale.

    Args:
        panels: the panels, at least one.
        path: file to write; its ending decides the format.
        title: title of the picture.

    Returns:
        The path.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not panels:
        raise ValueError("expected curves to draw; got none")
    rows, columns = rows_columns(len(panels))
    words = Words([*panels[0].lines, title], path)
    width = max(4.8, 3.0 * columns)
    names = [*panels[0].lines, *([panels[0].dots] if panels[0].points is not None else [])]
    # As many names in a line of the legend as fit, each behind a piece of its line.
    beside = max(1, min(len(names), int((width - 0.2) / (words.width(names, 8) + 0.6))))
    below = 0.18 * math.ceil(len(names) / beside)
    figure = figure_of(width, 0.6 + below + 2.9 * rows)
    grid = grid_of(figure, rows, columns, len(panels), sharex=True, sharey=True)
    for panel, (lines, caption, across, up, points, dots) in zip(grid, panels, strict=True):
        for number, (label, line) in enumerate(lines.items()):
            # When all colours have been used once, lines of the same colour have marks.
            again = number // len(PALETTE)
            mark = MARKERS[(again - 1) % len(MARKERS)] if again else None
            panel.plot(*line.T, label=words(label), marker=mark, markevery=0.1, markersize=4)
        if points is not None:
            panel.plot(*points.T, "o", color="black", markersize=4, label=dots)
        panel.set_title(caption)
        panel.set_xlabel(across)
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.set_ylabel(up)
        panel.label_outer()
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=beside, prop=words.font(8),
        handlelength=2.6, columnspacing=1.2,
    )  # fmt: skip
    return save(figure, path, title, words)


class Reading(NamedTuple):
    """A sentence with a label, and what a model would answer after each of its words.

    Attributes:
        words: S words.
        chances: probability of each of O labels after each word, ``[S, O]``.
        labels: O names.
        right: the right label.
        answer: the model's answer to the whole sentence.
    """

    words: Sequence[str]
    chances: Tensor
    labels: Sequence[str]
    right: str
    answer: str


@styled
def readings(panels: Sequence[Reading], path: str | Path, title: str = "") -> Path:
    """Draw the probability of each label after each word of some sentences, one above the other.

    Of two labels, the second is drawn; the first has the rest.

    Args:
        panels: the sentences, at least one, each of at least one word.
        path: file to write; its ending decides the format.
        title: title of the picture.

    Returns:
        The path.

    Raises:
        ValueError: there is nothing to draw, or a sentence has not a probability for each word and
            label.
    """
    if not panels:
        raise ValueError("expected sentences to draw; got none")
    for panel in panels:
        expected = [len(panel.words), len(panel.labels)]
        if list(panel.chances.shape) != expected or not all(expected):
            raise ValueError(
                f"chances must be [S, O] = {expected}, as words and labels are, and not empty; got "
                f"{list(panel.chances.shape)}"
            )
    every = [word for panel in panels for word in panel.words]
    names = [name for panel in panels for name in (*panel.labels, panel.right, panel.answer)]
    words = Words([*every, *names, title], path)
    longest = max(len(panel.words) for panel in panels)
    # Words stand upright below the axis, so the longest of them decides the height.
    below = words.width(words.all(every), _SIZE)
    width = max(5.5, 1.2 + PITCH * min(longest, MOST_LABELS))
    figure = figure_of(width, 0.8 + len(panels) * (1.7 + below))
    grid = grid_of(figure, len(panels), 1, len(panels))
    for axes, (spoken, chances, labels, right, answer) in zip(grid, panels, strict=True):
        places = np.arange(len(spoken))
        values = array(chances)
        shown = range(len(labels)) if len(labels) != 2 else [1]
        for label in shown:
            axes.plot(
                places, values[:, label], label=words(labels[label]), markersize=3.5,
                marker=MARKERS[label % len(MARKERS)],
            )  # fmt: skip
        if len(labels) == 2:
            axes.axhline(0.5, color="grey", linewidth=0.8, linestyle="-")
            axes.set_ylabel(f"probability of\n{words(labels[1])}", **words.settings)
        else:
            axes.set_ylabel("probability")
            axes.legend(
                loc="center left", bbox_to_anchor=(1, 0.5), prop=words.font(8), handlelength=3
            )
        axes.set_ylim(-0.03, 1.03)
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_xlim(-0.5, longest - 0.5)
        few = places[:: math.ceil(len(spoken) / MOST_LABELS)]
        as_words: dict[str, Any] = {"rotation": 90, "fontsize": _SIZE, **words.settings}
        axes.set_xticks(few, words.all(spoken[place] for place in few), **as_words)
        good = answer == right
        verdict = "right" if good else f"wrong: right is {words(right)}"
        axes.set_title(
            f"answer: {words(answer)}, {verdict}", fontsize=9, loc="left",
            color="black" if good else PALETTE[3], fontweight="normal" if good else "bold",
            **words.settings,
        )  # fmt: skip
    grid[-1].set_xlabel("words, as the model reads them")
    return save(figure, path, title, words)
