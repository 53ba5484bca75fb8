"""Positions: the ways in which attention, which sees a set of slots, learns the order of steps.

A scheme is a class. It may add vectors to the embeddings (:meth:`Positions.forward`), turn queries
and keys (:meth:`Positions.rotate`), add a bias to the scores (:meth:`Positions.bias`), close slots
(:meth:`Positions.opened`), or make the weights in a way of its own (:meth:`Positions.weights`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from memnets import fast, functional
from memnets.addressing import Content
from memnets.batches import Places
from memnets.checks import check_memory, check_numbers, check_positive
from memnets.core import Memory, Normalizer, Score
from memnets.factories import check_made

__all__ = [
    "ALiBi",
    "CoupledPositions",
    "HardALiBi",
    "LearnedPositions",
    "NoPositions",
    "PeriodicPositions",
    "Placed",
    "Positions",
    "RandomisedPositions",
    "RotaryPositions",
    "ShiftedPositions",
    "SinusoidalPositions",
    "Start",
    "StickBreaking",
    "add_positions",
    "added_only",
    "angles_of",
    "placed_content",
    "split_positions",
]


class Start(NamedTuple):
    """Facts of sequences from their start on, for a scheme whose places depend on them.

    Attributes:
        source: steps of the source, int64 ``[B]``; 0 where the answer is counted from its own
            start.
        first: number to add to all places, int64 ``[B]``.
        places: those that the task gives; ``None`` = none.
    """

    source: Tensor
    first: Tensor
    places: Places | None = None


class Positions(nn.Module):
    """Base class for the schemes that tell attention the place of each step.

    A subclass overrides what its scheme does, one method or several; each of the others leaves all
    as it is. The *count* of a step is the number of steps before it that its sequence has not
    skipped, from 0. :meth:`places` turns counts into places, which for most schemes are the same.

    A scheme that overrides :meth:`forward` is given to a model, which adds its vectors to the
    embeddings. The rest is done within each attention of a step to the steps before it, so that it
    fits all models, and a search that goes on step by step. A scheme does the one or the other, not
    both. :func:`memnets.testing.check_positions` checks a scheme of yours.

    Attributes:
        max_length: number of places; ``None`` = no limit.
        causal: whether the scheme is meant for attention to earlier steps alone.
        relative: whether distances alone count: nothing changes if all places grow by one number.
        adds: whether it has vectors to add to the embeddings.
        attends: whether it does something within the attention.
        weighs: whether it makes the weights in a way of its own, in place of the normalizer.
        coupled: whether it needs the places that a task gives (:class:`~memnets.batches.Places`).
    """

    max_length: int | None = None
    causal: bool = False
    coupled: bool = False
    relative: ClassVar[bool] = False

    @property
    def adds(self) -> bool:  # noqa: D102
        return self._overrides("forward")

    @property
    def attends(self) -> bool:  # noqa: D102
        return self.weighs or any(map(self._overrides, ("rotate", "bias", "opened")))

    @property
    def weighs(self) -> bool:  # noqa: D102
        return self._overrides("weights")

    def _overrides(self, method: str) -> bool:
        return getattr(type(self), method) is not getattr(Positions, method)

    def check(self, width: int, heads: int) -> None:
        """Check that the scheme can serve an attention.

        Args:
            width: width of the keys of a head.
            heads: number of heads.

        Raises:
            ValueError: it cannot.
        """

    def places(self, counts: Tensor) -> Tensor:
        """Places of steps; by default their counts.

        Args:
            counts: whole numbers from 0, int64 ``[*B, T]``, rising along T.

        Returns:
            int64 ``[*B, T]``, rising where the counts rise.
        """
        return counts

    def start(self, source: Tensor, places: Places | None) -> Start | None:
        """Facts of the start of sequences that the scheme needs later; ``None`` = none.

        A model keeps them in its state, for the steps of the answer.

        Args:
            source: vectors or tokens of the source, ``[B, S, ...]``.
            places: those that the task gives to the steps; ``None`` = none.
        """
        return None

    def along(self, counts: Tensor, start: Start | None, source: bool) -> Tensor:
        """Places of steps of a source, or of an answer behind it; by default :meth:`places`.

        Args:
            counts: as in :meth:`places`, ``[B, T]``; those of an answer go on from
                ``start.source``.
            start: what :meth:`start` gave, with the steps of the source; ``None`` if a part does
                not ask for it.
            source: whether the steps belong to the source.
        """
        return self.places(counts)

    def forward(self, places: Tensor) -> Tensor:
        """Vectors ``[*B, T, width]`` to add to the embeddings, for places ``[*B, T]``.

        Raises:
            ValueError: a place is not below ``max_length``.
        """
        raise NotImplementedError(f"{type(self).__name__} adds no vectors to the embeddings")

    def rotate(self, vectors: Tensor, places: Tensor) -> Tensor:
        """Queries or keys ``[*B, T, K]``, changed by their places, which broadcast to ``[*B, T]``.

        Scores compare the results.
        """
        return vectors

    def bias(self, distance: Tensor, heads: int) -> Tensor | None:
        """Numbers to add to the scores; ``None`` = nothing.

        Args:
            distance: place of the query less the place of the slot, int64 ``[..., Q, N]``; below 0
                for slots after the query, which only an encoder sees.
            heads: H.

        Returns:
            Floating-point numbers that broadcast to ``[*B, H, Q, N]``.
        """
        return None

    def opened(self, distance: Tensor, heads: int) -> Tensor | None:
        """Slots that a query may see, of those that the mask opens; ``None`` = all of them.

        Args:
            distance: as in :meth:`bias`.
            heads: H.

        Returns:
            bool, broadcasts to ``[*B, H, Q, N]``.
        """
        return None

    def weights(self, scores: Tensor, mask: Tensor | None, normalizer: Normalizer) -> Tensor:
        """Weights ``[*B, H, Q, N]`` of the slots, by default those of the normalizer.

        Args:
            scores: ``[*B, H, Q, N]``, slots in the order of their steps.
            mask: bool, True = may be addressed; ``None`` = every slot may.
            normalizer: of the attention.

        Returns:
            Rows >= 0 that sum to at most 1, exactly 0 where the mask is False.
        """
        weights: Tensor = normalizer(scores, mask)
        return weights


class NoPositions(Positions):
    """No positions (Haviv et al. 2022): causal attention tells the order by what a step may see.

    An encoder without positions sees a set.
    """

    relative = True


def angles_of(places: Tensor, width: int, base: float, dtype: torch.dtype) -> Tensor:
    """``t base^(-2i / width)`` for each place t, ``[*B, T, width / 2]``, in 32 bits at least."""
    # In 16 bits neither places nor angles would be exact enough.
    exact = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(0, width, 2, device=places.device, dtype=exact) / width
    return places.unsqueeze(-1) * base**-exponents


class SinusoidalPositions(Positions):
    """Sines and cosines of many wavelengths (Vaswani et al. 2017, section 3.5).

    ``p(t, 2i) = sin(t / 10000^(2i / width))``, and ``p(t, 2i + 1)`` is the cosine of the same
    angle. The number of positions has no limit.

    Args:
        width: width of the vectors, even, at least 2.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        check_positive(width=width)
        if width % 2:
            raise ValueError(f"width must be even and at least 2; got {width}")
        self.width = width
        # A buffer, so that it has the device and the precision of the module.
        self.own: Tensor
        self.register_buffer("own", torch.empty(0), persistent=False)

    def forward(self, places: Tensor) -> Tensor:
        """``[*B, T] -> [*B, T, width]``, in ``[-1, 1]``."""
        angles = angles_of(places, self.width, 10000.0, self.own.dtype)
        return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2).to(self.own.dtype)


