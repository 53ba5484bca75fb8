"""Training steps as graphs, with a stand-in for CUDA that runs on a CPU; and padded batches."""

from functools import partial

import pytest
import pytorch_lightning as lightning
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import memnets.core
from memnets.addressing import Content
from memnets.batches import Batch, padded_to
from memnets.cells import LSTM
from memnets.core import map_state
from memnets.encoders import Recurrent
from memnets.memories import NTM
from memnets.models import (
    SNAIL,
    MemoryMachine,
    MetaLearner,
    PointerNetwork,
    StackModel,
    TrainingDiverged,
)
from memnets.scores import Additive
from memnets.testing.laws import assert_close, assert_equal, tensors_of
from memnets.training import Labels, MemorySchedule
from memnets.training.graphs import FixedOptimizer, GraphedSteps, settings_of_modules
from tasks import Copying, CopyingTokens

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


class Tape:
    """Records operations as CUDA does: places in memory and Python's numbers stay as they were."""

    def __init__(self, changed=lambda: []):
        self.changed = changed
        self.recordings = 0

    def warm(self, function):
        return function()

    def record(self, function):
        self.recordings += 1
        # CUDA records without running: here, all that the run changes is put back.
        tensors = self.changed()
        kept = [tensor.detach().clone() for tensor in tensors]
        state = torch.get_rng_state()
        with _Operations() as operations:
            results = function()
        with torch.no_grad():
            for tensor, before in zip(tensors, kept, strict=True):
                tensor.copy_(before)
        torch.set_rng_state(state)

        def replay():
            with torch.no_grad():
                for func, args, kwargs, made in operations.done:
                    again = func(*args, **kwargs)
                    for mine, new in zip(_flat(made), _flat(again), strict=True):
                        if mine.data_ptr() != new.data_ptr():
                            mine.copy_(new)
            return results

        return replay


class _Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "equal"), f"{name} in a graph"
        result = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, result))
        return result


def _flat(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return (
        [part for each in value for part in _flat(each)] if isinstance(value, (tuple, list)) else []
    )


class Descent(torch.optim.Optimizer):
    """Gradient descent with momentum and a count of steps, in tensors alone."""

    def __init__(self, parameters, lr=0.1, momentum=0.5, capturable=False):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "capturable": capturable})

    @torch.no_grad()
    def step(self, closure=None):
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            for each in group["params"]:
                if each.grad is None:
                    continue
                state = self.state[each]
                if not state:
                    state["step"] = torch.zeros(())
                    state["average"] = torch.zeros_like(each)
                state["step"] += 1
                state["average"].mul_(group["momentum"]).add_(each.grad)
                each.sub_(state["average"] * group["lr"] / state["step"].sqrt())
        return result


@pytest.fixture
def like_a_device(monkeypatch):
    """Nobody looks at a number, as on a GPU."""
    training = memnets.training
    for module in (memnets.core, training.model, training.objectives, training.trained):
        monkeypatch.setattr(module, "at_hand", lambda tensor: False)


def machine(slots=5, noise=0.0, **settings):
    torch.manual_seed(0)
    access = NTM(slots=slots, width=3, noise=noise)
    return MemoryMachine(5, 4, partial(LSTM, hidden_size=6), access, **settings)


