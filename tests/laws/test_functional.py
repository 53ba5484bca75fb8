"""The laws of the functions, references of another make, and programs of reads and writes."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch.autograd import gradcheck

from memnets import functional, testing
from memnets.kernels.dnc import DNCKernel
from memnets.kernels.ntm import NTMKernel
from memnets.kernels.steps import LSTMWeights, run, step
from memnets.memories.dnc import DNCLayout
from memnets.memories.ntm import NTMLayout

counts = st.integers(1, 3)


def assert_close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def assert_equal(one, other):
    assert torch.equal(one, other), f"{one}\nis not {other}"


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


# -- from scores to weights -----------------------------------------------------------------------


def by_bisection(scores, weights_above):
    """The threshold of which the weights sum to 1, found by halving."""
    shifted = scores - scores.max(-1, keepdims=True)
    low, high = shifted.max(-1, keepdims=True) - 2, shifted.max(-1, keepdims=True)
    for _ in range(80):
        middle = (low + high) / 2
        too_much = weights_above(shifted, middle).sum(-1, keepdims=True) > 1
        low, high = np.where(too_much, middle, low), np.where(too_much, high, middle)
    return weights_above(shifted, low)


def softmax_reference(scores):
    exponential = np.exp(scores - scores.max(-1, keepdims=True))
    return exponential / exponential.sum(-1, keepdims=True)


def sparsemax_reference(scores):
    return by_bisection(scores, lambda z, threshold: np.maximum(z - threshold, 0))


def entmax15_reference(scores):
    # The maximum is not halved before it is taken off: 0 stays 0.
    return by_bisection(scores, lambda z, threshold: np.maximum(z / 2 - threshold, 0) ** 2)


@pytest.mark.parametrize(
    ("normalize", "reference"),
    [
        (functional.softmax, softmax_reference),
        (functional.sparsemax, sparsemax_reference),
        (functional.entmax15, entmax15_reference),
    ],
)
@given(data=st.data())
def test_normalizer_agrees_with_its_definition(normalize, reference, data):
    scores = data.draw(testing.tensors((2, data.draw(st.integers(1, 7)))))
    scores = scores * data.draw(st.sampled_from([1.0, 0.01, 10.0]))
    expected = torch.from_numpy(reference(scores.numpy()))
    torch.testing.assert_close(normalize(scores), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "normalize", [functional.softmax, functional.sparsemax, functional.entmax15]
)
@pytest.mark.parametrize("seed", range(3))
def test_normalizer_gradient(normalize, seed):
    assert gradcheck(normalize, random(3, 5, seed=seed).requires_grad_())


@pytest.mark.parametrize(
    "normalize", [functional.softmax, functional.sparsemax, functional.entmax15]
)
def test_no_score_weighs_nothing(normalize):
    scores = torch.tensor([[0.5, -torch.inf, 0.25]], requires_grad=True)
    weights = normalize(scores)
    assert weights[0, 1] == 0
    (gradient,) = torch.autograd.grad(weights[0, 0], scores)
    assert gradient.isfinite().all()


# -- scores ---------------------------------------------------------------------------------------


@given(testing.memories())
def test_cosine_is_a_cosine(memory):
    query = random(*memory.keys.shape[:-2], 2, memory.keys.shape[-1])
    cosine = functional.cosine_similarity(query, memory.keys)
    assert (cosine.abs() <= 1 + 1e-12).all()
    expected = torch.nn.functional.cosine_similarity(
        query.unsqueeze(-2), memory.keys.unsqueeze(-3), -1
    )
    # Equal but for epsilon, where a length is near 0.
    long = (memory.keys.norm(dim=-1) > 1e-1).unsqueeze(-2)
    assert ((cosine - expected).abs().masked_fill(~long, 0) < 1e-3).all()


def test_cosine_gradient():
    inputs = (random(2, 3, 4).requires_grad_(), random(2, 5, 4, seed=1).requires_grad_())
    assert gradcheck(functional.cosine_similarity, inputs)


def test_cosine_of_zero_rows_has_a_finite_gradient():
    query, keys = (torch.zeros(1, 2, 3, requires_grad=True) for _ in range(2))
    functional.cosine_similarity(query, keys).sum().backward()
    assert query.grad.isfinite().all()
    assert keys.grad.isfinite().all()


# -- addressing by location -----------------------------------------------------------------------


@given(st.data())
def test_gate_0_keeps_and_gate_1_ignores(data):
    shape = (2, data.draw(counts), data.draw(st.integers(1, 6)))
    content, previous, other = (data.draw(testing.weights(shape)) for _ in range(3))
    closed, open_gate = torch.zeros(*shape[:2], 1), torch.ones(*shape[:2], 1)
    closed, open_gate = closed.double(), open_gate.double()
    assert_equal(functional.interpolate(content, previous, closed), previous)
    assert_equal(functional.interpolate(content, previous, open_gate), content)
    assert_equal(functional.interpolate(content, other, open_gate), content)
    gate = data.draw(testing.tensors((*shape[:2], 1), low=0.0, high=1.0))
    mixed = functional.interpolate(content, previous, gate)
    assert_close(mixed, gate * content + (1 - gate) * previous)


@st.composite
def shifts(draw):
    """Weights, and a kernel that fits them."""
    slots = draw(st.integers(1, 7))
    size = draw(st.sampled_from([size for size in (1, 3, 5, 7) if size <= slots]))
    batch = draw(testing.shapes())
    weights = draw(testing.weights((*batch, 2, slots)))
    return weights, draw(testing.shift_kernels((*batch, 2, size)))


def one_hot_kernel(weights, move, size):
    kernel = weights.new_zeros(*weights.shape[:-1], size)
    kernel[..., size // 2 + move] = 1.0
    return kernel


@given(shifts())
def test_shift_keeps_the_mass(drawn):
    weights, kernel = drawn
    moved = functional.shift(weights, kernel)
    assert (moved >= 0).all()
    assert_close(moved.sum(-1), weights.sum(-1))


@given(shifts(), st.integers(-3, 3))
def test_shift_commutes_with_rotation(drawn, turn):
    weights, kernel = drawn
    rotated = functional.shift(weights.roll(turn, -1), kernel)
    assert_close(rotated, functional.shift(weights, kernel).roll(turn, -1))


@given(shifts(), st.data())
def test_shift_by_a_whole_step_is_a_rotation(drawn, data):
    weights, kernel = drawn
    size = kernel.shape[-1]
    move = data.draw(st.integers(-(size // 2), size // 2))
    moved = functional.shift(weights, one_hot_kernel(weights, move, size))
    assert_equal(moved, weights.roll(move, -1))


@given(st.data())
def test_shifts_compose(data):
    weights = data.draw(testing.weights((2, 1, 7)))
    first, second = (data.draw(testing.shift_kernels((2, 1, size))) for size in (3, 5))
    both = torch.zeros(2, 1, 7, dtype=torch.float64)
    for move in range(3):
        both[..., move : move + 5] += first[..., move : move + 1] * second
    twice = functional.shift(functional.shift(weights, first), second)
    assert_close(twice, functional.shift(weights, both))


@pytest.mark.parametrize("size", [1, 3, 5])
def test_shift_gradient(size):
    inputs = (random(2, 2, 5).requires_grad_(), random(2, 2, size, seed=1).requires_grad_())
    assert gradcheck(functional.shift, inputs)


@pytest.mark.parametrize("size", [2, 7])
def test_shift_refuses_a_kernel_that_does_not_fit(size):
    with pytest.raises(ValueError, match=f"got size {size} for 5 slots"):
        functional.shift(torch.ones(1, 1, 5), torch.ones(1, 1, size))


sharpnesses = testing.tensors((2, 2, 1), low=1.0, high=4.0)


@given(st.data(), sharpnesses, sharpnesses)
def test_sharpenings_compose(data, first, second):
    weights = data.draw(testing.weights((2, 2, data.draw(st.integers(1, 6)))))
    twice = functional.sharpen(functional.sharpen(weights, first), second)
    assert_close(twice, functional.sharpen(weights, first * second))


@given(st.data())
def test_sharpness_1_changes_nothing(data):
    weights = data.draw(testing.weights((2, 2, data.draw(st.integers(1, 6)))))
    ones = torch.ones(2, 2, 1, dtype=torch.float64)
    assert_close(functional.sharpen(weights, ones), weights)


@given(st.data(), sharpnesses)
def test_sharpen_is_a_power(data, sharpness):
    weights = data.draw(testing.weights((2, 2, data.draw(st.integers(1, 6)))))
    power = weights**sharpness
    assert_close(functional.sharpen(weights, sharpness), power / power.sum(-1, keepdim=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sharpen_does_not_underflow(dtype):
    weights = torch.full((1, 1, 128), 1 / 128, dtype=dtype, requires_grad=True)
    sharpness = torch.full((1, 1, 1), 30.0, dtype=dtype, requires_grad=True)
    sharp = functional.sharpen(weights, sharpness)
    assert (sharp.double() - 1 / 128).abs().max() < 1e-3 / 128
    gradient, _ = torch.autograd.grad(sharp[0, 0, 0].float(), (weights, sharpness))
    assert gradient.isfinite().all()
    assert gradient[0, 0, 0] > 1


def test_sharpen_gradient():
    weights = random(2, 2, 5).softmax(-1).requires_grad_()
    sharpness = torch.tensor([1.0, 3.0], dtype=torch.float64).view(1, 2, 1).requires_grad_()
    assert gradcheck(functional.sharpen, (weights, sharpness))


# -- addressing by usage --------------------------------------------------------------------------


@st.composite
def usages(draw, least=1):
    """u ``[*B, N]`` in [0, 1], in which 0, 1 and equal numbers are common."""
    slots = draw(st.integers(least, 7))
    return draw(testing.tensors((*draw(testing.shapes()), slots), low=0.0, high=1.0))


@given(usages())
def test_allocation_leaves_what_no_slot_has_free(usage):
    allocation = functional.allocation(usage)
    assert (allocation >= 0).all()
    assert (allocation[usage == 1] == 0).all()
    assert_close(allocation.sum(-1), 1 - (1e-6 + (1 - 1e-6) * usage).prod(-1))


@given(usages())
def test_allocation_agrees_with_its_definition(usage):
    allocation = functional.allocation(usage, epsilon=0.0)
    rows, slots = allocation[..., 0].numel(), usage.shape[-1]
    for row, expected in zip(usage.view(rows, slots), allocation.view(rows, slots), strict=True):
        weights, used = torch.zeros_like(row), 1.0
        for slot in sorted(range(len(row)), key=lambda slot: row[slot].item()):
            weights[slot] = (1 - row[slot]) * used
            used *= row[slot].item()
        assert_close(weights, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_allocation_of_a_free_memory_has_a_finite_gradient(dtype):
    usage = torch.zeros(1, 20, dtype=dtype, requires_grad=True)
    allocation = functional.allocation(usage)
    assert allocation[0, 0].item() == pytest.approx(1, abs=1e-5)
    (gradient,) = torch.autograd.grad(allocation[0, 1].float(), usage)
    assert gradient.isfinite().all()
    assert gradient[0, 0].item() == pytest.approx(1, abs=1e-2)


@given(st.data())
def test_usage_stays_in_its_range(data):
    previous = data.draw(usages())
    written, kept = (data.draw(testing.tensors(previous.shape, low=0.0, high=1.0)) for _ in "ab")
    usage = functional.usage(previous, written, kept)
    assert ((usage >= 0) & (usage <= 1)).all()
    nothing, all_kept = torch.zeros_like(written), torch.ones_like(kept)
    assert_equal(functional.usage(previous, nothing, all_kept), previous)
    assert_equal(functional.usage(previous, torch.ones_like(written), all_kept), all_kept)
    assert_equal(functional.usage(previous, written, torch.zeros_like(kept)), nothing)
    assert_close(usage, (previous + written - previous * written) * kept)


@given(st.data(), counts)
def test_a_slot_is_freed_by_a_gate_and_a_read(data, heads):
    slots = data.draw(st.integers(1, 5))
    weights = data.draw(testing.weights((2, heads, slots)))
    gates = data.draw(testing.tensors((2, heads, 1), low=0.0, high=1.0))
    kept = functional.retention(weights, gates)
    expected = np.prod([1 - gates[:, h].numpy() * weights[:, h].numpy() for h in range(heads)], 0)
    assert_close(kept, torch.from_numpy(expected))
    assert_equal(
        functional.retention(weights, torch.zeros_like(gates)), torch.ones(2, slots).double()
    )
    one_hot = torch.nn.functional.one_hot(weights.argmax(-1), slots).double()
    freed = functional.retention(one_hot, torch.ones_like(gates))
    assert_equal(freed, 1 - one_hot.amax(-2))


@given(st.data(), counts)
def test_write_gates_choose(data, heads):
    shape = (2, heads, data.draw(st.integers(1, 5)))
    content, allocation = (data.draw(testing.weights(shape)) for _ in "ab")
    shut, wide = torch.zeros(2, heads, 1).double(), torch.ones(2, heads, 1).double()
    weigh = functional.write_weighting
    assert_equal(weigh(content, allocation, wide, wide), allocation)
    assert_equal(weigh(content, allocation, shut, wide), content)
    assert_equal(weigh(content, allocation, wide, shut), torch.zeros_like(content))


@given(st.data())
def test_least_used_slots_are_those_of_least_usage(data):
    usage = data.draw(usages(least=2))
    count = data.draw(st.integers(1, usage.shape[-1]))
    chosen = functional.least_used(usage, count)
    assert chosen.shape == (*usage.shape[:-1], count, usage.shape[-1])
    assert_equal(chosen.sum(-1), torch.ones(chosen.shape[:-1]).double())
    assert (chosen.sum(-2) <= 1).all()
    least = usage.sort(dim=-1).values[..., :count]
    assert_equal((chosen * usage.unsqueeze(-2)).sum(-1), least)


@given(st.data(), counts, st.floats(0, 1))
def test_a_slot_of_an_lrua_is_used_by_each_head_that_reads_or_writes(data, heads, decay):
    previous = data.draw(usages())
    shape = (*previous.shape[:-1], heads, previous.shape[-1])
    read, written = (data.draw(testing.weights(shape)) for _ in "ab")
    nothing = torch.zeros_like(read)
    assert_equal(functional.decayed_usage(previous, nothing, nothing, decay), decay * previous)
    usage = functional.decayed_usage(previous, read, written, decay)
    expected = decay * previous
    for head in range(heads):
        expected = expected + read[..., head, :] + written[..., head, :]
    assert_close(usage, expected)


@given(st.data(), counts)
def test_emptied_slots_hold_what_is_written_alone(data, heads):
    slots, width = data.draw(st.integers(heads, heads + 3)), data.draw(st.integers(1, 3))
    memory = data.draw(testing.tensors((2, slots, width), special=False))
    add = data.draw(testing.tensors((2, heads, width), special=False))
    usage = data.draw(testing.tensors((2, slots), low=0.0, high=1.0))
    emptied = functional.least_used(usage, heads)
    found = functional.empty_add(memory, emptied, emptied, add)
    assert_equal(found.gather(1, emptied.argmax(-1, keepdim=True).expand(-1, -1, width)), add)
    others = emptied.sum(-2) == 0
    assert_equal(found[others], memory[others])


# -- addressing by the order of writing -----------------------------------------------------------


@st.composite
def written(draw, shape):
    """Weights of a write head, which sum to at most 1."""
    gate = draw(testing.tensors((*shape[:-1], 1), low=0.0, high=1.0))
    return gate * draw(testing.weights(shape))


def linked(writes):
    """Links and precedence after some writes, from none."""
    precedence = torch.zeros_like(writes[0])
    link = torch.zeros(*precedence.shape, precedence.shape[-1], dtype=torch.float64)
    for weights in writes:
        link = functional.link(link, precedence, weights)
        precedence = functional.precedence(precedence, weights)
    return link, precedence


@given(st.data())
def test_links_are_weights_and_no_slot_follows_itself(data):
    shape = (2, data.draw(st.integers(1, 5)))
    link, precedence = linked([data.draw(written(shape)) for _ in range(4)])
    for weights in (link, precedence):
        assert (weights > -1e-12).all()
        assert (weights.sum(-1) <= 1 + 1e-12).all()
    assert (link.sum(-2) <= 1 + 1e-12).all()
    assert_equal(link.diagonal(dim1=-2, dim2=-1), torch.zeros(shape).double())


@given(st.data())
def test_links_agree_with_their_definition(data):
    slots = data.draw(st.integers(1, 4))
    writes = [data.draw(written((1, slots))) for _ in range(4)]
    expected, last = np.zeros((slots, slots)), np.zeros(slots)
    for (weights,) in [weights.numpy() for weights in writes]:
        before = expected.copy()
        for i in range(slots):
            for j in range(slots):
                kept = (1 - weights[i] - weights[j]) * before[i, j]
                expected[i, j] = 0.0 if i == j else kept + weights[i] * last[j]
        last = (1 - weights.sum()) * last + weights
    link, precedence = linked(writes)
    assert_close(link[0], torch.from_numpy(expected))
    assert_close(precedence[0], torch.from_numpy(last))


@given(st.permutations(range(5)), st.integers(1, 5))
def test_links_lead_along_the_order_of_writing_and_back(order, count):
    places = torch.eye(5, dtype=torch.float64)[order[:count]]
    link, precedence = linked([place.unsqueeze(0) for place in places])
    assert_equal(precedence[0], places[-1])
    for before, after in itertools.pairwise(places):
        assert_equal(functional.forward_weighting(link, before.view(1, 1, 5))[0, 0], after)
        assert_equal(functional.backward_weighting(link, after.view(1, 1, 5))[0, 0], before)
    assert not functional.forward_weighting(link, places[-1].view(1, 1, 5)).any()
    assert not functional.backward_weighting(link, places[0].view(1, 1, 5)).any()


@given(st.data())
def test_a_write_of_nothing_leaves_the_order(data):
    shape = (2, data.draw(st.integers(1, 5)))
    link, precedence = linked([data.draw(written(shape)) for _ in range(3)])
    nothing = torch.zeros(shape).double()
    assert_equal(functional.link(link, precedence, nothing), link)
    assert_equal(functional.precedence(precedence, nothing), precedence)


@given(st.data(), counts)
def test_read_modes_are_back_content_and_on(data, heads):
    shape = (2, heads, data.draw(st.integers(1, 5)))
    parts = [data.draw(testing.weights(shape)) for _ in range(3)]
    for mode, part in enumerate(parts):
        modes = torch.eye(3, dtype=torch.float64)[mode].expand(2, heads, 3)
        assert_equal(functional.read_weighting(*parts, modes), part)
    modes = data.draw(testing.weights((2, heads, 3)))
    mixed = sum(modes[..., i : i + 1] * parts[i] for i in range(3))
    assert_close(functional.read_weighting(*parts, modes), mixed)


# -- reading and writing --------------------------------------------------------------------------


@given(testing.memories(), st.data())
def test_read_of_one_slot_returns_its_value(memory, data):
    slot = data.draw(st.integers(0, memory.values.shape[-2] - 1))
    weights = torch.zeros(*memory.values.shape[:-2], 1, memory.values.shape[-2]).double()
    weights[..., slot] = 1.0
    vectors = functional.read(weights, memory.values)
    assert_equal(vectors, memory.values[..., slot : slot + 1, :])


@given(testing.memories(special=False), st.data())
def test_read_is_linear_and_inside_the_hull(memory, data):
    values, other = memory.values, random(*memory.values.shape, seed=1)
    weights = data.draw(testing.weights((*values.shape[:-2], 2, values.shape[-2])))
    vectors = functional.read(weights, values)
    mixed = functional.read(weights, 2 * values - 3 * other)
    assert_close(mixed, 2 * vectors - 3 * functional.read(weights, other))
    assert (vectors <= values.amax(-2, keepdim=True) + 1e-12).all()
    assert (vectors >= values.amin(-2, keepdim=True) - 1e-12).all()


@st.composite
def writes(draw, heads=counts, special=True):
    """A memory, and weights, erase and add of some heads."""
    heads, slots, width = draw(heads), draw(st.integers(2, 6)), draw(counts)
    batch = draw(testing.shapes())
    memory = draw(testing.tensors((*batch, slots, width), special=special))
    weights = draw(testing.weights((*batch, heads, slots)))
    erase = draw(testing.tensors((*batch, heads, width), low=0.0, high=1.0))
    return memory, weights, erase, draw(testing.tensors((*batch, heads, width), special=special))


@given(writes())
def test_write_of_weight_0_is_the_identity(drawn):
    memory, weights, erase, add = drawn
    assert_equal(functional.erase_add(memory, torch.zeros_like(weights), erase, add), memory)


@given(writes(), st.data())
def test_write_leaves_other_slots_bit_equal(drawn, data):
    memory, weights, erase, add = drawn
    untouched = data.draw(testing.masks((memory.shape[-2],)))
    weights = weights.masked_fill(untouched, 0.0)
    written = functional.erase_add(memory, weights, erase, add)
    assert_equal(written[..., untouched, :], memory[..., untouched, :])


@given(writes(special=False), st.data())
def test_disjoint_writes_commute(drawn, data):
    memory, weights, erase, add = drawn
    first_slots = data.draw(testing.masks((memory.shape[-2],)))
    first = weights.masked_fill(~first_slots, 0.0), erase, add
    second = weights.masked_fill(first_slots, 0.0).flip(-2), erase.flip(-2), add.flip(-2)
    one_way = functional.erase_add(functional.erase_add(memory, *first), *second)
    assert_equal(functional.erase_add(functional.erase_add(memory, *second), *first), one_way)
    together = [torch.cat(pair, -2) for pair in zip(first, second, strict=True)]
    assert_close(functional.erase_add(memory, *together), one_way)


@given(writes(heads=st.just(1)), st.data())
def test_what_is_written_is_read_back(drawn, data):
    memory, weights, erase, add = drawn
    weights, erase = torch.zeros_like(weights), torch.ones_like(erase)
    weights[..., data.draw(st.integers(0, memory.shape[-2] - 1))] = 1.0
    written = functional.erase_add(memory, weights, erase, add)
    assert_equal(functional.read(weights, written), add)


@given(writes(special=False), st.randoms(use_true_random=False))
def test_heads_write_in_any_order(drawn, shuffler):
    memory, *heads = drawn
    order = list(range(heads[0].shape[-2]))
    shuffler.shuffle(order)
    shuffled = [part[..., order, :] for part in heads]
    assert_close(functional.erase_add(memory, *shuffled), functional.erase_add(memory, *heads))


@given(writes(special=False))
def test_heads_erase_before_any_adds(drawn):
    memory, weights, erase, add = drawn
    expected = memory.numpy().copy()
    for head in range(weights.shape[-2]):
        expected *= 1 - weights[..., head, :, None].numpy() * erase[..., head, None, :].numpy()
    for head in range(weights.shape[-2]):
        expected += weights[..., head, :, None].numpy() * add[..., head, None, :].numpy()
    assert_close(functional.erase_add(memory, weights, erase, add), torch.from_numpy(expected))


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_write_gradient(heads):
    inputs = [
        random(2, 4, 3),
        random(2, heads, 4, seed=1).softmax(-1),
        random(2, heads, 3, seed=2).sigmoid(),
        random(2, heads, 3, seed=3),
    ]
    assert gradcheck(functional.erase_add, [part.requires_grad_() for part in inputs])


@given(testing.memories(), counts)
def test_append_keeps_every_bit(memory, count):
    rows = random(*memory.keys.shape[:-2], count, memory.keys.shape[-1])
    grown = functional.append(memory.keys, rows)
    assert_equal(grown[..., :-count, :], memory.keys)
    assert_equal(grown[..., -count:, :], rows)


# -- the kernel of the NTM ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout",
    [
        NTMLayout(1, 1, 2, 3),
        NTMLayout(1, 1, 2, 1),
        NTMLayout(2, 2, 2, 3),
        NTMLayout(1, 3, 1, 5),
    ],
)
def test_ntm_kernel_gradient(layout):
    heads, slots = layout.read_heads + layout.write_heads, 5
    interface = random(2, sum(layout.sizes)).requires_grad_()
    memory = random(2, slots, layout.width, seed=1).requires_grad_()
    weights = random(2, heads, slots, seed=2).softmax(-1).requires_grad_()

    def run(interface, *state):
        vectors, state = step(NTMKernel(layout, 1e-6), interface, state)
        return vectors, *state

    assert gradcheck(run, (interface, memory, weights), nondet_tol=0.0)


# -- the kernel of the DNC ------------------------------------------------------------------------


def dnc_state(slots, reads, width, writes=3, dtype=torch.float64):
    """A state of the DNC after some writes, with usages that differ."""
    link, precedence = linked([0.9 * random(2, slots, seed=n).softmax(-1) for n in range(writes)])
    return [
        tensor.to(dtype).requires_grad_()
        for tensor in (
            random(2, slots, width, seed=4),
            random(2, slots, seed=5).sigmoid(),
            precedence,
            link,
            0.8 * random(2, slots, seed=6).softmax(-1),
            random(2, reads, slots, seed=7).softmax(-1),
        )
    ]


@pytest.mark.parametrize("layout", [DNCLayout(1, 2), DNCLayout(3, 2)])
def test_dnc_kernel_gradient(layout):
    interface = random(2, sum(layout.sizes)).requires_grad_()
    state = dnc_state(4, *layout)

    def run(interface, *state):
        vectors, state = step(DNCKernel(layout, 1e-6), interface, state)
        return vectors, *state

    assert gradcheck(run, (interface, *state), nondet_tol=0.0)


def test_gradient_of_a_run_as_one_node():
    layout, size, width = DNCLayout(2, 2), 3, 2
    state = dnc_state(4, *layout)
    interface = torch.nn.Linear(size, sum(layout.sizes), dtype=torch.float64)
    read_size = layout.read_heads * layout.width
    shapes = [(4 * size, width + read_size), (4 * size, size), (4 * size,), (4 * size,)]
    shapes += [(2, 3, width), (2, size + read_size), (2, size)]
    tensors = [random(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]

    def whole(*tensors):
        weights, (inputs, feature, cell, *state) = LSTMWeights(*tensors[:4]), tensors[4:]
        kernel = DNCKernel(layout, 1e-6)
        features, cell, state = run(kernel, weights, interface, inputs, feature, cell, state)
        return features, cell, *state

    assert gradcheck(whole, (*tensors, *state), nondet_tol=0.0, fast_mode=True)


def test_dnc_kernel_gradient_in_single_precision_where_nothing_is_used():
    layout, gradients = DNCLayout(1, 2), []
    for dtype in (torch.float64, torch.float32):
        interface = random(2, sum(layout.sizes)).to(dtype).requires_grad_()
        state = [0 * tensor for tensor in dnc_state(30, *layout, dtype=dtype)]
        state[1] = (state[1] + 1e-6 * torch.arange(30)).detach().requires_grad_()
        _, (memory, *_) = step(DNCKernel(layout, 1e-6), interface, state)
        gradients.append(torch.autograd.grad(memory[:, 1].sum(), (interface, state[1])))
    for double, single in zip(*gradients, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4)


# -- programs of reads and writes -----------------------------------------------------------------


class MemoryPrograms(RuleBasedStateMachine):
    """Any program of writes, appends and reads leaves the same memory as plain loops in NumPy."""

    @initialize(batch=counts, slots=st.integers(1, 4), width=counts, seed=testing.seeds())
    def start(self, batch, slots, width, seed):
        self.memory = random(batch, slots, width, seed=seed)
        self.expected = self.memory.numpy().copy()

    def draw(self, data, heads):
        batch, slots, width = self.memory.shape
        weights = data.draw(testing.weights((batch, heads, slots)), label="weights")
        erase = data.draw(testing.tensors((batch, heads, width), low=0.0, high=1.0), label="erase")
        add = data.draw(testing.tensors((batch, heads, width), special=False), label="add")
        return weights, erase, add

    @rule(data=st.data(), heads=counts)
    def write(self, data, heads):
        weights, erase, add = self.draw(data, heads)
        self.memory = functional.erase_add(self.memory, weights, erase, add)
        batch, slots, width = self.expected.shape
        old, new = self.expected, np.empty_like(self.expected)
        for b in range(batch):
            for slot in range(slots):
                for column in range(width):
                    kept = old[b, slot, column]
                    added = 0.0
                    for head in range(heads):
                        weight = weights[b, head, slot].item()
                        kept *= 1 - weight * erase[b, head, column].item()
                        added += weight * add[b, head, column].item()
                    new[b, slot, column] = kept + added
        self.expected = new

    @rule(count=counts, seed=testing.seeds())
    def append(self, count, seed):
        rows = random(len(self.memory), count, self.memory.shape[-1], seed=seed)
        self.memory = functional.append(self.memory, rows)
        self.expected = np.concatenate([self.expected, rows.numpy()], axis=1)

    @rule(data=st.data(), heads=counts)
    def read(self, data, heads):
        weights, _, _ = self.draw(data, heads)
        vectors = functional.read(weights, self.memory)
        expected = np.einsum("bhn,bnw->bhw", weights.numpy(), self.expected)
        assert_close(vectors, torch.from_numpy(expected))

    @rule(data=st.data(), slot=st.integers(0, 100))
    def replace(self, data, slot):
        slot %= self.memory.shape[1]
        weights, erase, add = self.draw(data, 1)
        weights = torch.zeros_like(weights)
        weights[..., slot] = 1.0
        self.memory = functional.erase_add(self.memory, weights, torch.ones_like(erase), add)
        self.expected = self.expected.copy()
        self.expected[:, slot] = add[:, 0].numpy()
        assert_equal(functional.read(weights, self.memory), add)

    @invariant()
    def agrees(self):
        if hasattr(self, "memory"):
            assert_close(self.memory, torch.from_numpy(self.expected))


test_memory_programs = MemoryPrograms.TestCase
