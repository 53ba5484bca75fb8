"""One self-contained page of HTML in which people watch a run, step by step.

A :class:`Page` holds examples; an :class:`Example` is one sequence on a time line, as one or
several :class:`Run` s of the same model (the second with an intervention, say); a run is a list of
panels::

    run = Run("as it ran", panels)
    Page("copying/ntm", [Example("sequence 1", steps, [run])]).save("view.html")

:mod:`memnets.viewing.watch` makes them from a model, or from a tape of any parts. The page knows
panels alone: it does not know any model.

Every panel says at which step of the time line it begins, and has values for the steps after it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from memnets.files import write_atomically
from memnets.viewing.packing import Arrays, as_json, span

__all__ = [
    "Cells",
    "Drawing",
    "Example",
    "Grid",
    "Heads",
    "Images",
    "Lines",
    "Page",
    "Panel",
    "Plane",
    "Run",
    "Square",
    "Strip",
]


#: Parts of the script of the page, in their order.
_SCRIPTS = (
    "arrays",
    "colours",
    "drawing",
    "timeline",
    "words",
    "places",
    "memory",
    "panels",
    "page",
)

#: Most bytes of a page within a notebook, in millions.
_NOTEBOOK_MB = 10.0


def _check(what: str, values: object, shape: str, **sizes: int | None) -> Tensor:
    """Check the shape of an array: its letters, of which those in ``sizes`` are known.

    Raises:
        TypeError: it is no tensor.
        ValueError: the shape is another one, or a number is infinite.
    """
    letters = shape.split()
    if not isinstance(values, Tensor):
        raise TypeError(f"{what} must be a tensor [{', '.join(letters)}]; got {_short(values)}")
    wanted = [sizes.get(letter) for letter in letters]
    if values.dim() != len(letters) or any(
        size not in (None, there) for size, there in zip(wanted, values.shape, strict=True)
    ):
        said = ", ".join(
            letter if size is None or letter.isdigit() else f"{letter} = {size}"
            for letter, size in zip(letters, wanted, strict=True)
        )
        raise ValueError(f"{what} must be [{said}]; got {list(values.shape)}")
    if 0 in values.shape:
        raise ValueError(f"{what} must not be empty; got {list(values.shape)}")
    if values.dtype != torch.bool and values.isinf().any():
        raise ValueError(f"{what} must be finite, or NaN where there is no number; got infinity")
    return values


def _check_names(what: str, names: Sequence[str], count: int, of: str) -> None:
    """Check that there is one name for each of a number of things.

    Raises:
        ValueError: there is not.
        TypeError: a name is no text.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{what} must be a list of texts; got {_short(names)}")
    if len(names) != count:
        raise ValueError(f"{what} must have one name for each of {count} {of}; got {len(names)}")


def _check_start(what: str, start: int) -> None:
    """Check that a panel begins at a step.

    Raises:
        ValueError: it does not.
    """
    if start < 0:
        raise ValueError(f"{what}: start must be a step of the time line, at least 0; got {start}")


def _short(value: object) -> str:
    """Describe a value in an error message, in one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{type(value).__name__}"


def _image(what: str, values: object, shape: str) -> Tensor:
    """Check an image, or images, in ``[0, 1]``; shape with channels at the end.

    Raises:
        TypeError: it is no tensor.
        ValueError: the shape or the range is another one.
    """
    image = _check(what, values, shape)
    if image.shape[-1] not in (1, 3):
        raise ValueError(f"{what} must have 1 or 3 channels; got {list(image.shape)}")
    if not ((image >= 0) & (image <= 1)).all():
        raise ValueError(f"{what} must lie in [0, 1]; got numbers beyond")
    return image


def _channels(images: object) -> object:
    """Images with channels at the end, if they are images without."""
    return images.unsqueeze(-1) if isinstance(images, Tensor) and images.dim() == 3 else images


def _check_points(what: str, points: object) -> None:
    """Check points in the plane.

    Raises:
        TypeError: they are no tensor.
        ValueError: the shape is another one, or a number is not finite.
    """
    if _check(what, points, "N 2", **{"2": 2}).isnan().any():
        raise ValueError(f"{what} must be numbers; got NaN")


def _points(points: Tensor) -> list[list[float]]:
    """Points as the page's script reads them."""
    return [[round(number, 5) for number in point] for point in points.double().tolist()]


