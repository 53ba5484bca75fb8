"""From the summary of a source to the first state of a decoder."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from memnets.core import Cell, State, map_state
from memnets.precision import full_precision

__all__ = ["Bridge"]


class Bridge(nn.Linear):
    """First state of a decoder from the summary of a source: ``tanh(W summary + b)``.

    Sets every part of the state that holds real numbers (Bahdanau et al. 2015, A.2.2). A part of no
    size, such as a tape before the first step, stays as it is.

    Args:
        summary_size: width of the summary, at least 1.
        controller: the cell that will start from the state.
        extra_size: width of one more vector that is made likewise, at least 0.
    """

    def __init__(self, summary_size: int, controller: Cell, extra_size: int = 0) -> None:
        sizes = [extra_size]
        _replace_numbers(controller.initial_state(1), lambda part: sizes.append(part.numel()))
        super().__init__(summary_size, sum(sizes))
        self.sizes = sizes

    @full_precision
    def first_state(self, summary: Tensor, controller: Cell[State]) -> tuple[Tensor, State]:
        """``[B, summary_size] ->`` the extra vector ``[B, extra_size]``, and the state.

        Under autocast both are float32, as a controller's states are.
        """
        extra, *parts = self(summary).tanh().split(self.sizes, -1)
        rest = iter(parts)
        zeros = controller.initial_state(len(summary))
        return extra, _replace_numbers(zeros, lambda part: next(rest).reshape(part.shape))


def _replace_numbers(state: State, function: Callable[[Tensor], Tensor | None]) -> State:
    """Apply ``function`` to the parts of real numbers; a part for which it gives ``None`` stays."""

    def replace(part: Tensor) -> Tensor:
        if not part.is_floating_point() or not part.numel():
            return part
        result = function(part)
        return part if result is None else result

    return map_state(replace, state)
