"""All steps of an LSTM on an NTM as two GPU kernels in Triton, one forward and one backward.

The twin of :meth:`memnets.cells.Loop.unroll` on a GPU, for an LSTM of one layer on an NTM of any
heads, with noise and masks. Eager PyTorch starts some hundred kernels a step there, and each costs
more to start than to run.

With ``TRITON_INTERPRET=1`` in the environment, Triton's interpreter runs the same kernels on the
CPU: very slowly, to test them without a GPU.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from memnets import fast
from memnets.cells.composed import Loop, LoopState
from memnets.cells.recurrent import LSTM, LSTMState
from memnets.core import MemoryAccess
from memnets.kernels import known
from memnets.kernels.ntm import NTMKernel, kernel
from memnets.kernels.parts import differentiable, unrecorded
from memnets.kernels.steps import LSTMWeights, plain_run
from memnets.memories.ntm import NTM, NTMLayout, NTMState

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["interpreted", "unroll", "why_not"]

Tensors = tuple[Tensor, ...]

#: Most slots, width of a slot, cells of the LSTM, and heads. More would be right, but slow to
#: compile and to run.
MOST_SLOTS, MOST_WIDTH, MOST_CELLS, MOST_HEADS = 4096, 128, 256, 8


def interpreted() -> bool:
    """Whether Triton's interpreter runs kernels, so that they take tensors of the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_not() -> str | None:
    """Why this twin cannot run in this process; ``None`` if it can."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    if interpreted():
        return None
    return _failure() if torch.cuda.is_available() else "no GPU"


@cache
def _failure() -> str | None:
    """Why Triton does not work on this GPU: it is too old, or Triton finds no C compiler."""
    place = torch.zeros(1, dtype=torch.int32, device="cuda")
    try:
        _compiled().trial[(1,)](place)
        torch.cuda.synchronize()
    # Triton raises errors of many kinds here. The definition can do without it.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        return f"Triton does not work here: {reason or type(error).__name__}"
    return None


def _power_of_two(number: int) -> int:
    """The least power of two that is not below a number, at least 1."""
    return 1 << (number - 1).bit_length()


class _Launch(NamedTuple):
    """Settings of the launch of a kernel.

    Attributes:
        constants: numbers that are known when the kernel is compiled.
        warps: warps of 32 threads that share a row.
        registers: most registers of a thread; ``None`` = as many as the compiler wants.
    """

    constants: dict[str, Any]
    warps: int
    registers: int | None = None

    def run(self, function: Any, rows: int, *arguments: Any, **constants: Any) -> None:
        """Start a kernel with a program for each row."""
        # One stage: the barriers between stores and loads leave nothing to overlap.
        options = {"num_warps": self.warps, "num_stages": 1, "maxnreg": self.registers}
        # Triton starts kernels on the current device, which need not be that of the tensors.
        with torch.cuda.device_of(arguments[0]):
            function[(rows,)](*arguments, **constants, **self.constants, **options)


def _launch(layout: NTMLayout, epsilon: float, hidden: int, slots: int, like: Tensor) -> _Launch:
    """Settings for the sizes of a machine."""
    size, width = _power_of_two(slots), max(4, _power_of_two(layout.width))
    # A tile of slots takes 32 registers of each thread. A memory of one tile stays in them.
    warps = 4 if size * width <= 1024 else 8
    tile = min(size, 32 * 32 * warps * 4 // (width * like.element_size()))
    constants = {
        "HIDDEN": hidden,
        "READS": layout.read_heads,
        "WRITES": layout.write_heads,
        "SLOTS": slots,
        "WIDTH": layout.width,
        "SHIFT": layout.shift_range,
        "EPSILON": epsilon,
        "LEAST": layout.least_sharpness,
        "TINY": torch.finfo(like.dtype).tiny,
        "HIDDEN_BLOCK": _power_of_two(hidden),
        "SLOT_BLOCK": size,
        "SLOT_TILE": tile,
        "WIDTH_BLOCK": width,
        "SHIFT_BLOCK": _power_of_two(layout.shift_range),
    }
    return _Launch(constants, warps)


def _tile(block: int, launch: _Launch) -> int:
    """Columns of a matrix that a product loads at once: 16 numbers a thread, at most 32 columns."""
    return max(1, min(32, 16 * 32 * launch.warps // block))


def _compiled() -> ModuleType:
    # Imported at the first run: the import of Triton takes time, and most machines do not need it.
    from memnets.kernels.triton import ntm

    return ntm


def _plain(
    access: MemoryAccess | None, kernel: NTMKernel, lengths: Tensor | None, *given: Tensor
) -> Tensors:
    """All steps by the plain definitions; arguments and results as for :class:`_Run`."""
    *weights, inputs, feature, cell, memory, heads = given
    features = []
    for number, step in enumerate(inputs.split(1, 1)):
        output, *state = plain_run(access, kernel, *weights, step, feature, cell, memory, heads)
        output = output.squeeze(1)
        if lengths is not None:
            taken = (number < lengths).view(-1, 1)
            output = torch.where(taken, output, torch.zeros_like(output))
            old = feature, cell, memory, heads
            feature, cell, memory, heads = (
                torch.where(taken.view(-1, *[1] * (one.dim() - 1)), one, other)
                for one, other in zip((output, *state), old, strict=True)
            )
        else:
            feature, (cell, memory, heads) = output, state
        features.append(output)
    return torch.stack(features, 1), feature, cell, memory, heads


def _at(places: Tensor, index: Tensor | int) -> Tensor:
    """One place of each row, ``[B, places, ...] -> [B, ...]``, in a tensor of its own."""
    if isinstance(index, int):
        return places[:, index].clone()
    return places[torch.arange(len(places), device=places.device), index]


class _Run(torch.autograd.Function):
    """All steps of an LSTM on an NTM as one node of the graph.

    Row b takes its first ``lengths[b]`` steps; features of the others are 0. What does not depend
    on the last step is computed here for all steps at once: the products with the inputs, and in
    the backward pass the gradients of all weights.
    """

    @staticmethod
    @unrecorded
    def forward(
        ctx: Any,
        access: MemoryAccess | None,
        kernel: NTMKernel,
        recorded: bool,
        lengths: Tensor | None,
        noise: Tensor | None,
        from_input: Tensor,
        from_hidden: Tensor,
        input_bias: Tensor,
        hidden_bias: Tensor,
        interface_weight: Tensor,
        interface_bias: Tensor,
        inputs: Tensor,
        feature: Tensor,
        cell: Tensor,
        memory: Tensor,
        weights: Tensor,
    ) -> Tensors:
        given = (
            from_input, from_hidden, input_bias, hidden_bias, interface_weight, interface_bias,
            inputs, feature, cell, memory, weights,
        )  # fmt: skip
        batch, steps, width = inputs.shape
        (_, heads, slots), hidden = weights.shape, cell.shape[1]
        launch = _launch(kernel.layout, kernel.epsilon, hidden, slots, inputs)
        from_x, from_read = from_input.tensor_split((width,), 1)
        from_feature = torch.cat([from_hidden, from_read], 1)
        inputs = inputs.flatten(0, 1)
        of_inputs = torch.addmm(input_bias + hidden_bias, inputs, from_x.t())
        of_interface = interface_bias if noise is None else interface_bias + noise
        interface_weight = interface_weight.contiguous()

        def places(count: int, *sizes: int, first: Tensor | None = None) -> Tensor:
            place = inputs.new_empty(batch, count, *sizes)
            if first is not None:
                place[:, 0] = first
            return place

        # Tensors of steps, and of states. Without gradients nothing is kept: two places in turn.
        passed, states = (steps, steps + 1) if recorded else (2, 2)
        interfaces = places(passed, len(interface_bias))
        cells = places(states, hidden, first=cell)
        memories = places(states, *memory.shape[1:], first=memory)
        all_weights = places(states, heads, slots, first=weights)
        scores, scales = places(passed, heads, slots), places(passed, slots)
        gates = places(steps if recorded else 0, 4 * hidden)
        contents = places(steps if recorded else 0, heads, slots)
        # A row may end before the last step. What it does not write must not become NaN later.
        features = inputs.new_zeros(batch, steps + 1, feature.shape[1])
        features[:, 0] = feature
        interface_block = min(128, _power_of_two(len(interface_bias)))
        block = max(interface_block, launch.constants["HIDDEN_BLOCK"])
        launch.run(
            _compiled().forward, batch,
            of_inputs, of_interface, from_feature, interface_weight, lengths, features, cells,
            gates, interfaces, memories, all_weights, contents, scores, scales, steps,
            MASKED=lengths is not None, NOISE=noise is not None, RECORD=recorded,
            INTERFACE_BLOCK=interface_block, TILE=_tile(block, launch),
        )  # fmt: skip
        ends = steps if lengths is None else lengths.long()
        last_places = ends if recorded else ends % 2
        last = [_at(kept, last_places) for kept in (cells, memories, all_weights)]

        ctx.plain, ctx.given = _Plain(access, kernel, lengths), len(given)
        ctx.launch, ctx.lengths = launch, lengths
        ctx.save_for_backward(
            *given, from_x, from_feature, interface_weight, inputs, features, cells, gates,
            interfaces, memories, all_weights, contents, scores, scales,
        )  # fmt: skip
        return features[:, 1:].contiguous(), _at(features, ends), *last

    @staticmethod
    @differentiable
    def backward(
        ctx: Any,
        features_gradient: Tensor,
        feature_gradient: Tensor,
        cell_gradient: Tensor,
        memory_gradient: Tensor,
        weights_gradient: Tensor,
    ) -> Any:
        (
            from_x, from_feature, interface_weight, inputs, features, cells, gates, interfaces,
            memories, all_weights, contents, scores, scales,
        ) = ctx.saved_tensors[ctx.given :]  # fmt: skip
        launch, lengths = ctx.launch, ctx.lengths
        batch, steps, _ = features_gradient.shape
        size = from_feature.shape[1]
        hidden = cells.shape[2]
        # The kernel writes the gradients of the state before the first step in their places.
        feature_gradient, cell_gradient, memory_gradient = (
            gradient.clone(memory_format=torch.contiguous_format)
            for gradient in (feature_gradient, cell_gradient, memory_gradient)
        )
        both = torch.stack([weights_gradient, torch.empty_like(weights_gradient)], 1)
        made = torch.empty_like if lengths is None else torch.zeros_like
        gates_gradient, interface_gradient = made(gates), made(interfaces)
        heads, slots = scores.shape[2:]
        scratch = scores.new_empty(batch, heads, slots), scores.new_empty(batch, heads + 1, slots)
        feature_block = _power_of_two(size)
        launch.run(
            _compiled().backward, batch,
            from_feature, interface_weight, lengths, cells, gates, interfaces, memories,
            all_weights, contents, scores, scales, features_gradient.contiguous(),
            feature_gradient, cell_gradient, memory_gradient, both, gates_gradient,
            interface_gradient, *scratch, steps,
            MASKED=lengths is not None, FEATURE_BLOCK=feature_block,
            TILE=_tile(feature_block, launch),
        )  # fmt: skip
        ends = steps if lengths is None else lengths.long()
        weights_gradient = _at(both, ends % 2)

        # Gradients of the weights: one product over all rows and steps.
        gates_gradient = gates_gradient.flatten(0, 1)
        interface_gradient = interface_gradient.flatten(0, 1)
        before = features[:, :-1].reshape(batch * steps, size)
        after = features[:, 1:, :hidden].reshape(batch * steps, hidden)
        from_feature_gradient = torch.mm(gates_gradient.t(), before)
        from_hidden_gradient, from_read_gradient = from_feature_gradient.tensor_split((hidden,), 1)
        from_x_gradient = torch.mm(gates_gradient.t(), inputs)
        bias_gradient = gates_gradient.sum(0)
        return (
            None,
            None,
            None,
            None,
            None,
            torch.cat([from_x_gradient, from_read_gradient], 1),
            from_hidden_gradient,
            bias_gradient,
            # Two biases with the same gradient; a shared tensor could be changed in place by both.
            bias_gradient.clone(),
            torch.mm(interface_gradient.t(), after),
            interface_gradient.sum(0),
            torch.mm(gates_gradient, from_x).view(batch, steps, -1),
            feature_gradient,
            cell_gradient,
            memory_gradient,
            weights_gradient,
        )


class _Plain(NamedTuple):
    """The definition of a run, for second derivatives."""

    access: MemoryAccess | None
    kernel: NTMKernel
    lengths: Tensor | None

    def __call__(self, *given: Tensor) -> Tensors:
        return _plain(*self, *given)


def _fits(loop: Loop, inputs: Tensor, state: LoopState, mask: Tensor | None) -> bool:
    if not (inputs.is_cuda or (interpreted() and inputs.device.type == "cpu")):
        return False
    controller, access = loop.controller, loop.access
    return (
        type(controller) is LSTM
        and known.loop(loop, inputs.dtype) is not None
        and controller.hidden_size <= MOST_CELLS
        and type(access) is NTM
        and access.read_heads + access.write_heads <= MOST_HEADS
        and access.width <= MOST_WIDTH
        and state.access.memory.shape[1] <= MOST_SLOTS
        and kernel(access) is not None
        and inputs.shape[0] > 0
        and inputs.shape[1] > 0
        and inputs.dtype == state.access.memory.dtype
        and why_not() is None
    )


@fast.twin(Loop, "unroll", fits=_fits, name="Triton", why_not=why_not)
def unroll(
    loop: Loop, inputs: Tensor, state: LoopState, mask: Tensor | None
) -> tuple[Tensor, LoopState]:
    """``[B, T, input_size] -> [B, T, output_size]``: see :meth:`memnets.core.Cell.unroll`."""
    controller, access = loop.controller, loop.access
    assert isinstance(controller, LSTM)
    assert isinstance(access, NTM)
    chosen = kernel(access)
    assert chosen is not None
    noise = _noise(chosen, loop.interface, inputs) if chosen.noise else None
    lengths = None
    if mask is not None:
        # A row takes the steps that it does not skip, one behind the other.
        order = mask.logical_not().to(torch.uint8).argsort(dim=1, stable=True)
        lengths = mask.sum(1, dtype=torch.int32)
        inputs = _picked(inputs, order)
        noise = None if noise is None else _picked(noise, order)
    (hidden,), (cell,) = state.controller
    # Asked here: within a node, gradients are always off.
    recorded = torch.is_grad_enabled()
    features, feature, cell, *access_state = _Run.apply(  # type: ignore[no-untyped-call]
        access,
        chosen,
        recorded,
        lengths,
        noise,
        *LSTMWeights(*controller.lstm.all_weights[0]),
        loop.interface.weight,
        loop.interface.bias,
        inputs,
        torch.cat([hidden, state.read], -1),
        cell,
        *state.access,
    )
    if mask is not None:
        # Back to their places; a skipped step shows the feature of the last step before it.
        features = _picked(features, (mask.cumsum(1) - 1).clamp_min(0))
    hidden, read = feature.tensor_split((controller.hidden_size,), -1)
    return features, LoopState(LSTMState((hidden,), (cell,)), NTMState(*access_state), read)


def _picked(sequences: Tensor, order: Tensor) -> Tensor:
    """Steps of each row in another order: ``[B, T, I]``, ``[B, T] -> [B, T, I]``."""
    return sequences.gather(1, order.unsqueeze(-1).expand(-1, -1, sequences.shape[-1]))


def _noise(kernel: NTMKernel, interface: nn.Linear, inputs: Tensor) -> Tensor:
    """Noise on the interface of all steps, ``[B, T, P]``, in the draws of the definition."""
    batch, steps, _ = inputs.shape
    draws = [inputs.new_empty(batch, interface.out_features).normal_() for _ in range(steps)]
    return torch.stack(draws, 1).mul_(kernel.noise)
