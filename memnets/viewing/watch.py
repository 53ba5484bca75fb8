"""Pages of a model at work on the sequences of a task, or of a tape of any parts.

:func:`page` chooses sequences of test sets, and :func:`example` runs the model on one of them::

    model, task = load_run("runs/copying/ntm/version_0")
    watch.page(model, task, count=6).save("view.html")

An example has the inputs, the targets and the answer of each step, in the words, images and points
of the task, above what the parts of the model reported (:mod:`memnets.viewing.panels`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn

from memnets.batches import BEGIN, END, MARKS, Batch, feedback
from memnets.cells.attention import MultiHead
from memnets.checks import check_positive
from memnets.core import Addressing, EncoderDecoder, MemoryAccess, map_state
from memnets.training.objectives import (
    Actions,
    Bits,
    Candidates,
    Labels,
    NextToken,
    Numbers,
    Tokens,
)
from memnets.training.schedules import MemorySchedule
from memnets.viewing import trace
from memnets.viewing.interventions import Intervention
from memnets.viewing.page import (
    Drawing,
    Example,
    Grid,
    Heads,
    Images,
    Page,
    Panel,
    Places,
    Plane,
    Run,
    Strip,
)
from memnets.viewing.panels import (
    MOST_LINES,
    Scene,
    Track,
    around,
    compared,
    equation,
    lines,
    memory_of,
    panels_of,
    spaced,
    strip,
    tracks,
)
from memnets.viewing.sequences import (
    alone,
    answer_length,
    counted,
    is_classification,
    label_names,
    moved,
    plain,
    prefixes,
    title_of,
    words,
)
from memnets.viewing.what_if import standard

__all__ = ["LONGEST", "WatchTest", "WhatIf", "example", "of_batch", "page"]

#: Most steps of an example.
LONGEST = 1000
#: Word for a step at which nothing is asked.
_SILENT = "·"
#: Most sentences of a story that are told above it.
MOST_SENTENCES = 30
#: Most sequences of a test set that are answered to find wrong answers.
MOST_ANSWERED = 64

#: Examples of a page that run once more with standard changes.
WhatIf = Literal["none", "first", "all"]


def example(
    model: Any,
    task: Any,
    batch: Batch,
    row: int = 0,
    answer: Tensor | None = None,
    title: str = "",
    what_if: bool = False,
    changes: Sequence[Sequence[Intervention]] = (),
    known: bool = True,
) -> Example:
    """Run a model on one sequence of a task, and show what its parts did.

    A model that answers in tokens gets its own answer as inputs, as in a test; one that plays gets
    its own actions and their rewards; others get the inputs of the task. The source is on the time
    line if parts of the model take a step for each of its steps; else it is there as the slots of
    the attention. The hops of a memory network are the steps of its answer.

    Args:
        model: the model, in evaluation mode.
        task: its task; it gives the words, images and points.
        batch: a batch of the task.
        row: number of the sequence in the batch.
        answer: the model's answer to the sequence in a test, ``[T]`` or ``[T, O]``; ``None`` = the
            model answers now.
        title: of the example.
        what_if: whether further runs have standard changes (:mod:`memnets.viewing.what_if`); those
            that this run does not allow are left out.
        changes: interventions of your own, each list of which makes one more run.
        known: whether the targets of the batch are right answers; else they are not shown.

    Raises:
        ValueError: the sequence is longer than :data:`LONGEST` steps, or the model has nothing to
            show of this task.
    """
    one = alone(batch, row)
    if not isinstance(model, EncoderDecoder):
        return _drawn(model, task, batch, row, title)
    length = one.source.shape[1] + one.targets.shape[1]
    if length > LONGEST and one.source.dim() != 4:
        raise ValueError(f"an example may have at most {LONGEST} steps; got {length}")
    with torch.no_grad():
        said = None if answer is None else answer.unsqueeze(0)
        return _Watched(model, task, one, said, known).example(title, what_if, changes)


@dataclass(frozen=True)
class _Segment:
    """Some steps of the time line.

    Attributes:
        name: of a step, such as ``"input"``.
        steps: names of the steps.
    """

    name: str
    steps: list[str]


class _Watched:
    """One sequence on which a model was watched.

    Args:
        model: the model.
        task: its task.
        one: a batch of one sequence, without padding.
        answer: the model's answer, ``[1, T]`` or ``[1, T, O]``; ``None`` = it answers now.
        known: whether the targets are right answers.
    """

    def __init__(
        self, model: Any, task: Any, one: Batch, answer: Tensor | None, known: bool = True
    ) -> None:
        self.model, self.task, self.one = model, task, one
        self.objective = model.objective
        # The targets of a language model are its own text.
        self.known = known = known or isinstance(self.objective, NextToken)
        there = moved(one, model)
        if answer is None and known:
            (answer, _), *_ = self.objective.examine(model, there).values()
        elif answer is None:
            answer = self.objective.respond(model, there)
        self.answer = plain(answer.cpu())
        if isinstance(self.objective, Tokens):
            limit = model.longest_answer(one.source.shape[1])
            self.answer = self.answer[:, : max(1, answer_length(self.answer[0], limit))]
        else:
            self.answer = self.answer[:, : one.targets.shape[1]]
        self.source, self.there = there.source, there
        self.rewards = there.rewards
        self.inputs = there.inputs
        self.is_changed = False
        with trace.record(model, kinds=None) as tape:
            state = tape.run(self._encode)
            split = len(tape.events)
            self.logits = tape.run(self._decode, state)
        self.tape = tape
        self.is_changed = True
        head = trace.Tape(model)
        head.events = tape.events[:split]
        #: Steps of each track while the model read the source.
        self.before = {(each.part, each.kind): len(each.steps) for each in tracks(head, None)}
        self.asked = task.asked_words(one, 0)
        self.words, self.targets = words(task, one)
        if one.targets.dim() == 2 and not one.targets.is_floating_point():
            self.targets = self._where_asked(self._named(one.targets))
        self.slots = self._slot_names()
        self.labels = dict(model.alignments())
        self.hops = self._hops()
        self._lay_out()

    # The run.

    def _encode(self) -> Any:
        return self.model.encode_batch(self.there)

    def _decode(self, state: Any) -> Tensor:
        """Logits ``[T, O]`` of the answer; tokens and actions of the model's own are its inputs."""
        if isinstance(self.objective, Tokens):
            return self._on_its_own(state, self.answer.shape[1], self._next_token)
        if isinstance(self.objective, Actions) and self.rewards is not None:
            return self._on_its_own(state, self.inputs.shape[1], self._next_action)
        logits, _ = self.model.decode(self.inputs, state)
        return logits[0]  # type: ignore[no-any-return]

    def _on_its_own(
        self, state: Any, steps: int, following: Callable[[Tensor, int], Tensor]
    ) -> Tensor:
        """Logits of an answer, each input of which follows from the step before."""
        given = self.inputs[:, :1]
        if isinstance(self.objective, Tokens):
            given = torch.full_like(self.answer[:, :1], BEGIN).to(self.source.device)
        found = []
        for step in range(steps):
            logits, state = self.model.decode(given, state)
            found.append(logits[0, -1])
            given = following(logits[0, -1], step)
        return torch.stack(found)

    def _next_token(self, logits: Tensor, step: int) -> Tensor:
        """The answer's token in the first run, perhaps of a search; then the likeliest."""
        token = logits.argmax() if self.is_changed else self.answer[0, step]
        return token.to(logits.device).view(1, 1)

    def _next_action(self, logits: Tensor, step: int) -> Tensor:
        assert self.rewards is not None
        action = logits.argmax(-1).view(1)
        return feedback(action, self.rewards[:, step]).unsqueeze(1).to(self.inputs.dtype)

    # The time line.

    def _slot_names(self) -> list[str]:
        inputs = self._input_words() or [str(step + 1) for step in range(self.inputs.shape[1])]
        return list(self.model.slot_names(self.words, inputs))

    def _input_words(self, answer: Tensor | None = None) -> list[str]:
        """A word for each input of the answer, if inputs are tokens."""
        single = is_classification(self.model, self.one)
        if self.inputs.dim() != 2 or self.inputs.is_floating_point() or single:
            return []
        inputs = self.inputs.cpu()
        if self.task.fed_source:
            return words(self.task, self.one._replace(source=inputs))[0]
        if isinstance(self.objective, Tokens):
            said = self.answer if answer is None else answer
            inputs = torch.cat([torch.full_like(said[:, :1], BEGIN), said[:, :-1]], 1)
        return self._named(inputs)

    def _named(self, tokens: Tensor) -> list[str]:
        """A word for each token of ``[1, T]``; a task's own words may leave marks out."""
        known: dict[int, str] = {}
        for token in tokens[0].tolist():
            if token not in known:
                single = self.one._replace(targets=torch.tensor([[token]]), target_mask=None)
                try:
                    said = words(self.task, single)[1]
                except (IndexError, ValueError):  # a model may answer what the task has no name for
                    said = []
                known[token] = said[0] if said else MARKS.get(token, str(token))
        return [known[token] for token in tokens[0].tolist()]

    def _where_asked(self, said: list[str]) -> list[str]:
        """Words of targets or of an answer; a dot where nothing is asked."""
        if self.one.target_mask is None:
            return said
        asked = self.one.target_mask[0].tolist()
        return [word if step else _SILENT for word, step in zip(said, asked, strict=False)]

    def _hops(self) -> list[nn.Module]:
        """Addressings that read one after the other for a single answer."""
        seen = {event.part for event in self.tape.events}
        parts = [part for part in self.labels.values() if part in seen]
        sentences = self.one.source.dim() > 2 and not self.one.source.is_floating_point()
        if not sentences or not self.asked or (self.one.source.dim() == 4 and not parts):
            return []
        return parts if self.one.targets.shape[1] == 1 else []

    def _lay_out(self) -> None:
        """Segments of the time line: the source, other steps of the reading, then the answer."""
        whole = tracks(self.tape, None)
        counts: dict[int, nn.Module] = {}
        after: dict[int, nn.Module] = {}
        for track in whole:
            if track.part in self.hops:
                continue
            read = self.before.get((track.part, track.kind), 0)
            if read:
                counts.setdefault(read, track.part)
            if len(track.steps) > read:
                after.setdefault(len(track.steps) - read, track.part)
        said = self._said_words()
        answers = max(len(said), len(self.targets) if self.known else 0, 1)
        source = self.words if self.one.source.dim() != 4 else []
        self.segments: list[tuple[str, int, _Segment]] = []
        self.reads = is_classification(self.model, self.one)
        length = len(source) or self.one.source.shape[1]
        # Without any part that tells of itself, inputs and answers are all that there is to see.
        unseen = not whole and self.one.source.dim() != 4
        pairs = bool(self.asked) and not self.hops
        if length in counts or unseen or pairs or (self.reads and self.one.source.dim() == 2):
            named = self.task.labels(self.one, 0) is not None
            name = "input" if self.task.images(self.one, 0) is None else "example"
            steps = [f"{name} {n + 1}" + (f": {w}" if named else "") for n, w in enumerate(source)]
            self._add("read", length, name, steps)
        for count, part in counts.items():
            if count != length:
                self._add_own("read", count, part)
        if self.hops:
            steps = [f"hop {hop + 1}" for hop in range(len(self.hops))]
            self._add("hops", len(self.hops), "hop", steps)
            answers = 0
        elif self.asked and len(self.asked) == 1 and len(self.asked[0]) in after:
            asked = self.asked[0]
            steps = [f"hypothesis {n + 1}: {word}" for n, word in enumerate(asked)]
            self._add("say", len(asked), "hypothesis", steps)
        there = [count for kind, count, _ in self.segments if kind == "say"]
        there += [count for kind, count, _ in self.segments if kind == "read" and self.asked]
        for count, part in after.items():
            if count > answers and count not in there:
                self._add_own("say", count, part)
        #: Parts that read both the source and an input that is a sentence.
        self.twice = {
            track.part
            for track in whole
            if pairs and 0 < self.before.get((track.part, track.kind), 0) < len(track.steps)
        }
        self.split = sum(count for _, count, _ in self.segments)
        if self.hops:
            self.split = 0
        if answers:
            named = not isinstance(self.objective, Bits | Numbers)
            names = [
                f"answer {step + 1}" + (f": {said[step]}" if named and step < len(said) else "")
                for step in range(answers)
            ]
            self._add("answer", answers, "answer", names)
        self.steps = [name for _, _, segment in self.segments for name in segment.steps]

    def _add(self, kind: str, count: int, name: str, steps: list[str]) -> None:
        steps = steps or [f"{name} {step + 1}" for step in range(count)]
        self.segments.append((kind, count, _Segment(name, steps)))

    def _add_own(self, kind: str, count: int, part: nn.Module) -> None:
        """Steps that a part takes by itself, such as the reads of a set, or the places of a map."""
        title = self._titles()[part]
        self._add(kind, count, title, [f"{title}: step {step + 1}" for step in range(count)])

    def _begin(self, kinds: Sequence[str], count: int) -> int | None:
        """Step of the time line at which the segment with so many steps begins."""
        first = 0
        for kind, steps, _ in self.segments:
            if kind in kinds and steps == count:
                return first
            first += steps
        return None

    def start(self, track: Track) -> int | None:
        """See :class:`~memnets.viewing.panels.Scene`."""
        if track.part in self.hops:
            return None
        read = min(self.before.get((track.part, track.kind), 0), len(track.steps))
        after = len(track.steps) - read
        begin = self._begin(["read"], read) if read else None
        if not after:
            return begin
        kinds = ["say", "read"] if track.part in self.labels.values() else ["read", "say"]
        kinds = ["say"] if read else kinds
        say = self._answer_start if after <= self._answers else self._begin(kinds, after)
        if read:
            return begin if begin is not None and begin + read == say else None
        return say

    @property
    def _answer_start(self) -> int:
        return sum(count for kind, count, _ in self.segments if kind != "answer")

    @property
    def _answers(self) -> int:
        return sum(count for kind, count, _ in self.segments if kind == "answer")

    # Names.

    def _titles(self) -> dict[nn.Module, str]:
        """A title for each part: its label among the alignments, or its kind and number."""
        found: dict[nn.Module, str] = {part: label for label, part in self.labels.items()}
        kinds: dict[str, list[nn.Module]] = {}
        for part in dict.fromkeys(event.part for event in self.tape.events):
            name = self.tape.names[part]
            if part in found:
                continue
            if isinstance(part, Addressing) and "." not in name:
                found[part] = name.replace("_", " ")
                continue
            memory = memory_of(self.tape, part)
            if memory is not None and memory is not part:
                found[part] = f"{spaced(type(memory).__name__)} {name.rpartition('.')[2]}"
                continue
            # An addressing goes by the layer that it is in.
            owners = [
                each
                for each in around(self.tape, part)
                if not isinstance(each, Addressing | MultiHead | MemoryAccess) or each is part
            ]
            owner = next((each for each in owners if not isinstance(each, Addressing)), part)
            kinds.setdefault(spaced(type(owner).__name__), []).append(part)
        for kind, parts in kinds.items():
            for number, part in enumerate(parts, 1):
                found[part] = f"{kind} {number}" if len(parts) > 1 else kind
        return found

    def slot_names(self, part: nn.Module, count: int) -> list[str]:
        """See :class:`~memnets.viewing.panels.Scene`."""
        if self.task.labels(self.one, 0) is None or part in self.twice:
            return []
        aligned = part in self.labels.values()
        if self.one.source.dim() == 4 and aligned:
            return []  # places of an image
        if self.task.images(self.one, 0) is not None and not aligned:
            # Classes, rather than examples.
            size = self.logits.shape[-1]
            return label_names(self.task, self.one, size) if count == size else []
        inputs = self._input_words()
        if aligned:
            if len(self.words) <= count <= len(self.slots):
                named = self.slots[:count]
                # A query that is a step of its own sees itself behind the source.
                own = count == len(self.words) + 1 < len(self.slots) and not inputs
                return [*named[:-1], "itself"] if own else named
            return self.slots if count == len(self.slots) else []
        # Of a pair, what is no alignment reads the other sentence.
        candidates = [] if self.hops else list(self.asked)
        candidates += [self.slots, self.words, [*self.words, *inputs]]
        candidates += [["start", *self.words, *inputs], inputs, ["start", *self.words]]
        candidates += [["start", *inputs]]
        return next((list(names) for names in candidates if len(names) == count), [])

    def places(self, part: nn.Module, slots: int, steps: int) -> Places | None:
        """See :class:`~memnets.viewing.panels.Scene`."""
        source = self.one.source[0]
        images = self.task.images(self.one, 0)
        if images is not None and slots >= len(images[0]) and part in self.labels.values():
            examples, queries = (plain(side).clamp(0, 1) for side in images)
            shown = torch.cat([examples, queries]) if steps > len(queries) else queries
            return Images(examples, shown if len(shown) == steps else None)
        if source.dim() == 3 and source.is_floating_point():
            grid = self.model.grid(*source.shape[:2])
            if grid is not None and grid[0] * grid[1] == slots:
                return Grid(plain(source).clamp(0, 1), *grid)
        if self._points() is not None and slots in (len(source), len(source) + 1):
            return Plane(plain(source))
        return None

    def _points(self) -> Any:
        """The drawing of the answer, if the source is points in the plane."""
        if self.one.source.dim() != 3 or self.one.source.shape[2] != 2:
            return None
        return self.task.drawing(self.one, 0, self.one.targets[0])

    # The example.

    def example(
        self, title: str, what_if: bool = False, changes: Sequence[Sequence[Intervention]] = ()
    ) -> Example:
        """The example, with a run for each list of interventions."""
        runs = [self._run("as it ran", self.tape, self.logits, self.answer)]
        for each in changes:
            runs.append(self._changed(runs[0], each))
        if what_if:
            begin = max(self.before.values(), default=0)
            for each in standard(self.tape, begin):
                with suppress(ValueError):
                    runs.append(self._changed(runs[0], each))
        return Example(title, self.steps, runs, self.split, self._line())

    def _run(self, name: str, tape: trace.Tape, logits: Tensor, answer: Tensor) -> Run:
        verdict, right = self._verdict(answer, logits)
        return Run(name, self._all_panels(tape, logits, answer), verdict, right)

    def _changed(self, first: Run, interventions: Sequence[Intervention]) -> Run:
        """The run once more, with changes.

        Raises:
            ValueError: the run has no such part, slot or step.
        """
        tape = self.tape.intervene(*interventions)
        logits = tape.outputs[-1]
        run = self._run(self._told(tape.interventions), tape, logits, self._answer_of(logits))
        return compared(first, run)

    def _told(self, interventions: Sequence[Intervention]) -> str:
        """Interventions in the words of the page: its steps, titles of parts, names of slots."""
        titles, parts = self._titles(), {name: part for part, name in self.tape.names.items()}
        first = {track.part: self.start(track) or 0 for track in tracks(self.tape, None)}
        told = []
        for each in interventions:
            part = parts.get(each.name)
            # A part counts its own steps.
            begin, (start, stop) = first.get(part, 0) if part else 0, each.span
            times = {"start": start + begin}
            if getattr(each, "stop", None) is not None and stop is not None:
                times["stop"] = stop + begin
            shown: Any = each
            text = (replace(shown, **times) if begin else each).describe()
            if part in titles:
                text = text.replace(each.name, titles[part])
            slot = getattr(each, "slot", None)
            event = next(
                (e for e in self.tape.events if (e.part, e.kind) == (part, "weights")), None
            )
            if slot is not None and part is not None and event is not None:
                names = self.slot_names(part, event.value.shape[-1])
                if slot < len(names):
                    text = text.replace(f"slot {slot}", f"slot {slot}, {names[slot]!r}")
            told.append(text)
        return "; ".join(told)

    def _line(self) -> str:
        """A line about the example: the sentences and the question, if there are such."""
        if self.task.labels(self.one, 0) is None or self.one.source.is_floating_point():
            return ""
        if self.hops:
            told = ". ".join(self.words[-MOST_SENTENCES:])
            return f"{told}. {_sentence(self.asked[0])}?"
        sentences = [_sentence(each) for each in (self.words, *self.asked[:1])]
        return " | ".join(each for each in sentences if each)

    def _answer_of(self, logits: Tensor) -> Tensor:
        """The answer of a run, as that of a test."""
        if isinstance(self.objective, Tokens):
            tokens = logits.argmax(-1).cpu().unsqueeze(0)
            return tokens[:, : answer_length(tokens[0], None)]
        return plain(self.objective.answer(logits.unsqueeze(0)).cpu())

    def _words_of(self, answer: Tensor) -> list[str]:
        """Words of an answer."""
        if answer.dim() == 2 and not answer.is_floating_point():
            return self._where_asked(self._named(answer))
        return words(self.task, self.one._replace(targets=answer))[1]

    def _said_words(self) -> list[str]:
        if isinstance(self.objective, Bits | Numbers):
            return [""] * self.one.targets.shape[1]
        return self._words_of(self.answer)

    def _verdict(self, answer: Tensor, logits: Tensor) -> tuple[str, bool | None]:
        """An answer in a few words, and whether it is right."""
        targets, objective = plain(self.one.targets), self.objective
        if not self.known:
            said = self._words_of(answer) if answer.dim() == 2 else []
            return " ".join(word for word in said if word != MARKS[END])[:80], None
        if isinstance(objective, Bits):
            wrong = int((answer != targets).sum())
            return ("right" if not wrong else counted(wrong, "wrong bit")), not wrong
        if isinstance(objective, Numbers):
            error = float((answer - targets).square().mean())
            return f"mean squared error {error:.4g}", None
        if isinstance(objective, NextToken):
            losses = objective.losses(logits.float().cpu().unsqueeze(0), self.one.targets)
            return f"perplexity {float(losses.mean().exp()):.4g}", None
        drawn = self.task.drawing(self.one, 0, answer[0]) if answer.dim() == 2 else None
        if drawn is not None:
            return drawn[2], drawn[2] == "right"
        if isinstance(objective, Actions) and self.one.rewards is not None:
            steps = answer.shape[1]
            brought = self.one.rewards[0, :steps].gather(-1, answer[0].unsqueeze(-1)).sum()
            return f"reward {float(brought):.4g} in {steps} steps", None
        said = self._words_of(answer)
        if isinstance(objective, Candidates):
            hit = bool(targets[0, 0, answer[0, 0].argmax()])
            return (said[0] if hit else f"{said[0]}, not {self.targets[0]}"), hit
        if len(self.targets) == 1:
            right = said[:1] == self.targets
            return (f"{said[0]}" if right else f"{said[0]}, not {self.targets[0]}"), right
        if isinstance(objective, Tokens):
            right = said == self.targets
            return ("right" if right else "wrong"), right
        asked = [pair for pair in zip(said, self.targets, strict=False) if pair[1] != _SILENT]
        matching = sum(answered == target for answered, target in asked)
        return f"{matching} of {len(asked)} right", matching == len(asked)

    def _all_panels(self, tape: trace.Tape, logits: Tensor, answer: Tensor) -> list[Panel]:
        logits = plain(logits.cpu())
        scene = Scene(tape, self._titles(), self.start, self.slot_names, self.places)
        found = [*self._strips(logits, answer), *self._hop_panel(tape)]
        if not tape.interventions:  # parts of the sentence are read without changes
            found += self._after_each_word()
        taken = {panel.name for panel in found}
        for panel in self._ordered(panels_of(tracks(tape, None), scene)):
            if panel.name in taken:
                panel = replace(panel, name=f"{panel.name} (of the model)")
            found.append(panel)
        return found

    def _ordered(self, found: list[Panel]) -> list[Panel]:
        """Alignments first, then the others in their order."""
        return sorted(found, key=lambda panel: panel.name not in self.labels)

    def _hop_panel(self, tape: trace.Tape) -> list[Panel]:
        """The weights of all hops as one panel, a hop at each step."""
        if not self.hops:
            return []
        rows = []
        for part in self.hops:
            value = next(e.value for e in tape.events if e.part is part and e.kind == "weights")
            rows.append(value[0].reshape(-1, value.shape[-1])[0])
        weights = torch.stack(rows).unsqueeze(0).float()
        names = self.slots[: weights.shape[-1]]
        names = names if len(names) == weights.shape[-1] else []
        note = equation(tape, self.hops[0], "weights")
        return [Heads("hops", weights, ["weights"], names, start=0, note=note)]

    def _strips(self, logits: Tensor, answer: Tensor) -> list[Panel]:
        """Inputs, targets and answers of the steps, and how sure the model was."""
        found: list[Panel] = []
        start = self._answer_start
        read = self._begin(["read"], len(self.words) or self.one.source.shape[1])
        if read is not None and self.one.source.dim() == 4:
            read = None
        found += self._inputs(read, start, answer)
        if isinstance(self.objective, Bits | Numbers):
            found += self._numbers(logits, start)
        else:
            found += self._labels(logits, start, answer)
        return found

    def _inputs(self, read: int | None, start: int, answer: Tensor) -> list[Panel]:
        """The input of the model at each step."""
        if self.task.images(self.one, 0) is not None:
            found: list[Panel] = []
            if read is not None:
                labels = self.words + [""] * (start - read - len(self.words))
                found.append(Strip("label of the example", labels, read))
            return found
        source = self.one.source[0]
        inputs = self._input_words(answer)
        if source.dim() == 1 and not source.is_floating_point():
            steps = self.words if read is not None else []
            if self.hops or (not steps and not inputs):
                return []
            if read is not None and read + len(steps) == start:
                return [Strip("input", [*steps, *inputs], read)]
            found = [] if read is None or not steps else [Strip("source", steps, read)]
            if inputs and len(inputs) <= self._answers:
                found.append(Strip("input", inputs, start))
            say = self._begin(["say"], len(self.asked[0])) if self.asked else None
            if say is not None:
                found.append(Strip("hypothesis", self.asked[0], say))
            return found
        if source.dim() == 2 and source.is_floating_point():
            given = self.inputs[0].cpu()
            tokens = given.dim() == 1
            values = plain(source)
            if read is None:
                return [Strip("input", inputs, start)] if inputs else []
            if not tokens and given.dim() == 2 and read + len(source) == start:
                values = torch.cat([values, plain(given)])
            found = list(strip("input" if not tokens else "source", values, read))
            if inputs:
                found.append(Strip("input", inputs, start))
            return found
        return [Strip("input", inputs, start)] if inputs and not self.hops else []

    def _numbers(self, logits: Tensor, start: int) -> list[Panel]:
        """Targets and answers that are vectors."""
        targets = plain(self.one.targets[0])
        answer = logits[: len(targets)]
        wrong = None
        if isinstance(self.objective, Bits):
            answer = answer.sigmoid()
            wrong = (answer > 0.5) != (targets > 0.5)
        found: list[Panel] = [*strip("target", targets, start)] if self.known else []
        found += strip("answer", answer, start, wrong=wrong if self.known else None)
        return found

    def _labels(self, logits: Tensor, start: int, answer: Tensor) -> list[Panel]:
        """Targets and answers in words, and the probabilities of the answers."""
        at = max(0, len(self.segments) and len(self.steps) - 1) if self.hops else start
        objective = self.objective
        chances = logits.softmax(-1)
        said = self._words_of(answer)
        found: list[Panel] = [Strip("target", self.targets, at)] if self.known else []
        if isinstance(objective, Candidates):
            wrong = torch.tensor(
                [not self._verdict(objective.answer(logits.unsqueeze(0)), logits)[1]]
            )
        else:
            right = [*self.targets, *[None] * (len(said) - len(self.targets))]
            wrong = torch.tensor(
                [a != b for a, b in zip(said, right, strict=False)], dtype=torch.bool
            )
        name = "likeliest word" if isinstance(objective, NextToken) else "answer"
        found.append(Strip(name, said, at, wrong=wrong if self.known else None))
        found += self._drawing(answer[0], start)
        if self.reads or self.hops:
            return found
        size = logits.shape[-1]
        if isinstance(objective, Labels) and not isinstance(objective, Tokens | NextToken):
            if size <= MOST_LINES:
                labels = [f"{label}" for label in label_names(self.task, self.one, size)]
                found.append(lines("probability of each answer", chances, labels, start, ""))
            return found
        if isinstance(objective, NextToken):
            picked = chances.gather(-1, self.one.targets[0].unsqueeze(-1))
            found.append(lines("probability of the target", picked, ["target"], start, ""))
        elif isinstance(objective, Tokens):
            tokens = answer[0].unsqueeze(-1)
            picked = chances[: len(tokens)].gather(-1, tokens)
            found.append(lines("probability of the answer", picked, ["answer"], start, ""))
        return found

    def _drawing(self, answer: Tensor, start: int) -> list[Panel]:
        """The answer so far in the plane."""
        drawn = self._points()
        if drawn is None:
            return []
        points, lines_right, _ = drawn
        known = {
            tuple(point): number for number, point in reversed(list(enumerate(points.tolist())))
        }

        def pairs(found: Any) -> list[tuple[int, int]]:
            joined = []
            for line in found:
                numbers = [known[tuple(point)] for point in line.tolist()]
                joined += list(pairwise(numbers))
            return joined

        caption = self.task.drawing(self.one, 0, answer)[2]
        before: list[tuple[int, int]] = []
        steps = []
        pointed = [int(token) - END - 1 for token in answer.tolist()]
        right = pairs(lines_right)
        whole = pairs(self.task.drawing(self.one, 0, answer)[1])
        for step in range(1, len(pointed) + 1):
            # Lines between points that the answer has named by now.
            named = set(pointed[:step])
            last = step == len(pointed)
            now = whole if last else [pair for pair in whole if set(pair) <= named]
            if not last and pairs_in_order(whole, pointed):
                now = [pair for pair in pairwise(pointed[:step]) if pair in whole]
            steps.append([pair for pair in now if pair not in before])
            before = [*before, *steps[-1]]
        shown = torch.from_numpy(points).float()
        return [Drawing("drawing", shown, right, steps, caption, start)]

    def _after_each_word(self) -> list[Panel]:
        """Probabilities of the labels of a sentence after each of its words."""
        if not self.reads:
            return []
        chances = plain(self.model.logits(prefixes(self.there))[:, 0].softmax(-1).cpu())
        begin = self._begin(["read"], self.one.source.shape[1])
        if begin is None or chances.shape[-1] > MOST_LINES:
            return []
        names = label_names(self.task, self.one, chances.shape[-1])
        return [lines("what the model would answer after each word", chances, names, begin, "")]


