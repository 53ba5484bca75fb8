"""Fast twins of slow paths.

Each has a naive twin, the plain definition, and a test that both agree, gradients too. The fast
twin is taken where it applies; within :func:`naive` it never is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

__all__ = ["applies", "enabled", "naive"]

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
    return _enabled.get()


def applies(*tensors: Tensor) -> bool:
    """Whether kernels are on, and all tensors are float32 or float64 outside of autocast."""
    return (
        enabled()
        and all(tensor.dtype in (torch.float32, torch.float64) for tensor in tensors)
        and not torch.is_autocast_enabled(tensors[0].device.type)
    )
