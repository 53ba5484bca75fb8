"""Causal convolutions over time as cells: the convolutional blocks of SNAIL."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memnets import functional
from memnets.cells.composed import Chain, kept
from memnets.core import Cell, check_positive

__all__ = ["DenseBlock", "TCBlock"]


class DenseBlock(Cell[Tensor]):
    """The input joined with the output of one gated causal convolution.

    ``y_t = [x_t, tanh(sum_j V_j x_{t - j d}) * sigmoid(sum_j U_j x_{t - j d})]``, with j from 0 to
    k - 1 and ``x_t = 0`` before the first step (Mishra et al. 2018, section 3). The state is the
    last inputs, ``[B, (k - 1) d, input_size]``.

    Args:
        input_size: width of the input, at least 1.
        filters: width of the convolution's output, at least 1.
        dilation: d, steps from one input of the convolution to the next, at least 1.
        kernel_size: k, the number of inputs of the convolution, at least 1.

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
        # Values and gates in one layer. On k inputs side by side, it is a convolution.
        self.layer = nn.Linear(kernel_size * input_size, 2 * filters)

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros for the inputs before the first step."""
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
        # Steps that a sequence takes move to the front, in their order, so that a tap never meets a
        # skipped one. Afterwards the outputs go back to their places.
        order = mask.logical_not().byte().argsort(stable=True, dim=1).unsqueeze(-1)
        together = inputs.gather(1, order.expand_as(inputs))
        outputs, _ = self._convolved(together, state)
        outputs = torch.zeros_like(outputs).scatter(1, order.expand_as(outputs), outputs)
        # The next state: the inputs just before each sequence's own end.
        seen = functional.append(state, together)
        reach = torch.arange(state.shape[1], device=inputs.device)
        last = mask.sum(1, keepdim=True) + reach
        return outputs, seen.gather(1, last.unsqueeze(-1).expand(-1, -1, self.input_size))

    def _convolved(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        steps = inputs.shape[1]
        seen = functional.append(state, inputs)
        # A slice of the past for each tap, oldest first: no step meets a later one.
        taps = [seen[:, start : start + steps] for start in range(0, state.shape[1], self.dilation)]
        both: Tensor = self.layer.bias
        # A product for each tap is faster than one product with all taps side by side, which would
        # have to be copied together.
        weights = self.layer.weight.chunk(self.kernel_size, 1)
        for tap, weight in zip([*taps, inputs], weights, strict=True):
            both = both + nn.functional.linear(tap, weight)
        values, gates = both.chunk(2, -1)
        return torch.cat([inputs, values.tanh() * gates.sigmoid()], -1), seen[:, steps:]


class TCBlock(Chain):
    """Dense blocks with dilations 1, 2, 4 ... up to the length of a sequence.

    Mishra et al. 2018, section 3. With kernels of at least 2, the last step sees the first.

    Args:
        input_size: width of the input, at least 1.
        length: steps of the longest sequence, at least 2.
        filters: width that each dense block adds, at least 1.
        kernel_size: k, the number of inputs of each convolution, at least 1.
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
