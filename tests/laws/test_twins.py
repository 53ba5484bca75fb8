"""Every fast twin is its definition: the numbers, the gradients, and where it may run.

The tests go over all twins that are registered. A new one needs an entry in ``EXAMPLES``.
"""

import copy
import itertools
import pickle
import re
from contextlib import nullcontext
from functools import partial
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from memnets import fast, functional, testing
from memnets.addressing import Content
from memnets.batches import Batch
from memnets.cells import (
    GRU,
    LSTM,
    ALiBi,
    EncoderLayer,
    FeedForward,
    HardALiBi,
    Loop,
    Placed,
    RotaryPositions,
    TransformerLayer,
)
from memnets.core import Cell, Memory, map_state
from memnets.encoders import Recurrent
from memnets.kernels import fla, native, triton
from memnets.kernels.native import build
from memnets.memories import (
    DNC,
    LRUA,
    NTM,
    SAM,
    MovingTape,
    NeuralDeque,
    NeuralQueue,
    NeuralStack,
    Stack,
    Tape,
)
from memnets.memories.scan import scan
from memnets.memories.tape import TapeState
from memnets.models import SNAIL, Seq2Seq
from memnets.normalizers import ScalableSoftmax
from memnets.scores import Additive, Cosine, Dot, ScaledDot
from memnets.testing.laws import (
    assert_close,
    differentiable,
    differentiated,
    gradients,
    tensors_of,
)

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


def unrolled(make, batch=BATCH, steps=STEPS, masked=False, begun=True):
    """Steps of a cell, with a mask or without; by default it has taken some already."""

    def arguments(draw):
        part = make().double()
        first, second = draw(tensors(*[(batch, steps, part.input_size)] * 2))
        state = part.initial_state(batch)
        if begun:
            with fast.naive(), torch.no_grad():
                _, state = part.unroll(first, state)
        mask = torch.tensor(draw(holes(batch, steps))) if masked else None
        return part, (second, state, mask)

    return arguments


def grown(make, slots, steps):
    """Steps of a loop on a tape that has many slots already."""

    def arguments(draw):
        part, (inputs, state, mask) = unrolled(make, steps=steps, begun=False)(draw)
        shape = BATCH, slots, part.access.width
        return part, (inputs, state._replace(access=TapeState(*numbers(draw, shape, shape))), mask)

    return arguments


def scattered(make, batch=BATCH, steps=STEPS, masked=False):
    """Steps of a loop on a DNC or LRUA whose memory holds anything: no two slots are used alike.

    After steps from the initial state many slots are, but for their last digit, and which of them
    is taken as free depends on that digit.
    """

    def arguments(draw):
        part, (inputs, state, mask) = unrolled(make, batch, steps, masked)(draw)
        slots = part.access.slots
        access = map_state(lambda old: torch.rand_like(old) / slots, state.access)
        access = access._replace(memory=torch.randn_like(access.memory), usage=slots * access.usage)
        if isinstance(part.access, DNC):
            link = access.link.masked_fill(torch.eye(slots, dtype=torch.bool), 0.0)
            access = access._replace(link=link)
        return part, (inputs, state._replace(access=access), mask)

    return arguments


def holes(batch, steps):
    """Steps that sequences skip, anywhere: one may skip all."""
    return st.lists(
        st.lists(st.booleans(), min_size=steps, max_size=steps), min_size=batch, max_size=batch
    )


def scanned(steps=STEPS, writes=1, keys=3, columns=2, decays=0, erases=True):
    """Steps of a linear memory, heads behind steps in memory as a memory has them."""

    def arguments(draw):
        each = BATCH, steps, 2
        query, key, value, strength, log, memory = numbers(
            draw, (*each, keys), (*each, writes, keys), (*each, writes, columns),
            (*each, writes, 1), (*each, decays or 1), (BATCH, 2, columns, keys),
        )  # fmt: skip
        key = nn.functional.normalize(key, dim=-1)
        erase = strength.sigmoid() * key if erases else None
        log = -log.abs() if decays else None
        given = (query, key, value, memory.mT.transpose(1, 2), erase, log)
        return scan, (*map_state(lambda part: part.transpose(1, 2), given), 4)

    return arguments


#: The operators keep a matrix each 32 writes, which here falls between those of a step too.
SCANS = [
    scanned(erases=False),
    scanned(1, writes=2, keys=1, columns=1, decays=1),
    scanned(37, keys=18, columns=35, decays=1),
    scanned(23, writes=3, keys=5, columns=3, decays=5),
    scanned(33, writes=2, keys=9, decays=9, erases=False),
]


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


def turned(*shape, places=(BATCH, 1, 3), strides=None):
    """Vectors at some places, ``[*B, T, K]``; the heads of a model lie side by side."""

    def arguments(draw):
        (vectors,) = draw(tensors(shape))
        number = draw(st.integers(0, 40))
        given = number + torch.arange(3).expand(places)
        return RotaryPositions(100.0), (
            vectors if strides is None else vectors.transpose(*strides),
            given,
        )

    return arguments


def at_an_odd_place(draw):
    """Vectors that begin at an odd number of their storage, of an odd stride."""
    (vectors,) = draw(tensors((BATCH, 3, 5)))
    return RotaryPositions(), (vectors[..., 1:], torch.arange(3))


def of_an_odd_stride(draw):
    """Contiguous vectors with an odd stride of a dimension of size 1."""
    (vectors,) = draw(tensors((1, 9)))
    return RotaryPositions(), (vectors[:, :8].unflatten(-1, (2, 4)), torch.arange(2))


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
    """Scores of one query for each memory, with a gradient."""
    query, keys, direction = draw(tensors((BATCH, 1, 4), (BATCH, 5, 4), (4,)))
    return functional.additive_scores, (query, keys, direction.requires_grad_())