def _sentence(tokens: Sequence[str]) -> str:
    """Words as a sentence, without marks; parts of words that a vocabulary has are joined."""
    marks = {*MARKS.values(), "<s>", "</s>"}
    found = [token for token in tokens if token not in marks]
    if any("▁" in token for token in found):  # as SentencePiece marks the beginning of a word
        return "".join(found).replace("▁", " ").strip()
    return " ".join(found)


def pairs_in_order(found: Sequence[tuple[int, int]], pointed: Sequence[int]) -> bool:
    """Whether lines lead from each point that an answer names to the next one."""
    steps = set(pairwise(pointed))
    return bool(found) and sum(pair in steps for pair in found) >= len(found) - 1


def _drawn(model: Any, task: Any, batch: Batch, row: int, title: str) -> Example:
    """An image that a model has drawn, and where the places of it looked, a place at each step."""
    one = alone(batch, row)
    parts = model.alignments() if hasattr(model, "alignments") else {}
    if task.as_images(one.targets) is None:
        raise ValueError(
            f"there is nothing to watch in a {type(model).__name__} on {type(task).__name__}: it "
            "does not answer step by step, and its answers are no images"
        )
    with torch.no_grad(), trace.record(model, kinds=None) as tape:
        (answer, _), *_ = model.examine(moved(one, model)).values()
    image = task.as_images(plain(answer.cpu()))[0].clamp(0, 1)
    found: list[Panel] = []
    for label, part in parts.items():
        # A part that also sees the targets sees the answers last.
        weights = tape.calls(part)[-1][0].float()
        places, slots = weights.shape
        side, slot_side = round(places**0.5), round(slots**0.5)
        where = Grid(image, slot_side, slot_side) if slot_side**2 == slots else None
        name = f"where places looked, {label}"
        found.append(Heads(name, weights.unsqueeze(0), ["weights"], places=where))
        steps = [f"place in row {n // side + 1}, column {n % side + 1}" for n in range(places)]
    if not found:
        pixels = image.flatten(1) if image.shape[-1] == 1 else image.mean(-1)
        found = [*strip("image, row by row", pixels, 0)]
        steps = [f"row {number + 1}" for number in range(len(pixels))]
    longest = max(panel.steps for panel in found)
    if len(steps) < longest:
        steps = [f"place {number + 1}" for number in range(longest)]
    return Example(title, steps, [Run("as it ran", found)], text="an image drawn from noise")


