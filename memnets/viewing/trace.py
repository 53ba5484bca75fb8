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

A tape knows what was run, and can run it again with changes
(:mod:`memnets.viewing.interventions`)::

    other = tape.intervene(Overwrite("body.access", slot=3, start=12))
    tape.outputs, other.outputs              # both answers
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from memnets.core import Cell
from memnets.events import Event, edit, listen
from memnets.viewing.interventions import Changes, Intervention

if TYPE_CHECKING:
    from memnets.viewing.page import Page

__all__ = ["Tape", "record"]

#: A part of the recorded model, or its name in it.
Part: TypeAlias = nn.Module | str

#: Methods of a recorded model whose calls a tape remembers.
_METHODS = (
    *("forward", "encode", "encode_batch", "encode_placed", "decode", "decode_each", "logits"),
    *("continuations", "generate", "examine", "score", "loss", "start", "step", "unroll"),
)


class _Result(NamedTuple):
    """Stands for a tensor of an earlier call's result among the arguments of a call."""

    run: int
    place: int


class _Run(NamedTuple):
    """A call that can be made again.

    Attributes:
        function: what was called.
        arguments: its arguments, with :class:`_Result` for results of earlier calls.
        named: its named arguments, likewise.
        random: states of the random number generators before the call, by device.
        training: whether each part was in training.
        gradients: whether gradients were recorded.
        inference: whether it was in inference mode.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    random: dict[torch.device, Tensor]
    training: dict[nn.Module, bool]
    gradients: bool
    inference: bool


class Tape:
    """Recorded events; their values are detached and on the CPU.

    Args:
        model: the model whose parts are recorded.

    Attributes:
        events: all events, in order.
        names: names of the model's parts, as in ``model.named_modules()``, by part.
        heads: names of an addressing's Q queries, by addressing; a part with ``head_names`` gives
            them.
        outputs: results of the calls that were recorded, in order: of the model's methods, and of
            what :meth:`run` has called. Their tensors are detached and on the CPU.
        kinds: kinds of events that are recorded; ``None`` = all.
        interventions: what :meth:`intervene` has changed, with the names of parts; empty for a
            recording.
        original: the tape of the same run without interventions; ``None`` for a recording.
    """

    def __init__(
        self, model: nn.Module | None = None, kinds: Collection[str] | None = None
    ) -> None:
        self.model = model
        self.kinds = kinds
        self.outputs: list[Any] = []
        self.interventions: list[Intervention] = []
        self.original: Tape | None = None
        self.recording = False
        self._runs: list[_Run] = []
        self._results: list[list[weakref.ref[Tensor]]] = []
        self._depth = 0
        self._single: frozenset[nn.Module] = frozenset()
        self.events: list[Event] = []
        self.names: dict[nn.Module, str] = {}
        self.heads: dict[nn.Module, list[str]] = {}
        for name, part in [] if model is None else model.named_modules():
            self.names[part] = name
            self.heads.update(getattr(part, "head_names", dict)())

    def keep(self, event: Event) -> None:
        """Add an event."""
        self.events.append(event._replace(value=event.value.detach().cpu()))

    def run(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Call a function that runs the model, and remember the call for :meth:`intervene`.

        Calls of the model's own methods, such as ``model.logits(batch)``, need no ``run``. A search
        does, since its choices depend on what the model says::

            with trace.record(model) as tape:
                answers = tape.run(decoding.greedy, model, source)

        Args:
            function: what to call, such as :func:`memnets.decoding.greedy` or an objective's
                ``respond``.
            arguments: its arguments.
            named: its named arguments.

        Returns:
            The function's result.
        """
        return self._noted(function, function, arguments, named)

    def _noted(
        self,
        function: Callable[..., Any],
        again: Callable[..., Any],
        arguments: tuple[Any, ...],
        named: dict[str, Any],
    ) -> Any:
        """Call a function, and remember how to call it again, unless a call that is goes on."""
        if self._depth or not self.recording:
            return function(*arguments, **named)
        run = self._remember(again, arguments, named)
        self._depth += 1
        try:
            result = function(*arguments, **named)
        finally:
            self._depth -= 1
        self._runs.append(run)
        self._results.append([weakref.ref(tensor) for tensor in _tensors(result)])
        self.outputs.append(_mapped(result, lambda tensor: tensor.detach().cpu()))
        return result

    def _remember(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> _Run:
        """A call, to be made again."""
        # A state that an earlier call has returned must come from that call again.
        earlier = {
            id(tensor): _Result(run, place)
            for run, leaves in enumerate(self._results)
            for place, leaf in enumerate(leaves)
            if (tensor := leaf()) is not None
        }

        def linked(tensor: Tensor) -> Any:
            return earlier.get(id(tensor), tensor)

        return _Run(
            function,
            _mapped(arguments, linked),
            _mapped(named, linked),
            {device: _random(device) for device in self._devices()},
            {part: part.training for part in self.names},
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
        )

    def _devices(self) -> list[torch.device]:
        """Devices with random numbers that a run may draw."""
        parameters = [] if self.model is None else self.model.parameters()
        others = {each.device for each in parameters if each.device.type == "cuda"}
        return [torch.device("cpu"), *sorted(others, key=str)]

    def intervene(self, *interventions: Intervention) -> Tape:
        """Make the recorded calls again, with changes.

        The calls get the same arguments and the same random numbers; a state that an earlier call
        has returned comes from that call again. Without interventions, the result is the same, bit
        for bit, and with some it is the same before the first of their steps.

        A change of a state needs the cell's steps one by one, where it could take many at once.
        Rounding then differs, so :attr:`original` of the result is a new recording of the unchanged
        run in the same way, in place of this tape.

        Of a tape that has interventions already, they stay, and the new ones come on top.

        Args:
            interventions: what to change, see :mod:`memnets.viewing.interventions`; made in this
                order.

        Returns:
            A tape of the changed run, of the same kinds of events.

        Raises:
            ValueError: the tape knows no run or is still recording; the model has no such part,
                slot, head, sequence or field; or nothing would change, as the run has no such step.
            TypeError: an argument is no intervention.
        """
        if self.recording:
            raise ValueError("the tape is still recording: intervene after the with statement")
        if not self._runs or self.model is None:
            raise ValueError(
                "the tape does not know what was run: call a method of the recorded model, such as "
                "model.logits(batch), or tape.run(function, ...), while it records"
            )
        parts = {name: part for part, name in self.names.items()}
        changes = Changes([*self.interventions, *interventions], parts, self.heads)
        single = self._single | {part for part in changes.sites if _many_at_once(part)}
        original = self
        if single > self._single:
            original = self._again(Changes(self.interventions, parts, self.heads), single)
        tape = self._again(changes, single)
        tape.original = original
        return tape

    def _again(self, changes: Changes, single: Collection[nn.Module]) -> Tape:
        """Make the calls again with changes, on a new tape; some cells take single steps."""
        # An editor that changes nothing makes a cell take single steps.
        with edit(lambda part, kind, value: value, single), edit(changes, changes.sites):
            tape = self._repeated()
        changes.check_made()
        tape.interventions = changes.interventions
        tape._single = frozenset(single)
        return tape

    def _repeated(self) -> Tape:
        """Make the calls again, on a new tape."""
        assert self.model is not None
        results: list[list[Tensor]] = []

        def unlinked(value: Any) -> Any:
            if isinstance(value, _Result):
                return results[value.run][value.place]
            return value

        training = {part: part.training for part in self.names}
        devices = self._devices()
        cuda = [device.index for device in devices if device.type == "cuda"]
        try:
            with torch.random.fork_rng(cuda), record(self.model, self.kinds) as tape:
                for run in self._runs:
                    for device, state in run.random.items():
                        _set_random(device, state)
                    for part, mode in run.training.items():
                        part.training = mode
                    inference = torch.inference_mode() if run.inference else nullcontext()
                    with inference, torch.set_grad_enabled(run.gradients):
                        arguments = _mapped(run.arguments, unlinked, (Tensor, _Result))
                        named = _mapped(run.named, unlinked, (Tensor, _Result))
                        result = tape.run(run.function, *arguments, **named)
                    results.append(_tensors(result))
        finally:
            for part, mode in training.items():
                part.training = mode
        return tape

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

    def view(self, path: str | Path | None = None, sequence: int = 0, title: str = "") -> Page:
        """A page of all that was recorded of one sequence; a notebook shows it.

        Record all kinds of events for it, ``record(model, kinds=None)``. A tape of
        :meth:`intervene` is shown beside the run without changes.

        Args:
            path: file to write; ``None`` = none.
            sequence: number of the sequence in the batch.
            title: title of the page; the class of the model by default.

        Returns:
            The page; ``page.save("view.html")`` writes it.

        Raises:
            ValueError: nothing was recorded, or there is no such sequence.
        """
        from memnets.viewing import panels

        page = panels.of_tape(self, sequence, title)
        if path is not None:
            page.save(path)
        return page

    def plot(
        self,
        path: str | Path,
        sequence: int = 0,
        split: int = 0,
        title: str = "",
        vectors: Mapping[str, Tensor] | None = None,
    ) -> Path:
        """Draw the weights of one sequence of the batch over time, with a panel for each head.

        Args:
            path: file to write; its ending decides the format.
            sequence: number of the sequence in the batch.
            split: step at which the source ends and the answer starts, marked in the picture; 0 =
                no mark.
            title: title of the picture.
            vectors: vectors ``[T, C]`` by their names, to be drawn above the weights, such as
                inputs and outputs; NaN = none at this step.

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
        return plots.weights(panels, path, title, split, vectors)

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
    tape = Tape(model, kinds)

    def hear(event: Event) -> None:
        if event.part in tape.names and (kinds is None or event.kind in kinds):
            tape.keep(event)

    with listen(hear), _remembered(model, tape):
        yield tape


@contextmanager
def _remembered(model: nn.Module, tape: Tape) -> Iterator[None]:
    """Let a tape know the calls of the model's methods within this context."""

    def remembered(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        # ``forward`` is called by the model itself, which does more than that.
        again = model if name == "forward" else method
        return lambda *arguments, **named: tape._noted(method, again, arguments, named)

    # Attributes of this very object hide the methods of its class, for its callers and itself.
    own = vars(model)
    before = {name: own[name] for name in _METHODS if name in own}
    methods = {name: getattr(model, name) for name in _METHODS if hasattr(model, name)}
    tape.recording = True
    own.update({name: remembered(name, method) for name, method in methods.items()})
    try:
        yield
    finally:
        for name in methods:
            del own[name]
        own.update(before)
        tape.recording = False


def _many_at_once(part: nn.Module) -> bool:
    """Whether a part is a cell that does not take its steps one by one."""
    return isinstance(part, Cell) and type(part).unroll is not Cell.unroll


def _mapped(value: Any, function: Callable[[Any], Any], kinds: tuple[type, ...] = (Tensor,)) -> Any:
    """Apply a function to all values of some kinds, also within tuples, lists and dicts."""
    if isinstance(value, kinds):
        return function(value)
    if isinstance(value, (tuple, list)):
        parts = [_mapped(part, function, kinds) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return {key: _mapped(part, function, kinds) for key, part in value.items()}
    return value


def _tensors(value: Any) -> list[Tensor]:
    """All tensors, also within tuples, lists and dicts."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _mapped(value, keep)
    return found


def _random(device: torch.device) -> Tensor:
    """State of a device's random number generator."""
    if device.type == "cpu":
        return torch.get_rng_state()
    return torch.cuda.get_rng_state(device)


def _set_random(device: torch.device, state: Tensor) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state, device)
