"""What can be wrong with a forward, found before its first layer runs."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from lavakv.errors import CacheMismatchError, InputError, NotEnabledError, UnsupportedError
from lavakv.hf.geometry import Geometry, geometry_of
from lavakv.hf.versions import versions

enabled_decoders: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def check_model(geometry: Geometry, model: Any, owner: weakref.ref[nn.Module] | None, filled: bool) -> None:
    """Check that this is the model the cache was made for.

    Args:
        geometry: what the cache was made for.
        model: the model under way.
        owner: the model that filled the cache, which may be gone; None while the cache is empty, or where a filled one
            came out of a pickle.
        filled: whether the cache holds a prompt.

    Raises:
        CacheMismatchError: another architecture, or another model than the one that filled the cache.
    """
    if owner is not None and owner() is model:
        return
    found = geometry_of(model.config)
    if (filled and owner is not None) or found != geometry:
        raise CacheMismatchError(
            "cache",
            expected=f"the model the cache was made for ({geometry.model_type}, {geometry.num_layers} layers)",
            got=f"another {found.model_type} with {found.num_layers} layers",
            fix="Make a LavaCache from this model's config.",
        )


def check_batch(inputs: Tensor, held: int) -> None:
    """Check that as many sequences come as a cache holds; -1 while it is empty.

    Raises:
        CacheMismatchError: another batch size.
    """
    if held not in (-1, inputs.shape[0]):
        raise CacheMismatchError(
            "input_ids",
            expected=f"{held} sequences, as the cache holds",
            got=f"{inputs.shape[0]}",
            fix="Send as many rows as the cache holds. For several answers or questions to one text, `cache.expand(n)` "
            "repeats what it holds, and copy.deepcopy copies it.",
        )


def check_inputs(
    inputs: Tensor, real: Tensor, columns_seen: Tensor | None, max_positions: int | None, is_chunk: bool = False
) -> None:
    """Check that these tokens can go on top of what the cache holds.

    Args:
        inputs: token ids `[B, q]` or embeddings `[B, q, hidden]`.
        real: bool `[B, q]`, which of the new columns are no padding.
        columns_seen: bool `[B, columns]` of the columns before, None for a prompt.
        max_positions: tokens the model's positions reach, or None.
        is_chunk: whether more of the prompt may come, so that a sequence may have only padding so far.

    Raises:
        InputError: an empty prompt, no new tokens, right padding, or more tokens than the model has positions for.
    """
    count = inputs.shape[1]
    if columns_seen is None:
        check_prompt(real[:, :count], is_chunk)
    elif count == 0:
        raise InputError(
            "input_ids",
            expected=f"at least one token behind the {columns_seen.shape[1]} columns the cache holds",
            got="an empty input",
            fix="Send new tokens; with inputs_embeds, the embeddings of new tokens.",
        )
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


def not_announced() -> NotEnabledError:
    """The error for keys and values that arrive without the forward of an enabled model."""
    if not enabled_decoders:
        return NotEnabledError(
            "model", expected="a model that lavakv is enabled on", got="another",
            fix="Call `lavakv.enable(model)` first.",
        )  # fmt: skip
    return NotEnabledError(
        "model",
        expected="a forward of a model that lavakv is enabled on, called with the cache as an argument",
        got="keys and values from a forward that none of the enabled models announced",
        fix=f"If this is another model, call `lavakv.enable` on it as well. If it is enabled, {versions()}.",
    )


def check_reserved(max_new_tokens: Any) -> int:
    """Check a number of new tokens to reserve capacity for.

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


def check_graph(graph: Any) -> bool:
    """Check whether to decode through a graph.

    Raises:
        InputError: neither true nor false.
    """
    if not isinstance(graph, bool):
        raise InputError("graph", expected="True or False", got=repr(graph), fix="Leave it out, or pass False.")
    return graph


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


def check_prompt(real: Tensor, is_chunk: bool = False) -> None:
    """Check which columns of a prompt are real tokens, bool `[B, columns]`.

    Raises:
        InputError: a sequence without a token, unless this is a chunk, or padding that is not on the left.
    """
    tokens = real.sum(dim=1)
    if real.numel() == 0 or not (is_chunk or bool((tokens > 0).all())):
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
