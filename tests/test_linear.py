"""Linear memories: the models of the papers, the parallel form, and what stands around them."""

import itertools
import math
import sys
from contextlib import nullcontext
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from torch.nn import functional as nn

from memnets import fast, functional, testing
from memnets.addressing import Content, Hopfield
from memnets.batches import Batch
from memnets.cells import LSTM, Loop, Mixer, OutputGate, SelfAttention, ShortConvolution
from memnets.core import Cell, Memory
from memnets.kernels import fla
from memnets.kernels.native import build as native
from memnets.memories import (
    GLA,
    KDA,
    NTM,
    TTT,
    DeltaNet,
    DeltaProduct,
    GatedDeltaNet,
    Linear,
    LinearAttention,
    LinearState,
    Mamba2,
    RetNet,
    Tape,
)
from memnets.memories.gates import (
    DPFP,
    Decay,
    FixedDecay,
    Normalized,
    SigmoidDecay,
    SigmoidStrength,
    Strength,
)
from memnets.memories.scan import scan, write
from memnets.models import StackModel
from memnets.scores import Dot
from memnets.training.objectives import Tokens
from memnets.viewing import panels, trace
from memnets.viewing.page import Cells

K, V, H = 4, 3, 2


def drawn(part, batch=2, time=6, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, time, part.interface_size, generator=generator, dtype=dtype)


def unit(vectors):
    return vectors * (vectors.square().sum(-1, keepdim=True) + 1e-6).rsqrt()


def outer(one, other):
    return one.unsqueeze(-1) * other.unsqueeze(-2)


def found(key, memory):
    """``S^T k``, for each head."""
    return (key.unsqueeze(-1) * memory).sum(-2)


# -- the models of the papers, written out
# ----------------------------------------------------------


def linear_attention(part, q, k, v, gates, past):
    memory, total = past if isinstance(past, tuple) else (past[..., :V], past[..., V])
    q, k = nn.elu(q) + 1, nn.elu(k) + 1
    memory, total = memory + outer(k, v), total + k
    return found(q, memory) / ((q * total).sum(-1, keepdim=True) + 1e-6), (memory, total)


def retnet(part, q, k, v, gates, memory):
    decay = torch.tensor([1 - 1 / 32, 1 - 1 / 64], dtype=q.dtype).view(H, 1, 1)
    memory = decay * memory + outer(k, v)
    return found(q, memory) / math.sqrt(K), memory


def gla(part, q, k, v, gates, memory):
    decay = gates.view(-1, H, K).sigmoid() ** (1 / 16)
    memory = decay.unsqueeze(-1) * memory + outer(k, v)
    return found(q, memory) / math.sqrt(K), memory


def mamba2(part, q, k, v, gates, memory):
    step = nn.softplus(gates + part.decay.bias.view(H))
    decay = torch.exp(-part.decay.log_rate.view(H).exp() * step)
    memory = decay.view(-1, H, 1, 1) * memory + outer(k, step.unsqueeze(-1) * v)
    return found(q, memory), memory


def delta_net(part, q, k, v, gates, memory, high=1):
    q, k = unit(q), unit(k)
    memory = memory + outer(high * gates.sigmoid().unsqueeze(-1) * k, v - found(k, memory))
    return found(q, memory), memory


def gated_delta_net(part, q, k, v, gates, memory):
    decay, strength = gates.split((part.decay.interface_size, H), -1)
    decay = decay.unflatten(-1, (H, -1)) + part.decay.bias
    decay = torch.exp(-part.decay.log_rate.exp() * nn.softplus(decay))
    return delta_net(part, q, k, v, strength, decay.unsqueeze(-1) * memory)


def delta_product(part, q, k, v, gates, memory):
    keys, values, strengths = k.unflatten(-1, (2, K)), v.unflatten(-1, (2, V)), gates.chunk(2, -1)
    for number, strength in enumerate(strengths):
        one = keys[..., number, :], values[..., number, :]
        read, memory = delta_net(part, q, *one, strength, memory, high=2)
    return read, memory


#: A named model and its paper's recurrence.
PAPERS = {
    "linear attention": (LinearAttention, linear_attention),
    "RetNet": (RetNet, retnet),
    "GLA": (GLA, gla),
    "Mamba-2": (Mamba2, mamba2),
    "DeltaNet": (DeltaNet, delta_net),
    "DeltaNet, negative": (partial(DeltaNet, negative=True), partial(delta_net, high=2)),
    "Gated DeltaNet": (GatedDeltaNet, gated_delta_net),
    "KDA": (KDA, gated_delta_net),
    "DeltaProduct": (DeltaProduct, delta_product),
}


