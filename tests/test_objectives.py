"""Objectives against plain Python."""

import math
import re
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memnets import testing
from memnets.batches import Batch
from memnets.cells import LSTM
from memnets.memories import Tape
from memnets.models import MemoryMachine
from memnets.training.objectives import (
    Actions,
    Bits,
    Candidates,
    Labels,
    NextToken,
    Numbers,
    Objective,
    Symbols,
    Tokens,
)
from tasks.symbols import Parity


def lengths_mask(lengths: list[int], steps: int) -> torch.Tensor:
    return torch.arange(steps) < torch.tensor(lengths).unsqueeze(1)


@st.composite
def answered(draw):
    """Logits of 4 classes, targets and a mask of at least one step."""
    batch, steps = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    logits = draw(testing.tensors((batch, steps, 4), special=False))
    lengths = draw(st.lists(st.integers(1, steps), min_size=batch, max_size=batch))
    mask = lengths_mask(lengths, steps) if draw(st.booleans()) else None
    return logits, mask, lengths if mask is not None else [steps] * batch


@pytest.mark.parametrize(
    "objective",
    [
        Labels(),
        Labels("error"),
        Tokens(),
        Tokens(monitor="error"),
        Symbols(monitor="sequence_error"),
        Tokens(monitor="sequence_error"),
    ],
)
@given(drawn=answered(), seed=testing.seeds())
def test_labels_are_scored_as_by_hand(objective, drawn, seed) -> None:
    logits, mask, lengths = drawn
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(4, logits.shape[:2], generator=generator)
    scores = objective.scores(logits, targets, mask)
    losses = objective.losses(logits, targets)
    for row, length in enumerate(lengths):
        rows = [step.tolist() for step in logits[row, :length]]
        labels = targets[row, :length].tolist()
        costs = [
            math.log(sum(map(math.exp, step))) - step[label]
            for step, label in zip(rows, labels, strict=True)
        ]
        right = [step.index(max(step)) == label for step, label in zip(rows, labels, strict=True)]
        assert losses[row, :length].tolist() == pytest.approx(costs)
        assert scores["loss"][row].item() == pytest.approx(sum(costs) / length, rel=1e-5)
        assert scores["accuracy"][row].item() == pytest.approx(sum(right) / length)
        assert ("error" in scores) == (objective.monitor == "error")
        if "error" in scores:
            assert scores["error"][row].item() == pytest.approx(right.count(False) / length)
        if "exact" in scores:
            assert scores["exact"][row].item() == all(right)
        assert ("sequence_error" in scores) == (objective.monitor == "sequence_error")
        if "sequence_error" in scores:
            assert scores["sequence_error"][row].item() == (not all(right))


@pytest.mark.parametrize("objective", [Labels, Actions, Symbols, Tokens, NextToken])
@given(name=st.text(max_size=8) | st.sampled_from(["loss", "error", "sequence_error", "exact"]))
def test_a_score_that_cannot_be_monitored_is_refused(objective, name) -> None:
    if name in objective.monitors:
        assert objective(monitor=name).monitor == name
    else:
        expected = rf"monitor of {objective.__name__} must be '.*; got {re.escape(repr(name))}$"
        with pytest.raises(ValueError, match=expected):
            objective(monitor=name)
    assert objective().monitor == objective.monitors[0]


@given(drawn=answered(), seed=testing.seeds())
def test_the_next_token_is_scored_by_sums(drawn, seed) -> None:
    logits, mask, lengths = drawn
    targets = torch.randint(4, logits.shape[:2], generator=torch.Generator().manual_seed(seed))
    scores = NextToken().scores(logits, targets, mask)
    costs, right = [], 0
    for row, length in enumerate(lengths):
        own = [
            math.log(sum(map(math.exp, step))) - step[label]
            for step, label in zip(logits[row].tolist(), targets[row].tolist(), strict=True)
        ][:length]
        hits = sum(int(logits[row, t].argmax()) == targets[row, t] for t in range(length))
        assert scores["nats"][row].item() == pytest.approx(sum(own), rel=1e-5)
        assert scores["tokens"][row].item() == length
        assert scores["right"][row].item() == hits
        costs, right = costs + own, right + int(hits)
    found = NextToken().summarize({name: values.mean() for name, values in scores.items()})
    loss = sum(costs) / len(costs)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {"perplexity": math.exp(loss), "loss": loss, "accuracy": right / len(costs)}, rel=1e-5
    )


