"""Memories: what a machine reads from and writes to."""

from memnets.memories.ntm import NTM, NTMState
from memnets.memories.tape import Tape, TapeState

__all__ = ["NTM", "NTMState", "Tape", "TapeState"]
