"""The backend for GPUs as far as a machine without one can test it: all of it but the kernels, which others test."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from vllm.v1.attention.backend import AttentionCGSupport
from vllm.v1.kv_cache_interface import KVCacheLayout

from lavakv.errors import UnsupportedError
from lavakv.vllm import triton_backend
from lavakv.vllm.checks import check_attention, check_configuration
from lavakv.vllm.entry_pages import EntryPages
from lavakv.vllm.settings import Settings
from lavakv.vllm.step import CutRows
from tests.vllm.engine import KEEP, WINDOW
from tests.vllm.model import Answer, prompt, reference
from tests.vllm.test_equality import require_same
from tests.vllm.test_refusals import PLAIN, Overlay, configuration
from tests.vllm.triton_on_cpu import INTERRUPTED, PROMPTS

LAYERS, HEADS, BLOCKS, TOKENS, SIZE = 3, 2, 12, 16, 8


def test_an_engine_answers_as_a_lavacache(model_folder, hf_model, tmp_path) -> None:
    """Batches, chunks, a prompt below budget and one that is read again after preemption."""
    environment, out = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, tmp_path / "found.pt"
    script = Path(__file__).with_name("triton_on_cpu.py")
    subprocess.run([sys.executable, str(script), str(model_folder), str(out)], env=environment, check=True)
    made = torch.load(out)
    assert made["is_empty"]
    assert made["used"] == {triton_backend.__name__}
    given = {"whole": PROMPTS, "parts": PROMPTS, "replayed": [INTERRUPTED]}
    for kind, prompts in given.items():
        for one, found in zip(prompts, made[kind], strict=True):
            got = Answer(*found)
            if one[0] == 20:
                assert got.kept is None
                assert got.tokens == reference(hf_model, prompt(*one), got.tokens).tokens
            else:
                require_same(got, reference(hf_model, prompt(*one), got.tokens, keep=KEEP, window=WINDOW))


def test_what_vllm_is_told() -> None:
    backend = triton_backend.TritonBackend
    assert backend.get_name() == "TRITON_ATTN"
    assert backend.supported_kv_cache_layouts() == (KVCacheLayout.LBHNC,)
    assert backend.get_impl_cls() is triton_backend.Attention
    assert backend.get_builder_cls() is triton_backend.MetadataBuilder
    assert triton_backend.MetadataBuilder.get_cudagraph_support(None, None) is AttentionCGSupport.NEVER
    assert not inspect.isabstract(triton_backend.Attention)
    assert not inspect.isabstract(triton_backend.MetadataBuilder)


def pages_and_prompt() -> tuple[EntryPages, torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Pages with a prompt of two and a half blocks in them, as vLLM's kernel writes it."""
    torch.manual_seed(0)
    caches = list(torch.randn(LAYERS, BLOCKS, HEADS, TOKENS, 2 * SIZE).unbind())
    length, blocks = 40, torch.tensor([7, 2, 9], dtype=torch.int32)
    keys, values = torch.randn(2, LAYERS, HEADS, length, SIZE)
    for layer, cache in enumerate(caches):
        for at in range(length):
            place = cache[int(blocks[at // TOKENS]), :, at % TOKENS]
            place[:, :SIZE], place[:, SIZE:] = keys[layer, :, at], values[layer, :, at]
    return EntryPages(caches), keys, values, blocks, length


def test_pages_read_as_vllm_wrote_them_and_as_they_were_written() -> None:
    pages, keys, values, blocks, length = pages_and_prompt()
    for layer in range(LAYERS):
        found = pages.of_prompt(layer, blocks, length)
        assert all(map(torch.equal, found, (keys[layer], values[layer])))
    counts = torch.tensor([[3, 0], [1, 4], [2, 2]])
    positions = [torch.tensor([0, 31, 39]), torch.tensor([5, 1, 2, 3, 30]), torch.tensor([9, 10, 0, 1])]
    got_keys, got_values = pages.entries(blocks, positions, counts)
    owners = [(layer, head) for layer in range(LAYERS) for head in range(HEADS) for _ in range(counts[layer, head])]
    for index, ((layer, head), at) in enumerate(zip(owners, torch.cat(positions).tolist(), strict=True)):
        assert torch.equal(got_keys[index, 0], keys[layer, head, at])
        assert torch.equal(got_values[index, 0], values[layer, head, at])
    slots = torch.randperm(LAYERS * BLOCKS * HEADS * TOKENS)[: len(got_keys)]
    pages.write(got_keys, got_values, slots)
    for index, slot in enumerate(slots.tolist()):
        assert torch.equal(pages.key_blocks[slot // TOKENS, 0, slot % TOKENS], got_keys[index, 0])
        assert torch.equal(pages.value_blocks[slot // TOKENS, 0, slot % TOKENS], got_values[index, 0])


def test_cleared_blocks_hold_zeros_and_others_what_they_held() -> None:
    pages, keys, _, blocks, _ = pages_and_prompt()
    pages.clear(blocks[:1])
    for layer in range(LAYERS):
        left, _ = pages.of_prompt(layer, blocks, 40)
        assert not left[:, :TOKENS].any()
        assert torch.equal(left[:, TOKENS:], keys[layer, :, TOKENS:])


def test_caches_apart_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="caches apart"):
        EntryPages([torch.zeros(BLOCKS, HEADS, TOKENS, 2 * SIZE) for _ in range(2)])


def test_rows_move_to_a_device_whole(monkeypatch) -> None:
    """To PyTorch's device without storage, as there is no other here."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    cut = CutRows(None, *(torch.ones(2, 3, dtype=torch.int32) for _ in range(4)), most_new=5)
    moved = cut.on(torch.device("meta"))
    assert moved.tokens is None
    assert moved.most_new == 5
    assert all(one.is_meta for one in (moved.slots, moved.tables, moved.lengths, moved.starts))
    assert cut.on(torch.device("cpu")) is cut


@pytest.mark.parametrize(
    ("where", "name", "value", "message"),
    [
        ("model_config", "enforce_eager", False, "enforce-eager"),
        ("scheduler_config", "async_scheduling", True, "no-async-scheduling"),
        ("attention_config", "backend", SimpleNamespace(name="FLASH_ATTN"), "attention-backend"),
    ],
)
def test_refused_on_a_gpu(where, name, value, message, model_folder) -> None:
    """A configuration that passes, on a GPU, and with one value that cannot work there."""
    config = configuration(model_folder)
    on_gpu = {"device_config": SimpleNamespace(device_type="cuda")}
    settings = Settings.of(config.additional_config)
    check_configuration(Overlay(config, on_gpu), settings)
    assert hasattr(getattr(config, where), name)
    changed = on_gpu | {where: Overlay(getattr(config, where), {name: value})}
    with pytest.raises(UnsupportedError, match=message):
        check_configuration(Overlay(config, changed), settings)


def test_attention_as_the_backend_for_gpus_knows_it() -> None:
    check_attention(SimpleNamespace(**(PLAIN | {"sliding_window": (-1, -1)})))
    with pytest.raises(UnsupportedError, match="sliding"):
        check_attention(SimpleNamespace(**(PLAIN | {"sliding_window": (63, 0)})))


PLATFORM = """
import sys
from types import SimpleNamespace
from vllm.platforms import current_platform
type(current_platform).is_cpu = lambda self: False
from vllm.v1.attention.backends.registry import AttentionBackendEnum as Backends
from vllm.v1.worker.gpu_worker import Worker as GpuWorker
from lavakv.vllm import worker
from lavakv.vllm.triton_backend import TritonBackend
assert issubclass(worker.Worker, GpuWorker) and worker.PlatformWorker is GpuWorker
assert Backends.TRITON_ATTN.get_class() is TritonBackend
assert not Backends.CPU_ATTN.is_overridden()
config = SimpleNamespace(additional_config={"lavakv": {"keep": 0.5}}, attention_config=SimpleNamespace(backend=None))
worker.check_configuration = lambda *_: None
GpuWorker.__init__ = lambda self, given, *_: setattr(self, "given", given)
assert worker.Worker(config, 0, 0, "").given.attention_config.backend is Backends.TRITON_ATTN
"""


def test_the_platform_chooses_and_says_that_it_is_untested() -> None:
    result = subprocess.run([sys.executable, "-c", PLATFORM], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "untested on a GPU" in result.stdout + result.stderr
