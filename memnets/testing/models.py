"""Checks of models."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from memnets.batches import BEGIN, END, Batch, Places
from memnets.core import map_state
from memnets.testing import strategies
from memnets.testing.laws import (
    LOW_PRECISION,
    Draw,
    assert_close,
    assert_equal,
    assert_finite,
    assert_reached,
    gradients,
    law,
    single,
)
from memnets.testing.steps import _assert_same_run, _Chunked, _Sequences
from memnets.viewing import trace
from memnets.viewing.interventions import Weights

if TYPE_CHECKING:
    from memnets.models import Model

__all__ = ["check_model", "check_pointer"]


class _ModelSubject(_Chunked):
    check = "check_model"

    def __init__(
        self,
        factory: Callable[..., Model],
        arguments: dict[str, Any],
        steps: Callable[[int, int], SearchStrategy[Tensor]] | None,
        overfit_steps: int,
        dtypes: Iterable[torch.dtype],
        source: Callable[[int, int], SearchStrategy[Tensor]] | None = None,
    ) -> None:
        super().__init__(factory, arguments, dtypes)
        self.overfit_steps = overfit_steps
        self.given_steps = steps
        self.given_source = source
        self.masked = True

    @functools.cached_property
    def steps(self) -> Callable[[int, int], SearchStrategy[Tensor]]:
        if self.given_steps is not None:
            return self.given_steps
        with torch.random.fork_rng(devices=[]):
            size = self.build().input_size
        return lambda batch, time: strategies.tensors((batch, time, size), special=False)

    def sequence(self, draw: Draw, batch: int, time: int) -> Tensor:
        tensor: Tensor = draw(self.steps(batch, time))
        return tensor

    def reading(self, draw: Draw, batch: int, time: int) -> Tensor:
        given = self.steps if self.given_source is None else self.given_source
        source: Tensor = draw(given(batch, time))
        return source

    def start(self, part: Model, source: Tensor, mask: Tensor | None = None) -> Any:
        if mask is None and not part.coupled:
            return part.encode(source)
        return part.encode(source, mask, *self._places(part, source))

    def _places(self, part: Model, source: Tensor) -> tuple[Places, ...]:
        """Places for a model that is coupled: those of the answer come again and again."""
        if not part.coupled:
            return ()
        steps, device = source.shape[1], source.device
        sides = torch.arange(steps, device=device), torch.arange(12, device=device) % 3
        return (Places(*(side.expand(len(source), -1) for side in sides)),)

    def _given(self, part: Model, batch: Batch) -> Batch:
        """A batch with places, if the model is coupled."""
        for source, answer in self._places(part, batch.source):
            batch = batch._replace(source_places=source, target_places=answer)
        return batch

    def advance(self, part: Model, steps: Tensor, state: Any) -> tuple[Tensor, Any]:
        return part.decode(steps, state)

    def in_graph_arguments(self, draw: Draw, part: Model) -> tuple[Any, ...]:
        source = self.reading(draw, 2, 2)
        sequences = _Sequences(source, self.following(draw, source, 1))
        mask = torch.tensor([[True], [False]])
        batch = Batch(*sequences, self._targets(part, sequences), None, mask)
        with torch.no_grad():
            return self._given(part, batch), self.start(part, batch.source)

    def in_graph(self, part: Model, *arguments: Any) -> Any:
        # The loss of a batch, and a step of an answer.
        batch, state = arguments
        return part.loss(batch), part.decode(batch.inputs, state)

    def training_inputs(self, part: Model, source: Tensor, steps: Tensor) -> Batch:
        # The targets are answers: the host may not wait for one either.
        with torch.no_grad():
            logits, _ = part.decode(steps, self.start(part, source))
        return self._given(part, Batch(source, steps, part.objective.answer(logits)))

    def train(
        self, part: Model, given: Batch, source_mask: Tensor | None, mask: Tensor | None
    ) -> None:
        source_mask = source_mask if self.masked else None
        part.loss(given._replace(source_mask=source_mask, target_mask=mask)).backward()

    def learn(self, part: Model, given: Batch) -> None:
        part.whole_step(given, torch.optim.SGD(part.parameters()), greatest_norm=1.0)

    @law("the future is never seen")
    def causal(self, draw: Draw) -> None:
        part = self.build()
        # Both runs have the same shapes, so even the bits must be equal.
        source, steps = self.inputs(draw, time=draw(st.integers(2, 4)))
        time = draw(st.integers(1, steps.shape[1] - 1))
        changed = self.following(draw, source, steps.shape[1])
        changed = torch.cat([steps[:, :time], changed[:, time:]], 1)
        state = self.start(part, source)
        before, after = (self.advance(part, inputs, state)[0] for inputs in (steps, changed))
        assert_equal(after[:, :time], before[:, :time], f"outputs before the change at {time}")

    @law("an intervention reaches its step and none before it", examples=2)
    def interventions(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw, batch=2, time=3)
        with torch.no_grad(), trace.record(part, kinds=None) as tape:
            part.decode(steps, self.start(part, source))
        _assert_same_run(tape.intervene(), tape)
        # One of them, as each costs a run; and a slot with some weight, as others may be closed.
        rows = {part: tape.over_time(part)[0] for part in tape.weights}
        places = [
            (part, time) for part, row in rows.items() for time in row.any(-1).nonzero().flatten()
        ]
        if not places:
            return
        addressing, place = draw(st.sampled_from(places))
        before, time = rows[addressing], int(place)
        slot = draw(st.sampled_from(before[time].nonzero().flatten().tolist()))
        forced = Weights(addressing, slot, head=0, sequence=0, start=time, stop=time + 1)
        after = tape.intervene(forced).over_time(addressing)[0]
        what = f"weights of {type(addressing).__name__}"
        assert_equal(after[:time], before[:time], f"{what} before an intervention")
        expected = (torch.arange(after.shape[-1]) == slot).to(after)
        assert_equal(after[time], expected, f"{what} that are forced to slot {slot}")

    @law("padding never changes a result")
    def padding(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw)
        lengths = [draw(st.integers(1, source.shape[1])) for _ in range(len(source))]
        # Steps that fit the shortest source: a pointer may not point at padding.
        steps = self.following(draw, source[:, : min(lengths)], steps.shape[1])
        mask = torch.arange(source.shape[1]) < torch.tensor(lengths).unsqueeze(1)
        padded, _ = self.advance(part, steps, self.start(part, source, mask))
        for row, length in enumerate(lengths):
            one = slice(row, row + 1)
            alone, _ = self.advance(part, steps[one], self.start(part, source[one, :length]))
            self.same_answers(padded[one], alone, length, source.shape[1])

    def same_answers(self, padded: Tensor, alone: Tensor, length: int, whole: int) -> None:
        """Assert that logits with and without padding are the same, ``[1, T, O]``."""
        assert_close(padded, alone, f"outputs with {length} steps of {whole}")

    @law("the gradient of the loss reaches every parameter")
    def parameters(self, draw: Draw) -> None:
        part = self.build(training=True)
        source = self.reading(draw, 3, 3)
        steps = self.following(draw, source, 4)
        targets = self._targets(part, _Sequences(source, steps))
        assert_reached(part, part.loss(self._given(part, Batch(source, steps, targets))))

    def _targets(
        self, part: Model, sequences: _Sequences, source_mask: Tensor | None = None
    ) -> Tensor:
        """Random targets in the form of the model's answers, of probability above 0."""
        source, steps = sequences
        with torch.no_grad():
            state = self.start(part, source, source_mask if self.masked else None)
            logits, _ = part.decode(steps, state)
        return part.objective.answer(torch.randn_like(logits).where(logits > -torch.inf, logits))

    @law("under autocast a loss is of single precision, and its gradient is finite", examples=2)
    def autocast_loss(self, draw: Draw) -> None:
        part = self.build(torch.float32, training=True)
        source = single(self.reading(draw, 2, 3))
        # The first sequence is shorter: what it points at must be there.
        steps = single(self.following(draw, source[:, :2], 2))
        source_mask = torch.tensor([[True, True, False], [True] * 3]) if self.masked else None
        mask = torch.tensor([[True, False], [True, True]])
        targets = self._targets(part, _Sequences(source, steps), source_mask)
        half = draw(st.sampled_from((torch.bfloat16, torch.float16)))
        with torch.autocast("cpu", half):
            given = self._given(part, Batch(source, steps, targets, source_mask, mask))
            loss = part.loss(given)
        assert loss.dtype == torch.float32, f"under {half} the loss is of {loss.dtype}"
        assert_finite((loss, gradients(loss, list(part.parameters()))), f"loss under {half}")

    @law("padding of the answer is never scored", examples=4)
    def scored(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw, batch=2, time=4)
        targets = self._targets(part, _Sequences(source, steps))
        length = draw(st.integers(1, 3))
        mask = (torch.arange(4) < length).expand(2, -1)
        other_steps = self.following(draw, source, 4)
        other_targets = self._targets(part, _Sequences(source, other_steps))

        def mixed(inside: Tensor, outside: Tensor) -> Tensor:
            return torch.cat([inside[:, :length], outside[:, length:]], 1)

        def loss(steps: Tensor, targets: Tensor, mask: Tensor | None) -> Tensor:
            torch.manual_seed(0)
            given = self._given(part, Batch(source, steps, targets, None, mask))
            value: Tensor = part.loss(given)
            return value

        expected = loss(steps[:, :length], targets[:, :length], None)
        assert_close(loss(steps, targets, mask), expected, "loss with padding and without")
        changed = loss(mixed(steps, other_steps), mixed(targets, other_targets), mask)
        assert_close(changed, expected, "loss with other padding and without")

    @law("padding may hold any numbers, NaN too", examples=2)
    def any_padding(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw, batch=2, time=4)
        # Of both sequences one is padded at its end; steps fit the shorter source.
        read = draw(st.integers(1, source.shape[1]))
        steps = self.following(draw, source[:, :read], 4)
        lengths = torch.tensor([[read], [source.shape[1]]])
        source_mask = torch.arange(source.shape[1]) < lengths if self.masked else None
        targets = self._targets(part, _Sequences(source, steps), source_mask)
        mask = torch.arange(4) < torch.tensor([[4], [draw(st.integers(1, 3))]])
        plain = self._given(part, Batch(source, steps, targets, source_mask, mask))
        number = draw(st.sampled_from((torch.nan, torch.inf, -torch.inf, 1e300)))

        def filled(values: Tensor, mask: Tensor | None) -> Tensor:
            if mask is None or not values.is_floating_point():
                return values
            padding = ~mask.view(*mask.shape, *[1] * (values.dim() - 2))
            return values.masked_fill(padding, number)

        other = plain._replace(
            source=filled(source, source_mask),
            inputs=filled(steps, mask),
            targets=filled(targets, mask),
        )
        found = []
        for batch in (plain, other):
            torch.manual_seed(0)  # of draws that a loss may make
            loss = part.loss(batch)
            given = gradients(loss, list(part.parameters()))
            state = self.start(part, batch.source, source_mask)
            alone, _ = self.advance(part, steps, state)
            scored = [part.logits(batch).detach()[mask], part.score(batch)]
            found.append((loss, given, alone, scored))
        what = ("loss", "gradient of the loss", "outputs", "outputs and scores of a batch")
        for name, with_other, expected in zip(what, found[1], found[0], strict=True):
            assert_close(with_other, expected, f"{name} with padding of {number}")

    @law("by their weights, losses of batches make the loss of all together", examples=2)
    def weighted(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw, batch=2, time=4)
        targets = self._targets(part, _Sequences(source, steps))
        mask = torch.arange(4) < torch.tensor([[draw(st.integers(1, 3))], [4]])
        both = self._given(part, Batch(source, steps, targets, None, mask))
        rows = [slice(0, 1), slice(1, 2)]
        each = [map_state(lambda tensor, row=row: tensor[row], both) for row in rows]
        terms = [part.loss(batch) * part.weight(batch) for batch in each]
        mean = sum(terms) / sum(part.weight(batch) for batch in each)
        assert_close(mean, part.loss(both), "mean of the losses of two batches, by weight")

    @law("a state is reordered as a search wants it", examples=4)
    def reorder(self, draw: Draw) -> None:
        part = self.build()
        rows = 4
        source, steps = self.inputs(draw, batch=rows)
        rest = self.following(draw, source, 2)
        for same_source in (False, True):
            # The rows of a source's beam stand side by side.
            read = source[torch.arange(rows) // 2] if same_source else source
            least = [row // 2 * 2 if same_source else 0 for row in range(rows)]
            most = [first + 1 if same_source else rows - 1 for first in least]
            chosen = [draw(st.integers(*ends)) for ends in zip(least, most, strict=True)]
            index = torch.tensor(chosen)
            _, state = self.advance(part, steps, self.start(part, read))
            expected = self.advance(part, rest, state)[0][index]
            moved = part.reorder(state, index, same_source=same_source)
            result, _ = self.advance(part, rest[index], moved)
            assert_close(result, expected, f"outputs of rows {chosen}, same_source={same_source}")

    @law("the same seed gives the same numbers")
    def seed(self, draw: Draw) -> None:
        inputs = self.inputs(draw)
        results = []
        for _ in range(2):
            torch.manual_seed(0)
            part = self.build(training=True)
            results.append((dict(part.state_dict()), self.run(part, inputs)))
        assert_equal(results[1], results[0], "parameters, outputs and state")

    @law("the model can overfit one batch", examples=1)
    def overfit(self, draw: Draw) -> None:
        part = self.build(torch.float32, training=True)
        sequences = map_state(single, self.inputs(draw, batch=2, time=3))
        targets = self._targets(part, sequences)
        batch = self._given(part, Batch(sequences.source, sequences.steps, targets))
        # A model that cannot overfit two sequences has a fault that no other law may show.
        optimizer = torch.optim.Adam(part.parameters(), lr=0.01)
        costs = [self._cost(part, batch)]
        for step in range(1, self.overfit_steps + 1):
            optimizer.zero_grad()
            part.loss(batch).backward()
            optimizer.step()
            # Asked often, so that a model that learns quickly ends the law early.
            if step % 10 == 0 or step == self.overfit_steps:
                costs.append(self._cost(part, batch))
                if costs[-1] < costs[0] / 5:
                    return
        raise AssertionError(f"loss {costs[0]} at first, {costs[-1]} after {step} steps")

    @torch.no_grad()
    def _cost(self, part: Model, batch: Batch) -> float:
        """Mean loss of the answers."""
        # Not ``part.loss``: it may have terms, as REINFORCE has, whose value does not measure it.
        return part.objective.losses(part.logits(batch), batch.targets).mean().item()


def check_model(
    model: Callable[..., Model],
    *,
    steps: Callable[[int, int], SearchStrategy[Tensor]] | None = None,
    source: Callable[[int, int], SearchStrategy[Tensor]] | None = None,
    overfit_steps: int = 300,
    masked: bool = True,
    dtypes: Iterable[torch.dtype] = LOW_PRECISION,
    leave_out: Iterable[str] = (),
    max_examples: int | None = None,
    **arguments: Any,
) -> None:
    """Check that a model keeps every law of models.

    Decoding all steps at once, one by one and in any chunks gives the same results and gradients.
    The future is never seen. Padding, which may hold NaN, and batch neighbours never change a
    result. The same seed gives the same results. The batch comes first in the state. The gradient
    reaches every parameter. Nothing is kept on self or modified in place. The host never waits for
    a device in a training step. ``torch.compile`` makes one graph of the loss, and of a step of an
    answer. The model can overfit one batch.

    Args:
        model: class of the model, or a function that makes it.
        steps: a function from B and T to a strategy for inputs of the model, ``[B, T, ...]``; by
            default tensors ``[B, T, input_size]``, for a model with an attribute ``input_size``.
        source: the same for its sources, ``[B, S, ...]``; by default they are as the inputs.
        overfit_steps: number of steps of Adam, at the rate 0.01, within which the loss of one small
            batch must fall to a fifth; 0 leaves the law out.
        masked: whether the model supports padding of its source; ``False`` leaves the law out.
        dtypes: floating-point types besides float64 that the model must support.
        leave_out: names of laws to leave out; the error for an unknown name lists them all.
        max_examples: number of examples for each law; that of the Hypothesis profile by default.
        **arguments: arguments for ``model``.

    Raises:
        AssertionError: a law does not hold; the message describes each failure.
        TypeError: the first argument is a finished part, not a class or function that makes one.
        ValueError: ``leave_out`` names an unknown law.

    Example:
        ``check_model(MemoryMachine, input_size=3, output_size=2, controller=LSTM)``
    """
    subject = _ModelSubject(model, arguments, steps, overfit_steps, dtypes, source)
    subject.masked = masked
    subject.hold(max_examples, leave_out, _not_meant(overfit_steps, masked))


def _not_meant(overfit_steps: int, masked: bool) -> list[str]:
    """Laws that the settings of the check leave out."""
    return ["overfit"] * (not overfit_steps) + ["padding"] * (not masked)


class _PointerSubject(_ModelSubject):
    """Laws of models that answer with steps of the source: the tokens from ``END + 1`` on."""

    check = "check_pointer"

    def __init__(
        self,
        factory: Callable[..., Model],
        arguments: dict[str, Any],
        steps: Callable[[int, int], SearchStrategy[Tensor]] | None,
        overfit_steps: int,
        revisit: bool,
        dtypes: Iterable[torch.dtype],
    ) -> None:
        super().__init__(factory, arguments, steps, overfit_steps, dtypes)
        self.revisit = revisit

    def following(self, draw: Draw, source: Tensor, time: int) -> Tensor:
        size = END + 1 + source.shape[1]
        tokens: Tensor = draw(strategies.tokens(size, least=END)(len(source), time))
        return torch.cat([torch.full_like(tokens[:, :1], BEGIN), tokens[:, 1:]], 1)

    def same_answers(self, padded: Tensor, alone: Tensor, length: int, whole: int) -> None:
        outside = padded[..., alone.shape[-1] :]
        assert (outside == -torch.inf).all(), f"logits of padding: {outside}"
        super().same_answers(padded[..., : alone.shape[-1]], alone, length, whole)

    @law("what may not be pointed at has no probability, and what may has some")
    def may_be_pointed_at(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw)
        logits = self.run(part, _Sequences(source, steps))
        assert (logits[..., :END] == -torch.inf).all(), "a mark other than END can be answered"
        for row, tokens in enumerate(steps.tolist()):
            for step in range(len(tokens)):
                visited = [] if self.revisit else tokens[: step + 1]
                probabilities = logits[row, step].softmax(-1)
                for token in range(END + 1, logits.shape[-1]):
                    name = f"step {token - END - 1} of the source after {tokens[: step + 1]}"
                    probability = probabilities[token].item()
                    assert (probability == 0) == (token in visited), f"{name}: {probability}"


class _SetPointerSubject(_PointerSubject):
    @law("a permutation of the source permutes the answer")
    def permutation(self, draw: Draw) -> None:
        part = self.build()
        source, steps = self.inputs(draw)
        order = torch.tensor(draw(st.permutations(range(source.shape[1]))))
        marks = torch.arange(END + 1)
        # For each token of the permuted source, its token before.
        before = torch.cat([marks, order + END + 1])
        now = before.argsort()
        logits = self.run(part, _Sequences(source, steps))
        permuted = self.run(part, _Sequences(source[:, order], now[steps]))
        assert_close(permuted, logits[..., before], f"logits after permutation {order.tolist()}")


def check_pointer(
    model: Callable[..., Model],
    *,
    symmetry: Literal["permutation"] | None = None,
    revisit: bool = False,
    steps: Callable[[int, int], SearchStrategy[Tensor]] | None = None,
    overfit_steps: int = 300,
    masked: bool = True,
    dtypes: Iterable[torch.dtype] = LOW_PRECISION,
    leave_out: Iterable[str] = (),
    max_examples: int | None = None,
    **arguments: Any,
) -> None:
    """Check that a model which points at its source keeps the laws of models and of pointers.

    These are the laws of :func:`check_model` and two more. Padding and, without ``revisit``,
    earlier steps of the answer have probability 0; all other steps have a higher one. With
    ``symmetry``, a permutation of the source permutes the answer.

    Args:
        model: class of the model, or a function that makes it.
        symmetry: ``permutation`` for a model that ignores the order of its source.
        revisit: whether an answer may point at a step again; it is an argument of ``model`` too.
        steps: a function from B and S to a strategy for sources, see :func:`check_model`.
        overfit_steps: see :func:`check_model`.
        masked: whether the model supports padding of its source; ``False`` leaves the law out.
        dtypes: floating-point types besides float64 that the model must support.
        leave_out: names of laws to leave out; the error for an unknown name lists them all.
        max_examples: number of examples for each law; that of the Hypothesis profile by default.
        **arguments: arguments for ``model``.

    Raises:
        AssertionError: a law does not hold; the message describes each failure.
        TypeError: the first argument is a finished part, not a class or function that makes one.
        ValueError: ``leave_out`` names an unknown law.

    Example:
        ``check_pointer(PointerNetwork, input_size=2, encoder=..., decoder=LSTM, attention=...)``
    """
    kind = _PointerSubject if symmetry is None else _SetPointerSubject
    subject = kind(model, {**arguments, "revisit": revisit}, steps, overfit_steps, revisit, dtypes)
    subject.masked = masked
    subject.hold(max_examples, leave_out, _not_meant(overfit_steps, masked))
