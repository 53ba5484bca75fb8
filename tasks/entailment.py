"""Entailment: the relation between two sentences, in propositional logic or of a user's own."""

from __future__ import annotations

import bisect
import itertools
import json
import re
import zlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from memnets.batches import BEGIN, END, PAD, Batch, padded, unpadded
from memnets.checks import check_positive
from memnets.vocabulary import Words
from tasks.base import Task, check_range
from tasks.sets import FixedSets, paths_of
from tasks.text import check_labels, read_lines, warn_of_labels

__all__ = ["Entailment", "PropositionalLogic", "SentencePairs", "Statement", "parse", "relation"]


#: The seven relations of natural logic (MacCartney & Manning 2009), in the order of the classes.
RELATIONS = (
    "equivalence",
    "forward entailment",
    "reverse entailment",
    "negation",
    "alternation",
    "cover",
    "independence",
)
#: Labels of SNLI and its relatives (Bowman et al. 2015, "A large annotated corpus for learning
#: natural language inference"), in the order of the classes.
LABELS = ("entailment", "neutral", "contradiction")
#: Label of a pair on which the annotators did not agree.
UNDECIDED = "-"

Pair = tuple[Sequence[str], Sequence[str]]


class SentencePairs(Task):
    """Base class for tasks that ask for the relation between two sentences.

    The source is the premise, tokens ``[B, S]``. The inputs hold the hypothesis as a single step,
    tokens ``[B, 1, L]`` with :data:`~memnets.batches.PAD` behind its end. The target is the number
    of the relation, ``[B, 1]``. Each sentence begins with :data:`~memnets.batches.BEGIN`, the
    ``NULL`` token of Parikh et al. 2016: a word without a counterpart can be aligned to it.

    Attributes:
        relations: names of the relations, in the order of the classes.
    """

    relations: tuple[str, ...]

    @property
    @abstractmethod
    def words(self) -> Words:
        """The vocabulary of both sentences."""

    @abstractmethod
    def split_up(self, sentence: str) -> Sequence[str]:
        """Words of a sentence.

        Raises:
            ValueError: the sentence is of another form.
        """

    def batch_of(self, pairs: Sequence[Pair], targets: Sequence[int]) -> Batch:
        """Make a batch of sentences, given as words, and the numbers of their relations."""
        premises, hypotheses = (
            padded([self.words.encode(pair[side]) for pair in pairs], first=BEGIN)
            for side in (0, 1)
        )
        return Batch(
            premises[0], hypotheses[0].unsqueeze(1), torch.tensor(targets)[:, None], premises[1]
        )

    def asked(self, items: Sequence[Any], first: int = 1) -> Batch:
        """A batch that asks about pairs of sentences.

        Args:
            items: pairs (premise, hypothesis), or lines with a tab between the two.
            first: number of the first item, for an error.

        Raises:
            ValueError: an item is no pair, or a sentence is of another form.
        """
        pairs = []
        for number, item in enumerate(items, start=first):
            sides = item.split("\t") if isinstance(item, str) else item
            sides = list(sides) if isinstance(sides, list | tuple) else []
            if len(sides) != 2 or not all(isinstance(side, str) for side in sides):
                raise ValueError(
                    f"item {number}: expected a premise, a tab and a hypothesis; got {item!r}"
                )
            words = []
            for name, side in zip(("premise", "hypothesis"), sides, strict=True):
                try:
                    words.append(self.split_up(side))
                except ValueError as error:
                    raise ValueError(f"item {number}, {name}: {error}") from None
            pairs.append((words[0], words[1]))
        return self.batch_of(pairs, [0] * len(pairs))

    def says(self, batch: Batch, answers: Tensor) -> list[str]:
        """Names of the relations, one for each pair."""
        return [self.relations[number] for number in answers[:, 0].tolist()]

    def labels(self, batch: Batch, row: int) -> tuple[list[str], list[str]]:
        """Words of the premise, and the name of the relation."""
        source = unpadded(batch.source, batch.source_mask, row)
        names = [self.relations[number] for number in batch.targets[row].tolist()]
        return self._named(source), names

    def asked_words(self, batch: Batch, row: int) -> list[list[str]]:
        """Words of each input that is a sentence: of the hypothesis."""
        return [self._named(step[step != PAD]) for step in batch.inputs[row]]

    def _named(self, tokens: Tensor) -> list[str]:
        return [self.words.name(token) for token in tokens.tolist()]

    def texts(self, split: str, answers: list[Tensor]) -> list[tuple[str, str, str]]:
        """Premise and hypothesis, their relation, and the answer, for each pair."""
        found = []
        for index, answer in enumerate(answers):
            batch = self.batch(split, index)
            for row, said in enumerate(self.says(batch, answer)):
                premise, (right,) = self.labels(batch, row)
                (hypothesis,) = self.asked_words(batch, row)
                pair = (" ".join(words[1:]) for words in (premise, hypothesis))
                found.append((" | ".join(pair), right, said))
        return found


