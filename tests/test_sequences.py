"""Single sequences of a batch, for pictures and pages."""

import torch

from memnets.batches import END, Batch
from memnets.viewing.sequences import alone, answer_length, counted


def test_a_sequence_alone_keeps_the_steps_at_which_nothing_is_asked() -> None:
    """A model reads those too: without them it would answer another question."""
    inputs = torch.arange(10).view(2, 5)
    asked = torch.tensor([[False, True, False, True, False], [True] * 5])
    batch = Batch(torch.ones(2, 1).long(), inputs, 2 * inputs, None, asked)
    one = alone(batch, 0)
    assert one.inputs.tolist() == [[0, 1, 2, 3]]
    assert one.targets.tolist() == [[0, 2, 4, 6]]
    assert one.target_mask is not None
    assert one.target_mask.tolist() == [[False, True, False, True]]
    assert alone(batch, 1).target_mask is None
    padded = batch._replace(target_mask=torch.tensor([[True, True, False, False, False]] * 2))
    assert alone(padded, 1).inputs.tolist() == [[5, 6]]
    assert alone(padded, 1).target_mask is None


def test_one_is_no_plural() -> None:
    assert [counted(number, "wrong bit") for number in range(3)] == [
        "0 wrong bits",
        "1 wrong bit",
        "2 wrong bits",
    ]


def test_an_answer_ends_at_its_end_mark_its_padding_or_the_limit_of_the_model() -> None:
    for tokens, limit, length in (
        ([5, 6, END, 7, 0], None, 3),
        ([5, 6, 0, 0], None, 2),  # cut by a search, beside longer answers
        ([5, 0, 6, 0], None, 3),
        ([5, 6, 7], 2, 2),
        ([5, 0, 0], 2, 1),
        ([0, 0], None, 1),
        ([], None, 0),
    ):
        assert answer_length(torch.tensor(tokens).long(), limit) == length
