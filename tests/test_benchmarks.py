"""The benchmarks: each can be asked what it does, and the core counts right."""

import importlib
import itertools
import json
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).parent.parent / "benchmarks"
#: All but the core, and those that pytest runs.
SCRIPTS = [
    path for path in sorted(ROOT.glob("*.py")) if path.stem != "pairs" and "test_" not in path.stem
]


@pytest.fixture
def core(monkeypatch):
    """The module of the core, and room for the scripts' own imports."""
    monkeypatch.syspath_prepend(ROOT)
    before = set(sys.modules)
    yield importlib.import_module("pairs")
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(ROOT)):
            del sys.modules[name]


RUN = subprocess.run


class Clock:
    """Stands still, but for what a step takes."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def step(self, *seconds):
        """A step that takes so long, round by round."""
        endless = itertools.cycle(seconds)

        def take():
            self.now += next(endless)

        return take


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.usefixtures("core")
def test_a_script_tells_what_it_does(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith("usage: ")
    assert f"{script.name} " in told


def test_programs_take_turns(core):
    order = []
    programs = {name: lambda name=name: order.append(name) for name in "ab"}
    rounds = []
    core.turns(programs, 3, told=rounds.append, warm_up=1)
    # Once to warm up; then every other round in the opposite order.
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert rounds == [1, 2, 3]


def test_ratios_are_those_of_a_round(core):
    clock = Clock()
    programs = {"ours": clock.step(1.0, 2.0, 4.0), "theirs": clock.step(3.0, 2.0, 40.0)}
    times = core.turns(programs, 3, clock=clock, warm_up=0)
    assert times == {"ours": [1.0, 2.0, 4.0], "theirs": [3.0, 2.0, 40.0]}
    # Of the medians, the ratio would be 3 / 2.
    assert core.ratios(times, "theirs", "ours") == (3.0, 1.0, 10.0)
    assert core.spread([4, 1, 2, 3]) == (2.5, 1, 4)


def test_a_case_is_timed_by_the_pair(core, monkeypatch):
    clock = Clock()
    # Two rounds to warm up, which do not count, then three that do.
    ours, theirs = clock.step(90, 90, 1, 1, 4), clock.step(1, 1, 5, 6, 8)
    turns = core.turns
    monkeypatch.setattr(core, "turns", lambda *given, **named: turns(*given, clock=clock, **named))
    case = core.Case("a case", ours, theirs, 3, goal=5.5, floor=clock.step(0.5))
    row = core.compare(case)
    assert row == ("a case", (5.0, 2.0, 6.0), 3, 1e3, 6e3, 0.5, 5.5)
    assert str(row) == (
        "a case: theirs / ours 5.00 (2.00 to 6.00) of 3 pairs, goal 5.5 missed; "
        "ours 1000.0 ms, theirs 6000.0 ms, floor 0.50 of ours"
    )
    assert core.compare(case, rounds=5).pairs == 5


def test_a_floor_has_the_products_of_all_steps(core, monkeypatch):
    made = []
    monkeypatch.setattr(
        core, "product", lambda *sides: lambda: made.append(tuple(map(shape, sides)))
    )
    with_weights = core.Product(2, 3, 5, times=4)
    core.floor_of([with_weights])()
    forward, inputs, weights = ((2, 3), (3, 5)), ((2, 5), (5, 3)), ((3, 8), (8, 5))
    assert made == [forward] * 4 + [inputs] * 4 + [weights]
    made.clear()
    core.floor_of([core.Product(2, 3, 5, batch=7)])()
    assert made == [((7, 2, 3), (7, 3, 5)), ((7, 2, 5), (7, 5, 3)), ((7, 3, 2), (7, 2, 5))]
    made.clear()
    core.floor_of([with_weights], backward=False)()
    assert made == [forward] * 4


def shape(tensor):
    return tuple(tensor.shape)


def test_another_version_of_a_package_is_told(core, tmp_path):
    peer = core.Peer("dnc", "1.1.0", package="dnc")
    assert (peer.folder, peer.variable) == ("dnc", "DNC")
    assert "holds an unknown version" in peer.differs(tmp_path)
    for version in ("1.1.0", "0.9"):
        folder = tmp_path / version / f"dnc-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Name: dnc\nVersion: {version}\n")
    assert peer.differs(tmp_path / "1.1.0") is None
    assert peer.differs(tmp_path / "0.9") == (
        f"dnc: this script was written for 1.1.0; {tmp_path / '0.9'} holds 0.9, so that it may "
        "fail, or its numbers may mean something else"
    )


def test_another_commit_of_a_checkout_is_told(core, tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    try:
        subprocess.run([*git, "init", "--quiet"], check=True)
    except OSError:
        pytest.skip("needs git")
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "one"], check=True)
    peer = core.Peer("someone/a-library", "0123456789abcdef", inner="src")
    assert (peer.folder, peer.variable) == ("a-library", "A_LIBRARY")
    commit = peer.found(tmp_path)
    assert len(commit) == 40
    assert f"written for 0123456789; {tmp_path} holds {commit[:10]}," in peer.differs(tmp_path)
    assert peer._replace(version=commit).differs(tmp_path) is None
    # A folder within another checkout is not that checkout.
    (tmp_path / "inner").mkdir()
    assert peer.found(tmp_path / "inner") is None


@pytest.fixture
def one_script(core, tmp_path, monkeypatch):
    """``all.py`` with a single script, whose peer is a package of release 2.0."""
    script = tmp_path / "against_other.py"
    script.write_text(
        "from pairs import Case, LeftOut, Peer, run\n"
        "PEER = Peer('other', '2.0', package='other')\n"
        "def cases():\n"
        "    yield Case('a step', lambda: sum(range(100)), lambda: sum(range(100)), 3, 1e-9)\n"
        "    yield LeftOut('another', 'there is no such thing')\n"
        "if __name__ == '__main__':\n"
        "    run('Against other.', PEER, cases)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("OTHER", raising=False)
    every = importlib.import_module("all")
    monkeypatch.setattr(every.subprocess, "run", in_this_process)
    monkeypatch.setattr(every, "SCRIPTS", [script])
    folder = tmp_path / "peers" / "other" / "other-2.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Name: other\nVersion: 2.0\n")
    return every


def in_this_process(command, **settings):
    """Stands for a process of its own, which would import PyTorch anew."""
    if command[0] != sys.executable:  # git
        return RUN(command, **settings)
    _, _, _, script, *arguments = command
    with mock.patch.object(sys, "argv", [script, *arguments]), mock.patch("sys.path", sys.path[:]):
        runpy.run_path(script, run_name="__main__")
    return subprocess.CompletedProcess(command, 0)


def ran(every, monkeypatch, capfd, *more):
    monkeypatch.setattr(sys, "argv", ["all.py", "--output", "table.md", *more])
    every.main()
    return "".join(capfd.readouterr())


def test_one_command_measures_all_and_goes_on(one_script, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    told = ran(one_script, monkeypatch, capfd, "--peers", "peers")
    assert "a step: theirs / ours " in told
    head, _, step, another, *_ = Path("table.md").read_text().splitlines()
    assert head == one_script.HEAD
    assert step.startswith("| other 2.0 | a step | ")
    assert step.endswith("| 1e-09, met |")
    assert another == "| other 2.0 | another | - | - | - | - | - | there is no such thing |"
    # What is recorded is not timed again, and another version of the code is.
    record = Path("table.jsonl")
    assert [json.loads(line)["name"] for line in record.read_text().splitlines()] == [
        "a step",
        "another",
    ]
    record.write_text(record.read_text().replace('"pairs": 3', '"pairs": 1234'))
    assert "a step: known from table.jsonl" in ran(
        one_script, monkeypatch, capfd, "--peers", "peers"
    )
    assert "| 1234 |" in Path("table.md").read_text()
    script = one_script.SCRIPTS[0]
    script.write_text(script.read_text() + "# changed\n")
    ran(one_script, monkeypatch, capfd, "--peers", "peers")
    assert "| 1234 |" not in Path("table.md").read_text()


def test_a_peer_that_is_not_there_is_left_out(one_script, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    told = ran(one_script, monkeypatch, capfd)
    assert "other: left out, neither other in --peers nor OTHER is a folder" in told
    assert "| other | not measured |" in Path("table.md").read_text()


def test_errors_from_several_starts_are_compared_in_pairs(core):
    stats = pytest.importorskip("scipy.stats")
    table = importlib.import_module("pretraining").table
    pairs = list(itertools.product(range(2), range(3)))
    random = {pair: 0.2 + 0.01 * place for place, pair in enumerate(pairs)}
    gains = [0.01, 0.02, 0.03, 0.01, 0.04, 0.03]
    other = {pair: random[pair] - gain for pair, gain in zip(pairs, gains, strict=True)}
    del other[1, 2]
    _, _, first, second, *_ = table({"random": random, "language_model": other}).splitlines()
    # By hand: 20 to 25 %, and per seed the mean of the two folds.
    assert first == "| random | 22.50 | 21.50, 22.50, 23.50 |  |  |  | 6 |"
    cells = [cell.strip() for cell in second.strip("|").split("|")]
    ours = [0.19, 0.19, 0.19, 0.22, 0.20]
    assert cells[1] == f"{100 * sum(ours) / 5:.2f}"
    assert cells[2] == "20.50, 19.50, 19.00"
    assert cells[3] == f"{100 * sum(gains[:5]) / 5:.2f}"
    # Only the five pairs that both have are compared.
    mean = sum(gains[:5]) / 5
    spread = (sum((gain - mean) ** 2 for gain in gains[:5]) / 4) ** 0.5
    assert float(cells[4]) == pytest.approx(2 * stats.t.sf(mean / (spread / 5**0.5), 4), rel=0.1)
    assert cells[6] == "5"
    assert table({"random": {}, "language_model": {}}).count("\n") == 1


def test_a_row_has_the_mean_and_the_worst_of_its_seeds(core, tmp_path, monkeypatch, capsys):
    states = importlib.import_module("state_size")
    files = []
    for seed, accuracy in enumerate((1.0, 0.8)):
        for width in (8, 16):
            folder = tmp_path / f"seed_{seed}" / "recall" / f"a_model_{width}" / "version_0"
            folder.mkdir(parents=True)
            metrics = {"test/longer/accuracy": accuracy, "test/longer/state": width}
            metrics |= {"train/steps": 10, "train/seconds": 1 + 2 * seed}
            files.append(folder / "metrics.json")
            files[-1].write_text(json.dumps(metrics))
    picture = tmp_path / "a.png"
    argv = ["state_size.py", *map(str, files), "--chance", "0.2", "--picture", str(picture)]
    monkeypatch.setattr(sys, "argv", argv)
    states.main()
    *_, first, second = capsys.readouterr().out.splitlines()
    assert first == "| recall/a_model_8 | 0.875 | 0.750 | 2 | 8 | 10 | 2 |"
    assert second == "| recall/a_model_16 | 0.875 | 0.750 | 2 | 16 | 10 | 2 |"
    assert picture.stat().st_size > 1000
    # The record of a run has the same name.
    assert states.name_of(tmp_path / "recall" / "a_model_8" / "seed_0.json") == "recall/a_model_8"
    for more in (["--chance", "1"], ["--score", "test/other/accuracy"]):
        monkeypatch.setattr(sys, "argv", [*argv, *more])
        with pytest.raises(SystemExit):
            states.main()
    told = capsys.readouterr().err
    assert "chance must be in [0, 1); got 1.0" in told
    assert "expected 'test/other/accuracy' in each file" in told


LOST = """
import pytest
from tests import broken_gpu

lost = []
broken_gpu.usable = lambda: not lost


@pytest.mark.parametrize("number", range(4))
def test_it(number):
    assert not lost, "a test that can only fail"
    if number == 1:
        lost.append(number)
    assert number not in (0, 1)
"""


def test_tests_that_follow_the_loss_of_a_gpu_run_again(core, tmp_path, monkeypatch, capfd):
    """Where a process has lost it, each test would fail: the next process runs them."""
    on_gpu = importlib.import_module("on_gpu")
    monkeypatch.setattr(on_gpu.importlib.util, "find_spec", lambda name: None)  # one process
    (tmp_path / "test_lost.py").write_text(LOST)
    assert on_gpu.run_tests([str(tmp_path / "test_lost.py")], f"--rootdir={tmp_path}") == 1
    rounds = capfd.readouterr().out.split("2 tests again, after a process lost the GPU")
    assert "2 failed, 2 skipped" in rounds[0]
    assert "FAILED" in rounds[0]
    assert "test_lost.py::test_it[1]" in rounds[0]
    assert "the GPU is lost to this process since test_lost.py::test_it[1]" in rounds[0]
    assert "2 passed" in rounds[1]
