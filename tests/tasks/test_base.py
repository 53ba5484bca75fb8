"""What all tasks share."""

import logging
from dataclasses import dataclass
from functools import partial
from inspect import isabstract
from typing import NamedTuple

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch
from hypothesis import given
from hypothesis import strategies as st

from memnets.batches import BEGIN, END, PAD, Batch, Places, padded, padded_to
from memnets.cells import LSTM
from memnets.core import Encoded, Memory
from memnets.models import MemoryMachine
from tasks import (
    AssociativeRecall,
    ConvexHull,
    Copying,
    CopyingTokens,
    Delaunay,
    FewShot,
    RepeatCopying,
    Sinusoids,
    SortingNumbers,
    SortingTokens,
    Task,
    TravellingSalesman,
)


@pytest.mark.parametrize("name", Batch._fields)
@pytest.mark.parametrize("made", [np.asarray, torch.Tensor.tolist])
def test_a_batch_of_anything_but_tensors_is_named_when_it_is_loaded(name, made) -> None:
    class Mine(Copying):
        """Copying: a part of each batch is no tensor."""

        def batch(self, split, index):
            batch = super().batch(split, index)
            part = getattr(batch, name)
            return batch._replace(**{name: made(batch.inputs if part is None else part)})

    task = Mine()
    for loader in (task.train_dataloader(), task.val_dataloader(), *task.test_dataloader()):
        with pytest.raises(TypeError, match=f"^{name} of a Batch must be a tensor.*; got a"):
            next(iter(loader))


@dataclass
class Fields:
    """The fields of a batch in a class of one's own."""

    source: torch.Tensor
    inputs: torch.Tensor
    targets: torch.Tensor
    source_mask: torch.Tensor | None = None
    target_mask: torch.Tensor | None = None
    rewards: torch.Tensor | None = None


class Parts(NamedTuple):
    """The same as a named tuple."""

    source: torch.Tensor
    inputs: torch.Tensor
    targets: torch.Tensor


@pytest.mark.parametrize(
    ("made", "came"),
    [
        (lambda *parts: parts, "a tuple: give Batch(*it)"),
        (lambda *parts: dict(zip(Parts._fields, parts, strict=True)), "a dict: give Batch(**it)"),
        (Fields, "a Fields: give Batch(it.source, it.inputs, it.targets, ...)"),
        (Parts, "a Parts: give Batch(it.source, it.inputs, it.targets, ...)"),
        (lambda *parts: None, "a NoneType"),
    ],
)
def test_a_batch_of_another_class_is_told_how_it_becomes_one(made, came) -> None:
    task = Copying()
    parts = task.batch("train", 0)[:3]
    task.batch = lambda split, index: made(*parts)
    expected = "expected a Batch of a task, memnets.batches.Batch or a subclass; got " + came
    with pytest.raises(TypeError) as error:
        next(iter(task.train_dataloader()))
    assert str(error.value) == expected
    with pytest.raises(TypeError) as error:
        MemoryMachine(9, 8, LSTM).loss(made(*parts))
    assert str(error.value) == expected


class Ones(Batch):
    """A batch that knows more than its fields."""

    @property
    def ones(self) -> torch.Tensor:
        return self.source.sum()


class OfOnes(Copying):
    """Copying, with batches of a class of one's own."""

    def batch(self, split, index):
        return Ones(*super().batch(split, index))


class Asking(MemoryMachine):
    """A machine that asks for what a batch of this class knows."""

    def loss(self, batch):
        return super().loss(batch) + 0 * batch.ones


