"""One prompt through the full cache and any policies and budgets, from one prefill."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lavakv.evaluation.greedy import StopRule, greedy_rows
from lavakv.evaluation.prompt import Prompt
from lavakv.evaluation.variant import Variant, fan_out
from lavakv.hf import LavaCache, enabled
from lavakv.hf.contract import cache_argument
from lavakv.hf.geometry import geometry_of
from lavakv.hf.memory import layer_bytes
from lavakv.hf.recorder import record
from lavakv.hf.recording import Recording
from lavakv.models.load import LoadedModel

Group = Sequence[Variant]


def examine(loaded: LoadedModel, prompt: Prompt, groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    """Read a prompt once and answer it from one cache after the other.

    Args:
        loaded: model and tokenizer; enabled while it is used.
        prompt: what is asked.
        groups: what to answer it with; the variants of one group are decoded together.

    Yields:
        The measured part of a record for each variant, in order; the prompt's part and the score are not in it. What a
        group took is shared evenly among its variants.

    Raises:
        LavaError: a policy or budget that this model or prompt cannot be served with.
    """
    with enabled(loaded.model), torch.no_grad():
        recording = record(loaded.model, _ids(loaded, prompt.context))
    for group in groups:
        for rows in [group] if recording.can_repeat else [[variant] for variant in group]:
            yield from _answered(loaded, prompt, rows, recording)


def _answered(loaded: LoadedModel, prompt: Prompt, rows: Group, recording: Recording) -> list[dict[str, Any]]:
    with enabled(loaded.model), torch.no_grad():
        start = time.perf_counter()
        cache = _filled(loaded.model, rows, recording)
        kept = _kept(cache, geometry_of(loaded.model.config).num_heads, len(prompt.context))
        filled = time.perf_counter()
        answers = _generated(loaded, prompt, cache, len(rows), recording.next_logits)
        decoded = time.perf_counter()
    seconds = {"fill": (filled - start) / len(rows), "decode": (decoded - filled) / len(rows)}
    return [
        {
            "policy": variant.label,
            "budget": variant.budget_label,
            "window": variant.window,
            **about,
            "full_kv_bytes": _full_bytes(recording),
            "prediction": loaded.tokenizer.decode(tokens, skip_special_tokens=True),
            "new_tokens": len(tokens),
            "batch_rows": len(rows),
            "batch_steps": max(map(len, answers)),
            "seconds": {"prefill": recording.seconds, **seconds},
        }
        for variant, about, tokens in zip(rows, kept, answers, strict=True)
    ]


def _filled(model: Any, rows: Group, recording: Recording) -> LavaCache:
    """A cache that holds the prompt in each row; the full cache is a budget that nothing exceeds."""
    if rows[0].policy is None:
        rows = [Variant("lava", budget=recording.inputs.shape[1], window=rows[0].window)]
    cache = rows[0].new_cache(model.config) if len(rows) == 1 else fan_out(rows, model.config)
    return recording.fill(cache, len(rows))


def _generated(
    loaded: LoadedModel, prompt: Prompt, cache: LavaCache, num_rows: int, next_logits: Tensor
) -> list[list[int]]:
    logits = next_logits.expand(num_rows, -1)
    if len(prompt.question):
        asked = _ids(loaded, prompt.question).expand(num_rows, -1)
        logits = loaded.model(asked, **cache_argument(loaded.model, cache), logits_to_keep=1).logits[:, -1]
    return greedy_rows(loaded.model, cache, logits, prompt.max_new_tokens, _stop_rule(loaded.tokenizer, prompt))


def _stop_rule(tokenizer: Any, prompt: Prompt) -> StopRule:
    def ended(tokens: list[int]) -> bool:
        text = tokenizer.decode(tokens)
        return any(stop in text for stop in prompt.stop_strings)

    return StopRule(prompt.stop_tokens, bool(prompt.stop_tokens), ended if prompt.stop_strings else None)


def _kept(cache: LavaCache, num_heads: Sequence[int], num_tokens: int) -> list[dict[str, Any]]:
    """What each row of a cache holds of the context, in numbers that JSON can take."""
    layers, _, heads, loss = cache.budgets()
    total, found = sum(num_heads), []
    for row, num_bytes in enumerate(cache.bytes_by_sequence()):
        entries = int(layers[:, row].sum())
        found.append(
            {
                "tokens_per_head": entries // total if entries % total == 0 else entries / total,
                "kept_fraction": entries / (num_tokens * total),
                "kept_entries": entries,
                "layer_entries": layers[:, row].tolist(),
                "head_entries": [each[row, :count].tolist() for each, count in zip(heads, num_heads, strict=True)],
                "estimated_loss": float(loss[:, row].sum()),
                "kv_bytes": num_bytes,
            }
        )
    return found


def _full_bytes(recording: Recording) -> int:
    """What keys and values of the whole prompt take."""
    compressed = sum(prompt.keys.nbytes + prompt.values.nbytes for prompt in recording.layers.values())
    return compressed + sum(layer_bytes(layer) for layer in recording.other_layers.values())


def _ids(loaded: LoadedModel, ids: Tensor) -> Tensor:
    tensor: Tensor = ids.to(torch.int64)[None].to(loaded.model.device)
    return tensor
