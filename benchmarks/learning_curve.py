"""Validation scores against training sequences, a line a run, from their metrics.csv alone.

memnets fit --config configs/ngrams/ntm.yaml
python benchmarks/learning_curve.py runs/ngrams/ntm/version_0

The picture is learning_curve.png, if --picture names no other. --least: a metric of the first run
that bounds the score, such as test/bayes_bits where --score is of the same test set.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import yaml

from memnets.viewing import plots
from memnets.viewing.names import in_words


def curve(run: Path, score: str) -> np.ndarray:
    """Sequences and score, ``[k, 2]``."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    size = config["data"]["init_args"]["batch_size"]
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get(score)]
    return np.array([[size * (int(row["step"]) + 1), float(row[score])] for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders with a metrics.csv")
    parser.add_argument("--score", default="val/bits", help="val/bits if not given")
    parser.add_argument("--least", help="a metric that bounds the score")
    parser.add_argument("--picture", type=Path, default=Path("learning_curve.png"))
    arguments = parser.parse_args()
    lines = {
        "/".join(run.resolve().parts[-4:-1]): curve(run, arguments.score) for run in arguments.runs
    }
    empty = [name for name, line in lines.items() if not len(line)]
    if empty:
        parser.error(f"expected {arguments.score} in metrics.csv; none in {', '.join(empty)}")
    if arguments.least:
        metrics = json.loads((arguments.runs[0] / "metrics.json").read_text())
        if arguments.least not in metrics:
            parser.error(f"expected --least to be one of {sorted(metrics)}; got {arguments.least}")
        ends = np.array([line[[0, -1], 0] for line in lines.values()])
        sides = [ends.min(), ends.max()]
        lines[arguments.least] = np.stack([sides, [metrics[arguments.least]] * 2], 1)
    name, unit, where = in_words(arguments.score)
    up = f"{name}{f' ({unit})' if unit else ''}{f', {where}' if where else ''}"
    panel = plots.Curves(lines, across="training sequences", up=up)
    print(plots.curves([panel], arguments.picture))


if __name__ == "__main__":
    main()
