"""Panels of a page from a tape: weights, memories and gauges of any parts, by their events alone.

:mod:`memnets.viewing.watch` adds what a task knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from memnets.core import Addressing, MemoryAccess
from memnets.events import Event
from memnets.viewing.interventions import Intervention
from memnets.viewing.page import (
    Cells,
    Example,
    Heads,
    Lines,
    Page,
    Panel,
    Places,
    Run,
    Square,
    Strip,
)

__all__ = [
    "Recorded",
    "Scene",
    "Track",
    "around",
    "compared",
    "equation",
    "lines",
    "memory_of",
    "of_tape",
    "panels",
    "panels_of",
    "spaced",
    "strip",
    "tracks",
]

#: Most numbers at a step that are drawn as lines; more are drawn as a strip of colours.
MOST_LINES = 12
#: Most numbers at a step that are drawn at all.
MOST_NUMBERS = 128
#: Most heads whose shares, such as modes, have lines of their own.
FEW_HEADS = 2
#: Most heads whose vectors, such as keys, are drawn.
MOST_KEYS = 4
#: Name of an addressing's only head.
SINGLE = "weights"


class Recorded(Protocol):
    """A recorded run, such as a :class:`memnets.viewing.trace.Tape`."""

    model: nn.Module | None
    events: list[Event]
    names: dict[nn.Module, str]
    heads: dict[nn.Module, list[str]]
    interventions: list[Intervention]

    @property
    def original(self) -> Recorded | None:
        """The same run without interventions; ``None`` for a run without."""


def equation(tape: Recorded, part: nn.Module, kind: str) -> str:
    """Equation of the events of a kind that a part reports, with its source.

    The equation is that of the part's class (``equations``), followed by those of the parts in it,
    such as the score and the normalizer of an addressing, and of what it belongs to.

    Args:
        tape: the tape, which knows the names of the parts.
        part: the part.
        kind: kind of the events, see :mod:`memnets.events`.
    """
    outside = [each for each in around(tape, part)[1:] if kind in _equations(each)]
    found = [part, *part.children(), *outside[:1]]
    return "\n".join(_equations(each)[kind] for each in found if kind in _equations(each))


def _equations(part: nn.Module) -> dict[str, str]:
    """Equations of a part by kind: those of its class, and those that the class inherits."""
    known: dict[str, str] = {}
    for one in reversed(type(part).__mro__):
        known.update(vars(one).get("equations") or {})
    return known


def around(tape: Recorded, part: nn.Module) -> list[nn.Module]:
    """A part and all parts that it is in, from the inside."""
    parts = {name: each for each, name in tape.names.items()}
    name = tape.names.get(part)
    found = [part]
    while name:
        name = name.rpartition(".")[0]
        if name in parts:
            found.append(parts[name])
    return found


class Track(NamedTuple):
    """Values of one kind of events from one part, in one sequence.

    Attributes:
        part: the part.
        kind: kind of the events.
        steps: value of each step; ``[H, X]`` for weights and queries of an addressing.
        apart: number of last steps that none of the others sees: each begins where the steps
            before all of them have ended.
    """

    part: nn.Module
    kind: str
    steps: list[Tensor]
    apart: int = 0

    @property
    def is_addressed(self) -> bool:
        """Whether the values belong to the queries of an addressing."""
        return self.kind == "weights" or self.kind.startswith("query.")

    def stacked(self, fill: float) -> Tensor:
        """The values, ``[T, ...]``, filled up to the size of the largest."""
        sizes = [max(sizes) for sizes in zip(*(step.shape for step in self.steps), strict=True)]
        filled = []
        for step in self.steps:
            room = [(0, most - size) for size, most in zip(step.shape, sizes, strict=True)]
            flat = [side for pair in reversed(room) for side in pair]
            filled.append(nn.functional.pad(step, flat, value=fill) if flat else step)
        values = torch.stack(filled)
        return values.masked_fill(values.isinf(), torch.nan)


def tracks(tape: Recorded, sequence: int | None) -> list[Track]:
    """Tracks of a tape, in the order in which their parts were first heard.

    Args:
        tape: the tape.
        sequence: number of the sequence in the batch; ``None`` = all rows of an event are steps of
            the same sequence, each from the same state.

    Raises:
        ValueError: there is no such sequence.
    """
    found: dict[tuple[nn.Module, str], Track] = {}
    headed = {
        part: isinstance(part, Addressing) and (bool(tape.heads.get(part)) or memory_of(tape, part))
        for part in {event.part for event in tape.events}
    }
    for event in tape.events:
        value = event.value.to(torch.float32)
        if value.dim() == 0:
            value = value.view(1)
        if sequence is not None and sequence >= len(value):
            raise ValueError(
                f"sequence must be less than the {len(value)} sequences of the batch; "
                f"got {sequence}"
            )
        track = found.setdefault((event.part, event.kind), Track(event.part, event.kind, []))
        if sequence is None and len(value) > 1:
            track = found[event.part, event.kind] = track._replace(apart=track.apart + len(value))
        for row in value if sequence is None else value[sequence : sequence + 1]:
            if not track.is_addressed or row.dim() == 0:
                track.steps.append(row)
            elif row.dim() <= 2 and headed[event.part]:
                track.steps.append(row if row.dim() == 2 else row.unsqueeze(-1))
            else:
                row = row.unsqueeze(-1) if row.dim() == 1 else row
                track.steps.extend(row.reshape(-1, *row.shape[-2:]).unbind(1))
    return list(found.values())


def memory_of(tape: Recorded, part: nn.Module) -> MemoryAccess | None:
    """The memory that a part is, or is in."""
    for each in around(tape, part):
        if isinstance(each, MemoryAccess):
            return each
    return None


@dataclass(frozen=True)
class Scene:
    """Names and places for panels; here, those of any tape.

    Args:
        tape: the tape.
        titles: titles of parts.
        starts: steps of the time line at which a part's values begin, by their number and by the
            number of the part's steps before; ``None`` for a part of which nothing is shown.
        slots: names of the slots of a part, by the part and their number.
        places: where the slots of a part lie, by the part, their number and the number of steps.
    """

    tape: Recorded
    titles: Mapping[nn.Module, str] = field(default_factory=dict)
    start: Callable[[Track], int | None] = lambda track: 0
    slots: Callable[[nn.Module, int], list[str]] = lambda part, count: []
    places: Callable[[nn.Module, int, int], Places | None] = lambda part, slots, steps: None

    def title(self, part: nn.Module) -> str:
        """Title of a part: the one that was given, else its name in the model."""
        return self.titles.get(part) or self.tape.names.get(part) or spaced(type(part).__name__)

    def heads(self, part: nn.Module, count: int) -> list[str]:
        """Names of the heads of an addressing."""
        known = self.tape.heads.get(part, [])
        if len(known) == count:
            return list(known)
        return [f"head {head + 1}" for head in range(count)] if count > 1 else [SINGLE]


class _Made(NamedTuple):
    """A panel, and the part that names it if others have the same name."""

    owner: nn.Module
    panel: Panel


def panels(tape: Recorded, sequence: int = 0) -> list[Panel]:
    """Panels of one sequence of the batch, of everything that a tape has recorded.

    What a panel shows follows from the kinds of the events (:mod:`memnets.events`) and their
    shapes, so that it works for parts of your own. Of a memory: the weights of its heads, the slots
    with what was erased and added, usage and links, gates and strengths. Of other addressings:
    their weights. Of kinds that the library does not know: a few numbers at each step as lines,
    a number for each slot as weights, others as a strip of colours, pairs of slots as a square.

    The steps of a panel are those of the part, counted from 0.

    Args:
        tape: the tape.
        sequence: number of the sequence in the batch.

    Raises:
        ValueError: nothing was recorded, or there is no such sequence.
    """
    if not tape.events:
        raise ValueError("nothing was recorded: the run has no part that reports events")
    found = panels_of(tracks(tape, sequence), Scene(tape))
    if not found:
        kinds = ", ".join(sorted({event.kind for event in tape.events}))
        raise ValueError(f"nothing that was recorded can be drawn: {kinds}")
    return found


def panels_of(tracks: list[Track], scene: Scene) -> list[Panel]:
    """Panels of tracks, each with a name of its own."""
    owners: dict[nn.Module, dict[tuple[nn.Module, str], Track]] = {}
    for track in tracks:
        owner = memory_of(scene.tape, track.part) or track.part
        if scene.start(track) is not None:
            owners.setdefault(owner, {})[track.part, track.kind] = track
    made: list[_Made] = []
    for owner, of_owner in owners.items():
        made += [_Made(owner, panel) for panel in _of_owner(owner, of_owner, scene)]
    return _named(made, scene)


def _named(made: list[_Made], scene: Scene) -> list[Panel]:
    """Panels with names of their own: where several have one name, that of their part precedes."""
    names = [panel.name for _, panel in made]
    taken: set[str] = set()
    found = []
    for owner, panel in made:
        name = panel.name
        if names.count(name) > 1:
            name = f"{scene.title(owner)}: {name}"
        number, first = 1, name
        while name in taken:
            number += 1
            name = f"{first} ({number})"
        taken.add(name)
        found.append(replace(panel, name=name))
    return found


def _of_owner(
    owner: nn.Module, tracks: dict[tuple[nn.Module, str], Track], scene: Scene
) -> list[Panel]:
    """Panels of a memory with its addressings, or of another part."""
    own = {kind: track for (part, kind), track in tracks.items() if part is owner}
    slots = own["memory"].stacked(0.0).shape[1] if _is_memory(own) else 0
    found: list[Panel] = []
    for role in ("read", "write"):
        if role in own and own[role].steps[0].dim() == 2:
            found.append(_head_panel(owner, own[role], tracks, scene))
    seen = [image for panel in found if isinstance(panel, Heads) for image in panel.weights]
    for (part, kind), track in tracks.items():
        if kind == "weights" and (part is not owner or not _is_memory(own)):
            found += _weight_panels(owner, part, track, seen, scene)
    if slots:
        found.append(_cells(own, scene, equation(scene.tape, owner, "memory")))
    done = {"memory", "before", "erase", "add", "remove", "emptied"} if slots else set()
    if not slots and (matrices := _matrices(own)):
        found += _of_matrices(matrices, scene, equation(scene.tape, owner, "memory"))
        done = {*_OF_MEMORY, "read"}
    done |= {panel.role for panel in found if isinstance(panel, Heads)} & {"read", "write"}
    gauges: dict[str, list[Lines]] = {}
    strips: list[Panel] = []
    for (part, kind), track in tracks.items():
        if kind == "weights" or (part is owner and kind in done):
            continue
        for panel in _of_kind(part, track, slots, scene):
            if isinstance(panel, Lines):
                gauges.setdefault(panel.name, []).append(panel)
            else:
                (strips if isinstance(panel, Strip) else found).append(panel)
    found += [one for several in gauges.values() for one in _joined(several)]
    return found + strips


def _is_memory(own: Mapping[str, Track]) -> bool:
    """Whether a part has reported slots, ``[N, W]`` at each step."""
    return "memory" in own and all(step.dim() == 2 and step.numel() for step in own["memory"].steps)


#: Kinds of events that tell of a memory and its writes.
_OF_MEMORY = ("memory", "before", "write", "erase", "add", "remove", "emptied")


def _matrices(own: Mapping[str, Track]) -> list[dict[str, Track]]:
    """Tracks of each head of a memory that has a matrix for each, ``[H, K, V]`` at each step."""
    if "memory" not in own or any(step.dim() != 3 for step in own["memory"].steps):
        return []
    heads = len(own["memory"].steps[0])
    whole = {
        kind: track
        for kind in (*_OF_MEMORY, "read")
        if (track := own.get(kind)) is not None
        and all(step.dim() == 3 and len(step) == heads for step in track.steps)
    }
    return [
        {
            kind: track._replace(steps=[step[head] for step in track.steps])
            for kind, track in whole.items()
        }
        for head in range(heads)
    ]


def _of_matrices(matrices: list[dict[str, Track]], scene: Scene, note: str) -> Iterator[Panel]:
    """Panels of a memory that has a matrix for each head: the matrices, their keys and queries."""
    names = [f" of head {head + 1}" if len(matrices) > 1 else "" for head in range(len(matrices))]
    for own, name in zip(matrices, names, strict=True):
        yield replace(_cells(own, scene, note), name=f"memory{name}")
    if len(matrices) > MOST_KEYS:
        return
    for own, name in zip(matrices, names, strict=True):
        for kind, title in (("write", "key"), ("read", "query")):
            if kind in own:
                # Keys have a sign, so that they are no weights. Several writes stand side by side.
                values = own[kind].stacked(torch.nan).flatten(1)
                yield from strip(f"{title}{name}", values, _place(own[kind], scene))


def _place(track: Track, scene: Scene) -> int:
    start = scene.start(track)
    assert start is not None
    return start


def _head_panel(
    owner: nn.Module,
    track: Track,
    tracks: dict[tuple[nn.Module, str], Track],
    scene: Scene,
) -> Heads:
    """Weights of the read heads or of the write heads that a memory has reported itself."""
    weights = track.stacked(0.0).transpose(0, 1)
    role = track.kind
    by = [part for part, kind in tracks if kind == "weights"]
    names = [name for part in by for name in scene.tape.heads.get(part, []) if _role(name) == role]
    if len(names) != len(weights):
        names = [f"{role} {head + 1}" for head in range(len(weights))]
    having = [
        part for part in by if any(_role(name) == role for name in scene.tape.heads.get(part, []))
    ]
    notes = [equation(scene.tape, part, "weights") for part in having]
    notes.append(equation(scene.tape, owner, role))
    return Heads(
        f"{role} weights",
        weights,
        names,
        scene.slots(owner, weights.shape[-1]),
        start=_place(track, scene),
        note=_text(notes),
        role=role,
    )


def _role(head: str) -> str:
    """Role of a head, by its name."""
    return next((role for role in ("read", "write") if head.startswith(role)), "attention")


def _weight_panels(
    owner: nn.Module, part: nn.Module, track: Track, seen: list[Tensor], scene: Scene
) -> Iterator[Heads]:
    """Weights of an addressing, without those of heads that are shown already."""
    weights = track.stacked(0.0).transpose(0, 1)
    names = scene.heads(part, len(weights))
    is_owned = owner is not part
    left = [
        head
        for head, image in enumerate(weights)
        if not any(image.shape == each.shape and torch.equal(image, each) for each in seen)
    ]
    for role in ("read", "write", "attention"):
        heads = [head for head in left if (_role(names[head]) if is_owned else "attention") == role]
        if not heads:
            continue
        yield Heads(
            f"{role} weights" if is_owned and role != "attention" else scene.title(part),
            weights[heads],
            [names[head] for head in heads],
            scene.slots(part, weights.shape[-1]),
            scene.places(part, weights.shape[-1], weights.shape[1]),
            _place(track, scene),
            equation(scene.tape, part, "weights"),
            role,
        )


def _cells(own: Mapping[str, Track], scene: Scene, note: str) -> Cells:
    """Slots of a memory after each step, and what it says of its writes."""
    # Steps apart leave the memory as it was before all of them.
    steps = len(own["memory"].steps) - own["memory"].apart
    if steps:
        own = {kind: track._replace(steps=track.steps[:steps]) for kind, track in own.items()}
    track = own["memory"]
    memory = track.stacked(torch.nan)
    slots = memory.shape[1]
    before = None
    if "before" in own and own["before"].steps[0].dim() == 2 and own["before"].steps[0].numel():
        first = own["before"].steps[0]
        before = nn.functional.pad(first, (0, 0, 0, slots - len(first)), value=torch.nan)
    return Cells(
        "memory",
        memory,
        before,
        **_writes(own, memory, before),
        stack="actions" in own,
        start=_place(track, scene),
        note=note,
    )


def _writes(own: Mapping[str, Track], memory: Tensor, before: Tensor | None) -> dict[str, Any]:
    """Weights and vectors of the writes, if the slots are what follows from them; else nothing."""
    nothing: dict[str, Any] = {}
    steps, slots, width = memory.shape
    told = {}
    sizes = {"write": slots, "emptied": slots, "erase": width, "add": width, "remove": width}
    for kind, size in sizes.items():
        if kind in own:
            values = own[kind].stacked(torch.nan)
            if values.dim() != 3 or values.shape[0] != steps or values.shape[2] != size:
                return nothing
            told[kind] = values.transpose(0, 1)
    if "write" not in told or before is None:
        return nothing
    write = told["write"]
    heads = len(write)
    erase, add, remove = (
        told.get(kind, write.new_zeros(heads, steps, width)) for kind in ("erase", "add", "remove")
    )
    if "emptied" in told:
        # A head that empties a slot erases it, and adds nothing.
        emptied = told["emptied"]
        none = write.new_zeros(len(emptied), steps, width)
        write = torch.cat([emptied, write])
        erase = torch.cat([none + 1, erase])
        add, remove = torch.cat([none, add]), torch.cat([none, remove])
    if any(len(vectors) != len(write) for vectors in (erase, add, remove)):
        return nothing
    last = torch.cat([before.unsqueeze(0), memory[:-1]])
    kept = (1 - torch.einsum("htn,htw->htnw", write, erase)).prod(0)
    follows = last * kept + torch.einsum("htn,htw->tnw", write, add - remove)
    # Of an overwritten slot the first step differs: all others tell whether the rule holds.
    same = torch.isclose(follows, memory, rtol=1e-3, atol=1e-4, equal_nan=True).flatten(1).all(1)
    if same.float().mean() < 0.9:
        return nothing
    taken = {"remove": remove} if "remove" in told else {}
    return {"write": write, "erase": erase, "add": add, **taken}


def _of_kind(part: nn.Module, track: Track, slots: int, scene: Scene) -> Iterator[Panel]:
    """Panels of further kinds, by the shapes of their values."""
    name, start = track.kind.removeprefix("query.").replace("_", " "), _place(track, scene)
    note = equation(scene.tape, part, track.kind)
    if len({step.dim() for step in track.steps}) > 1 or any(not s.numel() for s in track.steps):
        return
    values = track.stacked(torch.nan)
    steps, *shape = values.shape
    if track.is_addressed:
        field_name = track.kind.removeprefix("query.")
        names: Any = getattr(part, "field_names", lambda *_: [])
        yield from _of_heads(
            name,
            values,
            scene.heads(part, shape[0]),
            list(names(field_name, shape[-1])),
            start,
            note,
        )
    elif not shape or (len(shape) == 1 and shape[0] not in (slots, 0) and shape[0] <= MOST_LINES):
        flat = values.reshape(steps, -1)
        yield lines(name, flat, _numbers(flat.shape[1], name), start, note)
    elif len(shape) == 1 and (shape[0] == slots or _is_share(values)):
        images = values.unsqueeze(0)
        of_slots = scene.slots(part, shape[0])
        yield Heads(name, images, [name], of_slots, start=start, note=note, role="other")
    elif len(shape) == 1:
        yield from strip(name, values, start, note)
    elif len(shape) == 2 and shape[0] == shape[1] == (slots or shape[0]) > 1:
        rows, columns = ("written after", "this slot") if track.kind == "link" else ("slot", "slot")
        yield Square(name, values, rows, columns, start, note)
    elif len(shape) == 2 and shape[1] == slots and slots:
        heads = [f"{name} {head + 1}" for head in range(shape[0])]
        yield Heads(name, values.transpose(0, 1), heads, start=start, note=note, role="other")
    elif len(shape) == 2:
        heads = [f"head {head + 1}" for head in range(shape[0])]
        names = getattr(part, "field_names", lambda *_: [])
        if shape[0] == 1 and shape[1] > 1:
            heads = [SINGLE]
        yield from _of_heads(name, values, heads, list(names(track.kind, shape[1])), start, note)


def _of_heads(
    name: str, values: Tensor, heads: list[str], names: list[str], start: int, note: str
) -> Iterator[Panel]:
    """Panels of ``[T, H, K]``: K numbers of each of H heads."""
    _, count, size = values.shape
    if size == 1:
        if count <= MOST_LINES:
            yield lines(name, values.squeeze(-1), heads, start, note)
        else:
            yield from strip(f"{name} of {count} heads", values.squeeze(-1), start, note)
        return
    names = names if len(names) == size else _numbers(size)
    if size <= MOST_LINES and count > FEW_HEADS and _is_share(values):
        yield Heads(name, values.transpose(0, 1), heads, names, None, start, note, "other")
        return
    for head, title in enumerate(heads):
        whole = name if title == SINGLE else f"{name} of {title}"
        if size <= MOST_LINES:
            yield lines(whole, values[:, head], names, start, note)
        elif count <= MOST_KEYS:
            yield from strip(whole, values[:, head], start, note)


def _numbers(count: int, single: str = "") -> list[str]:
    """Names of some numbers."""
    return [single] if single and count == 1 else [str(number + 1) for number in range(count)]


def _is_share(values: Tensor) -> bool:
    known = values[~values.isnan()]
    return bool(((known >= 0) & (known <= 1)).all())


def lines(name: str, values: Tensor, labels: list[str], start: int, note: str = "") -> Lines:
    """Lines ``[T, K]``, with an axis from 0 to 1 where all numbers lie within."""
    # An axis from 0 to 1 for gates and probabilities.
    low, high = (0.0, 1.0) if _is_share(values) else (None, None)
    if low is None and bool((values[~values.isnan()] >= 0).all()):
        low = 0.0
    return Lines(name, values, labels, start, low, high, note)


def strip(
    name: str, values: Tensor, start: int, note: str = "", wrong: Tensor | None = None
) -> Iterator[Strip]:
    """A strip of colours, unless it would be too wide."""
    if values.shape[0] == 0 or not 0 < values.shape[1] <= MOST_NUMBERS:
        return
    known = values[~values.isnan()]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low < 0:
        low, high = -max(-low, high), max(-low, high)
    yield Strip(name, values, start, low, high if high > low else low + 1, wrong, note)


def _joined(several: list[Lines]) -> Iterator[Lines]:
    """Lines of the same name and steps as one panel."""
    groups: dict[tuple[int, int], list[Lines]] = {}
    for panel in several:
        groups.setdefault((panel.start, panel.steps), []).append(panel)
    for group in groups.values():
        labels = [label for panel in group for label in panel.labels]
        if len(group) == 1 or len(labels) > MOST_LINES or len(set(labels)) < len(labels):
            yield from group
            continue
        values = torch.cat([panel.values for panel in group], 1)
        note = _text([panel.note for panel in group])
        yield lines(group[0].name, values, labels, group[0].start, note)


def _text(notes: Iterable[str]) -> str:
    """Notes, each line of them once."""
    lines = [line for note in notes for line in note.split("\n") if line]
    return "\n".join(dict.fromkeys(lines))


def spaced(name: str) -> str:
    """``CrossAttention`` as ``cross attention``; an acronym stays."""
    parts = re.findall(r"[A-Z][a-z]+|[A-Z]+(?![a-z])|[a-z]+|\d+", name)
    return " ".join(part if part.isupper() else part.lower() for part in parts) or name


def of_tape(tape: Recorded, sequence: int = 0, title: str = "") -> Page:
    """Page of one sequence of a tape: all that was recorded, part by part.

    The steps are those of each part, counted from 0; parts that take other steps than a memory,
    such as the encoder of a source, have steps of their own. A run with interventions stands beside
    the one without.

    Args:
        tape: the tape.
        sequence: number of the sequence in the batch.
        title: of the page; the class of the model by default.

    Raises:
        ValueError: nothing was recorded, or there is no such sequence.
    """
    first = tape.original or tape
    names = ["as it ran", *([] if first is tape else [_described(tape.interventions)])]
    runs = [
        Run(name, panels(each, sequence)) for name, each in zip(names, (first, tape), strict=False)
    ]
    if len(runs) == 2:
        runs[1] = compared(runs[0], runs[1])
    steps = max(panel.start + panel.steps for run in runs for panel in run.panels)
    whole = title or (type(tape.model).__name__ if tape.model is not None else "a run")
    shown = Example(f"sequence {sequence}", [f"step {step}" for step in range(steps)], runs)
    return Page(whole, [shown])


def _described(interventions: Sequence[Intervention]) -> str:
    return "; ".join(each.describe() for each in interventions) or "again, without changes"


def compared(run: Run, other: Run) -> Run:
    """A run with the first step at which it differs from another one."""
    before = {panel.name: panel for panel in run.panels}
    steps = [
        panel.start + step
        for panel in other.panels
        if panel.name in before
        for step in _differing(before[panel.name], panel)
    ]
    return replace(other, changed_from=min(steps, default=None))


def _differing(one: Panel, other: Panel) -> list[int]:
    """The first step at which two panels differ, if there is one."""
    pairs = [(getattr(one, name, None), getattr(other, name, None)) for name in _NUMBERS]
    found = []
    for (name, axis), (before, after) in zip(_NUMBERS.items(), pairs, strict=True):
        if isinstance(before, Tensor) and isinstance(after, Tensor):
            before, after = before.movedim(axis, 0), after.movedim(axis, 0)
            if before.shape != after.shape:
                found.append(0)
                continue
            same = torch.isclose(before, after, rtol=0, atol=1e-5, equal_nan=True)
            found += (~same.flatten(1).all(1)).nonzero().flatten().tolist()[:1]
        elif before is not None and after is not None and name == "values":
            found += [
                step for step, (a, b) in enumerate(zip(before, after, strict=False)) if a != b
            ][:1]
    return found


#: Fields of panels with a value for each step, and the dimension of the steps.
_NUMBERS = {"values": 0, "weights": 1, "memory": 0}
