"""Errors of a command in one line, which says what to do."""

from __future__ import annotations

import inspect
import re
import sys
from ast import literal_eval
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from pkgutil import iter_modules
from typing import Any

__all__ = ["nearest", "one_line", "settings_of"]

#: At most so many names are suggested.
_MOST = 8

#: Lines of a nested message that say nothing to who reads it.
_NOISE = re.compile(
    r"Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|Expected a <class 'list'>$|"
    r"tip: |usage: "
)
#: Attempts that fail where a class was meant: a file, a number, a list.
_ATTEMPT = re.compile(
    r"Expected a path but .* either not accessible or invalid|Expected a <class '[\w.]+'>$"
)

#: How lines begin that say where an error is, and not what it is.
_WHERE = ("Parser key", "Problem with given class_path")

#: Parts of a board that are settings by names, and no parts of the library.
_NAMED = ("grid.models", "grid.tasks", "grid.pairs")

#: What came in place of a part: it is neither text nor a mapping.
_NO_PART = re.compile(
    r"(?:Not a valid subclass of (?!Trained|Task)\w+|Expected a <class 'dict'>)"
    r"(?:\. Got value: (.*?))?(?: Subclass types expect one of: .*)?"
)

#: What came in place of a list.
_NO_LIST = re.compile(
    r"Expected a <class '(?:list|tuple|collections\.abc\.Sequence)'>\. Got value: (.*)"
)

#: What a simple type means to who gives a value.
_KINDS = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "text"}

#: Simple types that were all tried, with the value that came if the message has it.
_SIMPLE = re.compile(
    r"(?:Expected a <class '(?:float|int|bool|str)'>\.?\s*)+"
    r"(?:Got value: (.*?)(?:\. Got value: .*)?)?"  # the second is all of the part around it
)

#: A number that may be a tensor too: a word is tried as the path of its class in the end.
_NUMBER = re.compile(
    r"Subtypes: \[<class 'float'>, <class 'torch.Tensor'>\]\s*Errors:\s*"
    r"- Expected a <class 'float'>\s*- Expected a dot import path string: (\S+)"
)

#: Set by the other side or by the seed, not by who writes a config.
_LINKED = {"self", "params", "input_size", "output_size", "seed"}

#: What most configs have at their top.
_TOP = ("name", "model", "data", "trainer", "seed_everything", "threads", "compile")

_VARIABLE = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)

#: Where parts are that a bare name may stand for.
_PARTS = (
    "memnets.addressing", "memnets.cells", "memnets.encoders", "memnets.features",
    "memnets.memories", "memnets.models", "memnets.normalizers", "memnets.scores",
    "memnets.training", "tasks", "torch.optim",
)  # fmt: skip


def one_line(message: str) -> str:
    """Reduce a nested message of jsonargparse to one line, without attempts that had to fail.

    Args:
        message: message of an error, with any number of lines.

    Returns:
        The place of the error, such as ``model.access.slots``, the error, and advice if there is
        some. Any other message is only joined to one line.
    """
    message = message.replace("Does not validate against any of the Union subtypes", "")
    every = [line.strip(" -") for line in message.splitlines()]
    lines = list(dict.fromkeys(line for line in every if line and not _NOISE.match(line)))
    said = [line for line in lines if not _ATTEMPT.match(line)]
    if any(not line.startswith(_WHERE) for line in said):
        lines = said
    text = " ".join(lines)
    before, found, rest = text.partition('Parser key "')
    if found and before:  # who passes it on says where it comes from
        return f"{before.strip()} {one_line(found + rest)}"
    keys = re.findall(r'Parser key "([^"]*)":', text)
    text = re.sub(r'Parser key "[^"]*":\s*', "", text)
    text = re.sub(r"Type [^:]* expects a function or a callable class: ", "", text)
    classes = re.findall(r"class_path[ =]'([\w.]+)'", text)
    text = re.sub(r"(Problem with given class_path '[\w.]+':\s*)+", "", text)
    given = re.findall(r"^ *Given value: (.*)$", message, re.MULTILINE)
    if number := _NUMBER.search(message):
        text = f"expected a number; got {number[1]}"
    text = _hinted(text, classes, given, ".".join(keys))
    return f"{'.'.join(keys)}: {text}" if keys else text


