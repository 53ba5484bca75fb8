"""The command line: what a run leaves behind, checkpoints that stand alone, errors in one line."""

import builtins
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pytorch_lightning import Callback
from torch import nn

import memnets
from memnets.app import listing, scoreboard, sweep, translate, view
from memnets.app.cli import main
from memnets.app.commands import COMMANDS, OPTIONS
from memnets.app.help import WholeHelp
from memnets.app.run import CLI
from memnets.core import Controller
from memnets.files import only_writer
from memnets.models import MemoryMachine
from memnets.training.runs import load_checkpoint
from memnets.viewing import plots
from tasks import Copying

pytestmark = pytest.mark.usefixtures("elsewhere", "blanks")
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
    weights = memnets.load(str(last)).parameters()
    assert metrics["train/parameters"] == sum(part.numel() for part in weights)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_answers_in_16_bits_are_written(precision: str) -> None:
    main(["fit", *SMALL, f"--trainer.precision={precision}"])
    main(["predict", f"--ckpt_path={RUN}"])
    with np.load(RUN / "predictions.npz") as arrays:  # NumPy has no bfloat16
        assert set(np.unique(arrays["length_6/answers"])) <= {0.0, 1.0}


def test_checkpoints_of_ones_own_beside_them() -> None:
    main(
        ["fit", *SMALL, "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_top_k=-1"]
    )
    assert {"best.ckpt", "last.ckpt"} <= {path.name for path in (RUN / "checkpoints").iterdir()}


@pytest.mark.pictures
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
    assert "test/length_5/bits" in json.loads((RUN / "tests/0/metrics.json").read_text())
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]


