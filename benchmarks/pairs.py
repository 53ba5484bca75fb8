"""Programs that take turns in one process with one thread, timed: the core of all benchmarks.

A script ``against_<peer>.py`` says which :class:`Peer` it was written for, gives its cases one by
one, and ends with ``run(__doc__, PEER, cases)``. Times are those of the processor, so that other
work on the machine counts less.
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Step = Callable[[], object]

#: Rounds before those that are timed.
WARM_UP = 2
#: Seconds between two lines of progress.
PATIENCE = 5.0


class Peer(NamedTuple):
    """Another library, and the version of it that a script was written for.

    Attributes:
        name: owner and name on GitHub, or the name of a package.
        version: the commit of a checkout, or the release of a package.
        package: name of the installed package; empty for a checkout.
        inner: the folder within it to import from.
    """

    name: str
    version: str
    package: str = ""
    inner: str = ""

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return self.name.rpartition("/")[2]

    @property
    def variable(self) -> str:
        """The environment variable that says where it is."""
        return self.folder.upper().replace("-", "_")

    def found(self, folder: Path) -> str | None:
        """The version in a folder; ``None`` = unknown."""
        if self.package:
            return next(
                (
                    each.version
                    for each in distributions(path=[str(folder)])
                    if each.metadata["Name"].lower() == self.package
                ),
                None,
            )
        # Told not to look in the folders above: they may be another checkout.
        limits = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.resolve().parent)}
        asked = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        try:
            told = subprocess.run(
                asked, env=limits, capture_output=True, text=True, check=True, timeout=60
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return told.stdout.strip()

    def differs(self, folder: Path) -> str | None:
        """A line about the version in a folder, if it is not the right one; else ``None``."""
        found = self.found(folder)
        if found == self.version:
            return None
        return (
            f"{self.name}: this script was written for {short(self.version)}; {folder} holds "
            f"{'an unknown version' if found is None else short(found)}, so that it may fail, or "
            "its numbers may mean something else"
        )


def short(version: str) -> str:
    """A release, or the first letters of a commit."""
    return version if "." in version else version[:10]


class Case(NamedTuple):
    """Two programs to compare.

    Attributes:
        name: what is compared.
        ours: a step of this library.
        theirs: the same step of the other one.
        rounds: how often each takes its turn.
        goal: the ratio, theirs by ours, that is wanted; ``None`` = none.
        floor: the products of matrices of that step alone; ``None`` = unknown.
    """

    name: str
    ours: Step
    theirs: Step
    rounds: int
    goal: float | None = None
    floor: Step | None = None


class LeftOut(NamedTuple):
    """A case that cannot be measured here, and why."""

    name: str
    why: str


class Spread(NamedTuple):
    """Median, least and greatest of some numbers."""

    median: float
    least: float
    greatest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f} to {self.greatest:.2f})"


def spread(numbers: Iterable[float]) -> Spread:
    """Median, least and greatest."""
    numbers = sorted(numbers)
    return Spread(statistics.median(numbers), numbers[0], numbers[-1])


def ratios(times: dict[str, list[float]], one: str, other: str) -> Spread:
    """Times of one program by those of another, turn by turn."""
    return spread(a / b for a, b in zip(times[one], times[other], strict=True))


def turns(
    programs: dict[str, Step],
    rounds: int,
    clock: Callable[[], float] = time.process_time,
    told: Callable[[int], object] = lambda done: None,
    warm_up: int = WARM_UP,
) -> dict[str, list[float]]:
    """Seconds of each program in each round, after some rounds to warm up.

    Args:
        programs: steps by name; in each round, all of them run once. Every other round goes
            through them in the opposite order.
        rounds: number of rounds.
        clock: gives the present time in seconds.
        told: is called with the number of rounds so far, after each.
        warm_up: number of rounds before those that are timed.
    """
    for _ in range(warm_up):
        for step in programs.values():
            step()
    times: dict[str, list[float]] = {name: [] for name in programs}
    for done in range(rounds):
        order = list(programs.items())
        for name, step in order if done % 2 == 0 else order[::-1]:
            start = clock()
            step()
            times[name].append(clock() - start)
        told(done + 1)
    return times


class Row(NamedTuple):
    """What was found about a case.

    Attributes:
        name: what was compared.
        ratio: theirs by ours, turn by turn: above 1, ours is faster.
        pairs: how many turns.
        ours: median milliseconds.
        theirs: median milliseconds.
        floor: median of the floor by ours; ``None`` = unknown.
        goal: the ratio that is wanted; ``None`` = none.
    """

    name: str
    ratio: Spread
    pairs: int
    ours: float
    theirs: float
    floor: float | None
    goal: float | None

    def __str__(self) -> str:
        goal = ""
        if self.goal is not None:
            goal = f", goal {self.goal:g} {'met' if self.ratio.median >= self.goal else 'missed'}"
        floor = "" if self.floor is None else f", floor {self.floor:.2f} of ours"
        return (
            f"{self.name}: theirs / ours {self.ratio} of {self.pairs} pairs{goal}; "
            f"ours {self.ours:.1f} ms, theirs {self.theirs:.1f} ms{floor}"
        )


def compare(case: Case, rounds: int | None = None) -> Row:
    """Time a case, one thread; progress goes to the standard error."""
    torch.set_num_threads(1)
    rounds = rounds or case.rounds
    programs = {"ours": case.ours, "theirs": case.theirs}
    if case.floor is not None:
        programs["floor"] = case.floor
    last = time.monotonic()

    def told(done: int) -> None:
        nonlocal last
        if time.monotonic() - last > PATIENCE:
            last = time.monotonic()
            say(f"  {done} of {rounds} pairs")

    say(f"{case.name}: starts")
    times = turns(programs, rounds, told=told)
    ours, theirs = (statistics.median(times[name]) * 1e3 for name in ("ours", "theirs"))
    floor = ratios(times, "floor", "ours").median if case.floor is not None else None
    ratio = ratios(times, "theirs", "ours")
    return Row(case.name, ratio, rounds, ours, theirs, floor, case.goal)


def say(line: str) -> None:
    """A line of progress, on the standard error."""
    print(line, file=sys.stderr, flush=True)


Cases = Callable[[], Iterator[Case | LeftOut]]


def run(doc: str, peer: Peer, cases: Cases) -> None:
    """The command line of a script: find the peer, time the cases, print a line for each."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kind = f"folder of the package {peer.package}" if peer.package else "checkout"
    parser.add_argument(
        "--peer",
        type=Path,
        default=os.environ.get(peer.variable),
        help=f"{kind} of {peer.name}, {short(peer.version)}; ${peer.variable} if not given",
    )
    parser.add_argument("--only", default="", help="a part of the names of the cases to time")
    parser.add_argument("--rounds", type=int, help="pairs for each case; each has its own number")
    parser.add_argument(
        "--record",
        type=Path,
        help="append a line of JSON for each case here; a case that is there already, of the same "
        "code and on the same machine, is not timed again",
    )
    given = parser.parse_args()
    if given.peer is None or not given.peer.is_dir():
        parser.error(
            f"expected --peer or {peer.variable} to be the {kind} of {peer.name}; got {given.peer}"
        )
    another = peer.differs(given.peer)
    if another:
        say(another)
    sys.path.insert(0, str(given.peer / peer.inner))
    mark = {"script": Path(sys.argv[0]).stem, "version": peer.found(given.peer)}
    mark["code"] = fingerprint(Path(sys.argv[0]))
    known = [] if given.record is None else [row["name"] for row in recorded(given.record, mark)]
    for case in cases():
        if given.only not in case.name:
            continue
        if case.name in known:
            say(f"{case.name}: known from {given.record}")
            continue
        if isinstance(case, LeftOut):
            print(f"{case.name}: left out, {case.why}", flush=True)
            found: dict[str, Any] = case._asdict()
        else:
            row = compare(case, given.rounds)
            print(row, flush=True)
            found = row._asdict()
        if given.record is not None:
            with given.record.open("a") as file:
                print(json.dumps({**mark, **found}), file=file)


