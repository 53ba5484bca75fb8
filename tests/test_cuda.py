"""On a GPU: the numbers of the CPU, no waiting, graphs, mixed precision, twins, and whole fits.

Every test skips without a CUDA device. ``MEMNETS_CUDA=cpu`` tries the tests themselves on a CPU.
"""

import importlib.util
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as lightning
import torch

from memnets import encoders, fast
from memnets.addressing import Content, Hard, Local
from memnets.batches import Batch
from memnets.cells import (
    GRU,
    LSTM,
    LSTMN,
    ALiBi,
    AttentionBlock,
    CoupledPositions,
    Direct,
    FeedForward,
    HardALiBi,
    LearnedPositions,
    Loop,
    Mixer,
    NoPositions,
    RandomisedPositions,
    RotaryPositions,
    SinusoidalPositions,
    StickBreaking,
)
from memnets.core import map_state
from memnets.features import VectorFeatures
from memnets.memories import (
    DNC,
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
    MovingTape,
    NeuralDeque,
    NeuralQueue,
    NeuralStack,
    Stack,
    Tape,
)
from memnets.models import (
    SNAIL,
    CausalTransformer,
    ConvS2S,
    MemoryMachine,
    MetaLearner,
    OnlineLearner,
    PointerNetwork,
    Prototypical,
    Seq2Seq,
    StackModel,
    TrainingDiverged,
    Transformer,
)
from memnets.normalizers import Entmax15, ScalableSoftmax, Sparsemax
from memnets.scores import Additive, Dot, General
from memnets.testing.waiting import no_synchronisation
from memnets.training import Labels, Model, Tokens
from memnets.training.graphs import CudaRecorder, FixedOptimizer, GraphedSteps, settings_of_modules
from tasks import Copying

DEVICE = os.environ.get("MEMNETS_CUDA", "cuda")
TRIAL = DEVICE != "cuda"

pytestmark = [
    pytest.mark.skipif(not TRIAL and not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),
]


@pytest.fixture(autouse=True)
def whole_numbers_of_float32():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def with_triton() -> None:
    """Lets Triton's twins run; without this, kernels need not be compiled."""
    if not any(map(in_triton, fast.twins())):
        pytest.skip("no twin in Triton")


@pytest.fixture(autouse=True)
def chosen_twins(request, monkeypatch):
    if "with_triton" not in request.fixturenames:
        fast.twins()  # loads them
        chosen = {
            key: [twin for twin in same if not in_triton(twin)] for key, same in fast._twins.items()
        }
        monkeypatch.setattr(fast, "_twins", chosen)


def in_triton(twin):
    return "triton" in twin.run.__module__


class Rerun:
    """Stands for CUDA graphs in a trial on a CPU."""

    def warm(self, function):
        return function()

    def record(self, function):
        return function


def recorder():
    return Rerun() if TRIAL else CudaRecorder()


# -- every model -----------------------------------------------------------------------------------

SIZE = 9
ENCODER = partial(encoders.Recurrent, controller=partial(GRU, hidden_size=4))
LSTM6 = partial(LSTM, hidden_size=6)


def machine(controller, access=None, **settings):
    return MemoryMachine(5, 4, controller, access, **settings)


def seq2seq(attention, **settings):
    return Seq2Seq(
        SIZE, SIZE, ENCODER, partial(GRU, hidden_size=8), attention, width=6, objective=Tokens(),
        **settings,
    )  # fmt: skip


SMALL = {"width": 8, "heads": 2, "layers": 1, "hidden_size": 8, "objective": Tokens(0.1)}
SMALL_SNAIL = {"max_length": 20, "attentions": [(3, 2), (4, 3)], "filters": 2}

