"""Callbacks and loggers of every run, for its config, its checkpoints and its errors."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, Checkpoint, ModelCheckpoint, Timer
from pytorch_lightning.loggers import TensorBoardLogger

from memnets.app.stopping import Stopped, asked_to_stop, patient, restore_handlers
from memnets.files import NotWritten, load_yaml, write_atomically

__all__ = [
    "OPTIMIZER",
    "Changed",
    "SaveConfig",
    "Stopping",
    "TensorBoard",
    "Watching",
    "best_and_last",
    "queue_again",
    "quiet_threads",
]

#: Place of the optimizer in a config.
OPTIMIZER = "model.init_args.optimizer"


class TensorBoard(TensorBoardLogger):
    """TensorBoard without ``hparams.yaml``; the settings are in ``config.yaml``."""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers.

        Raises:
            NotWritten: the logs cannot be written.
        """
        with self._writing():
            super().log_metrics(metrics, step)

    def save(self) -> None:
        """Write the logs, without settings.

        Raises:
            NotWritten: they cannot be written.
        """
        with self._writing():
            super(TensorBoardLogger, self).save()

    def finalize(self, status: str) -> None:
        """Write the rest of the logs.

        Raises:
            NotWritten: they cannot be written.
        """
        with self._writing():
            super().finalize(status)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Say which logs cannot be written."""
        try:
            yield
        except OSError as error:
            raise NotWritten.of(f"the logs in {self.log_dir}", error) from error


@contextmanager
def quiet_threads() -> Iterator[None]:
    """Let the thread that writes TensorBoard's logs end without a traceback.

    The trainer has the same error at its next line of the logs.
    """
    before = threading.excepthook

    def hook(ended: threading.ExceptHookArgs) -> None:
        writer = type(ended.thread).__module__.partition(".")[0] == "tensorboard"
        if not (writer and isinstance(ended.exc_value, OSError)):
            before(ended)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


class SaveConfig(Callback):
    """Write the whole config into the folder of the run, and tell it to the loggers of a new run.

    Args:
        text: the config.
        folder: folder of the run.
        is_new: whether the run begins; the loggers of a resumed one have been told.
    """

    def __init__(self, text: str, folder: Path, is_new: bool = True) -> None:
        self.text = text
        self.folder = folder
        self.is_new = is_new

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the config."""
        # Not earlier: a run that fails to resume must keep its old config.
        self.write(trainer)
        if self.is_new:
            for logger in trainer.loggers:
                logger.log_hyperparams(load_yaml(self.text))

    def write(self, trainer: Trainer) -> None:
        """Write ``config.yaml``, only in the first of several processes."""
        if trainer.is_global_zero:
            path = self.folder / "config.yaml"
            write_atomically(path, lambda file: file.write(self.text.encode()))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the folder is there, before others write what they have seen."""
        self._check_folder(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write the logs, so that after a kill they reach as far as the checkpoint."""
        self._check_folder(trainer)
        for logger in trainer.loggers:
            logger.save()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Check the folder, before the loggers make a new one.

        Who looks after its lock may be the first to miss it, and then interrupts the training.
        """
        self._check_folder(trainer)

    def _check_folder(self, trainer: Trainer) -> None:
        """Check that the folder of the run is still there.

        A new one would hide the loss: where a network folder was, it would lie on another disk.

        Raises:
            NotWritten: it is gone.
        """
        if trainer.is_global_zero and not os.path.isdir(self.folder):
            raise NotWritten(f"cannot write to {self.folder}") from None


class Changed(Callback):
    """Use changed settings of the optimizer in a resumed run, in place of the saved ones.

    Args:
        changed: full names of the changed settings.
    """

    def __init__(self, changed: Sequence[str]) -> None:
        prefix = f"{OPTIMIZER}.init_args."
        names = (name.removeprefix(prefix) for name in changed if name.startswith(prefix))
        self.names = {name.partition(".")[0] for name in names}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the values in the optimizers, and the learning rate in their schedules."""
        for optimizer in trainer.optimizers:
            for name in self.names & set(optimizer.defaults):
                for group in optimizer.param_groups:
                    group[name] = optimizer.defaults[name]
        if "lr" not in self.names:
            return
        for config in trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
                continue
            # The setting is the rate before the schedule's factor.
            groups = scheduler.optimizer.param_groups
            scheduler.base_lrs = [group["lr"] for group in groups]
            for group, factor in zip(groups, scheduler.lr_lambdas, strict=True):
                group["initial_lr"] = group["lr"]
                group["lr"] *= factor(scheduler.last_epoch)


