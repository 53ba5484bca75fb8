"""The command line: ``memnets fit | validate | test | predict``, and what needs no trainer."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from argparse import SUPPRESS, Action, RawDescriptionHelpFormatter, _HelpAction
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter
from jsonargparse.typing import register_type
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.callbacks import ProgressBar as AnyProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from memnets.app.configs import DESCRIPTION as CONFIGS
from memnets.app.configs import configs_parser, list_configs, with_configs
from memnets.app.scoreboard import scoreboard
from memnets.app.translator import BATCH_TOKENS, Translator
from memnets.batches import PAD
from memnets.core import check_positive, check_threads
from memnets.decoding import check_search
from memnets.extras import MissingExtra
from memnets.files import load_yaml, only_writer, read_settings, target_of, write_atomically
from memnets.messages import one_line
from memnets.models import Model, TrainingDiverged
from memnets.progress import ProgressBar
from memnets.stopping import Stopped, restore_handlers, stoppable
from memnets.swaps import check_callbacks, drop_settings, read_configs, run_name
from memnets.training.callbacks import Pictures, Report
from memnets.training.runs import (
    AtomicCheckpointIO,
    CheckpointError,
    CSVTable,
    changes,
    check_name,
    check_optimizer_state,
    check_same_model,
    last_version,
    load_checkpoint,
    next_version,
    read_metrics,
)
from memnets.trust import check_classes, check_parts, checked_config, config_of, strict_parsing
from tasks import Task
from tasks.translation.files import lines_of

__all__ = ["main"]

DESCRIPTION = """Train, test and use memory-augmented networks.

  memnets fit --config copying/ntm
      train, test the best checkpoint, and leave everything in runs/copying/ntm/version_<n>/

  memnets fit --config copying/ntm --model.controller=memnets.cells.GRU
      the same with another part; any part can be swapped for one of your own by its class path

  memnets fit --ckpt_path runs/copying/ntm/version_0/checkpoints/last.ckpt
      go on exactly where that run stopped, with the settings that it had

  memnets fit --config copying/ntm --ckpt_path last
      go on with the newest run of that config; flags that it was given are to be given again

  memnets test --ckpt_path runs/copying/ntm/version_0/checkpoints/best.ckpt
      a checkpoint holds its whole config; flags change parts of it

  memnets translate --checkpoint runs/<task>/<model>/version_0/checkpoints/best.ckpt < input.txt
      a translation of each line

  memnets scoreboard --config scoreboards/ntm
      train many, side by side, and write RESULTS.md; the same again goes on where it stopped
"""

SUBCOMMANDS = {
    "fit": "Train, then test the best checkpoint.",
    "validate": "Score a checkpoint on the validation set.",
    "test": "Score a checkpoint on the test sets, and draw its answers and weights.",
    "predict": "Write what a checkpoint answers on the test sets to a file.",
}

TRANSLATE = "Translate text, a sentence a line, with nothing but a checkpoint."

TRANSLATE_DESCRIPTION = f"""{TRANSLATE}

Text is UTF-8. For each line there is one line, in the same order; that of an empty line is empty,
as is that of a line too long for the model. Tokens never seen in training, empty lines, lines too
long for the model, by their numbers, and answers cut at their greatest length are told on stderr.
With --n_best there are up to so many lines for each: its number, from 1, the score, which is log
probability over length penalty, and the translation, with tabs between them.

With --stream each line is answered as soon as it is read, for a program that talks to this one.

Exit status: 0 if each line has its line, also where some are empty; 1 after an error, and then
nothing is written, with --stream nothing more.
"""

SCOREBOARD = "Train a list of tasks and models with several seeds, and write a table of them."

TRUST = (
    "Take parts that only the checkpoint names, such as classes of your own; they run as programs."
)

OPTIONS = """
What you will need most:

  --config NAME                     where to start from: memnets configs lists all; or a file
  --seed_everything 3               another seed, of the weights and of the data
  --model.optimizer.lr 0.001        a setting of a part
  --model.controller my.Controller  another part, by its class path
  --data.max_length 30              a setting of the task
  --trainer.max_steps 1000          how long to train
  --print_config                    show the whole config that these flags make, and stop
  --model.help memnets.models.MemoryMachine      the settings of a class
  --data.help tasks.Copying
