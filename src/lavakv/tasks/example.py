"""One prompt of a task and its answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and its right answers.

    Attributes:
        task: the task's name.
        name: stable within the task: the record's own id, else its index; for generated ones from the seed.
        context: the user prompt up to the question.
        question: the rest of the user prompt; `context + question` is exactly the whole.
        answers: right answers; what several mean depends on the task's metric.
        classes: for classification all labels, for multiple choice the options; else empty.
        answer_prefix: follows the chat template's assistant marker (RULER).
        group: a bucket within the task (LongBench-E: of lengths), or empty.
        length: requested prompt tokens, of generated examples.
        depth: of the needle, in percent of the haystack.
        source: the data set's own context, without the task's words around it; empty where there is no such text.
    """

    task: str
    name: str
    context: str
    question: str
    answers: tuple[str, ...]
    classes: tuple[str, ...] = ()
    answer_prefix: str = ""
    group: str = ""
    length: int | None = None
    depth: float | None = None
    source: str = ""

    @property
    def prompt(self) -> str:
        """The whole user prompt."""
        return self.context + self.question
