"""The scoreboard: what is finished is kept, what was stopped goes on, the table says what is so."""

import json
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from memnets.app import scoreboard as scoreboard_module
from memnets.app.cli import main
from memnets.app.configs import find_config
from memnets.app.executors import Outcome, trainings
from memnets.app.scoreboard import Entry, Score, _train, scoreboard
from memnets.app.seeds import Run, summary
from memnets.files import only_writer
from memnets.records import read_metrics
from memnets.training.runs import load_checkpoint
from memnets.viewing import plots
from tests.forked import MAY_FORK, Forked
from tests.sweeps import wait_for
from tests.test_cli import SMALL, fails, files

pytestmark = pytest.mark.usefixtures("elsewhere")
ROOT = Path(__file__).parent.parent
CONFIG = str(ROOT / "configs" / "copying" / "ntm.yaml")
STEPS = 240
#: One test set: pictures of each take longer than the training.
FLAGS = [*SMALL[2:], "--data.test_sets=[[4, 3]]"]
SCORE = {"metric": "test/length_4/bits", "published": 3.0, "source": "Nobody 1999"}
LAST = Path("runs/seed_0/copying/ntm/version_0/checkpoints/last.ckpt")
METRICS = {"train/seconds": 2.0, "train/sequences": 16.0, "test/length_4/bits": 1.0}


def board(**settings: object) -> list[str]:
    """Write a board of one entry; the arguments that use it."""
    entry = {"config": CONFIG, "scores": [SCORE], "seeds": [0], **settings}
    Path("board.yaml").write_text(yaml.safe_dump({"entries": [entry]}))
    return ["scoreboard", "--config", "board.yaml"]


@contextmanager
def started(arguments: list[str]) -> Iterator[Forked]:
    """A scoreboard whose training has saved a checkpoint; at the end nothing of it is left."""
    process = Forked(main, arguments)
    try:
        deadline = time.monotonic() + 300
        while not LAST.exists():
            assert process.poll() is None, "the scoreboard ended before it was stopped"
            assert time.monotonic() < deadline, "the run saved no checkpoints"
            time.sleep(0.002)
        yield process
    finally:
        process.kill_all()
        with only_writer(LAST.parents[2], patience=60):  # until the training, too, is gone
            pass


#: Files of no run: the list of all runs, which is written after each.
SHARED = ("index.html",)


def contents() -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in Path("runs").rglob("*")
        if path.is_file() and path.name not in SHARED
    }


#: Stands for a training that waits until it is stopped.
WAITS = """
import signal, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: exit(75))
Path("waits").touch()
time.sleep(60)
"""


@MAY_FORK
def test_stopped_it_shows_what_there_is() -> None:
    Path("waits.py").write_text(WAITS)

    def run() -> None:
        scoreboard_module.trainings = partial(trainings, program="waits")
        main(board())

    process = Forked(run)
    try:
        wait_for(Path("waits"))
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill_all()
    assert "0 of 1" in Path("RESULTS.md").read_text()


@MAY_FORK
def test_killed_goes_on_and_finished_is_not_repeated(capfd) -> None:
    flags = [*FLAGS, "--data.epoch_batches=20", f"--trainer.max_steps={STEPS}"]
    arguments = board(flags=flags)

    # Killed with no chance to stop its training.
    with started(arguments) as process:
        message = fails(capfd, *arguments)
        assert f"another scoreboard, process {process.pid} on " in message
        assert ", is at work in runs; wait for it, or give another folder of runs" in message
        process.kill()
    step = load_checkpoint(LAST)["global_step"]
    assert 0 < step < STEPS

    main(arguments)
    assert "copying/ntm, seed 0: goes on" in capfd.readouterr().out
    path = LAST.parent.parent / "metrics.json"
    metrics = json.loads(path.read_text())
    assert metrics["train/steps"] == STEPS
    assert [folder.name for folder in LAST.parents[2].glob("version_*")] == ["version_0"]
    shown = f"{metrics['test/length_4/bits']:.4g}"
    row = f"| {shown} | {shown} (0) | {shown} (0) | 3 | Nobody 1999 | {STEPS * 4} |"
    assert row in Path("RESULTS.md").read_text()
    assert Path("RESULTS.png").read_bytes().startswith(b"\x89PNG")

    before = contents()
    main(arguments)
    assert "Runs to train: 0 of 1" in capfd.readouterr().out
    assert contents() == before

    # As if killed after the last checkpoint and before the numbers of training were written: what
    # the board would do then, but here, where it need not import again.
    path.unlink()
    own = ["--name=copying/ntm", "--seed_everything=0", "--runs=runs/seed_0"]
    main(["fit", f"--config={CONFIG}", "--threads=1", *flags, *own, "--ckpt_path=last"])
    again = json.loads(path.read_text())
    for name in ("train/sequences", "val/bits", "test/length_4/bits"):
        assert again[name] == metrics[name]


