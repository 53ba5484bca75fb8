"""Memory-augmented neural networks on one differentiable read/write addressing abstraction.

``import memnets as mn`` gives the parts by their names, each loaded when it is first used::

    model = mn.MemoryMachine(9, 8, partial(mn.LSTM, hidden_size=100), mn.NTM(slots=128, width=20))
    model = mn.load("runs/copying/ntm/version_0")

Start with :mod:`memnets.core`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from memnets import _moved as _moved

if TYPE_CHECKING:
    from memnets.app.checkpoints import load as load
    from memnets.app.predictor import Predictor as Predictor
    from memnets.app.vectors import SentenceVectors as SentenceVectors
    from memnets.app.view import view as view
    from memnets.batches import Batch as Batch
    from memnets.cells import GRU as GRU
    from memnets.cells import LSTM as LSTM
    from memnets.cells import LSTMN as LSTMN
    from memnets.cells import Chain as Chain
    from memnets.cells import FeedForward as FeedForward
    from memnets.cells import Loop as Loop
    from memnets.cells import Mixer as Mixer
    from memnets.cells import Residual as Residual
    from memnets.cells import SelfAttention as SelfAttention
    from memnets.core import Addressing as Addressing
    from memnets.core import Cell as Cell
    from memnets.core import Controller as Controller
    from memnets.core import Encoder as Encoder
    from memnets.core import EncoderDecoder as EncoderDecoder
    from memnets.core import Memory as Memory
    from memnets.core import MemoryAccess as MemoryAccess
    from memnets.core import Normalizer as Normalizer
    from memnets.core import Score as Score
    from memnets.core import map_state as map_state
    from memnets.fast import naive as naive
    from memnets.memories import DNC as DNC
    from memnets.memories import GLA as GLA
    from memnets.memories import KDA as KDA
    from memnets.memories import LRUA as LRUA
    from memnets.memories import NTM as NTM
    from memnets.memories import SAM as SAM
    from memnets.memories import TTT as TTT
    from memnets.memories import DeltaNet as DeltaNet
    from memnets.memories import DeltaProduct as DeltaProduct
    from memnets.memories import GatedDeltaNet as GatedDeltaNet
    from memnets.memories import LinearAttention as LinearAttention
    from memnets.memories import Mamba2 as Mamba2
    from memnets.memories import MovingTape as MovingTape
    from memnets.memories import NeuralDeque as NeuralDeque
    from memnets.memories import NeuralQueue as NeuralQueue
    from memnets.memories import NeuralStack as NeuralStack
    from memnets.memories import RetNet as RetNet
    from memnets.memories import Stack as Stack
    from memnets.memories import Tape as Tape
    from memnets.models import GAN as GAN
    from memnets.models import SNAIL as SNAIL
    from memnets.models import CausalTransformer as CausalTransformer
    from memnets.models import ConvS2S as ConvS2S
    from memnets.models import DecomposableAttention as DecomposableAttention
    from memnets.models import KeyValueNetwork as KeyValueNetwork
    from memnets.models import MemoryMachine as MemoryMachine
    from memnets.models import MemoryNetwork as MemoryNetwork
    from memnets.models import MetaLearner as MetaLearner
    from memnets.models import Model as Model
    from memnets.models import OnlineLearner as OnlineLearner
    from memnets.models import PointerNetwork as PointerNetwork
    from memnets.models import Prototypical as Prototypical
    from memnets.models import Seq2Seq as Seq2Seq
    from memnets.models import SequenceModel as SequenceModel
    from memnets.models import StackModel as StackModel
    from memnets.models import Transformer as Transformer
    from memnets.viewing.trace import record as record

#: Module -> the names of it that stand here too.
_NAMES = {
    "memnets.app.checkpoints": ["load"],
    "memnets.app.predictor": ["Predictor"],
    "memnets.app.vectors": ["SentenceVectors"],
    "memnets.app.view": ["view"],
    "memnets.batches": ["Batch"],
    "memnets.cells": [
        *("Chain", "FeedForward", "GRU", "LSTM", "LSTMN", "Loop", "Mixer", "Residual"),
        "SelfAttention",
    ],
    "memnets.core": [
        *("Addressing", "Cell", "Controller", "Encoder", "EncoderDecoder", "Memory"),
        *("MemoryAccess", "Normalizer", "Score", "map_state"),
    ],
    "memnets.fast": ["naive"],
    "memnets.memories": [
        *("DNC", "LRUA", "NTM", "SAM", "MovingTape", "NeuralDeque", "NeuralQueue", "NeuralStack"),
        *("Stack", "Tape", "TTT", "LinearAttention", "RetNet", "GLA", "Mamba2", "DeltaNet"),
        *("DeltaProduct", "GatedDeltaNet", "KDA"),
    ],
    "memnets.models": [
        *("GAN", "SNAIL", "CausalTransformer", "ConvS2S", "DecomposableAttention"),
        *("KeyValueNetwork", "MemoryMachine", "MemoryNetwork", "MetaLearner", "Model"),
        *("OnlineLearner", "PointerNetwork", "Prototypical", "Seq2Seq", "SequenceModel"),
        *("StackModel", "Transformer"),
    ],
    "memnets.viewing.trace": ["record"],
}
_MODULES = [
    *("cells", "core", "decoding", "functional", "memories", "models", "normalizers", "scores"),
    *("addressing", "embedders", "encoders", "features", "testing", "training", "viewing"),
]
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted([*_HOMES, *_MODULES, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata  # here, since it takes long to import

        return metadata.version("memnets")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _MODULES:
        return import_module(f"memnets.{name}")
    raise AttributeError(f"module 'memnets' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
