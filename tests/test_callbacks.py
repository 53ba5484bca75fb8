"""Callbacks: the memory's schedule."""

from types import SimpleNamespace

import pytest

from memnets.callbacks import MemorySchedule
from memnets.memories import NTM


def set_at(schedule: MemorySchedule, access: NTM, step: int, steps: int = 10) -> tuple[int, float]:
    """N and noise of the batch of a step."""
    trainer = SimpleNamespace(global_step=step, estimated_stepping_batches=steps)
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
