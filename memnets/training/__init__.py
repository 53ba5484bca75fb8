"""Training: objectives, the Lightning base class of models, schedules and run folders."""

from memnets.training.model import Model
from memnets.training.objectives import (
    Actions,
    Bits,
    Candidates,
    Labels,
    NextToken,
    Numbers,
    Objective,
    Symbols,
    Tokens,
)
from memnets.training.report import Report
from memnets.training.schedules import Curriculum, LinearStart, MemorySchedule
from memnets.training.trained import Trained, TrainingDiverged

__all__ = [
    "Actions",
    "Bits",
    "Candidates",
    "Curriculum",
    "Labels",
    "LinearStart",
    "MemorySchedule",
    "Model",
    "NextToken",
    "Numbers",
    "Objective",
    "Report",
    "Symbols",
    "Tokens",
    "Trained",
    "TrainingDiverged",
]
