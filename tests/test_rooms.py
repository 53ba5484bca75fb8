"""The house: which room may know which. Types count too, and imports within functions."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests import mutants

ROOT = Path(__file__).parent.parent

#: Rooms in the order in which they stand: each imports only those before it, and itself.
ROOMS = [
    "memnets._moved",
    "memnets._own",
    "memnets.events",
    "memnets.fast",
    "memnets.precision",
    "memnets.functional",
    "memnets.checks",
    "memnets.batches",
    "memnets.files",
    "memnets.records",
    "memnets.extras",
    "memnets.vocabulary",
    "memnets.core",
    "memnets.factories",
    "memnets.scores",
    "memnets.normalizers",
    "memnets.addressing",
    "memnets.cells",
    "memnets.memories",
    "memnets.features",
    "memnets.embedders",
    "memnets.encoders",
    "memnets.decoding",
    "memnets.training",
    "memnets.models",
    "memnets.kernels",
    "memnets.viewing",
    "memnets.testing",
    "tasks",
    "memnets.app",
]
#: Doors: what opens all rooms by name, and is imported by none.
DOORS = ["memnets", "memnets.__main__"]
#: A task is a source of batches: of all rooms it knows these alone.
KNOWN_TO_TASKS = {
    "memnets.batches",
    "memnets.checks",
    "memnets.core",
    "memnets.extras",
    "memnets.files",
    "memnets.vocabulary",
}


def test_the_page_about_the_house_names_the_rooms_in_their_order() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    told = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    private = {"memnets._moved", "memnets._own", "tasks"}
    assert told == [room.removeprefix("memnets.") for room in ROOMS if room not in private]


def modules() -> dict[str, Path]:
    paths = [path for top in ("memnets", "tasks") for path in sorted((ROOT / top).rglob("*.py"))]
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


MODULES = modules()


@cache
def imported(name: str) -> set[str]:
    """The modules of this project that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{name} imports relatively"
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            known = parts & MODULES.keys()
            found |= known if known else {node.module}
            if known and len(known) < len(parts):
                found.add(node.module)
    return {module for module in found if module in MODULES}


def room_of(name: str) -> str:
    return next(room for room in ROOMS if name == room or name.startswith(f"{room}."))


@pytest.mark.parametrize("name", [name for name in MODULES if name not in DOORS])
def test_a_room_knows_only_those_before_it(name: str) -> None:
    place = ROOMS.index(room_of(name))
    for other in imported(name) - {"memnets"}:
        assert ROOMS.index(room_of(other)) <= place, f"{name} imports {other}, which comes later"


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("tasks")])
def test_a_task_knows_batches_and_what_they_stand_on_alone(name: str) -> None:
    rooms = {room_of(other) for other in imported(name) - {"memnets"}} - {"tasks"}
    assert rooms <= KNOWN_TO_TASKS, f"{name} imports {sorted(rooms - KNOWN_TO_TASKS)}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in sorted(imported(name) - {name, *DOORS}):
                # A package is its __init__, which imports the modules that it gathers.
                if not name.startswith(f"{other}."):
                    visit(other, (*way, name))
            done.add(name)

    for name in MODULES:
        if name not in DOORS:
            visit(name, ())


def test_a_part_never_names_its_twin() -> None:
    for name in MODULES:
        # The application is no part: memnets doctor tells how the kernels stand.
        if not name.startswith(("memnets.kernels", "memnets.app")):
            twins = {other for other in imported(name) if other.startswith("memnets.kernels")}
            assert not twins, f"{name} imports {sorted(twins)}"


def test_mutants_of_every_module_meet_tests_that_there_are() -> None:
    for path in MODULES.values():
        for name in mutants.tests_of(path.relative_to(ROOT).as_posix()):
            assert (ROOT / name).is_file(), f"{name}, for {path}"
    assert [each for each in mutants.TESTS if not (ROOT / each).exists()] == []
