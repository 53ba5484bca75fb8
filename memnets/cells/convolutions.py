"""Causal convolutions over time as cells: the blocks of SNAIL, the decoder layer of ConvS2S."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from memnets import functional
from memnets.addressing import Content
from memnets.cells.composed import Chain, kept
from memnets.cells.dropout import Dropout
from memnets.checks import check_positive
from memnets.core import Cell, Memory, new_zeros
from memnets.scores import Dot

__all__ = [
    "ConvolutionalLayer",
    "ConvolutionalState",
    "DenseBlock",
    "GatedConvolution",
    "NormedLinear",
    "ShortConvolution",
    "TCBlock",
    "gated_convolution",
]


class _Causal(Cell[Tensor]):
    """Base class for causal convolutions; the state is the last inputs, ``[B, reach, input_size]``.

    Args:
        input_size: width of the input, at least 1.
        kernel_size: k, the number of inputs of the convolution, at least 1.
        dilation: d, steps from one input of the convolution to the next, at least 1.
    """

    def __init__(self, input_size: int, kernel_size: int, dilation: int = 1) -> None:
        super().__init__()
        check_positive(input_size=input_size, kernel_size=kernel_size, dilation=dilation)
        self.input_size = input_size
        self.kernel_size = kernel_size
        self.dilation = dilation

    @abstractmethod
    def convolved(self, inputs: Tensor, seen: Tensor) -> Tensor:
        """Outputs of some steps, ``[B, T, output_size]``.

        Args:
            inputs: of these steps, ``[B, T, input_size]``.
            seen: the same behind the last inputs before them, ``[B, reach + T, input_size]``.
        """

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros for the inputs before the first step."""
        reach = (self.kernel_size - 1) * self.dilation
        return next(self.parameters()).new_zeros(batch_size, reach, self.input_size)

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step: ``[B, input_size] -> [B, output_size]``."""
        outputs, state = self.unroll(inputs.unsqueeze(1), state)
        return outputs.squeeze(1), state

    def unroll(
        self, inputs: Tensor, state: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """``[B, T, input_size] -> [B, T, output_size]``, all steps at once."""
        if mask is None:
            seen = functional.append(state, inputs)
            return self.convolved(inputs, seen), seen[:, inputs.shape[1] :]
        # Steps that a sequence takes move to the front, in their order, so that a tap never meets a
        # skipped one. Afterwards the outputs go back to their places.
        order = mask.logical_not().byte().argsort(stable=True, dim=1).unsqueeze(-1)
        together = inputs.gather(1, order.expand_as(inputs))
        seen = functional.append(state, together)
        outputs = self.convolved(together, seen)
        outputs = torch.zeros_like(outputs).scatter(1, order.expand_as(outputs), outputs)
        # The next state: the inputs just before each sequence's own end.
        reach = torch.arange(state.shape[1], device=inputs.device)
        last = mask.sum(1, keepdim=True) + reach
        return outputs, seen.gather(1, last.unsqueeze(-1).expand(-1, -1, self.input_size))


class DenseBlock(_Causal):
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
        super().__init__(input_size, kernel_size, dilation)
        check_positive(filters=filters)
        self.output_size = input_size + filters
        # Values and gates in one layer. On k inputs side by side, it is a convolution.
        self.layer = nn.Linear(kernel_size * input_size, 2 * filters)

    def convolved(self, inputs: Tensor, seen: Tensor) -> Tensor:
        """Outputs of some steps, ``[B, T, output_size]``."""
        steps, reach = inputs.shape[1], seen.shape[1] - inputs.shape[1]
        # A slice of the past for each tap, oldest first: no step meets a later one.
        taps = [seen[:, start : start + steps] for start in range(0, reach, self.dilation)]
        both: Tensor = self.layer.bias
        # A product for each tap is faster than one product with all taps side by side, which would
        # have to be copied together.
        weights = self.layer.weight.chunk(self.kernel_size, 1)
        for tap, weight in zip([*taps, inputs], weights, strict=True):
            both = both + nn.functional.linear(tap, weight)
        values, gates = both.chunk(2, -1)
        return torch.cat([inputs, values.tanh() * gates.sigmoid()], -1)


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


class NormedLinear(nn.Module):
    """A linear layer with weight normalisation (Salimans & Kingma 2016).

    ``y = W x + b``, where row i of W is ``g_i v_i / |v_i|``: its length and its direction are
    learned apart.

    Args:
        input_size: width of x, at least 1.
        output_size: width of y, at least 1.
        gain: at the start W has the variance ``gain / input_size``, more than 0, and b is 0. With a
            gain of 1, y has the variance of x.
    """

    def __init__(self, input_size: int, output_size: int, gain: float = 1.0) -> None:
        super().__init__()
        check_positive(input_size=input_size, output_size=output_size)
        self.direction = nn.Parameter(torch.empty(output_size, input_size))
        nn.init.normal_(self.direction, std=math.sqrt(gain / input_size))
        self.length = nn.Parameter(self.direction.detach().norm(dim=1, keepdim=True))
        self.bias = nn.Parameter(torch.zeros(output_size))

    @property
    def weight(self) -> Tensor:
        """W, ``[output_size, input_size]``."""
        weight: Tensor = self.direction * (self.length / self.direction.norm(dim=1, keepdim=True))
        return weight

    def forward(self, inputs: Tensor) -> Tensor:
        """``[*B, input_size] -> [*B, output_size]``."""
        return nn.functional.linear(inputs, self.weight, self.bias)


def gated_convolution(seen: Tensor, layer: nn.Module, kernel_size: int) -> Tensor:
    """A convolution over time with a gated linear unit (Dauphin et al. 2017).

    ``y_t = a_t * sigmoid(b_t)`` with ``[a_t, b_t] = layer([x_t, ..., x_{t + k - 1}])``.

    Args:
        seen: x, ``[B, T + k - 1, W]``.
        layer: ``[*B, k W] -> [*B, 2 H]``.
        kernel_size: k, at least 1.

    Returns:
        ``[B, T, H]``.
    """
    steps = seen.shape[1] - kernel_size + 1
    taps = [seen[:, tap : tap + steps] for tap in range(kernel_size)]
    gated: Tensor = nn.functional.glu(layer(torch.cat(taps, -1)), -1)
    return gated


class GatedConvolution(_Causal):
    """A causal convolution with a gated linear unit and weight normalisation.

    ``y_t = a_t * sigmoid(b_t)`` with ``[a_t, b_t] = W [x_{t - k + 1}, ..., x_t] + c``, and
    ``x_t = 0`` before the first step (Gehring et al. 2017, section 3.2). The state is the last
    inputs, ``[B, k - 1, width]``.

    Args:
        width: width of input and output, at least 1.
        kernel_size: k, the number of inputs of the convolution, at least 1.
        gain: variance of the weights at the start, see :class:`NormedLinear`. The gates halve what
            passes them, so a gain of 4 keeps the variance (section 3.5).
    """

    def __init__(self, width: int, kernel_size: int = 3, gain: float = 4.0) -> None:
        super().__init__(width, kernel_size)
        self.output_size = width
        self.layer = NormedLinear(kernel_size * width, 2 * width, gain)

    def convolved(self, inputs: Tensor, seen: Tensor) -> Tensor:
        """Outputs of some steps, ``[B, T, width]``."""
        return gated_convolution(seen, self.layer, self.kernel_size)


class ShortConvolution(_Causal):
    """A causal convolution of each number of its input by itself, then a SiLU.

    ``y_t = silu(sum_j w_j . x_{t - j} + c)``, with j from 0 to k - 1 and ``x_t = 0`` before the
    first step: the short convolution before a linear memory (Fu et al. 2023, section 3.1; Yang et
    al. 2024, DeltaNet, section 3.4). It lets a step compare itself with the one before. The state
    is the last inputs, ``[B, k - 1, input_size]``.

    Args:
        input_size: width of input and output, at least 1.
        kernel_size: k, the number of inputs of the convolution, at least 1.
    """

    def __init__(self, input_size: int, kernel_size: int = 4) -> None:
        super().__init__(input_size, kernel_size)
        self.output_size = input_size
        # Of an input of a convolution, w has a number for each entry; the last is that of its own.
        bound = 1 / math.sqrt(kernel_size)
        self.weight = nn.Parameter(torch.empty(kernel_size, input_size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(input_size))

    def convolved(self, inputs: Tensor, seen: Tensor) -> Tensor:
        """Outputs of some steps, ``[B, T, input_size]``."""
        steps = inputs.shape[1]
        total: Tensor = self.bias
        for tap, weight in enumerate(self.weight):
            total = torch.addcmul(total, seen[:, tap : tap + steps], weight)
        return nn.functional.silu(total)


class ConvolutionalState(NamedTuple):
    """State of a :class:`ConvolutionalLayer`.

    Attributes:
        past: the last inputs of the convolution, ``[B, k - 1, width]``.
        memory: the source; no step changes it.
    """

    past: Tensor
    memory: Memory


class ConvolutionalLayer(Cell[ConvolutionalState]):
    """Decoder layer of ConvS2S: a gated convolution, then attention (Gehring et al. 2017, 3.3).

    The input of a step is ``[h, g]``, the output of the layer below and the embedding of the step,
    side by side; the output is ``[h', g]``::

        u  = (conv(h) + h) sqrt(1/2)                     the gated convolution
        d  = W u + b + g                                 the query
        c  = sqrt(m) read(memory, d)                     over the m steps of the source
        h' = (u + c) sqrt(1/2)

    A mean of m independent vectors has 1/m of their variance, and a sum of two has twice as much:
    the factors undo this (section 3.4). The attention is by dot products. It sees where the layers
    below have looked, and the convolution spreads this over the steps: *multi-step attention*.

    Args:
        width: width of h and of g, at least 1.
        kernel_size: k, the number of inputs of the convolution, at least 1.
        dropout: dropout on the input of the convolution, in ``[0, 1)``.
    """

    def __init__(self, width: int, kernel_size: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.input_size = self.output_size = 2 * width
        self.dropout = Dropout(dropout)
        # Dropout makes its input's variance larger by 1 / (1 - p).
        self.convolution = GatedConvolution(width, kernel_size, 4 * (1 - dropout))
        self.query = NormedLinear(width, width)
        self.addressing = Content(Dot())

    def initial_state(self, batch_size: int) -> ConvolutionalState:
        """Zeros for the inputs before the first step, and a source without steps."""
        width = self.convolution.input_size
        return self.start(new_zeros((batch_size, 0, 2 * width), self))

    def start(self, source: Tensor, mask: Tensor | None = None) -> ConvolutionalState:
        """State before the first step.

        Args:
            source: keys and values of the source side by side, ``[B, S, 2 width]``.
            mask: bool ``[B, S]``, False = padding; ``None`` = no padding.
        """
        keys, values = source.chunk(2, -1)
        # The values are scaled once, and not each vector that is read.
        if mask is None:
            memory = Memory(keys, values * math.sqrt(values.shape[1]))
        else:
            # The root is rounded to the type of the values, and not the number of steps.
            exact = torch.promote_types(values.dtype, torch.float32)
            root = mask.sum(1).to(exact).sqrt().to(values.dtype).view(-1, 1, 1)
            memory = Memory(keys, values * root, mask.unsqueeze(1))
        return ConvolutionalState(self.convolution.initial_state(len(source)), memory)

    def forward(
        self, inputs: Tensor, state: ConvolutionalState
    ) -> tuple[Tensor, ConvolutionalState]:
        """One step: ``[B, 2 width] -> [B, 2 width]``."""
        outputs, state = self.unroll(inputs.unsqueeze(1), state)
        return outputs.squeeze(1), state

    def unroll(
        self, inputs: Tensor, state: ConvolutionalState, mask: Tensor | None = None
    ) -> tuple[Tensor, ConvolutionalState]:
        """``[B, T, 2 width] -> [B, T, 2 width]``, all steps at once."""
        hidden, embedded = inputs.chunk(2, -1)
        convolved, past = self.convolution.unroll(self.dropout(hidden), state.past, mask)
        hidden = (hidden + convolved) * math.sqrt(0.5)
        context, _ = self.addressing.read(self.query(hidden) + embedded, state.memory)
        hidden = (hidden + context) * math.sqrt(0.5)
        return torch.cat([hidden, embedded], -1), state._replace(past=past)

    def choose(
        self, mask: Tensor, new: ConvolutionalState, old: ConvolutionalState
    ) -> ConvolutionalState:
        """Choose the inputs of the convolution; no step changes the source."""
        return new._replace(past=self.convolution.choose(mask, new.past, old.past))
