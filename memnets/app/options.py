"""Commands that are one function: its arguments are their options, and stand in a config too."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter

from memnets.app.commands import COMMANDS, UsageError
from memnets.app.configs import portable
from memnets.app.messages import one_line
from memnets.app.trust import strict_parsing

__all__ = ["call", "parser_of"]


def parser_of(function: Callable[..., None], example: str, report: str) -> ArgumentParser:
    """The parser of a command that trains and reports.

    Args:
        function: function of the command's name; it takes ``report_only``, and ``command`` for its
            report.
        example: name of a config.
        report: the thing that it writes, in words.
    """
    name = function.__name__
    made = ArgumentParser(
        prog=f"memnets {name}",
        usage=f"memnets {name} --config NAME [options]",
        description=COMMANDS[name],
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=DefaultHelpFormatter,
    )
    made.add_argument("--config", action="config", help=f"Such as {example}; or a file.")
    made.add_function_arguments(function, skip={"report_only", "command"})
    made.add_argument(
        "--report_only", action="store_true", help=f"Train nothing; write {report} as it stands."
    )
    return made


def call(
    function: Callable[..., None], parser: ArgumentParser, arguments: list[str], example: str
) -> None:
    """Call the function of a command.

    Args:
        function: see :func:`parser_of`.
        parser: the result of :func:`parser_of`.
        arguments: the arguments of the command.
        example: name of a config.

    Raises:
        UsageError: an argument cannot be used.
    """
    strict_parsing()
    name = function.__name__
    try:
        asked = parser.instantiate(parser.parse_args(arguments))
    except ArgumentError as error:
        shown = f"memnets {name} --config {example} --print_config shows what a {name} holds"
        raise UsageError(f"{one_line(str(error))}; {shown}") from error
    asked.pop("config")
    function(**asked.as_dict(), command=shlex.join(["memnets", name, *_again(arguments)]))


def _again(arguments: list[str]) -> list[str]:
    """The arguments as a report names them, with which other machines make it again.

    A report alone trains nothing, so where this machine keeps its runs is no part of them.
    """
    again: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        flag, is_one, _ = argument.partition("=")
        if "--report_only" in arguments and flag in ("--report_only", "--runs"):
            if flag == "--runs" and not is_one:
                next(rest, None)
            continue
        again.append(portable(argument))
    return again
