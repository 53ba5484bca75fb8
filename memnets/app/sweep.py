"""Sweeps: the flags of ``memnets fit`` that give the best score, searched by Optuna.

A trial is a training with its own values of some flags, by several seeds. The study, which is all
that Optuna knows of the trials, lies in the folder of the runs, so a sweep that was stopped goes
on. The runs of a trial are ordinary ones, in ``trial_<n>/seed_<s>/<task>/<model>/``.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from memnets.app import executors
from memnets.app.commands import OPTIONS
from memnets.app.configs import find_config
from memnets.app.listing import keep_index
from memnets.app.messages import nearest, one_line
from memnets.app.options import call, parser_of
from memnets.app.seeds import DamagedRun, Run, check_seeds, checked_name, folder_of
from memnets.app.space import (
    FAILED,
    OWN,
    SCORES,
    SECONDS,
    Objective,
    Plan,
    check_flags,
    read_space,
    suggest,
)
from memnets.app.study import (
    EXHAUSTED,
    FILES,
    Part,
    Sampler,
    Storage,
    SweepError,
    check_plan,
    maker,
    opened,
    quiet_optuna,
    tell,
    try_out,
)
from memnets.app.sweep_report import shown, write_report
from memnets.checks import check_positive, check_threads
from memnets.extras import check_extra
from memnets.files import read_settings
from memnets.records import read_curve, versions
from memnets.viewing import names

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

__all__ = ["Plan", "SweepError", "parser", "run_sweep", "sweep"]

Direction = Literal["minimize", "maximize"]

_TPE = Part("optuna.samplers.TPESampler")
#: A sweep ends when so many trials, and all so far, have failed.
_MOST_FAILED = 3
#: Seconds between two looks at the validations of trainings; one that ends is seen at once.
_PAUSE = 1.0
#: The last line of a training whose loss or gradient was not finite.
_DIVERGED = re.compile(r"became (nan|-?inf) at step")


def sweep(
    fit: str,
    space: dict[str, Any],
    metric: str,
    direction: Direction | None = None,
    objective: Objective = "mean_and_worst",
    seeds: tuple[int, ...] = (0, 1),
    trials: int = 20,
    sampler: Part = _TPE,
    pruner: Part | None = None,
    seed: int = 0,
    flags: tuple[str, ...] = (),
    name: str | None = None,
    runs: str | None = None,
    storage: Storage = "sqlite",
    processes: int | None = None,
    executor: Executor | None = None,
    threads: int = 1,
    report_only: bool = False,
    command: str = "memnets sweep",
) -> None:
    """Search the flags of ``memnets fit`` that give the best score, and write a report.

    Each seed of a trial is a ``memnets fit`` in a process of its own, in
    ``<runs>/trial_<n>/seed_<s>/<task>/<model>/``; what it prints goes to ``fit.log`` there. The
    first seed of a trial leads: the others begin when it has ended and was not pruned. A sweep that
    was stopped goes on: finished trials are never repeated, and others go on where they were. With
    more ``trials`` than before it goes on from there. With one process, the same settings give the
    same trials.

    In ``<runs>`` are the report, ``sweep.md``, its pictures, and ``best.yaml``, the config of the
    best trial for ``memnets fit``.

    Args:
        fit: the config that is trained, by its name or path.
        space: for each flag that is varied, such as ``model.optimizer.lr``, its values:
            ``{type: float, low: 0.0001, high: 0.01, log: true}``; the same with ``type: int``;
            ``step`` in place of ``log``; or ``{choices: [...]}``. With ``when: {flag: value}`` it
            is given only when a flag before it has this value, or one of a list.
        metric: the score, by its name in ``metrics.json``: ``val/...`` is of the last validation,
            such as ``val/loss``; ``test/...`` is of the best checkpoint.
        direction: whether the lowest or the highest score is best; it may be left out for scores
            that the library knows.
        objective: one number from the scores of the seeds: their mean, the worst of them, or half
            the sum of both.
        seeds: seeds of the weights and of the data; every trial trains once with each.
        trials: number of trials; those that are pruned or fail count too.
        sampler: class of ``optuna.samplers``, with its settings; it draws the values.
        pruner: class of ``optuna.pruners``, with its settings; it stops bad trials early by their
            validations. Steps are those of the training. By default no trial is stopped.
        seed: seed of the sampler.
        flags: further flags of every training, such as ``--trainer.max_steps=1000``.
        name: ``<task>/<model>`` of the runs; that of the config if not given.
        runs: the folder of the sweep; ``runs/sweeps/<task>/<model>`` if not given.
        storage: how the study is kept: ``sqlite``; or ``journal``, for a network file system.
        processes: how many trainings run at once; if not given, as many as there are cores here
            for their threads, and at least one.
        executor: runs the trainings: ``submitit``, on Slurm; ``dask``; or the class path of an
            executor with the interface of ``concurrent.futures``. If not given, ``processes`` of
            this machine.
        threads: number of PyTorch's threads of each training.
        report_only: train nothing.
        command: command that the report names.

    Raises:
        ValueError: a setting is out of its range, or a config is missing or damaged.
        FolderInUse: another sweep is at work in this folder.
        SweepError: a sweep with other settings began in this folder; all trials failed; trials were
            stopped; or runs have no such score.
        MissingExtra: Optuna is not installed.
    """
    check_extra("sweeps", "memnets sweep", "optuna")
    check_threads(threads)
    processes = executors.most_here(threads) if processes is None else processes
    check_positive(processes=processes, trials=trials)
    plan = _plan(fit, space, metric, direction, objective, seeds, flags, name, runs, threads)
    with quiet_optuna():
        if report_only:
            if not (plan.folder / FILES[storage]).is_file():
                raise SweepError(f"expected a sweep in {plan.folder}; there is none")
            with opened(plan, storage) as study:
                check_plan(plan, study)
                write_report(plan, study, command)
            return
        drawn = Sampler(plan, sampler, seed)
        stopping = None if pruner is None else maker("pruner", pruner)()
        if stopping is not None and not metric.startswith("val/"):
            raise ValueError(
                f"a pruner looks at validations, so its metric must be val/...; got {metric}"
            )
        try_out(plan, drawn, stopping)
        check_flags(plan.common(), plan.space)
        trials = min(trials, drawn.most or trials)
        executor = executor or executors.processes(processes)
        with (
            executors.trainings(plan.folder, executor, "sweep") as jobs,
            opened(plan, storage) as study,
        ):
            check_plan(plan, study)
            if stopping is not None:
                study.pruner = stopping
            search = _Search(plan, study, drawn, jobs, trials, stopping is not None)
            try:
                search.go(processes)
            finally:
                write_report(plan, study, command)
                keep_index(plan.folder)
            search.check()


def _plan(
    fit: str,
    space: Mapping[str, Any],
    metric: str,
    direction: Direction | None,
    objective: Objective,
    seeds: tuple[int, ...],
    flags: tuple[str, ...],
    name: str | None,
    runs: str | None,
    threads: int,
) -> Plan:
    """Settings that can be used.

    Raises:
        ValueError: one cannot.
    """
    path = find_config(fit)
    name = checked_name(name or read_settings(path).get("name"), fit)
    check_seeds("seeds", seeds)
    if not re.fullmatch(r"(train|val|test)/.+", metric):
        raise ValueError(
            f"metric must be a name in metrics.json, such as val/loss or test/loss; got {metric!r}"
        )
    higher = direction == "maximize" if direction else names.higher_is_better(metric)
    if higher is None:
        raise ValueError(f"give direction, minimize or maximize: {metric} is not a known score")
    for flag in flags:
        option = re.match(r"--([^=.]+)", flag)
        if option is None or option[1] in OWN or option[1] not in OPTIONS["fit"]:
            raise ValueError(
                "flags must be flags of memnets fit that the sweep does not set itself, such as "
                f"--trainer.max_steps=1000; got {flag}"
            )
    folder = folder_of("runs", Path("runs", "sweeps", name) if runs is None else runs)
    parameters = read_space(space)
    return Plan(path, flags, name, parameters, metric, higher, objective, seeds, folder, threads)


# The search.


class _Active:
    """A trial at work.

    Attributes:
        trial: the trial of the study.
        values: of its flags.
        waiting: runs that have not begun, in their order.
        first: the run of the first seed, which leads.
        scores: seed -> score, of the runs that have ended.
        seconds: of training, of the same.
        reported: steps at which the study knows the score of the first seed.
        stopped: whether a run of it was stopped before its end: the next sweep goes on with it.
        ended: whether the study knows how it ended.
    """

    def __init__(self, plan: Plan, trial: Trial, reported: Iterable[int] = ()) -> None:
        self.trial = trial
        self.values = suggest(plan.space, trial)
        self.waiting = deque(plan.run(trial.number, seed, self.values) for seed in plan.seeds)
        self.first = self.waiting[0]
        self.scores: dict[int, float] = {}
        self.seconds = 0.0
        self.reported = set(reported)
        self.stopped = False
        self.ended = False

    def next(self) -> Run | None:
        """The run that may begin, if there is one: others wait for the first to end."""
        if self.ended or not self.waiting:
            return None
        run = self.waiting[0]
        return run if run is self.first or self.first.seed in self.scores else None

    def __str__(self) -> str:
        return f"trial {self.trial.number}"


class _Search:
    """A sweep at work: it asks the study for trials, has them trained, and tells it their scores.

    Args:
        plan: the sweep.
        study: its study.
        sampler: draws the values.
        jobs: has runs trained.
        trials: number of trials.
        prunes: whether bad ones are stopped early.
    """

    def __init__(
        self,
        plan: Plan,
        study: Study,
        sampler: Sampler,
        jobs: executors.Trainings,
        trials: int,
        prunes: bool,
    ) -> None:
        self.plan, self.study, self.sampler, self.jobs = plan, study, sampler, jobs
        self.trials, self.prunes = trials, prunes
        self.active: list[_Active] = []
        self.working: dict[Run, tuple[Future[executors.Outcome], _Active]] = {}
        self.console = Console(soft_wrap=True, highlight=False)
        from optuna.trial import TrialState

        known = study.get_trials(deepcopy=False)
        self.asked = len(known)
        self.exhausted = bool(study.user_attrs.get(EXHAUSTED))
        self.failed = [t.number for t in known if t.state == TrialState.FAIL]
        good = (TrialState.COMPLETE, TrialState.PRUNED)
        self.good = sum(trial.state in good for trial in known)
        self.left = [t for t in known if t.state == TrialState.RUNNING]
        values = [t.value for t in known if t.state == TrialState.COMPLETE and t.value is not None]
        self.best = (
            max(values, default=-math.inf)
            if plan.higher_is_better
            else min(values, default=math.inf)
        )

    def go(self, processes: int) -> None:
        """Run what is left of the trials, so many trainings at once.

        Raises:
            SweepError: a run has no such score.
            ValueError: the sampler cannot draw.
        """
        ended = self.asked - len(self.left)
        print(f"Trials to run: {max(0, self.trials - ended)} of {self.trials}")
        # A sweep that was killed leaves trials that run; their values and runs are used again.
        for frozen in self.left:
            self._take(frozen)
        with Progress(console=self.console, disable=not self.console.is_terminal) as bar:
            everything = bar.add_task("", total=self.trials, completed=ended)
            try:
                while True:
                    while len(self.working) < processes and self._begin():
                        pass
                    if not self.working:
                        break
                    at_work = [
                        f"{active}, seed {r.seed}" for r, (_, active) in self.working.items()
                    ]
                    ended = self._ended_count()
                    bar.update(everything, completed=ended, description="; ".join(at_work))
                    jobs = [job for job, _ in self.working.values()]
                    wait(jobs, _PAUSE, FIRST_COMPLETED)
                    self._look()
            finally:
                bar.update(everything, completed=self._ended_count(), description="")
                self.jobs.stop()

    def _ended_count(self) -> int:
        return self.asked - sum(not active.ended for active in self.active)

    def check(self) -> None:
        """Check that a sweep is at its end, and has found something.

        Raises:
            SweepError: trials were stopped, or none has a finite score.
        """
        stopped = [str(each) for each in self.active if each.stopped and not each.ended]
        if stopped:
            raise SweepError(
                f"trials stopped before their end: {', '.join(stopped)}; the same command goes on "
                "with them"
            )
        trials = self.study.get_trials(deepcopy=False)
        if any(t.state.name == "COMPLETE" and math.isfinite(t.value or 0) for t in trials):
            return
        if self.failed and not self.good:
            which = "all" if self.asked >= self.trials else "the first"
            last = trials[self.failed[-1]].user_attrs.get(FAILED)
            raise SweepError(f"{which} {len(self.failed)} trials failed; the last: {last}")
        raise SweepError(
            f"no trial has a finite score: of {len(trials)}, {len(self.failed)} failed, and the "
            "training of the others diverged, or was pruned"
        )

    # Trials.

    def _take(self, frozen: FrozenTrial) -> None:
        """Go on with a trial that runs according to the study."""
        import optuna

        self.study.sampler = self.sampler.of(frozen.number)
        # Optuna has no public way back to a trial that runs; Study.ask makes new ones alone.
        trial = optuna.trial.Trial(self.study, frozen._trial_id)
        active = _Active(self.plan, trial, frozen.intermediate_values)
        self.active.append(active)
        self.console.print(escape(f"{active}: goes on"))
        if active.reported and trial.should_prune():
            self._pruned(active)

    def _ask(self) -> None:
        """Begin a trial with values that the sampler draws."""
        self.study.sampler = self.sampler.of(self.asked)
        try:
            active = _Active(self.plan, self.study.ask())
        except Exception as error:  # whatever a sampler of any library raises
            raise ValueError(f"sampler: {one_line(str(error))}") from error
        self.asked += 1
        self.active.append(active)
        values = ", ".join(f"{flag} {shown(value)}" for flag, value in active.values.items())
        self.console.print(escape(f"{active}: {values}"))

    def _begin(self) -> bool:
        """Begin the next run; says whether there was one."""
        self.active = [active for active in self.active if not active.ended]
        for active in self.active:
            run = active.next()
            if run is not None:
                active.waiting.popleft()
                self._start(active, run)
                return True
        hopeless = len(self.failed) >= _MOST_FAILED and not self.good
        if self.asked >= self.trials or self.exhausted or hopeless:
            return False
        self._ask()
        return True

    def _start(self, active: _Active, run: Run) -> None:
        """Train a run, unless it is finished; one that was stopped goes on."""
        try:
            if run.finished() is not None:
                self._close(active, run)
            else:
                run.resumable()  # which finds damage
                self.working[run] = self.jobs.submit(run.command, run.root), active
        except DamagedRun as error:
            self._fail(active, str(error))

    def _look(self) -> None:
        """See how the trainings are: some have ended, others may be stopped."""
        for run, (job, active) in list(self.working.items()):
            if job.done():
                del self.working[run]
                outcome = self.jobs.outcome(job)
                if active.ended:
                    continue
                if outcome.stopped:
                    # It did not fail: in the study the trial runs, so it will go on.
                    active.stopped = True
                    self.console.print(escape(f"{active}, seed {run.seed}: stopped"))
                else:
                    log = f"{run.root / 'fit.log'} ({outcome.line})"
                    self._close(active, run, log if outcome.code else None)
            elif not active.ended and run is active.first and self._bad(active):
                self._pruned(active)

    def _close(self, active: _Active, run: Run, failure: str | None = None) -> None:
        """Note a run that has ended, and the end of its trial if it was the last.

        Args:
            active: the trial.
            run: the run.
            failure: its log, and why it failed; ``None`` = it did not.

        Raises:
            SweepError: it has no such score.
        """
        # First: whether a trial is pruned must not depend on how often it is looked at.
        if run is active.first and self._bad(active):
            self._pruned(active)
        if active.ended:
            return
        try:
            found = run.finished()
        except DamagedRun as error:
            self._fail(active, str(error))
            return
        if failure is not None and _DIVERGED.search(failure):
            active.scores[run.seed] = math.nan
        elif failure is not None or found is None:
            self._fail(active, failure or f"{run.root} has no finished run")
            return
        else:
            folder, metrics = found
            if self.plan.metric not in metrics:
                near = nearest(self.plan.metric, metrics, 3)
                raise SweepError(
                    f"expected the metric {self.plan.metric} in {folder / 'metrics.json'}, which "
                    f"has none of that name; near it: {near}"
                )
            active.scores[run.seed] = metrics[self.plan.metric]
            active.seconds += metrics.get("train/seconds", 0.0)
        diverged = not math.isfinite(active.scores[run.seed])
        if diverged or len(active.scores) == len(self.plan.seeds):
            self._complete(active)

    def _bad(self, active: _Active) -> bool:
        """Report the validations of the first seed; says whether the pruner would stop there."""
        if not self.prunes:
            return False
        folder = next(reversed(versions(active.first.root)), None)
        try:
            curve = [] if folder is None else read_curve(folder, self.plan.metric)
        except ValueError as error:
            self._fail(active, str(error))
            return False
        for step, score in curve:
            if step not in active.reported:
                active.reported.add(step)
                active.trial.report(score, step)
                if active.trial.should_prune():
                    return True
        return False

    # The end of a trial.

    def _complete(self, active: _Active) -> None:
        value = self.plan.value(active.scores)
        active.trial.set_user_attr(SCORES, {str(s): v for s, v in active.scores.items()})
        active.trial.set_user_attr(SECONDS, active.seconds)
        self.good += 1
        scores = ", ".join(f"seed {seed}: {score:.4g}" for seed, score in active.scores.items())
        better = value > self.best if self.plan.higher_is_better else value < self.best
        self.best = value if better else self.best
        said = f"{value:.4g} ({scores}){', the best so far' if better else ''}"
        self._end(active, said, value)

    def _pruned(self, active: _Active) -> None:
        self.good += 1
        self._end(active, f"pruned at step {max(active.reported)}", pruned=True)

    def _fail(self, active: _Active, reason: str) -> None:
        active.trial.set_user_attr(FAILED, reason)
        self.failed.append(active.trial.number)
        self._end(active, f"failed; see {reason}")

    def _end(
        self, active: _Active, said: str, value: float | None = None, pruned: bool = False
    ) -> None:
        """Tell the study how a trial ended, and stop what is left of it."""
        active.ended = True
        if tell(self.study, active.trial.number, value, pruned):
            self.exhausted = True
            self.study.set_user_attr(EXHAUSTED, True)
        self.console.print(escape(f"{active}: {said}"))
        for job, other in self.working.values():
            if other is active:
                self.jobs.cancel(job)


# The command.


def parser() -> ArgumentParser:
    """The parser of the command."""
    return parser_of(sweep, "sweeps/copying", report="the report")


def run_sweep(arguments: list[str]) -> None:
    """Search and report: see ``memnets sweep --help``."""
    call(sweep, parser(), arguments, "sweeps/copying")
