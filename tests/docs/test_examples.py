"""The Python of CONTRIBUTING.md, docs/usage.md, docs/api.md and parts of docs/policies.md runs as it stands."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import lavakv
from lavakv.models.load import load
from lavakv.scoring.window import ScoringWindow
from tests import readme
from tests.cli.conftest import WORDS, make_model

ROOT = Path(__file__).parents[2]


def blocks(page: str) -> list[str]:
    """The Python of a page, block by block."""
    return readme.code_blocks((ROOT / page).read_text(encoding="utf-8"), "python")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the pages suppose to be there: a model, its tokenizer and a text."""
    loaded = load(str(make_model(tmp_path_factory.mktemp("tiny-docs"))), dtype="float32", device="cpu")
    text = " ".join(WORDS[index * 7 % 80] for index in range(180))
    return {"model": loaded.model, "tokenizer": loaded.tokenizer, "text": text}


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    """What the recipe for a score defines."""
    defined: dict[str, Any] = {}
    score, test = blocks("CONTRIBUTING.md")
    exec(score, defined)
    exec(test, defined)
    return defined


@given(st.integers(0, 2**32 - 1))
def test_the_recipe_s_own_test_passes(recipe: dict[str, Any], seed: int) -> None:
    torch.manual_seed(seed)
    recipe["test_value_norm"]()


def test_the_recipe_s_own_test_can_fail(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipe, "VALUE_NORM", "knorm")
    torch.manual_seed(0)
    with pytest.raises(AssertionError):
        recipe["test_value_norm"]()


def test_the_recipe_s_policy_works_in_a_cache(recipe: dict[str, Any], names: dict[str, Any]) -> None:
    model, ids = names["model"], names["tokenizer"](names["text"], return_tensors="pt").input_ids
    cache = lavakv.LavaCache(model.config, budget=64, policy=recipe["VALUE_NORM"])
    with lavakv.enabled(model), torch.no_grad():
        model(ids, past_key_values=cache)
    assert int(cache.lengths().sum()) == 64 * cache.lengths().numel()


def test_usage_asks_each_question_of_a_copy_and_selects_without_transformers(
    names: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = "copy.deepcopy", "cache.expand", "cache.save", "custom_generate", "lavakv.scores"
    cached, together, saved, custom, core = (
        next(block for block in blocks("docs/usage.md") if mark in block) for mark in marks
    )
    monkeypatch.chdir(tmp_path)
    defined = dict(names)
    with torch.no_grad():
        exec(cached, defined)
    tokens = defined["context"].shape[1]
    assert tokens == 180
    kept = defined["cache"].lengths()
    assert int(kept.sum()) == tokens // 4 * kept.numel()
    assert len(capsys.readouterr().out.splitlines()) == 2
    alone, fresh = copy.deepcopy(defined["cache"]), copy.deepcopy(defined["cache"])
    exec(together, defined)
    assert defined["output"].shape[0] == defined["cache"].batch_size == 2
    second = torch.cat([defined["context"], defined["asked"].input_ids[1:]], dim=1)
    answer = names["model"].generate(second, past_key_values=alone, max_new_tokens=16)
    assert defined["output"][1, : answer.shape[1]].equal(answer[0])
    defined |= {"cache": fresh}
    exec(saved, defined)
    assert defined["later"].get_seq_length() == defined["answer"].shape[1] - 1
    budgets = [defined[name].budgets().layer_entries for name in ("cache", "later")]
    assert budgets[0].equal(budgets[1])
    exec(custom, defined)
    assert defined["compressed"].shape[1] > tokens
    exec(core, defined)
    assert int(defined["selection"].counts.sum()) == 64 * 4 * 2


def test_usage_keeps_a_conversation_within_its_budget(names: dict[str, Any]) -> None:
    turns = next(block for block in blocks("docs/usage.md") if 'evict="turns"' in block)
    defined = {**names, "lavakv": lavakv, "torch": torch}
    with lavakv.enabled(names["model"]), torch.no_grad():
        exec(turns, defined)
    assert defined["cache"].get_seq_length() == defined["ids"].shape[1] - 1
    assert 48 <= float(defined["cache"].lengths().float().mean()) <= 48 + 15  # the tiny model may end its answer early


def test_the_reference_scores_layer_by_layer_and_keeps_what_select_keeps() -> None:
    num_heads, num_tokens, budget, window = [2, 2, 4], 300, 48, 8
    torch.manual_seed(0)
    layers = [
        (torch.randn(heads, 2, window, 16), torch.randn(heads, num_tokens, 16), torch.randn(heads, num_tokens, 16))
        for heads in num_heads
    ]
    windows = [ScoringWindow(queries, [keys], [values], scaling=0.25) for queries, keys, values in layers]
    defined: dict[str, Any] = {
        "budget": budget, "window": window, "num_tokens": num_tokens,
        "num_heads_of_each_layer": num_heads, "windows": windows,
    }  # fmt: skip
    exec(blocks("docs/api.md")[0], defined)
    scores = [lavakv.scores("lava", queries.flatten(0, 1), keys, values) for queries, keys, values in layers]
    expected = lavakv.select("lava", scores, budget, window)
    assert len(defined["kept"]) == len(num_heads)
    for kept, flat in zip(defined["kept"], expected.flat_positions, strict=True):
        assert torch.equal(kept, flat)


def test_the_policies_page_repeats_a_prompt_behind_a_request(names: dict[str, Any]) -> None:
    (block,) = [block for block in blocks("docs/policies.md") if "Replay.asking" in block]
    defined = {**names, "lavakv": lavakv}
    exec(block, defined)
    ids = names["tokenizer"](names["text"], return_tensors="pt").input_ids[:, :80]
    for policy in (defined["asking"], defined["small"]):
        cache = lavakv.LavaCache(names["model"].config, budget=48, policy=policy)
        with lavakv.enabled(names["model"]), torch.no_grad():
            names["model"](ids, past_key_values=cache)
        assert int(cache.lengths().sum()) == 48 * cache.lengths().numel()


def test_the_policies_page_reads_gates(names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a file of that name with weights of that method's names for the model at hand."""
    (block,) = [block for block in blocks("docs/policies.md") if "kvzap(" in block]
    config, folder = names["model"].config, tmp_path / "KVzap-mlp-Qwen3-8B"
    folder.mkdir()
    shapes = {"weight": (config.num_key_value_heads, config.hidden_size), "bias": (config.num_key_value_heads,)}
    layers = range(config.num_hidden_layers)
    weights = {f"layers.{layer}.{name}": torch.randn(shape) for layer in layers for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    defined = dict(names)
    exec(block, defined)
    ids = names["tokenizer"](names["text"], return_tensors="pt").input_ids[:, :80]
    with lavakv.enabled(names["model"]), torch.no_grad():
        names["model"](ids, past_key_values=defined["cache"])
    assert defined["cache"].get_seq_length() == ids.shape[1]
