"""Training: objectives, the Lightning base class of models, schedules and run folders."""

from memnets.training.model import Model
from memnets.training.objectives import (
    Actions,
    Bits,
    Labels,
    NextToken,
    Numbers,
    Objective,
    Tokens,
)
from memnets.training.report import Report
from memnets.training.schedules import Curriculum, MemorySchedule
from memnets.training.trained import Trained, TrainingDiverged

__all__ = [
    "Actions",
    "Bits",
    "Curriculum",
    "Labels",
    "MemorySchedule",
    "Model",
    "NextToken",
    "Numbers",
    "Objective",
    "Report",
    "Tokens",
    "Trained",
    "TrainingDiverged",
]
