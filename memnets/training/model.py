"""What all models share: encode and decode over explicit state, loss, scores, optimiser."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import pytorch_lightning as lightning
import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from memnets import decoding
from memnets.batches import Batch
from memnets.core import EncoderDecoder, State, map_state
from memnets.training.objectives import Bits, Examined, Objective

__all__ = ["Model", "TrainingDiverged"]


#: A loss scaler that has come below this has not met overflows of its own making.
_LEAST_SCALE = 2.0**-16


class TrainingDiverged(ArithmeticError):
    """The loss or the gradient is no longer finite; the weights were not touched."""


class Model(EncoderDecoder[State], lightning.LightningModule):
    """An encoder-decoder that Lightning trains, validates and tests.

    A subclass defines :meth:`~memnets.core.EncoderDecoder.encode` and
    :meth:`~memnets.core.EncoderDecoder.decode`.

    Args:
        objective: what the outputs mean; bits if not given.
        optimizer: takes the parameters; Adam at its default rate if not given.
        schedule: how the learning rate goes on after the warm-up: down to 0 along a cosine that
            ends with the training (constant if that has no end), constant, or with the inverse root
            of the step (Vaswani et al. 2017, section 5.3).
        warmup_steps: steps over which the learning rate rises linearly from 0, at least 0.
    """

    def __init__(
        self,
        objective: Objective | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        schedule: Literal["constant", "cosine", "inverse_sqrt"] = "cosine",
        warmup_steps: int = 0,
    ) -> None:
        super().__init__()
        if schedule not in ("constant", "cosine", "inverse_sqrt"):
            raise ValueError(
                f"schedule must be 'constant', 'cosine' or 'inverse_sqrt'; got {schedule!r}"
            )
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps must be at least 0; got {warmup_steps}")
        if not isinstance(objective, Objective | None):
            raise TypeError(f"objective must be an object, such as Tokens(); got {objective!r}")
        if not callable(optimizer):
            raise TypeError(
                "optimizer must make one from the parameters, such as partial(Adam, lr=0.001); "
                f"got an object, {type(optimizer).__name__}(...)"
            )
        self.objective = Bits() if objective is None else objective
        self.optimizer = optimizer
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self._generators: dict[str, Any] | None = None

    def generate(
        self,
        source: Tensor,
        mask: Tensor | None = None,
        beam: int = 1,
        length_penalty: float = 1.0,
        max_length: int | None = None,
    ) -> Tensor:
        """Answer in tokens, ``[B, T]``: see :func:`memnets.decoding.generate`."""
        return decoding.generate(self, source, mask, beam, length_penalty, max_length)

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss over all steps that are not padding, a scalar."""
        return masked_mean(
            self.objective.losses(self.logits(batch), batch.targets), batch.target_mask
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Check that the batch is one for the objective.

        Raises:
            ValueError: it is not.
        """
        self.objective.check(batch)
        return batch

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Loss of a batch.

        Raises:
            TrainingDiverged: it is not finite.
        """
        loss = self.loss(batch)
        if not torch.isfinite(loss):
            raise TrainingDiverged(
                f"the loss became {loss.item()} at step {self.global_step}; "
                "the weights are those of the step before"
            )
        # Logging costs as much as a small model's forward pass: only when somebody will see it.
        if index % self._log_interval == 0:
            self.log("train/loss", loss, prog_bar=True)
        return loss

    @property
    def _log_interval(self) -> int:
        interval: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return interval or sys.maxsize  # 0 is never

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the trainer is told, and stop at a gradient that is not finite.

        With a loss scaler (``precision="16-mixed"``) such a gradient is the scaler's way to find
        its scale: it skips the step and takes a smaller one. Only a scale below 2^-16, at which no
        gradient in float16 can still be the scale's doing, ends the training.

        Raises:
            TrainingDiverged: the norm of the gradient is not finite, and no scaler mends it.
        """
        norm = total_norm(
            [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        )
        if not torch.isfinite(norm):
            if self._scaled_too_much():
                return
            raise TrainingDiverged(
                f"the norm of the gradient became {norm.item()} at step {self.global_step}; "
                "the weights are those of the step before"
            )
        if self.trainer.fit_loop.epoch_loop.batch_idx % self._log_interval == 0:
            self.log("train/gradient_norm", norm)
        most = gradient_clip_val or 0.0
        if most > 0 and gradient_clip_algorithm in (None, "norm"):  # 0 is off, as in Lightning
            nn.utils.clip_grads_with_norm_(self.parameters(), most, norm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _scaled_too_much(self) -> bool:
        """Whether a gradient that is not finite may be so because the loss was scaled up."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return scaler is not None and scaler.is_enabled() and scaler.get_scale() >= _LEAST_SCALE

    def validation_step(self, batch: Batch, index: int) -> None:
        """Log the mean of each score as ``val/<score>``."""
        scores = self.objective.scores(self.logits(batch), batch.targets, batch.target_mask)
        self.log_dict(
            {f"val/{name}": values.mean() for name, values in scores.items()},
            batch_size=len(batch.targets),
            prog_bar=True,
        )

    def on_test_epoch_start(self) -> None:
        """No answers yet."""
        self.test_notes: list[str] = []
        self._examined: dict[tuple[str, str], list[Examined]] = {}

    def test_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        """Keep what the model answers and its scores."""
        name = self._task.test_names()[dataloader_idx]
        for way, examined in self.objective.examine(self, batch).items():
            kept = map_state(Tensor.cpu, examined)
            self._examined.setdefault((name, way), []).append(kept)

    def on_test_epoch_end(self) -> None:
        """Log the mean of each score and what the task measures, under the name of the test set.

        Where the task measures what the objective scores too, such as whether an answer is exact,
        the task knows better.
        """
        for (name, way), examined in self._examined.items():
            answers, scores = zip(*examined, strict=True)
            means = {
                score: torch.cat([part[score] for part in scores]).mean() for score in scores[0]
            }
            logged = {**means, **self._task.measure(name, list(answers))}
            notes = self.objective.notes(answers)
            self.test_notes += [f"{name}{way.replace('_', ', ')}: {note}" for note in notes]
            prefix = self._task.score_prefix(name)
            self.log_dict({f"{prefix}{score}{way}": value for score, value in logged.items()})
        self._examined = {}

    def predict_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> Tensor:
        """Answers of a batch, in the form of its targets."""
        answers, _ = next(iter(self.objective.examine(self, batch).values()))
        return answers

    @property
    def _task(self) -> Any:
        task = self.trainer.datamodule  # type: ignore[attr-defined]
        if task is None:
            raise ValueError(
                "a test needs the task, whose test sets have names and scores of their own: "
                "expected trainer.test(model, datamodule=<a task>); got dataloaders alone"
            )
        return task

    def configure_optimizers(self) -> Any:
        """The optimizer, with the learning rate set anew at every step."""
        optimizer = self.optimizer(self.parameters())
        factor = partial(
            _learning_rate_factor,
            schedule=self.schedule,
            warmup_steps=self.warmup_steps,
            steps=self.trainer.estimated_stepping_batches if self.schedule == "cosine" else 0,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    # Dropout and sampling draw from torch's generator: a resumed run must go on where it stopped.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the state of the random generators."""
        checkpoint["generators"] = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            checkpoint["generators"]["cuda"] = torch.cuda.get_rng_state_all()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state of the random generators until training starts."""
        self._generators = checkpoint.get("generators")

    def on_train_start(self) -> None:
        """Set the random generators as they were when the checkpoint was saved."""
        generators, self._generators = self._generators, None
        if generators is not None:
            torch.set_rng_state(generators["cpu"].cpu())
            if torch.cuda.is_available() and "cuda" in generators:
                torch.cuda.set_rng_state_all([state.cpu() for state in generators["cuda"]])


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of the values where ``mask`` is True, a scalar; of all if it is ``None``."""
    return values.mean() if mask is None else values.masked_fill(~mask, 0).sum() / mask.sum()


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all of them, a scalar; right too where the squares overflow.

    The gradient of a long chain may be as great: its direction still serves, once it is clipped.
    """
    norm = nn.utils.get_total_norm(gradients)
    if norm.isinf():
        greatest = torch.stack([gradient.abs().max() for gradient in gradients]).max()
        norm = greatest * nn.utils.get_total_norm([gradient / greatest for gradient in gradients])
    return norm


def _learning_rate_factor(step: int, schedule: str, warmup_steps: int, steps: float) -> float:
    """Factor on the learning rate before step number ``step``, in ``[0, 1]``."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "cosine":
        progress = min(1.0, (step - warmup_steps) / max(1.0, steps - warmup_steps))
        return (1 + math.cos(math.pi * progress)) / 2
    if schedule == "inverse_sqrt":
        return math.sqrt((warmup_steps + 1) / (step + 1))
    return 1.0
