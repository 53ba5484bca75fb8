"""A memory that grows: each step appends a slot and attends to all slots so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from memnets import events
from memnets.addressing import Content
from memnets.cells.attention import Slots
from memnets.cells.positions import Placed, Positions, placed_content
from memnets.checks import check_positive
from memnets.core import Addressing, Memory, MemoryAccess, Score
from memnets.events import report
from memnets.precision import full_precision
from memnets.scores import ScaledDot

__all__ = ["Tape", "TapeState"]


class TapeState(NamedTuple):
    """State of a :class:`Tape`, after t steps.

    Attributes:
        keys: ``[B, t, W]``.
        values: ``[B, t, W]``.
        mask: bool ``[B, t]``, False = the slot of a skipped step; ``None`` = no sequence has
            skipped a step.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None = None


class Tape(MemoryAccess[TapeState]):
    """Append-only memory, read by content (as in the LSTMN, Cheng et al. 2016).

    A step takes a key, a value and a query for each head from the interface. It appends key and
    value as a slot, then reads all slots, the new one too. The heads share the tape.

    Args:
        width: W, the width of keys and values, at least 1.
        read_heads: number of read heads, at least 1.
        score: scores each key for each query; scaled dot product by default.
        positions: what the heads do by the places of steps, such as
            :class:`~memnets.cells.RotaryPositions`; ``None`` = nothing.

    Raises:
        ValueError: a size is out of its range, or the positions do not fit.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "memory": "each step appends its value as a slot\n(as in Cheng et al. 2016, section 3.1)"
    }

    def __init__(
        self,
        width: int = 20,
        read_heads: int = 1,
        score: Score | None = None,
        positions: Positions | None = None,
    ) -> None:
        super().__init__()
        check_positive(width=width, read_heads=read_heads)
        self.width = width
        self.read_heads = read_heads
        self.read_size = read_heads * width
        self.addressing: Content = placed_content(
            ScaledDot() if score is None else score, positions, None, width, read_heads
        )
        self.interface_size = self.vectors_size = (2 + read_heads) * width
        self.no_slots: Tensor
        self.register_buffer("no_slots", torch.empty(0, width), persistent=False)

    def head_names(self) -> dict[Addressing, list[str]]:
        """Names of the heads, for pictures."""
        return {self.addressing: [f"read {head + 1}" for head in range(self.read_heads)]}

    def initial_state(self, batch_size: int) -> TapeState:
        """No slots."""
        empty = self.no_slots.expand(batch_size, -1, -1)
        return TapeState(empty, empty)

    def forward(self, interface: Tensor, state: TapeState) -> tuple[Tensor, TapeState]:
        """One step: ``[B, interface_size] -> [B, read_heads * W]``."""
        rows = interface.unflatten(-1, (2 + self.read_heads, self.width))
        slots = Slots(*state).appended(rows[:, :1], rows[:, 1:2], None)
        if isinstance(self.addressing, Placed):
            # All heads stand at the last slot: each is a query of its own, as at many steps.
            vectors = self._read(rows[:, 2:].unsqueeze(2), slots)
        else:
            memory = Memory(slots.keys, slots.values, slots.seen(1))
            vectors, _ = self.addressing.read(rows[:, 2:], memory, None)
        report(self, add=rows[:, 1:2], before=state.values, memory=slots.values)
        return vectors.flatten(1), TapeState(*slots)

    def _read(self, query: Tensor, slots: Slots) -> Tensor:
        """Vectors ``[B, H, T, W]`` that the heads read at each of the last T steps."""
        seen = slots.seen(query.shape[2])
        if seen is not None:
            seen = seen.unsqueeze(-3)  # a dimension for the heads, which share the mask
        heads = (-1, self.read_heads, -1, -1)
        keys, values = slots.keys.unsqueeze(1), slots.values.unsqueeze(1)
        memory = Memory(keys.expand(heads), values.expand(heads), seen)
        return self.addressing.read(query, memory, None)[0]

    def unroll(
        self, inputs: Tensor, state: TapeState, mask: Tensor | None = None
    ) -> tuple[Tensor, TapeState]:
        """``[B, T, interface_size] -> [B, T, read_heads * W]``, all steps at once."""
        # A listener wants to hear of each step.
        if inputs.shape[1] == 1 or events.listening():
            return super().unroll(inputs, state, mask)
        return self._at_once(inputs, state, mask)

    @full_precision
    def _at_once(
        self, inputs: Tensor, state: TapeState, mask: Tensor | None
    ) -> tuple[Tensor, TapeState]:
        rows = inputs.unflatten(-1, (2 + self.read_heads, self.width)).transpose(1, 2)
        slots = Slots(*state).appended(rows[:, 0], rows[:, 1], mask)
        vectors = self._read(rows[:, 2:], slots)
        return vectors.transpose(1, 2).flatten(2), TapeState(*slots)

    def choose(self, mask: Tensor, new: TapeState, old: TapeState) -> TapeState:
        """The new state, with the new slot closed to a sequence that skips the step."""
        # A tensor has one length for the whole batch, so the tape grows for all sequences.
        return TapeState(*Slots(*new).chosen(mask))
