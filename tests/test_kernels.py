"""Fast twins at the sizes where they change their ways; the laws try small ones."""

import threading
import time
from functools import partial

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import prune

from memnets import fast, functional
from memnets.addressing import Content
from memnets.batches import Batch
from memnets.cells import (
    GRU,
    LSTM,
    LSTMN,
    AttentionBlock,
    Chain,
    FeedForward,
    Loop,
    TransformerLayer,
)
from memnets.core import Memory
from memnets.encoders import Recurrent
from memnets.kernels import additive, append, attention, loss, snail
from memnets.memories import DNC, LRUA, NTM, Tape
from memnets.models import SNAIL, MemoryMachine, Seq2Seq
from memnets.normalizers import Entmax15
from memnets.scores import Additive, Concat, Dot, ScaledDot

# PyTorch's own, of its forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((3, 2, 4, 8), id="all in one block"),
        pytest.param((40, 5, 7, 16), id="some rows to a block"),
        pytest.param((3, 9, 50, 16), id="a row in several blocks"),
        pytest.param((2, 3, 300, 16), id="a query larger than a block"),
        pytest.param((3, 1, 4, 8), id="one query"),
        pytest.param((0, 3, 4, 8), id="no rows"),
        pytest.param((2, 0, 4, 8), id="no queries"),
    ],
)
@pytest.mark.parametrize("score", [Additive, Concat])
def test_the_additive_score_in_blocks_is_the_plain_one(score, shape, monkeypatch):
    monkeypatch.setattr(additive, "_BLOCK", 1 << 12)
    batch, queries, slots, width = shape
    torch.manual_seed(0)
    part = score(width).double()
    query = torch.randn(batch, queries, width, dtype=torch.double, requires_grad=True)
    keys = torch.randn(batch, slots, width, dtype=torch.double, requires_grad=True)
    weigh = torch.randn(batch, queries, slots, dtype=torch.double)
    sources = [query, keys, *part.parameters()]

    def run():
        given = part(query, keys)
        return given, *torch.autograd.grad((given * weigh).sum(), sources)

    quick = run()
    with fast.naive():
        plain = run()
    torch.testing.assert_close(quick, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rows", [1, 7, 40])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_in_blocks_of_rows_is_the_plain_one(rows, smoothing, monkeypatch):
    monkeypatch.setattr(loss, "_BLOCK", 3 * loss._LEAST + 5)
    torch.manual_seed(0)
    logits = (9 * torch.randn(rows, loss._LEAST + 1, dtype=torch.double)).requires_grad_()
    targets, weigh = torch.randint(loss._LEAST, (rows,)), torch.randn(rows, dtype=torch.double)
    if not smoothing:
        # A pointer's logits are -inf at what it cannot point to.
        with torch.no_grad():
            logits[:, -1] = -torch.inf

    def run():
        losses = functional.cross_entropy(logits, targets, smoothing)
        return losses, torch.autograd.grad((losses * weigh).sum(), logits)

    quick = run()
    with fast.naive():
        torch.testing.assert_close(quick, run(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("attend", ["before", "after"])
@pytest.mark.parametrize("input_feeding", [False, True])
def test_dropout_of_a_run_is_that_of_its_steps(attend, input_feeding):
    torch.manual_seed(0)
    model = Seq2Seq(
        5, 5, partial(Recurrent, controller=partial(GRU, hidden_size=4)),
        partial(GRU, hidden_size=6), Content(Additive(6)), width=8, key_size=6, attend=attend,
        input_feeding=input_feeding, dropout=0.5,
    ).double()  # fmt: skip
    source, embedded = torch.randint(5, (3, 4)), torch.randn(3, 7, 8, dtype=torch.double)

    def run():
        model.zero_grad()
        torch.manual_seed(1)
        features, state = model.unroll(embedded, model.encode(source))
        features.sin().sum().backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        return features, state.hidden, [each for each in gradients if each is not None]

    quick = run()
    with fast.naive():
        torch.testing.assert_close(quick, run(), rtol=1e-10, atol=1e-10)
    share = (quick[0] == 0).double().mean().item()
    assert share == pytest.approx(0.5, abs=0.2)


def test_scores_of_large_entries_take_no_exponentials_of_them():
    query, keys = torch.tensor([[[1000.0], [-1000.0]]]), torch.tensor([[[-999.5], [1000.0]]])
    scores = additive.additive(query, keys, torch.ones(1))
    torch.testing.assert_close(scores, torch.tanh(query + keys.mT))
    # The largest that do take them, of both signs.
    query, keys = torch.tensor([[[40.0], [-40.0]]]), torch.tensor([[[-39.5], [40.0], [39.5]]])
    scores = additive.additive(query, keys, torch.ones(1))
    torch.testing.assert_close(scores, torch.tanh(query + keys.mT))


@pytest.fixture
def small_buffers(monkeypatch):
    """Small memories go into buffers too."""
    monkeypatch.setattr(append, "_SMALL", 0)
    monkeypatch.setattr(append, "_SMALL_IN_SEARCH", 0)


def grown(memory, count, start=0.0):
    """The memory after each of ``count`` appends, one slot at a time."""
    memories = [memory]
    for number in range(count):
        row = torch.full_like(memory[:, :1], start + number)
        memories.append(functional.append(memories[-1], row))
    return memories


def storage(tensor):
    return tensor.untyped_storage().data_ptr()


@pytest.mark.usefixtures("small_buffers")
def test_a_memory_that_grows_is_copied_a_few_times_alone():
    memories = grown(torch.randn(2, 1, 3), 100)
    assert len({storage(memory) for memory in memories[1:]}) <= 4
    for number, memory in enumerate(memories):
        assert memory.shape == (2, 1 + number, 3)
        assert (memory[:, 1:] == torch.arange(number).view(-1, 1)).all()


@pytest.mark.usefixtures("small_buffers")
def test_two_continuations_of_one_memory_do_not_meet():
    *_, trunk = grown(torch.randn(2, 1, 3), 20)
    before = trunk.clone()
    first, second = grown(trunk, 5, 100.0)[-1], grown(trunk, 5, 200.0)[-1]
    assert storage(first) == storage(trunk) != storage(second)
    for branch, start in ((first, 100.0), (second, 200.0)):
        assert branch[:, :21].equal(before)
        assert (branch[:, 21:] == start + torch.arange(5).view(-1, 1)).all()
    assert trunk.equal(before)


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize(
    "choose",
    [
        lambda memory: memory[:1],
        lambda memory: memory[:, :5],
        lambda memory: memory[:, 5:],
        lambda memory: memory[..., :2],
        lambda memory: memory[[1, 0, 0]],
        lambda memory: memory.transpose(0, 1),
        lambda memory: memory.double(),
        torch.clone,
        torch.detach,
    ],
)
def test_parts_of_a_memory_grow_apart_from_it(choose):
    *_, memory = grown(torch.randn(2, 1, 3), 10)
    before = memory.clone()
    part = choose(memory)
    row = torch.randn_like(part[:, :1])
    expected = torch.cat([part, row], 1)
    longer = functional.append(part, row)
    assert longer.equal(expected)
    assert memory.equal(before)
    *_, other = grown(memory, 3, 100.0)
    assert longer.equal(expected)
    assert other[:, :11].equal(before)


@pytest.mark.usefixtures("small_buffers")
def test_a_memory_grows_in_inference_mode_and_out_of_it():
    *_, memory = grown(torch.zeros(2, 1, 3), 4)
    with torch.inference_mode():
        *_, inside = grown(memory, 2, 4.0)
    *_, outside = grown(inside, 2, 6.0)
    assert (outside[:, 1:] == torch.arange(8).view(-1, 1)).all()


@pytest.mark.usefixtures("small_buffers")
def test_a_memory_made_in_inference_mode_grows_outside_of_it():
    row = torch.randn(2, 1, 3)
    with torch.inference_mode():
        memory = functional.append(torch.randn(2, 4, 3), row)
    assert torch.equal(functional.append(memory, row), torch.cat([memory, row], 1))


@pytest.mark.usefixtures("small_buffers")
def test_of_several_threads_one_takes_the_room_behind_a_memory(monkeypatch):
    memory = functional.append(torch.randn(2, 4, 3), torch.randn(2, 1, 3))
    rows = [torch.full((2, 1, 3), float(number)) for number in range(4)]
    together, found = threading.Barrier(len(rows)), {}

    class Slow(append._Buffer):
        __slots__ = ()

        def ends_with(self, memory, slots):
            fits = super().ends_with(memory, slots)
            time.sleep(0.02)  # time for another thread to ask the same
            return fits

    append._buffers[memory.untyped_storage()].__class__ = Slow

    def grow(number):
        together.wait()
        found[number] = functional.append(memory, rows[number])

    threads = [threading.Thread(target=grow, args=(number,)) for number in range(len(rows))]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for number, row in enumerate(rows):
        assert torch.equal(found[number], torch.cat([memory, row], 1))


class Adapted(nn.Linear):
    """A layer with an adapter, which a twin that reads the weights would leave out."""

    def forward(self, inputs):
        return super().forward(inputs) + 1


def hooked(layer):
    layer.register_forward_hook(lambda module, given, result: result + 1)


def pruned(layer):
    prune.l1_unstructured(layer, "weight", amount=0.5)
    with torch.no_grad():
        layer.weight_orig.mul_(2)  # as an optimizer does; the hook takes it over


def adapted(layer):
    layer.__class__ = Adapted


def normed(layer):
    nn.utils.parametrizations.weight_norm(layer)


@pytest.mark.parametrize("change", [hooked, pruned, adapted, normed])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Loop(3, partial(LSTM, hidden_size=6), NTM(slots=5, width=4)),
        lambda: Loop(3, partial(LSTM, hidden_size=6), DNC(slots=5, width=4)),
        lambda: Loop(3, partial(FeedForward, hidden_size=6), NTM(slots=5, width=4)),
        lambda: TransformerLayer(8, heads=2, hidden_size=8),
    ],
)
def test_twins_leave_a_changed_layer_to_the_definition(make, change):
    torch.manual_seed(0)
    part = make().eval()
    for layer in [one for one in part.modules() if type(one) is nn.Linear]:
        change(layer)
    inputs, state = torch.randn(2, 1, part.input_size), part.initial_state(2)
    with torch.no_grad():
        for _ in range(2):
            outputs, _ = part.unroll(inputs, state)
            with fast.naive():
                expected, state = part.unroll(inputs, state)
            torch.testing.assert_close(outputs, expected)
    assert fast.find(part, "unroll", inputs, state, None) is None


@pytest.mark.parametrize("controller", [LSTM, FeedForward])
@pytest.mark.parametrize("memory", [NTM, DNC])
def test_a_loop_of_unusual_inputs_is_the_plain_one(controller, memory):
    torch.manual_seed(0)
    loop = Loop(3, partial(controller, hidden_size=6), memory(slots=5, width=4))
    for inputs in (torch.randn(0, 4, 3), torch.randint(0, 2, (2, 1, 3))):
        state = loop.initial_state(len(inputs))
        outputs, _ = loop.unroll(inputs, state)
        with fast.naive():
            torch.testing.assert_close(outputs, loop.unroll(inputs, state)[0])
    loop.interface = nn.Linear(6, loop.access.input_size, bias=False)
    inputs = torch.randn(2, 4, 3)
    outputs, _ = loop.unroll(inputs, loop.initial_state(2))
    with fast.naive():
        torch.testing.assert_close(outputs, loop.unroll(inputs, loop.initial_state(2))[0])


@pytest.mark.usefixtures("small_buffers")
def test_what_a_step_has_saved_is_right_after_later_steps():
    start, row = torch.randn(2, 1, 3, requires_grad=True), torch.randn(2, 1, 3, requires_grad=True)

    def run():
        memory, total = start, 0.0
        for _ in range(20):
            memory = functional.append(memory, row * memory.square().mean(1, keepdim=True))
            total = total + memory.pow(3).sum()
        return torch.autograd.grad(total, [start, row])

    quick = run()
    with fast.naive():
        torch.testing.assert_close(quick, run())


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize(
    "make",
    [
        partial(LSTMN, 3, hidden_size=4),
        partial(Loop, 3, partial(LSTMN, hidden_size=4), Tape(width=3, score=Additive(3))),
        partial(Loop, 3, partial(LSTM, hidden_size=4), Tape(width=3, read_heads=2)),
    ],
)
def test_a_long_run_with_a_memory_that_grows_is_plain(make):
    torch.manual_seed(0)
    cell = make().double()
    inputs = torch.randn(2, 40, 3, dtype=torch.double, requires_grad=True)
    mask = torch.rand(2, 40) < 0.8

    def run():
        outputs, state = cell.unroll(inputs, cell.initial_state(2))
        # Two continuations of one state, and the first of them once more, its steps masked.
        more = [cell.unroll(inputs[:, :n], state)[0] for n in (5, 9, 5)]
        masked, _ = cell.unroll(inputs, state, mask)
        loss = sum(part.square().sum() for part in (outputs, *more, masked[mask]))
        return outputs, *more, *torch.autograd.grad(loss, [inputs, *cell.parameters()])

    quick = run()
    with fast.naive():
        plain = run()
    torch.testing.assert_close(quick, plain, rtol=1e-9, atol=1e-9)
    assert quick[1].equal(quick[3])


def test_blocks_cover_every_pair_once():
    for rows, queries, pairs in [(5, 3, 100), (7, 11, additive._BLOCK // 2), (2, 3, 10**6)]:
        seen = torch.zeros(rows, queries)
        for row, column in additive._blocks(rows, queries, pairs):
            seen[row, column] += 1
        assert (seen == 1).all()


@pytest.mark.parametrize("score", [Additive, Concat])
def test_the_additive_score_of_several_queries_takes_its_twin(score):
    for count in (1, 2, 3):
        query, keys = torch.randn(2, count, 4, requires_grad=True), torch.randn(2, 5, 4)
        by = score(4)(query, keys).grad_fn.next_functions[0][0]
        assert (by is not None and by.name() == "_AdditiveBackward") == (count > 1)


# -- gradients that are differentiated again, and transforms of functions ------------------------

MEMORIES = {
    "NTM": partial(NTM, 5, 3),
    "NTM of two heads": partial(NTM, 5, 3, 2, 2),
    "DNC": partial(DNC, 5, 3, 2),
    "LRUA": partial(LRUA, 5, 3, 2),
    "Tape": partial(Tape, 3),
    "no memory": lambda: None,
}
CONTROLLERS = {
    "LSTM": partial(LSTM, hidden_size=4),
    "GRU": partial(GRU, hidden_size=4),
    "LSTMN": partial(LSTMN, hidden_size=4),
    "FeedForward": partial(FeedForward, hidden_size=4),
    "Chain": partial(Chain, controllers=[FeedForward, partial(LSTM, hidden_size=4)]),
}


def machine(controller="LSTM", memory="NTM", **settings):
    torch.manual_seed(0)
    return MemoryMachine(3, 2, CONTROLLERS[controller], MEMORIES[memory](), **settings).double()


def numbers(*shape):
    return torch.randn(shape, dtype=torch.double, requires_grad=True)


def steps_of(memory):
    """Steps of a memory alone, from an interface and a memory."""
    access = MEMORIES[memory]().double()

    def run(interfaces, contents):
        state = access.initial_state(2)
        state = state._replace(memory=contents)
        total = 0
        for interface in interfaces.unbind(1):
            vectors, state = access(interface, state)
            total = total + vectors.sum()  # a gradient that depends on nothing
        return total

    return run, (numbers(2, 3, access.interface_size), numbers(2, 5, 3))


def whole_run(memory):
    model = machine(memory=memory)
    names, parameters = zip(*model.named_parameters(), strict=True)

    def run(inputs, *parameters):
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(model, named, (inputs,))[0].sum()

    return run, (numbers(2, 4, 3), *parameters)


def pairs(score):
    score = score(4).double()
    return lambda query, keys: score(query, keys).sum(), (numbers(2, 3, 4), numbers(2, 5, 4))


KERNELS = {
    **{f"steps of a {name}": partial(steps_of, name) for name in list(MEMORIES)[:3]},
    **{f"a whole run of a {name}": partial(whole_run, name) for name in list(MEMORIES)[:3]},
    "additive": partial(pairs, Additive),
    "concat": partial(pairs, Concat),
}


def second(function, sources):
    first = torch.autograd.grad(function(*sources), sources, create_graph=True, allow_unused=True)
    penalty = sum(part.square().sum() for part in first if part is not None)
    again = torch.autograd.grad(penalty, sources, allow_unused=True)
    return [
        torch.zeros_like(source) if part is None else part
        for part, source in zip((*first, *again), (*sources, *sources), strict=True)
    ]


@pytest.mark.parametrize("name", KERNELS)
def test_second_derivatives_are_those_of_the_plain_definitions(name):
    torch.manual_seed(0)
    function, sources = KERNELS[name]()
    quick = second(function, sources)
    with fast.naive():
        plain = second(function, sources)
    assert any(part.any() for part in plain[len(sources) :])
    torch.testing.assert_close(quick, plain, rtol=1e-8, atol=1e-10)


def test_second_derivatives_go_through_a_tensor_that_is_given_twice():
    # A first state holds one tensor of zeros for usage, precedence and weights alike.
    access = DNC(4, 2).double()
    state = access.initial_state(1)
    zeros = torch.rand(1, 4, dtype=torch.double, requires_grad=True)
    state = state._replace(usage=zeros, precedence=zeros, written=zeros)
    interface = numbers(1, access.interface_size)
    found = second(lambda *_: access(interface, state)[0].sum(), (interface, zeros))
    with fast.naive():
        plain = second(lambda *_: access(interface, state)[0].sum(), (interface, zeros))
    torch.testing.assert_close(found, plain, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("function", [functional.entmax15, functional.sparsemax])
def test_sparse_weights_have_derivatives_of_every_kind(function):
    torch.manual_seed(0)
    rows = numbers(3, 6)
    assert (function(rows) == 0).any()
    assert torch.autograd.gradcheck(function, (rows,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, (rows,))

    def cost(row):
        return function(row).square().sum()

    each = torch.func.vmap(torch.func.grad(cost))(rows)
    torch.testing.assert_close(each, torch.autograd.grad(cost(rows), rows)[0])


def test_a_step_that_cannot_be_taken_again_says_so():
    access = NTM(5, 3, noise=0.1).double()
    interface = numbers(2, access.interface_size)
    with pytest.raises(RuntimeError, match=r"had noise.*take the steps within memnets.naive"):
        second(lambda x: access.step(x, access.initial_state(2))[0].sum(), (interface,))
    access = NTM(5, 3).double()
    read = access.step(interface, access.initial_state(2))[0].sum()
    access.least_sharpness = 2.0
    with pytest.raises(RuntimeError, match="settings that changed since"):
        torch.autograd.grad(read, interface, create_graph=True)


def test_truncated_gradients_cannot_be_differentiated_again():
    model = machine(tbptt_steps=2)
    batch = Batch(*(torch.rand(2, 3, size, dtype=torch.double) for size in (3, 3, 2)))
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(model.loss(batch), parameters, create_graph=True)
    with pytest.raises(RuntimeError, match="set tbptt_steps=None"):
        sum(part.square().sum() for part in gradients).backward()

    def loss(*parameters):
        named = dict(zip(dict(model.named_parameters()), parameters, strict=True))
        calling = nn.Module()
        calling.model, calling.forward = model, lambda: model.loss(batch)
        named = {f"model.{name}": value for name, value in named.items()}
        return torch.func.functional_call(calling, named, ())

    with pytest.raises(RuntimeError, match=r"torch.func cannot see; set tbptt_steps=None"):
        torch.func.grad(loss)(*parameters)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_transforms_of_functions_take_the_plain_definitions(controller, memory):
    model = machine(controller, memory)
    inputs = numbers(2, 3, 3)

    def total(inputs):
        return model(inputs)[0].sum()

    (expected,) = torch.autograd.grad(total(inputs), inputs)
    torch.testing.assert_close(torch.func.grad(total)(inputs), expected)
    each = torch.func.vmap(torch.func.grad(lambda one: total(one.unsqueeze(0))))(inputs)
    torch.testing.assert_close(each, expected)
    direction = torch.randn_like(inputs)
    _, along = torch.func.jvp(total, (inputs,), (direction,))
    torch.testing.assert_close(along, (expected * direction).sum())
    with forward_ad.dual_level():
        dual = total(forward_ad.make_dual(inputs.detach(), direction))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, along.detach())


@pytest.mark.parametrize("block", [1, 3, 4, 9])
@pytest.mark.parametrize("apart", [False, True])
def test_the_attention_of_a_snail_in_blocks_is_that_of_its_steps(apart, block, monkeypatch):
    monkeypatch.setattr(snail, "BLOCK", block)
    torch.manual_seed(0)
    attentions = [(3, 2), (4, 3), (2, 4)]
    model = SNAIL(3, 2, max_length=9, attentions=attentions, filters=3).double()
    source, inputs = numbers(2, 5, 3), numbers(2, 4, 3)

    def run():
        batch = Batch(source, inputs, inputs)
        given = model.continuations(source, inputs, None) if apart else model.logits(batch)
        return given, *torch.autograd.grad(given.square().sum(), [source, *model.body.parameters()])

    quick = run()
    with fast.naive():
        plain = run()
    torch.testing.assert_close(quick, plain, rtol=1e-9, atol=1e-9)


def test_fused_attention_is_plain_under_transforms():
    content, keys, query = Content(Dot()), numbers(2, 5, 4), numbers(2, 3, 4)

    def total(query):
        return content.read(query, Memory(keys, keys), None)[0].square().sum()

    def hessian(of):
        return torch.autograd.functional.hessian(of, query)

    with fast.naive():
        expected = hessian(total)
    torch.testing.assert_close(torch.func.hessian(total)(query), expected)


CELLS = {
    # The gradient of what a block reads is a part of that of what it joins.
    "block of 69": lambda: AttentionBlock(69, 64, 64),
    "block of 72": lambda: AttentionBlock(72, 64, 64),
    "block of 3": lambda: AttentionBlock(3, 8, 8),
    "heads": lambda: TransformerLayer(16, 2, 8, dropout=0.0),
    # Its query is a part of its interface, and a GRU's steps are not those of one C++ operator.
    "tape": lambda: Loop(3, partial(GRU, hidden_size=5), Tape(width=8)),
    "no whole words": lambda: AttentionBlock(3, 3, 3),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 7, 16])
@pytest.mark.parametrize("name", CELLS)
def test_kernels_of_a_gpu_are_given_whole_words(name, steps, masked, dtype, monkeypatch):
    """Tried on a CPU: what is handed to PyTorch's attention, and to its backward pass."""
    real, seen = nn.functional.scaled_dot_product_attention, []

    def watched(*tensors, **named):
        vectors = real(*tensors, **named)
        seen.append(all(map(attention.aligned, tensors)))
        layout = vectors.stride()

        def gradients(given):
            seen.append(attention.aligned(given[0]) and given[0].stride() == layout)

        vectors.grad_fn.register_prehook(gradients)
        return vectors

    torch.manual_seed(0)
    cell = CELLS[name]().to(dtype)
    first, second = torch.randn(2, 3, steps, cell.input_size, dtype=dtype)
    mask = torch.ones(3, steps, dtype=torch.bool) if masked else None

    def run():
        given = second.clone().requires_grad_()
        _, state = cell.unroll(first, cell.initial_state(3))
        outputs, _ = cell.unroll(given, state, mask)
        # A sum alone would give gradients that are one number in memory.
        outputs.square().sum().backward()
        return outputs, given.grad

    expected = run()
    monkeypatch.setattr(attention, "_by_words", lambda device: True)
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", watched)
    torch.testing.assert_close(run(), expected, rtol=0, atol=0)
    assert seen
    assert all(seen) is (name != "no whole words")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_begin_anywhere_are_copied_for_a_kernel_of_a_gpu(dtype, monkeypatch):
    real, seen = nn.functional.scaled_dot_product_attention, []

    def watched(*tensors, **named):
        seen.append([attention.aligned(each) for each in tensors])
        return real(*tensors, **named)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", watched)
    torch.manual_seed(0)
    query, keys = torch.randn(2, 3, 21, dtype=dtype)[..., 5:], torch.randn(2, 5, 16, dtype=dtype)
    values = torch.randn(2, 5, 17, dtype=dtype)[..., :16]
    results = []
    for words in (False, True):
        monkeypatch.setattr(attention, "_by_words", lambda device, words=words: words)
        results.append(Content(ScaledDot()).read(query, Memory(keys, values), None)[0])
    assert seen == [[False, True, False], [True, True, True]]
    torch.testing.assert_close(*results)


def test_a_gradient_comes_in_one_layout():
    """So that a kernel which is kept for the next call reads that one's gradient too."""
    read = torch.empty(2, 3, 4, 8, requires_grad=True)
    query = torch.empty(2, 4, 3, 8).transpose(1, 2)
    for like in (read, query):
        strides = like.stride()
        for given in (
            torch.randn(2, 3, 4, 8),
            torch.randn(2, 4, 3, 8).transpose(1, 2),
            torch.randn(2, 3, 4, 13)[..., 5:],
            torch.randn(1, 1, 1, 1).expand(2, 3, 4, 8),
            torch.randn(193)[1:].view(2, 3, 4, 8),
        ):
            kept = given.clone()
            result = attention._laid_out(strides, given)
            assert result.stride() == strides
            assert attention.aligned(result)
            torch.testing.assert_close(result, kept, rtol=0, atol=0)
    assert attention._laid_out(strides, query) is query  # no copy


@pytest.mark.filterwarnings("ignore")  # of the exporter
@pytest.mark.parametrize("memory", ["NTM", "DNC"])
def test_a_machine_can_be_exported(memory):
    model, inputs = machine(memory=memory), torch.randn(2, 3, 3, dtype=torch.double)
    exported = torch.export.export(model, (inputs,)).module()
    torch.testing.assert_close(exported(inputs)[0], model(inputs)[0])
    sparse = nn.Sequential(Entmax15())
    scores = torch.randn(2, 3, 4)
    exported = torch.export.export(sparse, (scores,)).module()
    torch.testing.assert_close(exported(scores), sparse(scores))
