"""One measured run."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

import lavakv
from lavakv.evaluation.answer import Sampling, answer
from lavakv.evaluation.encode import encode, max_answer_tokens
from lavakv.evaluation.variant import Variant
from lavakv.models.load import load
from tests.cli.conftest import WORDS, make_model


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load(str(make_model(tmp_path_factory.mktemp("tiny"))), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def ids(loaded):
    return encode(loaded.tokenizer, " ".join(WORDS * 2), chat=False)


def test_full_cache_is_plain_generate(loaded, ids) -> None:
    done = answer(loaded, ids, Variant(None), Sampling(6))
    plain = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
    assert done.text == loaded.tokenizer.decode(plain[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert done.kept_fraction == 1
    assert done.kv_bytes == 2 * 3 * 2 * 8 * 4 * (160 + done.new_tokens - 1)


def test_model_is_left_as_it_was(loaded, ids) -> None:
    before = loaded.model.config._attn_implementation
    answer(loaded, ids, Variant("lava", budget=50), Sampling(2))
    assert loaded.model.config._attn_implementation == before
    with pytest.raises(lavakv.NotEnabledError):
        loaded.model(ids, past_key_values=lavakv.LavaCache(loaded.model.config))


def test_measures_what_happened(loaded, ids) -> None:
    pieces: list[str] = []
    done = answer(loaded, ids, Variant("lava", budget=50), Sampling(6), pieces.append)
    assert "".join(pieces).strip() == done.text
    assert (done.prompt_tokens, done.new_tokens) == (160, 6)
    assert done.kept_entries == 50 * 6 == int(done.cache.budgets().layer_entries.sum())
    assert done.kv_bytes == done.cache.nbytes
    assert done.prefill_seconds > 0
    assert done.tokens_per_second == pytest.approx(5 / done.decode_seconds)
    assert "cache" not in done.record()


def test_one_token_has_no_decoding_speed(loaded, ids) -> None:
    assert answer(loaded, ids, Variant(None), Sampling(1)).tokens_per_second is None


def test_answers_end_at_the_model_s_last_position(loaded) -> None:
    assert max_answer_tokens(loaded.model.config, 250, 64) == 6
    with pytest.raises(lavakv.InputError, match="fewer than 256 tokens"):
        max_answer_tokens(loaded.model.config, 256, 64)


def test_labels() -> None:
    assert Variant(None).label == "full cache"
    assert Variant("lava", keep=0.125).budget_label == "12.5%"
    assert Variant("lava", keep=0.5).budget_label == "50%"
    assert Variant("lava", budget=128).budget_label == "128"
    assert Variant("lava", max_bytes="1MiB").budget_label == "1MiB"
    assert Variant("lava", max_loss=0.05).budget_label == "loss 0.05"
    assert Variant("lava").budget_label == "256"


def test_full_variant_makes_the_stock_cache(loaded) -> None:
    assert type(Variant(None).new_cache(loaded.model.config)) is DynamicCache
