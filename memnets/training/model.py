"""Base class for models: training, validation and tests of an encoder-decoder with Lightning."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as lightning
import torch
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities.compile import to_uncompiled
from torch import Tensor, nn

from memnets import decoding
from memnets.batches import Batch
from memnets.core import EncoderDecoder, State, check_positive, map_state
from memnets.files import write_atomically
from memnets.training.objectives import Bits, Examined, Objective
from memnets.training.runs import FORMAT, Origin
from memnets.training.truncation import truncated_loss

__all__ = ["Model", "TrainingDiverged"]


#: Least scale of a loss scaler. At a smaller one, the scale is not the cause of an overflow.
_LEAST_SCALE = 2.0**-16


class TrainingDiverged(ArithmeticError):
    """Error: the loss or the gradient is not finite; the step has not changed the weights."""


class Model(EncoderDecoder[State], lightning.LightningModule):
    """An encoder-decoder that Lightning trains, validates and tests.

    A subclass defines :meth:`~memnets.core.EncoderDecoder.encode` and
    :meth:`~memnets.core.EncoderDecoder.decode`.

    Args:
        objective: the loss, and the meaning of the outputs; :class:`~memnets.training.Bits` by
            default.
        optimizer: makes the optimizer from the parameters; Adam by default.
        schedule: learning rate after the warm-up: ``cosine``, down to 0 at the end of the training,
            constant if that has no end; ``constant``; or ``inverse_sqrt``, with the inverse root of
            the step (Vaswani et al. 2017, section 5.3).
        warmup_steps: number of steps in which the learning rate rises linearly from 0, at least 0.
        tbptt_steps: number of steps after which the gradient through time is cut, at least 1;
            ``None`` = never. With it, memory does not grow with the length of an answer. The
            weights still change once for each batch.
    """

    #: Settings of the model, if ``memnets fit`` or :func:`memnets.load` built it.
    origin: Origin | None = None

    def __init__(
        self,
        objective: Objective | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        schedule: Literal["constant", "cosine", "inverse_sqrt"] = "cosine",
        warmup_steps: int = 0,
        tbptt_steps: int | None = None,
    ) -> None:
        super().__init__()
        if schedule not in ("constant", "cosine", "inverse_sqrt"):
            raise ValueError(
                f"schedule must be 'constant', 'cosine' or 'inverse_sqrt'; got {schedule!r}"
            )
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps must be at least 0; got {warmup_steps}")
        if tbptt_steps is not None:
            check_positive(tbptt_steps=tbptt_steps)
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
        self.tbptt_steps = tbptt_steps
        # Random states of a checkpoint, from its loading to the start of the training.
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
        """Mean loss over all steps but padding, a scalar; gradients are cut by ``tbptt_steps``."""
        if self.tbptt_steps is not None and torch.is_grad_enabled():
            parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
            return truncated_loss(self, parameters, batch, self.tbptt_steps)
        return masked_mean(
            self.objective.losses(self.logits(batch), batch.targets), batch.target_mask
        )

    def compile(self, *arguments: Any, **named: Any) -> None:
        """Compile the loss in place; arguments as for ``torch.compile``.

        Training then runs compiled code, also within a Lightning trainer; answers, validation and
        tests do not. A copy of the model is not compiled.

        Raises:
            ValueError: the model has ``tbptt_steps``.
        """
        self._compile(partial(torch.compile, *arguments, **named))

    def _compile(self, compiler: Callable[[Any], Any]) -> None:
        if self.tbptt_steps is not None:
            raise ValueError(
                "a compiled loss has one gradient, without cuts: tbptt_steps must be None; "
                f"got {self.tbptt_steps}"
            )
        self.__dict__.pop("loss", None)  # of an earlier call
        self.loss = compiler(self.loss)  # type: ignore[method-assign]

    def __getstate__(self) -> dict[str, Any]:
        """State for a copy or a pickle, without compiled code, which belongs to this model."""
        state = super().__getstate__()
        state.pop("loss", None)
        return state

    def setup(self, stage: str) -> None:
        """Compile the loss, and the loss alone, of a model that comes from ``torch.compile``."""
        # Lightning would compile the whole steps, but what they log is no code for a compiler.
        if self._compiler_ctx is not None:
            compiler = self._compiler_ctx["dynamo_ctx"]
            to_uncompiled(self)
            self._compile(compiler)

    def first_stretch(self, batch: Batch, steps: int) -> tuple[State, int]:
        """Begin an answer for truncated back-propagation.

        Args:
            batch: a batch of a task.
            steps: number of steps from one cut to the next, at least 1.

        Returns:
            The state from which to decode, and the number of steps to the first cut.
        """
        return self.encode(batch.source, batch.source_mask), steps

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Check that the batch fits the objective.

        Raises:
            ValueError: it does not.
        """
        self.objective.check(batch)
        return batch

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Loss of a batch.

        Raises:
            TrainingDiverged: the loss is not finite.
        """
        loss = self.loss(batch)
        if not torch.isfinite(loss):
            raise TrainingDiverged(
                f"the loss became {loss.item()} at step {self.global_step}; "
                "the step did not change the weights"
            )
        # Logging costs as much as a small model's forward pass: do it only where the trainer
        # writes it.
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
        """Clip the gradient by the trainer's settings; stop if it is not finite.

        A loss scaler (``precision="16-mixed"``) finds its scale by such gradients: it skips the
        step and lowers the scale. Training ends only at a scale below 2^-16, which cannot be the
        cause of an overflow in float16.

        Raises:
            TrainingDiverged: the norm of the gradient is not finite, and no scaler handles it.
        """
        # Lightning would clip with a norm of its own; this one is also checked and logged.
        norm = total_norm(
            [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        )
        if not torch.isfinite(norm):
            if self._scaled_too_much():
                return
            raise TrainingDiverged(
                f"the norm of the gradient became {norm.item()} at step {self.global_step}; "
                "the step did not change the weights"
            )
        if self.trainer.fit_loop.epoch_loop.batch_idx % self._log_interval == 0:
            self.log("train/gradient_norm", norm)
        most = gradient_clip_val or 0.0
        if most > 0 and gradient_clip_algorithm in (None, "norm"):  # 0 is off, as in Lightning
            nn.utils.clip_grads_with_norm_(self.parameters(), most, norm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _scaled_too_much(self) -> bool:
        """Whether the scale of the loss may be the cause of a gradient that is not finite."""
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
        """Forget the answers of earlier tests."""
        self.test_notes: list[str] = []
        self.test_answers: dict[str, list[Tensor]] = {}
        self._examined: dict[tuple[str, str], list[Examined]] = {}

    def test_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        """Keep the model's answers to a batch and their scores.

        ``test_answers`` holds the answers to each test set, batch by batch, in the form of the
        targets and on the CPU. If a model answers in several ways, it holds the first. The answers
        stay until the next test, for pictures and files.
        """
        name = self._task.test_names()[dataloader_idx]
        found = self.objective.examine(self, batch)
        for number, (way, examined) in enumerate(found.items()):
            # On the CPU: the answers to a whole test set may not fit on a GPU.
            kept = map_state(Tensor.cpu, examined)
            self._examined.setdefault((name, way), []).append(kept)
            if number == 0:
                self.test_answers.setdefault(name, []).append(kept[0])

    def on_test_epoch_end(self) -> None:
        """Log the mean of each score, and the task's own measures, under the test set's name.

        If the task measures a score that the objective also computes, such as ``exact``, the task's
        value counts.
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
        """The optimizer, with a learning rate that follows the schedule at every step."""
        optimizer = self.optimizer(self.parameters())
        factor = partial(
            _learning_rate_factor,
            schedule=self.schedule,
            warmup_steps=self.warmup_steps,
            steps=self.trainer.estimated_stepping_batches if self.schedule == "cosine" else 0,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        # By step, not by epoch, as Lightning would: an epoch has any number of steps.
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def save(self, path: str | Path) -> None:
        """Write a checkpoint that :func:`memnets.load` reads: weights and settings.

        If the process is killed meanwhile, an older file of this name stays whole.

        Args:
            path: path of the file; its folder is made if missing.

        Raises:
            ValueError: the model was made in Python and has no config.
        """
        if self.origin is None:
            raise ValueError(
                "expected a model with a config, of memnets fit or memnets.load; a model made in "
                "Python has none: save torch.save(model.state_dict(), path), and load that into a "
                "model that is made the same way"
            )
        entries = {"format": FORMAT, **self.origin.entries(), "state_dict": self.state_dict()}
        write_atomically(Path(path), lambda file: torch.save(entries, file))

    # Dropout and sampling draw from the generator of torch: a resumed run must restore its state.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the format, the settings of the model, and the state of the random generators."""
        checkpoint["format"] = FORMAT
        if self.origin is not None:
            checkpoint.update(config=self.origin.config, sizes=dict(self.origin.sizes))
        checkpoint["generators"] = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            checkpoint["generators"]["cuda"] = torch.cuda.get_rng_state_all()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state of the random generators until training starts."""
        self._generators = checkpoint.get("generators")

    def on_train_start(self) -> None:
        """Restore the random generators of the checkpoint."""
        # Here, not on loading: whatever runs in between may draw from them.
        generators, self._generators = self._generators, None
        if generators is not None:
            torch.set_rng_state(generators["cpu"].cpu())
            if torch.cuda.is_available() and "cuda" in generators:
                torch.cuda.set_rng_state_all([state.cpu() for state in generators["cuda"]])


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of the values where ``mask`` is True, a scalar; of all values if it is ``None``."""
    return values.mean() if mask is None else values.masked_fill(~mask, 0).sum() / mask.sum()


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of several gradients together, a scalar, even if their squares overflow.

    The gradient of a long chain of steps may be so large. Once it is clipped, its direction is
    still useful.
    """
    norm = nn.utils.get_total_norm(gradients)
    # Divided by the largest number, all squares are at most 1. NaN and true infinities stay.
    if norm.isinf():
        greatest = torch.stack([gradient.abs().max() for gradient in gradients]).max()
        norm = greatest * nn.utils.get_total_norm([gradient / greatest for gradient in gradients])
    return norm


def _learning_rate_factor(step: int, schedule: str, warmup_steps: int, steps: float) -> float:
    """Factor on the learning rate before step number ``step``, in ``[0, 1]``."""
    # One more in both: the first step is not lost at a rate of 0, and the step after the warm-up
    # is the first at the full rate.
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "cosine":
        progress = min(1.0, (step - warmup_steps) / max(1.0, steps - warmup_steps))
        return (1 + math.cos(math.pi * progress)) / 2
    if schedule == "inverse_sqrt":
        return math.sqrt((warmup_steps + 1) / (step + 1))
    return 1.0
