"""The bridge from the summary of a source to the first state of a decoder."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from memnets.core import Cell, State, map_state
from memnets.precision import full_precision

__all__ = ["Bridge"]


class Bridge(nn.Linear):
    """First state of a decoder from the summary of a source: ``tanh(W summary + b)``.

    It sets every floating-point part of the state (Bahdanau et al. 2015, A.2.2). An empty part,
    such as a tape before the first step, does not change.

    Args:
        summary_size: width of the summary, at least 1.
        controller: the cell that will start from the state.
        extra_size: width of one more vector made by the same layer, at least 0.
    """

    def __init__(self, summary_size: int, controller: Cell, extra_size: int = 0) -> None:
        # The sizes of a state are known only from a state: this one is made for its sizes alone.
        sizes = [extra_size]
        _replace_numbers(controller.initial_state(1), lambda part: sizes.append(part.numel()))
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
        return extra, _replace_numbers(zeros, lambda part: next(rest).reshape(part.shape))


def _replace_numbers(state: State, function: Callable[[Tensor], Tensor | None]) -> State:
    """Apply ``function`` to the floating-point parts; a part stays where it returns ``None``."""

    def replace(part: Tensor) -> Tensor:
        if not part.is_floating_point() or not part.numel():
            return part
        result = function(part)
        return part if result is None else result

    return map_state(replace, state)
