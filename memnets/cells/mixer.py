"""A memory as the mixer of a layer, without feedback, so that many steps can be taken at once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memnets.cells.convolutions import ShortConvolution
from memnets.checks import check_positive
from memnets.core import Addressing, Cell, MemoryAccess, map_free
from memnets.factories import check_made

__all__ = ["Mixer", "MixerState", "OutputGate"]


class MixerState(NamedTuple):
    """State of a :class:`Mixer`.

    Attributes:
        convolution: last inputs of the convolution; ``None`` without one.
        access: state of the memory.
    """

    convolution: Any
    access: Any


class Mixer(Cell[MixerState]):
    """A memory driven by its input alone: ``y_t = W_o access(U x_t + a)``.

    In a :class:`~memnets.cells.Loop` the vector that was read goes into the next step, so steps are
    taken one by one. Here nothing goes back, and a memory with a parallel form, such as
    :class:`memnets.memories.Linear` or :class:`memnets.memories.Tape`, takes all steps at once. Use
    it as the mixer of a layer in a :class:`~memnets.models.StackModel`.

    Args:
        input_size: width of input and output, at least 1.
        access: the memory with its heads; the mixer uses a copy, so that layers do not share one.
        convolution: number of inputs of a :class:`~memnets.cells.ShortConvolution` over the vectors
            of the interface, such as queries, keys and values; 0 = none.
        gated: whether an :class:`OutputGate` stands behind the memory.

    Raises:
        ValueError: a size is out of its range; or ``convolution`` with a memory whose interface has
            no vectors.

    Example:
        ``partial(Mixer, access=DeltaNet(key_size=32, value_size=32, heads=4), convolution=4)``
    """

    def __init__(
        self, input_size: int, access: MemoryAccess, convolution: int = 0, gated: bool = False
    ) -> None:
        super().__init__()
        check_positive(input_size=input_size)
        check_made("access", access, "DeltaNet(key_size=32, value_size=32)")
        self.input_size = self.output_size = input_size
        self.access = copy.deepcopy(access)
        self.interface = access.make_interface(input_size)
        self.convolution: ShortConvolution | None = None
        if convolution:
            check_positive(convolution=convolution)
            if not access.vectors_size:
                raise ValueError(
                    "a convolution needs a memory whose interface has vectors that it may pass "
                    f"(vectors_size above 0), such as DeltaNet; got {type(access).__name__}"
                )
            self.convolution = ShortConvolution(access.vectors_size, convolution)
        self.gate = OutputGate(input_size, access.output_size, access.read_heads) if gated else None
        self.output = nn.Linear(access.output_size, input_size)

    def initial_state(self, batch_size: int) -> MixerState:
        """Initial states of convolution and memory."""
        convolution = self.convolution
        return MixerState(
            None if convolution is None else convolution.initial_state(batch_size),
            self.access.initial_state(batch_size),
        )

    def forward(self, inputs: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        """One step: ``[B, input_size] -> [B, input_size]``."""
        interface, past = self.interface(inputs), state.convolution
        if self.convolution is not None:
            vectors, gates = self._split(interface)
            vectors, past = self.convolution.step(vectors, past)
            interface = torch.cat([vectors, gates], -1)
        read, access = self.access.step(interface, state.access)
        return self._answer(inputs, read), MixerState(past, access)

    def unroll(
        self, inputs: Tensor, state: MixerState, mask: Tensor | None = None
    ) -> tuple[Tensor, MixerState]:
        """``[B, T, input_size] -> [B, T, input_size]``, by the memory's own ``unroll``."""
        interface, past = self.interface(inputs), state.convolution
        if self.convolution is not None:
            vectors, gates = self._split(interface)
            vectors, past = self.convolution.unroll(vectors, past, mask)
            interface = torch.cat([vectors, gates], -1)
        read, access = self.access.unroll(interface, state.access, mask)
        return self._answer(inputs, read), MixerState(past, access)

    def _split(self, interface: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors of the interface and its gates."""
        size = self.access.vectors_size
        return interface[..., :size], interface[..., size:]

    def _answer(self, inputs: Tensor, read: Tensor) -> Tensor:
        if self.gate is not None:
            read = self.gate(inputs, read)
        answer: Tensor = self.output(read)
        return answer

    def looks_back(self) -> Addressing | None:
        """That of the memory, see :meth:`~memnets.core.Cell.looks_back`."""
        return self.access.looks_back()

    def choose(self, mask: Tensor, new: MixerState, old: MixerState) -> MixerState:
        """Choose the states of convolution and memory by their own rules."""
        past = new.convolution
        if self.convolution is not None:
            past = self.convolution.choose(mask, past, old.convolution)
        return MixerState(past, self.access.choose(mask, new.access, old.access))

    def map_free(self, function: Callable[[Tensor], Tensor], state: MixerState) -> MixerState:
        """Map the states of convolution and memory by their own rules."""
        past = state.convolution
        if self.convolution is not None:
            past = self.convolution.map_free(function, past)
        return MixerState(past, map_free(self.access, function, state.access))


class OutputGate(nn.Module):
    """A gate behind a memory: the vector that was read, normalised by heads, times the gate.

    ``rms(r) . g . silu(W x)``, where ``rms`` divides the vector of each head by its root mean
    square (Sun et al. 2023, equation 8; Yang et al. 2024, GLA, section 4.4), and g is learned.

    Args:
        input_size: width of x, at least 1.
        read_size: width of r, all heads together, at least 1.
        heads: number of heads, a divisor of ``read_size``.

    Raises:
        ValueError: a size is out of its range.
    """

    def __init__(self, input_size: int, read_size: int, heads: int = 1) -> None:
        super().__init__()
        check_positive(input_size=input_size, read_size=read_size, heads=heads)
        if read_size % heads:
            raise ValueError(f"heads must divide read_size {read_size}; got {heads}")
        self.heads = heads
        self.gain = nn.Parameter(torch.ones(read_size))
        self.gate = nn.Linear(input_size, read_size)

    def forward(self, inputs: Tensor, read: Tensor) -> Tensor:
        """``[*B, input_size]`` and ``[*B, read_size]`` ``-> [*B, read_size]``."""
        heads = read.unflatten(-1, (self.heads, -1))
        length = (heads.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        normed = (heads * length).flatten(-2) * self.gain
        gated: Tensor = normed * nn.functional.silu(self.gate(inputs))
        return gated
