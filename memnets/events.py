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
before          a memory         the slots before the step, ``[B, N, W]``
memory          a memory         the slots after the step, ``[B, N, W]``
usage           a memory         usage of each slot after the step, ``[B, N]``
link            a memory         degree to which slot i was written right after slot j,
                                 ``[B, N, N]``
free_gates      a DNC            degree to which what a read head read is freed, ``[B, H, 1]``
gates           an LRUA          share of a write that goes to the slots read last, ``[B, H, 1]``
=============== ================ ===============================================================

Your own parts may report further kinds, and tell the equation of a kind in their ``equations``.
A sequence that skips a step (mask False) reports the step as if it had taken it. Fast twins make no
reports: while there is a listener, the definitions run (:mod:`memnets.fast`), also in place of code
from ``torch.compile``.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Event", "listen", "listening", "report"]


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


_listeners: ContextVar[tuple[Callable[[nn.Module, str, Tensor], None], ...]] = ContextVar(
    "memnets_listeners", default=()
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

    # Code that was compiled before has no reports, so it must not run. If the compiler was never
    # loaded, there is none; to load it here would take seconds.
    compiler = "torch._dynamo" in sys.modules
    token = _listeners.set((*_listeners.get(), hear))
    try:
        with torch.compiler.set_stance("force_eager") if compiler else nullcontext():
            yield
    finally:
        _listeners.reset(token)


def listening() -> bool:
    """Whether there is a listener; never within a graph that is compiled or exported."""
    return not torch.compiler.is_compiling() and bool(_listeners.get())


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
