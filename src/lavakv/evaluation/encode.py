"""From text to token ids, with the model's chat template where it has one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lavakv.errors import InputError
from lavakv.hf.positions import max_positions
from lavakv.models.chat import ChatTemplate

_GAP = "\n\n"  # between a text and its question


def encode(tokenizer: Any, text: str, *, chat: bool = True) -> Tensor:
    """Token ids of one prompt, int64 `[1, N]`.

    Args:
        tokenizer: a transformers tokenizer.
        text: what the user says.
        chat: wrap it in the model's chat template, if it has one.

    Raises:
        InputError: no text.
    """
    _require_text(text)
    template = ChatTemplate(tokenizer, chat)
    return _row(template.ids(template.wrap(text)))


def encode_parts(
    tokenizer: Any, context: str, questions: Sequence[str], *, chat: bool = True
) -> tuple[Tensor, list[Tensor]]:
    """Token ids of a context, int64 `[1, N]`, and of the questions that come after it, `[1, tokens]` each.

    Joined, context and question are the prompt that a user would send in one piece. Without questions the context is
    the whole prompt.

    Args:
        tokenizer: a transformers tokenizer.
        context: what is compressed.
        questions: asked afterwards, each on its own.
        chat: wrap context and question in the model's chat template, if it has one.

    Raises:
        InputError: no context, or an empty question.
    """
    if not questions:
        return encode(tokenizer, context, chat=chat), []
    if not all(question.strip() for question in questions):
        raise InputError("--question", expected="some text", got="none", fix="Omit it, or ask something.")
    context_ids = encode_context(tokenizer, context, chat=chat)
    return context_ids, [encode_question(tokenizer, question, chat=chat) for question in questions]


def encode_context(tokenizer: Any, text: str, *, chat: bool = True) -> Tensor:
    """Token ids of a text whose question comes later, int64 `[1, N]`, up to where the question begins.

    Args:
        tokenizer: a transformers tokenizer.
        text: what the user says before the question.
        chat: begin as the model's chat template does, if it has one.

    Raises:
        InputError: no text.
    """
    _require_text(text)
    template = ChatTemplate(tokenizer, chat)
    return _row(template.ids(template.around(f"{text}{_GAP}")[0] if template.is_used else text))


def encode_question(tokenizer: Any, question: str, *, chat: bool = True) -> Tensor:
    """Token ids that follow those of `encode_context`, int64 `[1, tokens]`, up to where the answer begins.

    Args:
        tokenizer: a transformers tokenizer.
        question: what the user says behind the text.
        chat: as for the text.
    """
    template = ChatTemplate(tokenizer, chat)
    rest = question + template.around()[1] if template.is_used else _GAP + question
    return _row(template.ids(rest, starts_prompt=False))


def max_answer_tokens(config: Any, num_tokens: int, max_new_tokens: int) -> int:
    """New tokens that fit behind a prompt: `max_new_tokens`, or what the model's positions leave.

    Args:
        config: the model's.
        num_tokens: length of the prompt.
        max_new_tokens: most new tokens.

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


def _require_text(prompt: str) -> None:
    if not prompt.strip():
        raise InputError("prompt", expected="some text", got="none", fix="Give it as an argument, a file or on stdin.")


def _row(ids: list[int]) -> Tensor:
    return torch.tensor([ids], dtype=torch.int64)
