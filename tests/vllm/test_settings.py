"""What operators and requests may ask for; without vLLM."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest

from lavakv.budgets.pages import block_counts
from lavakv.errors import BudgetError, InputError, LavaError, MissingExtraError, PolicyError, UnsupportedError
from lavakv.vllm import engine_arguments, versions
from lavakv.vllm.arguments import command_line
from lavakv.vllm.settings import Settings


@pytest.mark.parametrize(
    ("given", "budget", "keep"), [({}, 256, None), ({"keep": 0.25}, None, 0.25), ({"budget": 96}, 96, None)]
)
def test_settings_of_vllm_configuration(given, budget, keep) -> None:
    settings = Settings.of({"lavakv": given, "gdn_prefill_backend": "x"})
    assert (settings.budget, settings.keep, settings.window, settings.policy) == (budget, keep, 32, "lava")
    assert Settings.of({"lavakv": settings.as_dict()}) == settings
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (None, InputError),
        ({}, InputError),
        ({"lavakv": 0.25}, InputError),
        ({"lavakv": {"keep": 0.5, "max_bytes": "1GiB"}}, InputError),
        ({"lavakv": {"keep": 0}}, BudgetError),
        ({"lavakv": {"keep": "0.5"}}, BudgetError),
        ({"lavakv": {"keep": 0.5, "budget": 64}}, BudgetError),
        ({"lavakv": {"budget": 32}}, BudgetError),
        ({"lavakv": {"window": 0}}, BudgetError),
        ({"lavakv": {"policy": "lav"}}, PolicyError),
    ],
)
def test_configurations_that_are_refused(given, error) -> None:
    with pytest.raises(error):
        Settings.of(given)


def test_a_request_may_bring_its_own_budget() -> None:
    server = Settings(keep=0.25, window=16, policy="snapkv")
    assert server.for_request(None) is server
    assert server.for_request({"other": 1}) is server
    assert server.for_request({"lavakv_keep": 0.5}) == Settings(keep=0.5, window=16, policy="snapkv")
    assert server.for_request({"lavakv_budget": 17}) == Settings(budget=17, window=16, policy="snapkv")
    assert server.for_request({"lavakv_keep": 1}).tokens_per_head(1000) == 1000


@pytest.mark.parametrize(
    "extra",
    [
        {"lavakv_keep": 0.5, "lavakv_budget": 64}, {"lavakv_policy": "snapkv"}, {"lavakv_keep": "0.5"},
        {"lavakv_keep": True}, {"lavakv_keep": None}, {"lavakv_keep": float("nan")}, {"lavakv_keep": 1.5},
        {"lavakv_keep": [0.5]}, {"lavakv_keep": 0}, {"lavakv_budget": 32}, {"lavakv_budget": 64.0},
        {"lavakv_budget": -1}, {"lavakv_budget": True}, {"lavakv_budget": "many"}, {"lavakv_budget": {"a": 1}},
    ],
)  # fmt: skip
def test_requests_that_are_refused_by_name(extra) -> None:
    Settings(keep=0.25).for_request({"lavakv_keep": 1})  # True must not find what 1 left in a cache
    with pytest.raises(LavaError, match="lavakv_") as refused:
        Settings(keep=0.25).for_request(extra)
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize(("given", "window"), [({}, 8), ({"window": 32}, 32)])
def test_a_policy_s_own_window_is_the_default(given, window) -> None:
    settings = Settings(keep=0.25, policy="reach", **given)
    assert settings.window == window
    assert Settings.of({"lavakv": settings.as_dict()}) == settings
    arguments = engine_arguments(keep=0.25, policy="reach", **given)
    assert arguments["logits_processors"] == ["lavakv.vllm:Arguments" + ("8" if window == 8 else "")]
    assert Settings.of(arguments["additional_config"]) == settings


def test_blocks_are_those_of_the_core() -> None:
    found = Settings(budget=96).block_counts(777, num_layers=30, num_heads=3, page_tokens=32)
    assert found == block_counts(777, 96, [3] * 30, 32, 32)
    assert Settings(keep=0.9).block_counts(100, 30, 3, 32).freed == 0, "too short to give a block back"


def test_both_ways_to_start_vllm_say_the_same() -> None:
    for budget, keep, policy, window in ((None, 0.25, "lava", 32), (128, None, "snapkv", 16)):
        python = engine_arguments(budget=budget, keep=keep, policy=policy, window=window)
        words = command_line(Settings(budget=budget, keep=keep, policy=policy, window=window))
        assert python["worker_cls"] in words
        assert python["scheduler_cls"] in words
        assert python["logits_processors"][0] in words
        assert python["enable_prefix_caching"] is ("--no-enable-prefix-caching" not in words)
        assert json.loads(words[words.index("--additional-config") + 1]) == python["additional_config"]
        assert words[words.index("--block-size") + 1] == str(python["block_size"])
        assert Settings.of(python["additional_config"]).window == window
    assert engine_arguments()["logits_processors"] == ["lavakv.vllm:Arguments"]
    assert engine_arguments(window=16)["logits_processors"] == ["lavakv.vllm:Arguments16"]
    with pytest.raises(BudgetError):
        engine_arguments(budget=10)


@pytest.mark.parametrize(("found", "error"), [(None, MissingExtraError), ("0.31.1", UnsupportedError),
                                              ("0.33.0", UnsupportedError), ("unknown", UnsupportedError)])  # fmt: skip
def test_other_releases_of_vllm_are_refused(found, error, monkeypatch) -> None:
    monkeypatch.setattr(versions, "installed_version", lambda: found)
    with pytest.raises(error, match=r">=0\.32,<0\.33"):
        versions.require_vllm()


@pytest.mark.parametrize("found", ["0.32.0", "0.32.1+cpu", "0.32.0.post1"])
def test_the_range_is_accepted(found, monkeypatch) -> None:
    monkeypatch.setattr(versions, "installed_version", lambda: found)
    assert versions.require_vllm() == found


def test_neither_lavakv_nor_its_arguments_import_vllm() -> None:
    program = """
import sys
import lavakv, lavakv.vllm, lavakv.vllm.server, lavakv.vllm.checks
lavakv.vllm.engine_arguments(keep=0.5)
assert "vllm" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