def _check_pairs(what: str, pairs: Sequence[tuple[int, int]], points: int) -> None:
    """Check lines between points.

    Raises:
        ValueError: a line does not lead from a point to a point.
    """
    for pair in pairs:
        if len(pair) != 2 or not all(0 <= point < points for point in pair):
            raise ValueError(f"{what} must be pairs of numbers of {points} points; got {pair}")


@dataclass(frozen=True)
class Grid:
    """Slots that are patches of an image, row by row.

    Args:
        image: ``[height, width, channels]`` in ``[0, 1]``; one channel or three.
        rows: number of rows of patches.
        columns: number of columns of patches.
    """

    image: Tensor
    rows: int
    columns: int

    def __post_init__(self) -> None:
        _image("the image of a Grid", self.image, "height width channels")

    def check(self, what: str, slots: int) -> None:
        """Check that the slots are the patches.

        Raises:
            ValueError: they are not.
        """
        if self.rows * self.columns != slots:
            raise ValueError(
                f"{what} must have a slot for each of {self.rows} x {self.columns} patches; "
                f"got {slots} slots"
            )

    def packed(self, arrays: Arrays) -> dict[str, Any]:
        """The place as the page's script reads it."""
        image = arrays.add(self.image, 0.0, 1.0)
        return {"kind": "grid", "image": image, "rows": self.rows, "columns": self.columns}


@dataclass(frozen=True)
class Plane:
    """Slots that are points in the plane.

    Args:
        points: ``[N, 2]``; slots beyond the points are none.
    """

    points: Tensor

    def __post_init__(self) -> None:
        _check_points("the points of a Plane", self.points)

    def check(self, what: str, slots: int) -> None:
        """Check that each point is a slot.

        Raises:
            ValueError: there are more points than slots.
        """
        if len(self.points) > slots:
            raise ValueError(
                f"{what} must have a slot for each of {len(self.points)} points; got {slots} slots"
            )

    def packed(self, arrays: Arrays) -> dict[str, Any]:
        """The place as the page's script reads it."""
        return {"kind": "plane", "points": _points(self.points)}


@dataclass(frozen=True)
class Images:
    """Slots that are images, such as the examples of an episode.

    Args:
        images: ``[N, height, width]`` or ``[N, height, width, channels]`` in ``[0, 1]``.
        queries: the same for the steps: the image that is asked about at each; ``None`` = none.
    """

    images: Tensor
    queries: Tensor | None = None

    def __post_init__(self) -> None:
        for what, images in (("images", self.images), ("queries", self.queries)):
            if images is not None:
                _image(f"the {what} of Images", _channels(images), "N height width channels")

    def check(self, what: str, slots: int) -> None:
        """Check that each image is a slot.

        Raises:
            ValueError: there are more images than slots.
        """
        if len(self.images) > slots:
            raise ValueError(
                f"{what} must have a slot for each of {len(self.images)} images; got {slots} slots"
            )

    def packed(self, arrays: Arrays) -> dict[str, Any]:
        """The place as the page's script reads it."""

        def add(images: Tensor | None) -> int | None:
            known = _channels(images)
            return arrays.add(known, 0.0, 1.0) if isinstance(known, Tensor) else None

        return {"kind": "images", "images": add(self.images), "queries": add(self.queries)}


#: Least and greatest number of each array, by the name of its panel and its field.
Spans: TypeAlias = dict[tuple[str, str], tuple[float, float]]

#: Roles of heads.
_ROLES = ("read", "write", "attention", "other")

#: Where the slots of a panel of weights lie, if they are more than a list.
Places: TypeAlias = Grid | Plane | Images


