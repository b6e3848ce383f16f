"""Reading records: one rule for the runner and for reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_type_hints

import pytest

import lavakv
from lavakv.evaluation.folder import locked
from lavakv.evaluation.record import Provenance, Record, Seconds
from lavakv.evaluation.records import read_finished, read_records
from lavakv.report.run import read_run

HEAD_ENTRIES = "expected head_entries to be a list, each item a list, each item a whole number or null"


@pytest.fixture
def found(whole: Path) -> list[dict]:
    """The first four records of a run."""
    return read_records(whole)[:4]


def _write(folder: Path, records: list[dict], more: bytes = b"") -> Path:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (folder / "records.jsonl").write_bytes(text.encode() + more)
    return folder


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"schema": 2}, "expected a record of schema 1, got schema 2"),
        ({"score": float("nan")}, "expected a finite score, got nan"),
        ({"kept_fraction": 1.5}, "expected kept_fraction between 0 and 1, got 1.5"),
        ({"score": "high"}, "expected score to be a number or null, got 'high'"),
        ({"head_entries": [["many"]]}, HEAD_ENTRIES),
        ({"head_entries": [3]}, HEAD_ENTRIES),
        ({"head_entries": [[True]]}, HEAD_ENTRIES),
        ({"prediction": None}, "expected prediction to be text, got None"),
        ({"window": True}, "expected window to be a whole number, got True"),
        ({"answers": ["a", 3]}, "expected answers to be a list, each item text"),
        ({"seconds": {"prefill": "long"}}, "expected seconds to be an object"),
        ({"run": {"versions": {"torch": 2}}}, "expected run to be an object"),
        ({"kept_entries": 0.5}, "expected kept_entries to be a whole number"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(change, complaint, found, tmp_path) -> None:
    with pytest.raises(lavakv.ResultsError, match=r"records.jsonl, line 2: ") as caught:
        read_finished(_write(tmp_path, [found[0], {**found[1], **change}]))
    assert complaint in str(caught.value)


@pytest.mark.parametrize("field", ["task", "mode", "kept_fraction", "prediction", "seconds", "run"])
def test_a_missing_field_is_named(field, found, tmp_path) -> None:
    del found[2][field]
    with pytest.raises(lavakv.ResultsError, match=rf"line 3: expected a whole record, got one without {field}"):
        read_finished(_write(tmp_path, found))


@pytest.mark.parametrize("torn", [b'{"schema": 1', b"whole", b"\xff\xfe", b" "])
def test_what_follows_the_last_line_feed_was_never_finished(torn, found, tmp_path) -> None:
    """Even where it parses: the runner cuts it off and computes it anew."""
    torn = json.dumps(found[2]).encode() if torn == b"whole" else torn
    finished = read_finished(_write(tmp_path, found[:2], torn))
    assert list(finished.records.values()) == found[:2]
    assert (finished.num_repeated, finished.is_torn) == (0, True)


def test_the_first_of_two_finished_records_counts_for_everyone(found, tmp_path) -> None:
    """Also where something stands between them, and blank lines are passed over."""
    again = {**found[1], "prediction": "later", "score": 0.0}
    folder = _write(tmp_path, [*found, again], b"\n  \n")
    finished = read_finished(folder)
    assert (list(finished.records.values()), finished.num_repeated, finished.is_torn) == (found, 1, False)
    assert read_run(folder).records == read_records(folder) == found
    with locked(folder) as held:
        assert list(held.records().values()) == found


def test_the_same_prompt_in_another_mode_is_another_record(found, tmp_path) -> None:
    other = {**found[0], "mode": "query-agnostic"}
    assert read_records(_write(tmp_path, [*found, other])) == [*found, other]


@pytest.mark.parametrize("data", [b"", b"\n", b"\n\n"])
def test_a_file_without_records(data, tmp_path) -> None:
    _write(tmp_path, [], data)
    assert read_finished(tmp_path) == ({}, 0, False)


def test_no_file(tmp_path) -> None:
    with pytest.raises(lavakv.ResultsError, match=r"records.jsonl: expected a file that can be read, got No such file"):
        read_records(tmp_path)


def test_records_of_earlier_versions_and_other_writers_are_read(found, tmp_path) -> None:
    """Without what nothing is computed from, with fields that this version does not know, with whole numbers."""
    earlier = {**found[0], "score": 1, "depth": 50, "kept_fraction": 1, "more": {"of": "it"}, "seconds": {}}
    for name in ("kept_entries", "tokens_per_head", "layer_entries", "estimated_loss", "batch_rows", "batch_steps"):
        del earlier[name]
    assert read_records(_write(tmp_path, [earlier])) == [earlier]


def test_every_field_of_a_run_s_records_is_declared(found) -> None:
    """What a run writes is what the type says, no more and no less, but for what it writes on request."""
    assert found[0].keys() == get_type_hints(Record).keys() - {"kl_nats", "top1_agreement", "shares_prefill"}
    assert found[0]["seconds"].keys() == get_type_hints(Seconds).keys() - {"kl", "replay"}
    assert found[0]["run"].keys() == get_type_hints(Provenance).keys()


def test_the_order_of_fields_on_disk_stays(whole) -> None:
    """Schema 1 as it was first written: a resumed file holds equal lines, byte for byte but for the times."""
    line = json.loads((whole / "records.jsonl").read_bytes().splitlines()[0])
    assert list(line) == [
        "schema", "task", "task_version", "benchmark", "task_group", "metric", "example", "group", "length", "depth",
        "prompt_hash", "prompt_tokens", "truncated", "mode", "answers", "classes", "prompt_head", "prompt_tail",
        "policy", "budget", "window", "tokens_per_head", "kept_fraction", "kept_entries", "layer_entries",
        "head_entries", "estimated_loss", "kv_bytes", "full_kv_bytes", "prediction", "new_tokens", "batch_rows",
        "batch_steps", "score", "seconds", "run",
    ]  # fmt: skip
    assert list(line["seconds"]) == ["prefill", "fill", "decode", "score"]
    assert list(line["run"]) == ["model", "dtype", "device", "arguments", "passed", "versions", "revision"]
