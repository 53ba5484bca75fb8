"""Truncated back-propagation: the gradient is that of the whole graph with its past detached."""

from functools import partial

import pytest
import torch

from memnets.addressing import Content, Hard
from memnets.batches import Batch
from memnets.cells import GRU, LSTM
from memnets.core import map_state
from memnets.encoders import Recurrent
from memnets.memories import NTM
from memnets.models import (
    SNAIL,
    CausalTransformer,
    MemoryMachine,
    PointerNetwork,
    Prototypical,
    Seq2Seq,
    StackModel,
    Transformer,
)
from memnets.scores import Additive, Dot
from memnets.training import Labels, Tokens
from tasks import Copying, CopyingTokens, SortingNumbers

SIZE = 9
ENCODER = partial(Recurrent, controller=partial(GRU, hidden_size=4))
DECODER = partial(GRU, hidden_size=5)
TRANSFORMER = {"width": 8, "heads": 2, "layers": 1, "hidden_size": 8, "dropout": 0.0}
TOKENS = {"objective": Tokens()}


def attention(**settings):
    return Seq2Seq(
        SIZE, SIZE, ENCODER, DECODER, Content(Additive(6)), width=4, key_size=6, **settings
    )


MODELS = {
    "machine": lambda **more: MemoryMachine(
        SIZE, SIZE, partial(LSTM, hidden_size=5), NTM(5, 3), **TOKENS, **more
    ),
    "seq2seq": lambda **more: Seq2Seq(SIZE, SIZE, ENCODER, DECODER, width=4, **TOKENS, **more),
    "attention": lambda **more: attention(**TOKENS, **more),
    "input feeding": lambda **more: attention(input_feeding=True, **TOKENS, **more),
    "Transformer": lambda **more: Transformer(SIZE, SIZE, **TRANSFORMER, **TOKENS, **more),
    "causal Transformer": lambda **more: CausalTransformer(
        SIZE, SIZE, **TRANSFORMER, **TOKENS, **more
    ),
    "stack of LSTMs": lambda **more: StackModel(
        SIZE, SIZE, partial(LSTM, hidden_size=4), 8, 2, 8, **TOKENS, **more
    ),
    "SNAIL": lambda **more: SNAIL(SIZE, SIZE, 4, 20, ((4, 4), (4, 4)), 3, **TOKENS, **more),
}


def detached_by_hand(model, batch: Batch, steps: int) -> torch.Tensor:
    """The loss with the graph of all steps, in which the past is detached at each cut."""
    state, room = model.first_stretch(batch, steps)
    first: list[torch.Tensor] = []
    map_state(lambda part: first.append(part) or part, state)

    def cut(part: torch.Tensor) -> torch.Tensor:
        return part if any(part is one for one in first) else part.detach()

    logits = []
    for step in range(batch.inputs.shape[1]):
        if step >= room and (step - room) % steps == 0:
            state = map_state(cut, state)
        out, state = model.decode(batch.inputs[:, step : step + 1], state)
        logits.append(out)
    losses = model.objective.losses(torch.cat(logits, 1), batch.targets)
    if batch.target_mask is None:
        return losses.mean()
    return losses.masked_fill(~batch.target_mask, 0).sum() / batch.target_mask.sum()


@pytest.mark.parametrize("steps", [1, 2, 3, 100])
@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_is_cut_every_so_many_steps_and_nowhere_else(name: str, steps: int) -> None:
    torch.manual_seed(0)
    model = MODELS[name](tbptt_steps=steps).double()
    task = CopyingTokens(symbols=SIZE - 4, min_length=2, max_length=4, batch_size=3, test_sets=[])
    batch = task.batch("train", 0)
    loss = model.loss(batch)
    (2 * loss).backward()
    ours = [parameter.grad for parameter in model.parameters()]
    expected = detached_by_hand(model, batch, steps)
    torch.testing.assert_close(loss, expected)
    theirs = torch.autograd.grad(2 * expected, list(model.parameters()), allow_unused=True)
    for mine, naive in zip(ours, theirs, strict=True):
        naive = torch.zeros_like(mine) if naive is None else naive
        torch.testing.assert_close(mine, naive, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_stretches_longer_than_the_sequence_cut_nothing(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().double()
    task = CopyingTokens(symbols=SIZE - 4, min_length=2, max_length=4, batch_size=3, test_sets=[])
    batch = task.batch("train", 0)
    whole = torch.autograd.grad(model.loss(batch), list(model.parameters()))
    model.tbptt_steps = 1000
    cut = torch.autograd.grad(model.loss(batch), list(model.parameters()))
    torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-12)


def test_a_pointer_network_is_truncated_too() -> None:
    torch.manual_seed(0)
    model = PointerNetwork(
        1, ENCODER, partial(LSTM, hidden_size=4), Content(Additive(6)), width=6,
        tbptt_steps=2, **TOKENS,
    )  # fmt: skip
    batch = SortingNumbers(3, 5, batch_size=4).batch("train", 0)
    model.loss(batch).backward()
    ours = [parameter.grad.clone() for parameter in model.parameters()]
    expected = torch.autograd.grad(
        detached_by_hand(model, batch, 2), list(model.parameters()), allow_unused=True
    )
    for mine, naive in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, torch.zeros_like(mine) if naive is None else naive)