def test_a_test_with_other_settings_leaves_the_results_of_the_run(capsys) -> None:
    main(["fit", *SMALL, "--model.optimizer.lr=0"])  # best.ckpt is of the first validation
    results = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}

    def kept() -> bool:
        return all(path.read_bytes() == content for path, content in results.items())

    def tests() -> list[str]:
        return sorted(path.name for path in (RUN / "tests").glob("*"))

    best, last = (str(RUN / "checkpoints" / f"{name}.ckpt") for name in ("best", "last"))
    # Where and how fast it runs is no other test.
    more = ["--threads=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    main(["test", "--ckpt_path", best, *more, "--trainer.max_steps=9", "--data.workers=0"])
    assert not tests()
    assert kept()
    others = [
        (best, ["--data.test_sets=[[5, 2]]"], "data.test_sets"),
        (best, ["--model.access.slots=12"], "model.access.slots"),
        (best, ["--seed_everything=3"], "seed_everything"),
        (best, ["--trainer.limit_test_batches=1"], "trainer.limit_test_batches"),
        (best, ["--trainer.callbacks+=pytorch_lightning.callbacks.Timer"], "trainer.callbacks"),
        (last, [], "the checkpoint, last.ckpt"),
    ]
    for number, (checkpoint, flags, what) in enumerate(others):
        for _ in range(1 + (number == 0)):  # the same once more has the same place
            capsys.readouterr()
            main(["test", "--ckpt_path", checkpoint, *flags])
            out = capsys.readouterr().out
            assert f"Not as in the run: {what}; " in out
            assert f"Everything is in {RUN.resolve()}/tests/{number}\n" in out.replace("\n/", "/")
            assert tests() == [str(each) for each in range(number + 1)]
            assert kept(), what
        changed = json.loads((RUN / f"tests/{number}/changed.json").read_text())
        assert changed["checkpoint"] == Path(checkpoint).name
        assert list(changed["changed"]) == ([what] if flags else [])
        assert any((RUN / f"tests/{number}/pictures").iterdir())
        assert json.loads((RUN / f"tests/{number}/metrics.json").read_text())
    slots = json.loads((RUN / "tests/1/changed.json").read_text())
    assert slots["changed"] == {"model.access.slots": [10, 12]}
    main(["predict", "--ckpt_path", best, "--model.access.slots=12"])
    assert (RUN / "tests/1/predictions.npz").is_file()
    assert not (RUN / "predictions.npz").exists()
    # A test that fails leaves nothing.
    fails(capsys, "test", "--ckpt_path", best, "--model.access.slots=13", "--trainer.strategy=none")
    assert len(tests()) == len(others)
    assert kept()


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
        (["--data.widht=3"], "data: Option 'widht' is not accepted; Copying takes width, "),
        (["--data.max_lenght=3"], "; Copying takes max_length, min_length, "),
        (
            ["--model.access.slotz=3"],
            "model.access: Option 'slotz' is not accepted; NTM takes slots,",
        ),
        (["--model.optimizer.lrr=3"], "'lrr' is not accepted; Adam takes lr, "),
        (
            ["--trainer.callbacks=memnets.training.MemorySchedule", "--trainer.callbacks.train=3"],
            "'train' is not accepted; MemorySchedule takes training, testing, validation",
        ),
        (["--modle.access=NTM"], "did you mean --model.access?"),
        (["--max_steps=5"], "did you mean --trainer.max_steps?"),
        (["--trainer.max_step=5"], "--trainer.max_step=5; did you mean --trainer.max_steps?"),
        (["--trainer.max_step", "5"], "did you mean --trainer.max_steps?"),
        (["--model.access.slot=5"], "NTM takes slots"),
        (["--data.max_len=5"], "Copying takes max_length"),
        (["--seed=5"], "did you mean --seed_everything?"),
        (["--model.acces.slots=50"], "--acces.slots=50; MemoryMachine takes access, "),
        (["--model.controller=memnets.cell.GRU"], "no attribute 'cell'; it has Cell, cells, "),
        (["--ckpt_path=."], "expected a checkpoint in ., checkpoints/best.ckpt or checkpoints/l"),
        (["--data=nowhere.Mine"], "'nowhere'; modules are looked for in this folder and on PYTHON"),
        (
            ["--model.controller=LSTMM"],
            "path of a class, memnets.cells.LSTM for one; got LST",
        ),
        (["--model.controller=memnets.cells.GRUU"], "no attribute 'GRUU'; it has GRU, "),
        (["--model.access=memnets.cells.GRU"], "a subclass of MemoryAccess; got memnets.cells.GRU"),
        (
            ["--model.controller=torch.nn.Linear"],
            "model.controller: expected a subclass of Cell; got torch.nn.Linear",
        ),
        (
            ["--model.access.score=memnets.core.Score"],
            "expected a class with all its methods; got memnets.core.Score, which must d",
        ),
        (["--model.body=memnets.cells.LSTM"], "; MemoryMachine takes clock, "),
        (["--data=tasks.CopyingTokens"], "tokens need the objective Tokens"),
        (["--data.min_length=-1"], "1 <= min_length <= max_length; got -1 and 4"),
        (["--model.access.slots=2"], "slots must be at least shift_range = 3; got 2"),
        (["--model.access.shift_range=4"], "shift_range must be odd"),
        (["--model.access.read_heads=0"], "read_heads must be a whole number of at least 1; got 0"),
        (["--model.controller=nowhere.Missing"], "No module named 'nowhere'"),
        (["--model.controller=memnets.cells.Missing"], "Missing"),
        (["--model.schedule=steep"], "steep"),
        (["--model.optimizer.lr=nan"], "model.optimizer.lr: expected a number; got nan"),
        (["--model.optimizer.lr=.nan"], "Invalid learning rate: nan"),
        (["--trainer.max_steps=ten"], "trainer.max_steps: expected a whole number; got ten"),
        (["--trainer.gradient_clip_val=x"], "gradient_clip_val: expected a number; got x"),
        (["--threads=0"], "threads must be a whole number of at least 1; got 0"),
        (["--threads=1000000"], "threads must be at most 256; got 1000000"),
        (["--data.workers=1000000"], "workers must be at most 1024 and seed below 2^64; got 10000"),
        (["--data.test_sets=5"], "data.test_sets: expected a list; got 5"),
        (["--name=../../x"], "name must be <task>/<model>"),
        (["--name=/x/y"], "name must be <task>/<model>"),
        (["--name="], "name must be <task>/<model>"),
        (["--name=a\nb/c"], "name must be <task>/<model>"),
        (["--name=a/\x1b[1mb"], "name must be <task>/<model>"),
        (["--name=" + "a" * 101], "name must be <task>/<model>"),
        (["--config=missing.yaml"], "missing.yaml"),
        (["--config=/dev/zero"], "it is not a plain file but a device"),
        (["--ckpt_path=missing.ckpt"], "expected a checkpoint at missing.ckpt; there is no such"),
        (["--ckpt_path=last"], "expected a run to resume"),
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
    message = fails(capsys, "fit", *SMALL, *flags)
    assert expected in message
    assert len(message) < 300
    assert files() == []


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("{}", "are required: data, model; start from a config: memnets fit --config copying/ntm"),
        ("modle: {class_path: memnets.models.MemoryMachine}", "accepted; did you mean model?"),
        (
            "model: {class_path: memnets.models.MemoryMachine, init_arg: {access: null}}",
            "model: expected class_path and init_args; got init_arg",
        ),
        ("data: {width: 3, seed: 1}", "data: expected class_path and init_args; got width, seed"),
    ],
)
def test_a_key_of_a_config_that_is_none_is_named(capsys, config, expected) -> None:
    Path("mine.yaml").write_text(config)
    assert fails(capsys, "fit", "--config=mine.yaml").endswith(expected)


