"""Forward and backward against eambutu/snail-pytorch, taking turns in one process with one thread.

SNAIL_PYTORCH=<a checkout> python benchmarks/against_snail_pytorch.py

The sizes are theirs for Omniglot: vectors of 64 and a label, keys and values of 64 and 32, 256 and
128, 512 and 256, 128 filters. Their embedding network is left out on both sides, and their
attention, which is normalised over the queries, is mended.
"""

import os
import statistics
import sys
import time

import torch
from torch import nn

from memnets.models import SNAIL

#: Classes, examples of each, episodes of a batch, pairs of turns.
SIZES = [(5, 1, 32, 15), (5, 5, 32, 9), (20, 1, 32, 9)]
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Whole(nn.Module):
    """Our blocks over a whole sequence, as theirs are run."""

    def __init__(self, model: SNAIL) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        for block in self.model.blocks:
            inputs, _ = block(inputs)
        return self.model.output(inputs)


def attend(block, inputs):
    """Their attention block, over the slots, and without the calls to a GPU."""
    steps = inputs.shape[1]
    future = torch.ones(steps, steps, dtype=torch.bool).triu(1)
    scores = block.linear_query(inputs) @ block.linear_keys(inputs).mT
    weights = scores.masked_fill(future, -torch.inf).div(block.sqrt_key_size).softmax(-1)
    return torch.cat([inputs, weights @ block.linear_values(inputs)], 2)


def their_stack(ways: int, shots: int) -> nn.Module:
    import blocks
    from snail import SnailFewShot

    blocks.AttentionBlock.forward = attend
    model = SnailFewShot(ways, shots, "omniglot", use_cuda=False)
    stack = (model.attention1, model.tc1, model.attention2, model.tc2, model.attention3, model.fc)
    return nn.Sequential(*stack)


def seconds(model, inputs: torch.Tensor, targets: torch.Tensor) -> float:
    model.zero_grad()
    start = time.perf_counter()
    logits = model(inputs)
    nn.functional.cross_entropy(logits[:, -1].float(), targets).backward()
    return time.perf_counter() - start


def main() -> None:
    if "SNAIL_PYTORCH" not in os.environ:
        sys.exit("needs SNAIL_PYTORCH=<a checkout of eambutu/snail-pytorch>")
    sys.path.insert(0, os.path.join(os.environ["SNAIL_PYTORCH"], "src"))
    torch.set_num_threads(1)
    for ways, shots, batch_size, rounds in SIZES:
        steps, size = ways * shots + 1, 64 + ways
        for name, dtype in TYPES.items():
            ours = Whole(SNAIL(size, ways, max_length=steps)).to(dtype)
            theirs = their_stack(ways, shots).to(dtype)
            inputs = torch.randn(batch_size, steps, size).to(dtype)
            targets = torch.randint(ways, (batch_size,))

            seconds(ours, inputs, targets), seconds(theirs, inputs, targets)
            pairs = [
                (seconds(ours, inputs, targets), seconds(theirs, inputs, targets))
                for _ in range(rounds)
            ]
            milliseconds = [statistics.median(times) * 1e3 for times in zip(*pairs, strict=True)]
            ratio = statistics.median(b / a for a, b in pairs)
            print(
                f"{ways} classes, {shots} of each, {name}: ours {milliseconds[0]:.1f} ms, "
                f"snail-pytorch {milliseconds[1]:.1f} ms, ratio {ratio:.2f} "
                f"(median of {rounds} pairs, {torch.get_num_threads()} thread)",
                flush=True,
            )


if __name__ == "__main__":
    main()
