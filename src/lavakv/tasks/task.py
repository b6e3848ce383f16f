"""The interface of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lavakv.errors import TaskError
from lavakv.tasks.example import Example
from lavakv.tasks.settings import TaskSettings


@dataclass(frozen=True)
class Task(ABC):
    """Prompts of one task and the rules for answers to them.

    Attributes:
        name: as on the command line, `longbench_qasper`.
        benchmark: `LongBench`.
        group: its category in the benchmark, `Single-document QA`.
        metric: name for reports, `F1`.
        max_new_tokens: most tokens of an answer.
        chat: wrap the prompt in the model's chat template, if it has one.
        stops_at_newline: a newline token ends the answer, except as its first token.
        version: changes whenever prompts or scores change.
        stop_strings: strings that end an answer. Stopping there saves time only: `score` cuts there in any case.
    """

    name: str
    benchmark: str
    group: str
    metric: str
    max_new_tokens: int
    chat: bool = True
    stops_at_newline: bool = False
    version: str = "paper-1"
    stop_strings: tuple[str, ...] = ()

    @abstractmethod
    def examples(self, settings: TaskSettings) -> Iterator[Example]:
        """The task's prompts, always in the same order.

        Raises:
            TaskError: the data cannot be found, read or generated.
        """

    @abstractmethod
    def score(self, answers: Sequence[str], classes: Sequence[str], prediction: str) -> float:
        """The score of a prediction, 0 to 1. Needs no model and no data, so that records can be scored again.

        Args:
            answers: the example's.
            classes: the example's.
            prediction: the generated text as decoded, without special tokens, not stripped.

        Raises:
            TaskError: there are no answers to compare it with.
        """


def check_answers(task: Task, answers: Sequence[str]) -> Sequence[str]:
    """Return the answers.

    Raises:
        TaskError: there are none.
    """
    if not answers:
        raise TaskError(
            f"answers of {task.name}", expected="at least one", got="none", fix="Fix or remove that record."
        )
    return answers


def check_protocol(task: Task, settings: TaskSettings) -> None:
    """Check that the settings ask for the paper's protocol, whose prompts the official scores are for.

    Raises:
        TaskError: the settings ask for the harness's protocol.
    """
    if settings.protocol != "paper":
        fix = f"Use get_task({task.name!r}, 'harness')."
        raise TaskError("protocol", expected=f"paper, {task.name} is official", got=settings.protocol, fix=fix)
