"""What was somewhere else in version 0.1 is found there still, with a warning."""

import sys
from importlib import import_module

import pytest

from memnets._moved import MODULES, NAMES


@pytest.mark.parametrize("old", MODULES)
def test_a_module_is_found_by_its_old_name(old: str, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=f"{old} is {MODULES[old]} now"):
        found = import_module(old)
    assert found is import_module(MODULES[old])
    assert found.__spec__.name == MODULES[old]


@pytest.mark.parametrize(
    ("module", "name", "new"),
    [(m, n, new) for m, names in NAMES.items() for n, new in names.items()],
)
def test_a_name_is_found_in_its_old_module(module: str, name: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"{module}\.{name} is {new}\.{name} now"):
        found = getattr(import_module(module), name)
    assert found is getattr(import_module(new), name)


@pytest.mark.parametrize("module", NAMES)
def test_a_name_that_never_was_is_none(module: str) -> None:
    with pytest.raises(AttributeError, match=f"'{module}' has no attribute 'NEVER'"):
        _ = import_module(module).NEVER
