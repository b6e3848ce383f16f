"""Both modes from one prefill, KL divergence beside scores, and rows that leave a batch."""

from __future__ import annotations

from typing import get_type_hints

import pytest
import torch

import lavakv
from lavakv.evaluation import runner
from lavakv.evaluation.examine import examine
from lavakv.evaluation.executor import Assignment, Part
from lavakv.evaluation.greedy import StopRule, greedy_rows
from lavakv.evaluation.prompt import Prompt
from lavakv.evaluation.record import Record, Seconds
from lavakv.evaluation.records import read_records
from lavakv.evaluation.runner import PromptRunner
from lavakv.evaluation.sweep import Sweep
from lavakv.evaluation.variant import Variant
from lavakv.models.load import LoadedModel
from tests.evaluation import madeup
from tests.hf import zoo

VARIANTS = [Variant(policy, window=8, keep=keep) for policy in ("lava", "h2o", "residual") for keep in (0.5, 0.2)]


@pytest.fixture(scope="module")
def both(model_dir, tmp_path_factory) -> list[dict]:
    out = tmp_path_factory.mktemp("both") / "run"
    madeup.run(madeup.settings(model_dir, mode="both", kl=5), out)
    return read_records(out)


def _measured(record: dict) -> dict:
    """All of a record that another run must repeat to the last bit."""
    return {name: value for name, value in record.items() if name not in ("seconds", "run", "shares_prefill")}


def test_both_modes_hold_the_records_of_each_alone(both, model_dir, tmp_path) -> None:
    for mode in ("query-aware", "query-agnostic"):
        madeup.run(madeup.settings(model_dir, mode=mode, kl=5), tmp_path / mode)
        alone = read_records(tmp_path / mode)
        ours = [dict(record) for record in both if record["mode"] == mode]
        assert len(alone) == len(ours) == 15
        for mine, other in zip(ours, alone, strict=True):
            assert mine.pop("kl_nats") == pytest.approx(other.pop("kl_nats"), rel=1e-3, abs=1e-6)
            assert mine.pop("estimated_loss") == pytest.approx(other.pop("estimated_loss"), rel=1e-4)
            assert _measured(mine) == _measured(other)


def test_every_field_on_request_is_declared(model_dir, tmp_path) -> None:
    records = madeup.run(madeup.settings(model_dir, policies=("kvzip",), mode="both", kl=5), tmp_path)
    record = next(each for each in records if (each["mode"], each["policy"]) == ("query-agnostic", "kvzip"))
    assert record.keys() == get_type_hints(Record).keys()
    assert record["seconds"].keys() == get_type_hints(Seconds).keys()


def test_one_prefill_serves_both_modes(model_dir, tmp_path, monkeypatch) -> None:
    read, original = [], runner.record
    monkeypatch.setattr(runner, "record", lambda *args: read.append(args[1].shape[1]) or original(*args))
    records = madeup.run(madeup.settings(model_dir, mode="both"), tmp_path)
    by_mode = {(record["example"], record["mode"]): record for record in records}
    assert read == [by_mode[example, "query-aware"]["prompt_tokens"] for example in ("e2", "e1", "e0")]
    for example in ("e0", "e1", "e2"):
        whole, cut = by_mode[example, "query-aware"], by_mode[example, "query-agnostic"]
        assert whole["seconds"]["prefill"] == cut["seconds"]["prefill"] > 0
        assert (whole.get("shares_prefill"), cut["shares_prefill"]) == (None, True)


def _prompts(num_tokens: int, num_asked: int) -> tuple[Prompt, Prompt]:
    ids = zoo.prompt(num_tokens)[0].to(torch.int32)
    about = {"task": "t", "example": "e", "length": None, "depth": None}
    return (
        Prompt({**about, "mode": "query-aware"}, ids, ids[:0], 7),
        Prompt({**about, "mode": "query-agnostic"}, ids[:-num_asked], ids[-num_asked:], 7),
    )


class _Tokenizer:
    def decode(self, tokens: list[int], **_: object) -> str:
        return " ".join(map(str, tokens))


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "qwen3_next"])
def test_distances_are_those_of_a_sweep_and_answers_the_same_without_them(kind) -> None:
    model = zoo.tiny(kind, torch.float64)
    loaded, prompts = LoadedModel("tiny", model, _Tokenizer()), _prompts(70, 6)
    parts = [Part(prompt, [[Variant(None)], VARIANTS]) for prompt in prompts]
    plain = [measured.outcome for _, measured in examine(loaded, Assignment(parts))]
    found = [(prompt, measured.outcome) for prompt, measured in examine(loaded, Assignment(parts, 5))]
    assert [outcome["prediction"] for outcome in plain] == [outcome["prediction"] for _, outcome in found]
    assert all("kl_nats" not in outcome for outcome in plain)
    for prompt in prompts:
        questions = [prompt.question.long()[None]] if len(prompt.question) else []
        sweep = Sweep(model, prompt.context.long()[None], questions, 5)
        expected = {(one.variant.label, one.variant.budget_label): one for one in sweep.run(VARIANTS)}
        for outcome in [outcome for own, outcome in found if own is prompt]:
            if outcome["budget"] == "all":
                assert outcome["kl_nats"] < 1e-9
                continue
            comparison = expected[outcome["policy"], outcome["budget"]]
            assert outcome["kl_nats"] == pytest.approx(comparison.kl_nats, rel=1e-6, abs=1e-12)
            assert outcome["top1_agreement"] == pytest.approx(comparison.top1_agreement)


