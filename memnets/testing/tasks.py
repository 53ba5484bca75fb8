"""Checks of tasks: batches as pure functions of seed, split and index, and their loaders."""

from __future__ import annotations

import copy
import itertools
import pickle
import random
from collections.abc import Callable, Iterable
from operator import eq
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from memnets.batches import Batch
from memnets.testing.elsewhere import elsewhere
from memnets.testing.laws import Draw, Laws, law

__all__ = ["check_task"]

_INDICES = st.sampled_from([1, 0, 2, 7, 100])
#: So many sequences with one answer are no chance: of bits, that is one split in 10^9.
_NO_CHANCE = 32


def _assert_same(one: Batch, other: Batch, what: str) -> None:
    for name, first, second in zip(Batch._fields, one, other, strict=True):
        if first is None or second is None:
            same = first is second
        else:
            # Equal bits; the law of shapes finds NaN.
            same = first.dtype == second.dtype and torch.equal(
                first.nan_to_num(), second.nan_to_num()
            )
        assert same, f"{name} of {what} differ"


def _differ(one: Batch, other: Batch) -> bool:
    try:
        _assert_same(one, other, "")
    except AssertionError:
        return True
    return False


def _steps(mask: Tensor | None, row: int) -> int | None:
    """Number of steps of a sequence up to the last one that is no padding; ``None`` = all."""
    return None if mask is None else int(mask[row].nonzero().max()) + 1


def _guessed(batch: Batch, guess: dict[int, Tensor]) -> bool:
    """Whether one answer for each step is right in all sequences; new steps add theirs to it."""
    # Where each answer has a reward, the rewards say what is right.
    right = batch.targets if batch.rewards is None else batch.rewards
    for step, answers in enumerate(right.unbind(1)):
        scored = answers if batch.target_mask is None else answers[batch.target_mask[:, step]]
        if len(scored) and (scored != guess.setdefault(step, scored[0])).any():
            return False
    return True


def _numpy_state() -> str:
    return str(np.random.get_state())  # noqa: NPY002 -- the old generator is the global one