def large_entries(draw):
    """Scores of queries and keys so large that an exponential of them alone would overflow."""
    query, keys, direction = draw(tensors((BATCH, 3, 4), (BATCH, 5, 4), (4,)))
    return functional.additive_scores, (query + 400, keys - 400, direction)


def many_slots(draw):
    """A memory so large that it goes into a buffer, ``[B, 520, 4]``."""
    (memory,) = draw(tensors((BATCH, 5, 4)))
    return memory.repeat(1, 104, 1)


def appended(draw):
    """Slots to append to a memory that is copied into a buffer."""
    (row,) = draw(tensors((BATCH, 2, 4)))
    return functional.append, (many_slots(draw), row)


def appended_in_place(draw):
    """Slots to append to a memory that has room in its buffer."""
    row, more = draw(tensors((BATCH, 1, 4), (BATCH, 2, 4)))
    return functional.append, (functional.append(many_slots(draw), row), more)


def layer(draw, cross=False, norm="pre", width=4, steps=STEPS):
    """A step of a decoder's layer that has taken some, in evaluation."""
    part = TransformerLayer(width, 2, 6, dropout=0.5, norm=norm, cross=cross).double().eval()
    shapes = (BATCH, 4, width), (BATCH, steps, width), (BATCH, 1, width)
    source, first, second = draw(tensors(*shapes)) if width == 4 else numbers(draw, *shapes)
    mask = draw(st.sampled_from([None, torch.arange(4) < torch.tensor([[4], [2]])]))
    holes = torch.tensor([[True], [False]]) | (torch.arange(steps) != 1)
    skipped = draw(st.sampled_from([None, holes]))
    with fast.naive(), torch.no_grad():
        _, state = part.unroll(first, part.start(source, mask), skipped)
    return part, (second, state, None)


LAYERS = [layer, partial(layer, cross=True), partial(layer, cross=True, norm="post")]


def source_layer(draw, norm="pre", width=4, batch=BATCH, steps=4):
    """An encoder's layer in evaluation, one source of which may be padding alone."""
    part = EncoderLayer(width, 2, 6, dropout=0.5, norm=norm).double().eval()
    shape = batch, steps, width
    (source,) = draw(tensors(shape)) if width == 4 else numbers(draw, shape)
    lengths = torch.full((batch, 1), steps)
    lengths[1:] = draw(st.integers(0, steps))
    return part, (source, draw(st.sampled_from([None, torch.arange(steps) < lengths])))


def numbers(draw, *shapes):
    """More numbers than Hypothesis could draw one by one."""
    generator = torch.Generator().manual_seed(draw(testing.seeds()))
    return [torch.randn(shape, generator=generator, dtype=torch.double) for shape in shapes]


def chosen_rows(draw):
    """Rows of a part of a state; tests/test_decoding.py has those of a memory in a buffer."""
    index = draw(st.lists(st.integers(0, BATCH - 1), max_size=4))
    return functional.rows, (many_slots(draw), torch.tensor(index, dtype=torch.long))


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


TWO_LAYERS = partial(LSTM, hidden_size=4, layers=2)
RECURRENT, FEED_FORWARD = partial(LSTM, hidden_size=4), partial(FeedForward, hidden_size=4)


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


def loop(access, controller=RECURRENT):
    return lambda: Loop(3, controller, access())


def sharp():
    """A loop whose numbers are so large that gates close and weights vanish."""
    part = loop(partial(NTM, slots=9, width=3, least_sharpness=2.0))()
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.mul_(20)
    return part


def still():
    """A loop whose heads stay on the first slot: all other weights are 0 before they are sharpened.

    The sharpness is so near 1 that they have a gradient all the same.
    """
    memory = NTM(slots=9, width=3, gate_bias=-800.0, stay_bias=800.0)
    part = loop(lambda: memory)()
    with torch.no_grad():
        part.interface.bias[memory.layout.sizes[0] :][2:4] = -7.0
        part.interface.weight.mul_(0.1)
    return part


#: Second derivatives reach 1e8 there, so that those near 0 have no digits left.
EXTREME = [unrolled(sharp), unrolled(still, begun=False)]

DNC_RUNS = [
    unrolled(loop(partial(DNC, slots=5, width=3))),
    unrolled(loop(partial(DNC, slots=4, width=2, read_heads=3)), steps=10, masked=True),
    unrolled(loop(partial(DNC, slots=1, width=1)), 1, 1, begun=False),
    scattered(loop(partial(DNC, slots=40, width=2, read_heads=2)), steps=10),
    scattered(loop(partial(DNC, slots=9, width=3, read_heads=5), FEED_FORWARD), 1, 11, True),
]

LRUA_RUNS = [
    scattered(loop(partial(LRUA, slots=5, width=3, heads=2))),
    scattered(loop(partial(LRUA, slots=19, width=2, heads=3, decay=0.5)), steps=8, masked=True),
    scattered(loop(partial(LRUA, slots=70, width=2, heads=5, gate_bias=-1.0), FEED_FORWARD), 1),
    unrolled(loop(partial(LRUA, slots=1, width=1, heads=1)), 1, 1, begun=False),
]

SHIFTING_RUNS = [
    unrolled(
        loop(partial(Stack, slots=9, width=3, stacks=2, visible=2, initial_value=-1.0)), 3, 5, True
    ),
    unrolled(loop(partial(Stack, slots=2, width=1, noise=0.5), FEED_FORWARD), steps=5),
    unrolled(loop(partial(MovingTape, slots=9, width=3, tapes=2)), 3, 5, masked=True),
    unrolled(loop(partial(MovingTape, slots=5, width=2, gated=False, noise=0.5), FEED_FORWARD)),
    unrolled(loop(partial(NeuralStack, width=3, count=2)), 1, 5),
    unrolled(loop(partial(NeuralQueue, width=1, noise=0.5), FEED_FORWARD), steps=5, begun=False),
    unrolled(loop(partial(NeuralDeque, width=2, count=2)), steps=5),
]

