"""Checks of encoders, and of decoding with models that answer in tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from memnets import decoding
from memnets.batches import BEGIN, END, PAD
from memnets.core import Encoder, map_state
from memnets.testing import strategies
from memnets.testing.laws import (
    LOW_PRECISION,
    Draw,
    Laws,
    Subject,
    assert_close,
    assert_equal,
    assert_reached,
    assert_shape,
    differentiable,
    gradients,
    law,
)

if TYPE_CHECKING:
    from memnets.models import Model

__all__ = ["check_decoding", "check_encoder"]


def lengths_mask(draw: Draw, batch: int, steps: int) -> Tensor:
    """Mask of sequences with 1 to ``steps`` steps: bool ``[B, T]``, False = padding, at the end."""
    lengths = draw(st.lists(st.integers(1, steps), min_size=batch, max_size=batch))
    return torch.arange(steps) < torch.tensor(lengths).unsqueeze(1)


# -- encoders --------------------------------------------------------------------------------------


class _EncoderInputs(NamedTuple):
    source: Tensor
    mask: Tensor | None = None


class _EncoderSubject(Subject):
    check = "check_encoder"
    kind = Encoder

    def __init__(
        self,
        factory: Callable[..., Encoder],
        arguments: dict[str, Any],
        width: int,
        source: Callable[[int, int], SearchStrategy[Tensor]] | None,
        dtypes: Iterable[torch.dtype],
    ) -> None:
        super().__init__(factory, arguments, dtypes)
        self.width = width
        self.source = source

    def make(self, arguments: dict[str, Any]) -> Any:
        return self.factory(self.width, **arguments)

    def inputs(
        self, draw: Draw, special: bool = False, batch: int | None = None, steps: int | None = None
    ) -> _EncoderInputs:
        batch = draw(strategies.sizes(2, 3)) if batch is None else batch
        steps = draw(strategies.sizes(3, 5)) if steps is None else steps
        if self.source is not None:
            return _EncoderInputs(draw(self.source(batch, steps)))
        shape = (batch, steps, self.width)
        return _EncoderInputs(draw(strategies.tensors(shape, special=special)))

    def run(self, part: Encoder, inputs: _EncoderInputs) -> Any:
        """Vectors of the steps, and the summary."""
        vectors, summary, _ = part.read(*inputs)
        return vectors, summary

    @law("a source gives [B, S', output_size], [B, summary_size], and a mask", examples=4)
    def shape(self, draw: Draw) -> None:
        part = self.build(training=draw(st.booleans()))
        assert part.input_size == self.width, f"input_size is {part.input_size}"
        source, _ = self.inputs(draw)
        assert source.dim() in part.source_dims, f"source_dims are {part.source_dims}"
        vectors, summary, mask = part.read(source)
        # An encoder that embeds may leave steps out, of one source more than of another.
        assert mask is None or part.embeds, "a mask came without one in"
        # An encoder that embeds may make another number of vectors.
        steps = vectors.shape[1] if part.embeds else source.shape[1]
        like = next(part.parameters())
        assert_shape(vectors, (len(source), steps, part.output_size), like)
        assert_shape(summary, (len(source), part.summary_size), like)

    @law("padding never changes a result")
    def padding(self, draw: Draw) -> None:
        part = self.build()
        source, _ = self.inputs(draw)
        mask = lengths_mask(draw, *source.shape[:2])
        vectors, summary = self.run(part, _EncoderInputs(source, mask))
        # Each sequence by itself, without its padding, is the definition.
        for row, length in enumerate(mask.sum(1).tolist()):
            alone = self.run(part, _EncoderInputs(source[row : row + 1, :length]))
            padded = vectors[row : row + 1, :length], summary[row : row + 1]
            assert_close(padded, alone, f"{length} steps of {source.shape[1]}")

    @law("a mask that leaves every step is no mask", examples=4)
    def full_mask(self, draw: Draw) -> None:
        part = self.build()
        source, _ = self.inputs(draw)
        full = torch.ones(source.shape[:2], dtype=torch.bool)
        result = self.run(part, _EncoderInputs(source, full))
        assert_close(result, self.run(part, _EncoderInputs(source)), "vectors and summary")

    @law("a permutation of the source permutes the vectors, and leaves the summary", examples=4)
    def permutation(self, draw: Draw) -> None:
        part = self.build()
        source, _ = self.inputs(draw)
        order = torch.tensor(draw(st.permutations(range(source.shape[1]))))
        vectors, summary = self.run(part, _EncoderInputs(source))
        moved = self.run(part, _EncoderInputs(source[:, order]))
        assert_close(moved, (vectors[:, order], summary), f"after permutation {order.tolist()}")

    @law("the gradient reaches every parameter", examples=4)
    def parameters(self, draw: Draw) -> None:
        part = self.build()
        assert_reached(part, self.run(part, self.inputs(draw, batch=4, steps=4)))

    @law("the summary has a gradient to every step", examples=3)
    def reached(self, draw: Draw) -> None:
        part = self.build()
        source, _ = map_state(differentiable, self.inputs(draw, batch=2, steps=4))
        if not source.is_floating_point():
            return
        _, summary = self.run(part, _EncoderInputs(source))
        (gradient,) = gradients(summary, [source])
        missed = (~gradient.flatten(2).any(2).any(0)).nonzero().flatten().tolist()
        assert not missed, f"no gradient to steps {missed}"


def check_encoder(
    encoder: Callable[..., Encoder],
    *,
    width: int = 4,
    source: Callable[[int, int], SearchStrategy[Tensor]] | None = None,
    masked: bool = True,
    symmetry: Literal["permutation"] | None = None,
    dtypes: Iterable[torch.dtype] = LOW_PRECISION,
    leave_out: Iterable[str] = (),
    max_examples: int | None = None,
    **arguments: Any,
) -> None:
    """Check that an encoder keeps every law of encoders.

    Results have the right shapes. Padding and batch neighbours never change the vector of a step or
    the summary. The gradient of the summary reaches every step and every parameter. The laws of all
    parts hold too (:mod:`memnets.testing`).

    Args:
        encoder: class of the encoder, or a function that makes it from its input's width.
        width: width of the input in the tests; for an encoder that embeds, the number of tokens or
            channels.
        source: a function from B and S to a strategy for sources, such as
            :func:`~memnets.testing.tokens`, for an encoder that embeds; vectors by default.
        masked: whether the encoder supports padding; ``False`` leaves the laws of masks out.
        symmetry: ``"permutation"`` for an encoder of sets: a permutation of the source permutes
            the vectors of the steps and leaves the summary unchanged.
        dtypes: floating-point types besides float64 that the encoder must support.
        leave_out: names of laws to leave out; the error for an unknown name lists them all.
        max_examples: number of examples for each law; that of the Hypothesis profile by default.
        **arguments: arguments for ``encoder``, besides the width of the input.

    Raises:
        AssertionError: a law does not hold; the message describes each failure.
        TypeError: the first argument is a finished part, not a class or function that makes one.
        ValueError: ``leave_out`` names an unknown law.

    Example:
        ``check_encoder(Recurrent, controller=partial(GRU, hidden_size=8))``
    """
    not_meant = [] if masked else ["padding", "full_mask"]
    not_meant += ["permutation"] if symmetry is None else []
    _EncoderSubject(encoder, arguments, width, source, dtypes).hold(
        max_examples, leave_out, not_meant
    )


# -- decoding --------------------------------------------------------------------------------------


class _DecodingSubject(Laws):
    """Laws of searches over a model, against definitions without any cache."""

    check = "check_decoding"

    def __init__(
        self,
        factory: Callable[..., Model[Any]],
        arguments: dict[str, Any],
        source: Callable[[int, int], SearchStrategy[Tensor]],
        max_length: int,
        masked: bool,
    ) -> None:
        super().__init__(factory, arguments)
        self.source = source
        self.max_length = max_length
        self.masked = masked

    def build(self) -> Any:
        part = super().build().double().eval()
        with torch.no_grad():
            # A new model gives all tokens about the same probability. Larger weights make them
            # differ, so that a search has a choice and some answers end.
            for parameter in part.parameters():
                parameter.mul_(2)
        return part

    def inputs(self, draw: Draw) -> tuple[Tensor, Tensor | None]:
        batch, steps = draw(strategies.sizes(3, 4)), draw(strategies.sizes(3, 4))
        source: Tensor = draw(self.source(batch, steps))
        mask = lengths_mask(draw, batch, steps) if self.masked and draw(st.booleans()) else None
        return source, mask

    def row(self, source: Tensor, mask: Tensor | None, row: int) -> Tensor:
        """One source of a batch, as a batch of 1 without padding."""
        return source[row : row + 1] if mask is None else source[row : row + 1, mask[row]]

    @torch.no_grad()
    def logs(self, part: Any, source: Tensor, tokens: list[int]) -> Tensor:
        """Log probabilities of the next token after BEGIN and after each token, ``[t + 1, O]``."""
        inputs = torch.tensor([[BEGIN, *tokens]])
        logits, _ = part.decode(inputs, part.encode(source))
        logs: Tensor = logits[0].float().log_softmax(-1)
        return logs

    def ended(self, tokens: Tensor) -> list[int]:
        """An answer up to its end mark."""
        row: list[int] = tokens.tolist()
        return row[: row.index(END) + 1] if END in row else row

    @law("it can be made, and answers once", examples=1)
    def smoke(self, draw: Draw) -> None:
        source, mask = self.inputs(draw)
        answers = self.build().generate(source, mask, max_length=self.max_length)
        assert answers.dim() == 2, f"answers are tokens [B, T]; got {list(answers.shape)}"

    @law("greedy takes the likeliest token at each step")
    def greedy(self, draw: Draw) -> None:
        part = self.build()
        source, mask = self.inputs(draw)
        answers = part.generate(source, mask, max_length=self.max_length)
        for row, answer in enumerate(answers):
            expected: list[int] = []
            while len(expected) < self.max_length and END not in expected:
                logs = self.logs(part, self.row(source, mask, row), expected)
                expected.append(int(logs[-1].argmax()))
            assert self.ended(answer) == expected, f"{self.ended(answer)}, expected {expected}"
            rest = answer[len(expected) :]
            assert (rest == PAD).all(), f"not padding after the end mark: {answer.tolist()}"

    @law("samples go on from what is begun, at a temperature of almost 0 greedily", examples=2)
    def samples(self, draw: Draw) -> None:
        part = self.build()
        source, mask = self.inputs(draw)
        draw_from = partial(decoding.sample, part, source, mask, self.max_length)
        greedy = part.generate(source, mask, max_length=self.max_length)
        for ours, theirs in zip(draw_from(temperature=1e-6), greedy, strict=True):
            assert self.ended(ours) == self.ended(theirs), f"{ours.tolist()}, {theirs.tolist()}"
        begun = torch.full((len(source), 2), END + 1)
        for row, answer in enumerate(draw_from(temperature=1e-6, begun=begun)):
            expected = begun[row].tolist()
            while len(expected) < self.max_length and END not in expected:
                logs = self.logs(part, self.row(source, mask, row), expected)
                expected.append(int(logs[-1].argmax()))
            assert self.ended(answer) == expected, f"{self.ended(answer)}, expected {expected}"
        generator = torch.Generator().manual_seed(draw(strategies.seeds()))
        never = [END + 1, PAD]
        for answer in draw_from(begun=begun, never=never, generator=generator):
            tokens = self.ended(answer)
            assert not {*tokens[2:]} & {*never}, f"{tokens} have tokens of {never}"
            assert (answer[len(tokens) :] == PAD).all(), f"not padding after the end: {answer}"

    @law("a beam of 1 is greedy", examples=4)
    def beam_of_1(self, draw: Draw) -> None:
        part = self.build()
        source, mask = self.inputs(draw)
        greedy = decoding.greedy(part, source, mask, self.max_length)
        found = decoding.beam_search(part, source, mask, 1, 0.0, 1, self.max_length)
        for ours, theirs in zip(found.tokens[:, 0], greedy, strict=True):
            assert self.ended(ours) == self.ended(theirs), f"{ours.tolist()}, {theirs.tolist()}"

    @law("scores of a beam are log probabilities, the best first, whole ones before cut ones")
    def scores(self, draw: Draw) -> None:
        part = self.build()
        source, mask = self.inputs(draw)
        found = decoding.beam_search(part, source, mask, 3, 0.0, 3, self.max_length)
        # Cut answers come after whole ones, with any scores.
        ranks = found.scores - 1e6 * ~(found.tokens == END).any(-1)
        assert not (ranks.diff(dim=1) > 0).any(), f"not the best first: {found}"
        for row, (answers, scores) in enumerate(zip(*found, strict=True)):
            for answer, score in zip(answers, scores, strict=True):
                if score == -torch.inf:
                    continue
                tokens = self.ended(answer)
                logs = self.logs(part, self.row(source, mask, row), tokens[:-1])
                expected = logs[torch.arange(len(tokens)), torch.tensor(tokens)].sum()
                assert (score - expected).abs() < 1e-4, f"{tokens}: {score}, expected {expected}"

    @law("batch neighbours never change an answer", examples=4)
    def batch_neighbours(self, draw: Draw) -> None:
        part = self.build()
        source, mask = self.inputs(draw)
        for beam in (1, 2):
            answers = part.generate(source, mask, beam, max_length=self.max_length)
            # Rows finish at different steps and leave the batch: the rest must not notice.
            for row, answer in enumerate(answers):
                one = self.row(source, mask, row)
                (alone,) = part.generate(one, None, beam, max_length=self.max_length)
                expected = self.ended(alone)
                assert self.ended(answer) == expected, f"{self.ended(answer)}, alone {expected}"

    @law("a state is reordered as a search wants it")
    def reorder(self, draw: Draw) -> None:
        part = self.build()
        source = draw(self.source(2, 3)).repeat_interleave(2, 0)
        for same_source in (True, False):
            # With the same source, a row may be replaced only by a row of its own beam of two.
            least = [0, 0, 2, 2] if same_source else [0] * 4
            most = [1, 1, 3, 3] if same_source else [3] * 4
            chosen = [draw(st.integers(*ends)) for ends in zip(least, most, strict=True)]
            with torch.no_grad():
                first = torch.tensor([[BEGIN, END + 1], [BEGIN, END], [BEGIN, BEGIN], [BEGIN, PAD]])
                _, state = part.decode(first, part.encode(source))
                token = torch.full((4, 1), END)
                index = torch.tensor(chosen)
                expected = part.decode(token, state)[0][index]
                moved = part.reorder(state, index, same_source=same_source)
                result, _ = part.decode(token, moved)
            assert_close(result, expected, f"rows {chosen}, same_source={same_source}")

    @law("the same source gives the same answer", examples=2)
    def again(self, draw: Draw) -> None:
        part = self.build()
        source, mask = self.inputs(draw)
        kept = source.clone()
        first, second = (
            part.generate(source, mask, 2, max_length=self.max_length) for _ in range(2)
        )
        assert_equal(second, first, "a second search")
        assert_equal(source, kept, "the source after a search")


def check_decoding(
    model: Callable[..., Model[Any]],
    *,
    source: Callable[[int, int], SearchStrategy[Tensor]],
    max_length: int = 5,
    masked: bool = True,
    leave_out: Iterable[str] = (),
    max_examples: int | None = None,
    **arguments: Any,
) -> None:
    """Check that greedy search, beam search and sampling over a model agree with their definitions.

    The definitions encode the source and decode the whole answer again for every token. Caches,
    ``reorder`` and rows that leave the batch must not change an answer. The check assumes a model
    that keeps the laws of :func:`~memnets.testing.check_model`.

    Args:
        model: class of the model, or a function that makes it, which answers in tokens.
        source: a function from B and S to a strategy for sources, such as
            :func:`~memnets.testing.tokens`.
        max_length: most tokens of an answer in the tests, at least 1.
        masked: whether the model supports padding of its source.
        leave_out: names of laws to leave out; the error for an unknown name lists them all.
        max_examples: number of examples for each law; that of the Hypothesis profile by default.
        **arguments: arguments for ``model``.

    Raises:
        AssertionError: a law does not hold; the message describes each failure.
        TypeError: the first argument is a finished part, not a class or function that makes one.
        ValueError: ``leave_out`` names an unknown law.

    Example:
        ``check_decoding(Transformer, source=tokens(7), input_size=7, output_size=7, width=8)``
    """
    _DecodingSubject(model, arguments, source, max_length, masked).hold(max_examples, leave_out)
