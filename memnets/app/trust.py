"""Checks of the classes that a config names, before they are imported and called.

A config builds the parts that it names. A config that the user wrote or typed may name the user's
own classes. The config in a checkpoint may come from anybody, so it may name only parts of this
library, optimizers of PyTorch and a few parts of Lightning, unless the user trusts it. There are
three checks:

* :func:`checked_config` walks the config of a checkpoint before any of its names is imported;
* :func:`check_parts` walks every parsed config before any part is made: a setting must name a class
  of the expected kind, not a function;
* :func:`strict_parsing` keeps the parser from making objects for settings of any type.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import os
import re
import sys
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date, timedelta
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

import pytorch_lightning as lightning
import torch
import yaml
from jsonargparse import get_loader, set_loader, set_parsing_settings
from lightning_fabric.plugins import CheckpointIO, ClusterEnvironment
from pytorch_lightning import callbacks
from pytorch_lightning.loggers import Logger
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from memnets.files import check_yaml, load_yaml
from memnets.models import Trained
from memnets.training.runs import AtomicCheckpointIO, CheckpointError
from tasks import Task

__all__ = [
    "check_classes",
    "check_parts",
    "checked_config",
    "checked_model",
    "config_of",
    "strict_parsing",
]

#: Where a class that a checkpoint names is defined, and by which names it is known.
_KNOWN = ("memnets", "tasks", "torch.optim", "torch.nn", "pytorch_lightning")

#: Packages whose modules are imported if a checkpoint names them.
_OURS = ("memnets", "tasks")

#: Of parts that could write files, talk to others or start programs: those that do not.
_HARMLESS: dict[type, tuple[type, ...]] = {
    lightning.Callback: (
        callbacks.DeviceStatsMonitor,
        callbacks.EarlyStopping,
        callbacks.EMAWeightAveraging,
        callbacks.GradientAccumulationScheduler,
        callbacks.LearningRateMonitor,
        callbacks.ModelCheckpoint,
        callbacks.ModelSummary,
        callbacks.RichModelSummary,
        callbacks.RichProgressBar,
        callbacks.StochasticWeightAveraging,
        callbacks.TQDMProgressBar,
        callbacks.Timer,
        callbacks.WeightAveraging,
    ),
    CheckpointIO: (AtomicCheckpointIO,),
    ClusterEnvironment: (),
    Logger: (),
    Profiler: (),
    Strategy: (DDPStrategy, SingleDeviceStrategy),
}

#: Settings of a trainer that say where to write, or whom to send to.
_TRAINER_PLACES = ("default_root_dir", "model_registry", "logger")

#: Settings of callbacks that say where to write.
_PLACE = re.compile(r"dir|path|folder|file|cache|url|console_kwargs", re.IGNORECASE)

#: Profilers that print to the terminal; others write files.
_PROFILERS = ("simple", "advanced")

#: Types of values that name no class.
_PLAIN = (
    str, int, float, complex, bytes, NoneType, os.PathLike, Enum, date, timedelta,
    torch.device, torch.dtype, torch.Tensor,
)  # fmt: skip

_TOP = (
    *("compile", "data", "model", "name", "pictures_every", "pictures_format", "runs"),
    *("seed_everything", "test_weights", "threads", "trainer", "view"),
)

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


class _Slot(NamedTuple):
    """The values that a setting accepts.

    Attributes:
        classes: kinds of class; an object of one, or a function that makes one, is accepted.
        function: whether any function is accepted.
        text: whether any text is accepted.
        items: types of the entries of a list; ``None`` = no list.
        values: type of the values of a mapping; ``None`` = no mapping.
    """

    classes: tuple[type, ...] = ()
    function: bool = False
    text: bool = False
    items: tuple[Any, ...] | None = None
    values: Any = None


class _Unknown:
    """Type of a setting that no signature shows."""


def _alternatives(hint: Any) -> list[Any]:
    """A type hint without unions, annotations and variables."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return [part for one in get_args(hint) for part in _alternatives(one)]
    if origin is Annotated:
        return _alternatives(get_args(hint)[0])
    if isinstance(hint, TypeVar):
        return _alternatives(hint.__bound__ or Any)
    return [hint]


def _slot(hint: Any) -> _Slot:
    slot = _Slot()
    for part in _alternatives(hint):
        origin: Any = get_origin(part) or part
        arguments = get_args(part)
        if part is Any or origin is Literal:
            slot = slot._replace(text=True)
        elif origin in (Callable, typing.Callable, type):
            made = _slot(arguments[-1]).classes if arguments else ()
            slot = slot._replace(classes=slot.classes + made, function=slot.function or not made)
        elif part is _Unknown or not inspect.isclass(origin):
            continue
        elif issubclass(origin, _PLAIN) or origin is object:
            texts = issubclass(origin, (str, os.PathLike, Enum, timedelta, torch.device))
            slot = slot._replace(text=slot.text or texts or origin is object)
        elif issubclass(origin, Mapping):
            slot = slot._replace(values=arguments[1] if arguments else Any)
        elif issubclass(origin, Iterable) and origin.__module__ in ("builtins", "collections.abc"):
            inside = tuple(one for one in arguments if one is not ...)
            slot = slot._replace(items=(slot.items or ()) + (inside or (Any,)))
        else:
            slot = slot._replace(classes=(*slot.classes, origin))
    return slot


