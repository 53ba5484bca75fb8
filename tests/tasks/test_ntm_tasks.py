"""Recall, n-grams and priority sort against oracles in plain Python, and their bad settings."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks import AssociativeRecall, DynamicNGrams, PrioritySort, Task
from tests.tasks.test_copying import answers, vectors

seeds = st.integers(0, 2**31)
indices = st.integers(0, 10_000)
splits = st.sampled_from(["train", "val"])
SMALL = {"batch_size": 4, "validation_batch_size": 5}


def parted(source: list[list[int]]) -> tuple[list[list[list[int]]], list[list[int]]]:
    """Oracle: the items of a source, and the one that is asked for."""
    items: list[list[list[int]]] = []
    asked: list[list[list[int]]] = []
    for *vector, item, query in source:
        if item or query:
            assert not any(vector)
            (items if item else asked).append([])
        else:
            (asked or items)[-1].append(vector)
    first, nothing = asked
    assert nothing == []
    return items, first


@given(seeds, indices, splits, st.integers(2, 5), st.integers(0, 4), st.booleans())
def test_recall_agrees_with_the_oracle(seed, index, split, low, more, mixed) -> None:
    task = AssociativeRecall(6, 3, low, low + more, mixed, seed=seed, **SMALL)
    batch = task.batch(split, index)
    assert len(batch.source) == (4 if split == "train" else 5)
    assert batch.source.shape[-1] == batch.inputs.shape[-1] == task.input_size == 8
    assert batch.targets.shape[1:] == (*batch.inputs.shape[1:2], 6)
    assert not batch.inputs.any()
    for sequence in range(len(batch.source)):
        items, asked = parted(vectors(batch, sequence))
        assert low <= len(items) <= low + more
        assert all(len(item) == 3 for item in [*items, asked])
        after = [items[n + 1] for n in range(len(items) - 1) if items[n] == asked]
        assert answers(batch, sequence) in after
    if batch.source_mask is not None:
        assert not batch.source[~batch.source_mask].any()


def test_a_test_set_may_have_the_fewest_items() -> None:
    task = AssociativeRecall(min_items=2, max_items=2, test_sets=[(2, 50)])
    batch = task.batch("items_2", 0)
    assert len(batch.source) == 50
    # Of two items only the first has one after it.
    item, step = task.item_length, task.item_length + 1
    second = batch.source[:, step + 1 : 2 * step, : task.width]
    assert torch.equal(batch.targets, second)
    assert batch.targets.shape[1] == item


def test_recall_asks_for_every_item_but_the_last() -> None:
    batch = AssociativeRecall(test_sets=[(3, 200)]).batch("items_3", 0)
    places = set()
    for sequence in range(200):
        items, asked = parted(vectors(batch, sequence))
        places.add(items.index(asked))
    assert places == {0, 1}


@given(seeds, indices, splits, st.integers(1, 5), st.integers(1, 7), st.integers(1, 7))
def test_priority_sort_agrees_with_the_oracle(seed, index, split, width, one, other) -> None:
    said, length = sorted((one, other))
    task = PrioritySort(width, length, said, seed=seed, **SMALL)
    batch = task.batch(split, index)
    assert batch.source.shape[1:] == (length + 1, task.input_size)
    assert not batch.inputs.any()
    for source, targets in zip(batch.source.tolist(), batch.targets.tolist(), strict=True):
        *rows, flag = source
        assert flag == [0] * (width + 1) + [1]
        assert all(-1 <= row[-2] <= 1 and row[-1] == 0 for row in rows)
        rows.sort(key=lambda row: -row[-2])
        assert targets == [row[:width] for row in rows[:said]]


def test_of_priorities_that_tie_the_first_seen_comes_first(monkeypatch) -> None:
    task = PrioritySort(3, 5, 5, test_sequences=20)
    random = task.random

    class Tied:
        """Draws priorities that are equal to all but each other's last bits."""

        def __init__(self, generator: np.random.Generator) -> None:
            self.integers = generator.integers

        def uniform(self, low: float, high: float, shape: tuple[int, int]) -> np.ndarray:
            return 0.5 + 1e-12 * np.arange(shape[1]) * np.ones(shape)

    monkeypatch.setattr(task, "random", lambda *batch: Tied(random(*batch)))
    batch = task.batch("test", 0)
    assert torch.equal(batch.targets, batch.source[:, :-1, :3])


@given(seeds, indices, splits, st.integers(1, 4), st.integers(4, 12))
def test_ngrams_are_given_what_was_to_be_predicted(seed, index, split, order, length) -> None:
    batch = DynamicNGrams(order, length, seed=seed, **SMALL).batch(split, index)
    size = 4 if split == "train" else 5
    assert batch.source.shape == (size, 0, 1)
    assert batch.inputs.shape == batch.targets.shape == (size, length, 1)
    assert ((batch.targets == 0) | (batch.targets == 1)).all()
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    assert not batch.inputs[:, 0].any()


