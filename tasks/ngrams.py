"""Dynamic n-grams (Graves et al. 2014, section 4.4)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from memnets.batches import Batch
from memnets.checks import check_positive
from tasks.base import Array, Task

__all__ = ["DynamicNGrams", "bayes_probabilities"]


#: Greatest order: a sequence has a table of 2^(order - 1) numbers.
MOST = 20


class DynamicNGrams(Task):
    """Prediction of bits whose distribution changes from sequence to sequence.

    Graves et al. 2014, section 4.4. A context is the last ``order - 1`` bits. For every sequence,
    the probability of a 1 after each context is drawn from Beta(1/2, 1/2). Bits without a whole
    context are 1 with probability 1/2. The source is empty, ``[B, 0, 1]``. Inputs,
    ``[B, length, 1]``, are a 0, then the targets one step late.

    The test set is named ``test``. Its score ``bayes_bits`` is the cost of the best predictor
    (equation 10): no other has a lower cost on average.

    Args:
        order: n, from 1 to 20; with 6, a bit depends on the last 5 bits.
        length: number of bits of a sequence, at least ``order``.
        test_sequences: number of sequences of the test set, at least 1.
        settings: see :class:`~tasks.Task`.
    """

    def __init__(
        self, order: int = 6, length: int = 200, test_sequences: int = 1000, **settings: Any
    ) -> None:
        super().__init__(**settings)
        check_positive(order=order, length=length, test_sequences=test_sequences)
        if order > min(length, MOST):
            raise ValueError(
                f"order must be at most length = {length}, and at most {MOST}, since a sequence "
                f"has a table of 2^(order - 1) numbers; got {order}"
            )
        numbers = max(length, 2 ** (order - 1))
        self.check_room(numbers, tested=[(test_sequences, numbers)])
        self.order = order
        self.length = length
        self.test_sequences = test_sequences
        self.input_size = 1
        self.output_size = 1

    def test_names(self) -> list[str]:
        """``test``."""
        return ["test"]

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or ``test``."""
        random = self.random(split, index)
        size = self.sequences(split, self.test_sequences)
        contexts = 2 ** (self.order - 1)
        table = random.beta(0.5, 0.5, (size, contexts))
        # Each bit depends on those before it: the loop is over steps, for all sequences at once.
        uniform = random.random((size, self.length))
        bits = np.zeros((size, self.length), np.int64)
        context, rows = np.zeros(size, np.int64), np.arange(size)
        for step in range(self.length):
            known = step >= self.order - 1
            bits[:, step] = uniform[:, step] < (table[rows, context] if known else 0.5)
            context = (2 * context + bits[:, step]) % contexts
        targets = torch.from_numpy(bits.astype(np.float32)).unsqueeze(-1)
        inputs = torch.cat([torch.zeros_like(targets[:, :1]), targets[:, :-1]], 1)
        return Batch(source=targets[:, :0], inputs=inputs, targets=targets)

    def measure(self, split: str, answers: list[Tensor]) -> dict[str, float]:
        """``bayes_bits``: the best predictor's mean cost of a sequence, in bits."""
        bits = self.batch(split, 0).targets.squeeze(-1).long().numpy()
        of_one = bayes_probabilities(bits, self.order)
        costs = -np.log2(np.where(bits == 1, of_one, 1 - of_one)).sum(1)
        return {"bayes_bits": float(costs.mean())}


def bayes_probabilities(bits: Array, order: int) -> Array:
    """Probability of a 1, given all earlier bits: ``(N_1 + 1/2) / (N_1 + N_0 + 1)``.

    N_1 and N_0 are the numbers of ones and zeros after the same context so far (Graves et al. 2014,
    equation 10). Without a whole context the probability is 1/2.

    Args:
        bits: whole numbers 0 and 1, ``[B, T]``.
        order: n, at least 1; the context is the n - 1 bits before.

    Returns:
        ``[B, T]``.
    """
    size, length = bits.shape
    contexts = 2 ** (order - 1)
    # The halves of the equation: the prior Beta(1/2, 1/2) counts as half a one and half a zero.
    counts = np.full((size, contexts, 2), 0.5)
    context, rows = np.zeros(size, np.int64), np.arange(size)
    probabilities = np.full((size, length), 0.5)
    for step in range(length):
        if step >= order - 1:
            seen = counts[rows, context]
            probabilities[:, step] = seen[:, 1] / seen.sum(1)
            counts[rows, context, bits[:, step]] += 1
        context = (2 * context + bits[:, step]) % contexts
    return probabilities
