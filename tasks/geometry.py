"""Geometry by pointing: convex hulls, Delaunay triangulations, shortest tours.

Vinyals et al. 2015, "Pointer Networks", section 3. Points are uniform in the unit square.
"""

from __future__ import annotations

import functools
import itertools
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memnets.batches import Batch
from memnets.checks import check_positive
from memnets.extras import check_extra
from memnets.files import cached
from tasks.base import Array
from tasks.limits import check_room
from tasks.pointing import (
    Pointed,
    PointingTask,
    as_batch,
    by_length,
    in_unit_square,
    uniform,
)
from tasks.stored import cache_folder

__all__ = ["ConvexHull", "Delaunay", "TravellingSalesman"]

#: Most points for which tours are found by dynamic programming, and triangles by trying every three
#: points. Beyond, elkai finds tours and scipy triangles.
EXACT_POINTS = 12
#: Number of instances solved at once in this way; more would not fit in the processor's cache.
EXACT_INSTANCES = 32
#: Bound on the area of three points, or on a fourth point's distance from their circle, relative to
#: the square around all points. Below it rounding may decide the side, so scipy decides instead.
NEARLY_FLAT = 1e-9
#: Version of the cached tours; raise it with any change to the search for them.
TOURS_VERSION = 1
#: The longest distance after rounding. elkai takes whole numbers, and LKH needs them below
#: 2^31 / 200.
LONGEST_DISTANCE = 1_000_000


class _PlaneTask(PointingTask):
    """Base class for tasks on points in the unit square."""

    slow_batches = True

    def points(self, random: np.random.Generator, n: int) -> Array:
        """Uniform in the unit square, ``[n, 2]``."""
        return random.random((n, 2), np.float32)

    def several(self, random: np.random.Generator, numbers: Sequence[int]) -> list[Array]:
        """Uniform in the unit square, ``[n, 2]`` for each sequence."""
        return uniform(random, numbers, self.width)

    def seen(self, points: Array) -> Array:
        """Points, moved and scaled into the unit square if some lie outside of it.

        Both axes have the same scale, so that no answer changes.
        """
        return in_unit_square(points)

    def solve(self, points: Sequence[Array]) -> Sequence[Sequence[int] | Array]:
        """See :meth:`~tasks.PointingTask.solve`."""
        # Far from the origin, differences of coordinates would lose digits.
        return self.answers([in_unit_square(rows) for rows in points])

    @abstractmethod
    def lines(self, points: Array, answer: list[int]) -> list[Array]:
        """Lines ``[k, 2]`` that draw an answer."""


