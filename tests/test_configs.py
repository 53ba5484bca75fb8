"""Every config builds, trains a step and is tested, and says only what is special."""

import inspect
import json
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from functools import cache
from itertools import cycle
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning import Trainer

from memnets.app.cli import main
from memnets.app.messages import settings_of
from memnets.app.settings import TRAINER_DEFAULTS
from memnets.models import Model
from tests.images import leave_pictures_blank, png, runs, save_blank_pictures, written
from tests.lexicons import lexicon

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(
    path
    for path in ROOT.glob("configs/**/*.yaml")
    if path.parent.name not in ("scoreboards", "sweeps")
)

# Most of the time goes into pictures, of which each sequence of a small test set has one.
BATCHES = ["--data.batch_size=4", "--data.validation_batch_size=4"]
ONE_SET = [*BATCHES, "--data.test_sequences=2"]
TOKENS = [*ONE_SET, "--data.test_sets=[[3, 1]]"]
SETS = [*BATCHES, "--data.test_sets=[[3, 2]]"]
POINTING = [
    *("--data.min_points=3", "--data.max_points=4", "--data.batch_points=8"),
    *(*ONE_SET, "--data.test_sets=[[5, 1]]"),
]
EPISODES = ["--data.test_episodes=1", "--data.validation_batch_size=2", "--data.batch_size=2"]
# Variants of all images take a second to make.
IMAGES = [*EPISODES, "--data.variants=1"]
SMALL = {
    "CopyingTokens": TOKENS,
    "SortingTokens": TOKENS,
    "Copying": SETS,
    "Reversing": SETS,
    "AssociativeRecall": SETS,
    "RepeatCopying": [*BATCHES, "--data.test_sets=[[3, 2, 2]]"],
    "DynamicNGrams": [*ONE_SET, "--data.length=12"],
    "PrioritySort": ONE_SET,
    "PropositionalLogic": [*ONE_SET, "--data.max_operators=1", "--data.longest=1"],
    "SortingNumbers": POINTING,
    "ConvexHull": POINTING,
    "Delaunay": POINTING,
    "TravellingSalesman": POINTING,
    "Countries": [*BATCHES, "--data.most_facts=8"],
    "FewShot": IMAGES,
    "OnlineFewShot": [*IMAGES, "--data.instances=2"],
    "Sinusoids": EPISODES,
    "Babi": ["--data.questions=20"],
    "Bandits": [*EPISODES, "--data.pulls=4"],
    "Captions": [*BATCHES, "--data.test_scenes=2", "--data.max_digits=2"],
    "GroupWords": [*BATCHES, "--data.test_sets=[[5, 2]]", "--data.longest=0"],
    "MultiQueryRecall": [*BATCHES, "--data.test_pairs=[[4, 2]]"],
    "Parity": [*BATCHES, "--data.test_sets=[[5, 2]]", "--data.longest=0"],
    "BinaryAddition": [*BATCHES, "--data.test_sets=[[5, 2]]"],
    "Duplicating": [*BATCHES, "--data.test_sets=[[5, 2]]", "--data.longest=0"],
    "OddsFirst": [*BATCHES, "--data.test_sets=[[5, 2]]", "--data.longest=0"],
    "Reversal": [*BATCHES, "--data.test_sets=[[5, 2]]", "--data.longest=0"],
    "Images": [*BATCHES, "--data.test_images=2", "--data.held_out=0.95"],
}
TRANSLATION = ["--data.vocabulary_size=120", "--data.max_tokens=100", "--data.batch_tokens=400"]

SENTENCES = [(f"the {n} small cats sleep", f"die {n} kleinen Katzen schlafen") for n in range(60)]


def small(data: dict, folder: Path) -> list[str]:
    """Flags that make a task small."""
    task = data["class_path"].rpartition(".")[2]
    if task in ("FewShot", "OnlineFewShot") and "paths" in data.get("init_args", {}):
        return [*SMALL[task], *omniglot(folder)]
    if task == "Entailment":
        return [*BATCHES, *pairs(folder), "--data.vocabulary_size=60"]
    if task == "Pronunciation":
        return [f"--data.lexicon={lexicon(folder)}", "--data.batch_tokens=200"]
    if task == "Sentiment":
        return labelled(folder)
    if task == "Language":
        for split, lines in (("train", SENTENCES), ("val", SENTENCES[:4]), ("test", SENTENCES[:2])):
            (folder / split).write_text("".join(line + "\n" for line, _ in lines))
        return [f"--data.{split}={folder / split}" for split in ("train", "val", "test")]
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


