"""The kernels compile for GPUs that are not there, and keep their numbers in registers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

PROGRAM = """
import pathlib, re, subprocess, tempfile
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lavakv.attention.triton import kernel
from lavakv.attention.triton.sizes import block_rows, launch_shape, max_rows

most = [(80, "*bf16", 2, 64), (90, "*fp32", 4, 80), (90, "*fp16", 2, 256)]
cases = [(*case, max_rows(case[2]), True) for case in most]
cases.append((90, "*bf16", 2, 128, 4, False))  # what the benchmark decodes with
for capability, pointer, itemsize, dim, rows, every in cases:
    shape = launch_shape(dim, dim, itemsize)
    block = dict(HEADS=8, GROUP=4, NUM_QUERIES=rows // 4, HEAD_DIM=dim, VALUE_DIM=dim, BLOCK_ROWS=block_rows(rows),
        BLOCK_ENTRIES=shape.block_entries, BLOCK_HEAD=shape.block_head, BLOCK_VALUE=shape.block_value, BLOCK_TILES=16,
        HAS_MASK=every, HAS_PAST_MASK=every, HAS_SOFTCAP=every, HAS_SINKS=every, ON_DEVICE=every)
    kinds = dict(tail_mask="*u8", past_mask="*u8", past_columns="*i32", tail_start="*i64", tiles="*i64",
        first_tile="*i64", outputs="*fp32", log_sums="*fp32",
        scaling="fp32", softcap="fp32", **{name: pointer for name in (
        "queries", "past_keys", "past_values", "tail_keys", "tail_values", "sinks", "merged")})
    aligned = {"outputs", "log_sums", "queries", "past_keys", "past_values", "tail_keys", "tail_values", "merged",
        "query_batch_stride", "query_head_stride", "query_token_stride", "tail_key_stride", "tail_value_stride"}
    for function in (kernel.attend_tile, kernel.merge_tiles):
        names = function.arg_names
        constants = {(i,): block[name] for i, name in enumerate(names) if name in block}
        signature = {name: "constexpr" if name in block else kinds.get(name, "i32") for name in names}
        attributes = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in aligned}
        source = ASTSource(function, signature, constants, attributes)
        options = dict(num_warps=shape.num_warps, num_stages=shape.num_stages)
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        binary = pathlib.Path(tempfile.mkdtemp()) / "kernel.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        tool = pathlib.Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        usage = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True).stdout
        assert re.search(r"STACK:0 .*LOCAL:0", usage), usage
        assert compiled.metadata.shared < 100 * 1024, compiled.metadata.shared
print("compiled")
"""


def test_the_kernels_compile(tmp_path: Path) -> None:
    """With the most query rows that are allowed, every setting on; and one row a query head, every setting off."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.stdout == "compiled\n", result.stderr
