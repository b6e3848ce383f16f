"""A script: the backend for GPUs in an engine on a CPU, with PyTorch in place of vLLM's kernels; saves its answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lavakv.vllm.triton_backend import TritonBackend
from tests.vllm.model import prompt

PROMPTS = [(777, 0), (600, 1), (20, 9)]
INTERRUPTED = (500, 4)


class OnCpu(TritonBackend):
    """Under the name that vLLM asks for on a CPU."""

    @staticmethod
    def get_name() -> str:
        return "CPU_ATTN"


def attend(q: Tensor, k: Tensor, v: Tensor, out: Tensor, **given: Any) -> None:
    """`unified_attention` of causal rows; keys `[blocks, N, heads, head_dim]`."""
    starts, group = given["cu_seqlens_q"].tolist(), q.shape[1] // k.shape[2]
    for row, length in enumerate(given["seqused_k"].tolist()):
        own, table = slice(starts[row], starts[row + 1]), given["block_table"][row].long()
        keys, values = (one[table].flatten(0, 1)[:length].repeat_interleave(group, dim=1) for one in (k, v))
        new = own.stop - own.start
        seen = torch.ones(new, length, dtype=torch.bool).tril(length - new)
        heads = (one.transpose(0, 1) for one in (q[own], keys, values))
        found = scaled_dot_product_attention(*heads, attn_mask=seen, scale=given["softmax_scale"])
        out[own] = found.transpose(0, 1)


def write(key: Tensor, value: Tensor, keys: Tensor, values: Tensor, slots: Tensor, *_scales: Any) -> None:
    """`triton_reshape_and_cache_flash`."""
    size = keys.shape[1]
    keys[slots // size, slots % size], values[slots // size, slots % size] = key, value


def main(folder: str, out: str) -> None:
    from vllm.v1.attention.backends import triton_attn
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    import lavakv.vllm.worker  # noqa: F401, registers the backend for a CPU, which is then replaced
    from tests.vllm.engine import Engine

    triton_attn.unified_attention, triton_attn.triton_reshape_and_cache_flash = attend, write
    register_backend(AttentionBackendEnum.CPU_ATTN, "tests.vllm.triton_on_cpu.OnCpu")
    engine = Engine(Path(folder))
    inputs = [prompt(*one) for one in PROMPTS]
    with engine.chunks(250):
        parts = engine.generate(inputs)
    whole = engine.generate(inputs)
    name = engine.add(prompt(*INTERRUPTED), 20)
    for _ in range(8):
        engine.step()
    engine.scheduler.reset_prefix_cache(reset_running_requests=True)
    replayed = engine.run()[name]
    context = engine.llm.llm_engine.vllm_config.compilation_config.static_forward_context
    used = {type(layer.impl).__module__ for layer in context.values()}
    found = {"whole": whole, "parts": parts, "replayed": [replayed]}
    answers = {kind: [tuple(answer) for answer in each] for kind, each in found.items()}
    torch.save(answers | {"is_empty": engine.is_empty, "used": used}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
