"""The pictures of a sweep: its course, how much each setting matters, the score by each setting."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, NullFormatter

from memnets.viewing.colours import PALETTE
from memnets.viewing.plots.canvas import (
    Words,
    bar,
    figure_of,
    grid_of,
    rows_columns,
    save,
    styled,
    whole_numbers,
)

__all__ = ["Course", "Setting", "history", "importance", "slices"]

#: Room for the name of a score or a setting beside a panel, in inches.
_ROOM = 2.7
#: Greatest ratio of two scores on a plain axis.
_WIDE = 100


class Course(NamedTuple):
    """The trials of a sweep.

    Attributes:
        finished: the score of each trial that ran to its end, by its number.
        pruned: the last score of each trial that was stopped early.
        failed: numbers of trials without a score.
        score: name of the score, with its unit.
        higher_is_better: its direction.
    """

    finished: Mapping[int, float]
    pruned: Mapping[int, float]
    failed: Sequence[int]
    score: str
    higher_is_better: bool

    @property
    def direction(self) -> str:
        """The direction in words."""
        arrow = "\N{UPWARDS ARROW} higher" if self.higher_is_better else "\N{DOWNWARDS ARROW} lower"
        return f"{arrow} is better"

    @property
    def best(self) -> int | None:
        """Number of the best trial that ran to its end."""
        finite = [number for number, value in self.finished.items() if math.isfinite(value)]
        sign = -1 if self.higher_is_better else 1
        return min(finite, key=lambda number: sign * self.finished[number], default=None)


class Setting(NamedTuple):
    """A panel of the slices: a setting, and its value in each trial that had it.

    Attributes:
        name: name of the setting.
        values: the value of each trial, by its number: numbers, or texts of a choice.
        log: whether numbers are drawn on a logarithmic scale.
        choices: texts of a choice, in their order; empty for numbers.
    """

    name: str
    values: Mapping[int, float | str]
    log: bool = False
    choices: Sequence[str] = ()


def _scaled(panel: Axes, values: Sequence[float]) -> str:
    """Give an axis of scores its scale; what to add to its name."""
    drawn = np.array([value for value in values if math.isfinite(value)])
    if len(drawn) and drawn.min() > 0 and drawn.max() > _WIDE * drawn.min():
        _log(panel.yaxis, "y", list(drawn))
        return ", log scale"
    panel.ticklabel_format(axis="y", useOffset=False)
    return ""


def _log(axis: Axis, which: str, values: Sequence[float]) -> None:
    """Give an axis a logarithmic scale, with numbers at its ticks as they are written."""
    getattr(axis.axes, f"set_{which}scale")("log")
    narrow = max(values, default=1) < _WIDE * min(values, default=1)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


@styled
def history(course: Course, path: str | Path, title: str = "") -> Path:
    """Draw the score of each trial of a sweep, and the best so far.

    Args:
        course: the trials, at least one; scores that are not finite count as failed.
        path: file to write; its ending decides the format.
        title: title of the picture.

    Returns:
        The path.

    Raises:
        ValueError: there is no trial.
    """
    kept, pruned = (
        {number: value for number, value in values.items() if math.isfinite(value)}
        for values in (course.finished, course.pruned)
    )
    every = {*course.finished, *course.pruned, *course.failed}
    if not every:
        raise ValueError("expected trials to draw; got none")
    failed = sorted(every - kept.keys() - pruned.keys())
    words = Words([title, course.score], path)
    figure = figure_of(6.5, 3.6)
    (panel,) = grid_of(figure, 1, 1, 1)
    look: dict[str, Any] = {"linestyle": "none", "markersize": 6, "markeredgecolor": "white"}
    if kept:
        numbers = sorted(kept)
        running = np.maximum if course.higher_is_better else np.minimum
        best = list(running.accumulate([kept[number] for number in numbers]))
        panel.step(
            [*numbers, max(every)], [*best, best[-1]], where="post", color=PALETTE[2],
            label="best so far", linestyle="-",
        )  # fmt: skip
        panel.plot(
            list(kept), list(kept.values()), "o", color=PALETTE[0], label="ran to its end", **look
        )
    if pruned:
        panel.plot(
            list(pruned), list(pruned.values()), "s", color=PALETTE[1], label="pruned: its last",
            **look,
        )  # fmt: skip
    scale = _scaled(panel, [*kept.values(), *pruned.values()])
    if failed:
        height = 0.04 if course.higher_is_better else 0.96  # at the worse end
        panel.plot(
            failed, [height] * len(failed), "X", color="black",
            label="no score: failed or diverged", transform=panel.get_xaxis_transform(), **look,
        )  # fmt: skip
    if not kept and not pruned:
        panel.set_yticks([])
    panel.set_xlim(min(every) - 0.5, max(every) + 0.5)
    panel.xaxis.set_major_locator(whole_numbers())
    panel.set_xlabel("trial")
    panel.set_title(course.direction)
    panel.set_ylabel(words.lines(f"{course.score}{scale}", _ROOM, 9))
    figure.legend(loc="outside lower center", ncols=4)
    return save(figure, path, title, words)


@styled
def importance(shares: Mapping[str, float], path: str | Path, title: str = "") -> Path:
    """Draw how much of the difference between trials each setting of a sweep explains.

    Args:
        shares: share of each setting, from 0 to 1.
        path: file to write; its ending decides the format.
        title: title of the picture.

    Returns:
        The path.

    Raises:
        ValueError: there is no setting.
    """
    if not shares:
        raise ValueError("expected the importance of settings to draw; got none")
    words = Words([title, *shares], path)
    names = sorted(shares, key=lambda name: shares[name])
    figure = figure_of(6.5, 1.1 + 0.32 * len(names))
    (panel,) = grid_of(figure, 1, 1, 1)
    bars = panel.barh(
        range(len(names)), [shares[name] for name in names], color=PALETTE[0], height=0.6
    )
    panel.bar_label(bars, [f"{100 * shares[name]:.0f} %" for name in names], padding=3, fontsize=8)
    panel.set_yticks(range(len(names)), words.all(names), **words.settings)
    panel.set_xlim(0, 1.08)
    panel.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    panel.set_xlabel("importance: share of all settings (PED-ANOVA)")
    return save(figure, path, title, words)


@styled
def slices(course: Course, settings: Sequence[Setting], path: str | Path, title: str = "") -> Path:
    """Draw the score of each finished trial by each setting of a sweep.

    A panel for each setting; later trials are lighter, and a ring marks the best.

    Args:
        course: the trials, of which those with a finite score are drawn.
        settings: the settings, at least one.
        path: file to write; its ending decides the format.
        title: title of the picture.

    Returns:
        The path.

    Raises:
        ValueError: there is no setting, or no finished trial.
    """
    finite = {n: v for n, v in course.finished.items() if math.isfinite(v)}
    if not settings or not finite:
        raise ValueError("expected settings and finished trials to draw; got none")
    rows, columns = rows_columns(len(settings), 3)
    labels = [choice for setting in settings for choice in setting.choices]
    words = Words([title, course.score, *(setting.name for setting in settings), *labels], path)
    figure = figure_of(max(2.6 * columns + 1.2, 5.0), 0.8 + 2.8 * rows)
    grid = grid_of(figure, rows, columns, len(settings), sharey=True)
    best = course.best
    ends: dict[str, Any] = {"vmin": min(finite), "vmax": max(max(finite), min(finite) + 1)}
    for place, (panel, setting) in enumerate(zip(grid, settings, strict=True)):
        numbers = sorted(number for number in setting.values if number in finite)
        across = [_place(setting, number) for number in numbers]
        scores = [finite[number] for number in numbers]
        drawn = panel.scatter(
            across, scores, c=numbers, s=34, edgecolors="white", linewidths=0.5, **ends
        )
        if best in numbers:
            panel.plot(
                _place(setting, best), finite[best], "o", markersize=11, markerfacecolor="none",
                markeredgecolor=PALETTE[3], markeredgewidth=1.6, label=f"the best, trial {best}",
            )  # fmt: skip
        if setting.choices:
            _name_choices(panel, setting, words, 2.2)
        elif setting.log:
            _log(panel.xaxis, "x", [float(v) for v in setting.values.values()])
        scale = _scaled(panel, list(finite.values()))
        panel.set_xlabel(
            words.lines(words(setting.name).replace(".", ". "), 2.4, 9).replace(". ", ".")
        )
        if place % columns == 0:
            panel.set_ylabel(words.lines(f"{course.score}{scale}", _ROOM, 9))
    grid[0].set_title(course.direction, loc="left")
    handles = next((h for p in grid if (h := p.get_legend_handles_labels()[0])), [])
    if handles:
        figure.legend(handles=handles, loc="outside lower center")
    shown = bar(figure, drawn, grid, "trial")
    shown.locator = whole_numbers(6)
    shown.update_ticks()
    return save(figure, path, title, words)


def _place(setting: Setting, number: int) -> float:
    """Place of a trial on the axis of a setting; points of a choice lie a little apart."""
    value = setting.values[number]
    if not setting.choices:
        return float(value)
    return setting.choices.index(str(value)) + 0.3 * ((number * 0.618) % 1 - 0.5)


def _short(choices: Sequence[str]) -> list[str]:
    """Choices in short: classes by their names, if these tell them apart."""
    are_paths = all(re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", choice) for choice in choices)
    short = [choice.rpartition(".")[2] for choice in choices]
    return short if are_paths and len(set(short)) == len(short) else list(choices)


def _name_choices(panel: Axes, setting: Setting, words: Words, room: float) -> None:
    """Name the choices below a panel, upright where they would meet."""
    named = words.all(_short(setting.choices))
    named = [name if len(name) <= 40 else f"{name[:39]}\N{HORIZONTAL ELLIPSIS}" for name in named]
    upright: dict[str, Any] = {}
    if words.width(named, 8) > room / len(named) - 0.1:
        upright = {"rotation": 90}
    panel.set_xticks(range(len(named)), named, **upright, **words.settings)
    panel.set_xlim(-0.5, len(named) - 0.5)
