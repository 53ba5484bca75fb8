"""Reading of checkpoints, for every command, for the translator, and for Python (:func:`load`).

    model = memnets.load("runs/copying/ntm/version_0")     # or a file
    answers = model.generate(source)
    model.save("mine.ckpt")

A checkpoint has weights and a config. :func:`read` reads the file and runs nothing of it.
:func:`load` and :func:`load_run` build the parts that the config names, after the checks of
:mod:`memnets.app.trust`. :func:`restore_task` and :func:`start_from` put its contents into a task
and a model that a command has built from its flags.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from memnets.app.messages import one_line
from memnets.app.trust import check_parts, checked_config, checked_model, config_of, strict_parsing
from memnets.records import versions
from memnets.training.runs import (
    CheckpointError,
    Origin,
    check_name,
    check_same_model,
    load_checkpoint,
)
from memnets.training.trained import Trained
from memnets.vocabulary import Vocabulary
from tasks import Task

__all__ = [
    "Saved",
    "build_model",
    "build_task",
    "file_of",
    "load",
    "load_run",
    "read",
    "restore_task",
    "start_from",
    "vocabularies_of",
]

#: Sizes that a model and its task share.
_SIZES = ("input_size", "output_size")


@dataclass(frozen=True)
class Saved:
    """The content of a checkpoint; none of the parts that it names is built.

    Attributes:
        path: path of the file.
        content: tensors and plain values, by name.
    """

    path: str
    content: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """Settings of the run, as plain values, unchecked.

        Raises:
            CheckpointError: the settings are missing or damaged.
        """
        return config_of(self.content, self.path)

    def checked_config(
        self, trust: bool = False, named: Collection[str] = (), logs: bool = True
    ) -> tuple[dict[str, Any], list[str]]:
        """Settings that are safe to build, and a line about each setting left out.

        Args:
            trust: whether to accept parts of any kind.
            named: class paths that the user named too, which are accepted.
            logs: whether the settings are for a training; others do not use its loggers.

        Raises:
            CheckpointError: see :func:`memnets.app.trust.checked_config`.
        """
        config = self.config
        if not logs and isinstance(config.get("trainer"), dict):
            config["trainer"].pop("logger", None)
        config, left_out = checked_config(config, self.path, trust, named)
        trainer = config.get("trainer") or {}
        if "format" not in self.content and isinstance(trainer, dict):
            # In version 0.1 the default was not to clip, and what was null was left out.
            config["trainer"] = {"gradient_clip_val": None, **trainer}
        if not trust:
            config["runs"] = self._runs(config)
        return config, left_out

    @property
    def task_name(self) -> str:
        """Class path of the task."""
        data = self.config.get("data")
        return str(data.get("class_path")) if isinstance(data, dict) else "no task"

    @property
    def task_state(self) -> dict[str, Any]:
        """State of the task, such as a vocabulary; empty for most tasks."""
        # Lightning keeps it under the name of the class.
        state = self.content.get(self.task_name.rpartition(".")[2], {})
        return state if isinstance(state, dict) else {}

    def _runs(self, config: Mapping[str, Any]) -> str:
        """The folder of all runs with this file; the checkpoint may not choose where to write."""
        usual, kept = "runs", config.get("runs")
        name = Path(check_name(config.get("name") or "unnamed/unnamed")).parts
        folder = Path(self.path).absolute().parent.parent.parent
        if folder.parts[-len(name) :] != name:
            return usual
        here = folder.parents[len(name) - 1]
        if kept is not None and Path(kept).absolute() == here:
            return str(kept)
        return os.path.relpath(here)


def read(path: str | Path) -> Saved:
    """Read a checkpoint; see :func:`memnets.training.runs.load_checkpoint`.

    Args:
        path: a file, or the folder of a run, see :func:`file_of`.

    Raises:
        CheckpointError: the file is missing or damaged, or from a newer version of this library;
            or a folder has no checkpoint.
    """
    file = file_of(path)
    return Saved(str(file), load_checkpoint(file))


def load(path: str | Path, trust: bool = False) -> Any:
    """Load a model from a checkpoint, ready to answer: in evaluation mode, on the CPU.

    The model is a :class:`~memnets.training.Trained` of the class that was trained, nearly always a
    :class:`~memnets.training.Model`.

    Args:
        path: a file from ``memnets fit`` or :meth:`~memnets.training.Model.save`; or the folder of
            a run, for its best checkpoint, or its last if there is no best.
        trust: whether to build parts from other libraries than this one and PyTorch, such as your
            own model. The author of the checkpoint chose these parts, and they run as programs.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or from a newer version of this
            library, or it names parts that need ``trust``.
    """
    return build_model(read(path), trust)


def load_run(path: str | Path, trust: bool = False) -> tuple[Any, Task]:
    """Load a model and its task from a checkpoint, with the state of the task.

    Args:
        path: as in :func:`load`.
        trust: as in :func:`load`.

    Raises:
        CheckpointError: see :func:`load`; or the task cannot be made, for example because its files
            are missing.
    """
    saved = read(path)
    return build_model(saved, trust), build_task(saved, trust)


def build_model(saved: Saved, trust: bool = False) -> Any:
    """Build the model of a checkpoint; see :func:`load`."""
    settings = saved.config["model"]
    checked_model(settings, saved.path, trust)
    sizes = _sizes(saved, trust)
    parser = _parser()
    parser.add_subclass_arguments(Trained, "model", fail_untyped=False, required=True)
    for name in _SIZES:
        parser.add_argument(f"--sizes.{name}", type=int)
        parser.link_arguments(f"sizes.{name}", f"model.init_args.{name}")
    model: Trained = _build(parser, {"model": settings, "sizes": sizes}, saved.path)["model"]
    check_same_model(model, saved.content, saved.path)
    model.load_state_dict(saved.content["state_dict"])
    state = {saved.task_name.rpartition(".")[2]: saved.task_state} if saved.task_state else {}
    model.origin = Origin(saved.content["config"], sizes, state)
    return model.eval()


def build_task(saved: Saved, trust: bool = False) -> Task:
    """Build the task of a checkpoint, with its state; see :func:`load_run`."""
    config, _ = saved.checked_config(trust)
    if not isinstance(config.get("data"), dict):
        raise CheckpointError(f"{saved.path} names no task")
    parser = _parser()
    parser.add_subclass_arguments(Task, "data", fail_untyped=False, required=True)
    data = {**config["data"], "init_args": {**(config["data"].get("init_args") or {})}}
    data["init_args"]["seed"] = int(config.get("seed_everything") or 0)  # linked, so not in there
    task: Task = _build(parser, {"data": data}, saved.path)["data"]
    restore_task(task, saved)
    return task


def _parser() -> ArgumentParser:
    strict_parsing()
    return ArgumentParser(exit_on_error=False)


def _build(parser: ArgumentParser, settings: dict[str, Any], path: str) -> Any:
    try:
        config = parser.parse_object(settings)
        check_parts(config.as_dict())
        return parser.instantiate(config)
    except (ArgumentError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be used: {one_line(str(error))}") from error


def _sizes(saved: Saved, trust: bool) -> dict[str, int]:
    """Widths of the model's inputs and outputs; older checkpoints leave them to the task."""
    sizes = saved.content.get("sizes")
    if sizes is not None:
        return dict(sizes)
    if "vocabulary" in saved.task_state:
        vocabularies = vocabularies_of(saved)
        return dict(zip(_SIZES, map(len, vocabularies), strict=True))
    task = build_task(saved, trust)
    return {name: getattr(task, name) for name in _SIZES}


