"""Pictures as they are seen: labels, pixels, colours, formats."""

import math
import re
from itertools import combinations

import matplotlib
import matplotlib.colors
import matplotlib.image
import matplotlib.style
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from memnets.batches import Curves
from memnets.viewing import colours, names, plots
from memnets.viewing.pictures import Pictures
from memnets.viewing.plots import attention, canvas

CVD = ("deuteranomaly", "protanomaly", "tritanomaly")


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """Figures that are saved from now on."""
    found: list[Figure] = []
    save = Figure.savefig

    def saving(figure, *arguments, **named):
        found.append(figure)
        return save(figure, *arguments, **named)

    monkeypatch.setattr(Figure, "savefig", saving)
    return found


def texts_of(figure):
    """All texts that are seen."""
    yield from figure.texts
    if figure._suptitle is not None:
        yield figure._suptitle
    for legend in figure.legends:
        yield from legend.get_texts()
    for panel in figure.axes:
        if not panel.get_visible():
            continue
        yield from (panel.title, panel._left_title, *panel.texts)
        if panel.get_legend():
            yield from panel.get_legend().get_texts()
        for axis in (panel.xaxis, panel.yaxis) if panel.axison else ():
            yield axis.label
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                    yield from (
                        label for label in (tick.label1, tick.label2) if label.get_visible()
                    )


def check_layout(figure) -> None:
    """No text is cut off at the edge of the picture, and none meets another."""
    renderer = figure.canvas.get_renderer()
    boxes = [
        (text.get_text(), text.get_window_extent(renderer).extents)
        for text in dict.fromkeys(texts_of(figure))
        if text.get_text().strip()
    ]
    assert boxes
    width, height = figure.bbox.size
    for text, (left, low, right, top) in boxes:
        inside = left >= -1 and low >= -1 and right <= width + 1 and top <= height + 1
        assert inside, f"{text!r} is cut off: {(left, low, right, top)} of {(width, height)}"
    for (one, a), (other, b) in combinations(boxes, 2):
        apart = a[2] <= b[0] + 2 or b[2] <= a[0] + 2 or a[3] <= b[1] + 2 or b[3] <= a[1] + 2
        assert apart, f"{one!r} and {other!r} meet"


def words(count: int) -> list[str]:
    return [("Donaudampfschiff", "a", "dog")[place % 3] for place in range(count)]


