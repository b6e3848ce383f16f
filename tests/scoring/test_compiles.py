"""The kernels compile for GPUs that are not there, and keep their numbers in registers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

PROGRAM = """
import pathlib, re, subprocess, sys, tempfile
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lavakv.scoring.triton import kernel, launch

capability, pointer, itemsize, dim, rows = int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
block = dict(HEADS=8, GROUP=4, HEAD_DIM=dim, BLOCK_ROWS=launch._block(rows), BLOCK_HEAD=launch._block(dim),
    BLOCK_KEYS=launch.launch_for(dim, itemsize).block_keys)
warps = launch.launch_for(dim, itemsize).num_warps
kinds = dict(queries=pointer, keys=pointer, scaling="fp32", largests="*fp32", totals="*fp32", means="*fp32")
aligned = {"queries", "keys", "query_head_stride", "query_group_stride", "query_token_stride", "key_head_stride",
    "key_token_stride"}
for function in (kernel.row_denominators, kernel.column_means):
    names = function.arg_names
    constants = {(i,): block[name] for i, name in enumerate(names) if name in block}
    signature = {name: "constexpr" if name in block else kinds.get(name, "i32") for name in names}
    attributes = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in aligned}
    source = ASTSource(function, signature, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(num_warps=warps))
    binary = pathlib.Path(tempfile.mkdtemp()) / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    tool = pathlib.Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    usage = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True).stdout
    assert re.search(r"STACK:0 .*LOCAL:0", usage), (function.__name__, usage)
    assert compiled.metadata.shared < 100 * 1024, compiled.metadata.shared
print("compiled")
"""


@pytest.mark.parametrize(
    ("capability", "pointer", "itemsize", "dim", "rows"),
    [(90, "*bf16", 2, 128, 32), (80, "*fp16", 2, 256, 64), (90, "*fp32", 4, 128, 32), (80, "*fp32", 4, 256, 32)],
)
def test_the_kernels_compile(
    tmp_path: object, capability: int, pointer: str, itemsize: int, dim: int, rows: int
) -> None:
    """The usual shape, and the largest heads and windows that are taken."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM, str(capability), pointer, *map(str, (itemsize, dim, rows))]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.stdout == "compiled\n", result.stderr
