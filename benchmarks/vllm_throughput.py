"""Tokens a second and the cost of a step inside vLLM, with eviction and without, in the same pool of blocks.

    .venv-vllm/bin/python benchmarks/vllm_throughput.py [--model FOLDER] [--tokens 2000] [--requests 6] [--pool 2.3]

Each engine runs in a process of its own, one after the other. `--pool` says how many whole requests fit into the pool.
Beside wall time stands processor time, which other work on the machine disturbs less. Prints first the floor of this
machine for all requests at once: bytes over bandwidth, operations over rate. Then one line an engine, and as the last
line one JSON document. A step "at the same number" is measured in a second run whose pool holds all requests.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

PAGE = 32


def main() -> None:
    """Run both engines in both pools."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=6)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--keep", type=float, default=0.25)
    parser.add_argument("--pool", type=float, default=2.3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--engine", choices=("stock", "lavakv"), help=argparse.SUPPRESS)
    parser.add_argument("--large", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        print(json.dumps(measured(options)))
        return
    found: dict[str, Any] = {"tokens": options.tokens, "requests": options.requests, "keep": options.keep}
    found["floor"] = floor(options)
    print(f"floor: {found['floor']}", flush=True)
    for large in (False, True):
        for engine in ("stock", "lavakv"):
            words = [*sys.argv[1:], "--engine", engine, *(["--large"] if large else [])]
            done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
            one = json.loads(done.stdout.splitlines()[-1])
            found[f"{engine}{', all at once' if large else ''}"] = one
            print(f"{engine}{', all at once' if large else ''}: {one}", flush=True)
    alone = [found[f"{engine}, all at once"]["step_cpu_ms"] for engine in ("lavakv", "stock")]
    found["step, lavakv / stock"] = round(alone[0] / alone[1], 3)
    for unit in ("per_second", "per_cpu_second"):
        found[f"tokens {unit}, lavakv / stock"] = round(found["lavakv"][unit] / found["stock"][unit], 3)
    print(json.dumps(found))


def floor(options: argparse.Namespace) -> dict[str, Any]:
    """What no implementation can beat, with the threads that PyTorch takes in this process."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from lavakv.bench.floor import Floor, ModelSize
    from lavakv.bench.machine import measure_machine
    from lavakv.bench.settings import Setting
    from lavakv.models.default import default_model_dir

    dtype = getattr(torch, options.dtype)
    config = AutoConfig.from_pretrained(options.model or str(default_model_dir()), dtype=dtype)
    with torch.device("meta"):
        size = ModelSize.of(AutoModelForCausalLM.from_config(config))
    machine = measure_machine(torch.device("cpu"), dtype)
    bounds = Floor.of(size, machine, Setting(options.tokens, options.requests, round(options.keep * options.tokens)))
    return {
        "machine": str(machine), "prefill_seconds": round(bounds.prefill_seconds, 2),
        "step_ms_stock": round(1000 * bounds.decode_full_seconds, 2),
        "step_ms_lavakv": round(1000 * bounds.decode_compressed_seconds, 2),
    }  # fmt: skip


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """One engine in this process."""
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1")
    import torch
    from vllm import LLM, SamplingParams

    from lavakv.models.default import default_model_dir
    from lavakv.vllm import engine_arguments

    whole = -(-(options.tokens + options.new) // PAGE)
    blocks = int(whole * (options.requests if options.large else options.pool)) + 1
    ours = {"enable_prefix_caching": False, "block_size": PAGE}
    ours = ours if options.engine == "stock" else engine_arguments(keep=options.keep)
    llm = LLM(
        options.model or str(default_model_dir()), dtype=options.dtype, enforce_eager=True, seed=0,
        num_gpu_blocks_override=blocks, kv_cache_memory_bytes=4 << 30, max_model_len=options.tokens + options.new,
        max_num_batched_tokens=2048, max_num_seqs=options.requests, distributed_executor_backend="uni", **ours,
    )  # fmt: skip
    engine = llm.llm_engine
    scheduler = engine.engine_core.engine_core.scheduler
    greedy = SamplingParams(temperature=0, max_tokens=options.new, ignore_eos=True)
    for number in range(options.requests):
        words = [100 + (7919 * (number + 1) * (index + 1)) % 20000 for index in range(options.tokens)]
        engine.add_request(f"r{number}", {"prompt_token_ids": words}, greedy)
    steps, most, decode = 0, 0, []
    wall, cpu = time.perf_counter(), time.process_time()
    while engine.has_unfinished_requests():
        before = time.process_time()
        engine.step()
        steps, most = steps + 1, max(most, len(scheduler.running))
        if len(scheduler.running) == options.requests and not scheduler.waiting:
            decode.append(1000 * (time.process_time() - before))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    total = options.requests * options.new
    return {
        "threads": torch.get_num_threads(), "blocks": blocks - 1,
        "steps": steps, "most_running": most, "seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2), "per_second": round(total / wall, 2), "per_cpu_second": round(total / cpu, 2),
        "step_cpu_ms": round(median(decode[-options.new // 2 :]), 2) if decode else None,
    }  # fmt: skip


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
    main()
