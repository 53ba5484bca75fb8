"""Schedules: the memory over training, a curriculum, and a linear start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as lightning

from memnets.checks import check_positive

__all__ = ["Curriculum", "LinearStart", "MemorySchedule", "whole_length"]


def whole_length(trainer: lightning.Trainer) -> float:
    """Number of steps of the whole training; infinite if nothing but time ends it."""
    # For data without a length, Lightning gives ``max_steps`` as it is: -1 if it is not set.
    steps = trainer.estimated_stepping_batches
    return steps if steps >= 0 else math.inf


class MemorySchedule(lightning.Callback):
    """Change settings of a memory during training, and its size for validation and tests.

    No parameter depends on the number of slots N. In a small memory, a head that wraps around
    overwrites slots that it still needs, so in training it learns to keep its place. A small memory
    in validation selects a checkpoint that does so. Settings that are not named keep the model's
    values.

    Args:
        training: for a share of the training, in ``[0, 1)``, the settings of the access from then
            on, such as ``{0.5: {slots: 128, noise: 0.0}}``. A list of values is used in turn, one
            for each batch.
        validation: N for the validation.
        testing: N for test sets, by name.

    Raises:
        ValueError: a share or a number is out of its range.
    """

    def __init__(
        self,
        training: dict[float, dict[str, Any]] | None = None,
        validation: int | None = None,
        testing: dict[str, int] | None = None,
    ) -> None:
        self.training = dict(sorted((training or {}).items()))
        self.validation = validation
        self.testing = testing or {}
        for share in self.training:
            if not 0 <= share < 1:
                raise ValueError(
                    f"training maps a share of the training in [0, 1) to settings; got {share}"
                )
        empty = [
            name for due in self.training.values() for name, value in due.items() if value == []
        ]
        if empty:
            raise ValueError(f"a list of settings needs at least one; got none for {empty[0]}")
        for slots in [*self.testing.values(), *([] if validation is None else [validation])]:
            check_positive(slots=slots)

    def setup(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        """Check that the model's memory has these settings and takes them, and note their values.

        Raises:
            ValueError: the memory lacks a setting, or does not take a value.
        """
        access = getattr(pl_module, "access", None)
        sized = bool(self.testing) or self.validation is not None
        names = ({"slots"} if sized else set()).union(*self.training.values())
        missing = sorted(name for name in names if not hasattr(access, name))
        if missing:
            raise ValueError(
                f"MemorySchedule needs a model whose access has {', '.join(sorted(names))}; "
                f"{type(pl_module).__name__} with access {type(access).__name__} lacks "
                f"{', '.join(missing)}; leave them out of its settings, or the callback out, as "
                "--trainer.callbacks=[] does"
            )
        task: Any = trainer.datamodule  # type: ignore[attr-defined]
        unknown = sorted(set(self.testing) - set([] if task is None else task.test_names()))
        if unknown and task is not None and trainer.is_global_zero:
            there = ", ".join(task.test_names())
            print(
                f"MemorySchedule has settings for {', '.join(unknown)}, which the task does not "
                f"have; they are left out, and its test sets are {there}"
            )
        present = {name: getattr(access, name) for name in names}
        if not hasattr(self, "usual"):
            self.usual: dict[str, Any] = present
        # All at once, so that a value is not refused when its share of the training is due.
        due = [pair for settings in self.training.values() for pair in settings.items()]
        if sized:
            due.append(("slots", [*self.testing.values(), self.validation or present["slots"]]))
        try:
            for name, value in due:
                for each in value if isinstance(value, list) else [value]:
                    setattr(access, name, each)
        except (TypeError, ValueError) as error:
            raise type(error)(f"MemorySchedule: {error}") from error
        finally:
            for name, value in present.items():
                setattr(access, name, value)

    @property
    def _shares(self) -> bool:
        """Whether there are settings for a later share of the training than its beginning."""
        return any(self.training)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Check that the training has a length, of which there are shares.

        Raises:
            ValueError: it has none.
        """
        if self._shares:
            _check_length(trainer, "MemorySchedule with settings for shares of the training")

    def _set(self, pl_module: Any, **settings: Any) -> None:
        for name, value in {**self.usual, **settings}.items():
            setattr(pl_module.access, name, value)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Set the values for the present share of the training."""
        done = trainer.global_step / whole_length(trainer) if self._shares else 0.0
        due = [settings for share, settings in self.training.items() if share <= done]
        settings = due[-1] if due else {}
        step = trainer.global_step
        self._set(
            pl_module,
            **{
                name: value[step % len(value)] if isinstance(value, list) else value
                for name, value in settings.items()
            },
        )

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Set N for the validation."""
        self._set(pl_module, **({} if self.validation is None else {"slots": self.validation}))

    def on_test_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Set N by the name of the test set."""
        self.prepare(trainer, pl_module, _test_names(trainer)[dataloader_idx])

    on_predict_batch_start = on_test_batch_start

    def prepare(self, trainer: lightning.Trainer, pl_module: Any, name: str) -> None:
        """Set N for the test set ``name``."""
        self._set(pl_module, **({"slots": self.testing[name]} if name in self.testing else {}))


class Curriculum(lightning.Callback):
    """Make the training harder when the model has become good at it.

    A setting of the task takes one value after the other, the next one once the training loss is
    low. Each new value is printed in a line, and so is the end of a training that has not come to
    the last one. Checkpoints keep the place, so that a resumed run
    continues with the same value.

    Args:
        setting: name of a setting of the task, such as ``training_repeats`` of
            :class:`~tasks.RepeatCopying`.
        values: values of the setting, at least one.
        loss: bound below which a moving average of the loss must fall, more than 0.
        steps: number of batches of the moving average, and fewest batches with each value, at
            least 1.
        longest: share of the training after which the last value comes at the latest, whatever the
            loss, in ``(0, 1]``; the values before share this time in equal parts. It needs the
            trainer's ``max_steps`` or ``max_epochs``. ``None``, the default, waits for the loss.

    A value that the task refuses is an error, not cut to what the task takes: the stages would no
    longer be those that the losses were chosen for.

    Raises:
        ValueError: a setting is out of its range.
    """

    def __init__(
        self,
        setting: str,
        values: Sequence[Any],
        loss: float,
        steps: int = 20,
        longest: float | None = None,
    ) -> None:
        check_positive(steps=steps)
        if longest is not None and not 0 < longest <= 1:
            raise ValueError(f"longest must be in (0, 1]; got {longest}")
        if not values:
            raise ValueError("values must have at least one for the setting; got none")
        if loss <= 0:
            raise ValueError(f"loss must be more than 0; got {loss}")
        self.setting = setting
        self.values = list(values)
        self.loss = loss
        self.steps = steps
        self.longest = longest
        self._stage = 0
        self._taken = 0
        self._average = 0.0

    @property
    def state_key(self) -> str:
        """Key of the callback's state, one for each setting."""
        return self._generate_state_key(setting=self.setting)

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint: the place in the values, and the average so far."""
        return {"stage": self._stage, "taken": self._taken, "average": self._average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint.

        Raises:
            ValueError: the place of the checkpoint is beyond the values.
        """
        if state_dict["stage"] >= len(self.values):
            raise ValueError(
                f"the run that goes on is at value {state_dict['stage'] + 1} of {self.setting}; "
                f"the curriculum has {len(self.values)}"
            )
        self._stage, self._taken, self._average = (
            state_dict[name] for name in ("stage", "taken", "average")
        )

    def setup(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        """Check that the task accepts the values and has no workers.

        Raises:
            ValueError: the task lacks the setting, refuses a value, or makes batches ahead of time.
        """
        task: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(task, self.setting):
            raise ValueError(
                f"Curriculum needs a task that has {self.setting!r}; {type(task).__name__} has not"
            )
        if stage == "fit" and task.workers:
            raise ValueError(
                f"Curriculum needs a task that makes its batches when they are asked for: "
                f"workers must be 0; got {task.workers}"
            )
        # By default a task may have a worker, which would not see the new values.
        if stage == "fit":
            task.workers = 0
        usual = getattr(task, self.setting)
        # A value that the task refuses must be an error now, not hours later.
        for value in self.values:
            try:
                setattr(task, self.setting, value)
            except (ValueError, TypeError) as error:
                setattr(task, self.setting, usual)
                raise ValueError(
                    f"Curriculum gives {self.setting} the values {self.values}; {error}; give "
                    "others, --trainer.callbacks.values=[...], or leave it out: "
                    "--trainer.callbacks=[]"
                ) from error
        setattr(task, self.setting, usual)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Set the present value.

        Raises:
            ValueError: the training has no length, of which ``longest`` is a share.
        """
        if self.longest is not None:
            _check_length(trainer, "Curriculum with longest")
        self._set(trainer)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Go on to the next value if the loss is low, or the time of this one is over."""
        # Lightning has divided the loss by the number of accumulated batches.
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches
        loss = float(trainer.strategy.reduce(loss, reduce_op="mean"))
        self._taken += 1
        # A plain mean of the first steps, then an exponential moving average.
        self._average += (loss - self._average) / min(self._taken, self.steps)
        last = self._stage + 1 == len(self.values)
        low = self._taken >= self.steps and self._average < self.loss
        if not last and (low or self._is_late(trainer)):
            self._stage, self._taken, self._average = self._stage + 1, 0, 0.0
            self._set(trainer)
            # By the model, which prints once for all processes, above a progress bar.
            value = self.values[self._stage]
            pl_module.print(f"step {trainer.global_step}: {self.setting} is now {value}")

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Say it if the training ends before the last value: tests may be of what never came."""
        if self._stage + 1 == len(self.values):
            return
        value, last, of = self.values[self._stage], self.values[-1], len(self.values)
        average = f", their loss was {self._average:.3g}" if self._taken else ""
        pl_module.print(
            f"step {trainer.global_step}: the training ends with {self.setting} at {value}, value "
            f"{self._stage + 1} of {of}; the last, {last}, never came. The next one comes after "
            f"{self.steps} batches with a loss below {self.loss:g}; so far {self._taken}{average}. "
            "Train longer, or raise loss, or give longest, the share of the training after which "
            "the last one comes"
        )

    def _is_late(self, trainer: lightning.Trainer) -> bool:
        if self.longest is None:
            return False
        done = trainer.global_step / whole_length(trainer)
        return done >= self.longest * (self._stage + 1) / (len(self.values) - 1)

    def _set(self, trainer: lightning.Trainer) -> None:
        task: Any = trainer.datamodule  # type: ignore[attr-defined]
        setattr(task, self.setting, self.values[self._stage])


class LinearStart(lightning.Callback):
    """Begin without the softmax of a memory network (Sukhbaatar et al. 2015, section 4.2).

    Without it the model is linear but for the answer, and learns more easily. The softmax comes in
    when the validation loss no longer falls.

    Args:
        patience: number of validations in a row without a lower loss, after which the softmax comes
            in, at least 1.
        longest: share of the training after which it comes in at the latest, in ``(0, 1)``.
        rate: factor on the learning rate before, in ``(0, 1]``.

    Raises:
        ValueError: a setting is out of its range.
    """

    def __init__(self, patience: int = 3, longest: float = 0.25, rate: float = 0.5) -> None:
        check_positive(patience=patience)
        if not 0 < longest < 1:
            raise ValueError(f"longest must be in (0, 1); got {longest}")
        if not 0 < rate <= 1:
            raise ValueError(f"rate must be in (0, 1]; got {rate}")
        self.patience = patience
        self.longest = longest
        self.rate = rate
        self._best = float("inf")
        self._waited = 0

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint: the lowest loss, and the validations since."""
        return {"best": self._best, "waited": self._waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self._best, self._waited = state_dict["best"], state_dict["waited"]

    def setup(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        """Check that the model can be linear.

        Raises:
            ValueError: it cannot.
        """
        if not isinstance(getattr(pl_module, "linear", None), bool):
            raise ValueError(
                "LinearStart needs a model with the setting linear, such as MemoryNetwork; "
                f"got {type(pl_module).__name__}; leave the callback out, as "
                "--trainer.callbacks=[] does"
            )

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Make the model linear, unless the training goes on from a checkpoint."""
        if trainer.global_step == 0:
            pl_module.linear = True

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Lower the learning rate of a linear model; end the start at its latest."""
        if trainer.global_step >= self.longest * whole_length(trainer):
            pl_module.linear = False
        if pl_module.linear:
            # The scheduler sets the rate anew after each step.
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = group["lr"] * self.rate

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """End the start when the loss no longer falls."""
        if trainer.sanity_checking or not pl_module.linear or trainer.state.fn != "fit":
            return
        name = f"val/{pl_module.objective.monitor}"
        loss = float(trainer.callback_metrics[name])
        self._waited = 0 if loss < self._best else self._waited + 1
        self._best = min(self._best, loss)
        if self._waited >= self.patience:
            pl_module.linear = False


def _check_length(trainer: lightning.Trainer, name: str) -> None:
    """Check that it is known how many steps the whole training has.

    Raises:
        ValueError: it is not.
    """
    if whole_length(trainer) == math.inf:
        raise ValueError(
            f"{name} needs a training whose number of steps is known: give trainer.max_steps, or "
            "trainer.max_epochs for a task whose epochs have an end; got a training without an end"
        )


def _test_names(trainer: lightning.Trainer) -> list[str]:
    names: list[str] = trainer.datamodule.test_names()  # type: ignore[attr-defined]
    return names