class _TaskSubject(Laws):
    check = "check_task"

    def __init__(self, factory: Callable[..., Any], arguments: dict[str, Any]) -> None:
        super().__init__(factory, arguments)
        # Finished tasks by seed.
        self._ready: dict[int, Any] = {}

    def seeded(self, seed: int = 0) -> Any:
        """A new task, prepared as by the trainer."""
        task = self.make(copy.deepcopy({**self.arguments, "seed": seed}))
        task.prepare_data()
        task.setup("fit")
        task.setup("test")
        return task

    def task(self, seed: int = 0) -> Any:
        """A task for all laws that do not need a new one; making a task may take long."""
        if seed not in self._ready:
            self._ready[seed] = self.seeded(seed)
        return self._ready[seed]

    def index(self, split: str, index: int) -> int:
        """A number of a batch that a split has; those of the training have no end."""
        return index if split == "train" else index % self.task().batches(split)

    def splits(self) -> list[str]:
        return list(self.task().splits())

    @law("it can be made, from a seed too, and has batches", examples=1)
    def smoke(self, draw: Draw) -> None:
        for split in self.splits():
            batch = self.task().batch(split, 0)
            assert isinstance(batch, Batch), f"expected a Batch; got a {type(batch).__name__}"

    @law("a split that the task does not have is refused", examples=1)
    def unknown_split(self, draw: Draw) -> None:
        task = self.task()
        known = self.splits()
        # As misspelt names are: of the same letters, or shorter.
        misspelt = {"trian", "Val", "", known[-1] + "_", known[-1][:-1]} - {*known}
        for split, what in itertools.product(sorted(misspelt), ("batch", "batches")):
            said = None
            try:
                task.batch(split, 0) if what == "batch" else task.batches(split)
            except ValueError as error:
                said = str(error)
            assert said is not None, f"{what}({split!r}) gives a result; the splits are {known}"
            named = [name for name in known if name in said]
            assert named == known, f"the error of {what}({split!r}) names not all splits: {said}"

    @law("a batch is a pure function of seed, split and index", examples=4)
    def pure(self, draw: Draw) -> None:
        split = draw(st.sampled_from(self.splits()))
        index = self.index(split, draw(_INDICES))
        first = self.task().batch(split, index)
        # Batches made in between must not change it.
        for other in self.splits():
            self.task().batch(other, 0)
        _assert_same(self.task().batch(split, index), first, f"batch {index} of {split}, again")
        new = self.seeded().batch(split, index)
        _assert_same(new, first, f"batch {index} of {split}, of a new task")

    @law("a process with other hashes of texts makes the same batches", examples=1)
    def hashes(self, draw: Draw) -> None:
        there = elsewhere(_first_batches, self.factory, self.arguments)
        for split, batch in (there or {}).items():
            here = self.task().batch(split, 0)
            what = f"the first batch of {split}, in two processes"
            _assert_same(batch, here, f"{what} (hash() of a text and the order of a set differ)")

    @law("other seeds, splits and indices give other batches", examples=2)
    def different(self, draw: Draw) -> None:
        index = draw(_INDICES)
        batch = self.task().batch("train", index)
        assert _differ(self.task(1).batch("train", index), batch), "two seeds, the same batch"
        assert _differ(self.task().batch("train", index + 1), batch), "two indices, the same batch"
        validated = self.task().batch("val", self.index("val", index))
        assert _differ(validated, batch), "training and validation, the same"

    @law("no batch draws from the random generators of others", examples=2)
    def generators(self, draw: Draw) -> None:
        split = draw(st.sampled_from(self.splits()))
        task = self.seeded()
        states = torch.get_rng_state(), _numpy_state(), random.getstate()
        task.batch(split, 0)
        assert torch.equal(torch.get_rng_state(), states[0]), "torch's generator moved"
        assert _numpy_state() == states[1], "numpy's global generator moved"
        assert random.getstate() == states[2], "random's global generator moved"

    @law("batches are of the shapes, types and ranges that tasks have", examples=6)
    def shapes(self, draw: Draw) -> None:
        split, task = draw(st.sampled_from(self.splits())), self.task()
        batch = task.batch(split, self.index(split, draw(_INDICES)))
        rows = len(batch.source)
        expected = {"train": task.batch_size, "val": task.validation_batch_size}
        assert task.budgeted or split not in expected or rows == expected[split], (
            f"{split} has {rows} sequences, expected {expected[split]}"
        )
        assert batch.targets.shape[:2] == batch.inputs.shape[:2], (
            f"inputs {list(batch.inputs.shape)} and targets {list(batch.targets.shape)} must "
            f"have the same [B, T]"
        )
        assert batch.targets.shape[1], "targets have no step: there is nothing to answer"
        assert len(batch.inputs) == rows, f"{rows} sources, {len(batch.inputs)} answers"
        of_answer = batch.inputs.dim() == 2 and not task.fed_source
        fed = task.output_size if of_answer else task.input_size
        sizes = {"source": task.input_size, "inputs": fed, "targets": task.output_size}
        for name, size in sizes.items():
            of_tokens = not batch.source.is_floating_point()
            self._check_steps(name, getattr(batch, name), size, of_tokens)
        self._check_mask("source_mask", batch.source_mask, batch.source)
        self._check_mask("target_mask", batch.target_mask, batch.targets)
        self._check_places(batch)
        if batch.rewards is not None:
            shape = (*batch.targets.shape[:2], task.output_size)
            assert batch.rewards.shape == shape, (
                f"rewards {list(batch.rewards.shape)}, expected {list(shape)}"
            )

    def _check_steps(self, name: str, tensor: Tensor, size: int, of_tokens: bool) -> None:
        shape = list(tensor.shape)
        if not tensor.is_floating_point():
            assert tensor.dtype == torch.int64, f"{name} [B, T] are {tensor.dtype}, expected int64"
            # A step of a source or of inputs may be a sentence of tokens, or a fact.
            right = tensor.dim() == 2 or (tensor.dim() > 2 and name != "targets")
            assert right, f"{name} are whole numbers {shape}, expected [B, T]"
            assert (tensor >= 0).all(), f"{name} below 0"
            # With a source of vectors, tokens point at its steps, and may have any size.
            assert not of_tokens or (tensor < size).all(), (
                f"{name} has token {tensor.max()}, but there are {size}"
            )
        else:
            assert tensor.dtype == torch.float32, f"{name} are {tensor.dtype}, expected float32"
            # A source may be an image [B, height, width, channels].
            dims = (3, 4) if name == "source" else (3,)
            assert tensor.dim() in dims, f"{name} {shape}, expected [B, T, {size}]"
            assert tensor.shape[-1] == size, f"{name} {shape}, expected [B, T, {size}]"
            assert torch.isfinite(tensor).all(), f"{name} are not all finite"

    def _check_mask(self, name: str, mask: Tensor | None, steps: Tensor) -> None:
        if mask is None:
            return
        assert mask.dtype == torch.bool, f"{name} is {mask.dtype}, expected bool"
        assert mask.shape == steps.shape[:2], (
            f"{name} {list(mask.shape)}, expected {list(steps.shape[:2])}"
        )
        assert mask.any(1).all(), f"{name}: a sequence is padding alone"
        # Encoders take the length of a source from its mask.
        if name == "source_mask":
            assert (mask.long().diff(dim=1) <= 0).all(), f"{name}: padding before the last step"

    def _check_places(self, batch: Batch) -> None:
        both = {"source_places": batch.source, "target_places": batch.targets}
        given = {name: getattr(batch, name) for name in both}
        if all(places is None for places in given.values()):
            return
        for name, steps in both.items():
            places = given[name]
            assert places is not None, f"there are no {name} beside the others"
            assert places.dtype == torch.int64, f"{name} are {places.dtype}, expected int64"
            assert places.shape == steps.shape[:2], (
                f"{name} {list(places.shape)}, expected {list(steps.shape[:2])}"
            )
            assert (places >= 0).all(), f"{name} below 0"

    @law("answers differ: no constant guess is always right", examples=1)
    def answers(self, draw: Draw) -> None:
        task = self.task()
        for split in self.splits():
            count = _NO_CHANCE if split == "train" else min(_NO_CHANCE, task.batches(split))
            guess: dict[int, Tensor] = {}
            seen = 0
            # Of most tasks the first batch tells.
            for index in range(count):
                batch = task.batch(split, index)
                seen += len(batch.source)
                if not _guessed(batch, guess):
                    break
            else:
                assert seen < _NO_CHANCE or not guess, (
                    f"all {seen} sequences of {split} have the same answer at each step that is "
                    f"scored, at the first one {guess[min(guess)].tolist()}: a model learns it "
                    "without a look at the source"
                )

    @law("places of an answer follow from the places of its source", examples=1)
    def places(self, draw: Draw) -> None:
        task = self.task()
        seen: dict[str, list[int]] = {}
        for split in self.splits():
            for index in range(8 if split == "train" else min(2, task.batches(split))):
                batch = task.batch(split, index)
                if batch.places is None:
                    continue
                for row, (source, answer) in enumerate(zip(*batch.places, strict=True)):
                    read = str(source[: _steps(batch.source_mask, row)].tolist())
                    said = answer[: _steps(batch.target_mask, row)].tolist()
                    known = seen.setdefault(read, said)
                    # Lengths of answers may differ; what both have must not.
                    assert all(map(eq, known, said)), (
                        "places of an answer must follow from those of its source; sources with "
                        f"the places {read} have answers with {said} and with {known}"
                    )
                    seen[read] = max(known, said, key=len)

    @law("test sets have names of their own, and a loader each", examples=1)
    def test_sets(self, draw: Draw) -> None:
        task = self.task()
        names = task.test_names()
        assert names, "no test set"
        assert all(isinstance(name, str) and name for name in names), f"names {names}"
        assert len({*names, "train", "val"}) == len(names) + 2, f"a name comes twice: {names}"
        prefixes = [task.score_prefix(name) for name in names]
        assert len(set(prefixes)) == len(names), f"a prefix of scores comes twice: {prefixes}"
        loaders = task.test_dataloader()
        assert len(loaders) == len(names), f"{len(loaders)} loaders for the test sets {names}"
        for name, loader in zip(names, loaders, strict=True):
            count = task.batches(name)
            assert len(loader) == count, f"{name}: {len(loader)} batches, expected {count}"
            _assert_same(next(iter(loader)), task.batch(name, 0), f"the first batch of {name}")

    @law("loaders give the batches by their index", examples=1)
    def loaders(self, draw: Draw) -> None:
        task = self.task()
        training, validation = task.train_dataloader(), task.val_dataloader()
        assert len(training) == task.batches("train"), f"{len(training)} batches a pass"
        assert len(validation) == task.batches("val"), f"{len(validation)} batches of validation"
        for split, loader in (("train", training), ("val", validation)):
            for index, batch in zip(range(2), loader, strict=False):
                _assert_same(batch, task.batch(split, index), f"batch {index} of {split}")

    @law("a worker makes the same batches", examples=1)
    def workers(self, draw: Draw) -> None:
        task = self.task()
        # Workers that are not forked receive the task pickled.
        there = pickle.loads(pickle.dumps(task))
        for split in self.splits():
            _assert_same(there.batch(split, 0), task.batch(split, 0), f"{split}, after pickling")
        before, task.workers = task.workers, 1
        try:
            batches = iter(task.val_dataloader())
            _assert_same(next(batches), task.batch("val", 0), "the first batch of a worker")
        finally:
            task.workers = before


