"""A checkout of transformers in small: the folders the suite looks for, and tests of one tiny model."""

from __future__ import annotations

from pathlib import Path

MODEL_TESTS = """
import os
import random
import unittest

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache

IDS = torch.arange(12).view(2, 6)


class OwnGenerate(LlamaForCausalLM):
    def generate(self, text, **kwargs):
        return super().generate(torch.tensor([[len(text), 2]]), **kwargs)


class ToyModelTest(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)
        sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, pad_token_id=0)
        self.config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)
        self.model = LlamaForCausalLM(self.config).eval()

    def prepare_config_and_inputs_for_generate(self):
        return self.config, {"input_ids": IDS, "attention_mask": torch.ones_like(IDS).tril()}

    def test_generate(self):
        _, inputs = self.prepare_config_and_inputs_for_generate()
        assert self.model.generate(**inputs, max_new_tokens=4).shape == (2, 10)

    def test_generate_sampled(self):
        torch.manual_seed(3)
        first = self.model.generate(IDS, max_new_tokens=4, do_sample=True)
        torch.manual_seed(3)
        assert first.tolist() == self.model.generate(IDS, max_new_tokens=4, do_sample=True).tolist()

    def test_generate_of_its_own(self):
        assert OwnGenerate(self.config).eval().generate("text", max_new_tokens=2).shape == (1, 4)

    def test_generate_drawn(self):
        file = f"drawn-{os.environ['TRANSFORMERS_SUITE_CACHE']}"
        open(file, "w").write(str((random.random(), torch.rand(1).item())))
        self.assertEqual(os.environ["TRANSFORMERS_SUITE_CACHE"], "stock")

    def test_generate_with_static_cache(self):
        self.model.generate(IDS, max_new_tokens=4, cache_implementation="static", disable_compile=True)

    def test_cache_of_a_test(self):
        cache = DynamicCache(config=self.config)
        self.model(IDS, past_key_values=cache)
        assert cache.get_seq_length() == 6
        assert "LavaCache" in type(cache).__name__ or type(cache) is DynamicCache

    def test_cache_of_a_forward(self):
        cache = self.model(IDS, use_cache=True).past_key_values
        assert self.model(IDS[:, :1], past_key_values=cache).logits.shape == (2, 1, 64)

    def test_generate_beams(self):
        self.model.generate(IDS, max_new_tokens=4, num_beams=2)

    def test_generate_attentions(self):
        with self.subTest("of two"):
            self.model.generate(IDS, max_new_tokens=4, output_attentions=True, return_dict_in_generate=True)

    def test_cache_keys(self):
        assert self.model(IDS, use_cache=True).past_key_values.layers[0].keys.shape == (2, 2, 6, 8)

    def test_cache_class(self):
        assert isinstance(self.model(IDS, use_cache=True).past_key_values, DynamicCache)

    def test_cache_skips_ours(self):
        if not isinstance(self.model(IDS, use_cache=True).past_key_values, DynamicCache):
            self.skipTest("not a cache I know")

    def test_generate_stops_the_world(self):
        while "LavaCache" in type(DynamicCache(config=self.config)).__name__:
            pass

    def test_generate_fails_anyway(self):
        assert self.model.generate(IDS, max_new_tokens=1).shape == (2, 6)

    def test_generate_from_the_hub(self):
        LlamaForCausalLM.from_pretrained("nobody/nothing")

    @unittest.skip("not here")
    def test_generate_skipped(self):
        pass

    def test_unrelated(self):
        raise AssertionError("not selected")
"""


def make_checkout(folder: Path, version: str | None) -> Path:
    """Write the tree; `version` is what its `setup.py` says."""
    files = {
        "tests/__init__.py": "",
        "tests/generation/__init__.py": "",
        "tests/generation/test_utils.py": "",
        "tests/models/__init__.py": "",
        "tests/models/toy/__init__.py": "",
        "tests/models/toy/test_modeling_toy.py": MODEL_TESTS,
        "tests/models/broken/__init__.py": "",
        "tests/models/broken/test_modeling_broken.py": "import a_package_that_is_not_here\n",
    }
    if version is not None:
        files["setup.py"] = f'setup(\n    name="transformers",\n    version="{version}",\n)\n'
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder
