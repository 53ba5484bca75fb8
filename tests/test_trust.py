"""What opening a checkpoint may do, and what a setting of a config takes."""

import copy
import itertools
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from memnets.app.cli import main
from memnets.app.translator import Translator
from memnets.app.trust import checked_config, config_of
from memnets.training.runs import CheckpointError, load_checkpoint
from tests.test_cli import CONFIGS, RUN, SMALL, fails, files

pytestmark = pytest.mark.usefixtures("elsewhere", "blanks")

#: A module that tells when it is imported, and when something in it is called.
EVIL = """
from pathlib import Path
from memnets.core import Controller
marker = Path(__file__).with_name("RAN")
marker.touch()
def function(*args, **kwargs):
    marker.touch()
class Part(Controller):
    def __init__(self, input_size: int = 1, command: str = ""):
        marker.touch()
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A checkpoint that ``memnets fit`` wrote, with a memory of every kind of setting."""
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["memnets"])
        main(["fit", *SMALL])
    return folder / RUN / "checkpoints" / "last.ckpt"


def put(config, where: str, value) -> None:
    """Put a value at a place of a config, such as ``trainer.callbacks.0``."""
    *outer, last = where.split(".")
    for name in outer:
        if isinstance(config, list):
            config = config[int(name)]
        elif isinstance(config.get(name), (dict, list)):
            config = config[name]
        else:
            config = config.setdefault(name, {})
    if isinstance(config, list):
        config.insert(int(last), value)
    else:
        config[last] = value


CHAIN = {"class_path": "memnets.cells.Chain", "init_args": {"controllers": []}}
SCHEDULE = {"class_path": "memnets.training.MemorySchedule", "init_args": {"training": {}}}
AVERAGES = {
    "class_path": "pytorch_lightning.callbacks.StochasticWeightAveraging",
    "init_args": {"swa_lrs": 0.1},
}
STRATEGY = {"class_path": "pytorch_lightning.strategies.DDPStrategy", "init_args": {}}

#: Where a name may stand, and what has to be there before.
SLOTS = [
    ("model", None),
    ("data", None),
    ("model.init_args.optimizer", None),
    ("model.init_args.optimizer.init_args.lr", None),
    ("model.init_args.optimizer.dict_kwargs", None),
    ("model.init_args.controller", None),
    ("model.init_args.controller.init_args.unheard_of", None),
    ("model.init_args.controller.init_args.controllers.0", ("model.init_args.controller", CHAIN)),
    ("model.init_args.access", None),
    ("model.init_args.access.init_args.score", None),
    ("model.init_args.objective", None),
    ("trainer.accelerator", None),
    ("trainer.strategy", None),
    ("trainer.strategy.init_args.ddp_comm_hook", ("trainer.strategy", STRATEGY)),
    ("trainer.strategy.init_args.checkpoint_io", ("trainer.strategy", STRATEGY)),
    ("trainer.callbacks", None),
    ("trainer.callbacks.0", ("trainer.callbacks", [])),
    ("trainer.callbacks.0.init_args.avg_fn", ("trainer.callbacks", [AVERAGES])),
    ("trainer.callbacks.0.init_args.training.a", ("trainer.callbacks", [SCHEDULE])),
    ("trainer.plugins", None),
    ("trainer.plugins.0", ("trainer.plugins", [])),
    ("trainer.profiler", None),
    ("optimizer", None),
    ("lr_scheduler", None),
    ("config", None),
]

NAMES = [
    "os.system",
    "posix.system",
    "builtins.eval",
    "builtins.exec",
    "subprocess.Popen",
    "subprocess.run",
    "torch.os.system",
    "torch.hub.load",
    "torch.load",
    "torch.nn.Module.__init__",
    "torch.utils.cpp_extension.load",
    "memnets.app.cli.os.system",
    "memnets.app.cli.main",
    "memnets.__main__.main",
    "memnets.files.write_atomically",
    "memnets.training.Report",
    "memnets.training.runs.CSVTable",
    "pytorch_lightning.loggers.CSVLogger",
    "pytorch_lightning.callbacks.LambdaCallback",
    "pytorch_lightning.callbacks.OnExceptionCheckpoint",
    "pytorch_lightning.plugins.environments.SLURMEnvironment",
    "lightning_fabric.plugins.io.torch_io.TorchCheckpointIO",
    "functools.partial",
    "evil.function",
    "evil.Part",
    "evil",
    "tasks.Task.__class__",
    ".os.system",
    "os..system",
    "os.system ",
    "evil.yaml",
    "./evil.yaml",
    "evil.Part\n",
    "{class_path: os.system, init_args: {command: touch RAN}}",
    "${oc.env:HOME}.x",
    3,
    ["os.system"],
    {"class_path": "os.system"},
]

