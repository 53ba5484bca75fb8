"""Two programs that take turns in one process with one thread, timed."""

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

Step = Callable[[], object]


def find(variable: str, what: str, folder: str = "") -> None:
    """Let a peer be imported from where an environment variable says that it is, or stop."""
    if variable not in os.environ:
        sys.exit(f"needs {variable}=<{what}>")
    sys.path.insert(0, str(Path(os.environ[variable], folder)))


def updating(
    model: nn.Module, loss: Callable[[], Tensor], greatest_norm: float | None = 1.0
) -> Step:
    """A step of training with Adam, the gradient clipped to a norm if one is given."""
    optimizer = torch.optim.Adam(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        if greatest_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), greatest_norm)
        optimizer.step()

    return step


def seconds(step: Step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def compare(name: str, ours: Step, theirs: Step, rounds: int) -> None:
    """Print the median times of both, and the median ratio, theirs by ours, of the pairs."""
    torch.set_num_threads(1)
    for _ in range(2):
        ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    mine, other = (statistics.median(times) * 1e3 for times in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(
        f"{name}: ours {mine:.1f} ms, theirs {other:.1f} ms, ratio {ratio:.2f} "
        f"(median of {rounds} pairs, 1 thread)",
        flush=True,
    )
