"""Models that learn from few examples, against plain loops."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from memnets import testing
from memnets.batches import Batch
from memnets.cells import LSTM
from memnets.features import VectorFeatures
from memnets.memories import NTM
from memnets.models import (
    SNAIL,
    CausalTransformer,
    MemoryMachine,
    MetaLearner,
    OnlineLearner,
    Prototypical,
    Transformer,
)
from memnets.training.objectives import Labels, Numbers

SNAIL_LEARNER = partial(SNAIL, attentions=[(3, 2), (3, 2)], filters=2, max_length=12)
LSTM_LEARNER = partial(MemoryMachine, controller=partial(LSTM, hidden_size=4))
WIDTH, CLASSES = 3, 2


def episode(examples: int = 5, queries: int = 4, seed: int = 0) -> Batch:
    """Two episodes of vectors in two classes, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(2, examples + queries, WIDTH, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (2, examples + queries), generator=generator)
    labels[:, :CLASSES] = torch.arange(CLASSES)
    shown = nn.functional.one_hot(labels, CLASSES).double()
    shown[:, examples:] = 0
    source, inputs = torch.cat([vectors, shown], -1).split([examples, queries], 1)
    return Batch(source, inputs, labels[:, examples:])


def meta_learner(learner=SNAIL_LEARNER, **settings) -> MetaLearner:
    torch.manual_seed(0)
    settings = {
        "features": partial(VectorFeatures, output_size=4), "objective": Labels(), **settings
    }  # fmt: skip
    return MetaLearner(WIDTH + CLASSES, CLASSES, learner, **settings).double()


@given(st.integers(2, 6), st.integers(1, 4), testing.seeds())
def test_a_prototypical_network_is_plain_loops(examples, queries, seed) -> None:
    batch = episode(examples, queries, seed)
    model = Prototypical(WIDTH + CLASSES, CLASSES)
    logits = model.logits(batch)
    for row in range(2):
        for query in range(queries):
            for label in range(CLASSES):
                own = [x[:WIDTH] for x in batch.source[row] if x[WIDTH + label] == 1]
                mean = sum(own) / len(own)
                distance = sum((batch.inputs[row, query, :WIDTH] - mean) ** 2)
                assert logits[row, query, label].item() == pytest.approx(-distance.item())


def test_a_class_without_an_example_is_never_answered() -> None:
    batch = episode()
    other = torch.zeros(2, 5, 1, dtype=torch.float64)
    wider = Batch(
        torch.cat([batch.source, other], -1), torch.cat([batch.inputs, other[:, :4]], -1),
        batch.targets,
    )  # fmt: skip
    model = Prototypical(WIDTH + CLASSES + 1, CLASSES + 1, objective=Labels())
    logits = model.logits(wider)
    assert (logits[..., -1] == -torch.inf).all()
    known = Prototypical(WIDTH + CLASSES, CLASSES).logits(batch)
    torch.testing.assert_close(logits[..., :-1], known)
    assert model.loss(wider).isfinite()


@pytest.mark.parametrize("learner", [SNAIL_LEARNER, LSTM_LEARNER])
def test_each_query_goes_on_from_the_examples_alone(learner) -> None:
    model, batch = meta_learner(learner), episode()
    logits = model.logits(batch)
    seen = [torch.cat(model.see(part), -1) for part in (batch.source, batch.inputs)]
    for query in range(4):
        sequence = torch.cat([seen[0], seen[1][:, query : query + 1]], 1)
        # One sequence, source and answer, read at once.
        alone, _ = model.learner.decode(sequence[:, 1:], model.learner.encode(sequence[:, :1]))
        torch.testing.assert_close(logits[:, query], alone[:, -1])