def test_a_run_that_is_killed_is_named_with_the_signal(capfd, monkeypatch) -> None:
    Path("killer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setattr("memnets.app.scoreboard.trainings", partial(trainings, program="killer"))
    message = fails(capfd, *board())
    assert "runs failed: 1; see runs/seed_0/copying/ntm/fit.log (killed by SIGKILL)" in message


def test_a_run_that_its_scheduler_stops_has_not_failed(capfd, monkeypatch) -> None:
    Path("stopped.py").write_text("import sys\nprint('memnets: stopped at 3')\nsys.exit(75)\n")
    monkeypatch.setattr("memnets.app.scoreboard.trainings", partial(trainings, program="stopped"))
    with pytest.raises(SystemExit):
        main(board())
    printed = capfd.readouterr()
    assert "copying/ntm, seed 0: stopped" in printed.out
    message = "runs stopped before their end: 1; the same command goes on with them; see runs/"
    assert message in printed.err
    assert "fit.log (memnets: stopped at 3)" in printed.err
    assert "failed" not in printed.out + printed.err


def test_a_run_that_fails_is_named_with_its_log(capfd, monkeypatch) -> None:
    Path("failing.py").write_text(
        "import sys\nprint('x')\nsys.exit(f'memnets: error: no {sys.argv[3]}')\n"
    )
    monkeypatch.setattr("memnets.app.scoreboard.trainings", partial(trainings, program="failing"))
    message = fails(capfd, *board(flags=["--data.width=3"]))
    assert "runs failed: 1; see runs/seed_0/copying/ntm/fit.log (memnets: error: no " in message
    assert "| 0 of 1 |" in Path("RESULTS.md").read_text()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ({"metrics.json": '{"test/bi'}, "metrics.json is damaged"),
        ({"metrics.json": "[1, 2]"}, "expected one JSON object, name -> number"),
        ({"metrics.json": '{"test/bits": "low"}'}, "expected one JSON object, name -> number"),
        ({"metrics.json": '{"test/bits": ' + "9" * 400 + "}"}, "a number is too large"),
        ({"metrics.json": '{"test/bits": ' + "9" * 5000 + "}"}, "metrics.json is damaged"),
        ({"metrics.json": "[" * 100_000}, "it is nested too deeply"),
        ({"metrics.json": '{"a": ' * 100_000}, "it is nested too deeply"),
        ({"metrics.json": "\0"}, "metrics.json is damaged"),
        ({"config.yaml": None}, "it has no config.yaml"),
        ({"checkpoints/last.ckpt": None}, "last.ckpt; there is no such file"),
        ({"checkpoints/last.ckpt": "no checkpoint"}, "the file is damaged or of another kind"),
    ],
)
def test_a_damaged_run_is_named_and_left_alone(capfd, damage, expected) -> None:
    folder = LAST.parent.parent
    whole = {
        "config.yaml": "name: copying/ntm",
        "metrics.json": '{"train/steps": 4}',
        "checkpoints/best.ckpt": "",
        "checkpoints/last.ckpt": "",
    }
    for name, text in {**whole, **damage}.items():
        if text is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    before = contents()
    message = fails(capfd, *board())
    assert f"the run in {folder} is damaged: " in message
    assert expected in message
    assert "move it away" in message
    assert contents() == before
    assert "| 0 of 1 |" in Path("RESULTS.md").read_text()


