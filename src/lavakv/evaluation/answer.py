"""Generating one answer from one prompt and one variant, compressed while the prompt is read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lavakv.evaluation.clock import TokenClock
from lavakv.evaluation.encode import max_answer_tokens
from lavakv.evaluation.kept import kept_by_sequence
from lavakv.evaluation.variant import Variant
from lavakv.hf import LavaCache, enabled
from lavakv.hf.contract import cache_argument
from lavakv.hf.geometry import geometry_of
from lavakv.hf.memory import layer_bytes
from lavakv.models.load import LoadedModel


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        max_new_tokens: most tokens to generate.
        temperature: 0 is greedy.
        seed: of the random numbers, if any are drawn.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0

    def options(self) -> dict[str, Any]:
        """Arguments of transformers' `generate`."""
        if self.temperature == 0:
            return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        return {"do_sample": True, "temperature": self.temperature}


@dataclass(frozen=True, slots=True)
class Answer:
    """A generated text and its measurements.

    Attributes:
        text: generated text, special tokens left out.
        prompt_tokens: length of the prompt.
        new_tokens: length of the answer.
        kept_entries: entries that compressed layers hold of the prompt, or of the part of it that a cache held before
            (all of them with the full cache).
        kept_fraction: the same as a share of all.
        kv_bytes: bytes of keys and values allocated at the end, all layers.
        prefill_seconds: until the first new token, what a cache held before not included.
        decode_seconds: from the first new token to the last.
        cache: the cache itself.
    """

    text: str
    prompt_tokens: int
    new_tokens: int
    kept_entries: int
    kept_fraction: float
    kv_bytes: int
    prefill_seconds: float
    decode_seconds: float
    cache: Any

    @property
    def tokens_per_second(self) -> float | None:
        """Decoding speed, None for a single token."""
        return (self.new_tokens - 1) / self.decode_seconds if self.decode_seconds > 0 else None

    @property
    def tokens_per_head(self) -> float:
        """Mean entries of the prompt that a KV head keeps."""
        is_full = not isinstance(self.cache, LavaCache)
        return float(self.prompt_tokens) if is_full else float(self.cache.budgets().tokens_per_head[0])

    @property
    def relative_loss(self) -> float:
        """Estimated loss of what was evicted, as a share of that of evicting everything before the window."""
        return float(self.cache.budgets().relative_loss[0]) if isinstance(self.cache, LavaCache) else 0.0

    def record(self) -> dict[str, Any]:
        """Everything but the cache, ready for JSON."""
        named = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "cache"}
        worked_out = ("tokens_per_second", "tokens_per_head", "relative_loss")
        return {**named, **{name: getattr(self, name) for name in worked_out}}


def answer(
    loaded: LoadedModel,
    ids: Tensor,
    variant: Variant,
    sampling: Sampling,
    on_text: Callable[[str], None] | None = None,
    cache: Any = None,
) -> Answer:
    """Generate from one prompt.

    Args:
        loaded: model and tokenizer; enabled for the run only.
        ids: int64 `[1, N]`.
        variant: full cache or policy and budget.
        sampling: how tokens are chosen, and how many.
        on_text: called with each piece of text as it is generated.
        cache: one that holds the beginning of the prompt by this variant, which is not read again; or None.

    Raises:
        LavaError: bad budget or policy, a model that cannot be compressed, a prompt beyond the model's positions.
    """
    config, num_tokens = loaded.model.config, ids.shape[1]
    max_new_tokens = max_answer_tokens(config, num_tokens, sampling.max_new_tokens)
    cache = variant.new_cache(config) if cache is None else cache
    compressed, clock = cache.get_seq_length() or num_tokens, TokenClock(loaded.tokenizer, on_text)
    with nullcontext() if variant.policy is None else enabled(loaded.model):
        new = _generated(loaded, ids, cache, clock, replace(sampling, max_new_tokens=max_new_tokens))
    kept_entries, kept_fraction = _kept(config, cache, compressed)
    return Answer(
        text=loaded.tokenizer.decode(new, skip_special_tokens=True).strip(),
        prompt_tokens=num_tokens,
        new_tokens=len(new),
        kept_entries=kept_entries,
        kept_fraction=kept_fraction,
        kv_bytes=sum(layer_bytes(layer) for layer in cache.layers),
        prefill_seconds=clock.prefill_seconds,
        decode_seconds=clock.decode_seconds,
        cache=cache,
    )


def _generated(loaded: LoadedModel, ids: Tensor, cache: Any, clock: TokenClock, sampling: Sampling) -> Tensor:
    """New tokens by transformers' `generate`, int64 `[tokens]`."""
    model, tokenizer = loaded.model, loaded.tokenizer
    ids = ids.to(model.device)
    torch.manual_seed(sampling.seed)
    output: Tensor = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **cache_argument(model, cache),
        streamer=clock,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        max_new_tokens=sampling.max_new_tokens,
        **sampling.options(),
    )
    return output[0, ids.shape[1] :]


def _kept(config: Any, cache: Any, num_tokens: int) -> tuple[int, float]:
    """Entries of the prompt that a cache holds, and their share; the stock cache holds all of them."""
    if isinstance(cache, LavaCache):
        (kept,) = kept_by_sequence(cache, config, num_tokens)
        return kept.entries, kept.fraction
    return num_tokens * sum(geometry_of(config).num_heads), 1.0
