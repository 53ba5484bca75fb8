"""What all tasks share: batches as pure functions of (seed, split, index), and their loaders."""

from __future__ import annotations

import itertools
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from memnets.batches import Batch
from memnets.core import check_positive
from memnets.viewing.plots import Curves

__all__ = ["Array", "Task", "by_name", "check_range"]

Array = np.ndarray[Any, Any]
Sizes = TypeVar("Sizes")


class Task(lightning.LightningDataModule, ABC):
    """A source of batches.

    Batch ``i`` of a split is the same on every machine, in every worker and after every resume, so
    training data is endless, is shared out by index, and needs no saved iterator.

    Args:
        batch_size: sequences in a training batch, at least 1.
        epoch_batches: training batches between two validations, at least 1.
        validation_batches: batches in the validation set, at least 1.
        validation_batch_size: sequences in a validation batch, at least 1.
        workers: processes that make batches ahead of time, at least 0.
        seed: chooses the data; from the command line it follows ``seed_everything``.
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
        self.batch_size = batch_size
        self.epoch_batches = epoch_batches
        self.validation_batches = validation_batches
        self.validation_batch_size = validation_batch_size
        self.workers = workers
        self.seed = seed

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
            answers: what a model answered to each batch of the set, in the form of the targets.

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
            answers: what a model answered to each batch of the set, in the form of the targets.

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

    def curves(self, split: str, answer: Callable[[], Tensor], count: int) -> list[Curves]:
        """What to draw of answers, where a task draws curves.

        Args:
            split: one of :meth:`test_names`.
            answer: gives what a model answers to the first batch of the set, in the form of the
                targets.
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
        return _Loader(
            _Batches(self, split),
            sampler=_Indices(self, self.batches(split), endless=split == "train"),
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

    def __getitem__(self, index: int) -> Batch:
        return self.task.batch(self.split, index)


class _Indices(Sampler[int]):
    """Which batches this process is to have, of a set or of the endless training data."""

    def __init__(self, task: Task, batches: int, endless: bool) -> None:
        self.task = task
        self.batches = batches
        self.endless = endless

    def _share(self) -> tuple[int, int]:
        trainer = self.task.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)

    def __len__(self) -> int:
        rank, processes = self._share()
        return len(range(rank, self.batches, processes))

    def __iter__(self) -> Iterator[int]:
        rank, processes = self._share()
        if not self.endless:
            return iter(range(rank, self.batches, processes))
        # Where training stands is the trainer's to say, after a resume too. The trainer counts
        # until an epoch is full.
        trainer = self.task.trainer
        done = 0 if trainer is None else trainer.fit_loop.epoch_loop.batch_progress.total.ready
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
