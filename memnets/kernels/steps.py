"""Steps of a memory as nodes of the autograd graph: a node a step, or a node for a whole sequence.

Eager PyTorch spends most of the time of a small step between its operations, and autograd as much
again on the way back. Within a node autograd records nothing, and the backward pass is written out:
for the memory in the kernel of its step, for the LSTM that drives it here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from memnets.core import MemoryAccess
from memnets.kernels.parts import constant, differentiable, unrecorded

__all__ = [
    "KERNELS",
    "LSTMWeights",
    "StepKernel",
    "defined_step",
    "kernel_of",
    "plain_run",
    "plain_step",
    "run",
    "step",
]

Tensors = tuple[Tensor, ...]


class StepKernel(Protocol):
    """A step of a memory, forward and backward, in operations that autograd does not record."""

    def forward(self, interface: Tensor, state: Tensors) -> tuple[Tensor, Tensors, Tensors]:
        """Take one step.

        Args:
            interface: ``[B, interface_size]``.
            state: the state after the last step.

        Returns:
            Three results: the vectors read, ``[B, R, W]``; the next state, which may end with
            tensors that the next step would otherwise compute again; and the tensors that
            :meth:`backward` needs, the same number of them in each step.
        """

    def backward(
        self, saved: Tensors, vectors_gradient: Tensor, state_gradient: Tensors
    ) -> tuple[Tensor, Tensors]:
        """Gradients of the interface and of the state before the step.

        No argument may be changed.

        Args:
            saved: the last result of :meth:`forward`.
            vectors_gradient: gradient of the vectors read.
            state_gradient: gradients of the next state.
        """


#: Class of a memory -> a function that makes its kernel from the memory's present settings, or
#: returns ``None`` if the kernel does not fit them.
KERNELS: dict[type[MemoryAccess], Callable[[Any], StepKernel | None]] = {}


def kernel_of(access: MemoryAccess) -> StepKernel | None:
    """The kernel of a memory with its present settings; ``None`` if there is none."""
    find = KERNELS.get(type(access))
    return None if find is None else find(access)


def step(
    kernel: StepKernel, interface: Tensor, state: Tensors, access: MemoryAccess | None = None
) -> tuple[Tensor, Tensors]:
    """Take one step of a memory.

    Args:
        kernel: the kernel of the step.
        interface: ``[B, interface_size]``.
        state: the state after the last step.
        access: the memory, for second derivatives; ``None`` = they raise an error.

    Returns:
        The vectors read, ``[B, R, W]``, and the next state.
    """
    vectors, *state = _Step.apply(access, kernel, interface, *state)  # type: ignore[no-untyped-call]
    return vectors, tuple(state)


class LSTMWeights(NamedTuple):
    """Weights of an LSTM of one layer with input ``[x, r]``, in the layout of ``torch.nn.LSTM``.

    Attributes:
        from_input: ``[4 hidden_size, I + read_size]``.
        from_hidden: ``[4 hidden_size, hidden_size]``.
        input_bias: ``[4 hidden_size]``.
        hidden_bias: ``[4 hidden_size]``.
    """

    from_input: Tensor
    from_hidden: Tensor
    input_bias: Tensor
    hidden_bias: Tensor


def run(
    kernel: StepKernel,
    weights: LSTMWeights,
    interface: nn.Linear,
    inputs: Tensor,
    feature: Tensor,
    cell: Tensor,
    state: Tensors,
    access: MemoryAccess | None = None,
) -> tuple[Tensor, Tensor, Tensors]:
    """Take all steps of an LSTM that reads and writes a memory.

    ``h_t, c_t = lstm([x_t, r_{t-1}], h_{t-1}, c_{t-1})``, ``r_t = step(U h_t + a)``.

    Args:
        kernel: the kernel of the memory's step.
        weights: weights of the LSTM.
        interface: the layer of U and a.
        inputs: x, ``[B, T, I]``.
        feature: ``[h_0, r_0]``, ``[B, hidden_size + read_size]``.
        cell: c_0, ``[B, hidden_size]``.
        state: initial state of the memory.
        access: the memory, for second derivatives; ``None`` = they raise an error.

    Returns:
        ``[h_t, r_t]`` of all steps, ``[B, T, hidden_size + read_size]``; c_T; the last state of the
        memory.
    """
    # Asked here: within a node, gradients are always off.
    recorded = torch.is_grad_enabled()
    layer = interface.weight, interface.bias
    features, cell, *state = _Run.apply(  # type: ignore[no-untyped-call]
        access, kernel, recorded, *weights, *layer, inputs, feature, cell, *state
    )
    return features, cell, tuple(state)


def plain_step(
    access: MemoryAccess | None, kernel: StepKernel, interface: Tensor, *state: Tensor
) -> Tensors:
    """Take one step by the plain definition.

    Returns:
        The vector read, ``[B, R * W]``, and the next state.

    Raises:
        RuntimeError: the definition would give other numbers than the kernel gave.
    """
    noise = bool(getattr(kernel, "noise", False))
    same = access is not None and not noise and kernel_of(access) == kernel
    return defined_step(access, same, interface, state)


def defined_step(
    access: MemoryAccess | None, same: bool, interface: Tensor, state: Tensors
) -> Tensors:
    """Take one step by the plain definition.

    Args:
        access: the memory; ``None`` = it is not known.
        same: whether the definition gives the numbers of the step that was taken.
        interface: ``[B, interface_size]``.
        state: the state after the last step.

    Returns:
        The vector read, ``[B, R * W]``, and the next state.

    Raises:
        RuntimeError: the definition would give other numbers.
    """
    if access is None or not same:
        raise RuntimeError(
            "a gradient with create_graph=True needs the memory's steps again, which here had "
            "noise, or settings that changed since, or a memory that is not known; take the steps "
            "within memnets.naive()"
        )
    vectors, next_state = access.forward(interface, state)
    return vectors, *(part for part in next_state if part is not None)


class _Step(torch.autograd.Function):
    @staticmethod
    @unrecorded
    def forward(
        ctx: Any, access: MemoryAccess | None, kernel: StepKernel, interface: Tensor, *state: Tensor
    ) -> Tensors:
        vectors, next_state, saved = kernel.forward(interface, state)
        shape = vectors.shape

        def plain(interface: Tensor, *state: Tensor) -> Tensors:
            read, *next_state = plain_step(access, kernel, interface, *state)
            return read.view(shape), *next_state

        ctx.kernel, ctx.plain, ctx.given = kernel, plain, 1 + len(state)
        ctx.save_for_backward(interface, *state, *saved)
        # Tensors behind the state are not outputs of the node: they have no gradient of their own.
        return vectors, *next_state[: len(state)]

    @staticmethod
    @differentiable
    def backward(ctx: Any, vectors_gradient: Tensor, *state_gradient: Tensor) -> Any:
        interface_gradient, state_gradient = ctx.kernel.backward(
            ctx.saved_tensors[ctx.given :], vectors_gradient, state_gradient
        )
        return None, None, interface_gradient, *state_gradient


def plain_run(
    access: MemoryAccess | None,
    kernel: StepKernel,
    from_input: Tensor,
    from_hidden: Tensor,
    input_bias: Tensor,
    hidden_bias: Tensor,
    interface_weight: Tensor,
    interface_bias: Tensor,
    inputs: Tensor,
    feature: Tensor,
    cell: Tensor,
    *state: Tensor,
) -> Tensors:
    """Take all steps by the plain definitions; arguments as for :class:`_Run`."""
    size = from_hidden.shape[1]
    features = []
    for given in inputs.unbind(1):
        hidden, read = feature.tensor_split((size,), 1)
        hidden, cell = torch.lstm_cell(
            torch.cat([given, read], 1), (hidden, cell), from_input, from_hidden, input_bias,
            hidden_bias,
        )  # fmt: skip
        interface = nn.functional.linear(hidden, interface_weight, interface_bias)
        read, *state = plain_step(access, kernel, interface, *state)  # type: ignore[assignment]
        feature = torch.cat([hidden, read], 1)
        features.append(feature)
    return torch.stack(features, 1), cell, *state


class _Run(torch.autograd.Function):
    """All steps of an LSTM on a memory as one node of the graph.

    Work that does not depend on the last step is done for all steps at once: the products with the
    inputs, and in the backward pass the slopes and the gradients of all weights.
    """

    @staticmethod
    @unrecorded
    def forward(
        ctx: Any,
        access: MemoryAccess | None,
        kernel: StepKernel,
        recorded: bool,
        from_input: Tensor,
        from_hidden: Tensor,
        input_bias: Tensor,
        hidden_bias: Tensor,
        interface_weight: Tensor,
        interface_bias: Tensor,
        inputs: Tensor,
        feature: Tensor,
        cell: Tensor,
        *state: Tensor,
    ) -> Tensors:
        given = (
            from_input, from_hidden, input_bias, hidden_bias, interface_weight, interface_bias,
            inputs, feature, cell, *state,
        )  # fmt: skip
        batch, steps, width = inputs.shape
        state_size = len(state)
        # The gates depend on x, known for all steps, and on [h, r], the feature of the last step.
        # The weights are sorted accordingly: two products in each step become one.
        inputs = inputs.transpose(0, 1).reshape(steps * batch, width)
        from_x, from_read = from_input.tensor_split((width,), 1)
        from_feature = torch.cat([from_hidden, from_read], 1)
        of_inputs = torch.addmm(input_bias + hidden_bias, inputs, from_x.t())
        to_gates, to_interface = from_feature.t(), interface_weight.t()
        features, cells = [feature], []
        saved: list[Tensor] = []
        for gates in of_inputs.view(steps, batch, -1).unbind(0):
            gates = torch.addmm(gates, feature, to_gates)
            enter, forget, candidate, leave = gates.chunk(4, 1)
            candidate = candidate.tanh()
            # In place and for all four quarters in one operation. The candidate has its own
            # tensor by now, and its quarter here is not used again.
            gates.sigmoid_()
            next_cell = torch.addcmul(enter * candidate, forget, cell)
            squashed = next_cell.tanh()
            hidden = leave * squashed
            interface = torch.addmm(interface_bias, hidden, to_interface)
            vectors, state, needed = kernel.forward(interface, state)
            feature = torch.cat([hidden, vectors.view(batch, -1)], 1)
            features.append(feature)
            # Without gradients nothing is kept, so that a long sequence takes little memory.
            if recorded:
                cells.append((gates, candidate, cell, squashed))
                saved.extend(needed)
            cell = next_cell

        ctx.kernel, ctx.vectors_shape = kernel, vectors.shape
        ctx.plain, ctx.given = partial(plain_run, access, kernel), len(given)
        all_features = torch.stack(features)
        ctx.save_for_backward(
            *given, from_x, from_feature, interface_weight, inputs, all_features,
            *(torch.stack(part) for part in zip(*cells, strict=True)), *saved,
        )  # fmt: skip
        return all_features[1:].transpose(0, 1).contiguous(), cell, *state[:state_size]

    @staticmethod
    @differentiable
    def backward(
        ctx: Any, features_gradient: Tensor, cell_gradient: Tensor, *state_gradient: Tensor
    ) -> Any:
        (
            from_x, from_feature, interface_weight, inputs, features, gates, candidates, cells,
            squashed, *saved,
        ) = ctx.saved_tensors[ctx.given :]  # fmt: skip
        steps, batch, size = cells.shape
        # Each step has saved the same number of tensors, one step behind the other.
        needed = len(saved) // steps
        one = constant(1.0, cells.dtype, cells.device)
        # c = f c + i g and h = o tanh(c). The factors below are those of the gradients on their way
        # back through these lines, for all steps at once.
        enter, forget, _, leave = gates.chunk(4, -1)
        slopes = torch.addcmul(gates, gates, gates, value=-1.0)
        enter_slope, forget_slope, _, leave_slope = slopes.chunk(4, -1)
        candidate_slope = torch.addcmul(one, candidates, candidates, value=-1.0)
        to_gates = [
            candidates * enter_slope,
            cells * forget_slope,
            enter * candidate_slope,
            squashed * leave_slope,
        ]
        to_cells = leave * torch.addcmul(one, squashed, squashed, value=-1.0)
        factors = [part.unbind(0) for part in (torch.cat(to_gates, -1), to_cells, forget)]
        gates_gradients, interface_gradients = [], []
        *feature_gradients, feature_gradient = features_gradient.unbind(1)
        # The feature before the first step is an input, and no output has a gradient for it.
        feature_gradients.insert(0, torch.zeros_like(feature_gradient))
        for to_gate, to_cell, to_cell_before in reversed(list(zip(*factors, strict=True))):
            hidden_gradient, vectors_gradient = feature_gradient.tensor_split((size,), 1)
            interface_gradient, state_gradient = ctx.kernel.backward(
                saved[-needed:], vectors_gradient.view(ctx.vectors_shape), state_gradient
            )
            # Freed at once: the saved tensors of a long sequence are most of its memory.
            del saved[-needed:]
            hidden_gradient = torch.addmm(hidden_gradient, interface_gradient, interface_weight)
            cell_gradient = torch.addcmul(cell_gradient, hidden_gradient, to_cell)
            gate_gradient = torch.cat([*[cell_gradient] * 3, hidden_gradient], 1).mul_(to_gate)
            cell_gradient.mul_(to_cell_before)
            feature_gradient = torch.addmm(feature_gradients.pop(), gate_gradient, from_feature)
            gates_gradients.append(gate_gradient)
            interface_gradients.append(interface_gradient)

        # Gradients of the weights: one product over all steps, where autograd would add T of them.
        gates_gradient = torch.cat(gates_gradients[::-1])
        interface_gradient = torch.cat(interface_gradients[::-1])
        before, after = features[:-1].flatten(0, 1), features[1:].flatten(0, 1)
        from_feature_gradient = torch.mm(gates_gradient.t(), before)
        from_hidden_gradient, from_read_gradient = from_feature_gradient.tensor_split((size,), 1)
        from_x_gradient = torch.mm(gates_gradient.t(), inputs)
        bias_gradient = gates_gradient.sum(0)
        inputs_gradient = torch.mm(gates_gradient, from_x).view(steps, batch, -1).transpose(0, 1)
        return (
            None,
            None,
            None,
            torch.cat([from_x_gradient, from_read_gradient], 1),
            from_hidden_gradient,
            bias_gradient,
            # Two biases with the same gradient; a shared tensor could be changed in place by both.
            bias_gradient.clone(),
            torch.mm(interface_gradient.t(), after[:, :size]),
            interface_gradient.sum(0),
            inputs_gradient,
            feature_gradient,
            cell_gradient,
            *state_gradient,
        )