class AtOnce:
    """Trainings that end at once; each leaves what a function writes to its folder."""

    def __init__(self, write: Callable[[Path], object]) -> None:
        self.write = write

    def submit(self, command, folder) -> Future:
        self.write(folder)
        future: Future = Future()
        future.set_result(Outcome(0, "done"))
        return future

    def began(self, future) -> bool:
        return True

    def outcome(self, future) -> Outcome:
        return future.result()

    def stop(self) -> None:
        pass


def test_a_run_that_damages_its_scores_stops_no_other() -> None:
    def damage(folder: Path) -> None:
        (folder / "version_0").mkdir(parents=True)
        (folder / "version_0" / "metrics.json").write_text("{")

    todo = [
        (Run("copying/ntm", seed, Path(f"runs/seed_{seed}"), ("fit",)), False) for seed in (0, 1)
    ]
    (problem,) = _train(todo, AtOnce(damage), 1)
    assert problem.startswith("runs failed: 2; see runs/seed_0/copying/ntm/fit.log (done), ")


def test_a_board_notes_the_settings_of_what_it_trains() -> None:
    def train(folder: Path) -> None:
        made(Path("runs"), "copying/ntm", int(folder.parts[1][-1]), **{"test/bits": 1.0})

    run = Run("copying/ntm", 0, Path("runs/seed_0"), ("fit",), Path("kept.json"), "", 123456.0)
    unknown = Run("copying/ntm", 1, Path("runs/seed_1"), ("fit",))
    assert _train([(run, False), (unknown, False)], AtOnce(train), 1) == []
    folder, scores = run.kept()
    assert scores == {**METRICS, "test/bits": 1.0, "train/settings": 123456.0}
    assert read_metrics(folder) == read_metrics(Path("kept.json")) == scores
    assert "train/settings" not in unknown.finished()[1]


def test_what_is_wrong_with_one_run_leaves_the_others_in_the_table(capfd) -> None:
    for seed, value in enumerate((1.0, 2.0, 4.0, 8.0)):
        made(Path("runs"), "copying/ntm", seed, **{"test/length_4/bits": value})
    Path("runs/seed_0/copying/ntm/version_0/metrics.json").write_text("{")
    Path("runs/seed_1/copying/ntm/version_0/metrics.json").write_text('{"train/x": 1, "test/x": 1}')
    Path("runs/seed_3/copying/ntm/version_0/config.yaml").write_text("{")
    for seed, damage in enumerate(("[" * 10_000, "a: &a [*a]", "a: " + "9" * 5000), start=4):
        made(Path("runs"), "copying/ntm", seed, **{"test/length_4/bits": 1.0})
        Path(f"runs/seed_{seed}/copying/ntm/version_0/config.yaml").write_text(damage)
    before = contents()
    message = fails(capfd, *board(seeds=list(range(7))))
    for seed in (4, 5, 6):
        assert f"at runs/seed_{seed}/copying/ntm/version_0/config.yaml; it is not YAML" in message
    assert "expected a config at runs/seed_3/copying/ntm/version_0/config.yaml; it is" in message
    assert "runs/seed_0/copying/ntm/version_0 is damaged" in message
    assert "expected test/length_4/bits in runs/seed_1/copying/ntm/version_0/metrics.j" in message
    assert "| 1 of 7 | 4 | 4 (2) | 4 (2) |" in Path("RESULTS.md").read_text()
    assert contents() == before


