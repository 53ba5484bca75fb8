"""Numbers of 16 bits: mixed precision, loss scaling, and parts that are of 16 bits themselves."""

import copy
import math
from functools import partial
from inspect import isabstract

import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch import nn

from memnets import addressing, encoders, functional, memories, models
from memnets.addressing import (
    Allocating,
    AllocatingQuery,
    Content,
    Hard,
    Hopfield,
    LeastRecent,
    LeastRecentQuery,
    LeastUsed,
    Linked,
    LinkedQuery,
    Local,
    NTMAddressing,
    NTMQuery,
    Recent,
    Sharp,
    SharpQuery,
)
from memnets.batches import Batch
from memnets.cells import (
    GRU,
    LSTM,
    LSTMN,
    ALiBi,
    Chain,
    ConvolutionalLayer,
    CoupledPositions,
    Embedding,
    FeedForward,
    HardALiBi,
    Inputs,
    LearnedPositions,
    NoPositions,
    Output,
    PeriodicPositions,
    Positions,
    RandomisedPositions,
    RotaryPositions,
    ShiftedPositions,
    SinusoidalPositions,
    StickBreaking,
    positions,
)
from memnets.cells.positions import Placed
from memnets.core import Addressing, Memory, MemoryAccess, map_state
from memnets.embedders import Patches
from memnets.features import VectorFeatures
from memnets.memories import (
    DNC,
    LRUA,
    NTM,
    SAM,
    TTT,
    GatedDeltaNet,
    Linear,
    MovingTape,
    NeuralDeque,
    NeuralStack,
    Stack,
    Tape,
)
from memnets.models import (
    GAN,
    SNAIL,
    CausalTransformer,
    ConvS2S,
    DecomposableAttention,
    KeyValueNetwork,
    MemoryMachine,
    MemoryNetwork,
    MetaLearner,
    Model,
    OnlineLearner,
    PointerNetwork,
    Prototypical,
    Seq2Seq,
    SequenceModel,
    StackModel,
    Trained,
    TrainingDiverged,
    Transformer,
    episodes,
)
from memnets.normalizers import Entmax15, GumbelHard, ScalableSoftmax, Softmax, Sparsemax, TopK
from memnets.precision import full_precision
from memnets.scores import Additive, Cosine, Distance, Dot, General, ScaledDot, SquaredDistance
from memnets.training.objectives import Candidates, Labels, Numbers, Tokens
from tasks import (
    Babi,
    CopyingTokens,
    Countries,
    Images,
    PropositionalLogic,
    Sinusoids,
    SortingNumbers,
    Task,
)

# Lightning's own, such as of a loader without workers.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

HALF = [torch.bfloat16, torch.float16]
SIZES = {"hidden_size": 6}
CONTROLLERS = {
    "LSTM": partial(LSTM, **SIZES),
    "two layers": partial(LSTM, layers=2, **SIZES),
    "GRU": partial(GRU, **SIZES),
    "LSTMN": partial(LSTMN, **SIZES),
    "FeedForward": partial(FeedForward, **SIZES),
    "Chain": partial(Chain, controllers=[partial(FeedForward, **SIZES), partial(LSTM, **SIZES)]),
}
MEMORIES = {
    "NTM": partial(NTM, 5, 3),
    "DNC": partial(DNC, 5, 3),
    "LRUA": partial(LRUA, 5, 3, 2),
    "SAM": partial(SAM, 8, 3, 2, 3),
    "stack": partial(Stack, 5, 3),
    "neural stack": partial(NeuralStack, 3),
    "neural deque": partial(NeuralDeque, 3),
    "moving tape": partial(MovingTape, 5, 3),
    "Tape": partial(Tape, 3),
    "linear": partial(GatedDeltaNet, 4, 3, heads=2, chunk=3),
    "TTT": partial(TTT, 4, 3),
    "none": lambda: None,
}
ATTENTIONS = {
    "none": lambda: None,
    "additive": lambda: Content(Additive(12)),
    "dot": lambda: Content(Dot(), ScalableSoftmax()),
    "entmax": lambda: Content(General(12), Entmax15()),
    "hard": lambda: Hard(Dot()),
    "local": lambda: Local(General(12), size=12, reach=2),
}


