"""`make bench-gpu`: its script rehearsed on a CPU, and what it says without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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
    "--budget",
    "48",
    "--rounds",
    "1",
    "--prefill-rounds",
    "1",
    "--batch-size",
    "2",
]


BLOCKED = """
import runpy, sys
sys.modules.update(dict.fromkeys(["platformdirs", "matplotlib", "typer", "gguf"]))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script where packages are missing that only other commands need."""
    source = str(Path(lavakv.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", BLOCKED, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    done = _run()
    assert done.returncode == 2
    assert done.stderr.strip() == "bench-gpu: no GPU that torch can use; nothing was measured."
    assert done.stdout == ""


def test_floors_first_aims_beside_measurements_json_last() -> None:
    done = _run(*TINY)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("machine: ")
    assert lines[1].startswith("floor: ")
    assert sum("(aim: " in line for line in lines) == 7
    record = json.loads(lines[-1])
    assert record["gpu"] == record["machine"]["name"]
    assert [part["batch_size"] for part in record["attention_parts"]] == [1, 2]
    assert record["tests"] == "no GPU tests run"
    assert record["prefill_ratio"] > 0
