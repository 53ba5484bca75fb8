"""The README's own code, run as it stands; commands that are written down, parsed."""

import ast
import importlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser

from memnets import testing
from memnets.app.cli import CLI, DESCRIPTION, main
from memnets.app.configs import with_configs
from tasks import Copying

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FLAG = re.compile(r"""--[\w.]+=(?:'[^']*'|"[^"]*"|<[^>]*>|[^\s,;]+)""")


def block(label: str) -> str:
    """The code that follows a comment with this label."""
    match = re.search(rf"<!-- {re.escape(label)} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert match, f"README.md has no code labelled {label}"
    return match[1]


#: What makes a command short.
SHORT = [
    "--trainer.max_steps=2",
    "--data.epoch_batches=1",
    "--data.validation_batch_size=2",
    "--data.test_sets=[[3, 2]]",
    "--trainer.callbacks=[]",
]


def in_short(command: str) -> None:
    """Run a command of the README, made short."""
    name, *arguments = shlex.split(command.replace("\\\n", " "))
    assert name == "memnets"
    place = arguments.index("--config") + 1
    main([*arguments[:place], str(ROOT / arguments[place]), *arguments[place + 1 :], *SHORT])


@pytest.mark.usefixtures("elsewhere", "sketches")
def test_a_memory_and_a_task_in_a_file_outside_the_package(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    Path("my_parts.py").write_text(block("my_parts.py"))
    parts = importlib.import_module("my_parts")
    testing.check_access(parts.Stack, slots=5, width=3)
    for split in ("train", "val"):
        copied, reversed_ = (
            make(width=2, max_length=5).batch(split, 0) for make in (Copying, parts.Reversing)
        )
        for row, vectors in enumerate(copied.targets):
            length = len(vectors) if copied.target_mask is None else copied.target_mask[row].sum()
            assert torch.equal(reversed_.targets[row, :length], vectors[:length].flip(0))
    in_short(block("shell of my_parts.py"))
    assert Path("runs/reversing/stack/version_0/metrics.json").is_file()


@pytest.mark.usefixtures("elsewhere", "sketches")
def test_a_controller_in_a_file_outside_the_package(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    text = block("my_controllers.py")
    assert len(text.strip().splitlines()) <= 25
    Path("my_controllers.py").write_text(text)
    # Checked by the laws ...
    checks: dict[str, object] = {}
    exec(block("test_my_controllers.py"), checks)
    check = checks["test_leaky"]
    assert callable(check)
    check()
    # ... and used by the very command, made short.
    in_short(block("shell"))
    config = Path("runs/copying/ntm/version_0/config.yaml").read_text()
    assert "my_controllers.Leaky" in config


def commands() -> list[str]:
    """Those of the README and of the help; and for each config, what the comment at its head says.

    A head has a whole command, or the flags that another run of the config is given.
    """
    shell = "".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    shell = re.sub(r"\s*\\\n\s*", " ", shell).replace("$seed", "0")
    texts = [shell, DESCRIPTION]
    for path in sorted(ROOT.glob("configs/**/*.yaml")):
        config = str(path.relative_to(ROOT))
        head = re.match(r"(?:#.*\n)*", path.read_text())[0]
        flags = " ".join(FLAG.findall(head))
        texts += [head.replace("<this file>", config)]
        texts += [f"memnets fit --config {config} {flags}"] if flags else []
    # A word stands for what is to be filled in; a redirection or a comment ends a command.
    texts = [re.sub(r"<\w[^>]*>", "placeholder", text) for text in texts]
    found = [each for text in texts for each in re.findall(r"memnets [^#<\n]*", text)]
    return list(dict.fromkeys(map(str.strip, found)))


class Parsed(CLI):
    """A command that is parsed and not run."""

    def instantiate_classes(self) -> None: ...

    def _run_subcommand(self, subcommand: str) -> None: ...


@pytest.fixture(scope="module")
def parser() -> ArgumentParser:
    """The parser of the command line, made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["memnets"])
        return Parsed(["fit", "--config", str(ROOT / "configs" / "copying" / "ntm.yaml")]).parser


@pytest.fixture
def parse(parser, tmp_path, monkeypatch) -> Callable[[str], None]:
    """Parses a command in the folder of the README, where its parts can be imported."""
    for name in ("my_controllers.py", "my_parts.py"):
        (tmp_path / name).write_text(block(name))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(ROOT)

    def parse(command: str) -> None:
        _, name, *arguments = shlex.split(command)
        checkpoint = re.search(r"--ckpt_path[ =]runs/(.*)/version_\d+/", command)
        # The config in a checkpoint is that of its run.
        config = ["--config", f"configs/{checkpoint[1]}.yaml"] if checkpoint else []
        parser.parse_args(with_configs([name, *config, *arguments]))

    return parse


@pytest.mark.parametrize("command", commands())
def test_a_command_names_configs_and_flags_that_there_are(command: str, parse) -> None:
    parse(command)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config=configs/copying/nmt.yaml", "nmt.yaml"),
        ("--data.widht=3", "'widht' is not accepted"),
        ("--data.test_sets=[[3]]", "test_sets"),
        ("--trainer.max_stesp=3", "max_stesp"),
        ("--model.access.slots=many", "slots"),
        ("--model.controller=memnets.cells.GUR", "GUR"),
    ],
)
def test_a_command_with_a_planted_fault_is_found(flag: str, message: str, parse) -> None:
    with pytest.raises((ArgumentError, ValueError), match=message):
        parse(f"memnets fit --config configs/copying/ntm.yaml {flag}")


@pytest.mark.usefixtures("elsewhere")
def test_the_parts_in_python() -> None:
    match = re.search(r"## In Python.*?```python\n(.*?)```", README, re.DOTALL)
    assert match
    names: dict[str, object] = {}
    exec(match[1], names)
    assert Path("weights.png").stat().st_size > 0
    assert names["weights"].shape == (16, 3, 7)  # type: ignore[attr-defined]
    assert names["vectors"].shape == (16, 3, 32)  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\b(?:configs|docs)/[\w/]+\.\w+", README))))
def test_files_that_the_readme_names_exist(path: str) -> None:
    assert (ROOT / path).is_file()


def test_the_map_names_every_file() -> None:
    written = README[README.index("## The map") : README.index("## Results")]
    for path in [
        *ROOT.glob("memnets/*.py"),
        *ROOT.glob("tasks/*.py"),
        *ROOT.glob("memnets/*/*.py"),
    ]:
        folder = path.relative_to(ROOT).parts[1] if path.parent.parent != ROOT else ""
        if path.name.startswith("__") or folder in ("kernels", "testing"):
            continue
        assert path.name in written, f"README.md's map does not name {path.relative_to(ROOT)}"


def imported(path: Path) -> set[str]:
    """The modules of memnets that a file imports, but not those that it names in types alone."""
    names: set[str] = set()
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module == "memnets":
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("memnets."):
            names.add(str(node.module).split(".")[1])
        nodes.extend(ast.iter_child_nodes(node))
    return names


def test_each_file_is_on_the_map_and_imports_only_those_above_it() -> None:
    package = README.split("## The map")[1].split("\ntasks/ ")[0]
    lines = re.findall(r"^  (\w+(?:\.py|/)(?: \w+\.py)*) ", package, re.MULTILINE)
    places = [name.rstrip("/").removesuffix(".py") for line in lines for name in line.split()]
    files = {path.relative_to(ROOT / "memnets") for path in (ROOT / "memnets").rglob("*.py")}
    modules = {path: path.parts[0].removesuffix(".py") for path in files}
    assert sorted(places) == sorted(set(modules.values()) - {"__init__", "__main__"})
    for path, module in modules.items():
        if module in places:
            above = set(places[: places.index(module) + 1])
            assert imported(ROOT / "memnets" / path) <= above, f"{path} imports what is below it"
