"""The progress bar: how far an epoch is, and the scores, in a line that a terminal holds."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar

__all__ = ["ProgressBar"]


class ProgressBar(TQDMProgressBar):
    """Lightning's bar with all scores of the validation, shortened to fit.

    The loss of training is ``loss``; a score of the validation goes by its own name, but for one of
    that name, which is ``val/loss``. What does not fit a narrow terminal is the speed.

    Args:
        refresh_rate: batches between two updates, at least 1.
    """

    BAR_FORMAT = "{desc} |{bar}| {n_fmt}/{total_fmt}{postfix} [{rate_noinv_fmt}]"

    def __init__(self, refresh_rate: int = 20) -> None:
        super().__init__(refresh_rate=refresh_rate)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Short names and four digits; the number of the run is left out."""
        shown: dict[str, Any] = {}
        for name, value in trainer.progress_bar_metrics.items():
            short = name.removeprefix("train/").removeprefix("val/")
            number = f"{value:.4g}" if isinstance(value, float | int) else value
            shown[name if short in shown else short] = number
        return shown
