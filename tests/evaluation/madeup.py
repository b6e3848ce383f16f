"""A made-up task, and a run of it on a tiny model, for tests in this process and in others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lavakv.evaluation.executor import Executor, SerialExecutor
from lavakv.evaluation.folder import locked
from lavakv.evaluation.run import Evaluation
from lavakv.evaluation.settings import EvalSettings
from lavakv.models.load import load
from lavakv.tasks import Example, Task, TaskSettings

NUM_WORDS = 80


@dataclass(frozen=True)
class Echo(Task):
    """Asks for a word of a list; the score is the share of the answer's words that are in the prediction."""

    num_examples: int = 3
    words: int = 60
    context: str | None = None
    answers: tuple[str, ...] = ("word1 word2",)

    def examples(self, settings: TaskSettings) -> Iterator[Example]:
        for index in range(min(self.num_examples, settings.limit or self.num_examples)):
            words = " ".join(f"word{(index + 1) * each % NUM_WORDS}" for each in range(self.words + 10 * index))
            yield Example(
                self.name, f"e{index}", self.context or f"{words} ", "word7 word8", self.answers,
            )  # fmt: skip

    def score(self, answers: Sequence[str], classes: Sequence[str], prediction: str) -> float:
        return max(sum(word in prediction for word in answer.split()) / len(answer.split()) for answer in answers)


def echo(**options: object) -> Echo:
    return Echo(
        **{"name": "echo", "benchmark": "Made up", "group": "Words", "metric": "Share", "max_new_tokens": 6, **options}
    )


def settings(model: str, **options: object) -> EvalSettings:
    chosen = {"tasks": ("echo",), "policies": ("lava", "snapkv"), "budgets": (20, 30), "window": 8, "dtype": "float32"}
    return EvalSettings(model=model, **{**chosen, **options})


def run(
    chosen: EvalSettings,
    out: Path,
    task: Task | None = None,
    executor: Executor | None = None,
    *,
    restart: bool = False,
) -> list[dict]:
    with locked(out) as folder:
        task = task or echo()
        executor = executor or SerialExecutor(load(chosen.model, dtype=chosen.dtype, device="cpu"))
        return Evaluation(chosen, {task.name: task}, executor, folder, restart=restart).run()


def run_alone(model: str, out: Path, num_examples: int) -> None:
    """A run in a process of its own, for tests that kill it."""
    torch.set_num_threads(1)
    run(settings(model), out, echo(num_examples=num_examples))
