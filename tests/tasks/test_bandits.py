"""Bandits: indices against their definition, policies against plain Python, episodes by hand."""

from functools import cache
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memnets.batches import Batch
from memnets.training.objectives import Actions, Labels
from tasks import Bandits
from tasks.fewshot import bandits
from tasks.fewshot.bandits import follow, gittins_indices

seeds = st.integers(0, 2**16)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def value(pulls: int, wins: int, losses: int, price: float) -> float:
    """What an arm earns above a price, pulled at most so often by one who stops when it is best."""
    if pulls == 0:
        return 0.0
    p = (wins + 1) / (wins + losses + 2)
    begin = p - price
    begin += p * value(pulls - 1, wins + 1, losses, price)
    begin += (1 - p) * value(pulls - 1, wins, losses + 1, price)
    return max(0.0, begin)


# Indices


def test_indices_by_hand() -> None:
    indices = gittins_indices(2)
    # One pull left: the mean. Two: 1/2 - x + (2/3 - x) / 2 = 0.
    assert indices[1] == pytest.approx(np.array([[1 / 2, 1 / 3], [2 / 3, 1 / 2]]), abs=1e-3)
    assert indices[0] == pytest.approx(np.array([[5 / 9]]), abs=1e-3)


@given(st.integers(1, 7), st.data())
def test_an_index_is_the_price_at_which_a_pull_is_just_worth_while(pulls, data) -> None:
    made = data.draw(st.integers(0, pulls - 1))
    wins, losses = data.draw(st.integers(0, made)), data.draw(st.integers(0, made))
    index = gittins_indices(pulls)[made][wins, losses]
    left = pulls - made
    assert value(left, wins, losses, index - 2e-3) > 0
    assert value(left, wins, losses, index + 2e-3) == 0


def test_indices_grow_with_wins_and_pulls_left_and_fall_with_losses() -> None:
    indices = gittins_indices(30)
    for index in indices[1:]:
        assert (np.diff(index, axis=0) > 0).all()
        assert (np.diff(index, axis=1) < 0).all()
    for sooner, later in pairwise(indices):
        assert (sooner >= later[:-1, :-1]).all()


def earned(arms: int, pulls: int, policy) -> float:
    """What a policy earns on average, exactly, with probabilities that were uniform at first."""

    @cache
    def rest(wins: tuple[int, ...], losses: tuple[int, ...]) -> float:
        made = sum(wins) + sum(losses)
        if made == pulls:
            return 0.0

        def after(arm: int) -> float:
            p = (wins[arm] + 1) / (wins[arm] + losses[arm] + 2)
            one = tuple(int(other == arm) for other in range(arms))
            won = rest(tuple(map(sum, zip(wins, one, strict=True))), losses)
            lost = rest(wins, tuple(map(sum, zip(losses, one, strict=True))))
            return p * (1 + won) + (1 - p) * lost

        if policy is None:
            return max(map(after, range(arms)))
        scores = policy(np.array([wins]), np.array([losses]), made, generator())
        return after(int(scores.argmax()))

    return rest((0,) * arms, (0,) * arms)


@pytest.mark.parametrize(("arms", "pulls"), [(2, 8), (3, 6)])
def test_the_index_earns_what_the_best_play_does_but_for_little(arms: int, pulls: int) -> None:
    best = earned(arms, pulls, None)
    index = earned(arms, pulls, bandits.gittins(pulls))
    assert best * 0.999 <= index <= best + 1e-9
    for other in (bandits.ucb(1.0), bandits.ucb(0.2)):
        assert earned(arms, pulls, other) < index


# Policies


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=4))
def test_ucb_is_its_formula(counts) -> None:
    wins, losses = np.array([counts]).transpose(2, 0, 1)
    step = int(wins.sum() + losses.sum())
    scores = bandits.ucb(0.5)(wins, losses, step, generator())
    for arm, (won, lost) in enumerate(counts):
        if won + lost == 0:
            assert scores[0, arm] == np.inf
        else:
            bound = won / (won + lost) + 0.5 * np.sqrt(2 * np.log(step) / (won + lost))
            assert scores[0, arm] == pytest.approx(bound)


