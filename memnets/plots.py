"""Pictures: what a model answered, and where its heads were."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

__all__ = ["answer", "weights"]

# Figures are made without pyplot: no window, no global state, safe in any thread.


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


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
    if title:
        figure.suptitle(title, fontsize=10)
    return _save(figure, path)


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
    if title:
        figure.suptitle(title, fontsize=10)
    return _save(figure, path)


def _save(figure: Figure, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
