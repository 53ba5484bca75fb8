"""Numbers in few bytes, for a page that carries them: rounded, compressed, written as text.

An array becomes whole numbers from 0 to 254, which stand for the range from its least to its
greatest value; 255 stands for no number. From one entry of the first dimension to the next only the
difference is kept, modulo 256: where little changes from step to step, it compresses well. Then
come zlib and base64, which every browser can undo.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["LEVELS", "Arrays", "as_json", "span"]

#: Number of the levels that a range of numbers is rounded to.
LEVELS = 255
_NONE = 255


def as_json(value: object) -> str:
    """Write values as JSON that may stand within a ``<script>``.

    Every ``<`` is written as an escape, so no text can end the script or begin a comment. Half of
    a surrogate pair, which is no letter, becomes a question mark.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text.encode("utf-8", "replace").decode()


def span(values: Tensor) -> tuple[float, float]:
    """Least and greatest number of an array; 0 and 0 where there is none."""
    known = values.detach()[~values.isnan()]
    return (float(known.min()), float(known.max())) if known.numel() else (0.0, 0.0)


class Arrays:
    """The arrays of a page, each of them once.

    Attributes:
        packed: what the page holds of each array: its shape, its range and its numbers.
    """

    def __init__(self) -> None:
        self.packed: list[dict[str, Any]] = []
        self._numbers: dict[bytes, int] = {}
        self._sizes: list[int] = []

    def add(self, values: Tensor, least: float, most: float) -> int:
        """Add an array.

        Args:
            values: ``[T, ...]``, finite or NaN.
            least: the least number that is to be told from others.
            most: the greatest.

        Returns:
            Its number among the arrays.
        """
        numbers = values.detach().cpu().double().numpy()
        # 0 stays within the range: it has a meaning of its own, and a colour.
        low, high = min(least, 0.0), max(most, 0.0)
        scale = (LEVELS - 1) / (high - low) if high > low else 0.0
        rounded = np.rint((np.clip(np.nan_to_num(numbers), low, high) - low) * scale)
        levels = np.where(np.isnan(numbers), _NONE, rounded).astype(np.uint8)
        changes = np.diff(levels, axis=0, prepend=np.zeros_like(levels[:1]))
        packed = {
            "shape": list(levels.shape),
            "low": low,
            "high": high,
            "data": base64.b64encode(zlib.compress(changes.tobytes(), 9)).decode(),
        }
        text = as_json(packed).encode()
        key = hashlib.sha256(text).digest()
        if key not in self._numbers:
            self._numbers[key] = len(self.packed)
            self.packed.append(packed)
            self._sizes.append(len(text) + 1)
        return self._numbers[key]

    def size(self, number: int) -> int:
        """Bytes that an array takes on the page."""
        return self._sizes[number]

    def cut(self, count: int) -> None:
        """Keep the first arrays alone."""
        del self.packed[count:], self._sizes[count:]
        self._numbers = {key: number for key, number in self._numbers.items() if number < count}
