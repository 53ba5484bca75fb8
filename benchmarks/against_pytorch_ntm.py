"""A training step of copy against loudinthecloud/pytorch-ntm.

Length 20, 128 slots of width 20, an LSTM of 100 cells, a read and a write head; forward, backward,
clipping and Adam. Theirs shifts the weights of each sequence in a loop over the batch. It is timed
as it is, and with all shifts of a batch in one operation, which is ours, not part of it.

PYTORCH_NTM=<a checkout> python benchmarks/against_pytorch_ntm.py
"""

import warnings
from collections.abc import Iterator
from functools import partial

import torch
from pairs import Case, Peer, Product, Step, floor_of, run, updating
from torch import Tensor, nn

from memnets.cells import LSTM
from memnets.memories import NTM
from memnets.models import MemoryMachine
from tasks import Copying

PEER = Peer("loudinthecloud/pytorch-ntm", "3c64937cb075e737528ff7ecf02b2c1c6d8347a1")
#: Batch size -> pairs, and goals of theirs as it is and with a batched shift.
SIZES = {1: (21, 18.0, None), 32: (9, 25.0, 10.0)}
LENGTH, SLOTS, WIDTH, HIDDEN = 20, 128, 20, 100


def our_step(batch_size: int) -> Step:
    access = NTM(slots=SLOTS, width=WIDTH)
    model = MemoryMachine(9, 8, partial(LSTM, hidden_size=HIDDEN), access)
    batch = Copying(8, LENGTH, LENGTH, batch_size=batch_size).batch("train", 0)
    return updating(model, partial(model.loss, batch))


def shifted(weights: Tensor, shift: Tensor) -> Tensor:
    """Their circular convolution, of all sequences at once: ``[B, N], [B, 3] -> [B, N]``."""
    around = torch.cat([weights[:, -1:], weights, weights[:, :1]], 1)
    return (around.unfold(1, weights.shape[1], 1) * shift.unsqueeze(2)).sum(1)


def their_step(batch_size: int, batched: bool) -> Step:
    from ntm.aio import EncapsulatedNTM

    model = EncapsulatedNTM(9, 8, HIDDEN, 1, 1, SLOTS, WIDTH)
    if batched:
        weights, shift = torch.rand(2, SLOTS), torch.rand(2, 3)
        model.memory.batch_size = 2
        torch.testing.assert_close(shifted(weights, shift), model.memory._shift(weights, shift))
        model.memory._shift = shifted
    batch = Copying(8, LENGTH, LENGTH, batch_size=batch_size).batch("train", 0)
    inputs, targets = batch.source.transpose(0, 1), batch.targets.transpose(0, 1)

    def loss() -> Tensor:
        model.init_sequence(batch_size)
        for vector in inputs:
            model(vector)
        outputs = torch.stack([model()[0] for _ in range(LENGTH)])
        return nn.functional.binary_cross_entropy(outputs, targets)

    return updating(model, loss)


def products(batch: int) -> list[Product]:
    """Those of an LSTM and of two heads; the inputs of all steps are known before the first."""
    steps = 2 * LENGTH + 1
    interface = NTM(slots=SLOTS, width=WIDTH).interface_size
    return [
        Product(steps * batch, 9, 4 * HIDDEN),
        Product(batch, HIDDEN + WIDTH, 4 * HIDDEN, times=steps),
        Product(batch, HIDDEN, interface, times=steps),
        Product(2, WIDTH, SLOTS, batch, steps),  # keys by slots
        Product(1, SLOTS, WIDTH, batch, steps),  # read
        *[Product(SLOTS, 1, WIDTH, batch, steps)] * 2,  # erase and add
        Product(LENGTH * batch, HIDDEN + WIDTH, 8),
    ]


def cases() -> Iterator[Case]:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    for batch_size, (rounds, goal, batched_goal) in SIZES.items():
        ours, floor = our_step(batch_size), floor_of(products(batch_size))
        for batched, wanted in ((False, goal), (True, batched_goal)):
            kind = "with a batched shift" if batched else "as it is"
            theirs = their_step(batch_size, batched)
            yield Case(f"batch {batch_size}, {kind}", ours, theirs, rounds, wanted, floor)


if __name__ == "__main__":
    run(__doc__, PEER, cases)
