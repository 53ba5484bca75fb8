"""The ground of all pictures: style, sizes, texts of any script, and the file."""

from __future__ import annotations

import math
import threading
import unicodedata
import warnings
from collections.abc import Callable, Iterable
from functools import lru_cache, wraps
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from memnets.files import write_atomically
from memnets.viewing.colours import SHADES

__all__ = [
    "FORMATS",
    "MOST_LABELS",
    "PITCH",
    "SHADED",
    "WEIGHTS",
    "Array",
    "Words",
    "array",
    "bar",
    "figure_of",
    "grid_of",
    "rows_columns",
    "save",
    "scale_of",
    "style",
    "styled",
    "whole_numbers",
]

Array = np.ndarray[Any, Any]

Given = ParamSpec("Given")

#: Formats of pictures, by the ending of the file: pixels first, then vectors.
FORMATS = ("png", "svg", "pdf")
#: Colours of weights: from black for 0 to the lightest.
WEIGHTS = "magma"
#: Colours of weights beneath words and marks: from white for 0 to dark blue.
SHADED = LinearSegmentedColormap.from_list("shaded", SHADES)
#: Most labels on an axis of words; with more, some are left out.
MOST_LABELS = 80
#: Distance from one label to the next, in inches.
PITCH = 0.2
#: Most letters of a label and of a title; of a longer one the beginning is drawn.
MOST_LETTERS, MOST_OF_TITLE = 100, 500
#: Most panels side by side.
_COLUMNS = 4
#: A font that matplotlib brings along, and what it draws for a character that no font has.
_SURE, _BOX = "DejaVu Sans", "\u25a1"
#: Warnings of matplotlib about characters that it cannot draw, or not as they are written.
_NO_GLYPH, _NO_SCRIPT = "Glyph .* missing", "Matplotlib currently does not support"
#: From this version on, matplotlib itself writes from right to left and joins letters.
_SHAPES_TEXT = matplotlib.__version_info__ >= (3, 11)


@lru_cache(maxsize=1)
def _settings() -> dict[str, Any]:
    # Not the defaults of matplotlib beneath: a user's own fonts are kept.
    file = Path(__file__).parent.parent / "style.mplstyle"
    return dict(matplotlib.rc_params_from_file(file, use_default_template=False))


def style() -> dict[str, Any]:
    """Settings of matplotlib for all pictures: those of ``memnets/viewing/style.mplstyle``.

    In your own plots: ``plt.style.use("memnets.viewing.style")``.
    """
    return dict(_settings())


#: The settings hold for the whole process: one picture is drawn at a time.
_drawing = threading.RLock()


def styled(draw: Callable[Given, Path]) -> Callable[Given, Path]:
    """Draw in the style of the library; matplotlib is left as it was."""

    @wraps(draw)
    def drawn(*arguments: Given.args, **named: Given.kwargs) -> Path:
        with _drawing, matplotlib.rc_context(style()):
            return draw(*arguments, **named)

    return drawn


# Figures are made without pyplot: no window, and safe in any thread.