@pytest.mark.parametrize("name", PAPERS)
def test_a_named_model_is_the_recurrence_of_its_paper(name):
    make, recurrence = PAPERS[name]
    part = make(K, V, H, chunk=4).double()
    writes = part.writes
    inputs = drawn(part)
    memory = part.initial_state(2).memory
    expected = []
    for step in inputs.unbind(1):
        q, k, v, gates = step.split(
            (H * K, H * writes * K, H * writes * V, step.shape[-1] - part.vectors_size), -1
        )
        q, k, v = (each.unflatten(-1, (H, -1)) for each in (q, k, v))
        read, memory = recurrence(part, q, k, v, gates, memory)
        expected.append(read.flatten(1))
    result, _ = part.unroll(inputs, part.initial_state(2))
    torch.testing.assert_close(result, torch.stack(expected, 1), rtol=1e-9, atol=1e-9)


# -- what holds among memories ---------------------------------------------------------------------


def test_test_time_training_of_a_linear_net_is_the_delta_rule():
    delta, training = DeltaNet(K, V, H, chunk=4).double(), TTT(K, V, H).double()
    inputs = drawn(delta).requires_grad_()
    results = [part.unroll(inputs, part.initial_state(2))[0] for part in (delta, training)]
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(result.square().sum(), inputs)[0] for result in results]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("hidden_size", [None, 5])
def test_test_time_training_takes_a_step_down_the_gradient(normed, hidden_size):
    torch.manual_seed(0)
    part = TTT(K, K, H, hidden_size=hidden_size, normed=normed).double()
    (inputs,) = drawn(part, time=1).unbind(1)
    state = part.initial_state(2)
    _, query, value, rate = inputs.split(part.sizes, -1)
    key, value = unit(query.unflatten(-1, (H, 1, K))), value.unflatten(-1, (H, 1, K))
    weights = [each.detach().clone().requires_grad_() for each in state if each is not None]
    answer = part._read(key, type(state)(*weights, *[None] * (2 - len(weights))))
    gradients = torch.autograd.grad((answer - value).square().sum() / 2, weights)
    _, after = part(inputs, state)
    for new, old, gradient in zip(after, weights, gradients, strict=False):
        expected = old - rate.sigmoid().view(2, H, 1, 1) * gradient
        torch.testing.assert_close(new, expected, rtol=1e-6, atol=1e-9)


def test_a_linear_memory_with_slots_for_keys_writes_as_an_ntm():
    # One-hot weights are orthonormal keys. Where an NTM erases all numbers of a slot alike, both
    # write the same.
    slots, heads, width = 5, 2, 3
    generator = torch.Generator().manual_seed(0)
    memory = torch.randn(2, slots, width, generator=generator, dtype=torch.float64)
    add = torch.randn(2, heads, width, generator=generator, dtype=torch.float64)
    erase = torch.rand(2, heads, 1, generator=generator, dtype=torch.float64)
    weights = torch.eye(slots, dtype=torch.float64)[torch.tensor([[0, 3], [4, 1]])]
    expected = functional.erase_add(memory, weights, erase.expand(-1, -1, width), add)
    result, _ = write(memory, weights, add, erase * weights)
    torch.testing.assert_close(result, expected)


def test_an_unnormalised_linear_attention_is_attention_without_the_softmax():
    part = LinearAttention(K, V, H, features="none", normalized=False, chunk=4).double()
    inputs = drawn(part)
    q, k, v = (
        each.unflatten(-1, (H, -1)).transpose(1, 2) for each in inputs.split(part.sizes[:3], -1)
    )
    expected = ((q @ k.mT).tril() @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(part.unroll(inputs, part.initial_state(2))[0], expected)


def test_delta_rule_replaces_where_linear_attention_piles_up():
    # The same key twice, with strength 1: the second value alone is left.
    key = torch.eye(K, dtype=torch.float64)[:1]
    values = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.0, 5.0]], dtype=torch.float64)
    delta = adding = torch.zeros(K, V, dtype=torch.float64)
    for value in values:
        delta, _ = write(delta, key, value[None], key)
        adding, _ = write(adding, key, value[None])
    torch.testing.assert_close(delta[0], values[1])
    torch.testing.assert_close(adding[0], values.sum(0))


