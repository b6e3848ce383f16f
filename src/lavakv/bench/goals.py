"""What the figures on a GPU are held against: `make bench-gpu` prints each goal beside its measurement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Goal(NamedTuple):
    """A figure, its goal and what was measured."""

    name: str
    aim: str
    value: float | None

    def __str__(self) -> str:
        return f"{self.name}: {'not measured' if self.value is None else f'{self.value:.3f}'} (aim: {self.aim})"


def goals(record: Mapping[str, Any]) -> Iterator[Goal]:
    """Goals with their measurements, from what is printed as JSON."""
    alone, skewed = record["attention_parts"]
    yield Goal("a layer's attention, times faster than the full cache", "at least 9", alone.get("speedup_over_full"))
    yield Goal("the same, launched step by step", "at least 9", alone.get("speedup_over_full_eager"))
    yield Goal(
        "plain forwards: a token over one of the plain cut cache", "at most 1.10", record.get("decode_ratio_to_floor")
    )
    yield Goal("bandwidth at the larger batch, of measured", "at least 0.70", skewed.get("bandwidth_fraction"))
    yield Goal("prefill over the full cache's", "at most 1.03", record.get("prefill_ratio"))
    yield Goal("KV bytes over entries times their size", "at most 1.03", record.get("nbytes_ratio"))
    yield Goal("prefill peak saved, of the full cache's bytes", "at least 0.80", record.get("prefill_peak_saving"))
    for generated in record["generate_goals"]:
        yield from generate_goals(generated)
    yield from largest_goals({found["configuration"]: found for found in record["largest_batches"]})


def generate_goals(record: Mapping[str, Any]) -> Iterator[Goal]:
    """Goals of `generate` in one setting."""
    where = f"generate, batch {record.get('batch_size')}, {record.get('tokens')} tokens"
    ratios, decoding = record.get("ratios", {}), record.get("decoding", {})
    graph, compiled = decoding.get("lavakv_graph", {}), decoding.get("lavakv_compiled", {})
    faster = ratios.get("lavakv_graph_to_full")
    yield Goal(
        f"{where}: a token over the cut cache's in a graph", "at most 1.05", ratios.get("lavakv_graph_to_cut_graph")
    )
    yield Goal(f"{where}: times faster than DynamicCache", "at least 2", None if faster is None else 1 / faster)
    yield Goal(f"{where}: compiled, over the floor", "at most 1.6", compiled.get("ratio_to_floor"))
    yield Goal(f"{where}: seconds of capture", "at most 1", graph.get("setup_seconds"))
    beyond = graph.get("bytes_beyond_cache")
    yield Goal(f"{where}: MB beyond the cache", "at most 200", None if beyond is None else beyond / 1e6)


def largest_goals(found: Mapping[str, Mapping[str, Any]]) -> Iterator[Goal]:
    """Goals of the largest batch, by configuration."""
    full, ours = found.get("full_random", {}), found.get("lavakv_graph", {})
    both = bool(full.get("decoding") and ours.get("decoding"))
    batches = ours["batch_size"] / full["batch_size"] if both else None
    rates = ours["decoding"]["tokens_per_second"] / full["decoding"]["tokens_per_second"] if both else None
    yield Goal("largest batch over the full cache's", "at least 10", batches)
    yield Goal("tokens a second there, over the full cache's", "at least 8", rates)
