"""Schemes of positions against plain Python, and in the models that take them."""

import json
import math
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn

from memnets import fast
from memnets.batches import END, Batch, Places, padded_to
from memnets.cells import (
    ALiBi,
    AttentionBlock,
    CoupledPositions,
    HardALiBi,
    LearnedPositions,
    MultiHead,
    NoPositions,
    PeriodicPositions,
    Placed,
    Positions,
    RandomisedPositions,
    RotaryPositions,
    SelfAttention,
    ShiftedPositions,
    SinusoidalPositions,
    StickBreaking,
)
from memnets.core import Memory
from memnets.decoding import play, sample
from memnets.encoders import Convolutional
from memnets.encoders import SelfAttention as Encoder
from memnets.memories import Tape
from memnets.models import SNAIL, CausalTransformer, ConvS2S, StackModel, Transformer
from memnets.normalizers import ScalableSoftmax
from memnets.scores import Dot
from memnets.training import Tokens
from memnets.viewing.sequences import alone, prefixes
from tasks import CopyingTokens

SMALL = {"width": 8, "heads": 2, "layers": 2, "hidden_size": 8, "dropout": 0.0}
SIZE = 6
NO_PLACES = "coupled positions need a model that is given places, .*; got no places"
close = {"rtol": 1e-9, "atol": 1e-12}


def random(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


# -- formulas --------------------------------------------------------------------------------------


def test_rotary_positions_turn_pairs_by_the_formula():
    vectors, places = random(2, 3, 6), torch.tensor([[0, 1, 7], [100, 3, 4]])
    turned = RotaryPositions(base=50.0).rotate(vectors, places)
    for row in range(2):
        for step in range(3):
            for i in range(3):
                angle = places[row, step].item() * 50.0 ** (-2 * i / 6)
                x, y = vectors[row, step, 2 * i : 2 * i + 2].tolist()
                expected = [
                    x * math.cos(angle) - y * math.sin(angle),
                    x * math.sin(angle) + y * math.cos(angle),
                ]
                assert turned[row, step, 2 * i : 2 * i + 2].tolist() == pytest.approx(expected)


def test_periodic_positions_come_again():
    torch.manual_seed(0)
    positions = PeriodicPositions(4, 3)
    vectors = positions(torch.tensor([[0, 1, 2, 3, 10**6]]))[0]
    assert len({tuple(vector) for vector in vectors[:3].tolist()}) == 3
    assert vectors[3].equal(vectors[0])
    assert vectors[4].equal(vectors[10**6 % 3])
    with pytest.raises(ValueError, match="period must be at least 2; got 1"):
        PeriodicPositions(4, 1)


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_a_bias_of_alibi_is_the_formula(heads):
    distance = torch.tensor([[0, -2], [5, 1]])
    bias = ALiBi().bias(distance, heads)
    for head in range(heads):
        slope = 2 ** (-8 * (head + 1) / heads)
        expected = [[-slope * abs(d) for d in row] for row in distance.tolist()]
        assert bias[head].flatten().tolist() == pytest.approx([*expected[0], *expected[1]])


def test_heads_of_alibi_may_have_slopes_of_their_own():
    bias = ALiBi([1.5, 0.5]).bias(torch.tensor([[0, -2], [5, 1]]), 3)
    assert bias.tolist() == [[[0, -3], [-7.5, -1.5]], [[0, -1], [-2.5, -0.5]], [[0, 0], [0, 0]]]


def test_a_window_opens_the_last_steps():
    distance = torch.arange(4).unsqueeze(1) - torch.arange(4)
    opened = HardALiBi().opened(distance, 4) & (distance >= 0)
    for head, window in enumerate([1, 2, 4, 4]):
        expected = [[0 <= i - j < window for j in range(4)] for i in range(4)]
        assert opened[head].tolist() == expected
    assert HardALiBi().opened(distance, 1) is None  # of one head, none has a window


@pytest.mark.parametrize("masked", [False, True])
def test_sticks_are_broken_from_the_last_slot_back(masked):
    scores = 3 * random(2, 4, 5)
    mask = random(2, 1, 5) > -0.5 if masked else None
    weights = StickBreaking().weights(scores, mask, None)
    for row in range(2):
        for query in range(4):
            left = 1.0
            for slot in reversed(range(5)):
                if mask is not None and not mask[row, 0, slot]:
                    assert weights[row, query, slot] == 0
                    continue
                share = 1 / (1 + math.exp(-scores[row, query, slot].item()))
                assert weights[row, query, slot].item() == pytest.approx(left * share)
                left *= 1 - share


def test_sticks_of_extreme_scores_are_broken_exactly():
    scores = torch.tensor([[200.0, -200.0, 0.0]]).requires_grad_()
    weights = StickBreaking().weights(scores, None, None)
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.0, 0.5]]))
    weights.square().sum().backward()
    assert scores.grad.isfinite().all()


