"""Events: parts report what they do, to whoever listens.

A part calls :func:`report` in its definition and does not know who listens; mostly nobody does, and
then a report costs next to nothing. A listener hears all parts that run within its block::

    with events.listen(lambda event: print(event.step, event.part, event.kind)):
        model.logits(batch)

Kinds, with the shapes of their values:

========== ================ ====================================================================
kind       reported by      value
========== ================ ====================================================================
weights    an addressing    what each query takes of each slot, ``[*B, Q, N]``
read       a memory         weights of its read heads, ``[B, H, N]``
write      a memory         weights of its write heads, ``[B, H, N]``
erase      a memory         the share that each write head erases where it writes, ``[B, H, W]``
emptied    a memory         slots that are emptied before the heads write, one-hot ``[B, H, N]``
add        a memory         vectors that its write heads add, ``[B, H, W]``
memory     a memory         the slots after the step, ``[B, N, W]``
usage      a memory         how much each slot is in use after the step, ``[B, N]``
link       a memory         how far slot i was written right after slot j, ``[B, N, N]``
========== ================ ====================================================================

A part of one's own may report kinds of its own. A sequence that skips a step (mask False) reports
what the step would have done. Fast twins make no reports: while anybody listens, the definitions
run (:mod:`memnets.fast`), also in place of what ``torch.compile`` has made of them.
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
    """Something that a part did.

    Attributes:
        step: how many events of this kind the part reported before, since the listener listens. A
            part that takes its steps one by one reports one event a step.
        part: who reports it.
        kind: what it is, see :mod:`memnets.events`.
        value: the tensor itself, with its gradient.
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
    """Call the listener with each event that is reported within the block.

    Blocks may be nested: every listener hears every event. Other threads are not heard.
    """
    steps: Counter[tuple[nn.Module, str]] = Counter()

    def hear(part: nn.Module, kind: str, value: Tensor) -> None:
        listener(Event(steps[part, kind], part, kind, value))
        steps[part, kind] += 1

    # A graph that was compiled before holds no reports. To load the compiler takes seconds.
    compiler = "torch._dynamo" in sys.modules
    token = _listeners.set((*_listeners.get(), hear))
    try:
        with torch.compiler.set_stance("force_eager") if compiler else nullcontext():
            yield
    finally:
        _listeners.reset(token)


def listening() -> bool:
    """Whether anybody listens; nobody does in a graph that is compiled or exported."""
    return not torch.compiler.is_compiling() and bool(_listeners.get())


def report(part: nn.Module, **values: Tensor) -> None:
    """Tell all listeners what a part did.

    Args:
        part: who reports.
        values: kind -> value, an event each.
    """
    if torch.compiler.is_compiling():  # a graph cannot read a context variable
        return
    for hear in _listeners.get():
        for kind, value in values.items():
            hear(part, kind, value)