@pytest.mark.parametrize(("kind", "shared"), [("llama", True), ("gemma3_text", None)])
def test_layers_without_a_past_to_cut_are_read_again(kind, shared) -> None:
    loaded, prompts = LoadedModel("tiny", zoo.tiny(kind, torch.float64), _Tokenizer()), _prompts(70, 6)
    parts = [Part(prompt, [VARIANTS]) for prompt in prompts]
    found = [(prompt, measured.outcome) for prompt, measured in examine(loaded, Assignment(parts))]
    alone = [measured.outcome for part in parts for _, measured in examine(loaded, Assignment([part]))]
    for (prompt, outcome), alone_outcome in zip(found, alone, strict=True):
        assert outcome.pop("shares_prefill", None) == (shared if prompt.mode == "query-agnostic" else None)
        assert outcome["prediction"] == alone_outcome["prediction"]
        assert outcome["head_entries"] == alone_outcome["head_entries"]


def test_an_interrupted_run_of_both_modes_resumes(both, model_dir, tmp_path) -> None:
    settings = madeup.settings(model_dir, mode="both", kl=5)
    madeup.run(settings, tmp_path)
    file = tmp_path / "records.jsonl"
    for num_left in (3, 12, 16, 27):
        file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:num_left]))
        madeup.run(settings, tmp_path)
        assert list(map(_measured, read_records(tmp_path))) == list(map(_measured, both))


def test_a_run_of_an_older_version_resumes(model_dir, tmp_path) -> None:
    settings = madeup.settings(model_dir)
    assert not {"kl", "max_new_tokens"} & settings.arguments().keys()
    assert madeup.settings(model_dir, kl=3, max_new_tokens=9).arguments()["kl"] == 3


def test_answers_are_no_longer_than_asked(model_dir, tmp_path) -> None:
    records = madeup.run(madeup.settings(model_dir, max_new_tokens=2), tmp_path)
    assert {record["new_tokens"] for record in records} == {2}


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_rows_that_ended_leave_and_the_others_go_on_as_alone(kind) -> None:
    model = zoo.tiny(kind, torch.float64)
    prompt_runner = PromptRunner(model, zoo.prompt(70))
    question = zoo.prompt(5, seed=3)

    def ended(tokens: list[int]) -> bool:
        return len(tokens) >= 1 + sum(tokens[:2]) % 9

    stop, sizes = StopRule(ended=ended), []

    def together(variants: list[Variant]) -> list[list[int]]:
        with lavakv.enabled(model), torch.no_grad():
            cache = prompt_runner.fill(variants)
            logits = prompt_runner.feed(cache, question.expand(len(variants), -1))[:, -1]
            rows = greedy_rows(model, cache, logits, 12, stop)
        sizes.append(cache.batch_size)
        return rows

    alone = [together([variant])[0] for variant in VARIANTS]
    assert together(VARIANTS) == alone
    assert len(set(map(len, alone))) > 2
    assert sizes[-1] < len(VARIANTS)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("store", ["ragged", "masked"])
def test_a_cache_goes_back_to_a_mark_and_selects_rows(kind, store) -> None:
    model = zoo.tiny(kind, torch.float64)
    prompt_runner = PromptRunner(model, zoo.prompt(70))
    variants = [Variant("lava", window=8, keep=keep, store=store) for keep in (0.5, 0.3, 0.2)]
    more, other = zoo.prompt(4, seed=5), zoo.prompt(3, seed=6)
    with lavakv.enabled(model), torch.no_grad():
        cache = prompt_runner.fill(variants)
        first = prompt_runner.feed(cache, more.expand(3, -1), 4)
        mark, lengths = cache.mark(), cache.lengths()
        prompt_runner.feed(cache, other.expand(3, -1), 3)
        cache.rewind(mark)
        assert torch.equal(cache.lengths(), lengths)
        expected = prompt_runner.feed(cache, other.expand(3, -1), 3)
        again = prompt_runner.fill(variants)
        assert torch.equal(prompt_runner.feed(again, more.expand(3, -1), 4), first)
        kept = again.kept_positions(again.layer_indices[0], 2, 0)
        again.select([2, 0])
        assert again.batch_size == 2
        assert torch.equal(again.lengths(), lengths[:, [2, 0]])
        assert torch.equal(again.kept_positions(again.layer_indices[0], 0, 0), kept)
        assert torch.equal(again.budgets().head_entries, cache.budgets().head_entries[:, [2, 0]])
        rows = prompt_runner.feed(again, other.expand(2, -1), 3)
    assert torch.allclose(rows, expected[[2, 0]], rtol=1e-9, atol=1e-9)
