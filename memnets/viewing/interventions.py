"""Interventions: changes of a recorded run from some step on, to see what depends on what.

Example::

    with mn.record(model, kinds=None) as tape:
        model.logits(batch)
    other = tape.intervene(Overwrite("body.access", slot=3, start=12))
    tape.outputs, other.outputs              # both answers
    other.interventions[0].describe()        # "at step 12: slot 3 of body.access is wiped"

Steps count from 0, over the whole run, for each part on its own: for a cell, its steps so far; for
an addressing, the queries of a head so far, whether they came in one call or in many. So step t of
an intervention is the event with ``event.step == t`` of a part that takes its steps one by one.

A sequence that skips a step (mask False) keeps its state, and so loses a change of the state in
that step.
"""

from __future__ import annotations

import dataclasses
import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from memnets import functional
from memnets.core import Addressing, Cell, Memory, map_state

__all__ = ["Changes", "Freeze", "Hide", "Intervention", "Overwrite", "Site", "Swap", "Weights"]

#: A number, or a number for each place: of a slot, of a field, of all slots.
Numbers: TypeAlias = float | Sequence[float] | Tensor


@dataclass(frozen=True)
class Intervention(ABC):
    """Base class for changes of a run, see :mod:`memnets.viewing.interventions`.

    Attributes:
        part: the part to change, or its name in the model.
    """

    part: nn.Module | str

    #: Classes of the parts that it can change, and their names in messages.
    fits: ClassVar[tuple[type, ...]] = (Addressing,)
    nouns: ClassVar[tuple[str, str]] = ("an addressing", "addressings")

    @property
    def name(self) -> str:
        """Name of the part; of its class, if the part itself was given; or "the model"."""
        name = self.part if isinstance(self.part, str) else type(self.part).__name__
        return name or "the model"

    @property
    @abstractmethod
    def span(self) -> tuple[int, int | None]:
        """First step of the change, and the step before which it ends; ``None`` = no end."""

    @abstractmethod
    def describe(self) -> str:
        """The change in a few plain words."""

    @abstractmethod
    def change(self, kind: str, value: Any, site: Site) -> Any:
        """Change a value that the part offers.

        Args:
            kind: kind of the value, see :mod:`memnets.events`.
            value: the value.
            site: where the run stands.

        Returns:
            The value to use; the same object for no change.

        Raises:
            ValueError: the value has no such slot, head, sequence or field.
        """

    def _when(self) -> str:
        start, stop = self.span
        if stop == start + 1:
            return f"at step {start}"
        return f"from step {start} on" if stop is None else f"in steps {start} to {stop - 1}"

    def _check_span(self) -> None:
        start, stop = self.span
        for name, step in (("start", start), ("stop", stop)):
            if step is not None and (isinstance(step, bool) or not isinstance(step, int)):
                raise ValueError(f"{name} must be a whole number; got {step!r}")
        if start < 0:
            raise ValueError(f"start must be at least 0; got {start}")
        if stop is not None and stop <= start:
            raise ValueError(f"stop must be more than start = {start}; got {stop}")


@dataclass(frozen=True)
class _OfHeads(Intervention):
    """A change of an addressing or a cell: of some heads, in some sequences of the batch.

    Attributes:
        part: the addressing, or its name.
        head: number or name of the head; ``None`` = all heads.
        sequence: number of the sequence in the batch; ``None`` = all.
        start: first step of the change.
        stop: step before which it ends; ``None`` = the end of the run.
    """

    head: int | str | None = dataclasses.field(default=None, kw_only=True)
    sequence: int | None = dataclasses.field(default=None, kw_only=True)
    start: int = dataclasses.field(default=0, kw_only=True)
    stop: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._check_span()

    @property
    def span(self) -> tuple[int, int | None]:
        """See :attr:`Intervention.span`."""
        return self.start, self.stop

    def _whose(self) -> str:
        head = "" if self.head is None else f"head {self.head} of "
        where = "" if self.sequence is None else f", in sequence {self.sequence}"
        return f"{head}{self.name}{where}"


