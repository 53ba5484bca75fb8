"""Memory networks against plain loops over numbers; ages, noise, and the linear start."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from memnets.batches import PAD
from memnets.models import MemoryNetwork
from memnets.training import Labels, LinearStart
from memnets.viewing import plots
from memnets.viewing.pictures import Pictures
from tasks import Babi

WORDS, WIDTH, HOPS = 9, 5, 3


def model_of(tying="adjacent", **settings):
    torch.manual_seed(0)
    settings = {"width": WIDTH, "hops": HOPS, "spread": 0.7, "objective": Labels(), **settings}
    return MemoryNetwork(WORDS, WORDS, tying=tying, **settings).double().eval()


def sentence_vector(table, words, encoding):
    """Equations of section 4.1: m = sum_j l_j * A x_j."""
    words = [word for word in words if word != PAD]
    vector = [0.0] * len(table[0])
    for j, word in enumerate(words, 1):
        for k in range(1, len(vector) + 1):
            share = j / len(words)
            weight = (1 - share) - (k / len(vector)) * (1 - 2 * share)
            vector[k - 1] += table[word][k - 1] * (weight if encoding == "position" else 1.0)
    return np.array(vector)


def softmax(scores):
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def expected_logits(model, story, question, encoding, memory_size, linear=False):
    """Sections 2.1 and 2.2, sentence by sentence; a sentence is (words of key, of value)."""
    parts = {name: part.numpy() for name, part in model.state_dict().items() if part.dim()}
    tables = [parts[f"embeddings.{n}.embedding.weight"] for n in range(len(model.embeddings))]
    keys, values = {
        "adjacent": (range(HOPS), range(1, HOPS + 1)),
        "layerwise": ([1] * HOPS, [2] * HOPS),
        "single": ([0] * HOPS, [0] * HOPS),
    }[model.tying]
    query = sentence_vector(tables[0], question, encoding)
    for hop in range(HOPS):
        scores, slots = [], []
        for place, (key, value) in enumerate(story):
            age = len(story) - 1 - place
            if memory_size is not None and age >= memory_size:
                continue
            slot_key = sentence_vector(tables[keys[hop]], key, encoding)
            slot_value = sentence_vector(tables[values[hop]], value, encoding)
            if memory_size is not None:
                slot_key = slot_key + parts[f"ages.{keys[hop]}"][age]
                slot_value = slot_value + parts[f"ages.{values[hop]}"][age]
            scores.append(float(sum(query * slot_key)))
            slots.append(slot_value)
        weights = scores if linear else softmax(scores)
        found = sum(weight * slot for weight, slot in zip(weights, slots, strict=True))
        if model.tying == "layerwise":
            query = parts["matrices.0.weight"] @ query + found
        elif model.tying == "single":
            query = parts[f"matrices.{hop}.weight"] @ (query + found)
        else:
            query = query + found
    output = tables[-1] if model.answers is None else parts["answers.weight"]
    return output @ query


def rows_of(batch, sentences, words, seed=0):
    """Random sentences of different lengths, at least one word each."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, WORDS, (batch, sentences, words), generator=generator)
    lengths = torch.randint(1, words + 1, (batch, sentences, 1), generator=generator)
    return tokens.masked_fill(torch.arange(words) >= lengths, PAD)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("encoding", ["position", "bag"])
