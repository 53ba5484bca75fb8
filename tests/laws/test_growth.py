"""Memory for the backward pass grows with the number of steps, not with its square."""

from functools import partial
from unittest import mock

import pytest
import torch

from memnets import fast, functional, testing
from memnets.addressing import Content
from memnets.cells import (
    GRU,
    LSTM,
    LSTMN,
    AttentionBlock,
    FeedForward,
    Loop,
    SelfAttention,
    TCBlock,
    TransformerLayer,
)
from memnets.core import map_state
from memnets.encoders import Recurrent
from memnets.memories import DNC, LRUA, NTM, GatedDeltaNet, NeuralDeque, Tape
from memnets.models import Seq2Seq
from memnets.scores import Additive, Dot, ScaledDot

BATCH = 4

#: Cells whose state grows, and the numbers that a sequence may keep for each pair of steps. Where
#: all steps at once need a causal mask, all sequences share it.
GROWING = {
    "LSTMN": (partial(LSTMN, 4, hidden_size=32), 1),
    "tape": (partial(Tape, width=32), 1),
    "tape, additive": (partial(Tape, width=32, score=Additive(32)), 2),
    "tape, two heads": (partial(Tape, width=32, read_heads=2, score=Dot()), 1),
    "neural deque": (partial(NeuralDeque, width=64), 30),
    "loop, tape": (partial(Loop, 4, partial(LSTM, hidden_size=8), Tape(width=64)), 0),
    "LSTMN on a tape": (partial(Loop, 4, partial(LSTMN, hidden_size=32), Tape(width=32)), 1),
    "self-attention": (partial(SelfAttention, 32, heads=2), 1),
    "Transformer": (partial(TransformerLayer, 32, heads=2, hidden_size=32), 1),
    "attention of a SNAIL": (partial(AttentionBlock, 32, key_size=32, value_size=16), 2),
}
#: Cells whose state has one size.
STEADY = {
    "feed-forward": partial(FeedForward, 4),
    "LSTM": partial(LSTM, 4),
    "GRU": partial(GRU, 4),
    "convolutions": partial(TCBlock, 4, length=16, filters=4),
    "NTM": partial(NTM, slots=8, width=8),
    "DNC": partial(DNC, slots=8, width=8),
    "LRUA": partial(LRUA, slots=8, width=8),
    "linear": partial(GatedDeltaNet, 8, 8, chunk=8),
    "loop, NTM": partial(Loop, 4, LSTM, NTM(slots=8, width=8)),
}


def one_by_one(cell, inputs):
    state, outputs = cell.initial_state(len(inputs)), []
    for step in inputs.unbind(1):
        output, state = cell.step(step, state)
        outputs.append(output)
    return torch.stack(outputs, 1)


def at_once(cell, inputs):
    return cell.unroll(inputs, cell.initial_state(len(inputs)))[0]


def with_a_mask(cell, inputs):
    mask = torch.ones(inputs.shape[:2], dtype=torch.bool)
    mask[0, ::2] = False
    return cell.unroll(inputs, cell.initial_state(len(inputs)), mask)[0]


def in_chunks(cell, inputs):
    """With a cut between the chunks, as in truncated back-propagation."""
    state, outputs = cell.initial_state(len(inputs)), []
    for chunk in inputs.split(16, 1):
        output, state = cell.unroll(chunk, map_state(torch.detach, state))
        outputs.append(output)
    return torch.cat(outputs, 1)


def check(make, weights=0, way=at_once):
    torch.manual_seed(0)
    cell = make()
    testing.check_growth(
        lambda steps: way(cell, torch.randn(BATCH, steps, cell.input_size, requires_grad=True)),
        weights=BATCH * weights,
    )


@pytest.mark.parametrize("way", [at_once, one_by_one, in_chunks])
@pytest.mark.parametrize("name", GROWING)
def test_what_a_growing_cell_keeps_grows_with_its_steps(name, way):
    make, weights = GROWING[name]
    check(make, weights, way)


@pytest.mark.parametrize("name", STEADY)
def test_what_a_cell_keeps_grows_with_its_steps(name):
    check(STEADY[name])


@pytest.mark.parametrize("name", GROWING)
def test_a_mask_adds_a_few_numbers_for_each_pair_of_steps(name):
    make, weights = GROWING[name]
    check(make, weights + 2, with_a_mask)


@pytest.mark.parametrize(
    ("attention", "attend"),
    [
        (partial(Additive, 32), "before"),
        (partial(Additive, 32), "after"),
        (ScaledDot, "before"),
    ],
)
@pytest.mark.parametrize("input_feeding", [False, True])
def test_what_attention_to_a_source_keeps_grows_with_its_steps(attention, attend, input_feeding):
    torch.manual_seed(0)
    model = Seq2Seq(
        9,
        9,
        partial(Recurrent, controller=partial(LSTM, hidden_size=16)),
        partial(GRU, hidden_size=32),
        Content(attention()),
        width=8,
        key_size=32,
        attend=attend,
        input_feeding=input_feeding,
    )

    def run(steps):
        source, inputs = torch.randint(9, (2, BATCH, steps))
        return model.decode(inputs, model.encode(source))[0]

    testing.check_growth(run, weights=BATCH)


# -- faults ---------------------------------------------------------------------------------------


class CopyingTape(Tape):
    """Copies all its slots at each step."""

    def forward(self, interface, state):
        with fast.naive():
            return super().forward(interface, state)


def without(function):
    """The twin of a function does not run."""
    return mock.patch.dict(fast._twins, {(function, ""): []})


def test_a_tape_that_is_copied_at_each_step_is_found():
    with pytest.raises(AssertionError, match="grows faster than the number of steps"):
        check(partial(CopyingTape, width=32), way=one_by_one)


@pytest.mark.parametrize("function", [functional.append, functional.additive_scores])
def test_an_lstmn_that_keeps_all_pairs_is_found(function):
    fast.twins()
    with without(function), pytest.raises(AssertionError, match="grows faster"):
        check(*GROWING["LSTMN"])


def test_a_run_without_a_gradient_tells_nothing():
    with pytest.raises(AssertionError, match="keeps nothing for a backward pass"):
        testing.check_growth(lambda steps: torch.ones(steps))


def test_bytes_are_counted_once_for_each_storage():
    matrix = torch.randn(3, 3, requires_grad=True)
    count, _ = testing.kept_for_backward(lambda: matrix[:1] @ matrix)
    assert count == matrix.untyped_storage().nbytes()
