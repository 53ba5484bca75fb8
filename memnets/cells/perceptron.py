"""A small network of two layers."""

from __future__ import annotations

from torch import nn

from memnets.cells.dropout import Dropout
from memnets.checks import check_positive

__all__ = ["Perceptron"]


class Perceptron(nn.Sequential):
    """Two layers with ReLU and dropout, ``[*B, input_size] -> [*B, hidden_size]``.

    It is the network F, G and H of Parikh et al. 2016. Weights are drawn as by He et al. 2015.

    Args:
        input_size: width of the input, at least 1.
        hidden_size: width of both layers, at least 1.
        dropout: dropout on the input of each layer, in ``[0, 1)``.
    """

    def __init__(self, input_size: int, hidden_size: int, dropout: float = 0.0) -> None:
        check_positive(input_size=input_size, hidden_size=hidden_size)
        super().__init__(
            *(Dropout(dropout), nn.Linear(input_size, hidden_size), nn.ReLU()),
            *(Dropout(dropout), nn.Linear(hidden_size, hidden_size), nn.ReLU()),
        )
        # Numbers keep their size from layer to layer. With the smaller weights of ``nn.Linear`` a
        # stack of these networks begins to learn late.
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
