"""Time and memory of a step of sparse access against the number of slots, beside a dense machine.

    python benchmarks/sparse.py
    python benchmarks/sparse.py --slots 1000 1000000 --steps 100 --output sparse_table.md
    python benchmarks/sparse.py --index                       (needs: pip install faiss-cpu)

One sequence; an LSTM of 100 on a memory of slots 32 wide with 4 heads; float32, one thread. The
sparse machine (SAM) reads 4 slots with each head. It is timed twice: from its first state, in which
all slots are empty, and in a memory that is full, where its exact search looks at all slots. The
dense machine (LRUA) has the same heads. Times are those of the processor, for a step, in a run of
as many steps as are asked for, the first state and the copy of the memory included; where the dense
machine would need too much memory for that many steps it takes fewer, and the sparse one beside it
too. The programs of a row take turns. Peaks of memory are above the start of a process of its own;
Linux alone.

With --index it times, in place of all that, the indexes of faiss on random rows of length 1: how
long one takes to build, and a search of the 4 heads.
"""

import argparse
import os
import re
import time
from functools import partial
from pathlib import Path

import torch
from pairs import ratios, say, spread, turns

from memnets.cells import LSTM, Loop
from memnets.memories import LRUA, SAM

WIDTH, HEADS, HIDDEN, INPUTS = 32, 4, 100, 8
#: Numbers of one step that a dense machine keeps for its backward pass, in memories, about; and the
#: most bytes that it shall keep.
DENSE_KEEPS, MOST_BYTES = 8, 2e9


def machine(kind, slots):
    """A loop on a sparse or a dense memory."""
    torch.manual_seed(0)
    access = SAM(slots, WIDTH, HEADS) if kind == "sparse" else LRUA(slots, WIDTH, HEADS)
    return Loop(INPUTS, partial(LSTM, hidden_size=HIDDEN), access)


def first_state(loop, full=False):
    """The first state of a loop, at will with a memory in which every slot holds something."""
    state = loop.initial_state(1)
    if not full:
        return state
    access, slots = state.access, loop.access.slots
    return state._replace(
        access=access._replace(
            memory=torch.randn(1, slots, WIDTH),
            accessed=torch.arange(1, slots + 1).view(1, -1),
            used=torch.tensor([slots]),
        )
    )


def run(loop, state, steps, training):
    """A program: a run of so many steps, forward and, in training, backward."""
    inputs = torch.randn(1, steps, INPUTS)

    def take():
        with torch.set_grad_enabled(training):
            outputs, _ = loop.unroll(inputs, state)
        if training:
            loop.zero_grad()
            outputs.sum().backward()

    return take


def high_water_mark():
    """Most bytes that this process ever held."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def peak(kind, slots, steps, training):
    """Peak of memory of a run above the start of its process, in MB."""
    given, taken = os.pipe()
    child = os.fork()
    if child == 0:
        loop = machine(kind, slots)
        before = high_water_mark()
        run(loop, first_state(loop), steps, training)()
        os.write(taken, str((high_water_mark() - before) / 1e6).encode())
        os._exit(0)
    os.close(taken)
    with open(given) as pipe:
        found = float(pipe.read())
    os.waitpid(child, 0)
    return found


def dense_steps(slots, steps):
    """Steps that a dense machine takes: 10, if it can within the most bytes that it shall keep."""
    return max(1, min(steps, 10, int(MOST_BYTES / (4 * slots * WIDTH * DENSE_KEEPS))))


def row(slots, steps, rounds, training, peaks):
    """A line of the table."""
    say(f"{slots} slots, {'training' if training else 'inference'}")
    sparse, dense = machine("sparse", slots), machine("dense", slots)
    few = dense_steps(slots, steps)
    programs = {
        "sparse": run(sparse, first_state(sparse), steps, training),
        "sparse, few": run(sparse, first_state(sparse), few, training),
        "dense, few": run(dense, first_state(dense), few, training),
        "full": run(sparse, first_state(sparse, full=True), steps, training),
    }
    times = turns(programs, rounds, warm_up=1)
    alone = spread(1e3 * each / steps for each in times["sparse"])
    full = spread(1e3 * each / steps for each in times["full"])
    against = spread(1e3 * each / few for each in times["dense, few"])
    ratio = ratios(times, "dense, few", "sparse, few")
    kind = "training" if training else "inference"
    memory, dense_memory = peaks
    return (
        f"| {kind} | {slots:,} | {alone} | {memory:.0f} | {full.median:.2f} | {few} | "
        f"{against.median:.2f} | {dense_memory:.0f} | {ratio} |"
    )


HEAD = (
    "| step of | slots | sparse, ms | peak, MB | full memory, ms | steps in pairs | dense, ms "
    "| peak, MB | dense / sparse |\n|---|---|---|---|---|---|---|---|---|"
)


def index_rows(slots):
    """Lines of the table of indexes."""
    import faiss

    faiss.omp_set_num_threads(1)
    rows, queries = (torch.randn(n, WIDTH) for n in (slots, HEADS))
    rows, queries = (torch.nn.functional.normalize(each).numpy() for each in (rows, queries))

    def timed(function, times=1):
        start = time.process_time()
        for _ in range(times):
            result = function()
        return 1e3 * (time.process_time() - start) / times, result

    def line(name, build, found, options=""):
        search, (_, places) = timed(lambda: found.search(queries, 4), 10)
        right = sum(len({*one} & {*other}) for one, other in zip(places, true, strict=True))
        return f"| {slots:,} | {name}{options} | {build:,.0f} | {search:.2f} | {right / 16:.2f} |"

    flat = faiss.IndexFlatIP(WIDTH)
    build, _ = timed(lambda: flat.add(rows))
    _, true = flat.search(queries, 4)
    yield line("all rows", build, flat)
    cells = faiss.IndexIVFFlat(faiss.IndexFlatIP(WIDTH), WIDTH, 1024, faiss.METRIC_INNER_PRODUCT)
    build, _ = timed(lambda: (cells.train(rows[:50_000]), cells.add(rows)))
    for cells.nprobe in (8, 128):
        yield line("1024 cells", build, cells, f", {cells.nprobe} looked at")
    graph = faiss.IndexHNSWFlat(WIDTH, 16, faiss.METRIC_INNER_PRODUCT)
    build, _ = timed(lambda: graph.add(rows))
    yield line("graph (HNSW, 16 neighbours)", build, graph)


INDEX_HEAD = (
    "| slots | index | build, ms | a search of 4 heads, ms | of the 4 best found |\n"
    "|---|---|---|---|---|"
)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slots", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=100, help="steps of a run")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each program")
    parser.add_argument("--output", type=Path, help="a file for the table, besides the terminal")
    parser.add_argument("--index", action="store_true", help="time indexes of faiss")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = [INDEX_HEAD if given.index else HEAD]
    print(lines[0], flush=True)
    if given.index:
        made = (line for slots in given.slots for line in index_rows(slots))
    else:
        small = machine("sparse", 64)
        run(small, first_state(small), 2, training=True)()
        cases = [(training, slots) for training in (True, False) for slots in given.slots]
        # Before all else, as memory that was used once is not given back at once.
        peaks = {
            (training, slots): (
                peak("sparse", slots, given.steps, training),
                peak("dense", slots, dense_steps(slots, given.steps), training),
            )
            for training, slots in cases
        }
        made = (
            row(slots, given.steps, given.rounds, training, peaks[training, slots])
            for training, slots in cases
        )
    for line in made:
        print(line, flush=True)
        lines.append(line)
    if given.output:
        given.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
