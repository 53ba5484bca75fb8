"""Files: results that are kept, what is written where, and YAML within bounds."""

import itertools
import math
import os
import signal
import socket
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from memnets import files
from memnets.files import (
    FolderInUse,
    NoPlainFile,
    cached,
    load_yaml,
    only_writer,
    read_settings,
    write_atomically,
)


def ask(folder: Path, key: bytes, result: bytes) -> tuple[bytes, bool]:
    """What comes back, and whether it had to be computed."""
    calls = []

    def compute() -> bytes:
        calls.append(result)
        return result

    return cached(folder, key, compute), bool(calls)


def test_a_result_is_computed_once_for_each_key(tmp_path) -> None:
    assert ask(tmp_path / "new", b"a", b"first") == (b"first", True)
    assert ask(tmp_path / "new", b"a", b"second") == (b"first", False)
    assert ask(tmp_path / "new", b"b", b"") == (b"", True)
    assert ask(tmp_path / "new", b"b", b"third") == (b"", False)
    assert len(list((tmp_path / "new").iterdir())) == 2


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans())
def test_a_damaged_file_is_computed_anew(tmp_path_factory, place, bit, cut) -> None:
    folder = tmp_path_factory.mktemp("cache")
    ask(folder, b"key", b"result")
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    place %= len(content)
    content[place] ^= 1 << bit
    path.write_bytes(content[:place] if cut else content)
    assert ask(folder, b"key", b"result") == (b"result", True)
    assert ask(folder, b"key", b"result") == (b"result", False)


def test_the_file_of_another_key_is_not_used(tmp_path) -> None:
    ask(tmp_path, b"a", b"of a")
    (path,) = tmp_path.iterdir()
    ask(tmp_path, b"b", b"of b")
    (other,) = set(tmp_path.iterdir()) - {path}
    other.replace(path)
    assert ask(tmp_path, b"a", b"of a again") == (b"of a again", True)


def large(folder: Path) -> bytes:
    return ask(folder, b"key", b"x" * 10**6)[0]


def test_processes_that_ask_at_once_get_the_same(tmp_path) -> None:
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        results = list(pool.map(large, [tmp_path] * 8))
    assert results == [b"x" * 10**6] * 8
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        ask(tmp_path / "file", b"key", b"result")


def no_file(folder: Path, kind: str) -> Path:
    """A path that leads to something that is no file."""
    path = folder / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(os.path.relpath(path))
    elif kind == "device":
        return Path("/dev/null")
    else:
        path.symlink_to(path)
    return path


KINDS = ["folder", "pipe", "socket", "device", "link that leads back"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("linked", [False, True])
def test_nothing_but_a_file_is_replaced_or_read(tmp_path, kind, linked) -> None:
    path = no_file(tmp_path, kind)
    before = os.lstat(path)
    if linked:
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    with pytest.raises(NoPlainFile, match=f"not a plain file but a {kind}"):
        write_atomically(path, lambda file: file.write(b"new"))
    with pytest.raises(ValueError, match=f"not a plain file but a {kind}"):
        read_settings(path)
    after = os.lstat(no_file(tmp_path, kind) if kind == "device" else tmp_path / kind)
    assert (before.st_mode, before.st_ino) == (after.st_mode, after.st_ino)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("there", [False, True])
def test_a_link_stays_one_and_the_file_it_leads_to_is_written(tmp_path, there) -> None:
    target = tmp_path / "folder" / "file"
    if there:
        target.parent.mkdir()
        target.write_text("old")
    link = tmp_path / "link"
    link.symlink_to(target)
    write_atomically(link, lambda file: file.write(b"new"))
    assert link.is_symlink()
    assert target.read_text() == "new"


def bomb(letters: str) -> str:
    """YAML of a few lines that stands for 9 values to the power of its lines."""
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for before, name in itertools.pairwise(letters):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (bomb("abcdefghijkl"), "at most 100000 values"),
        ("a: &a [*a]", "whole before"),
        ("a: &a {b: {c: *a}}", "whole before"),
        ("a: &a {<<: *a}", "whole before"),
        ("a: *b", "whole before"),
        ("[" * 100_000, "levels of nesting"),
        ("{a: " * 1000 + "1" + "}" * 1000, "levels of nesting"),
        ("\n".join(" " * i + "a:" for i in range(1000)), "levels of nesting"),
        ("a: " + "9" * 5000, "4300"),
        ("a: '" + "x" * 2**20 + "'", "letters"),
        ("a: [1", "expected"),
        ("? [1]\n: 2", "unhashable"),
        ("a: !!python/object/apply:os.system [true]", "constructor"),
    ],
)
def test_yaml_beyond_all_bounds_is_an_error_at_once(text, expected) -> None:
    with pytest.raises(yaml.YAMLError, match=expected):
        load_yaml(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text("ab:*&[{- "),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text("ab"), inner, max_size=4)
        ),
    )
)
def test_yaml_within_bounds_is_read_as_it_is(value) -> None:
    assert load_yaml(yaml.safe_dump(value)) == value


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "it is empty"),
        (b"# nothing", "it is empty"),
        (b"[1, 2]", "no settings"),
        (b"a word", "no settings"),
        (b"\x80\xff\x00", "not text in UTF-8"),
        (b"a: [", "not YAML"),
        (b" " * (2**20 + 1), "it is larger"),
    ],
)
def test_a_config_that_is_none_is_one_line(tmp_path, content, expected) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^[^\n]*{expected}[^\n]*$"):
        read_settings(path)