def test_the_table_says_which_settings_have_changed_since() -> None:
    made(Path("runs"), "copying/ntm", 0)
    config = yaml.safe_load(Path(CONFIG).read_text())
    arguments = [*board(flags=["--data.batch_size=3", "--model.controller=X"]), "--report_only"]
    path = Path("runs/seed_0/copying/ntm/version_0/config.yaml")

    def says(change: str = "") -> bool:
        path.write_text(yaml.safe_dump(config))
        main(arguments)
        text = Path("RESULTS.md").read_text()
        assert ("Settings that have changed" in text) == bool(change)
        return f"\n- ntm, seed 0: {change}\n" in text if change else True

    config["name"] = "another/name"
    config["trainer"]["more"] = 3
    assert says()
    # What a flag has set is no change.
    config["data"]["init_args"]["batch_size"] = 3
    config["model"]["init_args"]["controller"] = {"class_path": "X", "init_args": {"a": 1}}
    assert says()
    # The config of a run is whole, where that of the board gives a rate alone.
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.25, "eps": 1e-8}}
    config["model"]["init_args"]["optimizer"] = adam
    assert says("model.init_args.optimizer.init_args.lr was 0.25, now 0.005")
    config["model"]["init_args"]["optimizer"]["init_args"]["lr"] = 0.005
    config["model"]["init_args"]["access"]["class_path"] = "NTM"
    assert says()
    config["model"]["init_args"]["access"]["class_path"] = "another.NTM"
    assert says("model.init_args.access.class_path was another.NTM, now memnets.memories.NTM")
    config["model"]["init_args"]["access"]["class_path"] = "memnets.memories.DNC"
    assert says(
        "model.init_args.access.class_path was memnets.memories.DNC, now memnets.memories.NTM"
    )


def test_models_without_a_run_are_drawn_with_what_was_published(monkeypatch) -> None:
    made(Path("runs"), "copying/ntm", 0, **{"test/length_4/bits": 2.0})
    drawn: list[list[plots.Board]] = []
    monkeypatch.setattr(
        "memnets.viewing.plots.scoreboard", lambda panels, path, title: drawn.append(panels)
    )
    scores = (Score("test/length_4/bits", published=3.0), Score("test/other", published=1.0))
    known, unknown = (
        Entry(CONFIG, scores[:1], (0,)),
        Entry(CONFIG, scores, (1,), name="copying/x"),
    )
    scoreboard((known, unknown), report_only=True)
    ((panel,),) = drawn
    assert panel.title == "copying, test, length 4"
    assert panel.score == "cross-entropy (bits per sequence)"
    assert not panel.higher_is_better
    assert panel.models == {"ntm": ([2.0], 3.0), "x": ([], 3.0)}


@pytest.mark.parametrize(
    ("settings", "flags", "expected"),
    [
        ({"config": "missing.yaml"}, [], "expected a config at missing.yaml; there is no such"),
        ({"name": "copying"}, [], "needs a name, <task>/<model>; got 'copying'"),
        ({"name": "../copying"}, [], "each of letters, digits and signs but no space"),
        ({"name": "/copying"}, [], "name must be <task>/<model>"),
        ({"name": "copying/./ntm"}, [], "needs a name, <task>/<model>; got 'copying/./ntm'"),
        ({"name": "copying/"}, [], "name must be <task>/<model>"),
        ({"name": "copying/a\nb"}, [], "name must be <task>/<model>"),
        ({"name": "copying/a\x07"}, [], "name must be <task>/<model>"),
        ({"name": "copying/.."}, [], "name must be <task>/<model>"),
        ({"scores": []}, [], "copying/ntm needs at least one score to show; got none"),
        ({"seeds": []}, [], "seeds of copying/ntm must be different"),
        ({"seeds": [1, 1]}, [], "at least 0, one or more; got [1, 1]"),
        ({"seeds": [-1]}, [], "at least 0, one or more; got [-1]"),
        ({}, ["--processes=0"], "processes must be a whole number of at least 1; got 0"),
        ({}, ["--threads=0"], "threads must be a whole number of at least 1; got 0"),
        ({}, ["--threads=1000000"], "threads must be at most 256; got 1000000"),
        ({}, ["--results=/dev/null"], "it is not a plain file but a device"),
        ({}, ["--entries=[]"], "a scoreboard needs at least one entry; got none"),
        ({}, ["--results=board.png"], "results must be a file that is no .png"),
        (
            {},
            ["--results=."],
            "results must be a file that is no .png, which is the picture; got .",
        ),
        ({}, ["--runs=board.yaml"], "runs must be a folder; board.yaml is a file"),
        ({"sedes": [1]}, [], "sedes"),
        (
            {"sedes": [1]},
            [],
            "--config scoreboards/ntm --print_config shows what a scoreboard holds",
        ),
    ],
)
def test_bad_boards_are_one_line_and_start_nothing(capfd, settings, flags, expected) -> None:
    assert expected in fails(capfd, *board(**settings), *flags)
    assert files() == ["board.yaml"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"name: [copying/ntm", "it is not YAML (while parsing a flow sequence"),
        (b"name: \xff", "it is not text in UTF-8"),
        (b"- name: copying/ntm", "it has no settings of the form name: value"),
        (b"", "it is empty"),
    ],
)
def test_a_config_that_is_none_is_named(capfd, content, expected) -> None:
    Path("mine.yaml").write_bytes(content)
    message = fails(capfd, *board(config="mine.yaml"))
    assert f"expected a config at mine.yaml; {expected}" in message
    assert files() == ["board.yaml", "mine.yaml"]


