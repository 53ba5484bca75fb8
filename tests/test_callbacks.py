"""Callbacks: the memory's schedule, and the curriculum."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback

from memnets.cells import FeedForward
from memnets.memories import NTM
from memnets.models import MemoryMachine
from memnets.training import Curriculum, MemorySchedule
from memnets.viewing.pictures import Pictures
from tasks import Copying, RepeatCopying


def set_at(schedule: MemorySchedule, access: NTM, step: int, steps: int = 10) -> tuple[int, float]:
    """N and noise of the batch of a step."""
    trainer = SimpleNamespace(global_step=step, estimated_stepping_batches=steps, datamodule=None)
    model = SimpleNamespace(access=access)
    schedule.setup(trainer, model, "fit")
    schedule.on_train_batch_start(trainer, model, None, step)
    return access.slots, access.noise


def test_settings_hold_from_their_share_of_the_training_on_and_lists_take_turns() -> None:
    schedule = MemorySchedule({0.2: {"slots": [4, 5, 9], "noise": 0.5}, 0.6: {"slots": 7}})
    access = NTM(slots=6, width=2)
    found = [set_at(schedule, access, step) for step in range(10)]
    assert found[:2] == [(6, 0.0)] * 2
    assert found[2:6] == [(9, 0.5), (4, 0.5), (5, 0.5), (9, 0.5)]
    assert found[6:] == [(7, 0.0)] * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"training": {1.0: {"slots": 4}}}, r"share of the training in \[0, 1\)"),
        ({"training": {0.5: {"slots": []}}}, "at least one; got none for slots"),
        ({"testing": {"length_4": 0}}, "at least 1; got 0"),
    ],
)
def test_bad_schedules_are_named(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemorySchedule(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"training": {0.9: {"slots": 0}}}, "slots must be .* at least 1; got 0"),
        ({"training": {0.9: {"slots": [8, 2]}}}, "slots must be at least shift_range = 3; got 2"),
        ({"training": {0.5: {"noise": -1.0}}}, "noise must be at least 0 and finite; got -1.0"),
        ({"training": {0.5: {"least_sharpness": None}}}, "least_sharpness must be .* got None"),
        ({"validation": 2}, "slots must be at least shift_range = 3; got 2"),
        ({"testing": {"length_4": 8, "length_9": 2}}, "slots must be at least shift_.* got 2"),
    ],
)
def test_a_value_that_a_memory_does_not_take_is_refused_before_its_time(arguments, message) -> None:
    trainer, access = SimpleNamespace(datamodule=None), NTM(slots=6, width=2, noise=0.5)
    with pytest.raises(ValueError, match=f"MemorySchedule: {message}"):
        MemorySchedule(**arguments).setup(trainer, SimpleNamespace(access=access), "fit")
    assert (access.slots, access.noise, access.least_sharpness) == (6, 0.5, 1.0)


def follow(
    curriculum: Curriculum,
    task: RepeatCopying,
    losses: list[float],
    accumulated: int = 1,
    says: Callable[[str], object] = len,
) -> list[int | None]:
    """The setting that each of the next batches is made with."""
    model = SimpleNamespace(print=says)
    strategy = SimpleNamespace(reduce=lambda loss, reduce_op: loss)
    trainer = SimpleNamespace(
        datamodule=task,
        strategy=strategy,
        accumulate_grad_batches=accumulated,
        estimated_stepping_batches=len(losses),
    )
    curriculum.setup(trainer, None, "fit")
    curriculum.on_train_start(trainer, model)
    used = []
    for step, loss in enumerate(losses):
        used.append(task.training_repeats)
        outputs = {"loss": torch.tensor(loss) / accumulated}
        trainer.global_step = step + 1
        curriculum.on_train_batch_end(trainer, model, outputs, None, step)
    return used


@pytest.mark.parametrize("accumulated", [1, 4])
def test_a_curriculum_goes_on_when_the_loss_is_low_and_stays_at_its_end(accumulated: int) -> None:
    curriculum = Curriculum("training_repeats", [1, 4, 9], loss=0.5, steps=2)
    losses = [1.0, 0.4, 0.2, 0.9, 0.9, 0.0, 0.0, 0.1, 0.1]
    #         the mean of two must be low, and those before the value do not count
    lines: list[str] = []
    found = follow(curriculum, RepeatCopying(), losses, accumulated, lines.append)
    assert found == [1, 1, 1, 4, 4, 4, 9, 9, 9]
    moved = {3: 4, 6: 9}
    assert lines == [f"step {n}: training_repeats is now {value}" for n, value in moved.items()]


def test_a_curriculum_goes_on_after_its_time_whatever_the_loss() -> None:
    curriculum = Curriculum("training_repeats", [1, 4, 9], loss=0.5, steps=2, longest=0.6)
    assert follow(curriculum, RepeatCopying(), [1.0] * 10) == [1] * 3 + [4] * 3 + [9] * 4
    curriculum = Curriculum("training_repeats", [1, 4, 9], loss=0.5, steps=2, longest=0.6)
    losses = [0.1, 0.1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert follow(curriculum, RepeatCopying(), losses) == [1] * 2 + [4] * 4 + [9] * 4


def trained(callback: Callback, **settings: Any) -> None:
    """Train a small model by a trainer without a log, a checkpoint or a validation."""
    task = RepeatCopying(width=2, max_length=2, max_repeats=9, batch_size=2, epoch_batches=3)
    model = MemoryMachine(task.input_size, task.output_size, FeedForward, NTM(4, 2))
    lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, callbacks=[callback], **settings,
    ).fit(model, datamodule=task)  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # of Lightning
def test_the_time_of_a_curriculum_is_a_share_of_the_epochs_too(capsys) -> None:
    curriculum = Curriculum("training_repeats", [1, 2, 3], loss=1e-9, longest=0.7)
    trained(curriculum, max_epochs=2, max_steps=-1)  # of three steps each
    lines = [line for line in capsys.readouterr().out.splitlines() if "is now" in line]
    assert lines == [f"step {n}: training_repeats is now {m}" for n, m in ((3, 2), (5, 3))]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # of Lightning
@pytest.mark.parametrize(
    ("loss", "steps", "value", "place"),
    [(1e-9, 4, 1, 1), (100.0, 4, 3, 2), (100.0, 2, 6, None), (1e-9, 100, 1, 1)],
)
def test_a_training_that_ends_before_the_last_value_says_so(
    capsys, loss, steps, value, place
) -> None:
    curriculum = Curriculum("training_repeats", [1, 3, 6], loss=loss, steps=steps)
    trained(curriculum, max_steps=7)
    lines = [line for line in capsys.readouterr().out.splitlines() if "never came" in line]
    if place is None:
        assert lines == []
        return
    (line,) = lines
    begins = f"step 7: the training ends with training_repeats at {value}, value {place} of 3; "
    assert line.startswith(f"{begins}the last, 6, never came. ")
    assert (
        f"after {steps} batches with a loss below {loss:g}; so far {7 if place == 1 else 3}, "
        in line
    )
    assert line.endswith("the share of the training after which the last one comes")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # of Lightning
@pytest.mark.parametrize(
    ("callback", "name"),
    [
        (Curriculum("training_repeats", [1, 2], loss=0.1, longest=0.5), "Curriculum with longest"),
        (MemorySchedule({0.5: {"slots": 3}}), "MemorySchedule with settings for shares"),
    ],
)
def test_shares_of_a_training_without_an_end_are_named(callback, name) -> None:
    expected = f"{name}.*number of steps is known: give trainer.max_steps, or trainer.max_epochs"
    with pytest.raises(ValueError, match=expected):
        trained(callback, max_epochs=-1, max_time="00:00:00:01")


def test_without_shares_a_training_needs_no_end() -> None:
    trainer = SimpleNamespace(global_step=5, estimated_stepping_batches=float("inf"))
    access = NTM(slots=6, width=2)
    schedule = MemorySchedule({0: {"slots": 4}}, validation=3)
    trainer.datamodule = None
    schedule.setup(trainer, SimpleNamespace(access=access), "fit")
    schedule.on_train_start(trainer, None)
    schedule.on_train_batch_start(trainer, SimpleNamespace(access=access), None, 5)
    assert access.slots == 4


def test_a_curriculum_goes_on_where_it_stopped() -> None:
    losses = [1.0, 0.4, 0.2, 0.9, 0.3, 0.0, 0.3, 0.1, 0.1, 0.2, 0.0]
    whole = follow(Curriculum("training_repeats", [1, 2, 3, 4], 0.3, 2), RepeatCopying(), losses)
    assert set(whole) == {1, 2, 3, 4}
    for stop in range(len(losses)):
        first, second = (Curriculum("training_repeats", [1, 2, 3, 4], 0.3, 2) for _ in range(2))
        used = follow(first, RepeatCopying(), losses[:stop])
        second.load_state_dict(first.state_dict())
        assert used + follow(second, RepeatCopying(), losses[stop:]) == whole


def test_a_curriculum_that_does_not_fit_is_named() -> None:
    curriculum = Curriculum("training_repeats", [1, 2], 0.1)
    with pytest.raises(ValueError, match="a task that has 'training_repeats'; Copying has not"):
        follow(curriculum, Copying(), [])
    with pytest.raises(ValueError, match="workers must be 0; got 2"):
        follow(curriculum, RepeatCopying(workers=2), [])
    task = RepeatCopying(max_repeats=4)
    with pytest.raises(ValueError, match="max_repeats = 4; got 5") as error:
        follow(Curriculum("training_repeats", [4, 5], 0.1), task, [])
    assert str(error.value).startswith("Curriculum gives training_repeats the values [4, 5]; ")
    assert str(error.value).endswith(
        "; give others, --trainer.callbacks.values=[...], or leave it out: --trainer.callbacks=[]"
    )
    assert task.training_repeats is None  # as it was
    further = {"stage": 2, "taken": 0, "average": 0.0}
    with pytest.raises(ValueError, match="at value 3 of training_repeats; the curriculum has 2"):
        curriculum.load_state_dict(further)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": []}, "at least one for the setting; got none"),
        ({"loss": 0.0}, "loss must be more than 0; got 0.0"),
        ({"steps": 0}, "steps must be .* at least 1; got 0"),
        ({"longest": 0.0}, r"longest must be in \(0, 1\]; got 0.0"),
        ({"longest": 1.5}, r"longest must be in \(0, 1\]; got 1.5"),
    ],
)
def test_bad_curricula_are_named(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Curriculum(**{"setting": "training_repeats", "values": [1], "loss": 0.1, **arguments})


@pytest.mark.parametrize("wrong", [None, 2])
def test_the_worst_answer_of_binary_vectors_is_drawn(monkeypatch, tmp_path, wrong) -> None:
    task = Copying(width=3, max_length=4, test_sets=[(5, 4)])
    batch = task.batch("length_5", 0)
    answers = batch.targets.clone()
    if wrong is not None:
        answers[wrong, 1:3] = 1 - answers[wrong, 1:3]
    drawn = []
    monkeypatch.setattr(
        "memnets.viewing.plots.answer",
        lambda targets, outputs, path, title: drawn.append((targets, path.name, title)),
    )
    model = MemoryMachine(task.input_size, task.output_size, FeedForward, None).eval()
    Pictures(tmp_path).draw(model, batch, answers, "length_5")
    ((targets, name, title),) = drawn
    assert torch.equal(targets, batch.targets[wrong or 0])
    assert name == "length_5_answer.png"
    assert title.endswith("; 6 wrong bits, the most of all" if wrong else "; 0 wrong bits")
