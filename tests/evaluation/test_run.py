"""A run's records: what they say, and that they are what each policy gives alone."""

from __future__ import annotations

import hashlib
import json
import struct
from itertools import product

import pytest
import torch

import lavakv
from lavakv.evaluation.executor import SerialExecutor
from lavakv.evaluation.records import read_records
from lavakv.models.load import load
from tests.evaluation import madeup


@pytest.fixture(scope="module")
def loaded(model_dir):
    return load(model_dir, dtype="float32", device="cpu")


def _ids(loaded, words: str) -> torch.Tensor:
    text = f"<user> {words}word7 word8 <assistant>"
    return loaded.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids


def _words(index: int) -> str:
    return "".join(f"word{(index + 1) * each % madeup.NUM_WORDS} " for each in range(60 + 10 * index))


def test_every_prompt_meets_the_full_cache_and_every_pair_longest_prompt_first(whole) -> None:
    records = read_records(whole)
    pairs = [("full cache", "all"), *product(("lava", "snapkv"), ("20", "30"))]
    assert [(r["example"], r["policy"], r["budget"]) for r in records] == [
        (example, *pair) for example in ("e2", "e1", "e0") for pair in pairs
    ]


@pytest.mark.parametrize(("policy", "budget"), [(None, None), ("lava", 20), ("snapkv", 30)])
def test_a_record_is_what_generate_gives_alone(policy, budget, whole, loaded) -> None:
    ids = _ids(loaded, _words(1))
    name = ("e1", policy or "full cache", str(budget or "all"))
    record = next(r for r in read_records(whole) if (r["example"], r["policy"], r["budget"]) == name)
    cache = lavakv.LavaCache(loaded.model.config, budget=budget or ids.shape[1], policy=policy or "lava", window=8)
    with lavakv.enabled(loaded.model):
        output = loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), past_key_values=cache, max_new_tokens=6, do_sample=False
        )
    new, budgets = output[0, ids.shape[1] :], cache.budgets()
    assert record["prediction"] == loaded.tokenizer.decode(new, skip_special_tokens=True)
    assert record["new_tokens"] == len(new)
    assert record["head_entries"] == budgets.head_entries[:, 0].tolist()
    assert record["kept_entries"] == sum(record["layer_entries"]) == record["tokens_per_head"] * 6
    assert record["kept_fraction"] == pytest.approx((budget or ids.shape[1]) / ids.shape[1])
    assert record["estimated_loss"] == pytest.approx(float(budgets.estimated_loss.sum()))
    assert record["kv_bytes"] == record["kept_entries"] * 2 * 8 * 4
    assert record["full_kv_bytes"] == ids.shape[1] * 6 * 2 * 8 * 4
    assert record["prompt_tokens"] == ids.shape[1]
    assert record["prompt_hash"] == hashlib.sha256(struct.pack(f"<{ids.shape[1]}q", *ids[0].tolist())).hexdigest()


def test_scores_are_the_task_s_and_provenance_is_told(whole, model_dir) -> None:
    for record in read_records(whole):
        assert record["score"] == madeup.echo().score(["word1 word2"], [], record["prediction"])
        assert set(record["seconds"]) == {"prefill", "fill", "decode", "score"}
        run = record["run"]
        assert (run["model"], run["dtype"], run["device"]) == (model_dir, "float32", "cpu")
        assert run["versions"]["torch"]
        assert run["arguments"]["budgets"] == [20, 30]
    stored = json.loads((whole / "run.json").read_text())
    assert stored["run"] == record["run"]
    assert stored["tasks"] == {"echo": "paper-1"}


def test_one_prefill_a_prompt(model_dir, tmp_path) -> None:
    executor = SerialExecutor(load(model_dir, dtype="float32", device="cpu"))
    lengths = []
    executor._loaded.model.register_forward_pre_hook(
        lambda *call: lengths.append(call[1][0].shape[1]), with_kwargs=True
    )
    madeup.run(madeup.settings(model_dir), tmp_path, executor=executor)
    assert [length for length in lengths if length > 1] == [84, 74, 64]


def test_query_agnostic_compresses_the_context_alone(model_dir, tmp_path, loaded) -> None:
    records = madeup.run(madeup.settings(model_dir, mode="query-agnostic", budgets=(20,)), tmp_path)
    record = next(r for r in records if (r["example"], r["policy"]) == ("e0", "lava"))
    ids = _ids(loaded, _words(0))
    context, question = ids[:, :61], ids[:, 61:]
    cache = lavakv.LavaCache(loaded.model.config, budget=20, window=8)
    with lavakv.enabled(loaded.model), torch.no_grad():
        loaded.model(context, past_key_values=cache)
        assert record["head_entries"] == cache.budgets().head_entries[:, 0].tolist()
        first = int(loaded.model(question, past_key_values=cache).logits[0, -1].argmax())
    assert record["prediction"].split()[0] == loaded.tokenizer.decode([first])
    assert (record["mode"], record["prompt_tokens"]) == ("query-agnostic", 64)


def test_stop_rules_end_answers(model_dir, tmp_path) -> None:
    plain = madeup.run(madeup.settings(model_dir), tmp_path / "plain")
    stop = plain[0]["prediction"].split()[2]
    stopped = madeup.run(madeup.settings(model_dir), tmp_path / "strings", madeup.echo(stop_strings=(stop,)))
    assert stopped[0]["new_tokens"] == 3
    assert plain[0]["prediction"].startswith(stopped[0]["prediction"])


def test_a_record_says_what_a_replay_of_its_prompt_took(model_dir, tmp_path) -> None:
    """Once for both budgets; policies without one say nothing of it."""
    madeup.run(madeup.settings(model_dir, policies=("lava", "kvzip")), tmp_path, madeup.echo(num_examples=1))
    records = read_records(tmp_path)
    assert [record["policy"] for record in records] == ["full cache", "lava", "lava", "kvzip", "kvzip"]
    replays = [record["seconds"].get("replay") for record in records]
    assert replays[:3] == [None] * 3
    assert replays[3] == replays[4] > 0
    assert records[3]["kept_entries"] == records[1]["kept_entries"]
