"""Pictures: what a model answered, and where its heads were."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from torch import Tensor

from memnets.files import write_atomically

__all__ = [
    "Curves",
    "Drawing",
    "alignment",
    "answer",
    "curves",
    "drawing",
    "episode",
    "scoreboard",
    "weights",
]

Array = np.ndarray[Any, Any]

#: Labels that fit on an axis of a picture of alignments; of more, some are left out.
_MOST_LABELS = 80
#: Inches from one label to the next.
_PITCH = 0.2
#: Panels side by side.
_COLUMNS = 4
#: A font that matplotlib brings along, and what it draws for a character that no font has.
_SURE, _BOX = "DejaVu Sans", "\u25a1"

# Figures are made without pyplot: no window, no global state, safe in any thread.


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _rows_columns(panels: int, columns: int = _COLUMNS) -> tuple[int, int]:
    """Of the smallest grid for so many panels, with at most so many columns."""
    columns = min(panels, columns)
    return math.ceil(panels / columns), columns


def _grid(figure: Figure, rows: int, columns: int, panels: int, **shared: bool) -> list[Axes]:
    """So many panels, row by row; the places that are left over stay empty."""
    axes: Any = figure.subplots(rows, columns, squeeze=False, **shared)  # type: ignore[call-overload]
    grid: list[Axes] = list(axes.flatten())
    for panel in grid[panels:]:
        panel.set_axis_off()
    return grid[:panels]


def answer(targets: Tensor, probabilities: Tensor, path: str | Path, title: str = "") -> Path:
    """Draw target, output and error of one sequence, time from left to right.

    After Graves et al. 2014, figure 4.

    Args:
        targets: ``[T, O]`` in ``[0, 1]``.
        probabilities: ``[T, O]`` in ``[0, 1]``.
        path: file to write; its ending says the format.
        title: stands above.

    Returns:
        The path.
    """
    steps, channels = targets.shape
    width = float(np.clip(1.5 + steps * 0.09, 5, 14))
    figure = _figure(width, 0.9 + 3 * max(0.8, min(1.2, channels * 0.11)))
    panels = figure.subplots(3, 1, sharex=True)
    images = {
        "target": (targets, "viridis", 0.0, 1.0),
        "output": (probabilities, "viridis", 0.0, 1.0),
        "error": (probabilities - targets, "RdBu_r", -1.0, 1.0),
    }
    for panel, (name, (image, colours, low, high)) in zip(panels, images.items(), strict=True):
        drawn = panel.imshow(
            image.T.float().cpu().numpy(),
            aspect="auto", interpolation="nearest", cmap=colours, vmin=low, vmax=high,
        )  # fmt: skip
        panel.set_ylabel(name)
        panel.set_yticks([])
        figure.colorbar(drawn, ax=panel, pad=0.01, fraction=0.03)
    panels[-1].set_xlabel("step of the answer")
    return _save(figure, path, title)


def weights(
    panels: Mapping[str, Tensor], path: str | Path, title: str = "", split: int = 0
) -> Path:
    """Draw the weights of each head over time: time from left to right, slots upwards.

    After Graves et al. 2014, figure 6.

    Args:
        panels: name of a head -> ``[T, N]`` in ``[0, 1]``.
        path: file to write; its ending says the format.
        title: stands above.
        split: the step at which the source ends and the answer starts is marked, if not 0.

    Returns:
        The path.

    Raises:
        ValueError: there is no panel.
    """
    if not panels:
        raise ValueError("no weights to draw: the model has no addressing, or it was not called")
    figure = _figure(9, 0.6 + 2.4 * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (name, image) in zip(axes, panels.items(), strict=True):
        drawn = panel.imshow(
            image.T.float().cpu().numpy(),
            aspect="auto", interpolation="nearest", origin="lower", cmap="magma", vmin=0, vmax=1,
        )  # fmt: skip
        panel.set_ylabel(f"{name}\nslot")
        if split:
            panel.axvline(split - 0.5, color="white", linewidth=0.8, linestyle="--")
        figure.colorbar(drawn, ax=panel, pad=0.01, fraction=0.03)
    axes[-1].set_xlabel("step" + (" (dashed: the source ends, the answer starts)" if split else ""))
    return _save(figure, path, title)


def alignment(
    weights: Tensor | Mapping[str, Tensor],
    source_labels: Sequence[str],
    target_labels: Sequence[str],
    path: str | Path,
    title: str = "",
    columns: int | None = None,
) -> Path:
    """Draw what an answer looked at: its words down the side, those of the source along the top.

    After Bahdanau et al. 2015, figure 3: black is no weight, white is all. A character that no
    installed font has is drawn as a box.

    Args:
        weights: ``[T, S]`` in ``[0, 1]``, or name of a panel -> such weights.
        source_labels: S words.
        target_labels: T words.
        path: file to write; its ending says the format.
        title: stands above.
        columns: panels side by side; at most 4 if not given.

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
    rows, columns = _rows_columns(len(panels), columns or _COLUMNS)
    families, missing = _fonts([*source_labels, *target_labels, *panels, title])
    boxes = str.maketrans(dict.fromkeys(missing, _BOX))
    source_labels, target_labels = (
        [label.translate(boxes) for label in labels] for labels in (source_labels, target_labels)
    )
    style: dict[str, Any] = {"fontsize": 8, "fontfamily": families, "parse_math": False}
    height, width = (
        max(1.2, _PITCH * min(len(labels), _MOST_LABELS))
        for labels in (target_labels, source_labels)
    )
    # Labels stand at the first panel of each row and column alone.
    beside, above = (
        0.08 * max(map(len, labels), default=0) + 0.4 for labels in (target_labels, source_labels)
    )
    whole_width = columns * (width + 0.1) + beside + 0.2
    figure = _figure(max(whole_width, 0.09 * len(title) + 0.3), rows * (height + 0.4) + above + 0.2)
    grid = _grid(figure, rows, columns, len(panels))
    for number, (panel, (name, image)) in enumerate(zip(grid, panels.items(), strict=True)):
        panel.imshow(
            image.float().cpu().numpy(),
            aspect="auto", interpolation="nearest", cmap="gray", vmin=0, vmax=1,
        )  # fmt: skip
        panel.xaxis.tick_top()
        for axis, labels, shown in (
            (panel.xaxis, source_labels, number < columns),
            (panel.yaxis, target_labels, number % columns == 0),
        ):
            places = range(0, len(labels), math.ceil(len(labels) / _MOST_LABELS) or 1)
            texts = [labels[place] if shown else "" for place in places]
            axis.set_ticks(list(places), texts, **style)
            axis.set_tick_params(length=2)
        panel.tick_params(axis="x", labelrotation=90)
        if name:
            panel.set_xlabel(name.translate(boxes), **style)
    return _save(figure, path, title.translate(boxes), **style)


