"""Every law is able to fail: parts and functions with one fault each, and the law that finds it."""

from functools import partial
from inspect import isabstract
from unittest import mock

import pytest
import torch
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from torch import nn

from memnets import encoders, fast, functional, testing
from memnets.addressing import Content, NTMAddressing
from memnets.cells import DenseBlock
from memnets.core import Controller, map_state
from memnets.memories import NTM
from memnets.memories.ntm import NTMState
from memnets.models import SNAIL, MemoryMachine, PointerNetwork, Seq2Seq, Transformer
from memnets.normalizers import Softmax
from memnets.scores import Additive, Cosine, Dot, ScaledDot
from memnets.testing import addressing, steps
from memnets.testing.laws import Subject
from memnets.training.objectives import Tokens
from tests.laws import test_functional as laws_of_functions

KEPT = "nothing is kept on self"
IN_PLACE = "inputs are never modified in place"
NEIGHBOURS = "batch neighbours never change a result"
SIMPLEX = "weights are rows >= 0 that sum to 1, or to 0 when nothing may be addressed"
MASKED = "a masked slot weighs exactly 0 and gets no gradient"
FINITE = "extreme inputs give finite numbers"
PERMUTATION = "weights go with their slots under permutation"
PADDING_SLOTS = "padding slots never change a result"
FULL_MASK = "a mask that leaves every slot is no mask"
HEADS = "a head among the queries is a head of the batch"
STATE_IN_PLACE = "a state is never modified in place"
BATCH_FIRST = "the batch comes first in a state"
PLACEMENT = "a first state has the precision and the device of its part"
PARAMETERS = "the gradient reaches every parameter"
CHUNKS = "all steps at once, one by one and in chunks give the same numbers"


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


def remembers(part, method="forward"):
    """Keeps what it gave."""

    @faulty(part, method)
    def remembering(self, *arguments):
        self.last = getattr(part, method)(self, *arguments)
        return self.last

    return remembering


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


# -- scores ---------------------------------------------------------------------------------------


@faulty(Dot)
def transposed_score(self, query, keys):
    return keys @ query.mT


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