"""


#: Switches of Lightning's trainer that the help of a command shows.
SWITCHES = {
    "max_steps": "How long to train, in batches.",
    "accelerator": "cpu, gpu, mps, or auto.",
    "devices": "How many of them, or a list of their numbers.",
    "precision": "32-true, bf16-mixed, 16-mixed, 64-true and so on.",
    "gradient_clip_val": "The greatest norm of the gradient.",
    "accumulate_grad_batches": "Batches of which the gradients are added up for a step.",
    "callbacks": "A list of callbacks, [] for none; += adds one.",
    "logger": "false for none; if not given, TensorBoard and metrics.csv.",
}

#: The same of other options that Lightning adds.
OTHERS = {
    "ckpt_path": "A checkpoint to go on from, or to score; with fit also last: the newest run.",
    "seed_everything": "Seed of the weights and of the data; 0 if not given.",
    "trainer": SUPPRESS,
    "weights_only": SUPPRESS,
}

#: Lightning's titles of the groups, in the order in which they are shown, and what they are here.
GROUPS = {
    "A model reads a source, then answers, over explicit state": "The model",
    "A source of batches": "The task",
    "Runs the full optimization routine": "Checkpoints",
    "Customize every aspect of training via flags": "How to train; --help_all shows the other "
    "switches of Lightning's trainer",
}


class _HelpAll(_HelpAction):
    """Show the help with every switch of the trainer."""

    HELP = "Show this help with all switches of Lightning's trainer, and exit."

    def __call__(self, parser: Any, *_: Any) -> None:
        for action in parser._actions:
            action.help = getattr(action, "whole", action.help)
        parser.print_help()
        parser.exit()


def _shorten(parser: LightningArgumentParser) -> None:
    """Show the parts first, and of Lightning's switches what one needs."""
    for action in parser._actions:
        name, whole = action.dest.removeprefix("trainer."), action.help
        if name != action.dest:
            action.help = SWITCHES.get(name, SUPPRESS)
        else:
            action.help = OTHERS.get(name, whole)
        if action.help != whole:
            action.whole = whole  # type: ignore[attr-defined]
    places = {title: place for place, title in enumerate(GROUPS)}
    groups = [group for group in parser._action_groups if group.title != "Linked arguments"]
    groups.sort(key=lambda group: places.get(group.title or "", -1))
    for group in groups:
        group.title = GROUPS.get(group.title or "", group.title)
    parser._action_groups = groups