def pairs(folder: Path) -> list[str]:
    """Files of pairs of sentences, and the flags that name them."""
    flags = []
    for split, count in (("train", 8), ("val", 4), ("test", 2)):
        path = folder / f"{split}.jsonl"
        rows = [
            {"gold_label": label, "sentence1": one, "sentence2": "it is so"}
            for label, (one, _) in zip(cycle(("neutral", "entailment")), SENTENCES[:count])
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        flags.append(f"--data.{split}={path}")
    return flags


def labelled(folder: Path) -> list[str]:
    """Files of sentences, one for each label, and the flags that say where they are."""
    for name, side in (("good", 0), ("poor", 1)):
        lines = [f"{pair[side]}\n" for pair in SENTENCES]
        (folder / f"{name}.txt").write_text("".join(lines))
    paths = ", ".join(str(folder / f"{name}.txt") for name in ("good", "poor"))
    return [f"--data.train=[{paths}]", "--data.vocabulary_size=90"]


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


def families(kind: Callable[[dict], list[str]]) -> list[Path]:
    """The first config of each kind."""
    found: dict[str, Path] = {}
    for config in CONFIGS:
        found.setdefault(str(kind(content_of(config))), config)
    return list(found.values())


@cache
def content_of(config: Path) -> dict:
    return yaml.safe_load(config.read_text())


def with_memory(content: dict) -> list[str]:
    """The class of a model, and of its memory."""
    model = content["model"]
    parts = [model, *(model["init_args"].get(name) for name in ("access", "learner"))]
    return [part and part["class_path"] for part in parts]


def with_task(content: dict) -> list[str]:
    """The class of a model, and of its task."""
    return [content["model"]["class_path"], content["data"]["class_path"]]


#: Pictures of the others are of the same kind as one of these, and left blank.
DRAWN = {*families(with_memory), *families(with_task)}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
@pytest.mark.usefixtures("elsewhere")
def test_config(config: Path, tmp_path, monkeypatch) -> None:
    (save_blank_pictures if config in DRAWN else leave_pictures_blank)(monkeypatch)
    data = yaml.safe_load(config.read_text())["data"]
    short = ["--trainer.max_steps=1", "--data.epoch_batches=1", "--data.validation_batches=1"]
    main(["fit", "--config", str(config), *short, *small(data, tmp_path)])
    run = Path("runs") / config.parent.name / config.stem / "version_0"
    assert (run / "metrics.json").is_file(), "the config's name is not that of its file"


PRECISIONS = ["bf16-mixed", "16-mixed", "bf16-true"]


# Each precision with each model and memory is tested elsewhere; here, through the command line.
@pytest.mark.filterwarnings("ignore:.*running under bf16-true:UserWarning")
@pytest.mark.parametrize(
    ("config", "precision"),
    [
        pytest.param(config, PRECISIONS[turn % 3], id=f"{config.parent.name}/{config.stem}")
        for turn, config in enumerate(families(with_memory))
    ],
)
@pytest.mark.usefixtures("elsewhere", "sketches")
def test_each_kind_of_model_trains_in_16_bits(config: Path, precision: str, tmp_path) -> None:
    data = yaml.safe_load(config.read_text())["data"]
    flags = ["--trainer.fast_dev_run=1", f"--trainer.precision={precision}"]
    main(["fit", "--config", str(config), *flags, *small(data, tmp_path)])


#: Sizes of a model, and what it has in place of a memory: a reader looks for them first.
SAID_ANYWAY = {
    *("access", "heads", "hidden_size", "layers", "read_heads", "slots", "width", "write_heads"),
}


def plain(value: Any) -> Any:
    """A value as YAML has it."""
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def same(value: Any, default: Any) -> bool:
    """Whether a value of a config is a default, of which ``True`` is not 1."""
    return type(plain(value)) is type(plain(default)) and plain(value) == plain(default)


def repeated(node: Any, where: str, kept: Collection[str] = ()) -> Iterator[str]:
    """The settings of a part, and of the parts in it, that are those of its class anyway."""
    if isinstance(node, list):
        for index, one in enumerate(node):
            yield from repeated(one, f"{where}.{index}", kept)
    if not isinstance(node, dict):
        return
    settings = node.get("init_args") or {}
    known = settings_of(resolve_name(node["class_path"])) if "class_path" in node else {}
    for name, value in settings.items():
        yield from repeated(value, f"{where}.{name}", kept)
        if name in known and name not in kept and same(value, known[name].default):
            yield f"{where}.{name}"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_config_repeats_no_default(config: Path) -> None:
    content = yaml.safe_load(config.read_text())
    trainer, usual = content["trainer"], {**settings_of(Trainer), **TRAINER_DEFAULTS}
    found = [
        *repeated(content["model"], "model", SAID_ANYWAY),
        *repeated(content["data"], "data"),
        *repeated(trainer.get("callbacks"), "trainer.callbacks"),
        *(
            f"trainer.{name}"
            for name, value in trainer.items()
            if same(value, default(usual[name]))
        ),
    ]
    model = content["model"].get("init_args", {})
    optimizer = model.get("optimizer", {})
    if isinstance(optimizer, dict):
        usual_optimizer = settings_of(Model)["optimizer"].default
        if optimizer.get("class_path") == f"torch.optim.{usual_optimizer.__name__}":
            found.append("model.optimizer.class_path")
        if "class_path" not in optimizer:
            node = {"class_path": "torch.optim.Adam", "init_args": optimizer}
            found += repeated(node, "model.optimizer")
    assert not found, f"settings of {config.stem} that are the default: {', '.join(found)}"


def default(setting: Any) -> Any:
    """Of a trainer: ours, else that of Lightning."""
    return setting.default if isinstance(setting, inspect.Parameter) else setting


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ({"schedule": "cosine"}, ["model.schedule"]),
        ({"schedule": "constant", "warmup_steps": 0}, ["model.warmup_steps"]),
        ({"warmup_steps": False}, []),
        (
            {"access": {"class_path": "memnets.memories.NTM", "init_args": {"shift_range": 3}}},
            ["model.access.shift_range"],
        ),
        ({"access": {"class_path": "memnets.memories.NTM", "init_args": {"slots": 128}}}, []),
    ],
)
def test_a_default_that_is_repeated_is_found(setting, found) -> None:
    node = {"class_path": "memnets.models.MemoryMachine", "init_args": setting}
    assert list(repeated(node, "model", SAID_ANYWAY)) == found


