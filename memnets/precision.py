"""Float32 for computations that need more precision or range than 16 bits have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["called_with", "full_precision", "full_precision_state"]

Function = TypeVar("Function", bound=Callable[..., Any])

_HALF = (torch.float16, torch.bfloat16)


def full_precision(function: Function) -> Function:
    """Let a function, or a method of a module, compute in float32 for 16-bit arguments.

    Without autocast, results have the 16-bit type of the arguments, or float32 if the arguments
    have several types. Under autocast the function runs outside of it and returns float32, as
    PyTorch's own functions that need the range do. A module's 16-bit parameters and buffers are
    converted to float32 too. Without any 16-bit tensor the function runs unchanged.

    Args:
        function: takes and returns tensors, and tuples, lists and dicts of them.

    Returns:
        A function of the same arguments.
    """

    @wraps(function)
    def precise(*arguments: Any, **named: Any) -> Any:
        # The usual case comes first and is kept short: this runs several times in each step.
        if not (_any_autocast() or _any_half(arguments) or named):
            return function(*arguments)
        device = _device((*arguments, *named.values()))
        autocast = _autocast(device)
        if not (autocast or _any_half((*arguments, *named.values()))):
            return function(*arguments, **named)
        types = {tensor.dtype for tensor in _numbers((arguments, named))}
        # Widened inputs alone would not do: autocast would narrow them again in each product.
        outside = torch.autocast(device, enabled=False) if autocast and device else nullcontext()
        with outside:
            result = _call(function, *_mapped((arguments, named), _widened))
        if autocast or len(types) > 1:
            return result
        (given,) = types
        # A tensor that is in the result twice stays one tensor: some states hold the weights.
        narrowed: dict[int, Tensor] = {}
        return _mapped(result, lambda one: narrowed.setdefault(id(one), one.to(given)))

    return precise  # type: ignore[return-value]


def full_precision_state(function: Function, alone: bool = False) -> Function:
    """Let a method under autocast return its state in float32.

    A state in 16 bits would be rounded again at each step, and the errors would add up.

    Args:
        function: a method that returns outputs and the next state, or a state alone.
        alone: whether it returns the state alone.

    Returns:
        A method of the same arguments.
    """

    @wraps(function)
    def keeping(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        # The quick question first: cells within cells come here many times in a step.
        if not _any_autocast() or not _autocast(_device((*arguments, *named.values()))):
            return result
        if alone:
            return _mapped(result, _widened)
        if not isinstance(result, tuple) or len(result) != 2:
            return result  # the cell says what is wrong with it
        outputs, state = result
        return outputs, _mapped(state, _widened)

    return keeping  # type: ignore[return-value]


#: Whether autocast is on for any kind of device. Some versions of PyTorch lack this name; the
#: callers then look at the device of the tensors.
_any_autocast: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)


def _any_half(values: Sequence[Any]) -> bool:
    """Whether a tensor, also within tuples, lists and dicts, has 16-bit numbers."""
    # Written out, not by :func:`_numbers`: a generator costs more than this whole check.
    for value in values:
        if isinstance(value, Tensor):
            if value.dtype in _HALF:
                return True
        elif isinstance(value, (tuple, list)):
            if _any_half(value):
                return True
        elif isinstance(value, dict) and _any_half(tuple(value.values())):
            return True
    return False


def _autocast(device: str | None) -> bool:
    """Whether autocast is on for a kind of device."""
    # PyTorch raises an error when asked about the device "meta".
    return device is not None and device != "meta" and torch.is_autocast_enabled(device)


def _device(value: Any) -> str | None:
    """Kind of device of the first floating-point tensor; ``None`` if there is none."""
    first = next(_numbers(value), None)
    return None if first is None else first.device.type


def _numbers(value: Any) -> Iterator[Tensor]:
    """All floating-point tensors, also within tuples, lists and dicts."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, dict):
        yield from _numbers(tuple(value.values()))


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in _HALF else tensor


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply ``function`` to all floating-point tensors; other values stay unchanged."""
    if isinstance(value, Tensor):
        return function(value) if value.is_floating_point() else value
    if isinstance(value, (tuple, list)):
        parts = [_mapped(part, function) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return {key: _mapped(part, function) for key, part in value.items()}
    return value


def _call(function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Call a function, or a method of a module with the module's tensors in float32."""
    module = arguments[0] if arguments else None
    if not isinstance(module, nn.Module):
        return function(*arguments, **named)
    held = {
        name: tensor.float()
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
        if tensor.dtype in _HALF
    }
    if not held:
        return function(*arguments, **named)
    # The float32 copies replace the module's tensors for this call only; gradients reach the
    # originals through the conversion.
    return called_with(module, held, partial(function, *arguments, **named))


def called_with(module: nn.Module, values: dict[str, Tensor], function: Callable[[], Any]) -> Any:
    """Call a function while a module has other parameters or buffers.

    Args:
        module: the module.
        values: a tensor by the name of the parameter or buffer that it replaces.
        function: uses the module, such as one of its methods with all arguments given.

    Returns:
        The function's result.
    """
    held = {f"module.{name}": value for name, value in values.items()}
    return torch.func.functional_call(_Call(module, function), held, ())


class _Call(nn.Module):
    """A module whose forward pass is a method of another module.

    ``functional_call`` needs a module to call. The hooks of the inner module do not run again.
    """

    def __init__(self, module: nn.Module, method: Callable[[], Any]) -> None:
        super().__init__()
        self.module = module
        self.method = method

    def forward(self) -> Any:
        return self.method()