class _Panel:
    """The part of a panel that all kinds have."""

    kind: ClassVar[str]
    name: str
    start: int
    note: str

    @property
    def steps(self) -> int:
        """Number of the panel's steps."""
        raise NotImplementedError

    def _numbers(self) -> dict[str, Tensor | None]:
        """Arrays by their field, the steps as the first dimension."""
        return {}

    def spans(self) -> Spans:
        """Least and greatest number of each array, by the panel's name and the field."""
        return {
            (self.name, field): span(values)
            for field, values in self._numbers().items()
            if values is not None
        }

    def _rest(self, arrays: Arrays, spans: Spans) -> dict[str, Any]:
        """The rest of the panel as the page's script reads it."""
        return {}

    def packed(self, arrays: Arrays, spans: Spans) -> dict[str, Any]:
        """The panel as the page's script reads it.

        Args:
            arrays: where its arrays go.
            spans: least and greatest number of each array; those of panels of one name are the
                same, so that their colours and axes are.
        """
        numbers = {
            field: None if values is None else arrays.add(values, *spans[self.name, field])
            for field, values in self._numbers().items()
        }
        head = {"kind": self.kind, "name": self.name, "start": self.start, "note": self.note}
        return head | {"steps": self.steps} | numbers | self._rest(arrays, spans)


