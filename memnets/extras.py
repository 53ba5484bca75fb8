"""Optional packages, which an extra of the installation brings: ``memnets[translation]``."""

from __future__ import annotations

from importlib.util import find_spec

__all__ = ["MissingExtra", "check_extra"]

#: Module -> the package that has it, where the names differ.
_PACKAGES = {"PIL": "pillow", "sklearn": "scikit-learn"}


class MissingExtra(ImportError):
    """A package is missing that an extra of the installation brings."""


def check_extra(extra: str, what: str, *modules: str) -> None:
    """Check that optional packages are installed, without an import of them.

    Args:
        extra: that brings them.
        what: needs them, for the error.
        modules: their names in Python.

    Raises:
        MissingExtra: one of them is missing.
    """
    missing = [_PACKAGES.get(module, module) for module in modules if not _installed(module)]
    if missing:
        raise MissingExtra(
            f"{what} needs {', '.join(missing)}; to install: "
            f"python -m pip install 'memnets[{extra}]'"
        )


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # of a finder that refuses it; of a module without a spec
        return False
