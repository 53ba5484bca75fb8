"""Points from files: tables of numbers, and travelling salesman problems of TSPLIB."""

from __future__ import annotations

import re
from typing import Final

import numpy as np

from tasks.base import Array
from tasks.limits import read_file

__all__ = ["read_points"]

_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def read_points(path: str, width: int) -> list[Array]:
    """Read sequences of points from a file, plain or ``.gz``, in UTF-8.

    A file whose name ends in ``.tsp`` is in the format of TSPLIB (Reinelt 1991). Its
    ``EDGE_WEIGHT_TYPE`` must be ``EUC_2D``, and its ``DIMENSION`` the number of points. The points
    are the lines ``<node> <x> <y>`` after ``NODE_COORD_SECTION``, in their order. Unlike TSPLIB,
    this library does not round distances to whole numbers.

    Any other file is a table with a point in each line, its numbers separated by tabs, commas,
    semicolons or spaces. A first line without numbers is a heading. Lines that begin with ``#`` are
    skipped. An empty line begins another sequence.

    Args:
        path: path of the file.
        width: number of coordinates of a point.

    Returns:
        At least one sequence, float64 ``[n, width]`` each.

    Raises:
        ValueError: the file is missing, damaged, too large or without points, or a line cannot be
            read; the message names the line.
    """
    content = read_file(path)
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: expected UTF-8; got another") from error
    if path.removesuffix(".gz").lower().endswith(".tsp"):
        if width != 2:
            raise ValueError(f"{path}: expected points of {width} numbers; a .tsp file has 2")
        return [_tsplib(path, lines)]
    return _table(path, lines, width)


def _table(path: str, lines: list[str], width: int) -> list[Array]:
    sequences: list[list[list[float]]] = [[]]
    heading = True
    for number, line in enumerate(lines, start=1):
        if line.lstrip().startswith("#"):
            continue
        if not line.strip():
            sequences.append([])
            continue
        # Spaces may surround any other separator, so they count only in a line without one.
        separator = next((mark for mark in "\t;," if mark in line), None)
        fields = [field.strip().strip('"') for field in line.strip().split(separator)]
        # A heading has no number at all: a first line with one wrong field is an error.
        if not heading or any(map(_NUMBER.fullmatch, fields)):
            sequences[-1].append(_numbers(path, number, line, fields, width))
        heading = False
    points = [np.array(rows) for rows in sequences if rows]
    if not points:
        raise ValueError(f"expected points in {path}, one a line; got none")
    return points


def _numbers(path: str, number: int, line: str, fields: list[str], width: int) -> list[float]:
    if len(fields) != width or not all(map(_NUMBER.fullmatch, fields)):
        numbers = "a number" if width == 1 else f"{width} numbers"
        raise ValueError(f"{path}, line {number}: expected {numbers}; got {line.strip()[:60]!r}")
    return [float(field) for field in fields]


def _tsplib(path: str, lines: list[str]) -> Array:
    told: dict[str, str] = {}
    rows: list[list[float]] = []
    inside = False
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        # A line of the section that does not begin like a number is the next keyword.
        if inside and (text[0].isdigit() or text[0] in "+-."):
            rows.append(_numbers(path, number, line, text.split()[1:], 2))
            continue
        keyword, _, value = (part.strip() for part in text.partition(":"))
        keyword = keyword.upper()
        if keyword == "EOF":
            break
        inside = keyword == "NODE_COORD_SECTION"
        if not re.fullmatch(r"[A-Z0-9_]+", keyword):
            raise ValueError(
                f"{path}, line {number}: expected a keyword of TSPLIB; got {text[:60]!r}"
            )
        told[keyword] = value
    kind = told.get("EDGE_WEIGHT_TYPE", "none")
    if kind.upper() != "EUC_2D":
        raise ValueError(f"{path}: expected EDGE_WEIGHT_TYPE EUC_2D, points in a plane; got {kind}")
    if not rows:
        raise ValueError(f"{path}: expected points after NODE_COORD_SECTION; got none")
    if told.get("DIMENSION", str(len(rows))) != str(len(rows)):
        raise ValueError(
            f"{path}: expected {told['DIMENSION']} points, its DIMENSION; got {len(rows)}"
        )
    return np.array(rows)
