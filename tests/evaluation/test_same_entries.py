"""Budgets that keep the same entries are marked, and said in words."""

from __future__ import annotations

from lavakv.evaluation.same_entries import notes_on_budgets, with_same_entries
from lavakv.evaluation.variant import Variant

HEADS = 6


def _compared(variants: list[Variant], num_tokens: int) -> tuple[list[dict], list[str]]:
    """Records as a comparison has them, for budgets that come out as the library's rule says."""
    records = [_record("full cache", "all", num_tokens, num_tokens)]
    for variant in variants:
        per_head = min(*variant.spec().tokens_per_head([num_tokens], 0, 1), num_tokens)
        records.append(_record(variant.label, variant.budget_label, per_head, num_tokens))
    marked = with_same_entries(records, variants, num_tokens)
    return marked, notes_on_budgets(marked, num_tokens)


def _record(policy: str, budget: str, per_head: int, num_tokens: int) -> dict:
    return {
        "policy": policy,
        "budget": budget,
        "kept_entries": per_head * HEADS,
        "kept_fraction": per_head / num_tokens,
    }


def _keeps(*fractions: float, policy: str = "lava", window: int = 32) -> list[Variant]:
    return [Variant(policy, keep=fraction, window=window) for fraction in fractions]


def test_fractions_below_the_floor_hold_the_window_and_one() -> None:
    records, notes = _compared(_keeps(0.25, 0.05, 0.03), 200)
    assert notes == ["5% and 3% both hold window + 1 = 33 entries a head (16.5% of the prompt), the minimum"]
    assert [record["same_entries_as"] for record in records] == [[], [], ["3%"], ["5%"]]
    assert [record["at_minimum"] for record in records] == [False, False, True, True]


def test_one_fraction_below_the_floor_is_said_as_well() -> None:
    records, notes = _compared(_keeps(0.25, 0.05), 200)
    assert notes == ["5% holds window + 1 = 33 entries a head (16.5% of the prompt), the minimum"]
    assert records[2]["same_entries_as"] == []


def test_a_note_is_made_once_for_all_policies() -> None:
    _, notes = _compared([*_keeps(0.05, 0.03, 0.02), *_keeps(0.05, 0.03, 0.02, policy="snapkv")], 200)
    assert notes == ["5%, 3% and 2% all hold window + 1 = 33 entries a head (16.5% of the prompt), the minimum"]


def test_policies_with_windows_of_their_own_have_minima_of_their_own() -> None:
    records, notes = _compared([*_keeps(0.03, policy="reach", window=8), *_keeps(0.03)], 751)
    assert notes == ["lava: 3% holds window + 1 = 33 entries a head (4.4% of the prompt), the minimum"]
    assert [record["at_minimum"] for record in records] == [False, False, True]
    _, notes = _compared([*_keeps(0.03, policy="reach", window=8), *_keeps(0.03)], 200)
    assert notes == [
        "reach: 3% holds window + 1 = 9 entries a head (4.5% of the prompt), the minimum",
        "lava: 3% holds window + 1 = 33 entries a head (16.5% of the prompt), the minimum",
    ]


def test_budgets_that_agree_by_chance() -> None:
    _, notes = _compared([*_keeps(0.25), Variant("lava", budget=50)], 200)
    assert notes == ["25% and 50 both hold the same 50 entries a head"]


def test_budgets_beyond_the_prompt() -> None:
    _, notes = _compared([Variant("lava", budget=300), Variant("lava", budget=400)], 200)
    assert notes == ["300 and 400 both hold the whole prompt"]


def test_a_prompt_within_the_window_is_kept_whole() -> None:
    _, notes = _compared(_keeps(0.5, 0.25), 30)
    assert notes == ["50% and 25% both hold the whole prompt"]


def test_budgets_that_differ_get_no_note() -> None:
    records, notes = _compared(_keeps(0.5, 0.25), 200)
    assert notes == []
    assert not any(record["same_entries_as"] or record["at_minimum"] for record in records)


def test_a_policy_apart_is_named() -> None:
    """Two policies of which only one holds the same entries for both budgets."""
    records = [_record("a", "50%", 9, 99), _record("a", "40%", 9, 99), _record("b", "50%", 9, 99)]
    records += [_record("b", "40%", 8, 99), _record("c", "10%", 3, 99), _record("c", "9%", 3, 99)]
    marked = with_same_entries(records, [], 99)
    assert notes_on_budgets(marked, 99) == [
        "a: 50% and 40% both hold the same 9 entries a head",
        "c: 10% and 9% both hold the same 3 entries a head",
    ]
