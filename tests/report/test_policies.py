"""The page on policies, on records small enough to work out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lavakv.cli.main import run
from lavakv.errors import InputError
from lavakv.evaluation.bootstrap import Estimate
from lavakv.evaluation.policy_costs import PolicyCost, write_costs
from lavakv.report.draw.chart import Frame
from lavakv.report.draw.scatter import Dot, front, scatter
from lavakv.report.policies.agreement import agreement
from lavakv.report.policies.contents import PoliciesPage, policies_page
from lavakv.report.policies.disagreement import disagreement
from lavakv.report.policies.page import END, START
from lavakv.report.policies.runs import read_models
from lavakv.report.policies.standing import Standing
from tests.report.made_up import records, write_run

TEMPLATE = records(1)[0]
POLICIES = ("lava", "snapkv", "residual", "h2o")
SCORES = {"full cache": 0.8, "mine": 0.1, "lava": 0.4, "snapkv": 0.2, "residual": 0.6, "h2o": 0.0}
NATS = {"full cache": 0.0, "mine": 0.3, "lava": 0.1, "snapkv": 0.2, "residual": 0.4, "h2o": 0.8}
TASKS = {"one": "QA", "two": "QA", "three": "Code"}


def made(mode: str, policy: str, budget: str, task: str, index: int, **changes: object) -> dict:
    """A record; scores are lower at the smaller budget, and the group "Code" scores half of "QA"."""
    kept = {"all": 1.0, "25%": 0.25, "6.2%": 0.0625}[budget]
    score = SCORES[policy] * (1.0 if task != "three" else 0.5) * (0.5 if budget == "6.2%" else 1.0)
    run_about = {**TEMPLATE["run"], "arguments": {"keep": [0.25, 0.0625], "kl": 4}, "passed": ["keep", "kl"]}
    return {
        **TEMPLATE, "mode": mode, "policy": policy, "budget": budget, "task": task, "task_group": TASKS[task],
        "benchmark": "B", "example": f"e{index}", "prompt_hash": f"{task}{index}{mode}", "length": None, "depth": None,
        "score": score, "kept_fraction": kept, "kv_bytes": int(1000 * kept), "full_kv_bytes": 1000,
        "kl_nats": NATS[policy] * (1 + index), "head_entries": None, "run": run_about, **changes,
    }  # fmt: skip


def all_records(tasks: tuple[str, ...] = tuple(TASKS), policies: tuple[str, ...] = POLICIES) -> list[dict]:
    pairs = [("full cache", "all"), *((policy, budget) for policy in policies for budget in ("25%", "6.2%"))]
    return [
        made(mode, policy, budget, task, index)
        for task in tasks
        for index in range(6)
        for mode in ("query-aware", "query-agnostic")
        for policy, budget in pairs
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = write_run(tmp_path / "m" / "run", all_records())
    write_costs(found.parent, [PolicyCost(name, "25%", 70, 2.0, 0.02 * (1 + i)) for i, name in enumerate(POLICIES)])
    return found


def page_of(*folders: Path, baseline: str | None = None) -> PoliciesPage:
    return policies_page(read_models(folders, baseline))


def test_shares_are_means_over_groups_over_the_full_cache_s(folder) -> None:
    page = page_of(folder)
    assert page.modes == ["query-aware", "query-agnostic"]
    assert [(budget.label, budget.name) for budget in page.budgets] == [("25%", "25\xa0%"), ("6.2%", "6.25\xa0%")]
    found = page.benchmarks[0].standings["query-aware", "25%"]
    assert [one.policy for one in found] == ["residual", "lava", "snapkv", "h2o"]
    assert [one.share.mean for one in found] == pytest.approx([75, 50, 25, 0])
    assert found[0].groups == pytest.approx({"B: QA": 75, "B: Code": 75})
    assert [one.share.mean for one in page.benchmarks[0].standings["query-agnostic", "6.2%"]] == pytest.approx(
        [37.5, 25, 12.5, 0]
    )
    assert page.benchmarks[0].order["query-aware"] == ["residual", "lava", "snapkv", "h2o"]


def test_a_group_counts_as_one_however_many_tasks_it_has(tmp_path) -> None:
    found = [r | {"score": 0.0} if (r["task"], r["policy"]) == ("three", "lava") else r for r in all_records()]
    share = {
        s.policy: s.share.mean
        for s in page_of(write_run(tmp_path, found)).benchmarks[0].standings["query-aware", "25%"]
    }
    assert share["lava"] == pytest.approx(100 * (0.4 + 0.0) / (0.8 + 0.4))


def test_leads_are_the_policy_s_less_the_baseline_s_and_paired(folder) -> None:
    found = {one.policy: one for one in page_of(folder, baseline="lava").benchmarks[0].standings["query-aware", "25%"]}
    assert found["lava"].lead is None
    lead = found["residual"].lead
    assert lead is not None
    assert (lead.mean, lead.low, lead.high, lead.verdict) == (*[pytest.approx(25)] * 3, "ahead")
    behind = found["h2o"].lead
    assert behind is not None
    assert (behind.mean, behind.verdict, behind.num, behind.least) == (pytest.approx(-50), "behind", 18, 6)


def test_divergences_are_geometric_means(folder) -> None:
    found = {one.policy: one for one in page_of(folder).benchmarks[0].standings["query-aware", "25%"]}
    assert found["lava"].kl_nats == pytest.approx(0.1 * math.prod(range(1, 7)) ** (1 / 6))


def test_several_models_are_averaged_and_shown_alone(folder, tmp_path) -> None:
    other = [
        record | {"run": record["run"] | {"model": "other"}, "score": record["score"] * (record["policy"] != "lava")}
        for record in all_records()
    ]
    page = page_of(folder, write_run(tmp_path / "other" / "run", other))
    shares = {one.policy: one.share.mean for one in page.benchmarks[0].standings["query-aware", "25%"]}
    assert shares == pytest.approx({"residual": 75, "lava": 25, "snapkv": 25, "h2o": 0})
    assert [part.name for part in page.models][1] == "other"
    alone = {one.policy: one.share.mean for one in page.benchmarks[0].models["other"]["query-aware", "25%"]}
    assert alone["lava"] == 0
    assert page.costs["lava"] == {page.models[0].name: pytest.approx(0.01), "other": None}
    assert page.cost("lava") == pytest.approx(1.0)


def test_parts_of_one_model_are_merged_and_the_first_of_a_repeated_record_counts(folder, tmp_path) -> None:
    parts = [
        write_run(tmp_path / name, all_records(tasks)) for name, tasks in (("a", ("one", "two")), ("b", ("three",)))
    ]
    again = write_run(tmp_path / "c", [record | {"score": 1.0} for record in all_records(("three",))])
    merged = page_of(*parts, again)
    assert merged.benchmarks[0].standings == page_of(folder).benchmarks[0].standings
    assert len(merged.models) == 1


def test_policies_that_a_part_lacks_are_left_out_and_named(tmp_path) -> None:
    parts = [
        write_run(tmp_path / "a", all_records(("one", "two"))),
        write_run(tmp_path / "b", all_records(("three",), POLICIES[:2])),
    ]
    page = page_of(*parts)
    assert [one.policy for one in page.benchmarks[0].standings["query-aware", "25%"]] == ["lava", "snapkv"]
    assert any("lack some of the prompts: h2o, residual" in line for line in page.cautions)


def test_a_policy_that_one_model_lacks_is_in_the_other_s_tables(folder, tmp_path, capsys) -> None:
    second = [record | {"run": record["run"] | {"model": "second"}} for record in all_records()]
    mine = [record | {"policy": "mine"} for record in second if record["policy"] == "lava"]
    folders = [folder, write_run(tmp_path / "second", second), write_run(tmp_path / "mine", mine)]
    (part,) = page_of(*folders).benchmarks
    assert "mine" not in {one.policy for one in part.standings["query-aware", "25%"]}
    assert "mine" in part.model_order["second"]["query-aware"]
    assert "mine" not in part.model_order["made-up-135m"]["query-aware"]
    assert any("not run on every model" in line and "mine" in line for line in page_of(*folders).cautions)
    assert run(["report", *map(str, folders), "--page", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text().count("| mine | 50 (") == 2  # modes


def test_a_policy_on_some_of_the_prompts_is_left_out_and_named(folder, tmp_path) -> None:
    """On other prompts than the rest its mean would say nothing."""
    some = [
        record | {"policy": "mine"}
        for record in all_records()
        if record["policy"] == "lava" and record["example"] in ("e0", "e1")
    ]
    page = page_of(folder, write_run(tmp_path / "mine", some))
    assert {one.policy for one in page.benchmarks[0].standings["query-aware", "25%"]} == set(POLICIES)
    assert any("lack some of the prompts: mine" in line for line in page.cautions)


def test_prompts_that_few_policies_answered_are_left_out_and_counted(folder, tmp_path) -> None:
    more = [
        record | {"example": "e9", "prompt_hash": f"more{record['mode']}", "score": 0.0}
        for record in all_records(("one",), ("lava",))
        if record["example"] == "e0"
    ]
    page = page_of(folder, write_run(tmp_path / "more", more))
    assert page.benchmarks[0].standings == page_of(folder).benchmarks[0].standings
    assert any("left out are 2 prompts" in line for line in page.cautions)


def test_one_baseline_serves_all_models_of_a_benchmark(tmp_path) -> None:
    first = [record | {"benchmark": "C"} for record in all_records(("one",), ("lava", "residual"))]
    first += all_records(("two",))
    other = all_records(("one",))
    second = [record | {"run": record["run"] | {"model": "second"}, "benchmark": "C"} for record in other]
    folders = [write_run(tmp_path / "a", first), write_run(tmp_path / "b", second)]
    part = next(part for part in page_of(*folders, baseline="h2o").benchmarks if part.name == "C")
    assert part.baseline == "lava"
    lead = next(one for one in part.standings["query-aware", "25%"] if one.policy == "residual").lead
    assert lead is not None
    assert lead.mean == pytest.approx(25)


def test_all_versions_behind_a_model_are_named(folder, tmp_path) -> None:
    other = [
        record | {"run": record["run"] | {"versions": {"lavakv": "9.9"}}} for record in all_records(policies=("mine",))
    ]
    (model,) = page_of(folder, write_run(tmp_path / "mine", other)).models
    assert "lavakv 0.1.0" in model.about[1]
    assert "lavakv 9.9" in model.about[1]


def test_without_the_full_cache_there_is_a_page_without_shares(tmp_path) -> None:
    bare = [record for record in all_records() if record["policy"] != "full cache"]
    assert run(["report", str(write_run(tmp_path / "r", bare)), "--page", str(tmp_path / "page.md")]) == 0


def test_records_of_two_dtypes_are_named(folder, tmp_path) -> None:
    other = [record | {"run": record["run"] | {"dtype": "bfloat16"}} for record in all_records(policies=("mine",))]
    found = page_of(folder, write_run(tmp_path / "mine", other)).cautions
    assert [line for line in found if "records in bfloat16 and float32" in line]


def test_runs_of_other_prompts_do_not_mix(tmp_path) -> None:
    parts = [write_run(tmp_path / "a", all_records()), write_run(tmp_path / "b", all_records(("one",)))]
    changed = [record | {"prompt_hash": "other"} for record in all_records(("one",))]
    write_run(tmp_path / "b", changed)
    with pytest.raises(
        InputError, match="run: expected runs of the same prompts and tasks, got another prompt for one, e0"
    ):
        page_of(*parts)


def standing(policy: str, share: float, nats: float) -> Standing:
    return Standing(policy, Estimate(share, share, share, 20, 10), None, {}, nats)


def test_where_divergence_and_scores_disagree_it_says_so(folder) -> None:
    found = page_of(folder).benchmarks[0].disagreements["query-aware", "25%"]
    assert found is not None
    # by score residual, lava, snapkv, h2o; by divergence lava, snapkv, residual, h2o
    assert found.correlation == pytest.approx(1 - 6 * (4 + 1 + 1) / (4 * 15))
    assert (found.closest.policy, found.closest_place, found.best.policy, found.best_place) == (
        "lava",
        2,
        "residual",
        3,
    )
    assert "order 4 policies differently (rank correlation 0.40). lava has the lowest divergence" in found.sentence
    same = disagreement([standing(name, 90 - 9 * i, 0.1 + i) for i, name in enumerate(POLICIES)])
    assert same is not None
    assert "the same way" in same.sentence
    assert "lava has the lowest divergence and the highest score" in same.sentence
    assert disagreement([standing("lava", 1, math.nan)] * 9) is None


def test_the_page_says_what_was_computed_and_keeps_what_was_written(folder, tmp_path, capsys) -> None:
    page = tmp_path / "docs" / "policies-compared.md"
    command = ["report", str(folder), "--page", str(page)]
    assert run(command) == 0
    capsys.readouterr()
    text = page.read_text()
    assert "| residual | **75** ▲ | **38** ▲ | 3 |" in text
    assert "| h2o | 0 ▼ | 0 ▼ | 4 |" in text
    assert "| lava | **0.3** | **0.3** |" in text
    assert "- 25\xa0%: KL and scores order 4 policies differently" in text
    assert "| lava | 1 |" in text
    assert "(results/policies-compared.svg)" in text
    assert "Divergence over 4 positions." in text
    svg = (page.parent / "results" / "policies-compared.svg").read_text()
    assert all(svg.count(f">{policy}<") == 2 for policy in POLICIES)
    page.write_text(text.replace(f"{START}\n", f"{START}\n\nTake `residual`.\n\nOr not."))
    assert run([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"][0] == str(page)
    again = page.read_text()
    assert again.replace("Take `residual`.\n\nOr not.", "") == text
    assert run(command) == 0
    assert page.read_text() == again


def test_a_page_without_the_markers_is_not_overwritten(folder, tmp_path, capsys) -> None:
    page = tmp_path / "mine.md"
    page.write_text("# Mine\n")
    assert run(["report", str(folder), "--page", str(page)]) == 2
    assert "--page: expected a new file, or a page that was drawn before" in " ".join(capsys.readouterr().err.split())
    assert page.read_text() == "# Mine\n"
    assert END not in page.read_text()


def test_the_front_is_what_no_other_point_beats() -> None:
    dots = [Dot(name, x, y, "", 0) for name, x, y in (("a", 1, 5), ("b", 2, 4), ("c", 3, 9), ("d", 3, 7), ("e", 9, 9))]
    assert [dot.name for dot in front(dots)] == ["a", "c"]


def test_labels_do_not_cover_each_other_where_there_is_space() -> None:
    dots = [Dot(f"policy-{i}", 1 + 0.01 * i, 50.0, "", 0) for i in range(5)]
    plot = scatter(dots, Frame(560, 400, "x", "y"))
    assert plot is not None
    assert len({(dot.label_x, dot.label_y, dot.anchor) for dot in plot.dots}) == 5
    assert scatter([], Frame(560, 400)) is None


def test_each_benchmark_has_tables_of_its_own(tmp_path, capsys) -> None:
    """A policy that one benchmark lacks, and a model that another lacks, count where they were run."""
    other = [
        record | {"benchmark": "C", "prompt_hash": record["prompt_hash"] + "C", "task": record["task"] + "C"}
        for record in all_records(("one",), ("lava", "residual"))
    ]
    second = [record | {"run": record["run"] | {"model": "second"}} for record in all_records()]
    folders = [
        write_run(tmp_path / "b", all_records()),
        write_run(tmp_path / "c", other),
        write_run(tmp_path / "s", second),
    ]
    page = page_of(*folders)
    first, last = page.benchmarks
    assert (first.name, last.name) == ("B", "C")
    assert (list(first.models), list(last.models)) == (["made-up-135m", "second"], ["made-up-135m"])
    assert {one.policy for one in first.standings["query-aware", "25%"]} == set(POLICIES)
    assert [one.policy for one in last.standings["query-aware", "25%"]] == ["residual", "lava"]
    assert [one.share.num for one in last.standings["query-aware", "25%"]] == [6, 6]
    assert not page.cautions
    assert run(["report", *map(str, folders), "--page", str(tmp_path / "page.md")]) == 0
    text = (tmp_path / "page.md").read_text()
    assert text.count("## C: question in the prompt\n") == 1
    assert "Only made-up-135m." in text
    assert "## B: question later, groups of tasks" in text
    assert "## C: question later, groups of tasks" not in text
    assert "C, question later: share of the full cache's score" in text


def test_a_baseline_that_a_benchmark_lacks_is_lava_there(tmp_path) -> None:
    other = [record | {"benchmark": "C"} for record in all_records(("one",), ("lava", "residual"))]
    folders = [write_run(tmp_path / "b", all_records(("two",))), write_run(tmp_path / "c", other)]
    assert [part.baseline for part in page_of(*folders, baseline="h2o").benchmarks] == ["h2o", "lava"]


@pytest.mark.parametrize(
    ("answer", "full", "expected"),
    [
        ("The Blue House.", "the blue house", 1.0),
        ("", " \n", 1.0),
        ("", "something", 0.0),
        ("17 km", "17.312", 2 * 0.5 * 0.5),
        ("red red", "red blue", 0.5),
        ("北京市", "北京", 2 * (2 / 3) / (5 / 3)),
    ],
)
def test_agreement_is_the_f1_of_words(answer, full, expected) -> None:
    assert agreement(answer, full) == pytest.approx(expected)


def test_agreement_is_with_the_full_cache_s_answer_to_the_same_prompt_and_mode(folder, tmp_path) -> None:
    """The full cache answers each prompt and mode differently; lava repeats it, residual gives half of it."""
    texts = {"full cache": "{} one two", "lava": "{} One two!", "residual": "{}", "snapkv": "none", "h2o": "one"}
    told = [
        record | {"prediction": texts[record["policy"]].format(f"{record['prompt_hash']}".replace("-", ""))}
        for record in all_records()
    ]
    page = page_of(write_run(tmp_path / "told", told))
    found = {one.policy: one.share.mean for one in page.benchmarks[0].agreements["query-agnostic", "25%"]}
    assert found == pytest.approx({"lava": 100, "residual": 50, "snapkv": 0, "h2o": 50})
    leads = {one.policy: one.lead for one in page.benchmarks[0].agreements["query-agnostic", "25%"]}
    assert leads["h2o"] is not None
    assert leads["h2o"].verdict == "behind"
