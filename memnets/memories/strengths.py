"""Stacks, queues and deques of vectors with strengths (Grefenstette et al. 2015).

One base class serves all three: they differ in the ends at which they are pushed, popped and read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from memnets import events, functional
from memnets.checks import check_finite, check_positive
from memnets.core import MemoryAccess
from memnets.events import offer, report
from memnets.memories.slotted import Noisy

__all__ = ["NeuralDeque", "NeuralQueue", "NeuralStack", "NeuralState", "Strengths"]

#: Ends of a row of slots, in the order of their slots in a step.
BOTTOM, TOP = "bottom", "top"


class NeuralState(NamedTuple):
    """State of a :class:`NeuralStack`, :class:`NeuralQueue` or :class:`NeuralDeque` after t steps.

    Attributes:
        memory: all elements that were pushed, in the order of the steps, ``[B, count, t, W]``; of
            a deque, two a step, ``[B, count, 2 t, W]``.
        strengths: how much of each element is there, in ``[0, 1]``, ``[B, count, t]``.
    """

    memory: Tensor
    strengths: Tensor


class Strengths(Noisy, MemoryAccess[NeuralState]):
    """Base class for memories whose elements have strengths (Grefenstette et al. 2015, section 3).

    A step pops to a degree u, then pushes an element with a strength d, then reads. Elements are
    never changed nor removed, so that a memory grows by a slot a step; only their strengths become
    less. A pop takes strength from the first element of its end, and what is left of u from the
    next one. A read is the mean of the first elements of its end, of a strength of 1 in all. With
    degrees of 0 and 1 it is the stack, the queue or the deque of a programming language. One whose
    elements are all popped reads 0.

    A step costs as much as there are slots, so T steps cost T^2 / 2 small products: memory for 500
    steps is a few MB a sequence.

    Args:
        width: W, the width of an element, at least 1.
        count: number of stacks (queues, deques) side by side, each with degrees of its own, at
            least 1.
        push_bias: number added to the initial bias of the degrees of a push, before the sigmoid.
        pop_bias: number added to the initial bias of the degrees of a pop, before the sigmoid;
            below 0, elements stay until the machine learns to pop.
        noise: standard deviation of Gaussian noise on all degrees in training, before their
            sigmoid, at least 0. The degrees learn to be near 0 or 1 against it.

    Raises:
        ValueError: a number is out of its range.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "memory": "each step appends what it pushes as a slot"
        "\n(Grefenstette et al. 2015, equation 1)",
        "strengths": "a pop takes u from the first elements: "
        "s_i = max(0, s_i - max(0, u - Σ_{j before i} s_j))"
        "\na push has the strength d\n(Grefenstette et al. 2015, equation 2)",
        "read": "r = Σ_i min(s_i, max(0, 1 - Σ_{j before i} s_j)) v_i"
        "\n(Grefenstette et al. 2015, equation 3)",
        "degrees": "d, u = sigmoid(A h): how much is pushed and popped"
        "\n(Grefenstette et al. 2015, section 3.4)",
        "pushed": "v = tanh(B h)\n(Grefenstette et al. 2015, section 3.4)",
    }

    #: Ends at which the memory is pushed, popped and read, ``bottom`` before ``top``.
    pushes: ClassVar[tuple[str, ...]]
    pops: ClassVar[tuple[str, ...]]
    reads: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        width: int = 20,
        count: int = 1,
        push_bias: float = 0.0,
        pop_bias: float = 0.0,
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive(width=width, count=count)
        check_finite(push_bias=push_bias, pop_bias=pop_bias)
        self.width = width
        self.count = count
        self.push_bias = push_bias
        self.pop_bias = pop_bias
        self.noise = noise
        self.read_heads = count * len(self.reads)
        self.read_size = self.read_heads * width
        self.interface_size = count * (len(self.degrees) + len(self.pushes) * width)
        self.no_slots: Tensor
        self.register_buffer("no_slots", torch.empty(count, 0, width), persistent=False)

    @property
    def degrees(self) -> tuple[str, ...]:
        """Names of the degrees of a step, in the order of the interface."""
        return *_named("push", self.pushes), *_named("pop", self.pops)

    def field_names(self, field: str, size: int) -> Sequence[str]:
        """Names of the numbers that a memory reports, for pictures: of its degrees."""
        return self.degrees if field == "degrees" else super().field_names(field, size)

    def interface_bias(self) -> Tensor:
        """The two biases of the settings at their places, ``[interface_size]``; 0 elsewhere."""
        bias = self.no_slots.new_zeros(self.interface_size)
        degrees = bias[: self.count * len(self.degrees)].view(self.count, -1)
        degrees[:, : len(self.pushes)] = self.push_bias
        degrees[:, len(self.pushes) :] = self.pop_bias
        return bias

    def initial_state(self, batch_size: int) -> NeuralState:
        """No elements."""
        memory = self.no_slots.expand(batch_size, -1, -1, -1)
        return NeuralState(memory, memory[..., 0])

    def forward(self, interface: Tensor, state: NeuralState) -> tuple[Tensor, NeuralState]:
        """One step: ``[B, interface_size] -> [B, count * ends read * W]``."""
        ends, size = len(self.pushes), self.count * len(self.degrees)
        degrees, pushed = interface.split((size, self.interface_size - size), -1)
        degrees = self.noisy(degrees).unflatten(-1, (self.count, -1)).sigmoid()
        pushed = pushed.tanh().unflatten(-1, (self.count, -1))
        degrees, pushed = offer(self, "degrees", degrees), offer(self, "pushed", pushed)
        strength, pops = degrees.split((ends, len(self.pops)), -1)

        strengths = state.strengths
        # The top is popped first (their section 3.3).
        for end, degree in zip(reversed(self.pops), reversed(pops.unbind(-1)), strict=True):
            ordered = functional.popped(self._from(end, strengths), degree)
            strengths = self._from(end, ordered, back=True)
        strengths = torch.cat([strengths, strength], -1)
        memory = functional.append(state.memory, pushed.unflatten(-1, (ends, self.width)))

        weights = torch.stack(
            [
                self._from(end, functional.topmost(self._from(end, strengths)), back=True)
                for end in self.reads
            ],
            2,
        )
        vectors = functional.read(weights, memory)
        if events.listening():
            before, after = (each.transpose(1, 2).flatten(2) for each in (state.memory, memory))
            report(self, degrees=degrees, pushed=pushed, read=weights.flatten(1, 2))
            report(self, before=before, memory=after, strengths=strengths)
        return vectors.flatten(1), NeuralState(memory, strengths)

    def _from(self, end: str, slots: Tensor, back: bool = False) -> Tensor:
        """Numbers of slots ``[*B, N]`` in their order from an end, or from there back."""
        if len(self.pushes) == 1:
            # In the order of the steps, the last one at the top.
            return slots.flip(-1) if end == TOP else slots
        # The last bottom, ..., the first bottom, the first top, ..., the last top.
        if not back:
            bottom, top = slots.unflatten(-1, (-1, 2)).unbind(-1)
            ordered = torch.cat([bottom.flip(-1), top], -1)
            return ordered.flip(-1) if end == TOP else ordered
        ordered = slots.flip(-1) if end == TOP else slots
        bottom, top = ordered.chunk(2, -1)
        return torch.stack([bottom.flip(-1), top], -1).flatten(-2)

    def choose(self, mask: Tensor, new: NeuralState, old: NeuralState) -> NeuralState:
        """The new state; a sequence that skips the step has pushed and popped nothing."""
        # A tensor has one length for the whole batch, so the memory grows for all sequences.
        more = new.strengths.shape[-1] - old.strengths.shape[-1]
        same = nn.functional.pad(old.strengths, (0, more))
        return NeuralState(new.memory, torch.where(mask.view(-1, 1, 1), new.strengths, same))