@dataclass(frozen=True)
class Weights(_OfHeads):
    """Replace weights, or force an address: the head looks at one slot alone.

    Attributes:
        part: the addressing, or its name.
        slot: the slot that gets all the weight; or
        weights: the weights, N numbers that are at least 0 and sum to at most 1.
        head: number or name of the head; ``None`` = all heads.
        sequence: number of the sequence in the batch; ``None`` = all.
        start: first step of the change.
        stop: step before which it ends; ``None`` = the end of the run.

    Raises:
        ValueError: there are both a slot and weights, or neither; weights that are negative or
            sum to more than 1; steps out of order.
    """

    slot: int | None = None
    weights: Numbers | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.slot is None) == (self.weights is None):
            raise ValueError("Weights needs either a slot or weights")
        if self.slot is not None:
            _check_index("slot", self.slot)
            return
        numbers = torch.as_tensor(self.weights, dtype=torch.float64)
        if numbers.dim() != 1:
            raise ValueError(
                f"weights must be N numbers, one a slot; got a shape of {list(numbers.shape)}"
            )
        # Rows of softmaxes in single precision sum to 1 only nearly.
        if not (numbers >= 0).all() or numbers.sum() > 1 + 1e-5:
            raise ValueError(
                "weights must be at least 0 and sum to at most 1; got a least of "
                f"{numbers.min():.4g} and a sum of {numbers.sum():.4g}"
            )

    def describe(self) -> str:
        """See :meth:`Intervention.describe`."""
        if self.slot is not None:
            return f"{self._when()}: {self._whose()} looks at slot {self.slot} alone"
        return f"{self._when()}: the weights of {self._whose()} are replaced"

    def change(self, kind: str, value: Any, site: Site) -> Any:
        """See :meth:`Intervention.change`."""
        if kind != "weights":
            return value
        chosen = site.queries(self, value.shape[:-1])
        if chosen is None:
            return value
        slots = value.shape[-1]
        if self.slot is not None:
            site.check("slot", self.slot, slots)
            wanted = nn.functional.one_hot(torch.tensor(self.slot), slots)
        else:
            wanted = torch.as_tensor(self.weights)
            if len(wanted) != slots:
                raise ValueError(
                    f"weights must be {slots} numbers at step {site.step} of {site.name!r}, one "
                    f"for each slot; got {len(wanted)}"
                )
        wanted = wanted.to(value)
        mask = None if site.memory is None else site.memory.mask
        if mask is not None:
            closed = chosen.squeeze(-1) & (~mask & (wanted > 0)).any(-1)
            if closed.any():
                place = closed.nonzero()[0].tolist()
                raise ValueError(
                    f"a slot of {self.describe()!r} is closed to sequence {place[0]} there: it is "
                    "padding, or not written yet"
                )
        return torch.where(chosen, wanted, value)


@dataclass(frozen=True)
class Hide(_OfHeads):
    """Hide a slot: the head cannot see it, and its weight goes to the other slots.

    The scores of the slot count as minus infinity, as at padding.

    Attributes:
        part: the addressing, or its name.
        slot: the slot.
        head: number or name of the head; ``None`` = all heads.
        sequence: number of the sequence in the batch; ``None`` = all.
        start: first step of the change.
        stop: step before which it ends; ``None`` = the end of the run.

    Raises:
        ValueError: the slot is no whole number of at least 0; steps out of order.
    """

    slot: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_index("slot", self.slot)

    def describe(self) -> str:
        """See :meth:`Intervention.describe`."""
        return f"{self._when()}: {self._whose()} cannot see slot {self.slot}"

    def change(self, kind: str, value: Any, site: Site) -> Any:
        """See :meth:`Intervention.change`."""
        if kind != "memory":
            return value
        chosen = site.queries(self, site.lead)
        if chosen is None:
            return value
        slots = value.keys.shape[-2]
        site.check("slot", self.slot, slots)
        device = value.keys.device
        there = torch.arange(slots, device=device) == self.slot
        mask = there.new_ones(slots) if value.mask is None else value.mask
        return value._replace(mask=mask & ~(chosen & there))


