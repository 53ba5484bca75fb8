"""Sweeps: spaces, trials that go on and are never repeated, pruning, the report, the best."""

import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import yaml

from memnets.app import executors
from memnets.app.cli import main
from memnets.app.space import flags_of, read_space
from memnets.app.stopping import QUEUE_AGAIN, Stopped
from memnets.files import only_writer
from memnets.records import read_curve, read_metrics
from memnets.viewing import plots
from tests.sweeps import Fake, Formula, flags_in, train, wait_for, write_curve
from tests.test_cli import SMALL, fails, files

optuna = pytest.importorskip("optuna", reason="optuna is not installed")
from optuna.storages.journal import JournalFileBackend, JournalStorage  # noqa: E402

pytestmark = pytest.mark.usefixtures("elsewhere")

ROOT = Path(__file__).parent.parent
LSTM = str(ROOT / "configs" / "copying" / "lstm.yaml")
LR = {"type": "float", "low": 0.0001, "high": 0.1, "log": True}
SIZE = {"type": "int", "low": 4, "high": 64}
SPACE = {"model.optimizer.lr": LR, "model.controller.hidden_size": SIZE}


def score(flags: dict[str, Any]) -> list[float]:
    """Best at a rate of 0.01 and 64 units; the second seed is worse by 1."""
    rate = abs(math.log10(flags["model.optimizer.lr"]) + 2)
    last = rate + 8 / flags["model.controller.hidden_size"] + flags["seed_everything"]
    return [last + 2, last + 1, last]


def config(**settings: Any) -> list[str]:
    """Write a sweep; the arguments that use it."""
    whole = {"fit": LSTM, "space": SPACE, "metric": "val/bits", "trials": 4, "runs": "out"}
    # A journal is quicker to make than a database.
    whole |= {"processes": 1, "storage": "journal", **settings}
    kept = {name: value for name, value in whole.items() if value is not ...}
    Path("sweep.yaml").write_text(yaml.safe_dump(kept, sort_keys=False))
    return ["sweep", "--config", "sweep.yaml"]


@pytest.fixture
def faked(monkeypatch) -> Callable[[Formula], Fake]:
    """Trainings that are over at once; flags are not checked, and pictures not drawn."""

    def faked(formula: Formula = score) -> Fake:
        fake = Fake(formula)
        monkeypatch.setattr(executors, "processes", lambda _: fake)
        return fake

    monkeypatch.setattr("memnets.app.sweep.check_flags", lambda *_: None)
    for name in ("history", "importance", "slices"):
        monkeypatch.setattr(plots, name, lambda *_: None)
    return faked


def trials(folder: str = "out") -> list[Any]:
    """The trials of a study."""
    path = Path(folder) / "study.journal"
    if path.exists():
        storage = JournalStorage(JournalFileBackend(str(path)))
        return optuna.load_study(study_name="sweep", storage=storage).get_trials()
    database = optuna.storages.RDBStorage(f"sqlite:///{folder}/study.db")
    try:
        return optuna.load_study(study_name="sweep", storage=database).get_trials()
    finally:
        database.remove_session()
        database.engine.dispose()


# Spaces.


def test_values_become_flags_a_part_before_its_settings() -> None:
    values = {"model.controller.hidden_size": 3, "data.mixed_lengths": True, "view": None}
    values |= {"model.controller": "memnets.cells.GRU", "model.optimizer.lr": 1e-05}
    assert flags_of(values) == [
        *("--view=null", "--data.mixed_lengths=true", "--model.controller=memnets.cells.GRU"),
        *("--model.controller.hidden_size=3", "--model.optimizer.lr=1e-05"),
    ]
    assert flags_in(["fit", *flags_of(values)])["data.mixed_lengths"] is True


