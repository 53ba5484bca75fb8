"""Batches of a task, padding, and the tokens that every task of tokens has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from memnets.checks import at_hand, check_mask

__all__ = [
    "BEGIN",
    "END",
    "MARKS",
    "PAD",
    "UNKNOWN",
    "Batch",
    "Curves",
    "Places",
    "check_batch",
    "check_target_mask",
    "cleared",
    "cleared_steps",
    "feedback",
    "padded",
    "padded_to",
    "short_repr",
    "unpadded",
    "with_places",
]

#: Tokens that every task of tokens has: padding, a token never seen in training, and the marks
#: that begin and end an answer.
PAD, UNKNOWN, BEGIN, END = 0, 1, 2, 3

#: Names of these tokens.
MARKS = {PAD: "pad", UNKNOWN: "unknown", BEGIN: "begin", END: "end"}


#: Whole numbers of a row.
_Numbers: TypeAlias = "Sequence[int] | np.ndarray[Any, Any]"


def short_repr(values: Any) -> str:
    """A named tuple of tensors as a short text: types, shapes and devices, no numbers.

    A class returns it from its ``__repr__``.

    Args:
        values: a named tuple; what is no tensor in it shows itself, and ``None`` is left out.

    Example:
        ``Batch(source=float32[16, 21, 9], inputs=float32[16, 20, 9], device=cpu)``
    """
    fields = {name: value for name, value in values._asdict().items() if value is not None}
    tensors = [value for value in fields.values() if isinstance(value, Tensor)]
    shown = {
        name: f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        if isinstance(value, Tensor)
        else repr(value)
        for name, value in fields.items()
    }
    if tensors:
        # All are on one device, nearly always.
        shown["device"] = " and ".join(dict.fromkeys(str(tensor.device) for tensor in tensors))
    parts = ", ".join(f"{name}={value}" for name, value in shown.items())
    return f"{type(values).__name__}({parts})"


class Places(NamedTuple):
    """Places that a task gives to the steps of sources and answers: like places belong together.

    A place of an answer may tell nothing that the source does not. Steps behind the last one that
    is given have its place.

    Attributes:
        source: whole numbers >= 0, int64 ``[B, S]``.
        answer: whole numbers >= 0, int64 ``[B, T]``, T >= 1.
    """

    source: Tensor
    answer: Tensor

    def __repr__(self) -> str:
        return short_repr(self)


class Batch(NamedTuple):
    """Examples of a task: a model reads the source, then answers step by step.

    A subclass may add methods and properties; it keeps its class on the way to a model.

    Attributes:
        source: vectors ``[B, S, I]`` or tokens ``[B, S]``, read before the answer.
        inputs: vectors ``[B, T, I]`` or tokens ``[B, T]``, one input for each step of the answer.
        targets: the right answers, ``[B, T, O]`` or tokens ``[B, T]``.
        source_mask: bool ``[B, S]``, False = padding; ``None`` = no padding.
        target_mask: bool ``[B, T]``, False = padding, not scored; ``None`` = no padding.
        rewards: reward of each possible answer, ``[B, T, O]``; ``None`` = answers are right or
            wrong.
        source_places: place of each step of the source, see :class:`Places`; ``None`` = the task
            gives none.
        target_places: place of each step of the answer; given if those of the source are.
    """

    source: Tensor
    inputs: Tensor
    targets: Tensor
    source_mask: Tensor | None = None
    target_mask: Tensor | None = None
    rewards: Tensor | None = None
    source_places: Tensor | None = None
    target_places: Tensor | None = None

    def __repr__(self) -> str:
        return short_repr(self)

    @property
    def places(self) -> Places | None:
        """The places of source and answer; ``None`` if the task gives none."""
        if self.source_places is None or self.target_places is None:
            return None
        return Places(self.source_places, self.target_places)


#: How a batch comes of other things.
_WAYS: dict[type, str] = {Mapping: "give Batch(**it)", tuple: "give Batch(*it)"}


def check_batch(batch: Any) -> None:
    """Check the types of a batch, so that one of arrays is no riddle much later.

    Raises:
        TypeError: it is no :class:`Batch`, nor one of a subclass, or a part of it is no tensor.
    """
    if not isinstance(batch, Batch):
        way = next((way for kind, way in _WAYS.items() if isinstance(batch, kind)), "")
        if hasattr(batch, "source") and hasattr(batch, "targets"):
            way = "give Batch(it.source, it.inputs, it.targets, ...)"
        raise TypeError(
            "expected a Batch of a task, memnets.batches.Batch or a subclass; "
            f"got {_an(type(batch).__name__)}{way and f': {way}'}"
        )
    for name, part in zip(Batch._fields, batch, strict=True):
        if isinstance(part, Tensor) or (part is None and name in Batch._field_defaults):
            continue
        kind = type(part).__name__
        way = f", torch.from_numpy({name}) for one" if isinstance(part, np.ndarray) else ""
        raise TypeError(f"{name} of a Batch must be a tensor{way}; got {_an(kind)}")


def _an(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


class Curves(NamedTuple):
    """Lines on the same axes, for a picture of answers.

    Attributes:
        lines: points ``[k, 2]`` of each line, by its label.
        caption: text above the axes.
        across: name of the horizontal axis.
        up: name of the vertical axis.
        points: points ``[n, 2]`` to draw as dots; ``None`` = none.
        dots: label of these points.
    """

    lines: Mapping[str, np.ndarray[Any, Any]]
    caption: str = ""
    across: str = ""
    up: str = ""
    points: np.ndarray[Any, Any] | None = None
    dots: str = "points"


def padded(
    rows: Sequence[Sequence[int] | np.ndarray[Any, Any]],
    dtype: type[np.generic] = np.int64,
    first: int | None = None,
    last: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Stack sequences of tokens or of vectors, filled up to the longest with :data:`PAD`.

    Args:
        rows: B sequences, at least one, each ``[n, ...]``.
        dtype: type of the numbers in the result.
        first: a token to put before each sequence of tokens, such as :data:`BEGIN`; ``None`` = no.
        last: a token to put behind each sequence of tokens, such as :data:`END`; ``None`` = no.

    Returns:
        ``[B, T, ...]``, and a mask, bool ``[B, T]``, False = padding, or ``None`` without padding.
    """
    lengths = np.array([len(row) for row in rows])
    before = int(first is not None)
    whole = lengths + before + int(last is not None)
    place = np.arange(whole.max())
    inside = place < whole[:, None]
    # All sequences in one assignment: a loop over rows is slow for large batches.
    steps = np.concatenate(rows)
    filled = np.full((*inside.shape, *steps.shape[1:]), PAD, dtype)
    filled[(before <= place) & (place < lengths[:, None] + before)] = steps
    if first is not None:
        filled[:, 0] = first
    if last is not None:
        filled[np.arange(len(rows)), whole - 1] = last
    return torch.from_numpy(filled), None if inside.all() else torch.from_numpy(inside)


