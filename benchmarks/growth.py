"""Growth of a training step's memory and time with the steps T, the slots N and the heads H.

    python benchmarks/growth.py
    python benchmarks/growth.py --only LSTMN --before HEAD~1
    python benchmarks/growth.py --before <a folder with another checkout>

For each model it prints a row: what the backward pass is given to keep, the peak of memory above
that of the start, and the processor's time of a step (forward and backward, one thread, least of
three), all at the largest size, each with the exponent of its growth: 1 = linear, 2 = with the
square. The exponent is the slope between the two largest sizes, in logarithms; it says nothing
where the rest of a step outweighs what grows. Every measurement is a process of its own; its
progress is told on the standard error. Linux alone.
"""

import argparse
import math
import subprocess
import sys
from pathlib import Path

from against_revision import HERE, checkout, worker

WORKER = '''
import importlib, os, re, sys, time
from functools import partial
from pathlib import Path
import torch
torch.set_num_threads(1)

from memnets.addressing import Content
from memnets.cells import GRU, LSTM, LSTMN, Loop, SelfAttention
from memnets.encoders import Recurrent
from memnets.memories import DNC, LRUA, NTM, Tape
from memnets.models import SNAIL, PointerNetwork, Seq2Seq, Transformer
from memnets.scores import Additive
from memnets.training.objectives import Tokens
from tasks import SortingNumbers

BATCH, STEPS = 16, 20

def unrolled(make, one_by_one=False):
    """A run of a cell over so many steps."""
    def run(cell, steps):
        inputs = torch.randn(BATCH, steps, cell.input_size)
        state = cell.initial_state(BATCH)
        if not one_by_one:
            return cell.unroll(inputs, state)[0].sum()
        total = 0.0
        for step in inputs.unbind(1):
            output, state = cell.step(step, state)
            total = total + output.sum()
        return total
    def sized(steps):
        cell = make()
        return lambda: run(cell, steps)
    return sized

def looped(memory):
    return unrolled(partial(Loop, 9, partial(LSTM, hidden_size=100), memory))

def slots(memory):
    return lambda size: looped(memory(size))(STEPS)

def answering(make):
    """A run of a model over sources and answers of so many tokens."""
    def sized(steps):
        model = make()
        source, inputs = torch.randint(4, 30, (2, BATCH, steps))
        return lambda: model.decode(inputs, model.encode(source))[0].sum()
    return sized

def attention(**settings):
    return Seq2Seq(
        30, 30, partial(Recurrent, controller=partial(GRU, hidden_size=64)),
        partial(GRU, hidden_size=128), Content(Additive(128)), width=64, key_size=128, **settings,
    )

def pointer(points):
    model = PointerNetwork(
        1, partial(Recurrent, controller=partial(LSTM, hidden_size=128)),
        partial(LSTM, hidden_size=128), Content(Additive(128)), width=128, objective=Tokens(),
    )
    batch = SortingNumbers(points, points, batch_size=BATCH).batch("train", 0)
    return lambda: model.loss(batch)

SEQUENCES, HEADS = (40, 80, 160, 320), (1, 2, 4, 8)
CASES = {
    "LSTMN": ("T", SEQUENCES, unrolled(partial(LSTMN, 64, hidden_size=100))),
    "tape": ("T", SEQUENCES, looped(Tape(20))),
    "tape, additive score": ("T", SEQUENCES, looped(Tape(64, score=Additive(64)))),
    "self-attention, one by one": (
        "T", SEQUENCES, unrolled(partial(SelfAttention, 64, heads=4), one_by_one=True)),
    "attention GRU, S = T": ("T", SEQUENCES, answering(attention)),
    "attention GRU, input feeding, S = T": (
        "T", SEQUENCES, answering(partial(attention, input_feeding=True))),
    "NTM, N = 128": ("T", SEQUENCES, looped(NTM(128, 20))),
    "DNC, N = 64": ("T", SEQUENCES[:3], looped(DNC(64, 20))),
    "Transformer, S = T": ("T", SEQUENCES, answering(
        lambda: Transformer(30, 30, width=64, heads=4, hidden_size=128, layers=2))),
    "pointer network, additive score": ("T", (20, 40, 80, 160), pointer),
    "NTM": ("N", (128, 256, 512, 1024), slots(lambda size: NTM(size, 20))),
    "DNC": ("N", (32, 64, 128, 256), slots(lambda size: DNC(size, 20))),
    "LRUA": ("N", (128, 256, 512, 1024), slots(lambda size: LRUA(size, 20))),
    "NTM, as many read as write heads": (
        "H", HEADS, slots(lambda size: NTM(128, 20, read_heads=size, write_heads=size))),
    "DNC, read heads": ("H", HEADS, slots(lambda size: DNC(64, 20, read_heads=size))),
    "tape, read heads": (
        "H", HEADS, lambda size: looped(Tape(20, read_heads=size))(STEPS)),
}

# Loaded here, once, and not by each child.
importlib.import_module("memnets.kernels")

def high_water_mark():
    """Most bytes that this process ever held."""
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def kept(run):
    """Bytes of all storages that a run keeps for its backward pass."""
    storages = {}
    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = run()
    return sum(storage.nbytes() for storage in storages.values())

def seconds(run):
    start = time.process_time()
    run().backward()
    return time.process_time() - start

def measure(name, size):
    torch.manual_seed(0)
    # What is loaded and made at the first step of any size is not the growth.
    CASES[name][2](CASES[name][1][0] // 2 or 1)().backward()
    run = CASES[name][2](size)
    before = high_water_mark()
    times = [seconds(run) for _ in range(3)]
    return high_water_mark() - before, min(times), kept(run)

print(*(f"{name};{what};{','.join(map(str, sizes))}" for name, (what, sizes, _) in CASES.items()),
      sep="|", flush=True)
for line in sys.stdin:
    name, size = line.strip().split(";")
    # A child starts with the memory of this process and gives all of it back at its end.
    if child := os.fork():
        os.waitpid(child, 0)
    else:
        print(*measure(name, int(size)), flush=True)
        os._exit(0)
'''

