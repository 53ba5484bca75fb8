"""Copy, repeat copy (Graves et al. 2014, sections 4.1 and 4.2), and reversal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from memnets.batches import Batch, with_places
from memnets.checks import check_positive
from tasks.base import Array, by_name, check_range
from tasks.vectors import SizedTask, random_bits, zeros_while_answering

__all__ = ["Copying", "RepeatCopying", "Reversing"]


class Copying(SizedTask):
    """Copying: repeat a sequence of random binary vectors after a flag (section 4.1).

    The source is ``[B, n + 1, width + 1]``: n vectors with 0 in the last channel, then the flag, 1
    in the last channel alone. The inputs during the answer are zeros. Targets are the n vectors,
    ``[B, n, width]``.

    Args:
        width: number of bits of a vector, at least 1.
        min_length: length of the shortest sequence, at least 1.
        max_length: length of the longest sequence of training and validation.
        mixed_lengths: whether each sequence of a training batch has a length of its own. One length
            for the batch needs no padding and is faster. Validation always mixes lengths; test sets
            never do.
        test_sets: test sets, pairs (length, number of sequences), named ``length_<n>``.
        settings: see :class:`~tasks.Task`.
    """

    def __init__(
        self,
        width: int = 8,
        min_length: int = 1,
        max_length: int = 20,
        mixed_lengths: bool = False,
        test_sets: Sequence[tuple[int, int]] = ((20, 100), (50, 100), (120, 100)),
        **settings: Any,
    ) -> None:
        named = by_name((f"length_{n}", (n, sequences)) for n, sequences in test_sets)
        super().__init__(named, mixed_lengths, **settings)
        check_positive(width=width)
        check_range("length", min_length, max_length, least=1)
        for length, sequences in test_sets:
            check_positive(test_length=length, test_sequences=sequences)
        self.check_room(
            max_length + 1, width + 1, tested=[(size, n + 1, width + 1) for n, size in test_sets]
        )
        self.width = width
        self.min_length = min_length
        self.max_length = max_length
        self.input_size = width + 1
        self.output_size = width

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or a test set."""
        random = self.random(split, index)
        (lengths,) = self.sizes(random, split, (self.min_length, self.max_length))
        bits = random_bits(random, lengths, self.width)
        flag = np.ones((len(lengths), 1), np.float32)
        said = self.answer(bits, lengths)
        batch = zeros_while_answering(_source(bits, lengths, flag), said, lengths + 1, lengths)
        moved = self._coupled()
        if moved is None:
            return batch
        # A vector of the answer has the place of the vector that it repeats, and the flag the last.
        places = np.tile(np.arange(1, batch.source.shape[1] + 1), (len(lengths), 1))
        return with_places(batch, list(zip(places, moved(lengths) + 1, strict=True)))

    def _coupled(self) -> Callable[[Array], Array] | None:
        """The method :meth:`coupling`, if it is of the class that says the answers, or below it."""

        def owner(name: str) -> type:
            return next(each for each in type(self).__mro__ if name in vars(each))

        known = all(issubclass(owner("coupling"), owner(name)) for name in ("answer", "batch"))
        return self.coupling if known else None

    def answer(self, bits: Array, lengths: Array) -> Array:
        """The right answers, ``[B, n, width]``.

        Args:
            bits: the sequences, ``[B, n, width]``, 0 behind the end of each.
            lengths: their lengths, ``[B]``.
        """
        return bits

    def coupling(self, lengths: Array) -> Array:
        """The step of the source that each step of the answer repeats, ``[B, n]``.

        It gives the steps their places (:class:`memnets.batches.Places`). A subclass with other
        answers gives places if it overrides this too.

        Args:
            lengths: lengths of the sequences, ``[B]``, of which n is the greatest.
        """
        return np.tile(np.arange(lengths.max()), (len(lengths), 1))


class Reversing(Copying):
    """Reversal: repeat a sequence of random binary vectors from the last to the first.

    A stack has the vectors in this order (Grefenstette et al. 2015, section 4.1, on symbols).
    Everything else is as in :class:`Copying`.
    """

    def answer(self, bits: Array, lengths: Array) -> Array:
        """The sequences in reverse, ``[B, n, width]``, 0 behind the end of each."""
        return np.take_along_axis(bits, self.coupling(lengths)[..., None], 1)

    def coupling(self, lengths: Array) -> Array:
        """See :meth:`Copying.coupling`; behind the end of a sequence stands its own step."""
        steps = np.arange(lengths.max())
        backward: Array = np.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
        return backward


