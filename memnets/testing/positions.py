"""Checks of positions: the schemes by which attention learns the order of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from unittest import mock

import torch
from hypothesis import strategies as st
from torch import Tensor

from memnets import fast
from memnets.addressing import Content
from memnets.batches import Places
from memnets.cells.attention import causal_mask
from memnets.cells.positions import Placed, Positions, Start, split_positions
from memnets.core import Memory, map_state
from memnets.scores import ScaledDot
from memnets.testing import strategies
from memnets.testing.laws import (
    LOW_PRECISION,
    Draw,
    Subject,
    assert_close,
    assert_finite,
    assert_reached,
    assert_weights,
    assert_zero,
    differentiable,
    gradients,
    law,
)
from memnets.testing.steps import steps_taken

__all__ = ["check_positions"]


class _Steps(NamedTuple):
    """Queries, keys and values of T steps, ``[B, H, T, K]`` each."""

    queries: Tensor
    keys: Tensor
    values: Tensor


class _PositionsSubject(Subject):
    check = "check_positions"
    kind = Positions

    def __init__(
        self,
        factory: Callable[..., Positions],
        arguments: dict[str, Any],
        width: int,
        heads: int,
        dtypes: Iterable[torch.dtype],
    ) -> None:
        super().__init__(factory, arguments, dtypes)
        self.width = width
        self.heads = heads

    def build(self, dtype: torch.dtype = torch.float64, training: bool = False) -> Any:
        part = super().build(dtype, training)
        if isinstance(part, Positions):
            split_positions(part)
            part.check(self.width, self.heads)
        return part

    def inputs(
        self,
        draw: Draw,
        special: bool = False,
        dtype: torch.dtype = torch.float64,
        time: int | None = None,
    ) -> _Steps:
        time = draw(st.integers(4, 6)) if time is None else time
        shape = (2, self.heads, time, self.width)
        drawn = (draw(strategies.tensors(shape, dtype, special=special)) for _ in range(3))
        return _Steps(*drawn)

    def run(self, part: Positions, inputs: _Steps) -> Tensor:
        return self._read(part, inputs)

    def _read(
        self, part: Positions, inputs: _Steps, taken: Tensor | None = None, last: int | None = None
    ) -> Tensor:
        """Reads of each of the ``last`` steps, ``[B, H, T, K]``; ``taken`` bool ``[B, T]``."""
        query, memory = self._asked(part, inputs, taken, last)
        vectors: Tensor = self._addressing(part).read(query, memory, None)[0]
        return vectors

    def _weights(self, part: Positions, inputs: _Steps, taken: Tensor | None = None) -> Tensor:
        query, memory = self._asked(part, inputs, taken, None)
        weights: Tensor = self._addressing(part)(query, memory, None)[0]
        return weights

    def _addressing(self, part: Positions) -> Content:
        return Placed(ScaledDot(), part) if part.attends else Content(ScaledDot())

    def _asked(
        self, part: Positions, inputs: _Steps, taken: Tensor | None, last: int | None
    ) -> tuple[Tensor, Memory]:
        """Queries of the last steps, and the memory that they see, as in causal attention."""
        queries, keys, values = inputs
        time = keys.shape[2]
        if part.adds:
            # As a model does it: each call asks for the places of its own steps.
            start = self._start(part, len(keys))
            order = torch.arange(time) if taken is None else (taken.cumsum(1) - 1).clamp_min(0)
            counts = order.expand(len(keys), -1)
            parts = [counts] if last is None else [counts[:, :-last], counts[:, -last:]]
            each = (part.along(counts, start, False) for counts in parts if counts.shape[1])
            vectors = torch.cat([part(places) for places in each], 1)
            placed = vectors.to(keys.dtype).unsqueeze(1)
            queries, keys = queries + placed, keys + placed
        queries = queries if last is None else queries[:, :, -last:]
        seen = causal_mask(queries.shape[2], time, keys.device)
        if taken is not None:
            opened = taken[:, None, None]
            seen = opened if seen is None else opened & seen
        return queries, Memory(keys, values, seen)

    def _start(self, part: Positions, rows: int) -> Start | None:
        """The start of sequences without a source, whose steps have the places 0, 1, 2 and so on.

        Schemes count them; one that is coupled is given them.
        """
        counted = torch.arange(10).expand(rows, -1)
        return part.start(counted[:, :1], Places(counted[:, :1], counted))

    @law("steps that are given one place share it, and others do not; counted ones rise")
    def shared(self, draw: Draw) -> None:
        part = self.build(training=draw(st.booleans()))
        steps, cut = draw(st.integers(2, 4)), draw(st.integers(1, 2))
        read, said = (
            torch.tensor(draw(st.lists(st.integers(0, 3), min_size=2 * n, max_size=2 * n)))
            for n in (steps, 3)
        )
        given = Places(read.view(2, -1), said.view(2, -1))
        start = part.start(given.source, given)
        counts = torch.arange(steps + 5).expand(2, -1)
        source = part.along(counts[:, :steps], start, True)
        if start is not None:
            start = start._replace(source=torch.full((2,), steps))
        # An answer in parts, two steps longer than its places.
        parts = counts[:, steps:].split([cut, 5 - cut], 1)
        places = torch.cat([source, *(part.along(each, start, False) for each in parts)], 1)
        if not part.coupled:
            assert (places.diff() > 0).all(), f"places {places}"
            return
        last = given.answer[:, -1:].expand(-1, 2)
        expected = torch.cat([*given, last], 1)
        same = expected.unsqueeze(1) == expected.unsqueeze(2)
        found = places.unsqueeze(1) == places.unsqueeze(2)
        assert (found == same).all(), f"places {places}, given {expected}"
        # In evaluation a scheme may add a number to all places of a sequence, and no more.
        added = places - expected
        assert part.training or (added == added[:, :1]).all(), f"places {places}, given {expected}"

    @law("places rise with the counts, in each part of a sequence and from part to part")
    def order(self, draw: Draw) -> None:
        part = self.build(training=draw(st.booleans()))
        time = draw(st.integers(4, 6))
        first, cut = draw(st.integers(0, 3)), draw(st.integers(1, time - 1))
        counts = torch.arange(first, first + time).expand(2, -1)
        start = self._start(part, 2)
        parts = counts.split([cut, time - cut], 1)
        places = torch.cat([part.along(each, start, False) for each in parts], 1)
        assert places.shape == counts.shape, f"shape {places.shape}, expected {counts.shape}"
        assert (places >= 0).all(), f"places {places}"
        assert (places.diff() > 0).all(), f"places {places}"

    @law("all steps at once and one by one give the same numbers")
    def at_once(self, draw: Draw) -> None:
        part = self.build()
        inputs = self.inputs(draw)
        taken = steps_taken(draw, 2, inputs.keys.shape[2])
        # A step that is skipped may read anything.
        taken[:, -1] = True
        last = draw(st.integers(1, 2))
        expected = self._read(part, inputs, taken)[:, :, -last:]
        result = self._read(part, inputs, taken, last)
        seen = taken[:, None, -last:, None]
        what = f"what the last {last} steps read, alone and with the steps before"
        assert_close(result.where(seen, 0.0), expected.where(seen, 0.0), what)

    @law("no step sees what comes after it")
    def causal(self, draw: Draw) -> None:
        part = self.build()
        inputs = self.inputs(draw)
        cut = draw(st.integers(1, inputs.keys.shape[2] - 1))
        early = map_state(lambda tensor: tensor[:, :, :cut], inputs)
        whole = self._read(part, inputs)[:, :, :cut]
        assert_close(whole, self._read(part, early), f"the first {cut} steps, with others behind")

    @law("steps that a sequence skips take no place")
    def skipped(self, draw: Draw) -> None:
        part = self.build()
        inputs = self.inputs(draw)
        taken = steps_taken(draw, 2, inputs.keys.shape[2])
        outputs = self._read(part, inputs, taken)
        for row in range(2):
            kept = taken[row]
            if kept.any():
                alone = map_state(lambda tensor: tensor[row : row + 1, :, kept], inputs)  # noqa: B023
                what = "what steps read with skipped ones among them, and without"
                assert_close(outputs[row : row + 1, :, kept], self._read(part, alone), what)

    @law("weights are rows >= 0 that sum to at most 1, and 0 where nothing may be seen")
    def rows(self, draw: Draw) -> None:
        part = self.build(training=draw(st.booleans()))
        inputs = self.inputs(draw)
        time = inputs.keys.shape[2]
        taken = steps_taken(draw, 2, time)
        weights = self._weights(part, inputs, taken)
        seen = taken[:, None, None] & torch.ones(time, time, dtype=torch.bool).tril()
        assert_weights(weights, seen, whole=False)
        assert_zero(weights, ~seen.expand_as(weights), "weights of closed slots")

    @law("distances alone count: nothing changes if all places grow by one number")
    def shift(self, draw: Draw) -> None:
        part = self.build()
        inputs = self.inputs(draw)
        more = draw(st.integers(1, 50))
        expected, places = self._read(part, inputs), part.places
        with mock.patch.object(part, "places", lambda counts: places(counts) + more):
            result = self._read(part, inputs)
        assert_close(result, expected, f"what steps read, {more} places later")

    @law("the fast path and the plain one agree")
    def fast_path(self, draw: Draw) -> None:
        part = self.build()
        inputs = map_state(differentiable, self.inputs(draw))
        taken = steps_taken(draw, 2, inputs.keys.shape[2])
        sources = [*inputs, *part.parameters()]
        quick = self._read(part, inputs, taken)
        with fast.naive():
            plain = self._read(part, inputs, taken)
        assert_close(quick, plain, "what steps read")
        assert_close(gradients(quick, sources), gradients(plain, sources), "gradient")

    @law("extreme inputs give finite numbers")
    def extremes(self, draw: Draw) -> None:
        dtype = draw(st.sampled_from(self.dtypes))
        part = self.build(dtype, training=draw(st.booleans()))
        inputs = map_state(differentiable, self.inputs(draw, special=True, dtype=dtype))
        vectors = self.run(part, inputs)
        assert_finite(vectors, "what steps read")
        assert_finite(gradients(vectors, [*inputs, *part.parameters()]), "gradient")

    @law("the gradient reaches every parameter")
    def parameters(self, draw: Draw) -> None:
        part = self.build()
        # More places than a step sees by chance; a row for each place needs as many steps.
        assert_reached(part, self.run(part, self.inputs(draw, time=part.max_length or 6)))


def check_positions(
    positions: Callable[..., Positions],
    *,
    width: int = 4,
    heads: int = 2,
    dtypes: Iterable[torch.dtype] = LOW_PRECISION,
    leave_out: Iterable[str] = (),
    max_examples: int | None = None,
    **arguments: Any,
) -> None:
    """Check that a scheme of positions keeps every law of such.

    In causal attention with these positions, a step gives the same numbers alone, as in a search,
    and among others; it sees nothing that comes after it; steps that a sequence skips take no
    place; weights are rows that sum to at most 1; the fast path and the plain one agree. Places
    rise with the counts of steps; in a scheme that is ``coupled``, steps to which a task gives one
    place share it. A scheme that says that it is ``relative`` gives the same numbers
    if all places grow by one number. Beside these, the general laws of parts hold.

    Args:
        positions: class of the scheme, or a function that makes one.
        width: width of the keys of a head; vectors that a scheme adds must have this width.
        heads: number of heads.
        dtypes: floating-point types besides float64 that the scheme must support.
        leave_out: names of laws to leave out; the error for an unknown name lists them all.
        max_examples: number of examples for each law; that of the Hypothesis profile by default.
        **arguments: arguments for ``positions``.

    Raises:
        AssertionError: a law does not hold; the message describes each failure.
        TypeError: the first argument is a finished part, not a class or function that makes one.
        ValueError: ``leave_out`` names an unknown law.

    Example:
        ``check_positions(RotaryPositions, base=100.0)``
    """
    subject = _PositionsSubject(positions, arguments, width, heads, dtypes)
    left: list[str] = []
    try:
        with torch.random.fork_rng(devices=[]):
            left = [] if subject.build().relative else ["shift"]
    except Exception:  # the first law tells of it
        pass
    subject.hold(max_examples, leave_out, left)
