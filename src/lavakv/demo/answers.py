"""The demonstration's questions asked with every cache, their memory and speed, and a picture of the budgets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text
from torch import Tensor

from lavakv.demo.logbook import Logbook
from lavakv.evaluation.encode import encode
from lavakv.evaluation.greedy import Generated
from lavakv.evaluation.sweep import Sweep
from lavakv.evaluation.variant import Variant
from lavakv.models.load import LoadedModel

KEPT_FRACTIONS = (0.5, 0.25, 0.125)
_LEVELS = "▁▂▃▄▅▆▇█"
_COLOURS = ("grey37", "steel_blue", "dark_cyan", "sea_green3", "yellow3", "orange3", "orange_red1", "red3")


@dataclass
class CacheAnswers:
    """The answers with one cache.

    Attributes:
        variant: the cache.
        answers: one for each fact.
        texts: the same as text.
        right: whether each is right.
        num_tokens: length of the last prompt.
        head_entries: int64 `[layers, heads]`, entries each head kept of it, or None for the full cache.
    """

    variant: Variant
    answers: list[Generated] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    num_tokens: int = 0
    head_entries: Tensor | None = None

    @property
    def kv_bytes(self) -> int:
        """Bytes of the largest cache of all answers."""
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
    """The full cache, then LAVa with decreasing kept fractions."""
    return [Variant(None), *(Variant("lava", keep=fraction) for fraction in KEPT_FRACTIONS)]


def ask_all(loaded: LoadedModel, logbook: Logbook, reports: list[CacheAnswers], max_new_tokens: int) -> Iterator[None]:
    """Ask for every fact with every cache; fills the reports and yields after each answer.

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


def budget_picture(head_entries: Tensor, num_tokens: int) -> Text:
    """Draw the share of a prompt that each head of each layer keeps: a column a layer, a row a head, low to high.

    Args:
        head_entries: int64 `[layers, heads]`, kept entries, window included; 0 for heads that a layer does not have.
        num_tokens: prompt length.
    """
    layers, heads = head_entries.shape
    picture = Text(no_wrap=True)
    for head in range(heads):
        picture.append(f"head {head:<3} ")
        for layer in range(layers):
            entries = int(head_entries[layer, head])
            level = min(entries * len(_LEVELS) // num_tokens, len(_LEVELS) - 1)
            picture.append(_LEVELS[level] if entries else " ", style=_COLOURS[level])
        share = float(head_entries[:, head].sum()) / (layers * num_tokens)
        picture.append(f" {share:.0%}\n")
    picture.append(f"layer    0{'':<{max(layers - 1 - len(str(layers - 1)), 0)}}{layers - 1}")
    return picture