def test_lists_and_parts_are_choices_too() -> None:
    part = {"class_path": "memnets.cells.LSTM", "init_args": {"hidden_size": 3}}
    (parameter,) = read_space({"--model.controller": {"choices": [part, [1, 2], None, 0.5]}})
    assert parameter.flag == "model.controller"
    assert [yaml.safe_load(str(choice)) for choice in parameter.choices[:2]] == [part, [1, 2]]
    assert parameter.choices[2:] == (None, 0.5)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ({}, "a space needs at least one flag of memnets fit"),
        (
            {"modle.optimizer.lr": LR},
            "modle.optimizer.lr: memnets fit has no such flag; did",
        ),
        ({"modle.optimizer.lr": LR}, "did you mean model.optimizer.lr?"),
        ({"seed_everything": SIZE}, "this flag cannot be varied; give seeds"),
        (
            {"runs": {"choices": ["a"]}},
            "runs: this flag cannot be varied; it is a setting of",
        ),
        ({"ckpt_path": {"choices": ["a"]}}, "it does not belong in a sweep"),
        ({"view": 3}, "space, view: expected settings, such as {type: float, low: 0.1, high: 1}"),
        ({"view": {"low": 1, "high": 2}}, "type must be float, int or categorical; got None"),
        ({"view": {"type": "real"}}, "type must be float, int or categorical; got 'real'"),
        ({"view": {**LR, "hihg": 1}}, "log, step; got hihg; did you mean high?"),
        ({"view": {"choices": [1], "low": 1}}, "categorical takes type, when, choices; got low"),
        ({"view": {"type": "float", "low": 1}}, "high must be a number; got nothing"),
        ({"view": {**LR, "low": "much"}}, "low must be a number; got 'much'"),
        ({"view": {**LR, "high": math.inf}}, "high must be a number; got inf"),
        ({"view": {**SIZE, "low": 1.5}}, "low must be a whole number; got 1.5"),
        ({"view": {**SIZE, "low": True}}, "low must be a whole number; got True"),
        ({"view": {**SIZE, "low": 64}}, "low must be less than high; got low 64 and high 64"),
        ({"view": {**LR, "low": 0.5}}, "low must be less than high; got low 0.5 and high 0.1"),
        ({"view": {**LR, "low": 0}}, "on a logarithmic scale low must be more than 0; got 0"),
        ({"view": {**LR, "log": "yes please"}}, "log must be true or false; got 'yes please'"),
        ({"view": {**LR, "step": 0.1}}, "it takes log or step, not both"),
        ({"view": {**SIZE, "step": 61}}, "step must be more than 0 and at most high - low = 60"),
        ({"view": {**SIZE, "step": 0}}, "step must be more than 0"),
        ({"view": {"choices": []}}, "choices must be a list of at least one value; got []"),
        ({"view": {"choices": "ab"}}, "choices must be a list of at least one value; got 'ab'"),
        (
            {"view": {"type": "categorical"}},
            "choices must be a list of at least one value; got no",
        ),
        ({"view": {"choices": [1, True]}}, "choices must differ; True is there twice"),
        ({"view": LR, "--view": LR}, "each flag can be there once; it is there twice"),
        ({"view": {**LR, "when": "x"}}, "when must map flags of the space to values; got 'x'"),
        ({"view": {**LR, "when": {"x": 1}}}, "must name a flag that stands before it in the space"),
        (
            {"compile": {"choices": [True, False]}, "view": {**LR, "when": {"compile": "yes"}}},
            "when compile is yes, which is never so; its choices are True, False",
        ),
    ],
)
def test_a_space_that_cannot_be_is_one_line(capfd, space, expected) -> None:
    assert expected in fails(capfd, *config(space=space))
    assert files() == ["sweep.yaml"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"fit": "copying/lsmt"}, "expected a config at copying/lsmt; there is no such file"),
        ({"name": "copying"}, "needs a name, <task>/<model>; got 'copying'"),
        ({"metric": "bits"}, "metric must be a name in metrics.json, such as val/loss"),
        ({"metric": "val/size"}, "give direction, minimize or maximize: val/size is not a known"),
        ({"direction": "down"}, "direction"),
        ({"objective": "best"}, "objective"),
        ({"seeds": []}, "seeds must be different whole numbers of at least 0, one or more; got []"),
        ({"seeds": [2, 2]}, "one or more; got [2, 2]"),
        ({"trials": 0}, "trials must be a whole number of at least 1; got 0"),
        ({"processes": 0}, "processes must be a whole number of at least 1; got 0"),
        ({"seed": -1}, "seed must be in [0, 2^32); got -1"),
        ({"flags": ["--seed_everything=3"]}, "flags must be flags of memnets fit that the sweep"),
        ({"flags": ["--trainr.max_steps=3"]}, "does not set itself, such as --trainer.max_steps=1"),
        ({"flags": ["3"]}, "such as --trainer.max_steps=1000; got 3"),
        ({"runs": "sweep.yaml"}, "runs must be a folder; sweep.yaml is a file"),
        ({"sampler": "optuna.samplers.TPESampelr"}, "there is no optuna.samplers.TPESampelr; did"),
        ({"sampler": "Tpe"}, "did you mean optuna.samplers.TPESampler?"),
        ({"sampler": "optuna.pruners.MedianPruner"}, "expected a subclass of BaseSampler"),
        ({"sampler": "nowhere.Sampler"}, "No module named 'nowhere'"),
        (
            {"sampler": {"class_path": "TPESampler", "init_args": {"seed": 1}}},
            "its seed is the",
        ),
        ({"sampler": {"class_path": "TPESampler", "init_args": {"sed": 1}}}, "'sed' is not"),
        ({"sampler": {"path": "TPESampler"}}, "sampler must be the path of a class, such as"),
        ({"sampler": "GridSampler"}, "a grid needs a step, or a list of choices; got every"),
        (
            {"pruner": "optuna.pruners.Median"},
            "there is no optuna.pruners.Median; did you mean opt",
        ),
        ({"pruner": "MedianPruner", "metric": "test/bits"}, "its metric must be val/...; got"),
        ({"storage": "redis"}, "storage"),
        ({"trails": 3}, "--config sweeps/copying --print_config shows what a sweep holds"),
    ],
)
def test_settings_that_cannot_be_used_are_one_line(capfd, settings, expected) -> None:
    assert expected in fails(capfd, *config(**settings))
    assert files() == ["sweep.yaml"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"space": {"model.controller.hidden_size": LR}},
            "model.controller.hidden_size: expected a whole number; got 0.0001 (",
        ),
        ({"space": {"model.controller": {"choices": ["os.getcwd"]}}}, "=os.getcwd: model.con"),
        ({"flags": ["--data.widht=3"]}, "memnets fit: data: Option 'widht' is not accepted"),
    ],
)
def test_a_flag_that_fit_does_not_take_is_found_before_the_first_trial(
    capfd, settings, expected
) -> None:
    assert expected in fails(capfd, *config(**settings))
    assert files() == ["sweep.yaml"]


