"""The learning curve at the end of a training: a plot on a terminal, a line elsewhere."""

import io
import math
from datetime import datetime, timezone
from types import SimpleNamespace

import pytest
from rich.console import Console

from memnets.app.cli import main
from memnets.records import Record, read_record
from memnets.training.report import Report, learning_curve
from tests.test_cli import RUN, SMALL

CURVE = [(100 * n, 80 * math.exp(-n / 6) + 0.01) for n in range(1, 51)]


class Text(io.StringIO):
    """A stream with an encoding."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:
        return self._encoding


def drawn(curve=CURVE, terminal: bool = True, width: int = 80, encoding: str = "utf-8") -> str:
    console = Console(file=Text(encoding), force_terminal=terminal, width=width)
    return learning_curve(curve, "val/bits", console)


@pytest.mark.parametrize("width", [50, 60, 80, 200])
def test_a_terminal_shows_a_plot_that_fits(width) -> None:
    pytest.importorskip("uniplot", reason="without uniplot there is no plot, but a line")
    lines = drawn(width=width).splitlines()
    assert lines[0].strip() == "val/bits by step"
    assert len(lines) == 14
    assert max(map(len, lines)) <= width
    # Over a wide range, the axis of the scores is logarithmic.
    assert [line.split()[-1] for line in lines if line.rstrip()[-1].isdigit()][:2] == ["10", "1"]
    # A curve that does not move is one too.
    assert len(drawn([(1, 0.5), (2, 0.5)]).splitlines()) == 14
    assert len(drawn([(1, -0.5), (2, 0.5)]).splitlines()) == 14


@pytest.mark.parametrize("given", [{"terminal": False}, {"width": 49}, {"encoding": "latin-1"}])
def test_elsewhere_the_curve_is_a_plain_line(given) -> None:
    line = "val/bits went from 67.73 to 0.02923; lowest 0.02923 at step 5000"
    assert drawn(**given) == line
    found = drawn([(1, 3.0), (2, 1.0), (3, math.nan), (4, 2.0)], **given)
    assert found == "val/bits went from 3 to 2; lowest 1 at step 2"


@pytest.mark.parametrize("curve", [[], [(1, 2.0)], [(1, math.nan), (2, 2.0)]])
def test_a_point_is_no_curve(curve) -> None:
    assert drawn(curve) == ""


@pytest.mark.parametrize("first", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_not_the_best_one(first, tmp_path) -> None:
    report = Report(tmp_path)
    report.curve = [(1, first), (2, 0.5), (3, 0.75)]
    report._record = Record(datetime.now(timezone.utc), 0)
    report._write_record(SimpleNamespace(monitor="bits"))
    assert read_record(tmp_path).best == (2, 0.5)
    report.curve = [(1, first)]
    report._write_record(SimpleNamespace(monitor="bits"))
    assert read_record(tmp_path).best is None


@pytest.mark.usefixtures("elsewhere", "blanks")
def test_the_curve_of_a_run_is_kept_across_a_resume(capsys) -> None:
    main(["fit", *SMALL])
    first = read_record(RUN)
    assert [step for step, _ in first.curve] == [2, 4]
    assert first.seed == 0
    assert first.score == "bits"
    assert first.best == min(first.curve, key=lambda point: point[1])
    main(["fit", "--ckpt_path", str(RUN / "checkpoints/last.ckpt"), "--trainer.max_steps=8"])
    record = read_record(RUN)
    assert [step for step, _ in record.curve] == [2, 4, 6, 8]
    assert record.curve[:2] == first.curve
    assert record.began == first.began
    assert f"val/bits went from {record.curve[0][1]:.4g} to" in capsys.readouterr().out
    assert 'data-best="' in (RUN.parents[2] / "index.html").read_text()


@pytest.mark.parametrize("first", [True, False])
def test_no_process_waits_for_the_counts_of_others_after_a_training(tmp_path, first) -> None:
    report = Report(tmp_path)
    report._trainer = SimpleNamespace()  # of a training, which is over now
    report.on_fit_end(SimpleNamespace(is_global_zero=first, global_step=0), None)
    assert report.state_dict()["sequences"] == 0
