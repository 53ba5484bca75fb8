"""The kernels in Triton, on a GPU if there is one, else in Triton's interpreter.

The interpreter must be switched on before anything imports Triton, so it has a process of its own:
``TRITON_INTERPRET=1 python -m pytest -n0 tests/test_triton.py``. The first test starts it.
"""

import contextlib
import itertools
import os
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec
from unittest import mock

import pytest
import torch

from memnets import fast
from memnets.cells import GRU, LSTM, Loop
from memnets.core import map_state
from memnets.kernels import triton as kernels
from memnets.memories import DNC, NTM
from memnets.testing.laws import assert_close, gradients, tensors_of

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed"),
    # Of the interpreter, with NumPy.
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning"),
]

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
running = pytest.mark.skipif(
    not (GPU or kernels.interpreted()), reason="no GPU; the first test of this file runs it"
)
compiling = pytest.mark.skipif(
    kernels.interpreted(), reason="Triton compiles nothing when it interprets"
)


@pytest.mark.skipif(GPU or kernels.interpreted(), reason="the tests below run here themselves")
def test_the_tests_of_this_file_pass_in_the_interpreter():
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "passed" in run.stdout


def made(hidden=4, dtype=torch.float64, scale=2.0, **settings):
    torch.manual_seed(0)
    memory = NTM(**{"slots": 5, "width": 3, **settings})
    loop = Loop(3, partial(LSTM, hidden_size=hidden), memory).to(DEVICE, dtype)
    with torch.no_grad():
        # Larger weights: the heads move, and the memory changes.
        for parameter in loop.parameters():
            parameter.mul_(scale)
    return loop


def given(loop, batch=2, steps=3, masked=False):
    """Inputs, a state that all parts of have some past, and a mask or ``None``."""
    like = next(loop.parameters())
    torch.manual_seed(1)
    inputs = torch.randn(batch, steps, loop.input_size).to(like)
    past = torch.randn(batch, 2, loop.input_size).to(like)
    with fast.naive(), torch.no_grad():
        _, state = loop.unroll(past, loop.initial_state(batch))
    mask = None
    if masked:
        mask = torch.rand(batch, steps, device=like.device) < 0.6
        mask[0] = False
    return map_state(lambda tensor: tensor.clone().requires_grad_(), (inputs, state)), mask


def asked(loop, inputs, state, mask):
    """Results of the twin, with zeros at skipped steps, where any value is right."""
    twin = fast.find(loop, "unroll", inputs, state, mask)
    assert twin is kernels.unroll
    outputs, state = twin(loop, inputs, state, mask)
    return outputs if mask is None else outputs * mask.unsqueeze(-1), state


def defined(loop, inputs, state, mask):
    with fast.naive():
        outputs, state = loop.unroll(inputs, state, mask)
    return outputs if mask is None else outputs * mask.unsqueeze(-1), state


def check(loop, batch=2, steps=3, masked=False):
    """Values and gradients of the twin, and its values where nothing is kept.

    Raises:
        AssertionError: they are not those of the definition.
    """
    (inputs, state), mask = given(loop, batch, steps, masked)
    sources = [inputs, *tensors_of(state), *loop.parameters()]
    results = []
    for function in (asked, defined):
        torch.manual_seed(2)  # both draw the same noise
        result = function(loop, inputs, state, mask)
        results.append((result, gradients(result, sources)))
    (result, found), (expected, wanted) = results
    assert_close(result, expected, "the kernels and the definition")
    assert_close(found, wanted, "gradients of the kernels and of the definition", atol=1e-8)
    with torch.no_grad():
        torch.manual_seed(2)
        unkept = asked(loop, inputs, state, mask)
    assert_close(unkept, expected, "the kernels without gradients and the definition")


@running
@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({}, {}),
        ({"width": 1, "slots": 4}, {"batch": 1, "steps": 1}),
        ({"read_heads": 2, "width": 5, "shift_range": 5}, {"batch": 1}),
        ({"write_heads": 3, "noise": 0.1, "shift_range": 1, "hidden": 5}, {"steps": 2}),
        ({"noise": 0.1}, {"batch": 4, "masked": True}),
        # Gates close, and weights vanish.
        ({"scale": 30.0, "slots": 9, "least_sharpness": 2.0}, {}),
    ],
    ids=str,
)
def test_a_run_is_its_definition(settings, sizes):
    check(made(**settings), **sizes)


@running
def test_a_memory_of_several_tiles():
    launch = kernels._launch

    def tiled(*arguments):
        launched = launch(*arguments)
        launched.constants["SLOT_TILE"] = 4
        return launched

    with mock.patch.object(kernels, "_launch", tiled):
        check(made(slots=11, read_heads=2, write_heads=2), batch=1)


@torch.no_grad()
def distance(result, expected):
    """Largest difference of each tensor, relative to its largest number."""
    return max(
        float((one.double() - other).abs().max() / other.abs().max().clamp_min(1e-3))
        for one, other in zip(tensors_of(result), tensors_of(expected), strict=True)
    )