TAPE_RUNS = [
    unrolled(loop(partial(Tape, width=3, read_heads=2))),
    grown(loop(partial(Tape, width=5, read_heads=5, score=Dot()), FEED_FORWARD), 39, 10),
    unrolled(loop(partial(Tape, width=1)), 1, 1, begun=False),
]

#: Machines that walk, that look, and that wait; the last with a controller that C++ does not know.
HARD_RUNS = [
    unrolled(loop(partial(NTM, slots=9, width=3, hard=True, gate_bias=-9.0)), steps=12),
    unrolled(
        loop(
            partial(NTM, slots=19, width=2, read_heads=2, write_heads=3, shift_range=5, hard=True)
        ),
        steps=9,
        masked=True,
    ),
    unrolled(
        loop(partial(NTM, slots=6, width=3, hard=True, noise=0.5, strength_bias=9.0), FEED_FORWARD)
    ),
    unrolled(loop(partial(NTM, slots=3, width=1, shift_range=1, hard=True)), 1, 1, begun=False),
    unrolled(loop(partial(NTM, slots=5, width=3, hard=True), TWO_LAYERS), masked=True),
]

#: A twin, by its part, method and name -> functions of ``draw`` that give the part, or the function
#: that it stands for, and arguments that the twin takes.
EXAMPLES = {
    (NTM, "step", "kernels.ntm"): [
        stepped(partial(NTM, slots=5, width=3)),
        stepped(partial(NTM, slots=6, width=2, read_heads=2, write_heads=3, shift_range=5)),
        stepped(partial(NTM, slots=5, width=3, read_heads=2, hard=True)),
    ],
    (DNC, "step", "kernels.dnc"): [
        stepped(partial(DNC, slots=5, width=3)),
        stepped(partial(DNC, slots=4, width=2, read_heads=3)),
    ],
    (Loop, "unroll", "kernels.loop"): [
        unrolled(loop(partial(NTM, slots=5, width=3, read_heads=2))),
        unrolled(loop(partial(NTM, slots=6, width=3, write_heads=2, hard=True))),
        *EXTREME,
        unrolled(loop(partial(DNC, slots=4, width=3, read_heads=2))),
    ],
    (Loop, "unroll", "C++"): [
        unrolled(loop(partial(NTM, slots=5, width=3))),
        unrolled(loop(partial(NTM, slots=19, width=2, read_heads=2, shift_range=5)), masked=True),
        unrolled(loop(partial(NTM, slots=70, width=2, write_heads=2, noise=0.3))),
        unrolled(loop(partial(NTM, slots=6, width=3, read_heads=3, write_heads=3)), masked=True),
        unrolled(loop(partial(NTM, slots=3, width=1, shift_range=1)), 1, 1, begun=False),
        unrolled(loop(partial(NTM, slots=5, width=3), FEED_FORWARD), 1, 4, masked=True),
        unrolled(loop(partial(NTM, slots=5, width=3), partial(FEED_FORWARD, layers=3)), 3, 1),
        unrolled(loop(partial(NTM, slots=19, width=2, shift_range=5, hard=True)), masked=True),
        unrolled(loop(partial(NTM, slots=6, width=3, read_heads=2, write_heads=3, hard=True))),
        *EXTREME,
        *DNC_RUNS,
        *LRUA_RUNS,
        *SHIFTING_RUNS,
        *TAPE_RUNS,
    ],
    (Loop, "unroll", "kernels.hard"): HARD_RUNS,
    (Loop, "unroll", "C++/places"): HARD_RUNS[:-1],
    (Loop, "unroll", "Triton"): [
        unrolled(loop(partial(NTM, slots=5, width=3, read_heads=2)), masked=True),
        unrolled(loop(partial(NTM, slots=6, width=2, write_heads=2, shift_range=5, noise=0.3))),
        unrolled(loop(partial(NTM, slots=3, width=1, shift_range=1)), 1, 1, begun=False),
        *EXTREME,
    ],
    (SAM, "step", "kernels.sparse"): [stepped(partial(SAM, slots=9, width=3, heads=2))],
    (SAM, "unroll", "kernels.sparse"): [
        unrolled(partial(SAM, slots=5, width=3, heads=2, read_slots=3, write_slots=2), masked=True),
    ],
    (Loop, "unroll", "kernels.sparse"): [
        unrolled(loop(partial(SAM, slots=9, width=3, heads=2, read_slots=3)), masked=True),
    ],
    (Content, "read", "kernels.attention"): [
        reading(partial(Content, Dot())),
        reading(partial(Content, ScaledDot())),
        reading(partial(Content, ScaledDot(), ScalableSoftmax())),
        reading(partial(Content, ScaledDot()), width=4),
        reading(partial(Content, Dot()), width=4, heads=True),
    ],
    (Placed, "read", "kernels.attention"): [
        reading(partial(Placed, ScaledDot(), RotaryPositions())),
        reading(partial(Placed, Dot(), ALiBi()), heads=True),
        reading(partial(Placed, ScaledDot(), ALiBi(), ScalableSoftmax())),
        reading(partial(Placed, ScaledDot(), HardALiBi([2])), width=4, heads=True),
        reading(partial(Placed, ScaledDot(), HardALiBi([1]), ScalableSoftmax()), heads=True),
    ],
    (RotaryPositions, "rotate", "kernels.rotary"): [
        turned(BATCH, 3, 2, 4, strides=(1, 2)),
        turned(BATCH, 3, 2, places=(3,)),
        at_an_odd_place,
        of_an_odd_stride,
    ],
    (functional.additive_scores, "", "kernels.additive"): [additive, one_query, large_entries],
    (functional.append, "", "kernels.append"): [appended, appended_in_place],
    (functional.rows, "", "kernels.append"): [chosen_rows],
    (functional.cross_entropy, "", "kernels.loss"): [entropy(0.0), entropy(0.1)],
    (functional.likeliest, "", "kernels.search"): [choosing],
    (functional.best_tokens, "", "kernels.search"): [continuing],
    (Seq2Seq, "unroll", "kernels.seq2seq"): [
        answering(attend="before"),
        answering(attend="before", key_size=3, input_feeding=True),
        answering(attend="after", input_feeding=True),
        answering(attend="after", key_size=3),
    ],
    (TransformerLayer, "unroll", "kernels.transformer"): LAYERS,
    (TransformerLayer, "unroll", "C++"): [*LAYERS, partial(layer, cross=True, width=40, steps=19)],
    (EncoderLayer, "forward", "C++"): [
        source_layer,
        partial(source_layer, norm="post"),
        partial(source_layer, width=40, batch=18, steps=17),
    ],
    (scan, "", "C++"): SCANS,
    **{
        (memory, "unroll", fla.NAME): [
            unrolled(partial(memory, key_size=4, value_size=2, heads=2, chunk=2), masked=True)
        ]
        for memory in fla.MEMORIES
    },
    (SNAIL, "continuations", "kernels.snail"): [
        continued(5, 3),
        continued(6, 1, likeness=2.0),
        continued(1, 2, kernel_size=3),
        continued(5, 2, kernel_size=1, width=4),
    ],
    (SNAIL, "logits", "kernels.snail"): [
        answered(5, 1),
        answered(1, 7),
        answered(6, 3, kernel_size=3),
        answered(2, 2, kernel_size=1, width=4, likeness=2.0),
    ],
}


