"""A hard machine beside a soft one: seconds and wrong bits of a copy, by its length.

memnets fit --config configs/copying/hard.yaml
python benchmarks/hard.py runs/copying/hard/version_0
python benchmarks/hard.py runs/seed_*/copying/hard/version_0 --lengths 100000 --soft
python benchmarks/hard.py runs/copying/hard/version_0 --soft-run runs/copying/ntm/version_0

For each run and length it copies one sequence of random vectors, in a memory of 100 slots more,
with one thread; seconds are of the processor. "soft" is the same machine with soft weights, or,
with --soft-run, another machine that was trained so. Its time grows with the square of the length.
For lengths beyond those of --soft it is computed from the last of them, and marked with "~".
"""

import argparse
import time
from pathlib import Path

import torch

import memnets as mn
from tasks import Copying

#: Slots that are left over.
ROOM = 100


def copied(model: torch.nn.Module, length: int, hard: bool, seed: int) -> tuple[float, int]:
    """Seconds of the processor, and wrong bits, of the copy of one sequence."""
    model.access.slots = length + ROOM
    model.access.hard = hard
    width = model.input_size - 1
    task = Copying(width=width, test_sets=[(length, 1)], seed=seed)
    batch = task.batch(f"length_{length}", 0)
    start = time.process_time()
    with torch.inference_mode():
        logits = model.logits(batch)
    seconds = time.process_time() - start
    return seconds, int(((logits > 0) != (batch.targets > 0.5)).sum())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, or checkpoints")
    parser.add_argument(
        "--lengths", nargs="+", type=int, default=[1000, 10000, 100000], help="vectors to copy"
    )
    parser.add_argument(
        "--soft", nargs="*", type=int, default=[1000, 4000], help="those for the soft machine"
    )
    parser.add_argument("--soft-run", type=Path, help="a run whose machine is the soft one")
    parser.add_argument("--seed", type=int, default=0, help="of the sequences")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| run | machine | vectors | seconds | microseconds a step | wrong bits |")
    print("|---" * 6 + "|", flush=True)
    for run in given.runs:
        hard = mn.load(run)
        soft = mn.load(given.soft_run) if given.soft_run else hard
        copied(hard, 50, True, given.seed)  # the first call loads the operators
        name = next((part for part in run.parts if "seed" in part), run.name)
        jobs = [("hard", hard, length) for length in given.lengths]
        jobs += [("soft", soft, length) for length in given.soft]
        for machine, model, length in jobs:
            seconds, wrong = copied(model, length, machine == "hard", given.seed)
            step = 1e6 * seconds / (2 * length + 1)
            print(
                f"| {name} | {machine} | {length} | {seconds:.3g} | {step:.3g} | {wrong} |",
                flush=True,
            )
        for length in given.lengths if given.soft else []:
            if length > max(given.soft):
                more = seconds * (length / max(given.soft)) ** 2
                step = 1e6 * more / (2 * length + 1)
                print(f"| {name} | soft | {length} | ~{more:.3g} | ~{step:.3g} | - |", flush=True)


if __name__ == "__main__":
    main()