def page(
    model: Any,
    task: Any,
    sets: Sequence[str] | None = None,
    count: int = 6,
    worst: bool = True,
    what_if: WhatIf = "none",
    changes: Sequence[Sequence[Intervention]] = (),
    title: str = "",
    prepare: Callable[[str], object] | None = None,
    progress: Callable[[str], object] | None = None,
) -> Page:
    """Page of a model at work on a few sequences of its test sets.

    Args:
        model: the model; it is set to evaluation mode.
        task: its task.
        sets: names of test sets; all by default.
        count: number of sequences, at least 1; they are shared out among the sets.
        worst: whether wrong answers come first, the worst of them first; else the first sequences
            of each set.
        what_if: which examples run once more with standard changes.
        changes: interventions of your own, each list of which makes one more run of each example.
        title: of the page; names of the task and of the model by default.
        prepare: called with the name of a set before the model answers it.
        progress: called with a few words on what comes next.

    Raises:
        ValueError: there is no such set; or there is nothing to show.
    """
    check_positive(count=count)
    names = list(task.test_names())
    for name in sets or []:
        if name not in names:
            others = "; others are in the page of memnets test --ckpt_path <run> --view 6 "
            others += "--data.test_sets=<sets>"
            raise ValueError(
                f"expected a test set, {', '.join(names)}; got {name}"
                + others * hasattr(task, "test_sets")
            )
    model.eval()
    tell = progress or (lambda text: None)
    chosen: list[tuple[float, str, Batch, int, Tensor]] = []
    notes: list[str] = []
    sets = list(sets or names)
    for order, name in enumerate(sets):
        if order >= count:
            notes.append(f"{len(sets) - count} more test sets: {', '.join(sets[count:])}")
            break
        share = count // len(sets) + (order < count % len(sets))
        if prepare is not None:
            prepare(name)
        tell(f"answers to {title_of(name)}")
        few, left_out = _few(model, task, name, max(share, 1), worst)
        chosen += [(bad, name, batch, row, answer) for bad, batch, row, answer in few]
        if left_out:
            longer = f"{left_out} sequences are longer than {LONGEST} steps and left out"
            notes.append(f"{title_of(name)}: {longer}")
    if worst:
        chosen.sort(key=lambda each: -min(each[0], 1.0))
    found = []
    for number, (_, name, batch, row, answer) in enumerate(chosen):
        if prepare is not None:
            prepare(name)
        tell(f"{title_of(name)}, sequence {row + 1}")
        label = f"{title_of(name)}, sequence {row + 1}"
        more = what_if == "all" or (what_if == "first" and number == 0)
        found.append(example(model, task, batch, row, answer, label, more, changes))
    if not found:
        raise ValueError(f"there is nothing to show: {'; '.join(notes) or 'no sequences'}")
    whole = title or f"{type(task).__name__}, {type(model).__name__}"
    return Page(whole, found, notes=notes)