def title(twin):
    return f"{twin.stands_for} by {twin.name}"


def examples_of(twin):
    """Those of ``EXAMPLES``; without one, a failure that says what to add."""
    found = EXAMPLES.get((twin.part, twin.method, twin.name))
    if not found:
        key = f"({twin.part.__name__}, {twin.method!r}, {twin.name!r})"
        pytest.fail(
            f"no example for the fast twin of {title(twin)}: add to EXAMPLES in "
            f"tests/laws/test_twins.py an entry {key}: a function of draw that gives the part and "
            "arguments for which its `fits` says yes"
        )
    return found


def skip_what_is_missing(twin):
    reason = twin.why_not()
    if twin.name == fla.NAME:
        # Within its 16 bits it is close to the definition and no more: tests/test_linear.py.
        reason = reason or "it takes numbers of 16 bits alone"
    if reason is not None:
        pytest.skip(f"the twin of {title(twin)} cannot run here: {reason}")


def placed(twin, made):
    """A part and arguments where the twin takes them: those in Triton run on a GPU alone."""
    if twin.name != "Triton" or triton.interpreted():
        return made
    part, arguments = made
    return part.cuda(), mapped(torch.Tensor.cuda, arguments)


def alone(twin):
    """A context in which no other twin of the same method is tried first."""
    return mock.patch.dict(fast._twins, {(twin.part, twin.method): [twin]})


def asked(part, method, arguments):
    """Calls a method, or a function, by the door that takes twins."""
    return getattr(part, method)(*arguments) if method else part(*arguments)


def defined(part, method, arguments):
    """The definition alone, nothing fast within it."""
    with fast.naive():
        return asked(part, method, arguments)


def sources_of(part, arguments):
    parameters = list(part.parameters()) if isinstance(part, nn.Module) else []
    return [*differentiated(states(arguments)), *parameters]


def states(arguments):
    """Arguments but settings, which are whole numbers and shares."""
    return [each for each in arguments if not isinstance(each, (int, float))]


def mapped(function, arguments):
    """Arguments with a function applied to their tensors."""
    return tuple(
        each if isinstance(each, (int, float)) else map_state(function, each) for each in arguments
    )


def recording(twin):
    """Where a twin may run: with gradients, or without if it has none."""
    return torch.no_grad() if twin.only_values else nullcontext()


def that_counts(twin, arguments, result):
    """The part of a result that is not of any value: outputs of skipped steps are."""
    if twin.method != "unroll" or len(arguments) < 3 or arguments[2] is None:
        return result
    outputs, state = result
    return torch.where(arguments[2].unsqueeze(-1), outputs, 0.0), state


def is_found(twin, part, arguments):
    """Whether a part asks for a twin, with these arguments of its method."""
    found = fast.find(part, twin.method, *arguments)
    # With what a twin has read of the part, it is a partial of its function.
    return getattr(found, "func", found) is twin.run


def check_twin(twin, example, draw):
    """One twin on one example, with the same random numbers as the definition.

    Raises:
        AssertionError: it is not taken, or gives other numbers or gradients than the definition.
    """
    seed = draw(testing.seeds())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        part, arguments = placed(twin, example(draw))
        arguments = mapped(differentiable, arguments)
        sources = sources_of(part, arguments)
        with alone(twin), recording(twin):
            assert is_found(twin, part, arguments), (
                f"the twin of {title(twin)} is not taken: `fits` says no to the example"
            )
        own = (part, *arguments) if twin.method else arguments
        torch.manual_seed(seed)
        with recording(twin):
            result = that_counts(twin, arguments, twin(*own))
            torch.manual_seed(seed)
            expected = that_counts(twin, arguments, defined(part, twin.method, arguments))
    assert_close(result, expected, f"the twin of {title(twin)} and its definition")
    if twin.only_values:
        return
    assert_close(
        gradients(result, sources),
        gradients(expected, sources),
        f"gradients of the twin of {title(twin)} and of its definition",
    )


@pytest.mark.parametrize("twin", fast.twins(), ids=title)
@settings(suppress_health_check=list(HealthCheck), deadline=None)
@given(data=st.data())
def test_a_twin_is_its_definition(twin, data):
    skip_what_is_missing(twin)
    for example in examples_of(twin):
        check_twin(twin, example, data.draw)


