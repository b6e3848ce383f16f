"""Curves of a run: time, memory and bytes against what was varied."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from lavakv.bench.record import SettingRecord
from lavakv.report.draw.chart import DASHES, DrawnLine, Frame, Point, Series, line_chart
from lavakv.report.draw.files import sheet_svg, write_drawing
from lavakv.report.draw.layout import Picture, sheet

PANELS = (
    ("decode_seconds", "seconds a token"),
    ("prefill_seconds", "seconds of prefill"),
    ("kv_bytes", "bytes of keys and values"),
    ("prefill_peak_bytes", "prefill peak, bytes"),
)
_LABELS = {"tokens": "prompt tokens", "budget": "budget, tokens per head", "batch_size": "sequences"}
_COLOURS = {"lavakv": 0, "full": 1, "cut": 2, "masked": 3}
_UNCHANGED_BY_BUDGET = ("full",)
_SIZE, _PER_ROW = (460, 320), 2


def plot_curves(records: Sequence[SettingRecord], file: Path) -> None:
    """Draw a panel for each value that was measured, with a line for each configuration and varied setting.

    Args:
        records: of a run's settings.
        file: where to write; its ending, .svg, .png or .pdf, is the format.

    Raises:
        InputError: the file cannot be written.
        DiskError: the disk is full or broken.
    """
    varied = varied_names(records)
    shapes: dict[str, int] = {}
    legend: dict[str, DrawnLine] = {}
    panels = []
    for value, label in PANELS:
        series = [_series(name, points, shapes) for name, points in lines_of(records, value, varied).items()]
        chart = line_chart([line for line in series if line.points], _frame(varied[0]))
        if chart is not None:
            panels.append(Picture(label, *_SIZE, chart))
            legend |= {line.name: line for line in chart.lines}
    rows = [panels[start : start + _PER_ROW] for start in range(0, len(panels), _PER_ROW)]
    title = f"Time and memory by {_LABELS[varied[0]]}"
    write_drawing("--out", file, sheet_svg("charts", title, sheet(rows, list(legend.values()))))


def _frame(across: str) -> Frame:
    return Frame(*_SIZE, x_label=_LABELS[across], log_y=True)


def _series(name: str, points: Sequence[tuple[float, float]], shapes: dict[str, int]) -> Series:
    """Marker and dashes are the same for all configurations of the same budget and batch size."""
    configuration, _, rest = name.partition(", ")
    shape = shapes.setdefault(rest, len(shapes))
    drawn = [Point(x, y, f"{name}, {x:g}: {y:.3g}") for x, y in points if y > 0]  # for the logarithm
    return Series(name, _COLOURS[configuration], shape, drawn, DASHES[shape % len(DASHES)])


def varied_names(records: Sequence[SettingRecord]) -> list[str]:
    """Names of what was varied, prompt length first; prompt length if nothing was."""
    names = ("tokens", "budget", "batch_size")
    return [name for name in names if len({getattr(record.setting, name) for record in records}) > 1] or ["tokens"]


def lines_of(
    records: Sequence[SettingRecord], value: str, varied: Sequence[str]
) -> dict[str, list[tuple[float, float]]]:
    """Points of each line, by x; the full cache, which is measured again with every budget, is averaged."""
    points: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    across, *rest = varied
    for record in sorted(records, key=lambda record: record.setting):
        for configuration, numbers in record.configurations.items():
            measured = getattr(numbers, value)
            if measured is not None:
                names = [n for n in rest if not (n == "budget" and configuration in _UNCHANGED_BY_BUDGET)]
                label = ", ".join([configuration, *(f"{name} {getattr(record.setting, name)}" for name in names)])
                points[label][getattr(record.setting, across)].append(measured)
    return {label: [(x, sum(ys) / len(ys)) for x, ys in sorted(line.items())] for label, line in points.items()}