@pytest.mark.parametrize("flag", ["--runs=taken", "--name=taken/ntm", "--name=x/taken"])
def test_a_file_where_a_folder_of_runs_should_be_is_one_line(capsys, flag) -> None:
    for taken in (Path("taken"), Path("runs/taken"), Path("runs/x/taken")):
        taken.parent.mkdir(parents=True, exist_ok=True)
        taken.write_text("mine")
    before = files()
    message = fails(capsys, "fit", *SMALL, flag)
    assert "expected a folder for runs at " in message
    assert "taken; it is a file" in message
    assert files() == before


@pytest.mark.parametrize("command", ["configs", "doctor"])
def test_a_word_too_many_is_one_line(capsys, command) -> None:
    assert f"memnets {command} takes no arguments; got now" in fails(capsys, command, "now")


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


@pytest.mark.pictures
def test_pictures_are_drawn_in_the_precision_of_the_model() -> None:
    path = Path(__file__).parent.parent / "configs" / "fewshot" / "sinusoids_snail.yaml"
    short = ["--trainer.max_steps=1", "--data.test_episodes=2", "--data.epoch_batches=1"]
    main(["fit", f"--config={path}", *short, "--trainer.precision=bf16-true"])
    pictures = Path("runs/fewshot/sinusoids_snail/version_0/pictures")
    assert (pictures / "shot_5_curves.png").is_file()


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("accumulate_grad_batches=0", "accumulate_grad_batches must be at least 1; got 0"),
        ("accumulate_grad_batches=-2", "accumulate_grad_batches must be at least 1; got -2"),
        ("val_check_interval=0", "val_check_interval must be more than 0; got 0"),
        ("check_val_every_n_epoch=0", "check_val_every_n_epoch must be at least 1; got 0"),
        ("max_time=11:30", "DD:HH:MM:SS, such as 00:11:30:00; got 11:30"),
        ("barebones=true", "barebones leaves out the log"),
        ("accelerator=tpu", "torch_xla"),
        ("devices=0", "devices='0'"),
        ("precision=17", "precision"),
        ("strategy=nonsense", "nonsense"),
        ("max_steps=-5", "max_steps"),
    ],
)
def test_settings_of_the_trainer_that_make_no_sense_are_one_line(capsys, flag, expected) -> None:
    assert expected in fails(capsys, "fit", *SMALL, f"--trainer.{flag}")
    assert files() == []


@pytest.mark.parametrize(
    "flags",
    [
        ["log_every_n_steps=0", "limit_test_batches=0", "logger=false"],
        ["limit_val_batches=0", "enable_checkpointing=false", "inference_mode=false"],
        ["callbacks=RichProgressBar", "limit_train_batches=1", "detect_anomaly=true"],
        ["callbacks=RichProgressBar", "enable_progress_bar=true", "fast_dev_run=2"],
    ],
)
@pytest.mark.filterwarnings("ignore")  # Lightning's, of what it was asked for
def test_usual_switches_of_the_trainer_work(flags) -> None:
    main(["fit", *SMALL, *(f"--trainer.{flag}" for flag in flags)])


@pytest.mark.parametrize(("few", "expected"), [("1", [0, 0, 0, 0]), ("0.5", [0, 1, 0, 1])])
def test_overfitting_sees_the_same_batches_in_each_epoch(monkeypatch, few, expected) -> None:
    made = []
    batch = Copying.batch

    def watched(self, split, index):
        if split == "train":
            made.append(index)
        return batch(self, split, index)

    monkeypatch.setattr(Copying, "batch", watched)
    flags = [
        "--trainer.limit_test_batches=0",
        "--data.epoch_batches=4",
        "--data.validation_batches=2",
    ]
    main(["fit", *SMALL, *flags, f"--trainer.overfit_batches={few}"])
    # One batch is fetched ahead, to know which is the last.
    assert [index for index in made if index < 2][:4] == expected


