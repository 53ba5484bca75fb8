"""The study of a sweep: what Optuna keeps of the trials, and what draws and stops them."""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse.typing import register_type

from memnets.app.messages import nearest, one_line
from memnets.app.space import Plan, grid_of, suggest
from memnets.files import load_yaml

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.study import Study

__all__ = [
    "EXHAUSTED",
    "FILES",
    "Part",
    "Sampler",
    "Storage",
    "SweepError",
    "check_plan",
    "maker",
    "opened",
    "quiet_optuna",
    "tell",
    "try_out",
]

Storage = Literal["sqlite", "journal"]

#: The name of the study, in a file of its own; a pruner draws from it, so it is always the same.
_STUDY = "sweep"
#: Files of the study.
FILES = {"sqlite": "study.db", "journal": "study.journal"}
#: What the study notes beside its trials: the plan; that the sampler has tried all there is.
_PLAN, EXHAUSTED = "plan", "exhausted"
#: Parts of a plan that may change as long as no trial has ended.
_CHANGEABLE = ("metric", "objective")
#: Samplers whose seed names a sequence, of which each trial takes one: it stays as it is.
_SEQUENCES = ("GridSampler", "QMCSampler")
#: Greatest seed of a sampler.
_MOST_SEED = 2**32


class Part:
    """A class of Optuna, or of your own, that makes a sampler or a pruner.

    Args:
        given: its path, or ``{class_path: ..., init_args: {...}}``; also as YAML.
    """

    # A type of its own: where a config and a flag both give a mapping, jsonargparse would take
    # them for the settings of one object.

    def __init__(self, given: str | Mapping[str, Any]) -> None:
        self.given: Any = load_yaml(given) if isinstance(given, str) else dict(given)
        if isinstance(self.given, str):
            self.given = {"class_path": self.given}

    def __repr__(self) -> str:
        # The help of the command shows it as a default.
        settings = self.given if isinstance(self.given, Mapping) else {}
        return str(settings.get("class_path", self.given))


register_type(Part, serializer=lambda part: part.given)


class SweepError(ValueError):
    """Error: a sweep cannot begin or go on, or no trial has a score."""


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Leave it to the sweep to say what happens."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="optuna")
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def maker(what: Literal["sampler", "pruner"], part: Part) -> Callable[..., Any]:
    """The maker of a sampler or a pruner: a function of further settings of its class.

    Raises:
        ValueError: there is no such class, or it does not take its settings.
    """
    import optuna

    base: Any = {"sampler": optuna.samplers.BaseSampler, "pruner": optuna.pruners.BasePruner}[what]
    own = getattr(optuna, f"{what}s")
    given = dict(part.given) if isinstance(part.given, dict) else {}
    if not isinstance(given.get("class_path"), str) or given.keys() - {"class_path", "init_args"}:
        example = "TPESampler" if what == "sampler" else "MedianPruner"
        raise ValueError(
            f"{what} must be the path of a class, such as {own.__name__}.{example}, or "
            f"{{class_path: ..., init_args: {{...}}}}; got {part.given!r}"
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, what, required=True)
    if given["class_path"].rpartition(".")[2] == "GridSampler":
        # It has no default; see Sampler, which knows the grid.
        given["init_args"] = {"search_space": {}, **(given.get("init_args") or {})}
    try:
        config = parser.parse_object({what: given})
    except (ArgumentError, ValueError, TypeError) as error:
        module, _, name = given["class_path"].rpartition(".")
        if module in ("", own.__name__) and not hasattr(own, name):
            near = f"{own.__name__}.{nearest(name, own.__all__, 1)}"
            raise ValueError(
                f"{what}: there is no {given['class_path']}; did you mean {near}?"
            ) from error
        raise ValueError(one_line(str(error))) from error

    def make(**settings: Any) -> Any:
        changed = config.clone()
        for name, value in settings.items():
            changed[f"{what}.init_args.{name}"] = value
        return parser.instantiate(changed)[what]

    return make


class Sampler:
    """A sampler of Optuna, which draws the values of each trial.

    Each trial has a sampler of its own, whose seed depends on the number of the trial: so a sweep
    that was stopped draws the same values as one that was not.

    Args:
        plan: the sweep.
        part: class and settings.
        seed: of the sweep.

    Attributes:
        most: number of trials after which nothing is left to try; ``None`` = never.

    Raises:
        ValueError: there is no such class, or it does not take these settings.
    """

    def __init__(self, plan: Plan, part: Part, seed: int) -> None:
        if not 0 <= seed < _MOST_SEED:
            raise ValueError(f"seed must be in [0, 2^32); got {seed}")
        named = part.given if isinstance(part.given, dict) else {}
        path, given = str(named.get("class_path")), named.get("init_args") or {}
        if "seed" in given:
            raise ValueError("sampler: its seed is the setting seed of the sweep; give it there")
        self._make, self._seed, self._name = maker("sampler", part), seed, path.rpartition(".")[2]
        self._settings: dict[str, Any] = {}
        self.most: int | None = None
        if self._name == "GridSampler":
            grid = given.get("search_space") or grid_of(plan.space)
            self._settings["search_space"] = grid
            self.most = math.prod(map(len, grid.values()))
        if "seed" in inspect.signature(type(self._make(**self._settings))).parameters:
            self._settings["seed"] = seed

    def of(self, number: int) -> BaseSampler:
        """The sampler of a trial."""
        settings = dict(self._settings)
        if "seed" in settings and self._name not in _SEQUENCES:
            # Any two of them differ, also those of neighbours and of other sweeps.
            drawn = np.random.SeedSequence([self._seed, number]).generate_state(1)
            settings["seed"] = int(drawn[0])
        sampler: BaseSampler = self._make(**settings)
        return sampler


