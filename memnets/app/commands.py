"""Names, help and options of the commands, and errors of usage that need no part of a model.

Nothing here imports PyTorch or Lightning, so that help and errors of usage come at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from memnets.app.configs import find_config
from memnets.app.messages import nearest
from memnets.files import read_settings

__all__ = [
    "COMMANDS",
    "DESCRIPTION",
    "EXAMPLES",
    "OPTIONS",
    "TRUST",
    "UsageError",
    "check_usage",
    "config_path",
    "values",
    "with_config_paths",
]

DESCRIPTION = """Train, test and use memory-augmented networks.

  memnets fit --config copying/ntm
      train, test the best checkpoint, and leave everything in runs/copying/ntm/version_<n>/

  memnets fit --config copying/ntm --model.controller=memnets.cells.GRU
      the same with another part; any part can be replaced by your own, by its class path

  memnets fit --ckpt_path runs/copying/ntm/version_0
      resume that run exactly where it stopped, with its settings

  memnets fit --config copying/ntm --ckpt_path last
      resume the newest run of that config; repeat the flags that you gave it

  memnets test --ckpt_path runs/copying/ntm/version_0
      score its best checkpoint, which holds its whole config; flags change parts of it

  memnets view runs/copying/ntm/version_0
      a page in which to watch the best checkpoint of a run at work, step by step

  memnets translate --checkpoint runs/<task>/<model>/version_0 < input.txt
      a translation of each line

  memnets runs
      the list of all runs with their scores, and runs/index.html, a page of them

  memnets scoreboard --config scoreboards/ntm
      train many runs in parallel, and write RESULTS.md; the same command resumes them

  memnets sweep --config sweeps/copying
      search the flags that give the best score, and write the best config, best.yaml
"""

#: Each command and its help in a line.
COMMANDS = {
    "fit": "Train, then test the best checkpoint, or the last weights.",
    "validate": "Score a checkpoint on the validation set.",
    "test": "Score a checkpoint on the test sets, and draw its answers and weights.",
    "view": "Write a page of HTML in which to watch a checkpoint at work, step by step.",
    "predict": "Write a checkpoint's answers to the test sets, or to your own inputs, to a file.",
    "translate": "Translate text, one sentence in each line, with a checkpoint alone.",
    "scoreboard": "Train a list of tasks and models with several seeds, and write a table of them.",
    "sweep": "Search the flags of fit that give the best score, and write a report.",
    "runs": "List the runs with their scores, and write runs/index.html, a page of them.",
    "configs": "List the configs that come with memnets: memnets fit --config <name>.",
    "doctor": "Show versions, the machine, and which fast twins are in use here, and why not.",
}

TRUST = (
    "Accept parts that only the checkpoint names, such as your own classes; they run as programs."
)

EXAMPLES = """
What you will need most:

  --config NAME                     a config to start from (memnets configs lists all), or a file
  --seed_everything 3               another seed, of the weights and of the data
  --model.optimizer.lr 0.001        a setting of a part
  --model.controller my.Controller  another part, by its class path
  --data.max_length 30              a setting of the task
  --trainer.max_steps 1000          number of training steps
  --pictures_format svg             pictures after the test as vectors
  --pictures_every 1                pictures for TensorBoard after each validation
  --print_config                    print the whole config of these flags, and exit
  --model.help memnets.models.MemoryMachine      the settings of a class
  --data.help tasks.Copying
