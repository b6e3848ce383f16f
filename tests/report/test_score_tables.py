"""Tables of earlier runs' scores: the same page without the records, no texts, new rows in place of old ones."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from lavakv.cli.main import run
from lavakv.errors import ResultsError
from lavakv.evaluation.policy_costs import PolicyCost, write_costs
from lavakv.evaluation.record import Record
from lavakv.evaluation.record_keys import RecordKey
from lavakv.report.policies.contents import policies_page
from lavakv.report.policies.runs import read_models
from lavakv.report.policies.score_tables import read_tables
from tests.report.made_up import write_run
from tests.report.test_policies import POLICIES, all_records


def with_run(records: list[dict], **changes: object) -> list[dict]:
    return [record | {"run": record["run"] | changes} for record in records]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    arguments = {"keep": [0.25, 0.0625], "haystack": "/home/someone/essays", "model": "/home/someone/m"}
    found = with_run(all_records(), model="/home/someone/m", arguments=arguments, passed=["keep", "haystack"])
    made = write_run(tmp_path / "m" / "run", found)
    write_costs(made.parent, [PolicyCost(name, "25%", 70, 2.0, 0.02 * (1 + i)) for i, name in enumerate(POLICIES)])
    return made


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    return tmp_path / "tables"


def place(record: Record) -> list[str]:
    return [str(part) for part in RecordKey.of(record)]


def draw(tables: Path, *folders: Path) -> str:
    page = tables.parent / "page.md"
    assert run(["report", *map(str, folders), "--page", str(page), "--scores", str(tables)]) == 0
    return page.read_text()


def test_the_page_drawn_from_tables_alone_is_the_runs(folder, tables) -> None:
    first = draw(tables, folder)
    assert draw(tables) == first
    written = {file.name: file.read_bytes() for file in tables.iterdir()}
    assert written.keys() == {"m.csv", "m.json"}
    draw(tables, folder)
    assert {file.name: file.read_bytes() for file in tables.iterdir()} == written


def test_tables_hold_no_text_and_no_folder(folder, tables) -> None:
    draw(tables, folder)
    text = "".join(file.read_text() for file in tables.iterdir())
    for secret in ("/home", "Here is a tale", "So much for the tale", "It was", "It may have been"):
        assert secret not in text


def test_what_was_run_again_replaces_its_rows_and_the_others_stay(folder, tables, tmp_path) -> None:
    draw(tables, folder)
    again = [
        record | {"score": 0.8, "kl_nats": 0.01}
        for record in with_run(all_records(), versions={"lavakv": "9.9"}, model="m")
        if record["policy"] == "h2o"
    ]
    draw(tables, write_run(tmp_path / "again", again))
    (table,) = read_tables(tables)
    found = {(r["policy"], r["budget"], r["score"]) for r in table.run.records if r["task"] == "one"}
    assert {score for policy, _, score in found if policy == "h2o"} == {0.8}
    assert ("residual", "25%", 0.6) in found
    assert {r["run"]["versions"]["lavakv"] for r in table.run.records if r["policy"] == "h2o"} == {"9.9"}
    assert len(table.run.records) == len(all_records())


def test_a_new_policy_is_drawn_beside_the_old_ones(folder, tables, tmp_path) -> None:
    draw(tables, folder)
    new = [record | {"policy": "mine"} for record in with_run(all_records(), model="m") if record["policy"] == "lava"]
    text = draw(tables, write_run(tmp_path / "new", new))
    assert "| mine |" in text
    assert "| h2o |" in text
    assert "unfinished" not in text


def test_drawing_from_tables_changes_nothing_whatever_the_order_of_the_run(tables, tmp_path) -> None:
    """Groups, tasks and policies out of alphabetical order, and divergences of more digits than a table has."""
    odd = [
        record
        | {"kl_nats": record["kl_nats"] * (1 + 1e-7 * index), "task_group": "A" if record["task"] == "two" else "Z"}
        for index, record in enumerate(reversed(with_run(all_records(), model="m")))
    ]
    first = draw(tables, write_run(tmp_path / "odd", odd))
    assert draw(tables) == first


def test_only_models_that_were_run_are_written(folder, tables, tmp_path) -> None:
    draw(tables, folder, write_run(tmp_path / "other", with_run(all_records(), model="other")))
    before = {file.name: file.stat().st_mtime_ns for file in tables.iterdir()}
    draw(tables, tmp_path / "other")
    changed = {file.name for file in tables.iterdir() if file.stat().st_mtime_ns != before[file.name]}
    assert changed == {"other.csv", "other.json"}


def test_a_hub_id_is_a_file_name_without_a_slash(tables, tmp_path) -> None:
    draw(tables, write_run(tmp_path / "hub", with_run(all_records(), model="org/small")))
    assert {file.name for file in tables.iterdir()} == {"org--small.csv", "org--small.json"}
    assert "## org/small" in draw(tables)


def test_numbers_survive(folder, tables) -> None:
    odd = all_records()
    odd[3] |= {"score": None}
    odd[4] |= {"score": 1 / 3}
    odd[5].pop("kl_nats")
    draw(tables, write_run(folder, with_run(odd, model="m")))
    (before,), (after,) = read_models([folder], None), read_models([], None, tables)
    for old, new in zip(*(sorted(each.analysis.run.records, key=place) for each in (before, after)), strict=True):
        assert place(old) == place(new)
        assert new["score"] == (None if old["score"] is None else pytest.approx(old["score"], rel=1e-5))
        assert new["agreement"] == pytest.approx(old["agreement"], rel=1e-3)
        assert new.get("kl_nats") == (pytest.approx(old["kl_nats"], rel=1e-5) if "kl_nats" in old else None)
    assert after.costs == before.costs
    shares = [[budget.bytes_share for budget in policies_page([each]).budgets] for each in (before, after)]
    assert shares[1] == pytest.approx(shares[0], rel=1e-5)


@pytest.mark.parametrize(
    ("file", "old", "new", "place"),
    [
        ("m.csv", ",0.4,", ",much,", r"m\.csv, line \d+: .*ValueError"),
        ("m.csv", "one,e0,", "one,e99,", r"m\.csv, line \d+: .*KeyError"),
        ("m.json", '"schema": 1', '"schema": 7', r"m\.json: .*schema 7"),
        ("m.json", '"schema": 1,', "", r"m\.json: .*KeyError: 'schema'"),
        ("m.json", "{", "", r"m\.json: .*JSONDecodeError"),
        ("m.json", '"bytes": {', '"bytes": [], "other": {', r"m\.json: .*AttributeError"),
    ],
)
def test_a_broken_table_is_named(folder, tables, file, old, new, place) -> None:
    draw(tables, folder)
    text = (tables / file).read_text()
    assert old in text
    (tables / file).write_text(text.replace(old, new, 1))
    if file == "m.csv":
        with pytest.raises(ResultsError, match="written or changed by other hands"):
            list(read_tables(tables))
        changed = hashlib.sha256((tables / file).read_bytes()).hexdigest()
        about = (tables / "m.json").read_text()
        (tables / "m.json").write_text(re.sub(r'"sha256": "\w+"', f'"sha256": "{changed}"', about))
    with pytest.raises(ResultsError, match=place):
        list(read_tables(tables))


def test_a_table_without_its_rows_is_named(folder, tables) -> None:
    draw(tables, folder)
    (tables / "m.csv").unlink()
    with pytest.raises(ResultsError, match=r"m\.json: expected a table of scores"):
        list(read_tables(tables))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--scores", "TABLES"], "--scores: expected --page beside it"),
        (["--page", "PAGE", "--scores", "TABLES"], "run: expected a results folder, or tables in --scores, got none"),
        (["--page", "PAGE"], "run: expected a results folder"),
        ([], "run: expected one folder, got 0"),
    ],
)
def test_without_runs_and_tables_it_says_what_is_missing(arguments, complaint, tmp_path, capsys) -> None:
    places = {"TABLES": str(tmp_path / "none"), "PAGE": str(tmp_path / "page.md")}
    assert run(["report", *(places.get(word, word) for word in arguments)]) == 2
    assert complaint in " ".join(capsys.readouterr().err.split())


def test_the_repository_s_own_tables_can_be_read() -> None:
    folder = Path(__file__).parents[2] / "docs" / "results" / "policies-compared"
    tables = list(read_tables(folder))
    assert tables
    for table in tables:
        assert table.run.records
        assert json.dumps(table.run.records[0]["run"]).count("/") == 0