def test_thompson_draws_from_the_posterior() -> None:
    wins, losses = np.full((20_000, 1), 6), np.full((20_000, 1), 2)
    drawn = bandits.thompson(wins, losses, 8, generator())
    assert drawn.mean() == pytest.approx(0.7, abs=0.01)
    assert drawn.var() == pytest.approx(0.7 * 0.3 / 11, rel=0.05)


@given(seeds, st.integers(1, 4), st.integers(1, 8), st.integers(2, 4), st.floats(0, 1))
def test_a_policy_is_told_of_its_wins_and_losses(seed, size, pulls, arms, wander) -> None:
    rewards = generator(seed).integers(0, 2, (size, pulls, arms))
    told = []

    def policy(wins, losses, step, random):
        told.append((wins.copy(), losses.copy(), step))
        return random.random(wins.shape)

    pulled, taught = follow(policy, rewards, generator(seed), wander)
    assert len(told) == pulls
    for step, (wins, losses, made) in enumerate(told):
        assert made == step
        for row, arm in product(range(size), range(arms)):
            paid = [
                rewards[row, before, arm] for before in range(step) if pulled[row, before] == arm
            ]
            assert wins[row, arm] == sum(paid)
            assert losses[row, arm] == len(paid) - sum(paid)
    if wander == 0:
        assert (pulled == taught).all()


def test_a_share_of_the_pulls_is_random() -> None:
    rewards = np.zeros((200, 50, 4))
    pulled, taught = follow(lambda wins, *_: wins, rewards, generator(), 0.4)
    assert not taught.any()
    assert (pulled != 0).mean() == pytest.approx(0.4 * 3 / 4, abs=0.02)


# Episodes


@given(seeds, st.integers(2, 4), st.integers(1, 6), st.sampled_from(["train", "val", "test"]))
def test_an_episode_tells_what_was_pulled_and_paid_and_asks_for_the_best_index(
    seed, arms, pulls, split
) -> None:
    sizes = {"batch_size": 2, "validation_batch_size": 3, "test_episodes": 4}
    task = Bandits(arms, pulls, wander=0.5, seed=seed, **sizes)
    batch = task.batch(split, 0)
    size = {"train": 2, "val": 3, "test": 4}[split]
    assert batch.source.shape == (size, 1, arms + 1)
    assert batch.inputs.shape == (size, pulls, arms + 1)
    assert not batch.source.any()
    assert not batch.inputs[:, 0].any()
    indices = gittins_indices(pulls)
    for row in range(size):
        wins, losses = [0] * arms, [0] * arms
        for step in range(pulls):
            if step:
                *shown, paid = batch.inputs[row, step].tolist()
                assert sorted(shown) == [0] * (arms - 1) + [1]
                arm = shown.index(1)
                assert paid == batch.rewards[row, step - 1, arm]
                if split == "test":
                    assert arm == batch.targets[row, step - 1]
                wins[arm] += int(paid)
                losses[arm] += int(1 - paid)
            index = [indices[step][wins[arm], losses[arm]] for arm in range(arms)]
            assert batch.targets[row, step] == int(np.argmax(index))


def test_the_teacher_wanders_in_training_alone() -> None:
    task = Bandits(4, 50, wander=0.4, batch_size=50, validation_batch_size=50, test_episodes=50)
    for split, share in {"train": 0.3, "val": 0.3, "test": 0.0}.items():
        batch = task.batch(split, 0)
        pulled = batch.inputs[:, 1:, :-1].argmax(-1)
        strayed = (pulled != batch.targets[:, :-1]).float().mean()
        assert strayed == pytest.approx(share, abs=0.05)


def test_a_batch_is_a_pure_function_of_seed_split_and_index() -> None:
    def bits(seed: int, split: str, index: int) -> bytes:
        batch = Bandits(3, 9, seed=seed).batch(split, index)
        return b"".join(part.numpy().tobytes() for part in (batch.inputs, batch.rewards))

    assert bits(1, "train", 5) == bits(1, "train", 5)
    different = {bits(1, "train", 5), bits(2, "train", 5), bits(1, "val", 5), bits(1, "train", 6)}
    assert len(different) == 4