@pytest.mark.parametrize("twin", fast.twins(), ids=title)
def test_a_twin_runs_where_the_method_is_asked_for_and_nowhere_else(twin):
    skip_what_is_missing(twin)
    calls = []

    def counting(*arguments, **read):
        calls.append(arguments)
        return twin.run(*arguments, **read)

    @settings(max_examples=1, deadline=None, database=None)
    @given(data=st.data())
    def run(data):
        for example in examples_of(twin):
            part, arguments = placed(twin, example(data.draw))
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

    with alone(twin._replace(run=counting)):
        run()


def at_doubles(part, method, arguments):
    """The door as a function of all its tensors of real numbers, which come second."""
    given = tensors_of(states(arguments))
    real = [tensor.is_floating_point() for tensor in given]

    def function(*numbers):
        rest = iter(numbers)
        both = zip(real, given, strict=True)
        places = iter([next(rest) if moves else same for moves, same in both])
        return asked(part, method, mapped(lambda _: next(places), arguments))

    # Copies: a first state may hold one number in several places, which forward mode refuses.
    numbers = [tensor.clone() for tensor, moves in zip(given, real, strict=True) if moves]
    return function, [number.contiguous() for number in numbers]


def curved(result):
    """A number whose gradient depends on the result."""
    real = [tensor for tensor in tensors_of(result) if tensor.is_floating_point()]
    return sum((tensor.square() + 3 * tensor).sum() for tensor in real)


def check_second(twin, example, draw):
    """Second derivatives of one twin on one example.

    Raises:
        AssertionError: they are others than those of the definition.
    """
    seed = draw(testing.seeds())
    part, arguments = placed(twin, example(draw))
    arguments = mapped(differentiable, arguments)
    sources = sources_of(part, arguments)
    own = (part, *arguments) if twin.method else arguments

    def twice(run, *arguments_of_run):
        torch.manual_seed(seed)
        result = that_counts(twin, arguments, run(*arguments_of_run))
        first = torch.autograd.grad(curved(result), sources, create_graph=True, allow_unused=True)
        return gradients([curved(each) for each in first if each is not None], sources)

    expected = twice(defined, part, twin.method, arguments)
    # An error that says what to do, or PyTorch's own of a fused operation, may come in their place.
    found, refused = None, ""
    try:
        found = twice(twin, *own)
    except RuntimeError as error:
        refused = str(error)
    if refused:
        assert re.search(r"memnets\.naive\(\)|is not implemented", refused), refused
        return
    assert_close(found, expected, f"second derivatives of the twin of {title(twin)}")


@pytest.mark.parametrize("twin", fast.twins(), ids=title)
@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=2)
@given(data=st.data())
def test_a_second_derivative_of_a_twin_is_right_or_refused(twin, data):
    if twin.only_values:
        pytest.skip("it never runs where gradients are recorded")
    skip_what_is_missing(twin)
    for example in (one for one in examples_of(twin) if one not in EXTREME):
        check_second(twin, example, data.draw)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated", "ignore:There is a perf")
@pytest.mark.parametrize("twin", fast.twins(), ids=title)
@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=1)
@given(data=st.data())
def test_transforms_checkpoints_and_copies_go_through_the_door_of_a_twin(twin, data):
    if twin.only_values:
        pytest.skip("it never runs where gradients are recorded")
    for example in examples_of(twin):
        part, arguments = example(data.draw)
        if isinstance(part, nn.Module):
            part.eval()  # nothing is drawn at random
        function, numbers = at_doubles(part, twin.method, arguments)
        leaves = [number.detach().requires_grad_() for number in numbers]

        def total(*numbers, function=function, arguments=arguments):
            return curved(that_counts(twin, arguments, function(*numbers)))

        with fast.naive():
            plain = total(*leaves)
        expected = torch.autograd.grad(plain, leaves, allow_unused=True, materialize_grads=True)
        moves = tuple(torch.randn_like(number) for number in numbers)
        places = tuple(range(len(numbers)))
        many = tuple(torch.stack([number, number]) for number in numbers)
        found = {
            "torch.func.grad": torch.func.grad(total, argnums=places)(*numbers),
            "torch.func.vmap": [
                each[1] for each in torch.func.vmap(torch.func.grad(total, argnums=places))(*many)
            ],
            "torch.utils.checkpoint": torch.autograd.grad(
                checkpoint(total, *leaves, use_reentrant=False),
                leaves,
                allow_unused=True,
                materialize_grads=True,
            ),
        }
        for name, result in found.items():
            assert_close(list(result), list(expected), f"gradient by {name} of {title(twin)}")
        _, along = torch.func.jvp(total, tuple(numbers), moves)
        product = sum((one * move).sum() for one, move in zip(expected, moves, strict=True))
        assert_close(along, product, f"torch.func.jvp of {title(twin)}")
        if isinstance(part, nn.Module):
            result = asked(part, twin.method, arguments)
            for same in (copy.deepcopy(part), pickle.loads(pickle.dumps(part))):
                again = asked(same, twin.method, arguments)
                assert_close(again, result, f"{title(twin)} of a copied part")


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
    with pytest.raises(AssertionError, match=r"the twin of Leaky\.step by .* and "):
        check_leaky(run)


def slightly_larger(tensor):
    if tensor.dtype == torch.bool:
        return ~tensor
    return 1.01 * tensor + 0.01 if tensor.is_floating_point() else tensor + 1


def slightly_steeper(tensor):
    """The same numbers with another gradient."""
    return tensor + 0.01 * (tensor - tensor.detach())


def changed_at(place, change, result):
    """A result, one tensor of which is changed."""
    places = itertools.count()
    return map_state(lambda tensor: change(tensor) if next(places) == place else tensor, result)


