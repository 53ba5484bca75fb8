"""The settings that a board asks for, and whether a run had them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import yaml

from memnets.files import load_yaml, read_settings
from memnets.training.runs import changes, leaves

__all__ = ["Asked"]

#: Settings on which the scores of a run depend, those of its parts and of the trainer.
#: The seed is a run's own; workers and what the trainer shows change no score.
_OF_SCORES = r"(model|test_weights|data(?!\.(seed|workers)$)|trainer(?!\.enable_))\b"


class Asked:
    """The settings that a config and the flags behind it give.

    Args:
        config: settings of the config.
        flags: ``--<name>=<value>``; a later one counts. With ``--data``, settings of the config's
            own task are left out. A setting that a flag gives in another form, such as a list that
            it makes longer (``+=``), is left out too.

    Attributes:
        settings: by name, without ``init_args``.
    """

    def __init__(self, config: Mapping[str, Any], flags: Sequence[str]) -> None:
        found = {_plain(name): value for name, value in leaves(config)}
        for flag in flags:
            given, gives, text = _plain(flag.lstrip("-")).partition("=")
            name = given.removesuffix("+")
            found = {old: one for old, one in found.items() if not f"{old}.".startswith(f"{name}.")}
            if not gives or given != name:
                continue
            value = _value(text)
            # The config of a run has a class under class_path, which a flag may name alone.
            both = [name, f"{name}.class_path"] if isinstance(value, str) else [name]
            found.update({each: one for key in both for each, one in leaves(value, key)})
        self.settings = {name: one for name, one in found.items() if re.match(_OF_SCORES, name)}

    @cached_property
    def digest(self) -> int:
        """Hash of the settings, in [0, 10^6); two that differ share one by a chance of a millionth.

        A record holds numbers of six digits alone, and this one is enough to see a change.
        """
        return _digest(self.settings)

    def differences(self, folder: Path) -> list[tuple[str, Any, Any]]:
        """Settings that a run did not have as they are asked for: name, its value, the asked one.

        Args:
            folder: folder of the run; one without ``config.yaml`` differs in nothing that is known.

        Raises:
            ValueError: the config of the run is damaged.
        """
        path = folder / "config.yaml"
        return changes(read_settings(path), self.settings) if path.is_file() else []

    def digest_of_run(self, folder: Path) -> int | None:
        """The digest of what is asked for with the values that a run had; ``None`` = not known.

        Args:
            folder: folder of the run.

        Raises:
            ValueError: the config of the run is damaged.
        """
        if not (folder / "config.yaml").is_file():
            return None
        had = {_plain(name): before for name, before, _ in self.differences(folder)}
        return _digest({**self.settings, **had})


def _plain(name: str) -> str:
    return name.replace(".init_args.", ".")


@lru_cache(1024)
def _value(text: str) -> Any:
    """The value of a flag; many runs of a board share their flags."""
    try:
        return load_yaml(text)
    except yaml.YAMLError:
        return text


def _digest(settings: Mapping[str, Any]) -> int:
    same = sorted((name, _number(value)) for name, value in settings.items())
    code = hashlib.sha256(json.dumps(same, default=str).encode()).hexdigest()
    return int(code, 16) % 10**6


def _number(value: Any) -> Any:
    """A value, in which 1 and 1.0 are the same."""
    if isinstance(value, list):
        return [_number(each) for each in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
