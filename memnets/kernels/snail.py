"""A SNAIL on a source and its answers, as one node of the autograd graph.

The twin of :meth:`memnets.core.EncoderDecoder.logits`, where each answer sees those before it, and
of :meth:`memnets.core.EncoderDecoder.continuations`, where no answer sees another. Nearly all of
the time of a SNAIL goes into products with its weights, so that this twin takes fewer and larger
ones:

- Of the last block the answers alone are needed. If they are few, no step needs a key and a value:
  ``q . (W x) = (W^T q) . x``, and the values' weights can wait until the steps are mixed. The
  products are of the size of the answers, not of the source.
- A tap of a convolution is computed only of the steps that it reaches, not of padding.
- Each block appends to the features of the one before. All of them share one matrix, which is
  allocated once and never copied; so do their gradients.

The rows of this matrix are sorted by time: rows of the step t of all sequences, then those of the
step t + 1. So the past of a tap is a range of rows, and needs no copy either.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from memnets import fast
from memnets.addressing import Content
from memnets.batches import Batch
from memnets.cells.attention import AttentionBlock
from memnets.cells.composed import Chain
from memnets.cells.convolutions import DenseBlock, TCBlock
from memnets.cells.embeddings import Embedding, Vectors
from memnets.core import Cell, map_state
from memnets.kernels import known
from memnets.kernels.parts import differentiable, softmax_gradient, unrecorded
from memnets.models.snail import SNAIL
from memnets.normalizers import Softmax
from memnets.precision import called_with
from memnets.scores import ScaledDot

__all__ = ["continuations", "logits"]


#: Steps whose attention is computed at once. Later slots are closed to them, and need no products.
BLOCK = 64


class _Rows(NamedTuple):
    """Rows of the features: steps of a sequence, then the last one in several versions.

    Attributes:
        batch: B, the number of sequences.
        steps: S, steps before the last one.
        versions: T, the number of last steps, all of them at the time S.
    """

    batch: int
    steps: int
    versions: int

    def by_sequence(self, rows: Tensor) -> Tensor:
        """``[(S + T) B, W] -> [B, S + T, W]``, or a part of the rows; a view."""
        return rows.view(-1, self.batch, rows.shape[-1]).transpose(0, 1)

    def closed(self, device: torch.device) -> Tensor:
        """Slots that a step must not see, bool ``[S + T, S + T]``: later steps, other versions."""
        order = torch.arange(self.steps + self.versions, device=device)
        time = order.clamp_max(self.steps)
        return (time >= time.unsqueeze(1)) & (order != order.unsqueeze(1))


class _Convolution:
    """A :class:`~memnets.cells.DenseBlock`.

    Args:
        block: the block.
    """

    def __init__(self, block: DenseBlock) -> None:
        self.size = block.input_size
        self.filters = block.output_size - block.input_size
        self.dilation, self.taps = block.dilation, block.kernel_size

    def _past(self, weight: Tensor, rows: _Rows) -> Iterator[tuple[Tensor, int, int]]:
        """Weights of each tap of an earlier step that any step reaches.

        Yields the weights, the first row that has such a step, and the number of rows of the steps
        that some row has as its past.
        """
        for tap, part in enumerate(weight.split(self.size, 1)[:-1]):
            lag = (self.taps - 1 - tap) * self.dilation
            if lag <= rows.steps:
                yield part, lag * rows.batch, (rows.steps - lag + 1) * rows.batch

    def forward(
        self, features: Tensor, weight: Tensor, bias: Tensor, rows: _Rows
    ) -> tuple[Tensor, ...]:
        inputs, size = features[:, : self.size], self.size
        both = torch.addmm(bias, inputs, weight[:, -size:].t())
        for part, first, count in self._past(weight, rows):
            both[first : first + count].addmm_(inputs[:count], part.t())
            # The first version is among these rows; the others have the same past.
            others = both[first + count :]
            if len(others):
                past = inputs[count - rows.batch : count] @ part.t()
                others.view(-1, *past.shape).add_(past)
        values, gates = both.chunk(2, 1)
        values.tanh_(), gates.sigmoid_()
        torch.mul(values, gates, out=features[:, size : size + self.filters])
        return (both,)

    def backward(
        self, features: Tensor, gradient: Tensor, weight: Tensor, rows: _Rows, *saved: Tensor
    ) -> tuple[Tensor, Tensor]:
        (both,) = saved
        size = self.size
        inputs, inputs_gradient = features[:, :size], gradient[:, :size]
        values, gates = both.chunk(2, 1)
        outer = gradient[:, size : size + self.filters]
        through = torch.empty_like(both)
        of_values, of_gates = through.chunk(2, 1)
        torch.mul(outer, gates, out=of_values)
        torch.mul(outer, values, out=of_gates)
        torch.ops.aten.tanh_backward.grad_input(of_values, values, grad_input=of_values)
        torch.ops.aten.sigmoid_backward.grad_input(of_gates, gates, grad_input=of_gates)

        # A tap that reaches no step has no gradient.
        reached = (self.taps - 1) * self.dilation <= rows.steps
        weight_gradient = torch.empty_like(weight) if reached else torch.zeros_like(weight)
        torch.mm(through.t(), inputs, out=weight_gradient[:, -size:])
        inputs_gradient.addmm_(through, weight[:, -size:])
        parts = self._past(weight_gradient, rows), self._past(weight, rows)
        for (part_gradient, *_), (part, first, count) in zip(*parts, strict=True):
            mine = through[first : first + count]
            others = through[first + count :]
            if len(others):
                mine = mine.clone()
                mine[-rows.batch :] += others.view(-1, rows.batch, others.shape[1]).sum(0)
            torch.mm(mine.t(), inputs[:count], out=part_gradient)
            inputs_gradient[:count].addmm_(mine, part)
        return weight_gradient, through.sum(0)


class _Attention:
    """An :class:`~memnets.cells.AttentionBlock` of which all steps are needed."""

    def __init__(self, block: AttentionBlock) -> None:
        self.size = block.input_size
        self.sizes = block.sizes
        self.scale = 1 / math.sqrt(block.sizes[0])

    def _blocks(
        self, queries: Tensor, keys: Tensor, rows: _Rows
    ) -> Iterator[tuple[slice, slice, Tensor]]:
        """Weights of a range of steps for the slots up to its end; no later one is open to any."""
        count = keys.shape[1]
        closed = rows.closed(keys.device)
        for first in range(0, count, BLOCK):
            end = min(first + BLOCK, count)
            own, seen = slice(first, end), slice(end)
            scores = torch.bmm(queries[:, own], keys[:, seen].mT).mul_(self.scale)
            # All versions of the last step come after the steps before it.
            begin = min(first, rows.steps)
            scores[..., begin:].masked_fill_(closed[own, begin:end], -math.inf)
            yield own, seen, scores.softmax(-1)

    def forward(
        self, features: Tensor, weight: Tensor, bias: Tensor, rows: _Rows
    ) -> tuple[Tensor, ...]:
        projected = torch.addmm(bias, features[:, : self.size], weight.t())
        queries, keys, values = rows.by_sequence(projected).split(self.sizes, -1)
        out = rows.by_sequence(features[:, self.size : self.size + self.sizes[2]])
        for own, seen, weights in self._blocks(queries, keys, rows):
            out[:, own] = torch.bmm(weights, values[:, seen])
        return (projected,)

    def backward(
        self, features: Tensor, gradient: Tensor, weight: Tensor, rows: _Rows, *saved: Tensor
    ) -> tuple[Tensor, Tensor]:
        (projected,) = saved
        size = self.size
        queries, keys, values = rows.by_sequence(projected).split(self.sizes, -1)
        outer = rows.by_sequence(gradient[:, size : size + self.sizes[2]])
        through = torch.empty_like(projected)
        of_queries, of_keys, of_values = rows.by_sequence(through).split(self.sizes, -1)
        of_keys.zero_()
        of_values.zero_()
        # Computed again, so that no matrix of all pairs of steps is kept for each block.
        for own, seen, weights in self._blocks(queries, keys, rows):
            of_scores = softmax_gradient(torch.bmm(outer[:, own], values[:, seen].mT), weights)
            of_scores.mul_(self.scale)
            of_queries[:, own] = torch.bmm(of_scores, keys[:, seen])
            of_keys[:, seen] += torch.bmm(of_scores.mT, queries[:, own])
            of_values[:, seen] += torch.bmm(weights.mT, outer[:, own])
        gradient[:, :size].addmm_(through, weight)
        return through.t() @ features[:, :size], through.sum(0)


class _LastAttention(_Attention):
    """The last :class:`~memnets.cells.AttentionBlock`, of which few rows are needed.

    Args:
        block: the block.
        answers: number of the last steps that are needed, at least 1.
    """

    def __init__(self, block: AttentionBlock, answers: int) -> None:
        super().__init__(block)
        self.answers = answers

    def _own(self, features: Tensor, rows: _Rows) -> Tensor:
        """Rows of the answers."""
        return features[len(features) - self.answers * rows.batch :]

    def forward(
        self, features: Tensor, weight: Tensor, bias: Tensor, rows: _Rows
    ) -> tuple[Tensor, ...]:
        to_query, to_key, to_value = weight.split(self.sizes)
        query_bias, _, value_bias = bias.split(self.sizes)
        inputs = features[:, : self.size]
        own = self._own(inputs, rows)
        # The bias of the keys adds the same to all scores of a query, which changes no weight.
        queries = torch.addmm(query_bias, own, to_query.t()).mul_(self.scale)
        pointed = queries @ to_key
        slots = rows.by_sequence(inputs)
        scores = torch.bmm(rows.by_sequence(pointed), slots.mT)
        closed = rows.closed(scores.device)[-self.answers :]
        weights = scores.masked_fill_(closed, -math.inf).softmax(-1)
        mixed = torch.bmm(weights, slots).transpose(0, 1).reshape_as(own)
        torch.addmm(value_bias, mixed, to_value.t(), out=self._own(features, rows)[:, self.size :])
        return queries, pointed, weights, mixed

    def backward(
        self, features: Tensor, gradient: Tensor, weight: Tensor, rows: _Rows, *saved: Tensor
    ) -> tuple[Tensor, Tensor]:
        queries, pointed, weights, mixed = saved
        to_query, to_key, to_value = weight.split(self.sizes)
        inputs, inputs_gradient = features[:, : self.size], gradient[:, : self.size]
        own, slots = self._own(inputs, rows), rows.by_sequence(inputs)
        of_read = self._own(gradient, rows)[:, self.size :]
        of_mixed = rows.by_sequence(of_read @ to_value)
        of_scores = softmax_gradient(torch.bmm(of_mixed, slots.mT), weights)
        of_pointed = torch.bmm(of_scores, slots).transpose(0, 1).reshape_as(own)
        of_queries = torch.mm(of_pointed, to_key.t()).mul_(self.scale)
        # Each slot is in the scores and in the mix: both in one product.
        shares = torch.cat([of_scores, weights], 1)
        both = torch.cat([rows.by_sequence(pointed), of_mixed], 1)
        rows.by_sequence(inputs_gradient).add_(torch.bmm(shares.mT, both))
        self._own(inputs_gradient, rows).addmm_(of_queries, to_query)
        weight_gradient = torch.cat(
            [of_queries.t() @ own, queries.t() @ of_pointed, of_read.t() @ mixed]
        )
        no_gradient = queries.new_zeros(self.sizes[1])
        return weight_gradient, torch.cat([of_queries.sum(0), no_gradient, of_read.sum(0)])


def _blocks(body: Any) -> list[Any] | None:
    """Attention blocks and dense blocks of a body in their order; ``None`` if it has others."""
    if type(body) in (AttentionBlock, DenseBlock):
        return [body]
    if type(body) not in (Chain, TCBlock):
        return None
    found = [_blocks(cell) for cell in body.cells]
    return None if None in found else [block for part in found for block in part or []]


def _read(block: Any, dtype: torch.dtype) -> bool:
    """Whether the twins compute a block as it is."""
    if type(block) is AttentionBlock:
        how = block.addressing
        if (type(how), type(how.score), type(how.normalizer)) != (Content, ScaledDot, Softmax):
            return False
    return known.block(block, dtype) is not None


def _makes(embedder: Any, given: Tensor, width: int, dtype: torch.dtype) -> bool:
    """Whether an embedder makes vectors of this width and type of what it is given."""
    if type(embedder) is Vectors:
        return given.shape[-1] == embedder.size == width and given.dtype == dtype
    shape = (len(embedder.weight), width) if type(embedder) is Embedding else ()
    return known.tensors(embedder, Embedding, dtype, weight=shape) is not None


def _fits(
    model: SNAIL, source: Tensor, inputs: Tensor, mask: Tensor | None, apart: bool = True
) -> bool:
    blocks = _blocks(model.body)
    dtype = next(model.body.parameters()).dtype
    return (
        # Steps that a sequence skips would need rows of their own order.
        mask is None
        and model.inputs.positions is None
        and blocks is not None
        and len(blocks) > 0
        and type(blocks[-1]) is AttentionBlock
        # Each block takes what those before it have made.
        and all(one.output_size == other.input_size for one, other in pairwise(blocks))
        and all(_read(block, dtype) for block in blocks)
        and _makes(model.inputs.source, source, blocks[0].input_size, dtype)
        and _makes(model.inputs.answer, inputs, blocks[0].input_size, dtype)
        # The definition says what is wrong with sequences that do not go together, are empty or
        # too long.
        and min(source.dim(), inputs.dim()) > 1
        and len(source) == len(inputs)
        and min(source.shape[:2] + inputs.shape[:2]) > 0
        and (
            model.max_length is None
            or source.shape[1] + (1 if apart else inputs.shape[1]) <= model.max_length
        )
    )


def _fits_batch(model: SNAIL, batch: Batch) -> bool:
    return _fits(model, batch.source, batch.inputs, batch.source_mask, apart=False)


@fast.twin(SNAIL, "continuations", fits=_fits)
def continuations(model: SNAIL, source: Tensor, inputs: Tensor, mask: Tensor | None) -> Tensor:
    """Logits ``[B, T, O]``: see :meth:`memnets.core.EncoderDecoder.continuations`."""
    return _answered(model, source, inputs, inputs.shape[1])


@fast.twin(SNAIL, "logits", fits=_fits_batch)
def logits(model: SNAIL, batch: Batch) -> Tensor:
    """Logits ``[B, T, O]``: see :meth:`memnets.core.EncoderDecoder.logits`."""
    return _answered(model, batch.source, batch.inputs, 1)


def _answered(model: SNAIL, source: Tensor, inputs: Tensor, versions: int) -> Tensor:
    """Logits of the answers; the last ``versions`` of them are versions of the last step."""
    blocks = _blocks(model.body)
    assert blocks is not None
    assert model.inputs.source is not None
    weights = [tensor for block in blocks for tensor in (block.layer.weight, block.layer.bias)]
    hidden = _Answers.apply(  # type: ignore[no-untyped-call]
        model.body,
        blocks,
        versions,
        model.inputs.dropout(model.inputs.source(source)),
        model.inputs.dropout(model.inputs.answer(inputs)),
        *weights,
    )
    outputs: Tensor = model.output(hidden)
    return outputs


def _plain(
    body: Cell, versions: int, source: Tensor, answers: Tensor, *weights: Tensor
) -> tuple[Tensor]:
    """Outputs of the body by its definition, with weights in place of its own."""

    def run() -> tuple[Tensor]:
        _, state = body.unroll(source, body.initial_state(len(source)))
        if versions == 1:
            return (body.unroll(answers, state)[0],)
        rows = torch.arange(len(answers), device=answers.device).repeat_interleave(versions)
        state = map_state(lambda part: part.index_select(0, rows), state)
        outputs, _ = body.step(answers.flatten(0, 1), state)
        return (outputs.view(*answers.shape[:2], -1),)

    values = dict(zip(dict(body.named_parameters()), weights, strict=True))
    outputs: tuple[Tensor] = called_with(body, values, run)
    return outputs


def _layers(blocks: list[Any], steps: int, answers: int) -> list[_Convolution | _Attention]:
    """Plan of the blocks; of the last one only the last steps are needed."""
    *inner, last = blocks
    layers = [
        _Convolution(each) if type(each) is DenseBlock else _Attention(each) for each in inner
    ]
    # Each of the answers meets all steps, in their full width, twice instead of once in that of
    # keys and values. The other steps need no keys and values for it.
    key, _, value = last.sizes
    meeting = answers * steps * (2 * last.input_size - key - value)
    spared = (steps - answers) * last.input_size * (key + value)
    return [*layers, _LastAttention(last, answers) if meeting < spared else _Attention(last)]


class _Answers(torch.autograd.Function):
    @staticmethod
    @unrecorded
    def forward(
        ctx: Any,
        body: Cell,
        blocks: list[Any],
        versions: int,
        source: Tensor,
        answers: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        batch, before, width = source.shape
        count = answers.shape[1]
        steps = before + count
        rows = _Rows(batch, steps - versions, versions)
        layers = _layers(blocks, steps, count)
        features = source.new_empty(steps * batch, blocks[-1].output_size)
        by_sequence = rows.by_sequence(features)
        by_sequence[:, :before, :width] = source
        by_sequence[:, before:, :width] = answers
        pairs = zip(weights[::2], weights[1::2], strict=True)
        saved = [
            layer.forward(features, weight, bias, rows)
            for layer, (weight, bias) in zip(layers, pairs, strict=True)
        ]
        ctx.layers, ctx.rows, ctx.width, ctx.before = layers, rows, width, before
        ctx.counts = [len(part) for part in saved]
        ctx.plain, ctx.given = partial(_plain, body, versions), 2 + len(weights)
        ctx.save_for_backward(
            source, answers, *weights, features, *(each for part in saved for each in part)
        )
        return by_sequence[:, before:].contiguous()

    @staticmethod
    @differentiable
    def backward(ctx: Any, outer: Tensor) -> Any:
        rows, width, before = ctx.rows, ctx.width, ctx.before
        saved = list(ctx.saved_tensors)  # asked for once: a checkpoint gives them once
        weights, features = saved[2 : ctx.given : 2], saved[ctx.given]
        gradient = torch.empty_like(features)
        by_sequence = rows.by_sequence(gradient)
        by_sequence[:, :before] = 0
        by_sequence[:, before:] = outer
        gradients: list[Tensor] = []
        for layer, weight, count in reversed(
            list(zip(ctx.layers, weights, ctx.counts, strict=True))
        ):
            kept = [saved.pop() for _ in range(count)][::-1]
            gradients[:0] = layer.backward(features, gradient, weight, rows, *kept)
        to_inputs = by_sequence[..., :width]
        return None, None, None, to_inputs[:, :before], to_inputs[:, before:], *gradients
