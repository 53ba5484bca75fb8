"""The folder of a run, ``runs/<task>/<model>/version_<n>/``, and its files."""

from __future__ import annotations

import copy
import csv
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.loggers.logger import Logger
from torch import Tensor, nn

from memnets.files import write_atomically
from memnets.records import versions

__all__ = [
    "FORMAT",
    "AtomicCheckpointIO",
    "CSVTable",
    "CheckpointError",
    "Origin",
    "changes",
    "check_name",
    "check_optimizer_state",
    "check_same_model",
    "last_version",
    "load_checkpoint",
    "next_version",
]


#: Number of the layout of checkpoints. It rises if older versions cannot read the new layout.
#: Version 0.1 wrote no number.
FORMAT = 2


class CheckpointError(ValueError):
    """Error: a checkpoint is missing, damaged, or of another model."""


class Origin(NamedTuple):
    """Settings of a model, with which it can be built again from a checkpoint.

    Attributes:
        config: YAML of the run, with the settings of the model under ``model``.
        sizes: ``input_size`` and ``output_size``, which the task has set.
        task_state: state of the task, by the name of its class; empty for most tasks.
    """

    config: str
    sizes: dict[str, int]
    task_state: dict[str, dict[str, Any]]

    def entries(self) -> dict[str, Any]:
        """Entries for a checkpoint."""
        return {"config": self.config, "sizes": dict(self.sizes), **self.task_state}


