"""``memnets doctor``: versions, the machine, and which fast twins are in use here, and why not."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata

import torch

from memnets import fast
from memnets.kernels.native import build

__all__ = ["doctor", "report"]


def doctor() -> None:
    """Print what :func:`report` says."""
    print(report())


def report() -> str:
    """Versions, the machine, and a line for each fast twin.

    It tries what a training would try, so that a first call may build operators and take its time.
    """
    packages = ["memnets", "torch", "pytorch-lightning", "numpy"]
    rows = [("python", platform.python_version())]
    rows += [(name, _version(name)) for name in packages]
    rows += [
        ("platform", platform.platform()),
        ("threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors"),
        ("instructions", torch.backends.cpu.get_cpu_capability()),
        ("compiler", _compiler()),
        ("GPU", _gpu()),
    ]
    twins = [("fast twin of", "by", "in use")]
    twins += [
        (twin.stands_for, twin.name, "yes" if reason is None else f"no: {reason}")
        for twin in fast.twins()
        for reason in [twin.why_not()]
    ]
    explained = (
        "A method with several twins takes the first that fits its inputs; where none does, its "
        "definition runs."
    )
    return "\n".join([*_aligned(rows), "", *_aligned(twins), "", explained])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, with columns of one width each."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{part:{width}}" for part, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _compiler() -> str:
    try:
        command = build.compiler()
        asked = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, timeout=20, check=True
        )
    except build.Unavailable as error:
        return f"none ({str(error).partition(': ')[2]})"
    except (OSError, subprocess.SubprocessError) as error:
        return f"none ({command[0]} cannot be run: {error})"
    return asked.stdout.partition("\n")[0] or f"{command[0]}, which does not tell its version"


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none"
    return ", ".join(torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count()))