class Watching(Callback):
    """Note the error that ends a run, and keep our own handlers of signals.

    With several processes each one ends by itself; the trainer's handler would wait for the others.
    """

    error: BaseException | None = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Note the error."""
        self.error = exception

    def _listen(self, trainer: Trainer, pl_module: LightningModule) -> None:
        restore_handlers()

    on_train_start = on_validation_start = on_test_start = on_predict_start = _listen


class _Best(ModelCheckpoint):
    """The checkpoint ``best.ckpt``.

    It is a class of its own because a checkpoint stores its state by class: a user's
    ``ModelCheckpoint`` must not share it. A resumed run restores its best score, also if its folder
    has moved; another run that starts from the checkpoint does not.
    """

    goes_on = True

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self.goes_on:
            return
        assert self.dirpath is not None
        here = Path(self.dirpath)
        best = {str(here / Path(k).name): v for k, v in state_dict["best_k_models"].items()}
        paths = {
            name: str(here / Path(state_dict[name]).name) if state_dict[name] else ""
            for name in ("best_model_path", "kth_best_model_path", "last_model_path")
        }
        super().load_state_dict(
            {**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath}
        )


class _Last(ModelCheckpoint):
    """The checkpoint ``last.ckpt``; a class of its own, as :class:`_Best` is.

    The last step of a training is validated and saved, also in the middle of an epoch.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == trainer.max_steps:
            trainer.should_stop = True

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: every checkpoint is saved, so there is no state to restore."""


def best_and_last(folder: Path, monitor: str, goes_on: bool) -> tuple[_Best, _Last]:
    """Callbacks for ``best.ckpt``, and for ``last.ckpt`` after each validation, to resume from.

    ``save_last`` of a single ``ModelCheckpoint`` saves only together with a new best one.
    """
    common: dict[str, Any] = {"save_on_train_epoch_end": False, "enable_version_counter": False}
    best = _Best(folder, filename="best", monitor=f"val/{monitor}", **common)
    best.goes_on = goes_on
    return best, _Last(folder, filename="last", **common)


class Stopping(Checkpoint):
    """End a training between two steps, with ``last.ckpt``, when a signal or its time asks for it.

    The run that goes on from there is, bit for bit, the one that was never stopped. So a validation
    that is due comes first, and the accumulation of gradients is finished. Several processes end at
    the same step.

    It is a kind of checkpoint, which come after all other callbacks: the state that it saves has
    what these have done in a step.

    Args:
        last: writes ``last.ckpt``; of several processes, each knows its folder.
        most: time for this command, in a form that :class:`~pytorch_lightning.callbacks.Timer`
            takes; ``None`` = no limit.
    """

    def __init__(self, last: ModelCheckpoint, most: Any = None) -> None:
        self.last = last
        # It counts from the start of this command, not of the run: nothing of it is saved.
        self._timer = Timer(most)
        self._ends = False
        self._saved_step: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and let signals wait."""
        self._timer.on_train_start(trainer, pl_module)
        says = (
            "the training ends after this step, and the validation if one is due, with a "
            "checkpoint; Ctrl-C again ends it at once"
        )
        patient(True, says if trainer.is_global_zero else "")

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """End the training, if it was asked to and the state before this step is saved.

        Raises:
            Stopped: it was.
        """
        if self._saved_step == trainer.global_step and self._to_end(trainer):
            raise Stopped(asked_to_stop())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save the state after this step, if the training was asked to end and may end here."""
        if self._to_end(trainer) and not trainer.should_stop and self._between_steps(trainer):
            assert self.last.dirpath is not None
            trainer.save_checkpoint(Path(self.last.dirpath, "last.ckpt"))
            self._saved_step = trainer.global_step

    def _to_end(self, trainer: Trainer) -> bool:
        """Whether the training is to end: all of several processes say the same."""
        left = self._timer.time_remaining()
        ends = asked_to_stop() is not None or (left is not None and left <= 0)
        if trainer.world_size > 1:
            ends = trainer.strategy.reduce_boolean_decision(ends, all=False)
        self._ends = self._ends or ends
        return self._ends

    def _between_steps(self, trainer: Trainer) -> bool:
        """Whether nothing else is due after this batch, neither a validation nor an epoch's end."""
        loop = trainer.fit_loop.epoch_loop
        fetcher = trainer.fit_loop._data_fetcher
        assert fetcher is not None
        return not (
            loop._should_accumulate()
            or loop._num_ready_batches_reached()
            or loop._should_check_val_fx(fetcher)
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that ``last.ckpt`` is of this step."""
        if not trainer.sanity_checking:
            self._saved_step = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let no signal wait: the test that follows is done again in any case.

        Raises:
            Stopped: a signal came during the last step.
        """
        patient(False)


def queue_again(trainer: Trainer, signum: int | None) -> bool:
    """Ask Slurm to queue a job again, as Lightning does where nobody saves before it.

    Args:
        trainer: the trainer of the job; its plugin ``SLURMEnvironment`` has the signal, and whether
            to do so (``auto_requeue``).
        signum: the signal that ended the training.

    Returns:
        Whether the job is in the queue again.
    """
    environment = trainer._accelerator_connector.cluster_environment
    if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
        return False
    if signum is None or signum != (environment.requeue_signal or signal.SIGUSR1):
        return False
    job = os.environ.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    command = shutil.which("scontrol")
    if not trainer.is_global_zero or command is None or not job:
        return False
    return subprocess.run([command, "requeue", job]).returncode == 0
