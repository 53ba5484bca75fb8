"""Base class for tasks: batches as pure functions of (seed, split, index), and their loaders."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import signal
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from types import FrameType
from typing import Any, ClassVar, TypeVar

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, SequentialSampler

from memnets.batches import Batch, Curves, check_batch
from memnets.checks import check_positive
from tasks.limits import check_room
from tasks.text import read_lines

__all__ = ["Array", "Items", "Task", "by_name", "check_range", "check_texts", "renamed"]

logger = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]
Sizes = TypeVar("Sizes")

#: Upper bounds that no useful run reaches. They catch slips of the keyboard before memory or time
#: runs out.
MOST_BATCHES = 10**9
MOST_VALIDATED = 10**6
MOST_WORKERS = 1024
#: torch accepts seeds below this number.
SEEDS = 2**64


class Items(list[Any]):
    """A user's own inputs from a file.

    Args:
        items: the inputs.
        places: where each of them stands, in words, for an error.
    """

    def __init__(self, items: Iterable[Any], places: Iterable[str]) -> None:
        super().__init__(items)
        self.places = list(places)


def check_texts(items: Sequence[Any], first: int, what: str) -> None:
    """Check that a user's own inputs are texts.

    Args:
        items: the inputs.
        first: number of the first, for an error.
        what: a word for one of them, for an error.

    Raises:
        ValueError: one is not; the message begins with its number.
    """
    for number, item in enumerate(items, first):
        if not isinstance(item, str):
            raise ValueError(f"item {number}: expected {what}; got {type(item).__name__}")


class Task(lightning.LightningDataModule, ABC):
    """Base class for sources of batches.

    Batch ``i`` of a split is the same on every machine, in every worker and after every resume. So
    training data is endless, processes share it out by index, and no iterator has to be saved.

    :meth:`batch` and :meth:`batches` of every task, also of your own, refuse a split that is not
    one of :meth:`splits`.

    Args:
        batch_size: number of sequences in a training batch, at least 1.
        epoch_batches: number of training batches between two validations, at least 1.
        validation_batches: number of batches in the validation set, at least 1.
        validation_batch_size: number of sequences in a validation batch, at least 1.
        workers: number of processes that make batches ahead of time, from 0 to 1024. By default one
            makes the training batches of a task whose batches take long
            (:attr:`slow_batches`), where a second core is free for it; else none.
        seed: seed of the data; on the command line it follows ``seed_everything``.

    Raises:
        ValueError: a number is out of its range, or a batch would be larger than
            :func:`tasks.limits.limit`.
    """

    #: Width of an input vector; the number of tokens for tokens.
    input_size: int
    #: Width of a target vector; the number of tokens for tokens.
    output_size: int
    #: Whether a training batch takes a notable part of a training step to make, such as a search
    #: for tours; then a process makes them ahead of time by default.
    slow_batches: ClassVar[bool] = False
    #: Whether a batch holds a budget of tokens, and so any number of sequences.
    budgeted: ClassVar[bool] = False
    #: Whether inputs that are tokens are those of the source, as where answers are labels; else
    #: they are those of the answer, one step late.
    fed_source: ClassVar[bool] = False
    #: Whether all tasks of this class have their lengths and the names of their test sets from the
    #: same settings, so that what a config schedules for one of them fits the others.
    alike: ClassVar[bool] = False

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        # Here, so that no task can forget it: from a misspelt name most would make a batch.
        for name in ("batch", "batches"):
            if name in vars(cls):
                setattr(cls, name, _of_known_split(vars(cls)[name]))

    def __init__(
        self,
        batch_size: int = 16,
        epoch_batches: int = 100,
        validation_batches: int = 5,
        validation_batch_size: int = 100,
        workers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive(
            batch_size=batch_size,
            epoch_batches=epoch_batches,
            validation_batches=validation_batches,
            validation_batch_size=validation_batch_size,
        )
        if (workers or 0) < 0 or seed < 0:
            raise ValueError(f"workers and seed must be at least 0; got {workers} and {seed}")
        if (workers or 0) > MOST_WORKERS or seed >= SEEDS:
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
            sizes: dimensions of the largest array for one sequence of training or validation.
            tested: for each test set, the sequences of a batch, then the same dimensions.

        Raises:
            ValueError: a batch would be larger.
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

        Raises:
            ValueError: the task has no such split.
        """

    @abstractmethod
    def test_names(self) -> list[str]:
        """Names of the test sets, in the order of the test loaders."""

    def splits(self) -> list[str]:
        """Names of all splits: ``train``, ``val`` and :meth:`test_names`.

        Override it for a task that makes batches of others too, such as a set of hard examples:
        these are neither validated nor tested.
        """
        return ["train", "val", *self.test_names()]

    def check_split(self, split: str) -> None:
        """Check that the task has a split.

        Raises:
            ValueError: it has none of this name.
        """
        # Of the class: a task may have data in an attribute of this name.
        method = type(self).splits
        splits: list[str] = list(method(self) if callable(method) else Task.splits(self))
        if split not in splits:
            raise ValueError(
                f"expected a split of {type(self).__name__}: {', '.join(splits[:-1])} or "
                f"{splits[-1]}; got {split}"
            )

    def score_prefix(self, name: str) -> str:
        """Prefix of the names of a test set's scores.

        The default is ``test/<name>/``, or ``test/`` for a set named ``test``.

        Args:
            name: one of :meth:`test_names`.
        """
        return "test/" if name == "test" else f"test/{name}/"

    def batches(self, split: str) -> int:
        """Number of batches of a split; for ``train``, the number between two validations.

        Raises:
            ValueError: the task has no such split.
        """
        self.check_split(split)
        return {"train": self.epoch_batches, "val": self.validation_batches}.get(split, 1)

    def measure(self, split: str, answers: list[Tensor]) -> dict[str, float]:
        """Scores of a whole test set that are not means over its sequences, such as BLEU.

        Args:
            split: one of :meth:`test_names`; ``val`` too, for models that ask for it there.
            answers: a model's answers to each batch of the set, or to its first batches, in the
                form of the targets.

        Returns:
            Scores by name; empty by default.
        """
        return {}

    def notes(self) -> list[str]:
        """Lines to print under the table of a test, such as the settings of a score."""
        return []

    def texts(self, split: str, answers: list[Tensor]) -> list[tuple[str, str, str]]:
        """Sources, references and answers as text, for tasks with words.

        Args:
            split: one of :meth:`test_names`.
            answers: a model's answers to each batch of the set, or to its first batches, in the
                form of the targets.

        Returns:
            (source, reference, answer) for each sequence, in the order of the batches; empty by
            default.
        """
        return []

    def labels(self, batch: Batch, row: int) -> tuple[list[str], list[str]] | None:
        """Words for the axes of a picture, for tasks with words.

        Args:
            batch: a batch of this task.
            row: number of a sequence in the batch.

        Returns:
            A word for each step of the source and for each target, without padding; ``None``, the
            default, if the steps have no names.
        """
        return None

    def asked_words(self, batch: Batch, row: int) -> list[list[str]]:
        """Words of each input of an answer, for tasks whose inputs are sentences.

        Args:
            batch: a batch of this task.
            row: number of a sequence in the batch.

        Returns:
            A word for each step of each sentence; empty, the default, if inputs are no sentences.
        """
        return []

    def drawing(
        self, batch: Batch, row: int, tokens: Tensor
    ) -> tuple[Array, list[Array], str] | None:
        """Drawing of an answer, for tasks whose source is points in a plane.

        Args:
            batch: a batch of this task.
            row: number of a sequence in the batch.
            tokens: an answer, ``[T]``; tokens behind its end mark do not count.

        Returns:
            The points of the source, ``[n, 2]``; the lines of the answer, ``[k, 2]`` each; and a
            verdict in a word or two. ``None``, the default, for tasks without drawings.
        """
        return None

    def items(self, path: str) -> list[Any]:
        """Read a user's own inputs from a file, for ``memnets predict``.

        Args:
            path: of the file; the default takes each line of a text in UTF-8, plain or gzip.

        Returns:
            Inputs for :meth:`asked`, at least one; :class:`Items`, if errors are to name the place
            of an input in the file.

        Raises:
            ValueError: the file is missing, empty or damaged.
        """
        lines = read_lines(path)
        return Items(lines, (f"{path}, line {number + 1}" for number in range(len(lines))))

    def asked(self, items: Sequence[Any], first: int = 1) -> Batch:
        """A batch that asks a model about a user's own inputs.

        Args:
            items: the inputs, at least one.
            first: number of the first input, for an error.

        Returns:
            Sources and inputs; the targets only have the right shape.

        Raises:
            TypeError: the task, as by default, has no inputs of a user's own.
            ValueError: an input is of another form; the message begins with its number.
        """
        raise TypeError(f"{type(self).__name__} cannot read inputs of your own; it makes its data")

    def says(self, batch: Batch, answers: Tensor) -> list[str]:
        """Answers in words, for a user.

        Args:
            batch: the result of :meth:`asked`.
            answers: a model's answers to it, in the form of the targets.

        Returns:
            A text for each row, in one line.
        """
        raise TypeError(f"{type(self).__name__} has no words for its answers")

    def curves(self, split: str, answers: Tensor, count: int) -> list[Curves]:
        """Panels of curves that show the answers to a set, for tasks with curves.

        Args:
            split: ``val`` or one of :meth:`test_names`.
            answers: to the first batch of the set or to its first sequences, in the form of the
                targets.
            count: most panels.

        Returns:
            The panels; empty by default.
        """
        return []

    def images(self, batch: Batch, row: int) -> tuple[Tensor, Tensor] | None:
        """Images of an episode, for tasks with images.

        Args:
            batch: a batch of this task.
            row: number of an episode in the batch.

        Returns:
            An image for each example, ``[S, height, width]`` in ``[0, 1]``, and for each query,
            ``[T, height, width]``; ``None``, the default, for tasks without images.
        """
        return None

    def as_images(self, answers: Tensor) -> Tensor | None:
        """Answers as images, for tasks whose answers are images.

        Args:
            answers: in the form of the targets.

        Returns:
            ``[B, height, width, channels]`` in ``[0, 1]``, 1 channel for greys or 3 for colours;
            ``None``, the default, for other tasks.
        """
        return None

    def sequences(self, split: str, tested: int) -> int:
        """Number of sequences in a batch of a split.

        Args:
            split: ``train``, ``val`` or a test set.
            tested: number of sequences in a batch of the test set.
        """
        sizes = {"train": self.batch_size, "val": self.validation_batch_size}
        return sizes.get(split, tested)

    def random(self, split: str, index: int) -> np.random.Generator:
        """The random generator of a batch; the same for the same seed, split and index."""
        # A checksum, not ``hash``: Python salts the hash of a string in each process.
        return np.random.default_rng([self.seed, zlib.crc32(split.encode()), index])

    def train_dataloader(self) -> DataLoader[Batch]:
        """Loader of the training data: new batches in each epoch."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Batch]:
        """Loader of the validation set."""
        return self._loader("val")

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        """Loaders of the test sets, in the order of :meth:`test_names`."""
        return [self._loader(name) for name in self.test_names()]

    def predict_dataloader(self) -> list[DataLoader[Batch]]:
        """Loaders of the test sets."""
        return self.test_dataloader()

    def loader_workers(self, split: str) -> int:
        """Number of processes that make the batches of a split ahead of time."""
        if self.workers is not None:
            return self.workers
        # Only a fork starts at once: other processes would first import torch, for seconds.
        spare = cores() > 1 and multiprocessing.get_start_method() == "fork"
        return int(self.slow_batches and split == "train" and spare)

    def _loader(self, split: str) -> DataLoader[Batch]:
        batches = _Batches(self, split)
        workers = self.loader_workers(split)
        return _Loader(
            batches,
            sampler=_Indices(batches, endless=split == "train"),
            # An item is a whole batch already.
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            # From pinned memory, a GPU fetches a batch while the host goes on.
            pin_memory=_for_cuda(self.trainer),
            # A generator of its own: an iterator otherwise draws a seed from the global one, and a
            # resumed run would differ.
            generator=torch.Generator().manual_seed(self.seed),
            worker_init_fn=_outlive,
        )


def _of_known_split(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a task that first checks the split that it is called with."""

    @wraps(method)
    def checked(self: Task, *arguments: Any, **named: Any) -> Any:
        # The first argument, by whatever name a task has for it.
        for split in itertools.islice(itertools.chain(arguments, named.values()), 1):
            self.check_split(split)
        return method(self, *arguments, **named)

    return checked