def resolved(*arguments: str) -> dict[str, Any]:
    """The whole config that arguments make, with every default."""
    main(["fit", *arguments, "--trainer.max_steps=1", *TINY])
    (path,) = Path("runs").glob("*/*/version_0/config.yaml")
    config = yaml.safe_load(path.read_text())
    shutil.rmtree("runs")
    return config


TINY = [
    *("--trainer.callbacks=[]", "--data.batch_size=2", "--data.epoch_batches=1"),
    *("--data.validation_batches=1", "--data.test_sets=[[2, 2]]", "--data.validation_batch_size=2"),
]
MACHINE = {
    "class_path": "memnets.models.MemoryMachine",
    "init_args": {
        "controller": {"class_path": "memnets.cells.LSTM", "init_args": {"hidden_size": 4}}
    },
}
WHOLE = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.25}}


@pytest.mark.parametrize(
    ("optimizer", "flags", "name", "rate"),
    [
        (None, [], "Adam", 0.001),
        ({"lr": 0.25}, [], "Adam", 0.25),
        (WHOLE, [], "Adam", 0.25),
        ({"lr": 0.25}, ["--model.optimizer.lr=0.5"], "Adam", 0.5),
        (WHOLE, ["--model.optimizer.lr=0.5"], "Adam", 0.5),
        ({"lr": 0.25}, ["--model.optimizer=torch.optim.AdamW"], "AdamW", 0.25),
        (None, ["--model.optimizer.lr=0.5"], "Adam", 0.5),
        ({"class_path": "torch.optim.SGD", "init_args": {"lr": 0.25}}, [], "SGD", 0.25),
    ],
)
@pytest.mark.usefixtures("elsewhere", "blanks")
def test_a_rate_alone_is_one_of_adam(optimizer, flags, name, rate) -> None:
    model = {**MACHINE, "init_args": {**MACHINE["init_args"]}}
    if optimizer is not None:
        model["init_args"]["optimizer"] = optimizer
    content = {"name": "a/b", "model": model, "data": {"class_path": "tasks.Copying"}}
    Path("mine.yaml").write_text(yaml.safe_dump(content))
    found = resolved("--config=mine.yaml", *flags)["model"]["init_args"]["optimizer"]
    assert found["class_path"] == f"torch.optim.{name}"
    assert found["init_args"]["lr"] == rate


