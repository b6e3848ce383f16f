"""From a task's example to token ids: middle truncation, chat template, answer prefix, context and question."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lavakv.errors import InputError
from lavakv.evaluation.prompt import SHOWN_CHARACTERS, Prompt, prompt_hash
from lavakv.evaluation.record import PromptPart
from lavakv.evaluation.settings import EvalSettings, Mode
from lavakv.hf.positions import max_positions
from lavakv.models.chat import ChatTemplate
from lavakv.tasks.example import Example
from lavakv.tasks.task import Task
from lavakv.tasks.truncation import middle_truncated

_SPARE = 32  # tokens that a truncated text may gain when it is tokenized again


class PromptMaker:
    """Makes prompts for one model by one protocol.

    Args:
        settings: protocol, mode, limits.
        tokenizer: the model's.
        config: the model's.
    """

    def __init__(self, settings: EvalSettings, tokenizer: Any, config: Any) -> None:
        self._settings, self._tokenizer = settings, tokenizer
        self._positions = max_positions(config.get_text_config(decoder=True))

    def make(self, task: Task, example: Example) -> list[Prompt]:
        """One example's prompts, one for each mode.

        Raises:
            InputError: no answers, no context or question, or more tokens than the model has positions.
        """
        what = f"task {task.name}, example {example.name}"
        if not example.answers:
            raise InputError(what, expected="at least one right answer", got="none", fix="Fix or remove that record.")
        text = example.context + example.question
        shorter = self._truncated(task, example, text)
        whole = self._wrapped(task, example, shorter)
        return [self._made(what, task, example, whole, mode, shorter != text) for mode in self._settings.modes]

    def _made(self, what: str, task: Task, example: Example, whole: str, mode: Mode, truncated: bool) -> Prompt:
        context, question = self._split(what, task, example, whole, mode)
        max_new_tokens = min(task.max_new_tokens, self._settings.max_new_tokens or task.max_new_tokens)
        self._check_fits(what, example, len(context) + len(question), max_new_tokens)
        about: PromptPart = {
            "task": task.name,
            "task_version": task.version,
            "benchmark": task.benchmark,
            "task_group": task.group,
            "metric": task.metric,
            "example": example.name,
            "group": example.group,
            "length": example.length,
            "depth": example.depth,
            "prompt_hash": prompt_hash(context, question),
            "prompt_tokens": len(context) + len(question),
            "truncated": truncated,
            "mode": mode,
            "answers": list(example.answers),
            "classes": list(example.classes),
            "prompt_head": whole[:SHOWN_CHARACTERS],
            "prompt_tail": whole[-SHOWN_CHARACTERS:],
        }
        newline = frozenset(self._newline()) if task.stops_at_newline else frozenset()
        return Prompt(about, context, question, max_new_tokens, newline, tuple(task.stop_strings))

    def _truncated(self, task: Task, example: Example, text: str) -> str:
        """The text without its middle, if it is too long for the protocol; generated prompts stay whole."""
        if self._settings.protocol != "paper" or example.length is not None:
            return text
        limit = self._settings.max_prompt_tokens
        if self._positions is not None:
            template = self._template(task)
            around = len(template.ids("".join(template.around()) + example.answer_prefix, starts_prompt=False))
            limit = min(limit, self._positions - task.max_new_tokens - around - _SPARE)
        if limit < 2:
            raise InputError(
                f"task {task.name}", expected="a model with enough positions for a prompt",
                got=f"{self._positions} positions for {task.max_new_tokens} new tokens and the chat template",
                fix="Use a model with more positions.",
            )  # fmt: skip
        return middle_truncated(self._tokenizer, text, limit)

    def _wrapped(self, task: Task, example: Example, text: str) -> str:
        """A user's text with the chat template around it and the answer's prefix behind it."""
        return self._template(task).wrap(text) + example.answer_prefix

    def _template(self, task: Task) -> ChatTemplate:
        return ChatTemplate(self._tokenizer, self._settings.uses_chat(task))

    def _split(self, what: str, task: Task, example: Example, whole: str, mode: Mode) -> tuple[Tensor, Tensor]:
        """Ids of context and question. A chat template brings its special tokens itself."""
        template = self._template(task)
        if mode == "query-aware":
            return _tensor(template.ids(whole)), torch.zeros(0, dtype=torch.int32)
        after = template.around()[1] + example.answer_prefix
        question = example.question if whole.endswith(example.question + after) else example.question.rstrip()
        asked = question + after  # many templates strip what the user says
        context = whole.removesuffix(asked)
        if not asked or not context or context == whole:
            raise InputError(
                what, expected="a question after a context", got="a prompt without one of them, or cut inside it",
                fix="Use --mode query-aware, more --max-prompt-tokens or a model with more positions.",
            )  # fmt: skip
        return _tensor(template.ids(context)), _tensor(template.ids(asked, starts_prompt=False))

    def _check_fits(self, what: str, example: Example, num_tokens: int, max_new_tokens: int) -> None:
        if self._positions is not None and num_tokens + max_new_tokens > self._positions:
            raise InputError(
                what,
                expected=f"at most {self._positions - max_new_tokens} prompt tokens, the model's {self._positions} "
                f"positions less {max_new_tokens} for the answer",
                got=str(num_tokens),
                fix=self._length_hint(example),
            )

    def _length_hint(self, example: Example) -> str:
        if example.length is not None:
            return "Use shorter --lengths, as generated prompts are never cut, or use a model with more positions."
        if self._settings.protocol == "harness":
            return (
                "Use --protocol paper, which cuts the middle out of data sets' prompts, shorter --lengths where "
                "the harness generates them, or a model with more positions."
            )
        return "Lower --max-prompt-tokens, or use a model with more positions."

    def _newline(self) -> list[int]:
        """The id of a newline, as LongBench takes it: the last of its tokens."""
        return ChatTemplate(self._tokenizer).ids("\n", starts_prompt=False)[-1:]


def _tensor(ids: list[int]) -> Tensor:
    return torch.tensor(ids, dtype=torch.int32)