@pytest.mark.parametrize("tying", ["adjacent", "layerwise", "single"])
@pytest.mark.parametrize("memory_size", [3, 8, None])
def test_equations(tying, encoding, memory_size, linear):
    model = model_of(tying, encoding=encoding, memory_size=memory_size, linear=linear)
    story, questions = rows_of(2, 5, 4), rows_of(2, 2, 3, seed=1)
    lengths = [5, 2]
    mask = torch.arange(5) < torch.tensor(lengths).unsqueeze(1)
    logits, _ = model.decode(questions, model.encode(story, mask))
    for row, length in enumerate(lengths):
        told = [(words, words) for words in story[row, :length].tolist()]
        for number, question in enumerate(questions[row].tolist()):
            expected = expected_logits(model, told, question, encoding, memory_size, linear)
            # The weights of places are computed in single precision.
            np.testing.assert_allclose(logits[row, number].detach(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("memory_size", [4, None])
def test_keys_and_values_of_their_own(memory_size):
    model = model_of("single", memory_size=memory_size)
    keys, values, questions = rows_of(1, 4, 3), rows_of(1, 4, 3, seed=2), rows_of(1, 1, 3, seed=1)
    logits, _ = model.decode(questions, model.encode(torch.stack([keys, values], 2)))
    told = list(zip(keys[0].tolist(), values[0].tolist(), strict=True))
    expected = expected_logits(model, told, questions[0, 0].tolist(), "position", memory_size)
    np.testing.assert_allclose(logits[0, 0].detach(), expected, rtol=1e-5, atol=1e-5)


def test_the_same_sentence_as_key_and_as_value():
    story, questions = rows_of(2, 5, 4), rows_of(2, 1, 3, seed=1)
    model = model_of()
    once, twice = (
        model.decode(questions, model.encode(source))[0]
        for source in (story, torch.stack([story, story], 2))
    )
    torch.testing.assert_close(once, twice)


def test_only_the_last_sentences_count():
    model = model_of(memory_size=3)
    story, questions = rows_of(1, 6, 4), rows_of(1, 1, 3, seed=1)
    whole, last = (
        model.decode(questions, model.encode(source))[0] for source in (story, story[:, 3:])
    )
    torch.testing.assert_close(whole, last)
    assert model.slot_names(list("abcdef"), []) == list("def")


def test_parameters_are_tied_as_the_paper_says():
    def count(**settings):
        return sum(part.numel() for part in model_of(**settings).parameters())

    table, ages, square = WORDS * WIDTH, 4 * WIDTH, WIDTH * WIDTH
    assert count(tying="adjacent", memory_size=4) == (HOPS + 1) * (table + ages)
    # Question, keys, values and W; H.
    assert count(tying="layerwise", memory_size=4) == 4 * table + 2 * ages + square
    # An embedding for everything; R_k.
    assert count(tying="single", memory_size=None) == table + HOPS * square
    # Without a common set of words, W is a matrix of its own.
    other = MemoryNetwork(WORDS, 2, width=WIDTH, hops=1, memory_size=None)
    assert other.answers.weight.shape == (2, WIDTH)


def test_empty_slots_make_sentences_older_in_training_alone():
    model = model_of(noise=0.1, memory_size=50)
    mask = torch.arange(20).expand(400, 20) < 18
    assert model._age(mask)[0, :18].tolist() == list(range(17, -1, -1))
    model.train()
    torch.manual_seed(0)
    ages = model._age(mask)[:, :18].double()
    steps = ages[:, :-1] - ages[:, 1:]
    # Between two sentences, and after the last one, one in ten has an empty slot.
    assert set(steps.unique().tolist()) == {1.0, 2.0}
    assert (steps - 1).mean().item() == pytest.approx(0.1, abs=0.02)
    assert ages[:, -1].mean().item() == pytest.approx(0.1, abs=0.05)


def test_a_checkpoint_keeps_whether_the_model_is_linear():
    linear, other = model_of(linear=True), model_of()
    other.load_state_dict(linear.state_dict())
    assert other.linear is True
    linear.load_state_dict(model_of().state_dict())
    assert linear.linear is False


def trainer_of(step, loss=0.0, steps=100):
    return SimpleNamespace(
        global_step=step,
        estimated_stepping_batches=steps,
        sanity_checking=False,
        state=SimpleNamespace(fn="fit"),
        callback_metrics={"val/loss": torch.tensor(loss)},
        optimizers=[SimpleNamespace(param_groups=[{"lr": 1.0}])],
    )


@pytest.mark.parametrize("steps", [-1, float("inf")])  # as Lightning says that there is no end
def test_a_linear_start_of_a_training_without_an_end_waits_for_the_loss(steps):
    model, start = model_of(linear=True), LinearStart(patience=1)
    start.on_train_batch_start(trainer_of(10**6, steps=steps), model, None, 0)
    assert model.linear
    for loss in (1.0, 2.0):
        start.on_validation_end(trainer_of(10**6, loss, steps), model)
    assert not model.linear


def test_linear_start():
    model, start = model_of(), LinearStart(patience=2, longest=0.5, rate=0.5)
    start.setup(trainer_of(0), model, "fit")
    start.on_train_start(trainer_of(0), model)
    assert model.linear
    trainer = trainer_of(1)
    start.on_train_batch_start(trainer, model, None, 0)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.5
    for loss, linear in ((3.0, True), (2.0, True), (2.5, True), (1.9, True), (2.0, True)):
        start.on_validation_end(trainer_of(1, loss), model)
        assert model.linear is linear
    # A resumed run goes on where the other one was.
    other = LinearStart(patience=2, longest=0.5, rate=0.5)
    other.load_state_dict(start.state_dict())
    other.on_train_start(trainer_of(9), model)
    other.on_validation_end(trainer_of(9, 1.95), model)
    assert not model.linear
    trainer = trainer_of(10)
    other.on_train_batch_start(trainer, model, None, 0)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 1.0


def test_a_linear_start_ends_at_its_latest():
    model, start = model_of(linear=True), LinearStart(longest=0.5)
    start.on_train_batch_start(trainer_of(49), model, None, 0)
    assert model.linear
    start.on_train_batch_start(trainer_of(50), model, None, 0)
    assert not model.linear


def test_the_picture_of_the_hops(tmp_path, monkeypatch):
    task = Babi(questions=20)
    batch = task.batch("test", 0)
    alone = batch._replace(
        source=batch.source[1:2, :4], source_mask=None,
        inputs=batch.inputs[1:2], targets=batch.targets[1:2],
    )  # fmt: skip
    model = MemoryNetwork(
        task.input_size, task.output_size, hops=2, memory_size=3, objective=Labels()
    ).eval()
    drawn = []
    monkeypatch.setattr(plots, "alignment", lambda *a, **named: drawn.append((a, named)))
    wrong = torch.full_like(alone.targets, 5)
    for answer in (alone.targets, wrong):
        Pictures(tmp_path).draw_hops(model, task, alone, answer, "test_{}_1.png")
    (weights, hops, sentences, path), named = drawn[0]
    assert hops == ["hop 1", "hop 2"]
    assert sentences == task.labels(alone, 0)[0][1:]  # the last three of four
    assert weights.shape == (3, 2)
    torch.testing.assert_close(weights.sum(0), torch.ones(2))
    assert path == tmp_path / "test_hops_1.png"
    question, right = " ".join(task.asked_words(alone, 0)[0]), task.says(alone, alone.targets)[0]
    assert named["title"] == f"question: {question}?\nanswer: {right}, right"
    said = task.vocabulary.name(5)
    assert drawn[1][1]["title"] == (
        f"question: {question}?\nanswer: {said}, wrong: right is {right}"
    )
    # The reads of a linear model have no weights.
    model.linear = True
    Pictures(tmp_path).draw_hops(model, task, alone, wrong, "x_{}.png")
    assert len(drawn) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: model_of("both"), "tying must be 'adjacent', 'layerwise' or 'single'; got 'both'"),
        (lambda: model_of(encoding="x"), "encoding must be 'bag' or 'position'; got 'x'"),
        (lambda: model_of(noise=1.0), r"noise must be in \[0, 1\); got 1.0"),
        (lambda: model_of(spread=0.0), "spread must be more than 0; got 0.0"),
        (lambda: model_of(hops=0), "hops must be a whole number of at least 1; got 0"),
        (lambda: LinearStart(rate=0.0), r"rate must be in \(0, 1\]; got 0.0"),
        (lambda: LinearStart(longest=1.0), r"longest must be in \(0, 1\); got 1.0"),
        (
            lambda: model_of().encode(torch.zeros(1, 2, 3)),
            r"source must be a story of words \[B, N, L\], or keys and values \[B, N, 2, L\]; got",
        ),
        (
            lambda: model_of().decode(torch.zeros(1, 2).long(), ()),
            r"questions must be words \[B, T, L\]; got torch.int64 \[1, 2\]",
        ),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_linear_start_needs_a_model_that_can_be_linear():
    with pytest.raises(ValueError, match="LinearStart needs a model with the setting linear"):
        LinearStart().setup(None, torch.nn.Linear(1, 1), "fit")