class Drawing(NamedTuple):
    """An answer in the plane, beside the right one.

    Attributes:
        points: ``[n, 2]``.
        target: lines ``[k, 2]`` of the right answer.
        answer: lines ``[k, 2]`` of the answer that was given.
        caption: how good that is.
    """

    points: Array
    target: Sequence[Array]
    answer: Sequence[Array]
    caption: str


def drawing(drawings: Sequence[Drawing], path: str | Path, title: str = "") -> Path:
    """Draw what was asked for above what came, one sequence beside the other.

    Args:
        drawings: at least one.
        path: file to write; its ending says the format.
        title: stands above.

    Returns:
        The path.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not drawings:
        raise ValueError("expected answers to draw; got none")
    figure = _figure(2.6 * len(drawings) + 0.3, 5.8)
    grid = figure.subplots(2, len(drawings), squeeze=False)
    for column, (points, target, answer, caption) in zip(grid.T, drawings, strict=True):
        for panel, lines, colour, words in (
            (column[0], target, "tab:green", f"n = {len(points)}"),
            (column[1], answer, "tab:blue", caption),
        ):
            for line in lines:
                panel.plot(*line.T, color=colour, linewidth=1.2)
            panel.plot(*points.T, ".", color="black", markersize=5)
            panel.set_title(words, fontsize=8)
            panel.set_aspect("equal", "datalim")
            panel.set_xticks([])
            panel.set_yticks([])
    for panel, name in zip(grid[:, 0], ("target", "answer"), strict=True):
        panel.set_ylabel(name)
    return _save(figure, path, title)


class Curves(NamedTuple):
    """Lines on the same axes.

    Attributes:
        lines: label -> ``[k, 2]``.
        caption: stands above.
        across: what the first coordinate is.
        up: what the second is.
        points: ``[n, 2]``, drawn as dots.
    """

    lines: Mapping[str, Array]
    caption: str = ""
    across: str = ""
    up: str = ""
    points: Array | None = None


def curves(panels: Sequence[Curves], path: str | Path, title: str = "") -> Path:
    """Draw lines, one panel beside the other, all on the same scale.

    Args:
        panels: at least one.
        path: file to write; its ending says the format.
        title: stands above.

    Returns:
        The path.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not panels:
        raise ValueError("expected curves to draw; got none")
    rows, columns = _rows_columns(len(panels))
    figure = _figure(max(4.6, 3.0 * columns), 0.4 + 3.0 * rows)
    grid = _grid(figure, rows, columns, len(panels), sharex=True, sharey=True)
    for panel, (lines, caption, across, up, points) in zip(grid, panels, strict=True):
        for label, line in lines.items():
            panel.plot(*line.T, linewidth=1.5, label=label)
        if points is not None:
            panel.plot(*points.T, "o", color="black", markersize=4)
        panel.set_title(caption, fontsize=9)
        panel.set_xlabel(across, fontsize=9)
        panel.set_ylabel(up, fontsize=9)
        panel.tick_params(labelsize=8)
    grid[0].legend(fontsize=8)
    return _save(figure, path, title)