#: How a name is written down.
FORMS = [
    lambda name: {"class_path": name, "init_args": {"command": "touch RAN"}},
    lambda name: {"class_path": name, "dict_kwargs": {"command": "touch RAN"}},
    lambda name: {"class_path": name},
    lambda name: [{"class_path": name, "init_args": {"command": "touch RAN"}}],
    lambda name: {"inner": {"class_path": name, "init_args": {"command": "touch RAN"}}},
    lambda name: {"class_path+": name, "class_path": name},
    lambda name: name,
]


def changed(good: Path, target: Path, change) -> None:
    checkpoint = load_checkpoint(good)
    config = yaml.safe_load(checkpoint["config"])
    change(config)
    checkpoint["config"] = yaml.safe_dump(config)
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, target)


def harmless(where: str, name, form) -> bool:
    """Whether a name is plain data there, which nobody would build."""
    plain = where.endswith("unheard_of") and not isinstance(form(name), (dict, list))
    numbers = isinstance(name, int) and (form is FORMS[-1] or "dict_kwargs" in where)
    word = where in ("trainer.accelerator", "trainer.strategy") and form(name) == "evil"
    data = where.endswith("training.a") and "class_path" not in str(form(name))
    if where in ("optimizer", "lr_scheduler", "config"):  # never handed on
        return not isinstance(form(name), (dict, list))
    return plain or numbers or word or data


@pytest.mark.parametrize("slot", SLOTS, ids=lambda slot: slot[0])
def test_a_checkpoint_names_nothing_but_known_parts(good: Path, slot) -> None:
    where, before = slot
    good_config = config_of(load_checkpoint(good), good)
    Path("evil.py").write_text(EVIL)
    for name, form in itertools.product(NAMES, FORMS):
        if harmless(where, name, form):
            continue
        config = copy.deepcopy(good_config)
        if before is not None:
            put(config, *copy.deepcopy(before))
        put(config, where, form(name))
        with pytest.raises(CheckpointError, match=r"\A[^\n]*\Z"):
            checked_config(config, "x.ckpt")
        assert "evil" not in sys.modules
    assert not Path("RAN").exists()


@given(
    slot=st.sampled_from(SLOTS),
    name=st.sampled_from(NAMES),
    form=st.sampled_from(FORMS),
    command=st.sampled_from(["fit", "validate", "test", "predict", "translate"]),
)
@example(SLOTS[2], "os.system", FORMS[0], "fit")
@example(SLOTS[5], "os.system", FORMS[0], "test")
@example(SLOTS[5], "evil.Part", FORMS[0], "translate")
@example(SLOTS[16], "evil.Part", FORMS[2], "predict")
@example(SLOTS[14], "evil.Part", FORMS[2], "validate")
def test_opening_a_checkpoint_runs_nothing_that_it_names(
    good: Path, tmp_path_factory, slot, name, form, command
) -> None:
    where, before = slot
    if harmless(where, name, form):
        return
    folder = tmp_path_factory.mktemp("evil")
    evil = folder / "runs/copying/ntm/version_0/checkpoints/last.ckpt"

    def change(config) -> None:
        if before is not None:
            put(config, *copy.deepcopy(before))
        put(config, where, form(name))

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        Path("evil.py").write_text(EVIL)
        Path("evil.yaml").write_text("class_path: os.system\ninit_args: {command: touch RAN}\n")
        changed(good, evil, change)
        there = files()
        flag = "--checkpoint" if command == "translate" else "--ckpt_path"
        with pytest.raises(SystemExit) as stop:
            main([command, flag, str(evil)])
        assert stop.value.code == 1
        assert files() == there
        assert "evil" not in sys.modules


