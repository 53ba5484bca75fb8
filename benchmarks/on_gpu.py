"""A training step of a Neural Turing Machine on a GPU, in several ways; the tests on CUDA; FSDP.

python benchmarks/on_gpu.py [--output table.md] [--check]
PYTORCH_NTM=<a checkout of loudinthecloud/pytorch-ntm> adds that library.

Copy (Graves et al. 2014, section 4.1) with T vectors of 8 bits: 2 T + 1 steps. N slots of width 20,
an LSTM of 100, one read head and one write head; forward pass, backward pass, clipping and Adam.
Times come from CUDA events; float32, without TF32. It takes under 5 minutes.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")

import torch
from torch import Tensor, nn

from memnets import fast
from memnets.batches import Batch
from memnets.cells import LSTM
from memnets.core import map_state
from memnets.memories import NTM
from memnets.models import MemoryMachine
from memnets.training.graphs import CudaRecorder, FixedOptimizer, GraphedSteps

ROOT = Path(__file__).parent.parent
WIDTH, HIDDEN, CLIP = 20, 100, 1.0
#: A way whose single step would take longer than this is left out.
MOST_SECONDS = 20.0
#: Tests that a GPU changes: a run takes one where there is one.
CHECKED = [
    "tests/test_cuda.py",
    "tests/test_triton.py",
    "tests/test_configs.py",
    "tests/test_linear.py::test_the_kernels_of_the_package_are_close_to_the_definition",
]
#: Names a file for the tests that are left: see ``tests/broken_gpu.py``.
LEFT = "MEMNETS_LEFT"
#: Seconds to spend on a way, and fewest and most steps that are timed.
SECONDS, FEWEST, MOST = 1.0, 3, 50

Run = Callable[[], object]


class LeftOut(Exception):
    """A way that does not run here, and why."""


class Rerun:
    """Stands for CUDA graphs in a trial of this script without a GPU."""

    def warm(self, function: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        return function()

    def record(
        self, function: Callable[[], tuple[Tensor, ...]]
    ) -> Callable[[], tuple[Tensor, ...]]:
        return function


# -- ways to take a step ---------------------------------------------------------------------------


def batch_of(size: int, length: int, device: str) -> Batch:
    generator = torch.Generator().manual_seed(0)
    bits = torch.rand(size, length, 8, generator=generator).round()
    source = torch.zeros(size, length + 1, 9)
    source[:, :length, :8] = bits
    source[:, length, 8] = 1.0
    batch = Batch(source, torch.zeros(size, length, 9), bits)
    return map_state(lambda tensor: tensor.to(device), batch)


@contextmanager
def twins_but(left_out: Callable[[fast.Twin], bool]) -> Iterator[None]:
    """Without some of the fast twins."""
    fast.twins()  # loads them
    before = {key: list(same) for key, same in fast._twins.items()}
    for same in fast._twins.values():
        same[:] = [one for one in same if not left_out(one)]
    try:
        yield
    finally:
        for key, same in before.items():
            fast._twins[key][:] = same


def in_triton(twin: fast.Twin) -> bool:
    return "triton" in twin.run.__module__


def triton_fits(model: MemoryMachine, batch: Batch) -> bool:
    body = model.body
    state = body.initial_state(len(batch.source))
    twin = fast.find(body, "unroll", batch.source, state, None)
    return twin is not None and "triton" in twin.__module__


def ours(size: int, length: int, slots: int, device: str, graph: bool, triton: bool) -> Run:
    torch.manual_seed(0)
    access = NTM(slots=slots, width=WIDTH)
    model = MemoryMachine(9, 8, partial(LSTM, hidden_size=HIDDEN), access).to(device).train()
    batch = batch_of(size, length, device)
    if triton and not triton_fits(model, batch):
        raise LeftOut("no Triton twin fits here")
    adam = torch.optim.Adam(model.parameters())
    if not graph:
        return partial(model.whole_step, batch, adam, CLIP)
    optimizer = FixedOptimizer(adam)
    recorder = CudaRecorder() if device == "cuda" else Rerun()
    steps = GraphedSteps(
        partial(model.whole_step, optimizer=optimizer, greatest_norm=CLIP), recorder
    )

    def step() -> object:
        optimizer.read_rates()
        return steps(batch)

    return step


def pytorch_ntm(size: int, length: int, slots: int, device: str) -> Run:
    if "PYTORCH_NTM" not in os.environ:
        raise LeftOut("PYTORCH_NTM names no checkout")
    sys.path.insert(0, os.environ["PYTORCH_NTM"])
    from ntm.aio import EncapsulatedNTM

    model = EncapsulatedNTM(9, 8, HIDDEN, 1, 1, slots, WIDTH).to(device)
    # Its first read vectors stand in a plain list, which ``to`` does not move.
    model.ntm.init_r = [vector.to(device) for vector in model.ntm.init_r]
    optimizer = torch.optim.Adam(model.parameters())
    batch = batch_of(size, length, device)
    inputs, targets = batch.source.transpose(0, 1), batch.targets.transpose(0, 1)

    def step() -> None:
        optimizer.zero_grad()
        # It makes tensors on the default device.
        with torch.device(device):
            model.init_sequence(size)
            for vector in inputs:
                model(vector)
            outputs = torch.stack([model()[0] for _ in range(length)])
            loss = nn.functional.binary_cross_entropy(outputs, targets)
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()

    return step


WAYS: dict[str, Callable[[int, int, int, str], Run]] = {
    "eager": partial(ours, graph=False, triton=False),
    "CUDA graph": partial(ours, graph=True, triton=False),
    "Triton": partial(ours, graph=False, triton=True),
    "Triton, CUDA graph": partial(ours, graph=True, triton=True),
    "pytorch-ntm": pytorch_ntm,
}


# -- times -----------------------------------------------------------------------------------------


def seconds(step: Run, count: int, device: str) -> list[float]:
    """Time of each of some steps."""
    if device != "cuda":
        times = []
        for _ in range(count):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        return times
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    torch.cuda.synchronize()
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    torch.cuda.synchronize()
    return [one.elapsed_time(other) / 1e3 for one, other in itertools.pairwise(events)]


def timed(
    way: str, size: int, length: int, slots: int, device: str, deadline: float
) -> list[float]:
    """Times of a step, in seconds.

    Raises:
        LeftOut: it does not run here, or would take too long.
    """
    make = WAYS[way]
    # Two steps before a graph replays; kernels are compiled in the first one.
    warm, fewest = 3, FEWEST
    if way == "pytorch-ntm":
        # It loops over the batch in Python: a short sequence tells how long this one would take.
        short, few = 2, min(size, 128)
        probe = make(few, short, slots, device)
        seconds(probe, 1, device)
        once = min(seconds(probe, 1, device)) * (size / few) * (2 * length + 1) / (2 * short + 1)
        if once > MOST_SECONDS / 2 or time.perf_counter() + once > deadline:
            raise LeftOut(f"about {once:.0f} s a step")
        warm, fewest = (1, FEWEST) if once < 2 else (0, 1)
    step = make(size, length, slots, device)
    last = 0.0 if warm else once
    for _ in range(warm):
        (last,) = seconds(step, 1, device)
    if last * fewest > MOST_SECONDS:
        raise LeftOut(f"{last:.0f} s a step")
    return seconds(step, max(fewest, min(MOST, int(SECONDS / max(last, 1e-6)))), device)


def freed(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


Key = tuple[str, int, int, int]
Found = dict[Key, list[float] | str]


def measure(given: argparse.Namespace, device: str) -> None:
    """Measure all cells of some ways, and write each to a file as soon as it is known."""
    start, limit = time.perf_counter(), 60 * given.minutes
    # The most telling cells first, should the time run out.
    for length, slots, size in itertools.product(given.length, given.slots, given.batch):
        for way in given.ways:
            where = f"B {size:5} T {length:4} N {slots:5} {way:18}"
            began = time.perf_counter()
            result: list[float] | str
            try:
                if began - start > limit:
                    raise LeftOut("out of time")
                with nullcontext() if "Triton" in way else twins_but(in_triton):
                    result = timed(way, size, length, slots, device, start + limit)
                middle, low, high = statistics.median(result), min(result), max(result)
                print(
                    f"{where} {middle * 1e3:9.2f} ms ({low * 1e3:.2f} to {high * 1e3:.2f}; "
                    f"{len(result)} steps; {time.perf_counter() - began:.1f} s in all)",
                    flush=True,
                )
            except LeftOut as reason:
                result = str(reason)
                print(f"{where} left out: {reason}", flush=True)
            except Exception as error:
                lines = str(error).strip().splitlines() or [""]
                result = "out of memory" if "out of memory" in lines[0] else type(error).__name__
                print(f"{where} failed: {type(error).__name__}: {lines[0][:200]}", flush=True)
                if result != "out of memory":
                    print("".join(traceback.format_exc().splitlines(True)[-12:]), flush=True)
            with given.part.open("a") as file:
                file.write(json.dumps([[way, size, length, slots], result]) + "\n")
            freed(device)


def measured_apart(given: argparse.Namespace, ways: list[str], minutes: float) -> Found:
    """Measure some ways in a process of their own: an error on the device ends that one alone."""
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder, "cells")
        part.touch()
        command = [sys.executable, __file__, "--part", str(part), "--minutes", str(minutes)]
        sizes = {"--batch": given.batch, "--length": given.length, "--slots": given.slots}
        for name, values in {**sizes, "--ways": ways}.items():
            command += [name, *map(str, values)]
        code = subprocess.call([*command, *["--trial"] * given.trial])
        cells = [json.loads(line) for line in part.read_text().splitlines()]
    found: Found = {tuple(key): result for key, result in cells}
    for key in itertools.product(ways, given.batch, given.length, given.slots):
        found.setdefault(key, f"the process ended with {code}")
    return found


def table(found: Found, ways: list[str]) -> str:
    """Markdown: median of each way in ms, min to max, and how many times as fast as eager."""
    lines = [
        f"| B | T | N | {' | '.join(ways)} |",
        "|" + "---|" * (3 + len(ways)),
    ]
    order = sorted({key[1:] for key in found}, key=lambda cell: (cell[1], cell[2], cell[0]))
    for size, length, slots in order:
        plain = found.get(("eager", size, length, slots))
        cells = []
        for way in ways:
            times = found.get((way, size, length, slots), "not run")
            if isinstance(times, str):
                cells.append(times)
                continue
            middle = statistics.median(times)
            text = f"{middle * 1e3:.3g} ({min(times) * 1e3:.3g} to {max(times) * 1e3:.3g})"
            if way != "eager" and isinstance(plain, list):
                text += f", {statistics.median(plain) / middle:.3g} x"
            cells.append(text)
        lines.append(f"| {size} | {length} | {slots} | {' | '.join(cells)} |")
    return "\n".join(lines)


def surroundings(device: str) -> str:
    try:
        import triton

        version = triton.__version__
    except Exception:
        version = "not installed"
    card = torch.cuda.get_device_name() if device == "cuda" else "a CPU, as a trial"
    cuda = torch.version.cuda or "none"
    return f"{card}, torch {torch.__version__}, CUDA {cuda}, Triton {version}"


def check(device: str) -> int:
    """Run the tests on CUDA, and FSDP where there are two GPUs."""
    if device != "cuda":
        print("--check needs a CUDA device; skipped", flush=True)
        return 0
    return run_tests(CHECKED) or check_fsdp()


def run_tests(names: list[str], *flags: str) -> int:
    """Run tests until none is left behind by a process that lost the GPU: 0 if all passed."""
    code = 0
    while names:
        with tempfile.TemporaryDirectory() as folder:
            left = Path(folder, "left")
            left.touch()
            command = [
                sys.executable, "-m", "pytest", "-q", "-rfEs", "-o", "addopts=", "-o",
                "filterwarnings=default", "-p", "no:cacheprovider", "-p", "tests.broken_gpu",
                "--durations=8", "--disable-warnings", *flags, *names,
            ]  # fmt: skip
            if importlib.util.find_spec("xdist") is not None:
                command.append(f"-n{min(8, os.cpu_count() or 1)}")
            around = {**environment(), LEFT: str(left)}
            code = subprocess.call(command, cwd=ROOT, env=around) or code
            # A process that loses it has failed a test, so that each round has fewer.
            names = left.read_text().splitlines()
        if names:
            print(f"\n{len(names)} tests again, after a process lost the GPU", flush=True)
    return code


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}


def check_fsdp() -> int:
    """Train with weights that two processes share, go on, and test the checkpoint on one."""
    count = torch.cuda.device_count()
    if count < 2:
        print(f"FSDP needs two GPUs; there is {count}; skipped", flush=True)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        fit = [
            "fit", "--config", "copying/transformer", f"--runs={folder}",
            "--data.epoch_batches=20", "--data.test_sequences=50", "--trainer.accelerator=gpu",
            "--trainer.devices=2", "--trainer.strategy=fsdp", "--trainer.max_steps=20",
            "--trainer.enable_progress_bar=false",
        ]  # fmt: skip
        checkpoints = Path(folder, "copying", "transformer", "version_0", "checkpoints")
        alone = ["--trainer.devices=1", "--trainer.strategy=auto"]
        commands = {
            "trains, and saves checkpoints": fit,
            "goes on": [
                "fit", "--ckpt_path", str(checkpoints / "last.ckpt"), "--trainer.max_steps=40",
            ],
            "is tested by one process": [
                "test", "--ckpt_path", str(checkpoints / "best.ckpt"), *alone,
            ],
            "goes on in one process": [
                "fit", "--ckpt_path", str(checkpoints / "last.ckpt"), *alone,
                "--trainer.max_steps=50",
            ],
        }  # fmt: skip
        for what, command in commands.items():
            if subprocess.call(
                [sys.executable, "-m", "memnets", *command], cwd=ROOT, env=environment()
            ):
                print(f"FSDP FAILED: {what}", flush=True)
                return 1
            print(f"FSDP: {what}", flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, help="file for the table, in markdown")
    parser.add_argument(
        "--check", action="store_true", help="run the tests on CUDA, and FSDP on two GPUs, as well"
    )
    parser.add_argument("--only-check", action="store_true", help="run these alone")
    parser.add_argument("--minutes", type=float, default=4.0, help="time for the table")
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 128, 1024])
    parser.add_argument("--length", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--slots", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--trial", action="store_true", help="try this script on a CPU, tiny")
    parser.add_argument("--part", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not torch.cuda.is_available() and not given.trial:
        sys.exit("needs a CUDA device; --trial runs this script on a CPU, with tiny sizes")
    device = "cpu" if given.trial else "cuda"
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if given.part is not None:
        measure(given, device)
        return 0
    if given.trial:
        given.batch, given.length, given.slots = [2], [2, 3], [8]
    around = surroundings(device)
    print(around, flush=True)
    if given.only_check:
        return check(device)
    # Kernels in Triton apart: a fault in one of them leaves the device unusable for its process.
    groups = [
        [way for way in given.ways if ("Triton" in way) == triton] for triton in (False, True)
    ]
    groups = [group for group in groups if group]
    found: Found = {}
    start = time.perf_counter()
    for number, group in enumerate(groups):
        left = given.minutes - (time.perf_counter() - start) / 60
        # Later groups need some of the time as well.
        share = left if number + 1 == len(groups) else 0.65 * left
        found.update(measured_apart(given, group, share))
    told = (
        f"Training step of an NTM, copy: ms, median (min to max), times as fast as eager.\n"
        f"{around}, float32 without TF32.\n\n{table(found, given.ways)}\n"
    )
    print(f"\n{told}", flush=True)
    if given.output is not None:
        given.output.write_text(told)
    return check(device) if given.check else 0


if __name__ == "__main__":
    sys.exit(main())
