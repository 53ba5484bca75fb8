"""Greedy and beam search against plain loops and brute force, for every kind of model."""

import copy
import itertools
from functools import cache, partial
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from memnets import decoding, functional
from memnets.addressing import Content, Hard, Local
from memnets.batches import BEGIN, END, PAD
from memnets.cells import GRU, LSTM, LSTMN, LearnedPositions
from memnets.decoding import beam_search, feedback, greedy, play, sample
from memnets.encoders import Recurrent
from memnets.kernels.append import lengthened
from memnets.memories import NTM
from memnets.models import SNAIL, CausalTransformer, MemoryMachine, Seq2Seq, Transformer
from memnets.scores import Additive, Dot, General

SIZE = 6
PLAIN = {
    "encoder": partial(Recurrent, controller=partial(GRU, hidden_size=4)),
    "decoder": partial(GRU, hidden_size=5),
    "width": 6,
}
SMALL = {"width": 4, "heads": 2, "layers": 2, "hidden_size": 8}
LOOKS_AFTER = {**PLAIN, "attend": "after"}
MODELS = {
    "no attention": lambda: Seq2Seq(SIZE, SIZE, **PLAIN),
    "Bahdanau": lambda: Seq2Seq(SIZE, SIZE, **PLAIN, attention=Content(Additive(3)), key_size=3),
    "Luong, input feeding": lambda: Seq2Seq(
        SIZE, SIZE, **LOOKS_AFTER, attention=Content(General(8)), input_feeding=True
    ),
    "local-m": lambda: Seq2Seq(SIZE, SIZE, **LOOKS_AFTER, attention=Local(Dot(), reach=1)),
    "local-p": lambda: Seq2Seq(SIZE, SIZE, **LOOKS_AFTER, attention=Local(Dot(), size=8, reach=1)),
    "hard": lambda: Seq2Seq(SIZE, SIZE, **PLAIN, attention=Hard(Additive(3)), key_size=3),
    "LSTMN": lambda: Seq2Seq(
        SIZE,
        SIZE,
        encoder=partial(Recurrent, controller=partial(LSTMN, hidden_size=4), bidirectional=False),
        decoder=partial(LSTMN, hidden_size=4),
        attention=Content(Additive(4)),
        key_size=4,
        width=4,
    ),
    "Transformer": lambda: Transformer(SIZE, SIZE, **SMALL),
    "Transformer, learned positions": lambda: Transformer(
        SIZE, SIZE, norm="post", positions=LearnedPositions(4, 20), **SMALL
    ),
    "causal Transformer": lambda: CausalTransformer(SIZE, SIZE, **SMALL),
    "NTM": lambda: MemoryMachine(SIZE, SIZE, partial(LSTM, hidden_size=5), NTM(slots=4, width=3)),
}
every_model = pytest.mark.parametrize("name", MODELS)


@cache
def model(name):
    """A model that is far from sure of anything, and far from saying the same always."""
    torch.manual_seed(1)
    built = MODELS[name]().double().eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.6 * torch.randn_like(parameter))
    return built


sentences = st.lists(
    st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=5), min_size=1, max_size=4
)


def padded(rows):
    """Tokens ``[B, S]`` and their mask, which is there even if nothing is padding."""
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
    return tokens, torch.arange(longest) < torch.tensor([len(row) for row in rows]).unsqueeze(1)


@torch.no_grad()
def uncached(built, sentence, answer):
    """Logits ``[O]`` of what follows ``answer``, from the beginning."""
    state = built.encode(torch.tensor([sentence]))
    return built.decode(torch.tensor([[BEGIN, *answer]]), state)[0][0, -1]


def likeliest(built, sentence, max_length):
    """Oracle of greedy search: an argmax at a time."""
    answer = []
    while len(answer) < max_length and END not in answer:
        answer.append(int(uncached(built, sentence, answer).argmax()))
    return answer


