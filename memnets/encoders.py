"""Encoders: networks from a source to a vector for each of its steps, and a summary."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from memnets.addressing import Content
from memnets.batches import END, PAD
from memnets.cells import (
    LSTM,
    Dropout,
    Embedding,
    EncoderStack,
    NormedLinear,
    Perceptron,
    Positions,
)
from memnets.cells.convolutions import gated_convolution
from memnets.cells.positions import add_positions, added_only, split_positions
from memnets.checks import check_numbers, check_positive
from memnets.core import Addressing, Cell, Embedder, Encoded, Encoder, Memory, Normalizer
from memnets.factories import check_made, make
from memnets.scores import Distance, Dot

__all__ = [
    "Convolutional",
    "Embedded",
    "IntraAttention",
    "Nested",
    "Process",
    "Recurrent",
    "SelfAttention",
]


class Recurrent(Encoder):
    """A controller that runs over the source, in one direction or in both.

    With both directions, the vector of a step depends on the steps before and after it (Bahdanau et
    al. 2015, section 3.2). The summary is the last output of each direction.

    Args:
        input_size: width of the input, at least 1.
        controller: makes a cell from the width of its input: a class, its other arguments given.
        layers: number of layers, at least 1; each reads the output of the one below.
        bidirectional: whether a second controller in each layer runs backwards.
        dropout: dropout between the layers, in ``[0, 1)``.
    """

    def __init__(
        self,
        input_size: int,
        controller: Callable[[int], Cell],
        layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive(input_size=input_size, layers=layers)
        self.input_size = input_size
        self.dropout = Dropout(dropout)
        self.forwards = nn.ModuleList()
        self.backwards = nn.ModuleList()
        size = input_size
        for _ in range(layers):
            passes = [make("controller", controller, Cell, size) for _ in range(1 + bidirectional)]
            self.forwards.append(passes[0])
            self.backwards.extend(passes[1:])
            # The next layer reads both directions, side by side.
            size = sum(each.output_size for each in passes)
        self.output_size = size
        # The last output of each direction, side by side, has the same width.
        self.summary_size = self.output_size

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[B, S, input_size] -> [B, S, output_size], [B, summary_size]``."""
        batch, steps, _ = inputs.shape
        lengths = mask.sum(1, keepdim=True) if mask is not None else None
        # A backward pass starts at the last step, not at the padding behind it. Both directions can
        # then run without a mask: padding comes last, and its outputs reach no other step.
        order = _backwards(lengths, batch, steps, inputs.device)
        for layer, controller in enumerate(self.forwards):
            inputs = self.dropout(inputs) if layer else inputs
            outputs = [_unroll(controller, inputs)]
            ends = [_last(outputs[0], lengths)]
            if self.backwards:
                reverse = _unroll(self.backwards[layer], _reorder(inputs, order))
                ends.append(_last(reverse, lengths))
                outputs.append(_reorder(reverse, order))
            inputs = torch.cat(outputs, -1)
        return inputs, torch.cat(ends, -1)


def _unroll(controller: nn.Module, inputs: Tensor) -> Tensor:
    assert isinstance(controller, Cell)
    outputs, _ = controller.unroll(inputs, controller.initial_state(len(inputs)))
    return outputs


def _last(outputs: Tensor, lengths: Tensor | None) -> Tensor:
    """Output of the last step before the padding, ``[B, H]``."""
    if lengths is None:
        return outputs[:, -1]
    index = (lengths - 1).clamp_min(0).unsqueeze(-1).expand(-1, -1, outputs.shape[-1])
    return outputs.gather(1, index).squeeze(1)


def _backwards(
    lengths: Tensor | None, batch: int, steps: int, device: torch.device
) -> Tensor | None:
    """Index ``[B, S]`` that reverses each sequence and leaves its padding in place."""
    if lengths is None:
        return None
    forwards = torch.arange(steps, device=device).expand(batch, -1)
    return torch.where(forwards < lengths, lengths - 1 - forwards, forwards)


def _reorder(inputs: Tensor, order: Tensor | None) -> Tensor:
    if order is None:
        return inputs.flip(1)
    return inputs.gather(1, order.unsqueeze(-1).expand_as(inputs))


