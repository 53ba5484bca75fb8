"""``memnets view``: a page in which to watch a checkpoint at work, and :func:`view` for Python."""

from __future__ import annotations

import ast
import sys
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser

from memnets.app.commands import COMMANDS, NO_CHECKPOINT, TRUST, UsageError
from memnets.app.help import PlainHelp
from memnets.files import target_of

if TYPE_CHECKING:
    from memnets.app.checkpoints import Saved
    from memnets.viewing.interventions import Intervention
    from memnets.viewing.page import Page
    from tasks import Task

__all__ = ["interventions_of", "parser", "view", "view_command"]

#: Which examples have runs with standard interventions.
WhatIf = Literal["none", "first", "all"]

DESCRIPTION = f"""{COMMANDS["view"]}

The page is one file that needs no network and no server. For a few sequences of the test sets it
shows, step by step, inputs, targets and answers; where each head reads and writes; the memory with
what was erased and added; gates, strengths, usage and links; attention over words, images and
points. Wrong answers come first.

  memnets view runs/copying/ntm/version_0
      the best checkpoint of a run, to <run>/view.html

  memnets view best.ckpt --test_set length_50 --examples 2 --output long.html --open

  memnets view best.ckpt --input sentences.txt
      inputs of your own, in the form that memnets predict --input takes

  memnets view best.ckpt --intervene "Overwrite(body.access, slot=3, start=12)"
      the same sequences once more, with a slot wiped before step 12; the page shows both answers.
      Interventions: Overwrite, Freeze, Weights, Hide, Swap (memnets.viewing.interventions)
"""


def parser() -> ArgumentParser:
    """The parser of the command."""
    made = ArgumentParser(
        prog="memnets view",
        usage="memnets view CHECKPOINT [options]",
        description=DESCRIPTION,
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=PlainHelp,
    )
    made.add_argument(
        "checkpoint",
        type=str | None,
        nargs="?",
        help="A checkpoint of memnets fit, or the folder of a run.",
    )
    made.add_argument("--ckpt_path", type=str | None, help="The same, as for memnets test.")
    made.add_argument("--output", type=str | None, help="The file; <run>/view.html by default.")
    made.add_argument(
        "--test_set",
        type=list[str] | str | None,
        help="Names of test sets; by default the examples are shared out among all.",
    )
    made.add_argument(
        "--examples", type=int, default=6, help="Number of examples, each a sequence of a test set."
    )
    made.add_argument(
        "--first",
        action="store_true",
        help="Show the first sequences of each test set, rather than wrong answers first.",
    )
    made.add_argument(
        "--input",
        type=str | None,
        help="A file of your own inputs, shown in place of the test sets; its form depends on the "
        "task.",
    )
    made.add_argument(
        "--what_if",
        type=WhatIf,
        default="first",
        help="Examples that run once more with standard changes: the slot that was read most is "
        "wiped, a gate keeps its value.",
    )
    made.add_argument(
        "--intervene",
        type=str,
        action="append",
        help="A change of your own for every example, such as "
        '"Freeze(body.access.addressing, gate, start=20)"; several in one run with a semicolon; '
        "may be given several times, for several runs.",
    )
    made.add_argument(
        "--limit_mb",
        type=float,
        default=20.0,
        help="Largest size of the page, in megabytes; what does not fit is left out.",
    )
    made.add_argument("--open", action="store_true", help="Open the page in the browser.")
    made.add_argument(
        "--threads", type=int, default=1, help="Number of PyTorch's threads on the CPU."
    )
    made.add_argument("--trust", action="store_true", help=TRUST)
    return made


