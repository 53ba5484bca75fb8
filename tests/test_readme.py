"""The code of README and docs, run as it stands; commands that are written down, parsed."""

import ast
import importlib
import re
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from torch.testing import assert_close as close

from memnets import testing
from memnets.app import listing, scoreboard, sweep, translate, view
from memnets.app.cli import DESCRIPTION, main
from memnets.app.commands import OPTIONS, check_usage, with_config_paths
from memnets.app.run import CLI
from tasks import Copying

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DATA = (ROOT / "docs" / "data.md").read_text()
PYTHON = (ROOT / "docs" / "python.md").read_text()
#: Pages that are written by hand.
PAGES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("docs/results/*.md")),
]
EXAMPLES = sorted(ROOT.glob("examples/*/*.py"))
#: Examples with parts of a user's own.
YOURS = sorted(ROOT.glob("examples/yours/*.py"))
FLAG = re.compile(r"""--[\w.]+=(?:'[^']*'|"[^"]*"|<[^>]*>|[^\s,;]+)""")


def block(label: str, text: str = README) -> str:
    """The code that follows a comment with this label."""
    match = re.search(rf"<!-- {re.escape(label)} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert match, f"there is no code labelled {label}"
    return match[1]


@cache
def my_parts() -> str:
    """A file with the parts and the task of the gallery, and what they import."""
    body = [part for path in YOURS for part in ast.parse(path.read_text()).body]
    own = (ast.Import, ast.ImportFrom, ast.ClassDef)
    parts = [ast.unparse(part) for part in body if isinstance(part, own)]
    return "\n\n".join(part for part in parts if "matplotlib" not in part)


def code_of_shell(path: Path) -> str:
    """The commands in the shell blocks of a page or an example."""
    text = path.read_text()
    if path.suffix == ".md":
        return "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    blocks = re.findall(r"# \.\. code-block:: sh\n#\n((?:#    .*\n)+)", text)
    return "".join(re.sub(r"(?m)^#    ", "", block) for block in blocks)


def path_of(config: str) -> str:
    """The file of a config that may be given by its name alone."""
    return config if (ROOT / config).is_file() else f"configs/{config}.yaml"


#: What makes a command short.
SHORT = [
    "--trainer.max_steps=2",
    "--data.epoch_batches=1",
    "--data.validation_batch_size=2",
    "--data.test_sets=[[3, 2]]",
    "--trainer.callbacks=[]",
]


def in_short(command: str) -> None:
    """Run a command of a page, made short."""
    name, *arguments = shlex.split(command.replace("\\\n", " "))
    assert name == "memnets"
    place = arguments.index("--config") + 1
    config = str(ROOT / path_of(arguments[place]))
    main([*arguments[:place], config, *arguments[place + 1 :], *SHORT])


@pytest.mark.usefixtures("elsewhere", "blanks")
def test_a_memory_and_a_task_in_a_file_outside_the_package(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    Path("my_parts.py").write_text(my_parts())
    parts = importlib.import_module("my_parts")
    testing.check_access(
        parts.DeltaRule, key_size=3, value_size=4, leave_out=["overwritten", "slots"]
    )
    for split in ("train", "val"):
        copied, reversed_ = (
            make(width=2, max_length=5).batch(split, 0) for make in (Copying, parts.Reversing)
        )
        for row, vectors in enumerate(copied.targets):
            length = len(vectors) if copied.target_mask is None else copied.target_mask[row].sum()
            assert torch.equal(reversed_.targets[row, :length], vectors[:length].flip(0))
    (path,) = (path for path in YOURS if "task" in path.stem)
    in_short(f"{code_of_shell(path).strip()} --model.access=my_parts.DeltaRule")
    assert Path("runs/reversing/ntm/version_0/metrics.json").is_file()


@pytest.mark.usefixtures("elsewhere", "blanks")
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


@pytest.mark.usefixtures("elsewhere")
def test_the_task_of_the_page_on_data_keeps_every_law(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_tasks.py").write_text(block("my_tasks.py", DATA))
    testing.check_task(importlib.import_module("my_tasks").Parity, max_examples=5)


def commands() -> list[str]:
    """Those of pages, examples and the help; for each config, what the comment at its head says.

    A head has a whole command, or the flags that another run of the config is given.
    """
    shell = "".join(map(code_of_shell, [*PAGES, *EXAMPLES]))
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


@cache
def parser_of(command: str) -> ArgumentParser:
    """The parser of a command, made once."""
    if command == "translate":
        return translate.parser()
    if command == "scoreboard":
        return scoreboard.parser()
    if command == "sweep":
        return sweep.parser()
    if command == "view":
        return view.parser()
    if command == "runs":
        return listing.parser()
    config = ["--config", str(ROOT / "configs" / "copying" / "ntm.yaml")]
    with ExitStack() as held:
        return Parsed(command, config, held).parser


@pytest.fixture
def parse(tmp_path, monkeypatch) -> Callable[[str], None]:
    """Parses a command in the folder of the README, where its parts can be imported."""
    (tmp_path / "my_controllers.py").write_text(block("my_controllers.py"))
    (tmp_path / "my_parts.py").write_text(my_parts())
    (tmp_path / "my_tasks.py").write_text(block("my_tasks.py", DATA))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(ROOT)

    def parse(command: str) -> None:
        _, name, *arguments = shlex.split(command)
        if OPTIONS[name] == ("help",):  # it has no parser
            check_usage([name, *arguments])
            return
        checkpoint = re.search(r"--ckpt_path[ =]runs/(.*)/version_\d+\b", command)
        # The config in a checkpoint is that of its run.
        config = ["--config", f"configs/{checkpoint[1]}.yaml"] if checkpoint else []
        parser_of(name).parse_args(with_config_paths([*config, *arguments]))

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
    names: dict[str, object] = {}
    exec(block("python"), names)
    assert names["outputs"].shape == (16, 5, 8)  # type: ignore[attr-defined]
    assert names["weights"].shape == (16, 3, 7)  # type: ignore[attr-defined]
    assert names["vectors"].shape == (16, 3, 32)  # type: ignore[attr-defined]


def test_what_the_page_about_python_exports_is_the_model_at_other_sizes(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"<!-- export -->\n```python\n(.*?)```", PYTHON, re.DOTALL)
    assert len(blocks) == 2
    for code in blocks:
        exec(code, names)
    program = torch.export.load(tmp_path / "answers.pt2").module()
    tokens = torch.randint(4, 12, (5, 9)), torch.randint(4, 12, (5, 3))
    first = names["tensors_of"](names["cell"].initial_state(5))
    pairs = [
        (program, names["Answers"](names["model"]), tokens),
        (names["step"].module(), names["Step"](names["cell"]), (torch.randn(5, 9), *first)),
    ]
    for exported, defined, inputs in pairs:
        close(exported(*inputs), defined.eval()(*inputs), rtol=1e-4, atol=1e-5)
        operations = {str(node.target) for node in exported.graph.nodes}
        assert not [each for each in operations if "memnets" in each], "needs this library"


NAMED = re.compile(r"(?<![/\w])(?:configs|docs|examples|benchmarks|tests)/[\w/]+\.\w+")


@pytest.mark.parametrize(
    "path", sorted({path for page in PAGES for path in NAMED.findall(page.read_text())})
)
def test_files_that_pages_name_exist(path: str) -> None:
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^):#]+)\)", README))))
def test_links_of_the_readme_lead_somewhere(link: str) -> None:
    assert (ROOT / link).is_file()


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 180


def test_the_front_page_of_the_docs_begins_with_commands_and_code_of_the_readme() -> None:
    page = (ROOT / "docs" / "index.md").read_text()
    first_command = re.search(r"```sh\n.*?```", README, re.DOTALL)
    assert first_command
    begin = "\n\n".join(README.split("\n\n")[:2])  # the title, and one line
    code = f"```python\n{block('python')}```"
    assert page.startswith(f"{begin}\n\n{first_command[0]}\n\n{code}\n\n")
