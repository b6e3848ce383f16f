"""Settings of a benchmark run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, NamedTuple

from lavakv.errors import InputError
from lavakv.policy.names import window_for


class Setting(NamedTuple):
    """One prompt and one budget.

    Attributes:
        tokens: prompt tokens of each sequence.
        batch_size: sequences.
        budget: mean entries per KV head that eviction keeps.
    """

    tokens: int
    batch_size: int
    budget: int

    @property
    def held(self) -> int:
        """Mean entries per KV head held after the prompt."""
        return min(self.budget, self.tokens)

    def __str__(self) -> str:
        return f"{self.tokens} tokens, batch {self.batch_size}, budget {self.budget}"


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """Settings of a whole run.

    Attributes:
        tokens: prompt lengths.
        budgets: mean entries per KV head.
        batch_sizes: sequences at once.
        policy: name of the policy.
        window: as in `LavaCache`; `window_tokens` is its size.
        rounds: measured rounds of decode steps; a warm-up round comes first.
        steps: decode steps of each configuration in a round.
        prefill_rounds: timed prefills of each configuration; 0 for none.
        masked: also measure the masked configuration.
        attention_part: also measure the attention of a decode step alone.
        generate: also measure `model.generate`.
        new_tokens: tokens whose time in `generate` is measured.
        compiled: also measure `generate` with compilation, where there is a GPU.
        seconds: time limit of the run, or None: what would take longer is skipped.
    """

    tokens: tuple[int, ...] = (4096,)
    budgets: tuple[int, ...] = (512,)
    batch_sizes: tuple[int, ...] = (1,)
    policy: str = "lava"
    window: int | None = None
    rounds: int = 7
    steps: int = 8
    prefill_rounds: int = 3
    masked: bool = True
    attention_part: bool = False
    generate: bool = True
    new_tokens: int = 32
    compiled: bool = False
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name, minimum in (("rounds", 1), ("steps", 1), ("prefill_rounds", 0), ("new_tokens", 1)):
            if getattr(self, name) < minimum:
                raise _too_small(name, minimum, getattr(self, name))
        for name in ("tokens", "budgets", "batch_sizes"):
            values = getattr(self, name)
            if not values or min(values) < 1:
                raise _too_small(name, 1, values)
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise InputError(
                "seconds", expected="a finite number above 0", got=str(self.seconds), fix="Allow more, or no limit."
            )
        if self.compiled and not self.generate:
            raise InputError(
                "compiled", expected="False where generate is False", got="True",
                fix="Measure generate, or leave compilation out.",
            )  # fmt: skip

    @property
    def window_tokens(self) -> int:
        """Last prompt tokens, always kept."""
        return window_for(self.policy, self.window)

    def each(self) -> list[Setting]:
        """Every combination once; the largest last."""
        return [Setting(*values) for values in sorted(set(product(self.tokens, self.batch_sizes, self.budgets)))]

    def about(self) -> dict[str, Any]:
        """How it was measured, ready for JSON."""
        names = ("policy", "window", "rounds", "steps", "prefill_rounds", "new_tokens")
        given = {name: asdict(self)[name] for name in names}
        return {**given, "window": self.window_tokens, "time_limit": self.seconds}


def _too_small(name: str, minimum: int, got: object) -> InputError:
    return InputError(name, expected=f"at least {minimum}", got=str(got), fix=f"Use {minimum} or more.")
