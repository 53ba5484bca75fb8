"""Results that are kept in files: whole, checked, and found by all that they depend on."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memnets.files import cached


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
