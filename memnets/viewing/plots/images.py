"""Pictures of images: those that are answers, and those that a model looks at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from torch import Tensor, nn

from memnets.viewing.colours import PALETTE
from memnets.viewing.plots.canvas import (
    SHADED,
    Array,
    Words,
    array,
    bar,
    figure_of,
    grid_of,
    rows_columns,
    save,
    styled,
)

__all__ = ["episode", "gallery", "looks", "overlay"]

#: Most words of an answer that are drawn on an image: five rows of panels with the image itself.
_MOST_WORDS = 39
#: Sides of a panel of an overlay, and of an image of an episode, in inches.
_SIDE, _SMALL = 1.15, 0.36
#: Colours of the marks of places.
_MARKS = PALETTE[:4]
_WRONG = PALETTE[3]


@styled
def overlay(
    image: Tensor,
    weights: Mapping[str, Tensor],
    words: Sequence[str],
    path: str | Path,
    title: str = "",
    columns: int = 8,
) -> Path:
    """Draw an image, then the image again for each word, with the weights of the word on it.

    After Xu et al. 2015, figures 2 and 6. The more orange a patch is, the greater is its weight;
    below the weights the image is pale and grey. Of a long answer the first words are drawn.

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
    grey = array(image.float().mean(-1))
    pixels = array(image) if image.shape[-1] == 3 else grey
    height, width = grey.shape
    texts = Words([*words, *weights, title], path)
    # Panels are as wide as the words above them need, so that these do not meet.
    shown = texts.all(words)
    labels = ["image"] if len(weights) == 1 else texts.all(weights)
    side = max(_SIDE, texts.width([*shown, *labels], 9) + 0.15)
    columns = max(1, min(columns, int(1.4 * columns * _SIDE / side)))
    # Rows of about the same length.
    rows, _ = rows_columns(1 + len(words), columns)
    columns = math.ceil((1 + len(words)) / rows)
    tall = min(3.0, max(0.4, side * height / width)) + 0.25
    figure = figure_of(max(columns * side + 0.9, 4.0), len(weights) * (rows * tall + 0.15) + 0.7)
    grid = grid_of(figure, len(weights) * rows, columns, len(weights) * rows * columns)
    # From clear to orange: the image stays in sight below.
    rising = np.linspace(0, 1, 256)
    shades = np.concatenate([np.tile(to_rgb(PALETTE[1]), (256, 1)), 0.9 * rising[:, None]], 1)
    most = max(float(each.max()) for each in weights.values()) or 1.0
    words_as: dict[str, Any] = {"fontsize": 9, **texts.settings}
    for number, (label, each) in enumerate(zip(labels, weights.values(), strict=True)):
        panels = grid[number * rows * columns : (number + 1) * rows * columns]
        for place, panel in enumerate(panels):
            panel.set_axis_off()
            if place > len(words):
                continue
            around: dict[str, Any] = {"extent": (0, width, height, 0), "aspect": "equal"}
            if place:
                # From dark to light grey: orange is told from all of it.
                panel.imshow(0.15 + 0.6 * grey, cmap="gray", vmin=0, vmax=1, **around)
                drawn = panel.imshow(
                    array(each[place - 1]), cmap=ListedColormap(shades), vmin=0, vmax=most,
                    **around,
                )  # fmt: skip
                panel.set_title(shown[place - 1], **words_as)
            else:
                panel.imshow(pixels, cmap="gray", vmin=0, vmax=1, **around)
                panel.set_title(label, **{**words_as, "fontstyle": "italic"})
    scale = bar(
        figure, drawn, grid, "weight of a patch", aspect=15,
        shrink=min(1.0, 2.5 / (len(weights) * rows * tall)),
    )  # fmt: skip
    scale.ax.set_facecolor("0.45")
    return save(figure, path, title, texts)