class _HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Descriptions as they are written, and no types behind the words of :func:`_shorten`."""

    def _get_help_string(self, action: Action) -> str:
        if getattr(action, "whole", action.help) != action.help:
            return str(action.help)
        return super()._get_help_string(action)


#: Configs name devices, as those of Lightning's callbacks that average weights.
register_type(torch.device)

#: Print on the first of several processes alone.
_say = rank_zero_only(print)


def _rank() -> int:
    """Which of several processes this is, also before there is a trainer."""
    return int(getattr(rank_zero_only, "rank", None) or 0)


#: Defaults of the trainer that differ from Lightning's.
TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": -1,
    "gradient_clip_val": 1.0,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
    "enable_model_summary": False,
}

#: What all parsers have in common: they raise their errors, which :func:`main` says in one line.
_STYLE: dict[str, Any] = {"exit_on_error": False, "formatter_class": _HelpFormatter}


#: Settings that make another run: those of the trainer say how far it goes.
_OF_RESULTS = r"(model|seed_everything|data(?!\.init_args\.workers))\b"

#: Where a config has the optimizer.
_OPTIMIZER = "model.init_args.optimizer"


class CLI(LightningCLI):
    """LightningCLI, with run folders, checkpoints that hold their config, a test after each fit.

    Args:
        arguments: what comes after ``memnets``.
    """

    def __init__(self, arguments: list[str]) -> None:
        subcommands = {
            name: {
                **_STYLE,
                "description": text + "\n" + OPTIONS,
                "usage": f"memnets {name} [options]",
            }
            for name, text in SUBCOMMANDS.items()
        }
        self.arguments = arguments
        self.held = ExitStack()
        with self.held:
            super().__init__(
                Model,
                Task,
                save_config_callback=None,
                seed_everything_default=0,
                trainer_defaults=TRAINER_DEFAULTS,
                parser_kwargs={
                    **_STYLE,
                    "prog": "memnets",
                    "description": DESCRIPTION,
                    **subcommands,
                },
                subclass_mode_model=True,
                subclass_mode_data=True,
                args=arguments,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
            )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed."""
        parser.add_argument(
            "--seed_everything",
            type=bool | int,
            default=0,
            help="Seed of the weights and of the data; true draws one, and says which.",
        )

    def _set_seed(self) -> None:
        seed = self._get(self.config, "seed_everything")
        if seed is False:
            raise ValueError("seed_everything must be a whole number, or true for one of chance")
        if seed is True:
            if _rank() or os.environ.get("WORLD_SIZE", "1") != "1":
                if "PL_GLOBAL_SEED" not in os.environ:  # where the first process has put it
                    raise ValueError(
                        "seed_everything=true would draw a seed for each process; give a number"
                    )
                seed = int(os.environ["PL_GLOBAL_SEED"])
            else:
                seed = int.from_bytes(os.urandom(4), "big")
            _say(f"The seed is {seed}")
            config = self.config[str(self.subcommand)]
            config["seed_everything"] = seed
            config["data"]["init_args"]["seed"] = seed
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed_everything must be in [0, 2^32); got {seed}")
        seed_everything(seed, workers=True)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's folder; link the sizes of data and model, and the seed."""
        parser.add_argument(
            "--name",
            type=str | None,
            default=None,
            help="Task and model, <task>/<model>: the run goes to <runs>/<name>/version_<n>/. If "
            "not given, that of the config, with the task or model that is in place of its own.",
        )
        parser.add_argument("--runs", type=str, default="runs", help="The folder of all runs.")
        parser.add_argument(
            "--threads",
            type=int,
            default=1,
            help="Threads of PyTorch on the CPU; small models are fastest with one.",
        )
        parser.add_argument("--trust", action="store_true", help=TRUST)
        parser.add_argument(
            "--init_from",
            type=str | None,
            help="A checkpoint whose weights a training begins with; all else is new.",
        )
        for size in ("input_size", "output_size"):
            parser.link_arguments(f"data.{size}", f"model.init_args.{size}", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        super()._add_subcommands(parser, **kwargs)
        assert parser._subcommands_action is not None
        for action in parser._subcommands_action._choices_actions:
            action.help = SUBCOMMANDS[action.dest]
        # Listed here; main() runs them, since they need no trainer.
        action = parser._subcommands_action
        action.add_subcommand("translate", _translate_parser(), help=TRANSLATE)
        action.add_subcommand("scoreboard", _scoreboard_parser(), help=SCOREBOARD)
        action.add_subcommand("configs", configs_parser(), help=CONFIGS)

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        _shorten(parser)
        parser.add_argument("--help_all", action=_HelpAll, help=_HelpAll.HELP)
        if subcommand in ("validate", "test"):
            parser.set_defaults({"verbose": False})  # the report prints a table of its own
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line.

        Raises:
            ValueError: a function is named for a part; or whatever the parser raises.
        """
        try:
            super().parse_arguments(parser, args)
        except (ArgumentError, ValueError, TypeError) as error:
            check_classes(_class_paths(args))
            raise error

    def _parse_ckpt_path(self) -> None:
        # The config in the checkpoint was read before the arguments were parsed, see main().
        pass

    def before_instantiate_classes(self) -> None:
        """Name the run after what is run; see that no setting is for another task.

        Raises:
            ValueError: a schedule of a config is for a task that is no longer there.
        """
        config = self.config[self.subcommand]
        files = read_configs(config.get("config") or [])
        check_callbacks(files, config, self.arguments)
        left_out = drop_settings(files, config, self.arguments)
        if left_out is not None:
            rank_zero_only(print)(left_out)
        if not any(each.split("=")[0] == "--name" for each in self.arguments):
            config["name"] = run_name(files, config)

    def instantiate_classes(self) -> None:
        """Find the run's folder, then make model, data and trainer."""
        check_parts(self.config[self.subcommand].as_dict())
        check_name(self._get(self.config, "name"))
        threads = self._get(self.config, "threads")
        check_threads(threads)
        torch.set_num_threads(threads)
        _check_trainer(self._get(self.config, "trainer"))
        self.resumed_step: int | None = None
        self.folder: Path | None = None
        self.best: ModelCheckpoint | None = None
        self.changed: list[tuple[str, Any, Any]] = []
        #: Why there is nothing to do.
        self.finished: str | None = None
        self.loaded: dict[str, Any] | None = None
        path = self._get(self.config, "ckpt_path")
        if self.subcommand != "fit":
            self.folder = _folder_of(path)
            self.loaded = load_checkpoint(path)
        elif path is not None:
            if path == "last":
                path = str(last_version(self._root) / "checkpoints" / "last.ckpt")
                self.config["fit"]["ckpt_path"] = path
            self._go_on(path)
        if self.finished is None:
            super().instantiate_classes()

    @property
    def _root(self) -> Path:
        return Path(self._get(self.config, "runs"), self._get(self.config, "name"))

    @property
    def _dry(self) -> bool:
        return bool(self._get(self.config, "trainer").get("fast_dev_run"))

    def _config_text(self) -> str:
        """The whole config, but for where a run goes on from."""
        config = self.config["fit"].clone()
        config.pop("ckpt_path", None)
        config.pop("trust", None)  # which is said, never kept
        text: str = self._parser("fit").dump(config)
        # A value of null is left out there, as if it were the default.
        nulls = {name: None for name in TRAINER_DEFAULTS if config["trainer"].get(name) is None}
        if nulls:
            settings = load_yaml(text)
            settings["trainer"].update(nulls)
            text = yaml.safe_dump(settings, sort_keys=False)
        return text

    def _go_on(self, path: str) -> None:
        """Go on from a checkpoint: in its run's folder, if it is the last of this very run.

        With other settings, of more than the trainer, it is another run, and has a folder of its
        own: the results of the first stay what they are.

        Raises:
            CheckpointError: the optimizer cannot go on with what the checkpoint holds.
        """
        self.loaded = load_checkpoint(path)
        self.resumed_step = self.loaded["global_step"]
        if "config" in self.loaded:
            before = config_of(self.loaded, path)
            self.changed = changes(before, load_yaml(self._config_text()))
        for name, before, now in self.changed:
            if name == f"{_OPTIMIZER}.class_path":
                raise CheckpointError(
                    f"{path} holds the state of {before}, with which {now} cannot go on; keep the "
                    f"optimizer, or start anew from the weights alone: --init_from={path}"
                )
        other = any(re.match(_OF_RESULTS, name) for name, *_ in self.changed)
        if Path(path).name != "last.ckpt" or other or self._dry:
            return
        self.folder = _folder_of(path)
        self._hold()
        limit = _reached(self.loaded, self._get(self.config, "trainer"))
        tested = any(name.startswith("test/") for name in read_metrics(self.folder))
        if limit is not None and tested:
            self.finished = (
                f"{self.folder} is finished: it is at step {self.resumed_step}, and {limit}; "
                "nothing was changed"
            )

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; when it is stopped, say what is left, and leave no process behind."""
        if self.finished is not None:
            _say(self.finished)
            return
        try:
            super()._run_subcommand(subcommand)
        except BaseException as last:
            _end(getattr(self.trainer.strategy.launcher, "procs", []))
            error = self.watching.error or last  # what the trainer does after one may fail too
            stopped = Stopped.behind(error)
            if stopped is not None:
                raise Stopped(stopped.signum, self._left()) from error
            if error is last:
                raise
            raise error from None

    def _left(self) -> str:
        """What a run that was stopped leaves, and how to go on."""
        if _rank():
            return ""
        if self.subcommand != "fit" or self.folder is None:
            return "stopped"
        last = self.folder / "checkpoints" / "last.ckpt"
        step = self.trainer.global_step
        if last.is_file():
            again = shlex.join(["memnets", "fit", "--ckpt_path", str(last)])
            return f"stopped at step {step}; the run is in {self.folder}; to go on: {again}"
        if self._began():
            return f"stopped at step {step}, before the first checkpoint; see {self.folder}"
        return "stopped before the first step; nothing is left"

    def _began(self) -> bool:
        """Whether a step was taken."""
        trainer: Trainer | None = getattr(self, "trainer", None)
        return trainer is not None and trainer.global_step > (self.resumed_step or 0)

    @rank_zero_only
    def _hold(self) -> None:
        """Be the only one who trains in the folder, and clear away what a killed run left."""
        assert self.folder is not None
        self.held.enter_context(only_writer(self.folder))
        for part in self.folder.rglob(".*.part"):
            part.unlink()

    def _clear_away(self, error: type[BaseException] | None, *_: Any) -> None:
        """Leave no folder of a run that failed before its first step."""
        assert self.folder is not None
        if error is None or self._began() or any(self.folder.glob("checkpoints/*.ckpt")):
            return
        shutil.rmtree(self.folder)
        outside = Path(self._get(self.config, "runs")).parent
        with suppress(OSError):  # other runs, which stay
            for folder in takewhile(lambda folder: folder != outside, self.folder.parents):
                folder.rmdir()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add what every run has: loggers, checkpoints, report, pictures."""
        config = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        fitting = self.subcommand == "fit"
        start = self._get(self.config, "init_from")
        if self.loaded is not None:
            path = self._get(self.config, "ckpt_path")
            check_same_model(self.model, self.loaded, path)
            if self.subcommand == "fit":
                check_optimizer_state(self.model.optimizer, self.model, self.loaded, path)
            _restore_task(self.datamodule, self.loaded, path)
            self.loaded = None  # the trainer reads it again; two copies need not be kept
            if fitting:
                for name, before, now in self.changed:
                    _say(f"Changed since the run began: {name} {before} -> {now}")
                _say(f"Going on from step {self.resumed_step} of {path}")
        elif fitting and start is not None:
            _say(_start_from(self.model, self.datamodule, load_checkpoint(start), start))
        self.new = self.folder is None
        if self.new and not self._dry:
            # Only now, when every part of the run was made without error.
            self._make_folder()
        self.watching = _Watching()
        callbacks: list[Callback] = [self.watching]
        if self.folder is not None:
            callbacks += [Report(self.folder), Pictures(self.folder / "pictures")]
        if fitting and self.folder is not None:
            self.saved = _SaveConfig(self._config_text(), self.folder)
            callbacks += [self.saved, _Asked([name for name, *_ in self.changed])]
            if config.get("enable_checkpointing") is not False:
                monitor = self.model.objective.monitor
                goes_on = self.resumed_step is not None and not self.new
                self.best, last = _best_and_last(self.folder / "checkpoints", monitor, goes_on)
                callbacks += [self.best, last]
        if config.get("logger") in (None, True):
            writes = fitting and self.folder is not None and not _rank()
            config["logger"] = self._loggers() if writes else False
        given = config.get("callbacks") or []
        own_bar = any(
            isinstance(callback, AnyProgressBar)
            for callback in (given if isinstance(given, list) else [given])
        )
        if config.get("enable_progress_bar") is None:
            config["enable_progress_bar"] = own_bar or sys.stderr.isatty()
        if config["enable_progress_bar"] and not own_bar:
            callbacks.insert(0, ProgressBar())  # it ends before the report says where things are
        if config.get("plugins") is None:
            config["plugins"] = [AtomicCheckpointIO()]
        if config.get("default_root_dir") is None and self.folder is not None:
            config["default_root_dir"] = self.folder  # of whatever writes and has no other place
        return self._instantiate_trainer(config, callbacks)

    def _make_folder(self) -> None:
        """Make the next folder; the first of several processes does, and alone writes there."""
        self.folder = self._root
        if not _rank():
            self.folder = next_version(self._root)
            self.held.push(self._clear_away)
            self._hold()
            if self.resumed_step is not None:
                print(f"What comes now is in {self.folder}; the run that it began with stays")

    def _loggers(self) -> list[Any]:
        assert self.folder is not None
        tensorboard = _TensorBoard(
            self.folder.parent, name="", version=self.folder.name, purge_step=self.resumed_step
        )
        return [tensorboard, CSVTable(self.folder, self.resumed_step)]

    def after_fit(self) -> None:
        """Test the best checkpoint; the weights as they are, if training was too short for one."""
        if self.folder is None or self.trainer.interrupted:
            return
        if self.best is not None and self.best.best_model_path:
            # Not by the trainer: after a training with averaged weights it would load the others.
            self.model.load_state_dict(load_checkpoint(self.best.best_model_path)["state_dict"])
        elif self.best is not None:
            self.trainer.save_checkpoint(self.folder / "checkpoints" / "last.ckpt")
        self.saved.write(self.trainer)
        self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)

    def predict(self, model: LightningModule, **kwargs: Any) -> None:
        """Answer the test sets; write ``predictions.npz``, and words to ``predictions.tsv``."""
        answers = self.trainer.predict(model, **kwargs)
        if not self.trainer.is_global_zero:
            return
        assert answers is not None
        assert self.folder is not None
        names = self.datamodule.test_names()
        groups = answers if len(names) > 1 else [answers]
        arrays: dict[str, Any] = {}
        rows: list[tuple[str, str, str]] = []
        for name, group in zip(names, groups, strict=True):
            batches = [self.datamodule.batch(name, index) for index in range(len(group))]
            arrays[f"{name}/source"] = _joined([batch.source for batch in batches])
            arrays[f"{name}/targets"] = _joined([batch.targets for batch in batches])
            rewards = [batch.rewards for batch in batches if batch.rewards is not None]
            if rewards:
                arrays[f"{name}/rewards"] = _joined(rewards)
            arrays[f"{name}/answers"] = _joined([answer.cpu() for answer in group])
            rows += self.datamodule.texts(name, group)
        path, table = self.folder / "predictions.npz", self.folder / "predictions.tsv"
        write_atomically(path, lambda file: np.savez_compressed(file, **arrays))
        if rows:
            rows.insert(0, ("source", "reference", "answer"))
            text = "".join("\t".join(map(_plain, row)) + "\n" for row in rows)
            write_atomically(table, lambda file: file.write(text.encode()))
        where = f"{path} and {table}" if rows else path
        print(f"Answers to {', '.join(names)} are in {where}")