#: Memories beside those of 2014 to 2016.
MEMORIES = {
    "SAM": lambda: SAM(8, 3, 2, 3),
    "Stack": lambda: Stack(6, 3, stacks=2),
    "noise, Stack": lambda: Stack(6, 3, noise=0.5),
    "NeuralStack": lambda: NeuralStack(3),
    "NeuralQueue": lambda: NeuralQueue(3),
    "NeuralDeque": lambda: NeuralDeque(3),
    "MovingTape": lambda: MovingTape(6, 3, tapes=2),
    "LinearAttention": lambda: LinearAttention(4, 3, heads=2),
    "DeltaNet": lambda: DeltaNet(4, 3, heads=2),
    "GatedDeltaNet": lambda: GatedDeltaNet(4, 3, heads=2, chunk=3),
    "KDA": lambda: KDA(4, 3, heads=2),
    "DeltaProduct": lambda: DeltaProduct(4, 3, heads=2, writes=2),
    "TTT": lambda: TTT(4, 3),
}
#: Schemes of positions.
SCHEMES = {
    "none": NoPositions,
    "sinusoidal": lambda: SinusoidalPositions(8),
    "rotary": RotaryPositions,
    "ALiBi": ALiBi,
    "hard ALiBi": HardALiBi,
    "randomised": lambda: RandomisedPositions(RotaryPositions()),
    "coupled": lambda: CoupledPositions(SinusoidalPositions(8)),
    "stick-breaking": StickBreaking,
}


def under_lstm(memory):
    return machine(LSTM6, MEMORIES[memory]())


def mixed(memory):
    return StackModel(
        SIZE, SIZE, partial(Mixer, access=MEMORIES[memory](), gated=True), width=8, layers=2,
        hidden_size=8, objective=Tokens(),
    )  # fmt: skip


def in_places(scheme):
    return CausalTransformer(SIZE, SIZE, dropout=0.0, positions=SCHEMES[scheme](), **SMALL)


#: Models, by the kind of their batches.
VECTORS = {
    "LSTM": lambda: machine(LSTM6),
    "two layers": lambda: machine(partial(LSTM, hidden_size=6, layers=2), NTM(6, 3)),
    "LSTM, NTM": lambda: machine(LSTM6, NTM(6, 3)),
    "LSTM, NTM, heads": lambda: machine(LSTM6, NTM(6, 3, read_heads=2, write_heads=2)),
    "NTM, spread": lambda: machine(LSTM6, NTM(6, 3, initial_spread=0.1)),
    "GRU, NTM": lambda: machine(partial(GRU, hidden_size=6), NTM(6, 3)),
    "feed-forward, NTM": lambda: machine(partial(FeedForward, hidden_size=6), NTM(6, 3)),
    "LSTM, DNC": lambda: machine(LSTM6, DNC(6, 3, read_heads=2)),
    "LSTM, LRUA": lambda: machine(LSTM6, LRUA(6, 3, 2)),
    "LSTM, Tape": lambda: machine(LSTM6, Tape(3)),
    "LSTMN": lambda: machine(partial(LSTMN, hidden_size=6)),
    "truncated": lambda: machine(LSTM6, NTM(6, 3), tbptt_steps=2),
    "SNAIL of vectors": lambda: SNAIL(5, 4, **SMALL_SNAIL),
    **{f"LSTM, {name}": partial(under_lstm, name) for name in MEMORIES},
}
TOKENS = {
    "plain": lambda: seq2seq(None),
    "additive": lambda: seq2seq(Content(Additive(8))),
    "dot, scalable": lambda: seq2seq(Content(Dot(), ScalableSoftmax()), attend="after"),
    "entmax": lambda: seq2seq(Content(General(8), Entmax15()), attend="after"),
    "sparsemax, fed": lambda: seq2seq(
        Content(General(8), Sparsemax()), attend="after", input_feeding=True
    ),
    "local": lambda: seq2seq(Local(General(8), size=8, reach=2), attend="after"),
    "Transformer": lambda: Transformer(SIZE, SIZE, dropout=0.0, **SMALL),
    "causal": lambda: CausalTransformer(
        SIZE, SIZE, dropout=0.0, positions=LearnedPositions(8, 30), **SMALL
    ),
    "SNAIL": lambda: SNAIL(SIZE, SIZE, width=6, objective=Tokens(), **SMALL_SNAIL),
    "machine of tokens": lambda: MemoryMachine(SIZE, SIZE, LSTM6, NTM(6, 3), objective=Tokens()),
    "ConvS2S": lambda: ConvS2S(SIZE, SIZE, 8, 1, 2, dropout=0.0, objective=Tokens()),
    **{
        f"mixed {name}": partial(mixed, name)
        for name in MEMORIES
        if isinstance(MEMORIES[name](), Linear)
    },
    **{f"{name} positions": partial(in_places, name) for name in SCHEMES},
}
POINTERS = {
    "pointer": lambda: PointerNetwork(
        2, ENCODER, partial(LSTM, hidden_size=8), Content(Additive(6)), width=6, glimpses=1,
        objective=Tokens(),
    ),
    "read, process, write": lambda: PointerNetwork(
        2, encoders.Process, partial(LSTM, hidden_size=8), Content(Additive(6)), width=6,
        complete=True, objective=Tokens(),
    ),
    "pointer, attention": lambda: PointerNetwork(
        2, partial(encoders.SelfAttention, layers=1, heads=2, hidden_size=8),
        partial(LSTM, hidden_size=8), Content(Additive(6)), width=6, objective=Tokens(),
    ),
}  # fmt: skip
EPISODES = {
    "learner": lambda: MetaLearner(
        5, 2, partial(SNAIL, **SMALL_SNAIL), partial(VectorFeatures, output_size=4),
        objective=Labels(),
    ),
    "prototypical": lambda: Prototypical(
        5, 2, partial(VectorFeatures, output_size=4), objective=Labels()
    ),
    "online": lambda: OnlineLearner(
        5, 2, partial(MemoryMachine, controller=Direct, access=LRUA(6, 3)), objective=Labels()
    ),
}  # fmt: skip
MODELS = {**VECTORS, **TOKENS, **POINTERS, **EPISODES}


