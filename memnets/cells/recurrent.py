"""Recurrent cells and a feed-forward one: controllers of machines, networks of seq2seq."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memnets import fast, functional
from memnets.addressing import Content
from memnets.core import Controller, Memory, Normalizer, check_positive
from memnets.scores import Additive

__all__ = ["GRU", "LSTM", "LSTMN", "FeedForward", "LSTMNState", "LSTMState"]


class FeedForward(Controller[None]):
    """Layers of ``tanh(W x + b)``: the memory is all that such a machine remembers.

    Args:
        input_size: width of the input, at least 1.
        hidden_size: width of every layer, at least 1.
        layers: how many, at least 1.
    """

    def __init__(self, input_size: int, hidden_size: int = 100, layers: int = 1) -> None:
        super().__init__()
        check_positive(input_size=input_size, hidden_size=hidden_size, layers=layers)
        self.input_size = input_size
        self.hidden_size = hidden_size
        sizes = [input_size] + [hidden_size] * layers
        self.layers = nn.Sequential()
        for size, next_size in itertools.pairwise(sizes):
            self.layers.extend([nn.Linear(size, next_size), nn.Tanh()])

    def initial_state(self, batch_size: int) -> None:
        """A feed-forward controller has no past."""

    def forward(self, inputs: Tensor, state: None = None) -> tuple[Tensor, None]:
        """``[B, input_size] -> [B, hidden_size]``."""
        return self.layers(inputs), None

    def unroll(
        self, inputs: Tensor, state: None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """``[B, T, input_size] -> [B, T, hidden_size]``, all steps at once."""
        return self.layers(inputs), None


class LSTMState(NamedTuple):
    """State of an :class:`LSTM`, a tensor ``[B, hidden_size]`` a layer.

    Attributes:
        hidden: h, in ``(-1, 1)``.
        cell: c.
    """

    hidden: tuple[Tensor, ...]
    cell: tuple[Tensor, ...]


class LSTM(Controller[LSTMState]):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with forget gates).

    Holds a ``torch.nn.LSTM``, which :meth:`unroll` runs; :meth:`forward` is one step of the same.

    Args:
        input_size: width of the input, at least 1.
        hidden_size: width of every layer, at least 1.
        layers: how many, at least 1.
    """

    def __init__(self, input_size: int, hidden_size: int = 100, layers: int = 1) -> None:
        super().__init__()
        check_positive(input_size=input_size, hidden_size=hidden_size, layers=layers)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.lstm = nn.LSTM(input_size, hidden_size, layers, batch_first=True)

    def initial_state(self, batch_size: int) -> LSTMState:
        """All zeros."""
        zeros = _weights(self.lstm)[0][0].new_zeros(batch_size, self.hidden_size)
        return LSTMState((zeros,) * self.lstm.num_layers, (zeros,) * self.lstm.num_layers)

    def forward(self, inputs: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """``[B, input_size] -> [B, hidden_size]``."""
        hiddens: list[Tensor] = []
        cells: list[Tensor] = []
        for weights, *past in zip(_weights(self.lstm), *state, strict=True):
            inputs, cell = _lstm_cell(inputs, *past, *weights)
            hiddens.append(inputs)
            cells.append(cell)
        return inputs, LSTMState(tuple(hiddens), tuple(cells))

    def unroll(
        self, inputs: Tensor, state: LSTMState, mask: Tensor | None = None
    ) -> tuple[Tensor, LSTMState]:
        """``[B, T, input_size] -> [B, T, hidden_size]``, by PyTorch's fused LSTM without a mask."""
        if mask is not None or not _fused(inputs):
            return super().unroll(inputs, state, mask)
        outputs, (hidden, cell) = self.lstm(
            inputs, (torch.stack(state.hidden), torch.stack(state.cell))
        )
        return outputs, LSTMState(hidden.unbind(0), cell.unbind(0))


class GRU(Controller[tuple[Tensor, ...]]):
    """Gated recurrent unit (Cho et al. 2014); the state is a tensor ``[B, hidden_size]`` a layer.

    Holds a ``torch.nn.GRU``, which :meth:`unroll` runs; :meth:`forward` is one step of the same.

    Args:
        input_size: width of the input, at least 1.
        hidden_size: width of every layer, at least 1.
        layers: how many, at least 1.
    """

    def __init__(self, input_size: int, hidden_size: int = 100, layers: int = 1) -> None:
        super().__init__()
        check_positive(input_size=input_size, hidden_size=hidden_size, layers=layers)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.gru = nn.GRU(input_size, hidden_size, layers, batch_first=True)

    def initial_state(self, batch_size: int) -> tuple[Tensor, ...]:
        """All zeros."""
        zeros = _weights(self.gru)[0][0].new_zeros(batch_size, self.hidden_size)
        return (zeros,) * self.gru.num_layers

    def forward(
        self, inputs: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """``[B, input_size] -> [B, hidden_size]``."""
        hiddens = []
        for weights, hidden in zip(_weights(self.gru), state, strict=True):
            inputs = _gru_cell(inputs, hidden, *weights)
            hiddens.append(inputs)
        return inputs, tuple(hiddens)

    def unroll(
        self, inputs: Tensor, state: tuple[Tensor, ...], mask: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """``[B, T, input_size] -> [B, T, hidden_size]``, by PyTorch's fused GRU without a mask."""
        if mask is not None or not _fused(inputs):
            return super().unroll(inputs, state, mask)
        outputs, hidden = self.gru(inputs, torch.stack(state))
        return outputs, hidden.unbind(0)


class LSTMNState(NamedTuple):
    """State of an :class:`LSTMN` after t steps; slot 0 is the state before the first.

    Attributes:
        keys: W_h h_i, ``[B, t + 1, K]``.
        values: h_i and c_i, ``[B, t + 1, 2 hidden_size]``.
        summary: what the last step attended to in place of h, ``[B, hidden_size]``.
        mask: bool ``[B, t + 1]``, False = the slot of a step that the sequence has skipped.
    """

    keys: Tensor
    values: Tensor
    summary: Tensor
    mask: Tensor


class LSTMN(Controller[LSTMNState]):
    """An LSTM whose memory is a tape of all its states (Cheng, Dong & Lapata 2016, section 3.1).

    ``a_i = v . tanh(W_h h_i + W_x x_t + W_s s_{t-1})`` over all steps before; the LSTM then goes on
    from ``s_t = sum_i softmax(a)_i h_i`` and from the same mean of the cells, in place of
    ``h_{t-1}`` and ``c_{t-1}``. A step appends its own h_t and c_t.

    Args:
        input_size: width of the input, at least 1.
        hidden_size: width of h and c, at least 1.
        key_size: K, width of the attention; ``hidden_size`` if not given.
        normalizer: from scores to weights; softmax if not given.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 100,
        key_size: int | None = None,
        normalizer: Normalizer | None = None,
    ) -> None:
        super().__init__()
        key_size = hidden_size if key_size is None else key_size
        check_positive(input_size=input_size, hidden_size=hidden_size, key_size=key_size)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.cell = nn.LSTMCell(input_size, hidden_size)
        self.query = nn.Linear(input_size + hidden_size, key_size)
        self.key = nn.Linear(hidden_size, key_size, bias=False)
        self.addressing = Content(Additive(key_size), normalizer)

    def initial_state(self, batch_size: int) -> LSTMNState:
        """One slot of zeros."""
        weight = self.key.weight
        return LSTMNState(
            keys=weight.new_zeros(batch_size, 1, len(weight)),
            values=weight.new_zeros(batch_size, 1, 2 * self.hidden_size),
            summary=weight.new_zeros(batch_size, self.hidden_size),
            mask=weight.new_ones(batch_size, 1, dtype=torch.bool),
        )

    def forward(self, inputs: Tensor, state: LSTMNState) -> tuple[Tensor, LSTMNState]:
        """``[B, input_size] -> [B, hidden_size]``."""
        keys, values, summary, mask = state
        query = self.query(torch.cat([inputs, summary], -1)).unsqueeze(1)
        vectors, _ = self.addressing.read(query, Memory(keys, values, mask.unsqueeze(1)), None)
        summary, cell = vectors.squeeze(1).chunk(2, -1)
        weights = self.cell.weight_ih, self.cell.weight_hh, self.cell.bias_ih, self.cell.bias_hh
        hidden, cell = _lstm_cell(inputs, summary, cell, *weights)
        return hidden, LSTMNState(
            keys=functional.append(keys, self.key(hidden).unsqueeze(1)),
            values=functional.append(values, torch.cat([hidden, cell], -1).unsqueeze(1)),
            summary=summary,
            mask=torch.cat([mask, mask.new_ones(len(inputs), 1)], 1),
        )

    def choose(self, mask: Tensor, new: LSTMNState, old: LSTMNState) -> LSTMNState:
        """The tape grows for all; the new slot is closed to a sequence that skips the step."""
        return new._replace(
            summary=torch.where(mask.unsqueeze(1), new.summary, old.summary),
            mask=torch.cat([old.mask, mask.unsqueeze(1)], 1),
        )


def _fused(inputs: Tensor) -> bool:
    """Whether PyTorch's kernels for whole sequences serve.

    They have no rules for ``torch.func``, and those of a processor no float16.
    """
    if fast.transformed():
        return False
    half = torch.get_autocast_dtype("cpu") == torch.float16
    return not (half and inputs.device.type == "cpu" and torch.is_autocast_enabled("cpu"))


# PyTorch's cells write into tensors made from the state alone; under vmap all rows may share them.


def _lstm_cell(
    inputs: Tensor, hidden: Tensor, cell: Tensor, into: Tensor, across: Tensor, *biases: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM; the weights and biases are those of ``torch.lstm_cell``."""
    if not fast.transformed():
        return torch.lstm_cell(inputs, (hidden, cell), into, across, *biases)
    gates = nn.functional.linear(inputs, into, biases[0])
    gates = gates + nn.functional.linear(hidden, across, biases[1])
    enter, forget, candidate, leave = gates.chunk(4, -1)
    cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
    return leave.sigmoid() * cell.tanh(), cell


def _gru_cell(
    inputs: Tensor, hidden: Tensor, into: Tensor, across: Tensor, *biases: Tensor
) -> Tensor:
    """One step of a GRU; the weights and biases are those of ``torch.gru_cell``."""
    if not fast.transformed():
        return torch.gru_cell(inputs, hidden, into, across, *biases)
    reset, update, new = nn.functional.linear(inputs, into, biases[0]).chunk(3, -1)
    old = nn.functional.linear(hidden, across, biases[1]).chunk(3, -1)
    reset, update = (reset + old[0]).sigmoid(), (update + old[1]).sigmoid()
    return update * hidden + (1 - update) * (new + reset * old[2]).tanh()


def _weights(network: nn.RNNBase) -> list[list[Tensor]]:
    """Weights of each layer: of the input, of the last hidden vector, and a bias for either."""
    weights: Any = network.all_weights
    return weights  # type: ignore[no-any-return]