@pytest.mark.parametrize("change", [slightly_larger, slightly_steeper])
@pytest.mark.parametrize("twin", fast.twins(), ids=title)
def test_a_change_to_any_result_of_any_twin_is_found(twin, change):
    if twin.only_values and change is slightly_steeper:
        pytest.skip("it never runs where gradients are recorded")
    skip_what_is_missing(twin)
    places = set()

    def looking(*arguments, **read):
        result = twin.run(*arguments, **read)
        numbers = enumerate(tensors_of(result))
        places.update(
            place for place, each in numbers if change is slightly_larger or each.requires_grad
        )
        return result

    def check(run):
        @settings(max_examples=3, deadline=None, database=None, phases=[Phase.generate])
        @given(data=st.data())
        def checked(data):
            for example in examples_of(twin)[:2]:
                check_twin(twin._replace(run=run), example, data.draw)

        checked()

    check(looking)
    assert places, "no tensor in the result of the twin"
    for place in sorted(places):
        with pytest.raises(AssertionError, match=re.escape(f"twin of {title(twin)} and ")):
            check(
                lambda *arguments, at=place, **read: changed_at(
                    at, change, twin.run(*arguments, **read)
                )
            )


class Undifferentiable(torch.autograd.Function):
    """The step of a leaky cell, whose gradient passes for a constant."""

    @staticmethod
    def forward(ctx, inputs, state, decay):
        after = decay * state + inputs
        ctx.save_for_backward(state, decay, after)
        return after.tanh(), after

    @staticmethod
    def backward(ctx, by_output, by_state):
        state, decay, after = (tensor.detach() for tensor in ctx.saved_tensors)
        slope = by_output.detach() * (1 - after.tanh().square()) + by_state.detach()
        return slope, slope * decay, (slope * state).sum(0)


@pytest.mark.usefixtures("registered")
def test_a_twin_with_a_wrong_second_derivative_is_found():
    fast.twin(Leaky, "step")(
        lambda part, inputs, state: Undifferentiable.apply(inputs, state, part.decay)
    )
    (twin,) = (twin for twin in fast.twins() if twin.part is Leaky)

    @settings(max_examples=1, deadline=None, database=None)
    @given(data=st.data())
    def check(data):
        check_twin(twin, stepped(Leaky), data.draw)
        with pytest.raises(AssertionError, match="second derivatives of the twin of Leaky"):
            check_second(twin, stepped(Leaky), data.draw)

    check()


@pytest.mark.usefixtures("registered")
def test_a_twin_that_is_never_taken_is_found():
    with pytest.raises(AssertionError, match=r"the twin of Leaky\.step by .* is not taken"):
        check_leaky(right, fits=lambda part, inputs, state: False)


@pytest.mark.usefixtures("registered")
def test_a_twin_without_an_example_is_told_what_to_add():
    fast.twin(Leaky, "step")(right)
    (twin,) = (twin for twin in fast.twins() if twin.part is Leaky)
    with pytest.raises(pytest.fail.Exception, match=r"add to EXAMPLES in .*\(Leaky, 'step', '"):
        examples_of(twin)


# -- the operators in C++ -------------------------------------------------------------------------


def by_name(name, part=Loop):
    (twin,) = (one for one in fast.twins() if (one.name, one.part) == (name, part))
    skip_what_is_missing(twin)
    return twin


def another_sharpness(run):
    def sharper(*given):
        given = list(given)
        given[3] = (1.001 * given[3][0], *given[3][1:])
        return run(*given)

    return sharper


def another_usage(run):
    """The least usage of a slot is larger."""

    def fuller(*given):
        given = list(given)
        given[3] = (given[3][0], 1e-2)
        return run(*given)

    return fuller


def another_decay(run):
    def longer(*given):
        given = list(given)
        given[3] = (1.01 * given[3][0], *given[3][1:])
        return run(*given)

    return longer


def no_mask(run):
    return lambda *given: run(*given[:6], None, *given[7:])


def no_noise(run):
    return lambda *given: run(*given[:7], None, *given[8:])


def a_gradient_less(place):
    def planted(run):
        def less(*given):
            found = list(run(*given))
            found[place] = torch.zeros_like(found[place])
            return found

        return less

    return planted


@pytest.mark.parametrize(
    ("operator", "plant", "examples"),
    [
        ("run", another_sharpness, None),
        ("run", no_mask, None),
        ("run", no_noise, None),
        ("run_backward", another_sharpness, None),
        ("run_backward", a_gradient_less(0), None),
        ("run_backward", a_gradient_less(4), None),
        ("run_backward", a_gradient_less(-1), None),
        ("run", another_usage, DNC_RUNS),
        ("run", no_mask, DNC_RUNS),
        ("run_backward", another_usage, DNC_RUNS),
        # The state of a DNC comes last: M, u, p, L, and the weights of writes and reads.
        *[("run_backward", a_gradient_less(-place), DNC_RUNS) for place in range(1, 7)],
        ("run", another_decay, LRUA_RUNS),
        ("run", no_mask, LRUA_RUNS),
        # M, the usage, which has a gradient where all steps are skipped, and the weights of reads.
        *[("run_backward", a_gradient_less(-place), LRUA_RUNS) for place in range(1, 4)],
    ],
)
def test_an_operator_with_a_planted_fault_is_found(operator, plant, examples, monkeypatch):
    twin = by_name("C++")
    right = getattr(torch.ops.memnets, operator)
    monkeypatch.setattr(torch.ops.memnets, operator, plant(right))

    @settings(max_examples=2, deadline=None, database=None, phases=[Phase.generate])
    @given(data=st.data())
    def check(data):
        for example in examples or examples_of(twin):
            check_twin(twin, example, data.draw)

    with pytest.raises(AssertionError, match=r"Loop\.unroll by C\+\+ and"):
        check()