class Episodes(Task):
    """Vectors of two classes, some with their label."""

    input_size, output_size = 6, 2

    def test_names(self):
        return []

    def batch(self, split, index):
        vectors = torch.randn(4, 7, 4)
        labels = torch.arange(7).expand(4, -1) % 2
        marked = torch.cat([vectors, nn.functional.one_hot(labels, 2)], -1)
        hidden = torch.cat([vectors, torch.zeros(4, 7, 2)], -1)
        return Batch(marked[:, :4], hidden[:, 4:], labels[:, 4:].contiguous())


FEW = {"batch_size": 4, "epoch_batches": 9, "validation_batches": 1}
COPYING = partial(CopyingTokens, symbols=8, max_length=4, test_sets=[], **FEW)
#: Model -> the task that it is trained on, if it cannot copy.
TASKS = {
    "pointer network": partial(SortingNumbers, min_points=3, max_points=5, **FEW),
    "key-value network": partial(Countries, "S1", most_facts=9, **FEW),
    "meta-learner": partial(Sinusoids, queries=3, **FEW),
    "decomposable": partial(PropositionalLogic, **FEW),
    "prototypical": partial(Episodes, **FEW),
    "online learner": partial(Episodes, **FEW),
    "memory network": partial(Babi, questions=20, batch_size=4),
    "GAN": partial(Images, noise=4, **FEW),
}


def pointer():
    encoder = partial(encoders.Recurrent, controller=partial(LSTM, hidden_size=6))
    decoder = partial(LSTM, hidden_size=12)
    return PointerNetwork(
        1, encoder, decoder, Content(Additive(8)), width=8, glimpses=1, objective=Tokens()
    )  # fmt: skip


def seq2seq(attention, attend="before", **settings):
    encoder = partial(encoders.Recurrent, controller=partial(LSTM, hidden_size=6))
    decoder = partial(LSTM, hidden_size=12)
    return Seq2Seq(
        12, 12, encoder, decoder, attention(), width=8, attend=attend, input_feeding=True,
        objective=Tokens(), **settings,
    )  # fmt: skip


def machine(controller="LSTM", memory="NTM", **settings):
    torch.manual_seed(0)
    access = MEMORIES[memory]()
    return MemoryMachine(12, 12, CONTROLLERS[controller], access, objective=Tokens(), **settings)


MODELS = {
    **{f"{memory} machine": partial(machine, memory=memory) for memory in MEMORIES},
    **{f"seq2seq {name}": partial(seq2seq, make) for name, make in ATTENTIONS.items()},
    "truncated": partial(machine, memory="DNC", tbptt_steps=3),
    "seq2seq after": partial(seq2seq, lambda: Content(ScaledDot()), "after"),
    "seq2seq gated": partial(
        seq2seq, lambda: Content(Additive(12)), gated=True, doubly_stochastic=0.1
    ),
    "transformer": lambda: Transformer(12, 12, 8, 2, 1, 8, objective=Tokens()),
    "causal": lambda: CausalTransformer(12, 12, 8, 2, 1, 8, objective=Tokens()),
    "ConvS2S": lambda: ConvS2S(12, 12, 8, 1, 2, objective=Tokens()),
    "SNAIL": lambda: SNAIL(
        12, 12, 8, 20, attentions=[(4, 4), (4, 4)], filters=4, objective=Tokens()
    ),
    "stack": lambda: StackModel(
        12, 12, partial(LSTM, hidden_size=6), width=8, layers=2, hidden_size=8, objective=Tokens()
    ),
    "sequence": lambda: SequenceModel(
        Inputs(*[Embedding(12, 8)] * 2), GRU(8, hidden_size=6), Output(6, 12), objective=Tokens()
    ),
    "key-value network": lambda: KeyValueNetwork(280, 280, 8, 2, objective=Candidates()),
    "pointer network": pointer,
    "memory network": lambda: MemoryNetwork(40, 40, objective=Labels()),
    "meta-learner": lambda: MetaLearner(
        2, 1, partial(SNAIL, max_length=40, attentions=[(4, 4)], filters=4), objective=Numbers()
    ),
    "online learner": lambda: OnlineLearner(
        6, 2, partial(MemoryMachine, controller=partial(LSTM, hidden_size=4)), objective=Labels()
    ),
    "decomposable": lambda: DecomposableAttention(
        15, 7, partial(encoders.IntraAttention, hidden_size=8), 8, 8, objective=Labels()
    ),
    "GAN": lambda: GAN(4, 64, filters=8),
    "prototypical": lambda: Prototypical(
        6, 2, features=partial(VectorFeatures, output_size=4), objective=Labels()
    ),
}


