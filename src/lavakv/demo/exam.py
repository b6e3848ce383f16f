"""The exam: every fact asked of every cache, and what that took."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lavakv.demo.logbook import Logbook
from lavakv.evaluation.encode import encode
from lavakv.evaluation.greedy import Generated
from lavakv.evaluation.sweep import Sweep
from lavakv.evaluation.variant import Variant
from lavakv.models.load import LoadedModel

KEPT_FRACTIONS = (0.5, 0.25, 0.125)


@dataclass
class Report:
    """One cache's answers.

    Attributes:
        variant: the cache.
        answers: one a fact.
        texts: the same as text.
        right: was each right?
        num_tokens: length of the last prompt.
        head_entries: int64 `[layers, heads]`, what each head kept of it, or None for the full cache.
    """

    variant: Variant
    answers: list[Generated] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    num_tokens: int = 0
    head_entries: Tensor | None = None

    @property
    def kv_bytes(self) -> int:
        """Largest cache of all answers."""
        return max(done.kv_bytes for done in self.answers)

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed over all answers."""
        steps = sum(len(done.tokens) - 1 for done in self.answers)
        return steps / max(sum(done.decode_seconds for done in self.answers), 1e-9)

    def record(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "cache": self.variant.label,
            "kept": self.variant.budget_label,
            "kv_bytes": self.kv_bytes,
            "tokens_per_second": self.tokens_per_second,
            "right": self.right,
            "answers": self.texts,
        }


def variants() -> list[Variant]:
    """The full cache, then LAVa with less and less."""
    return [Variant(None), *(Variant("lava", keep=fraction) for fraction in KEPT_FRACTIONS)]


def examine(loaded: LoadedModel, logbook: Logbook, reports: list[Report], max_new_tokens: int) -> Iterator[None]:
    """Ask every fact of every cache; yields after each answer and fills the reports.

    The model reads each prompt once; every cache is filled from that prefill.
    """
    for fact in logbook.facts:
        ids = encode(loaded.tokenizer, logbook.ask(fact))
        sweep = Sweep(loaded.model, ids, num_positions=1)
        for report in reports:
            report.num_tokens = sweep.num_tokens
            if report.variant.policy is not None:
                report.head_entries = sweep.filled(report.variant).budgets().head_entries[:, 0]
            report.answers.append(sweep.generate(report.variant, 0, max_new_tokens))
            report.texts.append(loaded.tokenizer.decode(report.answers[-1].tokens, skip_special_tokens=True).strip())
            report.right.append(fact.is_in(report.texts[-1]))
            yield
