"""Families of stories about people who move, and about what they carry."""

from __future__ import annotations

import numpy as np

from tasks.babi.telling import PEOPLE, PLACES, SHE, THINGS, World

__all__ = [
    "carrying",
    "compound_reference",
    "conjunction",
    "counting",
    "gifts",
    "indefinite",
    "negation",
    "one_fact",
    "reference",
    "three_facts",
    "time",
    "two_facts",
    "yes_or_no",
]

#: Questions of a story, and sentences before each of them in the families of short stories.
QUESTIONS, SENTENCES = 5, 2
#: Fewest sentences between questions in the families of long stories.
LEAST = 3
NUMBERS = ("none", "one", "two", "three")
TIMES = ("Yesterday", "This morning", "This afternoon", "This evening")
THEN = ("Then", "Afterwards", "Later", "Next")


def where(world: World) -> None:
    """Ask for the place of somebody whose place was told."""
    person = world.pick([person for person in PEOPLE if person in world.known])
    world.ask(f"Where is {person}?", world.known[person])


def one_fact(random: np.random.Generator) -> World:
    """1: people walk; where is one of them?"""
    world = World(random)
    for _ in range(QUESTIONS):
        for _ in range(SENTENCES):
            world.move()
        where(world)
    return world


def yes_or_no(random: np.random.Generator) -> World:
    """6: people walk; is one of them at a place?"""
    world = World(random)
    for _ in range(QUESTIONS):
        for _ in range(SENTENCES):
            world.move()
        person = world.pick([person for person in PEOPLE if person in world.known])
        right = world.chance()
        place = world.known[person] if right else world.elsewhere(person)
        world.ask(f"Is {person} in the {place}?", "yes" if right else "no")
    return world


def two_facts(random: np.random.Generator) -> World:
    """2: people walk and carry things; where is a thing?"""
    world = World(random)
    since = 0
    while len(world.questions) < QUESTIONS:
        world.happen(world.move, world.take, world.take, world.drop, world.drop)
        since += 1
        there = [thing for thing in THINGS if thing in world.known]
        if since >= LEAST and there and world.chance():
            thing = world.pick(there)
            world.ask(f"Where is the {thing}?", world.known[thing])
            since = 0
    return world


def three_facts(random: np.random.Generator) -> World:
    """3: people walk and carry things; where was a thing, as somebody carried it, before a place?

    The three facts are who put the thing down, and two walks of this person, one after the other.
    """
    world = World(random)
    since = 0
    while len(world.questions) < QUESTIONS:
        world.happen(world.move, world.take, world.take, world.drop, world.drop)
        since += 1
        # Two places of the way that a thing was carried last, of which the second came once.
        known = [
            (thing, way[place], way[place + 1])
            for thing, way in world.ways.items()
            for place in range(len(way) - 1)
            if world.holder[thing] is None and way.count(way[place + 1]) == 1
        ]
        if since >= LEAST and known and world.chance():
            thing = world.pick(sorted({thing for thing, _, _ in known}))
            _, before, place = world.pick([each for each in known if each[0] == thing])
            world.ask(f"Where was the {thing} before the {place}?", before)
            since = 0
    return world


def gifts(random: np.random.Generator) -> World:
    """5: people give things to each other; who gave what to whom?"""
    world = World(random)
    given: list[tuple[str, str, str]] = []

    def give() -> bool:
        gift = world.give()
        given.extend([gift] if gift else [])
        return gift is not None

    while len(world.questions) < QUESTIONS:
        asked = len(given)
        while len(given) == asked:
            world.happen(world.move, world.take, world.drop, *[give] * 3)
        giver, thing, receiver = given[-1]
        kind = world.below(4)
        if kind == 0:
            world.ask(f"What did {giver} give to {receiver}?", thing)
        elif kind == 1:
            world.ask(f"Who gave the {thing} to {receiver}?", giver.lower())
        elif kind == 2:
            world.ask(f"Who did {giver} give the {thing} to?", receiver.lower())
        else:
            world.ask(f"Who received the {thing}?", receiver.lower())
    return world


def _carriers(random: np.random.Generator, question: str, answer: bool) -> World:
    """People walk, carry things and give them; something is asked about what somebody carries."""
    world = World(random)
    known: list[str] = []

    def noted(*people: str) -> bool:
        known.extend(person for person in people if person not in known)
        return True

    def handle() -> bool:
        action = world.pick((world.take, world.take, world.drop))
        return action() and noted(world.sentences[-1].split()[0])

    def give() -> bool:
        gift = world.give()
        return gift is not None and noted(gift[0], gift[2])

    while len(world.questions) < QUESTIONS:
        for _ in range(SENTENCES):
            world.happen(world.move, handle, handle, give)
        if known:
            person = world.pick(known)
            things = world.carried(person)
            listed = ",".join(things) or "nothing"
            world.ask(question.format(person), listed if answer else NUMBERS[len(things)])
    return world


def counting(random: np.random.Generator) -> World:
    """7: how many things does somebody carry?"""
    return _carriers(random, "How many things is {} carrying?", answer=False)


