"""Fast twins: faster implementations with the same result, and the choice among them.

A part holds its definition and knows no twin of it. A module of twins, such as
:mod:`memnets.kernels`, registers them from outside::

    @fast.twin(NTM, "step", fits=...)
    def step(part, inputs, state): ...

The base class of the part calls :func:`find` before it runs the definition. A twin runs only if:

- the part is of exactly the registered class, since a subclass may compute something else;
- the modules in it are PyTorch's own and this library's, without hooks, of their own or of all
  modules, and with the ``forward`` and ``step`` of their class: a twin reads their weights and does
  not call them, so that it would miss what an adapter, a mask or a hook adds;
- no addressing in the part is hard (:attr:`memnets.core.Addressing.hard`), or the twin is
  registered with ``hard``: it computes one-hot weights too;
- the twin's own ``fits`` accepts the part and its inputs;
- it has gradients, or none are wanted (``only_values``);
- all floating-point inputs are float32 or float64, outside of autocast; a twin registered with
  ``any_precision`` accepts all types;
- nobody listens to the reports of the definition (:mod:`memnets.events`);
- the call is not within :func:`naive`, under a transform of ``torch.func``, in forward mode, under
  a mode of PyTorch that sees each operation (fake tensors, a count of operations), on a subclass of
  tensors, or in a graph that is compiled, exported or traced. In a graph, twins with
  ``any_precision`` may run: they consist of PyTorch's own operations. A graph keeps the twins that
  there were when it was made.

Values and gradients of a twin equal those of the definition. One law checks all twins
(``tests/laws/test_twins.py``).

A twin that needs something beyond PyTorch, such as a compiler or a GPU, is registered in any case,
with a ``why_not`` that says what is missing; ``memnets doctor`` prints it. Its ``fits`` must say no
as long as something is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from importlib import import_module
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn, overrides
from torch.utils import _python_dispatch
from torch.utils._device import DeviceContext

from memnets import events

__all__ = [
    "Twin",
    "applies",
    "enabled",
    "find",
    "naive",
    "transformed",
    "twin",
    "twins",
    "untouched",
]

Function = TypeVar("Function", bound=Callable[..., Any])

#: Modules that register twins. The first call of :func:`find` or :func:`twins` imports them, so
#: that parts need not import their kernels.
PROVIDERS = ["memnets.kernels"]

_enabled: ContextVar[bool] = ContextVar("memnets_fast_enabled", default=True)


class Twin(NamedTuple):
    """A fast implementation of a method of a part, or of a function.

    Attributes:
        part: class of the part, or the function.
        method: name of the method; empty for a function.
        fits: takes the arguments of :attr:`run` and tells whether the twin can run with them.
        run: takes the part and the arguments of the method and returns the method's result; with
            :attr:`reads`, it takes ``read`` as well.
        any_precision: whether the twin can run in 16-bit types and under autocast too.
        only_values: whether the twin has no gradients, and so runs only where none are recorded.
        name: a short name, to tell apart twins of the same method.
        why_not: says in a few words why the twin can never run in this process; ``None`` = it can.
        hard: whether the twin also computes a part in which an addressing is hard.
        reads: for a part that fits, what :attr:`run` takes as ``read``; ``None`` = the twin cannot
            run after all.
    """

    part: Any
    method: str
    fits: Callable[..., bool]
    run: Callable[..., Any]
    any_precision: bool = False
    only_values: bool = False
    name: str = ""
    why_not: Callable[[], str | None] = lambda: None
    hard: bool = False
    reads: Callable[..., Any] | None = None

    def __call__(self, *own: Any) -> Any:
        """Run the twin with arguments that fit: the part, if it is one, and those of the method."""
        return self.run(*own) if self.reads is None else self.run(*own, read=self.reads(*own))

    @property
    def stands_for(self) -> str:
        """The definition that it replaces, for instance ``NTM.step``."""
        part = getattr(self.part, "__name__", str(self.part))
        return f"{part}.{self.method}" if self.method else part


_twins: dict[tuple[Any, str], list[Twin]] = {}


def twin(
    part: Any,
    method: str = "",
    fits: Callable[..., bool] = lambda *arguments: True,
    any_precision: bool = False,
    only_values: bool = False,
    name: str = "",
    why_not: Callable[[], str | None] = lambda: None,
    hard: bool = False,
    reads: Callable[..., Any] | None = None,
) -> Callable[[Function], Function]:
    """Register the decorated function as a twin; the last one registered is tried first.

    Args:
        part: class of the part, or a function.
        method: name of the method that the twin replaces; empty for a function.
        fits: takes the arguments of the twin and tells whether it can run with them.
        any_precision: whether the twin can run in 16-bit types and under autocast too.
        only_values: whether the twin has no gradients, and so runs only where none are recorded.
        name: a short name, to tell apart twins of the same method; by default that of the module.
        why_not: says in a few words why the twin can never run in this process, for instance
            because a compiler is missing; ``None`` = it can. It may take long: only
            ``memnets doctor`` and tests ask.
        hard: whether the twin also computes a part in which an addressing is hard
            (:attr:`memnets.core.Addressing.hard`).
        reads: takes the arguments of the twin where it ``fits``, and returns what the twin takes
            from the part, such as the weights of its layers, or ``None`` if it cannot run with
            them. The twin has it as its argument ``read``: to look for the weights once to see
            whether it can run, and once more to run, takes long in a step.
    """

    def register(run: Function) -> Function:
        called = name or run.__module__.removeprefix("memnets.")
        made = Twin(
            part, method, fits, run, any_precision, only_values, called, why_not, hard, reads
        )
        _twins.setdefault((part, method), []).insert(0, made)
        return run

    return register


def twins() -> list[Twin]:
    """All registered twins."""
    _load()
    return [one for same in _twins.values() for one in same]


@contextmanager
def naive() -> Iterator[None]:
    """Run no twins within this context, for instance to observe every weight on the way."""
    token = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(token)


def enabled() -> bool:
    """Whether any twins may run here."""
    # Dynamo cannot read a context variable. ``_plain`` turns down most twins there.
    if torch.compiler.is_dynamo_compiling():
        return True
    return (
        _enabled.get()
        and not events.listening()
        and not transformed()
        and not ((_dispatch_modes() or _function_modes()) and _watched())
    )


def transformed() -> bool:
    """Whether tensors may carry more than a value: under ``torch.func`` or in forward mode."""
    return _transforms_active() or torch.autograd.forward_ad._current_level >= 0


# PyTorch asks the same before it runs an autograd.Function, and has no public name for it.
_transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active


# How many modes are active; PyTorch has no public names for these.
_dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
_function_modes: Callable[[], int] = torch._C._len_torch_function_stack


def _watched() -> bool:
    """Whether a mode of PyTorch sees each operation, for which an operator of ours is none.

    A mode that has an attribute ``sees_twins`` which is true wants to see the twins at work.
    """
    if torch.compiler.is_compiling():
        return False  # in a graph: see :func:`_plain`
    active = [
        *_python_dispatch._get_current_dispatch_mode_stack(),
        *overrides._get_current_function_mode_stack(),
    ]
    # A default device changes only where new tensors are.
    return not all(
        isinstance(mode, DeviceContext) or getattr(mode, "sees_twins", False) for mode in active
    )


def applies(*tensors: Tensor) -> bool:
    """Whether twins of every kind may run here on these tensors; see the module's conditions."""
    return enabled() and _plain(tensors)


