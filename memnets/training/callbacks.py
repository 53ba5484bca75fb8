"""Callbacks: the memory over training, a curriculum, the report of a run, its pictures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from memnets.batches import BEGIN, Batch, unpadded
from memnets.core import check_positive, map_state
from memnets.models import Model
from memnets.training.objectives import Bits
from memnets.training.runs import update_metrics
from memnets.viewing import plots, trace

__all__ = ["Curriculum", "MemorySchedule", "Pictures", "Report"]


class MemorySchedule(lightning.Callback):
    """Change settings of a machine's memory while it trains, and its size for some test sets.

    No parameter depends on the number of slots N. A small memory in training makes a head that
    wraps around overwrite what it still needs, so that it learns to keep its place; in a small
    memory for validation too, the best checkpoint is one that does. Where nothing is said, a
    setting is that of the model.

    Args:
        training: share of the training, in ``[0, 1)`` -> settings of the access from then on, such
            as ``{slots: 128, noise: 0.0}``; of a list, each batch takes the next in turn.
        validation: N of the validation.
        testing: name of a test set -> N.

    Raises:
        ValueError: a share or a number is out of its range.
    """

    def __init__(
        self,
        training: dict[float, dict[str, Any]] | None = None,
        validation: int | None = None,
        testing: dict[str, int] | None = None,
    ) -> None:
        self.training = dict(sorted((training or {}).items()))
        self.validation = validation
        self.testing = testing or {}
        for share in self.training:
            if not 0 <= share < 1:
                raise ValueError(
                    f"training maps a share of the training in [0, 1) to settings; got {share}"
                )
        empty = [
            name for due in self.training.values() for name, value in due.items() if value == []
        ]
        if empty:
            raise ValueError(f"a list of settings needs at least one; got none for {empty[0]}")
        for slots in [*self.testing.values(), *([] if validation is None else [validation])]:
            check_positive(slots=slots)

    def setup(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        """Check that there is a memory with these settings, and note what they are.

        Raises:
            ValueError: there is not.
        """
        access = getattr(pl_module, "access", None)
        names = {"slots"}.union(*self.training.values())
        missing = sorted(name for name in names if not hasattr(access, name))
        if missing:
            raise ValueError(
                f"MemorySchedule needs a model whose access has {', '.join(sorted(names))}; "
                f"{type(pl_module).__name__} with access {type(access).__name__} lacks "
                f"{', '.join(missing)}; leave them out of its settings, or the callback out, as "
                "--trainer.callbacks=[] does"
            )
        if not hasattr(self, "usual"):
            self.usual: dict[str, Any] = {name: getattr(access, name) for name in names}

    def _set(self, pl_module: Any, **settings: Any) -> None:
        for name, value in {**self.usual, **settings}.items():
            setattr(pl_module.access, name, value)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Set what is due by how much of the training is done."""
        done = trainer.global_step / trainer.estimated_stepping_batches
        due = [settings for share, settings in self.training.items() if share <= done]
        settings = due[-1] if due else {}
        step = trainer.global_step
        self._set(
            pl_module,
            **{
                name: value[step % len(value)] if isinstance(value, list) else value
                for name, value in settings.items()
            },
        )

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Set N for the validation."""
        self._set(pl_module, **({} if self.validation is None else {"slots": self.validation}))

    def on_test_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Set N by the name of the test set."""
        self.prepare(trainer, pl_module, _test_names(trainer)[dataloader_idx])

    on_predict_batch_start = on_test_batch_start

    def prepare(self, trainer: lightning.Trainer, pl_module: Any, name: str) -> None:
        """Set N as for test set ``name``."""
        self._set(pl_module, **({"slots": self.testing[name]} if name in self.testing else {}))


