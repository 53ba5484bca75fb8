"""Places that tasks give to their steps, against plain Python."""

from functools import partial

import numpy as np
import pytest
import torch

import tasks
from memnets.batches import unpadded
from tasks import symbols

SMALL = {"batch_size": 20, "max_length": 9, "mixed_lengths": True}


def in_order(text):
    return list(range(1, len(text) + 1)), list(range(1, len(text) + 1))


def backward(text):
    return list(range(1, len(text) + 1)), list(range(len(text), 0, -1))


def twice(text):
    return list(range(1, len(text) + 1)), 2 * list(range(1, len(text) + 1))


def odds_first(text):
    return list(range(1, len(text) + 1)), [*range(2, len(text) + 1, 2), *range(1, len(text) + 1, 2)]


def by_power(text):
    """The place of a bit is one more than its power of 2; the answer's bits count on."""
    source, power = [], 0
    for symbol in text:
        power = 0 if symbol == "+" else power + 1
        source.append(power)
    return source, list(range(1, 20))


@pytest.mark.parametrize(
    ("task", "rule"),
    [
        (symbols.Repeating, in_order),
        (symbols.Reversal, backward),
        (symbols.Duplicating, twice),
        (symbols.OddsFirst, odds_first),
        (symbols.BinaryAddition, by_power),
    ],
)
def test_symbols_that_belong_together_share_a_place(task, rule):
    made = task(**SMALL)
    batch = made.batch("train", 0)
    for row in range(len(batch.source)):
        source, target = made.labels(batch, row)
        read, said = rule("".join(source))
        assert batch.source_places[row, : len(source)].tolist() == read
        assert batch.target_places[row, : len(target)].tolist() == said[: len(target)]


def test_a_copy_of_tokens_ends_where_its_source_ends():
    batch = tasks.CopyingTokens(batch_size=20, max_length=9).batch("train", 0)
    for row in range(20):
        for places, mask in (
            (batch.source_places, batch.source_mask),
            (batch.target_places, batch.target_mask),
        ):
            own = unpadded(places, mask, row).tolist()
            assert own == list(range(1, len(own) + 1))
            assert places[row, len(own) :].unique().tolist() in ([], own[-1:])


@pytest.mark.parametrize(("task", "backward"), [(tasks.Copying, False), (tasks.Reversing, True)])
def test_a_vector_of_the_answer_has_the_place_of_the_same_vector(task, backward):
    batch = task(width=3, max_length=9, batch_size=20, mixed_lengths=True).batch("train", 0)
    for row in range(20):
        said = unpadded(batch.target_places, batch.target_mask, row).tolist()
        read = unpadded(batch.source_places, batch.source_mask, row).tolist()
        assert read == list(range(1, len(said) + 2))  # the flag comes last
        assert said == (read[-2::-1] if backward else read[:-1])
        for place, bits in zip(said, batch.targets[row], strict=False):
            assert torch.equal(batch.source[row, read.index(place), :-1], bits)


class Opposite(tasks.Copying):
    """The bits, each the other one."""

    def answer(self, bits, lengths):
        return 1 - bits


class Later(tasks.Reversing):
    """Changes its batches."""

    def batch(self, split, index):
        return super().batch(split, index)._replace(targets=None)


class Same(Opposite):
    def coupling(self, lengths):
        return tasks.Copying.coupling(self, lengths)


def test_answers_of_its_own_have_places_if_the_class_gives_them_too():
    settings = {"width": 3, "max_length": 4, "batch_size": 2}
    assert Opposite(**settings).batch("train", 0).places is None
    assert Later(**settings).batch("train", 0).places is None
    assert Same(**settings).batch("train", 0).places.answer[0, 0] == 1


def test_some_tasks_give_none():
    for task in (symbols.Parity, symbols.FlipFlop, symbols.BinaryMultiplication):
        assert task(**SMALL).batch("train", 0).places is None
    assert tasks.SortingTokens(batch_size=2).batch("train", 0).places is None


def test_places_do_not_tell_the_length_of_a_sum():
    """1 + 1 has a bit more than 1 + 0; the places are the same."""
    made = symbols.BinaryAddition(**SMALL)
    (_, one), (_, other) = (made.coupling(np.array(q)) for q in ([1, 2, 1], [1, 2, 0]))
    assert one.tolist() == other.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([1, 2, 3], TypeError, r"a pair, the places of the source .* got \[1, 2, 3\]"),
        ((3, [1]), TypeError, "each of the 3 steps of the source a place, .* got 3"),
        (([1, 2], [1]), ValueError, r"each of the 3 steps of the source .* got \[1, 2\]"),
        (([1, 2, -3], [1]), ValueError, r"each of the 3 .* at least 0; got \[1, 2, -3\]"),
        (([0.5, 1, 2], [1]), TypeError, r"each of the 3 .* whole numbers .* got \[0.5, 1, 2\]"),
        (([1, 2, 3], []), ValueError, r"the answer places, one or more, .* got \[\]"),
        (([1, 2, 3], [[1]]), TypeError, r"the answer places, .* got \[\[1\]\]"),
    ],
)
def test_places_of_a_task_that_are_none_are_named(given, error, message):
    class Odd(symbols.Reversal):
        def coupling(self, question):
            return given

    with pytest.raises(error, match=f"Odd.coupling must give {message}"):
        Odd(batch_size=2).asked(["011"])


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, partial(np.array, dtype=np.uint8)])
def test_places_of_numpy_and_torch_are_those_of_lists(kind):
    class Other(symbols.Reversal):
        def coupling(self, question):
            return kind([4, 2, 0]), kind([7])

    batch = Other(batch_size=2).asked(["011"])
    assert batch.source_places.tolist() == [[4, 2, 0]]
    assert batch.target_places.tolist() == [[7, 7, 7]]
    assert {places.dtype for places in batch.places} == {torch.int64}
