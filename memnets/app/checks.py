"""Checks of settings and of the machine that would fail late in a training, or in unclear words."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["check_compiler", "check_trainer"]


def check_compiler() -> None:
    """Check that there is what ``torch.compile`` needs.

    Raises:
        ValueError: there is not.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise ValueError(
            "--compile=true needs a C++ compiler, such as g++ (the variable CXX names another); "
            "none was found"
        ) from None


def check_trainer(trainer: Any) -> None:
    """Check settings that the trainer accepts, but with which it fails later.

    Raises:
        ValueError: a setting is out of its range.
    """
    batches = trainer.get("accumulate_grad_batches")
    if batches is not None and batches < 1:
        raise ValueError(f"trainer.accumulate_grad_batches must be at least 1; got {batches}")
    epochs = trainer.get("check_val_every_n_epoch")
    if epochs is not None and epochs < 1:
        raise ValueError(f"trainer.check_val_every_n_epoch must be at least 1; got {epochs}")
    every = trainer.get("val_check_interval")
    if isinstance(every, (int, float)) and every <= 0:
        raise ValueError(
            f"trainer.val_check_interval must be more than 0; got {every}; "
            "to train without validation, give trainer.limit_val_batches=0"
        )
    time = trainer.get("max_time")
    if isinstance(time, str) and not re.fullmatch(r"\d+:\d\d:\d\d:\d\d", time.strip()):
        raise ValueError(
            "trainer.max_time must be days, hours, minutes and seconds, DD:HH:MM:SS, such as "
            f"00:11:30:00; got {time}"
        )
    if trainer.get("barebones"):
        raise ValueError(
            "trainer.barebones leaves out the log, by which runs are scored and checkpoints "
            "chosen; for a quick try, give trainer.fast_dev_run=true"
        )
