"""Bandits with many arms, the teachers that know how to play them, and what each earns."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memnets.batches import Batch
from memnets.core import check_positive
from memnets.decoding import feedback
from memnets.viewing.plots import Curves
from tasks.base import Array, Task

__all__ = [
    "Bandits",
    "Policy",
    "chance",
    "follow",
    "gittins",
    "gittins_indices",
    "thompson",
    "ucb",
]

#: What indices are told apart to: arms that differ by less tie.
_RESOLUTION = 1e-3

#: The teacher of a longer game would take too long.
_MOST_PULLS = 500

#: Prices are gone through in so many blocks, each of which fits into a cache.
_BLOCKS = 50

#: From the wins and the losses of each arm so far, ``[B, K]``, how many pulls were made, and a
#: generator, how good each arm looks, ``[B, K]``; of arms that tie, the first is pulled.
Policy = Callable[[Array, Array, int, np.random.Generator], Array]


class Bandits(Task):
    """Pull arms, of which each pays 1 with a probability of its own or nothing; earn the most.

    The setting of Duan et al. 2016 (section 3.1) and Mishra et al. 2018 (section 5.2): an episode
    has K arms, with probabilities uniform in ``[0, 1]``, and so many pulls. Both papers train by
    reinforcement; here a model imitates a teacher, the Gittins index, which is nearly the best
    play, at the states that this teacher, who sometimes wanders, comes to. In a test it plays on
    its own.

    A step is the arm that was pulled before, one-hot, and what it paid, ``[B, T, K + 1]``, zeros at
    first; the source is one step of zeros. Targets are the arms of the teacher, ``[B, T]``, and
    rewards what each arm would have paid at each pull, ``[B, T, K]``. For
    :class:`~memnets.training.Actions`, and models of sequences; not for a
    :class:`~memnets.models.MetaLearner`, where no step sees another.

    The test set is named ``test``. Beside the ``reward`` of the model, a test says what others earn
    with the same arms: ``gittins_reward`` (:func:`gittins_indices`), ``ucb_reward`` (UCB1, Auer et
    al. 2002), ``thompson_reward`` (Thompson 1933) and ``random_reward``.

    Args:
        arms: K, at least 2.
        pulls: of an episode, from 1 to 500: the teacher needs 2 seconds for 100, some 4 minutes
            for 500, once a process.
        wander: share of the pulls in training and validation that are random, in ``[0, 1]``.
        ucb_factor: of the width of UCB1's bound, at least 0; 1 is the paper's, which explores too
            much for games as short as these.
        test_episodes: at least 1.
        settings: see :class:`~tasks.Task`.
    """

    def __init__(
        self,
        arms: int = 5,
        pulls: int = 100,
        wander: float = 0.1,
        ucb_factor: float = 0.2,
        test_episodes: int = 1000,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_positive(arms=arms, pulls=pulls, test_episodes=test_episodes)
        if arms < 2:
            raise ValueError(f"arms must be at least 2, or there is nothing to choose; got {arms}")
        if not 0 <= wander <= 1:
            raise ValueError(f"wander must be in [0, 1]; got {wander}")
        if pulls > _MOST_PULLS:
            raise ValueError(f"pulls must be at most {_MOST_PULLS}; got {pulls}")
        if not 0 <= ucb_factor < math.inf:
            raise ValueError(f"ucb_factor must be at least 0 and finite; got {ucb_factor}")
        self.arms = arms
        self.pulls = pulls
        self.wander = wander
        self.ucb_factor = ucb_factor
        self.test_episodes = test_episodes
        self.input_size, self.output_size = arms + 1, arms

    def test_names(self) -> list[str]:
        """``test``."""
        return ["test"]

    def setup(self, stage: str) -> None:
        """Get the teacher ready, once for all workers."""
        self.teacher()

    def teacher(self) -> Policy:
        """Whom a model imitates. Override it for another."""
        return gittins(self.pulls)

    def policies(self) -> dict[str, Policy]:
        """Those that a model is compared with: the score is ``<name>_reward``.

        Override it to add one: ``{**super().policies(), "greedy": my_policy}``.
        """
        return {
            "gittins": gittins(self.pulls),
            "ucb": ucb(self.ucb_factor),
            "thompson": thompson,
            "random": chance,
        }

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or ``test``."""
        _, rewards = self._games(split, index)
        wander = 0.0 if split in self.test_names() else self.wander
        random = self.random(f"teacher {split}", index)
        pulled, taught = follow(self.teacher(), rewards, random, wander)
        paid = torch.from_numpy(rewards)
        told = feedback(torch.from_numpy(pulled), paid)
        start = torch.zeros_like(told[:, :1])
        inputs = torch.cat([start, told[:, :-1]], 1)
        return Batch(start, inputs, torch.from_numpy(taught), rewards=paid)

    def measure(self, split: str, answers: list[Tensor]) -> dict[str, float]:
        """``<policy>_reward`` of each policy: what it earns in an episode of the same arms."""
        _, rewards = self._games(split, 0)
        return {
            f"{name}_reward": float(_taken(rewards, pulled).sum(1).mean())
            for name, pulled in self._others(split).items()
        }

    def curves(self, split: str, answer: Callable[[], Tensor], count: int) -> list[Curves]:
        """What pulls so far have cost, against the best arm's, by the model and by each policy.

        But for chance, beside which the others would look alike.
        """
        chances, _ = self._games(split, 0)
        answers = answer()
        lost = chances.max(2, keepdims=True) - chances
        every = np.arange(1, self.pulls + 1)
        lines = {
            name: np.stack([every, _taken(lost, pulled).mean(0).cumsum()], 1)
            for name, pulled in {**self._others(split), "model": answers.numpy()}.items()
            if name != "random"
        }
        caption = f"{self.arms} arms, mean of {len(answers)} episodes"
        return [Curves(lines, caption, "pulls", "regret")]

    def _games(self, split: str, index: int) -> tuple[Array, Array]:
        """What each arm pays on average, and at each pull, ``[B, T, K]`` both."""
        random = self.random(split, index)
        size = self.sequences(split, self.test_episodes)
        chances = np.repeat(random.random((size, 1, self.arms)), self.pulls, 1)
        return chances, (random.random(chances.shape) < chances).astype(np.float32)

    def _others(self, split: str) -> dict[str, Array]:
        """The arms that each policy pulls, ``[B, T]``, in the games of a test set."""
        _, rewards = self._games(split, 0)
        return {
            name: follow(policy, rewards, self.random(f"{name} {split}", 0))[0]
            for name, policy in self.policies().items()
        }


