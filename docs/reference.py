"""Write a page of the reference for each room of the library, from what there is in it.

A page lists the public names of a module or package, those in its ``__all__``, by the path that
users write: ``memnets.cells.LSTM``, wherever in ``memnets.cells`` it is defined.
"""

import importlib
import pkgutil
import re
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
    "training",
    "batches",
    "checks",
    "factories",
    "functional",
    "fast",
    "kernels",
    "testing",
    "viewing",
    "app",
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


def _summary(documented: object) -> str:
    """First line of a docstring, with the roles of Sphinx as plain names."""
    line = (documented.__doc__ or "").strip().partition("\n")[0]
    line = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", line)
    return line.replace("``", "`").replace("|", "\\|")


def _names(rooms: list[str]) -> str:
    """A table of the names that ``import memnets as mn`` gives; nothing where it gives none."""
    package = importlib.import_module("memnets")
    rows = []
    for name in getattr(package, "__all__", ()):
        try:
            found = getattr(package, name)
        except ImportError:  # an optional dependency is missing
            continue
        room = next((home for home in _homes(rooms) if _holds(home, name, found)), None)
        if room is not None:
            rows.append(f"| {{py:obj}}`mn.{name} <{room}.{name}>` | {_summary(found)} |")
    if not rows:
        return ""
    table = "\n".join(rows)
    return f"""
## `import memnets as mn`

| name | |
|---|---|
{table}
"""


def _homes(rooms: list[str]) -> list[str]:
    """All modules and packages that have a heading in the reference."""
    return [part for room in rooms for part in _parts(room)]


def _holds(module: str, name: str, found: object) -> bool:
    """Whether a heading describes a name, and not another one from which it is taken."""
    held = vars(importlib.import_module(module))
    return name in held.get("__all__", ()) and held.get(name) is found and _own(found, module)


def _own(found: object, module: str) -> bool:
    """Whether a name of a module or package is from there."""
    home = getattr(found, "__module__", None) or module
    return f"{home}.".startswith(f"{module}.")


def _index(rooms: list[str]) -> str:
    links = "\n".join(room.rpartition(".")[2] for room in rooms)
    rows = "\n".join(
        f"| [`{room}`]({room.rpartition('.')[2]}.md) | {_summary(importlib.import_module(room))} |"
        for room in rooms
    )
    return f"""# Reference

Every public class and function, from its docstring. A path here, such as `memnets.cells.LSTM`, is
the class path that a YAML and a flag take.
{_names(rooms)}
## Rooms

| room | |
|---|---|
{rows}

```{{toctree}}
:hidden:

{links}
```
"""


def _parts(room: str) -> list[str]:
    """A room and, of a package, the modules whose names it does not give itself."""
    module = importlib.import_module(room)
    parts = [room]
    for part in pkgutil.iter_modules(getattr(module, "__path__", ())):
        name = f"{room}.{part.name}"
        if not part.name.startswith("_"):
            own = getattr(importlib.import_module(name), "__all__", ())
            if own and set(own).isdisjoint(getattr(module, "__all__", ())):
                parts.append(name)
    return parts


def _page(room: str) -> str:
    blocks = "\n\n".join(_block(part, title=part != room) for part in _parts(room))
    return f"# `{room}`\n\n{blocks}\n"


def _block(name: str, title: bool) -> str:
    heading = f"## `{name}`\n\n" if title else ""
    held = vars(importlib.import_module(name))
    foreign = [each for each in held.get("__all__", ()) if not _own(held.get(each), name)]
    without = f"\n   :exclude-members: {', '.join(foreign)}" if foreign else ""
    return f"""{heading}```{{eval-rst}}
.. automodule:: {name}
   :members:
   :imported-members:
   :show-inheritance:{without}
```"""
