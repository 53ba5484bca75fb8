"""Memory with least recently used access (Santoro et al. 2016, section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from memnets import functional
from memnets.addressing import LeastUsed, LeastUsedState, Sharp, SharpQuery
from memnets.core import Addressing, Memory, Score, check_positive
from memnets.events import report
from memnets.memories.slotted import Slotted

__all__ = ["LRUA", "LRUAState"]


class LRUAState(NamedTuple):
    """State of an :class:`LRUA`.

    Attributes:
        memory: M_t, ``[B, N, W]``.
        usage: w_t^u >= 0, ``[B, N]``.
        weights: of the read heads, w_t^r, ``[B, H, N]``.
    """

    memory: Tensor
    usage: Tensor
    weights: Tensor


class LRUA(Slotted[LRUAState]):
    """N x W memory that is written to where it was read last, or used least.

    Santoro et al. 2016, section 3.2. Each head writes its key k_t, then reads by it. The n-th head
    writes between the slot that it read in the step before and the slot that is n-th in the order
    of usage, least first (in the paper each head writes to all n of these, which for n = 1 is the
    same); the slots used least are emptied before. Usage decays, and grows by what is read and
    written (equations 5 to 8). A read looks for the key by cosine, with a strength as in the NTM;
    the paper has none, which is a strength of 1.

    ``slots`` may be changed at any time.

    Args:
        slots: N, at least ``heads``.
        width: W, at least 1.
        heads: H, each of which writes and reads, at least 1.
        decay: gamma of the usage, in ``[0, 1]``.
        score: the measure of similarity; cosine if not given.
        initial_value: see :class:`~memnets.memories.slotted.Slotted`.
        initial_spread: see there.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        slots: int = 128,
        width: int = 40,
        heads: int = 4,
        decay: float = 0.99,
        score: Score | None = None,
        initial_value: float = 1e-6,
        initial_spread: float = 0.0,
    ) -> None:
        super().__init__(slots, width, {"heads": heads}, initial_value, initial_spread)
        check_positive(heads=heads)
        self.heads = heads
        self.read_size = heads * width
        self.writing = LeastUsed(decay)
        self.reading = Sharp(score)
        self.interface_size = heads * (width + 2)

    def head_names(self) -> dict[Addressing, list[str]]:
        """A name for each row of the weights."""
        return {
            self.writing: [f"write {head + 1}" for head in range(self.heads)],
            self.reading: [f"read {head + 1}" for head in range(self.heads)],
        }

    def initial_state(self, batch_size: int) -> LRUAState:
        """Memory of which nothing is used, and all heads on the first slot."""
        memory = self.first_memory(batch_size)
        usage, first = self.writing.initial_state(Memory(memory, memory))
        return LRUAState(memory, usage, first.expand(-1, self.heads, -1))

    def forward(self, interface: Tensor, state: LRUAState) -> tuple[Tensor, LRUAState]:
        """One step: ``[B, interface_size] -> [B, heads * W]``."""
        memory, usage, weights = state
        keys, strengths, gates = interface.split(
            (self.heads * self.width, self.heads, self.heads), -1
        )
        keys = keys.unflatten(-1, (self.heads, self.width))
        slots, used = Memory(memory, memory), LeastUsedState(usage, weights)
        emptied = self.writing.least_used(slots, used)
        written, used = self.writing(gates.sigmoid().unsqueeze(-1), slots, used)
        memory = functional.empty_add(memory, emptied, written, keys)
        strengths = nn.functional.softplus(strengths).unsqueeze(-1)
        read, _ = self.reading(SharpQuery(keys, strengths), Memory(memory, memory), None)
        usage, weights = self.writing.track(used, read, written)
        tracked = {"emptied": emptied, "memory": memory, "usage": usage}
        report(self, read=read, write=written, add=keys, **tracked)
        return functional.read(read, memory).flatten(1), LRUAState(memory, usage, weights)