def view_command(arguments: list[str]) -> None:
    """Write a page: see ``memnets view --help``.

    Raises:
        ValueError: an argument is out of its range, or there is nothing to show.
        CheckpointError: the checkpoint cannot be used.
    """
    asked = parser().parse_args(arguments)  # first: what follows takes long to import
    import torch

    from memnets.checks import check_positive, check_threads

    path = asked.checkpoint or asked.ckpt_path
    if path is None:
        raise UsageError(NO_CHECKPOINT)
    if asked.checkpoint and asked.ckpt_path and asked.checkpoint != asked.ckpt_path:
        raise ValueError(
            f"expected one checkpoint; got {asked.checkpoint} and --ckpt_path {asked.ckpt_path}"
        )
    check_positive(examples=asked.examples)
    check_threads(asked.threads)
    if not asked.limit_mb > 0:
        raise ValueError(f"limit_mb must be more than 0; got {asked.limit_mb}")
    changes = [interventions_of(text) for text in asked.intervene or []]
    torch.set_num_threads(asked.threads)
    output = Path(asked.output) if asked.output is not None else _run_of(path) / "view.html"
    target_of(output)
    names = [asked.test_set] if isinstance(asked.test_set, str) else asked.test_set
    with ExitStack() as stack:
        page = view(
            path,
            sets=names,
            examples=asked.examples,
            worst=not asked.first,
            inputs=asked.input,
            what_if=asked.what_if,
            changes=changes,
            trust=asked.trust,
            progress=_progress(stack),
        )
        page.save(output, asked.limit_mb)
    size = output.stat().st_size / 1e6
    count = len(page.examples)
    print(f"The page is {output}, {size:.2g} MB: {count} example{'s' * (count > 1)}")
    for note in page.notes:
        print(f"  {note}")
    if asked.open and not webbrowser.open(output.absolute().as_uri()):
        print(f"There is no browser to open it; its address is {output.absolute().as_uri()}")


def _run_of(path: str) -> Path:
    """The folder of a checkpoint's run, or the folder of the file itself."""
    folder = Path(path)
    if folder.is_dir():
        return folder
    return folder.parent.parent if folder.parent.name == "checkpoints" else folder.parent


def _progress(stack: ExitStack) -> Callable[[str], object] | None:
    """Tells what comes next, on a terminal alone."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console

    status = stack.enter_context(Console(stderr=True).status("Reading the checkpoint"))
    return lambda text: status.update(f"Watching: {text}")


def view(
    model: Any,
    task: Task | None = None,
    *,
    sets: Sequence[str] | None = None,
    examples: int = 6,
    worst: bool = True,
    inputs: str | Sequence[Any] | None = None,
    batch: Any = None,
    what_if: WhatIf = "first",
    changes: Sequence[Sequence[Intervention]] = (),
    trust: bool = False,
    title: str = "",
    progress: Callable[[str], object] | None = None,
) -> Page:
    """A page in which to watch a model at work; a notebook shows it.

    Args:
        model: a model, or a checkpoint or the folder of a run, which also holds the task.
        task: the task of the model; ``None`` = that of the checkpoint.
        sets: names of test sets; all by default.
        examples: number of sequences, at least 1.
        worst: whether wrong answers come first; else the first sequences of each set.
        inputs: inputs of your own in place of test sets: a file, or a list as for
            :class:`memnets.Predictor`.
        batch: a batch of the task in place of test sets, such as ``task.batch("val", 0)``.
        what_if: whether standard interventions make further runs: of ``none``, of the ``first``
            example, or of ``all``.
        changes: interventions of your own, each list of which makes one more run of every example
            (:mod:`memnets.viewing.interventions`).
        trust: whether to build parts of the checkpoint from other libraries, which run as programs.
        title: of the page.
        progress: called with a few words on what comes next.

    Returns:
        The page; ``page.save("view.html")`` writes it.

    Raises:
        ValueError: there is no such test set, or nothing to show.
        TypeError: there is a model without its task, or the task has no inputs of a user's own.
        CheckpointError: the checkpoint cannot be used.

    Example:
        ``memnets.view("runs/copying/ntm/version_0").save("view.html")``
    """
    from memnets.app import checkpoints
    from memnets.viewing import watch

    about: dict[str, str] = {}
    prepare = None
    if isinstance(model, str | Path):
        saved = checkpoints.read(model)
        model, own = checkpoints.build_model(saved, trust), None
        if task is None:
            own = checkpoints.build_task(saved, trust)
        task = task or own
        about, prepare = _about(saved), _sized(model, saved)
        title = title or str(saved.config.get("name") or "")
    if task is None:
        raise TypeError("a model needs its task: give both, or a checkpoint")
    runs: dict[str, Any] = {"what_if": what_if, "changes": changes, "title": title}
    if inputs is not None:
        if isinstance(inputs, str):
            from memnets.app.predict import placed

            items = task.items(inputs)
            try:
                batch = task.asked(items[:examples])
            except ValueError as error:
                raise placed(error, inputs, items) from error
        else:
            items = list(inputs)
            batch = task.asked(items[:examples])
        page = watch.of_batch(model, task, batch, **runs, known=False)
        if len(items) > examples:
            page.notes.append(f"{len(items) - examples} more inputs are not shown")
    elif batch is not None:
        page = watch.of_batch(model, task, batch, **runs, count=examples)
    else:
        page = watch.page(
            model, task, sets, examples, worst, **runs, prepare=prepare, progress=progress
        )
    page.about = about
    return page


def _about(saved: Saved) -> dict[str, str]:
    """Facts about a checkpoint."""
    from memnets.records import read_metrics

    found = {"checkpoint": saved.path, "step": str(saved.content.get("global_step", ""))}
    folder = Path(saved.path).parent
    folder = folder.parent if folder.name == "checkpoints" else folder
    scores = {
        name: value
        for name, value in read_metrics(folder).items()
        if name.startswith("test/") and isinstance(value, int | float)
    }
    for name in _SCORES:
        found.update(
            (label.removeprefix("test/").replace("/", ", ").replace("_", " "), f"{value:.4g}")
            for label, value in scores.items()
            if label.rpartition("/")[2] == name
        )
        if len(found) > 2:
            break
    return {name: text for name, text in found.items() if text}


def _sized(model: Any, saved: Saved) -> Callable[[str], None] | None:
    """Sets the number of a memory's slots for a test set, as the schedule of the run does."""
    trainer = saved.config.get("trainer")
    callbacks = trainer.get("callbacks") if isinstance(trainer, Mapping) else None
    sizes: dict[str, int] = {}
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        if not isinstance(callback, Mapping):
            continue
        if str(callback.get("class_path", "")).endswith(".MemorySchedule"):
            sizes = (callback.get("init_args") or {}).get("testing") or {}
    access: Any = getattr(model, "access", None)
    if not sizes or not hasattr(access, "slots"):
        return None
    usual = access.slots

    def prepare(name: str) -> None:
        access.slots = sizes.get(name, usual)

    return prepare