"""

#: Options of the commands that run a trainer, up to the first dot.
_COMMON = (
    *("ckpt_path", "compile", "config", "data", "help", "help_all", "init_from", "model", "name"),
    *(
        "pictures_every",
        "pictures_format",
        "print_config",
        "runs",
        "seed_everything",
        "test_weights",
        "threads",
        "trainer",
        "trust",
        "view",
        "weights_only",
    ),
)

#: Command -> its options, up to the first dot. They are here once more than in the parsers, so that
#: a mistyped one is found before the parsers are made, which takes seconds.
OPTIONS = {
    "fit": _COMMON,
    "validate": (*_COMMON, "verbose"),
    "test": (*_COMMON, "verbose"),
    "view": (
        *("ckpt_path", "examples", "first", "help", "input", "intervene", "limit_mb", "open"),
        *("output", "test_set", "threads", "trust", "what_if"),
    ),
    "predict": (*_COMMON, "chances", "input", "output", "return_predictions"),
    "translate": (
        *("batch_tokens", "beam", "checkpoint", "device", "help", "input", "length_penalty"),
        *("max_length", "n_best", "output", "stream", "threads", "trust"),
    ),
    "scoreboard": (
        *("config", "entries", "executor", "grid", "help", "print_config", "processes", "records"),
        *("report_only", "results", "runs", "threads"),
    ),
    "sweep": (
        *("config", "direction", "executor", "fit", "flags", "help", "metric", "name"),
        *("objective", "print_config", "processes", "pruner", "report_only", "runs"),
        *("sampler", "seed", "seeds", "space", "storage", "threads", "trials"),
    ),
    "runs": ("help", "runs"),
    "configs": ("help",),
    "doctor": ("help",),
}

#: Error of a view without a checkpoint.
NO_CHECKPOINT = (
    "memnets view needs a checkpoint, or the folder of a run: "
    "memnets view runs/<task>/<model>/version_<n>"
)

_HELP = {"-h", "--help", "--help_all"}


class UsageError(ValueError):
    """Error: a command has unknown arguments, or lacks required ones."""


def check_usage(arguments: Sequence[str]) -> None:
    """Answer ``--help`` and ``--version``, and find the errors of usage that are quick to find.

    Args:
        arguments: all that follow ``memnets``.

    Raises:
        SystemExit: help or the version was asked for, and printed.
        UsageError: a command or an option is not known, or one is missing.
        ValueError: a config cannot be read.
    """
    command, *rest = arguments
    if command in ("-h", "--help"):
        print(_help(), end="")
        raise SystemExit(0)
    if command == "--version":
        from importlib import metadata

        print(f"memnets {metadata.version('memnets')}")
        raise SystemExit(0)
    if command not in COMMANDS:
        near = nearest(command.strip("-"), COMMANDS, 1)
        raise UsageError(
            f"expected a command, {', '.join(COMMANDS)}; got {command}; did you mean {near}?"
        )
    _check_options(command, rest)
    if _HELP & set(rest):
        return
    if rest and command in ("configs", "doctor"):
        raise UsageError(f"memnets {command} takes no arguments; got {' '.join(rest)}")
    _check_configs(rest)
    flag = "--checkpoint" if command == "translate" else "--ckpt_path"
    flags = values(rest, flag)
    if command == "view" and not flags and all(argument.startswith("-") for argument in rest):
        raise UsageError(NO_CHECKPOINT)
    if command in ("validate", "test", "predict", "translate") and not flags:
        raise UsageError(
            f"memnets {command} needs {flag}=<run>, the folder of a run or a checkpoint; "
            "memnets fit leaves its runs in runs/<task>/<model>/version_<n>"
        )
    if command == "fit":
        _check_parts_of_fit(rest)


def _help() -> str:
    commands = "".join(f"  {name:<12}{text}\n" for name, text in COMMANDS.items())
    options = "  -h, --help  show this help; after a command, its options\n"
    options += "  --version   show the version\n"
    usage = "usage: memnets <command> [options]"
    return f"{usage}\n\n{DESCRIPTION}\ncommands:\n{commands}\noptions:\n{options}"


#: Where a name that is no option of a command is one: with a prefix, or in other words.
_ELSEWHERE = {
    "checkpoint": "ckpt_path",
    "ckpt_path": "checkpoint",
    "seed": "seed_everything",
    **{
        name: f"trainer.{name}"
        for name in ("accelerator", "callbacks", "devices", "logger", "max_steps", "precision")
    },
}


def _check_options(command: str, arguments: Sequence[str]) -> None:
    for argument in arguments:
        match = re.match(r"--([^=.+]+)([^=+]*)", argument)
        if argument == "--" or match is None:
            if argument == "--":
                return  # what follows are no options
            continue
        if match[1] not in OPTIONS[command]:
            near = _ELSEWHERE.get(match[1], "")
            if near.partition(".")[0] not in OPTIONS[command]:
                near = nearest(match[1], OPTIONS[command], 1)
            raise UsageError(
                f"unrecognized arguments: {argument}; did you mean --{near}{match[2]}?"
            )


def _check_parts_of_fit(arguments: Sequence[str]) -> None:
    """Check that a training has a model and a task: of a config, a checkpoint, or flags."""
    checkpoints = values(arguments, "--ckpt_path", "--init_from")
    if values(arguments, "--config", "-c") or (checkpoints and checkpoints[-1] != "last"):
        return
    if any(re.match(r"--print_config|--(model|data|trainer[\w.]*)\.help\b", a) for a in arguments):
        return
    for part, kind in (("model", "model"), ("data", "task")):
        if any(re.match(rf"--{part}(=|$|\.class_path\b)", one) for one in arguments):
            continue
        settings = (re.match(rf"--{part}\.([\w.]+)=?(.*)", one) for one in arguments)
        found = next((match for match in settings if match), None)
        if found:
            following = arguments[[one.startswith(found[0]) for one in arguments].index(True) + 1 :]
            value = found[2] or (following[0] if following else "<value>")
            raise UsageError(
                f"there is no {kind} yet that has a setting {found[1]}: give its config or its "
                "class first, as in memnets fit --config copying/ntm "
                f"--{part}.{found[1]} {value}"
            )
    if not any(re.match(r"--(model|data)\b", one) for one in arguments):
        raise UsageError(
            "a training needs a model and a task; start from a config: "
            "memnets fit --config copying/ntm"
        )


def values(arguments: Sequence[str], *flags: str) -> list[str]:
    """Values of a flag in the arguments, under any of its names."""
    return [
        following if argument in flags else argument.partition("=")[2]
        for argument, following in zip_longest(arguments, arguments[1:], fillvalue="")
        if argument.split("=")[0] in flags
    ]


def config_path(value: str) -> str:
    """The file of a value of ``--config``; settings in braces are returned unchanged.

    Raises:
        ValueError: there is no such file, and no config of this name.
    """
    return value if not value or value.lstrip().startswith("{") else find_config(value)


def with_config_paths(arguments: Sequence[str]) -> list[str]:
    """The arguments with a file for each config: see :func:`config_path`."""
    found = list(arguments)
    for place, argument in enumerate(arguments):
        flag, is_one, value = argument.partition("=")
        if flag not in ("--config", "-c"):
            continue
        if is_one:
            found[place] = f"{flag}={config_path(value)}"
        elif place + 1 < len(found):
            found[place + 1] = config_path(found[place + 1])
    return found


def _check_configs(arguments: Sequence[str]) -> None:
    """Check that the configs in the arguments can be read.

    Raises:
        ValueError: a config cannot be read or has no settings.
    """
    for config in values(arguments, "--config", "-c"):
        if not config.lstrip().startswith("{"):  # settings themselves
            read_settings(config)
    flags = [argument.split("=")[0] for argument in arguments]
    parts = [
        flag for flag in flags if re.match(r"--(model|data|trainer)$|--(model|trainer)\.", flag)
    ]
    for value in values(arguments, *parts):  # which may be files of settings
        if _is_fifo(value):
            read_settings(value)


def _is_fifo(value: str) -> bool:
    """Whether a value is the path of a pipe; settings as text may be longer than any path."""
    try:
        return Path(value).is_fifo()
    except (OSError, ValueError):
        return False