def batch_for(name, masked, seed=0, steps=4):
    generator = torch.Generator().manual_seed(seed)
    rows, read = 3, 5

    def tokens(low, high, count):
        return torch.randint(low, high, (rows, count), generator=generator)

    def numbers(count, width):
        return torch.randn(rows, count, width, generator=generator)

    source_mask = torch.arange(read) < torch.tensor([[5], [3], [4]]) if masked else None
    target_mask = torch.arange(steps) < torch.tensor([[steps], [1], [2]]) if masked else None
    masks = source_mask, target_mask
    if name in TOKENS:
        # For models that are coupled: each step of the answer belongs to one of the source.
        places = (torch.arange(count).expand(rows, -1) % read for count in (read, steps))
        given = tokens(4, SIZE, read), tokens(2, SIZE, steps), tokens(3, SIZE, steps)
        return Batch(*given, *masks, None, *places)
    if name in POINTERS:
        # Inputs of the mark that begins; each target points at the first step, open so far.
        inputs = torch.full((rows, steps), 2)
        targets = torch.full((rows, steps), 4)
        return Batch(numbers(read, 2), inputs, targets, *masks)
    if name in EPISODES:
        labels = torch.nn.functional.one_hot(tokens(0, 2, read), 2).float()
        source = torch.cat([numbers(read, 3), labels], -1)
        queries = torch.cat([numbers(steps, 3), torch.zeros(rows, steps, 2)], -1)
        # Each class has an example before any padding.
        source[:, :2, 3:] = torch.eye(2)
        return Batch(source, queries, tokens(0, 2, steps), *masks)
    return Batch(numbers(read, 5), numbers(steps, 5), numbers(steps, 4).sigmoid(), *masks)


def moved(value, device=DEVICE):
    return map_state(lambda tensor: tensor.to(device), value)


def made(name, device=DEVICE) -> Model:
    torch.manual_seed(0)
    return MODELS[name]().to(device).train()


def loss_and_gradients(model, batch):
    loss = model.loss(batch)
    loss.backward()
    named = {name: part.grad for name, part in model.named_parameters() if part.grad is not None}
    return {"loss": loss.detach(), **named}


def assert_near(result, expected, rtol=1e-3, atol=2e-5):
    assert result.keys() == expected.keys()
    for name, value in result.items():
        torch.testing.assert_close(
            value.detach().cpu(), expected[name].detach().cpu(), rtol=rtol, atol=atol,
            msg=lambda message, name=name: f"{name}: {message}",
        )  # fmt: skip


#: Models that draw numbers in training: a GPU draws others than a CPU, of the same seed.
DRAWING = {"LSTM, noise, Stack", "randomised positions"}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", [name for name in MODELS if name not in DRAWING])
def test_loss_and_gradients_are_those_of_the_cpu(name, masked):
    batch = batch_for(name, masked)
    expected = loss_and_gradients(made(name, "cpu"), batch)
    assert_near(loss_and_gradients(made(name), moved(batch)), expected)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", [*MODELS, "hard"])
