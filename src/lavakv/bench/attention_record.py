"""From seconds of a layer's attention to the numbers that are reported."""

from __future__ import annotations

from typing import Any

from lavakv.bench.candidates import Candidate
from lavakv.bench.clock import median, median_ratio
from lavakv.bench.machine import Machine


def headlines(
    eager: dict[str, list[float]], graph: dict[str, list[float]], nbytes: int, machine: Machine
) -> dict[str, float | None]:
    """Speed against the full and the cut cache, each the faster of its two forms, and achieved bandwidth."""
    found: dict[str, float | None] = {}
    for kind, seconds in (("", graph if "lavakv" in graph else eager), ("_eager", eager)):
        for other in ("full", "cut"):
            forms = [seconds[name] for name in (f"{other}_flash", f"{other}_flash_packed") if name in seconds]
            best = min(forms, key=lambda values: median(values) or 0.0, default=None)
            found[f"speedup_over_{other}{kind}"] = median_ratio(best, seconds["lavakv"]) if best else None
        middle = median(seconds["lavakv"])
        assert middle is not None
        found[f"bandwidth_fraction{kind}"] = nbytes / middle / machine.read_bandwidth
    return found


def about(candidate: Candidate, eager: list[float], graph: list[float] | None, machine: Machine) -> dict[str, Any]:
    """One way, ready for JSON."""
    eager_seconds, graph_seconds = median(eager), median(graph or [])
    rate = candidate.nbytes / (graph_seconds or eager_seconds or 1.0)
    return {
        "eager_seconds": eager_seconds,
        "graph_seconds": graph_seconds,
        "nbytes": candidate.nbytes,
        "bytes_per_second": rate,
        "bandwidth_fraction": rate / machine.read_bandwidth,
    }
