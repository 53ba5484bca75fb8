"""What all models share in training."""

import itertools
import math
from collections.abc import Iterator
from functools import partial

import pytest
import pytorch_lightning as lightning
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from memnets import decoding, testing
from memnets.addressing import Content
from memnets.batches import Batch
from memnets.cells import LSTM, Chain, FeedForward, LearnedPositions
from memnets.encoders import Recurrent, SelfAttention
from memnets.features import VectorFeatures
from memnets.memories import DNC, NTM
from memnets.models import (
    MemoryMachine,
    MetaLearner,
    PointerNetwork,
    Prototypical,
    Seq2Seq,
    Transformer,
)
from memnets.normalizers import Softmax
from memnets.scores import Cosine, Dot
from memnets.training.objectives import Labels, Numbers, Tokens
from memnets.training.optimizers import fused
from memnets.training.trained import _learning_rate_factor, total_norm
from tasks import Copying, CopyingTokens

READER = partial(Recurrent, controller=LSTM)


@given(
    rows=st.lists(st.lists(st.floats(-1, 1), min_size=1, max_size=4), min_size=1, max_size=3),
    power=st.integers(-10, 37),
    seed=testing.seeds(),
)
def test_the_norm_of_a_gradient_is_right_though_its_squares_overflow(rows, power, seed) -> None:
    gradients = [torch.tensor(row) * 10.0**power for row in rows]
    expected = math.hypot(*(value for gradient in gradients for value in gradient.tolist()))
    # Squares below 1e-38 are lost, and with them what is less than a root of them.
    assert total_norm(gradients).item() == pytest.approx(expected, rel=1e-5, abs=1e-18)


@pytest.mark.parametrize("special", [math.nan, math.inf])
def test_the_norm_of_a_gradient_that_is_not_finite_is_not(special) -> None:
    assert not total_norm([torch.ones(2), torch.tensor([special, 1.0])]).isfinite()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # of Lightning
def test_a_gradient_whose_squares_overflow_is_clipped_to_its_direction(tmp_path) -> None:
    task = Copying(width=2, max_length=3, batch_size=2)
    sgd = partial(torch.optim.SGD, lr=1.0)
    model = MemoryMachine(task.input_size, task.output_size, FeedForward, None, optimizer=sgd)
    model.output.weight.register_hook(lambda gradient: gradient * 1e28)
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=1, gradient_clip_val=0.5, limit_val_batches=0,
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(model, task)
    moved = nn.utils.parameters_to_vector(model.parameters()).detach() - before
    assert moved.norm().item() == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(
    "make",
    [
        partial(torch.optim.Adam, lr=0.1),
        partial(torch.optim.AdamW, lr=0.1, amsgrad=True),
        partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    ],
)
def test_a_fused_optimizer_takes_the_same_steps(make) -> None:
    torch.manual_seed(0)
    first, gradients = torch.randn(7, 5), torch.randn(4, 7, 5)
    ours, plain = (nn.Parameter(first.clone()) for _ in range(2))
    optimizers = fused(make([ours])), make([plain])
    assert optimizers[0].param_groups[0]["fused"]
    for gradient in gradients:
        for parameter, optimizer in zip((ours, plain), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)
    assert not torch.equal(ours, first)


def test_an_optimizer_that_cannot_be_fused_or_says_how_it_steps_stays_as_it_is() -> None:
    parameter = nn.Parameter(torch.ones(2))
    asked = [{"foreach": True}, {"fused": False}, {"differentiable": True}]
    for settings in asked:
        assert not fused(torch.optim.Adam([parameter], **settings)).param_groups[0]["fused"]
    complex_parameter = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    assert not fused(torch.optim.Adam([complex_parameter])).param_groups[0]["fused"]
    assert "fused" not in fused(torch.optim.RMSprop([parameter])).param_groups[0]