@dataclass(frozen=True)
class Strip(_Panel):
    """One value or one word for each step: an input, a target, an answer.

    Args:
        name: of the panel, such as ``"answer"``.
        values: ``[T, C]`` numbers, or T words.
        start: step of the time line at which the values begin.
        low: least value that a colour stands for.
        high: greatest value that a colour stands for.
        wrong: bool ``[T]`` or ``[T, C]``, where the answer is wrong; ``None`` = nowhere.
        note: equation or a sentence that a pointer over the panel shows.
    """

    name: str
    values: Tensor | Sequence[str]
    start: int = 0
    low: float = 0.0
    high: float = 1.0
    wrong: Tensor | None = None
    note: str = ""

    kind: ClassVar[str] = "strip"

    def __post_init__(self) -> None:
        what = f"strip {self.name!r}"
        _check_start(what, self.start)
        if isinstance(self.values, Tensor):
            _check(f"{what}: values", self.values, "T C")
            if not self.low < self.high:
                raise ValueError(
                    f"{what}: low must be less than high; got {self.low} and {self.high}"
                )
        else:
            _check_names(f"{what}: words", self.values, len(self.values), "steps")
        if self.wrong is not None:
            if isinstance(self.values, Tensor) and self.wrong.dim() == 2:
                steps, channels = self.values.shape
                _check(f"{what}: wrong", self.wrong, "T C", T=steps, C=channels)
            else:
                _check(f"{what}: wrong", self.wrong, "T", T=self.steps)
            if self.wrong.dtype != torch.bool:
                raise TypeError(f"{what}: wrong must be boolean; got {self.wrong.dtype}")

    @property
    def steps(self) -> int:
        """Number of the panel's steps."""
        return len(self.values)

    def _numbers(self) -> dict[str, Tensor | None]:
        values = self.values if isinstance(self.values, Tensor) else None
        return {"values": values, "wrong": self.wrong}

    def _rest(self, arrays: Arrays, spans: Spans) -> dict[str, Any]:
        words = None if isinstance(self.values, Tensor) else list(self.values)
        return {"words": words, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Heads(_Panel):
    """Weights over slots, or other numbers in ``[0, 1]`` of each slot, of one part at each step.

    Args:
        name: of the panel, such as ``"layer 2"`` or ``"body.access.addressing"``.
        weights: ``[H, T, N]``.
        heads: names of the H heads.
        slots: names of the N slots, such as the words of a sentence; empty = their numbers.
        places: where the slots lie, if they are an image, a plane or images.
        start: step of the time line at which the weights begin.
        note: equation of the weights, with its source.
        role: ``"read"``, ``"write"``, ``"attention"`` or ``"other"``: colours them, and says which
            of a memory's rows to mark.
        memory: name of the panel of :class:`Cells` whose rows the heads mark; empty = of every one
            with N slots.

    Raises:
        ValueError: a shape, a name or the role does not fit.
    """

    name: str
    weights: Tensor
    heads: Sequence[str]
    slots: Sequence[str] = ()
    places: Places | None = None
    start: int = 0
    note: str = ""
    role: str = "attention"
    memory: str = ""

    kind: ClassVar[str] = "heads"

    def __post_init__(self) -> None:
        what = f"heads {self.name!r}"
        heads, _, slots = _check(f"{what}: weights", self.weights, "H T N").shape
        _check_start(what, self.start)
        _check_names(f"{what}: heads", self.heads, heads, "heads")
        if self.slots:
            _check_names(f"{what}: slots", self.slots, slots, "slots")
        if self.places is not None:
            self.places.check(what, slots)
        if self.role not in _ROLES:
            raise ValueError(
                f"{what}: role must be {', '.join(_ROLES[:-1])} or {_ROLES[-1]}; got {self.role!r}"
            )

    @property
    def steps(self) -> int:
        """Number of the panel's steps."""
        return self.weights.shape[1]

    def _numbers(self) -> dict[str, Tensor | None]:
        return {"weights": self.weights.transpose(0, 1)}

    def _rest(self, arrays: Arrays, spans: Spans) -> dict[str, Any]:
        return {
            "heads": list(self.heads),
            "slots": list(self.slots),
            "places": None if self.places is None else self.places.packed(arrays),
            "role": self.role,
            "memory": self.memory,
        }


@dataclass(frozen=True)
class Cells(_Panel):
    """The contents of a memory after each step, and what the step erased and added.

    The page computes what was erased and added from the weights of the write heads: slot i of step
    t loses ``before * (1 - prod_h (1 - write[h, t, i] * erase[h, t]))`` and gains
    ``sum_h write[h, t, i] * add[h, t]``. Without these it shows the difference to the step before.

    Args:
        name: of the panel.
        memory: ``[T, N, W]``; slots that a growing memory does not have yet are NaN.
        before: ``[N, W]``, the memory before the first step; ``None`` = it had no slots.
        write: ``[H, T, N]``, weights of the write heads; ``None`` = not known.
        erase: ``[H, T, W]`` in ``[0, 1]``; ``None`` = nothing is erased.
        add: ``[H, T, W]``; ``None`` = nothing is added.
        remove: ``[H, T, W]``, what the heads take away at their slots, whatever is in them;
            ``None`` = nothing.
        slots: names of the N slots; empty = their numbers.
        stack: whether slot 0 is the top of a stack, which grows downwards: drawn as one.
        start: step of the time line at which the memory begins.
        note: equation of the write, with its source.
    """

    name: str
    memory: Tensor
    before: Tensor | None = None
    write: Tensor | None = None
    erase: Tensor | None = None
    add: Tensor | None = None
    slots: Sequence[str] = ()
    stack: bool = False
    start: int = 0
    note: str = ""
    remove: Tensor | None = None

    kind: ClassVar[str] = "cells"

    def __post_init__(self) -> None:
        what = f"cells {self.name!r}"
        steps, slots, width = _check(f"{what}: memory", self.memory, "T N W").shape
        _check_start(what, self.start)
        if self.before is not None:
            _check(f"{what}: before", self.before, "N W", N=slots, W=width)
        heads = None
        if self.write is not None:
            heads = _check(f"{what}: write", self.write, "H T N", T=steps, N=slots).shape[0]
        vectors = {"erase": self.erase, "add": self.add, "remove": self.remove}
        for name, values in vectors.items():
            if values is not None:
                if heads is None:
                    raise ValueError(f"{what}: {name} needs the weights of the heads, write")
                _check(f"{what}: {name}", values, "H T W", H=heads, T=steps, W=width)
        if self.slots:
            _check_names(f"{what}: slots", self.slots, slots, "slots")

    @property
    def steps(self) -> int:
        """Number of the panel's steps."""
        return len(self.memory)

    def _numbers(self) -> dict[str, Tensor | None]:
        none = torch.full_like(self.memory[0], torch.nan, dtype=torch.float)
        before = none if self.before is None else self.before
        heads = {"write": self.write, "erase": self.erase, "add": self.add, "remove": self.remove}
        return {
            # The memory before the first step comes first: then each step has a before and after.
            "memory": torch.cat([before.unsqueeze(0), self.memory]),
            **{
                name: None if values is None else values.transpose(0, 1)
                for name, values in heads.items()
            },
        }

    def _rest(self, arrays: Arrays, spans: Spans) -> dict[str, Any]:
        return {"slots": list(self.slots), "stack": self.stack}


@dataclass(frozen=True)
class Lines(_Panel):
    """A few numbers at each step: gates, strengths, probabilities of labels.

    Args:
        name: of the panel.
        values: ``[T, K]``.
        labels: names of the K numbers.
        start: step of the time line at which the values begin.
        low: lower end of the axis; ``None`` = the least value.
        high: upper end of the axis; ``None`` = the greatest value.
        note: equation, with its source.
    """

    name: str
    values: Tensor
    labels: Sequence[str]
    start: int = 0
    low: float | None = None
    high: float | None = None
    note: str = ""

    kind: ClassVar[str] = "lines"

    def __post_init__(self) -> None:
        what = f"lines {self.name!r}"
        _, lines = _check(f"{what}: values", self.values, "T K").shape
        _check_start(what, self.start)
        _check_names(f"{what}: labels", self.labels, lines, "lines")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"{what}: low must be less than high; got {self.low} and {self.high}")

    @property
    def steps(self) -> int:
        """Number of the panel's steps."""
        return len(self.values)

    def _numbers(self) -> dict[str, Tensor | None]:
        return {"values": self.values}

    def _rest(self, arrays: Arrays, spans: Spans) -> dict[str, Any]:
        low, high = spans[self.name, "values"]
        return {
            "labels": list(self.labels),
            "low": low if self.low is None else self.low,
            "high": high if self.high is None else self.high,
        }


