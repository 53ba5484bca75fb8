"""Parts of a step, forward and backward, for several kernels.

Functions whose names end in ``gradient`` or ``gradients`` are the backward passes, written out by
hand. They change their arguments in place where the text says so.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache, wraps
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from memnets import fast
from memnets.addressing import ByKey
from memnets.normalizers import Softmax
from memnets.scores import Cosine

__all__ = [
    "Content",
    "PointedKeys",
    "constant",
    "content",
    "content_gradient",
    "cosine_epsilon",
    "differentiable",
    "inverse_norms",
    "key_gradients",
    "pointed_keys",
    "products_of_others",
    "recomputing",
    "slot_scales",
    "softmax_gradient",
    "unrecorded",
]

Function = TypeVar("Function", bound=Callable[..., Any])

#: A guard that PyTorch documents for C++ alone. Without it, kernels give the same results slower.
_unrecorded = getattr(torch._C, "_AutoDispatchBelowAutograd", nullcontext)


def unrecorded(function: Function) -> Function:
    """Let a method of an ``autograd.Function`` run below the layer that records operations.

    Nothing is recorded within such a method in any case, but to find that out takes a sixth of the
    time of a small operation.
    """

    @wraps(function)
    def skipping(*arguments: Any) -> Any:
        with _unrecorded():
            return function(*arguments)

    return skipping  # type: ignore[return-value]


def differentiable(backward: Function) -> Function:
    """Make the ``backward`` of an ``autograd.Function`` differentiable.

    With ``create_graph=True`` the gradient is computed from the plain definition. For this,
    ``forward`` sets two attributes: ``ctx.plain``, a function of all differentiable inputs with the
    same results as ``forward``, and ``ctx.given``, the number of these inputs. They are the first
    of the saved tensors, and their gradients are the last that ``backward`` returns.
    """
    return recomputing(unrecorded(backward))


def recomputing(backward: Function) -> Function:
    """As :func:`differentiable`, for a ``backward`` that records steps which it takes again."""

    @wraps(backward)
    def choosing(ctx: Any, *gradients: Tensor | None) -> Any:
        # An output that nobody uses may have none: see ``ctx.set_materialize_grads``.
        given = [by for by in gradients if by is not None]
        if not given:
            return (None,) * len(ctx.needs_input_grad)
        device = given[0].device.type
        # Twins run outside of autocast, but ``backward`` may be called within it.
        if device != "meta" and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return choosing(ctx, *gradients)
        if not torch.is_grad_enabled():
            return backward(ctx, *gradients)
        # The same tensor may be two of the inputs: each copy has a gradient of its own.
        copies = [tensor.view_as(tensor) for tensor in ctx.saved_tensors[: ctx.given]]
        with fast.naive():
            outputs = ctx.plain(*copies)
        reached = [
            (out, by)
            for out, by in zip(outputs, gradients, strict=True)
            if out.requires_grad and by is not None
        ]
        wanted = [copy for copy in copies if copy.requires_grad]
        found = iter(
            # Some inputs may not reach any output, such as a state that is read nowhere.
            torch.autograd.grad(
                [out for out, _ in reached],
                wanted,
                [by for _, by in reached],
                create_graph=True,
                allow_unused=True,
            )
        )
        # Inputs other than tensors, such as the kernel, have no gradient.
        others = len(ctx.needs_input_grad) - len(copies)
        return *[None] * others, *(next(found) if copy.requires_grad else None for copy in copies)

    return choosing  # type: ignore[return-value]


@lru_cache(maxsize=64)
def constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number as a tensor ``[]``, cached; PyTorch would make a new one for each operation."""
    # Not ``torch.tensor``: it would copy the number from the CPU and wait for the device.
    return torch.full((), value, dtype=dtype, device=device)


def cosine_epsilon(addressing: ByKey[Any, Any], kind: type[ByKey[Any, Any]]) -> float | None:
    """Epsilon of an addressing by the softmax of cosines, the only one that the kernels compute.

    Args:
        addressing: the addressing of a memory.
        kind: its exact class; a subclass may compute something else.

    Returns:
        Epsilon, or ``None`` for another class, score or normalizer.
    """
    score = addressing.score
    plain = (type(addressing), type(score), type(addressing.normalizer)) == (kind, Cosine, Softmax)
    return score.epsilon if plain and isinstance(score, Cosine) else None


class PointedKeys(NamedTuple):
    """Keys scaled to the length of their strength, with the parts that their gradient needs.

    Attributes:
        pointed: ``beta k / |k|``, ``[B, H, W]``.
        unit: ``k / |k|``, ``[B, H, W]``.
        scale: ``beta / |k|``, ``[B, H, 1]``.
    """

    pointed: Tensor
    unit: Tensor
    scale: Tensor


