"""Pictures of a test: a model's answers and the weights of its addressings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as lightning
import torch
from torch import Tensor

from memnets.batches import BEGIN, Batch
from memnets.checks import check_positive
from memnets.core import map_state
from memnets.training.model import Model
from memnets.training.objectives import Bits, NextToken, Symbols, Tokens
from memnets.training.schedules import MemorySchedule
from memnets.viewing import plots, trace
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

__all__ = ["Pictures"]

#: What the weights of a memory's heads show, in titles.
_HEADS = "where in the memory each head was"
#: Most slots of a picture of hops; of more, those with the greatest weights are shown.
MOST_SLOTS = 30
#: Most steps of a picture of symbols; of longer strings no one can read the weights.
MOST_SYMBOLS = 100


class Pictures(lightning.Callback):
    """After a test, draw answers to each test set, with the weights of the addressings.

    The picture depends on the task:

    - curves, if the task has them;
    - for binary vectors, the sequence with the most wrong bits, or the first if all are right: the
      answer, and the weights of the heads;
    - for answers that are images, a grid of them, beside images of the test set; and where places
      of the first looked, if the model has self-attention over its feature maps;
    - for tokens and symbols, a few sequences: the weights over the source during the model's answer
      (Bahdanau et al. 2015, figure 3), for each layer the mean of its heads; for a machine, the
      weights of the heads of its memory;
    - for words of a text, the same few sequences: how much each word looked back at those before
      it, for each layer the mean of its heads (Cheng et al. 2016, figure 1);
    - for tokens that describe an image, the image again for each word, with the weights on it (Xu
      et al. 2015, figure 6);
    - for sentences with labels, the same few: the probability of each label after each word;
    - for answers in a plane, the same few sequences, beside the right answers;
    - for episodes of images, a few of them: the weights of the queries over the examples;
    - for pairs of sentences, a few of them: the weights of the words of one over those of the
      other;
    - for questions about sentences or facts, a few of them: the weights over these, hop by hop.

    The answers are those of the test (:meth:`~memnets.models.Model.test_step`). To get the weights,
    the model reads the drawn sequences once more, with these answers as inputs.

    Args:
        folder: folder of the pictures.
        longest: most steps of a source or a target; longer sequences and episodes are not drawn.
            Curves have no limit, and binary vectors have their own.
        longest_binary: most steps of a target of binary vectors.
        sequences: number of sequences of a test set to draw, at least 1: the first of each batch,
            then the second of each; for curves, the number of panels; of images that are answers,
            a grid has the square of twice the number.
        format: png for pixels; svg or pdf for vectors, in which text stays text.
    """

    def __init__(
        self,
        folder: Path,
        longest: int = 200,
        sequences: int = 4,
        longest_binary: int = 1000,
        format: Literal["png", "svg", "pdf"] = "png",
    ) -> None:
        check_positive(longest=longest, sequences=sequences, longest_binary=longest_binary)
        if format not in plots.FORMATS:
            raise ValueError(
                f"format of pictures must be one of {', '.join(plots.FORMATS)}; got {format!r}"
            )
        self.folder = folder
        self.longest = longest
        self.longest_binary = longest_binary
        self.sequences = sequences
        self.format = format

    def _path(self, name: str, content: str, number: int | None = None) -> Path:
        """File of a picture: the test set, what is drawn, and which of several."""
        parts = [name, content, *([] if number is None else [str(number)])]
        return self.folder / f"{'_'.join(parts)}.{self.format}"

    def on_test_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Draw the pictures of all test sets."""
        if not trainer.is_global_zero:
            return
        task: Any = trainer.datamodule  # type: ignore[attr-defined]
        for name in task.test_names():
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, MemorySchedule):
                    callback.prepare(trainer, pl_module, name)
            answers = pl_module.test_answers.get(name, [])[: self.sequences]
            if answers:
                batches = [task.batch(name, index) for index in range(len(answers))]
                self.draw_set(pl_module, task, name, batches, answers)

    def draw_set(
        self,
        model: Any,
        task: Any,
        name: str,
        batches: Sequence[Batch],
        answers: Sequence[Tensor],
    ) -> None:
        """Draw answers to a test set, in the first way that fits them.

        Args:
            model: the model, in evaluation mode.
            task: its task.
            name: name of the test set.
            batches: the first batches of the set.
            answers: the model's answers to these in the test.
        """
        panels = task.curves(name, plain(answers[0]), self.sequences)
        if panels:
            title = f"{title_of(name)}: {panels[0].up} by {panels[0].across}"
            plots.curves(panels, self._path(name, "curves"), title)
        elif task.as_images(answers[0]) is not None:
            self.draw_images(model, task, batches, answers, name)
        elif isinstance(model.objective, Bits):
            if batches[0].targets.shape[1] <= self.longest_binary:
                self.draw(model, batches[0], plain(answers[0]), name)
        else:
            self._draw_sequences(model, task, name, self._first(batches, answers))

    def _draw_sequences(
        self, model: Model, task: Any, name: str, few: Iterable[tuple[Batch, Tensor]]
    ) -> None:
        """Draw a few sequences of a test set, each by itself."""
        drawings, readings = [], []
        for number, (one, answer) in enumerate(few, 1):
            file = self._path(name, "{}", number).name
            title = f"{title_of(name)}, sequence {number}"
            if task.images(one, 0) is not None:
                title = f"{title_of(name)}, episode {number}: where the queries looked"
                self.draw_episode(model, task, one, answer, file, title)
            elif one.source.dim() > 2 and not one.source.is_floating_point():
                self.draw_hops(model, task, one, answer, file)
            elif task.asked_words(one, 0):
                self.draw_pair(model, task, one, answer, file, title_of(name))
            elif isinstance(model.objective, Tokens):
                self.draw_tokens(model, task, one, answer, file, title)
            elif isinstance(model.objective, Symbols):
                self.draw_symbols(model, task, one, answer, file, title)
            elif isinstance(model.objective, NextToken):
                self.draw_text(model, task, one, file, title)
            elif is_classification(model, one) and task.labels(one, 0) is not None:
                readings.append(self.read(model, task, one, answer))
            drawn = task.drawing(one, 0, answer[0])
            if drawn is not None:
                points, lines, caption = drawn
                _, right, _ = task.drawing(one, 0, one.targets[0])
                drawings.append(plots.Drawing(points, right, lines, caption))
        if readings:
            title = f"{title_of(name)}: what the model would answer after each word"
            plots.readings(readings, self._path(name, "readings"), title)
        if drawings:
            title = f"{title_of(name)}: right answers and the model's"
            plots.drawing(drawings, self._path(name, "drawing"), title)

    def _first(
        self, batches: Sequence[Batch], answers: Sequence[Tensor]
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Sequences to draw, each as a batch of one without padding, with its answer ``[1, T]``."""
        for number in range(self.sequences):
            batch, row = batches[number % len(batches)], number // len(batches)
            if row >= len(batch.targets):
                continue
            one = alone(batch, row)
            if max(one.source.shape[1], one.targets.shape[1]) <= self.longest:
                answer = answers[number % len(batches)][row : row + 1]
                yield one, answer

    def draw_images(
        self,
        model: Any,
        task: Any,
        batches: Sequence[Batch],
        answers: Sequence[Tensor],
        name: str,
    ) -> None:
        """Draw images that are answers: ``<name>_images``, and ``<name>_looks_<n>``.

        Args:
            model: the model, in evaluation mode.
            task: the task, which knows answers as images.
            batches: batches of the test set.
            answers: of the model to these batches in the test.
            name: of the test set.
        """
        count = (2 * self.sequences) ** 2
        targets = [batch.targets for batch in batches]
        drawn, real = (
            task.as_images(plain(torch.cat(list(each))))[:count] for each in (answers, targets)
        )
        path = self._path(name, "images")
        plots.gallery({"drawn by the model": drawn, f"{title_of(name)}": real}, path)
        few = map_state(lambda part: part[: self.sequences], batches[0])
        with torch.no_grad(), trace.record(model) as tape:
            model.examine(moved(few, model))
        for number, (label, part) in enumerate(model.alignments().items(), 1):
            # A part that also sees the targets sees the answers last.
            weights = tape.calls(part)[-1]
            path = self._path(name, "looks", number)
            title = f"{title_of(name)}: where places looked in the {label}"
            plots.looks(drawn[: self.sequences], weights, path, title)

    def draw(self, model: Model, batch: Batch, answers: Any, name: str) -> None:
        """Draw the worst answer to a batch: ``<name>_answer`` and ``<name>_weights``.

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
        worst = moved(map_state(lambda part: part[row : row + 1], batch), model)
        with torch.no_grad(), trace.record(model, ["weights", "add"]) as tape:
            probabilities = model.logits(worst)[0].sigmoid()
        bits = int(wrong[row].sum())
        plots.answer(
            worst.targets[0],
            probabilities,
            self._path(name, "answer"),
            title=f"{title_of(name)}: target and output of a sequence; {counted(bits, 'wrong bit')}"
            + (", the most of all" if bits and len(wrong) > 1 else ""),
        )
        if tape.weights:
            tape.plot(
                self._path(name, "weights"),
                split=worst.source.shape[1],
                title=f"{title_of(name)}: {_HEADS}",
                vectors=_vectors(tape, worst.source[0], probabilities),
            )

    def draw_tokens(
        self, model: Model, task: Any, batch: Batch, answer: Tensor, name: str, title: str = ""
    ) -> None:
        """Draw the weights of a model during an answer in tokens.

        Args:
            model: the model, in evaluation mode.
            task: the task of the batch; it gives the words.
            batch: a batch of one sequence, without padding.
            answer: the model's answer in the test, ``[1, T]``; tokens behind an end mark do not
                count.
            name: name of the file, with ``{}`` for its content: ``alignment``, ``weights``, or
                ``attention`` for an image.
            title: begin of the picture's title.
        """
        answer = answer[:, : answer_length(answer[0], model.longest_answer(batch.source.shape[1]))]
        # The model was given its own answer, one step late.
        inputs = torch.cat([torch.full_like(answer[:, :1], BEGIN), answer[:, :-1]], 1)
        said = batch._replace(inputs=inputs, targets=answer)
        given = words(task, said._replace(targets=inputs))[1]
        self._draw_looks(model, task, said, given, words(task, batch)[1], name, title)

    def draw_symbols(
        self, model: Model, task: Any, batch: Batch, answer: Tensor, name: str, title: str = ""
    ) -> None:
        """Draw the weights of a model during an answer in symbols, if one can still read them.

        Args:
            model: the model, in evaluation mode.
            task: the task of the batch; it gives the words.
            batch: a batch of one sequence, without padding behind it.
            answer: the model's answer in the test, ``[1, T]``, with padding.
            name: see :meth:`draw_tokens`.
            title: begin of the picture's title.
        """
        steps = batch.targets.shape[1]
        if max(steps, batch.source.shape[1]) > MOST_SYMBOLS:
            return
        said = batch._replace(targets=answer[:, :steps])
        # The inputs are tokens of the source.
        given = words(task, said._replace(source=said.inputs))[0]
        self._draw_looks(model, task, said, given, words(task, batch)[1], name, title)

    def _draw_looks(
        self,
        model: Model,
        task: Any,
        said: Batch,
        given: list[str],
        right: list[str],
        name: str,
        title: str,
    ) -> None:
        """Draw where a model looks, or its heads are, while it gives an answer.

        Args:
            model: the model, in evaluation mode.
            task: the task of the batch; it gives the words.
            said: a batch of one sequence, with the answer as its targets.
            given: a word for each input.
            right: the words of the right answer.
            name: see :meth:`draw_tokens`.
            title: begin of the picture's title.
        """
        parts = model.alignments()
        heads = getattr(model, "access", None) is not None
        if said.targets.shape[1] == 0 or not (parts or heads):
            return
        with torch.no_grad(), trace.record(model) as tape:
            model.logits(moved(said, model))
        if not parts:
            if tape.weights:  # a stack has none, nor has a matrix
                path = self.folder / name.format("weights")
                split = said.source.shape[1]
                tape.plot(path, split=split, title=f"{title}: {_HEADS}")
            return
        source, answered = words(task, said)
        if said.source.dim() == 4:
            grid = model.grid(*said.source.shape[1:3])
            if grid is None:
                return
            title = f"{title}: where each word of the answer looked"
            if answered != right:
                title += f"\nthe right answer: {' '.join(right)}"
            plots.overlay(
                said.source[0],
                {
                    label: tape.over_time(part)[:, -len(answered) :].mean(0).unflatten(1, grid)
                    for label, part in parts.items()
                },
                answered,
                self.folder / name.format("attention"),
                title,
            )
            return
        slots = model.slot_names(source, given)
        slots = slots[: tape.calls(next(iter(parts.values())))[-1].shape[-1]]
        path = self.folder / name.format("alignment")
        across = "source" if len(slots) <= len(source) + 1 else "source, then answer"
        tape.plot_alignment(
            path, parts, slots, answered, title=f"{title}: where the answer looked", across=across
        )

    def draw_text(self, model: Model, task: Any, batch: Batch, name: str, title: str = "") -> None:
        """Draw how much each word of a text looked back at the words before it.

        Nothing is drawn for a model that does not look back.

        Args:
            model: the model, in evaluation mode.
            task: the task of the batch; it gives the words.
            batch: a batch of one sequence of at least two inputs, without padding. The first input
                is a mark.
            name: name of the file, with ``{}`` for its content, ``words``.
            title: begin of the picture's title.
        """
        parts, steps = model.alignments(), batch.inputs.shape[1]
        if not parts or steps < 2:
            return
        with torch.no_grad(), trace.record(model) as tape:
            model.logits(moved(batch, model))
        source, inputs = words(task, batch._replace(targets=batch.inputs))
        slots = model.slot_names(source, inputs)
        # What stands before the first word becomes one slot: the source, a mark, an empty slot.
        marks = len(slots) - steps + 1
        panels = {}
        for label, part in parts.items():
            weights = tape.over_time(part).mean(0)[1 - steps :]
            weights = torch.nn.functional.pad(weights, (0, len(slots) - weights.shape[1]))
            before = weights[:, :marks].sum(1, keepdim=True)
            panels[label] = torch.cat([before, weights[:, marks:]], 1)
        title = f"{title}: how much each word looked back at those before it"
        path = self.folder / name.format("words")
        plots.shaded(panels, ["(before)", *slots[marks:]], path, title)

    def read(self, model: Model, task: Any, batch: Batch, answer: Tensor) -> plots.Reading:
        """Probabilities of the labels after each word of a sentence.

        The model answers to the first word alone, to the first two, and so on.

        Args:
            model: the model, in evaluation mode.
            task: the task of the batch; it gives the words and the names of the labels.
            batch: a batch of one sentence of tokens and one label, without padding.
            answer: the model's answer in the test, ``[1, 1]``.
        """
        batch = moved(batch, model)
        with torch.no_grad():
            logits = model.logits(prefixes(batch))[:, 0]
        read, _ = words(task, batch)
        size = logits.shape[-1]
        names = label_names(task, batch, size)
        right = names[int(batch.targets[0, 0])]
        return plots.Reading(read, logits.softmax(-1), names, right, names[int(answer[0, 0])])

    def draw_hops(self, model: Model, task: Any, batch: Batch, answer: Tensor, name: str) -> None:
        """Draw where a model looks for the answer to its first question, if the model tells.

        Args:
            model: the model, in evaluation mode.
            task: the task of the batch; it gives the sentences and the question.
            batch: a batch of one source of sentences or facts, without padding.
            answer: the model's answer in the test, ``[1, T]``.
            name: name of the file, with ``{}`` for its content, ``hops``.
        """
        with torch.no_grad(), trace.record(model) as tape:
            model.logits(moved(batch, model))
        seen = {event.part for event in tape.events}
        hops = {label: part for label, part in model.alignments().items() if part in seen}
        if not hops:
            return
        sentences, right = words(task, batch)
        said = words(task, batch._replace(targets=answer[:, : batch.targets.shape[1]]))[1]
        slots = model.slot_names(sentences, [])
        weights = torch.stack([tape.calls(part)[-1][0, 0] for part in hops.values()], 1)
        # The first slots are those of the last sentences.
        weights = weights[: len(slots)]
        if len(slots) > MOST_SLOTS:
            shown = weights.amax(1).topk(MOST_SLOTS).indices.sort().values
            weights, slots = weights[shown], [slots[slot] for slot in shown.tolist()]
        question = " ".join(next(iter(task.asked_words(batch, 0)), ["(not in words)"]))
        # Of candidates, several may be right.
        several = answer.dim() == 3 and bool(batch.targets[0, 0, answer[0, 0].argmax()])
        good = several or said[0] == right[0]
        verdict = f"{said[0]}, right" if good else f"{said[0]}, wrong: right is {right[0]}"
        plots.alignment(
            weights,
            list(hops),
            slots,
            self.folder / name.format("hops"),
            title=f"question: {question}?\nanswer: {verdict}",
            across="hops of the model",
            down="memory",
        )

    def draw_episode(
        self, model: Model, task: Any, batch: Batch, answer: Tensor, name: str, title: str = ""
    ) -> None:
        """Draw the weights of an episode's queries over its examples, if the model has such.

        Args:
            model: the model, in evaluation mode.
            task: the task of the batch; it gives the images.
            batch: a batch of one episode of images, without padding.
            answer: the model's answer in the test, ``[1, T]``.
            name: name of the file, with ``{}`` for its content, ``episode``.
            title: title of the picture.
        """
        parts = model.alignments()
        if not parts:
            return
        with torch.no_grad(), trace.record(model) as tape:
            model.logits(moved(batch, model))
        answers = answer[0, : batch.targets.shape[1]].tolist()
        labels, targets = task.labels(batch, 0)
        examples, queries = task.images(batch, 0)
        path = self.folder / name.format("episode")
        plots.episode(
            # A learner takes the queries as a batch of single steps.
            {label: tape.calls(part)[-1][:, 0] for label, part in parts.items()},
            examples,
            queries,
            labels,
            list(zip(map(str, answers), targets, strict=True)),
            path,
            title,
        )

    def draw_pair(
        self, model: Model, task: Any, batch: Batch, answer: Tensor, name: str, title: str = ""
    ) -> None:
        """Draw where the words of an input, a sentence, look in the source, if the model tells.

        Args:
            model: the model, in evaluation mode.
            task: the task of the batch; it gives the words.
            batch: a batch of one pair, without padding of the source.
            answer: the model's answer in the test, ``[1, 1]``.
            name: name of the file, with ``{}`` for its content, ``alignment``.
            title: begin of the picture's title.
        """
        parts = model.alignments()
        if not parts:
            return
        there = moved(batch, model)
        # Not ``logits``: a model may read both sentences at once, padded to the same length.
        with torch.no_grad(), trace.record(model) as tape:
            model.decode(there.inputs, model.encode_batch(there))
        source, right = task.labels(batch, 0)
        said = task.labels(batch._replace(targets=answer), 0)[1]
        verdict = right[0] if said == right else f"{right[0]}, answered {said[0]}"
        asked = task.asked_words(batch, 0)[0]
        slots = {label: tape.calls(part)[-1].shape[-2:] for label, part in parts.items()}
        whole = {
            label: part
            for label, part in parts.items()
            if slots[label] == (len(asked), len(source))
        }
        if whole:
            tape.plot_alignment(
                self.folder / name.format("alignment"),
                whole,
                source,
                asked,
                title=f"{title}: {verdict}",
                across="premise",
                down="hypothesis",
            )


def _vectors(tape: trace.Tape, source: Tensor, answer: Tensor) -> dict[str, Tensor]:
    """Vectors on the time line of a machine: what it was given, what it wrote, what it answered.

    After Graves et al. 2014, figure 6. There are none if the weights are on another time line.

    Args:
        tape: record of one sequence, with the vectors that were added to memories.
        source: ``[S, I]``.
        answer: probabilities ``[T, O]``.
    """
    steps = len(source) + len(answer)
    if any(tape.over_time(part).shape[1] != steps for part in tape.weights):
        return {}
    given, said = (part.new_full((steps, part.shape[1]), torch.nan) for part in (source, answer))
    given[: len(source)], said[len(source) :] = source, answer
    written = {}
    for part in dict.fromkeys(event.part for event in tape.events if event.kind == "add"):
        heads = torch.stack([call[0] for call in tape.calls(part, "add")], 1)
        for head, added in enumerate(heads, 1):
            name = "written to the memory"
            written[f"{name}, head {head}" if len(heads) > 1 else name] = added
    return {"input": given, **written, "output (probability of 1)": said}
