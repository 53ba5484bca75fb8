"""Sentences from the docstrings of Python's standard library, which every installation has."""

from __future__ import annotations

import ast
import os
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["sentences", "sentences_of"]

#: Folders that are left out: packages that are not of the library, and tests.
_LEFT_OUT = {"dist-packages", "idle_test", "lib2to3", "site-packages", "test", "tests"}
#: The end of a sentence within a paragraph.
_BETWEEN = re.compile(r"(?<=[.!?]) (?=[A-Z])")
#: A sentence of plain words: a capital first, an end mark last, no signs of code.
_PLAIN = re.compile(r"[A-Z][A-Za-z0-9 ,;:'\"()/-]*[.!?]")
#: Fewest and most words of a sentence, apart by spaces.
_WORDS = 4, 40


@cache
def sentences() -> tuple[str, ...]:
    """Sentences from the docstrings of the standard library that runs this program.

    They are the same for the same release of Python, if the library is whole; some systems leave
    parts of it out.

    Raises:
        ValueError: the sources of the library are not there.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    found: dict[str, None] = {}
    for path in _sources(folder):
        try:
            found.update(dict.fromkeys(sentences_of(path.read_bytes())))
        except (OSError, SyntaxError, ValueError):  # a file that this Python cannot read
            continue
    if not found:
        raise ValueError(
            f"expected the sources of Python's standard library in {folder}; there are none: give "
            "text of your own by train"
        )
    return tuple(found)


def sentences_of(source: bytes) -> Iterator[str]:
    """Sentences from the docstrings of a Python program, in their order.

    Docstrings are those of the module, of its classes and functions, and of those within these. A
    paragraph whose lines all begin at the margin is cut into sentences. A sentence stays if it
    has 4 to 40 words, begins with a capital, ends with a full stop, an exclamation mark or a
    question mark, and has only letters, digits, spaces and ``, ; : ' " ( ) / -`` between.

    Args:
        source: the program.

    Raises:
        SyntaxError: it is no Python program.
        ValueError: it has null characters.
    """
    for text in _docstrings(ast.parse(source)):
        for paragraph in text.split("\n\n"):
            lines = paragraph.splitlines()
            if any(line[:1].isspace() for line in lines):  # a list, a table, an example
                continue
            for sentence in _BETWEEN.split(" ".join(paragraph.split())):
                words = len(sentence.split(" "))
                if _WORDS[0] <= words <= _WORDS[1] and _PLAIN.fullmatch(sentence):
                    yield sentence


def _docstrings(node: ast.AST) -> Iterator[str]:
    """Docstrings of a module, a class or a function, and of what is within it."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield ast.get_docstring(node) or ""
        # Within statements such as ``if`` there are few definitions, and much else to look at.
        for each in node.body:
            yield from _docstrings(each)


def _sources(folder: Path) -> Iterator[Path]:
    """The files of the library, in the order of their paths."""
    for here, folders, files in os.walk(folder):
        # In place: ``os.walk`` then leaves the others out. Folders without a name in Python, such
        # as that of the configuration, hold nothing to import.
        folders[:] = sorted(
            name for name in folders if name.isidentifier() and name not in _LEFT_OUT
        )
        yield from (Path(here, name) for name in sorted(files) if name.endswith(".py"))
