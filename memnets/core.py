"""The abstractions that everything else stands on. Read this file first.

Every model here does the same three things to a memory, differentiably::

    weights, state = address(query, memory, state)      where
    vector         = read(weights, memory)              what comes back
    memory         = write(memory, weights, ...)        what changes

State is explicit: a tensor, or a (named) tuple of states, with the batch first. A call takes a
state and returns the next one; no module keeps any of it. To detach, reorder or move a state, use
:func:`map_state`.

Glossary. *Slot*: a row of the memory. *Key*: the vector by which a slot is found. *Value*: the
vector that a read of a slot returns. *Query*: the vector that a head looks for. *Score*: a number
that says how well a key answers a query. *Weights*: the share of each slot in a read or a write.
*Head*: one query on a memory; several heads share a memory. *Access*: a memory with all its heads.
*Interface*: the vector that drives an access. *Controller*: the network between input and access.
*Cell*: a part that takes steps over state; controllers and accesses are cells. *Strength*: a factor
on the scores; a large one makes the weights sharp. *Gate*: the balance between content and the
weights of the last step. *Shift*: a move to slots nearby. *Sharpness*: a power of the weights that
undoes the blur of a shift.

Letters in shapes: ``*B`` any leading dimensions, ``B`` batch, ``T`` target time, ``S`` source time,
``Q`` queries, ``N`` slots, ``W`` slot width, ``H`` heads, ``K`` key width, ``V`` value width.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial, wraps
from inspect import Parameter, signature
from types import UnionType
from typing import Annotated, Any, ClassVar, Generic, NamedTuple, get_args, get_origin

import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

from memnets import events, fast, functional
from memnets._moved import moved
from memnets.batches import Batch, Places, cleared, cleared_steps, short_repr
from memnets.checks import (
    STATES,
    at_hand,
    check_addressed,
    check_given,
    check_normalized,
    check_own_state,
    check_past,
    check_positive,
    check_returned,
    check_step,
    check_steps,
    check_weighed,
)
from memnets.precision import full_precision, full_precision_state

__all__ = [
    "Addressing",
    "Cell",
    "Controller",
    "Embedder",
    "Encoded",
    "Encoder",
    "EncoderDecoder",
    "Memory",
    "MemoryAccess",
    "Normalizer",
    "Score",
    "choose_state",
    "map_free",
    "map_state",
    "new_zeros",
]

Part = TypeVar("Part")
Function = TypeVar("Function", bound=Callable[..., Any])
Query = TypeVar("Query", default=Any)
State = TypeVar("State", default=Any)


class Memory(NamedTuple):
    """Slots that can be addressed: each has a key to find it by and a value to read.

    Attributes:
        keys: ``[*B, N, K]``, already projected by the owner of the memory.
        values: ``[*B, N, V]``; in NTM and DNC the same tensor as the keys.
        mask: bool ``[*B, 1 or Q, N]``, or ``[1 or Q, N]`` for all sequences, True = may be
            addressed; ``None`` = every slot may.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None = None

    def __repr__(self) -> str:
        return short_repr(self)


def map_state(
    function: Callable[..., Tensor], state: State, *others: State, keep: type | None = None
) -> State:
    """Apply ``function`` to each tensor of a state and keep the structure.

    Args:
        function: takes one tensor of ``state`` and the matching tensor of each of the ``others``.
        state: a tensor, ``None``, or a tuple, named tuple, list or dict of states.
        others: states of the same structure.
        keep: a class of named tuples that stay unchanged.

    Returns:
        A state of the same structure, with ``None`` where ``state`` has ``None``.

    Raises:
        TypeError: the state holds an object of another type.

    Example:
        ``map_state(torch.detach, state)`` cuts the gradient for truncated back-propagation.
    """
    result: Any
    if isinstance(state, Tensor):
        result = function(state, *others)
    elif state is None:
        result = None
    elif keep is not None and isinstance(state, keep):
        result = state
    elif isinstance(state, dict):
        result = {
            key: map_state(function, part, *(other[key] for other in others), keep=keep)  # type: ignore[index]
            for key, part in state.items()
        }
    elif isinstance(state, (tuple, list)):
        parts = [map_state(function, *same, keep=keep) for same in zip(state, *others, strict=True)]
        result = type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    else:
        raise TypeError(
            f"a state is a tensor, None, or a tuple, list or dict of states; "
            f"got {type(state).__name__}"
        )
    return result  # type: ignore[no-any-return]


def choose_state(mask: Tensor, new: State, old: State) -> State:
    """Choose one of two states for each sequence of a batch.

    Args:
        mask: bool ``[B]``; True takes the new state, False the old.
        new: a state.
        old: a state of the same structure and shapes.

    Returns:
        A state of the same structure and shapes.
    """

    def choose(new: Tensor, old: Tensor) -> Tensor:
        # The mask gets a dimension of 1 for each dimension behind the batch, to broadcast.
        return torch.where(mask.view(-1, *[1] * (new.dim() - 1)), new, old)

    return map_state(choose, new, old)


