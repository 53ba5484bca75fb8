"""Answers of a machine in binary vectors, and what the heads of its memory did."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from torch import Tensor, nn

from memnets.viewing.plots.canvas import (
    WEIGHTS,
    Words,
    array,
    bar,
    figure_of,
    grid_of,
    save,
    scale_of,
    styled,
    whole_numbers,
)

__all__ = ["answer", "weights"]

#: Fewest pixels of a cell, each way: a single slot among many is still a line that is seen.
_LEAST = 3
#: Most panels one below the other, before there are two columns of them.
_MOST_PANELS = 6


@styled
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
    width = float(np.clip(1.9 + steps * 0.09, 5.5, 14))
    figure = figure_of(width, 1.5 + 3 * max(0.9, min(1.3, channels * 0.12)))
    panels = figure.subplots(3, 1, sharex=True)
    images: dict[str, tuple[str, Tensor, str, list[float]]] = {
        "target": ("value", targets, "viridis", [0, 1]),
        "output": ("probability of 1", probabilities, "viridis", [0, 0.5, 1]),
        "error": ("output \N{MINUS SIGN} target", probabilities - targets, "RdBu_r", [-1, 0, 1]),
    }
    for panel, (name, (unit, image, colours, ticks)) in zip(panels, images.items(), strict=True):
        limits: dict[str, Any] = {"vmin": ticks[0], "vmax": ticks[-1]}
        drawn = panel.imshow(array(image.T), cmap=colours, aspect="auto", **limits)
        _framed(panel, name)
        panel.set_ylabel("bit of the\nvector")
        panel.yaxis.set_major_locator(whole_numbers(4))
        bar(figure, drawn, panel, unit, ticks=ticks)
    panels[-1].set_xlabel("step of the answer")
    panels[-1].xaxis.set_major_locator(whole_numbers())
    return save(figure, path, title)


def _framed(panel: Any, name: str, **words_as: Any) -> None:
    """A name above a panel, at the left, and a frame around it."""
    panel.set_title(name, loc="left", **words_as)
    panel.spines[:].set_visible(True)


@styled
def weights(
    panels: Mapping[str, Tensor],
    path: str | Path,
    title: str = "",
    split: int = 0,
    vectors: Mapping[str, Tensor] | None = None,
) -> Path:
    """Draw the weights of each head over time: time from left to right, slots upwards.

    After Graves et al. 2014, figure 6. Every slot and every step is at least some pixels wide; of a
    memory or a sequence too long for that, a cell shows the greatest weight of several.

    Args:
        panels: weights ``[T, N]`` in ``[0, 1]``, by the name of the head.
        path: file to write; its ending decides the format.
        title: title of the picture.
        split: step at which the source ends and the answer starts, to be marked; 0 = no mark.
        vectors: vectors ``[T, C]`` by their names, such as inputs, outputs and what a head wrote,
            to be drawn above the weights; NaN = none at this step.

    Returns:
        The path.

    Raises:
        ValueError: there is no panel.
    """
    if not panels:
        raise ValueError("no weights to draw: the model has no addressing, or it was not called")
    vectors = vectors or {}
    words = Words([*panels, *vectors, title], path)
    pixel = 1 / matplotlib.rcParams["savefig.dpi"]
    slots, steps = (max(each.shape[way] for each in panels.values()) for way in (1, 0))
    # Inches of a panel: room for a look at few cells, and for a few pixels of each of many.
    height = max(0.9, min(1.7, 0.12 * slots), min(3.4, _LEAST * pixel * slots))
    width = max(4.5, min(8.0, 0.16 * steps), min(12.5, _LEAST * pixel * steps))
    columns = 2 if len(panels) > _MOST_PANELS and width <= 6.5 and not vectors else 1
    rows = math.ceil(len(panels) / columns)
    low = 0.8  # of a panel of vectors
    figure = figure_of(
        columns * (width + 0.5) + 1.0,
        rows * (height + 0.32) + len(vectors) * (low + 0.32) + 0.8 + 0.2 * bool(split),
    )
    ratios = [low] * len(vectors) + [height] * rows
    grid = grid_of(
        figure, len(ratios), columns, len(vectors) + len(panels), sharex=True,
        height_ratios=ratios,
    )  # fmt: skip
    for panel, (name, image) in zip(grid, vectors.items(), strict=False):
        drawn = panel.imshow(array(image.T), cmap="viridis", aspect="auto", **_limits(image))
        _framed(panel, words(name), **words.settings)
        panel.set_ylabel("entry")
        panel.yaxis.set_major_locator(whole_numbers(3))
        bar(figure, drawn, panel, "value").locator.set_params(nbins=2)
    most = int(height / pixel / _LEAST), int(width / pixel / _LEAST)
    top, several = scale_of(panels.values()), [1, 1]
    own = grid[len(vectors) :]
    for panel, (name, image) in zip(own, panels.items(), strict=True):
        shown, extent, several = _coarse(image.T, most)
        drawn = panel.imshow(
            array(shown),
            origin="lower",
            aspect="auto",
            extent=extent,
            cmap=WEIGHTS,
            vmin=0,
            vmax=top,
        )
        panel.set_ylim(-0.5, image.shape[1] - 0.5)
        _framed(panel, words(name), **words.settings)
        panel.set_ylabel("slot")
        panel.yaxis.set_major_locator(whole_numbers(6))
    for number, panel in enumerate(grid if split else ()):
        # On white and colours it needs an edge; the ground of weights is black.
        black = number < len(vectors)
        if black:
            panel.axvline(split - 0.5, color="white", linewidth=2.2)
        colour = "black" if black else "white"
        panel.axvline(split - 0.5, color=colour, linewidth=0.9, linestyle="--")
    for panel in grid[:columns] if split else ():
        # The name of the panel stands above the mark.
        panel.set_title(panel.get_title(loc="left"), loc="left", pad=17, **words.settings)
        place: dict[str, Any] = {"transform": panel.get_xaxis_transform(), "va": "bottom"}
        panel.text(split - 0.6, 1.02, "\N{LEFTWARDS ARROW} source ", ha="right", **place)
        panel.text(split - 0.4, 1.02, " answer \N{RIGHTWARDS ARROW}", ha="left", **place)
    across = "step"
    if max(several) > 1:
        across += f"\neach cell: the greatest weight of {several[0]} slots by {several[1]} steps"
    for panel in grid[-columns:]:
        panel.set_xlim(-0.5, steps - 0.5)
        panel.set_xlabel(across)
        panel.xaxis.set_major_locator(whole_numbers())
        panel.tick_params(labelbottom=True)
    bar(figure, drawn, own, "weight", shrink=min(1.0, 2.5 / (rows * height)), aspect=15)
    return save(figure, path, title, words)


def _limits(vectors: Tensor) -> dict[str, Any]:
    """Limits of colours: 0 and 1 for bits and probabilities; else those of the values."""
    values = vectors[vectors.isfinite()]
    if not len(values) or (values.min() >= 0 and values.max() <= 1):
        return {"vmin": 0.0, "vmax": 1.0}
    return {}


def _coarse(
    image: Tensor, most: tuple[int, int]
) -> tuple[Tensor, tuple[float, float, float, float], list[int]]:
    """The greatest weight of each block of slots and steps.

    A picture has fewer pixels than a long sequence has weights. Pixels that stand for one weight of
    several would leave out most of the sharp ones.

    Args:
        image: ``[N, T]``.
        most: most blocks, of slots and of steps.

    Returns:
        The blocks, their extent, and how many slots and steps a block has.
    """
    size = [math.ceil(length / limit) for length, limit in zip(image.shape, most, strict=True)]
    blocks = nn.functional.max_pool2d(image[None].float(), size, ceil_mode=True)[0]
    height, width = (count * step - 0.5 for count, step in zip(blocks.shape, size, strict=True))
    return blocks, (-0.5, width, -0.5, height), size
