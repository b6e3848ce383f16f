"""A time limit for a run, and how long its parts will take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from lavakv.bench.floor import Floor
from lavakv.bench.settings import BenchSettings

_PREFILL_FACTOR = 3.0  # a prefill over its floor; 2.4 on the first GPU it was measured on
_STEP_FACTOR = 3.0
_HOST_SECONDS = 0.03  # launching a step of thirty layers piece by piece takes no longer
_OVERHEAD_SECONDS = 1.0
COMPILE_SECONDS = 60.0
ATTENTION_SECONDS = 10.0  # a layer's attention alone, all implementations


class TimeLimit:
    """Says what still fits into a run.

    Args:
        seconds: allowed from now on, or None for any number.
        clock: gives seconds.
    """

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._end = math.inf if seconds is None else clock() + seconds

    @property
    def left(self) -> float:
        """Seconds left, infinite without a limit; negative once it has passed."""
        return self._end - self._clock()

    def reason_to_skip(self, seconds: float) -> str | None:
        """Why work of so many seconds is not begun any more, or None."""
        left = self.left
        return None if seconds <= left else f"takes about {seconds:.0f} s, {max(left, 0):.0f} s left"


class Estimates:
    """Seconds that parts of a run will take, from their floors and from what such parts took before."""

    def __init__(self) -> None:
        self._prefill_factor = _PREFILL_FACTOR
        self._compile_seconds: dict[str, float] = {}

    def prefill(self, floor_seconds: float) -> float:
        """Reading a prompt once, from its physical floor."""
        return _OVERHEAD_SECONDS + self._prefill_factor * floor_seconds

    def decode(self, floor: Floor, num_tokens: int) -> float:
        """Decoding some tokens, once per cache."""
        return _OVERHEAD_SECONDS + num_tokens * max(_HOST_SECONDS, _STEP_FACTOR * floor.decode_full_seconds)

    def compilation(self, name: str) -> float:
        """Compiling what a configuration decodes with."""
        return self._compile_seconds.get(name, COMPILE_SECONDS)

    def trial(self, floor: Floor, settings: BenchSettings) -> float:
        """Plain forwards in one setting: prompts that are filled and timed, and rounds of decode steps."""
        prefills, kinds = 2 + 2 * settings.prefill_rounds, 4 if settings.masked else 3
        steps = (settings.rounds + 1) * settings.steps * kinds
        return prefills * self.prefill(floor.prefill_seconds) + self.decode(floor, steps)

    def note_prefill(self, floor_seconds: float, seconds: float) -> None:
        """Remember how long reading a prompt took, and its floor."""
        self._prefill_factor = max(seconds / floor_seconds, 1.0)

    def note_compilation(self, name: str, seconds: float) -> None:
        """Remember how long compiling took."""
        self._compile_seconds[name] = seconds


class Pace(NamedTuple):
    """How long a run may go on, and what its parts take.

    Attributes:
        limit: of the run.
        estimates: of its parts.
    """

    limit: TimeLimit
    estimates: Estimates
