"""Cells made of cells: a loop through a memory, a chain, a skip connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from memnets import fast
from memnets.cells.dropout import Dropout
from memnets.checks import check_positive
from memnets.core import Cell, Controller, MemoryAccess, State, choose_state, map_free, new_zeros
from memnets.factories import check_made, make

__all__ = [
    "Chain",
    "Connection",
    "Loop",
    "LoopState",
    "Pointwise",
    "Residual",
    "kept",
    "position_wise",
    "residual_stack",
]


class LoopState(NamedTuple):
    """State of a :class:`Loop`.

    Attributes:
        controller: state of the controller.
        access: state of the memory.
        read: the vector that the last step read, ``[B, read_size]``.
    """

    controller: Any
    access: Any
    read: Tensor


class Loop(Cell[LoopState]):
    """A controller on a memory: the vector read is part of the next step's input.

    Graves et al. 2014, figure 1: ``h_t = controller([x_t, r_{t-1}])``, ``r_t = access(U h_t + a)``.
    The output is ``[h_t, r_t]``, and r_0 is 0.

    Args:
        input_size: width of x, at least 1.
        controller: makes the controller from the width of its input, x and r together: a class of
            cells, its other arguments given.
        access: the memory with its heads.

    Attributes:
        interface: the linear layer ``U h + a``; any network of the same widths may take its place.

    Example:
        ``Loop(9, partial(LSTM, hidden_size=100), NTM(slots=128, width=20))``
    """

    def __init__(
        self, input_size: int, controller: Callable[[int], Cell], access: MemoryAccess
    ) -> None:
        super().__init__()
        check_positive(input_size=input_size)
        self.input_size = input_size
        check_made("access", access, "NTM(slots=128, width=20)")
        self.access = access
        size = input_size + access.output_size
        self.controller: Cell = make("controller", controller, Cell, size)
        # The memory sees the controller's output alone; the vectors read reach the next input.
        self.interface = access.make_interface(self.controller.output_size)
        self.output_size = self.controller.output_size + access.output_size

    def initial_state(self, batch_size: int) -> LoopState:
        """Initial states of controller and memory, and zeros for the vector read."""
        return LoopState(
            self.controller.initial_state(batch_size),
            self.access.initial_state(batch_size),
            self._nothing_read(batch_size),
        )

    def start(self, source: Tensor, mask: Tensor | None = None) -> LoopState:
        """First states of controller and memory for a source, and zeros for the vector read."""
        return LoopState(
            self.controller.start(source, mask),
            self.access.start(source, mask),
            self._nothing_read(len(source)),
        )

    def _nothing_read(self, batch_size: int) -> Tensor:
        # A user may have put any network in the place of the interface, also one without weights.
        return new_zeros((batch_size, self.access.output_size), self.interface, self)

    def forward(self, inputs: Tensor, state: LoopState) -> tuple[Tensor, LoopState]:
        """One step: ``[B, input_size] -> [B, output_size]``."""
        hidden, controller = self.controller.step(
            torch.cat([inputs, state.read], -1), state.controller
        )
        read, access = self.access.step(self.interface(hidden), state.access)
        return torch.cat([hidden, read], -1), LoopState(controller, access, read)

    def choose(self, mask: Tensor, new: LoopState, old: LoopState) -> LoopState:
        """Choose the states of controller and memory by their own rules."""
        return LoopState(
            self.controller.choose(mask, new.controller, old.controller),
            self.access.choose(mask, new.access, old.access),
            choose_state(mask, new.read, old.read),
        )

    def map_free(self, function: Callable[[Tensor], Tensor], state: LoopState) -> LoopState:
        """Map the states of controller and memory by their own rules, and the vector read."""
        return LoopState(
            map_free(self.controller, function, state.controller),
            map_free(self.access, function, state.access),
            function(state.read),
        )


class Chain(Controller[tuple[Any, ...]]):
    """Cells in a row: each takes the output of the one before.

    The state is a tuple of the cells' states.

    Args:
        input_size: width of the input of the first cell.
        controllers: functions that make the cells, each from the width of its input; at least one.

    Example:
        ``partial(Chain, controllers=[partial(FeedForward, hidden_size=50), LSTM])``
    """

    def __init__(self, input_size: int, controllers: Sequence[Callable[[int], Cell]]) -> None:
        super().__init__()
        if not controllers:
            raise ValueError("a Chain needs at least one controller; got none")
        self.input_size = self.hidden_size = input_size
        self.cells = nn.ModuleList()
        for factory in controllers:
            cell: Cell = make("controllers", factory, Cell, self.hidden_size)
            self.cells.append(cell)
            self.hidden_size = cell.output_size

    def initial_state(self, batch_size: int) -> tuple[Any, ...]:
        """Initial states of all cells."""
        return tuple(cell.initial_state(batch_size) for cell in self._all())

    def start(self, source: Tensor, mask: Tensor | None = None) -> tuple[Any, ...]:
        """First states of all cells for an answer to a source."""
        return tuple(cell.start(source, mask) for cell in self._all())

    def forward(self, inputs: Tensor, state: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        """One step: ``[B, input_size] -> [B, hidden_size]``."""
        states = []
        for cell, past in zip(self._all(), state, strict=True):
            inputs, past = cell.step(inputs, past)
            states.append(past)
        return inputs, tuple(states)

    def unroll(
        self, inputs: Tensor, state: tuple[Any, ...], mask: Tensor | None = None
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """``[B, T, input_size] -> [B, T, hidden_size]``: all steps of a cell, then of the next."""
        twin = fast.find(self, "unroll", inputs, state, mask)
        if twin is not None:
            result: tuple[Tensor, tuple[Any, ...]] = twin(self, inputs, state, mask)
            return result
        states = []
        for cell, past in zip(self._all(), state, strict=True):
            inputs, past = cell.unroll(inputs, past, mask)
            states.append(past)
        return inputs, tuple(states)

    def choose(self, mask: Tensor, new: tuple[Any, ...], old: tuple[Any, ...]) -> tuple[Any, ...]:
        """Choose the state of each cell by its own rule."""
        parts = zip(self._all(), new, old, strict=True)
        return tuple(cell.choose(mask, one, other) for cell, one, other in parts)

    def map_free(
        self, function: Callable[[Tensor], Tensor], state: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        """Map the state of each cell by its own rule."""
        parts = zip(self._all(), state, strict=True)
        return tuple(map_free(cell, function, part) for cell, part in parts)

    def _all(self) -> list[Cell]:
        # For the type checker: a ModuleList has modules, not cells.
        cells: list[Any] = list(self.cells)
        return cells


def kept(cell: Cell) -> Callable[[int], Cell]:
    """Wrap a finished cell as a factory, for a :class:`Chain`, whatever the input's width."""
    return lambda input_size: cell


