"""The default model, for real."""

from __future__ import annotations

import json

import pytest

from lavakv import ModelError
from lavakv.models.default import default_model_dir


@pytest.mark.real
def test_the_fetched_model_is_the_one_that_is_described() -> None:
    try:
        folder = default_model_dir()
    except ModelError as error:
        pytest.skip(f"no default model: {error}")
    config = json.loads((folder / "config.json").read_text())
    described = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
    assert {name: config[name] for name in described} == described
    assert config["max_position_embeddings"] == 8192
    assert config["dtype"] == "float32"
