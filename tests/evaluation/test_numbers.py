"""What a run reports about itself: costs, scores, time left, and what the ablation settles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lavakv.evaluation.ablation import ablation_summary, task_kind
from lavakv.evaluation.cost import Forecast, cost_summary
from lavakv.evaluation.executor import Assignment, Part
from lavakv.evaluation.prompt import Prompt
from lavakv.evaluation.scores import score_summary
from lavakv.evaluation.variant import Variant

_PROMPT = {
    "task": "echo",
    "task_group": "Code completion",
    "group": "",
    "length": None,
    "depth": None,
    "mode": "query-aware",
}
_PREFILL = {"a": 4.0, "b": 5.0}


def _record(example: str, policy: str, budget: str, score: float = 0.5, **seconds: float) -> dict:
    taken = {"prefill": _PREFILL[example[0]], "fill": 0.0, "decode": 1.0, "score": 0.0}
    taken |= {name.removesuffix("_seconds"): value for name, value in seconds.items()}
    return {**_PROMPT, "example": example, "policy": policy, "budget": budget, "score": score, "seconds": taken}


def test_costs_are_added_up_by_pair_and_prefill_counts_once_a_prompt() -> None:
    records = [
        _record(example, policy, budget, fill=fill, decode=2.0, score_seconds=0.1)
        for example in "ab"
        for policy, budget, fill in (("full cache", "all", 9.0), ("lava", "128", 0.0), ("lava", "256", 0.3))
    ]
    cost = cost_summary(records)
    assert cost["prefill_seconds"] == 9.0
    assert cost["prompts"] == 2
    assert [pair["ratio"] for pair in cost["pairs"]] == pytest.approx([11.1 / 2, 2.1 / 2, 2.4 / 2])
    assert cost["ratio"] == pytest.approx(4.5 / 4)
    assert cost["within_goal"] == 1
    assert cost["added_pairs_decode_seconds"] == pytest.approx(8.0)


def test_nothing_decoded_is_no_ratio() -> None:
    cost = cost_summary([_record("a", "lava", "128", decode=0.0)])
    assert cost["ratio"] is None
    assert cost["within_goal"] == 0


def test_scores_tell_apart_what_the_benchmark_tells_apart() -> None:
    records = [
        _record("a", "lava", "128", score=1 / 3) | {"length": 4096},
        _record("b", "lava", "128", score=1.0) | {"length": 4096},
        _record("b", "lava", "128", score=0.0) | {"group": "8k+"},
    ]
    assert score_summary(records) == [
        {"row": "echo (4096 tokens)", "policy": "lava", "budget": "128", "score": 66.67, "prompts": 2},
        {"row": "echo (8k+)", "policy": "lava", "budget": "128", "score": 0.0, "prompts": 1},
    ]


def test_the_time_left_follows_what_was_measured() -> None:
    def prompt(name: str, tokens: int) -> Prompt:
        about = {**_PROMPT, "example": name}
        return Prompt(about, torch.zeros(tokens, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), 10)

    groups = [[Variant(None)], [Variant("lava", budget=1), Variant("lava", budget=2)]]
    forecast = Forecast([Assignment([Part(prompt("a", 200), groups)]), Assignment([Part(prompt("b", 100), groups)])])
    assert forecast.seconds_left is None
    forecast.note(_record("a", "full cache", "all", fill=0.5, decode=1.0, score_seconds=0.5))
    assert forecast.seconds_left == pytest.approx(4.0 * 100 / 200 + 2.0 * 5)
    forecast.note(_record("a", "lava", "1", decode=4.0))
    assert forecast.seconds_left == pytest.approx(2.0 + 3.0 * 4)


def _ablation(gain: float) -> list[dict]:
    """Twenty prompts on which layer budgets gain what is asked, head budgets nothing on average."""
    records = []
    for index in range(20):
        name, noise = f"a{index}", 0.02 * (index % 2) - 0.01
        records.append(_record(name, "lava", "128", score=0.5 + noise))
        records.append(_record(name, "lava-uniform-layers", "128", score=0.5 - gain))
        records.append(_record(name, "lava-uniform-heads", "128", score=0.5))
    return records


@pytest.mark.parametrize(("gain", "holds"), [(0.1, "yes"), (0.0, "not settled"), (-0.1, "reversed")])
def test_an_insight_holds_if_its_interval_does(gain, holds) -> None:
    found = {(each["kind"], each["without"]): each for each in ablation_summary(_ablation(gain))}
    layers = found["generation", "layer budgets"]
    assert (layers["gain"], layers["holds"], layers["insight"]) == (pytest.approx(100 * gain), holds, True)
    assert layers["interval"][0] <= layers["gain"] <= layers["interval"][1]
    assert (layers["prompts"], layers["tasks"]) == (20, 1)
    heads = found["generation", "head budgets"]
    assert (heads["holds"], heads["insight"]) == ("not settled", False)
    assert found["Code completion", "layer budgets"]["gain"] == layers["gain"]


def test_only_prompts_that_both_answered_are_compared() -> None:
    gain = ablation_summary(_ablation(0.1)[:4])[0]
    assert gain["prompts"] == 1


@pytest.mark.parametrize("num_prompts", [1, 4])
def test_a_gain_on_a_handful_of_prompts_is_not_settled(num_prompts) -> None:
    """Whatever its interval, which has no width for one prompt."""
    (gain, *_) = ablation_summary(_ablation(0.1)[: 3 * num_prompts])
    assert gain["interval"][0] > 0
    assert (gain["prompts"], gain["holds"]) == (num_prompts, "not settled")


def test_a_gain_is_the_mean_over_tasks_and_its_interval_that_of_the_paired_differences() -> None:
    """Two tasks of 40 and 10 prompts, gains of known spread: standard errors add up as they do for a mean of two."""
    generator = np.random.default_rng(4)
    gains = {"one": generator.normal(0.1, 0.2, 40), "two": generator.normal(0.05, 0.1, 10)}
    records = []
    for task, own in gains.items():
        for index, gain in enumerate(own):
            common = generator.uniform(0, 5)  # shared by both policies: no part of a paired difference
            for policy, score in (("lava", common + gain), ("lava-uniform-layers", common)):
                records.append(_record(f"a{index}", policy, "128", score=score) | {"task": task})
    (found, *_) = ablation_summary(records)
    assert found["gain"] == pytest.approx(50 * sum(own.mean() for own in gains.values()), abs=0.01)
    error = 50 * float(np.sqrt(sum(own.var() / len(own) for own in gains.values())))
    low, high = found["interval"]
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.12)  # of 2,000 draws; ten prompts are not quite normal
    assert (found["tasks"], found["prompts"]) == (2, 50)


def test_an_unfinished_run_compares_what_is_there() -> None:
    """The last prompt was answered by one policy only, and is the only one of its task."""
    alone = _record("b", "lava", "128") | {"task": "other"}
    (gain, *_) = ablation_summary([*_ablation(0.1), alone])
    assert (gain["tasks"], gain["prompts"]) == (1, 20)
    other = _record("b", "lava-uniform-layers", "128") | {"task": "echo"}
    assert ablation_summary([alone, other]) == []


def test_generation_and_extraction_come_first() -> None:
    groups = ("Few-shot learning", "Multi-document QA", "Summarization")
    records = [
        _record("a", policy, "128") | {"task_group": group}
        for group in groups
        for policy in ("lava", "lava-uniform-heads")
    ]
    kinds = [gain["kind"] for gain in ablation_summary(records)]
    assert kinds == ["generation", "extraction", "other", *groups]


def test_tasks_are_generation_or_extraction() -> None:
    assert task_kind("Summarization", "longbench_gov_report") == "generation"
    assert task_kind("Single-document QA", "longbench_qasper") == "extraction"
    assert task_kind("Aggregation", "ruler_cwe") == task_kind("Retrieval", "needle") == "extraction"
    assert task_kind("Few-shot learning", "longbench_trec") == "other"
