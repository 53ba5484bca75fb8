"""Runs of two processes together; see test_processes.

The tests do the same in one process, with the batches of both at once. ``python -m tests.pair fit``
is ``memnets fit``, in which the second of two processes is killed.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch

from memnets.addressing import Content
from memnets.batches import Batch, padded_to
from memnets.cells import GRU, LSTM
from memnets.encoders import Recurrent
from memnets.memories import NTM
from memnets.models import SNAIL, MemoryMachine, PointerNetwork, Seq2Seq, Transformer
from memnets.scores import ScaledDot
from memnets.training import Tokens
from tasks import Copying, CopyingTokens, SortingNumbers, Translation

CONFIG = Path(__file__).parent.parent / "configs" / "copying" / "transformer.yaml"
#: A model with dropout; a set of one batch, which two processes cannot share out evenly.
RUN = [
    "--config", str(CONFIG),
    "--model.width=8",
    "--model.hidden_size=8",
    "--model.layers=1",
    "--model.heads=2",
    "--model.dropout=0.3",
    "--data.batch_size=2",
    "--data.max_length=3",
    "--data.epoch_batches=6",
    "--data.validation_batches=3",
    "--data.validation_batch_size=2",
    "--data.test_sequences=3",
    "--data.test_sets=[[3, 3]]",
    "--trainer.max_steps=7",
    "--trainer.log_every_n_steps=1",
    "--trainer.accelerator=cpu",
    "--trainer.strategy=ddp",
]  # fmt: skip
STEPS = 3
#: Printed before what a user would do.
BEGIN = "-- begin --"


def parts(name: str) -> tuple[Any, Any]:
    """A model and its task; the lengths of batches differ, so that padding counts."""
    sizes = {"batch_size": 2, "validation_batches": 3, "validation_batch_size": 2}
    sizes = {**sizes, "epoch_batches": 100}
    tokens = CopyingTokens(min_length=1, max_length=6, test_sets=[(4, 2)], **sizes)
    size = {"input_size": tokens.input_size, "output_size": tokens.output_size}
    common = {"objective": Tokens(), "optimizer": partial(torch.optim.SGD, lr=0.5)}
    torch.manual_seed(1)
    recurrent = partial(Recurrent, controller=partial(GRU, hidden_size=6))
    if name == "ntm":
        task = Copying(width=3, max_length=5, test_sets=[(4, 2)], **sizes)
        sgd = common["optimizer"]
        ntm = NTM(slots=5, width=4)
        lstm = partial(LSTM, hidden_size=6)
        return MemoryMachine(task.input_size, task.output_size, lstm, ntm, optimizer=sgd), task
    if name == "seq2seq":
        return Seq2Seq(**size, width=6, encoder=recurrent, decoder=partial(GRU, hidden_size=12),
                       **common), tokens  # fmt: skip
    if name == "transformer":
        return Transformer(
            **size, width=8, heads=2, layers=1, hidden_size=8, dropout=0.0, **common
        ), tokens
    if name == "snail":
        return SNAIL(**size, width=6, max_length=40, attentions=[(4, 4)], filters=4,
                     kernel_size=2, **common), tokens  # fmt: skip
    task = SortingNumbers(
        min_points=2, max_points=6, batch_points=12, test_sets=[(4, 2)], epoch_batches=100,
        validation_batches=3, validation_batch_size=2,
    )  # fmt: skip
    pointer = PointerNetwork(
        input_size=task.input_size, output_size=task.output_size, width=6, encoder=recurrent,
        decoder=partial(GRU, hidden_size=6), attention=Content(ScaledDot()), **common,
    )  # fmt: skip
    return pointer, task


MODELS = ["ntm", "seq2seq", "transformer", "pointer", "snail"]


def trained(name: str, alone: bool, folder: Path) -> dict[str, Any]:
    """Weights and scores after some steps, and the numbers of the batches that were taken."""
    model, task = parts(name)
    trainer = a_trainer(alone, max_steps=STEPS)
    seen = noted(task)
    if alone:
        of_one, task.batch = task.batch, lambda *which: doubled(of_one, *which)
    trainer.fit(model, datamodule=task)
    trainer.save_checkpoint(folder / f"{name}_{'one' if alone else 'two'}.ckpt")
    scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {"weights": model.state_dict(), "scores": scores, "seen": seen}


def resumed(alone: bool, folder: Path) -> list[int]:
    """Numbers of the batches of a run that goes on with another number of processes."""
    model, task = parts("seq2seq")
    seen = noted(task)
    path = folder / f"seq2seq_{'two' if alone else 'one'}.ckpt"
    trainer = a_trainer(alone, max_steps=STEPS + 2)
    trainer.fit(model, datamodule=task, ckpt_path=path, weights_only=True)
    return seen


def tested(alone: bool) -> dict[str, Any]:
    """Scores, answers and predictions of a translation, whose BLEU is no mean."""
    task = Translation(
        sizes=(300, 20, 30), vocabulary_size=300, max_tokens=20, batch_tokens=120, seed=1
    )
    size = {"input_size": task.input_size, "output_size": task.output_size}
    torch.manual_seed(1)
    objective = Tokens(beam=2, max_length=8)
    model = Transformer(
        **size, width=8, heads=2, layers=1, hidden_size=8, objective=objective
    ).eval()
    trainer = a_trainer(alone, precision="32-true")
    trainer.test(model, datamodule=task, verbose=False)
    scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
    trainer.validate(model, datamodule=task, verbose=False)
    scores |= {name: float(value) for name, value in trainer.callback_metrics.items()}
    predictions = trainer.predict(model, datamodule=task)
    return {
        "scores": scores,
        "answers": model.test_answers,
        "predictions": predictions,
        "notes": model.test_notes,
    }


def a_trainer(alone: bool, **settings: Any) -> lightning.Trainer:
    several = {} if alone else {"num_nodes": 2, "strategy": "ddp"}
    return lightning.Trainer(
        **{
            "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False,
            "enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1,
            "precision": "64-true", "gradient_clip_val": 1.0, "num_sanity_val_steps": 0,
            **several, **settings,
        }
    )  # fmt: skip


def noted(task: Any) -> list[int]:
    """List that each training batch puts its number on."""
    seen: list[int] = []
    made = task.batch

    def batch(split: str, index: int) -> Batch:
        if split == "train":
            seen.append(index)
        return made(split, index)

    task.batch = batch
    return seen


def doubled(made: Any, split: str, index: int) -> Batch:
    """Two training batches as one, padded to the longer of both."""
    if split != "train":
        return made(split, index)
    both = [made(split, 2 * index), made(split, 2 * index + 1)]
    longest = max(steps.shape[1] for batch in both for steps in (batch.source, batch.inputs))
    first, second = (padded_to(batch, longest) for batch in both)
    pairs = zip(first, second, strict=True)
    return Batch(*(None if one is None else torch.cat([one, other]) for one, other in pairs))


class Faulty(CopyingTokens):
    """A task with a damaged batch, which the second of two processes meets."""

    def batch(self, split: str, index: int) -> Batch:
        if split == "train" and index == 3:
            raise ValueError("batch 3 is damaged")
        return super().batch(split, index)


def killed_at(step: int) -> None:
    """Let the second process be killed in a step of the training."""
    from memnets.training import Report

    counted = Report.on_train_batch_end

    def count(self: Any, trainer: Any, *rest: Any) -> None:
        counted(self, trainer, *rest)
        if trainer.global_step == step and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    Report.on_train_batch_end = count  # type: ignore[method-assign]


def together(folder: Path) -> None:
    """All that two processes are to do, on two machines as it were; an error is the last."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {name: trained(name, False, folder) for name in MODELS}
    found["resumed"] = resumed(False, folder)
    found["tested"] = tested(False)
    torch.save(found, folder / f"{os.environ['RANK']}.pt")

    from memnets.app import cli

    for stream in (sys.stdout, sys.stderr):
        print(BEGIN, file=stream, flush=True)
    command = ["fit", *RUN, "--trainer.devices=1", "--trainer.num_nodes=2"]
    cli.main([*command, f"--runs={folder / 'whole'}"])
    cli.main([*command, f"--runs={folder / 'faulty'}", "--data.class_path=tests.pair.Faulty"])


if __name__ == "__main__":
    from memnets.app.cli import main

    killed_at(5)
    main()