# -- the parallel form -----------------------------------------------------------------------------


@pytest.fixture(params=["chunks", "C++"])
def way(request):
    """The definition of the parallel form, or its twin."""
    reason = native.why_not() if request.param == "C++" else None
    if reason is not None:
        pytest.skip(f"the operators cannot run here: {reason}")
    with fast.naive() if request.param == "chunks" else nullcontext():
        yield request.param


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("width", [1, 4])
def test_decays_that_forget_at_once_stay_finite(width):
    # Their product over a chunk is far below what the type holds, and its inverse above.
    generator = torch.Generator().manual_seed(0)
    keys = unit(torch.randn(1, 1, 64, 1, K, generator=generator))
    values = torch.randn(1, 1, 64, 1, V, generator=generator)
    logs = (-300 * torch.rand(1, 1, 64, width, generator=generator)).requires_grad_()
    read, memory = scan(keys.squeeze(3), keys, values, torch.ones(1, 1, K, V), keys, logs, 32)
    (gradient,) = torch.autograd.grad(read.sum() + memory.sum(), logs)
    assert all(each.isfinite().all() for each in (read, memory, gradient))
    doubles = scan(
        *(each.double() for each in (keys.squeeze(3), keys, values, torch.ones(1, 1, K, V))),
        keys.double(), logs.double(), 8,
    )  # fmt: skip
    torch.testing.assert_close((read, memory), tuple(each.float() for each in doubles))


class Resetting(Decay):
    """All that was there is gone where the input is negative, else half of it."""

    def __init__(self, heads, size):
        super().__init__(heads, size)
        self.interface_size = heads * size

    def forward(self, numbers):
        half = torch.full_like(numbers, math.log(0.5))
        return half.where(numbers > 0, -math.inf).unflatten(-1, (self.heads, -1))


@pytest.mark.parametrize("make", [DeltaNet, GatedDeltaNet, KDA, DeltaProduct])
def test_a_strength_starts_where_it_is_told(make):
    part = make(K, V, H, negative=True, start=1.8)
    width = part.erase.interface_size
    torch.testing.assert_close(part.erase(torch.zeros(3, width)), torch.full((3, H, 1), 1.8))
    # Only its middle moves: the range stays.
    extremes = part.erase(torch.tensor([[-80.0], [80.0]]).expand(2, width))
    torch.testing.assert_close(extremes[:, 0, 0], torch.tensor([0.0, 2.0]))


@pytest.mark.usefixtures("way")
def test_a_decay_may_be_nothing_at_all():
    part = Linear(K, V, H, decay=Resetting, erase="scalar", write="erase").double()
    steps = drawn(part, time=9).requires_grad_()
    state, outputs = part.initial_state(2), []
    for inputs in steps.unbind(1):
        output, state = part(inputs, state)
        outputs.append(output)
    expected = torch.stack(outputs, 1)
    part.chunk = 4
    found, after = part.unroll(steps, part.initial_state(2))
    torch.testing.assert_close((found, after.memory), (expected, state.memory))
    one, other = (torch.autograd.grad(each.sum(), steps)[0] for each in (found, expected))
    torch.testing.assert_close(one, other)


#: Type -> the largest error of 256 steps, by the largest number that is read in double precision.
ERRORS = {torch.float32: 2e-6, torch.bfloat16: 1e-2}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("make", [GatedDeltaNet, KDA, partial(DeltaProduct, gated=True)])
def test_errors_of_narrow_types_are_small(make, dtype):
    torch.manual_seed(0)
    part = make(16, 16, 2).double()
    inputs = drawn(part, time=256)
    exact, _ = part.unroll(inputs, part.initial_state(2))
    part = part.to(dtype)
    result, _ = part.unroll(inputs.to(dtype), part.initial_state(2))
    assert (result.double() - exact).abs().max() / exact.abs().max() < ERRORS[dtype]


@pytest.mark.usefixtures("way")
def test_under_autocast_many_steps_are_in_single_precision():
    part = GatedDeltaNet(K, V, H)
    inputs = drawn(part, dtype=torch.float32)
    expected, _ = part.unroll(inputs, part.initial_state(2))
    with torch.autocast("cpu", torch.bfloat16):
        result, state = part.unroll(inputs, part.initial_state(2))
    assert state.memory.dtype == torch.float32
    torch.testing.assert_close(result, expected)


