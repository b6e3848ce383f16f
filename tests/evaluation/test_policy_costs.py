"""What each policy costs alone, as measured, written and read."""

from __future__ import annotations

import json

import pytest
import torch

import lavakv
from lavakv.evaluation.measure_costs import measure_costs
from lavakv.evaluation.policy_costs import FILE, PolicyCost, read_costs, write_costs
from lavakv.evaluation.variant import Variant
from lavakv.policy.registry import get_policy
from tests.hf import zoo

COST = PolicyCost("lava", "25%", 70, 2.0, 0.5)


def test_each_repetition_computes_everything_again() -> None:
    model, calls = zoo.tiny("llama", torch.float32), []
    score = get_policy("snapkv").score
    counted = lavakv.Policy("counted", "counts", lambda w: calls.append(w.layer) or score(w), "pooled", "equal")
    variants = [Variant(counted, window=8, keep=0.25)] * 2
    list(measure_costs(model, zoo.prompt(70), variants, repeats=3, once_above=0.0))
    assert len(calls) == 2 * model.config.num_hidden_layers
    calls.clear()
    found = list(measure_costs(model, zoo.prompt(70), variants, repeats=3, once_above=float("inf")))
    assert len(calls) == 6 * model.config.num_hidden_layers
    assert [(cost.policy, cost.budget, cost.prompt_tokens) for cost in found] == [("counted", "25%", 70)] * 2
    assert all(cost.fill_seconds > 0 and cost.share == cost.fill_seconds / cost.prefill_seconds for cost in found)


def test_a_policy_that_cannot_serve_is_named_and_the_others_go_on() -> None:
    model = zoo.tiny("llama", torch.float32)
    broken = lavakv.Policy("broken", "fails", lambda _: 1 / 0, "pooled", "equal")
    first, second = measure_costs(
        model, zoo.prompt(70), [Variant(broken, window=8, keep=0.25), Variant("lava", window=8, keep=0.25)]
    )
    assert (first.fill_seconds, first.share) == (None, None)
    assert "policy 'broken'" in first.reason
    assert second.fill_seconds > 0


def test_costs_are_read_as_written(tmp_path) -> None:
    costs = [COST, COST._replace(policy="other", fill_seconds=None, reason="cannot")]
    write_costs(tmp_path, costs)
    assert read_costs(tmp_path) == costs
    assert read_costs(tmp_path / "nowhere") == []


@pytest.mark.parametrize("changes", [{"fill_seconds": "long"}, {"prefill_seconds": None}, {"prompt_tokens": "x"}])
def test_what_is_no_cost_is_named_with_its_line(changes, tmp_path) -> None:
    lines = [COST._asdict(), COST._asdict() | changes]
    (tmp_path / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(lavakv.ResultsError, match="line 2: expected a policy's cost"):
        read_costs(tmp_path)
