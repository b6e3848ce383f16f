"""transformers' `custom_generate`: from the folder that is made for the Hub, and as a callable."""

from __future__ import annotations

import copy
import shutil
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

import lavakv
from lavakv.hf.contract import cache_argument
from lavakv.hf.enable import _RECORD
from tests.hf import zoo
from tests.hf.helpers import BY_POSITION, lava_cache, refuses

ROOT = Path(__file__).parents[2]
HUB = ROOT / "hub"
PROMPT = zoo.prompt(60, batch=2)
ANSWER = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
KINDS = ["llama", "gemma3_text", "gpt_oss"]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and a folder of its own for what transformers copies of a repository's code."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [*sys.path])


def by_folder(model: Any, *args: Any, **arguments: Any) -> Any:
    return model.generate(*args, custom_generate=str(HUB), trust_remote_code=True, **arguments)


def by_callable(model: Any, *args: Any, **arguments: Any) -> Any:
    return model.generate(*args, custom_generate=lavakv.hf.compressed, **arguments)


BOTH = pytest.mark.parametrize("way", [by_folder, by_callable], ids=["folder", "callable"])


def expected(model: Any, ids: torch.Tensor, arguments: dict[str, Any], **settings: Any) -> torch.Tensor:
    """The answer with a cache made by hand, on a copy of the model."""
    twin = lavakv.enable(copy.deepcopy(model))
    return twin.generate(ids, **cache_argument(twin, lavakv.LavaCache(model.config, **settings)), **arguments)


def is_enabled(model: Any) -> bool:
    return _RECORD in model.__dict__ or _RECORD in model.get_decoder().__dict__ or "generate" in model.__dict__


@BOTH
@pytest.mark.parametrize(
    "settings",
    [{"keep": 0.25, "window": 8}, {"budget": 40}, {"max_bytes": 60_000, "policy": "snapkv", "window": 4}, {}],
)
@pytest.mark.parametrize("kind", KINDS)
def test_it_gives_what_a_cache_made_by_hand_gives(kind: str, settings: dict[str, Any], way: Any) -> None:
    model = zoo.tiny(kind)
    got = way(model, PROMPT, **ANSWER, **settings)
    assert got.equal(expected(model, PROMPT, ANSWER, **settings))
    assert not is_enabled(model)


