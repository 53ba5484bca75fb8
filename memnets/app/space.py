"""The plan of a sweep: its trainings, and the flags of ``memnets fit`` that it varies.

Optuna draws the values. It is imported when a distribution is asked for, so a space can be read and
checked without it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from memnets.app.commands import OPTIONS, UsageError
from memnets.app.messages import nearest, one_line
from memnets.app.seeds import Run, Summary, summary
from memnets.files import read_settings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

__all__ = [
    "FAILED",
    "OWN",
    "SCORES",
    "SECONDS",
    "Objective",
    "Parameter",
    "Plan",
    "Value",
    "check_flags",
    "flags_of",
    "grid_of",
    "read_space",
    "suggest",
    "text_of",
]

#: A value of a flag that Optuna can store; other values, such as lists, are kept as JSON.
Value = bool | int | float | str | None

Objective = Literal["mean", "worst", "mean_and_worst"]

#: What the study notes of a trial: the score of each seed, the seconds of its trainings, why it
#: failed.
SCORES, SECONDS, FAILED = "scores", "seconds", "failed"

#: Flags that a sweep sets itself, or that mean nothing in one.
OWN = (
    *("ckpt_path", "config", "help", "help_all", "name", "print_config", "runs"),
    *("seed_everything", "threads", "weights_only"),
)
_TYPES = ("float", "int", "categorical")
#: The settings that each type takes, besides ``type`` and ``when``.
_SETTINGS = {
    "float": ("low", "high", "log", "step"),
    "int": ("low", "high", "log", "step"),
    "categorical": ("choices",),
}


@dataclass(frozen=True)
class Parameter:
    """A flag that a sweep varies.

    Attributes:
        flag: its name without the dashes, such as ``model.optimizer.lr``.
        type: ``float``, ``int`` or ``categorical``.
        low: least value of a number.
        high: greatest value of a number; it may be drawn, if it is a number of steps above ``low``.
        log: whether numbers are drawn evenly on a logarithmic scale.
        step: distance from one number to the next; ``None`` = any number in between.
        choices: values of a categorical flag; a value that is a list or a mapping is its JSON.
        when: flags before this one, and the values of each at which this one is given at all.
    """

    flag: str
    type: str
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    choices: tuple[Value, ...] = ()
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def asked(self, values: Mapping[str, Value]) -> bool:
        """Whether the flag is given, beside the values of the flags before it."""
        return all(flag in values and values[flag] in wanted for flag, wanted in self.when.items())

    def distribution(self) -> BaseDistribution:
        """The values in the words of Optuna."""
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        if self.type == "categorical":
            return CategoricalDistribution(self.choices)
        if self.type == "int":
            step = 1 if self.step is None else int(self.step)
            return IntDistribution(int(self.low), int(self.high), self.log, step)
        return FloatDistribution(self.low, self.high, self.log, self.step)

    def ends(self) -> tuple[Value, ...]:
        """The values that are checked before a sweep: the ends of a range, or all choices."""
        if self.type == "categorical":
            return self.choices
        return (self.low, self.high)

    def every(self) -> tuple[Value, ...]:
        """All values, in their order.

        Raises:
            ValueError: there are infinitely many.
        """
        if self.type == "categorical":
            return self.choices
        step = 1 if self.type == "int" and self.step is None else self.step
        if step is None or self.log:
            raise ValueError(
                f"space, {self.flag}: a grid needs a step, or a list of choices; "
                f"got every number from {self.low:g} to {self.high:g}"
            )
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        values = [self.low + number * step for number in range(count)]
        return tuple(int(v) if self.type == "int" else v for v in values)


def read_space(settings: Mapping[str, Any]) -> tuple[Parameter, ...]:
    """Read a space.

    Args:
        settings: for each flag of ``memnets fit``, such as ``model.optimizer.lr``, its ``type`` and
            the settings of that: ``low``, ``high``, ``log`` and ``step`` of a ``float`` or an
            ``int``; ``choices`` of a ``categorical`` flag, whose type may be left out. ``when``
            maps flags before it to a value, or a list of values, at which it is given.

    Returns:
        The parameters, in the order of the settings.

    Raises:
        ValueError: a setting is missing, unknown or out of its range.
    """
    if not settings:
        raise ValueError(
            "a space needs at least one flag of memnets fit, such as "
            "model.optimizer.lr: {type: float, low: 0.0001, high: 0.01, log: true}; got none"
        )
    found: dict[str, Parameter] = {}
    for name, given in settings.items():
        flag = str(name).removeprefix("--")
        _check_flag(flag)
        if flag in found:
            raise ValueError(f"space, {flag}: each flag can be there once; it is there twice")
        if not isinstance(given, Mapping):
            raise ValueError(
                f"space, {flag}: expected settings, such as {{type: float, low: 0.1, high: 1}}; "
                f"got {given!r}"
            )
        found[flag] = _parameter(flag, given, found)
    return tuple(found.values())


def _check_flag(flag: str) -> None:
    first = flag.partition(".")[0]
    if first in OWN:
        advice = "give seeds" if first == "seed_everything" else "it is a setting of the sweep"
        if first not in ("name", "runs", "seed_everything", "threads"):
            advice = "it does not belong in a sweep"
        raise ValueError(f"space, {flag}: this flag cannot be varied; {advice}")
    if first not in OPTIONS["fit"]:
        known = set(OPTIONS["fit"]) - set(OWN)
        raise ValueError(
            f"space, {flag}: memnets fit has no such flag; did you mean "
            f"{nearest(first, sorted(known), 1)}{flag.removeprefix(first)}?"
        )


def _parameter(flag: str, given: Mapping[str, Any], before: Mapping[str, Parameter]) -> Parameter:
    place = f"space, {flag}"
    kind = given.get("type", "categorical" if "choices" in given else None)
    if kind not in _TYPES:
        raise ValueError(f"{place}: type must be float, int or categorical; got {kind!r}")
    known = ("type", "when", *_SETTINGS[kind])
    for name in given:
        if name not in known:
            raise ValueError(
                f"{place}: {kind} takes {', '.join(known)}; got {name}; "
                f"did you mean {nearest(str(name), known, 1)}?"
            )
    when = _when(place, given.get("when"), before)
    if kind == "categorical":
        return Parameter(flag, kind, choices=_choices(place, given.get("choices")), when=when)
    low, high = (_number(place, name, given.get(name), kind) for name in ("low", "high"))
    log = given.get("log", False)
    if not isinstance(log, bool):
        raise ValueError(f"{place}: log must be true or false; got {log!r}")
    if not low < high:
        raise ValueError(f"{place}: low must be less than high; got low {low:g} and high {high:g}")
    if log and low <= 0:
        raise ValueError(f"{place}: on a logarithmic scale low must be more than 0; got {low:g}")
    step = given.get("step")
    if step is None:
        return Parameter(flag, kind, low, high, log, when=when)
    step = _number(place, "step", step, kind)
    if log:
        raise ValueError(f"{place}: it takes log or step, not both")
    if not 0 < step <= high - low:
        raise ValueError(
            f"{place}: step must be more than 0 and at most high - low = {high - low:g}; "
            f"got {step:g}"
        )
    return Parameter(flag, kind, low, high, step=step, when=when)


def _number(place: str, name: str, value: Any, kind: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or (kind == "int" and value != int(value)):
        wanted = "a whole number" if kind == "int" else "a number"
        raise ValueError(
            f"{place}: {name} must be {wanted}; got {'nothing' if value is None else repr(value)}"
        )
    return int(value) if kind == "int" else float(value)


def _choices(place: str, given: Any) -> tuple[Value, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        shown = "nothing" if given is None else repr(given)
        raise ValueError(f"{place}: choices must be a list of at least one value; got {shown}")
    choices = tuple(map(_stored, given))
    for number, choice in enumerate(choices):
        if choice in choices[:number]:  # to Python, and so to Optuna, true is 1
            raise ValueError(f"{place}: choices must differ; {choice!r} is there twice")
    return choices


def _stored(value: Any) -> Value:
    """A value that Optuna can store: lists and mappings as JSON, which is YAML."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return json.dumps(value)


