"""The exam: every fact asked of every cache, and what that took."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lavakv.demo.logbook import Logbook
from lavakv.evaluation.answer import Answer, Sampling, answer
from lavakv.evaluation.encode import encode
from lavakv.evaluation.variant import Variant
from lavakv.hf import LavaCache
from lavakv.models.load import LoadedModel

KEPT_FRACTIONS = (0.5, 0.25, 0.125)


@dataclass
class Report:
    """One cache's answers.

    Attributes:
        variant: the cache.
        answers: one a fact.
        right: was each right?
        head_entries: int64 `[layers, heads]` of the last prompt, or None for the full cache.
    """

    variant: Variant
    answers: list[Answer] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    head_entries: Tensor | None = None

    @property
    def kv_bytes(self) -> int:
        """Largest cache of all answers."""
        return max(done.kv_bytes for done in self.answers)

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed over all answers."""
        return sum(done.new_tokens - 1 for done in self.answers) / sum(done.decode_seconds for done in self.answers)

    def record(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "cache": self.variant.label,
            "kept": self.variant.budget_label,
            "kv_bytes": self.kv_bytes,
            "tokens_per_second": self.tokens_per_second,
            "right": self.right,
            "answers": [done.record() for done in self.answers],
        }


def variants() -> list[Variant]:
    """The full cache, then LAVa with less and less."""
    return [Variant(None), *(Variant("lava", keep=fraction) for fraction in KEPT_FRACTIONS)]


def examine(loaded: LoadedModel, logbook: Logbook, reports: list[Report], max_new_tokens: int) -> Iterator[None]:
    """Ask every fact of every cache; yields after each answer and fills the reports."""
    for fact in logbook.facts:
        ids = encode(loaded.tokenizer, logbook.ask(fact))
        for report in reports:
            done = answer(loaded, ids, report.variant, Sampling(max_new_tokens))
            if isinstance(done.cache, LavaCache):
                report.head_entries = done.cache.budgets().head_entries[:, 0]
            report.answers.append(done.without_cache())
            report.right.append(fact.is_in(done.text))
            yield