def test_what_policies_draw_has_nothing_to_do_with_what_arms_pay() -> None:
    task = Bandits(2, 100, test_episodes=400, ucb_factor=3.0)
    rewards = task.measure("test", [])
    # With the generator of the games, chance would pull the arms that pay, or that do not.
    assert rewards["random_reward"] == pytest.approx(50, abs=3)
    # So wide a bound explores for ever.
    assert rewards["ucb_reward"] < rewards["thompson_reward"] - 4


def test_rewards_are_those_of_arms_with_uniform_probabilities() -> None:
    rewards = Bandits(3, 100, test_episodes=500).batch("test", 0).rewards
    means = rewards.mean(1).flatten().numpy()
    assert np.quantile(means, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.05)
    # Of one arm, pulls are independent.
    halves = rewards.unflatten(1, (2, 50)).mean(2)
    assert (halves[:, 0] - halves[:, 1]).abs().max() < 0.5


def test_the_policies_are_measured_in_the_games_of_the_test() -> None:
    task = Bandits(5, 100, test_episodes=400)
    scores = task.measure("test", [])
    assert list(scores) == [f"{name}_reward" for name in ("gittins", "ucb", "thompson", "random")]
    # Duan et al. 2016, table 1: 78.3, 78.0, 74.7 and 49.9.
    published = dict(zip(scores, (78.3, 78.0, 74.7, 49.9), strict=True))
    assert scores == pytest.approx(published, abs=2.5)
    batch = task.batch("test", 0)
    paid = batch.rewards.gather(2, batch.targets.unsqueeze(-1)).sum() / 400
    assert scores["gittins_reward"] == pytest.approx(float(paid))