def _taken(values: Array, pulled: Array) -> Array:
    """Of values ``[B, T, K]`` those of the arms that were pulled, ``[B, T]``."""
    taken: Array = np.take_along_axis(values, pulled[..., None], 2)[..., 0]
    return taken


def follow(
    policy: Policy, rewards: Array, random: np.random.Generator, wander: float = 0.0
) -> tuple[Array, Array]:
    """Let a policy pull the arms.

    Args:
        policy: says how good each arm looks.
        rewards: what each arm would pay at each pull, 0 or 1, ``[B, T, K]``.
        random: for the policy, and for the pulls that are random.
        wander: share of the pulls that are random, in ``[0, 1]``.

    Returns:
        The arms that were pulled, and those that the policy would have, ``[B, T]`` each.
    """
    size, pulls, arms = rewards.shape
    wins, losses = np.zeros((2, size, arms), np.int64)
    pulled, taught = np.zeros((2, size, pulls), np.int64)
    rows = np.arange(size)
    wandering = random.random((size, pulls)) < wander
    anywhere = random.integers(0, arms, (size, pulls))
    for step in range(pulls):
        taught[:, step] = policy(wins, losses, step, random).argmax(1)
        pulled[:, step] = arm = np.where(wandering[:, step], anywhere[:, step], taught[:, step])
        won = rewards[rows, step, arm] > 0
        wins[rows, arm] += won
        losses[rows, arm] += ~won
    return pulled, taught


def gittins(pulls: int) -> Policy:
    """The policy that pulls the arm with the highest of :func:`gittins_indices`."""
    indices = gittins_indices(pulls)
    return lambda wins, losses, step, random: indices[step][wins, losses]


def ucb(factor: float = 1.0) -> Policy:
    """UCB1: ``mean + factor sqrt(2 ln t / n)``, arms without a pull first (Auer et al. 2002)."""

    def bound(wins: Array, losses: Array, step: int, random: np.random.Generator) -> Array:
        count = wins + losses
        width = np.sqrt(2 * np.log(max(step, 1)) / np.maximum(count, 1))
        mean = wins / np.maximum(count, 1)
        return np.where(count == 0, np.inf, mean + factor * width)

    return bound


def thompson(wins: Array, losses: Array, step: int, random: np.random.Generator) -> Array:
    """A draw from what each arm's probability may be, ``Beta(1 + wins, 1 + losses)``."""
    drawn: Array = random.beta(1.0 + wins, 1.0 + losses)
    return drawn


def chance(wins: Array, losses: Array, step: int, random: np.random.Generator) -> Array:
    """Any arm."""
    drawn: Array = np.asarray(random.random(wins.shape))
    return drawn


@lru_cache(maxsize=4)
def gittins_indices(pulls: int) -> tuple[Array, ...]:
    """How much an arm is worth a pull, to one who has so many pulls left and may stop before.

    The index of an arm that won s times and lost f times, before which its probability was uniform,
    is the greatest mean reward of its next pulls over all rules when to stop (Gittins 1979), with
    at most m pulls left, none discounted (Kaufmann 2018, FH-Gittins). It is the price of a pull at
    which it is just worth while to begin: the value of the arm at a price is ``V_m(s, f) = max(0,
    p - price + p V_{m-1}(s + 1, f) + (1 - p) V_{m-1}(s, f + 1))`` with ``p = (s + 1) / (s + f +
    2)``, and ``V_0 = 0``.

    Args:
        pulls: of the whole game, at least 1. Time and memory grow with the third power.

    Returns:
        For each number of pulls t that were made, the indices by s and f, ``[t + 1, t + 1]``, with
        m = pulls - t left, to the nearest thousandth or so.
    """
    check_positive(pulls=pulls)
    worth = [np.zeros((made + 1, made + 1), np.int64) for made in range(pulls)]
    prices = np.arange(0.0, 1.0, _RESOLUTION, dtype=np.float32)[:, None, None]
    for some in np.array_split(prices, _BLOCKS):
        value = np.zeros((len(some), pulls + 1, pulls + 1), np.float32)
        for made in reversed(range(pulls)):
            wins, losses = np.indices((made + 1, made + 1), np.float32)
            chance_to_win = (wins + 1) / (wins + losses + 2)
            begin = chance_to_win - some
            begin += chance_to_win * value[:, 1:, :-1]
            begin += (1 - chance_to_win) * value[:, :-1, 1:]
            # The value falls with the price, down to 0: count the prices at which it is above.
            worth[made] += np.count_nonzero(begin > 0, axis=0)
            value = np.maximum(begin, 0, out=begin)
    indices = tuple((count - 0.5) * _RESOLUTION for count in worth)
    for index in indices:
        index.setflags(write=False)
    return indices
