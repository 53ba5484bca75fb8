"""Pictures of a model while it trains: its answers and weights, sent to loggers of images."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as lightning
from pytorch_lightning.utilities.seed import isolate_rng

from memnets.batches import Batch
from memnets.core import map_state
from memnets.training.processes import splits_weights
from memnets.training.trained import on_host
from memnets.viewing.pictures import Pictures

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["SHARE", "LivePictures", "takers"]

#: Greatest share of a training's time that pictures take, if nobody says how often they come.
SHARE = 0.02

#: Seconds that the first pictures are expected to take.
_FIRST = 0.4

#: Sequences that are drawn, and most pixels of a side of a picture.
_SEQUENCES, _MOST_PIXELS = 2, 900

#: Takes an image, under a name, at a step.
Taker = Callable[[str, "Image.Image", int], object]


class LivePictures(lightning.Callback):
    """During a training, send pictures of answers to the validation set to all loggers of images.

    They are those of :class:`~memnets.viewing.pictures.Pictures`, of the first few sequences of the
    first validation batch: always the same, so that one sees answers and weights form. A logger
    takes images if it has a method ``log_image`` (Weights & Biases), or its ``experiment`` has a
    method ``add_image`` (TensorBoard). Nothing is drawn if there is none.

    A training with pictures is the same as one without, bit for bit: the random generators are left
    as they were, and this callback has no state in a checkpoint. The answers are those of a test:
    beam search included. If drawing fails, a line says why, and the training goes on without
    pictures.

    Args:
        every: draw after each ``every``-th validation, at least 0, where 0 is never. ``None`` = as
            often as drawing takes at most :data:`SHARE` of the time; the first pictures of a
            training come after about 20 s.
    """

    def __init__(self, every: int | None = None) -> None:
        if every is not None and (type(every) is not int or every < 0):
            raise ValueError(f"pictures_every must be a whole number of at least 0; got {every}")
        self.every = every
        self._validations = 0
        self._spent, self._last = 0.0, _FIRST
        self._failed = False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the first batch of a validation, if it is time for it."""
        # Not after the validation: callbacks that validate other weights have by then put back
        # those of the training.
        if batch_idx or dataloader_idx or trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._validations += 1
        if not trainer.is_global_zero or self._failed or not self._due():
            return
        if splits_weights(trainer):  # one process alone cannot answer
            return
        logs = takers(trainer.loggers)
        if not logs:
            return
        start = time.monotonic()
        with isolate_rng():
            try:
                self._draw(trainer, pl_module, batch, logs)
            except Exception as error:  # of a part or a task; no training must end for a picture
                self._failed = True
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                print(
                    f"memnets: no more pictures of this training ({reason[:200]})", file=sys.stderr
                )
        self._last = time.monotonic() - start
        self._spent += self._last

    def _due(self) -> bool:
        if self.every is not None:
            return self.every > 0 and self._validations % self.every == 0
        return self._spent + self._last <= SHARE * (time.monotonic() - self._start)

    def _draw(
        self, trainer: lightning.Trainer, model: Any, batch: Batch, logs: Sequence[Taker]
    ) -> None:
        from PIL import Image  # comes with matplotlib, which is loaded late too

        # As many as a grid of images has.
        few = map_state(lambda part: part[: (2 * _SEQUENCES) ** 2], batch)
        answers, _ = next(iter(model.examine(few).values()))
        host, task = map_state(on_host, few), trainer.datamodule  # type: ignore[attr-defined]
        # That of the scores of this validation.
        step = max(0, trainer.global_step - 1)
        with TemporaryDirectory(prefix="memnets_") as name:
            folder = Path(name)
            pictures = Pictures(folder, sequences=_SEQUENCES)
            pictures.draw_set(model, task, "val", [host], [on_host(answers)])
            for path in sorted(folder.iterdir()):
                with Image.open(path) as image:
                    small = image.convert("RGB")
                small.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
                for log in logs:
                    log(path.stem.replace("val_", "val/", 1), small, step)


def takers(loggers: Sequence[Any]) -> list[Taker]:
    """A function to log an image for each logger that takes images.

    Args:
        loggers: loggers of any kind.
    """
    found: list[Taker] = []
    for logger in loggers:
        if hasattr(logger, "log_image"):
            found.append(partial(_log, logger.log_image))
        elif hasattr(getattr(logger, "experiment", None), "add_image"):
            found.append(partial(_add, logger.experiment.add_image))
    return found


def _log(log: Callable[..., object], name: str, image: Image.Image, step: int) -> None:
    log(key=name, images=[image], step=step)


def _add(add: Callable[..., object], name: str, image: Image.Image, step: int) -> None:
    add(name, np.asarray(image), step, dataformats="HWC")