def said(row):
    """Tokens up to the end mark; what comes after is padding."""
    row = row.tolist()
    stop = row.index(END) + 1 if END in row else len(row)
    assert set(row[stop:]) <= {PAD}
    return row[:stop]


@every_model
@settings(max_examples=5)
@given(rows=sentences, max_length=st.integers(1, 7))
def test_greedy_is_an_argmax_at_each_step(name, rows, max_length):
    answers = greedy(model(name), *padded(rows), max_length=max_length)
    expected = [likeliest(model(name), row, max_length) for row in rows]
    assert [said(row) for row in answers] == expected
    assert answers.shape == (len(rows), max(map(len, expected)))
    assert all(END in row or len(row) == max_length for row in expected)


@every_model
@settings(max_examples=4)
@given(rows=sentences, tokens=st.lists(st.integers(0, SIZE - 1), min_size=6, max_size=6))
@torch.no_grad()
def test_cached_is_uncached(name, rows, tokens):
    built = model(name)
    state = built.encode(*padded(rows))
    for step in range(len(tokens)):
        token = torch.full((len(rows), 1), ([BEGIN, *tokens])[step])
        logits, state = built.decode(token, state)
        for row, sentence in enumerate(rows):
            expected = uncached(built, sentence, tokens[:step])
            torch.testing.assert_close(logits[row, -1], expected, rtol=1e-9, atol=1e-9)


@every_model
@settings(max_examples=5)
@given(rows=sentences, max_length=st.integers(1, 7))
def test_a_beam_of_1_is_greedy(name, rows, max_length):
    source = padded(rows)
    answers = greedy(model(name), *source, max_length=max_length)
    found = beam_search(model(name), *source, beam=1, length_penalty=0.0, max_length=max_length)
    assert found.tokens[:, 0].tolist() == answers.tolist()


@every_model
@settings(max_examples=4)
@given(
    rows=sentences,
    beam=st.integers(1, 5),
    length_penalty=st.sampled_from([0.0, 0.6, 1.0, 2.0]),
    max_length=st.integers(1, 7),
)
def test_batch_neighbours_never_change_a_search(name, rows, beam, length_penalty, max_length):
    search = partial(
        beam_search,
        beam=beam,
        length_penalty=length_penalty,
        count=beam,
        max_length=max_length,
    )
    together = search(model(name), *padded(rows))
    for row, sentence in enumerate(rows):
        alone = search(model(name), torch.tensor([sentence]))
        torch.testing.assert_close(together.scores[row], alone.scores[0], rtol=1e-5, atol=1e-5)
        for ours, theirs in zip(together.tokens[row], alone.tokens[0], strict=True):
            steps = len(theirs)
            assert ours[:steps].tolist() == theirs.tolist()
            assert not ours[steps:].any()


@torch.no_grad()
def log_probabilities(built, sentence, answers):
    """What teacher forcing says of each answer, ``[n, T]``: of its tokens."""
    inputs = torch.cat([torch.full((len(answers), 1), BEGIN), answers[:, :-1]], 1)
    source = torch.tensor([sentence] * len(answers))
    logits, _ = built.decode(inputs, built.encode(source))
    return logits.log_softmax(-1).gather(-1, answers.unsqueeze(-1)).squeeze(-1)


def penalty(length, length_penalty):
    return ((5 + length) / 6) ** length_penalty


@every_model
@settings(max_examples=4)
@given(rows=sentences, beam=st.integers(2, 4), length_penalty=st.sampled_from([0.0, 0.6, 1.0]))
def test_scores_are_what_teacher_forcing_says(name, rows, beam, length_penalty):
    found = beam_search(model(name), *padded(rows), beam, length_penalty, beam, max_length=6)
    assert (found.scores.diff(dim=1) <= 0).logical_or(~ended(found.tokens)[:, 1:]).all()
    for row, sentence in enumerate(rows):
        logs = log_probabilities(model(name), sentence, found.tokens[row])
        for tokens, score, log in zip(found.tokens[row], found.scores[row], logs, strict=True):
            if score == -torch.inf:
                assert not tokens.any()
                continue
            length = len(said(tokens))
            expected = log[:length].sum() / penalty(length, length_penalty)
            assert score.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)