@pytest.mark.parametrize(
    "make",
    [
        lambda: SNAIL(6, 6, 4, 12, [(3, 2), (3, 2)], 2),
        lambda: CausalTransformer(6, 6, 4, 2, 1, 4, dropout=0.0),
        lambda: Transformer(6, 6, 4, 2, 1, 4, dropout=0.0),
        lambda: MemoryMachine(6, 6, partial(LSTM, hidden_size=4), NTM(5, 3)),
    ],
    ids=["SNAIL", "CausalTransformer", "Transformer", "MemoryMachine"],
)
@pytest.mark.parametrize("padded", [False, True])
def test_no_continuation_sees_another(make, padded) -> None:
    torch.manual_seed(0)
    model = make().double().eval()
    source, inputs = torch.randint(6, (2, 5)), torch.randint(6, (2, 3))
    mask = torch.arange(5) < torch.tensor([[5], [3]]) if padded else None
    logits = model.continuations(source, inputs, mask)
    for number in range(3):
        alone, _ = model.decode(inputs[:, number : number + 1], model.encode(source, mask))
        torch.testing.assert_close(logits[:, number], alone[:, 0])


def test_the_prototypical_loss_is_added_with_its_weight() -> None:
    batch = episode()
    plain, weighted = meta_learner(), meta_learner(prototypical=0.25)
    network = Prototypical(
        WIDTH + CLASSES, CLASSES, partial(VectorFeatures, output_size=4), objective=Labels()
    ).double()
    network.features = plain.features
    expected = plain.loss(batch) + 0.25 * network.loss(batch)
    torch.testing.assert_close(weighted.loss(batch), expected)


def test_features_are_detached_at_first() -> None:
    batch = episode()
    model = meta_learner(prototypical=0.25, detached_steps=1)
    model.loss(batch).backward()
    network = meta_learner(prototypical=0.25)
    weight = network.features.layer.weight
    (joint,) = torch.autograd.grad(network.loss(batch), weight)
    (learner,) = torch.autograd.grad(meta_learner_loss_alone(network, batch), weight)
    torch.testing.assert_close(model.features.layer.weight.grad, joint - learner)
    assert learner.any()
    assert all(parameter.grad is not None for parameter in model.learner.parameters())


def meta_learner_loss_alone(model: MetaLearner, batch: Batch) -> torch.Tensor:
    return model.objective.losses(model.logits(batch), batch.targets).mean()


def test_padding_of_targets_does_not_count() -> None:
    batch = episode()
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    model = meta_learner(prototypical=1.0)
    changed = batch.targets.masked_fill(~mask, 0)
    losses = [
        model.loss(batch._replace(targets=t, target_mask=mask)) for t in (batch.targets, changed)
    ]
    torch.testing.assert_close(*losses)