def _hinted(text: str, classes: list[str], given: list[str], key: str) -> str:
    """A message with what to do about it."""
    if (match := _SIMPLE.fullmatch(text)) and (came := match[1] or "".join(given[-1:])):
        kinds = re.findall(r"<class '(\w+)'>", text)
        # A number may be a whole one.
        kinds = [kind for kind in kinds if not (kind == "int" and "float" in kinds)]
        return f"expected {' or '.join(_KINDS[kind] for kind in kinds)}; got {came}"
    if match := re.search(r"Option '([^']+)' is not accepted", text):
        hint = _accepted(classes[-1], match[1]) if classes else ""
        if not key:  # at the top of a config
            near = nearest(match[1].partition(".")[0], _TOP, 1)
            hint = f"; did you mean {near}?"
        return text[: match.end()] + hint
    if match := re.search(r"No module named '([^']+)'", text):
        return f"{text[: match.end()]}; modules are looked for in this folder and on PYTHONPATH"
    if match := re.search(r"module '([^']+)' has no attribute '([^']+)'", text):
        names = [*(name for name, _ in _classes(match[1])), *_modules(match[1])]
        near = nearest(match[2], names)
        return text[: match.end()] + (f"; it has {near}" if near else "")
    if (match := _NO_PART.fullmatch(text)) and (came := match[1] or "".join(given[:1])):
        wanted = "settings by names" if key in _NAMED else "class_path and init_args"
        return f"expected {wanted}; got {came}"
    if match := _NO_LIST.fullmatch(text):
        return f"expected a list; got {match[1]}"
    if match := re.search(r"argument after \*\* must be a mapping, not (\w+)", text):
        return f"expected settings by their names, as {{name: value}}; got a {match[1]}"
    if match := re.search(r"Expected a dot import path string: (\S+)", text):
        if key in _NAMED:
            return f"expected settings by names; got {match[1]}"
        if key == "executor":
            return (
                "expected processes, submitit, dask, or the path of a class, my_parts.MyExecutor "
                f"for one; got {match[1]}"
            )
        known = {name: path for module in _PARTS for name, path in _classes(module)}
        near = nearest(match[1], known, 1)
        text = f"expected the path of a class, {known.get(near, 'my_parts.MyClass')} for one"
        return f"{text}; got {match[1]}"
    if match := re.search(r"Import path (?:\S+ )?does not correspond to a subclass of (\w+)", text):
        return f"expected a subclass of {match[1]}" + (f"; got {given[0]}" if given else "")
    if match := re.search(r"Expected '([\w.]+)' to be a subclass of <class '(\w+)'>", text):
        return f"expected a subclass of {match[2]}; got {match[1]}"
    if given and "Expected an instantiatable class, but is abstract" in text:
        lacking = sorted(getattr(_found(given[0]), "__abstractmethods__", ()))
        methods = f", which must define {' and '.join(lacking)}" if lacking else ""
        return f"expected a class with all its methods; got {given[0]}{methods}"
    if (others := _not_of_a_part(given)) and "is abstract" in text:
        return f"expected class_path and init_args; got {', '.join(others)}"
    no_class = r"Not a valid subclass of (Trained|Task)|[\w.]+\.(Trained|Task) is abstract"
    if match := re.search(no_class, text):
        kind, flag = {"Trained": ("model", "--model"), "Task": ("task", "--data")}[
            match[1] or match[2]
        ]
        nested = re.findall(r"NestedArg\(key='([^']+)', val='?([^')]*)'?\)", " ".join(given))
        setting, value = nested[0] if nested else ("<setting>", "<value>")
        return (
            f"there is no {kind} yet that has a setting {setting}: give its config or "
            f"its class first, as in memnets fit --config copying/ntm "
            f"{flag}.{setting} {value}"
        )
    if (match := re.match(r"unrecognized arguments: --(\w+)", text)) and classes:
        return text + _accepted(classes[-1], match[1])
    if match := re.match(r"unrecognized arguments: --trainer\.(\w+)", text):
        trainer = getattr(sys.modules.get("pytorch_lightning"), "Trainer", None)
        near = nearest(match[1], settings_of(trainer), 1) if trainer is not None else ""
        return f"{text}; did you mean --trainer.{near}?" if near else text
    if re.search(r"required: (fit\.)?data, (fit\.)?model", text):
        return text + "; start from a config: memnets fit --config copying/ntm"
    return text


