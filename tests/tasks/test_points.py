"""Points of one's own: numbers of any size, and files; answers are those to what was given."""

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import spatial

from memnets.app.cli import main
from memnets.batches import END
from tasks import ConvexHull, Delaunay, PointingTask, SortingNumbers, TravellingSalesman
from tasks.pointing import in_unit_square
from tasks.points import read_points

seeds = st.integers(0, 2**31)
PLANE = [ConvexHull, Delaunay, TravellingSalesman]


def answers(task: PointingTask, *points) -> list[list[int]]:
    targets = task.batch_of(list(points)).targets.tolist()
    return [[token - END - 1 for token in row[: row.index(END)]] for row in targets]


# Great numbers


@given(
    numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=9),
    copies=st.booleans(),
)
def test_numbers_are_sorted_as_they_are_given(numbers: list[float], copies: bool) -> None:
    numbers = numbers * 2 if copies else numbers
    task = SortingNumbers(max_points=20)
    (answer,) = answers(task, [[number] for number in numbers])
    assert answer == sorted(range(len(numbers)), key=lambda i: (numbers[i], i))
    assert task.batch_of([[[number] for number in numbers]]).source.isfinite().all()


@pytest.mark.parametrize(
    "numbers",
    [
        [1700000001.0, 1700000000.0, 1700000002.0],
        [1700000000000000001, 1700000000000000000, 1700000000000000002],  # nanoseconds
        [2**80 + 1, 2**80, 2**80 + 2],
        [1e39, 1.0, 1e40],
        [1.0 + 2**-40, 1.0, 1.0 + 2**-39],
    ],
)
def test_what_a_model_sees_of_great_numbers_tells_them_apart(numbers) -> None:
    task = SortingNumbers()
    batch = task.batch_of([[[number] for number in numbers]])
    assert answers(task, [[number] for number in numbers]) == [[1, 0, 2]]
    seen = batch.source[0, :, 0]
    assert seen.argsort().tolist() == [1, 0, 2]
    assert (seen.min(), seen.max()) == (0, 1)


@pytest.mark.parametrize("make", PLANE)
@given(
    seed=seeds,
    shift=st.tuples(*[st.integers(-(2**23), 2**23)] * 2),
    scale=st.sampled_from([2.0**-30, 2.0**-9, 1.0, 2.0**20, 2.0**900, 2.0**-900]),
)
def test_answers_do_not_change_where_points_are_moved_and_scaled(make, seed, shift, scale) -> None:
    # Numbers such that nothing is rounded when they are moved.
    points = np.random.default_rng(seed).integers(0, 2**20, (9, 2)) * 2.0**-20
    moved = (points + shift) * scale
    task = make()
    assert answers(task, moved) == answers(task, in_unit_square(points + 2.0))
    seen = task.batch_of([moved]).source[0].numpy()
    assert seen.min() == 0 or (moved.min() >= 0 and moved.max() <= 1)
    assert seen.max() <= 1


def test_points_in_the_unit_square_are_seen_as_they_are() -> None:
    points = np.random.default_rng(0).random((9, 2))
    for task in (ConvexHull(), Delaunay(), TravellingSalesman()):
        seen = task.batch_of([points]).source[0]
        assert torch.equal(seen, torch.tensor(points, dtype=torch.float32))


def test_a_hull_is_that_of_what_was_given_far_from_the_origin() -> None:
    for seed in range(20):
        points = np.random.default_rng(seed).random((30, 2)) + np.array([500_000, 4_649_776])
        corners = spatial.ConvexHull(points - points.min(0)).vertices
        assert answers(ConvexHull(max_points=30), points) == [
            np.roll(corners, -corners.argmin()).tolist()
        ]


def test_points_that_differ_in_float64_alone_are_told(caplog) -> None:
    near = [[0.5], [0.5 + 1e-12], [1.0]]
    with caplog.at_level(logging.WARNING):
        SortingNumbers().batch_of([[[0.5], [0.25]], near])
    assert caplog.messages == ["sequence 1: of 3 different points a model sees 2, in float32"]