class _TensorBoard(TensorBoardLogger):
    """Without ``hparams.yaml``, which would be empty: the settings are in ``config.yaml``."""

    def save(self) -> None:
        super(TensorBoardLogger, self).save()


class _SaveConfig(Callback):
    """The whole config goes into the run's folder, and into every checkpoint."""

    def __init__(self, text: str, folder: Path) -> None:
        self.text = text
        self.folder = folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not before: a run that cannot go on keeps the config that it had.
        self.write(trainer)

    def write(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            path = self.folder / "config.yaml"
            write_atomically(path, lambda file: file.write(self.text.encode()))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["config"] = self.text
        # What was logged up to here must outlive a kill, as the checkpoint does.
        for logger in trainer.loggers:
            logger.save()


class _Asked(Callback):
    """A run that goes on takes the settings of its optimizer that were changed, not those saved.

    Args:
        changed: whole names of settings.
    """

    def __init__(self, changed: Sequence[str]) -> None:
        prefix = f"{_OPTIMIZER}.init_args."
        names = (name.removeprefix(prefix) for name in changed if name.startswith(prefix))
        self.names = {name.partition(".")[0] for name in names}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for optimizer in trainer.optimizers:
            for name in self.names & set(optimizer.defaults):
                for group in optimizer.param_groups:
                    group[name] = optimizer.defaults[name]
        if "lr" not in self.names:
            return
        for config in trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
                continue
            # The rate that was asked for is that before the schedule.
            groups = scheduler.optimizer.param_groups
            scheduler.base_lrs = [group["lr"] for group in groups]
            for group, factor in zip(groups, scheduler.lr_lambdas, strict=True):
                group["initial_lr"] = group["lr"]
                group["lr"] *= factor(scheduler.last_epoch)


class _Watching(Callback):
    """Note the error that ends a run; and listen to signals, where the trainer would do otherwise.

    Of several processes, each ends alone: the trainer's handler would wait for the others.
    """

    error: BaseException | None = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.error = exception

    def _listen(self, trainer: Trainer, pl_module: LightningModule) -> None:
        restore_handlers()

    on_train_start = on_validation_start = on_test_start = on_predict_start = _listen


class _Best(ModelCheckpoint):
    """``best.ckpt``; a class of its own, so that its state is not taken for that of a user's.

    A run that goes on knows how good it was, wherever its folder is now; another run that begins
    with its checkpoint does not.
    """

    goes_on = True

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self.goes_on:
            return
        assert self.dirpath is not None
        here = Path(self.dirpath)
        best = {str(here / Path(k).name): v for k, v in state_dict["best_k_models"].items()}
        paths = {
            name: str(here / Path(state_dict[name]).name) if state_dict[name] else ""
            for name in ("best_model_path", "kth_best_model_path", "last_model_path")
        }
        super().load_state_dict(
            {**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath}
        )


class _Last(ModelCheckpoint):
    """``last.ckpt``; a class of its own, so that its state is not taken for that of a user's.

    The last step of a training is validated, and so saved, also where an epoch goes on after it.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == trainer.max_steps:
            trainer.should_stop = True

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing: it saves whatever comes."""


def _best_and_last(folder: Path, monitor: str, goes_on: bool) -> tuple[_Best, _Last]:
    """``best.ckpt`` by validation, and ``last.ckpt`` after each, to go on from.

    ``save_last`` of the first will not do: it saves only when the best is saved too.
    """
    common: dict[str, Any] = {"save_on_train_epoch_end": False, "enable_version_counter": False}
    best = _Best(folder, filename="best", monitor=f"val/{monitor}", **common)
    best.goes_on = goes_on
    return best, _Last(folder, filename="last", **common)


def _reached(checkpoint: dict[str, Any], trainer: Any) -> str | None:
    """Which limit of a trainer a checkpoint has reached, in words; ``None`` = it may go on."""
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


def _check_trainer(trainer: Any) -> None:
    """Check settings that the trainer takes, and fails with later.

    Raises:
        ValueError: one is out of its range.
    """
    batches = trainer.get("accumulate_grad_batches")
    if batches is not None and batches < 1:
        raise ValueError(f"trainer.accumulate_grad_batches must be at least 1; got {batches}")
    epochs = trainer.get("check_val_every_n_epoch")
    if epochs is not None and epochs < 1:
        raise ValueError(f"trainer.check_val_every_n_epoch must be at least 1; got {epochs}")
    every = trainer.get("val_check_interval")
    if isinstance(every, (int, float)) and every <= 0:
        raise ValueError(
            f"trainer.val_check_interval must be more than 0; got {every}; "
            "to train without validation, give trainer.limit_val_batches=0"
        )
    if trainer.get("barebones"):
        raise ValueError(
            "trainer.barebones leaves out the log, by which runs are scored and checkpoints "
            "chosen; for a quick try, give trainer.fast_dev_run=true"
        )


def _start_from(model: Model[Any], task: Task, checkpoint: dict[str, Any], path: str) -> str:
    """Begin with the weights of a checkpoint, and with what its task has learned, if it has that.

    Returns:
        What was taken and what was not, in one line.

    Raises:
        CheckpointError: nothing of it fits.
    """
    theirs, ours = checkpoint["state_dict"], model.state_dict()
    fitting = [name for name in ours if name in theirs and theirs[name].shape == ours[name].shape]
    if not fitting:
        raise CheckpointError(f"no weights of {path} have a name and a shape as those of the model")
    if type(task).__qualname__ in checkpoint:
        _restore_task(task, checkpoint, path)
    model.load_state_dict({name: theirs[name] for name in fitting}, strict=False)
    if len(fitting) == len(ours) == len(theirs):
        return f"All {len(ours)} weights are from {path}: {', '.join(fitting)}"
    new = [
        f"{name} {list(value.shape)}"
        + (f" (there {list(theirs[name].shape)})" if name in theirs else "")
        for name, value in ours.items()
        if name not in fitting
    ]
    unused = [name for name in theirs if name not in ours]
    parts = (("new", new), ("left there", unused))
    return f"{len(fitting)} of {len(ours)} weights are from {path}: {', '.join(fitting)}" + "".join(
        f"; {label}: {', '.join(names)}" for label, names in parts if names
    )


def _end(processes: Sequence[subprocess.Popen[Any]]) -> None:
    """End the processes that a trainer has launched; they may first say why they ended."""
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()


def _folder_of(checkpoint: str) -> Path:
    """The run that a checkpoint belongs to, else the folder it lies in."""
    folder = Path(checkpoint).resolve().parent
    return folder.parent if folder.name == "checkpoints" else folder


def _restore_task(task: Task, checkpoint: dict[str, Any], path: str) -> None:
    """Give a task the state that a checkpoint keeps, under the name of its class.

    Lightning does so too, but leaves a task as it is if there is none.

    Raises:
        CheckpointError: the task needs a state, and there is none that it can use.
    """
    try:
        task.load_state_dict(checkpoint.get(type(task).__qualname__, {}))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error


def _joined(batches: list[Tensor]) -> np.ndarray[Any, Any]:
    """Batches one after the other, their steps filled up to the longest with padding."""
    steps = max(batch.shape[1] for batch in batches)
    joined = batches[0].new_full((sum(map(len, batches)), steps, *batches[0].shape[2:]), PAD)
    row = 0
    for batch in batches:
        joined[row : row + len(batch), : batch.shape[1]] = batch
        row += len(batch)
    return joined.numpy()


def _plain(text: str) -> str:
    """A text with no tab and no end of a line in it."""
    return re.sub(r"[\t\r\n]", " ", text)


def _translate_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="memnets translate",
        usage="memnets translate --checkpoint FILE [options] < input.txt",
        description=TRANSLATE_DESCRIPTION,
        **_STYLE,
    )
    parser.add_argument("--checkpoint", type=str, required=True, help="What memnets fit left.")
    parser.add_argument(
        "--input", type=str | None, help="A file to read; standard input if not given."
    )
    parser.add_argument(
        "--output", type=str | None, help="A file to write; standard output if not given."
    )
    parser.add_argument(
        "--beam", type=int, default=5, help="Answers followed at once; 1 is greedy."
    )
    parser.add_argument(
        "--length_penalty", type=float, default=1.0, help="0 favours short answers."
    )
    parser.add_argument(
        "--n_best", type=int, default=1, help="Translations of each line, at most beam."
    )
    parser.add_argument(
        "--max_length",
        type=int | None,
        help="Tokens of an answer; if not given, 10 more than twice those of the sentence.",
    )
    parser.add_argument(
        "--batch_tokens", type=int, default=BATCH_TOKENS, help="Tokens of a batch, times the beam."
    )
    parser.add_argument("--threads", type=int, default=1, help="Threads of PyTorch on the CPU.")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    parser.add_argument(
        "--device", type=str, default="cpu", help="Where the model runs: cpu, cuda, cuda:1, mps."
    )
    parser.add_argument(
        "--stream", action="store_true", help="Answer each line as soon as it is read."
    )
    return parser


