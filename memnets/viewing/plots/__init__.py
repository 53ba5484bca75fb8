"""Pictures of answers and weights, one file a family.

Every function writes one file; its ending decides the format: ``.png`` for pixels, ``.svg`` or
``.pdf`` for vectors, in which text stays text. All have the style of
``memnets/viewing/style.mplstyle``, which your own plots can use as well::

    plt.style.use("memnets.viewing.style")
"""

from memnets.batches import Curves
from memnets.viewing.plots.attention import alignment, shaded
from memnets.viewing.plots.board import Board, scoreboard
from memnets.viewing.plots.canvas import FORMATS, style
from memnets.viewing.plots.curves import Reading, curves, readings
from memnets.viewing.plots.grid import Grid, GridCell, Line, grid, lengths
from memnets.viewing.plots.heads import answer, weights
from memnets.viewing.plots.images import episode, gallery, looks, overlay
from memnets.viewing.plots.plane import Drawing, drawing
from memnets.viewing.plots.sweep import Course, Setting, history, importance, slices

__all__ = [
    "FORMATS",
    "Board",
    "Course",
    "Curves",
    "Drawing",
    "Grid",
    "GridCell",
    "Line",
    "Reading",
    "Setting",
    "alignment",
    "answer",
    "curves",
    "drawing",
    "episode",
    "gallery",
    "grid",
    "history",
    "importance",
    "lengths",
    "looks",
    "overlay",
    "readings",
    "scoreboard",
    "shaded",
    "slices",
    "style",
    "weights",
]