def batch(length, rows=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    bits = torch.rand(rows, length, 9, generator=generator).round()
    return Batch(bits[..., :5], torch.zeros(rows, length, 5), bits[..., 5:])


def steps_taken(model, batches, rates, graphs):
    """Weights, and the loss and the norm of each step, with graphs and without."""
    torch.manual_seed(1)
    plain = Descent(model.parameters())
    optimizer = FixedOptimizer(plain)

    def changed():
        states = [value for state in plain.state.values() for value in state.values()]
        return [*model.parameters(), *model.buffers(), *states]

    tape = Tape(changed)
    step = partial(model.whole_step, optimizer=optimizer, greatest_norm=0.2)
    run = GraphedSteps(step, tape, settings_of_modules(model)) if graphs else step
    results = []
    for given, rate in zip(batches, rates, strict=True):
        plain.param_groups[0]["lr"] = rate
        optimizer.read_rates()
        results.append([result.clone() for result in run(given)])
    return [results, [weight.detach() for weight in model.parameters()]], tape


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_graphs_give_the_numbers_of_plain_steps(noise, like_a_device):
    lengths = [2, 3, 2, 2, 3, 3, 2, 3, 1]
    batches = [batch(length, seed=seed) for seed, length in enumerate(lengths)]
    rates = [0.1 / (1 + number) for number in range(len(lengths))]
    plain, _ = steps_taken(machine(noise=noise).train(), batches, rates, graphs=False)
    graphed, tape = steps_taken(machine(noise=noise).train(), batches, rates, graphs=True)
    assert_close(graphed, plain, "losses, norms and weights")
    # The lengths 2 and 3 come again; 1 comes once, and only prepares.
    assert tape.recordings == 2


@pytest.mark.parametrize("fault", ["rate", "batch"])
def test_what_a_graph_would_keep_shows(fault, like_a_device, monkeypatch):
    """The stand-in finds what CUDA would: a rate from Python, and a batch at another place."""
    if fault == "rate":
        monkeypatch.setattr(FixedOptimizer, "step", lambda self: self._optimizer.step())
    else:
        monkeypatch.setattr(torch.Tensor, "copy_", _copies_into_the_tape_alone(torch.Tensor.copy_))
    batches = [batch(2, seed=seed) for seed in range(4)]
    rates = [0.1, 0.1, 0.5, 0.2]
    plain, _ = steps_taken(machine().train(), batches, rates, graphs=False)
    graphed, _ = steps_taken(machine().train(), batches, rates, graphs=True)
    with pytest.raises(AssertionError):
        assert_close(graphed, plain, "losses, norms and weights")


def _copies_into_the_tape_alone(copy):
    def copying(self, other, non_blocking=False):
        return self if non_blocking else copy(self, other)

    return copying


def test_a_new_setting_is_a_new_graph(like_a_device):
    model = machine().train()
    seen = []

    def step(given):
        seen.append(model.access.slots)
        return (given.source.sum(),)

    tape = Tape()
    steps = GraphedSteps(step, tape, settings_of_modules(model), most=2)
    for slots in (5, 5, 5, 7, 7, 5):
        model.access.slots = slots
        steps(batch(2))
    # Warm, recorded, replayed; then again for 7 slots; the graph of 5 slots is still there.
    assert seen == [5, 5, 7, 7]
    model.access.slots = 9
    steps(batch(2))
    steps(batch(2))
    assert steps.count == 2


def test_a_step_that_breaks_changes_nothing_but_by_momentum(like_a_device):
    model = machine().train()
    before = map_state(torch.clone, model.state_dict())
    broken = batch(2)._replace(source=torch.full((2, 2, 5), torch.nan))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    loss, norm = model.whole_step(broken, optimizer, 1.0)
    assert loss.isnan()
    assert norm.isnan()
    assert_equal(dict(model.state_dict()), dict(before), "weights after a loss of NaN")


@pytest.mark.parametrize("size", [1e-3, 1e18, 1e25])
def test_a_norm_without_looking_is_the_norm(size, like_a_device):
    gradients = [size * torch.tensor([3.0, 0.0]), size * torch.tensor([4.0])]
    norm = memnets.training.trained.total_norm(gradients)
    assert_close(norm, torch.tensor(5 * size), "norm", rtol=1e-6)


# -- in Lightning ----------------------------------------------------------------------------------


class Rerun:
    """Runs a step again in place of a graph: for Adam, which has no form for CPUs to record."""

    count = 0

    def warm(self, function):
        return function()

    def record(self, function):
        Rerun.count += 1
        return function


def task(**settings):
    given = {"width": 3, "max_length": 3, "batch_size": 4, "epoch_batches": 6, "test_sets": []}
    return Copying(**{**given, "validation_batches": 1, "validation_batch_size": 2, **settings})


def trained(tmp_path, steps=12, checkpoint=None, callbacks=(), data=None, **settings):
    data = task() if data is None else data
    torch.manual_seed(0)
    access = NTM(slots=5, width=3, noise=0.1)
    controller = partial(LSTM, hidden_size=6)
    model = MemoryMachine(data.input_size, data.output_size, controller, access, **settings)
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, gradient_clip_val=0.5,
        callbacks=list(callbacks), default_root_dir=tmp_path, log_every_n_steps=2,
    )  # fmt: skip
    torch.manual_seed(3)
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint)
    return trainer, model


