"""Addressing: functions from a query to weights over the slots of a memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from memnets import events, functional
from memnets.checks import check_memory, check_positive
from memnets.core import Addressing, Memory, Normalizer, Query, Score, State
from memnets.factories import check_made
from memnets.normalizers import Softmax
from memnets.precision import full_precision
from memnets.scores import Cosine, Dot

__all__ = [
    "Allocating",
    "AllocatingQuery",
    "AllocatingState",
    "ByKey",
    "Content",
    "Hard",
    "HardState",
    "Hopfield",
    "LeastRecent",
    "LeastRecentQuery",
    "LeastRecentState",
    "LeastUsed",
    "LeastUsedState",
    "Linked",
    "LinkedQuery",
    "LinkedState",
    "Local",
    "NTMAddressing",
    "NTMQuery",
    "Recent",
    "Sharp",
    "SharpQuery",
]


class _Normalized(Addressing[Query, State]):
    """Base class for addressing by scores that a normalizer turns into weights.

    Args:
        score: scores each key for each query.
        normalizer: turns scores into weights; softmax by default.
    """

    def __init__(self, score: Score, normalizer: Normalizer | None = None) -> None:
        super().__init__()
        check_made("score", score, "Dot()")
        check_made("normalizer", normalizer, "Softmax()")
        self.score = score
        self.normalizer = Softmax() if normalizer is None else normalizer


class Content(_Normalized[Tensor, None]):
    """Address by content: weights are the normalised scores of the keys.

    Bahdanau attention, Luong attention, pointers and self-attention are this class with different
    scores. A pointer's logits are :meth:`scores`.

    Args:
        score: scores each key for each query.
        normalizer: turns scores into weights; softmax by default.
    """

    equations: ClassVar[Mapping[str, str]] = {"weights": "w = norm(s(q, k_1), …, s(q, k_N))"}

    def initial_state(self, memory: Memory) -> None:
        """Addressing by content has no past."""

    def scores(self, query: Tensor, memory: Memory) -> Tensor:
        """Scores before normalisation, with ``-inf`` where the mask is False.

        It also reports the weights of these scores, as a call does.

        Args:
            query: ``[*B, Q, K]``.
            memory: a memory with keys ``[*B, N, K]``.

        Returns:
            ``[*B, Q, N]``.

        Raises:
            ValueError: the shapes of query and memory do not fit.
            TypeError: the mask is not boolean.
        """
        query = events.offer(self, "query", query)
        memory = events.offer(self, "memory", memory)
        check_memory(query, memory)
        compared = self._compared(query, memory)
        mask = memory.mask
        scores = compared if mask is None else compared.masked_fill(~mask, -torch.inf)
        if events.listening():
            weights = self.normalizer(compared, mask)
            used = events.offer(self, "weights", weights)
            if used is not weights:
                # The softmax of these scores is the weights that an editor wants.
                other = (used != weights).any(-1, keepdim=True)
                scores = torch.where(other, used.log(), scores)
            events.report(self, weights=used)
        return scores

    def forward(self, query: Tensor, memory: Memory, state: None = None) -> tuple[Tensor, None]:
        """Weights ``[*B, Q, N]`` for a query ``[*B, Q, K]``.

        Raises:
            ValueError: the shapes of query and memory do not fit.
            TypeError: the mask is not boolean.
        """
        check_memory(query, memory)
        # The mask goes to the normalizer, not into the scores: a row without an open slot would be
        # all -inf, and its softmax NaN.
        return self.normalizer(self.compare(query, memory), memory.mask), None

    def compare(self, query: Tensor, memory: Memory) -> Tensor:
        """Scores ``[*B, Q, N]`` of all slots, whether they may be addressed or not."""
        scores: Tensor = self.score(query, memory.keys)
        return scores

    @full_precision
    def _compared(self, query: Tensor, memory: Memory) -> Tensor:
        """The same, also in float32 where no call is around it: what is added is not rounded."""
        return self.compare(query, memory)


class Hopfield(Content):
    """Address by content, again and again: a modern Hopfield network (Ramsauer et al. 2021).

    The mean of the keys by the weights becomes the next query: ``q <- softmax(beta q K^T) K``
    (equation 3). Each update lowers the energy of the query, and with a large beta it ends at the
    stored key that is nearest (theorems 1 to 4); one update is attention with the scale beta.

    Args:
        beta: strength of the scores, above 0; with a small one the query ends at a mean of many
            keys.
        updates: number of times that weights are computed, at least 1; 3 are close to the fixed
            point where keys lie apart.
        normalizer: turns scores into weights; softmax by default, as in the paper.

    Raises:
        ValueError: a number is out of its range.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "w = softmax(β q K^T), then q = w K, again and again"
        "\n(Ramsauer et al. 2021, equation 3)"
    }

    def __init__(
        self, beta: float = 1.0, updates: int = 3, normalizer: Normalizer | None = None
    ) -> None:
        super().__init__(Dot(), normalizer)
        check_positive(updates=updates)
        if not 0 < beta < math.inf:
            raise ValueError(f"beta must be above 0 and finite; got {beta}")
        self.beta = beta
        self.updates = updates

    def compare(self, query: Tensor, memory: Memory) -> Tensor:
        """Scores ``[*B, Q, N]`` of the query after all updates but the last."""
        for _ in range(self.updates - 1):
            weights = self.normalizer(self.beta * self.score(query, memory.keys), memory.mask)
            query = functional.read(weights, memory.keys)
        scores: Tensor = self.score(self.beta * query, memory.keys)
        return scores


