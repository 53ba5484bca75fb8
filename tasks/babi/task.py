"""Questions about stories (Weston et al. 2015; Sukhbaatar et al. 2015, section 4)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memnets.batches import PAD, UNKNOWN, Batch, unpadded
from memnets.checks import check_positive
from memnets.vocabulary import Words
from tasks.babi.stories import FAMILIES, draw_stories
from tasks.babi.text import Question, read_asked, read_stories, split_story, words_of
from tasks.base import Array, Items, check_texts
from tasks.limits import check_room
from tasks.sets import FixedSets, paths_of
from tasks.text import check_labels

__all__ = ["Babi"]

logger = logging.getLogger(__name__)

#: One story in this many is held out for validation, and one for the test if there is no file.
HELD_OUT = 10
#: Most questions of a batch of validation or test.
TESTED = 100
#: Most questions that are drawn for a split; no useful run needs more.
MOST_QUESTIONS = 1_000_000

Stories = list[list[Question]]


class Babi(FixedSets):
    """Questions about short stories, each answered with one word.

    A batch has a story and a question for each row: the source is the words of the sentences before
    the question, ``[B, N, L]``, the inputs are the words of the question, ``[B, 1, L]``, and the
    target is the answer, ``[B, 1]``. An answer that is a list, such as ``ladder,violin``, is a word
    of its own. Stories, questions and answers share a vocabulary, that of the training stories; it
    is kept in checkpoints.

    Without files, stories are told by a program that lets a small world run
    (:mod:`tasks.babi.stories`): ``questions`` for training and validation, and as many for the
    test. These are fixed sets, which depend on the seed alone. With files, the stories are yours,
    or those of Weston et al. 2015 (docs, page "Data formats").

    The last tenth of the stories is held out for validation, and with files, but without ``test``,
    the tenth before it for the test. A pass over the training questions is a random order of them.

    Args:
        number: number of the family of stories, 1 to 20, as in the paper: 1 to 3 ask for one, two
            and three facts, 6 for yes or no, 7 for a number, 8 for a list, 15 for deduction, 19 for
            a way, 20 for a motive.
        questions: number of questions of training and validation together, at least 20.
        folder: folder of all files that are not absolute paths.
        train: files of the training stories; none = stories are told.
        val: files of the validation stories.
        test: files of the test stories.
        batch_size: number of questions in a training batch, at least 1.
        epoch_batches: number of training batches between two validations; by default those of a
            pass over the questions.
        validation_batches: number of batches of a validation, of up to 100 questions; all by
            default.
        workers: number of processes that make batches ahead of time, see :class:`~tasks.Task`.
        seed: seed of the stories and of the order of the training questions; on the command line it
            follows ``seed_everything``.

    Attributes:
        unknown: how often each word came that the vocabulary does not have, in questions and
            stories of your own and in files.

    Raises:
        ValueError: a setting is out of its range, or does not go with another one.
    """

    about = "stories"
    items_are = "questions"

    def __init__(
        self,
        number: int = 1,
        questions: int = 1000,
        folder: str = ".",
        train: list[str] | str | None = None,
        val: list[str] | str | None = None,
        test: list[str] | str | None = None,
        batch_size: int = 32,
        epoch_batches: int | None = None,
        validation_batches: int | None = None,
        workers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            epoch_batches=epoch_batches,
            validation_batches=validation_batches,
            workers=workers,
            seed=seed,
        )
        if number not in FAMILIES:
            raise ValueError(f"number must be from 1 to {max(FAMILIES)}; got {number}")
        check_positive(questions=questions)
        if not 2 * HELD_OUT <= questions <= MOST_QUESTIONS:
            raise ValueError(
                f"questions must be from {2 * HELD_OUT} to {MOST_QUESTIONS:,}; got {questions:,}"
            )
        self.paths = paths_of(folder, train=train, val=val, test=test)
        if not self.paths["train"] and (self.paths["val"] or self.paths["test"]):
            raise ValueError("val and test need train, the files to train on; got none")
        self.number = number
        self.asked_for = questions
        self.unknown: Counter[str] = Counter()
        self._vocabulary: Words | None = None
        self._questions: dict[str, list[Question]] = {}
        self._tokens: dict[str, _Tokens] = {}
        self._order: tuple[int, Array] | None = None

    @property
    def input_size(self) -> int:  # type: ignore[override]
        """Number of words, with the marks."""
        return len(self.vocabulary)

    @property
    def output_size(self) -> int:  # type: ignore[override]
        """Number of words; any of them may be an answer."""
        return len(self.vocabulary)

    @property
    def vocabulary(self) -> Words:
        """Words of the training stories, of a checkpoint, or of the files.

        Raises:
            ValueError: a file is missing or damaged.
        """
        if self._vocabulary is None:
            asked = self.questions("train")
            if not self.paths["train"]:  # validation is a part of the same stories
                asked = asked + self.questions("val")
            told = (story for story in {question.story for question in asked})
            sentences = {sentence for story in told for sentence in story}
            sentences |= {question.question for question in asked}
            answers = [[question.answer] for question in asked]
            # Sorted: the order of a set differs from one process to the next.
            self._vocabulary = Words.of([*map(words_of, sorted(sentences)), *answers])
        return self._vocabulary

    def questions(self, split: str) -> list[Question]:
        """Questions of ``train``, ``val`` or ``test``, in their order.

        Raises:
            ValueError: a file is missing or damaged, or there are too few stories to hold some out.
        """
        if split not in self._questions:
            self._questions.update(self._load(split))
        return self._questions[split]

    def _load(self, split: str) -> dict[str, list[Question]]:
        if split != "train" and self.paths[split]:
            return {split: _flat(self._read(split))}
        if not self.paths["train"]:
            if split == "test":
                told = draw_stories(self.number, self.asked_for, self.random("test", 0))
                return {"test": _flat(told)}
            stories = draw_stories(self.number, self.asked_for, self.random("stories", 0))
            missing = ["val"]
        else:
            stories = self._read("train")
            missing = [name for name in ("val", "test") if not self.paths[name]]
        held = max(1, len(stories) // HELD_OUT)
        if len(stories) <= held * len(missing):
            raise ValueError(
                f"expected more than {held * len(missing)} stories in "
                f"{', '.join(self.paths['train'])}, to hold out some for {' and '.join(missing)}; "
                f"got {len(stories)}"
            )
        if self.paths["train"]:
            answers = [question.answer for question in _flat(stories)]
            check_labels(answers, "questions", ", ".join(self.paths["train"]), "answer")
        shares = {}
        # Whole stories: no question of validation is about a story of training.
        for name in missing:
            shares[name] = _flat(stories[-held:])
            stories = stories[:-held]
        return {**shares, "train": _flat(stories)}

    def _read(self, split: str) -> Stories:
        return [story for path in self.paths[split] for story in read_stories(path)]

    def vocabularies(self) -> list[Words]:
        """The :attr:`vocabulary`."""
        return [self.vocabulary]

    def restore(self, tensors: list[Tensor]) -> None:
        """See :meth:`~tasks.sets.FixedSets.restore`."""
        self._vocabulary = Words.from_tensor(tensors[0])
        self._tokens.clear()

    def all_batches(self, split: str) -> int:
        """See :meth:`~tasks.sets.FixedSets.all_batches`."""
        size = self.batch_size if split == "train" else TESTED
        return -(-len(self.questions(split)) // size)

    def setup(self, stage: str) -> None:
        """Tell or read the stories that a training or a test needs."""
        if stage == "fit":
            self.epoch_batches = self.batches("train")
            self.validation_batch_size = min(TESTED, len(self.questions("val")))

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or ``test``.

        Batches of training go through one random order of the questions after the other.
        """
        number = len(self.questions(split))
        rows: Array
        if split == "train":
            places = range(index * self.batch_size, (index + 1) * self.batch_size)
            rows = np.array([self._shuffled(place // number)[place % number] for place in places])
        else:
            first = index % self.batches(split) * TESTED
            rows = np.arange(first, min(first + TESTED, number))
        if split not in self._tokens:
            self._tokens[split] = self._encode(self.questions(split))
        return self._tokens[split].batch(rows)

    def _shuffled(self, turn: int) -> Array:
        """Order of the training questions in a pass; only the present one is kept."""
        if self._order is None or self._order[0] != turn:
            order = self.random("train", turn).permutation(len(self.questions("train")))
            self._order = turn, order
        return self._order[1]

    def _encode(self, questions: Sequence[Question]) -> _Tokens:
        """Tokens of questions; unknown words are counted."""
        known: dict[str, list[int]] = {}
        unknown: Counter[str] = Counter()
        for sentence in (part for each in questions for part in (*each.story, each.question)):
            words = words_of(sentence)
            if sentence not in known:
                known[sentence] = self.vocabulary.encode(words)
            unknown.update(self.vocabulary.unknown(words) if UNKNOWN in known[sentence] else [])
        answers = self.vocabulary.encode([question.answer for question in questions])
        unknown.update(each.answer for each in questions if each.answer not in self.vocabulary)
        del unknown[""]  # the answer that a user asks for
        if unknown:
            self.unknown.update(unknown)
            few = ", ".join(repr(word) for word, _ in unknown.most_common(5))
            logger.warning("words that the vocabulary does not have: %d, %s", len(unknown), few)
        tokens = _Tokens([question.story for question in questions], known)
        tokens.questions = [known[question.question] for question in questions]
        tokens.answers = answers
        return tokens

    def items(self, path: str) -> list[Any]:
        """Read stories with questions, see :func:`tasks.babi.text.parse`; answers are not needed.

        Raises:
            ValueError: a line is damaged, a story has no question, or a question no sentence before
                it.
        """
        asked = read_asked(path)
        return Items(
            (question for _, question in asked), (f"{path}, line {number}" for number, _ in asked)
        )

    def asked(self, items: Sequence[str | Question], first: int = 1) -> Batch:
        """A batch of a user's questions, see :meth:`tasks.Task.asked`.

        Args:
            items: questions, each with its story; or texts, each of some sentences and, at its end,
                a question.
            first: number of the first text, for an error.

        Raises:
            ValueError: a text has no sentence, or no question at its end.
        """
        texts = ["" if isinstance(item, Question) else item for item in items]
        check_texts(texts, first, "a story with a question at its end")
        questions = []
        for number, item in enumerate(items, first):
            try:
                questions.append(item if isinstance(item, Question) else split_story(item))
            except ValueError as error:
                raise ValueError(f"item {number}: {error}") from None
        return self._encode(questions).batch(np.arange(len(questions)))

    def says(self, batch: Batch, answers: Tensor) -> list[str]:
        """The word of each answer."""
        return self._said(answers)

    def _said(self, answers: Tensor) -> list[str]:
        return [self.vocabulary.name(token) for token in answers[:, 0].tolist()]

    def labels(self, batch: Batch, row: int) -> tuple[list[str], list[str]]:
        """Sentences of the story, and the right answer."""
        story = unpadded(batch.source, batch.source_mask, row)
        return [" ".join(self._words(sentence)) for sentence in story], self._words(
            batch.targets[row]
        )

    def asked_words(self, batch: Batch, row: int) -> list[list[str]]:
        """Words of the question."""
        return [self._words(question) for question in batch.inputs[row]]

    def _words(self, tokens: Tensor) -> list[str]:
        return [self.vocabulary.name(token) for token in tokens.tolist() if token != PAD]

    def texts(self, split: str, answers: list[Tensor]) -> list[tuple[str, str, str]]:
        """Story with question, right answer and answer, in the order of the batches."""
        given = self._said(torch.cat(answers)) if answers else []
        asked = self.questions(split)[: len(given)]
        return [
            (" ".join((*question.story, question.question)), question.answer, answer)
            for question, answer in zip(asked, given, strict=True)
        ]


def _flat(stories: Stories) -> list[Question]:
    return [question for story in stories for question in story]


class _Tokens:
    """Tokens of questions: their stories share sentences, so each sentence is kept once."""

    def __init__(self, stories: Sequence[tuple[str, ...]], known: dict[str, list[int]]) -> None:
        number = {sentence: place for place, sentence in enumerate(known)}
        self.sentences: Array = _rectangle(list(known.values()))
        self.stories = [np.array([number[sentence] for sentence in story]) for story in stories]
        self.questions: list[list[int]] = []
        self.answers: list[int] = []

    def batch(self, rows: Array) -> Batch:
        """A batch of some of the questions."""
        lengths = np.array([len(self.stories[row]) for row in rows])
        check_room("a batch of stories", len(rows), int(lengths.max()), self.sentences.shape[1])
        inside = np.arange(lengths.max()) < lengths[:, None]
        places = np.zeros(inside.shape, np.int64)
        places[inside] = np.concatenate([self.stories[row] for row in rows])
        source = self.sentences[places]
        source[~inside] = PAD
        # As wide as its longest sentence.
        source = source[:, :, : max(1, int((source != PAD).any((0, 1)).sum()))]
        questions = _rectangle([self.questions[row] for row in rows])[:, None]
        answers = np.array([[self.answers[row]] for row in rows])
        mask = None if inside.all() else torch.from_numpy(inside)
        return Batch(
            torch.from_numpy(np.ascontiguousarray(source)),
            torch.from_numpy(questions),
            torch.from_numpy(answers),
            mask,
        )


def _rectangle(rows: Sequence[Sequence[int]]) -> Array:
    """Rows of tokens, filled up to the longest with ``PAD``, int64."""
    filled: Array = np.full((len(rows), max(map(len, rows))), PAD, np.int64)
    for place, row in enumerate(rows):
        filled[place, : len(row)] = row
    return filled
