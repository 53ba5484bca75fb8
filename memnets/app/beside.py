"""Tests of a run with other settings than its own: their scores lie beside those of the run.

The scores of a run are in its ``metrics.json``, from which boards and lists are made. They are
those of its own settings and of the checkpoint that its training tested. Whatever else is tested
goes to ``tests/<n>/`` in the folder of the run, with ``changed.json``, which says what was changed.
The same test again goes to the same folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from memnets.app.decisive import decides_scores
from memnets.files import read_text, write_atomically

__all__ = ["changed_settings", "make_folder", "tested_checkpoint"]

#: Name of the file with the changes, and most of its bytes.
_CHANGED, _MOST = "changed.json", 2**20


def changed_settings(run: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The settings on which scores depend and which are not those of the run.

    Args:
        run: the config of the run, as plain values.
        here: the config of the test.

    Returns:
        By the name of the flag, the value in the run and the value here; ``None`` = the part has no
        such setting, or it is ``null``.
    """
    old, new = dict(_leaves(run)), dict(_leaves(here))
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return {
        name.replace(".init_args", "").removesuffix(".class_path"): [old.get(name), new.get(name)]
        for name in names
        if decides_scores(name)
    }


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their full names; a list is one value."""
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def tested_checkpoint(folder: Path, weights: str) -> Path | None:
    """The checkpoint of a run whose scores are those of the run; ``None`` = the folder has none.

    Args:
        folder: folder of the run.
        weights: what its training tested, ``best`` or ``last``.
    """
    files = (folder / "checkpoints" / f"{name}.ckpt" for name in (weights, "last"))
    return next(filter(Path.is_file, files), None)


def make_folder(run: Path, checkpoint: str, changed: Mapping[str, list[Any]]) -> tuple[Path, bool]:
    """The folder of a test that is not the run's own.

    Args:
        run: folder of the run.
        checkpoint: name of the file that is tested.
        changed: see :func:`changed_settings`.

    Returns:
        The folder, and whether it is new.
    """
    content = {"checkpoint": checkpoint, "changed": changed}
    text = json.dumps(content, indent=2, default=str) + "\n"
    number = 0
    while True:
        folder = run / "tests" / str(number)
        # To make a folder is atomic: of two tests at once, one gets the error.
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            with suppress(OSError, ValueError):
                if read_text(folder / _CHANGED, _MOST) == text:
                    return folder, False
            number += 1
            continue
        write_atomically(folder / _CHANGED, lambda file: file.write(text.encode()))
        return folder, True
