"""Models: Lightning modules that encode a source and decode an answer over explicit state."""

from memnets.models.base import Model, TrainingDiverged
from memnets.models.machine import MachineState, MemoryMachine
from memnets.models.pointer import PointerNetwork, PointerState
from memnets.models.seq2seq import Seq2Seq, Seq2SeqState
from memnets.models.transformer import (
    CausalState,
    CausalTransformer,
    Transformer,
    TransformerState,
)

__all__ = [
    "CausalState",
    "CausalTransformer",
    "MachineState",
    "MemoryMachine",
    "Model",
    "PointerNetwork",
    "PointerState",
    "Seq2Seq",
    "Seq2SeqState",
    "TrainingDiverged",
    "Transformer",
    "TransformerState",
]
