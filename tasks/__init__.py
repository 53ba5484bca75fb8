"""Tasks: what the models are trained on. A batch is a pure function of (seed, split, index)."""

from tasks.base import Task
from tasks.copying import Copying, RepeatCopying
from tasks.ngrams import DynamicNGrams
from tasks.priority import PrioritySort
from tasks.recall import AssociativeRecall
from tasks.tokens import CopyingTokens, SortingTokens
from tasks.translation import Translation

__all__ = [
    "AssociativeRecall",
    "Copying",
    "CopyingTokens",
    "DynamicNGrams",
    "PrioritySort",
    "RepeatCopying",
    "SortingTokens",
    "Task",
    "Translation",
]
