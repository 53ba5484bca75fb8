"""What all models share in training."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import pytorch_lightning as lightning
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from memnets import decoding, testing
from memnets.controllers import FeedForward
from memnets.models import MemoryMachine
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


def test_the_inverse_root_schedule_rises_and_then_falls_with_the_root() -> None:
    found = [_learning_rate_factor(step, "inverse_sqrt", 3, 0) for step in (0, 1, 2, 3, 15)]
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.5])


def test_a_beam_of_one_is_greedy_and_a_wider_one_a_search(monkeypatch) -> None:
    model = MemoryMachine(3, 3, FeedForward, None)
    found = SimpleNamespace(tokens=torch.tensor([[[7, 8], [9, 9]]]))
    monkeypatch.setattr(decoding, "greedy", lambda *_: torch.tensor([[1, 2]]))
    monkeypatch.setattr(decoding, "beam_search", lambda *_: found)
    source = torch.zeros(1, 2, 3)
    assert model.generate(source).tolist() == [[1, 2]]
    assert model.generate(source, beam=2).tolist() == [[7, 8]]


def test_reported_test_scores_are_means_over_sequences(monkeypatch) -> None:
    model = MemoryMachine(3, 3, FeedForward, None)
    task = Copying(width=2, test_sets=[(2, 4)])
    (name,) = task.test_names()
    monkeypatch.setattr(MemoryMachine, "_task", task)
    logged: dict[str, float] = {}
    monkeypatch.setattr(model, "log_dict", logged.update)
    model.on_test_epoch_start()
    answers = torch.zeros(3, 1)
    for values in ([1.0, 2.0, 6.0], [3.0]):
        scores = {"bits": torch.tensor(values)}
        model._examined.setdefault((name, ""), []).append((answers[: len(values)], scores))
    model.on_test_epoch_end()
    assert {key: float(value) for key, value in logged.items()} == {f"test/{name}/bits": 3.0}
