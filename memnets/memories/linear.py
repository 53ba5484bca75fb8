"""Linear memories: a matrix that is erased and added to by keys, in place of slots by weights.

One class, :class:`Linear`, with gates; the models of the literature are this class with some of its
gates fixed. :mod:`memnets.memories.scan` has the write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from memnets import events, fast
from memnets.checks import check_finite, check_numbers, check_positive
from memnets.core import MemoryAccess, map_state
from memnets.memories.gates import (
    DECAYS,
    STRENGTHS,
    Decay,
    FeatureMap,
    SigmoidDecay,
    SigmoidStrength,
    SoftplusDecay,
    Strength,
    make_features,
    make_gate,
)
from memnets.memories.scan import scan, write
from memnets.precision import full_precision

__all__ = [
    "GLA",
    "KDA",
    "DeltaNet",
    "DeltaProduct",
    "GatedDeltaNet",
    "Linear",
    "LinearAttention",
    "LinearState",
    "LinearStep",
    "Mamba2",
    "RetNet",
]


#: Least logarithm of a decay where many steps are taken at once: logarithms are summed there, and
#: the difference of two sums that are infinite, or very large, would be none, or inexact.
_LEAST = -100.0


class LinearState(NamedTuple):
    """State of a :class:`Linear`.

    Attributes:
        memory: S of each head, ``[B, H, K, V]``; with ``normalized``, a column more.
    """

    memory: Tensor


class LinearStep(NamedTuple):
    """The parts of a step of a :class:`Linear`, each mapped into its range.

    Attributes:
        query: q, scaled, ``[*B, H, K]``.
        keys: k of each write, ``[*B, H, n, K]``.
        values: v of each write, ``[*B, H, n, V]``.
        log_decay: ``log a``, at most 0, ``[*B, H, 1 or K]``; ``None`` = nothing decays.
        erase: b of each write, within ``[0, 2]``, ``[*B, H, n, 1 or K]``; ``None`` = nothing is
            erased.
        write: w of each write, ``[*B, H, n, 1 or V]``; ``None`` = 1.
    """

    query: Tensor
    keys: Tensor
    values: Tensor
    log_decay: Tensor | None
    erase: Tensor | None
    write: Tensor | None

    @property
    def erased(self) -> Tensor | None:
        """``b . k`` of each write, ``[*B, H, n, K]``; ``None`` = nothing is erased."""
        return None if self.erase is None else self.erase * self.keys

    @property
    def written(self) -> Tensor:
        """``w . v`` of each write, ``[*B, H, n, V]``."""
        return self.values if self.write is None else self.write * self.values


class Linear(MemoryAccess[LinearState]):
    """A matrix S for each head: keys say where to erase and add, and a query reads.

    A step decays the matrix, writes, then reads, so it can read what it has written::

        S <- (I - k (b . k)^T) Diag(a) S + k (w . v)^T          r = S^T q

    The decay ``a``, the erase strength ``b`` and the write strength ``w`` are gates, each given by
    its name, its class, or not at all:

    =================== =============================================== ========================
    gate                by name                                         ``None``
    =================== =============================================== ========================
    ``decay``           ``fixed``, ``scalar``, ``vector``,              nothing decays, a = 1
                        ``softplus``, ``softplus vector``
    ``erase``           ``scalar``, ``negative``, ``vector``            nothing is erased, b = 0
    ``write``           ``erase`` (w = b), ``scalar``, ``negative``,    w = 1
                        ``vector``
    =================== =============================================== ========================

    So ``erase="scalar", write="erase"`` is the delta rule: with keys of length 1 it replaces a
    share b of what the key finds by the value. See :mod:`memnets.memories.gates` for the gates, and
    for a gate of your own.

    The interface has the query, the keys, the values, and the numbers that the gates take. Many
    steps at once are computed by :func:`memnets.memories.scan.scan`, in chunks; on a CPU with a
    compiler, by one operator.

    Args:
        key_size: width of queries and keys, at least 1. K is what the feature map makes of it.
        value_size: V, the width of the values, at least 1.
        heads: H, the number of heads, each with a matrix of its own, at least 1.
        decay: the gate a.
        erase: the gate b, within ``[0, 2]``.
        write: the gate w.
        features: map of queries and keys: ``normalized``, to length 1; ``none``; ``elu``; ``dpfp``;
            or a :class:`~memnets.memories.gates.FeatureMap`. If keys are longer than 1, an erase
            may make the memory grow without bound.
        writes: n, the number of writes in a step, at least 1; the decay comes before the first.
        scale: factor on what is read.
        normalized: True = what is read is divided by the sum of ``q . k`` over all writes, so that
            it is a mean of the values. This needs a positive feature map and no erase.
        chunk: C, the number of steps of a chunk, at least 1; it changes only the speed, and the
            rounding. The operator has no chunks.

    Raises:
        ValueError: a size or gate is out of its range, or settings do not fit each other.
        TypeError: a gate or a feature map is of another type.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "memory": "S_t = (I - k (b ∘ k)^T) Diag(a) S_{t-1} + k (w ∘ v)^T"
        "\nerased: what decays, and k times what b ∘ k finds; added: k (w ∘ v)^T"
    }

    def __init__(
        self,
        key_size: int = 32,
        value_size: int = 32,
        heads: int = 1,
        decay: Callable[[int, int], Decay] | str | None = None,
        erase: Callable[[int, int], Strength] | str | None = None,
        write: Callable[[int, int], Strength] | str | None = None,
        features: FeatureMap | str = "normalized",
        writes: int = 1,
        scale: float = 1.0,
        normalized: bool = False,
        chunk: int = 32,
    ) -> None:
        super().__init__()
        check_positive(key_size=key_size, value_size=value_size, heads=heads, writes=writes)
        self.features = make_features(features)
        self.key_size = key_size
        self.value_size = value_size
        self.read_heads = heads
        self.writes = writes
        check_finite(scale=scale)
        self.scale = scale
        self.normalized = normalized
        self.chunk = chunk
        size = self.features.size(key_size)
        self.decay = make_gate("decay", decay, DECAYS, Decay, heads, size)
        self.erase = make_gate("erase", erase, STRENGTHS, Strength, heads, size)
        if self.erase is not None and not 0 <= self.erase.high <= 2:
            raise ValueError(
                f"erase must be a strength within [0, 2]: more would make a memory grow at each "
                f"erase; got one up to {self.erase.high:g}"
            )
        # Registered once: a gate that both share is that of the erase.
        self.shares = write == "erase"
        self.write = (
            None
            if self.shares
            else make_gate(
                "write", write, STRENGTHS, Strength, heads, value_size, "'erase', "
            )
        )  # fmt: skip
        if self.shares and self.erase is None:
            raise ValueError("write='erase' takes the strength of the erase; got erase=None")
        if normalized and not (self.features.positive and erase is None and write is None):
            raise ValueError(
                "normalized needs positive weights: a feature map such as 'elu', and neither an "
                f"erase nor a strength of the write; got features={features!r}, erase={erase!r} "
                f"and write={write!r}"
            )
        each = (key_size, writes * key_size, writes * value_size)
        #: Widths of the parts of the interface: queries, keys, values; decay, erase, write.
        self.sizes = (
            *(heads * width for width in each),
            0 if self.decay is None else self.decay.interface_size,
            0 if self.erase is None else writes * self.erase.interface_size,
            0 if self.write is None else writes * self.write.interface_size,
        )
        self.vectors_size = sum(self.sizes[:3])
        self.interface_size = sum(self.sizes)
        self.read_size = heads * value_size
        # A buffer, so that it has the device and the precision of the module.
        self.empty: Tensor
        columns = value_size + normalized
        self.register_buffer("empty", torch.zeros(heads, size, columns), persistent=False)

    @property
    def chunk(self) -> int:
        """C, the number of steps of a chunk."""
        return self._chunk

    @chunk.setter
    def chunk(self, chunk: int) -> None:
        check_positive(chunk=chunk)
        self._chunk = chunk

    def initial_state(self, batch_size: int) -> LinearState:
        """A matrix of zeros for each head."""
        return LinearState(self.empty.expand(batch_size, -1, -1, -1))

    def gates(
        self, decay: Tensor, erase: Tensor, write: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Values of the three gates.

        Args:
            decay: numbers of the interface for the decay, ``[*B, X]``.
            erase: numbers for the erase strength of each write, ``[*B, n, Y]``.
            write: numbers for the write strength of each write, ``[*B, n, Z]``.

        Returns:
            ``log a``, ``[*B, H, 1 or K]``; b, ``[*B, n, H, 1 or K]``; w, ``[*B, n, H, 1 or V]``;
            each ``None`` where there is no gate.
        """
        log_decay = None if self.decay is None else self.decay(decay)
        erased = None if self.erase is None else self.erase(erase)
        if self.shares:
            return log_decay, erased, erased
        return log_decay, erased, None if self.write is None else self.write(write)

    def parts(self, interface: Tensor) -> LinearStep:
        """Split the interface, each part mapped into its range.

        Args:
            interface: ``[*B, interface_size]``.

        Raises:
            ValueError: a gate is out of its range.
        """
        query, keys, values, *numbers = interface.split(self.sizes, -1)
        heads, writes = self.read_heads, self.writes
        decay, erase, strength = numbers
        log_decay, erased, written = self.gates(
            decay,
            *(each.unflatten(-1, (writes, each.shape[-1] // writes)) for each in (erase, strength)),
        )
        # NaN passes: it stands in padding, or comes of weights that are NaN, and training says so.
        if log_decay is not None:
            check_numbers(
                ~(log_decay > 0).any(),
                "a decay must be within [0, 1], its logarithm at most 0",
                lambda: f"a logarithm of {float(log_decay.max()):g}",
            )
        if (found := erased) is not None:
            check_numbers(
                ~((found < 0) | (found > 2)).any(),
                "the strength of an erase must be within [0, 2]",
                lambda: f"{float(found.min()):g} to {float(found.max()):g}",
            )
        query = self.features(query.unflatten(-1, (heads, -1)))
        keys = self.features(keys.unflatten(-1, (heads, writes, -1)))
        values = values.unflatten(-1, (heads, writes, -1))
        if self.normalized:
            values = torch.cat([values, torch.ones_like(values[..., :1])], -1)
        # The gates have the writes first, since a gate gives a number for each head.
        erased, written = (
            None if each is None else each.transpose(-2, -3) for each in (erased, written)
        )
        query = query * self.scale if self.scale != 1 else query
        return LinearStep(query, keys, values, log_decay, erased, written)

    def forward(self, interface: Tensor, state: LinearState) -> tuple[Tensor, LinearState]:
        """One step: ``[B, interface_size] -> [B, heads * V]``.

        Raises:
            ValueError: the state is of another shape, or a gate is out of its range.
        """
        before = self._checked(state)
        step = self.parts(interface)
        query = step.query.unsqueeze(-2)
        memory, added = write(before, step.keys, step.written, step.erased, step.log_decay)
        read = query @ memory
        if events.listening():
            told = {"read": query, "write": step.keys, "add": step.written}
            if step.erased is not None:
                told["remove"] = step.written - added
            if step.log_decay is not None:
                # A decay is an erase of a share of each row, before anything is added.
                gone = -torch.expm1(step.log_decay).unsqueeze(-2)
                told["emptied"] = gone.expand_as(query)
            events.report(self, **told, before=before, memory=memory)
        return self._vectors(read).flatten(1), LinearState(memory)

    def unroll(
        self, inputs: Tensor, state: LinearState, mask: Tensor | None = None
    ) -> tuple[Tensor, LinearState]:
        """``[B, T, interface_size] -> [B, T, heads * V]``, all steps at once, in chunks.

        Raises:
            ValueError: the state is of another shape, or a gate is out of its range.
        """
        # One step is quicker as it is, and a listener wants to hear of each.
        if inputs.shape[1] == 1 or events.listening():
            return super().unroll(inputs, state, mask)
        twin = fast.find(self, "unroll", inputs, state, mask)
        if twin is not None:
            result: tuple[Tensor, LinearState] = twin(self, inputs, state, mask)
            return result
        return self._at_once(inputs, state, mask)

    @full_precision
    def _at_once(
        self, inputs: Tensor, state: LinearState, mask: Tensor | None
    ) -> tuple[Tensor, LinearState]:
        memory = self._checked(state)
        step = self.over_time(inputs, mask)
        read, memory = scan(
            step.query, step.keys, step.written, memory, step.erased, step.log_decay, self.chunk
        )
        return self._vectors(read).transpose(1, 2).flatten(2), LinearState(memory)

    def over_time(self, inputs: Tensor, mask: Tensor | None) -> LinearStep:
        """:meth:`parts` of many steps, heads before steps: ``[B, H, T, ...]``.

        Args:
            inputs: ``[B, T, interface_size]``.
            mask: bool ``[B, T]``, False = the sequence skips the step: its keys and the logarithm
                of its decay are 0, so that the memory stays as it is; ``None`` = no skipped steps.
        """
        step = self.parts(inputs)
        step = map_state(lambda part: part.transpose(1, 2), step)
        decay = step.log_decay
        if decay is not None:
            decay = decay.clamp_min(_LEAST)
        if mask is not None:
            skipped = ~mask[:, None, :, None]
            # Numbers at skipped steps may be anything, also infinite, so all that is written is 0.
            writes = skipped.unsqueeze(-1)
            step = step._replace(
                keys=step.keys.masked_fill(writes, 0.0),
                values=step.values.masked_fill(writes, 0.0),
                erase=None if step.erase is None else step.erase.masked_fill(writes, 0.0),
                write=None if step.write is None else step.write.masked_fill(writes, 0.0),
            )
            decay = None if decay is None else decay.masked_fill(skipped, 0.0)
        return step._replace(log_decay=decay)

    def _checked(self, state: LinearState) -> Tensor:
        """The memory of a state, if it has the right shape."""
        memory = state.memory
        if memory.shape[1:] != self.empty.shape:
            heads, size, columns = self.empty.shape
            raise ValueError(
                f"the state must be [B, heads, K, V] = [B, {heads}, {size}, {columns}]; "
                f"got {list(memory.shape)}"
            )
        return memory

    def _vectors(self, read: Tensor) -> Tensor:
        """Vectors from what the queries find: ``[*B, V or V + 1] -> [*B, V]``."""
        if not self.normalized:
            return read
        # The last column sums the weights, of which there may be none. A factor has a quicker
        # gradient than a quotient.
        return read[..., :-1] * (read[..., -1:] + 1e-6).reciprocal()


class LinearAttention(Linear):
    """Linear attention: ``S <- S + k v^T``, read as a mean (Katharopoulos et al. 2020, 3.2 to 3.4).

    ``b = 0, a = 1, w = 1``. With positive features, ``r = S^T q / sum_j k_j . q``.

    Args:
        key_size: width of queries and keys before the feature map, at least 1.
        value_size: V, the width of the values, at least 1.
        heads: H, the number of heads, at least 1.
        features: map of queries and keys, as in :class:`Linear`.
        normalized: whether to divide by the sum of the weights.
        scale: factor on what is read.
        chunk: see :class:`Linear`.
    """

    def __init__(
        self,
        key_size: int = 32,
        value_size: int = 32,
        heads: int = 1,
        features: FeatureMap | str = "elu",
        normalized: bool = True,
        scale: float = 1.0,
        chunk: int = 32,
    ) -> None:
        super().__init__(
            key_size, value_size, heads, features=features, normalized=normalized, scale=scale,
            chunk=chunk,
        )  # fmt: skip


class RetNet(Linear):
    """Retention: ``S <- a S + k v^T`` with a decay of each head that never changes.

    Sun et al. 2023, equation 6: ``b = 0, a_h = 1 - 2^(-5 - h), w = 1``. Reads are scaled by
    ``1 / sqrt(K)``. The rotation of queries and keys by their positions is not part of the memory.

    Args:
        key_size: K, the width of queries and keys, at least 1.
        value_size: V, the width of the values, at least 1.
        heads: H, the number of heads, at least 1.
        chunk: see :class:`Linear`.
    """

    def __init__(
        self, key_size: int = 32, value_size: int = 32, heads: int = 1, chunk: int = 32
    ) -> None:
        check_positive(key_size=key_size)
        super().__init__(
            key_size, value_size, heads, decay="fixed", features="none", scale=key_size**-0.5,
            chunk=chunk,
        )  # fmt: skip


class GLA(Linear):
    """Gated linear attention: ``S <- Diag(a) S + k v^T`` (Yang et al. 2024, equation 3).

    ``b = 0, w = 1``, and each entry of a key has a decay of its own, by the input:
    ``a = sigmoid(x)^(1 / 16)``. Reads are scaled by ``1 / sqrt(K)``.

    Args:
        key_size: K, the width of queries and keys, at least 1.
        value_size: V, the width of the values, at least 1.
        heads: H, the number of heads, at least 1.
        temperature: above 0; a large one keeps the decay near 1.
        chunk: see :class:`Linear`.
    """

    def __init__(
        self,
        key_size: int = 32,
        value_size: int = 32,
        heads: int = 1,
        temperature: float = 16.0,
        chunk: int = 32,
    ) -> None:
        check_positive(key_size=key_size)
        decay = partial(SigmoidDecay, vector=True, temperature=temperature)
        super().__init__(
            key_size, value_size, heads, decay=decay, features="none", scale=key_size**-0.5,
            chunk=chunk,
        )  # fmt: skip


class Mamba2(Linear):
    """The state space of Mamba-2: ``S <- a S + k (d . v)^T`` with ``a = exp(-r d)``.

    Dao & Gu 2024, section 7: ``b = 0``. The step ``d = softplus(x + c)`` is both the strength of
    the write and, times the rate r of its head, the decay. Every head has queries and keys of its
    own.

    Args:
        key_size: K, the size of the state, at least 1.
        value_size: V, the width of the values, at least 1.
        heads: H, the number of heads, at least 1.
        chunk: see :class:`Linear`.
    """

    def __init__(
        self, key_size: int = 32, value_size: int = 32, heads: int = 1, chunk: int = 32
    ) -> None:
        super().__init__(
            key_size, value_size, heads, decay=SoftplusDecay, features="none", chunk=chunk
        )

    def gates(
        self, decay: Tensor, erase: Tensor, write: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Decay and write strength from one number for each head."""
        gate = self.decay
        assert isinstance(gate, SoftplusDecay)
        return gate(decay), None, gate.steps(decay).unsqueeze(-3)


class DeltaNet(Linear):
    """The delta rule: ``S <- S + b k (v - S^T k)^T`` (Schlag et al. 2021; Yang et al. 2024).

    ``b = w, a = 1``, with keys of length 1: a write replaces a share b of what its key finds.

    Args:
        key_size: K, the width of queries and keys, at least 1.
        value_size: V, the width of the values, at least 1.
        heads: H, the number of heads, at least 1.
        negative: False: b is in ``(0, 1)``. True: b is in ``(0, 2)``, so that a write may turn the
            sign of what its key finds, which parity needs (Grazzi et al. 2025).
        start: b where the input is 0, see :class:`~memnets.memories.gates.SigmoidStrength`.
        features: map of queries and keys, as in :class:`Linear`; ``dpfp`` is that of Schlag et al.
        chunk: see :class:`Linear`.
    """

    def __init__(
        self,
        key_size: int = 32,
        value_size: int = 32,
        heads: int = 1,
        negative: bool = False,
        start: float | None = None,
        features: FeatureMap | str = "normalized",
        chunk: int = 32,
    ) -> None:
        super().__init__(
            key_size, value_size, heads, erase=_strength(negative, start), write="erase",
            features=features, chunk=chunk,
        )  # fmt: skip


class GatedDeltaNet(Linear):
    """The delta rule with a decay: ``S <- (I - b k k^T) a S + b k v^T`` (Yang et al. 2025).

    ``b = w``, and one decay for each head, that of Mamba-2.

    Args:
        key_size: K, the width of queries and keys, at least 1.
        value_size: V, the width of the values, at least 1.
        heads: H, the number of heads, at least 1.
        negative: whether b is in ``(0, 2)``, as in :class:`DeltaNet`.
        start: b where the input is 0, as in :class:`DeltaNet`.
        chunk: see :class:`Linear`.
    """

    def __init__(
        self,
        key_size: int = 32,
        value_size: int = 32,
        heads: int = 1,
        negative: bool = False,
        start: float | None = None,
        chunk: int = 32,
    ) -> None:
        super().__init__(
            key_size, value_size, heads, decay="softplus", erase=_strength(negative, start),
            write="erase", chunk=chunk,
        )  # fmt: skip


class KDA(Linear):
    """Kimi delta attention: ``S <- (I - b k k^T) Diag(a) S + b k v^T`` (Kimi Team 2025).

    Equation 1 there: ``b = w``, and a decay for each entry of a key.

    Args:
        key_size: K, the width of queries and keys, at least 1.
        value_size: V, the width of the values, at least 1.
        heads: H, the number of heads, at least 1.
        negative: whether b is in ``(0, 2)``, as in :class:`DeltaNet`.
        start: b where the input is 0, as in :class:`DeltaNet`.
        chunk: see :class:`Linear`.
    """

    def __init__(
        self,
        key_size: int = 32,
        value_size: int = 32,
        heads: int = 1,
        negative: bool = False,
        start: float | None = None,
        chunk: int = 32,
    ) -> None:
        super().__init__(
            key_size, value_size, heads, decay="softplus vector", erase=_strength(negative, start),
            write="erase", chunk=chunk,
        )  # fmt: skip


class DeltaProduct(Linear):
    """The delta rule, n times a step (Siems et al. 2025).

    Each write has a key, a value and a strength of its own. The product of n reflections is any
    rotation within n dimensions, where one write of :class:`DeltaNet` is one reflection at most.

    Args:
        key_size: K, the width of queries and keys, at least 1.
        value_size: V, the width of the values, at least 1.
        heads: H, the number of heads, at least 1.
        writes: n, the number of writes in a step, at least 1.
        negative: whether b is in ``(0, 2)``, as in :class:`DeltaNet`.
        start: b where the input is 0, as in :class:`DeltaNet`.
        gated: whether a decay, that of :class:`GatedDeltaNet`, comes before the first write.
        chunk: see :class:`Linear`.
    """

    def __init__(
        self,
        key_size: int = 32,
        value_size: int = 32,
        heads: int = 1,
        writes: int = 2,
        negative: bool = True,
        start: float | None = None,
        gated: bool = False,
        chunk: int = 32,
    ) -> None:
        super().__init__(
            key_size, value_size, heads, decay="softplus" if gated else None,
            erase=_strength(negative, start), write="erase", writes=writes, chunk=chunk,
        )  # fmt: skip


def _strength(negative: bool, start: float | None) -> Callable[[int, int], Strength]:
    return partial(SigmoidStrength, high=2.0 if negative else 1.0, start=start)
