"""Bandits with several arms, the policies that play them, and their rewards."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memnets.batches import Batch, Curves, feedback
from memnets.checks import check_positive
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

#: Resolution of the indices; arms whose indices differ by less count as equal.
_RESOLUTION = 1e-3

#: Most pulls of a game: the teacher of a longer one would take too long to compute.
_MOST_PULLS = 500

#: Number of blocks of prices; a block fits into the processor's cache.
_BLOCKS = 50

#: A function that values arms: from the wins and losses of each arm so far, ``[B, K]``, the number
#: of pulls so far and a generator to a value of each arm, ``[B, K]``. The arm of the highest value
#: is pulled, the first of equal ones.
Policy = Callable[[Array, Array, int, np.random.Generator], Array]


class Bandits(Task):
    """Multi-armed bandit: pull arms with unknown probabilities of a reward of 1; earn the most.

    The setting of Duan et al. 2016 (section 3.1) and Mishra et al. 2018 (section 5.2): an episode
    has K arms, with probabilities uniform in ``[0, 1]``, and a fixed number of pulls. Both papers
    use reinforcement learning. Here a model imitates a teacher, the Gittins index, which plays
    nearly optimally. The states are those of the teacher, with some random pulls. In a test the
    model plays on its own.

    An input is the last arm, one-hot, and its reward, ``[B, T, K + 1]``; the first is zeros. The
    source is one step of zeros. Targets are the teacher's arms, ``[B, T]``; rewards are those of
    each arm at each pull, ``[B, T, K]``. The task needs the objective
    :class:`~memnets.training.Actions` and a model of sequences. A
    :class:`~memnets.models.MetaLearner` does not fit, since its steps do not see each other.

    The test set is named ``test``. Besides the model's ``reward``, a test gives the rewards of
    other policies with the same arms: ``gittins_reward`` (:func:`gittins_indices`), ``ucb_reward``
    (UCB1, Auer et al. 2002), ``thompson_reward`` (Thompson 1933) and ``random_reward``.

    Args:
        arms: K, the number of arms, at least 2.
        pulls: number of pulls of an episode, from 1 to 500. Each process computes the teacher once:
            2 seconds for 100 pulls, about 4 minutes for 500.
        wander: share of random pulls in training and validation, in ``[0, 1]``.
        ucb_factor: factor on the width of UCB1's bound, at least 0. The paper's factor, 1, explores
            too much in short games.
        test_episodes: number of episodes of the test set, at least 1.
        settings: see :class:`~tasks.Task`.
    """

    slow_batches = True

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
        self.check_room(pulls, arms + 1, tested=[(test_episodes, pulls, arms + 1)])
        self.arms = arms
        self.pulls = pulls
        self.wander = wander
        self.ucb_factor = ucb_factor
        self.test_episodes = test_episodes
        self.input_size, self.output_size = arms + 1, arms
        self._played: tuple[Any, dict[str, Array]] | None = None

    def test_names(self) -> list[str]:
        """``test``."""
        return ["test"]

    def setup(self, stage: str) -> None:
        """Compute the teacher, once for all workers."""
        # Its indices are cached, and a forked worker inherits them.
        self.teacher()

    def teacher(self) -> Policy:
        """The policy that a model imitates. Override it for another one."""
        return gittins(self.pulls)

    def policies(self) -> dict[str, Policy]:
        """Policies to compare a model with, by name; their scores are ``<name>_reward``.

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
        # A generator of its own: the games must be the same for every teacher.
        random = self.random(f"teacher {split}", index)
        pulled, taught = follow(self.teacher(), rewards, random, wander)
        paid = torch.from_numpy(rewards)
        told = feedback(torch.from_numpy(pulled), paid)
        start = torch.zeros_like(told[:, :1])
        # The reward of a pull is known only at the next one.
        inputs = torch.cat([start, told[:, :-1]], 1)
        return Batch(start, inputs, torch.from_numpy(taught), rewards=paid)

    def measure(self, split: str, answers: list[Tensor]) -> dict[str, float]:
        """``<policy>_reward`` of each policy: its mean reward of an episode with the same arms."""
        _, rewards = self._games(split, 0)
        return {
            f"{name}_reward": float(_taken(rewards, pulled).sum(1).mean())
            for name, pulled in self._others(split).items()
        }

    def curves(self, split: str, answers: Tensor, count: int) -> list[Curves]:
        """Regret of the model and of each policy: the reward lost so far against the best arm.

        The random policy is left out, since beside it the others would look alike.
        """
        chances, _ = self._games(split, 0)
        lost = (chances.max(2, keepdims=True) - chances)[: len(answers)]
        every = np.arange(1, self.pulls + 1)
        lines = {
            name: np.stack([every, _taken(lost, pulled[: len(lost)]).mean(0).cumsum()], 1)
            for name, pulled in {**self._others(split), "model": answers.numpy()}.items()
            if name != "random"
        }
        caption = f"{self.arms} arms, mean of {len(answers)} episodes"
        return [Curves(lines, caption, "pulls", "regret: reward lost so far")]

    def _games(self, split: str, index: int) -> tuple[Array, Array]:
        """Mean rewards of the arms, and their rewards at each pull, both ``[B, T, K]``."""
        random = self.random(split, index)
        size = self.sequences(split, self.test_episodes)
        chances = np.repeat(random.random((size, 1, self.arms)), self.pulls, 1)
        return chances, (random.random(chances.shape) < chances).astype(np.float32)

    def _others(self, split: str) -> dict[str, Array]:
        """Arms that each policy pulls in the games of a test set, ``[B, T]``, by name.

        They play once: the scores and the curves of a test are made from the same pulls.
        """
        sizes = (self.arms, self.pulls, self.test_episodes, self.ucb_factor)
        key = (split, self.seed, *sizes)
        if self._played is None or self._played[0] != key:
            _, rewards = self._games(split, 0)
            pulled = {
                name: follow(policy, rewards, self.random(f"{name} {split}", 0))[0]
                for name, policy in self.policies().items()
            }
            self._played = key, pulled
        return self._played[1]


