"""Every part of the library under the laws of its kind."""

from functools import partial

import pytest
import torch
from hypothesis import strategies as st

from memnets import testing
from memnets.addressing import (
    Allocating,
    Content,
    Hard,
    Hopfield,
    LeastRecent,
    LeastRecentQuery,
    LeastUsed,
    Linked,
    Local,
    NTMAddressing,
    NTMQuery,
    Recent,
    Sharp,
)
from memnets.cells import (
    GRU,
    LSTM,
    LSTMN,
    ALiBi,
    AttentionBlock,
    Chain,
    ConvolutionalLayer,
    CoupledPositions,
    CrossAttention,
    DenseBlock,
    Direct,
    FeedForward,
    GatedConvolution,
    HardALiBi,
    LearnedPositions,
    Loop,
    Mixer,
    NoPositions,
    PeriodicPositions,
    Pointwise,
    RandomisedPositions,
    Residual,
    RotaryPositions,
    SelfAttention,
    ShiftedPositions,
    ShortConvolution,
    SinusoidalPositions,
    StickBreaking,
    TCBlock,
    TransformerLayer,
    residual_stack,
)
from memnets.core import Memory
from memnets.memories import (
    DNC,
    GLA,
    KDA,
    LRUA,
    NTM,
    SAM,
    TTT,
    DeltaNet,
    DeltaProduct,
    GatedDeltaNet,
    Linear,
    LinearAttention,
    Mamba2,
    MovingTape,
    NeuralDeque,
    NeuralQueue,
    RetNet,
    Stack,
    Strengths,
    Tape,
)
from memnets.models import MemoryMachine
from memnets.normalizers import Entmax15, GumbelHard, ScalableSoftmax, Softmax, Sparsemax, TopK
from memnets.scores import (
    Additive,
    Concat,
    Cosine,
    Distance,
    Dot,
    General,
    Location,
    ScaledDot,
    SquaredDistance,
)

#: Profile of Hypothesis, see ``fewer_examples``.
FEWER = "parts"
pytestmark = pytest.mark.usefixtures("fewer_examples")

NORMALIZERS = [
    Softmax,
    ScalableSoftmax,
    Sparsemax,
    Entmax15,
    partial(TopK, 1),
    partial(TopK, 3),
    GumbelHard,
    partial(GumbelHard, 0.5),
]
SCORES = [
    Dot,
    ScaledDot,
    partial(General, 4),
    partial(Additive, 4),
    partial(Concat, 4),
    Cosine,
    SquaredDistance,
]


#: What a part is not meant to keep: a Gumbel draw has the gradient of another function, the first
#: of all slots and a score by location have none.
LEAVE_OUT = {
    "TopK(1)": ["reached"],
    "GumbelHard": ["finite_differences"],
    "GumbelHard(0.5)": ["finite_differences"],
}


def name(part):
    """A class and its arguments, as they would be written; the type of a module."""
    if isinstance(part, partial):
        arguments = [str(value) for value in part.args]
        arguments += [f"{key}={name(value)}" for key, value in part.keywords.items()]
        return f"{part.func.__name__}({','.join(arguments)})"
    if isinstance(part, torch.nn.Module):
        return type(part).__name__
    return getattr(part, "__name__", str(part))


@pytest.mark.parametrize("score", SCORES, ids=name)
def test_score(score):
    testing.check_score(score)


def test_score_by_location():
    # It looks at the query alone.
    testing.check_score(Location, size=4, slots=6, symmetry=None, leave_out=["reached"])


def test_score_by_distance():
    testing.check_score(partial(Distance, Dot(), 1), symmetry=None)


@pytest.mark.parametrize("normalizer", NORMALIZERS, ids=name)
def test_normalizer(normalizer):
    testing.check_normalizer(normalizer, leave_out=LEAVE_OUT.get(name(normalizer), []))


@pytest.mark.parametrize("score", SCORES, ids=name)
def test_content_with_each_score(score):
    testing.check_addressing(Content, score=score())


@pytest.mark.parametrize("normalizer", NORMALIZERS[1:], ids=name)
def test_content_with_each_normalizer(normalizer):
    leave_out = LEAVE_OUT.get(name(normalizer), [])
    testing.check_addressing(Content, score=Dot(), normalizer=normalizer(), leave_out=leave_out)


def test_hopfield():
    testing.check_addressing(Hopfield, max_examples=3)


def test_recent():
    testing.check_addressing(Recent, score=Additive(4), symmetry=None)


def test_content_by_location():
    testing.check_addressing(Content, score=Location(4, 9), symmetry=None, leave_out=["reached"])


