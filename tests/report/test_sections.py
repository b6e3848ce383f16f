"""What the sections say, on runs small enough to work out by hand."""

from __future__ import annotations

import math
import random

import pytest

from lavakv.errors import InputError
from lavakv.evaluation.ablation import ablation_summary
from lavakv.report.analysis import Analysis
from lavakv.report.configuration import Configuration
from lavakv.report.contents import report_of
from lavakv.report.run import Run
from lavakv.report.sections.about import model_name
from lavakv.report.sections.tables import group_table, length_tables, task_tables
from tests.report.made_up import records

TEMPLATE = records(1)[0]
KEPT = {"all": 1.0, "64": 0.1, "128": 0.2}


def record(policy: str, budget: str, example: str, score: float | None, **changes) -> dict:
    """A record with one head in each of two layers."""
    made = {**TEMPLATE, "policy": policy, "budget": budget, "example": example, "score": score}
    return {**made, "kept_fraction": KEPT[budget], "head_entries": None, **changes}


def run_of(found: list[dict]) -> Run:
    return Run("by-hand", found, {}, 0, False)


@pytest.fixture
def small() -> Run:
    scores = {
        ("full cache", "all"): (1.0, 0.5), ("snapkv", "128"): (1.0, 0.2), ("lava", "128"): (1.0, 0.4),
        ("snapkv", "64"): (0.0, 0.5), ("lava", "64"): (0.5, 0.5),
    }  # fmt: skip
    return run_of([record(*who, f"e{i}", score) for who, own in scores.items() for i, score in enumerate(own)])


def test_configurations_come_by_budget_then_in_the_run_s_order(small) -> None:
    assert [(c.policy, c.budget) for c in Analysis(small).configurations.all] == [
        ("full cache", "all"), ("snapkv", "64"), ("lava", "64"), ("snapkv", "128"), ("lava", "128"),
    ]  # fmt: skip


def test_scores_and_the_best_of_each_budget(small) -> None:
    table = group_table(Analysis(small))
    assert [(block.name, block.kept) for block in table.budgets] == [
        ("full cache", 1.0), ("64 per head", 0.1), ("128 per head", 0.2),
    ]  # fmt: skip
    means = [[[cell.mean for cell in row.cells] for row in block.rows] for block in table.budgets]
    assert means == [[[75, 75]], [[25, 25], [50, 50]], [[60, 60], [70, 70]]]
    assert [[row.best for row in block.rows] for block in table.budgets] == [
        [[False, False]], [[False, False], [True, True]], [[False, False], [True, True]],
    ]  # fmt: skip
    assert table.decimals == 1


def test_differences_are_paired_and_counted(small) -> None:
    report = report_of(small)
    told = [
        (d.first.policy, d.second.policy, d.first.budget, d.difference.mean, d.won, d.tied, d.lost)
        for d in report.baseline_comparisons
    ]
    assert told == [("lava", "snapkv", "64", 25, 1, 1, 0), ("lava", "snapkv", "128", pytest.approx(10), 1, 1, 0)]
    gaps = [(d.first.policy, d.first.budget, d.difference.mean) for d in report.full_comparisons]
    assert gaps == [
        ("snapkv", "64", -50), ("lava", "64", -25), ("snapkv", "128", -15), ("lava", "128", pytest.approx(-5)),
    ]  # fmt: skip


def test_leads_are_told_by_task_group() -> None:
    found = [
        record(policy, "64", f"e{i}", score, task=task, task_group=group, benchmark="B")
        for task, group, scores in (
            ("one", "QA", {"lava": 0.6, "snapkv": 0.5}),
            ("two", "Code", {"lava": 0.2, "snapkv": 0.4}),
        )
        for policy, score in scores.items()
        for i in range(3)
    ]
    gains = report_of(run_of(found)).gains
    assert [column.name for column in gains.columns] == ["QA", "Code"]
    ((configuration, cells),) = gains.rows
    assert configuration.policy == "snapkv"
    assert [(cell.mean, cell.low, cell.high) for cell in cells] == [pytest.approx((10,) * 3), pytest.approx((-20,) * 3)]
    assert report_of(run_of(found[:6])).gains is None


@pytest.mark.parametrize("baseline", ["lava", "lava-uniform-heads"])
def test_the_ablation_says_what_the_command_said(baseline) -> None:
    """The same numbers as `lavakv eval` shows, whichever policy the others are compared with."""
    chance = random.Random(2)
    found = [
        record(policy, "64", f"e{i}", chance.random() + gain, task=task, task_group=group)
        for task, group in (("one", "Summarization"), ("two", "Multi-document QA"), ("three", "Single-document QA"))
        for i in range(12)
        for policy, gain in (
            ("full cache", 0.0),
            ("lava", 0.5),
            ("lava-uniform-layers", 0.0),
            ("lava-uniform-heads", 1),
        )
        if (task, i, policy) != ("three", 4, "lava-uniform-heads")
    ]
    found = [{**r, "budget": "all"} if r["policy"] == "full cache" else r for r in found]
    told = report_of(run_of(found), baseline).ablation
    shown = [
        (
            one.kind,
            one.without,
            round(one.gain.mean, 2),
            [round(one.gain.low, 2), round(one.gain.high, 2)],
            one.gain.num,
        )
        for one in told
    ]
    summary = [gain for gain in ablation_summary(found) if gain["kind"] in ("generation", "extraction")]
    expected = [(g["kind"], g["without"], g["gain"], g["interval"], g["prompts"]) for g in summary]
    assert sorted(shown) == sorted(expected)
    verdicts = {(one.without, one.kind): (one.holds, one.is_insight) for one in told}
    assert verdicts["layer budgets", "generation"] == ("yes", True)
    assert verdicts["head budgets", "extraction"] == ("reversed", True)
    assert not verdicts["head budgets", "generation"][1]


