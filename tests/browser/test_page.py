"""The page in a real browser: it shows what the trace holds, and does what people ask of it."""

import os
from functools import partial
from pathlib import Path

import pytest
import torch

from memnets.cells import FeedForward
from memnets.memories import NTM
from memnets.models import MemoryMachine
from memnets.viewing import trace
from memnets.viewing.interventions import Overwrite
from memnets.viewing.page import Cells, Example, Heads, Lines, Page, Run, Square, Strip
from tests.browser.models import WATCHED, page

#: A folder to write pictures of the pages to, for people to look at.
PICTURES = os.environ.get("MEMNETS_SCREENSHOTS")

NASTY = "</script><script>document.title = 'hit'</script>\"'&<b>\u2028<!--"


def close(shown, held, grain) -> None:
    shown = torch.tensor(shown, dtype=torch.double)
    torch.testing.assert_close(shown, held.double(), atol=grain / 2 + 1e-6, rtol=0)


def span(values: torch.Tensor) -> float:
    """Distance of two of the 255 levels of a panel; 0 is one of its range."""
    return float(values.max().clamp(min=0) - values.min().clamp(max=0)) / 254


def check_shades(shades, tolerance=6) -> None:
    """Check colours on the screen; numbers that are rounded may have the colour beside."""
    assert shades
    for seen, wanted in shades:
        assert max(abs(a - b) for a, b in zip(seen, wanted, strict=True)) <= tolerance


@pytest.mark.parametrize("name", WATCHED)
def test_the_page_shows_what_the_trace_holds(name, window) -> None:
    watched = WATCHED[name]()
    shown = window(watched.page)
    steps = len(watched.page.examples[0].steps)
    for step in (0, 2, steps - 1):
        shown.run("(step) => memnets.go(step)", step)
        for panel, held in watched.holds.items():
            values = shown.panel(panel)
            if panel in ("memory", "stack"):
                close(values["after"], held[step], span(held))
                if step:
                    close(values["before"], held[step - 1], span(held))
            else:
                close(values, held[step], span(held))
    shown.open_all()
    assert shown.state()["step"] == steps - 1
    for panel in watched.page.examples[0].runs[0].panels:
        held = watched.holds.get(panel.name)
        places: list[tuple[object, ...]] = []
        if isinstance(panel, Heads):
            places = [
                (step, slot, 0, held[step, 0, slot]) for step in range(2) for slot in range(3)
            ]
        elif isinstance(panel, Strip) and panel.name == "input":
            places = [(step, row, panel.values[step, row]) for step in range(2) for row in range(2)]
        elif isinstance(panel, Square):
            places = [(row, 1, held[-1, row, 1]) for row in range(4)]
        elif isinstance(panel, Cells) and not panel.stack:
            places = [(slot, 1, "after", held[-1, slot, 1]) for slot in range(4)]
        if places:
            strip = isinstance(panel, Strip)
            bounds = (0, 1) if strip else (float(held.min().clamp(max=0)), float(held.max()))
            cells = [[*place, float(value)] for *place, value in places]
            check_shades(shown.shades(panel.name, cells, *bounds, strip))
    shown.narrow()
    assert shown.run("document.documentElement.scrollWidth") <= 400
    take_pictures(shown, name)


def take_pictures(shown, name) -> None:
    if PICTURES is None:
        return
    shown.run("memnets.go(2)")
    for width in (1400, 400):
        for scheme in ("light", "dark"):
            shown.tab.emulate_media(color_scheme=scheme)
            shown.tab.set_viewport_size({"width": width, "height": 3000})
            shown.ready()
            path = Path(PICTURES) / f"{name}-{width}-{scheme}.png"
            shown.tab.locator("#page").screenshot(path=path)


@pytest.mark.parametrize("name", ["NTM", "delta rule"])
def test_what_a_step_erased_and_added_is_that_of_its_heads(window, name) -> None:
    watched = WATCHED[name]()
    shown = window(watched.page)
    shown.press("ArrowRight", "ArrowRight")
    cells = next(each for each in watched.page.examples[0].runs[0].panels if each.name == "memory")
    write, erase, add = cells.write[0, 2], cells.erase[0, 2], cells.add[0, 2]
    erased = cells.memory[1] * write[:, None] * erase
    if cells.remove is not None:
        erased = erased + write[:, None] * cells.remove[0, 2]
    added = write[:, None] * add
    after = cells.memory[1] - erased + added
    torch.testing.assert_close(after, cells.memory[2])
    low, high = float(cells.memory.min()), float(cells.memory.max())
    for key, values in (("erased", erased), ("added", added)):
        cells = [[slot, 1, key, float(values[slot, 1])] for slot in range(5)]
        check_shades(shown.shades("memory", cells, low, high), tolerance=12)


