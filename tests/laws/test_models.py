"""Every model under its laws, with tokens and with vectors."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from memnets import testing
from memnets.addressing import Content, Hard, Local
from memnets.batches import Batch
from memnets.cells import (
    GRU,
    LSTM,
    LSTMN,
    AttentionBlock,
    Chain,
    CoupledPositions,
    LearnedPositions,
    Loop,
    ShiftedPositions,
    SinusoidalPositions,
    TCBlock,
    residual_stack,
    transformer_stack,
)
from memnets.cells.composed import kept
from memnets.embedders import Patches, Words
from memnets.encoders import Embedded, IntraAttention, Process, Recurrent, SelfAttention
from memnets.features import FourierFeatures, ImageFeatures, VectorFeatures
from memnets.memories import NTM
from memnets.models import (
    SNAIL,
    CausalTransformer,
    ConvS2S,
    DecomposableAttention,
    KeyValueNetwork,
    MemoryMachine,
    MemoryNetwork,
    MetaLearner,
    OnlineLearner,
    PointerNetwork,
    Prototypical,
    Seq2Seq,
    SequenceModel,
    StackModel,
    Transformer,
)
from memnets.normalizers import Entmax15, GumbelHard, Sparsemax
from memnets.scores import Additive, Concat, Cosine, Dot, General, Location, ScaledDot
from memnets.testing.laws import assert_close
from memnets.training.objectives import Candidates, Labels, Numbers, Tokens

SIZE = 7


#: Profile of Hypothesis, see ``fewer_examples``.
FEWER = "models"
pytestmark = pytest.mark.usefixtures("fewer_examples")

ENCODER = partial(Recurrent, controller=partial(GRU, hidden_size=4))
PLAIN = {"encoder": ENCODER, "decoder": partial(GRU, hidden_size=5), "width": 6}
BAHDANAU = {**PLAIN, "attention": Content(Additive(3)), "key_size": 3}
LUONG = {**PLAIN, "attention": Content(General(8)), "attend": "after"}
SEQ2SEQ = {
    "plain": PLAIN,
    "plain, LSTMs of two layers, one direction": {
        "encoder": partial(
            Recurrent, controller=partial(LSTM, hidden_size=4), layers=2, bidirectional=False
        ),
        "decoder": partial(LSTM, hidden_size=5, layers=2),
        "width": 6,
        "tied": False,
    },
    "Bahdanau": BAHDANAU,
    "Luong": LUONG,
    "Luong, dot": {**LUONG, "attention": Content(Dot())},
    "Luong, concat, input feeding": {
        **LUONG,
        "attention": Content(Concat(8)),
        "input_feeding": True,
    },
    "Luong, location": {**LUONG, "attention": Content(Location(8, 9))},
    "local-m": {**LUONG, "attention": Local(General(8), reach=1)},
    "local-p, input feeding": {
        **LUONG,
        "attention": Local(Dot(), size=8, reach=1),
        "input_feeding": True,
    },
    "cosine, sparsemax": {**LUONG, "attention": Content(Cosine(), Sparsemax())},
    "scaled dot, entmax": {**LUONG, "attention": Content(ScaledDot(), Entmax15())},
    "straight-through Gumbel": {**BAHDANAU, "attention": Content(Additive(3), GumbelHard())},
    "LSTMN": {
        "encoder": partial(
            Recurrent, controller=partial(LSTMN, hidden_size=4), bidirectional=False
        ),
        "decoder": partial(LSTMN, hidden_size=4),
        "attention": Content(Additive(4)),
        "key_size": 4,
        "width": 4,
    },
}


#: A graph takes long to make: each part is compiled in one model.
NOT_COMPILED = [
    *("plain", "plain, LSTMs of two layers, one direction", "LSTMN", "local-m"),
    *("Luong", "Luong, dot", "Luong, location", "Luong, gated, doubly stochastic"),
]


#: To learn by heart takes long too. The others differ from these in a score or a normalizer alone,
#: whose gradients are those of finite differences.
OVERFITTED = ["plain", "Bahdanau", "local-p, input feeding", "straight-through Gumbel", "LSTMN"]


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_seq2seq(name):
    # A draw is one-hot, and has the gradient of a softmax.
    leave_out = ["finite_differences"] if name == "straight-through Gumbel" else []
    if name in NOT_COMPILED:
        leave_out = ["compiled"]
    testing.check_model(
        Seq2Seq,
        input_size=SIZE,
        output_size=SIZE,
        objective=Tokens(),
        steps=testing.tokens(SIZE),
        max_examples=3,
        leave_out=leave_out,
        **({} if name in OVERFITTED else {"overfit_steps": 0}),
        **SEQ2SEQ[name],
    )


LABELS = {
    "seq2seq": partial(Seq2Seq, **PLAIN),
    "stack": partial(
        StackModel, mixer=partial(LSTM, hidden_size=4), width=4, layers=1, hidden_size=8
    ),
    "Transformer": partial(Transformer, width=4, heads=2, layers=1, hidden_size=8, dropout=0.0),
}


@pytest.mark.parametrize("name", ["seq2seq", "stack"])
def test_answers_that_are_labels(name):
    # The inputs of an answer are tokens of the source, of which there are more than labels.
    testing.check_model(
        LABELS[name],
        input_size=SIZE,
        output_size=2,
        labels=True,
        objective=Labels(),
        steps=testing.tokens(SIZE),
        max_examples=1,
        leave_out=["compiled"],
    )


@pytest.mark.parametrize("name", LABELS)
def test_a_classifier_has_the_weights_of_a_model_of_tokens_but_for_its_output(name):
    tokens = LABELS[name](input_size=SIZE, output_size=SIZE).state_dict()
    labels = LABELS[name](input_size=SIZE, output_size=2, labels=True).state_dict()
    other = {
        each for each in labels if each not in tokens or tokens[each].shape != labels[each].shape
    }
    assert other == {"output.bias", "output.own.weight"}


def test_seq2seq_with_hard_attention():
    # Its draws have no gradient to the query: only REINFORCE, in the loss, reaches the score.
    testing.check_model(
        Seq2Seq,
        input_size=SIZE,
        output_size=SIZE,
        objective=Tokens(),
        steps=testing.tokens(SIZE),
        max_examples=3,
        **{**BAHDANAU, "attention": Hard(Additive(3))},
    )


def images(batch, steps):
    return testing.tensors((batch, 2 * steps, 3, 2), special=False)


def test_show_attend_and_tell():
    testing.check_model(
        Seq2Seq,
        input_size=2,
        output_size=SIZE,
        objective=Tokens(),
        source=images,
        steps=testing.tokens(SIZE),
        masked=False,
        leave_out=["compiled"],
        max_examples=3,
        gated=True,
        doubly_stochastic=0.3,
        **{
            **BAHDANAU,
            "encoder": partial(Embedded, embedding=partial(Patches, filters=(4, 4), halvings=1)),
            "decoder": partial(LSTM, hidden_size=5),
        },
    )


SMALL = {"width": 4, "heads": 2, "layers": 2, "hidden_size": 8, "dropout": 0.0}


@pytest.mark.parametrize(
    "model",
    [partial(Seq2Seq, **{**BAHDANAU, "tied": False}), partial(Transformer, **SMALL)],
    ids=["seq2seq", "transformer"],
)
def test_decoders_take_an_encoder_that_embeds(model):
    encoder = partial(
        Embedded,
        embedding=partial(Words, width=3),
        context=partial(Recurrent, controller=partial(GRU, hidden_size=4)),
    )
    testing.check_model(
        partial(model, encoder=encoder),
        input_size=SIZE,
        output_size=SIZE,
        objective=Tokens(),
        steps=testing.tokens(SIZE),
        leave_out=["compiled"],
        max_examples=3,
    )


def hypotheses(batch, steps):
    """Sentences of three of the tokens, some with padding behind them or padding alone."""
    return testing.tokens(SIZE)(batch, 3 * steps).map(lambda words: words.unflatten(1, (steps, 3)))


@pytest.mark.parametrize("encoder", [None, partial(IntraAttention, hidden_size=12)])
def test_decomposable_attention(encoder):
    testing.check_model(
        DecomposableAttention,
        input_size=SIZE,
        output_size=3,
        encoder=encoder,
        width=4,
        hidden_size=24,
        dropout=0.0,
        objective=Labels(),
        source=testing.tokens(SIZE),
        steps=hypotheses,
        # Differences cross the kinks of ReLU.
        leave_out=["finite_differences", *(["compiled"] if encoder is not None else [])],
        max_examples=3,
    )


@pytest.mark.parametrize("model", [Transformer, CausalTransformer])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_transformer(model, norm):
    testing.check_model(
        model,
        input_size=SIZE,
        output_size=SIZE,
        norm=norm,
        objective=Tokens(),
        steps=testing.tokens(SIZE),
        leave_out=["compiled"] if norm == "pre" or model is CausalTransformer else [],
        max_examples=3,
        # Each of both learns by heart in one of two ways.
        **({} if (norm == "pre") == (model is Transformer) else {"overfit_steps": 0}),
        **SMALL,
    )


@pytest.mark.parametrize("model", [Transformer, CausalTransformer])
def test_transformer_of_vectors(model):
    testing.check_model(
        model,
        input_size=3,
        output_size=3,
        tied=False,
        positions=ShiftedPositions(CoupledPositions(LearnedPositions(4, 20)), 2),
        overfit_steps=0,
        leave_out=["compiled"],
        max_examples=3,
        **SMALL,
    )


SMALL_CONVS2S = {"width": 6, "encoder_layers": 1, "layers": 2, "dropout": 0.0}


@pytest.mark.parametrize("encoder_gradient", [1.0, None])
def test_convs2s(encoder_gradient):
    # By default the gradient to the encoder is made smaller.
    leave_out = ["compiled"] if encoder_gradient else ["finite_differences"]
    testing.check_model(
        ConvS2S,
        input_size=SIZE,
        output_size=SIZE,
        encoder_gradient=encoder_gradient,
        objective=Tokens(),
        steps=testing.tokens(SIZE),
        leave_out=leave_out,
        max_examples=3,
        **SMALL_CONVS2S,
    )


def test_convs2s_with_another_encoder():
    testing.check_model(
        ConvS2S,
        input_size=3,
        output_size=3,
        encoder=ENCODER,
        positions=LearnedPositions(6, 20),
        encoder_gradient=1.0,
        overfit_steps=0,
        leave_out=["compiled"],
        max_examples=3,
        **SMALL_CONVS2S,
    )


SMALL_SNAIL = {"max_length": 20, "attentions": [(3, 2), (4, 3)], "filters": 2}


@pytest.mark.parametrize("kernel_size", [1, 2, 4])
def test_snail(kernel_size):
    leave_out = [] if kernel_size == 2 else ["compiled"]
    testing.check_model(
        SNAIL,
        input_size=SIZE,
        output_size=SIZE,
        width=4,
        kernel_size=kernel_size,
        tied=kernel_size == 4,
        objective=Tokens(),
        steps=testing.tokens(SIZE),
        leave_out=leave_out,
        max_examples=3,
        **SMALL_SNAIL,
    )


def test_snail_of_vectors():
    testing.check_model(
        SNAIL,
        input_size=3,
        output_size=3,
        leave_out=["compiled"],
        max_examples=3,
        **SMALL_SNAIL,
    )


LEARNERS = {
    "SNAIL": partial(SNAIL, **SMALL_SNAIL),
    "LSTM": partial(MemoryMachine, controller=partial(LSTM, hidden_size=4)),
    "NTM": partial(
        MemoryMachine,
        controller=partial(LSTM, hidden_size=4),
        access=NTM(slots=3, width=2),
    ),
}


@pytest.mark.parametrize("learner", LEARNERS)
def test_meta_learner(learner):
    testing.check_model(
        MetaLearner,
        input_size=5,
        output_size=2,
        learner=LEARNERS[learner],
        features=partial(VectorFeatures, output_size=4),
        objective=Labels(),
        leave_out=[] if learner == "LSTM" else ["compiled"],
        max_examples=3,
    )


def test_online_learner():
    testing.check_model(
        OnlineLearner,
        input_size=5,
        output_size=2,
        learner=LEARNERS["LSTM"],
        features=partial(VectorFeatures, output_size=4),
        in_pairs=True,
        objective=Labels(),
        leave_out=["compiled"],
        overfit_steps=0,
        max_examples=2,
    )


def test_meta_learner_of_numbers():
    testing.check_model(
        MetaLearner,
        input_size=2,
        output_size=1,
        learner=LEARNERS["SNAIL"],
        objective=Numbers(),
        leave_out=["compiled"],
        max_examples=3,
    )


def episodes(batch, time):
    """Images of 4 x 4 pixels, and a label each, of two classes."""

    def labelled(vectors):
        labels = nn.functional.one_hot(torch.arange(time) % 2, 2).expand(batch, -1, -1)
        return torch.cat([vectors, labels], -1)

    return testing.tensors((batch, time, 16), special=False).map(labelled)


@pytest.mark.parametrize(
    "model", [Prototypical, partial(MetaLearner, learner=LEARNERS["SNAIL"], prototypical=0.5)]
)
def test_learners_of_images(model):
    # A class of one example lies on the kink of a mean over at least one.
    leave_out = ["finite_differences"] if model is Prototypical else ["compiled"]
    testing.check_model(
        model,
        input_size=18,
        output_size=2,
        features=partial(ImageFeatures, filters=(2, 2)),
        objective=Labels(),
        steps=episodes,
        leave_out=leave_out,
        overfit_steps=0,
        max_examples=3,
    )


def test_machine_of_tokens():
    testing.check_model(
        MemoryMachine,
        input_size=SIZE,
        output_size=SIZE,
        controller=partial(LSTM, hidden_size=8),
        objective=Tokens(),
        steps=testing.tokens(SIZE),
        leave_out=["compiled"],
        max_examples=3,
    )


def stories(batch, time):
    """Sentences of up to four of the words, or questions."""
    return testing.tokens(SIZE)(batch, 4 * time).map(lambda words: words.unflatten(1, (time, 4)))


@pytest.mark.parametrize(
    "settings",
    [
        {"tying": "adjacent", "memory_size": 3},
        {"tying": "layerwise", "encoding": "bag"},
        {"tying": "single", "memory_size": None},
    ],
    ids=str,
)
def test_memory_network(settings):
    testing.check_model(
        MemoryNetwork,
        input_size=SIZE,
        output_size=SIZE,
        width=6,
        hops=2,
        objective=Labels(),
        steps=stories,
        leave_out=[] if settings["tying"] == "layerwise" else ["compiled"],
        max_examples=2,
        **settings,
    )


POINTER = {
    "input_size": 2,
    "encoder": ENCODER,
    "decoder": partial(LSTM, hidden_size=8),
    "attention": Content(ScaledDot()),
    "width": 6,
    "objective": Tokens(),
    "max_examples": 3,
}
ATTENTION = partial(SelfAttention, layers=1, heads=2, hidden_size=8)


@pytest.mark.parametrize("revisit", [False, True])
@pytest.mark.parametrize("glimpses", [0, 2])
def test_pointer_network(glimpses, revisit):
    leave_out = [] if glimpses and not revisit else ["compiled"]
    if glimpses and revisit:  # it learns by heart with each of both alone
        leave_out.append("overfit")
    testing.check_pointer(
        PointerNetwork, glimpses=glimpses, revisit=revisit, leave_out=leave_out, **POINTER
    )


def test_pointer_network_with_the_additive_score():
    # So narrow, its hyperbolic tangents saturate before everything is learnt by heart.
    testing.check_pointer(
        PointerNetwork,
        leave_out=["compiled"],
        **{**POINTER, "attention": Content(Additive(6)), "glimpses": 1, "overfit_steps": 0},
    )


@pytest.mark.parametrize(
    "places", [{"ordered": True}, {"positions": SinusoidalPositions(6)}], ids=["share", "count"]
)
def test_pointer_network_that_must_point_at_everything(places):
    encoder = partial(ATTENTION, **places)
    leave_out = [] if "ordered" in places else ["compiled"]
    testing.check_pointer(
        PointerNetwork,
        leave_out=leave_out,
        **{**POINTER, "encoder": encoder, "complete": True},
    )


@pytest.mark.parametrize("encoder", [ATTENTION, partial(Process, steps=2)], ids=["set", "process"])
@pytest.mark.parametrize("glimpses", [0, 1])
def test_pointer_network_on_sets(encoder, glimpses):
    testing.check_pointer(
        PointerNetwork,
        symmetry="permutation",
        glimpses=glimpses,
        leave_out=["compiled"] if glimpses or encoder is ATTENTION else [],
        features=partial(FourierFeatures, frequencies=2),
        **{**POINTER, "encoder": encoder},
    )


def test_seq2seq_with_a_set_encoder():
    testing.check_model(
        Seq2Seq,
        input_size=3,
        output_size=3,
        tied=False,
        overfit_steps=0,
        leave_out=["compiled"],
        max_examples=3,
        **{**BAHDANAU, "encoder": partial(Process, steps=2)},
    )


def body_of_snail():
    """Two attention blocks and the TC block between them, on vectors of width 3."""
    first = AttentionBlock(3, 3, 2)
    between = TCBlock(first.output_size, 20, 2)
    last = AttentionBlock(between.output_size, 4, 3)
    return Chain(3, [kept(cell) for cell in (first, between, last)])


STACK = {"width": 4, "layers": 2, "hidden_size": 8}
LOOP = {"controller": partial(LSTM, hidden_size=4), "access": NTM(slots=3, width=2)}

#: A named model; its body, made of cells; its largest length. All are of vectors of width 3.
BODIES = {
    "MemoryMachine": (
        lambda: MemoryMachine(3, 3, **copy.deepcopy(LOOP)),
        lambda: Loop(3, **copy.deepcopy(LOOP)),
        None,
    ),
    "MemoryMachine without a memory": (
        lambda: MemoryMachine(3, 3, partial(GRU, hidden_size=4)),
        lambda: GRU(3, 4),
        None,
    ),
    "SNAIL": (lambda: SNAIL(3, 3, **SMALL_SNAIL), body_of_snail, 20),
    "StackModel": (
        lambda: StackModel(3, 3, partial(LSTM, hidden_size=5), tied=False, **STACK),
        lambda: residual_stack(partial(LSTM, hidden_size=5), 2, 4, 8, dropout=0.0),
        None,
    ),
    "CausalTransformer": (
        lambda: CausalTransformer(3, 3, heads=2, dropout=0.0, tied=False, **STACK),
        lambda: transformer_stack(2, 4, 2, 8, dropout=0.0),
        None,
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_named_model_is_the_model_of_its_body(name):
    make, body, max_length = BODIES[name]
    named = make().double().eval()
    # Both ends are the named model's, the body is made of cells, its weights by the same names.
    plain = SequenceModel(
        copy.deepcopy(named.inputs), body().double(), copy.deepcopy(named.output), max_length
    ).eval()
    plain.load_state_dict(named.state_dict())
    generator = torch.Generator().manual_seed(0)
    source, inputs, targets = (
        torch.randn(2, steps, 3, generator=generator, dtype=torch.float64) for steps in (4, 3, 3)
    )
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    results = []
    for model in (named, plain):
        state = model.encode(source, mask)
        logits, after = model.decode(inputs, state)
        loss = model.loss(Batch(source, inputs, targets.sigmoid().round(), mask))
        names, parameters = zip(*model.named_parameters(), strict=True)
        gradients = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
        results.append((state, logits, after, loss, gradients))
        assert model.longest_answer(4) == (None if max_length is None else max_length - 4)
    assert_close(results[0], results[1], f"{name} and the model of its body")


class OfPairs(KeyValueNetwork):
    """A network whose sentences of four words are a key of two words, and a value of two."""

    def encode(self, source, mask=None):
        return super().encode(source.unflatten(2, (2, 2)), mask)


def sentences_of_four(batch, steps):
    return testing.tokens(SIZE)(batch, 4 * steps).map(lambda words: words.unflatten(1, (steps, 4)))


@pytest.mark.parametrize("update", ["query", "sum"])
def test_key_value_network(update):
    testing.check_model(
        OfPairs,
        input_size=SIZE,
        output_size=SIZE,
        width=6,
        hops=2,
        update=update,
        objective=Candidates(),
        steps=sentences_of_four,
        overfit_steps=0,  # the answer to a question of another story may be another one
        leave_out=["compiled"],
        max_examples=3,
    )