class Recent(Content):
    """Address by content and by age: ``score(q, k_i) + slope * i``, for slots in their order.

    i is the place of a slot among those that may be addressed, and the slope is learned (after
    Press et al. 2022, whose slopes are fixed). With a slope of 0 it is addressing by content, which
    cannot tell an old slot from a new one. A softmax depends on differences alone, so of two slots
    with the same content the later one has ``exp(slope)`` times the weight of the one before it.

    Args:
        score: scores each key for each query.
        normalizer: turns scores into weights; softmax by default.
        slope: the slope at the start of training.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "w = norm(s(q, k_1) + a, s(q, k_2) + 2 a, …), with a learned slope a"
        "\n(after Press et al. 2022)"
    }

    def __init__(
        self, score: Score, normalizer: Normalizer | None = None, slope: float = 1.0
    ) -> None:
        super().__init__(score, normalizer)
        self.slope = nn.Parameter(torch.tensor(float(slope)))

    def compare(self, query: Tensor, memory: Memory) -> Tensor:
        """Scores ``[*B, Q, N]`` of all slots, with the share of their age."""
        scores = super().compare(query, memory)
        if memory.mask is None:
            places = torch.arange(1, scores.shape[-1] + 1, device=scores.device)
        else:
            places = memory.mask.cumsum(-1)
        return scores + self.slope * places


class Local(_Normalized[Tensor, Tensor]):
    """Address by content within a window that moves along the slots (Luong et al. 2015, 3.2).

    *Monotonic* (local-m): the window of step t is centred on slot t; beyond the last slot it stays
    there. *Predictive* (local-p): the centre is ``p = S sigmoid(v . tanh(W q))``, with S the number
    of slots that may be addressed. The weights are multiplied by a Gaussian around p with a
    standard deviation of ``reach / 2`` (equations 9 and 10), so they sum to less than 1.

    The state is the number of steps so far, whole numbers ``[*B, 1]``. All queries of a call belong
    to one step.

    Args:
        score: scores each key for each query.
        size: K, width of the query, for local-p; ``None`` = local-m.
        reach: D, slots of the window on each side of its centre, at least 1.
        normalizer: turns scores into weights; softmax by default.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "w(i) = norm(s(q, k))(i) within |i - p| ≤ D, else 0"
        "\nmonotonic: p = t; predictive: p = S sigmoid(v · tanh(W q)), times"
        "\n exp(-(i - p)² / (2 (D / 2)²))"
        "\n(Luong et al. 2015, section 3.2, equations 9 and 10)"
    }

    def __init__(
        self,
        score: Score,
        size: int | None = None,
        reach: int = 10,
        normalizer: Normalizer | None = None,
    ) -> None:
        super().__init__(score, normalizer)
        check_positive(reach=reach)
        self.reach = reach
        self.place = None
        if size is not None:
            check_positive(size=size)
            self.place = nn.Sequential(
                nn.Linear(size, size, bias=False), nn.Tanh(), nn.Linear(size, 1, bias=False)
            )

    def initial_state(self, memory: Memory) -> Tensor:
        """Number of steps before the first one: 0, ``[*B, 1]``."""
        return memory.keys.new_zeros(*memory.keys.shape[:-2], 1, dtype=torch.long)

    def forward(self, query: Tensor, memory: Memory, state: Tensor) -> tuple[Tensor, Tensor]:
        """Weights ``[*B, Q, N]`` for queries ``[*B, Q, K]``, and the next number of steps.

        Raises:
            ValueError: the shapes of query and memory do not fit.
            TypeError: the mask is not boolean.
        """
        check_memory(query, memory)
        keys, _, mask = memory
        slots = torch.arange(keys.shape[-2], device=keys.device)
        if mask is None:
            count = torch.full_like(state, len(slots)).unsqueeze(-1)
        else:
            # Up to the last slot that may be addressed: [*B, 1 or Q, 1]. The 0 before the first is
            # for a memory without slots.
            numbers = nn.functional.pad((slots + 1) * mask, (1, 0))
            count = numbers.amax(-1, keepdim=True).to(state.dtype)
        # Places are real numbers with local-p, and the last slot at most with local-m.
        if self.place is None:
            centre = torch.minimum(state.unsqueeze(-1), (count - 1).clamp_min(0))
        else:
            centre = count * self.place(query).sigmoid()
        distance = slots - centre
        window = distance.abs() <= self.reach
        if mask is not None:
            window = window & mask
        weights = self.normalizer(self.score(query, keys), window.expand(*query.shape[:-1], -1))
        if self.place is not None:
            # exp(-(s - p)^2 / (2 sigma^2)) with sigma = reach / 2.
            weights = weights * torch.exp(-2 * (distance / self.reach).square())
        return weights, state + 1