def ended(tokens):
    return (tokens == END).any(-1)


def all_answers(built, sentence, max_length, length_penalty):
    """Oracle of beam search: every answer that there is, whole ones first, the best first."""
    every = torch.tensor(list(itertools.product(range(SIZE), repeat=max_length)))
    logs = log_probabilities(built, sentence, every)
    scores = {}
    for tokens, log in zip(every.tolist(), logs, strict=True):
        length = tokens.index(END) + 1 if END in tokens else max_length
        score = log[:length].sum().item() / penalty(length, length_penalty)
        scores[tuple(tokens[:length])] = score
    return sorted(scores.items(), key=lambda pair: (END not in pair[0], -pair[1]))


@pytest.mark.parametrize("name", ["Bahdanau", "local-p", "Transformer", "causal Transformer"])
@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0, 3.0])
@settings(max_examples=2)
@given(rows=st.lists(sentences.map(lambda rows: rows[0]), min_size=2, max_size=2))
def test_a_beam_that_holds_all_answers_finds_the_best(name, length_penalty, rows):
    max_length, count = 3, 40  # 31 of the answers are whole
    found = beam_search(
        model(name), *padded(rows), SIZE**max_length, length_penalty, count, max_length
    )
    for row, sentence in enumerate(rows):
        expected = all_answers(model(name), sentence, max_length, length_penalty)[:count]
        assert [tuple(said(tokens)) for tokens in found.tokens[row]] == [
            tokens for tokens, _ in expected
        ]
        scores = torch.tensor([score for _, score in expected])
        torch.testing.assert_close(found.scores[row], scores, rtol=1e-5, atol=1e-5)


def test_a_small_beam_with_a_penalty_finds_no_better_than_all():
    sentence, max_length = [4, 5, 3], 4
    for beam in range(1, 7):
        found = beam_search(
            model("Bahdanau"), torch.tensor([sentence]), None, beam, 1.0, 1, max_length
        )
        best = all_answers(model("Bahdanau"), sentence, max_length, 1.0)[0][1]
        assert found.scores.item() <= best + 1e-5 or not ended(found.tokens).all()


