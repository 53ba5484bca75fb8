"""Sparse access memory (Rae et al. 2016): heads that read and write few slots of many."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from memnets import functional
from memnets.addressing import LeastRecent, LeastRecentQuery, LeastRecentState, Sharp, SharpQuery
from memnets.checks import at_hand, check_finite, check_positive
from memnets.core import Addressing, Memory, Score
from memnets.events import listening, offer, report
from memnets.functional import Sparse
from memnets.memories.slotted import Slotted
from memnets.normalizers import TopK
from memnets.scores import Cosine

__all__ = ["SAM", "SAMLayout", "SAMState"]

#: Most slots that are all reported to those who watch. Of more, those in use are, in blocks.
MOST_REPORTED, BLOCK = 1024, 64


class SAMState(NamedTuple):
    """State of a :class:`SAM`.

    Attributes:
        memory: M_t, ``[B, N, W]``.
        accessed: time of the last access of each slot, whole numbers ``[B, N]``; 0 = never.
        used: whole number u, ``[B]``: all slots from number u on are empty, and were never read or
            written. Fast steps look at the others alone: whoever writes into ``memory`` by hand
            sets it to N.
        read: w_t^r, weights of the read heads, index and weight both ``[B, H, k]``.
    """

    memory: Tensor
    accessed: Tensor
    used: Tensor
    read: Sparse


class SAMLayout(NamedTuple):
    """Layout of the interface of a :class:`SAM`: queries, adds, strengths, gates.

    Attributes:
        heads: H, the number of heads.
        width: W, the width of a slot.
    """

    heads: int
    width: int

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Widths of the four parts of the interface.

        They are the queries; the adds; the strengths (softplus); and the gates gamma of all heads,
        then their write gates alpha (sigmoid).
        """
        return self.heads * self.width, self.heads * self.width, self.heads, 2 * self.heads