class Pointwise(Cell[None]):
    """A network that treats each step independently, as a cell without state.

    Args:
        network: a module, ``[*B, input_size] -> [*B, output_size]``.
        input_size: width of the network's input.
        output_size: width of the network's output.
    """

    def __init__(self, network: nn.Module, input_size: int, output_size: int) -> None:
        super().__init__()
        self.network = network
        self.input_size = input_size
        self.output_size = output_size

    def initial_state(self, batch_size: int) -> None:
        """``None``: the cell has no past."""

    def forward(self, inputs: Tensor, state: None = None) -> tuple[Tensor, None]:
        """One step: ``[B, input_size] -> [B, output_size]``."""
        return self.network(inputs), None

    def unroll(
        self, inputs: Tensor, state: None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """``[B, T, input_size] -> [B, T, output_size]``, all steps at once."""
        return self.network(inputs), None


class Connection(nn.Module):
    """A skip connection around a part, with layer normalisation and dropout.

    The caller runs the part between :meth:`before` and :meth:`after`.

    Args:
        width: width of inputs and outputs, at least 1.
        dropout: dropout on the result of the part, in ``[0, 1)``.
        norm: ``post`` normalises the sum (Vaswani et al. 2017); ``pre`` normalises the input of the
            part (Xiong et al. 2020).

    Raises:
        ValueError: ``norm`` is neither.
    """

    def __init__(
        self, width: int, dropout: float = 0.0, norm: Literal["pre", "post"] = "pre"
    ) -> None:
        super().__init__()
        if norm not in ("pre", "post"):
            raise ValueError(f"norm must be 'pre' or 'post'; got {norm!r}")
        self.pre = norm == "pre"
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def before(self, inputs: Tensor) -> Tensor:
        """Input of the part, ``[*B, width] -> [*B, width]``."""
        normed: Tensor = self.norm(inputs) if self.pre else inputs
        return normed

    def after(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Sum of the inputs and the result of the part, both ``[*B, width]``."""
        if (
            self.dropout.p and self.dropout.training
        ):  # asked here, as a call costs time at each step
            outputs = self.dropout(outputs)
        total = inputs + outputs
        if not self.pre:
            total = self.norm(total)
        return total


class Residual(Cell[State]):
    """A cell within a skip connection: ``x + cell(norm(x))``, or ``norm(x + cell(x))``.

    Args:
        cell: a cell whose output has the width of its input.
        dropout: dropout on the output of the cell, in ``[0, 1)``.
        norm: ``pre`` or ``post``, see :class:`Connection`.

    Raises:
        ValueError: the cell's input and output differ in width.
    """

    def __init__(
        self, cell: Cell[State], dropout: float = 0.0, norm: Literal["pre", "post"] = "pre"
    ) -> None:
        super().__init__()
        if cell.input_size != cell.output_size:
            raise ValueError(
                f"a skip connection needs a cell with input and output of one width; "
                f"got {cell.input_size} and {cell.output_size}"
            )
        self.cell = cell
        self.connection = Connection(cell.input_size, dropout, norm)
        self.input_size = self.output_size = cell.input_size

    @property
    def _state_class(self) -> type | None:  # type: ignore[override]
        """Class of the state, which is that of the cell; the cell may be duck-typed."""
        return getattr(self.cell, "_state_class", None)

    def initial_state(self, batch_size: int) -> State:
        """Initial state of the cell."""
        return self.cell.initial_state(batch_size)

    def start(self, source: Tensor, mask: Tensor | None = None) -> State:
        """First state of the cell for an answer to a source."""
        return self.cell.start(source, mask)

    def forward(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: ``[B, input_size] -> [B, output_size]``."""
        outputs, state = self.cell.step(self.connection.before(inputs), state)
        return self.connection.after(inputs, outputs), state

    def unroll(
        self, inputs: Tensor, state: State, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """``[B, T, input_size] -> [B, T, output_size]``, by the cell's own ``unroll``."""
        outputs, state = self.cell.unroll(self.connection.before(inputs), state, mask)
        return self.connection.after(inputs, outputs), state

    def choose(self, mask: Tensor, new: State, old: State) -> State:
        """Choose by the cell's own rule."""
        return self.cell.choose(mask, new, old)

    def map_free(self, function: Callable[[Tensor], Tensor], state: State) -> State:
        """Map by the cell's own rule."""
        return map_free(self.cell, function, state)


def position_wise(width: int, hidden_size: int, dropout: float) -> nn.Sequential:
    """Feed-forward network of a Transformer layer (Vaswani et al. 2017, equation 2)."""
    check_positive(hidden_size=hidden_size)
    return nn.Sequential(
        nn.Linear(width, hidden_size),
        nn.ReLU(),
        Dropout(dropout),
        nn.Linear(hidden_size, width),
    )


def residual_stack(
    mixer: Callable[[int], Cell],
    layers: int,
    width: int,
    hidden_size: int,
    dropout: float = 0.1,
    norm: Literal["pre", "post"] = "pre",
) -> Chain:
    """Stack layers of any cell and a feed-forward network, each within a skip connection.

    With self-attention as mixer they are the layers of a causal Transformer.

    Args:
        mixer: makes the cell of a layer from the width of its input. If its output has another
            width, a linear layer maps it back.
        layers: number of layers, at least 1.
        width: width of inputs and outputs, at least 1.
        hidden_size: width of the feed-forward networks' hidden layer, at least 1.
        dropout: dropout on the result of each part, in ``[0, 1)``.
        norm: ``pre`` or ``post``, see :class:`Connection`.

    Raises:
        ValueError: a size is out of its range.
    """
    check_positive(layers=layers, width=width)
    cells: list[Cell] = []
    for _ in range(layers):
        mixing = mixer(width)
        if mixing.output_size != width:
            back = Pointwise(nn.Linear(mixing.output_size, width), mixing.output_size, width)
            mixing = Chain(width, [kept(mixing), kept(back)])
        thinking = Pointwise(position_wise(width, hidden_size, dropout), width, width)
        parts = [kept(Residual(part, dropout, norm)) for part in (mixing, thinking)]
        cells.append(Chain(width, parts))
    if norm == "pre":
        # Each part normalises its own input, so the last output is not normalised yet.
        cells.append(Pointwise(nn.LayerNorm(width), width, width))
    return Chain(width, [kept(cell) for cell in cells])