def test_a_seed_of_chance_is_that_of_weights_and_data(capsys, monkeypatch) -> None:
    seeds = set()
    batch = Copying.batch

    def watched(self, split, index):
        seeds.add(self.seed)
        return batch(self, split, index)

    monkeypatch.setattr(Copying, "batch", watched)
    main(["fit", *SMALL, "--seed_everything=true", "--trainer.limit_test_batches=0"])
    (seed,) = seeds
    assert yaml.safe_load((RUN / "config.yaml").read_text())["seed_everything"] == seed
    assert f"The seed is {seed}" in capsys.readouterr().out
    assert "must be in [0, 2^32)" in fails(capsys, "fit", *SMALL, "--seed_everything=-1")


class Failing(Callback):
    """Raise something, or send a signal, at a hook.

    Args:
        hook: its name.
        what: name of an exception or of a signal.
    """

    def __init__(self, hook: str, what: str) -> None:
        self.what = what
        setattr(self, hook, self.fail)

    def fail(self, trainer, *args, **kwargs) -> None:
        if self.what.startswith("SIG"):
            signal.raise_signal(signal.Signals[self.what])
        else:
            raise getattr(builtins, self.what)


def failing(hook: str, what: str) -> list[str]:
    callback = {"class_path": "tests.test_cli.Failing", "init_args": {"hook": hook, "what": what}}
    return ["--trainer.callbacks", json.dumps([callback])]


@pytest.mark.parametrize("what", ["AssertionError", "KeyError", "ZeroDivisionError"])
@pytest.mark.parametrize("hook", ["setup", "on_train_batch_end", "on_test_start"])
def test_any_error_is_one_line_that_names_it_and_the_way_to_its_traceback(
    capsys, monkeypatch, hook, what
) -> None:
    assert f"{what} (MEMNETS_TRACEBACK=1" in fails(capsys, "fit", *SMALL, *failing(hook, what))
    monkeypatch.setenv("MEMNETS_TRACEBACK", "1")
    with pytest.raises(getattr(builtins, what)):
        main(["fit", *SMALL, *failing(hook, what)])


MINE = """
from memnets.cells import GRU
from memnets.models import MemoryMachine
from tasks.symbols import SymbolTask


class Wrong(SymbolTask):
    def question(self, random, length):
        return super().question(random, length)

    def answer(self, question):
        return [len(3)]


class Cell(GRU):
    def forward(self, inputs, state):
        return super().forward(inputs[..., 1:], state)


class Bounds(SymbolTask):
    def __init__(self, input_size=0, **settings):
        super().__init__(max_length=-1, **settings)


class Raises(MemoryMachine):
    def score(self, batch):
        return self.helped(batch)

    def helped(self, batch):
        raise KeyError("no such score")
"""


@pytest.mark.parametrize(
    ("flags", "function", "line", "expected"),
    [
        (["--data=mine.Wrong"], "Wrong.answer", "len(3)", "object of type 'int' has no len()"),
        (["--model.controller=mine.Cell"], "Cell.forward", "inputs[..., 1:]", "RuntimeError: "),
        (["--data=mine.Bounds"], "Bounds.__init__", "max_length=-1", "min_length and max_length"),
        (["--model=mine.Raises"], "Raises.helped", "raise KeyError", "KeyError: 'no such score'"),
    ],
)
def test_an_error_in_a_part_of_ones_own_names_its_place(
    capsys, monkeypatch, flags, function, line, expected
) -> None:
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    Path("mine.py").write_text(MINE)
    number = 1 + MINE.splitlines().index(next(one for one in MINE.splitlines() if line in one))
    base = ["--config=symbols/lstm", "--trainer.callbacks=[]"] if "Wrong" in function else SMALL
    if "Bounds" in function:
        base = ["--config=symbols/lstm"]
    message = fails(capsys, "fit", *base, *flags, "--trainer.max_steps=2")
    assert message.startswith(f"memnets: error: mine.py:{number}, in {function}: {expected}")
    # A part of the library, with a wrong setting, has no place of one's own.
    message = fails(capsys, "fit", *SMALL, "--model.access.slots=2")
    assert message.startswith("memnets: error: slots must be at least shift_range")


IN_WORKER = """
from tasks import Copying


class Odd(Exception):
    def __init__(self, one, other):
        super().__init__(one + other)


def helped(split):
    raise KeyError(split)


class Typed(Copying):
    def batch(self, split, index):
        return [len(each) for each in (3,)]


class Key(Copying):
    def batch(self, split, index):
        return helped(split)


class Own(Copying):
    class Inner:
        def made(self):
            raise Odd("too odd, ", "really")

    def batch(self, split, index):
        return self.Inner().made()


class Chained(Copying):
    def batch(self, split, index):
        try:
            return helped(split)
        except KeyError as error:
            raise ValueError("no batch:\\n  for this") from error


class Missing(Copying):
    def batch(self, split, index):
        open("nothing/there")
"""


