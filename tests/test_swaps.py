"""A config with another task or model in the place of its own."""

from pathlib import Path

import pytest
import yaml

from memnets.app.cli import main
from memnets.app.swaps import run_name
from tasks import AssociativeRecall, Copying

pytestmark = pytest.mark.usefixtures("elsewhere", "blanks")
ROOT = Path(__file__).parent.parent
SMALL = [
    "--trainer.max_steps=1", "--data.batch_size=2", "--data.epoch_batches=1",
    "--data.validation_batches=1", "--data.validation_batch_size=2",
]  # fmt: skip


class Backwards(Copying):
    """A task of one's own, for which the settings of its base are right."""


def fit(config: str, *flags: str) -> tuple[str, dict]:
    """The name of the only run, and its whole config."""
    main(["fit", "--config", str(ROOT / "configs" / f"{config}.yaml"), *SMALL, *flags])
    (path,) = Path("runs").glob("*/*/version_0/config.yaml")
    return "/".join(path.parts[1:3]), yaml.safe_load(path.read_text())


@pytest.mark.parametrize(
    ("config", "flags", "name"),
    [
        ("copying/ntm", ["--model.access=memnets.memories.LRUA"], "copying/lrua"),
        ("copying/ntm", ["--model.access=null"], "copying/lstm"),
        ("copying/ntm", ["--data=tests.test_swaps.Backwards", "--name=copying/ntm"], "copying/ntm"),
    ],
)
def test_a_run_is_named_after_what_is_run(config, flags, name) -> None:
    small = [
        "--data.test_sets=[[2, 2]]",
        "--trainer.callbacks=[]",
        "--model.controller.hidden_size=8",
    ]
    assert fit(config, *small, *flags)[0] == name


CONFIG = {
    "class_path": "memnets.models.MetaLearner",
    "init_args": {"learner": {"class_path": "memnets.models.SNAIL"}},
}


@pytest.mark.parametrize(
    ("files", "model", "name"),
    [
        ([], CONFIG, "few_shot/snail"),
        ([{"name": "mine"}], CONFIG, "mine"),
        (
            [{"name": "mine", "model": CONFIG, "data": "tasks.FewShot"}],
            "memnets.models.SNAIL",
            "mine",
        ),
        ([{"name": "mine", "model": CONFIG}], "memnets.models.Seq2Seq", "few_shot/seq2seq"),
        (
            [{"name": "a/b", "model": CONFIG}, {"model": "memnets.models.Transformer"}],
            "memnets.models.Transformer",
            "a/transformer",
        ),
        ([{"name": "a/b", "data": "tasks.Bandits"}], CONFIG, "few_shot/b"),
        ([{"name": "a/b"}, {"name": "c/d"}], CONFIG, "c/d"),
    ],
)
def test_names_come_from_the_last_config_and_from_classes(files, model, name) -> None:
    config = {"model": model, "data": {"class_path": "tasks.FewShot"}}
    assert run_name(files, config) == name


def test_another_task_has_its_own_settings_but_for_what_both_inherit(capsys) -> None:
    callbacks = "--trainer.callbacks=[]"
    own = {"max_length": 4, "width": 5, "min_length": 2, "test_sets": [[3, 2]], "batch_size": 5}
    copying = {"class_path": "tasks.Copying", "init_args": own}
    Path("own.yaml").write_text(yaml.safe_dump({"data": copying}))
    _, config = fit(
        "copying/ntm", "--config=own.yaml", "--data=tasks.AssociativeRecall", callbacks,
        "--data.max_items=3",
    )  # fmt: skip
    data = config["data"]["init_args"]
    usual = AssociativeRecall()
    assert {f"items_{items}" for items, _ in data["test_sets"]} == set(usual.test_names())
    assert data["width"] == usual.width
    assert data["max_items"] == 3
    assert data["batch_size"] == 5
    expected = (
        "tasks.AssociativeRecall in place of tasks.Copying: max_length, min_length, test_sets, "
        "width of the config left out; give them by --data.<setting>"
    )
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags",
    [
        ["--data=tasks.AssociativeRecall", "--data.test_sets=[[3, 2]]", "--data.width=8"],
        [
            "--data={class_path: tasks.AssociativeRecall, "
            "init_args: {test_sets: [[3, 2]], width: 8}}"
        ],
        ["--config=other.yaml"],
    ],
)
def test_what_is_asked_for_beside_another_task_is_kept(flags) -> None:
    settings = {"test_sets": [[3, 2]], "width": 8}
    other = {"class_path": "tasks.AssociativeRecall", "init_args": settings}
    Path("other.yaml").write_text(yaml.safe_dump({"data": other}))
    name, config = fit("copying/ntm", "--trainer.callbacks=[]", *flags)
    assert name == "associative_recall/ntm"
    assert {key: config["data"]["init_args"][key] for key in settings} == settings


def test_a_task_of_the_same_kind_keeps_every_setting(capsys) -> None:
    sets = ["--data.test_sets=[[3, 2]]", "--trainer.callbacks.testing={length_3: 30}"]
    name, config = fit("copying/ntm", "--data=tests.test_swaps.Backwards", *sets)
    assert name == "backwards/ntm"
    assert config["data"]["init_args"]["max_length"] == 20
    assert config["trainer"]["callbacks"]
    assert "left out" not in capsys.readouterr().out


def test_a_schedule_of_one_task_of_strings_fits_the_others(capsys) -> None:
    sets = ["--data.test_sets=[[5, 2]]", "--data.longest=0"]
    name, config = fit("symbols/ntm", "--data=tasks.symbols.Parity", *sets)
    assert name == "parity/ntm"
    assert config["trainer"]["callbacks"]
    assert "config left out" not in capsys.readouterr().out


def test_a_schedule_for_another_task_is_refused(capsys) -> None:
    for config in ("copying/ntm", "repeat_copying/ntm"):
        with pytest.raises(SystemExit):
            fit(config, "--data=tasks.AssociativeRecall")
        (line,) = capsys.readouterr().err.splitlines()
        assert "--trainer.callbacks=[] to leave it out" in line
    assert not Path("runs").exists()


def test_a_schedule_for_test_sets_that_are_not_there_says_so(capsys) -> None:
    fit("copying/ntm", "--data.test_sets=[[3, 2]]")
    expected = (
        "MemorySchedule has settings for length_1000, length_400, which the task does not have; "
        "they are left out, and its test sets are length_3"
    )
    assert expected in capsys.readouterr().out
