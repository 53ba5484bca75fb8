"""A sentence to a vector, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memnets import decoding
from memnets.app.checkpoints import load_run
from memnets.batches import Batch
from memnets.checks import check_positive
from memnets.core import EncoderDecoder, map_state
from memnets.models.seq2seq import Seq2Seq, Seq2SeqState
from tasks import Task

__all__ = ["SentenceVectors"]

#: Sentences, or vectors, of a batch.
BATCH = 64


class SentenceVectors:
    """Turns sentences into vectors, and vectors into sentences, with an autoencoder.

    The vector of a sentence is the summary of the encoder. Similar sentences have similar vectors,
    and a vector between two of them is a sentence too::

        vectors = mn.SentenceVectors.load("runs/sentiment/autoencoder/version_0")
        one, other = vectors.encode(["a film of great charm .", "a dull and empty film ."])
        vectors.decode(torch.stack([one, (one + other) / 2, other]))

    Args:
        model: a model without attention, which has nothing but the vector to answer from; it is set
            to evaluation mode.
        task: its task, which turns sentences into tokens and back.

    Raises:
        TypeError: the model is of another kind, or has attention.
    """

    def __init__(self, model: EncoderDecoder[Any], task: Task) -> None:
        if not isinstance(model, Seq2Seq) or model.attention is not None:
            raise TypeError(
                "expected a Seq2Seq without attention, whose answers depend on a vector alone; got "
                f"{type(model).__name__}{' with attention' if isinstance(model, Seq2Seq) else ''}"
            )
        self.model = model.eval()
        self.task = task

    @classmethod
    def load(cls, path: str | Path, trust: bool = False) -> SentenceVectors:
        """Load the model and the task of a checkpoint.

        Args:
            path: a checkpoint, or the folder of a run.
            trust: whether to build parts from other libraries, which run as programs.

        Raises:
            CheckpointError: the checkpoint cannot be used.
            TypeError: its model is of another kind, or has attention.
        """
        return cls(*load_run(path, trust))

    @torch.no_grad()
    def encode(self, sentences: Sequence[str], batch_size: int = BATCH) -> Tensor:
        """Vectors of sentences, ``[n, summary_size]``.

        Args:
            sentences: at least one.
            batch_size: number of sentences that are read at once, at least 1.

        Raises:
            ValueError: a sentence has no words, or there is none.
            TypeError: ``sentences`` is a single text.
        """
        check_positive(batch_size=batch_size)
        if isinstance(sentences, str) or not len(sentences):
            got = "a single text" if isinstance(sentences, str) else "none"
            error = TypeError if isinstance(sentences, str) else ValueError
            raise error(f"expected a list of sentences; got {got}")
        found = []
        for start in range(0, len(sentences), batch_size):
            batch = self.task.asked(sentences[start : start + batch_size], first=start + 1)
            source = map_state(self._moved, (batch.source, batch.source_mask))
            found.append(self.model.summary(*source))
        return torch.cat(found)

    def decode(self, vectors: Tensor, beam: int = 1, max_length: int = 60) -> list[str]:
        """Sentences that vectors stand for.

        Args:
            vectors: ``[n, summary_size]``, at least one.
            beam: number of unfinished sentences that the search follows at once, at least 1.
            max_length: most words of a sentence, with the end mark, at least 1.

        Raises:
            ValueError: the vectors have another shape, or a number is out of its range.
        """
        width = self.model.encoder.summary_size
        if vectors.dim() != 2 or vectors.shape[1] != width or not len(vectors):
            raise ValueError(f"expected vectors [n, {width}], n >= 1; got {list(vectors.shape)}")
        source = self._moved(vectors).unsqueeze(1)
        tokens = decoding.generate(_FromVector(self.model), source, None, beam, 1.0, max_length)
        tokens = tokens.cpu()
        return self.task.says(Batch(tokens, tokens, tokens), tokens)

    def _moved(self, tensor: Tensor) -> Tensor:
        like = next(self.model.parameters())
        return tensor.to(like) if tensor.is_floating_point() else tensor.to(like.device)


class _FromVector(EncoderDecoder[Seq2SeqState]):
    """A model whose source is the vector itself, ``[B, 1, summary_size]``."""

    def __init__(self, model: Seq2Seq) -> None:
        super().__init__()
        self.model = model

    def encode(self, source: Tensor, mask: Tensor | None = None) -> Seq2SeqState:
        return self.model.from_summary(source[:, 0])

    def decode(self, inputs: Tensor, state: Seq2SeqState) -> tuple[Tensor, Seq2SeqState]:
        return self.model.decode(inputs, state)