class HardState(NamedTuple):
    """State of :class:`Hard`: the draws of the t steps so far, for REINFORCE.

    Attributes:
        log_probability: logarithm of the probability of each drawn slot, 0 where no slot may be
            addressed, ``[*B, Q, t]``.
        entropy: entropy of the distribution of each draw, in nats, ``[*B, Q, t]``.
        expected: bool ``[*B, 1, 1]``, True = a sequence without draws, whose weights are the
            probabilities; ``None`` = none is.
    """

    log_probability: Tensor
    entropy: Tensor
    expected: Tensor | None = None


class Hard(Addressing[Tensor, HardState]):
    """Address one slot, drawn by content (Xu et al. 2015, section 4.1).

    The weights are one-hot and have no gradient. The score learns by REINFORCE, from the rewards of
    its draws; for this the state holds the log probability of each draw. In evaluation it takes the
    best slot.

    In training a sequence may take the expected value of its draws in their place, with a
    probability of 0.5 in the paper. Then the weights are the probabilities, as of soft attention,
    and have a gradient. The model learns sooner so: a draw shows it a single slot, and the first
    ones hardly ever show the right one.

    Args:
        score: scores each key for each query.
        expected: probability with which a sequence of the training takes the expected value at all
            of its steps, in ``[0, 1]``.

    Raises:
        ValueError: the probability is out of its range.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "one slot, drawn from softmax(s(q, k_1), …, s(q, k_N)); in evaluation the best"
        "\n(Xu et al. 2015, section 4.1)"
    }

    def __init__(self, score: Score, expected: float = 0.0) -> None:
        super().__init__()
        check_made("score", score, "Dot()")
        if not 0 <= expected <= 1:
            raise ValueError(f"expected must be in [0, 1]; got {expected}")
        self.score = score
        self.expected = expected

    def initial_state(self, memory: Memory) -> HardState:
        """State without draws, for one query: ``[*B, 1, 0]``."""
        none = memory.keys.new_empty(*memory.keys.shape[:-2], 1, 0)
        if not self.training or not self.expected:
            return HardState(none, none)
        # For a whole sequence, since the worth of a draw is what comes of it later.
        chance = torch.rand(*none.shape[:-1], 1, device=none.device)
        return HardState(none, none, chance < self.expected)

    def forward(self, query: Tensor, memory: Memory, state: HardState) -> tuple[Tensor, HardState]:
        """Weights ``[*B, Q, N]`` for queries ``[*B, Q, K]``, and the draws so far.

        Raises:
            ValueError: the shapes of query and memory do not fit.
            TypeError: the mask is not boolean.
        """
        check_memory(query, memory)
        keys, _, mask = memory
        scores = self.score(query, keys)
        probabilities = functional.masked(scores, mask)
        weights, drawn, entropy = self._draw(probabilities)
        # In a row without an open slot, argmax still names one.
        if mask is not None:
            some = mask.any(-1, keepdim=True)
            weights, drawn = functional.inside(weights, some), functional.inside(drawn, some)
        if state.expected is not None:
            weights = torch.where(state.expected, probabilities, weights)
            drawn = drawn.masked_fill(state.expected, 0.0)

        # The initial state has one query; it expands to the queries of the first call.
        def added(past: Tensor, now: Tensor) -> Tensor:
            return torch.cat([past.expand(*now.shape[:-1], -1), now], -1)

        return weights, HardState(
            added(state.log_probability, drawn), added(state.entropy, entropy), state.expected
        )

    def _draw(self, probabilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One-hot weights, the log probability of the draw and the entropy, ``[*B, Q, 1]``."""
        if probabilities.shape[-1] == 0:
            none = probabilities.sum(-1, keepdim=True)
            return probabilities, none, none
        # The clamp keeps 0 log 0 and its gradient finite, for masked slots among others.
        logs = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
        if self.training:
            # The greatest of p / e, with e exponential, is a draw from p.
            noise = torch.empty_like(probabilities, dtype=torch.float32).exponential_()
            draws = probabilities / noise
        else:
            draws = probabilities
        place = draws.argmax(-1, keepdim=True)
        weights = torch.zeros_like(probabilities).scatter(-1, place, 1.0)
        return weights, logs.gather(-1, place), -(probabilities * logs).sum(-1, keepdim=True)


