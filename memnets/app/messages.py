"""Errors of a command in one line, which says what to do."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from ast import literal_eval
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from os.path import relpath
from pathlib import Path
from pkgutil import iter_modules
from types import FrameType
from typing import Any, NamedTuple

__all__ = ["nearest", "of_worker", "one_line", "place_of", "settings_of"]

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


class OfWorker(NamedTuple):
    """An error in a process that makes batches, as the text of another error tells it.

    Attributes:
        kind: name of its class.
        message: its message.
        place: its place in a user's own code, as of :func:`place_of`.
    """

    kind: str
    message: str
    place: str


#: How PyTorch tells an error of another process: as a text, with its traceback.
_OF_WORKER = re.compile(
    r"Caught \w+ in .*\.\nOriginal (Traceback \(most recent call last\):\n.*)", re.DOTALL
)
#: A frame in the text of a traceback.
_FRAME = re.compile(r'^  File "(.+)", line (\d+), in (.+)$', re.M)


def of_worker(error: BaseException) -> OfWorker | None:
    """An error in a process that makes batches, as another one tells it; ``None`` if it is none."""
    found = _OF_WORKER.match(str(error))
    if found is None:
        return None
    # What was raised first comes first, and that which it led to last.
    raised = found[1].split("Traceback (most recent call last):\n")[1:]
    said = re.split(r"^(?=\S)", raised[-1], maxsplit=1, flags=re.M)[-1].strip()
    kind, _, message = said.partition(": ")
    place = ""
    for each in reversed(raised):
        own = [frame for frame in _FRAME.findall(each) if _is_own(frame[0])]
        if own and not place:
            path, line, name = own[-1]
            place = _place(path, int(line), _name_at(path, int(line), name))
    return OfWorker(kind.rpartition(".")[2], message, place)


def _name_at(path: str, line: int, name: str) -> str:
    """The name of a function with its class, by its line; the name that is known if there is none.

    The text of a traceback has the name alone.
    """
    try:
        nodes: list[ast.AST] = [ast.parse(Path(path).read_bytes())]
    except (OSError, SyntaxError, ValueError):
        return name
    whole, within = "", ""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    while nodes:
        for child in ast.iter_child_nodes(nodes.pop()):
            first, last = (vars(child).get(end, line) for end in ("lineno", "end_lineno"))
            if not first <= line <= last:
                continue
            nodes.append(child)
            if isinstance(child, kinds):
                whole += within + child.name
                within = "." if isinstance(child, ast.ClassDef) else ".<locals>."
    if name.startswith("<") and whole:  # of a function without a name of its own
        return f"{whole}{within}{name}"
    return whole if whole.rpartition(".")[2] == name else name


def place_of(error: BaseException) -> str:
    """The place in a user's own code behind an error, such as ``mine.py:12, in Sorting.answer``.

    It is the innermost one that is not of this library, of an installed package, or of Python;
    empty if there is none. An error in a process that makes batches has its place there.
    """
    cause: BaseException | None = error
    while cause is not None:
        told = of_worker(cause)
        if told is not None:
            return told.place
        places = list(_frames(cause))
        if places:
            frame, line = places[-1]
            return _place(frame.f_code.co_filename, line, _function(frame))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return ""


def _place(filename: str, line: int, function: str) -> str:
    path, here = Path(filename), Path.cwd()
    shown = relpath(path, here) if here in path.parents else str(path)
    return f"{shown}:{line}, in {function}"


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """The frames of a user's own code behind an error, and the line in each, outermost first."""
    trace = error.__traceback__
    while trace is not None:
        if _is_own(trace.tb_frame.f_code.co_filename):
            yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def _is_own(filename: str) -> bool:
    """Whether code is a user's own: no part of this library, an installed package, or Python."""
    path = Path(filename)
    if not path.is_absolute() or not path.is_file():
        return False  # a frozen module of Python, code that was made on the way
    parents = set(path.parents)
    packages = (sys.modules.get(name) for name in ("memnets", "tasks"))
    ours = {Path(each.__file__).parent for each in packages if each is not None and each.__file__}
    foreign = {"site-packages", "dist-packages"} & set(path.parts)
    return not (parents & {*ours, Path(inspect.__file__).parent} or foreign)


def _function(frame: FrameType) -> str:
    """The name of a function with its class."""
    code = frame.f_code
    if name := getattr(code, "co_qualname", ""):  # from Python 3.11 on
        return str(name)
    owner = type(frame.f_locals["self"]).__qualname__ if "self" in frame.f_locals else ""
    return f"{owner}.{code.co_name}" if owner else code.co_name


def nearest(name: str, names: Iterable[str], most: int = _MOST) -> str:
    """The names that are most like one, the nearest first."""
    ordered = sorted(
        dict.fromkeys(names),
        key=lambda other: -SequenceMatcher(None, name.lower(), other.lower()).ratio(),
    )
    return ", ".join(ordered[:most]) + (", ..." if len(ordered) > most > 1 else "")
