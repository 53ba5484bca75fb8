"""Checkpoints: one reading for commands and for Python; a model that is saved and read again."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import memnets
from memnets.app.checkpoints import load, load_run, read
from memnets.app.cli import main
from memnets.app.commands import COMMANDS
from memnets.app.translator import Translator
from memnets.cells import LSTM
from memnets.files import NoPlainFile
from memnets.models import MemoryMachine, Model
from memnets.training.optimizers import fused
from memnets.training.runs import (
    FORMAT,
    CheckpointError,
    changes,
    check_optimizer_state,
    load_checkpoint,
)
from tests.images import png, written
from tests.test_cli import CONFIGS, RUN, SMALL, contents, fails
from tests.test_configs import small

pytestmark = pytest.mark.usefixtures("elsewhere", "blanks")


def answers(model: Model, batch) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(batch)


#: A config of each kind of model.
KINDS = [
    "copying/ntm",
    "copying/seq2seq",
    "copying/snail",
    "copying/transformer",
    "copying/causal",
    "convex_hull/pointer",
    "fewshot/lstm",
    "fewshot/prototypical",
    "fewshot/sinusoids_snail",
    "translation/luong",
]


@pytest.mark.parametrize("name", KINDS)
def test_a_model_of_any_kind_is_loaded_saved_and_loaded_again(name, tmp_path) -> None:
    path = CONFIGS / f"{name}.yaml"
    data = yaml.safe_load(path.read_text())["data"]
    short = ["--trainer.max_steps=1", "--data.epoch_batches=1", "--data.validation_batches=1"]
    short += ["--trainer.callbacks=[]", "--trainer.limit_test_batches=0"]
    main(["fit", "--config", str(path), *small(data, tmp_path), *short])
    (run,) = Path("runs").glob("*/*/version_0")
    model, task = load_run(run)
    assert not model.training
    saved = load_checkpoint(run / "checkpoints" / "best.ckpt")
    assert saved["format"] == FORMAT
    assert type(task).__qualname__ == data["class_path"].rpartition(".")[2]
    batch = task.batch("val", 0)
    expected = answers(model, batch)
    model.save("folder/mine.ckpt")
    for other in (load(run / "checkpoints"), load("folder/mine.ckpt"), memnets.load(run)):
        for one, theirs in other.state_dict().items():
            assert torch.equal(theirs, saved["state_dict"][one])
        assert torch.equal(answers(other, batch), expected)
    again, other_task = load_run("folder/mine.ckpt")
    assert torch.equal(answers(again, other_task.batch("val", 0)), expected)
    # The seed of the data is that of the run.
    assert torch.equal(other_task.batch("val", 0).source, batch.source)


def test_images_that_are_gone_are_told_in_one_line() -> None:
    written(Path("mine"), {f"{n}.png": png(20 * n, (8, 8)) for n in range(8)})
    short = ["--trainer.max_steps=1", "--data.epoch_batches=1", "--data.validation_batches=1"]
    short += ["--data.batch_size=2", "--trainer.limit_test_batches=0"]
    main(["fit", "--config", str(CONFIGS / "digits/gan.yaml"), "--data.path=mine", *short])
    shutil.rmtree("mine")
    run = "runs/digits/gan/version_0"
    assert load(run).draw(2).shape == (2, 8, 8, 1)
    with pytest.raises(CheckpointError) as caught:
        load_run(run)
    assert str(caught.value) == (
        f"{run}/checkpoints/best.ckpt cannot be used: expected a folder or a zip file at mine; "
        "there is none"
    )


def test_the_best_of_a_run_is_loaded_else_the_last() -> None:
    main(["fit", *SMALL])
    folder = RUN / "checkpoints"
    content = load_checkpoint(folder / "best.ckpt")
    content["state_dict"] = {name: value + 1 for name, value in content["state_dict"].items()}
    torch.save(content, folder / "best.ckpt")
    best, last = (load(folder / f"{name}.ckpt").state_dict() for name in ("best", "last"))
    assert not any(torch.equal(best[name], last[name]) for name in best)
    for expected in (best, last):
        for path in (RUN, folder, str(RUN)):
            state = load(path).state_dict()
            assert all(torch.equal(state[name], expected[name]) for name in expected)
        (folder / "best.ckpt").unlink(missing_ok=True)
    (folder / "last.ckpt").unlink()
    with pytest.raises(CheckpointError, match=r"a checkpoint in .*version_0, checkp"):
        load(RUN)


def test_commands_take_the_folder_of_a_run(capsys) -> None:
    main(["fit", *SMALL])
    best, last = (RUN / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    content = load_checkpoint(best)
    content["state_dict"] = {name: value + 1 for name, value in content["state_dict"].items()}
    torch.save(content, best)

    def said(*command: str) -> str:
        capsys.readouterr()
        main([*command, "--trainer.enable_progress_bar=false"])
        return capsys.readouterr().out

    for command in ("validate", "test", "predict"):
        by_folder, by_best, by_last = (
            (said(command, f"--ckpt_path={path}"), (RUN / "metrics.json").read_text())
            for path in (RUN, best, last)
        )
        assert by_folder == by_best, command
        assert by_folder != by_last or command == "predict", command
    with np.load(RUN / "tests" / "0" / "predictions.npz") as arrays:
        of_last = {name: arrays[name] for name in arrays}
    said("predict", f"--ckpt_path={RUN}")
    with np.load(RUN / "predictions.npz") as arrays:
        assert any((arrays[name] != of_last[name]).any() for name in arrays)
    # To go on, a training takes the last; from there it is no new run.
    longer = "--trainer.max_steps=6"
    assert f"Going on from step 4 of {last}" in said("fit", f"--ckpt_path={RUN}", longer)
    assert not RUN.with_name("version_1").exists()
    assert f"weights are from {best}" in said("fit", *SMALL, f"--init_from={RUN}")
    for path in (best, last):
        path.unlink()
    for command in ("validate", "test", "predict", "fit"):
        error = "checkpoints/best.ckpt or checkpoints/last.ckpt; there is none"
        for path, hint in ((RUN, ""), (RUN.parent, f"; its newest run is {RUN.parent}/version_1")):
            message = f"memnets: error: expected a checkpoint in {path}, {error}{hint} ("
            assert fails(capsys, command, f"--ckpt_path={path}").startswith(message)


def test_a_loaded_model_that_trains_on_leaves_checkpoints_that_stand_alone() -> None:
    import pytorch_lightning

    main(["fit", *SMALL])
    model, task = load_run(RUN)
    trainer = pytorch_lightning.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, datamodule=task)
    trainer.save_checkpoint("mine.ckpt")
    state = load("mine.ckpt").state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_a_format_that_is_not_known_is_one_line_in_every_reader(capsys) -> None:
    main(["fit", *SMALL])
    good = load_checkpoint(RUN / "checkpoints" / "last.ckpt")
    before = contents()
    readers = [load, load_run, read, Translator.load, load_checkpoint]
    for name, change, expected in (
        ("newer", {"format": FORMAT + 1}, f"has the format {FORMAT + 1}, and this version"),
        ("damaged", {"format": "two"}, "it is damaged: format must be a whole number"),
        ("zero", {"format": 0}, "it is damaged: format must be a whole number"),
        ("sizes", {"sizes": {"input_size": 3}}, "sizes must be input_size and output_size"),
    ):
        torch.save({**good, **change}, f"{name}.ckpt")
        for reader in readers:
            with pytest.raises(CheckpointError, match=rf"\A[^\n]*{expected}[^\n]*\Z"):
                reader(f"{name}.ckpt")
        for command in (["fit"], ["test"], ["fit", *SMALL]):
            assert expected in fails(capsys, *command, "--ckpt_path", f"{name}.ckpt")
        assert expected in fails(capsys, "fit", *SMALL, "--init_from", f"{name}.ckpt")
        Path(f"{name}.ckpt").unlink()
    assert contents() == before


def test_a_checkpoint_without_a_format_is_read_if_its_weights_are_those_of_today(capsys) -> None:
    main(["fit", *SMALL])
    old = load_checkpoint(RUN / "checkpoints" / "last.ckpt")
    for name in ("format", "sizes"):
        del old[name]
    torch.save(old, "old.ckpt")
    state = load("old.ckpt").state_dict()
    assert all(torch.equal(state[name], value) for name, value in old["state_dict"].items())
    # In version 0.1 the parts had other names.
    old["state_dict"] = {
        name.removeprefix("body."): value for name, value in old["state_dict"].items()
    }
    torch.save(old, "old.ckpt")
    expected = "or of memnets 0.1, whose layout was another: expected body."
    with pytest.raises(CheckpointError, match=rf"\A[^\n]*{expected}[^\n]*\Z"):
        load("old.ckpt")
    assert expected in fails(capsys, "test", "--ckpt_path=old.ckpt")


def test_a_model_made_in_python_says_how_to_save_it() -> None:
    model = MemoryMachine(3, 2, partial(LSTM, hidden_size=4))
    with pytest.raises(ValueError, match=r"\A[^\n]*torch.save\(model.state_dict\(\)[^\n]*\Z"):
        model.save("mine.ckpt")
    assert not Path("mine.ckpt").exists()


def test_a_save_replaces_no_pipe_and_leaves_the_old_file_if_it_fails(monkeypatch) -> None:
    main(["fit", *SMALL])
    model = load(RUN)
    os.mkfifo("pipe")
    with pytest.raises(NoPlainFile, match="not a plain file but a pipe"):
        model.save("pipe")
    Path("mine.ckpt").write_text("old")

    def fail(content, file) -> None:
        file.write(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="full"):
        model.save("mine.ckpt")
    assert Path("mine.ckpt").read_text() == "old"
    assert sorted(path.name for path in Path().iterdir()) == ["mine.ckpt", "pipe", "runs"]


#: Commands of which none needs PyTorch or Lightning, and what they say.
LIGHT = [
    ([], "memnets fit --config"),
    (["--help"], "memnets fit --config"),
    (["-h"], "scoreboard"),
    (["--version"], f"memnets {memnets.__version__}"),
    (["fti"], f"expected a command, {', '.join(COMMANDS)}; got fti; did you mean fit?"),
    (["configs"], "copying/ntm"),
    (["fit"], "start from a config"),
    (["fit", "--hlep"], "unrecognized arguments: --hlep; did you mean --help?"),
    (["fit", "--modle.access=NTM"], "did you mean --model.access?"),
    (["fit", "--config=missing.yaml"], "expected a config at missing.yaml; there is no such file"),
    (["fit", "--data.max_length=3"], "there is no task yet that has a setting max_length"),
    (["test"], "memnets test needs --ckpt_path=<run>"),
    (["test", "--ckptpath=x"], "did you mean --ckpt_path?"),
    (["translate", "--help"], "Exit status: 0 if every line has its translation"),
    (["translate", "--ckpt_path=x"], "unrecognized arguments: --ckpt_path=x"),
    (["scoreboard", "--report"], "did you mean --report_only?"),
]

PROBE = """
import contextlib, io, json, sys
import memnets
from memnets.__main__ import main
said = []
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code
    said.append([code, out.getvalue()])