def new_zeros(shape: Sequence[int], *parts: nn.Module) -> Tensor:
    """Zeros with the type and the device of a part, whatever layers a user has put into it.

    Args:
        shape: shape of the result.
        parts: the first parameter or buffer of real numbers in the first part that has one decides;
            if there is none, PyTorch's defaults do.
    """
    for part in parts:
        for tensor in itertools.chain(part.parameters(), part.buffers()):
            if tensor.is_floating_point():
                return tensor.new_zeros(shape)
    return torch.zeros(shape)


def map_free(cell: Any, function: Callable[[Tensor], Tensor], state: State) -> State:
    """:meth:`Cell.map_free`, also of a cell that is duck-typed: it may lack the method."""
    own = getattr(cell, "map_free", None)
    mapped: State = Cell.map_free(cell, function, state) if own is None else own(function, state)
    return mapped


class _Precise(nn.Module):
    """A part that computes in float32, under autocast and with 16-bit inputs.

    Weights are sums, products and exponentials. 16 bits lack the precision or the range for them;
    see :func:`~memnets.precision.full_precision`.
    """

    #: Equation of the events of a kind that the part reports or takes part in, with its source, for
    #: those who look (:mod:`memnets.viewing.watch`).
    equations: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        # Methods that the subclass inherits were wrapped when their own class was made.
        for method in ("initial_state", "forward"):
            if method in vars(cls):
                setattr(cls, method, full_precision(vars(cls)[method]))


class Score(_Precise, ABC):
    """Base class for scores: measures of how well each key answers each query.

    Scores are computed in float32. Under autocast the result stays float32. A module in float16
    returns float16, so its scores must lie below 65504.
    """

    def __call__(self, query: Tensor, keys: Tensor) -> Tensor:
        """Scores, see :meth:`forward`.

        Raises:
            TypeError: ``forward`` returns something else.
        """
        scores: Tensor = super().__call__(query, keys)
        check_weighed(self, "forward", "scores", scores, query, keys)
        return scores

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
    """Base class for functions from scores to weights: rows on the simplex.

    Weights are computed in float32, for 16-bit scores too.
    """

    def forward(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise the scores of the slots that may be addressed.

        Args:
            scores: ``[*B, Q, N]``.
            mask: bool ``[*B, 1 or Q, N]``, True = may be addressed.

        Returns:
            ``[*B, Q, N]``; masked slots have weight exactly 0, and a row without an open slot is
            all 0 (:func:`memnets.functional.masked`).

        Raises:
            TypeError: :meth:`normalize` returns something else.
        """
        return functional.masked(scores, mask, self._normalized)

    def _normalized(self, scores: Tensor) -> Tensor:
        weights = self.normalize(scores)
        check_normalized(self, weights, scores)
        return weights

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
    """Base class for functions from a query to weights over the slots of a memory.

    The weights say where to read or write. Weights and state are computed in float32, for 16-bit
    inputs too; under autocast they stay float32. A subclass defines them in ``forward``; a call
    reports the weights, and the fields of a query that is a named tuple, to all listeners
    (:mod:`memnets.events`).

    Attributes:
        hard: whether a call gives one-hot weights in place of those that ``forward`` defines, with
            the gradient of these (:func:`memnets.functional.harden`). It may be changed at any
            time; :attr:`MemoryAccess.hard` changes it for all heads of a memory.
    """

    hard: bool = False

    #: Class of the state, ``NoneType`` for addressing without a past; ``None`` = unknown.
    _state_class: ClassVar[type | None] = None

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        cls._state_class = _known_state(cls, Addressing)

    def __call__(self, query: Query, memory: Memory, state: Any = None) -> tuple[Tensor, State]:
        """Weigh the slots, see :meth:`forward`; ``state`` may be left out if there is no past.

        Raises:
            ValueError: a state is needed, and there is none.
            TypeError: ``forward`` returns something else than weights and a state.
        """
        if state is None and self._state_class is not type(None):
            check_past(self, memory)
        if not events.listening():
            result: tuple[Tensor, State] = super().__call__(query, memory, state)
            check_addressed(self, result, query, memory)
            return self._chosen(*result) if self.hard else result
        query = events.offer(self, "query", query)
        memory = events.offer(self, "memory", memory)
        result = super().__call__(query, memory, state)
        check_addressed(self, result, query, memory)
        weights, state = result
        if self.hard:
            weights, state = self._chosen(weights, state)
        used = events.offer(self, "weights", weights)
        if used is not weights:
            state = _replaced(state, weights, used)
        fields = query._asdict() if hasattr(query, "_asdict") else {}
        tensors = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
        events.report(self, **{f"query.{name}": value for name, value in tensors.items()})
        events.report(self, weights=used)
        return used, state

    def _chosen(self, weights: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One-hot weights, and the state with them."""
        hard = functional.harden(weights)
        return hard, _replaced(state, weights, hard)

    @abstractmethod
    def initial_state(self, memory: Memory) -> State:
        """State before the first query (``None`` for addressing without a past)."""

    @abstractmethod
    def forward(self, query: Query, memory: Memory, state: State) -> tuple[Tensor, State]:
        """Weigh the slots.

        Args:
            query: a tensor ``[*B, Q, K]``, or a named tuple that holds one.
            memory: the memory to address.
            state: the state that the last call returned, or :meth:`initial_state`.

        Returns:
            Weights ``[*B, Q, N]``, rows >= 0 that sum to at most 1, and the next state.
        """

    def field_names(self, field: str, size: int) -> Sequence[str]:
        """Names of the numbers of a query's field, for pictures.

        Args:
            field: name of the field.
            size: how many numbers it has.

        Returns:
            ``size`` names, by default the numbers from 1 on.
        """
        return [str(number + 1) for number in range(size)]

    def read(self, query: Query, memory: Memory, state: Any = None) -> tuple[Tensor, State]:
        """Weigh the slots and read their values, by a fast twin where one fits.

        Args:
            query: as in a call.
            memory: as in a call.
            state: as in a call; ``None`` for addressing without a past.

        Returns:
            Vectors ``[*B, Q, V]``, and the next state.
        """
        twin = fast.find(self, "read", query, memory, state)
        if twin is not None:
            result: tuple[Tensor, State] = twin(self, query, memory, state)
            return result
        weights, state = self(query, memory, state)
        return functional.read(weights, memory.values), state


def _replaced(state: Any, weights: Tensor, used: Tensor) -> Any:
    """A state that holds the weights which are used, where it holds those of the definition."""
    return map_state(lambda part: used if part is weights else part, state)


#: Methods of a cell that return a state, with the wrapper that keeps it in float32 under autocast.
_KEEPING: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "start": partial(full_precision_state, alone=True),
    "forward": full_precision_state,
    "unroll": full_precision_state,
}


