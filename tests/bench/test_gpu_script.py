"""`make bench-gpu`: its script rehearsed on a CPU, and what it says without a GPU."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lavakv

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
TINY = [
    "--device",
    "cpu",
    "--shape",
    "tiny",
    "--tokens",
    "200",
    "--lengths",
    "100",
    "--largest-at",
    "100",
    "--new-tokens",
    "4",
    "--budget",
    "48",
    "--rounds",
    "1",
    "--batch-size",
    "2",
]


BLOCKED = """
import runpy, sys
sys.modules.update(dict.fromkeys(["jinja2", "rich", "typer", "gguf"]))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script where packages are missing that only other commands need."""
    source = str(Path(lavakv.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", BLOCKED, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def run_here(monkeypatch, capsys) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the script in this process."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT))["main"]()
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, ended.value.code, captured.out, captured.err)

    return run


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    done = _run()
    assert done.returncode == 2
    assert done.stderr.strip() == "bench-gpu: no GPU that torch can use; nothing was measured."
    assert done.stdout == ""


SETTINGS = [(100, 1), (100, 2), (200, 1), (200, 2)]


def _lines(done: subprocess.CompletedProcess[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The last JSON line, and those before it."""
    *partial, record = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert all(known.pop("partial") for known in partial)
    assert "partial" not in record
    return record, partial


@pytest.fixture(scope="module")
def done() -> subprocess.CompletedProcess[str]:
    return _run(*TINY)


def test_floors_first_aims_beside_measurements_json_last(done) -> None:
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("machine: ")
    assert [line.partition(",")[0] for line in lines[1:5]] == [f"floor: {tokens} tokens" for tokens, _ in SETTINGS]
    assert sum("(aim: " in line for line in lines) == 7 + 2 * 5 + 2
    assert lines[-1].startswith("{")
    record, _ = _lines(done)
    assert record["failed"] == []
    assert record["gpu"] == record["machine"]["name"]
    assert [part["batch_size"] for part in record["attention_parts"]] == [1, 2]
    assert record["tests"] == "no GPU tests run"
    assert (record["tokens"], record["batch_size"], record["budget"]) == (200, 1, 48)


def test_generate_is_measured_over_lengths_and_batches(done) -> None:
    record, _ = _lines(done)
    results = record["generate_results"]
    assert [(row["tokens"], row["batch_size"]) for row in results] == SETTINGS
    for row in results:
        assert {"full", "cut", "lavakv"} <= row["decoding"].keys()
        assert row["num_tokens"] == 4
    read = {(row["tokens"], row["batch_size"]) for row in results if row["first_token"]}
    assert read == {(100, 1), (100, 2), (200, 1)}, "the longest prompt is read for one sequence only"
    assert record["prefill_ratio"] == results[2]["ratios"]["first_token_lavakv_to_full"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_needs_a_gpu_is_named(done) -> None:
    record, _ = _lines(done)
    for row in record["generate_results"]:
        assert {"cut_graph", "lavakv_graph"} <= row["not_available"].keys()
    compiled = [row for row in record["generate_results"] if "lavakv_compiled" in row["not_available"]]
    assert [(row["tokens"], row["batch_size"]) for row in compiled] == [(100, 2), (200, 1)]
    assert record["largest_batches"] == []
    assert record["skipped"] == {"largest_batch": "no CUDA device"}


def test_every_part_is_printed_as_soon_as_it_is_known(done) -> None:
    record, partial = _lines(done)
    assert partial[0]["machine"] == record["machine"]
    generated = [known["generate"] for known in partial if "generate" in known]
    assert [(row["tokens"], row["batch_size"]) for row in generated[:4]] == SETTINGS
    by_setting = {(row["tokens"], row["batch_size"]): row for row in generated}  # the last one of each
    assert [by_setting[setting] for setting in SETTINGS] == record["generate_results"]
    assert [known["attention_part"] for known in partial if "attention_part" in known] == record["attention_parts"]
    plain = next(known for known in partial if "decode_ratio_to_floor" in known)
    assert plain["decode_ratio_to_floor"] == record["decode_ratio_to_floor"]


def test_a_failure_does_not_throw_the_other_figures_away(run_here, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the driver died")

    monkeypatch.setattr("lavakv.bench.trial.masked_like", broken)
    done = run_here(*TINY)
    assert done.returncode == 1
    assert "RuntimeError: the driver died" in done.stderr
    record, _ = _lines(done)
    assert record["failed"] == ["the model"]
    assert "decode_ratio_to_floor" not in record
    assert all(part["speedup_over_full"] > 0 for part in record["attention_parts"])
    assert all(row["decoding"] for row in record["generate_results"])
    assert any(line.startswith("plain forwards: a token over") and "not measured" in line for line in _aims(done))


def test_without_time_everything_is_skipped_and_named(run_here) -> None:
    done = run_here(*TINY, "--seconds", "0.001")
    assert done.returncode == 0, done.stderr
    record, _ = _lines(done)
    assert all("not measured" in line for line in _aims(done))
    assert record["generate_results"] == []
    assert {"the model", "attention alone, batch 1", "generate, 200 tokens, batch 1, budget 48"} <= set(
        record["skipped"]
    )
    assert record["machine"]["read_bandwidth"] > 0


def _aims(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stdout.splitlines() if "(aim: " in line]


def test_a_prompt_of_the_largest_batch_that_is_not_measured_is_refused(run_here) -> None:
    done = run_here("--device", "cpu", "--largest-at", "77")
    assert done.returncode == 2
    assert "--largest-at: expected one of (8192, 32768, 131072), got 77" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--memory-gb", "0"], "--memory-gb: expected a finite number, at least 1, got 0"),
        (["--seconds", "-1"], "--seconds: expected a finite number, at least 0, got -1"),
        (["--seconds", "nan"], "--seconds: expected a finite number, at least 0, got nan"),
        (["--new-tokens", "0"], "--new-tokens: expected a finite number, at least 1, got 0"),
        (["--batch-size", "1"], "--batch-size: expected a finite number, at least 2, got 1"),
        (["--batch-size", "x"], "--batch-size: invalid number value: 'x'"),
        (["--budget", "32"], "--budget: expected a finite number, at least 33, got 32"),
        (["--lengths", "0,100"], "--lengths: expected a finite number, at least 1, got 0"),
        (["--shape", "huge"], "--shape: invalid choice: 'huge'"),
        (["--tokens", "9999"], "--tokens, --lengths: expected at most 2048, the shape's positions, got 9999"),
        (["--device", "abacus"], "--device: invalid choice: 'abacus'"),
    ],
)
def test_bad_input_is_refused_before_the_tests_run(arguments, complaint, run_here) -> None:
    done = run_here(*TINY, *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr.splitlines()[-1]
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("code", "said", "words"),
    [
        (0, "...\n\n3 passed, 1 skipped in 2.00s\n", "3 passed, 1 skipped in 2.00s"),
        (2, "E\n1 error in 0.10s\n", "failed (2): 1 error in 0.10s"),
        (1, "", "failed (1): "),
        (5, "no tests ran", "no GPU tests found"),
    ],
)
def test_what_the_gpus_tests_said(code, said, words, monkeypatch) -> None:
    namespace = runpy.run_path(str(SCRIPT))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], code, said))
    assert namespace["correctness"]("cuda") == words


