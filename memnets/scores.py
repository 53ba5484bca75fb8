"""Scores: measures of how well a key answers a query.

All map ``[*B, Q, K], [*B, N, K] -> [*B, Q, N]``. The owner of a memory projects the keys once, not
at each step: a paper's ``W_h h`` is already in ``Memory.keys``. A score holds only the parameters
that need the query and the key together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from memnets import functional
from memnets.checks import check_positive
from memnets.core import Score
from memnets.factories import check_made

__all__ = [
    "Additive",
    "Concat",
    "Cosine",
    "Distance",
    "Dot",
    "General",
    "Location",
    "ScaledDot",
    "SquaredDistance",
]


class Dot(Score):
    """``q . k`` (Luong et al. 2015, equation 8, *dot*)."""

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "s(q, k) = q · k (Luong et al. 2015, equation 8)"
    }

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """``[*B, Q, K], [*B, N, K] -> [*B, Q, N]``."""
        return query @ keys.mT


class ScaledDot(Score):
    """``q . k / sqrt(K)`` (Vaswani et al. 2017, equation 1)."""

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "s(q, k) = q · k / √K (Vaswani et al. 2017, equation 1)"
    }

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """``[*B, Q, K], [*B, N, K] -> [*B, Q, N]``."""
        # The query is scaled, not the product: it is smaller, and in 16 bits the product of
        # unscaled vectors could overflow.
        return query / math.sqrt(query.shape[-1]) @ keys.mT


class SquaredDistance(Score):
    """``-|q - k|^2``, at most 0 (Snell et al. 2017, equation 2)."""

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "s(q, k) = -|q - k|² (Snell et al. 2017, equation 2)"
    }

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """``[*B, Q, K], [*B, N, K] -> [*B, Q, N]``."""
        # |q|^2 - 2 q.k + |k|^2 would save memory, but cancellation loses the difference of two
        # near keys.
        return -(query.unsqueeze(-2) - keys.unsqueeze(-3)).square().sum(-1)


class General(Score):
    """``q W k`` (Luong et al. 2015, equation 8, *general*).

    Args:
        size: K, width of query and keys, at least 1.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "s(q, k) = q W k (Luong et al. 2015, equation 8)"
    }

    def __init__(self, size: int) -> None:
        super().__init__()
        check_positive(size=size)
        self.projection = nn.Linear(size, size, bias=False)

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """``[*B, Q, K], [*B, N, K] -> [*B, Q, N]``."""
        projected: Tensor = self.projection(query)
        return projected @ keys.mT


class Additive(Score):
    """``v . tanh(W q + k)`` (Bahdanau et al. 2015, section A.1.2), for keys already projected.

    Args:
        size: K, width of query and keys, at least 1.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "s(q, k) = v · tanh(W q + k) (Bahdanau et al. 2015, section A.1.2)"
    }

    def __init__(self, size: int) -> None:
        super().__init__()
        check_positive(size=size)
        self.projection = nn.Linear(size, size)
        # As the rows of ``nn.Linear``.
        self.direction = nn.Parameter(torch.empty(size).uniform_(-1, 1) / math.sqrt(size))

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """``[*B, Q, K], [*B, N, K] -> [*B, Q, N]``."""
        return functional.additive_scores(self.projection(query), keys, self.direction)


class Concat(Score):
    """``v . tanh(W [q; k])`` (Luong et al. 2015, equation 8, *concat*).

    ``W [q; k]`` is computed as the sum of a projection of q and one of k, so that no pair is
    concatenated.

    Args:
        size: K, width of query and keys, at least 1.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "s(q, k) = v · tanh(W [q; k]) (Luong et al. 2015, equation 8)"
    }

    def __init__(self, size: int) -> None:
        super().__init__()
        check_positive(size=size)
        self.query_projection = nn.Linear(size, size, bias=False)
        self.key_projection = nn.Linear(size, size, bias=False)
        self.direction = nn.Parameter(torch.empty(size).uniform_(-1, 1) / math.sqrt(size))

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """``[*B, Q, K], [*B, N, K] -> [*B, Q, N]``."""
        keys = self.key_projection(keys)
        return functional.additive_scores(self.query_projection(query), keys, self.direction)


class Cosine(Score):
    """Cosine of the angle between query and key (Graves et al. 2014, equation 6).

    Args:
        epsilon: added to each squared length, at least 0; it keeps the gradient of a zero row
            finite.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "s(q, k) = q · k / (|q| |k|) (Graves et al. 2014, equation 6)"
    }

    def __init__(self, epsilon: float = 1e-6) -> None:
        super().__init__()
        if not 0 <= epsilon < math.inf:
            raise ValueError(f"epsilon must be at least 0 and finite; got {epsilon}")
        self.epsilon = epsilon

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """``[*B, Q, K], [*B, N, K] -> [*B, Q, N]``, in ``[-1, 1]``."""
        return functional.cosine_similarity(query, keys, self.epsilon)


class Location(Score):
    """``W q``: scores from the query alone (Luong et al. 2015, equation 8, *location*).

    This is the only score whose parameters depend on the number of slots. A memory with fewer
    slots uses the first rows of W.

    Args:
        size: K, width of the query, at least 1.
        slots: most slots of a memory, at least 1.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "s(q, k_i) = (W q)_i (Luong et al. 2015, equation 8)"
    }

    def __init__(self, size: int, slots: int) -> None:
        super().__init__()
        check_positive(size=size, slots=slots)
        self.projection = nn.Linear(size, slots, bias=False)

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """``[*B, Q, K], [*B, N, K] -> [*B, Q, N]``.

        Raises:
            ValueError: the memory has more slots than the score.
        """
        if keys.shape[-2] > self.projection.out_features:
            raise ValueError(
                f"this location score knows {self.projection.out_features} slots; "
                f"the memory has {keys.shape[-2]}"
            )
        scores: Tensor = self.projection(query)
        return scores[..., : keys.shape[-2]]


class Distance(Score):
    """``s(q_i, k_j) + d_{i-j}``: another score, and a bias for each distance (Parikh et al. 2016).

    Query i stands at slot i, as where a sentence reads itself. Distances beyond the reach share the
    bias of the reach, on each side (section 3.4, where the reach is 10). Biases start at 0.

    Args:
        score: the other score.
        reach: greatest distance with a bias of its own, at least 1.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "plus a bias for each distance, d_{i-j} (Parikh et al. 2016, section 3.4)"
    }

    def __init__(self, score: Score, reach: int = 10) -> None:
        super().__init__()
        check_made("score", score, "Dot()")
        check_positive(reach=reach)
        self.score = score
        self.reach = reach
        self.bias = nn.Parameter(torch.zeros(2 * reach + 1))

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """``[*B, Q, K], [*B, N, K] -> [*B, Q, N]``."""
        places, slots = (
            torch.arange(steps, device=query.device) for steps in (query.shape[-2], keys.shape[-2])
        )
        distance = (places.unsqueeze(-1) - slots).clamp(-self.reach, self.reach)
        scores: Tensor = self.score(query, keys)
        return scores + self.bias[distance + self.reach]
