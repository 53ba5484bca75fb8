"""A step of the DNC's memory, forward and backward.

The twin of :meth:`memnets.memories.DNC.step`. The time of a step with a small batch depends on the
number of operations alone, so the code below saves operations. In a large batch the links,
``[B, N, N]``, take most of the time, so the code passes over them as rarely as it can.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from memnets import fast
from memnets.addressing import Allocating, Linked
from memnets.kernels.parts import (
    Content,
    PointedKeys,
    constant,
    content,
    content_gradient,
    cosine_epsilon,
    key_gradients,
    pointed_keys,
    products_of_others,
    slot_scales,
    softmax_gradient,
)
from memnets.kernels.steps import KERNELS, step
from memnets.memories.dnc import DNC, DNCLayout, DNCState

__all__ = ["DNCKernel", "kernel"]


@lru_cache(maxsize=64)
def _later(slots: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Matrix ``[N, N]``; ``x @ _later`` is, for each slot, the sum of x over all later slots."""
    return torch.ones(slots, slots, dtype=dtype, device=device).tril(-1)


class DNCKernel(NamedTuple):
    """The :class:`~memnets.kernels.steps.StepKernel` of a DNC (Graves et al. 2016).

    A step writes, then reads. The state is M ``[B, N, W]``, u ``[B, N]``, p ``[B, N]``,
    L ``[B, N, N]``, w^w ``[B, N]`` and w^r ``[B, R, N]``. A step adds ``1 / |M|`` at the end, so
    that the next step need not compute it again.

    Attributes:
        layout: layout of the interface.
        cosine_epsilon: added inside the roots of the cosine.
        usage_epsilon: see :func:`memnets.functional.allocation`.
    """

    layout: DNCLayout
    cosine_epsilon: float
    usage_epsilon: float = 1e-6

    def forward(
        self, interface: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """One step; see :class:`~memnets.kernels.steps.StepKernel`."""
        (reads, width), cosine_epsilon, usage_epsilon = self
        memory, usage, precedence, link, written, weights, *known = state
        batch, _ = usage.shape
        one = constant(1.0, usage.dtype, usage.device)
        raw_keys, raw_strengths, raw_unit, raw_modes, add = interface.split_with_sizes(
            self.layout.sizes, -1
        )
        raw_strengths = raw_strengths.unsqueeze(-1)
        strengths = torch.nn.functional.softplus(raw_strengths).add_(one)
        keys = pointed_keys(raw_keys.view(batch, reads + 1, width), strengths, cosine_epsilon)
        read_keys, write_key = keys.pointed.split_with_sizes((reads, 1), 1)
        unit = raw_unit.sigmoid()
        free_gates, allocation_gate, write_gate, erase = unit.split_with_sizes(
            (reads, 1, 1, width), -1
        )
        modes = raw_modes.view(batch, reads, 3).softmax(-1)

        # Usage: u = (u + w - u w) psi. With ``one`` as a tensor, each line is one operation, and
        # lerp(u, 1, w) = u + w - u w.
        kept = torch.addcmul(one, free_gates.unsqueeze(-1), weights, value=-1.0)
        retention = kept.prod(1)
        filled = torch.lerp(usage, one, written)
        next_usage = filled * retention
        # Allocation: (1 - u) times the product of all earlier u equals that product minus the
        # next one. This saves a product, and a slot of usage 1 gets exactly 0.
        ordered, order = next_usage.sort(dim=-1, stable=True)
        used = torch.lerp(ordered, one, usage_epsilon)  # exactly 1 where u is
        after = used.cumprod(-1)
        before = after / used
        allocated = before - after
        allocation = ordered.scatter_(-1, order, allocated)
        # Write: M = M + w (v - e M), the same as M (1 - w e) + w v for a single head.
        scale = known[0] if known else slot_scales(memory, cosine_epsilon)
        sought = content(write_key, memory, scale)
        chosen = torch.lerp(sought.weights.squeeze(1), allocation, allocation_gate)
        next_written = write_gate * chosen
        row, column = next_written.unsqueeze(-1), next_written.unsqueeze(1)
        add, erase = add.unsqueeze(1), erase.unsqueeze(1)
        change = torch.addcmul(add, erase, memory, value=-1.0)
        next_memory = torch.addcmul(memory, row, change)
        # Links: L(i, j) = (1 - w(i) - w(j)) L(i, j) + w(i) p(j), as a lerp from L to p by w(i),
        # less w(j) L: two passes over [B, N, N], and no tensor of that size besides the result.
        next_link = torch.lerp(link, precedence.unsqueeze(1), row)
        next_link.addcmul_(link, column, value=-1.0).diagonal(dim1=-2, dim2=-1).zero_()
        rest = one - next_written.sum(-1, keepdim=True)
        next_precedence = torch.addcmul(next_written, rest, precedence)
        # Read. All three sources are stacked, so that the modes weigh them in one product; backward
        # needs the stack too.
        found = content(read_keys, next_memory, slot_scales(next_memory, cosine_epsilon))
        backward, forward = torch.bmm(weights, next_link), torch.bmm(weights, next_link.mT)
        sources = torch.stack([backward, found.weights, forward], 2)
        next_weights = (modes.unsqueeze(-1) * sources).sum(2)
        vectors = torch.bmm(next_weights, next_memory)

        next_state = (
            next_memory, next_usage, next_precedence, next_link, next_written, next_weights,
            found.slot_scale,
        )  # fmt: skip
        # Results that backward would have to compute again, and inputs that it needs.
        saved = (
            raw_strengths, unit, modes, kept, retention, filled, order, used, before, allocated,
            allocation, chosen, add, erase, rest, sources, memory, usage, precedence, link, written,
            weights, next_memory, next_link, next_written, next_weights, *keys, *sought, *found,
        )  # fmt: skip
        return vectors, next_state, saved

    def backward(
        self,
        saved: tuple[Tensor, ...],
        vectors_gradient: Tensor,
        state_gradient: tuple[Tensor, ...],
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Gradients of a step; see :class:`~memnets.kernels.steps.StepKernel`."""
        (
            raw_strengths, unit, modes, kept, retention, filled, order, used, before, allocated,
            allocation, chosen, add, erase, rest, sources, memory, usage, precedence, link, written,
            weights, next_memory, next_link, next_written, next_weights, *parts,
        ) = saved  # fmt: skip
        keys, sought, found = PointedKeys(*parts[:3]), Content(*parts[3:6]), Content(*parts[6:])
        (
            memory_gradient, usage_gradient, precedence_gradient, link_gradient, written_gradient,
            weights_gradient,
        ) = state_gradient  # fmt: skip
        (reads, width), _, usage_epsilon = self
        slots = usage.shape[-1]
        one = constant(1.0, usage.dtype, usage.device)
        read_keys, write_key = keys.pointed.split_with_sizes((reads, 1), 1)
        free_gates, allocation_gate, write_gate, _ = unit.split_with_sizes((reads, 1, 1, width), -1)
        row, column = next_written.unsqueeze(-1), next_written.unsqueeze(1)

        # Read. ``baddbmm`` without an underscore makes new tensors: arguments may not change.
        gradient = torch.baddbmm(weights_gradient, vectors_gradient, next_memory.mT).unsqueeze(2)
        memory_gradient = torch.baddbmm(memory_gradient, next_weights.mT, vectors_gradient)
        modes_gradient = softmax_gradient((sources * gradient).sum(-1), modes)
        backward_gradient, found_gradient, forward_gradient = gradient.mul(
            modes.unsqueeze(-1)
        ).unbind(2)
        read_key_gradient = content_gradient(
            found_gradient, found, read_keys, next_memory, memory_gradient
        )

        # Links. They take most of the time in a large batch: each line passes over them once. The
        # products of both reads, backward and forward, go into one product of matrices.
        previous_weights_gradient = torch.bmm(backward_gradient, next_link.mT)
        previous_weights_gradient.baddbmm_(forward_gradient, next_link)
        link_gradient = torch.baddbmm(
            link_gradient,
            torch.cat([weights, forward_gradient], 1).mT,
            torch.cat([backward_gradient, weights], 1),
        )
        # The forward pass set the diagonal to 0, so nothing flows back through it.
        link_gradient.diagonal(dim1=-2, dim2=-1).zero_()
        gradient = written_gradient + precedence_gradient
        gradient.unsqueeze(1).baddbmm_(precedence.unsqueeze(1), link_gradient.mT)
        previous_precedence_gradient = rest * precedence_gradient
        previous_precedence_gradient.unsqueeze(1).baddbmm_(column, link_gradient)
        previous_link_gradient = ((one - row) - column).mul_(link_gradient)
        # w enters the links by its row and by its column: -sum_j (dL L)(i, j) - sum_j (dL L)(j, i).
        product = link_gradient.mul_(link)
        gradient.sub_(product.sum(-1)).sub_(product.sum(-2))
        # Precedence: p = (1 - sum w) p + w.
        gradient.sub_((precedence_gradient * precedence).sum(-1, keepdim=True))

        # Write. ``gradient`` is that of w^w from here on, then that of the weights by content.
        product = memory_gradient * memory
        add_gradient = torch.bmm(column, memory_gradient)
        erase_gradient = torch.bmm(column, product)
        gradient = gradient.unsqueeze(1).baddbmm_(add, memory_gradient.mT)
        gradient = gradient.baddbmm_(erase, product.mT, alpha=-1.0).squeeze(1)
        memory_gradient.addcmul_(erase, row * memory_gradient, value=-1.0)
        write_gate_gradient = (gradient * chosen).sum(-1, keepdim=True)
        gradient.mul_(write_gate)
        allocation_gate_gradient = allocation.sub(sought.weights.squeeze(1)).mul_(gradient)
        allocation_gate_gradient = allocation_gate_gradient.sum(-1, keepdim=True)
        allocation_gradient = gradient * allocation_gate
        gradient.sub_(allocation_gradient)
        write_key_gradient = content_gradient(
            gradient.unsqueeze(1), sought, write_key, memory, memory_gradient
        )

        # Allocation. A slot's usage is a factor of all later products. Their sum is computed as a
        # sum, not as the total minus the earlier ones: it is divided by a usage that may be tiny,
        # and the division would enlarge the error of a difference.
        ordered_gradient = allocation_gradient.gather(-1, order)
        later = torch.mm(ordered_gradient * allocated, _later(slots, used.dtype, used.device))
        ordered_gradient.mul_(before).addcdiv_(later, used, value=-1.0)
        free_gradient = later.scatter_(-1, order, ordered_gradient)
        # Usage. Free slots are (1 - epsilon) (1 - u), which is where the factor comes from.
        gradient = torch.sub(usage_gradient, free_gradient, alpha=1 - usage_epsilon)
        kept_gradient = (gradient * filled).unsqueeze(1)
        gradient.mul_(retention)
        previous_usage_gradient = torch.addcmul(gradient, gradient, written, value=-1.0)
        previous_written_gradient = torch.addcmul(gradient, gradient, usage, value=-1.0)
        # Retention is a product over the read heads; with one head there are no other factors.
        if reads > 1:
            kept_gradient = products_of_others(kept).mul_(kept_gradient)
        free_gates_gradient = (kept_gradient * weights).sum(-1)
        previous_weights_gradient.addcmul_(kept_gradient, free_gates.unsqueeze(-1), value=-1.0)

        key_gradient, strengths_gradient = key_gradients(
            torch.cat([read_key_gradient, write_key_gradient], 1), keys
        )
        unit_gradient = torch.cat(
            [
                free_gates_gradient.neg_(),
                allocation_gate_gradient,
                write_gate_gradient,
                erase_gradient.squeeze(1).neg_(),
            ],
            -1,
        )
        interface_gradient = torch.cat(
            [
                key_gradient.flatten(1),
                strengths_gradient.mul_(raw_strengths.sigmoid()).squeeze(-1),
                unit_gradient.mul_(torch.addcmul(unit, unit, unit, value=-1.0)),
                modes_gradient.flatten(1),
                add_gradient.squeeze(1),
            ],
            -1,
        )
        return interface_gradient, (
            memory_gradient, previous_usage_gradient, previous_precedence_gradient,
            previous_link_gradient, previous_written_gradient, previous_weights_gradient,
        )  # fmt: skip


def kernel(memory: DNC) -> DNCKernel | None:
    """The kernel of a memory with its present settings, or ``None`` for other addressings."""
    epsilon = cosine_epsilon(memory.writing, Allocating)
    if epsilon is None or epsilon != cosine_epsilon(memory.reading, Linked):
        return None
    if memory.writing.hard or memory.reading.hard:
        return None
    # A size that the interface was not made for is the definition's to tell.
    if memory.layout != (memory.read_heads, memory.width):
        return None
    return DNCKernel(memory.layout, epsilon)


@fast.twin(DNC, "step", reads=lambda memory, inputs, state: kernel(memory))
def _step(memory: DNC, inputs: Tensor, state: DNCState, read: DNCKernel) -> tuple[Tensor, DNCState]:
    vectors, next_state = step(read, inputs, state, memory)
    return vectors.flatten(1), DNCState(*next_state)


KERNELS[DNC] = kernel