# -- propositional logic ---------------------------------------------------------------------------

VARIABLES = "abcdef"
#: Number of rows of a truth table.
ROWS = 1 << len(VARIABLES)
ALL = (1 << ROWS) - 1
#: The truth table of each variable, a bit for each row.
TABLES = {
    name: sum(1 << row for row in range(ROWS) if row >> place & 1)
    for place, name in enumerate(VARIABLES)
}
#: Brackets come first, so that their tokens are ``END + 1`` and ``END + 2``.
SYMBOLS = ("(", ")", "not", "and", "or", *VARIABLES)
#: How statements are drawn: variables of a pair, levels of "and" and "or", the chance of a single
#: variable above the lowest level, and the chance of a "not" before a variable or a bracket.
SHARED, LEVELS, SINGLE, NEGATED = 4, 3, 5 / 9, 1 / 3
#: Most operators of the longer statement of a pair.
MOST_OPERATORS = 12
#: Pairs with a checksum of 0 modulo this number are for tests, with 1 for validation.
HELD_OUT = 10


class Statement(NamedTuple):
    """A statement of propositional logic.

    Attributes:
        words: its symbols, with brackets around each operator and what it joins.
        rows: its truth table: bit r is its value in row r of 64.
    """

    words: tuple[str, ...]
    rows: int


def negation(one: Statement) -> Statement:
    """The statement ``( not one )``."""
    return Statement(("(", "not", *one.words, ")"), ALL ^ one.rows)


def joined(one: Statement, operator: str, other: Statement) -> Statement:
    """The statement ``( one and other )`` or ``( one or other )``."""
    rows = one.rows & other.rows if operator == "and" else one.rows | other.rows
    return Statement(("(", *one.words, operator, *other.words, ")"), rows)


def variable(name: str) -> Statement:
    """The statement that is one variable."""
    return Statement((name,), TABLES[name])


def relation(premise: Statement, hypothesis: Statement) -> int:
    """Number of the relation of two statements, in the order below.

    It follows from which of four cases occur among the rows: both are true, the premise alone, the
    hypothesis alone, or neither. The first that holds: ``equivalence``, none is ever true alone;
    ``forward entailment``, never the premise alone; ``reverse entailment``, never the hypothesis
    alone; ``negation``, never both, and never neither; ``alternation``, never both; ``cover``,
    never neither; ``independence``, all four occur.
    """
    one, other = premise.rows, hypothesis.rows
    no_premise_alone, no_hypothesis_alone = not one & ~other, not other & ~one
    never_both, never_neither = not one & other, one | other == ALL
    holds = (
        no_premise_alone and no_hypothesis_alone,
        no_premise_alone,
        no_hypothesis_alone,
        never_both and never_neither,
        never_both,
        never_neither,
        True,
    )
    return holds.index(True)


def parse(text: str) -> Statement:
    """Read a statement, such as ``not a and (b or c)``.

    Brackets may be left out: ``not`` binds more than ``and``, and ``and`` more than ``or``.

    Args:
        text: variables ``a`` to ``f``, ``not``, ``and``, ``or`` and round brackets.

    Raises:
        ValueError: the text has another symbol, brackets that do not match, or is no statement.
    """
    symbols = re.findall(r"[()]|[^\s()]+", text)
    for symbol in symbols:
        if symbol not in SYMBOLS:
            raise ValueError(
                f"expected the variables a to {VARIABLES[-1]}, not, and, or and brackets; "
                f"got {symbol!r}"
            )
    depth = 0
    for symbol in symbols:
        depth += (symbol == "(") - (symbol == ")")
        if depth < 0:
            raise ValueError(f"expected an opening bracket for each closing one; got {text!r}")
    if depth:
        raise ValueError(f"expected a closing bracket for each opening one; got {text!r}")
    statement, place = _parse(symbols, 0, text)
    if place < len(symbols):
        raise ValueError(f"expected one statement; got {symbols[place]!r} after it in {text!r}")
    return statement


