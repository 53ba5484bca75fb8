"""What the strategies promise really occurs."""

import pytest
import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st

from memnets import testing

SHAPE = (2, 3, 4)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def occurs(strategy, condition):
    find(strategy, condition, settings=settings(max_examples=500, database=None))


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_numbers_occur(dtype):
    tensors = testing.tensors(SHAPE, dtype)
    great = torch.tensor(testing.magnitude(dtype), dtype=torch.float64).to(dtype)
    for number in (0.0, great, -great, torch.finfo(dtype).tiny):
        occurs(tensors, lambda tensor, number=number: (tensor == number).any())
    occurs(tensors, lambda tensor: (tensor[0, 0] == 0).all() and (tensor[1, 0] != 0).any())
    occurs(tensors, lambda tensor: len(tensor.unique()) == tensor.numel())


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_numbers_are_finite_and_in_range(dtype, data):
    assert data.draw(testing.tensors(SHAPE, dtype)).isfinite().all()
    tensor = data.draw(testing.tensors(SHAPE, dtype, low=1.0, high=3.0))
    assert tensor.dtype == dtype
    assert tensor.shape == SHAPE
    assert ((tensor >= 1) & (tensor <= 3)).all()


def test_half_a_range_is_refused():
    with pytest.raises(ValueError, match=r"got 0\.0 and None"):
        find(testing.tensors(SHAPE, low=0.0), bool)


def test_masks_of_every_kind_occur():
    masks = testing.masks(SHAPE)
    occurs(masks, lambda mask: mask.all())
    occurs(masks, lambda mask: not mask.any())
    occurs(masks, lambda mask: mask.any() and not mask.any(-1).all())
    occurs(masks, lambda mask: (mask.sum(-1) == 1).any())


@given(testing.masks(SHAPE, empty_rows=False))
def test_rows_may_be_asked_to_leave_a_slot(mask):
    assert mask.any(-1).all()


@given(testing.weights(SHAPE))
def test_weights_are_on_the_simplex(weights):
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, dtype=torch.float64))


def test_weights_of_every_kind_occur():
    weights = testing.weights(SHAPE)
    occurs(weights, lambda drawn: ((drawn == 0) | (drawn == 1)).all())
    occurs(weights, lambda drawn: (drawn == 0.25).all())
    occurs(weights, lambda drawn: ((drawn > 0) & (drawn < 1)).all())
    occurs(weights, lambda drawn: (drawn == 0).any() and ((drawn > 0) & (drawn < 1)).any())


@given(st.data())
def test_queries_fit_their_memory(data):
    memory = data.draw(testing.memories(queries=2, width=5))
    assert data.draw(testing.queries(memory, 2)).shape == (*memory.keys.shape[:-2], 2, 5)
    query = data.draw(testing.ntm_queries(memory, 2))
    assert query.key.shape == (*memory.keys.shape[:-2], 2, 5)
    assert query.shift.shape[-1] % 2 == 1
    assert query.shift.shape[-1] <= memory.keys.shape[-2]
    assert (query.strength > 0).all()
    assert (query.sharpness >= 1).all()
