"""Policies and budgets of a command line, checked before minutes are spent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lavakv.cli.console import notes
from lavakv.cli.lists import names, numbers, whole_numbers
from lavakv.cli.loading import load_quietly
from lavakv.errors import PolicyError

if TYPE_CHECKING:
    from lavakv.evaluation.variant import Variant
    from lavakv.models.load import LoadedModel


def asked_policies(policies: str) -> list[str]:
    """Names separated by commas; "all" is every policy there is, but for plugins that cannot be loaded."""
    return _all_policies() if policies == "all" else names("--policies", policies)


def _all_policies() -> list[str]:
    from lavakv.registry import get_policy
    from lavakv.registry import policies as known

    found = []
    for name in known():
        try:
            found.append(get_policy(name).name)
        except PolicyError as error:
            line = " ".join(f"Left out: {error}".split())
            notes.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)
    return found


def asked_variants(policies: str, budgets: str | None, keep: str | None, default: str, window: int) -> list[Variant]:
    """Every policy with every budget.

    Args:
        policies: value of `--policies`.
        budgets: value of `--budgets`.
        keep: value of `--keep`.
        default: what `keep` is where neither is given.
        window: last prompt tokens.

    Raises:
        LavaError: a policy or budget that cannot be.
    """
    from lavakv.evaluation.compare import variants_of

    fractions = default if budgets is None and keep is None else keep
    sizes = whole_numbers("--budgets", budgets), numbers("--keep", fractions)
    return variants_of(asked_policies(policies), *sizes, window)


def load_for(variants: Sequence[Variant], model: str, dtype: str, device: str, attention: str | None) -> LoadedModel:
    """Load a model that all variants can serve.

    Raises:
        LavaError: it cannot be loaded, or a variant cannot serve it.
    """
    loaded = load_quietly(model, dtype, device, attention)
    for variant in variants:
        variant.new_cache(loaded.model.config)
    return loaded