def _for_cuda(trainer: lightning.Trainer | None) -> bool:
    return trainer is not None and trainer.strategy.root_device.type == "cuda"


def _outlive(worker: int) -> None:
    """Let a process that makes batches outlive the first signal of a scheduler, or of Ctrl-C.

    All processes of a job get it, and the training needs batches until it has come to a step at
    which it can be saved. The second one ends the process, as does the training.
    """

    def once(signum: int, frame: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_DFL)

    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), once)


class _Batches(Dataset[Batch]):
    def __init__(self, task: Task, split: str) -> None:
        self.task = task
        self.split = split

    def __len__(self) -> int:
        return self.task.batches(self.split)

    def __getitem__(self, index: int) -> Batch:
        batch = self.task.batch(self.split, index)
        check_batch(batch)
        return batch


class _Indices(DistributedSampler[int], SequentialSampler):
    """Numbers of the batches for this process, of a set or of the endless training data.

    Processes share out the training data: of each round of batches, every process takes one. They
    all read validation and test sets whole, and the model knows which of their batches it answers.

    Lightning leaves samplers of these two kinds as they are: it puts no other one in the place of
    the first where there are several processes, nor of the second for ``overfit_batches``.
    """

    def __init__(self, batches: _Batches, endless: bool) -> None:
        SequentialSampler.__init__(self, batches)
        self.task = batches.task
        self.batches = len(batches)
        self.endless = endless
        # Before this number of batches of this process, all processes have taken so many.
        self.counted, self.before = 0, 0

    def _share(self) -> tuple[int, int]:
        trainer = self.task.trainer
        if trainer is None or not self.endless:
            return 0, 1
        return trainer.global_rank, trainer.world_size

    def _taken(self) -> tuple[int, int]:
        """Numbers of training batches so far: of this process, and of all processes."""
        # The trainer counts those of a process, also across a resume.
        trainer: Any = self.task.trainer
        own = 0 if trainer is None else trainer.fit_loop.epoch_loop.batch_progress.total.ready
        return own, self.before + (own - self.counted) * self._share()[1]

    def __len__(self) -> int:
        # The same number for each process: one with more batches would wait forever for the
        # others' gradients.
        _, processes = self._share()
        return -(-self.batches // processes)

    def __iter__(self) -> Iterator[int]:
        rank, processes = self._share()
        if not self.endless:
            return iter(range(self.batches))
        # The numbers go on without an end: the trainer itself ends an epoch.
        trainer: Any = self.task.trainer
        own, taken = self._taken()
        if trainer is not None and trainer.overfit_batches > 0:
            # ``overfit_batches`` repeats the first batches of an epoch: a share or a number.
            few = trainer.overfit_batches
            most = int(few * len(self)) if isinstance(few, float) else min(few, len(self))
            taken = own % max(1, most) * processes
        return itertools.count(taken + rank, processes)

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint, after which any number of processes can go on."""
        if not self.endless:
            return {}
        own, taken = self._taken()
        return {"own": own, "taken": taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the batches of a checkpoint.

        Raises:
            ValueError: the state is damaged.
        """
        if not state:  # of a version that kept none: the number of processes is the same
            return
        numbers = [state.get("own"), state.get("taken")]
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError(f"expected the numbers of batches of a checkpoint; got {numbers}")
        self.counted, self.before = state["own"], state["taken"]


class _Loader(DataLoader[Batch]):
    """A loader that can resume in the middle of an epoch.

    Lightning asks a loader for its state, and saves that of the first of several processes.
    """

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self.sampler.state_dict()  # type: ignore[attr-defined]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.load_state_dict(state)  # type: ignore[attr-defined]


def cores() -> int:
    """Number of processor cores that this process may use."""
    # Not on every system can a process be bound to some cores.
    bound = getattr(os, "sched_getaffinity", None)
    return len(bound(0)) if bound else os.cpu_count() or 1


def by_name(sets: Iterable[tuple[str, Sizes]]) -> dict[str, Sizes]:
    """Test sets by name, in their order.

    Args:
        sets: name and sizes of each set.

    Raises:
        ValueError: a name comes twice; one set would replace the other.
    """
    named: dict[str, Sizes] = {}
    for name, sizes in sets:
        if name in named:
            raise ValueError(f"each test set must be given once; got {name} twice")
        named[name] = sizes
    return named


def renamed(old: str, given: Any, new: str, value: Any, usual: Any) -> Any:
    """Value of a setting with a new name, if it may still come under its old one.

    Args:
        old: the old name.
        given: the value under the old name; ``None`` = none.
        new: the new name.
        value: the value under the new name.
        usual: the default under the new name.

    Returns:
        The value under the old name, with a warning, unless the new name has a value that is not
        its default.
    """
    if given is None:
        return value
    logger.warning("%s is now called %s; the old name will go", old, new)
    # From YAML, pairs may be lists or tuples.
    return given if list(map(list, value)) == list(map(list, usual)) else value


def check_range(name: str, low: int, high: int, least: int) -> None:
    """Check that ``least <= low <= high``.

    Args:
        name: name of the setting without ``min_`` and ``max_``.
        low: value of ``min_<name>``.
        high: value of ``max_<name>``.
        least: lower bound.

    Raises:
        ValueError: a number is out of its range.
    """
    if not least <= low <= high:
        raise ValueError(
            f"min_{name} and max_{name} must be whole numbers with "
            f"{least} <= min_{name} <= max_{name}; got {low} and {high}"
        )
