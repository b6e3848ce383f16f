"""Naming a model."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from lavakv import InputError, ModelError
from lavakv.models import load as loading
from lavakv.models.load import load, resolve
from tests.cli.conftest import make_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("tiny"))


def test_a_directory(folder) -> None:
    loaded = load(str(folder), attention="eager")
    assert not loaded.model.training
    assert loaded.model.dtype == torch.float32
    assert loaded.model.config._attn_implementation == "eager"
    assert loaded.tokenizer("word1").input_ids


def test_another_dtype(folder) -> None:
    assert load(str(folder), dtype="bfloat16", device="cpu").model.dtype == torch.bfloat16


def test_ids_are_left_to_transformers() -> None:
    assert resolve("owner/name") == "owner/name"


@pytest.mark.parametrize("name", ["/not/there", "./x", "~/no-such-model", "a/b/c", "x.gguf", "smolm2", "owner/x.gguf"])
def test_paths_that_lead_nowhere(name) -> None:
    with pytest.raises(ModelError, match="nothing of that name"):
        resolve(name)


def test_default_model_is_fetched_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(loading, "default_model_dir", lambda: tmp_path)
    assert resolve("smollm2") == str(tmp_path)


@pytest.mark.parametrize(("option", "value"), [("dtype", "int4"), ("device", "abacus"), ("device", "meta")])
def test_options_that_are_none(option, value, folder) -> None:
    with pytest.raises(InputError) as caught:
        load(str(folder), **{option: value})
    assert caught.value.argument == option


def test_a_model_without_a_tokenizer(folder, tmp_path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ModelError, match="that transformers can load"):
        load(str(tmp_path))


@pytest.mark.parametrize("damage", ["missing", "another architecture"])
def test_a_model_that_would_run_on_random_weights(damage, folder, tmp_path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    if damage == "missing":
        weights = load_file(tmp_path / "model.safetensors")
        kept = {name: tensor for name, tensor in weights.items() if ".layers.1." not in name}
        save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    else:
        (tmp_path / "config.json").write_text('{"model_type": "bert", "is_decoder": true}')
    with pytest.raises(ModelError, match="weights for all of the model"):
        load(str(tmp_path))


@pytest.mark.parametrize("config", ['{"model_type": "nonesuch"}', '{"model_type": "llama", "hidden_size": "x"}'])
def test_a_config_that_is_none(config, folder, tmp_path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match="that transformers can load"):
        load(str(tmp_path))