# -- randomised places -----------------------------------------------------------------------------


def test_places_are_drawn_in_order_from_all_that_there_are():
    torch.manual_seed(0)
    positions = RandomisedPositions(NoPositions(), spread=3)
    counts = torch.arange(2, 4).expand(2000, 2)
    places = positions.places(counts)
    assert (places[:, 0] < places[:, 1]).all()
    # Two of the six places 6 to 11: 15 pairs, each as likely.
    pairs, drawn = places.unique(dim=0, return_counts=True)
    assert pairs.min() == 6
    assert pairs.max() == 11
    assert len(pairs) == 15
    assert (drawn - 2000 / 15).abs().max() < 50  # four standard deviations


def test_places_of_evaluation_are_not_drawn():
    positions = RandomisedPositions(NoPositions(), spread=4, stride=3).eval()
    assert positions.places(torch.arange(4)).tolist() == [0, 3, 6, 9]
    assert RandomisedPositions(LearnedPositions(2, 9), spread=4).max_length == 2


def test_a_step_that_is_skipped_has_the_place_of_the_one_before():
    places = RandomisedPositions(NoPositions(), spread=5).places(torch.tensor([[3, 4, 4, 5]]))[0]
    assert 15 <= places[0] < places[1] == places[2] < places[3] < 35


# -- coupled and shifted places --------------------------------------------------------------------


class Told(Positions):
    """Remembers the places that it is given."""

    def __init__(self):
        super().__init__()
        self.told = []

    def forward(self, places):
        self.told.append(places.clone())
        return torch.zeros(*places.shape, 8, dtype=torch.double)


def some(source, answer):
    return Places(torch.tensor(source), torch.tensor(answer))


def told(model, places, steps, mask=None):
    """The places of a source, and of an answer that is given in parts."""
    scheme = next(part for part in model.modules() if isinstance(part, Told))
    scheme.told.clear()
    state = model.encode(torch.zeros_like(places.source), mask, places)
    for count in steps:
        _, state = model.decode(torch.zeros(len(places.source), count, dtype=torch.long), state)
    return scheme.told[0], torch.cat(scheme.told[1:], 1)


#: Models that are given places.
COUPLING = {
    "causal": lambda positions: CausalTransformer(SIZE, SIZE, positions=positions, **SMALL),
    "encoder and decoder": lambda positions: Transformer(SIZE, SIZE, positions=positions, **SMALL),
    "SNAIL": lambda positions: SNAIL(SIZE, SIZE, 8, 30, [(4, 4)], filters=4, positions=positions),
    "convolutions": lambda positions: ConvS2S(SIZE, SIZE, 8, 1, 1, positions=positions),
}


@pytest.mark.parametrize("name", COUPLING)
def test_steps_have_the_places_that_they_are_given(name):
    model = COUPLING[name](CoupledPositions(Told())).double().eval()
    places = some([[1, 2, 3], [1, 2, 2]], [[3, 2, 1, 0], [2, 1, 0, 0]])
    mask = torch.arange(3) < torch.tensor([[3], [2]])
    source, answered = told(model, places, [1, 3, 2], mask)
    assert source[0].tolist() == [1, 2, 3]
    assert source[1, :2].tolist() == [1, 2]
    # Behind the last one that is given, its place stays.
    assert answered.tolist() == [[3, 2, 1, 0, 0, 0], [2, 1, 0, 0, 0, 0]]