def _named(action: str, ends: tuple[str, ...]) -> list[str]:
    return [action] if len(ends) == 1 else [f"{action} {end}" for end in ends]


class NeuralStack(Strengths):
    """Stacks with strengths, pushed, popped and read at the top; see :class:`Strengths`.

    Args:
        width: W, the width of an element, at least 1.
        count: number of stacks, at least 1.
        push_bias: see :class:`Strengths`.
        pop_bias: see :class:`Strengths`.
        noise: see :class:`Strengths`.
    """

    pushes = pops = reads = (TOP,)


class NeuralQueue(Strengths):
    """Queues with strengths, pushed at one end, popped and read at the other.

    See :class:`Strengths`. An element that is pushed onto an empty queue is read in the same step.

    Args:
        width: W, the width of an element, at least 1.
        count: number of queues, at least 1.
        push_bias: see :class:`Strengths`.
        pop_bias: see :class:`Strengths`.
        noise: see :class:`Strengths`.
    """

    pushes = (TOP,)
    pops = reads = (BOTTOM,)


class NeuralDeque(Strengths):
    """Deques with strengths, pushed, popped and read at both ends; see :class:`Strengths`.

    A step pops at the top, then at the bottom, then pushes at both ends, and reads both: first the
    bottom, then the top.

    Args:
        width: W, the width of an element, at least 1.
        count: number of deques, at least 1.
        push_bias: see :class:`Strengths`.
        pop_bias: see :class:`Strengths`.
        noise: see :class:`Strengths`.
    """

    pushes = pops = reads = (BOTTOM, TOP)
