"""Fast twins at the sizes where they change their ways; the laws try small ones."""

import pytest
import torch

from memnets import fast
from memnets.kernels import additive
from memnets.scores import Additive, Concat


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((3, 2, 4, 8), id="all in one block"),
        pytest.param((40, 5, 7, 16), id="some rows to a block"),
        pytest.param((3, 9, 50, 16), id="a row in several blocks"),
        pytest.param((2, 3, 300, 16), id="a query larger than a block"),
        pytest.param((3, 1, 4, 8), id="one query"),
        pytest.param((0, 3, 4, 8), id="no rows"),
        pytest.param((2, 0, 4, 8), id="no queries"),
    ],
)
@pytest.mark.parametrize("score", [Additive, Concat])
def test_the_additive_score_in_blocks_is_the_plain_one(score, shape, monkeypatch):
    monkeypatch.setattr(additive, "_BLOCK", 1 << 12)
    batch, queries, slots, width = shape
    torch.manual_seed(0)
    part = score(width).double()
    query = torch.randn(batch, queries, width, dtype=torch.double, requires_grad=True)
    keys = torch.randn(batch, slots, width, dtype=torch.double, requires_grad=True)
    weigh = torch.randn(batch, queries, slots, dtype=torch.double)
    sources = [query, keys, *part.parameters()]

    def run():
        scores = part(query, keys)
        return scores, *torch.autograd.grad((scores * weigh).sum(), sources)

    quick = run()
    with fast.naive():
        plain = run()
    torch.testing.assert_close(quick, plain, rtol=1e-10, atol=1e-10)


def test_blocks_cover_every_pair_once():
    for rows, queries, pairs in [(5, 3, 100), (7, 11, additive._BLOCK // 2), (2, 3, 10**6)]:
        seen = torch.zeros(rows, queries)
        for row, column in additive._blocks(rows, queries, pairs):
            seen[row, column] += 1
        assert (seen == 1).all()
