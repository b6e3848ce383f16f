"""Floors, against counts made another way."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from lavakv.bench.floor import Floor, ModelSize
from lavakv.bench.machine import Machine, measure_machine
from lavakv.bench.settings import Setting
from lavakv.bench.shapes import SHAPES, shape_config
from tests.hf import zoo

PARAMETERS = {"smollm2-135m": 134_515_008, "qwen2.5-0.5b": 494_032_768, "llama-3.2-1b": 1_235_814_400,
              "llama-3.1-8b": 8_030_261_248}  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text"])
def test_cache_bytes_are_those_of_a_real_cache(kind) -> None:
    model = zoo.tiny(kind)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(zoo.prompt(60, 2), past_key_values=cache)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    counted = ModelSize.of(model).kv_bytes(Setting(60, 2, 24), compressed=False)
    windows = sum(2 * 2 * 2 * 8 * 4 for layer in cache.layers if layer.is_sliding)  # the newest token is read, too
    assert counted == held + windows


def test_operations_are_those_of_the_products() -> None:
    model = zoo.tiny("llama", attention="eager", tie_word_embeddings=False)
    tokens = 64
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(zoo.prompt(tokens, 2), logits_to_keep=1)
    masked_half = 2 * 3 * 4 * 4 * 8 * tokens**2 / 2  # eager attention multiplies what the mask then hides
    rotation = 2 * 2 * tokens * 8 // 2  # positions times frequencies
    operations = ModelSize.of(model).prefill_operations(Setting(tokens, 2, 24))
    norms = 2 * 2 * tokens * 32 * 7  # weights that multiply number by number, which the counter leaves out
    assert abs(operations + masked_half - counter.get_total_flops()) <= rotation + norms


@pytest.mark.parametrize("tied", [True, False])
def test_weights_read_by_a_step(tied) -> None:
    model = zoo.tiny("llama", tie_word_embeddings=tied)
    every = sum(p.numel() for p in model.parameters())
    embedding = model.get_input_embeddings().weight.numel()
    size = ModelSize.of(model)
    assert size.layer_weights + size.head_weights == every - (0 if tied else embedding)
    assert size.decode_bytes(Setting(60, 1, 24), True) == 4 * (size.layer_weights + size.head_weights) + 24 * 384


@pytest.mark.parametrize("name", PARAMETERS)
def test_named_shapes_have_as_many_weights_as_the_models_they_are_named_after(name) -> None:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape_config(name))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert SHAPES[name]["max_position_embeddings"] == model.config.max_position_embeddings


def test_a_step_takes_the_longer_of_moving_and_multiplying() -> None:
    size = ModelSize.of(zoo.tiny("llama"))
    setting = Setting(60, 1, 24)
    slow_memory = Floor.of(size, Machine("m", "cpu", 1, 1.0, 1e30, "float32"), setting)
    assert slow_memory.decode_full_seconds == size.decode_bytes(setting, False)
    assert slow_memory.decode_compressed_seconds == size.decode_bytes(setting, True)
    slow_arithmetic = Floor.of(size, Machine("m", "cpu", 1, 1e30, 1.0, "float32"), setting)
    assert slow_arithmetic.prefill_seconds == size.prefill_operations(setting)
    assert slow_arithmetic.decode_full_seconds == 2 * (size.layer_weights + size.head_weights)


def test_a_machine_is_measured() -> None:
    machine = measure_machine(torch.device("cpu"), torch.float32)
    assert machine.read_bandwidth > 0
    assert machine.multiply_rate > 0
    assert machine.about()["threads"] == torch.get_num_threads()
    assert "GB/s" in str(machine)