def find(part: Any, method: str, *arguments: Any) -> Callable[..., Any] | None:
    """Find the twin to run in place of a definition.

    Args:
        part: a part, or a function.
        method: name of the method; empty for a function.
        *arguments: arguments of the method; tensors in tuples, named tuples and lists count too.

    Returns:
        A function of the part and the arguments (of the arguments alone for a function), or
        ``None`` if the definition must run.
    """
    # Most parts have no twin: for them, this lookup must be all that a step pays.
    _load()
    candidates = _twins.get((part if method == "" else type(part), method))
    if not candidates or not enabled():
        return None
    hard = False
    if method:
        known, hard = _looked_at(part)
        if not known:
            return None
    own = arguments if method == "" else (part, *arguments)
    for candidate in candidates:
        if candidate.only_values and torch.is_grad_enabled():
            continue
        if hard and not candidate.hard:
            continue
        if not ((candidate.any_precision or _plain(arguments)) and candidate.fits(*own)):
            continue
        if candidate.reads is None:
            return candidate.run
        read = candidate.reads(*own)
        if read is not None:
            return partial(candidate.run, read=read)
    return None


#: Where the classes are defined whose modules twins know.
_KNOWN = ("memnets.", "torch.nn.modules.")


def untouched(part: Any) -> bool:
    """Whether all modules in a part are PyTorch's or this library's, as their classes make them.

    So none has a hook, or a ``forward`` or ``step`` of its own.
    """
    return _looked_at(part)[0]


