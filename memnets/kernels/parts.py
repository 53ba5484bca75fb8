"""What kernels have in common: parts of a step, forward and backward."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Content",
    "content",
    "content_gradient",
    "key_gradients",
    "key_scales",
    "products_of_others",
    "softmax_gradient",
]


class Content(NamedTuple):
    """Weights by content, and what their gradient needs.

    Attributes:
        weights: c = softmax(beta k.M / (|k| |M|)), ``[B, H, N]``.
        along: k.M / |M|, ``[B, H, N]``.
        slot_scale: 1 / |M|, ``[B, 1, N]``.
    """

    weights: Tensor
    along: Tensor
    slot_scale: Tensor


def key_scales(keys: Tensor, epsilon: float) -> Tensor:
    """``1 / |k|``, ``[B, H, W] -> [B, H, 1]``, with ``epsilon`` inside the root."""
    return (keys * keys).sum(-1, keepdim=True).add_(epsilon).rsqrt_()


def content(keys: Tensor, scale: Tensor, memory: Tensor, epsilon: float) -> Content:
    """Address by content.

    Args:
        keys: ``[B, H, W]``.
        scale: beta / |k|, ``[B, H, 1]``.
        memory: ``[B, N, W]``.
        epsilon: inside the roots of the cosine.
    """
    slot_scale = (memory * memory).sum(-1).add_(epsilon).rsqrt_().unsqueeze(1)
    along = torch.bmm(keys, memory.mT).mul_(slot_scale)
    return Content((along * scale).softmax(-1), along, slot_scale)


def content_gradient(
    gradient: Tensor,
    addressed: Content,
    keys: Tensor,
    scale: Tensor,
    memory: Tensor,
    memory_gradient: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of keys and scales; that of the memory is added to ``memory_gradient``.

    Args:
        gradient: of the weights, ``[B, H, N]``.
        addressed: what :func:`content` returned.
        keys: ``[B, H, W]``.
        scale: beta / |k|, ``[B, H, 1]``.
        memory: ``[B, N, W]``.
        memory_gradient: ``[B, N, W]``, changed in place.

    Returns:
        ``[B, H, W]`` and ``[B, H, 1]``.
    """
    weights, along, slot_scale = addressed
    gradient = softmax_gradient(gradient, weights)
    product = gradient * along
    radial = torch.bmm(scale.mT, product).mul_(slot_scale).mul_(slot_scale)
    gradient.mul_(slot_scale).mul_(scale)
    memory_gradient.baddbmm_(gradient.mT, keys)
    memory_gradient.addcmul_(memory, radial.mT, value=-1.0)
    return torch.bmm(gradient, memory), product.sum(-1, keepdim=True)


def key_gradients(
    key_gradient: Tensor, scale_gradient: Tensor, keys: Tensor, strength: Tensor, key_scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of keys and strengths, of which ``scale = strength * key_scales(keys)`` is made.

    Args:
        key_gradient: what else reaches the keys, ``[B, H, W]``, changed in place.
        scale_gradient: ``[B, H, 1]``.
        keys: ``[B, H, W]``.
        strength: beta, ``[B, H, 1]``.
        key_scale: 1 / |k|, ``[B, H, 1]``.
    """
    strength_gradient = scale_gradient * key_scale
    inward = (strength_gradient * strength).mul_(key_scale).mul_(key_scale)
    return key_gradient.addcmul_(keys, inward, value=-1.0), strength_gradient


def products_of_others(factors: Tensor) -> Tensor:
    """For each head (dimension 1) the product of the factors of all other heads."""
    ones = torch.ones_like(factors[:, :1])
    before = torch.cat([ones, factors[:, :-1]], 1).cumprod(1)
    after = torch.cat([ones, factors[:, 1:].flip(1)], 1).cumprod(1).flip(1)
    return before * after


def softmax_gradient(gradient: Tensor, weights: Tensor) -> Tensor:
    """Gradient of a softmax's input, from that of its output."""
    return torch._softmax_backward_data(gradient, weights, -1, weights.dtype)
