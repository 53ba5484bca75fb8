"""Inputs of wrong shapes: each cell says what it expected and what came."""

from __future__ import annotations

import pytest
import torch

from memnets.cells import (
    GRU,
    LSTM,
    LSTMN,
    Chain,
    FeedForward,
    Loop,
    Mixer,
    Residual,
    SelfAttention,
    ShortConvolution,
)
from memnets.encoders import Convolutional, IntraAttention, Process, Recurrent
from memnets.encoders import SelfAttention as SelfAttentionEncoder
from memnets.memories import DNC, NTM, DeltaNet, NeuralStack, Stack, Tape

CELLS = {
    "LSTM": lambda: LSTM(5, 8),
    "GRU": lambda: GRU(5, 8),
    "LSTMN": lambda: LSTMN(5, 8),
    "FeedForward": lambda: FeedForward(5, 8),
    "SelfAttention": lambda: SelfAttention(6, heads=2),
    "ShortConvolution": lambda: ShortConvolution(6, 2),
    "NTM": lambda: NTM(slots=8, width=4),
    "DNC": lambda: DNC(slots=8, width=4),
    "Stack": lambda: Stack(slots=8, width=4),
    "NeuralStack": lambda: NeuralStack(width=4),
    "Tape": lambda: Tape(width=4),
    "DeltaNet": lambda: DeltaNet(4, 4),
    "Mixer": lambda: Mixer(6, DeltaNet(4, 4)),
    "Chain": lambda: Chain(5, [lambda size: LSTM(size, 8), lambda size: GRU(size, 8)]),
    "Residual": lambda: Residual(LSTM(8, 8)),
    "Loop": lambda: Loop(5, lambda size: LSTM(size, 8), NTM(slots=8, width=4)),
}


@pytest.fixture(params=CELLS)
def cell(request):
    return CELLS[request.param]().eval()


def test_a_sequence_of_another_width(cell):
    # PyTorch's operator of an LSTM does not check this on a CPU, and gives numbers.
    size = cell.input_size
    with pytest.raises(ValueError, match=rf"\[batch, time, {size}\]; got \[2, 3, {size + 1}\]$"):
        cell.unroll(torch.zeros(2, 3, size + 1), cell.initial_state(2))


def test_a_step_of_another_width(cell):
    size = cell.input_size
    with pytest.raises(ValueError, match=rf"inputs \[batch, {size}\]; got \[2, {size + 1}\]$"):
        cell.step(torch.zeros(2, size + 1), cell.initial_state(2))


def test_a_sequence_in_place_of_a_step(cell):
    with pytest.raises(ValueError, match="for all steps of a sequence call unroll"):
        cell(torch.zeros(2, 3, cell.input_size))


def test_a_step_in_place_of_a_sequence(cell):
    with pytest.raises(ValueError, match="for one step call step"):
        cell.unroll(torch.zeros(2, cell.input_size), cell.initial_state(2))


def test_a_mask_of_another_kind(cell):
    inputs, state = torch.zeros(2, 3, cell.input_size), cell.initial_state(2)
    with pytest.raises(ValueError, match=r"the mask must be \[batch, time\] = \[2, 3\]; got"):
        cell.unroll(inputs, state, torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(TypeError, match="the mask must be boolean"):
        cell.unroll(inputs, state, torch.ones(2, 3))


@pytest.mark.parametrize("steps", [1, 5])
def test_a_state_of_another_batch(cell, steps):
    """An error, and no memory that is read or written where it is not a tensor's own."""
    if isinstance(cell, FeedForward):
        pytest.skip("it has no state")
    _, state = cell.step(torch.zeros(3, cell.input_size), cell.initial_state(3))
    with pytest.raises((ValueError, RuntimeError)):
        cell.unroll(torch.zeros(2, steps, cell.input_size), state)


@pytest.mark.parametrize("make", [LSTM, GRU])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_recurrent_state_that_does_not_fit_is_named(make, layers):
    inputs = torch.zeros(2, 3, 5)
    with pytest.raises(ValueError, match=rf"{layers} tensors \[batch, width\] = \[2, 8\]; got"):
        make(5, 8, layers).unroll(inputs, make(5, 8, layers).initial_state(3))
    with pytest.raises(ValueError, match=rf"got {layers} of \[2, 7\]$"):
        make(5, 8, layers).unroll(inputs, make(5, 7, layers).initial_state(2))


def test_inputs_that_are_no_tensor(cell):
    with pytest.raises(
        TypeError, match=f"inputs of {type(cell).__name__} must be a tensor; got list"
    ):
        cell([[0.0] * cell.input_size])


@pytest.mark.parametrize(
    "encoder",
    [
        Convolutional(4),
        IntraAttention(4),
        Process(4),
        Recurrent(4, lambda size: LSTM(size, 8)),
        SelfAttentionEncoder(4),
    ],
    ids=lambda encoder: type(encoder).__name__,
)
def test_a_source_that_an_encoder_does_not_read(encoder):
    message = rf"{type(encoder).__name__} take inputs \[batch, time, 4\]; got \[2, 3, 7\]"
    with pytest.raises(ValueError, match=message):
        encoder.read(torch.zeros(2, 3, 7))
    with pytest.raises(ValueError, match=r"the mask must be \[batch, time\] = \[2, 3\]; got"):
        encoder.read(torch.zeros(2, 3, 4), torch.ones(2, 4, dtype=torch.bool))
    assert encoder.read(torch.zeros(2, 3, 4)).vectors.shape[:2] == (2, 3)
