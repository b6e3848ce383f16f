"""Who answers: a policy with a budget, or the full cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from lavakv.report.numbers import TIED

FULL = "full cache"


class Contender(NamedTuple):
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
        """Is it the full cache?"""
        return self.policy == FULL

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Contender:
        """Whose answer a record is."""
        return cls(record["policy"], record["budget"], record["mode"])


class Field(NamedTuple):
    """All contenders of a run.

    Attributes:
        contenders: the full cache first, then by budget from small to large, then by policy.
        policies: names, in the order of the run, the full cache left out.
        kept: mean kept fraction of each contender.
    """

    contenders: tuple[Contender, ...]
    policies: tuple[str, ...]
    kept: dict[Contender, float]

    @property
    def full(self) -> list[Contender]:
        """The full cache, once a mode."""
        return [contender for contender in self.contenders if contender.is_full]

    @property
    def budgets(self) -> list[tuple[str, str]]:
        """Budget and mode, from small to large."""
        return list(dict.fromkeys((c.budget, c.mode) for c in self.contenders if not c.is_full))

    @property
    def modes(self) -> list[str]:
        """All modes, sorted."""
        return sorted({contender.mode for contender in self.contenders})

    def budget_name(self, budget: str, mode: str) -> str:
        """As in "128 a head" or "25 %", the mode named where there are several."""
        size = f"{int(budget):,} a head" if budget.isdecimal() else budget.replace("%", f"{TIED}%")
        return f"{size}, {mode}" if len(self.modes) > 1 else size

    def name(self, contender: Contender) -> str:
        """As in "lava · 128 a head"."""
        if not contender.is_full:
            return f"{contender.policy} · {self.budget_name(contender.budget, contender.mode)}"
        return FULL if len(self.modes) == 1 else f"{FULL}, {contender.mode}"


def field_of(records: Sequence[Mapping[str, Any]], listed: Sequence[str] = ()) -> Field:
    """All contenders of some records, in order.

    Args:
        records: of one run.
        listed: policies in the order to show them in; others follow as they come.
    """
    kept: dict[Contender, list[float]] = {}
    for record in records:
        kept.setdefault(Contender.of(record), []).append(record["kept_fraction"])
    means = {contender: fmean(values) for contender, values in kept.items()}
    met = dict.fromkeys([*listed, *(contender.policy for contender in means)])
    there = {contender.policy for contender in means if not contender.is_full}
    policies = tuple(policy for policy in met if policy in there)
    sizes: dict[tuple[str, str], list[float]] = {}
    for contender, mean in means.items():
        sizes.setdefault((contender.budget, contender.mode), []).append(mean)

    def place(contender: Contender) -> tuple[Any, ...]:
        size = fmean(sizes[contender.budget, contender.mode])
        order = -1 if contender.is_full else policies.index(contender.policy)
        return not contender.is_full, contender.mode, size, contender.budget, order

    return Field(tuple(sorted(means, key=place)), policies, means)
