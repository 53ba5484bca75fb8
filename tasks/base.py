"""What all tasks share: batches as pure functions of (seed, split, index), and their loaders."""

from __future__ import annotations

import itertools
import logging
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from memnets.batches import Batch, Curves
from memnets.core import check_positive
from tasks.limits import check_room

__all__ = ["Array", "Task", "by_name", "check_range", "renamed"]

logger = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]
Sizes = TypeVar("Sizes")

#: More batches than anybody waits for, in training and in validation, and more processes than any
#: machine has processors.
MOST_BATCHES = 10**9
MOST_VALIDATED = 10**6
MOST_WORKERS = 1024
#: Seeds of torch end here.
SEEDS = 2**64


class Task(lightning.LightningDataModule, ABC):
    """A source of batches.

    Batch ``i`` of a split is the same on every machine, in every worker and after every resume, so
    training data is endless, is shared out by index, and needs no saved iterator.

    Args:
        batch_size: sequences in a training batch, at least 1.
        epoch_batches: training batches between two validations, at least 1.
        validation_batches: batches in the validation set, at least 1.
        validation_batch_size: sequences in a validation batch, at least 1.
        workers: processes that make batches ahead of time, from 0 to 1024.
        seed: chooses the data; from the command line it follows ``seed_everything``.

    Raises:
        ValueError: a number is out of its range, or a batch would be larger than
            :func:`tasks.limits.limit`.
    """

    #: Width of an input vector; for tokens, how many there are.
    input_size: int
    #: Width of a target vector; for tokens, how many there are.
    output_size: int

    def __init__(
        self,
        batch_size: int = 16,
        epoch_batches: int = 100,
        validation_batches: int = 5,
        validation_batch_size: int = 100,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive(
            batch_size=batch_size,
            epoch_batches=epoch_batches,
            validation_batches=validation_batches,
            validation_batch_size=validation_batch_size,
        )
        if workers < 0 or seed < 0:
            raise ValueError(f"workers and seed must be at least 0; got {workers} and {seed}")
        if workers > MOST_WORKERS or seed >= SEEDS:
            raise ValueError(
                f"workers must be at most {MOST_WORKERS} and seed below 2^64; "
                f"got {workers} and {seed}"
            )
        for name, batches, most in (
            ("epoch_batches", epoch_batches, MOST_BATCHES),
            ("validation_batches", validation_batches, MOST_VALIDATED),
        ):
            if batches > most:
                raise ValueError(f"{name} must be at most {most:,}; got {batches:,}")
        self.batch_size = batch_size
        self.epoch_batches = epoch_batches
        self.validation_batches = validation_batches
        self.validation_batch_size = validation_batch_size
        self.workers = workers
        self.seed = seed

    def check_room(self, *sizes: int, tested: Sequence[tuple[int, ...]] = ()) -> None:
        """Check that no batch is larger than :func:`tasks.limits.limit`.

        Args:
            sizes: of the largest array of a sequence of training or validation.
            tested: the same for each test set, after how many sequences a batch of it has.

        Raises:
            ValueError: one is.
        """
        check_room("a training batch", self.batch_size, *sizes)
        check_room("a validation batch", self.validation_batch_size, *sizes)
        for each in tested:
            check_room("a batch of a test set", *each)

    @abstractmethod
    def batch(self, split: str, index: int) -> Batch:
        """Batch number ``index`` of a split.

        Args:
            split: ``train``, ``val`` or one of :meth:`test_names`.
            index: at least 0.
        """

    @abstractmethod
    def test_names(self) -> list[str]:
        """Names of the test sets, in the order of the test loaders."""

    def score_prefix(self, name: str) -> str:
        """What the names of a test set's scores begin with.

        ``test/<name>/``, or ``test/`` for a set that is named ``test``, if a task does not say
        otherwise.

        Args:
            name: one of :meth:`test_names`.
        """
        return "test/" if name == "test" else f"test/{name}/"

    def batches(self, split: str) -> int:
        """How many batches a split has; of ``train``, how many come between two validations."""
        return {"train": self.epoch_batches, "val": self.validation_batches}.get(split, 1)

    def measure(self, split: str, answers: list[Tensor]) -> dict[str, float]:
        """Scores of a whole test set that are no mean over its sequences, such as BLEU.

        Args:
            split: one of :meth:`test_names`.
            answers: what a model answered to each batch of the set, or to the first of them alone,
                in the form of the targets.

        Returns:
            Name -> score; none if a task does not say otherwise.
        """
        return {}

    def notes(self) -> list[str]:
        """Lines to print under the table of a test, such as how a score was computed."""
        return []

    def texts(self, split: str, answers: list[Tensor]) -> list[tuple[str, str, str]]:
        """What was asked, what should come and what came, where a task has words.

        Args:
            split: one of :meth:`test_names`.
            answers: what a model answered to each batch of the set, or to the first of them alone,
                in the form of the targets.

        Returns:
            (source, reference, answer) for each sequence, in the order of the batches; nothing if
            a task does not say otherwise.
        """
        return []

    def labels(self, batch: Batch, row: int) -> tuple[list[str], list[str]] | None:
        """Words for the axes of a picture, where a task has words.

        Args:
            batch: one of this task's.
            row: which of its sequences.

        Returns:
            A word for each step of the source and for each of the targets, padding left out;
            ``None`` if the steps have no names.
        """
        return None

    def drawing(
        self, batch: Batch, row: int, tokens: Tensor
    ) -> tuple[Array, list[Array], str] | None:
        """What to draw of an answer in the plane of its source, where a task has one.

        Args:
            batch: one of this task's.
            row: which of its sequences.
            tokens: an answer, ``[T]``; anything may follow its end mark.

        Returns:
            The points of the source, ``[n, 2]``; lines that stand for the answer, ``[k, 2]`` each;
            and how good it is, in a word or two. ``None`` if answers are no drawing.
        """
        return None

    def curves(self, split: str, answers: Tensor, count: int) -> list[Curves]:
        """Curves to draw of the answers to a test set.

        Args:
            split: one of :meth:`test_names`.
            answers: to the first batch of the set, in the form of the targets.
            count: of panels, at most.

        Returns:
            Panels; none if a task does not say otherwise.
        """
        return []

    def images(self, batch: Batch, row: int) -> tuple[Tensor, Tensor] | None:
        """What to show of an episode, where a task has images.

        Args:
            batch: one of this task's.
            row: which of its episodes.

        Returns:
            An image for each example, ``[S, height, width]`` in ``[0, 1]``, and for each query,
            ``[T, height, width]``; ``None`` if a task does not say otherwise.
        """
        return None

    def sequences(self, split: str, tested: int) -> int:
        """How many sequences a batch of ``train``, of ``val``, or else of a test set has.

        Args:
            split: one of them.
            tested: sequences of the test set.
        """
        sizes = {"train": self.batch_size, "val": self.validation_batch_size}
        return sizes.get(split, tested)

    def random(self, split: str, index: int) -> np.random.Generator:
        """The generator of random numbers that belongs to a batch."""
        return np.random.default_rng([self.seed, zlib.crc32(split.encode()), index])

    def train_dataloader(self) -> DataLoader[Batch]:
        """New batches in each epoch, as many as there are between two validations."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation set."""
        return self._loader("val")

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        """A loader for each test set."""
        return [self._loader(name) for name in self.test_names()]

    def predict_dataloader(self) -> list[DataLoader[Batch]]:
        """The test sets."""
        return self.test_dataloader()

    def _loader(self, split: str) -> DataLoader[Batch]:
        batches = _Batches(self, split)
        return _Loader(
            batches,
            sampler=_Indices(batches, endless=split == "train"),
            batch_size=None,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            # Its own, so that making an iterator draws nothing from the global generator.
            generator=torch.Generator().manual_seed(self.seed),
        )


class _Batches(Dataset[Batch]):
    def __init__(self, task: Task, split: str) -> None:
        self.task = task
        self.split = split

    def __len__(self) -> int:
        return self.task.batches(self.split)

    def __getitem__(self, index: int) -> Batch:
        return self.task.batch(self.split, index)


class _Indices(SequentialSampler):
    """Which batches this process is to have, of a set or of the endless training data.

    Processes share out the training data. A set they all have whole: scores, and what a task
    measures of all answers together, are then those of one process on each of them, however many
    batches there are.
    """

    def __init__(self, batches: _Batches, endless: bool) -> None:
        super().__init__(batches)
        self.task = batches.task
        self.batches = len(batches)
        self.endless = endless

    def _share(self) -> tuple[int, int]:
        trainer = self.task.trainer
        if trainer is None or not self.endless:
            return 0, 1
        return trainer.global_rank, trainer.world_size

    def __len__(self) -> int:
        # As many for each: one that had more would wait for the others for ever.
        _, processes = self._share()
        return -(-self.batches // processes)

    def __iter__(self) -> Iterator[int]:
        rank, processes = self._share()
        if not self.endless:
            return iter(range(self.batches))
        # Where training stands is the trainer's to say, after a resume too. The trainer counts
        # until an epoch is full.
        trainer: Any = self.task.trainer
        done = 0 if trainer is None else trainer.fit_loop.epoch_loop.batch_progress.total.ready
        if trainer is not None and trainer.overfit_batches > 0:
            # The same ones in each epoch; a share of them, or so many.
            few = trainer.overfit_batches
            done %= max(1, int(few * len(self)) if isinstance(few, float) else min(few, len(self)))
        return itertools.count(done * processes + rank, processes)


class _Loader(DataLoader[Batch]):
    """A loader that can go on in the middle of an epoch: its sampler asks the trainer where."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def by_name(sets: Iterable[tuple[str, Sizes]]) -> dict[str, Sizes]:
    """Test sets by their names, in their order.

    Args:
        sets: the name of each, and what sizes it has.

    Raises:
        ValueError: a name comes twice: of two sets, one would take the place of the other.
    """
    named: dict[str, Sizes] = {}
    for name, sizes in sets:
        if name in named:
            raise ValueError(f"each test set must be given once; got {name} twice")
        named[name] = sizes
    return named


def renamed(old: str, given: Any, new: str, value: Any, usual: Any) -> Any:
    """The value of a setting that had another name before.

    Args:
        old: the name that it had.
        given: what was given under that name; ``None`` = nothing.
        new: the name that it has.
        value: what it is under that name.
        usual: what it is there if nobody gives it.

    Returns:
        What was given under the old name, with a warning, unless the new one has a value that is
        not the usual one.
    """
    if given is None:
        return value
    logger.warning("%s is now called %s; the old name will go", old, new)
    return given if list(map(list, value)) == list(map(list, usual)) else value


def check_range(name: str, low: int, high: int, least: int) -> None:
    """Check that ``least <= low <= high``.

    Raises:
        ValueError: it is not so.
    """
    if not least <= low <= high:
        raise ValueError(
            f"min_{name} and max_{name} must be whole numbers with "
            f"{least} <= min_{name} <= max_{name}; got {low} and {high}"
        )
