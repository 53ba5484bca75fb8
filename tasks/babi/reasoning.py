"""Families of stories whose facts have to be put together: directions, kinds, sizes and motives."""

from __future__ import annotations

import numpy as np

from tasks.babi.telling import PLACES, Teller, article

__all__ = [
    "deduction",
    "directions",
    "induction",
    "motives",
    "paths",
    "positions",
    "sizes",
]

#: Steps on a grid, to the right and upwards, by the name of the direction.
STEPS = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}

ANIMALS = {"mouse": "mice", "owl": "owls", "fox": "foxes", "hare": "hares"}
NAMES = ("Pearl", "Hugo", "Wilma", "Rufus")
#: Four of these live in a story of family 16, with one more name.
KINDS = ("swan", "toad", "rhino", "lion")
COLOURS = ("white", "green", "grey", "yellow")
SHAPES = ("red square", "blue square", "pink triangle", "yellow circle")
BOXES = ("suitcase", "chest", "crate", "basket", "purse")

#: Mood -> the place that it sends people to, and what they take there.
MOODS = {
    "hungry": ("pantry", "bread"),
    "thirsty": ("well", "cup"),
    "bored": ("meadow", "kite"),
    "sleepy": ("loft", "blanket"),
}
MOODY = ("Pearl", "Hugo", "Wilma", "Rufus")


def directions(random: np.random.Generator) -> Teller:
    """4: three places in a row; what is beside the middle one?"""
    teller = Teller(random)
    row, way = teller.some(PLACES, 3), teller.pick(("north", "east"))
    facts = [f"The {row[i]} is {way} of the {row[i + 1]}." for i in range(2)]
    for fact in teller.some(facts, 2):
        teller.tell(fact)
    first = teller.chance()
    kind = teller.chance()
    answer = row[0] if first else row[2]
    asked = way if first else OPPOSITE[way]
    if kind:
        teller.ask(f"What is {asked} of the {row[1]}?", answer)
    else:
        teller.ask(f"What is the {row[1]} {OPPOSITE[asked]} of?", answer)
    return teller


def deduction(random: np.random.Generator) -> Teller:
    """15: kinds of animals fear others, and everybody is of a kind; whom does somebody fear?"""
    teller = Teller(random)
    kinds = list(ANIMALS)
    fears = {kind: teller.pick([other for other in kinds if other != kind]) for kind in kinds}
    people = dict(zip(teller.some(NAMES, len(NAMES)), kinds, strict=True))
    facts = [f"{name} is {article(kind)}." for name, kind in people.items()]
    # Mice are afraid of owls.
    facts += [f"{ANIMALS[kind].title()} are afraid of {ANIMALS[fears[kind]]}." for kind in kinds]
    for fact in teller.some(facts, len(facts)):
        teller.tell(fact)
    for name in teller.some(NAMES, len(NAMES)):
        teller.ask(f"What is {name} afraid of?", fears[people[name]])
    return teller


def induction(random: np.random.Generator) -> Teller:
    """16: animals of a kind have a colour; which colour has one whose colour nobody told?"""
    teller = Teller(random)
    names = teller.some((*NAMES, "Greta"), 5)
    kinds = teller.some(KINDS, 3)
    colours = dict(zip(kinds, teller.some(COLOURS, 3), strict=True))
    # The first three are of one kind each; the fourth is one more of a kind, and so is the last.
    of = [*kinds, teller.pick(kinds), teller.pick(kinds)]
    facts = [f"{name} is {article(kind)}." for name, kind in zip(names, of, strict=True)]
    facts += [f"{name} is {colours[kind]}." for name, kind in list(zip(names, of, strict=True))[:4]]
    for fact in teller.some(facts, len(facts)):
        teller.tell(fact)
    teller.ask(f"What colour is {names[4]}?", colours[of[4]])
    return teller