@pytest.mark.parametrize("name", ["Typed", "Key", "Own", "Chained", "Missing"])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core
def test_an_error_in_a_process_that_makes_batches_reads_as_without_one(
    capsys, monkeypatch, name
) -> None:
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    Path("mine.py").write_text(IN_WORKER)
    flags = ["--config=copying/lstm", f"--data=mine.{name}", "--trainer.max_steps=2"]
    flags += ["--trainer.callbacks=[]", "--name=mine/lstm"]
    here = fails(capsys, "fit", *flags, "--data.workers=0")
    assert here.startswith("memnets: error: mine.py:")
    assert fails(capsys, "fit", *flags, "--data.workers=1") == here


@pytest.mark.parametrize(("what", "code"), [("SIGINT", 130), ("SIGTERM", 75)])
@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        ("setup", "stopped before the first step; nothing is left"),
        (
            "on_train_batch_end",
            "stopped at step 1; the run is in {run}; to go on: {again}",
        ),
        ("on_train_epoch_end", "stopped at step 2; the run is in {run}; to go on: {again}"),
        ("on_test_batch_end", "stopped at step 4; the run is in {run}; to go on: {again}"),
    ],
)
def test_a_signal_ends_a_run_with_the_way_to_go_on(capsys, what, code, hook, expected) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SystemExit) as stop:
        main(["fit", *SMALL, *failing(hook, what)])
    assert stop.value.code == code
    again = f"memnets fit --ckpt_path {RUN / 'checkpoints' / 'last.ckpt'}"
    said = capsys.readouterr().err
    assert said == "memnets: " + expected.format(run=RUN, again=again) + "\n"
    assert RUN.exists() == ("nothing is left" not in said)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_commands_without_what_they_need_say_so(capsys) -> None:
    assert "start from a config: memnets fit --config" in fails(capsys, "fit")
    assert "memnets test needs --ckpt_path=<run>" in fails(capsys, "test")
    assert "memnets translate needs --checkpoint=<run>" in fails(capsys, "translate")
    for flags in (["--model.access.help", "NTM"], ["--model.access.help=NTM"]):
        expected = "memnets fit --config copying/ntm --model.access.help NTM"
        assert expected in fails(capsys, "fit", *flags)
    expected = "copying/ntm --data.max_length 3"
    assert expected in fails(capsys, "fit", "--data.max_length=3")
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
        assert "of another model: expected body.controller.lstm.weight_ih_l0" in message
        assert "[36, 29]; got [32, 29]" in message
    assert files() == before
    assert checkpoint.read_bytes() == whole


#: Where a checkpoint is damaged, what stands there, and what the error says.
DAMAGE = [
    ("state_dict", [], "it is damaged: state_dict must be tensors by their names"),
    ("state_dict.body.controller.linear", "no tensor", "state_dict must be tensors"),
    ("state_dict.more", torch.ones(1), "is a checkpoint of another model"),
    ("optimizer_states", {}, "optimizer_states must be a list"),
    ("optimizer_states", [3], "optimizer_states must be a list"),
    ("optimizer_states", [], "has no state of an optimizer"),
    ("optimizer_states.0.state", [], "optimizer_states must be a list"),
    (
        "optimizer_states.0.state.0",
        {"step": torch.ones(())},
        "Adam cannot use the state of its optimizer",
    ),
    ("optimizer_states.0.state.0.exp_avg", "none", "Adam cannot use the state"),
    ("optimizer_states.0.state.0.exp_avg", torch.ones(2, 9), "Adam cannot use the state"),
    ("optimizer_states.0.param_groups", [], "Adam cannot use the state"),
    ("optimizer_states.0.param_groups.0", {"params": 1}, "Adam cannot use the state"),
    ("lr_schedulers", 3, "lr_schedulers must be a list"),
    ("callbacks", [], "callbacks must be states of callbacks"),
    ("callbacks.mine", {"best_k_models": {"x/../../y": 1.0}}, "no way out of a folder"),
    ("callbacks.mine", {"last_model_path": "/x/../y"}, "no way out of a folder"),
    ("loops", [], "loops must be states of loops"),
    ("generators", {}, "generators must be states"),
    ("global_step", "many", "global_step must be a whole number"),
    ("config", 3, "holds no config"),
    ("config", "[" * 10_000, "the config in damaged.ckpt is damaged"),
    ("config", "a: &a [*a]", "the config in damaged.ckpt is damaged"),
]