def test_the_beginnings_of_a_source_keep_their_places():
    torch.manual_seed(0)
    positions = CoupledPositions(SinusoidalPositions(8))
    model = CausalTransformer(SIZE, SIZE, positions=positions, **SMALL).eval()
    places = some([[1, 3, 2]], [[2]])
    tokens = torch.tensor([[2, 1, 3]])
    batch = Batch(tokens, tokens[:, :1], tokens[:, :1])
    logits = model.logits(
        prefixes(batch._replace(source_places=places.source, target_places=places.answer))
    )
    for steps in (1, 2, 3):
        state = model.encode(tokens[:, :steps], None, some([[1, 3, 2][:steps]], [[2]]))
        alone, _ = model.decode(batch.inputs, state)
        torch.testing.assert_close(logits[steps - 1], alone[0])


def test_what_takes_no_places_says_so():
    """Episodes and games have none: a model that needs them is refused in one line."""
    model = COUPLING["SNAIL"](CoupledPositions(SinusoidalPositions(8)))
    tokens = torch.tensor([[2, 1, 3]])
    with pytest.raises(ValueError, match=NO_PLACES):
        model.continuations(tokens, tokens)
    with pytest.raises(ValueError, match=NO_PLACES):
        play(model, tokens, torch.zeros(1, 2, SIZE))


@pytest.mark.parametrize("name", COUPLING)
def test_a_shift_is_that_of_the_whole_sequence(name):
    torch.manual_seed(0)
    model = COUPLING[name](ShiftedPositions(CoupledPositions(Told()), 9)).double()
    places = some([[1, 2]] * 200, [[2, 1]] * 200)
    source, answered = told(model, places, [1, 1])
    assert (source.flip(1) == answered).all()
    assert source[:, 0].unique().tolist() == list(range(1, 11))
    assert (source.diff() == 1).all()
    source, _ = told(model.eval(), places, [1])
    assert (source == places.source).all()


def test_counted_places_are_shifted_too():
    torch.manual_seed(0)
    model = CausalTransformer(SIZE, SIZE, positions=ShiftedPositions(Told(), 9), **SMALL).double()
    source, answered = told(model, some([[0, 0]] * 50, [[0]] * 50), [2, 1])
    together = torch.cat([source, answered], 1)
    assert (together.diff() == 1).all()
    assert together[:, 0].unique().tolist() == list(range(10))
    assert ShiftedPositions(LearnedPositions(8, 30), 9).max_length == 21
    behind = CausalTransformer(SIZE, SIZE, positions=ShiftedPositions(Told(), 9, 4), **SMALL)
    source, answered = told(behind.double().eval(), some([[0, 0]], [[0]]), [1])
    assert torch.cat([source, answered], 1).tolist() == [[4, 5, 6]]


def test_places_that_a_shift_may_take_beyond_the_last_one_are_refused_at_once():
    """Which of them a step needs is drawn: no step may pass by chance."""
    positions = ShiftedPositions(CoupledPositions(LearnedPositions(8, 20)), 12, 3)
    model = CausalTransformer(SIZE, SIZE, positions=positions, **SMALL)
    source = torch.zeros(1, 2, dtype=torch.long)
    message = r"shifted by up to 12, must be below max_length = 20 of the positions; got 8"
    for _ in range(5):
        with pytest.raises(ValueError, match=message):
            model.encode(source, None, some([[1, 2]], [[8]]))
        model.encode(source, None, some([[1, 2]], [[7]]))
    model.eval().encode(source, None, some([[1, 2]], [[16]]))
    with pytest.raises(ValueError, match=r"shifted by up to 3, must be below .* got 17"):
        model.encode(source, None, some([[1, 2]], [[17]]))


def test_no_sequence_has_no_place_that_is_wrong():
    none = torch.zeros(0, 2, dtype=torch.long)
    state = coupled().encode(none, None, Places(none, none))
    assert coupled().decode(none, state)[0].shape == (0, 2, SIZE)