def test_a_chunk_may_be_changed_at_any_time():
    part = KDA(K, V, H, chunk=2).double()
    inputs = drawn(part, time=7)
    results = []
    for part.chunk in (1, 3, 100):
        with fast.naive():
            results.append(part.unroll(inputs, part.initial_state(2))[0])
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("time", [0, 1])
def test_there_may_be_one_step_or_none(time):
    generator = torch.Generator().manual_seed(0)
    keys, erase = torch.randn(2, 2, H, time, 2, K, generator=generator)
    values = torch.randn(2, H, time, 2, V, generator=generator)
    memory = torch.randn(2, H, K, V, generator=generator)
    read, after = scan(keys[:, :, :, 0], keys, values, memory, erase)
    if time:
        memory, _ = write(memory, keys[:, :, 0], values[:, :, 0], erase[:, :, 0])
    torch.testing.assert_close(after, memory)
    torch.testing.assert_close(read, (keys[:, :, :, 0] @ memory))


def test_the_state_of_a_decoding_keeps_its_size():
    part = GatedDeltaNet(K, V, H)
    state = part.initial_state(2)
    for step in drawn(part, dtype=torch.float32).unbind(1):
        _, state = part.step(step, state)
        assert state.memory.shape == (2, H, K, V)


# -- the kernels of flash-linear-attention ---------------------------------------------------------


class Package:
    """Stands for the package: its functions, by their names there, in plain PyTorch."""

    def __init__(self, monkeypatch):
        self.called = []
        for place, name in (
            ("simple_gla", "chunk_simple_gla"),
            ("gla", "chunk_gla"),
            ("delta_rule", "chunk_delta_rule"),
            ("gated_delta_rule", "chunk_gated_delta_rule"),
            ("kda", "chunk_kda"),
        ):
            module = ModuleType(place)
            setattr(module, name, partial(self.run, name))
            monkeypatch.setitem(sys.modules, f"fla.ops.{place}", module)
        for name in ("fla", "fla.ops"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))

    def run(self, name, q, k, v, g=None, beta=None, *, scale, initial_state, output_final_state):
        assert output_final_state
        self.called.append(name)
        memory, outputs = initial_state.double(), []
        for step in range(q.shape[1]):
            one, value = k[:, step], v[:, step]
            if g is not None:
                decay = g[:, step].exp()
                memory = (decay[..., None] if g.dim() == 4 else decay[..., None, None]) * memory
            if beta is not None:
                value = beta[:, step, :, None] * (value - found(one, memory))
            memory = memory + outer(one, value)
            outputs.append(scale * found(q[:, step], memory))
        return torch.stack(outputs, 1), memory


KERNELS = {
    "chunk_simple_gla": [
        partial(LinearAttention, normalized=False), RetNet, partial(Linear, write="scalar"), Mamba2,
    ],
    "chunk_gla": [GLA],
    "chunk_delta_rule": [DeltaNet],
    "chunk_gated_delta_rule": [GatedDeltaNet],
    "chunk_kda": [KDA],
}  # fmt: skip


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_of_the_package_get_what_they_are_told_to_take(name, monkeypatch):
    package = Package(monkeypatch)
    # So that the numbers can be compared to the last digits.
    monkeypatch.setattr(fla, "_half", lambda inputs: torch.float64)
    for make in KERNELS[name]:
        part = make(K, V, H).double()
        inputs = drawn(part)
        mask = torch.rand(2, 6, generator=torch.Generator().manual_seed(0)) > 0.3
        for given in (None, mask):
            _, state = part.unroll(inputs, part.initial_state(2))
            expected, after = part.unroll(inputs, state, given)
            result, last = fla.unroll(part, inputs, state, given)
            if given is not None:
                expected, result = (each[given] for each in (expected, result))
            torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(last.memory, after.memory, rtol=1e-6, atol=1e-6)
    assert set(package.called) == {name}


class OnGPU(NamedTuple):
    """All that is asked of a tensor there."""

    dtype: torch.dtype = torch.bfloat16
    device: torch.device = torch.device("cuda")


def fits(part, **changed):
    return fla.fits(part, OnGPU(**changed), part.initial_state(2), None)