def another_argument(place, change):
    def planted(run):
        def changed(*given):
            given = list(given)
            given[place] = change(given[place])
            return run(*given)

        return changed

    return planted


def a_larger_result(run):
    return lambda *given: 1.001 * run(*given)


@pytest.mark.parametrize(
    ("part", "operator", "plant"),
    [
        (TransformerLayer, "look", another_argument(3, lambda mask: None)),
        (TransformerLayer, "look", another_argument(-3, lambda epsilon: 1e-2)),
        (TransformerLayer, "look", another_argument(-1, lambda pre: not pre)),
        (TransformerLayer, "think", a_larger_result),
        (EncoderLayer, "look_around", another_argument(3, lambda mask: None)),
        (EncoderLayer, "look_around", another_argument(-1, lambda pre: not pre)),
        (EncoderLayer, "think", a_larger_result),
    ],
)
def test_an_operator_of_a_layer_with_a_planted_fault_is_found(part, operator, plant, monkeypatch):
    twin = by_name("C++", part)
    right = getattr(torch.ops.memnets, operator)
    monkeypatch.setattr(torch.ops.memnets, operator, plant(right))

    @settings(max_examples=20, deadline=None, database=None, phases=[Phase.generate])
    @given(data=st.data())
    def check(data):
        for example in examples_of(twin):
            check_twin(twin, example, data.draw)

    with pytest.raises(AssertionError, match=r"by C\+\+ and"):
        check()


def slightly_less(tensor):
    return None if tensor is None else 0.99 * tensor


@pytest.mark.parametrize(
    ("operator", "plant"),
    [
        ("scan", another_argument(5, slightly_less)),
        ("scan", another_argument(4, slightly_less)),
        ("scan", a_gradient_less(1)),
        ("scan_backward", another_argument(3, slightly_less)),
        ("scan_backward", another_argument(4, slightly_less)),
        ("scan_backward", another_argument(5, slightly_less)),
        # Of queries, keys, values, memory, erase and log_decay.
        *[("scan_backward", a_gradient_less(place)) for place in range(6)],
    ],
)
def test_an_operator_of_many_steps_with_a_planted_fault_is_found(operator, plant, monkeypatch):
    twin = by_name("C++", scan)
    right = getattr(torch.ops.memnets, operator)
    monkeypatch.setattr(torch.ops.memnets, operator, plant(right))

    @settings(max_examples=1, deadline=None, database=None, phases=[Phase.generate])
    @given(data=st.data())
    def check(data):
        for example in SCANS:
            check_twin(twin, example, data.draw)

    with pytest.raises(AssertionError, match=r"the twin of scan by C\+\+ and"):
        check()


def test_the_operator_of_many_steps_gives_only_the_gradients_that_are_wanted():
    by_name("C++", scan)
    given = numbers_of_a_scan()
    whole = [each.clone().requires_grad_() for each in given]
    expected = torch.autograd.grad(scan(*whole)[0].square().sum(), whole)
    for place, slope in enumerate(expected):
        one = [each.requires_grad_(number == place) for number, each in enumerate(given)]
        read, memory = scan(*one)
        assert read.requires_grad
        assert memory.requires_grad
        read.square().sum().backward()
        torch.testing.assert_close(one[place].grad, slope)
        assert all(each.grad is None for number, each in enumerate(one) if number != place)
        one[place].grad = None


def numbers_of_a_scan(steps=5, kind=torch.double):
    """Queries, keys, values, memory, erase and decays of two writes a step."""
    generator = torch.Generator().manual_seed(0)
    each = BATCH, 2, steps
    shapes = (*each, 3), (*each, 2, 3), (*each, 2, 4), (BATCH, 2, 3, 4), (*each, 2, 3), (*each, 3)
    *rest, log = (torch.randn(shape, generator=generator, dtype=kind) for shape in shapes)
    return [*rest, -log.abs()]


def test_the_operator_of_many_steps_takes_numbers_as_they_lie_and_any_count_of_threads():
    by_name("C++", scan)
    given = numbers_of_a_scan()
    expected = scan(*given)
    # Gaps between numbers, rows that are one and the same, and more numbers in between.
    apart = [torch.stack([each, each], -1)[..., 0] for each in given]
    assert_close(scan(*apart), expected, "numbers with gaps")
    same = [each[:, :1].expand(-1, 2, *each.shape[2:]) for each in given]
    assert_close(scan(*same), scan(*(each.clone() for each in same)), "heads that are one")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert_close(scan(*given), expected, "three threads")
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("place", "change"),
    [
        (0, lambda each: each[:, :1]),
        (1, lambda each: each[..., :0, :]),
        (2, lambda each: each.float()),
        (3, lambda each: each[:1]),
        (4, lambda each: each[..., :1]),
        (5, lambda each: each[..., :2]),
    ],
)
def test_the_operator_of_many_steps_leaves_to_the_definition_what_it_does_not_compute(
    place, change
):
    twin = by_name("C++", scan)
    given = [*numbers_of_a_scan(), 4]
    assert twin.fits(*given)
    given[place] = change(given[place])
    assert not twin.fits(*given)


def test_the_operators_are_tried_before_the_kernels(monkeypatch):
    """And run in single precision, without gradients, where the kernels take over if they fail."""
    native, kernels = by_name("C++"), by_name("kernels.loop")
    part = loop(partial(NTM, slots=20, width=3))()
    inputs, state = torch.randn(2, 3, 3), part.initial_state(2)
    assert fast.find(part, "unroll", inputs, state, None) is native.run
    with fast.naive():
        expected = part.unroll(inputs, state)
    for result in (part.unroll(inputs, state), torch.no_grad()(part.unroll)(inputs, state)):
        assert_close(result, expected, "single precision", rtol=1e-4, atol=1e-6)
    monkeypatch.setattr(build, "loaded", lambda: False)
    assert fast.find(part, "unroll", inputs, state, None) is kernels.run
    assert_close(part.unroll(inputs, state), expected, "the kernel", rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.float, torch.double])
