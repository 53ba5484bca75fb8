"""Entailment: statements and relations against plain Python, files of pairs, and the model."""

import itertools
import json
from collections import Counter
from functools import partial
from random import Random

import numpy as np
import pytest
import torch

from memnets.app.predictor import Predictor
from memnets.batches import BEGIN, PAD
from memnets.cells import GRU
from memnets.encoders import IntraAttention, Nested
from memnets.models import DecomposableAttention
from memnets.scores import Distance, Dot
from memnets.training.objectives import Labels
from memnets.viewing.pictures import Pictures
from tasks import Entailment, PropositionalLogic
from tasks.entailment import RELATIONS, parse

WORLDS = [
    dict(zip("abcdef", row, strict=True)) for row in itertools.product([False, True], repeat=6)
]


def truths(words):
    """The value of a statement in each world, by Python's own ``not``, ``and`` and ``or``."""
    code = compile(" ".join(words), "statement", "eval")
    return [bool(eval(code, {}, world)) for world in WORLDS]


def expected(premise, hypothesis):
    """The relation by its definition over sets of worlds (Bowman et al. 2015, table 1)."""
    one, other = (
        {n for n, true in enumerate(truths(each)) if true} for each in (premise, hypothesis)
    )
    every = set(range(64))
    if one == other:
        return "equivalence"
    if one < other:
        return "forward entailment"
    if one > other:
        return "reverse entailment"
    if not one & other:
        return "negation" if one | other == every else "alternation"
    return "cover" if one | other == every else "independence"


def operators(words):
    return sum(word in ("not", "and", "or") for word in words)


def decoded(task, batch):
    """(premise, hypothesis, relation) of each row of a batch, in words."""
    for row in range(len(batch.targets)):
        premise, (name,) = task.labels(batch, row)
        (hypothesis,) = task.asked_words(batch, row)
        assert premise[0] == hypothesis[0] == "begin"
        yield premise[1:], hypothesis[1:], name


@pytest.fixture(scope="module")
def logic():
    return PropositionalLogic(batch_size=300, test_sequences=40)


def test_relations_are_those_of_plain_truth_tables(logic):
    batches = [logic.batch("train", 0)] + [logic.batch("longer", index) for index in range(8)]
    seen = Counter()
    for batch in batches:
        for premise, hypothesis, name in decoded(logic, batch):
            assert name == expected(premise, hypothesis), (premise, hypothesis)
            assert 0 < sum(truths(premise)) < 64
            assert 0 < sum(truths(hypothesis)) < 64
            assert len({*premise, *hypothesis} & {*"abcdef"}) <= 4
            seen[name] += 1
    assert {*seen} == {*RELATIONS}


def test_sizes(logic):
    def longest(batch):
        return [max(operators(one), operators(other)) for one, other, _ in decoded(logic, batch)]

    assert Counter(longest(logic.batch("train", 1))).keys() == {1, 2, 3, 4}
    assert logic.test_names() == ["test", "longer"]
    assert [logic.batches(name) for name in logic.test_names()] == [4, 8]
    assert {*longest(logic.batch("test", 2))} == {3}
    assert {*longest(logic.batch("longer", 7))} == {12}
    assert PropositionalLogic(longest=4).test_names() == ["test"]


def test_statements_are_drawn_as_in_the_paper():
    # The process itself, without the trick that draws a size directly.
    def statement(names, level):
        if level == 0 or random.random() < 5 / 9:
            words = [random.choice(names)]
        else:
            one, other = (statement(names, level - 1) for _ in range(2))
            words = ["(", *one, random.choice(["and", "or"]), *other, ")"]
        return ["(", "not", *words, ")"] if random.random() < 1 / 3 else words

    random, wanted = Random(0), Counter()
    while sum(wanted.values()) < 500:
        names = random.sample("abcdef", 4)
        pair = [statement(names, 3) for _ in range(2)]
        if max(map(operators, pair)) == 3 and all(0 < sum(truths(each)) < 64 for each in pair):
            wanted[operators(pair[0]), len(pair[0])] += 1
    task = PropositionalLogic(min_operators=3, max_operators=3, batch_size=500)
    got = Counter((operators(each.words), len(each.words)) for each, _ in task.pairs("train", 0))
    for kind in {*wanted, *got}:
        # Four standard deviations of the difference of two counts.
        assert abs(wanted[kind] - got[kind]) <= 4 * (wanted[kind] + got[kind]) ** 0.5 + 4, kind


