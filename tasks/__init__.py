"""Tasks: what the models are trained on. A batch is a pure function of (seed, split, index)."""

from tasks.base import Task
from tasks.copying import Copying, RepeatCopying
from tasks.fewshot import FewShot, Sinusoids
from tasks.geometry import ConvexHull, Delaunay, TravellingSalesman
from tasks.pointing import PointingTask, SortingNumbers
from tasks.tokens import CopyingTokens, SortingTokens
from tasks.translation import Translation

__all__ = [
    "ConvexHull",
    "Copying",
    "CopyingTokens",
    "Delaunay",
    "FewShot",
    "PointingTask",
    "RepeatCopying",
    "Sinusoids",
    "SortingNumbers",
    "SortingTokens",
    "Task",
    "Translation",
    "TravellingSalesman",
]
