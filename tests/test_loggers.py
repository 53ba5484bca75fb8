"""Loggers of Lightning by their class: beside the folder of a run, its resume and its tests."""

import csv
import importlib.util
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as lightning
import yaml
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.trainer.connectors.logger_connector.logger_connector import _LoggerConnector

from memnets.app.cli import main
from memnets.cells import FeedForward
from memnets.memories import NTM
from memnets.models import MemoryMachine
from memnets.training import trained
from tasks import Copying
from tests.test_cli import RUN, SMALL, fails

pytestmark = pytest.mark.usefixtures("elsewhere", "blanks")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_logger_by_its_class_stands_beside_the_folder_of_the_run(capsys) -> None:
    flags = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs"]
    main(["fit", *SMALL, *flags, "--pictures_every=1"])
    assert capsys.readouterr().err == ""  # it takes no images, and nobody minds
    first = Path("logs/lightning_logs/version_0")
    theirs, ours = rows(first / "metrics.csv"), rows(RUN / "metrics.csv")
    bits = [row["val/bits"] for row in ours if row["val/bits"]]
    assert [row["val/bits"] for row in theirs if row["val/bits"]] == bits
    assert any(row["test/length_4/bits"] for row in theirs)
    settings = yaml.safe_load((first / "hparams.yaml").read_text())
    assert settings["model"]["init_args"]["access"]["init_args"]["slots"] == 10
    assert not list(RUN.glob("events.out.tfevents*"))
    # The run goes on without the logger, which the checkpoint alone names; or with it.
    last = RUN / "checkpoints" / "last.ckpt"
    main(["fit", "--ckpt_path", str(last), "--trainer.max_steps=6"])
    assert capsys.readouterr().err.startswith("memnets: trainer.logger = {'class_path': 'pytorch_l")
    assert [path.name for path in first.parent.iterdir()] == ["version_0"]
    main(["fit", *SMALL, *flags, "--ckpt_path=last", "--trainer.max_steps=8"])
    assert [row["step"] for row in rows(RUN / "metrics.csv") if row["val/bits"]] == list("1357")
    went_on = Path("logs/lightning_logs/version_1")
    assert [row["step"] for row in rows(went_on / "metrics.csv") if row["val/bits"]] == ["7"]
    assert not (went_on / "hparams.yaml").exists()
    # A test of the checkpoint is none of the training's business.
    main(["test", "--ckpt_path", str(RUN / "checkpoints" / "best.ckpt")])
    assert capsys.readouterr().err == ""
    assert len(list(first.parent.iterdir())) == 2


@pytest.mark.skipif(
    importlib.util.find_spec("wandb") is not None, reason="the package is there: none is missing"
)
def test_a_logger_without_its_package_says_what_to_install(capsys) -> None:
    message = fails(capsys, "fit", *SMALL, "--trainer.logger=WandbLogger")
    assert "Requirement 'wandb" in message
    assert "pip install" in message
    assert "Expected a" not in message
    assert not Path("runs").exists()


def test_a_logger_that_lacks_a_setting_is_one_line(capsys) -> None:
    message = fails(capsys, "fit", *SMALL, "--trainer.logger=CSVLogger")
    assert message.endswith("trainer.logger: the following arguments are required: save_dir")
    assert not Path("runs").exists()


def test_lightning_tells_by_a_private_name_in_which_steps_it_writes() -> None:
    assert isinstance(getattr(_LoggerConnector, "should_update_logs", None), property), (
        "this Lightning has no _LoggerConnector.should_update_logs: every training step of "
        "memnets.training.trained logs its loss now, which takes longer; look for the new name"
    )


writes = trained._writes


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # Lightning's own
@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("told", [True, False])
def test_the_loss_that_is_written_for_a_step_is_that_of_the_step(
    accumulated, told, tmp_path, monkeypatch
) -> None:
    losses = {}
    if not told:  # as of a Lightning that does not tell in which steps it writes
        monkeypatch.setattr(trained, "_writes", lambda trainer: writes(SimpleNamespace()))

    class Told(MemoryMachine):
        def loss(self, batch):
            loss = super().loss(batch)
            losses[self.global_step] = loss.item()
            return loss

    task = Copying(width=2, max_length=3, batch_size=2, epoch_batches=7, workers=0)
    model = Told(task.input_size, task.output_size, partial(FeedForward, hidden_size=4), NTM(3, 2))
    logger = CSVLogger(tmp_path)
    lightning.Trainer(
        accelerator="cpu", max_steps=12, logger=logger, log_every_n_steps=5, limit_val_batches=0,
        accumulate_grad_batches=accumulated, enable_checkpointing=False, gradient_clip_val=1.0,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(model, datamodule=task)  # fmt: skip
    written = [row for row in rows(Path(logger.log_dir) / "metrics.csv") if row["train/loss"]]
    assert [int(row["step"]) for row in written] == [4, 9]
    for row in written:
        assert float(row["train/loss"]) == pytest.approx(losses[int(row["step"])], rel=1e-6)
        assert float(row["train/gradient_norm"]) > 0