class LearnedPositions(Positions):
    """A learned vector for each position (Gehring et al. 2017).

    Args:
        width: width of the vectors, at least 1.
        max_length: number of positions, at least 1.
        deviation: standard deviation of the numbers at the start, more than 0; by default
            ``1 / sqrt(width)``, for vectors of length 1. In a Transformer, whose embeddings have a
            length of ``sqrt(width)``, 1 makes the vectors as long, and equal places easy to find.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(self, width: int, max_length: int = 512, deviation: float | None = None) -> None:
        super().__init__()
        check_positive(width=width, max_length=max_length)
        if deviation is not None and not 0 < deviation < math.inf:
            raise ValueError(f"deviation must be more than 0 and finite; got {deviation}")
        self.max_length = max_length
        scale = 1 / math.sqrt(width) if deviation is None else deviation
        self.weight = nn.Parameter(torch.randn(max_length, width) * scale)

    def forward(self, places: Tensor) -> Tensor:
        """``[*B, T] -> [*B, T, width]``.

        Raises:
            ValueError: a position is not below ``max_length``.
        """
        check_numbers(
            (places < len(self.weight)).all(),
            f"the model's positions end at max_length = {len(self.weight)}",
            lambda: f"a sequence of length {int(places.max()) + 1}",
        )
        return nn.functional.embedding(places, self.weight)


class PeriodicPositions(Positions):
    """A learned vector for each count modulo a period: a clock, which works at any length.

    Of how long a sequence is it tells the remainder by the period alone. A machine with a clock of
    period 2 can treat every second step in another way, and needs no memory to know which it is at.

    Args:
        width: width of the vectors, at least 1.
        period: number of steps after which the vectors repeat, at least 2.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(self, width: int, period: int = 2) -> None:
        super().__init__()
        check_positive(width=width, period=period)
        if period < 2:
            raise ValueError(f"period must be at least 2; got {period}")
        self.weight = nn.Parameter(torch.randn(period, width) / math.sqrt(width))

    def forward(self, places: Tensor) -> Tensor:
        """``[*B, T] -> [*B, T, width]``: rows ``places % period`` of the weight."""
        return nn.functional.embedding(places % len(self.weight), self.weight)