@dataclass(frozen=True)
class Freeze(_OfHeads):
    """Hold a field of a query, such as a gate, or of a cell's state, or what else a cell offers.

    Attributes:
        part: the addressing or the cell, or its name.
        field: name of the field of the query, such as ``gate``, ``strength``, ``shift`` or
            ``write_gate``; or of the state, such as ``usage``; or of what else the cell offers
            (:mod:`memnets.events`), such as ``erase``, ``free_gates`` or ``actions``. It is
            ``query`` or ``state`` where that is one tensor.
        value: the value to hold, a number or one for each place of the field's last dimension;
            ``None`` = the last value before the change: of a state, that with which step
            ``start`` begins; of all else, the value of step ``start - 1``.
        head: number or name of the head, but not of a state; ``None`` = all heads.
        sequence: number of the sequence in the batch; ``None`` = all.
        start: first step of the change.
        stop: step before which it ends; ``None`` = the end of the run.

    Raises:
        ValueError: steps out of order.
    """

    fits: ClassVar[tuple[type, ...]] = (Addressing, Cell)
    nouns: ClassVar[tuple[str, str]] = ("an addressing or a cell", "addressings and cells")

    field: str
    value: Numbers | None = None

    def describe(self) -> str:
        """See :meth:`Intervention.describe`."""
        head = "" if self.head is None else f"head {self.head} of "
        where = "" if self.sequence is None else f", in sequence {self.sequence},"
        several = self.field.endswith("s") and not self.field.endswith("ss")
        held = f"stay{'' if several else 's'} as before step {self.start}"
        if self.value is not None:
            held = f"{'are' if several else 'is'} {_shown(self.value)}"
        return f"{self._when()}: the {self.field} of {head}{self.name}{where} {held}"

    def change(self, kind: str, value: Any, site: Site) -> Any:
        """See :meth:`Intervention.change`."""
        if kind in ("memory", "weights"):
            return value
        fields = _fields(value, kind)
        tensor = fields.get(self.field)
        if not isinstance(tensor, Tensor):
            known = [name for name, each in fields.items() if isinstance(each, Tensor)]
            site.others.setdefault(id(self), {}).update(dict.fromkeys(known))
            return value
        held = (
            self._of_query(tensor, site) if kind == "query" else self._of_step(tensor, kind, site)
        )
        return value if held is tensor else _with(value, {self.field: held})

    def _of_query(self, tensor: Tensor, site: Site) -> Tensor:
        lead = site.lead
        if tensor.shape[: len(lead)] != lead:
            raise ValueError(
                f"the field {self.field!r} of {site.name!r} cannot be frozen: it has no row for "
                f"each query; its shape is {list(tensor.shape)}"
            )
        if self.value is None:
            self._check_past(site)
            last = site.row_of(tensor, self.start - 1)
            if last is not None:
                site.kept[id(self)] = last
        chosen = site.queries(self, lead)
        if chosen is None:
            return tensor
        return torch.where(chosen.to(tensor.device), self._wanted(tensor, site), tensor)

    def _of_step(self, tensor: Tensor, kind: str, site: Site) -> Tensor:
        """The field of a state, or of what else a cell offers in a step, ``[B, ...]``."""
        if self.head is not None and kind == "state":
            raise ValueError(
                f"{self.field!r} is of the state of {site.name!r}, where a head is not told from "
                "others: leave head out"
            )
        if self.value is None and kind != "state":
            self._check_past(site)
            if site.step == self.start - 1:
                site.kept[id(self)] = tensor
        chosen = site.sequences(self, tensor)
        if chosen is None:
            return tensor
        if self.head is not None:
            head = site.head(self.head, tensor.shape[1])
            heads = torch.arange(tensor.shape[1], device=tensor.device) == head
            chosen = chosen & heads.view(-1, *[1] * (tensor.dim() - 2))
        if self.value is None and kind == "state":
            site.kept.setdefault(id(self), tensor)
        return torch.where(chosen.to(tensor.device), self._wanted(tensor, site), tensor)

    def _check_past(self, site: Site) -> None:
        if self.start == 0:
            raise ValueError(
                f"nothing comes before step 0 of {site.name!r}: give the value to freeze the "
                f"{self.field} at, or a later start"
            )

    def _wanted(self, tensor: Tensor, site: Site) -> Tensor:
        if self.value is not None:
            return _numbers(f"the value of {self.field}", self.value, tensor)
        kept = site.kept[id(self)]
        if len(kept) != len(tensor):
            raise ValueError(_changed_rows(site.name, len(kept), len(tensor)))
        return kept


