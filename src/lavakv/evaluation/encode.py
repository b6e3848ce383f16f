"""From text to token ids, with the model's chat template where it has one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lavakv.errors import InputError
from lavakv.hf.positions import max_positions

HERE = "\u2063question\u2063"  # invisible separators: in no one's text


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


def encode_parts(
    tokenizer: Any, context: str, questions: Sequence[str], *, chat: bool = True
) -> tuple[Tensor, list[Tensor]]:
    """Token ids of a context, int64 `[1, N]`, and of the questions that come after it, `[1, tokens]` each.

    Joined, context and question are the prompt that a user would send in one piece. Without questions the context is
    the whole prompt.

    Args:
        tokenizer: a transformers tokenizer.
        context: what is compressed.
        questions: what is asked afterwards, each on its own.
        chat: wrap context and question in the model's chat template, if it has one.

    Raises:
        InputError: no context, or an empty question.
    """
    if not questions:
        return encode(tokenizer, context, chat=chat), []
    if not all(question.strip() for question in questions):
        raise InputError("--question", expected="some text", got="none", fix="Leave it out, or ask something.")
    if not (chat and tokenizer.chat_template):
        return encode(tokenizer, context, chat=False), [_bare(tokenizer, f"\n\n{question}") for question in questions]
    turns = [{"role": "user", "content": f"{context}\n\n{HERE}"}]
    wrapped = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    before, after = wrapped.split(HERE)
    return _bare(tokenizer, before), [_bare(tokenizer, question + after) for question in questions]


def _bare(tokenizer: Any, text: str) -> Tensor:
    """Ids without special tokens of the tokenizer's own."""
    ids: Tensor = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"].to(torch.int64)
    return ids


def max_answer_tokens(config: Any, num_tokens: int, max_new_tokens: int) -> int:
    """New tokens that fit behind a prompt: what was asked for, or what the model's positions leave.

    Raises:
        InputError: the prompt leaves no position for even one.
    """
    limit = max_positions(config.get_text_config(decoder=True))
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
