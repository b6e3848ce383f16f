"""What `lavakv inspect` shows is what the cache holds."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import lavakv
from lavakv.evaluation.variant import Variant
from lavakv.models.load import load
from lavakv.report.survival.document import budget_label, packed, page_data
from lavakv.report.survival.inspection import Inspector, heads_of, kept_entries, token_texts
from tests.cli.conftest import WORDS

VARIANTS = [Variant(policy, keep=keep, window=8) for policy in ("lava", "random") for keep in (0.25, 0.5)]
HEADS = [(0, 2), (1, 2), (2, 2)]


@pytest.fixture(scope="module")
def ids(model_dir: str) -> torch.Tensor:
    text = " ".join(WORDS[index * 7 % 80] for index in range(120))
    return AutoTokenizer.from_pretrained(model_dir)(text, return_tensors="pt").input_ids


@pytest.fixture(scope="module")
def inspector(model_dir: str, ids: torch.Tensor) -> Inspector:
    return Inspector(load(model_dir), ids, None, max_new_tokens=4)


def test_survivors_are_the_positions_that_a_prefill_leaves(inspector, ids, model_dir: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    assert inspector.heads == HEADS
    for variant, found in zip(VARIANTS, inspector.run(VARIANTS), strict=True):
        cache = lavakv.LavaCache(model.config, policy=variant.policy, keep=variant.keep, window=8)
        with lavakv.enabled(model), torch.no_grad():
            model(ids, past_key_values=cache)
        rows = [cache.kept_positions(layer, 0, head).tolist() for layer, heads in HEADS for head in range(heads)]
        assert [row.nonzero()[0].tolist() for row in found.kept] == rows
        assert found.kept_fraction == pytest.approx(variant.keep)
        assert found.kv_bytes < inspector.full_bytes
        assert found.estimated_loss == pytest.approx(float(cache.budgets().estimated_loss.sum()), rel=1e-4)


def test_layers_that_are_not_compressed_are_left_out(ids) -> None:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=85, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=16,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )  # fmt: skip
    model = Gemma3ForCausalLM(config).eval()
    cache = lavakv.LavaCache(model.config, budget=40, window=8)
    with lavakv.enabled(model), torch.no_grad():
        model(ids, past_key_values=cache)
    assert heads_of(cache) == [(1, 2)]
    assert kept_entries(cache, ids.shape[1]).sum(axis=1).sum() == 80


def test_budgets_go_from_small_to_large_and_are_the_same_for_all(inspector) -> None:
    data = page_data(inspector, list(inspector.run(VARIANTS[::-1])), window=8)
    assert data["budgets"] == ["25\u00a0%", "50\u00a0%"]
    assert [policy["name"] for policy in data["policies"]] == ["random", "lava"]
    assert [[size["perHead"] for size in policy["sizes"]] for policy in data["policies"]] == [[30, 60], [30, 60]]
    assert data["queryAware"]
    assert data["window"] == 8


def test_the_slider_tells_what_is_really_kept(inspector) -> None:
    """Of 120 tokens, 5 and 2 % are less than the window and one more: both keep 9, which is 7.5 %."""
    variants = [Variant("lava", keep=keep, window=8) for keep in (0.25, 0.05, 0.02)]
    found = list(inspector.run(variants))
    assert [round(one.kept_fraction * 120) for one in found] == [30, 9, 9]
    assert page_data(inspector, found, window=8)["budgets"] == [
        "7.5\u00a0% kept, 2\u00a0% requested", "7.5\u00a0% kept, 5\u00a0% requested", "25\u00a0%",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "fractions", "label"),
    [
        ("12.5%", [0.125, 0.125], "12.5 %"),
        ("33.3%", [0.3333], "33.3 %"),
        ("25%", [0.2534], "25 %"),
        ("9%", [0.26], "26 % kept, 9 % requested"),
        ("9%", [0.26, 0.3], "26 % to 30 % kept, 9 % requested"),
        ("40", [0.4, 0.4], "40 per head, 40 %"),
        ("400", [1.0], "100 % kept, 400 per head requested"),
    ],
)
def test_labels_of_budgets(asked, fractions, label) -> None:
    assert budget_label(asked, fractions, num_tokens=100).replace("\u00a0", " ") == label


def test_a_question_comes_after_what_is_compressed(model_dir, ids) -> None:
    inspector = Inspector(load(model_dir), ids, ids[:, :3], max_new_tokens=2)
    (found,) = inspector.run(VARIANTS[:1])
    assert found.kept.shape[1] == ids.shape[1]
    data = page_data(inspector, [found], window=8)
    assert not data["queryAware"]
    assert data["question"].split() == [WORDS[0], WORDS[7], WORDS[14]]


@given(arrays(np.bool_, st.tuples(st.integers(1, 5), st.integers(1, 30))))
def test_packed_bits_come_back_as_the_page_reads_them(kept) -> None:
    data = zlib.decompress(base64.b64decode(packed(kept)))
    tokens = kept.shape[1]
    for row in range(kept.shape[0]):
        for token in range(tokens):
            index = row * tokens + token
            assert data[index >> 3] >> (index & 7) & 1 == kept[row, token]


@pytest.fixture(scope="module")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte a token of its own, as byte-level tokenizers have it for what they have not learnt."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw)


@given(text=st.text(alphabet=st.sampled_from("ab \n\u00e9\u4eba\U0001f30b\u0000<&"), min_size=1, max_size=12))
def test_texts_of_tokens_together_are_the_text(text, byte_tokenizer) -> None:
    ids = byte_tokenizer(text)["input_ids"]
    texts = token_texts(byte_tokenizer, ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == text


def test_a_character_of_several_tokens_stands_on_the_last(byte_tokenizer) -> None:
    ids = byte_tokenizer("a\u4ebab")["input_ids"]
    assert token_texts(byte_tokenizer, ids) == ["a", "", "", "\u4eba", "b"]
    assert token_texts(byte_tokenizer, ids[:3])[0] == "a"
    assert "".join(token_texts(byte_tokenizer, ids[:3])) == "a\ufffd"


def test_spaces_that_a_tokenizer_drops_at_the_start_are_kept() -> None:
    vocabulary = {"<unk>": 0, "\u2581one": 1, "\u2581two": 2, "s": 3}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")
    assert token_texts(tokenizer, [1, 2, 3, 1]) == ["one", " two", "s", " one"]


def test_the_page_is_one_file(tmp_path: Path, inspector) -> None:
    from lavakv.report.survival.document import inspection_page

    page = inspection_page(inspector, list(inspector.run(VARIANTS)), "a </script> model", 8)
    assert "a &lt;/script&gt; model" in page
    assert page.count("</script>") == 2
    assert " src=" not in page