@dataclass(frozen=True)
class Overwrite(Intervention):
    """Wipe or overwrite a slot in the state of a cell, before a step.

    The slots are the field ``memory`` of the state, or its ``keys`` and ``values``, or the state
    itself if it is one tensor ``[B, N, W]``.

    Attributes:
        part: the cell, such as a memory with its heads, or its name.
        slot: the slot.
        value: a number, or W numbers, for the slot; 0 wipes it.
        sequence: number of the sequence in the batch; ``None`` = all.
        start: the step before which the slot is overwritten.
        hold: whether it is overwritten before each later step, too.
        stop: with ``hold``, step before which that ends; ``None`` = the end of the run.
        field: name of another field of the state, such as ``usage``; its slots are the last
            dimension if it is ``[B, N]``, else the one before the last.

    Raises:
        ValueError: the slot is no whole number of at least 0; steps out of order; ``stop`` without
            ``hold``.
    """

    fits: ClassVar[tuple[type, ...]] = (Cell,)
    nouns: ClassVar[tuple[str, str]] = ("a cell", "cells")

    slot: int
    value: Numbers = 0.0
    sequence: int | None = dataclasses.field(default=None, kw_only=True)
    start: int = dataclasses.field(default=0, kw_only=True)
    hold: bool = dataclasses.field(default=False, kw_only=True)
    stop: int | None = dataclasses.field(default=None, kw_only=True)
    field: str | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.hold, bool):
            raise ValueError(f"hold must be True or False; got {self.hold!r}")
        if self.stop is not None and not self.hold:
            raise ValueError("stop needs hold=True: without it, the slot is overwritten once")
        self._check_span()
        _check_index("slot", self.slot)

    @property
    def span(self) -> tuple[int, int | None]:
        """See :attr:`Intervention.span`."""
        return self.start, self.stop if self.hold else self.start + 1

    def describe(self) -> str:
        """See :meth:`Intervention.describe`."""
        of = "" if self.field is None else f"the {self.field} of "
        where = "" if self.sequence is None else f", in sequence {self.sequence},"
        wiped = not isinstance(self.value, Tensor) and self.value == 0
        done = "wiped" if wiped else f"overwritten with {_shown(self.value)}"
        kept = "kept " if self.hold else ""
        return f"{self._when()}: {of}slot {self.slot} of {self.name}{where} is {kept}{done}"

    def change(self, kind: str, value: Any, site: Site) -> Any:
        """See :meth:`Intervention.change`."""
        if kind != "state":
            return value
        fields = _fields(value, kind)
        if self.field is not None:
            names = [self.field]
        elif "memory" in fields:
            names = ["memory"]
        elif {"keys", "values"} <= fields.keys():
            names = ["keys", "values"]
        else:
            names = [kind]
        known = [name for name, each in fields.items() if _slotted(each)]
        vectors = isinstance(value, Tensor) and value.dim() < 3  # such as a hidden state [B, H]
        if vectors or not set(names) <= set(known):
            wanted = "slots" if self.field is None else f"slots in a field {self.field!r}"
            raise ValueError(
                f"the state of {site.name!r} has no {wanted}; its fields with slots are "
                f"{', '.join(map(repr, known)) or 'none'}"
            )
        return _with(value, {name: self._overwritten(fields[name], site) for name in names})

    def _overwritten(self, value: Any, site: Site) -> Any:
        if not isinstance(value, Tensor):
            return value._replace(
                keys=self._overwritten(value.keys, site),
                values=self._overwritten(value.values, site),
            )
        chosen = site.sequences(self, value)
        if chosen is None:
            return value
        dim = -1 if value.dim() == 2 else -2
        slots = value.shape[dim]
        site.check("slot", self.slot, slots)
        there = torch.arange(slots, device=value.device) == self.slot
        row = _numbers("the value of a slot", self.value, value if dim == -2 else value[:, :1])
        return torch.where(chosen & (there if dim == -1 else there.unsqueeze(-1)), row, value)


