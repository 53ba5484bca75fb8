"""Hulls, triangulations and tours against their definitions, and what is measured of answers."""

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from memnets.batches import END, PAD, UNKNOWN
from memnets.extras import MissingExtra
from tasks import ConvexHull, Delaunay, TravellingSalesman
from tests.tasks.test_pointing import pointed

seeds = st.integers(0, 2**31)
#: Points on a small grid: many on one line, many on one circle.
grids = arrays.arrays(
    np.float32,
    st.tuples(st.integers(3, 12), st.just(2)),
    elements=st.integers(0, 4).map(float),
).map(lambda points: np.unique(points, axis=0))
planes = st.tuples(seeds, st.integers(3, 20)).map(
    lambda drawn: np.random.default_rng(drawn[0]).random((drawn[1], 2), np.float32)
)
SQUARE = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]


def cross(a, b, c) -> float:
    """Twice the area of a triangle, positive if counter-clockwise."""
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


def flat(points: np.ndarray) -> bool:
    wide = points.astype(float)
    return len(points) < 3 or all(cross(wide[0], wide[1], c) == 0 for c in wide)


def answer_of(task, points) -> list[int]:
    ((_, answer),) = pointed(task.batch_of([points]))
    return answer


def tokens(*answers: list[int], end: bool = True) -> torch.Tensor:
    """Answers by their indices as a batch of tokens."""
    rows = [[*(index + END + 1 for index in answer), *[END] * end] for answer in answers]
    longest = max(map(len, rows))
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])


# -- convex hull ----------------------------------------------------------------------------------


@given(points=grids | planes)
def test_the_hull_holds_all_points_and_turns_left_at_each_corner(points) -> None:
    assume(not flat(points))
    answer = answer_of(ConvexHull(), points)
    wide = points.astype(float)
    assert answer[0] == min(answer)
    assert len(set(answer)) == len(answer) >= 3
    for a, b, c in zip(answer, answer[1:] + answer[:1], answer[2:] + answer[:2], strict=True):
        assert cross(wide[a], wide[b], wide[c]) > 0
        assert all(cross(wide[a], wide[b], point) >= 0 for point in wide)


def test_a_point_on_an_edge_is_no_corner() -> None:
    points = [[0.5, 0.0], *SQUARE, [0.5, 0.5], [1.0, 0.5]]
    assert answer_of(ConvexHull(), points) == [1, 2, 3, 4]


@given(seed=seeds, ask=st.data())
def test_a_hull_may_be_said_from_any_corner_in_any_direction(seed, ask) -> None:
    task = ConvexHull(5, 9, test_sequences=6, seed=seed)
    rows = [answer for _, answer in pointed(task.batch("test", 0))]
    turned = []
    for answer in rows:
        start = ask.draw(st.integers(0, len(answer) - 1))
        turned.append((answer[start:] + answer[:start])[:: ask.draw(st.sampled_from([1, -1]))])
    perfect = {"exact": 1.0, "area": 1.0, "invalid": 0.0}
    assert task.measure("test", [tokens(*turned)]) == pytest.approx(perfect)


def measured(task, points, answer: torch.Tensor) -> dict[str, float]:
    """Scores of one answer, a row of tokens, to one's own points, by the task's own judgement."""

    class Own(type(task)):
        def batch(self, split, index):
            return self.batch_of([points])

    return Own().measure("test", [answer])


def test_a_polygon_that_is_not_the_hull_has_its_share_of_the_area() -> None:
    square = [*SQUARE, [0.5, 0.25]]
    scores = measured(ConvexHull(), square, tokens([0, 1, 2]))
    assert scores == {"exact": 0.0, "area": pytest.approx(0.5), "invalid": 0.0}
    scores = measured(ConvexHull(), square, tokens([4, 1, 2, 3, 0]))
    assert scores == {"exact": 0.0, "area": pytest.approx(1 - 1 / 8), "invalid": 0.0}


@pytest.mark.parametrize(
    "answer",
    [
        tokens([]),
        tokens([0, 1]),
        tokens([0, 1, 2, 0]),
        tokens([0, 3, 2, 2]),
        tokens([0, 2, 1, 3]),  # crosses itself
        tokens([0, 1, 2, 5]),
        tokens([0, 1, 2, 3], end=False),
        torch.tensor([[END + 1, PAD, END + 2, END + 3, END]]),
        torch.tensor([[UNKNOWN, END + 1, END + 2, END + 3, END]]),
    ],
)
def test_what_is_no_polygon_is_invalid_and_has_no_area(answer) -> None:
    square = [*SQUARE, [0.5, 0.25]]
    assert measured(ConvexHull(), square, answer) == {"exact": 0.0, "invalid": 1.0}


