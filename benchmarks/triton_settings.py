"""Time the Triton kernels of the NTM with other settings of their launch, on a GPU.

The settings of ``memnets/kernels/triton/__init__.py`` are a guess for all GPUs. This prints what
others give on yours: milliseconds of a forward and a backward pass, the median of 20.

    python benchmarks/triton_settings.py --batch 16 128 1024 --slots 128
"""

import argparse
import itertools
from functools import partial
from typing import Any
from unittest import mock

import torch

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