@pytest.fixture
def rerun(monkeypatch):
    monkeypatch.setattr(MemoryMachine, "recorder", Rerun)
    Rerun.count = 0


def test_a_fit_with_graphs_is_the_fit_without(tmp_path, rerun):
    schedule = {0.0: {"slots": 5}, 0.5: {"slots": [4, 6]}}
    plain, without = trained(tmp_path, callbacks=[MemorySchedule(schedule)])
    assert Rerun.count == 0
    graphed, model = trained(
        tmp_path, callbacks=[MemorySchedule(schedule)], cuda_graphs=True, warmup_steps=3
    )
    again, others = trained(tmp_path, callbacks=[MemorySchedule(schedule)], warmup_steps=3)
    assert Rerun.count > 0
    assert graphed.global_step == plain.global_step == 12
    expected = dict(others.state_dict())
    assert_close(dict(model.state_dict()), expected, "weights", rtol=1e-4, atol=1e-6)
    with pytest.raises(AssertionError):
        assert_close(dict(without.state_dict()), expected, "weights", rtol=1e-4, atol=1e-6)
    for name in ("train/loss", "train/gradient_norm", "val/bits"):
        assert name in graphed.logged_metrics
        one, other = graphed.logged_metrics[name], again.logged_metrics[name]
        assert_close(one, other, name, rtol=1e-4, atol=1e-6)


def test_a_run_goes_on_with_graphs_and_without(tmp_path, rerun):
    whole, expected = trained(tmp_path, 10)
    for first, second in ((True, False), (False, True)):
        # The schedule of all 10 steps from the start.
        trainer, _ = trained(tmp_path, 10, callbacks=[_Stop(5)], cuda_graphs=first)
        assert trainer.global_step == 5
        path = tmp_path / "half.ckpt"
        trainer.save_checkpoint(path)
        saved = torch.load(path, weights_only=False)["optimizer_states"][0]["param_groups"][0]
        assert not saved["capturable"]
        assert isinstance(saved["lr"], float)
        again, model = trained(tmp_path, 10, checkpoint=path, cuda_graphs=second)
        assert again.global_step == whole.global_step
        result, wanted = dict(model.state_dict()), dict(expected.state_dict())
        assert_close(result, wanted, f"weights, {first} then {second}", rtol=1e-4, atol=1e-6)


class _Stop(lightning.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *arguments):
        trainer.should_stop = trainer.global_step >= self.step


def test_a_loss_that_breaks_in_a_graph_ends_the_run(tmp_path, rerun):
    class Broken(Copying):
        def batch(self, split, index):
            made = super().batch(split, index)
            if index < 5:
                return made
            return made._replace(source=torch.full_like(made.source, torch.nan))

    data = Broken(width=3, max_length=3, batch_size=4, epoch_batches=6, test_sets=[])
    with pytest.raises(TrainingDiverged, match="the loss became nan at step 5"):
        trained(tmp_path, data=data, cuda_graphs=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "cuda_graphs needs a CUDA device; this run is on cpu: add --trainer.accelerator=gpu"),
        ({"optimizer": torch.optim.SGD}, "cuda_graphs needs an optimizer with the setting captur"),
    ],
)
def test_graphs_where_they_cannot_work(settings, message, tmp_path, request):
    if settings:
        request.getfixturevalue("rerun")
    with pytest.raises(ValueError, match=message):
        trained(tmp_path, cuda_graphs=True, **settings)