@given(points=planes, ask=st.data())
def test_edges_that_cross_are_found(points, ask) -> None:
    order = ask.draw(st.permutations(range(len(points))).filter(lambda order: len(order) >= 3))
    order = order[: ask.draw(st.integers(3, len(order)))]
    wide = points[order].astype(float)
    edges = list(zip(wide, [*wide[1:], wide[0]], strict=True))

    def cut(one, two) -> bool:
        (a, b), (c, d) = one, two
        return cross(a, b, c) * cross(a, b, d) < 0 and cross(c, d, a) * cross(c, d, b) < 0

    crossing = any(cut(one, two) for one, two in itertools.combinations(edges, 2))
    assert measured(ConvexHull(), points, tokens(list(order)))["invalid"] == crossing


# -- Delaunay triangulation -----------------------------------------------------------------------


@given(points=planes)
def test_triangles_have_no_point_in_their_circle_and_fill_the_hull(points) -> None:
    answer = answer_of(Delaunay(), points)
    wide = points.astype(float)
    triangles = [answer[i : i + 3] for i in range(0, len(answer), 3)]
    for triangle in triangles:
        a, b, c = wide[triangle]
        for other in set(range(len(points))) - set(triangle):
            inside = np.array(
                [[*(p - wide[other]), ((p - wide[other]) ** 2).sum()] for p in (a, b, c)]
            )
            assert np.linalg.det(inside) <= 1e-9
    hull = wide[answer_of(ConvexHull(), points)]
    area = sum(cross(hull[0], b, c) for b, c in itertools.pairwise(hull))
    assert sum(abs(cross(*wide[t])) for t in triangles) == pytest.approx(area)


@given(points=st.lists(grids | planes, min_size=1, max_size=5))
def test_triangles_of_many_are_the_triangles_of_each(points) -> None:
    points = [several for several in points if not flat(several)]
    task = Delaunay()
    for several, answer in zip(points, task.answers(points), strict=True):
        assert answer.tolist() == task.answer(several).tolist()


@given(points=grids | planes)
def test_triangles_come_as_fans_of_their_leftmost_corners(points) -> None:
    assume(not flat(points))
    answer = answer_of(Delaunay(), points)
    wide = points.astype(float)
    triangles = [answer[i : i + 3] for i in range(0, len(answer), 3)]
    for triangle in triangles:
        a, b, c = wide[triangle]
        assert tuple(a) < min(tuple(b), tuple(c))
        assert cross(a, b, c) > 0
    for (one, _, last), (other, first, _) in itertools.pairwise(triangles):
        if one == other:
            assert first == last
        else:
            assert tuple(wide[one]) < tuple(wide[other])


@given(points=planes, ask=st.data())
def test_triangles_do_not_depend_on_the_order_of_the_points(points, ask) -> None:
    order = np.array(ask.draw(st.permutations(range(len(points)))))
    answer = answer_of(Delaunay(), points[order])
    assert order[answer].tolist() == answer_of(Delaunay(), points)


def test_a_square_has_one_of_its_two_triangulations() -> None:
    answer = answer_of(Delaunay(), SQUARE)
    either = [[0, 1, 2, 0, 2, 3], [0, 1, 3, 3, 1, 2]]
    assert answer in either


@given(seed=seeds, ask=st.data())
def test_triangles_may_be_said_in_any_order(seed, ask) -> None:
    task = Delaunay(5, 9, test_sequences=4, seed=seed)
    mixed = []
    for _, answer in pointed(task.batch("test", 0)):
        triples = [answer[i : i + 3] for i in range(0, len(answer), 3)]
        triples = [ask.draw(st.permutations(triple)) for triple in triples]
        mixed.append(list(itertools.chain(*ask.draw(st.permutations(triples)))))
    perfect = {"exact": 1.0, "coverage": 1.0, "invalid": 0.0}
    assert task.measure("test", [tokens(*mixed)]) == perfect


