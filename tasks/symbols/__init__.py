"""Tasks from a string of symbols to a string of symbols, and a base class to write more."""

from tasks.symbols.arithmetic import BracketArithmetic, ModularArithmetic, SolvingEquations
from tasks.symbols.base import SILENT, Example, SymbolTask
from tasks.symbols.binary import BinaryAddition, BinaryMultiplication, SquareRoots
from tasks.symbols.groups import GroupWords
from tasks.symbols.recall import FlipFlop, Induction, MultiQueryRecall, SelectiveCopying
from tasks.symbols.regular import CycleNavigation, EvenPairs, Parity
from tasks.symbols.strings import (
    BucketSorting,
    Duplicating,
    MissingDuplicate,
    OddsFirst,
    PrioritySorting,
    RepeatCopying,
    Repeating,
    Reversal,
    StackManipulation,
)

__all__ = [
    "SILENT",
    "BinaryAddition",
    "BinaryMultiplication",
    "BracketArithmetic",
    "BucketSorting",
    "CycleNavigation",
    "Duplicating",
    "EvenPairs",
    "Example",
    "FlipFlop",
    "GroupWords",
    "Induction",
    "MissingDuplicate",
    "ModularArithmetic",
    "MultiQueryRecall",
    "OddsFirst",
    "Parity",
    "PrioritySorting",
    "RepeatCopying",
    "Repeating",
    "Reversal",
    "SelectiveCopying",
    "SolvingEquations",
    "SquareRoots",
    "StackManipulation",
    "SymbolTask",
]
