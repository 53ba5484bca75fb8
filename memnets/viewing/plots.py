"""Pictures of answers and weights."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.rcsetup import cycler
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from memnets.batches import Curves
from memnets.files import write_atomically

__all__ = [
    "Curves",
    "Drawing",
    "Reading",
    "alignment",
    "answer",
    "curves",
    "drawing",
    "episode",
    "gallery",
    "looks",
    "overlay",
    "readings",
    "scoreboard",
    "shaded",
    "style",
    "weights",
]

Array = np.ndarray[Any, Any]

Given = ParamSpec("Given")

#: Colours that every eye tells apart (Okabe & Ito 2008), the strongest first.
_BLUE, _ORANGE, _GREEN, _PINK, _LIGHT, _RED = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00",
)  # fmt: skip
#: Colours of weights, from black for 0 to the lightest for 1.
_WEIGHTS = "magma"
#: Most labels on an axis of an alignment; with more, some are left out.
_MOST_LABELS = 80
#: Distance from one label to the next, in inches.
_PITCH = 0.2
#: Most panels side by side.
_COLUMNS = 4
#: Most words of an answer that are drawn on an image: five rows of panels with the image itself.
_MOST_WORDS = 39
#: Size of the words of a shaded sentence, in points, and the distance of its lines, in inches.
_WORD_SIZE, _LINE = 9, 0.24
#: A font that matplotlib brings along, and what it draws for a character that no font has.
_SURE, _BOX = "DejaVu Sans", "\u25a1"


def style() -> dict[str, Any]:
    """Settings of matplotlib for all pictures."""
    colours = [_BLUE, _ORANGE, _GREEN, _RED, _PINK, _LIGHT]
    # Lines differ in their dashes too: colour alone is lost in print.
    dashes: list[Any] = ["-", "--", "-.", (0, (5, 1)), ":", (0, (1, 3))]
    return {
        "axes.labelsize": 9,
        "axes.prop_cycle": cycler(color=colours, linestyle=dashes),
        "axes.titlesize": 9,
        "figure.titlesize": 11,
        "font.size": 9,
        "image.aspect": "auto",
        "image.interpolation": "nearest",
        "legend.fontsize": 8,
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "savefig.dpi": 120,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
    }


#: The settings hold for the whole process: one picture is drawn at a time.
_drawing = threading.RLock()


def _styled(draw: Callable[Given, Path]) -> Callable[Given, Path]:
    """Draw in the style of this module; matplotlib is left as it was."""

    @wraps(draw)
    def styled(*arguments: Given.args, **named: Given.kwargs) -> Path:
        with _drawing, matplotlib.rc_context(style()):
            return draw(*arguments, **named)

    return styled


# Figures are made without pyplot: no window, and safe in any thread.


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _rows_columns(panels: int, columns: int = _COLUMNS) -> tuple[int, int]:
    """Rows and columns of the smallest grid for some panels, with at most ``columns`` columns."""
    columns = min(panels, columns)
    return math.ceil(panels / columns), columns


def _grid(figure: Figure, rows: int, columns: int, panels: int, **shared: bool) -> list[Axes]:
    """Axes of the panels, row by row; the other places of the grid stay empty."""
    axes: Any = figure.subplots(rows, columns, squeeze=False, **shared)  # type: ignore[call-overload]
    grid: list[Axes] = list(axes.flatten())
    for panel in grid[panels:]:
        panel.set_axis_off()
    return grid[:panels]


@_styled
def answer(targets: Tensor, probabilities: Tensor, path: str | Path, title: str = "") -> Path:
    """Draw target, output and error of one sequence, time from left to right.

    After Graves et al. 2014, figure 4.

    Args:
        targets: ``[T, O]`` in ``[0, 1]``.
        probabilities: ``[T, O]`` in ``[0, 1]``.
        path: file to write; its ending decides the format.
        title: title of the picture.

    Returns:
        The path.
    """
    steps, channels = targets.shape
    width = float(np.clip(1.9 + steps * 0.09, 5, 14))
    figure = _figure(width, 1.2 + 3 * max(0.9, min(1.3, channels * 0.12)))
    panels = figure.subplots(3, 1, sharex=True)
    images = {
        "target": ("value", targets, "viridis", 0.0, 1.0),
        "output": ("probability of 1", probabilities, "viridis", 0.0, 1.0),
        "error": ("output \N{MINUS SIGN} target", probabilities - targets, "RdBu_r", -1.0, 1.0),
    }
    for panel, (name, (unit, image, colours, low, high)) in zip(
        panels, images.items(), strict=True
    ):
        drawn = panel.imshow(_array(image.T), cmap=colours, vmin=low, vmax=high)
        panel.set_ylabel(f"{name}\nbit")
        panel.yaxis.set_major_locator(_whole_numbers(4))
        _bar(figure, drawn, panel, unit)
    panels[-1].set_xlabel("step of the answer")
    panels[-1].xaxis.set_major_locator(_whole_numbers())
    return _save(figure, path, title)


@_styled
def weights(
    panels: Mapping[str, Tensor], path: str | Path, title: str = "", split: int = 0
) -> Path:
    """Draw the weights of each head over time: time from left to right, slots upwards.

    After Graves et al. 2014, figure 6.

    Args:
        panels: weights ``[T, N]`` in ``[0, 1]``, by the name of the head.
        path: file to write; its ending decides the format.
        title: title of the picture.
        split: step at which the source ends and the answer starts, to be marked; 0 = no mark.

    Returns:
        The path.

    Raises:
        ValueError: there is no panel.
    """
    if not panels:
        raise ValueError("no weights to draw: the model has no addressing, or it was not called")
    figure = _figure(9, 0.8 + 2.2 * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (name, image) in zip(axes, panels.items(), strict=True):
        steps, slots = image.shape
        shown, extent = _coarse(image.T)
        drawn = panel.imshow(
            _array(shown), origin="lower", extent=extent, cmap=_WEIGHTS, vmin=0, vmax=1
        )
        panel.set_xlim(-0.5, steps - 0.5)
        panel.set_ylim(-0.5, slots - 0.5)
        panel.set_ylabel(f"{name}\nslot")
        panel.yaxis.set_major_locator(_whole_numbers(6))
        if split:
            panel.axvline(split - 0.5, color="white", linewidth=0.9, linestyle="--")
        _bar(figure, drawn, panel, "weight")
    if split:
        place: dict[str, Any] = {"transform": axes[0].get_xaxis_transform(), "va": "bottom"}
        axes[0].text(split - 0.6, 1.02, "\N{LEFTWARDS ARROW} source ", ha="right", **place)
        axes[0].text(split - 0.4, 1.02, " answer \N{RIGHTWARDS ARROW}", ha="left", **place)
    axes[-1].set_xlabel("step")
    axes[-1].xaxis.set_major_locator(_whole_numbers())
    return _save(figure, path, title)


@_styled
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

    After Bahdanau et al. 2015, figure 3: black is no weight, the lightest is all. A character that
    no installed font has is drawn as a box.

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
    rows, columns = _rows_columns(len(panels), columns or _COLUMNS)
    families, missing = _fonts([*source_labels, *target_labels, *panels, title])
    boxes = str.maketrans(dict.fromkeys(missing, _BOX))
    source_labels, target_labels = (
        [label.translate(boxes) for label in labels] for labels in (source_labels, target_labels)
    )
    words_as: dict[str, Any] = {"fontsize": 8, "fontfamily": families, "parse_math": False}
    height, width = (
        max(1.2, _PITCH * min(len(labels), _MOST_LABELS))
        for labels in (target_labels, source_labels)
    )
    # Labels stand at the first panel of each row and column alone.
    beside, above = (
        0.08 * max(map(len, labels), default=0) + 0.6 for labels in (target_labels, source_labels)
    )
    whole_width = columns * (width + 0.1) + beside + 0.9
    figure = _figure(max(whole_width, 0.09 * len(title) + 0.3), rows * (height + 0.4) + above + 0.2)
    grid = _grid(figure, rows, columns, len(panels))
    for number, (panel, (name, image)) in enumerate(zip(grid, panels.items(), strict=True)):
        drawn = panel.imshow(_array(image), cmap=_WEIGHTS, vmin=0, vmax=1)
        panel.xaxis.tick_top()
        panel.xaxis.set_label_position("top")
        for axis, labels, words, shown in (
            (panel.xaxis, source_labels, across, number < columns),
            (panel.yaxis, target_labels, down, number % columns == 0),
        ):
            places = range(0, len(labels), math.ceil(len(labels) / _MOST_LABELS) or 1)
            texts = [labels[place] if shown else "" for place in places]
            axis.set_ticks(list(places), texts, **words_as)
            axis.set_tick_params(length=2)
            axis.set_label_text(words if shown else "")
        panel.tick_params(axis="x", labelrotation=90)
        if name:
            panel.text(
                0.5, -0.04 / height, name.translate(boxes),
                transform=panel.transAxes, ha="center", va="top", **words_as,
            )  # fmt: skip
    _bar(figure, drawn, grid, "weight", shrink=min(1.0, 3 / (rows * height)))
    return _save(figure, path, title.translate(boxes), **words_as)


@_styled
def overlay(
    image: Tensor,
    weights: Mapping[str, Tensor],
    words: Sequence[str],
    path: str | Path,
    title: str = "",
    columns: int = 8,
) -> Path:
    """Draw an image, then the image again for each word, with the weights of the word on it.

    After Xu et al. 2015, figures 2 and 6. The more orange a patch is, the greater is its weight. Of
    a long answer the first words are drawn.

    Args:
        image: ``[height, width, channels]`` in ``[0, 1]``: colours if there are three channels,
            else the mean of the channels, in grey.
        weights: ``[T, rows, columns]`` for each word, over the patches of the image, by the name of
            the attention; several are drawn one below the other.
        words: T words.
        path: file to write; its ending decides the format.
        title: title of the picture.
        columns: most panels side by side, at least 1.

    Returns:
        The path.

    Raises:
        ValueError: there are no weights, or the words are not as many as the weights.
    """
    if not weights or not words:
        raise ValueError("no weights on an image to draw: no weights or no words were given")
    for name, each in weights.items():
        if len(each) != len(words) or each.dim() != 3:
            raise ValueError(
                f"weights must be [T, rows, columns] with T = {len(words)} words; "
                f"got {list(each.shape)} for {name!r}"
            )
    if len(words) > _MOST_WORDS:
        title += f"\nthe first {_MOST_WORDS} of {len(words)} words"
        words = words[:_MOST_WORDS]
    pixels = _array(image if image.shape[-1] == 3 else image.mean(-1))
    height, width = pixels.shape[:2]
    rows, columns = _rows_columns(1 + len(words), columns)
    families, missing = _fonts([*words, *weights, *title.splitlines()])
    boxes = str.maketrans(dict.fromkeys(missing, _BOX))
    words_as: dict[str, Any] = {"fontsize": 9, "fontfamily": families, "parse_math": False}
    side = 1.15
    tall = min(3.0, max(0.4, side * height / width)) + 0.25
    lines = title.count("\n") + 1
    figure = _figure(
        max(columns * side + 0.9, 0.085 * max(map(len, title.splitlines()), default=0)),
        len(weights) * (rows * tall + 0.15) + 0.3 * lines,
    )
    grid = _grid(figure, len(weights) * rows, columns, len(weights) * rows * columns)
    # From clear to orange: the image stays in sight below.
    rising = np.linspace(0, 1, 256)
    shades = np.concatenate([np.tile(to_rgb(_ORANGE), (256, 1)), 0.85 * rising[:, None]], 1)
    most = max(float(each.max()) for each in weights.values()) or 1.0
    for number, (name, each) in enumerate(weights.items()):
        panels = grid[number * rows * columns : (number + 1) * rows * columns]
        for place, panel in enumerate(panels):
            panel.set_axis_off()
            if place > len(words):
                continue
            around: dict[str, Any] = {"extent": (0, width, height, 0), "aspect": "equal"}
            panel.imshow(pixels, cmap="gray", vmin=0, vmax=1, **around)
            if place:
                drawn = panel.imshow(
                    _array(each[place - 1]), cmap=ListedColormap(shades), vmin=0, vmax=most,
                    **around,
                )  # fmt: skip
                panel.set_title(words[place - 1].translate(boxes), **words_as)
            else:
                label = "image" if len(weights) == 1 else name.translate(boxes)
                panel.set_title(label, **{**words_as, "fontstyle": "italic"})
    _bar(figure, drawn, grid, "weight", shrink=min(1.0, 3 / (len(weights) * rows * tall)))
    return _save(figure, path, title.translate(boxes), **words_as)


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


@_styled
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
    families, missing = _fonts([*(word for panel in panels for word in panel.words), title])
    boxes = str.maketrans(dict.fromkeys(missing, _BOX))
    words_as: dict[str, Any] = {"fontsize": 8, "fontfamily": families, "parse_math": False}
    longest = max(len(panel.words) for panel in panels)
    # Words stand upright below the axis, so the longest of them decides the height.
    below = 0.075 * max(len(word) for panel in panels for word in panel.words)
    width = max(5.5, 1.2 + _PITCH * min(longest, _MOST_LABELS), 0.09 * len(title) + 0.3)
    figure = _figure(width, 0.5 + len(panels) * (1.6 + below))
    grid = _grid(figure, len(panels), 1, len(panels))
    for axes, (words, chances, labels, right, answer) in zip(grid, panels, strict=True):
        places = np.arange(len(words))
        values = _array(chances)
        shown = range(len(labels)) if len(labels) != 2 else [1]
        for label in shown:
            axes.plot(places, values[:, label], "o-", markersize=3, label=labels[label])
        if len(labels) == 2:
            axes.axhline(0.5, color="grey", linewidth=0.8)
            axes.set_ylabel(f"probability of\n{labels[1]}")
        else:
            axes.set_ylabel("probability")
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlim(-0.5, max(longest, len(words)) - 0.5)
        few = places[:: math.ceil(len(words) / _MOST_LABELS)]
        texts = [words[place].translate(boxes) for place in few]
        axes.set_xticks(few, texts, rotation=90, **words_as)
        verdict = "right" if answer == right else f"right is {right}"
        axes.set_title(f"answer: {answer}, {verdict}", fontsize=9, loc="left", parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
    return _save(figure, path, title.translate(boxes), **words_as)


@_styled
def drawing(drawings: Sequence[Drawing], path: str | Path, title: str = "") -> Path:
    """Draw right answers above the model's answers, with the sequences side by side.

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
    figure = _figure(2.6 * len(drawings) + 0.4, 5.9)
    grid = figure.subplots(2, len(drawings), squeeze=False)
    for column, (points, target, answer, caption) in zip(grid.T, drawings, strict=True):
        for panel, lines, colour, words in (
            (column[0], target, _GREEN, f"{len(points)} points"),
            (column[1], answer, _BLUE, caption),
        ):
            for line in lines:
                panel.plot(*line.T, color=colour, linewidth=1.2, linestyle="-")
            panel.plot(*points.T, ".", color="black", markersize=5)
            panel.set_title(words)
            panel.set_aspect("equal", "datalim")
            panel.set_xticks([])
            panel.set_yticks([])
    for panel, name in zip(grid[:, 0], ("target", "answer"), strict=True):
        panel.set_ylabel(name, fontsize=10)
    return _save(figure, path, title)


