"""The build of the operators in C++: once, whole or not at all, and never in the way."""

import os
import signal
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from memnets import fast
from memnets.app.cli import main
from memnets.kernels.native import build

# Nothing here compiles, and no library is loaded: a second one would register its operators twice.


@pytest.fixture
def fresh(tmp_path, monkeypatch) -> Path:
    """As in a new process with an empty cache; gives the folder of the cache."""
    monkeypatch.setattr(build, "_loaded", False)
    monkeypatch.setattr(build, "_failed", None)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv(build.SWITCH, raising=False)
    return tmp_path / "cache" / "memnets"


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Makes a compiler of a few lines of shell; gives its calls, one for each build."""

    def make(script: str):
        path, log = tmp_path / "compiler", tmp_path / "calls"
        log.write_text("")
        # In the script, $made is the file that it is asked to make.
        found = 'while [ "$1" != -o ]; do shift; done; made=$2'
        path.write_text(f'#!/bin/sh\necho "$*" >> {log}\n{found}\n{script}\n')
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("CXX", str(path))
        # The file that comes first: where it fails at once, the others may not even begin.
        return lambda: [call for call in log.read_text().splitlines() if "run.cpp" in call]

    return make


def files(folder: Path) -> set[str]:
    """Kinds of files in a folder; locks say nothing."""
    return {path.suffix for path in folder.glob("*")} - {".lock"}


def test_a_switch_turns_the_operators_off(fresh, compiler, monkeypatch):
    calls = compiler("exit 0")
    monkeypatch.setenv(build.SWITCH, "0")
    assert build.why_not() == "switched off by MEMNETS_NATIVE=0"
    assert not calls()
    assert not fresh.exists()


def test_without_a_compiler_there_is_a_reason_and_no_trace(fresh, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    assert not build.loaded()
    assert build.why_not() == "no C++ compiler: no-such-compiler is not found"
    assert not fresh.exists()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("named", ["  ", '"g++', "''", "/"])
def test_a_compiler_of_no_sense_is_a_reason_or_the_usual_one(fresh, monkeypatch, named, capsys):
    monkeypatch.setenv("CXX", named)
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    assert build.why_not().startswith("no C++ compiler: ")
    main(["doctor"])
    assert "compiler           none (" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["a" * 300, "~nobody-here/x", "\0"])
def test_a_cache_of_no_sense_is_a_reason(fresh, compiler, monkeypatch, tmp_path, folder):
    compiler("exit 1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build.os, "environ", {**build.os.environ, "TORCH_EXTENSIONS_DIR": folder})
    assert build.why_not()


def test_a_user_without_a_home_has_a_cache(fresh, compiler, monkeypatch, tmp_path):
    compiler("exit 1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(build.os.path, "expanduser", lambda path: path)
    assert build.why_not().endswith("compiler failed with 1: it said nothing")


def test_files_that_cannot_be_locked_are_a_reason(fresh, compiler, monkeypatch):
    compiler("exit 0")

    def refuse(*arguments):
        raise NotImplementedError("no locks here")

    monkeypatch.setattr(build, "FileLock", refuse)
    assert build.why_not() == f"{fresh} cannot be written: no locks here"


def test_a_compiler_that_makes_nothing_is_a_reason(fresh, compiler, capsys):
    compiler("exit 0")
    assert build.why_not().endswith("compiler ended well, but made no library")
    assert "not built" in capsys.readouterr().err.splitlines()[-1]
    assert files(fresh) == set()


def test_a_fault_that_nobody_thought_of_is_a_reason(fresh, compiler, monkeypatch, capsys):
    compiler("exit 0")

    def fault():
        raise ImportError("no such module")

    monkeypatch.setattr(build, "_arguments", fault)
    assert build.why_not() == "no such module"
    assert capsys.readouterr().err.splitlines()[-1].endswith(": no such module")


def test_what_a_compiler_runs_ends_with_it(fresh, compiler, tmp_path):
    # The second file fails while the first is compiled by a process of the compiler's own.
    compiler(
        f'case "$made" in *run.o) (sleep 1; echo x > "{tmp_path}/late") & wait;; *) exit 1;; esac'
    )
    assert build.why_not().endswith("failed with 1: it said nothing")
    time.sleep(1.5)
    assert not (tmp_path / "late").exists()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_forked_in_a_build_does_not_wait_for_it(fresh, monkeypatch):
    monkeypatch.setenv(build.SWITCH, "0")
    with build._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # ends it, should it wait
            os._exit(7 if not build.loaded() else 8)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_build_that_fails_is_not_tried_again(fresh, compiler, capsys):
    calls = compiler("echo 'run.cpp:7:1: error: what is this' >&2; exit 3")
    for _ in range(3):
        assert not build.loaded()
    assert len(calls()) == 1
    assert build.why_not().endswith("compiler failed with 3: run.cpp:7:1: error: what is this")
    begun, ended = capsys.readouterr().err.splitlines()
    assert begun.startswith("memnets: building its CPU operators once, about ")
    assert ended.startswith("memnets: not built, so steps run without them, slower")
    assert files(fresh) == set()


def test_a_library_is_built_once_and_replaced_if_it_is_damaged(
    fresh, compiler, monkeypatch, capsys
):
    calls = compiler('echo "no library" > "$made"')
    assert "the library cannot be loaded" in build.why_not()
    assert files(fresh) == {".so"}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert str(build.library()) in lines[0]
    assert lines[1].startswith("memnets: CPU operators built in ")
    assert len(calls()) == 1
    # The next process finds it damaged, builds another, and leaves it at that.
    monkeypatch.setattr(build, "_failed", None)
    assert "the library cannot be loaded" in build.why_not()
    assert len(calls()) == 2


def test_a_whole_library_is_loaded_and_not_built(fresh, compiler, monkeypatch):
    calls, loaded = compiler("exit 1"), []
    fresh.mkdir(parents=True)
    build.library().write_bytes(b"")
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    assert build.loaded()
    assert build.why_not() is None
    assert loaded == [str(build.library())]
    assert not calls()


def test_a_cache_that_cannot_be_written_is_a_reason(fresh, compiler):
    calls = compiler("exit 0")
    fresh.parent.write_text("a file")
    assert build.why_not().startswith(f"{fresh} cannot be written: ")
    assert not calls()


def test_of_several_at_once_one_builds(fresh, compiler):
    calls = compiler('sleep 0.3; echo x > "$made"')
    path = build.library()
    together = [threading.Thread(target=build._build_once, args=(path,)) for _ in range(3)]
    for one in together:
        one.start()
    for one in together:
        one.join()
    assert path.read_text() == "x\n"
    assert len(calls()) == 1


def test_what_a_killed_build_left_is_removed(fresh, compiler):
    compiler('echo x > "$made"')
    path = build.library()
    left = fresh / f"{path.stem}.abc.building"
    left.mkdir(parents=True)
    (left / path.name).write_text("half")
    path.with_suffix(".lock").write_text("")
    build._build_once(path)
    assert path.read_text() == "x\n"
    assert files(fresh) == {".so"}


def test_a_build_that_is_stopped_ends_the_compiler_and_leaves_nothing(fresh, compiler, monkeypatch):
    compiler(f'sleep 60; echo x > "{fresh}/late"')
    started = []

    class Stopped(build.subprocess.Popen):
        def poll(self):
            if not started:
                started.append(self)
                raise KeyboardInterrupt
            return super().poll()

    monkeypatch.setattr(build.subprocess, "Popen", Stopped)
    with pytest.raises(KeyboardInterrupt):
        build.loaded()
    assert started[0].returncode is not None
    assert files(fresh) == set()
    assert build._failed is None


def test_a_slow_build_says_that_it_goes_on(fresh, compiler, monkeypatch, capsys):
    compiler('sleep 0.5; echo x > "$made"')
    monkeypatch.setattr(build, "EXPECTED", 0.2)
    build._build_once(build.library())
    lines = capsys.readouterr().err.splitlines()
    assert lines[1].startswith("memnets: still building its CPU operators, ")
    assert lines[-1].startswith("memnets: CPU operators built in ")


def test_a_worker_that_makes_batches_does_not_build(fresh, compiler, monkeypatch):
    calls = compiler("exit 0")
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: SimpleNamespace(id=0))
    assert not build.loaded()
    assert build.why_not() is None  # the process that trains may build them yet
    assert not calls()


def test_other_sources_are_another_library(fresh, tmp_path, monkeypatch):
    before = build.library()
    assert before.parent == fresh
    assert before == build.library()
    monkeypatch.setenv("CXX", "clang++")
    assert build.library() != before
    monkeypatch.delenv("CXX")
    copy = tmp_path / "sources"
    copy.mkdir()
    for path in build.SOURCES.glob("*.[ch]*"):
        (copy / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(build, "SOURCES", copy)
    monkeypatch.setenv("CXX", "")
    same = build.library()
    with (copy / "ntm.h").open("a") as file:
        file.write("// another line\n")
    assert build.library() != same


def test_the_doctor_says_what_runs_here_and_what_does_not(fresh, monkeypatch, capsys):
    monkeypatch.setenv(build.SWITCH, "off")
    main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("torch ")).split()[1] == torch.__version__
    for twin in fast.twins():
        (line,) = (one for one in lines if one.split()[:2] == [twin.stands_for, twin.name])
        reason = twin.why_not()
        assert line.endswith("  yes" if reason is None else f"  no: {reason}")
        assert not twin.name.startswith("C++") or reason == "switched off by MEMNETS_NATIVE=off"


def test_the_doctor_has_a_page_of_help(capsys):
    with suppress(SystemExit):
        main(["doctor", "--help"])
    assert capsys.readouterr().out.startswith("usage: memnets doctor\n")