def _settings_of(part: Any) -> dict[str, Any]:
    """Setting -> type, of a class and those that it derives from; what has no type is missing."""
    hints: dict[str, Any] = {}
    for base in part.__mro__:
        constructor = vars(base).get("__init__")
        if constructor is None:
            continue
        try:
            found = typing.get_type_hints(constructor)
        except Exception:  # whatever a name that is only there for type checkers raises
            continue
        for name, hint in found.items():
            hints.setdefault(name, hint)
    return hints


class _Walk:
    """A walk over a config, whose error names the setting.

    Args:
        source: the checkpoint whose config it is, which may name known classes alone; ``None`` =
            a parsed config of the user's, which may name any.
        named: classes that the user named too.
    """

    def __init__(self, source: str | None = None, named: Collection[str] = ()) -> None:
        self.source = source
        self.named = named

    def value(self, value: Any, hint: Any, where: str) -> None:
        """Check the value of a setting.

        Raises:
            CheckpointError: it is, or holds, what a checkpoint may not name.
            ValueError: it is, or holds, something else than what the setting is for.
        """
        slot = _slot(hint)
        if isinstance(value, str):
            self._text(value, slot, hint, where)
        elif isinstance(value, dict):
            if "class_path" in value or "init_args" in value:
                self._part(value, slot, where)
            elif slot.classes and dataclasses.is_dataclass(slot.classes[0]):
                self.settings(value, _settings_of(slot.classes[0]), where)
            elif slot.classes and slot.values is None and self.source:
                self.refuse(where, "settings without a class")
            else:
                for name, one in value.items():
                    inner = _Unknown if slot.values is None else slot.values
                    self.value(one, inner, f"{where}.{name}")
        elif isinstance(value, (list, tuple, set, frozenset)):
            for index, one in enumerate(value):
                inner = _Unknown if slot.items is None else Union[slot.items]  # noqa: UP007
                self.value(one, inner, f"{where}.{index}")
        elif inspect.isclass(value) and slot.classes:  # where a class itself is asked for
            if not issubclass(value, slot.classes):
                self._wrong(where, slot, value.__qualname__)
        elif callable(value) and slot.classes and not isinstance(value, slot.classes):
            self._wrong(where, slot, f"{getattr(value, '__qualname__', value)}, a function")
        elif self.source and not isinstance(value, (int, float, NoneType, date)):
            self.refuse(where, f"a value of type {type(value).__name__}")

    def settings(self, values: Any, hints: Mapping[str, Any], where: str) -> None:
        """Check the settings of a part by the types that they have."""
        if not isinstance(values, dict):
            raise self._error(f"{where} must be settings, name: value; got {_shown(values)}")
        for name, value in values.items():
            if self.source and not (isinstance(name, str) and _plain_name(name)):
                self.refuse(where, f"a setting {_shown(name)}")
            self.value(value, hints.get(name, _Unknown), f"{where}.{name}")

    def _text(self, value: str, slot: _Slot, hint: Any, where: str) -> None:
        if not self.source:
            return  # once parsed, text is text
        if slot.classes or slot.function:
            if slot.text and "." not in value and self._short(value, slot) is None:
                return
            self._part({"class_path": value}, slot, where)
        elif hint is _Unknown:
            if "." in value or "\n" in value or ":" in value:
                self.refuse(where, _shown(value))
        elif not slot.text:
            # The parser would take it for YAML, or for a file with the value.
            self.refuse(where, f"the text {_shown(value)}")

    def _part(self, value: dict[str, Any], slot: _Slot, where: str) -> None:
        name = value.get("class_path")
        if not isinstance(name, str) or set(value) - {"class_path", "init_args", "dict_kwargs"}:
            raise self._error(
                f"{where} must be a class_path, a text, and init_args; got {_shown(value)}"
            )
        if not slot.classes:
            if slot.function and not self.source:
                return
            self.refuse(where, _shown(name))
            return  # data like any other: see strict_parsing
        part = self._find(name, slot, where)
        if not inspect.isclass(part):
            self._wrong(where, slot, f"{_shown(name)}, which is no class")
            return
        kinds = [one for one in slot.classes if not getattr(one, "_is_protocol", False)]
        if kinds and not issubclass(part, tuple(kinds)):
            self._wrong(where, slot, _shown(name))
        arguments = value.get("init_args") or {}
        if self.source:
            if name not in self.named:
                self._check_harmless(part, name, arguments, where)
            extra = value.get("dict_kwargs") or {}
            if not isinstance(extra, dict) or not all(
                isinstance(one, (int, float, NoneType)) for one in extra.values()
            ):
                self.refuse(where, f"{_shown(name)} with dict_kwargs")
        self.settings(arguments, _settings_of(part), where)

    def _find(self, name: str, slot: _Slot, where: str) -> Any:
        """Find the object of a class path; for a checkpoint, without an import of foreign code."""
        if not self.source or name in self.named:
            return _imported(name)
        part = _known(name) if "." in name else self._short(name, slot)
        if part is None:
            self.refuse(where, _shown(name), slot)
        return part

    def _short(self, name: str, slot: _Slot) -> type | None:
        """The known class of a slot that has this name, if there is one."""
        found = [one for one in _subclasses(slot.classes) if one.__name__ == name]
        return found[0] if len(found) == 1 and _is_known(found[0].__module__) else None

    def _check_harmless(self, part: type, name: str, arguments: Any, where: str) -> None:
        """Check that a part of a checkpoint writes nothing but into the folder of the run."""
        for kind, harmless in _HARMLESS.items():
            if not issubclass(part, kind):
                continue
            settings = {one for one in _settings_of(part) if _PLACE.search(one)}
            ours = part.__module__.partition(".")[0] in _OURS and not settings
            if part not in harmless and not ours:
                self.refuse(
                    where, f"{_shown(name)}, which may write files elsewhere or start programs"
                )
            for setting in settings & set(arguments if isinstance(arguments, dict) else ()):
                value = arguments[setting]
                inside = setting == "filename" and isinstance(value, str) and _stays(value)
                if value not in (None, {}) and not inside:
                    self.refuse(where, f"{_shown(name)} with {setting} = {_shown(value)}")

    def refuse(self, where: str, what: str, slot: _Slot | None = None) -> None:
        """Say what a checkpoint may not name; in a config of the user's it is allowed."""
        if not self.source:
            return
        kind = f" (a {_kinds(slot)})" if slot is not None else ""
        raise self._error(
            f"{self.source} names {what} for {where}{kind}: not a part of this library, PyTorch "
            "or Lightning that is harmless there, so nothing of it was run; give --trust if the "
            "checkpoint is your own or of someone you trust (trust=True in Python)"
        )

    def _wrong(self, where: str, slot: _Slot, what: str) -> None:
        begin = f"{self.source}: " if self.source else ""
        raise self._error(f"{begin}{where} must be a class of {_kinds(slot)}; got {what}")

    def _error(self, message: str) -> ValueError:
        return CheckpointError(message) if self.source else ValueError(message)


