"""Time linear memories: all steps at once against the steps one by one, and beside attention.

Each step is forward and backward, B = 8 sequences of T steps with 4 heads of 32 x 32, one thread.
The programs of a row take turns. The columns:

at once    the write and the read of all steps, as the library runs them: in C++ where there is a
           compiler
plain      the same in chunks, in plain PyTorch, which runs where there is none
steps      the same, one step after the other
attention  torch.nn.functional.scaled_dot_product_attention, causal, of the same heads
naive      fla's code in plain PyTorch, in chunks, where there is some; give --fla, a checkout of
           fla-org/flash-linear-attention, to have it; it needs einops

memory     a memory with its gates, whose interface is given: its steps one by one, by all at once

and then a table of decoding: milliseconds a token after t tokens, and what is kept of them.

python benchmarks/linear.py --fla flash-linear-attention --output docs/results/linear_table.md
"""

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pairs import Step, ratios, say, spread, turns
from torch import Tensor, nn

from memnets import fast
from memnets.core import Cell
from memnets.memories import GLA, KDA, DeltaNet, GatedDeltaNet, Linear, LinearAttention
from memnets.memories.scan import scan, write

BATCH, HEADS, WIDTH = 8, 4, 32
#: Name of a memory -> whether it erases, the numbers of a decay, and its class.
MEMORIES: dict[str, tuple[bool, int, type[Linear]]] = {
    "linear attention": (False, 0, LinearAttention),
    "delta rule": (True, 0, DeltaNet),
    "gated delta rule": (True, 1, GatedDeltaNet),
    "GLA, a decay an entry": (False, WIDTH, GLA),
    "KDA, a decay an entry": (True, WIDTH, KDA),
}


