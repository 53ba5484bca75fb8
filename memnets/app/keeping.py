"""Callbacks and loggers of every run, for its config, its checkpoints and its errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger

from memnets.app.stopping import restore_handlers
from memnets.files import load_yaml, write_atomically

__all__ = [
    "OPTIMIZER",
    "Changed",
    "SaveConfig",
    "TensorBoard",
    "Watching",
    "best_and_last",
]

#: Place of the optimizer in a config.
OPTIMIZER = "model.init_args.optimizer"


class TensorBoard(TensorBoardLogger):
    """TensorBoard without ``hparams.yaml``; the settings are in ``config.yaml``."""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def save(self) -> None:
        """Write the logs, without settings."""
        super(TensorBoardLogger, self).save()


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

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write the logs, so that after a kill they reach as far as the checkpoint."""
        for logger in trainer.loggers:
            logger.save()


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
