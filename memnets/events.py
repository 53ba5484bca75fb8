"""Events: reports of the parts to listeners.

A part calls :func:`report` in its definition and does not know the listeners. Usually there are
none, and a report costs almost nothing. A listener receives the events of all parts that run within
its context::

    with events.listen(lambda event: print(event.step, event.part, event.kind)):
        model.logits(batch)

Kinds, with the shapes of their values:

=============== ================ ===============================================================
kind            reported by      value
=============== ================ ===============================================================
weights         an addressing    weights of each query, ``[*B, Q, N]``
query.<field>   an addressing    a field of its query, if that is a named tuple, ``[*B, Q, ...]``:
                                 strength, gate, shift, sharpness, modes and so on
read            a memory         weights of its read heads, ``[B, H, N]``
write           a memory         weights of its write heads, ``[B, H, N]``
erase           a memory         erase vectors of its write heads, in ``[0, 1]``, ``[B, H, W]``
emptied         a memory         slots that are emptied before the heads write, one-hot
                                 ``[B, H, N]``
add             a memory         vectors that its write heads add, ``[B, H, W]``
remove          a memory         vectors that its write heads take away, ``[B, H, W]``
before          a memory         the slots before the step, ``[B, N, W]``
memory          a memory         the slots after the step, ``[B, N, W]``
usage           a memory         usage of each slot after the step, ``[B, N]``
link            a memory         degree to which slot i was written right after slot j,
                                 ``[B, N, N]``
free_gates      a DNC            degree to which what a read head read is freed, ``[B, H, 1]``
gates           an LRUA          share of a write that goes to the slots read last, ``[B, H, 1]``
actions         a stack          degrees of push, pop and keep of each stack, ``[B, H, 3]``; its
                                 slots are depths, the top first
pushed          a stack          element that each stack is pushed, ``[B, H, W]``
degrees         a neural stack   degrees of push and pop of each stack, queue or deque,
                                 ``[B, H, 2]`` or ``[B, H, 4]``
strengths       a neural stack   strength of each slot after the step, ``[B, H, N]``
moves           a moving tape    degrees of the moves of each head, ``[B, H, 3]``; its slots are
                                 places from the head on, to the right
gates           a moving tape    degree to which each head writes, ``[B, H, 1]``
written         a moving tape    vector that each head writes, ``[B, H, W]``
=============== ================ ===============================================================

A memory with a matrix for each head, such as :class:`memnets.memories.Linear`, reports ``memory``
and ``before`` as ``[B, H, K, V]``, and for each head ``read``, its query, ``[B, H, 1, K]``;
``write``, its keys, ``[B, H, n, K]``; ``add`` and ``remove``, what a write adds and takes away at
its key, ``[B, H, n, V]``; and ``emptied``, the share of each row that decays, ``[B, H, 1, K]``.

Your own parts may report further kinds, and tell the equation of a kind in their ``equations``.
A sequence that skips a step (mask False) reports the step as if it had taken it. Fast twins make no
reports: while there is a listener, the definitions run (:mod:`memnets.fast`), also in place of code
from ``torch.compile``.

An *editor* goes one step further: it may put another value in the place of one that a part is about
to use. A part asks with :func:`offer`, and again there is usually nobody to ask. Addressings and
cells ask for the first four of these in :mod:`memnets.core`, so that your own parts need not:

========== ================ ====================================================================
kind       offered by       value
========== ================ ====================================================================
query      an addressing    its query, a tensor ``[*B, Q, K]`` or a named tuple of tensors
memory     an addressing    the :class:`~memnets.core.Memory` that it is about to address
weights    an addressing    its weights, ``[*B, Q, N]``, before anything is read or written
state      a cell           its state before a step
erase      an NTM, a DNC    as it is reported
add        an NTM, a DNC,   as it is reported
           a SAM
free_gates a DNC            as it is reported
actions    a stack          as it is reported
pushed     a stack          as it is reported
degrees    a neural stack   as it is reported
moves      a moving tape    as it is reported
gates      a moving tape    as it is reported
written    a moving tape    as it is reported
========== ================ ====================================================================

:mod:`memnets.viewing.interventions` has editors for a recorded run.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

__all__ = ["Editor", "Event", "edit", "edited", "listen", "listening", "offer", "report"]


class Event(NamedTuple):
    """A report of a part.

    Attributes:
        step: number of earlier events of this kind from the same part to the same listener. A part
            that takes its steps one by one reports one event for each step.
        part: the part that reports.
        kind: kind of the event, see :mod:`memnets.events`.
        value: the tensor itself, attached to its graph.
    """

    step: int
    part: nn.Module
    kind: str
    value: Tensor


#: Takes a part, the kind of a value, and the value; returns the value that the part shall use.
Editor: TypeAlias = Callable[[nn.Module, str, Any], Any]

_listeners: ContextVar[tuple[Callable[[nn.Module, str, Tensor], None], ...]] = ContextVar(
    "memnets_listeners", default=()
)

_editors: ContextVar[tuple[tuple[frozenset[nn.Module], Editor], ...]] = ContextVar(
    "memnets_editors", default=()
)


@contextmanager
def listen(listener: Callable[[Event], None]) -> Iterator[None]:
    """Call a listener with each event within this context.

    Contexts may be nested: every listener receives every event. Events of other threads are not
    received.
    """
    steps: Counter[tuple[nn.Module, str]] = Counter()

    def hear(part: nn.Module, kind: str, value: Tensor) -> None:
        listener(Event(steps[part, kind], part, kind, value))
        steps[part, kind] += 1

    token = _listeners.set((*_listeners.get(), hear))
    try:
        with _eager():
            yield
    finally:
        _listeners.reset(token)


@contextmanager
def edit(editor: Editor, parts: Collection[nn.Module]) -> Iterator[None]:
    """Let an editor change the values that some parts are about to use, within this context.

    Contexts may be nested: each editor gets what the one around it has made. Reports tell what the
    parts have used.

    Args:
        editor: takes a part, the kind of the value and the value; returns the value to use: the
            same object for no change, else one of the same structure and shapes.
        parts: the parts whose values the editor wants. Of these, a cell takes its steps one by one,
            also where it could take many at once, since its state is offered before each step.
    """
    token = _editors.set((*_editors.get(), (frozenset(parts), editor)))
    try:
        with _eager():
            yield
    finally:
        _editors.reset(token)


def _eager() -> AbstractContextManager[Any]:
    """Code that was compiled before has no reports and no offers, so it must not run."""
    # If the compiler was never loaded, there is none; to load it here would take seconds.
    compiler = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if compiler else nullcontext()


def listening() -> bool:
    """Whether there is a listener or an editor; never within a graph, compiled or exported."""
    return not torch.compiler.is_compiling() and bool(_listeners.get() or _editors.get())


def edited(part: nn.Module) -> bool:
    """Whether an editor wants the values of a part; never within a graph."""
    if torch.compiler.is_compiling():
        return False
    editors = _editors.get()  # asked first: cells within cells come here many times in a step
    return bool(editors) and any(part in parts for parts, _ in editors)


def offer(part: nn.Module, kind: str, value: Any) -> Any:
    """Offer a value to the editors before the part uses it.

    Args:
        part: the part that is about to use the value.
        kind: kind of the value, see :mod:`memnets.events`.
        value: the value.

    Returns:
        The value to use; the same object if nobody changes it.
    """
    if torch.compiler.is_compiling():  # a graph cannot read a context variable
        return value
    for parts, change in _editors.get():
        if part in parts:
            value = change(part, kind, value)
    return value


def report(part: nn.Module, **values: Tensor) -> None:
    """Report events of a part to all listeners.

    Args:
        part: the part that reports.
        values: values of the events, by their kind.
    """
    if torch.compiler.is_compiling():  # a graph cannot read a context variable
        return
    for hear in _listeners.get():
        for kind, value in values.items():
            hear(part, kind, value)