def test_without_the_ablated_policies_there_is_no_ablation(small) -> None:
    assert report_of(small).ablation == []


def test_the_baseline_can_be_named(small) -> None:
    assert {comparison.first.policy for comparison in report_of(small, "snapkv").baseline_comparisons} == {"snapkv"}
    with pytest.raises(InputError, match="--baseline: expected a policy of the run: snapkv, lava, got 'h2o'"):
        report_of(small, "h2o")


def test_averages_are_over_tasks_not_prompts() -> None:
    found = [record("full cache", "all", f"e{i}", 1.0) for i in range(9)]
    found.append(record("full cache", "all", "e0", 0.0, task="longbench_lcc", task_group="Code"))
    analysis = Analysis(run_of(found))
    assert analysis.score(analysis.configurations.all[0]).mean == 50
    (table,) = task_tables(analysis)
    assert [column.name for column in table.columns] == ["qasper", "lcc"]


def test_lengths_and_buckets_get_a_table_of_their_own() -> None:
    found = [record("full cache", "all", f"e{n}", n / 16384, length=n, benchmark="RULER") for n in (16384, 4096)]
    found += [
        record("full cache", "all", g, 0.5, group=g, task="longbench_lcc_e", benchmark="LongBench-E")
        for g in ("8k+", "0-4k", "4-8k")
    ]
    names = {table.title: [column.name for column in table.columns] for table in length_tables(Analysis(run_of(found)))}
    assert names == {"RULER": ["4,096", "16,384"], "LongBench-E": ["0-4k", "4-8k", "8k+"]}


def test_needle_maps_have_depths_down_and_lengths_across() -> None:
    cells = {(1000, 0.0): 1.0, (1000, 100.0): 0.5, (2000, 0.0): 0.0}
    found = [record("full cache", "all", f"{at}", s, length=at[0], depth=at[1]) for at, s in cells.items()]
    (task,) = report_of(run_of(found)).needles
    assert (task.lengths, task.depths) == ([1000, 2000], [0.0, 100.0])
    (only,) = task.maps
    assert only.cells[0].tolist() == [100, 0]
    assert only.cells[1, 0] == 50
    assert math.isnan(only.cells[1, 1])
    assert only.mean == 50
    assert only.by_length == [75, 0]


def test_costs_are_the_measured_ones() -> None:
    """Three rows decoded together, of 21 steps, in 6 s: 2 s of it are a row's share, whenever its answer ended."""
    seconds = {"prefill": 2.0, "fill": 0.4, "decode": 2.0, "score": 0.1}
    full_bytes, batch = {"kv_bytes": 1000, "full_kv_bytes": 1000}, {"batch_rows": 3, "batch_steps": 21}
    found = [
        record("full cache", "all", "e0", 1.0, **full_bytes, new_tokens=11, seconds=seconds),
        record("lava", "128", "e0", 1.0, kv_bytes=250, full_kv_bytes=1000, new_tokens=5, seconds=seconds, **batch),
        record("snapkv", "128", "e0", 1.0, kv_bytes=250, full_kv_bytes=1000, new_tokens=21, seconds=seconds, **batch),
        record("cake", "128", "e0", 1.0, kv_bytes=250, full_kv_bytes=1000, new_tokens=21, seconds=seconds),
    ]
    costs = report_of(run_of(found)).costs
    full, lava, snapkv, older = costs.rows
    assert (full.share, full.step_seconds, full.batch_rows, full.fill_seconds, full.overhead) == (1, 0.2, 1, None, None)
    assert (lava.share, lava.step_seconds, lava.batch_rows, lava.fill_seconds, lava.overhead) == (
        0.25,
        0.3,
        3,
        0.4,
        1.25,
    )
    assert lava[3:] == snapkv[3:]
    assert (older.step_seconds, older.batch_rows) == (None, None)
    assert costs.prefill_seconds == 2.0


