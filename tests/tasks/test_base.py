"""What all tasks share."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import (
    AssociativeRecall,
    ConvexHull,
    Copying,
    CopyingTokens,
    Delaunay,
    FewShot,
    RepeatCopying,
    Sinusoids,
    SortingNumbers,
    SortingTokens,
    TravellingSalesman,
)


def sized(numbers: list[int]) -> list[tuple[int, int]]:
    """A test set of each of the numbers, no two of as many sequences."""
    return [(number, sequences) for sequences, number in enumerate(numbers, start=1)]


#: What makes a task with test sets of some numbers, and how such a set is named.
TEST_SETS = {
    "copying": (lambda numbers: Copying(test_sets=sized(numbers)), "length_{}"),
    "repeat copying": (
        lambda numbers: RepeatCopying(test_sets=[(n, 7, size) for n, size in sized(numbers)]),
        "length_{}_repeats_7",
    ),
    "recall": (lambda numbers: AssociativeRecall(test_sets=sized(numbers)), "items_{}"),
    "tokens": (lambda numbers: SortingTokens(test_sets=sized(numbers)), "length_{}"),
    "pointing": (lambda numbers: ConvexHull(test_sets=sized(numbers)), "n_{}"),
    "few examples": (lambda numbers: FewShot(shots=numbers), "shot_{}"),
    "sines": (lambda numbers: Sinusoids(shots=numbers), "shot_{}"),
}


@pytest.mark.parametrize(("make", "name"), TEST_SETS.values(), ids=TEST_SETS.keys())
@given(numbers=st.lists(st.integers(3, 6), min_size=1, max_size=3))
def test_a_test_set_that_is_given_twice_is_named(make, name: str, numbers: list[int]) -> None:
    if len(set(numbers)) == len(numbers):
        names = [each for each in make(numbers).test_names() if each != "test"]
        assert names == [name.format(number) for number in numbers]
    else:
        twice = next(n for place, n in enumerate(numbers) if n in numbers[:place])
        with pytest.raises(ValueError, match=f"must be given once; got {name.format(twice)} twice"):
            make(numbers)


OLD_NAMES = {
    **dict.fromkeys([CopyingTokens, SortingTokens], "test_lengths"),
    **dict.fromkeys([SortingNumbers, ConvexHull, Delaunay, TravellingSalesman], "test_points"),
}


@pytest.mark.parametrize(("make", "old"), OLD_NAMES.items())
def test_test_sets_had_other_names_before(make, old: str, caplog) -> None:
    new = make(test_sets=[(4, 2), (3, 1)])
    assert not caplog.messages
    with caplog.at_level(logging.WARNING):
        assert make(**{old: [[4, 2], [3, 1]]}).test_names() == new.test_names()
    assert caplog.messages == [f"{old} is now called test_sets; the old name will go"]
    # As when a config of before is given new test sets on the command line.
    assert make(**{old: [[9, 9]]}, test_sets=[(4, 2), (3, 1)]).test_names() == new.test_names()
    assert make(**{old: []}).test_names() == ["test"]
