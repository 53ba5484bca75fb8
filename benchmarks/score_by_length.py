"""Score against the length of a sentence, a line a run, from their metrics.json alone.

A context of fixed length forgets long sentences (Bahdanau et al. 2015, figure 2):

for model in seq2seq bahdanau transformer; do
    memnets fit --config configs/translation/$model.yaml
done
python benchmarks/score_by_length.py runs/translation/*/version_0

Scores are BLEU where the runs have it, else the share of exact answers. A Markdown table is
printed; the picture is score_by_length.png, if --picture names no other. --beam: the scores of the
beam search.
"""

import argparse
import json
import re
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from memnets.viewing import plots

#: Score -> patterns of the metrics' names, with the lengths as groups, and the name over all.
SCORES = {
    "BLEU": ([r"test/bleu_words_(\d+)-(\d+)", r"test/bleu_words_over_(\d+)()"], "test/bleu"),
    "exact": ([r"test/exact_length_(\d+)-(\d+)", r"test/length_(\d+)/exact"], "test/exact"),
}


def by_length(metrics: dict[str, float], score: str, way: str) -> dict[tuple[int, int], float]:
    """First and last length -> score; the last is 0 where there is none."""
    found = {}
    for pattern in SCORES[score][0]:
        for name, value in metrics.items():
            match = re.fullmatch(pattern + way, name)
            if match:
                first, last = int(match[1]), int(match[match.lastindex] or 0)
                found[first + (not last), last] = value
    return dict(sorted(found.items()))


def label(lengths: tuple[int, int]) -> str:
    first, last = lengths
    if not last:
        return f"over {first - 1}"
    return str(first) if first == last else f"{first}-{last}"


def place(lengths: tuple[int, int]) -> float:
    first, last = lengths
    return (first + last) / 2 if last else first + 4.0


def names(folders: list[Path]) -> list[str]:
    """What tells one folder from another."""
    parts = [folder.resolve().parts for folder in folders]
    shared = set.intersection(*map(set, parts))
    if len(parts) == 1:
        return ["/".join(parts[0][-3:-1])]
    return ["/".join(part for part in path if part not in shared) for path in parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders with a metrics.json")
    parser.add_argument("--picture", type=Path, default=Path("score_by_length.png"))
    parser.add_argument("--beam", action="store_true", help="scores of the beam search")
    arguments = parser.parse_args()
    way = "_beam" if arguments.beam else ""
    metrics = [json.loads((run / "metrics.json").read_text()) for run in arguments.runs]
    for score in SCORES:
        found = [by_length(run, score, way) for run in metrics]
        if any(found):
            break
    empty = [str(run) for run, lengths in zip(arguments.runs, found, strict=True) if not lengths]
    if empty:
        parser.error(f"expected {score}{way} by length in metrics.json; none in {', '.join(empty)}")

    whole = SCORES[score][1] + way
    columns = sorted({lengths for run in found for lengths in run})
    print(f"| {score}{way} | all | " + " | ".join(map(label, columns)) + " |")
    print("|---" * (len(columns) + 2) + "|")
    for name, run, lengths in zip(names(arguments.runs), metrics, found, strict=True):
        values = [run.get(whole), *(lengths.get(column) for column in columns)]
        cells = ["-" if value is None else f"{value:.4g}" for value in values]
        print(f"| {name} | " + " | ".join(cells) + " |")

    with matplotlib.rc_context(plots.style()):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        panel = figure.subplots()
        for number, (name, lengths) in enumerate(zip(names(arguments.runs), found, strict=True)):
            mark = "os^DvP"[number % 6]
            places = [place(each) for each in lengths]
            panel.plot(places, list(lengths.values()), marker=mark, label=name)
        panel.set_xticks([place(each) for each in columns], [label(each) for each in columns])
        unit = "words" if score == "BLEU" else "symbols"
        panel.set_xlabel(f"length of the source, {unit}")
        name = "BLEU" if score == "BLEU" else "answers without a mistake, share"
        panel.set_ylabel(name + (", beam search" if way else "") + "; higher is better")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.legend()
        figure.savefig(arguments.picture)


if __name__ == "__main__":
    main()
