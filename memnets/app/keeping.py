"""The callbacks and loggers that every run has: its config, its checkpoints, its errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger

from memnets.app.stopping import restore_handlers
from memnets.files import write_atomically

__all__ = [
    "OPTIMIZER",
    "Changed",
    "SaveConfig",
    "TensorBoard",
    "Watching",
    "best_and_last",
]

#: Where a config has the optimizer.
OPTIMIZER = "model.init_args.optimizer"


class TensorBoard(TensorBoardLogger):
    """Without ``hparams.yaml``, which would be empty: the settings are in ``config.yaml``."""

    def save(self) -> None:
        """Write what is logged, and no settings."""
        super(TensorBoardLogger, self).save()


class SaveConfig(Callback):
    """The whole config goes into the run's folder; the model puts it into every checkpoint."""

    def __init__(self, text: str, folder: Path) -> None:
        self.text = text
        self.folder = folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the config; not before: a run that cannot go on keeps the config that it had."""
        self.write(trainer)

    def write(self, trainer: Trainer) -> None:
        """Write ``config.yaml``, on the first of several processes alone."""
        if trainer.is_global_zero:
            path = self.folder / "config.yaml"
            write_atomically(path, lambda file: file.write(self.text.encode()))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write the logs: what was logged up to here must outlive a kill, as a checkpoint does."""
        for logger in trainer.loggers:
            logger.save()


class Changed(Callback):
    """A run that goes on takes the settings of its optimizer that were changed, not those saved.

    Args:
        changed: whole names of settings.
    """

    def __init__(self, changed: Sequence[str]) -> None:
        prefix = f"{OPTIMIZER}.init_args."
        names = (name.removeprefix(prefix) for name in changed if name.startswith(prefix))
        self.names = {name.partition(".")[0] for name in names}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set them in the optimizers, and the learning rate in their schedules."""
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
            # The rate that was asked for is that before the schedule.
            groups = scheduler.optimizer.param_groups
            scheduler.base_lrs = [group["lr"] for group in groups]
            for group, factor in zip(groups, scheduler.lr_lambdas, strict=True):
                group["initial_lr"] = group["lr"]
                group["lr"] *= factor(scheduler.last_epoch)


class Watching(Callback):
    """Note the error that ends a run; and listen to signals, where the trainer would do otherwise.

    Of several processes, each ends alone: the trainer's handler would wait for the others.
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
    """``best.ckpt``; a class of its own, so that its state is not taken for that of a user's.

    Checkpoints keep its state under the name of this class.

    A run that goes on knows how good it was, wherever its folder is now; another run that begins
    with its checkpoint does not.
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
    """``last.ckpt``; a class of its own, so that its state is not taken for that of a user's.

    The last step of a training is validated, and so saved, also where an epoch goes on after it.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == trainer.max_steps:
            trainer.should_stop = True

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing: it saves whatever comes."""


def best_and_last(folder: Path, monitor: str, goes_on: bool) -> tuple[_Best, _Last]:
    """``best.ckpt`` by validation, and ``last.ckpt`` after each, to go on from.

    ``save_last`` of the first will not do: it saves only when the best is saved too.
    """
    common: dict[str, Any] = {"save_on_train_epoch_end": False, "enable_version_counter": False}
    best = _Best(folder, filename="best", monitor=f"val/{monitor}", **common)
    best.goes_on = goes_on
    return best, _Last(folder, filename="last", **common)