#: Scores of which the first that a test has is shown.
_SCORES = ("exact", "accuracy", "hits", "error", "perplexity", "frechet", "wrong_bits", "loss")


def interventions_of(text: str) -> list[Intervention]:
    """Interventions in words, such as ``Overwrite(body.access, slot=3, start=12)``.

    A call names the class of the intervention; its arguments are those of the class: the name of a
    part, numbers, and names of fields or heads, with or without quotation marks. A semicolon
    separates several.

    Args:
        text: the words.

    Raises:
        ValueError: it is no such call, or an argument is out of its range.
    """
    from memnets.viewing import interventions

    kinds = [getattr(interventions, name) for name in interventions.__all__]
    known = {
        kind.__name__: kind
        for kind in kinds
        if isinstance(kind, type)
        and issubclass(kind, interventions.Intervention)
        and kind is not interventions.Intervention
    }
    found = []
    for part in text.split(";"):
        wrong = ValueError(
            f"expected an intervention, such as Overwrite(body.access, slot=3, start=12), of "
            f"{', '.join(sorted(known))}; got {part.strip()!r}"
        )
        try:
            call = ast.parse(part.strip(), mode="eval").body
        except SyntaxError:
            raise wrong from None
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise wrong
        if call.func.id not in known or any(each.arg is None for each in call.keywords):
            raise wrong
        try:
            positional = [_value(each) for each in call.args]
            named = {str(each.arg): _value(each.value) for each in call.keywords}
            found.append(known[call.func.id](*positional, **named))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{part.strip()}: {error}") from None
    return found


def _value(node: ast.expr) -> Any:
    """A number, a list of numbers, or a name with dots."""
    if isinstance(node, ast.Name | ast.Attribute):
        return ast.unparse(node)
    return ast.literal_eval(node)
