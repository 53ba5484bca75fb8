"""Every fast twin is its definition: the numbers, the gradients, and where it may run.

The tests go over all twins that are registered. A new one needs an entry in ``EXAMPLES``.
"""

from functools import partial
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from memnets import fast, functional, testing
from memnets.addressing import Content
from memnets.batches import Batch
from memnets.cells import LSTM, Loop
from memnets.core import Cell, Memory, map_state
from memnets.memories import DNC, NTM
from memnets.models import SNAIL
from memnets.normalizers import ScalableSoftmax
from memnets.scores import Dot, ScaledDot
from memnets.testing.laws import assert_close, differentiable, differentiated, gradients

BATCH, STEPS = 2, 3


def tensors(*shapes):
    return st.tuples(*(testing.tensors(shape, special=False) for shape in shapes))


def stepped(make):
    """A step of a memory that has taken one already."""

    def arguments(draw):
        part = make().double()
        first, second = draw(tensors(*[(BATCH, part.input_size)] * 2))
        with fast.naive(), torch.no_grad():
            _, state = part.step(first, part.initial_state(BATCH))
        return part, (second, state)

    return arguments


def unrolled(make):
    """Steps of a cell that has taken some already."""

    def arguments(draw):
        part = make().double()
        first, second = draw(tensors(*[(BATCH, STEPS, part.input_size)] * 2))
        with fast.naive(), torch.no_grad():
            _, state = part.unroll(first, part.initial_state(BATCH))
        return part, (second, state, None)

    return arguments


def reading(make):
    """A read of a memory, with a mask and without, under one of which a row is all closed."""

    def arguments(draw):
        query, keys, values = draw(tensors((BATCH, 2, 4), (BATCH, 5, 4), (BATCH, 5, 3)))
        mask = draw(st.sampled_from([None, torch.ones(BATCH, 1, 5, dtype=torch.bool).tril(1)]))
        if mask is not None and draw(st.booleans()):
            mask = mask & (torch.arange(BATCH) > 0).view(BATCH, 1, 1)
        return make().double(), (query, Memory(keys, values, mask), None)

    return arguments


def additive(draw):
    """Scores of all pairs; none of its arguments is a part."""
    return functional.additive_scores, draw(tensors((BATCH, 3, 4), (BATCH, 5, 4), (4,)))


def loop(access):
    return lambda: Loop(3, partial(LSTM, hidden_size=4), access())


def answered(steps, answers, **settings):
    """A batch for a SNAIL, whose answers see those before them."""

    def arguments(draw):
        attentions = [(3, 2), (2, 4)]
        part = SNAIL(3, 2, max_length=9, attentions=attentions, filters=3, **settings).double()
        source, inputs = draw(tensors((BATCH, steps, 3), (BATCH, answers, 3)))
        return part, (Batch(source, inputs, torch.zeros(BATCH, answers, dtype=torch.long)),)

    return arguments


def continued(steps, answers, **settings):
    """Answers of a SNAIL to a source, none of which sees another."""

    def arguments(draw):
        part, (batch,) = answered(steps, answers, **settings)(draw)
        return part, (batch.source, batch.inputs, None)

    return arguments


#: A twin, by its part and method -> functions of ``draw`` that give the part, or the function that
#: it stands for, and arguments that the twin takes.
EXAMPLES = {
    (NTM, "step"): [
        stepped(partial(NTM, slots=5, width=3)),
        stepped(partial(NTM, slots=6, width=2, read_heads=2, write_heads=3, shift_range=5)),
    ],
    (DNC, "step"): [
        stepped(partial(DNC, slots=5, width=3)),
        stepped(partial(DNC, slots=4, width=2, read_heads=3)),
    ],
    (Loop, "unroll"): [
        unrolled(loop(partial(NTM, slots=5, width=3, read_heads=2))),
        unrolled(loop(partial(DNC, slots=4, width=3, read_heads=2))),
    ],
    (Content, "read"): [
        reading(partial(Content, Dot())),
        reading(partial(Content, ScaledDot())),
        reading(partial(Content, ScaledDot(), ScalableSoftmax())),
    ],
    (functional.additive_scores, ""): [additive],
    (SNAIL, "continuations"): [
        continued(5, 3),
        continued(6, 1, likeness=2.0),
        continued(1, 2, kernel_size=3),
        continued(5, 2, kernel_size=1, width=4),
    ],
    (SNAIL, "logits"): [
        answered(5, 1),
        answered(1, 7),
        answered(6, 3, kernel_size=3),
        answered(2, 2, kernel_size=1, width=4, likeness=2.0),
    ],
}


def title(twin):
    part = getattr(twin.part, "__name__", str(twin.part))
    return f"{part}.{twin.method}" if twin.method else part


def examples_of(twin):
    """Those of ``EXAMPLES``; without one, a failure that says what to add."""
    found = EXAMPLES.get((twin.part, twin.method))
    if not found:
        pytest.fail(
            f"no example for the fast twin of {title(twin)}: add to EXAMPLES in "
            f"tests/laws/test_twins.py an entry ({twin.part.__name__}, {twin.method!r}): a "
            "function of draw that gives the part and arguments for which its `fits` says yes"
        )
    return found