class ByKey(_Normalized[Query, State]):
    """Base class for addressing by a key with a strength.

    Args:
        score: similarity of a key and a slot; by default the cosine (Graves et al. 2014,
            equation 6).
        normalizer: turns scores into content weights; softmax by default (equation 5).
    """

    def __init__(self, score: Score | None = None, normalizer: Normalizer | None = None) -> None:
        super().__init__(Cosine() if score is None else score, normalizer)

    def content(self, key: Tensor, strength: Tensor, memory: Memory) -> Tensor:
        """Weights by content alone, ``[*B, Q, N]``.

        Args:
            key: ``[*B, Q, W]``.
            strength: factor on the scores, ``[*B, Q, 1]``.
            memory: the memory to address.

        Raises:
            ValueError: the shapes of key and memory do not fit.
            TypeError: the mask is not boolean.
        """
        check_memory(key, memory)
        weights: Tensor = self.normalizer(strength * self.score(key, memory.keys), memory.mask)
        return weights


class SharpQuery(NamedTuple):
    """Query of :class:`Sharp`: a key and its strength.

    Attributes:
        key: k_t, ``[*B, Q, W]``.
        strength: beta_t > 0, factor on the scores, ``[*B, Q, 1]``.
    """

    key: Tensor
    strength: Tensor


class Sharp(ByKey[SharpQuery, None]):
    """Address by content with a strength (Graves et al. 2014, equation 5).

    Args:
        score: similarity of a key and a slot; cosine by default.
        normalizer: turns scores into weights; softmax by default.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "w = norm(β s(k, M(1)), …, β s(k, M(N)))\n(Graves et al. 2014, equation 5)",
        "query.strength": "β > 0: factor on the scores; a large one makes the weights sharp"
        "\n(Graves et al. 2014, equation 5)",
    }

    def initial_state(self, memory: Memory) -> None:
        """Addressing by content has no past."""

    def forward(self, query: SharpQuery, memory: Memory, state: None = None) -> tuple[Tensor, None]:
        """Weights ``[*B, Q, N]``.

        Raises:
            ValueError: the shapes of query and memory do not fit.
            TypeError: the mask is not boolean.
        """
        return self.content(*query, memory), None


class NTMQuery(NamedTuple):
    """Query of a head of a Neural Turing Machine (Graves et al. 2014, section 3.3).

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