def try_out(plan: Plan, sampler: Sampler, pruner: BasePruner | None) -> None:
    """Check on a study in memory that sampler, pruner and space go together.

    Raises:
        ValueError: they do not, or a package is missing.
    """
    import optuna

    study = optuna.create_study(pruner=pruner)
    try:
        for number in range(2):
            study.sampler = sampler.of(number)
            trial = study.ask()
            suggest(plan.space, trial)
            trial.report(0.0, 1)
            trial.should_prune()
            tell(study, trial.number, float(number))
    except ImportError as error:
        missing = error.name or one_line(str(error))
        raise ValueError(
            f"sampler or pruner: {missing} is not installed, which it needs"
        ) from error
    except Exception as error:  # whatever a sampler of any library raises
        raise ValueError(f"sampler or pruner: {one_line(str(error))}") from error


def tell(study: Study, number: int, value: float | None, pruned: bool = False) -> bool:
    """End a trial; says whether the sampler has nothing left to try.

    Args:
        study: the study.
        number: of the trial.
        value: its objective; ``None`` = it has none.
        pruned: whether it was stopped early, else it failed.
    """
    from optuna.trial import TrialState

    ended = TrialState.PRUNED if pruned else TrialState.FAIL
    try:
        study.tell(number, value, TrialState.COMPLETE if value is not None else ended)
    except RuntimeError as error:
        # A sampler that has been through all values stops the study, which outside of
        # Study.optimize is this error; the trial has been told by then.
        if "Study.stop" not in str(error):
            raise
        return True
    return False


@contextmanager
def opened(plan: Plan, storage: Storage) -> Iterator[Study]:
    """The study of a folder; a new one, if there is none.

    Raises:
        SweepError: it is damaged, or kept in another way.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    other = next((kind for kind in FILES if kind != storage), "")
    if (plan.folder / FILES[other]).exists():
        raise SweepError(
            f"the sweep in {plan.folder} is kept as {other}; give storage {other}, "
            "or another folder of runs"
        )
    path = plan.folder / FILES[storage]
    kept: BaseStorage | None = None
    try:
        if storage == "sqlite":
            kept = optuna.storages.RDBStorage(f"sqlite:///{path}")
        else:
            kept = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(
            storage=kept,
            study_name=_STUDY,
            direction="maximize" if plan.higher_is_better else "minimize",
            pruner=optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        study.get_trials(deepcopy=False)
    except Exception as error:  # of the database, or of whatever reads the file
        _closed(kept)
        reason = one_line(str(error)).partition(" [SQL")[0]
        raise SweepError(
            f"expected the study of a sweep at {path}; the file is damaged or of another kind "
            f"({reason[:200]})"
        ) from error
    try:
        yield study
    finally:
        _closed(kept)


def _closed(storage: Any) -> None:
    """Close the connection to a database."""
    if hasattr(storage, "engine"):
        storage.remove_session()
        storage.engine.dispose()


def check_plan(plan: Plan, study: Study) -> None:
    """Check that a study is of this plan, and note the plan in a new one.

    Raises:
        SweepError: the study began with other settings.
    """
    now, before = plan.noted(), study.user_attrs.get(_PLAN)
    if before is not None:
        ended = any(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
        free = () if ended else _CHANGEABLE
        changed = [
            line for line in _differences(before, now) if line.partition(" was ")[0] not in free
        ]
        if changed:
            more = f", and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise SweepError(
                f"the sweep in {plan.folder} began with other settings: "
                f"{'; '.join(changed[:3])}{more}; give those, or another folder of runs"
            )
    if now != before:
        study.set_user_attr(_PLAN, now)


_NOTHING = object()


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Settings in which two plans differ, with both values, a line each."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            below = f"{name}, {key}" if name == "space" else f"{name}.{key}".strip(".")
            yield from _differences(before.get(key, _NOTHING), now.get(key, _NOTHING), below)
    elif before != now:
        told = ["not there" if value is _NOTHING else str(value)[:80] for value in (before, now)]
        yield f"{name} was {told[0]}, now {told[1]}"
