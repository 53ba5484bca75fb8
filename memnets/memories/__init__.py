"""Memories that a machine reads and writes."""

from memnets.memories.dnc import DNC, DNCQueries, DNCState
from memnets.memories.linear import (
    GLA,
    KDA,
    DeltaNet,
    DeltaProduct,
    GatedDeltaNet,
    Linear,
    LinearAttention,
    LinearState,
    LinearStep,
    Mamba2,
    RetNet,
)
from memnets.memories.lrua import LRUA, LRUAState
from memnets.memories.moving import MovingTape, MovingTapeState
from memnets.memories.ntm import NTM, NTMState
from memnets.memories.sam import SAM, SAMState
from memnets.memories.slotted import Slotted
from memnets.memories.stack import Stack, StackState
from memnets.memories.strengths import (
    NeuralDeque,
    NeuralQueue,
    NeuralStack,
    NeuralState,
    Strengths,
)
from memnets.memories.tape import Tape, TapeState
from memnets.memories.ttt import TTT, TTTState

__all__ = [
    "DNC",
    "GLA",
    "KDA",
    "LRUA",
    "NTM",
    "SAM",
    "TTT",
    "DNCQueries",
    "DNCState",
    "DeltaNet",
    "DeltaProduct",
    "GatedDeltaNet",
    "LRUAState",
    "Linear",
    "LinearAttention",
    "LinearState",
    "LinearStep",
    "Mamba2",
    "MovingTape",
    "MovingTapeState",
    "NTMState",
    "NeuralDeque",
    "NeuralQueue",
    "NeuralStack",
    "NeuralState",
    "RetNet",
    "SAMState",
    "Slotted",
    "Stack",
    "StackState",
    "Strengths",
    "TTTState",
    "Tape",
    "TapeState",
]
