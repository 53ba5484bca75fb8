"""Fast twins: which of them runs where a definition is asked for.

A part holds its definition and knows no twin of it. A module of twins, such as
:mod:`memnets.kernels`, registers them from outside::

    @fast.twin(NTM, "step", fits=...)
    def step(part, inputs, state): ...

and the base class of the part asks :func:`find` before it runs the definition. A twin runs only
where all of this holds:

- the part is of exactly the class that the twin is registered for, since a subclass may compute
  something else;
- the twin's own ``fits`` says yes to the part and its inputs;
- all floating-point inputs are float32 or float64, outside of autocast, unless the twin says that
  it can run in any precision;
- nobody listens to what the definitions report (:mod:`memnets.events`), and the call is not
  within :func:`naive`, nor under a transform of ``torch.func``, in forward mode,
  or in a graph that is compiled, exported or traced; of such a graph the twins that are PyTorch's
  own (``any_precision``) may be a part.

A twin computes what the definition computes, gradients too. One law holds for all of them
(``tests/laws/test_twins.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from memnets import events

__all__ = ["Twin", "applies", "enabled", "find", "naive", "transformed", "twin", "twins"]

Function = TypeVar("Function", bound=Callable[..., Any])

#: Modules that register twins when they are imported, which is when the first twin is asked for.
PROVIDERS = ["memnets.kernels"]

_enabled: ContextVar[bool] = ContextVar("memnets_fast_enabled", default=True)


class Twin(NamedTuple):
    """A fast way to do what a method of a part does.

    Attributes:
        part: the class of the part, or a function for a twin of a function.
        method: the name of the method; empty for a function.
        fits: whether the twin can take these arguments, those of :attr:`run`.
        run: takes the part and the arguments of the method; its result is that of the method.
        any_precision: whether it can run in 16-bit types and under autocast too.
    """

    part: Any
    method: str
    fits: Callable[..., bool]
    run: Callable[..., Any]
    any_precision: bool = False


_twins: dict[tuple[Any, str], list[Twin]] = {}


def twin(
    part: Any,
    method: str = "",
    fits: Callable[..., bool] = lambda *arguments: True,
    any_precision: bool = False,
) -> Callable[[Function], Function]:
    """Register the decorated function as a twin; the last one registered is tried first.

    Args:
        part: a class of parts, or a function.
        method: the method of the class that it stands for.
        fits: takes the arguments of the twin, and says whether it can run with them.
        any_precision: whether it can run in 16-bit types and under autocast too.
    """

    def register(run: Function) -> Function:
        _twins.setdefault((part, method), []).insert(
            0, Twin(part, method, fits, run, any_precision)
        )
        return run

    return register


def twins() -> list[Twin]:
    """All twins that are registered."""
    _load()
    return [one for same in _twins.values() for one in same]


@contextmanager
def naive() -> Iterator[None]:
    """Run the plain definitions alone, for instance to see every weight on the way."""
    token = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(token)


def enabled() -> bool:
    """Whether any twins may run here."""
    if torch.compiler.is_dynamo_compiling():  # which cannot read a context variable
        return True
    return _enabled.get() and not events.listening() and not transformed()


def transformed() -> bool:
    """Whether tensors may carry more than a value: under ``torch.func``, and in forward mode."""
    return _transforms_active() or torch.autograd.forward_ad._current_level >= 0


# PyTorch asks the same before it runs an autograd.Function, and has no public name for it.
_transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active


def applies(*tensors: Tensor) -> bool:
    """Whether every twin may run here on these tensors: see the conditions above."""
    return enabled() and _plain(tensors)


def find(part: Any, method: str, *arguments: Any) -> Callable[..., Any] | None:
    """The twin to run in place of a definition.

    Args:
        part: a part, or a function.
        method: the name of the method that is asked for; empty for a function.
        *arguments: those of the method; tensors in tuples, named tuples and lists count too.

    Returns:
        A function of the arguments (for a part, of the part and the arguments), or ``None`` where
        the definition is to run.
    """
    key = part if method == "" else type(part)
    candidates = _twins.get((key, method))
    if candidates is None:
        if not PROVIDERS:
            return None
        _load()
        candidates = _twins.get((key, method))
        if candidates is None:
            return None
    if not enabled():
        return None
    plain = _plain(arguments)
    own = arguments if method == "" else (part, *arguments)
    for candidate in candidates:
        if (plain or candidate.any_precision) and candidate.fits(*own):
            return candidate.run
    return None


def _load() -> None:
    while PROVIDERS:
        import_module(PROVIDERS.pop(0))


def _plain(arguments: Any) -> bool:
    """Whether all numbers are in single or double precision, outside of autocast and of graphs."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state():
        return False  # a graph would have to hold the twin
    device = None
    stack = list(arguments)
    while stack:
        argument = stack.pop()
        if isinstance(argument, Tensor):
            device = argument.device.type
            if argument.dtype in (torch.float16, torch.bfloat16):
                return False
        elif isinstance(argument, (tuple, list)):
            stack.extend(argument)
    return device is None or not torch.is_autocast_enabled(device)