def test_no_logger_of_a_checkpoint_is_used_whatever_it_names(good: Path) -> None:
    config = config_of(load_checkpoint(good), good)
    Path("evil.py").write_text(EVIL)
    for name, form in itertools.product(NAMES, FORMS):
        for logger in (form(name), [form(name)]):
            config["trainer"]["logger"] = logger
            checked, (note,) = checked_config(config, "x.ckpt")
            assert "logger" not in checked["trainer"]
            assert note.startswith("trainer.logger = ")
            assert note.endswith(" of x.ckpt is not used; see --trust")
            assert len(note) < 200
        assert "evil" not in sys.modules
    for switch in (True, False):
        config["trainer"]["logger"] = switch
        assert checked_config(config, "x.ckpt") == (config, [])


def test_parts_of_ones_own_need_a_word(capsys, monkeypatch) -> None:
    flags = [flag for flag in SMALL if "hidden_size" not in flag]
    main(["fit", *flags, "--model.controller=tests.test_cli.Poisoned"])
    last = str(RUN / "checkpoints" / "last.ckpt")
    message = fails(capsys, "test", "--ckpt_path", last)
    assert "names 'tests.test_cli.Poisoned' for model.controller" in message
    assert "give --trust if" in message
    with pytest.raises(CheckpointError, match="give --trust if"):
        Translator.load(last)
    main(["test", "--ckpt_path", last, "--trust"])
    main(["test", "--ckpt_path", last, "--model.controller=tests.test_cli.Poisoned"])
    # The name of a file, of a run or of a folder is no word for a class of the same name.
    shutil.copy(last, "tests.test_cli.Poisoned")
    for more in ([], ["--name=tests.test_cli.Poisoned"], ["--runs", "tests.test_cli.Poisoned"]):
        fails(capsys, "validate", "--ckpt_path", "tests.test_cli.Poisoned", *more)
    main(["fit", "--ckpt_path", last, "--trainer.max_steps=6", "--trust"])
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    assert "trust" not in config


def test_a_run_with_a_class_of_the_current_folder_is_resumed(capsys, monkeypatch) -> None:
    monkeypatch.syspath_prepend(Path.cwd())
    for name in ("mine_then", "mine_now"):
        Path(f"{name}.py").write_text(
            "import pytorch_lightning\n\nclass Mine(pytorch_lightning.Callback): ...\n"
        )
    main(["fit", *SMALL, "--trainer.callbacks+=mine_then.Mine"])
    last = RUN / "checkpoints" / "last.ckpt"
    main(["fit", "--ckpt_path", str(last), "--trainer.max_steps=6"])
    # The run's own config.yaml must name the class, and only fit resumes a run.
    assert "give --trust if" in fails(capsys, "test", "--ckpt_path", str(last))
    (RUN / "config.yaml").write_text((RUN / "config.yaml").read_text().replace("then", "now"))
    message = fails(capsys, "fit", "--ckpt_path", str(last))
    assert "names 'mine_then.Mine'" in message
    assert "mine_now" not in sys.modules


def test_a_checkpoint_does_not_say_where_to_write(good: Path, capsys) -> None:
    elsewhere = Path.cwd() / "elsewhere"

    def change(config) -> None:
        config["runs"] = str(elsewhere)
        config["trainer"]["default_root_dir"] = str(elsewhere)
        config["trainer"]["logger"] = True
        config["trust"] = True

    evil = RUN / "checkpoints" / "other.ckpt"
    changed(good, evil, change)
    main(["fit", "--ckpt_path", str(evil), "--trainer.max_steps=6"])
    assert "trainer.default_root_dir = " in capsys.readouterr().err
    assert (RUN.parent / "version_1" / "metrics.json").is_file()
    main(["test", "--ckpt_path", str(evil)])
    assert sorted(path.name for path in Path().iterdir()) == ["runs"]
    for name in ("../../x", "/x/y", "a\nb", "", 3):
        changed(good, evil, lambda config, name=name: config.update(name=name))
        fails(capsys, "fit", "--ckpt_path", str(evil))
    assert sorted(path.name for path in Path().iterdir()) == ["runs"]