def test_a_deviation_is_that_of_the_numbers():
    torch.manual_seed(0)
    assert abs(LearnedPositions(100, 100, 3.0).weight.std() - 3) < 0.1
    assert abs(LearnedPositions(100, 100).weight.std() - 0.1) < 0.01


def test_a_search_is_given_the_places():
    """Tokens that say their own places: so an answer shows where its steps stand."""
    size = 9
    model = CausalTransformer(size, size, positions=CoupledPositions(Told()), **SMALL).double()
    scheme = next(part for part in model.modules() if isinstance(part, Told))
    places = some([[4, 5, 4]] * 2, [[4, 7, 4, END]] * 2)
    source = torch.full((2, 3), 8)
    batch = Batch(source, source, source, None, None, None, *places)
    decode = model.decode

    def says_places(inputs, state):
        logits, state = decode(inputs, state)
        return 50 * nn.functional.one_hot(scheme.told[-1], size).to(logits), state

    objective = Tokens(beam=2)
    with mock.patch.object(model, "decode", says_places):
        answers = [
            model.generate(source, places=places),
            model.generate(source, beam=2, places=places),
            sample(model, source, temperature=0.01, places=places),
            *(answer for answer, _ in objective.examine(model, batch).values()),
            objective.respond(model, batch),
        ]
    for answer in answers:
        assert answer.tolist() == [[4, 7, 4, END]] * 2


def test_places_of_one_sequence_are_its_own():
    batch = CopyingTokens(batch_size=3, max_length=6).batch("train", 0)
    for row in range(3):
        one = alone(batch, row)
        steps = one.source.shape[1]
        assert one.source_places.tolist() == [list(range(1, steps + 1))]
        assert one.target_places.tolist() == [list(range(1, steps + 1))]
    longer = padded_to(batch, 16)
    assert longer.source_places.shape == longer.source.shape == longer.target_places.shape


# -- within the models -----------------------------------------------------------------------------

#: Models that take a scheme of each kind, and their attentions to their own steps.
MODELS = {
    "causal": partial(CausalTransformer, SIZE, SIZE, **SMALL),
    "encoder and decoder": partial(Transformer, SIZE, SIZE, **SMALL),
    "SNAIL": partial(SNAIL, SIZE, SIZE, 8, 30, attentions=[(4, 4), (4, 4)], filters=4),
}
CAUSAL = [NoPositions, RotaryPositions, ALiBi, HardALiBi, StickBreaking]
RANDOMISED = partial(RandomisedPositions, RotaryPositions(), 4, 2)
COUPLED = partial(ShiftedPositions, CoupledPositions(SinusoidalPositions(8)), 5)
ADDED = [partial(SinusoidalPositions, 8), partial(LearnedPositions, 8, 30)]


def begun(model, source):
    """The state after a source; a model that is coupled is given places."""
    places = some([[1, 2, 3, 4]] * 2, [[4, 1]] * 2)
    return model.encode(source, None, *([places] if model.coupled else []))


def answered(model, source, inputs):
    outputs, _ = model.decode(inputs, begun(model, source))
    return outputs


@pytest.mark.parametrize("scheme", [*CAUSAL, *ADDED, COUPLED, RANDOMISED])
@pytest.mark.parametrize("name", MODELS)
def test_models_answer_step_by_step_as_at_once(name, scheme):
    if name == "encoder and decoder" and scheme is StickBreaking:
        with pytest.raises(ValueError, match="StickBreaking needs an order in which"):
            MODELS[name](positions=StickBreaking())
        return
    model = MODELS[name](positions=scheme()).double().eval()
    source, inputs = torch.randint(SIZE, (2, 4)), torch.randint(SIZE, (2, 3))
    outputs, state = [], begun(model, source)
    for step in inputs.split(1, 1):
        output, state = model.decode(step, state)
        outputs.append(output)
    whole = answered(model, source, inputs)
    torch.testing.assert_close(torch.cat(outputs, 1), whole, **close)
    with fast.naive():
        torch.testing.assert_close(answered(model, source, inputs), whole, **close)


