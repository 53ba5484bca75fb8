"""End-to-end memory networks: several reads of a story or of facts, then one answer."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from memnets import functional
from memnets.addressing import Content
from memnets.checks import check_positive, check_source
from memnets.core import Addressing, Memory
from memnets.embedders import Sentences
from memnets.factories import check_made
from memnets.scores import Dot
from memnets.training.model import Model

__all__ = ["MemoryNetwork"]

#: Memories of the hops, one for each.
Memories = tuple[Memory, ...]


class MemoryNetwork(Model[Memories]):
    """End-to-end memory network (Sukhbaatar et al. 2015), and the key-value one of Miller et al.

    The source is a story: N sentences, each a bag of words. Each slot has a key and a value, which
    are embeddings of a sentence. A question, also embedded, reads the slots in K hops::

        p = softmax(u_k . keys_k)    o_k = sum_i p_i values_k,i    u_{k+1} = u_k + o_k

    The answer is ``softmax(W u_{K+1})``. Questions of a batch are answered apart: none sees
    another.

    With a source ``[B, N, 2, L]`` a slot has a key and a value of its own, such as "france capital"
    and "paris" (Miller et al. 2016, section 3).

    ``tying`` says which embeddings are one (Sukhbaatar et al. 2015, section 2.2):

    - ``adjacent``: the values of a hop are the keys of the next. The question shares the keys of
      the first hop, and W the values of the last, if there are as many answers as words;
    - ``layerwise``: all hops share the keys, and all share the values. Questions and W have
      embeddings of their own, and ``u_{k+1} = H u_k + o_k`` with a learned matrix H;
    - ``single``: keys, values and questions have one embedding, and each hop has a matrix:
      ``u_{k+1} = R_k (u_k + o_k)`` (Miller et al. 2016, equation 3). W is that embedding too, if
      there are as many answers as words.

    Args:
        input_size: number of words, at least 1; the word 0 is padding.
        output_size: number of answers, at least 1.
        width: width of the embeddings, at least 1.
        hops: K, the number of reads, at least 1.
        tying: ``adjacent``, ``layerwise`` or ``single``.
        encoding: a sentence as a vector: ``position`` weighs each word by its place in the sentence
            (:func:`memnets.embedders.position_encoding`); ``bag`` is the sum of its words.
        memory_size: number of sentences that the model remembers, the last ones, at least 1. Each
            key and value then has a learned vector for its age, counted from the last sentence.
            ``None`` = the source is a set of any size, without an order.
        noise: probability of an empty slot behind a sentence in training, in ``[0, 1)``, so that
            the vectors of all ages learn (section 4.1). Empty slots count, but cannot be read.
        spread: standard deviation of the weights at the start, more than 0.
        linear: whether the reads leave out the softmax. See
            :class:`memnets.training.LinearStart`; a checkpoint keeps the value.
        attention: addressing of the slots; by content with the dot product by default. Each hop
            gets a copy.
        settings: see :class:`~memnets.models.Model`.

    Raises:
        ValueError: a setting is out of its range.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        width: int = 20,
        hops: int = 3,
        tying: Literal["adjacent", "layerwise", "single"] = "adjacent",
        encoding: Literal["position", "bag"] = "position",
        memory_size: int | None = 50,
        noise: float = 0.1,
        spread: float = 0.1,
        linear: bool = False,
        attention: Content | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_positive(input_size=input_size, output_size=output_size, width=width, hops=hops)
        if memory_size is not None:
            check_positive(memory_size=memory_size)
        if not 0 <= noise < 1:
            raise ValueError(f"noise must be in [0, 1); got {noise}")
        if spread <= 0:
            raise ValueError(f"spread must be more than 0; got {spread}")
        check_made("attention", attention, "Content(Dot())")
        self.input_size = input_size
        self.memory_size = memory_size
        self.noise = noise
        self.linear = linear
        # Numbers of the embeddings of the keys and of the values of each hop; 0 is the question's.
        if tying == "adjacent":
            self.keys, self.values = list(range(hops)), list(range(1, hops + 1))
        elif tying == "layerwise":
            self.keys, self.values = [1] * hops, [2] * hops
        elif tying == "single":
            self.keys = self.values = [0] * hops
        else:
            raise ValueError(f"tying must be 'adjacent', 'layerwise' or 'single'; got {tying!r}")
        self.tying = tying
        tables = max(self.values) + 1
        self.embeddings = nn.ModuleList(
            Sentences(input_size, width, encoding) for _ in range(tables)
        )
        for table in self.embeddings:
            assert isinstance(table, Sentences)
            nn.init.normal_(table.embedding.weight, std=spread)
        # A vector for each age; the embedding of the question alone has none.
        self.ages = nn.ParameterDict()
        if memory_size is not None:
            for each in sorted({*self.keys, *self.values}):
                self.ages[str(each)] = nn.Parameter(spread * torch.randn(memory_size, width))
        matrices = {"adjacent": 0, "layerwise": 1, "single": hops}[tying]
        self.matrices = nn.ModuleList(_matrix(width, width, spread) for _ in range(matrices))
        shared = tying != "layerwise" and input_size == output_size
        self.answers = None if shared else _matrix(width, output_size, spread)
        attention = Content(Dot()) if attention is None else attention
        self.reads = nn.ModuleList(copy.deepcopy(attention) for _ in range(hops))

    def encode(self, source: Tensor, mask: Tensor | None = None) -> Memories:
        """Fill the slots with a story ``[B, N, L]``, or with keys and values ``[B, N, 2, L]``.

        Args:
            source: words, int64; padding comes last in a sentence.
            mask: bool ``[B, N]``, False = padding behind the last sentence; ``None`` = no padding.

        Returns:
            The memory of each hop.

        Raises:
            ValueError: a shape does not fit, or a story has no sentence.
            TypeError: the mask is not boolean.
        """
        self.check_source(source, mask)
        if mask is None:
            mask = torch.ones(source.shape[:2], dtype=torch.bool, device=source.device)
        source, mask = self._last(source, mask)
        age = self._age(mask)
        # An empty slot pushes the oldest sentence out of the memory.
        opened = mask if self.memory_size is None else mask & (age < self.memory_size)
        made: dict[tuple[int, int], Tensor] = {}

        def vectors(table: int, side: int) -> Tensor:
            if source.dim() == 3:
                side = 0  # a sentence is both key and value, embedded once
            if (table, side) not in made:
                words = source if source.dim() == 3 else source[:, :, side]
                found, _ = self.embeddings[table](words)
                if self.memory_size is not None:
                    known = age.clamp_max(self.memory_size - 1)
                    found = found + nn.functional.embedding(known, self.ages[str(table)])
                made[table, side] = found
            return made[table, side]

        return tuple(
            Memory(vectors(key, 0), vectors(value, 1), opened.unsqueeze(1))
            for key, value in zip(self.keys, self.values, strict=True)
        )

    def _last(self, source: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The last ``memory_size`` sentences, and their mask."""
        size = self.memory_size
        if size is None or source.shape[1] <= size:
            return source, mask
        first = (mask.sum(1, keepdim=True) - size).clamp_min(0)
        place = first + torch.arange(size, device=source.device)
        index = place.view(*place.shape, *[1] * (source.dim() - 2))
        return source.gather(1, index.expand(-1, -1, *source.shape[2:])), mask.gather(1, place)

    def _age(self, mask: Tensor) -> Tensor:
        """Number of slots after each sentence, int64 ``[B, N]``; in training, some are empty."""
        later = mask.sum(1, keepdim=True) - mask.cumsum(1)
        if not (self.training and self.noise and self.memory_size is not None):
            return later
        # An empty slot behind a sentence makes this sentence and all before it older.
        empty = (torch.rand(mask.shape, device=mask.device) < self.noise) & mask
        return later + empty.flip(1).cumsum(1).flip(1)

    def decode(self, inputs: Tensor, state: Memories) -> tuple[Tensor, Memories]:
        """Answer questions: logits ``[B, T, O]`` for words ``[B, T, L]``; the state stays."""
        if inputs.dim() != 3 or inputs.is_floating_point():
            raise ValueError(
                f"questions must be words [B, T, L]; got {inputs.dtype} {list(inputs.shape)}"
            )
        query, _ = self.embeddings[0](inputs)
        for number, (read, memory) in enumerate(zip(self.reads, state, strict=True)):
            assert isinstance(read, Content)
            query = self.next_query(number, query, self._read(read, query, memory))
        if self.answers is not None:
            return self.answers(query), state
        last = self.embeddings[-1]
        assert isinstance(last, Sentences)
        return nn.functional.linear(query, last.embedding.weight), state

    def next_query(self, hop: int, query: Tensor, found: Tensor) -> Tensor:
        """Query after a hop; that after the last hop gives the answer.

        Args:
            hop: number of the hop, from 0.
            query: query of the hop, ``[B, T, W]``.
            found: what it read, ``[B, T, W]``.
        """
        if self.tying == "layerwise":
            query = self.matrices[0](query)
        query = query + found
        return self.matrices[hop](query) if self.tying == "single" else query

    def _read(self, read: Content, query: Tensor, memory: Memory) -> Tensor:
        """Vectors that a query ``[B, T, W]`` reads; a linear model takes the scores as weights."""
        if not self.linear:
            return read.read(query, memory)[0]
        scores = functional.inside(read.score(query, memory.keys), memory.mask)
        return functional.read(scores, memory.values)

    def get_extra_state(self) -> Tensor:
        """Whether the model is linear, for a checkpoint: what it was chosen for must come back."""
        return torch.tensor(self.linear)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore whether the model is linear."""
        self.linear = bool(state)

    def check_source(self, source: Tensor, mask: Tensor | None) -> None:
        """See :meth:`~memnets.training.Model.check_source`; it is a story, or keys and values."""
        right = source.dim() == 3 or (source.dim() == 4 and source.shape[2] == 2)
        if not right or source.is_floating_point():
            raise ValueError(
                "source must be a story of words [B, N, L], or keys and values [B, N, 2, L]; "
                f"got {source.dtype} {list(source.shape)}"
            )
        check_source(source.flatten(2), mask)

    def alignments(self) -> dict[str, Addressing]:
        """See :meth:`~memnets.core.EncoderDecoder.alignments`: a label for each hop."""
        return {
            f"hop {number}": read
            for number, read in enumerate(self.reads, 1)
            if isinstance(read, Addressing)
        }

    def slot_names(self, source: list[str], inputs: list[str]) -> list[str]:
        """See :meth:`~memnets.core.EncoderDecoder.slot_names`: the sentences that are kept."""
        return source if self.memory_size is None else source[-self.memory_size :]


def _matrix(inputs: int, outputs: int, spread: float) -> nn.Linear:
    matrix = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(matrix.weight, std=spread)
    return matrix