@styled
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
    greatest of a panel. Wrong answers are bold and say what was right.

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
    words = Words([*labels, *(text for pair in answers for text in pair), *weights, title], path)
    verdicts = [said if said == right else f"{said}, not {right}" for said, right in answers]
    beside = words.width([*verdicts, "answers"], 8, weight="bold")
    long = words.width([*labels, "itself"], 8) > _SMALL - 0.02  # Names of classes stand upright.
    above = words.width([*labels, "itself"], 8) if long else 0.1
    figure = figure_of(
        max(_SMALL * (count + 3) + beside + 1.3, 4.5),
        0.75 + len(weights) * (1.1 + above + _SMALL * asked),
    )
    panels = figure.subplots(len(weights), 1, squeeze=False)[:, 0]
    figure.set_layout_engine("compressed")
    for panel, (name, image) in zip(panels, weights.items(), strict=True):
        # A square for each weight; the images stand around them, in squares of the same size.
        own = [*order, *range(count, image.shape[1])]
        drawn = panel.imshow(array(image[:, own]), cmap=SHADED, vmin=0, aspect="equal")
        around: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1, "aspect": "equal"}
        panel.imshow(1 - strip, extent=(-0.5, count - 0.5, -0.6, -1.6), **around)
        panel.imshow(1 - column, extent=(-1.6, -0.6, asked - 0.5, -0.5), **around)
        panel.set_xlim(-1.7, len(own) - 0.4)
        panel.set_ylim(asked - 0.4, -1.7)
        panel.xaxis.tick_top()
        panel.xaxis.set_label_position("top")
        seen = words.all([labels[place] for place in order]) + ["itself"] * (len(own) - count)
        panel.set_xticks(range(len(own)), seen, **words.settings, rotation=90 if long else 0)
        panel.yaxis.tick_right()
        # A row for each query, and one for the header of the answers.
        panel.set_yticks(range(-1, asked), ["answers", *words.all(verdicts)], **words.settings)
        for tick, (said, right) in zip(panel.get_yticklabels()[1:], answers, strict=True):
            tick.set_color("black" if said == right else _WRONG)
            tick.set_fontweight("normal" if said == right else "bold")
        panel.tick_params(length=0)
        panel.set_xlabel(f"examples, by their labels ({words(name)})", **words.settings)
        panel.set_ylabel("queries")
        panel.yaxis.set_label_position("left")
        panel.spines[:].set_visible(False)
        bar(figure, drawn, panel, "weight", shrink=min(1.0, 2 / (_SMALL * (asked + 2))), aspect=12)
    return save(figure, path, title, words)


@styled
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
    figure = figure_of(3.7 * len(panels) + 0.1, 4.0 + 0.25 * bool(title))
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
    return save(figure, path, title)


@styled
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
    marks = _quarters(images, side)
    figure = figure_of(1.5 * (1 + len(_MARKS)), 1.5 * len(images) + 0.9)
    grid = figure.subplots(len(images), 1 + len(_MARKS), squeeze=False)
    whole = (0.0, 1.0, 1.0, 0.0)
    for row, image, maps, places in zip(grid, images, weights, marks, strict=True):
        _show(row[0], image, extent=whole)
        for number, (panel, place, colour) in enumerate(
            zip(row[1:], places, _MARKS, strict=True), 1
        ):
            spot = (place % side + 0.5) / side, (place // side + 0.5) / side
            drawn = array(maps[place].view(slots, slots))
            panel.imshow(drawn, cmap=SHADED, vmin=0, extent=whole, aspect="equal")
            for each in (row[0], panel):
                each.plot(
                    *spot, "o", color=colour, markersize=11, markeredgecolor="white", clip_on=False
                )
                each.text(
                    *spot, str(number), color="white", fontsize=8, fontweight="bold", ha="center",
                    va="center_baseline",
                )  # fmt: skip
        for panel in row:
            panel.set_xticks([])
            panel.set_yticks([])
            panel.spines[:].set_visible(True)
    for panel, words in zip(
        grid[0], ["image", *(f"place {n + 1} looks at" for n in range(len(_MARKS)))], strict=True
    ):
        panel.set_title(words)
    figure.supxlabel(
        "white: no weight; the darkest blue: the greatest weight of a panel", fontsize=8
    )
    return save(figure, path, title)


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
    pixels = array(image)
    grey = pixels.shape[-1] == 1
    drawn = pixels[..., 0] if grey else pixels
    panel.imshow(drawn, cmap="gray", vmin=0, vmax=1, aspect="equal", **settings)


def _framed(image: Tensor) -> Array:
    """An image ``[height, width]`` with an empty frame, which separates it from others."""
    framed: Array = np.pad(array(image), max(1, len(image) // 14))
    return framed
