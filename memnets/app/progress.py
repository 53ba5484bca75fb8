"""The progress bar: the place in the epoch and the scores, in one line of a terminal."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar

__all__ = ["ProgressBar"]


class ProgressBar(TQDMProgressBar):
    """Lightning's bar with all scores of the validation, shortened to fit.

    The training loss is ``loss``. A score of the validation has its own name, except for its loss,
    which is ``val/loss``. On a narrow terminal, the speed is cut off first.

    Args:
        refresh_rate: number of batches between two updates, at least 1.
    """

    BAR_FORMAT = "{desc} |{bar}| {n_fmt}/{total_fmt}{postfix} [{rate_noinv_fmt}]"

    def __init__(self, refresh_rate: int = 20) -> None:
        super().__init__(refresh_rate=refresh_rate)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Scores with short names and four digits, without the number of the run."""
        shown: dict[str, Any] = {}
        for name, value in trainer.progress_bar_metrics.items():
            short = name.removeprefix("train/").removeprefix("val/")
            number = f"{value:.4g}" if isinstance(value, float | int) else value
            shown[name if short in shown else short] = number
        return shown
