"""Geometry by pointing: convex hulls, Delaunay triangulations, shortest tours.

Vinyals et al. 2015, "Pointer Networks", section 3. Points are uniform in the unit square.
"""

from __future__ import annotations

import functools
import itertools
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memnets.batches import Batch
from memnets.core import check_positive
from memnets.extras import check_extra
from memnets.files import cached
from tasks.base import Array
from tasks.limits import check_room
from tasks.pointing import Pointed, PointingTask, as_batch, in_unit_square

__all__ = ["ConvexHull", "Delaunay", "TravellingSalesman"]

#: Tours of up to so many points are found by dynamic programming, longer ones by elkai; and
#: triangles by trying every three points, more by scipy.
EXACT_POINTS = 12
#: Instances that are solved at once so; more would not fit in the processor's cache.
EXACT_INSTANCES = 32
#: What three points span, or a fourth by its distance from their circle, in shares of the square
#: that holds all of them: with less, which side it is on is left to scipy's care.
NEARLY_FLAT = 1e-9
#: Of what is kept about long tours; to be raised with any change to how they are found.
TOURS_VERSION = 1
#: elkai takes whole numbers, which LKH wants to be below 2^31 / 200: what the longest becomes.
LONGEST_DISTANCE = 1_000_000


class _PlaneTask(PointingTask):
    """Points in the unit square."""

    def points(self, random: np.random.Generator, n: int) -> Array:
        """Uniform in the unit square, ``[n, 2]``."""
        return random.random((n, 2), np.float32)

    def seen(self, points: Array) -> Array:
        """Points that are not all in the unit square are moved and scaled into it.

        Both axes are scaled alike, so that no answer changes.
        """
        return in_unit_square(points)

    def solve(self, points: Sequence[Array]) -> Sequence[Sequence[int] | Array]:
        """See :meth:`~tasks.PointingTask.solve`; far from the origin digits would be lost."""
        return self.answers([in_unit_square(rows) for rows in points])

    @abstractmethod
    def lines(self, points: Array, answer: list[int]) -> list[Array]:
        """Lines ``[k, 2]`` that draw an answer."""