def distances(loop, batch, steps, functions):
    """Distances in float32 from the definition in float64, of values and gradients."""
    (inputs, state), _ = given(loop, batch, steps)
    everything = inputs, state, list(loop.parameters())
    double = map_state(lambda one: one.detach().double().requires_grad_(), everything)
    exact = made(loop.controller.hidden_size, slots=loop.access.slots, width=loop.access.width)
    exact.load_state_dict(loop.state_dict())
    expected = defined(exact, *double[:2], None)
    wanted = gradients(expected, [double[0], *tensors_of(double[1]), *exact.parameters()])
    for function in functions:
        result = function(loop, inputs, state, None)
        found = gradients(result, [inputs, *tensors_of(state), *loop.parameters()])
        yield distance(result, expected), distance(found, wanted)


@running
@pytest.mark.parametrize(
    ("hidden", "slots", "batch", "steps"),
    [
        (20, 33, 1, 2),
        *(
            pytest.param(
                100, slots, batch, 41, marks=pytest.mark.skipif(not GPU, reason="takes a GPU")
            )
            for slots in (128, 1024)
            for batch in (16, 128)
        ),
    ],
)
def test_single_precision_is_as_near_as_that_of_the_definition(hidden, slots, batch, steps):
    loop = made(hidden, torch.float32, slots=slots, width=20)
    found = list(distances(loop, batch, steps, (asked, defined)))
    for name, (values, slopes) in zip(("Triton", "definition"), found, strict=True):
        print(f"B {batch} T {steps} N {slots}: {name} {values:.1e} values {slopes:.1e} gradients")
    ours, plain = found
    assert all(one <= 10 * other + 1e-6 for one, other in zip(ours, plain, strict=True))


@running
@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("forward", "the kernels and the definition"),
        ("backward", "gradients of the kernels and of the definition"),
    ],
)
def test_a_planted_fault_is_found(kernel, message):
    run = kernels._Launch.run

    def faulty(launch, function, *arguments, **constants):
        if getattr(function, "fn", function).__name__ == kernel:
            launch = launch._replace(constants={**launch.constants, "LEAST": 1.01})
        run(launch, function, *arguments, **constants)

    with (
        mock.patch.object(kernels._Launch, "run", faulty),
        pytest.raises(AssertionError, match=f"^{message}"),
    ):
        check(made(), batch=1, steps=2)


class Places:
    """Places in memory that the threads of a program share, between two barriers.

    The interpreter runs the threads of a program in step. On a GPU they are not: a thread that
    loads what another one stores needs a barrier between, and so does one that stores where another
    one loads.
    """

    def __init__(self):
        self.loaded, self.stored = {}, set()

    def barrier(self):
        self.loaded.clear()
        self.stored.clear()

    def load(self, places):
        assert self.stored.isdisjoint(places), "a load of what other threads store"
        self.loaded.update(dict.fromkeys(places, places))

    def store(self, places):
        assert self.stored.isdisjoint(places), "two stores at one place"
        # Where a load and a store have the same places, each thread stores where itself loaded.
        others = [place for place in places if self.loaded.get(place, places) != places]
        assert not others, "a store where other threads load"
        self.stored.update(places)


def watched(places, barriers):
    """A context in which the interpreter tells of loads, stores, and the given barriers."""
    builder = type(interpreter().interpreter_builder)
    load, store, run = builder.create_masked_load, builder.create_masked_store, kernels._Launch.run
    count = itertools.count()

    def chosen(pointers, mask):
        return tuple(pointers.data[mask.data].flatten().tolist())

    def loading(self, pointers, mask, *others):
        places.load(chosen(pointers, mask))
        return load(self, pointers, mask, *others)

    def storing(self, pointers, value, mask, *others):
        places.store(chosen(pointers, mask))
        return store(self, pointers, value, mask, *others)

    def running(*arguments, **constants):
        places.barrier()
        run(*arguments, **constants)
        places.barrier()

    def barrier(self):
        if barriers(next(count)):
            places.barrier()

    stack = contextlib.ExitStack()
    for owner, names in (
        (builder, {"create_masked_load": loading, "create_masked_store": storing}),
        (builder, {"create_barrier": barrier}),
        (kernels._Launch, {"run": running}),
    ):
        stack.enter_context(mock.patch.multiple(owner, **names))
    return stack


def interpreter():
    from triton.runtime import interpreter

    return interpreter


def a_run(tile, kept, **settings):
    """One run of two steps of one row, with gradients or without."""
    launch = kernels._launch

    def tiled(*arguments):
        launched = launch(*arguments)
        return launched._replace(constants={**launched.constants, "SLOT_TILE": tile})

    loop = made(slots=8, **settings)
    (inputs, state), mask = given(loop, 1, 2)
    with mock.patch.object(kernels, "_launch", tiled), torch.set_grad_enabled(kept):
        result = asked(loop, inputs, state, mask)
        if kept:
            gradients(result, [inputs])


