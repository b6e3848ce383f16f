"""The record of a setting: typed, as JSON, and as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from lavakv.bench.attention_record import AttentionRecord
from lavakv.bench.clock import median, median_ratio, spread
from lavakv.bench.floor import Floor, ModelSize
from lavakv.bench.generation.record import GenerateRecord
from lavakv.bench.measured import Measured
from lavakv.bench.settings import Setting

_MEANINGS = {
    "full": "the full cache",
    "cut": "a plain cache of the budget's length",
    "masked": "the full cache under masks per head",
    "lavakv": "lavakv",
}


@dataclass(frozen=True, slots=True)
class Headlines:
    """The main figures; ratios are medians over rounds of the ratio within a round. None if not measured."""

    prefill_ratio: float | None
    decode_ratio_to_floor: float | None
    decode_ratio_to_full: float | None
    decode_ratio_to_masked: float | None
    nbytes_ratio: float
    nbytes_ratio_after_decode: float
    prefill_peak_saving: float

    @classmethod
    def of(cls, setting: Setting, size: ModelSize, found: Measured) -> Headlines:
        """Compute them from what was measured."""
        prefill, decode, peak = found.prefill, found.decode, found.prefill_peak
        after_prompt, after_decode = found.nbytes_ratios
        return cls(
            prefill_ratio=median_ratio(prefill["lavakv"], prefill["full"]) if prefill else None,
            decode_ratio_to_floor=_decode_ratio(decode, "cut"),
            decode_ratio_to_full=_decode_ratio(decode, "full"),
            decode_ratio_to_masked=_decode_ratio(decode, "masked"),
            nbytes_ratio=after_prompt,
            nbytes_ratio_after_decode=after_decode,
            prefill_peak_saving=(peak["full"] - peak["lavakv"]) / size.kv_bytes(setting, compressed=False),
        )

    def lines(self) -> Iterator[str]:
        """As text, one a line."""
        for words, value in (
            ("prefill, lavakv over full", self.prefill_ratio),
            ("decode step, lavakv over the cut cache", self.decode_ratio_to_floor),
            ("decode step, lavakv over the full cache", self.decode_ratio_to_full),
            ("decode step, lavakv over masks", self.decode_ratio_to_masked),
            ("KV bytes over entries times their size, after the prompt", self.nbytes_ratio),
            ("KV bytes over entries times their size, after all steps", self.nbytes_ratio_after_decode),
            ("prefill peak saved, as a fraction of the full cache's bytes", self.prefill_peak_saving),
        ):
            if value is not None:
                yield f"  {words}: {value:.3f}"


HEADLINES = tuple(field.name for field in fields(Headlines))


@dataclass(frozen=True, slots=True)
class ConfigurationRecord:
    """Medians and quartiles of one configuration; None if not measured."""

    prefill_seconds: float | None
    prefill_spread: list[float] | None
    decode_seconds: float | None
    decode_spread: list[float] | None
    kv_bytes: int
    prefill_peak_bytes: int | None

    @classmethod
    def of(cls, name: str, found: Measured) -> ConfigurationRecord:
        """Summarise all rounds."""
        prefill, decode = found.prefill.get(name, []), found.decode[name]
        peak = found.prefill_peak.get(name)
        return cls(median(prefill), spread(prefill), median(decode), spread(decode), found.kv_bytes[name], peak)

    def __str__(self) -> str:
        figures = [] if self.prefill_seconds is None else [f"prefill {self.prefill_seconds:.3g} s"]
        figures += [] if self.decode_seconds is None else [f"{1e3 * self.decode_seconds:.3g} ms a token"]
        figures.append(f"KV {self.kv_bytes / 1e6:.1f} MB")
        if self.prefill_peak_bytes is not None:
            figures.append(f"prefill peak +{self.prefill_peak_bytes / 1e6:.1f} MB")
        return ", ".join(figures)


@dataclass(frozen=True, slots=True)
class SettingRecord:
    """Everything reported of one setting; `docs/bench.md` describes the fields.

    Attributes:
        headlines: the main figures.
        setting: prompt, batch and budget.
        floor: what the machine allows at best.
        configurations: by name.
        masked_by: how the masked configuration hides entries, or None.
        lengths: least, mean and most entries of a head after the prompt.
        attention: of one layer alone, or None.
        generate: of `model.generate`, or None.
    """

    headlines: Headlines
    setting: Setting
    floor: Floor
    configurations: dict[str, ConfigurationRecord]
    masked_by: str | None
    lengths: tuple[int, float, int]
    attention: AttentionRecord | None = None
    generate: GenerateRecord | None = None

    @classmethod
    def of(cls, setting: Setting, size: ModelSize, floor: Floor, found: Measured) -> SettingRecord:
        """Summarise what was measured on the model."""
        configurations = {name: ConfigurationRecord.of(name, found) for name in found.decode}
        headlines = Headlines.of(setting, size, found)
        return cls(headlines, setting, floor, configurations, found.masked_by, found.lengths)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            **asdict(self.headlines),
            **self.setting._asdict(),
            "physical_floor": asdict(self.floor),
            "contenders": {name: asdict(own) for name, own in self.configurations.items()},
            "masked_by": self.masked_by,
            "entries_per_head": dict(zip(("min", "mean", "max"), self.lengths, strict=True)),
            "attention_part": None if self.attention is None else self.attention.as_dict(),
            "generate": None if self.generate is None else self.generate.as_dict(),
        }

    def lines(self) -> Iterator[str]:
        """The figures of the model as text: a configuration a line, then the headlines."""
        for name, own in self.configurations.items():
            yield f"  {_MEANINGS[name]}: {own}"
        yield from self.headlines.lines()


def _decode_ratio(decode: Mapping[str, Sequence[float]], other: str) -> float | None:
    return median_ratio(decode["lavakv"], decode[other]) if other in decode else None


def final_line(
    about: Mapping[str, Any],
    records: Sequence[SettingRecord],
    left_out: Sequence[Mapping[str, Any]] = (),
    skipped: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """One object for a whole run: the only setting, or the largest one's headlines and all settings."""
    missing = {"left_out": list(left_out), "skipped": list(skipped)}
    if len(records) == 1:
        return {**records[0].as_dict(), **about, **missing}
    largest = max(records, key=lambda record: record.setting)
    top = {**asdict(largest.headlines), **largest.setting._asdict()}
    return {**top, **about, "results": [record.as_dict() for record in records], **missing}