def positions(random: np.random.Generator) -> Teller:
    """17: shapes beside and above each other; is one of them on a side of another?"""
    teller = Teller(random)
    shapes = teller.some(SHAPES, 3)
    steps = {
        "above": (0, 1), "below": (0, -1), "to the left of": (-1, 0), "to the right of": (1, 0)
    }  # fmt: skip
    places = [(0, 0)]
    for number in (1, 2):
        while True:
            way = teller.pick(list(steps))
            x, y = places[-1]
            place = x + steps[way][0], y + steps[way][1]
            if place not in places:
                break
        places.append(place)
        teller.tell(f"The {shapes[number]} is {way} the {shapes[number - 1]}.")
    for _ in range(8):
        one, other = teller.some(range(3), 2)
        across, up = (places[one][axis] - places[other][axis] for axis in (0, 1))
        right = {way: across * x + up * y > 0 for way, (x, y) in steps.items()}
        answer = teller.chance()
        way = teller.pick([way for way in steps if right[way] == answer])
        teller.ask(f"Is the {shapes[one]} {way} the {shapes[other]}?", "yes" if answer else "no")
    return teller


def sizes(random: np.random.Generator) -> Teller:
    """18: things fit in larger things; does one fit in another?"""
    teller = Teller(random)
    boxes = teller.some(BOXES, len(BOXES))  # from the smallest to the largest
    facts = []
    for small, large in zip(range(4), range(1, 5), strict=True):
        if teller.chance():
            facts.append(f"The {boxes[small]} fits inside the {boxes[large]}.")
        else:
            facts.append(f"The {boxes[large]} is bigger than the {boxes[small]}.")
    for fact in teller.some(facts, len(facts)):
        teller.tell(fact)
    for _ in range(5):
        one, other = teller.some(range(5), 2)
        fits = "yes" if one < other else "no"
        if teller.chance():
            teller.ask(f"Does the {boxes[one]} fit in the {boxes[other]}?", fits)
        else:
            teller.ask(f"Is the {boxes[other]} bigger than the {boxes[one]}?", fits)
    return teller


def paths(random: np.random.Generator) -> Teller:
    """19: places beside others; which two steps lead from one to another?"""
    teller = Teller(random)
    places = teller.some(PLACES, len(PLACES))
    cells = {places[0]: (0, 0)}
    links: dict[str, list[str]] = {place: [] for place in places}
    facts = []
    for place in places[1:]:
        while True:
            parent, way = teller.pick(list(cells)), teller.pick(list(STEPS))
            cell = _beside(cells[parent], way)
            touched = [_beside(cell, side) in cells.values() for side in STEPS]
            # A place that touches one other place alone leaves a single way between any two.
            if cell not in cells.values() and sum(touched) == 1:
                break
        cells[place] = cell
        links[place].append(parent)
        links[parent].append(place)
        if teller.chance():
            facts.append(f"The {place} is {way} of the {parent}.")
        else:
            facts.append(f"The {parent} is {OPPOSITE[way]} of the {place}.")
    for fact in teller.some(facts, len(facts)):
        teller.tell(fact)
    middle = teller.pick([place for place in places if len(links[place]) > 1])
    start, end = teller.some(links[middle], 2)
    steps = [
        next(way for way in STEPS if _beside(cells[one], way) == cells[other])
        for one, other in ((start, middle), (middle, end))
    ]
    teller.ask(f"How do you go from the {start} to the {end}?", ",".join(steps))
    return teller


def _beside(cell: tuple[int, int], way: str) -> tuple[int, int]:
    return cell[0] + STEPS[way][0], cell[1] + STEPS[way][1]


def motives(random: np.random.Generator) -> Teller:
    """20: moods send people to places and let them take things; where to, and why?"""
    teller = Teller(random)
    moods = dict(zip(MOODY, teller.some(list(MOODS), len(MOODS)), strict=True))
    told = dict.fromkeys(MOODY, 0)
    unasked: list[tuple[str, str]] = []
    for _ in range(3 * len(MOODY)):
        person = teller.pick([person for person in MOODY if told[person] < 3])
        mood = moods[person]
        place, thing = MOODS[mood]
        if told[person] == 0:
            teller.tell(f"{person} is {mood}.")
            unasked.append((f"Where will {person} go?", place))
        elif told[person] == 1:
            teller.tell(f"{person} {teller.pick(('went', 'walked', 'hurried'))} to the {place}.")
            unasked.append((f"Why did {person} go to the {place}?", mood))
        else:
            teller.tell(f"{person} {teller.pick(('took', 'grabbed'))} the {thing} there.")
            unasked.append((f"Why did {person} get the {thing}?", mood))
        told[person] += 1
        # A question about where somebody will go has no sense once the person is there.
        teller.ask(*unasked.pop())
    return teller
