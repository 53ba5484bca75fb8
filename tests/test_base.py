"""What all models share in training."""

import math
from functools import partial

import pytest
import pytorch_lightning as lightning
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from memnets import testing
from memnets.cells import FeedForward
from memnets.models import MemoryMachine
from memnets.training.model import total_norm
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