@pytest.mark.usefixtures("elsewhere", "blanks")
def test_a_run_keeps_what_is_no_default() -> None:
    content = {"name": "a/b", "model": MACHINE, "data": {"class_path": "tasks.Copying"}}
    Path("mine.yaml").write_text(yaml.safe_dump(content))
    flags = ["--trainer.gradient_clip_val=null", "--model.schedule=constant"]
    main(["fit", "--config=mine.yaml", *flags, "--trainer.max_steps=1", *TINY])
    run = Path("runs/a/b/version_0")
    kept = yaml.safe_load((run / "config.yaml").read_text())
    assert kept["trainer"]["gradient_clip_val"] is None
    assert kept["model"]["init_args"]["schedule"] == "constant"
    # And so does what goes on from it, by its checkpoint and by its config.
    last = run / "checkpoints" / "last.ckpt"
    main(["fit", "--ckpt_path", str(last), "--trainer.max_steps=2"])
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"] == {
        **kept["trainer"],
        "max_steps": 2,
    }


@pytest.mark.usefixtures("elsewhere", "blanks")
def test_a_run_of_version_0_1_goes_on_without_clipping() -> None:
    content = {"name": "a/b", "model": MACHINE, "data": {"class_path": "tasks.Copying"}}
    Path("mine.yaml").write_text(yaml.safe_dump(content))
    main(["fit", "--config=mine.yaml", "--trainer.max_steps=1", *TINY])
    run = Path("runs/a/b/version_0")
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["gradient_clip_val"] == 1
    last = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    config = yaml.safe_load(checkpoint["config"])
    del config["trainer"]["gradient_clip_val"]  # as it left out what was null, the default
    del checkpoint["format"]
    torch.save({**checkpoint, "config": yaml.safe_dump(config)}, last)
    main(["fit", "--ckpt_path", str(last), "--trainer.max_steps=2"])
    whole = yaml.safe_load((run / "config.yaml").read_text())
    assert whole["trainer"]["gradient_clip_val"] is None


@pytest.mark.usefixtures("elsewhere", "blanks")
def test_clipping_can_be_left_out() -> None:
    content = {"name": "a/b", "model": MACHINE, "data": {"class_path": "tasks.Copying"}}
    Path("mine.yaml").write_text(yaml.safe_dump(content))
    trained = []
    for name, value in (("off", "0"), ("none", "null"), ("usual", "1e-9")):
        flags = [f"--name=a/{name}", f"--trainer.gradient_clip_val={value}"]
        sgd = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"]
        main(["fit", "--config=mine.yaml", *flags, *sgd, "--trainer.max_steps=1", *TINY])
        path = Path("runs/a", name, "version_0/checkpoints/last.ckpt")
        weights = torch.load(path, weights_only=True)["state_dict"]
        trained.append(torch.cat([weight.flatten() for weight in weights.values()]))
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


def test_the_table_of_configs_names_every_folder_and_only_configs_that_there_are() -> None:
    page = (ROOT / "docs" / "command_line.md").read_text()
    rows = re.findall(
        r"^\|(.*)\|(.*)\|$",
        page.partition("## Models and tasks, by config")[2].partition("\n## ")[0],
        re.M,
    )
    folders = {folder for first, _ in rows for folder in re.findall(r"`(\w+)/`", first)}
    assert folders == {path.name for path in (ROOT / "configs").iterdir()}
    for first, second in rows:
        own = re.findall(r"`(\w+)/`", first)
        for name in re.findall(r"`([\w/*]+)`", second):
            found = [name] if "/" in name else [f"{folder}/{name}" for folder in own]
            assert any([*(ROOT / "configs").glob(f"{each}.yaml")] for each in found), name
