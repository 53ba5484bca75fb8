"""The settings of a run: its options, its config or that of a checkpoint, and its seed."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import ArgumentError
from jsonargparse.typing import register_type
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities import rank_zero_only

from memnets.app.checkpoints import Saved, file_of, read, restore_task
from memnets.app.commands import COMMANDS, EXAMPLES, TRUST, values
from memnets.app.help import TITLES, HelpAll, ShortHelp
from memnets.app.processes import rank
from memnets.app.swaps import check_callbacks, drop_settings, read_config, run_name
from memnets.app.trust import check_classes
from memnets.files import load_yaml
from memnets.models import Trained
from memnets.training.runs import CheckpointError
from tasks import Task

__all__ = ["TRAINER_DEFAULTS", "Settings", "folder_of", "say"]

#: Configs name devices, as those of Lightning's callbacks that average weights.
register_type(torch.device)

#: Print on the first of several processes alone.
say = rank_zero_only(print)

#: Defaults of the trainer's settings.
TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": -1,
    "gradient_clip_val": 1.0,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
    "enable_model_summary": False,
}

#: Arguments of the trainer's methods that the command sets itself.
_GIVEN = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"}


class Settings(LightningCLI):
    """The parser of one command, and what it makes of the arguments.

    Args:
        command: fit, validate, test or predict.
        arguments: arguments behind the command.

    Attributes:
        configs: contents of the configs, in their order.
    """

    def __init__(self, command: str, arguments: list[str]) -> None:
        self.command, self.arguments = command, arguments
        self.configs: list[dict[str, Any]] = []
        self._saved: Saved | None = None
        super().__init__(
            Trained,
            Task,
            save_config_callback=None,
            parser_kwargs={
                "exit_on_error": False,  # main() says errors in one line
                "allow_abbrev": False,  # the start of a name may be that of another setting
                "formatter_class": ShortHelp,
                "prog": "memnets",
                "usage": f"memnets {command} [options]",
                "description": COMMANDS[command] + "\n" + EXAMPLES,
            },
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=arguments,
            run=False,  # one parser, of this command: four would take four times as long
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    # The parser, in the order in which the help shows the options.

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed, and the options of a run's folder."""
        parser.add_argument(
            "--seed_everything",
            type=bool | int,
            default=0,
            help="Seed of the weights and of the data; true draws one, and prints it.",
        )
        parser.add_argument(
            "--name",
            type=str | None,
            default=None,
            help="Task and model, <task>/<model>: the run goes to <runs>/<name>/version_<n>/. By "
            "default the name of the config, or the names of another task or model in its place.",
        )
        parser.add_argument("--runs", type=str, default="runs", help="The folder of all runs.")
        parser.add_argument(
            "--threads",
            type=int,
            default=1,
            help="Number of PyTorch's threads on the CPU; small models are fastest with one.",
        )
        parser.add_argument(
            "--compile",
            type=bool,
            default=False,
            help="Compile the training's loss by torch.compile, for minutes at first.",
        )
        parser.add_argument(
            "--test_weights",
            type=Literal["best", "last"],
            default="best",
            help="Weights that a training tests at its end: those of the best validation, or the "
            "last ones.",
        )
        parser.add_argument(
            "--pictures_format",
            type=Literal["png", "svg", "pdf"],
            default="png",
            help="Format of the pictures after a test: pixels, or vectors.",
        )
        parser.add_argument(
            "--pictures_every",
            type=int | None,
            default=None,
            help="Number of validations from one set of pictures for TensorBoard or another logger "
            "to the next, 0 for none; by default as many as take 2 percent of the time.",
        )
        parser.add_argument(
            "--view",
            type=int,
            default=0,
            help="Number of test sequences of a page, view.html, written after the test, as by "
            "memnets view; 0 for none.",
        )
        parser.add_argument("--trust", action="store_true", help=TRUST)
        parser.add_argument(
            "--init_from",
            type=str | None,
            help="A checkpoint, or the folder of a run, whose weights a new training starts from.",
        )
        if self.command == "predict":
            parser.add_argument(
                "--input",
                type=str | None,
                help="A file of your own inputs, answered in place of the test sets; its form "
                "depends on the task.",
            )
            parser.add_argument(
                "--output",
                type=str | None,
                help="A file for the answers to --input; standard output by default.",
            )
            parser.add_argument(
                "--chances",
                type=bool,
                default=False,
                help="Whether the probability of each answer to --input follows it, where answers "
                "are labels.",
            )
        parser.add_argument("--help_all", action=HelpAll, help=HelpAll.HELP)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the model, the task, the arguments of the trainer's method, and the trainer."""
        parser.add_lightning_class_args(Trained, "model", subclass_mode=True)
        parser.add_lightning_class_args(Task, "data", subclass_mode=True)
        self.of_method = parser.add_method_arguments(Trainer, self.command, skip=set(_GIVEN))
        if "verbose" in self.of_method:
            parser.set_defaults({"verbose": False})  # the report prints a table of its own
        parser.add_lightning_class_args(Trainer, "trainer")
        parser.set_defaults({f"trainer.{name}": v for name, v in TRAINER_DEFAULTS.items()})
        assert parser.groups is not None
        for name, title in {**TITLES, self.command: "Checkpoints"}.items():
            parser.groups[name].title = title  # which is the first line of a docstring otherwise

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the sizes of data and model, and the seed."""
        for size in ("input_size", "output_size"):
            parser.link_arguments(
                "data",
                f"model.init_args.{size}",
                compute_fn=partial(self._size, size),
                apply_on="instantiate",
            )
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)

    def _size(self, name: str, task: Task) -> int:
        """A size that the model takes from its task, as the task of the checkpoint has it."""
        # A vocabulary is in the checkpoint: the files that it is from may be gone.
        if self._saved is not None:
            with suppress(CheckpointError):  # which is told once the model is made
                restore_task(task, self._saved)
        size: int = getattr(task, name)
        return size

    # From arguments to settings.

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments after the config of the checkpoint, which they may change.

        Raises:
            ValueError: a function is named for a part; or any error of the parser.
        """
        try:
            self.configs = [read_config(value) for value in values(args, "--config", "-c")]
            self._of_checkpoint = self._config_of_checkpoint()
            self.config = parser.parse_args([*self._of_checkpoint, *args])
        except (ArgumentError, ValueError, TypeError) as error:
            check_classes(_class_paths(args))
            raise error
        self._settle_seed()

    def _config_of_checkpoint(self) -> list[str]:
        """The config of the checkpoint in the arguments, as an argument; empty without one.

        Raises:
            CheckpointError: the config may not be used.
        """
        fit = self.command == "fit"
        paths = values(self.arguments, "--ckpt_path", *(("--init_from",) if fit else ()))
        if not paths or (fit and (self.configs or paths[-1] in ("last", "auto"))):
            return []
        trust = "--trust" in self.arguments
        named = _class_paths(self.arguments)
        goes_on = fit and bool(values(self.arguments, "--ckpt_path"))
        path = str(file_of(paths[-1], goes_on))
        if goes_on:
            named |= _own_class_paths(folder_of(path))
        config, notes = read(path).checked_config(trust, named, logs=fit)
        for note in notes:
            say(f"memnets: {note}", file=sys.stderr)
        self.configs.insert(0, config)
        # In braces, which tell settings from the name of a file.
        return ["--config", yaml.safe_dump(config, sort_keys=False, default_flow_style=True)]

    def _settle_seed(self) -> None:
        seed = self.config["seed_everything"]
        if seed is False:
            raise ValueError("seed_everything must be a whole number, or true for one of chance")
        if seed is True:
            seed = _drawn_seed()
            self.config["seed_everything"] = seed
            self.config["data"]["init_args"]["seed"] = seed
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed_everything must be in [0, 2^32); got {seed}")

    def before_instantiate_classes(self) -> None:
        """Name the run after its task and model; check that no setting is for another task.

        Raises:
            ValueError: a schedule of a config is for another task.
        """
        check_callbacks(self.configs, self.config, self.arguments)
        left_out = drop_settings(self.configs, self.config, self.arguments)
        if left_out is not None:
            say(left_out)
        if not any(each.split("=")[0] == "--name" for each in self.arguments):
            self.config["name"] = run_name(self.configs, self.config)

    @property
    def _root(self) -> Path:
        return Path(self.config["runs"], self.config["name"])

    @property
    def _dry(self) -> bool:
        return bool(self.config["trainer"].get("fast_dev_run"))

    def _config_of_run(self) -> dict[str, Any]:
        """The whole config of the checkpoint, as it is without the flags of this command."""
        text = self._config_text(self.parser.parse_args(self._of_checkpoint))
        config: dict[str, Any] = load_yaml(text)
        return config

    def _config_text(self, config: Any = None) -> str:
        """The whole config, without the checkpoint to resume from.

        Args:
            config: the settings; ``None`` = those of this command.
        """
        config = (self.config if config is None else config).clone()
        for name in ("ckpt_path", "trust"):  # trust is said, never kept
            config.pop(name, None)
        text: str = self.parser.dump(config)
        # A value of null is left out there, as if it were the default.
        trainer = config["trainer"]
        nulls = {name: None for name in TRAINER_DEFAULTS if trainer.get(name) is None}
        if nulls:
            settings = load_yaml(text)
            settings["trainer"].update(nulls)
            text = yaml.safe_dump(settings, sort_keys=False)
        return text


