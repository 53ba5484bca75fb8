"""Addressing against oracles in NumPy, by frequencies, and by what it learns."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memnets import fast, functional
from memnets.addressing import Content, Hard, HardState, Hopfield, Local, Recent
from memnets.batches import Batch
from memnets.cells import GRU
from memnets.core import Encoder, Memory
from memnets.encoders import Recurrent
from memnets.models import Reinforce, Seq2Seq
from memnets.normalizers import GumbelHard, ScalableSoftmax
from memnets.scores import Additive, Dot, ScaledDot
from memnets.training.objectives import Tokens

WIDTH = 3
lengths = st.lists(st.integers(0, 8), min_size=1, max_size=3)


def memory(lengths, generator):
    slots = max([1, *lengths])
    keys = torch.randn(len(lengths), slots, WIDTH, generator=generator, dtype=torch.double)
    mask = torch.arange(slots) < torch.tensor(lengths).unsqueeze(1)
    return Memory(keys, keys, mask.unsqueeze(1))


@given(lengths.filter(any), st.sampled_from([Dot, ScaledDot]), st.integers(0, 1000))
def test_scalable_softmax_is_equation_2_fused_or_not(lengths, score, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    content = Content(score(), ScalableSoftmax(0.75)).double()
    slots = memory([max(length, 1) for length in lengths], generator)
    shape = (len(lengths), 2, WIDTH)
    query = torch.randn(shape, generator=generator, dtype=torch.double, requires_grad=True)

    def read():
        vectors, _ = content.read(query, slots)
        return vectors, *torch.autograd.grad(vectors.sum(), [query, content.normalizer.scale])

    fused = read()
    with fast.naive():
        plain = read()
    torch.testing.assert_close(fused, plain)
    scores = content.scores(query, slots).detach().numpy()
    for row, length in enumerate(lengths):
        count = max(length, 1)
        powers = float(count) ** (0.75 * scores[row, :, :count])
        expected = powers / powers.sum(-1, keepdims=True) @ slots.values[row, :count].numpy()
        np.testing.assert_allclose(fused[0][row].detach().numpy(), expected)


@given(st.lists(st.booleans(), min_size=1, max_size=6).filter(any), st.integers(0, 1000))
def test_recent_slots_score_higher_by_their_place_among_the_open_ones(opened, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(1, len(opened), WIDTH, generator=generator, dtype=torch.double)
    query = torch.randn(1, 1, WIDTH, generator=generator, dtype=torch.double)
    recent = Recent(Dot(), slope=0.7).double()
    mask = torch.tensor([[opened]])
    weights, _ = recent(query, Memory(keys, keys, mask))
    powers = np.zeros(len(opened))
    place = 0
    for slot, there in enumerate(opened):
        if there:
            place += 1
            powers[slot] = np.exp(float(query[0, 0] @ keys[0, slot]) + 0.7 * place)
    np.testing.assert_allclose(weights[0, 0].detach().numpy(), powers / powers.sum(), rtol=1e-6)
    # Closed slots are as if they were not there.
    alone = keys[:, opened]
    few, _ = recent(query, Memory(alone, alone))
    torch.testing.assert_close(few, weights[:, :, opened])


def window(scores, centre, reach, count):
    """Softmax of the slots not more than ``reach`` from ``centre``, one at a time."""
    weights = np.zeros(len(scores))
    near = [s for s in range(count) if abs(s - centre) <= reach]
    total = sum(np.exp(scores[s]) for s in near)
    for s in near:
        weights[s] = np.exp(scores[s]) / total
    return weights


@given(lengths, st.integers(1, 4), st.integers(0, 1000))
def test_local_p_is_equations_9_and_10(lengths, reach, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    local = Local(Dot(), size=WIDTH, reach=reach).double()
    slots = memory(lengths, generator)
    queries = 3 * torch.randn(len(lengths), 1, WIDTH, generator=generator, dtype=torch.double)
    weights, state = local(queries, slots, local.initial_state(slots))
    assert state.tolist() == [[1.0]] * len(lengths)
    first, _, second = local.place
    w_p, v_p = first.weight.detach().numpy(), second.weight.detach().numpy()[0]
    for row, count in enumerate(lengths):
        query, keys = queries[row, 0].numpy(), slots.keys[row].numpy()
        p = count / (1 + np.exp(-v_p @ np.tanh(w_p @ query)))
        align = window(keys @ query, p, reach, count)
        distances = np.arange(len(keys)) - p
        expected = align * np.exp(-(distances**2) / (2 * (reach / 2) ** 2))
        np.testing.assert_allclose(weights[row, 0].detach().numpy(), expected, atol=1e-12)


@given(lengths, st.integers(1, 3), st.integers(0, 1000))
def test_local_m_walks_along_the_slots(lengths, reach, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    local = Local(Dot(), reach=reach)
    slots = memory(lengths, generator)
    state = local.initial_state(slots)
    for step in range(10):
        query = torch.randn(len(lengths), 1, WIDTH, generator=generator, dtype=torch.double)
        weights, state = local(query, slots, state)
        for row, count in enumerate(lengths):
            scores = (slots.keys[row] @ query[row, 0]).numpy()
            expected = window(scores, min(step, max(count - 1, 0)), reach, count)
            np.testing.assert_allclose(weights[row, 0].numpy(), expected, atol=1e-12)


def test_local_without_a_mask_has_every_slot() -> None:
    local = Local(Dot(), reach=1)
    keys = torch.zeros(1, 4, WIDTH)
    weights, _ = local(keys[:, :1], Memory(keys, keys), torch.tensor([[2.0]]))
    torch.testing.assert_close(weights, torch.tensor([[[0.0, 1.0, 1.0, 1.0]]]) / 3)


def test_hard_draws_as_often_as_the_softmax_says() -> None:
    torch.manual_seed(0)
    draws, query = 20_000, torch.tensor([[[1.0, -0.5, 0.3]]])
    keys = torch.randn(1, 5, WIDTH)
    mask = torch.tensor([[[True, True, False, True, True]]])
    hard = Hard(Dot()).train()
    slots = Memory(*(part.expand(draws, -1, -1) for part in (keys, keys, mask)))
    weights, state = hard(query.expand(draws, -1, -1), slots, hard.initial_state(slots))
    assert set(weights.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(weights.sum(-1), torch.ones(draws, 1))
    scores = (keys @ query.mT)[0, :, 0].masked_fill(~mask[0, 0], -torch.inf)
    probabilities = scores.softmax(-1)
    counts, expected = weights.sum((0, 1)), draws * probabilities
    assert counts[2] == 0
    open_slots = mask[0, 0]
    chi_square = ((counts - expected).square() / expected)[open_slots].sum()
    assert chi_square < 16.3  # p = 0.001 with 3 degrees of freedom
    place = weights.argmax(-1)
    torch.testing.assert_close(state.log_probability[..., 0], scores.log_softmax(-1)[place])
    entropy = -(probabilities[open_slots] * probabilities[open_slots].log()).sum()
    torch.testing.assert_close(state.entropy, entropy.expand(draws, 1, 1))


def test_hard_takes_the_best_in_evaluation_and_remembers_all_steps() -> None:
    hard = Hard(Dot()).eval()
    slots = memory([4, 2, 0], torch.Generator().manual_seed(0))
    state = hard.initial_state(slots)
    scores = []
    for _ in range(3):
        query = torch.randn(3, 1, WIDTH, dtype=torch.double)
        weights, state = hard(query, slots, state)
        scores.append((query @ slots.keys.mT).masked_fill(~slots.mask, -torch.inf))
        assert weights[2].eq(0).all()
        assert torch.equal(weights[:2].argmax(-1), scores[-1][:2].argmax(-1))
        assert torch.equal(weights[:2].sum(-1), torch.ones(2, 1, dtype=torch.double))
    best = torch.cat([each[:2].log_softmax(-1).amax(-1, keepdim=True) for each in scores], -1)
    assert state.log_probability.shape == state.entropy.shape == (3, 1, 3)
    torch.testing.assert_close(state.log_probability[:2], best)


def test_some_sequences_of_a_training_take_the_expected_value_of_their_draws() -> None:
    torch.manual_seed(0)
    sequences = 2_000
    slots = Memory(*(torch.randn(sequences, 4, WIDTH) for _ in range(2)))
    hard = Hard(Dot(), expected=0.3).train()
    state = hard.initial_state(slots)
    soft = state.expected.flatten()
    assert abs(soft.float().mean() - 0.3) < 0.04  # four standard deviations
    for step in range(2):
        query = torch.randn(sequences, 1, WIDTH, requires_grad=True)
        weights, state = hard(query, slots, state)
        probabilities = (query @ slots.keys.mT).softmax(-1)
        torch.testing.assert_close(weights[soft], probabilities[soft])
        # The others draw, and only they have something to learn from by REINFORCE.
        assert set(weights[~soft].unique().tolist()) == {0.0, 1.0}
        assert not state.log_probability[soft, 0, step].any()
        assert (state.log_probability[~soft, 0, step] < 0).all()
        (gradient,) = torch.autograd.grad(weights.square().sum(), query)
        assert torch.equal(gradient.flatten(1).any(1), soft)
    assert hard.eval().initial_state(slots).expected is None
    with pytest.raises(ValueError, match=r"expected must be in \[0, 1\]; got 1.5"):
        Hard(Dot(), 1.5)


def hard_model(**settings) -> Seq2Seq:
    torch.manual_seed(0)
    return Seq2Seq(
        7, 7, **{
            "encoder": partial(Recurrent, controller=partial(GRU, hidden_size=4)),
            "decoder": partial(GRU, hidden_size=5),
            "width": 6,
            "attention": Hard(Additive(3)),
            "key_size": 3,
            "objective": Tokens(),
            **settings,
        },
    )  # fmt: skip


def scores_of(model: Seq2Seq) -> list[torch.Tensor]:
    """A list that the scores ``[B, 1, S]`` of each step are put in; their gradient is kept."""
    scores: list[torch.Tensor] = []

    def keep(module, arguments, output):
        if output.requires_grad:
            output.retain_grad()
        scores.append(output)

    model.attention.score.register_forward_hook(keep)
    return scores


def test_the_gradient_of_hard_attention_is_that_of_reinforce() -> None:
    lambda_r, lambda_e, discount, baseline = 0.7, 0.3, 0.5, -1.2
    model = hard_model(reinforce=Reinforce(lambda_r, lambda_e, discount))
    model.double().train().reinforce.baseline.fill_(baseline)
    target_mask = torch.tensor([[True] * 3, [True, True, False]])
    batch = Batch(
        torch.tensor([[4, 5, 6, 3], [6, 3, 0, 0]]),
        torch.tensor([[2, 4, 5], [2, 6, 0]]),
        torch.tensor([[4, 5, 3], [6, 3, 0]]),
        torch.tensor([[True] * 4, [True, True, False, False]]),
        target_mask,
    )
    torch.manual_seed(3)
    logits, state = model.decode(batch.inputs, model.encode(batch.source, batch.source_mask))
    assert isinstance(state.addressing, HardState)
    losses = model.objective.losses(logits, batch.targets).detach().numpy()

    scores = scores_of(model)
    torch.manual_seed(3)  # the same draws
    model.loss(batch).backward()
    for row in range(2):
        steps = int(target_mask[row].sum())
        for step in range(3):
            gradient = scores[step].grad[row, 0].numpy()
            if step >= steps:
                assert not gradient.any()
                continue
            length = int(batch.source_mask[row].sum())
            s = scores[step][row, 0, :length].detach().numpy()
            p = np.exp(s) / np.exp(s).sum()
            log = state.addressing.log_probability[row, 0, step].item()
            drawn = np.argmin(np.abs(np.log(p) - log))
            worth = sum(
                discount ** (later - step) * (-losses[row, later] - baseline)
                for later in range(step, steps)
            )
            entropy = -(p * np.log(p)).sum()
            expected = -lambda_r * worth * (np.eye(length)[drawn] - p)
            expected += lambda_e * p * (np.log(p) + entropy)
            np.testing.assert_allclose(gradient[:length], expected / 5, atol=1e-12)
            assert not gradient[length:].any()
    average = -losses[target_mask.numpy()].mean()
    assert model.reinforce.baseline.item() == pytest.approx(0.9 * baseline + 0.1 * average)


def test_without_draws_hard_attention_is_soft_attention_with_a_reward_for_entropy() -> None:
    score = Additive(3)
    hard = hard_model(attention=Hard(score, expected=1.0), reinforce=Reinforce(entropy_weight=0.3))
    soft = hard_model(attention=Content(score))
    soft.load_state_dict(hard.state_dict())
    tokens = torch.tensor([[4, 5, 3], [6, 6, 3]])
    batch = Batch(tokens, tokens, tokens)
    _, state = hard.train().decode(batch.inputs, hard.encode(batch.source))
    expected = soft.train().loss(batch) - 0.3 * state.addressing.entropy.mean()
    torch.testing.assert_close(hard.loss(batch), expected)


def test_the_loss_in_evaluation_is_the_plain_one() -> None:
    model = hard_model().eval()
    tokens = torch.tensor([[4, 5, 3]])
    batch = Batch(tokens, tokens, tokens)
    expected = model.objective.losses(model.logits(batch), tokens).mean()
    torch.testing.assert_close(model.loss(batch), expected)
    assert model.reinforce.baseline == 0


class Bag(Encoder):
    """Each step by itself, and no summary: only attention can know the source."""

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.output_size, self.summary_size = input_size, 1

    def forward(self, inputs, mask=None):
        return inputs, inputs.new_zeros(len(inputs), 1)


def test_hard_attention_learns_to_look_where_the_answer_is() -> None:
    # One slot of four holds 1, 3, 4 or 5, which is the answer; the others hold 6.
    model = hard_model(encoder=Bag, attention=Hard(Additive(8)), key_size=8, width=8)
    scores = scores_of(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def batch() -> tuple[Batch, torch.Tensor]:
        place = torch.randint(4, (64, 1))
        answer = torch.tensor([1, 3, 4, 5])[torch.randint(4, (64, 1))]
        source = torch.full((64, 4), 6).scatter(1, place, answer)
        return Batch(source, torch.full_like(answer, 2), answer), place

    def found() -> tuple[float, float]:
        """How likely the right slot is to be drawn, and the share of right answers."""
        model.eval()
        known, place = batch()
        with torch.no_grad():
            answers = model.logits(known).argmax(-1)
        model.train()
        likely = scores[-1][:, 0].softmax(-1).gather(1, place).mean()
        return likely.item(), (answers == known.targets).float().mean().item()

    before, _ = found()
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(batch()[0]).backward()
        optimizer.step()
        scores.clear()
    after, right = found()
    assert before < 0.5
    assert after > 0.9
    assert right > 0.95


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"discount": 1.5}, r"discount must be in \[0, 1\]; got 1.5"),
        ({"baseline_decay": 1.0}, r"baseline_decay must be in \[0, 1\); got 1.0"),
    ],
)
def test_bad_settings_of_reinforce_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Reinforce(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attend": "during"}, "'before' or 'after'; got 'during'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    encoder = partial(Recurrent, controller=partial(GRU, hidden_size=2))
    with pytest.raises(ValueError, match=message):
        Seq2Seq(5, 5, encoder, partial(GRU, hidden_size=2), Hard(Dot()), **settings)


def test_straight_through_gumbel_draws_as_often_as_the_softmax_says():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 1, 5, generator=generator)
    draws = 20_000
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = GumbelHard().train()(scores.expand(draws, 3, 1, 5), None)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), scores.softmax(-1), atol=0.015, rtol=0.0)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_gradient_of_straight_through_gumbel_is_that_of_the_softmax(temperature):
    scores = torch.tensor([[0.3, -0.2, 1.0]], dtype=torch.double, requires_grad=True)
    weigh = torch.tensor([[1.0, 5.0, -2.0]], dtype=torch.double)
    hard = GumbelHard(temperature).eval()(scores, None)
    assert hard.tolist() == [[0.0, 0.0, 1.0]]
    ours = torch.autograd.grad((hard * weigh).sum(), scores)
    soft = torch.autograd.grad(((scores / temperature).softmax(-1) * weigh).sum(), scores)
    torch.testing.assert_close(ours, soft)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_whatever_a_mask_closes_is_zero_and_gets_no_gradient(value: float) -> None:
    values = torch.tensor([2.0, value, 3.0], requires_grad=True)
    kept = functional.inside(values, torch.tensor([True, False, True]))
    assert kept.tolist() == [2.0, 0.0, 3.0]
    (gradient,) = torch.autograd.grad(kept.square().sum(), values)
    assert gradient.tolist() == [4.0, 0.0, 6.0]
    assert functional.inside(values, None) is values


#: What is no query, or no memory, of two sequences with three slots of width 4.
UNFIT = {
    "a query of each sequence alone": (torch.zeros(2, 4), {}, "same number of dimensions"),
    "keys of one sequence": (torch.zeros(2, 1, 4), {"keys": torch.zeros(3, 4)}, "dimensions"),
    "values of more": (torch.zeros(2, 1, 4), {"values": torch.zeros(1, 2, 3, 4)}, "dimensions"),
    "a mask of each sequence alone": (
        torch.zeros(2, 2, 1, 4),
        {
            "keys": torch.zeros(2, 2, 3, 4),
            "values": torch.zeros(2, 2, 3, 4),
            "mask": torch.ones(2, 1, 3, dtype=torch.bool),
        },
        r"mask must be \[\*B, 1 or Q, N\] = .*; got \[2, 1, 3\]",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_query_or_a_mask_is_not_spread_over_the_batch(case) -> None:
    query, changed, message = UNFIT[case]
    parts = {"keys": torch.zeros(2, 3, 4), "values": torch.zeros(2, 3, 4), "mask": None}
    memory = Memory(**{**parts, **changed})
    for addressing in (Content(Dot()), Hopfield(), Hard(Dot()), Local(Dot()), Recent(Dot())):
        for ask in (addressing, addressing.read):
            with pytest.raises(ValueError, match=message):
                ask(query, memory, addressing.initial_state(memory))


def test_a_tensor_in_place_of_a_memory_is_named() -> None:
    for addressing in (Content(Dot()), Hard(Dot()), Local(Dot())):
        with pytest.raises(TypeError, match=r"must be a Memory\(keys, .*; got a Tensor"):
            addressing(torch.zeros(2, 1, 4), torch.zeros(2, 3, 4))
