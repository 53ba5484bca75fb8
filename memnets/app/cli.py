"""The command line: ``memnets fit``, ``test``, ``translate`` and the others (``memnets --help``).

Here are the way from arguments to a command, and the one line that an error ends in. What takes
long to import is imported when a command needs it.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings

from memnets._own import of_worker, place_of
from memnets.app.commands import COMMANDS, DESCRIPTION, UsageError, check_usage, with_config_paths
from memnets.app.messages import one_line
from memnets.app.processes import lost, rank, says_errors
from memnets.app.stopping import stoppable

__all__ = ["DESCRIPTION", "main"]

#: Set in the environment, errors come with their whole traceback.
_TRACEBACK = "MEMNETS_TRACEBACK"

#: Kinds of errors whose message says enough, by the names of their classes: those of libraries are
#: not imported for it.
_PLAIN = {
    *("ValueError", "TypeError", "OSError", "MissingExtra"),
    *("ArgumentError", "MisconfigurationException", "TrainingDiverged", "ProcessLost"),
}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; an error is one line, and Ctrl-C and SIGTERM say what is left.

    Raises:
        SystemExit: with exit code 1 after an error, 130 after Ctrl-C, 143 after SIGTERM; 75 after a
            training that was stopped, by SIGTERM or else, and goes on when it is begun again.
    """
    arguments = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    sys.path.insert(0, os.getcwd())  # parts of the user's own
    _quiet()
    if rank():
        logging.getLogger("tasks").setLevel(logging.ERROR)  # the first process says it
    try:
        with stoppable():
            _run(with_config_paths(arguments))
            sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads on. Python would try once more at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get(_TRACEBACK):
            raise
        if says_errors():
            print(f"memnets: error: {_in_words(error)}", file=sys.stderr)
        sys.exit(1)


def _run(arguments: list[str]) -> None:
    check_usage(arguments)
    command, *rest = arguments
    if command == "translate":
        from memnets.app.translate import translate

        translate(rest)
    elif command == "view":
        from memnets.app.view import view_command

        view_command(rest)
    elif command == "scoreboard":
        from memnets.app.scoreboard import run_scoreboard

        run_scoreboard(rest)
    elif command == "sweep":
        from memnets.app.sweep import run_sweep

        _quiet()  # once more, as below
        run_sweep(rest)
    elif command == "runs":
        from memnets.app.listing import list_runs

        list_runs(rest)
    elif rest and command in ("configs", "doctor"):  # check_usage has seen that it asks for help
        print(f"usage: memnets {command}\n\n{COMMANDS[command]}")
    elif command == "configs":
        from memnets.app.configs import list_configs

        list_configs()
    elif command == "doctor":
        from memnets.app.doctor import doctor

        doctor()
    else:
        from memnets.app.run import run

        _quiet()  # once more: Lightning, which it imports, sets its own levels and filters
        run(command, rest)


def _quiet() -> None:
    """Let libraries say what matters alone."""
    warnings.filterwarnings("ignore", module="pytorch_lightning|torch.utils|jsonargparse")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _kinds(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _in_words(error: Exception) -> str:
    """An error in one line, with its kind where the message alone says little."""
    if isinstance(error, UsageError):
        return str(error)
    if lost(error) and "ProcessLost" not in _kinds(error):
        return "another process of this run has ended"
    name, words, kinds = type(error).__name__, str(error), _kinds(error)
    told = of_worker(error)
    if told is not None:
        # PyTorch raises it anew as one of its class, or, of some classes, as a RuntimeError.
        kinds = kinds if told.kind == name else {told.kind}
        name, words, _ = told
    message = one_line(words)
    if len(message) > 4000:
        message = f"{message[:3997]}..."
    if not kinds & _PLAIN or not message:
        message = f"{name}: {message}".removesuffix(": ")
    place = place_of(error)
    if place:
        message = f"{place}: {message}"
    if _kinds(error) & {"ArgumentError", "ProcessLost"}:
        return message
    return f"{message} ({_TRACEBACK}=1 shows where)"