class _HullTask(_PlaneTask):
    """Base class for tasks on points that span a polygon."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        check_extra("geometry", f"tasks.{type(self).__name__}", "scipy")
        super().__init__(*arguments, **settings)

    def check(self, points: Array) -> None:
        """Check that the points differ, and that they do not lie on one line.

        Raises:
            ValueError: two points are the same, or all lie on one line, exactly or nearly.
        """
        # Only Qhull can tell whether points are too near to a line for it.
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
    """Convex hull: point at its corners (Vinyals et al. 2015, section 3.1).

    The answer starts at the corner with the lowest index and goes counter-clockwise. A point on an
    edge of the hull is not a corner. Settings are those of :class:`~tasks.PointingTask`.

    The scores of a test set are ``exact``, the share of answers that are the right polygon, from
    any corner and in any direction; ``area``, the polygon's share of the hull's area, the mean over
    answers that are polygons; and ``invalid``, the share of answers that are not polygons: with
    fewer than 3 corners, a corner twice, edges that cross, or no end mark.
    """

    def answer(self, points: Array) -> Array:
        """The corners counter-clockwise, from the corner with the lowest index."""
        from scipy import spatial

        corners = spatial.ConvexHull(points).vertices
        return np.roll(corners, -corners.argmin())

    def judge(self, pointed: Pointed) -> dict[str, float]:
        """``exact`` and ``invalid``, 0 or 1, and ``area`` for a polygon."""
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
    """Delaunay triangulation: point at the corners of its triangles (Vinyals et al. 2015, 3.2).

    The answer is three indices for each triangle: its leftmost corner (the lower one of two at the
    same place), then the others counter-clockwise. The leftmost corners are in order from the left.
    Triangles with the same leftmost corner go counter-clockwise around it, so that each shares an
    edge with the one before. (The paper's order, by incenters, is much harder to learn.) Points on
    one circle have several triangulations; the answer is one of them. Settings are those of
    :class:`~tasks.PointingTask`.

    The scores of a test set are ``exact``, the share of answers that are the right set of
    triangles, in any order; ``coverage``, the share of the right triangles in an answer, the mean
    over answers; and ``invalid``, the share of answers that are not triangles: three different
    points each, then an end mark.
    """

    def answer(self, points: Array) -> Array:
        """The triangles, one after the other, ``[3 k]``."""
        from scipy import spatial

        triangles = spatial.Delaunay(points).simplices.astype(np.int64)
        return _fans(points[None], np.zeros(len(triangles), np.int64), triangles)[0]

    def answers(self, points: Sequence[Array]) -> list[Array]:
        """Triangles of several sequences; small ones by trying all triples, many at once."""
        found: dict[int, Array] = {}
        for rows, same in _small(points):
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
    """Travelling salesman: point at all points along a shortest tour (Vinyals et al. 2015, 3.3).

    The tour starts at point 0 and goes counter-clockwise, as a hull does; it ends without a return.
    Up to 12 points it is the shortest, by dynamic programming (Held & Karp 1962). Beyond, it is the
    tour of LKH (Helsgaun 2000) from the package elkai, nearly always the shortest, on distances
    rounded to a millionth of the longest.

    Long tours are slow to find. So they are kept in files, and training repeats a pool of batches:
    batch ``i`` is number ``i % pool_batches`` of the pool. Each sequence is turned or mirrored (one
    of the 8 symmetries of the square) and its points reordered, at random for each ``i``. The name
    of a file depends on the points; a damaged file is replaced.

    The scores of a test set are ``exact``, the share of answers that are the tour of the target,
    from any point and in any direction; ``tour``, the mean length of the answers that are tours;
    ``tour_ratio``, the mean of this length over that of the target; and ``invalid``, the share of
    answers that do not have every point once, or no end mark.

    Args:
        min_points: fewest points of a sequence, at least 3.
        max_points: most points of a sequence of training, validation and the test set ``test``.
        test_sets: further test sets, pairs (n, number of sequences), named ``n_<n>``.
        test_sequences: number of sequences in ``test``, with as many points as in training, at
            least 1.
        batch_points: number of points in a training batch, see :class:`~tasks.PointingTask`.
        pool_batches: number of batches in the pool, at least 1; used if ``max_points`` is more
            than 12.
        cache: folder of long tours; by default ``memnets`` in the user's cache
            (``$XDG_CACHE_HOME``, or ``~/.cache``).
        settings: see :class:`~tasks.PointingTask`.

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
            # The matrix of distances; its numbers have 8 bytes.
            check_room("the distances of a tour", 8, self.most_points, self.most_points)
        self.pool_batches = pool_batches
        self.cache = cache_folder() if cache is None else Path(cache)

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
        """Tours of several sequences; short ones are found many at once."""
        tours: dict[int, Array] = {}
        for rows, same in _small(points):
            tours.update(zip(rows, _counter_clockwise(same, _held_karp(same)), strict=True))
        long = [row for row, several in enumerate(points) if len(several) > EXACT_POINTS]
        if long:
            found = self._long([points[row] for row in long])
            tours.update((row, _turned(points[row], t)) for row, t in zip(long, found, strict=True))
        return [tours[row] for row in range(len(points))]

    def _long(self, points: list[Array]) -> list[Array]:
        """Tours of elkai, from the cache if it has them."""
        # The key holds the points themselves: any change of data or version is another file.
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
        """``exact`` and ``invalid``, 0 or 1, and ``tour`` and ``tour_ratio`` for a tour."""
        if not pointed.whole or sorted(pointed.answer) != list(range(len(pointed.points))):
            return {"exact": 0.0, "invalid": 1.0}
        exact = _from_lowest(pointed.answer) == _from_lowest(pointed.target)
        tour, best = (_length(pointed.points[side]) for side in (pointed.answer, pointed.target))
        return {"exact": float(exact), "tour": tour, "tour_ratio": tour / best, "invalid": 0.0}

    def lines(self, points: Array, answer: list[int]) -> list[Array]:
        """The tour, closed."""
        return [points[[*answer, *answer[:1]]]]


def _from_lowest(cycle: list[int]) -> list[int]:
    """A cycle of different indices, from the lowest in the direction of its lower neighbour.

    Two answers are the same cycle exactly if these lists are equal.
    """
    start = cycle.index(min(cycle))
    turned = cycle[start:] + cycle[:start]
    return turned if turned[1] < turned[-1] else [turned[0], *turned[:0:-1]]


def _counter_clockwise(points: Array, tours: Array) -> Array:
    """The same tours, counter-clockwise; those without area in any direction.

    Args:
        points: ``[B, n, 2]``.
        tours: from point 0, ``[B, n]``.
    """
    corners = np.take_along_axis(points.astype(np.float64), tours[..., None], 1)
    clockwise = _cross(corners, np.roll(corners, -1, 1)).sum(1) < 0
    backwards = np.concatenate([tours[:, :1], tours[:, :0:-1]], 1)
    turned: Array = np.where(clockwise[:, None], backwards, tours)
    return turned


def _turned(points: Array, tour: Array) -> Array:
    """One tour ``[n]`` from point 0 counter-clockwise, of points ``[n, 2]``."""
    turned: Array = _counter_clockwise(points[None], np.roll(tour, -tour.argmin())[None])[0]
    return turned


def _small(points: Sequence[Array]) -> Iterator[tuple[list[int], Array]]:
    """Group small instances by their n: their numbers, and their points ``[B, n, 2]``."""
    for rows, same in by_length(points):
        for start in range(0, len(rows) if same.shape[1] <= EXACT_POINTS else 0, EXACT_INSTANCES):
            end = start + EXACT_INSTANCES
            yield rows[start:end], same[start:end]


def _fans(points: Array, rows: Array, triangles: Array) -> list[Array]:
    """Sort the triangles of several instances into the order of :class:`Delaunay`.

    Args:
        points: ``[B, n, 2]``.
        rows: number of the instance of each triangle, ``[K]``.
        triangles: corners in any order, ``[K, 3]``.

    Returns:
        Indices ``[3 k]`` for each of the B instances.
    """
    wide = points.astype(np.float64)
    # From the left; of points one above the other, from below.
    places = np.lexsort((wide[..., 1], wide[..., 0]), axis=-1).argsort(-1)
    leftmost = places[rows[:, None], triangles].argmin(1)
    turned = np.take_along_axis(triangles, (leftmost[:, None] + np.arange(3)) % 3, 1)
    corners = wide[rows[:, None], turned]
    sides = corners[:, 1:] - corners[:, :1]
    # A clockwise triangle gets its last two corners, and the sides to them, exchanged.
    clockwise = _cross(sides[:, 0], sides[:, 1]) < 0
    turned[clockwise, 1:] = turned[clockwise, :0:-1]
    x, y = np.where(clockwise[:, None], sides[:, 1], sides[:, 0]).T
    order = np.lexsort((np.arctan2(y, x), places[rows, turned[:, 0]], rows))
    counts = np.bincount(rows, minlength=len(points))
    return np.split(turned[order].flatten(), 3 * counts.cumsum()[:-1])


def _triangulations(points: Array) -> list[Array | None]:
    """Find Delaunay triangles by trying every three points, ``[B, n, 2] -> [3 k]`` each.

    Three points are a triangle if no other point p lies in their circle. If p does, the determinant
    of ``[a, |a|^2], [b, |b|^2], [c, |c|^2]``, with a to c relative to p, has the sign of the
    triangle's area (Guibas & Stolfi 1985, section 8).

    Returns:
        Triangles in order; ``None`` for an instance with three points nearly on a line or four
        nearly on a circle.
    """
    n = points.shape[1]
    triples = np.array(list(itertools.combinations(range(n), 3)))
    i, j, k = triples.T
    wide = points.astype(np.float64)
    wide -= wide.min(1, keepdims=True)
    wide /= wide.max((1, 2), keepdims=True)
    # Vectors from each point p to all points, their cross products and their squares: [B, p, ...].
    rows = wide[:, None] - wide[:, :, None]
    products = _cross(rows[:, :, :, None], rows[:, :, None])
    squares = (rows * rows).sum(-1)
    areas = products[:, i, j, k]
    inside = sum(
        squares[:, :, a] * products[:, :, b, c] for a, b, c in ((i, j, k), (j, k, i), (k, i, j))
    )
    inside *= np.sign(areas)[:, None]
    # For its own corners the determinant is 0, and says nothing.
    corner = (np.arange(n)[:, None, None] == triples).any(-1)
    unclear = ((abs(inside) < NEARLY_FLAT) & ~corner).any((1, 2)) | (abs(areas) < NEARLY_FLAT).any(
        1
    )
    instances, found = np.nonzero(((inside < 0) | corner).all(1))
    fans = _fans(points, instances, triples[found])
    return [None if no else fan for no, fan in zip(unclear, fans, strict=True)]


def _triples(indices: list[int]) -> list[list[int]]:
    """Cut a list of indices into threes; the last may be shorter."""
    return [indices[start : start + 3] for start in range(0, len(indices), 3)]


def _cross(a: Array, b: Array) -> Array:
    """Cross products of plane vectors, ``[..., 2], [..., 2] -> [...]``."""
    product: Array = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return product


def _is_polygon(corners: Array, indices: list[int]) -> bool:
    """Whether at least 3 different corners ``[k, 2]`` have edges that do not cross.

    It assumes that no three corners lie on one line, as holds for random points.
    """
    if len(indices) < 3 or len(set(indices)) < len(indices):
        return False
    start, end = corners[:, None], np.roll(corners, -1, 0)[:, None]
    # For each edge, the corners to its left. Two edges cross if each separates the other's ends.
    left = _cross(end - start, corners - start) > 0
    apart = left ^ np.roll(left, -1, 1)
    steps = (np.arange(len(corners)) - np.arange(len(corners))[:, None]) % len(corners)
    # Neighbours share a corner, and an edge would seem to cross them.
    neighbours = (steps <= 1) | (steps == len(corners) - 1)
    return not (apart & apart.T & ~neighbours).any()


def _signed_area(corners: Array) -> float:
    """Area of a polygon ``[k, 2]``; negative if it is clockwise."""
    wide = corners.astype(np.float64)
    return float(_cross(wide, np.roll(wide, -1, 0)).sum() / 2)


def _length(tour: Array) -> float:
    """Length of a closed tour ``[n, 2]``."""
    return float(np.linalg.norm(tour - np.roll(tour, 1, 0), axis=1).sum())


def _distances(points: Array) -> Array:
    """Distances of all pairs of points, float64 ``[..., n, 2] -> [..., n, n]``."""
    wide = points.astype(np.float64)
    distances: Array = np.linalg.norm(wide[..., :, None, :] - wide[..., None, :, :], axis=-1)
    return distances


@functools.cache
def _visits(m: int) -> list[tuple[Array, Array, Array]]:
    """Order of the dynamic programming over subsets of m points, by size from 2 on.

    Returns:
        For each size, all pairs of a subset and its point: where the table of costs, by subset and
        last point, has the pair, ``[P]``; where it has the paths without the last point, one for
        each point that they may end in; and where the table of steps has the step from there, both
        ``[size - 1, P]``.
    """
    subsets = np.arange(1 << m)
    inside = (subsets[:, None] >> np.arange(m) & 1).astype(bool)
    sizes = inside.sum(1, keepdims=True)
    visits = []
    for size in range(2, m + 1):
        subset, last = np.nonzero(inside & (sizes == size))
        before = subset ^ (1 << last)
        ends = np.nonzero(inside[before])[1].reshape(-1, size - 1).T
        visits.append((subset * m + last, before * m + ends, last * m + ends))
    return visits


def _held_karp(points: Array) -> Array:
    """Shortest tours from point 0, ``[B, n, 2] -> [B, n]``, by dynamic programming.

    Held & Karp 1962, "A Dynamic Programming Approach to Sequencing Problems": C(S, j) is the
    length of the shortest path from point 0 through all of S that ends in j, and
    ``C(S, j) = min_k C(S - j, k) + d(k, j)``.
    """
    distances = _distances(points)
    size, m = len(points), points.shape[1] - 1
    # Instances are the last dimension: the numbers of a subset then lie side by side in memory.
    home = distances[:, 0, 1:].T
    steps = distances[:, 1:, 1:].transpose(1, 2, 0)
    cost = np.full((1 << m, m, size), np.inf)
    cost[1 << np.arange(m), np.arange(m)] = home
    flat, moves = cost.reshape(-1, size), steps.reshape(-1, size)
    for here, paths, last_steps in _visits(m):
        # One point k at a time: no large array of all sums is made.
        least = flat[paths[0]]
        least += moves[last_steps[0]]
        for path, step in zip(paths[1:], last_steps[1:], strict=True):
            longer = flat[path]
            longer += moves[step]
            np.minimum(least, longer, out=least)
        flat[here] = least
    # The tour, backwards: the point before is where the minimum was taken.
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
    """Turn or mirror points and their tour at random, and reorder the points."""
    mirror_x, mirror_y, swap = random.integers(0, 2, 3)
    shown = np.where([mirror_x, mirror_y], 1 - points, points)[:, :: 1 - 2 * swap]
    order = random.permutation(len(points))
    # Place i now holds point order[i]; the inverse of the order tells the new place of a point.
    points = shown[order]
    return points, _turned(points, np.argsort(order)[tour])
