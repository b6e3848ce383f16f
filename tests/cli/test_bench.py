"""`lavakv bench` on a tiny shape and a tiny model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lavakv.cli.main import run
from tests.bench.quick import quick_machine

QUICK = ["bench", "--budgets", "48", "--rounds", "1", "--steps", "1", "--prefill-rounds", "1"]
HEADLINES = ("prefill_ratio", "decode_ratio_to_floor", "decode_ratio_to_full", "nbytes_ratio")


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with quick_machine():
        yield


def test_floor_first_and_one_json_line_last(capsys) -> None:
    assert run([*QUICK, "--shape", "tiny", "--tokens", "150"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("machine: ")
    assert lines[1].startswith("floor: 150 tokens, batch 1, budget 48: prefill ")
    assert captured.err == ""
    record = json.loads(lines[-1])
    assert all(record[name] > 0 for name in HEADLINES)
    assert (record["tokens"], record["budget"], record["batch_size"]) == (150, 48, 1)
    assert record["attention_part"] is None
    assert set(record["generate"]["decoding"]) >= {"full", "cut", "lavakv"}
    assert record["generate"]["num_tokens"] == 32
    assert sum(" generate, " in line and "ms a token" in line for line in lines) >= 3


def test_json_prints_only_the_line(capsys) -> None:
    assert run([*QUICK, "--shape", "tiny", "--tokens", "100,150", "--batch-sizes", "1,2", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    record = json.loads(captured.out)
    assert len(record["results"]) == 4
    assert record["decode_ratio_to_full"] == record["results"][-1]["decode_ratio_to_full"]


def test_a_real_model_up_to_its_limit(model_dir, capsys) -> None:
    options = ["-m", model_dir, "--tokens", "100,max", "--no-masked", "--attention-part", "--policy", "snapkv"]
    assert run([*QUICK, *options, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["weights"] == "real"
    assert record["policy"] == "snapkv"
    assert [row["tokens"] for row in record["results"]] == [100, 256]
    assert all("masked" not in row["contenders"] for row in record["results"])
    assert record["results"][0]["attention_part"]["bandwidth_fraction"] > 0


def test_out_gets_a_line_a_setting_and_curves(tmp_path: Path, capsys) -> None:
    out = tmp_path / "new" / "run"
    assert run([*QUICK, "--shape", "tiny", "--tokens", "100,150", "--out", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [row["tokens"] for row in rows] == [100, 150]
    assert all(row["machine"] == record["machine"] for row in rows)
    assert ElementTree.parse(out / "curves.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_results_are_never_written_over(tmp_path: Path, capsys) -> None:
    (tmp_path / "results.jsonl").write_text("precious")
    assert run([*QUICK, "--shape", "tiny", "--tokens", "100", "--out", str(tmp_path)]) == 2
    assert "--out: expected a new folder" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "results.jsonl").read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--shape", "tiny", "--model", "smollm2"], "--model, --shape: expected one of them, got both"),
        (["--shape", "huge"], "shape: expected one of tiny"),
        (["--shape", "tiny", "--tokens", "many"], "--tokens: expected whole numbers"),
        (["--shape", "tiny", "--tokens", "0"], "tokens: expected at least 1"),
        (["--shape", "tiny", "--tokens", "9999"], "tokens: expected at most 2048"),
        (["--shape", "tiny", "--tokens", "100", "--budgets", "32"], "budget: expected more than the window"),
        (["--shape", "tiny", "--budgets", "9,x"], "--budgets: expected whole numbers"),
        (["--shape", "tiny", "--batch-sizes", "0"], "batch_sizes: expected at least 1"),
        (["--shape", "tiny", "--policy", "what"], "policy: expected"),
        (["--shape", "tiny", "--dtype", "int4"], "dtype: expected"),
        (["--shape", "tiny", "--device", "abacus"], "device: expected"),
        (["--shape", "tiny", "--attention", "magic"], "attention: expected"),
        (["--shape", "tiny", "--rounds", "0"], "--rounds"),
        (["--shape", "tiny", "--seconds", "0"], "seconds: expected a finite number above 0"),
        (["--shape", "tiny", "--seconds", "-1"], "seconds: expected a finite number above 0"),
        (["--shape", "tiny", "--seconds", "nan"], "seconds: expected a finite number above 0, got nan"),
        (["--shape", "tiny", "--seconds", "inf"], "seconds: expected a finite number above 0, got inf"),
        (["--shape", "tiny", "--compiled", "--no-generate"], "compiled: expected False where generate is False"),
        (["--shape", "tiny", "--new-tokens", "0"], "--new-tokens"),
        (["--model", "/no/such/model"], "got nothing of that name"),
    ],
)
def test_bad_input_is_exit_code_2(arguments, complaint, capsys) -> None:
    assert run(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert complaint in " ".join(captured.err.split())
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_missing_jinja_is_found_before_minutes_are_spent(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.setattr("lavakv.bench.trial.Trial.run", lambda _: pytest.fail("measured"))
    assert run([*QUICK, "--shape", "tiny", "--tokens", "100", "--out", str(tmp_path / "run")]) == 2
    assert "pip install 'lavakv[report]'" in " ".join(capsys.readouterr().err.split())


def test_curves_need_no_converter(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert run([*QUICK, "--shape", "tiny", "--tokens", "100", "--out", str(tmp_path / "run")]) == 0
    assert "</svg>" in (tmp_path / "run" / "curves.svg").read_text()


def test_a_failed_run_is_exit_code_1(capsys, monkeypatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("lavakv.bench.trial.Trial.run", broken)
    assert run([*QUICK, "--shape", "tiny", "--tokens", "100"]) == 1
    assert "RuntimeError: out of memory" in capsys.readouterr().err
