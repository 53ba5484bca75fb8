"""Base class for models: training, validation and tests of an encoder-decoder with Lightning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from memnets import decoding
from memnets.batches import Batch, Places, cleared, padded_to
from memnets.checks import at_hand, check_positive
from memnets.core import EncoderDecoder, State
from memnets.training.objectives import Bits, Examined, Objective
from memnets.training.trained import Trained
from memnets.training.truncation import truncated_loss

__all__ = ["Model"]


class Model(EncoderDecoder[State], Trained):
    """An encoder-decoder that Lightning trains, validates and tests.

    A subclass defines :meth:`~memnets.core.EncoderDecoder.encode` and
    :meth:`~memnets.core.EncoderDecoder.decode`.

    Args:
        objective: the loss, and the meaning of the outputs; :class:`~memnets.training.Bits` by
            default.
        tbptt_steps: number of steps after which the gradient through time is cut, at least 1;
            ``None`` = never. With it, memory does not grow with the length of an answer. The
            weights still change once for each batch.
        pad_lengths: training batches are padded, with masks, to lengths that are multiples of this
            number, at least 1, so that there are few shapes and few graphs. The loss stays the
            same; 1 = no padding.
        settings: optimizer, schedule and others, see :class:`~memnets.training.Trained`.
    """

    of_batches = (
        *EncoderDecoder.of_batches,
        "check_on_host",
        "examine",
        "first_stretch",
        "loss",
        "score",
    )

    def __init__(
        self,
        objective: Objective | None = None,
        *,
        tbptt_steps: int | None = None,
        pad_lengths: int = 1,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_positive(pad_lengths=pad_lengths)
        if tbptt_steps is not None:
            check_positive(tbptt_steps=tbptt_steps)
        if not isinstance(objective, Objective | None):
            raise TypeError(
                "objective must be an object, such as "
                f"{getattr(objective, '__name__', 'Tokens')}(); got {objective!r}"
            )
        self.objective = Bits() if objective is None else objective
        self.tbptt_steps = tbptt_steps
        self.pad_lengths = pad_lengths

    @property
    def monitor(self) -> str:
        """The score of the objective that improves as it falls."""
        return self.objective.monitor

    def solved(self, scores: Mapping[str, float]) -> bool:
        """Whether a task with these mean scores of a validation counts as solved."""
        return self.objective.solved(scores)

    def generate(
        self,
        source: Tensor,
        mask: Tensor | None = None,
        beam: int = 1,
        length_penalty: float = 1.0,
        max_length: int | None = None,
        places: Places | None = None,
    ) -> Tensor:
        """Answer in tokens, ``[B, T]``: see :func:`memnets.decoding.generate`."""
        return decoding.generate(self, source, mask, beam, length_penalty, max_length, places)

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss over all steps but padding, a scalar; gradients are cut by ``tbptt_steps``.

        It is 0 for a batch without a scored step.

        Raises:
            ValueError: the batch does not fit the objective. On another device than the CPU, call
                its ``check`` yourself before a batch goes there; Lightning's trainings do.
        """
        if at_hand(batch.targets):
            self.objective.check(batch)
        if self.tbptt_steps is not None and torch.is_grad_enabled():
            parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
            return truncated_loss(self, parameters, batch, self.tbptt_steps)
        return masked_mean(
            self.objective.losses(self.logits(batch), batch.targets), batch.target_mask
        )

    def _compile(self, compiler: Callable[[Any], Any]) -> None:
        if self.tbptt_steps is not None:
            raise ValueError(
                "a compiled loss has one gradient, without cuts: tbptt_steps must be None; "
                f"got {self.tbptt_steps}"
            )
        super()._compile(compiler)

    def first_stretch(self, batch: Batch, steps: int) -> tuple[State, int]:
        """Begin an answer for truncated back-propagation.

        Args:
            batch: a batch of a task.
            steps: number of steps from one cut to the next, at least 1.

        Returns:
            The state from which to decode, and the number of steps to the first cut.
        """
        return self.encode_batch(batch), steps

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Check that a batch fits the objective; pad a training batch by ``pad_lengths``.

        For another device its padding is cleared here, where the numbers can be looked at.

        Raises:
            ValueError: it does not fit, or see :meth:`check_on_host`.
        """
        # Here, before the batch goes to a GPU: there, the host would wait for the numbers.
        self.objective.check(batch)
        if self.trainer.training and self.pad_lengths > 1:
            batch = padded_to(batch, self.pad_lengths, self.longest_answer)
        # On the CPU, the model checks this itself; elsewhere, the host would wait for the answer.
        if self.device.type != "cpu":
            batch = cleared(batch)
            self.check_on_host(batch)
        return batch

    def check_source(self, source: Tensor, mask: Tensor | None) -> None:
        """Check what :meth:`encode` reads; the default accepts any source.

        Args:
            source: as in :meth:`encode`.
            mask: as in :meth:`encode`.

        Raises:
            ValueError: a shape or a number is wrong, a source is empty, or padding stands before a
                step.
            TypeError: the mask is not boolean.
        """

    def check_on_host(self, batch: Batch) -> None:
        """Check the numbers of a batch before it goes to a GPU.

        There, the host would have to wait for the answer.

        Args:
            batch: a batch on the CPU.

        Raises:
            ValueError: the answer is longer than the model allows, or see :meth:`check_source`.
        """
        self.check_source(batch.source, batch.source_mask)
        mask, steps = batch.source_mask, batch.inputs.shape[1]
        read = batch.source.shape[1] if mask is None else int(mask.sum(1).max())
        longest = self.longest_answer(read)
        if longest is not None and steps > longest:
            raise ValueError(
                f"the model can answer a source of {read} steps with at most {longest}; "
                f"got an answer of {steps} steps"
            )

    def weight(self, batch: Batch) -> Tensor | int:
        """Number of steps of all answers but padding."""
        mask = batch.target_mask
        return batch.targets.shape[:2].numel() if mask is None else mask.sum()

    def score(self, batch: Batch) -> dict[str, Tensor]:
        """The objective's scores of a batch, ``[B]`` each, by name."""
        return self.objective.scores(self.logits(batch), batch.targets, batch.target_mask)

    def examine(self, batch: Batch) -> dict[str, Examined]:
        """Answer a batch as in a test; see :meth:`~memnets.training.Objective.examine`."""
        return self.objective.examine(self, batch)

    def summarize(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scores of a whole set; see :meth:`~memnets.training.Objective.summarize`."""
        return self.objective.summarize(means)

    def notes(self, answers: Sequence[Tensor]) -> list[str]:
        """The objective's notes on the answers to a test set."""
        return self.objective.notes(answers)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of the values where ``mask`` is True, a scalar; of all values if it is ``None``.

    It is 0 where nothing counts, with gradients of 0: of several processes one may hold a batch
    without a scored step, and NaN times its weight of 0 would be NaN for all.
    """
    if mask is None:
        return values.mean() if values.numel() else values.sum()
    return values.masked_fill(~mask, 0).sum() / mask.sum().clamp_min(1)
