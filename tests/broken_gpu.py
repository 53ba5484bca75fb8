"""A plugin of pytest: no more tests in a process after an error that leaves it without the GPU.

Each would fail, whatever it tests. They are skipped, with the name of the one that broke it, and
their names are written to the file that ``MEMNETS_LEFT`` names, to be run in other processes.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

__all__ = ["LEFT", "usable"]

#: The file to which tests that are left are added, line by line.
LEFT = "MEMNETS_LEFT"

#: The test that broke the GPU for this process.
_broken_by: list[str] = []


def usable() -> bool:
    """Whether this process can still use the GPU; yes if it has not used one."""
    if not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed and not _broken_by and not usable():
        _broken_by.append(item.nodeid)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if _broken_by:
        with Path(os.environ[LEFT]).open("a") as file:
            file.write(f"{item.path}::{item.nodeid.partition('::')[2]}\n")
        pytest.skip(f"the GPU is lost to this process since {_broken_by[0]}: another one runs it")
