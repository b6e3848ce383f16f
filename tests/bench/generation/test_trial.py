"""`generate` in one setting: what is measured, what is not and why, what the time leaves out."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from lavakv.bench.generation import trial as module
from lavakv.bench.generation.call import Call
from lavakv.bench.generation.configurations import COMPILED, EAGER, GRAPHS, MEANINGS, num_generations, unavailable
from lavakv.bench.generation.limit import COMPILE_SECONDS, TimeLimit
from lavakv.bench.generation.record import SETUP_STEPS
from lavakv.bench.settings import BenchSettings
from tests.bench.generation.conftest import NUM_TOKENS, MakeTrial, ModelTime

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NUM_NEW = 1 + SETUP_STEPS + NUM_TOKENS


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_cpu_measures_what_runs_there_and_names_the_rest(make_trial: MakeTrial, heard) -> None:
    record = make_trial(2, 2).run(compiled=True)
    assert set(record.decoding) == set(EAGER)
    assert set(record.first_token) == {"full", "lavakv"}
    assert set(record.not_available) == {*GRAPHS, *COMPILED}
    assert all(reason.startswith("no CUDA device") for reason in record.not_available.values())
    assert record.skipped == {}
    line = json.loads(json.dumps(record.as_dict(), allow_nan=False))
    assert (line["tokens"], line["batch_size"], line["budget"], line["num_tokens"]) == (120, 2, 48, NUM_TOKENS)
    for name, own in line["decoding"].items():
        assert own["tokens_per_second"] == pytest.approx(2 / own["seconds_per_token"])
        floor = line["physical_floor"]["decode_full_seconds" if name == "full" else "decode_compressed_seconds"]
        assert own["ratio_to_floor"] == pytest.approx(own["seconds_per_token"] / floor)
        assert own["num_replays"] == 0
    assert set(line["ratios"]) == {"lavakv_to_full", "lavakv_to_cut", "first_token_lavakv_to_full"}
    assert len(heard.pieces) == num_generations(BenchSettings(compiled=True), CPU)
    assert sum("not available: no CUDA device" in text for text in heard.lines) == 4


def test_each_figure_is_said_as_soon_as_it_is_known(make_trial: MakeTrial, heard) -> None:
    make_trial().run()
    events = heard.events
    after_full = events.index("generating: full")
    assert events[after_full + 1] == "say"
    assert events.index("generating: cut") == after_full + 2


def test_times_are_generates_own(make_trial: MakeTrial, model_time: ModelTime) -> None:
    record = make_trial().run()
    assert {own.seconds for own in record.first_token.values()} == {10}
    assert {name: own.seconds_per_token for name, own in record.decoding.items()} == dict.fromkeys(EAGER, 0.25)


def test_a_larger_batch_is_repeated_from_what_was_read(make_trial: MakeTrial, model_time: ModelTime) -> None:
    trial = make_trial(batch_size=3, read_batch=1)
    record = trial.run()
    assert record.first_token == {}, "no batch of three was read"
    assert record.decoding["full"].kv_bytes == 3 * (120 + NUM_NEW) * 2 * 3 * 2 * 16 * 4
    assert record.decoding["full"].tokens_per_second == 12
    assert model_time.forwards.count(120) == 4, "a warm-up and one prompt each for the full cache and for lavakv"


def test_what_one_configuration_decodes_does_not_reach_the_next(make_trial: MakeTrial) -> None:
    trial = make_trial()
    first = trial._call("lavakv")
    before = trial._reading.lavakv.filled.cache.get_seq_length()
    again = trial._call("lavakv")
    assert before == 120
    assert first.output.equal(again.output)
    full = trial._call("full")
    assert trial._call("full").output.equal(full.output)
    assert trial._reading.full.filled.cache.get_seq_length() == 120


def test_time_that_is_over_skips_everything_and_reads_nothing(make_trial: MakeTrial, model_time: ModelTime) -> None:
    record = make_trial(limit=TimeLimit(1.0)).run()
    assert model_time.forwards == []
    assert record.decoding == {}
    assert {"first token: full", "first token: lavakv", *EAGER} <= set(record.skipped)
    assert record.skipped["full"].endswith("1 s left")


def test_compiling_is_skipped_alone_if_only_it_takes_too_long(make_trial: MakeTrial, monkeypatch) -> None:
    monkeypatch.setattr(module, "unavailable", lambda *_: None)
    monkeypatch.setattr(module.GenerateTrial, "_call", lambda *_: _call())
    now = [0.0]
    trial = make_trial(limit=TimeLimit(COMPILE_SECONDS, clock=lambda: now[0]))
    for name in ("full", "lavakv"):
        trial.first_token(name)
    for name in MEANINGS:
        trial.decode(name)
    assert set(trial.record.skipped) == set(COMPILED)
    assert {"lavakv_graph", "cut_graph", *EAGER} <= set(trial.record.decoding)


def _call(**changes) -> Call:
    seconds = [0.1] * NUM_NEW
    call = Call(seconds, torch.zeros(1, 150, dtype=torch.int64), 1000, 5000, 300, NUM_NEW - 2, 1, None, [])
    return replace(call, **changes)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("lavakv_graph", {"num_replays": 0, "warnings": ["experts wait"]}, "decoded without a graph: experts wait"),
        ("lavakv_graph", {"num_replays": 0, "refusal": "no memory"}, "decoded without a graph: no memory"),
        ("cut_graph", {"num_replays": 0}, "decoded without a graph"),
        ("full_static", {"num_compiled": 0}, "decoded without compiling"),
    ],
)
def test_a_fallback_is_never_reported_as_the_real_thing(name, changes, reason, make_trial, monkeypatch) -> None:
    monkeypatch.setattr(module, "unavailable", lambda *_: None)
    monkeypatch.setattr(module.GenerateTrial, "_call", lambda *_: _call(**changes))
    trial = make_trial()
    trial.decode(name)
    assert trial.record.decoding == {}
    assert trial.record.not_available == {name: reason}


def test_text_in_a_graph_is_compared_with_text_without(make_trial: MakeTrial, monkeypatch, heard) -> None:
    tokens = torch.arange(150)[None]
    other = tokens.clone()
    other[0, -1] = 0
    calls = {"lavakv": _call(output=tokens), "lavakv_graph": _call(output=other)}
    monkeypatch.setattr(module, "unavailable", lambda *_: None)
    monkeypatch.setattr(module.GenerateTrial, "_call", lambda _, name: calls[name])
    trial = make_trial()
    for name in calls:
        trial.decode(name)
    assert trial.record.same_tokens == {"lavakv_graph": pytest.approx(1 - 1 / NUM_NEW)}
    assert any("90.9% of the new tokens are those without a graph" in line for line in trial.record.lines())


@pytest.mark.parametrize(
    ("error", "reason"),
    [(torch.OutOfMemoryError("tried to allocate"), "out of memory"), (ValueError("no. Really"), "ValueError: no")],
)
def test_others_that_fail_are_named_and_the_rest_goes_on(error, reason, make_trial, monkeypatch) -> None:
    original = module.GenerateTrial._call

    def call(self, name):
        if name == "cut":
            raise error
        return original(self, name)

    monkeypatch.setattr(module.GenerateTrial, "_call", call)
    record = make_trial().run()
    assert record.not_available["cut"] == reason
    assert set(record.decoding) >= {"full", "lavakv"}


def test_a_failure_of_lavakv_is_raised_unless_memory_is_out(make_trial: MakeTrial, monkeypatch) -> None:
    def fail(error: Exception) -> None:
        def call(self, name):
            raise error

        monkeypatch.setattr(module.GenerateTrial, "_call", call)

    fail(ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        make_trial().decode("lavakv")
    fail(torch.OutOfMemoryError())
    trial = make_trial()
    trial.decode("lavakv")
    assert trial.record.not_available == {"lavakv": "out of memory"}


def test_a_prompt_that_does_not_fit_is_not_read_again(make_trial: MakeTrial, monkeypatch, subject, heard) -> None:
    def broken(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("lavakv.bench.generation.reading.timed_generate", broken)
    record = make_trial().run()
    assert record.not_available["full"] == record.not_available["lavakv"] == "out of memory"
    assert set(record.decoding) == {"cut"}
    assert [piece for piece in heard.pieces if piece.startswith("generating")] == ["generating: cut"]


def test_what_is_available_where() -> None:
    assert all(unavailable(name, CUDA) is None for name in MEANINGS)
    assert [name for name in MEANINGS if unavailable(name, CPU) is None] == ["full", "full_random", "cut", "lavakv"]
    assert num_generations(BenchSettings(), CUDA) == 2 + len(EAGER) + len(GRAPHS)
