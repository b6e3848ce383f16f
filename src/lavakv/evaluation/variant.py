"""One way to run a prompt: the full cache, or a policy with a budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from lavakv.budgets.spec import DEFAULT_BUDGET, BudgetSpec, KvBits
from lavakv.errors import InputError
from lavakv.policy.names import require_policy_name, window_for

if TYPE_CHECKING:  # a command line is checked before PyTorch is loaded
    from lavakv.hf.fan_out import FanOutCache
    from lavakv.policy.rules import Policy


@dataclass(frozen=True, slots=True)
class Variant:
    """A policy and its budget; `policy=None` is the full cache. The budget is given as in `LavaCache`.

    Attributes:
        policy: a name from `lavakv.policies()`, a `Policy`, or None for the full cache.
        budget: mean entries per KV head per layer.
        keep: kept fraction.
        max_bytes: bytes, or text such as "512MiB".
        window: as in `LavaCache`; `window_tokens` is its size.
        store: `ragged` or `masked`.
        kv_bits: as in `LavaCache`.
        max_loss: estimated loss that each sequence stays within.
    """

    policy: str | Policy | None = None
    budget: int | None = None
    keep: float | None = None
    max_bytes: int | str | None = None
    window: int | None = None
    store: Literal["ragged", "masked"] = "ragged"
    kv_bits: KvBits | None = None
    max_loss: float | None = None

    @classmethod
    def of(cls, policy: str | Policy, spec: BudgetSpec, kv_bits: KvBits | None = None) -> Variant:
        """A policy with a budget that is checked."""
        sizes = (spec.budget, spec.keep, spec.max_bytes, spec.window)
        return cls(policy, *sizes, kv_bits=kv_bits, max_loss=spec.max_loss)

    @property
    def window_tokens(self) -> int:
        """Last prompt tokens, always kept."""
        return window_for(None if self.policy is None else self.label, self.window)

    @property
    def label(self) -> str:
        """Policy name, or "full cache"."""
        if self.policy is None:
            return "full cache"
        return self.policy if isinstance(self.policy, str) else self.policy.name

    @property
    def budget_label(self) -> str:
        """The budget in words."""
        if self.policy is None:
            return "all"
        if self.keep is not None:
            return f"{self.keep:.1%}".replace(".0%", "%")
        if self.max_loss is not None:
            return f"loss {self.max_loss:g}"
        return str(self.max_bytes) if self.max_bytes is not None else str(self.budget or DEFAULT_BUDGET)

    def new_cache(self, config: Any) -> Any:
        """An empty cache for one run.

        Raises:
            LavaError: a bad budget, an unknown policy, a model that cannot be compressed.
        """
        if self.policy is None:
            from transformers import DynamicCache

            return DynamicCache(config=config)
        from lavakv.hf import LavaCache

        given: dict[str, Any] = {"keep": self.keep, "max_bytes": self.max_bytes, "max_loss": self.max_loss}
        return LavaCache(config, self.budget, self.policy, self.window, self.store, kv_bits=self.kv_bits, **given)

    def spec(self) -> BudgetSpec:
        """The budget, checked.

        Raises:
            BudgetError: a bad one.
        """
        return BudgetSpec(self.budget, self.keep, self.max_bytes, self.window_tokens, self.max_loss)


def variants_of(
    policies: Sequence[str],
    budgets: Sequence[int],
    fractions: Sequence[float],
    window: int | None,
    max_bytes: Sequence[int] = (),
    max_loss: Sequence[float] = (),
) -> list[Variant]:
    """Every policy with every budget. Only names are looked at: a plugin's policy is loaded when it is used.

    Raises:
        PolicyError: an unknown policy.
        InputError: a policy or budget that is given twice.
    """
    for option, values in (("policies", policies), ("budgets", budgets), ("keep", fractions)):
        require_distinct(option, values)
    require_distinct("max_bytes", max_bytes)
    require_distinct("max_loss", max_loss)
    sizes: list[dict[str, Any]] = [{"budget": budget} for budget in budgets]
    sizes += [{"keep": fraction} for fraction in fractions]
    sizes += [{"max_bytes": size} for size in max_bytes] + [{"max_loss": loss} for loss in max_loss]
    names = [require_policy_name(policy) for policy in policies]
    return [Variant(name, window=window, **size) for name in names for size in sizes]


def require_distinct(name: str, values: Sequence[Any]) -> None:
    """Refuse an option's value that is given twice.

    Raises:
        InputError: one is.
    """
    if len(set(values)) < len(values):
        raise InputError(name, expected="each one once", got=", ".join(map(str, values)), fix="Remove the duplicate.")


def batches(variants: Sequence[Variant], max_rows: int) -> Iterator[list[Variant]]:
    """Neighbours that can share a batch, as many as fit; the full cache gets one of its own."""
    for (is_full, *_), group in groupby(variants, key=_shared):
        waiting = list(group)
        step = 1 if is_full else max_rows
        yield from (waiting[start : start + step] for start in range(0, len(waiting), step))


def _shared(variant: Variant) -> tuple[bool, int, str, int | None]:
    """What variants of one batch have in common."""
    return variant.policy is None, variant.window_tokens, variant.store, variant.kv_bits


def fan_out(variants: Sequence[Variant], config: Any) -> FanOutCache:
    """An empty cache with a row for each of some variants that differ in policy and budget only.

    Raises:
        LavaError: as `Variant.new_cache`.
    """
    from lavakv.hf.fan_out import FanOutCache

    policies = [variant.policy for variant in variants if variant.policy is not None]
    assert len(policies) == len(variants)
    first = variants[0]
    return FanOutCache(config, policies, [variant.spec() for variant in variants], first.store, first.kv_bits)
