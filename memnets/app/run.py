"""``memnets fit | validate | test | predict``: a run, from its settings to its folder.

Lightning's command line parses the settings (:mod:`memnets.app.settings`) and builds the parts.
This module adds the folder of a run, checkpoints with their config, and a test after each training.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.callbacks import ProgressBar as AnyProgressBar
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies.launchers import subprocess_script
from pytorch_lightning.utilities import rank_zero_only

from memnets.app.beside import changed_settings, make_folder, tested_checkpoint
from memnets.app.checkpoints import file_of, read, restore_task, start_from
from memnets.app.checks import check_compiler, check_trainer
from memnets.app.decisive import decides_run
from memnets.app.keeping import (
    OPTIMIZER,
    Changed,
    SaveConfig,
    Stopping,
    TensorBoard,
    Watching,
    best_and_last,
    queue_again,
    quiet_threads,
)
from memnets.app.listing import keep_index
from memnets.app.predict import answer_file, write_answers
from memnets.app.processes import Children, ProcessLost, lost, rank, says_errors
from memnets.app.progress import ProgressBar
from memnets.app.settings import Settings, folder_of, say
from memnets.app.stopping import QUEUE_AGAIN, Stopped
from memnets.app.trust import check_parts, strict_parsing
from memnets.checks import check_threads
from memnets.files import NotWritten, load_yaml, only_writer
from memnets.records import read_metrics
from memnets.training.processes import splits_weights
from memnets.training.report import Report
from memnets.training.runs import (
    AtomicCheckpointIO,
    CheckpointError,
    CSVTable,
    Origin,
    changes,
    check_name,
    check_optimizer_state,
    check_same_model,
    last_version,
    load_checkpoint,
    next_version,
)
from memnets.viewing.live import LivePictures
from memnets.viewing.pictures import Pictures
from memnets.viewing.watch import WatchTest
from tasks import Task

__all__ = ["CLI", "run"]


def run(command: str, arguments: list[str]) -> None:
    """Run a command of a trainer: fit, validate, test or predict.

    Raises:
        Stopped: a signal came, or the time was over; a training then has the exit code that asks
            for it to be queued again, except after Ctrl-C.
        Exception: any error of the parser, the parts or the trainer.
    """
    strict_parsing()
    if rank():
        lightning: Any = rank_zero_only
        lightning.rank = rank()  # which it would learn late on another machine
    try:
        with ExitStack() as held:
            CLI(command, arguments, held).run()
    except BaseException as error:
        stopped = Stopped.behind(error)
        if command != "fit" or stopped is None or stopped.signum == signal.SIGINT:
            raise
        raise Stopped(stopped.signum, str(stopped), QUEUE_AGAIN) from error


class CLI(Settings):
    """Lightning's command line for one command: it builds the parts; :meth:`run` does the rest.

    Args:
        command: fit, validate, test or predict.
        arguments: arguments behind the command.
        held: keeps the lock of the run's folder, and removes a folder that stays empty.

    Attributes:
        folder: folder of the run; ``None`` before it is known, and in a dry run.
        finished: the reason if there is nothing to do.
    """

    def __init__(self, command: str, arguments: list[str], held: ExitStack) -> None:
        self.held = held
        self.folder: Path | None = None
        self.finished: str | None = None
        self._beside: Path | None = None  # where a test goes that is not the run's own
        self._resumed_step: int | None = None
        self._processes: int | None = None  # of the run that goes on
        self._changed: list[tuple[str, Any, Any]] = []
        self._best: ModelCheckpoint | None = None
        self._may_begin = False
        self._children = Children()
        super().__init__(command, arguments)

    # From settings to parts.

    def instantiate_classes(self) -> None:
        """Find the run's folder, then make model, data and trainer."""
        check_parts(self.config.as_dict())
        check_name(self.config["name"])
        check_threads(self.config["threads"])
        torch.set_num_threads(self.config["threads"])
        check_trainer(self.config["trainer"])
        path = self._settle_checkpoint(self.config["ckpt_path"])
        if path is not None and self.command != "fit":
            self.folder = folder_of(path)
            self._saved = read(path)
        elif path is not None:
            self._go_on(path)
        if self.finished is None:
            try:
                super().instantiate_classes()
            except ValueError as error:
                # An error within a link of the parser, here of a task that reads its files, has a
                # message about the link around its own.
                if error.__cause__ is None or not str(error).startswith("Call to compute_fn"):
                    raise
                raise error.__cause__ from None
            if self.command == "fit" and self.config["compile"]:
                check_compiler()
                self.model.compile()

    def _settle_checkpoint(self, path: str | None) -> str | None:
        """The file that ``--ckpt_path`` names; ``None`` for ``auto`` where there is no run yet.

        Raises:
            CheckpointError: there is no run for ``last``, or no checkpoint in a folder.
        """
        fit = self.command == "fit"
        if path is None:
            return None
        if not fit or path not in ("last", "auto"):
            found: str | None = str(file_of(path, goes_on=fit))
        else:
            self._may_begin = path == "auto"
            try:
                found = str(last_version(self._root) / "checkpoints" / "last.ckpt")
            except CheckpointError:
                if not self._may_begin:
                    raise
                found = None
        self.config["ckpt_path"] = found
        return found

    def _go_on(self, path: str) -> None:
        """Resume from a checkpoint; in its run's folder, if it is the last one of this run.

        With other settings than those of the trainer, it becomes another run with a folder of its
        own, so that the results of the first stay unchanged.

        Raises:
            CheckpointError: the optimizer cannot use its state in the checkpoint.
        """
        self._saved = read(path)
        self._resumed_step = self._saved.content["global_step"]
        self._processes = self._saved.content.get("processes")
        if "config" in self._saved.content:
            self._changed = changes(self._saved.config, load_yaml(self._config_text()))
        for name, before, now in self._changed:
            if name == f"{OPTIMIZER}.class_path":
                raise CheckpointError(
                    f"{path} holds the state of {before}, with which {now} cannot go on; keep the "
                    f"optimizer, or start anew from the weights alone: --init_from={path}"
                )
        other = any(decides_run(name) for name, *_ in self._changed)
        if Path(path).name != "last.ckpt" or other or self._dry:
            return
        self.folder = folder_of(path)
        self._hold()
        limit = _reached(self._saved.content, self.config["trainer"])
        tested = any(name.startswith("test/") for name in read_metrics(self.folder))
        if limit is not None and tested:
            self.finished = (
                f"{self.folder} is finished: it is at step {self._resumed_step}, and {limit}; "
                "nothing was changed; to train longer, give a greater limit"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Restore the checkpoint; add the loggers, checkpoints and report of every run.

        Args:
            kwargs: settings of the trainer that replace those of the config.
        """
        self._restore()
        if self.command == "fit":
            # A mistake in the files of the test would come to light after the training.
            for split in Task.splits(self.datamodule):
                self.datamodule.batches(split)
        self._is_new = self.folder is None
        if self.command != "fit":
            self._settle_place()
        elif self._is_new and not self._dry:
            # Only now, when every part of the run was made without error.
            self._make_folder()
        settings = {**self.config_init["trainer"], **kwargs}
        self._most_time: Any = None
        if self._saves(settings):
            # Lightning's limit is of a run, all of its commands together; ours, of this command.
            self._most_time, settings["max_time"] = settings.get("max_time"), None
        given = settings.get("callbacks") or []
        given = given if isinstance(given, list) else [given]
        settings["callbacks"] = [*given, *self._bar(settings, given), *self._callbacks(settings)]
        settings["logger"] = self._loggers(settings.get("logger"))
        if settings.get("plugins") is None:
            settings["plugins"] = [AtomicCheckpointIO()]
        if settings.get("default_root_dir") is None and self.folder is not None:
            settings["default_root_dir"] = self._place  # of whatever writes and has no other place
        trainer = super().instantiate_trainer(**settings)
        self._check_processes(trainer)
        return trainer

    @property
    def _place(self) -> Path:
        """Folder of the results: that of the run, or one beside the run's own results."""
        assert self.folder is not None
        return self._beside or self.folder

    def _settle_place(self) -> None:
        """Put the results beside those of the run, if they are not of its settings and checkpoint.

        Boards and lists are made from the scores of the run, which another test must not replace.
        """
        writes = self.command == "test" or (
            self.command == "predict" and self.config["input"] is None
        )
        if not writes:
            return
        assert self.folder is not None
        path = Path(self.config["ckpt_path"])
        run, here = self._config_of_run(), load_yaml(self._config_text())
        changed = changed_settings(run, here)
        own = tested_checkpoint(self.folder, run.get("test_weights", "best"))
        other = own is not None and own.resolve() != path.resolve()
        if not changed and not other:
            return
        self._beside = self.folder / "tests"
        if rank():
            return  # the first of several processes makes the folder and writes there
        self._beside, is_new = make_folder(self.folder, path.name, changed)
        if is_new:
            self.held.push(self._clear_beside)
        what = [*changed, *([f"the checkpoint, {path.name}"] if other else [])]
        say(f"Not as in the run: {', '.join(what)}; the results of the run in {self.folder} stay")

    def _clear_beside(self, error: type[BaseException] | None, *_: Any) -> None:
        """Remove the new folder of a test that failed."""
        if error is not None and self._beside is not None:
            shutil.rmtree(self._beside)
            with suppress(OSError):  # other tests, which stay
                self._beside.parent.rmdir()

    def _check_processes(self, trainer: Trainer) -> None:
        """Say it if another number of processes goes on; give each the threads of the settings.

        Raises:
            ValueError: torchrun has started more processes than the trainer knows.
        """
        now, started = trainer.world_size, int(os.environ.get("WORLD_SIZE", 1))
        if TorchElasticEnvironment.detect() and started != now:
            raise ValueError(
                f"torchrun has started {started} processes, and the trainer's settings are for "
                f"{now}: give --trainer.strategy=ddp, with --trainer.devices for the processes of "
                "a machine and --trainer.num_nodes for the machines"
            )
        if self._processes not in (None, now):
            say(
                f"Going on with {now} process{'es' * (now > 1)} in place of {self._processes}: a "
                f"step takes as many batches; none is left out or repeated, noise is drawn anew"
            )
        if now > 1:  # or Lightning would share out all cores
            os.environ["OMP_NUM_THREADS"] = str(self.config["threads"])

    def _restore(self) -> None:
        """Restore the parts of the checkpoint that the trainer does not restore, and report them.

        Raises:
            CheckpointError: the checkpoint does not fit.
        """
        start, fitting = self.config["init_from"], self.command == "fit"
        if self._saved is not None:
            check_same_model(self.model, self._saved.content, self._saved.path)
            if fitting:
                groups = [group for _, group in self.model.parameter_groups()]
                saved = self._saved
                check_optimizer_state(self.model.optimizer, groups, saved.content, saved.path)
            restore_task(self.datamodule, self._saved)
            if fitting:
                for name, before, now in self._changed:
                    flag = name.replace(".init_args", "").removesuffix(".class_path")
                    say(f"Changed since the run began: {flag} {before} -> {now}")
                say(f"Going on from step {self._resumed_step} of {self._saved.path}")
            self._saved = None  # the trainer reads it again; two copies need not be kept
        elif fitting and start is not None:
            say(start_from(self.model, self.datamodule, read(start)))
        sizes = {name: getattr(self.datamodule, name) for name in ("input_size", "output_size")}
        state = self.datamodule.state_dict()
        states = {type(self.datamodule).__qualname__: state} if state else {}
        self.model.origin = Origin(self._config_text(), sizes, states)

    def _saves(self, settings: dict[str, Any]) -> bool:
        """Whether the command saves checkpoints."""
        has_place = self.command == "fit" and self.folder is not None
        return has_place and settings.get("enable_checkpointing") is not False

    def _callbacks(self, settings: dict[str, Any]) -> list[Callback]:
        """Callbacks of every run."""
        self._watching = Watching()
        if self.folder is None:
            return [self._watching]
        place = self._place
        report = Report(place)
        pictures = Pictures(place / "pictures", format=self.config["pictures_format"])
        # Before the report, which says and lists what there is.
        pages = [WatchTest(place, self.config["view"])] if self.config["view"] else []
        if self.command != "fit":
            return [self._watching, *pages, report, pictures]
        # The pictures of a validation before the report, which stops its clock meanwhile.
        live = LivePictures(self.config["pictures_every"])
        callbacks: list[Callback] = [self._watching, live, *pages, report, pictures]
        self._config_file = SaveConfig(self.model.origin.config, self.folder, self._is_new)
        callbacks += [self._config_file, Changed([name for name, *_ in self._changed])]
        if self._saves(settings):
            monitor = self.model.monitor
            goes_on = self._resumed_step is not None and not self._is_new
            self._best, last = best_and_last(self.folder / "checkpoints", monitor, goes_on)
            callbacks += [self._best, last, Stopping(last, self._most_time)]
        return callbacks

    def _bar(self, settings: dict[str, Any], given: Sequence[Callback]) -> list[Callback]:
        """The progress bar on a terminal, unless the user has set one."""
        own = any(isinstance(callback, AnyProgressBar) for callback in given)
        if settings.get("enable_progress_bar") is None:
            settings["enable_progress_bar"] = own or sys.stderr.isatty()
        # First: it ends before the report says where things are.
        return [ProgressBar()] if settings["enable_progress_bar"] and not own else []

    def _make_folder(self) -> None:
        """Make the next folder; with several processes, the first one makes it and writes there."""
        self.folder = self._root
        if not rank():
            self.folder = next_version(self._root)
            self.held.push(self._clear_away)
            self._hold()
            if self._resumed_step is not None:
                print(f"What comes now is in {self.folder}; the run that it began with stays")

    def _loggers(self, given: Any) -> list[Logger]:
        """The loggers of a run: those that the user has set, or TensorBoard; and ``metrics.csv``.

        Args:
            given: the trainer's setting; ``False`` = none at all.
        """
        own = (
            [] if isinstance(given, bool | None) else given if isinstance(given, list) else [given]
        )
        if given is False or self.command != "fit" or self.folder is None or rank():
            return own
        if not own:
            where, version = self.folder.parent, self.folder.name
            own = [TensorBoard(where, name="", version=version, purge_step=self._resumed_step)]
        return [*own, CSVTable(self.folder, self._resumed_step)]

    # What the command does.

    def run(self) -> None:
        """Run the command; if it is stopped, report the state of the run and end all processes.

        Raises:
            Stopped: a signal came.
            Exception: any error of the trainer.
        """
        if self.finished is not None:
            say(self.finished)
            return
        listed = True
        # Lightning's own observer would kill this process too, before it has said a word.
        launcher: Any = subprocess_script
        launcher._launch_process_observer = self._children.observe
        try:
            with quiet_threads():
                getattr(self, f"_{self.command}")()
        except BaseException as last:
            error = self._watching.error or last  # what the trainer does after one may fail too
            gone = self.folder is not None and not os.path.isdir(self.folder)
            error = last if gone and isinstance(last, NotWritten) else error
            stopped = Stopped.behind(error)
            says = stopped is None and says_errors()
            # Whoever says why the run ends waits for no words of others.
            self._children.end(patience=0 if says and not lost(error) else 5)
            if stopped is not None:
                message = self._left(stopped.signum is None)
                # Only a command that finds its run by itself goes on when it is started once more.
                if self._may_begin and queue_again(self.trainer, stopped.signum):
                    message += "; Slurm has the job in its queue again"
                raise Stopped(stopped.signum, "" if rank() else message) from error
            if isinstance(error, NotWritten):
                listed = False  # that would fail too, and say so
                raise NotWritten(f"{error}; {self._left_whole()}") from error
            if says and lost(error):
                what = self._children.killed() or "another process of this run has ended"
                raise ProcessLost(f"{what}; {self._left()}") from error
            if error is last:
                raise
            raise error from None
        finally:
            if listed:
                self._list()

    @rank_zero_only
    def _list(self) -> None:
        """Write the page that lists all runs, if this one has left something."""
        runs = Path(self.config["runs"])
        inside = self.folder is not None and self.folder.parent.resolve() == self._root.resolve()
        if self.command in ("fit", "test") and inside and (self.command == "test" or self._began()):
            keep_index(runs)

    @property
    def _of_trainer(self) -> dict[str, Any]:
        """Arguments of the trainer's method."""
        return {name: self.config_init[name] for name in self.of_method}

    def _validate(self) -> None:
        self.trainer.validate(self.model, datamodule=self.datamodule, **self._of_trainer)

    def _test(self) -> None:
        self.trainer.test(self.model, datamodule=self.datamodule, **self._of_trainer)

    def _predict(self) -> None:
        if self.config["input"] is not None:
            if rank():
                return  # the first of several processes answers
            path = self.config["ckpt_path"]
            self.model.load_state_dict(load_checkpoint(path)["state_dict"])
            where = self.config["input"], self.config["output"]
            answer_file(self.model, self.datamodule, *where, self.config["chances"])
            return
        answers = self.trainer.predict(self.model, datamodule=self.datamodule, **self._of_trainer)
        if self.trainer.is_global_zero:
            assert answers is not None
            groups: Any = answers if len(self.datamodule.test_names()) > 1 else [answers]
            write_answers(self._place, self.datamodule, groups)

    def _fit(self) -> None:
        """Train, then test the best checkpoint, or the last weights."""
        self.trainer.fit(self.model, datamodule=self.datamodule, **self._of_trainer)
        if self.folder is None or self.trainer.interrupted:
            return
        tested = self._tested_checkpoint()
        self._config_file.write(self.trainer)
        if splits_weights(self.trainer):
            if tested:
                say(
                    "The processes shared the weights; to test them: memnets test --ckpt_path "
                    f"{tested} --trainer.strategy=auto --trainer.devices=1 --trainer.num_nodes=1"
                )
            return  # one process tests, which can draw too
        if tested and self.config["test_weights"] == "best":
            # Not by the trainer: after a training with averaged weights it would load the others.
            self.model.load_state_dict(load_checkpoint(tested)["state_dict"])
        self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)

    def _tested_checkpoint(self) -> str:
        """The checkpoint whose weights are tested after a training; empty if none is saved."""
        if self._best is None:
            return ""
        if self._best.best_model_path and self.config["test_weights"] == "best":
            return self._best.best_model_path
        assert self.folder is not None
        last = str(self.folder / "checkpoints" / "last.ckpt")
        # Without a validation nothing is saved; behind the last one it is not.
        saved = self._best.best_model_path and load_checkpoint(last)["global_step"]
        if saved != self.trainer.global_step:
            self.trainer.save_checkpoint(last)
        return last

    def _left(self, in_time: bool = False) -> str:
        """A message about a stopped run: its folder, and the command to resume it.

        Args:
            in_time: whether it was stopped because its time was over.
        """
        if self.command != "fit" or self.folder is None:
            return "stopped"
        folder = self.folder
        if rank() and self._best is not None and self._best.dirpath:
            # Only the first process has made the folder; Lightning has told the others.
            folder = Path(self._best.dirpath).parent
        last = folder / "checkpoints" / "last.ckpt"
        stopped = f"stopped at step {self.trainer.global_step}"
        if in_time:
            stopped += ", for trainer.max_time is over"
        if last.is_file():
            again = shlex.join(["memnets", "fit", "--ckpt_path", str(last)])
            return f"{stopped}; the run is in {folder}; to go on{self._from_step(last)}: {again}"
        if self._began():
            return f"{stopped}, before the first checkpoint; see {folder}"
        return "stopped before the first step; nothing is left"

    def _from_step(self, last: Path) -> str:
        """The step at which a run goes on, where it is not the one at which it was stopped."""
        try:
            step = load_checkpoint(last)["global_step"]
        except (CheckpointError, KeyError):  # which is told when it is to go on
            return ""
        return "" if step == self.trainer.global_step else f" from step {step}"

    def _left_whole(self) -> str:
        """A message about a run that cannot write any more: its checkpoint, and how it goes on."""
        if self.command != "fit" or self.folder is None:
            return "nothing else was changed"
        last = str(self.folder / "checkpoints" / "last.ckpt")
        again = shlex.join(["memnets", "fit", "--ckpt_path", last])
        # Not by methods of Path: these raise an error where a network folder is lost.
        if not os.path.isdir(self.folder):
            return f"the folder of the run is gone; once it is back, go on: {again}"
        if not os.path.isfile(last):
            return "there is no checkpoint yet"
        return f"the last checkpoint is whole; once files can be written, go on: {again}"

    def _began(self) -> bool:
        """Whether a step was taken."""
        trainer: Trainer | None = getattr(self, "trainer", None)
        return trainer is not None and trainer.global_step > (self._resumed_step or 0)

    @rank_zero_only
    def _hold(self) -> None:
        """Lock the folder for this training, and remove unfinished files of a killed one."""
        assert self.folder is not None
        self.held.enter_context(only_writer(self.folder))
        for part in self.folder.rglob(".*.part"):
            part.unlink()

    def _clear_away(self, error: type[BaseException] | None, *_: Any) -> None:
        """Remove the folder of a run that failed before its first step."""
        assert self.folder is not None
        if error is None or self._began() or any(self.folder.glob("checkpoints/*.ckpt")):
            return
        shutil.rmtree(self.folder)
        outside = Path(self.config["runs"]).parent
        with suppress(OSError):  # other runs, which stay
            for folder in takewhile(lambda folder: folder != outside, self.folder.parents):
                folder.rmdir()


def _reached(checkpoint: dict[str, Any], trainer: Any) -> str | None:
    """The trainer's limit that a checkpoint has reached, in words; ``None`` = no limit."""
    steps, epochs = trainer.get("max_steps", -1), trainer.get("max_epochs", -1)
    if steps is not None and 0 <= steps <= checkpoint["global_step"]:
        return f"trainer.max_steps is {steps}"
    loop = checkpoint["loops"]["fit_loop"]
    # At the validation that ends an epoch, when checkpoints are saved, it does not count yet.
    at_end = loop["epoch_loop.batch_progress"]["is_last_batch"]
    done = loop["epoch_progress"]["current"]["processed"] + int(at_end)
    if epochs is not None and 0 <= epochs <= done:
        return f"trainer.max_epochs is {epochs}"
    return None
