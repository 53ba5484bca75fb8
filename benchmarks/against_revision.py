"""Step times of this tree against those of another revision of it, in pairs.

Two processes, one a tree, take turns: each is asked for one training step (forward, backward,
clipping, Adam) of the same model on the same batch, and they never run at once. Steps without
gradients, whose names begin with "one step", are so short that 200 of them are timed together. In
every other pair the other process is the first. Printed are median times, and the median, least and
greatest ratio of the pairs, other by ours: above 1, ours is faster.

    python benchmarks/against_revision.py HEAD~1
    python benchmarks/against_revision.py <a folder with another checkout> --rounds 40 --only NTM
    python benchmarks/against_revision.py HEAD~1 --rounds 60 --only "one step"
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pairs import spread

#: The tree of this file.
HERE = Path(__file__).resolve().parent.parent

WORKER = '''
import importlib, sys, time
from functools import partial
import torch
torch.set_num_threads(1)

def named(name, *modules):
    """A class by its name, in the first of the modules that has it: revisions differ."""
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            pass
    raise ImportError(name)

cells = ("memnets.cells", "memnets.controllers")
LSTM, GRU = named("LSTM", *cells), named("GRU", *cells)
from memnets.addressing import Content
from memnets.encoders import Recurrent
from memnets.memories import DNC, NTM, Tape
from memnets.models import SNAIL, MemoryMachine, PointerNetwork, Seq2Seq, Transformer
from memnets.scores import Additive
Tokens = named("Tokens", "memnets.training", "memnets.objectives")
from tasks import Copying, CopyingTokens, SortingNumbers

def machine(access, batch_size):
    batch = Copying(8, 20, 20, batch_size=batch_size).batch("train", 0)
    return MemoryMachine(9, 8, partial(LSTM, hidden_size=100), access), batch

def tokens(make, size=32):
    task = CopyingTokens(symbols=26, min_length=20, max_length=20, batch_size=size)
    batch = task.batch("train", 0)
    return make(30, 30, objective=Tokens()), batch

def attention(inputs, outputs, **settings):
    return Seq2Seq(
        inputs, outputs, partial(Recurrent, controller=partial(GRU, hidden_size=64)),
        partial(GRU, hidden_size=128), Content(Additive(64)), width=64, key_size=64, **settings,
    )

def pointer():
    batch = SortingNumbers(10, 10, batch_size=64).batch("train", 0)
    encoder = partial(Recurrent, controller=partial(LSTM, hidden_size=32))
    model = PointerNetwork(
        1, encoder, partial(LSTM, hidden_size=64), Content(Additive(64)), width=64,
        objective=Tokens(),
    )
    return model, batch

CASES = {
    "NTM, B = 1": lambda: machine(NTM(128, 20), 1),
    "NTM, B = 16": lambda: machine(NTM(128, 20), 16),
    "DNC, B = 16": lambda: machine(DNC(64, 20), 16),
    "NTM under a GRU, B = 16": lambda: (
        MemoryMachine(9, 8, partial(GRU, hidden_size=100), NTM(128, 20)),
        Copying(8, 20, 20, batch_size=16).batch("train", 0),
    ),
    "Tape, B = 32, 80 steps": lambda: (
        MemoryMachine(9, 8, partial(LSTM, hidden_size=96), Tape(24, 4)),
        Copying(8, 39, 39, batch_size=32).batch("train", 0),
    ),
    "attention GRU, B = 32": lambda: tokens(attention),
    "Transformer, B = 32": lambda: tokens(partial(Transformer, width=64, hidden_size=128)),
    "SNAIL, B = 32": lambda: tokens(partial(
        SNAIL, width=32, attentions=((16, 16), (16, 16)), filters=16)),
    "pointer, B = 64, n = 10": pointer,
    "greedy, Transformer, B = 32": lambda: tokens(
        partial(Transformer, width=64, hidden_size=128)),
    "greedy, Transformer, B = 4": lambda: tokens(
        partial(Transformer, width=64, hidden_size=128), 4),
}

def taking(cell, batch_size):
    """Steps of a cell; a memory that grows begins anew after 50."""
    inputs = torch.randn(batch_size, cell.eval().input_size)
    def take():
        for start in range(0, STEPS, 50):
            state = cell.initial_state(batch_size)
            for _ in range(start, start + 50):
                _, state = cell.step(inputs, state)
    return take

def answering(model, batch):
    """Steps of an answer, each of one token."""
    model.eval()
    def take():
        for start in range(0, STEPS, 50):
            state = model.encode(batch.source)
            for _ in range(start, start + 50):
                _, state = model.decode(batch.inputs[:, :1], state)
    return take

def encoding(layer):
    inputs = torch.randn(4, 10, 64)
    layer.eval()
    return lambda: [layer(inputs) for _ in range(STEPS)]

def cell_of(name, *arguments, **settings):
    return named(name, *cells)(*arguments, **settings)

STEPS = 200
STEP_CASES = {
    "one step, LSTM, B = 4": lambda: taking(LSTM(64, 64), 4),
    "one step, NTM, B = 4": lambda: taking(NTM(16, 8), 4),
    "one step, NTM under an LSTM, B = 4": lambda: taking(
        cell_of("Loop", 9, partial(LSTM, hidden_size=64), NTM(16, 8)), 4),
    "one step, three LSTMs, B = 4": lambda: taking(
        cell_of("Chain", 64, [partial(LSTM, hidden_size=64)] * 3), 4),
    "one step, self-attention, B = 4": lambda: taking(cell_of("SelfAttention", 64, 4), 4),
    "one step, layer of a decoder, B = 4": lambda: taking(
        cell_of("TransformerLayer", 64, 4, 128), 4),
    "one step, two layers of DeltaNet, B = 4": lambda: taking(
        named("residual_stack", *cells)(
            lambda width: cell_of("Mixer", width, named("DeltaNet", "memnets.memories")(8, 8)),
            2, 64, 128), 4),
    "one step, layer of an encoder, B = 4": lambda: encoding(
        cell_of("EncoderLayer", 64, 4, 128)),
    "one step, attention GRU, B = 4": lambda: answering(*tokens(attention, 4)),
    "one step, Transformer, B = 4": lambda: answering(
        *tokens(partial(Transformer, width=64, hidden_size=128, layers=2), 4)),
}

def step_of(name):
    torch.manual_seed(0)
    if name in STEP_CASES:
        return torch.no_grad()(STEP_CASES[name]())
    model, batch = CASES[name]()
    if name.startswith("greedy"):
        model.eval()
        return lambda: model.generate(batch.source, max_length=30)
    optimizer = torch.optim.Adam(model.parameters())
    def step():
        optimizer.zero_grad()
        model.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return step

steps = {}
print(*CASES, *STEP_CASES, sep="|", flush=True)
for line in sys.stdin:
    name = line.strip()
    if name not in steps:
        steps[name] = step_of(name)
    start = time.process_time()
    steps[name]()
    print(time.process_time() - start, flush=True)
'''


def worker(tree: Path, code: str = WORKER) -> subprocess.Popen[str]:
    """A process that runs the code with the modules of a tree."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment, cwd=tree, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def ask(process: subprocess.Popen[str], name: str) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    print(name, file=process.stdin, flush=True)
    return float(process.stdout.readline())


