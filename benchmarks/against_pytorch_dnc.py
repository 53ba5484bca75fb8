"""A training step against ixaxaar/pytorch-dnc, taking turns in one process with one thread.

PYTORCH_DNC=<the folder that holds its package dnc> python benchmarks/against_pytorch_dnc.py
"""

from functools import partial

import torch
from pairs import compare, find, updating
from torch import nn

from memnets.cells import LSTM
from memnets.memories import DNC
from memnets.models import MemoryMachine
from tasks import Copying

# Batch size -> pairs of steps.
ROUNDS = {1: 31, 32: 15}
LENGTH, SLOTS, WIDTH, READ_HEADS, HIDDEN_SIZE = 20, 64, 16, 1, 100


def our_step(batch_size: int):
    access = DNC(SLOTS, WIDTH, READ_HEADS)
    model = MemoryMachine(9, 8, partial(LSTM, hidden_size=HIDDEN_SIZE), access)
    batch = Copying(8, LENGTH, LENGTH, batch_size=batch_size).batch("train", 0)
    return updating(model, partial(model.loss, batch))


def their_step(batch_size: int):
    from dnc import DNC as TheirDNC

    # Of its input's width is its output too; the flag and the blanks of the answer are in it.
    model = TheirDNC(
        9, HIDDEN_SIZE, num_hidden_layers=1, nr_cells=SLOTS, cell_size=WIDTH, read_heads=READ_HEADS
    )
    batch = Copying(8, LENGTH, LENGTH, batch_size=batch_size).batch("train", 0)
    inputs = torch.cat([batch.source, batch.inputs], 1)

    def loss():
        outputs, _ = model(inputs, (None, None, None), reset_experience=True)
        answered = outputs[:, -LENGTH:, :8]
        return nn.functional.binary_cross_entropy_with_logits(answered, batch.targets)

    return updating(model, loss)


def main() -> None:
    find("PYTORCH_DNC", "the folder that holds the package dnc of pytorch-dnc")
    torch.manual_seed(0)
    for batch_size, rounds in ROUNDS.items():
        ours, theirs = our_step(batch_size), their_step(batch_size)
        compare(f"batch {batch_size}", ours, theirs, rounds)


if __name__ == "__main__":
    main()