def load_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Load a checkpoint, tensors and plain values alone (``weights_only=True``).

    Raises:
        CheckpointError: there is no such file, it is a folder, it is damaged, or a newer version
            of this library wrote it.
    """
    if Path(path).is_dir():
        raise CheckpointError(
            f"expected a checkpoint at {path}; it is a folder, and a run has its checkpoints in "
            "checkpoints/best.ckpt and checkpoints/last.ckpt"
        )
    if not Path(path).is_file():
        raise CheckpointError(f"expected a checkpoint at {path}; there is no such file")
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch raises many kinds, depending on the damage
        reason = str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise CheckpointError(
            f"expected a checkpoint at {path}; the file is damaged or of another kind ({reason})"
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(f"expected a checkpoint at {path}; the file holds no state_dict")
    written = checkpoint.get("format", 1)
    if type(written) is int and written > FORMAT:
        raise CheckpointError(
            f"{path} has the format {written}, and this version of memnets reads up to {FORMAT}; "
            "a newer version reads it"
        )
    for name, fits, expected in _CHECKPOINT:
        if name in checkpoint and not fits(checkpoint[name]):
            raise CheckpointError(
                f"expected a checkpoint at {path}; it is damaged: {name} must be {expected}"
            )
    return checkpoint


def _whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def _named_tensors(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    )


def _sizes(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"input_size", "output_size"}
        and all(map(_whole, value.values()))
    )


def _optimizer_states(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and isinstance(one.get("state"), dict)
        and all(isinstance(state, dict) for state in one["state"].values())
        and isinstance(one.get("param_groups"), list)
        and all(isinstance(group, dict) and "params" in group for group in one["param_groups"])
        for one in value
    )


def _callback_states(value: Any) -> bool:
    """Whether these are states of callbacks, with no path that leads out of its folder.

    Training deletes a checkpoint when it has a better one. Lightning checks that the file lies in
    the folder of the run, but accepts ``<folder>/../../other``.
    """
    if not isinstance(value, dict):
        return False
    for state in value.values():
        if not isinstance(state, dict):
            continue
        kept = state.get("best_k_models")
        paths = [*(kept if isinstance(kept, dict) else ())]
        paths += [part for name, part in state.items() if str(name).endswith("model_path")]
        for path in paths:
            parts = Path(path).parts if isinstance(path, str) else ()
            if ".." in itertools.dropwhile("..".__eq__, parts):
                return False
    return True


def _generators(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("others", []), list):
        return False
    every = [value, *value.get("others", [])]
    return all(isinstance(one, dict) and isinstance(one.get("cpu"), Tensor) for one in every)


#: For each entry of a checkpoint, a check of its value, and a description for the error.
_CHECKPOINT: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("format", lambda value: _whole(value) and value > 0, "a whole number of at least 1"),
    ("state_dict", _named_tensors, "tensors by their names"),
    ("sizes", _sizes, "input_size and output_size, whole numbers"),
    ("optimizer_states", _optimizer_states, "a list of states of optimizers"),
    ("lr_schedulers", lambda value: isinstance(value, list), "a list"),
    (
        "callbacks",
        _callback_states,
        "states of callbacks by their names, with no way out of a folder",
    ),
    ("loops", lambda value: isinstance(value, dict), "states of loops by their names"),
    ("generators", _generators, "states of random generators by their names"),
    ("global_step", _whole, "a whole number of at least 0"),
    ("epoch", _whole, "a whole number of at least 0"),
    (
        "processes",
        lambda value: _whole(value) and value > 0,
        "a whole number of processes, at least 1",
    ),
)


def check_same_model(model: nn.Module, checkpoint: dict[str, Any], path: str) -> None:
    """Check that a checkpoint has the parameters of a model, by names and shapes.

    Raises:
        CheckpointError: it does not.
    """
    ours = {name: list(value.shape) for name, value in model.state_dict().items()}
    theirs = {name: list(value.shape) for name, value in checkpoint["state_dict"].items()}
    older = "" if "format" in checkpoint else ", or of memnets 0.1, whose layout was another"
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            raise CheckpointError(
                f"{path} is a checkpoint of another model{older}: expected {name} of shape "
                f"{ours.get(name, 'none')}; got {theirs.get(name, 'none')}"
            )


def check_optimizer_state(
    make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
    groups: Sequence[Sequence[nn.Parameter]],
    checkpoint: Mapping[str, Any],
    path: str,
) -> None:
    """Check that an optimizer can use its state in a checkpoint, by a step on copies.

    Args:
        make: makes the optimizer from groups of parameters.
        groups: the model's parameters; they do not change.
        checkpoint: a checkpoint of the same model.
        path: path of the checkpoint, for an error.

    Raises:
        CheckpointError: the optimizer cannot use its state.
    """
    states = checkpoint.get("optimizer_states")
    if not states:
        raise CheckpointError(f"{path} has no state of an optimizer, which a resumed run needs")

    def copied(parameter: nn.Parameter) -> nn.Parameter:
        one = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
        one.grad = torch.zeros_like(one) if one.requires_grad else None
        return one

    def copies() -> list[dict[str, Any]]:
        return [{"params": [copied(parameter) for parameter in group]} for group in groups]

    # Optimizers check their states only when they use them, in a step. A new optimizer takes a step
    # first: if that fails, the checkpoint is not the cause.
    fresh, restored = make(copies()), make(copies())
    with torch.random.fork_rng(devices=[]):
        try:
            fresh.step()
        except Exception:  # an optimizer that needs more than gradients, such as a closure
            return
        try:
            restored.load_state_dict(copy.deepcopy(states[0]))
            _unfuse(restored)
            restored.step()
        except Exception as error:  # optimizers raise many kinds
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise CheckpointError(
                f"{path} cannot be resumed: {type(restored).__name__} cannot use the state "
                f"of its optimizer ({reason[:200]})"
            ) from error


def _unfuse(optimizer: torch.optim.Optimizer) -> None:
    """Check the shapes of a state, and let the optimizer step without PyTorch's fused operations.

    Fused operations check no shapes: with a damaged state they read and write beyond its memory.

    Raises:
        ValueError: a part of the state does not have the shape and the strides of its parameter.
    """
    for group in optimizer.param_groups:
        if not group.get("fused"):
            continue
        group["fused"] = group["foreach"] = False
        for parameter in group["params"]:
            for name, part in optimizer.state[parameter].items():
                if name == "step" or not isinstance(part, torch.Tensor):
                    continue
                if (part.shape, part.stride()) != (parameter.shape, parameter.stride()):
                    raise ValueError(
                        f"{name} must have the shape of its parameter, {list(parameter.shape)}; "
                        f"got {list(part.shape)} with strides {list(part.stride())}"
                    )


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint files that stay whole if the process is killed while it writes."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a new file beside the old one, then replace it."""
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load tensors and plain values alone, into the main memory unless told otherwise.

        So what was trained on a GPU goes on where there is none. Lightning moves the tensors on.

        Raises:
            CheckpointError: there is no such file, or it is damaged.
        """
        return load_checkpoint(path, "cpu" if map_location is None else map_location)


def changes(before: Any, now: Any) -> list[tuple[str, Any, Any]]:
    """Settings in which two configs differ: the full name, the old value and the new value.

    Settings in only one of the configs do not count: the other leaves them at their defaults.
    """
    old, new = dict(_leaves(before)), dict(_leaves(now))
    # A config may give settings of a part without init_args, if it leaves the class as it is.
    plain = {name.replace(".init_args.", "."): value for name, value in new.items()}
    common = [(name, name.replace(".init_args.", ".")) for name in old]
    common = [(name, short) for name, short in common if short in plain]
    return [
        (name, old[name], plain[short])
        for name, short in common
        if not _same(old[name], plain[short])
    ]


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their full names; a list is one value, unless it is one of parts."""
    parts = isinstance(config, list) and any(isinstance(each, dict) for each in config)
    if not isinstance(config, dict) and not parts:
        yield prefix, config
        return
    for name, value in config.items() if isinstance(config, dict) else enumerate(config):
        yield from _leaves(value, f"{prefix}.{name}" if prefix else str(name))


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same; a class may be named with or without its module."""
    if isinstance(one, str) and isinstance(other, str):
        return f".{one}".endswith(f".{other}") or f".{other}".endswith(f".{one}")
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def check_name(name: Any) -> str:
    """Check the name of a run, ``<task>/<model>``, which is also the name of its folder.

    Each part begins with a letter, a digit or an underscore, so that it cannot lead out of the
    folder of all runs, and has no space, control character, slash or backslash.

    Raises:
        ValueError: the name is not valid.
    """
    parts = name.split("/") if isinstance(name, str) else []
    fine = [part.isprintable() and re.fullmatch(r"\w[^\s\\]{0,99}", part) for part in parts]
    if not parts or not all(fine):
        shown = repr(name) if len(repr(name)) <= 80 else repr(name)[:77] + "..."
        raise ValueError(
            "name must be <task>/<model>, each of letters, digits and signs but no space and at "
            f"most 100 long; got {shown}"
        )
    return str(name)


def next_version(root: Path) -> Path:
    """Make the next folder ``version_<n>`` under ``root``; each of several runs gets its own.

    Raises:
        ValueError: where a folder should be, there is a file.
    """
    while True:
        known = versions(root)
        number = int(known[-1].name.removeprefix("version_")) + 1 if known else 0
        folder = root / f"version_{number}"
        # To make a folder is atomic: of two runs at once, one gets the error and takes the next.
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except NotADirectoryError:
            file = next(each for each in folder.parents if each.is_file())
            raise ValueError(f"expected a folder for runs at {file}; it is a file") from None
        return folder


def last_version(root: Path) -> Path:
    """The newest folder under ``root`` with a checkpoint to resume from.

    Raises:
        CheckpointError: there is none.
    """
    for folder in reversed(versions(root)):
        if (folder / "checkpoints" / "last.ckpt").is_file():
            return folder
    raise CheckpointError(
        f"expected a run to resume, {root}/version_<n>/checkpoints/last.ckpt; there is none"
    )


class CSVTable(Logger):
    """Logger to ``metrics.csv``, with a row for each step; a resumed run continues its table.

    Args:
        folder: folder of the run.
        resumed_step: step at which the run resumes; rows of this step and later are dropped, since
            the run will write them again. ``None`` = a new table.
    """

    def __init__(self, folder: Path, resumed_step: int | None = None) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self.rows: dict[int, dict[str, Any]] = {}
        if resumed_step is not None and self.path.is_file():
            with self.path.open(newline="") as file:
                for row in csv.DictReader(file):
                    if int(row["step"]) < resumed_step:
                        self.rows[int(row["step"])] = {k: v for k, v in row.items() if v != ""}

    @property
    def name(self) -> str:
        """Name of the model's folder of runs."""
        return self.path.parent.parent.name

    @property
    def version(self) -> str:
        """Name of the folder of the run."""
        return self.path.parent.name

    @property
    def log_dir(self) -> str:
        """Folder of the run."""
        return str(self.path.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing; the settings are in ``config.yaml``."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add numbers to the row of a step."""
        self.rows.setdefault(step or 0, {"step": step or 0}).update(metrics)

    def save(self) -> None:
        """Write the table."""
        columns = sorted({name for row in self.rows.values() for name in row} - {"step"})

        def write(file: IO[bytes]) -> None:
            lines = [["step", *columns]]
            lines += [
                [str(row.get(name, "")) for name in ["step", *columns]]
                for _, row in sorted(self.rows.items())
            ]
            file.write("".join(",".join(line) + "\n" for line in lines).encode())

        if self.rows:
            write_atomically(self.path, write)

    def finalize(self, status: str) -> None:
        """Write the rest of the table."""
        self.save()
