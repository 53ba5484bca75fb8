"""Whole runs of a controller on a memory in C++, on the CPU.

The twin of :meth:`memnets.cells.Loop.unroll` for an LSTM of one layer, or a feed-forward
controller, on an NTM, a DNC, a memory with least recently used access, a stack, queue or deque, a
tape, or a tape that moves: all steps, forward and backward, are one operator. It is built when it
is first needed (:mod:`memnets.kernels.native.build`). Without a compiler the twins of
:mod:`memnets.kernels.loop` run in its place, where they know the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memnets import fast, functional
from memnets.addressing import Content, LeastUsed, Sharp
from memnets.cells.composed import Loop, LoopState
from memnets.cells.recurrent import LSTM, FeedForward, LSTMState
from memnets.core import MemoryAccess, choose_state

# Imported first, so that the twins of this module are tried before theirs.
from memnets.kernels import known
from memnets.kernels import loop as _  # noqa: F401
from memnets.kernels.attention import scale
from memnets.kernels.dnc import kernel as dnc_kernel
from memnets.kernels.hard import MARGIN, on_places
from memnets.kernels.native import build
from memnets.kernels.ntm import kernel as ntm_kernel
from memnets.kernels.parts import cosine_epsilon, differentiable, unrecorded
from memnets.kernels.steps import defined_step
from memnets.memories.dnc import DNC, DNCState
from memnets.memories.lrua import LRUA, LRUAState
from memnets.memories.moving import MovingTape, MovingTapeState
from memnets.memories.ntm import NTM, NTMState
from memnets.memories.stack import Stack, StackState
from memnets.memories.strengths import (
    NeuralDeque,
    NeuralQueue,
    NeuralStack,
    NeuralState,
    Strengths,
)
from memnets.memories.tape import Tape, TapeState
from memnets.normalizers import Softmax

__all__ = ["MEMORIES", "Settings", "unroll", "unroll_places"]

Tensors = tuple[Tensor, ...]

#: Most slots whose places are whole numbers in float32.
MOST_PLACES = 1 << 24

#: Greatest ratio of the slots before a run to its steps at which the operator is used, if the
#: definition appends without a copy.
MOST_BEFORE = 4


class Settings(NamedTuple):
    """Settings of a memory for its operator.

    Attributes:
        kind: name of the memory in ``run.cpp``.
        layout: whole numbers, the number of slots among them; of a memory that grows, the operator
            is given two more, its slots before the run and after it.
        numbers: real numbers.
        shapes: shapes of the tensors of the state, without the batch.
        noise: standard deviation of Gaussian noise on the interface.
        noisy: how many of the first numbers of the interface have noise; ``None`` = all.
        grows: number of slots that a step appends to the tensors of the state. Then no sequence may
            skip a step.
        axis: dimension of the slots in these tensors ``[B, ...]``.
        in_place: whether the definition appends without a copy of the slots that are there. The
            operator copies them once, which pays only in a run of many steps.
        constants: indices of the tensors of the state that a step cuts off from all gradients.
    """

    kind: str
    layout: tuple[int, ...]
    numbers: tuple[float, ...]
    shapes: tuple[tuple[int, ...], ...]
    noise: float = 0.0
    noisy: int | None = None
    grows: int = 0
    axis: int = 2
    in_place: bool = False
    constants: tuple[int, ...] = ()

    @property
    def slots(self) -> int:
        """Slots before the run of a memory that grows."""
        return self.shapes[0][self.axis - 1]

    def sized(self, steps: int, slots: int | None = None) -> tuple[int, ...]:
        """The layout for the operator in a run of some steps, by default from the slots so far."""
        slots = (self.slots if slots is None else slots) if self.grows else 0
        more = (slots, slots + self.grows * steps) if self.grows else ()
        return *self.layout, *more


def _ntm(memory: NTM, state: NTMState) -> Settings | None:
    kernel = ntm_kernel(memory)
    if kernel is None or type(state) is not NTMState:
        return None
    layout, epsilon, noise, hard = kernel
    reads, writes, width, size, least_sharpness = layout
    slots = state.memory.shape[1]
    if slots < size:  # the definition says that this is an error
        return None
    shapes = (slots, width), (reads + writes, slots)
    whole = reads, writes, width, size, slots, int(hard)
    numbers = least_sharpness, epsilon, functional.TIE
    return Settings("NTM", whole, numbers, shapes, noise)


def _placed(memory: MemoryAccess, state: Any) -> Settings | None:
    """Settings of a hard NTM without gradients, which keeps the places of its heads alone."""
    if not isinstance(memory, NTM) or not on_places(memory, state):
        return None
    settings = _ntm(memory, state)
    if settings is None or state.memory.shape[1] > MOST_PLACES:
        return None
    return settings._replace(kind="PlacedNTM", numbers=(*settings.numbers, MARGIN))


def _dnc(memory: DNC, state: DNCState) -> Settings | None:
    kernel = dnc_kernel(memory)
    if kernel is None or type(state) is not DNCState:
        return None
    layout, *epsilons = kernel
    reads, width = layout
    slots = state.memory.shape[1]
    row = (slots,)
    shapes = (slots, width), row, row, (slots, slots), row, (reads, slots)
    return Settings("DNC", (reads, width, slots), tuple(epsilons), shapes)


def _lrua(memory: LRUA, state: LRUAState) -> Settings | None:
    epsilon = cosine_epsilon(memory.reading, Sharp)
    if epsilon is None or type(memory.writing) is not LeastUsed or type(state) is not LRUAState:
        return None
    if memory.writing.hard or memory.reading.hard:
        return None
    heads, width, slots = memory.heads, memory.width, state.memory.shape[1]
    if slots < heads:  # the definition says that this is an error
        return None
    shapes = (slots, width), (slots,), (heads, slots)
    numbers = memory.writing.decay, epsilon
    usage = LRUAState._fields.index("usage")
    return Settings("LRUA", (heads, width, slots), numbers, shapes, constants=(usage,))


def _shifting(
    memory: Stack | MovingTape, state: Any, layout: tuple[int, ...], count: int
) -> Settings | None:
    """Settings of a memory that moves by one; ``count`` such stand side by side."""
    if count < 1:  # the definition says that this is an error
        return None
    kind = type(memory).__name__
    numbers: tuple[float, ...] = ()
    # The numbers of a stack's empty slots. On other devices the operator does not run.
    if isinstance(memory, Stack) and memory.first_row.device.type == "cpu":
        numbers = tuple(memory.first_row.tolist())
    slots = state.memory.shape[1]
    whole = count, memory.width // count, slots, *layout
    noise = memory.noise if memory.training else 0.0
    shapes = ((slots, memory.width),)
    return Settings(kind, whole, numbers, shapes, noise, 3 * count)


def _stack(memory: Stack, state: StackState) -> Settings | None:
    if type(state) is not StackState:
        return None
    # Of a smaller stack than is read, the definition reads what there is.
    if state.memory.shape[1] < memory.visible:
        return None
    return _shifting(memory, state, (memory.visible,), memory.stacks)


def _moving_tape(memory: MovingTape, state: MovingTapeState) -> Settings | None:
    # A jump goes another way in each sequence.
    if type(state) is not MovingTapeState or memory.jumps or state.jump is not None:
        return None
    return _shifting(memory, state, (int(memory.gated),), memory.tapes)


#: Class of a memory with strengths -> its number in ``strengths.h``.
_KINDS: dict[type[Strengths], int] = {NeuralStack: 0, NeuralQueue: 1, NeuralDeque: 2}


def _strengths(memory: Strengths, state: NeuralState) -> Settings | None:
    if type(state) is not NeuralState:
        return None
    count, width, slots = memory.count, memory.width, state.memory.shape[2]
    layout = count, width, _KINDS[type(memory)]
    shapes = (count, slots, width), (count, slots)
    noise = memory.noise if memory.training else 0.0
    noisy = count * len(memory.degrees)
    return Settings("Strengths", layout, (), shapes, noise, noisy, len(memory.pushes))


def _tape(memory: Tape, state: TapeState) -> Settings | None:
    by, heads, width = memory.addressing, memory.read_heads, memory.width
    # Slots of skipped steps are closed to a sequence; the operator opens all.
    if type(state) is not TapeState or state.mask is not None or by.hard:
        return None
    factor = scale(by.score, width)
    # Exact types: a subclass may compute other weights.
    if factor is None or type(by) is not Content or type(by.normalizer) is not Softmax:
        return None
    shapes = ((state.keys.shape[1], width),) * 2
    return Settings("Tape", (heads, width), (factor,), shapes, grows=1, axis=1, in_place=True)


#: Class of a memory -> a function that gives the operator's settings for the memory's present
#: settings and a state, or ``None`` if the operator does not compute them.
MEMORIES: dict[type[MemoryAccess], Callable[[Any, Any], Settings | None]] = {
    NTM: _ntm,
    DNC: _dnc,
    LRUA: _lrua,
    Stack: _stack,
    Tape: _tape,
    MovingTape: _moving_tape,
    NeuralStack: _strengths,
    NeuralQueue: _strengths,
    NeuralDeque: _strengths,
}


def _settings(access: MemoryAccess, state: Any) -> Settings | None:
    find = MEMORIES.get(type(access))
    return None if find is None else find(access, state)


@lru_cache(maxsize=64)
def _sizes(kind: str, layout: tuple[int, ...], numbers: tuple[float, ...]) -> tuple[int, ...]:
    """Widths of the interface and of what a step reads, as the operator has them.

    Returns:
        The two widths; nothing for settings that do not go together.
    """
    try:
        return tuple(torch.ops.memnets.sizes(kind, layout, numbers))
    except RuntimeError:
        return ()


def _weights(loop: Loop, kind: torch.dtype) -> Tensors | None:
    """Weights of a loop in the operator's order; ``None`` for one that it does not know."""
    return known.loop(loop, kind) if type(loop.controller) in (LSTM, FeedForward) else None