def episode(
    weights: Mapping[str, Tensor],
    examples: Tensor,
    queries: Tensor,
    labels: Sequence[str],
    answers: Sequence[tuple[str, str]],
    path: str | Path,
    title: str = "",
) -> Path:
    """Draw which examples each query looks at: the examples along the top, the queries down a side.

    The examples are put in the order of their labels. White is no weight; the darkest blue is the
    greatest of a panel. Wrong answers are red.

    Args:
        weights: name of a panel -> ``[T, S]``, or ``[T, S + 1]`` where a query sees itself too.
        examples: ``[S, height, width]`` in ``[0, 1]``.
        queries: ``[T, height, width]`` in ``[0, 1]``.
        labels: of the examples.
        answers: for each query the answer and what it should be.
        path: file to write; its ending says the format.
        title: stands above.

    Returns:
        The path.

    Raises:
        ValueError: there is no panel, or weights that do not fit the images.
    """
    if not weights:
        raise ValueError("no episode to draw: no weights were given")
    count, asked = len(examples), len(queries)
    for name, image in weights.items():
        if len(image) != asked or image.shape[1] not in (count, count + 1):
            raise ValueError(
                f"weights must be [T, S] or [T, S + 1] with T = {asked} queries and S = {count} "
                f"examples; got {list(image.shape)} for {name!r}"
            )
    order = sorted(range(count), key=lambda place: (len(labels[place]), labels[place]))
    strip = np.concatenate([examples[place].float().cpu().numpy() for place in order], 1)
    column = np.concatenate([query.float().cpu().numpy() for query in queries], 0)
    figure = _figure(1.9 + 0.36 * (count + 2), 0.5 + len(weights) * (0.6 + 0.36 * (asked + 1)))
    panels = figure.subplots(len(weights), 1, squeeze=False)[:, 0]
    for panel, (name, image) in zip(panels, weights.items(), strict=True):
        # A square for each weight; the images stand around them, in squares of the same size.
        own = [*order, *range(count, image.shape[1])]
        panel.imshow(image[:, own].float().cpu().numpy(), cmap="Blues", vmin=0)
        panel.imshow(1 - strip, cmap="gray", extent=(-0.5, count - 0.5, -0.6, -1.6))
        panel.imshow(1 - column, cmap="gray", extent=(-1.6, -0.6, asked - 0.5, -0.5))
        panel.set_xlim(-1.7, count + 0.6)
        panel.set_ylim(asked - 0.4, -1.7)
        panel.xaxis.tick_top()
        words = [labels[place] for place in order] + ["itself"] * (len(own) - count)
        panel.set_xticks(range(len(own)), words, fontsize=8)
        panel.yaxis.tick_right()
        panel.set_yticks(
            range(asked),
            [said if said == right else f"{said}, not {right}" for said, right in answers],
            fontsize=8,
        )
        for tick, (said, right) in zip(panel.get_yticklabels(), answers, strict=True):
            tick.set_color("black" if said == right else "red")
        panel.tick_params(length=0)
        panel.set_ylabel(name, fontsize=9)
        for spine in panel.spines.values():
            spine.set_visible(False)
    return _save(figure, path, title)