@pytest.mark.parametrize("number", [0.0, torch.nan])
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # of Lightning
def test_a_subclass_of_a_batch_comes_to_the_model_as_it_is(workers, number) -> None:
    task = OfOnes(max_length=3, workers=workers, mixed_lengths=True, epoch_batches=1)
    made = task.batch

    def padded_by(split, index):
        batch = made(split, index)
        padding = ~batch.target_mask if batch.target_mask is not None else torch.tensor(False)
        filled = batch.targets.masked_fill(padding.unsqueeze(-1), number)
        return batch._replace(targets=filled)

    task.batch = padded_by
    model = Asking(9, 8, partial(LSTM, hidden_size=3), pad_lengths=4)
    trainer = lightning.Trainer(
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(model, datamodule=task)
    assert trainer.global_step == 2
    assert type(padded_to(made("train", 0), 4)) is Ones


def sized(numbers: list[int]) -> list[tuple[int, int]]:
    """A test set of each of the numbers, no two of as many sequences."""
    return [(number, sequences) for sequences, number in enumerate(numbers, start=1)]


#: What makes a task with test sets of some numbers, and how such a set is named.
TEST_SETS = {
    "copying": (lambda numbers: Copying(test_sets=sized(numbers)), "length_{}"),
    "repeat copying": (
        lambda numbers: RepeatCopying(test_sets=[(n, 7, size) for n, size in sized(numbers)]),
        "length_{}_repeats_7",
    ),
    "recall": (lambda numbers: AssociativeRecall(test_sets=sized(numbers)), "items_{}"),
    "tokens": (lambda numbers: SortingTokens(test_sets=sized(numbers)), "length_{}"),
    "pointing": (lambda numbers: ConvexHull(test_sets=sized(numbers)), "n_{}"),
    "few examples": (lambda numbers: FewShot(shots=numbers), "shot_{}"),
    "sines": (lambda numbers: Sinusoids(shots=numbers), "shot_{}"),
}


@pytest.mark.parametrize(("make", "name"), TEST_SETS.values(), ids=TEST_SETS.keys())
@given(numbers=st.lists(st.integers(3, 6), min_size=1, max_size=3))
def test_a_test_set_that_is_given_twice_is_named(make, name: str, numbers: list[int]) -> None:
    if len(set(numbers)) == len(numbers):
        names = [each for each in make(numbers).test_names() if each != "test"]
        assert names == [name.format(number) for number in numbers]
    else:
        twice = next(n for place, n in enumerate(numbers) if n in numbers[:place])
        with pytest.raises(ValueError, match=f"must be given once; got {name.format(twice)} twice"):
            make(numbers)


def all_tasks(task: type[Task] = Task) -> list[type[Task]]:
    """All tasks of the library, those whose data is in files too."""
    found = {each: None for below in task.__subclasses__() for each in (below, *all_tasks(below))}
    return [each for each in found if each.__module__.startswith("tasks.") and not isabstract(each)]


@pytest.mark.parametrize("task", all_tasks(), ids=lambda task: task.__name__)
def test_no_task_makes_a_batch_of_a_misspelt_split(task, monkeypatch) -> None:
    # Without its data: the split is looked at before anything else.
    monkeypatch.setattr(task, "test_names", lambda self: ["test", "length_9"])
    made = task.__new__(task)
    splits = "train, val, test or length_9"
    for ask in (lambda: made.batch("trian", 0), lambda: made.batches("trian")):
        with pytest.raises(ValueError, match=f"a split of {task.__name__}: {splits}; got trian$"):
            ask()


class Harder(Copying):
    """Copying, with batches of another split."""

    def splits(self):
        return [*super().splits(), "hard"]

    def batch(self, split, index):
        return super().batch("val" if split == "hard" else split, index)


def test_a_task_may_have_splits_of_its_own() -> None:
    task = Harder()
    assert torch.equal(task.batch("hard", 0).source, task.batch("val", 0).source)
    assert task.batches("hard") == 1
    expected = r"Harder: train, val, length_20, .* or hard; got hrad$"
    for ask in (lambda: task.batch("hrad", 0), lambda: task.batches("hrad")):
        with pytest.raises(ValueError, match=expected):
            ask()
    assert "hard" not in task.test_names()


def test_data_by_the_name_of_the_splits_hides_none_of_them() -> None:
    class OfObject(Copying):
        def __init__(self):
            super().__init__()
            self.splits = {"train": [], "hard": []}

    class OfClass(Copying):
        splits = ("train", "hard")

    for task in (OfObject(), OfClass()):
        task.batch("val", 0)
        with pytest.raises(ValueError, match=r"train, val, length_20, .*; got hard$"):
            task.batch("hard", 0)


def test_a_batch_shows_its_shapes_and_no_numbers() -> None:
    batch = Copying(width=3, max_length=20, mixed_lengths=True, batch_size=16).batch("train", 0)
    steps, answers = batch.source.shape[1], batch.targets.shape[1]
    assert (
        repr(batch)
        == str(batch)
        == (
            f"Batch(source=float32[16, {steps}, 4], inputs=float32[16, {answers}, 4], "
            f"targets=float32[16, {answers}, 3], source_mask=bool[16, {steps}], "
            f"target_mask=bool[16, {answers}], source_places=int64[16, {steps}], "
            f"target_places=int64[16, {answers}], device=cpu)"
        )
    )
    elsewhere = batch._replace(target_mask=batch.target_mask.to("meta"))
    assert repr(elsewhere).endswith(", device=cpu and meta)")
    assert repr(batch.places) == (
        f"Places(source=int64[16, {steps}], answer=int64[16, {answers}], device=cpu)"
    )
    many = torch.zeros(3, 100, 100)
    for made in (Batch, Places, Memory, Encoded):
        assert len(repr(made(*[many] * len(made._fields)))) < 300
    number = torch.zeros((), dtype=torch.bfloat16)
    memory = Memory(number, Places(number, number))
    inside = "Places(source=bfloat16[], answer=bfloat16[], device=cpu)"
    assert repr(memory) == f"Memory(keys=bfloat16[], values={inside}, device=cpu)"
    assert repr(Memory(None, 2)) == "Memory(values=2)"


OLD_NAMES = {
    **dict.fromkeys([CopyingTokens, SortingTokens], "test_lengths"),
    **dict.fromkeys([SortingNumbers, ConvexHull, Delaunay, TravellingSalesman], "test_points"),
}


@pytest.mark.parametrize(("make", "old"), OLD_NAMES.items())
def test_test_sets_had_other_names_before(make, old: str, caplog) -> None:
    new = make(test_sets=[(4, 2), (3, 1)])
    assert not caplog.messages
    with caplog.at_level(logging.WARNING):
        assert make(**{old: [[4, 2], [3, 1]]}).test_names() == new.test_names()
    assert caplog.messages == [f"{old} is now called test_sets; the old name will go"]
    # As when a config of before is given new test sets on the command line.
    assert make(**{old: [[9, 9]]}, test_sets=[(4, 2), (3, 1)]).test_names() == new.test_names()
    assert make(**{old: []}).test_names() == ["test"]


@pytest.mark.parametrize("slow", [True, False])
@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_slow_training_batches_are_made_ahead_of_time_by_default(
    slow, cores, start, monkeypatch
) -> None:
    monkeypatch.setattr("tasks.base.cores", lambda: cores)
    monkeypatch.setattr("multiprocessing.get_start_method", lambda: start)
    make = partial(ConvexHull if slow else Copying, epoch_batches=2)
    one = slow and cores > 1 and start == "fork"
    assert make().train_dataloader().num_workers == int(one)
    assert make().val_dataloader().num_workers == 0
    assert [loader.num_workers for loader in make().test_dataloader()] == [0] * len(
        make().test_names()
    )
    for workers in (0, 1):
        assert make(workers=workers).train_dataloader().num_workers == workers
        assert make(workers=workers).val_dataloader().num_workers == workers


@pytest.mark.parametrize("make", [SortingNumbers, ConvexHull, TravellingSalesman])
@given(numbers=st.lists(st.integers(3, 9), min_size=1, max_size=5), seed=st.integers(0, 2**31))
def test_points_drawn_at_once_are_those_drawn_one_by_one(make, numbers, seed: int) -> None:
    task = make()
    at_once = task.several(np.random.default_rng(seed), numbers)
    random = np.random.default_rng(seed)
    one_by_one = [task.points(random, n) for n in numbers]
    assert all(map(np.array_equal, at_once, one_by_one))
    assert len(at_once) == len(one_by_one)


@given(
    rows=st.lists(st.lists(st.integers(5, 9), max_size=4), min_size=1, max_size=4),
    first=st.sampled_from([None, BEGIN]),
    last=st.sampled_from([None, END]),
    as_arrays=st.booleans(),
)
def test_marks_are_put_before_and_behind_each_sequence(rows, first, last, as_arrays) -> None:
    marked = [
        [*([] if first is None else [first]), *row, *([] if last is None else [last])]
        for row in rows
    ]
    given_rows = [np.array(row, np.int64) for row in rows] if as_arrays else rows
    filled, mask = padded(given_rows, first=first, last=last)
    longest = max(map(len, marked))
    assert filled.dtype == torch.int64
    assert filled.tolist() == [row + [PAD] * (longest - len(row)) for row in marked]
    inside = [[place < len(row) for place in range(longest)] for row in marked]
    assert (mask is None) == all(map(all, inside))
    assert mask is None or mask.tolist() == inside
