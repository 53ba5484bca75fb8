"""Base class for tasks from a string of symbols to a string of symbols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from memnets.batches import BEGIN, END, PAD, Batch, padded, unpadded, with_places
from memnets.checks import check_positive
from tasks.base import Array, Task, by_name, check_range, check_texts
from tasks.limits import check_room

__all__ = ["SILENT", "Example", "SymbolTask"]

#: In the answer of a task that answers along its question, a step at which nothing is asked.
SILENT = -1

#: Name of the test set of lengths that were never seen in training.
LONGER = "longer"


class Example(NamedTuple):
    """A question and its answer.

    Attributes:
        question: numbers of symbols of the alphabet, ``[n]``.
        answer: numbers of symbols of the answer's alphabet, ``[m]``; of a task that answers along
            its question one for each step of it, :data:`SILENT` where nothing is asked.
    """

    question: Array
    answer: Array


def _shown(value: Any) -> str:
    text = str(value.tolist() if isinstance(value, np.ndarray | Tensor) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class SymbolTask(Task):
    """Base class for tasks from a string of symbols to a string of symbols.

    A subclass says what is asked (:meth:`question`) and what is right (:meth:`answer`)::

        class Reversal(SymbolTask):
            '''Reversal: the answer is the string from its end to its start.'''

            alphabet = "01"

            def answer(self, question):
                return question[::-1]

    A model is given the question as tokens, then the token ``BEGIN`` for each symbol of the answer
    and nothing of the answer itself (Deletang et al. 2023, section 4). With :attr:`along` it
    answers while it reads: the source is ``BEGIN`` alone, the inputs are the question, and the
    target of a step is the right answer once that step is read. Symbol ``i`` of the alphabet is
    token ``END + 1 + i`` of the source; targets are numbers of symbols of the answer, from 0.

    Args:
        min_length: length of the shortest question; by default the shortest that the task has.
        max_length: length of the longest question of training and validation.
        training_length: longest question of training at present, as a curriculum sets it;
            ``max_length`` by default. A value below ``min_length`` counts as ``min_length``.
        mixed_lengths: whether each question of a training batch has a length of its own. One length
            for the batch needs no padding and is faster. Validation always mixes lengths; test sets
            never do.
        test_sets: test sets, pairs (length, number of questions), named ``length_<n>``.
        longest: length of the longest question of the test set ``longer``; 0 = no such set. Its
            lengths are evenly spaced from ``max_length + 1`` to ``longest``. The mean over all of
            them is what Deletang et al. 2023 report; see :meth:`measure`.
        longer_lengths: number of lengths of ``longer``, at least 1.
        longer_questions: number of questions of each of these lengths, at least 1.
        settings: see :class:`~tasks.Task`.

    Raises:
        ValueError: a setting is out of its range.
    """

    fed_source = True
    alike = True
    #: Names of the symbols of a question.
    alphabet: Sequence[str] = "01"
    #: Names of the symbols of an answer; by default those of a question.
    answers: Sequence[str] | None = None
    #: Length of the shortest question that the task has.
    shortest: int = 1
    #: Whether the task answers while it is asked, a symbol or nothing at each step.
    along: ClassVar[bool] = False

    def __init__(
        self,
        min_length: int | None = None,
        max_length: int = 40,
        training_length: int | None = None,
        mixed_lengths: bool = False,
        test_sets: Sequence[tuple[int, int]] = ((40, 100), (100, 100)),
        longest: int = 500,
        longer_lengths: int = 12,
        longer_questions: int = 50,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_positive(longer_lengths=longer_lengths, longer_questions=longer_questions)
        min_length = self.shortest if min_length is None else min_length
        check_range("length", min_length, max_length, least=self.shortest)
        if longest and longest <= max_length:
            raise ValueError(
                f"longest must be above max_length = {max_length}, or 0 for no test set of longer "
                f"questions; got {longest}"
            )
        for length, questions in test_sets:
            check_positive(test_questions=questions)
            if length < self.shortest:
                raise ValueError(
                    f"questions of {type(self).__name__} have at least {self.shortest} symbols; "
                    f"got a test set of length {length}"
                )
        self.test_sets = by_name((f"length_{n}", (n, questions)) for n, questions in test_sets)
        spaced = np.linspace(max_length + 1, longest, longer_lengths).round().astype(int)
        self.longer = list(dict.fromkeys(spaced.tolist())) if longest else []
        self.longer_questions = longer_questions
        room = [(questions, self.longest_answer(n)) for n, questions in test_sets]
        self.check_room(
            self.longest_answer(max_length),
            tested=[*room, (longer_questions, self.longest_answer(max(0, longest)))],
        )
        check_room("an embedding", len(self.alphabet))
        self.min_length = min_length
        self.max_length = max_length
        self.training_length = training_length
        self.mixed_lengths = mixed_lengths
        self.input_size = END + 1 + len(self.alphabet)
        self.output_size = len(self.answers or self.alphabet)

    @property
    def training_length(self) -> int | None:
        """Longest question of training at present; ``None`` = ``max_length``."""
        return self._training_length

    @training_length.setter
    def training_length(self, most: int | None) -> None:
        if most is not None and not 1 <= most <= self.max_length:
            raise ValueError(
                f"training_length must be from 1 to max_length = {self.max_length}; got {most}"
            )
        self._training_length = most

    def longest_answer(self, length: int) -> int:
        """Most symbols of the answer to a question of ``length``, or more; ``2 length + 1`` here.

        Batches that would not fit into the memory of a machine are refused by it.
        """
        return 2 * length + 1

    def question(self, random: np.random.Generator, length: int) -> Array:
        """A random question, numbers of symbols; by default ``length`` symbols, all as likely.

        Args:
            random: draws it.
            length: number of symbols, at least :attr:`shortest`. A task whose questions cannot have
                this length takes the next smaller one.
        """
        return random.integers(len(self.alphabet), size=length)

    def answer(self, question: Array) -> Array:
        """The right answer to a question, numbers of symbols; see :attr:`Example.answer`.

        Args:
            question: numbers of symbols, an array ``[n]``, which may be changed.

        Returns:
            A list, a tuple or an array of at least one number.

        Raises:
            ValueError: it is no question of this task.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no rule for its answers: write answer(self, question)"
        )

    def coupling(self, question: Array) -> tuple[Array, Array] | None:
        """Places of the symbols of a question and of its answer: like places belong together.

        Override it in a task that couples them, for :class:`memnets.cells.CoupledPositions`. A task
        that answers along its question gives none.

        Args:
            question: numbers of symbols, ``[n]``.

        Returns:
            Whole numbers from 0, ``[n]`` and ``[m]``; an answer that is shorter has the first of
            them, and behind the last one its place stays. ``None``, the default = no places.
        """
        return None

    def example(self, random: np.random.Generator, length: int, split: str) -> Example:
        """A random question with its answer.

        Override this in place of :meth:`answer` where the answer does not follow from the question
        alone, or where splits differ in more than lengths.

        Args:
            random: draws it.
            length: see :meth:`question`.
            split: ``train``, ``val`` or one of :meth:`test_names`.
        """
        return self._answered(self.question(random, length))

    def _answered(self, question: Any) -> Example:
        """A question with its answer, which a rule finds from an array of its own.

        A rule may sort the array or turn it round where it is: what is asked stays as it was.
        """
        question = self._symbols("question", question, 0, len(self.alphabet), question)
        return Example(question, self.answer(question.copy()))

    def _checked(self, example: Example) -> Example:
        """An example of arrays, of rules that may give lists.

        Raises:
            TypeError: a part of it is not of whole numbers.
            ValueError: a number is no symbol, or the answer has none; or, of a task that answers
                along its question, not one for each step.
        """
        given, answers = example.question, len(self.answers or self.alphabet)
        question = self._symbols("question", given, 0, len(self.alphabet), given)
        least = SILENT if self.along else 0
        answer = self._symbols("answer", example.answer, least, answers, given)
        steps = len(question) if self.along else max(1, len(answer))
        if len(answer) != steps:
            wanted = (
                f"one number for each of {steps} steps" if self.along else "at least one number"
            )
            raise ValueError(
                f"{type(self).__name__}.answer must give {wanted}; got {_shown(answer)} for the "
                f"question {_shown(question)}"
            )
        return Example(question, answer)

    def _symbols(self, name: str, given: Any, least: int, symbols: int, question: Any) -> Array:
        """Numbers of symbols that a rule gives, as an array."""
        listed = isinstance(given, list | tuple | np.ndarray | Tensor)
        numbers = np.asarray(given) if listed else np.empty((0, 0))
        of = f" for the question {_shown(question)}" if name == "answer" else ""
        rule = f"{type(self).__name__}.{name} must give"
        if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "biu"):
            raise TypeError(
                f"{rule} a list, a tuple or an array of whole numbers; got {_shown(given)}{of}"
            )
        numbers = numbers.astype(np.int64)
        if not ((least <= numbers) & (numbers < symbols)).all():
            raise ValueError(
                f"{rule} numbers of symbols from {least} to {symbols - 1}; got {_shown(given)}{of}"
            )
        return numbers

    def test_names(self) -> list[str]:
        """``length_<n>`` for each length, and ``longer``."""
        return [*self.test_sets, *([LONGER] if self.longer else [])]

    def batches(self, split: str) -> int:
        """Number of batches of a split; ``longer`` has one for each length."""
        return len(self.longer) if split == LONGER else super().batches(split)

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or a test set."""
        random = self.random(split, index)
        return self._batch(
            [self.example(random, length, split) for length in self._lengths(random, split, index)]
        )

    def _lengths(self, random: np.random.Generator, split: str, index: int) -> list[int]:
        """The length of each question of a batch."""
        if split == LONGER:
            return [self.longer[index]] * self.longer_questions
        if split in self.test_sets:
            length, questions = self.test_sets[split]
            return [length] * questions
        count = self.sequences(split, 0)
        most = self.training_length if split == "train" else None
        high = self.max_length if most is None else max(most, self.min_length)
        if self.mixed_lengths or split == "val":
            mixed: list[int] = random.integers(self.min_length, high + 1, count).tolist()
            return mixed
        return [int(random.integers(self.min_length, high + 1))] * count

    def _batch(self, examples: Sequence[Example]) -> Batch:
        """Examples as a batch; see :class:`SymbolTask` for its form."""
        examples = [self._checked(example) for example in examples]
        questions, mask = padded([example.question + END + 1 for example in examples])
        # Numbers from 1, so that padding is no symbol: behind an answer too nothing is asked.
        numbers, _ = padded([example.answer - SILENT for example in examples])
        asked = numbers != PAD
        targets = (numbers + SILENT).clamp_min(0)
        target_mask = None if asked.all() else asked
        if self.along:
            source = torch.full((len(examples), 1), BEGIN)
            return Batch(source, questions, targets, None, target_mask)
        blanks = torch.full(targets.shape, BEGIN)
        batch = Batch(questions, blanks, targets, mask, target_mask)
        coupled = [self.coupling(example.question) for example in examples]
        return with_places(batch, coupled, f"{type(self).__name__}.coupling")

    def measure(self, split: str, answers: list[Tensor]) -> dict[str, float]:
        """Share of right symbols at each length of the test set ``longer``, and their mean.

        As Deletang et al. 2023 score, the share at a length is of the symbols of all its questions
        together, and each length counts the same. Where all answers of a length are as long, it is
        also the mean over the questions.

        Args:
            split: one of :meth:`test_names`.
            answers: numbers of symbols ``[B, T]`` for each batch of the set, or its first batches.

        Returns:
            ``accuracy_<n>`` for each length n, and ``accuracy``, their mean, in ``[0, 1]``; empty
            for other sets.
        """
        if split != LONGER or not answers:
            return {}
        scores = {}
        for index, answer in enumerate(answers):
            batch = self.batch(split, index)
            right = answer.cpu() == batch.targets
            if batch.target_mask is not None:
                right = right[batch.target_mask]
            scores[f"accuracy_{self.longer[index]}"] = float(right.double().mean())
        return {"accuracy": sum(scores.values()) / len(scores), **scores}

    def labels(self, batch: Batch, row: int) -> tuple[list[str], list[str]]:
        """The symbols of the source and of the answer."""
        source = unpadded(batch.source, batch.source_mask, row).tolist()
        names = self.answers or self.alphabet
        targets = batch.targets[row].tolist()
        if batch.target_mask is not None:
            # Steps at which nothing is asked keep their place, but for those behind the answer.
            mask = batch.target_mask[row]
            last = int(mask.nonzero().max()) + 1 if mask.any() else 0
            targets = [
                target if asked else SILENT
                for target, asked in zip(targets[:last], mask[:last].tolist(), strict=True)
            ]
        return (
            ["begin" if token == BEGIN else self.alphabet[token - END - 1] for token in source],
            ["" if target == SILENT else names[target] for target in targets],
        )

    def asked(self, items: Sequence[str], first: int = 1) -> Batch:
        """A batch of a user's own questions, with the right answers as targets.

        A question is written as its symbols, with or without spaces between them where each has one
        letter, else with spaces.

        Raises:
            ValueError: a symbol is not of the alphabet, or there is no answer to a question.
        """
        numbers = {name: number for number, name in enumerate(self.alphabet)}
        letters = all(len(name) == 1 for name in self.alphabet)
        examples = []
        check_texts(items, first, "symbols")
        for place, item in enumerate(items, first):
            symbols = list("".join(item.split())) if letters else item.split()
            unknown = next((symbol for symbol in symbols if symbol not in numbers), None)
            if unknown is not None or not symbols:
                some = ", ".join(list(self.alphabet)[:8]) + ", ..." * (len(self.alphabet) > 8)
                got = "none" if unknown is None else repr(unknown)
                raise ValueError(f"item {place}: expected symbols of {some}; got {got}")
            question = np.array([numbers[symbol] for symbol in symbols])
            try:
                examples.append(self._checked(self._answered(question)))
            except (ValueError, NotImplementedError) as error:
                raise ValueError(f"item {place}: {error}") from error
        return self._batch(examples)

    def says(self, batch: Batch, answers: Tensor) -> list[str]:
        """The symbols of each answer, without spaces where each has one letter.

        Args:
            batch: the result of :meth:`asked`.
            answers: numbers of symbols, ``[B, T]``.
        """
        names = self.answers or self.alphabet
        between = "" if all(len(name) == 1 for name in names) else " "
        return [
            between.join(names[number] for number in unpadded(answers, batch.target_mask, row))
            for row in range(len(answers))
        ]