@pytest.mark.parametrize(
    ("answer", "coverage", "invalid"),
    [
        (tokens([0, 1, 2]), 0.5, 0.0),
        (tokens([0, 1, 3, 0, 1, 2]), 0.5, 0.0),
        (tokens([1, 2, 3, 0, 1, 3]), 0.0, 0.0),
        (tokens([0, 1, 2, 0, 2, 3, 0, 1, 3]), 1.0, 0.0),
        (tokens([0, 1, 2, 0, 2, 3], end=False), 1.0, 1.0),
        (tokens([0, 1, 2, 0, 2]), 0.5, 1.0),
        (tokens([0, 1, 2, 3, 3, 2]), 0.5, 1.0),
        (tokens([0, 1, 2, 3, 4, 2]), 0.5, 1.0),
        (tokens([]), 0.0, 1.0),
        (torch.tensor([[PAD, END + 1, END + 2, END]]), 0.0, 1.0),
    ],
)
def test_wrong_triangles_are_measured(answer, coverage, invalid) -> None:
    # The fourth corner lies outside the circle of the others: 0-2 is the edge between them.
    kite = [[0.0, 0.0], [1.0, 0.0], [0.9, 0.9], [0.0, 1.0]]
    assert sorted(answer_of(Delaunay(), kite)) == [0, 0, 1, 2, 2, 3]
    expected = {"exact": 0.0, "coverage": coverage, "invalid": invalid}
    assert measured(Delaunay(), kite, answer) == expected


# -- travelling salesman --------------------------------------------------------------------------


def length(points, tour) -> float:
    return sum(
        math.dist(points[a], points[b]) for a, b in zip(tour, [*tour[1:], tour[0]], strict=True)
    )


def turns_left(points, tour) -> bool:
    """Whether a polygon is counter-clockwise: its lowest corner is one to the left."""
    low = min(range(len(tour)), key=lambda place: (points[tour[place]][1], points[tour[place]][0]))
    before, corner, after = (np.float64(points[tour[(low + k) % len(tour)]]) for k in (-1, 0, 1))
    (a, b), (c, d) = corner - before, after - corner
    return a * d - b * c > 0


@given(seed=seeds, n=st.integers(3, 7), size=st.integers(1, 40))
def test_tours_are_as_short_as_those_of_brute_force(seed, n, size) -> None:
    rows = np.random.default_rng(seed).random((size, n, 2), np.float32)
    for points, tour in pointed(TravellingSalesman().batch_of(list(rows)))[-2:]:
        assert tour[0] == 0
        assert sorted(tour) == list(range(n))
        assert turns_left(points, tour)
        best = min(length(points, [0, *order]) for order in itertools.permutations(range(1, n)))
        assert length(points, tour) == pytest.approx(best)


def test_long_tours_are_as_short_as_those_of_dynamic_programming(tmp_path, monkeypatch) -> None:
    exact, other = TravellingSalesman(), TravellingSalesman(cache=str(tmp_path))
    rows = list(np.random.default_rng(0).random((40, 10, 2), np.float32))
    best = [tour for _, tour in pointed(exact.batch_of(rows))]
    monkeypatch.setattr("tasks.geometry.EXACT_POINTS", 9)
    for points, tour, ours in zip(rows, other.answers(rows), best, strict=True):
        assert length(points, tour) == pytest.approx(length(points, ours), rel=1e-5)
        assert turns_left(points, tour)


def test_a_tour_on_a_circle_goes_around(tmp_path) -> None:
    order = np.random.default_rng(0).permutation(30)
    circle = np.stack([np.cos(order * np.pi / 15), np.sin(order * np.pi / 15)], 1)
    (tour,) = TravellingSalesman(cache=str(tmp_path)).answers([circle * 1e6])
    assert {(a - b) % 30 for a, b in itertools.pairwise(order[tour])} in ({1}, {29})
    points_that_are_all_one = np.zeros((13, 2), np.float32)
    tour = answer_of(TravellingSalesman(cache=str(tmp_path)), points_that_are_all_one)
    assert sorted(tour) == list(range(13))


def small_pool(folder, **settings) -> TravellingSalesman:
    settings = {"pool_batches": 3, "batch_size": 4, **settings}
    return TravellingSalesman(11, 14, cache=str(folder), **settings)


@pytest.mark.parametrize("batch_points", [None, 30])
def test_training_goes_through_the_pool_in_ever_new_guises(tmp_path, batch_points) -> None:
    task = small_pool(tmp_path, batch_points=batch_points)
    for index in range(3):
        first, later = (pointed(task.batch("train", i)) for i in (index, index + 3))
        for (points, tour), (others, other) in zip(first, later, strict=True):
            assert not np.array_equal(points, others)
            # The same up to the symmetries of the square: so are all distances from its middle.
            ours, theirs = (
                np.sort(((p.astype(float) - 0.5) ** 2).sum(1)) for p in (points, others)
            )
            assert ours == pytest.approx(theirs)
            assert length(points, tour) == pytest.approx(length(others, other), rel=1e-6)
            assert other[0] == 0
            assert turns_left(others, other)
            assert sorted(other) == list(range(len(others)))
            assert ((others >= 0) & (others <= 1)).all()
    different = [task.batch("train", i).source.numpy().tobytes() for i in range(6)]
    assert len(set(different)) == 6