def test_each_layer_has_a_copy():
    given = HardALiBi([2])
    model = CausalTransformer(SIZE, SIZE, positions=given, normalizer=ScalableSoftmax(), **SMALL)
    parts = [part for part in model.modules() if isinstance(part, Placed)]
    assert len({part.positions for part in parts} | {given}) == 3
    assert len({part.normalizer for part in parts}) == 2


def test_a_window_is_never_seen_beyond():
    """With windows alone, a step depends on what the layers' windows reach, and on that alone."""
    cell = SelfAttention(4, 2, positions=HardALiBi([3, 2])).double()
    inputs = random(1, 7, 4).requires_grad_()
    outputs, _ = cell.unroll(inputs, cell.initial_state(1))
    (gradient,) = torch.autograd.grad(outputs[0, 5].sum(), inputs)
    assert gradient[0].any(1).tolist() == [False, False, False, True, True, True, False]


def test_an_encoder_sees_a_window_on_both_sides():
    encoder = Encoder(4, 1, 2, 4, positions=HardALiBi([2, 2])).double()
    inputs = random(1, 5, 4).requires_grad_()
    vectors, _ = encoder(inputs)
    (gradient,) = torch.autograd.grad(vectors[0, 2, 0], inputs)
    assert gradient[0].any(1).tolist() == [False, True, True, True, False]


def test_an_encoder_is_told_places_that_padding_has_not():
    encoder = Encoder(4, 2, 2, 4, positions=RotaryPositions()).double()
    inputs = random(2, 5, 4)
    mask = torch.arange(5) < torch.tensor([[5], [3]])
    vectors, _ = encoder(inputs, mask)
    alone, _ = encoder(inputs[1:, :3])
    torch.testing.assert_close(vectors[1:, :3], alone, **close)
    swapped, _ = encoder(inputs[:1, [1, 0, 2, 3, 4]])
    assert not torch.allclose(swapped[:, 2:], vectors[:1, 2:])  # no set any more


def test_heads_of_a_tape_tell_the_order():
    tape = Tape(4, 2, positions=ALiBi()).double()
    interface = random(1, 4, tape.interface_size)
    vectors, _ = tape.unroll(interface, tape.initial_state(1))
    state, read = tape.initial_state(1), []
    for step in interface.unbind(1):
        vector, state = tape(step, state)
        read.append(vector)
    torch.testing.assert_close(torch.stack(read, 1), vectors, **close)
    swapped = interface[:, [1, 0, 2, 3]]
    other, _ = tape.unroll(swapped, tape.initial_state(1))
    assert not torch.allclose(other[:, 3], vectors[:, 3])


def test_a_mixer_takes_positions():
    mixer = partial(SelfAttention, heads=2, positions=RotaryPositions())
    model = StackModel(SIZE, SIZE, mixer, 8, 2, 8)
    assert sum(isinstance(part, Placed) for part in model.modules()) == 2


def test_what_was_saved_before_is_loaded():
    """Names of weights, and schemes of one's own that only have vectors to add."""

    class Own(Positions):
        def forward(self, places):
            return places.unsqueeze(-1).expand(*places.shape, 8).double()

    names = set(CausalTransformer(SIZE, SIZE, **SMALL, positions=LearnedPositions(8)).state_dict())
    assert "inputs.positions.weight" in names
    assert not [name for name in names if "addressing" in name]
    model = CausalTransformer(SIZE, SIZE, **SMALL, positions=Own()).double()
    tokens = torch.zeros(1, 3, dtype=torch.long)
    expected = model.inputs.answer(tokens) * math.sqrt(8) + torch.arange(3).view(1, 3, 1)
    torch.testing.assert_close(model.inputs(tokens, torch.zeros(1, dtype=torch.long)), expected)


ZEROS = torch.zeros(1, 2, dtype=torch.long)


