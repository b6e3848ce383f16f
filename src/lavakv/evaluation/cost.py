"""What a run's policy-budget pairs cost beside their own decoding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

GOAL = 1.1
PARTS = ("fill", "score", "decode")


@dataclass(slots=True)
class PairCost:
    """One policy and budget over all prompts; seconds.

    Attributes:
        policy: its name.
        budget: in words.
        fill: scoring, selecting and copying what is kept.
        decode: generating the answers, and reading the question where it comes after the context.
        score: holding the answers against the right ones.
        prompts: how many.
    """

    policy: str
    budget: str
    fill: float = 0.0
    decode: float = 0.0
    score: float = 0.0
    prompts: int = 0

    @property
    def ratio(self) -> float | None:
        """All that the pair cost as a multiple of its decoding; None where nothing was decoded."""
        return (self.fill + self.decode + self.score) / self.decode if self.decode > 0 else None


def pair_costs(records: Iterable[Mapping[str, Any]]) -> list[PairCost]:
    """Costs of every pair, in the order of the records, the full cache included."""
    pairs: dict[tuple[str, str], PairCost] = {}
    for record in records:
        name = (record["policy"], record["budget"])
        pair = pairs.setdefault(name, PairCost(*name))
        pair.prompts += 1
        for part in PARTS:
            setattr(pair, part, getattr(pair, part) + record["seconds"].get(part, 0.0))
    return list(pairs.values())


def cost_summary(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Prefill against everything else, and whether each added pair stays within the goal; ready for JSON.

    A prompt's prefill is paid once and stands in each of its records; after an interruption the longest counts, though
    it was then paid twice.
    """
    records = list(records)
    prefill: dict[tuple[Any, ...], float] = {}
    for record in records:
        prompt = (record["task"], record["example"], record["length"], record["depth"])
        prefill[prompt] = max(prefill.get(prompt, 0.0), record["seconds"]["prefill"])
    pairs = pair_costs(records)
    added = [pair for pair in pairs if pair.budget != "all"]
    decode = sum(pair.decode for pair in added)
    total = sum(pair.fill + pair.decode + pair.score for pair in added)
    return {
        "prompts": len(prefill),
        "prefill_seconds": sum(prefill.values()),
        "added_pairs_seconds": total,
        "added_pairs_decode_seconds": decode,
        "ratio": total / decode if decode > 0 else None,
        "goal": GOAL,
        "within_goal": sum(pair.ratio is not None and pair.ratio <= GOAL for pair in added),
        "pairs": [_pair(pair) for pair in pairs],
    }


def _pair(pair: PairCost) -> dict[str, Any]:
    return {name: getattr(pair, name) for name in PairCost.__slots__} | {"ratio": pair.ratio}