@_styled
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
    rows, columns = _rows_columns(len(panels))
    figure = _figure(max(4.6, 3.0 * columns), 0.7 + 3.0 * rows)
    grid = _grid(figure, rows, columns, len(panels), sharex=True, sharey=True)
    for panel, (lines, caption, across, up, points, dots) in zip(grid, panels, strict=True):
        for label, line in lines.items():
            panel.plot(*line.T, label=label)
        if points is not None:
            panel.plot(*points.T, "o", color="black", markersize=4, label=dots)
        panel.set_title(caption)
        panel.set_xlabel(across)
        panel.set_ylabel(up)
        panel.label_outer()
        panel.spines[["top", "right"]].set_visible(False)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return _save(figure, path, title)


@_styled
def episode(
    weights: Mapping[str, Tensor],
    examples: Tensor,
    queries: Tensor,
    labels: Sequence[str],
    answers: Sequence[tuple[str, str]],
    path: str | Path,
    title: str = "",
) -> Path:
    """Draw the weights of queries over examples: examples along the top, queries down a side.

    The examples are put in the order of their labels. White is no weight; the darkest blue is the
    greatest of a panel. Wrong answers are red and say what was right.

    Args:
        weights: by the name of the panel, ``[T, S]``, or ``[T, S + 1]`` if a query sees itself too.
        examples: images of the examples, ``[S, height, width]`` in ``[0, 1]``.
        queries: images of the queries, ``[T, height, width]`` in ``[0, 1]``.
        labels: labels of the examples.
        answers: for each query the answer and the right answer.
        path: file to write; its ending decides the format.
        title: title of the picture.

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
    strip = np.concatenate([_framed(examples[place]) for place in order], 1)
    column = np.concatenate([_framed(query) for query in queries], 0)
    figure = _figure(3.2 + 0.36 * (count + 2), 0.5 + len(weights) * (0.8 + 0.36 * (asked + 1)))
    panels = figure.subplots(len(weights), 1, squeeze=False)[:, 0]
    for panel, (name, image) in zip(panels, weights.items(), strict=True):
        # A square for each weight; the images stand around them, in squares of the same size.
        own = [*order, *range(count, image.shape[1])]
        drawn = panel.imshow(_array(image[:, own]), cmap="Blues", vmin=0, aspect="equal")
        around: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1, "aspect": "equal"}
        panel.imshow(1 - strip, extent=(-0.5, count - 0.5, -0.6, -1.6), **around)
        panel.imshow(1 - column, extent=(-1.6, -0.6, asked - 0.5, -0.5), **around)
        panel.set_xlim(-1.7, count + 0.6)
        panel.set_ylim(asked - 0.4, -1.7)
        panel.xaxis.tick_top()
        panel.xaxis.set_label_position("top")
        words = [labels[place] for place in order] + ["itself"] * (len(own) - count)
        panel.set_xticks(range(len(own)), words)
        panel.yaxis.tick_right()
        panel.set_yticks(
            range(asked),
            [said if said == right else f"{said}, not {right}" for said, right in answers],
        )
        for tick, (said, right) in zip(panel.get_yticklabels(), answers, strict=True):
            tick.set_color("black" if said == right else _RED)
        panel.tick_params(length=0)
        panel.set_xlabel(f"{name}: weights on the examples, by their labels", loc="left")
        panel.set_ylabel("queries")
        panel.text(1.0, 1.0, " answers", transform=panel.transAxes, ha="left", va="top", fontsize=8)
        for spine in panel.spines.values():
            spine.set_visible(False)
        _bar(figure, drawn, panel, "weight")
    return _save(figure, path, title)


@_styled
def gallery(panels: Mapping[str, Tensor], path: str | Path, title: str = "") -> Path:
    """Draw sets of images side by side, each as a square grid.

    Args:
        panels: images ``[n, height, width, channels]`` in ``[0, 1]``, by the name of their set.
        path: file to write; its ending decides the format.
        title: title of the picture.

    Returns:
        The path.

    Raises:
        ValueError: there is no image.
    """
    if not panels or not all(map(len, panels.values())):
        raise ValueError("expected images to draw; got none")
    figure = _figure(3.7 * len(panels) + 0.1, 4.2)
    # More room between sets than between images.
    grid = figure.subplots(1, len(panels), squeeze=False, gridspec_kw={"wspace": 0.06})[0]
    for panel, (name, images) in zip(grid, panels.items(), strict=True):
        columns = math.ceil(math.sqrt(len(images)))
        rows = math.ceil(len(images) / columns)
        # A line between images, in the colour of the page.
        framed = nn.functional.pad(images.float(), (0, 0, 0, 1, 0, 1), value=1.0)
        height, width, channels = framed.shape[1:]
        sheet = framed.new_ones(rows * columns, height, width, channels)
        sheet[: len(images)] = framed
        sheet = sheet.unflatten(0, (rows, columns)).transpose(1, 2)
        _show(panel, sheet.reshape(rows * height, columns * width, channels)[:-1, :-1])
        panel.set_title(name)
        panel.set_axis_off()
    return _save(figure, path, title)


@_styled
def looks(images: Tensor, weights: Tensor, path: str | Path, title: str = "") -> Path:
    """Draw where places of an image look: the image with a few marked, then the weights of each.

    After Zhang et al. 2019, figure 5. One place is marked in each quarter of an image, the one that
    differs most from its mean. White is no weight; the darkest blue is the greatest of a panel.

    Args:
        images: ``[n, height, width, channels]`` in ``[0, 1]``.
        weights: weights of places over slots, both squares laid out row by row over the image,
            ``[n, places, slots]``.
        path: file to write; its ending decides the format.
        title: title of the picture.

    Returns:
        The path.

    Raises:
        ValueError: there is no image, or places or slots are no square.
    """
    side, slots = (math.isqrt(count) for count in weights.shape[1:])
    if not len(images) or list(weights.shape) != [len(images), side**2, slots**2]:
        raise ValueError(
            f"weights must be [n, places, slots] of n images, at least 1, squares of places and of "
            f"slots; got {list(weights.shape)} for {len(images)} images"
        )
    colours = [_BLUE, _ORANGE, _GREEN, _RED]
    marks = _quarters(images, side)
    figure = _figure(1.5 * (1 + len(colours)), 1.5 * len(images) + 0.8)
    grid = figure.subplots(len(images), 1 + len(colours), squeeze=False)
    whole = (0.0, 1.0, 1.0, 0.0)
    for row, image, maps, places in zip(grid, images, weights, marks, strict=True):
        _show(row[0], image, extent=whole)
        for number, (panel, place, colour) in enumerate(
            zip(row[1:], places, colours, strict=True), 1
        ):
            spot = (place % side + 0.5) / side, (place // side + 0.5) / side
            drawn = _array(maps[place].view(slots, slots))
            panel.imshow(drawn, cmap="Blues", vmin=0, extent=whole, aspect="equal")
            for each in (row[0], panel):
                each.plot(
                    *spot, "o", color=colour, markersize=8, markeredgecolor="white", clip_on=False
                )
            row[0].text(*spot, str(number), color="white", fontsize=6, ha="center", va="center")
        for panel in row:
            panel.set_xticks([])
            panel.set_yticks([])
    for panel, words in zip(
        grid[0], ["image", *(f"from place {n + 1}" for n in range(len(colours)))], strict=True
    ):
        panel.set_title(words)
    figure.supxlabel("white: no weight; the darkest blue: the greatest of a panel", fontsize=8)
    return _save(figure, path, title)


def _quarters(images: Tensor, side: int) -> list[list[int]]:
    """For each image, a place of each quarter: the one that differs most from the image's mean.

    Args:
        images: ``[n, height, width, channels]``.
        side: places along a side.
    """
    greys = images.float().mean(-1)
    places = nn.functional.adaptive_avg_pool2d(greys[:, None], side)[:, 0]
    apart = (places - places.mean((1, 2), keepdim=True)).abs()
    numbers = torch.arange(side**2).view(side, side)
    half = max(1, side // 2)
    found = []
    for rows in (slice(0, half), slice(side - half, side)):
        for columns in (slice(0, half), slice(side - half, side)):
            best = apart[:, rows, columns].flatten(1).argmax(1)
            found.append(numbers[rows, columns].flatten()[best])
    return torch.stack(found, 1).tolist()


def _show(panel: Axes, image: Tensor, **settings: Any) -> None:
    """Show an image ``[height, width, channels]`` in ``[0, 1]``, greys from black to white."""
    pixels = _array(image)
    grey = pixels.shape[-1] == 1
    drawn = pixels[..., 0] if grey else pixels
    panel.imshow(drawn, cmap="gray", vmin=0, vmax=1, aspect="equal", **settings)


@_styled
def shaded(
    weights: Tensor | Mapping[str, Tensor],
    words: Sequence[str],
    path: str | Path,
    title: str = "",
    steps: Sequence[int] | None = None,
) -> Path:
    """Draw a sentence word by word: in each line, the words so far, shaded by their weights.

    After Cheng et al. 2016, figure 1. The last word of a line, in red, is the one that looked back.
    White is no weight; the darkest blue is the greatest weight of a panel.

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
    families, missing = _fonts([*words, *panels, title])
    boxes = str.maketrans(dict.fromkeys(missing, _BOX))
    words_as: dict[str, Any] = {"fontfamily": families, "parse_math": False}
    words = [word.translate(boxes) for word in words[: max(own) + 1]]
    starts, ends = _places_of(words, families)
    width, height = ends[-1] + 0.1, _LINE * lines
    count = len(panels)
    figure = _figure(max(width + 1.3, 0.09 * len(title) + 0.3), count * (height + 0.3) + 0.5)
    grid = _grid(figure, count, 1, count)
    for panel, (name, image) in zip(grid, panels.items(), strict=True):
        greatest = max(float(image[line, : place + 1].max()) for line, place in enumerate(own))
        shades: Any = matplotlib.cm.ScalarMappable(cmap="Blues")
        shades.set_clim(0, greatest or 1)
        panel.set_xlim(0, width)
        panel.set_ylim(lines, 0)
        panel.set_axis_off()
        for line, place in enumerate(own):
            for number in range(place + 1):
                weight = float(image[line, number])
                left, right = starts[number], ends[number]
                panel.fill_between(
                    [left, right], line + 0.04, line + 0.96, linewidth=0,
                    color=shades.to_rgba(weight),
                )  # fmt: skip
                dark = weight > 0.6 * shades.get_clim()[1]
                at_rest = "white" if dark else "black"
                looking = _ORANGE if dark else _RED
                colour = looking if number == place else at_rest
                panel.text(
                    (left + right) / 2, line + 0.5, words[number], color=colour,
                    fontsize=_WORD_SIZE, fontweight="bold" if number == place else "normal",
                    ha="center", va="center", **words_as,
                )  # fmt: skip
        if name:
            panel.set_title(name.translate(boxes), loc="left", **words_as)
        _bar(figure, shades, panel, "weight", shrink=min(1.0, 2 / height))
    return _save(figure, path, title.translate(boxes), **words_as)


