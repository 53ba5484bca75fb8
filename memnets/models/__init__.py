"""Models: Lightning modules that encode a source and decode an answer over explicit state."""

from memnets.models.base import Model, TrainingDiverged
from memnets.models.episodes import MetaLearner, Prototypical
from memnets.models.machine import MachineState, MemoryMachine
from memnets.models.pointer import PointerNetwork, PointerState
from memnets.models.seq2seq import Seq2Seq, Seq2SeqState
from memnets.models.snail import SNAIL, SNAILState
from memnets.models.transformer import (
    CausalState,
    CausalTransformer,
    Transformer,
    TransformerState,
)

__all__ = [
    "SNAIL",
    "CausalState",
    "CausalTransformer",
    "MachineState",
    "MemoryMachine",
    "MetaLearner",
    "Model",
    "PointerNetwork",
    "PointerState",
    "Prototypical",
    "SNAILState",
    "Seq2Seq",
    "Seq2SeqState",
    "TrainingDiverged",
    "Transformer",
    "TransformerState",
]
