"""Training steps of memory machines against their floor: the matrix products of the step alone.

One step is forward and backward of a controller on a memory over a whole sequence, gradients of all
weights. Four programs take turns in one process:

- floor: only the products of matrices of that step, forward and backward, by PyTorch and without a
  graph;
- C++: the operator of memnets.kernels.native;
- kernel: the twin of PyTorch operations that runs without a compiler; an LRUA has none;
- eager: the definition, within memnets.naive().

Printed are the time of the floor and, for each program, the median, least and greatest ratio to the
floor of the same round.

    python benchmarks/floor.py
    python benchmarks/floor.py --rounds 30 --only "NTM 16/20/128" --threads 2
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from pairs import Step, ratios, spread, turns

from memnets import fast
from memnets.cells import LSTM, Loop
from memnets.core import MemoryAccess
from memnets.kernels.native import build
from memnets.memories import DNC, LRUA, NTM

INPUT, HIDDEN, WIDTH = 9, 100, 20


class Case(NamedTuple):
    """A machine and its data: batch, length of what is copied, slots, read heads.

    Each head of an LRUA reads and writes.
    """

    memory: str
    batch: int
    length: int
    slots: int
    reads: int = 1

    @property
    def steps(self) -> int:
        return 2 * self.length + 1

    @property
    def title(self) -> str:
        heads = "" if self.reads == 1 else f", {self.reads} read heads"
        return f"{self.memory} {self.batch}/{self.length}/{self.slots}{heads}"


CASES = [
    *(Case("NTM", batch, 20, 128) for batch in (1, 16, 32, 128)),
    Case("NTM", 16, 100, 1024),
    *(Case("DNC", batch, 20, slots) for slots in (64, 128, 256) for batch in (1, 16, 32)),
    *(Case("DNC", batch, 20, slots, 4) for slots in (64, 128, 256) for batch in (1, 16)),
    *(Case("LRUA", batch, 20, 128, reads) for reads in (1, 4) for batch in (1, 16, 32)),
]


def memory_of(case: Case) -> MemoryAccess:
    if case.memory == "LRUA":
        return LRUA(slots=case.slots, width=WIDTH, heads=case.reads)
    kind = {"NTM": NTM, "DNC": DNC}[case.memory]
    return kind(slots=case.slots, width=WIDTH, read_heads=case.reads)


def twin(name: str) -> Callable[..., object]:
    return next(one.run for one in fast.twins() if one.part is Loop and one.name == name)


def programs(case: Case) -> dict[str, Step]:
    torch.manual_seed(0)
    loop = Loop(INPUT, partial(LSTM, hidden_size=HIDDEN), memory_of(case))
    inputs = torch.randn(case.batch, case.steps, INPUT)
    gradient = torch.randn(case.batch, case.steps, loop.output_size)
    state = loop.initial_state(case.batch)
    weights = list(loop.parameters())

    def run(unroll: Callable[..., object]) -> object:
        outputs, _ = unroll(loop, inputs, state, None)  # type: ignore[misc]
        return torch.autograd.grad(outputs, weights, gradient)

    def eager() -> object:
        with fast.naive():
            return run(Loop.unroll)

    found = {
        "floor": FLOORS[case.memory](case, loop.access.input_size),
        "C++": partial(run, twin("C++")),
        "kernel": partial(run, twin("kernels.loop")),
        "eager": eager,
    }
    if case.memory == "LRUA":
        del found["kernel"]
    return found


def of_controller(case: Case, interface: int) -> tuple[Step, Step, Step, Step]:
    """Products of an LSTM on a memory: before all steps, in a step, backward, and at the end."""
    batch, steps, feature = case.batch, case.steps, HIDDEN + case.reads * WIDTH
    inputs = torch.randn(steps * batch, INPUT)
    from_x, from_feature = torch.randn(INPUT, 4 * HIDDEN), torch.randn(feature, 4 * HIDDEN)
    to_interface = torch.randn(HIDDEN, interface)
    features, hidden = torch.randn(batch, feature), torch.randn(batch, HIDDEN)
    gates, drive = torch.randn(batch, 4 * HIDDEN), torch.randn(batch, interface)
    all_gates = torch.randn(steps * batch, 4 * HIDDEN)
    all_drives = torch.randn(steps * batch, interface)
    all_features = torch.randn(steps * batch, feature)
    from_gates, from_drive = from_feature.t(), to_interface.t()

    def first() -> None:
        torch.mm(inputs, from_x, out=all_gates)

    def forward() -> None:
        torch.mm(features, from_feature, out=gates)
        torch.mm(hidden, to_interface, out=drive)

    def backward() -> None:
        torch.mm(drive, from_drive, out=hidden)
        torch.mm(gates, from_gates, out=features)

    def last() -> None:
        torch.mm(all_gates.t(), inputs)
        torch.mm(all_gates.t(), all_features)
        torch.mm(all_drives.t(), all_features[:, :HIDDEN])

    return first, forward, backward, last


def floor_of_ntm(case: Case, interface: int) -> Step:
    """Products of an NTM's step: all heads look for keys, and one of them writes."""
    return floor_of_slots(case, interface, case.reads + 1, 1, erases=True)