class RotaryPositions(Positions):
    """Queries and keys turned by angles that grow with their place (Su et al. 2021, section 3.2).

    Numbers ``2i`` and ``2i + 1`` of a query or key at place t are turned by the angle
    ``t base^(-2i / K)``, so that their product depends on the distance of the places alone.

    Args:
        base: ratio of the longest wavelength to the shortest, above 1. A larger one turns most
            pairs of numbers more slowly.

    Raises:
        ValueError: the base is not above 1.
    """

    relative = True

    def __init__(self, base: float = 10000.0) -> None:
        super().__init__()
        if not 1 < base < math.inf:
            raise ValueError(f"base must be above 1 and finite; got {base}")
        self.base = base

    def check(self, width: int, heads: int) -> None:
        """See :meth:`Positions.check`: pairs need an even width of a head."""
        if width % 2:
            raise ValueError(
                "rotary positions turn pairs of numbers: the width of a head must be even; "
                f"got {width}"
            )

    def rotate(self, vectors: Tensor, places: Tensor) -> Tensor:
        """``[*B, T, K] -> [*B, T, K]``, of the same lengths."""
        twin = fast.find(self, "rotate", vectors, places)
        if twin is not None:
            result: Tensor = twin(self, vectors, places)
            return result
        angles = angles_of(places, vectors.shape[-1], self.base, vectors.dtype)
        cosine, sine = angles.cos().to(vectors.dtype), angles.sin().to(vectors.dtype)
        even, odd = vectors.unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1)
        return turned.flatten(-2)


class ALiBi(Positions):
    """A bias that falls with the distance, faster in some heads (Press et al. 2022, section 3).

    ``s(q_i, k_j) - m_h |i - j|`` with ``m_h = 2^(-8 h / H)`` for head h of H, from 1. Nothing is
    learned. The distances beyond those of the training only get smaller weights, so that a model
    sees mostly what is near, and cannot point to what is far.

    Args:
        slopes: ``m_h`` of each of the first heads, each at least 0, in place of the formula; all
            other heads have 0, no bias. A head with a slope of 1 or more finds the last slot that
            fits.

    Raises:
        ValueError: a slope is below 0, or there are none.
    """

    relative = True

    def __init__(self, slopes: Sequence[float] | None = None) -> None:
        super().__init__()
        if slopes is not None and (not slopes or not all(0 <= m < math.inf for m in slopes)):
            raise ValueError(
                f"slopes must be at least one number, each at least 0; got {list(slopes)}"
            )
        self.slopes = None if slopes is None else list(slopes)

    def check(self, width: int, heads: int) -> None:
        """See :meth:`Positions.check`: there is at most one slope for each head."""
        if self.slopes is not None and len(self.slopes) > heads:
            raise ValueError(
                f"there must be at most one slope for each of the {heads} heads; got "
                f"{len(self.slopes)} slopes"
            )

    def bias(self, distance: Tensor, heads: int) -> Tensor:
        """``-m_h |distance|``, ``[..., H, Q, N]``."""
        if self.slopes is None:
            number = torch.arange(1, heads + 1, device=distance.device)
            slopes = torch.exp2(-8 / heads * number)
        else:
            # One by one: a tensor of the slopes would make the host wait for a GPU.
            given = [*self.slopes, *[0.0] * (heads - len(self.slopes))]
            one = torch.ones((), device=distance.device)
            slopes = torch.stack([one * slope for slope in given])
        return -slopes.view(-1, 1, 1) * distance.abs()