def asleep(ready) -> None:
    ready.set()
    time.sleep(60)


@pytest.mark.skipif("fork" not in get_all_start_methods(), reason="no process is forked here")
def test_a_lock_is_free_though_a_forked_process_lives_on(tmp_path) -> None:
    context = get_context("fork")
    ready = context.Event()
    with only_writer(tmp_path):
        worker = context.Process(target=asleep, args=[ready], daemon=True)
        worker.start()
        ready.wait(30)
        with pytest.raises(FolderInUse, match="another training writes"), only_writer(tmp_path):
            pass
    try:
        with only_writer(tmp_path):
            assert worker.is_alive()
    finally:
        worker.kill()
        worker.join()


def hold_for_a_moment(folder, ready) -> None:
    with only_writer(folder):
        ready.set()
        time.sleep(0.3)


@pytest.mark.skipif("fork" not in get_all_start_methods(), reason="no process is forked here")
def test_who_has_patience_waits_for_another_process(tmp_path) -> None:
    context = get_context("fork")
    ready = context.Event()
    other = context.Process(target=hold_for_a_moment, args=[tmp_path, ready])
    other.start()
    assert ready.wait(30)
    with only_writer(tmp_path, patience=math.inf):
        other.join()
    assert other.exitcode == 0


def hold(folder, ready, numbers) -> None:
    with only_writer(folder):
        worker = os.fork()
        if worker == 0:
            asleep(ready)
        numbers.put(worker)
        time.sleep(60)


@pytest.mark.skipif("fork" not in get_all_start_methods(), reason="no process is forked here")
def test_a_lock_is_free_at_once_when_its_process_is_killed(tmp_path) -> None:
    context = get_context("fork")
    ready, numbers = context.Event(), context.Queue()
    process = context.Process(target=hold, args=[tmp_path, ready, numbers])
    process.start()
    worker = numbers.get(timeout=30)
    try:
        assert ready.wait(30)
        with pytest.raises(FolderInUse), only_writer(tmp_path):
            pass
        process.kill()
        process.join()
        with only_writer(tmp_path):
            os.kill(worker, 0)  # it lives on
    finally:
        process.kill()
        os.kill(worker, signal.SIGKILL)


def hold_elsewhere(folder, lost) -> None:
    """Hold the lock of a folder as if on another machine; says how it was lost."""
    socket.gethostname = lambda: "elsewhere"
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with only_writer(folder):
            time.sleep(60)
    except FolderInUse as error:
        lost.put(str(error))


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A process of another machine that holds the lock of a folder, and where it says its loss."""
    if "fork" not in get_all_start_methods():
        pytest.skip("no process is forked here")
    monkeypatch.setattr(files, "LEASE", 1.0)
    monkeypatch.setattr(files, "HEARTBEAT", 0.1)
    context = get_context("fork")
    lost = context.Queue()
    process = context.Process(target=hold_elsewhere, args=[tmp_path, lost])
    process.start()
    while not (tmp_path / ".lock").exists():
        time.sleep(0.01)
    yield process, lost
    process.kill()
    process.join()


def test_a_lock_of_another_machine_is_free_when_its_process_gives_no_sign_of_life(
    tmp_path, elsewhere
) -> None:
    process, _ = elsewhere
    held = f"another training writes to {tmp_path}: process {process.pid} on elsewhere; wait"
    for _ in range(2):
        with pytest.raises(FolderInUse, match=held), only_writer(tmp_path):
            pass
    process.kill()
    with only_writer(tmp_path):
        process.join()


def test_who_loses_a_lock_while_suspended_is_interrupted(tmp_path, elsewhere) -> None:
    process, lost = elsewhere
    os.kill(process.pid, signal.SIGSTOP)
    with only_writer(tmp_path):
        os.kill(process.pid, signal.SIGCONT)
        message = f"the lock on {tmp_path} is lost: another process has taken it, for this one was"
        assert lost.get(timeout=30).startswith(message)
        process.join()
        assert (tmp_path / ".lock").exists()


def test_what_an_older_version_has_left_in_the_place_of_a_lock_is_no_lock(tmp_path) -> None:
    (tmp_path / ".lock").touch()
    with only_writer(tmp_path):
        pass
    assert not (tmp_path / ".lock").exists()


def test_a_lock_of_one_thing_leaves_another_in_the_folder_free(tmp_path) -> None:
    with only_writer(tmp_path, "one"), only_writer(tmp_path, "other") as path:
        assert path == tmp_path / "other"
        with pytest.raises(FolderInUse), only_writer(tmp_path, "one"):
            pass
    with only_writer(tmp_path, "one"):
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_replaces_nothing_but_a_file(tmp_path, kind) -> None:
    path = no_file(tmp_path, kind)
    (tmp_path / ".lock").symlink_to(path)
    with pytest.raises(NoPlainFile, match=f"not a plain file but a {kind}"), only_writer(tmp_path):
        pass
