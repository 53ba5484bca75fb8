"""The command line: ``memnets fit | validate | test | predict | translate | scoreboard``."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import sys
import tempfile
import warnings
from argparse import RawDescriptionHelpFormatter
from contextlib import ExitStack, suppress
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from memnets.app.scoreboard import scoreboard
from memnets.app.translator import BATCH_TOKENS, Translator
from memnets.batches import PAD
from memnets.core import check_positive
from memnets.decoding import check_search
from memnets.files import only_writer, write_atomically
from memnets.models import Model, TrainingDiverged
from memnets.training.callbacks import Pictures, Report
from memnets.training.runs import (
    AtomicCheckpointIO,
    CheckpointError,
    CSVTable,
    changes,
    check_same_model,
    last_version,
    load_checkpoint,
    next_version,
)
from tasks import Task
from tasks.translation.files import lines_of

__all__ = ["main"]

DESCRIPTION = """Train, test and use memory-augmented networks.

  memnets fit --config configs/copying/ntm.yaml
      train, test the best checkpoint, and leave everything in runs/copying/ntm/version_<n>/

  memnets fit --config configs/copying/ntm.yaml --model.controller=memnets.cells.GRU
      the same with another part; any part can be swapped for one of your own by its class path

  memnets fit --ckpt_path runs/copying/ntm/version_0/checkpoints/last.ckpt
      go on exactly where that run stopped, with the settings that it had

  memnets fit --config configs/copying/ntm.yaml --ckpt_path last
      go on with the newest run of that config; flags that it was given are to be given again

  memnets test --ckpt_path runs/copying/ntm/version_0/checkpoints/best.ckpt
      a checkpoint holds its whole config; flags change parts of it

  memnets translate --checkpoint runs/<task>/<model>/version_0/checkpoints/best.ckpt < input.txt
      a translation of each line

  memnets scoreboard --config configs/scoreboards/ntm.yaml
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

Text is UTF-8. For each line there is one line, in the same order; that of an empty line is empty.
Tokens never seen in training, empty lines and answers cut at their greatest length are counted on
stderr. With --n_best there are up to so many lines for each: its number, from 1, the score, which
is log probability over length penalty, and the translation, with tabs between them.
"""

SCOREBOARD = "Train a list of tasks and models with several seeds, and write a table of them."

OPTIONS = """
What you will need most:

  --config FILE                     where to start from: see configs/
  --seed_everything 3               another seed, of the weights and of the data
  --model.optimizer.lr 0.001        a setting of a part
  --model.controller my.Controller  another part, by its class path
  --data.max_length 30              a setting of the task
  --trainer.max_steps 1000          how long to train
  --print_config                    show the whole config that these flags make, and stop
  --model.help memnets.models.MemoryMachine      the settings of a class
  --data.help tasks.Copying
"""


class _HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Descriptions as they are written."""


