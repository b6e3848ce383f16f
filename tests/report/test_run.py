"""Reading a run: what is wrong is named with its file and line, and nothing finished is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lavakv.errors import InputError
from lavakv.report.run import read_run
from tests.report.made_up import records, write_run


@pytest.fixture
def found() -> list[dict]:
    return records(1)[:4]


def test_all_records_come_back_in_order(found, tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "ours", found))
    assert [record["policy"] for record in run.records] == [record["policy"] for record in found]
    assert run.records[1]["head_entries"].tolist() == found[1]["head_entries"]
    assert (run.name, run.num_repeated, run.cut_off) == ("ours", 0, False)
    assert run.settings["policies"] == ["lava", "snapkv", "streaming-llm"]
    assert run.about["model"] == "made-up-135m"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schema": 2}, "expected schema 1, got 2"),
        ({"score": float("nan")}, "expected a finite score, got nan"),
        ({"kept_fraction": 1.5}, "expected kept_fraction between 0 and 1, got 1.5"),
        ({"score": "high"}, "expected score of another type, got 'high'"),
        ({"head_entries": [["many"]]}, "expected head_entries as a list of whole numbers"),
        ({"head_entries": [3]}, "expected head_entries as a list of whole numbers"),
        ({"prediction": None}, "expected prediction of another type"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(change, complaint, found, tmp_path) -> None:
    folder = write_run(tmp_path, [found[0], {**found[1], **change}])
    with pytest.raises(InputError, match=r"records.jsonl, line 2: ") as caught:
        read_run(folder)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("field", ["task", "mode", "kept_fraction", "prediction", "seconds", "run"])
def test_a_missing_field_is_named(field, found, tmp_path) -> None:
    del found[2][field]
    with pytest.raises(InputError, match=rf"line 3: expected a field {field}, got none"):
        read_run(write_run(tmp_path, found))


@pytest.mark.parametrize("line", ["{", "[1]", "nonsense"])
def test_a_line_that_is_no_record_is_named(line, found, tmp_path) -> None:
    folder = write_run(tmp_path, found[:1])
    with (folder / "records.jsonl").open("a") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(InputError, match=r"line 3: expected a JSON object"):
        read_run(folder)


def test_a_line_that_was_cut_off_is_left_out(found, tmp_path) -> None:
    folder = write_run(tmp_path, found[:2])
    with (folder / "records.jsonl").open("a") as file:
        file.write(json.dumps(found[2])[:200])
    run = read_run(folder)
    assert len(run.records) == 2
    assert run.cut_off


def test_a_last_line_without_its_end_counts_if_it_is_whole(found, tmp_path) -> None:
    folder = write_run(tmp_path, found[:2])
    file = folder / "records.jsonl"
    file.write_text(file.read_text().removesuffix("\n"))
    run = read_run(folder)
    assert len(run.records) == 2
    assert not run.cut_off


def test_the_later_of_two_equal_records_counts(found, tmp_path) -> None:
    again = {**found[1], "prediction": "later"}
    run = read_run(write_run(tmp_path, [*found, again]))
    assert run.num_repeated == 1
    assert [record["prediction"] for record in run.records].count("later") == 1
    assert len(run.records) == len(found)


def test_line_separators_inside_text_are_no_line_ends(found, tmp_path) -> None:
    found[0]["prediction"] = "one\u2028two\u0085three\rfour"
    assert read_run(write_run(tmp_path, found)).records[0]["prediction"] == found[0]["prediction"]


def test_no_run_at_all(tmp_path) -> None:
    with pytest.raises(InputError, match="expected a folder with records"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "records.jsonl").write_text("\n")
    with pytest.raises(InputError, match="expected at least one record"):
        read_run(tmp_path)
    (tmp_path / "records.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="expected UTF-8 text"):
        read_run(tmp_path)


def test_settings_that_are_broken_or_missing(found, tmp_path) -> None:
    folder = write_run(tmp_path, found)
    (folder / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"expected JSON, got .*run.json"):
        read_run(folder)
    (folder / "run.json").unlink()
    assert read_run(folder).settings == {}
