"""Every law is able to fail: parts and functions with one fault each, and the law that finds it."""

from functools import partial
from inspect import isabstract
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from torch import nn

from memnets import encoders, events, fast, functional, testing
from memnets.addressing import Content, NTMAddressing
from memnets.cells import (
    ALiBi,
    CoupledPositions,
    CrossAttention,
    DenseBlock,
    HardALiBi,
    LearnedPositions,
    NoPositions,
    RandomisedPositions,
    RotaryPositions,
    SelfAttention,
    ShiftedPositions,
    SinusoidalPositions,
    StickBreaking,
)
from memnets.core import Controller, MemoryAccess, map_state
from memnets.memories import NTM, DeltaNet, GatedDeltaNet, NeuralQueue, Tape
from memnets.memories.linear import LinearState
from memnets.memories.ntm import NTMState
from memnets.memories.scan import scan
from memnets.models import SNAIL, MemoryMachine, PointerNetwork, Seq2Seq, Transformer
from memnets.normalizers import Softmax
from memnets.scores import Additive, Cosine, Dot, ScaledDot
from memnets.testing import accesses, addressing, cells, models, objectives, programs
from memnets.testing import encoders as around
from memnets.testing import linear as linear_laws
from memnets.testing import positions as position_laws
from memnets.testing import tasks as task_laws
from memnets.testing.laws import Laws
from memnets.training.objectives import Labels, Tokens
from memnets.viewing import interventions
from tasks import Copying
from tests.laws import test_functional as laws_of_functions

KEPT = "what a call keeps on self never changes a later one"
IN_PLACE = "inputs are never modified in place"
NEIGHBOURS = "batch neighbours never change a result"
SIMPLEX = "weights are rows >= 0 that sum to 1, or to 0 when nothing may be addressed"
MASKED = "a masked slot weighs exactly 0 and gets no gradient"
FINITE = "extreme inputs give finite numbers"
PERMUTATION = "weights go with their slots under permutation"
ROTATION = "weights go with their slots under rotation"
PADDING_SLOTS = "padding slots never change a result"
FULL_MASK = "a mask that leaves every slot is no mask"
SHARED = "a mask and values that all sequences share are those of each"
HEADS = "a head among the queries is a head of the batch"
STATE_IN_PLACE = "a state is never modified in place"
SMOKE = "it can be made, and run once"
BATCH_FIRST = "the batch comes first in a state"
PLACEMENT = "a first state has the precision and the device of its part"
PARAMETERS = "the gradient reaches every parameter"
WITHOUT = "without gradients the numbers are the same"
TRAINING = "training gives the numbers of evaluation where nothing is drawn at random"
PRECISION = "results have the precision of the part"
DIFFERENCES = "gradients are those of finite differences"
STATE_DICT = "a state_dict brings the numbers back"
GIVEN = "weights that are given for one call alone are those that count"
THROUGH_TIME = "a late output has a gradient to the state before it"
EARLY = "a late output has a gradient to what an early step was given"
FREE = "free parts of a first state may hold any numbers from -1 to 1"
AFTERWARDS = "a mask that changes after the steps does not change their gradient unnoticed"
CHOOSE = "a sequence that skips a step goes on from the state before it"
INSIDE = "weights inside are rows >= 0 that sum to at most 1"
BEGINS = "an interface begins with the copies and biases that the memory names"
SLOTS = "no parameter depends on the number of slots"
REORDER = "a state is reordered as a search wants it"
SCORED = "padding of the answer is never scored"
ANY_PADDING = "padding may hold any numbers, NaN too"
WEIGHTED = "by their weights, losses of batches make the loss of all together"
AUTOCAST = "under autocast a part runs, forward and backward, and a state keeps its precision"
NO_SEQUENCE = "a batch may have no sequence"
SKIPPED = "steps that a sequence skips leave no trace"
FAST = "the fast path and the plain one agree"
SOURCE = "padding of the source never changes a result"
CHUNKS = "all steps at once, one by one and in chunks give the same numbers"
WAITING = "the host never waits for a device"
LOSS = "under autocast a loss is of single precision, and its gradient is finite"
INTERVENED = "an intervention reaches its step and none before it"
OVERWRITTEN = "a slot that is overwritten is what the step finds"
HARD = "hard weights are all on the greatest of the others, with their gradient"
PARALLEL = "many steps at once are the steps one by one, in chunks of any size, with any mask"
NO_SLOTS = "from no slots zeros are read, or a ValueError says how many there must be"
ANSWERS = "answers differ: no constant guess is always right"
COMPILED = "torch.compile makes one graph of it, with the numbers and gradients of eager"


@pytest.fixture(autouse=True)
def no_shrinking():
    """That a fault is found is enough."""
    before = settings()
    examples = min(20, before.max_examples)
    settings.register_profile("faults", before, phases=[Phase.generate], max_examples=examples)
    settings.load_profile("faults")
    yield
    settings.register_profile("after faults", before)
    settings.load_profile("after faults")


def faulty(part, method="forward", **attributes):
    """Marks a function as a subclass of ``part`` with one method replaced."""

    def subclass(function):
        return type(f"Faulty{part.__name__}", (part,), {method: function, **attributes})

    return subclass


# -- faults that a part of any kind may have ------------------------------------------------------


def changed(result, function):
    """What a part gives, its first output changed."""
    return (function(result[0]), *result[1:]) if isinstance(result, tuple) else function(result)


def outputs(part, method, function):
    """Changes the first output by a function of the part and of it."""

    @faulty(part, method)
    def changing(self, *arguments):
        result = getattr(part, method)(self, *arguments)
        return changed(result, lambda output: function(self, output))

    return changing


def remembers(part, method="forward"):
    """Adds what it kept of the last call."""

    def add_last(self, output):
        last = getattr(self, "last", 0.0)
        self.last = output.detach().double().mean().item()
        return output + last

    return outputs(part, method, add_last)


def waits(part, method="forward"):
    """Asks for a number."""
    return outputs(part, method, lambda self, output: output + 0 * output.detach().sum().item())


def looks_up(part, method="forward"):
    """Asks how many entries a mask has."""

    def positive(self, output):
        return output + 0 * output[output > 0].sum()

    return outputs(part, method, positive)


def brings_numbers(part, method="forward"):
    """Copies numbers from the host."""

    def scaled(self, output):
        return output * torch.tensor([1.0], dtype=output.dtype, device=output.device)

    return outputs(part, method, scaled)


def brings_a_tensor(part, method="forward"):
    """Copies a tensor from the host."""
    return outputs(part, method, lambda self, output: output * torch.ones(1).to(output))


def wrong_without_gradients(part, method="forward"):
    return outputs(
        part, method, lambda self, output: output * (1 if torch.is_grad_enabled() else 1.01)
    )


def centred_in_training(part, method="forward"):
    return outputs(
        part, method, lambda self, output: output - output.mean() if self.training else output
    )


def in_single_precision(part, method="forward"):
    return outputs(
        part,
        method,
        lambda self, output: output if output.dtype == torch.float64 else output.float(),
    )


class WrongBackward(torch.autograd.Function):
    """The sign and a factor."""

    @staticmethod
    def forward(ctx, tensor):
        return tensor.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -2 * gradient


class AveragedBackward(WrongBackward):
    @staticmethod
    def backward(ctx, gradient):
        return gradient.mean(0, keepdim=True).expand_as(gradient) if gradient.dim() else gradient


def with_backward(part, function, method="forward"):
    return outputs(part, method, lambda self, output: function.apply(output))


def scaled_by_what_is_not_saved(part, method="forward"):
    Scaled = outputs(part, method, lambda self, output: output * self.scale)

    def scaling(self, *arguments, **named):
        part.__init__(self, *arguments, **named)
        self.register_buffer("scale", torch.rand(()), persistent=False)

    Scaled.__init__ = scaling
    return Scaled


def scaled_by_a_weight_that_was_put_aside(part, method="forward"):
    """Finds its weight in a list of its own, as PyTorch's recurrent networks do."""
    Scaled = outputs(part, method, lambda self, output: output * self.aside[0])

    def scaling(self, *arguments, **named):
        part.__init__(self, *arguments, **named)
        self.scale = nn.Parameter(torch.ones(()))
        self.aside = [self.scale]

    Scaled.__init__ = scaling
    return Scaled


def guesses_a_width(part, method="forward"):
    """Leaves a size to PyTorch, which cannot find it for no row."""
    return outputs(part, method, lambda self, output: output.reshape(len(output), -1))


def general(part, method="forward"):
    """Faults that a part of any kind may have."""
    # Some kinds give every ``forward`` its precision; what is wrong here comes after that.
    last = "__call__" if method == "forward" else method
    return [
        (KEPT, remembers(part, method)),
        (WITHOUT, wrong_without_gradients(part, method)),
        (TRAINING, centred_in_training(part, method)),
        (PRECISION, in_single_precision(part, last)),
        (DIFFERENCES, with_backward(part, WrongBackward, method)),
        (DIFFERENCES, with_backward(part, AveragedBackward, method)),
        (STATE_DICT, scaled_by_what_is_not_saved(part, method)),
        (GIVEN, scaled_by_a_weight_that_was_put_aside(part, method)),
    ]


def overwrites(part, method="forward"):
    """Scales its first argument in place."""

    @faulty(part, method)
    def overwriting(self, inputs, *arguments):
        return getattr(part, method)(self, inputs.mul_(2), *arguments)

    return overwriting


def centres(part, method="forward", example_dims=1):
    """Takes off the mean of the batch."""

    @faulty(part, method)
    def centring(self, inputs, *arguments):
        batch = tuple(range(inputs.dim() - example_dims))
        inputs = inputs - inputs.mean(batch, keepdim=True) if batch else inputs
        return getattr(part, method)(self, inputs, *arguments)

    return centring


def idles(part):
    """Has a parameter that it does not use."""

    @faulty(part, "__init__")
    def idling(self, *arguments, **named):
        part.__init__(self, *arguments, **named)
        self.idle = nn.Parameter(torch.ones(1))

    return idling


def asks_for_a_number(part, method):
    """Decides by a number in a tensor, which a graph does not know."""
    return outputs(part, method, lambda self, output: output if output.sum() < 1e9 else -output)


def another_number_in_a_graph(part, method):
    return outputs(
        part, method, lambda self, output: output * (1.01 if torch.compiler.is_compiling() else 1)
    )


def another_gradient_in_a_graph(part, method):
    def twice(self, output):
        return 2 * output - output.detach() if torch.compiler.is_compiling() else output

    return outputs(part, method, twice)


def in_graphs(part, method="forward"):
    """Faults that a compiled part may have."""
    kinds = (asks_for_a_number, another_number_in_a_graph, another_gradient_in_a_graph)
    return [(COMPILED, kind(part, method)) for kind in kinds]