class _HullTask(_PlaneTask):
    """Points that span a polygon."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        check_extra("geometry", f"tasks.{type(self).__name__}", "scipy")
        super().__init__(*arguments, **settings)

    def check(self, points: Array) -> None:
        """Check that the points differ, and that they do not lie on one line.

        Raises:
            ValueError: two are the same, or all lie on one line, exactly or nearly.
        """
        _, first, place = np.unique(points, axis=0, return_index=True, return_inverse=True)
        same = first[place.reshape(-1)]
        for again in np.flatnonzero(same != np.arange(len(points)))[:1]:
            raise ValueError(
                f"expected points that differ; got {points[again].tolist()} as point {same[again]} "
                f"and as point {again}"
            )
        from scipy.spatial import QhullError

        try:
            self.solve([points])
        except QhullError as error:
            raise ValueError(
                f"expected points that do not lie on one line; all {len(points)} do, or nearly, "
                f"from {points[0].tolist()} to {points[-1].tolist()}"
            ) from error


class ConvexHull(_HullTask):
    """See points, point at the corners of their convex hull (Vinyals et al. 2015, 3.1).

    The answer starts from the corner with the lowest index and goes counter-clockwise. A point on
    an edge of the hull is no corner.

    The scores of a test set: ``exact``, the share of answers that are the right polygon, from any
    corner and in any direction; ``area``, the polygon's share of the hull's area, the mean over
    answers that are polygons; ``invalid``, the share that are not: fewer than 3 corners, a corner
    twice, edges that cross, or no end.

    Args:
        min_points: fewest points of a sequence, at least 3.
        max_points: most points of training, validation and the test set ``test``.
        test_sets: pairs (n, sequences): further test sets, named ``n_<n>``.
        test_sequences: in ``test``, with as many points as in training, at least 1.
        test_files: files of points, each a further test set; see
            :func:`tasks.points.read_points`.
        test_points: the old name of ``test_sets``.
        batch_points: points in a training batch, at least ``max_points``; see
            :class:`~tasks.pointing.PointingTask`.
        settings: see :class:`~tasks.Task`.
    """

    def answer(self, points: Array) -> Array:
        """The corners counter-clockwise, from the one with the lowest index."""
        from scipy import spatial

        corners = spatial.ConvexHull(points).vertices
        return np.roll(corners, -corners.argmin())

    def judge(self, pointed: Pointed) -> dict[str, float]:
        """``exact`` and ``invalid``, 0 or 1, and of a polygon ``area``."""
        simple = pointed.whole and _is_polygon(pointed.points[pointed.answer], pointed.answer)
        if not simple:
            return {"exact": 0.0, "invalid": 1.0}
        exact = _from_lowest(pointed.answer) == _from_lowest(pointed.target)
        # The corners are among the points, so that the polygon lies inside the hull.
        area, whole = (
            abs(_signed_area(pointed.points[side])) for side in (pointed.answer, pointed.target)
        )
        return {"exact": float(exact), "area": area / whole, "invalid": 0.0}

    def lines(self, points: Array, answer: list[int]) -> list[Array]:
        """The polygon, closed."""
        return [points[[*answer, *answer[:1]]]]


class Delaunay(_HullTask):
    """See points, point at the corners of their Delaunay triangles (Vinyals et al. 2015, 3.2).

    The answer is three indices a triangle: its leftmost corner (of two one above the other, the
    lower), and the others counter-clockwise. The triangles of a leftmost corner follow each other
    around it counter-clockwise, so that each shares an edge with the one before; the corners take
    turns from the left. (The paper goes by incenters, an order that is much harder to learn.) Of
    points on one circle, which have several triangulations, the answer is one.

    The scores of a test set: ``exact``, the share of answers that are the right set of triangles,
    in any order; ``coverage``, the share of the right triangles that were found, the mean over
    answers; ``invalid``, the share of answers that are no triangles: tokens that are not three
    different points each, or no end.

    Args:
        min_points: fewest points of a sequence, at least 3.
        max_points: most points of training, validation and the test set ``test``.
        test_sets: pairs (n, sequences): further test sets, named ``n_<n>``.
        test_sequences: in ``test``, with as many points as in training, at least 1.
        test_files: files of points, each a further test set; see
            :func:`tasks.points.read_points`.
        test_points: the old name of ``test_sets``.
        batch_points: points in a training batch, at least ``max_points``; see
            :class:`~tasks.pointing.PointingTask`.
        settings: see :class:`~tasks.Task`.
    """

    def answer(self, points: Array) -> Array:
        """The triangles, one after the other, ``[3 k]``."""
        from scipy import spatial

        triangles = spatial.Delaunay(points).simplices.astype(np.int64)
        return _fans(points[None], np.zeros(len(triangles), np.int64), triangles)[0]

    def answers(self, points: Sequence[Array]) -> list[Array]:
        """Triangles for each of many; few points are tried all, which is fast for many at once."""
        found: dict[int, Array] = {}
        for rows, same in _by_number(points):
            found.update(
                (row, triangles)
                for row, triangles in zip(rows, _triangulations(same), strict=True)
                if triangles is not None
            )
        return [found[row] if row in found else self.answer(p) for row, p in enumerate(points)]

    def judge(self, pointed: Pointed) -> dict[str, float]:
        """``exact`` and ``invalid``, 0 or 1, and ``coverage``."""
        given, right = _triples(pointed.answer), _triples(pointed.target)
        valid = pointed.whole and given != [] and all(len(set(triple)) == 3 for triple in given)
        found, wanted = ({frozenset(triple) for triple in side} for side in (given, right))
        return {
            "exact": float(valid and found == wanted),
            "coverage": len(found & wanted) / len(wanted),
            "invalid": float(not valid),
        }

    def lines(self, points: Array, answer: list[int]) -> list[Array]:
        """The triangles, closed."""
        return [points[[*triple, triple[0]]] for triple in _triples(answer)]


class TravellingSalesman(_PlaneTask):
    """See points, point at all of them in the order of a shortest tour (Vinyals et al. 2015, 3.3).

    The tour starts at point 0 and goes counter-clockwise, as a hull does; it ends without a return.
    Up to 12 points it is the shortest, by dynamic programming (Held & Karp 1962). Beyond, it is
    that of LKH (Helsgaun 2000) by the package elkai, which nearly always is, on distances rounded
    to a millionth of the longest.

    Long tours are slow to find, so that they are kept in files, and training goes again and again
    through a pool of batches: batch ``i`` is number ``i % pool_batches`` of the pool, with each of
    its sequences turned or mirrored (one of the 8 symmetries of the square) and its points in a new
    order, drawn for ``i``. A file is found by the points that it answers; one that is damaged is
    made anew.

    The scores of a test set: ``exact``, the share of answers that are the tour of the target, from
    any point and in any direction; ``tour``, the mean length of the answers that are tours;
    ``tour_ratio``, the mean of such a length by that of the target; ``invalid``, the share of
    answers that have not every point once, or no end.

    Args:
        min_points: fewest points of a sequence, at least 3.
        max_points: most points of training, validation and the test set ``test``.
        test_sets: pairs (n, sequences): further test sets, named ``n_<n>``.
        test_sequences: in ``test``, with as many points as in training, at least 1.
        test_files: files of points, each a further test set; see
            :func:`tasks.points.read_points`.
        test_points: the old name of ``test_sets``.
        batch_points: points in a training batch, at least ``max_points``; see
            :class:`~tasks.pointing.PointingTask`.
        pool_batches: training batches that differ in more than their guise, where ``max_points`` is
            more than 12; without long tours all batches do.
        cache: folder where long tours are kept; if not given, ``memnets`` in the user's cache
            (``$XDG_CACHE_HOME``, or ``~/.cache``).
        settings: see :class:`~tasks.Task`.

    Raises:
        ValueError: a setting is out of its range.
        MissingExtra: there are tours of more than 12 points, and elkai is not installed.
    """

    def __init__(
        self,
        min_points: int = 5,
        max_points: int = 20,
        test_sets: Sequence[tuple[int, int]] = (),
        test_sequences: int = 1000,
        batch_points: int | None = None,
        pool_batches: int = 1000,
        cache: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(
            min_points, max_points, test_sets, test_sequences, batch_points, **settings
        )
        check_positive(pool_batches=pool_batches)
        if self.most_points > EXACT_POINTS:
            check_extra("geometry", f"a tour of more than {EXACT_POINTS} points", "elkai")
            # Eight bytes each.
            check_room("the distances of a tour", 8, self.most_points, self.most_points)
        self.pool_batches = pool_batches
        usual = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self.cache = Path(usual, "memnets") if cache is None else Path(cache)

    def batch(self, split: str, index: int) -> Batch:
        """Batch ``index`` of ``train``, ``val`` or a test set."""
        if split != "train" or self.max_points <= EXACT_POINTS:
            return super().batch(split, index)
        points = self.drawn(split, index % self.pool_batches)
        random = self.random("train, in a guise", index)
        guises = [_guise(random, *pair) for pair in zip(points, self.answers(points), strict=True)]
        return as_batch([rows for rows, _ in guises], [tour for _, tour in guises])

    def answer(self, points: Array) -> Array:
        """The tour, from point 0 counter-clockwise."""
        return self.answers([points])[0]

    def answers(self, points: Sequence[Array]) -> list[Array]:
        """A tour for each of many."""
        tours: dict[int, Array] = {}
        for rows, same in _by_number(points):
            tours.update(zip(rows, _held_karp(same), strict=True))
        long = [row for row, several in enumerate(points) if len(several) > EXACT_POINTS]
        if long:
            tours.update(zip(long, self._long([points[row] for row in long]), strict=True))
        return [_counter_clockwise(several, tours[row]) for row, several in enumerate(points)]

    def _long(self, points: list[Array]) -> list[Array]:
        """Tours of elkai, from the cache if they are there."""
        numbers = [len(rows) for rows in points]
        key = b"".join(
            [f"tours {TOURS_VERSION} {numbers}".encode(), *(rows.tobytes() for rows in points)]
        )

        def find() -> bytes:
            return np.concatenate([_lkh(rows) for rows in points]).astype("<u4").tobytes()

        try:
            kept = cached(self.cache, key, find)
        except OSError as error:
            raise ValueError(
                f"cache must be a folder where tours can be kept; got {self.cache} ({error})"
            ) from error
        return np.split(np.frombuffer(kept, "<u4").astype(np.int64), np.cumsum(numbers)[:-1])

    def judge(self, pointed: Pointed) -> dict[str, float]:
        """``exact`` and ``invalid``, 0 or 1, and of a tour ``tour`` and ``tour_ratio``."""
        if not pointed.whole or sorted(pointed.answer) != list(range(len(pointed.points))):
            return {"exact": 0.0, "invalid": 1.0}
        exact = _from_lowest(pointed.answer) == _from_lowest(pointed.target)
        tour, best = (_length(pointed.points[side]) for side in (pointed.answer, pointed.target))
        return {"exact": float(exact), "tour": tour, "tour_ratio": tour / best, "invalid": 0.0}

    def lines(self, points: Array, answer: list[int]) -> list[Array]:
        """The tour, closed."""
        return [points[[*answer, *answer[:1]]]]


def _from_lowest(cycle: list[int]) -> list[int]:
    """A cycle of different indices, from the lowest to the lower of its neighbours."""
    start = cycle.index(min(cycle))
    turned = cycle[start:] + cycle[:start]
    return turned if turned[1] < turned[-1] else [turned[0], *turned[:0:-1]]


def _counter_clockwise(points: Array, tour: Array) -> Array:
    """The same tour from point 0 counter-clockwise, ``[n]``; of no area, in either direction."""
    tour = np.roll(tour, -tour.argmin())
    return np.roll(tour[::-1], 1) if _signed_area(points[tour]) < 0 else tour


def _by_number(points: Sequence[Array]) -> Iterator[tuple[list[int], Array]]:
    """Instances of few enough points, some of one n at a time: which, and ``[B, n, 2]``."""
    numbers = np.array([len(several) for several in points])
    for n in np.unique(numbers[numbers <= EXACT_POINTS]):
        same = np.flatnonzero(numbers == n)
        for rows in np.split(same, range(EXACT_INSTANCES, len(same), EXACT_INSTANCES)):
            yield rows.tolist(), np.stack([points[row] for row in rows])


def _fans(points: Array, rows: Array, triangles: Array) -> list[Array]:
    """Triangles of many instances in the order of :class:`Delaunay`.

    Args:
        points: ``[B, n, 2]``.
        rows: which of the B each triangle belongs to, ``[K]``.
        triangles: their corners in any order, ``[K, 3]``.

    Returns:
        ``[3 k]`` for each of the B.
    """
    wide = points.astype(np.float64)
    # From the left; of points one above the other, from below.
    places = np.lexsort((wide[..., 1], wide[..., 0]), axis=-1).argsort(-1)
    leftmost = places[rows[:, None], triangles].argmin(1)
    turned = np.take_along_axis(triangles, (leftmost[:, None] + np.arange(3)) % 3, 1)
    corners = wide[rows[:, None], turned]
    sides = corners[:, 1:] - corners[:, :1]
    clockwise = _cross(sides[:, 0], sides[:, 1]) < 0
    turned[clockwise, 1:] = turned[clockwise, :0:-1]
    x, y = np.where(clockwise[:, None], sides[:, 1], sides[:, 0]).T
    order = np.lexsort((np.arctan2(y, x), places[rows, turned[:, 0]], rows))
    counts = np.bincount(rows, minlength=len(points))
    return np.split(turned[order].flatten(), 3 * counts.cumsum()[:-1])


def _triangulations(points: Array) -> list[Array | None]:
    """Triangles in order, ``[B, n, 2] -> [3 k]`` each: every three points are tried.

    Three are a triangle if no other, p, lies in the circle through them: if it does, then the
    determinant of ``[a, |a|^2], [b, |b|^2], [c, |c|^2]``, a to c as seen from p, has the sign of
    the triangle's area (Guibas & Stolfi 1985, section 8).

    Returns:
        ``None`` for points of which three lie nearly on a line or four nearly on a circle.
    """
    n = points.shape[1]
    triples = np.array(list(itertools.combinations(range(n), 3)))
    i, j, k = triples.T
    wide = points.astype(np.float64)
    wide -= wide.min(1, keepdims=True)
    wide /= wide.max((1, 2), keepdims=True)
    # From each point to each: products and squares of what is seen from p, [B, p, ...].
    rows = wide[:, None] - wide[:, :, None]
    products = _cross(rows[:, :, :, None], rows[:, :, None])
    squares = (rows * rows).sum(-1)
    areas = products[:, i, j, k]
    inside = sum(
        squares[:, :, a] * products[:, :, b, c] for a, b, c in ((i, j, k), (j, k, i), (k, i, j))
    )
    inside *= np.sign(areas)[:, None]
    corner = (np.arange(n)[:, None, None] == triples).any(-1)
    unclear = ((abs(inside) < NEARLY_FLAT) & ~corner).any((1, 2)) | (abs(areas) < NEARLY_FLAT).any(
        1
    )
    instances, found = np.nonzero(((inside < 0) | corner).all(1))
    fans = _fans(points, instances, triples[found])
    return [None if no else fan for no, fan in zip(unclear, fans, strict=True)]


def _triples(indices: list[int]) -> list[list[int]]:
    """Cut after every third index."""
    return [indices[start : start + 3] for start in range(0, len(indices), 3)]


def _cross(a: Array, b: Array) -> Array:
    """The third coordinate of the cross products of vectors ``[..., 2]``."""
    product: Array = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return product


def _is_polygon(corners: Array, indices: list[int]) -> bool:
    """Whether there are 3 or more different corners ``[k, 2]``, and no two edges cross.

    No three corners are taken to lie on one line: of random points, none do.
    """
    if len(indices) < 3 or len(set(indices)) < len(indices):
        return False
    start, end = corners[:, None], np.roll(corners, -1, 0)[:, None]
    # Which of the corners lie to the left of each edge: an edge is cut where its ends differ.
    left = _cross(end - start, corners - start) > 0
    apart = left ^ np.roll(left, -1, 1)
    steps = (np.arange(len(corners)) - np.arange(len(corners))[:, None]) % len(corners)
    neighbours = (steps <= 1) | (steps == len(corners) - 1)
    return not (apart & apart.T & ~neighbours).any()


def _signed_area(corners: Array) -> float:
    """Area of a polygon ``[k, 2]``, below 0 if it is clockwise."""
    wide = corners.astype(np.float64)
    return float(_cross(wide, np.roll(wide, -1, 0)).sum() / 2)


def _length(tour: Array) -> float:
    """Length of a closed tour ``[n, 2]``."""
    return float(np.linalg.norm(tour - np.roll(tour, 1, 0), axis=1).sum())


def _distances(points: Array) -> Array:
    """From each point to each, float64 ``[..., n, 2] -> [..., n, n]``."""
    wide = points.astype(np.float64)
    distances: Array = np.linalg.norm(wide[..., :, None, :] - wide[..., None, :, :], axis=-1)
    return distances


@functools.cache
def _visits(m: int) -> list[tuple[Array, Array, Array]]:
    """In which order the paths through subsets of m points are found, those of 2 points first.

    Returns:
        For each size the subsets as bits, the point that a path through them ends with, and the
        subsets without it; all ``[P]``.
    """
    subsets = np.arange(1 << m)
    inside = (subsets[:, None] >> np.arange(m) & 1).astype(bool)
    sizes = inside.sum(1, keepdims=True)
    visits = []
    for size in range(2, m + 1):
        subset, last = np.nonzero(inside & (sizes == size))
        visits.append((subset, last, subset ^ (1 << last)))
    return visits


def _held_karp(points: Array) -> Array:
    """Shortest tours from point 0, ``[B, n, 2] -> [B, n]``, by dynamic programming.

    Held & Karp 1962, "A Dynamic Programming Approach to Sequencing Problems": C(S, j) is the
    length of the shortest path from point 0 through all of S that ends in j, and
    ``C(S, j) = min_k C(S - j, k) + d(k, j)``.
    """
    distances = _distances(points)
    size, m = len(points), points.shape[1] - 1
    # The instances come last: what is looked up by a subset then lies side by side.
    home = distances[:, 0, 1:].T
    steps = distances[:, 1:, 1:].transpose(1, 2, 0)
    cost = np.full((1 << m, m, size), np.inf)
    cost[1 << np.arange(m), np.arange(m)] = home
    for subset, last, before in _visits(m):
        cost[subset, last] = (cost[before] + steps[last]).min(1)
    # Backwards: what came before the last point is what the minimum was taken at.
    rows = np.arange(size)
    left = np.full(size, (1 << m) - 1)
    last = (cost[-1] + home).argmin(0)
    tour = [last]
    for _ in range(m - 1):
        left = left ^ (1 << last)
        last = (cost[left, :, rows] + steps[last, :, rows]).argmin(1)
        tour.append(last)
    return np.stack([np.zeros(size, np.int64), *(last + 1 for last in tour)], 1)


def _lkh(points: Array) -> Array:
    """A short tour from point 0, ``[n, 2] -> [n]``."""
    distances = _distances(points)
    scale = LONGEST_DISTANCE / (distances.max() or 1.0)
    whole = np.rint(distances * scale).astype(np.int64)
    import elkai

    return np.array(elkai.DistanceMatrix(whole.tolist()).solve_tsp()[:-1])


def _guise(random: np.random.Generator, points: Array, tour: Array) -> tuple[Array, Array]:
    """The same tour, turned or mirrored, of the points in another order."""
    mirror_x, mirror_y, swap = random.integers(0, 2, 3)
    shown = np.where([mirror_x, mirror_y], 1 - points, points)[:, :: 1 - 2 * swap]
    order = random.permutation(len(points))
    # Place i now holds point order[i]; where a point went is the inverse.
    points = shown[order]
    return points, _counter_clockwise(points, np.argsort(order)[tour])
