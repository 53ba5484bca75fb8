import gc
import os

# Tensors are tiny here: threads only get in each other's way; so do those of processes begun here.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

from tests.images import leave_pictures_blank, save_blank_pictures

torch.set_num_threads(1)

# ``torch.manual_seed`` seeds every kind of device. For one that is not there it keeps the call for
# later, with the whole stack, which takes longer than most of what is tested here.
for kind in (torch.cuda, torch.xpu, torch.mtia):
    if not kind.is_available():
        kind.manual_seed_all = lambda seed: None

# How hard to look: HYPOTHESIS_PROFILE=quick, default, ci or thorough.
common = settings(
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
    # An explanation by the lines that ran costs much and shows the insides of torch.
    phases=[phase for phase in Phase if phase is not Phase.explain],
)
settings.register_profile("quick", common, max_examples=3, derandomize=True)
settings.register_profile("default", common, max_examples=6, derandomize=True)
settings.register_profile("parts", common, max_examples=4, derandomize=True)
settings.register_profile("models", common, max_examples=3, derandomize=True)
settings.register_profile("ci", common, max_examples=25, derandomize=True, print_blob=True)
settings.register_profile("thorough", common, max_examples=200)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_sessionstart() -> None:
    """Build the operators in C++ before the first test: no test's output has the note of it."""
    from memnets.kernels.native import build

    build.loaded()


#: Files of tests that begin processes, which take long: see below.
LONG = ("test_processes", "test_scoreboard", "test_sweep", "test_packaging", "test_executors")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long tests first: none is begun at the end, where other workers have nothing to do."""
    items.sort(key=lambda item: item.path.stem not in LONG)


def pytest_collection_finish() -> None:
    """Do not look for garbage among all that is imported, again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)


@pytest.fixture(scope="module")
def fewer_examples(request):
    """Fewer examples, unless a profile asks for more: parts and models are slow to test.

    A module says which profile in ``FEWER``. Trials with so many found every fault that is planted
    in a cell, a memory or a model.
    """
    fewer = settings().max_examples == settings.get_profile("default").max_examples
    if fewer:
        settings.load_profile(request.module.FEWER)
    yield
    if fewer:
        settings.load_profile("default")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> None:
    """An empty folder to run commands in; and no arguments of pytest's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["memnets"])


@pytest.fixture
def sketches(request, monkeypatch) -> None:
    """Puts pictures together and saves them blank; in a test marked ``pictures``, as drawn."""
    if not request.node.get_closest_marker("pictures"):
        save_blank_pictures(monkeypatch)


@pytest.fixture
def blanks(request, monkeypatch) -> None:
    """Leaves blank files for pictures, for tests of runs of a kind whose pictures others see.

    In a test marked ``pictures``, those that are drawn.
    """
    if not request.node.get_closest_marker("pictures"):
        leave_pictures_blank(monkeypatch)
