"""A Markdown table of runs, from their metrics.json alone: a row a run.

for seed in 0 1 2 3 4 5 6 7 8 9; do
    memnets fit --config configs/copying/ntm.yaml --seed_everything $seed --runs runs/seed_$seed
done
python benchmarks/table_of_seeds.py runs/seed_*/copying/ntm/version_0
"""

import argparse
import json
from pathlib import Path

COLUMNS = {
    "sequences to solve": "train/sequences_to_solve",
    "bits, 1-20": "val/bits",
    "20": "test/length_20/wrong_bits",
    "50": "test/length_50/wrong_bits",
    "120": "test/length_120/wrong_bits",
    "400": "test/length_400/wrong_bits",
    "1000": "test/length_1000/wrong_bits",
    "seconds": "train/seconds",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders with a metrics.json")
    runs = parser.parse_args().runs
    print("| run | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for folder in runs:
        metrics = json.loads((folder / "metrics.json").read_text())
        cells = [f"{metrics[name]:.5g}" if name in metrics else "-" for name in COLUMNS.values()]
        print(f"| {folder.parts[-4]} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
