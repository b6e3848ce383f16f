"""Configurations, which a report compares: a policy with a budget, or the full cache, in one mode."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from lavakv.evaluation.record import Record
from lavakv.report.numbers import TIED

FULL = "full cache"


class Configuration(NamedTuple):
    """A policy and its budget in one mode.

    Attributes:
        policy: name, or "full cache".
        budget: in words, as in the records: "128", "25%", "all".
        mode: "query-aware" or "query-agnostic".
    """

    policy: str
    budget: str
    mode: str

    @property
    def is_full(self) -> bool:
        """Whether it is the full cache."""
        return self.policy == FULL

    @classmethod
    def of(cls, record: Record) -> Configuration:
        """The configuration that a record was measured with."""
        return cls(record["policy"], record["budget"], record["mode"])


class Configurations(NamedTuple):
    """All configurations of a run.

    Attributes:
        all: the full cache first, then by budget from small to large, then by policy.
        policies: names, in the order of the run, without the full cache.
        kept: mean kept fraction of each configuration.
    """

    all: tuple[Configuration, ...]
    policies: tuple[str, ...]
    kept: dict[Configuration, float]

    @property
    def full(self) -> list[Configuration]:
        """The full cache in each mode."""
        return [configuration for configuration in self.all if configuration.is_full]

    @property
    def budgets(self) -> list[tuple[str, str]]:
        """Budget and mode, from small to large."""
        return list(dict.fromkeys((c.budget, c.mode) for c in self.all if not c.is_full))

    @property
    def modes(self) -> list[str]:
        """All modes, sorted."""
        return sorted({configuration.mode for configuration in self.all})

    def budget_name(self, budget: str, mode: str) -> str:
        """A budget for readers, as in "128 per head" or "25 %", with the mode if there are several."""
        size = f"{int(budget):,} per head" if budget.isdecimal() else budget.replace("%", f"{TIED}%")
        return f"{size}, {mode}" if len(self.modes) > 1 else size

    def name(self, configuration: Configuration) -> str:
        """A configuration for readers, as in "lava · 128 per head"."""
        if not configuration.is_full:
            return f"{configuration.policy} · {self.budget_name(configuration.budget, configuration.mode)}"
        return FULL if len(self.modes) == 1 else f"{FULL}, {configuration.mode}"


def configurations_of(records: Sequence[Record], listed: Sequence[str] = ()) -> Configurations:
    """All configurations of some records, in order.

    Args:
        records: of one run.
        listed: policies in the order to show them; others follow in the order of the records.
    """
    kept: dict[Configuration, list[float]] = {}
    for record in records:
        kept.setdefault(Configuration.of(record), []).append(record["kept_fraction"])
    means = {configuration: fmean(values) for configuration, values in kept.items()}
    ordered = dict.fromkeys([*listed, *(configuration.policy for configuration in means)])
    evicting = {configuration.policy for configuration in means if not configuration.is_full}
    policies = tuple(policy for policy in ordered if policy in evicting)
    sizes: dict[tuple[str, str], list[float]] = {}
    for configuration, mean in means.items():
        sizes.setdefault((configuration.budget, configuration.mode), []).append(mean)

    def rank(configuration: Configuration) -> tuple[Any, ...]:
        kept_fraction = fmean(sizes[configuration.budget, configuration.mode])
        order = -1 if configuration.is_full else policies.index(configuration.policy)
        return not configuration.is_full, configuration.mode, kept_fraction, configuration.budget, order

    return Configurations(tuple(sorted(means, key=rank)), policies, means)
