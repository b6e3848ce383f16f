"""KL divergence against kept fraction, a line a policy."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lavakv.errors import MissingExtraError, UnsupportedError
from lavakv.files import require_writable, write_output

SMALLEST = 1e-6
ENDINGS = ("png", "svg", "pdf")


def require_matplotlib(option: str, *, load: bool = False) -> None:
    """Raise MissingExtraError if matplotlib is missing.

    Args:
        option: the argument that needs it.
        load: import it, which takes a second and also finds an installation that is broken.
    """
    reason = "none" if find_spec("matplotlib") is None else None
    if load and reason is None:
        try:
            import matplotlib.figure  # noqa: F401
        except ImportError as error:
            reason = f"one that cannot be imported ({error})"
    if reason is not None:
        raise MissingExtraError(
            option, expected="matplotlib", got=reason, fix="Install it: pip install 'lavakv[plot]'."
        )


def require_plottable(file: Path) -> None:
    """Find out before the work whether a plot can be drawn there.

    Raises:
        MissingExtraError: matplotlib is not installed.
        UnsupportedError: it does not know the file's ending.
        InputError: the file cannot be written.
        DiskError: the disk is full or broken.
    """
    require_matplotlib("--plot")
    if _ending(file) not in ENDINGS:
        raise UnsupportedError("--plot", expected="a .png, .svg or .pdf file", got=str(file), fix="Rename it.")
    require_writable("--plot", file)


def plot_divergence(records: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw the mean over questions, and write PNG, SVG or PDF by the file's ending; see `require_plottable`.

    Args:
        records: `policy`, `kept_fraction` and `kl_nats` of every comparison.
        file: where to write.

    Raises:
        InputError: the file cannot be written.
        DiskError: the disk is full or broken.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="kept fraction", ylabel="KL divergence from the full cache (nats)")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for policy, points in _lines(records).items():
        axes.plot(*zip(*points, strict=True), marker="o", label=policy)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    picture = io.BytesIO()
    figure.savefig(picture, format=_ending(file))
    write_output("--plot", file, picture.getvalue())


def _ending(file: Path) -> str:
    return file.suffix.removeprefix(".").lower()


def _lines(records: Sequence[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Points of each policy by kept fraction."""
    divergences: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        divergences[record["policy"]][record["kept_fraction"]].append(record["kl_nats"])
    return {
        policy: [(kept, max(sum(values) / len(values), SMALLEST)) for kept, values in sorted(points.items())]
        for policy, points in divergences.items()
    }