def stream(steps: int = 6, seed: int = 0) -> Batch:
    """Two sequences of vectors, each with the label of the one before, after a step of zeros."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(2, steps, WIDTH, generator=generator)
    targets = torch.randint(CLASSES, (2, steps), generator=generator)
    late = nn.functional.pad(nn.functional.one_hot(targets, CLASSES)[:, :-1], (0, 0, 1, 0))
    start = torch.zeros(2, 1, WIDTH + CLASSES).double()
    return Batch(start, torch.cat([vectors, late], -1).double(), targets)


def online(prototypical: float = 0.0, **settings) -> OnlineLearner:
    torch.manual_seed(0)
    features = partial(VectorFeatures, output_size=4)
    return OnlineLearner(
        WIDTH + CLASSES, CLASSES, LSTM_LEARNER, features, prototypical,
        objective=Labels(), **settings,
    ).double()  # fmt: skip


@pytest.mark.parametrize("in_pairs", [False, True])
def test_an_online_learner_goes_on_from_the_step_before(in_pairs) -> None:
    model, batch = online(in_pairs=in_pairs), stream()
    logits, state = model.logits(batch), model.encode(batch.source)
    vectors, labels = model.see(batch.inputs)
    before = model.see(batch.source)[0][:, -1]
    learner = model.learner.encode(torch.cat(model.see(batch.source), -1))
    for step in range(6):
        alone, state = model.decode(batch.inputs[:, step : step + 1], state)
        torch.testing.assert_close(logits[:, step], alone[:, 0])
        now, late = vectors[:, step], labels[:, step]
        read = [(now, late)]
        if in_pairs:
            read = [(before, late), (now, torch.zeros_like(late))]
        for parts in read:
            told, learner = model.learner.decode(torch.cat(parts, -1).unsqueeze(1), learner)
        torch.testing.assert_close(logits[:, step], told[:, 0])
        before = now
    expected = model.objective.losses(logits, batch.targets).mean()
    torch.testing.assert_close(model.loss(batch), expected)


def test_an_online_learner_in_pairs_goes_on_from_the_last_step_of_a_source() -> None:
    model, batch = online(in_pairs=True), stream()
    padded = nn.functional.pad(batch.source, (0, 0, 0, 2), value=1.0)
    mask = torch.tensor([[True, False, False]] * 2)
    torch.testing.assert_close(
        model.decode(batch.inputs, model.encode(padded, mask))[0], model.logits(batch)
    )


@pytest.mark.parametrize("padded", [False, True])
def test_the_prototypical_loss_of_a_step_is_of_the_vectors_before_it(padded) -> None:
    model, batch = online(0.5), stream()
    mask = torch.arange(6) < torch.tensor([[6], [3]]) if padded else None
    batch = batch._replace(target_mask=mask)
    vectors, targets, losses = model.see(batch.inputs)[0], batch.targets, []
    for row in range(2):
        for step in range(6 if mask is None else int(mask[row].sum())):
            own = {
                label: vectors[row, :step][targets[row, :step] == label].mean(0)
                for label in set(targets[row, :step].tolist())
            }
            if (answer := int(targets[row, step])) in own:
                near = {label: -(vectors[row, step] - own[label]).square().sum() for label in own}
                losses.append(torch.stack(list(near.values())).logsumexp(0) - near[answer])
    plain = online().loss(batch)
    assert losses
    expected = plain + 0.5 * torch.stack(losses).mean()
    torch.testing.assert_close(model.loss(batch), expected)
    model.loss(batch).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_an_online_learner_has_no_alignment_with_its_source() -> None:
    assert meta_learner().alignments()
    online_snail = OnlineLearner(WIDTH + CLASSES, CLASSES, SNAIL_LEARNER, objective=Labels())
    assert online_snail.alignments() == {}


def test_without_a_class_that_has_come_before_there_is_no_prototypical_loss() -> None:
    batch = stream()
    first = batch._replace(inputs=batch.inputs[:, :1], targets=batch.targets[:, :1])
    torch.testing.assert_close(online(0.5).loss(first), online().loss(first))


def test_features_of_an_online_learner_are_detached_at_first() -> None:
    batch = stream()
    model, joint = online(0.5, detached_steps=1), online(0.5)
    weight = joint.features.layer.weight
    (both,) = torch.autograd.grad(joint.loss(batch), weight)
    plain = online()
    (learner,) = torch.autograd.grad(plain.loss(batch), plain.features.layer.weight)
    model.loss(batch).backward()
    torch.testing.assert_close(model.features.layer.weight.grad, both - learner)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Prototypical(3, 3), "more than output_size, at least 1; got 3 and 3"),
        (lambda: meta_learner(prototypical=-1.0), "at least 0; got -1.0 and 0"),
        (lambda: meta_learner(detached_steps=5), "must be more than 0; got prototypical=0"),
        (
            lambda: meta_learner(objective=Numbers(), prototypical=1.0),
            "needs the objective Labels; got Numbers",
        ),
        (
            lambda: meta_learner().encode(torch.zeros(2, 3, 4)),
            r"an episode must be \[B, T, 5\], .* got \[2, 3, 4\]",
        ),
        (
            lambda: meta_learner().logits(episode(12)),
            "max_length = 12 steps of source and answer; got a sequence of length 13",
        ),
        (
            lambda: SNAIL(3, 3).encode(torch.zeros(1, 2, dtype=torch.long)),
            r"vectors \[B, T, 3\]; got torch.int64 \[1, 2\]",
        ),
        (lambda: SNAIL(3, 3, attentions=[]), "at least one block; got none"),
        (lambda: SNAIL(3, 3, max_length=1, attentions=[(2, 2)]), "max_length must be .* got 1"),
        (lambda: SNAIL(3, 3, attentions=[(2, 2)], filters=0), "filters must be .* got 0"),
    ],
)
def test_what_does_not_fit_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
