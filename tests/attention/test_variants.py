"""Every launch uses the compiled kernel that Triton itself would have picked for its arguments; nothing is compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

PROGRAM = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

class Driver:
    def get_current_device(self): return 0
    def get_current_stream(self, device=None): return 0
    def get_current_target(self): return GPUTarget("cuda", 90, 32)

class Compiled:
    function = packed_metadata = None
    def launch_metadata(self, *_): pass
    def run(self, *_): pass
    def __getitem__(self, grid): return self.run

def compile_nothing(self, key, signature, device, constexprs, options, attrs, warmup):
    found = self.device_caches[device][0][key] = Compiled()
    return found

driver.set_active(Driver())
JITFunction._do_compile = compile_nothing

from lavakv.attention import AttentionRequest, AttentionSettings
from lavakv.attention.triton import kernel, launch, variant
from lavakv.attention.triton.variant import Variant
from lavakv.store.growing import GrowingKeyValues
from lavakv.store.past import RaggedPast

original, by_handle = Variant.__call__, [0]

def checked(self, grid, *arguments):
    known = self._compiled
    original(self, grid, *arguments)
    if known is not None:
        assert self._compiled is known
        picked = getattr(kernel, self._name)[grid](*arguments, **self._constants, **self._options)
        assert picked is known, (self._name, arguments)
        by_handle[0] += 1

Variant.__call__ = checked
variant._MAX_VARIANTS = 10**6
generator = torch.Generator().manual_seed(0)

def pick(*choices):
    return choices[int(torch.randint(len(choices), (1,), generator=generator))]

def tensor(*shape, dtype):
    offset, spread = pick(0, 0, 0, 1, 4, 8), pick(1, 1, 1, 2)
    flat = torch.zeros(offset + spread * torch.Size(shape).numel(), dtype=dtype)
    return flat[offset:].view(*shape, spread)[..., 0] if spread == 2 else flat[offset:].view(shape)

def contiguous(*shape, dtype):
    offset = pick(0, 0, 0, 1, 4, 8)
    return torch.zeros(offset + torch.Size(shape).numel(), dtype=dtype)[offset:].view(shape)

def request(batch, heads, group, head_dim, dtype, count, tail, columns):
    query_heads = heads * group
    queries = pick(
        tensor(batch, query_heads, count, head_dim, dtype=dtype),
        tensor(batch, count, query_heads, head_dim, dtype=dtype).transpose(1, 2),
    )
    mask = pick(None, tensor(pick(1, batch), 1, count, tail, dtype=torch.bool)) if count == 1 else tensor(
        pick(1, batch), 1, count, tail, dtype=torch.bool)
    past_mask = pick(None, tensor(pick(1, batch), 1, pick(1, count), columns, dtype=torch.bool))
    sinks = pick(None, torch.zeros(query_heads), torch.zeros(query_heads, dtype=torch.bfloat16))
    settings = AttentionSettings(pick(0.1, 1.0), pick(None, 2.0), sinks)
    return AttentionRequest(queries, settings, mask, past_mask)

styles = torch.randint(10**9, (1500,), generator=generator).tolist()
for step in range(6000):
    capacity, length, style = pick(16, 37, 1000), pick(16, 1 + step % 16), pick(*styles)
    generator.manual_seed(style)  # few kinds of requests, each of them often
    dtype, head_dim, count = pick(torch.float32, torch.bfloat16), pick(20, 64), pick(1, 1, 16)
    start, entries = pick(None, torch.zeros(1, dtype=torch.int64)), pick(0, 1, 300)
    keys, values = (contiguous(2, 2, capacity, dim, dtype=dtype) for dim in (head_dim, 24))
    past_keys, past_values = (contiguous(4 * entries, dim, dtype=dtype) for dim in (head_dim, 24))
    past = RaggedPast(past_keys, past_values, torch.zeros(4 * entries, dtype=torch.int32), [entries] * 4)
    asked = request(2, 2, 3, head_dim, dtype, count, capacity if start is not None else length, entries)
    launch.MAX_MERGE_BYTES = pick(0, 2**30)
    generator.manual_seed(step)
    launch.attend_tiles(past, launch.Tail(keys, values, length, start), asked)
assert by_handle[0] > 2000, by_handle
print("the same", by_handle[0])
"""


def test_triton_would_pick_the_same(tmp_path: Path) -> None:
    """Odd addresses and strides, masks, settings, one token and many, tails of all lengths and capacities."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, env=environment
    )
    assert result.stdout.startswith("the same"), result.stderr
