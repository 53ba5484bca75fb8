"""Facts, and what follows from them: words, questions, and the facts that a question brings up."""

from __future__ import annotations

from collections.abc import Sequence

from memnets.vocabulary import Words
from tasks.countries.facts import Fact, KeyHashing, bare, plain, with_inverses
from tasks.countries.locations import SETTINGS, Locations
from tasks.countries.questions import Question, one_hop, shares, two_hops
from tasks.countries.records import aliases_of_countries

__all__ = ["ROUNDS", "Knowledge"]

#: Rounds of key hashing for each setting: the number of facts on the way to an answer.
ROUNDS = {"one_hop": 1, "two_hops": 2, "S1": 2, "S2": 2, "S3": 3}


class Knowledge:
    """What there is to ask about, for a setting of :class:`~tasks.Countries`.

    Args:
        facts: all facts.
        setting: ``one_hop``, ``two_hops``, ``S1``, ``S2`` or ``S3``.
        most_facts: most facts that a question brings up.
        frequent: a word in more keys than this finds no facts.
        of_countries: whether names of countries have other spellings and codes.
        words: the vocabulary of a checkpoint; by default that of the facts and questions.

    Attributes:
        facts: all facts.
        locations: what a question of the Countries tasks hides; ``None`` in other settings.
        questions: those of ``train``, ``val`` and ``test``.
        relations: those that the questions of the training ask for, in order.
        words: tokens of all names, relations and words of questions; all of them may be answers.
        names: names by the plain text in which a question may have them.

    Raises:
        ValueError: the facts are too few.
    """

    def __init__(
        self,
        facts: list[Fact],
        setting: str,
        most_facts: int,
        frequent: int,
        of_countries: bool,
        words: Words | None = None,
    ) -> None:
        self.facts = facts
        self.locations = Locations(facts, setting) if setting in SETTINGS else None
        self._rounds, self._most = ROUNDS[setting], most_facts
        if self.locations is not None:
            # In one direction alone: a region does not bring up all its countries.
            self._hashing = KeyHashing(self.locations.facts, frequent)
            self.questions = self.locations.questions()
            self.questions["train"] = [
                question
                for question in self.questions["train"]
                if any(fact.object in question.answers for fact in self.memories(question, "train"))
            ]
        else:
            self._hashing = KeyHashing(with_inverses(facts), frequent)
            self.questions = shares((one_hop if setting == "one_hop" else two_hops)(facts))
        self.relations = sorted({each.path[-1] for each in self.questions["train"]})
        names = dict.fromkeys(name for fact in facts for name in (fact.subject, fact.object))
        rest = {fact.relation for fact in self._hashing.facts}
        for questions in self.questions.values():
            rest.update(word for question in questions for word in question.words)
        self.words = Words(dict.fromkeys([*names, *sorted(rest)])) if words is None else words
        self.names = {plain(name): name for name in names}
        self._codes: dict[str, str] = {}
        if of_countries:
            for other, name in aliases_of_countries().items():
                if name in self.words:
                    (self._codes if other.isupper() else self.names).setdefault(other, name)
        self._longest = max(len(name.split()) for name in self.names)

    def memories(self, question: Question, split: str) -> list[Fact]:
        """Facts that a question brings up; ``train`` hides what would tell the answer at once."""
        hidden: set[Fact] = set()
        if split == "train" and self.locations is not None:
            hidden = self.locations.hidden([question.about])
        return self.found(question.words, hidden)

    def found(self, words: Sequence[str], hidden: set[Fact] | None = None) -> list[Fact]:
        """Facts that the words of a question find, without those that are hidden."""
        return self._hashing.find(words, self._rounds, self._most, hidden or set())

    def read(self, question: str) -> list[str]:
        """Words of a question, see :meth:`tasks.Countries.read`."""
        text = plain(question).split()
        # Which words are in capitals; if all are, that tells nothing.
        written = bare(question).split()
        capitals = [] if question.isupper() else written
        words, place = [], 0
        while place < len(text):
            for length in range(min(self._longest, len(text) - place), 0, -1):
                name = " ".join(text[place : place + length])
                if name in self.names:
                    words.append(self.names[name])
                    break
            else:
                length = 1
                code = capitals[place] if capitals else ""
                words.append(self._codes.get(code, text[place]))
            place += length
        return words
