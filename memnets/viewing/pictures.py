"""Pictures of a test: what a model answered, and where it looked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor

from memnets.batches import BEGIN, END, Batch, unpadded
from memnets.core import check_positive, map_state
from memnets.training.model import Model
from memnets.training.objectives import Bits, Tokens
from memnets.training.schedules import MemorySchedule
from memnets.viewing import plots, trace

__all__ = ["Pictures"]


class Pictures(lightning.Callback):
    """After a test, draw what a model answered to each test set, and where it looked.

    Where a task draws curves, these. Of binary vectors, the sequence with the most wrong bits, the
    first if none is wrong: the answer, and where the heads were. Of tokens, a few: where the model looked while it gave its own answer (Bahdanau
    et al. 2015, figure 3), for each layer the mean of its heads; or, for a machine, where the heads
    of its memory were. Where a task draws answers in the plane, the same few, beside the right
    ones. Of episodes of images, a few: which examples the queries looked at.

    The answers are those of the test (:meth:`~memnets.models.Model.test_step`). To see where it
    looked, the model reads the sequences that are drawn once more, with these answers as inputs.

    Args:
        folder: where the pictures go.
        longest: sequences and episodes whose source or target is longer are left out, but of
            curves and of binary vectors.
        longest_binary: the same for binary vectors.
        sequences: of tokens or images, how many sequences of a test set are drawn, the first of
            each of its batches before the second of any; of curves, how many panels; at least 1.
    """

    def __init__(
        self, folder: Path, longest: int = 200, sequences: int = 4, longest_binary: int = 1000
    ) -> None:
        check_positive(longest=longest, sequences=sequences, longest_binary=longest_binary)
        self.folder = folder
        self.longest = longest
        self.longest_binary = longest_binary
        self.sequences = sequences

    def on_test_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Draw."""
        if not trainer.is_global_zero:
            return
        task: Any = trainer.datamodule  # type: ignore[attr-defined]
        for name in task.test_names():
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, MemorySchedule):
                    callback.prepare(trainer, pl_module, name)
            answers = pl_module.test_answers.get(name, [])[: self.sequences]
            if not answers:
                continue
            batches: list[Batch] = [task.batch(name, index) for index in range(len(answers))]
            panels = task.curves(name, _plain(answers[0]), self.sequences)
            if panels:
                plots.curves(panels, self.folder / f"{name}_curves.png", _title(name))
                continue
            if batches[0].targets.dim() == 3:
                if isinstance(pl_module.objective, Bits) and (
                    batches[0].targets.shape[1] <= self.longest_binary
                ):
                    self.draw(pl_module, batches[0], _plain(answers[0]), name)
                continue
            drawings = []
            for number, (alone, answer) in enumerate(self._first(batches, answers)):
                file = f"{name}_{{}}_{number + 1}.png"
                if task.images(alone, 0) is not None:
                    title = f"{_title(name)}, episode {number + 1}: where the queries looked"
                    self.draw_episode(pl_module, task, alone, answer, file, title)
                    continue
                if isinstance(pl_module.objective, Tokens):
                    title = f"{_title(name)}, sequence {number + 1}"
                    self.draw_tokens(pl_module, task, alone, answer, file, title)
                drawn = task.drawing(alone, 0, answer[0])
                if drawn is not None:
                    points, lines, caption = drawn
                    _, right, _ = task.drawing(alone, 0, alone.targets[0])
                    drawings.append(plots.Drawing(points, right, lines, caption))
            if drawings:
                title = f"{_title(name)}: what was asked for, what came"
                plots.drawing(drawings, self.folder / f"{name}_drawing.png", title)

    def _first(
        self, batches: Sequence[Batch], answers: Sequence[Tensor]
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Sequences to draw, each a batch of one without padding, and its answer ``[1, T]``."""
        for number in range(self.sequences):
            batch, row = batches[number % len(batches)], number // len(batches)
            if row >= len(batch.targets):
                continue
            source = unpadded(batch.source, batch.source_mask, row)[None]
            inputs, targets = (
                unpadded(side, batch.target_mask, row)[None]
                for side in (batch.inputs, batch.targets)
            )
            if max(source.shape[1], targets.shape[1]) <= self.longest:
                answer = answers[number % len(batches)][row : row + 1]
                yield Batch(source, inputs, targets), answer

    def draw(self, model: Model, batch: Batch, answers: Any, name: str) -> None:
        """Draw the worst answer to a batch: ``<name>_answer.png`` and ``<name>_weights.png``.

        Args:
            model: in evaluation.
            batch: of binary vectors.
            answers: of the model in the test, in the form of the targets.
            name: of the test set.
        """
        wrong = (batch.targets != answers).sum(-1)
        if batch.target_mask is not None:
            wrong = wrong.masked_fill(~batch.target_mask, 0)
        row = int(wrong.sum(1).argmax())
        worst = _moved(map_state(lambda part: part[row : row + 1], batch), model)
        with torch.no_grad(), trace.record(model) as tape:
            probabilities = model.logits(worst)[0].sigmoid()
        bits = int(wrong[row].sum())
        plots.answer(
            worst.targets[0],
            probabilities,
            self.folder / f"{name}_answer.png",
            title=f"{_title(name)}: what was asked for, what came; {bits} wrong bits"
            + (", the most of all" if bits else ""),
        )
        if tape.weights:
            tape.plot(
                self.folder / f"{name}_weights.png",
                split=worst.source.shape[1],
                title=f"{_title(name)}: where the heads were",
            )

    def draw_tokens(
        self, model: Model, task: Any, batch: Batch, answer: Tensor, name: str, title: str = ""
    ) -> None:
        """Draw where a model looked while it gave an answer in tokens.

        Args:
            model: in evaluation.
            task: whose batch it is; it gives the words.
            batch: of one sequence, without padding.
            answer: of the model in the test, ``[1, T]``; what follows an end mark is left out.
            name: of the file, with ``{}`` for its content, ``alignment`` or ``weights``.
            title: stands above, before a word on what is drawn.
        """
        parts = model.alignments()
        answer = answer[:, : _length(answer[0], model.longest_answer(batch.source.shape[1]))]
        if answer.shape[1] == 0 or (not parts and getattr(model, "access", None) is None):
            return
        inputs = torch.cat([torch.full_like(answer[:, :1], BEGIN), answer[:, :-1]], 1)
        alone = batch._replace(inputs=inputs, targets=answer)
        with torch.no_grad(), trace.record(model) as tape:
            model.logits(_moved(alone, model))
        if not parts:
            path = self.folder / name.format("weights")
            split = batch.source.shape[1]
            tape.plot(path, split=split, title=f"{title}: where the heads were")
            return
        source, answered = _words(task, alone)
        slots = model.slot_names(source, _words(task, alone._replace(targets=inputs))[1])
        slots = slots[: tape.calls(next(iter(parts.values())))[-1].shape[-1]]
        path = self.folder / name.format("alignment")
        across = "source" if len(slots) <= len(source) + 1 else "source, then answer"
        tape.plot_alignment(
            path, parts, slots, answered, title=f"{title}: where the answer looked", across=across
        )

    def draw_episode(
        self, model: Model, task: Any, batch: Batch, answer: Tensor, name: str, title: str = ""
    ) -> None:
        """Draw which examples the queries of an episode looked at, if the model looks at any.

        Args:
            model: in evaluation.
            task: whose batch it is; it gives the images.
            batch: of one episode of images, without padding.
            answer: of the model in the test, ``[1, T]``.
            name: of the file, with ``{}`` for its content, ``episode``.
            title: stands above.
        """
        parts = model.alignments()
        if not parts:
            return
        with torch.no_grad(), trace.record(model) as tape:
            model.logits(_moved(batch, model))
        answers = answer[0, : batch.targets.shape[1]].tolist()
        labels, targets = task.labels(batch, 0)
        examples, queries = task.images(batch, 0)
        path = self.folder / name.format("episode")
        plots.episode(
            # Queries are a batch, of one step each.
            {label: tape.calls(part)[-1][:, 0] for label, part in parts.items()},
            examples,
            queries,
            labels,
            list(zip(map(str, answers), targets, strict=True)),
            path,
            title,
        )


def _title(name: str) -> str:
    """A test set by its name, in a title."""
    return "test set" if name == "test" else f"test set {name.replace('_', ' ')}"


def _plain(answers: Tensor) -> Tensor:
    """Answers in a precision that NumPy knows."""
    return answers.float() if answers.is_floating_point() else answers


def _length(tokens: Tensor, limit: int | None) -> int:
    """Steps of an answer ``[T]`` without the padding behind it; its end mark is one of them.

    Args:
        tokens: the answer.
        limit: where the model was cut if it came to no end; ``None`` = at T.
    """
    ends = (tokens == END).nonzero()
    if len(ends):
        return int(ends[0]) + 1
    return len(tokens) if limit is None else min(len(tokens), limit)


def _moved(batch: Batch, model: Model) -> Batch:
    """A batch where the model is, and in its precision."""
    return map_state(
        lambda part: part.to(model.device, model.dtype if part.is_floating_point() else None), batch
    )


def _words(task: Any, batch: Batch) -> tuple[list[str], list[str]]:
    """Words for the source and the targets of a batch of one, numbers where a task has no words."""
    words: tuple[list[str], list[str]] | None = task.labels(batch, 0)
    if words is None:
        steps = [str(step + 1) for step in range(batch.source.shape[1])]
        return steps, [str(token) for token in batch.targets[0].tolist()]
    return words
