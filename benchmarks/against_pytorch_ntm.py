"""A training step against loudinthecloud/pytorch-ntm, taking turns in one process with one thread.

PYTORCH_NTM=<a checkout> python benchmarks/against_pytorch_ntm.py
"""

import warnings

import torch
from pairs import compare, find, updating
from test_training_step import training_step
from torch import nn

ROUNDS = {1: 21, 32: 9}


def their_step(batch_size: int, length: int = 20):
    from ntm.aio import EncapsulatedNTM

    model = EncapsulatedNTM(9, 8, 100, 1, 1, 128, 20)
    inputs = torch.randint(0, 2, (length + 1, batch_size, 9)).float()
    targets = inputs[:length, :, :8]

    def loss() -> torch.Tensor:
        model.init_sequence(batch_size)
        for vector in inputs:
            model(vector)
        outputs = torch.stack([model()[0] for _ in range(length)])
        return nn.functional.binary_cross_entropy(outputs, targets)

    return updating(model, loss)


def main() -> None:
    find("PYTORCH_NTM", "a checkout of loudinthecloud/pytorch-ntm")
    warnings.simplefilter("ignore")
    for batch_size, rounds in ROUNDS.items():
        ours, theirs = training_step(batch_size), their_step(batch_size)
        compare(f"batch {batch_size}", ours, theirs, rounds)


if __name__ == "__main__":
    main()