@pytest.mark.parametrize("size", [None, 4], ids=["monotonic", "predictive"])
def test_local(size):
    testing.check_addressing(Local, score=Dot(), size=size, reach=1, symmetry=None, whole=False)


@pytest.mark.parametrize("expected", [0.0, 0.5])
def test_hard(expected):
    # Its draws have no gradient.
    testing.check_addressing(
        Hard, score=General(4), expected=expected, symmetry=None, leave_out=["reached"]
    )


@pytest.mark.parametrize("normalizer", [Softmax, Sparsemax], ids=name)
def test_ntm_addressing(normalizer):
    testing.check_addressing(
        NTMAddressing, normalizer=normalizer(), query=testing.ntm_queries, symmetry="rotation"
    )


@pytest.mark.parametrize("normalizer", [Softmax, Sparsemax], ids=name)
def test_sharp(normalizer):
    testing.check_addressing(Sharp, normalizer=normalizer(), query=testing.sharp_queries)


@pytest.mark.parametrize("normalizer", [Softmax, Sparsemax], ids=name)
def test_allocating(normalizer):
    # Of slots of one usage the first comes first.
    testing.check_addressing(
        Allocating,
        normalizer=normalizer(),
        query=testing.allocating_queries,
        symmetry=None,
        whole=False,
    )


@pytest.mark.parametrize("normalizer", [Softmax, Sparsemax], ids=name)
def test_linked(normalizer):
    testing.check_addressing(
        Linked, normalizer=normalizer(), query=testing.linked_queries, whole=False
    )


def test_least_used():
    def gates(memory, count, special):
        shape = (*memory.keys.shape[:-2], count, 1)
        return testing.tensors(shape, memory.keys.dtype, 0.0, 1.0, special)

    # A choice among slots by their use has no gradient; of slots of one use the first is chosen.
    testing.check_addressing(
        LeastUsed, query=gates, whole=False, symmetry=None, leave_out=["reached"]
    )


def test_least_recent():
    def gates(memory, count, special):
        shape = (*memory.keys.shape[:-2], count, 1)
        pair = testing.tensors(shape, memory.keys.dtype, 0.0, 1.0, special)
        return st.builds(LeastRecentQuery, pair, pair)

    # A choice among slots by their times has no gradient, nor has a first state without a read.
    testing.check_addressing(
        LeastRecent,
        query=gates,
        whole=False,
        symmetry=None,
        leave_out=["reached"],
        max_examples=2,
    )


def test_ntm_addressing_with_the_first_slot_masked():
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(1, 5, 3, generator=generator).half().requires_grad_()
    mask = torch.arange(5).view(1, 1, 5) > 0
    memory = Memory(keys, keys, mask)
    ones = torch.ones(1, 1, 1, dtype=torch.float16)
    gate = (0 * ones).requires_grad_()
    query = NTMQuery(keys[:, :1], ones, gate, shift=ones, sharpness=4 * ones)
    addressing = NTMAddressing()
    weights, _ = addressing(query, memory, addressing.initial_state(memory))
    gradients = torch.autograd.grad(weights[0, 0, 1].float(), (keys, gate))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    "access",
    [
        partial(NTM, slots=6, width=3),
        partial(NTM, slots=5, width=2, read_heads=2, write_heads=3, shift_range=5),
        partial(NTM, slots=4, width=2, read_heads=2, write_heads=1, noise=0.1),
        partial(NTM, slots=4, width=3, score=Dot(), alike=True),
        partial(
            NTM, slots=4, width=3, read_heads=2, hard=True, alike=True, gate_bias=[1.0, 2.0, 3.0]
        ),
        partial(DNC, slots=5, width=3),
        partial(DNC, slots=4, width=2, read_heads=3),
        partial(DNC, slots=4, width=3, read_heads=2, score=Dot()),
        partial(LRUA, slots=6, width=3, heads=2),
        partial(LRUA, slots=3, width=2, heads=3, decay=0.5, score=Dot()),
        partial(SAM, slots=7, width=3, heads=2, read_slots=4, alike=True, gate_bias=-1.0),
        partial(Stack, slots=4, width=3),
        partial(Stack, slots=3, width=2, stacks=2, visible=2, initial_value=-1.0),
        partial(MovingTape, slots=2, width=3, tapes=2, gated=False),
        partial(MovingTape, slots=5, width=2, jumps=True),
        partial(NeuralQueue, width=2, count=2),
        partial(NeuralDeque, width=2, count=2),
        partial(Tape, width=3),
        partial(Tape, width=3, read_heads=2, score=Additive(3)),
        partial(TTT, 3, 3, heads=2, normed=True),
        partial(TTT, 3, 2, hidden_size=4),
    ],
    ids=name,
)
def test_access(access):
    # A tape has no number of slots. Within loops, below, all memories but one are compiled.
    leave_out = ["slots"] if access.func in (Tape, TTT) else []
    if access.func is not SAM:
        leave_out.append("compiled")
    if issubclass(access.func, Strengths):
        # It grows, too. Of an element that is popped nothing is left: tests/test_stack.py.
        leave_out += ["slots", "early_steps", "through_time"]
    if access.func is NeuralDeque:  # two pops in a step may take all there is, whatever they are
        leave_out.append("interface")
    if "jumps" in access.keywords:  # how far a head jumps is told once; without a source, it stays
        leave_out += ["writes", "interface"]
    if "hidden_size" in access.keywords:  # its docstring says that great inputs need the norm
        leave_out.append("extremes")
    if access.keywords.get("hard"):  # its gradient is no slope, and it has no sharpness
        leave_out += ["finite_differences", "interface"]
    testing.check_access(access, leave_out=leave_out)