def test_curves_are_regrets_that_only_grow() -> None:
    task = Bandits(3, 20, test_episodes=50)
    best = task.batch("test", 0).rewards.sum(1).argmax(1)
    (panel,) = task.curves("test", lambda: best.unsqueeze(1).expand(-1, 20), 4)
    assert list(panel.lines) == ["gittins", "ucb", "thompson", "model"]
    for line in panel.lines.values():
        assert line[:, 0].tolist() == list(range(1, 21))
        assert (np.diff(line[:, 1]) >= 0).all()
    lost = {name: line[-1, 1] for name, line in panel.lines.items()}
    # One who knew the best arm would lose nothing; one who stays with an arm, 1/4 a pull.
    assert lost["model"] < lost["gittins"] < lost["thompson"]
    (panel,) = task.curves("test", lambda: torch.zeros(50, 20, dtype=torch.long), 4)
    assert panel.lines["model"][-1, 1] == pytest.approx(20 * (3 / 4 - 1 / 2), abs=1.2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arms": 1}, "arms must be at least 2, .* got 1"),
        ({"arms": 0}, "arms must be .* got 0"),
        ({"pulls": 0}, "pulls must be .* got 0"),
        ({"wander": 1.5}, r"wander must be in \[0, 1\]; got 1.5"),
        ({"wander": float("nan")}, r"wander must be in \[0, 1\]; got nan"),
        ({"ucb_factor": -1.0}, "ucb_factor must be at least 0 and finite; got -1.0"),
        ({"ucb_factor": float("inf")}, "ucb_factor must be .* got inf"),
        ({"pulls": 501}, "pulls must be at most 500; got 501"),
        ({"test_episodes": 0}, "test_episodes must be .* got 0"),
    ],
)
def test_bad_settings_of_bandits_are_named(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bandits(**settings)


# Play


class Index:
    """A model that plays the best index: its state is the wins and the losses of each arm."""

    def __init__(self, arms: int, pulls: int) -> None:
        self.arms, self.pulls = arms, pulls

    def encode(self, source, mask=None):
        assert mask is None
        return torch.zeros(2, len(source), self.arms), 0

    def decode(self, inputs, state):
        (wins, losses), made = state
        logits = []
        for told in inputs.unbind(1):
            arm, paid = told[:, :-1], told[:, -1:]
            wins, losses = wins + arm * paid, losses + arm * (1 - paid)
            index = gittins_indices(self.pulls)[made][wins.long().numpy(), losses.long().numpy()]
            logits.append(torch.from_numpy(index))
            made += 1
        return torch.stack(logits, 1), (torch.stack([wins, losses]), made)

    def logits(self, batch: Batch):
        return self.decode(batch.inputs, self.encode(batch.source))[0]


@given(seeds, st.integers(2, 4), st.integers(1, 6))
def test_a_model_that_knows_the_index_plays_as_the_teacher_does(seed, arms, pulls) -> None:
    task = Bandits(arms, pulls, test_episodes=5, seed=seed)
    batch = task.batch("test", 0)
    ((actions, scores),) = Actions().examine(Index(arms, pulls), batch).values()
    assert torch.equal(actions, batch.targets)
    assert set(scores) == {"loss", "accuracy", "reward"}
    assert (scores["accuracy"] == 1).all()
    reward = task.measure("test", [])["gittins_reward"]
    assert scores["reward"].mean().item() == pytest.approx(reward)


def test_padding_earns_nothing() -> None:
    batch = Bandits(2, 3, test_episodes=4).batch("test", 0)
    mask = torch.tensor([True, False, False]).expand(4, -1)
    ((actions, scores),) = Actions().examine(Index(2, 3), batch._replace(target_mask=mask)).values()
    first = batch.rewards[:, 0].gather(1, actions[:, :1]).squeeze(1)
    assert torch.equal(scores["reward"], first)


def test_a_model_earns_by_its_own_actions() -> None:
    task = Bandits(3, 9, test_episodes=6)
    batch = task.batch("test", 0)
    # It plays as if the game were shorter.
    ((actions, scores),) = Actions().examine(Index(3, 30), batch).values()
    assert not torch.equal(actions, batch.targets)
    for row in range(6):
        paid = [batch.rewards[row, step, arm].item() for step, arm in enumerate(actions[row])]
        assert scores["reward"][row] == sum(paid)


def test_rewards_are_summed_in_single_precision() -> None:
    class Still(Index):
        def decode(self, inputs, state):
            return torch.zeros(*inputs.shape[:2], self.arms), state

    batch = Bandits(2, 61, test_episodes=1).batch("test", 0)
    batch = batch._replace(rewards=torch.full_like(batch.rewards, 9, dtype=torch.bfloat16))
    ((_, scores),) = Actions().examine(Still(2, 61), batch).values()
    assert scores["reward"].item() == 549


def test_a_task_and_its_objective_must_fit() -> None:
    batch = Bandits(2, 3, test_episodes=4).batch("test", 0)
    Actions().check(batch)
    with pytest.raises(ValueError, match="needs the objective Actions; got Labels"):
        Labels().check(batch)
    with pytest.raises(ValueError, match="needs a task with rewards"):
        Actions().check(batch._replace(rewards=None))
    with pytest.raises(ValueError, match=r"\[B, T\] = \[4, 3\], .* got \[4, 2, 2\]"):
        Actions().check(batch._replace(rewards=batch.rewards[:, 1:]))


def test_a_policy_and_a_teacher_of_ones_own() -> None:
    class Mine(Bandits):
        def teacher(self):
            return lambda wins, losses, step, random: -wins

        def policies(self):
            return {**super().policies(), "greedy": lambda wins, losses, *_: wins - losses}

    task = Mine(3, 5, test_episodes=50)
    rewards = task.measure("test", [])
    assert list(rewards)[-1] == "greedy_reward"
    assert rewards["greedy_reward"] > rewards["random_reward"]
    batch = task.batch("test", 0)
    assert (batch.targets[:, 0] == 0).all()
    won = batch.rewards[:, 0, 0] == 1
    assert (batch.targets[won, 1] == 1).all()
    assert (batch.targets[~won, 1] == 0).all()
