"""The surviving entries of a prompt that is read once and compressed with each policy and budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lavakv.evaluation.sweep import Sweep
from lavakv.evaluation.variant import Variant
from lavakv.hf import LavaCache
from lavakv.models.load import LoadedModel


@dataclass(frozen=True, slots=True)
class Survivors:
    """The entries that one policy keeps at one budget.

    Attributes:
        policy: name.
        budget: as text, such as "25%" or "128".
        kept: bool `[heads of all compressed layers, tokens]`, layer after layer.
        kept_fraction: share of all entries.
        kv_bytes: bytes of keys and values right after the prompt.
        estimated_loss: the paper's bound, summed over layers.
        answer: the model's answer with these entries, or None if none was generated.
    """

    policy: str
    budget: str
    kept: NDArray[np.bool_]
    kept_fraction: float
    kv_bytes: int
    estimated_loss: float
    answer: str | None


class Inspector:
    """A prompt that is read once and compressed many times.

    Args:
        loaded: model and tokenizer.
        context: int64 `[1, N]`, the tokens to compress.
        question: int64 `[1, tokens]` that follows the context, or None if the context contains it.
        max_new_tokens: length of the answers; 0 for none.

    Raises:
        LavaError: the model cannot be compressed, or the prompt exceeds its positions.
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
        """Compress with each policy and budget in turn.

        Raises:
            LavaError: a budget or policy is invalid or not supported by this model.
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
    """The entries that a cache with one prompt and no later tokens keeps: bool `[heads of all layers, tokens]`."""
    rows = [(layer, head) for layer, heads in heads_of(cache) for head in range(heads)]
    kept = np.zeros((len(rows), num_tokens), dtype=np.bool_)
    for row, (layer, head) in enumerate(rows):
        kept[row, cache.kept_positions(layer, 0, head).numpy()] = True
    return kept


_REPLACEMENT = "\ufffd"
_MAX_TOKENS_A_CHARACTER = 8


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token, such that all of them joined read like the decoded prompt.

    A character that is spread over several tokens is shown on the last of them; the others are empty. A space that a
    tokenizer drops at the start of a text is kept.

    Args:
        tokenizer: a transformers tokenizer.
        ids: token ids.
    """
    texts, pending = [], list[int]()
    before: int | None = None
    for token in ids:
        pending.append(token)
        text = _text_after(tokenizer, pending, before)
        if text.endswith(_REPLACEMENT) and len(pending) < _MAX_TOKENS_A_CHARACTER and _is_incomplete(tokenizer, token):
            texts.append("")
            continue
        texts.append(text)
        before, pending = token, []
    if pending:
        texts[-1] = _text_after(tokenizer, pending, before)
    return texts


def _text_after(tokenizer: Any, ids: Sequence[int], before: int | None) -> str:
    """The text of some tokens that follow another token."""
    if before is None:
        return _text_of(tokenizer, ids)
    lead, both = _text_of(tokenizer, [before]), _text_of(tokenizer, [before, *ids])
    return both[len(lead) :] if both.startswith(lead) else _text_of(tokenizer, ids)


def _is_incomplete(tokenizer: Any, token: int) -> bool:
    """Whether the token itself holds an incomplete character; a text may contain the replacement character as such."""
    return _REPLACEMENT in _text_of(tokenizer, [token])


def _text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
