"""Addressing: from a query to weights over the slots of a memory."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from memnets import functional, kernels
from memnets.core import Addressing, Memory, Normalizer, Score, check_memory
from memnets.normalizers import Softmax
from memnets.scores import Cosine, Dot, ScaledDot

__all__ = ["Content", "NTMAddressing", "NTMQuery"]


class Content(Addressing[Tensor, None]):
    """Address by content: normalise how well each key answers the query.

    Bahdanau attention, Luong attention, pointers and self-attention are this class with another
    score. :meth:`scores` are a pointer's logits.

    Args:
        score: how well a key answers a query.
        normalizer: from scores to weights; softmax if not given.
    """

    def __init__(self, score: Score, normalizer: Normalizer | None = None) -> None:
        super().__init__()
        self.score = score
        self.normalizer = Softmax() if normalizer is None else normalizer

    def initial_state(self, memory: Memory) -> None:
        """Addressing by content has no past."""

    def scores(self, query: Tensor, memory: Memory) -> Tensor:
        """Scores before they are normalised, with ``-inf`` where the mask is False.

        Args:
            query: ``[*B, Q, K]``.
            memory: keys ``[*B, N, K]``.

        Returns:
            ``[*B, Q, N]``.
        """
        check_memory(query, memory)
        scores: Tensor = self.score(query, memory.keys)
        return scores if memory.mask is None else scores.masked_fill(~memory.mask, -torch.inf)

    def forward(self, query: Tensor, memory: Memory, state: None = None) -> tuple[Tensor, None]:
        """Weights ``[*B, Q, N]`` for a query ``[*B, Q, K]``.

        Raises:
            ValueError: the shapes of query and memory do not fit.
            TypeError: the mask is not boolean.
        """
        check_memory(query, memory)
        return self.normalizer(self.score(query, memory.keys), memory.mask), None

    def read(self, query: Tensor, memory: Memory, state: None = None) -> tuple[Tensor, None]:
        """Vectors ``[*B, Q, V]``; a fused kernel does the dot-product scores under softmax."""
        fused = type(self.score) in (Dot, ScaledDot) and type(self.normalizer) is Softmax
        if not fused or not kernels.enabled():
            return super().read(query, memory, state)
        check_memory(query, memory)
        scale = 1.0 if isinstance(self.score, Dot) else 1 / math.sqrt(query.shape[-1])
        keys, values, mask = memory
        if mask is None:
            empty = None
        else:
            # The kernels disagree on rows with nothing to address: such a row may address all
            # here, and is set to the rule's zero after.
            empty = ~mask.any(-1, keepdim=True)
            mask = mask | empty
        vectors = nn.functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=scale
        )
        return (vectors if empty is None else vectors.masked_fill(empty, 0.0)), None


class NTMQuery(NamedTuple):
    """What a head of a Neural Turing Machine emits (Graves et al. 2014, section 3.3).

    Attributes:
        key: k_t, ``[*B, Q, W]``.
        strength: beta_t > 0, ``[*B, Q, 1]``.
        gate: g_t in ``[0, 1]``, ``[*B, Q, 1]``.
        shift: s_t, ``[*B, Q, S]``, rows on the simplex, S odd.
        sharpness: gamma_t >= 1, ``[*B, Q, 1]``.
    """

    key: Tensor
    strength: Tensor
    gate: Tensor
    shift: Tensor
    sharpness: Tensor


class NTMAddressing(Addressing[NTMQuery, Tensor]):
    """By content, then by location (Graves et al. 2014, section 3.3, figure 2).

    The state is the weights of the step before, ``[*B, Q, N]``.

    Args:
        score: K, the measure of similarity; cosine if not given (equation 6).
        normalizer: from scores to content weights; softmax if not given (equation 5).
    """

    def __init__(self, score: Score | None = None, normalizer: Normalizer | None = None) -> None:
        super().__init__()
        self.score = Cosine() if score is None else score
        self.normalizer = Softmax() if normalizer is None else normalizer

    def initial_state(self, memory: Memory) -> Tensor:
        """All weight on the first slot that may be addressed, for one query: ``[*B, 1, N]``.

        One-hot, because equal weights over equal slots would give every slot the same gradient.
        """
        keys, _, mask = memory
        weights = keys.new_zeros(*keys.shape[:-2], 1, keys.shape[-2])
        if mask is None:
            weights[..., 0] = 1.0
            return weights
        open_to_any = mask.any(-2, keepdim=True).expand(weights.shape)
        first = open_to_any.long().argmax(-1, keepdim=True)
        return weights.scatter(-1, first, 1.0) * open_to_any

    def forward(self, query: NTMQuery, memory: Memory, state: Tensor) -> tuple[Tensor, Tensor]:
        """Weights ``[*B, Q, N]``, which are the next state too.

        Raises:
            ValueError: a shape does not fit, or the shift kernel is even or wider than the memory.
            TypeError: the mask is not boolean.
        """
        key, strength, gate, kernel, sharpness = query
        check_memory(key, memory)
        content = self.normalizer(strength * self.score(key, memory.keys), memory.mask)
        moved = functional.shift(functional.interpolate(content, state, gate), kernel)
        weights = functional.sharpen(moved, sharpness, memory.mask)
        return weights, weights
