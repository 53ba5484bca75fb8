"""Objectives: what outputs mean, the loss that trains them and the scores that judge them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

__all__ = ["Bits", "Objective"]


class Objective(ABC):
    """From logits to a loss, an answer and scores."""

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

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of a step's bits, in nats: ``[B, T, O] -> [B, T]``.

        Raises:
            ValueError: logits and targets differ in shape.
        """
        if logits.shape != targets.shape:
            raise ValueError(
                f"logits and targets must both be [B, T, O]; "
                f"got logits {list(logits.shape)} and targets {list(targets.shape)}"
            )
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