def _fits(loop: Loop, inputs: Tensor, state: LoopState, mask: Tensor | None) -> bool:
    return _takes(loop, inputs, state, mask, _settings(loop.access, state.access))


def _fits_places(loop: Loop, inputs: Tensor, state: LoopState, mask: Tensor | None) -> bool:
    return _takes(loop, inputs, state, mask, _placed(loop.access, state.access))


def _takes(
    loop: Loop, inputs: Tensor, state: LoopState, mask: Tensor | None, settings: Settings | None
) -> bool:
    """Whether the operator computes a loop with these settings of its memory."""
    weights = None if settings is None else _weights(loop, inputs.dtype)
    if weights is None or settings is None:
        return False
    if inputs.dim() != 3 or inputs.numel() == 0 or not _known(loop.controller, state.controller):
        return False
    if settings.grows and (mask is not None or settings.slots % settings.grows):
        return False
    if settings.in_place and settings.slots > MOST_BEFORE * inputs.shape[1]:
        return False
    batch, kind = inputs.shape[0], inputs.dtype
    flat = _flat(state)
    # Errors of shape are the definition's to tell.
    widths = [(loop.controller.output_size,)] * (len(flat) - 1 - len(settings.shapes))
    shapes = [*widths, (loop.access.output_size,), *settings.shapes]
    shapes.insert(0, (*inputs.shape[1:2], loop.input_size))
    return (
        kind in (torch.float32, torch.float64)
        and all(tensor.dtype == kind for tensor in flat)
        and all(tensor.device.type == "cpu" for tensor in (inputs, *flat, *weights))
        and [tensor.shape for tensor in (inputs, *flat)] == [(batch, *shape) for shape in shapes]
        and (mask is None or (mask.shape == inputs.shape[:2] and mask.dtype == torch.bool))
        and build.loaded()
        # The settings of a memory may say another width than the layers were made for.
        and _sizes(settings.kind, settings.sized(1, 1), settings.numbers)
        == (len(weights[-1]), loop.access.output_size)
    )


