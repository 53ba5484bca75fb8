"""Base class for all that Lightning trains here: a loss, answers to tests, and their scores."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any, Literal, get_args

import pytorch_lightning as lightning
import torch
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities.compile import to_uncompiled
from torch import Tensor, nn

from memnets.batches import Batch
from memnets.checks import at_hand
from memnets.core import map_state
from memnets.files import write_atomically
from memnets.training.graphs import (
    CudaRecorder,
    FixedOptimizer,
    GraphedSteps,
    Recorder,
    Results,
    only_closure,
    settings_of_modules,
)
from memnets.training.objectives import Examined
from memnets.training.optimizers import fused
from memnets.training.processes import answers, gathered, joined, splits_weights, summed
from memnets.training.runs import FORMAT, Origin
from memnets.training.schedules import whole_length

__all__ = ["Schedule", "Trained", "TrainingDiverged"]

#: Names of the schedules of a learning rate, see :class:`Trained`.
Schedule = Literal["constant", "cosine", "halved", "inverse_sqrt", "stable_decay"]

#: Those that end with the training.
_TO_THE_END = ("cosine", "halved", "stable_decay")

#: Least scale of a loss scaler. At a smaller one, the scale is not the cause of an overflow.
_LEAST_SCALE = 2.0**-16


class TrainingDiverged(ArithmeticError):
    """Error: the loss or the gradient is not finite; the step has not changed the weights."""


class Trained(lightning.LightningModule, ABC):
    """A network that Lightning trains, validates and tests.

    A subclass defines the loss of a batch (:meth:`loss`), the scores of a validation
    (:meth:`score`) and the answers to a test (:meth:`examine`). A network that reads a source and
    answers it step by step is a :class:`~memnets.training.Model`, which has all three.

    Args:
        optimizer: makes the optimizer from the parameters; Adam by default.
        schedule: learning rate after the warm-up: ``cosine``, down to 0 at the end of the training;
            ``stable_decay``, constant, then in a line down to 0 over the last quarter of the
            training (Hu et al. 2024, section 4, with another decay); ``halved`` after each quarter
            of it (Sukhbaatar et al. 2015, section 4.2); all three are constant if the training has
            no end; ``constant``; or ``inverse_sqrt``, with the inverse root of the step (Vaswani et
            al. 2017, section 5.3).
        warmup_steps: number of steps in which the learning rate rises linearly from 0, at least 0.
        cuda_graphs: whether training steps run as CUDA graphs (:mod:`memnets.training.graphs`):
            the same numbers, much faster for small models. Needs one GPU, an optimizer with the
            setting ``capturable``, such as Adam, and a precision without a loss scaler.
    """

    #: Settings of the model, if ``memnets fit`` or :func:`memnets.load` built it.
    origin: Origin | None = None

    #: Makes the recorder of training steps.
    recorder: Callable[[], Recorder] = CudaRecorder

    def __init__(
        self,
        optimizer: OptimizerCallable = torch.optim.Adam,
        schedule: Schedule = "cosine",
        warmup_steps: int = 0,
        cuda_graphs: bool = False,
    ) -> None:
        super().__init__()
        if schedule not in get_args(Schedule):
            *others, last = map(repr, get_args(Schedule))
            raise ValueError(f"schedule must be {', '.join(others)} or {last}; got {schedule!r}")
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps must be at least 0; got {warmup_steps}")
        if not callable(optimizer):
            raise TypeError(
                "optimizer must make one from the parameters, such as partial(Adam, lr=0.001); "
                f"got an object, {type(optimizer).__name__}(...)"
            )
        self.optimizer = optimizer
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.cuda_graphs = cuda_graphs
        # Training steps as graphs, and numbers on their way from the device, while a training runs.
        self._graphs: GraphedSteps | None = None
        self._results = Results(self._check_later)
        # Random states of a checkpoint, from its loading to the start of the training.
        self._generators: dict[str, Any] | None = None

    @property
    @abstractmethod
    def monitor(self) -> str:
        """Name of a score that improves as it falls; the best checkpoint has the lowest."""

    def solved(self, scores: Mapping[str, float]) -> bool:
        """Whether a task with these scores of a validation counts as solved; never, here."""
        return False

    def summarize(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scores of a whole set, from the mean of each score over its sequences; these by default.

        Args:
            means: scalars by name.
        """
        return dict(means)

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Loss of a batch, a scalar; its gradient trains all parameters."""

    @abstractmethod
    def score(self, batch: Batch) -> dict[str, Tensor]:
        """Scores of a batch of the validation, ``[B]`` each, by name."""

    @abstractmethod
    def examine(self, batch: Batch) -> dict[str, Examined]:
        """Answer a batch as in a test.

        Returns:
            Answers in the form of the targets, and scores ``[B]`` by name, for each way of
            answering, by the ending of its scores' names; the first ending is empty.
        """

    def weight(self, batch: Batch) -> Tensor | int:
        """Number of terms whose mean is the loss of a batch: by default that of its sequences.

        Of several processes, each has a batch of its own. Weighted so, the mean of their losses is
        the loss of all their batches together. With ``accumulate_grad_batches`` Lightning takes the
        mean of the batches' losses as it is, whatever their weights.
        """
        return len(batch.targets)

    def notes(self, answers: Sequence[Tensor]) -> list[str]:
        """Notes on the answers to a test set, to show with its scores; none by default.

        Args:
            answers: answers to each batch of the set, in the form of the targets.
        """
        return []

    def parameter_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """Factors on the learning rate, each with its parameters; by default 1 with all."""
        return [(1.0, list(self.parameters()))]

    def compile(self, *arguments: Any, **named: Any) -> None:
        """Compile the loss in place; arguments as for ``torch.compile``.

        Training then runs compiled code, also within a Lightning trainer; answers, validation and
        tests do not. A copy of the model is not compiled.

        Raises:
            ValueError: the model cuts its gradients (``tbptt_steps``).
        """
        self._compile(partial(torch.compile, *arguments, **named))

    def _compile(self, compiler: Callable[[Any], Any]) -> None:
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

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Loss of a batch; of several processes, its share in the loss of all their batches.

        On a GPU the host does not wait for the loss. If it or the gradient is not finite, the
        gradient counts as 0, and the error comes some steps later.

        Raises:
            TrainingDiverged: the loss is not finite, or on a GPU that of an earlier step.
        """
        if self._graphs is not None:
            loss, norm = self._graphed(batch)
            whole = loss
        else:
            loss, whole = self._shared(batch, self.loss(batch))
            # The same number in each process: all end here, or none.
            if self._told_at_once(whole) and not whole.isfinite():
                self._check_finite(self.global_step, whole.item())
            self._last_loss = whole.detach()
        # Logging costs as much as a small model's forward pass: do it only where the trainer
        # writes it.
        if self._logs:
            self.log("train/loss", whole, prog_bar=True)
            if self._graphs is not None:
                self.log("train/gradient_norm", norm)
        return loss

    def _shared(self, batch: Batch, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Share of a loss, whose mean over the processes is the loss of all; and that loss."""
        processes = self.trainer.world_size
        if processes == 1:
            return loss, loss
        weight = torch.as_tensor(self.weight(batch), dtype=loss.dtype, device=loss.device)
        terms, weights = summed(self.trainer, torch.stack([loss.detach() * weight, weight]))
        return loss * (weight * processes / weights), terms / weights

    def _graphed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss and norm of the gradient of a whole step, by a graph."""
        assert self._graphs is not None
        self._fixed.read_rates()
        loss, norm = (result.clone() for result in self._graphs(batch))
        self._results.note(self.global_step, loss, norm)
        return loss, norm

    def whole_step(
        self,
        batch: Batch,
        optimizer: FixedOptimizer | torch.optim.Optimizer,
        greatest_norm: float | None = None,
        greatest_value: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Forward pass, backward pass, clipping and update, without a question to the device.

        If the loss or the norm is not finite, the gradient counts as 0.

        Args:
            batch: a batch of a task, on the device of the model.
            optimizer: the optimizer of the model's parameters.
            greatest_norm: clip the norm of the gradient to this; ``None`` or 0 = not.
            greatest_value: clip each number of the gradient to this; ``None`` or 0 = not.

        Returns:
            The loss and the norm of the gradient before clipping, scalars.
        """
        for parameter in self.parameters():
            parameter.grad = None
        loss = self.loss(batch)
        # The backward pass runs outside of autocast, as it does without graphs.
        with torch.autocast(loss.device.type, enabled=False) if _autocast(loss) else nullcontext():
            loss.backward()
            loss = loss.detach()
            norm = self._clip(loss, greatest_norm or 0.0, greatest_value or 0.0)
            optimizer.step()
        return loss, norm

    def _clip(self, loss: Tensor, greatest_norm: float, greatest_value: float) -> Tensor:
        """Clip the gradient, or make it 0 if it or the loss is not finite; norm of the gradient."""
        gradients = [each.grad for each in self.parameters() if each.grad is not None]
        norm = total_norm(gradients)
        if greatest_norm > 0:
            nn.utils.clip_grads_with_norm_(self.parameters(), greatest_norm, norm)
        if greatest_value > 0:
            nn.utils.clip_grad_value_(self.parameters(), greatest_value)
        broken = ~(norm.isfinite() & loss.isfinite())
        for gradient in gradients:
            gradient.masked_fill_(broken, 0.0)
        return norm

    def graph_settings(self) -> Hashable:
        """All values but attributes and the batch that :meth:`loss` reads in Python.

        A training step as a CUDA graph is recorded again for each new value.
        """
        return ()

    def _told_at_once(self, tensor: Tensor) -> bool:
        """Whether the host may ask for a number: on the CPU, or with a loss scaler, which asks."""
        return at_hand(tensor) or self._scaler() is not None

    def _check_finite(
        self,
        step: int,
        loss: float,
        norm: float = 0.0,
        effect: str = "the step did not change the weights",
    ) -> None:
        for name, value in (("loss", loss), ("norm of the gradient", norm)):
            if not math.isfinite(value):
                raise TrainingDiverged(f"the {name} became {value} at step {step}; {effect}")

    def _check_later(self, step: int, loss: float, norm: float = 0.0) -> None:
        # By now the optimizer has taken the step, with the gradients of earlier steps alone.
        self._check_finite(step, loss, norm, "its gradient counted as 0")

    @property
    def _logs(self) -> bool:
        """Whether a logger writes the numbers of this step; of the first, a progress bar does."""
        first = self.global_step == 0 and self.trainer.log_every_n_steps != 0  # type: ignore[attr-defined]
        return first or _writes(self.trainer)

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
        if self._graphs is not None:
            return  # the graph has clipped it
        # Lightning would clip with a norm of its own; this one is also checked and logged.
        greatest_norm, greatest_value = _bounds(gradient_clip_val, gradient_clip_algorithm)
        if splits_weights(self.trainer):
            norm = self._clip_parts(greatest_norm, greatest_value)
            self._results.note(self.global_step, self._last_loss, norm)
        elif self._told_at_once(self._last_loss):
            norm = total_norm(
                [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
            )
            if not torch.isfinite(norm):
                if self._scaled_too_much():
                    return
                self._check_finite(self.global_step, 0.0, norm.item())
            if greatest_norm > 0:
                nn.utils.clip_grads_with_norm_(self.parameters(), greatest_norm, norm)
            else:
                self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            norm = self._clip(self._last_loss, greatest_norm, greatest_value)
            self._results.note(self.global_step, self._last_loss, norm)
        if self._logs:
            self.log("train/gradient_norm", norm)

    def _clip_parts(self, greatest_norm: float, greatest_value: float) -> Tensor:
        """The same as :meth:`_clip`, of a gradient that is split among the processes."""
        # Each process knows a part of the gradient, the strategy's own module the norm of all.
        whole: Any = self.trainer.strategy.model
        norm: Tensor = whole.clip_grad_norm_(greatest_norm or math.inf)
        if greatest_value > 0:
            nn.utils.clip_grad_value_(self.parameters(), greatest_value)
        broken = ~(norm.isfinite() & self._last_loss.isfinite())
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.masked_fill_(broken, 0.0)
        return norm

    def _scaler(self) -> Any:
        """The loss scaler of the precision, if it has one that is on."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return scaler if scaler is not None and scaler.is_enabled() else None

    def _scaled_too_much(self) -> bool:
        """Whether the scale of the loss may be the cause of a gradient that is not finite."""
        scaler = self._scaler()
        return scaler is not None and scaler.get_scale() >= _LEAST_SCALE

    def backward(self, loss: Tensor, *arguments: Any, **named: Any) -> None:
        """Compute the gradient, unless a graph has done it."""
        if self._graphs is None:
            super().backward(loss, *arguments, **named)

    def on_train_epoch_end(self) -> None:
        """Wait for the numbers that are on their way from the device, and check them."""
        self._results.settle()

    def on_validation_start(self) -> None:
        """Wait for the numbers that are on their way from the device, and check them."""
        self._results.settle()

    def on_train_end(self) -> None:
        """Free the graphs."""
        self._results.settle()
        self._graphs = None

    def on_validation_epoch_start(self) -> None:
        """Forget the scores of the last validation."""
        self._validated: dict[int, dict[str, Tensor]] = {}

    def validation_step(self, batch: Batch, index: int) -> None:
        """Keep the scores of each sequence of a batch, unless another process has the batch."""
        if answers(self.trainer, index):
            self._validated[index] = map_state(on_host, self.score(batch))

    def on_validation_epoch_end(self) -> None:
        """Log each score of the whole set as ``val/<score>``."""
        scores = self.summarize(_means(list(joined(self.trainer, self._validated).values())))
        self.log_scores({f"val/{name}": value for name, value in scores.items()}, prog_bar=True)
        self._validated = {}

    def log_scores(self, scores: Mapping[str, Any], prog_bar: bool = False) -> None:
        """Log scores of a whole set, which all processes have computed from the same answers.

        Args:
            scores: numbers by name.
            prog_bar: whether a progress bar shows them.
        """
        # Lightning wants to hear how to make one number of several; they are the same.
        self.log_dict(dict(scores), prog_bar=prog_bar, sync_dist=True, reduce_fx="max")

    def on_test_epoch_start(self) -> None:
        """Forget the answers of earlier tests."""
        self.test_notes: list[str] = []
        self.test_answers: dict[str, list[Tensor]] = {}
        self._examined: dict[tuple[int, int], dict[str, Examined]] = {}

    def test_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        """Keep the model's answers to a batch and their scores, unless another process has it."""
        if answers(self.trainer, index):
            self._examined[dataloader_idx, index] = map_state(on_host, self.examine(batch))

    def on_test_epoch_end(self) -> None:
        """Log the scores of each test set, and the task's own measures, under the set's name.

        ``test_answers`` then holds the answers to each test set, batch by batch, in the form of the
        targets and on the CPU. If a model answers in several ways, it holds the first. The answers
        stay until the next test, for pictures and files.

        If the task measures a score that the objective also computes, such as ``exact``, the task's
        value counts.
        """
        names = self._task.test_names()
        sets: dict[tuple[str, str], list[Examined]] = {}
        for (number, _), found in joined(self.trainer, self._examined).items():
            for way, examined in found.items():
                sets.setdefault((names[number], way), []).append(examined)
        for (name, way), every in sets.items():
            given, scores = zip(*every, strict=True)
            self.test_answers.setdefault(name, list(given))
            # Another way of answering may have fewer scores, of which no others can follow.
            means = _means(scores)
            logged = means if way else self.summarize(means)
            logged = {**logged, **self._task.measure(name, list(given))}
            notes = self.notes(given)
            self.test_notes += [f"{name}{way.replace('_', ', ')}: {note}" for note in notes]
            prefix = self._task.score_prefix(name)
            self.log_scores({f"{prefix}{score}{way}": value for score, value in logged.items()})
        self._examined = {}

    def predict_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> Tensor:
        """Answers of a batch, in the form of its targets, on the CPU; each process gives all."""
        given, _ = next(iter(self.examine(batch).values()))
        return on_host(given)

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
        factors, groups = zip(*self.parameter_groups(), strict=True)
        optimizer = fused(self.optimizer([{"params": group} for group in groups]))
        if self.cuda_graphs:
            # Before the scheduler is made, which wraps the method.
            optimizer.step = MethodType(only_closure, optimizer)  # type: ignore[method-assign]
        to_the_end = self.schedule in _TO_THE_END
        steps = whole_length(self.trainer) if to_the_end else 0
        rates: list[Callable[[int], float]] = [
            partial(
                _learning_rate_factor,
                schedule=self.schedule,
                warmup_steps=self.warmup_steps,
                steps=steps,
                factor=factor,
            )
            for factor in factors
        ]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rates)
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
        self._results.settle()  # no step is saved that may yet turn out to have diverged
        checkpoint["format"] = FORMAT
        if self.origin is not None:
            checkpoint.update(config=self.origin.config, sizes=dict(self.origin.sizes))
        checkpoint["processes"] = self.trainer.world_size
        own, *others = gathered(self.trainer, _generators())
        checkpoint["generators"] = {**own, "others": others}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state of the random generators until training starts."""
        self._generators = checkpoint.get("generators")

    def on_train_start(self) -> None:
        """Restore the random generators of the checkpoint; get ready to record graphs.

        Of several processes, each has a generator of its own for noise, such as dropout.

        Raises:
            ValueError: ``cuda_graphs`` is on where it cannot work.
        """
        # Here, not on loading: whatever runs in between may draw from them.
        generators, self._generators = self._generators, None
        rank = self.trainer.global_rank
        known = [] if generators is None else [generators, *generators.get("others", [])]
        if known:
            _restore(known[rank if rank < len(known) else 0])
        if rank and rank >= len(known):
            torch.manual_seed(int(torch.randint(2**62, ())) + rank)
        if self.cuda_graphs:
            self._graphs = self._make_graphs()

    def _make_graphs(self) -> GraphedSteps:
        trainer = self.trainer
        missing = {
            f"a CUDA device; this run is on {self.device.type}: add --trainer.accelerator=gpu": (
                self.device.type != "cuda" and self.recorder is CudaRecorder
            ),
            f"one process; got {trainer.world_size}": trainer.world_size > 1,
            f"accumulate_grad_batches=1; got {trainer.accumulate_grad_batches}": (
                trainer.accumulate_grad_batches != 1
            ),
            "a precision without a loss scaler, such as bf16-mixed": self._scaler() is not None,
        }
        for what, lacks in missing.items():
            if lacks:
                raise ValueError(f"cuda_graphs needs {what}, or leave cuda_graphs out")
        (optimizer,) = trainer.optimizers
        self._fixed = FixedOptimizer(optimizer)
        norm, value = _bounds(trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
        step = partial(
            self.whole_step, optimizer=self._fixed, greatest_norm=norm, greatest_value=value
        )
        plain = settings_of_modules(self)

        def settings() -> Hashable:
            return plain(), self._fixed.settings(), self.graph_settings()

        return GraphedSteps(step, self.recorder(), settings)


def _writes(trainer: Any) -> bool:
    """Whether the trainer gives what is logged in this step to its loggers.

    Lightning's own rule, which no public name tells: by another one, numbers of another step would
    be written. Where a version of it has no such name, all steps log: it takes longer, and the rows
    are the same.
    """
    rule = getattr(trainer, "_logger_connector", None)
    return bool(getattr(rule, "should_update_logs", True))


def _bounds(most: float | None, algorithm: str | None) -> tuple[float, float]:
    """Greatest norm of a gradient and greatest number in it, by a trainer's settings; 0 = any."""
    most = most or 0.0
    return (most, 0.0) if algorithm in (None, "norm") else (0.0, most)


def on_host(found: Tensor) -> Tensor:
    """An answer or a score, for files and pictures: on the CPU, in a type that NumPy has."""
    # The answers to a whole test set may not fit on a GPU.
    found = found.cpu()
    return found.float() if found.dtype == torch.bfloat16 else found


def _generators() -> dict[str, Any]:
    """States of the random generators of this process."""
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def _restore(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["cpu"].cpu())
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])


