"""A memory network on families of stories, several seeds of each: trainings, then a Markdown table.

The last checkpoint of each training is tested, as in the paper. Trainings that are done are not
repeated, so a stopped command goes on. A training takes about a minute of a core; each seed tells
stories of its own.

python benchmarks/stories.py --numbers 1 2 3 --seeds 10 --runs runs
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path


def scores_of(
    number: int, seed: int, config: str, runs: Path, flags: list[str]
) -> dict[str, float]:
    """Scores of the last checkpoint of a training, which takes place if it has not yet.

    Args:
        number: number of the family.
        seed: seed of the stories and of the weights.
        config: config of the model.
        runs: folder of all runs.
        flags: further flags of ``memnets fit``.
    """
    folder = runs / config / f"family_{number}" / f"seed_{seed}"
    kept = folder / "last.json"
    if not kept.exists():
        memnets = [sys.executable, "-m", "memnets"]
        if not list(folder.glob("*/metrics.json")):
            fit = ["fit", "--config", config, "--runs", str(runs), f"--data.number={number}"]
            name = str(folder.relative_to(runs))
            # The best checkpoint, of the lowest loss on the questions held out, is an early one:
            # the loss rises again long before the share of right answers falls.
            fit += ["--name", name, f"--seed_everything={seed}", "--test_weights=last", *flags]
            subprocess.run([*memnets, *fit], check=True)
        kept.write_text(sorted(folder.glob("*/metrics.json"))[-1].read_text())
    scores: dict[str, float] = json.loads(kept.read_text())
    return scores


def row(number: int, scores: list[dict[str, float]]) -> str:
    """A line of the table: right answers to the test questions, in percent."""
    tested = [100 * each["test/accuracy"] for each in scores]
    # Among equals, the lower loss decides.
    best = max(scores, key=lambda each: (each["val/accuracy"], -each["val/loss"]))
    cells = [100 * best["test/accuracy"], statistics.mean(tested), min(tested), max(tested)]
    return f"| {number} | {len(tested)} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--numbers", nargs="+", type=int, default=[1, 2, 3], help="the families")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds, from 0")
    parser.add_argument("--config", default="babi/memory_network", help="the model")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
    given, flags = parser.parse_known_args()
    lines = []
    for number in given.numbers:
        scores = [
            scores_of(number, seed, given.config, given.runs, flags) for seed in range(given.seeds)
        ]
        lines.append(row(number, scores))
    print(
        "| family | seeds | best by validation | mean | worst | best |\n|---|---|---|---|---|---|"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