def mixes(part, method="__call__"):
    """Mixes what autocast makes coarse with what it leaves exact."""

    @faulty(part, method)
    def mixing(self, *arguments):
        exact = torch.ones(1, 1)
        torch.lerp(exact, exact @ exact, 0.5)
        return getattr(part, method)(self, *arguments)

    return mixing


# -- scores ---------------------------------------------------------------------------------------


@faulty(Dot)
def transposed_score(self, query, keys):
    return keys @ query.mT


@faulty(Dot)
def score_of_one_dimension_more(self, query, keys):
    return (query @ keys.mT).unsqueeze(0)


@faulty(Dot)
def score_of_centred_queries(self, query, keys):
    return (query - query.mean(-2, keepdim=True)) @ keys.mT


@faulty(Dot)
def score_of_centred_keys(self, query, keys):
    return query @ (keys - keys.mean(-2, keepdim=True)).mT


@faulty(Dot)
def score_by_place(self, query, keys):
    return query @ keys.mT + torch.arange(keys.shape[-2])


@faulty(Dot)
def fast_score_with_another_number(self, query, keys):
    return Dot.forward(self, query, keys) * (1.01 if fast.applies(query) else 1.0)


@faulty(Dot)
def score_without_a_gradient_to_queries(self, query, keys):
    return query.detach() @ keys.mT


@faulty(Dot)
def score_without_a_gradient_to_keys(self, query, keys):
    return query @ keys.detach().mT


SCORES = [
    ("the gradient reaches query and keys", score_without_a_gradient_to_queries),
    ("the gradient reaches query and keys", score_without_a_gradient_to_keys),
    (AUTOCAST, mixes(Dot)),
    ("the fast path and the plain one agree", fast_score_with_another_number),
    *general(Dot),
    (IN_PLACE, overwrites(Dot)),
    (NEIGHBOURS, centres(Dot, example_dims=2)),
    (PARAMETERS, idles(Dot)),
    (SMOKE, transposed_score),
    ("scores are [*B, Q, N]", score_of_one_dimension_more),
    # A zero row has no direction, and its gradient is NaN.
    (FINITE, partial(Cosine, epsilon=0.0)),
    (HEADS, score_of_centred_queries),
    ("other slots never change a score", score_of_centred_keys),
    ("scores go with their slots under permutation", score_by_place),
]


# -- normalizers ----------------------------------------------------------------------------------


@faulty(Softmax, "normalize")
def softmax_over_queries(self, scores):
    return scores.softmax(-2)


@faulty(Softmax)
def nan_where_all_is_masked(self, scores, mask=None):
    scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1)


@faulty(Softmax)
def uniform_where_all_is_masked(self, scores, mask=None):
    scores = scores if mask is None else scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(-1)


@faulty(Softmax)
def mask_ignored(self, scores, mask=None):
    return scores.softmax(-1)


@faulty(Softmax)
def mask_after_the_softmax(self, scores, mask=None):
    # What the masked slots would have got is missing.
    weights = scores.softmax(-1)
    return weights if mask is None else weights * mask


@faulty(Softmax, "normalize")
def softmax_without_a_shift(self, scores):
    powers = scores.exp()
    return powers / powers.sum(-1, keepdim=True)


@faulty(Softmax, "normalize")
def softmax_that_likes_the_first(self, scores):
    return (scores - torch.arange(scores.shape[-1])).softmax(-1)


@faulty(Softmax, "normalize")
def softmax_scaled_by_the_size(self, scores):
    return (scores / scores.shape[-1]).softmax(-1)


@faulty(Softmax)
def softer_with_a_mask(self, scores, mask=None):
    return functional.masked(scores if mask is None else scores / 2, mask)


@faulty(Softmax, "normalize")
def softmax_without_a_gradient(self, scores):
    return scores.detach().softmax(-1)


@faulty(Softmax)
def softmax_below_the_greatest(self, scores, mask=None):
    return functional.masked(scores - scores.amax(-1, keepdim=True).detach(), mask)


@faulty(Softmax, "__call__")
def softmax_that_loses_mass_in_half_precision(self, scores, mask=None):
    return Softmax.__call__(self, scores, mask) * (0.97 if scores.dtype == torch.bfloat16 else 1)


NORMALIZERS = [
    ("the gradient reaches the scores", softmax_without_a_gradient),
    (SIMPLEX, softmax_that_loses_mass_in_half_precision),
    *general(Softmax),
    (AUTOCAST, mixes(Softmax)),
    (IN_PLACE, overwrites(Softmax)),
    (NEIGHBOURS, centres(Softmax, example_dims=2)),
    (SIMPLEX, softmax_over_queries),
    (SIMPLEX, nan_where_all_is_masked),
    (SIMPLEX, uniform_where_all_is_masked),
    (MASKED, mask_ignored),
    (SIMPLEX, mask_after_the_softmax),
    (FINITE, softmax_without_a_shift),
    (PERMUTATION, softmax_that_likes_the_first),
    (PADDING_SLOTS, softmax_scaled_by_the_size),
    (FULL_MASK, softer_with_a_mask),
    ("of no slots there are no weights", softmax_below_the_greatest),
]


# -- addressing -----------------------------------------------------------------------------------


class DotContent(Content):
    """Content by dot product, the plain way of reading included."""

    def __init__(self):
        super().__init__(Dot())

    def read(self, query, memory, state=None):
        weights, _ = self(query, memory, state)
        return weights @ memory.values, None


def content_with(normalizer):
    """Content with a faulty normalizer."""
    return partial(Content, score=Dot(), normalizer=normalizer())


@faulty(DotContent, "read")
def read_without_the_mask(self, query, memory, state=None):
    return nn.functional.scaled_dot_product_attention(
        query, memory.keys, memory.values, scale=1.0
    ), None


@faulty(DotContent, "read")
def read_with_another_scale(self, query, memory, state=None):
    return Content(ScaledDot()).read(query, memory)


@faulty(DotContent, "read")
def read_without_a_gradient(self, query, memory, state=None):
    weights, _ = self(query, memory)
    return weights.detach() @ memory.values, None


@faulty(DotContent, "read")
def read_with_a_nonlinearity(self, query, memory, state=None):
    weights, _ = self(query, memory)
    return torch.tanh(weights @ memory.values), None


@faulty(DotContent, "read")
def read_with_a_gain(self, query, memory, state=None):
    weights, _ = self(query, memory)
    return 2 * weights @ memory.values, None


@faulty(DotContent, "read")
def a_slot_of_ones_at_the_end(self, query, memory, state=None):
    weights, _ = self(query, memory, state)
    return weights @ memory.values + (1 - weights.sum(-1, keepdim=True)), None


@faulty(DotContent)
def weights_of_the_greatest_score(self, query, memory, state=None):
    scores = self.score(query, memory.keys)
    scores = scores - scores.amax(-1, keepdim=True)
    return functional.masked(scores, memory.mask), None


@faulty(DotContent)
def a_mask_for_all_is_forgotten(self, query, memory, state=None):
    if memory.mask is not None and memory.mask.dim() < memory.keys.dim():
        memory = memory._replace(mask=None)
    return DotContent.forward(self, query, memory)


@faulty(DotContent)
def weights_of_centred_queries(self, query, memory, state=None):
    return DotContent.forward(self, query - query.mean(-2, keepdim=True), memory)


@faulty(NTMAddressing)
def a_shift_that_starts_at_slot_0(self, query, memory, state):
    key, strength, gate, kernel, sharpness = query
    content = self.normalizer(strength * self.score(key, memory.keys), memory.mask)
    moved = functional.interpolate(content, state, gate)
    reach = kernel.shape[-1] // 2
    padded = nn.functional.pad(moved, (reach, reach))
    moved = (padded.unfold(-1, kernel.shape[-1], 1) @ kernel.flip(-1).unsqueeze(-1)).squeeze(-1)
    weights = functional.sharpen(moved, sharpness, memory.mask)
    return weights, weights


@faulty(DotContent)
def query_detached(self, query, memory, state=None):
    return DotContent.forward(self, query.detach(), memory)


@faulty(DotContent)
def keys_detached(self, query, memory, state=None):
    return DotContent.forward(self, query, memory._replace(keys=memory.keys.detach()))


@faulty(DotContent, "_chosen")
def hard_without_a_gradient(self, weights, state):
    return functional.harden(weights.detach()), state


@faulty(DotContent, "_chosen")
def the_second_best_slot(self, weights, state):
    without = weights.masked_fill(weights == weights.amax(-1, keepdim=True), 0.0)
    total = without.sum(-1, keepdim=True)
    return functional.harden(torch.where(total > 0, without / total, weights)), state


class DotWithPast(Content):
    """Content whose state is the weights of the last step."""

    def __init__(self):
        super().__init__(Dot())

    def initial_state(self, memory):
        return memory.keys.new_zeros(*memory.keys.shape[:-2], 1, memory.keys.shape[-2])

    def forward(self, query, memory, state):
        weights, _ = Content.forward(self, query, memory)
        return weights, weights


@faulty(DotWithPast, "_chosen")
def a_state_that_stays_soft(self, weights, state):
    return functional.harden(weights), state


ADDRESSINGS = [
    *(
        (HARD, fault)
        for fault in (
            hard_without_a_gradient,
            the_second_best_slot,
            a_state_that_stays_soft,
        )
    ),
    ("the gradient reaches keys, values and every part of a query", query_detached),
    ("the gradient reaches keys, values and every part of a query", keys_detached),
    *general(DotContent),
    (AUTOCAST, mixes(DotContent)),
    (IN_PLACE, overwrites(DotContent)),
    (NEIGHBOURS, centres(DotContent, example_dims=2)),
    (SIMPLEX, content_with(softmax_over_queries)),
    (SIMPLEX, content_with(nan_where_all_is_masked)),
    (MASKED, content_with(mask_ignored)),
    (MASKED, content_with(uniform_where_all_is_masked)),
    (FINITE, content_with(softmax_without_a_shift)),
    (FINITE, partial(Content, score=Cosine(epsilon=0.0))),
    (PERMUTATION, partial(Content, score=score_by_place())),
    (PADDING_SLOTS, content_with(softmax_scaled_by_the_size)),
    (FULL_MASK, content_with(softer_with_a_mask)),
    (SHARED, a_mask_for_all_is_forgotten),
    (HEADS, weights_of_centred_queries),
    ("a read is the weights times the values", read_without_the_mask),
    ("a read is the weights times the values", read_with_another_scale),
    ("a read is the weights times the values", read_without_a_gradient),
    (NO_SLOTS, a_slot_of_ones_at_the_end),
    (NO_SLOTS, weights_of_the_greatest_score),
    ("a read is linear in the values", read_with_a_nonlinearity),
    ("a read lies in the convex hull of the values that may be addressed", read_with_a_gain),
]


