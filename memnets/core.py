"""The abstractions that everything else stands on. Read this file first.

Every model here does the same three things to a memory, differentiably::

    weights, state = address(query, memory, state)      where
    vector         = read(weights, memory)              what comes back
    memory         = write(memory, weights, ...)        what changes

State is explicit: a tensor, or a (named) tuple of states, with the batch first. It is passed in
and handed back, and no module keeps any of it. To detach, reorder or move a state, use
:func:`map_state`.

Glossary. *Slot*: a row of the memory. *Key*: what a slot is found by. *Value*: what a read of it
returns. *Query*: what a head looks for. *Score*: how well a key answers a query. *Weights*: how
much of each slot a head takes. *Head*: a query of its own on a memory that it shares. *Access*:
all the heads of a memory. *Interface*: the vector that drives them.
*Controller*: the network between input and access. *Strength*: how sharply content is told apart.
*Gate*: content against the previous place. *Shift*: a move to the slots nearby. *Sharpness*: undoes
the blur of a shift.

Letters in shapes: ``*B`` any leading dimensions, ``B`` batch, ``T`` target time, ``S`` source time,
``Q`` queries, ``N`` slots, ``W`` slot width, ``H`` heads, ``K`` key width, ``V`` value width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

from memnets import functional
from memnets.precision import full_precision, full_precision_state

__all__ = [
    "BEGIN",
    "END",
    "MOST_THREADS",
    "PAD",
    "UNKNOWN",
    "Addressing",
    "Batch",
    "Controller",
    "Encoder",
    "Memory",
    "MemoryAccess",
    "Normalizer",
    "Score",
    "check_made",
    "check_memory",
    "check_positive",
    "check_threads",
    "choose_state",
    "make",
    "map_state",
    "padded",
    "unpadded",
]

Part = TypeVar("Part")
Query = TypeVar("Query", default=Any)
State = TypeVar("State", default=Any)


#: Tokens that every task of tokens has: padding, a token never seen in training, and the marks
#: that begin and end an answer.
PAD, UNKNOWN, BEGIN, END = 0, 1, 2, 3


#: Threads that PyTorch may be asked for; more than a machine has make it slower, many more end it.
MOST_THREADS = 256


class Memory(NamedTuple):
    """What can be addressed: slots, each with a key to find it by and a value to read.

    Attributes:
        keys: ``[*B, N, K]``, projected once, by whoever owns the memory.
        values: ``[*B, N, V]``; the keys themselves in NTM and DNC.
        mask: bool ``[*B, 1 or Q, N]``, True = may be addressed; ``None`` = every slot may.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None = None


class Batch(NamedTuple):
    """What a task gives and a model takes: read the source, then answer step by step.

    Attributes:
        source: what the model reads first, ``[B, S, I]`` (or ``[B, S]`` token numbers).
        inputs: what it is given while it answers, ``[B, T, I]`` (or ``[B, T]``).
        targets: what it should answer, ``[B, T, O]`` (or ``[B, T]``).
        source_mask: bool ``[B, S]``, False = padding; ``None`` = no padding.
        target_mask: bool ``[B, T]``, False = padding, not scored; ``None`` = no padding.
        rewards: what each answer would bring, ``[B, T, O]``; ``None`` = answers are right or wrong.
    """

    source: Tensor
    inputs: Tensor
    targets: Tensor
    source_mask: Tensor | None = None
    target_mask: Tensor | None = None
    rewards: Tensor | None = None


def padded(
    rows: Sequence[Sequence[int] | np.ndarray[Any, Any]], dtype: type[np.generic] = np.int64
) -> tuple[Tensor, Tensor | None]:
    """Sequences of tokens or of vectors, filled up to the longest with :data:`PAD`.

    Args:
        rows: B sequences, at least one, each ``[n, ...]``.
        dtype: of the result.

    Returns:
        ``[B, T, ...]``, and a mask, bool ``[B, T]``, False = padding, or ``None`` if nothing is
        padding.
    """
    lengths = np.array([len(row) for row in rows])
    inside = np.arange(lengths.max()) < lengths[:, None]
    steps = np.concatenate(rows)
    filled = np.full((*inside.shape, *steps.shape[1:]), PAD, dtype)
    filled[inside] = steps
    return torch.from_numpy(filled), None if inside.all() else torch.from_numpy(inside)