#: What all parsers have in common: they raise their errors, which :func:`main` says in one line.
_STYLE: dict[str, Any] = {"exit_on_error": False, "formatter_class": _HelpFormatter}


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
        self.held = ExitStack()
        with self.held:
            super().__init__(
                Model,
                Task,
                save_config_callback=None,
                seed_everything_default=0,
                trainer_defaults={
                    "max_epochs": -1,
                    "num_sanity_val_steps": 0,
                    "use_distributed_sampler": False,
                    "enable_model_summary": False,
                },
                parser_kwargs={**_STYLE, "description": DESCRIPTION, **subcommands},
                subclass_mode_model=True,
                subclass_mode_data=True,
                args=arguments,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
            )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's folder; link the sizes of data and model, and the seed."""
        parser.add_argument(
            "--name",
            type=str,
            default="unnamed/unnamed",
            help="Task and model, <task>/<model>: the run goes to <runs>/<name>/version_<n>/.",
        )
        parser.add_argument("--runs", type=str, default="runs", help="The folder of all runs.")
        parser.add_argument(
            "--threads",
            type=int,
            default=1,
            help="Threads of PyTorch on the CPU; small models are fastest with one.",
        )
        for size in ("input_size", "output_size"):
            parser.link_arguments(f"data.{size}", f"model.init_args.{size}", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed")

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        super()._add_subcommands(parser, **kwargs)
        assert parser._subcommands_action is not None
        for action in parser._subcommands_action._choices_actions:
            action.help = SUBCOMMANDS[action.dest]
        # Listed here; main() runs them, since they need no trainer.
        action = parser._subcommands_action
        action.add_subcommand("translate", _translate_parser(), help=TRANSLATE)
        action.add_subcommand("scoreboard", _scoreboard_parser(), help=SCOREBOARD)

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand in ("validate", "test"):
            parser.set_defaults({"verbose": False})  # the report prints a table of its own
        return parser

    def _parse_ckpt_path(self) -> None:
        # The config in the checkpoint was read before the arguments were parsed, see main().
        pass

    def instantiate_classes(self) -> None:
        """Find the run's folder, then make model, data and trainer."""
        threads = self._get(self.config, "threads")
        check_positive(threads=threads)
        torch.set_num_threads(threads)
        checkpoint = self._get(self.config, "ckpt_path")
        self.resumed_step: int | None = None
        self.folder: Path | None = None
        self.config_before: str | None = None
        root = Path(self._get(self.config, "runs")) / self._get(self.config, "name")
        if self.subcommand == "fit":
            if checkpoint == "last":
                self.folder = last_version(root)
                checkpoint = str(self.folder / "checkpoints" / "last.ckpt")
                self.config["fit"]["ckpt_path"] = checkpoint
            elif checkpoint is not None and Path(checkpoint).name == "last.ckpt":
                self.folder = _folder_of(checkpoint)
        else:
            self.folder = _folder_of(checkpoint)
        loaded = None if checkpoint is None else load_checkpoint(checkpoint)
        if loaded is not None and self.subcommand == "fit":
            self.resumed_step = loaded["global_step"]
            if self.folder is not None:
                self._hold()
                self.config_before = loaded.get("config")
        self.loaded = loaded
        super().instantiate_classes()

    @rank_zero_only
    def _hold(self) -> None:
        """Be the only one who trains in the folder, and clear away what a killed run left."""
        assert self.folder is not None
        self.held.enter_context(only_writer(self.folder))
        for part in self.folder.rglob(".*.part"):
            part.unlink()

    def _clear_away(self, error: type[BaseException] | None, *_: Any) -> None:
        """Leave no folder of a run that failed before its first step."""
        trainer: Trainer | None = getattr(self, "trainer", None)
        if error is None or (trainer is not None and trainer.global_step > 0):
            return
        assert self.folder is not None
        shutil.rmtree(self.folder)
        outside = Path(self._get(self.config, "runs")).parent
        with suppress(OSError):  # other runs, which stay
            for folder in takewhile(lambda folder: folder != outside, self.folder.parents):
                folder.rmdir()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add what every run has: loggers, checkpoints, report, pictures."""
        config = {**self._get(self.config_init, "trainer", default={}), **kwargs}
        dry = bool(config.get("fast_dev_run"))
        if self.loaded is not None:
            path = self._get(self.config, "ckpt_path")
            check_same_model(self.model, self.loaded, path)
            _restore_task(self.datamodule, self.loaded, path)
            self.loaded = None  # the trainer reads it again; two copies need not be kept
        if self.folder is None and not dry:
            # Only now, when every part of the run was made without error.
            root = Path(self._get(self.config, "runs")) / self._get(self.config, "name")
            self.folder = next_version(root)
            self.held.push(self._clear_away)
            self._hold()
        callbacks: list[Callback] = []
        if self.folder is not None and not dry:
            callbacks += [Report(self.folder), Pictures(self.folder / "pictures")]
            if self.subcommand == "fit":
                config_now = _SaveConfig(self._parser("fit"), self.config["fit"], self.folder)
                callbacks.append(config_now)
                if self.config_before is not None:
                    configs = (self.config_before, config_now.text)
                    for name, before, now in changes(*map(yaml.safe_load, configs)):
                        # An optimizer goes on with the settings that it was saved with.
                        note = " (without effect)" if ".optimizer." in name else ""
                        print(f"Changed since the run began: {name} {before} -> {now}{note}")
                callbacks.extend(
                    _best_and_last(self.folder / "checkpoints", self.model.objective.monitor)
                )
        if config.get("logger") is None:
            fitting = self.subcommand == "fit" and self.folder is not None
            config["logger"] = self._loggers() if fitting else False
        if config.get("enable_progress_bar") is None:
            config["enable_progress_bar"] = sys.stderr.isatty()
        if config["enable_progress_bar"]:
            callbacks.append(TQDMProgressBar(refresh_rate=20))
        if config.get("plugins") is None:
            config["plugins"] = [AtomicCheckpointIO()]
        return self._instantiate_trainer(config, callbacks)

    def _loggers(self) -> list[Any]:
        assert self.folder is not None
        tensorboard = TensorBoardLogger(
            self.folder.parent, name="", version=self.folder.name, purge_step=self.resumed_step
        )
        return [tensorboard, CSVTable(self.folder, self.resumed_step)]

    def after_fit(self) -> None:
        """Test the best checkpoint; the weights as they are, if training was too short for one."""
        if self.folder is None or self.trainer.interrupted:
            return
        checkpoints = self.trainer.checkpoint_callback
        if isinstance(checkpoints, ModelCheckpoint) and checkpoints.best_model_path:
            # Not by the trainer: after a training with averaged weights it would load the others.
            self.model.load_state_dict(load_checkpoint(checkpoints.best_model_path)["state_dict"])
        else:
            self.trainer.save_checkpoint(self.folder / "checkpoints" / "last.ckpt")
        self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)

    def predict(self, model: LightningModule, **kwargs: Any) -> None:
        """Answer the test sets; write ``predictions.npz``, and words to ``predictions.tsv``."""
        answers = self.trainer.predict(model, **kwargs)
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


class _SaveConfig(Callback):
    """The whole config goes into the run's folder, and into every checkpoint."""

    def __init__(self, parser: LightningArgumentParser, config: Any, folder: Path) -> None:
        config = config.clone()
        config.pop("ckpt_path", None)
        self.text: str = parser.dump(config)
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.is_global_zero and stage == "fit":
            path = self.folder / "config.yaml"
            write_atomically(path, lambda file: file.write(self.text.encode()))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["config"] = self.text
        # What was logged up to here must outlive a kill, as the checkpoint does.
        for logger in trainer.loggers:
            logger.save()


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


def _best_and_last(folder: Path, monitor: str) -> list[ModelCheckpoint]:
    """``best.ckpt`` by validation, and ``last.ckpt`` after each, to go on from.

    ``save_last`` of the first will not do: it saves only when the best is saved too.
    """
    common: dict[str, Any] = {"save_on_train_epoch_end": False, "enable_version_counter": False}
    return [
        ModelCheckpoint(folder, filename="best", monitor=f"val/{monitor}", **common),
        _Last(folder, filename="last", **common),
    ]


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
    return parser


def translate(arguments: list[str]) -> None:
    """Translate lines of text: see ``memnets translate --help``.

    Raises:
        ValueError: an argument is out of its range, the text is not UTF-8, or a line is too long
            for the model.
        CheckpointError: the checkpoint cannot be used.
    """
    asked = _translate_parser().parse_args(arguments)
    check_positive(n_best=asked.n_best, batch_tokens=asked.batch_tokens, threads=asked.threads)
    check_search(asked.beam, asked.length_penalty, max_length=asked.max_length)
    if asked.n_best > asked.beam:
        raise ValueError(f"n_best must be at most beam = {asked.beam}; got {asked.n_best}")
    if asked.input is not None and not Path(asked.input).exists():
        raise ValueError(f"expected a file at {asked.input}; there is none")
    if asked.output is not None and Path(asked.output).exists() > Path(asked.output).is_file():
        raise ValueError(f"expected a file to write at {asked.output}; it is no plain file")
    torch.set_num_threads(asked.threads)
    translator = Translator.load(asked.checkpoint)

    content = sys.stdin.buffer.read() if asked.input is None else Path(asked.input).read_bytes()
    sentences = lines_of(content, asked.input or "standard input")
    settings = {
        name: asked[name] for name in ("beam", "length_penalty", "max_length", "batch_tokens")
    }
    with Progress(
        console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True
    ) as bar:
        sentences_done = bar.add_task("Translating", total=len(sentences))
        settings["progress"] = partial(bar.advance, sentences_done)
        if asked.n_best == 1:
            lines = [_plain(text) for text in translator(sentences, **settings)]
        else:
            lines = [
                f"{number}\t{answer.score:.4f}\t{_plain(answer.text)}"
                for number, answers in enumerate(
                    translator.alternatives(sentences, asked.n_best, **settings), start=1
                )
                for answer in answers
            ]
    text = "".join(line + "\n" for line in lines).encode()
    if asked.output is None:
        sys.stdout.buffer.write(text)
        sys.stdout.flush()
    else:
        write_atomically(Path(asked.output), lambda file: file.write(text))
    for name, count in translator.counts._asdict().items():
        if count:
            print(f"memnets: {name.replace('_', ' ')}: {count}", file=sys.stderr)


def _scoreboard_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="memnets scoreboard",
        usage="memnets scoreboard --config FILE [options]",
        description=SCOREBOARD,
        **_STYLE,
    )
    parser.add_argument("--config", action="config", help="See configs/scoreboards/.")
    parser.add_function_arguments(scoreboard, skip={"report_only", "command"})
    parser.add_argument(
        "--report_only", action="store_true", help="Train nothing; write the table as it stands."
    )
    return parser


