"""Pictures of attention: the places at which words of an answer or of a text look."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.collections import PolyCollection
from matplotlib.patches import Rectangle
from torch import Tensor

from memnets.viewing.colours import PALETTE
from memnets.viewing.plots.canvas import (
    MOST_LABELS,
    PITCH,
    SHADED,
    WEIGHTS,
    Words,
    array,
    bar,
    figure_of,
    grid_of,
    rows_columns,
    save,
    scale_of,
    styled,
)

__all__ = ["alignment", "shaded"]

#: Size of the words, in points; distance of the lines of a shaded sentence, in inches.
_SIZE, _LINE = 8, 0.24
#: Most lines of a shaded sentence.
_MOST_LINES = 40
#: Frame of the word that looks back.
_FRAME = PALETTE[3]


@styled
def alignment(
    weights: Tensor | Mapping[str, Tensor],
    source_labels: Sequence[str],
    target_labels: Sequence[str],
    path: str | Path,
    title: str = "",
    columns: int | None = None,
    across: str = "source",
    down: str = "answer",
) -> Path:
    """Draw the weights of an answer: its words down the side, the words of the source on top.

    After Bahdanau et al. 2015, figure 3: black is no weight. The lightest is all of the weight, or
    the greatest of the picture where that is less than a half. A character that no installed font
    has is drawn as a box.

    Args:
        weights: ``[T, S]`` in ``[0, 1]``, or several of these by the names of their panels.
        source_labels: S words.
        target_labels: T words.
        path: file to write; its ending decides the format.
        title: title of the picture.
        columns: number of panels side by side; at most 4 by default.
        across: name of the axis along the top.
        down: name of the axis down the side.

    Returns:
        The path.

    Raises:
        ValueError: there is no panel, or the labels are not as many as the weights.
    """
    panels = weights if isinstance(weights, Mapping) else {"": weights}
    if not panels:
        raise ValueError("no alignment to draw: no weights were given")
    expected = [len(target_labels), len(source_labels)]
    for name, image in panels.items():
        if list(image.shape) != expected:
            raise ValueError(
                f"weights must be [T, S] = {expected}, as the labels are; "
                f"got {list(image.shape)}{f' for {name!r}' if name else ''}"
            )
    rows, columns = rows_columns(len(panels), *([columns] if columns else []))
    words = Words([*source_labels, *target_labels, *panels, title], path)
    source_labels, target_labels = words.all(source_labels), words.all(target_labels)
    height, width = (_length(len(labels)) for labels in (target_labels, source_labels))
    # Labels stand at the first panel of each row and column alone.
    beside, above = (0.45 + words.width(each, _SIZE) for each in (target_labels, source_labels))
    whole = columns * (width + 0.1) + beside + 0.85
    figure = figure_of(max(whole, 3.6), rows * (height + 0.3) + above + 0.4)
    figure.set_layout_engine("compressed")
    grid = grid_of(figure, rows, columns, len(panels))
    words_as: dict[str, Any] = {"fontsize": _SIZE, **words.settings}
    top = scale_of(panels.values())
    for number, (panel, (name, image)) in enumerate(zip(grid, panels.items(), strict=True)):
        drawn = panel.imshow(array(image), aspect="auto", cmap=WEIGHTS, vmin=0, vmax=top)
        if image.numel():
            panel.set_box_aspect(height / width)
        panel.spines[:].set_visible(True)
        panel.xaxis.tick_top()
        panel.xaxis.set_label_position("top")
        for axis, labels, axis_name, shown in (
            (panel.xaxis, source_labels, across, number < columns),
            (panel.yaxis, target_labels, down, number % columns == 0),
        ):
            places = range(0, len(labels), math.ceil(len(labels) / MOST_LABELS) or 1)
            texts = [labels[place] if shown else "" for place in places]
            axis.set_ticks(list(places), texts, **words_as)
            axis.set_tick_params(length=2)
            axis.set_label_text(axis_name if shown else "")
        panel.tick_params(axis="x", labelrotation=90)
        if name:
            panel.text(
                0.5, -0.05 / height, words(name), transform=panel.transAxes, ha="center", va="top",
                **words_as,
            )  # fmt: skip
    bar(
        figure, drawn, grid, "weight", shrink=min(1.0, 3 / (rows * height)),
        fraction=max(0.03, 0.15 / (columns * width)), pad=0.1 / (columns * width),
    )  # fmt: skip
    return save(figure, path, title, words)


def _length(labels: int) -> float:
    """Length of an axis of words, in inches: few of them have more room."""
    return max(min(1.6, 0.34 * labels), PITCH * min(labels, MOST_LABELS), 0.3)


@styled
def shaded(
    weights: Tensor | Mapping[str, Tensor],
    words: Sequence[str],
    path: str | Path,
    title: str = "",
    steps: Sequence[int] | None = None,
) -> Path:
    """Draw a sentence word by word: in each line, the words so far, shaded by their weights.

    After Cheng et al. 2016, figure 1. The last word of a line, bold and framed, is the one that
    looked back. White is no weight; the darkest blue is the greatest weight of a panel. Of a long
    sentence the first lines are drawn.

    Args:
        weights: weights ``[T, N]`` in ``[0, 1]`` of N words at each of T steps, or several of these
            by the names of their panels. Weights of words behind that of the step are not drawn.
        words: the N words.
        path: file to write; its ending decides the format.
        title: title of the picture.
        steps: for each line, the place of its own word among the words, from 0; by default the
            last T words, one a line.

    Returns:
        The path.

    Raises:
        ValueError: there is nothing to draw, or weights, words and steps do not fit.
    """
    panels = weights if isinstance(weights, Mapping) else {"": weights}
    if not panels:
        raise ValueError("no weights to draw: none were given")
    lines = len(next(iter(panels.values())))
    own = list(range(len(words) - lines, len(words)) if steps is None else steps)
    for name, image in panels.items():
        if list(image.shape) != [len(own), len(words)] or not lines:
            raise ValueError(
                f"weights must be [T, N] = [{len(own)}, {len(words)}], for T >= 1 steps and N "
                f"words; got {list(image.shape)}{f' for {name!r}' if name else ''}"
            )
    if min(own) < 0 or max(own) >= len(words):
        raise ValueError(f"steps must be places of the {len(words)} words; got {own}")
    if lines > _MOST_LINES:
        title = f"{title}\nthe first {_MOST_LINES} of {lines} words".strip()
        own = own[:_MOST_LINES]
        lines = len(own)
    texts = Words([*words, *panels, title], path)
    words = texts.all(words[: max(own) + 1])
    starts, ends = _places_of(words, texts)
    width, height = ends[-1] + 0.1, _LINE * lines
    count = len(panels)
    figure = figure_of(max(width + 1.0, 4.5), count * (height + 0.3) + 0.75)
    grid = grid_of(figure, count, 1, count)
    for panel, (name, image) in zip(grid, panels.items(), strict=True):
        greatest = max(float(image[line, : place + 1].max()) for line, place in enumerate(own))
        shades: Any = matplotlib.cm.ScalarMappable(cmap=SHADED)
        shades.set_clim(0, greatest if greatest > 0 else 1)
        panel.set_xlim(-0.03, max(width, 3.4))
        panel.set_ylim(lines, -0.05)
        panel.set_axis_off()
        cells, colours = [], []
        for line, place in enumerate(own):
            low, high = line + 0.06, line + 0.94
            for number in range(place + 1):
                weight = float(image[line, number])
                left, right = starts[number], ends[number]
                cells.append([(left, low), (right, low), (right, high), (left, high)])
                colours.append(shades.to_rgba(weight))
                text = panel.text(
                    (left + right) / 2, line + 0.5, words[number],
                    color="white" if weight > 0.55 * shades.get_clim()[1] else "black",
                    fontsize=_SIZE + 1, fontweight="bold" if number == place else "normal",
                    ha="center", va="center_baseline", **texts.settings,
                )  # fmt: skip
                # The layout of so many texts takes long; their places are known.
                text.set_in_layout(False)
            size = ends[place] - starts[place], high - low
            frame: dict[str, Any] = {"facecolor": "none", "edgecolor": _FRAME, "linewidth": 1.4}
            panel.add_patch(Rectangle((starts[place], low), *size, **frame))
        panel.add_collection(PolyCollection(cells, facecolors=colours, linewidths=0))
        if name:
            panel.set_title(texts(name), loc="left", **texts.settings)
        bar(figure, shades, panel, "weight", shrink=min(1.0, 2 / height), aspect=12)
    figure.supxlabel("framed: the word that looked; shaded: what it looked at", fontsize=8)
    return save(figure, path, title, texts)


def _places_of(words: Sequence[str], texts: Words) -> tuple[list[float], list[float]]:
    """Left and right end of each word of a line of text, in inches."""
    starts, ends, place = [], [], 0.0
    for word in words:
        starts.append(place)
        # Bold, since each word is the last of a line once.
        place += texts.width([word], _SIZE + 1, weight="bold") + 0.12
        ends.append(place)
        place += 0.03
    return starts, ends