def test_other_tasks_see_points_as_they_are() -> None:
    class Last(PointingTask):
        def points(self, random, n):
            return random.random((n, 2), np.float32)

        def answer(self, points):
            return [len(points) - 1]

    points = [[1e6, -7.0], [3.0, 4.0], [0.5, 0.25]]
    batch = Last().batch_of([points])
    assert batch.source[0].tolist() == points
    with pytest.raises(ValueError, match="finite in float32; got greater ones"):
        Last().batch_of([[[1e39, 0.0], *points]])


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[1j], [2.0]], "sequence 0: expected real numbers; got complex ones"),
        ([[None], [2.0]], r"are finite; got \[nan\] as point 0"),
        ([[10**400], [1.5]], "sequence 0: expected numbers; got others"),
        ([[float("-inf")]], r"are finite; got \[-inf\] as point 0"),
    ],
)
def test_what_are_no_numbers_is_named(points, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SortingNumbers().batch_of([points])


@given(
    arrays.arrays(
        np.float64,
        st.tuples(st.integers(1, 9), st.integers(1, 3)),
        elements=st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_the_unit_square_holds_all_and_keeps_the_order(points) -> None:
    moved = in_unit_square(points)
    assert ((moved >= 0) & (moved <= 1)).all()
    for axis in range(points.shape[1]):
        order = np.argsort(points[:, axis])
        assert (np.diff(moved[order, axis]) >= 0).all()
    assert np.array_equal(in_unit_square(moved), moved)


# Files


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


TSP = """NAME : seven
COMMENT : a regular polygon, out of order
TYPE : TSP
DIMENSION: 14
EDGE_WEIGHT_TYPE : EUC_2D
NODE_COORD_SECTION
{}
EOF
"""
ORDER = [0, 5, 3, 13, 8, 1, 12, 2, 10, 7, 4, 11, 6, 9]


def polygon() -> np.ndarray:
    angles = 2 * math.pi * np.array(ORDER) / 14
    return np.round(1000 * np.stack([np.cos(angles), np.sin(angles)], 1) + 5000, 3)


def tsplib(points: np.ndarray) -> str:
    return TSP.format("\n".join(f"{i} {x} {y}" for i, (x, y) in enumerate(points, start=1)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,2\n3,4\n5,6\n", [[[1, 2], [3, 4], [5, 6]]]),
        ("x;y\r\n1.5;-2e3\r\n.5;+4.\r\n", [[[1.5, -2000], [0.5, 4]]]),
        ('"lon"\t"lat"\n"1"\t2\n\n\n3\t4\n', [[[1, 2]], [[3, 4]]]),
        ("\ufeff# a note\n 1   2\n3 4\n# more\n5 6", [[[1, 2], [3, 4], [5, 6]]]),
    ],
)
def test_tables_of_points_are_read(tmp_path, text: str, expected) -> None:
    read = read_points(write(tmp_path / "a.csv", text), 2)
    assert [points.tolist() for points in read] == expected


def test_a_file_of_tsplib_is_read(tmp_path) -> None:
    (points,) = read_points(write(tmp_path / "seven.tsp", tsplib(polygon())), 2)
    assert np.array_equal(points, polygon())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "expected points in .*a.csv, one a line; got none"),
        ("a.csv", "x,y\n", "expected points in .*a.csv, one a line; got none"),
        ("a.csv", "1,2\n3\n", r"a\.csv, line 2: expected 2 numbers; got '3'"),
        ("a.csv", "1,2\n3,4,5\n", r"a\.csv, line 2: expected 2 numbers; got '3,4,5'"),
        ("a.csv", "x,y\n1,2\n3,b\n", r"a\.csv, line 3: expected 2 numbers; got '3,b'"),
        ("a.csv", "1,nan\n", r"a\.csv, line 1: expected 2 numbers; got '1,nan'"),
        ("a.csv", "0,0\n1,1\n", r"a\.csv, sequence 1: expected at least 3 points; got 2"),
        ("a.csv", "0,0\n1,0\n0,1e999\n", r"a\.csv, sequence 1: expected numbers that are finite"),
        ("a.csv", "0,0\n1,1\n2,2\n", r"sequence 1: expected points that do not lie on one line"),
        ("a.tsp", TSP.format("1 2 3"), r"a\.tsp: expected 14 points, its DIMENSION; got 1"),
        ("a.tsp", TSP.format("1 2"), r"a\.tsp, line 7: expected 2 numbers; got '1 2'"),
        ("a.tsp", TSP.format(""), "expected points after NODE_COORD_SECTION; got none"),
        (
            "a.tsp",
            TSP.format("1 2 3").replace("EUC_2D", "GEO"),
            "EDGE_WEIGHT_TYPE EUC_2D, .*; got GEO",
        ),
        ("a.tsp", "0,0\n1,1\n2,3\n", r"a\.tsp, line 1: expected a keyword of TSPLIB; got '0,0'"),
    ],
)
def test_files_that_hold_no_points_are_named(tmp_path, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ConvexHull(test_files=[write(tmp_path / name, text)])
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_test_sets_are_named(tmp_path) -> None:
    with pytest.raises(ValueError, match="expected a file at nowhere; there is none"):
        ConvexHull(test_files=["nowhere"])
    path = write(tmp_path / "seven.tsp", tsplib(polygon()))
    with pytest.raises(ValueError, match=r"expected points of 1 numbers; a \.tsp file has 2"):
        SortingNumbers(test_files=[path])
    with pytest.raises(ValueError, match="each test set must be given once; got seven twice"):
        ConvexHull(test_files=[path, path])
    (tmp_path / "a.csv").write_bytes(b"1,2\n\xff,3\n")
    with pytest.raises(ValueError, match=r"a\.csv, line 2: expected UTF-8; got another"):
        ConvexHull(test_files=[str(tmp_path / "a.csv")])


def test_a_tour_of_a_file_is_scored_in_its_own_coordinates(tmp_path) -> None:
    path = write(tmp_path / "seven.tsp", tsplib(polygon()))
    task = TravellingSalesman(max_points=5, test_files=[path], cache=str(tmp_path / "cache"))
    assert task.test_names() == ["test", "seven"]
    assert task.output_size == END + 1 + 14
    batch = task.batch("seven", 0)
    right = np.argsort(ORDER).tolist()
    assert (batch.targets - END - 1).tolist() == [[*right, -1]]
    best = 14 * 2000 * math.sin(math.pi / 14)
    scores = task.measure("seven", [batch.targets])
    assert scores["exact"] == 1
    assert scores["tour"] == pytest.approx(best, rel=1e-5)
    # Another tour, point by point as they come in the file.
    tokens = torch.arange(END + 1, END + 15)[None]
    worse = task.measure("seven", [torch.cat([tokens, torch.tensor([[END]])], 1)])
    points = polygon()
    length = sum(math.dist(points[i], points[i - 1]) for i in range(14))
    assert worse["tour"] == pytest.approx(length)
    assert worse["tour_ratio"] == pytest.approx(length / best, rel=1e-5)


def test_what_was_pointed_at_is_written_in_its_own_coordinates(tmp_path) -> None:
    text = "0,0\n1000.5,0\n1000.5,2e3\n500,100\n\n9,9\n8,9\n8,7\n"
    task = ConvexHull(test_files=[write(tmp_path / "a b.csv", text)])
    assert task.test_names() == ["test", "a_b"]
    answer = torch.tensor([[END + 1, END + 3, END + 90, END], [END + 2, END, 0, 0]])
    first, second = task.texts("a_b", [answer])
    assert first == (
        "0.0,0.0 1000.5,0.0 1000.5,2000.0 500.0,100.0",
        "0.0,0.0 1000.5,0.0 1000.5,2000.0",
        "0.0,0.0 1000.5,2000.0 ?",
    )
    assert second[2] == "8.0,9.0"
    assert task.texts("test", []) == []


@pytest.mark.usefixtures("elsewhere", "blanks")
def test_files_are_tested_and_predicted_from_the_command_line(tmp_path, capsys) -> None:
    config = Path(__file__).parents[2] / "configs" / "convex_hull" / "pointer.yaml"
    short = ["--trainer.max_steps=1", "--data.epoch_batches=1", "--data.validation_batches=1"]
    short += ["--data.test_sets=[]", "--data.test_sequences=2", "--data.max_points=6"]
    main(["fit", "--config", str(config), *short])
    table = write(tmp_path / "yard.csv", "x,y\n100,100\n900,100\n500,800\n500,300\n")
    files = f"--data.test_files=[{write(tmp_path / 'seven.tsp', tsplib(polygon()))}, {table}]"
    checkpoint = str(Path("runs/convex_hull/pointer/version_0/checkpoints/last.ckpt"))
    main(["test", "--ckpt_path", checkpoint, files])
    shown = capsys.readouterr().out
    assert "seven" in shown
    assert "yard" in shown
    main(["predict", "--ckpt_path", checkpoint, files])
    (written,) = Path("runs").rglob("predictions.tsv")
    rows = [line.split("\t") for line in written.read_text().splitlines()]
    assert rows[0] == ["source", "reference", "answer"]
    assert rows[2][:2] == [
        "100.0,100.0 900.0,100.0 500.0,800.0 500.0,300.0",
        "100.0,100.0 900.0,100.0 500.0,800.0",
    ]
