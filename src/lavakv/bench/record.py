"""From measurements to the numbers that are reported."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lavakv.bench.clock import median, median_ratio
from lavakv.bench.floor import Floor, ModelSize
from lavakv.bench.measured import Measured
from lavakv.bench.settings import Setting

HEADLINES = (
    "prefill_ratio",
    "decode_ratio_to_floor",
    "decode_ratio_to_full",
    "decode_ratio_to_masked",
    "nbytes_ratio",
    "nbytes_ratio_after_decode",
    "prefill_peak_saving",
)


def record_of(setting: Setting, size: ModelSize, floor: Floor, found: Measured) -> dict[str, Any]:
    """One setting, ready for JSON; `docs/bench.md` says what each number means."""
    lowest, mean, highest = found.lengths
    return {
        **headlines(setting, size, found),
        **setting._asdict(),
        "physical_floor": asdict(floor),
        "contenders": {name: _contender(name, found) for name in found.decode},
        "masked_by": found.masked_by,
        "entries_per_head": {"min": lowest, "mean": mean, "max": highest},
    }


def headlines(setting: Setting, size: ModelSize, found: Measured) -> dict[str, float | None]:
    """Ratios are medians over rounds of the ratio within a round."""
    prefill, decode, peak = found.prefill, found.decode, found.prefill_peak
    saving = (peak["full"] - peak["lavakv"]) / size.kv_bytes(setting, compressed=False)
    values = (
        median_ratio(prefill["lavakv"], prefill["full"]) if prefill else None,
        *(_decode_ratio(decode, other) for other in ("cut", "full", "masked")),
        *found.nbytes_ratios,
        saving,
    )
    return dict(zip(HEADLINES, values, strict=True))


def _decode_ratio(decode: Mapping[str, Sequence[float]], other: str) -> float | None:
    return median_ratio(decode["lavakv"], decode[other]) if other in decode else None


def _contender(name: str, found: Measured) -> dict[str, Any]:
    prefill, decode = found.prefill.get(name, []), found.decode[name]
    return {
        "prefill_seconds": median(prefill),
        "prefill_spread": spread(prefill),
        "decode_seconds": median(decode),
        "decode_spread": spread(decode),
        "kv_bytes": found.kv_bytes[name],
        "prefill_peak_bytes": found.prefill_peak.get(name),
    }


def spread(seconds: Sequence[float]) -> list[float] | None:
    """Lower and upper quartile; None of fewer than two."""
    if len(seconds) < 2:
        return None
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return [low, high]


def final_line(
    about: Mapping[str, Any], records: Sequence[Mapping[str, Any]], left_out: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """One object for a whole run: the only setting, or the largest one's headlines and all settings."""
    missing = {"left_out": list(left_out)}
    if len(records) == 1:
        return {**records[0], **about, **missing}
    largest = max(records, key=lambda record: [record[name] for name in Setting._fields])
    top = {name: largest[name] for name in (*HEADLINES, *Setting._fields)}
    return {**top, **about, "results": list(records), **missing}
