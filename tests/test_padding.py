"""What stands in padding: it is cleared where sources and batches come to a model, once."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn

from memnets import batches
from memnets.addressing import Content
from memnets.batches import Batch, cleared
from memnets.cells import GRU
from memnets.core import EncoderDecoder
from memnets.encoders import Recurrent
from memnets.models import CausalTransformer, MemoryMachine, PointerNetwork, Transformer
from memnets.scores import ScaledDot
from memnets.training import Model, Numbers
from memnets.training.model import masked_mean

SMALL = {"width": 4, "heads": 2, "layers": 1, "hidden_size": 4, "dropout": 0.0, "tied": False}
MASK = torch.tensor([[True, True, True], [True, False, False]])


def a_batch(number=0.0, mask=MASK, **more):
    """Vectors of width 2, with some number in the padding of source and answer."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.rand(2, 3, 2, generator=generator) for _ in range(3)]
    parts = [part.masked_fill(~mask.unsqueeze(-1), number) for part in parts]
    return Batch(*parts, mask, mask, **more)


def results(model, batch):
    loss = model.loss(batch)
    return loss, *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


def the_same(model, batch, plain):
    for one, other in zip(results(model, batch), results(model, plain), strict=True):
        assert one is other is None or torch.equal(one, other)


@pytest.mark.parametrize("number", [math.nan, -math.inf, 3e38])
@pytest.mark.parametrize("tbptt_steps", [1, 2])
def test_truncated_gradients_see_no_padding(tbptt_steps, number):
    settings = {"tbptt_steps": tbptt_steps, "objective": Numbers()}
    for model in (
        CausalTransformer(2, 2, **SMALL, **settings),
        MemoryMachine(2, 2, partial(GRU, hidden_size=3), **settings),
    ):
        the_same(model, a_batch(number), a_batch())


@pytest.mark.parametrize("number", [6e4, 2e5])
@pytest.mark.parametrize("model", [CausalTransformer, Transformer])
def test_numbers_that_are_too_large_for_float16_alone(model, number):
    model = model(2, 2, **SMALL, objective=Numbers())
    with torch.autocast("cpu", torch.float16):
        the_same(model, a_batch(number), a_batch())


class Plain(Model):
    """A model of one's own, whose loss reads all parts of a batch itself, with products."""

    def __init__(self, **settings):
        super().__init__(objective=Numbers(), **settings)
        self.layer = nn.Linear(2, 2)

    def encode(self, source):
        return self.layer(source).sum(1, keepdim=True)

    def decode(self, inputs, state):
        return self.layer(inputs) + state, state

    def loss(self, batch):
        logits = self.layer(batch.inputs) + self.encode(batch.source)
        losses = (logits - batch.targets).square().mean(-1)
        return (losses * batch.target_mask).sum() / batch.target_mask.sum()


def test_a_loss_of_ones_own_gets_cleared_padding():
    the_same(Plain(), a_batch(math.nan), a_batch())


def test_a_network_of_ones_own_without_training_gets_it_too():
    class Mean(EncoderDecoder):
        def encode(self, source, mask=None):
            return (source * mask.unsqueeze(-1)).sum(1, keepdim=True)

        def decode(self, inputs, state):
            return inputs + state, state

    model, batch = Mean(), a_batch(math.nan)
    expected = model.logits(a_batch())
    assert torch.equal(model.logits(batch), expected)
    for state in (
        model.encode(batch.source, batch.source_mask),
        model.encode(batch.source, mask=batch.source_mask),
        model.encode_placed(batch.source, batch.source_mask),
    ):
        assert torch.equal(model.decode(a_batch().inputs, state)[0], expected)


def test_nothing_is_copied_where_padding_does_no_harm():
    batch = a_batch(-7.0)
    assert all(one is other for one, other in zip(cleared(batch), batch, strict=True))
    whole = batch._replace(source_mask=None, target_mask=None)
    assert cleared(whole) is whole


def test_a_batch_is_cleared_once():
    clear = cleared(a_batch(math.nan))
    assert cleared(clear) is clear
    assert repr(clear) == repr(Batch(*clear))
    assert clear._replace(inputs=clear.inputs)._asdict() == clear._asdict()