class HardALiBi(Positions):
    """Some heads see the last few steps alone, the others see all (Jelassi et al. 2024, 3.1).

    A head with the window w sees the step itself and the ``w - 1`` steps before it (in an encoder
    as many behind it too). These heads tell the others what stands before a step; the others find
    by content, at any distance. Both mean the same at any length.

    Args:
        windows: the window of each of the first heads, each at least 1; all other heads see
            everything. By default half of the heads have windows: 1, 2, 3 and so on. A single head
            has none.

    Raises:
        ValueError: a window is less than 1, or there are none.
    """

    relative = True

    def __init__(self, windows: Sequence[int] | None = None) -> None:
        super().__init__()
        if windows is not None:
            if not windows:
                raise ValueError("windows must have at least one window, or be None; got none")
            for window in windows:
                check_positive(window=window)
        self.windows = None if windows is None else list(windows)

    def check(self, width: int, heads: int) -> None:
        """See :meth:`Positions.check`: there is at most one window for each head."""
        if self.windows is not None and len(self.windows) > heads:
            raise ValueError(
                f"there must be at most one window for each of the {heads} heads; "
                f"got {len(self.windows)} windows"
            )

    def opened(self, distance: Tensor, heads: int) -> Tensor | None:
        """Steps within the window of each head, bool ``[..., H, Q, N]``."""
        windows = list(range(1, heads // 2 + 1)) if self.windows is None else self.windows
        if not windows:
            return None
        near = distance.abs()
        if heads == 1:
            return near < windows[0]
        # Heads may share their distances, or have a dimension of their own.
        near = (near if near.dim() > 2 else near.unsqueeze(0)).expand(
            *near.shape[:-3], heads, *near.shape[-2:]
        )
        # One by one: a tensor of the windows would make the host wait for a GPU.
        each = near.unbind(-3)
        seen = [slots < window for slots, window in zip(each, windows, strict=False)]
        free = [torch.ones_like(seen[0])] * (heads - len(windows))
        return torch.stack([*seen, *free], -3)


class _Wrapper(Positions):
    """Base class of schemes that give places to another one.

    Args:
        positions: the other one.
    """

    def __init__(self, positions: Positions) -> None:
        super().__init__()
        check_made("positions", positions, "SinusoidalPositions(width)")
        if positions is None:
            raise TypeError(
                f"{type(self).__name__} gives places to another scheme, such as "
                "SinusoidalPositions(width); got none"
            )
        self.positions = positions
        self.causal = positions.causal
        self.coupled = positions.coupled or type(self).coupled
        self.max_length = positions.max_length

    @property
    def adds(self) -> bool:
        return self.positions.adds

    @property
    def attends(self) -> bool:
        return self.positions.attends

    @property
    def weighs(self) -> bool:
        return self.positions.weighs

    def check(self, width: int, heads: int) -> None:
        """See :meth:`Positions.check`."""
        self.positions.check(width, heads)

    def places(self, counts: Tensor) -> Tensor:
        """See :meth:`Positions.places`."""
        return self.positions.places(counts)

    def forward(self, places: Tensor) -> Tensor:
        """See :meth:`Positions.forward`, of the scheme that is given the places."""
        vectors: Tensor = self.positions(places)
        return vectors

    def rotate(self, vectors: Tensor, places: Tensor) -> Tensor:
        """See :meth:`Positions.rotate`."""
        return self.positions.rotate(vectors, places)

    def bias(self, distance: Tensor, heads: int) -> Tensor | None:
        """See :meth:`Positions.bias`."""
        return self.positions.bias(distance, heads)

    def opened(self, distance: Tensor, heads: int) -> Tensor | None:
        """See :meth:`Positions.opened`."""
        return self.positions.opened(distance, heads)

    def weights(self, scores: Tensor, mask: Tensor | None, normalizer: Normalizer) -> Tensor:
        """See :meth:`Positions.weights`."""
        return self.positions.weights(scores, mask, normalizer)


class RandomisedPositions(_Wrapper):
    """Places drawn at random in training, in order, from many more than there are steps.

    Ruoss et al. 2023, section 3: T steps get T of ``spread * T`` places, each set of them as
    likely, in rising order. So a model that is trained on short sequences knows the places of long
    ones. Where a model reads a sequence in parts, the steps of a part draw from the places that are
    theirs, so that the order holds across parts. A draw is for one call; in a scheme within the
    attention, for one layer of it. Sequences without padding may share a draw.

    In evaluation nothing is drawn: step t has the place ``stride * t``. (The paper draws there
    too.)

    Args:
        positions: the scheme that is given the places.
        spread: number of places for each step of the training, at least 1.
        stride: distance of the places of two steps in evaluation, from 1 to ``spread``.

    Raises:
        ValueError: a number is out of its range, or the scheme draws places or is told them.
    """

    def __init__(self, positions: Positions, spread: int = 16, stride: int = 1) -> None:
        super().__init__(positions)
        check_positive(spread=spread, stride=stride)
        if stride > spread:
            raise ValueError(
                f"stride must be at most spread = {spread}, so that its places were seen in "
                f"training; got {stride}"
            )
        if isinstance(positions, RandomisedPositions):
            raise ValueError(
                "places are drawn once: positions must not draw them too; got "
                "RandomisedPositions within RandomisedPositions"
            )
        if isinstance(positions, CoupledPositions | ShiftedPositions):
            raise ValueError(
                "each part of a sequence draws its places, which those of source and answer must "
                "share or be drawn once for: use ShiftedPositions alone; got "
                f"{type(positions).__name__} within RandomisedPositions"
            )
        self.spread = spread
        self.stride = stride
        most = positions.max_length
        self.max_length = None if most is None else most // spread

    def places(self, counts: Tensor) -> Tensor:
        """Places ``[*B, T]``: drawn in training, multiples of ``stride`` in evaluation."""
        if not self.training:
            return self.positions.places(counts * self.stride)
        steps = counts.shape[-1]
        shape = (*counts.shape[:-1], steps * self.spread)
        chosen = torch.rand(shape, device=counts.device).topk(steps, -1).indices.sort(-1).values
        # Counts that skip a step stay where the step before was.
        first = counts[..., :1]
        return self.positions.places(first * self.spread + chosen.gather(-1, counts - first))


class CoupledPositions(_Wrapper):
    """Steps that a task couples share a place (Cho et al. 2024, section 3).

    The task says which steps belong together: it gives each step of source and answer a place
    (:class:`~memnets.batches.Places`). In a copy, step t of the answer has the place of step t of
    the source; in an addition, digits that stand for the same power share one. The model need not
    find by counting what the task couples. Within a :class:`ShiftedPositions` it is trained on all
    places that longer sequences have.

    Args:
        positions: the scheme that is given the places; one that has vectors to add, and keeps the
            places as they are.

    Raises:
        ValueError: the scheme does something within the attention, or changes places.
    """

    coupled = True

    def __init__(self, positions: Positions) -> None:
        super().__init__(positions)
        _check_added(positions)
        if isinstance(positions, _Wrapper):
            raise ValueError(
                "coupled steps must share their places, so positions must keep them, as "
                f"SinusoidalPositions(width) does; got {type(positions).__name__}"
            )
        self.max_length = None

    def start(self, source: Tensor, places: Places | None) -> Start:
        """See :meth:`Positions.start`.

        Raises:
            ValueError: the task gives no places, or they do not fit the source.
        """
        if places is None:
            raise ValueError(_UNCOUPLED)
        places = Places(*places)
        rows, steps = source.shape[:2]
        shapes = [list(part.shape) for part in places]
        answer = places.answer.shape
        if shapes[0] != [rows, steps] or len(answer) != 2 or answer[0] != rows or not answer[1]:
            raise ValueError(
                f"places must be [B, S] = {[rows, steps]} for the source and [B, T], T >= 1, for "
                f"the answer; got {shapes[0]} and {shapes[1]}"
            )
        if any(part.dtype != torch.long for part in places):
            dtypes = " and ".join(str(part.dtype) for part in places)
            raise ValueError(f"places must be whole numbers, int64; got {dtypes}")
        _check_within(places, self.positions.max_length)
        none = torch.zeros(rows, dtype=torch.long, device=source.device)
        return Start(none, none, places)

    def places(self, counts: Tensor) -> Tensor:
        """No places: they do not follow from counts.

        Raises:
            ValueError: always.
        """
        raise ValueError(_UNCOUPLED)

    def along(self, counts: Tensor, start: Start | None, source: bool) -> Tensor:
        """See :meth:`Positions.along`: the places that the task gave.

        Raises:
            ValueError: there are none.
        """
        if start is None or start.places is None:
            raise ValueError(_UNCOUPLED)
        places = start.places.source if source else start.places.answer
        steps = counts if source else counts - start.source.unsqueeze(1)
        # Behind the last one that is given, its place is that of all: an answer may go on.
        return places.gather(1, steps.clamp(0, places.shape[1] - 1))


#: For a model or encoder that was given no places.
_UNCOUPLED = (
    "coupled positions need a model that is given places, such as CausalTransformer, and a task "
    "that gives them, such as tasks.CopyingTokens; got no places"
)


class ShiftedPositions(_Wrapper):
    """All places of a sequence of the training are later by a number that is drawn.

    Each number from 0 to ``shift`` is as likely; source and answer have the same one (Kiyono et al.
    2021, section 3; Cho et al. 2024, section 3.1, the random start). So short sequences stand where
    long ones go on, and all of their places are trained. In evaluation nothing is drawn: the number
    is ``first``. An encoder of its own, which cannot know the number of its answer, adds none.

    Args:
        positions: the scheme that is given the places, such as :class:`CoupledPositions`; one that
            has vectors to add.
        shift: the largest number, at least 1.
        first: the number of evaluation, from 0 to ``shift``. The first places are rare in training,
            since few sequences begin there; with ``first`` as long as a sequence of the training,
            evaluation begins behind them.

    Raises:
        ValueError: a number is out of its range, or the scheme does something within the attention,
            where only distances would count.
    """

    def __init__(self, positions: Positions, shift: int, first: int = 0) -> None:
        super().__init__(positions)
        check_positive(shift=shift)
        if not 0 <= first <= shift:
            raise ValueError(f"first must be from 0 to shift = {shift}; got {first}")
        _check_added(positions)
        if isinstance(positions, RandomisedPositions | ShiftedPositions):
            raise ValueError(
                "positions must not draw places themselves; got "
                f"{type(positions).__name__} within ShiftedPositions"
            )
        self.shift = shift
        self.first = first
        # A scheme that is coupled has no limit of steps; the one within it has one of places.
        innermost = positions.positions if isinstance(positions, _Wrapper) else positions
        self._most = innermost.max_length
        if self._most is not None and self._most <= shift:
            raise ValueError(
                f"positions must have more places than shift = {shift}; got max_length = "
                f"{self._most}"
            )
        self.max_length = None if positions.max_length is None else positions.max_length - shift

    def start(self, source: Tensor, places: Places | None) -> Start:
        """See :meth:`Positions.start`; with the number that is drawn for each sequence.

        Raises:
            ValueError: the task gives no places to a scheme that needs them, or with the shift
                there are not so many.
        """
        none = torch.zeros(len(source), dtype=torch.long, device=source.device)
        start = self.positions.start(source, places) or Start(none, none)
        if start.places is not None:
            # At once, and not in a rare step that draws a great number.
            _check_within(start.places, self._most, self.shift if self.training else self.first)
        number = none + self.first
        if self.training:
            number = torch.randint(self.shift + 1, (len(source),), device=source.device)
        return start._replace(first=number)

    def along(self, counts: Tensor, start: Start | None, source: bool) -> Tensor:
        """See :meth:`Positions.along`."""
        places = self.positions.along(counts, start, source)
        return places if start is None else places + start.first.unsqueeze(1)


def _check_within(places: Places, most: int | None, later: int = 0) -> None:
    """Check that a scheme has places, also those that are later by a number.

    Args:
        places: those that a task gives.
        most: number of places of the scheme; ``None`` = no limit.
        later: the greatest number that is added to them.

    Raises:
        ValueError: a place is below 0, or beyond the last one.
    """
    given = [part for part in places if part.numel()]
    if not given:
        return
    check_numbers(
        torch.stack([part.min() for part in given]).ge(0).all(),
        "places must be at least 0",
        lambda: f"{min(int(part.min()) for part in given)}",
    )
    if most is None:
        return
    shifted = f", shifted by up to {later}," if later else ""
    check_numbers(
        torch.stack([part.max() for part in given]).lt(most - later).all(),
        f"places{shifted} must be below max_length = {most} of the positions",
        lambda: f"{max(int(part.max()) for part in given)}",
    )


def _check_added(positions: Positions) -> None:
    """Check that a scheme has vectors to add."""
    if added_only(positions, "the places within an attention count steps") is None:
        raise ValueError(
            "positions must be vectors to add to the embeddings, such as "
            "SinusoidalPositions(width); got none"
        )


class StickBreaking(Positions):
    """Each slot, from the last one back, takes its share of what the later ones have left.

    ``w_j = b_j prod_{k > j} (1 - b_k)`` with ``b = sigmoid(s)``, over the slots k that may be
    addressed (Tan et al. 2025, section 2). Of two slots that answer the query as well, the later
    one wins, so that the order needs no positions. The weights sum to less than 1. It takes the
    place of the softmax.
    """

    causal = True
    relative = True

    def weights(self, scores: Tensor, mask: Tensor | None, normalizer: Normalizer) -> Tensor:
        """``[*B, H, Q, N] -> [*B, H, Q, N]``."""
        # In logarithms, so that a product of many small numbers stays one.
        taken, left = nn.functional.logsigmoid(scores), nn.functional.logsigmoid(-scores)
        left = functional.inside(left, mask)
        # Shifted by one slot: a slot's own rest is not among those that it meets.
        behind = nn.functional.pad(left[..., 1:], (0, 1)).flip(-1).cumsum(-1).flip(-1)
        return functional.inside((taken + behind).exp(), mask)


def add_positions(vectors: Tensor, positions: Positions, places: Tensor) -> Tensor:
    """Vectors of steps ``[*B, T, width]``, with what a scheme adds for their places ``[*B, T]``.

    Raises:
        ValueError: the scheme has vectors of another width.
    """
    added: Tensor = positions(places)
    if added.shape[-1] != vectors.shape[-1]:
        raise ValueError(
            f"positions must have vectors as wide as those of the steps, {vectors.shape[-1]}; got "
            f"{type(positions).__name__} of width {added.shape[-1]}"
        )
    return vectors + added


class Placed(Content):
    """Address by content and by place, for queries that are steps of the memory themselves.

    ``w = norm(s(R_i q_i, R_j k_j) + b(i - j))``, with what the scheme does in place of R, b and
    norm. Query i of Q stands at slot ``N - Q + i``. A slot's place counts the slots before it that
    the last query may see, so that padding and skipped steps take none.

    Args:
        score: scores each key for each query.
        positions: the scheme.
        normalizer: turns scores into weights; softmax by default.

    Raises:
        ValueError: a normalizer was given to a scheme that makes the weights itself.
    """

    equations: ClassVar[Mapping[str, str]] = {
        "weights": "w = norm(s(R(i) q_i, R(j) k_j) + b(i - j)), by the scheme of the positions"
    }

    def __init__(
        self, score: Score, positions: Positions, normalizer: Normalizer | None = None
    ) -> None:
        super().__init__(score, normalizer)
        check_made("positions", positions, "RotaryPositions()")
        if positions.weighs and normalizer is not None:
            raise ValueError(
                f"{type(positions).__name__} makes the weights itself, so there must be no "
                f"normalizer beside it; got {type(normalizer).__name__}"
            )
        self.positions = positions

    def placed(self, query: Tensor, memory: Memory) -> tuple[Tensor, Memory, Tensor | None]:
        """Queries and memory as the score sees them, and the bias ``[*B, H, Q, N]`` or ``None``.

        The bias is of 32 bits at least.

        Raises:
            ValueError: the shapes do not fit, or there are more queries than slots.
            TypeError: the mask is not boolean.
        """
        check_memory(query, memory)
        keys, values, mask = memory
        queries, slots = query.shape[-2], keys.shape[-2]
        if queries > slots:
            raise ValueError(
                f"queries that are steps stand at the last slots; got {queries} queries and "
                f"{slots} slots"
            )
        if mask is None:
            counts = torch.arange(slots, device=keys.device)
        else:
            # The last query sees all slots but those of padding and skipped steps.
            counts = (mask[..., -1, :].cumsum(-1) - 1).clamp_min(0)
        places = self.positions.places(counts)
        own = places[..., slots - queries :]
        heads = query.shape[-3] if query.dim() > 3 else 1
        distance = own.unsqueeze(-1) - places.unsqueeze(-2)
        opened = self.positions.opened(distance, heads)
        if opened is not None:
            mask = opened if mask is None else mask & opened
        bias = self.positions.bias(distance, heads)
        keys = self.positions.rotate(keys, places)
        # In 16 bits the biases of far slots would be rounded to whole numbers, and to more.
        exact = torch.promote_types(query.dtype, torch.float32)
        bias = None if bias is None else bias.to(exact)
        return self.positions.rotate(query, own), Memory(keys, values, mask), bias

    def forward(self, query: Tensor, memory: Memory, state: None = None) -> tuple[Tensor, None]:
        """Weights ``[*B, Q, N]`` for queries ``[*B, Q, K]``.

        Raises:
            ValueError: the shapes of query and memory do not fit.
            TypeError: the mask is not boolean.
        """
        query, memory, bias = self.placed(query, memory)
        scores: Tensor = self.score(query, memory.keys)
        scores = scores if bias is None else scores + bias
        return self.positions.weights(scores, memory.mask, self.normalizer), None

    def compare(self, query: Tensor, memory: Memory) -> Tensor:
        """Scores ``[*B, Q, N]`` of all slots; ``-inf`` where the mask or the scheme closes one."""
        query, memory, bias = self.placed(query, memory)
        scores: Tensor = self.score(query, memory.keys)
        scores = scores if bias is None else scores + bias
        return scores if memory.mask is None else scores.masked_fill(~memory.mask, -torch.inf)


def split_positions(positions: Positions | None) -> tuple[Positions | None, Positions | None]:
    """The scheme for the embeddings and the scheme for the attention; ``None`` where it is none.

    Raises:
        ValueError: it is both.
        TypeError: it is no object, but for instance a class.
    """
    check_made("positions", positions, "LearnedPositions(width)")
    if positions is None:
        return None, None
    if positions.adds and positions.attends:
        raise ValueError(
            "positions must add vectors (forward) or act within the attention (rotate, bias, "
            f"opened, weights), not both; {type(positions).__name__} does both"
        )
    return positions if positions.adds else None, positions if positions.attends else None


def added_only(positions: Positions | None, where: str) -> Positions | None:
    """A scheme for a part that adds vectors to embeddings, and has no attention of its own.

    Args:
        positions: the scheme; ``None`` = none.
        where: says where another scheme can be given, for the message.

    Raises:
        ValueError: the scheme does something within the attention.
        TypeError: it is no object, but for instance a class.
    """
    added, within = split_positions(positions)
    if within is not None:
        raise ValueError(
            f"positions must be vectors to add to the embeddings, such as "
            f"LearnedPositions(width); {where}; got {type(within).__name__}"
        )
    return added


def placed_content(
    score: Score,
    positions: Positions | None,
    normalizer: Normalizer | None,
    width: int,
    heads: int = 1,
    causal: bool = True,
) -> Content:
    """The addressing of an attention of steps to the steps of their own sequence.

    Args:
        score: scores each key for each query.
        positions: the scheme; the addressing has a copy of it. ``None`` = none.
        normalizer: turns scores into weights; softmax by default.
        width: width of a head's keys.
        heads: number of heads.
        causal: whether a step sees no later ones.

    Raises:
        ValueError: the scheme does not fit.
        TypeError: it is no object, but for instance a class.
    """
    _, within = split_positions(positions)
    if positions is not None and positions.adds:
        raise ValueError(
            f"{type(positions).__name__} adds vectors to the embeddings: give it to the model or "
            "the encoder, not to an attention"
        )
    if within is None:
        return Content(score, normalizer)
    if within.causal and not causal:
        raise ValueError(
            f"{type(within).__name__} needs an order in which a step sees none behind it; an "
            "encoder's steps see all others"
        )
    within.check(width, heads)
    return Placed(score, copy.deepcopy(within), normalizer)