@given(drawn=answered(), seed=testing.seeds())
def test_numbers_are_scored_as_by_hand(drawn, seed) -> None:
    outputs, mask, lengths = drawn
    targets = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(seed)).double()
    scores = Numbers().scores(outputs, targets, mask)
    for row, length in enumerate(lengths):
        differences = (outputs - targets)[row, :length].flatten().tolist()
        expected = sum(x * x for x in differences) / len(differences)
        assert scores["error"][row].item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(Numbers().answer(outputs), outputs)


def test_a_string_is_exact_if_no_symbol_that_is_asked_is_wrong() -> None:
    targets = torch.tensor([[0, 1, 2], [0, 1, 2], [0, 1, 2]])
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2], [0, 1, 0], [1, 1, 2]]), 3).float()
    mask = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])
    assert Symbols().scores(logits, targets, mask)["exact"].tolist() == [1.0, 1.0, 0.0]
    assert Symbols().scores(logits, targets, None)["exact"].tolist() == [1.0, 0.0, 0.0]


def test_a_test_of_symbols_gives_the_size_of_the_state() -> None:
    sizes = (6, 2)
    batch = Parity(max_length=3, longest=0, test_sets=[]).asked(["01", "110"])
    machine = MemoryMachine(*sizes, partial(LSTM, hidden_size=4), Tape(width=3))
    (answers, scores) = Symbols().examine(machine, batch)[""]
    # The two vectors of the LSTM, what was read, and a key and a value for each of four steps: the
    # shorter question has a slot too, which is closed.
    assert scores["state"].tolist() == [4 + 4 + 3 + 4 * 2 * 3] * 2
    assert answers.equal(machine.logits(batch).argmax(-1))


def test_solved() -> None:
    assert Labels().solved({"accuracy": 0.99})
    assert not Labels().solved({"accuracy": 0.989})
    assert Symbols().solved({"accuracy": 1.0, "exact": 0.99})
    assert not Symbols().solved({"accuracy": 1.0, "exact": 0.98})
    assert Numbers().solved({"error": 0.01})
    assert not Numbers().solved({"error": 0.011})
    assert not NextToken().solved({"perplexity": 1.0, "accuracy": 1.0})


@pytest.mark.parametrize(
    ("objective", "targets", "message"),
    [
        (Labels(), torch.zeros(2, 3), r"whole numbers \[B, T\]; got torch.float32 \[2, 3\]"),
        (Tokens(), torch.zeros(2, 4, dtype=torch.long), r"got torch.int64 \[2, 4\]"),
        (Numbers(), torch.zeros(2, 3), r"vectors \[B, T, O\]; got torch.float32 \[2, 3\]"),
    ],
)
def test_targets_of_another_form_are_refused(objective, targets, message) -> None:
    with pytest.raises(ValueError, match=message):
        objective.losses(torch.zeros(2, 3, 4), targets)


WRONG_MASKS = {
    "long": (torch.ones(1, 2).long(), "must be boolean, False = padding; got torch.int64"),
    "float": (torch.ones(1, 2), "must be boolean, False = padding; got torch.float32"),
    "list": ([[True, True]], "must be boolean, False = padding; got list"),
    "short": (
        torch.ones(1, 1, dtype=torch.bool),
        "must be [B, T], as the targets, = [1, 2]; got [1, 1]",
    ),
    "of all": (
        torch.ones(2, dtype=torch.bool),
        "must be [B, T], as the targets, = [1, 2]; got [2]",
    ),
    "wide": (
        torch.ones(1, 2, 2, dtype=torch.bool),
        "must be [B, T], as the targets, = [1, 2]; got [1, 2, 2]",
    ),
}


@pytest.mark.parametrize("mask", WRONG_MASKS)
@pytest.mark.parametrize(
    "objective", [Bits(), Candidates(), Numbers(), Labels(), Tokens(), Symbols(), Actions()]
)
def test_a_mask_of_another_kind_is_one_line(objective, mask) -> None:
    vectors, wrong = torch.tensor([[[0.0, 0.5], [1.0, 0.0]]]), WRONG_MASKS[mask]
    whole = not isinstance(objective, (Bits, Candidates, Numbers))
    targets = torch.zeros(1, 2, dtype=torch.long) if whole else vectors
    rewards = vectors if isinstance(objective, Actions) else None
    batch = Batch(vectors, vectors, targets, None, wrong[0], rewards)
    machine = MemoryMachine(2, 2, LSTM, objective=objective)
    for method in (objective.check, machine.loss, machine.logits, machine.score, machine.examine):
        with pytest.raises((TypeError, ValueError)) as error:
            method(batch)
        assert str(error.value) == f"target_mask {wrong[1]}"