def exported(module, kind):
    """All classes of a kind that a module exports."""
    named = {getattr(module, name) for name in module.__all__}
    return {each for each in named if isinstance(each, type) and issubclass(each, kind)}


def test_no_model_and_no_memory_is_left_out():
    tried = {type(make()) for make in MODELS.values()}
    assert exported(models, Trained) - tried == {Model, Trained}
    # The named models of linear memories are one memory with other gates.
    tried = {type(make()) for make in MEMORIES.values()}
    named = {each for each in exported(memories, MemoryAccess) if issubclass(each, Linear)}
    # A queue is the memory of a stack, read at its other end.
    bases = {memories.Slotted, memories.Strengths, memories.NeuralQueue}
    assert exported(memories, MemoryAccess) - tried - named == bases


def fit(model, steps=3, task=COPYING, **settings):
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        use_distributed_sampler=False, gradient_clip_val=1.0, **settings,
    )  # fmt: skip
    trainer.fit(model, datamodule=task())
    return trainer


def scaled(scale):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler)]}


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true"])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_in_every_precision(name, precision):
    model = MODELS[name]()
    before = weights(model)
    settings = scaled(64.0) if precision == "16-mixed" else {"precision": precision}
    trainer = fit(model, task=TASKS.get(name, COPYING), **settings)
    assert trainer.global_step == 3
    after = weights(model.float())
    assert all(part.isfinite().all() for part in after)
    assert any((one != other).any() for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_a_machine_under_autocast_has_the_loss_of_single_precision(controller, memory, half):
    model = machine(controller, memory).eval()
    tokens = torch.randint(3, 12, (3, 6))
    batch = Batch(tokens, tokens, tokens)
    single = model.loss(batch)
    with torch.autocast("cpu", half):
        loss = model.loss(batch)
        loss.backward()  # under autocast too, as many write it
    assert abs(loss.item() - single.item()) < 0.02
    mixed = [part.grad for part in model.parameters() if part.grad is not None]
    named = [part for part in model.parameters() if part.grad is not None]
    for one, other in zip(mixed, torch.autograd.grad(single, named), strict=True):
        torch.testing.assert_close(one, other, atol=0.02, rtol=0.1)


class Lerping(MemoryAccess):
    """Somebody's own memory, which knows nothing of autocast."""

    interface_size = read_size = 4

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def initial_state(self, batch_size):
        return self.layer.weight.new_zeros(batch_size, 4)

    def forward(self, interface, state):
        state = torch.lerp(state, self.layer(interface), 0.1)
        return state, state


@pytest.mark.parametrize("half", HALF)
def test_a_memory_of_ones_own_needs_to_know_nothing_of_autocast(half):
    model = MemoryMachine(3, 2, partial(LSTM, hidden_size=5), Lerping())
    with torch.autocast("cpu", half):
        outputs, state = model(torch.randn(2, 4, 3))
    assert state.body.access.dtype == state.body.read.dtype == torch.float32
    outputs.sum().backward()
    access = Lerping().to(half)
    vectors, state = access(torch.randn(2, 4, dtype=half), access.initial_state(2))
    assert vectors.dtype == state.dtype == half
    vectors.sum().backward()
    assert access.layer.weight.grad.dtype == half


# -- loss scaling ----------------------------------------------------------------------------------


def test_a_step_whose_scaled_gradient_overflows_is_skipped():
    model = MODELS["transformer"]()
    before = weights(model)
    settings = scaled(2.0**40)
    fit(model, **settings)
    assert settings["plugins"][0].scaler.get_scale() == 2.0**37
    for one, other in zip(before, weights(model), strict=True):
        assert (one == other).all()


class Broken(Transformer):
    """A finite loss, whose gradient is not."""

    def loss(self, batch):
        loss = super().loss(batch)
        return loss + (self.output.bias.sum() * 0).sqrt()


def broken(**settings):
    model = Broken(12, 12, 8, 2, 1, 8, objective=Tokens())
    return partial(fit, model, **settings)


def test_without_a_scaler_a_gradient_that_is_not_finite_ends_the_training():
    with pytest.raises(TrainingDiverged, match="the norm of the gradient became nan at step 0"):
        broken()()
    with pytest.raises(TrainingDiverged, match="the norm of the gradient became nan at step 0"):
        broken(precision="bf16-mixed")()


def test_a_gradient_that_no_scale_mends_ends_the_training():
    with pytest.raises(TrainingDiverged, match="the norm of the gradient became nan at step 4"):
        broken(**scaled(2.0**-13), steps=9)()


def test_a_loss_that_is_not_finite_ends_the_training_with_a_scaler_too():
    model = MODELS["transformer"]()
    with torch.no_grad():
        model.output.bias[:] = math.nan
    with pytest.raises(TrainingDiverged, match="the loss became nan"):
        fit(model, **scaled(64.0))


# -- parts of 16 bits ------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [Dot, ScaledDot, SquaredDistance, Cosine, partial(General, 4)])
@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize("autocast", [False, True])
def test_scores_beyond_the_range_of_16_bits_are_told_apart(score, half, autocast):
    score = score()
    if isinstance(score, General):
        with torch.no_grad():
            score.projection.weight.copy_(torch.eye(4))
    content = Content(score)
    query = torch.full((1, 2, 4), 320.0, dtype=half)
    keys = torch.tensor([[[320.0] * 4, [200.0] * 4]], dtype=half)
    if not autocast:
        content = content.to(half)
    with torch.autocast("cpu", half, enabled=autocast):
        found, _ = content(query, Memory(keys, keys))
        vectors, _ = content.read(query, Memory(keys, keys), None)
    assert found.dtype == (torch.float32 if autocast else half)
    best = [0.5, 0.5] if isinstance(score, Cosine) else [1.0, 0.0]
    torch.testing.assert_close(found[0].float(), torch.tensor([best, best]))
    assert vectors.isfinite().all()


def test_a_window_goes_on_beyond_what_16_bits_can_count():
    local = Local(Dot(), reach=1).bfloat16()
    keys = torch.zeros(1, 300, 2, dtype=torch.bfloat16)
    query = torch.zeros(1, 1, 2, dtype=torch.bfloat16)
    state = local.initial_state(Memory(keys, keys))
    for _ in range(290):
        found, state = local(query, Memory(keys, keys), state)
    assert found[0, 0].nonzero().flatten().tolist() == [288, 289, 290]


def test_results_come_back_in_the_type_that_was_given():
    double = full_precision(lambda *tensors: tuple(2 * tensor for tensor in tensors))
    half, single = torch.ones(2).half(), torch.ones(2)
    assert [part.dtype for part in double(half, half)] == [torch.float16] * 2
    assert [part.dtype for part in double(half, single)] == [torch.float32] * 2
    assert [part.dtype for part in double(half.bfloat16(), half)] == [torch.float32] * 2
    assert double(half, torch.ones(2, dtype=torch.long))[1].dtype == torch.long
    assert double(single, single.double())[1].dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        product, number = full_precision(lambda one, other: (one @ other, one))(half, single)
    assert product.dtype == number.dtype == torch.float32


def test_a_tensor_that_is_in_a_result_twice_stays_one():
    twice = full_precision(lambda tensor: (tensor, [tensor.exp(), tensor]))
    first, (other, last) = twice(torch.ones(2).half())
    assert first is last
    assert other is not first


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_hard_weights_are_in_the_state_too(dtype):
    torch.manual_seed(0)
    one, shift = torch.ones(2, 1, 1, dtype=dtype), torch.tensor([[0.1, 0.7, 0.2]], dtype=dtype)
    memory = Memory(*[torch.randn(2, 5, 4).to(dtype)] * 2)
    addressing = NTMAddressing()
    addressing.hard = True
    query = NTMQuery(torch.randn(2, 1, 4).to(dtype), one, one / 2, shift.expand(2, 1, 3), one)
    weights, state = addressing(query, memory, addressing.initial_state(memory))
    assert torch.equal(weights, state)
    assert sorted(set(weights.flatten().tolist())) == [0, 1]


@pytest.mark.parametrize("half", HALF)
def test_functions_take_what_autocast_mixes(half):
    torch.manual_seed(0)
    row, gate = torch.rand(2, 1, 5).softmax(-1), torch.rand(2, 1, 1)
    memory, add = torch.randn(2, 5, 3), torch.randn(2, 1, 3)
    calls = {
        "interpolate": (row.to(half), row, gate.to(half)),
        "write_weighting": (row.to(half), row, gate.to(half), gate),
        "shift": (row, gate.expand(-1, -1, 3).softmax(-1).to(half)),
        "sharpen": (row, 1 + gate.to(half)),
        "cosine_similarity": (add.to(half), memory),
        "erase_add": (memory, row, add.sigmoid().to(half), add.to(half)),
        "retention": (row, gate.to(half)),
        "allocation": (row.to(half),),
        "link": (torch.zeros(2, 5, 5), row[:, 0], row[:, 0].to(half)),
        "forward_weighting": (torch.rand(2, 5, 5), row.to(half)),
        "sparsemax": (row.to(half),),
        "entmax15": (row.to(half),),
    }
    for name, arguments in calls.items():
        function = getattr(functional, name)
        expected = function(*(argument.to(half).float() for argument in arguments))
        with torch.autocast("cpu", half):
            result = function(*arguments)
        assert result.dtype == torch.float32, name
        torch.testing.assert_close(result, expected, atol=0.02, rtol=0.02)


# -- what is no number -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "normalizer",
    [Softmax, ScalableSoftmax, Sparsemax, Entmax15, GumbelHard, partial(TopK, 2)],
)
def test_scores_that_are_no_numbers_leave_nan(normalizer, value):
    for training in (False, True):
        part = normalizer().train(training)
        scores = torch.tensor([[[value, 0.0, 1.0], [0.0, 1.0, 2.0]]], requires_grad=True)
        mask = torch.tensor([[[True, True, False], [True, True, True]]])
        for result in (part(scores), part(scores, mask)):
            assert result[0, 0].isnan().any()
            assert result[0, 1].isfinite().all()
            result.sum().backward()
        hidden = part(scores, torch.tensor([[[False, True, True]]]))
        assert hidden.isfinite().all()


