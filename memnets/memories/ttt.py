"""Test-time training: a memory that is a network, trained by each step (Sun et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from memnets import events
from memnets.checks import check_positive
from memnets.core import MemoryAccess
from memnets.memories.gates import FeatureMap, make_features

__all__ = ["TTT", "TTTState"]


class TTTState(NamedTuple):
    """State of a :class:`TTT`.

    Attributes:
        memory: weights of the first layer of each head's network, ``[B, H, K, V]``, or
            ``[B, H, K, M]`` with a hidden layer.
        second: weights of the second layer, ``[B, H, M, V]``; ``None`` without a hidden layer.
    """

    memory: Tensor
    second: Tensor | None


class TTT(MemoryAccess[TTTState]):
    """The memory is a network f for each head; a step trains it on a pair, then asks it.

    A step takes one step down the gradient of the loss ``|f(k) - v|^2 / 2``, at the rate ``e = rate
    sigmoid(x)``, then reads ``r = f(q)`` (Sun et al. 2024, equations 1 and 3). The networks::

        f(x) = W^T x                    without a hidden layer
        f(x) = W_2^T gelu(W_1^T x)      with one of M cells
        f(x) = x + norm(...)            with ``normed``: layer normalisation (section 2.7)

    The network's first weights are learned with the rest of the model. A linear network without
    norm is the delta rule with ``b = w = e``, a :class:`~memnets.memories.DeltaNet`, whose steps
    need not be taken one by one. Each step here sees the weights that the last one left: in the
    paper, a mini-batch of one. The networks have no biases. Where values are great, the steps of a
    network with a hidden layer may diverge; with ``normed`` they do not.

    Args:
        key_size: K, the width of queries and keys, at least 1.
        value_size: V, the width of the values, at least 1.
        heads: H, the number of heads, at least 1.
        hidden_size: M, the width of the hidden layer, at least 1; ``None`` = a linear network.
        normed: whether f is the key plus a layer normalisation; then V must be K.
        rate: largest rate of the training, above 0.
        features: map of queries and keys, as in :class:`~memnets.memories.Linear`.

    Raises:
        ValueError: a number is out of its range.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "memory": "W_t = W_{t-1} - η ∇ |f(k) - v|² / 2\n(Sun et al. 2024, equation 1)"
    }

    def __init__(
        self,
        key_size: int = 32,
        value_size: int = 32,
        heads: int = 1,
        hidden_size: int | None = None,
        normed: bool = False,
        rate: float = 1.0,
        features: FeatureMap | str = "normalized",
    ) -> None:
        super().__init__()
        check_positive(key_size=key_size, value_size=value_size, heads=heads)
        if not 0 < rate < math.inf:
            raise ValueError(f"rate must be above 0 and finite; got {rate}")
        self.features = make_features(features)
        size = self.features.size(key_size)
        if normed and size != value_size:
            raise ValueError(
                f"normed adds the key to what is read, so both must have one width; got keys of "
                f"width {size} and values of width {value_size}"
            )
        self.value_size = value_size
        self.read_heads = heads
        self.rate = rate
        self.read_size = heads * value_size
        self.sizes = (heads * key_size, heads * key_size, heads * value_size, heads)
        self.vectors_size = sum(self.sizes[:3])
        self.interface_size = sum(self.sizes)
        self.second: nn.Parameter | None = None
        if hidden_size is None:
            self.first = nn.Parameter(torch.zeros(heads, size, value_size))
        else:
            check_positive(hidden_size=hidden_size)
            self.first = nn.Parameter(torch.randn(heads, size, hidden_size) / math.sqrt(size))
            scale = 1 / math.sqrt(hidden_size)
            self.second = nn.Parameter(scale * torch.randn(heads, hidden_size, value_size))
        self.norm: nn.ParameterList | None = None
        if normed:
            gain, shift = torch.ones(heads, 1, value_size), torch.zeros(heads, 1, value_size)
            self.norm = nn.ParameterList([nn.Parameter(gain), nn.Parameter(shift)])

    def initial_state(self, batch_size: int) -> TTTState:
        """The learned first weights."""
        each = (batch_size, -1, -1, -1)
        second = None if self.second is None else self.second.expand(each)
        return TTTState(self.first.expand(each), second)

    def forward(self, interface: Tensor, state: TTTState) -> tuple[Tensor, TTTState]:
        """One step: ``[B, interface_size] -> [B, heads * V]``."""
        rows = [
            part.unflatten(-1, (self.read_heads, 1, -1)) for part in interface.split(self.sizes, -1)
        ]
        query, key = self.features(rows[0]), self.features(rows[1])
        value, rate = rows[2], self.rate * rows[3].sigmoid()
        # The gradient is written out, so that a step runs without autograd too.
        inner = key @ state.memory
        hidden = inner if state.second is None else nn.functional.gelu(inner) @ state.second
        added = -rate * self._slope(key, hidden, value)
        if state.second is None:
            after = TTTState(state.memory + key.mT @ added, None)
        else:
            # The derivative of the GELU, x times the distribution function of a normal.
            under = 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
            steep = under + inner * torch.exp(-inner.square() / 2) / math.sqrt(2 * math.pi)
            back = steep * (added @ state.second.mT)
            second = state.second + nn.functional.gelu(inner).mT @ added
            added = back
            after = TTTState(state.memory + key.mT @ back, second)
        events.report(
            self, read=query, write=key, add=added, before=state.memory, memory=after.memory
        )
        return self._read(query, after).flatten(1), after

    def _read(self, query: Tensor, state: TTTState) -> Tensor:
        """Answer of the network to a query, ``[B, H, 1, K] -> [B, H, 1, V]``."""
        found: Tensor = query @ state.memory
        if state.second is not None:
            found = nn.functional.gelu(found) @ state.second
        if self.norm is None:
            return found
        gain, shift = self.norm
        answer: Tensor = query + gain * _standardized(found)[0] + shift
        return answer

    def _slope(self, key: Tensor, found: Tensor, value: Tensor) -> Tensor:
        """Gradient of the loss to what the network finds before the norm, ``[B, H, 1, V]``."""
        if self.norm is None:
            return found - value
        gain, shift = self.norm
        standard, length = _standardized(found)
        slope = gain * (key + gain * standard + shift - value)
        across = (slope * standard).mean(-1, keepdim=True)
        whole: Tensor = (slope - slope.mean(-1, keepdim=True) - standard * across) * length
        return whole


def _standardized(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors of mean 0 and variance 1, and the factor that made them so."""
    centred = vectors - vectors.mean(-1, keepdim=True)
    factor = (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    return centred * factor, factor