def unpadded(steps: Tensor, mask: Tensor | None, row: int) -> Tensor:
    """One sequence of a batch without its padding.

    Args:
        steps: ``[B, T, ...]``.
        mask: bool ``[B, T]``, False = padding; ``None`` = no padding.
        row: which sequence.

    Returns:
        ``[n, ...]``.
    """
    return steps[row] if mask is None else steps[row][mask[row]]


def map_state(function: Callable[..., Tensor], state: State, *others: State) -> State:
    """Apply ``function`` to each tensor of a state; structure and ``None`` are kept.

    Args:
        function: takes one tensor of ``state``, and of each of the ``others``.
        state: a tensor, ``None``, or a tuple, named tuple, list or dict of states.
        others: states of the same structure.

    Returns:
        A state of the same structure.

    Raises:
        TypeError: the state holds something else.

    Example:
        ``map_state(torch.detach, state)`` cuts the gradient for truncated back-propagation.
    """
    result: Any
    if isinstance(state, Tensor):
        result = function(state, *others)
    elif state is None:
        result = None
    elif isinstance(state, dict):
        result = {
            key: map_state(function, part, *(other[key] for other in others))  # type: ignore[index]
            for key, part in state.items()
        }
    elif isinstance(state, (tuple, list)):
        parts = [map_state(function, *same) for same in zip(state, *others, strict=True)]
        result = type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    else:
        raise TypeError(
            f"a state is a tensor, None, or a tuple, list or dict of states; "
            f"got {type(state).__name__}"
        )
    return result  # type: ignore[no-any-return]


