"""Write a page of the reference for each room of the library, from what there is in it.

A page lists the public names of a module or package, those in its ``__all__``, by the path that
users write: ``memnets.cells.LSTM``, wherever in ``memnets.cells`` it is defined.
"""

import importlib
import pkgutil
from pathlib import Path

#: Rooms in the order in which a newcomer meets them; others follow by name.
ORDER = [
    "core",
    "cells",
    "memories",
    "models",
    "tasks",
    "scores",
    "normalizers",
    "addressing",
    "encoders",
    "features",
    "decoding",
    "objectives",
    "training",
    "batches",
    "functional",
    "fast",
    "kernels",
    "testing",
    "viewing",
    "trace",
    "plots",
]


def write_pages(folder: Path) -> None:
    """Write the pages, and take away those of rooms that there are no more."""
    folder.mkdir(exist_ok=True)
    pages = {"index": _index(rooms := _rooms())}
    pages |= {room.rpartition(".")[2]: _page(room) for room in rooms}
    for path in folder.glob("*.md"):
        if path.stem not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.md"
        # A page that is as it was need not be built again.
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)


def _rooms() -> list[str]:
    """Modules and packages of the library, each a page; ``tasks`` is one of them."""
    found = [
        f"memnets.{module.name}"
        for module in pkgutil.iter_modules(importlib.import_module("memnets").__path__)
        if not module.name.startswith("_")
    ]

    def place(room: str) -> tuple[int, str]:
        name = room.rpartition(".")[2]
        return ORDER.index(name) if name in ORDER else len(ORDER), name

    return sorted([*found, "tasks"], key=place)


def _summary(module: str) -> str:
    """First line of a module's docstring, with the roles of Sphinx as plain names."""
    text = importlib.import_module(module).__doc__ or ""
    line = text.strip().partition("\n")[0]
    for role in (":class:", ":mod:", ":func:", ":meth:"):
        line = line.replace(role, "")
    return line.replace("`~", "`").replace("``", "`").replace("|", "\\|")


def _index(rooms: list[str]) -> str:
    links = "\n".join(room.rpartition(".")[2] for room in rooms)
    rows = "\n".join(
        f"| [`{room}`]({room.rpartition('.')[2]}.md) | {_summary(room)} |" for room in rooms
    )
    return f"""# Reference

Every public class and function, from its docstring. A path here, such as `memnets.cells.LSTM`, is
the class path that a YAML and a flag take.

| room | |
|---|---|
{rows}

```{{toctree}}
:hidden:

{links}
```
"""


def _page(room: str) -> str:
    module = importlib.import_module(room)
    # A package without names of its own stands for its modules.
    parts = [room]
    if hasattr(module, "__path__") and not getattr(module, "__all__", None):
        names = sorted(part.name for part in pkgutil.iter_modules(module.__path__))
        parts += [f"{room}.{name}" for name in names if not name.startswith("_")]
    blocks = "\n\n".join(_block(part, title=part != room) for part in parts)
    return f"# `{room}`\n\n{blocks}\n"


def _block(module: str, title: bool) -> str:
    heading = f"## `{module}`\n\n" if title else ""
    return f"""{heading}```{{eval-rst}}
.. automodule:: {module}
   :members:
   :imported-members:
   :show-inheritance:
```"""
