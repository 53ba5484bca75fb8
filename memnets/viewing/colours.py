"""Colours of pictures and pages, which do not need matplotlib."""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32

__all__ = ["MARKERS", "PALETTE", "SHADES", "Look", "look_of"]

#: Colours that every eye tells apart (Okabe & Ito 2008), the strongest first, as in the style.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")

#: Marks of points, as matplotlib names them.
MARKERS = ("o", "s", "^", "D", "v", "P")

#: From white for nothing to dark blue: equal steps look equal (in CAM02-UCS).
SHADES = (
    "#ffffff", "#d8e6f1", "#afcfe8", "#84b9e1", "#5f9dcd", "#3582bb", "#1b67a3", "#124c86",
    "#08306b",
)  # fmt: skip

#: Models whose looks differ from one another; the first six in their colours too.
_KNOWN = (
    "ntm", "lstm", "dnc", "lrua", "transformer", "bahdanau",
    "snail", "seq2seq", "causal", "pointer", "lstmn", "memory_network",
    "luong", "soft", "hard", "convs2s", "stack", "tape",
    "gan", "attention_gan", "attention_pointer", "read_process_write", "decomposable", "tree",
    "moving_tape", "delta_net", "gated_delta_net", "linear_attention", "neural_stack",
    "delta_product",
)  # fmt: skip


class Look(NamedTuple):
    """The look of a model in pictures and pages.

    Attributes:
        colour: a colour of :data:`PALETTE`, as ``#rrggbb``.
        marker: a mark of :data:`MARKERS`.
    """

    colour: str
    marker: str


def look_of(model: str) -> Look:
    """The look of a model, which depends on its name alone: the same in all pictures and pages.

    There are 36 looks. Models of the library differ from one another; a name that the library does
    not know may have the look of another.

    Args:
        model: name of the model, such as ``"ntm"``.
    """
    place = _KNOWN.index(model) if model in _KNOWN else crc32(model.encode())
    place %= len(PALETTE) * len(MARKERS)
    # Models of the same colour have different marks, and so have neighbours.
    row, column = divmod(place, len(PALETTE))
    return Look(PALETTE[column], MARKERS[(column + row) % len(MARKERS)])