@pytest.mark.parametrize("attention", [Sparsemax, Entmax15, Softmax, GumbelHard])
def test_weights_that_are_no_numbers_end_the_training(attention):
    model = seq2seq(lambda: Content(Additive(12), attention()))
    with torch.no_grad():
        model.attention.score.direction[0] = math.nan
    with pytest.raises(TrainingDiverged, match="the loss became nan at step 0"):
        fit(model)


# -- many slots: places, ages and counts beyond the whole numbers that 16 bits have ----------------

MANY = 1000
#: Queries with fields, by the class that takes them.
FIELDS = {
    NTMAddressing: lambda key, gate, share: NTMQuery(key, 1 + gate, gate, share, 1 + gate),
    Sharp: lambda key, gate, share: SharpQuery(key, 1 + gate),
    Allocating: lambda key, gate, share: AllocatingQuery(key, 1 + gate, gate, gate),
    Linked: lambda key, gate, share: LinkedQuery(key, 1 + gate, share),
    LeastUsed: lambda key, gate, share: gate,
    LeastRecent: lambda key, gate, share: LeastRecentQuery(gate, gate),
}
ADDRESSINGS = [
    partial(Content, Dot()),
    partial(Content, ScaledDot(), ScalableSoftmax()),
    partial(Content, Dot(), Sparsemax()),
    partial(Content, Dot(), Entmax15()),
    partial(Content, Distance(Dot(), 500)),
    Hopfield,
    partial(Recent, Dot(), slope=0.05),
    partial(Local, Dot(), reach=20),
    partial(Local, Dot(), 8),
    partial(Hard, Dot()),
    *FIELDS,
]
SCHEMES = [
    NoPositions,
    RotaryPositions,
    ALiBi,
    partial(ALiBi, [1.5, 0.5, 0.05]),
    HardALiBi,
    StickBreaking,
    partial(RandomisedPositions, RotaryPositions(), 5000),
    partial(RandomisedPositions, ALiBi(), 5000),
]
ADDED = [
    partial(SinusoidalPositions, 8),
    partial(LearnedPositions, 8, 5000),
    partial(PeriodicPositions, 8),
    partial(RandomisedPositions, SinusoidalPositions(8), 5000),
    partial(CoupledPositions, SinusoidalPositions(8)),
    partial(ShiftedPositions, CoupledPositions(SinusoidalPositions(8)), 3000),
]