def coupled():
    positions = CoupledPositions(LearnedPositions(8, 7))
    return CausalTransformer(SIZE, SIZE, positions=positions, **SMALL)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RotaryPositions(1.0), "base must be above 1 and finite; got 1.0"),
        (lambda: MultiHead(6, 2, positions=RotaryPositions()), "must be even; got 3"),
        (lambda: ALiBi([]), "at least one number, each at least 0; got .."),
        (lambda: ALiBi([1.0, -1.0]), "each at least 0; got .1.0, -1.0."),
        (lambda: MultiHead(4, 1, positions=ALiBi([1.0, 2.0])), "1 heads; got 2 slopes"),
        (lambda: HardALiBi([]), "at least one window"),
        (lambda: HardALiBi([2, 0]), "window must be .* got 0"),
        (lambda: MultiHead(4, 2, positions=HardALiBi([1, 2, 3])), "2 heads; got 3 windows"),
        (lambda: RandomisedPositions(NoPositions(), 2, 3), "stride must be .* spread = 2.* got 3"),
        (lambda: CoupledPositions(ALiBi()), "within an attention .* got ALiBi"),
        (lambda: CoupledPositions(NoPositions()), "SinusoidalPositions.width.; got none"),
        (
            lambda: CoupledPositions(ShiftedPositions(Told(), 2)),
            "must share their places.* got ShiftedPositions",
        ),
        (
            lambda: RandomisedPositions(CoupledPositions(Told())),
            "got CoupledPositions within RandomisedPositions",
        ),
        (
            lambda: ShiftedPositions(RandomisedPositions(Told()), 3),
            "got RandomisedPositions within ShiftedPositions",
        ),
        (
            lambda: RandomisedPositions(RandomisedPositions(RotaryPositions())),
            "drawn once: .* got RandomisedPositions within RandomisedPositions",
        ),
        (lambda: PeriodicPositions(4, 2.5), "period must be a whole number of .* got 2.5"),
        (lambda: SinusoidalPositions(4.0), "width must be a whole number of .* got 4.0"),
        (lambda: ShiftedPositions(RotaryPositions(), 3), "within an attention .* got Rotary"),
        (lambda: LearnedPositions(4, 8, 0.0), "deviation must be .* got 0.0"),
        (lambda: ShiftedPositions(Told(), 0), "shift must be .* got 0"),
        (lambda: ShiftedPositions(Told(), 3, 4), "first must be from 0 to shift = 3; got 4"),
        (
            lambda: ShiftedPositions(CoupledPositions(LearnedPositions(4, 8)), 8),
            "more places than shift = 8; got max_length = 8",
        ),
        (lambda: coupled().encode(ZEROS), "a task that gives them.* got no places"),
        (lambda: coupled().forward(ZEROS), "a task that gives them.* got no places"),
        (
            lambda: coupled().logits(Batch(ZEROS, ZEROS, ZEROS)),
            "such as tasks.CopyingTokens; got a batch without",
        ),
        (
            lambda: coupled().encode(ZEROS, None, some([[1]], [[1]])),
            r"\[B, S\] = \[1, 2\] .* got \[1, 1\] and \[1, 1\]",
        ),
        (lambda: coupled().encode(ZEROS, None, some([[1, -1]], [[1]])), "at least 0; got -1"),
        (
            lambda: coupled().encode(ZEROS, None, some([[1, 2]], [[7]])),
            "below max_length = 7 of the positions; got 7",
        ),
        (
            lambda: coupled().encode(ZEROS, None, Places(ZEROS, ZEROS[0])),
            r"\[B, T\], T >= 1, for the answer; got \[1, 2\] and \[2\]",
        ),
        (
            lambda: coupled().encode(ZEROS, None, Places(ZEROS, ZEROS.unsqueeze(2))),
            r"got \[1, 2\] and \[1, 2, 1\]",
        ),
        (
            lambda: coupled().encode(ZEROS, None, Places(ZEROS, ZEROS.float())),
            "whole numbers, int64; got torch.int64 and torch.float32",
        ),
        (
            lambda: CausalTransformer(SIZE, SIZE, **SMALL).generate(
                ZEROS, places=Places(ZEROS, ZEROS)
            ),
            "with CoupledPositions; got them for a CausalTransformer without",
        ),
        (
            lambda: Encoder(4, heads=2, positions=CoupledPositions(SinusoidalPositions(4)))(
                random(1, 2, 4).float()
            ),
            "need a model that is given places.* got no places",
        ),
        (
            lambda: Encoder(4, heads=2, positions=RandomisedPositions(StickBreaking())),
            "a step sees none behind it",
        ),
        (lambda: SelfAttention(4, 2, positions=SinusoidalPositions(4)), "give it to the model"),
        (lambda: AttentionBlock(4, 3, 2, positions=LearnedPositions(4)), "give it to the model"),
        (lambda: Convolutional(4, positions=ALiBi()), "no attention .* got ALiBi"),
        (
            lambda: StackModel(SIZE, SIZE, partial(SelfAttention, heads=2), positions=ALiBi()),
            "given to the mixer.* got ALiBi",
        ),
        (
            lambda: SelfAttention(4, 2, ScalableSoftmax(), StickBreaking()),
            "StickBreaking makes the weights itself.* got ScalableSoftmax",
        ),
        (lambda: Encoder(4, heads=2, positions=StickBreaking()), "a step sees none behind it"),
        (
            lambda: Placed(Dot(), ALiBi())(random(3, 2), Memory(random(2, 2), random(2, 2))),
            "got 3 queries and 2 slots",
        ),
    ],
)
def test_errors_say_what_was_expected_and_what_came(call, message):
    with pytest.raises(ValueError, match=message):
        call()