# -- controllers ----------------------------------------------------------------------------------


class Recurrent(Controller):
    """The plainest of controllers; its state is its output."""

    def __init__(self, input_size, hidden_size=4):
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.input_layer = nn.Linear(input_size, hidden_size)
        self.state_layer = nn.Linear(hidden_size, hidden_size, bias=False)

    def initial_state(self, batch_size):
        return self.input_layer.weight.new_zeros(batch_size, self.hidden_size)

    def forward(self, inputs, state):
        hidden = torch.tanh(self.input_layer(inputs) + self.state_layer(state))
        return hidden, hidden


@faulty(Recurrent)
def state_kept_on_self(self, inputs, state):
    hidden, state = Recurrent.forward(self, inputs, getattr(self, "state", state[:1]))
    self.state = hidden.detach()[:1]
    return hidden, state


@faulty(Recurrent)
def controller_in_place(self, inputs, state):
    hidden, _ = Recurrent.forward(self, inputs, state.add_(1))
    return hidden, 2 * hidden


@faulty(Recurrent)
def step_too_narrow(self, inputs, state):
    hidden, state = Recurrent.forward(self, inputs, state)
    return hidden[:, 1:], state


@faulty(Recurrent, "unroll")
def output_too_narrow(self, inputs, state, mask=None):
    hidden, state = Recurrent.unroll(self, inputs, state, mask)
    return hidden[..., 1:], state


class Turns(Recurrent):
    """A state of complex numbers, of which there are none in 16 bits."""

    def initial_state(self, batch_size):
        return super().initial_state(batch_size) + 0j

    def forward(self, inputs, state):
        hidden, _ = super().forward(inputs, state.real)
        return hidden, torch.complex(hidden, state.imag)


class TorchLayout(Recurrent):
    """Layers before the batch, as torch has it."""

    def initial_state(self, batch_size):
        return super().initial_state(batch_size).unsqueeze(0)

    def forward(self, inputs, state):
        hidden, state = super().forward(inputs, state.squeeze(0))
        return hidden, state.unsqueeze(0)


@faulty(Recurrent)
def squares_that_anything_may_replace(self, inputs, state):
    hidden, _ = Recurrent.forward(self, inputs, state.sqrt())
    return hidden.square(), hidden.square()


@faulty(Recurrent)
def rows_of_the_next_sequence(self, inputs, state):
    hidden, state = Recurrent.forward(self, inputs, state.roll(-1, 0))
    return hidden, state.roll(1, 0)


@faulty(Recurrent, "unroll")
def unroll_that_starts_anew(self, inputs, state, mask=None):
    return Controller.unroll(self, inputs, torch.zeros_like(state), mask)


@faulty(Recurrent, "unroll")
def unroll_without_the_mask(self, inputs, state, mask=None):
    return Controller.unroll(self, inputs, state)


@faulty(Recurrent, "unroll")
def unroll_that_stops_at_the_first_hole(self, inputs, state, mask=None):
    mask = None if mask is None else mask.cumprod(1).bool()
    return Controller.unroll(self, inputs, state, mask)


@faulty(Recurrent, "unroll")
def unroll_that_cuts_the_gradient(self, inputs, state, mask=None):
    outputs = []
    for step in inputs.unbind(1):
        hidden, state = self(step, state.detach())
        outputs.append(hidden)
    return torch.stack(outputs, 1), state


class MaskBeside(torch.autograd.Function):
    """Outputs as they are; their gradient asks a mask that PyTorch does not watch."""

    @staticmethod
    def forward(ctx, outputs, mask):
        ctx.mask = mask
        return outputs.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.mask.unsqueeze(-1), None


def keeps_its_mask_beside(part):
    """Takes its steps with a copy of the mask, and asks the mask for the gradient."""

    @faulty(part, "unroll")
    def unroll(self, inputs, state, mask=None):
        watched = None if mask is None else mask.clone()
        outputs, state = Controller.unroll(self, inputs, state, watched)
        return outputs if mask is None else MaskBeside.apply(outputs, mask), state

    return unroll


@faulty(Recurrent, "initial_state")
def first_state_of_single_precision(self, batch_size):
    state = Recurrent.initial_state(self, batch_size)
    return state if state.dtype == torch.float64 else state.float()


@faulty(Recurrent)
def controller_that_detaches(self, inputs, state):
    return Recurrent.forward(self, inputs, state.detach())


@faulty(Recurrent, "choose")
def always_the_new_state(self, mask, new, old):
    return new


@faulty(Recurrent, "choose")
def the_other_state(self, mask, new, old):
    return Recurrent.choose(self, ~mask, new, old)


def steps_around_its_call(part):
    """Calls ``forward`` itself, so that nobody is asked for another state."""

    @faulty(part, "step")
    def step(self, inputs, state):
        return self.forward(inputs, state)

    return step


class Growing(Recurrent):
    """All that came before; without a choice of its own."""

    def initial_state(self, batch_size):
        return super().initial_state(batch_size).unsqueeze(1)

    def forward(self, inputs, state):
        hidden, _ = super().forward(inputs, state.mean(1))
        return hidden, torch.cat([state, hidden.unsqueeze(1)], 1)


@faulty(Recurrent)
def fast_step_with_another_number(self, inputs, state):
    hidden, state = Recurrent.forward(self, inputs, state)
    return hidden * (1.01 if fast.applies(inputs) else 1.0), state


@faulty(Recurrent, "unroll")
def fast_steps_with_another_gradient(self, inputs, state, mask=None):
    outputs, state = Controller.unroll(self, inputs, state, mask)
    return outputs + (0.0 if fast.applies(inputs) else outputs - outputs.detach()), state


CONTROLLERS = [
    (NO_SEQUENCE, guesses_a_width(Recurrent)),
    (SKIPPED, unroll_without_the_mask),
    (SKIPPED, unroll_that_stops_at_the_first_hole),
    (SKIPPED, always_the_new_state),
    (FREE, squares_that_anything_may_replace),
    (AFTERWARDS, keeps_its_mask_beside(Recurrent)),
    (FAST, fast_step_with_another_number),
    (FAST, fast_steps_with_another_gradient),
    (THROUGH_TIME, controller_that_detaches),
    (EARLY, controller_that_detaches),
    (DIFFERENCES, controller_that_detaches),
    (CHOOSE, always_the_new_state),
    (CHOOSE, the_other_state),
    (CHOOSE, Growing),
    (INTERVENED, steps_around_its_call(Recurrent)),
    *general(Recurrent),
    *in_graphs(Recurrent),
    (AUTOCAST, mixes(Recurrent, "forward")),
    (KEPT, state_kept_on_self),
    (IN_PLACE, overwrites(Recurrent)),
    (NEIGHBOURS, centres(Recurrent)),
    (STATE_IN_PLACE, controller_in_place),
    (SMOKE, TorchLayout),
    (BATCH_FIRST, rows_of_the_next_sequence),
    (PARAMETERS, idles(Recurrent)),
    (CHUNKS, unroll_that_starts_anew),
    (CHUNKS, unroll_that_cuts_the_gradient),
    (SMOKE, step_too_narrow),
    ("a step gives [B, hidden_size]", output_too_narrow),
    (PRECISION, Turns),
    (PLACEMENT, first_state_of_single_precision),
    *((WAITING, fault(Recurrent)) for fault in (waits, looks_up, brings_numbers, brings_a_tensor)),
]


# -- positions ------------------------------------------------------------------------------------


ORDER = "places rise with the counts, in each part of a sequence and from part to part"
AT_ONCE = "all steps at once and one by one give the same numbers"
LATER = "no step sees what comes after it"
PLACES = "steps that a sequence skips take no place"
ROWS = "weights are rows >= 0 that sum to at most 1, and 0 where nothing may be seen"
SHARED = "steps that are given one place share it, and others do not; counted ones rise"
SHIFT = "distances alone count: nothing changes if all places grow by one number"


class Half(RandomisedPositions):
    """Places of a sequence, not of a part of it: each part starts with the first ones again."""

    def __init__(self):
        super().__init__(RotaryPositions(), 4)

    def places(self, counts):
        return super().places(counts - counts[..., :1])


class Shuffled(RandomisedPositions):
    """Places in any order."""

    def __init__(self):
        super().__init__(NoPositions(), 4)

    def places(self, counts):
        return super().places(counts)[..., torch.randperm(counts.shape[-1])]


class FromTheFirst(ALiBi):
    """The distance from the first of the queries, which is another one in each call."""

    def bias(self, distance, heads):
        return super().bias(distance - distance[..., :1, -1:], heads) * distance.shape[-2]


class Wide(HardALiBi):
    """A window that opens what was closed."""

    def weights(self, scores, mask, normalizer):
        return normalizer(scores, None)


class AllSlots(ALiBi):
    """Skipped steps count."""

    def places(self, counts):
        return torch.arange(counts.shape[-1]).expand_as(counts)


class Sigmoid(StickBreaking):
    """Each slot takes its share of the whole stick."""

    def weights(self, scores, mask, normalizer):
        return 2 * scores.sigmoid().masked_fill(~mask, 0.0)


class Growing(RotaryPositions):
    """A turn of queries and keys that is no turn."""

    def rotate(self, vectors, places):
        return super().rotate(vectors, places) * (1 + places.unsqueeze(-1))


class Unlearned(LearnedPositions):
    """Rows that get no gradient."""

    def forward(self, places):
        return super().forward(places).detach() + 0 * self.weight.sum()


class Overflowing(ALiBi):
    """A bias without a bound."""

    def bias(self, distance, heads):
        return super().bias(distance, heads) * torch.inf


class DrawsAgain(ShiftedPositions):
    """Another number for each part of a sequence."""

    def __init__(self):
        super().__init__(CoupledPositions(SinusoidalPositions(4)), 50)

    def along(self, counts, start, source):
        return super().along(counts, self.start(start.places.source, start.places), source)


class FromTheSource(CoupledPositions):
    """Steps of the answer are counted from the start of the source."""

    def along(self, counts, start, source):
        return super().along(counts, start._replace(source=0 * start.source), source)


SCHEMES = [
    (SHARED, DrawsAgain),
    (SHARED, lambda: FromTheSource(SinusoidalPositions(4))),
    (ORDER, Half),
    (ORDER, Shuffled),
    (AT_ONCE, FromTheFirst),
    (LATER, Wide),
    (PLACES, AllSlots),
    (ROWS, Wide),
    (ROWS, Sigmoid),
    (SHIFT, Growing),
    (FINITE, Overflowing),
    (PARAMETERS, partial(Unlearned, 4, 6)),
]

# -- cells ----------------------------------------------------------------------------------------


SmallAttention = partial(SelfAttention, heads=2)


