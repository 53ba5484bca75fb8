"""Pointer networks: the paper's equations, what may be pointed at, and what is refused."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memnets import decoding
from memnets.addressing import Content
from memnets.batches import BEGIN, END, PAD, Batch
from memnets.cells import LSTM, LearnedPositions
from memnets.encoders import Process, Recurrent, SelfAttention
from memnets.models import PointerNetwork
from memnets.scores import Additive, ScaledDot
from memnets.training.objectives import Tokens
from memnets.viewing import trace
from tasks import SortingNumbers

FIRST = END + 1
ENCODER = partial(Recurrent, controller=partial(LSTM, hidden_size=4))


def network(**settings):
    torch.manual_seed(0)
    return PointerNetwork(
        **{
            "input_size": 2,
            "encoder": ENCODER,
            "decoder": partial(LSTM, hidden_size=5),
            "attention": Content(Additive(6)),
            "width": 6,
            "objective": Tokens(),
            **settings,
        }
    ).eval()


def points(*shape):
    return torch.randn(*shape, 2, generator=torch.Generator().manual_seed(1))


def test_logits_are_those_of_the_paper():
    """Vinyals et al. 2015, equation 3, slot by slot; with a glimpse, Bello et al. 2016."""
    model = network(glimpses=1, revisit=True).double()
    source = points(1, 3).double()
    tokens = torch.tensor([[BEGIN, FIRST + 2, FIRST]])
    logits, _ = model.decode(tokens, model.encode(source))

    embedded = model.embedding(source)
    vectors, summary = model.encoder(embedded)
    slots = [*torch.cat([embedded[0], vectors[0]], -1), model.end]
    fed = [model.begin, model.fed(slots[2]), model.fed(slots[0])]
    _, state = model.bridge.first_state(summary, model.decoder)
    glimpse = model.glimpses[0]

    def additive(score, query, key):
        return score.direction @ torch.tanh(score.projection(query) + key)

    for step, given_vector in enumerate(fed):
        hidden, state = model.decoder(given_vector.unsqueeze(0), state)
        query = hidden[0]
        scores = [
            additive(glimpse.attention.score, glimpse.query(query), model.key(slot))
            for slot in slots
        ]
        weights = torch.stack(scores).softmax(0)
        looked = sum(weight * slot for weight, slot in zip(weights, slots, strict=True))
        query = query + glimpse.output(looked)
        scores = [
            additive(model.attention.score, model.query(query), model.key(slot)) for slot in slots
        ]
        expected = torch.stack([scores[3], *scores[:3]])
        torch.testing.assert_close(logits[0, step, END:], expected)
        assert (logits[0, step, :END] == -torch.inf).all()


@given(st.integers(1, 5), st.integers(0, 3), st.integers(0, 9))
def test_an_answer_that_must_be_complete_is_a_permutation(n, glimpses, seed):
    model = network(complete=True, glimpses=glimpses)
    source = torch.randn(3, n, 2, generator=torch.Generator().manual_seed(seed))
    for beam in (1, 3):
        answers = model.generate(source, beam=beam)
        assert answers.shape == (3, n + 1)
        assert (answers[:, -1] == END).all()
        for row in answers:
            assert sorted(row[:-1].tolist()) == list(range(FIRST, FIRST + n))


@given(st.integers(0, 9))
def test_answers_never_point_at_padding_nor_twice(seed):
    model = network()
    source = torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(seed))
    lengths = [1, 2, 4, 5]
    mask = torch.arange(5) < torch.tensor(lengths).unsqueeze(1)
    for row, length in zip(model.generate(source, mask, beam=2).tolist(), lengths, strict=True):
        pointed = [token - FIRST for token in row if token not in (END, PAD)]
        assert all(0 <= place < length for place in pointed)
        assert len(set(pointed)) == len(pointed)


def test_a_beam_wider_than_there_are_answers_leaves_the_rest_empty():
    model = network(complete=True)
    found = decoding.beam_search(model, points(1, 2), beam=8, count=8)
    assert (found.scores[0, :2] > -torch.inf).all()
    assert (found.scores[0, 2:] == -torch.inf).all()
    assert (found.tokens[0, 2:] == PAD).all()
    # Of two points there are two answers, and they have all the probability.
    unscaled = decoding.beam_search(model, points(1, 2), beam=8, count=8, length_penalty=0.0)
    torch.testing.assert_close(unscaled.scores[0, :2].exp().sum(), torch.tensor(1.0))


def test_what_is_recorded_is_what_was_pointed_at():
    model = network(glimpses=1)
    source, tokens = points(2, 4), torch.tensor([[BEGIN, FIRST], [BEGIN, FIRST + 3]])
    with torch.no_grad(), trace.record(model) as tape:
        logits, _ = model.decode(tokens, model.encode(source))
    (weights,) = tape.weights["attention"]
    expected = torch.cat([logits[..., FIRST:], logits[..., END:FIRST]], -1).softmax(-1)
    torch.testing.assert_close(weights, expected)
    assert "glimpses.0.attention" in tape.weights
    assert "scores" not in vars(model.attention)


def test_it_learns_to_sort():
    """A hundred steps on three numbers: far above chance, free-running."""
    torch.manual_seed(0)
    task = SortingNumbers(min_points=3, max_points=3, batch_size=64, test_sequences=200)
    encoder = partial(SelfAttention, layers=1, heads=2, hidden_size=32)
    model = network(
        input_size=1, encoder=encoder, attention=Content(ScaledDot()), width=16, complete=True
    ).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for index in range(100):
        optimizer.zero_grad()
        model.loss(task.batch("train", index)).backward()
        optimizer.step()
    _, scores = model.eval().objective.examine(model, task.batch("test", 0))[""]
    assert scores["exact"].mean() > 0.8


def test_a_target_that_may_not_be_pointed_at_is_refused():
    targets = torch.tensor([[FIRST, END, PAD], [FIRST, FIRST, END]])
    inputs = torch.tensor([[BEGIN, FIRST, PAD], [BEGIN, FIRST, FIRST]])
    batch = Batch(points(2, 2), inputs, targets, target_mask=targets != PAD)
    with pytest.raises(ValueError, match=rf"pointed at before; got token {FIRST} at \[1, 1\]"):
        network().loss(batch)
    assert network(revisit=True).loss(batch).isfinite()


@pytest.mark.parametrize(
    ("source", "mask", "message"),
    [
        (torch.zeros(1, 0, 2), None, "S >= 1"),
        (torch.zeros(1, 3, 3), None, r"vectors \[B, S, 2\]; got \[1, 3, 3\]"),
        (torch.zeros(1, 3, dtype=torch.long), None, r"vectors \[B, S, 2\]; got \[1, 3\]"),
        (torch.zeros(2, 3, 2), torch.zeros(2, 3, dtype=torch.bool), "must have a step"),
        (torch.full((1, 3, 2), torch.nan), None, r"finite; got \[nan, nan\] at \[0, 0\]"),
        (torch.tensor([[[0.0, 0.0], [0.0, torch.inf]]]), None, r"got \[0.0, inf\] at \[0, 1\]"),
    ],
)
def test_a_bad_source_is_refused(source, mask, message):
    with pytest.raises(ValueError, match=message):
        network().encode(source, mask)


def test_a_token_beyond_the_source_is_refused():
    model = network()
    with pytest.raises(ValueError, match=f"at most END \\+ S = {END + 3}; got {END + 4}"):
        model.decode(torch.tensor([[END + 4]]), model.encode(points(1, 3)))


def test_more_points_than_learned_positions_are_refused():
    encoder = partial(SelfAttention, heads=2, positions=LearnedPositions(6, 4))
    model = network(encoder=encoder)
    model.generate(points(1, 4))
    with pytest.raises(ValueError, match="max_length = 4; got a sequence of length 5"):
        model.generate(points(1, 5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"glimpses": -1}, "glimpses must be at least 0; got -1"),
        ({"complete": True, "revisit": True}, "complete needs revisit=False"),
        ({"objective": Tokens(label_smoothing=0.1)}, "label_smoothing 0"),
        ({"output_size": 0}, "output_size must be a whole number of at least 1"),
        ({"encoder": partial(Process, steps=0)}, "steps must be a whole number of at least 1"),
    ],
)
def test_a_bad_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        network(**settings)
