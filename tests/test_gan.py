"""Adversarial networks: their loss, their weights, and their training by the command line."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch
from torch import nn

import memnets as mn
from memnets import testing
from memnets.app.cli import main
from memnets.app.keeping import OPTIMIZER, Changed
from memnets.batches import Batch
from memnets.features import FeatureAttention
from memnets.models import GAN
from memnets.testing.laws import assert_equal
from memnets.training import TrainingDiverged
from memnets.training.runs import load_checkpoint
from tasks import Copying, Images
from tests.images import png, written

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

SMALL = {"input_size": 3, "output_size": 64, "filters": 8}


def gan(gate: float = 0.5, **settings) -> GAN:
    torch.manual_seed(0)
    model = GAN(**{**SMALL, **settings})
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, FeatureAttention):
                part.gate.fill_(gate)
    return model.double().eval()


def batch(rows: int = 3, size: int = 64) -> Batch:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(rows, 1, 3, generator=generator, dtype=torch.float64)
    images = torch.rand(rows, 1, size, generator=generator, dtype=torch.float64)
    return Batch(noise, torch.zeros_like(noise), images)


def test_each_network_learns_from_its_own_hinge_loss_alone() -> None:
    model, given = gan(), batch()
    real = given.targets.view(3, 8, 8, 1).permute(0, 3, 1, 2)
    judge, networks = model.discriminator, {}

    def drawn() -> torch.Tensor:
        return model.generator(given.source[:, 0])

    # Zhang et al. 2019, equation 4, number by number.
    of_real, of_drawn = judge(real).tolist(), judge(drawn()).tolist()
    hinge = sum(max(0.0, 1 - verdict) for verdict in of_real) / 3
    hinge += sum(max(0.0, 1 + verdict) for verdict in of_drawn) / 3
    loss = model.loss(given)
    assert loss.item() == pytest.approx(hinge - sum(of_drawn) / 3)
    losses = {
        "discriminator": (1 - judge(real)).relu().mean() + (1 + judge(drawn())).relu().mean(),
        "generator": -judge(drawn()).mean(),
    }
    loss.backward()
    for name, alone in losses.items():
        networks[name] = list(getattr(model, name).parameters())
        expected = torch.autograd.grad(alone, networks[name])
        for parameter, gradient in zip(networks[name], expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)
    scores = model.score(given)["hinge"]
    assert scores.mean().item() == pytest.approx(hinge)


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    model, given = gan(), batch()
    together, scores = model.examine(given)[""]
    assert together.shape == given.targets.shape
    assert ((together > 0) & (together < 1)).all()
    alone = [model.examine(Batch(*(part[i : i + 1] for part in given[:3])))[""] for i in range(3)]
    torch.testing.assert_close(together, torch.cat([images for images, _ in alone]))
    torch.testing.assert_close(scores["hinge"], torch.cat([each["hinge"] for _, each in alone]))


def test_weights_have_the_spectral_norm_1_after_some_steps() -> None:
    model = gan(attend=[8]).train()
    for _ in range(30):
        model.loss(batch(1))
    layers = [each for each in model.modules() if isinstance(each, (nn.Conv2d, nn.Linear))]
    norms = [torch.linalg.matrix_norm(each.weight.flatten(1), 2).item() for each in layers]
    assert len(norms) == 18
    assert norms == pytest.approx([1.0] * len(norms), abs=0.05)


def test_a_block_behind_a_gate_of_0_changes_nothing() -> None:
    plain, attentive = gan(attend=[]), gan(gate=0.0, attend=[8], pool=1)
    plain.generator.load_state_dict(attentive.generator.state_dict(), strict=False)
    noise = batch().source
    assert not torch.equal(gan(gate=0.5, attend=[8], pool=1).answer(noise), plain.answer(noise))
    torch.testing.assert_close(plain.answer(noise), attentive.answer(noise))
    assert plain.alignments() == {}
    assert list(attentive.alignments()) == ["generator, block 2", "discriminator, block 1"]


@pytest.mark.parametrize(("side", "channels", "attend"), [(16, 3, [8, 16]), (32, 1, [16])])
def test_images_of_other_sizes(side: int, channels: int, attend: list[int]) -> None:
    model = GAN(3, side * side * channels, channels, filters=8, attend=attend).eval()
    images = model.draw(2, seed=5)
    assert images.shape == (2, side, side, channels)
    assert torch.equal(images, model.draw(2, seed=5))
    assert not torch.equal(images, model.draw(2, seed=6))
    assert len(model.alignments()) == 2 * len(attend)
    given = batch(2, side * side * channels)
    assert model.double().loss(given).isfinite()


def test_both_networks_learn_at_their_own_rate() -> None:
    adam = partial(torch.optim.Adam, lr=1e-4, betas=(0.0, 0.9))
    model = gan(optimizer=adam, discriminator_rate=3.0, warmup_steps=3, schedule="constant")
    grouped = [part for _, group in model.parameter_groups() for part in group]
    assert set(grouped) == set(model.parameters())
    assert len(grouped) == len(set(grouped))
    optimizer, scheduler = model.float().configure_optimizers().values()
    rates = []
    for _ in range(4):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler["scheduler"].step()
    expected = [[share * 1e-4, share * 3e-4] for share in (0.25, 0.5, 0.75, 1.0)]
    np.testing.assert_allclose(rates, expected)
    # A run that goes on with another rate changes that of both.
    optimizer.defaults["lr"] = 2e-4
    going_on = SimpleNamespace(
        optimizers=[optimizer], lr_scheduler_configs=[SimpleNamespace(**scheduler)]
    )
    Changed([f"{OPTIMIZER}.init_args.lr"]).on_train_start(going_on, model)
    np.testing.assert_allclose([group["lr"] for group in optimizer.param_groups], [2e-4, 6e-4])


def test_the_loss_never_waits_for_a_device() -> None:
    there = Batch(*(part.to("meta") for part in batch()[:3]))
    model = gan().to("meta")
    with testing.no_synchronisation():
        model.loss(there).backward()


def trainer(**settings) -> lightning.Trainer:
    return lightning.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        use_distributed_sampler=False, **settings,
    )  # fmt: skip


def test_a_task_of_something_else_is_refused() -> None:
    model = GAN(8, 64, filters=8)
    with pytest.raises(ValueError, match=r"a GAN needs a task of images, such as tasks.Images"):
        trainer().fit(model, datamodule=Copying(width=7, max_length=3))


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    model = GAN(8, 64, filters=8)
    with torch.no_grad():
        model.generator.last[-1].bias.fill_(torch.nan)
    with pytest.raises(TrainingDiverged, match="the loss became nan at step 0"):
        trainer().fit(model, datamodule=Images(noise=8, batch_size=2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_size": 49}, r"8, 16, 32, ... pixels, .* got 49 numbers and channels=1"),
        ({"output_size": 192}, r"got 192 numbers"),
        ({"output_size": 144}, r"got 144 numbers"),
        ({"output_size": 16}, r"got 16 numbers"),
        ({"filters": 12}, "filters must be a multiple of 8; got 12"),
        ({"attend": [16]}, "attend must name sides of feature maps, of 8; got 16"),
        ({"pool": 0}, "pool must be .* got 0"),
        ({"discriminator_rate": 0.0}, "discriminator_rate must be more than 0; got 0.0"),
    ],
)
def test_wrong_settings(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GAN(**{**SMALL, **settings})


FIT = [
    *("fit", "--config", str(Path(__file__).parent.parent / "configs/digits/attention_gan.yaml")),
    # So that a shorter run has the same rates.
    *("--model.schedule=constant", "--model.filters=8"),
    *("--data.path=images", "--data.test_images=6", "--data.batch_size=4"),
    *("--data.validation_batches=1", "--data.validation_batch_size=4", "--data.epoch_batches=2"),
]
RUN = Path("runs/digits/attention_gan")


@pytest.mark.usefixtures("elsewhere", "sketches")
def test_a_run_that_goes_on_ends_as_one_that_was_never_stopped(capsys) -> None:
    written(Path("images"), {f"{number}.png": png(20 * number, (9, 8)) for number in range(12)})
    main([*FIT, "--trainer.max_steps=4"])
    main([*FIT, "--trainer.max_steps=2"])
    last = RUN / "version_1/checkpoints/last.ckpt"
    main(["fit", "--ckpt_path", str(last), "--trainer.max_steps=4"])
    whole, halved = (load_checkpoint(RUN / f"version_{n}/checkpoints/last.ckpt") for n in range(2))
    assert halved["global_step"] == 4
    assert_equal(halved["state_dict"], whole["state_dict"], "weights")
    for one, other in zip(whole["optimizer_states"], halved["optimizer_states"], strict=True):
        assert_equal(other["state"], one["state"], "the optimizer")
        assert [group["lr"] for group in other["param_groups"]] == [5e-4, 2e-3]
    pictures = sorted(path.name for path in (RUN / "version_0/pictures").iterdir())
    assert pictures == ["test_images.png", "test_looks_1.png", "test_looks_2.png"]
    best = RUN / "version_0/checkpoints/best.ckpt"
    capsys.readouterr()
    main(["predict", "--ckpt_path", str(best), "--data.test_images=5"])
    assert "predictions.npz and" in capsys.readouterr().out
    # Of other settings than those of the run, and so beside its own results.
    assert (RUN / "version_0/tests/0/predictions_test.png").is_file()
    drawn = np.load(RUN / "version_0/tests/0/predictions.npz")
    model = mn.load(best)
    assert drawn["test/answers"].shape == (5, 1, 64)
    with torch.no_grad():
        again = model.answer(torch.from_numpy(drawn["test/source"])).numpy()
    np.testing.assert_allclose(drawn["test/answers"], again, atol=1e-6)
    with pytest.raises(TypeError, match="Images cannot read inputs of your own"):
        mn.Predictor.load(best)([1])