class SelfAttention(Encoder):
    """Transformer layers (Vaswani et al. 2017, section 3.1); the summary is the mean of the steps.

    Without ``ordered`` and ``positions`` the source is a set: a permutation of its steps permutes
    their vectors and leaves the summary unchanged.

    Args:
        input_size: width of the input and of the vectors, at least 1.
        layers: number of layers, at least 1.
        heads: number of heads, a divisor of ``input_size``.
        hidden_size: width of the feed-forward networks, at least 1.
        dropout: dropout on the result of each part, in ``[0, 1)``.
        norm: ``pre`` or ``post``, see :class:`~memnets.cells.TransformerLayer`.
        ordered: whether to add a learned vector times t / S to step t of S. It tells the order of
            the steps, and its values stay in the same range for sources longer than in training.
        positions: how the attention learns the places of the steps, counted from the start;
            ``None`` = no positions.
        normalizer: turns scores into weights; each layer gets a copy; softmax by default.
    """

    place: Tensor | None

    def __init__(
        self,
        input_size: int,
        layers: int = 3,
        heads: int = 4,
        hidden_size: int = 256,
        dropout: float = 0.0,
        norm: Literal["pre", "post"] = "pre",
        ordered: bool = False,
        positions: Positions | None = None,
        normalizer: Normalizer | None = None,
    ) -> None:
        super().__init__()
        added, within = split_positions(positions)
        self.stack = EncoderStack(
            layers, input_size, heads, hidden_size, dropout, norm, normalizer, within
        )
        self.register_parameter("place", nn.Parameter(torch.randn(input_size)) if ordered else None)
        self.positions = added
        self.max_length = None if added is None else added.max_length
        self.input_size = self.output_size = self.summary_size = input_size

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[B, S, input_size] -> [B, S, input_size], [B, input_size]``."""
        steps = torch.arange(inputs.shape[1], device=inputs.device).unsqueeze(0)
        if self.place is not None:
            length = inputs.shape[1] if mask is None else mask.sum(1, keepdim=True)
            share = (steps / length).unsqueeze(-1).to(self.place.dtype)
            inputs = inputs + share * self.place
        if self.positions is not None:
            inputs = add_positions(inputs, self.positions, self.positions.places(steps))
        vectors = self.stack(inputs, mask)
        return vectors, _mean(vectors, mask)


class Convolutional(Encoder):
    """Layers of gated convolutions (Gehring et al. 2017, section 3.2).

    ``h' = (conv(h) + h) sqrt(1/2)`` in each layer: the convolution of step t sees the (k - 1) / 2
    steps on each side, and zeros beyond the ends. The vectors are a linear map of the last layer's;
    the summary is their mean. All layers have weight normalisation.

    Args:
        input_size: width of the input and of the vectors, at least 1.
        layers: number of layers, at least 1.
        kernel_size: k, number of steps that a convolution sees, odd, at least 1.
        dropout: dropout on the input of each convolution, in ``[0, 1)``.
        positions: vectors to add for the places of the steps, counted from the start; ``None`` =
            no positions.

    Raises:
        ValueError: a size is out of its range.
    """

    def __init__(
        self,
        input_size: int,
        layers: int = 4,
        kernel_size: int = 3,
        dropout: float = 0.0,
        positions: Positions | None = None,
    ) -> None:
        super().__init__()
        check_positive(input_size=input_size, layers=layers, kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise ValueError(
                "kernel_size must be odd: a step sees as many steps before it as behind it; "
                f"got {kernel_size}"
            )
        self.kernel_size = kernel_size
        self.dropout = Dropout(dropout)
        # The gates halve what passes them: with a gain of 4 the variance stays (section 3.5).
        self.layers = nn.ModuleList(
            NormedLinear(kernel_size * input_size, 2 * input_size, 4 * (1 - dropout))
            for _ in range(layers)
        )
        self.output = NormedLinear(input_size, input_size)
        positions = added_only(positions, "convolutions have no attention for another scheme")
        self.positions = positions
        self.max_length = None if positions is None else positions.max_length
        self.input_size = self.output_size = self.summary_size = input_size

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[B, S, input_size] -> [B, S, input_size], [B, input_size]``."""
        hidden, around = inputs, self.kernel_size // 2
        if self.positions is not None:
            steps = torch.arange(inputs.shape[1], device=inputs.device).unsqueeze(0)
            hidden = add_positions(hidden, self.positions, self.positions.places(steps))
        for layer in self.layers:
            # A convolution sees zeros at padding, as it does beyond the end.
            seen = self.dropout(_inside(hidden, mask))
            seen = nn.functional.pad(seen, (0, 0, around, around))
            convolved = gated_convolution(seen, layer, self.kernel_size)
            hidden = (hidden + convolved) * math.sqrt(0.5)
        vectors: Tensor = self.output(hidden)
        return vectors, _mean(vectors, mask)