MISTAKES = {
    "a controller that is made": lambda: MemoryMachine(9, 8, LSTM(9, hidden_size=16)),
    "a memory in its place": lambda: MemoryMachine(9, 8, lambda size: NTM()),
    "a memory's class": lambda: MemoryMachine(9, 8, LSTM, NTM),
    "a partial of one": lambda: MemoryMachine(9, 8, LSTM, partial(NTM, slots=4)),
    "a decoder that is made": lambda: Seq2Seq(9, 9, READER, LSTM(9)),
    "an encoder that is made": lambda: Seq2Seq(9, 9, Recurrent(256, LSTM), LSTM),
    "a controller in its place": lambda: Seq2Seq(9, 9, LSTM, LSTM),
    "an attention's class": lambda: Seq2Seq(9, 9, READER, LSTM, Content),
    "a controller of an encoder": lambda: Recurrent(4, LSTM(4)),
    "one of a chain": lambda: Chain(4, [FeedForward, LSTM(100)]),
    "a pointer's attention": lambda: PointerNetwork(2, SelfAttention, LSTM, Content),
    "features that are made": lambda: Prototypical(9, 4, VectorFeatures(5)),
    "a learner that is made": lambda: MetaLearner(9, 4, MemoryMachine(9, 4, LSTM)),
    "a score's class": lambda: Content(Dot),
    "a normalizer's class": lambda: Content(Dot(), Softmax),
    "the class of positions": lambda: Transformer(9, 9, positions=LearnedPositions),
    "an objective's class": lambda: MemoryMachine(9, 8, LSTM, objective=Tokens),
    "an optimizer that is made": lambda: MemoryMachine(
        9, 8, LSTM, optimizer=torch.optim.Adam([nn.Parameter(torch.ones(1))])
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_part_given_where_its_class_is_wanted_or_the_other_way_round_is_named(mistake) -> None:
    with pytest.raises(TypeError, match=r"must (be an object|make) ?.*such as .*; got"):
        MISTAKES[mistake]()


@pytest.mark.parametrize(
    "module",
    [
        partial(nn.LSTM, hidden_size=4),
        partial(nn.GRU, hidden_size=4),
        partial(nn.GRUCell, hidden_size=4),
        partial(nn.Linear, out_features=4),
    ],
    ids=lambda module: module.func.__name__,
)
@pytest.mark.parametrize("access", [None, NTM(), DNC()])
def test_a_network_of_pytorch_is_no_controller(module, access) -> None:
    expected = rf"controller must make a Cell .* {module.func.__name__}\(\.\.\.\), which has no"
    with pytest.raises(TypeError, match=expected + ".*LSTM or GRU, or write a Controller"):
        MemoryMachine(9, 8, module, access)
    for owner in (partial(Chain, 4), partial(Seq2Seq, 9, 9, READER)):
        with pytest.raises(TypeError, match=r"must make a Cell .* or write a Controller"):
            owner([module] if owner.func is Chain else module)


@pytest.mark.parametrize(
    ("task", "objective", "expected"),
    [
        (CopyingTokens(max_length=3), None, "tokens need the objective Tokens"),
        (CopyingTokens(max_length=3), Numbers(), "tokens need the objective Tokens"),
        (Copying(max_length=3), Tokens(), "binary vectors need the objective Bits"),
        (Copying(max_length=3), Labels(), "binary vectors need the objective Bits"),
    ],
)
def test_a_task_of_another_kind_names_the_objective_that_it_needs(
    task, objective, expected
) -> None:
    model = MemoryMachine(task.input_size, task.output_size, FeedForward, None, objective=objective)
    batch = task.batch("train", 0)
    for call in (lambda: model.on_before_batch_transfer(batch, 0), lambda: model.loss(batch)):
        with pytest.raises(ValueError, match=expected):
            call()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # of Lightning
def test_a_test_without_its_task_says_what_to_pass(tmp_path) -> None:
    task = Copying(max_length=3, test_sets=[(3, 2)])
    model = MemoryMachine(task.input_size, task.output_size, FeedForward, None)
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    with pytest.raises(ValueError, match=r"expected trainer\.test\(model, datamodule=<a task>\)"):
        trainer.test(model, dataloaders=task.test_dataloader(), verbose=False)
    assert trainer.test(model, datamodule=task, verbose=False)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # of Lightning
def test_reported_scores_are_means_of_all_examples(tmp_path) -> None:
    task = Copying(
        width=2, max_length=3, test_sets=[(4, 5)], validation_batches=2, validation_batch_size=2
    )
    torch.manual_seed(0)
    model = MemoryMachine(task.input_size, task.output_size, FeedForward, None)
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    for run, split, prefix in (
        (trainer.test, "length_4", "test/length_4/"),
        (trainer.validate, "val", "val/"),
    ):
        (reported,) = run(model, datamodule=task, verbose=False)
        batches = [task.batch(split, index) for index in range(task.batches(split))]
        with torch.no_grad():
            scores = [
                model.objective.scores(model.logits(batch), batch.targets, batch.target_mask)
                for batch in batches
            ]
        for name in scores[0]:
            expected = torch.cat([score[name] for score in scores]).mean().item()
            assert reported[f"{prefix}{name}"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "warmup_steps", "factors"),
    [
        ("constant", 0, [1, 1, 1, 1, 1]),
        ("constant", 3, [1 / 4, 2 / 4, 3 / 4, 1, 1]),
        ("cosine", 0, [*((1 + math.cos(math.pi * k / 8)) / 2 for k in range(9)), 0, 0]),
        ("cosine", 2, [1 / 3, 2 / 3, *((1 + math.cos(math.pi * k / 6)) / 2 for k in range(7)), 0]),
        ("halved", 0, [1, 1, 1 / 2, 1 / 2, 1 / 4, 1 / 4, 1 / 8, 1 / 8, 1 / 8]),
        ("halved", 4, [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1 / 2, 1 / 4, 1 / 8]),
        ("stable_decay", 0, [1, 1, 1, 1, 1, 1, 1, 1 / 2, 0, 0]),
        ("stable_decay", 4, [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1, 1, 1, 0]),
        ("inverse_sqrt", 0, [1, math.sqrt(1 / 2), math.sqrt(1 / 3)]),
        ("inverse_sqrt", 3, [1 / 4, 2 / 4, 3 / 4, 1, math.sqrt(4 / 5), math.sqrt(4 / 6)]),
    ],
)
def test_a_schedule_is_its_formula(schedule, warmup_steps, factors) -> None:
    given = [_learning_rate_factor(step, schedule, warmup_steps, 8) for step in range(len(factors))]
    assert given == pytest.approx(factors, abs=1e-12)


class Endless(IterableDataset):
    """Batches of a task without an end; Lightning cannot count them."""

    def __init__(self, task: Copying) -> None:
        self.task = task

    def __iter__(self) -> Iterator[Batch]:
        return (self.task.batch("train", index) for index in itertools.count())


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # of Lightning
@pytest.mark.parametrize("schedule", ["cosine", "halved", "stable_decay"])
@pytest.mark.parametrize("epochs", [3, -1])
def test_a_schedule_to_the_end_of_a_training_without_one_is_constant(schedule, epochs) -> None:
    task = Copying(width=2, max_length=3, batch_size=2)
    sgd = partial(torch.optim.SGD, lr=0.5)
    model = MemoryMachine(
        task.input_size, task.output_size, FeedForward, None, optimizer=sgd, schedule=schedule
    )
    rates = []

    class Note(Callback):
        def on_train_batch_end(self, trainer, *_) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])
            trainer.should_stop = len(rates) == 4

    lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=epochs, max_steps=-1, callbacks=[Note()],
    ).fit(model, DataLoader(Endless(task), batch_size=None))  # fmt: skip
    assert rates == [0.5] * 4