def _parse(
    symbols: list[str], place: int, text: str, operator: str = "or"
) -> tuple[Statement, int]:
    """Read statements joined by an operator, from a place on; the place behind them."""

    def part(place: int) -> tuple[Statement, int]:
        return _parse(symbols, place, text, "and") if operator == "or" else single(place)

    def single(place: int) -> tuple[Statement, int]:
        symbol = symbols[place] if place < len(symbols) else "nothing"
        if symbol == "not":
            inner, place = single(place + 1)
            return negation(inner), place
        if symbol == "(":
            inner, place = _parse(symbols, place + 1, text)
            if symbols[place] != ")":
                raise ValueError(
                    f"expected and, or or a bracket; got {symbols[place]!r} in {text!r}"
                )
            return inner, place + 1
        if symbol not in VARIABLES:
            raise ValueError(f"expected a variable, not or a bracket; got {symbol} in {text!r}")
        return variable(symbol), place + 1

    found, place = part(place)
    while place < len(symbols) and symbols[place] == operator:
        other, place = part(place + 1)
        found = joined(found, operator, other)
    return found, place


#: A way to make a statement of some number of operators: whether it is negated, and the numbers of
#: operators of the two that it joins, or ``None`` for a variable.
Way = tuple[bool, tuple[int, int] | None]


class _Choice(NamedTuple):
    """Things to draw, with running sums of their chances."""

    things: list[Any]
    sums: list[float]

    def draw(self, chance: Callable[[], float]) -> Any:
        return self.things[
            bisect.bisect(self.sums, chance() * self.sums[-1], 0, len(self.things) - 1)
        ]


def _choices(weighted: Sequence[tuple[Any, float]]) -> _Choice:
    things, chances = zip(*weighted, strict=True)
    return _Choice(list(things), list(itertools.accumulate(chances)))


def _ways() -> list[dict[int, _Choice]]:
    """For each level and each number of operators, the ways to make a statement.

    The chances are those of the process in :class:`PropositionalLogic`, so that a statement of a
    given number of operators is drawn without trials.
    """
    levels: list[dict[int, _Choice]] = []
    for level in range(LEVELS + 1):
        made: dict[int, list[tuple[Way, float]]] = {}
        unsigned: list[tuple[int, tuple[int, int] | None, float]] = [
            (0, None, SINGLE if level else 1.0)
        ]
        if level:
            below = {size: choice.sums[-1] for size, choice in levels[-1].items()}
            unsigned += [
                (1 + one + other, (one, other), (1 - SINGLE) * below[one] * below[other])
                for one, other in itertools.product(below, below)
            ]
        for size, halves, chance in unsigned:
            made.setdefault(size, []).append(((False, halves), chance * (1 - NEGATED)))
            made.setdefault(size + 1, []).append(((True, halves), chance * NEGATED))
        levels.append({size: _choices(ways) for size, ways in made.items()})
    return levels


_WAYS = _ways()
#: For the number of operators of the longer statement of a pair, the numbers of both.
_SIZES = {
    longest: _choices(
        [
            ((one, other), _WAYS[-1][one].sums[-1] * _WAYS[-1][other].sums[-1])
            for one in range(longest + 1)
            for other in range(longest + 1)
            if max(one, other) == longest
        ]
    )
    for longest in range(MOST_OPERATORS + 1)
}


def _drawn(size: int, names: Sequence[str], chance: Callable[[], float], level: int) -> Statement:
    negated, halves = _WAYS[level][size].draw(chance)
    if halves is None:
        made = variable(names[int(chance() * len(names))])
    else:
        one, other = (_drawn(half, names, chance, level - 1) for half in halves)
        made = joined(one, "and" if chance() < 0.5 else "or", other)
    return negation(made) if negated else made