def made_by(part):
    return getattr(part, "func", part)


def name_of_part(part):
    parts = (type(each).__name__ for each in getattr(part, "args", ()))
    return " ".join([made_by(part).__name__, *parts])


def test_no_addressing_and_no_scheme_of_positions_is_left_out():
    known = {getattr(addressing, name) for name in addressing.__all__}
    known = {kind for kind in known if issubclass(kind, Addressing) and not isabstract(kind)}
    assert {made_by(part) for part in ADDRESSINGS} == known
    known = {getattr(positions, name) for name in positions.__all__}
    known = {kind for kind in known if isinstance(kind, type) and issubclass(kind, Positions)}
    assert {made_by(part) for part in SCHEMES + ADDED} == known - {Positions}


def assert_rounded(result, expected, of, roundings):
    """Assert that numbers in bfloat16 are right but for some roundings of numbers of a size."""
    assert result.dtype == torch.bfloat16
    error = (result.float() - expected).abs()
    greatest = (error / of.abs().clamp_min(1e-30)).max()
    assert greatest <= roundings * 2**-8, f"{greatest / 2**-8:.1f} roundings"


def in_32(tensor):
    return tensor.float() if tensor.is_floating_point() else tensor


def compare_in_16_bits(part, query, memory, state, reads=2.0):
    """Weights, scores and reads of a part in bfloat16, beside those of the same numbers in 32."""
    whole, exact = copy.deepcopy(part).float(), map_state(in_32, (query, memory, state))
    weights, expected = part(query, memory, state)[0], whole(*exact)[0]
    # The least weights are as exact as a thousandth of the greatest of the row.
    assert_rounded(weights, expected, expected + 1e-3 * expected.amax(-1, keepdim=True), 1.0)
    vectors, right = part.read(query, memory, state)[0], whole.read(*exact)[0]
    assert_rounded(vectors, right, expected @ exact[1].values.abs(), reads)
    if isinstance(part, Content):
        scores, right = part.scores(query, memory), whole.scores(*exact[:2])
        assert torch.equal(scores.isinf(), right.isinf())
        scores, right = (each.masked_fill(each.isinf(), 0.0) for each in (scores, right))
        assert_rounded(scores, right, right.abs() + 1e-3 * right.abs().amax(), 1.0)


