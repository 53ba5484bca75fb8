"""Scores of trained runs by the size of their state: a Markdown table, and a picture.

for seed in 0 1 2; do
    memnets fit --config symbols/delta_net --seed_everything $seed --runs runs/seed_$seed
done
python benchmarks/state_size.py runs/seed_*/symbols/delta_net/version_0

Runs of the same task and model are a row, with the mean and the worst of their seeds. A score of 0
is chance and 1 is perfect: (accuracy - chance) / (1 - chance), where chance is one of as many
answers as the task has. The floats of a state are those that a model keeps after it has read one
question of the test set, such as the matrices of a linear memory, and answered it.

--picture draws the scores against the floats. Models whose names differ only in a number at their
end, such as recall/delta_net_8 and recall/delta_net_16, are one line.
"""

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor

from memnets.app.checkpoints import load_run
from memnets.batches import Batch
from memnets.core import map_state
from memnets.viewing import plots
from memnets.viewing.colours import look_of

#: Accuracy over the lengths that were not in training, if --score names no other.
SCORE = "test/longer/accuracy"


class Row(NamedTuple):
    """The runs of one task and model."""

    name: str
    scores: list[float]
    floats: int
    steps: float
    seconds: float

    @property
    def mean(self) -> float:
        return sum(self.scores) / len(self.scores)


def scaled(accuracy: float, answers: int) -> float:
    """An accuracy on a scale on which chance is 0, with so many possible answers."""
    return (accuracy - 1 / answers) / (1 - 1 / answers)


@torch.no_grad()
def floats_of_state(model: Any, batch: Batch) -> int:
    """Floats that a model keeps after the first question of a batch and its answer."""
    mask = None if batch.source_mask is None else batch.source_mask[:1]
    _, state = model.decode(batch.inputs[:1], model.encode(batch.source[:1], mask))
    sizes: list[int] = []

    def count(part: Tensor) -> Tensor:
        sizes.append(part.numel() if part.is_floating_point() else 0)
        return part

    map_state(count, state)
    return sum(sizes)


def rows(folders: Sequence[Path], score: str) -> list[Row]:
    """A row for each task and model.

    Raises:
        KeyError: a run lacks the score.
    """
    groups: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        groups["/".join(folder.resolve().parts[-3:-1])].append(folder)
    found = []
    for name, runs in groups.items():
        model, task = load_run(runs[0])
        floats = floats_of_state(model, task.batch(score.split("/")[1], 0))
        metrics = [json.loads((run / "metrics.json").read_text()) for run in runs]
        scores = [scaled(each[score], task.output_size) for each in metrics]
        means = (
            sum(each[key] for each in metrics) / len(metrics)
            for key in ("train/steps", "train/seconds")
        )
        found.append(Row(name, scores, floats, *means))
    return found


def table(found: Sequence[Row], score: str) -> list[str]:
    """Lines of a Markdown table."""
    lines = [
        f"| model | `{score}`, scaled: mean | worst | seeds | floats of state | steps | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found:
        worst, count = min(row.scores), len(row.scores)
        lines.append(
            f"| {row.name} | {row.mean:.3f} | {worst:.3f} | {count} | {row.floats} "
            f"| {row.steps:.0f} | {row.seconds:.0f} |"
        )
    return lines


def draw(found: Sequence[Row], score: str, picture: Path) -> None:
    """Scores against floats, a line for each family of models and a mark for each seed."""
    families: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(found, key=lambda row: row.floats):
        families[re.sub(r"_\d+$", "", row.name.split("/")[-1])].append(row)
    with matplotlib.rc_context(plots.style()):
        figure = Figure(figsize=(7.5, 4.5), layout="constrained")
        panel = figure.subplots()
        for name, members in families.items():
            look = look_of(name)
            floats = [row.floats for row in members]
            panel.plot(
                floats,
                [row.mean for row in members],
                color=look.colour,
                marker=look.marker,
                label=name.replace("_", " "),
            )
            every = [(row.floats, value) for row in members for value in row.scores]
            panel.scatter(*zip(*every, strict=True), s=14, color=look.colour, marker=look.marker)
        panel.set_xscale("log", base=2)
        panel.set_xlabel("numbers in the state of one sequence, after its question")
        where = score.split("/")[1].replace("_", " ")
        panel.set_ylabel(f"right answers, {where}\n(0 = chance, 1 = all)")
        panel.set_ylim(-0.03, 1.03)
        panel.grid(alpha=0.3)
        panel.legend()
        figure.savefig(picture)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders with a metrics.json")
    parser.add_argument("--score", default=SCORE, help=f"an accuracy of a test set; {SCORE}")
    parser.add_argument("--picture", type=Path, help="write a picture here")
    given = parser.parse_args()
    try:
        found = rows(given.runs, given.score)
    except KeyError as error:
        parser.error(f"expected {error} in each metrics.json")
    print("\n".join(table(found, given.score)))
    if given.picture is not None:
        draw(found, given.score, given.picture)


if __name__ == "__main__":
    main()