#: The measured numbers: title, and factor to the unit that is printed.
MEASURES = [("kept, MiB", 2**-20), ("peak, MiB", 2**-20), ("time, ms", 1e3)]


def exponent(sizes: list[int], values: list[float]) -> float:
    """Slope between the two largest sizes, in logarithms; not a number where there is nothing."""
    if min(values[-2:]) <= 0:
        return math.nan
    return math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2])


def line(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline()


def measured(process: subprocess.Popen[str], name: str, sizes: list[int]) -> list[str]:
    """The cells of a row: each number at the largest size, and its exponent."""
    assert process.stdin is not None
    rows = []
    for size in sizes:
        print(f"{name};{size}", file=process.stdin, flush=True)
        peak, time, kept = map(float, line(process).split())
        rows.append((kept, peak, time))
        print(
            f"{name}, {size}: kept {kept * 2**-20:.2f} MiB, peak {peak * 2**-20:.1f} MiB, "
            f"{time * 1e3:.1f} ms",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    cells = []
    for (_, factor), values in zip(MEASURES, zip(*rows, strict=True), strict=True):
        slope = exponent(sizes, list(values))
        shown = "" if math.isnan(slope) else f" ({slope:.2f})"
        cells.append(f"{values[-1] * factor:.3g}{shown}")
    return cells


def run(trees: dict[str, Path], only: str) -> None:
    processes = {name: worker(tree, WORKER) for name, tree in trees.items()}
    cases = [line(process).strip().split("|") for process in processes.values()].pop()
    titles = [f"{title} {when}".strip() for when in processes for title, _ in MEASURES]
    table = [["model", "grows with", *titles], ["---"] * (2 + len(titles))]
    for name, what, sizes in (case.split(";") for case in cases):
        if only not in name:
            continue
        ladder = [int(size) for size in sizes.split(",")]
        row = [name, f"{what} = {ladder[-1]}"]
        for when, process in processes.items():
            if when:
                print(when, end=": ", file=sys.stderr)
            row += measured(process, name, ladder)
        table.append(row)
    for row in table:
        print("| " + " | ".join(row) + " |")
    for process in processes.values():
        process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--only", default="", help="a part of the names of the models to measure")
    parser.add_argument("--before", help="another revision, or a folder with one, to measure too")
    arguments = parser.parse_args()
    if arguments.before is None:
        run({"": HERE}, arguments.only)
        return
    with checkout(arguments.before) as before:
        run({"before": before, "now": HERE}, arguments.only)


if __name__ == "__main__":
    main()