@pytest.mark.parametrize(
    "callback",
    [
        ["EarlyStopping", "monitor=val/bits"],
        ["EMAWeightAveraging", "decay=0.9"],
        ["GradientAccumulationScheduler", "scheduling={0: 1, 4: 2}"],
        ["LearningRateMonitor"],
        ["ModelCheckpoint", "filename={step}-{val/bits:.2f}", "save_top_k=2"],
        ["RichProgressBar"],
        ["StochasticWeightAveraging", "swa_lrs=0.01"],
        ["Timer", "duration=00:01:00:00"],
        ["memnets.training.Curriculum", "setting=max_length", "values=[1,2]", "loss=1"],
        ["memnets.training.MemorySchedule", "training={0.0: {slots: 12}}"],
    ],
    ids=lambda callback: callback[0],
)
def test_harmless_callbacks_need_no_word(capsys, callback) -> None:
    name, *settings = callback
    flags = [f"--trainer.callbacks+={name}", *(f"--trainer.callbacks.{one}" for one in settings)]
    with pytest.raises(SystemExit):
        main(["fit", *SMALL, *flags, "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["trainer"]["callbacks"][0]["class_path"].endswith(name)
    for name in set(config) - {"data", "model", "trainer"}:
        del config[name]
    assert checked_config(config, "x.ckpt") == (config, [])


@pytest.mark.parametrize(
    "callback",
    [
        {"class_path": "pytorch_lightning.callbacks.ModelCheckpoint", "init_args": places}
        for places in ({"dirpath": "x"}, {"filename": "../x"}, {"filename": "/x"})
    ],
)
def test_a_callback_of_a_checkpoint_stays_in_the_folder_of_the_run(callback) -> None:
    config = {"trainer": {"callbacks": [callback]}}
    with pytest.raises(CheckpointError, match="give --trust"):
        checked_config(config, "x.ckpt")
    assert checked_config(config, "x.ckpt", trusted=True)[0] == config
    assert checked_config(config, "x.ckpt", named={callback["class_path"]})[0] == config


@pytest.mark.parametrize(
    "path",
    sorted(path for path in CONFIGS.glob("*/*.yaml") if path.parent.name != "scoreboards"),
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_every_config_of_this_project_would_do_in_a_checkpoint(path) -> None:
    config = yaml.safe_load(path.read_text())
    settings = config["model"].get("init_args", {})
    if "class_path" not in settings.get("optimizer", {"class_path": ""}):
        # A checkpoint says what the default is.
        settings["optimizer"] = {
            "class_path": "torch.optim.Adam",
            "init_args": settings["optimizer"],
        }
    assert checked_config(config, "x.ckpt") == (config, [])


@pytest.mark.parametrize("setting", ["model.optimizer", "model.controller", "model.objective"])
@pytest.mark.parametrize("name", ["os.system", "tests.test_trust.made", "memnets.files.cached"])
def test_a_setting_takes_no_function(capsys, setting, name) -> None:
    marker = Path("RAN")
    flags = [flag for flag in SMALL if "hidden_size" not in flag]
    part = {"class_path": name, "init_args": {"command": f"touch {marker}"}}
    config = {"model": {"init_args": {setting.partition(".")[2]: part}}}
    Path("own.yaml").write_text(yaml.safe_dump(config))
    for more in (f"--{setting}={name}", f"--{setting}.class_path={name}", "--config=own.yaml"):
        fails(capsys, "fit", *flags, more)
    assert files() == ["own.yaml"]


def made(input_size: int) -> torch.optim.Optimizer:
    Path("RAN").touch()
    raise AssertionError


class Free(torch.optim.SGD):
    """An optimizer with a setting of any type."""

    def __init__(self, params, lr: float = 0.1, extra=None) -> None:
        assert extra is not None
        super().__init__(params, lr)


def test_nothing_is_built_where_anything_may_stand() -> None:
    extra = "{class_path: os.system, init_args: {command: touch RAN}}"
    optimizer = ["--model.optimizer=tests.test_trust.Free", f"--model.optimizer.extra={extra}"]
    main(["fit", *SMALL, *optimizer])
    assert files()[0] == "runs"
    assert not Path("RAN").exists()
