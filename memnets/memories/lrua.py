"""Memory with least recently used access (Santoro et al. 2016, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from memnets import functional
from memnets.addressing import LeastUsed, LeastUsedState, Sharp, SharpQuery
from memnets.checks import check_finite, check_positive
from memnets.core import Addressing, Memory, Score
from memnets.events import report
from memnets.memories.slotted import Slotted

__all__ = ["LRUA", "LRUAState"]


class LRUAState(NamedTuple):
    """State of an :class:`LRUA`.

    Attributes:
        memory: M_t, ``[B, N, W]``.
        usage: w_t^u >= 0, ``[B, N]``.
        weights: w_t^r, weights of the read heads, ``[B, H, N]``.
    """

    memory: Tensor
    usage: Tensor
    weights: Tensor


class LRUA(Slotted[LRUAState]):
    """N x W memory whose writes go to the slots read last or used least (Santoro et al. 2016).

    Each head writes its key k_t, then reads by it (section 3.2, equations 5 to 8). A write goes
    partly to the slots that the head read in the last step, partly to a slot used least: the n-th
    head takes the n-th least used slot. In the paper each head writes to all of these n slots; for
    n = 1 this is the same. The least used slots are emptied before. Usage decays, and grows with
    the weights of reads and writes. A read finds the key by cosine, with a strength as in the NTM;
    the paper has no strength, which means 1.

    ``slots`` may be changed at any time.

    Args:
        slots: N, the number of slots, at least ``heads``.
        width: W, the width of a slot, at least 1.
        heads: H, the number of heads, each of which writes and reads, at least 1.
        decay: gamma, the decay of the usage in a step, in ``[0, 1]``.
        score: similarity of a key and a slot; cosine by default.
        initial_value: initial value of every number in the memory.
        initial_spread: spread of the initial slots, see
            :class:`~memnets.memories.slotted.Slotted`.
        strength_bias: number added to the initial bias of the strengths, before the softplus; above
            0, a read finds single slots from the start. With the default, a read is at first a mean
            of all slots, and the usage tells nothing of them.
        gate_bias: number added to the initial bias of the gates, before the sigmoid; below 0, a
            write goes to the slot used least until a head learns to write where it read.

    Raises:
        ValueError: a number is out of its range.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "read": "r = Σ_i w^r(i) M_t(i)\n(Santoro et al. 2016, equation 4)",
        "memory": "M_t(i) = M_{t-1}(i) (1 - Σ_h w^lu_h(i)) + Σ_h w^w_h(i) k_h"
        "\n(Santoro et al. 2016, equation 8)",
        "usage": "w^u_t = γ w^u_{t-1} + Σ_h (w^r_h + w^w_h)\n(Santoro et al. 2016, equation 5)",  # noqa: RUF001
        "gates": "w^w = g w^r_{t-1} + (1 - g) w^lu_{t-1}; 1 = the slots read last"
        "\n(Santoro et al. 2016, equation 7)",
    }

    def __init__(
        self,
        slots: int = 128,
        width: int = 40,
        heads: int = 4,
        decay: float = 0.99,
        score: Score | None = None,
        initial_value: float = 1e-6,
        initial_spread: float = 0.0,
        strength_bias: float = 0.0,
        gate_bias: float = 0.0,
    ) -> None:
        check_positive(heads=heads)
        super().__init__(slots, width, {"heads": heads}, initial_value, initial_spread)
        check_finite(strength_bias=strength_bias, gate_bias=gate_bias)
        self.strength_bias = strength_bias
        self.gate_bias = gate_bias
        self.heads = self.read_heads = heads
        self.read_size = heads * width
        self.writing = LeastUsed(decay)
        self.reading = Sharp(score)
        self.interface_size = heads * (width + 2)

    def head_names(self) -> dict[Addressing, list[str]]:
        """Names of the heads, for pictures."""
        return {
            self.writing: [f"write {head + 1}" for head in range(self.heads)],
            self.reading: [f"read {head + 1}" for head in range(self.heads)],
        }

    def interface_bias(self) -> Tensor:
        """The two biases of the settings at their places, ``[interface_size]``; 0 elsewhere."""
        bias = self.first_row.new_zeros(self.interface_size)
        _, strengths, gates = bias.split((self.heads * self.width, self.heads, self.heads))
        strengths.fill_(self.strength_bias)
        gates.fill_(self.gate_bias)
        return bias

    def initial_state(self, batch_size: int) -> LRUAState:
        """Memory without any usage, and all heads on the first slot."""
        memory = self.first_memory(batch_size)
        usage, first = self.writing.initial_state(Memory(memory, memory))
        return LRUAState(memory, usage, first.expand(-1, self.heads, -1))

    def forward(self, interface: Tensor, state: LRUAState) -> tuple[Tensor, LRUAState]:
        """One step: ``[B, interface_size] -> [B, heads * W]``."""
        before, usage, weights = state
        keys, strengths, gates = interface.split(
            (self.heads * self.width, self.heads, self.heads), -1
        )
        keys = keys.unflatten(-1, (self.heads, self.width))
        slots, used = Memory(before, before), LeastUsedState(usage, weights)
        emptied = self.writing.least_used(slots, used)
        gates = gates.sigmoid().unsqueeze(-1)
        written, used = self.writing(gates, slots, used)
        memory = functional.empty_add(before, emptied, written, keys)
        strengths = nn.functional.softplus(strengths).unsqueeze(-1)
        read, _ = self.reading(SharpQuery(keys, strengths), Memory(memory, memory), None)
        usage, weights = self.writing.track(used, read, written)
        tracked = {"emptied": emptied, "before": before, "memory": memory, "usage": usage}
        report(self, read=read, write=written, add=keys, **tracked, gates=gates)
        return functional.read(read, memory).flatten(1), LRUAState(memory, usage, weights)