def _accepted(path: str, option: str) -> str:
    """The settings of a class, the nearest to a mistaken one first."""
    found, name = _found(path), path.rpartition(".")[2]
    if not callable(found):
        return ""
    # What a class hands on to its bases itself is no setting: it is one that was refused.
    near = nearest(option, _taken(found, settings_of(found)))
    return f"; {name} takes {near}" if near else f"; {name} takes no settings"


def _taken(part: Any, settings: Iterable[str]) -> list[str]:
    """Those of the settings of a class that a config may give."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    try:
        flags = parser.add_class_arguments(part, "part", fail_untyped=False)
    except Exception:  # of a class that it cannot read, all are named
        return list(settings)
    known = {flag.split(".")[1] for flag in flags if "." in flag}
    return [name for name in settings if name in known]


def _found(path: str) -> Any:
    """The class at a path; nothing is imported for a message: one that was looked at is there."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def _not_of_a_part(given: list[str]) -> list[str]:
    """The keys of a mapping that stands for a part of a config, besides those of one."""
    try:
        value = literal_eval(given[0]) if given else None
    except (ValueError, SyntaxError):
        return []
    known = ("class_path", "init_args", "dict_kwargs")
    return [str(key) for key in value if key not in known] if isinstance(value, dict) else []


def settings_of(part: Any) -> dict[str, inspect.Parameter]:
    """The arguments of a class, those that it hands on to its bases too; or of a function.

    Left out are those that a command sets itself: the sizes that data and model share, and the
    seed.
    """
    calls = [part]
    if isinstance(part, type):
        calls = [call for each in part.__mro__ if (call := vars(each).get("__init__"))]
    found: dict[str, inspect.Parameter] = {}
    for call in calls:
        parameters = inspect.signature(call).parameters.values()
        named = (each for each in parameters if each.kind not in _VARIABLE)
        found = {**{each.name: each for each in named if each.name not in _LINKED}, **found}
        if all(each.kind != inspect.Parameter.VAR_KEYWORD for each in parameters):
            break
    return found


def _classes(module: str) -> Iterator[tuple[str, str]]:
    """Name and path of each public class of a module that was imported."""
    found = sys.modules.get(module)
    for name in getattr(found, "__all__", vars(found) if found is not None else ()):
        if isinstance(getattr(found, name, None), type) and not name.startswith("_"):
            yield name, f"{module}.{name}"


def _modules(package: str) -> Iterator[str]:
    """Name of each public module of a package that was imported."""
    for module in iter_modules(getattr(sys.modules.get(package), "__path__", [])):
        if not module.name.startswith("_"):
            yield module.name


def nearest(name: str, names: Iterable[str], most: int = _MOST) -> str:
    """The names that are most like one, the nearest first."""
    ordered = sorted(
        dict.fromkeys(names),
        key=lambda other: -SequenceMatcher(None, name.lower(), other.lower()).ratio(),
    )
    return ", ".join(ordered[:most]) + (", ..." if len(ordered) > most > 1 else "")