def _known(controller: nn.Module, state: Any) -> bool:
    """Whether a state is that of an LSTM of one layer, or of a feed-forward controller."""
    if type(controller) is FeedForward:
        return state is None
    return type(state) is LSTMState and len(state.hidden) == len(state.cell) == 1


def _flat(state: LoopState) -> Tensors:
    """The tensors of a state: of the controller, the vector read, and of the memory."""
    controller = [] if state.controller is None else [part for (part,) in state.controller]
    return *controller, state.read, *(part for part in state.access if part is not None)


@fast.twin(Loop, "unroll", fits=_fits, name="C++", why_not=build.why_not, hard=True)
def unroll(
    loop: Loop, inputs: Tensor, state: LoopState, mask: Tensor | None
) -> tuple[Tensor, LoopState]:
    """``[B, T, input_size] -> [B, T, output_size]``: see :meth:`memnets.core.Cell.unroll`.

    The output of a skipped step is that of the step before.
    """
    settings = _settings(loop.access, state.access)
    assert settings is not None
    return _run(loop, inputs, state, mask, settings)


@fast.twin(
    Loop, "unroll", fits=_fits_places, only_values=True, name="C++/places",
    why_not=build.why_not, hard=True,
)  # fmt: skip
def unroll_places(
    loop: Loop, inputs: Tensor, state: LoopState, mask: Tensor | None
) -> tuple[Tensor, LoopState]:
    """The same for a hard NTM by the places of its heads, see :mod:`memnets.kernels.hard`."""
    settings = _placed(loop.access, state.access)
    assert settings is not None
    return _run(loop, inputs, state, mask, settings)


