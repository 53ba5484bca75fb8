"""Facts about countries from the package countryinfo."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Any

from memnets.extras import check_extra
from tasks.countries.facts import Fact, plain

__all__ = ["aliases_of_countries", "country_facts", "location_facts"]

#: Other names of a country with fewer letters are codes, and some are words too: IN, IS, NO, TO.
LEAST_LETTERS = 4


@cache
def _countries() -> dict[str, list[dict[str, Any]]]:
    """Records of each country by its name.

    The package has several records of some countries, such as Burma and Myanmar, which share a code
    of three letters. They are one country here, with the name that the package gives for the code.
    A record without a code is no country (Scotland).
    """
    check_extra("knowledge", "tasks.Countries", "countryinfo", "babel")
    from countryinfo import CountryInfo

    by_code: defaultdict[str, list[Any]] = defaultdict(list)
    for record in CountryInfo.all().values():
        if record.get("ISO", {}).get("alpha3"):
            by_code[record["ISO"]["alpha3"]].append(record)
    return {CountryInfo(code).name(): records for code, records in by_code.items()}


@cache
def _names() -> dict[str, str]:
    """Name of each country by its codes of two and three letters."""
    return {
        record["ISO"][kind]: name
        for name, records in _countries().items()
        for record in records
        for kind in ("alpha2", "alpha3")
    }


def _values(records: list[dict[str, Any]], field: str) -> list[str]:
    """Values of a field in some records, each once.

    A field may be missing or ``None``, and one of the capitals is a list.
    """
    found: dict[str, None] = {}
    for record in records:
        value = record.get(field) or []
        for each in [value] if isinstance(value, str) else value:
            if each.strip():
                found[each.strip()] = None
    return list(found)


@cache
def country_facts() -> tuple[Fact, ...]:
    """Capitals, borders, regions, subregions, languages and currencies of all countries.

    Languages and currencies have their English names, by the package babel. A border counts for
    both countries, also where the package has it for one alone. Codes that stand for nothing in
    these packages are left out: of borders with Kosovo, which has no record, and of a few
    languages and currencies.

    Raises:
        MissingExtra: a package is missing.
    """
    countries, names = _countries(), _names()
    from babel import Locale

    english = Locale("en")
    facts: dict[Fact, None] = {}
    writings: dict[str, str] = {}

    def note(subject: str, relation: str, thing: str) -> None:
        # Some names are written in two ways: South-eastern Asia, South-Eastern Asia.
        subject, thing = (writings.setdefault(plain(each), each) for each in (subject, thing))
        facts[Fact(subject, relation, thing)] = None

    # Countries first, so that their writing counts and not that of a city with the same name.
    for name in countries:
        writings[plain(name)] = name
    for name, records in countries.items():
        for capital in _values(records, "capital"):
            note(name, "capital", capital)
        for code in _values(records, "borders"):
            if code in names and names[code] != name:
                note(name, "borders", names[code])
                note(names[code], "borders", name)
        for relation in ("region", "subregion"):
            for place in _values(records, relation):
                note(name, relation, place)
        for code in _values(records, "languages"):
            if code in english.languages:
                note(name, "language", english.languages[code])
        for code in _values(records, "currencies"):
            if code in english.currencies:
                note(name, "currency", english.currencies[code])
    return tuple(facts)


@cache
def location_facts() -> tuple[Fact, ...]:
    """Facts of the Countries tasks (Bouchard et al. 2015): two relations alone.

    Countries are ``located in`` a subregion and a region, subregions in a region, and countries are
    a ``neighbour of`` others.

    Raises:
        MissingExtra: a package is missing.
    """
    facts = country_facts()
    region = {fact.subject: fact.object for fact in facts if fact.relation == "region"}
    found: dict[Fact, None] = {}
    for subject, relation, thing in facts:
        if relation == "borders":
            found[Fact(subject, "neighbour of", thing)] = None
        elif relation in ("region", "subregion"):
            found[Fact(subject, "located in", thing)] = None
        if relation == "subregion":
            found[Fact(thing, "located in", region[subject])] = None
    return tuple(found)


@cache
def aliases_of_countries() -> dict[str, str]:
    """Name of each country by its other names: as plain text, or in capitals if short (UK, USA).

    Raises:
        MissingExtra: a package is missing.
    """
    names = {plain(name) for fact in country_facts() for name in (fact.subject, fact.object)}
    found: dict[str, str] = {}
    for name, records in _countries().items():
        others = [record["name"] for record in records]
        for field in ("altSpellings", "nativeName"):
            others += _values(records, field)
        for other in map(plain, others):
            if other and other not in names:
                found.setdefault(other if len(other) >= LEAST_LETTERS else other.upper(), name)
    return found
