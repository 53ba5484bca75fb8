"""Base class for memories with N slots."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils import _python_dispatch

from memnets.checks import check_finite, check_positive
from memnets.core import MemoryAccess, State

__all__ = ["Noisy", "Slotted"]


class Noisy:
    """Noise that a memory adds to what it is told in training; it may be changed at any time."""

    training: bool

    @property
    def noise(self) -> float:
        """Standard deviation of the Gaussian noise, at least 0."""
        return self._noise

    @noise.setter
    def noise(self, noise: float) -> None:
        check_finite(least=0, noise=noise)
        self._noise = noise

    def noisy(self, interface: Tensor) -> Tensor:
        """A part of the interface ``[B, I]``, in training with the noise."""
        if self.training and self.noise:
            interface = interface + self.noise * torch.randn_like(interface)
        return interface


class Slotted(MemoryAccess[State]):
    """Base class for memories with N slots of width W and no parameter that depends on N.

    ``slots`` may be changed at any time; a change takes effect at the next :meth:`initial_state`.

    Args:
        slots: N, the number of slots, at least 1.
        width: W, the width of a slot, at least 1.
        least_slots: lower bounds on N, by a name for the error.
        initial_value: initial value of every number in the memory.
        initial_spread: standard deviation of normal noise added to the initial value, at least 0.
            Above 0, the slots differ from the start, so that a head can find them by content before
            any write. The noise is the same in every run, and slot i is the same for every N.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        slots: int,
        width: int,
        least_slots: dict[str, int] | None = None,
        initial_value: float = 0.0,
        initial_spread: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive(width=width)
        check_finite(initial_value=initial_value)
        check_finite(least=0, initial_spread=initial_spread)
        self.width = width
        self.initial_spread = initial_spread
        self._least_slots = least_slots or {}
        self.slots = slots
        # A buffer, so that it has the device and the precision of the module.
        self.first_row: Tensor
        self.register_buffer("first_row", torch.full((width,), initial_value), persistent=False)

    @property
    def slots(self) -> int:
        """N, the number of slots of the next initial state."""
        return self._slots

    @slots.setter
    def slots(self, slots: int) -> None:
        check_positive(slots=slots)
        for name, least in self._least_slots.items():
            if slots < least:
                raise ValueError(f"slots must be at least {name} = {least}; got {slots}")
        self._slots = slots

    def first_memory(self, batch_size: int) -> Tensor:
        """Memory before the first step, ``[B, N, W]``."""
        memory = self.first_row.expand(batch_size, self.slots, self.width)
        if self.initial_spread:
            rows = _normal_rows(self.slots, self.width, memory.dtype, memory.device)
            memory = memory + self.initial_spread * rows
        return memory


def _normal_rows(slots: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Rows of normal numbers, ``[N, W]``; the rows of a larger N begin with those of a smaller."""
    # A mode, such as that of fake tensors, makes tensors that are of no use outside of it; not so
    # one that only looks on, see :func:`memnets.fast.find`.
    modes = _python_dispatch._get_current_dispatch_mode_stack()
    looking_on = all(getattr(mode, "sees_twins", False) for mode in modes)
    made = _made_rows if looking_on else _made_rows.__wrapped__
    return made(slots, width, dtype, device)


# A graph takes the rows as a constant: it cannot record numpy. See ``memnets.fast._load``.
_normal_rows._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _made_rows(slots: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # From numpy with a seed of its own: neither the run's seed nor its device changes them. Cached
    # on the device: a copy in each training step would wait for it.
    rows = np.random.default_rng(0).standard_normal((slots, width))
    return torch.from_numpy(rows).to(device, dtype)