def memory_of_many(batch, mask):
    keys, values = torch.randn(2, *batch, MANY, 8).bfloat16()
    return Memory(keys, values, mask)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("part", ADDRESSINGS, ids=name_of_part)
def test_many_slots_in_16_bits_are_addressed_as_in_32(part, masked):
    torch.manual_seed(0)
    part = part().bfloat16().eval()
    memory = memory_of_many((2,), torch.rand(2, 1, MANY) > 0.3 if masked else None)
    key, gate = torch.randn(2, 3, 8).bfloat16(), torch.rand(2, 3, 1).bfloat16()
    share = torch.rand(2, 3, 3).softmax(-1).bfloat16()
    query = FIELDS.get(type(part), lambda key, gate, share: key)(key, gate, share)
    state = part.initial_state(memory)
    if isinstance(part, Local):
        state = state + 700
    if isinstance(part, (LeastUsed, LeastRecent)):
        state = state._replace(read=state.read.expand(2, 3, MANY))
    compare_in_16_bits(part, query, memory, state, 4.0)


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("part", SCHEMES, ids=name_of_part)
def test_many_steps_in_16_bits_are_told_apart_as_in_32(part, far):
    torch.manual_seed(0)
    part = Placed(ScaledDot(), part()).bfloat16().eval()
    mask = None
    if far:
        # A query that sees the first slots alone, hundreds of steps away.
        mask = torch.ones(2, 1, 3, MANY, dtype=torch.bool)
        mask[:, :, 0, 300:] = False
    query = torch.randn(2, 4, 3, 8).bfloat16()
    compare_in_16_bits(part, query, memory_of_many((2, 4), mask), None)


