"""Budgets that keep the same entries: `keep` has a minimum, and no budget holds more than the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lavakv.evaluation.variant import Variant

Records = Sequence[Mapping[str, Any]]


def with_same_entries(records: Records, variants: Sequence[Variant], num_tokens: int) -> list[dict[str, Any]]:
    """Mark records of a comparison whose budget is not the only one that keeps these entries, or was raised.

    A policy that keeps equally many entries of a prompt keeps the same ones.

    Args:
        records: of a comparison.
        variants: what was compared.
        num_tokens: length of the prompt.

    Returns:
        The records with `same_entries_as`, the other budgets of the policy that keep the same entries, and
        `at_minimum`: the kept fraction asked for less than window + 1 entries a head, which every sequence keeps.
    """
    raised = {(each.label, each.budget_label) for each in variants if _is_raised(each, num_tokens)}
    return [
        {
            **record,
            "same_entries_as": [budget for budget in _alike(records, record) if budget != record["budget"]],
            "at_minimum": (record["policy"], record["budget"]) in raised,
        }
        for record in records
    ]


def notes_on_budgets(records: Records, num_tokens: int) -> list[str]:
    """A sentence for each group of budgets that keep the same entries, and for each budget raised to the minimum.

    It names the policies it is true of, unless that is all that were given such a budget.

    Args:
        records: of `with_same_entries`.
        num_tokens: length of the prompt.
    """
    found: dict[str, dict[str, None]] = {}
    marked = [record for record in records if record["same_entries_as"] or record["at_minimum"]]
    for record in marked:
        found.setdefault(_sentence(records, record, num_tokens), {})[record["policy"]] = None
    budgets = {record["budget"] for record in marked}
    concerned = {record["policy"] for record in records if record["budget"] in budgets}
    return [
        sentence if policies.keys() == concerned else f"{', '.join(policies)}: {sentence}"
        for sentence, policies in found.items()
    ]


def _alike(records: Records, record: Mapping[str, Any]) -> list[str]:
    """Budgets of a record's policy that keep as many entries, its own included."""
    of_it = (other for other in records if other["policy"] == record["policy"])
    return list(dict.fromkeys(other["budget"] for other in of_it if other["kept_entries"] == record["kept_entries"]))


def _is_raised(variant: Variant, num_tokens: int) -> bool:
    return (
        variant.policy is not None
        and variant.keep is not None
        and variant.keep * num_tokens < variant.window_tokens + 0.5
    )


def _sentence(records: Records, record: Mapping[str, Any], num_tokens: int) -> str:
    budgets, per_head = _alike(records, record), round(record["kept_fraction"] * num_tokens)
    count = {1: "holds", 2: "both hold"}.get(len(budgets), "all hold")
    of_it = (other for other in records if other["policy"] == record["policy"])
    at_minimum = any(other["at_minimum"] for other in of_it if other["budget"] in budgets)
    if per_head >= num_tokens:
        what = "the whole prompt"
    elif at_minimum:
        what = f"window + 1 = {per_head} entries a head ({per_head / num_tokens:.1%} of the prompt), the minimum"
    else:
        what = f"the same {per_head} entries a head"
    listed = budgets[0] if len(budgets) == 1 else f"{', '.join(budgets[:-1])} and {budgets[-1]}"
    return f"{listed} {count} {what}"