@pytest.mark.parametrize(
    "memory",
    [
        partial(LinearAttention, 4, 2, heads=2, chunk=2),
        partial(RetNet, 4, 2, heads=2, chunk=3),
        partial(GLA, 4, 2, heads=2, chunk=2),
        partial(Mamba2, 4, 2, heads=2, chunk=2),
        partial(DeltaNet, 4, 2, negative=True, chunk=2),
        partial(GatedDeltaNet, 4, 2, heads=2, chunk=3),
        partial(KDA, 4, 2, heads=2, chunk=3),
        partial(DeltaProduct, 4, 2, heads=2, writes=2, gated=True, chunk=2),
        partial(Linear, 3, 2, decay="vector", erase="vector", write="vector", chunk=2),
    ],
    ids=name,
)
def test_linear(memory):
    # One of them is compiled, in a mixer, below.
    testing.check_linear(memory, leave_out=["compiled"], max_examples=2)


POSITIONS = {
    "none": NoPositions,
    "learned": partial(LearnedPositions, 4, 7),
    "sinusoidal": partial(SinusoidalPositions, 4),
    "periodic": partial(PeriodicPositions, 4, 3),
    "rotary": RotaryPositions,
    "ALiBi": ALiBi,
    "windows": HardALiBi,
    "windows of all heads": partial(HardALiBi, [2, 3]),
    "randomised, added": lambda: RandomisedPositions(SinusoidalPositions(4), 4),
    "randomised, rotary": lambda: RandomisedPositions(RotaryPositions(), 4, 2),
    "stick-breaking": StickBreaking,
    "coupled, shifted": lambda: ShiftedPositions(CoupledPositions(SinusoidalPositions(4)), 3, 2),
}


@pytest.mark.parametrize("scheme", POSITIONS)
def test_positions(scheme):
    testing.check_positions(POSITIONS[scheme], max_examples=2)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("controller", [LSTM, GRU, FeedForward])
def test_controller(controller, layers):
    # With one layer they are compiled as cells, below; more are the same code for all.
    leave_out = [] if layers == 2 and controller is LSTM else ["compiled"]
    testing.check_controller(controller, hidden_size=8, layers=layers, leave_out=leave_out)


def test_chain():
    controllers = [partial(FeedForward, hidden_size=5), partial(LSTM, hidden_size=4), LSTMN]
    testing.check_controller(Chain, controllers=controllers, leave_out=["compiled"])


def test_lstmn():
    testing.check_controller(LSTMN, hidden_size=5, key_size=3, leave_out=["compiled"])
    testing.check_controller(
        LSTMN, hidden_size=4, recency=0.5, leave_out=["compiled"], max_examples=3
    )


def within_loop(access):
    return partial(Loop, controller=partial(LSTM, hidden_size=4), access=access)


def stack_of(mixer, norm="pre"):
    return lambda size: residual_stack(mixer, layers=2, width=size, hidden_size=5, norm=norm)


