"""The paper's way with prompts that are too long: the middle goes."""

from __future__ import annotations

from typing import Any

from lavakv.errors import TaskError


def middle_truncated(tokenizer: Any, text: str, limit: int) -> str:
    """The first and the last `limit // 2` tokens of a text, decoded apart and joined; the text itself if it fits.

    This comes before the chat template, and the result is tokenized anew: it may come out a few tokens longer or
    shorter than `limit`. Special tokens that the tokenizer adds count, and are not decoded. As LongBench does it.

    Args:
        tokenizer: a transformers tokenizer.
        text: the filled prompt, without chat template.
        limit: tokens.

    Raises:
        TaskError: a limit that leaves no token at either end.
    """
    if limit < 2:
        raise TaskError("limit", expected="at least 2 tokens", got=str(limit), fix="Use a model with more positions.")
    ids = tokenizer(text, truncation=False)["input_ids"]
    if len(ids) <= limit:
        return text
    half = limit // 2
    first, last = (tokenizer.decode(part, skip_special_tokens=True) for part in (ids[:half], ids[-half:]))
    return str(first + last)
