"""Configs of the package, by names such as ``copying/ntm``."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from memnets.files import read_text

__all__ = ["config_names", "find_config", "list_configs", "name_of", "portable", "title_of"]

_PACKAGE = Path(__file__).parents[1]

#: Most names in an error.
_MOST = 5


def _folder() -> Path:
    """Folder of the configs: inside an installed package, beside the package in a clone."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def config_names() -> list[str]:
    """Sorted names of all configs: ``<task>/<model>``, and those of boards and sweeps."""
    folder = _folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in _paths(folder))


def _paths(folder: Path) -> list[Path]:
    return list(folder.glob("*/*.yaml"))


def title_of(name: str) -> str:
    """Title of a config: the comment in its first line."""
    first = read_text(find_config(name)).partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def find_config(given: str) -> str:
    """Find a config.

    Args:
        given: a path, or the name of a config of the package; a file of this name comes first.

    Returns:
        The path of a file. If the path leads to another thing, such as a folder, the path itself.

    Raises:
        ValueError: there is no such file, and no config of this name.
    """
    there = os.path.lexists(given)
    if there and not os.path.isdir(given):
        return given
    names = config_names()
    if given in names:
        return str(_folder() / f"{given}.yaml")
    if there:
        return given
    shown = given if len(given) <= 200 else f"{given[:197]}..."
    asked = given.removesuffix(".yaml").removeprefix("configs/")
    near = ", ".join(get_close_matches(asked, names, _MOST, 0.0)) or "none at all"
    raise ValueError(
        f"expected a config at {shown}; there is no such file, and no config of this name comes "
        f"with memnets; near it: {near} (memnets configs lists all)"
    )


def name_of(path: str) -> str:
    """The name of a config of the package, by its path; another text is returned unchanged."""
    flag, is_one, value = path.rpartition("=")
    folder = f"{_folder()}{os.sep}"
    if not value.startswith(folder):
        return path
    return f"{flag}{is_one}{value.removeprefix(folder).removesuffix('.yaml')}"


def portable(argument: str) -> str:
    """An argument as a page names it, for other machines.

    A config of the package is its name, and any other path that leads out of this folder its last
    part alone.
    """
    flag, is_one, value = name_of(argument).rpartition("=")
    path = Path(value)
    inside = not path.is_absolute() and ".." not in path.parts
    return f"{flag}{is_one}{value if inside else path.name}"


def list_configs() -> None:
    """Print a line for each config: its name, and its title."""
    names = config_names()
    width = max(map(len, names), default=0)
    for name in names:
        print(f"{name:{width}}  {title_of(name)}".rstrip())
