"""Curves of a run: time, memory and bytes against what was varied."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lavakv.bench.settings import Setting

PANELS = (
    ("decode_seconds", "seconds a token"),
    ("prefill_seconds", "seconds of prefill"),
    ("kv_bytes", "bytes of keys and values"),
    ("prefill_peak_bytes", "prefill peak, bytes"),
)
_LABELS = {"tokens": "prompt tokens", "budget": "budget, tokens a head", "batch_size": "sequences"}
_COLOURS = {"full": "C0", "cut": "C2", "masked": "C1", "lavakv": "C3"}
_STYLES = ("o-", "s--", "^:", "v-.")
_UNCHANGED_BY_BUDGET = ("full",)


def plot_curves(records: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw four panels, a line a contender and whatever else was varied; SVG, PNG or PDF by the file's ending."""
    from matplotlib.figure import Figure

    varied = varied_names(records)
    styles: dict[str, str] = {}
    figure = Figure(figsize=(11, 8), layout="constrained")
    for axes, (value, label) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        axes.set_xlabel(_LABELS[varied[0]])
        axes.set_ylabel(label)
        for name, points in lines_of(records, value, varied).items():
            axes.plot(*zip(*points, strict=True), _style(name, styles), color=_COLOURS[name.split(",")[0]], label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sorted({record[varied[0]] for record in records}))
        axes.xaxis.set_major_formatter(lambda place, _: f"{place:g}")
        axes.xaxis.minorticks_off()
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    figure.savefig(file)


def _style(name: str, styles: dict[str, str]) -> str:
    """Marker and dashes: the same for all contenders of the same budget and batch."""
    _, _, rest = name.partition(", ")
    return styles.setdefault(rest, _STYLES[len(styles) % len(_STYLES)])


def varied_names(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was varied, prompt length first; prompt length if nothing was."""
    names = ("tokens", "budget", "batch_size")
    return [name for name in names if len({record[name] for record in records}) > 1] or ["tokens"]


def lines_of(
    records: Sequence[Mapping[str, Any]], value: str, varied: Sequence[str]
) -> dict[str, list[tuple[float, float]]]:
    """Points of each line, by x; the same full cache measured beside several budgets is averaged."""
    points: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    across, *rest = varied
    for record in sorted(records, key=lambda record: [record[name] for name in Setting._fields]):
        for contender, numbers in record["contenders"].items():
            if numbers[value] is not None:
                names = [n for n in rest if not (n == "budget" and contender in _UNCHANGED_BY_BUDGET)]
                label = ", ".join([contender, *(f"{name} {record[name]}" for name in names)])
                points[label][record[across]].append(numbers[value])
    return {label: [(x, sum(ys) / len(ys)) for x, ys in sorted(line.items())] for label, line in points.items()}