def test_in_evaluation_the_loss_is_the_plain_one() -> None:
    model = MODELS["attention"](tbptt_steps=2)
    batch = CopyingTokens(symbols=SIZE - 4, max_length=4, test_sets=[]).batch("train", 0)
    with torch.no_grad():
        cut = model.loss(batch)
        model.tbptt_steps = None
        torch.testing.assert_close(cut, model.loss(batch))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MODELS["Transformer"](tbptt_steps=0), "tbptt_steps must be .* got 0"),
        (
            lambda: Seq2Seq(9, 9, ENCODER, DECODER, Hard(Dot()), tbptt_steps=2),
            "hard attention .* tbptt_steps must be None; got 2",
        ),
        (
            lambda: Prototypical(9, 4, objective=Labels(), tbptt_steps=3),
            "tbptt_steps must be None; got 3",
        ),
    ],
)
def test_models_without_a_past_to_cut_say_so(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_task_of_vectors_is_truncated_with_its_padding() -> None:
    torch.manual_seed(0)
    task = Copying(3, 1, 5, mixed_lengths=True, batch_size=6)
    model = MemoryMachine(
        task.input_size, task.output_size, partial(LSTM, hidden_size=5), NTM(5, 3), tbptt_steps=2
    )
    batch = task.batch("train", 0)
    torch.testing.assert_close(model.loss(batch).detach(), detached_by_hand(model, batch, 2))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_whose_parameters_are_frozen_has_a_loss_all_the_same(name) -> None:
    torch.manual_seed(0)
    model = MODELS[name](tbptt_steps=2).eval()
    batch = CopyingTokens(symbols=SIZE - 4, max_length=4).batch("train", 0)
    expected = model.loss(batch)
    model.requires_grad_(False)
    loss = model.loss(batch)
    torch.testing.assert_close(loss, expected.detach())
    assert not loss.requires_grad


@pytest.mark.parametrize("steps", [None, 2])
@pytest.mark.parametrize("name", MODELS)
def test_a_batch_without_a_scored_step_has_a_loss_of_0(name, steps) -> None:
    """Of several processes one may hold such a batch: NaN would be the loss of all."""
    model = MODELS[name](tbptt_steps=steps)
    batch = CopyingTokens(symbols=SIZE - 4, max_length=4).batch("train", 0)
    loss = model.loss(batch._replace(target_mask=torch.zeros_like(batch.targets, dtype=torch.bool)))
    assert loss.item() == 0
    loss.backward()
    given = [part.grad for part in model.parameters() if part.grad is not None]
    assert given
    assert not any(gradient.any() for gradient in given)


def test_an_empty_answer_has_a_loss_of_0() -> None:
    batch = Copying(width=SIZE - 1, max_length=3).batch("train", 0)
    empty = batch._replace(inputs=batch.inputs[:, :0], targets=batch.targets[:, :0])
    sizes = batch.source.shape[-1], batch.targets.shape[-1]
    for steps in (None, 2):
        machine = MemoryMachine(*sizes, partial(LSTM, hidden_size=5), NTM(5, 3), tbptt_steps=steps)
        assert machine.loss(empty).item() == 0


@pytest.mark.parametrize("steps", [None, 2])
@pytest.mark.parametrize("name", ["causal Transformer", "SNAIL"])
def test_a_hole_in_a_source_is_refused_with_cuts_as_without(name, steps) -> None:
    batch = CopyingTokens(symbols=SIZE - 4, max_length=4).batch("train", 0)
    mask = torch.ones_like(batch.source, dtype=torch.bool)
    mask[0, 0] = False
    with pytest.raises(ValueError, match="padding only after its last step"):
        MODELS[name](tbptt_steps=steps).loss(batch._replace(source_mask=mask))