def _first_batches(factory: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Batch]:
    """The first batch of each split, as a new task makes it."""
    task = _TaskSubject(factory, arguments).seeded()
    return {split: task.batch(split, 0) for split in ["train", "val", *task.test_names()]}


def check_task(
    task: Callable[..., Any],
    *,
    leave_out: Iterable[str] = (),
    max_examples: int | None = None,
    **arguments: Any,
) -> None:
    """Check that a task keeps every law of tasks.

    A batch is a pure function of seed, split and index, and uses no global random generator.
    Batches have the right shapes, types, ranges and masks. Places of an answer
    (:class:`~memnets.batches.Places`) follow from those of its source, so that they tell nothing of
    what is to be answered. Answers differ, in each split of 32 sequences or more: one that never
    changes, where it is scored, is learned without a look at the source. Test sets have names and
    loaders. A worker makes the same batches, and so does a process in which texts have other
    hashes; it is started once, in some seconds, for all checks (``leave_out=["hashes"]`` does
    without), and skipped where it cannot import the task.

    The check takes as long as about 50 batches of each split, so use small ones.

    Args:
        task: class of the task, or a function that makes it; it must take ``seed``.
        leave_out: names of laws to leave out, such as ``different`` for a task with a single batch;
            the error for an unknown name lists them all.
        max_examples: most examples for each law; there are few in any case.
        **arguments: arguments for ``task``, besides ``seed``.

    Raises:
        AssertionError: a law does not hold; the message describes each failure.
        TypeError: the first argument is not a class or function that makes the task.
        ValueError: ``leave_out`` names an unknown law.

    Example:
        ``check_task(Copying, width=3, max_length=5, validation_batch_size=4)``
    """
    _TaskSubject(task, arguments).hold(max_examples, leave_out)
