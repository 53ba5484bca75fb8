"""Lines a second and peak of memory of translation from files of any size.

    python benchmarks/data_at_scale.py
    python benchmarks/data_at_scale.py --lines 10000 --batches 50

It makes two files of so many lines of about 60 letters: words at random by Zipf's law, and the same
words in another order and language; beyond a million, the same lines come again. Then a process of
its own trains a vocabulary and reads training batches. A second and a third one, with the
vocabulary as a resumed run has it and with what the first has left in the cache, read them through
two worker processes. The processor's seconds are told, and the peaks of resident memory
(``getrusage``), which count all pages of mapped files that were in memory, and 400 MB of imports.
``--held`` names the numbers of lines that are also measured with all text held in memory. Files and
cache are deleted in the end: 10 million lines take 1.6 GB there. Linux alone.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

WORDS, MANY, DISTINCT = 30_000, 50_000, 1_000_000
HEAD = (
    "| lines | held in | first start: index, vocabulary, order, s | next start, s | pairs a second "
    "| peak, MB: first start, then reading | peak of the next start, MB "
    "| peak of a worker, MB: fork, spawn |\n|---|---|---|---|---|---|---|---|"
)

WORKER = """
import json, os, resource, sys, time, warnings
warnings.filterwarnings("ignore")
import torch
torch.set_num_threads(1)
from tasks import Translation

def peak(who=resource.RUSAGE_SELF):
    return resource.getrusage(who).ru_maxrss / 1024

def seconds():
    return time.process_time()

def main():
    train, val, batches, start, kept = json.loads(sys.argv[1])
    told = {"imports": peak()}
    task = Translation(
        source="files", train=train, val=val, test=val, vocabulary_size=8000, batch_tokens=4096,
        workers=2 if start else 0,
    )
    if start:
        task.load_state_dict(torch.load(kept))
    begun = seconds()
    number = len(task.pairs("train"))
    told["index"] = seconds() - begun
    begun = seconds()
    task.vocabulary
    told["vocabulary"] = seconds() - begun
    told["vocabulary_peak"] = peak()
    begun = seconds()
    task.batches("train")
    told["order"] = seconds() - begun
    told["start_peak"] = peak()
    if start:
        import multiprocessing
        multiprocessing.set_start_method(start)
        for batch, _ in zip(task.train_dataloader(), range(batches)):
            pass
        del batch
        import gc
        gc.collect()
        told["worker_peak"] = peak(resource.RUSAGE_CHILDREN)
    else:
        task.batch("train", 0)
        begun, pairs = seconds(), 0
        for index in range(1, batches + 1):
            # Batches of several passes, so that their beginnings count too.
            pairs += len(task.batch("train", index * 7919).source)
        told["pairs"] = pairs / (seconds() - begun)
        told["peak"] = peak()
        torch.save(task.state_dict(), kept)
    print(json.dumps(told))

if __name__ == "__main__":
    main()
"""


def write(folder: Path, lines: int) -> list[str]:
    """Write the two files."""
    random = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    words = ["".join(random.choice(letters, random.integers(2, 9))) for _ in range(WORDS)]
    others = [f"{word[::-1]}{'aeiou'[place % 5]}" for place, word in enumerate(words)]
    weights = np.cumsum(1 / np.arange(3, WORDS + 3))
    paths = [folder / "train.one", folder / "train.other"]
    for begin in range(0, min(lines, DISTINCT), MANY):
        counts = random.integers(3, 19, min(MANY, lines - begin))
        drawn = np.searchsorted(weights, random.random(counts.sum()) * weights[-1])
        some = [each.tolist() for each in np.split(drawn, np.cumsum(counts)[:-1])]
        texts = (
            "".join([" ".join([words[each] for each in line]) + "\n" for line in some]),
            "".join([" ".join([others[each] for each in line[::-1]]) + "\n" for line in some]),
        )
        for path, text in zip(paths, texts, strict=True):
            with path.open("a") as file:
                file.write(text)
    for path in paths:
        block = path.read_bytes()
        with path.open("ab") as file:
            for _ in range(1, lines // DISTINCT):
                file.write(block)
    return list(map(str, paths))


def measured(folder: Path, train: list[str], val: list[str], batches: int, start: str, limit: int):
    """Numbers of a process that reads the files."""
    path = folder / "worker.py"
    path.write_text(WORKER)
    asked = [train, val, batches, start, str(folder / "vocabulary.pt")]
    home = str(Path(__file__).parent.parent)
    found = subprocess.run(
        [sys.executable, str(path), json.dumps(asked)],
        env={
            **os.environ,
            "PYTHONPATH": home,
            "XDG_CACHE_HOME": str(folder / "cache"),
            "MEMNETS_LIMIT": str(limit),
        },
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(found.stdout.splitlines()[-1])


def row(folder: Path, lines: int, held: bool, batches: int) -> str:
    """A row of the table."""
    train = write(folder, lines)
    size = sum(Path(path).stat().st_size for path in train)
    print(f"{lines:,} lines, {size / 1e6:.0f} MB", file=sys.stderr)
    val = []
    for path in train:
        small = folder / f"val.{Path(path).name}"
        with open(path) as file:
            small.write_text("".join(itertools.islice(file, 1000)))
        val.append(str(small))
    # Of files, a 16th of the limit is held in memory, by default 64 MiB.
    limit = 16 * size if held else min(2**30, 4 * size)
    first, fork, spawn = (
        measured(folder, train, val, batches, start, limit) for start in ("", "fork", "spawn")
    )
    print(json.dumps([first, fork, spawn]), file=sys.stderr, flush=True)
    again = sum(fork[name] for name in ("index", "vocabulary", "order"))
    return (
        f"| {lines:,} | {'memory' if held else 'disk'} | "
        f"{first['index']:.1f}, {first['vocabulary']:.1f}, {first['order']:.1f} | {again:.1f} | "
        f"{first['pairs']:,.0f} | {first['start_peak']:.0f}, {first['peak']:.0f} | "
        f"{fork['start_peak']:.0f} | {fork['worker_peak']:.0f}, {spawn['worker_peak']:.0f} |"
    )


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, nargs="+", default=[10_000, 1_000_000, 10_000_000])
    parser.add_argument("--held", type=int, nargs="*", default=[10_000, 1_000_000])
    parser.add_argument("--batches", type=int, default=500)
    parser.add_argument("--folder", help="folder for the files; by default that of the system")
    asked = parser.parse_args()
    print(HEAD)
    for lines in asked.lines:
        for held in [True] * (lines in asked.held) + [False]:
            with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
                print(row(Path(folder), lines, held, asked.batches), flush=True)


if __name__ == "__main__":
    main()
