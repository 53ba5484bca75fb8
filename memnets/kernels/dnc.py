"""A step of the DNC's memory as one node of the autograd graph.

Its naive twin is :meth:`memnets.memories.DNC.forward` within :func:`memnets.kernels.naive`. As with
the NTM, eager PyTorch spends most of a small step between its operations; of a great one, the links
take most, through which the plain definition goes many more times than there is need.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from memnets.kernels.parts import (
    Content,
    content,
    content_gradient,
    key_gradients,
    key_scales,
    products_of_others,
    softmax_gradient,
)

__all__ = ["DNCLayout", "step"]


class DNCLayout(NamedTuple):
    """How an interface is laid out: keys, strengths, gates and erase, modes, add.

    Attributes:
        read_heads: at least 1; they come before the write head.
        width: W.
    """

    read_heads: int
    width: int

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """Width of the keys; of what goes through oneplus; sigmoid; softmax; and of the add.

        Through the sigmoid go the free gates, the allocation gate, the write gate and the erase.
        """
        heads = self.read_heads + 1
        return (
            heads * self.width,
            heads,
            self.read_heads + 2 + self.width,
            3 * self.read_heads,
            self.width,
        )


def step(
    interface: Tensor,
    state: tuple[Tensor, ...],
    layout: DNCLayout,
    cosine_epsilon: float,
    usage_epsilon: float = 1e-6,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Write, then read.

    Args:
        interface: ``[B, sum(layout.sizes)]``.
        state: M ``[B, N, W]``, u ``[B, N]``, p ``[B, N]``, L ``[B, N, N]``, w^w ``[B, N]`` and w^r
            ``[B, R, N]``, of the step before.
        layout: how the interface is laid out.
        cosine_epsilon: inside the roots of the cosine.
        usage_epsilon: see :func:`memnets.functional.allocation`.

    Returns:
        What was read, ``[B, R, W]``, and the next state.
    """
    vectors, *state = _Step.apply(interface, *state, layout, cosine_epsilon, usage_epsilon)  # type: ignore[no-untyped-call]
    return vectors, tuple(state)


