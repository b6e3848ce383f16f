"""A setting's numbers as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_MEANING = {
    "full": "the full cache",
    "cut": "a plain cache of the budget's length",
    "masked": "the full cache under masks per head",
    "lavakv": "lavakv",
}


def report_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """What was measured, a contender a line, then the ratios."""
    for name, values in record["contenders"].items():
        parts = [f"{1e3 * values['decode_seconds']:.3g} ms a token", f"KV {values['kv_bytes'] / 1e6:.1f} MB"]
        if values["prefill_seconds"] is not None:
            parts.insert(0, f"prefill {values['prefill_seconds']:.3g} s")
        if values["prefill_peak_bytes"] is not None:
            parts.append(f"prefill peak +{values['prefill_peak_bytes'] / 1e6:.1f} MB")
        yield f"  {_MEANING[name]}: {', '.join(parts)}"
    for name, words in (
        ("prefill_ratio", "prefill, lavakv over full"),
        ("decode_ratio_to_floor", "a token, lavakv over the cut cache"),
        ("decode_ratio_to_full", "a token, lavakv over the full cache"),
        ("decode_ratio_to_masked", "a token, lavakv over masks"),
        ("nbytes_ratio", "KV bytes over entries times their size, after the prompt"),
        ("nbytes_ratio_after_decode", "the same after all steps"),
        ("prefill_peak_saving", "prefill peak below full's, as a part of the full cache's bytes"),
    ):
        if record[name] is not None:
            yield f"  {words}: {record[name]:.3f}"


def attention_lines(part: Mapping[str, Any]) -> Iterator[str]:
    """The attention of one layer's decode step, a contender a line."""
    yield (
        f"attention of one layer: batch {part['batch_size']}, {part['tokens']} tokens, budget {part['budget']}, "
        f"longest head {part['longest_over_mean']:.2f} times the mean"
    )
    for name, values in part["contenders"].items():
        graph = values["graph_seconds"]
        parts = [f"{1e6 * values['eager_seconds']:.1f} us"]
        if graph is not None:
            parts.append(f"{1e6 * graph:.1f} us in a CUDA graph")
        parts.append(f"{values['bytes_per_second'] / 1e9:.1f} GB/s, {values['bandwidth_fraction']:.0%} of measured")
        yield f"  {name}: {', '.join(parts)}"
    for name, reason in part["left_out"].items():
        yield f"  {name}: left out, {reason}"