def test_a_checkpoint_with_a_damaged_part_is_one_line(capsys) -> None:
    main(["fit", *SMALL])
    before = [*files(), "damaged.ckpt"]
    for where, value, expected in DAMAGE:
        checkpoint = load_checkpoint(RUN / "checkpoints" / "last.ckpt")
        part, (*outer, last) = checkpoint, where.split(".", 1 if "state_dict" in where else -1)
        for name in outer:
            part = part[int(name) if name.isdigit() else name]
        part[int(last) if last.isdigit() else last] = value
        torch.save(checkpoint, "damaged.ckpt")
        message = fails(capsys, "fit", "--ckpt_path=damaged.ckpt", "--trainer.max_steps=6")
        assert expected in message, where
        assert files() == sorted(before)


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

    # With other settings it is another run; what the first one left stays.
    before = contents()
    del before["runs/index.html"]  # it lists both
    main(["fit", *SMALL, "--trainer.max_steps=6", "--ckpt_path=last"])
    out = capsys.readouterr().out
    said = [line for line in out.splitlines() if "Changed" in line]
    assert [line.partition(": ")[2] for line in said] == [
        "model.optimizer.lr 0.01 -> 0.005",
        "data.batch_size 3 -> 4",
        "trainer.max_steps 4 -> 6",
    ]
    other = RUN.with_name("version_1")
    assert f"Going on from step 4 of {last}" in out
    assert f"What comes now is in {other}" in out
    assert before.items() <= contents().items()
    settings = [
        load_checkpoint(folder / "checkpoints" / "last.ckpt")["optimizer_states"][0]
        for folder in (RUN, other)
    ]
    assert [setting["param_groups"][0]["initial_lr"] for setting in settings] == [0.01, 0.005]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device of the file must be missing")
def test_what_was_trained_on_a_gpu_goes_on_and_is_tested_without_one(monkeypatch) -> None:
    main(["fit", *SMALL, "--trainer.max_steps=2"])
    folder = RUN / "checkpoints"
    for name in ("best", "last"):
        checkpoint = load_checkpoint(folder / f"{name}.ckpt")
        with monkeypatch.context() as patch:  # as if its tensors lay on a GPU
            patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
            torch.save(checkpoint, folder / f"{name}.ckpt")
        with pytest.raises(RuntimeError, match="on a CUDA device"):
            torch.load(folder / f"{name}.ckpt", weights_only=True)
    main(["fit", "--ckpt_path", str(folder / "last.ckpt"), "--trainer.max_steps=4"])
    assert load_checkpoint(folder / "last.ckpt")["global_step"] == 4
    main(["test", "--ckpt_path", str(folder / "best.ckpt")])


def test_settings_as_text_may_be_longer_than_a_path() -> None:
    step = "{class_path: pytorch_lightning.callbacks.Timer, init_args: {duration: '00:00:01:00'}}"
    few = f"--trainer.callbacks=[{step}{' ' * 300}]"
    task = f"--data={{class_path: tasks.Copying, init_args: {{min_length: 1}}}} #{' ' * 300}"
    assert min(len(few), len(task)) > 300
    main(["fit", *SMALL, "--trainer.max_steps=1", few])
    main(["fit", *SMALL, "--trainer.max_steps=1", task])


def test_the_rate_that_is_asked_for_goes_by_the_schedule() -> None:
    rise = ["--model.warmup_steps=9", "--trainer.max_steps=6"]
    main(["fit", *SMALL, *rise])
    last = RUN / "checkpoints" / "last.ckpt"
    rate = ["--model.optimizer.lr=2.0", "--trainer.max_steps=7"]
    main(["fit", "--ckpt_path", str(last), *rate])
    went_on = RUN.with_name("version_1") / "checkpoints" / "last.ckpt"
    (group,) = load_checkpoint(went_on)["optimizer_states"][0]["param_groups"]
    assert group["lr"] == pytest.approx(2.0 * 8 / 10)


def contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_a_finished_run_is_left_as_it_is_and_says_so(capsys) -> None:
    main(["fit", *SMALL])
    before = contents()
    for again in (
        ["--ckpt_path", str(RUN / "checkpoints" / "last.ckpt")],
        [*SMALL, "--ckpt_path=last"],
    ):
        capsys.readouterr()
        main(["fit", *again])
        assert "finished: it is at step 4, and trainer.max_steps is 4" in capsys.readouterr().out
        assert contents() == before
    main(["fit", "--ckpt_path", str(RUN / "checkpoints" / "best.ckpt"), "--trainer.max_steps=1"])
    out = capsys.readouterr().out
    assert "Nothing was left to train" in out
    assert "Trained on" not in out
    assert before.items() <= contents().items()


