"""Causal convolutions over time, over explicit state: the blocks that gather (SNAIL)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memnets import functional
from memnets.core import check_positive

__all__ = ["DenseBlock", "TCBlock"]


class DenseBlock(nn.Module):
    """What came in, and beside it what one gated causal convolution makes of the steps before.

    ``y_t = [x_t, tanh(sum_j V_j x_{t - j d}) * sigmoid(sum_j U_j x_{t - j d})]``, with j from 0 to
    k - 1 and ``x_t = 0`` before the first step (Mishra et al. 2018, section 3). What it remembers
    is the last inputs, ``[B, (k - 1) d, input_size]``.

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

    def forward(
        self, inputs: Tensor, past: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """T steps.

        Args:
            inputs: ``[B, T, input_size]``.
            past: what the last call returned; ``None`` at the beginning.
            mask: bool ``[B, T]``, False = padding, which comes after the last step; ``None`` = no
                padding.

        Returns:
            ``[B, T, output_size]``, whatever it is at padding, and the last inputs.
        """
        steps, reach = inputs.shape[1], (self.kernel_size - 1) * self.dilation
        if past is None:
            past = inputs.new_zeros(len(inputs), reach, self.input_size)
        seen = functional.append(past, inputs)
        # The oldest first; a slice for each, so that no step meets one that comes after it.
        taps = [seen[:, start : start + steps] for start in range(0, reach, self.dilation)]
        both: Tensor = self.layer.bias
        # A product for each is faster than one of all side by side, which would be copied.
        weights = self.layer.weight.chunk(self.kernel_size, 1)
        for tap, weight in zip([*taps, inputs], weights, strict=True):
            both = both + nn.functional.linear(tap, weight)
        values, gates = both.chunk(2, -1)
        outputs = torch.cat([inputs, values.tanh() * gates.sigmoid()], -1)
        if mask is None:
            return outputs, seen[:, steps:]
        # Of each sequence the last inputs before its own end.
        last = mask.sum(1, keepdim=True) + torch.arange(reach, device=inputs.device)
        return outputs, seen.gather(1, last.unsqueeze(-1).expand(-1, -1, self.input_size))


class TCBlock(nn.Module):
    """Dense blocks with dilations 1, 2, 4 ... up to the length of a sequence.

    Mishra et al. 2018, section 3; with kernels of at least 2 the last step sees the first.

    Args:
        input_size: width of the input, at least 1.
        length: of the longest sequence, at least 2.
        filters: width of what each dense block adds, at least 1.
        kernel_size: k, at least 1.

    Attributes:
        output_size: width of the output.
    """

    def __init__(self, input_size: int, length: int, filters: int, kernel_size: int = 2) -> None:
        super().__init__()
        if length < 2:
            raise ValueError(f"length must be at least 2; got {length}")
        self.blocks = nn.ModuleList()
        self.output_size = input_size
        for power in range((length - 1).bit_length()):
            block = DenseBlock(self.output_size, filters, 2**power, kernel_size)
            self.blocks.append(block)
            self.output_size = block.output_size

    def forward(
        self,
        inputs: Tensor,
        past: tuple[Tensor, ...] | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """``[B, T, input_size] -> [B, T, output_size]``, see :meth:`DenseBlock.forward`."""
        last = []
        for index, block in enumerate(self.blocks):
            inputs, block_last = block(inputs, None if past is None else past[index], mask)
            last.append(block_last)
        return inputs, tuple(last)
