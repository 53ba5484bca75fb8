"""Dense, TC and attention blocks: against torch's convolution, and strictly causal, bit for bit."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from memnets import functional, testing
from memnets.cells import AttentionBlock, DenseBlock, Slots, TCBlock
from memnets.core import Cell, map_state
from memnets.normalizers import Softmax
from memnets.viewing import trace

SIZE, FILTERS = 3, 2
close = {"rtol": 0, "atol": 1e-12}


class TrimmedByDilation(nn.Module):
    """A convolution padded at both ends and trimmed by its dilation: right for kernel 2 only."""

    def __init__(self, block):
        super().__init__()
        reach = (block.kernel_size - 1) * block.dilation
        self.trim = block.dilation
        self.conv = nn.Conv1d(
            SIZE, FILTERS, block.kernel_size, padding=reach, dilation=block.dilation
        ).double()

    def forward(self, inputs):
        trimmed = self.conv(inputs.mT)[..., : -self.trim]
        return trimmed[..., -inputs.shape[1] :].mT


class OverQueries(Softmax):
    """Normalised over the queries, not over the slots, as in a well-known public copy."""

    def forward(self, scores, mask=None):
        return scores.masked_fill(~mask, -torch.inf).softmax(-2)


def over_queries():
    block = AttentionBlock(SIZE, 4, 2)
    block.addressing.normalizer = OverQueries()
    return block


@st.composite
def blocks(draw):
    """Any block, in double precision."""
    kernel_size = draw(st.integers(1, 4))
    torch.manual_seed(draw(testing.seeds()))
    return draw(
        st.sampled_from(
            [
                lambda: DenseBlock(SIZE, FILTERS, draw(st.integers(1, 9)), kernel_size),
                lambda: TCBlock(SIZE, draw(st.integers(2, 17)), FILTERS, kernel_size),
                lambda: AttentionBlock(SIZE, 4, 2),
            ]
        )
    )().double()


def whole(cell):
    """Outputs of a cell for whole sequences."""
    return lambda inputs: cell.unroll(inputs, cell.initial_state(len(inputs)))[0]


def sequences(steps: int, batch: int = 2):
    return testing.tensors((batch, steps, SIZE), special=False)


def assert_the_future_is_never_seen(block: nn.Module, steps: int = 20) -> None:
    """Change the inputs from each step on: every output before it keeps its bits."""
    generator = torch.Generator().manual_seed(0)
    inputs, others = torch.randn(2, 1, steps, SIZE, generator=generator, dtype=torch.double)
    run = whole(block) if isinstance(block, Cell) else block
    outputs = run(inputs)
    assert outputs.shape[1] == steps
    for time in range(1, steps):
        changed = run(torch.cat([inputs[:, :time], others[:, time:]], 1))
        assert torch.equal(changed[:, :time], outputs[:, :time]), f"step {time} was seen before it"
        assert not torch.equal(changed[:, time], outputs[:, time])


@pytest.mark.parametrize("dtype", [torch.double, torch.float])
@pytest.mark.parametrize("dilation", [1, 2, 3, 4, 8, 16, 32])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4])
def test_a_dense_block_never_sees_the_future(kernel_size, dilation, dtype):
    block = DenseBlock(SIZE, FILTERS, dilation, kernel_size).to(dtype)
    assert_the_future_is_never_seen(lambda inputs: whole(block)(inputs.to(dtype)))


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4])
@pytest.mark.parametrize("length", [2, 3, 8, 20])
def test_a_tc_block_never_sees_the_future(kernel_size, length):
    assert_the_future_is_never_seen(TCBlock(SIZE, length, FILTERS, kernel_size).double())


def test_attention_never_sees_the_future():
    assert_the_future_is_never_seen(AttentionBlock(SIZE, 4, 2).double())


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_a_trim_that_is_right_for_kernel_2_only_is_found(kernel_size, dilation):
    fault = TrimmedByDilation(DenseBlock(SIZE, FILTERS, dilation, kernel_size))
    if kernel_size == 2:
        assert_the_future_is_never_seen(fault)
    else:
        with pytest.raises(AssertionError):
            assert_the_future_is_never_seen(fault)


def test_attention_over_the_queries_is_found():
    with pytest.raises(AssertionError, match="was seen before it"):
        assert_the_future_is_never_seen(over_queries().double())


@given(
    kernel_size=st.integers(1, 4),
    dilation=st.integers(1, 5),
    steps=st.integers(1, 12),
    seed=testing.seeds(),
)
def test_a_dense_block_is_a_gated_convolution(kernel_size, dilation, steps, seed):
    torch.manual_seed(seed)
    block = DenseBlock(SIZE, FILTERS, dilation, kernel_size).double()
    conv = nn.Conv1d(SIZE, 2 * FILTERS, kernel_size, dilation=dilation).double()
    conv.weight.data = block.layer.weight.data.unflatten(1, (kernel_size, SIZE)).mT
    conv.bias = block.layer.bias
    inputs = torch.randn(2, steps, SIZE, dtype=torch.double)
    outputs, last = block.unroll(inputs, block.initial_state(2))
    reach = (kernel_size - 1) * dilation
    padded = nn.functional.pad(inputs, (0, 0, reach, 0))
    values, gates = conv(padded.mT).mT.chunk(2, -1)
    expected = torch.cat([inputs, values.tanh() * gates.sigmoid()], -1)
    torch.testing.assert_close(outputs, expected, **close)
    assert torch.equal(last, padded[:, steps:])
    assert outputs.shape[-1] == block.output_size


@given(st.data())
def test_a_whole_sequence_is_any_chunks_with_the_past_carried_on(data):
    block, steps = data.draw(blocks()), data.draw(st.integers(1, 12))
    inputs = data.draw(sequences(steps))
    expected, last = block.unroll(inputs, block.initial_state(2))
    past, outputs, done = block.initial_state(2), [], 0
    while done < steps:
        size = data.draw(st.integers(1, steps - done))
        output, past = block.unroll(inputs[:, done : done + size], past)
        outputs.append(output)
        done += size
    torch.testing.assert_close(torch.cat(outputs, 1), expected, **close)
    map_state(lambda one, other: torch.testing.assert_close(one, other, **close), past, last)


@given(st.data())
def test_padding_changes_nothing(data):
    block, batch, steps = data.draw(blocks()), 3, data.draw(st.integers(1, 9))
    inputs, more = data.draw(sequences(steps, batch)), data.draw(sequences(4, batch))
    rows = st.lists(st.booleans(), min_size=steps, max_size=steps).filter(any)
    mask = torch.tensor(data.draw(st.lists(rows, min_size=batch, max_size=batch)))
    read, past = block.unroll(inputs, block.initial_state(batch), mask)
    outputs, _ = block.unroll(more, past)
    for row in range(batch):
        one = slice(row, row + 1)
        first, alone = block.unroll(inputs[one, mask[row]], block.initial_state(1))
        torch.testing.assert_close(read[one, mask[row]], first, **close)
        torch.testing.assert_close(outputs[one], block.unroll(more[one], alone)[0], **close)


@given(st.integers(2, 40), st.integers(2, 4))
def test_the_last_step_of_a_tc_block_sees_the_first(length, kernel_size):
    block = TCBlock(1, length, 1, kernel_size).double()
    assert [one.dilation for one in block.cells] == [
        2**power for power in range(10) if 2**power < length
    ]
    inputs = torch.zeros(1, length, 1, dtype=torch.double, requires_grad=True)
    outputs = whole(block)(inputs)
    (gradient,) = torch.autograd.grad(outputs[0, -1].sum(), inputs)
    assert gradient[0, 0] != 0


def test_attention_is_that_of_torch():
    block = AttentionBlock(SIZE, 4, 2).double()
    inputs = torch.randn(2, 5, SIZE, dtype=torch.double)
    outputs, past = block.unroll(inputs, block.initial_state(2))
    queries, keys, values = block.layer(inputs).split([4, 4, 2], -1)
    read = nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    torch.testing.assert_close(outputs, torch.cat([inputs, read], -1), **close)
    assert past.mask is None
    torch.testing.assert_close(past[:2], Slots(keys, values)[:2], **close)
    assert torch.equal(block.unroll(inputs, past)[1].keys, functional.append(keys, keys))


@pytest.mark.parametrize("likeness", [0.5, 2.0])
def test_with_likeness_a_step_first_looks_at_those_that_are_like_it(likeness):
    # As many keys as inputs are a turn, which keeps products.
    block = AttentionBlock(SIZE, SIZE, 2, likeness).double()
    nn.init.zeros_(block.layer.bias)
    inputs = torch.randn(2, 5, SIZE, dtype=torch.double)
    with trace.record(block) as tape:
        whole(block)(inputs)
    scores = likeness**2 / math.sqrt(SIZE) * inputs @ inputs.mT
    future = torch.ones(5, 5, dtype=torch.bool).triu(1)
    expected = scores.masked_fill(future, -torch.inf).softmax(-1)
    torch.testing.assert_close(tape.weights["addressing"][0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DenseBlock(0, 2), "input_size must be .* got 0"),
        (lambda: DenseBlock(3, 0), "filters must be .* got 0"),
        (lambda: DenseBlock(3, 2, 0), "dilation must be .* got 0"),
        (lambda: DenseBlock(3, 2, 1, 0), "kernel_size must be .* got 0"),
        (lambda: TCBlock(3, 1, 2), "length must be at least 2; got 1"),
        (lambda: AttentionBlock(3, 0, 2), "key_size must be .* got 0"),
        (lambda: AttentionBlock(3, 4, 2, 0.0), "likeness must be more than 0; got 0.0"),
    ],
)
def test_bad_sizes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
