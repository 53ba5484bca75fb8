"""The list of runs: what it knows of each, as a page and in the terminal."""

import re
import threading
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from memnets.app import listing
from memnets.app.cli import main
from memnets.app.listing import keep_index, listed, write_index
from memnets.files import only_writer
from memnets.records import (
    Record,
    read_record,
    run_folders,
    thinned,
    update_metrics,
    versions,
    write_record,
)

BEGAN = datetime(2026, 3, 1, 12, 30, tzinfo=timezone.utc)
RUNS = Path("runs")

pytestmark = pytest.mark.usefixtures("elsewhere")


def run(name: str = "copying/ntm", version: int = 0, best: float = 0.5, seed: int = 3) -> Path:
    """A run that is trained and tested, without the files that are not looked at."""
    folder = RUNS / name / f"version_{version}"
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / "length_20_answer.png").touch()
    curve = ((100, 45.25), (200, best), (300, 2 * best))
    write_record(folder, Record(BEGAN, seed, "bits", curve, (200, best)))
    scores = {"test/length_120/bits": 9.0, "test/length_20/bits": 1.0, "val/bits": 2 * best}
    update_metrics(folder, {"train/steps": 300, "train/seconds": 3723.4, **scores})
    return folder


class Page(HTMLParser):
    """The rows of the page, and all that leads elsewhere."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.rows: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes) -> None:
        found = dict(attributes)
        self.tags.append(tag)
        if "data-name" in found:
            self.rows.append(found)
        self.links += [found[name] for name in ("href", "src") if name in found]

    def handle_data(self, data) -> None:
        self.text += data


def test_a_page_holds_all_that_is_known_of_a_run_and_leads_to_its_files() -> None:
    folder = run()
    (folder / "view.html").touch()
    page = Page(write_index(RUNS))
    (row,) = page.rows
    assert (row["data-name"], row["data-version"]) == ("copying/ntm", "0")
    # The first test set by the numbers in the names.
    assert (row["data-best"], row["data-test"], row["data-steps"]) == ("0.5", "1.0", "300")
    assert float(row["data-began"]) == BEGAN.timestamp()
    for text in ("seed 3", "tested", "1 h 02 min", "300 steps", "length_120", "look inside"):
        assert text in page.text
    assert len(page.links) == 4  # the folder, the page, and the picture twice
    for link in page.links:
        assert (RUNS / unquote(link)).exists(), link
    assert "polyline" in page.tags
    # One file, which asks for nothing of the network.
    content = (RUNS / "index.html").read_text()
    assert not re.search(r"https?://|@import|<link|<script src", content)


def test_names_cannot_leave_their_place_in_the_page() -> None:
    name = 'a"><script>alert(1)</script>&%20?x#y:z/mo"del'
    folder = run(name.replace("</script>", "<-script>"))
    page = Page(write_index(RUNS))
    assert page.rows[0]["data-name"] == folder.parent.relative_to(RUNS).as_posix()
    assert page.tags.count("script") == 1
    assert all((RUNS / unquote(link)).exists() for link in page.links)
    assert all(re.fullmatch(r"[\w%/.~-]+", link) for link in page.links)


def test_runs_in_any_state_are_listed_with_what_is_known(capsys) -> None:
    run("a/tested")
    write_record(RUNS / "b/begun/version_0", Record(BEGAN, 1, "loss", ((5, 0.5),), (5, 0.5)))
    update_metrics(RUNS / "c/trained/version_0", {"train/steps": 7})
    (RUNS / "d/empty/version_0").mkdir(parents=True)
    for name, content in {
        "metrics.json": '{"test/bits": "many"}', "run.json": '{"curve": [[1, NaN]]}'
    }.items():  # fmt: skip
        folder = run("e/damaged", 0 if name == "metrics.json" else 1)
        (folder / name).write_text(content)
    old = RUNS / "f/old/version_0"
    old.mkdir(parents=True)
    (old / "metrics.csv").write_text("step,train/loss,val/bits\n49,3,\n99,,5.5\n199,,2.5\n")
    found = {each.folder.as_posix(): each for each in listed(RUNS)}
    assert [each.state for each in found.values()] == [
        *("tested", "not finished", "trained", "empty", "not finished", "tested", "not finished"),
    ]
    assert found["f/old/version_0"].record.curve == ((99, 5.5), (199, 2.5))
    assert found["f/old/version_0"].record.score == "bits"
    said = [found[f"e/damaged/version_{n}"].problems for n in range(2)]
    assert said == [
        ["metrics.json is damaged: expected one JSON object, name -> number"],
        ["run.json is damaged: a score must be finite; got nan"],
    ]
    # A quotation mark that is never closed, in a table of an old run.
    (old / "metrics.csv").write_text('step,val/bits\n99,"' + "5" * 200_000)
    (broken,) = (each for each in listed(RUNS) if each.folder.as_posix() == "f/old/version_0")
    assert "is damaged: field larger than field limit" in broken.problems[0]
    page = Page(write_index(RUNS))
    assert len(page.rows) == len(found)
    assert "metrics.json is damaged" in page.text
    main(["runs"])
    out = capsys.readouterr().out
    assert all(name in out for name in found)
    assert out.splitlines()[-1] == "The page is in runs/index.html"


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", '{"began": 5}', '{"began": "yesterday"}', '{"curve": 3}', '{"curve": [[1]]}',
        '{"best": [1, "low"]}', '{"seed": []}', '{"best": [1e999, 0]}', "[" * 100_000,
    ],
)  # fmt: skip
def test_a_damaged_record_is_named(content, tmp_path) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json is damaged: "):
        read_record(tmp_path)


def test_a_record_is_read_as_it_was_written(tmp_path) -> None:
    curve = tuple((step, 1 / (step + 1)) for step in range(1000))
    write_record(tmp_path, Record(BEGAN, 3, "bits", (*curve, (1000, float("nan"))), curve[-1]))
    found = read_record(tmp_path)
    assert found == Record(BEGAN, 3, "bits", tuple(thinned(curve, 200)), curve[-1])
    assert (found.curve[0], found.curve[-1]) == (curve[0], curve[-1])
    assert len(found.curve) == 200
    (tmp_path / "run.json").write_text('{"began": "2026-03-01T12:30:00"}')
    assert read_record(tmp_path) == Record(BEGAN)
    assert read_record(tmp_path / "nowhere") == Record()


def test_folders_of_runs_are_found_at_any_depth_and_not_by_links(tmp_path) -> None:
    names = ["a/b/version_2", "a/b/version_10", "seed_0/a/b/version_0", "version_1"]
    for name in [*names, "a/b/version_2/c/version_3", "a/b/version_x", ".kept/a/version_0"]:
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "a/b/version_4").touch()
    found = [path.relative_to(tmp_path).as_posix() for path in run_folders(tmp_path)]
    assert sorted(found) == sorted(names)
    assert found.index("a/b/version_2") < found.index("a/b/version_10")
    assert [path.name for path in versions(tmp_path / "a/b")][-1] == "version_10"


def test_runs_that_end_at_once_leave_a_page_that_lists_all() -> None:
    for number in range(6):
        run(f"a/{number}")
    threads = [threading.Thread(target=keep_index, args=[RUNS]) for _ in range(4)]
    (RUNS / "a/6/version_0").mkdir(parents=True)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Page(RUNS / "index.html").rows) == 7
    assert not list(RUNS.glob(".*.part"))


def test_no_page_is_worth_a_run(monkeypatch, capsys) -> None:
    run()
    (RUNS / "index.html").mkdir()
    keep_index(RUNS)
    said = capsys.readouterr().err
    assert said.startswith("memnets: runs/index.html was not written (expected a file to write")
    assert said.count("\n") == 1
    (RUNS / "index.html").rmdir()
    monkeypatch.setattr(listing, "_PATIENCE", 0)
    with only_writer(RUNS, ".index.lock"):
        keep_index(RUNS)
    assert not (RUNS / "index.html").exists()
    assert capsys.readouterr().err == ""
    keep_index(RUNS)
    assert (RUNS / "index.html").is_file()


def test_a_folder_without_runs_is_said(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["runs"])
    assert "expected a folder of runs at runs; memnets fit makes one" in capsys.readouterr().err
    RUNS.mkdir()
    main(["runs", "--runs=runs"])
    assert capsys.readouterr().out == "There are no runs in runs\n"
    assert not (RUNS / "index.html").exists()