def _drawn_seed() -> int:
    """A random seed, the same in each process of a run; it is printed.

    Raises:
        ValueError: each of several processes would draw a different one.
    """
    if rank() or os.environ.get("WORLD_SIZE", "1") != "1":
        if "PL_GLOBAL_SEED" not in os.environ:  # where the first process has put it
            raise ValueError(
                "seed_everything=true would draw a seed for each process; give a number"
            )
        seed = int(os.environ["PL_GLOBAL_SEED"])
    else:
        seed = int.from_bytes(os.urandom(4), "big")
    say(f"The seed is {seed}")
    return seed


def folder_of(checkpoint: str) -> Path:
    """Folder of a checkpoint's run, or the folder of the file itself."""
    folder = Path(checkpoint).resolve().parent
    return folder.parent if folder.name == "checkpoints" else folder


def _class_paths(arguments: list[str]) -> set[str]:
    """Dotted names in the user's flags and configs for parts; class paths are among them."""
    parts = {
        argument.split("=")[0]
        for argument in arguments
        if re.match(r"--(model|data|trainer)[.=+]|--(model|data|trainer)$", argument)
    }
    typed = values(arguments, *parts)
    typed += [yaml.safe_dump(read_config(config)) for config in values(arguments, "--config", "-c")]
    name = r"(?<![\w.-])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+(?![\w.])"
    return set(re.findall(name, "\n".join(typed)))


def _own_class_paths(folder: Path) -> set[str]:
    """Class paths in the ``config.yaml`` of a run whose modules are in the current folder.

    Whoever resumes a run there has named these classes when the run began.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        return set()
    names = _class_paths(["--config", str(path)])
    here = [str(Path.cwd())]
    return {name for name in names if PathFinder.find_spec(name.partition(".")[0], here)}