@dataclass(frozen=True)
class Square(_Panel):
    """A matrix over pairs of slots at each step, such as the links of a DNC.

    Args:
        name: of the panel.
        values: ``[T, N, N]`` in ``[0, 1]``.
        rows: name of the axis of the rows, such as ``"written after"``.
        columns: name of the axis of the columns.
        start: step of the time line at which the values begin.
        note: equation, with its source.
    """

    name: str
    values: Tensor
    rows: str = "slot"
    columns: str = "slot"
    start: int = 0
    note: str = ""

    kind: ClassVar[str] = "square"

    def __post_init__(self) -> None:
        what = f"square {self.name!r}"
        _check_start(what, self.start)
        rows = (
            self.values.shape[1]
            if isinstance(self.values, Tensor) and self.values.dim() == 3
            else None
        )
        _check(f"{what}: values", self.values, "T N N", N=rows)

    @property
    def steps(self) -> int:
        """Number of the panel's steps."""
        return len(self.values)

    def _numbers(self) -> dict[str, Tensor | None]:
        return {"values": self.values}

    def _rest(self, arrays: Arrays, spans: Spans) -> dict[str, Any]:
        return {"rows": self.rows, "columns": self.columns}


@dataclass(frozen=True)
class Drawing(_Panel):
    """Points in the plane, with the lines of the answer so far and of the right answer.

    Args:
        name: of the panel.
        points: ``[S, 2]``.
        right: pairs of points ``(i, j)`` of the right answer.
        answer: for each step the pairs of points that it adds to the answer.
        caption: of the drawing.
        start: step of the time line at which the answer begins.
        note: a sentence that a pointer over the panel shows.
    """

    name: str
    points: Tensor
    right: Sequence[tuple[int, int]]
    answer: Sequence[Sequence[tuple[int, int]]]
    caption: str = ""
    start: int = 0
    note: str = ""

    kind: ClassVar[str] = "drawing"

    def __post_init__(self) -> None:
        what = f"drawing {self.name!r}"
        _check_points(f"{what}: points", self.points)
        _check_start(what, self.start)
        for name, pairs in (
            ("right", self.right),
            *((f"answer of step {step}", pairs) for step, pairs in enumerate(self.answer)),
        ):
            _check_pairs(f"{what}: {name}", pairs, len(self.points))

    @property
    def steps(self) -> int:
        """Number of the panel's steps."""
        return len(self.answer)

    def _rest(self, arrays: Arrays, spans: Spans) -> dict[str, Any]:
        return {
            "points": _points(self.points),
            "right": [[int(point) for point in pair] for pair in self.right],
            "answer": [[[int(point) for point in pair] for pair in pairs] for pairs in self.answer],
            "caption": self.caption,
        }