interpreting = pytest.mark.skipif(not kernels.interpreted(), reason="watches the interpreter")


@interpreting
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(("tile", "heads"), [(8, 1), (4, 2)])
def test_threads_share_places_across_barriers_alone(tile, heads, kept):
    with watched(Places(), lambda number: True):
        a_run(tile, kept, read_heads=heads, write_heads=heads)


@interpreting
@pytest.mark.parametrize("gone", [0, 4, 11, 14])
def test_a_barrier_that_is_left_out_is_found(gone):
    # Five barriers a step: numbers from 10 on are those of the two steps back.
    with (
        watched(Places(), lambda number: number != gone),
        pytest.raises(interpreter().InterpreterError, match="other threads"),
    ):
        a_run(8, True)


@running
def test_second_derivatives_are_those_of_the_definition():
    loop = made()
    for masked in (False, True):
        (inputs, state), mask = given(loop, masked=masked)
        sources = [inputs, *tensors_of(state), *loop.parameters()]
        found = []
        for function in (asked, defined):
            outputs, _ = function(loop, inputs, state, mask)
            first = torch.autograd.grad(outputs.square().sum(), sources, create_graph=True)
            found.append(gradients(first, sources))
        assert_close(*found, "second derivatives", atol=1e-8)


@running
def test_second_derivatives_of_a_run_with_noise_say_what_to_do():
    loop = made(noise=0.1)
    (inputs, state), mask = given(loop, batch=1, steps=1)
    outputs, _ = asked(loop, inputs, state, mask)
    with pytest.raises(RuntimeError, match=r"within memnets\.naive\(\)"):
        torch.autograd.grad(outputs.sum(), inputs, create_graph=True)


@running
def test_a_loop_asks_for_the_kernels_where_they_fit():
    loop = made()
    (inputs, state), _ = given(loop, batch=1, steps=1)
    with mock.patch.object(kernels._Launch, "run") as run:
        loop.unroll(inputs, state)
    assert run.called
    for other in (
        Loop(3, partial(LSTM, hidden_size=4, layers=2), NTM(5, 3)),
        Loop(3, partial(GRU, hidden_size=4), NTM(5, 3)),
        Loop(3, partial(LSTM, hidden_size=4), DNC(5, 3)),
    ):
        other = other.to(inputs)
        assert (
            fast.find(other, "unroll", inputs, other.initial_state(1), None) is not kernels.unroll
        )


def test_a_machine_without_a_gpu_says_so(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert kernels.why_not() == "no GPU"
    loop = made().cpu()
    inputs = torch.zeros(1, 1, 3, dtype=torch.float64)
    assert fast.find(loop, "unroll", inputs, loop.initial_state(1), None) is not kernels.unroll


@compiling
@pytest.mark.parametrize("name", ["forward", "backward"])
def test_the_kernels_compile_without_a_gpu(name, monkeypatch, tmp_path):
    # The interpreter takes code that the compiler does not.
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    layout = NTM(slots=11, width=3, write_heads=2).layout
    constants = {
        **kernels._launch(layout, 1e-6, 4, 11, torch.empty(0)).constants,
        **{"MASKED": True, "NOISE": True, "RECORD": True, "SLOT_TILE": 4, "TILE": 4},
        **{"FEATURE_BLOCK": 8, "INTERFACE_BLOCK": 16},
    }
    function = getattr(kernels._compiled(), name)
    kinds = {"lengths": "*i32", "steps": "i32"} | dict.fromkeys(constants, "constexpr")
    signature = {one: kinds.get(one, "*fp32") for one in function.arg_names}
    places = {one: (place,) for place, one in enumerate(function.arg_names)}
    known = {places[one]: value for one, value in constants.items() if one in places}
    options = {"num_warps": 4, "num_stages": 1}
    source = ASTSource(function, signature, known)
    made = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)
    assert made.asm["ptx"]


@pytest.mark.skipif(not GPU, reason="takes a GPU")
@pytest.mark.parametrize("batch", [16, 128])
def test_a_run_on_a_gpu_beside_the_definition(batch, capsys):
    """It prints seconds, and asserts none."""
    loop = made(100, torch.float32, slots=128, width=20)
    (inputs, state), _ = given(loop, batch, 41)

    def seconds(function):
        times = []
        for _ in range(6):
            torch.cuda.synchronize()
            start = time.perf_counter()
            outputs, _ = function(loop, inputs, state, None)
            torch.autograd.grad(outputs.square().sum(), [inputs, *loop.parameters()])
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        return sorted(times[1:])

    for name, function in (("Triton", asked), ("definition", defined)):
        times = seconds(function)
        with capsys.disabled():
            print(
                f"\nB {batch} T 41 N 128: {name} {times[2] * 1e3:.2f} ms "
                f"({times[0] * 1e3:.2f} to {times[-1] * 1e3:.2f}), forward and backward"
            )
