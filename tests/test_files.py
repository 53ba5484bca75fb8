"""Results that are kept in files: whole, checked, and found by all that they depend on."""

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnets.files import FolderInUse, cached, only_writer


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
