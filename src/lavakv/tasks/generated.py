"""Shared by generated prompts: the draft, the seeded randomness, the token count."""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

from lavakv.errors import TaskError
from lavakv.models.chat import ChatTemplate
from lavakv.tasks.settings import TaskSettings


class Draft(NamedTuple):
    """A generated prompt.

    Attributes:
        context: up to the question.
        question: the rest of the user prompt.
        answers: right answers.
        answer_prefix: how the answer starts, with its leading space.
        depth: of the needle in the haystack, in percent, if there is one.
    """

    context: str
    question: str
    answers: tuple[str, ...]
    answer_prefix: str = ""
    depth: float | None = None


def require_tokenizer(settings: TaskSettings, task: str) -> Any:
    """The settings' tokenizer.

    Raises:
        TaskError: the settings have none.
    """
    if settings.tokenizer is None:
        expected = f"the model's tokenizer: {task} is generated to a length"
        raise TaskError("tokenizer", expected=expected, got="none", fix="Pass it in the settings.")
    return settings.tokenizer


def seeded_random(*keys: object) -> Random:
    """A random source that depends on the keys alone, the same on every machine."""
    return Random("/".join(map(str, keys)))


def token_count(tokenizer: Any, draft: Draft, chat: bool = True) -> int:
    """Tokens of a whole prompt, answer prefix included.

    Args:
        tokenizer: the model's.
        draft: the prompt.
        chat: count the chat template, if the tokenizer has one.
    """
    template = ChatTemplate(tokenizer, chat)
    return len(template.ids(template.wrap(draft.context + draft.question) + draft.answer_prefix))
