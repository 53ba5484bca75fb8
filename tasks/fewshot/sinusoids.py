"""Regression of sines (Finn et al. 2017, section 5.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memnets.batches import Batch, Curves
from memnets.checks import check_positive
from memnets.core import map_state
from tasks.base import Task, by_name

__all__ = ["Sinusoids"]


class Sinusoids(Task):
    """Regression of a sine from K of its points.

    ``y = a sin(x - b)``, with x in ``[-5, 5]``. Each episode draws an amplitude a in ``[0.1, 5]``
    and a phase b in ``[0, pi]``. The source is the points (x, y), ``[B, K, 2]``; the inputs are
    (x, 0), ``[B, queries, 2]``, and the targets y, ``[B, queries, 1]``. The queries of a test are
    evenly spaced.

    Args:
        shots: numbers of points K; a training batch draws one of them, and each has a test set,
            ``shot_<k>``.
        queries: number of queries of an episode of training and validation, at least 1.
        test_queries: number of queries of an episode of a test, at least 1.
        test_episodes: number of episodes of each test set, at least 1.
        settings: see :class:`~tasks.Task`.
    """

    def __init__(
        self,
        shots: Sequence[int] = (5, 10, 20),
        queries: int = 10,
        test_queries: int = 50,
        test_episodes: int = 1000,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if not shots:
            raise ValueError("shots must name at least one number of examples; got none")
        for number in shots:
            check_positive(shots=number)
        check_positive(queries=queries, test_queries=test_queries, test_episodes=test_episodes)
        self.check_room(
            max(shots) + queries, 2, tested=[(test_episodes, max(shots) + test_queries, 2)]
        )
        self.test_sets = by_name((f"shot_{number}", number) for number in shots)
        self.queries = queries
        self.test_queries = test_queries
        self.test_episodes = test_episodes
        self.input_size, self.output_size = 2, 1

    def test_names(self) -> list[str]:
        """``shot_<k>`` for each number of examples."""
        return list(self.test_sets)

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or a test set."""
        random = self.random(split, index)
        size = self.sequences(split, self.test_episodes)
        shots = self.test_sets.get(split) or int(random.choice(list(self.test_sets.values())))
        amplitude = random.uniform(0.1, 5.0, (size, 1))
        phase = random.uniform(0.0, math.pi, (size, 1))
        shown = random.uniform(-5.0, 5.0, (size, shots))
        if split in self.test_sets:
            asked = np.broadcast_to(
                np.linspace(-5.0, 5.0, self.test_queries), (size, self.test_queries)
            )
        else:
            asked = random.uniform(-5.0, 5.0, (size, self.queries))
        x = np.concatenate([shown, asked], 1)
        points = np.stack([x, amplitude * np.sin(x - phase)], -1).astype(np.float32)
        source, whole = torch.from_numpy(points).split([shots, asked.shape[1]], 1)
        # The inputs are the points with 0 in place of y.
        return Batch(source, whole * torch.tensor([1.0, 0.0]), whole[..., 1:])

    def curves(self, split: str, answers: Tensor, count: int) -> list[Curves]:
        """Panels of episodes: the points of the source, the sine, and the answer."""
        batch = map_state(lambda part: part[: len(answers)], self.batch(split, 0))
        asked = batch.inputs[..., :1]
        sides = {
            "sine": torch.cat([asked, batch.targets], -1).numpy(),
            "answer": torch.cat([asked, answers], -1).numpy(),
        }
        ahead = asked[..., 0].argsort(1).numpy()  # from left to right
        errors = (answers - batch.targets).square().mean((1, 2))
        return [
            Curves(
                {name: lines[row][ahead[row]] for name, lines in sides.items()},
                f"mean squared error {errors[row]:.2g}",
                across="x",
                up="y",
                points=batch.source[row].numpy(),
                dots="examples",
            )
            for row in range(min(count, len(answers)))
        ]