def _places_of(words: Sequence[str], families: list[str]) -> tuple[list[float], list[float]]:
    """Left and right end of each word of a line of text, in inches."""
    canvas: Any = FigureCanvasAgg(Figure(dpi=72))
    renderer = canvas.get_renderer()
    # Bold, since each word is the last of a line once.
    font = FontProperties(family=families, size=_WORD_SIZE, weight="bold")
    starts, ends, place = [], [], 0.0
    for word in words:
        across, _, _ = renderer.get_text_width_height_descent(word or " ", font, False)
        starts.append(place)
        place += across / 72 + 0.1
        ends.append(place)
        place += 0.02
    return starts, ends


@_styled
def scoreboard(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], float | None]]], path: str | Path
) -> Path:
    """Draw scores of models on tasks: a point for each seed, a line for a published score.

    Where scores differ by far more than they could on a plain axis, the axis is logarithmic, but
    for what is about 0.

    Args:
        panels: by title and model, the score for each seed, and the published score if any.
        path: file to write; its ending decides the format.

    Returns:
        The path.

    Raises:
        ValueError: there is no panel.
    """
    if not panels:
        raise ValueError("expected scores to draw; got none")
    rows, columns = _rows_columns(len(panels))
    figure = _figure(3.4 * columns, 0.4 + 2.8 * rows)
    grid = _grid(figure, rows, columns, len(panels))
    legend: dict[str, Any] = {}
    for panel, (title, models) in zip(grid, panels.items(), strict=True):
        for place, (values, published) in enumerate(models.values()):
            spread = place + 0.12 * (np.arange(len(values)) - (len(values) - 1) / 2)
            (seeds,) = panel.plot(spread, values, "o", color=_BLUE, markersize=5)
            legend["a seed"] = seeds
            if published is not None:
                ends = place - 0.4, place + 0.4
                legend["published"] = panel.hlines(published, *ends, color=_RED, linestyle="--")
        drawn = np.abs([v for values, other in models.values() for v in (*values, other or 0)])
        if drawn.max() > 100 * drawn[drawn > 0].min(initial=np.inf):
            panel.set_yscale("symlog", linthresh=drawn.max() / 1e4)
        else:
            # The axis is wide enough that nearly equal scores look equal.
            low, high = panel.get_ylim()
            greatest = float(drawn[np.isfinite(drawn)].max(initial=0))
            margin = max(0.0, 0.02 * greatest - (high - low)) / 2
            panel.set_ylim(low - margin, high + margin)
            panel.ticklabel_format(axis="y", useOffset=False)
        panel.set_xlim(-0.6, len(models) - 0.4)
        panel.set_xticks(range(len(models)), list(models))
        panel.set_title(title)
        panel.spines[["top", "right"]].set_visible(False)
    figure.legend(legend.values(), legend.keys(), loc="outside upper center", ncols=2)
    return _save(figure, path)