def test_optuna_that_is_missing_is_named(capfd, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "memnets sweep needs optuna; to install: " in fails(capfd, *config())


def test_a_flag_takes_the_place_of_a_sampler_or_pruner_of_the_config(faked) -> None:
    faked(worse_and_worse)
    arguments = config(pruner={"class_path": "ThresholdPruner", "init_args": {"upper": -1}})
    pruner = "{class_path: ThresholdPruner, init_args: {upper: 9}}"
    main([*arguments, "--pruner", pruner, "--sampler=RandomSampler", "--trials=2"])
    assert [trial.state.name for trial in trials()] == ["COMPLETE"] * 2
    main([*arguments, "--pruner=null", "--trials=3"])
    assert [trial.state.name for trial in trials()] == ["COMPLETE"] * 3


def test_a_package_that_a_sampler_needs_is_named(capfd, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cmaes", None)
    message = fails(capfd, *config(sampler="CmaEsSampler"))
    assert "sampler or pruner: cmaes is not installed, which it needs" in message
    assert files() == ["sweep.yaml"]


# Trials.


def test_a_sweep_finds_the_best_reports_it_and_is_finished(capsys, faked) -> None:
    fake = faked()
    main(config())
    printed = capsys.readouterr().out
    assert "Trials to run: 4 of 4" in printed
    assert len(fake.commands) == 8
    done = trials()
    for trial in done:
        flags = flags_in(fake.commands[2 * trial.number])
        assert flags["runs"] == f"out/trial_{trial.number}/seed_0"
        assert flags["name"] == "copying/lstm"
        assert {name: flags[name] for name in SPACE} == pytest.approx(trial.params)
        first = score(flags)[-1]
        # Half of the mean, half of the worst.
        assert trial.value == pytest.approx((first + 0.5) / 2 + (first + 1) / 2)
        assert trial.user_attrs["scores"] == pytest.approx({"0": first, "1": first + 1})
    best = min(done, key=lambda trial: trial.value)
    assert f"The best of 4 trials is trial {best.number}: {best.value:.4g}" in printed
    text = Path("out/sweep.md").read_text()
    order = sorted(done, key=lambda trial: trial.value)
    best_so_far = [t.number for t in done if t.value == min(o.value for o in done[: t.number + 1])]
    told = re.findall(r"trial (\d+): .*, the best so far", printed)
    assert list(map(int, told)) == best_so_far
    assert [int(row) for row in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)] == [
        trial.number for trial in order
    ]
    first = best.user_attrs["scores"]["0"]
    row = f"| {best.number} | {best.value:.4g} | {first + 0.5:.4g} | {first + 1:.4g} (1) |"
    assert row in text
    assert "by `memnets sweep --config sweep.yaml`" in text
    assert "4 trials: 4 ran to their end, 0 were pruned, 0 failed." in text
    settings = yaml.safe_load(Path("out/best.yaml").read_text())
    assert settings == {"name": "copying/lstm", "trainer": {"max_steps": 30}}

    # Nothing is repeated, and more trials go on from there.
    main(config())
    assert "Trials to run: 0 of 4" in capsys.readouterr().out
    assert len(fake.commands) == 8
    main(config(trials=5))
    assert len(fake.commands) == 10


@pytest.mark.parametrize(
    ("objective", "direction", "expected"),
    [
        ("mean", "minimize", 3.0),
        ("worst", "minimize", 6.0),
        ("mean_and_worst", "minimize", 4.5),
        ("worst", "maximize", 1.0),
        ("mean_and_worst", "maximize", 2.0),
    ],
)
def test_the_objective_of_three_seeds(faked, objective, direction, expected) -> None:
    faked(lambda flags: [[1.0, 2.0, 6.0][flags["seed_everything"]]])
    settings = {"objective": objective, "direction": direction, "seeds": [0, 1, 2]}
    main(config(trials=1, **settings))
    (trial,) = trials()
    assert trial.value == expected


SAMPLERS = [
    "optuna.samplers.RandomSampler",
    {"class_path": "TPESampler", "init_args": {"n_startup_trials": 2}},
    "optuna.samplers.QMCSampler",
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["random", "tpe", "qmc"])
def test_the_same_seed_gives_the_same_trials_also_after_a_stop(faked, sampler) -> None:
    fake = faked()
    main(config(sampler=sampler, trials=5, seeds=[0]))
    whole = [trial.params for trial in trials()]
    assert len({tuple(values.values()) for values in whole}) == 5
    fake.formula = interrupted(fake, after=3)
    with pytest.raises(SystemExit):
        main(config(sampler=sampler, trials=5, seeds=[0], runs="again"))
    assert [trial.state.name for trial in trials("again")] == ["COMPLETE"] * 2 + ["RUNNING"]
    fake.formula = score
    main(config(sampler=sampler, trials=5, seeds=[0], runs="again"))
    assert [trial.params for trial in trials("again")] == whole
    main(config(sampler=sampler, trials=2, seeds=[0], runs="other", seed=1))
    assert trials("other")[0].params != whole[0]


def interrupted(fake: Fake, after: int) -> Formula:
    """Scores of trainings; the last of so many is interrupted, as by Ctrl-C."""
    before = len(fake.commands)

    def formula(flags: dict[str, Any]) -> list[float]:
        if len(fake.commands) - before == after:
            signal.raise_signal(signal.SIGINT)
        return score(flags)

    return formula


def test_a_trial_that_was_stopped_goes_on_and_its_finished_seed_stays(capsys, faked) -> None:
    fake = faked()
    fake.formula = interrupted(fake, after=4)
    with pytest.raises(SystemExit) as stop:
        main(config())
    assert stop.value.code == 130
    assert "1 go on." in Path("out/sweep.md").read_text()
    fake.formula = score
    main(config())
    printed = capsys.readouterr().out
    assert "Trials to run: 3 of 4" in printed
    assert "trial 1: goes on" in printed
    runs = [flags_in(command)["runs"] for command in fake.commands]
    # The second seed of the second trial was stopped and is run again; the first is not.
    assert runs[3] == runs[4] == "out/trial_1/seed_1"
    assert len(set(runs)) == len(runs) - 1 == 8
    assert [trial.state.name for trial in trials()] == ["COMPLETE"] * 4


def test_a_grid_is_gone_through_once(faked) -> None:
    fake = faked(lambda flags: [flags["view"] + 10 * flags["compile"]])
    space = {
        "view": {"type": "int", "low": 0, "high": 4, "step": 2},
        "compile": {"choices": [True, False]},
    }
    settings = {"space": space, "sampler": "GridSampler", "seeds": [0], "trials": 50}
    main(config(**settings))
    points = [(trial.params["view"], trial.params["compile"]) for trial in trials()]
    assert sorted(points) == [(v, c) for v in (0, 2, 4) for c in (False, True)]
    main(config(**settings))
    assert len(fake.commands) == 6


def test_a_flag_is_given_when_another_has_a_value(faked) -> None:
    fake = faked(lambda flags: [flags.get("view", 7)])
    space = {
        "compile": {"choices": [True, False]},
        "view": {"type": "int", "low": 1, "high": 3, "when": {"compile": True}},
    }
    # It goes through all there is, and then it is the end.
    settings = {"space": space, "sampler": "BruteForceSampler", "seeds": [0], "trials": 50}
    main(config(**settings))
    given = sorted((trial.params["compile"], trial.params.get("view")) for trial in trials())
    assert given == [(False, None), (True, 1), (True, 2), (True, 3)]
    assert sum("--view" in " ".join(command) for command in fake.commands) == 3
    assert "| - |" in Path("out/sweep.md").read_text()
    main(config(**settings))
    assert len(fake.commands) == 4


# Pruning.

PRUNER = {
    "class_path": "optuna.pruners.MedianPruner",
    "init_args": {"n_startup_trials": 1, "n_warmup_steps": 15},
}


def worse_and_worse(flags: dict[str, Any]) -> list[float]:
    number = int(flags["runs"].split("trial_")[1].partition("/")[0])
    return [number, number + 0.1, number + 0.2, number + 0.3]


def test_bad_trials_are_pruned_by_their_first_seed(capsys, faked) -> None:
    fake = faked(worse_and_worse)
    main(config(pruner=PRUNER))
    assert [trial.state.name for trial in trials()] == ["COMPLETE"] + ["PRUNED"] * 3
    # Two seeds of the first trial, and one of each other; reported up to the step of the end.
    assert len(fake.commands) == 5
    assert trials()[0].intermediate_values == {10: 0.0, 20: 0.1, 30: 0.2, 40: 0.3}
    assert trials()[1].intermediate_values == {10: 1.0, 20: 1.1}
    assert "trial 1: pruned at step 20" in capsys.readouterr().out
    assert "1 ran to their end, 3 were pruned" in Path("out/sweep.md").read_text()


class Slow(Fake):
    """Trainings that take as long as they are let; a validation is there from the start."""

    def __init__(self, formula: Formula) -> None:
        super().__init__(formula)
        self.stopped: list[str] = []

    def submit(self, _: Any, command: Any, folder: Any, permit: Any, *paths: Any) -> Future[Any]:  # type: ignore[override]
        future: Future[Any] = Future()
        self.commands.append(command)

        def run() -> None:
            scores = self.formula(flags_in(command))
            if scores[0] == 0:
                future.set_result(train(command, Path(folder), self.formula))
                return
            run_folder = Path(folder) / "version_0"
            run_folder.mkdir(parents=True)
            write_curve(run_folder, scores)
            (Path(folder) / ".lock").touch()  # as of a training at work
            deadline = time.monotonic() + 60
            while Path(permit).exists() and time.monotonic() < deadline:
                time.sleep(0.005)
            self.stopped.append(folder)
            future.set_result(executors.Outcome(143, "stopped"))

        threading.Thread(target=run).start()
        return future


def test_a_training_that_is_pruned_is_stopped_while_it_runs(faked, monkeypatch) -> None:
    faked()
    slow = Slow(worse_and_worse)
    monkeypatch.setattr(executors, "processes", lambda _: slow)
    main(config(pruner=PRUNER, trials=3))
    assert [trial.state.name for trial in trials()] == ["COMPLETE", "PRUNED", "PRUNED"]
    assert [Path(folder).parts[-4:-2] for folder in slow.stopped] == [
        ("trial_1", "seed_0"),
        ("trial_2", "seed_0"),
    ]
    assert not list(Path("out/trial_1").rglob("metrics.json"))


def test_the_curve_of_a_run_is_read_by_its_steps(tmp_path) -> None:
    assert read_curve(tmp_path, "val/bits") == []
    write_curve(tmp_path, [3.0, math.nan])
    assert str(read_curve(tmp_path, "val/bits")) == "[(10, 3.0), (20, nan)]"
    assert read_curve(tmp_path, "val/other") == []
    for text in ("step,val/bits\nten,3\n", "val/bits\n3\n", "step,val/bits\n1,much\n"):
        (tmp_path / "metrics.csv").write_text(text)
        with pytest.raises(ValueError, match=r"metrics\.csv is damaged"):
            read_curve(tmp_path, "val/bits")


# Failures.


def test_a_trial_that_fails_is_named_and_the_others_go_on(capsys, faked) -> None:
    def formula(flags: dict[str, Any]) -> list[float]:
        if "trial_1/" in flags["runs"]:
            raise ValueError("memnets: error: out of memory")
        return score(flags)

    fake = faked(formula)
    main(config())
    assert [trial.state.name for trial in trials()] == ["COMPLETE", "FAIL", *["COMPLETE"] * 2]
    assert len(fake.commands) == 7
    said = "trial_1/seed_0/copying/lstm/fit.log (memnets: error: out of memory)"
    assert f"trial 1: failed; see out/{said}" in capsys.readouterr().out
    assert f"- trial 1: out/{said}" in Path("out/sweep.md").read_text()


def test_a_trial_that_its_scheduler_stops_has_not_failed_and_goes_on(capfd, faked) -> None:
    def formula(flags: dict[str, Any]) -> list[float]:
        if "trial_1/seed_1" in flags["runs"]:
            raise Stopped(None, "memnets: stopped at step 3", QUEUE_AGAIN)
        return score(flags)

    fake = faked(formula)
    message = fails(capfd, *config())
    assert "trials stopped before their end: trial 1; the same command goes on with" in message
    assert [trial.state.name for trial in trials()] == ["COMPLETE", "RUNNING", *["COMPLETE"] * 2]
    fake.formula = score
    main(config())
    assert "trial 1: goes on" in capfd.readouterr().out
    assert len(fake.commands) == 9
    assert [trial.state.name for trial in trials()] == ["COMPLETE"] * 4


def test_a_training_that_diverges_counts_as_the_worst(faked) -> None:
    def formula(flags: dict[str, Any]) -> list[float]:
        if "trial_1/" in flags["runs"]:
            raise ValueError("memnets: error: the loss became nan at step 7; it has no effect")
        return score(flags) if "trial_2/" not in flags["runs"] else [math.nan]

    fake = faked(formula)
    main(config(objective="mean"))
    assert [trial.value == math.inf for trial in trials()] == [False, True, True, False]
    assert len(fake.commands) == 6
    assert len(re.findall(r"^\| \d", Path("out/sweep.md").read_text(), re.MULTILINE)) == 2


def test_the_words_of_a_training_that_diverges_are_known() -> None:
    from memnets.app.sweep import _DIVERGED

    source = (ROOT / "memnets" / "training" / "trained.py").read_text()
    assert 'raise TrainingDiverged(f"the {name} became {value} at step {step};' in source
    assert all(
        _DIVERGED.search(f"the loss became {value} at step 3; x")
        for value in (math.nan, math.inf, -math.inf)
    )


def test_a_sweep_in_which_all_fails_ends_soon(capfd, faked) -> None:
    def fail(flags: dict[str, Any]) -> list[float]:
        raise ValueError("memnets: error: no such data")

    fake = faked(fail)
    message = fails(capfd, *config(trials=50))
    assert "the first 3 trials failed; the last: out/trial_2/seed_0/copying/lstm/fit.log" in message
    assert "(memnets: error: no such data)" in message
    assert len(fake.commands) == 3
    assert "all 2 trials failed; the last: " in fails(capfd, *config(trials=2, runs="few"))
    fake.formula = lambda _: [math.nan]
    assert "no trial has a finite score: of 2, 0 failed" in fails(
        capfd, *config(trials=2, runs="diverged")
    )
    assert not Path("out/best.yaml").exists()


def test_a_metric_that_no_run_has_is_named_and_can_be_mended(capfd, faked) -> None:
    fake = faked()
    message = fails(capfd, *config(metric="val/bitz", direction="minimize"))
    folder = "out/trial_0/seed_0/copying/lstm/version_0"
    assert f"expected the metric val/bitz in {folder}/metrics.json" in message
    assert "near it: val/bits" in message
    # The run that was trained is not lost.
    main(config(trials=1))
    assert len(fake.commands) == 2
    assert "began with other settings: metric was val/bits, now test/bits; give those" in fails(
        capfd, *config(metric="test/bits")
    )


def test_damaged_runs_fail_their_trials(capfd, faked) -> None:
    fake = faked()

    def damage(flags: dict[str, Any]) -> list[float]:
        run = Path(flags["runs"]) / "copying" / "lstm" / "version_0"
        if "trial_0/" in flags["runs"]:
            run.with_name("version_1").mkdir(parents=True)
            (run.with_name("version_1") / "metrics.json").write_text("{")
        if "trial_1/" in flags["runs"]:
            run.with_name("version_1").mkdir(parents=True)
            (run.with_name("version_1") / "metrics.csv").write_text("step,val/bits\n1,x\n")
        return score(flags)

    fake.formula = damage
    main(config(pruner=PRUNER, trials=3))
    assert [trial.state.name for trial in trials()] == ["FAIL", "FAIL", "COMPLETE"]
    text = Path("out/sweep.md").read_text()
    assert "version_1 is damaged" in text
    assert "metrics.csv is damaged" in text


# The folder.


def test_other_settings_than_those_of_the_study_are_refused(capfd, faked) -> None:
    faked()
    main(config(trials=1))
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    space = {**SPACE, "model.optimizer.lr": {**LR, "high": 0.2}}
    for changed, expected in (
        ({"space": space}, "space, model.optimizer.lr.high was 0.1, now 0.2"),
        ({"space": {"model.optimizer.lr": LR}}, "space, model.controller.hidden_size was {"),
        ({"seeds": [0, 1, 2]}, "seeds was [0, 1], now [0, 1, 2]"),
        ({"flags": ["--trainer.max_steps=3"]}, "flags was [], now ['--trainer.max_steps=3']"),
        ({"objective": "mean"}, "objective was mean_and_worst, now mean"),
        ({"fit": "copying/ntm", "name": "copying/lstm"}, "fit.name was copying/lstm, now"),
        ({"storage": "sqlite"}, "the sweep in out is kept as journal; give storage journal"),
    ):
        message = fails(capfd, *config(**changed))
        assert expected in message
        assert "give " in message
        assert "another folder of runs" in message
    after = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    assert {p: b for p, b in after.items() if p.name != "study.journal"} == {
        p: b for p, b in before.items() if p.name != "study.journal"
    }
    # Sampler, pruner and their seed may change.
    main(config(trials=2, sampler="RandomSampler", seed=3, pruner=PRUNER))


def test_another_sweep_at_work_is_named(capfd, faked) -> None:
    fake = faked()
    Path("out").mkdir()
    with only_writer(Path("out"), ".sweep.lock"):
        message = fails(capfd, *config())
    assert "another sweep" in message
    assert f"process {os.getpid()}" in message
    assert "is at work in out; wait for it, or give another folder of runs" in message
    assert not fake.commands


def test_a_damaged_study_is_named(capfd, faked) -> None:
    fake = faked()
    Path("out").mkdir()
    Path("out/study.db").write_text("no database, but of some length, or it counts as new" * 40)
    message = fails(capfd, *config(storage="sqlite"))
    assert "expected the study of a sweep at out/study.db; the file is damaged" in message
    Path("out/study.db").unlink()
    Path("out/study.journal").write_text("no json\n" * 3)
    message = fails(capfd, *config())
    assert "expected the study of a sweep at out/study.journal" in message
    assert not fake.commands


def test_a_database_keeps_a_study_too(faked) -> None:
    fake = faked()
    main(config(storage="sqlite", trials=2))
    main(config(storage="sqlite", trials=3, pruner=PRUNER))
    assert len(fake.commands) == 6
    assert not Path("out/study.journal").exists()
    assert "3 trials: 3 ran to their end" in Path("out/sweep.md").read_text()
    assert [trial.state.name for trial in trials()] == ["COMPLETE"] * 3
    fake.formula = lambda _: [math.nan]
    with pytest.raises(SystemExit):
        main(config(trials=1, storage="sqlite", runs="diverged"))
    assert trials("diverged")[0].value == math.inf


def test_a_report_alone_trains_nothing(capfd, faked) -> None:
    fake = faked()
    assert "expected a sweep in out; there is none" in fails(capfd, *config(), "--report_only")
    main(config(trials=2))
    Path("out/sweep.md").unlink()
    main([*config(trials=5), "--report_only"])
    assert "2 trials: 2 ran to their end" in Path("out/sweep.md").read_text()
    assert len(fake.commands) == 4


# The real thing.


#: Lets a training go on only when there is a file or a signal, so that it is there to be stopped.
HELD = """
import time
from pathlib import Path
from pytorch_lightning import Callback
from memnets.app.stopping import asked_to_stop

class Held(Callback):
    def on_train_batch_end(self, trainer, *_):
        while trainer.global_step == 25 and not Path("go").exists() and not asked_to_stop():
            time.sleep(0.01)
"""


@pytest.mark.usefixtures("sketches")
def test_a_sweep_that_is_stopped_goes_on_and_its_best_config_trains(capsys) -> None:
    Path("held_for_a_test.py").write_text(HELD)
    own = ("--config", "--model", "--data.test_sets", "--data.epoch", "--trainer")
    flags = [flag for flag in SMALL[2:] if not flag.startswith(own)]
    flags += ["--model.controller.layers=1", "--data.test_sets=[[4, 3]]"]
    flags += ["--data.epoch_batches=20", "--trainer.max_steps=40"]
    flags += ["--trainer.callbacks=[{class_path: held_for_a_test.Held}]"]
    space = {"model.optimizer.lr": LR, "model.controller.hidden_size": {**SIZE, "high": 8}}
    arguments = config(space=space, flags=flags, seeds=[0], trials=1, storage="sqlite")
    versions = Path("out/trial_0/seed_0/copying/lstm")
    last = versions / "version_0" / "checkpoints" / "last.ckpt"
    stop = threading.Thread(target=interrupt_at, args=(last,))
    stop.start()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    stop.join()
    assert stopped.value.code == 130
    assert not read_metrics(versions / "version_0")

    Path("go").touch()
    main(arguments)
    assert "trial 0: goes on" in capsys.readouterr().out
    assert [path.name for path in versions.glob("version_*")] == ["version_0"]
    assert "memnets: stopped at step 25" in (versions / "fit.log").read_text()
    (trial,) = trials()
    metrics = read_metrics(versions / "version_0")
    assert trial.value == metrics["val/bits"]
    assert {path.name for path in Path("out").glob("*.png")} == {"history.png", "slices.png"}

    main(["fit", "--config", "out/best.yaml"])
    again = read_metrics(Path("runs/copying/lstm/version_0"))
    for name in ("train/steps", "val/bits", "test/length_4/bits"):
        assert again[name] == metrics[name]


def interrupt_at(path: Path) -> None:
    """Interrupt this process, as by Ctrl-C, when a file is there."""
    wait_for(path, 300)
    os.kill(os.getpid(), signal.SIGINT)