def _scoreboard(arguments: list[str]) -> None:
    """Train and report: see ``memnets scoreboard --help``."""
    parser = _scoreboard_parser()
    try:
        asked = parser.instantiate(parser.parse_args(arguments))
    except ArgumentError as error:
        raise ValueError(f"{error}; see configs/scoreboards/ for what a board holds") from error
    asked.pop("config")
    again = [argument for argument in arguments if argument != "--report_only"]
    scoreboard(**asked.as_dict(), command=shlex.join(["memnets", "scoreboard", *again]))


#: What needs no trainer.
_OTHERS = {"translate": translate, "scoreboard": _scoreboard}


def _with_config_of_checkpoint(arguments: list[str], folder: str) -> list[str]:
    """Put the config that a checkpoint holds before the other arguments, which may change it."""
    paths = [
        following if argument == "--ckpt_path" else argument.partition("=")[2]
        for argument, following in zip(arguments, [*arguments[1:], ""], strict=True)
        if argument.split("=")[0] == "--ckpt_path"
    ]
    asked = {"-h", "--help"} & set(arguments)
    if asked or not arguments or arguments[0] not in SUBCOMMANDS:
        return arguments
    if arguments[0] == "fit":
        own = any(argument.split("=")[0] in ("--config", "-c") for argument in arguments)
        if own or not paths or paths[-1] == "last":
            return arguments
    if not paths:
        raise CheckpointError(
            f"memnets {arguments[0]} needs --ckpt_path=<file>; "
            "memnets fit leaves its checkpoints in runs/<task>/<model>/version_<n>/checkpoints/"
        )
    checkpoint = load_checkpoint(paths[-1])
    if "config" not in checkpoint:
        raise CheckpointError(f"{paths[-1]} holds no config: memnets fit did not write it")
    path = Path(folder) / "config.yaml"
    path.write_text(checkpoint["config"])
    return [arguments[0], "--config", str(path), *arguments[1:]]