heavy = {"torch", "pytorch_lightning", "lightning_fabric", "numpy", "scipy", "tasks", "rich"}
print(json.dumps([said, sorted(heavy & {name.partition(".")[0] for name in sys.modules})]))
"""


def test_help_and_errors_of_usage_import_nothing_heavy() -> None:
    commands = json.dumps([arguments for arguments, _ in LIGHT])
    done = subprocess.run(
        [sys.executable, "-c", PROBE, commands], check=True, stdout=subprocess.PIPE, text=True
    )
    said, heavy = json.loads(done.stdout)
    for (arguments, expected), (code, out) in zip(LIGHT, said, strict=True):
        assert expected in out, arguments
        is_help = not arguments or {"--help", "-h", "--version", "configs"} & set(arguments)
        assert code == (0 if is_help else 1), arguments
        assert is_help or len(out.strip().splitlines()) == 1, out
    assert heavy == []


#: A part of an optimizer's state, damaged: the number of numbers, their shape, their room.
DAMAGED = {
    "too few": lambda part: part[:1],
    "too many": lambda part: torch.cat([part, part]),
    "turned": lambda part: part.mT,
    "one number for all": lambda part: torch.zeros(1).expand_as(part),
    "empty": lambda part: part[:0],
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"])
def test_a_fused_optimizer_never_steps_with_a_damaged_state(name: str, damage) -> None:
    # PyTorch's fused steps check no shapes: they would read and write beyond the state.
    model = torch.nn.Linear(3, 2)
    make = partial(torch.optim.Adam, amsgrad=True)
    optimizer = fused(make(model.parameters()))
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    assert state["param_groups"][0]["fused"]
    check_optimizer_state(
        make, [list(model.parameters())], {"optimizer_states": [state]}, "whole.ckpt"
    )
    state["state"][0][name] = damage(state["state"][0][name])
    with pytest.raises(CheckpointError, match=r"Adam cannot use the state of its optimizer"):
        check_optimizer_state(
            make, [list(model.parameters())], {"optimizer_states": [state]}, "damaged.ckpt"
        )


def test_a_list_of_settings_is_one_value_so_that_a_shorter_one_is_a_change() -> None:
    whole, fewer = ({"data": {"test_sets": sets}} for sets in ([[20, 9], [50, 9]], [[20, 9]]))
    assert changes(whole, fewer) == [("data.test_sets", [[20, 9], [50, 9]], [[20, 9]])]
    assert changes(fewer, {"data": {"test_sets": []}}) == [("data.test_sets", [[20, 9]], [])]
    assert changes(whole, whole) == []
    short, long = ({"model": {"layers": [name]}} for name in ("LSTM", "memnets.cells.LSTM"))
    assert changes(short, long) == []


def test_a_setting_of_a_part_in_a_list_is_a_value_of_its_own() -> None:
    first, second = ({"callbacks": [{"class_path": "A", "steps": n}]} for n in (1, 2))
    assert changes(first, second) == [("callbacks.0.steps", 1, 2)]
