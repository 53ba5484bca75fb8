"""Checks of linear memories."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from hypothesis import strategies as st
from torch import Tensor

from memnets import fast
from memnets.memories.linear import Linear, LinearState, LinearStep
from memnets.testing import strategies
from memnets.testing.accesses import _AccessSubject
from memnets.testing.laws import (
    LOW_PRECISION,
    Draw,
    assert_close,
    differentiable,
    differentiated,
    gradients,
    law,
)
from memnets.testing.steps import steps_taken

__all__ = ["check_linear"]


class _LinearSubject(_AccessSubject):
    check = "check_linear"
    kind: ClassVar[type[Linear]] = Linear  # type: ignore[assignment]

    def _written(self, draw: Draw, part: Any, batch: int) -> LinearState:
        """A state with any numbers in its memory."""
        shape = part.initial_state(batch).memory.shape
        memory: Tensor = draw(strategies.tensors(shape, special=False))
        return LinearState(memory)

    @law("many steps at once are the steps one by one, in chunks of any size, with any mask")
    def parallel(self, draw: Draw) -> None:
        part = self.build()
        batch, time = 2, draw(strategies.sizes(7, 9))
        part.chunk = draw(st.integers(1, time + 1))
        steps = differentiable(self.sequence(draw, batch, time))
        start = LinearState(differentiable(self._written(draw, part, batch).memory))
        mask = steps_taken(draw, batch, time)
        outputs, state = [], start
        for number, inputs in enumerate(steps.unbind(1)):
            output, after = part(inputs, state)
            state = part.choose(mask[:, number], after, state)
            outputs.append(output)

        def that_counts(result: tuple[Tensor, LinearState]) -> tuple[Tensor, LinearState]:
            # Where a step is skipped, the output may be anything.
            outputs, state = result
            return outputs.where(mask.unsqueeze(-1), 0.0), state

        expected = that_counts((torch.stack(outputs, 1), state))
        sources = [*differentiated((steps, start)), *part.parameters()]
        slopes = gradients(expected, sources)
        for way, how in ((fast.naive, f"in chunks of {part.chunk}"), (nullcontext, "at once")):
            with way():
                result = that_counts(part.unroll(steps, start, mask))
            what = f"of {time} steps {how}, and one by one"
            assert_close(result, expected, f"outputs and state {what}")
            assert_close(gradients(result, sources), slopes, f"gradient {what}")

    @law("a step is the write with the gates that the memory tells, then a read")
    def one_write(self, draw: Draw) -> None:
        part = self.build()
        batch = draw(strategies.sizes(2, 3))
        interface = self.sequence(draw, batch, 1)[:, 0]
        before = self._written(draw, part, batch)
        vectors, after = part(interface, before)
        step: LinearStep = part.parts(interface)
        expected = before.memory
        if step.log_decay is not None:
            expected = step.log_decay.exp().unsqueeze(-1) * expected
        for write in range(step.keys.shape[-2]):
            key = step.keys[..., write, :].unsqueeze(-1)
            if step.erased is not None:
                expected = expected - key @ (step.erased[..., write, :].unsqueeze(-2) @ expected)
            expected = expected + key @ step.written[..., write, :].unsqueeze(-2)
        assert_close(after.memory, expected, "the memory after a step, and by its gates")
        read = torch.einsum("bhk,bhkv->bhv", step.query, expected)
        if part.normalized:
            read = read[..., :-1] / (read[..., -1:] + 1e-6)
        assert_close(vectors, read.flatten(1), "what a step reads, and its query on the memory")

    @law("a step that adds nothing never makes the memory longer")
    def bounded(self, draw: Draw) -> None:
        part = self.build()
        batch = draw(strategies.sizes(2, 3))
        interface = self.sequence(draw, batch, 1)[:, 0]
        values = slice(sum(part.sizes[:2]), sum(part.sizes[:3]))
        before = self._written(draw, part, batch)
        interface[:, values] = 0.0
        _, after = part(interface, before)
        length, most = (state.memory.flatten(2).norm(dim=-1) for state in (after, before))
        assert (length <= most * (1 + 1e-9)).all(), f"of a length {most} it became {length}"

    @law("what is written at orthonormal keys is read back, whatever is written at other ones")
    def read_back(self, draw: Draw) -> None:
        part = self.build()
        heads, writes, width = part.read_heads, part.writes, part.key_size
        time = width // writes - 1
        steps = self.sequence(draw, 2, time + 1)
        # A key for each write; those of the last step stand for all that comes after.
        places = torch.arange((time + 1) * writes).view(time + 1, writes) % width
        keys = torch.eye(width, dtype=steps.dtype)[places]
        steps[..., part.sizes[0] : sum(part.sizes[:2])] = keys.repeat(1, heads, 1).flatten(1)
        for step, write in itertools.product(range(time), range(writes)):
            steps[..., : part.sizes[0]] = keys[step, write].repeat(heads)
            vectors, _ = part.unroll(steps, part.initial_state(2))
            told: LinearStep = part.parts(steps)
            kept = told.keys[:, step, :, write] * told.query[:, -1]
            if told.log_decay is not None:
                kept = kept * told.log_decay[:, step + 1 :].sum(1).exp()
            expected = kept.sum(-1, keepdim=True) * told.written[:, step, :, write]
            what = f"what write {write} of step {step} wrote, read after step {time}"
            assert_close(vectors[:, -1], expected.flatten(1), what)


def _not_meant(part: Linear) -> list[str]:
    """Laws that the settings of a memory leave out."""
    left = ["source_padding", "slots"]
    # An erase by entries is no reflection: it may make a memory longer. Without keys of length 1
    # none is.
    vector = part.erase is not None and part.erase.interface_size > part.read_heads
    unit = torch.eye(part.key_size).to(part.empty)
    keys = part.features(unit)
    orthogonal = torch.allclose(keys @ keys.mT, torch.eye(len(keys)).to(keys), atol=1e-5)
    long = part.features(2 * unit)
    bounded = part.erase is None or (not vector and bool((long.square().sum(-1) <= 1 + 1e-5).all()))
    if not bounded or part.normalized:
        left.append("bounded")
    if not orthogonal or part.normalized or part.key_size < 2 * part.writes:
        left.append("read_back")
    return left


def check_linear(
    memory: Callable[..., Linear],
    *,
    dtypes: Iterable[torch.dtype] = LOW_PRECISION,
    leave_out: Iterable[str] = (),
    max_examples: int | None = None,
    **arguments: Any,
) -> None:
    """Check that a linear memory keeps every law of accesses, and those of linear memories.

    The laws of :func:`check_access` hold. Many steps at once are the steps one by one, in chunks of
    any size and with any mask, gradients too. A step is the write
    ``S <- (I - k (b . k)^T) Diag(a) S + k (w . v)^T`` with the gates that the memory tells. With
    keys of length at most 1 and one strength of the erase for each head, a step that adds nothing
    never makes the memory longer. What is written at orthonormal keys is read back, whatever is
    written at other ones.

    Args:
        memory: class of the memory, a :class:`memnets.memories.Linear`, or what makes one.
        dtypes: floating-point types besides float64 that the memory must support.
        leave_out: names of laws to leave out; the error for an unknown name lists them all.
        max_examples: number of examples for each law; that of the Hypothesis profile by default.
        **arguments: arguments for ``memory``.

    Raises:
        AssertionError: a law does not hold; the message describes each failure.
        TypeError: the first argument is a finished part, not a class or function that makes one.
        ValueError: ``leave_out`` names an unknown law.

    Example:
        ``check_linear(Linear, key_size=4, value_size=3, decay=MyDecay, erase="scalar")``
    """
    subject = _LinearSubject(memory, arguments, dtypes)
    left: list[str] = []
    try:
        with torch.random.fork_rng(devices=[]):
            left = _not_meant(subject.build())
    except Exception:  # the first law tells of it
        pass
    subject.hold(max_examples, leave_out, left)