@pytest.mark.parametrize("wrong", [5.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("objective", [Bits(), Candidates(), Numbers()])
def test_numbers_that_an_objective_cannot_learn_are_refused(objective, wrong) -> None:
    targets = torch.tensor([[[0.0, 0.5], [1.0, 0.0]]])
    batch = Batch(targets, targets, targets)
    objective.check(batch)
    asked = batch._replace(targets=targets.index_fill(1, torch.tensor(1), wrong))
    objective.check(asked._replace(target_mask=torch.tensor([[True, False]])))
    machine = MemoryMachine(2, 2, LSTM, objective=objective)
    if isinstance(objective, Numbers) and math.isfinite(wrong):
        return objective.check(asked)
    hint = {Bits: "for real numbers use --model.objective=memnets.training.Numbers"}
    with pytest.raises(ValueError, match=f"needs targets .*{hint.get(type(objective), '')}.*; got"):
        # The hook before the batch goes to a device.
        machine.on_before_batch_transfer(asked, 0)
    # In a loop of one's own, and by stretches too.
    cut = MemoryMachine(2, 2, LSTM, objective=objective, tbptt_steps=1)
    for model in (machine, cut):
        model.loss(asked._replace(target_mask=torch.tensor([[True, False]])))
        with pytest.raises(ValueError, match=r"needs targets .*; got"):
            model.loss(asked)


@pytest.mark.parametrize("classes", [5, 2048], ids=["plain", "twin"])
@pytest.mark.parametrize("wrong", [-100, -1, 3000])
@pytest.mark.parametrize("objective", [Labels(), Tokens(0.1), Symbols(), NextToken()])
def test_a_target_beyond_the_classes_is_refused(objective, wrong, classes) -> None:
    logits, targets = torch.zeros(1, 3, classes), torch.tensor([[0, 1, wrong]])
    with pytest.raises(ValueError, match=rf"must be whole numbers in \[0, {classes}\).*{wrong}"):
        objective.losses(logits, targets)


#: Objectives whose answers are no labels; all that do not answer with the likeliest class alone.
WITHOUT_CHANCES = (Tokens(), NextToken(), Candidates(), Bits(), Numbers())


def kinds_of(kind: type) -> set[type]:
    """The kinds of a class in the library."""
    found = {each for child in kind.__subclasses__() for each in (child, *kinds_of(child))}
    return {each for each in found if each.__module__.startswith("memnets.")}


def test_chances_are_those_of_the_answers() -> None:
    logits = torch.tensor([[[0.0, 2.0, -1.0], [3.0, 0.0, 0.0]]])
    shares = [[math.exp(value) for value in step] for step in logits[0].tolist()]
    expected = [max(step) / sum(step) for step in shares]
    assert Labels().chances(logits)[0].tolist() == pytest.approx(expected)
    assert {type(objective) for objective in WITHOUT_CHANCES} >= {
        kind for kind in kinds_of(Objective) if kind.respond is not Objective.respond
    }
    for objective in WITHOUT_CHANCES:
        with pytest.raises(TypeError, match=f"answers with labels.* is {type(objective).__name__}"):
            objective.chances(logits)


@given(drawn=answered(), seed=testing.seeds())
def test_candidates_are_scored_as_by_hand(drawn, seed) -> None:
    logits, mask, lengths = drawn
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(logits.shape, generator=generator) < 0.5).double()
    targets[..., 0] = 1
    scores = Candidates().scores(logits, targets, mask)
    for row, length in enumerate(lengths):
        costs, hits = [], []
        for step, right in zip(logits[row, :length].tolist(), targets[row].tolist(), strict=False):
            whole = sum(map(math.exp, step))
            known = sum(math.exp(x) for x, is_right in zip(step, right, strict=True) if is_right)
            costs.append(-math.log(known / whole))
            hits.append(right[step.index(max(step))] == 1)
        assert scores["loss"][row].item() == pytest.approx(sum(costs) / length, abs=1e-5)
        assert scores["hits"][row].item() == pytest.approx(sum(hits) / length)
    likely = Candidates().answer(logits)
    torch.testing.assert_close(likely, logits.exp() / logits.exp().sum(-1, keepdim=True))


def test_a_step_without_a_right_candidate_costs_nothing() -> None:
    logits = torch.randn(1, 2, 3, requires_grad=True)
    targets = torch.tensor([[[0.0, 0, 0], [1, 0, 1]]])
    losses = Candidates().losses(logits, targets)
    (gradient,) = torch.autograd.grad(losses.sum(), [logits])
    assert losses[0, 0] == 0
    assert not gradient[0, 0].any()
    assert gradient[0, 1].all()
