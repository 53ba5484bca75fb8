"""Memory machines: any controller on any memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from memnets.cells.composed import Loop
from memnets.cells.embeddings import Inputs, OneHot
from memnets.cells.positions import PeriodicPositions
from memnets.checks import check_positive
from memnets.core import Cell, MemoryAccess
from memnets.factories import make
from memnets.models.sequence import SequenceModel

__all__ = ["MemoryMachine"]


class MemoryMachine(SequenceModel):
    """A controller that reads and writes a memory, step by step (Graves et al. 2014, figure 1).

    Its body is a :class:`~memnets.cells.Loop`, or a controller alone. With ``[h_t, r_t]`` from the
    loop, ``y_t = V [h_t, r_t] + b``. A token counts as a one-hot vector.

    An LSTM of one layer or a feed-forward controller on an NTM, a DNC, a stack, queue or deque,
    or a tape that moves takes all its steps as one node of the graph, in C++ where there is a
    compiler (:mod:`memnets.kernels.native`), else, an LSTM without a mask on an NTM or a DNC, in
    operations of PyTorch (:mod:`memnets.kernels.loop`).

    Args:
        input_size: width of the input, at least 1.
        output_size: width of the output, at least 1.
        controller: makes the controller from the width of its input, that of the machine's input
            and the vector read together: a class, its other arguments given.
        access: the memory with its heads; ``None`` = a machine without memory, the baseline.
        clock: period of a clock, at least 2: a learned vector for the number of the step modulo
            this period is added to ``sqrt(input_size)`` times each input
            (:class:`~memnets.cells.PeriodicPositions`). Of the length of a sequence it tells
            the remainder alone. ``None`` = no clock, and inputs as they are, as in the papers.
        settings: see :class:`~memnets.models.Model`.

    Example:
        ``MemoryMachine(9, 8, partial(LSTM, hidden_size=100), NTM(slots=128, width=20))``
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        controller: Callable[[int], Cell],
        access: MemoryAccess | None = None,
        clock: int | None = None,
        **settings: Any,
    ) -> None:
        check_positive(input_size=input_size, output_size=output_size)
        if clock is not None and clock < 2:
            raise ValueError(f"clock must be at least 2; got {clock}")
        body: Cell
        if access is None:
            body = make("controller", controller, Cell, input_size)
        else:
            body = Loop(input_size, controller, access)
        # No embedding: the machine sees vectors unchanged, as in the papers.
        one_hot = OneHot(input_size)
        ticks = None if clock is None else PeriodicPositions(input_size, clock)
        output = nn.Linear(body.output_size, output_size)
        super().__init__(Inputs(one_hot, one_hot, ticks), body, output, **settings)
        self.input_size = input_size

    @property
    def access(self) -> MemoryAccess | None:
        """The memory with its heads; ``None`` for a machine without memory."""
        return self.body.access if isinstance(self.body, Loop) else None

    @property
    def controller(self) -> Cell:
        """The network between the input and the memory."""
        return self.body.controller if isinstance(self.body, Loop) else self.body

    @property
    def interface(self) -> nn.Linear:
        """Layer from the controller's output to the interface of the memory.

        Raises:
            AttributeError: the machine has no memory.
        """
        if not isinstance(self.body, Loop):
            raise AttributeError("a machine without memory has no interface")
        return self.body.interface
