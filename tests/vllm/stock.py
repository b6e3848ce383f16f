"""A script: vLLM without lavakv's arguments, in an environment that has lavakv; what it answers, as JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.vllm.model import prompt

_KEEP = 4096


def main(folder: str, out: str) -> None:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM, SamplingParams

    llm = LLM(
        folder, dtype="float32", enforce_eager=True, num_gpu_blocks_override=46, kv_cache_memory_bytes=1 << 28,
        max_model_len=1024, max_num_batched_tokens=_KEEP, max_num_seqs=32, distributed_executor_backend="uni",
        enable_prefix_caching=False, block_size=32,
    )  # fmt: skip
    greedy = SamplingParams(temperature=0, max_tokens=40, logprobs=0, ignore_eos=True)
    (result,) = llm.generate([{"prompt_token_ids": prompt(90, 4)}], greedy, use_tqdm=False)
    engine, scheduler = llm.llm_engine, llm.llm_engine.engine_core.engine_core.scheduler
    for index in range(6):
        greedy = SamplingParams(temperature=0, max_tokens=96, ignore_eos=True)
        engine.add_request(f"own{index}", {"prompt_token_ids": prompt(510, 20 + index)}, greedy)
    steps = most = 0
    while engine.has_unfinished_requests():
        engine.step()
        steps, most = steps + 1, max(most, len(scheduler.running))
    record = {
        "tokens": list(result.outputs[0].token_ids),
        "logprobs": [next(iter(chosen.values())).logprob for chosen in result.outputs[0].logprobs],
        "steps": steps,
        "most_running": most,
        "loaded": sorted(name for name in sys.modules if name.startswith("lavakv.vllm")),
    }
    Path(out).write_text(json.dumps(record))


if __name__ == "__main__":
    main(*sys.argv[1:])