@dataclass(frozen=True)
class Swap(Intervention):
    """Swap the memories of two sequences of the batch, before a step.

    It swaps the whole state of the cell: of a memory with its heads the slots, where the heads are,
    and all that it keeps of its use.

    Attributes:
        part: the cell, such as a memory with its heads, or its name.
        first: number of a sequence in the batch.
        second: number of another one.
        start: the step before which they are swapped.
        field: name of the only field of the state to swap; ``None`` = the whole state.

    Raises:
        ValueError: the two sequences are the same, or no whole numbers of at least 0.
    """

    fits: ClassVar[tuple[type, ...]] = (Cell,)
    nouns: ClassVar[tuple[str, str]] = ("a cell", "cells")

    first: int = 0
    second: int = 1
    start: int = dataclasses.field(default=0, kw_only=True)
    field: str | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self._check_span()
        _check_index("first", self.first)
        _check_index("second", self.second)
        if self.first == self.second:
            raise ValueError(f"first and second must be two sequences; got {self.first} twice")

    @property
    def span(self) -> tuple[int, int | None]:
        """See :attr:`Intervention.span`."""
        return self.start, self.start + 1

    def describe(self) -> str:
        """See :meth:`Intervention.describe`."""
        what = "state" if self.field is None else self.field
        return (
            f"{self._when()}: sequences {self.first} and {self.second} swap the {what} of "
            f"{self.name}"
        )

    def change(self, kind: str, value: Any, site: Site) -> Any:
        """See :meth:`Intervention.change`."""
        if kind != "state" or not site.reached(self):
            return value
        fields = _fields(value, kind)
        if self.field is not None and self.field not in fields:
            raise ValueError(
                f"the state of {site.name!r} has no field {self.field!r} to swap; its fields are "
                f"{', '.join(map(repr, fields)) or 'none'}"
            )

        def swapped(tensor: Tensor) -> Tensor:
            for name in ("first", "second"):
                site.check("sequence", getattr(self, name), len(tensor))
            order = torch.arange(len(tensor), device=tensor.device)
            order[self.first], order[self.second] = self.second, self.first
            return functional.rows(tensor, order)

        if self.field is None:
            return map_state(swapped, value)
        return _with(value, {self.field: map_state(swapped, fields[self.field])})


