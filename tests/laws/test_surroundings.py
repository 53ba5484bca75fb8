"""Encoders, searches, objectives, kernels and tasks under the laws of their kinds."""

from functools import partial

import pytest
import torch
from hypothesis import strategies as st

from memnets import fast, functional, testing
from memnets.addressing import Content
from memnets.cells import GRU, LSTM, LearnedPositions, SinusoidalPositions
from memnets.embedders import Patches, Sentences, Words
from memnets.encoders import (
    Convolutional,
    Embedded,
    IntraAttention,
    Nested,
    Process,
    Recurrent,
    SelfAttention,
)
from memnets.memories import NTM
from memnets.models import (
    CausalTransformer,
    ConvS2S,
    MemoryMachine,
    PointerNetwork,
    Seq2Seq,
    Transformer,
)
from memnets.scores import Additive, ScaledDot
from memnets.training.objectives import (
    Actions,
    Bits,
    Candidates,
    Labels,
    NextToken,
    Numbers,
    Symbols,
    Tokens,
)
from tasks import (
    AssociativeRecall,
    Babi,
    Bandits,
    Captions,
    ConvexHull,
    Copying,
    CopyingTokens,
    Countries,
    DynamicNGrams,
    Images,
    OnlineFewShot,
    PrioritySort,
    Pronunciation,
    PropositionalLogic,
    RepeatCopying,
    Reversing,
    Sinusoids,
    SortingNumbers,
    SortingTokens,
    symbols,
)
from tests.lexicons import lexicon

ATTENTION = partial(SelfAttention, layers=1, heads=2, hidden_size=8)


@pytest.mark.parametrize(
    ("encoder", "symmetry"),
    [
        (partial(Recurrent, controller=partial(GRU, hidden_size=3)), None),
        (
            partial(
                Recurrent,
                controller=partial(LSTM, hidden_size=3),
                layers=2,
                bidirectional=False,
                dropout=0.1,
            ),
            None,
        ),
        (partial(Convolutional, layers=2), None),
        (partial(Convolutional, kernel_size=5, positions=LearnedPositions(4, 9)), None),
        (partial(ATTENTION, ordered=True), None),
        (partial(ATTENTION, positions=SinusoidalPositions(4)), None),
        (ATTENTION, "permutation"),
        (partial(Process, steps=2), "permutation"),
        (partial(IntraAttention, hidden_size=6), None),
    ],
    ids=[
        "both directions",
        "one direction",
        "gates",
        "gates, places",
        "share",
        "count",
        "set",
        "process",
        "intra",
    ],
)
def test_encoder(encoder, symmetry):
    testing.check_encoder(encoder, symmetry=symmetry, max_examples=4)


def stories(batch, steps):
    """Sentences of up to three of seven tokens."""
    return testing.tokens(7)(batch, 3 * steps).map(lambda words: words.unflatten(1, (steps, 3)))


def images(batch, steps):
    return testing.tensors((batch, 4, 5, 2), special=False)


@pytest.mark.parametrize(
    ("embedding", "context", "source"),
    [
        (partial(Words, width=4), partial(ATTENTION, ordered=True), testing.tokens(7)),
        (partial(Sentences, width=4), None, stories),
        (partial(Sentences, width=4, encoding="bag"), partial(Process, steps=2), stories),
        (partial(Patches, filters=(4, 4), halvings=1), None, images),
    ],
    ids=["words", "sentences", "bags", "patches"],
)
def test_encoder_with_an_embedding_of_its_own(embedding, context, source):
    testing.check_encoder(
        Embedded,
        width=2 if source is images else 7,
        source=source,
        masked=source is not images,
        leave_out=["finite_differences"] if source is images else [],  # kinks of ReLU
        embedding=embedding,
        context=context,
        max_examples=3,
    )


def in_brackets(batch, steps):
    """Tokens of which each third stands in brackets."""

    def bracketed(tokens):
        places = torch.arange(tokens.shape[1]) % 3
        return tokens.where(places != 0, 4).where(places != 2, 5)

    return testing.tokens(7, least=6)(batch, 3 * steps).map(bracketed)


@pytest.mark.parametrize("vectors", ["outermost", "all"])
def test_encoder_of_brackets(vectors):
    testing.check_encoder(
        Nested,
        width=7,
        source=in_brackets,
        controller=partial(LSTM, hidden_size=3),
        vectors=vectors,
        # With other numbers of steps, padding is not where it was.
        leave_out=["padding"] if vectors == "outermost" else [],
        max_examples=3,
    )


SIZE = 7
SMALL = {"width": 4, "heads": 2, "layers": 1, "hidden_size": 8, "dropout": 0.0}
ANSWERING = {
    "sequences": partial(
        Seq2Seq,
        encoder=partial(Recurrent, controller=partial(GRU, hidden_size=4)),
        decoder=partial(GRU, hidden_size=5),
        width=6,
        attention=Content(Additive(3)),
        key_size=3,
    ),
    "Transformer": partial(Transformer, **SMALL),
    "causal Transformer": partial(CausalTransformer, **SMALL),
    "ConvS2S": partial(ConvS2S, width=4, encoder_layers=1, layers=2, dropout=0.0),
    "NTM": partial(
        MemoryMachine, controller=partial(LSTM, hidden_size=5), access=NTM(slots=4, width=3)
    ),
}


