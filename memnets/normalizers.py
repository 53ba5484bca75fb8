"""Normalizers: functions from scores to weights, ``[*B, Q, N]`` to rows on the simplex."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from memnets import functional
from memnets.checks import check_positive
from memnets.core import Normalizer

__all__ = ["Entmax15", "GumbelHard", "ScalableSoftmax", "Softmax", "Sparsemax", "TopK"]


class Softmax(Normalizer):
    """``exp(s_i) / sum_j exp(s_j)``: every slot gets a weight above 0."""

    equations: ClassVar[Mapping[str, str]] = {"weights": "norm(s)_i = exp(s_i) / Σ_j exp(s_j)"}

    def normalize(self, scores: Tensor) -> Tensor:
        """``[*B, Q, N] -> [*B, Q, N]``."""
        return functional.softmax(scores)


class ScalableSoftmax(Normalizer):
    """Softmax that stays as sharp among many slots as among few (Nakanishi 2025, equation 2).

    ``n^(c s_i) / sum_j n^(c s_j)``, with n the number of slots that may be addressed: in a longer
    memory, the same difference of scores counts more. c is learned. It is meant for memories longer
    than those of the training.

    Args:
        scale: initial value of c; 0.43 is near the values that a model learned (ibid., figure 1).
    """

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "norm(s)_i = n^(c s_i) / Σ_j n^(c s_j), of n slots\n(Nakanishi 2025, equation 2)"
    }

    def __init__(self, scale: float = 0.43) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def sharpness(self, count: Tensor) -> Tensor:
        """Factor on the scores: ``c log n``, for n of any shape; n = 1 counts as 2."""
        # A count beyond 65504 has no place in float16; its logarithm has.
        exact = torch.promote_types(self.scale.dtype, torch.float32)
        return self.scale * count.clamp_min(2).to(exact).log().to(self.scale.dtype)

    def normalize(self, scores: Tensor) -> Tensor:
        """``[*B, Q, N] -> [*B, Q, N]``."""
        open_slots = scores > -torch.inf
        # Below the best score no product can overflow; the clamp keeps ``0 * -inf`` out of the
        # gradient, and a score so far below has weight 0 in any case.
        below = (scores - scores.amax(-1, keepdim=True)).clamp_min(-1e4)
        scaled = below * self.sharpness(open_slots.sum(-1, keepdim=True))
        return functional.softmax(scaled.masked_fill(~open_slots, -torch.inf))


class Sparsemax(Normalizer):
    """Projection on the simplex: most slots get weight 0 (Martins & Astudillo 2016)."""

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "norm(s): the nearest point to s on the simplex (Martins & Astudillo 2016)"
    }

    def normalize(self, scores: Tensor) -> Tensor:
        """``[*B, Q, N] -> [*B, Q, N]``."""
        return functional.sparsemax(scores)


class Entmax15(Normalizer):
    """1.5-entmax, halfway between softmax and sparsemax (Peters, Niculae & Martins 2019)."""

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "norm(s): 1.5-entmax (Peters, Niculae & Martins 2019)"
    }

    def normalize(self, scores: Tensor) -> Tensor:
        """``[*B, Q, N] -> [*B, Q, N]``."""
        return functional.entmax15(scores)


class TopK(Normalizer):
    """Softmax over the ``count`` best slots of each row; the others get exactly 0.

    A row with fewer open slots gives weight to those alone. Of equal scores at the boundary, those
    of the first slots count.

    Args:
        count: most slots of a row with a weight above 0, at least 1.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "norm(s): softmax over the best slots alone; the others get 0"
    }

    def __init__(self, count: int) -> None:
        super().__init__()
        check_positive(count=count)
        self.count = count

    def normalize(self, scores: Tensor) -> Tensor:
        """``[*B, Q, N] -> [*B, Q, N]``."""
        # Masked slots come as -inf: they are chosen last, and softmax gives them 0.
        best, where = functional.greatest(scores, self.count)
        return torch.zeros_like(scores).scatter(-1, where, functional.softmax(best))


class GumbelHard(Normalizer):
    """One sampled slot a row, with the gradient of a softmax.

    The forward value is exactly one-hot, drawn from ``softmax(scores)`` with Gumbel noise. The
    gradient is that of ``softmax((scores + noise) / temperature)`` (Jang, Gu & Poole 2017, section
    2.2). In evaluation it takes the best slot, without noise.

    Args:
        temperature: tau > 0; a lower one follows the sample more closely and makes the gradient
            noisier.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "norm(s): one slot drawn from softmax(s); in evaluation the best "
        "\n(Jang, Gu & Poole 2017)"
    }

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be greater than 0; got {temperature}")
        self.temperature = temperature

    def normalize(self, scores: Tensor) -> Tensor:
        """``[*B, Q, N] -> [*B, Q, N]``."""
        if self.training:
            # -log of an exponential variable is Gumbel distributed. Drawn in float32: in 16 bits
            # the exponential may round to 0, and its logarithm be infinite.
            noise = torch.empty_like(scores, dtype=torch.float32).exponential_().log().neg()
            scores = scores + noise.to(scores.dtype)
        soft = functional.softmax(scores / self.temperature)
        hard = torch.zeros_like(soft).scatter(-1, scores.argmax(-1, keepdim=True), 1.0)
        # The difference is exactly 0 and carries the gradient: the value stays exactly one-hot.
        return hard + (soft - soft.detach())