def inverse_norms(vectors: Tensor, epsilon: float) -> Tensor:
    """``1 / |v|``, ``[*B, W] -> [*B]``, with ``epsilon`` inside the root."""
    # Each of the W squares gets its share of epsilon: one operation less than an addition after.
    share = constant(epsilon / vectors.shape[-1], vectors.dtype, vectors.device)
    return torch.addcmul(share, vectors, vectors).sum(-1).rsqrt_()


def pointed_keys(keys: Tensor, strength: Tensor, epsilon: float) -> PointedKeys:
    """Scale keys to the length beta.

    A product with such a key is beta times the cosine, except for the length of the slot.

    Args:
        keys: k, ``[B, H, W]``.
        strength: beta, ``[B, H, 1]``.
        epsilon: added inside the root of the cosine.
    """
    key_scale = inverse_norms(keys, epsilon).unsqueeze(-1)
    unit = keys * key_scale
    return PointedKeys(unit * strength, unit, key_scale.mul_(strength))


def key_gradients(pointed_gradient: Tensor, keys: PointedKeys) -> tuple[Tensor, Tensor]:
    """Gradients of keys and strengths, ``[B, H, W]`` and ``[B, H, 1]``.

    Args:
        pointed_gradient: gradient of ``keys.pointed``, ``[B, H, W]``, changed in place.
        keys: the result of :func:`pointed_keys`.
    """
    _, unit, scale = keys
    # A unit vector moves only across its direction: the part along it belongs to the strength.
    strength_gradient = (pointed_gradient * unit).sum(-1, keepdim=True)
    pointed_gradient.addcmul_(unit, strength_gradient, value=-1.0).mul_(scale)
    return pointed_gradient, strength_gradient


class Content(NamedTuple):
    """Weights by content, with the parts that their gradient needs.

    Attributes:
        weights: ``c = softmax(beta k.M / (|k| |M|))``, ``[B, H, N]``.
        scores: the argument of the softmax, ``[B, H, N]``.
        slot_scale: ``1 / |M|``, ``[B, 1, N]``.
    """

    weights: Tensor
    scores: Tensor
    slot_scale: Tensor


def slot_scales(memory: Tensor, epsilon: float) -> Tensor:
    """``1 / |M|``, ``[B, N, W] -> [B, 1, N]``, with ``epsilon`` inside the root."""
    return inverse_norms(memory, epsilon).unsqueeze(1)


def content(pointed: Tensor, memory: Tensor, slot_scale: Tensor) -> Content:
    """Address by content.

    Args:
        pointed: ``beta k / |k|``, ``[B, H, W]``.
        memory: ``[B, N, W]``.
        slot_scale: the result of :func:`slot_scales`.
    """
    scores = torch.bmm(pointed, memory.mT).mul_(slot_scale)
    return Content(scores.softmax(-1), scores, slot_scale)


def content_gradient(
    gradient: Tensor, addressed: Content, pointed: Tensor, memory: Tensor, memory_gradient: Tensor
) -> Tensor:
    """Gradient of the pointed keys; the gradient of the memory is added to ``memory_gradient``.

    Args:
        gradient: gradient of the weights, ``[B, H, N]``.
        addressed: the result of :func:`content`.
        pointed: ``beta k / |k|``, ``[B, H, W]``.
        memory: ``[B, N, W]``.
        memory_gradient: ``[B, N, W]``, changed in place.

    Returns:
        ``[B, H, W]``.
    """
    weights, scores, slot_scale = addressed
    gradient = softmax_gradient(gradient, weights).mul_(slot_scale)
    memory_gradient.baddbmm_(gradient.mT, pointed)
    pointed_gradient = torch.bmm(gradient, memory)
    # The length of a slot is part of its score. Its gradient points along the slot, with the
    # factor -score / |M|^2, summed over the heads.
    radial = gradient.mul_(scores).mul_(slot_scale).sum(1)
    memory_gradient.addcmul_(memory, radial.unsqueeze(-1), value=-1.0)
    return pointed_gradient


def products_of_others(factors: Tensor) -> Tensor:
    """Product of the factors of all other heads, for each head (dimension 1)."""
    # The product of those before times the product of those after: no division, since a factor
    # may be 0.
    ones = torch.ones_like(factors[:, :1])
    before = torch.cat([ones, factors[:, :-1]], 1).cumprod(1)
    after = torch.cat([ones, factors[:, 1:].flip(1)], 1).cumprod(1).flip(1)
    return before * after


def softmax_gradient(gradient: Tensor, weights: Tensor) -> Tensor:
    """Gradient of a softmax's input, from the gradient of its output."""
    # PyTorch's own kernel: one operation in place of three.
    return torch._softmax_backward_data(gradient, weights, -1, weights.dtype)
