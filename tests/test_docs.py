"""The pages, as far as they can be checked without building them; ``.ci/run`` builds them."""

import ast
import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path

import pytest

from memnets import testing

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
EXAMPLES = sorted(ROOT.glob("examples/*/plot_*.py"))


@pytest.fixture(scope="module")
def reference():
    """The module that writes the pages of the reference."""
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_a_page_for_each_room_and_none_for_a_private_one(
    reference, tmp_path
) -> None:
    (tmp_path / "gone.md").write_text("a room that there is no more")
    reference.write_pages(tmp_path)
    pages = {path.stem for path in tmp_path.glob("*.md")} - {"index"}
    rooms = {path.stem for path in (ROOT / "memnets").iterdir() if path.suffix == ".py"}
    rooms |= {path.parent.name for path in (ROOT / "memnets").glob("*/__init__.py")}
    assert pages == {room for room in rooms if not room.startswith("_")} | {"tasks"}
    index = (tmp_path / "index.md").read_text()
    assert all(f"\n{page}\n" in index for page in pages)
    assert "automodule:: memnets.cells\n" in (tmp_path / "cells.md").read_text()


def test_the_reference_describes_public_names_alone(reference) -> None:
    for room in reference._rooms():
        for name in re.findall(r"automodule:: (\S+)", reference._page(room)):
            module = importlib.import_module(name)
            assert not any(part.startswith("_") for part in name.split("."))
            assert module.__doc__, f"{name} has no docstring"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_a_title_and_checks_what_it_claims(path: Path) -> None:
    tree = ast.parse(path.read_text())
    title, line, *_ = (ast.get_docstring(tree) or "\n").splitlines()
    assert title
    assert line == "=" * len(title)
    checks = (ast.Assert, ast.Attribute)
    found = [node for node in ast.walk(tree) if isinstance(node, checks)]
    assert any(isinstance(node, ast.Assert) or node.attr == "assert_close" for node in found)


def test_examples_that_run_side_by_side_save_files_of_different_names() -> None:
    names = [
        name
        for path in EXAMPLES
        for name in set(re.findall(r"[\w-]+\.(?:png|html)(?=\")", path.read_text()))
    ]
    assert len(names) > 10
    assert len(names) == len(set(names))


@pytest.fixture
def saved():
    """The function that shows what a block of an example has saved."""
    spec = importlib.util.spec_from_file_location("shown", DOCS / "shown.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_page_that_a_block_saves_is_shown_in_a_frame(saved, tmp_path, monkeypatch) -> None:
    pytest.importorskip("sphinx_gallery")
    monkeypatch.setattr(saved, "KEPT", tmp_path / "kept")
    folder = tmp_path / "docs" / "gallery" / "inside"
    folder.mkdir(parents=True)
    for name in ("mine.html", "other.html", "mine.png"):
        (tmp_path / name).write_text("<title>A &amp; B</title>")
    images = iter([str(folder / "image.png")])
    shown = saved.saved(
        ("code", 'page.save("mine.html")\nplot("mine.png")', 1),
        {
            "src_file": str(tmp_path / "plot_1.py"),
            "target_file": str(folder / "plot_1.py"),
            "image_path_iterator": images,
        },
        {"src_dir": str(tmp_path / "docs")},
    )
    assert '<iframe src="../../pages/mine.html" title="A &amp; B" loading="lazy">' in shown
    assert (tmp_path / "kept" / "pages" / "mine.html").is_file()
    assert (folder / "image.png").is_file()
    # Another example, which runs beside this one, saves what is left.
    assert [path.name for path in tmp_path.glob("*.*ml")] == ["other.html"]


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.stem)
def test_links_between_pages_lead_somewhere(path: Path, reference) -> None:
    generated = {f"gallery/{each.parent.name}/{each.stem}.rst" for each in EXAMPLES}
    for link in re.findall(r"\]\(([^):#]+\.(?:md|rst|png))", path.read_text()):
        assert (path.parent / link).is_file() or link in generated | {
            "api/index.md",
            "gallery/index.rst",
        }, link


def test_the_table_of_new_parts_names_classes_files_and_laws_that_there_are() -> None:
    table = r"^\| a new \| is a subclass of \|.*\n\|[-|]+\n((?:\|.*\n)+)"
    (rows,) = re.findall(table, (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    # One table alone: of two, one would be out of date.
    pages = [path.read_text() for path in DOCS.glob("*.md")]
    assert not any("`check_score`" in page for page in pages)
    checked = set()
    for row in rows.splitlines():
        _, classes, files, laws = re.findall(r"(?<=\| )[^|]+(?= \|)", row)
        names = re.findall(r"`@?([\w.]+)`", classes)
        assert names, row
        assert all(pkgutil.resolve_name(name) for name in names)
        assert all((ROOT / file).exists() for file in re.findall(r"`([\w./]+)`", files)), row
        checked |= set(re.findall(r"`testing\.(\w+)`", laws))
        assert all((ROOT / file).exists() for file in re.findall(r"`(tests/[\w./]+)`", laws)), row
    assert checked <= set(testing.__all__)
    # Laws of what is no new class, or of one kind of models beside their own.
    others = {"check_decoding", "check_growth", "check_kernel", "check_pointer", "check_program"}
    assert {name for name in testing.__all__ if name.startswith("check_")} == checked | others
