"""Answers to a user's own inputs with a checkpoint alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memnets.app.checkpoints import load_run
from memnets.batches import Batch
from memnets.checks import check_positive
from memnets.core import map_state
from memnets.models import Model
from tasks import Task

__all__ = ["Predictor"]

logger = logging.getLogger(__name__)

#: Inputs of a batch.
BATCH = 64


class Predictor:
    """Answers inputs of your own: words to pronounce, images to describe, questions to a story.

    The form of an input depends on the task of the model (docs, page "Data formats"). An answer
    does not depend on the other inputs of a call.

    Args:
        model: the model; it is set to evaluation mode.
        task: its task, which turns inputs into numbers and answers into words.
    """

    def __init__(self, model: Model[Any], task: Task) -> None:
        self.model = model.eval()
        self.task = task

    @classmethod
    def load(cls, path: str | Path, trust: bool = False) -> Predictor:
        """Load the model and the task of a checkpoint; see :func:`memnets.load`.

        Args:
            path: a checkpoint, or the folder of a run.
            trust: whether to build parts from other libraries, which run as programs.

        Raises:
            CheckpointError: the checkpoint cannot be used.
        """
        return cls(*load_run(path, trust))

    def __call__(
        self,
        items: Sequence[Any],
        batch_size: int = BATCH,
        progress: Callable[[int], object] | None = None,
    ) -> list[str]:
        """Answer inputs.

        Args:
            items: the inputs, in the form that the task expects (:meth:`tasks.Task.asked`).
            batch_size: number of inputs that are answered at once, at least 1.
            progress: called after each batch with its number of inputs.

        Returns:
            An answer for each input, in one line.

        Raises:
            ValueError: an input has another form.
            TypeError: the task has no inputs of a user's own, or ``items`` is a single text.
        """

        def answer(batch: Batch) -> Tensor:
            return self.model.objective.respond(self.model, batch)

        pieces = self._asked(items, answer, batch_size, progress)
        for note in self.model.objective.notes([answers for _, answers in pieces]):
            logger.warning(note)
        return [text for batch, answers in pieces for text in self.task.says(batch, answers)]

    def chances(
        self,
        items: Sequence[Any],
        batch_size: int = BATCH,
        progress: Callable[[int], object] | None = None,
    ) -> list[tuple[str, float]]:
        """Answer inputs with labels, and say how probable each answer is.

        Args:
            items: as in a call.
            batch_size: as in a call.
            progress: as in a call.

        Returns:
            An answer for each input, and its probability; of an answer of several labels, that of
            all together.

        Raises:
            ValueError: an input has another form.
            TypeError: as in a call; or the model's answers are no labels.
        """
        objective = self.model.objective

        def answer(batch: Batch) -> tuple[Tensor, Tensor]:
            logits = self.model.logits(batch)
            chances = objective.chances(logits)
            if batch.target_mask is not None:
                chances = chances.masked_fill(~batch.target_mask, 1.0)
            return objective.answer(logits), chances.prod(1)

        return [
            (text, chance)
            for batch, (answers, chances) in self._asked(items, answer, batch_size, progress)
            for text, chance in zip(self.task.says(batch, answers), chances.tolist(), strict=True)
        ]

    @torch.no_grad()
    def _asked(
        self,
        items: Sequence[Any],
        answer: Callable[[Batch], Any],
        batch_size: int,
        progress: Callable[[int], object] | None,
    ) -> list[tuple[Batch, Any]]:
        """Batches of the inputs, and what a function of the model says to each, on the CPU."""
        check_positive(batch_size=batch_size)
        if isinstance(items, str | bytes | PathLike) or not hasattr(items, "__len__"):
            got = "text" if isinstance(items, str) else type(items).__name__
            raise TypeError(f"expected a list of inputs; got a single {got}")
        # Every input is looked at before the first is answered.
        starts = range(0, len(items), batch_size)
        batches = [self.task.asked(items[s : s + batch_size], first=s + 1) for s in starts]
        for start, batch in zip(starts, batches, strict=True):
            self._check_lengths(batch, start + 1)
        found = []
        for batch in batches:
            found.append((batch, map_state(Tensor.cpu, answer(map_state(self._moved, batch)))))
            if progress is not None:
                progress(len(batch.source))
        return found

    def _check_lengths(self, batch: Batch, first: int) -> None:
        """Check that the model can read the inputs of a batch.

        Args:
            batch: the batch.
            first: number of its first input, for an error.

        Raises:
            ValueError: an input has more steps than the model can read.
        """
        if batch.source.dim() != 2:  # an image has as many steps as patches
            return
        steps, mask = batch.source.shape[1], batch.source_mask
        lengths = [steps] * len(batch.source) if mask is None else mask.sum(1).tolist()
        for number, length in enumerate(lengths, first):
            if self.model.longest_answer(max(1, length)) == 0:
                raise ValueError(
                    f"item {number}: expected an input that the model can read as a whole; got one "
                    f"of {length} steps"
                )

    def _moved(self, tensor: Tensor) -> Tensor:
        like = next(self.model.parameters())
        return tensor.to(like) if tensor.is_floating_point() else tensor.to(like.device)
