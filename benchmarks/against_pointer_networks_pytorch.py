"""A training step against ast0414/pointer-networks-pytorch, taking turns in one process.

POINTER_NETWORKS_PYTORCH=<a checkout> python benchmarks/against_pointer_networks_pytorch.py

Sort of n numbers; both have a bidirectional LSTM as encoder, the additive score, and no mask for
what was visited (theirs has none). Their masks of bytes, which PyTorch no longer takes, are made
boolean.
"""

from functools import partial

import torch
from pairs import compare, find, updating
from torch import nn

from memnets.addressing import Content
from memnets.cells import LSTM
from memnets.encoders import Recurrent
from memnets.models import PointerNetwork
from memnets.scores import Additive
from memnets.training.objectives import Tokens
from tasks import SortingNumbers

#: Sequences of a batch, numbers of a sequence, width of every layer.
SIZES = [(256, 10, 8), (128, 20, 128), (128, 50, 128)]
ROUNDS = 15


def our_step(batch, width: int):
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


def their_step(batch, width: int):
    import model as theirs

    def masked_max(vector, mask, dim, keepdim=False, min_val=-1e7):
        return vector.masked_fill(mask == 0, min_val).max(dim=dim, keepdim=keepdim)

    theirs.masked_max = masked_max
    model = theirs.PointerNet(input_dim=1, embedding_dim=width, hidden_size=width)
    n = batch.source.shape[1]
    order = batch.source.squeeze(-1).argsort(1)
    lengths = torch.full((len(order),), n)

    def loss() -> torch.Tensor:
        scores, _, _ = model(batch.source, lengths)
        return nn.functional.nll_loss(scores.flatten(0, 1), order.flatten())

    return updating(model, loss, greatest_norm=None)


def main() -> None:
    find("POINTER_NETWORKS_PYTORCH", "a checkout of ast0414/pointer-networks-pytorch")
    for sequences, n, width in SIZES:
        batch = SortingNumbers(min_points=n, max_points=n, batch_size=sequences).batch("train", 0)
        ours, theirs = our_step(batch, width), their_step(batch, width)
        compare(f"{sequences} sequences of {n}, width {width}", ours, theirs, ROUNDS)


if __name__ == "__main__":
    main()