def test_the_twin_of_the_package_fits_where_its_kernels_do(monkeypatch):
    monkeypatch.setattr(fla, "why_not", lambda: None)
    assert fits(DeltaNet(K, V))
    assert fits(GLA(K, V))
    assert not fits(DeltaNet(K, V), dtype=torch.float32)
    assert not fits(DeltaNet(K, V), device=torch.device("cpu"))
    assert not fits(DeltaProduct(K, V))
    assert not fits(LinearAttention(K, V))
    assert not fits(Linear(K, V, erase="vector", write="scalar"))
    assert not fits(Linear(K, V, erase="vector", write="erase"))
    assert not fits(DeltaNet(257, V))


HOPPER, AMPERE, BLACKWELL = (9, 0), (8, 0), (10, 0)


@pytest.mark.parametrize(
    ("cards", "triton", "knows", "reason"),
    [
        ([HOPPER], "3.3.1", True, None),
        ([HOPPER], "3.4.0", True, "wrong gradients of Triton 3.4.0 on Hopper"),
        ([HOPPER], "3.6.0", True, "wrong gradients of Triton 3.6.0 on Hopper"),
        ([HOPPER], "3.6.0+git1a2b", False, "mended in Triton 3.7.1"),
        ([HOPPER], "3.7.1", True, None),
        ([HOPPER], "3.10.0", True, None),
        # Versions of the package before 3.7.1 of Triton.
        ([HOPPER], "3.7.1", False, "this version refuses Triton 3.7.1"),
        ([AMPERE, HOPPER], "3.6.0", True, "wrong gradients"),
        ([AMPERE], "3.6.0", True, None),
        ([BLACKWELL], "3.6.0", False, None),
    ],
)
def test_kernels_of_one_decay_a_head_are_left_out_where_they_are_wrong(
    cards, triton, knows, reason, monkeypatch, tmp_path
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda card: cards[card])
    stand_ins = {name: ModuleType(name) for name in ("triton", "fla", "fla.utils")}
    stand_ins["triton"].__version__ = triton
    stand_ins["fla"].__spec__ = ModuleSpec("fla", None, is_package=True)
    stand_ins["fla"].__spec__.submodule_search_locations.append(str(tmp_path))
    (tmp_path / "ops").mkdir()
    if knows:
        stand_ins["fla.utils"].TRITON_ABOVE_3_7_1 = triton != "3.6.0"
    for name, module in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, module)
    asked = (fla.why_not, fla.why_no_scalar_decay)
    for function in asked:
        function.cache_clear()
    try:
        told = fla.why_no_scalar_decay()
        scalar = [
            RetNet(K, V), Mamba2(K, V), GatedDeltaNet(K, V), Linear(K, V, decay="scalar"),
        ]  # fmt: skip
        others = [GLA(K, V), DeltaNet(K, V), KDA(K, V), Linear(K, V), Linear(K, V, decay="vector")]
        assert [fits(part) for part in scalar] == [reason is None] * len(scalar)
        assert all(map(fits, others))
        said = {twin.part: twin.why_not() for twin in fast.twins() if twin.name == fla.NAME}
    finally:
        for function in asked:
            function.cache_clear()
    assert said == {memory: told if memory in fla.SCALAR else None for memory in fla.MEMORIES}
    if reason is None:
        assert told is None
    else:
        assert reason in told
        assert "\n" not in told