def _device(name: str) -> torch.device:
    """A device of PyTorch that is there.

    Raises:
        ValueError: there is none of this name.
    """
    there = ["cpu"]
    if torch.cuda.is_available():
        there += ["cuda", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        there.append("mps")
    if name not in there:
        raise ValueError(f"device must be one that is there, {', '.join(there)}; got {name}")
    return torch.device(name)


def translate(arguments: list[str]) -> None:
    """Translate lines of text: see ``memnets translate --help``.

    Raises:
        ValueError: an argument is out of its range, or the text is not UTF-8.
        CheckpointError: the checkpoint cannot be used.
    """
    asked = _translate_parser().parse_args(arguments)
    check_positive(n_best=asked.n_best, batch_tokens=asked.batch_tokens)
    check_threads(asked.threads)
    check_search(asked.beam, asked.length_penalty, max_length=asked.max_length)
    device = _device(asked.device)
    if asked.n_best > asked.beam:
        raise ValueError(f"n_best must be at most beam = {asked.beam}; got {asked.n_best}")
    if asked.stream and asked.output is not None:
        raise ValueError("a stream goes to standard output; leave --output out, or --stream")
    if asked.input is not None and not Path(asked.input).exists():
        raise ValueError(f"expected a file at {asked.input}; there is none")
    if asked.output is not None:
        target_of(asked.output)
    torch.set_num_threads(asked.threads)
    translator = Translator.load(asked.checkpoint, trust=asked.trust)
    translator.model.to(device)

    counts: Counter[str] = Counter()
    too_long: list[int] = []
    source = asked.input or "standard input"
    with ExitStack() as stack:
        file = sys.stdin.buffer
        if asked.input is not None:
            file = stack.enter_context(Path(asked.input).open("rb"))
        # All at once, or one after the other as they come.
        parts = enumerate(file) if asked.stream else [(0, file.read())]
        for before, content in parts:
            sentences = lines_of(content, source, before + 1)
            text = _translated(translator, sentences, asked, before + 1).encode()
            counts.update(translator.counts._asdict())
            too_long += [before + row + 1 for row in translator.too_long]
            if asked.output is None:
                sys.stdout.buffer.write(text)
                sys.stdout.flush()
            else:
                write_atomically(Path(asked.output), partial(_write, text))
    for name, count in counts.items():
        if count:
            note = f" (line {_few(too_long)})" if name == "long_sentences" else ""
            print(f"memnets: {name.replace('_', ' ')}: {count}{note}", file=sys.stderr)


def _translated(translator: Translator, sentences: list[str], asked: Any, first: int) -> str:
    """Lines of translations; ``first`` is the number of the first sentence."""
    settings = {
        name: asked[name] for name in ("beam", "length_penalty", "max_length", "batch_tokens")
    }
    with ExitStack() as stack:
        if sys.stderr.isatty() and not asked.stream:
            bar = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
            sentences_done = bar.add_task("Translating", total=len(sentences))
            settings["progress"] = partial(bar.advance, sentences_done)
        if asked.n_best == 1:
            lines = [_plain(text) for text in translator(sentences, **settings)]
        else:
            lines = [
                f"{number}\t{answer.score:.4f}\t{_plain(answer.text)}"
                for number, answers in enumerate(
                    translator.alternatives(sentences, asked.n_best, **settings), start=first
                )
                for answer in answers
            ]
    return "".join(line + "\n" for line in lines)


def _write(text: bytes, file: IO[bytes]) -> None:
    file.write(text)


def _few(numbers: list[int], most: int = 10) -> str:
    """The first of some numbers, for a line that is read."""
    return ", ".join(map(str, numbers[:most])) + (", ..." if len(numbers) > most else "")


def _scoreboard_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="memnets scoreboard",
        usage="memnets scoreboard --config NAME [options]",
        description=SCOREBOARD,
        **_STYLE,
    )
    parser.add_argument("--config", action="config", help="Such as scoreboards/ntm; or a file.")
    parser.add_function_arguments(scoreboard, skip={"report_only", "command"})
    parser.add_argument(
        "--report_only", action="store_true", help="Train nothing; write the table as it stands."
    )
    return parser


