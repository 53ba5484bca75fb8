"""Optimizers: the step of one as a single operation."""

from __future__ import annotations

from typing import TypeVar

import torch

__all__ = ["fused"]

Optimizer = TypeVar("Optimizer", bound=torch.optim.Optimizer)

#: Kinds of devices for which PyTorch's fused steps are made.
_DEVICES = ("cpu", "cuda")


def fused(optimizer: Optimizer) -> Optimizer:
    """Let an optimizer update each parameter in one operation, if PyTorch has one for it.

    A step of Adam is a dozen operations for each parameter, and each passes over main memory. The
    fused step is the same but for rounding. An optimizer that says ``fused`` or ``foreach``
    itself, or that has no fused step, stays as it is.

    Args:
        optimizer: the optimizer; it is changed in place.

    Returns:
        The optimizer.
    """
    # Set here, not handed to the constructor: that would also tell Lightning that the optimizer
    # unscales gradients itself, which forbids clipping in mixed precision.
    for group in optimizer.param_groups:
        undecided = "fused" in group and group["fused"] is None and group["foreach"] is None
        if undecided and not group["differentiable"]:
            group["fused"] = all(
                parameter.is_floating_point() and parameter.device.type in _DEVICES
                for parameter in group["params"]
            )
    return optimizer