@pytest.mark.parametrize("kernels", [True, False])
def test_the_package_without_its_kernels_is_left_out(kernels, monkeypatch, tmp_path):
    folder = tmp_path / "fla" / "ops" if kernels else tmp_path / "fla"
    folder.mkdir(parents=True)
    (tmp_path / "fla" / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "fla", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    fla.why_not.cache_clear()
    try:
        reason = fla.why_not()
    finally:
        fla.why_not.cache_clear()
    assert reason is None if kernels else reason.startswith("fla-core, ")


@pytest.mark.parametrize("make", [RetNet, GLA, DeltaNet, GatedDeltaNet, KDA])
def test_the_kernels_of_the_package_are_close_to_the_definition(make):
    reason = (fla.why_no_scalar_decay if make in fla.SCALAR else fla.why_not)()
    if reason is not None:
        pytest.skip(reason)
    part = make(32, 32, 2).cuda().bfloat16()
    inputs = drawn(part, time=100, dtype=torch.bfloat16).cuda().requires_grad_()
    results = []
    for naive in (nullcontext, fast.naive):
        with naive():
            outputs, _ = part.unroll(inputs, part.initial_state(2))
        (gradient,) = torch.autograd.grad(outputs.float().square().mean(), inputs)
        results.append((outputs.float(), gradient.float()))
    for result, expected in zip(*results, strict=True):
        assert (result - expected).abs().max() <= 0.03 * expected.abs().max()


# -- gates, features, bad input --------------------------------------------------------------------


@pytest.mark.parametrize("make", [GLA, KDA, DeltaNet, GatedDeltaNet, LinearAttention, RetNet])
def test_numbers_that_are_nan_are_no_gate_out_of_its_range(make):
    # They come of a training that has diverged, which says so itself, or stand in padding.
    part = make(K, V).double()
    inputs, mask = drawn(part), torch.ones(2, 6, dtype=torch.bool)
    mask[:, 1] = False
    inputs = inputs.masked_fill(~mask.unsqueeze(-1), math.nan)
    start = part.initial_state(2)
    for run in (part.unroll, partial(Cell.unroll, part)):
        outputs, state = run(inputs, start, mask)
        assert outputs[mask].isfinite().all()
        assert state.memory.isfinite().all()
        assert run(inputs, start)[0][:, 2:].isnan().all()


class Growing(Decay):
    """More than 1 of what was there."""

    def forward(self, numbers):
        return numbers.new_full((*numbers.shape[:-1], self.heads, 1), 0.1)


class TooStrong(Strength):
    def forward(self, numbers):
        return numbers.new_full((*numbers.shape[:-1], self.heads, 1), 2.5)


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ({"decay": Growing}, r"a decay must be within \[0, 1\], its logarithm at most 0; got a l"),
        ({"erase": TooStrong}, r"strength of an erase must be within \[0, 2\]; got 2.5 to 2.5"),
    ],
)
def test_a_gate_out_of_its_range_is_refused_when_it_runs(gates, message):
    part = Linear(K, V, **gates).double()
    for run in (
        lambda: part.unroll(drawn(part), part.initial_state(2)),
        lambda: part.step(drawn(part)[:, 0], part.initial_state(2)),
    ):
        with pytest.raises(ValueError, match=message):
            run()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(Linear, key_size=0), "key_size must be a whole number of at least 1; got 0"),
        (partial(RetNet, 0), "key_size must be a whole number of at least 1; got 0"),
        (partial(GLA, 0), "key_size must be a whole number of at least 1; got 0"),
        (partial(TTT, 0), "key_size must be a whole number of at least 1; got 0"),
        (partial(DeltaNet, chunk=0), "chunk must be a whole number of at least 1; got 0"),
        (partial(DeltaProduct, writes=0), "writes must be a whole number of at least 1; got 0"),
        (partial(Linear, heads=0), "heads must be a whole number of at least 1; got 0"),
        (
            partial(Linear, erase=partial(SigmoidStrength, high=3.0)),
            r"erase must be a strength within \[0, 2\].*; got one up to 3",
        ),
        (partial(Linear, decay="quick"), "decay must be one of 'fixed', .*, or None; got 'quick'"),
        (
            partial(Linear, write="quick"),
            "write must be 'erase', one of 'scalar', .*, or None; got 'quick'",
        ),
        (partial(Linear, write="erase"), "takes the strength of the erase; got erase=None"),
        (partial(Linear, features="cosine"), "features must be one of 'none', .*; got 'cosine'"),
        (partial(Linear, normalized=True), "normalized needs positive weights"),
        (
            partial(Linear, features="elu", normalized=True, erase="scalar"),
            "normalized needs positive weights",
        ),
        (partial(GLA, temperature=0), "temperature must be above 0 and finite; got 0"),
        (partial(SigmoidStrength, 1, 2, high=-1), "high must be above 0 and finite; got -1"),
        (partial(DeltaNet, start=1.0), "start must be above 0 and below high = 1; got 1.0"),
        (partial(Normalized, epsilon=0), "epsilon must be above 0; got 0"),
        (partial(DPFP, 0), "reach must be a whole number of at least 1; got 0"),
        (partial(TTT, rate=0), "rate must be above 0 and finite; got 0"),
        (partial(TTT, K, V, normed=True), "one width; got keys of width 4 and values of width 3"),
        (partial(Hopfield, beta=0), "beta must be above 0 and finite; got 0"),
        (partial(Hopfield, updates=0), "updates must be a whole number of at least 1; got 0"),
        (partial(OutputGate, 4, 6, heads=4), "heads must divide read_size 6; got 4"),
        (
            partial(Mixer, 4, NTM(4, 3), convolution=2),
            "a convolution needs a memory whose interface has vectors .*; got NTM",
        ),
        (partial(Mixer, 4, DeltaNet(3, 2), convolution=-1), "convolution must be a whole number"),
    ],
)
def test_settings_out_of_their_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("gate", [FixedDecay(1, 2), SigmoidStrength, 3])
def test_what_makes_no_decay_is_refused(gate):
    with pytest.raises(TypeError, match="decay must make a Decay when it is given the number of"):
        Linear(K, V, decay=gate)


