"""The Countries tasks S1, S2 and S3 (Bouchard et al. 2015): in which region is a country?"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

from tasks.countries.facts import Fact
from tasks.countries.questions import Question, wording

__all__ = ["SETTINGS", "Locations"]

SETTINGS = ("S1", "S2", "S3")
IN, NEXT_TO = "located in", "neighbour of"
#: Number of countries in the test, and in the validation.
HELD_OUT = 20


class Locations:
    """Countries of each split, and the facts that each setting takes away.

    In ``S1``, the region of an asked country has to be found by way of its subregion. In ``S2``,
    its subregion is missing too, and it has to be found by way of the neighbours. In ``S3``, the
    regions of the neighbours are missing too, and it has to be found by way of the neighbours'
    subregions.

    Args:
        facts: ``located in`` and ``neighbour of``, see
            :func:`~tasks.countries.records.location_facts`.
        setting: ``S1``, ``S2`` or ``S3``.

    Attributes:
        regions: the regions by alphabet.
        countries: countries of ``train``, ``val`` and ``test``. Those of validation and test are
            chosen by a checksum of their names among countries with a neighbour in the training.
        facts: what is left when the facts about the countries of validation and test are taken
            away.
    """

    def __init__(self, facts: Sequence[Fact], setting: str) -> None:
        if setting not in SETTINGS:
            raise ValueError(f"setting must be one of {', '.join(SETTINGS)}; got {setting!r}")
        self.setting = setting
        places: defaultdict[str, set[str]] = defaultdict(set)
        self._next_to: defaultdict[str, set[str]] = defaultdict(set)
        for subject, relation, thing in facts:
            (places if relation == IN else self._next_to)[subject].add(thing)
        # A region is a place that is in no other; a subregion lies in a region and is no country.
        self._region = {subject: min(things - places.keys()) for subject, things in places.items()}
        self.regions = sorted(set(self._region.values()))
        subregions = {thing for things in places.values() for thing in things} - set(self.regions)
        self._located = {
            subject: things for subject, things in places.items() if subject not in subregions
        }
        order = sorted(self._located, key=lambda name: (zlib.crc32(name.encode()), name))
        held: list[str] = []
        for name in order:
            if len(held) < 2 * HELD_OUT and self._may_hold(name, held):
                held.append(name)
        # In turn, so that neither has the first of the order alone.
        self.countries = {"test": held[::2], "val": held[1::2]}
        gone = self.hidden(held)
        self.facts = [fact for fact in facts if fact not in gone]
        left = set(self.facts)
        self.countries["train"] = [
            name
            for name in order
            if name not in held and Fact(name, IN, self._region[name]) in left
        ]

    def _may_hold(self, name: str, held: Iterable[str]) -> bool:
        """Whether a country and those already held out all keep a neighbour in the training."""
        out = {*held, name}
        return all(self._next_to[each] - out for each in out)

    def hidden(self, countries: Iterable[str]) -> set[Fact]:
        """Facts that a question about these countries may not use."""
        gone = set()
        for name in countries:
            gone.add(Fact(name, IN, self._region[name]))
            if self.setting != "S1":
                gone.update(Fact(name, IN, place) for place in self._located[name])
            if self.setting == "S3":
                near = self._next_to[name] & self._region.keys()
                gone.update(Fact(each, IN, self._region[each]) for each in near)
        return gone

    def questions(self) -> dict[str, list[Question]]:
        """A question about each country, by split."""
        (ask,) = wording(IN).asks
        before, after = ask.split("{}")
        return {
            split: [
                Question(
                    (*before.split(), name, *after.split()),
                    name,
                    (IN,),
                    frozenset([self._region[name]]),
                )
                for name in names
            ]
            for split, names in self.countries.items()
        }