#: Cells that are taking a step whose state was offered to an editor.
_stepping: ContextVar[tuple[nn.Module, ...]] = ContextVar("memnets_stepping", default=())


def _one_by_one(unroll: Callable[..., tuple[Tensor, Any]]) -> Callable[..., tuple[Tensor, Any]]:
    """Let a cell's own ``unroll`` take single steps where an editor wants the state of each."""

    @wraps(unroll)
    def unrolling(
        self: Cell, inputs: Tensor, state: Any, mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        check_given(self, inputs, state, 3, mask)
        # Within a step, ``unroll`` is how some cells define it.
        if events.edited(self) and self not in _stepping.get():
            return Cell.unroll(self, inputs, state, mask)
        result: Any = unroll(self, inputs, state, mask)
        if not (isinstance(result, tuple) and len(result) == 2):
            # A tensor of two sequences would pass for outputs and a state. More is not asked here:
            # a step may come by, and pays for it.
            check_returned(self, inputs, result, "unroll")
        outputs, state = result
        return outputs, state

    return unrolling


def _checked_step(step: Callable[..., Any]) -> Callable[..., Any]:
    """Let a ``step`` of a cell's own check what it is given and what it returns, as a call does."""
    place = list(signature(step).parameters.values())[2:3]
    starts_itself = bool(place) and place[0].default is not Parameter.empty

    @wraps(step)
    def stepping(self: Cell, inputs: Tensor, *others: Any, **named: Any) -> tuple[Tensor, Any]:
        state = others[0] if others else named.get("state")
        if state is None and starts_itself:
            check_step(self, inputs)
        else:
            check_given(self, inputs, state)
        result: tuple[Tensor, Any] = step(self, inputs, *others, **named)
        check_returned(self, inputs, result, "step")
        return result

    return stepping


def _of_whole_batch(owner: type, initial_state: Callable[..., Any]) -> Callable[..., Any]:
    """Let a cell's ``initial_state`` check the size of the batch, and what it returns."""

    @wraps(initial_state)
    def first(self: Cell, batch_size: int, *others: Any, **named: Any) -> Any:
        # A graph that is compiled has sizes of a kind of its own, which it may not ask about.
        if torch.compiler.is_compiling():
            return initial_state(self, batch_size, *others, **named)
        if isinstance(batch_size, (float, bool)) or not hasattr(batch_size, "__index__"):
            raise TypeError(f"batch_size must be a whole number; got {batch_size!r}")
        state = initial_state(self, batch_size, *others, **named)
        # A base may have a state of another kind, of which its subclass makes its own.
        last = next(each for each in type(self).__mro__ if "initial_state" in vars(each))
        if last is owner:
            check_own_state(self, state, int(batch_size), f"initial_state({batch_size})")
        return state

    return first


class Cell(nn.Module, ABC, Generic[State]):
    """A part that takes steps over explicit state.

    Controllers, memories with their heads, blocks of a Transformer or a SNAIL, and whole machines
    are cells. A subclass defines one step in ``forward``. Callers use :meth:`step` for one step and
    :meth:`unroll` for many; both run a faster twin with the same result where there is one. Under
    autocast the state stays float32 between steps. Numbers are real: of complex ones, which have no
    16 bits, a state has the real and the imaginary part, two tensors. The class in the brackets of
    the base is that of the state, as in ``class Leaky(Controller[Tensor])``; a step checks it, and
    that the state has the batch of its inputs. It also checks what ``forward`` returns.

    Attributes:
        input_size: width of the input of a step.
        output_size: width of the output of a step.
        first_slots: number of slots that :meth:`looks_back` weighs before the first step.
        equations: equation of the events of a kind that the cell reports, with its source.
    """

    input_size: int
    output_size: int
    first_slots: int = 0
    equations: ClassVar[Mapping[str, str]] = {}

    #: Class of the state, ``NoneType`` for a cell without a past; ``None`` = unknown.
    _state_class: ClassVar[type | None] = None
    #: Names of the widths that a class of this kind sets itself.
    _sizes: ClassVar[tuple[str, str]] = ("input_size", "output_size")

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        if "_state_class" not in vars(cls):
            cls._state_class = _known_state(cls, Cell)
        declared = _declared_state(cls, Cell)
        if declared not in (None, tuple):
            STATES.add(declared)
        for method, keeping in _KEEPING.items():
            if method in vars(cls):
                setattr(cls, method, keeping(vars(cls)[method]))
        if "initial_state" in vars(cls):
            first = _of_whole_batch(cls, vars(cls)["initial_state"])
            setattr(cls, "initial_state", first)  # noqa: B010
        if "unroll" in vars(cls):
            setattr(cls, "unroll", _one_by_one(vars(cls)["unroll"]))  # noqa: B010
        if "step" in vars(cls):
            setattr(cls, "step", _checked_step(vars(cls)["step"]))  # noqa: B010

    def __call__(self, inputs: Tensor, state: Any = None) -> tuple[Tensor, State]:
        """One step, see :meth:`forward`; ``state`` may be left out if there is no past.

        Raises:
            ValueError: inputs or state have another shape, or there is no state.
            TypeError: the inputs are no tensor, the state is that of another kind of cell, or
                ``forward`` returns something else than outputs and a state.
        """
        check_given(self, inputs, state)
        return self._called(inputs, state)

    def _called(self, inputs: Tensor, state: Any) -> tuple[Tensor, State]:
        """A call of a cell whose inputs and state have been checked."""
        result: tuple[Tensor, State]
        if not events.edited(self):
            result = super().__call__(inputs, state)
        else:
            token = _stepping.set((*_stepping.get(), self))
            try:
                result = super().__call__(inputs, events.offer(self, "state", state))
            finally:
                _stepping.reset(token)
        check_returned(self, inputs, result)
        return result

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """State before the first step; ``None`` for a cell without a past.

        Its tensors have the device and the type of the cell's parameters or buffers: make them
        with :func:`new_zeros`.
        """

    def start(self, source: Tensor, mask: Tensor | None = None) -> State:
        """State before the first step of an answer to a source, or of a cell that reads it.

        The default implementation returns :meth:`initial_state`. Override it in a cell that looks
        at the source at each step, or must know something of it, such as its length, before.

        Args:
            source: vectors of the source, ``[B, S, V]``.
            mask: bool ``[B, S]``, False = padding; ``None`` = no padding.
        """
        return self.initial_state(len(source))

    @abstractmethod
    def forward(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: the definition of the cell.

        Args:
            inputs: ``[B, input_size]``.
            state: the result of the last step, or :meth:`initial_state`.

        Returns:
            Output ``[B, output_size]``, and the next state.
        """

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """One step, by a fast twin where one fits; arguments and results as in a call."""
        check_given(self, inputs, state)
        twin = fast.find(self, "step", inputs, state)
        if twin is None:
            # A subclass may have a call of its own.
            own = type(self).__call__ is not Cell.__call__
            return self(inputs, state) if own else self._called(inputs, state)
        result: tuple[Tensor, State] = twin(self, inputs, state)
        return result

    def unroll(
        self, inputs: Tensor, state: State, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Take all steps of a sequence, by a fast twin where one fits, else one by one.

        Override it where many steps at once are faster than one after the other. Values and
        gradients must equal those of single steps.

        Args:
            inputs: ``[B, T, input_size]``, T >= 1.
            state: the result of the last step, or :meth:`initial_state`.
            mask: bool ``[B, T]``, False = padding: the sequence skips the step and keeps its
                state; ``None`` = no sequence skips a step.

        Returns:
            Outputs ``[B, T, output_size]``, of any value at skipped steps, and the state after the
            last step.

        Raises:
            ValueError: inputs, mask or state have another shape, or there is no state.
            TypeError: the mask is not boolean, or the state is that of another kind of cell.
        """
        check_given(self, inputs, state, 3, mask)
        twin = fast.find(self, "unroll", inputs, state, mask)
        if twin is not None:
            result: tuple[Tensor, State] = twin(self, inputs, state, mask)
            return result
        # Steps that no sequence skips need no choice between the old state and the new, if their
        # number can be told without waiting for a device.
        if mask is None:
            skipped = [False] * inputs.shape[1]
        else:
            skipped = (~mask.all(0)).tolist() if at_hand(mask) else [True] * inputs.shape[1]
        outputs = []
        for number, step_inputs in enumerate(inputs.unbind(1)):
            output, next_state = self.step(step_inputs, state)
            if mask is not None and skipped[number]:
                next_state = self.choose(mask[:, number], next_state, state)
            outputs.append(output)
            state = next_state
        return torch.stack(outputs, 1), state

    def looks_back(self) -> Addressing | None:
        """The addressing with which the cell weighs its own earlier steps, for pictures.

        Its slots are :attr:`first_slots` that stand for no step, then the steps in their order; the
        step's own slot may be missing. ``None``, the default, for a cell without such.
        """
        return None

    def choose(self, mask: Tensor, new: State, old: State) -> State:
        """State after a step that only some sequences of the batch have taken.

        Override it where a step changes the shape of the state.

        Args:
            mask: bool ``[B]``; False = the sequence skips the step.
            new: the state after the step.
            old: the state before the step.
        """
        return choose_state(mask, new, old)

    def map_free(self, function: Callable[[Tensor], Tensor], state: State) -> State:
        """Apply a function to the parts of a state that may hold any numbers.

        The default is each floating-point part that is not empty. Override it in a cell whose state
        obeys laws, such as weights that sum to 1, and in one made of other cells. A
        :class:`~memnets.cells.Bridge` sets these parts of a first state.

        Args:
            function: takes a tensor and returns one of its shape.
            state: a state of the cell.

        Returns:
            The state, with all other parts as they are.
        """

        def free(part: Tensor) -> Tensor:
            return function(part) if part.is_floating_point() and part.numel() else part

        return map_state(free, state)


def _known_state(cls: Any, kind: type) -> type | None:
    """The class of the state of a cell or an addressing; ``None`` = unknown."""
    # A subclass with a first state of its own may have a state of another class.
    inherited: type | None = None if "initial_state" in vars(cls) else cls._state_class
    return _declared_state(cls, kind) or inherited


def _declared_state(cls: type, kind: Any) -> type | None:
    """The class in the brackets of a base of a kind, as in ``Cell[LSTMState]``; ``None`` = unknown.

    In the brackets of an addressing it comes last.
    """
    count = len(kind.__parameters__)
    for base in vars(cls).get("__orig_bases__", ()):
        if isinstance(get_origin(base), type) and issubclass(get_origin(base), kind):
            # A base that knows its state, or that has other classes in its brackets, tells nothing.
            if get_origin(base)._state_class is not None or len(get_args(base)) != count:
                return None
            state = get_args(base)[-1]
            state = get_args(state)[0] if get_origin(state) is Annotated else state
            known = get_origin(state) or (type(None) if state is None else state)
            return known if isinstance(known, type) and _is_plain(known) else None
    return None


def _is_plain(kind: type) -> bool:
    """Whether ``isinstance`` can ask for a class; not for unions, ``Any`` or some protocols."""
    try:
        isinstance(None, kind)
    except TypeError:
        return False
    return kind is not UnionType


class Controller(Cell[State]):
    """Base class for the network between the input and the memory.

    A controller does not know the memory. A subclass takes ``input_size`` as its first argument.

    Attributes:
        hidden_size: width of the output; ``output_size`` is the same number.
    """

    hidden_size: int
    _sizes: ClassVar[tuple[str, str]] = ("input_size", "hidden_size")

    @property
    def output_size(self) -> int:  # type: ignore[override]
        """Width of the output of a step."""
        return self.hidden_size


class MemoryAccess(_Precise, Cell[State]):
    """Base class for a memory with its heads: one step reads from it and writes to it.

    A step is computed in float32, for 16-bit inputs too. Under autocast all its results are
    float32, so that a memory keeps its precision over any number of steps. A machine in float16
    keeps its state in float16: over many steps the gradient of the state may exceed 65504 and
    become NaN, even where the gradient of the inputs does not. Mixed precision has no such limit.

    The input of a step is the *interface* vector: real numbers of any size that drive the heads. A
    machine makes it from its controller's output with a linear layer. A subclass defines the
    meaning of its entries and the order in which the heads read and write. An access does not know
    the controller.

    Attributes:
        interface_size: width of the interface vector; ``input_size`` is the same number.
        read_size: width of the vector that a step reads, all heads together; ``output_size`` is
            the same number.
        read_heads: number of vectors of one width that stand side by side in what a step reads, one
            of each read head; of a stack, one of each visible element.
        vectors_size: how many of the first entries of the interface are vectors as they are, such
            as keys and values, so that a convolution over time may pass them; the entries behind
            are gates, each with a function of its own.
    """

    interface_size: int
    read_size: int
    read_heads: int = 1
    vectors_size: int = 0
    _sizes: ClassVar[tuple[str, str]] = ("interface_size", "read_size")

    @property
    def input_size(self) -> int:  # type: ignore[override]
        """Width of the interface vector."""
        return self.interface_size

    @property
    def output_size(self) -> int:  # type: ignore[override]
        """Width of the vector that a step reads."""
        return self.read_size

    @property
    def hard(self) -> bool:
        """Whether all heads give one-hot weights, see :attr:`Addressing.hard`.

        It may be changed at any time: all heads change.

        Raises:
            ValueError: no head has an addressing that could be hard.
        """
        parts = self._addressings()
        return bool(parts) and all(part.hard for part in parts)

    @hard.setter
    def hard(self, hard: bool) -> None:
        parts = self._addressings()
        if hard and not parts:
            raise ValueError(
                f"hard must be False: {type(self).__name__} has no addressing that could be hard"
            )
        for part in parts:
            part.hard = hard

    def _addressings(self) -> list[Addressing]:
        return [part for part in self.modules() if isinstance(part, Addressing)]

    def head_names(self) -> dict[Addressing, list[str]]:
        """Names of heads for pictures, by their :class:`Addressing`.

        A name that begins with ``read`` or ``write`` says what the head does. The default is empty.
        Pictures draw an addressing without names as one head.
        """
        return {}

    def field_names(self, field: str, size: int) -> Sequence[str]:
        """Names of the numbers of a kind that a memory reports, for pictures.

        Args:
            field: name of the kind, such as ``actions`` of a stack.
            size: how many numbers there are.

        Returns:
            ``size`` names, by default the numbers from 1 on.
        """
        return [str(number + 1) for number in range(size)]

    def interface_bias(self) -> Tensor | None:
        """Numbers to add to the initial bias of the layer that makes the interface.

        Returns:
            ``[interface_size]``, or ``None``, the default, to add nothing.
        """
        return None

    def interface_copies(self) -> Tensor | None:
        """Numbers of the interface that begin as copies of others.

        Returns:
            Whole numbers ``[interface_size]``: number i of the interface begins with the weights of
            number ``copies[i]``; or ``None``, the default, for weights of their own.
        """
        return None

    def map_free(self, function: Callable[[Tensor], Tensor], state: State) -> State:
        """The state as it is: weights, usage, links and degrees have ranges, and slots owners."""
        return state

    def make_interface(self, input_size: int) -> nn.Linear:
        """The layer that makes the interface, with its first weights, for cells on a memory.

        Its weights are random, but for those that are copies (:meth:`interface_copies`). To its
        biases come the memory's own (:meth:`interface_bias`).

        Args:
            input_size: width of the input of the layer, at least 1.

        Raises:
            ValueError: the width is less than 1.
        """
        check_positive(input_size=input_size)
        layer = nn.Linear(input_size, self.interface_size)
        with torch.no_grad():
            if (copies := self.interface_copies()) is not None:
                layer.weight.copy_(layer.weight[copies])
                layer.bias.copy_(layer.bias[copies])
            if (bias := self.interface_bias()) is not None:
                layer.bias.add_(bias)
        return layer


class Embedder(nn.Module, ABC):
    """Base class for the first layer of an encoder: a source of any kind to vectors.

    A subclass takes ``input_size`` as its first argument.

    Attributes:
        input_size: number of tokens, channels of an image, or width of a vector of the source.
        output_size: W, width of a vector.
        source_dims: number of dimensions of a source, with that of the batch: 2 for tokens
            ``[B, S]``, 3 for vectors or sentences of tokens, 4 for images.
    """

    input_size: int
    output_size: int
    source_dims: int

    @abstractmethod
    def forward(self, source: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Embed a source.

        Args:
            source: ``[B, S, ...]``.
            mask: bool ``[B, S]``, False = padding, which comes after the last step; ``None`` = no
                padding.

        Returns:
            Vectors ``[B, S', W]``, of any value at padding, and their mask, bool ``[B, S']`` or
            ``None``. S' need not be S.
        """

    def grid(self, height: int, width: int) -> tuple[int, int] | None:
        """Rows and columns of the vectors of an image, which come row by row, for pictures.

        Args:
            height: height of the image, in pixels.
            width: width of the image, in pixels.

        Returns:
            ``None``, the default, if the source is no image.
        """
        return None


class Encoded(NamedTuple):
    """A source as an encoder gives it.

    Attributes:
        vectors: ``[B, S', output_size]``, of any value at padding.
        summary: ``[B, summary_size]``.
        mask: bool ``[B, S']``, False = padding; ``None`` = no padding.
    """

    vectors: Tensor
    summary: Tensor
    mask: Tensor | None = None

    def __repr__(self) -> str:
        return short_repr(self)


class Encoder(nn.Module, ABC):
    """Base class for networks that turn a source into a vector for each step, and a summary.

    A subclass takes ``input_size`` as its first argument, and defines ``forward`` for vectors; the
    model around it embeds tokens. An encoder that reads the source itself, such as
    :class:`memnets.encoders.Embedded`, sets ``embeds`` and defines :meth:`read`.

    Attributes:
        input_size: width of the input.
        output_size: width of the vector of a step.
        summary_size: width of the summary of the whole source.
        max_length: most steps of a source; ``None`` = no limit.
        embeds: whether the encoder owns its embedding: it reads tokens, images or sentences, and
            ``input_size`` is their number of tokens or channels.
        source_dims: numbers of dimensions that a source may have, with that of the batch.
    """

    input_size: int
    output_size: int
    summary_size: int
    max_length: int | None = None
    embeds: bool = False
    source_dims: tuple[int, ...] = (2, 3)

    def read(self, source: Tensor, mask: Tensor | None = None) -> Encoded:
        """Read a source; the default implementation calls ``forward``.

        Args:
            source: vectors ``[B, S, input_size]``; any source if the encoder ``embeds``.
            mask: bool ``[B, S]``, False = padding, which comes after the last step; ``None`` = no
                padding.

        Returns:
            Vectors, their mask, and a summary.

        Raises:
            ValueError: source or mask have another shape.
            TypeError: the source is no tensor, or the mask is not boolean.
        """
        check_steps(self, source, mask)
        vectors, summary = self(source, mask)
        return Encoded(vectors, summary, mask)

    def grid(self, height: int, width: int) -> tuple[int, int] | None:
        """Rows and columns of the vectors of an image, see :meth:`Embedder.grid`."""
        return None

    @abstractmethod
    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read a source.

        Args:
            inputs: ``[B, S, input_size]``.
            mask: bool ``[B, S]``, False = padding, which comes after the last step; ``None`` = no
                padding.

        Returns:
            A vector for each step, ``[B, S, output_size]``, of any value at padding, and the
            summary, ``[B, summary_size]``.
        """


def _of_cleared_source(encode: Function) -> Function:
    """A method that reads a source and its mask, with cleared padding."""

    @wraps(encode)
    def clear(self: Any, source: Tensor, *others: Any, **named: Any) -> Any:
        mask = named["mask"] if "mask" in named else others[0] if others else None
        return encode(self, cleared_steps(source, mask), *others, **named)

    return clear  # type: ignore[return-value]


def _of_cleared_batch(method: Function) -> Function:
    """A method that reads a batch, with cleared padding."""

    @wraps(method)
    def clear(self: Any, batch: Batch, *others: Any, **named: Any) -> Any:
        return method(self, cleared(batch), *others, **named)

    return clear  # type: ignore[return-value]


class EncoderDecoder(nn.Module, ABC, Generic[State]):
    """Base class for networks that read a source, then answer it, over explicit state.

    ``encode(source) -> state``, then ``decode(inputs, state) -> (logits, state)``. Many steps at
    once and one by one give the same numbers. Decoding, objectives, laws and pictures use these
    methods of a model alone.

    A model that is :attr:`coupled` takes a third argument of ``encode``, the
    :class:`~memnets.batches.Places` that a task gives to the steps (:meth:`encode_placed`).

    Padding may hold any numbers, NaN too: :meth:`encode` and the methods :attr:`of_batches` of
    every model, also of your own, get it :func:`cleared`.
    """

    #: Methods of a model that read a batch, and get it with its padding :func:`cleared`.
    of_batches: ClassVar[tuple[str, ...]] = ("logits",)

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        # Here, so that no model can forget it.
        for method in ("encode", *cls.of_batches):
            if method in vars(cls):
                clear = _of_cleared_source if method == "encode" else _of_cleared_batch
                setattr(cls, method, clear(vars(cls)[method]))

    @property
    def coupled(self) -> bool:
        """Whether the model needs the places that a task gives; no by default."""
        return False

    def places_of(self, batch: Batch) -> Places | None:
        """Places of the steps of a batch, for a model that needs them; else ``None``.

        Raises:
            ValueError: the model needs them, and the task gives none.
        """
        if self.coupled and batch.places is None:
            raise ValueError(
                "coupled positions need a task that gives places to its steps, such as "
                "tasks.CopyingTokens; got a batch without"
            )
        return batch.places if self.coupled else None

    def encode_placed(
        self, source: Tensor, mask: Tensor | None = None, places: Places | None = None
    ) -> State:
        """Read a source: :meth:`encode`, with the places of its steps if there are any.

        Args:
            source: ``[B, S, I]``, or tokens ``[B, S]``.
            mask: bool ``[B, S]``, False = padding; ``None`` = no padding.
            places: those that the task gives to the steps; ``None`` = none.

        Raises:
            ValueError: there are places, and the model has no use for them; or it needs them, and
                there are none.
        """
        if places is None:
            return self.encode(source, mask)
        if not self.coupled:
            raise ValueError(
                "places are for a model with coupled positions, such as a CausalTransformer with "
                f"CoupledPositions; got them for a {type(self).__name__} without"
            )
        # Only a coupled model's method has this argument.
        read: Callable[..., State] = self.encode
        return read(source, mask, places)

    def encode_batch(self, batch: Batch) -> State:
        """Read the source of a batch, with the places of its steps if the model needs them."""
        return self.encode_placed(batch.source, batch.source_mask, self.places_of(batch))

    @abstractmethod
    def encode(self, source: Tensor, mask: Tensor | None = None) -> State:
        """Read the source.

        Args:
            source: ``[B, S, I]``, or tokens ``[B, S]``.
            mask: bool ``[B, S]``, False = padding; ``None`` = no padding.

        Returns:
            The state from which to decode.
        """

    @abstractmethod
    def decode(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Answer, one step or many.

        Args:
            inputs: ``[B, T, I]``, or tokens ``[B, T]``.
            state: the result of :meth:`encode` or of the last call.

        Returns:
            Logits ``[B, T, O]``, and the next state.
        """

    def reorder(self, state: State, index: Tensor, same_source: bool = False) -> State:
        """Choose rows of a state, as a search does.

        Args:
            state: a state of B rows.
            index: ``[B']``, a row of the state for each row of the result; a row may come twice.
            same_source: True = each row of the result replaces a row with the same source. A
                :class:`Memory` in the state depends on the source alone, so it is not copied.

        Returns:
            A state of B' rows.
        """
        keep = Memory if same_source else None
        return map_state(lambda part: functional.rows(part, index), state, keep=keep)

    @_of_cleared_batch
    def logits(self, batch: Batch) -> Tensor:
        """Encode the source of a batch, then decode its inputs: logits ``[B, T, O]``.

        A fast twin runs where one fits.
        """
        twin = fast.find(self, "logits", batch)
        if twin is not None:
            result: Tensor = twin(self, batch)
            return result
        return self.decode(batch.inputs, self.encode_batch(batch))[0]

    def continuations(self, source: Tensor, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """One step after the source, for each of several inputs; none of them sees another.

        Args:
            source: as in :meth:`encode`.
            inputs: ``[B, T, I]``, or tokens ``[B, T]``: T inputs, each for a step on its own.
            mask: as in :meth:`encode`.

        Returns:
            Logits ``[B, T, O]``, by a fast twin where one fits.
        """
        twin = fast.find(self, "continuations", source, inputs, mask)
        if twin is not None:
            result: Tensor = twin(self, source, inputs, mask)
            return result
        return self.decode_each(inputs, self.encode(source, mask))

    def decode_each(self, inputs: Tensor, state: State) -> Tensor:
        """One step from a state, for each of several inputs; none of them sees another.

        Args:
            inputs: ``[B, T, I]``, or tokens ``[B, T]``: T inputs, each for a step on its own.
            state: the state of B sequences.

        Returns:
            Logits ``[B, T, O]``.
        """
        # Each input becomes a row of a larger batch, with a copy of the state: no input can see
        # another, and all take their step at once.
        batch, steps = inputs.shape[:2]
        rows = torch.arange(batch, device=inputs.device).repeat_interleave(steps)
        logits, _ = self.decode(inputs.flatten(0, 1).unsqueeze(1), self.reorder(state, rows))
        return logits.view(batch, steps, -1)

    def longest_answer(self, source_steps: int) -> int | None:
        """Most steps of an answer; a search cuts an answer there and counts it as cut.

        Args:
            source_steps: steps of the source without padding, at least 1.

        Returns:
            A number of steps; 0 if the source is too long for the model; ``None``, the default, for
            no limit.
        """
        return None

    def alignments(self) -> dict[str, Addressing]:
        """Addressings that show where an answer looks, by label; empty by default.

        :meth:`slot_names` gives a word for each of their slots.
        """
        return {}

    def grid(self, height: int, width: int) -> tuple[int, int] | None:
        """Rows and columns of the slots of :meth:`alignments`, row by row, over an image.

        Args:
            height: height of the image, in pixels.
            width: width of the image, in pixels.

        Returns:
            ``None``, the default, if the slots are no patches of an image.
        """
        return None

    def slot_names(self, source: list[str], inputs: list[str]) -> list[str]:
        """A word for each slot of the addressings that :meth:`alignments` names.

        The default is the words of the source, then those of the answer. Words beyond the last slot
        are not shown.

        Args:
            source: a word for each step of the source.
            inputs: a word for each input that the model had while it answered.
        """
        return source + inputs


def __getattr__(name: str) -> Any:
    return moved(__name__, name)
