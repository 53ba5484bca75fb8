"""Models: Lightning modules that encode a source and decode an answer over explicit state."""

from memnets.models.convs2s import ConvS2S, ConvS2SState
from memnets.models.decomposable import DecomposableAttention
from memnets.models.episodes import MetaLearner, OnlineLearner, OnlineState, Prototypical
from memnets.models.gan import GAN
from memnets.models.key_value import KeyValueNetwork
from memnets.models.machine import MemoryMachine
from memnets.models.memory_network import MemoryNetwork
from memnets.models.pointer import PointerNetwork, PointerState
from memnets.models.reinforce import Reinforce
from memnets.models.seq2seq import Seq2Seq, Seq2SeqState
from memnets.models.sequence import SequenceModel, SequenceState
from memnets.models.snail import SNAIL
from memnets.models.transformer import CausalTransformer, StackModel, Transformer, TransformerState
from memnets.training.model import Model
from memnets.training.trained import Trained, TrainingDiverged

__all__ = [
    "GAN",
    "SNAIL",
    "CausalTransformer",
    "ConvS2S",
    "ConvS2SState",
    "DecomposableAttention",
    "KeyValueNetwork",
    "MemoryMachine",
    "MemoryNetwork",
    "MetaLearner",
    "Model",
    "OnlineLearner",
    "OnlineState",
    "PointerNetwork",
    "PointerState",
    "Prototypical",
    "Reinforce",
    "Seq2Seq",
    "Seq2SeqState",
    "SequenceModel",
    "SequenceState",
    "StackModel",
    "Trained",
    "TrainingDiverged",
    "Transformer",
    "TransformerState",
]
