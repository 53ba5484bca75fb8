"""The help of the commands that run a trainer: the parts first, and few of Lightning's switches."""

from __future__ import annotations

import copy
from argparse import SUPPRESS, Action, RawDescriptionHelpFormatter
from collections.abc import Iterable
from typing import Any

from jsonargparse import DefaultHelpFormatter

__all__ = ["HelpAll", "ShortHelp", "WholeHelp"]

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

#: Lightning's titles of groups of options, and the titles here; None hides the group.
GROUPS = {
    "An encoder-decoder that Lightning trains, validates and tests": "The model",
    "A source of batches": "The task",
    "Runs the full optimization routine": "Checkpoints",
    "Customize every aspect of training via flags": "How to train; --help_all shows the other "
    "switches of Lightning's trainer",
    "Linked arguments": None,
}


class WholeHelp(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Descriptions as they are written, and every option."""

    # The methods of a formatter that argparse's parser calls are not documented, but have no other
    # way to them: it has no public way to change, order or hide what another library has added.

    def start_section(self, heading: str | None) -> None:
        """Begin a group of options, under the title of :data:`GROUPS`."""
        self._hidden = GROUPS.get(heading or "", "") is None
        super().start_section(GROUPS.get(heading or "") or heading)

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
    if words is None:
        return action
    copied: Any = copy.copy(action)
    copied.help, copied.shortened = words, True
    shortened: Action = copied
    return shortened


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
