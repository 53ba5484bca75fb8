"""Time all steps that other libraries have too, and write the table that the documentation shows.

Each peer is looked for in a folder of its name within --peers (pytorch-ntm, dnc, snail-pytorch,
pointer-networks-pytorch, joeynmt), then where the variable says that its script names. One that is
not there is left out, with a line. All of it takes about fifteen minutes; stopped, the same command
goes on with the case that was not finished.

python benchmarks/all.py --peers <folder> --output docs/results/speed_table.md
"""

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pairs import Peer, Spread, fingerprint, processor, recorded, short

import memnets
from memnets import files

FOLDER = Path(__file__).resolve().parent
#: Against other libraries; ``against_revision.py`` compares two revisions of this one.
SCRIPTS = sorted(set(FOLDER.glob("against_*.py")) - {FOLDER / "against_revision.py"})

HEAD = (
    "| against | step | theirs / ours | least to greatest | pairs | ours, ms "
    "| floor / ours | goal |"
)


class Found(NamedTuple):
    """A script and what is known of it.

    Attributes:
        peer: the library that it compares with.
        version: the version of the peer that is there; ``None`` = unknown.
        rows: its lines of the record.
    """

    peer: Peer
    version: str | None
    rows: list[dict[str, Any]]


def place(peer: Peer, peers: Path | None) -> Path | None:
    """The folder of a peer; ``None`` = there is none."""
    named = os.environ.get(peer.variable)
    tried = [peers / peer.folder] if peers is not None else []
    tried += [Path(named)] if named else []
    return next((folder for folder in tried if folder.is_dir()), None)


def cells(row: dict[str, Any]) -> list[str]:
    """Of a line of the table, from the ratio on."""
    if "why" in row:
        return ["-"] * 5 + [row["why"]]
    ratio, goal = Spread(*row["ratio"]), ""
    if row["goal"] is not None:
        goal = f"{row['goal']:g}, {'met' if ratio.median >= row['goal'] else 'missed'}"
    return [
        f"{ratio.median:.2f}",
        f"{ratio.least:.2f} to {ratio.greatest:.2f}",
        str(row["pairs"]),
        f"{row['ours']:.1f}",
        "-" if row["floor"] is None else f"{row['floor']:.2f}",
        goal,
    ]


def table(results: list[Found]) -> str:
    """The table in Markdown, with the machine and the versions below."""
    lines = [HEAD, "|---" * (HEAD.count("|") - 1) + "|"]
    for peer, version, rows in results:
        name = f"{peer.folder} {short(version or 'of an unknown version')}"
        lines += [f"| {' | '.join([name, row['name'], *cells(row)])} |" for row in rows]
        if not rows:
            lines.append(f"| {peer.folder} | not measured |" + " - |" * (HEAD.count("|") - 3))
    lines += [
        "",
        f"One thread of {processor()[0]}, processor time, turn by turn in one process; medians. "
        f"memnets {memnets.__version__}, PyTorch {torch.__version__}, "
        f"Python {sys.version.split()[0]}.",
    ]
    return "\n".join(lines) + "\n"


def measure(script: Path, folder: Path, record: Path, more: list[str]) -> bool:
    """Run a script to its end; whether it got there."""
    command = [sys.executable, "-W", "ignore", script, "--peer", folder, "--record", record, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(list(map(str, command)), env=environment).returncode == 0


def all_of(peers: Path | None, record: Path, only: str, more: list[str]) -> Iterator[Found]:
    """Run the scripts one by one; those whose name lacks ``only`` tell what is recorded."""
    for script in SCRIPTS:
        peer: Peer = importlib.import_module(script.stem).PEER
        folder = place(peer, peers)
        if folder is None:
            print(
                f"{peer.name}: left out, neither {peer.folder} in --peers nor {peer.variable} is "
                "a folder",
                flush=True,
            )
            yield Found(peer, None, [])
            continue
        if only in script.stem:
            print(f"{peer.name}:", flush=True)
            if not measure(script, folder, record, more):
                print(f"{peer.name}: {script.name} ended with an error", flush=True)
        mark = {"script": script.stem, "version": peer.found(folder), "code": fingerprint(script)}
        yield Found(peer, mark["version"], recorded(record, mark))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, help="folder with a folder for each peer")
    parser.add_argument(
        "--output", type=Path, default=Path("speed_table.md"), help="speed_table.md if not given"
    )
    parser.add_argument("--only", default="", help="a part of the names of the scripts to run")
    parser.add_argument("--rounds", help="pairs for each case; each has its own number")
    parser.add_argument("--again", action="store_true", help="time again what is recorded")
    given = parser.parse_args()
    record = given.output.with_suffix(".jsonl")
    if given.again:
        record.unlink(missing_ok=True)
    more = ["--rounds", given.rounds] if given.rounds else []
    results = list(all_of(given.peers, record, given.only, more))
    written = table(results).encode()
    files.write_atomically(given.output, lambda file: file.write(written))
    print(given.output)


if __name__ == "__main__":
    main()