def line(steps: int, slots: int) -> torch.Tensor:
    """A head that takes one slot after the other."""
    return torch.eye(slots).repeat(steps // slots + 1, 1)[:steps]


RANDOM = np.random.default_rng(0)
IMAGES = torch.rand(7, 4, 4)
BOARD = [
    plots.Board("copying, test, length 120", "wrong bits (bits per sequence)", False, {
        "ntm": ([0.0, 0.0, 0.001], 0.0), "attention_pointer": ([3.0, 500.0], None),
        "read_process_write": ([1.0], 461.0), "lstm": ([400.0, 410.0], None),
    }),
    plots.Board("sorting, validation", "answers without a mistake (share)", True, {
        "lstm": ([0.5], None), "ntm": ([0.9, 1.0], None),
    }),
]  # fmt: skip
GRID = plots.Grid(
    [("parity", 0.5), ("a task with a long name", 0.0)],
    ["LSTM", "Tape that moves", "NTM"],
    [
        [plots.GridCell([1.0, 0.9], 1.0, False), plots.GridCell([0.5], 0.2), plots.GridCell([])],
        [plots.GridCell([]), plots.GridCell([], 0.4, left_out=True), plots.GridCell([0.99996, 1])],
    ],
    "right symbols at lengths of 41 to 500",
)
LENGTHS = {
    name: plots.Line(name, {10: [0.9, 1.0], 40: [0.5, 0.7]}) for name in ("lstm", "ntm", "tape")
}
TITLE = "test set length 20, sequence 1: a title that is longer than a small picture is wide"
#: Trials of a sweep, of all kinds; the third is the best, and the last two have no score.
COURSE = plots.Course(
    {0: 30.0, 1: 4000.0, 2: 0.4, 5: 7.0, 30: math.inf}, {3: 90.0}, [31],
    "cross-entropy, validation\n(bits per sequence)", False,
)  # fmt: skip
LONG = "model.encoder.some_part_of_it.another_part.hidden_size"
SETTINGS = {
    "model.optimizer.lr": plots.Setting(
        "model.optimizer.lr", {0: 0.001, 1: 0.1, 2: 0.0003, 5: 0.02, 30: 9.0}, True
    ),
    LONG: plots.Setting(LONG, {0: 16, 2: 30, 5: 127}, True),
    "model.controller": plots.Setting(
        "model.controller", {0: "memnets.cells.LSTM", 2: "memnets.cells.GRU"},
        choices=["memnets.cells.LSTM", "memnets.cells.GRU"],
    ),
    "data.test_sets": plots.Setting(
        "data.test_sets", {1: "[[3, 4]]", 5: "null"},
        choices=["[[3, 4]]", "null", "[[5, 4], [6, 2]]"],
    ),
}  # fmt: skip

KINDS = {
    "answer": lambda path: plots.answer(torch.zeros(3, 5), torch.rand(3, 5), path, TITLE),
    "weights, small": lambda path: plots.weights(
        {"body.access.addressing: read 1": line(5, 8), "write 1": line(5, 8)}, path, TITLE, split=2
    ),
    "weights and vectors": lambda path: plots.weights(
        {"read 1": line(30, 300)}, path, TITLE, split=15,
        vectors={"input": torch.rand(30, 9), "written": torch.full((30, 4), torch.nan)},
    ),
    "alignment, 3 words": lambda path: plots.alignment(
        torch.rand(3, 3), words(3), words(3), path, TITLE
    ),
    "alignment, panels": lambda path: plots.alignment(
        {f"layer {n}": torch.rand(5, 14) / 4 for n in range(3)}, words(14), words(5), path, TITLE
    ),
    "shaded, 3 words": lambda path: plots.shaded(
        {"layer 1": torch.rand(2, 3), "layer 2": torch.rand(2, 3)}, words(3), path, TITLE
    ),
    "overlay": lambda path: plots.overlay(
        torch.rand(6, 8, 3), {"soft": torch.rand(5, 3, 4)}, words(5), path, TITLE
    ),
    "readings": lambda path: plots.readings(
        [plots.Reading(words(7), torch.rand(7, 3), ["bad", "fine", "good"], "bad", "fine")],
        path, TITLE,
    ),
    "drawing": lambda path: plots.drawing(
        [plots.Drawing(RANDOM.random((5, 2)), [np.eye(2)], [np.eye(2)], "wrong: covers 98 %")],
        path, TITLE,
    ),
    "curves": lambda path: plots.curves(
        [Curves({f"seed {n}/ngrams": RANDOM.random((9, 2)) for n in range(8)}, "n", "pulls", "up")],
        path, TITLE,
    ),
    "episode": lambda path: plots.episode(
        {"attention 1": torch.rand(2, 6), "attention 2": torch.rand(2, 5)}, IMAGES[:5], IMAGES[5:],
        ["cat", "dog", "horse", "1", "2"], [("1", "2"), ("cat", "cat")], path, TITLE,
    ),
    "gallery": lambda path: plots.gallery(
        {"drawn by the model": IMAGES[..., None], "test set": IMAGES[..., None]}, path, TITLE
    ),
    "scoreboard": lambda path: plots.scoreboard(BOARD, path, TITLE),
    "grid": lambda path: plots.grid(GRID, path, TITLE),
    "lengths": lambda path: plots.lengths(LENGTHS, path, "right answers", 20, TITLE, 0.5),
    "history": lambda path: plots.history(COURSE, path, TITLE),
    "importance": lambda path: plots.importance({name: 0.25 for name in SETTINGS}, path, TITLE),
    "slices": lambda path: plots.slices(COURSE, list(SETTINGS.values()), path, TITLE),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_is_cut_off_or_meets_another(kind, tmp_path, figures) -> None:
    torch.manual_seed(0)
    KINDS[kind](tmp_path / "picture.png")
    check_layout(figures[0])


def test_the_check_of_the_layout_finds_what_is_wrong() -> None:
    for places, message in (((0.5, 0.52), "meet"), ((0.1, 0.99), "cut off")):
        figure = canvas.figure_of(3, 2)
        for place in places:
            figure.text(place, 0.5, "a long word")
        with pytest.raises(AssertionError, match=message):
            check_layout(figure)


def test_a_line_of_one_slot_of_128_is_seen_at_each_of_500_steps(tmp_path) -> None:
    path = plots.weights({"read 1": line(500, 128)}, tmp_path / "weights.png")
    lightest = np.array(matplotlib.colormaps[canvas.WEIGHTS](1.0))[:3]
    seen = np.abs(matplotlib.image.imread(path)[..., :3] - lightest).max(-1) < 0.02
    panel = seen[:, : int(0.9 * seen.shape[1])]  # without the bar of colours
    across, up = np.flatnonzero(panel.any(0)), np.flatnonzero(panel.any(1))
    # A pixel for each step and slot at the least, without a gap.
    assert len(across) >= 2 * 500
    assert len(up) >= 2 * 128
    frame = panel[up[0] : up[-1] + 1, across[0] : across[-1] + 1]
    assert frame.any(1).all()
    # Where a tick or a frame covers the line there may be a gap of two pixels.
    assert np.diff(across).max() <= 4
    assert np.median(panel.sum(0)[across]) >= 2


def test_of_a_long_sentence_the_first_lines_are_drawn(tmp_path, figures, monkeypatch) -> None:
    monkeypatch.setattr(attention, "_MOST_LINES", 2)
    plots.shaded(torch.rand(3, 3), ["one", "two", "three"], tmp_path / "words.png", "a title")
    said = [text.get_text() for text in texts_of(figures[0])]
    assert "a title\nthe first 2 of 3 words" in said
    assert [said.count(word) for word in ("one", "two", "three")] == [2, 1, 0]


def test_of_labels_and_titles_that_are_far_too_long_the_beginning_is_drawn(tmp_path, figures):
    long = "word " * 20_000
    plots.alignment(torch.rand(2, 2), ["a", long], ["b", long], tmp_path / "words.png", long)
    said = [str(text) for text in (label.get_text() for label in texts_of(figures[0]))]
    said += [
        label.get_text()
        for axis in (figures[0].axes[0].xaxis, figures[0].axes[0].yaxis)
        for label in axis.get_ticklabels()
    ]
    assert {len(each) for each in said if each.startswith("word")} == {100, 500}
    assert max(figures[0].get_size_inches()) < 20


def test_small_weights_are_seen(tmp_path, figures) -> None:
    assert canvas.scale_of([torch.tensor([0.1]), torch.tensor([0.6])]) == 1
    assert canvas.scale_of([torch.tensor([0.1]), torch.tensor([0.2])]) == pytest.approx(0.2)
    assert canvas.scale_of([torch.zeros(3)]) == canvas.scale_of([torch.zeros(0)]) == 1
    plots.alignment(torch.full((2, 3), 0.125), ["a"] * 3, ["b"] * 2, tmp_path / "even.png")
    (shown,) = figures[0].axes[0].images
    assert shown.get_clim() == (0, 0.125)


def test_the_board_has_one_colour_and_one_mark_a_model(tmp_path, figures) -> None:
    plots.scoreboard(BOARD, tmp_path / "board.png")
    looks: dict[str, set[tuple[str, str]]] = {}
    for panel in figures[0].axes:
        for points in panel.lines:
            if points.get_gid():
                look = points.get_color(), points.get_marker()
                looks.setdefault(points.get_gid(), set()).add(look)
    assert looks == {
        model: {tuple(colours.look_of(model))} for board in BOARD for model in board.models
    }
    assert len(set.union(*looks.values())) == len(looks)
    assert "log scale" in figures[0].axes[0].get_ylabel().replace("\n", " ")
    assert figures[0].axes[1].get_title().endswith("\u2191 higher is better")


def test_the_course_of_a_sweep_shows_the_best_so_far_and_what_has_no_score(
    tmp_path, figures
) -> None:
    plots.history(COURSE, tmp_path / "history.png")
    (panel,) = figures[0].axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in panel.lines}
    assert drawn["best so far"] == [[0, 30], [1, 30], [2, 0.4], [5, 0.4], [31, 0.4]]
    assert drawn["ran to its end"] == [[0, 30], [1, 4000], [2, 0.4], [5, 7]]
    assert drawn["pruned: its last"] == [[3, 90]]
    assert [x for x, _ in drawn["no score: failed or diverged"]] == [30, 31]
    assert "log scale" in panel.get_ylabel()
    assert panel.get_title() == "\u2193 lower is better"
    risen = COURSE._replace(higher_is_better=True)
    assert (COURSE.best, risen.best) == (2, 1)
    plots.history(risen, tmp_path / "history.png")
    assert figures[1].axes[0].lines[0].get_ydata().tolist() == [30, 4000, 4000, 4000, 4000]
    # Also when there is nothing but failures.
    plots.history(plots.Course({}, {}, [0, 1], "x", False), tmp_path / "history.png")
    with pytest.raises(ValueError, match="expected trials to draw; got none"):
        plots.history(plots.Course({}, {}, [], "x", False), tmp_path / "history.png")


def test_slices_mark_the_best_and_name_classes_in_short(tmp_path, figures) -> None:
    plots.slices(COURSE, list(SETTINGS.values()), tmp_path / "slices.png")
    rates, sizes, cells, sets = figures[0].axes[:4]
    assert rates.get_xscale() == sizes.get_xscale() == "log"
    assert rates.collections[0].get_offsets().tolist() == [
        [0.001, 30], [0.1, 4000], [0.0003, 0.4], [0.02, 7],
    ]  # fmt: skip
    assert [line.get_xydata().tolist() for line in rates.lines] == [[[0.0003, 0.4]]]
    assert [label.get_text() for label in cells.get_xticklabels()] == ["LSTM", "GRU"]
    assert not sets.lines  # the best has no such setting
    for settings, course in (([], COURSE), ([SETTINGS[LONG]], COURSE._replace(finished={}))):
        with pytest.raises(ValueError, match="expected settings and finished trials to draw"):
            plots.slices(course, settings, tmp_path / "slices.png")
    with pytest.raises(ValueError, match="expected the importance of settings to draw"):
        plots.importance({}, tmp_path / "importance.png")


def test_looks_of_models_differ_and_depend_on_the_name_alone() -> None:
    known = colours._KNOWN
    assert len({colours.look_of(model) for model in known}) == len(known) <= 36
    assert len({colours.look_of(model).colour for model in known[:6]}) == 6
    assert colours.look_of("my_model") == colours.look_of("my_model")
    assert len({colours.look_of(f"my_model_{n}") for n in range(60)}) > 20


def test_the_style_is_one_file_for_all() -> None:
    before = dict(matplotlib.rcParams)
    with matplotlib.style.context("memnets.viewing.style"):
        assert {name: matplotlib.rcParams[name] for name in plots.style()} == plots.style()
        cycle = matplotlib.rcParams["axes.prop_cycle"].by_key()
    assert cycle["color"] == list(colours.PALETTE)
    assert len(set(map(str, cycle["linestyle"]))) == len(colours.PALETTE)
    assert dict(matplotlib.rcParams) == before


def test_colours_are_told_apart_by_all_eyes() -> None:
    space = pytest.importorskip("colorspacious")
    palette = np.array([matplotlib.colors.to_rgb(colour) for colour in colours.PALETTE])
    for kind in (None, *CVD):
        seen = palette
        if kind:
            simulated = {"name": "sRGB1+CVD", "cvd_type": kind, "severity": 100}
            seen = space.cspace_convert(palette, simulated, "sRGB1").clip(0, 1)
        for one, other in combinations(seen, 2):
            # A difference of 1 is just seen.
            assert space.deltaE(one, other, input_space="sRGB1") > 10, kind


@pytest.mark.parametrize("name", [canvas.WEIGHTS, "viridis", canvas.SHADED])
def test_equal_steps_of_a_scale_look_equal(name) -> None:
    space = pytest.importorskip("colorspacious")
    shades = matplotlib.colormaps.get_cmap(name)(np.linspace(0, 1, 32))[:, :3]
    steps = space.deltaE(shades[:-1], shades[1:], input_space="sRGB1")
    assert steps.std() < 0.1 * steps.mean()


def test_vectors_keep_their_text_and_stay_small(tmp_path) -> None:
    source = ["日本語", "हिन्दी", "שלום", "<a>", "dog"]
    path = tmp_path / "1.svg"
    plots.alignment(torch.rand(1, 5).round(), source, ["$x$"], path, "a title")
    said = re.sub("<[^>]+>", "", path.read_text())
    for word in (*source[:3], "&lt;a&gt;", "dog", "$x$", "a title", "weight"):
        assert word in said
    path = plots.weights({"read 1": torch.rand(500, 128)}, tmp_path / "3.svg")
    assert path.stat().st_size < 400_000
    path = plots.weights({"read 1": line(3, 3)}, tmp_path / "3.pdf")
    assert path.read_bytes().startswith(b"%PDF")
    one, other = (
        plots.weights({"read 1": line(9, 3)}, tmp_path / f"{n}.svg").read_bytes() for n in "45"
    )
    assert one == other


def test_formats_that_are_none_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"ends in one of .*\.png.*; got 'picture.bmp'"):
        plots.weights({"read 1": line(3, 3)}, tmp_path / "picture.bmp")
    with pytest.raises(ValueError, match="must be one of png, svg, pdf; got 'gif'"):
        Pictures(tmp_path, format="gif")
    assert not list(tmp_path.iterdir())