@faulty(SelfAttention, "unroll")
def attention_to_the_future(self, inputs, state, mask=None):
    with mock.patch("memnets.cells.attention.causal_mask", return_value=None):
        return SelfAttention.unroll(self, inputs, state, mask)


@faulty(SelfAttention, "unroll")
def attention_without_the_mask(self, inputs, state, mask=None):
    return SelfAttention.unroll(self, inputs, state)


@faulty(SelfAttention, "choose")
def attention_that_keeps_a_slot_open(self, mask, new, old):
    return new


@faulty(SelfAttention, "choose")
def attention_that_forgets_what_was_closed(self, mask, new, old):
    return new._replace(mask=None).chosen(mask)


@faulty(DenseBlock, "unroll")
def convolution_without_the_mask(self, inputs, state, mask=None):
    return DenseBlock.unroll(self, inputs, state)


@faulty(CrossAttention, "start")
def start_without_the_mask(self, source, mask=None):
    return CrossAttention.start(self, source)


@faulty(SelfAttention)
def attention_too_narrow(self, inputs, state):
    outputs, state = SelfAttention.forward(self, inputs, state)
    return outputs[:, 1:], state


CELLS = [
    (CHUNKS, partial(attention_to_the_future, heads=2)),
    (SKIPPED, unroll_without_the_mask),
    (SKIPPED, partial(attention_without_the_mask, heads=2)),
    (SKIPPED, partial(attention_that_keeps_a_slot_open, heads=2)),
    (SKIPPED, partial(attention_that_forgets_what_was_closed, heads=2)),
    (SKIPPED, partial(convolution_without_the_mask, filters=2)),
    (CHOOSE, partial(attention_that_keeps_a_slot_open, heads=2)),
    (SOURCE, partial(start_without_the_mask, heads=2)),
    ("a step gives [B, output_size]", partial(attention_too_narrow, heads=2)),
]


# -- accesses -------------------------------------------------------------------------------------


class SmallNTM(NTM):
    """An NTM whose initial state may be written to."""

    def __init__(self):
        super().__init__(slots=4, width=2)

    def initial_state(self, batch_size):
        return map_state(torch.clone, super().initial_state(batch_size))


@faulty(SmallNTM)
def memory_kept_on_self(self, interface, state):
    memory = getattr(self, "memory", state.memory[:1]).expand_as(state.memory)
    vectors, state = SmallNTM.forward(self, interface, state._replace(memory=memory))
    self.memory = state.memory.detach()[:1]
    return vectors, state


@faulty(SmallNTM)
def memory_in_place(self, interface, state):
    state.memory.add_(1)
    return SmallNTM.forward(self, interface, state)


@faulty(SmallNTM)
def memory_of_the_next_sequence(self, interface, state):
    state = state._replace(memory=state.memory.roll(-1, 0))
    vectors, state = SmallNTM.forward(self, interface, state)
    return vectors, state._replace(memory=state.memory.roll(1, 0))


@faulty(SmallNTM)
def step_reads_too_little(self, interface, state):
    vectors, state = SmallNTM.forward(self, interface, state)
    return vectors[:, 1:], state


@faulty(SmallNTM, "unroll")
def reads_too_little(self, interface, state, mask=None):
    vectors, state = SmallNTM.unroll(self, interface, state, mask)
    return vectors[..., 1:], state


@faulty(SmallNTM)
def interface_without_a_range(self, interface, state):
    return SmallNTM.forward(self, interface.exp(), state)


@faulty(SmallNTM)
def interface_partly_unused(self, interface, state):
    return SmallNTM.forward(self, interface * (torch.arange(interface.shape[1]) > 0), state)


@faulty(SmallNTM)
def fast_path_with_another_number(self, interface, state):
    vectors, state = SmallNTM.forward(self, interface, state)
    return vectors * (1.01 if fast.applies(interface) else 1.0), state


@faulty(SmallNTM)
def fast_path_with_another_gradient(self, interface, state):
    vectors, state = SmallNTM.forward(self, interface, state)
    return vectors + (0.0 if fast.applies(interface) else vectors - vectors.detach()), state


class SlotsLearnt(SmallNTM):
    """A parameter a slot."""

    @property
    def slots(self):
        return self._slots

    @slots.setter
    def slots(self, slots):
        self._slots = slots
        self.learnt = nn.Parameter(torch.full((slots, 2), 0.1, dtype=torch.float64))

    def initial_state(self, batch_size):
        memory, weights = super().initial_state(batch_size)
        return NTMState(memory + self.learnt.to(memory.dtype), weights)


@faulty(SmallNTM, "initial_state")
def first_state_on_the_cpu(self, batch_size):
    state = SmallNTM.initial_state(self, batch_size)
    return map_state(lambda tensor: torch.zeros(tensor.shape, dtype=tensor.dtype), state)


@faulty(SmallNTM)
def access_that_detaches(self, interface, state):
    return SmallNTM.forward(self, interface, map_state(torch.detach, state))


@faulty(SmallNTM)
def access_that_detaches_its_memory(self, interface, state):
    return SmallNTM.forward(self, interface, state._replace(memory=state.memory.detach()))


@faulty(SmallNTM)
def access_that_never_writes(self, interface, state):
    vectors, after = SmallNTM.forward(self, interface, state)
    return vectors, after._replace(memory=state.memory)


@faulty(SmallNTM)
def reads_the_memory_of_before_in_training(self, interface, state):
    before = self.initial_state(len(interface)).memory if self.training else state.memory
    return SmallNTM.forward(self, interface, state._replace(memory=before))


@faulty(SmallNTM, "choose")
def access_with_the_new_state(self, mask, new, old):
    return new


@faulty(SmallNTM, "unroll")
def access_that_starts_anew(self, interfaces, state, mask=None):
    return MemoryAccess.unroll(self, interfaces, self.initial_state(len(interfaces)), mask)


class TapeWithoutAChoice(Tape):
    def __init__(self):
        super().__init__(width=3)

    choose = MemoryAccess.choose


class TwiceTheWeights(NTMAddressing):
    def forward(self, query, memory, state):
        weights, _ = super().forward(query, memory, state)
        return 2 * weights, weights


class OverHeads(Softmax):
    def normalize(self, scores):
        return scores.softmax(-2)


class BadlyAddressed(SmallNTM):
    def __init__(self):
        super().__init__()
        self.addressing = TwiceTheWeights()


class ReadAtOnce(SmallNTM):
    """Without an addressing of its own, weights over heads."""

    def forward(self, interface, state):
        vectors, state = super().forward(interface, state)
        weights = functional.softmax(state.weights.mT).mT
        read = functional.read(weights[:, :1], state.memory).flatten(1)
        return vectors + read, state


class NormalizedOverHeads(SmallNTM):
    def __init__(self):
        super().__init__()
        self.addressing.normalizer = OverHeads()


class RowsLearnt(SmallNTM):
    """A row a slot, and slots by another name."""

    def __init__(self, size=4):
        super().__init__()
        self.size = size
        self.rows = nn.Parameter(torch.rand(size, 2))

    # Nothing that can be set.
    slots = property(lambda self: None, lambda self, slots: None)

    def initial_state(self, batch_size):
        rows = self.rows.expand(batch_size, -1, -1)
        weights = rows.new_zeros(batch_size, 2, self.size)
        weights[..., 0] = 1
        return NTMState(rows, weights)


class CopiesOfCopies(SmallNTM):
    def interface_copies(self):
        return torch.arange(self.interface_size).sub(1).clamp_min(0)


class BiasOfOneHead(SmallNTM):
    def interface_bias(self):
        return super().interface_bias()[:1]


class BeginsAnew(SmallNTM):
    """Does not do what it says."""

    def __init__(self):
        super().__init__()
        self.alike = True

    def make_interface(self, input_size):
        return nn.Linear(input_size, self.interface_size)


@faulty(SmallNTM, "map_free")
def access_with_any_state(self, function, state):
    return Controller.map_free(self, function, state)


ACCESSES = [
    (NO_SEQUENCE, guesses_a_width(SmallNTM)),
    (FREE, access_with_any_state),
    (AFTERWARDS, keeps_its_mask_beside(SmallNTM)),
    (THROUGH_TIME, access_that_detaches),
    (EARLY, access_that_detaches),
    (DIFFERENCES, access_that_detaches_its_memory),
    ("steps change every part of the state", access_that_never_writes),
    (EARLY, access_that_never_writes),
    (TRAINING, reads_the_memory_of_before_in_training),
    (CHOOSE, access_with_the_new_state),
    (CHOOSE, TapeWithoutAChoice),
    (SKIPPED, access_with_the_new_state),
    (SKIPPED, TapeWithoutAChoice),
    (CHUNKS, access_that_starts_anew),
    (INSIDE, BadlyAddressed),
    (INSIDE, NormalizedOverHeads),
    (INSIDE, ReadAtOnce),
    (SLOTS, RowsLearnt),
    (BEGINS, CopiesOfCopies),
    (BEGINS, BiasOfOneHead),
    (BEGINS, BeginsAnew),
    (INTERVENED, steps_around_its_call(SmallNTM)),
    (OVERWRITTEN, steps_around_its_call(SmallNTM)),
    *general(SmallNTM),
    *in_graphs(SmallNTM),
    (AUTOCAST, mixes(SmallNTM)),
    (KEPT, memory_kept_on_self),
    (IN_PLACE, overwrites(SmallNTM)),
    (NEIGHBOURS, centres(SmallNTM)),
    (STATE_IN_PLACE, memory_in_place),
    (BATCH_FIRST, memory_of_the_next_sequence),
    (PARAMETERS, idles(SmallNTM)),
    (SMOKE, step_reads_too_little),
    ("a step gives [B, read_size]", reads_too_little),
    (FINITE, interface_without_a_range),
    ("the gradient reaches every part of the interface", interface_partly_unused),
    (FAST, fast_path_with_another_number),
    (FAST, fast_path_with_another_gradient),
    ("no parameter depends on the number of slots", SlotsLearnt),
    (PLACEMENT, first_state_on_the_cpu),
    (WAITING, waits(SmallNTM)),
]


# -- programs -------------------------------------------------------------------------------------


class SmallQueue(NeuralQueue):
    def __init__(self):
        super().__init__(width=1)


def as_numbers(part, instruction):
    return [testing.CERTAIN if number else -testing.CERTAIN for number in instruction]


def with_a_list(program):
    """A queue of bits as a list."""
    queue, read = [], []
    for push, pop, bit in program:
        queue = queue[1:] if pop else queue
        queue = [*queue, 2 * bit - 1] if push else queue
        read.append([queue[0] if queue else 0])
    return read


def check_program(memory, **settings):
    instructions = st.tuples(st.booleans(), st.booleans(), st.integers(0, 1))
    testing.check_program(
        memory, instructions=instructions, interface=as_numbers, machine=with_a_list, **settings
    )


