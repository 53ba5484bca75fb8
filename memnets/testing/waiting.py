"""Whether a computation makes the host wait for a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["no_synchronisation"]

#: Operations that need a number or a size that only the device knows.
_ASKING = {
    "_local_scalar_dense": "asks for a number, as item(), tolist(), bool() and float() do",
    "is_nonzero": "asks for a number, as bool() does",
    "equal": "asks whether two tensors are equal",
    "nonzero": "asks how many numbers are not 0",
    "masked_select": "asks how many entries a mask has",
    "multinomial": "asks whether probabilities are valid",
    "unique_consecutive": "asks how many numbers differ",
    "unique_dim": "asks how many numbers differ",
    "_unique2": "asks how many numbers differ",
    "repeat_interleave": "asks for the sum of the repeats",
}

#: Functions that make a tensor from numbers of the host, then copy it.
_MAKING = {
    torch.tensor: "torch.tensor",
    torch.as_tensor: "torch.as_tensor",
    torch.asarray: "torch.asarray",
    Tensor.new_tensor: "Tensor.new_tensor",
}


@contextmanager
def no_synchronisation(device: str | torch.device = "meta", copies: bool = False) -> Iterator[None]:
    """Raise an error where the host would wait for a device within this context.

    The host waits when it asks for a number or a size that the device computes, and when it copies
    between ordinary memory and the device. Without a GPU, the device ``meta`` stands for one: its
    tensors have shapes but no numbers.

    Args:
        device: ``meta``, or a CUDA device, where PyTorch itself tells.
        copies: whether copies from the host are allowed, as in a first step that prepares
            constants; on ``meta`` alone.

    Raises:
        AssertionError: on ``meta``, the host would wait; the message names the operation.
        RuntimeError: on a CUDA device, the host waits.

    Example:
        ``with no_synchronisation(): model.to("meta").loss(batch).backward()``
    """
    if torch.device(device).type == "cuda":
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
        return
    with ExitStack() as stack:
        if not copies:
            stack.enter_context(_Functions())
        stack.enter_context(_Operations(copies))
        yield


class _Functions(TorchFunctionMode):
    """Finds tensors that are made from numbers of the host: they are not seen as operations."""

    sees_twins = True

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _MAKING and isinstance(result, Tensor) and _on_device(result):
            given = args[0] if args else None
            if not (isinstance(given, Tensor) and _on_device(given)) or func is Tensor.new_tensor:
                raise AssertionError(
                    f"the host waits: {_MAKING[func]} makes a tensor on the CPU and copies it to "
                    "the device; torch.full, zeros or arange make it there, or keep it in a buffer"
                )
        return result


class _Operations(TorchDispatchMode):
    """Finds operations for which the host waits."""

    sees_twins = True

    def __init__(self, copies: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.copies = copies

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        reason = self.reason(func.overloadpacket.__name__, args, kwargs)
        if reason:
            raise AssertionError(f"the host waits: {func} {reason}")
        return func(*args, **kwargs)

    def reason(self, name: str, args: Any, kwargs: dict[str, Any]) -> str | None:
        """Why the host would wait for an operation."""
        given = [*_tensors((args, kwargs))]
        if not given:
            return None
        target = kwargs.get("device")
        kind = None if target is None else torch.device(target).type
        if not any(map(_on_device, given)):
            copied = kind == "meta" and not self.copies
            return "copies from the CPU to the device" if copied else None
        if kind == "cpu":
            return "copies from the device to the CPU"
        if name in _ASKING and "output_size" not in kwargs:
            return _ASKING[name]
        if name in ("index", "index_put", "index_put_") and any(
            tensor.dtype == torch.bool for tensor in _tensors(args[1])
        ):
            return "asks how many entries a mask has"
        # A number that the CPU holds travels with the call; more than one must be copied.
        if any(not _on_device(tensor) and tensor.dim() for tensor in given):
            return "mixes tensors of the CPU and the device"
        return None


def _on_device(tensor: Tensor) -> bool:
    return tensor.device.type == "meta"


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
