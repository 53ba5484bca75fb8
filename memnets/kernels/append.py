"""Append to a memory without a copy of the slots that it has.

The twin of :func:`memnets.functional.append`, whose definition makes a new memory of all slots.
Over T steps that would be T copies, T^2 / 2 slots in all, and the backward pass keeps each of them.

Here a memory stands at the start of a *buffer* with room behind its last slot. An append writes the
new slots into the room and returns a longer memory in the same buffer, so that all steps together
keep each slot once. No slot is ever written twice: whoever holds a shorter memory sees no change.
If the slots behind a memory are taken, since another one has gone on from the same point, or if the
room is too small, the memory is copied into a new buffer of twice the size.

A change in place of one memory shows in the others of its buffer, as with any view, but PyTorch
does not notice: gradients that need the old numbers are wrong. A file of one holds the whole
buffer. ``clone()`` gives a memory of its own.
"""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from memnets import fast, functional
from memnets.kernels.native import build

__all__ = ["append", "lengthened", "rows"]

#: Fewest slots of a buffer.
_LEAST = 16

#: Fewest numbers of a memory that goes into a buffer. A copy of fewer takes less time than the
#: search for a buffer, and so few for each step are linear in T.
_SMALL = 1 << 12
#: The same for a search, which keeps no copy for a backward pass: there only time counts.
_SMALL_IN_SEARCH = 1 << 17


class _Buffer:
    """Shape of a buffer ``[*B, room, W]``, and how far it is filled.

    Attributes:
        shape: the shape of the buffer.
        stride: its strides, which those of each memory in it equal.
        filled: number of slots that have been written.
    """

    __slots__ = ("filled", "shape", "stride")

    def __init__(self, tensor: Tensor) -> None:
        self.shape = tensor.shape
        self.stride = tensor.stride()
        self.filled = 0

    def ends_with(self, memory: Tensor, slots: int) -> bool:
        """Whether a memory in this buffer has all slots so far, and there is room for more."""
        shape = memory.shape
        return (
            shape[-2] == self.filled
            and self.filled + slots <= self.shape[-2]
            # Rows or columns of a memory stand in its buffer too, but cannot go on in it.
            and shape[-1] == self.shape[-1]
            and shape[:-2] == self.shape[:-2]
            and memory.stride() == self.stride
            and memory.storage_offset() == 0
        )


#: Buffers by their storage, which all memories in a buffer share. A storage that no tensor uses
#: any more is forgotten, and the entry with it.
_buffers: WeakKeyDictionary[torch.UntypedStorage, _Buffer] = WeakKeyDictionary()

#: Held while the slots behind a memory are taken, so that of several threads one gets them.
_lock = threading.Lock()


def _taken(room: Tensor, memory: Tensor, slots: int) -> _Buffer | None:
    """The buffer of a memory if the slots behind it are free; from then on they are taken."""
    # Outside of inference mode, PyTorch lets nobody write into what was made within it.
    if room.is_inference() and not torch.is_inference_mode_enabled():
        return None
    with _lock:
        buffer = _buffers.get(room.untyped_storage())
        if buffer is None or not buffer.ends_with(memory, slots):
            return None
        buffer.filled += slots
        return buffer


def _fits(memory: Tensor, row: Tensor) -> bool:
    # A graph would not see that the storage is shared.
    if torch.compiler.is_compiling() or torch._C._get_tracing_state():
        return False
    return (
        type(memory) in fast.ORDINARY
        and type(row) in fast.ORDINARY
        # With more new slots than old ones, a buffer of twice the size would be too large.
        and 0 < row.shape[-2] <= memory.shape[-2]
        and memory.numel() >= max(1, _SMALL if torch.is_grad_enabled() else _SMALL_IN_SEARCH)
        and memory.dtype == row.dtype
        and memory.device == row.device
        and memory.shape[:-2] == row.shape[:-2]
        and memory.shape[-1] == row.shape[-1]
    )


