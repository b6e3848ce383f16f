"""One question of a task."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and what would be right.

    Attributes:
        task: the task's name.
        name: stable within the task: the record's own id, else its index; for generated ones from the seed.
        context: the user prompt up to the question.
        question: the user prompt from there on; `context + question` is all of it, exactly.
        answers: right answers; what several mean depends on the task's metric.
        classes: for classification all labels, for multiple choice the options; else empty.
        answer_prefix: goes behind the chat template's assistant mark (RULER).
        group: a bucket within the task (LongBench-E: of lengths), or empty.
        length: tokens asked for, of generated examples.
        depth: where the needle lies, in percent of the haystack.
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

    @property
    def prompt(self) -> str:
        """All that the user says."""
        return self.context + self.question
