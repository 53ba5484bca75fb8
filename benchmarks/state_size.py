"""Scores of trained runs, by the size of their state: a Markdown table, and a picture.

for seed in 0 1 2; do
    memnets fit --config symbols/delta_net --seed_everything $seed --runs runs/seed_$seed
done
python benchmarks/state_size.py runs/seed_*/symbols/delta_net/version_0/metrics.json

Runs of the same task and model are a row, with the mean and the worst of their seeds. The files are
metrics.json of runs of the objective Symbols, or the records of them in docs/results/records. A
score is an accuracy, scaled so that 0 is chance and 1 is perfect: (accuracy - chance) / (1 -
chance). The size is that of the score test/.../state: numbers that a model keeps of one question
after its answer, such as the matrices of a linear memory.

--picture draws the scores against the sizes. Models whose names differ only in a number at their
end, such as recall/delta_net_8 and recall/delta_net_16, are one line.
"""

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure

from memnets.viewing import plots
from memnets.viewing.colours import look_of

#: Accuracy over the lengths that were not in training, if --score names no other.
SCORE = "test/longer/accuracy"


class Row(NamedTuple):
    """The runs of one task and model."""

    name: str
    scores: list[float]
    floats: float
    steps: float
    seconds: float

    @property
    def mean(self) -> float:
        return sum(self.scores) / len(self.scores)


def name_of(file: Path) -> str:
    """Task and model: the two folders above a file, but for that of a version."""
    folders = file.resolve().parts[:-1]
    return "/".join(folders[-3:-1] if folders[-1].startswith("version_") else folders[-2:])


def scaled(accuracy: float, chance: float) -> float:
    """An accuracy on a scale on which chance is 0."""
    return (accuracy - chance) / (1 - chance)


def rows(files: Sequence[Path], score: str, chance: float) -> list[Row]:
    """A row for each task and model.

    Raises:
        KeyError: a run lacks the score.
    """
    groups: dict[str, list[dict[str, float]]] = defaultdict(list)
    for file in files:
        groups[name_of(file)].append(json.loads(file.read_text()))
    state = score.rpartition("/")[0] + "/state"
    keys = (state, "train/steps", "train/seconds")
    found = []
    for name, runs in groups.items():
        scores = [scaled(run[score], chance) for run in runs]
        found.append(
            Row(name, scores, *(sum(run[key] for run in runs) / len(runs) for key in keys))
        )
    return found


def table(found: Sequence[Row], score: str) -> list[str]:
    """Lines of a Markdown table."""
    lines = [
        f"| model | `{score}`, scaled: mean | worst | seeds "
        "| numbers of the state | steps | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found:
        worst, count = min(row.scores), len(row.scores)
        lines.append(
            f"| {row.name} | {row.mean:.3f} | {worst:.3f} | {count} | {row.floats:.0f} "
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
        panel.set_ylabel(f"share of right answers, test set {where}\n(0 = chance, 1 = all)")
        panel.set_ylim(-0.03, 1.03)
        panel.grid(alpha=0.3)
        panel.legend()
        figure.savefig(picture)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help="a metrics.json for each run")
    parser.add_argument("--score", default=SCORE, help=f"an accuracy of a test set; {SCORE}")
    parser.add_argument("--picture", type=Path, help="write a picture here")
    parser.add_argument("--chance", type=float, default=0.0, help="accuracy of chance; 0")
    given = parser.parse_args()
    if not 0 <= given.chance < 1:
        parser.error(f"chance must be in [0, 1); got {given.chance}")
    try:
        found = rows(given.files, given.score, given.chance)
    except KeyError as error:
        parser.error(f"expected {error} in each file")
    print("\n".join(table(found, given.score)))
    if given.picture is not None:
        draw(found, given.score, given.picture)


if __name__ == "__main__":
    main()
