"""A step of the NTM's memory, forward and backward.

The twin of :meth:`memnets.memories.NTM.step`. The backward pass is written out in the reverse order
of the forward pass. It adds the gradient of the memory, its largest tensor, in place.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from memnets import fast, functional
from memnets.addressing import NTMAddressing
from memnets.kernels.parts import (
    Content,
    PointedKeys,
    content,
    content_gradient,
    cosine_epsilon,
    key_gradients,
    pointed_keys,
    slot_scales,
    softmax_gradient,
)
from memnets.kernels.steps import KERNELS, step
from memnets.memories.ntm import NTM, NTMLayout, NTMState

__all__ = ["NTMKernel", "kernel"]


@lru_cache(maxsize=64)
def _windows(slots: int, size: int, sign: int, device: torch.device) -> Tensor:
    """Slots ``i + sign (j - size // 2)`` on the circle, for all i and all j: ``[N * S]``."""
    # Cached: it depends on sizes alone, and would take five small operations in each step.
    move = sign * (torch.arange(size, device=device) - size // 2)
    return ((torch.arange(slots, device=device).unsqueeze(1) + move) % slots).flatten()


def _kept(weights: Tensor, erase: Tensor) -> list[Tensor]:
    """Shares that the first head leaves of each number, the first two, and so on.

    ``prod_h (1 - w_h e_h)``, one head at a time: a tensor of all heads together would not fit into
    the processor's cache.

    Args:
        weights: w, ``[B, H, N]``.
        erase: e, ``[B, H, W]``.

    Returns:
        H tensors ``[B, N, W]``.
    """
    shares: list[Tensor] = []
    for weight, vector in zip(weights.split(1, 1), erase.split(1, 1), strict=True):
        if not shares:
            shares.append(torch.bmm(weight.mT, vector).neg_().add_(1))
        else:
            last = shares[-1]
            shares.append(torch.addcmul(last, last * weight.mT, vector, value=-1.0))
    return shares


class NTMKernel(NamedTuple):
    """The :class:`~memnets.kernels.steps.StepKernel` of an NTM (Graves et al. 2014).

    A step addresses, reads, then writes. The state is M ``[B, N, W]`` and w ``[B, H, N]``.

    Attributes:
        layout: layout of the interface.
        epsilon: added inside the roots of the cosine.
        noise: standard deviation of Gaussian noise on the interface.
        hard: whether the weights are one-hot, with the gradient of the shifted ones.
    """

    layout: NTMLayout
    epsilon: float
    noise: float = 0.0
    hard: bool = False

    def forward(
        self, interface: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """One step; see :class:`~memnets.kernels.steps.StepKernel`."""
        (reads, writes, width, size, least_sharpness), epsilon, noise, hard = self
        memory, previous = state
        batch, heads, slots = previous.shape
        if noise:
            interface = interface + noise * torch.randn_like(interface)
        # The layout puts numbers of the same range side by side: one softplus and one sigmoid
        # serve all heads.
        raw_keys, raw_positive, raw_unit, raw_shift, add = interface.split(self.layout.sizes, -1)
        positive = torch.nn.functional.softplus(raw_positive)
        strength, sharpness = positive.view(batch, 2, heads, 1).unbind(1)
        sharpness = sharpness + least_sharpness
        unit = raw_unit.sigmoid()
        gate, erase = unit.split((heads, writes * width), -1)
        gate, erase = gate.unsqueeze(-1), erase.view(batch, writes, width)
        shift = raw_shift.view(batch, heads, size).softmax(-1)
        add = add.view(batch, writes, width)

        # Content, interpolate, shift.
        keys = pointed_keys(raw_keys.view(batch, heads, width), strength, epsilon)
        addressed = content(keys.pointed, memory, slot_scales(memory, epsilon))
        gated = torch.lerp(previous, addressed.weights, gate)
        # A gather and a product of matrices: faster than a convolution with a kernel per row.
        index = _windows(slots, size, -1, gated.device)
        windows = gated.index_select(-1, index).view(batch * heads, slots, size)
        shifted = torch.bmm(windows, shift.view(batch * heads, size, 1)).view_as(gated)
        # Sharpen: w = softmax(gamma log u). A plain power would underflow; log 0 would be -inf.
        shifted.add_(torch.finfo(shifted.dtype).tiny)
        logarithm = shifted.log()
        weights = functional.harden(shifted) if hard else (logarithm * sharpness).softmax(-1)
        # Read, then write.
        reading, writing = weights.split((reads, writes), 1)
        vectors = torch.bmm(reading, memory)
        erased = torch.bmm(writing.mT, erase) if writes == 1 else 1 - _kept(writing, erase)[-1]
        # The first operation makes a new tensor: backward still needs the old memory.
        next_memory = torch.addcmul(memory, memory, erased, value=-1.0)
        next_memory.baddbmm_(writing.mT, add)

        # Results that backward would have to compute again, and inputs that it needs.
        saved = (
            raw_positive, unit, sharpness, gate, erase, shift, add, windows, shifted, logarithm,
            weights, erased, memory, previous, *keys, *addressed,
        )  # fmt: skip
        return vectors, (next_memory, weights), saved

    def backward(
        self,
        saved: tuple[Tensor, ...],
        vectors_gradient: Tensor,
        state_gradient: tuple[Tensor, ...],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Gradients of a step; see :class:`~memnets.kernels.steps.StepKernel`."""
        (
            raw_positive, unit, sharpness, gate, erase, shift, add, windows, shifted, logarithm,
            weights, erased, memory, previous, *parts,
        ) = saved  # fmt: skip
        keys, addressed = PointedKeys(*parts[:3]), Content(*parts[3:])
        memory_gradient, weights_gradient = state_gradient
        reads, writes, _, size, _ = self.layout
        batch, heads, slots = previous.shape
        reading, writing = weights.split((reads, writes), 1)

        # Write: M_t = M prod_h (1 - w_h e_h) + sum_h w_h a_h.
        product = memory_gradient * memory
        add_gradient = torch.bmm(writing, memory_gradient)
        writing_gradient = torch.bmm(add, memory_gradient.mT)
        if writes == 1:
            erase_gradient = torch.bmm(writing, product)
            writing_gradient.baddbmm_(erase, product.mT, alpha=-1.0)
        else:
            # By products of the other heads, those before a head and those after it: division by a
            # head's own factor fails where it is 0.
            before, after = _kept(writing[:, :-1], erase[:, :-1]), product
            erase_gradients = []
            for head in reversed(range(writes)):
                weight, vector = writing[:, head : head + 1], erase[:, head : head + 1]
                others = before[head - 1] * after if head else after
                erase_gradients.append(torch.bmm(weight, others))
                writing_gradient[:, head : head + 1].baddbmm_(vector, others.mT, alpha=-1.0)
                if head:
                    after = torch.addcmul(after, after * weight.mT, vector, value=-1.0)
            erase_gradient = torch.cat(erase_gradients[::-1], 1)
        # A new tensor: the argument may not change. From here on the gradient is summed in place.
        memory_gradient = torch.addcmul(memory_gradient, memory_gradient, erased, value=-1.0)

        # Read: r = w M.
        reading_gradient = torch.bmm(vectors_gradient, memory.mT)
        memory_gradient.baddbmm_(reading.mT, vectors_gradient)

        # Sharpen. The weights have three gradients: of the read, the write and the next step.
        gradient = torch.cat([reading_gradient, writing_gradient], 1).add_(weights_gradient)
        if self.hard:
            # The choice counts as the identity, and has no sharpness.
            sharpness_gradient = torch.zeros_like(sharpness).squeeze(-1)
        else:
            gradient = softmax_gradient(gradient, weights)
            sharpness_gradient = (gradient * logarithm).sum(-1)
            gradient = gradient.mul_(sharpness).div_(shifted)

        # Shift. The gradient of a circular convolution is one with the kernel turned round, so the
        # windows run the other way.
        shift_gradient = torch.bmm(gradient.view(batch * heads, 1, slots), windows)
        shift_gradient = softmax_gradient(shift_gradient.view_as(shift), shift)
        index = _windows(slots, size, 1, gradient.device)
        windows = gradient.index_select(-1, index).view(batch * heads, slots, size)
        gradient = torch.bmm(windows, shift.view(batch * heads, size, 1)).view_as(weights)

        # Interpolate: u = g c + (1 - g) w_{t-1}; then content.
        gate_gradient = (gradient * (addressed.weights - previous)).sum(-1)
        looked_gradient = gradient * gate
        previous_gradient = gradient.sub_(looked_gradient)
        pointed_gradient = content_gradient(
            looked_gradient, addressed, keys.pointed, memory, memory_gradient
        )
        key_gradient, strength_gradient = key_gradients(pointed_gradient, keys)

        # The slope of softplus(x) is sigmoid(x); that of y = sigmoid(x) is y - y^2.
        positive_gradient = torch.cat([strength_gradient.squeeze(-1), sharpness_gradient], -1)
        positive_gradient.mul_(raw_positive.sigmoid())
        unit_gradient = torch.cat([gate_gradient, erase_gradient.flatten(1).neg_()], -1)
        unit_gradient.mul_(torch.addcmul(unit, unit, unit, value=-1.0))
        interface_gradient = torch.cat(
            [
                key_gradient.flatten(1),
                positive_gradient,
                unit_gradient,
                shift_gradient.flatten(1),
                add_gradient.flatten(1),
            ],
            -1,
        )
        return interface_gradient, (memory_gradient, previous_gradient)


def kernel(memory: NTM) -> NTMKernel | None:
    """The kernel of a memory with its present settings, or ``None`` for other addressings."""
    epsilon = cosine_epsilon(memory.addressing, NTMAddressing)
    if epsilon is None:
        return None
    # A size that the interface was not made for is the definition's to tell.
    sizes = memory.read_heads, memory.write_heads, memory.width, memory.shift_range
    if memory.layout[:4] != sizes:
        return None
    noise = memory.noise if memory.training else 0.0
    return NTMKernel(memory.layout, epsilon, noise, memory.addressing.hard)


@fast.twin(NTM, "step", reads=lambda memory, inputs, state: kernel(memory), hard=True)
def _step(memory: NTM, inputs: Tensor, state: NTMState, read: NTMKernel) -> tuple[Tensor, NTMState]:
    vectors, next_state = step(read, inputs, state, memory)
    return vectors.flatten(1), NTMState(*next_state)


KERNELS[NTM] = kernel
