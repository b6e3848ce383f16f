"""What generated prompts have in common: their parts, their randomness, their tokens."""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

from lavakv.errors import TaskError
from lavakv.models.chat import ChatTemplate
from lavakv.tasks.settings import TaskSettings


class Draft(NamedTuple):
    """A prompt that was made up.

    Attributes:
        context: up to the question.
        question: the rest of what the user says.
        answers: what is right.
        answer_prefix: how the answer starts, with its leading space.
        depth: where the needle lies, in percent, if there is one.
    """

    context: str
    question: str
    answers: tuple[str, ...]
    answer_prefix: str = ""
    depth: float | None = None


def needed_tokenizer(settings: TaskSettings, task: str) -> Any:
    """The settings' tokenizer.

    Raises:
        TaskError: none is there.
    """
    if settings.tokenizer is None:
        raise TaskError(
            "tokenizer", expected=f"the model's, {task} is made to measure", got="none", fix="Pass it in the settings."
        )
    return settings.tokenizer


def random_of(*parts: object) -> Random:
    """A random source that depends on all parts and on nothing else, the same on every machine."""
    return Random("/".join(str(part) for part in parts))


def token_count(tokenizer: Any, draft: Draft, chat: bool = True) -> int:
    """Tokens of a whole prompt, answer prefix included.

    Args:
        tokenizer: the model's.
        draft: the prompt.
        chat: count the chat template, if the tokenizer has one.
    """
    template = ChatTemplate(tokenizer, chat)
    return len(template.ids(template.wrap(draft.context + draft.question) + draft.answer_prefix))
