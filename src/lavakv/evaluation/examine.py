"""One prompt of an evaluation through the full cache and any policies and budgets, from one prefill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from lavakv.evaluation.greedy import StopRule
from lavakv.evaluation.kept import Kept
from lavakv.evaluation.prompt import Prompt
from lavakv.evaluation.record import Measurement, OutcomePart, Seconds
from lavakv.evaluation.runner import Answers, PromptRunner
from lavakv.evaluation.variant import Variant
from lavakv.models.load import LoadedModel

Group = Sequence[Variant]


def examine(loaded: LoadedModel, prompt: Prompt, groups: Sequence[Group]) -> Iterator[Measurement]:
    """Read a prompt once and answer it from one cache after the other.

    Args:
        loaded: model and tokenizer; enabled while it is used.
        prompt: context, question and when an answer ends.
        groups: variants to answer it with; those of one group are decoded together.

    Yields:
        The measured part of a record for each variant, in order. A group's seconds are shared evenly.

    Raises:
        LavaError: a policy or budget that this model or prompt cannot be served with.
    """
    runner = PromptRunner(loaded.model, prompt.context[None])
    question: Tensor | None = prompt.question.long()[None] if len(prompt.question) else None
    stop = _stop_rule(loaded.tokenizer, prompt)
    for group in groups:
        for rows in [group] if runner.can_batch else [[variant] for variant in group]:
            answers = runner.answer(rows, question, prompt.max_new_tokens, stop)
            for row, variant in enumerate(rows):
                yield _measured(loaded.tokenizer, runner, variant, answers, row)


def _measured(tokenizer: Any, runner: PromptRunner, variant: Variant, answers: Answers, row: int) -> Measurement:
    num_rows, tokens, kept = len(answers.tokens), answers.tokens[row], answers.kept[row]
    outcome: OutcomePart = {
        "policy": variant.label,
        "budget": variant.budget_label,
        "window": variant.window,
        "tokens_per_head": _mean_entries(kept),
        "kept_fraction": kept.fraction,
        "kept_entries": kept.entries,
        "layer_entries": kept.layer_entries,
        "head_entries": kept.head_entries,
        "estimated_loss": kept.estimated_loss,
        "kv_bytes": kept.kv_bytes,
        "full_kv_bytes": runner.full_kv_bytes,
        "prediction": tokenizer.decode(tokens, skip_special_tokens=True),
        "new_tokens": len(tokens),
        "batch_rows": num_rows,
        "batch_steps": max(map(len, answers.tokens)),
    }
    seconds: Seconds = {
        "prefill": runner.recording.seconds,
        "fill": answers.fill_seconds / num_rows,
        "decode": (answers.question_seconds + answers.decode_seconds) / num_rows,
    }
    replay = runner.replay_seconds(variant)
    if replay is not None:
        seconds["replay"] = replay
    return Measurement(outcome, seconds)


def _mean_entries(kept: Kept) -> float:
    """Mean entries per KV head; a whole number where it is one."""
    num_heads = sum(map(len, kept.head_entries))
    return kept.entries // num_heads if kept.entries % num_heads == 0 else kept.entries / num_heads


def _stop_rule(tokenizer: Any, prompt: Prompt) -> StopRule:
    def ended(tokens: list[int]) -> bool:
        text = tokenizer.decode(tokens)
        return any(stop in text for stop in prompt.stop_strings)

    return StopRule(prompt.stop_tokens, bool(prompt.stop_tokens), ended if prompt.stop_strings else None)
