"""Memory machines: any controller on any memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn

from memnets import kernels
from memnets.controllers import LSTM, LSTMState
from memnets.core import (
    Batch,
    Controller,
    MemoryAccess,
    check_made,
    check_positive,
    choose_state,
    make,
    map_state,
)
from memnets.kernels.steps import LSTMWeights, run
from memnets.models.base import Model
from memnets.objectives import Objective

__all__ = ["MachineState", "MemoryMachine"]


class MachineState(NamedTuple):
    """State of a :class:`MemoryMachine`.

    Attributes:
        controller: state of the controller.
        access: state of the memory; ``None`` in a machine without one.
        read: what the last step read, ``[B, read_size]``; ``None`` in a machine without memory.
    """

    controller: Any
    access: Any = None
    read: Tensor | None = None


class MemoryMachine(Model[MachineState]):
    """A controller that reads and writes a memory, step by step (Graves et al. 2014, figure 1).

    ``h_t = controller([x_t, r_{t-1}])``, ``r_t = access(U h_t + a)``, ``y_t = V [h_t, r_t] + b``.

    Without a mask, an LSTM of one layer on a memory with a kernel (NTM, DNC) takes all its steps as
    one node of the graph; within :func:`memnets.kernels.naive` every module is called at each step.

    Args:
        input_size: width of the input, at least 1.
        output_size: width of the output, at least 1.
        controller: makes the controller from the width of its input, which is that of the machine
            and of what is read together: a controller class, its other arguments given.
        access: the memory with its heads; ``None`` for a machine without memory, the baseline.
        tbptt_steps: cut the gradient every so many steps, at least 1; ``None`` = never. The
            gradient of each stretch is taken as soon as its loss is known, so memory does not grow
            with the length; the weights still change once a batch.
        objective: see :class:`~memnets.models.Model`, as are the rest.
        optimizer: takes the parameters.
        schedule: how the learning rate goes on after the warm-up.
        warmup_steps: steps over which the learning rate rises from 0.

    Example:
        ``MemoryMachine(9, 8, partial(LSTM, hidden_size=100), NTM(slots=128, width=20))``
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        controller: Callable[[int], Controller],
        access: MemoryAccess | None = None,
        tbptt_steps: int | None = None,
        objective: Objective | None = None,
        optimizer: OptimizerCallable = torch.optim.Adam,
        schedule: Literal["constant", "cosine", "inverse_sqrt"] = "constant",
        warmup_steps: int = 0,
    ) -> None:
        super().__init__(objective, optimizer, schedule, warmup_steps)
        check_positive(input_size=input_size, output_size=output_size)
        if tbptt_steps is not None:
            check_positive(tbptt_steps=tbptt_steps)
        self.input_size = input_size
        self.tbptt_steps = tbptt_steps
        check_made("access", access, "NTM(slots=128, width=20)")
        self.access = access
        read_size = 0 if access is None else access.read_size
        self.controller = make(
            "controller",
            controller,
            Controller,
            input_size + read_size,
        )
        hidden_size = self.controller.hidden_size
        if access is not None:
            self.interface = nn.Linear(hidden_size, access.interface_size)
            if (bias := access.interface_bias()) is not None:
                with torch.no_grad():
                    self.interface.bias.add_(bias)
        self.output = nn.Linear(hidden_size + read_size, output_size)

    def initial_state(self, batch_size: int) -> MachineState:
        """State before the first step; what was read is 0."""
        controller = self.controller.initial_state(batch_size)
        if self.access is None:
            return MachineState(controller)
        read = self.output.weight.new_zeros(batch_size, self.access.read_size)
        return MachineState(controller, self.access.initial_state(batch_size), read)

    def forward(
        self, inputs: Tensor, state: MachineState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, MachineState]:
        """Run the machine.

        Args:
            inputs: ``[B, T, I]``.
            state: what the last call returned; the initial state if not given.
            mask: bool ``[B, T]``; a sequence's state stays as it is over steps that are False.

        Returns:
            Logits ``[B, T, O]``, and the state after the last step.

        Raises:
            ValueError: a shape does not fit.
            TypeError: the mask is not boolean.
        """
        features, state = self._run(inputs, state, mask)
        return self.output(features), state

    def encode(self, source: Tensor, mask: Tensor | None = None) -> MachineState:
        """Run the machine over the source ``[B, S, I]``; its outputs are not asked for."""
        return self._run(source, None, mask)[1]

    def decode(self, inputs: Tensor, state: MachineState) -> tuple[Tensor, MachineState]:
        """Run the machine on: logits ``[B, T, O]`` for inputs ``[B, T, I]``."""
        logits, state = self(inputs, state)
        return logits, state

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss over all steps but padding; its gradient is cut every ``tbptt_steps``."""
        if self.tbptt_steps is None or not torch.is_grad_enabled():
            return super().loss(batch)
        if kernels.transformed():
            raise RuntimeError(
                "a loss with tbptt_steps takes gradients as it goes, which torch.func cannot see; "
                "set tbptt_steps=None"
            )
        # Source and answer are one sequence: a cut falls every so many steps, wherever it is.
        source_steps = batch.source.shape[1]
        inputs = torch.cat([batch.source, batch.inputs], 1)
        mask = batch.source_mask
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(batch.inputs.shape[:2])], 1)
        scored = batch.targets.shape[:2].numel()
        count = scored if batch.target_mask is None else batch.target_mask.sum()
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        gradients = [torch.zeros_like(parameter) for parameter in parameters]
        total = self.output.weight.new_zeros(())
        state = None
        for start in range(0, inputs.shape[1], self.tbptt_steps):
            stretch = slice(start, start + self.tbptt_steps)
            features, state = self._run(
                inputs[:, stretch], state, None if mask is None else mask[:, stretch]
            )
            state = map_state(torch.detach, state)
            answered = features[:, max(source_steps - start, 0) :]
            if answered.shape[1] == 0:
                continue
            first = max(start - source_steps, 0)
            steps = slice(first, first + answered.shape[1])
            losses = self.objective.losses(self.output(answered), batch.targets[:, steps])
            if batch.target_mask is not None:
                losses = losses.masked_fill(~batch.target_mask[:, steps], 0)
            loss = losses.sum() / count
            total += loss.detach()
            parts = torch.autograd.grad(loss, parameters, allow_unused=True)
            for gradient, part in zip(gradients, parts, strict=True):
                if part is not None:
                    gradient += part
        return _with_gradients(total, parameters, gradients)

    def _run(
        self, inputs: Tensor, state: MachineState | None, mask: Tensor | None
    ) -> tuple[Tensor, MachineState]:
        """Features for the output layer ``[B, T, hidden_size + read_size]``, and the last state."""
        if not inputs.is_floating_point():  # a token is a one-hot vector
            inputs = nn.functional.one_hot(inputs, self.input_size).to(self.output.weight.dtype)
        self._check(inputs, mask)
        if state is None:
            state = self.initial_state(len(inputs))
        if inputs.shape[1] == 0:
            return inputs.new_zeros(len(inputs), 0, self.output.in_features), state
        if self.access is None and mask is None:
            hidden, controller = self.controller.unroll(inputs, state.controller)
            return hidden, MachineState(controller)
        if mask is None and (whole := self._run_as_one(inputs, state)) is not None:
            return whole
        # Steps that no sequence skips need no choice between the old state and the new.
        skipped = [False] * inputs.shape[1] if mask is None else (~mask.all(0)).tolist()
        features = []
        for step, step_inputs in enumerate(inputs.unbind(1)):
            feature, next_state = self._step(step_inputs, state)
            if mask is not None and skipped[step]:
                next_state = self._choose(mask[:, step], next_state, state)
            features.append(feature)
            state = next_state
        return torch.stack(features, 1), state

    def _run_as_one(
        self, inputs: Tensor, state: MachineState
    ) -> tuple[Tensor, MachineState] | None:
        """All steps as one node of the graph: the fast twin of :meth:`_step` for each.

        ``None`` where there is none: it is for an LSTM of one layer on a memory with a kernel.
        """
        controller, access = self.controller, self.access
        if type(controller) is not LSTM or controller.lstm.num_layers > 1:
            return None
        if access is None or state.read is None:
            return None
        kernel = access.kernel()
        if kernel is None or not kernels.applies(inputs, *state.access):
            return None
        (hidden,), (cell,) = state.controller
        features, cell, access_state = run(
            kernel,
            LSTMWeights(*controller.lstm.all_weights[0]),
            self.interface,
            inputs,
            torch.cat([hidden, state.read], -1),
            cell,
            state.access,
            access,
        )
        hidden, read = features[:, -1].tensor_split((controller.hidden_size,), -1)
        return features, MachineState(
            LSTMState((hidden,), (cell,)), type(state.access)(*access_state), read
        )

    def _step(self, inputs: Tensor, state: MachineState) -> tuple[Tensor, MachineState]:
        """One step: ``[B, I] -> [B, hidden_size + read_size]``."""
        if self.access is None or state.read is None:
            hidden, controller = self.controller(inputs, state.controller)
            return hidden, MachineState(controller)
        hidden, controller = self.controller(torch.cat([inputs, state.read], -1), state.controller)
        read, access = self.access(self.interface(hidden), state.access)
        return torch.cat([hidden, read], -1), MachineState(controller, access, read)

    def _choose(self, mask: Tensor, new: MachineState, old: MachineState) -> MachineState:
        """For each sequence of the batch the new state where ``mask`` is True, else the old one."""
        return MachineState(
            self.controller.choose(mask, new.controller, old.controller),
            None if self.access is None else self.access.choose(mask, new.access, old.access),
            choose_state(mask, new.read, old.read),
        )

    def _check(self, inputs: Tensor, mask: Tensor | None) -> None:
        if inputs.dim() != 3 or inputs.shape[-1] != self.input_size:
            raise ValueError(
                f"inputs must be [batch, time, {self.input_size}]; got {list(inputs.shape)}"
            )
        if mask is None:
            return
        if mask.dtype != torch.bool:
            raise TypeError(f"the mask must be boolean, False = padding; got {mask.dtype}")
        if mask.shape != inputs.shape[:2]:
            raise ValueError(
                f"the mask must be [batch, time] = {list(inputs.shape[:2])}; got {list(mask.shape)}"
            )


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.count = count
        ctx.save_for_backward(*tensors)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        parameters, known = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        gradients = [gradient * part for part in known]
        if torch.is_grad_enabled():
            pairs = zip(gradients, parameters, strict=True)
            gradients = [_OnlyOnce.apply(*pair) for pair in pairs]  # type: ignore[no-untyped-call]
        return None, None, *gradients, *[None] * ctx.count


class _OnlyOnce(torch.autograd.Function):
    """What is known as a number has no derivative that is right."""

    @staticmethod
    def forward(ctx: Any, known: Tensor, parameter: Tensor) -> Tensor:
        return known.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        raise RuntimeError(
            "the gradient of a loss with tbptt_steps was taken a stretch at a time and cannot be "
            "differentiated again; set tbptt_steps=None"
        )


def _with_gradients(
    loss: Tensor, parameters: list[nn.Parameter], gradients: list[Tensor]
) -> Tensor:
    """The loss as a scalar whose gradient is known already, for whoever calls ``backward``."""
    result: Tensor = _WithGradients.apply(  # type: ignore[no-untyped-call]
        loss, len(parameters), *parameters, *gradients
    )
    return result