def bayes(bits: list[int], order: int) -> float:
    """Oracle: what the predictor of equation 10 pays for a sequence, in bits."""
    paid = 0.0
    seen: dict[tuple[int, ...], list[int]] = {}
    for step, bit in enumerate(bits):
        context = tuple(bits[step - order + 1 : step])
        counts = seen.setdefault(context, [0, 0])
        of_one = (counts[1] + 0.5) / (sum(counts) + 1)
        if step < order - 1:
            of_one = 0.5
        else:
            counts[bit] += 1
        paid -= math.log2(of_one if bit else 1 - of_one)
    return paid


@given(seeds, st.integers(1, 4), st.integers(4, 30))
def test_the_best_predictor_agrees_with_the_oracle(seed, order, length) -> None:
    task = DynamicNGrams(order, length, test_sequences=6, seed=seed)
    sequences = task.batch("test", 0).targets.squeeze(-1).int().tolist()
    expected = np.mean([bayes(bits, order) for bits in sequences])
    assert task.measure("test", [])["bayes_bits"] == pytest.approx(expected)


def test_the_best_predictor_pays_what_the_paper_says() -> None:
    # About 133 in figure 13; the deviation is 36 bits a sequence.
    task = DynamicNGrams(test_sequences=20_000)
    assert task.measure("test", [])["bayes_bits"] == pytest.approx(133, abs=1)


def test_a_law_of_ngrams_holds_for_its_sequence() -> None:
    batch = DynamicNGrams(1, 2000, batch_size=200).batch("train", 0)
    shares = batch.targets.mean((1, 2))
    # Beta(1/2, 1/2) has mean 1/2 and variance 1/8; most of it is near 0 and 1.
    assert shares.mean() == pytest.approx(0.5, abs=0.1)
    assert shares.var() == pytest.approx(0.125, abs=0.03)


@given(st.integers(1, 8), st.data())
def test_a_priority_sort_may_train_on_fewer_vectors(length: int, data) -> None:
    said, now = (data.draw(st.integers(1, length)) for _ in range(2))
    task = PrioritySort(3, length, said, test_sequences=4, **SMALL)
    task.training_length = now
    batch = task.batch("train", 0)
    assert batch.source.shape[1] == now + 1
    assert batch.targets.shape[1] == math.ceil(said * now / length)
    for split in ("val", "test"):
        assert task.batch(split, 0).source.shape[1] == length + 1
        assert task.batch(split, 0).targets.shape[1] == said
    # As if it were a task of that length.
    other = PrioritySort(3, now, batch.targets.shape[1], **SMALL).batch("train", 0)
    assert torch.equal(batch.source, other.source)
    assert torch.equal(batch.targets, other.targets)


@pytest.mark.parametrize("make", [AssociativeRecall, DynamicNGrams, PrioritySort])
def test_a_batch_is_a_pure_function_of_seed_split_and_index(make) -> None:
    def bits(seed: int, split: str, index: int) -> bytes:
        return make(seed=seed).batch(split, index).targets.numpy().tobytes()

    assert bits(1, "train", 5) == bits(1, "train", 5)
    different = {bits(1, "train", 5), bits(2, "train", 5), bits(1, "val", 5), bits(1, "train", 6)}
    assert len(different) == 4


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (AssociativeRecall, {"min_items": 1}, "2 <= min_items <= max_items; got 1 and 6"),
        (AssociativeRecall, {"max_items": 1}, "got 2 and 1"),
        (AssociativeRecall, {"test_sets": [(1, 5)]}, "at least 2 items; got 1"),
        (AssociativeRecall, {"item_length": 0}, "item_length must be .* got 0"),
        (DynamicNGrams, {"order": 0}, "order must be .* at least 1; got 0"),
        (DynamicNGrams, {"order": 7, "length": 6}, "order must be at most length = 6, .*; got 7"),
        (DynamicNGrams, {"order": 21}, "and at most 20, since a sequence .*; got 21"),
        (DynamicNGrams, {"length": 0}, "length must be .* at least 1; got 0"),
        (PrioritySort, {"answers": 0}, "answers must be .* at least 1; got 0"),
        (PrioritySort, {"length": 5, "answers": 6}, "at most length = 5; got 6"),
        (PrioritySort, {"training_length": 21}, "at most length = 20; got 21"),
        (PrioritySort, {"training_length": 0}, "training_length must be .* got 0"),
        (PrioritySort, {"training_length": 5.5}, "training_length must be a whole .* got 5.5"),
    ],
)
def test_bad_settings_are_named(make: type[Task], settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_recall_of_two_items_is_the_least() -> None:
    task = AssociativeRecall(min_items=2, max_items=2, item_length=1, width=1, test_sets=[(2, 1)])
    assert task.batch("items_2", 0).targets.shape == (1, 1, 1)
    for settings in ({"min_items": 1}, {"test_sets": [(1, 1)]}):
        with pytest.raises(ValueError, match=r"at least 2|2 <="):
            AssociativeRecall(**settings)  # type: ignore[arg-type]