def choose_state(mask: Tensor, new: State, old: State) -> State:
    """For each sequence of a batch one of two states of the same shapes.

    Args:
        mask: bool ``[B]``; True takes the new state, False the old.
        new: a state.
        old: a state.

    Returns:
        A state.
    """

    def choose(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(mask.view(-1, *[1] * (new.dim() - 1)), new, old)

    return map_state(choose, new, old)


def check_positive(**sizes: int) -> None:
    """Check that each named size is a whole number of at least 1.

    Raises:
        ValueError: one is not.
    """
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a whole number of at least 1; got {size!r}")


def check_threads(threads: int) -> None:
    """Check how many threads are asked for: 1 to 256.

    Raises:
        ValueError: it is another number.
    """
    check_positive(threads=threads)
    if threads > MOST_THREADS:
        raise ValueError(f"threads must be at most {MOST_THREADS}; got {threads}")


#: By the kind of part, what makes one from its sizes: for errors.
_EXAMPLES = {
    "Controller": "partial(LSTM, hidden_size=100)",
    "Encoder": "partial(SelfAttention, layers=3)",
    "Features": "partial(FourierFeatures, frequencies=5)",
    "Model": "partial(SNAIL, max_length=26)",
}


def check_made(name: str, part: object, example: str) -> None:
    """Check that a part is one that is made, where a class is easily given in its place.

    Args:
        name: of the argument.
        part: what was given; ``None`` = no such part.
        example: what might have been given.

    Raises:
        TypeError: it is not.
    """
    if part is not None and not isinstance(part, nn.Module):
        raise TypeError(f"{name} must be an object, such as {example}; got {_named(part)}")


def make(name: str, factory: Callable[..., Part], kind: type, *sizes: int) -> Part:
    """Make a part of which only its owner knows the sizes.

    Args:
        name: of the argument.
        factory: makes the part: its class, or a partial of it.
        kind: of part that it should make.
        sizes: what the factory is given.

    Raises:
        TypeError: a part was given that is made already, or the factory makes one of another kind.
    """
    example = _EXAMPLES.get(kind.__name__, kind.__name__)
    wanted = f"{name} must make a {kind.__name__} when it is given its sizes, such as {example}"
    if isinstance(factory, nn.Module) or not callable(factory):
        raise TypeError(f"{wanted}; got {_named(factory)}")
    part = factory(*sizes)
    known = (Score, Normalizer, Addressing, MemoryAccess, Controller, Encoder)
    if isinstance(part, known) and not isinstance(part, kind):
        raise TypeError(f"{wanted}; got what makes {_named(part)}")
    return part


def _named(part: object) -> str:
    """What came in the place of a part, in words."""
    if isinstance(part, type):
        return f"the class {part.__name__}"
    if isinstance(part, partial):
        return f"a partial of {getattr(part.func, '__name__', part.func)}"
    if isinstance(part, nn.Module):
        return f"an object, {type(part).__name__}(...)"
    return repr(part)


def check_memory(query: Tensor, memory: Memory) -> None:
    """Check that a query and a memory fit together.

    Args:
        query: ``[*B, Q, K]``.
        memory: keys ``[*B, N, K]``, values ``[*B, N, V]``, mask ``[*B, 1 or Q, N]`` or ``None``.

    Raises:
        ValueError: a shape does not fit.
        TypeError: the mask is not boolean.
    """
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
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise TypeError(f"the mask must be boolean, True = may be addressed; got {mask.dtype}")
    if (
        mask.dim() < 2
        or mask.shape[-1] != keys.shape[-2]
        or mask.shape[-2]
        not in (
            1,
            query.shape[-2],
        )
    ):
        raise ValueError(
            f"the mask must be [*B, 1 or Q, N] = [*B, 1 or {query.shape[-2]}, {keys.shape[-2]}]; "
            f"got {list(mask.shape)}"
        )


class _Precise(nn.Module):
    """A part that computes in float32, under autocast and where it is given 16 bits.

    Weights are sums, products and exponentials that 16 bits are too coarse for, or too short of
    range; see :func:`~memnets.precision.full_precision`.
    """

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        for method in ("initial_state", "forward"):
            if method in vars(cls):
                setattr(cls, method, full_precision(vars(cls)[method]))


class Score(_Precise, ABC):
    """How well each key answers each query.

    It is computed in float32. Under autocast it stays so; a module in float16 hands back float16,
    in which scores must lie below 65504.
    """

    @abstractmethod
    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """Score every key for every query.

        Args:
            query: ``[*B, Q, K]``.
            keys: ``[*B, N, K]``.

        Returns:
            ``[*B, Q, N]``, any real numbers.
        """


class Normalizer(_Precise, ABC):
    """From scores to weights: rows on the simplex, computed in float32 where 16 bits are given."""

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise the scores of the slots that may be addressed.

        Args:
            scores: ``[*B, Q, N]``.
            mask: bool ``[*B, 1 or Q, N]``, True = may be addressed.

        Returns:
            ``[*B, Q, N]``; masked slots weigh exactly 0, a row with nothing to address is all 0
            (:func:`memnets.functional.masked`).
        """
        return functional.masked(scores, mask, self.normalize)

    @abstractmethod
    def normalize(self, scores: Tensor) -> Tensor:
        """Map each row to the simplex.

        Args:
            scores: ``[*B, Q, N]``, at least one entry of each row finite, the others may be
                ``-inf``.

        Returns:
            ``[*B, Q, N]``, rows >= 0 that sum to 1, exactly 0 where the score is ``-inf``.
        """


class Addressing(_Precise, ABC, Generic[Query, State]):
    """Where to read or write: from a query to weights over the slots.

    Weights and state are computed in float32 where 16 bits are given; under autocast they are
    float32.
    """

    @abstractmethod
    def initial_state(self, memory: Memory) -> State:
        """State before the first query (``None`` for addressing without a past)."""

    @abstractmethod
    def forward(self, query: Query, memory: Memory, state: State) -> tuple[Tensor, State]:
        """Weigh the slots.

        Args:
            query: what to look for; a tensor ``[*B, Q, K]`` or a named tuple that holds one.
            memory: where to look.
            state: what the last call returned, or :meth:`initial_state`.

        Returns:
            Weights ``[*B, Q, N]``, rows >= 0 that sum to at most 1, and the next state.
        """

    def read(self, query: Query, memory: Memory, state: State) -> tuple[Tensor, State]:
        """Weigh the slots and read them; override only with something equal and faster.

        Returns:
            Vectors ``[*B, Q, V]``, and the next state.
        """
        weights, state = self(query, memory, state)
        return functional.read(weights, memory.values), state


class MemoryAccess(_Precise, ABC, Generic[State]):
    """A memory with its heads: one step reads from it and writes to it.

    A step is computed in float32 where 16 bits are given; under autocast all that it hands back is
    float32, so that a memory keeps its precision however long the sequence. A machine all in
    float16 keeps its state in that: over many steps the gradient of a state may exceed 65504 and
    become NaN, even where that of the inputs does not. Mixed precision has no such limit.

    Heads are driven by an *interface* vector, raw real numbers that a machine makes from its
    controller's output with a linear layer; what they mean, and in which order the heads read and
    write, a subclass says. An access knows no controller.

    Attributes:
        interface_size: width of the interface vector.
        read_size: width of the vector that a step reads, all heads together.
    """

    interface_size: int
    read_size: int

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """State before the first step: memory, weights, and whatever else is carried on.

        Of the device and precision of a parameter or a buffer, as by its ``new_zeros``.
        """

    def head_names(self) -> dict[str, list[str]]:
        """For pictures: attribute of an :class:`Addressing` -> a name for each head it addresses.

        What is not there is drawn as one head; what is no ``Addressing`` is not drawn.
        """
        return {}

    def interface_bias(self) -> Tensor | None:
        """What a machine adds to the first bias of the layer that makes the interface.

        Returns:
            ``[interface_size]``, or ``None`` for nothing, if a subclass does not say otherwise.
        """
        return None

    def kernel(self) -> Any:
        """What takes the steps of :meth:`forward` faster, for machines that run many at once.

        Returns:
            A :class:`memnets.kernels.steps.StepKernel`; ``None``, if a subclass does not say
            otherwise, and for a subclass of one that does, which may take other steps.
        """
        return None

    @abstractmethod
    def forward(self, interface: Tensor, state: State) -> tuple[Tensor, State]:
        """One step.

        Args:
            interface: ``[B, interface_size]``, any real numbers.
            state: what the last step returned, or :meth:`initial_state`.

        Returns:
            What was read, ``[B, read_size]``, and the next state.
        """

    def choose(self, mask: Tensor, new: State, old: State) -> State:
        """The state after a step that only some sequences of the batch have taken.

        Override it where a step changes the shape of the state.

        Args:
            mask: bool ``[B]``; False = the sequence skips the step, as at padding.
            new: the state after the step.
            old: the state before it.
        """
        return choose_state(mask, new, old)


class Controller(nn.Module, ABC, Generic[State]):
    """The network between the input and the memory. It does not know the memory.

    A subclass takes ``input_size`` as its first argument. Under autocast the state is handed on in
    float32.

    Attributes:
        input_size: width of the input.
        hidden_size: width of the output.
    """

    input_size: int
    hidden_size: int

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        for method in ("forward", "unroll"):
            if method in vars(cls):
                setattr(cls, method, full_precision_state(vars(cls)[method]))

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """State before the first step (``None`` for a controller without one)."""

    @abstractmethod
    def forward(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """One step.

        Args:
            inputs: ``[B, input_size]``.
            state: what the last step returned, or :meth:`initial_state`.

        Returns:
            Hidden vector ``[B, hidden_size]``, and the next state.
        """

    def unroll(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """All steps of a sequence; override only with something equal and faster.

        Args:
            inputs: ``[B, T, input_size]``, T >= 1.
            state: what the last step returned, or :meth:`initial_state`.

        Returns:
            Hidden vectors ``[B, T, hidden_size]``, and the state after the last step.
        """
        outputs = []
        for step in inputs.unbind(1):
            hidden, state = self(step, state)
            outputs.append(hidden)
        return torch.stack(outputs, 1), state

    def choose(self, mask: Tensor, new: State, old: State) -> State:
        """The state after a step that only some sequences of the batch have taken.

        Override it where a step changes the shape of the state.

        Args:
            mask: bool ``[B]``; False = the sequence skips the step, as at padding.
            new: the state after the step.
            old: the state before it.
        """
        return choose_state(mask, new, old)


class Encoder(nn.Module, ABC):
    """Reads a whole source and leaves a vector for each step of it, and one for all.

    A subclass takes ``input_size`` as its first argument.

    Attributes:
        input_size: width of the input.
        output_size: width of the vector of a step.
        summary_size: width of the vector for all.
        max_length: steps of the longest source that it can read; ``None`` = any.
    """

    input_size: int
    output_size: int
    summary_size: int
    max_length: int | None = None

    @abstractmethod
    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read a source.

        Args:
            inputs: ``[B, S, input_size]``.
            mask: bool ``[B, S]``, False = padding, which comes after the last step; ``None`` = no
                padding.

        Returns:
            A vector for each step, ``[B, S, output_size]``, whatever it is at padding, and the
            summary, ``[B, summary_size]``.
        """
