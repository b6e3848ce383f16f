"""What was measured of `generate` in one setting: typed, as JSON, and as lines of text."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from lavakv.bench.clock import spread
from lavakv.bench.floor import Floor
from lavakv.bench.generation.call import Call
from lavakv.bench.generation.configurations import MEANINGS
from lavakv.bench.settings import Setting

SETUP_STEPS = 4  # in them graphs are captured and forwards compiled
RATIOS = (
    ("lavakv", "full"),
    ("lavakv", "cut"),
    ("lavakv_graph", "full"),
    ("lavakv_graph", "full_static"),
    ("lavakv_graph", "cut_graph"),
    ("lavakv_compiled", "full_static"),
)


@dataclass(frozen=True, slots=True)
class DecodeRecord:
    """One configuration's decoding.

    Attributes:
        seconds_per_token: mean of a step of the whole batch, the first steps left out.
        seconds_per_token_spread: lower and upper quartile, or None.
        tokens_per_second: of all sequences together.
        ratio_to_floor: `seconds_per_token` over the physical floor of what the cache holds.
        setup_seconds: what the first steps take longer than the later ones: capture, compilation.
        kv_bytes: keys and values after the last token.
        bytes_beyond_cache: on a GPU, memory that a graph or a compiled forward keeps; else None.
        peak_bytes: on a GPU, the most that is in use while decoding, weights not counted; else None.
        num_replays: CUDA graphs replayed.
        warnings: what was warned of.
    """

    seconds_per_token: float
    seconds_per_token_spread: list[float] | None
    tokens_per_second: float
    ratio_to_floor: float
    setup_seconds: float
    kv_bytes: int
    bytes_beyond_cache: int | None
    peak_bytes: int | None
    num_replays: int
    warnings: list[str]

    @classmethod
    def of(cls, call: Call, batch_size: int, floor_seconds: float) -> DecodeRecord:
        """Summarise a call that generated more than `SETUP_STEPS` + 1 tokens.

        Args:
            call: on a cache that held all of the text but its last token.
            batch_size: sequences.
            floor_seconds: physical floor of a step.
        """
        first, later = call.seconds[1 : 1 + SETUP_STEPS], call.seconds[1 + SETUP_STEPS :]
        mean = statistics.fmean(later)
        return cls(
            mean, spread(later), batch_size / mean, mean / floor_seconds, max(sum(first) - len(first) * mean, 0.0),
            call.kv_bytes, call.bytes_beyond_cache, call.peak_bytes, call.num_replays, call.warnings,
        )  # fmt: skip

    def __str__(self) -> str:
        figures = [f"{1e3 * self.seconds_per_token:.3g} ms a token ({self.ratio_to_floor:.2f} x floor)"]
        figures.append(f"{self.tokens_per_second:.4g} tokens/s")
        figures.append(f"set-up {self.setup_seconds:.2f} s")
        figures.append(f"KV {self.kv_bytes / 1e6:.1f} MB")
        if self.bytes_beyond_cache is not None:
            figures.append(f"+{self.bytes_beyond_cache / 1e6:.1f} MB beyond the cache")
        if self.peak_bytes is not None:
            figures.append(f"peak {self.peak_bytes / 1e6:.1f} MB")
        figures += [f"warned: {warning}" for warning in self.warnings]
        return ", ".join(figures)


@dataclass(frozen=True, slots=True)
class FirstTokenRecord:
    """Time and memory of reading a prompt with `generate`; None where it was not measured.

    Attributes:
        seconds: from the call to the first token.
        peak_bytes: on a GPU, the most in use meanwhile, weights not counted; else None.
    """

    seconds: float
    peak_bytes: int | None

    @classmethod
    def of(cls, call: Call) -> FirstTokenRecord:
        """Of a call for one token on an empty cache."""
        return cls(call.seconds[0], call.peak_bytes)

    def __str__(self) -> str:
        peak = "" if self.peak_bytes is None else f", peak {self.peak_bytes / 1e6:.1f} MB"
        return f"first token after {self.seconds:.3g} s{peak}"


@dataclass
class GenerateRecord:
    """`generate` in one setting; `docs/bench.md` describes the fields. Filled while it is measured.

    Attributes:
        setting: prompt, batch and budget.
        floor: of the setting.
        num_tokens: tokens that a step's time is the mean of.
        first_token: by configuration, `full` and `lavakv`.
        decoding: by configuration.
        same_tokens: share of the new tokens that are those of `lavakv`, by configuration of lavakv.
        not_available: configurations that do not run here or failed, and why.
        skipped: what the time limit left out, and why.
    """

    setting: Setting
    floor: Floor
    num_tokens: int
    first_token: dict[str, FirstTokenRecord] = field(default_factory=dict)
    decoding: dict[str, DecodeRecord] = field(default_factory=dict)
    same_tokens: dict[str, float] = field(default_factory=dict)
    not_available: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def floor_of(self, name: str) -> float:
        """Seconds of a step at least, with the keys and values that a configuration holds."""
        return self.floor.decode_full_seconds if name.startswith("full") else self.floor.decode_compressed_seconds

    def ratios(self) -> dict[str, float]:
        """Times of lavakv over those of others, for what was measured of both."""
        times = {name: own.seconds_per_token for name, own in self.decoding.items()}
        found = {
            f"{one}_to_{other}": times[one] / times[other] for one, other in RATIOS if one in times and other in times
        }
        if {"full", "lavakv"} <= self.first_token.keys():
            found["first_token_lavakv_to_full"] = self.first_token["lavakv"].seconds / self.first_token["full"].seconds
        return found

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            **self.setting._asdict(),
            "physical_floor": asdict(self.floor),
            "num_tokens": self.num_tokens,
            "first_token": {name: asdict(own) for name, own in self.first_token.items()},
            "decoding": {name: asdict(own) for name, own in self.decoding.items()},
            "ratios": self.ratios(),
            "same_tokens": self.same_tokens,
            "not_available": self.not_available,
            "skipped": self.skipped,
        }

    def lines(self) -> Iterator[str]:
        """Ratios as text, and what is missing."""
        for name, value in self.ratios().items():
            yield f"  generate, {name.replace('_to_', ' over ')}: {value:.3f}"
        for name, share in self.same_tokens.items():
            yield f"  generate, {MEANINGS[name]}: {share:.1%} of the new tokens are those without a graph"
        for name, reason in self.not_available.items():
            yield f"  generate, {MEANINGS.get(name, name)}: not available: {reason}"
        for name, reason in self.skipped.items():
            yield f"  generate, {MEANINGS.get(name, name)}: skipped: {reason}"
