"""The README's own code, run as it stands."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from memnets.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def block(label: str) -> str:
    """The code that follows a comment with this label."""
    match = re.search(rf"<!-- {re.escape(label)} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert match, f"README.md has no code labelled {label}"
    return match[1]


def test_a_controller_in_a_file_outside_the_package(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["memnets"])
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
    command, *arguments = shlex.split(block("shell"))
    assert command == "memnets"
    arguments[arguments.index("--config") + 1] = str(ROOT / "configs" / "copying" / "ntm.yaml")
    main(
        [
            *arguments,
            "--trainer.max_steps=2",
            "--data.epoch_batches=1",
            "--data.validation_batch_size=2",
            "--data.test_sets=[[3, 2]]",
            "--trainer.callbacks=[]",
        ]
    )
    config = Path("runs/copying/ntm/version_0/config.yaml").read_text()
    assert "my_controllers.Leaky" in config


def test_the_parts_in_python(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
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
