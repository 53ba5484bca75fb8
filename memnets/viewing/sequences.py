"""Single sequences of a task, their words and their answers, for pictures and pages."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from memnets.batches import END, PAD, Batch, unpadded
from memnets.core import map_state
from memnets.training.model import Model
from memnets.training.objectives import Actions, Labels, Symbols, Tokens

__all__ = [
    "alone",
    "answer_length",
    "counted",
    "is_classification",
    "label_names",
    "moved",
    "plain",
    "prefixes",
    "title_of",
    "words",
]


def alone(batch: Batch, row: int) -> Batch:
    """One sequence of a batch, as a batch of one without padding.

    It has a mask of its targets if nothing is asked at some steps before the last one.
    """
    source = unpadded(batch.source, batch.source_mask, row)[None]
    mask, steps = None, batch.targets.shape[1]
    if batch.target_mask is not None:
        asked = batch.target_mask[row].nonzero()
        steps = int(asked.max()) + 1 if len(asked) else 0
        if len(asked) < steps:
            mask = batch.target_mask[row : row + 1, :steps]
    inputs, targets = (side[row : row + 1, :steps] for side in (batch.inputs, batch.targets))
    if inputs.dim() == 3 and not inputs.is_floating_point():
        # Inputs that are sentences have padding of their own, behind the longest of them.
        inputs = inputs[:, :, : max(1, int((inputs != PAD).any((0, 1)).sum()))]
    rewards = None if batch.rewards is None else batch.rewards[row : row + 1, :steps]
    one = Batch(source, inputs, targets, target_mask=mask, rewards=rewards)
    if batch.places is None:
        return one
    read, answered = (part[row : row + 1] for part in batch.places)
    return one._replace(
        source_places=read[:, : source.shape[1]], target_places=answered[:, : max(1, steps)]
    )


def prefixes(one: Batch) -> Batch:
    """The first step of a source alone, the first two, and so on, each with the same inputs.

    Args:
        one: a batch of one sequence of S tokens, without padding.

    Returns:
        S sequences; their targets are the inputs, since none are known.
    """
    steps = one.source.shape[1]
    mask = torch.ones(steps, steps, dtype=torch.bool, device=one.source.device).tril()
    whole: Batch = map_state(
        lambda part: part.expand(steps, *part.shape[1:]), one._replace(targets=one.inputs)
    )
    return whole._replace(
        source=whole.source.masked_fill(~mask, PAD),
        source_mask=mask,
        target_mask=None,
        rewards=None,
    )


def moved(batch: Batch, model: Any) -> Batch:
    """A batch on the device and in the precision of a model."""
    return map_state(
        lambda part: part.to(model.device, model.dtype if part.is_floating_point() else None), batch
    )


def plain(answers: Tensor) -> Tensor:
    """Answers in a precision that NumPy supports."""
    return answers.float() if answers.is_floating_point() else answers


def counted(number: int, noun: str) -> str:
    """A number and its noun, in the plural where it is not one: ``1 wrong bit``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def title_of(name: str) -> str:
    """Name of a test set, or of the validation set, in a title."""
    names = {"test": "test set", "val": "validation"}
    return names.get(name, f"test set {name.replace('_', ' ')}")


def words(task: Any, batch: Batch) -> tuple[list[str], list[str]]:
    """Words for the source and the targets of a batch of one; numbers if the task has no words."""
    found: tuple[list[str], list[str]] | None = task.labels(batch, 0)
    if found is None:
        steps = [str(step + 1) for step in range(batch.source.shape[1])]
        return steps, [str(token) for token in batch.targets[0].tolist()]
    return found


def label_names(task: Any, batch: Batch, size: int) -> list[str]:
    """Names of the labels 0 to ``size - 1`` of a task whose answers are labels.

    Args:
        task: the task.
        batch: a batch of one sequence of the task.
        size: number of labels.
    """
    # The task names the labels of targets alone: these are all of them, one after the other.
    return [
        words(
            task, batch._replace(targets=torch.full_like(batch.targets, label), target_mask=None)
        )[1][0]
        for label in range(size)
    ]


def answer_length(tokens: Tensor, limit: int | None) -> int:
    """Number of steps of an answer ``[T]`` with its end mark, without padding.

    Args:
        tokens: the answer.
        limit: number of steps at which the model cuts an answer; ``None`` = T.
    """
    ends = (tokens == END).nonzero()
    if len(ends):
        return int(ends[0]) + 1
    # An answer that a search has cut is padded to the longest of its batch.
    said = (tokens != PAD).nonzero()
    length = int(said[-1]) + 1 if len(said) else min(1, len(tokens))
    return length if limit is None else min(length, limit)


def is_classification(model: Model[Any], batch: Batch) -> bool:
    """Whether an answer is a single label of a sentence of tokens."""
    objective = model.objective
    single = isinstance(objective, Labels) and not isinstance(objective, Actions | Tokens)
    tokens = batch.source.dim() == batch.inputs.dim() == 2 and not batch.source.is_floating_point()
    one = batch.targets.shape[1] == 1 and not isinstance(objective, Symbols)
    return single and tokens and batch.source.shape[1] > 0 and one