class Hiding(Plain):
    """A model of one's own, which changes batches before its base sees them."""

    change = staticmethod(lambda batch: batch)

    def loss(self, batch):
        return super().loss(self.change(batch))


@pytest.mark.parametrize("part", ["source", "target_mask"])
def test_what_a_model_puts_into_a_batch_is_cleared_too(part):
    """Other numbers, or a mask that hides more of them."""
    model, hidden, whole = Hiding(), a_batch(math.nan), torch.ones_like(MASK)
    given = hidden._replace(source_mask=None, source=a_batch().source)
    given = a_batch() if part == "source" else given._replace(target_mask=whole)
    model.change = lambda batch: batch._replace(**{part: getattr(hidden, part)})
    the_same(model, given, a_batch())


def test_what_an_unscored_step_tells_to_later_ones_stays():
    # The second step of three is not scored; the third one may depend on it.
    mask = torch.tensor([[True, False, True], [True, False, False]])
    batch = a_batch(math.nan, mask=mask)
    inputs = torch.full((2, 3, 2), 1e7)  # so large that padding is filled
    clear = cleared(batch._replace(inputs=inputs, rewards=inputs))
    expected = torch.tensor([[1e7, 1e7, 1e7], [1e7, 0, 0]]).unsqueeze(-1).expand(-1, -1, 2)
    assert torch.equal(clear.inputs, expected)
    assert torch.equal(clear.rewards, expected)
    # What is not scored is no target, wherever it stands.
    assert torch.equal(clear.targets.isfinite()[..., 0], torch.ones(2, 3, dtype=torch.bool))
    assert (clear.targets[~mask] == 0).all()


def test_what_is_no_padding_stays_as_it_is():
    batch = a_batch()
    batch.source[0, 0], batch.inputs[0, 0], batch.targets[0, 0] = math.nan, math.inf, math.nan
    for name in ("source", "inputs", "targets"):
        one, other = getattr(cleared(batch), name), getattr(batch, name)
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (MASK.long(), TypeError, "the mask must be boolean, False = padding; got torch.int64"),
        (MASK[:, :2], ValueError, r"the mask must be .* = \[2, 3\]; got \[2, 2\]"),
    ],
)
def test_a_mask_that_does_not_fit_is_told_by_the_model(mask, error, message):
    model = CausalTransformer(2, 2, **SMALL)
    with pytest.raises(error, match=message):
        model.encode(a_batch(math.nan).source, mask)


def test_padding_is_cleared_in_a_graph():
    model = MemoryMachine(2, 2, partial(GRU, hidden_size=3), objective=Numbers())
    compiled = copy.deepcopy(model)
    compiled.compile(backend="eager", fullgraph=True)
    loss = compiled.loss(a_batch(math.nan))
    torch.testing.assert_close(loss, model.loss(a_batch()))
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in compiled.parameters())


def test_a_pointer_network_may_have_points_of_any_kind_in_padding():
    model = PointerNetwork(
        2,
        partial(Recurrent, controller=partial(GRU, hidden_size=4)),
        partial(GRU, hidden_size=4),
        Content(ScaledDot()),
        width=4,
    )
    batch = a_batch(math.nan)
    model.check_on_host(batch)
    assert model.encode(batch.source, MASK).memory.keys.isfinite().all()
    batch.source[1, 0] = math.nan
    with pytest.raises(ValueError, match=r"source must be finite; got \[nan, nan\] at \[1, 0\]"):
        model.check_on_host(batch)


def test_padding_is_filled_where_nobody_may_look_at_its_numbers(monkeypatch):
    monkeypatch.setattr(batches, "at_hand", lambda tensor: False)
    batch = a_batch(-7.0)
    assert all(
        torch.equal(one, other)
        for one, other in zip(cleared(batch), a_batch(), strict=True)
        if one is not None
    )


def test_gradients_by_functions_see_no_padding():
    model = MemoryMachine(2, 2, partial(GRU, hidden_size=3), objective=Numbers())
    batch = a_batch(math.nan)

    def loss(inputs):
        return masked_mean(
            model.objective.losses(model.logits(batch._replace(inputs=inputs)), a_batch().targets),
            MASK,
        )

    for inputs in (batch.inputs, a_batch().inputs):
        gradient = torch.func.grad(loss)(inputs)
        assert gradient.isfinite().all()
        assert (gradient[~MASK] == 0).all()
