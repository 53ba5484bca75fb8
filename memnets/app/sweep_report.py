"""The report of a sweep: a table of its best trials, pictures, and the best config."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from memnets.app.markdown import table
from memnets.app.space import FAILED, SCORES, SECONDS, Parameter, Plan, Value, text_of
from memnets.files import read_settings, write_atomically
from memnets.viewing import names, plots

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

__all__ = ["shown", "write_report"]

#: Most trials of the table, and of those that failed.
_MOST, _MOST_FAILED = 10, 5
#: Least trials that ran to their end from which the importance of settings is computed.
_LEAST = 5
#: Settings of a run that are no part of the best config: where it lay, its seed and its threads.
_LEFT_OUT = ("runs", "seed_everything", "threads")
_OBJECTIVES = {
    "mean": "the mean of the seeds",
    "worst": "the worst of the seeds",
    "mean_and_worst": "half the mean and half the worst of the seeds",
}


def write_report(plan: Plan, study: Study, command: str) -> None:
    """Write ``sweep.md``, its pictures, and ``best.yaml``, from the study and the runs alone.

    Args:
        plan: the sweep.
        study: its study.
        command: what the report says it was made by.
    """
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    by_state = {state: [trial for trial in trials if trial.state == state] for state in TrialState}
    complete, pruned = by_state[TrialState.COMPLETE], by_state[TrialState.PRUNED]
    failed, running = by_state[TrialState.FAIL], by_state[TrialState.RUNNING]
    sign = -1 if plan.higher_is_better else 1
    ranked = sorted(
        (trial for trial in complete if math.isfinite(trial.value or 0)),
        key=lambda trial: (sign * (trial.value or 0), trial.number),
    )
    direction = "higher" if plan.higher_is_better else "lower"
    seeds = ", ".join(map(str, plan.seeds))
    text = [f"# Sweep of {plan.name}", ""]
    text += [f"`{plan.metric}`, {direction} is better, by `{command}`. The objective is"]
    text += [
        f"{_OBJECTIVES[plan.objective]}: {seeds}."
        if len(plan.seeds) > 1
        else f"the score of seed {seeds}."
    ]
    text += [
        f"{len(trials)} trials: {len(complete)} ran to their end, {len(pruned)} were pruned, "
        f"{len(failed)} failed" + (f", {len(running)} go on." if running else ".")
    ]
    if ranked:
        text += ["", *_best(plan, ranked[0], len(trials))]
        text += ["", *_table(plan, ranked)]
    text += _pictures(plan, study, complete, pruned, failed)
    if failed:
        text += ["", "## Failed", ""]
        text += [f"- trial {t.number}: {t.user_attrs.get(FAILED)}" for t in failed[:_MOST_FAILED]]
        if len(failed) > _MOST_FAILED:
            text += [f"- and {len(failed) - _MOST_FAILED} more"]
    path = plan.folder / "sweep.md"
    write_atomically(path, lambda file: file.write(("\n".join(text) + "\n").encode()))
    if ranked:
        print(
            f"The best of {len(trials)} trials is trial {ranked[0].number}: {ranked[0].value:.4g}"
        )
        print(f"To train it: {_command(plan)}")
    print(f"The report is in {path}")


def _command(plan: Plan) -> str:
    return shlex.join(["memnets", "fit", "--config", str(plan.folder / "best.yaml")])


def _best(plan: Plan, best: FrozenTrial, count: int) -> list[str]:
    """Write ``best.yaml``, the whole config of the best trial; says so."""
    path = plan.folder / "best.yaml"
    found = plan.run(best.number, plan.seeds[0], best.params).finished()
    if found is None or not (found[0] / "config.yaml").is_file():
        return [f"The best is trial {best.number}; its runs are gone, and so is its config."]
    settings = {
        name: value
        for name, value in read_settings(found[0] / "config.yaml").items()
        if name not in _LEFT_OUT
    }
    head = [f"The best of {count} trials of a sweep, trial {best.number}: "]
    head[0] += f"{plan.metric} {best.value:.4g}, {_OBJECTIVES[plan.objective]}"
    head += [f"{flag}: {text_of(value)}" for flag, value in best.params.items()]
    # A text of several lines would end the comment.
    comment = "".join(f"# {' '.join(line.split())}\n" for line in head)
    content = comment + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    write_atomically(path, lambda file: file.write(content.encode()))
    return [
        f"The best is trial {best.number}; [best.yaml](best.yaml) is its config:",
        *("", "```sh", _command(plan), "```"),
    ]


def _table(plan: Plan, ranked: Sequence[FrozenTrial]) -> list[str]:
    """The best trials, a row each."""
    columns = ["trial", "objective", "mean", "worst (seed)"]
    columns += [f"`{each.flag}`" for each in plan.space] + ["seconds"]
    rows = []
    for trial in ranked[:_MOST]:
        scores = {int(seed): value for seed, value in trial.user_attrs.get(SCORES, {}).items()}
        mean, _, (worst, seed) = plan.sum_up(scores)
        cells = [str(trial.number), f"{trial.value:.4g}", f"{mean:.4g}", f"{worst:.4g} ({seed})"]
        for each in plan.space:
            cells.append(shown(trial.params[each.flag]) if each.flag in trial.params else "-")
        cells.append(f"{trial.user_attrs.get(SECONDS, math.nan):.0f}")
        rows.append(cells)
    title = f"The best {min(_MOST, len(ranked))} of those that ran to their end:"
    return [title, "", *table(columns, rows)]


def shown(value: Value) -> str:
    """A value of a flag, in four digits."""
    return f"{value:.4g}" if isinstance(value, float) else text_of(value)


def _pictures(
    plan: Plan,
    study: Study,
    complete: Sequence[FrozenTrial],
    pruned: Sequence[FrozenTrial],
    failed: Sequence[FrozenTrial],
) -> list[str]:
    """Draw what there is to draw; the lines of the report that show it."""
    if not complete and not pruned and not failed:
        return []
    name, unit, where = names.in_words(plan.metric)
    label = f"{name}, {where}" + (f"\n({unit})" if unit else "")
    course = plots.Course(
        {trial.number: _value(trial) for trial in complete},
        {trial.number: _value(trial) for trial in pruned},
        [trial.number for trial in failed],
        label,
        plan.higher_is_better,
    )
    lines = ["", "![The score of each trial, and the best so far](history.png)"]
    plots.history(course, plan.folder / "history.png", f"Trials of the sweep of {plan.name}")
    if course.best is not None:
        settings = [_setting(each, complete) for each in plan.space]
        title = f"The score by each setting of the sweep of {plan.name}"
        plots.slices(course, settings, plan.folder / "slices.png", title)
        lines += ["", "![The score by each setting](slices.png)"]
    shares = _importance(study, complete)
    if shares:
        title = f"How much each setting matters for the score of {plan.name}"
        plots.importance(shares, plan.folder / "importance.png", title)
        lines += ["", "![How much each setting matters](importance.png)"]
    return lines


def _value(trial: FrozenTrial) -> float:
    return math.nan if trial.value is None else trial.value


def _setting(each: Parameter, trials: Sequence[FrozenTrial]) -> plots.Setting:
    """A panel of the slices."""
    given = {t.number: t.params[each.flag] for t in trials if each.flag in t.params}
    if each.choices:
        texts = {number: text_of(value) for number, value in given.items()}
        return plots.Setting(each.flag, texts, choices=[text_of(one) for one in each.choices])
    return plots.Setting(each.flag, given, each.log)


def _importance(study: Study, complete: Sequence[FrozenTrial]) -> Mapping[str, float]:
    """The share of each setting; empty while there are too few trials."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    finite = [trial for trial in complete if math.isfinite(_value(trial))]
    if len(finite) < _LEAST or len({_value(trial) for trial in finite}) == 1:
        return {}
    evaluator: Any = PedAnovaImportanceEvaluator()
    return get_param_importances(study, evaluator=evaluator)
