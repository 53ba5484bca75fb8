"""Memories that a machine reads and writes."""

from memnets.memories.dnc import DNC, DNCQueries, DNCState
from memnets.memories.lrua import LRUA, LRUAState
from memnets.memories.ntm import NTM, NTMState
from memnets.memories.slotted import Slotted
from memnets.memories.stack import Stack, StackState
from memnets.memories.tape import Tape, TapeState

__all__ = [
    "DNC",
    "LRUA",
    "NTM",
    "DNCQueries",
    "DNCState",
    "LRUAState",
    "NTMState",
    "Slotted",
    "Stack",
    "StackState",
    "Tape",
    "TapeState",
]