class PropositionalLogic(SentencePairs):
    """The relation between two statements of propositional logic.

    Bowman et al. 2015, "Tree-structured composition in neural networks without tree-structured
    architectures", section 3. Statements have the variables a to f, ``not``, ``and`` and ``or``,
    with brackets around each operator and what it joins. The relation is one of seven, from the
    truth tables of both over 64 rows (:func:`~tasks.entailment.relation`).

    Pairs are drawn as in the program of the paper's authors. Four of the six variables are drawn
    for a pair. A statement is a variable with chance 5/9, and else two statements joined by ``and``
    or ``or`` with equal chance, at most three levels deep; each statement and each part of one is
    negated with chance 1/3. A pair with a statement that is always true or always false is drawn
    again. The size of a pair is the number of operators of its longer statement. Sizes are spread
    evenly; within a size the chances are those above. Relations are not balanced: about half of the
    pairs are independent.

    One pair in ten, by a checksum of its text, is kept for tests and one for validation; training
    draws from the others. The test set ``test`` has the sizes of training, and ``longer`` greater
    ones. Batch i of each has its i-th size.

    Args:
        min_operators: fewest operators of the longer statement in training, at least 1.
        max_operators: most operators of the longer statement in training, at most 12.
        longest: most operators in the set ``longer``, at most 12; not above ``max_operators`` = no
            such set.
        test_sequences: number of pairs of each size in a test set, at least 1. A pair may come
            twice.
        settings: see :class:`~tasks.Task`.
    """

    relations = RELATIONS

    def __init__(
        self,
        min_operators: int = 1,
        max_operators: int = 4,
        longest: int = MOST_OPERATORS,
        test_sequences: int = 1000,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_range("operators", min_operators, max_operators, least=1)
        check_positive(test_sequences=test_sequences)
        for name, size in (("max_operators", max_operators), ("longest", longest)):
            if size > MOST_OPERATORS:
                raise ValueError(f"{name} must be at most {MOST_OPERATORS}; got {size}")
        # An operator brings two brackets and at most one variable.
        steps = 4 * max(max_operators, longest) + 2
        self.check_room(steps, tested=[(test_sequences, steps)])
        self.min_operators = min_operators
        self.max_operators = max_operators
        self.test_sequences = test_sequences
        self.test_sizes = {
            "test": list(range(min_operators, max_operators + 1)),
            "longer": list(range(max_operators + 1, longest + 1)),
        }
        self._words = Words(SYMBOLS)
        self.input_size, self.output_size = len(self._words), len(RELATIONS)

    @property
    def words(self) -> Words:
        """The symbols."""
        return self._words

    def test_names(self) -> list[str]:
        """``test``, and ``longer`` if there is such a set."""
        return [name for name, sizes in self.test_sizes.items() if sizes]

    def batches(self, split: str) -> int:
        """See :meth:`~tasks.Task.batches`; a test set has a batch for each size."""
        return len(self.test_sizes[split]) if split in self.test_sizes else super().batches(split)

    def measure(self, split: str, answers: list[Tensor]) -> dict[str, float]:
        """``accuracy_operators_<n>``, the share of right answers for each size of a test set.

        Args:
            split: one of :meth:`test_names`.
            answers: numbers of relations ``[B, 1]`` for each batch of the set, or for its first
                batches.
        """
        return {
            f"accuracy_operators_{size}": float(
                (answer == self.batch(split, index).targets).double().mean()
            )
            for index, (size, answer) in enumerate(
                zip(self.test_sizes[split], answers, strict=False)
            )
        }

    def split_up(self, sentence: str) -> Sequence[str]:
        """Symbols of a statement, with all brackets; see :func:`~tasks.entailment.parse`."""
        return parse(sentence).words

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or a test set."""
        chosen = self.pairs(split, index)
        return self.batch_of(
            [(premise.words, hypothesis.words) for premise, hypothesis in chosen],
            [relation(*pair) for pair in chosen],
        )

    def pairs(self, split: str, index: int) -> list[tuple[Statement, Statement]]:
        """Statements of a batch.

        Raises:
            IndexError: the test set has no such batch.
        """
        random = self.random(split, index)
        count = self.sequences(split, self.test_sequences)
        if split in self.test_sizes:
            sizes = [self.test_sizes[split][index]] * count
        else:
            sizes = random.integers(self.min_operators, self.max_operators + 1, count).tolist()
        kept = split if split in ("train", "val") else "test"
        # Single draws from NumPy are slow: draw many at once.
        chance = itertools.chain.from_iterable(
            random.random(4096).tolist() for _ in itertools.count()
        ).__next__
        return [_pair(size, kept, chance) for size in sizes]


def _pair(size: int, kept: str, chance: Callable[[], float]) -> tuple[Statement, Statement]:
    """Draw a pair of a size that is kept for ``train``, ``val`` or ``test``."""
    while True:
        left = list(VARIABLES)
        names = [left.pop(int(chance() * len(left))) for _ in range(SHARED)]
        one, other = (_drawn(half, names, chance, LEVELS) for half in _SIZES[size].draw(chance))
        if all(0 < each.rows < ALL for each in (one, other)) and _kept_for(one, other) == kept:
            return one, other


def _kept_for(premise: Statement, hypothesis: Statement) -> str:
    """The split that may have a pair: ``train``, ``val`` or ``test``."""
    text = " ".join([*premise.words, "|", *hypothesis.words])
    return {0: "test", 1: "val"}.get(zlib.crc32(text.encode()) % HELD_OUT, "train")


# -- files of a user's own -------------------------------------------------------------------------

#: Of the premises, one in so many is held out for validation or a test without a file.
HELD_OUT_PREMISES = 20
#: Fields of a line: the label, the premise and the hypothesis.
FIELDS = ("gold_label", "sentence1", "sentence2")


class Entailment(SentencePairs, FixedSets):
    """The relation between two sentences, from files in the format of SNLI.

    A line of a file is a JSON object with the fields ``gold_label``, one of ``entailment``,
    ``neutral`` and ``contradiction``; ``sentence1``, the premise; and ``sentence2``, the
    hypothesis. Other fields do not count. Pairs with the label ``-``, on which the annotators did
    not agree, are left out and counted. Files are plain or ``.gz``, and read when they are first
    needed.

    Sentences are split into words and signs, in small letters. The vocabulary is that of the
    training pairs, and kept in checkpoints. A pass over the training data is a permutation of its
    pairs; validation and test have every pair.

    Args:
        train: files of the training pairs.
        val: files of the validation pairs. By default one in 20 of the training premises is held
            out, chosen by its text.
        test: files of the test pairs; the default is as for ``val``.
        folder: folder of all files that are not absolute paths.
        vocabulary_size: most tokens of the vocabulary, with the four marks, at least 5; rarer words
            are unknown.
        epoch_batches: number of training batches between two validations; by default those of a
            pass over the data.
        validation_batches: number of batches of a validation; all by default.
        settings: see :class:`~tasks.Task`.

    Attributes:
        skipped: number of pairs left out so far, by reason and file.

    Raises:
        ValueError: a setting is out of its range.
    """

    relations = LABELS
    kept = ("words",)
    about = "pairs of sentences"
    items_are = "pairs"

    def __init__(
        self,
        train: list[str] | str | None = None,
        val: list[str] | str | None = None,
        test: list[str] | str | None = None,
        folder: str = ".",
        vocabulary_size: int = 20_000,
        epoch_batches: int | None = None,
        validation_batches: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(
            epoch_batches=epoch_batches, validation_batches=validation_batches, **settings
        )
        if vocabulary_size <= END + 1:
            raise ValueError(
                f"vocabulary_size must be above {END + 1}, the number of marks; "
                f"got {vocabulary_size}"
            )
        self.paths = paths_of(folder, train=train, val=val, test=test)
        if not self.paths["train"]:
            raise ValueError("expected files of pairs to train on, --data.train; got none")
        self.vocabulary_size = vocabulary_size
        self.input_size, self.output_size = vocabulary_size, len(LABELS)
        self._words: Words | None = None
        self._pairs: dict[str, list[tuple[Pair, int]]] = {}
        self._pass: tuple[int, list[int]] | None = None

    @property
    def words(self) -> Words:
        """The vocabulary, of a checkpoint or of the training pairs."""
        if self._words is None:
            sentences = [side for pair, _ in self.pairs("train") for side in pair]
            self._words = Words.of(sentences, size=self.vocabulary_size)
        return self._words

    def vocabularies(self) -> list[Words]:
        """The :attr:`words`."""
        return [self.words]

    def restore(self, tensors: list[Tensor]) -> None:
        """See :meth:`~tasks.sets.FixedSets.restore`."""
        words = Words.from_tensor(tensors[0])
        if len(words) > self.vocabulary_size:
            raise ValueError(
                f"expected a checkpoint with a vocabulary of at most vocabulary_size="
                f"{self.vocabulary_size} tokens; got {len(words)}"
            )
        self._words = words

    def split_up(self, sentence: str) -> Sequence[str]:
        """Words and signs of a sentence, in small letters.

        Raises:
            ValueError: it has none.
        """
        words = re.findall(r"\w+|[^\w\s]", sentence.lower())
        if not words:
            raise ValueError(f"expected a sentence; got {sentence!r}")
        return words

    def pairs(self, split: str) -> list[tuple[Pair, int]]:
        """Pairs of ``train``, ``val`` or ``test``, as words, and the numbers of their relations.

        Raises:
            ValueError: a file is missing, damaged, or of another form.
        """
        if split not in self._pairs:
            if split != "train" and self.paths[split]:
                self._pairs[split] = self._read(split)
            else:
                self._pairs.update(self._shared())
        return self._pairs[split]

    def _shared(self) -> dict[str, list[tuple[Pair, int]]]:
        """Training pairs, without those that are held out where there is no file."""
        shares: dict[str, list[tuple[Pair, int]]] = {"train": []}
        missing = [name for name in ("val", "test") if not self.paths[name]]
        shares.update((name, []) for name in missing)
        read = self._read("train")
        for pair, label in read:
            # By the premise, so that all pairs of one are held out together.
            number = zlib.crc32(" ".join(pair[0]).encode()) % HELD_OUT_PREMISES
            name = missing[number] if number < len(missing) else "train"
            shares[name].append((pair, label))
        for name, share in shares.items():
            if not share:
                raise ValueError(
                    f"expected more pairs in {', '.join(self.paths['train'])}: none is left for "
                    f"{name}; give files of {name} pairs"
                )
        warn_of_labels(
            ((" / ".join(map(" ".join, pair)), LABELS[label]) for pair, label in read),
            "pairs",
        )
        check_labels([LABELS[label] for _, label in read], "pairs", ", ".join(self.paths["train"]))
        return shares

    def _read(self, split: str) -> list[tuple[Pair, int]]:
        found = []
        for path in self.paths[split]:
            undecided = 0
            for number, line in enumerate(read_lines(path), start=1):
                if not line.strip():
                    continue
                try:
                    label, *sides = fields_of(line)
                    if label == UNDECIDED:
                        undecided += 1
                        continue
                    premise, hypothesis = map(self.split_up, sides)
                except ValueError as error:
                    raise ValueError(f"{path}, line {number}: {error}") from None
                found.append(((premise, hypothesis), LABELS.index(label)))
            self.skip(f"without an agreed label in {path}", undecided)
        if not found:
            raise ValueError(
                f"expected pairs with a label in {', '.join(self.paths[split])}; got none"
            )
        return found

    def all_batches(self, split: str) -> int:
        """See :meth:`~tasks.sets.Passes.all_batches`."""
        return -(-len(self.pairs(split)) // self.sequences(split, self.validation_batch_size))

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or ``test``.

        Raises:
            IndexError: validation or test has no such batch.
        """
        pairs = self.pairs(split)
        size = self.sequences(split, self.validation_batch_size)
        if split == "train":
            # The last batch of a pass is filled up with the first pairs of its permutation.
            epoch, index = divmod(index, -(-len(pairs) // size))
            if self._pass is None or self._pass[0] != epoch:
                self._pass = epoch, self.random(split, epoch).permutation(len(pairs)).tolist()
            order = self._pass[1]
            rows = [order[place % len(order)] for place in range(index * size, (index + 1) * size)]
        else:
            rows = list(range(index * size, min((index + 1) * size, len(pairs))))
            if not rows:
                raise IndexError(f"{split} has {self.batches(split)} batches, numbered from 0")
        chosen = [pairs[row] for row in rows]
        return self.batch_of([pair for pair, _ in chosen], [label for _, label in chosen])


def fields_of(line: str) -> tuple[str, str, str]:
    """Label, premise and hypothesis of a line of JSON.

    Raises:
        ValueError: the line is no JSON object, or a field is missing or of another kind.
    """
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(f"expected a JSON object; got {line[:60]!r}") from None
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object; got {line[:60]!r}")
    for field in FIELDS:
        if not isinstance(content.get(field), str):
            got = repr(content[field]) if field in content else "an object without it"
            raise ValueError(f"expected a text in the field {field}; got {got}")
    if content[FIELDS[0]] not in (*LABELS, UNDECIDED):
        raise ValueError(
            f"expected the gold_label {', '.join(LABELS)} or {UNDECIDED}; "
            f"got {content[FIELDS[0]]!r}"
        )
    label, premise, hypothesis = (content[field] for field in FIELDS)
    return label, premise, hypothesis
