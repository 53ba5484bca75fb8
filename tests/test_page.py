"""Pages of runs, without a browser: shapes, texts, rounding, the limit; see also tests/browser."""

import base64
import json
import re
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memnets.viewing.packing import Arrays, as_json, span
from memnets.viewing.page import (
    Cells,
    Drawing,
    Example,
    Grid,
    Heads,
    Images,
    Lines,
    Page,
    Plane,
    Run,
    Square,
    Strip,
)

W = torch.ones(2, 3, 4) / 4  # weights: two heads, three steps, four slots
M = torch.zeros(3, 4, 5)  # a memory: three steps, four slots of width 5


def unpacked(packed: dict[str, object]) -> np.ndarray:
    """Undo the packing as the page's script does, in other words."""
    levels = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), np.uint8)
    levels = levels.reshape(packed["shape"]).cumsum(0, dtype=np.uint8)
    grain = (packed["high"] - packed["low"]) / 254
    return np.where(levels == 255, np.nan, packed["low"] + levels * grain)


def data(page: Page, **limit: float) -> dict[str, object]:
    found = re.search(r'id="data">(.*?)</script>', page.html(**limit), re.DOTALL)
    return json.loads(found[1])


def one(*panels, title="one", steps=3, **settings) -> Page:
    return Page(title, [Example(title, ["a"] * steps, [Run("run", panels)])], **settings)


numbers = st.floats(-1e3, 1e3, width=32) | st.just(float("nan"))


@given(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=5))
def test_numbers_are_rounded_by_at_most_half_a_level(rows) -> None:
    values = torch.tensor(rows)
    arrays = Arrays()
    [packed] = [arrays.packed[arrays.add(values, *span(values))]]
    shown = unpacked(packed)
    assert np.array_equal(np.isnan(shown), values.isnan().numpy())
    half = (packed["high"] - packed["low"]) / 254 / 2
    known = ~np.isnan(shown)
    assert (np.abs(shown - values.double().numpy())[known] <= half * (1 + 1e-6)).all()


def test_bits_and_the_ends_of_a_range_are_exact() -> None:
    values = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    arrays = Arrays()
    assert unpacked(arrays.packed[arrays.add(values, *span(values))]).tolist() == values.tolist()


def test_equal_arrays_are_kept_once() -> None:
    page = one(Heads("a", W, ["x", "y"]), Heads("b", W.clone(), ["x", "y"]))
    packed = data(page)
    assert len(packed["arrays"]) == 1
    assert [panel["weights"] for panel in packed["examples"][0]["runs"][0]["panels"]] == [0, 0]


def test_runs_share_the_ranges_of_their_panels() -> None:
    runs = [Run(str(most), [Lines("l", torch.tensor([[1.0], [most]]), ["x"])]) for most in (3, 9)]
    packed = data(Page("p", [Example("e", ["a", "b"], runs)]))
    panels = [run["panels"][0] for run in packed["examples"][0]["runs"]]
    assert [(panel["low"], panel["high"]) for panel in panels] == [(1, 9)] * 2
    ranges = [(packed["arrays"][i]["low"], packed["arrays"][i]["high"]) for i in range(2)]
    assert ranges == [(0, 9)] * 2


def test_all_panels_come_to_the_page() -> None:
    points = torch.rand(4, 2)
    panels = [
        Strip("numbers", torch.rand(3, 2), wrong=torch.tensor([[True, False]] * 3)),
        Strip("words", ["x", "y"], start=1, wrong=torch.tensor([True, False])),
        Heads("heads", W, ["x", "y"], list("abcd"), Plane(points), role="read", memory="cells"),
        Heads("grid", W, ["x", "y"], places=Grid(torch.rand(4, 6, 3), 2, 2)),
        Heads("images", W, ["x", "y"], places=Images(torch.rand(4, 2, 2), torch.rand(3, 2, 2))),
        Cells("cells", M, M[0], W, torch.rand(2, 3, 5), torch.rand(2, 3, 5)),
        Cells("grows", M, stack=True),
        Lines("lines", torch.rand(3, 2), ["x", "y"], low=0),
        Square("links", torch.rand(3, 4, 4)),
        Drawing("hull", points, [(0, 1)], [[], [(1, 2)], [(2, 3)]]),
    ]
    packed = data(one(*panels))
    found = packed["examples"][0]["runs"][0]["panels"]
    assert [(panel["kind"], panel["name"]) for panel in found] == [
        (panel.kind, panel.name) for panel in panels
    ]
    assert [panel["steps"] for panel in found] == [3, 2, 3, 3, 3, 3, 3, 3, 3, 3]
    # The memory before the first step stands before the others; a growing one had no slots then.
    assert packed["arrays"][found[5]["memory"]]["shape"] == [4, 4, 5]
    grown = unpacked(packed["arrays"][found[6]["memory"]])
    assert np.isnan(grown[0]).all()
    assert not np.isnan(grown[1:]).any()


