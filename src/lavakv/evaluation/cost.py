"""Seconds of a run: what its policy-budget pairs cost beside their own decoding, and how long it still takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lavakv.evaluation.record_keys import PromptKey

if TYPE_CHECKING:
    from lavakv.evaluation.executor import Assignment

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
        score: scoring the answers.
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
        """The pair's whole cost as a multiple of its decoding; None where nothing was decoded."""
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
    """Seconds of the prefill and of everything else, and which pairs stay within the goal; ready for JSON.

    A prompt's prefill runs once and is noted in each of its records. After an interruption, which repeats it, the
    longest counts. Where one prefill served both modes, it counts for one of them.
    """
    records = list(records)
    prefill: dict[tuple[Any, ...], float] = {}
    for record in records:
        if record.get("shares_prefill"):
            continue
        prompt = (PromptKey.of(record), record.get("mode"))
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


class Forecast:
    """Estimates the seconds left from the prefills and answers of this run so far.

    Prefill time is taken to grow with the tokens of the prompts, an answer's with the most tokens it may have. With
    the longest prompts first it is too high rather than too low.

    Args:
        waiting: assignments that are not finished.
        workers: prompts that are processed at a time.
    """

    def __init__(self, waiting: Sequence[Assignment], workers: int = 1) -> None:
        parts = [part for assignment in waiting for part in assignment.parts]
        self._prompts = {(prompt.key, prompt.mode): prompt.num_tokens for prompt, _ in parts}
        self._unread = sum(self._prompts.values())
        self._unwritten = sum(prompt.max_new_tokens * sum(map(len, groups)) for prompt, groups in parts)
        self._limits = {prompt.key: prompt.max_new_tokens for prompt, _ in parts}
        self._workers = workers
        self._read = self._written = 0
        self._reading = self._writing = 0.0

    def note(self, record: Mapping[str, Any]) -> None:
        """Count a finished record."""
        key, seconds = PromptKey.of(record), record["seconds"]
        tokens = self._prompts.pop((key, record["mode"]), 0)
        if tokens:
            self._read, self._unread = self._read + tokens, self._unread - tokens
            self._reading += 0.0 if record.get("shares_prefill") else seconds["prefill"]
        limit = self._limits[key]
        self._written, self._unwritten = self._written + limit, self._unwritten - limit
        self._writing += seconds["fill"] + seconds["decode"] + seconds.get("kl", 0.0) + seconds["score"]

    @property
    def seconds_left(self) -> float | None:
        """The estimate, or None before a record is finished."""
        if not self._read or not self._written:
            return None
        reading = self._reading / self._read * self._unread
        return (reading + self._writing / self._written * self._unwritten) / self._workers