CHECK = SCRIPT.with_name("gpu_check.sh")
# In place of python: has a GPU, lacks what $MISSING names, and says what it is asked to run.
FAKE_PYTHON = """#!/bin/bash
case "$1 $2" in
  "-c "*cuda.is_available*) echo "gpu-check: a GPU" ;;
  "-c "*) echo "$MISSING" ;;
  "-m pytest") echo "tests ran"; exit ${TESTS_END:-0} ;;
  *) echo "ran $*"; exit ${BENCH_ENDS:-0} ;;
esac
"""


def _check(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    python = folder / "python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "MISSING": "", **settings}
    command = ["bash", str(CHECK), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_whole_check_runs_tests_and_benchmark_within_its_time(tmp_path: Path) -> None:
    done = _check(tmp_path, "--shape", "tiny")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[2] == "tests ran"
    assert lines[4] == "ran benchmarks/gpu.py --no-tests --seconds 300 --shape tiny"
    short = _check(tmp_path, SECONDS_IN_ALL="200")
    seconds = int(re.search(r"--seconds (\d+)", short.stdout)[1])
    assert 150 <= seconds <= 170


def test_the_whole_check_goes_on_without_pytest(tmp_path: Path) -> None:
    done = _check(tmp_path, MISSING="pytest and hypothesis")
    assert done.returncode == 0
    assert "tests/gpu not run: pytest and hypothesis not installed" in done.stdout
    assert "tests ran" not in done.stdout
    assert "ran benchmarks/gpu.py" in done.stdout


@pytest.mark.parametrize("fails", ["TESTS_END", "BENCH_ENDS"])
def test_the_whole_check_goes_on_after_a_failure_and_reports_it(fails, tmp_path: Path) -> None:
    done = _check(tmp_path, **{fails: "3"})
    assert done.returncode == 1
    assert "ended with exit code 3" in done.stdout
    assert "ran benchmarks/gpu.py" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("gpu-check: done after ")


def test_the_whole_check_keeps_what_it_prints(tmp_path: Path) -> None:
    done = _check(tmp_path, LOG=str(tmp_path / "log"))
    assert (tmp_path / "log").read_text() == done.stdout
    assert "ran benchmarks/gpu.py" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_whole_check_says_that_there_is_no_gpu() -> None:
    done = subprocess.run(
        ["bash", str(CHECK)], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "gpu-check: no GPU that torch can use; nothing was run."
