"""Fast twins of slow paths.

Each has a naive twin, the plain definition, and a test that both agree, gradients too. The fast
twin is taken where it applies; within :func:`naive` it never is.

Under the transforms of ``torch.func`` and in forward mode no twin is taken, and of a graph that is
compiled, exported or traced only those that PyTorch itself has. Where a gradient is to be
differentiated again, twins take it from the plain definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

__all__ = ["applies", "enabled", "naive", "transformed"]

_enabled: ContextVar[bool] = ContextVar("memnets_kernels_enabled", default=True)


@contextmanager
def naive() -> Iterator[None]:
    """Take the plain definitions alone, for instance to record every weight on the way."""
    token = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(token)


def enabled() -> bool:
    """Whether fast twins may be taken here."""
    if torch.compiler.is_dynamo_compiling():  # which cannot read a context variable
        return True
    return _enabled.get() and not transformed()


def transformed() -> bool:
    """Whether tensors may carry more than a value: under ``torch.func``, and in forward mode."""
    return _transforms_active() or torch.autograd.forward_ad._current_level >= 0


# PyTorch asks the same before it runs an autograd.Function, and has no public name for it.
_transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active


def applies(*tensors: Tensor) -> bool:
    """Whether kernels are on, and all tensors are float32 or float64 outside of autocast.

    They are off in a graph that is compiled, exported or traced: it would have to hold them.
    """
    return (
        not torch.compiler.is_compiling()
        and enabled()
        and not torch._C._get_tracing_state()
        and all(tensor.dtype in (torch.float32, torch.float64) for tensor in tensors)
        and not torch.is_autocast_enabled(tensors[0].device.type)
    )
