"""Truncating prompts that are too long in the middle, as LongBench does."""

from __future__ import annotations

from typing import Any

from lavakv.errors import TaskError


def middle_truncated(tokenizer: Any, text: str, limit: int) -> str:
    """The first and the last `limit // 2` tokens of a text, decoded separately and joined; the text itself if it fits.

    This comes before the chat template, and the result is tokenized again: it may come out a few tokens longer or
    shorter than `limit`. Special tokens that the tokenizer adds count, and are not decoded.

    Args:
        tokenizer: a transformers tokenizer.
        text: the filled prompt, without chat template.
        limit: tokens.

    Raises:
        TaskError: the limit leaves no token at one end.
    """
    if limit < 2:
        raise TaskError("limit", expected="at least 2 tokens", got=str(limit), fix="Use a model with more positions.")
    ids = tokenizer(text, truncation=False)["input_ids"]
    if len(ids) <= limit:
        return text
    half = limit // 2
    first, last = (tokenizer.decode(own, skip_special_tokens=True) for own in (ids[:half], ids[-half:]))
    return str(first + last)
