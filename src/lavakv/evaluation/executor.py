"""What runs the model: this process, or the workers of a cluster (`cluster.py`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from lavakv.evaluation.examine import examine
from lavakv.evaluation.prompt import Prompt
from lavakv.evaluation.provenance import about
from lavakv.evaluation.record import Measurement
from lavakv.evaluation.variant import Variant
from lavakv.models.load import LoadedModel


class Part(NamedTuple):
    """A prompt and the variants that still have to answer it; those of one group are decoded together."""

    prompt: Prompt
    groups: list[list[Variant]]


class Assignment(NamedTuple):
    """One example's prompts, one for each mode, which share a prefill where they can.

    Attributes:
        parts: with the variants that are left; a finished one has no groups, and is there for its tokens.
        num_positions: of the full cache's continuation to compare with; 0 compares nothing.
    """

    parts: list[Part]
    num_positions: int = 0


class Executor(ABC):
    """Runs the model.

    Attributes:
        tokenizer: the model's.
        config: the model's.
        num_workers: prompts that are processed at a time.
        model: the model, if it is in this process, or None.
    """

    tokenizer: Any
    config: Any
    model: Any = None
    num_workers: int = 1

    @abstractmethod
    def about_model(self) -> dict[str, Any]:
        """The model's dtype, kind of device and hub revision."""

    @abstractmethod
    def answers(self, assignments: Sequence[Assignment]) -> Iterator[tuple[Prompt, Measurement]]:
        """Process assignments. Yields each prompt with what `examine` measured, once for each of its variants.

        Raises:
            LavaError: what `examine` raises, or workers that keep dying.
        """


class SerialExecutor(Executor):
    """This process: one prompt after the other, in the order given.

    Args:
        loaded: model and tokenizer.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded, self.tokenizer = loaded, loaded.tokenizer
        self.model, self.config = loaded.model, loaded.model.config

    def about_model(self) -> dict[str, Any]:
        """See `Executor`."""
        return about(self._loaded.model)

    def answers(self, assignments: Sequence[Assignment]) -> Iterator[tuple[Prompt, Measurement]]:
        """See `Executor`."""
        for assignment in assignments:
            yield from examine(self._loaded, assignment)