def test_shares_are_means_over_prompts_of_entries_over_what_was_compressed() -> None:
    """Of prompts of 1,000 tokens, the last 200 of which are a question that comes afterwards."""
    first, second = [[40, 120], [80]], [[120, 200], [80, 0]]
    kept = [sum(map(sum, entries)) / 3 / 800 for entries in (first, second)]
    found = [
        record("lava", "128", "e0", 1.0, head_entries=first, kept_fraction=kept[0], prompt_tokens=1000),
        record("lava", "128", "e1", 1.0, head_entries=second, kept_fraction=kept[1], prompt_tokens=1000),
        record("lava", "128", "e2", 1.0, head_entries=[[0], [0]], kept_fraction=0.1),
    ]
    (only,) = report_of(run_of(found)).shares
    assert only.shares[0] == pytest.approx([0.1, 0.2])
    assert only.shares[1, 0] == pytest.approx(0.1)
    assert math.isnan(only.shares[1, 1])
    assert only.layers == pytest.approx([0.15, 0.1])
    assert only.spread == pytest.approx(1.5)


def test_failures_are_sorted_into_kinds_and_equal_answers_put_together() -> None:
    scores = {"lost": (1.0, 0.0, 0.9), "gained": (0.2, 0.9, 0.2), "missed": (0.05, 0.0, 0.0), "fine": (0.5, 0.5, 0.4)}
    who = [("full cache", "all"), ("lava", "128"), ("snapkv", "128")]
    found = [
        record(*one, name, score, prediction=f"{name} {score}")
        for name, own in scores.items()
        for one, score in zip(who, own, strict=True)
    ]
    report = report_of(run_of(found))
    assert [(failure.kind, failure.record["example"]) for failure in report.failures] == [
        ("lost", "lost"), ("gained", "gained"), ("missed", "missed"),
    ]  # fmt: skip
    given = report.failures[2].given
    assert [one.text for one in given] == ["missed 0.05", "missed 0.0"]
    assert given[1].configurations == [
        Configuration("lava", "128", "query-aware"),
        Configuration("snapkv", "128", "query-aware"),
    ]
    assert [one.score for one in report.failures[0].given] == [1.0, 0.9, 0.0]
    assert report_of(run_of(found), max_failures=0).failures == []


def test_findings_claim_a_lead_only_where_it_holds() -> None:
    examples = range(12)
    clear = [record("full cache", "all", f"e{i}", 1.0) for i in examples]
    clear += [record("lava", "64", f"e{i}", 0.9) for i in examples]
    clear += [record("snapkv", "64", f"e{i}", 0.1) for i in examples]
    unclear = [
        {**r, "score": (i % 2) if r["policy"] == "snapkv" else 0.5 + 0.01 * (i == 0)}
        for i, r in ((int(r["example"][1:]), r) for r in clear)
        if r["policy"] != "full cache"
    ]
    clear = [{**r, "kv_bytes": 25, "full_kv_bytes": 400} for r in clear]
    assert report_of(run_of(clear)).findings[1] == (
        "At 64 per head (10\u00a0% of the prompt kept, 6.2\u00a0% of the memory), lava scores highest, 90.0, "
        "\u221210.0 (\u221210.0 to \u221210.0) from the full cache; its lead is significant over snapkv."
    )
    assert report_of(run_of(unclear)).findings[-1].endswith("its lead over the others is not significant.")


def test_a_handful_of_prompts_settles_nothing() -> None:
    for num, verdict in ((9, "open"), (10, "ahead")):
        found = [record(p, "64", f"e{i}", s) for p, s in (("lava", 0.9), ("snapkv", 0.1)) for i in range(num)]
        report = report_of(run_of(found))
        assert [comparison.difference.verdict for comparison in report.baseline_comparisons] == [verdict]
        assert ("not significant" in report.findings[0]) == (verdict == "open")
    behind = report_of(run_of(found), "snapkv")
    assert behind.baseline_comparisons[0].difference.verdict == "behind"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("smollm2", "smollm2"),
        ("org/name-7B", "org/name-7B"),
        ("/a/b/name/", "name"),
        ("./x.gguf", "x.gguf"),
        (r"C:\m\x", "x"),
    ],
)
def test_a_model_s_path_is_shortened_to_its_name(given, shown) -> None:
    assert model_name(given) == shown


def test_cautions_name_what_is_missing() -> None:
    found = [record("full cache", "all", "e0", 1.0), record("lava", "64", "e1", None)]
    said = " ".join(report_of(run_of(found)).cautions)
    for words in ("1 task of 1 has fewer than 10 prompts", "it has 2 of 4 records", "1 record without a score"):
        assert words in said
    assert "This run does not include the full cache" in " ".join(report_of(run_of(found[1:])).cautions)


def test_modes_are_told_apart() -> None:
    found = [
        record(policy, budget, "e0", score, mode=mode)
        for mode, score in (("query-aware", 1.0), ("query-agnostic", 0.5))
        for policy, budget in (("full cache", "all"), ("lava", "64"))
    ]
    report = report_of(run_of(found))
    assert [block.name for block in report.groups.budgets] == [
        "full cache, query-agnostic", "full cache, query-aware",
        "64 per head, query-agnostic", "64 per head, query-aware",
    ]  # fmt: skip
    assert {d.difference.mean for d in report.full_comparisons} == {0.0}
