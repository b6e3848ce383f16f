"""From text to token ids, with the model's chat template where it has one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lavakv.errors import InputError


def encode(tokenizer: Any, text: str, *, chat: bool = True) -> Tensor:
    """Token ids of one prompt, int64 `[1, N]`.

    Args:
        tokenizer: a transformers tokenizer.
        text: what the user says.
        chat: wrap it in the model's chat template, if it has one.

    Raises:
        InputError: no text.
    """
    if not text.strip():
        raise InputError("prompt", expected="some text", got="none", fix="Give it as an argument, a file or on stdin.")
    if chat and tokenizer.chat_template:
        turns = [{"role": "user", "content": text}]
        encoded = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    else:
        encoded = tokenizer(text, return_tensors="pt")
    ids: Tensor = encoded["input_ids"].to(torch.int64)
    return ids


def room_for_answer(config: Any, num_tokens: int, max_new_tokens: int) -> int:
    """New tokens that fit behind a prompt: what was asked for, or what the model's positions leave.

    Raises:
        InputError: the prompt leaves no position for even one.
    """
    limit = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    if limit is None:
        return max_new_tokens
    if num_tokens >= limit:
        raise InputError(
            "prompt",
            expected=f"fewer than {limit} tokens, the model's positions",
            got=str(num_tokens),
            fix="Shorten it, or use a model with longer positions.",
        )
    return min(max_new_tokens, int(limit) - num_tokens)
