"""Copy and repeat copy against an oracle in plain Python, and the promises of a task."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memnets.batches import Batch
from tasks import Copying, RepeatCopying, Reversing, Task

seeds = st.integers(0, 2**31)
indices = st.integers(0, 10_000)
splits = st.sampled_from(["train", "val"])


def vectors(batch: Batch, sequence: int) -> list[list[int]]:
    """The steps of a source that are not padding."""
    steps = batch.source[sequence].int().tolist()
    if batch.source_mask is not None:
        steps = [s for s, real in zip(steps, batch.source_mask[sequence], strict=True) if real]
    return steps


def answers(batch: Batch, sequence: int) -> list[list[int]]:
    """The steps of a target that are not padding."""
    steps = batch.targets[sequence].int().tolist()
    if batch.target_mask is not None:
        steps = [s for s, real in zip(steps, batch.target_mask[sequence], strict=True) if real]
    return steps


def copied(source: list[list[int]]) -> list[list[int]]:
    """Oracle: all vectors before the flag."""
    *said, flag = source
    assert flag == [0] * (len(flag) - 1) + [1]
    assert all(vector[-1] == 0 for vector in said)
    return [vector[:-1] for vector in said]


def repeated(source: list[list[float]], mean: float, deviation: float) -> list[list[int]]:
    """Oracle: all vectors before the flag, as often as the last channel says, and an end marker."""
    *said, (*blank, flag, number) = source
    assert not any(blank)
    assert flag == 1
    assert all(vector[-2:] == [0, 0] for vector in said)
    repeats = round(number * deviation + mean)
    vectors = [[int(bit) for bit in vector[:-2]] + [0] for vector in said]
    return vectors * repeats + [[0] * len(blank) + [1]]


@given(
    seeds, indices, splits, st.integers(1, 9), st.integers(1, 5), st.integers(0, 6), st.booleans()
)
def test_copying_agrees_with_the_oracle(seed, index, split, width, low, more, mixed) -> None:
    settings = {"batch_size": 4, "validation_batch_size": 5, "seed": seed}
    task = Copying(width, low, low + more, mixed, **settings)
    backward = Reversing(width, low, low + more, mixed, **settings).batch(split, index)
    batch = task.batch(split, index)
    assert len(batch.source) == (4 if split == "train" else 5)
    assert batch.source.shape[-1] == batch.inputs.shape[-1] == task.input_size
    assert batch.targets.shape[-1] == task.output_size
    assert batch.inputs.shape[:2] == batch.targets.shape[:2]
    assert not batch.inputs.any()
    for sequence in range(len(batch.source)):
        source = vectors(batch, sequence)
        assert low <= len(source) - 1 <= low + more
        assert answers(batch, sequence) == copied(source)
        assert vectors(backward, sequence) == source
        assert answers(backward, sequence) == copied(source)[::-1]


def repeated_by_marks(source: list[list[float]]) -> list[list[int]]:
    """Oracle: all vectors before the marks, as often as there are marks, and an end marker."""
    *before, (*blank, flag) = source
    assert not any(blank)
    assert flag == 1
    mark = [0] * (len(blank) - 1) + [1, 0]
    repeats = before.count(mark)
    said = before[: len(before) - repeats]
    assert before[len(said) :] == [mark] * repeats
    assert all(vector[-2:] == [0, 0] for vector in said)
    vectors = [[int(bit) for bit in vector[:-2]] + [0] for vector in said]
    return vectors * repeats + [[0] * (len(blank) - 1) + [1]]


@given(
    seeds, indices, splits, st.integers(1, 4), st.integers(1, 4), st.integers(1, 5),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_repeat_copying_agrees_with_the_oracle(
    seed, index, split, length, low, high, mixed, marks
) -> None:
    low, high = sorted((low, high))
    task = RepeatCopying(3, 1, length, low, high, mixed, batch_size=4, seed=seed, marks=marks)
    batch = task.batch(split, index)
    choices = np.arange(low, high + 1)
    if batch.source_mask is not None:
        assert batch.source_mask.any(0).all(), "a step that is padding in every sequence"
    for sequence in range(len(batch.source)):
        steps = batch.source[sequence].tolist()
        if batch.source_mask is not None:
            steps = [s for s, r in zip(steps, batch.source_mask[sequence], strict=True) if r]
        if marks:
            expected = repeated_by_marks(steps)
        else:
            expected = repeated(steps, choices.mean(), choices.std())
        assert answers(batch, sequence) == expected
        assert len(steps[0]) == task.input_size


@given(seeds, indices)
def test_what_is_padding_is_zero(seed, index) -> None:
    batch = RepeatCopying(2, 1, 4, 1, 3, mixed_lengths=True, batch_size=6, seed=seed).batch(
        "train", index
    )
    if batch.source_mask is not None:
        assert not batch.source[~batch.source_mask].any()
    if batch.target_mask is not None:
        assert not batch.targets[~batch.target_mask].any()


@pytest.mark.parametrize("make", [Copying, RepeatCopying])
def test_a_batch_is_a_pure_function_of_seed_split_and_index(make) -> None:
    def bits(seed: int, split: str, index: int) -> bytes:
        batch = make(min_length=6, max_length=6, seed=seed).batch(split, index)
        return batch.source.numpy().tobytes()

    assert bits(1, "train", 5) == bits(1, "train", 5)
    different = {bits(1, "train", 5), bits(2, "train", 5), bits(1, "val", 5), bits(1, "train", 6)}
    assert len(different) == 4


def test_test_sets_have_their_length_and_size() -> None:
    task = Copying(test_sets=[(7, 3), (9, 2)])
    assert task.test_names() == ["length_7", "length_9"]
    assert task.batch("length_9", 0).targets.shape == (2, 9, 8)
    assert [len(loader) for loader in task.test_dataloader()] == [1, 1]
    task = RepeatCopying(test_sets=[(2, 5, 4)])
    assert task.test_names() == ["length_2_repeats_5"]
    assert task.batch("length_2_repeats_5", 0).targets.shape == (4, 11, 9)


def test_training_has_at_most_as_many_repeats_as_it_is_to_have_for_now() -> None:
    task = RepeatCopying(training_repeats=3, batch_size=2)
    whole = RepeatCopying(batch_size=2)

    def sizes(index: int) -> tuple[int, int]:
        batch = task.batch("train", index)
        length = batch.source.shape[1] - 1
        return length, (batch.targets.shape[1] - 1) // length

    lengths, repeats = (set(sizes) for sizes in zip(*map(sizes, range(200)), strict=True))
    assert lengths == set(range(1, 11))
    assert repeats == {1, 2, 3}
    for split in ("val", "length_10_repeats_10"):
        assert torch.equal(task.batch(split, 0).source, whole.batch(split, 0).source)
    # The number that the model is given for so many repeats stays what it is.
    assert task.normalise(np.array([3])) == whole.normalise(np.array([3]))


def test_the_number_of_repeats_has_mean_0_and_variance_1() -> None:
    numbers = RepeatCopying().normalise(np.arange(1, 11))
    assert numbers.mean() == pytest.approx(0)
    assert numbers.var() == pytest.approx(1)
    assert RepeatCopying(min_repeats=3, max_repeats=3).normalise(np.array([3])) == 0


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core
@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_give_the_batches_by_index(workers: int) -> None:
    task = Copying(max_length=3, batch_size=2, epoch_batches=3, workers=workers)
    loader = task.train_dataloader()
    assert len(loader) == 3
    for index, batch in zip(range(5), loader, strict=False):
        assert torch.equal(batch.source, task.batch("train", index).source)
    assert len(list(task.val_dataloader())) == task.validation_batches


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (Copying, {"width": 0}, "width must be a whole number of at least 1; got 0"),
        (Copying, {"min_length": -1}, "1 <= min_length <= max_length; got -1 and 20"),
        (Copying, {"min_length": 5, "max_length": 4}, "got 5 and 4"),
        (Copying, {"test_sets": [(0, 1)]}, "test_length must be .* got 0"),
        (Copying, {"batch_size": 0}, "batch_size must be .* got 0"),
        (Copying, {"epoch_batches": 1.5}, "epoch_batches must be .* got 1.5"),
        (Copying, {"workers": -1}, "at least 0; got -1"),
        (RepeatCopying, {"min_repeats": 0}, "1 <= min_repeats <= max_repeats; got 0 and 10"),
        (RepeatCopying, {"test_sets": [(1, 0, 1)]}, "test_repeats must be .* got 0"),
        (RepeatCopying, {"training_repeats": 0}, "from min_repeats = 1 .* got 0"),
        (RepeatCopying, {"training_repeats": 11}, "to max_repeats = 10; got 11"),
    ],
)
def test_bad_settings_are_named(make: type[Task], settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)
