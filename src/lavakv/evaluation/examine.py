"""One prompt through the full cache and any policies and budgets, from one prefill."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lavakv.evaluation.greedy import Generated, StopRule, greedy
from lavakv.evaluation.prompt import Prompt
from lavakv.evaluation.variant import Variant
from lavakv.hf import LavaCache, enabled
from lavakv.hf.geometry import geometry_of
from lavakv.hf.memory import layer_bytes
from lavakv.hf.recorder import record
from lavakv.hf.recording import Recording
from lavakv.models.load import LoadedModel


def examine(loaded: LoadedModel, prompt: Prompt, variants: Sequence[Variant]) -> Iterator[dict[str, Any]]:
    """Read a prompt once and answer it from one cache after the other.

    Args:
        loaded: model and tokenizer; enabled while it is used.
        prompt: what is asked.
        variants: policies and budgets, or the full cache.

    Yields:
        The measured part of a record for each variant, in order; the prompt's part and the score are not in it.

    Raises:
        LavaError: a policy or budget that this model or prompt cannot be served with.
    """
    with enabled(loaded.model), torch.no_grad():
        recording = record(loaded.model, _ids(loaded, prompt.context))
    for variant in variants:
        yield _answered(loaded, prompt, variant, recording)


def _answered(loaded: LoadedModel, prompt: Prompt, variant: Variant, recording: Recording) -> dict[str, Any]:
    with enabled(loaded.model), torch.no_grad():
        start = time.perf_counter()
        cache = _filled(loaded.model, variant, recording)
        kept = _kept(cache, geometry_of(loaded.model.config).num_heads, len(prompt.context))
        filled = time.perf_counter()
        done = _generated(loaded, prompt, cache, recording.next_logits)
        decoded = time.perf_counter()
    return {
        "policy": variant.label,
        "budget": variant.budget_label,
        "window": variant.window,
        **kept,
        "full_kv_bytes": _full_bytes(recording),
        "prediction": loaded.tokenizer.decode(done.tokens, skip_special_tokens=True),
        "new_tokens": len(done.tokens),
        "seconds": {"prefill": recording.seconds, "fill": filled - start, "decode": decoded - filled},
    }


def _filled(model: Any, variant: Variant, recording: Recording) -> LavaCache:
    """A cache that holds the prompt; the full cache is a budget that nothing exceeds."""
    whole = Variant("lava", budget=recording.inputs.shape[1], window=variant.window)
    cache = (whole if variant.policy is None else variant).new_cache(model.config)
    return recording.fill(cache)


def _generated(loaded: LoadedModel, prompt: Prompt, cache: LavaCache, next_logits: Tensor) -> Generated:
    if len(prompt.question):
        asked = _ids(loaded, prompt.question)
        next_logits = loaded.model(asked, past_key_values=cache, logits_to_keep=1).logits[0, -1]
    return greedy(loaded.model, cache, next_logits, prompt.max_new_tokens, _stop_rule(loaded.tokenizer, prompt))


def _stop_rule(tokenizer: Any, prompt: Prompt) -> StopRule:
    def ended(tokens: list[int]) -> bool:
        text = tokenizer.decode(tokens)
        return any(stop in text for stop in prompt.stop_strings)

    return StopRule(prompt.stop_tokens, bool(prompt.stop_tokens), ended if prompt.stop_strings else None)


def _kept(cache: LavaCache, num_heads: Sequence[int], num_tokens: int) -> dict[str, Any]:
    """What a cache holds of the context, in numbers that JSON can take."""
    budgets = cache.budgets()
    entries, total = int(budgets.layer_entries.sum()), sum(num_heads)
    heads = [row[0, :count].tolist() for row, count in zip(budgets.head_entries, num_heads, strict=True)]
    return {
        "tokens_per_head": entries // total if entries % total == 0 else entries / total,
        "kept_fraction": entries / (num_tokens * total),
        "kept_entries": entries,
        "layer_entries": budgets.layer_entries[:, 0].tolist(),
        "head_entries": heads,
        "estimated_loss": float(budgets.estimated_loss.sum()),
        "kv_bytes": cache.nbytes,
    }


def _full_bytes(recording: Recording) -> int:
    """What keys and values of the whole prompt take."""
    compressed = sum(prompt.keys.nbytes + prompt.values.nbytes for prompt in recording.layers.values())
    return compressed + sum(layer_bytes(layer) for layer in recording.other_layers.values())


def _ids(loaded: LoadedModel, ids: Tensor) -> Tensor:
    tensor: Tensor = ids.to(torch.int64)[None].to(loaded.model.device)
    return tensor