def test_keys_and_the_mouse_move_the_step(window) -> None:
    shown = window(WATCHED["NTM"]().page)
    step = lambda: shown.state()["step"]  # noqa: E731
    shown.press("ArrowRight", "ArrowRight", "ArrowLeft")
    assert step() == 1
    assert "step 1" in shown.tab.locator(".told").inner_text()
    shown.press("End")
    assert step() == 5
    shown.press("Shift+ArrowLeft")
    assert step() == 0
    slider = shown.tab.get_by_role("slider", name="step")
    box = slider.bounding_box()
    shown.tab.mouse.click(box["x"] + box["width"] * 0.6, box["y"] + box["height"] / 2)
    shown.ready()
    assert step() == 3
    assert slider.get_attribute("aria-valuetext") == "step 3 of 5: step 3"
    place = shown.run("memnets.place('read heads', 0, 4, 1)")
    shown.tab.mouse.click(place["x"], place["y"])
    shown.ready()
    assert step() == 4
    tip = shown.tab.locator("#tip").inner_text()
    held = WATCHED["NTM"]().holds["read heads"][4, 0, 1]
    assert f"read head, slot 1: {held:.2f}" in tip
    assert "w_r" in tip
    marks = shown.tab.locator(".panel.heads .marker").first.bounding_box()
    assert marks["x"] < place["x"] < marks["x"] + marks["width"]


def test_it_plays_to_the_end_and_stops(window) -> None:
    shown = window(WATCHED["NTM"]().page)
    shown.tab.get_by_label("speed").select_option("60")
    shown.run("document.activeElement.blur()")
    expect = pytest.importorskip("playwright.sync_api").expect
    for _ in range(2):  # the second time from the start again
        shown.tab.keyboard.press(" ")
        expect(shown.tab.get_by_label("pause", exact=True)).to_be_visible()
        expect(shown.tab.locator(".slide input")).to_have_value("5", timeout=30_000)
        expect(shown.tab.get_by_label("play", exact=True)).to_be_visible()
        state = shown.state()
        assert (state["step"], state["playing"]) == (5, False)


def two_runs() -> Page:
    def run(name, change, changed_from=None) -> Run:
        weights = torch.eye(4)[None, [0, 1, 2, 3, 3]]
        weights[:, 3] += change
        return Run(
            name,
            [
                Strip("answer", ["a", "b", "c", "d" if change else "e", "e"]),
                Heads("read", weights, ["head"], role="read"),
                Lines("gates", torch.rand(5, 2) if change else torch.ones(5, 2), ["g", "h"]),
            ],
            f"{name}: ok",
            not change,
            changed_from,
        )

    examples = [
        Example("one", list("12345"), [run("as it ran", 0.0), run("wiped", 0.2, 3)]),
        Example(
            NASTY, [NASTY, "ب", "3"], [Run("x", [Strip(NASTY, ["מילה", NASTY, ""])], "", False)]
        ),
        Example("three", ["1"], [Run("x", [Strip("input", torch.ones(1, 1))], "good", True)]),
    ]
    return Page(NASTY, examples, {"checkpoint <b>": "<i>5</i>"}, ["a note & <u>more</u>"])


def test_two_runs_and_where_they_differ(window) -> None:
    shown = window(two_runs())
    state = shown.state()
    assert [run["name"] for run in state["runs"]] == ["as it ran", "wiped"]
    assert shown.tab.locator(".chip.differs").all_text_contents() == ["d (differs)"]
    one, other = (shown.tab.locator(".panel.heads .run").nth(i).bounding_box() for i in range(2))
    assert one["y"] == other["y"]
    shown.tab.get_by_label("how the runs are laid out").select_option("below")
    shown.ready()
    one, other = (shown.tab.locator(".panel.heads .run").nth(i).bounding_box() for i in range(2))
    assert one["x"] == other["x"]
    assert one["y"] < other["y"]
    shown.tab.get_by_label("how the runs are laid out").select_option("only: wiped")
    assert not shown.tab.locator(".panel.heads .run").nth(0).is_visible()