class SAM(Slotted[SAMState]):
    """N x W memory of which a head touches few slots in a step (Rae et al. 2016, section 3).

    Each head writes, then reads. It writes a vector to the slots that it read in the last step, and
    to slots that were not accessed for the longest time, which are emptied before (equations 3 and
    5). It reads the k slots that are most like its query, by cosine; their weights are a softmax
    over these k alone (section 3.1). An access is a weight above a threshold, so that the time of
    the last access can be kept without sums over all slots (section 3.2).

    With ``read_slots`` = N this is the dense machine: every slot has a weight.
    With ``write_slots`` = n above 1, a head writes to the n slots that were not accessed for the
    longest time, in equal shares: the least used access of :class:`~memnets.memories.LRUA` with
    times for usage.

    A step as it is defined here costs time and memory for all N slots. All steps of a sequence at
    once, :meth:`unroll` of this memory or of a recurrent network on it, write into one
    copy of the memory and keep what the backward pass needs of the slots that they touch
    (:mod:`memnets.kernels.sparse`): a slot that no step has touched costs nothing.

    Of more than 1024 slots, pictures and other watchers of a step see those in use alone: the first
    ones, up to the last that was ever read or written, and some more. ``slots`` may be changed at
    any time.

    Args:
        slots: N, the number of slots, at least ``read_slots`` and ``heads * write_slots``.
        width: W, the width of a slot, at least 1.
        heads: H, the number of heads, each of which writes and reads, at least 1.
        read_slots: k, the number of slots that a head reads in a step, at least 1. With 1 nothing
            tells a head what to look for: the weight of a single slot is always 1.
        write_slots: n, the number of slots not accessed for the longest time that a head writes to,
            at least 1; 1 in the paper.
        threshold: delta, weights up to it are no access, in ``[0, 1)``.
        score: similarity of a query and a slot; cosine by default.
        alike: whether the vector that a head writes begins with the weights of its query: an input
            then finds from the start what one like it has written. Both are learned on their own.
        strength_bias: number added to the initial bias of the strengths, before the softplus; above
            0, a read finds single slots from the start.
        gate_bias: number added to the initial bias of the gates gamma, before the sigmoid; below 0,
            a write goes to a new slot until a head learns to write where it read.

    Raises:
        ValueError: a number is out of its range.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "read": "r = Σ_i w^r(s_i) M_t(s_i), over the k slots s_i most like the query"
        "\n(Rae et al. 2016, equation 4)",
        "memory": "M_t(i) = M_{t-1}(i) (1 - R(i)) + Σ_h w^w_h(i) a_h; R: the slots not accessed for"
        " the longest time\n(Rae et al. 2016, equation 3)",
    }

    def __init__(
        self,
        slots: int = 1024,
        width: int = 20,
        heads: int = 4,
        read_slots: int = 4,
        write_slots: int = 1,
        threshold: float = 0.005,
        score: Score | None = None,
        alike: bool = False,
        strength_bias: float = 0.0,
        gate_bias: float = 0.0,
    ) -> None:
        check_positive(heads=heads, read_slots=read_slots, write_slots=write_slots)
        check_finite(strength_bias=strength_bias, gate_bias=gate_bias)
        least = {"read_slots": read_slots, "heads * write_slots": heads * write_slots}
        super().__init__(slots, width, least)
        self.heads = heads
        self.read_slots = read_slots
        self.write_slots = write_slots
        self.alike = alike
        self.strength_bias = strength_bias
        self.gate_bias = gate_bias
        self.read_heads = heads
        self.read_size = heads * width
        self.writing = LeastRecent(write_slots, threshold)
        self.reading = Sharp(score, TopK(read_slots))
        self.layout = SAMLayout(heads, width)
        self.interface_size = sum(self.layout.sizes)

    def head_names(self) -> dict[Addressing, list[str]]:
        """Names of the heads, for pictures."""
        return {
            self.writing: [f"write {head + 1}" for head in range(self.heads)],
            self.reading: [f"read {head + 1}" for head in range(self.heads)],
        }

    def interface_bias(self) -> Tensor:
        """The two biases of the settings at their places, ``[interface_size]``; 0 elsewhere."""
        bias = self.first_row.new_zeros(self.interface_size)
        _, _, strengths, gates = bias.split(self.layout.sizes)
        strengths.fill_(self.strength_bias)
        gates[: self.heads] = self.gate_bias
        return bias

    def interface_copies(self) -> Tensor | None:
        """The adds begin as copies of the queries, if they are to be alike."""
        if not self.alike:
            return None
        copies = torch.arange(self.interface_size)
        queries, adds, _, _ = copies.split(self.layout.sizes)
        adds.copy_(queries)
        return copies

    def initial_state(self, batch_size: int) -> SAMState:
        """Memory without any access; no head has read."""
        memory = self.first_memory(batch_size)
        # Views of a single number: a memory of any size costs nothing before its first step.
        never = torch.zeros((), dtype=torch.long, device=memory.device)
        index = torch.arange(self.read_slots, device=memory.device)
        weight = memory.new_zeros(())
        shape = batch_size, self.heads, self.read_slots
        return SAMState(
            memory,
            never.expand(batch_size, self.slots),
            never.expand(batch_size),
            Sparse(index.expand(shape), weight.expand(shape)),
        )

    def forward(self, interface: Tensor, state: SAMState) -> tuple[Tensor, SAMState]:
        """One step: ``[B, interface_size] -> [B, heads * W]``."""
        memory, accessed = state.memory, state.accessed
        slots = memory.shape[-2]
        alike = type(self.reading.score) is Cosine  # another score may know places
        if slots <= MOST_REPORTED or not (alike and listening() and at_hand(state.used)):
            return self._step(interface, state)
        # Slots that are empty and were never read are all alike, so that a step with fewer of them
        # has the same results.
        number = torch.arange(1, slots + 1)
        used = torch.maximum((memory.any(-1) | (accessed > 0)) * number, state.used.unsqueeze(-1))
        few = (
            int(used.amax() if used.numel() else 0)
            + self.read_slots
            + self.heads * self.write_slots
        )
        few = min(slots, BLOCK * math.ceil(few / BLOCK))
        start = state._replace(memory=memory[:, :few], accessed=accessed[:, :few])
        vectors, after = self._step(interface, start)
        return vectors, after._replace(
            memory=torch.cat([after.memory, memory[:, few:]], 1),
            accessed=torch.cat([after.accessed, accessed[:, few:]], 1),
        )

    def _step(self, interface: Tensor, state: SAMState) -> tuple[Tensor, SAMState]:
        before, accessed, used, last = state
        queries, add, strengths, gates = interface.split(self.layout.sizes, -1)
        queries = queries.unflatten(-1, (self.heads, self.width))
        add = offer(self, "add", add.unflatten(-1, (self.heads, self.width)))
        strengths = nn.functional.softplus(strengths).unsqueeze(-1)
        gate, write_gate = gates.sigmoid().unsqueeze(-1).chunk(2, -2)
        slots = Memory(before, before)
        times = LeastRecentState(accessed, functional.dense(last, before.shape[-2]))
        emptied = (self.writing.least_recent(slots, times) > 0).to(before.dtype)
        written, times = self.writing(LeastRecentQuery(gate, write_gate), slots, times)
        memory = functional.empty_add(before, emptied, written, add)
        read, _ = self.reading(SharpQuery(queries, strengths), Memory(memory, memory), None)
        accessed = self.writing.track(times, read, written).accessed
        # The last slot that this step has touched, counted from 1.
        number = torch.arange(1, memory.shape[-2] + 1, device=memory.device)
        touched = ((emptied + written + read) > 0).any(-2)
        used = torch.maximum(used, (touched * number).amax(-1))
        report(self, read=read, write=written, add=add, emptied=emptied)
        report(self, before=before, memory=memory)
        vectors = functional.read(read, memory).flatten(1)
        return vectors, SAMState(memory, accessed, used, functional.sparse(read, self.read_slots))
