"""Recording of the events of a model's parts: weights of its addressings, and more.

Example::

    with trace.record(model) as tape:
        model.logits(batch)
    tape.stacked(model.access.addressing)    # [*B, calls, Q, N]
    tape.stacked("body.access.addressing")   # the same part, by its name in the model
    tape.plot("weights.png")
    tape.plot_alignment("alignment.png", model.alignments(), source_words, target_words)

    with trace.record(model, kinds=["memory", "usage"]) as tape:
        model.logits(batch)
    tape.calls(model.access, "usage")        # one [B, N] for each step

:mod:`memnets.events` lists the kinds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from memnets.events import Event, listen

__all__ = ["Tape", "record"]

#: A part of the recorded model, or its name in it.
Part: TypeAlias = nn.Module | str


class Tape:
    """Recorded events; their values are detached and on the CPU.

    Args:
        model: the model whose parts are recorded.

    Attributes:
        events: all events, in order.
        names: names of the model's parts, as in ``model.named_modules()``, by part.
        heads: names of an addressing's Q queries, by addressing; a part with ``head_names`` gives
            them.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self.events: list[Event] = []
        self.names: dict[nn.Module, str] = {}
        self.heads: dict[nn.Module, list[str]] = {}
        for name, part in [] if model is None else model.named_modules():
            self.names[part] = name
            self.heads.update(getattr(part, "head_names", dict)())

    def keep(self, event: Event) -> None:
        """Add an event."""
        self.events.append(event._replace(value=event.value.detach().cpu()))

    @property
    def weights(self) -> dict[nn.Module, list[Tensor]]:
        """Weights ``[*B, Q, N]`` of each call, in order, by addressing."""
        return self._by_part("weights")

    def calls(self, part: Part, kind: str = "weights") -> list[Tensor]:
        """Values of one kind from one part, in order.

        Args:
            part: a part of the model, or its name.
            kind: kind of the events, see :mod:`memnets.events`.

        Raises:
            KeyError: there are no events of this part and kind.
        """
        recorded = self._by_part(kind)
        for each, values in recorded.items():
            if part is each or (isinstance(part, str) and part == self.names.get(each)):
                return values
        there = {f"{event.kind} of {self._name(event.part)!r}": None for event in self.events}
        raise KeyError(
            f"nothing was recorded for {kind} of {self._name(part)!r}; "
            f"there is {', '.join(there) or 'nothing'}"
        )

    def _by_part(self, kind: str) -> dict[nn.Module, list[Tensor]]:
        found: dict[nn.Module, list[Tensor]] = {}
        for event in self.events:
            if event.kind == kind:
                found.setdefault(event.part, []).append(event.value)
        return found

    def _name(self, part: Part) -> str:
        return part if isinstance(part, str) else self.names.get(part, type(part).__name__)

    def stacked(self, part: Part) -> Tensor:
        """Weights of all calls of an addressing as one tensor, ``[*B, calls, Q, N]``.

        Slots that a growing memory did not have yet have weight 0.

        Args:
            part: the addressing, or its name.

        Raises:
            KeyError: there are no weights of this addressing.
        """
        return torch.stack(self._padded(part), -3)

    def _padded(self, part: Part) -> list[Tensor]:
        """Weights of all calls of an addressing, filled up to the largest number of slots."""
        calls = self.calls(part)
        slots = max(weights.shape[-1] for weights in calls)
        return [nn.functional.pad(weights, (0, slots - weights.shape[-1])) for weights in calls]

    def over_time(self, part: Part, sequence: int = 0) -> Tensor:
        """Weights of one sequence of the batch by head and step, ``[H, T, N]``.

        The result is the same for one call with T queries and for T calls with one query. It is
        also the same for heads that are queries of one memory (``[B, Q, N]``, if the memory names
        them) and heads in the batch (``[B, H, T, N]``). Slots that a growing memory did not have
        yet have weight 0.

        Args:
            part: the addressing, or its name.
            sequence: number of the sequence in the batch.

        Raises:
            KeyError: there are no weights of this addressing.
        """
        calls = [weights[sequence] for weights in self._padded(part)]
        if self._heads(part) and calls[0].dim() == 2:
            return torch.stack(calls, 1)
        steps = torch.cat(calls, -2)
        return steps.reshape(-1, *steps.shape[-2:])

    def plot(self, path: str | Path, sequence: int = 0, split: int = 0, title: str = "") -> Path:
        """Draw the weights of one sequence of the batch over time, with a panel for each head.

        Args:
            path: file to write; its ending decides the format.
            sequence: number of the sequence in the batch.
            split: step at which the source ends and the answer starts, marked in the picture; 0 =
                no mark.
            title: title of the picture.

        Returns:
            The path.
        """
        # Imported here: matplotlib takes longer to load than the rest of the library.
        from memnets.viewing import plots

        over_time = {part: self.over_time(part, sequence) for part in self.weights}
        heads = {part: self._head_names(part, len(each)) for part, each in over_time.items()}
        # The names of the heads alone, where they tell all of them apart.
        every = [head for names in heads.values() for head in names]
        plain = len(set(every)) == len(every)
        panels = {
            head if plain else f"{self._name(part)}: {head}": image
            for part, weights in over_time.items()
            for head, image in zip(heads[part], weights, strict=True)
        }
        return plots.weights(panels, path, title, split)

    def plot_alignment(
        self,
        path: str | Path,
        parts: Mapping[str, Part],
        source_labels: Sequence[str],
        target_labels: Sequence[str],
        sequence: int = 0,
        heads: bool = False,
        title: str = "",
        across: str = "source",
        down: str = "answer",
    ) -> Path:
        """Draw the weights of one sequence of the batch while the model answered it.

        Args:
            path: file to write; its ending decides the format.
            parts: addressings by the label of their panels, such as a model's ``alignments()``.
            source_labels: a word for each of the N slots.
            target_labels: a word for each step of the answer: the last T recorded steps.
            sequence: number of the sequence in the batch.
            heads: True = a panel for each head; False = the mean of an addressing's heads.
            title: title of the picture.
            across: name of the axis of the slots.
            down: name of the axis of the steps.

        Returns:
            The path.

        Raises:
            KeyError: there are no weights of an addressing.
            ValueError: the number of labels is not that of the steps and slots.
        """
        # Imported here: matplotlib takes longer to load than the rest of the library.
        from memnets.viewing import plots

        panels: dict[str, Tensor] = {}
        columns = None
        for label, part in parts.items():
            weights = self.over_time(part, sequence)[:, -len(target_labels) :]
            if heads and len(weights) > 1:
                columns = len(weights)
                panels.update(
                    (f"{label}, {head}", image)
                    for head, image in zip(self._head_names(part, columns), weights, strict=True)
                )
            else:
                panels[label] = weights.mean(0)
        return plots.alignment(
            panels, source_labels, target_labels, path, title, columns, across, down
        )

    def _heads(self, part: Part) -> list[str]:
        """Names of the heads of an addressing; empty if it has none."""
        named = (names for each, names in self.heads.items() if part in (each, self._name(each)))
        return next(named, [])

    def _head_names(self, part: Part, count: int) -> list[str]:
        return self._heads(part) or [f"head {head + 1}" for head in range(count)]


@contextmanager
def record(model: nn.Module, kinds: Collection[str] | None = ("weights",)) -> Iterator[Tape]:
    """Record the events of a model's parts within this context.

    For a pointer's scores (:meth:`~memnets.addressing.Content.scores`) it records their weights.
    Fast twins are off meanwhile, since they may not compute the weights at all.

    Args:
        model: the model whose parts are recorded; events of other models are ignored.
        kinds: kinds of events, see :mod:`memnets.events`; weights alone by default; ``None`` = all
            kinds. Memories and links are large.
    """
    tape = Tape(model)

    def hear(event: Event) -> None:
        if event.part in tape.names and (kinds is None or event.kind in kinds):
            tape.keep(event)

    with listen(hear):
        yield tape