SCORES = [
    ("the fast path and the plain one agree", fast_score_with_another_number),
    (KEPT, remembers(Dot)),
    (IN_PLACE, overwrites(Dot)),
    (NEIGHBOURS, centres(Dot, example_dims=2)),
    (PARAMETERS, idles(Dot)),
    ("scores are [*B, Q, N]", transposed_score),
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


NORMALIZERS = [
    (KEPT, remembers(Softmax)),
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


ADDRESSINGS = [
    (KEPT, remembers(DotContent)),
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
    (HEADS, weights_of_centred_queries),
    ("a read is the weights times the values", read_without_the_mask),
    ("a read is the weights times the values", read_with_another_scale),
    ("a read is the weights times the values", read_without_a_gradient),
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
def output_too_narrow(self, inputs, state):
    hidden, state = Recurrent.forward(self, inputs, state)
    return hidden[:, 1:], state


class TorchLayout(Recurrent):
    """Layers before the batch, as torch has it."""

    def initial_state(self, batch_size):
        return super().initial_state(batch_size).unsqueeze(0)

    def forward(self, inputs, state):
        hidden, state = super().forward(inputs, state.squeeze(0))
        return hidden, state.unsqueeze(0)


@faulty(Recurrent, "unroll")
def unroll_that_starts_anew(self, inputs, state):
    return Controller.unroll(self, inputs, torch.zeros_like(state))


@faulty(Recurrent, "unroll")
def unroll_that_cuts_the_gradient(self, inputs, state):
    outputs = []
    for step in inputs.unbind(1):
        hidden, state = self(step, state.detach())
        outputs.append(hidden)
    return torch.stack(outputs, 1), state


@faulty(Recurrent, "initial_state")
def first_state_of_single_precision(self, batch_size):
    return Recurrent.initial_state(self, batch_size).float()


CONTROLLERS = [
    (KEPT, remembers(Recurrent)),
    (KEPT, state_kept_on_self),
    (IN_PLACE, overwrites(Recurrent)),
    (NEIGHBOURS, centres(Recurrent)),
    (STATE_IN_PLACE, controller_in_place),
    (BATCH_FIRST, TorchLayout),
    (PARAMETERS, idles(Recurrent)),
    (CHUNKS, unroll_that_starts_anew),
    (CHUNKS, unroll_that_cuts_the_gradient),
    ("a step gives [B, hidden_size]", output_too_narrow),
    (PLACEMENT, first_state_of_single_precision),
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


class SlotsFirst(SmallNTM):
    """Slots before the batch."""

    def initial_state(self, batch_size):
        memory, weights = super().initial_state(batch_size)
        return NTMState(memory.transpose(0, 1), weights)

    def forward(self, interface, state):
        state = NTMState(state.memory.transpose(0, 1), state.weights)
        vectors, (memory, weights) = super().forward(interface, state)
        return vectors, NTMState(memory.transpose(0, 1), weights)


@faulty(SmallNTM)
def reads_too_little(self, interface, state):
    vectors, state = SmallNTM.forward(self, interface, state)
    return vectors[:, 1:], state


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


ACCESSES = [
    (KEPT, remembers(SmallNTM)),
    (KEPT, memory_kept_on_self),
    (IN_PLACE, overwrites(SmallNTM)),
    (NEIGHBOURS, centres(SmallNTM)),
    (STATE_IN_PLACE, memory_in_place),
    (BATCH_FIRST, SlotsFirst),
    (PARAMETERS, idles(SmallNTM)),
    ("a step gives [B, read_size]", reads_too_little),
    (FINITE, interface_without_a_range),
    ("the gradient reaches every part of the interface", interface_partly_unused),
    ("the fast path and the plain one agree", fast_path_with_another_number),
    ("the fast path and the plain one agree", fast_path_with_another_gradient),
    ("no parameter depends on the number of slots", SlotsLearnt),
    (PLACEMENT, first_state_on_the_cpu),
]


# -- models ---------------------------------------------------------------------------------------


class Machine(MemoryMachine):
    """The plainest of machines."""

    def __init__(self, controller=Recurrent):
        super().__init__(2, 2, controller)

    def encode(self, source, mask=None):
        return super().encode(source, mask).controller

    def decode(self, inputs, state):
        hidden, state = self.controller.unroll(inputs, state)
        return self.output(hidden), state


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


class SmallTransformer(Transformer):
    """One layer, on vectors."""

    def __init__(self):
        super().__init__(2, 2, width=4, heads=2, layers=1, hidden_size=4, dropout=0.0, tied=False)


class SmallSeq2Seq(Seq2Seq):
    """Bahdanau's, on vectors."""

    def __init__(self):
        encoder = partial(encoders.Recurrent, controller=Recurrent)
        attention = Content(Additive(4))
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
    self.blocks[2].addressing.normalizer = OverQueries()


def dense_block_trimmed_by_the_dilation(block, inputs, past=None, mask=None):
    """Padded by the whole reach, trimmed by the dilation: right for kernels of 2 only."""
    _, past = dense_block_before(block, inputs, past, mask)
    late = block.dilation * (block.kernel_size - 2)
    ahead, _ = dense_block_before(block, nn.functional.pad(inputs, (0, 0, 0, late)))
    return torch.cat([inputs, ahead[:, late:, block.input_size :]], -1), past


def dense_block_without_mask(block, inputs, past=None, mask=None):
    return dense_block_before(block, inputs, past)


dense_block_before = DenseBlock.forward


def with_dense_block(forward):
    """A SNAIL all of whose convolutions are spoilt."""

    class Faulty(SmallSNAIL):
        def _run(self, *arguments):
            with mock.patch.object(DenseBlock, "forward", forward):
                return super()._run(*arguments)

    return type(forward.__name__, (Faulty,), {})


@faulty(SmallTransformer, "decode")
def causal_mask_aligned_to_the_start(self, inputs, state):
    def aligned(steps, slots, device):
        return torch.ones(steps, slots, dtype=torch.bool).tril()

    with mock.patch("memnets.models.transformer.causal_mask", aligned):
        return SmallTransformer.decode(self, inputs, state)


@faulty(SmallTransformer, "decode")
def cache_kept_on_self(self, inputs, state):
    if state.slots[0].keys.shape[2]:
        state = state._replace(slots=self.cache)
    logits, state = SmallTransformer.decode(self, inputs, state)
    self.cache = state.slots
    return logits, state


@faulty(SmallSeq2Seq, "encode")
def attention_to_padding(self, source, mask=None):
    state = SmallSeq2Seq.encode(self, source, mask)
    return state._replace(memory=state.memory._replace(mask=None))


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

MODELS = [
    (KEPT, remembers(Machine, "decode")),
    (IN_PLACE, overwrites(Machine, "decode")),
    (NEIGHBOURS, centres(Machine, "decode", example_dims=2)),
    (STATE_IN_PLACE, partial(Machine, controller_in_place)),
    (BATCH_FIRST, partial(Machine, TorchLayout)),
    ("the gradient of the loss reaches every parameter", idles(Machine)),
    (CHUNKS, places_that_start_anew),
    ("the future is never seen", outputs_that_see_the_future),
    ("padding never changes a result", source_mask_ignored),
    ("the same seed gives the same numbers", parameters_from_elsewhere),
    ("one batch can be learnt by heart", a_loss_turned_round),
    (CHUNKS, causal_mask_aligned_to_the_start),
    (KEPT, cache_kept_on_self),
    ("padding never changes a result", attention_to_padding),
    ("the future is never seen", attention_normalised_over_the_queries),
    ("the future is never seen", with_dense_block(dense_block_trimmed_by_the_dilation)),
    ("padding never changes a result", with_dense_block(dense_block_without_mask)),
]

FAULTS = {
    testing.check_score: SCORES,
    testing.check_normalizer: NORMALIZERS,
    testing.check_addressing: ADDRESSINGS,
    testing.check_controller: CONTROLLERS,
    testing.check_access: ACCESSES,
    testing.check_model: MODELS,
    testing.check_pointer: POINTERS,
}


def name(part):
    return getattr(part, "__name__", None)


@pytest.mark.parametrize(
    ("check", "law", "part"),
    [(check, law, part) for check, faults in FAULTS.items() for law, part in faults],
    ids=name,
)
def test_a_faulty_part_is_found_by_its_law(check, law, part):
    settings = {}
    if check is testing.check_model:
        settings = {"overfit_steps": 20 * law.startswith("one batch")}
    if check is testing.check_pointer:
        settings = {"overfit_steps": 0, "symmetry": "permutation"}
    with pytest.raises(AssertionError) as error:
        check(part, **settings)
    assert f"law {law!r}" in str(error.value)


@pytest.mark.parametrize(
    ("check", "part"),
    [
        (testing.check_score, Dot),
        (testing.check_normalizer, Softmax),
        (testing.check_addressing, DotContent),
        (testing.check_controller, Recurrent),
        (testing.check_access, SmallNTM),
        (testing.check_model, Machine),
        (testing.check_model, SmallTransformer),
        (testing.check_model, SmallSeq2Seq),
        (testing.check_model, SmallSNAIL),
        (partial(testing.check_pointer, symmetry="permutation"), SmallPointer),
    ],
)
def test_the_parts_that_were_spoilt_keep_every_law(check, part):
    check(part)


def test_rotation_finds_a_shift_that_drops_mass_at_the_edges():
    law = "law 'weights go with their slots under rotation'"
    with pytest.raises(AssertionError, match=law):
        testing.check_addressing(
            a_shift_that_starts_at_slot_0, query=testing.ntm_queries, symmetry="rotation"
        )


def test_every_law_has_a_fault():
    kinds = {
        testing.check_score: addressing._ScoreSubject,
        testing.check_normalizer: addressing._NormalizerSubject,
        testing.check_addressing: addressing._AddressingSubject,
        testing.check_controller: steps._ControllerSubject,
        testing.check_access: steps._AccessSubject,
        testing.check_model: steps._ModelSubject,
        testing.check_pointer: steps._SetPointerSubject,
    }
    assert set(kinds.values()) >= concrete(Subject)
    everything = {law for faults in FAULTS.values() for law, _ in faults}
    for check, kind in kinds.items():
        laws = {getattr(kind, name).statement for name in kind.laws()}
        found = {law for law, _ in FAULTS[check]}
        # What a pointer shares with other models was spoilt there.
        found |= everything if check is testing.check_pointer else set()
        # It has a test of its own, above.
        assert laws - {"weights go with their slots under rotation"} <= found


def concrete(kind):
    kinds = {child for subclass in kind.__subclasses__() for child in concrete(subclass)}
    return kinds if isabstract(kind) or kinds else {kind}


def test_a_message_names_all_laws_that_broke():
    class Both(remembers(Dot)):
        def forward(self, query, keys):
            return super().forward(query, keys) + torch.arange(keys.shape[-2])

    with pytest.raises(AssertionError) as error:
        testing.check_score(Both)
    message = str(error.value)
    assert message.startswith(f"law '{KEPT}': last changed")
    assert "also law 'scores go with their slots under permutation'" in message


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
