"""The memory of the Neural Turing Machine (Graves, Wayne & Danihelka 2014)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from memnets import functional
from memnets.addressing import NTMAddressing, NTMQuery
from memnets.checks import check_finite, check_positive
from memnets.core import Addressing, Memory, Score
from memnets.events import offer, report
from memnets.memories.slotted import Noisy, Slotted

__all__ = ["NTM", "NTMLayout", "NTMState"]


class NTMState(NamedTuple):
    """State of an :class:`NTM`.

    Attributes:
        memory: M_t, ``[B, N, W]``.
        weights: w_t of all heads, read heads first, ``[B, H, N]``.
    """

    memory: Tensor
    weights: Tensor


class NTMLayout(NamedTuple):
    """Layout of the interface of an :class:`NTM`.

    Keys, strengths, sharpnesses, gates, erases, shifts, adds, in this order.

    Attributes:
        read_heads: number of read heads; they come before the write heads.
        write_heads: number of write heads, at least 1.
        width: W, the width of a slot.
        shift_range: S, the size of the shift kernel, odd.
        least_sharpness: lower bound of gamma, at least 1.
    """

    read_heads: int
    write_heads: int
    width: int
    shift_range: int
    least_sharpness: float = 1.0

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """Widths of the five parts of the interface.

        They are the keys; the strengths and sharpnesses (softplus); the gates and erases (sigmoid);
        the shifts (softmax); and the adds.
        """
        heads = self.read_heads + self.write_heads
        return (
            heads * self.width,
            2 * heads,
            heads + self.write_heads * self.width,
            heads * self.shift_range,
            self.write_heads * self.width,
        )


def _by_head(name: str, given: float | Sequence[float], heads: int) -> tuple[float, ...]:
    """A bias of each head.

    Args:
        name: name of the setting, for the message.
        given: one for all heads, or one for each.
        heads: number of heads.

    Raises:
        ValueError: there are more or fewer, or one is not finite.
    """
    numbers = (given,) * heads if isinstance(given, int | float) else tuple(map(float, given))
    if len(numbers) != heads or not all(map(math.isfinite, numbers)):
        raise ValueError(
            f"{name} must be a finite number, or one for each of the {heads} heads; got {given}"
        )
    return numbers


class NTM(Noisy, Slotted[NTMState]):
    """N x W memory with any number of read and write heads (Graves et al. 2014, section 3).

    In each step all heads address the memory that the last step left. Then the read heads read it,
    and then the write heads write: all erase, then all add. So a step cannot read what it has
    written. This is the order of pytorch-ntm; the DNC writes first.

    A *hard* machine addresses one slot with each head: its weights are exact ones and zeros, with
    the gradient of the weights of the paper (:func:`memnets.functional.harden`). Where no gradient
    is recorded, a step of it takes the same time for any number of slots, unless a head looks for
    content (:mod:`memnets.kernels.hard`).

    ``slots``, ``least_sharpness``, ``noise`` and ``hard`` may be changed at any time.

    Args:
        slots: N, the number of slots, at least ``shift_range``.
        width: W, the width of a slot, at least 1.
        read_heads: number of read heads, at least 1.
        write_heads: number of write heads, at least 1.
        shift_range: size of the shift kernel, odd; 3 allows moves by -1, 0 and 1.
        score: similarity of a key and a slot; cosine by default.
        initial_value: initial value of every number in the memory.
        initial_spread: spread of the initial slots, see
            :class:`~memnets.memories.slotted.Slotted`.
        least_sharpness: lower bound of the sharpness gamma, at least 1. Above 1, every step undoes
            some blur, so that a head keeps its place over many steps.
        noise: standard deviation of Gaussian noise on the interface in training, at least 0. Gates
            and shifts learn to saturate against the noise (Salakhutdinov & Hinton 2009, section 3).
            Heads then keep their places on sequences far longer than those in training.
        strength_bias: number added to the initial bias of the strengths, before the softplus; above
            0, content addressing is sharp from the start. This and the biases below may have a
            number for each head, read heads first.
        gate_bias: number added to the initial bias of the gates, before the sigmoid; below 0, a
            head keeps its place until it learns to use content.
        stay_bias: number added to the initial bias of the shift by 0, before the softmax; above 0,
            a head stays in place until it learns to move.
        move_bias: number added to the initial bias of the shift by 1, before the softmax; above 0,
            a head goes on to the next slot at each step until it learns to stay.
        alike: whether the keys begin with the weights of the adds: head number i with those of
            write head i, counted around. A head that looks for content then finds from the start
            what an input like the present one has written. All are learned on their own.
        hard: whether the weights are one-hot.

    Raises:
        ValueError: a size is out of its range, or biases are not finite or not one for each head.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "read": "r = Σ_i w(i) M_{t-1}(i)\n(Graves et al. 2014, equation 2)",
        "write": "every head erases, then every head adds\n(Graves et al. 2014, section 3.2)",
        "memory": "M_t(i) = M_{t-1}(i) Π_h (1 - w_h(i) e_h) + Σ_h w_h(i) a_h"
        "\n(Graves et al. 2014, equations 3 and 4)",
    }

    def __init__(
        self,
        slots: int = 128,
        width: int = 20,
        read_heads: int = 1,
        write_heads: int = 1,
        shift_range: int = 3,
        score: Score | None = None,
        initial_value: float = 1e-6,
        initial_spread: float = 0.0,
        least_sharpness: float = 1.0,
        noise: float = 0.0,
        strength_bias: float | Sequence[float] = 0.0,
        gate_bias: float | Sequence[float] = 0.0,
        stay_bias: float | Sequence[float] = 0.0,
        move_bias: float | Sequence[float] = 0.0,
        alike: bool = False,
        hard: bool = False,
    ) -> None:
        super().__init__(slots, width, {"shift_range": shift_range}, initial_value, initial_spread)
        check_positive(read_heads=read_heads, write_heads=write_heads, shift_range=shift_range)
        if shift_range % 2 == 0:
            raise ValueError(
                f"shift_range must be odd, as many slots either side; got {shift_range}"
            )
        heads = read_heads + write_heads
        self.noise = noise
        self.strength_bias = _by_head("strength_bias", strength_bias, heads)
        self.gate_bias = _by_head("gate_bias", gate_bias, heads)
        self.stay_bias = _by_head("stay_bias", stay_bias, heads)
        self.move_bias = _by_head("move_bias", move_bias, heads)
        if shift_range < 3 and any(self.move_bias):
            raise ValueError(
                f"move_bias needs a shift_range of at least 3, for a shift by 1; got {shift_range}"
            )
        self.alike = alike
        self.read_heads = read_heads
        self.write_heads = write_heads
        self.shift_range = shift_range
        self.read_size = read_heads * width
        self.addressing = NTMAddressing(score)
        self.layout = NTMLayout(read_heads, write_heads, width, shift_range)
        self.least_sharpness = least_sharpness
        self.hard = hard
        self.interface_size = sum(self.layout.sizes)

    @property
    def least_sharpness(self) -> float:
        """Lower bound of the sharpness gamma, at least 1."""
        return self.layout.least_sharpness

    @least_sharpness.setter
    def least_sharpness(self, least_sharpness: float) -> None:
        check_finite(least=1, least_sharpness=least_sharpness)
        self.layout = self.layout._replace(least_sharpness=least_sharpness)

    def head_names(self) -> dict[Addressing, list[str]]:
        """Names of the heads, for pictures: read heads first."""
        reads = [f"read {head + 1}" for head in range(self.read_heads)]
        writes = [f"write {head + 1}" for head in range(self.write_heads)]
        return {self.addressing: reads + writes}

    def initial_state(self, batch_size: int) -> NTMState:
        """Initial memory, with all heads on the first slot.

        The slots are equal without a spread. Equal slots *and* equal weights would give every slot
        the same gradient, and the machine would hardly learn.
        """
        memory = self.first_memory(batch_size)
        first = self.addressing.initial_state(Memory(memory, memory))
        return NTMState(memory, first.expand(-1, self.read_heads + self.write_heads, -1))

    def interface_bias(self) -> Tensor:
        """The biases of the settings at their places, ``[interface_size]``; 0 elsewhere."""
        heads = self.read_heads + self.write_heads
        bias = self.first_row.new_zeros(self.interface_size)
        _, positive, unit, shift, _ = bias.split(self.layout.sizes)
        positive[:heads] = bias.new_tensor(self.strength_bias)
        unit[:heads] = bias.new_tensor(self.gate_bias)
        stay = self.shift_range // 2
        moves = shift.view(heads, self.shift_range)
        moves[:, stay] = bias.new_tensor(self.stay_bias)
        moves[:, stay + 1 : stay + 2] = bias.new_tensor(self.move_bias).view(-1, 1)
        return bias

    def interface_copies(self) -> Tensor | None:
        """The keys begin as copies of the adds, if they are to be alike."""
        if not self.alike:
            return None
        copies = torch.arange(self.interface_size)
        keys, *_, adds = copies.split(self.layout.sizes)
        heads = torch.arange(self.read_heads + self.write_heads) % self.write_heads
        keys.copy_(adds.view(self.write_heads, self.width)[heads].flatten())
        return copies

    def queries(self, interface: Tensor) -> tuple[NTMQuery, Tensor, Tensor]:
        """Split the interface into queries and writes, each part mapped into its range.

        Args:
            interface: ``[B, interface_size]``.

        Returns:
            Queries of all heads, read heads first; erase in ``[0, 1]`` and add, both
            ``[B, write_heads, W]``.
        """
        heads = self.read_heads + self.write_heads
        keys, positive, unit, shift, add = interface.split(self.layout.sizes, -1)
        positive = nn.functional.softplus(positive)
        unit = unit.sigmoid()
        query = NTMQuery(
            key=keys.unflatten(-1, (heads, self.width)),
            strength=positive[..., :heads].unsqueeze(-1),
            gate=unit[..., :heads].unsqueeze(-1),
            shift=shift.unflatten(-1, (heads, self.shift_range)).softmax(-1),
            sharpness=self.layout.least_sharpness + positive[..., heads:].unsqueeze(-1),
        )
        erase = unit[..., heads:].unflatten(-1, (self.write_heads, self.width))
        return query, erase, add.unflatten(-1, (self.write_heads, self.width))

    def forward(self, interface: Tensor, state: NTMState) -> tuple[Tensor, NTMState]:
        """One step: ``[B, interface_size] -> [B, read_heads * W]``."""
        before, previous = state
        query, erase, add = self.queries(self.noisy(interface))
        erase, add = offer(self, "erase", erase), offer(self, "add", add)
        weights, previous = self.addressing(query, Memory(before, before), previous)
        read, write = weights.tensor_split((self.read_heads,), 1)
        vectors = functional.read(read, before)
        memory = functional.erase_add(before, write, erase, add)
        report(self, read=read, write=write, erase=erase, add=add, before=before, memory=memory)
        return vectors.flatten(1), NTMState(memory, previous)