def _inside(vectors: Tensor, mask: Tensor | None) -> Tensor:
    """Vectors with zeros at padding, ``[B, S, V]``."""
    # Padding may hold any value, NaN too: fill it, rather than multiply it by 0.
    return vectors if mask is None else vectors.masked_fill(~mask.unsqueeze(-1), 0.0)


def _mean(vectors: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of the steps, ``[B, S, V] -> [B, V]``, without padding."""
    if mask is None:
        return vectors.mean(1)
    return _inside(vectors, mask).sum(1) / mask.sum(1, keepdim=True)


class Embedded(Encoder):
    """An encoder that owns its embedding: it reads tokens, sentences of tokens, or images.

    Args:
        input_size: number of tokens, or of channels of an image, at least 1.
        embedding: makes the embedder from ``input_size``: a class of :mod:`memnets.embedders`, its
            other arguments given.
        context: makes an encoder of the embedder's vectors from their width; ``None`` = the vectors
            themselves are the result, and the summary is their mean.
        dropout: dropout on the embedder's vectors, in ``[0, 1)``.
    """

    embeds = True

    def __init__(
        self,
        input_size: int,
        embedding: Callable[[int], Embedder],
        context: Callable[[int], Encoder] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = make("embedding", embedding, Embedder, input_size)
        self.source_dims = (self.embedding.source_dims,)
        self.dropout = Dropout(dropout)
        width = self.embedding.output_size
        self.context = None if context is None else make("context", context, Encoder, width)
        self.input_size = input_size
        self.output_size = width if self.context is None else self.context.output_size
        self.summary_size = width if self.context is None else self.context.summary_size
        self.max_length = None if self.context is None else self.context.max_length

    def read(self, source: Tensor, mask: Tensor | None = None) -> Encoded:
        """Vectors of a source ``[B, S, ...]``, their mask and their summary."""
        vectors, mask = self.embedding(source, mask)
        vectors = self.dropout(vectors)
        if self.context is None:
            return Encoded(vectors, _mean(vectors, mask), mask)
        return self.context.read(vectors, mask)

    def grid(self, height: int, width: int) -> tuple[int, int] | None:
        """Rows and columns of the vectors of an image, see :meth:`~memnets.core.Embedder.grid`."""
        return self.embedding.grid(height, width)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Vectors and summary of a source, see :meth:`read`."""
        vectors, summary, _ = self.read(inputs, mask)
        return vectors, summary


class IntraAttention(Encoder):
    """Each step of the source beside what it is aligned with in the source itself.

    Intra-sentence attention (Parikh et al. 2016, section 3.4), with F a small network::

        a'_i = sum_j softmax_j(F(a_i) . F(a_j) + d_{i-j}) a_j        vector of step i = [a_i, a'_i]

    The summary is the mean of the steps.

    Args:
        input_size: width of the input, at least 1.
        hidden_size: width of both layers of F, at least 1.
        attention: addressing of the steps; by default the dot product with a bias for each distance
            up to 10 (:class:`~memnets.scores.Distance`).
        dropout: dropout on the inputs of both layers, in ``[0, 1)``.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 200,
        attention: Addressing | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive(input_size=input_size, hidden_size=hidden_size)
        check_made("attention", attention, "Content(Dot())")
        self.input_size = input_size
        self.output_size = self.summary_size = 2 * input_size
        self.projection = Perceptron(input_size, hidden_size, dropout)
        self.attention = Content(Distance(Dot())) if attention is None else attention

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[B, S, input_size] -> [B, S, 2 input_size], [B, 2 input_size]``."""
        projected = self.projection(inputs)
        memory = Memory(projected, inputs, None if mask is None else mask.unsqueeze(1))
        aligned, _ = self.attention.read(projected, memory, self.attention.initial_state(memory))
        vectors = torch.cat([inputs, aligned], -1)
        return vectors, _mean(vectors, mask)


class Nested(Encoder):
    """A controller that reads what stands in brackets before what stands around them.

    A pair of brackets is a run of the controller of its own. The last output of that run is one
    input of the run around it. So a part in brackets is a single step for what stands around it, at
    any depth: a recursive network (Socher et al. 2011), which joins any number of parts by a
    controller. The encoder reads tokens, and owns their embedding. The summary is the last output
    of the outermost run.

    All runs of the same height are computed at once. Brackets are read by the host, so that a GPU
    waits for them, and a graph cannot hold this encoder.

    Args:
        input_size: number of tokens, at least 1.
        controller: makes the controller from the width of its input: a class, its other arguments
            given.
        width: width of the embeddings, at least 1.
        vectors: of which steps there are vectors: ``outermost``, the steps of the outermost run, so
            that a part in brackets has a single vector; or ``all``, a vector for each token: the
            output of the run that it is in, at a closing bracket that of the run around the
            brackets, at an opening one 0.
        brackets: tokens of the opening and of the closing bracket; those of the first two words of
            a vocabulary by default.

    Raises:
        ValueError: a setting is out of its range.
    """

    embeds = True
    source_dims = (2,)

    def __init__(
        self,
        input_size: int,
        controller: Callable[[int], Cell],
        width: int = 64,
        vectors: Literal["outermost", "all"] = "outermost",
        brackets: tuple[int, int] = (END + 1, END + 2),
    ) -> None:
        super().__init__()
        if vectors not in ("outermost", "all"):
            raise ValueError(f"vectors must be 'outermost' or 'all'; got {vectors!r}")
        if len(set(brackets)) != 2 or not all(each >= 0 for each in brackets):
            raise ValueError(
                f"brackets must be two different tokens, opening and closing; got {brackets}"
            )
        self.input_size = input_size
        self.outermost = vectors == "outermost"
        self.opening, self.closing = brackets
        self.embedding = Embedding(input_size, width)
        self.controller: Cell = make("controller", controller, Cell, width)
        self.output_size = self.summary_size = self.controller.output_size
        same = self.output_size == width
        self.closed = nn.Identity() if same else nn.Linear(self.output_size, width)

    def read(self, source: Tensor, mask: Tensor | None = None) -> Encoded:
        """Read tokens ``[B, S]``.

        Raises:
            ValueError: a token is out of range, or a closing bracket has no opening one.
        """
        check_numbers(
            ((source >= 0) & (source < self.input_size)).all(),
            f"tokens must be in [0, {self.input_size})",
            lambda: f"{int(source.min())} to {int(source.max())}",
        )
        lengths = [source.shape[1]] * len(source) if mask is None else mask.sum(1).tolist()
        texts = [row[:length] for row, length in zip(source.tolist(), lengths, strict=True)]
        tops, places, levels = self._parsed(texts)
        # Inputs of the runs: the embeddings, then the last outputs of the runs that are done. The
        # numbers of an output are of about 1; those of an embedding are made so.
        table: Tensor = self.embedding.weight * math.sqrt(self.embedding.weight.shape[1])
        # All outputs; the first is 0 and stands where there is none.
        outputs = table.new_zeros(1, self.output_size)
        for runs in levels:
            steps = max(1, *(len(run.inputs) for run in runs))
            index = [
                [each if isinstance(each, int) else each.row for each in run.inputs]
                + [PAD] * (steps - len(run.inputs))
                for run in runs
            ]
            row, begin = len(table), len(outputs)
            for number, run in enumerate(runs):
                run.row, run.begin = row + number, begin + number * steps
            inputs = nn.functional.embedding(self._index(index), table)
            first = self.controller.initial_state(len(runs))
            vectors, _ = self.controller.unroll(inputs, first)
            outputs = torch.cat([outputs, vectors.flatten(0, 1)])
            last = nn.functional.embedding(self._index([run.last for run in runs]), outputs)
            table = torch.cat([table, self.closed(last)])
        summary = nn.functional.embedding(self._index([top.last for top in tops]), outputs)
        if self.outermost:
            rows = [[top.begin + step for step in range(len(top.inputs))] for top in tops]
            length = max(1, *map(len, rows))
            mask = self._index([[step < len(row) for step in range(length)] for row in rows]).bool()
        else:
            rows = [[0 if run is None else run.begin + step for run, step in row] for row in places]
            length = source.shape[1]
        rows = [row + [PAD] * (length - len(row)) for row in rows]
        return Encoded(nn.functional.embedding(self._index(rows), outputs), summary, mask)

    def _index(self, numbers: list[Any]) -> Tensor:
        return torch.tensor(numbers, device=self.embedding.weight.device)

    def _parsed(
        self, texts: list[list[int]]
    ) -> tuple[list[_Run], list[list[tuple[_Run | None, int]]], list[list[_Run]]]:
        """The outermost run of each text, run and step of each token, and all runs by height."""
        tops, places, every = [], [], []
        known: dict[tuple[int | _Run, ...], _Run] = {}
        for text in texts:
            open_runs = [_Run()]
            tops.append(open_runs[0])
            there: list[tuple[_Run | None, int]] = []
            for token in text:
                if token == self.opening:
                    open_runs.append(_Run())
                    there.append((None, 0))
                    continue
                done: int | _Run = token
                if token == self.closing:
                    run = open_runs.pop()
                    if not open_runs:
                        raise ValueError(
                            "each closing bracket of a text must have an opening one before it; "
                            f"got one without, as token {len(there)}"
                        )
                    # What comes several times in a batch is computed once, unless its tokens have
                    # vectors of their own.
                    done = known.setdefault(tuple(run.inputs), run) if self.outermost else run
                    if done is run:
                        every.append(run)
                    open_runs[-1].height = max(open_runs[-1].height, run.height + 1)
                there.append((open_runs[-1], len(open_runs[-1].inputs)))
                open_runs[-1].inputs.append(done)
            every += open_runs
            places.append(there)
        levels: list[list[_Run]] = [[] for _ in range(1 + max(run.height for run in every))]
        for run in every:
            levels[run.height].append(run)
        return tops, places, levels

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Vectors and summary of tokens, see :meth:`read`."""
        vectors, summary, _ = self.read(inputs, mask)
        return vectors, summary


class _Run:
    """A run of a controller over what stands in a pair of brackets.

    Attributes:
        inputs: tokens, and the runs of inner brackets.
        height: 0 without inner brackets, else one more than the greatest of theirs.
        row: row of its last output in the table of inputs, once it is done.
        begin: row of its first output among all outputs, once it is done.
    """

    def __init__(self) -> None:
        self.inputs: list[int | _Run] = []
        self.height = 0
        self.row = self.begin = 0

    @property
    def last(self) -> int:
        """Row of its last output among all outputs; 0 for a run without inputs."""
        return self.begin + len(self.inputs) - 1 if self.inputs else 0


class Process(Encoder):
    """Encoder of a set: *read* and *process* of Vinyals et al. 2016, section 4.

    A small network turns each step of the source into a slot, independently of the others. Then an
    LSTM without input reads the slots for P steps (equations 3 to 7)::

        q_t = LSTM(r_{t-1}, q_{t-1})        r_t = read(memory, q_t)

    The summary is ``[q_P, r_P]``. It does not depend on the order of the source.

    Args:
        input_size: width of the input and of the slots, at least 1.
        steps: P, the number of reads, at least 1.
        hidden_size: width of the small network, at least 1; ``input_size`` by default.
        attention: addressing of the slots; by content with the dot product by default.
    """

    def __init__(
        self,
        input_size: int,
        steps: int = 5,
        hidden_size: int | None = None,
        attention: Addressing | None = None,
    ) -> None:
        super().__init__()
        check_positive(input_size=input_size, steps=steps)
        hidden_size = input_size if hidden_size is None else hidden_size
        check_positive(hidden_size=hidden_size)
        self.input_size = self.output_size = input_size
        self.summary_size = 2 * input_size
        self.steps = steps
        self.slots = nn.Sequential(
            nn.Linear(input_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, input_size)
        )
        self.process = LSTM(input_size, input_size)
        self.attention = Content(Dot()) if attention is None else attention

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[B, S, input_size] -> [B, S, input_size], [B, 2 input_size]``."""
        slots = self.slots(inputs)
        memory = Memory(slots, slots, None if mask is None else mask.unsqueeze(1))
        # The LSTM's input is the last read; its state, not the input, carries the query on.
        state, looked = self.process.initial_state(len(slots)), self.attention.initial_state(memory)
        read = torch.zeros_like(slots[:, 0])
        for _ in range(self.steps):
            query, state = self.process.step(read, state)
            vectors, looked = self.attention.read(query.unsqueeze(1), memory, looked)
            read = vectors.squeeze(1)
        return slots, torch.cat([query, read], -1)
