"""A SNAIL on a source and the one step after it, as one node of the autograd graph.

The twin of :meth:`memnets.core.EncoderDecoder.continuations`. Nearly all of the time of a SNAIL
goes into products with its weights, so this twin takes fewer and larger ones:

- The last block reads for the answers alone. Then nobody needs a key and a value of each step:
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
from typing import Any, NamedTuple

import torch
from torch import Tensor

from memnets import fast
from memnets.addressing import Content
from memnets.cells.attention import AttentionBlock
from memnets.cells.composed import Chain
from memnets.cells.convolutions import DenseBlock, TCBlock
from memnets.core import Cell, map_state
from memnets.kernels.parts import differentiable, softmax_gradient, unrecorded
from memnets.models.snail import SNAIL
from memnets.normalizers import Softmax
from memnets.precision import called_with
from memnets.scores import ScaledDot

__all__ = ["continuations"]


class _Rows(NamedTuple):
    """Rows of the features: steps of the source, then the answers, each for all sequences.

    Attributes:
        batch: B, the number of sequences.
        steps: S, steps of the source.
        answers: T, the number of answers, all of them steps of the time S.
    """

    batch: int
    steps: int
    answers: int

    @property
    def source(self) -> int:
        """Number of rows of the source."""
        return self.batch * self.steps

    def by_sequence(self, rows: Tensor) -> Tensor:
        """``[(S + T) B, W] -> [B, S + T, W]``, or a part of the rows; a view."""
        return rows.view(-1, self.batch, rows.shape[-1]).transpose(0, 1)

    def closed(self, device: torch.device) -> Tensor:
        """Slots that a step must not see, bool ``[S + T, S + T]``: later steps, other answers."""
        order = torch.arange(self.steps + self.answers, device=device)
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
            # The first answer is among these rows; the others have the same past.
            others = both[first + count :]
            if len(others):
                past = inputs[count - rows.batch : count] @ part.t()
                others.view(-1, *past.shape).add_(past)
        values, gates = both.chunk(2, 1)
        values.tanh_(), gates.sigmoid_()
        torch.mul(values, gates, out=features[:, size : size + self.filters])
        return (both,)

    def backward(
        self, features: Tensor, gradient: Tensor, weight: Tensor, rows: _Rows, both: Tensor
    ) -> tuple[Tensor, Tensor]:
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

    def _weights(self, queries: Tensor, keys: Tensor, rows: _Rows) -> Tensor:
        scores = torch.bmm(queries, keys.mT).mul_(self.scale)
        return scores.masked_fill_(rows.closed(scores.device), -math.inf).softmax(-1)

    def forward(
        self, features: Tensor, weight: Tensor, bias: Tensor, rows: _Rows
    ) -> tuple[Tensor, ...]:
        projected = torch.addmm(bias, features[:, : self.size], weight.t())
        queries, keys, values = rows.by_sequence(projected).split(self.sizes, -1)
        weights = self._weights(queries, keys, rows)
        out = features[:, self.size : self.size + self.sizes[2]]
        rows.by_sequence(out).copy_(torch.bmm(weights, values))
        return (projected,)

    def backward(
        self, features: Tensor, gradient: Tensor, weight: Tensor, rows: _Rows, projected: Tensor
    ) -> tuple[Tensor, Tensor]:
        size = self.size
        queries, keys, values = rows.by_sequence(projected).split(self.sizes, -1)
        # Computed again, so that no matrix of all pairs of steps is kept for each block.
        weights = self._weights(queries, keys, rows)
        outer = rows.by_sequence(gradient[:, size : size + self.sizes[2]])
        of_scores = softmax_gradient(torch.bmm(outer, values.mT), weights).mul_(self.scale)
        through = torch.empty_like(projected)
        of_queries, of_keys, of_values = rows.by_sequence(through).split(self.sizes, -1)
        of_queries.copy_(torch.bmm(of_scores, keys))
        of_keys.copy_(torch.bmm(of_scores.mT, queries))
        of_values.copy_(torch.bmm(weights.mT, outer))
        gradient[:, :size].addmm_(through, weight)
        return through.t() @ features[:, :size], through.sum(0)


class _Answer:
    """The last :class:`~memnets.cells.AttentionBlock`, of which the answers alone are needed."""

    def __init__(self, block: AttentionBlock) -> None:
        self.size = block.input_size
        self.sizes = block.sizes
        self.scale = 1 / math.sqrt(block.sizes[0])

    def forward(
        self, features: Tensor, weight: Tensor, bias: Tensor, rows: _Rows
    ) -> tuple[Tensor, ...]:
        """Outputs of the block, ``[T B, size + V]``, and what its gradient needs."""
        to_query, to_key, to_value = weight.split(self.sizes)
        query_bias, _, value_bias = bias.split(self.sizes)
        own = features[rows.source :]
        # The bias of the keys adds the same to all scores of a query, which changes no weight.
        queries = torch.addmm(query_bias, own, to_query.t()).mul_(self.scale)
        pointed = queries @ to_key
        source, answers = (rows.by_sequence(part) for part in (features[: rows.source], own))
        pointed_answers = rows.by_sequence(pointed)
        scores = torch.bmm(pointed_answers, source.mT)
        own_scores = (pointed_answers * answers).sum(-1, keepdim=True)
        weights = torch.cat([scores, own_scores], -1).softmax(-1)
        mixed = torch.mul(answers, weights[..., -1:])
        mixed.baddbmm_(weights[..., :-1], source)
        mixed = mixed.transpose(0, 1).reshape_as(own)
        read = torch.addmm(value_bias, mixed, to_value.t())
        return torch.cat([own, read], 1), queries, pointed, weights, mixed

    def backward(
        self,
        features: Tensor,
        gradient: Tensor,
        weight: Tensor,
        rows: _Rows,
        outer: Tensor,
        *saved: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Gradients of weight and bias, from that of the outputs, ``[T B, size + V]``.

        The first part of the features' gradient is stored in ``gradient``.
        """
        queries, pointed, weights, mixed = saved
        to_query, to_key, to_value = weight.split(self.sizes)
        own = features[rows.source :]
        of_own, of_read = outer.split([self.size, self.sizes[2]], 1)
        of_mixed = of_read @ to_value
        source, answers, by_mixed, by_pointed = (
            rows.by_sequence(part) for part in (features[: rows.source], own, of_mixed, pointed)
        )
        of_weights = torch.cat(
            [torch.bmm(by_mixed, source.mT), (by_mixed * answers).sum(-1, keepdim=True)], -1
        )
        of_scores = softmax_gradient(of_weights, weights)
        # Each step of the source is in the scores and in the mix: both in one product.
        both = torch.cat([by_pointed, by_mixed], 1)
        shares = torch.cat([of_scores[..., :-1], weights[..., :-1]], 1)
        rows.by_sequence(gradient[: rows.source]).copy_(torch.bmm(shares.mT, both))
        of_pointed = torch.mul(answers, of_scores[..., -1:])
        of_pointed.baddbmm_(of_scores[..., :-1], source)
        of_pointed = of_pointed.transpose(0, 1).reshape_as(own)
        of_queries = torch.mm(of_pointed, to_key.t()).mul_(self.scale)
        of_answers = gradient[rows.source :]
        torch.addmm(of_own, of_queries, to_query, out=of_answers)
        rows.by_sequence(of_answers).addcmul_(by_pointed, of_scores[..., -1:]).addcmul_(
            by_mixed, weights[..., -1:]
        )
        weight_gradient = torch.cat(
            [of_queries.t() @ own, queries.t() @ of_pointed, of_read.t() @ mixed]
        )
        no_gradient = queries.new_zeros(self.sizes[1])
        return weight_gradient, torch.cat([of_queries.sum(0), no_gradient, of_read.sum(0)])


