"""Show, attend and tell in NumPy: the gate of the context and the doubly stochastic penalty."""

from functools import partial

import numpy as np
import pytest
import torch

from memnets import functional
from memnets.addressing import Content, Hard
from memnets.batches import Batch
from memnets.cells import GRU, LSTM
from memnets.encoders import Recurrent
from memnets.models import Seq2Seq
from memnets.scores import Additive
from memnets.training.objectives import Tokens

SIZE, WIDTH, HIDDEN = 6, 4, 3
ENCODER = partial(Recurrent, controller=partial(GRU, hidden_size=2))
PARTS = {
    "encoder": ENCODER,
    "decoder": partial(LSTM, hidden_size=HIDDEN),
    "width": WIDTH,
    "objective": Tokens(),
}
CAPTION = {**PARTS, "gated": True, "doubly_stochastic": 0.7}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def batch() -> Batch:
    """Sources of 3 and 2 steps, answers of 4 and 2."""
    generator = torch.Generator().manual_seed(1)
    source, inputs, targets = (
        torch.randint(4, SIZE, (2, steps), generator=generator) for steps in (3, 4, 4)
    )
    read = torch.tensor([[True] * 3, [True, True, False]])
    answered = torch.tensor([[True] * 4, [True, True, False, False]])
    return Batch(source, inputs, targets, read, answered)


def made(**settings) -> Seq2Seq:
    torch.manual_seed(0)
    attention = Content(Additive(5))
    return Seq2Seq(SIZE, SIZE, **{**CAPTION, "attention": attention, "key_size": 5, **settings})


@torch.no_grad()
@pytest.mark.parametrize("attend", ["before", "after"])
def test_the_loss_is_that_of_the_equations(attend) -> None:
    model = made(attend=attend).double()
    given = batch()
    state = model.encode(given.source, given.source_mask)
    w = {name: value.numpy() for name, value in model.state_dict().items()}
    embedding = w["target_embedding.weight"]
    losses, penalty, steps = 0.0, 0.0, 0
    lstm = "decoder.lstm."
    for row in range(2):
        open_slots = int(given.source_mask[row].sum())
        keys, values = (part[row, :open_slots].numpy() for part in state.memory[:2])
        (hidden,), (cell,) = ([part[row].numpy() for part in each] for each in state.controller)
        h = state.hidden[row].numpy()
        looked = np.zeros(open_slots)

        def look(h, keys=keys, values=values):
            query = h @ w["query.weight"].T if "query.weight" in w else h
            projected = (
                query @ w["attention.score.projection.weight"].T
                + w["attention.score.projection.bias"]
            )
            scores = np.array(
                [w["attention.score.direction"] @ np.tanh(projected + key) for key in keys]
            )
            weights = np.exp(scores) / np.exp(scores).sum()
            beta = sigmoid(w["gate.weight"][0] @ h + w["gate.bias"][0])
            return weights, beta * sum(a * v for a, v in zip(weights, values, strict=True))

        for step in range(int(given.target_mask[row].sum())):
            word = embedding[given.inputs[row, step]]
            if attend == "before":
                weights, context = look(h)
            read = [word, context] if attend == "before" else [word]
            gates = (
                w[lstm + "weight_ih_l0"] @ np.concatenate(read)
                + w[lstm + "bias_ih_l0"]
                + w[lstm + "weight_hh_l0"] @ hidden
                + w[lstm + "bias_hh_l0"]
            )
            i, f, g, o = np.split(gates, 4)
            cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
            h = hidden = sigmoid(o) * np.tanh(cell)
            if attend == "after":
                weights, context = look(h)
            seen = [h, context, word] if attend == "before" else [h, context]
            features = np.tanh(w["features.weight"] @ np.concatenate(seen) + w["features.bias"])
            logits = embedding @ features + w["output.bias"]
            losses += np.log(np.exp(logits).sum()) - logits[given.targets[row, step]]
            looked += weights
            steps += 1
        penalty += ((1 - looked) ** 2).sum()
    expected = (losses + 0.7 * penalty) / steps
    assert float(model.loss(given)) == pytest.approx(expected, rel=1e-12)


def test_the_penalty_is_zero_where_each_slot_gets_one() -> None:
    even = torch.tensor([[[1.0, 0, 0], [0, 0.5, 0.5], [0, 0.5, 0.5]]])
    assert functional.doubly_stochastic_penalty(even).item() == 0
    # The last step is padding: the slots it would fill miss a half each.
    steps = torch.tensor([[True, True, False]])
    assert functional.doubly_stochastic_penalty(even, steps).item() == pytest.approx(0.5)
    slots = torch.tensor([[[True, True, False]]])
    assert functional.doubly_stochastic_penalty(even, steps, slots).item() == pytest.approx(0.25)


def test_a_closed_gate_hides_the_source() -> None:
    # In float64: the decoder's first state still knows the source, so only the context is gone.
    model, given = made(doubly_stochastic=0.0).double(), batch()
    with torch.no_grad():
        model.gate.weight.zero_()
        model.gate.bias.fill_(-1e4)
        model.bridge.weight.zero_()
        logits = model.logits(given)
        other = model.logits(given._replace(source=given.source.flip(0)))
    assert torch.equal(logits, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"doubly_stochastic": -1.0}, "doubly_stochastic must be at least 0; got -1.0"),
        ({"attention": None, "key_size": None}, "need attention; got attention=None"),
        (
            {"attention": Hard(Additive(5))},
            "those of hard attention have none: doubly_stochastic must be 0; got 0.7",
        ),
        ({"tbptt_steps": 2}, "on the weights of all steps together: tbptt_steps must be None; "),
    ],
)
def test_settings_that_do_not_go_together_are_named(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        made(**settings)