@fast.twin(functional.append, fits=_fits, any_precision=True)
def append(memory: Tensor, row: Tensor) -> Tensor:
    """The memory ``[*B, N, W]`` with the slots ``[*B, T, W]`` behind it: ``[*B, N + T, W]``."""
    if torch.is_grad_enabled() and (memory.requires_grad or row.requires_grad):
        longer: Tensor = _Append.apply(memory, row)  # type: ignore[no-untyped-call]
        return longer
    return _appended(memory, row)


class _Append(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, memory: Tensor, row: Tensor) -> Tensor:
        ctx.slots = memory.shape[-2]
        return _appended(memory, row)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        slots = ctx.slots
        return gradient[..., :slots, :], gradient[..., slots:, :]


def _appended(memory: Tensor, row: Tensor) -> Tensor:
    """The longer memory, in the buffer of the memory or in a new one."""
    slots, more = memory.shape[-2], row.shape[-2]
    longer = lengthened(memory, more)
    longer.narrow(-2, slots, more).copy_(row)
    return longer


def lengthened(memory: Tensor, more: int) -> Tensor:
    """The memory ``[*B, N, W]`` with room for more slots: ``[*B, N + T, W]``, to be written once.

    Args:
        memory: N may be 0.
        more: T. The new slots hold any numbers at first, and the caller alone may write them.
    """
    slots = memory.shape[-2]
    # ``data`` has a count of changes of its own. Autograd would take a change of the room for one
    # of the slots that earlier steps have saved.
    room = memory.data
    buffer = _taken(room, memory, more)
    if buffer is None:
        room, buffer = _with_room(memory, max(_LEAST, 2 * (slots + more)), len(memory))
        room.narrow(-2, 0, slots).copy_(memory)
        buffer.filled = slots + more
    shape = (*memory.shape[:-2], slots + more, memory.shape[-1])
    return room.as_strided(shape, buffer.stride, 0)


def _with_room(memory: Tensor, size: int, rows: int) -> tuple[Tensor, _Buffer]:
    """A new buffer for memories like this one, of as many slots and rows."""
    room = memory.new_empty(rows, *memory.shape[1:-2], size, memory.shape[-1])
    return room, _noted(room)


def _noted(room: Tensor) -> _Buffer:
    """The entry of a new buffer."""
    with _lock:
        buffer = _buffers[room.untyped_storage()] = _Buffer(room)
    return buffer


def _not_in_graph(part: Tensor, index: Tensor) -> bool:
    # Of an index of more dimensions the definition tells the error.
    return (
        index.dim() == 1
        and type(part) in fast.ORDINARY
        and not (torch.compiler.is_compiling() or torch._C._get_tracing_state())
    )


@fast.twin(functional.rows, fits=_not_in_graph, any_precision=True, only_values=True)
def rows(part: Tensor, index: Tensor) -> Tensor:
    """Rows of a part of a state; those of a memory in a buffer stand in a new buffer."""
    with _lock:
        known = _buffers.get(part.untyped_storage())
    # Rows of a part of the heads, or of the columns, cannot go on as a buffer does.
    if (
        known is None
        or part.dim() < 3
        or (part.shape[1:-2], part.shape[-1:])
        != (
            known.shape[1:-2],
            known.shape[-1:],
        )
    ):
        return part.index_select(0, index)
    # The next append finds room there. Otherwise it would copy all slots once more.
    slots, before = part.shape[-2], known.shape[-2]
    size = before if slots < before else 2 * before
    whole_rows = part.device.type == index.device.type == "cpu" and part.stride() == known.stride
    if build.at_hand() and whole_rows and index.dtype in (torch.int32, torch.int64):
        chosen: Tensor = torch.ops.memnets.rows(part, index, before, size)
        whole = (*chosen.shape[:-2], size, chosen.shape[-1])
        buffer = _noted(chosen.as_strided(whole, chosen.stride()))
    else:
        room, buffer = _with_room(part, size, len(index))
        chosen = room.narrow(-2, 0, slots)
        torch.index_select(part, 0, index, out=chosen)
    buffer.filled = slots
    return chosen
