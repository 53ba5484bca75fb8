"""Two processes train, test and end as one does, and leave one run."""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from memnets.app import processes
from memnets.app.cli import main
from memnets.training.runs import load_checkpoint
from tasks import CopyingTokens
from tests import pair
from tests.forked import MAY_FORK, Forked

ROOT = Path(__file__).parent.parent
ALONE = ["--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
DDP = ["--trainer.devices=2", "--trainer.num_nodes=1"]


def started(module: str, *arguments: str, folder: Path) -> Forked:
    """``python -m`` with a module, whose first process need not import again."""

    def run() -> None:
        os.chdir(ROOT)
        sys.argv = [module, *arguments]
        sys.modules.pop(module, None)
        runpy.run_module(module, run_name="__main__", alter_sys=True)

    folder.mkdir()
    return Forked(run, folder=folder)


def together(folder: Path) -> list[Forked]:
    """Two processes that do all that two are to do, as if torchrun had begun them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "a",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }  # fmt: skip
    for rank in "01":
        (folder / rank).mkdir()
    return [
        Forked(pair.together, folder, folder=folder / rank, **common, RANK=rank, GROUP_RANK=rank)
        for rank in "01"
    ]


@MAY_FORK
@pytest.mark.pictures
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_two_processes_do_what_one_does(tmp_path, capsys) -> None:
    # First of all, so that the two find the checkpoint of one.
    alone = {"seq2seq": pair.trained("seq2seq", True, tmp_path)}
    both = together(tmp_path)
    try:
        others = [name for name in pair.MODELS if name not in alone]
        alone |= {name: pair.trained(name, True, tmp_path) for name in others}
        tested = pair.tested(True)
        codes = [process.wait(300) for process in both]
    finally:
        for process in both:
            process.kill()
    said = [process.said() for process in both]
    assert all((tmp_path / f"{rank}.pt").exists() for rank in "01"), said
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in "01"]
    check_training(alone, found)
    check_going_on(tmp_path, found)
    check_tests(tested, found)
    whole = tmp_path / "whole" / "copying" / "transformer" / "version_0"
    check_what_is_said(codes, said, whole)
    check_one_run(whole, capsys)
    check_kill(tmp_path, whole)


def check_training(alone, found) -> None:
    """Training equals that of one process with the batches of both, to rounding."""
    for name, one in alone.items():
        for of_rank in found:
            two = of_rank[name]
            assert two["scores"] == pytest.approx(one["scores"], rel=1e-12)
            for key, weight in one["weights"].items():
                torch.testing.assert_close(two["weights"][key], weight, rtol=1e-12, atol=1e-14)
        # Processes share out the batches.
        assert [of_rank[name]["seen"] for of_rank in found] == [[0, 2, 4], [1, 3, 5]]
        assert one["seen"] == [0, 1, 2, 3, 4, 5]


def check_going_on(folder, found) -> None:
    """Another number of processes goes on behind the batches that are taken."""
    # One process took three batches, and two go on; then two took six, and one goes on.
    assert [of_rank["resumed"] for of_rank in found] == [[3, 5], [4, 6]]
    assert pair.resumed(True, folder) == [6, 7]


def check_tests(one, found) -> None:
    """Scores, answers and predictions are those of one process, to the bit."""
    assert one["scores"]["test/chrf"] > 0
    for two in (of_rank["tested"] for of_rank in found):
        assert two["scores"] == one["scores"]
        assert two["notes"] == one["notes"] != []
        assert list(two["answers"]) == ["test"]
        for given, expected in ((two["answers"]["test"], one["answers"]["test"]),
                                (two["predictions"], one["predictions"])):  # fmt: skip
            assert len(given) == len(expected) > 2
            assert all(map(torch.equal, given, expected))


def check_what_is_said(codes, said, whole) -> None:
    """One of the processes speaks, and one line says why a run ends by an error."""
    assert codes == [1, 1]
    (out, first), (silent, second) = (
        [stream.partition(f"{pair.BEGIN}\n")[2] for stream in streams] for streams in said
    )
    assert out.endswith(f"Everything is in {whole}\n")
    assert silent == ""
    # The second one met the damaged batch.
    assert first == ""
    assert second.startswith("memnets: error: tests/pair.py:")
    assert second.endswith(
        ", in Faulty.batch: batch 3 is damaged (MEMNETS_TRACEBACK=1 shows where)\n"
    )
    assert second.count("\n") == 1


def check_one_run(whole, capsys) -> None:
    """A run of two processes leaves one folder, with the scores and the pictures of one."""
    assert [path.name for path in whole.parent.iterdir()] == ["version_0"]
    metrics = json.loads((whole / "metrics.json").read_text())
    assert metrics["train/sequences"] == 2 * 2 * 7
    rows = (whole / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + 7 + 1  # the test has a row of its own
    pictures = {path.name: path.read_bytes() for path in (whole / "pictures").iterdir()}
    assert pictures
    for path in (whole / "pictures").iterdir():
        path.unlink()
    best = str(whole / "checkpoints" / "best.ckpt")
    main(["test", "--ckpt_path", best, *ALONE])
    assert {path.name: path.read_bytes() for path in (whole / "pictures").iterdir()} == pictures
    assert json.loads((whole / "metrics.json").read_text()) == metrics
    capsys.readouterr()


def check_kill(folder, whole) -> None:
    """A killed process ends the run, which then goes on bit for bit."""
    runs = folder / "killed"
    untested = "--trainer.limit_test_batches=0"  # which saves time
    command = ["fit", *pair.RUN, *DDP, untested, f"--runs={runs}"]
    killed = started("tests.pair", *command, folder=folder / "said")
    code, (_, error) = killed.wait(300), killed.said()
    run = runs / "copying" / "transformer" / "version_0"
    last = run / "checkpoints" / "last.ckpt"
    assert code == 1
    assert error == (
        "memnets: error: process 1 of this run was killed (SIGKILL); stopped at step 5; the run is "
        f"in {run}; to go on from step 3: memnets fit --ckpt_path {last}\n"
    )
    again = started(
        "memnets.__main__", "fit", "--ckpt_path", str(last), folder=folder / "said again"
    )
    code, (out, error) = again.wait(300), again.said()
    assert (code, error) == (0, "")
    assert f"Going on from step 3 of {last}" in out
    weights = [load_checkpoint(one / "checkpoints" / "last.ckpt") for one in (run, whole)]
    for one, other in zip(*(each["state_dict"].values() for each in weights), strict=True):
        assert torch.equal(one, other)
    one, other = (json.loads((each / "metrics.json").read_text()) for each in (run, whole))
    assert one["val/loss"] == other["val/loss"]
    differ = {name for name in one if one[name] != other[name]}
    assert differ == {"train/seconds", "train/tokens_per_second"}


def fit(tmp_path, *arguments: str) -> None:
    main(["fit", *pair.RUN, *ALONE, f"--runs={tmp_path / 'runs'}", *arguments])


@pytest.mark.usefixtures("sketches")
def test_another_number_of_processes_is_said(tmp_path, capsys) -> None:
    fit(tmp_path, "--trainer.max_steps=2")
    last = tmp_path / "runs" / "copying" / "transformer" / "version_0" / "checkpoints" / "last.ckpt"
    content = load_checkpoint(last)
    assert content["processes"] == 1
    (loader,) = content["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert loader == {"own": 2, "taken": 2}
    # As if two processes had taken two batches each.
    content["processes"], loader["taken"] = 2, 4
    torch.save(content, last)
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        made = CopyingTokens.batch
        patch.setattr(
            CopyingTokens, "batch",
            lambda self, split, index: seen.append((split, index)) or made(self, split, index),
        )  # fmt: skip
        main(["fit", "--ckpt_path", str(last), "--trainer.max_steps=4"])
    assert [index for split, index in seen if split == "train"] == [4, 5]
    assert (
        "Going on with 1 process in place of 2: a step takes as many batches; none is left out or "
        "repeated, noise is drawn anew\n"
    ) in capsys.readouterr().out

    loader["taken"] = -1
    torch.save(content, last)
    with pytest.raises(SystemExit):
        main(["fit", "--ckpt_path", str(last), "--trainer.max_steps=6"])
    assert "expected the numbers of batches of a checkpoint; got [2, -1]" in capsys.readouterr().err


def test_torchrun_and_the_trainer_must_agree(tmp_path, capsys, monkeypatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        fit(tmp_path)
    assert capsys.readouterr().err == (
        "memnets: error: torchrun has started 2 processes, and the trainer's settings are for 1: "
        "give --trainer.strategy=ddp, with --trainer.devices for the processes of a machine and "
        "--trainer.num_nodes for the machines (MEMNETS_TRACEBACK=1 shows where)\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", "process 1 of this run was killed (SIGKILL)"),
        ("raise SystemExit(3)", None),  # it has said why
    ],
)
def test_a_process_that_waits_for_one_that_has_ended_ends_too(code, said) -> None:
    script = (
        "import subprocess, sys, time\n"
        "from memnets.app import processes\n"
        "processes.PATIENCE = 0.1\n"
        f"one = subprocess.Popen([sys.executable, '-c', {code!r}])\n"
        "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "processes.Children().observe([one, other])\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=50)
    assert ended.returncode == 1
    assert ended.stderr == (f"memnets: error: {said}\n" if said else "")


def test_processes_have_time_for_their_last_words(capfd) -> None:
    slow = "import time; time.sleep(0.2); print('done', flush=True); time.sleep(60)"
    for patience, said in ((1.0, "done\n"), (0, "")):
        children = processes.Children()
        children.processes = [subprocess.Popen([sys.executable, "-c", slow])]
        children.end(patience)
        assert children.processes[0].wait(10) == -signal.SIGKILL
        assert children.killed() == "process 1 of this run was killed (SIGKILL)"
        assert capfd.readouterr().out == said


class Store:
    """Of the processes of a run, which have met."""

    def __init__(self, broken: bool = False) -> None:
        self.asked, self.broken = 0, broken

    def add(self, name: str, number: int) -> int:
        if self.broken:
            raise ConnectionError
        self.asked += number
        return self.asked


@pytest.fixture
def distributed(monkeypatch):
    """Stands for torch.distributed."""
    store = Store()
    stand_in = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        get_world_size=lambda: 2,
        distributed_c10d=SimpleNamespace(_get_default_store=lambda: store),
        store=store,
    )
    monkeypatch.setitem(sys.modules, "torch.distributed", stand_in)
    monkeypatch.setattr(processes, "_says", None)
    return stand_in


def test_the_first_that_has_an_error_says_it(distributed, monkeypatch) -> None:
    assert processes.says_errors()
    assert processes.says_errors()  # it stays so
    monkeypatch.setattr(processes, "_says", None)  # another process
    assert not processes.says_errors()


@pytest.mark.parametrize(("rank", "local", "says"), [(1, 1, True), (3, 3, False), (2, 0, True)])
def test_without_the_first_one_another_says_it(distributed, monkeypatch, rank, local, says) -> None:
    distributed.store.broken = True
    monkeypatch.setattr(processes, "rank", lambda: rank)
    monkeypatch.setenv("LOCAL_RANK", str(local))
    assert processes.says_errors() == says


@pytest.mark.parametrize(
    ("rank", "variables", "says"),
    [
        (0, {}, True),
        (1, {"LOCAL_RANK": "1"}, False),
        (1, {"LOCAL_RANK": "0"}, True),
        (1, {"LOCAL_RANK": "1", "NODE_RANK": "0"}, True),
    ],
)
def test_before_they_meet_one_of_a_machine_says_errors(
    distributed, monkeypatch, rank, variables, says
) -> None:
    distributed.is_initialized = lambda: False
    monkeypatch.setattr(processes, "rank", lambda: rank)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert processes.says_errors() == says
