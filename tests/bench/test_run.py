"""A run on a tiny shape: the order of what is said, the records, what is refused."""

from __future__ import annotations

import json

import pytest
import torch

from lavakv.bench.generation.limit import Estimates
from lavakv.bench.layer_attention import LayerAttention
from lavakv.bench.record import HEADLINES, SettingRecord, final_line
from lavakv.bench.run import Bench
from lavakv.bench.settings import BenchSettings, Setting
from lavakv.bench.subject import Subject
from lavakv.bench.trial import Trial
from lavakv.errors import BudgetError, InputError, PolicyError
from tests.bench.conftest import Heard

QUICK = BenchSettings((200, 100), (48, 64), (2,), rounds=2, steps=2, prefill_rounds=2)


@pytest.fixture(scope="module")
def done(subject: Subject) -> tuple[Heard, Bench, list[SettingRecord]]:
    heard = Heard()
    bench = Bench(subject, QUICK, heard)
    return heard, bench, list(bench.run())


def test_floors_come_first(done) -> None:
    heard = done[0]
    assert heard.lines[0].startswith("machine: ")
    assert all(line.startswith("floor: ") for line in heard.lines[1:5])
    assert heard.lines[5] == "100 tokens, batch 2, budget 48:"
    measured = [event for event in heard.events if event != "say"]
    assert measured[0] == "the machine"
    assert heard.events.index(measured[1]) > 5, "something was measured on the model before the floors were said"


def test_work_is_announced_as_often_as_promised(done) -> None:
    heard, bench, _ = done
    assert len(heard.pieces) == bench.num_measurements


def test_records_tell_every_setting_the_largest_last(done) -> None:
    records = done[2]
    settings = [record.setting for record in records]
    assert [Setting(*(record.as_dict()[name] for name in Setting._fields)) for record in records] == settings
    assert settings == sorted(settings)
    assert len(set(settings)) == 4
    assert settings[-1] == (200, 2, 64)


def test_a_records_numbers_agree_with_each_other(done) -> None:
    for record in (typed.as_dict() for typed in done[2]):
        configurations = record["contenders"]
        assert set(configurations) == {"full", "cut", "lavakv", "masked"}
        token = 2 * record["batch_size"] * 3 * 2 * 16 * 4
        assert configurations["full"]["kv_bytes"] == record["tokens"] * token
        assert configurations["cut"]["kv_bytes"] == configurations["lavakv"]["kv_bytes"] == record["budget"] * token
        assert configurations["masked"]["kv_bytes"] > configurations["full"]["kv_bytes"]
        assert record["nbytes_ratio"] == 1.0 <= record["nbytes_ratio_after_decode"]
        assert record["entries_per_head"]["mean"] == record["budget"]
        assert all(record[name] is not None for name in HEADLINES)
        generated = record["generate"]
        assert {name: generated[name] for name in Setting._fields} == {name: record[name] for name in Setting._fields}
        assert {"full", "cut", "lavakv"} <= generated["decoding"].keys()
        assert set(generated["first_token"]) == {"full", "lavakv"}, "the batch itself is read"
        assert generated["physical_floor"] == record["physical_floor"]
        assert all(values["decode_seconds"] > 0 for values in configurations.values())
        peaks = [configurations[name]["prefill_peak_bytes"] for name in ("full", "lavakv")]
        saving = (peaks[0] - peaks[1]) / configurations["full"]["kv_bytes"]
        assert record["prefill_peak_saving"] == saving
        assert peaks[0] > configurations["full"]["kv_bytes"]


def test_lavakv_saves_peak_memory_on_a_long_prompt(done) -> None:
    assert done[2][-1].headlines.prefill_peak_saving > 0


def test_one_line_for_several_settings(done) -> None:
    _, bench, records = done
    line = json.loads(json.dumps(final_line(bench.about(), records), allow_nan=False))
    assert line["results"] == [record.as_dict() for record in records]
    assert {name: line[name] for name in HEADLINES} == {name: records[-1].as_dict()[name] for name in HEADLINES}
    assert (line["tokens"], line["batch_size"], line["budget"]) == (200, 2, 64)
    assert line["model"] == "tiny"
    assert line["weights"] == "random"
    assert line["policy"] == "lava"
    assert line["sdpa_backends"] is None  # that is for GPUs
    assert line["machine"]["read_bandwidth"] > 0


def test_one_line_for_one_setting(subject, heard) -> None:
    settings = BenchSettings((100,), (48,), rounds=1, steps=1, prefill_rounds=0, masked=False)
    bench = Bench(subject, settings, heard)
    records = list(bench.run())
    line = final_line(bench.about(), records)
    assert "results" not in line
    assert line["prefill_ratio"] is None
    assert line["decode_ratio_to_masked"] is None
    assert set(line["contenders"]) == {"full", "cut", "lavakv"}
    assert line["decode_ratio_to_floor"] > 0
    assert len(heard.pieces) == bench.num_measurements


def _fits(max_tokens: int):
    """A trial that runs out of memory beyond so many tokens."""

    class Small(Trial):
        def __init__(self, subject, settings, setting, listener) -> None:
            super().__init__(subject, settings, setting, listener)
            self._tokens = setting.tokens

        def run(self):
            if self._tokens > max_tokens:
                raise torch.OutOfMemoryError("tried to allocate much")
            return super().run()

    return Small


