"""Memory and speed, as the run measured them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median
from typing import NamedTuple

from lavakv.evaluation.record import Record
from lavakv.report.analysis import Analysis
from lavakv.report.configuration import Configuration


class Cost(NamedTuple):
    """Memory and time of one configuration.

    Attributes:
        configuration: measured.
        kept: mean kept fraction.
        kv_bytes: median bytes of keys and values that were allocated.
        share: mean of these bytes over the full cache's.
        step_seconds: mean of a decode step of its batches, which makes a token in every row, without first tokens; None
            if unknown.
        batch_rows: median number of rows decoded together; None if unknown.
        fill_seconds: median of its share in scoring entries and selecting; None for the full cache.
        overhead: (filling + decoding + scoring the answer) over decoding alone; None if unknown.
        prompts: number of records.
    """

    configuration: Configuration
    kept: float
    kv_bytes: int
    share: float
    step_seconds: float | None
    batch_rows: int | None
    fill_seconds: float | None
    overhead: float | None
    prompts: int


class Costs(NamedTuple):
    """All configurations' costs.

    Attributes:
        rows: the full cache first.
        prompt_tokens: median length of the prompts.
        prefill_seconds: median of reading a prompt, once for all configurations; None if unknown.
        device: of the run.
        dtype: of the run.
    """

    rows: list[Cost]
    prompt_tokens: int
    prefill_seconds: float | None
    device: str
    dtype: str


def costs(analysis: Analysis) -> Costs:
    """Memory and speed of every configuration."""
    by_configuration: dict[Configuration, list[Record]] = {}
    for record in analysis.run.records:
        by_configuration.setdefault(Configuration.of(record), []).append(record)
    kept = analysis.configurations.kept
    rows = [_cost(one, by_configuration[one], kept[one]) for one in analysis.configurations.all]
    records, about = analysis.run.records, analysis.run.about
    tokens = int(median(record["prompt_tokens"] for record in records))
    prefill = _times(records, "prefill")
    return Costs(
        rows,
        tokens,
        median(prefill) if prefill else None,
        str(about.get("device", "unknown")),
        str(about.get("dtype", "unknown")),
    )


def _cost(configuration: Configuration, records: Sequence[Record], kept: float) -> Cost:
    decode, fill = sum(_times(records, "decode")), _times(records, "fill")
    added = sum(fill) + sum(_times(records, "score"))
    batches = [_batch(record) for record in records]
    shares = [record["kv_bytes"] / record["full_kv_bytes"] for record in records if record["full_kv_bytes"] > 0]
    filled = bool(fill) and not configuration.is_full
    return Cost(
        configuration,
        kept,
        int(median(record["kv_bytes"] for record in records)),
        fmean(shares) if shares else float("nan"),
        _step_seconds(records, batches),
        None if None in batches else int(median(batch.rows for batch in batches if batch is not None)),
        median(fill) if filled else None,
        (added + decode) / decode if filled and decode > 0 else None,
        len(records),
    )


class _Batch(NamedTuple):
    """Size of the batch that a record was decoded in."""

    rows: int
    steps: int


def _batch(record: Record) -> _Batch | None:
    """The batch of a record; None if unknown. In older records only the full cache's is known: one row."""
    if "batch_rows" in record and "batch_steps" in record:
        return _Batch(record["batch_rows"], record["batch_steps"])
    return _Batch(1, record["new_tokens"]) if Configuration.of(record).is_full else None


def _step_seconds(records: Sequence[Record], batches: Sequence[_Batch | None]) -> float | None:
    """Seconds of the batches over their steps; each record holds an even share of its batch's seconds."""
    pairs = [(batch, record["seconds"].get("decode")) for batch, record in zip(batches, records, strict=True)]
    known = [(batch, decode) for batch, decode in pairs if batch is not None and isinstance(decode, int | float)]
    steps = sum(max(batch.steps - 1, 0) for batch, _ in known)
    seconds = sum(decode * batch.rows for batch, decode in known)
    return seconds / steps if steps and seconds > 0 and len(known) == len(records) else None


def _times(records: Sequence[Record], phase: str) -> list[float]:
    """The recorded seconds of one phase."""
    found = [record["seconds"].get(phase) for record in records]
    return [float(value) for value in found if isinstance(value, int | float)]