def test_no_pair_of_a_test_is_in_the_training(logic):
    def texts(split, index):
        return {(*one, "|", *other) for one, other, _ in decoded(logic, logic.batch(split, index))}

    # Of single operators there are few pairs: the test set would be in the training otherwise.
    small = PropositionalLogic(max_operators=1, batch_size=4000, test_sequences=300)
    trained = {(one.words, other.words) for one, other in small.pairs("train", 0)}
    tested, validated = (
        {(one.words, other.words) for one, other in small.pairs(split, 0)}
        for split in ("test", "val")
    )
    assert len(trained) > 500
    assert not trained & tested
    assert not trained & validated
    assert not tested & validated
    assert not texts("train", 0) & texts("test", 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a", "a"),
        ("not a and b or c", "( ( ( not a ) and b ) or c )"),
        ("a or b and not (c or d)", "( a or ( b and ( not ( c or d ) ) ) )"),
        ("((a))", "a"),
        ("not not f", "( not ( not f ) )"),
        ("a and b and c", "( ( a and b ) and c )"),
    ],
)
def test_parse(text, words):
    read = parse(text)
    assert " ".join(read.words) == words
    # Row r of the table gives variable n the bit n of r.
    assert [bool(read.rows >> row & 1) for row in range(64)] == [
        eval(text, {}, {name: row >> place & 1 for place, name in enumerate("abcdef")})
        for row in range(64)
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a and b", "item 1: expected a premise, a tab and a hypothesis; got 'a and b'"),
        ("a\tb\tc", "item 1: expected a premise, a tab and a hypothesis"),
        (
            "a\tg",
            "item 1, hypothesis: expected the variables a to f, not, and, or and brackets; got 'g'",
        ),
        ("(a\tb", "item 1, premise: expected a closing bracket for each opening one; got '(a'"),
        ("a\tb)", "item 1, hypothesis: expected an opening bracket for each closing one; got 'b)'"),
        (
            "a and\tb",
            "item 1, premise: expected a variable, not or a bracket; got nothing in 'a and'",
        ),
        ("a b\tb", "item 1, premise: expected one statement; got 'b' after it in 'a b'"),
        ("(a b)\tb", "item 1, premise: expected and, or or a bracket; got 'b' in '(a b)'"),
        ("a\t", "item 1, hypothesis: expected a variable, not or a bracket; got nothing in ''"),
    ],
)
def test_lines_that_are_no_pairs(logic, line, message):
    with pytest.raises(ValueError) as caught:
        logic.asked([line])
    assert str(caught.value).startswith(message)


def test_answers_to_pairs_of_a_user(logic):
    torch.manual_seed(0)
    model = DecomposableAttention(logic.input_size, logic.output_size, objective=Labels())
    predictor = Predictor(model, logic)
    lines = ["a and not b\ta", "a\ta or b and (c or not d)", "f\tnot f"]
    together = predictor(lines)
    assert all(name in RELATIONS for name in together)
    assert together == [predictor([tuple(line.split("\t"))])[0] for line in lines]


def test_the_picture_of_a_pair(logic, tmp_path):
    model = DecomposableAttention(logic.input_size, logic.output_size, objective=Labels())
    batch = logic.asked(["a and not b\ta"])
    pictures = Pictures(tmp_path)
    pictures.draw_pair(model.eval(), logic, batch, torch.tensor([[6]]), "pair_{}.png", "A pair")
    assert (tmp_path / "pair_alignment.png").is_file()
    # An encoder whose vectors are of other parts has no picture.
    nested = partial(Nested, controller=partial(GRU, hidden_size=4))
    model = DecomposableAttention(logic.input_size, 7, nested, objective=Labels())
    pictures.draw_pair(model.eval(), logic, batch, torch.tensor([[6]]), "other_{}.png")
    assert not (tmp_path / "other_alignment.png").exists()


# -- files of pairs --------------------------------------------------------------------------------


def line(label, premise, hypothesis):
    return json.dumps({"gold_label": label, "sentence1": premise, "sentence2": hypothesis, "x": 1})


