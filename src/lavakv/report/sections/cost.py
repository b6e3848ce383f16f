"""Memory and speed, as the run measured them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any, NamedTuple

from lavakv.report.analysis import Analysis
from lavakv.report.contender import Contender


class Cost(NamedTuple):
    """What one contender took.

    Attributes:
        contender: whose.
        kept: mean kept fraction.
        kv_bytes: median bytes of keys and values that were allocated.
        share: mean of these bytes over the full cache's.
        step_seconds: of a step of its batches, which makes a token in every row, all prompts together, first tokens
            left out; None where it cannot be told.
        batch_rows: median of the rows that were decoded together; None where it was not noted.
        fill_seconds: median of its share in scoring entries and selecting; None for the full cache.
        overhead: (filling + decoding + scoring the answer) over decoding alone; None where it cannot be told.
        prompts: records behind it.
    """

    contender: Contender
    kept: float
    kv_bytes: int
    share: float
    step_seconds: float | None
    batch_rows: int | None
    fill_seconds: float | None
    overhead: float | None
    prompts: int


class Costs(NamedTuple):
    """All contenders' costs.

    Attributes:
        rows: the full cache first.
        prompt_tokens: median length of the prompts.
        prefill_seconds: median of reading a prompt, once for all contenders; None where it was not noted.
        device: of the run.
        dtype: of the run.
    """

    rows: list[Cost]
    prompt_tokens: int
    prefill_seconds: float | None
    device: str
    dtype: str


def costs(analysis: Analysis) -> Costs:
    """Memory and speed of every contender."""
    own: dict[Contender, list[Mapping[str, Any]]] = {}
    for record in analysis.run.records:
        own.setdefault(Contender.of(record), []).append(record)
    rows = [_cost(contender, own[contender], analysis.field.kept[contender]) for contender in analysis.field.contenders]
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


def _cost(contender: Contender, records: Sequence[Mapping[str, Any]], kept: float) -> Cost:
    decode, fill = sum(_times(records, "decode")), _times(records, "fill")
    added = sum(fill) + sum(_times(records, "score"))
    batches = [_batch(record) for record in records]
    shares = [record["kv_bytes"] / record["full_kv_bytes"] for record in records if record["full_kv_bytes"] > 0]
    filled = bool(fill) and not contender.is_full
    return Cost(
        contender,
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
    """What a record was decoded with."""

    rows: int
    steps: int


def _batch(record: Mapping[str, Any]) -> _Batch | None:
    """The batch of a record; the full cache stands alone, and older records do not tell of others."""
    if "batch_rows" in record:
        return _Batch(record["batch_rows"], record["batch_steps"])
    return _Batch(1, record["new_tokens"]) if Contender.of(record).is_full else None


def _step_seconds(records: Sequence[Mapping[str, Any]], batches: Sequence[_Batch | None]) -> float | None:
    """Seconds of the batches over their steps; each record bears an even share of its batch's seconds."""
    pairs = [(batch, record["seconds"].get("decode")) for batch, record in zip(batches, records, strict=True)]
    known = [(batch, decode) for batch, decode in pairs if batch is not None and isinstance(decode, int | float)]
    steps = sum(max(batch.steps - 1, 0) for batch, _ in known)
    seconds = sum(decode * batch.rows for batch, decode in known)
    return seconds / steps if steps and seconds > 0 and len(known) == len(records) else None


def _times(records: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """The seconds that were noted under a name."""
    found = [record["seconds"].get(name) for record in records]
    return [float(value) for value in found if isinstance(value, int | float)]