CELLS = {
    "feed-forward": partial(FeedForward, hidden_size=5),
    "direct": Direct,
    "LSTM": partial(LSTM, hidden_size=5),
    "GRU": partial(GRU, hidden_size=5),
    "LSTMN": partial(LSTMN, hidden_size=5, key_size=3),
    "chain": partial(
        Chain, controllers=[partial(SelfAttention, heads=2), partial(GRU, hidden_size=3)]
    ),
    "loop, NTM": within_loop(NTM(slots=4, width=3)),
    "loop, DNC": within_loop(DNC(slots=4, width=3)),
    "loop, LRUA": within_loop(LRUA(slots=4, width=3, heads=2)),
    "loop, stack": within_loop(Stack(slots=4, width=3)),
    "loop, moving tape": within_loop(MovingTape(slots=4, width=3)),
    "loop, neural deque": within_loop(NeuralDeque(width=2)),
    "loop, tape": within_loop(Tape(width=3)),
    "loop, delta rule": within_loop(DeltaNet(key_size=3, value_size=3)),
    "mixer, delta rule": partial(
        Mixer, access=GatedDeltaNet(3, 2, heads=2, chunk=2), convolution=4, gated=True
    ),
    "mixer, tape": partial(Mixer, access=Tape(width=3, read_heads=2)),
    "short convolution": partial(ShortConvolution, kernel_size=4),
    "loop, convolution": partial(
        Loop, controller=partial(DenseBlock, filters=2, kernel_size=5), access=Tape(width=3)
    ),
    "residual, pre": lambda size: Residual(LSTM(size, size)),
    "residual, post": lambda size: Residual(SelfAttention(size, 2), norm="post"),
    "pointwise": lambda size: Pointwise(torch.nn.Linear(size, 3), size, 3),
    "self-attention": partial(SelfAttention, heads=2),
    "self-attention, windows": partial(SelfAttention, heads=2, positions=HardALiBi([2])),
    "self-attention, stick-breaking": partial(SelfAttention, heads=2, positions=StickBreaking()),
    "attention block": partial(AttentionBlock, key_size=3, value_size=2),
    "dense block": partial(DenseBlock, filters=2, kernel_size=5),
    "gated convolution": partial(GatedConvolution, kernel_size=5),
    "TC block": partial(TCBlock, length=8, filters=2),
    "Transformer layer": partial(TransformerLayer, heads=2, hidden_size=5),
    "stack of LSTMs": stack_of(partial(LSTM, hidden_size=3)),
    "stack of self-attention": stack_of(partial(SelfAttention, heads=2), "post"),
    "stack of loops": stack_of(within_loop(NTM(slots=4, width=3))),
}


#: A graph takes long to make. These consist of cells that are compiled alone, or are compiled in
#: another form.
NOT_COMPILED = [
    *("stack of LSTMs", "stack of self-attention", "stack of loops"),
    *("residual, post", "Transformer layer", "loop, convolution", "gated convolution"),
    *("self-attention, windows", "self-attention, stick-breaking"),
    *("loop, delta rule", "mixer, tape", "short convolution", "loop, moving tape"),
]


@pytest.mark.parametrize("cell", CELLS)
def test_cell(cell):
    leave_out = ["compiled"] if cell in NOT_COMPILED else []
    testing.check_cell(CELLS[cell], leave_out=leave_out, max_examples=3)


def test_convolution_with_a_dilation():
    # Of the steps that come before, it sees every other one.
    leave_out = ["early_steps", "through_time", "compiled"]
    testing.check_cell(DenseBlock, filters=2, dilation=2, kernel_size=3, leave_out=leave_out)


def test_attention_to_a_source():
    # No step changes what the next one sees. It is compiled in a layer.
    testing.check_cell(
        CrossAttention, sourced=True, heads=2, leave_out=["early_steps", "compiled"], max_examples=3
    )
    testing.check_cell(
        partial(TransformerLayer, cross=True, norm="post"),
        sourced=True,
        heads=2,
        hidden_size=5,
        max_examples=3,
    )


def test_convolution_with_attention_to_a_source():
    # Half of its input is the layer below, half the embedding. It is compiled in a model.
    testing.check_cell(
        lambda size: ConvolutionalLayer(size // 2, kernel_size=5),
        sourced=True,
        leave_out=["compiled"],
        max_examples=3,
    )


# Loops over each memory are checked, and compiled, as cells above; so are controllers.
@pytest.mark.parametrize(
    ("controller", "access"),
    [
        pytest.param(LSTM, None, id="LSTM alone"),
        pytest.param(FeedForward, None, id="feed-forward alone"),
        pytest.param(LSTM, NTM(slots=4, width=3), id="LSTM, NTM"),
        pytest.param(FeedForward, DNC(slots=4, width=3), id="feed-forward, DNC"),
        pytest.param(GRU, LRUA(slots=4, width=3, heads=2), id="GRU, LRUA"),
        pytest.param(LSTM, Tape(width=3), id="LSTM, tape"),
    ],
)
def test_machine(controller, access):
    testing.check_model(
        MemoryMachine,
        input_size=2,
        output_size=2,
        controller=partial(controller, hidden_size=8),
        access=access,
        leave_out=[] if (controller, access) == (LSTM, None) else ["compiled"],
        max_examples=3,
    )
