"""A tape that moves under its head (the Tape-RNN of Deletang et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from memnets import functional
from memnets.checks import check_positive
from memnets.events import offer, report
from memnets.memories.slotted import Noisy, Slotted

__all__ = ["JUMPS", "MOVES", "MovingTape", "MovingTapeState"]

#: Where a head can go in a step, in the order of the interface.
MOVES = ("left", "right", "stay")

#: The moves that a tape with jumps has as well.
JUMPS = ("jump left", "jump right")


class MovingTapeState(NamedTuple):
    """State of a :class:`MovingTape`.

    Attributes:
        memory: the tapes side by side, the slots under the heads first, ``[B, N, tapes * W]``.
        jump: the distance of a jump, int64 ``[B]``; ``None`` without jumps.
    """

    memory: Tensor
    jump: Tensor | None = None


class MovingTape(Noisy, Slotted[MovingTapeState]):
    """Tapes, each with one head that reads and writes in place, then moves by one slot.

    This is the memory of the Tape-RNN of Deletang et al. 2023, after the Baby-NTM of Suzgun et al.
    2019. In each step, the head writes a vector v over the slot that it is on, to the degree of a
    gate g. Then it takes its moves, left, right and stay, each to a degree; the degrees are a
    softmax. The head itself stays on slot 0: the tape moves, and the new tape is the mean of the
    tapes that the moves alone would give. With degrees of 0 and 1 it is the tape of a Turing
    machine. Then the machine reads the slot under the head.

    A tape is a circle of N slots. It must be longer than the stretch that is written; ``slots`` and
    ``noise`` may be changed at any time.

    The published machine has jumps as well: a jump goes as many slots as the source has steps.
    With ``jumps`` the tape is told that number before the first step
    (:meth:`~memnets.core.Cell.start`); a tape that is not told, since it runs without a source,
    stays where it is. In their code a step always writes, as with ``gated=False``, and v is not
    squashed.

    Args:
        slots: N, the number of slots of a tape, at least 1.
        width: W, the width of a slot, at least 1.
        tapes: number of tapes, each with a head of its own, at least 1. They lie side by side: the
            attribute ``width`` is that of all together.
        gated: whether the machine chooses how much it writes; ``False`` = each step writes over the
            slot under the head.
        jumps: whether the head may also jump by the length of the source, left and right.
        initial_value: initial value of every number on the tapes.
        noise: standard deviation of Gaussian noise on the moves in training, before their softmax,
            at least 0. The moves learn to be near 0 or 1 against it.

    Raises:
        ValueError: a number is out of its range.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "memory": "m'(0) = g v + (1 - g) m(0), then\n"
        "m(i) = a(left) m'(i-1) + a(right) m'(i+1) + a(stay) m'(i)"
        "\n(as in Deletang et al. 2023, appendix A)",
        "moves": "a = softmax(A h): where the head goes\n(Deletang et al. 2023, appendix A)",
        "gates": "g = sigmoid(B h): how much of the slot under the head is written over",
        "written": "v = tanh(C h)",
    }

    def __init__(
        self,
        slots: int = 32,
        width: int = 20,
        tapes: int = 1,
        gated: bool = True,
        jumps: bool = False,
        initial_value: float = 0.0,
        noise: float = 0.0,
    ) -> None:
        check_positive(tapes=tapes, width=width)
        super().__init__(slots, tapes * width, initial_value=initial_value)
        self.tapes = tapes
        self.gated = gated
        self.jumps = jumps
        self.noise = noise
        #: Names of the moves, in the order of the interface.
        self.moves: tuple[str, ...] = (*MOVES, *JUMPS) if jumps else MOVES
        self.read_size = self.width
        self.read_heads = tapes
        self.interface_size = tapes * (len(self.moves) + gated) + self.width

    def field_names(self, field: str, size: int) -> Sequence[str]:
        """Names of the numbers that a tape reports, for pictures: of its moves."""
        return self.moves if field == "moves" else super().field_names(field, size)

    def initial_state(self, batch_size: int) -> MovingTapeState:
        """Tapes that nothing is written on, which know no source."""
        memory = self.first_memory(batch_size)
        here = memory.device
        jump = torch.zeros(batch_size, dtype=torch.long, device=here) if self.jumps else None
        return MovingTapeState(memory, jump)

    def start(self, source: Tensor, mask: Tensor | None = None) -> MovingTapeState:
        """Tapes that nothing is written on; with jumps, they know the length of the source."""
        state = self.initial_state(len(source))
        if state.jump is None:
            return state
        return state._replace(
            jump=torch.full_like(state.jump, source.shape[1]) if mask is None else mask.sum(1)
        )

    def forward(self, interface: Tensor, state: MovingTapeState) -> tuple[Tensor, MovingTapeState]:
        """One step: ``[B, interface_size] -> [B, tapes * W]``."""
        sizes = self.tapes * len(self.moves), self.tapes * self.gated, self.width
        moves, gates, written = interface.split(sizes, -1)
        moves = self.noisy(moves).unflatten(-1, (self.tapes, len(self.moves))).softmax(-1)
        moves = offer(self, "moves", moves)
        written = offer(self, "written", written.tanh().unflatten(-1, (self.tapes, -1)))
        if self.gated:
            gates = offer(self, "gates", gates.sigmoid().unsqueeze(-1))
            report(self, gates=gates)
        here = state.memory[:, 0]
        slot = written if not self.gated else torch.lerp(here.view_as(written), written, gates)
        memory = torch.cat([slot.flatten(1).unsqueeze(1), state.memory[:, 1:]], 1)
        # Each number of a tape's slots shares its moves: [B, 3 or 5, tapes * W].
        degrees = moves.mT.repeat_interleave(written.shape[-1], -1)
        memory = functional.move(memory, degrees, state.jump)
        report(self, moves=moves, written=written, before=state.memory, memory=memory)
        return memory[:, 0], MovingTapeState(memory, state.jump)
