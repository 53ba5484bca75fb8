"""Loss of a batch of episodes, forward and backward, against eambutu/snail-pytorch.

The sizes are theirs for Omniglot: 32 episodes of vectors of 64 and a label, keys and values of 64
and 32, 256 and 128, 512 and 256, 128 filters. The loss asks for the label of the last vector. Their
embedding network is left out on both sides, and their attention, which is normalised over the
queries, is mended. Ours reads the episode as a MetaLearner does: of the last attention it computes
the answer to the query alone. Cases "all answers" are of a loss that asks at every step but the
first, where that is not possible.

SNAIL_PYTORCH=<a checkout> python benchmarks/against_snail_pytorch.py
"""

from collections.abc import Callable, Iterator

import torch
from pairs import Case, LeftOut, Peer, Product, Step, floor_of, has_bfloat16, run
from torch import Tensor, nn

from memnets.batches import Batch
from memnets.models import SNAIL

PEER = Peer("eambutu/snail-pytorch", "c07c679ea07ae6d5d52548df9ec05229d21f11dd", inner="src")
#: Classes, examples of each, pairs of turns, goal.
SIZES = [(5, 1, 15, None), (5, 5, 9, 2.5), (20, 1, 9, None)]
EPISODES, FEATURES, FILTERS = 32, 64, 128
ATTENTIONS = ((64, 32), (256, 128), (512, 256))


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


def forward_and_backward(
    model: nn.Module, logits: Callable[[Tensor], Tensor], inputs: Tensor, targets: Tensor
) -> Step:
    """Of the loss at the last steps, as many as there are targets."""

    def step() -> None:
        model.zero_grad()
        answers = logits(inputs)[:, -targets.shape[1] :]
        nn.functional.cross_entropy(answers.flatten(0, 1).float(), targets.flatten()).backward()

    return step


def products(ways: int, steps: int) -> list[Product]:
    """Those of every step of all blocks."""
    rows, size, found = EPISODES * steps, FEATURES + ways, []
    for number, (key, value) in enumerate(ATTENTIONS):
        if number:
            for _ in range((steps - 1).bit_length()):
                found.append(Product(rows, 2 * size, 2 * FILTERS))  # kernels of two steps
                size += FILTERS
        found += [
            Product(rows, size, 2 * key + value),
            Product(steps, key, steps, EPISODES),
            Product(steps, steps, value, EPISODES),
        ]
        size += value
    return [*found, Product(rows, size, ways)]


def cases() -> Iterator[Case | LeftOut]:
    torch.manual_seed(0)
    for ways, shots, rounds, goal in SIZES:
        name, steps, size = f"{ways}-way {shots}-shot", ways * shots + 1, FEATURES + ways
        inputs = torch.randn(EPISODES, steps, size)
        targets = torch.randint(ways, (EPISODES, steps - 1))
        ours = SNAIL(size, ways, max_length=steps)
        theirs = their_stack(ways, shots)

        def answer(inputs: Tensor, ours: SNAIL = ours) -> Tensor:
            return ours.continuations(inputs[:, :-1], inputs[:, -1:])

        def answers(inputs: Tensor, ours: SNAIL = ours, targets: Tensor = targets) -> Tensor:
            return ours.logits(Batch(inputs[:, :1], inputs[:, 1:], targets))

        floor = floor_of(products(ways, steps))
        last = targets[:, -1:]
        both = (forward_and_backward(ours, answer, inputs, last),
                forward_and_backward(theirs, theirs, inputs, last))  # fmt: skip
        yield Case(name, *both, rounds, goal, floor)
        both = (forward_and_backward(ours, answers, inputs, targets),
                forward_and_backward(theirs, theirs, inputs, targets))  # fmt: skip
        yield Case(f"{name}, all answers", *both, rounds, None, floor)
        if not has_bfloat16():
            yield LeftOut(f"{name}, bfloat16", "this processor does not multiply bfloat16")
            continue
        inputs = inputs.bfloat16()
        both = (forward_and_backward(ours.bfloat16(), answer, inputs, last),
                forward_and_backward(theirs.bfloat16(), theirs, inputs, last))  # fmt: skip
        yield Case(f"{name}, bfloat16", *both, rounds)


if __name__ == "__main__":
    run(__doc__, PEER, cases)
