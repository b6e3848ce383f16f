"""What can be wrong with a forward, found before its first layer runs."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from lavakv.errors import CacheMismatchError, InputError, NotEnabledError, UnsupportedError
from lavakv.hf.geometry import Geometry, geometry_of
from lavakv.hf.names import PREFIX


def check_model(geometry: Geometry, model: Any, owner: weakref.ref[nn.Module] | None) -> None:
    """Is this the model the cache was made for?

    Args:
        geometry: what the cache was made for.
        model: the model under way.
        owner: the model that filled the cache, which may be gone, or None while the cache is empty.

    Raises:
        NotEnabledError: the attention implementation was changed after `enable`.
        CacheMismatchError: another architecture, or another model than the one that filled the cache.
    """
    implementation = model.config._attn_implementation
    if not str(implementation).startswith(PREFIX):
        raise NotEnabledError(
            "model",
            expected="lavakv's attention implementation",
            got=repr(implementation),
            fix="Call `lavakv.enable(model)` again after `set_attn_implementation`.",
        )
    if owner is not None and owner() is model:
        return
    found = geometry_of(model.config)
    if owner is not None or found != geometry:
        raise CacheMismatchError(
            "past_key_values",
            expected=f"the model the cache was made for ({geometry.model_type}, {geometry.num_layers} layers)",
            got=f"another {found.model_type} with {found.num_layers} layers",
            fix="Make a LavaCache from this model's config.",
        )


def check_inputs(
    inputs: Tensor, real: Tensor, held: int, columns_seen: Tensor | None, max_positions: int | None
) -> None:
    """Can these tokens go on top of what the cache holds?

    Args:
        inputs: token ids `[B, q]` or embeddings `[B, q, hidden]`.
        real: bool `[B, q]`, which of the new columns are no padding.
        held: sequences the cache holds, -1 while it is empty.
        columns_seen: bool `[B, columns]` of the columns before, None for a prompt.
        max_positions: tokens the model's positions reach, or None.

    Raises:
        CacheMismatchError: another batch size.
        InputError: an empty prompt, right padding, or more tokens than the model has positions for.
    """
    batch, count = inputs.shape[:2]
    if held not in (-1, batch):
        raise CacheMismatchError(
            "input_ids",
            expected=f"{held} sequences, as the cache holds",
            got=f"{batch}",
            fix="Use a new cache for each batch.",
        )
    if count == 0 or columns_seen is None:
        _check_prompt(real[:, :count])
    seen = 0 if columns_seen is None else columns_seen.shape[1]
    if count > 1 and max_positions is not None and seen + count > max_positions:  # else no need to look at the device
        tokens = real.sum(dim=1) if columns_seen is None else real.sum(dim=1) + columns_seen.sum(dim=1)
        longest = int(tokens.max())
        if longest > max_positions:
            raise InputError(
                "input_ids",
                expected=f"at most {max_positions} tokens, the model's positions",
                got=str(longest),
                fix="Shorten the prompt, or load the model with longer positions.",
            )


def check_reserved(max_new_tokens: Any) -> int:
    """Can room for so many new tokens be made?

    Raises:
        InputError: not a whole number, or negative.
    """
    if not isinstance(max_new_tokens, int) or isinstance(max_new_tokens, bool) or max_new_tokens < 0:
        raise InputError(
            "max_new_tokens",
            expected="a whole number of tokens, 0 or more",
            got=repr(max_new_tokens),
            fix="Pass as many as `generate` may produce.",
        )
    return max_new_tokens


def check_heads(index: int, expected: int, keys: Tensor) -> None:
    """Does a layer have the KV heads its configuration says?

    Raises:
        UnsupportedError: it does not, so budgets over all layers would be wrong.
    """
    if keys.shape[1] != expected:
        raise UnsupportedError(
            f"model layer {index}",
            expected=f"{expected} KV heads, as its config says",
            got=f"{keys.shape[1]}",
            fix="This architecture is not supported.",
        )


def check_settings(kwargs: dict[str, Any], config: Any) -> None:
    """Refuse what evicted entries make impossible.

    Raises:
        UnsupportedError: `output_attentions=True`.
    """
    if kwargs.get("output_attentions") or getattr(config, "output_attentions", False):
        raise UnsupportedError(
            "output_attentions",
            expected="False",
            got="True",
            fix="Attention to evicted tokens does not exist; turn it off.",
        )


def _check_prompt(real: Tensor) -> None:
    tokens = real.sum(dim=1)
    if real.numel() == 0 or not bool((tokens > 0).all()):
        raise InputError(
            "input_ids", expected="at least one token a sequence", got="an empty prompt", fix="Give it a prompt."
        )
    if bool((real[:, 1:] < real[:, :-1]).any()):
        raise InputError(
            "attention_mask",
            expected="left padding: zeros first, then ones",
            got="padding behind or between tokens",
            fix='Set `tokenizer.padding_side = "left"`.',
        )


def tokens_and_padding(real: Tensor) -> tuple[list[int], list[int]]:
    """Real tokens and left padding of each sequence of a prompt."""
    tokens: list[int] = torch.sum(real, dim=1).tolist()
    return tokens, [real.shape[1] - count for count in tokens]