class NTMAddressing(ByKey[NTMQuery, Tensor]):
    """Address by content, then by location (Graves et al. 2014, section 3.3, figure 2).

    The state is the weights of the last step, ``[*B, Q, N]``.

    A hard head does not sharpen. That would not change which weight is the greatest, and would make
    the gradient steep: over many steps it would overflow.

    Args:
        score: similarity of a key and a slot; cosine by default (equation 6).
        normalizer: turns scores into content weights; softmax by default (equation 5).
    """

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "w^c = norm(β s(k, M(1)), …, β s(k, M(N)))    (5)"
        "\nw^g = g w^c + (1 - g) w_{t-1}    (7)"
        "\nw^s(i) = Σ_j w^g(i - j) s(j)    (8)"
        "\nw(i) = w^s(i)^γ / Σ_j w^s(j)^γ    (9)"  # noqa: RUF001
        "\n(Graves et al. 2014, section 3.3)",
        "query.strength": "β > 0: factor on the scores (Graves et al. 2014, equation 5)",
        "query.gate": "g: w^g = g w^c + (1 - g) w_{t-1}; 1 = by content, 0 = where the head was"
        "\n(Graves et al. 2014, equation 7)",
        "query.shift": "s: w^s(i) = Σ_j w^g(i - j) s(j); share of each move along the slots"
        "\n(Graves et al. 2014, equation 8)",
        "query.sharpness": "γ ≥ 1: w(i) = w^s(i)^γ / Σ_j w^s(j)^γ; 1 changes nothing"  # noqa: RUF001
        "\n(Graves et al. 2014, equation 9)",
    }

    def initial_state(self, memory: Memory) -> Tensor:
        """All weight on the first open slot, for one query: ``[*B, 1, N]``.

        It is one-hot because equal weights over equal slots would give every slot the same
        gradient.
        """
        return _first_slot(memory)

    def forward(self, query: NTMQuery, memory: Memory, state: Tensor) -> tuple[Tensor, Tensor]:
        """Weights ``[*B, Q, N]``; the next state is the same tensor.

        Raises:
            ValueError: a shape does not fit, or the shift kernel is even or wider than the memory.
            TypeError: the mask is not boolean.
        """
        key, strength, gate, kernel, sharpness = query
        content = self.content(key, strength, memory)
        moved = functional.shift(functional.interpolate(content, state, gate), kernel)
        if self.hard:
            sharpness = torch.ones_like(sharpness)
            if memory.mask is None:
                return moved, moved
        weights = functional.sharpen(moved, sharpness, memory.mask)
        return weights, weights

    def field_names(self, field: str, size: int) -> Sequence[str]:
        """See :meth:`~memnets.core.Addressing.field_names`: a shift has a number for each move."""
        if field != "shift":
            return super().field_names(field, size)
        return [f"{number:+d}" if number else "0" for number in range(-(size // 2), size // 2 + 1)]


class AllocatingQuery(NamedTuple):
    """Query of the write head of a DNC (Graves et al. 2016, Methods, "Interface parameters").

    Attributes:
        key: k_t, ``[*B, Q, W]``.
        strength: beta_t >= 1, ``[*B, Q, 1]``.
        allocation_gate: g_t^a in ``[0, 1]``, ``[*B, Q, 1]``; 1 = free slots, 0 = by content.
        write_gate: g_t^w in ``[0, 1]``, ``[*B, Q, 1]``; 0 = no write.
    """

    key: Tensor
    strength: Tensor
    allocation_gate: Tensor
    write_gate: Tensor


class AllocatingState(NamedTuple):
    """State of :class:`Allocating`.

    Attributes:
        usage: u_t in ``[0, 1]``, usage of each slot, ``[*B, N]``.
        written: weights of the last step, ``[*B, Q, N]``.
    """

    usage: Tensor
    written: Tensor


class Allocating(ByKey[AllocatingQuery, AllocatingState]):
    """By content, or slots that are free.

    Graves et al. 2016, Methods, "Dynamic memory allocation" and "Write weighting". The state tracks
    the usage; :meth:`release` updates it before a write.

    Args:
        score: similarity of a key and a slot; cosine by default.
        normalizer: turns scores into content weights; softmax by default.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "w^w = g^w (g^a a + (1 - g^a) c)"
        "\na(φ_j) = (1 - u(φ_j)) Π_{i<j} u(φ_i), slots φ in the order of their usage, least first"
        "\nc = norm(β s(k, M(1)), …, β s(k, M(N)))"
        "\n(Graves et al. 2016, Methods)",
        "query.strength": "β ≥ 1: factor on the scores (Graves et al. 2016, Methods)",
        "query.allocation_gate": "g^a: w^w = g^w (g^a a + (1 - g^a) c)"
        "\n1 = free slots, 0 = by content (Graves et al. 2016, Methods)",
        "query.write_gate": "g^w: w^w = g^w (g^a a + (1 - g^a) c); 0 = no write"
        "\n(Graves et al. 2016, Methods)",
    }

    def initial_state(self, memory: Memory) -> AllocatingState:
        """Usage and weights before the first step: zeros, for one query."""
        unused = memory.keys.new_zeros(memory.keys.shape[:-1])
        return AllocatingState(unused, unused.unsqueeze(-2))

    def release(self, state: AllocatingState, read: Tensor, free_gates: Tensor) -> AllocatingState:
        """Update the usage: written slots fill up, freed slots become empty.

        Args:
            state: the state after the last step.
            read: weights of the read heads in the last step, ``[*B, H, N]``.
            free_gates: f_t in ``[0, 1]``, ``[*B, H, 1]``; 1 = free the slots that the head read.
        """
        written = state.written
        filled = written.squeeze(-2) if written.shape[-2] == 1 else 1 - (1 - written).prod(-2)
        retention = functional.retention(read, free_gates)
        return state._replace(usage=functional.usage(state.usage, filled, retention))

    def forward(
        self, query: AllocatingQuery, memory: Memory, state: AllocatingState
    ) -> tuple[Tensor, AllocatingState]:
        """Weights ``[*B, Q, N]``, and the next state, which holds them too.

        Raises:
            ValueError: the shapes of query and memory do not fit.
            TypeError: the mask is not boolean.
        """
        content = self.content(query.key, query.strength, memory)
        usage = state.usage.unsqueeze(-2)
        if memory.mask is not None:
            usage = torch.where(memory.mask, usage, 1.0)
        weights = functional.write_weighting(
            content,
            functional.allocation(usage).expand_as(content),
            query.allocation_gate,
            query.write_gate,
        )
        return weights, AllocatingState(state.usage, weights)


class LinkedQuery(NamedTuple):
    """Query of a read head of a DNC (Graves et al. 2016, Methods, "Interface parameters").

    Attributes:
        key: k_t, ``[*B, Q, W]``.
        strength: beta_t >= 1, ``[*B, Q, 1]``.
        modes: pi_t, ``[*B, Q, 3]``, rows on the simplex: backward, by content, forward.
    """

    key: Tensor
    strength: Tensor
    modes: Tensor


class LinkedState(NamedTuple):
    """State of :class:`Linked`.

    Attributes:
        link: L_t, degree to which slot i was written right after slot j, ``[*B, N, N]``.
        precedence: p_t, degree to which each slot was written last, ``[*B, N]``.
        weights: of the step before, ``[*B, Q, N]``.
    """

    link: Tensor
    precedence: Tensor
    weights: Tensor


class Linked(ByKey[LinkedQuery, LinkedState]):
    """Address by content, or the slots written just before or after those read last.

    Graves et al. 2016, Methods, "Temporal memory linkage" and "Read weighting". The state tracks
    the order of writing; :meth:`follow` updates it after a write.

    Args:
        score: similarity of a key and a slot; cosine by default.
        normalizer: turns scores into content weights; softmax by default.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "w^r = π(1) b + π(2) c + π(3) f"
        "\nb = L^T w^r_{t-1}: written before;  f = L w^r_{t-1}: written after"
        "\nc = norm(β s(k, M(1)), …, β s(k, M(N)))"
        "\n(Graves et al. 2016, Methods)",
        "query.strength": "β ≥ 1: factor on the scores (Graves et al. 2016, Methods)",
        "query.modes": "π: w^r = π(1) b + π(2) c + π(3) f; backward, by content, forward"
        "\n(Graves et al. 2016, Methods)",
    }

    def initial_state(self, memory: Memory) -> LinkedState:
        """Links, precedence and weights before the first step: zeros, for one query."""
        keys = memory.keys
        *batch, slots, _ = keys.shape
        return LinkedState(
            keys.new_zeros(*batch, slots, slots),
            keys.new_zeros(*batch, slots),
            keys.new_zeros(*batch, 1, slots),
        )

    def follow(self, state: LinkedState, written: Tensor) -> LinkedState:
        """Update the order of writing.

        Args:
            state: the state after the last step.
            written: weights of the write head in this step, ``[*B, N]``.
        """
        return LinkedState(
            functional.link(state.link, state.precedence, written),
            functional.precedence(state.precedence, written),
            state.weights,
        )

    def forward(
        self, query: LinkedQuery, memory: Memory, state: LinkedState
    ) -> tuple[Tensor, LinkedState]:
        """Weights ``[*B, Q, N]``, and the next state, which holds them.

        Raises:
            ValueError: the shapes of query and memory do not fit.
            TypeError: the mask is not boolean.
        """
        link, _, previous = state
        weights = functional.read_weighting(
            functional.backward_weighting(link, previous),
            self.content(query.key, query.strength, memory),
            functional.forward_weighting(link, previous),
            query.modes,
        )
        weights = functional.inside(weights, memory.mask)
        return weights, state._replace(weights=weights)

    def field_names(self, field: str, size: int) -> Sequence[str]:
        """See :meth:`~memnets.core.Addressing.field_names`: the modes have names."""
        if field != "modes":
            return super().field_names(field, size)
        return ["backward", "content", "forward"]


class LeastUsedState(NamedTuple):
    """State of :class:`LeastUsed`.

    Attributes:
        usage: w^u >= 0 after the last step, ``[*B, N]``; it chooses slots and has no gradient.
        read: w^r of the step before, ``[*B, Q, N]``.
    """

    usage: Tensor
    read: Tensor


class LeastUsed(Addressing[Tensor, LeastUsedState]):
    """Address the slots read last, or the slot used least (Santoro et al. 2016, equation 7).

    ``w_t^w = g_t w_{t-1}^r + (1 - g_t) w_{t-1}^lu``; the query is the gate g_t, ``[*B, Q, 1]``, the
    sigmoid of the paper's alpha. Query n uses the n-th least used slot. The state tracks the usage;
    :meth:`track` updates it after a step.

    Args:
        decay: gamma, the decay of the usage in a step, in ``[0, 1]``.

    Raises:
        ValueError: ``decay`` is out of its range.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "w^w = g w^r_{t-1} + (1 - g) w^lu_{t-1}\n(Santoro et al. 2016, equation 7)"
    }

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must be in [0, 1]; got {decay}")
        self.decay = decay

    def initial_state(self, memory: Memory) -> LeastUsedState:
        """State without usage, in which one query has read the first open slot."""
        return LeastUsedState(memory.keys.new_zeros(memory.keys.shape[:-1]), _first_slot(memory))

    def least_used(self, memory: Memory, state: LeastUsedState) -> Tensor:
        """w^lu: weights on one of the least used slots for each query, one-hot ``[*B, Q, N]``."""
        usage, (queries, slots) = state.usage, state.read.shape[-2:]
        if slots < queries:
            raise ValueError(
                f"{queries} queries of a slot each need a memory of at least {queries} slots; "
                f"got {slots}"
            )
        if memory.mask is not None:  # slots that no query may address come last
            usage = usage.masked_fill(~memory.mask.any(-2), torch.inf)
        return functional.least_used(usage, queries)

    def track(self, state: LeastUsedState, read: Tensor, written: Tensor) -> LeastUsedState:
        """Update the usage: it decays, and grows with the weights of reads and writes (equation 5).

        Args:
            state: the state after the last step.
            read: w_t^r, ``[*B, Q, N]``.
            written: w_t^w, ``[*B, Q, N]``.
        """
        usage = functional.decayed_usage(state.usage, read, written, self.decay)
        return LeastUsedState(usage.detach(), read)

    def forward(
        self, query: Tensor, memory: Memory, state: LeastUsedState
    ) -> tuple[Tensor, LeastUsedState]:
        """Weights ``[*B, Q, N]``, and the unchanged state; :meth:`track` updates it later."""
        weights = functional.interpolate(state.read, self.least_used(memory, state), query)
        return functional.inside(weights, memory.mask), state


class LeastRecentQuery(NamedTuple):
    """Query of :class:`LeastRecent`: two gates.

    Attributes:
        gate: gamma_t in ``[0, 1]``, ``[*B, Q, 1]``; 1 = the slots read last, 0 = new ones.
        write_gate: alpha_t in ``[0, 1]``, ``[*B, Q, 1]``; 0 = no write.
    """

    gate: Tensor
    write_gate: Tensor


class LeastRecentState(NamedTuple):
    """State of :class:`LeastRecent`.

    Attributes:
        accessed: time of the last access of each slot, whole numbers ``[*B, N]``; 0 = never.
        read: w^r of the step before, ``[*B, Q, N]``.
    """

    accessed: Tensor
    read: Tensor


class LeastRecent(Addressing[LeastRecentQuery, LeastRecentState]):
    """Address the slots read last, or those not accessed for the longest time (Rae et al. 2016).

    ``w_t^w = alpha_t (gamma_t w_{t-1}^r + (1 - gamma_t) I_t^U)`` (section 3.2, equation 5). I^U
    lies on the n slots not accessed for the longest time, in equal shares; in the paper n is 1.
    Query q takes the q-th n of these slots. A slot is accessed when a query reads or writes it with
    a weight above a threshold; the paper takes the sum of both weights. The state tracks the times;
    :meth:`track` updates them after a step.

    Args:
        count: n, the number of slots that were not accessed for the longest time, at least 1.
        threshold: delta, weights up to it are no access, in ``[0, 1)``.

    Raises:
        ValueError: a number is out of its range.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "w^w = α (γ w^r_{t-1} + (1 - γ) I^U)"  # noqa: RUF001
        "\nI^U: the slots not accessed for the longest time\n(Rae et al. 2016, equation 5)",
        "query.gate": "γ: 1 = the slots read last, 0 = those not accessed for the longest time"  # noqa: RUF001
        "\n(Rae et al. 2016, equation 5)",
        "query.write_gate": "α: 0 = no write\n(Rae et al. 2016, equation 5)",  # noqa: RUF001
    }

    def __init__(self, count: int = 1, threshold: float = 0.005) -> None:
        super().__init__()
        check_positive(count=count)
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold must be in [0, 1); got {threshold}")
        self.count = count
        self.threshold = threshold

    def initial_state(self, memory: Memory) -> LeastRecentState:
        """State in which no slot was accessed, for one query."""
        unread = memory.keys.new_zeros(memory.keys.shape[:-1])
        return LeastRecentState(unread.long(), unread.unsqueeze(-2))

    def least_recent(self, memory: Memory, state: LeastRecentState) -> Tensor:
        """I^U: equal weights on n slots for each query, ``[*B, Q, N]``."""
        accessed, (queries, slots) = state.accessed, state.read.shape[-2:]
        if slots < queries * self.count:
            raise ValueError(
                f"{queries} queries of {self.count} slots each need a memory of at least "
                f"{queries * self.count} slots; got {slots}"
            )
        if memory.mask is not None:  # slots that no query may address come last
            last = torch.iinfo(accessed.dtype).max
            accessed = accessed.masked_fill(~memory.mask.any(-2), last)
        index = functional.least_recent(accessed, queries * self.count)
        index = index.unflatten(-1, (queries, self.count))
        shares = torch.full_like(index, 1 / self.count, dtype=state.read.dtype)
        return functional.dense(functional.Sparse(index, shares), slots)

    def track(self, state: LeastRecentState, read: Tensor, written: Tensor) -> LeastRecentState:
        """Give the slots that a step has accessed a later time than all others.

        Args:
            state: the state after the last step.
            read: w_t^r, ``[*B, Q, N]``.
            written: w_t^w, ``[*B, Q, N]``.
        """
        now = state.accessed.amax(-1, keepdim=True) + 1
        found = (torch.maximum(read, written) > self.threshold).any(-2)
        return LeastRecentState(torch.where(found, now, state.accessed), read)

    def forward(
        self, query: LeastRecentQuery, memory: Memory, state: LeastRecentState
    ) -> tuple[Tensor, LeastRecentState]:
        """Weights ``[*B, Q, N]``, and the unchanged state; :meth:`track` updates it later."""
        new = self.least_recent(memory, state)
        weights = query.write_gate * functional.interpolate(state.read, new, query.gate)
        return functional.inside(weights, memory.mask), state


def _first_slot(memory: Memory) -> Tensor:
    """All weight on the first slot that a query may address, for one query: ``[*B, 1, N]``."""
    keys, _, mask = memory
    weights = keys.new_zeros(*keys.shape[:-2], 1, keys.shape[-2])
    if mask is None:
        weights[..., :1] = 1.0
        return weights
    open_to_any = mask.any(-2, keepdim=True)
    first = open_to_any & (open_to_any.cumsum(-1) == 1)
    return weights.masked_fill(first, 1.0)
