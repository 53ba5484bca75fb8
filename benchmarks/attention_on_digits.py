"""Where a model looks while it names a digit of a scene: a line for each run of captions.

memnets fit --config captions/soft
memnets fit --config captions/hard
python benchmarks/attention_on_digits.py runs/captions/soft/version_0 runs/captions/hard/version_0

A Markdown table is printed: the share of exact captions in the test, and the share of the attention
that lies on the digit being named: at the step of a digit's word, the weights of all patches that
overlap the digit's box of 8 x 8 pixels. The model is given the right words so far. Beside it stands
the share that attention spread evenly over the image would have.
"""

import argparse
import json
from pathlib import Path

import torch

from memnets.app.checkpoints import load_run
from memnets.models import Model
from memnets.viewing import trace
from tasks.captions import Captions, share_within


@torch.no_grad()
def shares(model: Model, task: Captions, split: str = "test") -> tuple[float, float]:
    """Share of the attention on the digits being named, by the model and spread evenly."""
    (part,) = model.alignments().values()
    grid = model.grid(task.side, task.side)
    looked, even, weight = 0.0, 0.0, 0
    for index in range(task.batches(split)):
        batch, named = task.batch(split, index), task.named(split, index)
        with trace.record(model) as tape:
            model.logits(batch)
        # A call for each step, [B, 1, S], or one for all steps, [B, T, S].
        weights = torch.cat(tape.calls(part), 1)
        count = sum(map(len, named))
        looked += count * share_within(weights, named, grid, task.side)
        flat = torch.full_like(weights, 1 / weights.shape[-1])
        even += count * share_within(flat, named, grid, task.side)
        weight += count
    return looked / weight, even / weight


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs of tasks.Captions")
    runs = parser.parse_args().runs
    print("| run | exact | on the digit | spread evenly | seconds |\n|---|---|---|---|---|")
    for run in runs:
        model, task = load_run(run)
        metrics = json.loads((run / "metrics.json").read_text())
        cells = [f"{100 * metrics['test/exact']:.1f} %", "-", "-"]
        if model.alignments():
            cells[1:] = (f"{share:.3f}" for share in shares(model, task))
        seconds = metrics.get("train/seconds", float("nan"))
        print(f"| {'/'.join(run.parts[-3:])} | {' | '.join(cells)} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
