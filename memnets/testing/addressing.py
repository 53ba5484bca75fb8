"""Checks of scores, normalizers and addressing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from memnets import fast, functional
from memnets.core import Addressing, Memory, Normalizer, Score, map_state
from memnets.testing import strategies
from memnets.testing.laws import (
    LOW_PRECISION,
    Draw,
    Pointwise,
    assert_close,
    assert_finite,
    assert_reached,
    assert_shape,
    assert_weights,
    assert_zero,
    differentiable,
    differentiated,
    gradients,
    law,
    per_query,
    tensors_of,
)

__all__ = ["check_addressing", "check_normalizer", "check_score"]

Symmetry = Literal["permutation", "rotation"]


# -- scores ----------------------------------------------------------------------------------------


class _ScoreInputs(NamedTuple):
    query: Tensor
    keys: Tensor


class _ScoreSubject(Pointwise):
    check = "check_score"

    def __init__(
        self,
        factory: Callable[..., Score],
        arguments: dict[str, Any],
        width: int,
        dtypes: Iterable[torch.dtype],
    ) -> None:
        super().__init__(factory, arguments, dtypes)
        self.width = width

    def inputs(
        self, draw: Draw, special: bool = False, dtype: torch.dtype = torch.float64
    ) -> _ScoreInputs:
        batch = draw(strategies.shapes())
        count, slots = draw(strategies.sizes(2, 3)), draw(strategies.sizes(3, 6))
        query = draw(strategies.tensors((*batch, count, self.width), dtype, special=special))
        keys = draw(strategies.tensors((*batch, slots, self.width), dtype, special=special))
        return _ScoreInputs(query, keys)

    def run(self, part: Score, inputs: _ScoreInputs) -> Tensor:
        scores: Tensor = part(*inputs)
        return scores

    @law("scores are [*B, Q, N]")
    def shape(self, draw: Draw) -> None:
        inputs = self.inputs(draw, special=True)
        scores = self.run(self.build(training=draw(st.booleans())), inputs)
        assert_shape(scores, (*inputs.query.shape[:-1], inputs.keys.shape[-2]), inputs.query)

    @law("the fast path and the plain one agree")
    def fast_path(self, draw: Draw) -> None:
        part = self.build()
        inputs = map_state(differentiable, self.inputs(draw))
        sources = [*inputs, *part.parameters()]
        quick = self.run(part, inputs)
        with fast.naive():
            plain = self.run(part, inputs)
        assert_close(quick, plain, "scores")
        assert_close(gradients(quick, sources), gradients(plain, sources), "gradient")

    @law("extreme inputs give finite numbers")
    def extremes(self, draw: Draw) -> None:
        dtype = draw(st.sampled_from(self.dtypes))
        part = self.build(dtype, training=draw(st.booleans()))
        inputs = map_state(differentiable, self.inputs(draw, special=True, dtype=dtype))
        scores = self.run(part, inputs)
        assert_finite(scores, "scores")
        assert_finite(gradients(scores, [*inputs, *part.parameters()]), "gradient")

    @law("a head among the queries is a head of the batch")
    def heads(self, draw: Draw) -> None:
        part = self.build()
        query, keys = self.inputs(draw)
        together = self.run(part, _ScoreInputs(query, keys))
        apart = _ScoreInputs(query.unsqueeze(-2), per_query(keys, query.shape[-2]))
        assert_close(together, self.run(part, apart).squeeze(-2), "scores")

    @law("other slots never change a score")
    def other_slots(self, draw: Draw) -> None:
        part = self.build()
        query, keys = self.inputs(draw)
        # A score of some slots must not change when other slots are there too.
        kept = draw(st.integers(1, keys.shape[-2]))
        fewer = self.run(part, _ScoreInputs(query, keys[..., :kept, :]))
        assert_close(self.run(part, _ScoreInputs(query, keys))[..., :kept], fewer, "scores")

    @law("scores go with their slots under permutation")
    def permutation(self, draw: Draw) -> None:
        part = self.build()
        query, keys = self.inputs(draw)
        order = torch.tensor(draw(st.permutations(range(keys.shape[-2]))))
        moved = self.run(part, _ScoreInputs(query, keys[..., order, :]))
        assert_close(moved, self.run(part, _ScoreInputs(query, keys))[..., order], "scores")

    @law("the gradient reaches every parameter")
    def parameters(self, draw: Draw) -> None:
        part = self.build()
        assert_reached(part, self.run(part, self.inputs(draw)))

    @law("the gradient reaches query and keys", examples=3)
    def reached(self, draw: Draw) -> None:
        query, keys = (
            differentiable(draw(strategies.tensors((4, count, self.width), special=False)))
            for count in (2, 3)
        )
        scores = self.run(self.build(), _ScoreInputs(query, keys))
        for name, gradient in zip(("query", "keys"), gradients(scores, [query, keys]), strict=True):
            assert gradient.any(), f"no gradient for {name}"


def check_score(
    score: Callable[..., Score],
    *,
    width: int = 4,
    symmetry: Literal["permutation"] | None = "permutation",
    dtypes: Iterable[torch.dtype] = LOW_PRECISION,
    leave_out: Iterable[str] = (),
    max_examples: int | None = None,
    **arguments: Any,
) -> None:
    """Check that a score keeps every law of scores.

    Scores have the right shape, with any leading dims. Scores and gradients are finite for extreme
    inputs in float32, bfloat16 and float16. Heads, slots and batch neighbours do not affect each
    other. Gradients reach every parameter. Nothing is kept on self or modified in place.

    Args:
        score: class of the score, or a function that makes it.
        width: K, width of the queries and keys in the tests.
        symmetry: ``None`` if the score depends on the place of a slot, not on its key alone.
        dtypes: floating-point types besides float64 that the score must support.
        leave_out: names of laws to leave out; the error for an unknown name lists them all.
        max_examples: number of examples for each law; that of the Hypothesis profile by default.
        **arguments: arguments for ``score``. If this check has an argument of the same name, pass
            a function as ``score``.

    Raises:
        AssertionError: a law does not hold; the message describes each failure.
        TypeError: the first argument is a finished part, not a class or function that makes one.
        ValueError: ``leave_out`` names an unknown law.

    Example:
        ``check_score(Additive, size=4)``
    """
    not_meant = () if symmetry == "permutation" else ("permutation",)
    _ScoreSubject(score, arguments, width, dtypes).hold(max_examples, leave_out, not_meant)


# -- normalizers -----------------------------------------------------------------------------------


class _NormalizerInputs(NamedTuple):
    scores: Tensor
    mask: Tensor | None


class _NormalizerSubject(Pointwise):
    check = "check_normalizer"

    def __init__(
        self,
        factory: Callable[..., Normalizer],
        arguments: dict[str, Any],
        masked: bool,
        dtypes: Iterable[torch.dtype],
    ) -> None:
        super().__init__(factory, arguments, dtypes)
        self.masked = masked

    def inputs(
        self,
        draw: Draw,
        special: bool = False,
        dtype: torch.dtype = torch.float64,
        masked: bool | None = None,
    ) -> _NormalizerInputs:
        batch = draw(strategies.shapes())
        count, slots = draw(strategies.sizes(2, 3)), draw(strategies.sizes(3, 6))
        # Scores are only compared, not multiplied: they may be as large as the type allows.
        end = strategies.magnitude(dtype, 1) if special and draw(st.booleans()) else None
        low, high = (None, None) if end is None else (-end, end)
        shape = (*batch, count, slots)
        scores = draw(strategies.tensors(shape, dtype, low, high, special=special))
        if not self.masked or not (draw(st.booleans()) if masked is None else masked):
            return _NormalizerInputs(scores, None)
        rows = draw(st.sampled_from([1, count]))
        return _NormalizerInputs(scores, draw(strategies.masks((*batch, rows, slots))))

    def run(self, part: Normalizer, inputs: _NormalizerInputs) -> Tensor:
        weights: Tensor = part(*inputs)
        return weights

    @law("weights are rows >= 0 that sum to 1, or to 0 when nothing may be addressed")
    def simplex(self, draw: Draw) -> None:
        training = draw(st.booleans())
        # Every type in each example: rounding differs among them, and a draw might miss one.
        for dtype in (torch.float64, *self.dtypes):
            part = self.build(dtype, training)
            inputs = self.inputs(draw, special=True, dtype=dtype, masked=True)
            weights = self.run(part, inputs)
            assert_shape(weights, inputs.scores.shape, inputs.scores)
            assert_weights(weights, inputs.mask)

    @law("a masked slot weighs exactly 0 and gets no gradient")
    def masked_slots(self, draw: Draw) -> None:
        part = self.build(training=draw(st.booleans()))
        scores, mask = map_state(differentiable, self.inputs(draw, masked=True))
        assert mask is not None
        weights = self.run(part, _NormalizerInputs(scores, mask))
        (gradient,) = gradients(weights, [scores])
        assert_zero(weights, ~mask, "weights of masked slots")
        assert_zero(gradient, ~mask, "gradient of masked scores")

    @law("extreme inputs give finite numbers")
    def extremes(self, draw: Draw) -> None:
        dtype = draw(st.sampled_from(self.dtypes))
        part = self.build(dtype, training=draw(st.booleans()))
        scores, mask = map_state(differentiable, self.inputs(draw, special=True, dtype=dtype))
        weights = self.run(part, _NormalizerInputs(scores, mask))
        assert_finite(weights, "weights")
        assert_finite(gradients(weights, [scores, *part.parameters()]), "gradient")

    @law("the gradient reaches the scores", examples=3)
    def reached(self, draw: Draw) -> None:
        scores = differentiable(draw(strategies.tensors((8, 2, 4), special=False)))
        (gradient,) = gradients(self.run(self.build(), _NormalizerInputs(scores, None)), [scores])
        assert gradient.any(), "no gradient for the scores"

    @law("weights go with their slots under permutation")
    def permutation(self, draw: Draw) -> None:
        part = self.build()
        scores, mask = self.inputs(draw)
        order = torch.tensor(draw(st.permutations(range(scores.shape[-1]))))
        moved = map_state(lambda tensor: tensor[..., order], _NormalizerInputs(scores, mask))
        weights = self.run(part, _NormalizerInputs(scores, mask))
        assert_close(self.run(part, moved), weights[..., order], "weights")

    @law("padding slots never change a result")
    def padding(self, draw: Draw) -> None:
        part = self.build()
        scores, mask = map_state(differentiable, self.inputs(draw))
        mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
        extra = draw(st.integers(1, 3))
        padding = draw(strategies.tensors((*scores.shape[:-1], extra)))
        padded = _NormalizerInputs(
            torch.cat([scores, padding], -1), torch.nn.functional.pad(mask, (0, extra))
        )
        weights = self.run(part, _NormalizerInputs(scores, mask))
        weights_of_padded = self.run(part, padded)[..., :-extra]
        assert_close(weights_of_padded, weights, "weights")
        assert_close(
            gradients(weights_of_padded, [scores]), gradients(weights, [scores]), "gradient"
        )

    @law("a mask that leaves every slot is no mask")
    def full_mask(self, draw: Draw) -> None:
        part = self.build()
        scores, _ = self.inputs(draw)
        full = torch.ones_like(scores, dtype=torch.bool)
        without = self.run(part, _NormalizerInputs(scores, None))
        assert_close(self.run(part, _NormalizerInputs(scores, full)), without, "weights")

    @law("of no slots there are no weights", examples=4)
    def no_slots(self, draw: Draw) -> None:
        part = self.build(training=draw(st.booleans()))
        scores, mask = map_state(differentiable, self.inputs(draw))
        none = map_state(lambda tensor: tensor[..., :0], _NormalizerInputs(scores, mask))
        weights = self.run(part, none)
        assert_shape(weights, none.scores.shape, none.scores)
        (gradient,) = gradients(weights, [scores])
        assert not gradient.any(), "the scores of other slots have a gradient"


def check_normalizer(
    normalizer: Callable[..., Normalizer],
    *,
    masked: bool = True,
    dtypes: Iterable[torch.dtype] = LOW_PRECISION,
    leave_out: Iterable[str] = (),
    max_examples: int | None = None,
    **arguments: Any,
) -> None:
    """Check that a normalizer keeps every law of normalizers.

    Rows lie on the simplex, in every floating-point type. Masked slots have weight exactly 0 and no
    gradient. Rows without an open slot are zeros, never NaN. Weights and gradients are finite for
    extreme scores in float32, bfloat16 and float16. Weights follow a permutation of the slots. Of
    no slots, as of a memory that is yet to grow, there are no weights.
    Padding and batch neighbours never change a result. Nothing is kept on self or modified in
    place.

    Args:
        normalizer: class of the normalizer, or a function that makes it.
        masked: whether the normalizer supports masks; ``False`` leaves the laws of masks out.
        dtypes: floating-point types besides float64 that the normalizer must support.
        leave_out: names of laws to leave out; the error for an unknown name lists them all.
        max_examples: number of examples for each law; that of the Hypothesis profile by default.
        **arguments: arguments for ``normalizer``.

    Raises:
        AssertionError: a law does not hold; the message describes each failure.
        TypeError: the first argument is a finished part, not a class or function that makes one.
        ValueError: ``leave_out`` names an unknown law.

    Example:
        ``check_normalizer(TopK, count=2)``
    """
    not_meant = () if masked else ("masked_slots", "padding", "full_mask")
    _NormalizerSubject(normalizer, arguments, masked, dtypes).hold(
        max_examples, leave_out, not_meant
    )


# -- addressing ------------------------------------------------------------------------------------

_STEPS = 2
_MOST_SLOTS = 6


class _AddressingInputs(NamedTuple):
    memory: Memory
    queries: tuple[Any, ...]


class _AddressingSubject(Pointwise):
    """Laws of addressing; inputs are a memory, which does not change, and a query for each step."""

    check = "check_addressing"

    def __init__(
        self,
        factory: Callable[..., Addressing],
        arguments: dict[str, Any],
        query: Callable[[Memory, int, bool], SearchStrategy[Any]],
        width: int,
        whole: bool,
        masked: bool,
        least_slots: int,
        dtypes: Iterable[torch.dtype],
    ) -> None:
        super().__init__(factory, arguments, dtypes)
        if not 1 <= least_slots <= _MOST_SLOTS:
            raise ValueError(f"least_slots must be 1 to {_MOST_SLOTS}; got {least_slots}")
        self.masked = masked
        self.least_slots = least_slots
        self.query = query
        self.width = width
        self.whole = whole

    def inputs(
        self,
        draw: Draw,
        special: bool = False,
        dtype: torch.dtype = torch.float64,
        masked: bool | None = None,
    ) -> _AddressingInputs:
        count = draw(strategies.sizes(2, 3))
        sizes = strategies.sizes(max(3, self.least_slots), _MOST_SLOTS)
        memory = draw(
            strategies.memories(
                slots=draw(sizes.filter(lambda slots: slots >= self.least_slots)),
                width=self.width,
                queries=count,
                masked=masked if self.masked else False,
                dtype=dtype,
                special=special,
            )
        )
        queries = tuple(draw(self.query(memory, count, special)) for _ in range(_STEPS))
        return _AddressingInputs(memory, queries)

    def run(self, part: Addressing, inputs: _AddressingInputs) -> Any:
        """Weights and vectors of each step, and the last state."""
        state = part.initial_state(inputs.memory)
        outputs = []
        for query in inputs.queries:
            vectors, _ = part.read(query, inputs.memory, state)
            weights, state = part(query, inputs.memory, state)
            outputs.append((weights, vectors))
        return outputs, state

    def states(self, part: Addressing, inputs: _AddressingInputs) -> list[Any]:
        return [part.initial_state(inputs.memory), self.run(part, inputs)[1]]

    def weights(self, part: Addressing, inputs: _AddressingInputs) -> list[Tensor]:
        """Weights of each step."""
        return [weights for weights, _ in self.run(part, inputs)[0]]

    def vectors(self, part: Addressing, inputs: _AddressingInputs) -> list[Tensor]:
        """Vectors read in each step."""
        return [vectors for _, vectors in self.run(part, inputs)[0]]

    @law("weights are rows >= 0 that sum to 1, or to 0 when nothing may be addressed")
    def simplex(self, draw: Draw) -> None:
        dtype = draw(st.sampled_from((torch.float64, *self.dtypes)))
        part = self.build(dtype, training=draw(st.booleans()))
        inputs = self.inputs(draw, special=True, dtype=dtype, masked=True)
        memory = inputs.memory
        count = tensors_of(inputs.queries)[0].shape[-2]
        for weights, vectors in self.run(part, inputs)[0]:
            shape = (*memory.keys.shape[:-2], count)
            assert_shape(weights, (*shape, memory.keys.shape[-2]), memory.keys)
            assert_shape(vectors, (*shape, memory.values.shape[-1]), memory.keys)
            assert_weights(weights, memory.mask, self.whole)
            if memory.mask is not None:
                empty = ~memory.mask.any(-1, keepdim=True)
                assert_zero(vectors, empty, "what is read where nothing may be addressed")

    @law("a masked slot weighs exactly 0 and gets no gradient")
    def masked_slots(self, draw: Draw) -> None:
        part = self.build(training=draw(st.booleans()))
        inputs = map_state(differentiable, self.inputs(draw, masked=True))
        keys, values, mask = inputs.memory
        assert mask is not None
        for weights in self.weights(part, inputs):
            assert_zero(weights, ~mask, "weights of masked slots")
        # Weights and reads have paths of their own to the keys, also by fast twins.
        for outputs in (self.weights(part, inputs), self.vectors(part, inputs)):
            unseen = ~mask.any(-2).unsqueeze(-1)
            for name, gradient in zip(
                ("keys", "values"), gradients(outputs, [keys, values]), strict=True
            ):
                assert_zero(gradient, unseen, f"gradient of masked {name}")
            nothing = ~mask.any(-1, keepdim=True)
            queries = differentiated(inputs.queries)
            for gradient in gradients(outputs, queries):
                assert_zero(gradient, nothing, "gradient of queries that may address nothing")

    @law("hard weights are all on the greatest of the others, with their gradient", examples=8)
    def hard(self, draw: Draw) -> None:
        part = self.build()
        memory, queries = map_state(differentiable, self.inputs(draw))
        part.hard = True
        state = part.initial_state(memory)
        # What the definition gives to choose from, and the state that holds it.
        soft, before = part.forward(queries[0], memory, state)
        hard, after = part(queries[0], memory, state)
        expected = [_chosen(row) for row in soft.flatten(0, -2).tolist()]
        assert_close(hard.flatten(0, -2), hard.new_tensor(expected), "hard weights")
        for one, other in zip(tensors_of(before), tensors_of(after), strict=True):
            if one is soft:
                assert_close(other, hard, "hard weights in the state")
        sources = differentiated((memory, queries[0]))
        factors = torch.arange(1.0, soft.shape[-1] + 1, dtype=soft.dtype).cos()
        assert_close(
            gradients(hard * factors, sources),
            gradients(soft * factors, sources),
            "gradient of hard weights",
        )

    @law("extreme inputs give finite numbers")
    def extremes(self, draw: Draw) -> None:
        dtype = draw(st.sampled_from(self.dtypes))
        part = self.build(dtype, training=draw(st.booleans()))
        inputs = map_state(differentiable, self.inputs(draw, special=True, dtype=dtype))
        state = part.initial_state(inputs.memory)
        for query in inputs.queries:
            # The gradient of one step at a time: over several, even the true one may overflow.
            state = map_state(differentiable, state)
            vectors, _ = part.read(query, inputs.memory, state)
            weights, next_state = part(query, inputs.memory, state)
            assert_finite(weights, "weights")
            assert_finite(vectors, "what is read")
            sources = differentiated((inputs.memory, query, state))
            for outputs in (weights, vectors):
                assert_finite(gradients(outputs, [*sources, *part.parameters()]), "gradient")
            state = next_state

    @law("the gradient reaches keys, values and every part of a query", examples=3)
    def reached(self, draw: Draw) -> None:
        part = self.build()
        slots = max(4, self.least_slots)
        drawn = strategies.memories((8,), slots, self.width, masked=False, special=False)
        memory = map_state(differentiable, draw(drawn))
        queries = [
            map_state(differentiable, draw(self.query(memory, 2, False))) for _ in range(_STEPS)
        ]
        weights, vectors = (
            read(part, _AddressingInputs(memory, tuple(queries)))
            for read in (self.weights, self.vectors)
        )
        # Weights do not depend on the values, so only the reads can reach them.
        (gradient,) = gradients(vectors, [memory.values])
        assert gradient.any(), "no gradient from what is read to the values"
        fields = range(len(tensors_of(queries[0])))
        sources = {"the keys": [memory.keys]} | {
            f"part {field} of the query": [tensors_of(query)[field] for query in queries]
            for field in fields
        }
        for outputs, what in ((weights, "the weights"), (vectors, "what is read")):
            for name, tensors in sources.items():
                reached = any(gradient.any() for gradient in gradients(outputs, tensors))
                assert reached, f"no gradient from {what} to {name}"

    @law("weights go with their slots under permutation")
    def permutation(self, draw: Draw) -> None:
        inputs = self.inputs(draw)
        slots = inputs.memory.keys.shape[-2]
        self._reordered(draw, inputs, torch.tensor(draw(st.permutations(range(slots)))))

    @law("weights go with their slots under rotation")
    def rotation(self, draw: Draw) -> None:
        inputs = self.inputs(draw)
        slots = inputs.memory.keys.shape[-2]
        self._reordered(draw, inputs, torch.arange(slots).roll(draw(st.integers(0, slots - 1))))

    def _reordered(self, draw: Draw, inputs: _AddressingInputs, order: Tensor) -> None:
        part = self.build()
        (keys, values, mask), queries = inputs
        moved = Memory(
            keys[..., order, :], values[..., order, :], None if mask is None else mask[..., order]
        )
        state = part.initial_state(inputs.memory)
        for query in queries:
            # An initial state need not be symmetric, so the state is reordered too.
            moved_state = map_state(lambda tensor: tensor[..., order], state)
            weights, state = part(query, inputs.memory, state)
            moved_weights, _ = part(query, moved, moved_state)
            assert_close(moved_weights, weights[..., order], "weights")

    @law("padding slots never change a result")
    def padding(self, draw: Draw) -> None:
        part = self.build()
        (keys, values, mask), queries = self.inputs(draw)
        if mask is None:
            mask = torch.ones(*keys.shape[:-2], 1, keys.shape[-2], dtype=torch.bool)
        extra = draw(st.integers(1, 3))
        padding = [
            draw(strategies.tensors((*part_of_slot.shape[:-2], extra, part_of_slot.shape[-1])))
            for part_of_slot in (keys, values)
        ]
        padded = Memory(
            torch.cat([keys, padding[0]], -2),
            torch.cat([values, padding[1]], -2),
            torch.nn.functional.pad(mask, (0, extra)),
        )
        plain = _AddressingInputs(Memory(keys, values, mask), queries)
        with_padding = _AddressingInputs(padded, queries)
        assert_close(
            [weights[..., :-extra] for weights in self.weights(part, with_padding)],
            self.weights(part, plain),
            "weights",
        )
        assert_close(self.vectors(part, with_padding), self.vectors(part, plain), "what is read")

    @law("a mask that leaves every slot is no mask")
    def full_mask(self, draw: Draw) -> None:
        part = self.build()
        memory, queries = self.inputs(draw, masked=False)
        full = torch.ones(*memory.keys.shape[:-2], 1, memory.keys.shape[-2], dtype=torch.bool)
        assert_close(
            self.run(part, _AddressingInputs(memory._replace(mask=full), queries)),
            self.run(part, _AddressingInputs(memory, queries)),
            "weights, vectors and state",
        )

    @law("from no slots zeros are read, or a ValueError says how many there must be", examples=4)
    def no_slots(self, draw: Draw) -> None:
        part = self.build(training=draw(st.booleans()))
        part.hard = draw(st.booleans())
        inputs = map_state(differentiable, self.inputs(draw))
        keys, values, mask = inputs.memory
        none = Memory(keys[..., :0, :], values[..., :0, :], None if mask is None else mask[..., :0])
        try:
            results, _ = self.run(part, _AddressingInputs(none, inputs.queries))
        except ValueError:
            return
        count = tensors_of(inputs.queries)[0].shape[-2]
        for weights, vectors in results:
            assert_shape(weights, (*keys.shape[:-2], count, 0), keys)
            assert_shape(vectors, (*keys.shape[:-2], count, values.shape[-1]), keys)
            assert not vectors.any(), f"{vectors} is read from no slots, expected zeros"
        for gradient in gradients(results, differentiated(inputs)):
            assert not gradient.any(), "what is read from no slots has a gradient"

    @law("a mask and values that all sequences share are those of each")
    def shared(self, draw: Draw) -> None:
        part = self.build()
        (keys, values, mask), queries = self.inputs(draw, masked=True)
        first = (0,) * (keys.dim() - 2)
        values, mask = values[first], None if mask is None else mask[first]
        # At least two sequences, with keys and queries of their own.
        keys, queries = map_state(
            lambda tensor: torch.stack([tensor, tensor.flip(-1)]), (keys, queries)
        )
        batch = keys.shape[:-2]
        of_each = Memory(
            keys,
            values.expand(*batch, -1, -1),
            None if mask is None else mask.expand(*batch, -1, -1),
        )
        assert_close(
            self.run(part, _AddressingInputs(Memory(keys, values, mask), queries)),
            self.run(part, _AddressingInputs(of_each, queries)),
            "weights, vectors and state",
        )

    @law("a head among the queries is a head of the batch")
    def heads(self, draw: Draw) -> None:
        part = self.build()
        memory, queries = self.inputs(draw)
        count = tensors_of(queries)[0].shape[-2]
        mask = memory.mask
        if mask is not None:
            mask = mask.expand(*mask.shape[:-2], count, -1).unsqueeze(-2)
        apart = _AddressingInputs(
            Memory(per_query(memory.keys, count), per_query(memory.values, count), mask),
            map_state(lambda tensor: tensor.unsqueeze(-2), queries),
        )
        together, _ = self.run(part, _AddressingInputs(memory, queries))
        separate, _ = self.run(part, apart)
        separate = map_state(lambda tensor: tensor.squeeze(-2), separate)
        assert_close(together, separate, "weights and vectors")

    @law("a read is the weights times the values")
    def fused_read(self, draw: Draw) -> None:
        part = self.build()
        inputs = map_state(differentiable, self.inputs(draw))
        sources = [*differentiated(inputs), *part.parameters()]
        state = part.initial_state(inputs.memory)
        for query in inputs.queries:
            vectors, fused_state = part.read(query, inputs.memory, state)
            weights, next_state = part(query, inputs.memory, state)
            naive = functional.read(weights, inputs.memory.values)
            assert_close(vectors, naive, "what is read")
            assert_close(fused_state, next_state, "state")
            assert_close(gradients(vectors, sources), gradients(naive, sources), "gradient")
            state = next_state

    @law("a read is linear in the values")
    def linear_read(self, draw: Draw) -> None:
        part = self.build()
        memory, queries = self.inputs(draw)
        other = draw(strategies.tensors(memory.values.shape, special=False))
        # Any linear combination would do; these factors have no symmetry that hides a fault.
        first, second, both = (
            self.vectors(part, _AddressingInputs(memory._replace(values=values), queries))
            for values in (memory.values, other, 2 * memory.values - 3 * other)
        )
        mixed = [2 * one - 3 * two for one, two in zip(first, second, strict=True)]
        assert_close(both, mixed, "what is read")

    @law("a read lies in the convex hull of the values that may be addressed")
    def convex_read(self, draw: Draw) -> None:
        part = self.build(training=draw(st.booleans()))
        inputs = self.inputs(draw)
        _, values, mask = inputs.memory
        mask = torch.ones(values.shape[-2], dtype=torch.bool) if mask is None else mask
        # A box around the open values contains their hull, and is easy to compute.
        open_slots, each = mask.unsqueeze(-1), values.unsqueeze(-3)
        slack = 1e-9
        low = each.masked_fill(~open_slots, torch.inf).amin(-2) - slack
        high = each.masked_fill(~open_slots, -torch.inf).amax(-2) + slack
        if not self.whole:  # the rest of the weight may lie on a slot of zeros
            low, high = low.clamp_max(-slack), high.clamp_min(slack)
        nothing = ~mask.any(-1, keepdim=True)
        for vectors in self.vectors(part, inputs):
            inside = (low <= vectors) & (vectors <= high) | nothing
            assert inside.all(), f"read {vectors} outside of [{low}, {high}]"


def _chosen(row: list[float]) -> list[float]:
    """A row of hard weights, in plain Python: see :func:`memnets.functional.harden`."""
    hard = [0.0] * len(row)
    if sum(row) >= 0.5:
        near = [weight >= (1 - functional.TIE) * max(row) for weight in row]
        hard[near.index(True)] = 1.0
    return hard


def check_addressing(
    addressing: Callable[..., Addressing],
    *,
    query: Callable[[Memory, int, bool], SearchStrategy[Any]] = strategies.queries,
    width: int = 4,
    symmetry: Symmetry | None = "permutation",
    whole: bool = True,
    masked: bool = True,
    least_slots: int = 1,
    dtypes: Iterable[torch.dtype] = LOW_PRECISION,
    leave_out: Iterable[str] = (),
    max_examples: int | None = None,
    **arguments: Any,
) -> None:
    """Check that an addressing keeps every law of addressing and of reading.

    Weights are rows on the simplex, with any leading dims. Masked slots have weight exactly 0 and
    no gradient. Rows without an open slot are zeros, never NaN. Weights and gradients are finite
    for extreme inputs in float32, bfloat16 and float16. Weights follow reordered slots. Padding,
    other heads and batch neighbours never change a result. A read equals weights times values,
    gradients too; it is linear in the values and lies in their convex hull. Hard weights are all on
    the greatest of the others, with their gradient. A memory without slots gives zeros, or a
    ``ValueError``. Nothing is kept on self or modified in place. The laws take two steps with a
    state.

    Args:
        addressing: class of the addressing, or a function that makes it.
        query: a function from a memory, Q, and whether special numbers may come, to a strategy for
            queries: a tensor ``[*B, Q, K]`` or a tuple of tensors ``[*B, Q, ...]``.
        width: K, width of the keys in the tests.
        symmetry: reorderings of the slots that the weights follow: ``"permutation"`` for any
            (content); ``"rotation"`` for slots on a circle (the law of padding is left out, since
            the result depends on the number of slots); ``None`` for none. The last dimension of
            a state's tensors must be the slots.
        whole: whether weights sum to 1 in every row with an open slot; ``False`` = to at most 1.
        masked: whether the addressing supports masks; ``False`` leaves the laws of masks out.
        least_slots: fewest slots, 1 to 6, for example for a shift kernel of a fixed size.
        dtypes: floating-point types besides float64 that the addressing must support.
        leave_out: names of laws to leave out; the error for an unknown name lists them all.
        max_examples: number of examples for each law; that of the Hypothesis profile by default.
        **arguments: arguments for ``addressing``. If this check has an argument of the same name,
            pass a function as ``addressing``.

    Raises:
        AssertionError: a law does not hold; the message describes each failure.
        TypeError: the first argument is a finished part, not a class or function that makes one.
        ValueError: ``leave_out`` names an unknown law.

    Example:
        ``check_addressing(Content, score=Dot())``
    """
    not_meant = {
        "permutation": ("rotation",),
        "rotation": ("permutation", "padding"),
        None: ("permutation", "rotation"),
    }[symmetry]
    if not masked:
        not_meant = (*not_meant, "masked_slots", "padding", "full_mask")
    _AddressingSubject(
        addressing, arguments, query, width, whole, masked, least_slots, dtypes
    ).hold(max_examples, leave_out, not_meant)
