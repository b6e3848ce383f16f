"""Drawings: axes, charts, legends, and files in three formats."""

from __future__ import annotations

import itertools
import sys
import types
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lavakv.errors import MissingExtraError, UnsupportedError
from lavakv.report.divergence import MIN_NATS, plot_divergence, points_of
from lavakv.report.draw.chart import Frame, Point, Series, line_chart
from lavakv.report.draw.files import require_drawable, write_drawing
from lavakv.report.draw.layout import MARGIN, Picture, sheet
from lavakv.report.draw.scale import Axis, log_label, log_ticks, ticks

NUMBERS = st.floats(1e-9, 1e12)


@given(first=NUMBERS, second=NUMBERS)
def test_logarithmic_ticks_cover_the_range_and_nothing_more(first: float, second: float) -> None:
    low, high = sorted((first, second))
    marks = log_ticks(low, high)
    assert 2 <= len(marks) <= 8
    assert marks == sorted(set(marks))
    assert marks[0] <= low
    assert high <= marks[-1]
    assert marks[1] > low
    assert marks[-2] < high or len(marks) == 2
    assert all(f"{mark:.6e}"[0] in "125" for mark in marks)


@given(low=st.floats(-1e4, 1e4), span=st.floats(0, 1e4))
def test_linear_ticks_cover_the_range(low: float, span: float) -> None:
    marks = ticks(low, low + span)
    assert marks[0] <= low + 1e-6
    assert low + span <= marks[-1] + 1e-6
    assert len(marks) <= 7


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.02, "0.02"), (500.0, "500"), (1e-6, "10⁻⁶"), (2e8, "2·10⁸"), (1e-3, "0.001"), (1e5, "10⁵")],
)
def test_labels_of_logarithmic_axes(value: float, text: str) -> None:
    assert log_label(value) == text


def test_a_logarithmic_axis_gives_equal_ratios_equal_room() -> None:
    axis = Axis(1.0, 16.0, 0.0, 400.0, log=True)
    assert [axis.place(value) for value in (1.0, 2.0, 4.0, 8.0, 16.0)] == [0.0, 100.0, 200.0, 300.0, 400.0]


def test_values_that_almost_coincide_share_a_tick() -> None:
    points = [Point(x, 1.0, "") for x in (0.25, 0.2501, 0.5)]
    chart = line_chart([Series("a", 0, 0, points)], Frame(400, 200, log_y=True))
    assert chart is not None
    assert [label for _, label in chart.x_ticks] == ["0.25", "0.5"]
    assert len(chart.lines[0].marks) == 3
    assert all(mark.low is None for mark in chart.lines[0].marks)


def test_nothing_to_draw_is_no_chart() -> None:
    assert line_chart([Series("a", 0, 0, [])], Frame(400, 200)) is None


def test_legend_entries_wrap_and_never_overlap() -> None:
    names = [f"policy-with-a-long-name-{index}" for index in range(7)]
    series = [Series(name, index, index, [Point(1.0, 1.0, "")]) for index, name in enumerate(names)]
    chart = line_chart(series, Frame(400, 200, log_y=True))
    assert chart is not None
    page = sheet([[Picture("title", 400, 200, chart)]], chart.lines)
    assert [line.name for _, _, line in page.legend] == names
    for (x, y, line), (next_x, next_y, _) in itertools.pairwise(page.legend):
        assert next_y > y or next_x > x + 28 + 6 * len(line.name)
    assert {x for x, _, _ in page.legend} >= {MARGIN}
    assert max(y for _, y, _ in page.legend) + 14 < page.pictures[0].y


def test_divergences_are_means_over_questions_and_positive() -> None:
    rows = [("a", 0.5, 0.1), ("a", 0.25, 0.4), ("a", 0.5, 0.3), ("b", 0.5, 0.0)]
    records = [{"policy": policy, "kept_fraction": kept, "kl_nats": nats} for policy, kept, nats in rows]
    found = points_of(records)
    assert [(point.x, pytest.approx(point.y)) for point in found["a"]] == [(0.25, 0.4), (0.5, 0.2)]
    assert [point.y for point in found["b"]] == [MIN_NATS]


@pytest.mark.parametrize(
    ("ending", "magic"), [("svg", b"<svg"), ("png", b"\x89PNG"), ("pdf", b"%PDF"), ("PNG", b"\x89")]
)
def test_a_plot_in_each_format(ending: str, magic: bytes, tmp_path: Path) -> None:
    if ending != "svg":
        pytest.importorskip("vl_convert", reason="vl-convert-python is not installed")
    file = tmp_path / f"kl.{ending}"
    records = [{"policy": "lava<&>", "kept_fraction": kept, "kl_nats": 1e-3 / kept} for kept in (0.125, 0.25)]
    plot_divergence(records, file)
    assert file.read_bytes().lstrip().startswith(magic)
    if ending == "svg":
        texts = [element.text for element in ElementTree.parse(file).iter() if element.tag.endswith("}text")]
        assert {"lava<&>", "kept fraction", "KL divergence (nats)", "0.125", "0.25"} <= set(texts)


@pytest.mark.parametrize(("ending", "call"), [("png", "svg_to_png"), ("pdf", "svg_to_pdf")])
def test_other_formats_are_converted_from_the_svg(ending: str, call: str, tmp_path: Path, monkeypatch) -> None:
    converter = types.ModuleType("vl_convert")
    setattr(converter, call, lambda svg, **_: b"converted " + svg.encode())
    monkeypatch.setitem(sys.modules, "vl_convert", converter)
    write_drawing("--plot", tmp_path / f"x.{ending}", "<svg/>")
    assert (tmp_path / f"x.{ending}").read_bytes() == b"converted <svg/>"


def test_formats_that_cannot_be_drawn(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(UnsupportedError, match=r"--plot: expected a \.png"):
        require_drawable("--plot", tmp_path / "x.doc")
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(MissingExtraError, match=r"lavakv\[plot\]"):
        require_drawable("--plot", tmp_path / "x.png")
    require_drawable("--plot", tmp_path / "x.svg")


def test_whiskers_stay_inside_the_axes() -> None:
    points = [Point(0.1, 40.0, "", 31.0, 52.0), Point(0.5, 60.0, "", 55.0, 71.0)]
    chart = line_chart([Series("a", 0, 0, points)], Frame(400, 200), [Point(1.0, 80.0, "full", 75.0, 84.0)])
    assert chart is not None
    inside = [mark.low for mark in chart.lines[0].marks] + [mark.high for mark in chart.lines[0].marks]
    assert all(place is not None and chart.y_ticks[-1][0] <= place <= chart.y_ticks[0][0] for place in inside)
