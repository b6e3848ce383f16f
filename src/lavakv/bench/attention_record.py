"""The record of one layer's attention: typed, as JSON, and as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lavakv.bench.clock import median, median_ratio
from lavakv.bench.machine import Machine
from lavakv.bench.settings import Setting


@dataclass(frozen=True, slots=True)
class ImplementationRecord:
    """One implementation.

    Attributes:
        eager_seconds: median of a call from Python.
        graph_seconds: median of a call in a CUDA graph; None without one.
        nbytes: keys and values that a call reads.
        bytes_per_second: of the faster of the two.
        bandwidth_fraction: the same over the machine's measured bandwidth.
    """

    eager_seconds: float
    graph_seconds: float | None
    nbytes: int
    bytes_per_second: float
    bandwidth_fraction: float

    @classmethod
    def of(cls, nbytes: int, eager: Sequence[float], graph: Sequence[float], machine: Machine) -> ImplementationRecord:
        """Summarise the seconds of all rounds; at least one eager round."""
        eager_seconds, graph_seconds = median(eager), median(graph)
        assert eager_seconds is not None
        rate = nbytes / (graph_seconds or eager_seconds or 1.0)
        return cls(eager_seconds, graph_seconds, nbytes, rate, rate / machine.read_bandwidth)


@dataclass(frozen=True, slots=True)
class AttentionHeadlines:
    """lavakv's speed over the full and the cut cache, each the faster of its two forms, and its share of the bandwidth.

    In CUDA graphs where there are any, and called from Python (`eager`).
    """

    speedup_over_full: float | None
    speedup_over_cut: float | None
    bandwidth_fraction: float
    speedup_over_full_eager: float | None
    speedup_over_cut_eager: float | None
    bandwidth_fraction_eager: float

    @classmethod
    def of(
        cls, eager: Mapping[str, Sequence[float]], graph: Mapping[str, Sequence[float]], nbytes: int, machine: Machine
    ) -> AttentionHeadlines:
        """Compute them from the seconds of all rounds.

        Args:
            eager: by implementation.
            graph: by implementation, those that a CUDA graph holds.
            nbytes: keys and values that lavakv reads.
            machine: gives the bandwidth.
        """
        fastest = graph if "lavakv" in graph else eager
        bandwidth = machine.read_bandwidth
        return cls(
            _speedup(fastest, "full"), _speedup(fastest, "cut"), nbytes / _middle(fastest["lavakv"]) / bandwidth,
            _speedup(eager, "full"), _speedup(eager, "cut"), nbytes / _middle(eager["lavakv"]) / bandwidth,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class AttentionRecord:
    """One layer's attention in one setting.

    Attributes:
        setting: prompt, batch and budget.
        longest_over_mean: entries of the longest head over the mean.
        headlines: the main figures.
        implementations: by name.
        errors: largest difference from float32, of implementations on the same entries; None if it is not finite.
        left_out: implementations that do not run here, and why.
        without_graph: implementations that a CUDA graph cannot hold, and why.
    """

    setting: Setting
    longest_over_mean: float
    headlines: AttentionHeadlines
    implementations: dict[str, ImplementationRecord]
    errors: dict[str, float | None]
    left_out: dict[str, str]
    without_graph: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; `docs/bench.md` describes the fields."""
        return {
            **self.setting._asdict(),
            "longest_over_mean": self.longest_over_mean,
            **asdict(self.headlines),
            "contenders": {name: asdict(own) for name, own in self.implementations.items()},
            "errors": self.errors,
            "left_out": self.left_out,
            "without_graph": self.without_graph,
        }

    def lines(self) -> Iterator[str]:
        """The record as text, an implementation a line."""
        yield (
            f"attention of one layer: batch {self.setting.batch_size}, {self.setting.tokens} tokens, "
            f"budget {self.setting.budget}, longest head {self.longest_over_mean:.2f} times the mean"
        )
        for name, own in self.implementations.items():
            figures = [f"{1e6 * own.eager_seconds:.1f} us"]
            if own.graph_seconds is not None:
                figures.append(f"{1e6 * own.graph_seconds:.1f} us in a CUDA graph")
            figures.append(f"{own.bytes_per_second / 1e9:.1f} GB/s, {own.bandwidth_fraction:.0%} of measured")
            yield f"  {name}: {', '.join(figures)}"
        for name, reason in self.left_out.items():
            yield f"  {name}: left out, {reason}"


def _speedup(seconds: Mapping[str, Sequence[float]], cache: str) -> float | None:
    forms = [seconds[name] for name in (f"{cache}_flash", f"{cache}_flash_packed") if name in seconds]
    return median_ratio(min(forms, key=_middle), seconds["lavakv"]) if forms else None


def _middle(seconds: Sequence[float]) -> float:
    return median(seconds) or 0.0
