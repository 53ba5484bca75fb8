"""A training step against loudinthecloud/pytorch-ntm, taking turns in one process with one thread.

PYTORCH_NTM=<a checkout> python benchmarks/against_pytorch_ntm.py
"""

import os
import statistics
import sys
import time
import warnings

import torch
from test_training_step import training_step
from torch import nn

ROUNDS = {1: 21, 32: 9}


def their_step(batch_size: int, length: int = 20):
    from ntm.aio import EncapsulatedNTM

    model = EncapsulatedNTM(9, 8, 100, 1, 1, 128, 20)
    optimizer = torch.optim.Adam(model.parameters())
    inputs = torch.randint(0, 2, (length + 1, batch_size, 9)).float()
    targets = inputs[:length, :, :8]

    def step() -> None:
        optimizer.zero_grad()
        model.init_sequence(batch_size)
        for vector in inputs:
            model(vector)
        outputs = torch.stack([model()[0] for _ in range(length)])
        nn.functional.binary_cross_entropy(outputs, targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def seconds(step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main() -> None:
    if "PYTORCH_NTM" not in os.environ:
        sys.exit("needs PYTORCH_NTM=<a checkout of loudinthecloud/pytorch-ntm>")
    sys.path.insert(0, os.environ["PYTORCH_NTM"])
    warnings.simplefilter("ignore")
    for batch_size, rounds in ROUNDS.items():
        ours, theirs = training_step(batch_size), their_step(batch_size)
        ours(), theirs()
        pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
        mine, other = (statistics.median(times) * 1e3 for times in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        print(
            f"batch {batch_size}: ours {mine:.1f} ms, pytorch-ntm {other:.1f} ms, "
            f"ratio {ratio:.2f} (median of {rounds} pairs, {torch.get_num_threads()} thread)",
            flush=True,
        )


if __name__ == "__main__":
    main()
