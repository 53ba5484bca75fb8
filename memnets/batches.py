"""Batches: what a task gives and a model takes; padding, and the tokens that every task has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "BEGIN",
    "END",
    "MARKS",
    "PAD",
    "UNKNOWN",
    "Batch",
    "Curves",
    "feedback",
    "padded",
    "unpadded",
]

#: Tokens that every task of tokens has: padding, a token never seen in training, and the marks
#: that begin and end an answer.
PAD, UNKNOWN, BEGIN, END = 0, 1, 2, 3

#: Their names.
MARKS = {PAD: "pad", UNKNOWN: "unknown", BEGIN: "begin", END: "end"}


class Batch(NamedTuple):
    """What a task gives and a model takes: read the source, then answer step by step.

    Attributes:
        source: what the model reads first, ``[B, S, I]`` (or ``[B, S]`` token numbers).
        inputs: what it is given while it answers, ``[B, T, I]`` (or ``[B, T]``).
        targets: what it should answer, ``[B, T, O]`` (or ``[B, T]``).
        source_mask: bool ``[B, S]``, False = padding; ``None`` = no padding.
        target_mask: bool ``[B, T]``, False = padding, not scored; ``None`` = no padding.
        rewards: what each answer would bring, ``[B, T, O]``; ``None`` = answers are right or wrong.
    """

    source: Tensor
    inputs: Tensor
    targets: Tensor
    source_mask: Tensor | None = None
    target_mask: Tensor | None = None
    rewards: Tensor | None = None


class Curves(NamedTuple):
    """Lines on the same axes, for a picture of answers.

    Attributes:
        lines: label -> ``[k, 2]``.
        caption: stands above.
        across: name of the first coordinate.
        up: name of the second.
        points: ``[n, 2]``, drawn as dots.
        dots: label of the points.
    """

    lines: Mapping[str, np.ndarray[Any, Any]]
    caption: str = ""
    across: str = ""
    up: str = ""
    points: np.ndarray[Any, Any] | None = None
    dots: str = "points"


def padded(
    rows: Sequence[Sequence[int] | np.ndarray[Any, Any]], dtype: type[np.generic] = np.int64
) -> tuple[Tensor, Tensor | None]:
    """Sequences of tokens or of vectors, filled up to the longest with :data:`PAD`.

    Args:
        rows: B sequences, at least one, each ``[n, ...]``.
        dtype: of the result.

    Returns:
        ``[B, T, ...]``, and a mask, bool ``[B, T]``, False = padding, or ``None`` if nothing is
        padding.
    """
    lengths = np.array([len(row) for row in rows])
    inside = np.arange(lengths.max()) < lengths[:, None]
    steps = np.concatenate(rows)
    filled = np.full((*inside.shape, *steps.shape[1:]), PAD, dtype)
    filled[inside] = steps
    return torch.from_numpy(filled), None if inside.all() else torch.from_numpy(inside)


def unpadded(steps: Tensor, mask: Tensor | None, row: int) -> Tensor:
    """One sequence of a batch without its padding.

    Args:
        steps: ``[B, T, ...]``.
        mask: bool ``[B, T]``, False = padding; ``None`` = no padding.
        row: which sequence.

    Returns:
        ``[n, ...]``.
    """
    return steps[row] if mask is None else steps[row][mask[row]]


def feedback(actions: Tensor, rewards: Tensor) -> Tensor:
    """What a model is told of its actions: which it took, and what each brought.

    Args:
        actions: whole numbers ``[*B]``.
        rewards: what each action would have brought, ``[*B, O]``.

    Returns:
        The action, one-hot, and its reward, ``[*B, O + 1]``.
    """
    taken = nn.functional.one_hot(actions, rewards.shape[-1])
    brought = rewards.gather(-1, actions.unsqueeze(-1))
    return torch.cat([taken.to(rewards.dtype), brought], -1)