class ReadAtTheWrongEnd(SmallQueue):
    reads = ("top",)


class PoppedAtTheWrongEnd(SmallQueue):
    pops = ("top",)


@faulty(SmallQueue)
def pushes_almost_all(self, interface, state):
    read, after = SmallQueue.forward(self, interface, state)
    return read, after._replace(strengths=0.999 * after.strengths)


@faulty(SmallQueue)
def pushes_at_most_four(self, interface, state):
    read, after = SmallQueue.forward(self, interface, state)
    return read, after._replace(
        strengths=after.strengths * (torch.arange(after.memory.shape[2]) < 4)
    )


@faulty(SmallQueue, "choose")
def skips_no_step(self, mask, new, old):
    return new


@faulty(SmallQueue)
def pops_of_the_first_sequence(self, interface, state):
    interface = torch.cat(
        [interface[:, :1], interface[:1, 1:2].expand(len(interface), 1), interface[:, 2:]], 1
    )
    return SmallQueue.forward(self, interface, state)


PROGRAM = "a program reads what the machine of plain Python reads, at every step"
SIDE_BY_SIDE = "programs side by side, with steps left out, read what each alone would read"
PROGRAMS = [
    (PROGRAM, ReadAtTheWrongEnd),
    (PROGRAM, PoppedAtTheWrongEnd),
    (PROGRAM, pushes_almost_all),
    (PROGRAM, pushes_at_most_four),
    (SIDE_BY_SIDE, skips_no_step),
    (SIDE_BY_SIDE, pops_of_the_first_sequence),
]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"interface": lambda *_: [0.0]}, "`interface` gives 1 numbers for .*; the memory takes 3"),
        ({"machine": lambda program: [[0, 0]]}, "`machine` reads .* reads 1 in each"),
    ],
)
def test_an_interface_or_a_machine_of_another_width_is_told(named, message):
    settings = {"interface": as_numbers, "machine": with_a_list, **named}
    instructions = st.just((True, False, 1))
    with pytest.raises(AssertionError, match=message):
        testing.check_program(SmallQueue, instructions=instructions, max_examples=1, **settings)


# -- linear memories ------------------------------------------------------------------------------


SmallDelta = partial(GatedDeltaNet, 4, 2, heads=2)


@faulty(GatedDeltaNet, "over_time")
def chunks_without_the_mask(self, inputs, mask):
    return GatedDeltaNet.over_time(self, inputs, None)


@faulty(GatedDeltaNet, "over_time")
def chunks_without_the_gradient_of_the_decay(self, inputs, mask):
    step = GatedDeltaNet.over_time(self, inputs, mask)
    return step._replace(log_decay=step.log_decay.detach())


@faulty(GatedDeltaNet)
def a_step_that_decays_what_it_writes(self, interface, state):
    step = self.parts(interface)
    memory = state.memory + step.keys.mT @ (step.written - step.erased @ state.memory)
    memory = step.log_decay.exp().unsqueeze(-1) * memory
    return (step.query.unsqueeze(-2) @ memory).flatten(1), LinearState(memory)


@faulty(GatedDeltaNet)
def a_step_that_reads_before_it_writes(self, interface, state):
    _, after = GatedDeltaNet.forward(self, interface, state)
    query = self.parts(interface).query.unsqueeze(-2)
    return (query @ state.memory).flatten(1), after


@faulty(DeltaNet, "parts")
def keys_that_are_too_long(self, interface):
    step = DeltaNet.parts(self, interface)
    return step._replace(keys=3 * step.keys)


@faulty(DeltaNet, "_at_once")
def an_erase_by_another_key(self, inputs, state, mask):
    step = self.over_time(inputs, mask)
    erased = step.erased.roll(-1, -1)
    read, memory = scan(step.query, step.keys, step.written, state.memory, erased)
    return read.transpose(1, 2).flatten(2), LinearState(memory)


LINEAR = [
    (PARALLEL, partial(chunks_without_the_mask, 4, 2)),
    (PARALLEL, partial(chunks_without_the_gradient_of_the_decay, 4, 2)),
    (PARALLEL, partial(a_step_that_decays_what_it_writes, 4, 2)),
    (
        "a step is the write with the gates that the memory tells, then a read",
        partial(a_step_that_decays_what_it_writes, 4, 2),
    ),
    (
        "a step is the write with the gates that the memory tells, then a read",
        partial(a_step_that_reads_before_it_writes, 4, 2),
    ),
    (
        "a step that adds nothing never makes the memory longer",
        partial(keys_that_are_too_long, 4, 2),
    ),
    (
        "what is written at orthonormal keys is read back, whatever is written at other ones",
        partial(an_erase_by_another_key, 4, 2),
    ),
]


# -- models ---------------------------------------------------------------------------------------


class Machine(MemoryMachine):
    """The plainest of machines."""

    def __init__(self, controller=Recurrent):
        super().__init__(2, 2, controller)

    def encode(self, source, mask=None):
        return super().encode(source, mask).body

    def decode(self, inputs, state):
        hidden, state = self.body.unroll(inputs, state)
        return self.output(hidden), state


@faulty(Machine, "loss")
def loss_of_16_bits(self, batch):
    loss = Machine.loss(self, batch)
    return loss.bfloat16() if torch.is_autocast_enabled("cpu") else loss


@faulty(Machine, "weight")
def weight_of_all_steps(self, batch):
    return batch.targets.shape[:2].numel()


@faulty(Machine, "loss")
def infinite_gradient_of_a_loss_under_autocast(self, batch):
    loss = Machine.loss(self, batch)
    return loss + (loss * 0).sqrt() if torch.is_autocast_enabled("cpu") else loss


@faulty(Machine, "decode")
def outputs_that_see_the_future(self, inputs, state):
    logits, state = Machine.decode(self, inputs, state)
    return logits + logits.mean(1, keepdim=True), state


@faulty(Machine, "decode")
def places_that_start_anew(self, inputs, state):
    logits, state = Machine.decode(self, inputs, state)
    return logits + torch.arange(inputs.shape[1]).unsqueeze(-1), state


@faulty(Machine, "encode")
def source_mask_ignored(self, source, mask=None):
    return Machine.encode(self, source)


@faulty(Machine, "__init__")
def parameters_from_elsewhere(self):
    Machine.__init__(self)
    elsewhere = torch.Generator()
    elsewhere.seed()
    with torch.no_grad():
        self.output.bias.uniform_(generator=elsewhere)


@faulty(Machine, "loss")
def a_loss_turned_round(self, batch):
    return 1 / Machine.loss(self, batch)


@faulty(Machine, "decode")
def state_that_autocast_makes_coarse(self, inputs, state):
    logits, state = Machine.decode(self, inputs, state)
    return logits, state @ torch.eye(state.shape[-1], dtype=state.dtype)


class SmallTransformer(Transformer):
    """One layer, on vectors."""

    def __init__(self):
        super().__init__(2, 2, width=4, heads=2, layers=1, hidden_size=4, dropout=0.0, tied=False)


class SmallSeq2Seq(Seq2Seq):
    """Bahdanau's, on vectors."""

    def __init__(self, addressing=Content):
        encoder = partial(encoders.Recurrent, controller=Recurrent)
        attention = addressing(Additive(4))
        super().__init__(2, 2, encoder, Recurrent, attention, 4, key_size=4, tied=False)


class SmallSNAIL(SNAIL):
    """Two attention blocks and a TC block between them, on vectors."""

    def __init__(self):
        super().__init__(2, 2, max_length=20, attentions=[(3, 2), (3, 2)], filters=2, kernel_size=3)


class OverQueries(Softmax):
    """Rows for columns, as in a public copy of SNAIL."""

    def forward(self, scores, mask=None):
        return scores.masked_fill(~mask, -torch.inf).softmax(-2)


@faulty(SmallSNAIL, "__init__")
def attention_normalised_over_the_queries(self):
    SmallSNAIL.__init__(self)
    self.body.cells[2].addressing.normalizer = OverQueries()


def dense_block_trimmed_by_the_dilation(block, inputs, state, mask=None):
    """Padded by the whole reach, trimmed by the dilation: right for kernels of 2 only."""
    _, after = dense_block_before(block, inputs, state, mask)
    late = block.dilation * (block.kernel_size - 2)
    first = block.initial_state(len(inputs))
    ahead, _ = dense_block_before(block, nn.functional.pad(inputs, (0, 0, 0, late)), first)
    return torch.cat([inputs, ahead[:, late:, block.input_size :]], -1), after


def dense_block_without_mask(block, inputs, state, mask=None):
    return dense_block_before(block, inputs, state)


dense_block_before = DenseBlock.unroll


def with_dense_block(unroll):
    """A SNAIL all of whose convolutions are spoilt."""

    class Faulty(SmallSNAIL):
        def _advance(self, *arguments, **named):
            with mock.patch.object(DenseBlock, "unroll", unroll):
                return super()._advance(*arguments, **named)

    return type(unroll.__name__, (Faulty,), {})


@faulty(SmallTransformer, "decode")
def causal_mask_aligned_to_the_start(self, inputs, state):
    def aligned(steps, slots, device):
        return torch.ones(steps, slots, dtype=torch.bool).tril()

    with mock.patch("memnets.cells.attention.causal_mask", aligned):
        return SmallTransformer.decode(self, inputs, state)


@faulty(SmallTransformer, "decode")
def cache_kept_on_self(self, inputs, state):
    if state.steps.any():
        state = state._replace(decoder=self.cache)
    logits, state = SmallTransformer.decode(self, inputs, state)
    self.cache = state.decoder
    return logits, state


@faulty(SmallSeq2Seq, "encode")
def attention_to_padding(self, source, mask=None):
    state = SmallSeq2Seq.encode(self, source, mask)
    return state._replace(memory=state.memory._replace(mask=None))


class Unasked(Content):
    """Says what it weighs, and asks nobody for other weights."""

    def __call__(self, query, memory, state=None):
        weights, state = nn.Module.__call__(self, query, memory, state)
        events.report(self, weights=weights)
        return weights, state


@faulty(Machine, "decode")
def counts_its_calls(self, inputs, state):
    self.calls = getattr(self, "calls", 0) + 1
    logits, state = Machine.decode(self, inputs, state)
    return logits + self.calls, state


class SmallPointer(PointerNetwork):
    """On sets of vectors."""

    def __init__(self, revisit=False):
        encoder = partial(encoders.SelfAttention, layers=1, heads=1, hidden_size=4)
        attention = Content(ScaledDot())
        super().__init__(2, encoder, Recurrent, attention, width=4, revisit=revisit)
        self.objective = Tokens()


@faulty(SmallPointer, "_open")
def points_twice(self, slots, visited):
    return SmallPointer._open(self, slots, torch.zeros_like(visited))