def padded_to(
    batch: Batch, multiple: int, longest_answer: Callable[[int], int | None] = lambda steps: None
) -> Batch:
    """Pad source and answer, with masks, to lengths that are multiples of a number.

    Batches of many lengths get few shapes. The mean loss over all steps but padding is the same.
    The source has a mask in any case, so that batches of one shape are all of one kind.

    Args:
        batch: a batch.
        multiple: the number, at least 1.
        longest_answer: most steps of an answer to a source of so many steps, ``None`` = no limit.
            An answer is not padded beyond that, nor a source to where it has no answer. See
            :meth:`memnets.core.EncoderDecoder.longest_answer`.
    """
    source, inputs, targets, source_mask, target_mask, rewards, *places = batch
    read, steps = source.shape[1], inputs.shape[1]
    longest = longest_answer(read)
    more_read, more_steps = -read % multiple, -steps % multiple
    while more_read and longest_answer(read + more_read) == 0:
        more_read -= 1
    if longest is not None:
        more_steps = max(0, min(more_steps, longest - steps))
    return type(batch)(
        _longer(source, more_read),
        _longer(inputs, more_steps),
        _longer(targets, more_steps),
        _longer(_mask_of(source, source_mask), more_read),
        _longer(_mask_of(targets, target_mask), more_steps),
        None if rewards is None else _longer(rewards, more_steps),
        *(
            # Steps behind the last one that is given have its place.
            None if part is None else torch.cat([part, part[:, -1:].expand(-1, more)], 1)
            for part, more in zip(places, (more_read, more_steps), strict=True)
        ),
    )


def _mask_of(steps: Tensor, mask: Tensor | None) -> Tensor:
    return steps.new_ones(steps.shape[:2], dtype=torch.bool) if mask is None else mask


def _longer(steps: Tensor, more: int) -> Tensor:
    """``[B, T, ...] -> [B, T + more, ...]``, filled with :data:`PAD`."""
    room = steps.new_full((len(steps), more, *steps.shape[2:]), PAD)
    return torch.cat([steps, room], 1) if more else steps


def with_places(
    batch: Batch, places: Sequence[tuple[_Numbers, _Numbers] | None], of: str = "the task"
) -> Batch:
    """A batch with the places that a task gives to its steps, see :class:`Places`.

    Args:
        batch: a batch of B sequences without places.
        places: those of the source and of the answer of each sequence, ``[n]`` and ``[m]``; an
            answer may be longer or shorter than its places. ``None`` = the task gives none.
        of: who gives them, for the message of an error.

    Raises:
        TypeError: they are no pairs of whole numbers.
        ValueError: a place is below 0, a step of a source has none, or an answer none at all.
    """
    rows = [row for row in places if row is not None]
    if len(rows) < len(places):
        return batch
    source, answer = [], []
    read = _mask_of(batch.source, batch.source_mask).sum(1).tolist()
    for row, steps in zip(rows, read, strict=True):
        if not isinstance(row, tuple | list) or len(row) != 2:
            raise TypeError(
                f"{of} must give a pair, the places of the source and of the answer; got {row!r}"
            )
        each = f"{of} must give each of the {steps} steps of the source a place"
        source.append(_continued(row[0], batch.source.shape[1], steps, each))
        some = f"{of} must give the answer places, one or more"
        answer.append(_continued(row[1], batch.targets.shape[1], 1, some))
    return batch._replace(
        source_places=torch.from_numpy(np.stack(source)),
        target_places=torch.from_numpy(np.stack(answer)),
    )


