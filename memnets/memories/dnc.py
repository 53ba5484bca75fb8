"""The memory of the Differentiable Neural Computer (Graves et al. 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from memnets import functional
from memnets.addressing import (
    Allocating,
    AllocatingQuery,
    AllocatingState,
    Linked,
    LinkedQuery,
    LinkedState,
)
from memnets.checks import check_positive
from memnets.core import Addressing, Memory, Score
from memnets.events import offer, report
from memnets.memories.slotted import Slotted

__all__ = ["DNC", "DNCLayout", "DNCQueries", "DNCState"]


class DNCState(NamedTuple):
    """State of a :class:`DNC`.

    Attributes:
        memory: M_t, ``[B, N, W]``.
        usage: u_t, ``[B, N]`` in ``[0, 1]``.
        precedence: p_t, ``[B, N]``, which sums to at most 1.
        link: L_t, ``[B, N, N]``.
        written: weights of the write head, ``[B, N]``.
        weights: weights of the read heads, ``[B, R, N]``.
    """

    memory: Tensor
    usage: Tensor
    precedence: Tensor
    link: Tensor
    written: Tensor
    weights: Tensor


class DNCLayout(NamedTuple):
    """Layout of the interface of a :class:`DNC`: keys, strengths, gates and erase, modes, add.

    Attributes:
        read_heads: number of read heads, at least 1; they come before the write head.
        width: W, the width of a slot.
    """

    read_heads: int
    width: int

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """Widths of the five parts of the interface.

        They are the keys; the strengths (oneplus); the free gates, the allocation gate, the write
        gate and the erase (sigmoid); the modes (softmax); and the add.
        """
        heads = self.read_heads + 1
        return (
            heads * self.width,
            heads,
            self.read_heads + 2 + self.width,
            3 * self.read_heads,
            self.width,
        )


class DNCQueries(NamedTuple):
    """Queries and gates of a :class:`DNC`, each part mapped into its range.

    Attributes:
        reading: queries of the read heads.
        writing: query of the write head.
        free_gates: f_t in ``[0, 1]``, ``[B, R, 1]``.
        erase: e_t in ``[0, 1]``, ``[B, 1, W]``.
        add: v_t, ``[B, 1, W]``.
    """

    reading: LinkedQuery
    writing: AllocatingQuery
    free_gates: Tensor
    erase: Tensor
    add: Tensor


class DNC(Slotted[DNCState]):
    """N x W memory that tracks free slots and the order of writes (Graves et al. 2016, Methods).

    In each step one head writes, to free slots or to slots found by content. Then R read heads
    read: by content, or the slots written just before or after those that they read last. A step
    can read what it has written.

    ``slots`` may be changed at any time. The links take N^2 numbers for each sequence.

    The gradient passes through everything except the order of the slots by usage. DeepMind's code
    also cuts it between the weights of a write and the usage.

    Args:
        slots: N, the number of slots, at least 1.
        width: W, the width of a slot, at least 1.
        read_heads: R, the number of read heads, at least 1.
        score: similarity of a key and a slot; cosine by default.
        initial_spread: spread of the initial slots, see
            :class:`~memnets.memories.slotted.Slotted`.

    Raises:
        ValueError: a size is out of its range.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "read": "r = Σ_i w^r(i) M_t(i)\n(Graves et al. 2016, Methods)",
        "memory": "M_t(i) = M_{t-1}(i) (1 - w^w(i) e) + w^w(i) v\n(Graves et al. 2016, Methods)",
        "usage": "u_t = (u_{t-1} + w^w_{t-1} - u_{t-1} w^w_{t-1}) Π_h (1 - f_h w^r_{t-1,h})"
        "\n(Graves et al. 2016, Methods)",
        "link": "L_t(i, j) = (1 - w^w(i) - w^w(j)) L_{t-1}(i, j) + w^w(i) p_{t-1}(j):"
        " slot i was written right after slot j\n(Graves et al. 2016, Methods)",
        "free_gates": "f: u_t = (u_{t-1} + w^w_{t-1} - u_{t-1} w^w_{t-1}) Π_h (1 - f_h w^r_{t-1,h})"
        "\n1 = free what head h read\n(Graves et al. 2016, Methods)",
    }

    def __init__(
        self,
        slots: int = 128,
        width: int = 20,
        read_heads: int = 1,
        score: Score | None = None,
        initial_spread: float = 0.0,
    ) -> None:
        super().__init__(slots, width, initial_spread=initial_spread)
        check_positive(read_heads=read_heads)
        self.read_heads = read_heads
        self.read_size = read_heads * width
        self.writing = Allocating(score)
        self.reading = Linked(score)
        self.layout = DNCLayout(read_heads, width)
        self.interface_size = sum(self.layout.sizes)

    def head_names(self) -> dict[Addressing, list[str]]:
        """Names of the heads, for pictures."""
        reads = [f"read {head + 1}" for head in range(self.read_heads)]
        return {self.writing: ["write"], self.reading: reads}

    def initial_state(self, batch_size: int) -> DNCState:
        """State before the first step: zeros, except for a memory with a spread."""
        memory = self.first_memory(batch_size)
        usage, written = self.writing.initial_state(Memory(memory, memory))
        link, precedence, weights = self.reading.initial_state(Memory(memory, memory))
        weights = weights.expand(-1, self.read_heads, -1)
        return DNCState(memory, usage, precedence, link, written.squeeze(1), weights)

    def queries(self, interface: Tensor) -> DNCQueries:
        """Split the interface into queries and gates (Methods, "Interface parameters").

        Args:
            interface: ``[B, interface_size]``.
        """
        reads = self.read_heads
        keys, strengths, unit, modes, add = interface.split(self.layout.sizes, -1)
        keys = keys.unflatten(-1, (reads + 1, self.width))
        strengths = 1 + nn.functional.softplus(strengths).unsqueeze(-1)
        unit = unit.sigmoid()
        free_gates, allocation_gate, write_gate, erase = unit.unsqueeze(-1).split(
            (reads, 1, 1, self.width), -2
        )
        return DNCQueries(
            reading=LinkedQuery(
                key=keys[:, :reads],
                strength=strengths[:, :reads],
                modes=modes.unflatten(-1, (reads, 3)).softmax(-1),
            ),
            writing=AllocatingQuery(
                key=keys[:, reads:],
                strength=strengths[:, reads:],
                allocation_gate=allocation_gate,
                write_gate=write_gate,
            ),
            free_gates=free_gates,
            erase=erase.mT,
            add=add.unsqueeze(-2),
        )

    def forward(self, interface: Tensor, state: DNCState) -> tuple[Tensor, DNCState]:
        """One step: ``[B, interface_size] -> [B, read_heads * W]``."""
        before, usage, precedence, link, written, weights = state
        reading, writing, free_gates, erase, add = self.queries(interface)
        free_gates = offer(self, "free_gates", free_gates)
        erase, add = offer(self, "erase", erase), offer(self, "add", add)
        used = AllocatingState(usage, written.unsqueeze(1))
        used = self.writing.release(used, weights, free_gates)
        write, (usage, written) = self.writing(writing, Memory(before, before), used)
        memory = functional.erase_add(before, write, erase, add)
        written = written.squeeze(1)
        linked = self.reading.follow(LinkedState(link, precedence, weights), written)
        read, linked = self.reading(reading, Memory(memory, memory), linked)
        link, precedence, weights = linked
        vectors = functional.read(read, memory)
        tracked = {"before": before, "memory": memory, "usage": usage, "link": link}
        gates = {"free_gates": free_gates}
        report(self, read=read, write=write, erase=erase, add=add, **tracked, **gates)
        return vectors.flatten(1), DNCState(memory, usage, precedence, link, written, weights)