def _run(
    loop: Loop, inputs: Tensor, state: LoopState, mask: Tensor | None, settings: Settings
) -> tuple[Tensor, LoopState]:
    weights = _weights(loop, inputs.dtype)
    assert weights is not None
    noise = None
    if settings.noise:
        # Drawn step by step, as the definition does: so a seed gives the same numbers.
        batch, steps, _ = inputs.shape
        size = len(weights[-1])
        count = size if settings.noisy is None else settings.noisy
        noise = inputs.new_empty(steps, batch, count)
        for step in noise:
            step.normal_()
        noise *= settings.noise
        noise = nn.functional.pad(noise, (0, size - count))
    if settings.grows:
        # Room for all that the run appends: so no state changes its shape within the operator.
        more = settings.grows * inputs.shape[1]
        room = [_with_slots(part, more, settings.axis) for part in state.access if part is not None]
        state = state._replace(access=type(state.access)(*room))
    flat = _flat(state)
    outputs, *last = _Run.apply(  # type: ignore[no-untyped-call]
        loop, type(state.access), settings, torch.is_grad_enabled(), mask, noise, len(weights),
        *weights, inputs, *flat,
    )  # fmt: skip
    controller: LSTMState | None = None
    if state.controller is not None:
        hidden, cell, *last = last
        controller = LSTMState((hidden,), (cell,))
    read, *access = last
    return outputs, LoopState(controller, type(state.access)(*access), read)


def _with_slots(part: Tensor, more: int, axis: int) -> Tensor:
    """A part of a state with more slots in a dimension; below 0, with fewer."""
    return nn.functional.pad(part, [0, 0] * (part.dim() - 1 - axis) + [0, more])