def test_a_step_never_waits(name, masked):
    if name == "hard":
        torch.manual_seed(0)
        model, name = seq2seq(Hard(Dot())).to(DEVICE).train(), "plain"
    else:
        model = made(name)
    batch = moved(batch_for(name, masked))
    optimizer = torch.optim.Adam(model.parameters())
    # The first step prepares constants.
    model.whole_step(batch, optimizer, 1.0)
    if TRIAL:
        return
    with no_synchronisation(DEVICE):
        model.whole_step(batch, optimizer, 1.0)


def test_a_step_that_waits_is_found():
    if TRIAL:
        return
    numbers = torch.ones(3, device=DEVICE)
    with pytest.raises(RuntimeError, match="synchroniz"), no_synchronisation(DEVICE):
        numbers.sum().item()


def trained_steps(model, batches, graphs):
    optimizer = FixedOptimizer(torch.optim.Adam(model.parameters(), lr=0.01))
    step = partial(model.whole_step, optimizer=optimizer, greatest_norm=0.5)
    run = GraphedSteps(step, recorder(), settings_of_modules(model)) if graphs else step
    torch.manual_seed(5)
    results = {}
    for number, batch in enumerate(batches):
        optimizer._optimizer.param_groups[0]["lr"] = 0.01 / (1 + number)
        optimizer.read_rates()
        loss, norm = run(batch)
        results.update({f"loss {number}": loss.clone(), f"norm {number}": norm.clone()})
    if graphs:
        assert run.count >= 1
    return {**results, **dict(model.named_parameters())}