def _blocks(body: Cell) -> list[Any] | None:
    """Attention blocks and dense blocks of a body in their order; ``None`` if it has others."""
    if type(body) is AttentionBlock:
        how = body.addressing
        parts = type(how), type(how.score), type(how.normalizer)
        return [body] if parts == (Content, ScaledDot, Softmax) else None
    if type(body) is DenseBlock:
        return [body]
    if not isinstance(body, Chain) or type(body) not in (Chain, TCBlock):
        return None
    found = [_blocks(cell) for cell in body.cells]  # type: ignore[arg-type]
    return None if None in found else [block for part in found for block in part or []]


def _fits(model: SNAIL, source: Tensor, inputs: Tensor, mask: Tensor | None) -> bool:
    blocks = _blocks(model.body)
    return (
        # Steps that a sequence skips would need a row order of its own.
        mask is None
        and model.inputs.positions is None
        and blocks is not None
        and type(blocks[-1]) is AttentionBlock
        # The definition says what is wrong with sequences that do not go together, are empty or
        # too long.
        and min(source.dim(), inputs.dim()) > 1
        and len(source) == len(inputs)
        and min(source.shape[:2] + inputs.shape[:2]) > 0
        and (model.max_length is None or source.shape[1] < model.max_length)
    )


@fast.twin(SNAIL, "continuations", fits=_fits)
def continuations(model: SNAIL, source: Tensor, inputs: Tensor, mask: Tensor | None) -> Tensor:
    """Logits ``[B, T, O]``: see :meth:`memnets.core.EncoderDecoder.continuations`."""
    blocks = _blocks(model.body)
    assert blocks is not None
    weights = [tensor for block in blocks for tensor in (block.layer.weight, block.layer.bias)]
    hidden = _Continuations.apply(  # type: ignore[no-untyped-call]
        model.body, blocks, model.inputs.source(source), model.inputs.answer(inputs), *weights
    )
    logits: Tensor = model.output(hidden)
    return logits


