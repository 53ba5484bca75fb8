"""All steps of a GRU that looks at a source as one node of the autograd graph.

The twin of :meth:`memnets.models.Seq2Seq.unroll` for a GRU of one layer with additive attention.
Autograd records nothing within the node, and the backward pass is written out. Products that do
not depend on the last step, and the gradients of all weights, are one product for all steps. The
sums ``tanh(q + k)``, by far the largest tensors of a step, are computed again on the way back.
Without gradients, as in a search, a step is the same operations and no node.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from memnets import fast
from memnets.addressing import Content
from memnets.cells.dropout import Dropout
from memnets.cells.recurrent import GRU
from memnets.kernels import known
from memnets.kernels.parts import constant, differentiable, softmax_gradient, unrecorded
from memnets.models.seq2seq import Seq2Seq, Seq2SeqState
from memnets.normalizers import Softmax
from memnets.scores import Additive

__all__ = ["unroll"]

Tensors = tuple[Tensor, ...]


class _Order(NamedTuple):
    """Work of a step, and its order.

    Attributes:
        before: whether attention comes before the step of the GRU.
        feeding: whether the features of a step are an input of the next.
        closed: bool ``[B, S]``, True = a slot that may not be addressed; ``None`` = all may.
        empty: bool ``[B, 1]``, True = all slots of the row are closed; ``None`` with ``closed``.
        noise: factors of dropout on the features of each step, ``[B, width]``; empty = none.
    """

    before: bool
    feeding: bool
    closed: Tensor | None
    empty: Tensor | None
    noise: list[Tensor]


class _Given(NamedTuple):
    """All tensors of a run that may have a gradient.

    Attributes:
        from_input: ``[3 H, E + R]``; R is the width of features and context, if they are inputs.
        from_hidden: ``[3 H, H]``.
        input_bias: ``[3 H]``.
        hidden_bias: ``[3 H]``.
        to_query: ``[K, H]``.
        query_bias: ``[K]``.
        direction: v, ``[K]``.
        to_features: ``[F, H + V]``, or ``[F, H + V + E]`` with attention before the step.
        features_bias: ``[F]``.
        inputs: y, ``[B, T, E]``.
        keys: ``[B, S, K]``.
        values: ``[B, S, V]``.
        controller: the state of the GRU before the first step, ``[B, H]``.
        hidden: its output before the first step, ``[B, H]``.
        fed: the features before the first step, ``[B, F]``, or ``[B, 0]`` without feeding.
    """

    from_input: Tensor
    from_hidden: Tensor
    input_bias: Tensor
    hidden_bias: Tensor
    to_query: Tensor
    query_bias: Tensor
    direction: Tensor
    to_features: Tensor
    features_bias: Tensor
    inputs: Tensor
    keys: Tensor
    values: Tensor
    controller: Tensor
    hidden: Tensor
    fed: Tensor


class _Step(NamedTuple):
    """Tensors of a step for the backward pass, all ``[B, ...]``; stacked, ``[T, B, ...]``."""

    rest: Tensor  # inputs besides y: features and context of the last step
    before: Tensor  # state of the GRU before the step
    gates: Tensor  # r and z
    candidate: Tensor  # n
    across: Tensor  # the part of the candidate that r multiplies
    asked: Tensor  # the vector that makes the query
    query: Tensor
    weights: Tensor
    seen: Tensor  # state of the GRU after the step, and context
    features: Tensor  # before dropout


def _fits(model: Seq2Seq, embedded: Tensor, state: Seq2SeqState) -> bool:
    # Attention after the step without feeding is parallel in any case, but for single steps.
    if not (model.before or model.input_feeding or embedded.shape[1] == 1):
        return False
    # The twin computes neither a gate nor weights that are kept.
    return model.gate is None and state.weights is None and state.memory is not None


def _layers(model: Seq2Seq, embedded: Tensor, state: Any) -> tuple[Tensor | None, ...] | None:
    """Weights of a model, for these inputs and this state.

    Returns:
        The first nine of :class:`_Given`, with the matrix of the score alone in ``to_query``; then
        that of the query, ``None`` without one. ``None`` if the model holds other layers, or they
        do not go together with inputs and state.
    """
    inner = known.layers(model)
    attention, decoder, output = inner["attention"], inner["decoder"], inner["features"]
    if (type(attention), type(decoder), type(inner["dropout"]), type(output)) != (
        Content, GRU, Dropout, nn.Linear,
    ):  # fmt: skip
        return None
    parts = known.layers(attention)
    score, (keys, values, mask) = parts["score"], state.memory
    if type(parts["normalizer"]) is not Softmax or type(score) is not Additive:
        return None
    if embedded.dim() != 3 or keys.dim() != 3 or keys.numel() == 0 or len(state.controller) != 1:
        return None
    (batch, slots, size), (_, steps, width), dtype = keys.shape, embedded.shape, embedded.dtype
    hidden, value, feeding = decoder.hidden_size, values.shape[-1], model.input_feeding
    # Errors of shape are the definition's to tell.
    (controller,), features = state.controller, output.out_features
    found = [embedded, keys, values, controller, state.hidden]
    shapes = [(batch, steps, width), keys.shape, (batch, slots, value), (batch, hidden)]
    shapes += shapes[-1:]
    if feeding:
        found.append(state.fed)
        shapes.append((batch, features))
    if steps == 0 or any(each is None or each.dtype != dtype for each in found):
        return None
    if [each.shape for each in found] != shapes:
        return None
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (batch, 1, slots)):
        return None
    before = value if model.before else 0
    if decoder.input_size != width + before + (features if feeding else 0):
        return None
    recurrent = known.weights(decoder, dtype)
    projection = known.linear(known.layers(score)["projection"], size, size, dtype)
    direction = known.tensors(score, Additive, dtype, direction=(size,))
    seen = hidden + value + (width if model.before else 0)
    to_features = known.linear(output, features, seen, dtype)
    asking, query = inner["query"], None
    if type(asking) is not nn.Identity or size != hidden:
        query = known.tensors(asking, nn.Linear, dtype, weight=(size, hidden))
        if query is None or asking.__dict__["_parameters"].get("bias") is not None:
            return None
    if recurrent is None or projection is None or direction is None or to_features is None:
        return None
    return (*recurrent, *projection, *direction, *to_features, None if query is None else query[0])


@fast.twin(Seq2Seq, "unroll", fits=_fits, reads=_layers)
def unroll(
    model: Seq2Seq, embedded: Tensor, state: Seq2SeqState, read: Any
) -> tuple[Tensor, Seq2SeqState]:
    """Features ``[B, T, width]``: see :meth:`memnets.models.Seq2Seq.unroll`."""
    *recurrent, to_query, query_bias, direction, to_features, features_bias, query = read
    memory, feeding = state.memory, model.input_feeding
    assert memory is not None
    if query is not None:
        to_query = to_query @ query
    closed = empty = None
    if memory.mask is not None:
        closed = ~memory.mask.squeeze(1)
        empty = closed.all(-1, keepdim=True)
        closed = closed & ~empty
    (controller,) = state.controller
    given = _Given._make(
        (
            *recurrent,
            to_query,
            query_bias,
            direction,
            to_features,
            features_bias,
            embedded,
            memory.keys,
            memory.values,
            controller,
            state.hidden,
            controller[:, :0] if state.fed is None else state.fed,
        )
    )
    noise = []
    if feeding and model.dropout.training and model.dropout.p:
        size = (len(embedded), model.features.out_features)
        noise = [model.dropout(embedded.new_ones(size)) for _ in range(embedded.shape[1])]
    order = _Order(model.before, feeding, closed, empty, noise)
    if torch.is_grad_enabled():
        features, hidden = _Run.apply(order, *given)  # type: ignore[no-untyped-call]
    else:
        features, hidden, _ = _run(order, given, recorded=False)
    if not feeding:
        features = model.dropout(features)
    fed = features[:, -1] if feeding else None
    return features, Seq2SeqState(memory, (hidden,), hidden, state.addressing, fed)


def _weights(order: _Order, scores: Tensor) -> Tensor:
    """Weights ``[B, S]`` of scores, which are changed in place."""
    if order.closed is None or order.empty is None:
        return scores.softmax(-1)
    return scores.masked_fill_(order.closed, -torch.inf).softmax(-1).masked_fill(order.empty, 0.0)


def _run(order: _Order, given: _Given, recorded: bool) -> tuple[Tensor, Tensor, list[_Step]]:
    """All steps.

    Returns:
        Features ``[B, T, F]``, the last state of the GRU, and what the backward pass needs.
    """
    batch, steps, width = given.inputs.shape
    size, values = given.from_hidden.shape[1], given.values
    inputs = given.inputs.transpose(0, 1).reshape(steps * batch, width)
    from_inputs, from_rest = given.from_input.tensor_split((width,), 1)
    of_inputs = torch.addmm(given.input_bias, inputs, from_inputs.t()).view(steps, batch, -1)
    to_features, to_features_here = given.to_features.tensor_split((size + values.shape[-1],), 1)
    of_features: list[Tensor] = [given.features_bias] * steps
    if order.before:
        here = torch.addmm(given.features_bias, inputs, to_features_here.t())
        of_features = list(here.view(steps, batch, -1).unbind(0))
    room = torch.empty_like(given.keys)
    flat = room.view(-1, room.shape[-1])
    state, asked, fed = given.controller, given.hidden, given.fed
    left, seen_all = [], []

    def look(asked: Tensor) -> Tensors:
        query = torch.addmm(given.query_bias, asked, given.to_query.t())
        torch.add(given.keys, query.unsqueeze(1), out=room).tanh_()
        weights = _weights(order, torch.mv(flat, given.direction).view(batch, -1))
        return query, weights, torch.bmm(weights.unsqueeze(1), values).squeeze(1)

    for step in range(steps):
        rest = fed
        if order.before:
            query, weights, context = look(asked)
            rest = torch.cat([fed, context], 1)
        gates = of_inputs[step]
        if rest.shape[1]:
            gates = torch.addmm(gates, rest, from_rest.t())
        across = torch.addmm(given.hidden_bias, state, given.from_hidden.t())
        both = torch.add(gates[:, : 2 * size], across[:, : 2 * size]).sigmoid_()
        reset, update = both.chunk(2, 1)
        candidate = torch.addcmul(gates[:, 2 * size :], reset, across[:, 2 * size :]).tanh_()
        before, state = state, torch.lerp(candidate, state, update)
        if not order.before:
            asked = state
            query, weights, context = look(asked)
        seen = torch.cat([state, context], 1)
        if order.feeding:
            features = torch.addmm(of_features[step], seen, to_features.t()).tanh_()
            fed = features * order.noise[step] if order.noise else features
        seen_all.append(fed if order.feeding else seen)
        if recorded:
            left.append(
                _Step(
                    rest, before, both, candidate, across[:, 2 * size :], asked, query, weights,
                    seen, features if order.feeding else given.fed,
                )
            )  # fmt: skip
        asked = state
    if order.feeding:
        return torch.stack(seen_all, 1), state, left
    seen = torch.stack(seen_all)
    of_all = torch.stack(of_features) if order.before else given.features_bias
    features = torch.matmul(seen, to_features.t()).add_(of_all).tanh_()
    return features.transpose(0, 1), state, left


def _plain(order: _Order, *tensors: Tensor) -> Tensors:
    """All steps by plain operations, for second derivatives; results as of :class:`_Run`."""
    given = _Given(*tensors)
    state, asked, fed = given.controller, given.hidden, given.fed
    found = []

    def look(asked: Tensor) -> Tensor:
        query = nn.functional.linear(asked, given.to_query, given.query_bias)
        scores = torch.tanh(query.unsqueeze(1) + given.keys) @ given.direction
        return (_weights(order, scores.clone()).unsqueeze(1) @ given.values).squeeze(1)

    for step, inputs in enumerate(given.inputs.unbind(1)):
        rest = [fed, look(asked)] if order.before else [fed]
        state = torch.gru_cell(
            torch.cat([inputs, *rest], 1), state, given.from_input, given.from_hidden,
            given.input_bias, given.hidden_bias,
        )  # fmt: skip
        seen = [state, rest[1], inputs] if order.before else [state, look(state)]
        features = nn.functional.linear(
            torch.cat(seen, 1), given.to_features, given.features_bias
        ).tanh()
        if order.feeding:
            features = fed = features * order.noise[step] if order.noise else features
        found.append(features)
        asked = state
    return torch.stack(found, 1), state


class _Run(torch.autograd.Function):
    @staticmethod
    @unrecorded
    def forward(ctx: Any, order: _Order, *tensors: Tensor) -> Tensors:
        given = _Given(*tensors)
        features, state, left = _run(order, given, recorded=True)
        ctx.order, ctx.plain, ctx.given = order, partial(_plain, order), len(tensors)
        ctx.save_for_backward(
            *tensors, features, *(torch.stack(part) for part in zip(*left, strict=True))
        )
        return features, state

    @staticmethod
    @differentiable
    def backward(ctx: Any, features_gradient: Tensor, state_gradient: Tensor) -> Any:
        saved, order = ctx.saved_tensors, ctx.order
        given, outputs = _Given(*saved[: ctx.given]), saved[ctx.given]
        left = _Step(*saved[ctx.given + 1 :])
        steps, batch, size = left.before.shape
        width, values, keys = given.inputs.shape[-1], given.values, given.keys
        one = constant(1.0, keys.dtype, keys.device)
        from_inputs, from_rest = given.from_input.tensor_split((width,), 1)
        to_features, to_features_here = given.to_features.tensor_split(
            (size + values.shape[-1],), 1
        )

        # Slopes of the gates, for all steps at once: the gradients of r, z and n are that of the
        # step's output times these factors.
        reset, update = left.gates.chunk(2, -1)
        of_candidate = (1 - update) * torch.addcmul(one, left.candidate, left.candidate, value=-1)
        of_update = (left.before - left.candidate) * torch.addcmul(update, update, update, value=-1)
        of_reset = of_candidate * left.across * torch.addcmul(reset, reset, reset, value=-1)
        to_gates = torch.stack([of_reset, of_update, of_candidate], 2)
        to_across = torch.stack([of_reset, of_update, of_candidate * reset], 2)
        gates_gradient, across_gradient = torch.empty_like(to_gates), torch.empty_like(to_across)
        features_gradient = features_gradient.transpose(0, 1)
        if order.feeding:
            slopes = torch.addcmul(one, left.features, left.features, value=-1)
            if order.noise:
                slopes = slopes.mul_(torch.stack(order.noise))
            inner_gradient, seen_gradients = torch.empty_like(slopes), None
        else:
            found = outputs.transpose(0, 1)
            inner_gradient = features_gradient * torch.addcmul(one, found, found, value=-1)
            seen_gradients = torch.matmul(inner_gradient, to_features)
        query_gradient = torch.empty_like(left.query)
        context_gradient = values.new_empty(steps, batch, values.shape[-1])
        keys_gradient, direction_gradient = (
            torch.zeros_like(keys),
            torch.zeros_like(given.direction),
        )
        room, slope = torch.empty_like(keys), torch.empty_like(keys)
        flat = room.view(-1, room.shape[-1])

        def look_back(step: int, gradient: Tensor) -> Tensor:
            """Gradient of the vector that asked, from that of the context."""
            context_gradient[step] = gradient
            weights = left.weights[step]
            to_weights = torch.bmm(values, gradient.unsqueeze(-1)).squeeze(-1)
            to_scores = softmax_gradient(to_weights, weights)
            torch.add(keys, left.query[step].unsqueeze(1), out=room).tanh_()
            direction_gradient.addmv_(flat.t(), to_scores.view(-1))
            torch.addcmul(one, room, room, value=-1, out=slope).mul_(to_scores.unsqueeze(-1))
            keys_gradient.add_(slope)
            to_query = torch.sum(slope, 1, out=query_gradient[step]).mul_(given.direction)
            return torch.mm(to_query, given.to_query)

        fed_gradient = torch.zeros_like(given.fed)
        asked_gradient = None
        for step in reversed(range(steps)):
            if order.feeding:
                total = features_gradient[step] + fed_gradient
                inner = torch.mul(total, slopes[step], out=inner_gradient[step])
                seen_gradient = torch.mm(inner, to_features)
            else:
                assert seen_gradients is not None
                seen_gradient = seen_gradients[step]
            to_hidden, to_context = seen_gradient.tensor_split((size,), 1)
            state_gradient = state_gradient + to_hidden
            if asked_gradient is not None:
                state_gradient += asked_gradient
            if not order.before:
                state_gradient += look_back(step, to_context)
            across = state_gradient.unsqueeze(1)
            torch.mul(across, to_gates[step], out=gates_gradient[step])
            torch.mul(across, to_across[step], out=across_gradient[step])
            gates = gates_gradient[step].view(batch, -1)
            state_gradient = torch.addmm(
                state_gradient * update[step],
                across_gradient[step].view(batch, -1),
                given.from_hidden,
            )
            rest_gradient = torch.mm(gates, from_rest)
            if order.before:
                fed_gradient, more = rest_gradient.tensor_split((given.fed.shape[1],), 1)
                asked_gradient = look_back(step, to_context + more)
            else:
                fed_gradient = rest_gradient

        # Gradients of the weights: one product over all steps for each.
        gates, across = gates_gradient.view(-1, 3 * size), across_gradient.view(-1, 3 * size)
        inner, queries = inner_gradient.flatten(0, 1), query_gradient.flatten(0, 1)
        inputs = given.inputs.transpose(0, 1).reshape(steps * batch, width)
        inputs_gradient = torch.mm(gates, from_inputs)
        to_features_gradient = torch.mm(inner.t(), left.seen.flatten(0, 1))
        if order.before:
            inputs_gradient.addmm_(inner, to_features_here)
            here = torch.mm(inner.t(), inputs)
            to_features_gradient = torch.cat([to_features_gradient, here], 1)
        from_input_gradient = torch.cat(
            [torch.mm(gates.t(), inputs), torch.mm(gates.t(), left.rest.flatten(0, 1))], 1
        )
        values_gradient = torch.bmm(left.weights.permute(1, 2, 0), context_gradient.transpose(0, 1))
        return (
            None,
            from_input_gradient,
            torch.mm(across.t(), left.before.flatten(0, 1)),
            gates.sum(0),
            across.sum(0),
            torch.mm(queries.t(), left.asked.flatten(0, 1)),
            queries.sum(0),
            direction_gradient,
            to_features_gradient,
            inner.sum(0),
            inputs_gradient.view(steps, batch, -1).transpose(0, 1),
            keys_gradient.mul_(given.direction),
            values_gradient,
            state_gradient,
            torch.zeros_like(given.hidden) if asked_gradient is None else asked_gradient,
            fed_gradient,
        )