@faulty(SmallPointer, "_open")
def points_at_padding(self, slots, visited):
    return SmallPointer._open(self, torch.ones_like(slots), visited)


@faulty(SmallPointer, "decode")
def points_at_the_first(self, inputs, state):
    logits, state = SmallPointer.decode(self, inputs, state)
    return logits - torch.arange(logits.shape[-1]), state


POINTERS = [
    ("what may not be pointed at has no probability, and what may has some", points_twice),
    ("padding never changes a result", points_at_padding),
    ("a permutation of the source permutes the answer", points_at_the_first),
]


@faulty(Machine, "reorder")
def nothing_reordered(self, state, index, same_source=False):
    return state


@faulty(Machine, "reorder")
def nothing_reordered_within_a_source(self, state, index, same_source=False):
    return state if same_source else Machine.reorder(self, state, index)


@faulty(Machine, "loss")
def a_loss_without_the_mask(self, batch):
    return Machine.loss(self, batch._replace(target_mask=None))


@faulty(Machine, "decode")
def state_detached_in_decoding(self, inputs, state):
    return Machine.decode(self, inputs, map_state(torch.detach, state))


@faulty(Machine, "encode")
def source_detached(self, source, mask=None):
    return map_state(torch.detach, Machine.encode(self, source, mask))


class PaddingAsItComes(Machine):
    """Reads batches with what stands in their padding: they pass by where it is cleared."""


for method in ("loss", "logits"):
    setattr(PaddingAsItComes, method, getattr(Machine, method).__wrapped__)


class SourceAsItComes(SmallTransformer):
    """Reads a source with what stands in its padding."""


SourceAsItComes.encode = SmallTransformer.encode.__wrapped__


MODELS = [
    (ANY_PADDING, PaddingAsItComes),
    (ANY_PADDING, SourceAsItComes),
    (REORDER, nothing_reordered),
    (REORDER, nothing_reordered_within_a_source),
    (SCORED, a_loss_without_the_mask),
    (THROUGH_TIME, state_detached_in_decoding),
    (THROUGH_TIME, partial(Machine, controller_that_detaches)),
    (DIFFERENCES, partial(Machine, controller_that_detaches)),
    (DIFFERENCES, source_detached),
    *general(Machine, "decode"),
    *in_graphs(Machine, "decode"),
    (LOSS, mixes(Machine, "loss")),
    (LOSS, loss_of_16_bits),
    (WEIGHTED, weight_of_all_steps),
    (LOSS, infinite_gradient_of_a_loss_under_autocast),
    (AUTOCAST, state_that_autocast_makes_coarse),
    (IN_PLACE, overwrites(Machine, "decode")),
    (NEIGHBOURS, centres(Machine, "decode", example_dims=2)),
    (STATE_IN_PLACE, partial(Machine, controller_in_place)),
    (SMOKE, partial(Machine, TorchLayout)),
    (BATCH_FIRST, partial(Machine, rows_of_the_next_sequence)),
    ("the gradient of the loss reaches every parameter", idles(Machine)),
    (CHUNKS, places_that_start_anew),
    ("the future is never seen", outputs_that_see_the_future),
    ("padding never changes a result", source_mask_ignored),
    ("the same seed gives the same numbers", parameters_from_elsewhere),
    ("the model can overfit one batch", a_loss_turned_round),
    (CHUNKS, causal_mask_aligned_to_the_start),
    (INTERVENED, partial(SmallSeq2Seq, Unasked)),
    (INTERVENED, counts_its_calls),
    (KEPT, cache_kept_on_self),
    ("padding never changes a result", attention_to_padding),
    ("the future is never seen", attention_normalised_over_the_queries),
    ("the future is never seen", with_dense_block(dense_block_trimmed_by_the_dilation)),
    ("padding never changes a result", with_dense_block(dense_block_without_mask)),
    (WAITING, waits(Machine, "decode")),
]

# -- encoders -------------------------------------------------------------------------------------


class SmallEncoder(encoders.Process):
    """Of a set of vectors."""

    def __init__(self, input_size):
        super().__init__(input_size, steps=2)


@faulty(SmallEncoder)
def summary_too_narrow(self, inputs, mask=None):
    vectors, summary = SmallEncoder.forward(self, inputs, mask)
    return vectors, summary[:, 1:]


@faulty(SmallEncoder)
def encoder_without_the_mask(self, inputs, mask=None):
    return SmallEncoder.forward(self, inputs)


@faulty(SmallEncoder)
def encoder_softer_with_a_mask(self, inputs, mask=None):
    return SmallEncoder.forward(self, inputs if mask is None else inputs / 2, mask)


@faulty(SmallEncoder)
def encoder_by_place(self, inputs, mask=None):
    return SmallEncoder.forward(self, inputs * torch.arange(1, inputs.shape[1] + 1)[:, None], mask)


@faulty(SmallEncoder)
def summary_of_the_first_step(self, inputs, mask=None):
    vectors, _ = SmallEncoder.forward(self, inputs, mask)
    return vectors, vectors[:, 0].repeat(1, 2)


ENCODERS = [
    *general(SmallEncoder),
    (AUTOCAST, mixes(SmallEncoder)),
    (IN_PLACE, overwrites(SmallEncoder)),
    (NEIGHBOURS, centres(SmallEncoder, example_dims=2)),
    (PARAMETERS, idles(SmallEncoder)),
    ("a source gives [B, S', output_size], [B, summary_size], and a mask", summary_too_narrow),
    ("padding never changes a result", encoder_without_the_mask),
    ("a mask that leaves every step is no mask", encoder_softer_with_a_mask),
    (
        "a permutation of the source permutes the vectors, and leaves the summary",
        encoder_by_place,
    ),
    ("the summary has a gradient to every step", summary_of_the_first_step),
]


# -- decoding -------------------------------------------------------------------------------------


class Answering(MemoryMachine):
    """A machine of tokens."""

    def __init__(self):
        super().__init__(5, 5, Recurrent)


@faulty(Answering, "generate")
def answers_with_the_second_best(self, *arguments, **named):
    with mock.patch.object(Answering, "decode", lambda *a: changed(MemoryMachine.decode(*a), neg)):
        return Answering.generate(self, *arguments, **named)


def neg(logits):
    return -logits


@faulty(Answering, "reorder")
def answers_without_reordering(self, state, index, same_source=False):
    return map_state(lambda tensor: tensor[: len(index)], state)


@faulty(Answering, "reorder")
def beams_that_mix(self, state, index, same_source=False):
    return Answering.reorder(self, state, index.flip(0) if same_source else index)


@faulty(Answering, "reorder")
def beams_that_start_anew(self, state, index, same_source=False):
    state = Answering.reorder(self, state, index)
    return map_state(lambda tensor: 0 * tensor, state) if same_source else state


@faulty(Answering, "encode")
def neighbours_while_encoding(self, source, mask=None):
    state = Answering.encode(self, source, mask)

    def mixed(tensor):
        return tensor - 2 * tensor.mean(0, keepdim=True) if tensor.is_floating_point() else tensor

    return map_state(mixed, state)


@faulty(Answering, "generate")
def an_answer_of_the_mood(self, *arguments, **named):
    answers = Answering.generate(self, *arguments, **named)
    self.mood = getattr(self, "mood", 0) + 1
    return answers + self.mood


DECODING = [
    ("greedy takes the likeliest token at each step", answers_with_the_second_best),
    (
        "samples go on from what is begun, at a temperature of almost 0 greedily",
        answers_with_the_second_best,
    ),
    ("a beam of 1 is greedy", beams_that_start_anew),
    (
        "scores of a beam are log probabilities, the best first, whole ones before cut ones",
        beams_that_mix,
    ),
    ("batch neighbours never change an answer", neighbours_while_encoding),
    (REORDER, answers_without_reordering),
    (REORDER, beams_that_mix),
    ("the same source gives the same answer", an_answer_of_the_mood),
]


# -- objectives -----------------------------------------------------------------------------------


@faulty(Labels, "losses")
def losses_over_all_steps(self, logits, targets):
    losses = Labels.losses(self, logits, targets)
    return losses + losses.mean(1, keepdim=True)


@faulty(Labels, "losses")
def losses_of_nothing(self, logits, targets):
    return 0 * logits.sum(-1)


@faulty(Labels, "scores", monitor="perplexity")
def no_score_is_monitored(self, logits, targets, mask):
    return Labels.scores(self, logits, targets, mask)


@faulty(Labels, "scores")
def scores_without_the_mask(self, logits, targets, mask):
    return Labels.scores(self, logits, targets, None)


@faulty(Labels, "scores", monitor="accuracy")
def the_higher_the_better(self, logits, targets, mask):
    return Labels.scores(self, logits, targets, mask)


@faulty(Labels, "scores")
def scores_in_place(self, logits, targets, mask):
    return Labels.scores(self, logits.mul_(2), targets, mask)


class AnswersOfFloats(Labels):
    """What it takes is no answer."""

    def answer(self, logits):
        return super().answer(logits) if logits.sum() > 0 else super().answer(logits).float()


OBJECTIVES = [
    (
        "a loss is a number a step, with a gradient to the logits of that step alone",
        losses_over_all_steps,
    ),
    ("a step down the gradient makes the loss less", losses_of_nothing),
    ("an answer has the form of the targets", AnswersOfFloats),
    ("scores are a finite number a sequence, the monitored one among them", no_score_is_monitored),
    ("padding is never scored", scores_without_the_mask),
    ("the monitored score is the lower the better", the_higher_the_better),
    (IN_PLACE, scores_in_place),
]


# -- tasks ----------------------------------------------------------------------------------------


class SmallTask(Copying):
    """Short sequences."""

    def __init__(self, seed=0):
        super().__init__(
            width=2,
            max_length=3,
            test_sets=[(3, 2)],
            batch_size=2,
            validation_batch_size=2,
            epoch_batches=2,
            validation_batches=16,
            seed=seed,
        )


@faulty(SmallTask, "batch")
def goes_on_with_every_call(self, split, index):
    self.calls = getattr(self, "calls", 0) + 1
    return SmallTask.batch(self, split, index + self.calls)


class DrawsByAHash(SmallTask):
    """The random numbers of a batch begin with a hash that each process salts anew."""

    def random(self, split, index):
        return np.random.default_rng([abs(hash(split)), self.seed, index])


@faulty(SmallTask, "batch")
def always_the_same(self, split, index):
    return SmallTask.batch(self, split, 0)


@faulty(SmallTask, "batch")
def draws_from_torch(self, split, index):
    torch.rand(1)
    return SmallTask.batch(self, split, index)


@faulty(SmallTask, "batch")
def targets_too_wide(self, split, index):
    batch = SmallTask.batch(self, split, index)
    return batch._replace(targets=torch.cat([batch.targets, batch.targets], -1))