def compare(ours: Path, theirs: Path, rounds: int, only: str) -> None:
    processes = [worker(ours), worker(theirs)]
    names, _ = (process.stdout.readline().strip().split("|") for process in processes)
    print("| step | other, ms | ours, ms | other / ours | least to greatest |")
    print("|---|---|---|---|---|")
    for name in names:
        if only not in name:
            continue
        for _ in range(3):
            for process in processes:
                ask(process, name)
        pairs = []
        for number in range(rounds):
            order = processes if number % 2 == 0 else processes[::-1]
            pair = [ask(process, name) for process in order]
            pairs.append(pair if number % 2 == 0 else pair[::-1])
        mine, other = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = spread(b / a for a, b in pairs)
        print(
            f"| {name} | {other:.2f} | {mine:.2f} | {ratio.median:.2f} | "
            f"{ratio.least:.2f} to {ratio.greatest:.2f} |",
            flush=True,
        )
    for process in processes:
        process.kill()


@contextmanager
def checkout(other: str) -> Iterator[Path]:
    """A folder with another checkout: the one that is named, or one of a revision, made for it."""
    if Path(other).is_dir():
        yield Path(other).resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "other")
        git = ["git", "-C", str(HERE), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), other], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("other", help="a revision, or a folder with another checkout")
    parser.add_argument("--rounds", type=int, default=30, help="pairs for each step")
    parser.add_argument("--only", default="", help="a part of the names of the steps to time")
    asked = parser.parse_args()
    with checkout(asked.other) as other:
        compare(HERE, other, asked.rounds, asked.only)


if __name__ == "__main__":
    main()