def figure_of(width: float, height: float) -> Figure:
    """A figure of a size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def rows_columns(panels: int, columns: int = _COLUMNS) -> tuple[int, int]:
    """Rows and columns of the smallest grid for some panels, with at most ``columns`` columns."""
    columns = min(panels, columns)
    return math.ceil(panels / columns), columns


def grid_of(figure: Figure, rows: int, columns: int, panels: int, **shared: Any) -> list[Axes]:
    """Axes of the panels, row by row; the other places of the grid stay empty."""
    axes: Any = figure.subplots(rows, columns, squeeze=False, **shared)
    grid: list[Axes] = list(axes.flatten())
    for panel in grid[panels:]:
        panel.set_axis_off()
    return grid[:panels]


class Words:
    """Texts of any script: fonts for them, and what can be drawn in a format.

    A character that no installed font has is drawn as a box; an SVG keeps it, since its reader may
    have a font. Before its version 3.11, matplotlib writes from left to right alone; where the
    packages ``python-bidi`` and ``arabic-reshaper`` are installed, words of other scripts are put
    in the order in which they are read.

    Args:
        texts: all texts that will be drawn.
        path: file of the picture.

    Attributes:
        families: fonts, the usual one first.
        settings: settings of matplotlib for each of the texts.
    """

    def __init__(self, texts: Iterable[str], path: str | Path) -> None:
        self.families, missing = _fonts(text.replace("\n", "") for text in texts)
        self._boxes = str.maketrans(dict.fromkeys({*missing, "\n"}, _BOX))
        self._kept = Path(path).suffix == ".svg"
        self.settings: dict[str, Any] = {"fontfamily": self.families, "parse_math": False}

    def __call__(self, text: str) -> str:
        """A text as it is drawn: of one that is far too long, the beginning."""
        text = _begin(text, MOST_LETTERS)
        if self._kept:
            return text.replace("\n", _BOX)
        return _in_reading_order(text).translate(self._boxes)

    def all(self, texts: Iterable[str]) -> list[str]:
        """Texts as they are drawn."""
        return [self(text) for text in texts]

    def font(self, size: float, **settings: Any) -> FontProperties:
        """The font of a size in points."""
        return FontProperties(family=self.families, size=size, **settings)

    def width(self, texts: Iterable[str], size: float, **settings: Any) -> float:
        """Width of the widest of some texts, in inches."""
        font = self.font(size, **settings)
        return max((_width(text, font) for text in texts), default=0.0)

    def lines(self, text: str, width: float, size: float) -> str:
        """A text broken into lines that are at most so many inches wide, where it has spaces."""
        font = self.font(size)
        lines: list[str] = []
        for paragraph in text.splitlines():
            line = ""
            for word in paragraph.split(" "):
                longer = f"{line} {word}" if line else word
                if line and _width(longer, font) > width:
                    lines.append(line)
                    longer = word
                line = longer
            lines.append(line)
        return "\n".join(lines)


def _begin(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def _in_reading_order(text: str) -> str:
    """A text as it is seen, from left to right, if matplotlib would not do that itself."""
    if _SHAPES_TEXT or not {"R", "AL"} & set(map(unicodedata.bidirectional, text)):
        return text
    if find_spec("bidi") is None or find_spec("arabic_reshaper") is None:
        return text
    joined = import_module("arabic_reshaper").reshape(text)
    return str(import_module("bidi").get_display(joined))


def _width(text: str, font: FontProperties) -> float:
    """Width of a line, in inches."""
    canvas: Any = FigureCanvasAgg(_RULER)
    with warnings.catch_warnings():
        for message in (_NO_GLYPH, _NO_SCRIPT):
            warnings.filterwarnings("ignore", message)
        across, _, _ = canvas.get_renderer().get_text_width_height_descent(text or " ", font, False)
    return float(across) / 72


_RULER = Figure(figsize=(1, 1), dpi=72)


def _fonts(texts: Iterable[str]) -> tuple[list[str], set[str]]:
    """Fonts for texts, the usual one first, and the characters that no font has."""
    families = [*matplotlib.rcParams["font.family"], _SURE]
    missing = {part for text in texts for part in (*text, *_in_reading_order(text))}
    for family in families:
        missing = _missing(missing, findfont(FontProperties(family=[family])))
    for font in fontManager.ttflist if missing else ():
        # Matplotlib's other fonts are for formulas.
        if not font.fname.startswith(matplotlib.get_data_path()):
            left = _missing(missing, font.fname)
            if left < missing:
                families, missing = [*families, font.name], left
    return families, missing


def _missing(characters: set[str], font: str) -> set[str]:
    has = get_font(font).get_charmap()
    return {character for character in characters if ord(character) not in has}


def array(values: Tensor) -> Array:
    """Numbers in a form that matplotlib can draw."""
    drawn: Array = values.detach().float().cpu().numpy()
    return drawn


def scale_of(panels: Iterable[Tensor]) -> float:
    """The weight that the end of a scale of colours stands for: 1, or less where all are small.

    The scale is the same for all panels of a picture. Where no weight reaches a half it ends at the
    greatest, so that the differences are seen.
    """
    greatest = max((float(panel.max()) for panel in panels if panel.numel()), default=1.0)
    return 1.0 if greatest >= 0.5 or not greatest > 0 else greatest


def whole_numbers(most: int = 12) -> MaxNLocator:
    """A locator of ticks at whole numbers, at most ``most`` of them."""
    return MaxNLocator(most, integer=True)


def bar(figure: Figure, drawn: Any, panels: Any, unit: str, **settings: Any) -> Any:
    """Add a colour bar beside the panels."""
    return figure.colorbar(
        drawn, ax=panels, label=unit, **{"pad": 0.01, "fraction": 0.03, **settings}
    )


def save(figure: Figure, path: str | Path, title: str = "", words: Words | None = None) -> Path:
    """Write a figure, whole or not at all; the ending of the path decides the format.

    Args:
        figure: the figure.
        path: file to write.
        title: title of the picture; it is broken into lines as wide as the figure.
        words: fonts of the title, if it may have words of any script.

    Raises:
        ValueError: the ending is no format of matplotlib.
    """
    path = Path(path)
    form = path.suffix.removeprefix(".").lower() or FORMATS[0]
    known = figure.canvas.get_supported_filetypes()
    if form not in known:
        raise ValueError(
            f"a picture must be a file that ends in one of .{', .'.join(known)}; got {path.name!r}"
        )
    if title:
        title = _begin(title, MOST_OF_TITLE)
        words = Words([title], path) if words is None else words
        size = matplotlib.rcParams["figure.titlesize"]
        broken = words.lines(title, figure.get_size_inches()[0] - 0.2, size)
        drawn = "\n".join(words.all(broken.split("\n")))
        figure.suptitle(drawn, fontsize=size, **words.settings)
    # The same picture is the same file.
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _NO_SCRIPT)
        if form == "svg":
            warnings.filterwarnings("ignore", _NO_GLYPH)
        write_atomically(path, lambda file: figure.savefig(file, format=form, metadata=undated))
    return path
