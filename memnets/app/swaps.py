"""A config of which the task or the model is swapped: its name, and what no longer belongs.

A config is made for its own task and model. With another in its place by a flag or a second config,
the run is named after what is run, and settings that are meant for its own task are left out or
refused, not applied in silence.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from os.path import isfile
from typing import Any

import yaml

from memnets.app.messages import settings_of
from memnets.files import load_yaml, read_settings, read_text

__all__ = ["check_callbacks", "drop_settings", "read_config", "run_name"]

#: Callbacks whose settings are for a task: the lengths of its sequences, its test sets.
_FOR_A_TASK = ("MemorySchedule", "Curriculum")


def read_config(value: str) -> dict[str, Any]:
    """The settings that a value of ``--config`` gives: a file, or settings themselves in braces.

    Raises:
        ValueError: it cannot be read, or holds none.
    """
    if not value.lstrip().startswith("{"):
        return read_settings(value)
    try:
        settings = load_yaml(value)
    except yaml.YAMLError as error:
        raise ValueError(f"expected settings in braces; got {value} ({error})") from error
    return settings if isinstance(settings, dict) else {}


def run_name(files: Sequence[dict[str, Any]], config: Any) -> str:
    """``<task>/<model>`` of a run: of its config, where another is in their place that one.

    A model goes by its memory, a machine without memory by its controller, and a meta-learner by
    what learns.

    Args:
        files: that the config is made of; the last with a name gives it.
        config: the whole, with ``model`` and ``data``.
    """
    task, model = _snake(_class_path(config["data"])), _snake(_class_path(_naming(config["model"])))
    named = [each for each in files if each.get("name") is not None]
    if not named:
        return f"{task}/{model}"
    own = named[-1]
    own_task = _snake(_class_path(own["data"])) if own.get("data") else task
    own_model = _snake(_class_path(_naming(own["model"]))) if own.get("model") else model
    name = str(own["name"])
    if (own_task, own_model) == (task, model):
        return name
    first, _, last = name.rpartition("/")
    if not first:
        return f"{task}/{model}"
    return f"{first if own_task == task else task}/{last if own_model == model else model}"


def drop_settings(
    files: Sequence[dict[str, Any]], config: Any, arguments: Sequence[str]
) -> str | None:
    """Give another task its own defaults where a file has settings of the task that was there.

    What both tasks inherit from the same base stays, such as a batch size, but no test sets. What
    flags say stays too.

    Args:
        files: that the config is made of.
        config: the whole; its ``data`` is changed.
        arguments: of the command line.

    Returns:
        What was left out, in a line; ``None`` for nothing.
    """
    data = config["data"]
    now = _class(_class_path(data))
    kept = _asked(arguments)
    left: dict[str, str] = {}
    for each in files:
        section = each.get("data")
        settings = section.get("init_args") or {} if isinstance(section, dict) else {}
        own_path = _class_path(section)
        if not own_path or not swapped(own_path, _class_path(data)):
            kept |= set(settings)
            continue
        common = _common(_class(own_path), now)
        both = {name for name in settings_of(common) if not name.startswith("test_")}
        left.update(dict.fromkeys(set(settings) - both, own_path))
    left = {name: path for name, path in left.items() if name not in kept}
    if not left:
        return None
    known = {} if now is None else settings_of(now)
    for name in left:
        if name in data["init_args"] and name in known:
            data["init_args"][name] = known[name].default
            if known[name].default is inspect.Parameter.empty:
                del data["init_args"][name]
    names = ", ".join(sorted(left))
    return (
        f"{_class_path(data)} in place of {', '.join(sorted(set(left.values())))}: {names} of the "
        f"config left out; give them by --data.<setting>"
    )


def check_callbacks(files: Sequence[dict[str, Any]], config: Any, arguments: Sequence[str]) -> None:
    """Check that no schedule of a file is for a task that is no longer there.

    One for a task of strings of symbols fits any other of them (:attr:`tasks.Task.alike`).

    Args:
        files: that the config is made of.
        config: the whole.
        arguments: of the command line.

    Raises:
        ValueError: there is one, and no flag says what callbacks are wanted.
    """
    if any(each.split("=")[0] == "--trainer.callbacks" for each in arguments):
        return
    own_path, made_for, callbacks = "", "", []
    for each in files:
        own_path = _class_path(each.get("data")) or own_path
        trainer = each.get("trainer")
        if isinstance(trainer, dict) and "callbacks" in trainer:
            given = trainer["callbacks"] or []
            callbacks = given if isinstance(given, list) else [given]
            made_for = own_path
    names = [_class_path(each).rpartition(".")[2] for each in callbacks]
    wrong = [name for name in names if name in _FOR_A_TASK]
    now_path = _class_path(config["data"])
    common = _common(_class(made_for), _class(now_path)) if made_for else None
    if wrong and made_for and swapped(made_for, now_path) and not getattr(common, "alike", False):
        raise ValueError(
            f"the config has a {' and a '.join(wrong)} for {made_for}, which may not fit "
            f"{now_path}; pass --trainer.callbacks=[] to leave it out, or "
            "callbacks of your own"
        )


def swapped(own: str, now: str) -> bool:
    """Whether a class is another than that of the config, and no subclass of it."""
    own_class, now_class = _class(own), _class(now)
    if own_class is None or now_class is None:
        return own.rpartition(".")[2] != now.rpartition(".")[2]
    return not issubclass(now_class, own_class)


def _asked(arguments: Sequence[str]) -> set[str]:
    """The settings of the task that flags give, one by one or in a config of its own."""
    asked = set()
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if match := re.match(r"--data\.(init_args\.)?(\w+)", argument):
            asked.add(match[2])
        elif argument.split("=")[0] == "--data":
            value = argument.partition("=")[2] or following
            content = load_yaml(read_text(value) if isfile(value) else value)
            if isinstance(content, dict):
                asked |= set(content.get("init_args", content))
    return asked


def _class_path(node: Any) -> str:
    """Class path of a part of a config, written alone or with settings; empty if none."""
    if isinstance(node, str):
        return node
    path = None if node is None else node.get("class_path")
    return path if isinstance(path, str) else ""


def _naming(model: Any) -> Any:
    """The part of a model that names it."""
    settings = {} if model is None or isinstance(model, str) else model.get("init_args") or {}
    if settings.get("learner") is not None:
        return _naming(settings["learner"])
    if "access" in settings or "controller" in settings:
        return settings.get("access") or settings.get("controller") or model
    return model


def _snake(path: str) -> str:
    """``associative_recall`` for ``tasks.AssociativeRecall``, ``ntm`` for ``NTM``."""
    name = path.rpartition(".")[2] or "unnamed"
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _class(path: str) -> type | None:
    """A class by its path, of those that are imported; nothing is imported for a config's sake."""
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(module or "tasks"), name, None)
    return found if isinstance(found, type) else None


def _common(one: type | None, other: type | None) -> type:
    """The nearest base of both."""
    bases: Iterator[type] = iter(()) if one is None or other is None else iter(one.__mro__)
    return next((base for base in bases if other and issubclass(other, base)), object)