def test_a_feature_map_that_is_none_is_refused():
    with pytest.raises(TypeError, match=r"features must be an object, such as Normalized\(\)"):
        Linear(K, V, features=Normalized)


@pytest.mark.parametrize("time", [1, 3])
def test_a_state_of_another_head_count_is_refused(time):
    part, other = DeltaNet(K, V, heads=2), DeltaNet(K, V, heads=3)
    message = r"the state must be \[B, heads, K, V\] = \[B, 2, 4, 3\]; got \[2, 3, 4, 3\]"
    with pytest.raises(ValueError, match=message):
        part.unroll(drawn(part, time=time, dtype=torch.float32), other.initial_state(2))


def test_a_gate_of_ones_own_keeps_the_laws():
    class Halving(Decay):
        """Half of the memory stays."""

        def forward(self, numbers):
            return numbers.new_full((*numbers.shape[:-1], self.heads, 1), math.log(0.5))

    testing.check_linear(
        Linear, key_size=K, value_size=2, decay=Halving, erase="negative", write="erase",
        leave_out=["compiled", "autocast", "interventions", "overwritten", "without_gradients"],
        max_examples=2,
    )  # fmt: skip


def test_dpfp_makes_many_keys_orthogonal():
    features = DPFP(2)
    vectors = torch.eye(3)
    found = features(torch.cat([vectors + vectors.roll(1, 0), -vectors - vectors.roll(1, 0)]))
    assert found.shape == (6, features.size(3)) == (6, 12)
    products = found @ found.mT
    assert (products - products.diag().diag()).abs().max() == 0
    torch.testing.assert_close(found.sum(-1), torch.ones(6))


def test_a_decay_of_the_sigmoid_is_a_root_of_it():
    gate = SigmoidDecay(2, 3, vector=True, temperature=4.0)
    numbers = torch.randn(5, 6)
    torch.testing.assert_close(gate(numbers).exp().flatten(1), numbers.sigmoid() ** 0.25)


# -- around the memory -----------------------------------------------------------------------------


def test_a_short_convolution_is_that_of_pytorch():
    cell = ShortConvolution(3, 4).double()
    inputs = torch.randn(2, 7, 3, dtype=torch.float64)
    outputs, _ = cell.unroll(inputs, cell.initial_state(2))
    padded = nn.pad(inputs.mT, (3, 0))
    expected = nn.silu(nn.conv1d(padded, cell.weight.mT.unsqueeze(1), cell.bias, groups=3)).mT
    torch.testing.assert_close(outputs, expected)


def test_an_output_gate_norms_each_head_alone():
    gate = OutputGate(4, 6, heads=2).double()
    inputs, read = torch.randn(5, 4).double(), torch.randn(5, 6).double()
    rms = read.view(5, 2, 3).square().mean(-1, keepdim=True).sqrt()
    expected = (read.view(5, 2, 3) / rms).view(5, 6) * nn.silu(gate.gate(inputs))
    torch.testing.assert_close(gate(inputs, read), expected, rtol=1e-4, atol=1e-5)


MIXERS = {
    "delta rule": partial(Mixer, access=DeltaNet(4, 4, heads=2), convolution=3, gated=True),
    "tape": partial(Mixer, access=Tape(4, read_heads=2), convolution=2),
    "self-attention": partial(SelfAttention, heads=2),
    "LSTM": partial(LSTM, hidden_size=6),
    "NTM in a loop": partial(Loop, controller=partial(LSTM, hidden_size=6), access=NTM(4, 3)),
    "delta rule in a loop": partial(
        Loop, controller=partial(LSTM, hidden_size=6), access=DeltaNet(3, 3)
    ),
    "test-time training": partial(Mixer, access=TTT(3, 3, hidden_size=4)),
}


