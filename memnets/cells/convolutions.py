"""Causal convolutions over time as cells: the blocks of SNAIL that gather the past."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memnets import functional
from memnets.cells.composed import Chain, kept
from memnets.core import Cell, check_positive

__all__ = ["DenseBlock", "TCBlock"]


class DenseBlock(Cell[Tensor]):
    """The input, and beside it the output of one gated causal convolution.

    ``y_t = [x_t, tanh(sum_j V_j x_{t - j d}) * sigmoid(sum_j U_j x_{t - j d})]``, with j from 0 to
    k - 1 and ``x_t = 0`` before the first step (Mishra et al. 2018, section 3). The state is the
    last inputs, ``[B, (k - 1) d, input_size]``.

    Args:
        input_size: width of the input, at least 1.
        filters: width of what is added to it, at least 1.
        dilation: d, steps from one input of the convolution to the next, at least 1.
        kernel_size: k, how many inputs it sees, at least 1.

    Attributes:
        output_size: width of the output.
    """

    def __init__(
        self, input_size: int, filters: int, dilation: int = 1, kernel_size: int = 2
    ) -> None:
        super().__init__()
        check_positive(
            input_size=input_size, filters=filters, dilation=dilation, kernel_size=kernel_size
        )
        self.input_size = input_size
        self.output_size = input_size + filters
        self.dilation = dilation
        self.kernel_size = kernel_size
        # Both halves; on the inputs that it sees side by side it is a convolution.
        self.layer = nn.Linear(kernel_size * input_size, 2 * filters)

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros."""
        reach = (self.kernel_size - 1) * self.dilation
        return self.layer.weight.new_zeros(batch_size, reach, self.input_size)

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step: ``[B, input_size] -> [B, output_size]``."""
        outputs, state = self.unroll(inputs.unsqueeze(1), state)
        return outputs.squeeze(1), state

    def unroll(
        self, inputs: Tensor, state: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """``[B, T, input_size] -> [B, T, output_size]``, all steps at once."""
        if mask is None:
            return self._convolved(inputs, state)
        # The steps that a sequence takes move together, so that it meets no step that it skips.
        order = mask.logical_not().byte().argsort(stable=True, dim=1).unsqueeze(-1)
        together = inputs.gather(1, order.expand_as(inputs))
        outputs, _ = self._convolved(together, state)
        outputs = torch.zeros_like(outputs).scatter(1, order.expand_as(outputs), outputs)
        # Of each sequence the last inputs before its own end.
        seen = functional.append(state, together)
        reach = torch.arange(state.shape[1], device=inputs.device)
        last = mask.sum(1, keepdim=True) + reach
        return outputs, seen.gather(1, last.unsqueeze(-1).expand(-1, -1, self.input_size))

    def _convolved(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        steps = inputs.shape[1]
        seen = functional.append(state, inputs)
        # The oldest first; a slice for each, so that no step meets one that comes after it.
        taps = [seen[:, start : start + steps] for start in range(0, state.shape[1], self.dilation)]
        both: Tensor = self.layer.bias
        # A product for each is faster than one of all side by side, which would be copied.
        weights = self.layer.weight.chunk(self.kernel_size, 1)
        for tap, weight in zip([*taps, inputs], weights, strict=True):
            both = both + nn.functional.linear(tap, weight)
        values, gates = both.chunk(2, -1)
        return torch.cat([inputs, values.tanh() * gates.sigmoid()], -1), seen[:, steps:]


class TCBlock(Chain):
    """Dense blocks with dilations 1, 2, 4 ... up to the length of a sequence.

    Mishra et al. 2018, section 3; with kernels of at least 2 the last step sees the first.

    Args:
        input_size: width of the input, at least 1.
        length: of the longest sequence, at least 2.
        filters: width that each dense block adds, at least 1.
        kernel_size: k, at least 1.
    """

    def __init__(self, input_size: int, length: int, filters: int, kernel_size: int = 2) -> None:
        if length < 2:
            raise ValueError(f"length must be at least 2; got {length}")
        blocks: list[Cell] = []
        size = input_size
        for power in range((length - 1).bit_length()):
            blocks.append(DenseBlock(size, filters, 2**power, kernel_size))
            size = blocks[-1].output_size
        super().__init__(input_size, [kept(block) for block in blocks])