def _continued(places: _Numbers, steps: int, least: int, rule: str) -> np.ndarray[Any, Any]:
    """The first places, or all and then the last one, ``[steps]``; ``least`` must be given."""
    row = np.asarray(places)
    wanted = f"{rule}, whole numbers of at least 0; got"
    if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
        raise TypeError(f"{wanted} {places!r}")
    if len(row) < least or row.min(initial=0) < 0:
        raise ValueError(f"{wanted} {row.tolist()}")
    continued: np.ndarray[Any, Any] = row[np.minimum(np.arange(steps), len(row) - 1)]
    return continued.astype(np.int64)


def unpadded(steps: Tensor, mask: Tensor | None, row: int) -> Tensor:
    """One sequence of a batch without its padding.

    Args:
        steps: ``[B, T, ...]``.
        mask: bool ``[B, T]``, False = padding; ``None`` = no padding.
        row: number of the sequence.

    Returns:
        ``[n, ...]``.
    """
    return steps[row] if mask is None else steps[row][mask[row]]


def feedback(actions: Tensor, rewards: Tensor) -> Tensor:
    """Inputs that tell a model its last actions and their rewards.

    Args:
        actions: the actions taken, whole numbers ``[*B]``.
        rewards: reward of each possible action, ``[*B, O]``.

    Returns:
        The action as a one-hot vector, then its reward, ``[*B, O + 1]``.
    """
    taken = nn.functional.one_hot(actions, rewards.shape[-1])
    brought = rewards.gather(-1, actions.unsqueeze(-1))
    return torch.cat([taken.to(rewards.dtype), brought], -1)


#: Greatest norm of steps that can do no harm from within padding: float16, which ends at 65504, has
#: the square of each of their numbers too. Under autocast, steps become float16 only in the model.
_HARMLESS = 250.0


class _Cleared(Batch):
    """A batch whose padding is cleared: methods that call each other know it, and look once."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(Batch(*self))

    def _replace(self, **parts: Any) -> Batch:  # type: ignore[override]
        # Parts that somebody puts in may have any padding, also by a mask that is new.
        return Batch(*self)._replace(**parts)


def cleared(batch: Any) -> Batch:
    """A batch with 0 in its padding, if NaN, infinity or large numbers may stand there.

    Such padding would reach results and gradients, since 0 times NaN is NaN. Other numbers never
    change a result, and stay. Only real numbers are filled, and only where there is a mask. Inputs
    and rewards are filled behind the last step that is scored: an earlier one may tell something to
    those that are.

    Args:
        batch: a batch.

    Returns:
        A batch of the same shapes and class; tensors that nothing is filled in are the same.

    Raises:
        TypeError: it is no :class:`~memnets.batches.Batch`, or the mask of the targets is no
            boolean tensor.
        ValueError: that mask has another shape than the targets.
    """
    if not isinstance(batch, Batch):
        check_batch(batch)  # which says what came
    given: Batch = batch
    source_mask, mask, rewards = given.source_mask, given.target_mask, given.rewards
    if isinstance(given, _Cleared) or (source_mask is None and mask is None):
        return given
    check_target_mask(given)
    clear = given._replace(
        source=cleared_steps(given.source, source_mask),
        inputs=cleared_steps(given.inputs, mask, behind=True),
        targets=cleared_steps(given.targets, mask),
        rewards=None if rewards is None else cleared_steps(rewards, mask, behind=True),
    )
    return _Cleared(*clear) if type(given) is Batch else clear


def check_target_mask(batch: Batch) -> None:
    """Check the mask of the targets of a batch.

    Raises:
        TypeError: it is no boolean tensor.
        ValueError: it has another shape than the targets.
    """
    check_mask(batch.target_mask, batch.targets.shape, "[B, T], as the targets,", "target_mask")


def cleared_steps(steps: Tensor, mask: Tensor | None, behind: bool = False) -> Tensor:
    """Steps, by their mask, with 0 in padding that may do harm: see :func:`cleared`.

    With a mask that does not fit nothing is filled: the part that reads the steps says so.

    Args:
        steps: ``[B, T, ...]``.
        mask: bool ``[B, T]``, False = padding; ``None`` = no padding.
        behind: whether padding begins behind the last True of the mask.
    """
    if not (isinstance(mask, Tensor) and isinstance(steps, Tensor) and steps.is_floating_point()):
        return steps
    if mask.dtype != torch.bool or mask.shape != steps.shape[:2]:
        return steps
    # One look at all numbers costs less than to fill the padding. It is false for NaN.
    if at_hand(steps) and torch.linalg.vector_norm(steps.detach()).item() < _HARMLESS:
        return steps
    if behind:
        mask = mask.flip(1).cumsum(1).flip(1) > 0
    return steps.masked_fill(~mask.view(*mask.shape, *[1] * (steps.dim() - 2)), 0)