def test_all_guises_come(tmp_path) -> None:
    task = TravellingSalesman(13, 13, cache=str(tmp_path), pool_batches=1, batch_size=1)
    drawn = task.drawn("train", 0)[0].astype(float)
    corner = drawn[np.abs(drawn - 0.5).min(1).argmax()] - 0.5  # a point off all axes
    places = set()
    for index in range(80):
        ((points, _),) = pointed(task.batch("train", index))
        shifted = points.astype(float) - 0.5
        same = np.abs(np.sort(np.abs(shifted), 1) - np.sort(np.abs(corner))).max(1) < 1e-9
        places |= {tuple(np.round(point, 6)) for point in shifted[same]}
    assert len(places) == 8


def test_a_pooled_batch_is_a_pure_function_of_seed_split_and_index(tmp_path) -> None:
    def content(folder: str, seed: int, split: str, index: int) -> bytes:
        batch = small_pool(tmp_path / folder, seed=seed, test_sequences=4).batch(split, index)
        return batch.source.numpy().tobytes() + batch.targets.numpy().tobytes()

    for split in ("train", "val", "test"):
        expected = content("a", 1, split, 7)
        assert content("a", 1, split, 7) == expected  # from the cache
        assert content("b", 1, split, 7) == expected  # anew, and in another order
    assert content("a", 2, "train", 7) != content("a", 1, "train", 7)


def test_tours_of_other_points_are_not_taken_from_the_cache(tmp_path) -> None:
    first, second = np.random.default_rng(0).random((2, 13, 2), np.float32)
    shared, own = (TravellingSalesman(cache=str(tmp_path / name)) for name in ("shared", "own"))
    tour = answer_of(shared, first)
    assert answer_of(shared, second) == answer_of(own, second) != tour


def test_sets_to_validate_and_test_on_come_in_no_guise(tmp_path) -> None:
    task = small_pool(tmp_path, test_sequences=5)
    for split in ("val", "test"):
        for (points, _), drawn in zip(
            pointed(task.batch(split, 4)), task.drawn(split, 4), strict=True
        ):
            assert np.array_equal(points, drawn)


def test_damaged_tours_are_found_anew(tmp_path) -> None:
    task = TravellingSalesman(13, 14, cache=str(tmp_path))
    expected = task.batch("train", 0)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    assert torch.equal(task.batch("train", 0).targets, expected.targets)
    assert path.read_bytes() == content


