"""What all tasks of pointing promise, and the sort of numbers against plain Python."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from memnets.batches import BEGIN, END, PAD, UNKNOWN, Batch, unpadded
from tasks import ConvexHull, Delaunay, PointingTask, SortingNumbers, TravellingSalesman

TASKS = (SortingNumbers, ConvexHull, Delaunay, TravellingSalesman)
every_task = pytest.mark.parametrize("make", TASKS)
seeds = st.integers(0, 2**31)
SPLITS = ["train", "val", "test", "n_9"]


def pointed(batch: Batch) -> list[tuple[np.ndarray, list[int]]]:
    """The points of each sequence and the indices that answer them, with all else checked."""
    assert batch.source.dtype == torch.float32
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    assert batch.inputs.shape == batch.targets.shape
    rows = []
    for row in range(len(batch.source)):
        points = unpadded(batch.source, batch.source_mask, row)
        inputs = unpadded(batch.inputs, batch.target_mask, row).tolist()
        *targets, end = unpadded(batch.targets, batch.target_mask, row).tolist()
        assert end == END
        assert inputs == [BEGIN, *targets]
        answer = [token - END - 1 for token in targets]
        assert all(0 <= index < len(points) for index in answer)
        rows.append((points.numpy(), answer))
    for padding, mask in (
        (batch.source, batch.source_mask),
        (batch.inputs, batch.target_mask),
        (batch.targets, batch.target_mask),
    ):
        assert mask is None or (mask.any(0).all() and not mask.all())
        assert mask is None or (padding[~mask] == PAD).all()
    return rows


@every_task
@given(
    seed=seeds,
    index=st.integers(0, 10_000),
    split=st.sampled_from(SPLITS),
    low=st.integers(3, 6),
    more=st.integers(0, 4),
)
def test_splits_have_their_size_and_their_numbers_of_points(
    make, seed, index, split, low, more
) -> None:
    task: PointingTask = make(
        low, low + more, [(9, 2)], 7, batch_size=4, validation_batch_size=5, seed=seed
    )
    rows = pointed(task.batch(split, index))
    assert len(rows) == {"train": 4, "val": 5, "test": 7, "n_9": 2}[split]
    for points, _ in rows:
        assert points.shape[1] == task.width == task.input_size
        assert len(points) == 9 if split == "n_9" else low <= len(points) <= low + more
        assert ((points >= 0) & (points < 1)).all()
    assert task.output_size == END + 1 + max(9, low + more)


@every_task
@given(seed=seeds, index=st.integers(0, 10_000), budget=st.integers(8, 40))
def test_a_batch_by_its_points_has_one_n_and_as_many_sequences_as_fit(
    make, seed, index, budget
) -> None:
    batch = make(3, 8, batch_points=budget, batch_size=1, seed=seed).batch("train", index)
    sequences, n = batch.source.shape[:2]
    assert batch.source_mask is None
    assert sequences == budget // n
    assert 3 <= n <= 8


@every_task
def test_every_number_of_points_comes(make) -> None:
    task = make(3, 6, batch_points=6)
    assert {task.batch("train", index).source.shape[1] for index in range(40)} == {3, 4, 5, 6}
    assert {len(points) for points, _ in pointed(task.batch("val", 0))} == {3, 4, 5, 6}


@every_task
def test_a_batch_is_a_pure_function_of_seed_split_and_index(make) -> None:
    def content(seed: int, split: str, index: int) -> bytes:
        batch = make(6, 6, seed=seed, validation_batch_size=16).batch(split, index)
        return batch.source.numpy().tobytes() + batch.targets.numpy().tobytes()

    assert content(1, "train", 5) == content(1, "train", 5)
    places = [(1, "train", 5), (2, "train", 5), (1, "val", 5), (1, "train", 6)]
    assert len({content(*place) for place in places}) == 4


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 12), st.just(1)),
        elements=st.sampled_from([-1.5, 0.0, 0.25, 7.0]) | st.floats(-1e9, 1e9, width=32),
    )
)
def test_numbers_are_sorted_and_of_equal_ones_the_first_comes_first(numbers) -> None:
    ((_, answer),) = pointed(SortingNumbers().batch_of([numbers]))
    assert answer == sorted(range(len(numbers)), key=lambda i: (numbers[i, 0], i))


def test_the_sort_of_numbers_has_no_scores_of_its_own_and_no_drawing() -> None:
    task = SortingNumbers(test_sequences=4)
    batch = task.batch("test", 0)
    assert task.measure("test", [batch.targets]) == {}
    assert task.drawing(batch, 0, batch.targets[0]) is None


@every_task
def test_an_answer_is_needed_for_each_sequence(make) -> None:
    task = make(test_sequences=4, max_points=6)
    targets = task.batch("test", 0).targets
    with pytest.raises(ValueError, match="each of the 4 sequences of test; got 3"):
        task.measure("test", [targets[:3]])


@every_task
@given(seed=seeds)
def test_a_batch_of_ones_own_points_is_that_of_the_task(make, seed) -> None:
    task = make(3, 8, seed=seed)
    batch = task.batch("val", 0)
    again = task.batch_of([points for points, _ in pointed(batch)])
    for ours, theirs in zip(batch, again, strict=True):
        assert ours is theirs is None or torch.equal(ours, theirs)


def test_points_beyond_those_of_training_and_python_lists_may_be_given() -> None:
    batch = SortingNumbers(max_points=5).batch_of([[[i / 50] for i in range(50)], [[3.0]]])
    assert [answer for _, answer in pointed(batch)] == [list(range(50)), [0]]


def test_labels_are_numbers_from_1_and_the_names_of_marks() -> None:
    batch = SortingNumbers().batch_of([[[0.5], [0.1], [0.3]], [[0.5]]])
    assert SortingNumbers().labels(batch, 0) == (["1", "2", "3"], ["2", "3", "1", "end"])
    assert SortingNumbers().labels(batch, 1) == (["1"], ["1", "end"])
    odd = batch._replace(targets=torch.tensor([[UNKNOWN, PAD, 5, END]] * 2), target_mask=None)
    assert SortingNumbers().labels(odd, 0)[1] == ["unknown", "pad", "2", "end"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_points": 2}, "3 <= min_points <= max_points; got 2 and 20"),
        ({"min_points": 6, "max_points": 5}, "got 6 and 5"),
        ({"test_sets": [(2, 1)]}, "test_sets must be of at least 3 points; got 2"),
        ({"test_sets": [(3, 0)]}, "test_sequences must be .* got 0"),
        ({"test_sequences": 0}, "test_sequences must be .* got 0"),
        ({"batch_points": 19}, "batch_points must be at least max_points, .* got 19 and 20"),
        ({"batch_size": 0}, "batch_size must be .* got 0"),
    ],
)
@pytest.mark.parametrize("make", TASKS[1:])
def test_bad_settings_are_named(make, settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_one_number_can_be_sorted_but_not_none() -> None:
    assert SortingNumbers(1, 1).batch("train", 0).source.shape == (16, 1, 1)
    with pytest.raises(ValueError, match="1 <= min_points <= max_points; got 0 and 20"):
        SortingNumbers(0)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "expected sequences of points; got none"),
        ([[]], r"sequence 0: expected points \[n, 1\]; got \[0\]"),
        ([[[1.0]], [[1.0, 2.0]]], r"sequence 1: expected points \[n, 1\]; got \[1, 2\]"),
        ([np.zeros((0, 1))], "sequence 0: expected at least 1 points; got 0"),
        ([[[1.0], [float("nan")]]], r"are finite; got \[nan\] as point 1"),
        ([[[1.0], [-float("inf")]]], r"are finite; got \[-inf\] as point 1"),
        ([[["one"]]], "sequence 0: could not convert"),
    ],
)
def test_points_that_are_none_are_named(points, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SortingNumbers().batch_of(points)
