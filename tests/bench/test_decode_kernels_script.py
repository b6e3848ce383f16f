"""`benchmarks/decode_kernels.py` where there is no GPU: the host's part, and the settings it compares with."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import lavakv

pytest.importorskip("triton", reason="Triton is not installed")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "decode_kernels.py"


def test_without_a_gpu_the_host_s_time_is_measured() -> None:
    source = str(Path(lavakv.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([source, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(SCRIPT), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    *_, line, last = done.stdout.splitlines()
    assert line.startswith("host, us: a step ")
    record = json.loads(last)
    assert set(record) == {"host_us", "seconds"}
    assert all(us > 0 for us in record["host_us"].values())


def test_each_choice_plans_and_launches_by_itself() -> None:
    from lavakv.attention.triton import launch, variant

    namespace = runpy.run_path(str(SCRIPT))
    before = launch.tile_size, variant.launch_shape, launch.MAX_MERGE_BYTES, launch._launches
    shape = namespace["LayerShape"](4, 2, 16, namespace["torch"].bfloat16, namespace["torch"].device("cpu"))
    case = namespace["RaggedCase"].made_up(shape, namespace["Setting"](100, 1, 20), 4, 0)
    seen = {}
    for name, choice in namespace["CHOICES"].items():
        case.store.past.planned_tiles["other"] = None
        with namespace["chosen"](choice, [case]), namespace["without_gpu"]():
            namespace["attend"](case)
            ((_, schedule),) = case.store.past.planned_tiles.items()
            (prepared,) = launch._launches.values()
            ((attend, merge),) = prepared.variants._found.values()
            seen[name] = schedule.size, attend._options["num_stages"], merge is None
    assert seen == {
        "now": (128, 3, True),
        "two launches": (128, 3, False),
        "settings before": (64, 2, True),
        "before": (64, 2, False),
    }
    assert before == (launch.tile_size, variant.launch_shape, launch.MAX_MERGE_BYTES, launch._launches)