Panel: TypeAlias = Strip | Heads | Cells | Lines | Square | Drawing


@dataclass(frozen=True)
class Run:
    """One run of a model over an example.

    Args:
        name: such as ``"as it ran"``, or the change of an intervention in words.
        panels: in the order of the page.
        verdict: a few words on the answer, such as ``"3 wrong bits"``.
        right: whether the answer is right; ``None`` = not known.
        changed_from: first step that an intervention may have changed; ``None`` = none did.
    """

    name: str
    panels: Sequence[Panel]
    verdict: str = ""
    right: bool | None = None
    changed_from: int | None = None

    def __post_init__(self) -> None:
        names = [panel.name for panel in self.panels]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(
                f"run {self.name!r}: panels must have names of their own; got {twice!r} twice"
            )

    def packed(self, arrays: Arrays, spans: Spans, without: frozenset[str]) -> dict[str, Any]:
        """The run as the page's script reads it, without some of its panels."""
        panels = [panel for panel in self.panels if panel.name not in without]
        return {
            "name": self.name,
            "panels": [panel.packed(arrays, spans) for panel in panels],
            "verdict": self.verdict,
            "right": self.right,
            "changed_from": self.changed_from,
        }


@dataclass(frozen=True)
class Example:
    """One sequence, on a time line of T steps.

    Args:
        title: such as ``"length 20, sequence 3"``.
        steps: a name for each step, such as ``"input 3"`` or ``"answer 1: cat"``.
        runs: at least one; all have the same steps. Panels of the same name stand side by side.
        split: step at which the answer begins; 0 = no mark.
        text: a line about the example, such as the question or the sentence; may be empty.

    Raises:
        ValueError: there is no step or no run, or a panel has more steps.
    """

    title: str
    steps: Sequence[str]
    runs: Sequence[Run]
    split: int = 0
    text: str = ""

    def __post_init__(self) -> None:
        what = f"example {self.title!r}"
        _check_names(f"{what}: steps", self.steps, len(self.steps), "steps")
        if not self.steps or not self.runs:
            raise ValueError(
                f"{what} must have at least one step and one run; "
                f"got {len(self.steps)} steps and {len(self.runs)} runs"
            )
        for panel in (panel for run in self.runs for panel in run.panels):
            if panel.start + panel.steps > len(self.steps):
                raise ValueError(
                    f"{what} has {len(self.steps)} steps; got the panel {panel.name!r} with "
                    f"{panel.steps} steps from step {panel.start} on"
                )

    def packed(self, arrays: Arrays, without: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The example as the page's script reads it, without some of its panels."""
        spans: Spans = {}
        for panel in (panel for run in self.runs for panel in run.panels):
            for key, (least, most) in panel.spans().items():
                low, high = spans.get(key, (least, most))
                spans[key] = min(low, least), max(high, most)
        return {
            "title": self.title,
            "steps": list(self.steps),
            "runs": [run.packed(arrays, spans, without) for run in self.runs],
            "split": self.split,
            "text": self.text,
        }


@dataclass
class Page:
    """A page of examples.

    Args:
        title: of the page, such as the name of the run.
        examples: at least one, in the order of the page.
        about: facts by their name, such as the checkpoint's step and the test score.
        notes: sentences for a reader, such as what was left out.
    """

    title: str
    examples: Sequence[Example]
    about: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _left_out: list[str] = field(default_factory=list, init=False, repr=False, compare=False)

    def html(self, limit_mb: float = 20.0) -> str:
        """The page as text.

        Args:
            limit_mb: most millions of bytes of the page. Numbers are rounded to 255 levels of a
                panel's range; where that is still too much, the last examples are left out, and of
                the only one that is left the largest panels. The page says which, and so do the
                ``notes`` afterwards.

        Raises:
            ValueError: there is no example, or a page without panels is larger.
        """
        if not self.examples:
            raise ValueError("a page must have at least one example; got none")
        # What an earlier call left out, this one may keep.
        self.notes = [note for note in self.notes if note not in self._left_out]
        # The sentences about what is left out take some room as well.
        plain = len(self._text([], Arrays()).encode()) + 2000
        room = limit_mb * 1e6 - plain
        arrays = Arrays()
        without, packed = self._fitting(self.examples[0], room, arrays)
        least = _size([packed], arrays)
        if least > room:
            raise ValueError(
                f"limit_mb must be at least {(plain + least) / 1e6 + 0.005:.2f}, for a page "
                f"without panels; got {limit_mb:g}"
            )
        kept = [packed]
        for example in self.examples[1:] if not without else []:
            first = len(arrays.packed)
            packed = example.packed(arrays)
            if _size([*kept, packed], arrays) > room:
                arrays.cut(first)
                break
            kept.append(packed)
        self._left_out = self._sentences(limit_mb, without, len(kept))
        self.notes += self._left_out
        return self._text(kept, arrays)

    def save(self, path: str | Path, limit_mb: float = 20.0) -> Path:
        """Write the page as one file, which needs no network and no server.

        Args:
            path: file to write.
            limit_mb: see :meth:`html`.

        Returns:
            The path.

        Raises:
            ValueError: see :meth:`html`.
        """
        path, text = Path(path), self.html(limit_mb)
        write_atomically(path, lambda file: file.write(text.encode()))
        return path

    def _repr_html_(self) -> str:
        """The page in a notebook, in a frame of its own."""
        page = html.escape(self.html(_NOTEBOOK_MB))
        return (
            f'<iframe title="{html.escape(self.title)}" srcdoc="{page}" '
            'style="width: 100%; height: 48rem; border: 1px solid #8888"></iframe>'
        )

    @staticmethod
    def _fitting(
        example: Example, room: float, arrays: Arrays
    ) -> tuple[frozenset[str], dict[str, Any]]:
        """An example without its largest panels, so that it fits; and which these are."""
        sizes: dict[str, int] = {}
        for panel in (panel for run in example.runs for panel in run.panels):
            alone = Arrays()
            packed = panel.packed(alone, panel.spans())
            sizes[panel.name] = sizes.get(panel.name, 0) + _size([packed], alone)
        without: frozenset[str] = frozenset()
        while True:
            packed = example.packed(arrays, without)
            if _size([packed], arrays) <= room or len(without) == len(sizes):
                return without, packed
            arrays.cut(0)
            left = {name: size for name, size in sizes.items() if name not in without}
            without |= {max(left, key=lambda name: left[name])}

    def _sentences(self, limit_mb: float, without: frozenset[str], kept: int) -> list[str]:
        """Sentences about what is left out."""
        why = f"to keep the page below {limit_mb:g} MB"
        sentences = []
        if without:
            names = ", ".join(sorted(without))
            sentences.append(f"Panels are left out, {why}: {names}.")
        gone = len(self.examples) - kept
        if gone:
            which = "last example is" if gone == 1 else f"last {gone} examples are"
            sentences.append(f"The {which} left out, {why}.")
        return sentences

    def _text(self, examples: list[dict[str, Any]], arrays: Arrays) -> str:
        """The page with examples that are packed already."""
        data = {
            "title": self.title,
            "about": self.about,
            "notes": self.notes,
            "arrays": arrays.packed,
            "examples": examples,
        }
        files = resources.files("memnets.viewing") / "assets"
        parts = {
            "title": html.escape(self.title.encode("utf-8", "replace").decode()),
            "style": (files / "page.css").read_text("utf-8"),
            "script": "\n".join((files / f"{name}.js").read_text("utf-8") for name in _SCRIPTS),
            "data": as_json(data),
        }
        # In one pass: a text of the data may look like a place to fill.
        template = (files / "page.html").read_text("utf-8")
        return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def _size(packed: list[dict[str, Any]], arrays: Arrays) -> int:
    """Bytes of what is packed, with its arrays."""
    return len(as_json(packed).encode()) + sum(map(arrays.size, range(len(arrays.packed))))