class Site:
    """State of a run at a part whose values are changed.

    Args:
        name: name of the part in the model.
        heads: names of the heads of an addressing whose queries are heads; empty for one whose
            queries are steps.

    Attributes:
        step: number of steps of the part before those at hand.
        taking: number of steps at hand.
        lead: ``[*B, Q]``, the shape of the queries at hand.
        memory: the memory that the addressing is about to address.
        kept: what an intervention has seen earlier, by its ``id``.
        done: ``id`` of each intervention that has changed something so far.
        others: names of fields that a :class:`Freeze` found in place of its own, by its ``id``.
        rows: number of sequences that interventions of single sequences have met.
    """

    def __init__(self, name: str, heads: Sequence[str]) -> None:
        self.name = name
        self.heads = list(heads)
        self.step = 0
        self.taking = 0
        self.lead = torch.Size()
        self.memory: Memory | None = None
        self.kept: dict[int, Tensor] = {}
        self.done: set[int] = set()
        self.others: dict[int, dict[str, None]] = {}
        self.rows: int | None = None

    def check(self, noun: str, number: int, count: int) -> None:
        """Check that there is such a slot, head or sequence.

        Raises:
            ValueError: there is not.
        """
        if not 0 <= number < count:
            there = f"there are {count}, 0 to {count - 1}" if count else "there are none"
            raise ValueError(f"{self.name!r} has no {noun} {number} at step {self.step}: {there}")

    def reached(self, intervention: Intervention) -> bool:
        """Whether the step at hand is one of those that an intervention changes."""
        start, stop = intervention.span
        reached = start <= self.step and (stop is None or self.step < stop)
        if reached:
            self.done.add(id(intervention))
        return reached

    def sequences(self, intervention: Any, tensor: Tensor) -> Tensor | None:
        """The sequences that are changed at this step, bool, to broadcast with a tensor of a state.

        ``None`` = none is.
        """
        if not self.reached(intervention):
            return None
        chosen = torch.ones(len(tensor), dtype=torch.bool, device=tensor.device)
        if intervention.sequence is not None:
            self._check_rows(len(tensor))
            self.check("sequence", intervention.sequence, len(tensor))
            chosen = torch.arange(len(tensor), device=tensor.device) == intervention.sequence
        return chosen.view(-1, *[1] * (tensor.dim() - 1))

    def _as_heads(self, lead: Sequence[int]) -> bool:
        """Whether the queries of a call are heads at one step, and not steps of each head."""
        return bool(self.heads) and len(lead) == 2

    def steps(self, lead: Sequence[int]) -> int:
        """Number of steps that queries of the shape ``lead``, ``[*B, Q]``, stand for."""
        return 1 if self._as_heads(lead) else lead[-1]

    def queries(self, intervention: Any, lead: torch.Size) -> Tensor | None:
        """The queries that are changed, bool ``[*B, Q, 1]``; ``None`` = none is."""
        start, stop = intervention.span
        device = None if self.memory is None else self.memory.keys.device
        steps = self.step + torch.arange(self.steps(lead), device=device)
        reached = (steps >= start) & (steps < (steps[-1] + 1 if stop is None else stop))
        if not reached.any():
            return None
        self.done.add(id(intervention))
        chosen = reached.expand(lead)
        if intervention.sequence is not None:
            self._check_rows(lead[0])
            self.check("sequence", intervention.sequence, lead[0])
            rows = torch.arange(lead[0], device=device) == intervention.sequence
            chosen = chosen & rows.view(-1, *[1] * (len(lead) - 1))
        if intervention.head is not None:
            # Heads are the queries, or the dimensions between the batch and the queries.
            over = lead[1:] if self._as_heads(lead) else (*lead[1:-1], 1)
            count = torch.Size(over).numel()
            head = self.head(intervention.head, count)
            chosen = chosen & (torch.arange(count, device=device) == head).view(over)
        result: Tensor = chosen.unsqueeze(-1)
        return result

    def head(self, head: int | str, count: int) -> int:
        """Number of a head.

        Raises:
            ValueError: there is no such head.
        """
        names = self.heads if len(self.heads) == count else []
        if isinstance(head, str):
            if head not in names:
                there = ", ".join(map(repr, names)) or f"only numbered, 0 to {count - 1}"
                raise ValueError(f"{self.name!r} has no head {head!r}: its heads are {there}")
            return names.index(head)
        if not 0 <= head < count:
            named = f" ({', '.join(names)})" if names else ""
            there = f"there are {count}, 0 to {count - 1}{named}"
            raise ValueError(f"{self.name!r} has no head {head}: {there}")
        return head

    def row_of(self, tensor: Tensor, step: int) -> Tensor | None:
        """Row of a step in a field of the queries ``[*B, Q, X]``; all rows where Q are heads.

        ``None`` = the step is not at hand.
        """
        if not self.step <= step < self.step + self.steps(self.lead):
            return None
        if self._as_heads(self.lead):
            return tensor
        return tensor.narrow(len(self.lead) - 1, step - self.step, 1)

    def _check_rows(self, rows: int) -> None:
        # A search drops answers that are finished: row 2 may then be another sequence.
        if self.rows is None:
            self.rows = rows
        if self.rows != rows:
            raise ValueError(_changed_rows(self.name, self.rows, rows))


class Changes:
    """An editor that makes interventions, see :func:`memnets.events.edit`.

    Args:
        interventions: what to change, with the names of parts.
        parts: the parts of the model, by name.
        heads: names of an addressing's queries, by addressing.

    Raises:
        ValueError: the model has no such part, or a part of another kind.
    """

    def __init__(
        self,
        interventions: Sequence[Intervention],
        parts: Mapping[str, nn.Module],
        heads: Mapping[nn.Module, Sequence[str]],
    ) -> None:
        self.interventions = [_named(each, parts) for each in interventions]
        self.sites: dict[nn.Module, Site] = {}
        self._of: dict[nn.Module, list[Intervention]] = {}
        for each in self.interventions:
            assert isinstance(each.part, str)
            part = parts[each.part]
            self.sites.setdefault(part, Site(each.name, heads.get(part, [])))
            self._of.setdefault(part, []).append(each)

    def __call__(self, part: nn.Module, kind: str, value: Any) -> Any:
        """Change a value that a part offers."""
        site = self.sites[part]
        if kind in ("query", "state"):
            site.step += site.taking
            site.taking = 1
        if kind == "query":
            parts = [value] if isinstance(value, Tensor) else value
            first = next(each for each in parts if isinstance(each, Tensor))
            site.lead = first.shape[:-1]
            site.memory = None
        elif kind == "memory":
            site.memory = value
        for each in self._of[part]:
            value = each.change(kind, value, site)
        if kind == "memory":
            site.memory = value
        elif kind == "weights":
            site.taking = site.steps(value.shape[:-1])
        return value

    def check_made(self) -> None:
        """Check that each intervention has changed something.

        Raises:
            ValueError: the run has no such step, or never called the part.
        """
        sites = {site.name: site for site in self.sites.values()}
        for each in self.interventions:
            site = sites[each.name]
            if id(each) in site.done:
                continue
            if (others := site.others.get(id(each))) is not None:
                assert isinstance(each, Freeze)
                raise ValueError(
                    f"{site.name!r} has nothing of the name {each.field!r} to freeze; there is "
                    f"{', '.join(map(repr, others)) or 'nothing'}"
                )
            taken = site.step + site.taking
            why = f"it took {taken} steps" if taken else "the run never called it"
            raise ValueError(
                f"nothing would change {each.describe()!r}: {each.name!r} has no such step, {why}"
            )


