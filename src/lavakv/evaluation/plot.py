"""KL divergence against kept fraction, a line a policy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lavakv.errors import InputError, UnsupportedError

SMALLEST = 1e-6


def plot_divergence(records: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw the mean over questions, and write PNG, SVG or PDF by the file's ending.

    Args:
        records: `policy`, `kept_fraction` and `kl_nats` of every comparison.
        file: where to write.

    Raises:
        UnsupportedError: matplotlib is not installed, or it does not know the ending.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnsupportedError(
            "--plot", expected="matplotlib", got="none", fix="Install it: pip install 'lavakv[plot]'."
        ) from error
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="kept fraction", ylabel="KL divergence from the full cache (nats)")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for policy, points in _lines(records).items():
        axes.plot(*zip(*points, strict=True), marker="o", label=policy)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    try:
        figure.savefig(file)
    except ValueError as error:
        raise UnsupportedError(
            "--plot", expected="a .png, .svg or .pdf file", got=str(file), fix="Rename it."
        ) from error
    except OSError as error:
        raise InputError(
            "--plot", expected="a file that can be written", got=f"{file}: {error.strerror}", fix="Check the path."
        ) from error


def _lines(records: Sequence[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Points of each policy by kept fraction."""
    divergences: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        divergences[record["policy"]][record["kept_fraction"]].append(record["kl_nats"])
    return {
        policy: [(kept, max(sum(values) / len(values), SMALLEST)) for kept, values in sorted(points.items())]
        for policy, points in divergences.items()
    }
