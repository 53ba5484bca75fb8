"""Pictures of a model while it trains: what they show, and that the training is the same."""

import random
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from memnets.app.cli import main
from memnets.training.runs import load_checkpoint
from memnets.viewing import live
from memnets.viewing.live import LivePictures
from memnets.viewing.pictures import Pictures
from tests.test_cli import RUN, SMALL

pytestmark = pytest.mark.usefixtures("elsewhere", "sketches")

#: A memory with noise: it draws random numbers in each training step.
NOISY = [*SMALL, "--model.access.noise=0.5", "--trainer.log_every_n_steps=1"]


def left(*flags: str) -> dict[str, Any]:
    """All that a training with these flags leaves: checkpoints, without times, and the table."""
    main(["fit", *NOISY, *flags, "--trainer.limit_test_batches=0"])
    found: dict[str, Any] = {"table": (RUN / "metrics.csv").read_text()}
    for name in ("last", "best"):
        checkpoint = load_checkpoint(RUN / "checkpoints" / f"{name}.ckpt")
        for report in checkpoint["callbacks"].values():
            for clock in ("seconds", "validating"):
                report.pop(clock, None)
        found[name] = checkpoint
    for path in RUN.rglob("*"):
        found.setdefault("files", set()).add(path.name.partition(".tfevents")[0])
    shutil.rmtree("runs")
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same, bit for bit; a config need not say how often one draws."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, str):
        lines = (text.splitlines() for text in (one, other))
        one, other = ([each for each in text if "pictures_every" not in each] for text in lines)
    return bool(one == other)


def restless(patch: pytest.MonkeyPatch, fails: bool = False) -> list[str]:
    """Drawing that uses up random numbers of every kind; the names of the sets that are drawn."""
    drawn: list[str] = []

    def draw(self, model, task, name, batches, answers) -> None:
        drawn.append(name)
        torch.rand(3)
        np.random.rand(3)  # noqa: NPY002
        random.random()
        if fails:
            raise RuntimeError
        DRAW_SET(self, model, task, name, batches, answers)

    patch.setattr(Pictures, "draw_set", draw)
    return drawn


DRAW_SET = Pictures.draw_set


def test_a_training_with_pictures_is_the_one_without_bit_for_bit(monkeypatch) -> None:
    drawn = restless(monkeypatch)
    without = left("--pictures_every=0")
    assert drawn == []
    found = left("--pictures_every=1")
    assert drawn == ["val", "val"]
    assert all(same(without[name], found[name]) for name in without)
    # Also where drawing fails, after the random numbers are used up.
    drawn = restless(monkeypatch, fails=True)
    found = left("--pictures_every=1")
    assert drawn == ["val"]
    assert all(same(without[name], found[name]) for name in without)
    # The comparison finds random numbers that are not put back.
    restless(monkeypatch)
    monkeypatch.setattr(live, "isolate_rng", nullcontext)
    assert not same(without["last"], left("--pictures_every=1")["last"])


def logged(folder: Path) -> dict[str, list[int]]:
    """Steps of the images in TensorBoard's files, by name."""
    found: dict[str, list[int]] = {}
    for path in folder.glob("events.out.tfevents*"):
        events = EventAccumulator(str(path)).Reload()
        for name in events.Tags()["images"]:
            found.setdefault(name, []).extend(event.step for event in events.Images(name))
    return found


@pytest.mark.pictures
def test_tensorboard_gets_the_pictures_of_every_few_validations(capsys) -> None:
    main(["fit", *SMALL, "--trainer.max_steps=8", "--pictures_every=2", *NO_TEST])
    # The steps of the scores of these validations.
    assert logged(RUN) == {"val/answer": [3, 7], "val/weights": [3, 7]}
    assert "pictures" not in capsys.readouterr().err
    assert not (RUN / "pictures").exists()


NO_TEST = ["--trainer.limit_test_batches=0"]


class Shown:
    """A logger that takes images by a method of its own, as Weights & Biases does."""

    def __init__(self) -> None:
        self.images: list[tuple[str, tuple[int, int], int]] = []

    def log_image(self, key: str, images: list[Image.Image], step: int) -> None:
        self.images += [(key, image.size, step) for image in images]


def test_images_go_to_every_logger_that_takes_them_and_to_no_other() -> None:
    own, added = Shown(), []
    board = SimpleNamespace(
        add_image=lambda name, image, step, dataformats: added.append(
            (name, image.shape, image.dtype, step, dataformats)
        )
    )
    others = [SimpleNamespace(), SimpleNamespace(experiment=SimpleNamespace())]
    takers = live.takers([own, *others, SimpleNamespace(experiment=board)])
    for take in takers:
        take("val/answer", Image.new("RGB", (5, 3)), 7)
    assert own.images == [("val/answer", (5, 3), 7)]
    assert added == [("val/answer", (3, 5, 3), np.uint8, 7, "HWC")]
    assert len(takers) == 2


def test_drawing_that_fails_ends_the_pictures_and_not_the_training(monkeypatch, capsys) -> None:
    def fail(*given: Any) -> None:
        raise KeyError("no\nsuch word")

    monkeypatch.setattr(Pictures, "draw_set", fail)
    main(["fit", *SMALL, "--pictures_every=1", *NO_TEST])
    said = capsys.readouterr()
    assert said.err == "memnets: no more pictures of this training (KeyError: 'no\\nsuch word')\n"
    assert "Trained on 16 sequences" in said.out


def test_pictures_take_their_share_of_the_time_if_nobody_says_how_often(monkeypatch) -> None:
    now = 0.0
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: now))
    callback = LivePictures()
    drawn: list[float] = []

    def draw(self, *given: Any) -> None:
        nonlocal now
        drawn.append(now)
        now += 1.5  # seconds

    monkeypatch.setattr(LivePictures, "_draw", draw)
    trainer = SimpleNamespace(
        state=SimpleNamespace(fn="fit"), sanity_checking=False, is_global_zero=True,
        loggers=[Shown()], datamodule=None, global_step=5,
        strategy=SimpleNamespace(restore_checkpoint_after_setup=False),
    )  # fmt: skip
    callback.on_train_start(trainer, None)
    while now < 1000:
        callback.on_validation_batch_end(trainer, None, None, None, 0)
        callback.on_validation_batch_end(trainer, None, None, None, 1)  # of the same validation
        now += 2
    assert drawn[0] < 30
    assert 1.5 * len(drawn) <= live.SHARE * now + 1.5
    assert 1.5 * len(drawn) >= live.SHARE * now * 0.8

    # Where processes split the weights, one alone cannot answer.
    trainer.strategy.restore_checkpoint_after_setup = True
    callback, before = LivePictures(1), len(drawn)
    callback.on_validation_batch_end(trainer, None, None, None, 0)
    assert len(drawn) == before


@pytest.mark.parametrize("every", [-1, 1.5])
def test_how_often_to_draw_is_a_whole_number(every) -> None:
    expected = f"pictures_every must be a whole number of at least 0; got {every}"
    with pytest.raises(ValueError, match=expected):
        LivePictures(every)
