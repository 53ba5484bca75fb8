"""Gates and feature maps of linear memories (:class:`memnets.memories.Linear`).

A gate turns some numbers of the interface into numbers in a range: how much of the memory a step
keeps (:class:`Decay`), how much of what a key finds it erases, and how much of a value it writes
(:class:`Strength`). It is made from the number of heads and the width of what it acts on.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from memnets.checks import check_positive
from memnets.factories import check_made

__all__ = [
    "DECAYS",
    "DPFP",
    "ELU",
    "FEATURES",
    "STRENGTHS",
    "Decay",
    "FeatureMap",
    "FixedDecay",
    "Gate",
    "Identity",
    "Normalized",
    "SigmoidDecay",
    "SigmoidStrength",
    "SoftplusDecay",
    "Strength",
    "make_features",
    "make_gate",
]


class Gate(nn.Module, ABC):
    """Base class for gates of a linear memory.

    Args:
        heads: H, the number of heads, at least 1.
        size: X, the width of the keys or values that the gate acts on, at least 1.

    Attributes:
        interface_size: numbers of the interface that the gate takes, for all heads together; 0 for
            a gate that does not depend on the input.
    """

    interface_size: int = 0

    def __init__(self, heads: int, size: int) -> None:
        super().__init__()
        check_positive(heads=heads, size=size)
        self.heads = heads
        self.size = size

    @abstractmethod
    def forward(self, numbers: Tensor) -> Tensor:
        """The gate's values.

        Args:
            numbers: ``[*B, interface_size]``, any real numbers.

        Returns:
            ``[*B, H, 1]``, one for each head, or ``[*B, H, X]``, one for each entry of a vector.
        """


class Decay(Gate):
    """Base class for gates that say how much of the memory stays: they return ``log a <= 0``.

    The logarithm, since a product of many decays may be too small for its type.
    """


class Strength(Gate):
    """Base class for the strengths of a write: b, how much it erases, and w, how much it adds.

    Attributes:
        high: upper end of the range ``[0, high]``; at most 2 for a gate that erases.
    """

    high: float = 1.0


class FixedDecay(Decay):
    """A decay for each head that never changes: ``a_h = 1 - 2^(-5 - h)`` (Sun et al. 2023, 2.1).

    The first head, h = 0, forgets fastest.
    """

    def __init__(self, heads: int, size: int) -> None:
        super().__init__(heads, size)
        self.powers: Tensor
        # Whole numbers, so that any type has the decays as exactly as it can.
        powers = -5.0 - torch.arange(heads).to(torch.get_default_dtype())
        self.register_buffer("powers", powers.unsqueeze(-1), persistent=False)

    def forward(self, numbers: Tensor) -> Tensor:
        """``log a``, ``[*B, H, 1]``."""
        logs = torch.log1p(-torch.exp2(self.powers))
        return logs.expand(*numbers.shape[:-1], -1, -1)


class SigmoidDecay(Decay):
    """A decay by the input: ``a = sigmoid(x)^(1 / temperature)`` (Yang et al. 2024, GLA, 4.4).

    Args:
        heads: H, the number of heads, at least 1.
        size: K, the width of the keys, at least 1.
        vector: True = a decay for each entry of a key, False = one for each head.
        temperature: above 0; a large one keeps the decay near 1.
    """

    def __init__(
        self, heads: int, size: int, vector: bool = False, temperature: float = 16.0
    ) -> None:
        super().__init__(heads, size)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be above 0 and finite; got {temperature}")
        self.temperature = temperature
        self.interface_size = heads * (size if vector else 1)

    def forward(self, numbers: Tensor) -> Tensor:
        """``log a``, ``[*B, H, 1 or K]``."""
        numbers = numbers.unflatten(-1, (self.heads, -1))
        return nn.functional.logsigmoid(numbers) / self.temperature


class SoftplusDecay(Decay):
    """A decay by the input with a rate of its own for each head.

    ``a = exp(-r softplus(x + c))`` with a rate ``r > 0`` for each head and a bias c, both learned,
    as in Mamba-2 (Dao & Gu 2024), Gated DeltaNet (Yang et al. 2025) and KDA (Kimi Team 2025). At
    the start r is spread over 1 to 16, and softplus(c) over 0.001 to 0.1 on a logarithmic scale.

    Args:
        heads: H, the number of heads, at least 1.
        size: K, the width of the keys, at least 1.
        vector: True = a decay for each entry of a key, False = one for each head.
    """

    def __init__(self, heads: int, size: int, vector: bool = False) -> None:
        super().__init__(heads, size)
        each = size if vector else 1
        self.interface_size = heads * each
        self.log_rate = nn.Parameter(torch.empty(heads, 1).uniform_(1.0, 16.0).log())
        steps = torch.empty(heads, each).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        # The inverse of the softplus.
        self.bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))

    def steps(self, numbers: Tensor) -> Tensor:
        """``softplus(x + c)``, at least 0, ``[*B, H, 1 or K]``."""
        numbers = numbers.unflatten(-1, (self.heads, -1))
        return nn.functional.softplus(numbers + self.bias)

    def forward(self, numbers: Tensor) -> Tensor:
        """``log a``, ``[*B, H, 1 or K]``."""
        return -self.log_rate.exp() * self.steps(numbers)


class SigmoidStrength(Strength):
    """A strength by the input: ``high sigmoid(x + c)``, c = 0 unless ``start`` sets it.

    With a key of length 1, a write that erases with strength b multiplies what the key finds by
    ``1 - b``: in ``(0, 1)`` for ``high = 1``, in ``(-1, 1)`` for ``high = 2`` (Grazzi et al. 2025).

    Args:
        heads: H, the number of heads, at least 1.
        size: X, the width of a key or value, at least 1.
        high: upper end of the range, above 0.
        vector: True = a strength for each entry of a vector, False = one for each head.
        start: strength for an input of 0, about which a training begins, within ``(0, high)``;
            ``None`` = the middle, ``high / 2``. A strength of 1 erases all that the key finds. A
            memory that is to be turned, and not erased, begins better near ``high = 2``.
    """

    def __init__(
        self,
        heads: int,
        size: int,
        high: float = 1.0,
        vector: bool = False,
        start: float | None = None,
    ) -> None:
        super().__init__(heads, size)
        if not 0 < high < math.inf:
            raise ValueError(f"high must be above 0 and finite; got {high}")
        if start is not None and not 0 < start < high:
            raise ValueError(f"start must be above 0 and below high = {high:g}; got {start}")
        self.high = high
        # What the sigmoid takes to give the start.
        self.offset = 0.0 if start is None else math.log(start / (high - start))
        self.interface_size = heads * (size if vector else 1)

    def forward(self, numbers: Tensor) -> Tensor:
        """``[*B, H, 1 or X]``."""
        numbers = numbers.unflatten(-1, (self.heads, -1))
        if self.offset:
            numbers = numbers + self.offset
        strengths: Tensor = self.high * numbers.sigmoid()
        return strengths


#: Name of a decay -> what makes it from the number of heads and the width of the keys.
DECAYS: dict[str, Callable[[int, int], Decay]] = {
    "fixed": FixedDecay,
    "scalar": SigmoidDecay,
    "vector": partial(SigmoidDecay, vector=True),
    "softplus": SoftplusDecay,
    "softplus vector": partial(SoftplusDecay, vector=True),
}
#: Name of a strength -> what makes it.
STRENGTHS: dict[str, Callable[[int, int], Strength]] = {
    "scalar": SigmoidStrength,
    "negative": partial(SigmoidStrength, high=2.0),
    "vector": partial(SigmoidStrength, vector=True),
}

Made = TypeVar("Made", bound=Gate)


def make_gate(
    name: str,
    gate: Callable[[int, int], Made] | str | None,
    known: dict[str, Callable[[int, int], Made]],
    kind: type[Any],
    heads: int,
    size: int,
    more: str = "",
) -> Made | None:
    """Make the gate that an argument names.

    Args:
        name: name of the argument.
        gate: a name, a class of gates or another function that makes one; ``None`` = no gate.
        known: gates by name.
        kind: class of the gate.
        heads: number of heads.
        size: width of what the gate acts on.
        more: further names that the argument may have, for the message.

    Raises:
        ValueError: the name is unknown.
        TypeError: the function makes no gate of this class; or a gate itself was given, in place of
            a function that makes one.
    """
    if gate is None:
        return None
    if isinstance(gate, str):
        if gate not in known:
            names = ", ".join(map(repr, known))
            raise ValueError(
                f"{name} must be {more}one of {names}, a class of {kind.__name__}, or None; "
                f"got {gate!r}"
            )
        gate = known[gate]
    finished = isinstance(gate, nn.Module) or not callable(gate)
    made = None if finished else gate(heads, size)
    if made is None or not isinstance(made, kind):
        raise TypeError(
            f"{name} must make a {kind.__name__} when it is given the number of heads and a width, "
            f"such as {next(iter(known))!r}; got {gate!r}"
        )
    right: Made = made
    return right


class FeatureMap(nn.Module, ABC):
    """Base class for maps of queries and keys: the products of their results are the scores.

    Attributes:
        positive: whether all results are above 0, so that they may count as weights.
    """

    positive: ClassVar[bool] = False

    def size(self, size: int) -> int:
        """Width of the results for vectors of a width; by default the same."""
        return size

    @abstractmethod
    def forward(self, vectors: Tensor) -> Tensor:
        """``[*B, K] -> [*B, size(K)]``."""


class Identity(FeatureMap):
    """Queries and keys as they are."""

    def forward(self, vectors: Tensor) -> Tensor:
        """``[*B, K] -> [*B, K]``, unchanged."""
        return vectors


class Normalized(FeatureMap):
    """Vectors of length 1: ``x / sqrt(|x|^2 + epsilon)``.

    Args:
        epsilon: above 0; it keeps the gradient of a vector near 0 finite.
    """

    def __init__(self, epsilon: float = 1e-6) -> None:
        super().__init__()
        if not epsilon > 0:
            raise ValueError(f"epsilon must be above 0; got {epsilon}")
        self.epsilon = epsilon

    def forward(self, vectors: Tensor) -> Tensor:
        """``[*B, K] -> [*B, K]``."""
        return vectors * (vectors.square().sum(-1, keepdim=True) + self.epsilon).rsqrt()


class ELU(FeatureMap):
    """``elu(x) + 1``, above 0 (Katharopoulos et al. 2020, equation 7)."""

    positive = True

    def forward(self, vectors: Tensor) -> Tensor:
        """``[*B, K] -> [*B, K]``."""
        return nn.functional.elu(vectors) + 1


class DPFP(FeatureMap):
    """Deterministic projection without parameters (Schlag et al. 2021, section 5.3).

    ``r_i r_{i + j}`` for all i and for j from 1 to the reach, with ``r = relu([x, -x])``; then the
    sum of a result is made 1, as in section 4.2 there. Few results are not 0, so that many keys are
    orthogonal.

    Args:
        reach: nu, at least 1; the results are ``2 nu`` times as wide as the vectors.
    """

    def __init__(self, reach: int = 1) -> None:
        super().__init__()
        check_positive(reach=reach)
        self.reach = reach

    def size(self, size: int) -> int:
        """``2 nu`` times the width."""
        return 2 * self.reach * size

    def forward(self, vectors: Tensor) -> Tensor:
        """``[*B, K] -> [*B, 2 nu K]``."""
        both = torch.cat([vectors, -vectors], -1).relu()
        products = [both * both.roll(shift, -1) for shift in range(1, self.reach + 1)]
        features = torch.cat(products, -1)
        return features / (features.sum(-1, keepdim=True) + 1e-6)


#: Name of a feature map -> the map.
FEATURES: dict[str, Callable[[], FeatureMap]] = {
    "none": Identity,
    "normalized": Normalized,
    "elu": ELU,
    "dpfp": DPFP,
}


def make_features(features: FeatureMap | str) -> FeatureMap:
    """Make the feature map that an argument names.

    Raises:
        ValueError: the name is unknown.
        TypeError: it is neither a name nor a finished part.
    """
    if isinstance(features, str):
        if features not in FEATURES:
            names = ", ".join(map(repr, FEATURES))
            raise ValueError(f"features must be one of {names}, or a FeatureMap; got {features!r}")
        return FEATURES[features]()
    check_made("features", features, "Normalized()")
    return features