@pytest.mark.parametrize("name", ["RESULTS.md", "RESULTS.png", "runs/.scoreboard.lock"])
def test_a_board_replaces_no_pipe(capfd, name) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    os.mkfifo(name)
    made(Path("runs"), "copying/ntm", 0, **{"test/length_4/bits": 1.0})
    before = contents()
    assert f"{name}; it is not a plain file but a pipe" in fails(capfd, *board(seeds=[0]))
    assert Path(name).is_fifo()
    assert contents() == before


def test_two_entries_of_one_name_are_an_error() -> None:
    entry = Entry(CONFIG, (Score("test/bits"),))
    with pytest.raises(ValueError, match="each entry needs a name of its own; copying/ntm is"):
        scoreboard((entry, entry))


def made(folder: Path, name: str, seed: int, version: int = 0, **metrics: float) -> None:
    """A run that is finished, with these metrics beside the usual ones."""
    run = folder / f"seed_{seed}" / name / f"version_{version}"
    run.mkdir(parents=True)
    (run / "metrics.json").write_text(json.dumps({**METRICS, **metrics}))


@given(
    st.dictionaries(st.integers(0, 99), st.floats(-1e3, 1e3), min_size=1, max_size=4),
    st.booleans(),
)
def test_the_table_is_of_all_seeds(scores, higher_is_better) -> None:
    values = np.array(list(scores.values()))
    best, worst = (values.max(), values.min())[:: 1 if higher_is_better else -1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed, value in scores.items():
            made(folder, "copying/ntm", seed, **{"test/x": value})
        score = Score("test/x", higher_is_better, published=7, source="A | B")
        entry = Entry(CONFIG, (score,), seeds=(*scores, 100))
        results = folder / "RESULTS.md"
        scoreboard((entry,), str(folder), str(results), report_only=True)
        row = next(line for line in results.read_text().splitlines() if "`test/x`" in line)
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
    assert cells[:3] == ["ntm", "`test/x`", f"{len(scores)} of {len(scores) + 1}"]
    assert float(cells[3]) == pytest.approx(values.mean(), rel=1e-3, abs=1e-9)
    for cell, expected in ((cells[4], best), (cells[5], worst)):
        value, seed = cell.rstrip(")").split(" (")
        assert float(value) == pytest.approx(expected, rel=1e-3)
        assert scores[int(seed)] == expected
    assert cells[6:] == ["7", r"A \| B", "16", "-", "2"]


def test_what_is_no_number_is_worst() -> None:
    for higher_is_better in (False, True):
        found = summary({0: 1.0, 1: float("nan"), 2: 3.0}, higher_is_better)
        assert np.isnan(found.mean)
        assert found.best == ((3.0, 2) if higher_is_better else (1.0, 0))
        assert found.worst[1] == 1
    with pytest.raises(ValueError, match="at least one seed; got none"):
        summary({})


def test_the_newest_finished_version_counts(capfd) -> None:
    runs = Path("runs")
    made(runs, "copying/ntm", 0, **{"test/length_4/bits": 5.0})
    made(runs, "copying/ntm", 0, version=10, **{"test/length_4/bits": 6.0})
    (runs / "seed_0/copying/ntm/version_11").mkdir()
    made(runs, "copying/ntm", 1, **{"train/sequences_to_solve": 8.0})
    before = contents()
    main([*board(seeds=[0, 1, 2]), "--report_only"])
    text = Path("RESULTS.md").read_text()
    assert "| 2 of 3 | 3.5 | 1 (1) | 6 (0) | 3 | Nobody 1999 | 16 | 8 (1 of 2) | 2 |" in text
    assert "by `memnets scoreboard --config board.yaml`" in text
    assert "memnets fit --config=copying/ntm --threads=1 --name=copying/ntm" in text
    assert contents() == before
    shutil.rmtree(runs / "seed_0")
    scores = [{"metric": "test/length_5/bits"}]
    message = fails(capfd, *board(scores=scores, seeds=[1]), "--report_only")
    assert "expected test/length_5/bits in runs/seed_1/copying/ntm/version_0/metrics" in message
    assert "test/length_4/bits" in message
    assert "| `test/length_5/bits` | 0 of 1 | - | - | - |" in Path("RESULTS.md").read_text()


@pytest.mark.parametrize(
    ("flags", "by", "trained"),
    [
        (["--report_only", "--runs=jobs"], "", "runs"),
        (["--runs", "jobs", "--report_only"], "", "runs"),
        (["--report_only", "--runs={here}/jobs"], "", "runs"),
        (["--runs=jobs"], " --runs=jobs", "jobs"),
        (
            ["--runs={here}/jobs", "--results={here}/RESULTS.md"],
            " --runs=jobs --results=RESULTS.md",
            "jobs",
        ),
        (["--runs=../{name}/jobs"], " --runs=jobs", "jobs"),
    ],
)
def test_commands_on_a_page_name_no_folder_of_this_machine(flags, by: str, trained: str) -> None:
    made(Path("jobs"), "copying/ntm", 0, **{"test/length_4/bits": 5.0})
    here = Path.cwd()
    main([*board(), *(flag.format(here=here, name=here.name) for flag in flags)])
    text = Path("RESULTS.md").read_text()
    assert "| 1 of 1 |" in text
    assert f"by `memnets scoreboard --config board.yaml{by}`" in text
    assert f"--seed_everything=0 --runs={trained}/seed_0\n" in text
    assert str(here) not in text


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/scoreboards/*.yaml")), ids=str)
def test_the_boards_show_scores_that_their_tasks_have(path: Path) -> None:
    board = yaml.safe_load(path.read_text())
    for line in board.get("grid", {}).get("tasks", {}).values():
        of_all = dict(flag.removeprefix("--data.").split("=") for flag in board["grid"]["flags"])
        settings = {"test_sets": yaml.safe_load(of_all["test_sets"]), **line.get("settings", {})}
        task = resolve_name(line["data"])(**settings)
        prefixes = {task.score_prefix(name) for name in task.test_names()}
        assert board["grid"]["metric"] in {f"{prefix}accuracy" for prefix in prefixes}
        assert {"test/length_40/", "test/length_100/", "test/longer/"} <= prefixes
        assert task.max_length == board["grid"]["trained_to"]
    for model in board.get("grid", {}).get("models", {}).values():
        assert find_config(model["config"])
    for entry in board.get("entries", ()):
        data = yaml.safe_load(Path(find_config(entry["config"])).read_text())["data"]
        flags = dict(flag.split("=", 1) for flag in entry.get("flags", ()) if "--data" in flag)
        own = {} if "--data" in flags else data.get("init_args", {})
        # Of the language models, the files are not there.
        of_flags = {
            name.removeprefix("--data.").removeprefix("init_args."): yaml.safe_load(value)
            for name, value in flags.items()
            if name != "--data" and data["class_path"] != "tasks.Language"
        }
        path_of_task = flags.get("--data", data["class_path"])
        task = resolve_name(path_of_task)(**{**own, **of_flags})
        prefixes = ["val/", *map(task.score_prefix, task.test_names())]
        names = {
            f"{prefix}{name}"
            for prefix in prefixes
            for name in ("accuracy", "bits", "exact", "wrong_bits", "perplexity")
        }
        own = {"test/bayes_bits", "test/frechet", "test/frechet_floor"}
        for score in entry["scores"]:
            assert score["metric"] in {*names, *own}, entry["config"]