@pytest.mark.parametrize(("beam", "way"), [(1, "greedy"), (2, "beam_search"), (3, "beam_search")])
def test_a_beam_of_1_is_decoded_greedily_and_a_greater_one_is_searched(
    beam, way, monkeypatch
) -> None:
    called = []
    for name in ("greedy", "beam_search"):
        decode = getattr(decoding, name)
        monkeypatch.setattr(
            decoding, name, lambda *a, _n=name, _d=decode, **k: called.append(_n) or _d(*a, **k)
        )
    model = Transformer(7, 7, width=4, heads=2, layers=1, hidden_size=8).eval()
    model.generate(torch.tensor([[3, 4]]), beam=beam, max_length=3)
    assert called == [way]


def test_an_objective_class_is_met_with_its_own_name() -> None:
    with pytest.raises(TypeError, match=r"such as Numbers\(\); got <class"):
        MemoryMachine(9, 8, LSTM, objective=Numbers)


@pytest.mark.parametrize("number", [math.nan, math.inf, -1.0])
def test_a_bound_is_a_finite_number(number) -> None:
    with pytest.raises(ValueError, match="least_sharpness must be at least 1 and finite"):
        NTM(least_sharpness=number)
    with pytest.raises(ValueError, match="epsilon must be at least 0 and finite"):
        Cosine(number)
