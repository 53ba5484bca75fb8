"""Tasks: sources of data for the models. A batch is a pure function of (seed, split, index)."""

from tasks.base import Task
from tasks.copying import Copying, RepeatCopying
from tasks.fewshot import Bandits, FewShot, Sinusoids
from tasks.geometry import ConvexHull, Delaunay, TravellingSalesman
from tasks.images import Images
from tasks.language import Language
from tasks.ngrams import DynamicNGrams
from tasks.pointing import PointingTask, SortingNumbers
from tasks.priority import PrioritySort
from tasks.recall import AssociativeRecall
from tasks.tokens import CopyingTokens, SortingTokens
from tasks.translation import Translation

__all__ = [
    "AssociativeRecall",
    "Bandits",
    "ConvexHull",
    "Copying",
    "CopyingTokens",
    "Delaunay",
    "DynamicNGrams",
    "FewShot",
    "Images",
    "Language",
    "PointingTask",
    "PrioritySort",
    "RepeatCopying",
    "Sinusoids",
    "SortingNumbers",
    "SortingTokens",
    "Task",
    "Translation",
    "TravellingSalesman",
]