def test_a_learner_tells_when_its_features_are_detached():
    learner = partial(MemoryMachine, controller=partial(LSTM, hidden_size=4))
    model = MetaLearner(
        5, 2, learner, prototypical=1.0, detached_steps=3, objective=Labels()
    )  # fmt: skip
    assert model.graph_settings() is True


# -- checks on the host ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["holes", "length", "infinite"])
def test_a_batch_for_a_gpu_is_checked_on_the_host(kind):
    given = batch(3)
    if kind == "holes":
        model = StackModel(5, 4, partial(LSTM, hidden_size=4), width=4)
        given = given._replace(source_mask=torch.tensor([[True, False, True]] * 2))
        message = "each source must have a step, and padding only after its last step"
    elif kind == "length":
        model = SNAIL(5, 4, max_length=5, attentions=[(2, 2)], filters=2)
        message = "the model can answer a source of 3 steps with at most 2; got an answer of 3"
    else:
        encoder = partial(Recurrent, controller=partial(LSTM, hidden_size=4))
        model = PointerNetwork(
            5, encoder, partial(LSTM, hidden_size=4), Content(Additive(4)), width=4
        )  # fmt: skip
        given.source[1, 2, 0] = torch.inf
        message = r"source must be finite; got \[inf, .*\] at \[1, 2\]"
    with pytest.raises(ValueError, match=message):
        model.check_on_host(given)


# -- padding to few lengths ------------------------------------------------------------------------


def test_padding_to_a_multiple():
    tokens = torch.tensor([[4, 5, 6], [4, 5, 0]])
    mask = tokens > 0
    given = Batch(tokens, tokens[:, :2], tokens[:, :2], mask, None)
    longer = padded_to(given, 4)
    assert longer.source.tolist() == [[4, 5, 6, 0], [4, 5, 0, 0]]
    assert longer.source_mask.tolist() == [[True, True, True, False], [True, True, False, False]]
    assert longer.inputs.tolist() == longer.targets.tolist() == [[4, 5, 0, 0], [4, 5, 0, 0]]
    assert longer.target_mask.tolist() == [[True, True, False, False]] * 2
    # Not beyond the model's longest answer, and nothing to do at the multiple itself.
    assert padded_to(given, 4, lambda steps: 3).inputs.shape == (2, 3)
    for limit, read in ((3, 3), (7, 7), (8, 8), (9, 8)):
        padded = padded_to(given, 8, lambda steps, limit=limit: 5 if steps <= limit else 0)
        assert padded.source.shape == (2, read)
    placed = given._replace(source_places=torch.arange(1, 4).expand(2, -1))
    placed = placed._replace(target_places=torch.arange(2).expand(2, -1))
    longer = padded_to(placed, 4)
    assert longer.source_places.tolist() == [[1, 2, 3, 3]] * 2
    assert longer.target_places.tolist() == [[0, 1, 1, 1]] * 2
    assert padded_to(longer, 2).inputs is longer.inputs


def test_padding_to_a_multiple_keeps_loss_and_gradient():
    model = machine().double().train()
    given = map_state(torch.Tensor.double, batch(3))

    def loss(given):
        value = model.loss(given)
        return [value, *torch.autograd.grad(value, list(model.parameters()))]

    assert_close(loss(padded_to(given, 4)), loss(given), "loss and gradient")


def test_a_fit_pads_its_training_batches(tmp_path):
    seen = []

    class Seen(lightning.Callback):
        def on_train_batch_start(self, trainer, model, given, index):
            seen.append((given.source.shape[1], given.inputs.shape[1]))

        def on_validation_batch_start(self, trainer, model, given, *rest):
            assert given.source_mask is None

    trained(tmp_path, 6, callbacks=[Seen()], pad_lengths=4)
    assert set(seen) == {(4, 4)}


def test_padding_and_tokens(tmp_path):
    data = CopyingTokens(
        symbols=4, max_length=3, batch_size=4, epoch_batches=2, validation_batches=1, test_sets=[]
    )  # fmt: skip
    given = data.batch("train", 0)
    longer = padded_to(given, 8)
    assert all(part.shape[1] % 8 == 0 for part in tensors_of(longer))
