"""A training step of copy against the package dnc, which is ixaxaar/pytorch-dnc.

Length 20, 64 slots of width 16, an LSTM of 100 cells, a read head; forward, backward, clipping and
Adam. The repository has moved on since the release: now time comes first there.

DNC=<the folder that holds the package dnc 1.1.0> python benchmarks/against_pytorch_dnc.py
"""

import warnings
from collections.abc import Iterator
from functools import partial

import torch
from pairs import Case, Peer, Product, Step, floor_of, run, updating
from torch import Tensor, nn

from memnets.cells import LSTM
from memnets.memories import DNC
from memnets.models import MemoryMachine
from tasks import Copying

PEER = Peer("dnc", "1.1.0", package="dnc")
#: Batch size -> pairs of steps.
ROUNDS = {1: 21, 32: 11}
GOAL = 8.0
LENGTH, SLOTS, WIDTH, READ_HEADS, HIDDEN = 20, 64, 16, 1, 100


def our_step(batch_size: int) -> Step:
    access = DNC(SLOTS, WIDTH, READ_HEADS)
    model = MemoryMachine(9, 8, partial(LSTM, hidden_size=HIDDEN), access)
    batch = Copying(8, LENGTH, LENGTH, batch_size=batch_size).batch("train", 0)
    return updating(model, partial(model.loss, batch))


def their_step(batch_size: int) -> Step:
    from dnc import DNC as TheirDNC

    # Of its input's width is its output too; the flag and the blanks of the answer are in it.
    model = TheirDNC(
        9, HIDDEN, num_hidden_layers=1, nr_cells=SLOTS, cell_size=WIDTH, read_heads=READ_HEADS
    )
    batch = Copying(8, LENGTH, LENGTH, batch_size=batch_size).batch("train", 0)
    inputs = torch.cat([batch.source, batch.inputs], 1)

    def loss() -> Tensor:
        outputs, _ = model(inputs, (None, None, None), reset_experience=True)
        answered = outputs[:, -LENGTH:, :8]
        return nn.functional.binary_cross_entropy_with_logits(answered, batch.targets)

    return updating(model, loss)


def products(batch: int) -> list[Product]:
    """Those of an LSTM, of content, links, reads and writes."""
    steps, heads = 2 * LENGTH + 1, READ_HEADS
    interface = DNC(SLOTS, WIDTH, heads).interface_size
    return [
        Product(steps * batch, 9, 4 * HIDDEN),
        Product(batch, HIDDEN + heads * WIDTH, 4 * HIDDEN, times=steps),
        Product(batch, HIDDEN, interface, times=steps),
        Product(1, WIDTH, SLOTS, batch, steps),  # the key to write by slots
        Product(heads, WIDTH, SLOTS, batch, steps),  # the keys to read by
        *[Product(heads, SLOTS, SLOTS, batch, steps)] * 2,  # forward and backward along links
        Product(heads, SLOTS, WIDTH, batch, steps),  # read
        *[Product(SLOTS, 1, WIDTH, batch, steps)] * 2,  # erase and add
        Product(SLOTS, 1, SLOTS, batch, steps),  # new links
        Product(LENGTH * batch, HIDDEN + heads * WIDTH, 8),
    ]


def cases() -> Iterator[Case]:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    for batch_size, rounds in ROUNDS.items():
        ours, theirs = our_step(batch_size), their_step(batch_size)
        floor = floor_of(products(batch_size))
        yield Case(f"batch {batch_size}", ours, theirs, rounds, GOAL, floor)


if __name__ == "__main__":
    run(__doc__, PEER, cases)