TOKENS = torch.randint(SIZE, (2, 4))
#: What adds the vectors of a scheme to its own, of width 8.
ADDING = {
    **{
        name: lambda positions, make=make: make(positions=positions).encode(TOKENS)
        for name, make in MODELS.items()
    },
    "stack": lambda positions: StackModel(
        SIZE, SIZE, partial(SelfAttention, heads=2), 8, positions=positions
    ).encode(TOKENS),
    "convolutions of tokens": lambda positions: ConvS2S(SIZE, SIZE, 8, positions=positions).encode(
        TOKENS
    ),
    "encoder": lambda positions: Encoder(8, heads=2, positions=positions)(torch.randn(2, 4, 8)),
    "convolutions": lambda positions: Convolutional(8, positions=positions)(torch.randn(2, 4, 8)),
}


@pytest.mark.parametrize("width", [1, 4, 16])
@pytest.mark.parametrize("name", ADDING)
def test_vectors_of_another_width_are_refused(name, width):
    ADDING[name](LearnedPositions(8))
    for positions in (LearnedPositions(width), RandomisedPositions(LearnedPositions(width))):
        kind = type(positions).__name__
        expected = f"as wide as those of the steps, 8; got {kind} of width {width}"
        with pytest.raises(ValueError, match=expected):
            ADDING[name](positions)


@pytest.mark.parametrize("kind", [RandomisedPositions, CoupledPositions, ShiftedPositions])
def test_a_scheme_within_another_is_needed(kind):
    settings = {"shift": 3} if kind is ShiftedPositions else {}
    with pytest.raises(TypeError, match=f"{kind.__name__} gives places to another.* got none"):
        kind(None, **settings)


def test_a_class_is_no_scheme():
    with pytest.raises(TypeError, match="positions must be an object, such as LearnedPositions"):
        SelfAttention(4, 2, positions=ALiBi)


def test_the_page_of_results_says_what_the_record_says():
    kept = Path(__file__).parent.parent / "docs" / "results"
    rows = (kept / "tokens.md").read_text().splitlines()
    (row,) = [each for each in rows if each.startswith("| each of the seeds 0 to 4 |")]
    cells = [each.strip() for each in row.strip("|").split("|")][1:]
    paths = [kept / f"records/positions/copying/coupled/seed_{seed}.json" for seed in range(5)]
    records = [json.loads(path.read_text()) for path in paths]
    for length, cell in zip((40, 100, 1000), cells, strict=False):
        assert cell == "100 %"
        assert {record[f"test/length_{length}/exact"] for record in records} == {1.0}
    seconds = [record["train/seconds"] for record in records]
    assert cells[3] == f"{min(seconds):.0f} to {max(seconds):.0f}"


def test_sinusoids_are_exact_in_16_bits():
    places = torch.arange(1000, 1004)
    exact = SinusoidalPositions(4)(places)
    rounded = SinusoidalPositions(4).to(torch.bfloat16)(places)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=0.005)
