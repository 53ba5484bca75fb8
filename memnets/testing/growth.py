"""Growth: the memory that a run keeps for its backward pass, against the number of its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from memnets.checks import check_positive

__all__ = ["check_growth", "kept_for_backward"]

Result = TypeVar("Result")

#: How many times as many steps the longer run has, and how many times as many bytes it may keep.
#: Linear growth alone gives a factor between 6 and 10: buffers grow by doubling. With T^2 it is
#: up to 64.
_LONGER, _MOST = 8, 12


def kept_for_backward(run: Callable[[], Result]) -> tuple[int, Result]:
    """Count the bytes that a function keeps for its backward pass.

    A storage counts once and as a whole, however many tensors of the graph stand in it. Parameters
    and inputs count too.

    Args:
        run: computes a result that has a gradient.

    Returns:
        The number of bytes, and the result of ``run``.
    """
    bytes_of: dict[int, int] = {}
    kept: list[torch.UntypedStorage] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.append(storage)  # alive to the end, so that no address comes twice
        bytes_of[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    return sum(bytes_of.values()), result


def check_growth(run: Callable[[int], Any], *, weights: int = 0, steps: int = 32) -> None:
    """Check that the memory for the backward pass grows no faster than the number of steps.

    The test counts bytes and takes no times, so that it gives the same result everywhere. It finds
    a state that is copied at each step if a copy is large beside the rest that a step keeps:
    choose wide slots, 32 or more numbers.

    Args:
        run: takes a number of steps, as many as it is given, and returns a result with a gradient.
        weights: numbers that it may keep for each pair of steps, all sequences of the batch
            together, such as the weights of attention.
        steps: number of steps of the shorter run; the longer one has 8 times as many.

    Raises:
        AssertionError: it keeps more than 12 times as many bytes for 8 times as many steps, or
            nothing at all.

    Example:
        ``check_growth(lambda steps: cell.unroll(torch.randn(2, steps, 4), cell.initial_state(2)))``
    """
    check_positive(steps=steps)
    few, _ = kept_for_backward(lambda: run(steps))
    assert few, f"a run of {steps} steps keeps nothing for a backward pass: has it a gradient?"
    many, _ = kept_for_backward(lambda: run(_LONGER * steps))
    allowed = weights * (_LONGER * steps) ** 2 * torch.get_default_dtype().itemsize
    assert many - allowed <= _MOST * few, (
        f"memory for the backward pass grows faster than the number of steps: {few} bytes for "
        f"{steps} steps and {many} for {_LONGER * steps}, {many / few:.1f} times as many; "
        f"at most {_MOST} times, and {allowed} bytes of weights"
    )
