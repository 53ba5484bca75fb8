"""What all models share: encode and decode over explicit state, loss, scores, optimiser."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import partial
from typing import Any, Generic, Literal

import pytorch_lightning as lightning
import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from memnets.core import Batch, State
from memnets.objectives import Bits, Objective

__all__ = ["Model", "TrainingDiverged"]


class TrainingDiverged(ArithmeticError):
    """The loss or the gradient is no longer finite; the weights were not touched."""


class Model(lightning.LightningModule, ABC, Generic[State]):
    """A model reads a source, then answers, over explicit state.

    ``encode(source) -> state``, then ``decode(inputs, state) -> (logits, state)``. Decoding T steps
    at once and one by one give the same numbers.

    Args:
        objective: what the outputs mean; bits if not given.
        optimizer: takes the parameters; Adam at its default rate if not given.
        schedule: how the learning rate goes on after the warm-up: constant, or down to 0 along a
            cosine that ends with the training.
        warmup_steps: steps over which the learning rate rises linearly from 0, at least 0.
    """

    def __init__(
        self,
        objective: Objective | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        schedule: Literal["constant", "cosine"] = "constant",
        warmup_steps: int = 0,
    ) -> None:
        super().__init__()
        if schedule not in ("constant", "cosine"):
            raise ValueError(f"schedule must be 'constant' or 'cosine'; got {schedule!r}")
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps must be at least 0; got {warmup_steps}")
        self.objective = Bits() if objective is None else objective
        self.optimizer = optimizer
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self._generators: dict[str, Any] | None = None

    @abstractmethod
    def encode(self, source: Tensor, mask: Tensor | None = None) -> State:
        """Read the source.

        Args:
            source: ``[B, S, I]``.
            mask: bool ``[B, S]``, False = padding; ``None`` = no padding.

        Returns:
            The state from which to decode.
        """

    @abstractmethod
    def decode(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Answer, one step or many.

        Args:
            inputs: ``[B, T, I]``.
            state: what :meth:`encode` or the last call returned.

        Returns:
            Logits ``[B, T, O]``, and the next state.
        """

    def logits(self, batch: Batch) -> Tensor:
        """Encode, then decode: logits ``[B, T, O]``."""
        return self.decode(batch.inputs, self.encode(batch.source, batch.source_mask))[0]

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss over all steps that are not padding, a scalar."""
        return masked_mean(
            self.objective.losses(self.logits(batch), batch.targets), batch.target_mask
        )

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
        return interval

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the trainer is told, and stop at a gradient that is not finite.

        Raises:
            TrainingDiverged: the norm of the gradient is not finite.
        """
        norm = nn.utils.get_total_norm(
            [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        )
        if not torch.isfinite(norm):
            raise TrainingDiverged(
                f"the norm of the gradient became {norm.item()} at step {self.global_step}; "
                "the weights are those of the step before"
            )
        if self.trainer.fit_loop.epoch_loop.batch_idx % self._log_interval == 0:
            self.log("train/gradient_norm", norm)
        if gradient_clip_val is not None and gradient_clip_algorithm in (None, "norm"):
            nn.utils.clip_grads_with_norm_(self.parameters(), gradient_clip_val, norm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def validation_step(self, batch: Batch, index: int) -> None:
        """Log the mean of each score as ``val/<score>``."""
        self._log_scores(batch, "val")

    def test_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        """Log the mean of each score as ``test/<set>/<score>``."""
        name = self.trainer.datamodule.test_names()[dataloader_idx]  # type: ignore[attr-defined]
        self._log_scores(batch, f"test/{name}")

    def predict_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> Tensor:
        """Answers of a batch, in the form of its targets."""
        return self.objective.answer(self.logits(batch))

    def _log_scores(self, batch: Batch, prefix: str) -> None:
        scores = self.objective.scores(self.logits(batch), batch.targets, batch.target_mask)
        self.log_dict(
            {f"{prefix}/{name}": values.mean() for name, values in scores.items()},
            batch_size=len(batch.targets),
            add_dataloader_idx=False,
            prog_bar=prefix == "val",
        )

    def configure_optimizers(self) -> Any:
        """The optimizer, with the learning rate set anew at every step."""
        optimizer = self.optimizer(self.parameters())
        factor = partial(
            _learning_rate_factor,
            warmup_steps=self.warmup_steps,
            steps=self.trainer.estimated_stepping_batches if self.schedule == "cosine" else None,
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


def _learning_rate_factor(step: int, warmup_steps: int, steps: float | None) -> float:
    """Factor on the learning rate before step number ``step``, in ``[0, 1]``."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if steps is None:
        return 1.0
    progress = min(1.0, (step - warmup_steps) / max(1.0, steps - warmup_steps))
    return (1 + math.cos(math.pi * progress)) / 2
