"""Code from ``torch.compile``: beside the law of graphs, what only some parts have."""

import copy
import pickle
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as lightning
import torch
import yaml
from hypothesis import settings
from torch._dynamo.utils import counters
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from memnets import encoders, fast
from memnets.addressing import Content
from memnets.app.cli import main
from memnets.batches import Batch
from memnets.cells import GRU, LSTM, Dropout, FeedForward, LearnedPositions, Loop
from memnets.checks import check_numbers
from memnets.memories import NTM, slotted
from memnets.models import SNAIL, CausalTransformer, MemoryMachine, PointerNetwork, Seq2Seq
from memnets.scores import Additive, ScaledDot
from memnets.testing.compiled import in_one_graph
from memnets.testing.laws import assert_close, gradients
from memnets.training.objectives import Tokens
from tasks import CopyingTokens

pytestmark = pytest.mark.filterwarnings(
    # Lightning's own, such as of a loader without workers.
    "ignore::UserWarning",
    "ignore::FutureWarning",
)

SIZE = 12
SMALL = {"width": 8, "heads": 2, "layers": 1, "hidden_size": 8, "dropout": 0.0}
RECURRENT = {
    "encoder": partial(encoders.Recurrent, controller=partial(GRU, hidden_size=4)),
    "decoder": partial(GRU, hidden_size=5),
    "width": 6,
}
MODELS = {
    "transformer": lambda: CausalTransformer(SIZE, SIZE, objective=Tokens(), **SMALL),
    "seq2seq": lambda: Seq2Seq(
        SIZE, SIZE, attention=Content(Additive(3)), key_size=3, objective=Tokens(), **RECURRENT
    ),
    "machine": lambda: MemoryMachine(
        SIZE, SIZE, partial(LSTM, hidden_size=4), NTM(4, 3), objective=Tokens()
    ),
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def tokens(batch=2, steps=3):
    return torch.randint(4, SIZE, (batch, steps))


def padded(batch=2, steps=3):
    """A batch whose first row is a step shorter than the others."""
    source, mask = tokens(batch, steps), torch.ones(batch, steps, dtype=torch.bool)
    mask[0, -1] = False
    return Batch(source, tokens(batch, steps), tokens(batch, steps), mask, mask)


def check_gradients(name, batch, backend):
    model = MODELS[name]().double()
    result = in_one_graph(model.loss, batch, backend=backend)
    parameters = list(model.parameters())
    expected = model.loss(batch)
    assert_close(result, expected, "loss")
    assert_close(gradients(result, parameters), gradients(expected, parameters), "gradient")


# The law runs the operations of a graph one by one. A backend that derives the backward pass in
# advance is slow, so two models stand for all, and one step for many.
@pytest.mark.parametrize("name", ["seq2seq", "machine"])
def test_a_backward_pass_that_is_made_in_advance_gives_the_same_gradients(name):
    check_gradients(name, Batch(*(tokens(steps=1) for _ in range(3))), "aot_eager")


def test_a_graph_that_is_compiled_gives_the_same_gradients():
    if settings().max_examples < settings.get_profile("thorough").max_examples:
        pytest.skip("the compiler takes long: set HYPOTHESIS_PROFILE=thorough")
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        pytest.skip("torch.compile needs a C++ compiler here")
    check_gradients("transformer", padded(), "inductor")


def test_a_graph_that_comes_first_finds_the_twins(monkeypatch):
    monkeypatch.setattr(fast, "PROVIDERS", ["memnets.kernels"])
    loop = Loop(3, partial(LSTM, hidden_size=4), NTM(4, 3))
    inputs = torch.randn(2, 2, 3)
    in_one_graph(lambda inputs: loop.unroll(inputs, loop.initial_state(2)), inputs)
    assert fast.PROVIDERS == []


def test_first_rows_that_differ_are_a_constant_of_a_graph():
    loop = Loop(3, partial(LSTM, hidden_size=4), NTM(4, 3, initial_spread=0.5)).double()
    slotted._made_rows.cache_clear()
    inputs = torch.randn(2, 2, 3).double()
    run = partial(in_one_graph, lambda inputs: loop.unroll(inputs, loop.initial_state(2))[0])
    assert_close(run(inputs), loop.unroll(inputs, loop.initial_state(2))[0], "outputs")


def test_a_graph_draws_at_random():
    dropout, ones = Dropout(0.25), torch.ones(1000)
    result = in_one_graph(dropout, ones)
    assert set(result.tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert 150 < (result == 0).sum() < 350
    assert (in_one_graph(dropout, ones) != result).any()


@pytest.mark.parametrize(("name", "graphs"), [("transformer", 2), ("controller", 3)])
def test_graphs_for_sequences_of_several_lengths(name, graphs):
    # Dynamo makes a graph for the first length and one for any; but a graph of a recurrent network
    # holds its steps one by one.
    plain = MemoryMachine(SIZE, SIZE, partial(GRU, hidden_size=4), objective=Tokens())
    model = plain if name == "controller" else MODELS[name]()
    compiled = torch.compile(model.loss, fullgraph=True, backend="eager")
    counters.clear()
    for steps in (2, 3, 4):
        given = padded(4, steps)
        assert_close(compiled(given), model.loss(given), f"loss of {steps} steps", rtol=1e-5)
    assert counters["stats"]["unique_graphs"] == graphs


# -- checks of numbers -----------------------------------------------------------------------------


def pointer():
    return PointerNetwork(
        2, RECURRENT["encoder"], partial(LSTM, hidden_size=4), Content(ScaledDot()), width=6,
        objective=Tokens(),
    )  # fmt: skip


def hole():
    return torch.tensor([[True, False, True], [True, True, True]])


POINTS = torch.arange(12.0).view(2, 3, 2) / 12
WRONG = {
    "padding before a step": (
        lambda: MODELS["transformer"]().encode,
        (torch.full((2, 3), 5), hole()),
        "padding only after its last step",
    ),
    "more positions than there are": (
        lambda: CausalTransformer(SIZE, SIZE, positions=LearnedPositions(8, 2), **SMALL).encode,
        (torch.full((2, 3), 5),),
        "positions end at max_length = 2",
    ),
    "a sequence that is too long": (
        lambda: SNAIL(SIZE, SIZE, 8, 2, attentions=[(4, 4)]).encode,
        (torch.full((2, 3), 5),),
        "at most max_length = 2 steps",
    ),
    "a point that is not finite": (
        lambda: pointer().encode,
        (POINTS.masked_fill(POINTS > 0.9, torch.inf),),
        "source must be finite",
    ),
    "a target at a closed step": (
        lambda: pointer().loss,
        (Batch(POINTS, torch.full((2, 2), 5), torch.full((2, 2), 5)),),
        "targets must point at steps that may be pointed at",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_graph_checks_numbers_as_eager_code_does(name):
    make, arguments, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        make()(*arguments)
    with pytest.raises(RuntimeError, match=message):
        in_one_graph(make(), *arguments)


def test_numbers_are_checked_under_a_gradient_and_left_alone_under_vmap():
    def cost(number):
        check_numbers(number < 1, "a number below 1", lambda: str(number.item()))
        return number.square()

    assert torch.func.grad(cost)(torch.tensor(0.5)) == 1
    with pytest.raises(ValueError, match="a number below 1; got 2"):
        torch.func.grad(cost)(torch.tensor(2.0))
    numbers = torch.tensor([0.5, 2.0])
    assert torch.func.vmap(torch.func.grad(cost))(numbers).tolist() == [1, 4]


# -- training --------------------------------------------------------------------------------------


def fit(model):
    task = CopyingTokens(
        symbols=8, max_length=2, batch_size=4, epoch_batches=9, validation_batches=1, test_sets=[]
    )
    trainer = lightning.Trainer(
        max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=1,
        gradient_clip_val=1.0,
    )  # fmt: skip
    trainer.fit(model, datamodule=task)


def compiled_in_place(model):
    model.compile(backend="eager", fullgraph=True)
    return model


@pytest.mark.parametrize(
    "compiled", [compiled_in_place, partial(torch.compile, backend="eager")], ids=["method", "call"]
)
def test_a_compiled_model_trains_as_an_eager_one_does(compiled):
    model = MemoryMachine(SIZE, SIZE, partial(FeedForward, hidden_size=4), objective=Tokens())
    other = copy.deepcopy(model)
    fit(model)
    counters.clear()
    fit(compiled(other))
    assert counters["stats"]["unique_graphs"] > 0
    assert not counters["graph_break"]
    assert_close(dict(other.named_parameters()), dict(model.named_parameters()), "weights", 1e-4)


def test_a_copy_of_a_compiled_model_is_not_compiled():
    model, batch = MODELS["transformer"](), padded()
    compiled_in_place(model)
    expected = model.loss(batch)
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_close(same.loss(batch), expected, "loss of a copy", rtol=1e-5)
        with torch.no_grad():
            same.output.bias[0] += 1.0
        assert same.loss(batch) != expected
    assert_close(model.loss(batch), expected, "loss of the model", rtol=1e-5)
    compiled_in_place(model)  # a second time


def test_a_gradient_with_cuts_is_not_compiled():
    model = MemoryMachine(3, 3, partial(LSTM, hidden_size=4), tbptt_steps=2)
    with pytest.raises(ValueError, match="tbptt_steps must be None; got 2"):
        model.compile()


CONFIG = {
    "name": "copying/compiled",
    "model": {
        "class_path": "memnets.models.CausalTransformer",
        "init_args": {**SMALL, "objective": "memnets.training.Tokens"},
    },
    "data": {"class_path": "tasks.CopyingTokens", "init_args": {"max_length": 2}},
}
TINY = [
    *("--trainer.max_steps=1", "--data.batch_size=2", "--data.epoch_batches=1"),
    *("--data.validation_batches=1", "--data.test_sets=[[2, 2]]", "--data.validation_batch_size=2"),
    "--data.test_sequences=2",
]


@pytest.mark.usefixtures("elsewhere", "blanks")
def test_a_run_is_compiled_by_a_flag_and_goes_on_so(monkeypatch):
    calls = []

    def compiling(function):
        calls.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compiling)
    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", lambda: "g++")
    Path("mine.yaml").write_text(yaml.safe_dump(CONFIG))
    main(["fit", "--config=mine.yaml", *TINY])
    assert not calls
    main(["fit", "--config=mine.yaml", "--compile=true", *TINY])
    assert len(calls) == 1
    run = Path("runs/copying/compiled/version_1")
    assert yaml.safe_load((run / "config.yaml").read_text())["compile"] is True
    last = run / "checkpoints" / "last.ckpt"
    main(["fit", f"--ckpt_path={last}", "--trainer.max_steps=2"])
    assert len(calls) == 2
    main(["test", f"--ckpt_path={last}"])
    assert len(calls) == 2


@pytest.mark.usefixtures("elsewhere", "blanks")
def test_a_run_without_a_compiler_says_what_is_missing(monkeypatch, capsys):
    def missing():
        raise InvalidCxxCompiler

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", missing)
    Path("mine.yaml").write_text(yaml.safe_dump(CONFIG))
    with pytest.raises(SystemExit):
        main(["fit", "--config=mine.yaml", "--compile=true", *TINY])
    message = capsys.readouterr().err
    assert "needs a C++ compiler, such as g++" in message
    assert len(message.strip().splitlines()) == 1