def _scoreboard(arguments: list[str]) -> None:
    """Train and report: see ``memnets scoreboard --help``."""
    parser = _scoreboard_parser()
    try:
        asked = parser.instantiate(parser.parse_args(with_configs(arguments)))
    except ArgumentError as error:
        raise ValueError(f"{error}; see configs/scoreboards/ for what a board holds") from error
    asked.pop("config")
    again = [argument for argument in arguments if argument != "--report_only"]
    scoreboard(**asked.as_dict(), command=shlex.join(["memnets", "scoreboard", *again]))


#: What needs no trainer.
_OTHERS = {"translate": translate, "scoreboard": _scoreboard, "configs": list_configs}


def _values(arguments: list[str], *flags: str) -> list[str]:
    """What the arguments give for a flag."""
    return [
        following if argument in flags else argument.partition("=")[2]
        for argument, following in zip(arguments, [*arguments[1:], ""], strict=True)
        if argument.split("=")[0] in flags
    ]


def _check_configs(arguments: list[str]) -> None:
    """Check that the configs that are given can be read.

    Raises:
        ValueError: one cannot, or holds no settings.
    """
    for config in _values(arguments, "--config", "-c"):
        if not config.lstrip().startswith("{"):  # settings themselves
            read_settings(config)
    parts = [argument.split("=")[0] for argument in arguments]
    parts = [
        flag for flag in parts if re.match(r"--(model|data|trainer)$|--(model|trainer)\.", flag)
    ]
    for value in _values(arguments, *parts):  # which may be files of settings
        if "\n" not in value and len(value) < 1000 and Path(value).is_fifo():
            read_settings(value)


