"""Stacks that are pushed and popped by degrees (Joulin & Mikolov 2015)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

from torch import Tensor

from memnets import functional
from memnets.checks import check_positive
from memnets.events import offer, report
from memnets.memories.slotted import Noisy, Slotted

__all__ = ["ACTIONS", "Stack", "StackState"]

#: What a stack can do in a step, in the order of its interface.
ACTIONS = ("push", "pop", "keep")


class StackState(NamedTuple):
    """State of a :class:`Stack`.

    Attributes:
        memory: the stacks side by side, top first, ``[B, N, stacks * W]``.
    """

    memory: Tensor


class Stack(Noisy, Slotted[StackState]):
    """Stacks of vectors, each pushed, popped or kept by degrees (Joulin & Mikolov 2015, section 3).

    In each step, a stack takes three actions at once, each to a degree; the degrees are a softmax,
    and the new stack is the mean of the three stacks that the actions alone would give. With a
    degree of 1 it is a stack as everywhere in programming. A push puts the sigmoid of a part of the
    interface on top. Then the machine reads the ``visible`` topmost elements of each stack, so a
    step can read what it has pushed.

    A stack has room for N elements: a push onto a full stack loses the lowest one. Under the
    elements lies the initial value, as deep as one may pop. In the paper elements are numbers
    (``width=1``), and stacks grow without end.

    The stacks lie side by side: a slot is one depth of all of them, ``stacks * W`` wide, and the
    attribute ``width`` is this width. ``slots`` and ``noise`` may be changed at any time.

    Args:
        slots: N, room of a stack, at least ``visible``.
        width: W, the width of an element, at least 1.
        stacks: number of stacks, each with actions of its own, at least 1.
        visible: number of topmost elements of a stack that a step reads, at least 1.
        initial_value: value of every number of an empty stack.
        noise: standard deviation of Gaussian noise on the actions in training, before their
            softmax, at least 0. The actions learn to be near 0 or 1 against it, so that a stack
            stays whole over sequences far longer than those in training.

    Raises:
        ValueError: a number is out of its range.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "memory": "s_t(0) = a(push) v + a(pop) s_{t-1}(1) + a(keep) s_{t-1}(0)\n"
        "s_t(i) = a(push) s_{t-1}(i-1) + a(pop) s_{t-1}(i+1) + a(keep) s_{t-1}(i)"
        "\n(Joulin & Mikolov 2015, section 3)",
        "actions": "a = softmax(A h): push, pop, keep\n(Joulin & Mikolov 2015, section 3)",
        "pushed": "v = sigmoid(D h)\n(Joulin & Mikolov 2015, section 3)",
    }

    def __init__(
        self,
        slots: int = 32,
        width: int = 20,
        stacks: int = 1,
        visible: int = 1,
        initial_value: float = 0.0,
        noise: float = 0.0,
    ) -> None:
        check_positive(stacks=stacks, width=width, visible=visible)
        super().__init__(slots, stacks * width, {"visible": visible}, initial_value)
        self.noise = noise
        self.stacks = stacks
        self.visible = visible
        self.read_heads = visible * stacks
        self.read_size = self.read_heads * width
        self.interface_size = stacks * (len(ACTIONS) + width)

    def field_names(self, field: str, size: int) -> Sequence[str]:
        """Names of the numbers that a stack reports, for pictures: of its actions."""
        return ACTIONS if field == "actions" else super().field_names(field, size)

    def initial_state(self, batch_size: int) -> StackState:
        """Empty stacks."""
        return StackState(self.first_memory(batch_size))

    def forward(self, interface: Tensor, state: StackState) -> tuple[Tensor, StackState]:
        """One step: ``[B, interface_size] -> [B, visible * stacks * W]``."""
        actions, pushed = interface.split((self.stacks * len(ACTIONS), self.width), -1)
        actions = self.noisy(actions).unflatten(-1, (self.stacks, len(ACTIONS))).softmax(-1)
        pushed = pushed.sigmoid().unflatten(-1, (self.stacks, -1))
        actions, pushed = offer(self, "actions", actions), offer(self, "pushed", pushed)
        # Each number of a stack's elements shares its actions: [B, 3, stacks * W].
        degrees = actions.mT.repeat_interleave(pushed.shape[-1], -1)
        memory = functional.push_pop(state.memory, degrees, pushed.flatten(1), self.first_row)
        tracked = {"before": state.memory, "memory": memory}
        report(self, actions=actions, pushed=pushed, **tracked)
        return memory[:, : self.visible].flatten(1), StackState(memory)
