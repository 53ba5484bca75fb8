"""What all models share in training."""

import math
from functools import partial

import pytest
import pytorch_lightning as lightning
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from memnets import decoding, testing
from memnets.controllers import FeedForward
from memnets.models import MemoryMachine, Transformer
from memnets.models.base import _learning_rate_factor, total_norm
from tasks import Copying


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
        ("inverse_sqrt", 0, [1, math.sqrt(1 / 2), math.sqrt(1 / 3)]),
        ("inverse_sqrt", 3, [1 / 4, 2 / 4, 3 / 4, 1, math.sqrt(4 / 5), math.sqrt(4 / 6)]),
    ],
)
def test_a_schedule_is_its_formula(schedule, warmup_steps, factors) -> None:
    given = [_learning_rate_factor(step, schedule, warmup_steps, 8) for step in range(len(factors))]
    assert given == pytest.approx(factors, abs=1e-12)


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