def _kinds(slot: _Slot) -> str:
    return " or ".join(one.__name__ for one in slot.classes) or "plain value"


def _shown(value: Any) -> str:
    """A value in a line, cut if it is long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _plain_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and not name.startswith("_")


def _stays(name: str) -> bool:
    """Whether the name of a file, with its folders, stays in the folder that it is put into."""
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _is_known(module: str) -> bool:
    return any(f"{module}.".startswith(f"{known}.") for known in _KNOWN)


def _known(name: str) -> type | None:
    """The class of this library, PyTorch or Lightning with this class path, if there is one."""
    if not all(map(_plain_name, name.split("."))):
        return None
    module, _, attribute = name.rpartition(".")
    if not _is_known(module):
        return None
    if module not in sys.modules and module.partition(".")[0] in _OURS:
        try:
            importlib.import_module(module)
        except ImportError:
            return None
    found: Any = None
    if module.partition(".")[0] in _OURS:
        found = getattr(sys.modules.get(module), attribute, None)  # some names load their module
    elif module in sys.modules:
        found = vars(sys.modules[module]).get(attribute)
    return found if inspect.isclass(found) and _is_known(found.__module__) else None


def _imported(name: str) -> Any:
    """Import the object of the user's class path; ``None`` if there is none."""
    names = name.split(".")
    for end in range(len(names) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(names[:end]))
            for attribute in names[end:]:
                found = getattr(found, attribute)
        except (ImportError, AttributeError):
            continue
        return found
    return None


def _subclasses(classes: Iterable[type]) -> list[type]:
    found: dict[type, None] = {}
    waiting = list(classes)
    while waiting:
        one = waiting.pop()
        if one not in found:
            found[one] = None
            waiting += type.__subclasses__(one)
    return list(found)


