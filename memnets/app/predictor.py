"""Answers to a user's own inputs with a checkpoint alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from memnets.app.checkpoints import load_run
from memnets.core import check_positive, map_state
from memnets.models import Model
from tasks import Task

__all__ = ["Predictor"]

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

    @torch.no_grad()
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
        check_positive(batch_size=batch_size)
        if isinstance(items, str):
            raise TypeError("expected a list of inputs; got a single text")
        # Every input is looked at before the first is answered.
        starts = range(0, len(items), batch_size)
        batches = [self.task.asked(items[s : s + batch_size], first=s + 1) for s in starts]
        found: list[str] = []
        for batch in batches:
            moved = map_state(self._moved, batch)
            answers = self.model.objective.respond(self.model, moved)
            found += self.task.says(batch, answers.cpu())
            if progress is not None:
                progress(len(batch.source))
        return found

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        like = next(self.model.parameters())
        return tensor.to(like) if tensor.is_floating_point() else tensor.to(like.device)
