"""Reading a run: what is wrong is named with its file and line, and nothing finished is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lavakv.errors import InputError, ResultsError
from lavakv.report.contents import report_of
from lavakv.report.run import read_run
from tests.report.made_up import records, write_run


@pytest.fixture
def found() -> list[dict]:
    return records(1)[:4]


def test_all_records_come_back_in_order(found, tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "ours", found))
    assert [record["policy"] for record in run.records] == [record["policy"] for record in found]
    assert run.records[1]["head_entries"] == found[1]["head_entries"]
    assert (run.name, run.num_repeated, run.is_torn) == ("ours", 0, False)
    assert run.settings["policies"] == ["lava", "snapkv", "streaming-llm"]
    assert run.about["model"] == "made-up-135m"


def test_a_wrong_field_is_named_with_its_line(found, tmp_path) -> None:
    with pytest.raises(ResultsError, match=r"records.jsonl, line 2: expected a finite score, got nan"):
        read_run(write_run(tmp_path, [found[0], {**found[1], "score": float("nan")}]))


def test_a_line_that_was_cut_off_is_left_out(found, tmp_path) -> None:
    folder = write_run(tmp_path, found[:2])
    with (folder / "records.jsonl").open("a") as file:
        file.write(json.dumps(found[2])[:200])
    run = read_run(folder)
    assert len(run.records) == 2
    assert run.is_torn


def test_a_repeated_record_is_counted(found, tmp_path) -> None:
    run = read_run(write_run(tmp_path, [*found, {**found[1], "prediction": "later"}]))
    assert run.num_repeated == 1
    assert [record["prediction"] for record in run.records] == [record["prediction"] for record in found]
    assert "1 repeated record: only the first of each counts." in report_of(run).cautions


def test_reading_a_run_loads_no_torch() -> None:
    program = "import sys, lavakv.report.contents; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_line_separators_inside_text_are_no_line_ends(found, tmp_path) -> None:
    found[0]["prediction"] = "one\u2028two\u0085three\rfour"
    assert read_run(write_run(tmp_path, found)).records[0]["prediction"] == found[0]["prediction"]


def test_no_run_at_all(tmp_path) -> None:
    with pytest.raises(InputError, match="expected a folder with records"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "records.jsonl").write_text("\n")
    with pytest.raises(InputError, match="expected at least one record"):
        read_run(tmp_path)


def test_settings_that_are_broken_or_missing(found, tmp_path) -> None:
    folder = write_run(tmp_path, found)
    (folder / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"expected JSON, got .*run.json"):
        read_run(folder)
    (folder / "run.json").unlink()
    assert read_run(folder).settings == {}