def config_of(checkpoint: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """Settings of the run that left a checkpoint, as plain values.

    Raises:
        CheckpointError: it holds none, or they are damaged.
    """
    text = checkpoint.get("config")
    if not isinstance(text, str):
        raise CheckpointError(f"{path} holds no config: memnets fit did not write it")
    try:
        config = load_yaml(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"the config in {path} is damaged: {reason}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise CheckpointError(f"{path} holds no config: memnets fit did not write it")
    return config


def checked_config(
    config: Mapping[str, Any], path: str | Path, trusted: bool = False, named: Collection[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """The config of a checkpoint, in which nothing is named that it may not name.

    What says where to write is left out: a run is written where its user says.

    Args:
        config: of :func:`config_of`.
        path: of the checkpoint.
        trusted: take the config as it is.
        named: class paths that the user named too.

    Returns:
        The config, and a line for each setting that was left out.

    Raises:
        CheckpointError: it names something that it may not name.
    """
    checked = copy.deepcopy(dict(config))
    for name in sorted(set(checked) - set(_TOP), key=str):
        # What is of a command, such as verbose, is not of the run, and is never handed on.
        if isinstance(checked.pop(name), (dict, list)) and not trusted:
            raise CheckpointError(f"the config in {path} is damaged: it has a setting {name!r}")
    if trusted:
        return checked, []
    walk, left_out = _Walk(str(path), named), []
    for part, places in (("trainer", _TRAINER_PLACES), ("data", ("cache",))):
        settings = checked.get(part) or {}
        arguments = (
            settings.get("init_args") if part == "data" and isinstance(settings, dict) else settings
        )
        for place in places:
            # A logger may be true or false too, which is harmless.
            if isinstance(arguments, dict) and not isinstance(arguments.get(place), bool | None):
                value = arguments.pop(place)
                left_out.append(
                    f"{part}.{place} = {_shown(value)} of {path} is not used; see --trust"
                )
    walk.value(checked.get("model"), Trained, "model")
    walk.value(checked.get("data"), Task, "data")
    trainer = checked.get("trainer") or {}
    for name, value in trainer.items() if isinstance(trainer, dict) else ():
        refused = name == "profiler" and value not in _PROFILERS
        if isinstance(value, str) and (refused or os.sep in value):
            walk.refuse(f"trainer.{name}", _shown(value))
    walk.settings(trainer, _settings_of(lightning.Trainer), "trainer")
    plain = {
        **{"compile": bool, "name": str, "pictures_every": int, "pictures_format": str},
        **{"runs": str, "seed_everything": int, "threads": int, "view": int},
    }
    for name, kinds in plain.items():
        if not isinstance(checked.get(name), (kinds, NoneType)):
            raise CheckpointError(
                f"the config in {path} is damaged: {name} is {_shown(checked[name])}"
            )
    return checked, left_out


def checked_model(settings: Any, path: str | Path, trusted: bool = False) -> None:
    """Check the model of a checkpoint's config alone.

    Raises:
        CheckpointError: it names something that it may not name.
    """
    if not trusted:
        _Walk(str(path)).value(settings, Trained, "model")


def check_parts(config: Mapping[str, Any]) -> None:
    """Check that every setting of a parsed config takes what it is for, before it is called.

    Args:
        config: with ``model``, ``data`` and ``trainer``, as far as they are there.

    Raises:
        ValueError: a setting names something else, such as a function where a class is expected.
    """
    walk = _Walk()
    for name, hint in (("model", Trained), ("data", Task)):
        if config.get(name) is not None:
            walk.value(config[name], hint, name)
    walk.settings(config.get("trainer") or {}, _settings_of(lightning.Trainer), "trainer")


def check_classes(names: Iterable[str]) -> None:
    """Check that class paths are none of functions, as far as what they name is imported.

    Raises:
        ValueError: one is.
    """
    for name in sorted(names):
        module, _, attribute = name.rpartition(".")
        found = getattr(sys.modules.get(module), attribute, None)
        if callable(found) and not inspect.isclass(found):
            raise ValueError(f"a part must be a class; got {name}, a function")


def strict_parsing() -> None:
    """Set the parser up: YAML within bounds, and nothing is built where anything may stand."""
    set_parsing_settings(instantiate_subclass_spec_in_any=False)
    # Lightning's Timer has one as the default of a text, and a config is to be written.
    yaml.SafeDumper.add_multi_representer(
        Enum, lambda dumper, value: dumper.represent_data(value.value)
    )
    load = get_loader("yaml")
    if getattr(load, "bounded", False):
        return

    def bounded(text: str) -> Any:
        check_yaml(text)
        try:
            return load(text)
        except (ValueError, TypeError, AttributeError) as error:
            raise yaml.YAMLError(str(error)) from error

    bounded.bounded = True  # type: ignore[attr-defined]
    set_loader("yaml", bounded, exceptions=(yaml.YAMLError,))