def _means(scores: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of each score over all sequences of some batches."""
    return {name: torch.cat([part[name] for part in scores]).mean() for name in scores[0]}


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of several gradients together, a scalar, even if their squares overflow.

    The gradient of a long chain of steps may be so large. Once it is clipped, its direction is
    still useful.
    """
    norm = nn.utils.get_total_norm(gradients)
    # Divided by the largest number, all squares are at most 1. NaN and true infinities stay.
    if not at_hand(norm):
        return torch.where(norm.isinf(), _large_norm(gradients), norm)
    return _large_norm(gradients) if norm.isinf() else norm


def _large_norm(gradients: Sequence[Tensor]) -> Tensor:
    greatest = torch.stack([gradient.abs().max() for gradient in gradients]).max()
    return greatest * nn.utils.get_total_norm([gradient / greatest for gradient in gradients])


def _autocast(tensor: Tensor) -> bool:
    device = tensor.device.type
    # PyTorch raises an error when asked about the device "meta".
    return device != "meta" and torch.is_autocast_enabled(device)


def _learning_rate_factor(
    step: int, schedule: str, warmup_steps: int, steps: float, factor: float = 1.0
) -> float:
    """Factor on the learning rate before step number ``step``, in ``[0, factor]``."""
    # One more in both: the first step is not lost at a rate of 0, and the step after the warm-up
    # is the first at the full rate.
    if step < warmup_steps:
        return factor * (step + 1) / (warmup_steps + 1)
    if schedule in _TO_THE_END:
        progress = min(1.0, (step - warmup_steps) / max(1.0, steps - warmup_steps))
        if schedule == "halved":
            return factor * float(0.5 ** min(3, int(4 * progress)))
        if schedule == "stable_decay":
            return factor * min(1.0, 4 * (1 - progress))
        return factor * (1 + math.cos(math.pi * progress)) / 2
    if schedule == "inverse_sqrt":
        return factor * math.sqrt((warmup_steps + 1) / (step + 1))
    return factor
