"""A browser for all tests of a process, and pages that it opens from disk."""

import shutil
from collections.abc import Iterator

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: No sandbox: containers lack it. The rest keeps the browser from asking the network for anything.
SWITCHES = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """Headless Chromium; skips where there is none, or nothing to drive it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("needs Chromium or Chrome")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=program, args=SWITCHES)
        yield running
        running.close()


@pytest.fixture(scope="session")
def tab(browser) -> object:
    """One tab for all tests: to open one takes longer than to load a page."""
    page = browser.new_page()
    page.set_default_timeout(120_000)  # a machine may be busy
    return page


class Window:
    """A page in a tab of the browser; what it may not do is kept in ``problems``.

    Args:
        tab: the tab.
        path: the page's file.
        width: of the window, in pixels.
        scheme: ``"light"`` or ``"dark"``.
    """

    def __init__(self, tab, path, width=1200, scheme="light") -> None:
        self.tab = tab
        self.address = path.as_uri()
        self.problems: list[str] = []
        self.listeners = {
            "console": lambda message: self.problems.append(message.text),
            "pageerror": lambda error: self.problems.append(str(error)),
            "request": self._ask,
        }
        for event, listener in self.listeners.items():
            tab.on(event, listener)
        tab.set_viewport_size({"width": width, "height": 1600})
        tab.emulate_media(color_scheme=scheme)
        tab.goto(self.address)

    def close(self) -> None:
        """Leave the tab to the next test."""
        for event, listener in self.listeners.items():
            self.tab.remove_listener(event, listener)

    def _ask(self, request) -> None:
        if request.url.split("#")[0] != self.address and not request.url.startswith("data:"):
            self.problems.append(f"asked for {request.url}")

    def run(self, script, argument=None):
        """Run JavaScript, and wait for its result."""
        return self.tab.evaluate(script, argument)

    def ready(self) -> None:
        """Wait until all that is in sight is drawn."""
        self.run("memnets.ready()")

    def open_all(self) -> None:
        """Unpack and draw the panels that are out of sight as well."""
        self.tab.set_viewport_size({"width": self.tab.viewport_size["width"], "height": 4000})
        self.ready()

    def narrow(self) -> None:
        """Make the window as narrow as that of a telephone."""
        self.tab.set_viewport_size({"width": 400, "height": 4000})
        self.ready()

    def state(self):
        """All that is shown, as the page says it."""
        return self.run("memnets.state()")

    def panel(self, name, run=0):
        """Numbers of a panel at the step at hand."""
        panels = self.state()["runs"][run]["panels"]
        return next(panel["values"] for panel in panels if panel["name"] == name)

    def press(self, *keys) -> None:
        """Press keys one after the other."""
        for key in keys:
            self.tab.keyboard.press(key)
        self.ready()

    def shades(self, panel, places, low, high, strip=False, run=0):
        """Colours of cells of a panel on the screen, and those that their numbers should have.

        Args:
            panel: name of the panel.
            places: of the cells, as ``memnets.place`` takes them, each with its number at the end.
            low: least number of the panel's scale.
            high: greatest number of the scale.
            strip: whether the panel is a strip.
            run: number of the run.
        """
        return self.run(
            """([panel, places, low, high, strip, run]) => places.map(([...place]) => {
                const value = place.pop();
                const { x, y } = memnets.place(panel, run, ...place);
                const inside = (canvas) => {
                    const box = canvas.getBoundingClientRect();
                    return box.left <= x && x < box.right && box.top <= y && y < box.bottom;
                };
                const canvas = [...document.querySelectorAll("canvas")].find(inside);
                const box = canvas.getBoundingClientRect();
                const left = Math.floor((x - box.left) * canvas.width / box.width);
                const top = Math.floor((y - box.top) * canvas.height / box.height);
                const copy = new OffscreenCanvas(1, 1);
                const one = copy.getContext("2d", { willReadFrequently: true });
                one.drawImage(canvas, left, top, 1, 1, 0, 0, 1, 1);
                const wanted = [...memnets.colour(low, high, value, strip), 255];
                return [[...one.getImageData(0, 0, 1, 1).data], wanted];
            })""",
            [panel, places, low, high, strip, run],
        )


@pytest.fixture
def window(tab, tmp_path) -> Iterator[object]:
    """Opens a page; at the end of the test no page may have complained or asked the network."""
    windows: list[Window] = []

    def show(page, **settings) -> Window:
        path = page.save(tmp_path / f"page {len(windows)}.html")
        windows.append(Window(tab, path, **settings))
        windows[-1].ready()
        return windows[-1]

    yield show
    for each in windows:
        each.close()
    assert [problem for each in windows for problem in each.problems] == []
