"""The plot of `lavakv compare --plot`: KL divergence against kept fraction, a line a policy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lavakv.files import require_writable
from lavakv.report.draw.chart import DASHES, Frame, Point, Series, line_chart
from lavakv.report.draw.files import require_drawable, sheet_svg, write_drawing
from lavakv.report.draw.layout import Picture, sheet

MIN_NATS = 1e-6
_TITLE = "Divergence from the full cache, mean over questions"
_FRAME = Frame(
    640, 420, x_label="kept fraction", y_label="KL divergence (nats)", x_text="{:.3g}".format, log_y=True,
)  # fmt: skip
_NUM_COLOURS = 8


def require_plottable(file: Path) -> None:
    """Check before the work that the plot can be drawn and written.

    Raises:
        MissingExtraError: the file's format needs a package that is not installed.
        UnsupportedError: another ending than .png, .svg and .pdf.
        InputError: the file cannot be written.
        DiskError: the disk is full or broken.
    """
    require_writable("--plot", file)
    require_drawable("--plot", file)


def plot_divergence(records: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw the mean over questions; the format is the file's ending, see `require_plottable`.

    Args:
        records: `policy`, `kept_fraction` and `kl_nats` of every comparison.
        file: where to write.

    Raises:
        InputError: the file cannot be written.
        DiskError: the disk is full or broken.
    """
    series = [
        Series(name, index, index, points, DASHES[index // _NUM_COLOURS % len(DASHES)])
        for index, (name, points) in enumerate(points_of(records).items())
    ]
    chart = line_chart(series, _FRAME)
    assert chart is not None
    page = sheet([[Picture(_TITLE, chart.width, chart.height, chart)]], chart.lines)
    write_drawing("--plot", file, sheet_svg("charts", _TITLE, page))


def points_of(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Point]]:
    """Points of each policy, from small kept fractions to large; at least `MIN_NATS` high, for the logarithm."""
    divergences: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        divergences[record["policy"]][record["kept_fraction"]].append(record["kl_nats"])
    return {
        policy: [_point(policy, kept, sum(values) / len(values)) for kept, values in sorted(kepts.items())]
        for policy, kepts in divergences.items()
    }


def _point(policy: str, kept: float, nats: float) -> Point:
    return Point(kept, max(nats, MIN_NATS), f"{policy}, {kept:.3g} kept: {nats:.3g} nats")
