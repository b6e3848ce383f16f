"""The largest batch that fits into a GPU's memory: estimated from bytes, then tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from lavakv.bench.floor import Floor, ModelSize
from lavakv.bench.generation.call import timed_generate
from lavakv.bench.generation.configurations import Configurations
from lavakv.bench.generation.limit import Pace
from lavakv.bench.generation.reading import Reading
from lavakv.bench.generation.record import SETUP_STEPS, DecodeRecord, GenerateRecord
from lavakv.bench.generation.trial import missing_reason
from lavakv.bench.machine import Machine
from lavakv.bench.measured import Listener
from lavakv.bench.memory import free_memory
from lavakv.bench.settings import Setting
from lavakv.bench.subject import Subject

_NUM_TOKENS = 8
_NUM_NEW = 1 + SETUP_STEPS + _NUM_TOKENS
_TRY_SECONDS = 8.0
_TEXT_BYTES = 48  # per token of the text: ids and masks with copies
_LOGIT_BYTES = 12  # per word of the vocabulary: half and full precision
_MAX_TRIES = 8
_TOLERANCE = 0.02  # of the size: the next larger one need not be tried
_GROWTH, _SHRINKING = 1.06, 0.9


@dataclass(frozen=True, slots=True)
class LargestBatch:
    """What a search found.

    Attributes:
        configuration: name of what decodes.
        tokens: prompt tokens of each sequence.
        estimate: sequences, from bytes alone.
        batch_size: most sequences that decoded; 0 if none did.
        too_large: fewest sequences that ran out of memory, or None if none did.
        decoding: at `batch_size`, or None.
    """

    configuration: str
    tokens: int
    estimate: int
    batch_size: int
    too_large: int | None
    decoding: DecodeRecord | None

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if self.decoding is None:
            return f"{self.configuration}: none fits (estimated {self.estimate})"
        beyond = "" if self.too_large is None else f", {self.too_large} do not fit"
        return f"{self.configuration}: {self.batch_size} sequences (estimated {self.estimate}{beyond}), {self.decoding}"


def estimated_batch(free_bytes: int, bytes_per_sequence: int) -> int:
    """Sequences that memory holds, at least 1 and 3 % below what bytes allow: an allocator leaves gaps."""
    return max(int(0.97 * free_bytes / bytes_per_sequence), 1)


def search_largest(
    works: Callable[[int], DecodeRecord | None], estimate: int, may_go_on: Callable[[], bool]
) -> tuple[int, int | None, DecodeRecord | None]:
    """Find the largest batch that works, from an estimate on.

    Args:
        works: measures a batch; None if it does not fit.
        estimate: sequences, the first that are tried.
        may_go_on: asked before each try but the first.

    Returns:
        The largest batch that worked (0 if none did), the smallest that did not, or None, and the measurement of the
        former.
    """
    low, high, best, size = 0, None, None, max(estimate, 1)
    for index in range(_MAX_TRIES):
        if index and not may_go_on():
            break
        measured = works(size)
        if measured is None:
            high = size
        else:
            low, best = size, measured
        if high is not None and high - low <= max(1, int(_TOLERANCE * low)):
            break
        size = _next_size(low, high)
    return low, high, best


def _next_size(low: int, high: int | None) -> int:
    if high is None:
        return max(low + 1, int(_GROWTH * low))
    return (low + high) // 2 if low else max(1, int(_SHRINKING * high))


class LargestBatchSearch:
    """Searches the largest batch of one prompt length on a GPU; decoding alone, from one prompt that is repeated.

    Args:
        subject: the model.
        reading: has read the prompt for one sequence.
        size: of the model.
        machine: for the floors.
        pace: of the run.
        listener: is told each try.
    """

    def __init__(
        self, subject: Subject, reading: Reading, size: ModelSize, machine: Machine, pace: Pace, listener: Listener
    ) -> None:
        self._subject, self._reading, self._size, self._machine = subject, reading, size, machine
        self._pace, self._listener = pace, listener

    def search(self, name: str, free_bytes: int, estimate: int | None = None) -> LargestBatch:
        """Search for one configuration.

        Args:
            name: `full_random`, `lavakv` or `lavakv_graph`.
            free_bytes: memory that caches and steps may take.
            estimate: sequences to begin with, if something better is known than bytes.
        """
        if estimate is None:
            estimate = estimated_batch(free_bytes, self._bytes_per_sequence(name))
        tokens = self._reading.prompt.shape[1]
        found = search_largest(lambda count: self._try(name, count), estimate, self._may_go_on)
        largest = LargestBatch(name, tokens, estimate, *found)
        self._listener.say(f"largest batch at {tokens} tokens, {largest}")
        return largest

    def _may_go_on(self) -> bool:
        return self._pace.limit.reason_to_skip(_TRY_SECONDS) is None

    def _try(self, name: str, count: int) -> DecodeRecord | None:
        self._listener.doing(f"largest batch: {name}, {count} sequences")
        setting = Setting(self._reading.prompt.shape[1], count, self._reading.budget)
        floor = Floor.of(self._size, self._machine, setting)
        record = GenerateRecord(setting, floor, _NUM_TOKENS)
        configurations = Configurations(self._subject, self._reading, setting, _NUM_NEW)
        free_memory(self._subject.device)
        try:
            ready = configurations.ready(name)
            with ready.around():
                call = timed_generate(self._subject.model, ready.ids, ready.cache, _NUM_NEW)
        except torch.OutOfMemoryError:
            return None
        if missing_reason(name, call) is not None:  # no memory was left for a graph
            return None
        return DecodeRecord.of(call, count, record.floor_of(name))

    def _bytes_per_sequence(self, name: str) -> int:
        """Keys and values with the tokens to come, one more layer that is being copied, the text and the logits."""
        model = self._subject.model
        layers, tokens = model.config.get_text_config(decoder=True).num_hidden_layers, self._reading.prompt.shape[1]
        setting = Setting(tokens + _NUM_NEW, 1, self._reading.budget + _NUM_NEW)
        held: int = self._size.kv_bytes(setting, compressed=not name.startswith("full"))
        vocabulary = model.config.get_text_config(decoder=True).vocab_size
        return held + held // int(layers) + _TEXT_BYTES * tokens + _LOGIT_BYTES * int(vocabulary)