def test_another_class_of_optimizer_cannot_go_on_and_changes_nothing(capsys) -> None:
    main(["fit", *SMALL])
    before = contents()
    asked = ["--trainer.max_steps=6", "--model.optimizer=SGD", "--model.optimizer.lr=0.1"]
    last = str(RUN / "checkpoints" / "last.ckpt")
    for again in (["--ckpt_path", last], [*SMALL, "--ckpt_path=last"]):
        message = fails(capsys, "fit", *again, *asked)
        assert "with which torch.optim.SGD cannot go on" in message
        assert f"--init_from={last}" in message
    assert contents() == before


@pytest.mark.parametrize("monitor", ["null", "val/wrong_bits"])
def test_the_best_checkpoint_is_tested_whatever_others_are_saved(monitor) -> None:
    own = [
        "--trainer.callbacks+=ModelCheckpoint",
        "--trainer.callbacks.filename=own",
        f"--trainer.callbacks.monitor={monitor}",
        "--trainer.callbacks.mode=max",
    ]
    main(["fit", *SMALL, *own, "--model.optimizer.lr=1.0", "--trainer.max_steps=6"])
    after_training = json.loads((RUN / "metrics.json").read_text())
    main(["test", "--ckpt_path", str(RUN / "checkpoints" / "best.ckpt")])
    assert json.loads((RUN / "metrics.json").read_text()) == after_training


