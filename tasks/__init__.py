"""Tasks: sources of data for the models. A batch is a pure function of (seed, split, index)."""

from tasks import symbols
from tasks.babi import Babi
from tasks.base import Task
from tasks.captions import Captions
from tasks.copying import Copying, RepeatCopying, Reversing
from tasks.countries import Countries
from tasks.entailment import Entailment, PropositionalLogic
from tasks.fewshot import Bandits, FewShot, OnlineFewShot, Sinusoids
from tasks.geometry import ConvexHull, Delaunay, TravellingSalesman
from tasks.images import Images
from tasks.language import Language
from tasks.ngrams import DynamicNGrams
from tasks.pointing import PointingTask, SortingNumbers
from tasks.priority import PrioritySort
from tasks.pronunciation import Pronunciation
from tasks.recall import AssociativeRecall
from tasks.sentiment import Sentiment
from tasks.tokens import CopyingTokens, SortingTokens
from tasks.translation import Translation

__all__ = [
    "AssociativeRecall",
    "Babi",
    "Bandits",
    "Captions",
    "ConvexHull",
    "Copying",
    "CopyingTokens",
    "Countries",
    "Delaunay",
    "DynamicNGrams",
    "Entailment",
    "FewShot",
    "Images",
    "Language",
    "OnlineFewShot",
    "PointingTask",
    "PrioritySort",
    "Pronunciation",
    "PropositionalLogic",
    "RepeatCopying",
    "Reversing",
    "Sentiment",
    "Sinusoids",
    "SortingNumbers",
    "SortingTokens",
    "Task",
    "Translation",
    "TravellingSalesman",
    "symbols",
]