@BOTH
def test_the_prompt_is_compressed(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    caches = []
    plan = lavakv.LavaCache._plan
    monkeypatch.setattr(lavakv.LavaCache, "_plan", lambda self, *args: (caches.append(self), plan(self, *args))[1])
    way(zoo.tiny("llama"), PROMPT, keep=0.3, window=8, **ANSWER)
    (cache,) = caches
    assert cache.lengths().tolist() == expected_lengths(0.3)


def expected_lengths(keep: float) -> list[Any]:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lavakv.LavaCache(model.config, keep=keep, window=8)
    model.generate(PROMPT, **cache_argument(model, cache), **ANSWER)
    assert int(cache.lengths().sum()) == (18 + 7) * cache.lengths().numel()
    return cache.lengths().tolist()


@BOTH
def test_a_model_that_was_enabled_stays_so(way: Any) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    got = way(model, PROMPT, keep=0.25, window=8, **ANSWER)
    assert is_enabled(model)
    cache = lava_cache(model, keep=0.25)
    assert got.equal(model.generate(PROMPT, **cache_argument(model, cache), **ANSWER))


@BOTH
def test_padded_rows_sampling_and_dict_outputs(way: Any) -> None:
    model, ids = zoo.tiny("llama"), PROMPT.clone()
    ids[0, :13] = 0
    options = {"attention_mask": (ids != 0).long(), "max_new_tokens": 8, "do_sample": True, "eos_token_id": None}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    torch.manual_seed(3)
    got = way(model, ids, keep=0.5, window=8, **options)
    torch.manual_seed(3)
    want = expected(model, ids, options, keep=0.5, window=8)
    assert got.sequences.equal(want.sequences)
    assert all(one.equal(other) for one, other in zip(got.logits, want.logits, strict=True))


@BOTH
def test_a_policy_object_and_a_generation_config(way: Any) -> None:
    model = zoo.tiny("llama")
    config = transformers.GenerationConfig(max_new_tokens=5, do_sample=False, pad_token_id=0)
    got = way(model, PROMPT, policy=BY_POSITION, budget=20, window=4, generation_config=config)
    arguments = {"generation_config": config}
    assert got.equal(expected(model, PROMPT, arguments, policy=BY_POSITION, budget=20, window=4))


def test_a_streamer_is_served_by_the_folder() -> None:
    class Streamer(transformers.generation.streamers.BaseStreamer):
        def __init__(self) -> None:
            self.seen: list[int] = []

        def put(self, value: torch.Tensor) -> None:
            self.seen += value.flatten().tolist()

        def end(self) -> None:
            self.seen.append(-1)

    streamer = Streamer()
    got = by_folder(zoo.tiny("llama"), PROMPT[:1], keep=0.5, window=8, streamer=streamer, **ANSWER)
    assert streamer.seen == [*got[0].tolist(), -1]


@BOTH
@pytest.mark.parametrize(
    ("arguments", "kind", "named"),
    [
        ({"keep": 2.0}, lavakv.BudgetError, "keep"),
        ({"keep": 0.5, "budget": 9}, lavakv.BudgetError, "budget and keep"),
        ({"policy": "snap"}, lavakv.PolicyError, "policy"),
        ({"window": 0}, lavakv.BudgetError, "window"),
        ({"max_bytes": "lots"}, lavakv.BudgetError, "max_bytes"),
        ({"use_cache": False}, lavakv.UnsupportedError, "use_cache"),
        ({"prefill_chunk_size": 9, "policy": "h2o"}, lavakv.PolicyError, "h2o"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], kind: type[lavakv.LavaError], named: str, way: Any) -> None:
    model = zoo.tiny("llama")
    with refuses(kind, named):
        way(model, PROMPT, **arguments)
    assert not is_enabled(model)


@BOTH
def test_an_unknown_argument_is_named(way: Any) -> None:
    model = zoo.tiny("llama")
    with pytest.raises(ValueError, match="keap"):
        way(model, PROMPT, keap=0.5)
    assert not is_enabled(model)


@BOTH
def test_a_cache_of_the_user_s_is_refused(way: Any) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    with refuses(lavakv.InputError, "cache" if transformers.__version__ >= "5.24" else "past_key_values", "LavaCache"):
        way(model, PROMPT, **cache_argument(model, lava_cache(model)), **ANSWER)


def test_a_failure_leaves_the_model_as_it_was() -> None:
    model = zoo.tiny("llama")

    def broken(*_: Any) -> None:
        raise RuntimeError("on fire")

    hook = model.model.layers[1].register_forward_hook(broken)
    for way in (by_folder, by_callable):
        with pytest.raises(RuntimeError, match="on fire"):
            way(model, PROMPT, **ANSWER)
        assert not is_enabled(model)
    hook.remove()


def test_code_is_not_run_without_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "n")
    with pytest.raises(ValueError, match="trust_remote_code"):
        zoo.tiny("llama").generate(PROMPT, custom_generate=str(HUB), keep=0.25)


def test_where_the_folder_is_does_not_reach_the_model() -> None:
    model = zoo.tiny("llama")
    got = by_folder(model, PROMPT, keep=0.5, window=8, local_files_only=True, revision="main", **ANSWER)
    assert got.equal(expected(model, PROMPT, ANSWER, keep=0.5, window=8))


def test_a_model_s_own_repository_may_bring_it(tmp_path: Path) -> None:
    """transformers then replaces `generate` on the model; the function does not call itself."""
    zoo.tiny("llama").save_pretrained(tmp_path / "model")
    shutil.copytree(HUB / "custom_generate", tmp_path / "model" / "custom_generate")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", trust_remote_code=True)
    assert isinstance(model.generate, partial)
    got = model.generate(inputs=PROMPT, keep=0.25, window=8, **ANSWER)
    assert isinstance(model.generate, partial)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert got.equal(expected(plain, PROMPT, ANSWER, keep=0.25, window=8))


def test_requirements_and_readme() -> None:
    (line,) = (HUB / "custom_generate" / "requirements.txt").read_text().splitlines()
    assert line.startswith("lavakv>=")
    readme = (HUB / "README.md").read_text()
    assert "tags:\n  - custom_generate\n" in readme
    for name in ("keep", "budget", "max_bytes", "policy", "window"):
        assert f"| `{name}` |" in readme


@BOTH
@pytest.mark.parametrize(
    "settings", [{"max_tokens_per_head": 40}, {"protect": 9}, {"kv_bits": 8}, {"max_loss": 0.3}], ids=str
)
def test_further_settings_of_the_cache(way: Any, settings: dict[str, Any]) -> None:
    model, arguments = zoo.tiny("llama"), {**ANSWER, "max_new_tokens": 30}
    given = {"window": 8, **({} if "max_loss" in settings else {"budget": 30}), **settings}
    assert way(model, PROMPT, **given, **arguments).equal(expected(model, PROMPT, arguments, **given))
    assert not is_enabled(model)


@BOTH
def test_a_prompt_in_chunks(way: Any) -> None:
    model = zoo.tiny("llama", torch.float64)
    arguments = {**ANSWER, "prefill_chunk_size": 17}
    given = {"budget": 30, "window": 8}
    assert way(model, PROMPT, **given, **arguments).equal(expected(model, PROMPT, ANSWER, **given))
