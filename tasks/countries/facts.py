"""Facts of three words, files of them, and key hashing: which facts a question brings up."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from tasks.text import read_lines

__all__ = [
    "BACKWARDS",
    "Fact",
    "KeyHashing",
    "bare",
    "inverse",
    "plain",
    "read_facts",
    "symmetric",
    "with_inverses",
]

#: Begin of the name of a relation that is read backwards (Miller et al. 2016, section 4.1).
BACKWARDS = "!"


class Fact(NamedTuple):
    """A fact: ``France``, ``capital``, ``Paris``."""

    subject: str
    relation: str
    object: str


def plain(text: str) -> str:
    """Text without accents, capitals, punctuation and needless spaces, to compare names by.

    Letters of all scripts stay. A text of signs alone becomes empty.
    """
    return bare(text).casefold()


def bare(text: str) -> str:
    """Text without accents, punctuation and needless spaces, but with its capitals."""
    letters = unicodedata.normalize("NFKD", text)
    plain_letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return " ".join(re.findall(r"[^\W_]+", plain_letters))


def inverse(relation: str) -> str:
    """Name of a relation that is read in the other direction: ``capital``, ``!capital``."""
    return relation[1:] if relation.startswith(BACKWARDS) else BACKWARDS + relation


def symmetric(facts: Iterable[Fact]) -> set[str]:
    """Relations of which each fact is also there in the other direction."""
    known = set(facts)
    one_way = {
        fact.relation
        for fact in known
        if Fact(fact.object, fact.relation, fact.subject) not in known
    }
    return {fact.relation for fact in known} - one_way


def with_inverses(facts: Sequence[Fact]) -> list[Fact]:
    """Facts, each followed by itself in the other direction; not so for symmetric relations."""
    both_ways = symmetric(facts)
    result = []
    for fact in facts:
        result.append(fact)
        if fact.relation not in both_ways:
            result.append(Fact(fact.object, inverse(fact.relation), fact.subject))
    return result


def read_facts(path: str) -> list[Fact]:
    """Read facts from a file: subject, relation and object in each line, with tabs between them.

    Empty lines count for nothing, and a fact that comes again counts once. Names that differ in
    capitals, accents or punctuation alone are one name, written as it was the first time.

    Args:
        path: path of the file, UTF-8, plain or gzip.

    Raises:
        ValueError: the file is missing, empty or not in UTF-8, or a line is not a fact; the message
            gives its number.
    """
    facts: dict[Fact, None] = {}
    writings: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        columns = [column.strip() for column in line.split("\t")]
        where = f"{path}, line {number}: expected"
        if len(columns) != 3:
            raise ValueError(
                f"{where} 3 columns, subject, relation and object, with tabs between them; "
                f"got {len(columns)}"
            )
        for name, column in zip(Fact._fields, columns, strict=True):
            if not plain(column):
                raise ValueError(f"{where} a name with letters as the {name}; got {column!r}")
        if columns[1].startswith(BACKWARDS):
            raise ValueError(
                f"{where} a relation that does not begin with {BACKWARDS}, which stands for the "
                f"other direction; got {columns[1]!r}"
            )
        columns[1] = plain(columns[1])
        for place in (0, 2):
            columns[place] = writings.setdefault(plain(columns[place]), columns[place])
        facts[Fact(*columns)] = None
    return list(facts)


class KeyHashing:
    """Find the facts that may help to answer a question (Miller et al. 2016, section 3.2).

    A fact is found if its key, subject and relation, shares a word with the question that is not
    frequent. In further rounds, the objects of the facts found so far find facts in turn, which
    questions of several hops need.

    Args:
        facts: all facts; a memory that is to be found by an object needs the inverse of each
            (:func:`with_inverses`).
        frequent: a word in more keys than this is frequent, and finds nothing.
    """

    def __init__(self, facts: Sequence[Fact], frequent: int = 100) -> None:
        self.facts = facts
        keys: defaultdict[str, list[int]] = defaultdict(list)
        for number, fact in enumerate(facts):
            for word in {fact.subject, fact.relation}:
                keys[word].append(number)
        self._keys = {word: found for word, found in keys.items() if len(found) <= frequent}

    def find(
        self,
        words: Iterable[str],
        rounds: int = 1,
        most: int | None = None,
        hidden: Collection[Fact] = (),
    ) -> list[Fact]:
        """Facts that a question brings up.

        Args:
            words: words of the question.
            rounds: number of rounds, at least 1.
            most: most facts; ``None`` = no limit.
            hidden: facts that are not to be found.

        Returns:
            The facts, without repetition: those of the first round first, and within a round those
            that the rarest words find.
        """
        found: dict[int, None] = {}
        asked: set[str] = set()
        for _ in range(rounds):
            new = {word for word in words if word not in asked and word in self._keys}
            asked |= new
            before = len(found)
            for word in sorted(new, key=lambda word: (len(self._keys[word]), word)):
                for number in self._keys[word]:
                    if self.facts[number] not in hidden:
                        found[number] = None
            words = [self.facts[number].object for number in list(found)[before:]]
        return [self.facts[number] for number in list(found)[:most]]
