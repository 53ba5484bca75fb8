"""Checks of what comes to a part and of what it returns: one clear line where something is wrong.

Parts are known here by what they have, not by their class, so that a part of a user's own is
checked too: a *cell* is a module with ``input_size``, ``output_size`` and ``initial_state``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

__all__ = [
    "MOST_THREADS",
    "STATES",
    "at_hand",
    "check_addressed",
    "check_finite",
    "check_given",
    "check_mask",
    "check_memory",
    "check_normalized",
    "check_numbers",
    "check_own_state",
    "check_past",
    "check_positive",
    "check_returned",
    "check_source",
    "check_state",
    "check_step",
    "check_steps",
    "check_threads",
    "check_weighed",
]

#: Most threads for PyTorch. More threads than processors slow it down; far more make it crash.
MOST_THREADS = 256


#: Classes of states that cells say they have; of plain tuples there are many.
STATES: set[type] = set()


def check_positive(**sizes: int) -> None:
    """Check that each named size is a whole number of at least 1.

    Raises:
        ValueError: a size is less than 1 or not a whole number.
    """
    for name, size in sizes.items():
        # bool is a subclass of int: ``size=True`` would pass as 1.
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a whole number of at least 1; got {size!r}")


def check_finite(least: float | None = None, **numbers: float) -> None:
    """Check that each named number is finite: a NaN would spread to all that a model computes.

    Args:
        least: the least that it may be; ``None`` = any finite number.
        numbers: by their names.

    Raises:
        ValueError: one is infinite, NaN, no number or too small.
    """
    for name, number in numbers.items():
        try:
            right = math.isfinite(number) and (least is None or number >= least)
        except TypeError:
            right = False
        if not right:
            wanted = "a finite number" if least is None else f"at least {least} and finite"
            raise ValueError(f"{name} must be {wanted}; got {number!r}")


def check_threads(threads: int) -> None:
    """Check that the number of threads is between 1 and 256.

    Raises:
        ValueError: it is not.
    """
    check_positive(threads=threads)
    if threads > MOST_THREADS:
        raise ValueError(f"threads must be at most {MOST_THREADS}; got {threads}")


def check_memory(query: Tensor, memory: Any) -> None:
    """Check that a query and a memory fit together.

    Args:
        query: ``[*B, Q, K]``.
        memory: keys ``[*B, N, K]``, values ``[*B, N, V]``, mask ``[*B, 1 or Q, N]`` or ``None``.
            Keys have as many dimensions as the query, and so have values and mask, unless they are
            those of all sequences, ``[N, V]`` and ``[1 or Q, N]``.

    Raises:
        ValueError: a shape does not fit.
        TypeError: the memory is no ``Memory``, or the mask is not boolean.
    """
    if not isinstance(memory, tuple):
        raise TypeError(
            f"the memory must be a Memory(keys, values, mask); got a {type(memory).__name__}"
        )
    keys, values, mask = memory
    if query.dim() < 2 or keys.dim() < 2 or query.shape[-1] != keys.shape[-1]:
        raise ValueError(
            f"query [*B, Q, K] and keys [*B, N, K] must have the same width K; "
            f"got query {list(query.shape)} and keys {list(keys.shape)}"
        )
    if values.dim() < 2 or keys.shape[-2] != values.shape[-2]:
        raise ValueError(
            f"keys [*B, N, K] and values [*B, N, V] must have the same number of slots N; "
            f"got keys {list(keys.shape)} and values {list(values.shape)}"
        )
    # PyTorch would take a query [B, K] for B queries of one sequence.
    if query.dim() != keys.dim() or values.dim() not in (2, keys.dim()):
        raise ValueError(
            f"query [*B, Q, K], keys [*B, N, K] and values [*B, N, V] must have the same number of "
            f"dimensions; got query {list(query.shape)}, keys {list(keys.shape)} and values "
            f"{list(values.shape)}"
        )
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise TypeError(f"the mask must be boolean, True = may be addressed; got {mask.dtype}")
    queries, slots = query.shape[-2], keys.shape[-2]
    # With a dimension less, the sequences of a mask would be spread over the heads.
    fits = mask.dim() == keys.dim() or (mask.dim() >= 2 and mask.shape[:-2].numel() == 1)
    if not fits or mask.shape[-1] != slots or mask.shape[-2] not in (1, queries):
        raise ValueError(
            f"the mask must be [*B, 1 or Q, N] = [*B, 1 or {queries}, {slots}]; "
            f"got {list(mask.shape)}"
        )


def check_mask(
    mask: Tensor | None, shape: torch.Size, names: str = "[batch, time]", name: str = "the mask"
) -> None:
    """Check a mask of sequences.

    Args:
        mask: the mask, bool ``[B, T]``, False = padding; ``None`` = no padding.
        shape: shape of the sequences, ``[B, T, ...]``.
        names: names of B and T for the message.
        name: name of the mask for the message.

    Raises:
        ValueError: the shape is not ``[B, T]``.
        TypeError: the mask is no tensor, or not boolean.
    """
    if mask is None:
        return
    kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
    if kind != torch.bool:
        raise TypeError(f"{name} must be boolean, False = padding; got {kind}")
    if mask.shape != shape[:2]:
        raise ValueError(f"{name} must be {names} = {list(shape[:2])}; got {list(mask.shape)}")


#: Number of dimensions of a source -> its kind, for messages.
_SOURCES = {
    2: "tokens [B, S]",
    3: "vectors [B, S, I]",
    4: "images [B, height, width, channels]",
}


def check_source(source: Tensor, mask: Tensor | None, dims: Sequence[int] = (2, 3)) -> None:
    """Check the source of a model and its mask.

    Args:
        source: ``[B, S, ...]``, S >= 1: tokens, vectors, or what else ``dims`` allows.
        mask: bool ``[B, S]``, False = padding, behind the last step alone; ``None`` = no padding.
        dims: numbers of dimensions that the source may have.

    Raises:
        ValueError: a shape does not fit, a source is empty, or padding stands before a step.
        TypeError: the mask is not boolean.
    """
    if source.dim() not in dims or source.shape[1] == 0:
        kinds = " or ".join(_SOURCES.get(each, f"of {each} dimensions") for each in dims)
        least = ", all sizes >= 1" if 4 in dims else ", S >= 1"
        raise ValueError(f"source must be {kinds}{least}; got {list(source.shape)}")
    check_mask(mask, source.shape, "[B, S]")
    # Encoders take lengths from the mask, so that a hole within a source would go unseen.
    if mask is not None:
        check_numbers(
            mask[:, 0].all() & (mask[:, 1:] <= mask[:, :-1]).all(),
            "each source must have a step, and padding only after its last step",
        )


def check_numbers(right: Tensor, expected: str, found: Callable[[], str] | None = None) -> None:
    """Check what only the numbers in a tensor tell.

    Where Python may not look at them, the check becomes an operation: in a graph that is compiled,
    and on a device that the host would have to wait for. It then raises a RuntimeError without
    what was found. Under ``torch.func.vmap`` there is no check.

    Args:
        right: bool ``[]``, whether the numbers are right.
        expected: what is right, for the message.
        found: describes what came, for the message.

    Raises:
        ValueError: the numbers are not right.
    """
    if at_hand(right):
        if not right:
            raise ValueError(expected if found is None else f"{expected}; got {found()}")
    elif torch.compiler.is_compiling() or not _batched(right):
        torch._assert_async(right, expected)


def at_hand(tensor: Tensor) -> bool:
    """Whether Python may look at the numbers in a tensor: on the CPU, and not in a graph.

    A fake tensor, which stands for one in a graph that is about to be made, has none.
    """
    if torch.compiler.is_compiling() or isinstance(tensor, FakeTensor):
        return False
    return tensor.device.type == "cpu" and not _batched(tensor)


def _batched(tensor: Tensor) -> bool:
    """Whether ``torch.func.vmap`` maps over a tensor."""
    # PyTorch has no public name for it. A tensor of ``torch.func.grad`` may hold one of vmap.
    while torch._C._functorch.is_gradtrackingtensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return torch._C._functorch.is_batchedtensor(tensor)


def check_given(
    cell: Any, inputs: Tensor, state: Any, dims: int = 2, mask: Tensor | None = None
) -> None:
    """Check inputs and state of a step, or with ``dims = 3`` of all steps, and their mask."""
    # Cells within cells come here many times in a step, nearly always with what is right: a look
    # tells. The checks with the messages run only where the look is not enough.
    if mask is None and _fits(cell, inputs, state, dims):
        return
    if dims == 2:
        check_step(cell, inputs)
    else:
        check_steps(cell, inputs, mask)
    check_state(cell, inputs, state)


def _fits(cell: Any, inputs: Any, state: Any, dims: int) -> bool:
    """Whether inputs and state are right at a look; False may also mean that more must be asked."""
    if not isinstance(inputs, Tensor):
        return False
    shape, kind = inputs.shape, cell._state_class
    if len(shape) != dims or shape[-1] != getattr(cell, "input_size", None):
        return False
    if dims == 3 and shape[1] == 0:
        return False
    if state is None:
        return kind is type(None)
    return (kind is None or type(state) is kind) and _of_batch(state, shape[0])


def _of_batch(state: Any, batch: int) -> bool:
    """Whether a state is made of tensors of this batch, in tuples and named tuples alone."""
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, tuple):
            if not _of_batch(part, batch):
                return False
        elif isinstance(part, Tensor):
            shape = part.shape
            if not shape or shape[0] != batch:
                return False
        elif part is not None:
            return False
    return True


def check_step(cell: nn.Module, inputs: Tensor) -> None:
    """Check the shape of the input of one step, ``[B, input_size]``.

    Raises:
        TypeError: it is no tensor.
        ValueError: it has another shape.
    """
    _check_inputs(cell, inputs, 2)


def check_steps(cell: nn.Module, inputs: Tensor, mask: Tensor | None) -> None:
    """Check the shapes of what a cell or an encoder reads, ``[B, T, input_size]``, and of its mask.

    Raises:
        ValueError: inputs or mask have another shape, or there is no step.
        TypeError: the inputs are no tensor, or the mask is not boolean.
    """
    _check_inputs(cell, inputs, 3)
    check_mask(mask, inputs.shape[:2])


def _check_inputs(cell: nn.Module, inputs: Tensor, dims: int) -> None:
    # A cell need not say how wide its input is.
    width = getattr(cell, "input_size", None)
    if not isinstance(inputs, Tensor):
        raise TypeError(
            f"the inputs of {type(cell).__name__} must be a tensor; got {type(inputs).__name__}"
        )
    fits = inputs.dim() == dims and width in (None, inputs.shape[-1])
    none = fits and dims == 3 and inputs.shape[1] == 0
    if fits and not none:
        return
    wanted, other = {
        2: ("one step of {} takes inputs [batch, {}]", "for all steps of a sequence call unroll"),
        3: ("the steps of {} take inputs [batch, time, {}]", "for one step call step"),
    }[dims]
    raise ValueError(
        wanted.format(type(cell).__name__, "width" if width is None else width)
        + (", time >= 1" if none else "")
        + f"; got {list(inputs.shape)}"
        + (f"; {other}" if inputs.dim() == 5 - dims else "")
    )


def check_state(cell: nn.Module, inputs: Tensor, state: Any) -> None:
    """Check that a state is one of a cell's own, for the batch of the inputs, ``[B, ...]``.

    Raises:
        ValueError: there is no state, or it is one of another batch.
        TypeError: it is one of another kind of cell.
    """
    name, kind = type(cell).__name__, getattr(cell, "_state_class", None)
    if state is None:
        # Of a cell that does not say what its state is, the first one tells.
        if kind is None and cell.initial_state(inputs.shape[0]) is None:  # type: ignore[operator]
            return
        if kind is type(None) or _starts_itself(cell):
            return
        raise ValueError(
            f"a step of {name} takes the state that the last step returned, or at first that of "
            "initial_state(batch_size); got None"
        )
    other = not _alike(kind, state)
    if kind is tuple and isinstance(state, tuple) and type(state) in STATES:
        # A named tuple is a tuple too, but mostly that of another cell: the first state tells.
        other = type(state) is not type(cell.initial_state(inputs.shape[0]))  # type: ignore[operator]
    if kind is not None and other:
        wanted = "has no state" if kind is type(None) else f"has a state {kind.__name__}"
        raise TypeError(f"{name} {wanted}; got one of another cell, {type(state).__name__}")
    found = _other_batch(state, inputs.shape[0])
    if found is not None:
        raise ValueError(
            f"{name} takes inputs and a state of one batch, which comes first in both; got inputs "
            f"{list(inputs.shape)}, and a part of a state {found}; what all sequences share may be "
            "kept in the cell"
        )


def _starts_itself(part: nn.Module, place: int = 1) -> bool:
    """Whether the step of a cell, or another part, has a default for its state."""
    state = list(signature(part.forward).parameters.values())[place : place + 1]
    return bool(state) and state[0].default is not Parameter.empty


def _other_batch(state: Any, batch: int) -> list[int] | None:
    """Shape of the first part of a state that is not for this batch; ``None`` if there is none."""
    if isinstance(state, Tensor):
        # A number alone is for the whole batch.
        fits = state.dim() == 0 or state.shape[0] == batch
        return None if fits else list(state.shape)
    if isinstance(state, (tuple, list)):
        for part in state:
            other = _other_batch(part, batch)
            if other is not None:
                return other
    elif isinstance(state, dict):
        return _other_batch(list(state.values()), batch)
    return None


def check_weighed(
    part: nn.Module, method: str, what: str, found: Any, query: Tensor, keys: Tensor
) -> None:
    """Check that a part has given a number for each query and each slot, ``[*B, Q, N]``."""
    shape = (query.shape[-2], keys.shape[-2])
    if isinstance(found, Tensor) and found.shape[-2:] == shape and _like(found, query):
        return
    raise TypeError(
        f"{type(part).__name__}.{method} must return {what} [*B, Q, N] = [*B, {shape[0]}, "
        f"{shape[1]}] of the type of the query, {query.dtype}; got {_described(found)}"
    )


def check_normalized(part: nn.Module, weights: Any, scores: Tensor) -> None:
    """Check that a normalizer has given a weight for each score.

    Raises:
        TypeError: it has given something else.
    """
    if isinstance(weights, Tensor) and weights.shape == scores.shape and _like(weights, scores):
        return
    raise TypeError(
        f"{type(part).__name__}.normalize must return weights of the shape of its scores, "
        f"{list(scores.shape)}, and of their type, {scores.dtype}; got {_described(weights)}"
    )


def check_addressed(part: nn.Module, result: Any, query: Any, memory: Any) -> None:
    """Check that an addressing has given weights, ``[*B, Q, N]``, and a state.

    Raises:
        TypeError: it has given something else.
    """
    keys = memory[0]
    # A query of several fields says only in its class which of them has a row for each query.
    queries = query.shape[-2] if isinstance(query, Tensor) else None
    if isinstance(result, tuple) and len(result) == 2:
        weights = result[0]
        if (
            isinstance(weights, Tensor)
            and weights.dim() == keys.dim()
            and weights.shape[-1] == keys.shape[-2]
            and queries in (None, weights.shape[-2])
            and _like(weights, keys)
        ):
            return
        got = f"{_described(weights)} as weights"
    else:
        got = _described(result)
    shape = f"[*B, {'Q' if queries is None else queries}, {keys.shape[-2]}]"
    raise TypeError(
        f"{type(part).__name__}.forward must return weights [*B, Q, N] = {shape} of the type of "
        f"the keys, {keys.dtype}, and the next state; got {got}"
    )


def check_past(part: Any, memory: Any) -> None:
    """Check that an addressing which is given no state has no past.

    Raises:
        ValueError: it has one.
    """
    # What is no memory is named by the step. Of an addressing that does not say what its state is,
    # the first one tells.
    if not isinstance(memory, tuple) or _starts_itself(part, 2):
        return
    if part._state_class is None and part.initial_state(memory) is None:
        return
    raise ValueError(
        f"{type(part).__name__} takes the state that its last call returned, or at first that of "
        "initial_state(memory); got None"
    )


def check_returned(cell: Any, inputs: Tensor, result: Any, method: str = "forward") -> None:
    """Check that a cell has given its outputs, ``[B, (T,) output_size]``, and a state of its own.

    What follows would only say that some shapes differ, and not whose.

    Raises:
        TypeError: it has given something else.
    """
    steps, width = inputs.shape[:-1], getattr(cell, "output_size", None)
    if isinstance(result, tuple) and len(result) == 2:
        outputs, state = result
        if (
            isinstance(outputs, Tensor)
            and (width is None or outputs.shape == (*steps, width))
            and _like(outputs, inputs)
        ):
            check_own_state(cell, state, steps[0], method)
            return
        got = f"{_described(outputs)} as outputs"
    else:
        got = _described(result)
    names = ", ".join(("batch", "time")[: len(steps)])
    raise TypeError(
        f"{type(cell).__name__}.{method} must return outputs [{names}, {cell._sizes[1]}] = "
        f"{[*steps, width]} of the type of its inputs, {inputs.dtype}, and the next state; "
        f"got {got}"
    )


def check_own_state(cell: Any, state: Any, batch: int, method: str) -> None:
    """Check that a state which a cell has made is of its kind, and for this batch."""
    name, kind = type(cell).__name__, cell._state_class
    if kind is not None and not _alike(kind, state):
        raise TypeError(
            f"{name}.{method} must return a state {kind.__name__}, as the brackets of its base "
            f"say; got {_described(state)}"
        )
    found = _other_batch(state, batch)
    if found is not None:
        raise TypeError(
            f"{name}.{method} must return a state of {batch} sequences, [{batch}, ...]; got a part "
            f"{found}; what all sequences share may be kept in the cell"
        )


def _alike(kind: type | None, state: Any) -> bool:
    """Whether a state is of a kind, or the kind is unknown."""
    # A tuple and a list without names are the same state, as one that a file has brought back.
    return kind is None or isinstance(state, kind) or {kind, type(state)} == {list, tuple}


def _like(result: Tensor, given: Tensor) -> bool:
    """Whether a result has real numbers, and those in double precision where what came has."""
    # 16 bits and 32 may meet: a state keeps 32 under autocast.
    double = torch.float64
    return result.is_floating_point() and (result.dtype == double) == (given.dtype == double)


def _described(value: object) -> str:
    """A short text of something that a part has returned, for an error message."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {value.dtype}"
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"
