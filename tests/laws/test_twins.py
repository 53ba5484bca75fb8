"""Every fast twin is its definition: the numbers, the gradients, and where it may run.

The tests go over all twins that are registered. A new one needs an entry in ``EXAMPLES``.
"""

from contextlib import nullcontext
from functools import partial
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from memnets import fast, functional, testing
from memnets.addressing import Content
from memnets.cells import GRU, LSTM, Loop, TransformerLayer
from memnets.core import Cell, Memory, map_state
from memnets.encoders import Recurrent
from memnets.memories import DNC, NTM
from memnets.models import Seq2Seq
from memnets.normalizers import ScalableSoftmax
from memnets.scores import Additive, Dot, ScaledDot
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


def reading(make, width=3, heads=False):
    """A read of a memory, with a mask and without, under one of which a row is all closed."""

    def arguments(draw):
        query, keys, values = draw(tensors((BATCH, 2, 4), (BATCH, 5, 4), (BATCH, 5, width)))
        mask = draw(st.sampled_from([None, torch.ones(BATCH, 1, 5, dtype=torch.bool).tril(1)]))
        if mask is not None and draw(st.booleans()):
            mask = mask & (torch.arange(BATCH) > 0).view(BATCH, 1, 1)
        memory = Memory(keys, values, mask)
        if heads:
            query, memory = map_state(lambda part: part.unsqueeze(1), (query, memory))
        return make().double(), (query, memory, None)

    return arguments


def additive(draw):
    """Scores of all pairs; none of its arguments is a part."""
    return functional.additive_scores, draw(tensors((BATCH, 3, 4), (BATCH, 5, 4), (4,)))


def answering(key_size=5, **settings):
    """Steps of a GRU that looks at a source, some of it padding, and has taken one already."""

    def arguments(draw):
        part = Seq2Seq(
            3, 3, partial(Recurrent, controller=partial(GRU, hidden_size=2)),
            partial(GRU, hidden_size=5), Content(Additive(key_size)), width=4, key_size=key_size,
            **settings,
        ).double()  # fmt: skip
        source, first, second = draw(tensors((BATCH, 4, 3), (BATCH, 1, 4), (BATCH, STEPS, 4)))
        lengths = torch.tensor(draw(st.lists(st.integers(1, 4), min_size=BATCH, max_size=BATCH)))
        mask = draw(st.sampled_from([None, torch.arange(4) < lengths.unsqueeze(1)]))
        with fast.naive(), torch.no_grad():
            _, state = part.unroll(first, part.encode(source, mask))
        one = not (part.before or part.input_feeding)
        return part, (second[:, :1] if one else second, state)

    return arguments


def entropy(smoothing):
    """Logits of as many classes as the twin takes, and targets."""

    def arguments(draw):
        few, shifts = draw(tensors((BATCH, 16), (BATCH, 128)))
        logits = (few.unsqueeze(1) * shifts.unsqueeze(2)).flatten(1)
        targets = draw(st.lists(st.integers(0, 511), min_size=BATCH, max_size=BATCH))
        return functional.cross_entropy, (logits, torch.tensor(targets), smoothing)

    return arguments


def one_query(draw):
    """Scores of one query for each memory."""
    return functional.additive_scores, draw(tensors((BATCH, 1, 4), (BATCH, 5, 4), (4,)))


def large_entries(draw):
    """Scores of queries and keys so large that an exponential of them alone would overflow."""
    query, keys, direction = draw(tensors((BATCH, 3, 4), (BATCH, 5, 4), (4,)))
    return functional.additive_scores, (query + 400, keys - 400, direction)


def appended(draw):
    """Slots to append to a memory that has been copied into a buffer."""
    return functional.append, draw(tensors((BATCH, 5, 4), (BATCH, 2, 4)))


def appended_in_place(draw):
    """Slots to append to a memory that has room in its buffer."""
    memory, row, more = draw(tensors((BATCH, 5, 4), (BATCH, 1, 4), (BATCH, 2, 4)))
    return functional.append, (functional.append(memory, row), more)


