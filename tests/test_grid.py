"""A board that is a grid: its entries, the order of its training, and its pages from records."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from memnets.app import scoreboard as boards
from memnets.app.cli import main
from memnets.app.configs import find_config
from memnets.app.decisive import decides_result, decides_run, decides_scores
from memnets.app.entries import Entry, Grid, GridModel, GridTask, Pair, Published, Score
from memnets.app.scoreboard import _board, _in_order
from memnets.app.seeds import Run, number_of
from memnets.files import read_settings
from memnets.viewing import plots
from tests.test_cli import fails

ROOT = Path(__file__).parent.parent
METRIC = "test/longer/accuracy"
GRID: dict[str, Any] = {
    "title": "Two by two",
    "metric": METRIC,
    "label": "right symbols",
    "trained_to": 5,
    "seeds": [0, 1],
    "flags": ["--data.batch_size=4"],
    "models": {
        "lstm": {"config": "symbols/lstm", "title": "LSTM", "importance": 1},
        "ntm": {"config": "symbols/ntm", "flags": ["--trainer.max_steps=9"], "about": "slots"},
    },
    "tasks": {
        "parity": {
            "data": "tasks.symbols.Parity",
            "chance": 0.5,
            "tried": "Nothing else.",
            "published": {
                "lstm": {"score": 1, "source": "Someone 1999", "confirmed": False},
                "ntm": {"score": 0.25, "source": "Someone 1999"},
            },
        },
        "s3": {
            "data": "tasks.symbols.GroupWords",
            "settings": {"group": "S3", "test_sets": [[5, 2]]},
            "title": "Words",
            "importance": 2,
            "flags": ["--data.workers=0"],
        },
    },
    "pairs": {
        "s3/ntm": {"left_out": True, "note": "too slow"},
        "parity/ntm": {"seeds": [0, 1, 2], "flags": ["--threads=2"]},
    },
}
SCORES = {METRIC: 0.75, "train/steps": 3.0, "train/seconds": 2.0}


@pytest.fixture
def drawn(monkeypatch) -> list[Any]:
    """Keeps what would be drawn, and draws nothing."""
    kept: list[Any] = []
    for name in ("grid", "lengths"):
        monkeypatch.setattr(
            plots, name, lambda what, path, *rest, kind=name: kept.append((kind, what))
        )
    return kept


def write(**changes: Any) -> list[str]:
    """Write a board; the arguments that report it from the folder ``kept`` alone."""
    Path("board.yaml").write_text(yaml.safe_dump({"grid": {**GRID, **changes}}))
    return ["scoreboard", "--config", "board.yaml", "--report_only", "--records=kept"]


def report(**settings: Any) -> None:
    """Make the pages of the folder ``kept`` alone."""
    boards.scoreboard(**{"grid": made(), "records": "kept", "report_only": True, **settings})


def keep(name: str, seed: int, **scores: float) -> None:
    path = Path(f"kept/{name}/seed_{seed}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**SCORES, **scores}))


def made(**changes: Any) -> Grid:
    """The grid as the command line makes it."""
    whole = {**GRID, **changes}
    tasks = {
        name: GridTask(
            **{
                **task,
                "published": {n: Published(**p) for n, p in task.get("published", {}).items()},
            }
        )
        for name, task in whole["tasks"].items()
    }
    models = {name: GridModel(**model) for name, model in whole["models"].items()}
    pairs = {name: Pair(**pair) for name, pair in whole["pairs"].items()}
    return Grid(**{**whole, "tasks": tasks, "models": models, "pairs": pairs})


def test_a_grid_is_an_entry_for_each_pair_and_the_important_ones_come_first() -> None:
    grid = made()
    entries = {entry.name: entry for entry in grid.entries()}
    assert list(entries) == ["parity/lstm", "parity/ntm", "s3/lstm"]
    assert entries["s3/lstm"].config == "symbols/lstm"
    assert entries["s3/lstm"].importance == 3
    assert list(entries["s3/lstm"].flags) == [
        "--data=tasks.symbols.GroupWords",
        *("--data.batch_size=4", "--data.group=S3", "--data.test_sets=[[5, 2]]"),
        "--data.workers=0",
    ]
    flags = ["--data.batch_size=4", "--trainer.max_steps=9", "--threads=2"]
    assert list(entries["parity/ntm"].flags[1:]) == flags
    board = _board(tuple(grid.entries()), Path("runs"), 1, Path("kept"), trained=True)
    order = [(run.name, run.seed) for run in _in_order(board)]
    assert order == [
        *(("s3/lstm", 0), ("s3/lstm", 1)),  # 2 + 1
        *(("parity/lstm", 0), ("parity/lstm", 1)),  # 1
        *(("parity/ntm", 0), ("parity/ntm", 1), ("parity/ntm", 2)),
    ]
    # Among equals, each pair has its first seed before any has its second.
    same = {name: {**GRID["models"][name], "importance": 0} for name in GRID["models"]}
    board = _board(tuple(made(models=same).entries()), Path("runs"), 1, None, trained=True)
    order = [(run.name, run.seed) for run in _in_order(board)]
    assert order[2:5] == [("parity/lstm", 0), ("parity/ntm", 0), ("parity/lstm", 1)]


def test_a_pair_may_have_an_importance_of_its_own() -> None:
    grid = Grid(
        {"m": GridModel("symbols/lstm", importance=3)},
        {"t": GridTask("tasks.symbols.Parity", importance=4)},
        METRIC,
        pairs={"t/m": Pair(importance=1)},
    )
    (entry,) = grid.entries()
    assert entry.importance == 1


@pytest.mark.usefixtures("elsewhere")
def test_the_pages_are_made_of_records_alone(drawn) -> None:
    length = {f"{METRIC}_9": 0.5, "test/length_5/accuracy": 1.0, "test/length_5/state": 8.0}
    keep("parity/lstm", 0, **{METRIC: 1.0, "train/parameters": 1234.0}, **length)
    keep("parity/lstm", 1, **{METRIC: 0.99996, "train/parameters": 1234.0})
    keep("parity/ntm", 2, **{METRIC: 0.5, "test/length_5/state": 8.0, "test/length_7/state": 10.0})
    keep("parity/ntm", 7)  # no seed of this board
    main(write(about="The first lines."))
    text = Path("RESULTS.md").read_text()
    assert text.startswith("# Two by two\n\nThe first lines.\n\n![right symbols, tasks by models")
    assert "`memnets scoreboard --config board.yaml --records=kept`, which trains what" in text
    assert "3 of 7 runs are finished" in text
    assert (
        "| [parity](RESULTS/parity.md) | 50 | 99.9 (99.9) [100?] | 50 (50), 1 of 3 seeds [25] |"
        in text
    )
    assert "| [Words](RESULTS/s3.md) | - | not run | left out |" in text
    assert "| LSTM | `symbols/lstm` | 1,234 | 8 | 3 | 2 |  |" in text
    assert "| ntm | `symbols/ntm` | - | 8 at 5; 10 at 7 | 3 | 2 | slots |" in text

    page = Path("RESULTS/parity.md").read_text()
    assert "| LSTM | 2 of 2 | 99.9 | 100 (0) | 99.9 (1) | 100? | 1,234 | 8 | 3 | - | 2 |" in page
    assert page.count("- Published: Someone 1999") == 1
    assert "## What was tried\n\nNothing else.\n" in page
    assert "memnets fit --config=symbols/lstm --threads=1 --data=tasks.symbols.Parity" in page
    assert "![Right answers by length, a line for each model](parity.png)" in page
    other = Path("RESULTS/s3.md").read_text()
    assert "| ntm | left out | - |" in other
    assert "- ntm: too slow" in other
    assert "png" not in other
    assert "By chance 50 percent are right." in page
    assert "By chance" not in other

    (kind, board), (_, lines) = drawn
    assert kind == "grid"
    assert board.rows == [("parity", 0.5), ("Words", None)]
    assert board.cells[0][0] == plots.GridCell([1.0, 0.99996], 1.0, False, False)
    assert board.cells[1] == [plots.GridCell([]), plots.GridCell([], left_out=True)]
    assert lines == {"lstm": plots.Line("LSTM", {5: [1.0], 9: [0.5]})}


@pytest.mark.usefixtures("elsewhere")
def test_records_are_copies_of_finished_runs_and_give_the_same_pages(drawn) -> None:
    folder = Path("runs/seed_1/parity/lstm/version_0")
    folder.mkdir(parents=True)
    exact = {**SCORES, METRIC: 0.123456789}
    (folder / "metrics.json").write_text(json.dumps(exact))
    keep("parity/lstm", 0)
    report()
    assert json.loads(Path("kept/parity/lstm/seed_1.json").read_text())[METRIC] == 0.123457
    assert sorted(path.name for path in Path("kept").rglob("*.json")) == [
        "seed_0.json",
        "seed_1.json",
    ]
    pages = Path("RESULTS.md").read_text(), Path("RESULTS/parity.md").read_text()
    times = {path: path.stat().st_mtime_ns for path in Path("kept").rglob("*.json")}
    report()
    assert {path: path.stat().st_mtime_ns for path in times} == times, "written again unchanged"
    (folder / "metrics.json").unlink()
    report()
    assert pages == (Path("RESULTS.md").read_text(), Path("RESULTS/parity.md").read_text())
    # A run that has a record is finished: it is not trained again.
    run = Run("parity/lstm", 0, Path("runs/seed_0"), (), Path("kept/parity/lstm/seed_0.json"))
    assert run.finished() == (run.record, SCORES)


def test_a_number_of_settings_changes_with_what_results_depend_on_alone() -> None:
    config = {"name": "a/b", "seed_everything": 1, "model": {"class_path": "A"}, "data": {"x": 2}}
    flags = ["--data=tasks.Copying", "--data.train=/here/words.txt", "--model.width=3"]
    number = number_of(config, flags)
    assert float(f"{number:.6g}") == number  # as in a record
    for same in (
        number_of({**config, "name": "c/d", "seed_everything": 2, "runs": "there"}, flags),
        number_of(dict(reversed(config.items())), flags),
        number_of(config, [flag.replace("/here/", "../") for flag in flags]),
        number_of(config, [*flags, "--data.workers=1", "--trainer.enable_progress_bar=false"]),
        number_of(config, ["--threads=2", *flags, "--pictures_every=0"]),
    ):
        assert same == number
    for other in (
        number_of({**config, "model": {"class_path": "B"}}, flags),
        number_of({**config, "trainer": {"max_steps": 3}}, flags),
        number_of(config, flags[:2]),
        number_of(config, [*flags, "--trainer.max_steps=3"]),
        number_of(config, [flag.replace("words", "names") for flag in flags]),
    ):
        assert other != number


def test_a_number_of_settings_stays_that_of_records() -> None:
    config = {"name": "a/b", "model": {"class_path": "A"}, "data": {"x": 2}, "trainer": {"y": 3}}
    flags = ["--data=tasks.Copying", "--data.workers=1", "--trainer.max_steps=3", "--threads=2"]
    assert number_of(config, flags) == number_of(config, flags, as_written=True) == 168729.0


def test_a_number_of_settings_does_not_depend_on_an_order_that_means_nothing() -> None:
    flags = ["--data=T", "--trainer.max_steps=9", "--data.b=1", '--data.a={"y": [1, 2], "x": 3}']
    number = number_of({}, flags)
    for order in itertools.permutations(flags[1:]):
        assert number_of({}, [flags[0], *order]) == number
    assert number_of({}, [*flags[:3], '--data.a={"x": 3, "y": [1, 2]}']) == number
    assert number_of({}, flags, as_written=True) != number_of({}, flags[::-1], as_written=True)
    for first, second in (
        ("--data=T", "--data.a=1"),
        ("--data.a=1", "--data.a=2"),
        ("--data.a.b=1", '--data.a={"c": 2}'),
        ("--model.init_args.a=1", "--model.a=2"),
        ("--model.a=[1]", "--model.a+=2"),
        ("--config=mine.yaml", "--model.a=2"),
    ):
        assert number_of({}, [first, second]) != number_of({}, [second, first]), (first, second)
    assert number_of({}, ["--data.a=[1, 2]"]) != number_of({}, ["--data.a=[2, 1]"])


@pytest.mark.usefixtures("elsewhere")
def test_settings_of_a_grid_in_another_order_are_the_same() -> None:
    def run_of(settings: dict[str, Any]) -> Run:
        task = GridTask("tasks.symbols.Parity", settings)
        model = GridModel("symbols/lstm")
        grid = Grid({"lstm": model}, {"parity": task}, METRIC, seeds=(0,))
        return _board(tuple(grid.entries()), Path("runs"), 1, None, trained=True)[0][1][0]

    written = {"max_length": 40, "longest": 500, "test_sets": [(4, 2)], "symbols": {"b": 1, "a": 2}}
    turned = {**dict(reversed(written.items())), "symbols": {"a": 2, "b": 1}}
    one, other = run_of(written), run_of(turned)
    assert one.settings == other.settings
    assert not one.changed({"train/settings": other.settings})
    # A record of before has the number of the order as it is written.
    assert one.as_written != one.settings
    assert not one.changed({"train/settings": one.as_written})
    assert other.changed({"train/settings": one.as_written})
    assert one.changed({"train/settings": run_of({**written, "longest": 400}).settings})


#: Name of a setting -> whether it decides the run, the scores of a test; as a flag, the result.
DECIDES = {
    "model": (True, True, True),
    "model.init_args.controller": (True, True, True),
    "data.init_args.max_length": (True, True, True),
    "data.init_args.workers": (False, False, False),
    "data.workers": (False, False, False),
    "data.workers_of_mine": (True, True, True),
    "datamine": (False, False, False),
    "seed_everything": (True, True, False),
    "test_weights": (True, False, True),
    "init_from": (False, False, True),
    "trainer.max_steps": (False, False, True),
    "trainer.precision": (False, True, True),
    "trainer.callbacks": (False, True, True),
    "trainer.limit_test_batches": (False, True, True),
    "trainer.enable_progress_bar": (False, False, False),
    "threads": (False, False, False),
    "runs": (False, False, False),
    "name": (False, False, False),
}


@pytest.mark.parametrize("name", DECIDES)
def test_which_settings_decide_what(name) -> None:
    found = (decides_run(name), decides_scores(name), decides_result(f"--{name}=1"))
    assert found == DECIDES[name]


@pytest.mark.usefixtures("elsewhere")
def test_cells_of_other_settings_say_so(drawn, monkeypatch) -> None:
    board = _board(tuple(made().entries()), Path("runs"), 1, Path("kept"), trained=True)
    now = {group[0].name: group[0].settings for _, group in board}
    keep("parity/lstm", 0, **{"train/settings": now["parity/lstm"]})
    keep("parity/lstm", 1)  # of before there were numbers
    keep("parity/ntm", 0, **{"train/settings": now["parity/ntm"] + 1})
    keep("parity/ntm", 1, **{"train/settings": now["parity/ntm"]})
    keep("s3/lstm", 0, **{"train/settings": now["parity/lstm"]})  # of another task
    report()
    text = Path("RESULTS.md").read_text()
    assert "| 75 (75) [100?] | 75 (75), 2 of 3 seeds, other settings [25] |" in text
    assert "| 75 (75), 1 of 2 seeds, other settings | left out |" in text
    page = Path("RESULTS/parity.md").read_text()
    assert "| LSTM | 2 of 2 | " in page
    assert "| ntm | 2 of 3; 1 of other settings | " in page
    # The config of a model changes.
    monkeypatch.setattr(boards, "read_settings", lambda path: {"model": "another"})
    report()
    assert "| 75 (75), other settings [100?] | 75 (75), 2 of 3 seeds, other" in (
        Path("RESULTS.md").read_text()
    )


@pytest.mark.usefixtures("elsewhere")
def test_entries_have_records_too(monkeypatch) -> None:
    monkeypatch.setattr(plots, "scoreboard", lambda *arguments: None)
    keep("parity/lstm", 0)
    entry = Entry("symbols/lstm", (Score(METRIC),), (0,), name="parity/lstm")
    report(grid=Grid(), entries=(entry,))
    assert "| 1 of 1 | 0.75 |" in Path("RESULTS.md").read_text()
    assert "Settings that have changed" not in Path("RESULTS.md").read_text()
    keep("parity/lstm", 0, **{"train/settings": 1.0})
    report(grid=Grid(), entries=(entry,))
    assert "were trained:\n\n- lstm, seed 0: other settings" in Path("RESULTS.md").read_text()


@pytest.mark.usefixtures("elsewhere")
def test_a_damaged_record_is_named_and_stops_no_other(drawn) -> None:
    keep("parity/lstm", 0)
    Path("kept/parity/lstm/seed_1.json").write_text("{")
    Path("kept/parity/ntm").mkdir()
    Path("kept/parity/ntm/seed_0.json").write_text('{"train/x": 1}')
    with pytest.raises(boards.ScoreboardError) as raised:
        report()
    message = str(raised.value)
    assert "the run in kept/parity/lstm/seed_1.json is damaged: " in message
    assert "mend the file, or move it away to have the run begun anew" in message
    assert f"expected {METRIC} in kept/parity/ntm/seed_0.json; got train/x" in message
    assert "| 75 (75), 1 of 2 seeds [100?] | not run [25] |" in Path("RESULTS.md").read_text()


@pytest.mark.parametrize(
    ("changes", "settings", "expected"),
    [
        ({"models": {}}, {}, "a grid needs at least one model and one task; got none"),
        ({"metric": ""}, {}, "a grid needs a metric, such as test/longer/accuracy; got none"),
        ({"tasks": {}}, {}, "a grid needs at least one model and one task; got none"),
        (
            {"tasks": {"lstm": {"data": "tasks.symbols.Parity"}}},
            {},
            "a task and a model of a grid need two names; got lstm for both",
        ),
        (
            {"pairs": {"parity/gru": {}}},
            {},
            "pairs must name what is in the grid, such as parity/lstm; got parity/gru",
        ),
        (
            {"tasks": {"parity": {"data": "t", "published": {"gru": {"score": 1}}}}},
            {},
            "published of parity must name what is in the grid, such as lstm; got gru",
        ),
        ({"seeds": [1, 1]}, {}, "seeds of parity/lstm must be different"),
        ({"tasks": {"a b": {"data": "t"}}}, {}, "letters, digits and signs but no space"),
        ({}, {"entries": (Entry("symbols/lstm", ()),)}, "entries or of a grid; got both"),
        ({}, {"results": "RESULTS"}, "results of a grid must have an ending.*; got RESULTS"),
        (
            {"tasks": {"parity": {"data": "t", "chance": 50}}},
            {},
            "chance of parity must be in .0, 1.; got 50",
        ),
        ({}, {"records": __file__}, "records must be a folder; .*test_grid.py is a file"),
    ],
)
@pytest.mark.usefixtures("elsewhere")
def test_bad_grids_are_named_and_nothing_is_written(changes, settings, expected) -> None:
    pairs = {} if {"models", "tasks"} & set(changes) else GRID["pairs"]
    with pytest.raises(ValueError, match=expected):
        report(grid=made(**{"pairs": pairs, **changes}), **settings)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"tasks": {"parity": {"data": "t", "chance": "half"}}},
            "chance: expected a number; got half",
        ),
        ({"tasks": {"parity": 3}}, "grid.tasks: expected settings by names; got 3"),
        ({"models": {"lstm": "symbols/lstm"}}, "expected settings by names; got symbols/lstm"),
        ({"models": ["symbols/lstm"]}, "expected settings by names; got ['symbols/lstm']"),
        ({"pairs": {"parity/lstm": "x"}}, "grid.pairs: expected settings by names; got x"),
        ({"seeds": "some"}, "grid.seeds: expected a list; got some"),
    ],
)
@pytest.mark.usefixtures("elsewhere")
def test_settings_of_another_form_are_named(capfd, changes, expected) -> None:
    message = fails(capfd, *write(**changes))
    assert expected in message
    assert "<class" not in message
    assert len(message) < 200


@pytest.mark.parametrize("grid", [3, [1]])
@pytest.mark.usefixtures("elsewhere")
def test_a_grid_that_is_none_is_named(capfd, grid) -> None:
    Path("board.yaml").write_text(yaml.safe_dump({"grid": grid}))
    message = fails(capfd, "scoreboard", "--config=board.yaml", "--report_only")
    assert "expected settings by their names, as {name: value}; got a" in message


@pytest.mark.usefixtures("elsewhere")
def test_a_setting_that_a_grid_does_not_have_is_named(capfd) -> None:
    message = fails(capfd, *write(modles={"lstm": {"config": "x"}}))
    assert "modles" in message
    assert [path.name for path in Path().iterdir()] == ["board.yaml"]


def test_the_pages_of_memories_are_what_the_records_give(drawn, monkeypatch, tmp_path) -> None:
    """Those in the repository: redraw them by the command that the page names."""
    monkeypatch.chdir(ROOT)
    board = read_settings(find_config("scoreboards/memories"))
    grid = made(**{"seeds": Grid().seeds, **board["grid"]})
    results = tmp_path / "memories.md"
    report(
        grid=grid,
        records=board["records"],
        runs=str(tmp_path / "none"),
        results=str(results),
        command="memnets scoreboard --config scoreboards/memories",
    )
    kept = ROOT / board["results"]
    assert results.read_text() == kept.read_text()
    for task in grid.tasks:
        page = f"memories/{task}.md"
        found = (tmp_path / page).read_text()
        assert found == (kept.parent / page).read_text()
        drawn_too = (kept.parent / page).with_suffix(".png").exists()
        assert drawn_too == (f"({task}.png)" in found)
    assert kept.with_suffix(".png").is_file()