def _plain(
    loop: Loop,
    kind: type[Any],
    settings: Settings,
    mask: Tensor | None,
    weights: int,
    *given: Tensor,
) -> Tensors:
    """Take all steps by the plain definitions.

    Args:
        loop: the loop.
        kind: class of the state of its memory.
        settings: settings of its memory when the steps were taken.
        mask: as in ``unroll``.
        weights: number of the weights.
        *given: weights, inputs and state, as :class:`_Run` is given them.

    Returns:
        The outputs and the tensors of the last state.
    """
    *layers, to_interface, bias = given[:weights]
    inputs, *state = given[weights:]
    if settings.grows:
        more, count = settings.grows * inputs.shape[1], len(settings.shapes)
        state[-count:] = [_with_slots(part, -more, settings.axis) for part in state[-count:]]
    lstm = type(loop.controller) is LSTM
    hidden = state[0] if lstm else inputs.new_zeros(len(inputs), loop.controller.output_size)
    cell = [state[1]] if lstm else []
    state = [hidden, *cell, *state[2 if lstm else 0 :]]
    features = []
    for number, now in enumerate(inputs.unbind(1)):
        hidden, *cell, read = state[: 3 if lstm else 2]
        access = state[3 if lstm else 2 :]
        hidden = torch.cat([now, read], 1)
        if lstm:
            hidden, *cell = torch.lstm_cell(hidden, state[:2], *layers)
        else:
            for weight, offset in zip(layers[::2], layers[1::2], strict=True):
                hidden = nn.functional.linear(hidden, weight, offset).tanh()
        driven = nn.functional.linear(hidden, to_interface, bias)
        before = kind(*access)
        found = _settings(loop.access, before)
        same = found is not None and not settings.noise and found[:3] == settings[:3]
        following = [hidden, *cell, *defined_step(loop.access, same, driven, before)]
        if mask is not None and not mask[:, number].all():
            following = choose_state(mask[:, number], following, state)
        state = following
        features.append(torch.cat([state[0], state[2 if lstm else 1]], 1))
    return torch.stack(features, 1), *state[0 if lstm else 1 :]


class _Run(torch.autograd.Function):
    """All steps as one node of the graph."""

    @staticmethod
    @unrecorded
    def forward(
        ctx: Any,
        loop: Loop,
        kind: type[Any],
        settings: Settings,
        recorded: bool,
        mask: Tensor | None,
        noise: Tensor | None,
        weights: int,
        *given: Tensor,
    ) -> Tensors:
        machine: Any = type(loop.controller).__name__, settings.kind
        machine += settings.sized(given[weights].shape[1]), settings.numbers
        recorded = recorded and any(tensor.requires_grad for tensor in given)
        whole = [tensor.contiguous() for tensor in given]
        outputs, *rest = torch.ops.memnets.run(
            *machine, whole[:weights], whole[weights], mask, noise, whole[weights + 1 :], recorded
        )
        states = len(given) - weights - 1
        ctx.machine, ctx.weights, ctx.given = machine, weights, len(given)
        ctx.plain = partial(_plain, loop, kind, settings, mask, weights)
        # The mask too: PyTorch raises an error if it was changed since.
        ctx.save_for_backward(*given, *rest[states:], mask)
        # Mostly nobody uses the last state: zeros in its place would be as large as the memory.
        ctx.set_materialize_grads(False)
        ctx.shapes = [tensor.shape for tensor in (outputs, *rest[:states])]
        ctx.own_states = states - len(settings.shapes)
        # A step that sequences skip passes on what is constant in steps, with its gradient.
        constant = [ctx.own_states + one for one in settings.constants]
        if mask is not None and not mask.all(0).any():
            first = weights + 1
            constant = [one for one in constant if not given[first + one].requires_grad]
        ctx.mark_non_differentiable(*(rest[one] for one in constant))
        return outputs, *rest[:states]

    @staticmethod
    @differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        *every, mask = ctx.saved_tensors  # asked for once: a checkpoint computes them anew
        given, saved = every[: ctx.given], every[ctx.given :]
        wanted = ctx.needs_input_grad[-ctx.given :]
        # Those of the memory are not needed where the last state is not used, nor the first wanted.
        needed = 1 + ctx.own_states
        first = ctx.weights + needed
        if any(wanted[first:]) or any(one is not None for one in gradients[needed:]):
            needed = len(gradients)
        gradient, *state_gradient = (
            given[0].new_zeros(shape) if one is None else one.contiguous()
            for one, shape in zip(gradients[:needed], ctx.shapes, strict=False)
        )
        # The gradients of the inputs are those of data, which mostly nobody wants.
        found = torch.ops.memnets.run_backward(
            *ctx.machine,
            [tensor.contiguous() for tensor in given[: ctx.weights]],
            mask,
            saved,
            gradient,
            state_gradient,
            wanted[ctx.weights],
        )
        others = len(ctx.needs_input_grad) - ctx.given
        return *[None] * others, *(
            one if want else None for one, want in zip_longest(found, wanted)
        )
