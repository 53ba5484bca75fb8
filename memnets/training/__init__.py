"""Training: objectives, the Lightning base class of models, schedules and run folders."""

from importlib import import_module
from typing import Any

from memnets.training.model import Model, TrainingDiverged
from memnets.training.objectives import Actions, Bits, Labels, Numbers, Objective, Tokens
from memnets.training.report import Report
from memnets.training.schedules import Curriculum, MemorySchedule

__all__ = [
    "Actions",
    "Bits",
    "Curriculum",
    "Labels",
    "MemorySchedule",
    "Model",
    "Numbers",
    "Objective",
    "Report",
    "Tokens",
    "TrainingDiverged",
]


def __getattr__(name: str) -> Any:
    if name in ("Curriculum", "MemorySchedule"):  # they stand below the models, which stand below
        return getattr(import_module("memnets.training.callbacks"), name)
    raise AttributeError(f"module 'memnets.training' has no attribute {name!r}")