class Curriculum(lightning.Callback):
    """Make the training harder whenever the model has become good at it.

    A setting of the task takes one value after the other, the next once the loss of training is
    low. How far it is, checkpoints keep, so that a run goes on where it stopped.

    Args:
        setting: of the task, such as ``training_repeats`` of :class:`~tasks.RepeatCopying`.
        values: of the setting, at least one.
        loss: what a moving average of the loss must come below, more than 0.
        steps: training batches that the average looks back on, and that each value has at least; at
            least 1.

    Raises:
        ValueError: a setting is out of its range.
    """

    def __init__(self, setting: str, values: Sequence[Any], loss: float, steps: int = 20) -> None:
        check_positive(steps=steps)
        if not values:
            raise ValueError("values must have at least one for the setting; got none")
        if loss <= 0:
            raise ValueError(f"loss must be more than 0; got {loss}")
        self.setting = setting
        self.values = list(values)
        self.loss = loss
        self.steps = steps
        self._stage = 0
        self._taken = 0
        self._average = 0.0

    @property
    def state_key(self) -> str:
        """One for each setting."""
        return self._generate_state_key(setting=self.setting)

    def state_dict(self) -> dict[str, Any]:
        """Where a resumed run goes on from."""
        return {"stage": self._stage, "taken": self._taken, "average": self._average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            ValueError: there are fewer values now.
        """
        if state_dict["stage"] >= len(self.values):
            raise ValueError(
                f"the run that goes on is at value {state_dict['stage'] + 1} of {self.setting}; "
                f"the curriculum has {len(self.values)}"
            )
        self._stage, self._taken, self._average = (
            state_dict[name] for name in ("stage", "taken", "average")
        )

    def setup(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        """Check that the task takes the values, and makes its batches when they are asked for.

        Raises:
            ValueError: it does not.
        """
        task: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(task, self.setting):
            raise ValueError(
                f"Curriculum needs a task that has {self.setting!r}; {type(task).__name__} has not"
            )
        if stage == "fit" and task.workers:
            raise ValueError(
                f"Curriculum needs a task that makes its batches when they are asked for: "
                f"workers must be 0; got {task.workers}"
            )
        usual = getattr(task, self.setting)
        for value in self.values:  # one that the task refuses is an error now
            setattr(task, self.setting, value)
        setattr(task, self.setting, usual)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Set the value that is due."""
        self._set(trainer)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Go on to the next value if the loss is low."""
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches  # which divided it
        loss = float(trainer.strategy.reduce(loss, reduce_op="mean"))
        self._taken += 1
        # The mean of the first steps, and then one that forgets.
        self._average += (loss - self._average) / min(self._taken, self.steps)
        last = self._stage + 1 == len(self.values)
        if not last and self._taken >= self.steps and self._average < self.loss:
            self._stage, self._taken, self._average = self._stage + 1, 0, 0.0
            self._set(trainer)

    def _set(self, trainer: lightning.Trainer) -> None:
        task: Any = trainer.datamodule  # type: ignore[attr-defined]
        setattr(task, self.setting, self.values[self._stage])


class Report(lightning.Callback):
    """Write ``metrics.json`` and sum up; say how training goes where there is no progress bar.

    ``val/...`` is of the last validation, ``test/...`` of the best checkpoint.
    ``train/sequences_to_solve`` is how many sequences training had seen at the first validation
    with scores that the objective calls solved; it is absent from a run that never came there, and
    so where nobody can, as on n-grams.
    ``train/tokens_per_second`` counts the tokens of the answers, where answers are tokens, and the
    time of training alone.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sequences = 0
        self.tokens = 0
        self.seconds = 0.0
        self.validating = 0.0
        self.solved: int | None = None
        self.validation: dict[str, float] = {}
        self._console = Console(soft_wrap=True)

    def state_dict(self) -> dict[str, Any]:
        """Counts that a resumed run goes on from."""
        return {
            "sequences": self.sequences,
            "tokens": self.tokens,
            "validating": self.validating,
            "seconds": self.seconds + self._since_start(),
            "solved": self.solved,
            "validation": self.validation,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from these counts."""
        self.sequences = state_dict["sequences"]
        self.tokens = state_dict["tokens"]
        self.validating = state_dict["validating"]
        self.seconds = state_dict["seconds"]
        self.solved = state_dict["solved"]
        self.validation = state_dict["validation"]

    def _since_start(self) -> float:
        return time.monotonic() - self._start if hasattr(self, "_start") else 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count."""
        self.sequences += len(batch.targets) * trainer.world_size
        if not batch.targets.is_floating_point():
            mask = batch.target_mask
            count = batch.targets.numel() if mask is None else int(mask.sum())
            self.tokens += count * trainer.world_size

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Stop the clock of training."""
        self._validation_start = time.monotonic()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Note when the task is solved; print a line where no progress bar shows it."""
        metrics = dict(_starting_with(trainer.callback_metrics, "val/"))
        if trainer.state.fn == "validate" and trainer.is_global_zero:
            self._print_table("Validation", {"val/": "validation"}, metrics)
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.validating += time.monotonic() - self._validation_start
        self.validation = metrics
        plain = {name.removeprefix("val/"): value for name, value in metrics.items()}
        if self.solved is None and pl_module.objective.solved(plain):
            self.solved = self.sequences
        if trainer.progress_bar_callback is None and trainer.is_global_zero:
            scores = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            print(f"{self.sequences} sequences: {scores}", flush=True)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Write the numbers of training; also of one that was killed after its last step."""
        if not trainer.is_global_zero:
            return
        self.seconds += self._since_start()
        self.__dict__.pop("_start", None)
        metrics = {
            "train/sequences": float(self.sequences),
            "train/steps": float(trainer.global_step),
            "train/seconds": self.seconds,
        }
        if self.tokens:
            metrics["train/tokens_per_second"] = self.tokens / (self.seconds - self.validating)
        if self.solved is not None:
            metrics["train/sequences_to_solve"] = float(self.solved)
        metrics.update(self.validation)
        update_metrics(self.folder, metrics)
        solved = "" if self.solved is None else f"; solved after {self.solved} sequences"
        self._console.print(
            f"Trained on {self.sequences} sequences in {self.seconds:.0f} s{solved}."
        )

    def on_test_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Write the scores of the test sets, and print them as a table."""
        if not trainer.is_global_zero:
            return
        metrics = dict(_starting_with(trainer.callback_metrics, "test/"))
        update_metrics(self.folder, metrics)
        task: Any = trainer.datamodule  # type: ignore[attr-defined]
        rows = {task.score_prefix(name): name for name in task.test_names()}
        self._print_table("Test", rows, metrics)
        for note in task.notes():
            self._console.print(note, markup=False, highlight=False)
        self._console.print(f"Everything is in {self.folder}")

    def _print_table(self, title: str, sets: dict[str, str], metrics: dict[str, float]) -> None:
        """A cell for each score of each set, of which ``sets`` maps the prefix to its label."""
        # Of the prefixes that a name begins with, the longest is its own.
        prefixes = sorted(sets, key=len, reverse=True)
        own = {name: next(filter(name.startswith, prefixes)) for name in metrics}
        scores = list(dict.fromkeys(name.removeprefix(own[name]) for name in metrics))

        def cells(prefixes: list[str], names: list[str]) -> list[str]:
            values = (metrics.get(f"{prefix}{name}") for prefix in prefixes for name in names)
            return ["" if value is None else f"{value:.4g}" for value in values]

        # What there is more of goes downwards: there is no end to the lines of a terminal.
        if len(scores) > max(len(sets), 6):
            table = Table("score", title=title)
            columns, lines = (
                list(sets.values()),
                [(name, cells(list(sets), [name])) for name in scores],
            )
        else:
            table = Table("set", title=title)
            columns, lines = (
                scores,
                [(label, cells([prefix], scores)) for prefix, label in sets.items()],
            )
        for column in columns:
            table.add_column(column, justify="right")
        for label, line in lines:
            table.add_row(label, *line)
        self._console.print(table)


class Pictures(lightning.Callback):
    """After a test, draw what a model answered to each test set, and where it looked.

    Where a task draws curves, these. Of binary vectors, the first sequence: the answer, and where
    the heads were. Of tokens, a few: what the model looked at while it gave its own answer
    (Bahdanau et al. 2015, figure 3), for each layer the mean of its heads; or, for a machine, where
    the heads of its memory were. Where a task draws answers in the plane, the same few, beside the
    right ones. Of episodes of images, a few: which examples the queries looked at.

    Args:
        folder: where the pictures go.
        longest: sequences and episodes whose source or target is longer are left out, but of
            curves.
        sequences: of tokens or images, how many sequences of a test set are drawn, the first of
            each of its batches before the second of any; of curves, how many panels; at least 1.
    """

    def __init__(self, folder: Path, longest: int = 200, sequences: int = 4) -> None:
        check_positive(longest=longest, sequences=sequences)
        self.folder = folder
        self.longest = longest
        self.sequences = sequences

    def on_test_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Draw."""
        if not trainer.is_global_zero:
            return
        task: Any = trainer.datamodule  # type: ignore[attr-defined]
        for name in _test_names(trainer):
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, MemorySchedule):
                    callback.prepare(trainer, pl_module, name)
            few = min(task.batches(name), self.sequences)
            batches: list[Batch] = [task.batch(name, index) for index in range(few)]
            panels = task.curves(name, partial(_answers, pl_module, batches[0]), self.sequences)
            if panels:
                plots.curves(panels, self.folder / f"{name}_curves.png", title=name)
                continue
            if batches[0].targets.dim() == 3:
                binary = isinstance(pl_module.objective, Bits)
                if binary and batches[0].targets.shape[1] <= self.longest:
                    self.draw(pl_module, batches[0], name)
                continue
            drawings = []
            for number, (whole, alone) in enumerate(self._first(batches)):
                file = f"{name}_{{}}_{number + 1}.png"
                if task.images(alone, 0) is not None:
                    self.draw_episode(pl_module, task, alone, file)
                    continue
                # With its padding: the greatest length is that of the test.
                answer = _answers(pl_module, whole)
                self.draw_tokens(pl_module, task, alone, answer, file)
                drawn = task.drawing(alone, 0, answer[0])
                if drawn is not None:
                    points, lines, caption = drawn
                    _, right, _ = task.drawing(alone, 0, alone.targets[0])
                    drawings.append(plots.Drawing(points, right, lines, caption))
            if drawings:
                plots.drawing(drawings, self.folder / f"{name}_drawing.png", title=name)

    def _first(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, Batch]]:
        """What to draw, each a batch of one: as it was, and without padding."""
        for number in range(self.sequences):
            batch, row = batches[number % len(batches)], number // len(batches)
            if row >= len(batch.targets):
                continue
            source = unpadded(batch.source, batch.source_mask, row)[None]
            inputs, targets = (
                unpadded(side, batch.target_mask, row)[None]
                for side in (batch.inputs, batch.targets)
            )
            if max(source.shape[1], targets.shape[1]) <= self.longest:
                one = slice(row, row + 1)
                yield map_state(itemgetter(one), batch), Batch(source, inputs, targets)

    def draw(self, model: Model, batch: Batch, name: str) -> None:
        """Draw the first sequence of a batch: ``<name>_answer.png`` and ``<name>_weights.png``."""
        first = _moved(map_state(lambda part: part[:1], batch), model)
        with torch.no_grad(), trace.record(model) as tape:
            probabilities = model.logits(first)[0].sigmoid()
        plots.answer(
            first.targets[0],
            probabilities,
            self.folder / f"{name}_answer.png",
            title=f"{name}: what was asked for, what came",
        )
        if tape.weights:
            tape.plot(self.folder / f"{name}_weights.png", split=first.source.shape[1])

    def draw_tokens(self, model: Model, task: Any, batch: Batch, answer: Tensor, name: str) -> None:
        """Draw where a model looked while it gave an answer in tokens.

        Args:
            model: in evaluation.
            task: whose batch it is; it gives the words.
            batch: of one sequence, without padding.
            answer: what the model answered, ``[1, T]``.
            name: of the file, with ``{}`` for what is in it: ``alignment`` or ``weights``.
        """
        names = model.alignments()
        if not names and getattr(model, "access", None) is None:
            return
        inputs = torch.cat([torch.full_like(answer[:, :1], BEGIN), answer[:, :-1]], 1)
        alone = batch._replace(inputs=inputs, targets=answer)
        with torch.no_grad(), trace.record(model) as tape:
            model.logits(_moved(alone, model))
        if not names:
            tape.plot(self.folder / name.format("weights"), split=batch.source.shape[1])
            return
        source, answered = _words(task, alone)
        slots = model.slot_names(source, _words(task, alone._replace(targets=inputs))[1])
        slots = slots[: tape.weights[next(iter(names.values()))][-1].shape[-1]]
        path = self.folder / name.format("alignment")
        tape.plot_alignment(path, names, slots, answered, title=path.stem.replace("_", " "))

    def draw_episode(self, model: Model, task: Any, batch: Batch, name: str) -> None:
        """Draw which examples the queries of an episode looked at, if the model looks at any.

        Args:
            model: in evaluation.
            task: whose batch it is; it gives the images.
            batch: of one episode of images, without padding.
            name: of the file, with ``{}`` for what is in it: ``episode``.
        """
        names = model.alignments()
        if not names:
            return
        with torch.no_grad(), trace.record(model) as tape:
            logits = model.logits(_moved(batch, model))
        answers = model.objective.answer(logits)[0].tolist()
        labels, targets = task.labels(batch, 0)
        examples, queries = task.images(batch, 0)
        path = self.folder / name.format("episode")
        plots.episode(
            # Queries are a batch, of one step each.
            {label: tape.weights[addressing][-1][:, 0] for label, addressing in names.items()},
            examples,
            queries,
            labels,
            list(zip(map(str, answers), targets, strict=True)),
            path,
            title=path.stem.replace("_", " "),
        )


@torch.no_grad()
def _answers(model: Model, batch: Batch) -> Tensor:
    """What a model answers on its own, in the form of the targets, on the CPU."""
    answers = model.predict_step(_moved(batch, model), 0).cpu()
    return answers.float() if answers.is_floating_point() else answers


def _moved(batch: Batch, model: Model) -> Batch:
    """A batch where the model is, and in its precision."""
    return map_state(
        lambda part: part.to(model.device, model.dtype if part.is_floating_point() else None), batch
    )


def _words(task: Any, batch: Batch) -> tuple[list[str], list[str]]:
    """Words for the source and the targets of a batch of one, numbers where a task has no words."""
    words: tuple[list[str], list[str]] | None = task.labels(batch, 0)
    if words is None:
        steps = [str(step + 1) for step in range(batch.source.shape[1])]
        return steps, [str(token) for token in batch.targets[0].tolist()]
    return words


def _test_names(trainer: lightning.Trainer) -> list[str]:
    names: list[str] = trainer.datamodule.test_names()  # type: ignore[attr-defined]
    return names


def _starting_with(metrics: Mapping[str, Any], prefix: str) -> list[tuple[str, float]]:
    return [(name, float(metrics[name])) for name in metrics if name.startswith(prefix)]
