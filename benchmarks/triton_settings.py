"""The Triton kernels of the NTM on your GPU: their errors, and times with other settings.

First the largest errors of values and gradients in float32, each relative to the largest number of
its tensor: of the kernels, and of the definition. Then times with several settings of the launch,
since those of ``memnets/kernels/triton/__init__.py`` are one choice for all GPUs: milliseconds of a
forward and a backward pass, the median of 20.

    python benchmarks/triton_settings.py --batch 16 128 1024 --slots 128
"""

import argparse
import itertools
from contextlib import nullcontext
from functools import partial
from typing import Any
from unittest import mock

import torch

from memnets import fast
from memnets.cells import LSTM, Loop
from memnets.kernels import triton as kernels
from memnets.memories import NTM

# Warps a row, columns that a product loads at once, numbers of a tile of slots a thread, registers.
SETTINGS = [
    (8, 32, 32, None),
    (4, 32, 32, None),
    (16, 32, 32, None),
    (8, 16, 32, None),
    (8, 16, 16, 128),
    (4, 16, 32, 128),
    (16, 32, 16, 64),
]


def milliseconds(loop: Loop, inputs: torch.Tensor) -> float:
    """Median of a forward and a backward pass, after three that are not counted."""
    state = loop.initial_state(len(inputs))
    times = []
    for _ in range(23):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        outputs, _ = loop.unroll(inputs, state)
        torch.autograd.grad(outputs.square().sum(), list(loop.parameters()))
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times[3:])[10]


def errors(slots: int, batch: int, steps: int) -> str:
    """Distances from the definition in float64."""
    torch.manual_seed(0)
    loop = Loop(9, partial(LSTM, hidden_size=100), NTM(slots=slots, width=20)).cuda()
    inputs = torch.randn(batch, steps, 9, device="cuda")
    found = []
    for dtype, naive in ((torch.float64, True), (torch.float32, False), (torch.float32, True)):
        loop = loop.to(dtype)
        sources = [inputs.to(dtype).requires_grad_(), *loop.parameters()]
        with fast.naive() if naive else nullcontext():
            outputs, state = loop.unroll(sources[0], loop.initial_state(batch))
        total = outputs.sin().sum() + state.access.memory.sin().sum()
        gradients = torch.autograd.grad(total, sources)
        values = outputs, state.access.memory, state.access.weights, state.controller.cell[0]
        found.append([[one.detach().double() for one in same] for same in (values, gradients)])
    exact, *others = found
    (values, slopes), (plain_values, plain_slopes) = (
        [max(map(distance, *pair)) for pair in zip(one, exact, strict=True)] for one in others
    )
    return (
        f"values {values:.0e} (definition {plain_values:.0e}), "
        f"gradients {slopes:.0e} (definition {plain_slopes:.0e})"
    )


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max().clamp_min(1e-3))


def altered(warps: int, columns: int, numbers: int, registers: int | None) -> Any:
    """A context in which the kernels are launched with other settings."""
    own, tile_of = kernels._launch, kernels._tile

    def launch(*arguments: Any) -> Any:
        constants = dict(own(*arguments).constants)
        tile = numbers * 32 * warps // constants["WIDTH_BLOCK"]
        constants["SLOT_TILE"] = min(constants["SLOT_BLOCK"], tile)
        return kernels._Launch(constants, warps, registers)

    def tile(block: int, launched: Any) -> int:
        return min(columns, tile_of(block, launched))

    return mock.patch.multiple(kernels, _launch=launch, _tile=tile)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 128, 1024])
    parser.add_argument("--slots", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--steps", type=int, default=41)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no GPU")
    print(torch.cuda.get_device_name(), "torch", torch.__version__, f"T {options.steps}")
    print("in use" if kernels.why_not() is None else f"not in use: {kernels.why_not()}")
    for slots, batch in itertools.product(options.slots, options.batch[:2]):
        print(f"N {slots} B {batch}: {errors(slots, batch, options.steps)}", flush=True)
    for slots, setting in itertools.product(options.slots, SETTINGS):
        loop = Loop(9, partial(LSTM, hidden_size=100), NTM(slots=slots, width=20)).cuda()
        with altered(*setting):
            times = [
                milliseconds(loop, torch.randn(batch, options.steps, 9, device="cuda"))
                for batch in options.batch
            ]
        warps, columns, numbers, registers = setting
        row = "  ".join(
            f"B {batch}: {time:7.2f} ms" for batch, time in zip(options.batch, times, strict=True)
        )
        print(
            f"N {slots} warps {warps:2} columns {columns} tile {numbers} "
            f"registers {registers or '-'}  {row}",
            flush=True,
        )


if __name__ == "__main__":
    main()