def test_the_cache_is_where_the_user_keeps_caches(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    TravellingSalesman(13, 13, batch_size=1).batch("train", 0)
    assert len(list((tmp_path / "memnets").iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_named(tmp_path) -> None:
    (tmp_path / "file").touch()
    task = TravellingSalesman(13, 13, cache=str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"cache must be a folder .* got .*file"):
        task.batch("train", 0)


def test_elkai_is_asked_for_where_it_is_needed(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "elkai", None)
    assert TravellingSalesman(max_points=12).batch("train", 0).source.shape[0] == 16
    for settings in ({"max_points": 13}, {"max_points": 12, "test_sets": [(13, 1)]}):
        with pytest.raises(MissingExtra, match=r"12 points .* elkai.*memnets\[geometry\]"):
            TravellingSalesman(**settings)


@given(seed=seeds, ask=st.data())
def test_a_tour_may_be_said_from_any_point_in_any_direction(seed, ask) -> None:
    task = TravellingSalesman(5, 9, test_sequences=4, seed=seed)
    rows = pointed(task.batch("test", 0))
    turned = []
    for _, answer in rows:
        start = ask.draw(st.integers(0, len(answer) - 1))
        turned.append((answer[start:] + answer[:start])[:: ask.draw(st.sampled_from([1, -1]))])
    mean = np.mean([length(points, answer) for points, answer in rows])
    assert task.measure("test", [tokens(*turned)]) == pytest.approx(
        {"exact": 1.0, "tour": mean, "tour_ratio": 1.0, "invalid": 0.0}
    )


def test_a_tour_that_is_too_long_has_its_ratio() -> None:
    scores = measured(TravellingSalesman(), SQUARE, tokens([0, 2, 1, 3]))
    long = 2 + 2 * math.sqrt(2)
    expected = {"exact": 0.0, "tour": long, "tour_ratio": long / 4, "invalid": 0.0}
    assert scores == pytest.approx(expected)


@pytest.mark.parametrize(
    "answer",
    [
        tokens([]),
        tokens([0, 1, 2]),
        tokens([0, 1, 2, 3, 0]),
        tokens([0, 1, 2, 2]),
        tokens([0, 1, 2, 4]),
        tokens([0, 1, 2, 3], end=False),
        torch.tensor([[PAD, *range(END + 1, END + 5), END]]),
    ],
)
def test_what_is_no_tour_is_invalid_and_has_no_length(answer) -> None:
    assert measured(TravellingSalesman(), SQUARE, answer) == {"exact": 0.0, "invalid": 1.0}


def test_scores_are_means_over_the_answers_that_have_them() -> None:
    task = TravellingSalesman(5, 5, test_sequences=4)
    rows = [answer for _, answer in pointed(task.batch("test", 0))]
    scores = task.measure("test", [tokens(*rows[:2]), tokens(rows[2], rows[3][:-1])])
    assert scores == {
        "exact": 0.75,
        "tour": pytest.approx(scores["tour"]),
        "tour_ratio": pytest.approx(1.0),
        "invalid": 0.25,
    }


# -- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [ConvexHull, Delaunay])
@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([*SQUARE, [1.0, 0.0]], r"points that differ; got \[1.0, 0.0\] as point 1 and as point 4"),
        ([[0.0, 0.0], [1.0, 1.0], [3.0, 3.0]], "not lie on one line; all 3 do, or nearly, from"),
        ([[0.0, 0.0], [1.0, 1e-20], [2.0, 0.0], [3.0, 0.0]], "all 4 do, or nearly, from"),
        ([[0.1, 0.0], [0.2, 0.0], [0.7, 0.0]], "not lie on one line; all 3 do, or nearly, from"),
    ],
)
def test_points_without_a_hull_are_named(make, points, message: str) -> None:
    with pytest.raises(ValueError, match="sequence 1: expected .*" + message):
        make().batch_of([SQUARE, points])


@pytest.mark.parametrize("make", [ConvexHull, Delaunay, TravellingSalesman])
def test_fewer_points_than_three_are_named(make) -> None:
    with pytest.raises(ValueError, match="sequence 0: expected at least 3 points; got 2"):
        make().batch_of([[[0.0, 0.0], [1.0, 0.0]]])
    with pytest.raises(ValueError, match=r"expected points \[n, 2\]; got \[3, 1\]"):
        make().batch_of([[[0.0], [1.0], [2.0]]])
    with pytest.raises(ValueError, match=r"are finite; got \[0.0, inf\] as point 2"):
        make().batch_of([[[0.0, 0.0], [1.0, 0.0], [0.0, math.inf]]])


def test_drawings_are_closed_lines_with_a_verdict() -> None:
    hull = ConvexHull()
    batch = hull.batch_of([[*SQUARE, [0.5, 0.25]], SQUARE])
    points, (line,), told = hull.drawing(batch, 0, batch.targets[0])
    assert points.shape == (5, 2)
    assert line.tolist() == [*SQUARE, SQUARE[0]]
    assert told == "right"
    _, (line,), told = hull.drawing(batch, 1, tokens([0, 1, 2])[0])
    assert (len(line), told) == (4, "wrong, area 0.5")
    _, (line,), told = hull.drawing(batch, 1, tokens([0, 9, 1, UNKNOWN - END - 1])[0])
    assert (line.tolist(), told) == ([SQUARE[0], SQUARE[1], SQUARE[0]], "invalid")
    batch = Delaunay().batch_of([[*SQUARE, [0.5, 0.25]]])
    _, lines, told = Delaunay().drawing(batch, 0, tokens([0, 1, 4, 2])[0])
    assert [len(line) for line in lines] == [4, 2]
    assert told == "invalid, coverage 0.25"
    batch = TravellingSalesman().batch_of([SQUARE])
    _, (line,), told = TravellingSalesman().drawing(batch, 0, tokens([])[0])
    assert (line.shape, told) == ((0, 2), "invalid")
    _, (line,), told = TravellingSalesman().drawing(batch, 0, tokens([0, 2, 1, 3])[0])
    assert (line[0].tolist(), line[-1].tolist(), told) == (
        SQUARE[0],
        SQUARE[0],
        "wrong, tour 4.828, tour ratio 1.207",
    )
