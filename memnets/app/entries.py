"""The contents of a board: entries one by one, or a grid of tasks and models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Entry", "Grid", "GridModel", "GridTask", "Pair", "Published", "Score"]


@dataclass(frozen=True)
class Score:
    """A score to show.

    Attributes:
        metric: its name in ``metrics.json``.
        higher_is_better: which seed is best.
        published: what others reached.
        source: who, where, and after how much training.
        label: its name and unit in the picture; by default in the words of
            :mod:`memnets.viewing.names`.
    """

    metric: str
    higher_is_better: bool = False
    published: float | None = None
    source: str = ""
    label: str = ""


@dataclass(frozen=True)
class Entry:
    """A task and a model, to be trained with several seeds.

    Attributes:
        config: what ``memnets fit --config`` is given, a name or a path.
        scores: what to show of its runs.
        seeds: one run each.
        flags: further flags of ``memnets fit``, such as ``--trainer.max_steps=1000``.
        name: ``<task>/<model>``, of which each entry needs its own; that of the config if not
            given.
        importance: entries of a higher one are trained before all others. Among equals, all first
            seeds come before all second ones.
    """

    config: str
    scores: tuple[Score, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    flags: tuple[str, ...] = ()
    name: str | None = None
    importance: float = 0


@dataclass(frozen=True)
class Published:
    """A score that others reached.

    Attributes:
        score: the score, in the unit of the grid's metric.
        source: who, where, by which protocol.
        confirmed: whether the number was read in its source; one that was not is marked by ``?``.
    """

    score: float
    source: str = ""
    confirmed: bool = True


@dataclass(frozen=True)
class GridModel:
    """A column of a grid: a model, by a config that any of the tasks can be given to.

    Attributes:
        config: what ``memnets fit --config`` is given, such as ``symbols/lstm``.
        title: name in tables and pictures; by default its name in the grid.
        about: what it is, in a sentence.
        flags: further flags of ``memnets fit`` in the whole column.
        importance: see :class:`Entry`; that of a pair is the sum of its model's and its task's.
    """

    config: str
    title: str = ""
    about: str = ""
    flags: tuple[str, ...] = ()
    importance: float = 0


@dataclass(frozen=True)
class GridTask:
    """A row of a grid: a task, by its class and its settings.

    Attributes:
        data: class path of the task, such as ``tasks.symbols.GroupWords``.
        settings: settings of the task by name, such as ``{group: S5}``.
        title: name in tables and pictures; by default its name in the grid.
        chance: score of an answer by chance, where the colours of the picture begin; ``None`` = it
            is not known, and they begin at 0.
        about: the question and its answer, in a sentence or two; Markdown.
        tried: notes on what was tried, for the page of the task; Markdown.
        published: what others reached, by the name of the model in the grid.
        flags: further flags of ``memnets fit`` in the whole row.
        importance: see :class:`GridModel`.
    """

    data: str
    settings: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    chance: float | None = None
    about: str = ""
    tried: str = ""
    published: dict[str, Published] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    importance: float = 0


@dataclass(frozen=True)
class Pair:
    """Exceptions of one cell of a grid.

    Attributes:
        seeds: in place of the grid's, such as five where it decides.
        flags: further flags of ``memnets fit``, behind all others.
        importance: in place of the sum of model and task.
        left_out: whether the pair is not trained; the cell says so.
        note: a line for the page of the task, such as why.
    """

    seeds: tuple[int, ...] | None = None
    flags: tuple[str, ...] = ()
    importance: float | None = None
    left_out: bool = False
    note: str = ""


@dataclass(frozen=True)
class Grid:
    """A board of all pairs of some tasks and some models, each trained as ``<task>/<model>``.

    Attributes:
        models: the columns, by name.
        tasks: the rows, by name.
        metric: name of the score in ``metrics.json``; higher is better. Runs that also have
            ``<metric>_<n>``, or the same score of test sets ``length_<n>``, get curves over n.
        label: the score in words, for the picture.
        seeds: one run each.
        flags: flags of ``memnets fit`` for all runs, before those of models, tasks and pairs.
        pairs: exceptions, by ``<task>/<model>``.
        title: title of the page.
        about: text at the top of the page; Markdown.
        trained_to: greatest n of the training, shaded in the curves; 0 = none.
    """

    models: dict[str, GridModel] = field(default_factory=dict)
    tasks: dict[str, GridTask] = field(default_factory=dict)
    metric: str = ""
    label: str = ""
    seeds: tuple[int, ...] = (0, 1, 2)
    flags: tuple[str, ...] = ()
    pairs: dict[str, Pair] = field(default_factory=dict)
    title: str = "Results"
    about: str = ""
    trained_to: int = 0

    def __bool__(self) -> bool:
        """Whether it has anything."""
        return bool(self.models or self.tasks)

    def pair(self, task: str, model: str) -> Pair:
        """The exceptions of a pair; none by default."""
        return self.pairs.get(f"{task}/{model}", Pair())

    def title_of(self, name: str) -> str:
        """Title of a task or of a model by its name in the grid."""
        each = self.tasks[name] if name in self.tasks else self.models[name]
        return each.title or name.replace("_", " ")

    def entries(self) -> Iterator[Entry]:
        """An entry for each pair that is not left out, in the order of the rows.

        Raises:
            ValueError: the grid has no task, no model or no metric, or it names one of these that
                it does not have.
        """
        if not self.models or not self.tasks:
            raise ValueError("a grid needs at least one model and one task; got none")
        if not self.metric:
            raise ValueError("a grid needs a metric, such as test/longer/accuracy; got none")
        both = sorted(set(self.models) & set(self.tasks))
        if both:
            raise ValueError(f"a task and a model of a grid need two names; got {both[0]} for both")
        pairs = {f"{task}/{model}" for task in self.tasks for model in self.models}
        _check_known("pairs", self.pairs, pairs)
        for name, task in self.tasks.items():
            _check_known(f"published of {name}", task.published, self.models)
            if task.chance is not None and not 0 <= task.chance < 1:
                raise ValueError(f"chance of {name} must be in [0, 1); got {task.chance}")
            for model_name, model in self.models.items():
                pair = self.pair(name, model_name)
                if pair.left_out:
                    continue
                usual = task.importance + model.importance
                of_task = [f"--data.{key}={_written(each)}" for key, each in task.settings.items()]
                yield Entry(
                    model.config,
                    (Score(self.metric, higher_is_better=True),),
                    self.seeds if pair.seeds is None else pair.seeds,
                    (
                        f"--data={task.data}",
                        *self.flags,
                        *of_task,
                        *model.flags,
                        *task.flags,
                        *pair.flags,
                    ),
                    f"{name}/{model_name}",
                    usual if pair.importance is None else pair.importance,
                )


def _written(value: Any) -> str:
    """A setting as the value of a flag."""
    return value if isinstance(value, str) else json.dumps(value)


def _check_known(what: str, named: Mapping[str, Any], known: Any) -> None:
    unknown = sorted(set(named) - set(known))
    if unknown:
        raise ValueError(
            f"{what} must name what is in the grid, such as {min(known)}; got {unknown[0]}"
        )
