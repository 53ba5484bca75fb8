"""Questions about facts in English, by rule, and their right answers."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tasks.countries.facts import BACKWARDS, Fact, inverse, plain, with_inverses

__all__ = ["Question", "Wording", "cues", "one_hop", "shares", "two_hops", "wording"]

#: A question may have so many right answers, and pass through so many names, if it has two hops.
MOST_NAMES = 10

#: Words of questions that tell no relation.
FILLERS = {
    *("a", "an", "the", "and", "in", "of", "on", "to", "with", "that", "some", "there", "people"),
    *("what", "where", "which", "who", "whose", "how", "city", "country", "countries", "name"),
    *("do", "does", "have", "has", "is", "are", "was"),
}


class Question(NamedTuple):
    """A question about a fact, or about a chain of facts.

    Attributes:
        words: words of the question; each name is one word.
        about: the name that the question starts from.
        path: relations that lead from there to the answers.
        answers: all right answers.
    """

    words: tuple[str, ...]
    about: str
    path: tuple[str, ...]
    answers: frozenset[str]


class Wording(NamedTuple):
    """English for a relation; ``{}`` stands for the name that is asked about.

    Attributes:
        asks: questions for what the relation leads to.
        phrase: what the relation leads to, as a part of a longer question.
    """

    asks: tuple[str, ...]
    phrase: str


WORDINGS = {
    "capital": Wording(
        ("what is the capital of {}", "which city is the capital of {}"), "the capital of {}"
    ),
    "!capital": Wording(
        ("which country has the capital {}", "{} is the capital of which country"),
        "the country whose capital is {}",
    ),
    "borders": Wording(
        (
            "which countries border {}",
            "what are the neighbours of {}",
            "what are the neighbors of {}",
        ),
        "a neighbour of {}",
    ),
    "region": Wording(
        ("which region is {} in", "to which region does {} belong"), "the region of {}"
    ),
    "!region": Wording(
        ("which countries are in the region {}", "name a country in the region {}"),
        "a country in the region {}",
    ),
    "subregion": Wording(
        ("which subregion is {} in", "to which subregion does {} belong"), "the subregion of {}"
    ),
    "!subregion": Wording(
        ("which countries are in the subregion {}", "name a country in the subregion {}"),
        "a country in the subregion {}",
    ),
    "language": Wording(
        ("which language is spoken in {}", "what do people speak in {}"), "the language of {}"
    ),
    "!language": Wording(
        ("in which countries is {} spoken", "where do people speak {}"),
        "a country where people speak {}",
    ),
    "currency": Wording(
        ("what is the currency of {}", "which money is used in {}"), "the currency of {}"
    ),
    "!currency": Wording(
        ("which countries have the currency {}", "where is the money {} used"),
        "a country with the currency {}",
    ),
    "located in": Wording(("where is {} located",), "the place where {} is located"),
}


def wording(relation: str) -> Wording:
    """English for a relation; by a general rule for one that :data:`WORDINGS` does not have."""
    if relation in WORDINGS:
        return WORDINGS[relation]
    if relation.startswith(BACKWARDS):
        name = inverse(relation)
        phrase = f"what has the {name} {{}}"
        return Wording((f"whose {name} is {{}}", phrase), phrase)
    return Wording(
        (f"what is the {relation} of {{}}", f"what does {{}} have as {relation}"),
        f"the {relation} of {{}}",
    )


def cues(relation: str) -> set[str]:
    """Words that tell a relation from others: of its name, and of its questions."""
    texts = (relation, *wording(relation).asks)
    return {word for text in texts for word in plain(text).split()} - FILLERS


def _worded(template: str, about: str) -> tuple[str, ...]:
    """Words of a question, with the name as one word."""
    before, after = template.split("{}")
    return (*before.split(), about, *after.split())


def _leads(facts: Iterable[Fact]) -> dict[str, dict[str, set[str]]]:
    """Names that each relation leads to: relation -> name -> names."""
    leads: defaultdict[str, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for subject, relation, thing in facts:
        leads[relation][subject].add(thing)
    return {relation: dict(found) for relation, found in leads.items()}


def one_hop(facts: Sequence[Fact]) -> list[Question]:
    """Questions that one fact answers, for each name and relation, in each of its wordings.

    The facts are asked in both directions.
    """
    return [
        Question(_worded(ask, about), about, (relation,), frozenset(things))
        for relation, found in _leads(with_inverses(facts)).items()
        for about, things in found.items()
        for ask in wording(relation).asks
    ]


def two_hops(facts: Sequence[Fact]) -> list[Question]:
    """Questions that need two facts, such as the language of the country whose capital is Paris.

    The name itself is no answer. Questions with more than ten answers, or that pass through more
    than ten names, are left out.
    """
    leads = _leads(with_inverses(facts))
    questions = []
    for first, starts in leads.items():
        for second, found in leads.items():
            if second in (first, inverse(first)):
                continue
            phrase = wording(first).phrase
            templates = [ask.format(phrase) for ask in wording(second).asks]
            for about, between in starts.items():
                answers = frozenset().union(*(found.get(name, ()) for name in between)) - {about}
                if 0 < len(answers) <= MOST_NAMES and len(between) <= MOST_NAMES:
                    questions += [
                        Question(_worded(ask, about), about, (first, second), answers)
                        for ask in templates
                    ]
    return questions


def shares(questions: Sequence[Question], held_out: int = 10) -> dict[str, list[Question]]:
    """Questions of ``train``, ``val`` and ``test``.

    All wordings of a question fall to the same split, chosen by a checksum of its name and its
    relations.

    Args:
        questions: all questions.
        held_out: one question in so many is of ``val``, and as many are of ``test``.

    Raises:
        ValueError: there are too few.
    """
    groups: defaultdict[tuple[str, tuple[str, ...]], list[Question]] = defaultdict(list)
    for question in questions:
        groups[question.about, question.path].append(question)
    if len(groups) < 3:
        raise ValueError(
            "expected facts for at least 3 questions, for training, validation and test; "
            f"got {len(groups)}"
        )
    order = sorted(groups, key=lambda key: (zlib.crc32("\t".join([key[0], *key[1]]).encode()), key))
    held = max(1, len(order) // held_out)
    cuts = {"test": order[:held], "val": order[held : 2 * held], "train": order[2 * held :]}
    return {split: [q for key in keys for q in groups[key]] for split, keys in cuts.items()}