def fingerprint(script: Path) -> str:
    """Some letters that change with the code, the processor and PyTorch."""
    root = Path(__file__).resolve().parent.parent
    kinds = (".py", ".cpp", ".h", ".cu")
    code = [
        path
        for folder in ("memnets", "tasks")
        for path in sorted((root / folder).rglob("*"))
        if path.suffix in kinds
    ]
    told = hashlib.sha256(f"{processor()[0]} {torch.__version__}".encode())
    for path in (*code, Path(__file__), script):
        told.update(path.read_bytes())
    return told.hexdigest()[:12]


def recorded(record: Path, mark: dict[str, Any]) -> list[dict[str, Any]]:
    """Lines of a record that have a mark, in their order."""
    if not record.exists():
        return []
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    return [line for line in lines if mark.items() <= line.items()]


# -- steps -----------------------------------------------------------------------------------------


def updating(
    model: nn.Module,
    loss: Callable[[], Tensor],
    greatest_norm: float | None = 1.0,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
) -> Step:
    """A step of training, the gradient clipped to a norm if one is given.

    The optimizer is that of the model, if it has one of its own, else Adam.
    """
    made = (optimizer or getattr(model, "optimizer", torch.optim.Adam))(model.parameters())

    def step() -> None:
        made.zero_grad()
        loss().backward()
        if greatest_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), greatest_norm)
        made.step()

    return step


class Product(NamedTuple):
    """A product of matrices in each step of a sequence, ``[rows, inner] [inner, columns]``.

    Attributes:
        rows: rows of the left matrix.
        inner: columns of the left matrix.
        columns: columns of the right matrix.
        batch: number of such products, each with a right matrix of its own; 0 = one, with weights.
        times: number of steps, one after the other.
    """

    rows: int
    inner: int
    columns: int
    batch: int = 0
    times: int = 1


def floor_of(products: Iterable[Product], backward: bool = True) -> Step:
    """The products alone, forward and, if asked for, backward: the least that a step can cost.

    The gradient of weights is one product for all steps, since no step waits for it.
    """
    calls: list[tuple[Step, int]] = []
    for rows, inner, columns, batch, times in products:
        sizes = (batch,) if batch else ()
        left, right = torch.randn(*sizes, rows, inner), torch.randn(*sizes, inner, columns)
        result = torch.randn(*sizes, rows, columns)
        calls.append((product(left, right), times))
        if not backward:
            continue
        calls.append((product(result, right.mT), times))
        if batch:
            calls.append((product(left.mT, result), times))
        else:
            long, results = torch.randn(times * rows, inner), torch.randn(times * rows, columns)
            calls.append((product(long.mT, results), 1))

    def step() -> None:
        for call, times in calls:
            for _ in range(times):
                call()

    return step


def product(left: Tensor, right: Tensor) -> Step:
    """A product into memory of its own."""
    out = left @ right
    return lambda: torch.matmul(left, right, out=out)


# -- the machine -----------------------------------------------------------------------------------


def processor() -> tuple[str, set[str]]:
    """Name of the processor, and its flags where the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = told.get("flags", told.get("Features", ""))
    return told.get("model name", platform.machine()), set(flags.split())


def has_bfloat16() -> bool:
    """Whether the processor multiplies numbers of the type bfloat16."""
    return bool(processor()[1] & {"avx512_bf16", "amx_bf16", "bf16"})