def asked(part, method, arguments):
    """Calls a method, or a function, by the door that takes twins."""
    return getattr(part, method)(*arguments) if method else part(*arguments)


def defined(part, method, arguments):
    """The definition alone, nothing fast within it."""
    with fast.naive():
        return asked(part, method, arguments)


def sources_of(part, arguments):
    parameters = list(part.parameters()) if isinstance(part, nn.Module) else []
    return [*differentiated(list(arguments)), *parameters]


def check_twin(twin, example, draw):
    """One twin on one example.

    Raises:
        AssertionError: it is not taken, or gives other numbers or gradients than the definition.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw(testing.seeds()))
        part, arguments = example(draw)
    arguments = map_state(differentiable, arguments)
    sources = sources_of(part, arguments)
    assert fast.find(part, twin.method, *arguments) is twin.run, (
        f"the twin of {title(twin)} is not taken: `fits` says no to the example, or another is "
        "tried first"
    )
    own = (part, *arguments) if twin.method else arguments
    result, expected = twin.run(*own), defined(part, twin.method, arguments)
    assert_close(result, expected, f"the twin of {title(twin)} and its definition")
    assert_close(
        gradients(result, sources),
        gradients(expected, sources),
        f"gradients of the twin of {title(twin)} and of its definition",
    )


@pytest.mark.parametrize("twin", fast.twins(), ids=title)
@settings(suppress_health_check=list(HealthCheck), deadline=None)
@given(data=st.data())
def test_a_twin_is_its_definition(twin, data):
    for example in examples_of(twin):
        check_twin(twin, example, data.draw)


@pytest.mark.parametrize("twin", fast.twins(), ids=title)
def test_a_twin_runs_where_the_method_is_asked_for_and_nowhere_else(twin):
    calls = []

    def counting(*arguments):
        calls.append(arguments)
        return twin.run(*arguments)

    counted = [twin._replace(run=counting)]

    @settings(max_examples=1, deadline=None, database=None)
    @given(data=st.data())
    def run(data):
        for example in examples_of(twin):
            part, arguments = example(data.draw)
            before = len(calls)
            asked(part, twin.method, arguments)
            assert len(calls) == before + 1, f"{title(twin)} does not ask for its twin"
            defined(part, twin.method, arguments)
            assert len(calls) == before + 1, f"{title(twin)} runs its twin within naive()"
            if isinstance(part, nn.Module):
                part.__class__ = type("Own", (type(part),), {})
                assert fast.find(part, twin.method, *arguments) is None, "a subclass is given it"
                asked(part, twin.method, arguments)
                assert len(calls) == before + 1, "a subclass runs it"

    with mock.patch.dict(fast._twins, {(twin.part, twin.method): counted}):
        run()


class Leaky(Cell):
    """A cell that the library does not know."""

    def __init__(self):
        super().__init__()
        self.input_size = self.output_size = 2
        self.decay = nn.Parameter(torch.full((2,), 0.5))

    def initial_state(self, batch_size):
        return self.decay.new_zeros(batch_size, 2)

    def forward(self, inputs, state):
        state = self.decay * state + inputs
        return state.tanh(), state


@pytest.fixture
def registered(monkeypatch):
    """What is registered within a test is forgotten after it."""
    monkeypatch.setattr(fast, "_twins", {key: list(same) for key, same in fast._twins.items()})


def right(part, inputs, state):
    return part(inputs, state)


def another_number(part, inputs, state):
    output, state = part(inputs, state)
    return 1.01 * output, state


def another_gradient(part, inputs, state):
    output, state = part(inputs, state)
    return output + (output - output.detach()), state


def a_state_without_a_gradient(part, inputs, state):
    output, state = part(inputs, state)
    return output, state.detach()


def parameters_without_a_gradient(part, inputs, state):
    state = part.decay.detach() * state + inputs
    return state.tanh(), state


def check_leaky(run, **settings_of_twin):
    fast.twin(Leaky, "step", **settings_of_twin)(run)
    (twin,) = (twin for twin in fast.twins() if twin.part is Leaky)

    @settings(max_examples=1, deadline=None, database=None)
    @given(data=st.data())
    def check(data):
        check_twin(twin, stepped(Leaky), data.draw)

    check()


@pytest.mark.usefixtures("registered")
def test_a_twin_that_is_right_passes():
    check_leaky(right)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    "run",
    [
        another_number,
        another_gradient,
        a_state_without_a_gradient,
        parameters_without_a_gradient,
    ],
)
def test_a_twin_with_a_planted_fault_is_found(run):
    with pytest.raises(AssertionError, match=r"the twin of Leaky\.step and "):
        check_leaky(run)


@pytest.mark.usefixtures("registered")
def test_a_twin_that_is_never_taken_is_found():
    with pytest.raises(AssertionError, match=r"the twin of Leaky\.step is not taken"):
        check_leaky(right, fits=lambda part, inputs, state: False)


@pytest.mark.usefixtures("registered")
def test_a_twin_without_an_example_is_told_what_to_add():
    fast.twin(Leaky, "step")(right)
    (twin,) = (twin for twin in fast.twins() if twin.part is Leaky)
    with pytest.raises(pytest.fail.Exception, match=r"add to EXAMPLES in .*\(Leaky, 'step'\)"):
        examples_of(twin)
