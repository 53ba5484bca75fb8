"""Files with the answers of a model to the test sets, or to inputs of a user's own."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memnets.app.predictor import Predictor
from memnets.batches import PAD
from memnets.files import target_of, write_atomically
from memnets.models import Model
from tasks import Task
from tasks.base import Items

__all__ = ["answer_file", "placed", "plain", "write_answers"]


def answer_file(
    model: Model[Any], task: Task, path: str, output: str | None, chances: bool = False
) -> None:
    """Answer a file of inputs, with a line for each; after an error nothing is written.

    Args:
        model: the model.
        task: its task, which reads the file.
        path: path of the file.
        output: a file to write; ``None`` = standard output.
        chances: whether a tab and the probability of the answer follow it.

    Raises:
        ValueError: the file or an input is of another form, or ``output`` cannot be written.
        TypeError: the task has no inputs of a user's own; or it has no probabilities.
    """
    from rich.console import Console
    from rich.progress import Progress

    if output is not None:
        target_of(output)
    items = task.items(path)
    with ExitStack() as stack:
        settings: dict[str, Any] = {}
        if sys.stderr.isatty():
            bar = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
            settings["progress"] = partial(bar.advance, bar.add_task("Answering", total=len(items)))
        try:
            predictor = Predictor(model, task)
            if chances:
                lines = [
                    f"{plain(answer)}\t{chance:.4f}"
                    for answer, chance in predictor.chances(items, **settings)
                ]
            else:
                lines = [plain(answer) for answer in predictor(items, **settings)]
        except ValueError as error:
            raise placed(error, path, items) from error
    text = "".join(line + "\n" for line in lines)
    if output is None:
        sys.stdout.write(text)
    else:
        write_atomically(Path(output), lambda file: file.write(text.encode()))


def placed(error: ValueError, path: str, items: Sequence[Any]) -> ValueError:
    """The error for an input of a file, with the place of the input rather than its number.

    Args:
        error: the error of :meth:`tasks.Task.asked`, which begins with ``item`` and the number.
        path: path of the file.
        items: all inputs of the file, as :meth:`tasks.Task.items` gives them.
    """
    message = str(error)
    matched = re.match(r"item (\d+)", message)
    if matched is None or not isinstance(items, Items):
        return ValueError(f"{path}, {message}")
    place = items.places[int(matched[1]) - 1]
    # An image is its own place, and its errors may begin with it.
    return ValueError(place + message[matched.end() :].removeprefix(f": {place}"))


def write_answers(folder: Path, task: Task, answers: Sequence[Sequence[Tensor]]) -> None:
    """Write ``predictions.npz``, and with words ``predictions.tsv``; print their paths.

    Answers that are images are also drawn, ``predictions_<set>.png``.

    Args:
        folder: folder of the run.
        task: the task, which gives the batches.
        answers: answers to each batch of each test set.
    """
    names = task.test_names()
    arrays: dict[str, Any] = {}
    rows: list[tuple[str, str, str]] = []
    for name, group in zip(names, answers, strict=True):
        arrays.update(_arrays(name, task, group))
        rows += task.texts(name, list(group))
    path, table = folder / "predictions.npz", folder / "predictions.tsv"
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays))
    if rows:
        rows.insert(0, ("source", "reference", "answer"))
        text = "".join("\t".join(map(plain, row)) + "\n" for row in rows)
        write_atomically(table, lambda file: file.write(text.encode()))
    written = [path, *([table] if rows else [])]
    for name, group in zip(names, answers, strict=True):
        images = [task.as_images(answer.float()) for answer in group]
        drawn = torch.cat([each for each in images if each is not None] or [torch.empty(0)])
        if len(drawn):
            # Imported here: matplotlib takes long to load.
            from memnets.viewing import plots

            picture = folder / f"predictions_{name}.png"
            written.append(plots.gallery({f"{len(drawn)} images": drawn}, picture))
    where = " and ".join(map(str, written))
    print(f"Answers to {', '.join(names)} are in {where}")


def _arrays(name: str, task: Task, group: Sequence[Tensor]) -> dict[str, Any]:
    """Arrays of a test set, by their names in the file."""
    batches = [task.batch(name, index) for index in range(len(group))]
    arrays = {
        f"{name}/source": _joined([batch.source for batch in batches]),
        f"{name}/targets": _joined([batch.targets for batch in batches]),
        f"{name}/answers": _joined(list(group)),
    }
    rewards = [batch.rewards for batch in batches if batch.rewards is not None]
    if rewards:
        arrays[f"{name}/rewards"] = _joined(rewards)
    return arrays


def _joined(batches: list[Tensor]) -> np.ndarray[Any, Any]:
    """Join batches to one array, padded to the longest sequence."""
    steps = max(batch.shape[1] for batch in batches)
    joined = batches[0].new_full((sum(map(len, batches)), steps, *batches[0].shape[2:]), PAD)
    row = 0
    for batch in batches:
        joined[row : row + len(batch), : batch.shape[1]] = batch
        row += len(batch)
    return joined.numpy()


def plain(text: str) -> str:
    """A text with spaces in place of tabs and line ends."""
    return re.sub(r"[\t\r\n]", " ", text)
