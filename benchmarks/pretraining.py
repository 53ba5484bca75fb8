"""Error of a classification that starts from random or from pre-trained weights.

Over folds and seeds, as Dai & Le 2015, on the film snippets of vaderSentiment 0.5:

python benchmarks/pretraining.py --archive vaderSentiment-0.5.zip

A run that is there already is not repeated: the same command goes on where it was stopped. Each
fold and seed pre-trains its own weights; with --shared, the first seed of a fold pre-trains for the
others too. Further arguments go to each memnets fit, such as --trainer.max_epochs=2.

A start's error of a seed is the mean over the folds. The gain is that of the random start minus
that of the start, in points; p is of a paired t-test over the pairs of fold and seed that are
there for both, and over seeds if there are at least two.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

#: Start -> the config to pre-train with, and the config of the classification.
STARTS = {
    "random": (None, "classifier"),
    "language_model": ("language_model", "classifier"),
    "autoencoder": ("sequence_autoencoder", "classifier"),
    "random_seq2seq": (None, "vector_classifier"),
    "autoencoder_seq2seq": ("autoencoder", "vector_classifier"),
}


def fit(config: str, runs: Path, arguments: Sequence[str]) -> Path:
    """Folder of a run, which is trained if it has no test yet."""
    folder = runs / "sentiment" / config / "version_0"
    metrics = folder / "metrics.json"
    if not metrics.is_file() or not any(name.startswith("test/") for name in read(metrics)):
        # Here, so that --help and the table come at once.
        from memnets.app.cli import main as memnets

        if (folder / "checkpoints" / "last.ckpt").is_file():  # it goes on where it was stopped
            memnets(["fit", f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"])
        else:
            shutil.rmtree(folder, ignore_errors=True)
            memnets(["fit", "--config", f"sentiment/{config}", f"--runs={runs}", *arguments])
    return folder


def read(metrics: Path) -> dict[str, float]:
    """Scores of a run."""
    found: dict[str, float] = json.loads(metrics.read_text())
    return found


def error(
    start: str, fold: int, seed: int, pretraining_seed: int, given: argparse.Namespace
) -> float:
    """Error of a start on the test of a fold, after the runs that it needs."""
    before, after = STARTS[start]
    root = given.runs / f"fold_{fold}"
    common = [f"--data.fold={fold}", f"--data.archive={given.archive}", *given.more]
    arguments = [f"--seed_everything={seed}", *common]
    if before is not None:
        first = fit(
            before,
            root / f"seed_{pretraining_seed}" / "pretraining",
            [f"--seed_everything={pretraining_seed}", *common],
        )
        arguments.append(f"--init_from={first / 'checkpoints' / 'best.ckpt'}")
    folder = fit(after, root / f"seed_{seed}" / start, arguments)
    return read(folder / "metrics.json")["test/error"]


def table(errors: dict[str, dict[tuple[int, int], float]]) -> str:
    """A Markdown table of the errors of each start, by fold and seed."""
    lines = [
        "| start | error, % | seeds, % | gain, points | p, folds and seeds | p, seeds | runs |",
        "|---|---|---|---|---|---|---|",
    ]
    random = next((name for name in errors if name.startswith("random")), None)
    for start, found in errors.items():
        if not found:
            continue
        random = start if start.startswith("random") else random
        seeds = by_seed(found)
        cells = [f"{100 * np.mean(list(found.values())):.2f}"]
        cells.append(", ".join(f"{100 * value:.2f}" for value in seeds.values()))
        base = errors[random] if random is not None else {}
        shared = [pair for pair in found if pair in base]
        if start == random or not shared:
            cells += ["", "", ""]
        else:
            one, other = ([each[pair] for pair in shared] for each in (base, found))
            cells.append(f"{100 * (np.mean(one) - np.mean(other)):.2f}")
            cells.append(p_value(one, other))
            ours, theirs = (
                by_seed({p: found[p] for p in shared}),
                by_seed({p: base[p] for p in shared}),
            )
            cells.append(p_value(list(theirs.values()), list(ours.values())))
        lines.append(f"| {start} | " + " | ".join([*cells, str(len(found))]) + " |")
    return "\n".join(lines)


def by_seed(errors: dict[tuple[int, int], float]) -> dict[int, float]:
    """Mean error over the folds of each seed."""
    seeds = sorted({seed for _, seed in errors})
    return {
        seed: float(np.mean([value for (_, each), value in errors.items() if each == seed]))
        for seed in seeds
    }


def p_value(one: Sequence[float], other: Sequence[float]) -> str:
    """p of a paired t-test, of both sides; a dash with less than two pairs, or without a spread."""
    if len(one) < 2 or np.ptp(np.subtract(one, other)) == 0:
        return "-"
    return f"{stats.ttest_rel(one, other).pvalue:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archive", required=True, help="source archive of vaderSentiment 0.5")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS)[:3])
    parser.add_argument("--shared", action="store_true", help="pre-train once for each fold")
    parser.add_argument("--runs", type=Path, default=Path("runs/pretraining"))
    given, given.more = parser.parse_known_args()
    errors: dict[str, dict[tuple[int, int], float]] = {start: {} for start in given.starts}
    # Seed by seed: whenever it is stopped, the starts have about the same runs.
    for seed in given.seeds:
        for fold in given.folds:
            first = given.seeds[0] if given.shared else seed
            for start in given.starts:
                errors[start][fold, seed] = error(start, fold, seed, first, given)
            print(table(errors), flush=True)


if __name__ == "__main__":
    main()
