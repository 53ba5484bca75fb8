"""Cells: parts that take steps over explicit state (:class:`memnets.core.Cell`)."""

from memnets.cells.attention import (
    AttentionBlock,
    CrossAttention,
    EncoderLayer,
    EncoderStack,
    MultiHead,
    SelfAttention,
    Slots,
    TransformerLayer,
    causal_mask,
    transformer_stack,
)
from memnets.cells.bridge import Bridge
from memnets.cells.composed import (
    Chain,
    Connection,
    Loop,
    LoopState,
    Pointwise,
    Residual,
    residual_stack,
)
from memnets.cells.convolutions import DenseBlock, TCBlock
from memnets.cells.dropout import Dropout
from memnets.cells.embeddings import (
    Embedding,
    Inputs,
    LearnedPositions,
    OneHot,
    Output,
    Positions,
    SinusoidalPositions,
    Vectors,
    tied_embeddings,
)
from memnets.cells.perceptron import Perceptron
from memnets.cells.recurrent import GRU, LSTM, LSTMN, FeedForward, LSTMNState, LSTMState

__all__ = [
    "GRU",
    "LSTM",
    "LSTMN",
    "AttentionBlock",
    "Bridge",
    "Chain",
    "Connection",
    "CrossAttention",
    "DenseBlock",
    "Dropout",
    "Embedding",
    "EncoderLayer",
    "EncoderStack",
    "FeedForward",
    "Inputs",
    "LSTMNState",
    "LSTMState",
    "LearnedPositions",
    "Loop",
    "LoopState",
    "MultiHead",
    "OneHot",
    "Output",
    "Perceptron",
    "Pointwise",
    "Positions",
    "Residual",
    "SelfAttention",
    "SinusoidalPositions",
    "Slots",
    "TCBlock",
    "TransformerLayer",
    "Vectors",
    "causal_mask",
    "residual_stack",
    "tied_embeddings",
    "transformer_stack",
]
