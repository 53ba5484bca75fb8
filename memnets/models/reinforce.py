"""REINFORCE: the loss by which hard attention learns from the worth of its draws."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memnets.addressing import HardState
from memnets.training.model import masked_mean

__all__ = ["Reinforce"]


class Reinforce(nn.Module):
    """Loss of the draws of hard attention (Xu et al. 2015, section 4.1).

    To ``-log p(y_t | a)`` a training step adds ``-lambda_r w_t log p(a_t) - lambda_e H_t``. The
    worth w_t of a draw is the discounted sum of ``log p(y | a) - b`` from step t on; b is a moving
    average of ``log p(y | a)``.

    Args:
        weight: lambda_r, weight of the draws' loss.
        entropy_weight: lambda_e, weight of the entropy; a larger one keeps the attention undecided
            for longer.
        discount: factor on the worth of a draw for each later step, in ``[0, 1]``; 1 in the paper.
        baseline_decay: decay of the moving average b, in ``[0, 1)``.

    Raises:
        ValueError: a number is out of its range.
    """

    baseline: Tensor

    def __init__(
        self,
        weight: float = 1.0,
        entropy_weight: float = 0.01,
        discount: float = 0.5,
        baseline_decay: float = 0.9,
    ) -> None:
        super().__init__()
        if not 0 <= discount <= 1:
            raise ValueError(f"discount must be in [0, 1]; got {discount}")
        if not 0 <= baseline_decay < 1:
            raise ValueError(f"baseline_decay must be in [0, 1); got {baseline_decay}")
        self.weight = weight
        self.entropy_weight = entropy_weight
        self.discount = discount
        self.baseline_decay = baseline_decay
        self.register_buffer("baseline", torch.zeros(()))

    def forward(self, losses: Tensor, drawn: HardState, mask: Tensor | None) -> Tensor:
        """The loss to add, a scalar; each call also updates the baseline.

        Args:
            losses: ``-log p(y_t | a)`` of each step, ``[B, T]``.
            drawn: the draws of these steps, ``[B, 1, T]``.
            mask: bool ``[B, T]``, False = padding; ``None`` = no padding.
        """
        worth = -losses.detach() - self.baseline
        if mask is not None:
            worth = worth.masked_fill(~mask, 0.0)
        # From the last step back: the worth of a draw includes that of all later steps.
        steps = list(worth.unbind(1))
        for step in range(len(steps) - 2, -1, -1):
            steps[step] = steps[step] + self.discount * steps[step + 1]
        draws, entropy = drawn.log_probability.squeeze(1), drawn.entropy.squeeze(1)
        gain = self.weight * torch.stack(steps, 1) * draws + self.entropy_weight * entropy
        # Updated after its use: the baseline must not depend on the draws that it judges.
        with torch.no_grad():
            self.baseline.lerp_(-masked_mean(losses, mask), 1 - self.baseline_decay)
        return -masked_mean(gain, mask)
