"""Which entries of a prompt survive: read once, compressed in every way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lavakv.evaluation.sweep import Sweep
from lavakv.evaluation.variant import Variant
from lavakv.hf import LavaCache
from lavakv.models.load import LoadedModel
from lavakv.report.survival.pieces import token_texts


@dataclass(frozen=True, slots=True)
class Survivors:
    """What one policy keeps at one budget.

    Attributes:
        policy: name.
        budget: in words.
        kept: bool `[heads of all compressed layers, tokens]`, layer after layer.
        kept_fraction: share of all entries.
        kv_bytes: bytes of keys and values right after the prompt.
        estimated_loss: the paper's bound, summed over layers.
        answer: what the model says then, or None if it was not asked to.
    """

    policy: str
    budget: str
    kept: NDArray[np.bool_]
    kept_fraction: float
    kv_bytes: int
    estimated_loss: float
    answer: str | None


class Inspector:
    """A prompt, read once.

    Args:
        loaded: model and tokenizer.
        context: int64 `[1, N]`, what is compressed.
        question: int64 `[1, tokens]` that comes after it, or None if the context holds it.
        max_new_tokens: length of the answers; 0 for none.

    Raises:
        LavaError: a model that cannot be compressed, a prompt beyond its positions.
    """

    def __init__(self, loaded: LoadedModel, context: Tensor, question: Tensor | None, max_new_tokens: int) -> None:
        self._tokenizer, self._max_new_tokens = loaded.tokenizer, max_new_tokens
        self._sweep = Sweep(loaded.model, context, [] if question is None else [question], num_positions=1)
        self.texts = token_texts(loaded.tokenizer, context[0].tolist())
        self.question_texts = [] if question is None else token_texts(loaded.tokenizer, question[0].tolist())
        self.seconds = self._sweep.recording.seconds
        full = self._sweep.filled(Variant(None))
        self.heads = heads_of(full)
        self.full_bytes = full.nbytes
        self.full_answer = self._answer(Variant(None))

    def run(self, variants: Sequence[Variant]) -> Iterator[Survivors]:
        """Compress in every way, one after the other.

        Raises:
            LavaError: a bad budget or policy, or one that this model cannot serve.
        """
        for variant in variants:
            cache = self._sweep.filled(variant)
            kept, budgets = kept_entries(cache, len(self.texts)), cache.budgets()
            yield Survivors(
                variant.label,
                variant.budget_label,
                kept,
                float(kept.mean()),
                cache.nbytes,
                float(budgets.estimated_loss.sum()),
                self._answer(variant),
            )

    def _answer(self, variant: Variant) -> str | None:
        if not self._max_new_tokens:
            return None
        done = self._sweep.generate(variant, 0, self._max_new_tokens)
        text: str = self._tokenizer.decode(done.tokens, skip_special_tokens=True)
        return text.strip()


def heads_of(cache: LavaCache) -> list[tuple[int, int]]:
    """Model layer and number of KV heads of every compressed layer."""
    counts = (cache.lengths()[:, 0] > 0).sum(dim=1).tolist()
    return list(zip(cache.layer_indices, counts, strict=True))


def kept_entries(cache: LavaCache, num_tokens: int) -> NDArray[np.bool_]:
    """What a cache that holds one prompt, and nothing after it, keeps: bool `[heads of all layers, tokens]`."""
    rows = [(layer, head) for layer, heads in heads_of(cache) for head in range(heads)]
    kept = np.zeros((len(rows), num_tokens), dtype=np.bool_)
    for row, (layer, head) in enumerate(rows):
        kept[row, cache.kept_positions(layer, 0, head).numpy()] = True
    return kept