@cache
def _is_known(kind: type) -> bool:
    """Whether a class is PyTorch's or this library's."""
    return kind.__module__.startswith(_KNOWN)


# PyTorch asks the same before each call of a module, and has no public name for it.
_hooks_of_all: Callable[[], Any] = nn.modules.module._has_any_global_hook


def _looked_at(part: Any) -> tuple[bool, bool]:
    """Whether a part is :func:`untouched`, and whether an addressing in it is hard."""
    if torch.compiler.is_dynamo_compiling() or not isinstance(part, nn.Module):
        # Twins that a graph can hold call the modules; what is no module has no hooks.
        return True, bool(getattr(part, "hard", False))
    hard = False
    if _hooks_of_all():
        return False, hard
    # A loop, not ``modules()``: this runs at every step.
    stack: list[nn.Module | None] = [part]
    for module in stack:
        if module is None:  # a place that is empty
            continue
        if module is not part and not _is_known(type(module)):  # type: ignore[arg-type]
            return False, hard
        kept = module.__dict__
        if (
            kept["_forward_hooks"]
            or kept["_forward_pre_hooks"]
            or kept["_backward_hooks"]
            or kept["_backward_pre_hooks"]
            or "forward" in kept
            or "step" in kept
        ):
            return False, hard
        hard = hard or bool(kept.get("hard"))
        inner = kept["_modules"]
        if inner:
            stack.extend(inner.values())
    return True, hard


def _load() -> None:
    # Each provider is taken off the list first: its own import may call ``find`` again.
    while PROVIDERS:
        import_module(PROVIDERS.pop(0))


# While a graph is made, this function runs, since an import cannot be a part of the graph. The
# decorator ``torch.compiler.assume_constant_result`` sets the same mark, but takes seconds: it
# loads the compiler.
_load._dynamo_marked_constant = True  # type: ignore[attr-defined]


#: Classes of tensors that hold their numbers themselves, and leave operations to PyTorch.
ORDINARY = (Tensor, nn.Parameter)


def _plain(arguments: Any) -> bool:
    """Whether tensors are ordinary, in single or double precision, outside autocast and graphs."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state():
        return False  # a graph cannot record a twin's own autograd.Function
    device = None
    # A loop, not a recursion: this runs at every step.
    stack = list(arguments)
    while stack:
        argument = stack.pop()
        if isinstance(argument, Tensor):
            if type(argument) not in ORDINARY:
                return False
            device = argument.device.type
            if argument.dtype in (torch.float16, torch.bfloat16):
                return False
        elif isinstance(argument, (tuple, list)):
            stack.extend(argument)
    # PyTorch raises an error when asked about the device "meta".
    return device in (None, "meta") or not torch.is_autocast_enabled(device)