def carrying(random: np.random.Generator) -> World:
    """8: which things does somebody carry?"""
    return _carriers(random, "What is {} carrying?", answer=True)


def negation(random: np.random.Generator) -> World:
    """9: people are, or are not, at a place; is one of them at a place?"""
    world = World(random)
    #: Of each person, the place told last, and whether it is the right one.
    told: dict[str, tuple[str, bool]] = {}
    for _ in range(QUESTIONS):
        for _ in range(SENTENCES):
            person = world.pick(PEOPLE)
            if world.below(4):
                place = world.elsewhere(person)
                world.arrive(person, place)
                verb = f"{world.went()} to" if world.chance() else "is in"
                world.tell(f"{person} {verb} the {place}.")
                told[person] = place, True
                continue
            before = told.get(person)
            if before is not None and before[1]:
                # Nobody says where the person has gone.
                world.place[person] = world.elsewhere(person)
                world.tell(f"{person} is no longer in the {before[0]}.")
                told[person] = before[0], False
            else:
                place = world.elsewhere(person)
                world.tell(f"{person} is not in the {place}.")
                told[person] = place, False
        person = world.pick([person for person in PEOPLE if person in told])
        place, there = told[person]
        if there and world.chance():
            place, there = world.elsewhere(person), False
        world.ask(f"Is {person} in the {place}?", "yes" if there else "no")
    return world


def indefinite(random: np.random.Generator) -> World:
    """10: people are at one of two places; is one of them at a place?"""
    world = World(random)
    told: dict[str, list[str]] = {}
    for _ in range(QUESTIONS):
        for _ in range(SENTENCES):
            person = world.pick(PEOPLE)
            place = world.elsewhere(person)
            world.place[person] = place
            told[person] = [place]
            if world.chance():
                told[person] = world.some([place, world.elsewhere(person)], 2)
                one, other = told[person]
                world.tell(f"{person} is either in the {one} or the {other}.")
            else:
                world.tell(f"{person} {world.went()} to the {place}.")
        person = world.pick([person for person in PEOPLE if person in told])
        places = told[person]
        if world.below(3):
            sure = "yes" if len(places) == 1 else "maybe"
            world.ask(f"Is {person} in the {world.pick(places)}?", sure)
        else:
            others = [place for place in PLACES if place not in places]
            world.ask(f"Is {person} in the {world.pick(others)}?", "no")
    return world


def reference(random: np.random.Generator) -> World:
    """11: a pronoun stands for the person of the sentence before."""
    world = World(random)
    for _ in range(QUESTIONS):
        world.move()
        person = world.sentences[-1].split()[0]
        place = world.elsewhere(person)
        pronoun = "she" if SHE[person] else "he"
        world.tell(f"{world.pick(THEN)} {pronoun} {world.went()} to the {place}.")
        world.arrive(person, place)
        where(world)
    return world


def _together(world: World, people: list[str], place: str) -> None:
    for person in people:
        world.arrive(person, place)


def conjunction(random: np.random.Generator) -> World:
    """12: two people walk together; where is one of them?"""
    world = World(random)
    for _ in range(QUESTIONS):
        for _ in range(SENTENCES):
            people, place = world.some(PEOPLE, 2), world.pick(PLACES)
            world.tell(f"{people[0]} and {people[1]} {world.went()} to the {place}.")
            _together(world, people, place)
        where(world)
    return world


def compound_reference(random: np.random.Generator) -> World:
    """13: *they* stands for the two people of the sentence before."""
    world = World(random)
    for _ in range(QUESTIONS):
        people, (place, other) = world.some(PEOPLE, 2), world.some(PLACES, 2)
        world.tell(f"{people[0]} and {people[1]} {world.went()} to the {place}.")
        world.tell(f"{world.pick(THEN)} they {world.went()} to the {other}.")
        _together(world, people, other)
        where(world)
    return world


def time(random: np.random.Generator) -> World:
    """14: walks at told times, in any order; where was somebody before a place?"""
    world = World(random)
    walks: dict[str, dict[int, str]] = {person: {} for person in PEOPLE}

    def walk(person: str) -> None:
        free = [moment for moment in range(len(TIMES)) if moment not in walks[person]]
        place = world.pick([place for place in PLACES if place not in walks[person].values()])
        moment = world.pick(free)
        walks[person][moment] = place
        world.tell(f"{TIMES[moment]} {person} {world.went()} to the {place}.")

    first = world.pick(PEOPLE)
    for _ in range(SENTENCES):
        walk(first)
    for _ in range(QUESTIONS):
        for _ in range(SENTENCES):
            walk(world.pick([person for person in PEOPLE if len(walks[person]) < len(TIMES)]))
        person = world.pick([person for person in PEOPLE if len(walks[person]) > 1])
        places = [walks[person][moment] for moment in sorted(walks[person])]
        place = world.below(len(places) - 1)
        world.ask(f"Where was {person} before the {places[place + 1]}?", places[place])
    return world
