"""Forward and backward against eambutu/snail-pytorch, taking turns in one process with one thread.

SNAIL_PYTORCH=<a checkout> python benchmarks/against_snail_pytorch.py

The sizes are theirs for Omniglot: vectors of 64 and a label, keys and values of 64 and 32, 256 and
128, 512 and 256, 128 filters. Their embedding network is left out on both sides, and their
attention, which is normalised over the queries, is mended.
"""

import torch
from pairs import Step, compare, find
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


def forward_and_backward(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> Step:
    def step() -> None:
        model.zero_grad()
        logits = model(inputs)
        nn.functional.cross_entropy(logits[:, -1].float(), targets).backward()

    return step


def main() -> None:
    find("SNAIL_PYTORCH", "a checkout of eambutu/snail-pytorch", folder="src")
    for ways, shots, batch_size, rounds in SIZES:
        steps, size = ways * shots + 1, 64 + ways
        for name, dtype in TYPES.items():
            inputs = torch.randn(batch_size, steps, size).to(dtype)
            targets = torch.randint(ways, (batch_size,))
            models = Whole(SNAIL(size, ways, max_length=steps)), their_stack(ways, shots)
            ours, theirs = (
                forward_and_backward(model.to(dtype), inputs, targets) for model in models
            )
            compare(f"{ways} classes, {shots} of each, {name}", ours, theirs, rounds)


if __name__ == "__main__":
    main()