def _coarse(
    image: Tensor, most: tuple[int, int] = (200, 800)
) -> tuple[Tensor, tuple[float, float, float, float]]:
    """The greatest weight of each block of slots and steps, and the extent of the blocks.

    A picture has fewer pixels than a long sequence has weights. Pixels that stand for one weight of
    several would leave out most of the sharp ones.
    """
    size = [math.ceil(length / limit) for length, limit in zip(image.shape, most, strict=True)]
    blocks = nn.functional.max_pool2d(image[None].float(), size, ceil_mode=True)[0]
    height, width = (count * step - 0.5 for count, step in zip(blocks.shape, size, strict=True))
    return blocks, (-0.5, width, -0.5, height)


def _array(values: Tensor) -> Array:
    """Numbers in a form that matplotlib can draw."""
    drawn: Array = values.float().cpu().numpy()
    return drawn


def _framed(image: Tensor) -> Array:
    """An image ``[height, width]`` with an empty frame, which separates it from others."""
    framed: Array = np.pad(_array(image), max(1, len(image) // 14))
    return framed


def _whole_numbers(most: int = 12) -> MaxNLocator:
    """A locator of ticks at whole numbers, at most ``most`` of them."""
    return MaxNLocator(most, integer=True)


def _bar(figure: Figure, drawn: Any, panels: Any, unit: str, **settings: Any) -> None:
    """Add a colour bar beside the panels."""
    figure.colorbar(drawn, ax=panels, label=unit, pad=0.01, fraction=0.03, **settings)


def _fonts(texts: Iterable[str]) -> tuple[list[str], set[str]]:
    """Fonts for texts, the usual one first, and the characters that no font has."""
    families = [*matplotlib.rcParams["font.family"], _SURE]
    missing = set().union(*texts)
    for family in families:
        missing = _missing(missing, findfont(FontProperties(family=[family])))
    for font in fontManager.ttflist if missing else ():
        # Matplotlib's other fonts are for formulas.
        if not font.fname.startswith(matplotlib.get_data_path()):
            left = _missing(missing, font.fname)
            if left < missing:
                families, missing = [*families, font.name], left
    return families, missing


def _missing(characters: set[str], font: str) -> set[str]:
    has = get_font(font).get_charmap()
    return {character for character in characters if ord(character) not in has}


def _save(figure: Figure, path: str | Path, title: str = "", **settings: Any) -> Path:
    if title:
        size = matplotlib.rcParams["figure.titlesize"]
        figure.suptitle(title, **{**settings, "fontsize": size})
    path = Path(path)
    form = path.suffix.removeprefix(".") or None
    write_atomically(path, lambda file: figure.savefig(file, format=form))
    return path