WRONG = {
    "strip": (
        lambda: Strip("s", torch.rand(3)),
        r"strip 's': values must be \[T, C\]; got \[3\]",
    ),
    "strip's marks": (
        lambda: Strip("s", ["a", "b"], wrong=torch.tensor([True])),
        r"strip 's': wrong must be \[T = 2\]; got \[1\]",
    ),
    "strip's range": (
        lambda: Strip("s", torch.rand(3, 1), low=1),
        r"strip 's': low must be less than high; got 1 and 1.0",
    ),
    "names of heads": (
        lambda: Heads("h", W, ["x"]),
        r"heads 'h': heads must have one name for each of 2 heads; got 1",
    ),
    "names in one text": (
        lambda: Heads("h", W, "ab"),
        r"heads 'h': heads must be a list of texts; got 'ab'",
    ),
    "slots": (
        lambda: Heads("h", W, ["x", "y"], ["a"]),
        r"heads 'h': slots must have one name for each of 4 slots; got 1",
    ),
    "role": (
        lambda: Heads("h", W, ["x", "y"], role="reads"),
        r"heads 'h': role must be read, write, attention or other; got 'reads'",
    ),
    "patches": (
        lambda: Heads("h", W, ["x", "y"], places=Grid(torch.rand(2, 2, 1), 2, 3)),
        r"heads 'h' must have a slot for each of 2 x 3 patches; got 4 slots",
    ),
    "points": (
        lambda: Heads("h", W, ["x", "y"], places=Plane(torch.rand(5, 2))),
        r"heads 'h' must have a slot for each of 5 points; got 4 slots",
    ),
    "image": (
        lambda: Grid(torch.rand(2, 2, 2), 1, 1),
        r"the image of a Grid must have 1 or 3 channels; got \[2, 2, 2\]",
    ),
    "range of an image": (
        lambda: Images(torch.full((2, 2, 2), 255.0)),
        r"the images of Images must lie in \[0, 1\]; got numbers beyond",
    ),
    "memory before": (
        lambda: Cells("c", M, M[0, :2]),
        r"cells 'c': before must be \[N = 4, W = 5\]; got \[2, 5\]",
    ),
    "erase": (
        lambda: Cells("c", M, write=W, erase=torch.rand(1, 3, 5)),
        r"cells 'c': erase must be \[H = 2, T = 3, W = 5\]; got \[1, 3, 5\]",
    ),
    "erase without weights": (
        lambda: Cells("c", M, erase=torch.rand(1, 3, 5)),
        r"cells 'c': erase needs the weights of the heads, write",
    ),
    "infinity": (
        lambda: Lines("l", torch.tensor([[float("inf")]]), ["x"]),
        r"lines 'l': values must be finite, or NaN where there is no number; got infinity",
    ),
    "not square": (
        lambda: Square("q", torch.rand(3, 4, 5)),
        r"square 'q': values must be \[T, N = 4, N = 4\]; got \[3, 4, 5\]",
    ),
    "no tensor": (
        lambda: Lines("l", [[1.0]], ["x"]),
        r"lines 'l': values must be a tensor \[T, K\]; got \[\[1.0\]\]",
    ),
    "a line to nowhere": (
        lambda: Drawing("d", torch.rand(3, 2), [], [[(0, 3)]]),
        r"drawing 'd': answer of step 0 must be pairs of numbers of 3 points; got \(0, 3\)",
    ),
    "start": (
        lambda: Lines("l", torch.rand(3, 1), ["x"], start=-1),
        r"lines 'l': start must be a step of the time line, at least 0; got -1",
    ),
    "two panels of a name": (
        lambda: Run("r", [Strip("s", ["a"]), Strip("s", ["b"])]),
        r"run 'r': panels must have names of their own; got 's' twice",
    ),
    "too many steps": (
        lambda: Example("e", ["a", "b"], [Run("r", [Strip("s", ["a", "b"], start=1)])]),
        r"example 'e' has 2 steps; got the panel 's' with 2 steps from step 1 on",
    ),
    "no run": (
        lambda: Example("e", ["a"], []),
        r"example 'e' must have at least one step and one run; got 1 steps and 0 runs",
    ),
    "no example": (lambda: Page("p", []).html(), "a page must have at least one example; got none"),
    "limit": (
        lambda: one(Strip("s", ["a"])).html(0.001),
        r"limit_mb must be at least 0\.\d\d, for a page without panels; got 0.001",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_gets_one_clear_line(name) -> None:
    make, message = WRONG[name]
    with pytest.raises((ValueError, TypeError), match=f"^{message}$"):
        make()


class Reader(HTMLParser):
    """Counts the elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)


@given(st.text(st.characters(exclude_categories=())) | st.just("</script><b>\u2028<!--"))
def test_any_text_stays_a_text(text) -> None:
    page = one(Strip(text, [text] * 3), title=text, about={text: text}, notes=[text])
    whole = page.html()
    assert Reader.tags_of(whole) == Reader.tags_of(one(Strip("s", ["a"] * 3)).html())
    packed = json.loads(re.search(r'id="data">(.*?)</script>', whole, re.DOTALL)[1])
    kept = text.encode("utf-8", "replace").decode()
    assert packed["title"] == kept
    assert packed["examples"][0]["runs"][0]["panels"][0]["words"] == [kept] * 3
    whole.encode()


def tags_of(text: str) -> list[str]:
    reader = Reader()
    reader.feed(text)
    return reader.tags


Reader.tags_of = staticmethod(tags_of)


def test_a_page_is_one_file_that_asks_for_nothing(tmp_path) -> None:
    path = one(Strip("s", ["a"] * 3)).save(tmp_path / "page.html")
    text = path.read_text("utf-8")
    assert list(tmp_path.iterdir()) == [path]
    assert "default-src 'none'" in text
    assert not re.search(r"(src|href)=[\"']?(?!data:)[\w/.]", text.split("<script>")[0])
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|import)\s*\(", text)


def big(name: str, seed: int = 0) -> Heads:
    noise = torch.rand(1, 60, 500, generator=torch.Generator().manual_seed(seed))
    return Heads(name, noise, ["x"])


def test_the_last_examples_are_left_out_where_there_is_no_room() -> None:
    examples = [Example(f"example {i}", ["a"] * 60, [Run("r", [big("h", i)])]) for i in range(5)]
    page = Page("p", examples, notes=["a note"])
    assert len(data(page)["examples"]) == 5
    assert page.notes == ["a note"]
    packed = data(page, limit_mb=0.2)
    kept = len(packed["examples"])
    assert 1 <= kept < 5
    note = f"The last {5 - kept} examples are left out, to keep the page below 0.2 MB."
    assert page.notes == packed["notes"] == ["a note", note]
    assert len(page.html(0.2).encode()) <= 200_000
    # With more room they are all there again, and the note is gone.
    assert len(data(page)["examples"]) == 5
    assert page.notes == ["a note"]


def test_the_largest_panels_are_left_out_where_one_example_has_no_room() -> None:
    page = one(Strip("s", ["a"]), big("large"), Strip("t", ["b"]), steps=60)
    bare = len(one(Strip("s", ["a"]), steps=60).html().encode())
    limit = (bare + 10_000) / 1e6
    packed = data(page, limit_mb=limit)
    names = [panel["name"] for panel in packed["examples"][0]["runs"][0]["panels"]]
    assert names == ["s", "t"]
    assert page.notes == [f"Panels are left out, to keep the page below {limit:g} MB: large."]
    assert len(page.html(limit).encode()) <= limit * 1e6


def test_a_notebook_shows_the_page_in_a_frame() -> None:
    frame = one(Strip("s", ['a "quoted" word'] * 3))._repr_html_()
    assert tags_of(frame) == ["iframe"]
    inner = []

    class Frames(HTMLParser):
        def handle_starttag(self, tag, attrs) -> None:
            inner.append(dict(attrs)["srcdoc"])

    Frames().feed(frame)
    assert inner[0].startswith("<!doctype html>")
    assert 'a \\"quoted\\" word' in inner[0]


def test_json_within_a_script_has_no_end_of_it() -> None:
    text = as_json({"a": "</script>\u2028\ud800"})
    assert "<" not in text
    assert "\u2028" not in text
    assert json.loads(text) == {"a": "</script>\u2028?"}