class Waits(TorchDispatchMode):
    """Counts operations that would make the processor wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        waiting = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select")
        self.count += function.__name__.partition(".")[0] in waiting
        return function(*arguments, **(named or {}))


def endless(name):
    """A model that never ends an answer."""
    built = copy.deepcopy(model(name))
    with torch.no_grad():
        built.output.bias[END] -= 1e4
    return built


def waits(built, search, patience, max_length):
    source = padded([[3, 4, 5], [4, 5]])
    with mock.patch.object(decoding, "_patience", return_value=patience), Waits() as waits:
        search(built, *source, max_length=max_length)
    return waits.count


SEARCHES = {"greedy": greedy, "a beam": partial(beam_search, beam=3, count=2, length_penalty=0.6)}


# Models whose step looks at no numbers, not even where they are at hand on a CPU.
@pytest.mark.parametrize("name", ["Bahdanau", "LSTMN", "Transformer", "causal Transformer"])
@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_waits_for_a_gpu_once_for_some_tokens(name, search):
    built, search = endless(name), SEARCHES[search]
    for patience, most in ((8, 2), (4, 4), (1, 16)):
        short, long = (waits(built, search, patience, length) for length in (8, 24))
        assert long - short <= most, "a search waits more often than once for so many tokens"
    # One at each token is what the count would find.
    assert long - short == 16


@every_model
@settings(max_examples=4)
@given(rows=sentences, patience=st.integers(2, 9), max_length=st.integers(1, 9))
def test_the_patience_of_a_search_never_changes_an_answer(name, rows, patience, max_length):
    source = padded(rows)
    for search in SEARCHES.values():
        found = []
        for number in (1, patience):
            with mock.patch.object(decoding, "_patience", return_value=number):
                found.append(search(model(name), *source, max_length=max_length))
        once, late = (each if isinstance(each, tuple) else (each,) for each in found)
        for ours, theirs in zip(once, late, strict=True):
            assert torch.equal(ours, theirs)


def test_an_answer_that_does_not_exist_is_padding():
    found = beam_search(model("Bahdanau"), torch.tensor([[4]]), None, 9, count=9, max_length=1)
    assert found.tokens.shape == (1, 9, 1)
    assert (found.scores[0] > -torch.inf).tolist() == [True] * SIZE + [False] * 3
    assert sorted(found.tokens[0, :SIZE].flatten().tolist()) == list(range(SIZE))
    assert not found.tokens[0, SIZE:].any()


def test_an_end_that_is_not_among_the_best_does_not_end_the_search():
    # The end mark comes second at every step but the last: it is not what a beam of 1 follows.
    class Reluctant(Seq2Seq):
        def decode(self, inputs, state):
            logits, state = super().decode(inputs, state)
            logits = torch.zeros_like(logits)
            logits[..., 4], logits[..., END] = 2.0, 1.9
            return logits, state

    built = Reluctant(SIZE, SIZE, **PLAIN)
    found = beam_search(built, torch.tensor([[4]]), None, 1, 0.0, 1, max_length=4)
    assert found.tokens.tolist() == [[[4, 4, 4, 4]]]


LIMITED = {
    "Transformer": lambda: Transformer(SIZE, SIZE, positions=LearnedPositions(4, 7), **SMALL),
    "causal Transformer": lambda: CausalTransformer(
        SIZE, SIZE, positions=LearnedPositions(4, 7), **SMALL
    ),
    "SNAIL": lambda: SNAIL(SIZE, SIZE, 4, 7, [(3, 2), (3, 2)], 2),
}
limited_lengths = st.lists(st.integers(1, 7), min_size=1, max_size=4)


def limited(name, end=0.0):
    """A model with a limit; the greater ``end``, the sooner an answer ends."""
    torch.manual_seed(2)
    built = LIMITED[name]().double().eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.6 * torch.randn_like(parameter))
        bias = built.output.bias
        bias[END] += end
    return built


@pytest.mark.parametrize("name", LIMITED)
@given(steps=st.integers(1, 9))
@torch.no_grad()
def test_the_longest_answer_is_the_longest_that_can_be_decoded(name, steps):
    built = limited(name)
    source = torch.randint(END + 1, SIZE, (1, steps))
    longest = built.longest_answer(steps)
    tokens = torch.randint(END + 1, SIZE, (1, longest + 1))
    if longest:
        built.decode(tokens[:, :longest], built.encode(source))
    with pytest.raises(ValueError, match="max_length = 7"):
        built.decode(tokens, built.encode(source))


@pytest.mark.parametrize("name", LIMITED)
@settings(max_examples=8)
@given(
    lengths=limited_lengths,
    beam=st.integers(1, 4),
    end=st.sampled_from([-9.0, -1.0, 1.0]),
    length_penalty=st.sampled_from([0.0, 1.0]),
    max_length=st.sampled_from([None, 1, 3, 50]),
)
def test_an_answer_is_cut_where_the_model_ends_and_its_neighbours_go_on(
    name, lengths, beam, end, length_penalty, max_length
):
    built = limited(name, end)
    rows = [[(3 * step + length) % SIZE for step in range(length)] for length in lengths]
    source, mask = padded(rows)
    answers = built.generate(source, mask, beam, length_penalty, max_length)
    for row, tokens in zip(rows, answers, strict=True):
        alone = torch.tensor([row])
        asked = 2 * source.shape[1] + 10 if max_length is None else max_length
        limit = min(asked, built.longest_answer(len(row)))
        if limit == 0:
            assert not tokens.any()
            continue
        (expected,) = built.generate(alone, None, beam, length_penalty, limit)
        assert said(tokens)[:limit] == said(expected)
        assert not tokens[limit:].any()
        if end < -5:
            assert END not in tokens.tolist()


@pytest.mark.parametrize("name", ["causal Transformer", "SNAIL"])
def test_what_no_answer_fits_beside_has_none(name):
    built = limited(name)
    source = torch.randint(END + 1, SIZE, (2, 7))
    assert built.longest_answer(7) == 0
    assert greedy(built, source).shape == (2, 0)
    found = beam_search(built, source, beam=3, count=2)
    assert found.tokens.shape == (2, 2, 0)
    assert (found.scores == -torch.inf).all()


def test_generate_is_greedy_or_the_best_of_a_beam():
    source = torch.tensor([[4, 5, 3]])
    built = model("Transformer")
    assert torch.equal(built.generate(source, max_length=5), greedy(built, source, max_length=5))
    found = beam_search(built, source, beam=3, max_length=5)
    assert torch.equal(built.generate(source, beam=3, max_length=5), found.tokens[:, 0])
    with pytest.raises(ValueError, match="beam must be a whole number of at least 1; got 0"):
        built.generate(source, beam=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam": 0}, "beam must be a whole number of at least 1; got 0"),
        ({"count": 0}, "count must be a whole number of at least 1; got 0"),
        ({"beam": 2, "count": 3}, "count must be at most beam = 2; got 3"),
        ({"length_penalty": -0.1}, "length_penalty must be at least 0; got -0.1"),
        ({"max_length": 0}, "max_length must be a whole number of at least 1; got 0"),
        ({"source": torch.zeros(2, 0, dtype=torch.long)}, r"S >= 1; got \[2, 0\]"),
        ({"source": torch.zeros(2, dtype=torch.long)}, r"S >= 1; got \[2\]"),
    ],
)
def test_bad_arguments_are_named(settings, message):
    arguments = {"source": torch.tensor([[4, END]]), **settings}
    with pytest.raises(ValueError, match=message):
        beam_search(model("Bahdanau"), **arguments)
    arguments = {key: arguments[key] for key in ("source", "max_length") if key in arguments}
    if settings.keys() & arguments.keys():
        with pytest.raises(ValueError, match=message):
            greedy(model("Bahdanau"), **arguments)


# Play

ACTIONS = 3
PLAYERS = {
    "SNAIL": lambda: SNAIL(ACTIONS + 1, ACTIONS, 4, 12, [(3, 2), (3, 2)], 2),
    "LSTM": lambda: MemoryMachine(ACTIONS + 1, ACTIONS, partial(LSTM, hidden_size=5)),
    "NTM": lambda: MemoryMachine(
        ACTIONS + 1, ACTIONS, partial(LSTM, hidden_size=5), NTM(slots=4, width=3)
    ),
}


def player(name, seed):
    """A model whose actions depend on what it is told, not on the bias of its output."""
    torch.manual_seed(seed)
    built = PLAYERS[name]().double()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(4)
        built.output.bias.zero_()
    return built


@pytest.mark.parametrize("name", PLAYERS)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 3), st.integers(0, 2**16))
@settings(max_examples=20)
def test_play_takes_the_likeliest_action_given_what_the_last_ones_brought(
    name, size, steps, read, seed
):
    built = player(name, seed)
    source = torch.randn(size, read, ACTIONS + 1, dtype=torch.float64)
    rewards = 3 * torch.randn(size, steps, ACTIONS, dtype=torch.float64)
    actions = play(built, source, rewards)
    told = torch.zeros(size, steps, ACTIONS + 1, dtype=torch.float64)
    for row, step in itertools.product(range(size), range(1, steps)):
        action = actions[row, step - 1]
        told[row, step, action] = 1
        told[row, step, -1] = rewards[row, step - 1, action]
    torch.testing.assert_close(feedback(actions, rewards)[:, :-1], told[:, 1:])
    logits, _ = built.decode(told, built.encode(source))
    assert torch.equal(actions, logits.argmax(-1))


@pytest.mark.parametrize("name", PLAYERS)
def test_play_knows_which_steps_of_the_source_are_padding(name):
    built = player(name, 0)
    source = torch.randn(60, 4, ACTIONS + 1, dtype=torch.float64)
    rewards = torch.randn(60, 5, ACTIONS, dtype=torch.float64)
    mask = torch.tensor([True, True, False, False]).expand(60, -1)
    masked = play(built, source, rewards, mask)
    assert torch.equal(masked, play(built, source[:, :2], rewards))
    assert not torch.equal(masked, play(built, source, rewards))


def test_a_model_with_other_actions_cannot_play():
    rewards = torch.zeros(2, 3, ACTIONS + 1)
    with pytest.raises(ValueError, match="each of 4 actions brings; the model has 3"):
        play(MemoryMachine(5, 3, partial(LSTM, hidden_size=4)), torch.zeros(2, 1, 5), rewards)


@pytest.mark.parametrize("shape", [(2, 0, ACTIONS), (2, ACTIONS)])
def test_no_step_to_play_is_an_error(shape):
    with pytest.raises(ValueError, match=r"rewards must be .* T >= 1; got"):
        play(PLAYERS["LSTM"](), torch.zeros(2, 1, ACTIONS + 1), torch.zeros(shape))


@given(
    st.integers(1, 40), st.lists(st.integers(0, 2), min_size=1, max_size=5), st.integers(0, 2**31)
)
@torch.no_grad()
def test_rows_of_slots_keep_their_room_and_share_nothing(slots, index, seed):
    generator = torch.Generator().manual_seed(seed)
    first, row, other = (torch.randn(3, 2, size, 4, generator=generator) for size in (slots, 1, 1))
    memory = lengthened(first, 1)
    memory[..., -1:, :] = row
    kept, index = memory.clone(), torch.tensor(index)
    chosen = functional.rows(memory, index)
    assert torch.equal(chosen, kept[index])
    longer = lengthened(chosen, 1)
    longer[..., -1:, :] = other[index]
    assert longer.untyped_storage().data_ptr() == chosen.untyped_storage().data_ptr()
    assert torch.equal(longer, torch.cat([kept, other], -2)[index])
    assert torch.equal(memory, kept)
    # A second way to go on from the same slots leaves the first as it is.
    again = lengthened(chosen, 1)
    again[..., -1:, :] = 0
    assert torch.equal(longer, torch.cat([kept, other], -2)[index])
    assert torch.equal(again[..., :-1, :], kept[index])


def test_samples_come_as_often_as_they_are_likely():
    built, count = model("causal Transformer"), 4000
    generator = torch.Generator().manual_seed(0)
    begun = torch.full((count, 2), 5)
    answers = sample(
        built, torch.full((count, 1), BEGIN), max_length=3, temperature=2.0, begun=begun,
        never=[PAD], generator=generator,
    )  # fmt: skip
    logits = uncached(built, [BEGIN], [5, 5])
    logits[PAD] = -torch.inf
    expected = (logits / 2).softmax(-1)
    found = answers[:, 2].bincount(minlength=SIZE) / count
    # Four standard deviations of a share.
    assert ((found - expected).abs() <= 4 * (expected * (1 - expected) / count).sqrt()).all()
    assert expected.max() < 0.9


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0; got 0.0"),
        (
            {"begun": torch.full((2, 1), 5)},
            r"begun must be tokens .* with B = 1; got \[2, 1\]",
        ),
        (
            {"begun": torch.full((1, 4), 5)},
            "fewer tokens than the longest answer, 4; got 4",
        ),
    ],
)
def test_wrong_settings_of_a_sample_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        sample(model("NTM"), torch.full((1, 1), BEGIN), max_length=4, **wrong)