def _with_config_of_checkpoint(arguments: list[str], folder: str) -> list[str]:
    """Put the config that a checkpoint holds before the other arguments, which may change it."""
    options = ("--ckpt_path", "--init_from") if arguments[:1] == ["fit"] else ("--ckpt_path",)
    paths = _values(arguments, *options)
    asked = {"-h", "--help"} & set(arguments)
    if asked or not arguments or arguments[0] not in SUBCOMMANDS:
        return arguments
    _check_configs(arguments)
    if arguments[0] == "fit":
        own = bool(_values(arguments, "--config", "-c"))
        if own or not paths or paths[-1] == "last":
            return arguments
    if not paths:
        raise CheckpointError(
            f"memnets {arguments[0]} needs --ckpt_path=<file>; "
            "memnets fit leaves its checkpoints in runs/<task>/<model>/version_<n>/checkpoints/"
        )
    checkpoint = load_checkpoint(paths[-1])
    config, notes = checked_config(
        config_of(checkpoint, paths[-1]),
        paths[-1],
        trusted="--trust" in arguments,
        named=_class_paths(arguments),
    )
    for note in notes:
        print(f"memnets: {note}", file=sys.stderr)
    # Before version 0.2 the default was not to clip, and what was null was left out.
    config.setdefault("trainer", {}).setdefault("gradient_clip_val", None)
    if "--trust" not in arguments:
        config["runs"] = _runs_of(paths[-1], config)
    path = Path(folder) / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return [arguments[0], "--config", str(path), *arguments[1:]]