class _Step(torch.autograd.Function):
    """Letters as in Graves et al. 2016."""

    @staticmethod
    def forward(
        ctx: Any,
        interface: Tensor,
        memory: Tensor,
        usage: Tensor,
        precedence: Tensor,
        link: Tensor,
        written: Tensor,
        weights: Tensor,
        layout: DNCLayout,
        cosine_epsilon: float,
        usage_epsilon: float,
    ) -> tuple[Tensor, ...]:
        reads, width = layout
        batch = len(interface)
        one = interface.new_ones(())  # of a number, PyTorch makes a tensor each time
        raw_keys, raw_strengths, raw_unit, raw_modes, add = interface.split_with_sizes(
            layout.sizes, -1
        )
        keys = raw_keys.view(batch, reads + 1, width)
        strengths = torch.nn.functional.softplus(raw_strengths).add_(one).unsqueeze(-1)
        key_scale = key_scales(keys, cosine_epsilon)
        scale = strengths * key_scale
        read_keys, write_key = keys.split_with_sizes((reads, 1), 1)
        read_scale, write_scale = scale.split_with_sizes((reads, 1), 1)
        unit = raw_unit.sigmoid()
        free_gates, allocation_gate, write_gate, erase = unit.split_with_sizes(
            (reads, 1, 1, width), -1
        )
        modes = raw_modes.view(batch, reads, 3).softmax(-1)
        back, by_content, on = modes.split_with_sizes((1, 1, 1), -1)

        # Usage: u = (u + w - u w) psi.
        kept = torch.addcmul(one, free_gates.unsqueeze(-1), weights, value=-1.0)
        retention = kept.prod(1)
        unused = one - usage
        filled = torch.addcmul(usage, unused, written)
        next_usage = filled * retention
        # Allocation.
        ordered, order = next_usage.sort(dim=-1, stable=True)
        free = (one - ordered).mul_(1 - usage_epsilon)
        used = one - free
        before = used.cumprod(-1).div_(used)
        allocation = torch.empty_like(free).scatter_(-1, order, free * before)
        # Write: M = M + w (v - e M).
        sought = content(write_key, write_scale, memory, cosine_epsilon)
        chosen = torch.lerp(sought.weights.squeeze(1), allocation, allocation_gate)
        next_written = write_gate * chosen
        row, column = next_written.unsqueeze(-1), next_written.unsqueeze(1)
        change = torch.addcmul(add.unsqueeze(1), erase.unsqueeze(1), memory, value=-1.0)
        next_memory = torch.addcmul(memory, row, change)
        # Links: L(i, j) = (1 - w(i) - w(j)) L(i, j) + w(i) p(j).
        next_link = ((one - row) - column).mul_(link).addcmul_(row, precedence.unsqueeze(1))
        next_link.diagonal(dim1=-2, dim2=-1).zero_()
        rest = one - next_written.sum(-1, keepdim=True)
        next_precedence = torch.addcmul(next_written, rest, precedence)
        # Read.
        found = content(read_keys, read_scale, next_memory, cosine_epsilon)
        forward = torch.bmm(weights, next_link.mT)
        backward = torch.bmm(weights, next_link)
        next_weights = (back * backward).addcmul_(by_content, found.weights)
        next_weights.addcmul_(on, forward)
        vectors = torch.bmm(next_weights, next_memory)

        ctx.reads, ctx.usage_epsilon = reads, usage_epsilon
        ctx.save_for_backward(
            one, raw_strengths, unit, strengths, modes, keys, key_scale, scale, kept, retention,
            unused, filled, order, free, used, before, allocation, chosen, change, rest, forward,
            backward, memory, precedence, link, written, weights, next_memory, next_link,
            next_written, next_weights, *sought, *found,
        )  # fmt: skip
        return (
            vectors, next_memory, next_usage, next_precedence, next_link, next_written, next_weights
        )  # fmt: skip

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        vectors_gradient: Tensor,
        memory_gradient: Tensor,
        usage_gradient: Tensor,
        precedence_gradient: Tensor,
        link_gradient: Tensor,
        written_gradient: Tensor,
        weights_gradient: Tensor,
    ) -> tuple[Tensor | None, ...]:
        (
            one, raw_strengths, unit, strengths, modes, keys, key_scale, scale, kept, retention,
            unused, filled, order, free, used, before, allocation, chosen, change, rest, forward,
            backward, memory, precedence, link, written, weights, next_memory, next_link,
            next_written, next_weights, *addressed,
        ) = ctx.saved_tensors  # fmt: skip
        sought, found = Content(*addressed[:3]), Content(*addressed[3:])
        reads, width = ctx.reads, memory.shape[-1]
        batch = len(unit)
        free_gates, allocation_gate, write_gate, erase = unit.split_with_sizes(
            (reads, 1, 1, width), -1
        )
        back, by_content, on = modes.split_with_sizes((1, 1, 1), -1)
        read_keys, write_key = keys.split_with_sizes((reads, 1), 1)
        read_scale, write_scale = scale.split_with_sizes((reads, 1), 1)
        row, column = next_written.unsqueeze(-1), next_written.unsqueeze(1)

        # Read.
        gradient = torch.baddbmm(weights_gradient, vectors_gradient, next_memory.mT)
        memory_gradient = torch.baddbmm(memory_gradient, next_weights.mT, vectors_gradient)
        modes_gradient = torch.stack([backward, found.weights, forward], 2)
        modes_gradient = modes_gradient.mul_(gradient.unsqueeze(2)).sum(-1)
        modes_gradient = softmax_gradient(modes_gradient, modes)
        backward_gradient, forward_gradient = gradient * back, gradient * on
        read_key_gradient, read_scale_gradient = content_gradient(
            gradient.mul_(by_content), found, read_keys, read_scale, next_memory, memory_gradient
        )

        # Links. They are what takes time in a great batch: there is one buffer, used twice.
        link_gradient = torch.baddbmm(
            link_gradient,
            torch.cat([weights, forward_gradient], 1).mT,
            torch.cat([backward_gradient, weights], 1),
        )
        link_gradient.diagonal(dim1=-2, dim2=-1).zero_()
        previous_weights_gradient = torch.bmm(backward_gradient, next_link.mT)
        previous_weights_gradient.baddbmm_(forward_gradient, next_link)
        gradient = torch.bmm(precedence.unsqueeze(1), link_gradient.mT).squeeze(1)
        buffer = link_gradient * link
        gradient.sub_(buffer.sum(-1)).sub_(buffer.sum(-2)).add_(written_gradient)
        previous_precedence_gradient = torch.bmm(column, link_gradient).squeeze(1)
        link_gradient.mul_(torch.sub(one - row, column, out=buffer))
        # Precedence: p = (1 - sum w) p + w.
        gradient.add_(precedence_gradient)
        gradient.sub_((precedence_gradient * precedence).sum(-1, keepdim=True))
        previous_precedence_gradient.addcmul_(rest, precedence_gradient)

        # Write.
        change_gradient = row * memory_gradient
        gradient.add_((memory_gradient * change).sum(-1))
        add_gradient = change_gradient.sum(1)
        erase_gradient = (change_gradient * memory).sum(1)
        memory_gradient.addcmul_(erase.unsqueeze(1), change_gradient, value=-1.0)
        write_gate_gradient = (gradient * chosen).sum(-1, keepdim=True)
        gradient.mul_(write_gate)
        allocation_gate_gradient = allocation - sought.weights.squeeze(1)
        allocation_gate_gradient = allocation_gate_gradient.mul_(gradient).sum(-1, keepdim=True)
        allocation_gradient = gradient * allocation_gate
        gradient.sub_(allocation_gradient)
        write_key_gradient, write_scale_gradient = content_gradient(
            gradient.unsqueeze(1), sought, write_key, write_scale, memory, memory_gradient
        )

        # Allocation. What comes later is summed, and no difference of sums: it is divided by a
        # usage that may be tiny.
        free_gradient = allocation_gradient.gather(-1, order).mul_(before)
        later = (free_gradient * free).flip(-1).cumsum(-1).flip(-1)
        later = torch.nn.functional.pad(later[:, 1:], (0, 1))
        free_gradient.addcdiv_(later, used, value=-1.0)
        free_gradient = torch.empty_like(free).scatter_(-1, order, free_gradient)
        # Usage.
        gradient = torch.sub(usage_gradient, free_gradient, alpha=1 - ctx.usage_epsilon)
        retention_gradient = gradient * filled
        gradient.mul_(retention)
        previous_written_gradient = gradient * unused
        previous_usage_gradient = gradient.mul_(one - written)
        kept_gradient = retention_gradient.unsqueeze(1)
        if reads > 1:
            kept_gradient = products_of_others(kept).mul_(kept_gradient)
        free_gates_gradient = (kept_gradient * weights).sum(-1)
        previous_weights_gradient.addcmul_(kept_gradient, free_gates.unsqueeze(-1), value=-1.0)

        key_gradient, strengths_gradient = key_gradients(
            torch.cat([read_key_gradient, write_key_gradient], 1),
            torch.cat([read_scale_gradient, write_scale_gradient], 1),
            keys,
            strengths,
            key_scale,
        )
        unit_gradient = torch.cat(
            [
                free_gates_gradient.neg_(),
                allocation_gate_gradient,
                write_gate_gradient,
                erase_gradient.neg_(),
            ],
            -1,
        )
        interface_gradient = torch.cat(
            [
                key_gradient.view(batch, -1),
                strengths_gradient.squeeze(-1).mul_(raw_strengths.sigmoid()),
                torch.ops.aten.sigmoid_backward(unit_gradient, unit),
                modes_gradient.view(batch, -1),
                add_gradient,
            ],
            -1,
        )
        return (
            interface_gradient, memory_gradient, previous_usage_gradient,
            previous_precedence_gradient, link_gradient, previous_written_gradient,
            previous_weights_gradient, None, None, None,
        )  # fmt: skip
