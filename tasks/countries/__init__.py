"""Questions about facts, such as those about the countries of the world."""

from tasks.countries.facts import Fact, KeyHashing, read_facts
from tasks.countries.locations import Locations
from tasks.countries.questions import Question
from tasks.countries.records import country_facts, location_facts
from tasks.countries.task import Countries

__all__ = [
    "Countries",
    "Fact",
    "KeyHashing",
    "Locations",
    "Question",
    "country_facts",
    "location_facts",
    "read_facts",
]
