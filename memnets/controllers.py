"""Controllers: the network between the input and the memory."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memnets.core import Controller, check_positive

__all__ = ["GRU", "LSTM", "FeedForward", "LSTMState"]


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

    def unroll(self, inputs: Tensor, state: None = None) -> tuple[Tensor, None]:
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
            inputs, cell = torch.lstm_cell(inputs, past, *weights)
            hiddens.append(inputs)
            cells.append(cell)
        return inputs, LSTMState(tuple(hiddens), tuple(cells))

    def unroll(self, inputs: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """``[B, T, input_size] -> [B, T, hidden_size]``, by the fused kernel."""
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
            inputs = torch.gru_cell(inputs, hidden, *weights)
            hiddens.append(inputs)
        return inputs, tuple(hiddens)

    def unroll(
        self, inputs: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """``[B, T, input_size] -> [B, T, hidden_size]``, by the fused kernel."""
        outputs, hidden = self.gru(inputs, torch.stack(state))
        return outputs, hidden.unbind(0)


def _weights(network: nn.RNNBase) -> list[list[Tensor]]:
    """Of each layer: into the gates, across from the last step, and a bias for either."""
    weights: Any = network.all_weights
    return weights  # type: ignore[no-any-return]