def _when(place: str, given: Any, before: Mapping[str, Parameter]) -> dict[str, tuple[Value, ...]]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(f"{place}: when must map flags of the space to values; got {given!r}")
    found: dict[str, tuple[Value, ...]] = {}
    for name, wanted in given.items():
        flag = str(name).removeprefix("--")
        if flag not in before:
            raise ValueError(
                f"{place}: when must name a flag that stands before it in the space, one of "
                f"{', '.join(before) or 'none'}; got {flag}"
            )
        values = tuple(map(_stored, wanted if isinstance(wanted, list) else [wanted]))
        other = before[flag]
        wrong = [value for value in values if other.choices and value not in other.choices]
        if wrong or not values:
            shown = ", ".join(map(str, other.choices))
            raise ValueError(
                f"{place}: when {flag} is {wrong[0] if wrong else 'nothing'}, which is never so; "
                f"its choices are {shown}"
            )
        found[flag] = values
    return found


def suggest(space: Sequence[Parameter], trial: Trial) -> dict[str, Value]:
    """The values of a trial; those that it does not have yet are drawn.

    Args:
        space: the parameters.
        trial: a running trial of a study.
    """
    values: dict[str, Value] = {}
    for each in space:
        if not each.asked(values):
            continue
        if each.type == "categorical":
            values[each.flag] = trial.suggest_categorical(each.flag, each.choices)
        elif each.type == "int":
            step = 1 if each.step is None else int(each.step)
            low, high = int(each.low), int(each.high)
            values[each.flag] = trial.suggest_int(each.flag, low, high, step=step, log=each.log)
        else:
            values[each.flag] = trial.suggest_float(
                each.flag, each.low, each.high, step=each.step, log=each.log
            )
    return values