def vocabularies_of(saved: Saved) -> tuple[Vocabulary, Vocabulary]:
    """The vocabularies of sentences and of translations; they may be the same.

    Raises:
        CheckpointError: a vocabulary is missing or damaged.
    """
    state = saved.task_state
    if "vocabulary" not in state:
        raise CheckpointError(
            f"expected a checkpoint with the vocabulary of a translation; "
            f"{saved.path}, of {saved.task_name}, holds none"
        )
    try:
        source = Vocabulary.from_tensor(state["vocabulary"])
        target = state.get("target_vocabulary")
        return source, source if target is None else Vocabulary.from_tensor(target)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{saved.path} cannot be used: {error}") from error


def file_of(path: str | Path, goes_on: bool = False) -> Path:
    """The checkpoint of a path, for all commands and for Python.

    Args:
        path: a file, or the folder of a run.
        goes_on: whether a training goes on with it. In a folder, a training takes the last
            checkpoint, all else the best; where there is only one of them, that one.

    Raises:
        CheckpointError: there is no checkpoint in the folder.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    names = ("last.ckpt", "best.ckpt") if goes_on else ("best.ckpt", "last.ckpt")
    tried = [path / folder / name for name in names for folder in _FOLDERS]
    found = next((file for file in tried if file.is_file()), None)
    if found is None:
        runs = versions(path)
        raise CheckpointError(
            f"expected a checkpoint in {path}, checkpoints/best.ckpt or checkpoints/last.ckpt; "
            "there is none" + (f"; its newest run is {runs[-1]}" if runs else "")
        )
    return found


#: Folders of checkpoints within the folder of a run.
_FOLDERS = ("checkpoints", ".")


def restore_task(task: Task, saved: Saved) -> None:
    """Restore the state of a task from a checkpoint, where it has the name of the task's class.

    Lightning restores it too, but does not tell the task if there is none.

    Raises:
        CheckpointError: the task cannot use the state, or needs one and there is none.
    """
    try:
        task.load_state_dict(saved.content.get(type(task).__qualname__, {}))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{saved.path} cannot be used: {error}") from error


def start_from(model: Trained, task: Task, saved: Saved) -> str:
    """Start a model from the weights of a checkpoint, and its task from the saved state, if any.

    Returns:
        A line about the weights that fit and those that do not.

    Raises:
        CheckpointError: no weight fits.
    """
    path, theirs, ours = saved.path, saved.content["state_dict"], model.state_dict()
    fitting = [name for name in ours if name in theirs and theirs[name].shape == ours[name].shape]
    if not fitting:
        raise CheckpointError(f"no weights of {path} have a name and a shape as those of the model")
    if type(task).__qualname__ in saved.content:
        restore_task(task, saved)
    model.load_state_dict({name: theirs[name] for name in fitting}, strict=False)
    # A tensor that several parts share, such as a tied embedding, has several names, and counts
    # once.
    ours, theirs = _shared(ours, fitting), _shared(theirs, fitting)
    fitting = [name for name in ours if name in fitting]
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


def _shared(state: Mapping[str, Tensor], first: Collection[str]) -> dict[str, Tensor]:
    """Each tensor once: by a name among the ``first`` ones, or else by its first name."""
    names: dict[Any, str] = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.shape) if tensor.numel() else name
        if place not in names or (name in first and names[place] not in first):
            names[place] = name
    chosen = set(names.values())
    return {name: tensor for name, tensor in state.items() if name in chosen}
