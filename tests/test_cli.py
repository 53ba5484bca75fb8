"""The command line: what a run leaves behind, checkpoints that stand alone, errors in one line."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from memnets.app.cli import main
from memnets.core import Controller
from memnets.files import only_writer
from memnets.models import MemoryMachine
from memnets.training.runs import load_checkpoint

pytestmark = pytest.mark.usefixtures("elsewhere")
CONFIGS = Path(__file__).parent.parent / "configs"
SMALL = [
    "--config", str(CONFIGS / "copying" / "ntm.yaml"),
    "--model.controller.hidden_size=8",
    "--model.access.slots=10",
    "--data.batch_size=4",
    "--data.max_length=4",
    "--data.epoch_batches=2",
    "--data.validation_batches=1",
    "--data.validation_batch_size=4",
    "--data.test_sets=[[4, 3], [6, 2]]",
    "--trainer.max_steps=4",
    "--trainer.callbacks=[]",
]  # fmt: skip
RUN = Path("runs/copying/ntm/version_0")


class Poisoned(Controller[None]):
    """A controller whose output, or its gradient alone, turns NaN at a given call in training."""

    def __init__(
        self, input_size: int, hidden_size: int = 4, calls: int = 30, gradient: bool = False
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.calls = input_size, hidden_size, calls
        self.gradient = gradient
        self.layer = nn.Linear(input_size, hidden_size)

    def initial_state(self, batch_size: int) -> None:
        return None

    def forward(self, inputs, state):
        self.calls -= self.training
        hidden = self.layer(inputs)
        if self.calls >= 0:
            return hidden, None
        # The root of 0 has an infinite gradient, and 0 times it is none.
        return hidden + (0 * hidden).sqrt() if self.gradient else hidden * float("nan"), None


def fails(capsys, *arguments: str) -> str:
    """The one line that a command ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("memnets: error: ")
    return lines[0]


def files() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*"))


def test_last_is_saved_after_each_validation_and_best_after_the_best() -> None:
    main(["fit", *SMALL, "--model.optimizer.lr=0"])  # nothing becomes better than it was at first
    steps = [
        load_checkpoint(RUN / "checkpoints" / f"{name}.ckpt")["global_step"]
        for name in ("best", "last")
    ]
    assert steps == [2, 4]


@pytest.mark.parametrize(("steps", "validated"), [(1, [0]), (4, [1, 3]), (5, [1, 3, 4])])
def test_the_last_step_is_validated_and_saved(steps: int, validated: list[int]) -> None:
    main(["fit", *SMALL, f"--trainer.max_steps={steps}"])
    with (RUN / "metrics.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file) if row["val/bits"]] == validated
    last = RUN / "checkpoints" / "last.ckpt"
    assert load_checkpoint(last)["global_step"] == steps
    assert "val/bits" in json.loads((RUN / "metrics.json").read_text())
    main(["fit", "--ckpt_path", str(last), "--trainer.max_steps=8"])
    metrics = json.loads((RUN / "metrics.json").read_text())
    assert metrics["train/steps"] == 8
    assert metrics["train/sequences"] == 32


def test_checkpoints_of_ones_own_beside_them() -> None:
    main(
        ["fit", *SMALL, "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_top_k=-1"]
    )
    assert {"best.ckpt", "last.ckpt"} <= {path.name for path in (RUN / "checkpoints").iterdir()}


def test_a_run_leaves_everything_behind_and_its_checkpoint_stands_alone(capsys) -> None:
    main(["fit", *SMALL])
    out = capsys.readouterr().out
    assert "Trained on 16 sequences" in out
    assert "length_6" in out
    for name in (
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "config.yaml",
        "metrics.csv",
        "metrics.json",
        "pictures/length_4_answer.png",
        "pictures/length_4_weights.png",
    ):
        assert (RUN / name).stat().st_size > 0, name
    assert list(RUN.glob("events.out.tfevents*"))
    metrics = json.loads((RUN / "metrics.json").read_text())
    assert all(isinstance(value, float) for value in metrics.values())
    assert {"test/length_6/wrong_bits", "test/length_6/exact", "train/seconds"} <= set(metrics)
    assert metrics["train/steps"] == 4
    assert "train/sequences_to_solve" not in metrics
    with (RUN / "metrics.csv").open(newline="") as file:
        assert any(row["val/bits"] for row in csv.DictReader(file))
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    assert config["model"]["init_args"]["controller"]["init_args"]["hidden_size"] == 8
    assert config["seed_everything"] == 0

    # With no config: the same scores again, and answers that agree with them.
    checkpoint = str(RUN / "checkpoints" / "best.ckpt")
    main(["validate", "--ckpt_path", checkpoint])
    assert "validation" in capsys.readouterr().out
    main(["test", f"--ckpt_path={checkpoint}"])
    again = json.loads((RUN / "metrics.json").read_text())
    assert again == metrics
    main(["predict", "--ckpt_path", checkpoint])
    with np.load(RUN / "predictions.npz") as arrays:
        wrong = (arrays["length_6/answers"] != arrays["length_6/targets"]).sum((1, 2)).mean()
        assert arrays["length_6/source"].shape == (2, 7, 9)
    assert wrong == pytest.approx(metrics["test/length_6/wrong_bits"])
    # A flag changes a part of what the checkpoint says.
    main(["test", "--ckpt_path", checkpoint, "--data.test_sets=[[5, 2]]"])
    assert "test/length_5/bits" in json.loads((RUN / "metrics.json").read_text())
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]


