"""One prompt of an evaluation through the full cache and any policies and budgets, from one prefill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lavakv.errors import UnsupportedError
from lavakv.evaluation.continuation import continue_greedily
from lavakv.evaluation.encode import max_answer_tokens
from lavakv.evaluation.greedy import StopRule
from lavakv.evaluation.kept import Kept
from lavakv.evaluation.prompt import Prompt
from lavakv.evaluation.record import Measurement, OutcomePart, Seconds
from lavakv.evaluation.runner import Answers, PromptRunner
from lavakv.evaluation.variant import Variant
from lavakv.models.load import LoadedModel

if TYPE_CHECKING:
    from lavakv.evaluation.executor import Assignment


def examine(loaded: LoadedModel, assignment: Assignment) -> Iterator[tuple[Prompt, Measurement]]:
    """Read an example's prompts, once where one begins with the other, and answer from one cache after the other.

    Args:
        loaded: model and tokenizer; enabled while it is used.
        assignment: prompts, the variants to answer each with, and how many positions to compare with the full cache.

    Yields:
        A prompt and the measured part of a record for each of its variants, in order. A group's seconds are shared
        evenly.

    Raises:
        LavaError: a policy or budget that this model or prompt cannot be served with.
    """
    whole: PromptRunner | None = None
    for prompt, groups in assignment.parts:
        runner = None if whole is None else _cut(whole, prompt)
        is_cut, whole = runner is not None, None  # frees what was computed on the whole prompt
        if runner is None:
            runner = PromptRunner(loaded.model, prompt.context[None])
            whole = runner if prompt is not assignment.parts[-1].prompt else None
        for variant, answers, row in _answers(loaded, runner, prompt, groups, assignment.num_positions):
            measured = _measured(loaded.tokenizer, runner, variant, answers, row)
            if is_cut:
                measured.outcome["shares_prefill"] = True
            yield prompt, measured


def _cut(whole: PromptRunner, prompt: Prompt) -> PromptRunner | None:
    """A runner of a prompt's context from that of a prompt which begins with it; None where it must be read."""
    context = prompt.context.to(whole.recording.inputs)
    if not torch.equal(whole.recording.inputs[0, : len(context)], context):
        return None
    try:
        return whole.prefix(len(context))
    except UnsupportedError:
        return None


def _answers(
    loaded: LoadedModel, runner: PromptRunner, prompt: Prompt, groups: Sequence[Sequence[Variant]], num_positions: int
) -> Iterator[tuple[Variant, Answers, int]]:
    """Each variant with the answers of its batch and its row there."""
    question: Tensor | None = prompt.question.long()[None].to(loaded.model.device) if len(prompt.question) else None
    continuation = None
    if num_positions and groups:
        fitting = max_answer_tokens(loaded.model.config, prompt.num_tokens, num_positions)
        continuation = continue_greedily(runner, question, fitting)
    stop = _stop_rule(loaded.tokenizer, prompt)
    for group in groups:
        for rows in [group] if runner.can_batch else [[variant] for variant in group]:
            answers = runner.answer(rows, question, prompt.max_new_tokens, stop, continuation)
            yield from ((variant, answers, row) for row, variant in enumerate(rows))


def _measured(tokenizer: Any, runner: PromptRunner, variant: Variant, answers: Answers, row: int) -> Measurement:
    num_rows, tokens, kept = len(answers.tokens), answers.tokens[row], answers.kept[row]
    outcome: OutcomePart = {
        "policy": variant.label,
        "budget": variant.budget_label,
        "window": variant.window_tokens,
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
    if answers.distances is not None:
        kl_nats, top1_agreement = answers.distances[row]
        outcome |= {"kl_nats": kl_nats, "top1_agreement": top1_agreement}
    seconds: Seconds = {
        "prefill": runner.recording.seconds,
        "fill": answers.fill_seconds / num_rows,
        "decode": (answers.question_seconds + answers.decode_seconds) / num_rows,
    }
    if answers.distances is not None:
        seconds["kl"] = answers.distance_seconds / num_rows
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