def _one_line(message: str) -> str:
    """What a nested message says, without the attempts that had to fail."""
    message = message.replace("Does not validate against any of the Union subtypes", "")
    noise = re.compile(r"Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|tip: |usage: ")
    lines = [line.strip(" -") for line in message.splitlines()]
    text = " ".join(line for line in lines if line and not noise.match(line))
    if "required: fit.data, fit.model" in text:
        text += "; start from a config: memnets fit --config configs/copying/ntm.yaml"
    return text


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors of a user's making are one line, with no traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    sys.path.insert(0, os.getcwd())  # parts of the user's own
    warnings.filterwarnings("ignore", module="pytorch_lightning|torch.utils|jsonargparse")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        if arguments and arguments[0] in _OTHERS:
            return _OTHERS[arguments[0]](arguments[1:])
        with tempfile.TemporaryDirectory() as folder:
            CLI(_with_config_of_checkpoint(arguments, folder))
    except (
        ArgumentError,
        ValueError,
        TypeError,
        OSError,
        MisconfigurationException,
        TrainingDiverged,
    ) as error:
        if os.environ.get("MEMNETS_TRACEBACK"):
            raise
        print(f"memnets: error: {_one_line(str(error))}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("memnets: interrupted", file=sys.stderr)
        sys.exit(130)