def _plain(body: Cell, source: Tensor, answers: Tensor, *weights: Tensor) -> tuple[Tensor]:
    """Outputs of the body by its definition, with weights in place of its own."""

    def run() -> tuple[Tensor]:
        _, state = body.unroll(source, body.initial_state(len(source)))
        rows = torch.arange(len(answers), device=answers.device)
        rows = rows.repeat_interleave(answers.shape[1])
        state = map_state(lambda part: part.index_select(0, rows), state)
        outputs, _ = body.step(answers.flatten(0, 1), state)
        return (outputs.view(*answers.shape[:2], -1),)

    values = dict(zip(dict(body.named_parameters()), weights, strict=True))
    outputs: tuple[Tensor] = called_with(body, values, run)
    return outputs


class _Continuations(torch.autograd.Function):
    @staticmethod
    @unrecorded
    def forward(
        ctx: Any, body: Cell, blocks: list[Any], source: Tensor, answers: Tensor, *weights: Tensor
    ) -> Tensor:
        batch, steps, width = source.shape
        rows = _Rows(batch, steps, answers.shape[1])
        *inner, last = blocks
        features = source.new_empty((steps + rows.answers) * batch, last.input_size)
        by_sequence = rows.by_sequence(features)
        by_sequence[:, :steps, :width] = source
        by_sequence[:, steps:, :width] = answers
        kinds = [_Convolution if type(block) is DenseBlock else _Attention for block in inner]
        layers = [*(kind(block) for kind, block in zip(kinds, inner, strict=True)), _Answer(last)]
        saved: list[tuple[Tensor, ...]] = []
        pairs = list(zip(weights[::2], weights[1::2], strict=True))
        for layer, (weight, bias) in zip(layers[:-1], pairs, strict=False):
            saved.append(layer.forward(features, weight, bias, rows))
        outputs, *kept = layers[-1].forward(features, *pairs[-1], rows)
        ctx.layers, ctx.rows, ctx.width = layers, rows, width
        ctx.plain, ctx.given = partial(_plain, body), 2 + len(weights)
        ctx.save_for_backward(
            source, answers, *weights, features, *(each for part in saved for each in part), *kept
        )
        return rows.by_sequence(outputs).contiguous()

    @staticmethod
    @differentiable
    def backward(ctx: Any, outer: Tensor) -> Any:
        layers, rows, width = ctx.layers, ctx.rows, ctx.width
        weights = ctx.saved_tensors[2 : ctx.given : 2]
        features, *saved = ctx.saved_tensors[ctx.given :]
        gradient = torch.empty_like(features)
        *inner, last = layers
        kept = [outer.transpose(0, 1).flatten(0, 1), *saved[len(inner) :]]
        gradients = [last.backward(features, gradient, weights[-1], rows, *kept)]
        for layer, weight, part in reversed(list(zip(inner, weights, saved, strict=False))):
            gradients.append(layer.backward(features, gradient, weight, rows, part))
        by_sequence = rows.by_sequence(gradient[:, :width])
        return (
            None,
            None,
            by_sequence[:, : rows.steps],
            by_sequence[:, rows.steps :],
            *(each for pair in reversed(gradients) for each in pair),
        )