@pytest.mark.parametrize("part", ADDED, ids=name_of_part)
def test_many_places_in_16_bits_have_the_vectors_of_32(part):
    part = part().bfloat16().eval()
    places = torch.arange(MANY).expand(2, -1)
    expected = copy.deepcopy(part).float()(places)
    assert_rounded(part(places), expected, expected.abs() + 1e-3, 1.0)


def test_a_bias_that_is_learned_has_its_gradient_in_16_bits():
    class Slope(Positions):
        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(0.01))

        def bias(self, distance, heads):
            return (-self.slope * distance).unsqueeze(-3)

    torch.manual_seed(0)
    part = Placed(ScaledDot(), Slope()).bfloat16()
    whole = copy.deepcopy(part).float()
    query, memory = torch.randn(2, 4, 3, 8).bfloat16(), memory_of_many((2, 4), None)
    part.read(query, memory)[0].float().sum().backward()
    whole.read(*map_state(in_32, (query, memory)))[0].sum().backward()
    found, expected = part.positions.slope.grad, whole.positions.slope.grad
    assert abs(found - expected) < 0.05 * abs(expected)


def test_many_examples_of_a_class_have_their_mean_in_16_bits():
    torch.manual_seed(0)
    vectors = (1 + torch.rand(2, MANY, 4)).bfloat16()
    labels = nn.functional.one_hot(torch.zeros(2, MANY, dtype=torch.long), 2).bfloat16()
    for means in (episodes.earlier, lambda *pair: episodes.prototypes(*pair, None)):
        found, expected = means(vectors, labels), means(vectors.float(), labels.float())
        assert_rounded(found.keys, expected.keys, expected.keys, 1.0)


def test_the_places_of_a_large_image_are_exact_in_16_bits():
    patches = Patches(1, filters=(1,), halvings=0, coordinates=True).bfloat16()
    vectors, _ = patches(torch.zeros(1, 2, MANY, 1, dtype=torch.bfloat16))
    columns = vectors[0, :MANY, 2]
    assert torch.equal(columns, torch.linspace(-1, 1, MANY).bfloat16())


def test_a_long_source_is_scaled_by_its_length_in_16_bits():
    memory = ConvolutionalLayer(4).bfloat16()
    source = torch.ones(1, 291, 8, dtype=torch.bfloat16)
    whole, masked = (memory.start(source, mask).memory for mask in (None, source[..., 0] > 0))
    assert torch.equal(whole.values, masked.values)


def test_more_slots_than_float16_can_count_are_read():
    part = Content(ScaledDot(), ScalableSoftmax()).half()
    keys = torch.ones(1, 70_000, 1, dtype=torch.float16)
    vectors, _ = part.read(keys[:, :1], Memory(keys, keys))
    assert vectors.item() == 1
