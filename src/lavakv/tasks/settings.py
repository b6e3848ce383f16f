"""Settings of a run's tasks: protocol, data, number and size of examples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lavakv.errors import TaskError

Half = Literal["choosing", "reporting"]
Protocol = Literal["paper", "harness"]


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """Settings that all tasks of a run share.

    Attributes:
        protocol: `paper` for the benchmarks' official prompts and scores, `harness` for lm-evaluation-harness's own.
        data_dir: folder with local slices, `<data_dir>/longbench/qasper.jsonl` and so on; None loads from the hub.
        limit: first examples of each task (of each length, for generated ones); None for all.
        seed: of generated examples.
        lengths: tokens of generated examples; empty for the task's own default.
        depths: of the needle, in percent; empty for the default.
        tokenizer: the model's, for generated examples.
        haystack: folder of .txt files; None generates text.
        skip_broken: skip broken data lines instead of raising.
        half: `choosing` or `reporting` for half of each data set's examples, see `lavakv.tasks.halves`; None for all.
        chat: generated examples leave space for the model's chat template, if it has one.
    """

    protocol: Protocol = "paper"
    data_dir: Path | None = None
    limit: int | None = None
    seed: int = 42
    lengths: tuple[int, ...] = ()
    depths: tuple[float, ...] = ()
    tokenizer: Any = None
    haystack: Path | None = None
    skip_broken: bool = False
    chat: bool = True
    half: Half | None = None

    def __post_init__(self) -> None:
        if self.protocol not in ("paper", "harness"):
            raise TaskError(
                "protocol", expected="paper or harness", got=repr(self.protocol), fix="The default is paper."
            )
        if self.limit is not None and self.limit < 1:
            raise TaskError("limit", expected="at least 1", got=str(self.limit), fix="Omit it for all examples.")
        if any(length < 1 for length in self.lengths):
            raise TaskError(
                "lengths", expected="token counts above 0", got=str(self.lengths), fix="Write e.g. 4096,8192."
            )
        if any(not 0 <= depth <= 100 for depth in self.depths):
            raise TaskError("depths", expected="percent, 0 to 100", got=str(self.depths), fix="Write e.g. 0,50,100.")