def test_averaged_weights_are_those_that_are_tested() -> None:
    averaging = "pytorch_lightning.callbacks.EMAWeightAveraging"
    main(["fit", *SMALL, f"--trainer.callbacks={averaging}", "--trainer.callbacks.decay=0.9"])
    after_training = json.loads((RUN / "metrics.json").read_text())
    main(["test", "--ckpt_path", str(RUN / "checkpoints" / "best.ckpt")])
    alone = json.loads((RUN / "metrics.json").read_text())
    scores = [name for name in alone if name.startswith("test/")]
    assert scores
    assert {name: alone[name] for name in scores} == {name: after_training[name] for name in scores}
    checkpoint = load_checkpoint(str(RUN / "checkpoints" / "best.ckpt"))
    averaged, current = checkpoint["state_dict"], checkpoint["current_model_state"]
    assert not all(torch.equal(averaged[name], current[name]) for name in averaged)


def test_the_solved_mark_and_the_slots_of_training(capsys) -> None:
    slots = []

    class Watched(MemoryMachine):
        def training_step(self, batch, index):
            slots.append((self.access.slots, self.access.noise))
            return super().training_step(batch, index)

    import memnets.models

    memnets.models.Watched = Watched  # type: ignore[attr-defined]
    Watched.__module__, Watched.__qualname__ = "memnets.models", "Watched"
    schedule = [
        {
            "class_path": "memnets.training.MemorySchedule",
            "init_args": {
                "training": {0.0: {"slots": 12}, 0.5: {"slots": 6, "noise": 0.5}},
                "testing": {"length_6": 20},
            },
        }
    ]
    Path("slots.yaml").write_text(
        yaml.safe_dump({"trainer": {"callbacks": schedule}, "model": {"class_path": "Watched"}})
    )
    try:
        small = [part for part in SMALL if part != "--trainer.callbacks=[]"]
        main(["fit", *small, "--config=slots.yaml"])
    finally:
        del memnets.models.Watched  # type: ignore[attr-defined]
    assert slots == [(12, 0.0), (12, 0.0), (6, 0.5), (6, 0.5)]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--data.widht=3"], "'widht' is not accepted"),
        (["--data.min_length=-1"], "1 <= min_length <= max_length; got -1 and 4"),
        (["--model.access.slots=2"], "slots must be at least shift_range = 3; got 2"),
        (["--model.access.shift_range=4"], "shift_range must be odd"),
        (["--model.access.read_heads=0"], "read_heads must be a whole number of at least 1; got 0"),
        (["--model.controller=nowhere.Missing"], "No module named 'nowhere'"),
        (["--model.controller=memnets.cells.Missing"], "Missing"),
        (["--model.schedule=steep"], "steep"),
        (["--threads=0"], "threads must be a whole number of at least 1; got 0"),
        (["--config=missing.yaml"], "missing.yaml"),
        (["--ckpt_path=missing.ckpt"], "expected a checkpoint at missing.ckpt; there is no such"),
        (["--ckpt_path=last"], "expected a run to go on with"),
        (
            [
                "--trainer.callbacks=memnets.training.MemorySchedule",
                "--trainer.callbacks.training={0.0: {slot: 10}}",
            ],
            "lacks slot; leave them out of its settings, or the callback out",
        ),
    ],
)
def test_bad_settings_are_one_line_and_leave_nothing(capsys, flags, expected) -> None:
    assert expected in fails(capsys, "fit", *SMALL, *flags)
    assert files() == []