def _taken(values: Array, pulled: Array) -> Array:
    """Values ``[B, T]`` of the pulled arms, from the values of all arms, ``[B, T, K]``."""
    taken: Array = np.take_along_axis(values, pulled[..., None], 2)[..., 0]
    return taken


def follow(
    policy: Policy, rewards: Array, random: np.random.Generator, wander: float = 0.0
) -> tuple[Array, Array]:
    """Let a policy pull the arms.

    Args:
        policy: the policy.
        rewards: reward of each arm at each pull, 0 or 1, ``[B, T, K]``.
        random: generator for the policy and for random pulls.
        wander: share of random pulls, in ``[0, 1]``.

    Returns:
        The arms pulled, and the arms that the policy chose, ``[B, T]`` each.
    """
    size, pulls, arms = rewards.shape
    wins, losses = np.zeros((2, size, arms), np.int64)
    pulled, taught = np.zeros((2, size, pulls), np.int64)
    rows = np.arange(size)
    # The teacher's choice is the target at every pull; only some of the pulls follow it, so that
    # the model also learns to go on from other states.
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
    """The policy that pulls the arm of the highest Gittins index (:func:`gittins_indices`)."""
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
    """Thompson sampling: a draw from the posterior of each arm, ``Beta(1 + wins, 1 + losses)``."""
    drawn: Array = random.beta(1.0 + wins, 1.0 + losses)
    return drawn


def chance(wins: Array, losses: Array, step: int, random: np.random.Generator) -> Array:
    """The policy that pulls arms at random."""
    drawn: Array = np.asarray(random.random(wins.shape))
    return drawn


@lru_cache(maxsize=4)
def gittins_indices(pulls: int) -> tuple[Array, ...]:
    """Gittins indices of an arm for a game of finite length.

    The arm has won s times and lost f times, with a uniform prior. Its index is the greatest mean
    reward of its next pulls, over all rules for stopping (Gittins 1979), with at most m pulls left
    and no discount (Kaufmann 2018, FH-Gittins). It equals the highest price of a pull at which
    playing is worth while: the value of the arm at a price is ``V_m(s, f) = max(0, p - price + p
    V_{m-1}(s + 1, f) + (1 - p) V_{m-1}(s, f + 1))`` with ``p = (s + 1) / (s + f + 2)``, and
    ``V_0 = 0``.

    Args:
        pulls: pulls of the whole game, at least 1. Time and memory grow with the third power.

    Returns:
        For each number of pulls so far t, the indices by s and f, ``[t + 1, t + 1]``, with
        m = pulls - t left, precise to about a thousandth.
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
            # The value falls as the price rises, down to 0. So the number of prices with a value
            # above 0 gives the index.
            worth[made] += np.count_nonzero(begin > 0, axis=0)
            value = np.maximum(begin, 0, out=begin)
    indices = tuple((count - 0.5) * _RESOLUTION for count in worth)
    # The cache hands the same arrays to all callers.
    for index in indices:
        index.setflags(write=False)
    return indices