@pytest.mark.parametrize("name", MIXERS)
def test_any_cell_mixes_the_steps_of_one_backbone(name):
    torch.manual_seed(0)
    model = StackModel(
        5, 5, MIXERS[name], width=8, layers=2, hidden_size=8, objective=Tokens()
    ).double()
    tokens = torch.randint(4, 5, (2, 6))
    batch = Batch(tokens[:, :3], tokens[:, 2:5], tokens[:, 3:])
    loss = model.loss(batch)
    loss.backward()
    assert loss.isfinite()
    assert all(part.grad is not None and part.grad.any() for part in model.body.parameters())


def test_layers_do_not_share_a_memory():
    model = StackModel(5, 5, MIXERS["delta rule"], width=8, layers=2, hidden_size=8)
    memories = [part for part in model.modules() if isinstance(part, Linear)]
    assert len(set(memories)) == 2


# -- the Hopfield read -----------------------------------------------------------------------------


def test_a_hopfield_read_brings_a_stored_pattern_back():
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(1, 6, 16, generator=generator)
    noisy = patterns[:, :2] + 0.4 * torch.randn(1, 2, 16, generator=generator)
    vectors, _ = Hopfield(beta=2.0).read(noisy, Memory(patterns, patterns))
    torch.testing.assert_close(vectors, patterns[:, :2], rtol=1e-3, atol=1e-3)


def test_each_update_of_a_hopfield_read_lowers_the_energy():
    generator = torch.Generator().manual_seed(1)
    keys = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    query = torch.randn(1, 4, generator=generator, dtype=torch.float64)

    def energy(query):
        return query.square().sum() / 2 - (query @ keys.mT).logsumexp(-1).squeeze()

    energies = [energy(query)]
    for updates in range(1, 6):
        vectors, _ = Hopfield(1.0, updates).read(query, Memory(keys, keys))
        energies.append(energy(vectors))
    assert all(after <= before for before, after in itertools.pairwise(energies))
    assert energies[0] - energies[1] > 1e-3


def test_one_update_is_attention():
    memory = Memory(torch.randn(2, 5, 3), torch.randn(2, 5, 4))
    query = torch.randn(2, 1, 3)
    expected, _ = Content(Dot()).read(2 * query, memory)
    torch.testing.assert_close(Hopfield(2.0, 1).read(query, memory)[0], expected)


# -- to look at ------------------------------------------------------------------------------------


def test_the_matrix_of_each_head_is_seen_as_it_is_written():
    part = GatedDeltaNet(K, V, H).double()
    inputs = drawn(part, batch=1)
    with torch.no_grad(), trace.record(part, kinds=None) as tape:
        part.unroll(inputs, part.initial_state(1))
    shown = [panel for panel in panels.panels(tape) if isinstance(panel, Cells)]
    assert [panel.name for panel in shown] == ["memory of head 1", "memory of head 2"]
    state = part.initial_state(1)
    for time, step in enumerate(inputs.unbind(1)):
        before = state.memory
        _, state = part(step, state)
        for head, panel in enumerate(shown):
            torch.testing.assert_close(panel.memory[time], state.memory[0, head].float())
            # What is shown as erased and added makes the memory of the one before.
            assert None not in (panel.write, panel.erase, panel.add, panel.remove)
            kept = (1 - panel.write[:, time, :, None] * panel.erase[:, time, None]).prod(0)
            added = (panel.write[:, time, :, None] * panel.add[:, time, None]).sum(0)
            removed = (panel.write[:, time, :, None] * panel.remove[:, time, None]).sum(0)
            after = before[0, head].float() * kept - removed + added
            torch.testing.assert_close(after, panel.memory[time], rtol=1e-4, atol=1e-5)


def test_a_state_is_a_named_tuple_with_its_memory():
    assert LinearState(torch.zeros(1))._fields == ("memory",)


@pytest.mark.parametrize("make", [DeltaNet, LinearAttention])
def test_numbers_at_a_skipped_step_may_be_anything(make):
    memory = make(key_size=3, value_size=2)
    inputs = torch.randn(1, 3, memory.interface_size)
    mask = torch.tensor([[True, False, True]])
    read, state = memory.unroll(inputs, memory.initial_state(1), mask)
    inputs[0, 1] = torch.inf
    other, same = memory.unroll(inputs, memory.initial_state(1), mask)
    torch.testing.assert_close(other[:, ::2], read[:, ::2])
    torch.testing.assert_close(same, state)
