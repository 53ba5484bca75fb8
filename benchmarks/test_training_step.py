"""Speed and memory of a training step, one thread.

Of a Neural Turing Machine: copy at length 20, N = 128, W = 20, LSTM 100. Of a SNAIL with the sizes
of the paper: episodes of T steps of width 69, 4 in a batch.

python -m pytest benchmarks --benchmark-only
"""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from pairs import updating

from memnets.batches import Batch
from memnets.cells import LSTM
from memnets.memories import NTM
from memnets.models import SNAIL, MemoryMachine
from memnets.training.objectives import Labels
from tasks import Copying

BATCH_SIZES = [1, 16, 128]


def training_step(batch_size: int, length: int = 20, slots: int = 128):
    """A function that does one step."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = MemoryMachine(9, 8, partial(LSTM, hidden_size=100), NTM(slots=slots, width=20))
    batch = Copying(8, length, length, batch_size=batch_size).batch("train", 0)
    return updating(model, partial(model.loss, batch))


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_sequences_per_second(benchmark, batch_size: int) -> None:
    benchmark.pedantic(training_step(batch_size), rounds=10, warmup_rounds=2)
    benchmark.extra_info["sequences_per_second"] = batch_size / benchmark.stats["median"]
    benchmark.extra_info["peak_MiB_above_import"] = peak_memory(f"training_step({batch_size})")
    print(f"\nbatch {batch_size}: {benchmark.extra_info}")


@pytest.mark.parametrize(
    ("length", "slots"), [(20, 128), (40, 128), (80, 128), (20, 256), (20, 512)]
)
def test_growth(benchmark, length: int, slots: int) -> None:
    benchmark.pedantic(training_step(16, length, slots), rounds=5, warmup_rounds=1)


def snail_step(steps: int):
    """A function that does one step on episodes of so many steps, the last of which is a query."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = SNAIL(69, 5, max_length=steps, objective=Labels())
    source, query = torch.randn(4, steps - 1, 69), torch.randn(4, 1, 69)
    batch = Batch(source, query, torch.zeros(4, 1, dtype=torch.long))
    return updating(model, partial(model.loss, batch))


@pytest.mark.parametrize("steps", [250, 500, 1000])
def test_growth_of_snail(benchmark, steps: int) -> None:
    benchmark.pedantic(snail_step(steps), rounds=5, warmup_rounds=1)
    benchmark.extra_info["peak_MiB_above_import"] = peak_memory(f"snail_step({steps})")
    print(f"\n{steps} steps: {benchmark.extra_info}")


def peak_memory(step: str) -> float:
    """MiB that two steps need in a process of their own, beyond the imports."""
    code = f"import {__name__.rpartition('.')[2]} as b; b.print_peak_memory(lambda: b.{step})"
    folder = __file__.rpartition("/")[0]
    return float(subprocess.check_output([sys.executable, "-c", code], cwd=folder))


def print_peak_memory(make_step) -> None:
    before = high_water_mark()
    step = make_step()
    step()
    step()
    print(high_water_mark() - before)


def high_water_mark() -> float:
    """Most MiB that this process ever held; Linux alone tells it without the parent's share."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024
