"""Training: objectives, the Lightning base of models, schedules, and what a run leaves behind."""

from memnets.training.model import Model, TrainingDiverged
from memnets.training.objectives import Actions, Bits, Labels, Numbers, Objective, Tokens

__all__ = [
    "Actions",
    "Bits",
    "Labels",
    "Model",
    "Numbers",
    "Objective",
    "Tokens",
    "TrainingDiverged",
]
