"""Where in a user's own code an error comes from."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from os.path import relpath
from pathlib import Path
from types import FrameType
from typing import NamedTuple

__all__ = ["of_worker", "place_of"]


class OfWorker(NamedTuple):
    """An error in a process that makes batches, as the text of another error tells it.

    Attributes:
        kind: name of its class.
        message: its message.
        place: its place in a user's own code, as of :func:`place_of`.
    """

    kind: str
    message: str
    place: str


#: How PyTorch tells an error of another process: as a text, with its traceback.
_OF_WORKER = re.compile(
    r"Caught \w+ in .*\.\nOriginal (Traceback \(most recent call last\):\n.*)", re.DOTALL
)
#: A frame in the text of a traceback.
_FRAME = re.compile(r'^  File "(.+)", line (\d+), in (.+)$', re.M)


def of_worker(error: BaseException) -> OfWorker | None:
    """An error in a process that makes batches, as another one tells it; ``None`` if it is none."""
    found = _OF_WORKER.match(str(error))
    if found is None:
        return None
    # What was raised first comes first, and that which it led to last.
    raised = found[1].split("Traceback (most recent call last):\n")[1:]
    said = re.split(r"^(?=\S)", raised[-1], maxsplit=1, flags=re.M)[-1].strip()
    kind, _, message = said.partition(": ")
    place = ""
    for each in reversed(raised):
        own = [frame for frame in _FRAME.findall(each) if _is_own(frame[0])]
        if own and not place:
            path, line, name = own[-1]
            place = _place(path, int(line), _name_at(path, int(line), name))
    return OfWorker(kind.rpartition(".")[2], message, place)


def _name_at(path: str, line: int, name: str) -> str:
    """The name of a function with its class, by its line; the name that is known if there is none.

    The text of a traceback has the name alone.
    """
    try:
        nodes: list[ast.AST] = [ast.parse(Path(path).read_bytes())]
    except (OSError, SyntaxError, ValueError):
        return name
    whole, within = "", ""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    while nodes:
        for child in ast.iter_child_nodes(nodes.pop()):
            first, last = (vars(child).get(end, line) for end in ("lineno", "end_lineno"))
            if not first <= line <= last:
                continue
            nodes.append(child)
            if isinstance(child, kinds):
                whole += within + child.name
                within = "." if isinstance(child, ast.ClassDef) else ".<locals>."
    if name.startswith("<") and whole:  # of a function without a name of its own
        return f"{whole}{within}{name}"
    return whole if whole.rpartition(".")[2] == name else name


def place_of(error: BaseException) -> str:
    """The place in a user's own code behind an error, such as ``mine.py:12, in Sorting.answer``.

    It is the innermost one that is not of this library, of an installed package, or of Python;
    empty if there is none. An error in a process that makes batches has its place there.
    """
    cause: BaseException | None = error
    while cause is not None:
        told = of_worker(cause)
        if told is not None:
            return told.place
        places = list(_frames(cause))
        if places:
            frame, line = places[-1]
            return _place(frame.f_code.co_filename, line, _function(frame))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return ""


def _place(filename: str, line: int, function: str) -> str:
    path, here = Path(filename), Path.cwd()
    shown = relpath(path, here) if here in path.parents else str(path)
    return f"{shown}:{line}, in {function}"


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """The frames of a user's own code behind an error, and the line in each, outermost first."""
    trace = error.__traceback__
    while trace is not None:
        if _is_own(trace.tb_frame.f_code.co_filename):
            yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def _is_own(filename: str) -> bool:
    """Whether code is a user's own: no part of this library, an installed package, or Python."""
    path = Path(filename)
    if not path.is_absolute() or not path.is_file():
        return False  # a frozen module of Python, code that was made on the way
    parents = set(path.parents)
    packages = (sys.modules.get(name) for name in ("memnets", "tasks"))
    ours = {Path(each.__file__).parent for each in packages if each is not None and each.__file__}
    foreign = {"site-packages", "dist-packages"} & set(path.parts)
    return not (parents & {*ours, Path(inspect.__file__).parent} or foreign)


def _function(frame: FrameType) -> str:
    """The name of a function with its class."""
    code = frame.f_code
    if name := getattr(code, "co_qualname", ""):  # from Python 3.11 on
        return str(name)
    owner = type(frame.f_locals["self"]).__qualname__ if "self" in frame.f_locals else ""
    return f"{owner}.{code.co_name}" if owner else code.co_name
