"""Parts of all families of stories: a storyteller, and a world of people, places and things."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from tasks.babi.text import Question

__all__ = ["PEOPLE", "PLACES", "SHE", "THINGS", "Teller", "World", "article"]

Item = TypeVar("Item")

PEOPLE = ("Nora", "Felix", "Iris", "Otto")
SHE = {"Nora": True, "Felix": False, "Iris": True, "Otto": False}
PLACES = ("attic", "cellar", "library", "orchard", "stable", "workshop")
THINGS = ("ladder", "lantern", "violin")

_WENT = ("went", "walked", "hurried", "strolled", "headed")
_TOOK = ("took", "grabbed", "lifted", "collected")
_LEFT = ("left", "dropped", "abandoned", "released")
_GAVE = ("gave", "handed", "passed")


def article(noun: str) -> str:
    """A noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


class Teller:
    """Sentences of a story so far, and the questions about it.

    Args:
        random: generator of the story.
    """

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.sentences: list[str] = []
        self.questions: list[Question] = []

    def below(self, number: int) -> int:
        """A random whole number in ``[0, number)``."""
        return int(self.random.integers(number))

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[self.below(len(items))]

    def some(self, items: Sequence[Item], count: int) -> list[Item]:
        """Different items in random order."""
        return [items[place] for place in self.random.permutation(len(items))[:count]]

    def chance(self) -> bool:
        """True in half of the cases."""
        return self.below(2) == 0

    def tell(self, sentence: str) -> None:
        """Go on with the story."""
        self.sentences.append(sentence)

    def ask(self, question: str, answer: str) -> None:
        """Ask about the story so far."""
        self.questions.append(Question(tuple(self.sentences), question, answer))


class World(Teller):
    """People who walk between places, and things that they carry.

    The state of the world is complete from the start. ``known`` is what a reader has been told.

    Attributes:
        place: where each person is.
        holder: who carries each thing; ``None`` = nobody.
        lies: where each thing lies that nobody carries.
        known: told place of each person, and of each thing.
        ways: of each thing, the places to which it was carried since it was last taken.
    """

    def __init__(self, random: np.random.Generator) -> None:
        super().__init__(random)
        self.place = {person: self.pick(PLACES) for person in PEOPLE}
        self.lies = {thing: self.pick(PLACES) for thing in THINGS}
        self.holder: dict[str, str | None] = dict.fromkeys(THINGS)
        self.known: dict[str, str] = {}
        self.ways: dict[str, list[str]] = {thing: [] for thing in THINGS}

    def carried(self, person: str) -> list[str]:
        """Things that a person carries, by alphabet."""
        return [thing for thing in THINGS if self.holder[thing] == person]

    def arrive(self, person: str, place: str) -> None:
        """Let a person be at a place, with all that is carried, and the reader know it."""
        self.place[person] = self.known[person] = place
        for thing in self.carried(person):
            self.known[thing] = place
            self.ways[thing].append(place)

    def _taken(self, thing: str, person: str, place: str | None) -> None:
        """A person holds a thing now, at a place that the reader knows, or not."""
        self.holder[thing] = person
        self.ways[thing] = []
        self.known.pop(thing, None)
        if place is not None:
            self.known[thing] = place

    def elsewhere(self, person: str) -> str:
        """A place where the person is not."""
        return self.pick([place for place in PLACES if place != self.place[person]])

    def went(self) -> str:
        """A verb of motion."""
        return self.pick(_WENT)

    def move(self) -> bool:
        """Somebody goes somewhere else."""
        person = self.pick(PEOPLE)
        place = self.elsewhere(person)
        self.tell(f"{person} {self.went()} to the {place}.")
        self.arrive(person, place)
        return True

    def take(self) -> bool:
        """Somebody takes a thing, if one lies at the place of a random person."""
        person = self.pick(PEOPLE)
        there = [
            thing
            for thing in THINGS
            if self.holder[thing] is None and self.lies[thing] == self.place[person]
        ]
        if not there:
            return False
        thing = self.pick(there)
        self._taken(thing, person, self.known.get(person))
        self.tell(f"{person} {self.pick(_TOOK)} the {thing}{self.pick(('', ' there'))}.")
        return True

    def drop(self) -> bool:
        """Somebody drops a thing, if a random person carries one."""
        person = self.pick(PEOPLE)
        carried = self.carried(person)
        if not carried:
            return False
        thing = self.pick(carried)
        self.holder[thing] = None
        self.lies[thing] = self.place[person]
        self.tell(f"{person} {self.pick(_LEFT)} the {thing}{self.pick(('', ' there'))}.")
        return True

    def give(self) -> tuple[str, str, str] | None:
        """Somebody gives a thing away, if a random person carries one and is not alone.

        Returns:
            The giver, the thing and the receiver; ``None`` if nothing was given.
        """
        giver = self.pick(PEOPLE)
        place = self.place[giver]
        near = [person for person in PEOPLE if self.place[person] == place and person != giver]
        if not near or not self.carried(giver):
            return None
        thing, receiver = self.pick(self.carried(giver)), self.pick(near)
        # Who gives and who receives are at one place: the reader may know it of one of them.
        self._taken(thing, receiver, self.known.get(receiver, self.known.get(giver)))
        self.tell(f"{giver} {self.pick(_GAVE)} the {thing} to {receiver}.")
        return giver, thing, receiver

    def happen(self, *actions: Callable[[], object]) -> None:
        """Let one of some actions happen; impossible ones are drawn anew."""
        while not self.pick(actions)():
            pass