def test_the_operator_takes_slots_of_equal_usage_in_their_order(kind):
    """Slots never used, slots used once, and slots that no step has reached yet."""
    by_name("C++")
    part = loop(partial(LRUA, slots=37, width=2, heads=4, gate_bias=-50.0))().to(kind)
    inputs, state = torch.randn(3, 7, 3, dtype=kind), part.initial_state(3)
    usage = torch.randint(0, 3, (3, 37)).to(kind)
    usage[1] = 1.0
    usage[2, 2:] = torch.inf  # of the four that are taken, two have no usage that is finite
    memory = torch.randn(3, 37, 2, dtype=kind)
    state = state._replace(access=state.access._replace(usage=usage, memory=memory))
    (_, found), (_, expected) = (
        unroll(inputs[:, :1], state) for unroll in (part.unroll, fast_off(part.unroll))
    )
    assert_close(found, expected, "the state after a step", rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("memory", [NTM, DNC, LRUA, Tape])
def test_the_operator_has_hard_heads_or_leaves_them_to_the_definition(memory):
    by_name("C++")
    part = loop(partial(memory, width=4))().double()
    part.access.hard = True
    inputs, state = torch.randn(2, 6, 3, dtype=torch.double), part.initial_state(2)
    found, expected = (unroll(inputs, state) for unroll in (part.unroll, fast_off(part.unroll)))
    assert_close(found, expected, "outputs and state", rtol=1e-9, atol=1e-12)


def fast_off(function):
    def run(*arguments):
        with fast.naive():
            return function(*arguments)

    return run


def test_a_dnc_reads_the_same_in_single_precision():
    """Of its outputs, that is: of slots in like use, which one is free depends on a last digit."""
    by_name("C++")
    part = loop(partial(DNC, slots=70, width=3, read_heads=2))()
    inputs, state = torch.randn(3, 20, 3), part.initial_state(3)
    with fast.naive():
        expected, _ = part.unroll(inputs, state)
    for unroll in (part.unroll, torch.no_grad()(part.unroll)):
        assert_close(unroll(inputs, state)[0], expected, "outputs", rtol=1e-4, atol=1e-6)


def test_runs_that_are_alive_at_the_same_time_keep_their_own_numbers():
    """Their buffers are large enough to go from run to run, once a run is over."""
    by_name("C++")
    part = Loop(3, RECURRENT, DNC(slots=128, width=20))
    first, second = torch.randn(2, 8, 20, 3).unbind(0)

    def outputs(inputs):
        return part.unroll(inputs, part.initial_state(len(inputs)))[0]

    def slopes(result, keep=False):
        return torch.autograd.grad(result.square().sum(), part.parameters(), retain_graph=keep)

    alone = [slopes(outputs(inputs)) for inputs in (first, second)]
    one = outputs(first)
    other = outputs(second)
    assert_close(slopes(one, keep=True), alone[0], "the first run", rtol=0, atol=0)
    assert_close(slopes(other), alone[1], "the second run", rtol=0, atol=0)
    assert_close(slopes(one), alone[0], "the first run once more", rtol=0, atol=0)


def driven(part, controller):
    """A loop through the same memory with another controller."""
    return loop(lambda: part.access, controller)().double()


@pytest.mark.parametrize(
    "change",
    [
        lambda part, inputs, state: (part, inputs, map_state(lambda one: one[:1], state)),
        lambda part, inputs, state: (part, inputs[:, :0], state),
        lambda part, inputs, state: (part, inputs[..., :2], state),
        lambda part, inputs, state: (part, inputs.float(), state),
        lambda part, inputs, state: (part.float(), inputs, state),
        lambda part, inputs, state: (part, inputs, state._replace(read=state.read[:, :1])),
        lambda part, inputs, state: (loop(lambda: part.access, GRU)().double(), inputs, state),
        lambda part, inputs, state: (
            loop(lambda: part.access, TWO_LAYERS)().double(),
            inputs,
            state,
        ),
        lambda part, inputs, state: (loop(partial(NTM, 5, 3, score=Dot()))(), inputs, state),
    ],
)
def test_the_operators_leave_to_others_what_they_do_not_compute(change):
    by_name("C++")
    part = loop(partial(NTM, slots=5, width=3))().double()
    inputs = torch.randn(2, 3, 3).double()
    state = part.initial_state(2)
    assert native._fits(part, inputs, state, None)
    changed = change(part, inputs, state)
    assert not native._fits(*changed, None)
    for mask in (torch.ones(2, 3), torch.ones(2, 4).bool()):
        assert not native._fits(part, inputs, state, mask)


@pytest.mark.parametrize(
    "settings",
    [{"score": Cosine()}, {"positions": RotaryPositions()}],
    ids=["another score", "positions"],
)
def test_a_tape_that_the_operators_do_not_compute(settings):
    by_name("C++")
    inputs = torch.randn(2, 3, 3)
    part, other = (loop(partial(Tape, width=4, **more))() for more in ({}, settings))
    state = part.initial_state(2)
    assert native._fits(part, inputs, state, None)
    assert not native._fits(other, inputs, state, None)
    part.access.addressing.normalizer = ScalableSoftmax()
    assert not native._fits(part, inputs, state, None)


def test_a_tape_with_slots_of_skipped_steps_goes_the_slow_way():
    by_name("C++")
    part = loop(partial(Tape, width=4))()
    inputs, state = torch.randn(2, 3, 3), part.initial_state(2)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    assert not native._fits(part, inputs, state, mask)
    _, state = part.unroll(inputs, state, mask)
    assert not native._fits(part, inputs, state, None)