@faulty(SmallTask, "batch")
def a_mask_of_padding_alone(self, split, index):
    batch = SmallTask.batch(self, split, index)
    return batch._replace(target_mask=torch.zeros(batch.targets.shape[:2], dtype=torch.bool))


@faulty(SmallTask, "batch")
def nothing_to_answer(self, split, index):
    batch = SmallTask.batch(self, split, index)
    none = {"inputs": batch.inputs[:, :0], "targets": batch.targets[:, :0], "target_mask": None}
    return batch._replace(**none)


@faulty(SmallTask, "batch", coupling=SmallTask.coupling)
def too_few_places(self, split, index):
    batch = SmallTask.batch(self, split, index)
    return batch._replace(source_places=batch.source_places[:, 1:])


@faulty(SmallTask, "batch", coupling=SmallTask.coupling)
def places_below_0(self, split, index):
    batch = SmallTask.batch(self, split, index)
    return batch._replace(target_places=batch.target_places - 2)


@faulty(SmallTask, "batch", coupling=SmallTask.coupling)
def places_of_the_source_alone(self, split, index):
    return SmallTask.batch(self, split, index)._replace(target_places=None)


@faulty(SmallTask, "batch", coupling=SmallTask.coupling)
def places_that_are_no_whole_numbers(self, split, index):
    batch = SmallTask.batch(self, split, index)
    return batch._replace(target_places=batch.target_places.float())


@faulty(SmallTask, "batch", coupling=SmallTask.coupling)
def places_that_tell_the_answer(self, split, index):
    batch = SmallTask.batch(self, split, index)
    said = batch.targets[..., 0].long()
    return batch._replace(target_places=batch.target_places + said)


@faulty(SmallTask, "batch")
def one_answer(self, split, index):
    batch = SmallTask.batch(self, split, index)
    return batch._replace(targets=torch.zeros_like(batch.targets))


@faulty(SmallTask, "batch")
def one_answer_for_each_step(self, split, index):
    batch = SmallTask.batch(self, split, index)
    steps = torch.arange(batch.targets.shape[1])[:, None].expand_as(batch.targets)
    return batch._replace(targets=(steps % 2).float())


@faulty(SmallTask, "batch")
def one_answer_where_it_is_scored(self, split, index):
    batch = SmallTask.batch(self, split, index)
    scored = torch.zeros(batch.targets.shape[:2], dtype=torch.bool)
    scored[:, -1] = True
    targets = batch.targets.clone()
    targets[scored] = 1.0
    return batch._replace(targets=targets, target_mask=scored)


@faulty(SmallTask, "batch")
def one_answer_in_validation(self, split, index):
    batch = SmallTask.batch(self, split, index)
    if split != "val":
        return batch
    return batch._replace(targets=torch.ones_like(batch.targets))


@faulty(SmallTask, "check_split")
def any_split(self, split):
    pass


@faulty(SmallTask, "check_split")
def an_error_without_the_splits(self, split):
    if split not in self.splits():
        raise ValueError(f"unknown split {split}")


@faulty(SmallTask, "test_names")
def a_test_set_called_train(self):
    return ["train"]


@faulty(SmallTask, "val_dataloader")
def the_other_loader(self):
    return self.train_dataloader()


@faulty(SmallTask, "__init__")
def nothing_to_send(self, seed=0):
    SmallTask.__init__(self, seed)
    self.draw = lambda: 0


TASKS = [
    ("a split that the task does not have is refused", any_split),
    ("a split that the task does not have is refused", an_error_without_the_splits),
    ("a batch is a pure function of seed, split and index", goes_on_with_every_call),
    ("a process with other hashes of texts makes the same batches", DrawsByAHash),
    ("other seeds, splits and indices give other batches", always_the_same),
    ("no batch draws from the random generators of others", draws_from_torch),
    ("batches are of the shapes, types and ranges that tasks have", targets_too_wide),
    ("batches are of the shapes, types and ranges that tasks have", a_mask_of_padding_alone),
    ("batches are of the shapes, types and ranges that tasks have", nothing_to_answer),
    ("batches are of the shapes, types and ranges that tasks have", too_few_places),
    ("batches are of the shapes, types and ranges that tasks have", places_below_0),
    ("batches are of the shapes, types and ranges that tasks have", places_of_the_source_alone),
    (
        "batches are of the shapes, types and ranges that tasks have",
        places_that_are_no_whole_numbers,
    ),
    ("places of an answer follow from the places of its source", places_that_tell_the_answer),
    (ANSWERS, one_answer),
    (ANSWERS, one_answer_for_each_step),
    (ANSWERS, one_answer_where_it_is_scored),
    (ANSWERS, one_answer_in_validation),
    ("test sets have names of their own, and a loader each", a_test_set_called_train),
    ("loaders give the batches by their index", the_other_loader),
    ("a worker makes the same batches", nothing_to_send),
]


# -- kernels --------------------------------------------------------------------------------------


def plain_kernel(first, second):
    """A function of two tensors, the plain definition."""
    return (first * second).tanh()


class Twice(torch.autograd.Function):
    """Its gradient is right, and the gradient of its gradient is not."""

    @staticmethod
    def forward(ctx, first, second):
        result = plain_kernel(first, second)
        ctx.save_for_backward(first, second)
        return result

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            first, second = (each.detach().requires_grad_() for each in ctx.saved_tensors)
            result = plain_kernel(first, second)
        return tuple(gradient * each for each in torch.autograd.grad(result.sum(), (first, second)))


def another_value(first, second):
    return 1.01 * plain_kernel(first, second)


def another_gradient(first, second):
    return WrongBackward.apply(plain_kernel(first, second))


def another_value_without_gradients(first, second):
    return plain_kernel(first, second) * (1 if torch.is_grad_enabled() else 1.01)


def a_kernel_that_counts(first, second):
    a_kernel_that_counts.calls += 1
    return plain_kernel(first, second) * a_kernel_that_counts.calls


a_kernel_that_counts.calls = 0


def another_type(first, second):
    return plain_kernel(first, second).float()


KERNELS = [
    (FAST, another_value),
    ("their gradients agree", another_gradient),
    ("without gradients the numbers are the same", another_value_without_gradients),
    ("second derivatives agree, or are refused", Twice.apply),
    ("a second call gives the same numbers, and the first keeps its own", a_kernel_that_counts),
    ("results have the types of the plain path", another_type),
]

PAIR = st.tuples(testing.tensors((2, 3), special=False), testing.tensors((2, 3), special=False))


def check_kernel(fast, **settings):
    testing.check_kernel(fast, plain_kernel, PAIR, **settings)


check_encoder = partial(testing.check_encoder, symmetry="permutation")
check_decoding = partial(testing.check_decoding, source=testing.tokens(5))


FAULTS = {
    check_encoder: ENCODERS,
    check_decoding: DECODING,
    testing.check_objective: OBJECTIVES,
    testing.check_task: TASKS,
    check_kernel: KERNELS,
    testing.check_score: SCORES,
    testing.check_normalizer: NORMALIZERS,
    testing.check_addressing: ADDRESSINGS,
    testing.check_cell: CELLS,
    testing.check_controller: CONTROLLERS,
    testing.check_access: ACCESSES,
    check_program: PROGRAMS,
    testing.check_linear: LINEAR,
    testing.check_positions: SCHEMES,
    testing.check_model: MODELS,
    testing.check_pointer: POINTERS,
}
KINDS = {
    check_encoder: around._EncoderSubject,
    check_decoding: around._DecodingSubject,
    testing.check_objective: objectives._ObjectiveSubject,
    testing.check_task: task_laws._TaskSubject,
    check_kernel: objectives._KernelSubject,
    testing.check_score: addressing._ScoreSubject,
    testing.check_normalizer: addressing._NormalizerSubject,
    testing.check_addressing: addressing._AddressingSubject,
    testing.check_cell: cells._CellSubject,
    testing.check_controller: cells._ControllerSubject,
    testing.check_access: accesses._AccessSubject,
    check_program: programs._ProgramSubject,
    testing.check_linear: linear_laws._LinearSubject,
    testing.check_positions: position_laws._PositionsSubject,
    testing.check_model: models._ModelSubject,
    testing.check_pointer: models._SetPointerSubject,
}


def name(part):
    return getattr(part, "__name__", None)


def all_but(check, *laws):
    """Names of all laws but some: whether another finds the fault too says nothing."""
    kind = KINDS[check]
    statements = {name: getattr(kind, name).statement for name in kind.laws()}
    assert laws, "no law is left"
    assert {*laws} <= {*statements.values()}, f"not all of {laws} are laws"
    return [name for name, law in statements.items() if law not in laws and name != "smoke"]


def spoilt(check, part):
    """The laws that are broken by a fault in a part."""

    def kind_of(made):
        return getattr(made, "func", made)

    kinds = [(law, kind_of(fault)) for law, fault in FAULTS[check]]
    # A fault of a function says nothing of the class.
    return {
        law for law, kind in kinds if not isinstance(kind, type) or issubclass(kind, kind_of(part))
    }


@pytest.mark.parametrize(
    ("check", "law", "part"),
    [(check, law, part) for check, faults in FAULTS.items() for law, part in faults],
    ids=name,
)
def test_a_faulty_part_is_found_by_its_law(check, law, part):
    settings = {}
    if check is testing.check_model:
        settings = {"overfit_steps": 20 * law.endswith("overfit one batch")}
    if check is testing.check_cell:
        settings = {"sourced": law == SOURCE}
    if check is testing.check_pointer:
        settings = {"overfit_steps": 0, "symmetry": "permutation"}
    with pytest.raises(AssertionError) as error:
        check(part, leave_out=all_but(check, law), **settings)
    assert f"law {law!r}" in str(error.value)


@pytest.mark.parametrize(
    ("check", "part"),
    [
        (testing.check_score, Dot),
        (testing.check_normalizer, Softmax),
        (testing.check_addressing, DotContent),
        (testing.check_cell, Recurrent),
        (testing.check_cell, SmallAttention),
        (testing.check_controller, Recurrent),
        (testing.check_access, SmallNTM),
        (check_program, SmallQueue),
        (testing.check_linear, SmallDelta),
        (testing.check_positions, HardALiBi),
        (testing.check_model, Machine),
        (testing.check_model, SmallTransformer),
        (testing.check_model, SmallSeq2Seq),
        (testing.check_model, SmallSNAIL),
        (testing.check_pointer, SmallPointer),
        (check_encoder, SmallEncoder),
        (check_decoding, Answering),
        (testing.check_objective, Labels),
        (testing.check_task, SmallTask),
        (check_kernel, plain_kernel),
    ],
)
def test_the_parts_that_were_spoilt_keep_the_laws_that_their_faults_break(check, part):
    named = {"symmetry": "permutation"} if check is testing.check_pointer else {}
    leave_out = all_but(check, *spoilt(check, part))
    check(part, leave_out=leave_out, max_examples=min(3, settings().max_examples), **named)


