"""Training: objectives, the Lightning base of models, schedules, and what a run leaves behind."""

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