def of_batch(
    model: Any,
    task: Any,
    batch: Batch,
    what_if: WhatIf = "none",
    changes: Sequence[Sequence[Intervention]] = (),
    title: str = "",
    count: int | None = None,
    known: bool = True,
) -> Page:
    """Page of a model at work on the sequences of a batch, such as a user's own inputs.

    Args:
        model: the model; it is set to evaluation mode.
        task: the task of the batch.
        batch: the batch.
        what_if: as in :func:`page`.
        changes: as in :func:`page`.
        title: of the page.
        count: most sequences; all by default.
        known: whether the targets of the batch are right answers; else they are not shown.
    """
    model.eval()
    found = []
    for row in range(min(len(batch.source), count or len(batch.source))):
        label = f"sequence {row + 1}" if known else f"input {row + 1}"
        more = what_if == "all" or (what_if == "first" and row == 0)
        found.append(example(model, task, batch, row, None, label, more, changes, known))
    return Page(title or f"{type(task).__name__}, {type(model).__name__}", found)


class WatchTest(lightning.Callback):
    """After a test, write a page of a few sequences, ``view.html``.

    Args:
        folder: folder of the page.
        count: number of sequences, at least 1.

    Raises:
        ValueError: the count is out of its range.
    """

    def __init__(self, folder: Path, count: int) -> None:
        if count < 0:
            raise ValueError(f"view must be at least 0; got {count}")
        self.folder = folder
        self.count = count

    def on_test_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Write the page; if that fails, say why, and go on."""
        if not trainer.is_global_zero:
            return

        def prepare(name: str) -> None:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, MemorySchedule):
                    callback.prepare(trainer, pl_module, name)

        task: Any = trainer.datamodule  # type: ignore[attr-defined]
        try:
            made = page(pl_module, task, count=self.count, what_if="first", prepare=prepare)
            made.save(self.folder / "view.html")
        except Exception as error:
            print(f"No page was written: {type(error).__name__}: {error}")


def _few(
    model: Any, task: Any, name: str, count: int, worst: bool
) -> tuple[list[tuple[float, Batch, int, Tensor]], int]:
    """Sequences of a test set with how bad their answers are, and how many were too long."""
    whole = task.batch(name, 0)
    fitting = [row for row in range(len(whole.source)) if _steps(whole, row) <= LONGEST]
    left_out = len(whole.source) - len(fitting)
    if not fitting:
        return [], left_out
    rows = fitting[: MOST_ANSWERED if worst else count]
    batch = map_state(lambda part: part[rows], whole)
    with torch.no_grad():
        (answers, scores), *_ = model.examine(moved(batch, model)).values()
    bad = _badness(scores, len(answers))
    order = sorted(range(len(rows)), key=lambda row: -bad[row]) if worst else range(len(rows))
    return [
        (bad[row], whole, rows[row], answers[row].cpu()) for row in list(order)[:count]
    ], left_out


def _steps(batch: Batch, row: int) -> int:
    """Steps of a sequence on a time line, at most."""
    if batch.source.dim() == 4:
        return batch.targets.shape[1]
    one = alone(batch, row)
    return one.source.shape[1] + one.targets.shape[1]


def _badness(scores: dict[str, Tensor], count: int) -> list[float]:
    """Badness of each answer, more than 0 for a wrong one."""
    for name, sign in (
        *(("wrong_bits", 1), ("exact", -1), ("accuracy", -1), ("hits", -1)),
        *(("error", 1), ("nats", 1), ("loss", 1), ("hinge", 1)),
    ):
        if name in scores:
            values = scores[name].double().cpu()
            return (values if sign > 0 else 1 - values).tolist()
    return [0.0] * count