def scoreboard(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], float | None]]], path: str | Path
) -> Path:
    """Draw the scores of several models on several tasks: a point a seed, a line a published one.

    Where scores differ by far more than they could on a plain axis, the axis is logarithmic, but
    for what is about 0.

    Args:
        panels: title -> model -> its score for each seed, and the published one if there is one.
        path: file to write; its ending says the format.

    Returns:
        The path.

    Raises:
        ValueError: there is no panel.
    """
    if not panels:
        raise ValueError("expected scores to draw; got none")
    rows, columns = _rows_columns(len(panels))
    figure = _figure(3.4 * columns, 2.8 * rows)
    grid = _grid(figure, rows, columns, len(panels))
    for panel, (title, models) in zip(grid, panels.items(), strict=True):
        for place, (values, published) in enumerate(models.values()):
            spread = place + 0.12 * (np.arange(len(values)) - (len(values) - 1) / 2)
            panel.plot(spread, values, "o", color="tab:blue", markersize=5)
            if published is not None:
                panel.hlines(published, place - 0.4, place + 0.4, color="tab:red", linestyle="--")
        drawn = np.abs([v for values, other in models.values() for v in (*values, other or 0)])
        if drawn.max() > 100 * drawn[drawn > 0].min(initial=np.inf):
            panel.set_yscale("symlog", linthresh=drawn.max() / 1e4)
        else:
            # Scores that are nearly the same look so.
            low, high = panel.get_ylim()
            greatest = float(drawn[np.isfinite(drawn)].max(initial=0))
            margin = max(0.0, 0.02 * greatest - (high - low)) / 2
            panel.set_ylim(low - margin, high + margin)
            panel.ticklabel_format(axis="y", useOffset=False)
        panel.set_xlim(-0.6, len(models) - 0.4)
        panel.set_xticks(range(len(models)), list(models), fontsize=8)
        panel.tick_params(axis="y", labelsize=8)
        panel.set_title(title, fontsize=9)
    return _save(figure, path, "a point a seed; dashed: published")


def _fonts(texts: Iterable[str]) -> tuple[list[str], set[str]]:
    """Fonts to draw texts with, the usual one first, and the characters that none of them has."""
    families = [*matplotlib.rcParams["font.family"], _SURE]
    missing = set().union(*texts)
    for family in families:
        missing = _missing(missing, findfont(FontProperties(family=[family])))
    for font in fontManager.ttflist if missing else ():
        # Those that come with matplotlib are for formulas.
        if not font.fname.startswith(matplotlib.get_data_path()):
            left = _missing(missing, font.fname)
            if left < missing:
                families, missing = [*families, font.name], left
    return families, missing


def _missing(characters: set[str], font: str) -> set[str]:
    has = get_font(font).get_charmap()
    return {character for character in characters if ord(character) not in has}


def _save(figure: Figure, path: str | Path, title: str = "", **style: Any) -> Path:
    if title:
        figure.suptitle(title, **{**style, "fontsize": 10})
    path = Path(path)
    form = path.suffix.removeprefix(".") or None
    write_atomically(path, lambda file: figure.savefig(file, format=form, dpi=110))
    return path
