"""One self-contained page of HTML in which people watch a run, step by step.

A :class:`Page` holds examples; an :class:`Example` is one sequence on a time line, as one or
several :class:`Run` s of the same model (the second with an intervention, say); a run is a list of
panels::

    Page("copying/ntm", [Example("sequence 1", steps, [Run("as it ran", panels)])]).save("view.html")

:mod:`memnets.viewing.watch` makes them from a model, or from a tape of any parts. The page knows
panels alone: it does not know any model.

Every panel says at which step of the time line it begins, and has values for the steps after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

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


@dataclass(frozen=True)
class Plane:
    """Slots that are points in the plane.

    Args:
        points: ``[N, 2]``; slots beyond the points are none.
    """

    points: Tensor


@dataclass(frozen=True)
class Images:
    """Slots that are images, such as the examples of an episode.

    Args:
        images: ``[N, height, width]`` or ``[N, height, width, channels]`` in ``[0, 1]``.
        queries: the same for the steps: the image that is asked about at each; ``None`` = none.
    """

    images: Tensor
    queries: Tensor | None = None


#: Where the slots of a panel of weights lie, if they are more than a list.
Places: TypeAlias = Grid | Plane | Images


@dataclass(frozen=True)
class Strip:
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


@dataclass(frozen=True)
class Heads:
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
    """

    name: str
    weights: Tensor
    heads: Sequence[str]
    slots: Sequence[str] = ()
    places: Places | None = None
    start: int = 0
    note: str = ""
    role: str = "attention"


@dataclass(frozen=True)
class Cells:
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


@dataclass(frozen=True)
class Lines:
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


@dataclass(frozen=True)
class Square:
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


@dataclass(frozen=True)
class Drawing:
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


@dataclass(frozen=True)
class Example:
    """One sequence, on a time line of T steps.

    Args:
        title: such as ``"length 20, sequence 3"``.
        steps: a name for each step, such as ``"input 3"`` or ``"answer 1: cat"``.
        runs: at least one; all have the same steps and the same names of panels.
        split: step at which the answer begins; 0 = no mark.
        text: a line about the example, such as the question or the sentence; may be empty.
    """

    title: str
    steps: Sequence[str]
    runs: Sequence[Run]
    split: int = 0
    text: str = ""


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

    def html(self, limit_mb: float = 20.0) -> str:
        """The page as text.

        Args:
            limit_mb: most millions of bytes of the page. Numbers are rounded to 256 levels of a
                panel's range; where that is still too much, the last examples and the largest
                panels are left out, and the page says which.
        """
        raise NotImplementedError

    def save(self, path: str | Path, limit_mb: float = 20.0) -> Path:
        """Write the page as one file, which needs no network and no server."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        """The page in a notebook, in a frame of its own."""
        raise NotImplementedError