def test_words_are_in_the_order_in_which_they_are_read(monkeypatch) -> None:
    hebrew = "שלום"
    assert canvas.Words([hebrew], "x.svg")(hebrew) == hebrew
    monkeypatch.setattr(canvas, "_SHAPES_TEXT", True)
    assert canvas.Words([hebrew], "x.png")(hebrew) == hebrew
    pytest.importorskip("bidi")
    pytest.importorskip("arabic_reshaper")
    monkeypatch.setattr(canvas, "_SHAPES_TEXT", False)
    assert canvas.Words([hebrew], "x.png")(hebrew) == hebrew[::-1]
    assert canvas.Words(["a dog"], "x.png")("a dog") == "a dog"


def test_lines_are_broken_where_they_are_too_long() -> None:
    drawn = canvas.Words(["a long title"], "x.png")
    assert drawn.lines("a long title", 10, 11) == "a long title"
    assert drawn.lines("a long title", 0.1, 11) == "a\nlong\ntitle"
    assert drawn.lines("one\ntwo", 10, 11) == "one\ntwo"


def test_scores_in_words() -> None:
    assert names.in_words("test/length_120/wrong_bits") == (
        "wrong bits", "bits per sequence", "test, length 120"
    )  # fmt: skip
    assert names.in_words("val/exact_beam")[0] == "answers without a mistake, beam search"
    assert names.in_words("test/my_own") == ("my own", "", "test")
    assert names.higher_is_better("test/exact") is True
    assert names.higher_is_better("val/bits") is False
    assert names.higher_is_better("test/my_own") is None