@pytest.fixture
def pairs(tmp_path):
    rows = [
        line(
            ["entailment", "neutral", "contradiction", "-"][n % 4], f"Man {n} sleeps.", "It is so!"
        )
        for n in range(80)
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_pairs_of_a_file(pairs):
    task = Entailment(train=str(pairs), batch_size=8, vocabulary_size=200)
    shares = [task.pairs(split) for split in ("train", "val", "test")]
    assert sum(map(len, shares)) == 60
    assert all(shares)
    assert task.skipped == {f"without an agreed label in {pairs}": 20}
    batch = task.batch("train", 0)
    assert batch.inputs.shape[1] == 1
    assert (batch.source[:, 0] == BEGIN).all()
    premise, hypothesis, label = next(iter(decoded(task, batch)))
    assert premise[:1] + premise[2:] == ["man", "sleeps", "."]
    assert hypothesis == ["it", "is", "so", "!"]
    assert label in task.relations
    # A pass has each pair once, and the next one another order.
    size = task.batches("train")
    passes = [
        {
            str(row)
            for index in range(start, start + size)
            for row in decoded(task, task.batch("train", index))
        }
        for start in (0, size)
    ]
    assert len(passes[0]) == len(shares[0])
    assert passes[0] == passes[1]
    assert not torch.equal(task.batch("train", 0).source, task.batch("train", size).source)


def test_the_vocabulary_is_kept_in_a_checkpoint(pairs, tmp_path):
    task = Entailment(train=str(pairs), vocabulary_size=30)
    there = Entailment(train=str(tmp_path / "none.jsonl"), vocabulary_size=30)
    there.load_state_dict(task.state_dict())
    assert there.words.words == task.words.words
    assert len(there.words) <= 30
    item = "A zebra sleeps\tIt is so"
    assert torch.equal(there.asked([item]).source, task.asked([item]).source)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"gold_label": 1', "line 2: expected a JSON object; got '{\"gold_label\": 1'"),
        ("[1]", "line 2: expected a JSON object; got '[1]'"),
        ("\n{", "line 3: expected a JSON object; got '{'"),  # an empty line counts for nothing
        (
            '{"gold_label": "neutral", "sentence1": "a"}',
            "line 2: expected a text in the field sentence2; got an object without it",
        ),
        (
            '{"gold_label": "neutral", "sentence1": 3, "sentence2": "a"}',
            "line 2: expected a text in the field sentence1; got 3",
        ),
        (
            line("maybe", "a", "b"),
            "line 2: expected the gold_label entailment, neutral, contradiction or -; got 'maybe'",
        ),
        (line("neutral", " ", "b"), "line 2: expected a sentence; got ' '"),
    ],
)
def test_damaged_files(tmp_path, bad, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{line('neutral', 'a', 'b')}\n{bad}\n{line('neutral', 'a', 'b')}\n")
    with pytest.raises(ValueError) as caught:
        Entailment(train=str(path)).pairs("train")
    assert str(caught.value).startswith(f"{path}, {message}")


def test_files_without_pairs(tmp_path):
    with pytest.raises(ValueError, match=r"expected files of pairs to train on, --data\.train"):
        Entailment()
    path = tmp_path / "pairs.jsonl"
    path.write_text(line("-", "a", "b"))
    with pytest.raises(
        ValueError, match=r"expected pairs with a label in .*pairs\.jsonl; got none"
    ):
        Entailment(train=str(path)).pairs("train")
    path.write_text(line("neutral", "a", "b"))
    with pytest.raises(ValueError, match="none is left for"):
        Entailment(train=str(path)).pairs("train")
    path.write_text("\n".join(line("neutral", f"a {number}", "b") for number in range(80)))
    with pytest.raises(ValueError, match=r"two labels in .*; all 80 have the label 'neutral'"):
        Entailment(train=str(path)).pairs("train")


# -- the model -------------------------------------------------------------------------------------


def softmax(scores):
    exponents = np.exp(scores - scores.max())
    return exponents / exponents.sum()


def layers(network, vector):
    for layer in network:
        if isinstance(layer, torch.nn.Linear):
            vector = np.maximum(
                0, layer.weight.detach().numpy() @ vector + layer.bias.detach().numpy()
            )
    return vector


def beside(model, one, other):
    products = [one - other, one * other] if model.products else []
    return np.concatenate([one, other, *products])


def by_the_paper(model, a, b):
    """Equations 1 to 5 of Parikh et al. 2016, word by word."""
    scores = np.array([[layers(model.attend, x) @ layers(model.attend, y) for y in b] for x in a])
    sums = [np.zeros(model.output.in_features) for _ in range(2)]
    for i, x in enumerate(a):
        beta = sum(weight * y for weight, y in zip(softmax(scores[i]), b, strict=True))
        sums[0] += layers(model.compare, beside(model, x, beta))
    for j, y in enumerate(b):
        alpha = sum(weight * x for weight, x in zip(softmax(scores[:, j]), a, strict=True))
        sums[1] += layers(model.compare, beside(model, y, alpha))
    hidden = layers(model.aggregate, np.concatenate(sums))
    return model.output.weight.detach().numpy() @ hidden + model.output.bias.detach().numpy()


@pytest.mark.parametrize("products", [False, True])
def test_decomposable_attention_by_the_equations(products):
    torch.manual_seed(1)
    model = DecomposableAttention(9, 3, width=4, hidden_size=7, products=products).double().eval()
    source = torch.tensor([[2, 5, 6, 7], [2, 8, PAD, PAD]])
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    inputs = torch.tensor([[[2, 4, 8], [2, 7, PAD]], [[2, 6, PAD], [2, 5, 4]]])
    logits, _ = model.decode(inputs, model.encode(source, mask))
    table = model.embedding.weight.detach().numpy()
    for row, step in itertools.product(range(2), range(2)):
        words = inputs[row, step]
        a, b = table[source[row][mask[row]]], table[words[words != PAD]]
        found = by_the_paper(model, a, b)
        np.testing.assert_allclose(logits[row, step].detach(), found, rtol=1e-9)


def test_intra_attention_by_the_equations():
    torch.manual_seed(1)
    encoder = IntraAttention(3, hidden_size=6).double()
    bias = encoder.attention.score.bias
    torch.nn.init.normal_(bias)
    inputs = torch.randn(1, 14, 3, dtype=torch.double)
    vectors, _ = encoder(inputs)
    a = inputs[0].numpy()
    projected = [layers(encoder.projection, x) for x in a]
    for i, x in enumerate(a):
        scores = np.array(
            [
                projected[i] @ projected[j] + bias[10 + max(-10, min(10, i - j))].item()
                for j in range(14)
            ]
        )
        own = sum(weight * y for weight, y in zip(softmax(scores), a, strict=True))
        np.testing.assert_allclose(vectors[0, i].detach(), np.concatenate([x, own]), rtol=1e-9)


def test_biases_of_distances():
    score = Distance(Dot(), reach=1)
    score.bias.data = torch.tensor([1.0, 2.0, 3.0])
    found = score(torch.zeros(3, 2), torch.zeros(4, 2))
    assert found.tolist() == [[2, 1, 1, 1], [3, 2, 1, 1], [3, 3, 2, 1]]


def test_a_nested_run_is_a_recursive_network():
    torch.manual_seed(0)
    encoder = Nested(9, partial(GRU, hidden_size=4), width=3, vectors="all").double()

    def run(parts):
        """Last output of a controller over tokens and lists of tokens."""
        output, state = None, encoder.controller.initial_state(1)
        for part in parts:
            inputs = (
                encoder.closed(run(part))
                if isinstance(part, list)
                else encoder.embedding.weight[part : part + 1] * 3**0.5
            )
            output, state = encoder.controller(inputs, state)
        return output

    tokens = [2, 4, 6, 7, 4, 8, 4, 6, 8, 5, 5, 5, 4, 7, 5, 6]
    whole = run([2, [6, 7, [8, [6, 8]]], [7], 6])
    vectors, summary, _ = encoder.read(torch.tensor([tokens]))
    torch.testing.assert_close(summary, whole)
    torch.testing.assert_close(vectors[:, -1], whole)
    assert not vectors[0, 1].any()
    # The outermost run alone: a part in brackets is one step.
    encoder.outermost = True
    pair = torch.tensor([tokens, [6, *[PAD] * 15]])
    few, _, mask = encoder.read(pair, pair != PAD)
    torch.testing.assert_close(few[:1], vectors[:, [0, 11, 14, 15]])
    assert mask.tolist() == [[True] * 4, [True, False, False, False]]
    torch.testing.assert_close(few[1, :1], encoder.read(pair[1:, :1]).vectors[0])
    encoder.outermost = False
    # Padding leaves no trace.
    padded = torch.tensor([[*tokens, PAD, PAD]])
    torch.testing.assert_close(encoder.read(padded, padded != PAD).summary, whole)


def test_brackets_that_do_not_match():
    encoder = Nested(9, partial(GRU, hidden_size=4), width=4)
    with pytest.raises(ValueError, match="got one without, as token 2"):
        encoder.read(torch.tensor([[6, 4, 5], [6, 7, 5]]))
    # Nothing in brackets, and brackets that stay open.
    assert encoder.read(torch.tensor([[4, 5, 4, 6]])).vectors.isfinite().all()
    with pytest.raises(ValueError, match="brackets must be two different tokens"):
        Nested(9, partial(GRU, hidden_size=4), brackets=(4, 4))
    with pytest.raises(ValueError, match=r"tokens must be in \[0, 9\); got 4 to 9"):
        encoder.read(torch.tensor([[4, 9]]))
