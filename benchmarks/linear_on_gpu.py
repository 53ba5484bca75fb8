"""Time linear memories on a GPU: the kernels of flash-linear-attention, chunks, and attention.

Each step is forward and backward, from the interface of a memory (or queries, keys and values) to
what is read: B = 8 sequences of T steps, 4 heads of 64 x 64. The columns:

kernels    bfloat16, by the package flash-linear-attention where it is installed
chunks     bfloat16 in and out, by the library's own chunks in float32, in plain PyTorch
float32    the same in single precision, without TF32
steps      the steps one by one, in single precision; for the shortest T alone
attention  torch.nn.functional.scaled_dot_product_attention, bfloat16, causal, of the same heads

python benchmarks/linear_on_gpu.py --output table.md

The first call of each kernel compiles it, and tries its settings: up to a minute each.
"""

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from on_gpu import seconds, twins_but
from torch import nn

from memnets import fast
from memnets.core import Cell
from memnets.kernels import fla
from memnets.memories import GLA, KDA, DeltaNet, GatedDeltaNet, Linear, LinearAttention, RetNet

BATCH, HEADS, WIDTH = 8, 4, 64
MEMORIES: dict[str, type[Linear]] = {
    "linear attention": LinearAttention,  # with a mean of values, which the kernels lack
    "RetNet": RetNet,
    "GLA": GLA,
    "DeltaNet": DeltaNet,
    "Gated DeltaNet": GatedDeltaNet,
    "KDA": KDA,
}
WAYS = ("kernels", "chunks", "float32", "steps", "attention")

Step = Callable[[], object]


def memory_step(make: type[Linear], way: str, steps: int, device: str) -> Step:
    """Forward and backward of a memory whose interface is given."""
    dtype = torch.bfloat16 if way in ("kernels", "chunks") else torch.float32
    memory = make(WIDTH, WIDTH, HEADS).to(device, dtype)
    inputs = torch.randn(BATCH, steps, memory.interface_size, device=device, dtype=dtype)
    inputs.requires_grad_()
    state = memory.initial_state(BATCH)
    if way == "kernels":
        fast.twins()  # loads them
        found = fast.find(memory, "unroll", inputs, state, None)
        if found is None or found.__module__ != fla.__name__:
            raise LookupError("no kernel")
    unroll = partial(Cell.unroll, memory) if way == "steps" else memory.unroll

    def run() -> object:
        # The chunks are the library's own, though the package is installed.
        with nullcontext() if way == "kernels" else twins_but(lambda twin: twin.name == fla.NAME):
            outputs, _ = unroll(inputs, state)
            return torch.autograd.grad(outputs.float().sum(), inputs)

    return run


def attention_step(steps: int, device: str) -> Step:
    shape = (BATCH, HEADS, steps, WIDTH)
    given = [
        torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    ]

    def run() -> object:
        outputs = nn.functional.scaled_dot_product_attention(*given, is_causal=True)
        return torch.autograd.grad(outputs.float().sum(), given)

    return run


def cell(name: str, way: str, steps: int, rounds: int, device: str, shortest: bool) -> str:
    """Median, least and greatest milliseconds; empty for what is not measured."""
    if way == "steps" and not shortest:
        return ""
    try:
        if way == "attention":
            step = attention_step(steps, device)
        else:
            step = memory_step(MEMORIES[name], way, steps, device)
        step()  # to warm up
        times = [1e3 * each for each in seconds(step, 3 if way == "steps" else rounds, device)]
    except LookupError as error:
        return str(error)
    except Exception as error:  # a kernel that fails is a finding: the table says so
        print(f"{name}, {way}, T = {steps}: {error!r}", file=sys.stderr, flush=True)
        return type(error).__name__
    return f"{statistics.median(times):.3g} ({min(times):.3g} to {max(times):.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[512, 2048, 8192], help="T")
    parser.add_argument("--rounds", type=int, default=20, help="steps that are timed")
    parser.add_argument("--memories", nargs="+", choices=list(MEMORIES), default=list(MEMORIES))
    parser.add_argument("--output", type=Path, help="write the table here too")
    parser.add_argument("--trial", action="store_true", help="try this script on a CPU")
    given = parser.parse_args()
    if not torch.cuda.is_available() and not given.trial:
        sys.exit("needs a CUDA device; --trial runs this script on a CPU")
    device = "cpu" if given.trial else "cuda"
    torch.manual_seed(0)
    lines = [
        f"| memory | T | {' | '.join(f'{way}, ms' for way in WAYS)} |",
        f"|---|---|{'---|' * len(WAYS)}",
    ]
    print("\n".join(lines), flush=True)
    for name, steps in itertools.product(given.memories, given.steps):
        shortest = steps == min(given.steps)
        cells = [cell(name, way, steps, given.rounds, device, shortest) for way in WAYS]
        lines.append(f"| {name} | {steps} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    if given.output is not None:
        given.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