def test_a_setting_that_does_not_fit_is_left_out(subject, heard, monkeypatch) -> None:
    monkeypatch.setattr("lavakv.bench.run.Trial", _fits(100))
    settings = BenchSettings((100, 200), (48, 64), rounds=1, steps=1, prefill_rounds=1)
    bench = Bench(subject, settings, heard)
    records = list(bench.run())
    assert [(record.setting.tokens, record.setting.budget) for record in records] == [(100, 48), (100, 64)]
    missing = [{"tokens": 200, "batch_size": 1, "budget": budget, "part": "model"} for budget in (48, 64)]
    line = json.loads(json.dumps(final_line(bench.about(), records, bench.left_out)))
    assert line["left_out"] == missing
    assert line["tokens"] == 100
    assert sum(text == "  model: left out: out of memory" for text in heard.lines) == 2


def test_what_takes_longer_than_allowed_is_skipped(subject, heard, monkeypatch) -> None:
    monkeypatch.setattr(Estimates, "trial", lambda *_: estimates.pop(0))
    estimates = [1.0, 1000.0]
    settings = BenchSettings((100, 200), (48,), rounds=1, steps=1, prefill_rounds=0, masked=False, seconds=500)
    bench = Bench(subject, settings, heard)
    records = list(bench.run())
    assert [record.setting.tokens for record in records] == [100]
    (skipped,) = bench.skipped
    assert {name: skipped[name] for name in ("tokens", "part")} == {"tokens": 200, "part": "model"}
    assert skipped["reason"].startswith("takes about 1000 s, ")
    line = final_line(bench.about(), records, bench.left_out, bench.skipped)
    assert line["skipped"] == [skipped]
    assert line["time_limit"] == 500


def test_if_no_setting_fits_into_the_time_that_is_an_input_error(subject, heard) -> None:
    bench = Bench(subject, BenchSettings((100,), (48,), rounds=1, seconds=0.01), heard)
    with pytest.raises(InputError, match="time for at least one setting"):
        list(bench.run())


def test_generate_can_be_left_out(subject, heard) -> None:
    settings = BenchSettings((100,), (48,), rounds=1, steps=1, prefill_rounds=0, masked=False, generate=False)
    bench = Bench(subject, settings, heard)
    (record,) = bench.run()
    assert record.as_dict()["generate"] is None
    assert len(heard.pieces) == bench.num_measurements
    assert not any("generate" in line for line in heard.lines)


def test_attention_alone_may_not_fit(subject, heard, monkeypatch) -> None:
    def measure(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(LayerAttention, "measure", measure)
    settings = BenchSettings((100,), (48,), rounds=1, steps=1, prefill_rounds=0, attention_part=True)
    bench = Bench(subject, settings, heard)
    (record,) = bench.run()
    assert record.attention is None
    assert record.as_dict()["attention_part"] is None
    assert record.headlines.decode_ratio_to_full > 0
    assert bench.left_out == [{"tokens": 100, "batch_size": 1, "budget": 48, "part": "attention_part"}]


def test_if_nothing_fits_the_run_fails(subject, heard, monkeypatch) -> None:
    monkeypatch.setattr("lavakv.bench.run.Trial", _fits(0))
    bench = Bench(subject, BenchSettings((100,), (48,), rounds=1), heard)
    with pytest.raises(torch.OutOfMemoryError, match=r"nothing was measured: no setting fits\. Use fewer"):
        list(bench.run())


def test_the_model_is_as_it_was(subject, done) -> None:
    assert subject.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("settings", "error", "complaint"),
    [
        ({"tokens": (5000,)}, InputError, "at most 2048, the model's positions, got 5000"),
        ({"budgets": (20,)}, BudgetError, "more than the window of 32 tokens"),
        ({"policy": "nonsense"}, PolicyError, "policy"),
        ({"tokens": (0,)}, InputError, "tokens: expected at least 1"),
        ({"tokens": ()}, InputError, "tokens: expected at least 1"),
        ({"batch_sizes": (1, -1)}, InputError, "batch_sizes: expected at least 1"),
        ({"rounds": 0}, InputError, "rounds: expected at least 1"),
        ({"prefill_rounds": -1}, InputError, "prefill_rounds: expected at least 0"),
        ({"new_tokens": 0}, InputError, "new_tokens: expected at least 1"),
        ({"seconds": 0.0}, InputError, "seconds: expected a finite number above 0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(settings, error, complaint, subject, heard) -> None:
    with pytest.raises(error, match=complaint):
        Bench(subject, BenchSettings(**{"tokens": (300,), "budgets": (48,), **settings}), heard)
    assert heard.events == []


def test_unknown_shapes_and_attentions() -> None:
    with pytest.raises(InputError, match="shape: expected one of tiny"):
        Subject.shaped("llama-9", "auto", "cpu", None)
    with pytest.raises(InputError, match="attention: expected an attention implementation"):
        Subject.shaped("tiny", "auto", "cpu", "nonsense")


def test_random_weights_are_the_same_every_time(subject) -> None:
    again = Subject.shaped("tiny", "float32", "cpu", None)
    for one, other in zip(subject.model.parameters(), again.model.parameters(), strict=True):
        assert one.equal(other)
