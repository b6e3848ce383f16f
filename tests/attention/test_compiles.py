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
from lavakv.attention.triton.sizes import block_rows, launch_shape, max_rows, merged_tiles

KIB = 1024
FLAGS = ("HAS_MASK", "HAS_PAST_MASK", "HAS_REACH", "HAS_SOFTCAP", "HAS_SINKS", "ON_DEVICE", "MERGE")
STEP, CHUNK = {"MERGE"}, {"HAS_MASK", "HAS_REACH"}
cases = [  # capability, its shared memory (KiB), dtype, its bytes, head size, query rows, what is on, stack bytes
    (90, 227, "*bf16", 2, 128, 4, STEP, 0),  # what the benchmark decodes with
    (80, 163, "*bf16", 2, 128, 4, STEP, 0),
    (90, 227, "*bf16", 2, 128, 64, CHUNK, 0),
    (80, 163, "*bf16", 2, 64, 64, {*FLAGS} - {"HAS_REACH"}, 64),
    (90, 227, "*fp32", 4, 80, 16, {*FLAGS} - {"HAS_REACH"}, 64),
    (86, 99, "*fp16", 2, 256, 64, {*FLAGS} - {"MERGE"}, 64),
    (89, 99, "*fp32", 4, 256, 16, {*FLAGS} - {"MERGE"}, 64),
    (120, 99, "*bf16", 2, 256, 16, {*FLAGS} - {"HAS_REACH"}, 64),
]
for capability, shared, pointer, itemsize, dim, rows, on, stack in cases:
    rows = min(rows, max_rows(itemsize))
    shape = launch_shape(dim, dim, itemsize, block_rows(rows))
    block = dict(HEADS=8, GROUP=4, HEAD_DIM=dim, VALUE_DIM=dim, BLOCK_ROWS=block_rows(rows),
        BLOCK_ENTRIES=shape.block_entries, BLOCK_HEAD=shape.block_head, BLOCK_VALUE=shape.block_value,
        BLOCK_TILES=merged_tiles(shape.block_value), **{flag: flag in on for flag in FLAGS})
    if rows == 4:
        block["num_queries"] = 1  # as Triton takes a 1
    kinds = dict(tail_mask="*u8", past_mask="*u8", past_columns="*i32", tail_start="*i64", tail_reach="*i64",
        schedule="*i64", scaling="fp32", softcap="fp32", **{name: pointer for name in (
        "queries", "past_keys", "past_values", "tail_keys", "tail_values", "sinks", "merged")})
    aligned = {"queries", "past_keys", "past_values", "tail_keys", "tail_values", "merged", "parts_start",
        "query_batch_stride", "query_head_stride", "query_token_stride"}
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
        found = re.search(r"STACK:(\\d+) .*LOCAL:0", usage)
        assert found and int(found[1]) <= stack, (capability, dim, on, usage)
        assert compiled.metadata.shared <= shared * KIB, (capability, dim, on, compiled.metadata.shared)
        if function is kernel.attend_tile and "MERGE" in on:  # all threads' parts, then the count, then its readers
            order = re.findall(r"bar\\.sync|atom\\.global\\.gpu\\.acq_rel\\.add|ld\\.global\\.cg", compiled.asm["ptx"])
            count = order.index("atom.global.gpu.acq_rel.add")
            assert order[count - 1] == "bar.sync" and order[count + 1] == "bar.sync", order
            assert "ld.global.cg" not in order[:count] and "ld.global.cg" in order[count:], order
print("compiled")
"""


def test_the_kernels_compile(tmp_path: Path) -> None:
    """A decode step and a chunk as models ask for them, and the most rows with every setting on.

    On GPUs with the least shared memory as well. Every setting at once may leave a few registers' worth on the stack.
    """
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.stdout == "compiled\n", result.stderr


PAGES = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lavakv.attention.triton.page_kernel import attend_split
from lavakv.attention.triton.sizes import block_rows, launch_shape, max_rows

names = attend_split.arg_names
cases = [  # capability, its shared memory (KiB), dtype, its bytes, head size, query rows
    (90, 227, "*bf16", 2, 128, 4), (80, 163, "*fp16", 2, 64, 64), (86, 99, "*bf16", 2, 256, 64),
    (120, 99, "*fp32", 4, 80, 16),
]
for capability, shared, pointer, itemsize, dim, rows in cases:
    rows = min(block_rows(rows), max_rows(itemsize))
    shape = launch_shape(dim, dim, itemsize, rows)
    block = dict(HEADS=1, GROUP=4, HEAD_DIM=dim, PAGE=32, BLOCK_ROWS=rows, BLOCK_ENTRIES=shape.block_entries,
        BLOCK_HEAD=shape.block_head)
    kinds = dict(tables="*i32", lengths="*i32", starts="*i32", parts="*fp32", log_sums="*fp32", scaling="fp32",
        **{name: pointer for name in ("queries", "keys", "values")})
    constants = {(i,): block[name] for i, name in enumerate(names) if name in block}
    signature = {name: "constexpr" if name in block else kinds.get(name, "i32") for name in names}
    aligned = {"queries", "keys", "values", "parts", "block_stride", "head_stride", "entry_stride"}
    attributes = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in aligned}
    options = dict(num_warps=shape.num_warps, num_stages=shape.num_stages)
    source = ASTSource(attend_split, signature, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= shared * 1024, (capability, dim, compiled.metadata.shared)
print("compiled")
"""


def test_the_kernel_over_pages_compiles(tmp_path: Path) -> None:
    """A decode step and several new tokens, also on GPUs with the least shared memory."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=False, env=environment)
    assert result.stdout == "compiled\n", result.stderr
