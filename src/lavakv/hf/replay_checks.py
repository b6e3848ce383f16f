"""Whether a prompt can be replayed, found before its first layer runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from lavakv.errors import InputError, UnsupportedError
from lavakv.eviction.shares import SequencePlan
from lavakv.hf.held_prompt import is_due
from lavakv.hf.layer import LavaLayer, LavaLinearLayer
from lavakv.hf.memory import STATELESS
from lavakv.policy.rules import Policy

_REPEATABLE = (DynamicLayer, DynamicSlidingWindowLayer)


def check_replay(
    plans: Sequence[SequencePlan], inputs: Tensor, config: Any, max_positions: int | None, layers: Sequence[Any]
) -> None:
    """Check that what must be replayed can be.

    Args:
        plans: one a sequence.
        inputs: ids or embeddings that the prompt comes as.
        config: the decoder's.
        max_positions: tokens that the model's positions reach, or None.
        layers: the cache's.

    Raises:
        InputError: embeddings in place of ids, unknown ids in a request, or more rows than the model has positions for.
        UnsupportedError: layers whose state no further tokens can be read behind and forgotten again.
    """
    due = [plan for plan in plans if is_due(plan)]
    if not due:
        return
    policy = f"policy {due[0].policy.name!r}"
    if inputs.ndim != 2:
        fix = "Pass input_ids, or use another policy."
        raise InputError("inputs_embeds", expected=f"token ids, which {policy} repeats", got="embeddings", fix=fix)
    check_layers(due[0].policy, layers)
    for plan in due:
        check_fits(plan.policy, plan.num_tokens, config, max_positions)


def check_layers(policy: Policy, layers: Sequence[Any]) -> None:
    """Check that tokens can be read behind all of a cache's layers and forgotten again.

    Args:
        policy: one that needs a replay.
        layers: of a `LavaCache`, or as transformers makes them.

    Raises:
        UnsupportedError: a recurrent layer, or one of another kind.
    """
    known = (LavaLayer, *STATELESS)
    for layer in layers:
        if type(layer) not in _REPEATABLE and (not isinstance(layer, known) or isinstance(layer, LavaLinearLayer)):
            raise UnsupportedError(
                f"policy {policy.name!r}",
                expected="full attention or sliding windows in all layers, as it replays the prompt",
                got=type(layer).__name__,
                fix="Use another policy for this model.",
            )


def check_fits(policy: Policy, num_tokens: int, config: Any, max_positions: int | None) -> None:
    """Check that a model can read what a policy's replay feeds it behind a prompt.

    Args:
        policy: one that needs a replay.
        num_tokens: length of the prompt.
        config: the model's.
        max_positions: tokens that its positions reach, or None.

    Raises:
        InputError: unknown ids in a request, or more rows than the model has positions for.
    """
    replay, name = policy.replay, f"replay of policy {policy.name!r}"
    largest = max((*replay.first_request, *replay.later_request, *replay.answer_start), default=0)
    vocabulary = getattr(config.get_text_config(decoder=True), "vocab_size", None)
    if vocabulary is not None and largest >= vocabulary:
        fix = "Encode the request with this model's tokenizer."
        raise InputError(name, expected=f"token ids below {vocabulary}", got=str(largest), fix=fix)
    rows = replay.max_rows(num_tokens)
    if max_positions is not None and num_tokens + rows > max_positions:
        chunk = replay.largest_chunk(num_tokens, max_positions)
        smaller = f"give the policy a `replay` of at most {chunk} `chunk_tokens`, " if chunk > 0 else ""
        raise InputError(
            name,
            expected=f"at most {max_positions} tokens, the model's positions",
            got=f"{num_tokens} of the prompt and {rows} that repeat a chunk of it",
            fix=f"Shorten the prompt, {smaller}or use another policy.",
        )