def test_a_tape_and_what_an_intervention_changes(window) -> None:
    torch.manual_seed(0)
    access = NTM(slots=5, width=3)
    model = MemoryMachine(3, 2, partial(FeedForward, hidden_size=4), access)
    with torch.no_grad(), trace.record(model, None) as tape:
        tape.run(model, torch.rand(1, 6, 3))
    changed = tape.intervene(Overwrite("body.access", slot=1, value=1.0, start=4))
    shown = window(changed.view())
    for step in (3, 5):
        shown.run("(step) => memnets.go(step)", step)
        for run, its in enumerate((changed.original, changed)):
            weights, memory = (
                its.calls(access, "read")[step][0],
                its.calls(access, "memory")[step][0],
            )
            close(shown.panel("read weights", run), weights, 1 / 254)
            close(shown.panel("memory", run)["after"], memory, 4 / 254)
        same = shown.panel("memory", 0) == shown.panel("memory", 1)
        assert same == (step < 4)


def test_a_notebook_shows_the_page_in_a_frame(window, tmp_path) -> None:
    path = tmp_path / "notebook.html"
    path.write_text(WATCHED["stack"]().page._repr_html_())
    shown = window(WATCHED["stack"]().page)
    shown.tab.goto(path.as_uri())
    frame = shown.tab.frames[1]
    frame.evaluate("memnets.ready()")
    assert frame.evaluate("memnets.state()")["title"] == "stack"
    frame.evaluate("memnets.go(2)")
    assert frame.locator(".moved").inner_text() == "↓ push"
    frame.evaluate("memnets.go(4)")
    frame.evaluate("memnets.ready()")
    assert frame.locator(".moved").inner_text() == "↑ pop"
    shown.problems.remove(f"asked for {path.as_uri()}")


def test_texts_are_shown_as_they_are(window) -> None:
    shown = window(two_runs())
    assert (
        shown.tab.title() == NASTY.replace("\u2028", " ").strip()
        or "hit" not in shown.tab.title()[:3]
    )
    assert shown.run("document.querySelector('h1').textContent") == NASTY
    shown.press("2")
    assert shown.state()["example"] == 1
    assert shown.run("document.querySelector('.chip:nth-child(2) bdi').textContent") == NASTY
    assert shown.run("document.querySelector('.about dd').textContent") == "<i>5</i>"
    assert shown.run("document.querySelector('.remark').textContent") == "a note & <u>more</u>"
    assert shown.run("document.querySelectorAll('b, i, u').length") == 0


def test_examples_by_number_by_name_and_wrong_ones_alone(window) -> None:
    shown = window(two_runs())
    shown.tab.get_by_role("button", name="three").click()
    assert shown.state()["example"] == 2
    shown.press("w")
    visible = [item.is_visible() for item in shown.tab.locator("nav li").all()]
    assert visible == [False, True, False]
    shown.press("?")
    assert shown.tab.get_by_role("dialog").is_visible()
    shown.press("Escape")
    assert not shown.tab.get_by_role("dialog").is_visible()


def test_light_and_dark(window) -> None:
    shown = window(WATCHED["NTM"]().page, scheme="dark")
    back = lambda: shown.run("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    dark = back()
    assert shown.state()["dark"]
    shown.press("t")
    assert not shown.state()["dark"]
    assert back() != dark


def test_several_heads_at_once_one_alone_or_their_mean(window) -> None:
    torch.manual_seed(0)
    weights = torch.rand(3, 4, 5).softmax(-1)
    shown = window(page("heads", list("abcd"), [Heads("layer", weights, ["x", "y", "z"])]))
    assert shown.tab.locator(".panel canvas[role=img]").count() == 3
    choice = shown.tab.get_by_label("heads of layer")
    for name, values in (("mean of the heads", weights.mean(0)), ("y", weights[1])):
        choice.select_option(name)
        shown.ready()
        assert shown.tab.locator(".panel canvas[role=img]").count() == 1
        cells = [[step, 3, 0, float(values[step, 3])] for step in range(4)]
        check_shades(shown.shades("layer", cells, 0, float(weights.max())))


def test_without_scripts_or_in_an_old_browser_it_says_so(browser, tmp_path) -> None:
    path = WATCHED["stack"]().page.save(tmp_path / "page.html")
    for settings, missing, told in (
        ({"java_script_enabled": False}, "", "JavaScript"),
        ({}, "delete window.DecompressionStream", "too old"),
    ):
        tab = browser.new_page(**settings)
        tab.add_init_script(missing)
        tab.goto(path.as_uri())
        assert told in tab.locator(".stop:visible").inner_text()
        tab.close()