def flags_of(values: Mapping[str, Value]) -> list[str]:
    """Values as flags of ``memnets fit``, a part before its settings."""
    # Another class in the place of a part would leave settings that were given before it behind.
    flags = sorted(values, key=lambda flag: flag.count("."))
    return [f"--{flag}={text_of(values[flag])}" for flag in flags]


def text_of(value: Value) -> str:
    """A value as it is written behind a flag."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def grid_of(space: Sequence[Parameter]) -> dict[str, list[Value]]:
    """All values of each parameter, for a sampler that goes through all of them.

    Raises:
        ValueError: a parameter has infinitely many, or is not always given.
    """
    for each in space:
        if each.when:
            raise ValueError(
                f"space, {each.flag}: a grid cannot have when; the sampler "
                "optuna.samplers.BruteForceSampler goes through all values and can"
            )
    return {each.flag: list(each.every()) for each in space}


@dataclass(frozen=True)
class Plan:
    """All that the score of a trial depends on.

    Attributes:
        fit: the file of the config.
        flags: flags of every trial.
        name: ``<task>/<model>`` of all runs.
        space: flags that are varied.
        metric: name of the score in ``metrics.json``.
        higher_is_better: its direction.
        objective: how the scores of the seeds become one number.
        seeds: of the runs of a trial.
        folder: folder of the sweep.
        threads: threads of each training.
    """

    fit: str
    flags: tuple[str, ...]
    name: str
    space: tuple[Parameter, ...]
    metric: str
    higher_is_better: bool
    objective: Objective
    seeds: tuple[int, ...]
    folder: Path
    threads: int

    def common(self) -> list[str]:
        """Arguments that all trainings share."""
        return [f"--config={self.fit}", f"--threads={self.threads}", *self.flags]

    def run(self, number: int, seed: int, values: Mapping[str, Value]) -> Run:
        """The training of a trial with a seed."""
        runs = self.folder / f"trial_{number}" / f"seed_{seed}"
        own = (f"--name={self.name}", f"--seed_everything={seed}", f"--runs={runs}")
        return Run(self.name, seed, runs, ("fit", *self.common(), *flags_of(values), *own))

    def sum_up(self, scores: Mapping[int, float]) -> Summary:
        """The mean of the scores by seed, the best and the worst."""
        return summary(scores, self.higher_is_better)

    def value(self, scores: Mapping[int, float]) -> float:
        """The objective: the scores of all seeds as one number.

        It is infinite, in the worse direction, if a score is not finite.

        Args:
            scores: seed -> score.
        """
        mean, _, (worst, _) = self.sum_up(scores)
        value = {"mean": mean, "worst": worst, "mean_and_worst": mean / 2 + worst / 2}
        if not math.isfinite(mean) or not math.isfinite(worst):
            return -math.inf if self.higher_is_better else math.inf
        return value[self.objective]

    def noted(self) -> dict[str, Any]:
        """The plan as the study keeps it."""
        space = {
            each.flag: {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in vars(each).items()
                if name not in ("flag", "when")
            }
            | {"when": {flag: list(wanted) for flag, wanted in each.when.items()}}
            for each in self.space
        }
        plan = {
            "fit": read_settings(self.fit),
            "flags": list(self.flags),
            "name": self.name,
            "space": space,
            "metric": self.metric,
            "direction": "maximize" if self.higher_is_better else "minimize",
            "objective": self.objective,
            "seeds": list(self.seeds),
        }
        noted: dict[str, Any] = json.loads(json.dumps(plan, default=str))  # a date, for one
        return noted


def _points(space: Sequence[Parameter]) -> Iterator[dict[str, Value]]:
    """Points of a space in which each parameter has each of its ends, or of its choices, once."""
    known = {each.flag: each for each in space}
    for each in space:
        for value in each.ends():
            wanted: dict[str, Value] = {each.flag: value}
            for name in reversed(known):  # what a flag depends on stands before it
                if name in wanted:
                    wanted.update({f: v[0] for f, v in known[name].when.items() if f not in wanted})
            point: dict[str, Value] = {}
            for other in space:
                if other.asked(point):
                    point[other.flag] = wanted.get(other.flag, other.ends()[0])
            yield point


def check_flags(arguments: Sequence[str], space: Sequence[Parameter]) -> None:
    """Check that ``memnets fit`` knows all flags of a sweep, and takes the values of its space.

    Nothing is built, so values that only do not go together are not found.

    Args:
        arguments: of ``memnets fit``, without the space.
        space: the parameters.

    Raises:
        ValueError: a flag is not known, or does not take a value.
        UsageError: the same, of the arguments without the space.
    """
    from jsonargparse import ArgumentError

    from memnets.app.run import CLI
    from memnets.app.trust import check_parts, strict_parsing

    class Parsed(CLI):
        """A training that is parsed and not run."""

        def instantiate_classes(self) -> None:
            """Build nothing."""

    strict_parsing()
    seed = os.environ.get("PL_GLOBAL_SEED")
    try:
        with ExitStack() as held:
            parser = Parsed("fit", list(arguments), held).parser
    except ArgumentError as error:
        raise UsageError(f"memnets fit: {one_line(str(error))}") from error
    finally:
        if seed is None:
            os.environ.pop("PL_GLOBAL_SEED", None)  # Lightning sets it for its further processes
    tried: set[tuple[str, ...]] = set()
    for point in _points(space):
        flags = flags_of(point)
        if tuple(flags) in tried:
            continue
        tried.add(tuple(flags))
        try:
            check_parts(parser.parse_args([*arguments, *flags]).as_dict())
        except (ArgumentError, ValueError, TypeError) as error:
            raise ValueError(f"space, {' '.join(flags)}: {one_line(str(error))}") from error