def test_rotation_finds_a_shift_that_drops_mass_at_the_edges():
    with pytest.raises(AssertionError, match=f"law {ROTATION!r}"):
        # Few of the shifts that are drawn reach an edge.
        testing.check_addressing(
            a_shift_that_starts_at_slot_0,
            query=testing.ntm_queries,
            symmetry="rotation",
            leave_out=all_but(testing.check_addressing, ROTATION),
            max_examples=30,
        )


@pytest.mark.parametrize(
    ("check", "part", "law", "method"),
    [
        (testing.check_cell, Recurrent, INTERVENED, "reached"),
        (testing.check_access, SmallNTM, OVERWRITTEN, "reached"),
        (testing.check_model, SmallSeq2Seq, INTERVENED, "queries"),
    ],
    ids=name,
)
@pytest.mark.parametrize("late", [-1, 1])
def test_an_intervention_at_another_step_is_found(check, part, law, method, late):
    method_of = getattr(interventions.Site, method)

    def shifted(self, intervention, *arguments):
        self.step -= late
        try:
            return method_of(self, intervention, *arguments)
        finally:
            self.step += late

    patched = mock.patch.object(interventions.Site, method, shifted)
    with patched, pytest.raises(AssertionError, match=f"law {law!r}"):
        check(part, leave_out=all_but(check, law))


def test_every_law_has_a_fault():
    assert set(KINDS.values()) >= concrete(Laws)
    everything = {law for faults in FAULTS.values() for law, _ in faults}
    for check, kind in KINDS.items():
        laws = {getattr(kind, name).statement for name in kind.laws() if name != "smoke"}
        found = {law for law, _ in FAULTS[check]}
        # What a pointer shares with other models was spoilt there; what a linear memory shares with
        # other memories, and positions with other parts, too.
        shares = check in (testing.check_pointer, testing.check_linear, testing.check_positions)
        found |= everything if shares else set()
        # Most laws of cells were spoilt for controllers; a source is looked at by cells alone.
        found |= {law for law, _ in CONTROLLERS} if check is testing.check_cell else set()
        found |= {SOURCE} if check in (testing.check_controller, testing.check_access) else set()
        # It has a test of its own, above.
        assert laws - {ROTATION} <= found


def concrete(kind):
    kinds = {child for subclass in kind.__subclasses__() for child in concrete(subclass)}
    return kinds if isabstract(kind) or kinds else {kind}


def test_a_message_says_of_all_laws_that_broke_what_was_found():
    class Both(remembers(Dot)):
        def forward(self, query, keys):
            return super().forward(query, keys) + torch.arange(keys.shape[-2])

    with pytest.raises(AssertionError) as error:
        testing.check_score(Both)
    message = str(error.value)
    assert message.startswith(f"law '{KEPT}': a call after another")
    assert "\n\nlaw 'scores go with their slots under permutation': scores: Tensor" in message


# -- functions ------------------------------------------------------------------------------------


def sharpen_by_a_plain_power(weights, sharpness, mask=None):
    power = weights**sharpness
    return power / (power.sum(-1, keepdim=True) + 1e-16)


def sharpen_without_normalising(weights, sharpness, mask=None):
    return weights**sharpness


def sharpen_one_more(weights, sharpness, mask=None):
    return functional_before["sharpen"](weights, sharpness + 1)


def shift_that_drops_mass(weights, kernel):
    reach = kernel.shape[-1] // 2
    padded = nn.functional.pad(weights, (reach, reach))
    return (padded.unfold(-1, kernel.shape[-1], 1) @ kernel.flip(-1).unsqueeze(-1)).squeeze(-1)


def shift_the_other_way(weights, kernel):
    return functional_before["shift"](weights, kernel.flip(-1))


def shift_with_an_offset(weights, kernel):
    return functional_before["shift"](weights, kernel).roll(1, -1)


def gate_the_wrong_way(content, previous, gate):
    return functional_before["interpolate"](previous, content, gate)


def cosine_without_epsilon(query, keys):
    return functional_before["cosine_similarity"](query, keys, 0.0)


def dot_for_cosine(query, keys):
    return query @ keys.mT


def heads_one_after_the_other(memory, weights, erase, add):
    for head in range(weights.shape[-2]):
        one = slice(head, head + 1)
        memory = functional_before["erase_add"](
            memory, weights[..., one, :], erase[..., one, :], add[..., one, :]
        )
    return memory


def erase_of_every_slot(memory, weights, erase, add):
    return functional_before["erase_add"](memory * 0.999, weights, erase, add)


def add_before_erase(memory, weights, erase, add):
    return functional_before["erase_add"](
        memory + weights.mT @ add, weights, erase, torch.zeros_like(add)
    )


def write_to_the_next_slot_too(memory, weights, erase, add):
    weights = weights + 1e-3 * weights.roll(1, -1)
    return functional_before["erase_add"](memory, weights, erase, add)


def write_by_what_is_there(memory, weights, erase, add):
    add = add + memory.mean((-2, -1), keepdim=True)
    return functional_before["erase_add"](memory, weights, erase, add)


def append_at_the_front(memory, row):
    return functional_before["append"](row, memory)


def read_of_normalised_values(weights, values):
    return functional_before["read"](weights, nn.functional.normalize(values, dim=-1))


def allocation_in_any_order(usage, epsilon=1e-6):
    return functional_before["allocation"](usage.flip(-1), epsilon)


def allocation_that_divides_the_free(usage, epsilon=1e-6):
    free = 1 - usage
    return free / (free.sum(-1, keepdim=True) + epsilon)


def allocation_without_epsilon(usage, epsilon=0.0):
    free, order = (1 - usage).sort(dim=-1, descending=True)
    used = 1 - free
    return torch.zeros_like(free).scatter(-1, order, free * used.cumprod(-1) / used)


def usage_that_only_adds(previous, written, retention):
    return (previous + written) * retention


def retention_of_the_mean_read(weights, free_gates):
    return 1 - (free_gates * weights).mean(-2)


def write_gate_left_out(content, allocation, allocation_gate, write_gate):
    return functional_before["interpolate"](allocation, content, allocation_gate)


def most_used(usage, count):
    return functional_before["least_used"](-usage, count)


def link_with_itself(previous, precedence, written):
    row, column = written.unsqueeze(-1), written.unsqueeze(-2)
    return (1 - row - column) * previous + row * precedence.unsqueeze(-2)


def link_that_forgets_nothing(previous, precedence, written):
    return previous + functional_before["link"](torch.zeros_like(previous), precedence, written)


def link_the_other_way(previous, precedence, written):
    return functional_before["link"](previous.mT, precedence, written).mT


def precedence_that_forgets_all(previous, written):
    return written


def precedence_that_piles_up(previous, written):
    return previous + written


def modes_in_another_order(backward, content, forward, modes):
    return functional_before["read_weighting"](forward, content, backward, modes)


functional_before = {name: getattr(functional, name) for name in functional.__all__}


@pytest.mark.parametrize(
    ("name", "fault", "law"),
    [
        ("sharpen", sharpen_without_normalising, "sharpen_is_a_power"),
        ("sharpen", sharpen_one_more, "sharpness_1_changes_nothing"),
        ("sharpen", sharpen_one_more, "sharpenings_compose"),
        ("shift", shift_that_drops_mass, "shift_keeps_the_mass"),
        ("shift", shift_that_drops_mass, "shift_commutes_with_rotation"),
        ("shift", shift_the_other_way, "shift_by_a_whole_step_is_a_rotation"),
        ("shift", shift_with_an_offset, "shifts_compose"),
        (
            "interpolate",
            gate_the_wrong_way,
            "gate_0_keeps_and_gate_1_ignores",
        ),
        ("cosine_similarity", cosine_without_epsilon, "cosine_of_zero_rows_has_a_finite_gradient"),
        ("cosine_similarity", dot_for_cosine, "cosine_is_a_cosine"),
        ("erase_add", heads_one_after_the_other, "heads_write_in_any_order"),
        ("erase_add", heads_one_after_the_other, "heads_erase_before_any_adds"),
        ("erase_add", heads_one_after_the_other, "memory_programs"),
        ("erase_add", erase_of_every_slot, "write_of_weight_0_is_the_identity"),
        ("erase_add", write_to_the_next_slot_too, "write_leaves_other_slots_bit_equal"),
        ("erase_add", write_by_what_is_there, "disjoint_writes_commute"),
        ("erase_add", add_before_erase, "what_is_written_is_read_back"),
        ("append", append_at_the_front, "append_keeps_every_bit"),
        ("append", append_at_the_front, "memory_programs"),
        ("read", read_of_normalised_values, "read_of_one_slot_returns_its_value"),
        ("read", read_of_normalised_values, "read_is_linear_and_inside_the_hull"),
        ("allocation", allocation_that_divides_the_free, "allocation_leaves_what_no_slot_has_free"),
        ("allocation", allocation_in_any_order, "allocation_agrees_with_its_definition"),
        ("usage", usage_that_only_adds, "usage_stays_in_its_range"),
        ("retention", retention_of_the_mean_read, "a_slot_is_freed_by_a_gate_and_a_read"),
        ("write_weighting", write_gate_left_out, "write_gates_choose"),
        ("least_used", most_used, "least_used_slots_are_those_of_least_usage"),
        ("link", link_with_itself, "links_are_weights_and_no_slot_follows_itself"),
        ("link", link_that_forgets_nothing, "links_agree_with_their_definition"),
        ("link", link_the_other_way, "links_lead_along_the_order_of_writing_and_back"),
        ("precedence", precedence_that_piles_up, "links_are_weights_and_no_slot_follows_itself"),
        ("precedence", precedence_that_forgets_all, "a_write_of_nothing_leaves_the_order"),
        ("read_weighting", modes_in_another_order, "read_modes_are_back_content_and_on"),
    ],
)
def test_a_faulty_function_is_found_by_its_law(name, fault, law):
    test = getattr(laws_of_functions, f"test_{law}")
    if law == "memory_programs":
        test = partial(run_state_machine_as_test, laws_of_functions.MemoryPrograms)
    with mock.patch.object(functional, name, fault), pytest.raises(AssertionError):
        test()


def test_an_allocation_without_epsilon_is_found():
    test = laws_of_functions.test_allocation_of_a_free_memory_has_a_finite_gradient
    fault = mock.patch.object(functional, "allocation", allocation_without_epsilon)
    with fault, pytest.raises(AssertionError):
        test(torch.float32)


def test_a_power_that_underflows_is_found():
    test = laws_of_functions.test_sharpen_does_not_underflow
    fault = mock.patch.object(functional, "sharpen", sharpen_by_a_plain_power)
    with fault, pytest.raises(AssertionError):
        test(torch.float32)
