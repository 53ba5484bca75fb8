"""Help of the commands that run a trainer: the parts first, then a few of Lightning's switches."""

from __future__ import annotations

import copy
from argparse import SUPPRESS, Action, RawDescriptionHelpFormatter
from collections.abc import Iterable
from typing import Any

from jsonargparse import DefaultHelpFormatter

__all__ = ["TITLES", "HelpAll", "PlainHelp", "ShortHelp", "WholeHelp"]

#: Switches of Lightning's trainer that the help of a command shows.
SWITCHES = {
    "max_steps": "Number of training steps.",
    "max_time": "Time limit of this command, DD:HH:MM:SS.",
    "accelerator": "cpu, gpu, mps, or auto.",
    "devices": "Number of devices, or a list of their numbers.",
    "precision": "32-true, bf16-mixed, 16-mixed, 64-true and so on.",
    "gradient_clip_val": "Greatest norm of the gradient.",
    "accumulate_grad_batches": "Number of batches whose gradients are added up for a step.",
    "callbacks": "A list of callbacks, [] for none; += adds one.",
    "logger": "Another logger than TensorBoard, by its class; false for none, nor metrics.csv.",
}

#: The same for other options that Lightning adds.
OTHERS = {
    "ckpt_path": "A checkpoint, or the folder of a run: fit goes on with its last one, others take "
    "its best one. With fit also last: the newest run; or auto: the newest, or else a new one.",
    "seed_everything": "Seed of the weights and of the data; 0 by default.",
    "trainer": SUPPRESS,
    "weights_only": SUPPRESS,
}

#: Titles of groups of options.
TITLES = {
    "model": "The model",
    "data": "The task",
    "trainer": "How to train; --help_all shows the other switches of Lightning's trainer",
}


class PlainHelp(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Help with unchanged descriptions."""


class WholeHelp(PlainHelp):
    """Help with unchanged descriptions and all options."""

    # The methods of a formatter that argparse's parser calls are not documented, but have no other
    # way to them: it has no public way to change, order or hide what another library has added.

    def start_section(self, heading: str | None) -> None:
        """Begin a group of options."""
        self._hidden = heading == "Linked arguments"  # set by one side for the other, by no user
        super().start_section(heading)

    def add_arguments(self, actions: Iterable[Action]) -> None:
        """Add the options of a group."""
        super().add_arguments([] if self._hidden else actions)


class ShortHelp(WholeHelp):
    """Help with the most useful of Lightning's switches only."""

    def add_arguments(self, actions: Iterable[Action]) -> None:
        """Add the options of a group, in the words of :data:`SWITCHES` and :data:`OTHERS`."""
        super().add_arguments([_shortened(action) for action in actions])

    def _get_help_string(self, action: Action) -> str:
        # No types behind our words; argparse's formatters are made to be changed by this method
        # (ArgumentDefaultsHelpFormatter is), and have no public one.
        if getattr(action, "shortened", False):
            return str(action.help)
        return super()._get_help_string(action)


def _shortened(action: Action) -> Action:
    name = action.dest.removeprefix("trainer.")
    words = SWITCHES.get(name, SUPPRESS) if name != action.dest else OTHERS.get(name)
    if action.dest in ("model", "data"):
        words = f"A class, by its name or its class path: {_classes(action)}."
    if words is None:
        return action
    copied: Any = copy.copy(action)
    copied.help, copied.shortened = words, True
    shortened: Action = copied
    return shortened


#: A package of many small classes, of which the help names the package alone.
_MANY = "tasks.symbols"


def _classes(action: Any) -> str:
    """Names of the classes that an option takes, in alphabetical order."""
    # The parser has them in a text alone: ", known subclasses: memnets.SNAIL, memnets.GAN".
    paths = action.extra_help().rpartition(": ")[2].split(", ")
    few = [path for path in paths if not path.startswith(f"{_MANY}.")]
    names = ", ".join(sorted(path.rpartition(".")[2] for path in few))
    return names if len(few) == len(paths) else f"{names}; and those of {_MANY}"


class HelpAll(Action):
    """Show the help with every switch of the trainer."""

    HELP = "Show this help with all switches of Lightning's trainer, and exit."

    def __init__(self, **settings: Any) -> None:
        super().__init__(nargs=0, default=SUPPRESS, **settings)

    def __call__(self, parser: Any, *_: Any) -> None:
        """Print the help, and exit."""
        parser.formatter_class = WholeHelp
        parser.print_help()
        parser.exit()