class Numbers:
    """Random inputs of T steps, with a gradient, and of one memory."""

    def __init__(self, steps: int, erases: bool, decays: int) -> None:
        shape = (BATCH, HEADS, steps)
        self.queries = torch.randn(*shape, WIDTH)
        self.values = torch.randn(*shape, WIDTH)
        self.keys = nn.functional.normalize(torch.randn(*shape, WIDTH), dim=-1)
        self.strength = torch.rand(*shape, 1) if erases else None
        self.decay = -0.1 * torch.rand(*shape, decays) if decays else None
        self.memory = torch.zeros(BATCH, HEADS, WIDTH, WIDTH)
        self.sources = [self.queries, self.values, self.keys]
        self.sources += [each for each in (self.strength, self.decay) if each is not None]
        for each in self.sources:
            each.requires_grad_()

    def writes(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys, values and erases of one write a step."""
        keys, values = self.keys.unsqueeze(-2), self.values.unsqueeze(-2)
        if self.strength is None:
            return keys, values, None
        strength = self.strength.unsqueeze(-2)
        return keys, strength * values, strength * keys

    def at_once(self) -> Tensor:
        keys, values, erase = self.writes()
        return scan(self.queries, keys, values, self.memory, erase, self.decay)[0]

    def in_chunks(self) -> Tensor:
        with fast.naive():
            return self.at_once()

    def step_by_step(self) -> Tensor:
        keys, values, erase = self.writes()
        count = keys.shape[2]
        nothing = (None,) * count
        # Taken apart at once: the gradient of a slice for each step would be as long as all steps.
        steps = zip(
            self.queries.split(1, 2),
            keys.unbind(2),
            values.unbind(2),
            nothing if erase is None else erase.unbind(2),
            nothing if self.decay is None else self.decay.unbind(2),
            strict=True,
        )
        memory, outputs = self.memory, []
        for query, *step in steps:
            memory, _ = write(memory, *step)
            outputs.append(query @ memory)
        return torch.cat(outputs, -2)

    def attention(self) -> Tensor:
        return nn.functional.scaled_dot_product_attention(
            self.queries, self.keys, self.values, is_causal=True
        )

    def trained(self, run: Callable[[], Tensor]) -> Step:
        """Forward and backward."""
        return lambda: torch.autograd.grad(run().sum(), self.sources, allow_unused=True)


def memory_steps(make: type[Linear], steps: int) -> dict[str, Step]:
    """A memory driven by an interface: all steps at once, and one by one."""
    memory = make(WIDTH, WIDTH, HEADS)
    inputs = torch.randn(BATCH, steps, memory.interface_size, requires_grad=True)

    def trained(unroll: Callable[..., tuple[Tensor, Any]]) -> Step:
        def run() -> object:
            outputs, _ = unroll(memory, inputs, memory.initial_state(BATCH))
            return torch.autograd.grad(outputs.sum(), inputs)

        return run

    return {"at once": trained(Linear.unroll), "by steps": trained(Cell.unroll)}


def loaded(folder: Path, name: str) -> Any:
    """A file of plain PyTorch of fla, without the package, which needs a GPU."""
    path = folder / "fla" / "ops" / name / "naive.py"
    spec = importlib.util.spec_from_file_location(f"naive_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def naive(folder: Path, name: str, numbers: Numbers) -> Callable[[], Tensor] | None:
    """fla's plain chunks of a memory; ``None`` where it has none."""
    first = (numbers.queries, numbers.keys, numbers.values)
    if name == "delta rule":
        strength = numbers.strength
        assert strength is not None
        run = loaded(folder, "delta_rule").delta_rule_chunkwise
        return lambda: run(*first, strength.squeeze(-1))[0]
    if name == "gated delta rule":
        given = loaded(folder, "gated_delta_rule").naive_chunk_gated_delta_rule
        swapped = [each.transpose(1, 2) for each in first]
        decay, strength = numbers.decay, numbers.strength
        assert decay is not None
        assert strength is not None
        gates = decay.squeeze(-1).transpose(1, 2), strength.squeeze(-1).transpose(1, 2)
        return lambda: given(*swapped, *gates)[0].transpose(1, 2)
    return None


def table(steps: tuple[int, ...], rounds: int, folder: Path | None) -> list[str]:
    """Lines of the table of training steps."""
    lines = [
        "| memory | T | at once, ms | steps / at once | plain / at once | attention / at once "
        "| naive / at once | memory: steps / at once |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, (erases, decays, make) in MEMORIES.items():
        for count in steps:
            numbers = Numbers(count, erases, decays)
            runs = {"scan": numbers.at_once, "steps": numbers.step_by_step}
            runs |= {"plain": numbers.in_chunks, "attention": numbers.attention}
            found = None if folder is None else naive(folder, name, numbers)
            if found is not None:
                runs["naive"] = found
            programs = {each: numbers.trained(run) for each, run in runs.items()}
            programs |= memory_steps(make, count)
            times = turns(programs, rounds, warm_up=1)
            shown = [
                str(ratios(times, each, "scan")) if each in times else ""
                for each in ("steps", "plain", "attention", "naive")
            ]
            milliseconds = 1e3 * spread(times["scan"]).median
            shown.append(str(ratios(times, "by steps", "at once")))
            lines.append(f"| {name} | {count} | {milliseconds:.0f} | {' | '.join(shown)} |")
            say(lines[-1])
    return lines


@torch.no_grad()
def decoding(after: tuple[int, ...], tokens: int) -> list[str]:
    """Lines of the table of decoding, one sequence."""
    lines = [
        "| after t tokens | delta rule, ms a token | its state, bytes "
        "| attention, ms a token | its keys and values, bytes |",
        "|---|---|---|---|---|",
    ]
    for count in after:
        numbers = Numbers(count, True, 0)
        keys, values = numbers.keys[:1], numbers.values[:1]
        memory, key, strength = numbers.memory[:1], keys[:, :, :1], numbers.strength
        assert strength is not None

        def delta(memory: Tensor = memory, key: Tensor = key, strength: Tensor = strength) -> None:
            scaled = strength[:1, :, :1] * key
            write(memory, key, key, scaled)[0].mT @ key.mT

        def attend(keys: Tensor = keys, values: Tensor = values) -> None:
            query = keys[:, :, :1]
            nn.functional.scaled_dot_product_attention(query, keys, values)

        times = turns({"delta": delta, "attend": attend}, tokens, time.perf_counter)
        took = {name: 1e3 * spread(each).median for name, each in times.items()}
        kept = 4 * (keys.numel() + values.numel())
        ours = f"{took['delta']:.3f} | {4 * memory.numel()}"
        lines.append(f"| {count} | {ours} | {took['attend']:.3f} | {kept} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fla", type=Path, help="a checkout of fla-org/flash-linear-attention")
    parser.add_argument("--steps", type=int, nargs="+", default=[512, 2048], help="T of the rows")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each program")
    parser.add_argument("--output", type=Path, help="write the tables here too")
    given = parser.parse_args()
    if given.fla is not None and importlib.util.find_spec("einops") is None:
        parser.error("fla's plain code needs einops, which is not installed")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lines = table(tuple(given.steps), given.rounds, given.fla)
    lines += ["", *decoding((512, 2048, 8192, 32768), 50)]
    print("\n".join(lines))
    if given.output is not None:
        given.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