@pytest.mark.parametrize("model", ANSWERING.values(), ids=ANSWERING.keys())
def test_decoding(model):
    testing.check_decoding(
        model, source=testing.tokens(SIZE), input_size=SIZE, output_size=SIZE, max_examples=3
    )


def test_decoding_of_a_pointer():
    def points(batch, steps):
        return testing.tensors((batch, steps, 2), special=False)

    # The tokens that the law of reordering gives it are no steps of its source.
    testing.check_decoding(
        PointerNetwork,
        source=points,
        input_size=2,
        encoder=ATTENTION,
        decoder=partial(LSTM, hidden_size=8),
        attention=Content(ScaledDot()),
        width=4,
        max_examples=3,
    )


@pytest.mark.parametrize(
    "objective",
    [
        *(Bits, Candidates, Labels, Actions, NextToken, Symbols, Tokens, Numbers),
        partial(Tokens, label_smoothing=0.1),
        *(partial(kind, monitor="error") for kind in (Labels, Symbols)),
        *(partial(kind, monitor="sequence_error") for kind in (Symbols, Tokens)),
    ],
)
def test_objective(objective):
    testing.check_objective(objective)


def naive(function):
    """The same function, by its plain definition."""

    def plain(*arguments):
        with fast.naive():
            return function(*arguments)

    return plain


def test_kernel_of_the_additive_score():
    score = Additive(4).double()
    inputs = st.tuples(testing.tensors((2, 3, 4)), testing.tensors((2, 5, 4)))
    testing.check_kernel(score, naive(score), inputs)


def test_kernel_of_a_fused_read():
    def fused(query, keys, values):
        return torch.nn.functional.scaled_dot_product_attention(query, keys, values, scale=1.0)

    def plain(query, keys, values):
        return functional.read((query @ keys.mT).softmax(-1), values)

    shapes = ((2, 3, 4), (2, 5, 4), (2, 5, 3))
    inputs = st.tuples(*(testing.tensors(shape, special=False) for shape in shapes))
    testing.check_kernel(fused, plain, inputs)


SETTINGS = {"batch_size": 3, "validation_batch_size": 4, "validation_batches": 2}
SETS = {"test_sets": [(4, 2), (5, 3)]}
STRINGS = {"max_length": 5, **SETS, "longest": 8, "longer_lengths": 2, "longer_questions": 2}
TASKS = {
    "copying": partial(Copying, width=3, max_length=5, **SETS),
    "copying, mixed": partial(Copying, width=3, max_length=5, mixed_lengths=True, **SETS),
    "reversing": partial(Reversing, width=3, max_length=4, mixed_lengths=True, **SETS),
    "repeat copying": partial(RepeatCopying, width=3, max_length=4, test_sets=[(3, 2, 2)]),
    "recall": partial(AssociativeRecall, width=3, max_items=3, **SETS),
    "logic": partial(PropositionalLogic, longest=5, test_sequences=3),
    "priority sort": partial(PrioritySort, width=3, length=5, answers=4, test_sequences=3),
    "n-grams": partial(DynamicNGrams, order=3, length=8, test_sequences=3),
    "copying tokens": partial(CopyingTokens, symbols=5, max_length=5, test_sequences=3),
    "sorting tokens": partial(SortingTokens, symbols=5, max_length=5, test_sequences=3),
    "sorting numbers": partial(SortingNumbers, test_sequences=3),
    "hull": partial(ConvexHull, max_points=7, test_sequences=3),
    "bandits": Bandits,
    "captions": partial(Captions, test_scenes=3),
    "images": partial(Images, test_images=5),
    "sines": Sinusoids,
    "digits one after the other": partial(OnlineFewShot, instances=2, test_episodes=3),
    "parity": partial(symbols.Parity, **STRINGS),
    "reversal, mixed": partial(symbols.Reversal, **STRINGS, mixed_lengths=True),
    "equations": partial(symbols.SolvingEquations, **STRINGS),
    "additions": partial(symbols.BinaryAddition, **STRINGS),
    "words of a group": partial(symbols.GroupWords, "S3", **STRINGS),
    "repeat copying tokens": partial(
        symbols.RepeatCopying, test_repeats=[(3, 2)], **STRINGS, max_repeats=2
    ),
    "priority sort of tokens": partial(symbols.PrioritySorting, **STRINGS),
    "induction": partial(symbols.Induction, symbols=4, **STRINGS),
    "flip-flop": partial(symbols.FlipFlop, max_length=8, test_sets=[], test_ignored=[(0.5, 3)]),
    "recall of many": partial(
        symbols.MultiQueryRecall, 12, 1, 2, max_length=12, test_pairs=[(2, 3)]
    ),
}


def test_task_of_a_lexicon(tmp_path):
    testing.check_task(Pronunciation, lexicon=lexicon(tmp_path), batch_tokens=40)


@pytest.mark.parametrize("setting", ["one_hop", "S2"])
def test_questions_about_countries(setting):
    pytest.importorskip("countryinfo")
    # A test batch has as many questions as there are, of which few are enough here.
    testing.check_task(Countries, setting=setting, most_facts=5, **{**SETTINGS, "max_examples": 3})


def test_task_of_stories():
    # Its validation set is what is held out, of any size.
    testing.check_task(Babi, questions=40, batch_size=3)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
def test_task(task):
    testing.check_task(task, **SETTINGS)