def _class_paths(arguments: list[str]) -> set[str]:
    """What the user names for parts, in flags and in configs: class paths among others."""
    parts = {
        argument.split("=")[0]
        for argument in arguments
        if re.match(r"--(model|data|trainer)[.=+]|--(model|data|trainer)$", argument)
    }
    typed = _values(arguments, *parts)
    typed += [
        config if config.lstrip().startswith("{") else yaml.safe_dump(read_settings(config))
        for config in _values(arguments, "--config", "-c")
    ]
    name = r"(?<![\w.-])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+(?![\w.])"
    return set(re.findall(name, "\n".join(typed)))


def _runs_of(checkpoint: str, config: dict[str, Any]) -> str:
    """The folder of all runs that a checkpoint lies in; its config does not say where to write."""
    usual, kept = "runs", config.get("runs")
    name = Path(check_name(config.get("name") or "unnamed/unnamed")).parts
    folder = Path(checkpoint).absolute().parent.parent.parent
    if folder.parts[-len(name) :] != name:
        return usual
    here = folder.parents[len(name) - 1]
    if kept is not None and Path(kept).absolute() == here:
        return str(kept)
    return os.path.relpath(here)


def _lost(error: BaseException) -> bool:
    """Whether an error says no more than that another process has gone."""
    return isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error)


def _in_words(error: Exception) -> str:
    """An error in one line, with its kind where the message alone says little."""
    if _lost(error):
        return "another process of this run has ended; it says why, if it was not killed"
    message = one_line(str(error))
    if len(message) > 4000:
        message = f"{message[:3997]}..."
    plain = (ValueError, TypeError, OSError, MissingExtra, ArgumentError, MisconfigurationException)
    if not isinstance(error, (*plain, TrainingDiverged)) or not message:
        message = f"{type(error).__name__}: {message}".removesuffix(": ")
    if isinstance(error, ArgumentError):
        return message
    return f"{message} ({_TRACEBACK}=1 shows where)"


#: Set in the environment, errors come with their whole traceback.
_TRACEBACK = "MEMNETS_TRACEBACK"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; an error is one line, and Ctrl-C and SIGTERM say what is left.

    Raises:
        SystemExit: with exit code 1 after an error, 130 after Ctrl-C, 143 after SIGTERM.
    """
    arguments = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    sys.path.insert(0, os.getcwd())  # parts of the user's own
    warnings.filterwarnings("ignore", module="pytorch_lightning|torch.utils|jsonargparse")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if _rank():
        logging.getLogger("tasks").setLevel(logging.ERROR)  # the first process says it
    try:
        with stoppable():
            _run(arguments)
            sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads on. Python would try once more at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get(_TRACEBACK):
            raise
        # Of several processes, those that lost another, and those that were not yet together, when
        # all meet the same errors, leave it to the first to say so.
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not _rank() or (together and not _lost(error)):
            print(f"memnets: error: {_in_words(error)}", file=sys.stderr)
        sys.exit(1)


def _run(arguments: list[str]) -> None:
    strict_parsing()
    if arguments[0] in _OTHERS:
        _check_configs(with_configs(arguments))
        return _OTHERS[arguments[0]](arguments[1:])
    with tempfile.TemporaryDirectory() as folder:
        CLI(_with_config_of_checkpoint(with_configs(arguments), folder))
    return None