def _named(intervention: Intervention, parts: Mapping[str, nn.Module]) -> Intervention:
    """The intervention with the name of its part.

    Raises:
        ValueError: the model has no such part, or a part of another kind.
    """
    if not isinstance(intervention, Intervention):
        raise TypeError(
            "tape.intervene takes interventions, such as Overwrite('body.access', slot=3); "
            f"got {intervention!r}"
        )
    fitting = [name for name, part in parts.items() if isinstance(part, intervention.fits)]
    noun, nouns = intervention.nouns
    there = f"its {nouns} are {', '.join(map(repr, fitting)) or 'none'}"
    if isinstance(intervention.part, str):
        name = intervention.part
        if name not in parts:
            near = difflib.get_close_matches(name, fitting, 1, 0.5)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"the model has no part {name!r}{meant}; {there}")
    else:
        found = [each for each, part in parts.items() if part is intervention.part]
        if not found:
            raise ValueError(
                f"the model has no such part, {type(intervention.part).__name__}; {there}"
            )
        name = found[0]
    if name not in fitting:
        kind = type(parts[name]).__name__
        raise ValueError(f"the model's part {name!r}, {kind}, is not {noun}; {there}")
    return dataclasses.replace(intervention, part=name)


def _check_index(name: str, number: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ValueError(f"{name} must be a whole number of at least 0; got {number!r}")


def _changed_rows(name: str, before: int, now: int) -> str:
    return (
        f"{name!r} has {now} sequences now and had {before} before, as a search that drops "
        "finished answers: run one sequence at a time"
    )


def _fields(value: Any, whole: str) -> dict[str, Any]:
    """Parts of a query or a state by name; the whole under a name of its own if it is a tensor."""
    if hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    if isinstance(value, dict):
        return dict(value)
    return {} if value is None else {whole: value}


def _with(value: Any, changes: dict[str, Any]) -> Any:
    """A query or a state with other values of some fields."""
    if hasattr(value, "_replace"):
        return value._replace(**changes)
    if isinstance(value, dict):
        return {**value, **changes}
    return next(iter(changes.values()))


def _slotted(value: Any) -> bool:
    """Whether a part of a state has slots: a tensor with them, or a pair of keys and values."""
    if isinstance(value, Tensor):
        return value.dim() >= 2
    return {"keys", "values"} <= set(getattr(value, "_fields", ()))


def _numbers(name: str, value: Numbers, like: Tensor) -> Tensor:
    """Numbers for the last dimension of a tensor.

    Raises:
        ValueError: they are neither one number nor one for each place.
    """
    numbers = torch.as_tensor(value).to(like)
    width = like.shape[-1]
    if numbers.dim() > 1 or (numbers.dim() == 1 and len(numbers) != width):
        several = "" if width == 1 else f" or {width} numbers"
        raise ValueError(
            f"{name} must be a number{several}; got numbers of shape {list(numbers.shape)}"
        )
    return numbers


def _shown(value: Numbers) -> str:
    """A value in a few characters."""
    numbers = torch.as_tensor(value, dtype=torch.float64)
    if numbers.dim() == 0:
        return f"{float(numbers):.4g}"
    if numbers.numel() > 4:
        return f"{numbers.numel()} numbers"
    return "(" + ", ".join(f"{number:.4g}" for number in numbers.flatten().tolist()) + ")"
