"""The families of stories by their numbers in Weston et al. 2015."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tasks.babi import moving, reasoning
from tasks.babi.telling import Teller
from tasks.babi.text import Question

__all__ = ["FAMILIES", "draw_stories"]

#: Number of a family -> function that tells one of its stories.
FAMILIES: dict[int, Callable[[np.random.Generator], Teller]] = {
    1: moving.one_fact,
    2: moving.two_facts,
    3: moving.three_facts,
    4: reasoning.directions,
    5: moving.gifts,
    6: moving.yes_or_no,
    7: moving.counting,
    8: moving.carrying,
    9: moving.negation,
    10: moving.indefinite,
    11: moving.reference,
    12: moving.conjunction,
    13: moving.compound_reference,
    14: moving.time,
    15: reasoning.deduction,
    16: reasoning.induction,
    17: reasoning.positions,
    18: reasoning.sizes,
    19: reasoning.paths,
    20: reasoning.motives,
}


def draw_stories(number: int, questions: int, random: np.random.Generator) -> list[list[Question]]:
    """Tell stories of a family.

    Args:
        number: number of the family, 1 to 20.
        questions: number of questions, all stories together, at least 1.
        random: generator of the stories.

    Returns:
        The questions of each story; the last story may have fewer than the others.
    """
    stories = []
    left = questions
    while left > 0:
        story = FAMILIES[number](random).questions[:left]
        stories.append(story)
        left -= len(story)
    return stories