def layer(draw, cross=False, norm="pre"):
    """A step of a decoder's layer that has taken some, in evaluation."""
    part = TransformerLayer(4, 2, 6, dropout=0.5, norm=norm, cross=cross).double().eval()
    source, first, second = draw(tensors((BATCH, 4, 4), (BATCH, STEPS, 4), (BATCH, 1, 4)))
    mask = draw(st.sampled_from([None, torch.arange(4) < torch.tensor([[4], [2]])]))
    skipped = draw(st.sampled_from([None, torch.tensor([[True] * STEPS, [True, False, True]])]))
    with fast.naive(), torch.no_grad():
        _, state = part.unroll(first, part.start(source, mask), skipped)
    return part, (second, state, None)


def spread(draw, *shape):
    """More logits than Hypothesis could draw one by one, no two alike in a row."""
    seed = draw(testing.seeds())
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(shape, generator=generator, dtype=torch.double).argsort(-1)
    return order.double() * draw(st.sampled_from([1e-3, 1e-4]))


def choosing(draw):
    """Scores with some that are not finite."""
    scores = spread(draw, 2, 1 << 16)
    scores[draw(st.integers(0, 1)), draw(st.integers(0, 65535))] = draw(
        st.sampled_from([torch.inf, -torch.inf, torch.nan])
    )
    return functional.likeliest, (scores,)


def continuing(draw):
    """Logits after some answers, one of them impossible,
    the last block of them not full."""
    logits = spread(draw, BATCH, 3, 22001)
    scores = draw(tensors((BATCH, 3)))[0]
    scores[:, 2] = draw(st.sampled_from([-torch.inf, -1.0]))
    return functional.best_tokens, (logits, scores, draw(st.integers(1, 12)))


def loop(access):
    return lambda: Loop(3, partial(LSTM, hidden_size=4), access())


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
        reading(partial(Content, ScaledDot()), width=4),
        reading(partial(Content, Dot()), width=4, heads=True),
    ],
    (Seq2Seq, "unroll"): [
        answering(attend="before"),
        answering(attend="before", key_size=3, input_feeding=True),
        answering(attend="after", input_feeding=True),
        answering(attend="after", key_size=3),
    ],
    (functional.cross_entropy, ""): [entropy(0.0), entropy(0.1)],
    (functional.likeliest, ""): [choosing],
    (functional.best_tokens, ""): [continuing],
    (TransformerLayer, "unroll"): [
        layer,
        partial(layer, cross=True),
        partial(layer, cross=True, norm="post"),
    ],
    (functional.additive_scores, ""): [additive, one_query, large_entries],
    (functional.append, ""): [appended, appended_in_place],
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
    states = [each for each in arguments if not isinstance(each, (int, float))]
    return [*differentiated(states), *parameters]


def recording(twin):
    """Where a twin may run: with gradients, or without if it has none."""
    return torch.no_grad() if twin.only_values else nullcontext()


def check_twin(twin, example, draw):
    """One twin on one example.

    Raises:
        AssertionError: it is not taken, or gives other numbers or gradients than the definition.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw(testing.seeds()))
        part, arguments = example(draw)
    arguments = tuple(
        each if isinstance(each, (int, float)) else map_state(differentiable, each)
        for each in arguments
    )
    own = (part, *arguments) if twin.method else arguments
    with recording(twin):
        assert fast.find(part, twin.method, *arguments) is twin.run, (
            f"the twin of {title(twin)} is not taken: `fits` says no to the example, or another is "
            "tried first"
        )
        result, expected = twin.run(*own), defined(part, twin.method, arguments)
    assert_close(result, expected, f"the twin of {title(twin)} and its definition")
    if twin.only_values:
        return
    sources = sources_of(part, arguments)
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
            with recording(twin):
                asked(part, twin.method, arguments)
                assert len(calls) == before + 1, f"{title(twin)} does not ask for its twin"
                defined(part, twin.method, arguments)
            if twin.only_values:
                asked(part, twin.method, arguments)
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
