"""A training step of sorting against ast0414/pointer-networks-pytorch.

Sort of n numbers; forward, backward and Adam. Both have a bidirectional LSTM as encoder, the
additive score, and no mask for what was visited (theirs has none). Their masks of bytes, which
PyTorch no longer takes, are made boolean.

POINTER_NETWORKS_PYTORCH=<a checkout> python benchmarks/against_pointer_networks_pytorch.py
"""

from collections.abc import Iterator
from functools import partial

import torch
from pairs import Case, Peer, Product, Step, floor_of, run, updating
from torch import Tensor, nn

from memnets.addressing import Content
from memnets.batches import Batch
from memnets.cells import LSTM
from memnets.encoders import Recurrent
from memnets.models import PointerNetwork
from memnets.scores import Additive
from memnets.training.objectives import Tokens
from tasks import SortingNumbers

PEER = Peer("ast0414/pointer-networks-pytorch", "27aec4e011a37f96270e3d6ac7423225d4c40ef3")
#: Sequences of a batch, numbers of a sequence, width of every layer, pairs.
SIZES = [(256, 10, 8, 31), (128, 20, 128, 15), (128, 50, 128, 9)]
GOAL = 2.0


def our_step(batch: Batch, width: int) -> Step:
    model = PointerNetwork(
        1,
        encoder=partial(Recurrent, controller=partial(LSTM, hidden_size=width)),
        decoder=partial(LSTM, hidden_size=width),
        attention=Content(Additive(width)),
        width=width,
        revisit=True,
        objective=Tokens(),
    )
    return updating(model, partial(model.loss, batch), greatest_norm=None)


def their_step(batch: Batch, width: int) -> Step:
    import model as theirs

    def masked_max(vector, mask, dim, keepdim=False, min_val=-1e7):
        return vector.masked_fill(mask == 0, min_val).max(dim=dim, keepdim=keepdim)

    theirs.masked_max = masked_max
    model = theirs.PointerNet(input_dim=1, embedding_dim=width, hidden_size=width)
    n = batch.source.shape[1]
    order = batch.source.squeeze(-1).argsort(1)
    lengths = torch.full((len(order),), n)

    def loss() -> Tensor:
        scores, _, _ = model(batch.source, lengths)
        return nn.functional.nll_loss(scores.flatten(0, 1), order.flatten())

    return updating(model, loss, greatest_norm=None)


def products(sequences: int, n: int, width: int) -> list[Product]:
    """Those of a bidirectional LSTM, of the decoder's, and of the additive score."""
    rows, gates = sequences * n, 4 * width
    return [
        Product(rows, 1, width),
        *[Product(rows, width, gates)] * 2,
        *[Product(sequences, width, gates, times=n)] * 2,
        Product(rows, width, gates),
        Product(sequences, width, gates, times=n),
        *[Product(rows, width, width)] * 2,  # keys and queries
        Product(rows * n, width, 1),
    ]


def cases() -> Iterator[Case]:
    torch.manual_seed(0)
    for sequences, n, width, rounds in SIZES:
        batch = SortingNumbers(min_points=n, max_points=n, batch_size=sequences).batch("train", 0)
        ours, theirs = our_step(batch, width), their_step(batch, width)
        name = f"{n} numbers, {sequences} sequences of width {width}"
        yield Case(name, ours, theirs, rounds, GOAL, floor_of(products(sequences, n, width)))


if __name__ == "__main__":
    run(__doc__, PEER, cases)
