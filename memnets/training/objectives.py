"""Objectives: what outputs mean, the loss that trains them and the scores that judge them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from memnets.batches import END, PAD, Batch
from memnets.core import EncoderDecoder
from memnets.decoding import check_search, generate, play

__all__ = ["Actions", "Bits", "Examined", "Labels", "Numbers", "Objective", "Tokens"]


#: Answers, and a score a sequence by name.
Examined = tuple[Tensor, dict[str, Tensor]]


class Objective(ABC):
    """From logits to a loss, an answer and scores.

    Attributes:
        monitor: the score that is the lower the better: the best checkpoint has the lowest.
    """

    monitor: ClassVar[str]

    def check(self, batch: Batch) -> None:
        """Check that a task's batch is one that this objective is for.

        Raises:
            ValueError: it is not.
        """
        if batch.rewards is not None:
            raise ValueError(
                f"a task whose answers bring rewards needs the objective Actions; "
                f"got {type(self).__name__}"
            )

    @abstractmethod
    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss of each step.

        Args:
            logits: ``[B, T, O]``.
            targets: ``[B, T, O]`` or ``[B, T]``.

        Returns:
            ``[B, T]``.
        """

    @abstractmethod
    def answer(self, logits: Tensor) -> Tensor:
        """What the model answers, in the form of the targets."""

    @abstractmethod
    def solved(self, scores: Mapping[str, float]) -> bool:
        """Whether a task with these mean scores may be called solved."""

    def examine(self, model: EncoderDecoder, batch: Batch) -> dict[str, Examined]:
        """Let a model answer on its own, as in a test.

        Args:
            model: to be tested.
            batch: of a test set.

        Returns:
            For each way of answering, named by what is put after a score's name (the first has no
            name), the answers and their scores.
        """
        logits = model.logits(batch)
        scores = self.scores(logits, batch.targets, batch.target_mask)
        return {"": (self.answer(logits), scores)}

    @abstractmethod
    def scores(self, logits: Tensor, targets: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """How good each sequence of answers is.

        Args:
            logits: ``[B, T, O]``.
            targets: ``[B, T, O]`` or ``[B, T]``.
            mask: bool ``[B, T]``, False = padding; ``None`` = no padding.

        Returns:
            Name -> ``[B]``, a number a sequence.
        """


class Bits(Objective):
    """Binary vectors, each bit on its own (Graves et al. 2014, section 4).

    The scores are ``bits``, the cost of a sequence: the cross-entropy summed over all steps and
    bits, in bits; ``wrong_bits``, how many bits of a sequence are wrong at a threshold of one half;
    and ``exact``, 1 if none is.
    """

    monitor = "bits"

    def solved(self, scores: Mapping[str, float]) -> bool:
        """Less than 0.01 bits a sequence."""
        return scores["bits"] < 0.01

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of a step's bits, in nats: ``[B, T, O] -> [B, T]``.

        Raises:
            ValueError: logits and targets differ in shape.
        """
        _check_same_shape(logits, targets)
        return nn.functional.binary_cross_entropy_with_logits(
            logits, targets.to(logits.dtype), reduction="none"
        ).mean(-1)

    def answer(self, logits: Tensor) -> Tensor:
        """The likelier value of each bit, 0 or 1."""
        return (logits > 0).to(logits.dtype)

    def scores(self, logits: Tensor, targets: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """``bits``, ``wrong_bits`` and ``exact`` of each sequence."""
        bits = self.losses(logits.float(), targets) * (targets.shape[-1] / math.log(2))
        wrong = (self.answer(logits) != targets).sum(-1)
        if mask is not None:
            bits, wrong = bits.masked_fill(~mask, 0), wrong.masked_fill(~mask, 0)
        wrong = wrong.sum(-1)
        return {
            "bits": bits.sum(-1),
            "wrong_bits": wrong.to(torch.float32),
            "exact": (wrong == 0).to(torch.float32),
        }


class Labels(Objective):
    """One of O classes at each step.

    The scores are ``loss``, the cross-entropy of a step, in nats, and ``accuracy``, the share of
    right answers.
    """

    monitor = "loss"

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each step, in nats: ``[B, T]``.

        Raises:
            ValueError: targets are not whole numbers ``[B, T]``.
        """
        return _cross_entropy(logits, targets)

    def answer(self, logits: Tensor) -> Tensor:
        """The likeliest class of each step, ``[B, T]``."""
        return logits.argmax(-1)

    def solved(self, scores: Mapping[str, float]) -> bool:
        """At least 99 % of the answers right."""
        return scores["accuracy"] >= 0.99

    def scores(self, logits: Tensor, targets: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """``loss`` and ``accuracy`` of each sequence."""
        mask = torch.ones_like(targets, dtype=torch.bool) if mask is None else mask
        steps = mask.sum(-1).clamp_min(1)
        losses = _cross_entropy(logits.float(), targets).masked_fill(~mask, 0.0)
        right = (self.answer(logits) == targets) & mask
        return {"loss": losses.sum(-1) / steps, "accuracy": right.sum(-1) / steps}


class Actions(Labels):
    """One of O actions at each step, each of which brings a reward; targets are a teacher's.

    Training imitates the teacher, at the states that the task has come to. In a test the scores of
    :class:`Labels` are of those states too, but a model also plays on its own
    (:func:`~memnets.decoding.play`), and ``reward`` is what it earns in a sequence.
    """

    def check(self, batch: Batch) -> None:
        """Check that a batch says what each action brings.

        Raises:
            ValueError: it does not.
        """
        if batch.rewards is None:
            raise ValueError(
                "the objective Actions needs a task with rewards, such as tasks.Bandits; "
                "got a batch without"
            )
        if batch.rewards.shape[:-1] != batch.targets.shape:
            raise ValueError(
                f"rewards must be [B, T, O] with [B, T] = {list(batch.targets.shape)}, as the "
                f"targets; got {list(batch.rewards.shape)}"
            )

    def examine(self, model: EncoderDecoder, batch: Batch) -> dict[str, Examined]:
        """The actions that a model takes by its own play.

        Raises:
            ValueError: the batch does not say what actions bring.
        """
        self.check(batch)
        assert batch.rewards is not None
        (_, known), *_ = super().examine(model, batch).values()
        actions = play(model, batch.source, batch.rewards, batch.source_mask)
        brought = batch.rewards.float().gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        if batch.target_mask is not None:
            brought = brought.masked_fill(~batch.target_mask, 0)
        return {"": (actions, {**known, "reward": brought.sum(-1)})}


class Tokens(Labels):
    """One of O tokens at each step; the answer ends with the end mark.

    The scores are ``loss``, the cross-entropy of a token, in nats, without smoothing; ``accuracy``,
    the share of right tokens after right ones; and ``exact``, 1 if all are. In a test a model
    answers on its own, and ``exact`` says whether that is the target.

    Args:
        label_smoothing: share of the target's probability that goes to all tokens alike, in
            ``[0, 1)`` (Vaswani et al. 2017, section 5.4).
        beam: if more than 1, a test searches with a beam of this width too; its scores are named
            ``<score>_beam``.
        length_penalty: alpha of that search, at least 0.
        max_length: of an answer in a test, at least 1; if not given, see
            :mod:`memnets.decoding`.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        beam: int = 1,
        length_penalty: float = 1.0,
        max_length: int | None = None,
    ) -> None:
        check_search(beam, length_penalty, max_length=max_length)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1); got {label_smoothing}")
        self.label_smoothing = label_smoothing
        self.beam = beam
        self.length_penalty = length_penalty
        self.max_length = max_length

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each step with smoothed targets, in nats: ``[B, T]``.

        Raises:
            ValueError: targets are not tokens ``[B, T]``.
        """
        return _cross_entropy(logits, targets, self.label_smoothing)

    def solved(self, scores: Mapping[str, float]) -> bool:
        """At least 99.9 % of the answers exact."""
        return scores["exact"] >= 0.999

    def scores(self, logits: Tensor, targets: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """``loss``, ``accuracy`` and ``exact`` of each sequence."""
        right = self.answer(logits) == targets
        if mask is not None:
            right = right | ~mask
        exact = right.all(-1).to(torch.float32)
        return {**super().scores(logits, targets, mask), "exact": exact}

    def examine(self, model: EncoderDecoder, batch: Batch) -> dict[str, Examined]:
        """Greedy answers and, with a beam, the best of its search."""
        known = self.scores(model.logits(batch), batch.targets, batch.target_mask)
        found = {}
        for way, beam in {"": 1, "_beam": self.beam}.items():
            if way and beam == 1:
                continue
            answers = generate(
                model, batch.source, batch.source_mask, beam, self.length_penalty, self.max_length
            )
            scores = {"exact": _same(answers, batch.targets).to(torch.float32)}
            found[way] = (answers, scores if way else {**known, **scores})
        return found


class Numbers(Objective):
    """Real numbers, O at each step.

    The score is ``error``, the mean squared error of a sequence (Finn et al. 2017, section 5.1).
    """

    monitor = "error"

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error of each step: ``[B, T, O] -> [B, T]``.

        Raises:
            ValueError: logits and targets differ in shape.
        """
        _check_same_shape(logits, targets)
        return (logits - targets).square().mean(-1)

    def answer(self, logits: Tensor) -> Tensor:
        """The numbers as they are, ``[B, T, O]``."""
        return logits

    def solved(self, scores: Mapping[str, float]) -> bool:
        """A mean squared error of at most 0.01."""
        return scores["error"] <= 0.01

    def scores(self, logits: Tensor, targets: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """``error`` of each sequence."""
        errors = self.losses(logits.float(), targets)
        if mask is None:
            return {"error": errors.mean(-1)}
        return {"error": errors.masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1).clamp_min(1)}


def _check_same_shape(logits: Tensor, targets: Tensor) -> None:
    if logits.shape != targets.shape:
        raise ValueError(
            f"logits and targets must both be [B, T, O]; "
            f"got logits {list(logits.shape)} and targets {list(targets.shape)}"
        )


def _cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each step, in nats: ``[B, T, O], [B, T] -> [B, T]``."""
    if targets.shape != logits.shape[:2] or targets.is_floating_point():
        raise ValueError(
            f"targets must be whole numbers [B, T] = {list(logits.shape[:2])}; "
            f"got {targets.dtype} {list(targets.shape)}"
        )
    losses = nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="none", label_smoothing=label_smoothing
    )
    return losses.view_as(targets)


def _same(answers: Tensor, targets: Tensor) -> Tensor:
    """Whether two batches of tokens ``[B, T]`` agree up to their end marks: bool ``[B]``."""
    longest = max(answers.shape[1], targets.shape[1])
    padded = [
        nn.functional.pad(tokens, (0, longest - tokens.shape[1]), value=PAD)
        for tokens in (answers, targets)
    ]
    over = [tokens.eq(END).cumsum(1) - tokens.eq(END).long() > 0 for tokens in padded]
    ours, theirs = (
        tokens.masked_fill(late, PAD) for tokens, late in zip(padded, over, strict=True)
    )
    return (ours == theirs).all(1)
