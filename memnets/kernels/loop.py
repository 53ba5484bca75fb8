"""All steps of an LSTM on a memory as one node of the autograd graph.

The twin of :meth:`memnets.cells.Loop.unroll` for an LSTM of one layer on a memory whose step has a
kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from memnets import fast
from memnets.cells.composed import Loop, LoopState
from memnets.cells.recurrent import LSTM, LSTMState
from memnets.kernels import known
from memnets.kernels.steps import LSTMWeights, kernel_of, run

__all__ = ["unroll"]


def _fits(loop: Loop, inputs: Tensor, state: LoopState, mask: Tensor | None) -> bool:
    # A mask means a choice between two states after each step, which the node does not record.
    if mask is not None or inputs.numel() == 0 or type(loop.controller) is not LSTM:
        return False
    return known.loop(loop, inputs.dtype) is not None and kernel_of(loop.access) is not None


@fast.twin(Loop, "unroll", fits=_fits, hard=True)
def unroll(
    loop: Loop, inputs: Tensor, state: LoopState, mask: Tensor | None
) -> tuple[Tensor, LoopState]:
    """``[B, T, input_size] -> [B, T, output_size]``: see :meth:`memnets.core.Cell.unroll`."""
    controller, kernel = loop.controller, kernel_of(loop.access)
    weights = known.weights(controller, inputs.dtype)
    assert isinstance(controller, LSTM)
    assert kernel is not None
    assert weights is not None
    (hidden,), (cell,) = state.controller
    features, cell, access = run(
        kernel,
        LSTMWeights(*weights),
        loop.interface,
        inputs,
        torch.cat([hidden, state.read], -1),
        cell,
        state.access,
        loop.access,
    )
    # A feature is [h_t, r_t]: the last one holds the state of the controller and of the loop.
    hidden, read = features[:, -1].tensor_split((controller.hidden_size,), -1)
    last = LoopState(LSTMState((hidden,), (cell,)), type(state.access)(*access), read)
    return features, last