def floor_of_lrua(case: Case, interface: int) -> Step:
    """Products of an LRUA's step: each head reads by a key and writes it. Nothing is erased."""
    return floor_of_slots(case, interface, case.reads, case.reads, erases=False)


def floor_of_slots(case: Case, interface: int, heads: int, writes: int, erases: bool) -> Step:
    """Products of a step: keys and reads with the memory, and what is written."""
    first, forward, backward, last = of_controller(case, interface)
    batch, slots, reads = case.batch, case.slots, case.reads
    memory, gradient = torch.randn(2, batch, slots, WIDTH).unbind(0)
    turned = memory.mT
    keys, weights = torch.randn(batch, heads, WIDTH), torch.randn(batch, heads, slots)
    scores = torch.randn(batch, heads, slots)
    reading, writing = weights[:, :reads], weights[:, :writes]
    vectors, written = torch.randn(batch, reads, WIDTH), torch.randn(batch, writes, WIDTH)

    def step() -> None:
        torch.bmm(keys, turned, out=scores)
        torch.bmm(reading, memory, out=vectors)
        if erases:
            torch.bmm(writing.mT, written)
        memory.baddbmm_(writing.mT, written, beta=0.5)

    def step_back() -> None:
        # Write: to the added and erased vectors, and to the weights by both.
        for _ in range(1 + erases):
            torch.bmm(writing, gradient, out=written)
            torch.bmm(written, gradient.mT)
        # Read, and content: to the weights or keys, and to the memory.
        torch.bmm(vectors, turned)
        gradient.baddbmm_(reading.mT, vectors, beta=0.5)
        torch.bmm(scores, memory, out=keys)
        gradient.baddbmm_(scores.mT, keys, beta=0.5)

    def run() -> None:
        with torch.no_grad():
            first()
            for _ in range(case.steps):
                forward()
                step()
            for tensor in (memory, gradient, weights, keys, vectors, written, scores):
                tensor.fill_(0.1)
            for _ in range(case.steps):
                step_back()
                backward()
            last()
            for tensor in (memory, gradient, weights, keys, vectors, written, scores):
                tensor.fill_(0.1)

    return run


def floor_of_dnc(case: Case, interface: int) -> Step:
    """Products of a DNC's step: those of an NTM, and passes over the links.

    The links are read and written once forward. Backward reads them once, and reads and writes
    their gradient once. No product with the links is counted: it can be part of a pass.
    """
    products = floor_of_ntm(case, interface)
    links, gradient = torch.randn(2, case.batch, case.slots, case.slots).unbind(0)

    def run() -> None:
        products()
        for _ in range(case.steps):
            links.mul_(0.5)
        links.fill_(0.1)
        for _ in range(case.steps):
            gradient.addcmul_(links, gradient, value=0.5)
        gradient.fill_(0.1)

    return run


#: Memory -> a function that makes the program of its products.
FLOORS: dict[str, Callable[[Case, int], Step]] = {
    "NTM": floor_of_ntm,
    "DNC": floor_of_dnc,
    "LRUA": floor_of_lrua,
}


def measure(case: Case, rounds: int, names: list[str]) -> None:
    tried = {name: run for name, run in programs(case).items() if name in ("floor", *names)}
    # Processor time with one thread, since the load of the machine changes it least; else real.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times = turns(tried, rounds, clock)
    columns = " | ".join(
        str(ratios(times, name, "floor")) if name in tried else "" for name in names
    )
    print(
        f"| {case.title} | {spread(times['floor']).median * 1e3:.2f} ms | {columns} |", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="part of the title of the cases to run")
    parser.add_argument("--skip", nargs="*", default=[], help="programs to leave out")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if reason := build.why_not():
        parser.error(f"the C++ operators cannot run here: {reason}")
    names = [name for name in ("C++", "kernel", "eager") if name not in given.skip]
    print(
        f"{given.threads} thread(s), {given.rounds} rounds: median (least to greatest) by the floor"
    )
    print(f"| batch/length/slots | floor | {' | '.join(names)} |")
    print("|---|---|" + "---|" * len(names))
    for case in CASES:
        if given.only in case.title:
            rounds = given.rounds if case.slots < 1024 else max(3, given.rounds // 4)
            measure(case, rounds, names)


if __name__ == "__main__":
    main()