class RepeatCopying(SizedTask):
    """Repeat copying: repeat a sequence of random binary vectors a given number of times.

    Graves et al. 2014, section 4.2. The source is ``[B, n + 1, width + 2]``: n vectors, then a step
    with the flag in the last channel but one and, in the last, the number of repeats, normalised to
    mean 0 and variance 1 over the range of training. With ``marks`` it is
    ``[B, n + repeats + 1, width + 2]``: n vectors, then a *mark* for each repeat, a step with 1 in
    the last channel but one alone, then the flag, 1 in the last channel alone. So a machine can
    count by places, and no number is beyond those of the training. The inputs during the answer are
    zeros. Targets are ``[B, n * repeats + 1, width + 1]``: the last step is the end marker, 1 in
    the last channel alone.

    Args:
        width: number of bits of a vector, at least 1.
        min_length: length of the shortest sequence, at least 1.
        max_length: length of the longest sequence of training and validation.
        min_repeats: fewest repeats, at least 1.
        max_repeats: most repeats of training and validation.
        mixed_lengths: whether each sequence of a training batch has a length and repeats of its
            own. Validation always mixes them; test sets never do.
        training_repeats: most repeats of training at present, as a curriculum sets it;
            ``max_repeats`` by default.
        test_sets: test sets, triples (length, repeats, number of sequences), named
            ``length_<n>_repeats_<r>``.
        marks: whether the number of repeats is given by so many marks, and not as a number.
        settings: see :class:`~tasks.Task`.
    """

    def __init__(
        self,
        width: int = 8,
        min_length: int = 1,
        max_length: int = 10,
        min_repeats: int = 1,
        max_repeats: int = 10,
        mixed_lengths: bool = False,
        training_repeats: int | None = None,
        test_sets: Sequence[tuple[int, int, int]] = (
            (10, 10, 100),
            (20, 10, 100),
            (10, 20, 100),
            (20, 20, 100),
        ),
        marks: bool = False,
        **settings: Any,
    ) -> None:
        named = by_name(
            (f"length_{n}_repeats_{r}", (n, r, sequences)) for n, r, sequences in test_sets
        )
        super().__init__(named, mixed_lengths, **settings)
        check_positive(width=width)
        check_range("length", min_length, max_length, least=1)
        check_range("repeats", min_repeats, max_repeats, least=1)
        for length, repeats, sequences in test_sets:
            check_positive(test_length=length, test_repeats=repeats, test_sequences=sequences)
        # Of one vector, the marks may be a step more than the answer.
        self.check_room(
            max_length * max_repeats + 2,
            width + 2,
            tested=[(size, n * r + 2, width + 2) for n, r, size in test_sets],
        )
        self.width = width
        self.marks = marks
        self.min_length = min_length
        self.max_length = max_length
        self.min_repeats = min_repeats
        self.max_repeats = max_repeats
        self.training_repeats = training_repeats
        self.input_size = width + 2
        self.output_size = width + 1

    @property
    def training_repeats(self) -> int | None:
        """Most repeats of training at present; ``None`` = ``max_repeats``."""
        return self._training_repeats

    @training_repeats.setter
    def training_repeats(self, most: int | None) -> None:
        if most is not None and not self.min_repeats <= most <= self.max_repeats:
            raise ValueError(
                f"training_repeats must be from min_repeats = {self.min_repeats} to max_repeats = "
                f"{self.max_repeats}; got {most}"
            )
        self._training_repeats = most

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or a test set."""
        random = self.random(split, index)
        # A curriculum changes the training alone: validation stays comparable throughout.
        most = self.training_repeats if split == "train" else None
        repeats_range = self.min_repeats, self.max_repeats if most is None else most
        lengths, repeats = self.sizes(
            random, split, (self.min_length, self.max_length), repeats_range
        )
        size = len(lengths)
        bits = random_bits(random, lengths, self.width)
        flag = np.ones((size, 1), np.float32)
        if self.marks:
            read = lengths + repeats
            source = _source(_marked(bits, lengths, repeats), read, flag)
        else:
            read = lengths
            number = self.normalise(repeats).astype(np.float32)
            source = _source(bits, read, np.stack([flag[:, 0], number], -1))
        ends = lengths * repeats
        steps = np.arange(ends.max() + 1)
        # Step t of the answer is vector t mod n; steps behind an answer's end are set to 0 below.
        said = np.take_along_axis(bits, (steps % lengths[:, None])[..., None], 1)
        targets = np.zeros((size, len(steps), self.width + 1), np.float32)
        targets[..., :-1] = said * (steps < ends[:, None])[..., None]
        targets[np.arange(size), ends, -1] = 1
        return zeros_while_answering(source, targets, read + 1, ends + 1)

    def normalise(self, repeats: Array) -> Array:
        """Normalise numbers of repeats to mean 0 and variance 1 over the range of training."""
        # Of the whole range, also under a curriculum: the same number must always look the same.
        choices = np.arange(self.min_repeats, self.max_repeats + 1)
        normalised: Array = (repeats - choices.mean()) / (choices.std() or 1.0)
        return normalised


def _marked(bits: Array, lengths: Array, repeats: Array) -> Array:
    """The bits, followed by ``repeats`` marks, 1 in a channel of their own."""
    size, longest, width = bits.shape
    marked = np.zeros((size, (lengths + repeats).max(), width + 1), np.float32)
    marked[:, :longest, :width] = bits
    steps = np.arange(marked.shape[1])
    behind = steps - lengths[:, None]
    marked[..., -1] = (behind >= 0) & (behind < repeats[:, None])
    return marked


def _source(bits: Array, lengths: Array, end: Array) -> Array:
    """The bits, followed by a step with ``end`` ``[B, E]`` in E channels of its own."""
    size, longest, width = bits.shape
    source = np.zeros((size, longest + 1, width + end.shape[-1]), np.float32)
    source[:, :-1, :width] = bits
    source[np.arange(size), lengths, width:] = end
    return source
