"""Every config builds, trains a step and is tested."""

from pathlib import Path

import pytest

from memnets.cli import main

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(ROOT.glob("configs/**/*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_config(config: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["memnets"])
    small = ["--trainer.max_steps=2", "--data.epoch_batches=1", "--data.validation_batches=1"]
    main(["fit", "--config", str(config), *small, "--data.test_sets=[[3, 2]]"])
    run = Path("runs") / config.parent.name / config.stem / "version_0"
    assert (run / "metrics.json").is_file(), "the config's name is not that of its file"
