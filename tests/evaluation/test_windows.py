"""Where no window is asked for, each policy has its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import lavakv
from lavakv.bench.settings import BenchSettings
from lavakv.budgets.spec import DEFAULT_WINDOW
from lavakv.errors import BudgetError
from lavakv.evaluation.settings import EvalSettings
from lavakv.evaluation.sweep import Sweep
from lavakv.evaluation.variant import Variant, batches, variants_of
from lavakv.hf.contract import cache_argument
from lavakv.policy.names import BUILT_IN, OWN_WINDOWS, window_for
from tests.hf import zoo
from tests.hf.helpers import kept

BETWEEN = 24  # a budget above the window of `reach` and within that of the others


def test_only_policies_that_exist_have_their_own() -> None:
    assert set(OWN_WINDOWS) <= set(BUILT_IN)
    assert window_for("reach", None) == 8
    assert window_for("lava", None) == window_for(None, None) == window_for("a plugin's", None) == DEFAULT_WINDOW
    assert window_for("reach", 40) == 40


def test_a_cache_keeps_the_last_tokens_of_its_policy_s_window() -> None:
    model, ids = zoo.tiny("llama"), zoo.prompt(70)
    with lavakv.enabled(model), torch.no_grad():
        given, own = (lavakv.LavaCache(model.config, BETWEEN, "reach", **more) for more in ({"window": 8}, {}))
        for cache in (given, own):
            model(ids, **cache_argument(model, cache))
        assert kept(given) == kept(own)
        assert all(positions[-8:] == list(range(62, 70)) for positions in kept(own))
        assert any(positions[-9] != 61 for positions in kept(own))
        with pytest.raises(BudgetError, match="window of 32"):
            model(ids, **cache_argument(model, lavakv.LavaCache(model.config, BETWEEN, "lava")))


def test_policies_with_different_windows_share_one_prefill() -> None:
    model, context = zoo.tiny("llama", torch.float64), zoo.prompt(70)
    variants = variants_of(["reach", "residual", "lava"], [40], [0.6], None)
    assert [len(rows) for rows in batches(variants, 8)] == [2, 4]
    assert [variant.window_tokens for variant in variants] == [8, 8, 32, 32, 32, 32]
    sweep = Sweep(model, context)
    with lavakv.enabled(model), torch.no_grad():
        for variant in variants:
            alone = variant.new_cache(model.config)
            model(context, **cache_argument(model, alone))
            assert kept(sweep.filled(variant)) == kept(alone)
    for found in sweep.run(variants):
        assert found.kept_entries == next(iter(sweep.run([found.variant]))).kept_entries


def test_a_run_records_the_window_where_all_policies_share_it() -> None:
    def settings(*policies: str, **more: object) -> EvalSettings:
        return EvalSettings(model="smollm2", tasks=("needle",), policies=policies, budgets=(64,), **more)

    assert settings("lava", "snapkv").arguments()["window"] == DEFAULT_WINDOW
    assert settings("reach").arguments()["window"] == 8
    assert settings("reach", "lava").arguments()["window"] is None
    assert [each.window_tokens for each in settings("reach", "lava").variants()] == [32, 8, 32]
    assert [each.window_tokens for each in settings("reach", "lava", window=20).variants()] == [20, 20, 20]
    assert replace(settings("lava"), policies=("lava", "reach")).variants()[-1].window_tokens == 8
    assert Variant("reach", keep=0.5).spec().window == 8
    assert BenchSettings(policy="reach").about()["window"] == 8