@pytest.mark.parametrize("name", [*MODELS, "noise", "dropout"])
def test_graphs_give_the_numbers_of_plain_steps(name):
    def model():
        torch.manual_seed(0)
        if name == "noise":
            return machine(LSTM6, NTM(6, 3, noise=0.5)).to(DEVICE).train()
        if name == "dropout":
            return Transformer(SIZE, SIZE, dropout=0.2, **SMALL).to(DEVICE).train()
        return made(name)

    kind = {"noise": "LSTM", "dropout": "plain"}.get(name, name)
    order = [(4, False), (4, True), (4, False), (4, True), (4, False), (4, True)]
    batches = [
        moved(batch_for(kind, masked, seed, steps)) for seed, (steps, masked) in enumerate(order)
    ]
    expected = trained_steps(model(), batches, graphs=False)
    assert_near(trained_steps(model(), batches, graphs=True), expected, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_a_step_in_mixed_precision(name):
    batch = moved(batch_for(name, masked=True))
    model = made(name)
    expected = model.loss(batch).item()
    optimizer = torch.optim.Adam(model.parameters())
    with torch.autocast(DEVICE, torch.bfloat16):
        loss, norm = model.whole_step(batch, optimizer, 1.0)
    assert norm.isfinite()
    assert abs(loss.item() - expected) < 0.1 * (1 + abs(expected))


@pytest.mark.parametrize("steps", [1, 2, 7, 26])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_attention_to_wide_slots_in_16_bits(dtype, steps):
    # Queries, keys and values of one layout, whose gradients are of another in each block.
    torch.manual_seed(0)
    blocks = [AttentionBlock(size, 64, 96, likeness=1.0) for size in (84, 260, 69, 72)]
    for block in blocks:
        block.to(DEVICE, dtype)
        first, second = torch.randn(2, 10, steps, block.input_size).to(DEVICE, dtype)

        def run(block=block, first=first, second=second):
            block.zero_grad()
            given = second.clone().requires_grad_()
            _, state = block.unroll(first, block.initial_state(10))
            outputs, _ = block.unroll(given, state)
            outputs.float().square().mean().backward()
            return [part.float() for part in (outputs, given.grad, block.layer.weight.grad.clone())]

        results = run()
        with fast.naive():
            expected = run()
        for result, wanted in zip(results, expected, strict=True):
            assert (result - wanted).abs().max() <= 0.03 * wanted.abs().max()


# -- twins -----------------------------------------------------------------------------------------

SIZES = [(2, 6, 3), (16, 128, 9)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("memory", [NTM, DNC])
def test_twins_are_their_definitions(memory, sizes, masked):
    twin_is_definition(memory, *sizes, masked)


@pytest.mark.parametrize("masked", [False, True])
def test_the_twin_in_triton_is_its_definition(masked, with_triton):
    twin_is_definition(NTM, *SIZES[1], masked)


def twin_is_definition(memory, rows, slots, steps, masked):
    torch.manual_seed(0)
    loop = Loop(9, partial(LSTM, hidden_size=30), memory(slots, 20)).to(DEVICE)
    inputs = torch.randn(rows, steps, 9, device=DEVICE)
    lengths = torch.arange(1, rows + 1, device=DEVICE)[:, None]
    mask = torch.arange(steps, device=DEVICE) < lengths if masked else None

    def run():
        loop.zero_grad()
        given = inputs.clone().requires_grad_()
        outputs, state = loop.unroll(given, loop.initial_state(rows), mask)
        if mask is not None:
            outputs = outputs.masked_fill(~mask.unsqueeze(-1), 0.0)
        (outputs.square().sum() + state.read.square().sum()).backward()
        found = {name: part.grad for name, part in loop.named_parameters()}
        return {"outputs": outputs, "read": state.read, "inputs": given.grad, **found}

    result = map_state(torch.clone, run())
    with fast.naive():
        expected = run()
    assert_near(result, expected, rtol=5e-3, atol=1e-3)


def test_graphs_and_triton_together(with_triton):
    batches = [moved(batch_for("LSTM, NTM", False, seed)) for seed in range(4)]
    expected = trained_steps(made("LSTM, NTM"), batches, graphs=False)
    result = trained_steps(made("LSTM, NTM"), batches, graphs=True)
    assert_near(result, expected, rtol=2e-3, atol=1e-4)


# -- fits ------------------------------------------------------------------------------------------


class Data(Copying):
    """Small batches; from ``breaks`` on, with sources of NaN."""

    def __init__(self, breaks=10**9):
        super().__init__(
            width=3, max_length=3, batch_size=4, epoch_batches=8, validation_batches=1,
            validation_batch_size=2, test_sets=[],
        )  # fmt: skip
        self.breaks = breaks

    def batch(self, split, index):
        made = super().batch(split, index)
        if split == "train" and index >= self.breaks:
            made = made._replace(source=torch.full_like(made.source, torch.nan))
        return made


def fitted(tmp_path, data=None, precision="32-true", steps=16, **settings):
    data = Data() if data is None else data
    torch.manual_seed(0)
    access = NTM(slots=5, width=3)
    model = MemoryMachine(
        data.input_size, data.output_size, LSTM6, access,
        optimizer=partial(torch.optim.Adam, lr=0.01), **settings,
    )  # fmt: skip
    if TRIAL:
        model.recorder = Rerun
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu" if TRIAL else "gpu", devices=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        gradient_clip_val=0.5, default_root_dir=tmp_path, log_every_n_steps=4,
        precision=precision,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return trainer, model


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fit_with_graphs_is_the_fit_without(precision, tmp_path):
    _, plain = fitted(tmp_path, precision=precision)
    trainer, graphed = fitted(tmp_path, precision=precision, cuda_graphs=True, pad_lengths=3)
    assert trainer.global_step == 16
    assert trainer.logged_metrics["train/gradient_norm"].isfinite()
    close = {"rtol": 0.02, "atol": 2e-3} if precision == "32-true" else {"rtol": 0.2, "atol": 0.05}
    assert_near(dict(graphed.named_parameters()), dict(plain.named_parameters()), **close)


@pytest.mark.parametrize("graphs", [False, True])
def test_a_loss_that_breaks_ends_the_run(graphs, tmp_path):
    with pytest.raises(TrainingDiverged, match="the loss became nan at step 5"):
        fitted(tmp_path, Data(breaks=5), cuda_graphs=graphs)


def test_the_command_line(tmp_path):
    if importlib.util.find_spec("jsonargparse") is None:
        pytest.skip("needs jsonargparse")
    root = Path(__file__).parent.parent
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    command = [
        sys.executable, "-m", "memnets", "fit", "--config", "copying/ntm",
        f"--trainer.accelerator={'cpu' if TRIAL else 'gpu'}", "--trainer.max_steps=6",
        f"--model.cuda_graphs={not TRIAL}", "--model.pad_lengths=10",
        "--data.test_sets=[[3, 2]]", "--data.validation_batches=1", "--trainer.devices=1",
        "--data.validation_batch_size=4",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