@pytest.mark.parametrize(
    ("config", "objective", "expected"),
    [
        ("bandits_lstm", "Labels", "needs the objective Actions; got Labels"),
        ("lstm", "Actions", "the objective Actions needs a task with rewards"),
    ],
)
def test_a_task_that_does_not_fit_its_objective_is_refused_before_a_step(
    capsys, config, objective, expected
) -> None:
    path = Path(__file__).parent.parent / "configs" / "fewshot" / f"{config}.yaml"
    flags = [f"--model.objective=memnets.training.{objective}", "--trainer.max_steps=2"]
    assert expected in fails(capsys, "fit", f"--config={path}", *flags)
    assert not list(Path().glob("**/*.ckpt"))


def test_answers_of_a_bandit_are_written_with_what_they_bring() -> None:
    path = Path(__file__).parent.parent / "configs" / "fewshot" / "bandits_lstm.yaml"
    flags = ["--trainer.max_steps=1", "--data.pulls=6", "--data.test_episodes=5"]
    main(["fit", f"--config={path}", *flags])
    run = Path("runs/fewshot/bandits_lstm/version_0")
    main(["predict", f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}"])
    (path,) = Path().glob("**/predictions.npz")
    with np.load(path) as written:
        assert written["test/answers"].shape == (5, 6)
        assert written["test/rewards"].shape == (5, 6, 5)


def test_pictures_are_drawn_in_the_precision_of_the_model() -> None:
    path = Path(__file__).parent.parent / "configs" / "fewshot" / "sinusoids_snail.yaml"
    short = ["--trainer.max_steps=1", "--data.test_episodes=2", "--data.epoch_batches=1"]
    main(["fit", f"--config={path}", *short, "--trainer.precision=bf16-true"])
    pictures = Path("runs/fewshot/sinusoids_snail/version_0/pictures")
    assert (pictures / "shot_5_curves.png").is_file()


def test_commands_without_what_they_need_say_so(capsys) -> None:
    assert "start from a config: memnets fit --config" in fails(capsys, "fit")
    assert "memnets test needs --ckpt_path=<file>" in fails(capsys, "test")
    assert files() == []


def test_damaged_and_foreign_checkpoints_are_named_and_left_alone(capsys) -> None:
    main(["fit", *SMALL])
    checkpoint = RUN / "checkpoints" / "last.ckpt"
    whole = checkpoint.read_bytes()
    before = files()
    for name, content in {
        "empty.ckpt": b"",
        "cut.ckpt": whole[: len(whole) // 2],
        "text.ckpt": b"no checkpoint at all",
        "flipped.ckpt": whole[:100] + b"\0" * 400 + whole[500:],
    }.items():
        Path(name).write_bytes(content)
        for command in (["test"], ["predict"], ["fit", *SMALL]):
            message = fails(capsys, *command, "--ckpt_path", name)
            assert f"expected a checkpoint at {name}" in message
        Path(name).unlink()
    torch.save({"weights": torch.ones(2)}, "other.ckpt")
    assert "holds no state_dict" in fails(capsys, "test", "--ckpt_path=other.ckpt")
    torch.save({"state_dict": {}, "global_step": 0}, "bare.ckpt")
    assert "holds no config" in fails(capsys, "test", "--ckpt_path=bare.ckpt")
    Path("other.ckpt").unlink()
    Path("bare.ckpt").unlink()
    for name in ("best.ckpt", "last.ckpt"):
        path = f"--ckpt_path={checkpoint.with_name(name)}"
        message = fails(capsys, "fit", *SMALL, "--model.controller.hidden_size=9", path)
        assert "is a checkpoint of another model: expected controller.lstm.weight_ih_l0" in message
        assert "[36, 29]; got [32, 29]" in message
    assert files() == before
    assert checkpoint.read_bytes() == whole


def test_a_run_goes_on_with_its_own_settings_and_says_which_have_changed(capsys) -> None:
    own = ["--data.batch_size=3", "--model.optimizer.lr=0.01"]
    main(["fit", *SMALL, *own, "--trainer.max_steps=2"])
    last = RUN / "checkpoints" / "last.ckpt"
    assert "Changed" not in capsys.readouterr().out

    main(["fit", "--ckpt_path", str(last), "--trainer.max_steps=4"])
    assert "Changed since the run began: trainer.max_steps 2 -> 4" in capsys.readouterr().out
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    assert config["data"]["init_args"]["batch_size"] == 3
    assert json.loads((RUN / "metrics.json").read_text())["train/sequences"] == 12

    main(["fit", *SMALL, "--trainer.max_steps=6", "--ckpt_path=last"])
    said = [line for line in capsys.readouterr().out.splitlines() if "Changed" in line]
    assert [line.partition(": ")[2] for line in said] == [
        "trainer.max_steps 4 -> 6",
        "model.init_args.optimizer.init_args.lr 0.01 -> 0.005 (without effect)",
        "data.init_args.batch_size 3 -> 4",
    ]
    kept = load_checkpoint(last)["optimizer_states"][0]["param_groups"][0]
    assert kept["initial_lr"] == 0.01


def test_a_folder_in_which_another_process_trains_is_left_alone(capsys) -> None:
    main(["fit", *SMALL])
    part = RUN / ".metrics.json.1.part"
    part.touch()
    before = {path: path.stat().st_mtime_ns for path in RUN.rglob("*")}
    with only_writer(RUN):
        message = fails(capsys, "fit", *SMALL, "--ckpt_path=last", "--trainer.max_steps=6")
    assert f"another training writes to {RUN}; wait for it, or stop it" in message
    assert {path: path.stat().st_mtime_ns for path in RUN.rglob("*")} == before
    main(["fit", *SMALL, "--ckpt_path=last", "--trainer.max_steps=6"])
    assert not part.exists()


@pytest.mark.parametrize("what", ["the loss", "the norm of the gradient"])
def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(capsys, what) -> None:
    small = [part for part in SMALL if "hidden_size" not in part]
    flags = [
        "--model.controller=tests.test_cli.Poisoned",
        f"--model.controller.gradient={str('gradient' in what).lower()}",
        "--trainer.max_steps=200",
    ]
    message = fails(capsys, "fit", *small, *flags)
    assert f"{what} became nan at step" in message
    step = int(message.split("at step ")[1].split(";")[0])
    kept = load_checkpoint(RUN / "checkpoints" / "last.ckpt")
    assert 0 < kept["global_step"] <= step
    assert all(value.isfinite().all() for value in kept["state_dict"].values())
    assert (RUN / "config.yaml").is_file()


def test_help_names_the_commands_and_the_flags_one_needs(capsys) -> None:
    for arguments, expected in (
        (["--help"], "memnets fit --config configs/copying/ntm.yaml"),
        (["fit", "--help"], "--model.optimizer.lr 0.001"),
        (["test", "--help"], "Score a checkpoint on the test sets"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code in (0, None)
        assert expected in capsys.readouterr().out


def test_a_chain_of_controllers_is_given_in_the_config() -> None:
    parts = [
        {"class_path": f"memnets.cells.{name}", "init_args": {"hidden_size": size}}
        for name, size in (("FeedForward", 5), ("GRU", 3))
    ]
    chain = {"class_path": "memnets.cells.Chain", "init_args": {"controllers": parts}}
    config = yaml.safe_load((CONFIGS / "copying" / "dnc.yaml").read_text())
    config["model"]["init_args"]["controller"] = chain
    Path("chain.yaml").write_text(yaml.safe_dump(config))
    small = [flag for flag in SMALL[2:] if "hidden_size" not in flag and "callbacks" not in flag]
    main(["fit", "--config", "chain.yaml", *small])
    checkpoint = load_checkpoint(Path("runs/copying/dnc/version_0/checkpoints/last.ckpt"))
    weight = checkpoint["state_dict"]["controller.controllers.1.gru.weight_ih_l0"]
    assert weight.shape == (9, 5)
