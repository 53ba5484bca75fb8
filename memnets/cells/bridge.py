"""The bridge from the summary of a source to the first state of a decoder."""

from __future__ import annotations

from torch import Tensor, nn

from memnets.core import Cell, State, map_free
from memnets.precision import full_precision

__all__ = ["Bridge"]


class Bridge(nn.Linear):
    """First state of a decoder from the summary of a source: ``tanh(W summary + b)``.

    It sets each part of the state that may hold any numbers (Bahdanau et al. 2015, A.2.2;
    :meth:`memnets.core.Cell.map_free`). A memory begins as it always does.

    Args:
        summary_size: width of the summary, at least 1.
        controller: the cell that will start from the state.
        extra_size: width of one more vector made by the same layer, at least 0.
    """

    def __init__(self, summary_size: int, controller: Cell, extra_size: int = 0) -> None:
        sizes = [extra_size]

        def measure(part: Tensor) -> Tensor:
            sizes.append(part.numel())
            return part

        # The sizes of a state are known only from a state: this one is made for its sizes alone.
        map_free(controller, measure, controller.initial_state(1))
        super().__init__(summary_size, sum(sizes))
        self.sizes = sizes

    @full_precision
    def first_state(self, summary: Tensor, controller: Cell[State]) -> tuple[Tensor, State]:
        """The extra vector ``[B, extra_size]`` and the state, from a summary ``[B, summary_size]``.

        Under autocast both are float32, as a controller's states are.
        """
        extra, *parts = self(summary).tanh().split(self.sizes, -1)
        rest = iter(parts)
        zeros = controller.initial_state(len(summary))
        return extra, map_free(controller, lambda part: next(rest).reshape(part.shape), zeros)
