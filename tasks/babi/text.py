"""Questions about stories, and the files that hold them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from tasks.text import read_lines

__all__ = ["Question", "parse", "read_asked", "read_stories", "split_story", "words_of"]

#: Signs at the ends of words that do not count.
SIGNS = ".,;:!?\"'()"
#: A line of a numbered file.
_NUMBERED = re.compile(r"(\d+)\s+(.*)", re.DOTALL)
#: Where a sentence ends and another one begins.
_BETWEEN = re.compile(r"(?<=[.?!])\s+|\n+")


class Question(NamedTuple):
    """A question about a story.

    Attributes:
        story: the sentences before the question, at least one.
        question: the question.
        answer: the answer, one word for the model even if it is a list such as ``ladder,violin``;
            empty if nobody knows it.
    """

    story: tuple[str, ...]
    question: str
    answer: str = ""


def words_of(sentence: str) -> list[str]:
    """Words of a sentence in small letters, without signs at their ends."""
    words = (word.strip(SIGNS) for word in sentence.lower().split())
    return [word for word in words if word]


def split_story(text: str) -> Question:
    """Split a text into the sentences of a story and, at its end, a question.

    Raises:
        ValueError: there is no sentence before the question, or the text does not end with one.
    """
    sentences = [part.strip() for part in _BETWEEN.split(text) if words_of(part)]
    if not sentences or not sentences[-1].endswith("?"):
        last = f"{sentences[-1]!r}" if sentences else "an empty text"
        raise ValueError(f"expected a story with a question at its end; got {last} there")
    *story, question = sentences
    story = [sentence for sentence in story if not sentence.endswith("?")]
    if not story:
        raise ValueError(f"expected a story before the question; got {question!r} alone")
    return Question(tuple(story), question)


def read_stories(path: str, answers: bool = True) -> list[list[Question]]:
    """Read a file of stories, see :func:`parse`.

    Raises:
        ValueError: the file cannot be read, or :func:`parse` says so.
    """
    return parse(read_lines(path), path, answers)


def read_asked(path: str) -> list[tuple[int, Question]]:
    """Read a file of stories with questions to answer: the line of each question, and the question.

    Raises:
        ValueError: as :func:`read_stories`.
    """
    reader = _read(read_lines(path), path, answers=False)
    return list(
        zip(reader.numbers, (each for story in reader.stories for each in story), strict=True)
    )


def parse(lines: Sequence[str], name: str, answers: bool = True) -> list[list[Question]]:
    r"""Read stories, with the questions of each.

    A line is a sentence, or a question, which ends with ``?``, then a tab and its answer; what
    follows another tab is not read. An empty line ends a story. If the first line begins with a
    number, all do, as in the files of Weston et al. 2015, and the number 1 begins a story.

    Args:
        lines: the lines.
        name: name of the text, for an error.
        answers: whether each question must have an answer.

    Returns:
        The questions of each story, in their order. A question sees all sentences before it.

    Raises:
        ValueError: a line is damaged, a story has no question, or a question no sentence before it.
    """
    return _read(lines, name, answers).stories


def _read(lines: Sequence[str], name: str, answers: bool) -> _Reader:
    reader = _Reader(name, answers)
    for number, line in enumerate(lines, 1):
        reader.line(number, line.strip())
    reader.end(len(lines))
    if not reader.stories:
        raise ValueError(f"expected stories in {name}; the file is empty")
    return reader


class _Reader:
    """Stories so far, and the present one."""

    def __init__(self, name: str, answers: bool) -> None:
        self.name = name
        self.answers = answers
        self.stories: list[list[Question]] = []
        self.numbers: list[int] = []  # the line of each question
        self.numbered: bool | None = None
        self.sentences: list[str] = []
        self.questions: list[Question] = []
        self.first = 0  # the line where the story begins
        self.last = 0  # the number of the last line in a numbered file

    def line(self, number: int, line: str) -> None:
        """Read one line."""
        if not line:
            self.end(number - 1)
            return
        where = f"{self.name}, line {number}"
        matched = _NUMBERED.match(line)
        if self.numbered is None:
            self.numbered = matched is not None
        if self.numbered:
            if matched is None:
                raise ValueError(f"{where}: expected a number, then a sentence; got {line!r}")
            place, line = int(matched[1]), matched[2]
            if place == 1:
                self.end(number - 1)
            elif place != self.last + 1:
                begun = f"{self.last + 1}, or 1 for a new story" if self.last else "1"
                raise ValueError(f"{where}: expected the number {begun}; got {place}")
            self.last = place
        self.first = self.first or number
        text, *fields = (part.strip() for part in line.split("\t"))
        if not words_of(text):
            raise ValueError(f"{where}: expected a sentence; got {line!r}")
        if text.endswith("?"):
            self.question(where, text, fields)
            self.numbers.append(number)
        elif fields:
            raise ValueError(
                f"{where}: expected a question that ends with ? before its answer; got {text!r}"
            )
        else:
            self.sentences.append(text)

    def question(self, where: str, text: str, fields: list[str]) -> None:
        """Add a question to the story."""
        if not self.sentences:
            raise ValueError(
                f"{where}: expected a sentence before the first question; got {text!r}"
            )
        answer = fields[0].lower().strip(f"{SIGNS} ") if fields else ""
        if self.answers and not answer:
            raise ValueError(f"{where}: expected a tab and an answer behind {text!r}; got none")
        self.questions.append(Question(tuple(self.sentences), text, answer))

    def end(self, number: int) -> None:
        """End the present story, whose last line has this number."""
        if self.sentences and not self.questions:
            lines = f"line {self.first}" if self.first == number else f"lines {self.first}-{number}"
            raise ValueError(
                f"{self.name}, {lines}: expected a question about this story, a line that ends "
                f"with ?{', then a tab and its answer' if self.answers else ''}; got none"
            )
        if self.questions:
            self.stories.append(self.questions)
        self.sentences, self.questions, self.first, self.last = [], [], 0, 0