def test_the_last_weights_are_tested_on_request() -> None:
    # The loss rises, so that the first validation is the best one.
    rising = ["--model.optimizer.maximize=true", "--model.optimizer.lr=0.1"]
    main(["fit", *SMALL, *rising, "--data.test_sets=[[4, 3]]", "--test_weights=last"])
    scores = (RUN / "metrics.json").read_text()
    best, last = (RUN / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    assert [load_checkpoint(path)["global_step"] for path in (best, last)] == [2, 4]
    main(["test", "--ckpt_path", str(last)])
    assert (RUN / "metrics.json").read_text() == scores


def test_a_training_begins_with_the_weights_of_another(capsys) -> None:
    main(["fit", *SMALL])
    best = RUN / "checkpoints" / "best.ckpt"
    still = ["--model.optimizer=SGD", "--model.optimizer.lr=0.0"]
    capsys.readouterr()
    main(["fit", "--init_from", str(best), *still])
    out = capsys.readouterr().out
    assert f"weights are from {best}: " in out
    assert "Trained on 16 sequences" in out
    begun = RUN.with_name("version_1")
    theirs = load_checkpoint(best)["state_dict"]
    ours = load_checkpoint(begun / "checkpoints" / "last.ckpt")
    assert ours["global_step"] == 4
    assert all(torch.equal(ours["state_dict"][name], theirs[name]) for name in theirs)
    # What does not fit is new, and said to be.
    main(["fit", *SMALL, f"--init_from={best}", "--model.access.width=7"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "weights are from" in line]
    taken, _, new = line.partition("; new: ")
    assert "controller.lstm.weight_hh_l0" in taken
    assert "controller.lstm.weight_ih_l0" in new
    assert "expected a checkpoint at missing" in fails(
        capsys, "fit", *SMALL, "--init_from=missing.ckpt"
    )


def test_a_folder_in_which_another_process_trains_is_left_alone(capsys) -> None:
    def times() -> dict[Path, int]:
        """When each file was changed, but for the lock, whose holder touches it."""
        files = (path for path in RUN.rglob("*") if path.name != ".lock")
        return {path: path.stat().st_mtime_ns for path in files}

    main(["fit", *SMALL])
    part = RUN / ".metrics.json.1.part"
    part.touch()
    with only_writer(RUN):
        before = times()
        message = fails(capsys, "fit", *SMALL, "--ckpt_path=last", "--trainer.max_steps=6")
        assert f"another training writes to {RUN.resolve()}: process {os.getpid()} on " in message
        assert "; wait for it, or stop it" in message
        assert times() == before
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
        (["--help"], "memnets fit --config copying/ntm"),
        (["fit", "--help"], "--model.optimizer.lr 0.001"),
        (["test", "--help"], "Score a checkpoint on the test sets"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code in (0, None)
        assert expected in capsys.readouterr().out


class Parsed(CLI):
    """A command that is parsed and not run."""

    def instantiate_classes(self) -> None: ...


@pytest.mark.parametrize("command", [name for name in COMMANDS if OPTIONS[name] != ("help",)])
def test_the_options_that_are_checked_early_are_those_of_the_parser(command) -> None:
    with ExitStack() as held:
        parser = {
            "translate": translate.parser,
            "scoreboard": scoreboard.parser,
            "sweep": sweep.parser,
            "runs": listing.parser,
            "view": view.parser,
        }.get(command, lambda: Parsed(command, SMALL, held).parser)()
    help_of = io.StringIO()
    parser.formatter_class = WholeHelp
    parser.print_help(help_of)
    shown = re.findall(r"^  (?:-\w(?: [A-Z]+)?, )?(--.*)", help_of.getvalue(), re.MULTILINE)
    names = {name for line in shown for name in re.findall(r"--(\w+)", line)}
    assert set(OPTIONS[command]) == names


def test_the_help_of_a_command_says_first_what_matters(capsys) -> None:
    shown = {}
    for flag in ("--help", "--help_all"):
        with pytest.raises(SystemExit) as stop:
            main(["fit", flag])
        assert stop.value.code in (0, None)
        shown[flag] = capsys.readouterr().out
    # In a process of its own, for it names the classes that are there, also those of tests.
    command = [sys.executable, "-m", "memnets", "fit", "--help"]
    alone = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert len(alone.splitlines()) < 130
    lines = shown["--help"].splitlines()
    starts = [next(i for i, line in enumerate(lines) if part in line) for part in (
        "--config NAME", "The model:", "The task:", "--help_all shows the other switches",
        "--trainer.max_steps MAX_STEPS",
    )]  # fmt: skip
    assert starts == sorted(starts)
    rare = "--trainer.detect_anomaly"
    assert rare not in shown["--help"]
    assert rare in shown["--help_all"]
    main(["fit", *SMALL, "--trainer.detect_anomaly=true", "--trainer.fast_dev_run=1"])


def test_the_bar_shows_the_scores_and_ends_before_the_report(capsys, monkeypatch) -> None:
    titles = []
    draw = plots.weights

    def watched(panels, path, title="", split=0, vectors=None):
        titles.append(title)
        assert path.suffix == ".svg"
        assert list(vectors) == ["input", "written to the memory", "output (probability of 1)"]
        return draw(panels, path, title, split, vectors)

    monkeypatch.setattr(plots, "weights", watched)
    monkeypatch.setenv("COLUMNS", "80")
    main(["fit", *SMALL, "--trainer.enable_progress_bar=true", "--pictures_format=svg"])
    out = capsys.readouterr().out
    assert "v_num" not in out
    shown = [line for line in out.replace("\r", "\n").splitlines() if "Epoch" in line]
    assert re.search(r"loss=\S+, bits=\S+, wrong_bits=\S+, exact=\S", shown[-1]), shown[-1]
    assert out.rstrip().splitlines()[-1] == f"Everything is in {RUN}"
    assert not list(RUN.rglob("hparams.yaml"))
    assert list(RUN.glob("events.out.tfevents*"))
    assert titles == [
        "test set length 4: where in the memory each head was",
        "test set length 6: where in the memory each head was",
    ]


def test_answers_that_do_not_end_are_counted_in_a_test(capsys) -> None:
    config = CONFIGS / "copying" / "transformer.yaml"
    positions = "--model.positions=memnets.cells.LearnedPositions"
    flags = [
        *("--trainer.max_steps=1", "--data.epoch_batches=1", "--data.validation_batches=1"),
        *("--data.batch_size=2", "--data.validation_batch_size=2", "--data.test_sequences=5"),
        *("--data.max_length=6", "--data.test_sets=[]", "--model.width=8", "--model.heads=2"),
        *(positions, "--model.positions.width=8", "--model.positions.max_length=8"),
        "--model.objective.beam=2",
    ]
    main(["fit", "--config", str(config), *flags])
    out = capsys.readouterr().out
    for way in ("", ", beam"):
        found = re.search(rf"^test{way}: (\d) of 5 answers cut at their greatest len", out, re.M)
        assert found, out
    assert (Path("runs/copying/transformer/version_0") / "pictures").is_dir()


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
    weight = checkpoint["state_dict"]["body.controller.cells.1.gru.weight_ih_l0"]
    assert weight.shape == (9, 5)
