"""Every config builds, trains a step and is tested."""

from pathlib import Path

import pytest
import yaml

from memnets.app.cli import main
from tests.images import png, runs, written

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(
    path for path in ROOT.glob("configs/**/*.yaml") if path.parent.name != "scoreboards"
)

# Most of the time goes into pictures, of which each sequence of a small test set has one.
BATCHES = ["--data.batch_size=4", "--data.validation_batch_size=4"]
ONE_SET = [*BATCHES, "--data.test_sequences=2"]
TOKENS = [*ONE_SET, "--data.test_lengths=[[3, 1]]"]
SETS = [*BATCHES, "--data.test_sets=[[3, 2]]"]
POINTING = [
    *("--data.min_points=3", "--data.max_points=4", "--data.batch_points=8"),
    *(*ONE_SET, "--data.test_points=[[5, 1]]"),
]
EPISODES = ["--data.test_episodes=1", "--data.validation_batch_size=2", "--data.batch_size=2"]
SMALL = {
    "CopyingTokens": TOKENS,
    "SortingTokens": TOKENS,
    "Copying": SETS,
    "AssociativeRecall": SETS,
    "RepeatCopying": [*BATCHES, "--data.test_sets=[[3, 2, 2]]"],
    "DynamicNGrams": [*ONE_SET, "--data.length=12"],
    "PrioritySort": ONE_SET,
    "SortingNumbers": POINTING,
    "ConvexHull": POINTING,
    "Delaunay": POINTING,
    "TravellingSalesman": POINTING,
    "FewShot": EPISODES,
    "Sinusoids": EPISODES,
    "Bandits": [*EPISODES, "--data.pulls=4"],
}
TRANSLATION = ["--data.vocabulary_size=120", "--data.max_tokens=100", "--data.batch_tokens=400"]

SENTENCES = [(f"the {n} small cats sleep", f"die {n} kleinen Katzen schlafen") for n in range(60)]


def small(data: dict, folder: Path) -> list[str]:
    """Flags that make a task small."""
    task = data["class_path"].rpartition(".")[2]
    if task == "FewShot" and "paths" in data["init_args"]:
        return [*EPISODES, *omniglot(folder)]
    if task != "Translation":
        return SMALL[task]
    if data.get("init_args", {}).get("source", "cldr") == "cldr":
        return [*TRANSLATION, "--data.sizes=[60, 20, 2]"]
    flags = [*TRANSLATION, "--data.vocabulary_size=60"]
    for split, lines in (("train", SENTENCES), ("val", SENTENCES[:4]), ("test", SENTENCES[:2])):
        paths = [folder / f"{split}.{side}" for side in ("source", "target")]
        for side, path in enumerate(paths):
            path.write_text("".join(pair[side] + "\n" for pair in lines))
        flags.append(f"--data.{split}=[{', '.join(map(str, paths))}]")
    return flags


def omniglot(folder: Path) -> list[str]:
    """Files with the names of the real ones, and the flag that says where they are."""
    alphabets = {1: ("Early_Aramaic", "Korean"), 2: ("Tagalog", "Greek")}
    images = iter(range(256))
    for number, names in alphabets.items():
        files = {
            f"{name}/character{c}/{i}.png": png(next(images))
            for name in names
            for c in range(5)
            for i in range(6)
        }
        written(folder / f"images_background_small{number}.zip", files)
    written(folder / "all_runs.zip", runs(count=2, ways=20))
    return [f"--data.folder={folder}"]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
@pytest.mark.usefixtures("elsewhere")
def test_config(config: Path, tmp_path) -> None:
    data = yaml.safe_load(config.read_text())["data"]
    short = ["--trainer.max_steps=2", "--data.epoch_batches=1", "--data.validation_batches=1"]
    main(["fit", "--config", str(config), *short, *small(data, tmp_path)])
    run = Path("runs") / config.parent.name / config.stem / "version_0"
    assert (run / "metrics.json").is_file(), "the config's name is not that of its file"
