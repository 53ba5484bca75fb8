"""Tasks: what the models are trained on. A batch is a pure function of (seed, split, index)."""

from tasks.base import Task
from tasks.copying import Copying, RepeatCopying
from tasks.fewshot import FewShot, Sinusoids
from tasks.tokens import CopyingTokens, SortingTokens
from tasks.translation import Translation

__all__ = [
    "Copying",
    "CopyingTokens",
    "FewShot",
    "RepeatCopying",
    "Sinusoids",
    "SortingTokens",
    "Task",
    "Translation",
]
