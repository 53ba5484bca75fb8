"""Modules by the names that they had in version 0.1, for configs and checkpoints of that time.

An import of an old name gives the new module, with a ``DeprecationWarning``. The names go with
version 1.0.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["MODULES", "NAMES", "moved"]

MODULES = {
    "memnets.callbacks": "memnets.training",
    "memnets.cli": "memnets.app.cli",
    "memnets.controllers": "memnets.cells",
    "memnets.convolutions": "memnets.cells",
    "memnets.layers": "memnets.cells",
    "memnets.messages": "memnets.app.messages",
    "memnets.models.base": "memnets.training.model",
    "memnets.objectives": "memnets.training.objectives",
    "memnets.plots": "memnets.viewing.plots",
    "memnets.progress": "memnets.app.progress",
    "memnets.runs": "memnets.training.runs",
    "memnets.scoreboard": "memnets.app.scoreboard",
    "memnets.stopping": "memnets.app.stopping",
    "memnets.swaps": "memnets.app.swaps",
    "memnets.trace": "memnets.viewing.trace",
    "memnets.translator": "memnets.app.translator",
    "memnets.trust": "memnets.app.trust",
}

#: Module -> where names are now that stood in it; without those that it imports itself, which are
#: still found there.
NAMES = {
    "memnets.core": {
        name: module
        for module, names in {
            "memnets.batches": "BEGIN END PAD UNKNOWN check_target_mask padded unpadded",
            "memnets.checks": "MOST_THREADS check_mask check_memory check_numbers check_source "
            "check_state check_threads",
            "memnets.factories": "check_made make make_encoder",
        }.items()
        for name in names.split()
    },
}


def moved(module: str, name: str) -> Any:
    """A name that has moved to another module, for the ``__getattr__`` of the one it stood in.

    Raises:
        AttributeError: there was no such name.
    """
    new = NAMES[module].get(name)
    if new is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warnings.warn(f"{module}.{name} is {new}.{name} now", DeprecationWarning, stacklevel=3)
    return getattr(import_module(new), name)


class _Moved(MetaPathFinder, Loader):
    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MODULES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = MODULES[spec.name]
        warnings.warn(f"{spec.name} is {new} now", DeprecationWarning, stacklevel=2)
        module = import_module(new)
        self._specs[new] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has given the module the spec of its old name.
        module.__spec__ = self._specs.pop(module.__name__)


sys.meta_path.insert(0, _Moved())  # the names are known: nobody else is asked for them
